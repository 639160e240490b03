"""MLPClassifier and MLPRegressor say the same of what is the same: whatever sets them apart is named here.

scikit-learn wants each parameter written out in each class, so these tests keep the two alike, not inheritance.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from xpmlp import MLPClassifier, MLPRegressor, TabularClassifier, TabularRegressor
from xpmlp.dask import DaskMLPClassifier, DaskMLPRegressor, DaskTabularClassifier, DaskTabularRegressor

ESTIMATORS = MLPClassifier, MLPRegressor
both = pytest.mark.parametrize("Estimator", ESTIMATORS, ids=lambda it: it.__name__)

# What one has and the other has not.
OWN = {
    MLPClassifier: {"class_weight", "label_smoothing"},
    MLPRegressor: {"loss", "quantile"},
}
OWN_METHODS = {
    MLPClassifier: {"predict_log_proba", "predict_proba"},
    MLPRegressor: set(),
}
# Methods that both have, and an argument that one of them takes alone.
OWN_ARGUMENTS = {"partial_fit": {"classes"}}
# The words that the classifier has for a parameter, and those that the regressor has in their place.
SAID_OTHERWISE = {
    "early_stopping": (" with the same shares of the classes (several labels per sample have no shares to keep)", ""),
    "y": ("Labels: numbers, strings, booleans; or a 0/1 matrix with a column per label.", "Targets."),
}


def documented(thing: Any, section: str = "Parameters") -> dict[str, tuple[str, str]]:
    """From each name in a section of a docstring to its type and its sentences, which names of one entry share."""
    text = inspect.getdoc(thing) or ""
    body = re.search(rf"^{section}\n-+\n(.*?)(?=\n\n\w[\w ]*\n-+\n|\Z)", text, re.DOTALL | re.MULTILINE)
    if body is None:
        return {}
    found = {}
    for entry in re.split(r"\n(?=\S)", body.group(1)):
        head, *lines = entry.split("\n")
        names, _, kind = head.partition(" : ")
        for name in names.split(","):
            found[name.strip().lstrip("*")] = (kind, " ".join(line.strip() for line in lines).strip())
    return found


def parameters(thing: Any) -> dict[str, inspect.Parameter]:
    return {name: it for name, it in inspect.signature(thing).parameters.items() if name != "self"}


def methods(Estimator: type) -> set[str]:
    """The public ones that xpmlp defines."""
    found = inspect.getmembers(Estimator, inspect.isroutine)
    return {name for name, it in found if not name.startswith("_") and (it.__module__ or "").startswith("xpmlp.")}


def differences(one: Any, other: Any, own: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """What two signatures, and what is said of their parameters, do not have in common."""
    mine, theirs = ({n: it for n, it in parameters(x).items() if n not in own} for x in (one, other))
    if list(mine) != list(theirs):
        return [f"names: {list(mine)} and {list(theirs)}"]
    faults = [
        f"{name}: {what} {getattr(mine[name], what)} and {getattr(theirs[name], what)}"
        for name in mine
        for what in ("kind", "default", "annotation")
        if getattr(mine[name], what) != getattr(theirs[name], what)
    ]
    said, said_there = documented(one), documented(other)
    for name in [n for n in mine if n in said and n in said_there]:
        (kind, words), there = said[name], said_there[name]
        if (kind, words.replace(*SAID_OTHERWISE.get(name, ("", "")))) != there:
            faults.append(f"{name}: {said[name]} and {there}")
    return faults


@both
def test_every_parameter_is_documented_in_the_order_of_the_signature(Estimator):
    assert list(documented(Estimator)) == list(parameters(Estimator))


@both
def test_the_documented_default_is_that_of_the_signature(Estimator):
    signature, of_a_kind = parameters(Estimator), {}
    for name, (kind, _) in documented(Estimator).items():
        defaults = kind.partition("default=")[2].split(
            ", "
        )  # beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        place = of_a_kind[kind] = of_a_kind.get(kind, -1) + 1
        assert eval(defaults[place if len(defaults) > 1 else 0]) == signature[name].default, name


@both
def test_every_parameter_becomes_an_attribute_of_that_name(Estimator):
    model = Estimator()
    assert {name: getattr(model, name) for name in parameters(Estimator)} == {
        name: it.default for name, it in parameters(Estimator).items()
    }


def test_the_two_constructors_differ_in_what_is_named_here_only():
    for Estimator, own in OWN.items():
        assert own <= set(parameters(Estimator))
    assert differences(*ESTIMATORS, own=set.union(*OWN.values())) == []


def test_what_is_said_otherwise_is_said():
    for name, words in SAID_OTHERWISE.items():
        for Estimator, there in zip(ESTIMATORS, words, strict=True):
            assert there in (documented(Estimator) | documented(Estimator.fit))[name][1]


def test_the_two_have_the_same_methods_but_for_those_named_here():
    classifier, regressor = (methods(it) - OWN_METHODS[it] for it in ESTIMATORS)
    assert classifier == regressor
    assert {"fit", "partial_fit", "predict", "save"} <= classifier


@pytest.mark.parametrize("name", sorted(methods(MLPClassifier) & methods(MLPRegressor)))
def test_a_method_of_both_takes_the_same(name):
    classifier, regressor = (getattr(it, name) for it in ESTIMATORS)
    own = OWN_ARGUMENTS.get(name, set())
    assert own <= set(parameters(classifier)) - set(parameters(regressor))
    assert differences(classifier, regressor, own) == []


# The test is tested.


class Said:
    """One.

    Parameters
    ----------
    alpha : float, default=1.0
        How much.
    """

    def __init__(self, alpha: float = 1.0) -> None: ...


class SaidOtherwise:
    """Other.

    Parameters
    ----------
    alpha : float, default=1.0
        How many.
    """

    def __init__(self, alpha: float = 1.0) -> None: ...


class AnotherDefault:
    __doc__ = Said.__doc__

    def __init__(self, alpha: float = 2.0) -> None: ...


class AnotherKind:
    __doc__ = Said.__doc__

    def __init__(self, *, alpha: float = 1.0) -> None: ...


class AnotherName:
    __doc__ = Said.__doc__

    def __init__(self, beta: float = 1.0) -> None: ...


@pytest.mark.parametrize("Other", [SaidOtherwise, AnotherDefault, AnotherKind, AnotherName], ids=lambda it: it.__name__)
def test_what_differs_is_noticed(Other):
    assert differences(Said, Said) == []
    assert len(differences(Said, Other)) == 1


# On Dask each of them takes this, too.
ON_DASK = {"client": None, "lanes": 8, "restarts": 2, "timeout": 60.0, "fixed_order": False}
ON_A_CLUSTER = {
    MLPClassifier: DaskMLPClassifier,
    MLPRegressor: DaskMLPRegressor,
    TabularClassifier: DaskTabularClassifier,
    TabularRegressor: DaskTabularRegressor,
}
all_four = pytest.mark.parametrize("Estimator", ON_A_CLUSTER, ids=lambda it: it.__name__)


@all_four
def test_on_dask_an_estimator_takes_all_that_it_takes_without(Estimator):
    there = parameters(ON_A_CLUSTER[Estimator])
    assert {name: there.pop(name).default for name in ON_DASK} == ON_DASK
    assert list(there.items()) == list(parameters(Estimator).items())


@all_four
def test_on_dask_every_parameter_becomes_an_attribute_of_that_name(Estimator):
    given = {name: object() for name in parameters(ON_A_CLUSTER[Estimator])}
    model = ON_A_CLUSTER[Estimator](**given)
    assert {name: getattr(model, name) for name in given} == given


@all_four
def test_on_dask_it_has_the_same_methods_which_take_the_same(Estimator):
    there = ON_A_CLUSTER[Estimator]
    assert methods(there) - methods(Estimator) - {"score"} == {"to_local"}  # of tables it is scikit-learn's
    assert methods(Estimator) <= methods(there)
    for name in sorted(methods(Estimator) - {"fit"}):
        assert list(parameters(getattr(there, name))) == list(parameters(getattr(Estimator, name))), name
    # A cluster is the group.
    assert [*parameters(there.fit), "group"] == list(parameters(Estimator.fit))
