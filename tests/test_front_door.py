"""Each sentence of the front door comes where its cause is, and says what to do about it."""

import re

import numpy as np
import pytest
from scipy import sparse

import xpmlp
from xpmlp import MLP, MLPClassifier, MLPRegressor
from xpmlp.backends.kinds import LOOK_ALIKES, NO_ARRAYS
from xpmlp.estimators.front_door import ADVICE, advised

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of numpy.matrix

N = 12
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
LABELS = np.arange(N) % 2
NUMBERS = X[:, 0]
NAN = np.where(LABELS, np.nan, 1.0)


def classify(X, y=LABELS, **more):
    return MLPClassifier((3,), max_iter=1).fit(X, y, **more)


def regress(X, y=NUMBERS, **more):
    return MLPRegressor(hidden_layer_sizes=(3,), max_iter=1).fit(X, y, **more)


def spoiled(value):
    changed = X.copy()
    changed[3, 1] = value
    return changed


def objects(*values):
    return np.array([values[i % len(values)] for i in range(N)], dtype=object)


# --- Advice on what scikit-learn finds ---

ADVISED = {
    ("contains NaN", "y"): lambda: regress(X, NAN),
    ("contains NaN", "w"): lambda: classify(X, sample_weight=NAN),
    ("contains NaN", "X"): lambda: classify(spoiled(np.nan)),
    ("contains infinity", "w"): lambda: classify(X, sample_weight=1.0 / LABELS),
    ("contains infinity", ""): lambda: classify(spoiled(np.inf)),
    ("could not convert", "X"): lambda: classify(np.full((N, 3), "a")),
    ("could not convert", ""): lambda: classify(X, sample_weight=["a"] * N),
    ("Complex data", "X"): lambda: classify(X + 1j),
    ("Complex data", ""): lambda: classify(X, sample_weight=np.ones(N) + 1j),
    ("inconsistent numbers of samples", ""): lambda: classify(X, LABELS[:-1]),
    ("0 sample(s)", ""): lambda: classify(X[:0], LABELS[:0]),
    ("0 feature(s)", ""): lambda: classify(X[:, :0]),
    ("Sparse data was passed", ""): lambda: classify(X, sample_weight=sparse.csr_matrix(np.ones((N, 1)))),
    ("Unknown label type: continuous", ""): lambda: classify(X, NUMBERS),
    ("Unknown label type", ""): lambda: classify(X, objects(object())),
}


@pytest.mark.parametrize(("phrase", "argument", "advice"), ADVICE, ids=lambda text: str(text)[:24])
def test_what_scikit_learn_finds_is_told_with_what_to_do(phrase, argument, advice):
    advice = advice.format(name="sample_weight")
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=re.escape(advice)) as told:
        ADVISED[phrase, argument]()
    first, _, rest = str(told.value).partition(advice)
    assert phrase in first
    assert first.endswith(". ")
    assert rest == ""


NUMPYS = (
    *("could not be promoted", "setting an array element", "argument must be a string or a real number"),
    *("Cannot cast array data", "not supported between instances", "inhomogeneous", "must be real number"),
)


@pytest.mark.parametrize("phrase", NUMPYS)
@pytest.mark.parametrize(("prefix", "name"), [("Input y contains odd things: ", "y"), ("y is odd: ", "y"), ("", "X")])
def test_what_numpy_says_of_its_own_business_is_not_passed_on(phrase, prefix, name):
    told = advised(ValueError(f"{prefix}{phrase} <class 'numpy.dtypes.Float64DType'>"))
    assert told == f"{name} cannot be read as numbers, one row of the same length per sample."


