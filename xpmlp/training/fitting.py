"""The one fit: every face's training runs through here."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.runners.step import State
from xpmlp.threads import enough_for, flops_of_step
from xpmlp.training.checkpoints import Checkpoints, demand_same_run
from xpmlp.training.evaluation import evaluate, plain
from xpmlp.training.loop import BEGINNING, Report, Snapshot, train
from xpmlp.training.problem import Asked, Carried, Fitted, Observer, Problem, Saved


def fit(
    problem: Problem,
    begin: Fitted,
    observers: Sequence[Observer] = (),
    *,
    keep: Asked | None = None,
    saved: Saved | None = None,
) -> Fitted:
    """Train, from `begin` on, and return what came of it; `begin` is donated.

    What an observer raises ends the fit; it is the result's `error`, and what was learned by then is kept.

    Parameters
    ----------
    keep : Asked, optional
        The checkpoints to leave.
    saved : Saved, optional
        A checkpoint to go on from, in place of the weights of `begin`.
    """
    return _Fit(problem, begin, observers, keep, saved).run()


class _Fit:
    """A fit while it runs: the history grows, the observers are told."""

    def __init__(
        self,
        problem: Problem,
        begin: Fitted,
        observers: Sequence[Observer],
        keep: Asked | None,
        saved: Saved | None,
    ) -> None:
        self.problem, self.begin, self.observers, self.saved = problem, begin, observers, saved
        task = problem.task
        self.history = {name: list(values) for name, values in (saved.history if saved else begin.history).items()}
        self.epochs = saved.snapshot.epoch if saved else 0
        carried = begin.carried or Carried(task.optimizer, task.optimizer.init(begin.p).slots, 0, BEGINNING)
        self.carried = carried
        self.samples = saved.snapshot.samples if saved else carried.standing.samples
        self.logs: dict[str, Any] = {}
        self.error: Exception | None = None
        self.keep: Checkpoints | None = None
        if keep is not None and keep.folder is not None:
            describe = keep.describe
            place = problem.data.place

            def of(flat: HostArray) -> Any:
                return describe(self.now(place.asarray(np.array(flat, copy=True))))

            of(np.asarray(place.backend.to_numpy(begin.p)))  # what cannot be kept is said before training
            self.keep = Checkpoints(keep.folder, keep.every, place, of, keep.run, keep.began)
            if saved is not None:
                demand_same_run(saved.run, keep.run)

    def run(self) -> Fitted:
        problem, begin, plan = self.problem, self.begin, self.problem.plan
        task, layout = problem.task, problem.task.network.layout
        if self.saved is not None:
            problem.draws.go_on(self.saved.draws)  # all that a fit draws before it trains has been drawn
        carried, place = self.carried, problem.data.place
        try:
            runner = problem.runner(task, problem.data, problem.seed)
            with enough_for(flops_of_step(layout.sizes, problem.data.batch_size), place):
                result = train(
                    runner,
                    State(begin.p, carried.slots, carried.t),
                    plan,
                    place,
                    layout,
                    orders=self.order,
                    validate=None if problem.monitor == "loss" else self.validate,
                    greater_is_better=problem.greater_is_better,
                    on_epoch=[self.end],
                    standing=carried.standing,
                    on_snapshot=self.snapshot,
                    start=None if self.saved is None else self.saved.snapshot,
                )
        finally:
            for observer in self.observers:
                observer.close()
        self.samples = result.standing.samples
        return Fitted(
            task.network,
            result.p,
            self.history,
            self.epochs,
            self.samples,
            Carried(task.optimizer, result.state.slots, result.state.t, result.standing),
            result.stopped_by,
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

    def end(self, report: Report) -> bool:
        if self.problem.monitor == "loss":
            self._measure(report.state.p)
        self.epochs = report.epoch
        self.samples += self.problem.plan.n_samples
        if self.error is not None:  # an epoch that could not be measured is not noted
            return True
        logs = {"loss": plain(report.loss), "learning_rate": report.learning_rate} | self.logs
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        now = self.now(report.state.p)
        try:
            wishes = [observer.end(now, logs) for observer in self.observers]  # all are told
            return any(wishes)
        except Exception as error:  # noqa: BLE001 - whatever it is, it comes out of fit once the model is safe
            self.error = error
            return True

    def snapshot(self, snapshot: Snapshot) -> None:
        if self.keep is not None:
            self.keep(snapshot, failed=self.error is not None)

    def _measure(self, p: Array) -> None:
        problem, seen = self.problem, None
        self.logs = {}
        if problem.held_out is not None:
            seen = evaluate(problem.task.network, p, problem.held_out)
            self.logs["validation_loss"] = plain(seen.loss)
        try:
            for observer in self.observers:
                self.logs |= observer.measure(self.now(p), seen)
        except Exception as error:  # noqa: BLE001 - as in `end`
            self.error = error
