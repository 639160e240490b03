"""Learning-rate schedules: the factor on the learning rate, as a function of how far training has come.

To add one, write its function and one row of SCHEDULES. The tests and the docs read the table.
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from xpmlp import checks


class Progress(NamedTuple):
    """How far training has come, at the moment before an update."""

    step: int  # updates done
    epoch: float  # epochs done, with the part of the one in progress
    samples: int  # samples seen before this epoch, in earlier fits too; 0 in the first epoch of a new optimizer
    n_epochs: int  # epochs planned


@dataclass(frozen=True)
class Schedule:
    """A row of SCHEDULES: `factor(progress, **parameters)` multiplies the learning rate.

    `per_step` says whether the factor moves within an epoch; one that does not is asked once per epoch.
    """

    name: str
    factor: Callable[..., float]
    parameters: dict[str, Any] = field(default_factory=dict)
    per_step: bool = True

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A pickle names the public lookup, and no function of this file.
        return checks.by_name(self, SCHEDULES, schedule) or super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return f"<schedule {self.name}({shown})>"

    def __call__(self, progress: Progress) -> float:
        """The factor at this moment."""
        factor = float(self.factor(progress, **self.parameters))
        if not 0.0 <= factor < math.inf:
            raise ValueError(f"a schedule must return a finite factor of at least 0; {self!r} returned {factor:g}.")
        return factor


def constant(progress: Progress) -> float:
    return 1.0


def inverse_scaling(progress: Progress, power: float) -> float:
    # scikit-learn's invscaling: counts samples, moves once an epoch
    return 1.0 / math.pow(progress.samples + 1, power)


def step_decay(progress: Progress, every: float, gamma: float) -> float:
    return math.pow(gamma, math.floor(progress.epoch / every))


def exponential(progress: Progress, gamma: float) -> float:
    return math.pow(gamma, progress.epoch)


def cosine(progress: Progress, warmup: float, final: float) -> float:
    # Loshchilov & Hutter, arXiv:1608.03983, equation 5, one period, after a linear warm-up
    if progress.epoch < warmup:
        return warm_up(progress, warmup)
    done = min((progress.epoch - warmup) / max(progress.n_epochs - warmup, 1e-9), 1.0)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done))


def warm_up(progress: Progress, warmup: float) -> float:
    # The first update already moves: (step + 1) updates would need their number, so a hundredth is the floor.
    return max(min(progress.epoch / warmup, 1.0), 0.01) if warmup > 0 else 1.0


def one_cycle(progress: Progress, peak: float, start: float, final: float, rise: str) -> float:
    # Smith & Topin, arXiv:1708.07120, in the cosine form: up to 1 during the share `peak` of training, then down
    done = min(progress.epoch / progress.n_epochs, 1.0)
    if done < peak and rise == "linear":
        return max(done / peak, start)
    if done < peak:
        return start + (1.0 - start) * 0.5 * (1.0 - math.cos(math.pi * done / peak))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * (done - peak) / (1.0 - peak)))


SCHEDULES: dict[str, Schedule] = {
    row.name: row
    for row in (
        Schedule("constant", constant, per_step=False),
        Schedule("inverse_scaling", inverse_scaling, {"power": 0.5}, per_step=False),
        Schedule("step", step_decay, {"every": 10.0, "gamma": 0.5}),
        Schedule("exponential", exponential, {"gamma": 0.95}),
        Schedule("cosine", cosine, {"warmup": 0.0, "final": 0.0}),
        Schedule("warm_up", warm_up, {"warmup": 5.0}),
        Schedule("one_cycle", one_cycle, {"peak": 0.3, "start": 0.04, "final": 1e-4, "rise": "cosine"}),
    )
}

RISES = ("cosine", "linear")  # of one_cycle: from `start` along a cosine, or along a line and never below `start`

# What each parameter that is a number must be: (above, least, most, below)
_BOUNDS: dict[str, dict[str, float]] = {
    "power": {"least": 0.0},
    "every": {"above": 0.0},
    "gamma": {"above": 0.0, "most": 1.0},
    "warmup": {"least": 0.0},
    "final": {"least": 0.0, "most": 1.0},
    "peak": {"above": 0.0, "below": 1.0},
    "start": {"least": 0.0, "most": 1.0},
}


def _demand_a_factor(function: Callable[..., object]) -> None:
    """TypeError where a user's function does not make a number of a `Progress`."""
    name = getattr(function, "__name__", repr(function))
    form = "schedule must be a function from Progress to a factor, as in lambda progress: 0.9**progress.epoch"
    try:
        found = function(Progress(0, 0.0, 0, 1))
    except Exception as error:
        raise TypeError(f"{form}; {name} raised {type(error).__name__}: {error}") from error
    if not isinstance(found, numbers.Real) and getattr(found, "shape", None) != ():
        raise TypeError(f"{form}; {name} returned {found!r}.")


def schedule(value: object, **parameters: Any) -> Schedule:
    """The row for a name, a row, or a user's own function of `Progress`; its parameters set to those given.

    Raises
    ------
    ValueError
        For an unknown name or parameter, or a value outside its bounds.

    Examples
    --------
    >>> from xpmlp.optim.schedules import Progress, schedule
    >>> halving = schedule("step", every=10, gamma=0.5)
    >>> halving(Progress(step=0, epoch=25.0, samples=0, n_epochs=100))
    0.25
    """
    if callable(value) and not isinstance(value, Schedule):
        row = Schedule(getattr(value, "__name__", "custom"), value)
        checks.known_parameters(row, parameters, "schedule")
        _demand_a_factor(value)
    else:
        row = checks.choose(SCHEDULES, value, "schedule")
    checks.known_parameters(row, parameters, "schedule")
    for name, number in parameters.items():
        if name == "rise":
            checks.option(number, name, RISES)
        else:
            parameters[name] = checks.number(number, name, **_BOUNDS[name])
    return replace(row, parameters=row.parameters | parameters) if parameters else row
