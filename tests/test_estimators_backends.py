"""The estimators on every backend: following X, or told where to work; all that goes beyond scikit-learn."""

from __future__ import annotations

import pickle
import warnings

import array_api_compat
import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

import xpmlp
from xpmlp import MLPClassifier, MLPRegressor, shards
from xpmlp.backends import Place, backend_of
from xpmlp.estimators import prediction

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::xpmlp.backends.PrecisionWarning"
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
Y = {
    "binary": (X[:, 0] + X[:, 1] > 0).astype(int),
    "multiclass": np.digitize(X[:, 0], [-0.5, 0.5]),
    "strings": np.array(["low", "middle", "high"])[np.digitize(X[:, 0], [-0.5, 0.5])],
    "multilabel": (X[:, :3] > 0).astype(int),
    "number": X[:, 0] - X[:, 1] ** 2,
    "numbers": X[:, :2] * 2.0,
}
SMALL = {"hidden_layer_sizes": 8, "max_iter": 4, "batch_size": 20, "random_state": 0, "learning_rate_init": 0.01}


def make(kind, **options):
    return (MLPRegressor if kind.startswith("number") else MLPClassifier)(**{**SMALL, **options})


def loss_or_nan(backend, **options):
    return {"backend": backend.name, "device": backend.place.device_name, **options}


def close(backend, actual, desired):
    tolerance = 1e-10 if backend.float64 else 2e-4
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "kind, solver",
    [
        ("binary", "adam"),
        ("multiclass", "lbfgs"),
        ("multilabel", "adam"),
        ("number", "lbfgs"),
        ("numbers", "adam"),
    ],
)
def test_everything_follows_x(backend, kind, solver):
    here, y = backend.put(X), Y[kind]
    ours = make(kind, solver=solver).fit(here, backend.put(y))
    reference = make(kind, solver=solver).fit(X, y)
    assert (ours.backend_, ours.device_, ours.dtype_) == (
        backend.name,
        backend.place.device_name,
        backend.dtypes[0],
    )
    for w, expected in zip(ours.coefs_, reference.coefs_, strict=True):
        close(backend, backend.get(w), expected)
    answer = backend.get(ours.predict(here))
    assert answer.shape == reference.predict(X).shape
    if not kind.startswith("number"):
        np.testing.assert_array_equal(answer, reference.predict(X))
        close(backend, backend.get(ours.predict_proba(here)), reference.predict_proba(X))
        backend.get(ours.predict_log_proba(here))
    assert ours.score(here, backend.put(y)) == pytest.approx(reference.score(X, y), abs=1e-3)
    assert isinstance(ours.score(here, y), float)


def test_labels_that_are_strings_stay_on_the_host(backend):
    ours = make("strings").fit(backend.put(X), Y["strings"])
    assert isinstance(ours.predict(backend.put(X)), np.ndarray)
    assert set(ours.predict(backend.put(X))) <= {"low", "middle", "high"}


def test_told_where_to_work_it_answers_where_the_caller_is(backend):
    ours = make("multiclass", **loss_or_nan(backend)).fit(X, Y["multiclass"])
    assert ours.backend_ == backend.name
    assert all(backend_of(w) is backend.place.backend for w in ours.coefs_)
    at_home = ours.predict_proba(X)
    assert isinstance(at_home, np.ndarray)
    close(backend, at_home, make("multiclass").fit(X, Y["multiclass"]).predict_proba(X))
    close(backend, backend.get(ours.predict_proba(backend.put(X))), at_home)
    assert isinstance(ours.predict(X), np.ndarray)
    backend.get(ours.predict(backend.put(X)))
    assert ours.score(backend.put(X), backend.put(Y["multiclass"])) == ours.score(X, Y["multiclass"])


def test_one_namespace_in_fit_and_predict_unless_told(backend):
    if backend.name == "numpy":
        pytest.skip("a model of NumPy's takes any array of the CPU's: see the next test")
    ours, elsewhere = make("binary").fit(backend.put(X), backend.put(Y["binary"])), X
    for method in ("predict", "predict_proba", "predict_log_proba", "hidden_activations"):
        with pytest.raises(ValueError, match=rf"MLPClassifier.{method}\(\) must use the same namespace"):
            getattr(ours, method)(elsewhere)


