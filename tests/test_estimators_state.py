"""An estimator's state knows what it is a state of: the second training goes on from the first, whatever was between.

Two runs are compared: one on an estimator that lived through something (a copy, a pickle, a file, a checkpoint, an
interrupt), and the same on one that did not.
"""

import contextlib
import copy
import pickle
import signal
import warnings
from dataclasses import replace

import numpy as np
import pytest
import sklearn.neural_network as theirs
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xpmlp
from xpmlp import MLPClassifier, MLPRegressor
from xpmlp.optim.optimizers import OPTIMIZERS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
Y = {MLPClassifier: (X[:, 0] + X[:, 1] > 0) * 1 + (X[:, 2] > 1), MLPRegressor: X[:, 0] - X[:, 1] ** 2}
BOTH = pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])


def make(kind, **parameters):
    given = {"hidden_layer_sizes": (5,), "max_iter": 3, "batch_size": 20, "random_state": 0, "warm_start": True}
    return kind(**given | parameters)


def interrupt_at(epoch):
    def callback(_, now, __):
        if now == epoch:
            signal.raise_signal(signal.SIGINT)

    return callback


def fail_at(epoch):
    def callback(_, now, __):
        if now == epoch:
            raise OSError("disk full")

    return callback


# --- What an estimator may live through between two trainings ---


def nothing(model, _):
    return model


def through_a_file(model, folder):
    model.save(folder / "model.safetensors")
    return xpmlp.load(folder / "model.safetensors")


def a_failed_fit(model, _):
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full_like(X, np.nan), Y[type(model)])
    return model


def a_refused_parameter(model, _):
    alpha = model.alpha
    with pytest.raises(ValueError, match="alpha"):
        model.set_params(alpha=-1.0).fit(X, Y[type(model)])
    return model.set_params(alpha=alpha)


def predictions(model, _):
    model.predict(X)
    model.score(X, Y[type(model)])
    return model


WHOLE = {  # nothing is lost: any training goes on as if nothing had been
    "nothing": nothing,
    "copy": lambda model, _: copy.copy(model),
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "predictions": predictions,
    "a failed fit": a_failed_fit,
    "a refused parameter": a_refused_parameter,
    "set_params to what they are": lambda model, _: model.set_params(**model.get_params()),
}
SLIM = {  # the vectors of the optimizer are left behind after `fit`, which begins with new ones in any case
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "file": through_a_file,
}


def warm(model):
    model.fit(X, Y[type(model)])


def partial(model):
    classes = {"classes": np.arange(3)} if isinstance(model, MLPClassifier) else {}
    model.partial_fit(X, Y[type(model)], **classes)


def longer(model):
    model.set_params(max_iter=5).fit(X, Y[type(model)])


def in_float32(model):
    model.fit(X.astype(np.float32), Y[type(model)])


def watching(model):
    model.set_params(early_stopping=True, n_iter_no_change=2, tol=10.0, max_iter=9).fit(X, Y[type(model)])


def watching_the_loss(model):
    model.set_params(early_stopping=True, scoring="loss", n_iter_no_change=2, tol=10.0, max_iter=9)
    model.fit(X, Y[type(model)])


def with_lbfgs(model):
    model.set_params(solver="lbfgs").fit(X, Y[type(model)])


def with_sgd(model):
    model.set_params(solver="sgd", learning_rate="invscaling").fit(X, Y[type(model)])


def stronger_penalty(model):
    model.set_params(alpha=0.3, n_iter_no_change=1, max_iter=9).fit(X, Y[type(model)])


FIRST = {
    "fit": warm,
    "early stopping": watching,
    "lbfgs": with_lbfgs,
    "sgd": with_sgd,
    "partial_fit": partial,
}
SECOND = {
    "fit": warm,
    "more epochs": longer,
    "float32 data": in_float32,
    "early stopping": watching,
    "early stopping by the loss": watching_the_loss,
    "lbfgs": with_lbfgs,
    "sgd": with_sgd,
    "another alpha": stronger_penalty,
    "partial_fit": partial,
}
NOT_AFTER = {("early stopping", "partial_fit"), ("lbfgs", "partial_fit")}  # partial_fit knows neither


