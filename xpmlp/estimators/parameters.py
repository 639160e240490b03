"""What each parameter of an estimator must be: a table, and the one sentence that a wrong value earns.

To add a parameter, write its row of CONSTRAINTS. For the parameters that scikit-learn has, the sentences are its own,
letter for letter. Every `fit` and `partial_fit` checks them, the second one too.
"""

import functools
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends import BACKENDS
from xpmlp.network.activations import ACTIVATIONS, Activation
from xpmlp.network.initializers import INITIALIZERS, Initializer
from xpmlp.network.losses import LOSSES, Loss
from xpmlp.optim.optimizers import OPTIMIZERS, Optimizer
from xpmlp.optim.schedules import SCHEDULES, Schedule


class InvalidParameterError(ValueError, TypeError):
    """A parameter of an estimator has a value that it cannot have."""


class Constraint(NamedTuple):
    """One way for a value to be right, and how to say it."""

    text: str
    holds: Callable[[Any], bool]


def between(kind: type, low: float, high: float = math.inf, closed: str = "left") -> Constraint:
    """A number of `kind` (numbers.Real or numbers.Integral) in an interval; a bool is no number."""
    left, right = ("[" if closed in ("left", "both") else "("), ("]" if closed in ("right", "both") else ")")
    whole = kind is numbers.Integral

    def shown(bound: float) -> str:
        return str(bound) if math.isinf(bound) else str(int(bound) if whole else float(bound))

    def holds(value: Any) -> bool:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, kind):
            return False
        value = float(value) if abs(value) < 2**53 else value  # type: ignore[arg-type]
        above = value >= low if left == "[" else value > low
        return bool(above and (value <= high if right == "]" else value < high))

    return Constraint(
        f"{'an int' if whole else 'a float'} in the range {left}{shown(low)}, {shown(high)}{right}", holds
    )


def among(names: Iterable[str]) -> Constraint:
    """One of some strings."""
    known = sorted(names)
    listed = ", ".join(map(repr, known))
    return Constraint(f"a str among {{{listed}}}", lambda value: isinstance(value, str) and value in known)


def of_type(kind: type, text: str | None = None) -> Constraint:
    """An instance of a class."""
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return Constraint(text or f"an instance of {name!r}", lambda value: isinstance(value, kind))


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(callable(function) for function in value)


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _is_array_like(value: Any) -> bool:
    return not isinstance(value, str) and hasattr(value, "__len__") | hasattr(value, "shape")


def _names(table: Iterable[Any]) -> set[str]:
    return {name for row in table for name in (row.name, *getattr(row, "aliases", ()))}