@pytest.mark.parametrize("what", ["binary", "number"])
def test_a_model_of_numpys_takes_any_array_of_the_cpu_and_answers_in_numpys(backend, what, monkeypatch):
    ours = make(what).fit(X, Y[what])
    elsewhere = backend.put(X)
    if not backend.place.device_name.lower().startswith("cpu"):  # a device of its own, a GPU or its stand-in
        with pytest.raises(ValueError, match="the same namespace"):
            ours.predict(elsewhere)
        return
    methods = ["predict", "hidden_activations", "input_gradients"]
    for method in methods + ["predict_proba", "predict_log_proba"] * (what == "binary"):
        answer = getattr(ours, method)(elsewhere)
        assert type(answer) is np.ndarray
        # Measured at most 4e-6: where there is no float64, X was rounded on the way.
        np.testing.assert_allclose(answer, getattr(ours, method)(X), rtol=1e-4, atol=1e-6)
    assert ours.score(elsewhere, backend.put(Y[what])) == pytest.approx(ours.score(X, Y[what]), rel=1e-4)
    # Where scikit-learn dispatches, its estimators refuse mixed libraries.
    monkeypatch.setattr(prediction, "get_config", lambda: {"array_api_dispatch": True})
    if backend.name != "numpy":
        with pytest.raises(ValueError, match="the same namespace"):
            ours.predict(elsewhere)


def test_a_pickle_holds_numpy_only_and_lives_on(backend):
    following = make("number").fit(backend.put(X), backend.put(Y["number"]))
    expected = backend.get(following.predict(backend.put(X)))
    state = following.__getstate__()
    assert all(type(w) is np.ndarray for w in state["coefs_"] + state["intercepts_"])
    revived = pickle.loads(pickle.dumps(following))
    assert revived.backend_ == "numpy"
    np.testing.assert_allclose(revived.predict(backend.get(backend.put(X))), expected, rtol=1e-4, atol=1e-5)

    told_so = pickle.loads(pickle.dumps(make("number", **loss_or_nan(backend)).fit(X, Y["number"])))
    assert isinstance(told_so.predict(X), np.ndarray)
    assert told_so.backend_ == backend.name  # back where it was asked to be


def test_partial_fit_goes_on_bit_for_bit_after_unpickling(backend):
    def train(interrupted):
        ours = make("binary", **loss_or_nan(backend), dropout=0.2)
        for step in range(4):
            ours.partial_fit(X, Y["binary"], classes=[0, 1])
            if interrupted and step == 1:
                ours = pickle.loads(pickle.dumps(ours))
        return xpmlp.to_numpy(ours.coefs_[0])

    np.testing.assert_array_equal(train(interrupted=True), train(interrupted=False))


@pytest.mark.parametrize("matrix, solver", [(sparse.csr_array, "adam"), (sparse.csc_matrix, "lbfgs")])
def test_a_sparse_matrix_is_the_dense_one(backend, matrix, solver):
    x = np.where(np.abs(X) < 0.7, 0.0, X)
    options = loss_or_nan(backend, solver=solver, dropout=0.0)
    dense, thin = make("binary", **options).fit(x, Y["binary"]), make("binary", **options).fit(matrix(x), Y["binary"])
    close(backend, thin.predict_proba(matrix(x)), dense.predict_proba(x))
    close(backend, thin.predict_proba(x), dense.predict_proba(matrix(x)))


