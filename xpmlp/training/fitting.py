"""The one fit: every face's training runs through here."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.runners.step import State
from xpmlp.threads import enough_for, flops_of_step
from xpmlp.training.agreement import Agreement
from xpmlp.training.checkpoints import Checkpoints, demand_same_run
from xpmlp.training.evaluation import Evaluator, Outcome, plain
from xpmlp.training.loop import BEGINNING, Report, Snapshot, train
from xpmlp.training.problem import Carried, CheckpointRequest, Fitted, Observer, Problem, Saved

VALIDATION, FORESEEN = "validation_loss", "validation_loss_foreseen"  # curves of a history


def fit(
    problem: Problem,
    begin: Fitted,
    observers: Sequence[Observer] = (),
    *,
    keep: CheckpointRequest | None = None,
    saved: Saved | None = None,
) -> Fitted:
    """Train, from `begin` on, and return what came of it; `begin` is donated.

    What an observer raises ends the fit; it is the result's `error`, and what was learned by then is kept.

    Parameters
    ----------
    keep : CheckpointRequest, optional
        The checkpoints to leave.
    saved : Saved, optional
        A checkpoint to go on from, in place of the weights of `begin`.
    """
    with problem.data.place.here():
        return _Fit(problem, begin, observers, keep, saved).run()


class _Fit:
    """A fit while it runs: the history grows, the observers are told."""

    def __init__(
        self,
        problem: Problem,
        begin: Fitted,
        observers: Sequence[Observer],
        keep: CheckpointRequest | None,
        saved: Saved | None,
    ) -> None:
        self.problem, self.begin, self.observers, self.saved = problem, begin, observers, saved
        task, standing = problem.task, BEGINNING
        self.history = {name: list(values) for name, values in (saved.history if saved else begin.history).items()}
        self.noted = max(map(len, self.history.values()), default=0)  # epochs of the history so far
        self.epochs = saved.snapshot.epoch if saved else 0
        self.carried = begin.carried or Carried(task.optimizer, task.optimizer.init(begin.p).slots, 0, standing)
        standing = self.carried.standing
        if standing.of != problem.monitors:
            standing = standing._replace(best=None, waited=0, of=problem.monitors)
        self.standing = standing
        self.samples = saved.snapshot.samples if saved else standing.samples
        self.logs: dict[str, Any] = {}
        self.error: Exception | None = None
        self.asked, self.done = keep, self.epochs  # whole epochs
        self.look: Callable[[Array], Outcome] | None = problem.judge
        if problem.held_out is not None:
            self.look = Evaluator(task.network, problem.held_out, problem.members_to_come)
        self.keep: Checkpoints | None = None
        self.together = None if problem.together is None else Agreement(problem.together)

    def run(self) -> Fitted:
        together = self.together
        if together is None:
            return self._run()
        try:
            fitted = self._run()
        except BaseException as error:
            told = together.failed(error, self.done + 1, None if self.asked is None else self.asked.folder)
            if told is error:
                raise
            raise told from error
        return fitted if together.lost is None else replace(fitted, error=together.lost)

    def _run(self) -> Fitted:
        problem, begin = self.problem, self.begin
        if self.asked is not None and (self.together is None or self.together.writes):
            self.keep = self._checkpoints(self.asked)
        if self.saved is not None:
            problem.draws.go_on(self.saved.draws)  # all that a fit draws before it trains has been drawn
        if self.together is not None:
            self.together.ready()
        place, layout = problem.data.place, problem.task.network.layout
        try:
            steps = problem.plan.n_epochs * problem.data.n_batches
            runner = problem.runner(problem.task, problem.data, problem.seed, steps)
            with enough_for(flops_of_step(layout.sizes, problem.data.batch_size), place):
                result = train(
                    runner,
                    State(begin.p, self.carried.slots, self.carried.t),
                    problem.plan,
                    place,
                    layout,
                    orders=self.order,
                    validate=None if problem.monitor == "loss" else self.validate,
                    validate_point=self.validate_point if self._waits_for_the_point() else None,
                    greater_is_better=problem.greater_is_better,
                    on_epoch=[self.end],
                    assigned=self.assigned,
                    standing=self.standing,
                    on_snapshot=self.snapshot,
                    start=None if self.saved is None else self.saved.snapshot,
                    together=self.together,
                )
        finally:
            for observer in self.observers:
                observer.close()
        for curve in self.history.values():
            self._fill_up(curve, curve[-1] if curve else 0.0)
        return Fitted(
            problem.task.network,
            result.p,
            self.history,
            self.epochs,
            result.standing.samples,
            Carried(problem.task.optimizer, result.state.slots, result.state.t, result.standing),
            result.stopped_by,
            result.notes,
            self.error,
        )

    def now(self, p: Array) -> Fitted:
        """The network as it is after this epoch; the next one will write into `p`."""
        return Fitted(self.problem.task.network, p, self.history, self.epochs, self.samples)

    def order(self) -> HostArray | None:
        for observer in self.observers:
            observer.begin()
        drawn: HostArray | None = self.problem.draws.order()
        return drawn

    def validate(self, p: Array) -> Any:
        """The number that the plan goes by; NaN where whoever measures it has failed."""
        self._measure(p)
        return np.asarray(self.logs.get(self.problem.monitor, np.nan))

    def validate_point(self, p: Array) -> Any:
        """The same of weights that are not averaged."""
        if self.look is None or (self.error is not None and self.together is None):  # others look with this process
            return np.asarray(np.nan)
        seen = self.look(p)
        self.logs["validation_loss_unaveraged"] = plain(seen.loss)
        return np.asarray(seen.loss if seen.foreseen is None else seen.foreseen)

    def _waits_for_the_point(self) -> bool:
        plan = self.problem.plan
        return plan.averaged and plan.patience < float("inf") and self.problem.monitor in (VALIDATION, FORESEEN)

    def end(self, report: Report) -> bool:
        if self.problem.monitor == "loss":
            self._measure(report.state.p)
        self.epochs = report.epoch
        self.samples += self.problem.plan.n_samples
        if self.error is not None:  # an epoch that could not be measured is not noted
            return True
        logs = {"loss": plain(report.loss), "learning_rate": report.learning_rate} | self.logs
        self._note(logs)
        if not self.observers:
            return False
        now = self.now(report.state.p)
        try:
            wishes = [observer.end(now, logs) for observer in self.observers]  # all are told
            return any(wishes)
        except Exception as error:  # noqa: BLE001 - whatever it is, it comes out of fit once the model is safe
            self._note_error(error)
            return True

    def assigned(self) -> Array | None:
        """What the last of those who have set parameters says."""
        found = [p for observer in self.observers if (p := observer.assigned()) is not None]
        return found[-1] if found else None

    def snapshot(self, snapshot: Snapshot, last: bool) -> None:
        self.done = snapshot.epoch
        if self.keep is not None:
            self.keep(snapshot, last, failed=self.error is not None)

    def _note(self, logs: dict[str, Any]) -> None:
        """Add an epoch to the history, in which the n-th entry of every curve is of the n-th epoch."""
        for name, value in logs.items():
            curve = self.history.setdefault(name, [])
            self._fill_up(curve, value)  # the epochs in which nobody measured it
            curve.append(value)
        self.noted += 1

    def _fill_up(self, curve: list[Any], like: Any) -> None:
        if len(curve) < self.noted:
            curve.extend([plain(np.full(np.shape(like), np.nan))] * (self.noted - len(curve)))

    def _measure(self, p: Array) -> None:
        seen = None if self.look is None else self.look(p)
        self.logs = {}
        if seen is not None:
            self.logs[VALIDATION] = plain(seen.loss)
            if seen.foreseen is not None:
                self.logs[FORESEEN] = plain(seen.foreseen)
        try:
            for observer in self.observers:
                self.logs |= observer.measure(self.now(p), seen)
        except Exception as error:  # noqa: BLE001 - as in `end`
            self._note_error(error)

    def _note_error(self, error: Exception) -> None:
        self.error = error
        if self.together is not None:
            self.together.error = error

    def _checkpoints(self, keep: CheckpointRequest) -> Checkpoints:
        place, saved = self.problem.data.place, self.saved

        def describe(flat: HostArray) -> Any:
            return keep.describe(self.now(place.asarray(np.array(flat, copy=True))))

        describe(np.asarray(place.backend.to_numpy(self.begin.p)))  # what cannot be kept is said before training
        if saved is not None:
            demand_same_run(saved.run, keep.run)
        return Checkpoints(
            keep.folder,
            keep.every,
            place,
            describe,
            keep.run,
            keep.began,
            goes_on=saved is not None,
            overwrite=keep.overwrite,
            averaged=self.problem.plan.averaged,
        )
