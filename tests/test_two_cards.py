"""Another device than the current one is entered at every public door: on a CuPy with two cards, which is NumPy."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from two_cards import Device, in_place_of_cupy, xp

import xpmlp
from xpmlp import MLP, MLPClassifier, MLPRegressor, TabularClassifier
from xpmlp.network.parts import part

RNG = np.random.default_rng(0)
X, LABELS = RNG.standard_normal((40, 3)), RNG.integers(0, 2, 40)
NUMBERS = X[:, 0] * 2.0
ON_SECOND = {"backend": "cupy", "device": "cuda:1"}
SMALL: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0}


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    with in_place_of_cupy(monkeypatch) as strangers:
        yield strangers


def there(array: Any) -> Any:
    with Device(1):
        return xp.asarray(np.array(array))


def net(**arguments: Any) -> MLP:
    return MLP([3, 4, 1], random_state=0, **ON_SECOND, **arguments)


def classifier(**arguments: Any) -> MLPClassifier:
    return MLPClassifier(**SMALL | ON_SECOND | arguments).fit(X, LABELS)


def verbs() -> Any:
    it, x, y = net(), there(X), there(NUMBERS)
    made = [it.forward(x)]
    it.backward(y)
    it.update(0.1)
    it.parameters = it.parameters
    assert it.evaluate(x, y) > 0.0
    return [*made, it.dW[1], it.predict(x), it.parameters, it.W[1]]


def fit(**options: Any) -> Callable[[], Any]:
    def fitted() -> Any:
        return [net().fit(there(X), there(NUMBERS), epochs=3, **options).parameters]

    return fitted


def parts_and_members() -> Any:
    front = part("piecewise", edges=[[0.0, 1.0]], width=2)
    it = net(parts={0: front}, members=2).fit(there(X), there(NUMBERS), epochs=2, average=2.0)
    return [it.parameters, it.predict(there(X))]


def copies() -> Any:
    x = there(X)
    return [pickle.loads(pickle.dumps(net())).predict(x), copy.deepcopy(net()).predict(x)]


def follows_x() -> Any:
    x = there(X)
    it = MLPClassifier(**SMALL).fit(x, there(LABELS))
    answers = [it.predict_proba(x), it.predict_log_proba(x), it.predict(x), it.hidden_activations(x)]
    return [*it.coefs_, *answers, it.input_gradients(x), it.input_gradients(x, there(LABELS))]


def brings_x() -> Any:
    it, elsewhere = classifier(), xp.asarray(np.array(X))  # on the first card
    it.predict_proba(elsewhere)
    it.hidden_activations(X)
    it.input_gradients(X, LABELS)
    assert it.score(X, LABELS) >= 0.0
    return [*it.coefs_, it.predict_proba(there(X)), MLPClassifier(**SMALL | ON_SECOND).fit(elsewhere, LABELS).coefs_[0]]


def stream() -> Any:
    it = MLPClassifier((4,), random_state=0, **ON_SECOND)
    for _ in range(3):
        it.partial_fit(X, LABELS, classes=[0, 1])
    return [*it.coefs_, copy.deepcopy(it).partial_fit(X, LABELS).coefs_[0]]


def estimator_on_x(**arguments: Any) -> Callable[[], Any]:
    def fitted() -> Any:
        x, y = there(X), there(NUMBERS)
        it = MLPRegressor(**SMALL | arguments).fit(x, y)
        return [*it.coefs_, it.predict(x), *it.fit(x, y).coefs_]

    return fitted


def given_validation() -> Any:
    x, y = there(X), there(NUMBERS)
    return MLPRegressor(early_stopping=True, **SMALL).fit(x, y, X_val=x, y_val=y).coefs_


def looks(look: Callable[..., Any]) -> Callable[[], Any]:
    def looked() -> Any:
        str(look(net(), there(X), there(NUMBERS)))
        str(look(classifier(), X, LABELS))
        return []

    return looked


def displays() -> Any:
    pytest.importorskip("matplotlib")
    from xpmlp.plotting import ActivationsDisplay, GradientsDisplay

    ActivationsDisplay.from_estimator(net(), there(X))
    GradientsDisplay.from_estimator(net(), there(X), there(NUMBERS))
    return []


def files(path: Any) -> Any:
    net().save(path)
    return [xpmlp.load(path, **ON_SECOND).parameters]


def tables() -> Any:
    of_tables = TabularClassifier(n_members=2, hidden_layer_sizes=(4,), max_iter=2, random_state=0, **ON_SECOND)
    it = of_tables.fit(X, LABELS)
    it.predict(X)
    it.predict_members(X)
    xpmlp.diagnose(it, X, LABELS)
    it.feature_importances(X, LABELS)
    return [it.network_.parameters]


DOORS: dict[str, Callable[[], Any]] = {
    "the verbs of MLP": verbs,
    "fit": fit(batch_size=8),
    "fit with early stopping": fit(early_stopping=True),
    "fit by L-BFGS": fit(optimizer="lbfgs"),
    "parts and members": parts_and_members,
    "copies and pickles": copies,
    "an estimator that follows X": follows_x,
    "an estimator that brings X": brings_x,
    "partial_fit": stream,
    "early stopping": estimator_on_x(early_stopping=True),
    "warm start": estimator_on_x(warm_start=True),
    "L-BFGS": estimator_on_x(solver="lbfgs"),
    "float32": estimator_on_x(dtype="float32"),
    "validation data": given_validation,
    "a scorer": lambda: classifier(early_stopping=True, scoring="roc_auc").coefs_,
    "check_gradients": looks(xpmlp.check_gradients),
    "explain_step": looks(xpmlp.explain_step),
    "diagnose": looks(xpmlp.diagnose),
    "curvature": looks(xpmlp.curvature),
    "displays": displays,
    "tables": tables,
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("door", DOORS)
def test_all_that_is_asked_of_the_second_card_runs_and_lies_there(door: str, cards: set[str]) -> None:
    arrays = DOORS[door]()
    assert sorted(cards) == []
    assert {array._on for array in arrays} <= {1}


def test_what_is_loaded_lies_there_too(cards: set[str], tmp_path: Any) -> None:
    (p,) = files(tmp_path / "net.safetensors")
    assert (sorted(cards), p._on) == ([], 1)


def test_the_stand_in_sees_work_on_the_wrong_card(cards: set[str]) -> None:
    it = there(X) + 1.0
    assert (it._on, cards) == (0, {"add on cuda:0 of an array on cuda:1"})