BEYOND = {
    "balanced": ("multiclass", {"class_weight": "balanced"}),
    "a dict of weights": ("strings", {"class_weight": {"low": 3.0, "high": 0.5}}),
    "a list of activations": ("binary", {"hidden_layer_sizes": (6, 5), "activation": ["gelu", "tanh"]}),
    "an own activation": ("number", {"activation": (lambda z: z * z, lambda z, a: 2.0 * z)}),
    "an initializer": ("number", {"initializer": "he_normal"}),
    "another optimizer": ("number", {"solver": "adamw"}),
    "an optimizer with parameters": ("number", {"solver": xpmlp.optimizer("rmsprop", rho=0.9)}),
    "lion": ("binary", {"solver": "lion", "learning_rate_init": 1e-3}),
    "a schedule": ("number", {"learning_rate": "cosine"}),
    "a schedule with parameters": ("number", {"learning_rate": xpmlp.schedule("step", every=1, gamma=0.5)}),
    "an own schedule": ("number", {"learning_rate": lambda progress: 1.0 / (1.0 + progress.epoch)}),
    "dropout": ("binary", {"dropout": 0.3}),
    "dropout by layer": ("binary", {"hidden_layer_sizes": (6, 5), "dropout": [0.0, 0.4]}),
    "clipping": ("number", {"clip_norm": 0.01}),
    "label smoothing": ("multiclass", {"label_smoothing": 0.1}),
    "absolute error": ("number", {"loss": "absolute_error"}),
    "huber": ("number", {"loss": xpmlp.loss("huber", delta=0.5)}),
    "a quantile": ("number", {"loss": "pinball", "quantile": 0.9}),
    "quantiles": ("number", {"loss": "pinball", "quantile": (0.9, 0.1, 0.5)}),
    "an own loss": (
        "number",
        {"loss": (lambda y, yhat: (yhat - y)[..., 0] ** 4, lambda y, yhat: 4.0 * (yhat - y) ** 3)},
    ),
    "early stopping": ("binary", {"early_stopping": True, "max_iter": 6}),
    "early stopping by the loss": ("multiclass", {"early_stopping": True, "scoring": "loss", "max_iter": 6}),
    "early stopping by a scorer": ("binary", {"early_stopping": True, "scoring": "neg_log_loss", "max_iter": 6}),
    "float32": ("number", {"dtype": "float32"}),
}


@pytest.mark.parametrize("what", BEYOND)
def test_what_goes_beyond_is_the_same_on_every_backend(backend, what):
    if backend.id == "jax-x32" and not what.startswith(("early", "quantiles")):
        pytest.skip("JAX compiles for seconds, and with x64 it runs all of these")
    kind, options = BEYOND[what]
    reference = make(kind, **options).fit(X, Y[kind])
    ours = make(kind, **loss_or_nan(backend), **options).fit(X, Y[kind])
    assert ours.backend_ == backend.name
    plain = make(kind).fit(X, Y[kind])
    tolerance = 1e-9 if ours.dtype_ == "float64" else 2e-3
    np.testing.assert_allclose(ours.loss_curve_, reference.loss_curve_, rtol=tolerance)
    np.testing.assert_allclose(xpmlp.to_numpy(ours.coefs_[0]), reference.coefs_[0], rtol=tolerance, atol=tolerance)
    if what != "float32":  # and it does something: a parameter that nobody reads would pass all of the above
        same = len(plain.loss_curve_) == len(ours.loss_curve_) and np.allclose(plain.loss_curve_, ours.loss_curve_)
        assert not same or "early_stopping" in options


def test_the_hidden_layers_and_the_slopes_come_back_to_the_caller(backend):
    options = {"hidden_layer_sizes": (6, 5), "activation": "tanh"}
    reference = make("multiclass", **options).fit(X, Y["multiclass"])
    ours = make("multiclass", **options).fit(backend.put(X), backend.put(Y["multiclass"]))
    here = backend.put(X)
    close(backend, backend.get(ours.hidden_activations(here)), reference.hidden_activations(X))
    close(backend, backend.get(ours.hidden_activations(here, layer=0)), reference.hidden_activations(X, layer=0))
    close(backend, backend.get(ours.input_gradients(here)), reference.input_gradients(X))
    slopes = backend.get(ours.input_gradients(here, backend.put(Y["multiclass"])))
    close(backend, slopes, reference.input_gradients(X, Y["multiclass"]))


def test_weights_that_somebody_assigns_are_what_predicts(backend):
    ours = make("number", **loss_or_nan(backend)).fit(X, Y["number"])
    ours.coefs_ = [np.zeros_like(xpmlp.to_numpy(w)) for w in ours.coefs_]
    ours.intercepts_[-1] = np.array([7.0])
    close(backend, ours.predict(X), np.full(60, 7.0))
    ours.partial_fit(X, Y["number"])
    assert np.max(np.abs(ours.predict(X) - 7.0)) < 1.0


