"""Training: epochs, early stopping, the divergence guard, Ctrl-C.

The loop knows arrays of shape (P,) or (m, P) and one number per network and epoch. What a loss, a score or a batch is,
the runner and its caller know. Networks trained together stop one by one: who stops keeps what it had.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import is_writeable_array

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.faults import interruptible
from xpmlp.network.parameters import Layout
from xpmlp.optim.schedules import Schedule
from xpmlp.runners.step import State, loss_or_nan
from xpmlp.training.divergence import told_of_divergence
from xpmlp.training.parties import Runner, Together
from xpmlp.training.rates import Rates

Notes = list[tuple[str, type[Warning]]]
"""Warnings to be given, last of all, when nothing can be rolled back any more."""


class DivergenceWarning(UserWarning):
    """Training met numbers that are not finite, and the best finite weights were put back."""


class DivergenceError(ValueError):
    """Training met numbers that are not finite, and `on_divergence` is "raise"."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train, and when to stop.

    Parameters
    ----------
    patience : float
        Training stops after more than this many epochs in a row in which the monitored value did not improve on the
        best by at least `tol`.
    keep_best : bool
        End with the weights of the best epoch rather than with the last.
    on_plateau : {"stop", "divide"}
        "divide" lowers the learning rate to a fifth instead of stopping, until it is at most 1e-6 (scikit-learn's
        "adaptive").
    on_divergence : {"restore", "raise"}
    max_time : float
        Seconds after which no new epoch begins.
    know_best : bool
        Keep the weights of the best epoch for `on_snapshot`, also where nobody else wants them.
    averaged : bool
        What is judged, shown and kept is the average of the weights, the optimizer's last slot; of equal epochs the
        last is the best one, for an average gains where the loss no longer tells.
    planned : int
        The epochs that the schedule is laid out for, where training ends before them.
    clips : bool
        Whether who asked for the training can have gradients clipped, as errors may advise.
    """

    n_epochs: int
    learning_rate: float
    schedule: Schedule
    n_batches: int
    n_samples: int
    patience: float = float("inf")
    tol: float = 0.0
    keep_best: bool = False
    on_plateau: str = "stop"
    on_divergence: str = "restore"
    max_time: float = float("inf")
    know_best: bool = False
    averaged: bool = False
    planned: int | None = None
    clips: bool = True


class Standing(NamedTuple):
    """How far a training has come in what is neither weights nor optimizer, so that another `train` goes on with it."""

    best: Any = None  # the best monitored value so far, shape () or (m,); None before the first
    waited: Any = 0  # epochs since it last improved enough
    scale: float = 1.0  # of the learning rate, after plateaus
    samples: int = 0  # seen
    of: str = ""  # what the monitored value is: a best value is the best of one quantity, and of no other


BEGINNING = Standing()


class Snapshot(NamedTuple):
    """All that training knows after an epoch, to go on from; its arrays are donated to the next epoch."""

    state: State
    epoch: int  # epochs done
    samples: int  # seen so far
    scale: float  # of the learning rate, after plateaus
    stopped_by: str  # as in a Result; "epochs" while nothing else has stopped it
    # What follows is of _Watch.
    lowest: HostArray
    waited: HostArray
    running: HostArray
    dead: HostArray
    lowest_point: HostArray  # the best value of weights that are not averaged
    safe: Array | None  # the weights of the best epoch
    final: Array | None


class Report(NamedTuple):
    """What is known after an epoch; a callback gets it and may return True to stop."""

    epoch: int  # 1, 2, ...
    loss: HostArray  # mean over the epoch, the penalty included; shape () or (m,)
    validation: HostArray | None  # what `validate` returned
    learning_rate: float  # of the epoch's first update
    state: State


@dataclass
class Result:
    """What training leaves."""

    state: State  # as after the last step, for going on
    p: Array  # the parameters to keep: the best, the last, or what was put back
    epochs: int  # done
    stopped_by: str  # "epochs", "patience", "time", "callback", "interrupt", "divergence", or what the runner says
    standing: Standing
    notes: Notes  # what is to be said once what was learned is safe

    @property
    def best(self) -> Any:
        """The best monitored value."""
        return self.standing.best


def train(
    runner: Runner,
    state: State,
    plan: Plan,
    place: Place,
    layout: Layout,
    *,
    orders: Callable[[], HostArray | None],
    validate: Callable[[Array], HostArray] | None = None,
    validate_point: Callable[[Array], HostArray] | None = None,
    greater_is_better: bool = False,
    on_epoch: Sequence[Callable[[Report], object]] = (),
    assigned: Callable[[], Array | None] = lambda: None,
    standing: Standing = BEGINNING,
    on_snapshot: Callable[[Snapshot, bool], object] = lambda *_: None,
    start: Snapshot | None = None,
    together: Together | None = None,
) -> Result:
    """Run epochs until the plan says stop.

    Parameters
    ----------
    state : State
        Donated.
    orders : function
        Called once per epoch for the order of the samples, shape (n,) or (m, n), or None to keep the order they have.
    validate : function or None
        From the parameters to the monitored value, shape () or (m,); without it the training loss is monitored.
    validate_point : function or None
        The same where `plan.averaged`, for weights that are not: patience lasts while these or their average improve.
    on_epoch : sequence of functions
        Called with a `Report` after every epoch; training stops when one returns True.
    assigned : function
        Asked after those for parameters that somebody has set in place of this epoch's; donated.
    standing : Standing
        That of the training which this one continues.
    on_snapshot : function
        Called with a `Snapshot` after every whole epoch, once it is known whether training stops there, and why, and
        with whether it does.
    start : Snapshot or None
        Go on from here, as if training had never stopped; in place of `state`. Donated.
    together : Together or None
        The other processes that train this network.

    Raises
    ------
    DivergenceError
        If `plan.on_divergence` is "raise" and a loss or a parameter is no longer finite after an epoch.
    """
    watch = _Watch(plan, place, state.p, validate is not None and greater_is_better, standing)
    notes: Notes = []
    started = time.perf_counter()
    scale, samples, done, stopped_by = standing.scale, standing.samples, 0, "epochs"
    if start is not None:
        state, done, samples, scale, stopped_by = start[:5]
        watch.take_up(start)
    epoch, rates = done, Rates(plan.learning_rate, plan.schedule, plan.planned or plan.n_epochs, plan.n_batches)
    finished = getattr(runner, "finished", lambda _: "")
    stopped_by = (finished(state) if stopped_by == "epochs" and done < plan.n_epochs else "") or stopped_by
    # What is not finite is found and told by the guard: NumPy's warnings on the way there are noise.
    with interruptible(terminate=together is not None) as pressed, np.errstate(all="ignore"):
        interrupted = pressed if together is None else together.interrupted(pressed)
        for epoch in range(done + 1, plan.n_epochs + 1 if stopped_by == "epochs" else 0):
            rate_of = rates.of_epoch(epoch - 1, state.t, samples, scale)
            rate = rate_of(0)
            state, loss = runner.epoch(state, orders(), rate_of, interrupted)
            samples += plan.n_samples
            losses = np.asarray(place.backend.to_numpy(loss_or_nan(loss, state.p)))
            diverged = watch.diverged(losses)
            if _some(diverged):
                weights = place.backend.to_numpy(state.p)
                message = told_of_divergence(diverged, epoch, rate, layout, weights, clips=plan.clips)
                notes.append(_note_or_raise(message, plan))
            validation, plateau, broken_off, learned = None, False, interrupted(), state.p
            if not broken_off or _some(diverged):  # an epoch that was broken off is neither judged nor reported
                learned = _learned(state, plan, place)
                validation = _judged(validate, learned, together)
                point = _judged(validate_point, state.p, together)
                plateau = watch.see(losses if validation is None else validation, learned, diverged, point)
            wish = _report(Report(epoch, losses, validation, rate, state._replace(p=learned)), on_epoch, interrupted)
            if (p := assigned()) is not None:
                state = state._replace(p=p)
                if plan.averaged:
                    state = state._replace(slots=(*state.slots[:-1], place.xp.asarray(p, copy=True)))
            if plateau and plan.on_plateau == "divide" and rate > 1e-6:
                scale /= 5.0
                plateau = watch.go_on()
            late = time.perf_counter() - started > plan.max_time
            if together is not None:
                wish, late = together.end(wish, late, place.backend.to_numpy(state.p))
            stopped_by = _why(wish, _some(watch.dead) and bool(watch.dead.all()), plateau, late)
            stopped_by = stopped_by or (finished(state) if epoch < plan.n_epochs else "") or "epochs"
            last = stopped_by != "epochs" or epoch == plan.n_epochs
            if not broken_off:
                on_snapshot(watch.snapshot(state, epoch, samples, scale, stopped_by), last)
            if stopped_by != "epochs":
                break
    if stopped_by == "interrupt":
        notes.append((f"Training interrupted by user in epoch {epoch}; what was learned is kept.", UserWarning))
    stands = Standing(watch.best, watch.waited, scale, samples, standing.of)
    return Result(state, watch.keep(_learned(state, plan, place)), epoch, stopped_by, stands, notes)


def _learned(state: State, plan: Plan, place: Place) -> Array:
    """The parameters that count: those of the last step, or their average, which the next step may write into."""
    if not plan.averaged or state.t == 0:
        return state.p
    average = state.slots[-1]
    return average if is_writeable_array(average) else place.xp.asarray(average, copy=True)  # slots are donated


def _judged(validate: Callable[[Array], HostArray] | None, p: Array, together: Together | None) -> HostArray | None:
    """What `validate` makes of p; where several processes train, what it makes of it in the one they go by."""
    if validate is None:
        return None
    value = np.asarray(validate(p))
    return value if together is None else together.value(value)


def _report(report: Report, on_epoch: Sequence[Callable[[Report], object]], interrupted: Callable[[], bool]) -> str:
    """Call the callbacks; "interrupt", "callback" or "" says whether somebody wants to stop, and who."""
    if interrupted():  # an epoch that was broken off is not reported
        return "interrupt"
    try:
        stop = [callback(report) is True for callback in on_epoch]
    except KeyboardInterrupt:
        if interrupted():  # this is the second one
            raise
        return "interrupt"
    if interrupted():
        return "interrupt"
    return "callback" if any(stop) else ""


def _why(wish: str, dead: bool, plateau: bool, late: bool) -> str:
    """What ends training after this epoch, first things first; "" where nothing does."""
    if not (wish or dead or plateau or late):
        return ""
    reasons = {
        "interrupt": wish == "interrupt",
        "divergence": dead,
        "patience": plateau,
        "callback": wish == "callback",
        "time": late,
    }
    return next(why for why, holds in reasons.items() if holds)


class _Watch:
    """For each network: the best value, the epochs without a better one, and the weights it ends with."""

    def __init__(self, plan: Plan, place: Place, p: Array, greater_is_better: bool, standing: Standing) -> None:
        self.plan, self.place = plan, place
        self.sign = -1.0 if greater_is_better else 1.0
        lead = tuple(p.shape[:-1])
        best = self.sign * np.inf if standing.best is None else standing.best
        self.lowest = np.full(lead, self.sign * np.asarray(best))  # of sign * value
        self.waited = np.full(lead, standing.waited)
        self.running = np.ones(lead, dtype=bool)
        self.dead = np.zeros(lead, dtype=bool)
        self.lowest_point = np.full(lead, np.inf)
        # The weights of the best epoch so far; before the first, those it began with.
        keeps = plan.keep_best or plan.know_best or plan.on_divergence == "restore"
        self.safe: Any = self._copy(p) if keeps else None
        self.final: Array = None  # what networks that have stopped end with

    @property
    def best(self) -> HostArray:
        return self.sign * self.lowest

    def snapshot(self, state: State, epoch: int, samples: int, scale: float, stopped_by: str) -> Snapshot:
        """What is known now; the first five are the loop's."""
        seen = (self.lowest, self.waited, self.running, self.dead, self.lowest_point, self.safe, self.final)
        return Snapshot(state, epoch, samples, scale, stopped_by, *seen)

    def take_up(self, start: Snapshot) -> None:
        self.lowest, self.waited, self.running, self.dead, self.lowest_point, self.safe, self.final = start[5:]

    def diverged(self, losses: HostArray) -> HostArray:
        """Which running networks have just met a loss or a parameter that is not finite: the loss is then not."""
        if losses.ndim == 0:
            return np.asarray(bool(self.running) and not math.isfinite(losses))
        return np.asarray(self.running & ~np.isfinite(losses))

    def see(self, values: HostArray, p: Array, diverged: HostArray, point: HostArray | None = None) -> bool:
        """Take note of an epoch; True once no network has anything left to wait for."""
        if values.ndim == 0 and point is None and not diverged and self._see_one(float(values), p):
            return False
        values = self.sign * values
        alive = self.running & ~diverged
        enough = values <= self.lowest - self.plan.tol
        if point is not None:
            enough = enough | (self.sign * point <= self.lowest_point - self.plan.tol)
            self.lowest_point = np.fmin(self.lowest_point, self.sign * point)
        better = alive & ((values <= self.lowest) if self.plan.averaged else (values < self.lowest))
        self.waited = (self.waited + 1) * ~enough
        if _some(better):
            self.lowest = np.where(better, values, self.lowest)
            if self.safe is not None and better.all() and is_writeable_array(p):
                self.safe[...] = p  # into memory that is there: a tenth of the time of a copy where p is large
            elif self.safe is not None:
                self.safe = self._where(better, p, self.safe)
        tired = alive & (self.waited > self.plan.patience)
        ended = tired | diverged
        if _some(ended):
            self.dead = self.dead | diverged
            last = self.safe if self.plan.keep_best else self._where(diverged, self.safe, p)
            self.final = self._copy(last) if self.final is None else self._where(ended, last, self.final)
            self.running = alive & ~tired
        return not _some(self.running)

    def _see_one(self, value: float, p: Array) -> bool:
        """What `see` does for one network that goes on, in plain numbers: a fifth of the time; False where it ends."""
        value *= self.sign
        enough = value <= float(self.lowest) - self.plan.tol
        waited = 0 if enough else int(self.waited) + 1
        if not self.running or waited > self.plan.patience:
            return False
        self.waited = np.asarray(waited)
        if value < self.lowest or (self.plan.averaged and value == self.lowest):
            self.lowest = np.asarray(value)
            if self.safe is not None and is_writeable_array(p):
                self.safe[...] = p
            elif self.safe is not None:
                self.safe = p
        return True

    def go_on(self) -> bool:
        """Begin to wait anew, at a lower learning rate; False, for there is something to wait for."""
        self.running = ~self.dead
        self.waited = np.zeros_like(self.waited)
        return False

    def keep(self, p: Array) -> Array:
        """The parameters to end with."""
        last = self.safe if self.plan.keep_best else p
        return last if self.final is None else self._where(self.running, last, self.final)

    def _copy(self, p: Array) -> Array:
        # What nobody can write into (JAX), nobody has to copy.
        return self.place.xp.asarray(p, copy=True) if is_writeable_array(p) else p

    def _where(self, which: HostArray, new: Array, old: Array) -> Array:
        # `new` will be donated to the next step, so what is kept of it is a copy.
        if not _some(which):
            return old
        if which.ndim == 0 or which.all():
            return self._copy(new)
        return self.place.xp.where(self.place.asarray(np.asarray(which)[:, None]), new, old)


def _note_or_raise(message: str, plan: Plan) -> tuple[str, type[Warning]]:
    if plan.on_divergence == "raise":
        raise DivergenceError(message)
    return f"{message} The best finite weights were put back.", DivergenceWarning


def _some(which: HostArray) -> bool:
    return bool(which) if which.ndim == 0 else bool(which.any())  # an epoch of a tiny network is 100 microseconds