def assert_same_state(ours, expected):
    for name in ("coefs_", "intercepts_"):
        for one, other in zip(getattr(ours, name), getattr(expected, name), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    for name in (
        *("n_iter_", "t_", "loss_", "best_loss_", "loss_curve_", "validation_scores_", "best_validation_score_"),
        *("validation_loss_curve_", "n_outputs_", "out_activation_", "n_layers_", "n_features_in_"),
    ):
        assert hasattr(ours, name) == hasattr(expected, name), name
        np.testing.assert_equal(getattr(ours, name, None), getattr(expected, name, None), err_msg=name)


@BOTH
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("way", [*WHOLE, *SLIM])
def test_the_second_training_goes_on_whatever_was_between(kind, first, second, way, tmp_path):
    if (first, second) in NOT_AFTER:
        pytest.skip("partial_fit has no early stopping and no lbfgs")
    if way in SLIM and second == "partial_fit" and first != "partial_fit":
        pytest.skip("after fit the optimizer's vectors are left behind: see the next tests")
    lived, expected = make(kind), make(kind)
    for model in (lived, expected):
        FIRST[first](model)
    lived = (WHOLE | SLIM)[way](lived, tmp_path)
    for model in (lived, expected):
        SECOND[second](model)
    assert_same_state(lived, expected)


@BOTH
@pytest.mark.parametrize("first", FIRST)
def test_a_clone_begins_anew(kind, first):
    model = make(kind)
    FIRST[first](model)
    again, fresh = (
        clone(model),
        make(kind, **{k: v for k, v in model.get_params().items() if k != "hidden_layer_sizes"}),
    )
    assert not hasattr(again, "coefs_")
    for each in (again, fresh):
        each.set_params(early_stopping=False).fit(X, Y[kind])
    assert_same_state(again, fresh)


@BOTH
@pytest.mark.parametrize("warm_start", [False, True])
def test_without_warm_start_a_second_fit_is_the_first(kind, warm_start):
    model = make(kind, warm_start=warm_start)
    warm(model)
    first = [w.copy() for w in model.coefs_]
    warm(model)
    assert (len(model.loss_curve_) == 6) == warm_start
    assert all(np.array_equal(a, b) for a, b in zip(first, model.coefs_, strict=True)) != warm_start


# --- Going on where training was stopped ---

STOPS = {"Ctrl-C": interrupt_at, "a callback that fails": fail_at}


def stopped(model, how, epoch, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(OSError):
            model.set_params(callbacks=STOPS[how](epoch)).fit(X, Y[type(model)], **arguments)
    return model.set_params(callbacks=None)


@BOTH
@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize(
    "parameters", [{}, {"early_stopping": True}, {"solver": "lbfgs"}, {"solver": "sgd", "learning_rate": "invscaling"}]
)
def test_what_was_stopped_is_kept_and_resumed_it_is_the_unbroken_run(kind, how, parameters, tmp_path):
    parameters = {"max_iter": 6, "warm_start": False} | parameters
    unbroken = make(kind, **parameters).fit(X, Y[kind])
    model = stopped(make(kind, **parameters), how, 2, checkpoint=tmp_path)
    assert model.n_iter_ == 2
    resumed = make(kind, **parameters).fit(X, Y[kind], checkpoint=tmp_path, resume=True)
    assert_same_state(resumed, unbroken)


@BOTH
@pytest.mark.parametrize("how", STOPS)
def test_a_stopped_partial_fit_keeps_its_epoch(kind, how):
    model, expected = make(kind), make(kind)
    for each in (model, expected):
        partial(each)
    with warnings.catch_warnings(), contextlib.suppress(OSError):
        warnings.simplefilter("ignore")
        partial(model.set_params(callbacks=STOPS[how](1)))
    partial(model.set_params(callbacks=None))
    for _ in range(2):
        partial(expected)
    assert model.t_ == expected.t_ == 180
    np.testing.assert_array_equal(model.coefs_[0], expected.coefs_[0])


@BOTH
def test_another_run_in_the_folder_is_refused_unless_told(kind, tmp_path):
    make(kind).fit(X, Y[kind], checkpoint=tmp_path)
    kept = (tmp_path / "last.safetensors").read_bytes()
    make(kind, max_iter=2, verbose=False).fit(X, Y[kind], checkpoint=tmp_path)  # the same run, shorter
    others = {
        "other samples": (make(kind), X[::-1].copy(), Y[kind]),
        "other weights of the network": (make(kind, hidden_layer_sizes=(4,)), X, Y[kind]),
        "another alpha": (make(kind, alpha=0.5), X, Y[kind]),
        "another seed": (make(kind, random_state=1), X, Y[kind]),
        "another kind": (make(MLPRegressor if kind is MLPClassifier else MLPClassifier), X, (X[:, 0] > 0) * 1),
    }
    kept = (tmp_path / "last.safetensors").read_bytes()
    for name, (model, x, y) in others.items():
        with pytest.raises(ValueError, match=r"holds the checkpoint of another run.*or say overwrite=True"):
            model.fit(x, y, checkpoint=tmp_path)
        assert not hasattr(model, "coefs_"), name
        assert (tmp_path / "last.safetensors").read_bytes() == kept
    for model, x, y in others.values():
        model.fit(x, y, checkpoint=tmp_path, overwrite=True)
    assert (tmp_path / "last.safetensors").read_bytes() != kept


# --- Beside scikit-learn ---


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("way", ["pickle", "file", "deepcopy"])
def test_after_unpickling_invscaling_goes_on_as_scikit_learns_does(way, momentum, tmp_path):
    options = {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1, "momentum": momentum}
    ours = make(MLPRegressor, **options)
    other = theirs.MLPRegressor(
        **{k: v for k, v in ours.get_params().items() if k in theirs.MLPRegressor().get_params()}
    )
    for model in (other, ours):
        model.fit(X, Y[MLPRegressor])
        for _ in range(2 * (momentum > 0)):  # after partial_fit a pickle keeps the velocities, too
            model.partial_fit(X, Y[MLPRegressor])
    other = pickle.loads(pickle.dumps(other))
    ours = (WHOLE | SLIM)[way](ours, tmp_path)
    for _ in range(2):
        for model in (other, ours):
            model.partial_fit(X, Y[MLPRegressor])
        np.testing.assert_allclose(ours.coefs_[0], other.coefs_[0], rtol=1e-9)
    for model in (other, ours):
        model.fit(X, Y[MLPRegressor])
    np.testing.assert_allclose(ours.coefs_[0], other.coefs_[0], rtol=1e-9)


def test_after_a_slim_pickle_partial_fit_takes_the_rate_that_was_reached_with_new_velocities():
    options = {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1, "momentum": 0.9}
    model = make(MLPRegressor, **options)
    warm(model)
    rates = []
    again = pickle.loads(pickle.dumps(model))
    for each in (model, again):
        each.set_params(callbacks=lambda _, __, logs: rates.append(logs["learning_rate"]))
        partial(each)
    assert rates[0] == rates[1] == pytest.approx(0.1 / (1 + 180) ** 0.5)


def test_what_another_function_of_the_same_name_remembers_is_not_gone_on_with():
    adam = OPTIMIZERS["adam"]

    def halved(g, slots, rates, **parameters):
        change, slots = adam.step(0.5 * g, slots, rates, **parameters)
        return change, slots

    mine = replace(adam, step=halved)
    model, expected = make(MLPRegressor), make(MLPRegressor)
    partial(model)
    partial(expected)
    expected._carried = None
    for each in (model, expected):
        each.set_params(solver=mine)
        partial(each)
    np.testing.assert_array_equal(model.coefs_[0], expected.coefs_[0])
    same, unbroken = make(MLPRegressor, solver=mine), make(MLPRegressor, solver=mine)
    for each in (same, unbroken):
        partial(each)
    same.set_params(solver=replace(adam, step=halved))  # another object, the same functions
    for each in (same, unbroken):
        partial(each)
    np.testing.assert_array_equal(same.coefs_[0], unbroken.coefs_[0])


# --- What is said, and where ---

SAID = {
    "max_iter": (ConvergenceWarning, {}),
    "lbfgs": (ConvergenceWarning, {"solver": "lbfgs"}),
    "batch_size clipped": (UserWarning, {"batch_size": 1000, "tol": 10.0, "n_iter_no_change": 1, "max_iter": 50}),
    "an interrupt": (UserWarning, {"callbacks": interrupt_at(2), "max_iter": 9}),
}


@BOTH
@pytest.mark.parametrize("what", SAID)
def test_a_warning_that_is_an_error_leaves_what_was_learned(kind, what):
    category, parameters = SAID[what]
    shown, raised = make(kind, **parameters), make(kind, **parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warm(shown)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(category):
            warm(raised)
    assert_same_state(raised, shown)


CALLS = {
    "fit": lambda model: model.fit(X, Y[type(model)]),
    "a pipeline": lambda model: make_pipeline(StandardScaler(), model).fit(X, Y[type(model)]),
    "cross-validation": lambda model: cross_val_score(model, X, Y[type(model)], cv=2),
    "a search": lambda model: GridSearchCV(model, {"alpha": [0.1]}, cv=2).fit(X, Y[type(model)]),
}
SPOKEN = {
    **{name: parameters for name, (_, parameters) in SAID.items() if name != "an interrupt"},
    "no such backend": {"backend": "cupy", "max_iter": 50, "tol": 10.0, "n_iter_no_change": 1},
}


@BOTH
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("what", SPOKEN)
def test_a_warning_points_to_the_line_of_the_user(kind, call, what):
    if what == "no such backend" and "cupy" in xpmlp.available_backends():
        pytest.skip("CuPy works here")
    model = make(kind, **SPOKEN[what])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        CALLS[call](model)
    assert {warning.filename for warning in said} == {__file__}
    assert {warning.lineno for warning in said} == {CALLS[call].__code__.co_firstlineno}


def test_a_column_for_y_is_told_at_the_line_of_the_user():
    model = make(MLPRegressor, max_iter=50, tol=10.0, n_iter_no_change=1)
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed") as said:
        model.fit(X, X[:, :1])
    assert [warning.filename for warning in said] == [__file__]