def test_the_same_place_and_dtype_all_the_way(backend):
    for dtype in backend.dtypes:
        here = backend.put(X, dtype)
        ours = make("number").fit(here, backend.put(Y["number"], dtype))
        for array in (*ours.coefs_, *ours.intercepts_, ours.predict(here)):
            assert str(array.dtype).rpartition(".")[2] == dtype
            assert array_api_compat.device(array) == backend.device


def test_a_backend_that_cannot_run_falls_back_and_says_so(monkeypatch):
    from xpmlp.backends import State, probe

    if probe("cupy").state is State.OK:
        pytest.skip("CuPy works here")
    ours = make("binary", backend="cupy")
    with pytest.warns(xpmlp.BackendFallbackWarning, match="Going on with NumPy"):
        ours.fit(X, Y["binary"])
    assert (ours.backend_, ours.device_) == ("numpy", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.predict(X)  # said once is enough
    with xpmlp.config_context(fallback="error"), pytest.raises(xpmlp.BackendUnavailableError):
        make("binary", backend="cupy").fit(X, Y["binary"])


def test_a_device_without_float64_is_told_once():
    pytest.importorskip("array_api_strict")
    ours = make("number", backend="array_api_strict", device="no_float64")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours.fit(X, Y["number"]).predict(X)
    assert [w.category for w in caught] == [xpmlp.PrecisionWarning]
    assert ours.dtype_ == "float32"


def test_classes_are_taken_where_the_labels_are(backend):
    put = backend.place.asarray
    x, y, classes = put(X.astype("float32")), put(Y["binary"].astype("int32")), put(np.arange(2, dtype="int32"))
    ours = MLPClassifier((4,), random_state=0).partial_fit(x, y, classes=classes)
    np.testing.assert_array_equal(ours.classes_, [0, 1])


@pytest.mark.parametrize("kind", ["binary", "number"])
def test_a_part_of_every_shard_is_judged_wherever_training_is(backend, kind):
    options = {"early_stopping": True, "validation_fraction": 0.3}
    data = shards.from_arrays(X.astype(np.float64 if backend.float64 else np.float32), Y[kind], rows=20)
    there = make(kind, **loss_or_nan(backend, **options)).fit(data)
    here = make(kind, **options).fit(data)
    close(backend, there.validation_loss_curve_, here.validation_loss_curve_)
    close(backend, there.validation_scores_, here.validation_scores_)


def test_what_is_predicted_and_held_out_comes_to_the_device_block_by_block(backend, monkeypatch):
    monkeypatch.setattr(Place, "block_bytes", 8 * 5 * 16)  # 16 samples of the widest layer
    sizes, asarray = [], Place.asarray

    def watched(place, array, dtype=None):
        sizes.append(len(array) if np.ndim(array) == 2 and array.shape[1] == X.shape[1] else 0)
        return asarray(place, array, dtype)

    ours = MLPRegressor(hidden_layer_sizes=(5,), max_iter=2, **loss_or_nan(backend), random_state=0)
    ours.set_params(early_stopping=True, validation_fraction=0.4)
    n = len(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours.fit(X, Y["number"])
    monkeypatch.setattr(Place, "asarray", watched)
    together = ours.predict(X)
    assert max(sizes, default=16) == 16  # NumPy's are there already
    assert sum(sizes) in (0, n)
    monkeypatch.setattr(Place, "block_bytes", 2**26)
    close(backend, together, ours.predict(X))


@pytest.mark.parametrize("method", ["predict", "hidden_activations"])
def test_memory_that_runs_out_in_a_prediction_is_told(method, monkeypatch):
    ours = make("number").fit(X, Y["number"])

    def full(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("xpmlp.runners.passes.InPlacePass.__call__", full)
    with pytest.raises(MemoryError, match="not enough memory on NumPy on cpu for predicting: CUDA out of memory"):
        getattr(ours, method)(X.tolist())
