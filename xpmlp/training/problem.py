"""What a fit is given and what it leaves: two values, the same for every face.

A face (MLP, an estimator, a launcher) turns its arguments into a `Problem`, and a `Fitted` into what it shows. A fit
goes on from a `Fitted` too: a network that was just drawn, one that is warm-started, one of a partial_fit.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from xpmlp._typing import Array
from xpmlp.network import Network
from xpmlp.optim.optimizers import Optimizer, Slots
from xpmlp.runners import Data, find_runner
from xpmlp.runners.reduction import Sum
from xpmlp.runners.step import Task
from xpmlp.training.checkpoints import Document, Stored
from xpmlp.training.evaluation import Outcome
from xpmlp.training.loop import Notes, Plan, Snapshot, Standing

History = dict[str, list[Any]]


class Draws(Protocol):
    """Where a fit's randomness comes from: drawn on the host, so that every backend draws the same."""

    def order(self) -> Any:
        """The order of the samples in the next epoch, shape (n,) or (m, n); None leaves them as they are."""
        ...

    def go_on(self, state: Any) -> None:
        """Draw on as a checkpoint says."""
        ...


@dataclass(frozen=True)
class Problem:
    """One fit, checked and moved to where it runs; what it begins from is a `Fitted`."""

    task: Task  # network, optimizer, penalty
    data: Data
    plan: Plan
    draws: Draws
    held_out: Data | None = None
    members_to_come: int | None = None  # of the network that this one is looked at for: its loss is foreseen
    monitor: str = "loss"  # the number of the history that patience and the best epoch go by
    monitors: str = ""  # all that this number depends on: a best value is carried on among equals only
    greater_is_better: bool = False
    seed: Array | None = None  # that dropout masks are hashed from
    runner: Callable[[Task, Data, Array | None, int], Any] = find_runner  # the last are the steps planned
    judge: Callable[[Array], Outcome] | None = None  # what is held out, where `held_out` is not it
    together: Sum | None = None  # the sum of several processes: also what they agree by


class Carried(NamedTuple):
    """What a fit that is continued goes on with, the weights apart."""

    optimizer: Optimizer
    slots: Slots
    t: int
    standing: Standing


@dataclass(frozen=True)
class Fitted:
    """A network that has learned something, and all that is needed to go on: what faces show and files hold."""

    network: Network
    p: Array  # (P,) or (m, P)
    history: History = field(default_factory=dict)  # a curve per name, an entry per epoch of all fits so far
    epochs: int = 0  # of the last fit
    samples: int = 0  # seen so far
    carried: Carried | None = None  # None begins afresh
    stopped_by: str = ""
    notes: Notes = field(default_factory=list)  # warnings, which the face gives when all else is done
    error: Exception | None = None  # what an observer raised: the fit ended there


class Observer:
    """Somebody who watches a fit; each method may be left as it is."""

    def begin(self) -> None:
        """An epoch begins."""

    def measure(self, now: Fitted, seen: Outcome | None) -> Mapping[str, Any]:  # noqa: ARG002
        """Numbers of its own for the history; `seen` is what the network says of the samples held out."""
        return {}

    def end(self, now: Fitted, logs: dict[str, Any]) -> bool:  # noqa: ARG002
        """An epoch has ended, and `logs` is what the history has gained; True stops the fit."""
        return False

    def assigned(self) -> Array | None:
        """Parameters that somebody has set in `end`, in place of those of the epoch; donated."""
        return None

    def close(self) -> None:
        """The fit is over, whatever its end."""


class Saved(NamedTuple):
    """Where a fit that was stopped goes on."""

    snapshot: Snapshot
    run: Document  # what must be the same
    draws: Any
    history: History


class CheckpointRequest(NamedTuple):
    """The checkpoints that a fit leaves."""

    folder: str | os.PathLike[str]
    every: int
    describe: Callable[[Fitted], Stored]  # as the face's files are
    run: Document  # what must be the same when the fit goes on
    began: Any  # the draws as they were when the fit began
    overwrite: bool = False  # what another run has left in the folder
