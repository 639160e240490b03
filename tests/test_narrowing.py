"""What is finite in float64 is never made infinite, 0 or NaN in silence by the float32 in which it is used."""

import re
import warnings

import numpy as np
import pytest
import scipy.sparse

import xpmlp
from xpmlp import MLP, MLPClassifier, MLPRegressor
from xpmlp.backends import Place

pd = pytest.importorskip("pandas")

N = 40
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
LABELS = np.arange(N) % 2
NUMBERS = X[:, 0] - X[:, 1]
HUGE, TINY = 1e39, 1e-50  # beyond float32 on either side, and nothing special in float64

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

HELD = "In the validation set (X_val, y_val): "


def spoiled(factor):
    """X with one cell beyond float32 (a factor above 1), or with one column that float32 cannot tell from 0."""
    changed = X.copy()
    if factor > 1.0:
        changed[7, 1] = factor
    else:
        changed[:, 1] *= factor
    return changed


def classifier(**options):
    return MLPClassifier((4,), max_iter=3, random_state=0, dtype="float32", **options)


def regressor(**options):
    return MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0, dtype="float32", **options)


def net():
    return MLP([3, 4, 1], "tanh", "binary_cross_entropy", random_state=0, dtype="float32")


def sparse(values):
    return scipy.sparse.csr_matrix(values)


# What is called with inputs of float64 that the float32 of the model cannot hold.
DOORS = {
    "classifier.fit": lambda bad: classifier().fit(bad, LABELS),
    "classifier.partial_fit": lambda bad: classifier().partial_fit(bad, LABELS, classes=[0, 1]),
    "classifier.fit(X_val)": lambda bad: classifier().fit(X, LABELS, X_val=bad, y_val=LABELS),
    "classifier.predict": lambda bad: classifier().fit(X, LABELS).predict(bad),
    "classifier.predict_proba": lambda bad: classifier().fit(X, LABELS).predict_proba(bad),
    "classifier.score": lambda bad: classifier().fit(X, LABELS).score(bad, LABELS),
    "classifier.hidden_activations": lambda bad: classifier().fit(X, LABELS).hidden_activations(bad),
    "classifier.input_gradients": lambda bad: classifier().fit(X, LABELS).input_gradients(bad),
    "classifier.predict of many": lambda bad: classifier().fit(X, LABELS).predict(np.tile(bad, (60, 1))),
    "regressor.fit": lambda bad: regressor().fit(bad, NUMBERS),
    "regressor.predict": lambda bad: regressor().fit(X, NUMBERS).predict(bad),
    "regressor.predict of a frame": lambda bad: regressor().fit(pd.DataFrame(X), NUMBERS).predict(pd.DataFrame(bad)),
    "MLP.fit": lambda bad: net().fit(bad, LABELS, epochs=1),
    "MLP.fit(validation_data)": lambda bad: net().fit(X, LABELS, epochs=1, validation_data=(bad, LABELS)),
    "MLP.forward": lambda bad: net().forward(bad),
    "MLP.predict": lambda bad: net().predict(bad),
    "MLP.evaluate": lambda bad: net().evaluate(bad, LABELS),
    "explain_step": lambda bad: xpmlp.explain_step(net(), bad, LABELS),
    "diagnose": lambda bad: xpmlp.diagnose(net(), bad, LABELS),
}
SPARSE_DOORS = {
    "classifier.fit of a sparse matrix": lambda bad: classifier().fit(sparse(bad), LABELS),
    "classifier.predict of a sparse matrix": lambda bad: classifier().fit(X, LABELS).predict(sparse(bad)),
}
TARGET_DOORS = {
    "regressor.fit(y)": lambda bad: regressor().fit(X, bad),
    "regressor.partial_fit(y)": lambda bad: regressor().partial_fit(X, bad),
    "regressor.fit(y_val)": lambda bad: regressor().fit(X, NUMBERS, X_val=X, y_val=bad),
    "MLP.fit(y)": lambda bad: MLP([3, 4, 1], random_state=0, dtype="float32").fit(X, bad, epochs=1),
    "MLP.evaluate(y)": lambda bad: MLP([3, 4, 1], random_state=0, dtype="float32").evaluate(X, bad),
}


@pytest.mark.parametrize("door", [*DOORS, *SPARSE_DOORS])
def test_inputs_beyond_float32_are_told(door):
    call = (DOORS | SPARSE_DOORS)[door]
    with pytest.raises(ValueError, match=re.escape("reaches 1e+39, and float32 ends at 3.4e+38")) as told:
        call(spoiled(HUGE))
    assert str(told.value).removeprefix(HELD).startswith(("X ", "x ", "validation_data[0] "))


@pytest.mark.parametrize("door", DOORS)
def test_a_column_that_float32_cannot_tell_from_0_is_told(door):
    with pytest.raises(ValueError, match=re.escape("which float32 cannot tell from 0; scale it")):
        DOORS[door](spoiled(TINY))


