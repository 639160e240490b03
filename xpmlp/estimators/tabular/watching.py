"""Who looks at a fit of an estimator of tables: the score, the user's callbacks, the progress bar."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.estimators.scores import Score
from xpmlp.estimators.tabular.parameters import TableSettings
from xpmlp.estimators.tabular.stages import Posed
from xpmlp.mlp.observers import Callbacks
from xpmlp.training import Fitted, Observer, Outcome
from xpmlp.training.progress import Bar

TITLES = {1: "finding the epoch", 2: "training on all rows"}


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


class StageCallbacks(Callbacks):
    """The user's functions of (estimator, epoch, logs), told which stage it is."""

    def __init__(self, stage: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stage = stage

    def end(self, now: Fitted, logs: dict[str, Any]) -> bool:
        """Show the estimator of this epoch to the callbacks."""
        return super().end(now, logs | {"stage": self.stage})


def observers(
    settings: TableSettings, posed: Posed, show: Callable[[Fitted], Any], parameters: Callable[[], Array]
) -> list[Observer]:
    """All who look at a stage; `show` and `parameters` are those of `Callbacks`."""
    found: list[Observer] = []
    if posed.held is not None:
        to_numpy = posed.content.place.backend.to_numpy
        found.append(Scores(posed.targets.watched(posed.held.samples), to_numpy))
    if settings.verbose:
        found.append(Bar(posed.stage.stop, TITLES[posed.stage.number]))
    if settings.callbacks is not None:
        given = settings.callbacks
        functions = [given] if callable(given) else list(given)
        found.append(StageCallbacks(posed.stage.number, functions, show, parameters))
    return found
