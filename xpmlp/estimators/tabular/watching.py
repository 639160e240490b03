"""Who looks at a fit of an estimator of tables: score, progress bar, the user's callbacks, scikit-learn's own."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.estimators.parameters import functions_of
from xpmlp.estimators.scores import Score
from xpmlp.estimators.tabular.attributes import TabularAttributes
from xpmlp.estimators.tabular.parameters import TableSettings
from xpmlp.estimators.tabular.stages import Posed
from xpmlp.mlp.observers import Callbacks
from xpmlp.training import Fitted, Observer, Outcome
from xpmlp.training.progress import Bar

TITLES = {1: "finding the epoch", 2: "training on all rows"}


class Looking(Observer):
    """Watches all of a fit: its epochs are subtasks for scikit-learn's callbacks, and their time is taken."""

    def __init__(self, estimator: TabularAttributes, X: Any, y: Any, sample_weight: Any) -> None:
        self.estimator = estimator
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self.task = {"X": X, "y": y, "metadata": metadata}
        self.context: Any = None
        self.subcontext: Any = None
        self.began, self.seconds, self.epochs = 0.0, 0.0, 0
        if getattr(estimator, "_skl_callbacks", None):  # nobody else asks for a context
            self.context = estimator._init_callback_context(max_subtasks=None)
            self.context.call_on_fit_task_begin(estimator=estimator, **self.task)

    @property
    def seconds_an_epoch(self) -> float:
        """What an epoch has taken so far, looks and all."""
        return self.seconds / max(self.epochs, 1)

    def begin(self) -> None:
        """An epoch begins."""
        self.began = time.perf_counter()
        if self.context is not None:
            self.subcontext = self.context.subcontext(task_name="epoch")
            self.subcontext.call_on_fit_task_begin(estimator=self.estimator, **self.task)

    def end(self, now: Fitted, logs: dict[str, Any]) -> bool:  # noqa: ARG002 - as an Observer's
        """An epoch has ended; whoever shows the estimator has done so."""
        self.seconds += time.perf_counter() - self.began
        self.epochs += 1
        if self.subcontext is None:
            return False
        subcontext, self.subcontext = self.subcontext, None
        return bool(
            subcontext.call_on_fit_task_end(
                estimator=self.estimator, reconstruction_attributes=lambda: dict(vars(self.estimator)), **self.task
            )
        )

    def close(self) -> None:
        """End a task that was begun and broken off."""
        if self.subcontext is not None:
            self.subcontext.call_on_fit_task_end(estimator=self.estimator)
            self.subcontext = None

    def done(self) -> None:
        """The fit is over."""
        if self.context is not None:
            self.context.call_on_fit_task_end(estimator=self.estimator, reconstruction_attributes={}, **self.task)


class ScoresOfShards(Observer):
    """The score on the part of the shards that is held out, as their judge has it."""

    def measure(self, now: Fitted, seen: Outcome | None) -> Mapping[str, Any]:  # noqa: ARG002 - as an Observer's
        """The score of this epoch."""
        return {} if seen is None else {"validation_score": seen.score}


class Scores(Observer):
    """The score on the rows that are held out."""

    def __init__(self, score: Score, to_numpy: Callable[[Array], Any]) -> None:
        self.score, self.to_numpy = score, to_numpy

    def measure(self, now: Fitted, seen: Outcome | None) -> Mapping[str, Any]:  # noqa: ARG002 - as an Observer's
        """The score of this epoch."""
        if seen is None:
            return {}
        yhat = np.asarray(self.to_numpy(seen.yhat))
        return {"validation_score": self.score(yhat) if np.all(np.isfinite(yhat)) else math.nan}


class Shown(Observer):
    """Brings the estimator to where training is, for who looks after it."""

    def __init__(self, show: Callable[[Fitted], Any]) -> None:
        self.show = show

    def end(self, now: Fitted, logs: dict[str, Any]) -> bool:  # noqa: ARG002 - as an Observer's
        """An epoch has ended."""
        self.show(now)
        return False


class StageCallbacks(Callbacks):
    """The user's functions of (estimator, epoch, logs), told which stage it is."""

    def __init__(self, stage: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stage = stage

    def end(self, now: Fitted, logs: dict[str, Any]) -> bool:
        """Show the estimator of this epoch to the callbacks."""
        return super().end(now, logs | {"stage": self.stage})


def observers(
    settings: TableSettings,
    posed: Posed,
    looking: Looking,
    show: Callable[[Fitted], Any],
    parameters: Callable[[], Array],
) -> list[Observer]:
    """All who look at a stage; `show` and `parameters` are those of `Callbacks`."""
    found: list[Observer] = []
    if posed.held is not None:
        to_numpy = posed.content.place.backend.to_numpy
        found.append(Scores(posed.targets.watched(posed.held.samples), to_numpy))
    if posed.problem.judge is not None:
        found.append(ScoresOfShards())
    if settings.verbose:
        found.append(Bar(posed.stage.stop, TITLES[posed.stage.number]))
    if settings.callbacks is not None:
        functions = functions_of(settings.callbacks)
        found.append(StageCallbacks(posed.stage.number, functions, show, parameters))
    elif looking.context is not None:
        found.append(Shown(show))
    return [*found, looking]