@pytest.mark.parametrize("door", TARGET_DOORS)
@pytest.mark.parametrize(
    ("factor", "sentence"), [(HUGE, "and float32 ends at 3.4e+38"), (TINY, "which float32 cannot tell from 0")]
)
def test_targets_that_float32_does_not_hold_are_told(door, factor, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as told:
        TARGET_DOORS[door](factor * (2.0 + NUMBERS))
    assert str(told.value).removeprefix(HELD).startswith(("y ", "a column of y"))


def test_what_is_0_stays_0_and_what_is_small_beside_its_column_may_become_it():
    small = np.column_stack([np.zeros(N), np.where(np.arange(N) % 2, TINY, 1.0), X[:, 2]])
    assert np.isfinite(net().predict(small)).all()
    assert np.isfinite(classifier().fit(small, LABELS).predict_proba(small)).all()


def test_float64_holds_all_of_it():
    for factor in (HUGE, TINY):
        bad = spoiled(factor)
        assert np.isfinite(MLP([3, 4, 1], "tanh", random_state=0).predict(bad)).all()
        wide = MLPClassifier((4,), max_iter=1, random_state=0).fit(X, LABELS)
        assert np.isfinite(wide.predict_proba(bad)).all()


def test_nothing_is_lost_on_the_way_to_another_library(backend):
    far = backend.place.asarray(np.asarray([1.0, HUGE])) if backend.float64 else np.asarray([1.0, HUGE])
    with pytest.raises(ValueError, match=re.escape("x reaches 1e+39, and float32 ends at 3.4e+38; scale it first.")):
        xpmlp.to_backend(far, backend.name, device=backend.place.device_name, dtype="float32")
    infinite = xpmlp.to_backend(np.asarray([1.0, np.inf]), "numpy", dtype="float32")  # which it was before
    assert np.isinf(infinite[1])


# --- Weights ---

WEIGHTS = RNG.integers(1, 5, size=N).astype(float)
# Powers of two, so that a product with them rounds nothing.
SIZES = [2.0**-1000, 2.0**-170, 2.0**-70, 2.0**70, 2.0**126, 2.0**1000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_weights_of_any_size_train_as_their_shares_do(kind, size):
    y, w = (LABELS if kind == "classifier" else NUMBERS), WEIGHTS
    plain, scaled = (
        # The penalty is alpha / sum(w): with alpha as many times as large it is the same.
        (classifier if kind == "classifier" else regressor)(alpha=scale, batch_size=16).fit(
            X, y, sample_weight=scale * w, X_val=X, y_val=y, sample_weight_val=scale * w
        )
        for scale in (1.0, size)
    )
    # The weights are divided by their largest, which rounds: 1e-7 a number, over 9 steps.
    for ours, theirs in zip(scaled.coefs_, plain.coefs_, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scaled.validation_loss_curve_, plain.validation_loss_curve_, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_weights_of_any_size_judge_what_is_held_out_block_by_block(size, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(Place, "block_bytes", 4 * 4 * 7)  # seven rows at once
    curves = []
    for scale in (1.0, size):
        model = regressor(alpha=0.0, backend="torch").fit(
            X, NUMBERS, X_val=X, y_val=NUMBERS, sample_weight_val=scale * WEIGHTS
        )
        curves.append(model.validation_loss_curve_)
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)  # of float32


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_weights_of_any_size_train_an_mlp_as_their_shares_do(optimizer, size, backend):
    if not backend.float64:
        pytest.skip("no float64 to narrow from")
    x, y = backend.put(X), backend.put(LABELS[:, None].astype(float))
    more = {"epochs": 3, "optimizer": optimizer} | ({} if optimizer == "lbfgs" else {"batch_size": 16})
    place = {"backend": backend.name, "device": backend.place.device_name, "dtype": "float32"}
    fits = [MLP([3, 4, 1], "tanh", "binary_cross_entropy", random_state=0, **place) for _ in range(2)]
    for made, scale in zip(fits, (1.0, size), strict=True):
        made.fit(x, y, sample_weight=backend.put(scale * WEIGHTS), l2=scale, **more)
    plain, scaled = (backend.get(made.parameters) for made in fits)
    np.testing.assert_allclose(scaled, plain, rtol=1e-3, atol=1e-4)
    begun = MLP([3, 4, 1], "tanh", "binary_cross_entropy", random_state=0, **place)
    assert np.max(np.abs(scaled - backend.get(begun.parameters))) > 1e-3  # it has moved


# --- Going on ---


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
@pytest.mark.parametrize("how", ["partial_fit", "warm_start"])
def test_a_model_keeps_its_dtype_when_it_goes_on_with_another(how, kind, dtype):
    y = LABELS if kind == "classifier" else NUMBERS
    made = (
        MLPClassifier((4,), random_state=0)
        if kind == "classifier"
        else MLPRegressor(hidden_layer_sizes=(4,), random_state=0)
    )
    made.set_params(max_iter=2, warm_start=how == "warm_start")
    other = "float64" if dtype == "float32" else "float32"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for wide in (dtype, other):
            if how == "partial_fit":
                made.partial_fit(X.astype(wide), y, **({"classes": [0, 1]} if kind == "classifier" else {}))
            else:
                made.fit(X.astype(wide), y)
    assert made.dtype_ == dtype
    assert {W.dtype for W in (*made.coefs_, *made.intercepts_)} == {np.dtype(dtype)}
