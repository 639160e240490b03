"""Every public argument through every odd type: an answer or a sentence of ours, and nothing changed.

A bad call is one argument of one function, and one odd value for it. What a library says of its own business (RAW) is
no sentence of ours, whatever its class.
"""

import re
import warnings
from dataclasses import fields

import joblib
import numpy as np
import pytest
import scipy.sparse

import xpmlp
from xpmlp import MLP, MLPClassifier, MLPRegressor
from xpmlp.network import Layout, Network

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of numpy.matrix

RAW = re.compile(
    r"DType|promoted|not supported between|setting an array element|float\(\) argument|Cannot cast|gufunc|ufunc|matmul|"
    r"has no attribute|aten::|unsupported operand|object is not (iterable|subscriptable|callable)|"
    r"could not convert string to float: '[^']*'$|must be real number, not|unhashable|not aligned|broadcast"
)
N = 24
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
LABELS = np.arange(N) % 2
NUMBERS = X[:, 0]


class Weird:
    """An object that is nothing in particular."""

    def __repr__(self):
        return "<weird>"


def a_generator():
    yield from X


# Odd values for an argument that is to be an array of numbers, of n rows.
ARRAYS = {
    "None": lambda: None,
    "text": lambda: "circles",
    "bytes": lambda: b"circles",
    "a number": lambda: 3.0,
    "a dict": lambda: {"a": X[:, 0]},
    "an empty dict": dict,
    "a set": lambda: {1.0, 2.0},
    "a generator": a_generator,
    "a lazy frame": lambda: pl.DataFrame(X).lazy(),
    "a matrix": lambda: np.asmatrix(X),
    "a masked array": lambda: np.ma.masked_invalid(np.where(X > 1.0, np.nan, X)),
    "dates": lambda: np.array(["2020-01-01"] * N, dtype="M8[D]"),
    "a column of dates": lambda: pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "d": pd.date_range("2020", periods=N)}),
    "durations": lambda: np.ones((N, 3), dtype="m8[s]"),
    "not a time": lambda: np.full((N, 3), np.datetime64("NaT")),
    "a structured array": lambda: np.zeros(N, dtype=[("a", "f8"), ("b", "f8")]),
    "complex numbers": lambda: X + 1j,
    "NaN": lambda: np.where(X > 1.0, np.nan, X),
    "infinity": lambda: np.where(X > 1.0, np.inf, X),
    "objects": lambda: np.full((N, 3), Weird(), dtype=object),
    "None among numbers": lambda: np.array([[1.0, None, 2.0]] * N, dtype=object),
    "words": lambda: np.full((N, 3), "a"),
    "ragged lists": lambda: [[1.0, 2.0, 3.0], [1.0, 2.0]] * (N // 2),
    "nothing": lambda: np.zeros((0, 3)),
    "no columns": lambda: np.zeros((N, 0)),
    "three axes": lambda: np.zeros((N, 3, 2)),
    "one axis too few": lambda: np.zeros(3),
    "a type": lambda: np.ndarray,
    "an object": Weird,
    "a function": lambda: len,
    "too few rows": lambda: X[:2],
    "a class": lambda: MLP,
}

# Odd values for an argument that is a setting.
SETTINGS = {
    "None": lambda: None,
    "text": lambda: "no such thing",
    "a negative number": lambda: -1,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "a list": lambda: [1, 2],
    "a nested list": lambda: [[3, 4]],
    "an empty list": list,
    "a dict": lambda: {"a": 1},
    "a tuple of text": lambda: ("relu", "relu", "relu", "relu"),
    "an object": Weird,
    "a set": lambda: {1},
    "bytes": lambda: b"adam",
    "an array": lambda: np.ones(2),
    "a complex number": lambda: 1j,
    "a type": lambda: int,
}


