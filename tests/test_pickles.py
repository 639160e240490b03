"""Pickles and copies of estimators: those of another version, those that go on, and what they name."""

import copy
import io
import json
import pickle
import pickletools
import re
import typing
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import InconsistentVersionWarning

import xpmlp
from xpmlp import MLP, MLPClassifier, MLPRegressor
from xpmlp.io.moved import MOVED
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.initializers import INITIALIZERS

GOLDEN = Path(__file__).parent / "golden" / "pickles"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
ESTIMATORS = [name for name in EXPECTED["predict"] if name != "mlp"]

X = np.random.default_rng(0).normal(size=(60, 4))
y = X[:, 0] + X[:, 1] > 0


def fitted(cls=MLPClassifier, **parameters):
    given = {"hidden_layer_sizes": (5,), "max_iter": 4, "random_state": 0} | parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(**given).fit(X, y if cls is MLPClassifier else X[:, 0])


def pickled_copy(estimator):
    return pickle.loads(pickle.dumps(estimator))


def test_a_pickled_mlp_of_before_the_modules_moved_predicts():
    net = pickle.loads((GOLDEN / "mlp.pickle").read_bytes())
    np.testing.assert_allclose(net.predict(np.asarray(EXPECTED["X"])), EXPECTED["predict"]["mlp"], rtol=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_pickle_of_before_the_modules_moved_predicts_and_learns_on(name):
    with pytest.warns(InconsistentVersionWarning, match=r"0\.1\.0 or before"):
        model = pickle.loads((GOLDEN / f"{name}.pickle").read_bytes())
    x = np.asarray(EXPECTED["X"])
    expected = np.asarray(EXPECTED["predict"][name])
    if expected.dtype.kind == "f":  # another BLAS may sum in another order
        np.testing.assert_allclose(model.predict(x), expected, rtol=1e-9)
    else:
        np.testing.assert_array_equal(model.predict(x), expected)
    model.partial_fit(x, model.predict(x) if name != "regressor-quantiles" else x[:, 0])
    assert model.t_ == pytest.approx({"classifier-partial": 45}.get(name, 205))


def test_a_name_that_is_gone_says_which_version_wrote_the_pickle():
    text = b"cxpmlp.activations\nno_such_function\n."
    with pytest.raises(ImportError, match=r"of xpmlp 0\.1\.0, which wrote this pickle.*with that version"):
        pickle.loads(text)


@pytest.mark.parametrize("old", MOVED)
def test_a_moved_module_has_the_names_of_the_new_one(old):
    new = __import__(MOVED[old], fromlist=["x"])
    moved = __import__(old, fromlist=["x"])
    public = [name for name in vars(new) if not name.startswith("_")]
    assert all(getattr(moved, name) is getattr(new, name) for name in public)


def test_a_pickle_of_another_version_warns_and_one_of_this_version_does_not(monkeypatch):
    model = fitted()
    monkeypatch.setattr(xpmlp, "__version__", "0.0.7")
    old = pickle.dumps(model)
    monkeypatch.undo()
    with pytest.warns(InconsistentVersionWarning, match=r"MLPClassifier from version 0\.0\.7"):
        pickle.loads(old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickled_copy(model)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
def test_a_pickle_names_the_class_and_nothing_else_of_xpmlp(cls, partial):
    model = fitted(cls)
    if partial:
        model.partial_fit(X, y if cls is MLPClassifier else X[:, 0])
    named = set()

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            named.add((module, name))
            return super().find_class(module, name)

    again = Reader(io.BytesIO(pickle.dumps(model))).load()
    assert {name for module, name in named if module.startswith("xpmlp")} == {cls.__name__}
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_takes_the_step_that_the_original_takes(how):
    model = fitted()
    twin = how(model)
    model.partial_fit(X, y)
    twin.partial_fit(X, y)
    for ours, theirs in zip(model.coefs_, twin.coefs_, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def saved_and_loaded(estimator, folder):
    estimator.save(folder / "model.safetensors")
    return xpmlp.load(folder / "model.safetensors")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("way", ["pickle", "file", "deepcopy"])
def test_a_warm_start_waits_on_as_the_original_does(way, early_stopping, tmp_path):
    # A tol that nothing reaches: what has been waited, and the best, decide when training stops.
    parameters = {"early_stopping": early_stopping, "warm_start": True, "n_iter_no_change": 3, "tol": 10.0}
    model = fitted(**parameters, max_iter=3)
    twin = {"pickle": pickled_copy, "deepcopy": copy.deepcopy}.get(way, lambda it: saved_and_loaded(it, tmp_path))(
        model
    )
    for each in (model, twin):
        each.set_params(max_iter=20).fit(X, y)
    assert twin.n_iter_ == model.n_iter_ < 4
    assert (twin.best_loss_, twin.best_validation_score_) == (model.best_loss_, model.best_validation_score_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_parameters_that_a_callback_sets_are_for_the_next_fit():
    def meddle(estimator, _, __):
        estimator.set_params(early_stopping=True, scoring="loss", verbose=True)

    model = fitted(callbacks=meddle)
    assert model.best_validation_score_ is None
    assert model.best_loss_ == min(model.loss_curve_)


@pytest.mark.parametrize(
    "model",
    [fitted(early_stopping=True), fitted(MLPRegressor), fitted(solver="lbfgs")],
    ids=["early", "plain", "lbfgs"],
)
def test_every_fitted_attribute_is_declared(model):
    declared = typing.get_type_hints(type(model))
    shown = {name for name in vars(model) if name.endswith("_") and not name.startswith("__")}
    assert shown <= set(declared)
    private = {name for name in vars(model) if name.startswith("_") and not name.startswith("_sk")}
    assert private - {"_kind", "_weights"} <= set(declared)


def named_by(data):
    """The functions and classes that a pickle names."""
    found, strings = set(), []
    for code, argument, _ in pickletools.genops(data):
        if code.name in ("SHORT_BINUNICODE", "BINUNICODE", "UNICODE"):
            strings.append(argument)
        elif code.name == "STACK_GLOBAL":
            found.add(".".join(strings[-2:]))
        elif code.name == "GLOBAL":
            found.add(argument.replace(" ", "."))
    return found


def test_the_pickle_of_a_network_names_the_class_and_no_function_of_the_package():
    net = MLP([3, 4, 2], ["tanh", "softmax"], "cross_entropy", initializer="he_normal", random_state=0)
    net.fit(X[:, :3], np.eye(2)[y.astype(int)], epochs=2)
    data = pickle.dumps(net)
    assert {name for name in named_by(data) if name.startswith("xpmlp")} == {"xpmlp.mlp.mlp.MLP"}
    for twin in (pickle.loads(data), copy.deepcopy(net), copy.copy(net)):
        np.testing.assert_array_equal(twin.parameters, net.parameters)
        assert (twin.network.layout, twin.network.activations) == (net.network.layout, net.network.activations)
        assert repr(twin.network.loss) == repr(net.network.loss)
        assert twin.initializer == net.initializer
        assert (twin.place, twin.history) == (net.place, net.history)
        ours, theirs = (it.fit(X[:, :3], np.eye(2)[y.astype(int)], epochs=1) for it in (copy.deepcopy(net), twin))
        np.testing.assert_array_equal(ours.parameters, theirs.parameters)


def test_a_network_of_functions_of_ones_own_is_pickled_with_them():
    net = MLP([3, 4, 1], [(np.tanh, tanh_derivative), "identity"], random_state=0)
    twin = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(twin.predict(X[:, :3]), net.predict(X[:, :3]))


def test_a_network_pickled_by_another_version_says_so(monkeypatch):
    net = MLP([3, 4, 1], random_state=0)
    with monkeypatch.context() as patch:
        patch.setattr(xpmlp, "__version__", "0.0.7")
        data = pickle.dumps(net)
    with pytest.warns(UserWarning, match=re.escape("pickled by version 0.0.7 of xpmlp")):
        pickle.loads(data)


def tanh_derivative(z, a):
    return 1.0 - a * a


ROWS = [
    xpmlp.optimizer("adam", beta_1=0.8),
    xpmlp.optimizer("sgd"),
    xpmlp.optimizer("adamw", weight_decay=0.3),
    xpmlp.schedule("step", every=3),
    xpmlp.loss("huber", delta=2.0),
    xpmlp.loss("cross_entropy", label_smoothing=0.1),
    ACTIVATIONS["gelu"],
    INITIALIZERS["he_normal"],
]


@pytest.mark.parametrize("row", ROWS, ids=repr)
def test_a_row_of_a_table_is_pickled_by_its_name(row):
    data = pickle.dumps(row)
    named = {name for name in named_by(data) if name.startswith("xpmlp")}
    assert len(named) == 1
    assert named.pop().rpartition(".")[2] == type(row).__name__.lower()  # xpmlp.optim.optimizers.optimizer
    for twin in (pickle.loads(data), copy.deepcopy(row)):
        assert repr(twin) == repr(row)
        for number in ("parameters", "weight_decay", "learning_rate"):
            assert getattr(twin, number, None) == getattr(row, number, None)


def test_a_row_of_ones_own_is_pickled_with_its_functions():
    own = replace(ACTIVATIONS["tanh"], derivative=tanh_derivative)
    twin = pickle.loads(pickle.dumps(own))
    assert twin.derivative is tanh_derivative
    assert twin.name == "tanh"