def list_of(constraints: tuple[Constraint, ...], text: str) -> Constraint:
    """A list, or a tuple, of values that are each right."""

    def holds(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and all(any(one.holds(item) for one in constraints) for item in value)

    return Constraint(text, holds)


NONE = Constraint("None", lambda value: value is None)
BOOLEAN = (of_type(bool), of_type(np.bool_, "an instance of 'numpy.bool'"))
PAIR = Constraint("a tuple of two functions", _is_pair)
FUNCTION = Constraint("a callable", _is_function)

# What may stand in the output layer only, such as softmax, is no hidden activation.
HIDDEN = (
    among(_names(row for row in ACTIVATIONS.values() if row.outputs != "distribution")),
    of_type(Activation),
    PAIR,
)
RATE = between(numbers.Real, 0, 1)
QUANTILE = between(numbers.Real, 0, 1, closed="neither")

CONSTRAINTS: dict[str, tuple[Constraint, ...]] = {
    "hidden_layer_sizes": (Constraint("an array-like", _is_array_like), between(numbers.Integral, 1)),
    "activation": (*HIDDEN, list_of(HIDDEN, "a list with one of these per hidden layer")),
    "solver": (among({*OPTIMIZERS, "lbfgs"}), of_type(Optimizer)),
    "alpha": (between(numbers.Real, 0),),
    "batch_size": (among({"auto"}), between(numbers.Integral, 1)),
    "learning_rate": (among({*SCHEDULES, "invscaling", "adaptive"}), of_type(Schedule), FUNCTION),
    "learning_rate_init": (between(numbers.Real, 0, closed="neither"),),
    "power_t": (between(numbers.Real, 0),),
    "max_iter": (between(numbers.Integral, 1),),
    "shuffle": BOOLEAN,
    "random_state": (
        between(numbers.Integral, 0, 2**32 - 1, closed="both"),
        of_type(np.random.RandomState, "an instance of 'numpy.random.mtrand.RandomState'"),
        NONE,
    ),
    "tol": (between(numbers.Real, 0),),
    "verbose": (between(numbers.Integral, 0), *BOOLEAN),
    "warm_start": BOOLEAN,
    "momentum": (between(numbers.Real, 0, 1, closed="both"),),
    "nesterovs_momentum": BOOLEAN,
    "early_stopping": BOOLEAN,
    "validation_fraction": (RATE,),
    "beta_1": (RATE,),
    "beta_2": (RATE,),
    "epsilon": (between(numbers.Real, 0, closed="neither"),),
    "n_iter_no_change": (
        between(numbers.Integral, 1),
        Constraint("a float among {inf}", lambda value: isinstance(value, float) and value == math.inf),
    ),
    "max_fun": (between(numbers.Integral, 1),),
    "backend": (among(BACKENDS), NONE),
    "device": (of_type(str), NONE),
    "dtype": (among({"float32", "float64"}), NONE),
    "initializer": (among(INITIALIZERS), of_type(Initializer), NONE),
    "dropout": (RATE, list_of((RATE,), "a list of such floats, one per hidden layer")),
    "clip_norm": (between(numbers.Real, 0, closed="neither"), NONE),
    "scoring": (of_type(str), FUNCTION, NONE),
    "max_time": (between(numbers.Real, 0, closed="neither"), NONE),
    "callbacks": (FUNCTION, list_of((FUNCTION,), "a list of callables"), NONE),
    "class_weight": (among({"balanced"}), of_type(dict), NONE),
    "label_smoothing": (RATE,),
    "average": (between(numbers.Real, 0),),
    "learning_rate_factors": (list_of((between(numbers.Real, 0),), "a list of floats"), of_type(dict), NONE),
    # A cross entropy asks for probabilities; who has them passes the row, xpmlp.loss("binary_cross_entropy").
    "loss": (
        among(name for name, row in LOSSES.items() if row.targets in ("real", "nonnegative")),
        of_type(Loss),
        PAIR,
    ),
    "quantile": (QUANTILE, list_of((QUANTILE,), "a list of such floats")),
}


@functools.cache
def _names_of(kind: Any) -> tuple[str, ...]:
    """The parameters of a class; to read them off its signature takes a tenth of a partial_fit of few rows."""
    return tuple(kind._get_param_names())


def check_parameters(estimator: Any, table: Mapping[str, tuple[Constraint, ...]] = CONSTRAINTS) -> None:
    """InvalidParameterError for the first parameter of `estimator` that none of its constraints lets pass."""
    kind: Any = type(estimator)
    for name in _names_of(kind):
        value, constraints = getattr(estimator, name), table[name]
        if not any(constraint.holds(value) for constraint in constraints):
            texts = [constraint.text for constraint in constraints]
            what = texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
            who = type(estimator).__name__
            raise InvalidParameterError(f"The {name!r} parameter of {who} must be {what}. Got {value!r} instead.")


def functions_of(callbacks: Any) -> list[Callable[..., Any]]:
    """The functions that the parameter `callbacks` holds: none, one, or a list."""
    return [] if callbacks is None else [callbacks] if callable(callbacks) else list(callbacks)


def is_stochastic(estimator: Any) -> bool:
    """Whether an estimator goes from batch to batch; AttributeError, for `available_if`, where it does not."""
    if estimator.solver == "lbfgs":
        raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
    return True