def fitted(kind):
    model = MLPClassifier((3,), max_iter=2, random_state=0) if kind == "classifier" else MLPRegressor(
        hidden_layer_sizes=(3,), max_iter=2, random_state=0
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(X, LABELS if kind == "classifier" else NUMBERS)


def net():
    return MLP([3, 4, 1], "tanh", "binary_cross_entropy", random_state=0)


def targets(kind):
    return LABELS if kind == "classifier" else NUMBERS


# Of an object that is made anew for each call: what is called with one argument, the odd one.
DATA_CALLS = {}
for _kind in ("classifier", "regressor"):
    _y = targets(_kind)
    DATA_CALLS |= {
        f"{_kind}.fit(X)": (lambda k=_kind: fitted(k), lambda it, odd, y=_y: it.fit(odd, y)),
        f"{_kind}.fit(y)": (lambda k=_kind: fitted(k), lambda it, odd: it.fit(X, odd)),
        f"{_kind}.fit(sample_weight)": (lambda k=_kind: fitted(k), lambda it, odd, y=_y: it.fit(X, y, odd)),
        f"{_kind}.fit(X_val)": (lambda k=_kind: fitted(k), lambda it, odd, y=_y: it.fit(X, y, X_val=odd, y_val=y)),
        f"{_kind}.fit(y_val)": (lambda k=_kind: fitted(k), lambda it, odd, y=_y: it.fit(X, y, X_val=X, y_val=odd)),
        f"{_kind}.partial_fit(X)": (lambda k=_kind: fitted(k), lambda it, odd, y=_y: it.partial_fit(odd, y)),
        f"{_kind}.partial_fit(y)": (lambda k=_kind: fitted(k), lambda it, odd: it.partial_fit(X, odd)),
        f"{_kind}.predict": (lambda k=_kind: fitted(k), lambda it, odd: it.predict(odd)),
        f"{_kind}.score(X)": (lambda k=_kind: fitted(k), lambda it, odd, y=_y: it.score(odd, y)),
        f"{_kind}.hidden_activations": (lambda k=_kind: fitted(k), lambda it, odd: it.hidden_activations(odd)),
        f"{_kind}.input_gradients": (lambda k=_kind: fitted(k), lambda it, odd: it.input_gradients(odd)),
    }
DATA_CALLS |= {
    "classifier.predict_proba": (lambda: fitted("classifier"), lambda it, odd: it.predict_proba(odd)),
    "MLP.forward": (net, lambda it, odd: it.forward(odd)),
    "MLP.predict": (net, lambda it, odd: it.predict(odd)),
    "MLP.fit(X)": (net, lambda it, odd: it.fit(odd, LABELS, epochs=1)),
    "MLP.fit(y)": (net, lambda it, odd: it.fit(X, odd, epochs=1)),
    "MLP.fit(sample_weight)": (net, lambda it, odd: it.fit(X, LABELS, epochs=1, sample_weight=odd)),
    "MLP.fit(validation_data)": (net, lambda it, odd: it.fit(X, LABELS, epochs=1, validation_data=(odd, LABELS))),
    "MLP.evaluate(X)": (net, lambda it, odd: it.evaluate(odd, LABELS)),
    "MLP.evaluate(y)": (net, lambda it, odd: it.evaluate(X, odd)),
    "MLP.parameters": (net, lambda it, odd: setattr(it, "parameters", odd)),
    "check_gradients(X)": (net, lambda it, odd: xpmlp.check_gradients(it, odd, LABELS)),
    "check_gradients(y)": (net, lambda it, odd: xpmlp.check_gradients(it, X, odd)),
    "explain_step(X)": (net, lambda it, odd: xpmlp.explain_step(it, odd, LABELS)),
    "explain_step(y)": (net, lambda it, odd: xpmlp.explain_step(it, X, odd)),
    "curvature(X)": (net, lambda it, odd: xpmlp.curvature(it, odd, LABELS)),
    "curvature(y)": (net, lambda it, odd: xpmlp.curvature(it, X, odd)),
    "diagnose(X)": (net, lambda it, odd: xpmlp.diagnose(it, odd, LABELS)),
    "diagnose(y)": (net, lambda it, odd: xpmlp.diagnose(it, X, odd)),
    "Health(X)": (net, lambda it, odd: xpmlp.Health(odd, LABELS).measure(it)),
    "Health(y)": (net, lambda it, odd: xpmlp.Health(X, odd).measure(it)),
    "check_gradients(sample_weight)": (net, lambda it, odd: xpmlp.check_gradients(it, X, LABELS, odd)),
    "classifier.input_gradients(y)": (lambda: fitted("classifier"), lambda it, odd: it.input_gradients(X, odd)),
    "classifier.partial_fit(classes)": (
        lambda: MLPClassifier((3,), random_state=0),
        lambda it, odd: it.partial_fit(X, LABELS, classes=odd),
    ),
    "to_backend": (net, lambda it, odd: xpmlp.to_backend(odd, "numpy")),
}

# Where an odd value has an answer: nothing was asked, or it is what the argument may be.
FINE = {
    *((f"{kind}.fit({name})", "None") for kind in ("classifier", "regressor") for name in ("sample_weight",)),
    *((f"{kind}.fit(sample_weight)", "a number") for kind in ("classifier", "regressor")),
    ("MLP.fit(sample_weight)", "None"),
    *(("classifier.fit(y)", name) for name in ("words",)),
}


def plain(value):
    """A value without what it has worked out of itself and keeps (cached properties)."""
    if isinstance(value, (Network, Layout)):
        return type(value).__name__, [plain(getattr(value, field.name)) for field in fields(value)]
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def state_of(it):
    return joblib.hash({name: plain(value) for name, value in vars(it).items() if name != "_trace"})


def told(call, it, odd):
    """The error of a bad call, or None; the state of the object must be as before."""
    before = state_of(it)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call(it, odd)
        except Exception as error:  # noqa: BLE001 - that it is one of ours is what is asked
            assert state_of(it) == before, "a call that fails changes nothing"
            return error
    return None


def demand_ours(error):
    text = str(error)
    assert isinstance(error, (ValueError, TypeError)), f"{type(error).__name__}: {text}"
    assert not RAW.search(text), text
    assert len(text) > 15, text
    # A sentence: it says what must hold, and ends like one.
    assert text.rstrip()[-1] in ".!?)'\"]" or "\n" in text, text


@pytest.mark.parametrize("where", DATA_CALLS)
def test_no_odd_data_gets_past_the_front_door(where):
    make, call = DATA_CALLS[where]
    for name, odd in ARRAYS.items():
        error = told(call, make(), odd())
        if error is not None:
            try:
                demand_ours(error)
            except AssertionError as fault:
                raise AssertionError(f"{where} with {name}: {fault}") from error


# Values that no argument that is data could take and answer.
HOPELESS = (
    *("text", "bytes", "a dict", "a set", "a generator", "a lazy frame", "a masked array", "dates", "durations"),
    *("not a time", "a structured array", "NaN", "infinity", "objects", "ragged lists", "a type", "an object"),
    "a function",
)


@pytest.mark.parametrize("where", DATA_CALLS)
def test_what_cannot_be_data_is_refused(where):
    make, call = DATA_CALLS[where]
    calls = ((name, told(call, make(), ARRAYS[name]())) for name in HOPELESS if (where, name) not in FINE)
    taken = [name for name, error in calls if error is None]
    if where == "to_backend":  # it moves whatever numbers there are
        taken = [name for name in taken if name not in ("NaN", "infinity")]
    assert taken == []


PARAMETERS = sorted(MLPClassifier().get_params())


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_no_odd_parameter_gets_a_raw_message(parameter):
    for name, odd in SETTINGS.items():
        model = MLPClassifier((3,), max_iter=2, random_state=0)
        model.set_params(**{parameter: odd()})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model.fit(X, LABELS)
            except Exception as error:  # noqa: BLE001
                assert not hasattr(model, "coefs_")
                try:
                    demand_ours(error)
                except AssertionError as fault:
                    raise AssertionError(f"{parameter} = {name}: {fault}") from error


MLP_ARGUMENTS = (
    *("epochs", "batch_size", "optimizer", "learning_rate", "schedule", "l2", "clip_norm", "learning_rate_factors"),
    *("precision", "validation_data", "validation_fraction", "patience", "tol", "metric", "callbacks", "on_divergence"),
    *("max_time", "checkpoint_every"),
)


@pytest.mark.parametrize("argument", MLP_ARGUMENTS)
def test_no_odd_argument_of_fit_gets_a_raw_message(argument):
    more = {"early_stopping": True} if argument in ("patience", "validation_fraction") else {}
    for name, odd in SETTINGS.items():
        if (argument, name) == ("metric", "a type"):  # a function, until it is called: what was learned is kept then
            continue
        error = told(lambda it, value: it.fit(X, LABELS, **{"epochs": 1} | more | {argument: value}), net(), odd())
        if error is not None:
            try:
                demand_ours(error)
            except AssertionError as fault:
                raise AssertionError(f"{argument} = {name}: {fault}") from error


def test_there_are_enough_of_them():
    n = len(DATA_CALLS) * len(ARRAYS) + (len(PARAMETERS) + len(MLP_ARGUMENTS)) * len(SETTINGS)
    assert n >= 600 * 2


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: MLPClassifier((3,)).partial_fit(X, np.array(["a", 1] * 12, dtype=object), classes=["a", 1]),
            "labels of several types (number, text)",
        ),
        (lambda: MLPRegressor().fit(X, np.array(["2020-01-01"] * N, dtype="M8[D]")), "holds dates or times"),
        (lambda: MLPClassifier(hidden_layer_sizes=[[3, 4]]).fit(X, LABELS), "hidden_layer_sizes"),
        (lambda: MLPClassifier((3,), activation=["relu", "tanh"]).fit(X, LABELS), "activation"),
        (lambda: fitted("classifier").predict(scipy.sparse.csr_matrix(X)[:, :2]), "2 features"),
    ],
)
def test_the_sentence_fits_the_case(call, sentence):
    with pytest.raises((ValueError, TypeError), match=re.escape(sentence)):
        call()