RAGGED = [[1.0, 2.0, 3.0], [1.0, 2.0]] * (N // 2)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: classify(RAGGED), "X cannot be read as numbers, one row of the same length per sample."),
        (lambda: classify(X, RAGGED), "y cannot be read as numbers, one row of the same length per sample."),
        (lambda: regress(X, RAGGED), "y cannot be read as numbers, one row of the same length per sample."),
        (lambda: classify(X, sample_weight=RAGGED), "sample_weight cannot be read as numbers, one number per sample."),
        (
            lambda: classify(X, X_val=X, y_val=LABELS, sample_weight_val=RAGGED),
            "sample_weight_val cannot be read as numbers, one number per sample.",
        ),
    ],
    ids=["X", "labels", "numbers", "weights", "weights of what is held out"],
)
def test_ragged_rows_are_told_of_the_argument_that_has_them(call, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        call()


# --- What looks like an array and is none ---

DATES = np.array(["2020-01-01"] * N, dtype="M8[D]")
NAMED = np.zeros(N, dtype=[("a", "f8"), ("b", "f8")])

# A value, and what is said of it at every door: of X, of the targets of both kinds, and by the functions.
LOOKS = {
    "a set": (
        lambda: {1.0, 2.0},
        "must keep its samples in order, and be there more than once; got set. Pass list(",
    ),
    "a generator": (lambda: (row for row in X), "must keep its samples in order, and be there more than once; got gen"),
    "a lazy frame": (lambda: pl.DataFrame(X).lazy(), "is lazy, and holds no numbers yet; call {}.collect() first."),
    "a matrix": (lambda: np.asmatrix(X), "is a numpy.matrix, in which * is a product and a row stays a matrix; pass"),
    "a masked array": (lambda: np.ma.masked_greater(X, 1.0), "is a masked array, and what lies under the mask is no"),
    "dates": (lambda: DATES, "must hold numbers, and holds dates or times: subtract a date, divide by a unit."),
    "columns with names": (lambda: NAMED, "is a structured array, of columns with names; pass numpy.lib.recfunctions"),
}
DOORS = {
    "classifier": ("X", classify),
    "regressor's y": ("y", lambda odd: regress(X, odd)),
    "classifier's y": ("y", lambda odd: classify(X, odd)),
    "X_val": ("X", lambda odd: classify(X, LABELS, X_val=odd, y_val=LABELS)),
    "weights": ("sample_weight", lambda odd: classify(X, LABELS, sample_weight=odd)),
    "MLP": ("x", lambda odd: MLP([3, 3, 1]).forward(odd)),
    "MLP's y": ("y", lambda odd: MLP([3, 3, 1]).fit(X, odd, epochs=1)),
    "to_backend": ("x", lambda odd: xpmlp.to_backend(odd, "numpy")),
    "Health": ("X", lambda odd: xpmlp.Health(odd, LABELS)),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("look", LOOKS)
def test_what_only_looks_like_an_array_is_told_at_every_door(look, door):
    make, sentence = LOOKS[look]
    name, call = DOORS[door]
    with pytest.raises((ValueError, TypeError), match=re.escape(f"{name} {sentence.format(name)}")):
        call(make())


@pytest.mark.parametrize("door", ["classifier", "MLP", "to_backend"])
def test_a_sparse_tensor_is_told_how_to_become_one_that_is_read(door):
    torch = pytest.importorskip("torch")
    name, call = DOORS[door]
    with pytest.raises((ValueError, TypeError), match=re.escape(f"{name} is a sparse tensor; call {name}.to_dense()")):
        call(torch.eye(3).to_sparse())


@pytest.mark.parametrize(
    ("odd", "sentence"),
    [
        ("circles", "must be an array or a frame; got text. To read a file, open it first"),
        (b"circles", "must be an array or a frame; got text. To read a file, open it first"),
        ({"a": NUMBERS}, "must be an array or a frame; got a dict. Make a frame of it: pandas.DataFrame("),
    ],
    ids=["text", "bytes", "a dict"],
)
@pytest.mark.parametrize("door", ["classifier", "regressor's y", "classifier's y", "weights", "Health"])
def test_text_and_dicts_are_told(door, odd, sentence):
    name, call = DOORS[door]
    with pytest.raises((ValueError, TypeError), match=re.escape(f"{name} {sentence}")):
        call(odd)


def test_none_is_told_where_an_array_must_be():
    with pytest.raises((ValueError, TypeError), match=re.escape("X must be an array or a frame; got None.")):
        xpmlp.Health(None, LABELS)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_column_of_dates_is_told_by_its_name(library):
    frame = pd.DataFrame({"a": NUMBERS, "when": pd.date_range("2020", periods=N)})
    odd = frame if library == "pandas" else pl.from_pandas(frame)
    for call in (lambda: classify(odd), lambda: xpmlp.Health(odd, LABELS)):
        with pytest.raises((ValueError, TypeError), match=re.escape("X must hold numbers, and its column 'when'")):
            call()


def test_every_rule_has_its_case():
    assert len(LOOKS) == len(LOOK_ALIKES)  # a set and a generator are of one rule, a sparse tensor is apart
    assert len(NO_ARRAYS) == 3
    assert set(ADVISED) == {(phrase, argument) for phrase, argument, _ in ADVICE}


# --- What an estimator's arguments hold ---


HELD = {
    "text in X": (
        lambda: classify(np.full((N, 3), "a")),
        "X must hold numbers: could not convert string to float: 'a'. Encode strings first",
    ),
    "text for weights": (
        lambda: classify(X, sample_weight=["a"] * N),
        "sample_weight must hold numbers: could not convert string to float: 'a'. Convert it first, for instance with "
        "numpy.asarray(sample_weight, dtype=float).",
    ),
    "complex X": (lambda: classify(X + 1j), "X must hold real numbers. Pass the real and the imaginary part as"),
    "complex weights": (
        lambda: classify(X, sample_weight=np.ones(N) + 1j),
        "sample_weight must hold real numbers. Pass its real part.",
    ),
    "a single label": (lambda: classify(X, 3), "y must hold one target per sample; got a single int."),
    "a list of dates": (
        lambda: regress(X, DATES.tolist()),
        "y must hold numbers, and holds dates or times: subtract a date, divide by a unit.",
    ),
    "a list of NumPy's dates": (lambda: regress(X, list(DATES)), "y must hold numbers, and holds dates or times"),
    "a series of dates": (lambda: regress(X, pd.Series(DATES)), "y must hold numbers, and holds dates or times"),
    "complex targets": (
        lambda: regress(X, NUMBERS + 1j),
        "y must hold real numbers. Complex data not supported; got dtype complex128.",
    ),
    "text to a regressor": (
        lambda: regress(X, np.full(N, "1.5")),
        "y must hold numbers: could not convert text such as '1.5'. Convert it first: y.astype(float).",
    ),
    "text among objects to a regressor": (
        lambda: regress(X, objects(1.0, "1.5")),
        "y must hold numbers; got text such as '1.5'.",
    ),
    "None among labels": (
        lambda: classify(X, objects(1, None)),
        "y holds None, which is no label; drop these samples, or name what it means.",
    ),
    "None among numbers": (lambda: regress(X, objects(1.0, None)), "y holds None, which is no number; drop these"),
    "None in X": (
        lambda: classify(np.column_stack([objects(1.0, None)] * 2)),
        "X holds None, which is no number; drop these samples",
    ),
    "dates among objects in X": (
        lambda: classify(np.column_stack([objects(*DATES.tolist())] * 2)),
        "X must hold numbers, and holds dates or times",
    ),
    "labels of several types": (
        lambda: classify(X, objects("a", 1)),
        "y holds labels of several types (number, text); make them one type, as in map(str, y).",
    ),
    "a list of labels of several types": (
        lambda: classify(X, ["a", 1] * (N // 2)),
        "y holds labels of several types (number, text); make them one type",
    ),
    "objects of no kind to a regressor": (
        lambda: regress(X, objects(1.0, object())),
        "y must hold numbers: an argument must be a string of digits or a number, and a object is neither.",
    ),
    "objects of no kind in X": (
        lambda: classify(np.column_stack([objects(1.0, object())] * 2)),
        "X must hold numbers: an argument must be a string of digits or a number, and a object is neither.",
    ),
    "classes that are no list": (
        lambda: MLPClassifier((3,)).partial_fit(X, LABELS, classes=2),
        "classes must be a list of all labels; got a int.",
    ),
    "classes that are a type": (
        lambda: MLPClassifier((3,)).partial_fit(X, LABELS, classes=list),
        "classes must be a list of all labels; got a type.",
    ),
    "classes of several types": (
        lambda: MLPClassifier((3,)).partial_fit(X, LABELS, classes=[0, "a"]),
        "classes holds labels of several types (number, text)",
    ),
}


@pytest.mark.parametrize("what", HELD)
def test_what_arguments_hold_is_told(what):
    call, sentence = HELD[what]
    with pytest.raises((ValueError, TypeError), match=re.escape(sentence)):
        call()


# --- A graph of PyTorch's is left at the door ---


def grown(values):
    """A tensor that carries a graph."""
    torch = pytest.importorskip("torch")
    leaf = torch.asarray(values, dtype=torch.float64).requires_grad_()
    return 1.0 * leaf


GRAPHS = {
    "fit": lambda X, y, w: MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, random_state=0).fit(X, y, sample_weight=w),
    "X_val": lambda X, y, w: MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, random_state=0).fit(
        X, y, X_val=X, y_val=y, sample_weight_val=w
    ),
    "partial_fit": lambda X, y, w: MLPRegressor(hidden_layer_sizes=(3,), random_state=0).partial_fit(
        X, y, sample_weight=w
    ),
    "a torch backend": lambda X, y, w: MLPRegressor(
        hidden_layer_sizes=(3,), max_iter=2, random_state=0, backend="torch"
    ).fit(X, y, sample_weight=w),
    "lbfgs": lambda X, y, w: MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, random_state=0, solver="lbfgs").fit(
        X, y, sample_weight=w
    ),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("how", GRAPHS)
def test_estimators_learn_the_same_from_tensors_with_a_graph(how):
    weights = 1.0 + np.arange(N) % 3
    tracked = GRAPHS[how](grown(X), grown(NUMBERS), grown(weights))
    plain = GRAPHS[how](*(grown(values).detach() for values in (X, NUMBERS, weights)))
    for ours, theirs in zip(tracked.coefs_, plain.coefs_, strict=True):
        np.testing.assert_array_equal(xpmlp.to_numpy(ours), xpmlp.to_numpy(theirs))
    answers = [tracked.predict(grown(X)), *tracked.hidden_activations(grown(X)), tracked.input_gradients(grown(X))]
    assert not any(getattr(answer, "requires_grad", False) for answer in answers)
    assert tracked.score(grown(X), grown(NUMBERS)) == plain.score(grown(X).detach(), grown(NUMBERS).detach())


def test_what_looks_into_a_model_takes_tensors_with_a_graph():
    y = grown(NUMBERS)  # first: it skips where PyTorch is absent
    net = MLP([3, 3, 1], "tanh", backend="torch", random_state=0)
    assert xpmlp.check_gradients(net, grown(X), y)
    assert "z[1]" in str(xpmlp.explain_step(net, grown(X), y))
    assert xpmlp.diagnose(net, grown(X), y) is not None
    assert np.isfinite(net.evaluate(grown(X), y, grown(np.ones(N))))
    net.fit(grown(X), y, sample_weight=grown(np.ones(N)), epochs=1, validation_data=(grown(X), y))
    assert not net.parameters.requires_grad
    assert isinstance(xpmlp.to_numpy(grown(X)), np.ndarray)
