"""Who watches a fit of an estimator: scores, verbose lines, callbacks, scikit-learn's own.

The estimator is brought up to date before somebody looks at it: a plain callback, one of scikit-learn's, a scorer.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.metrics import check_scoring

from xpmlp.estimators.attributes import Attributes, give
from xpmlp.estimators.parameters import functions_of
from xpmlp.estimators.prediction import viewer
from xpmlp.estimators.scores import Score
from xpmlp.estimators.settings import Settings
from xpmlp.estimators.targets import Samples, Targets
from xpmlp.training import Fitted, Observer, Outcome
from xpmlp.training.pace import Pace

# What the history of a fit is called in an estimator
CURVES = {
    "loss": "loss_curve_",
    "validation_score": "validation_scores_",
    "validation_loss": "validation_loss_curve_",
}


class Watcher(Observer):
    """Watches one fit.

    Parameters
    ----------
    settings : Settings
        Its parameters, when the fit began.
    targets : Targets
    show : function
        From a `Fitted` to the attributes of the estimator that has it.
    held_out : Samples or None
    context : CallbackContext or None
        scikit-learn's, of this fit.
    task : dict
        The X, y and metadata that scikit-learn's callbacks are told of.
    pace : Pace, optional
        Of a fit of shards: how fast it goes.
    """

    def __init__(
        self,
        estimator: Attributes,
        settings: Settings,
        targets: Targets,
        show: Callable[[Fitted], dict[str, Any]],
        held_out: Samples | None,
        context: Any,
        task: dict[str, Any],
        pace: Pace | None = None,
    ) -> None:
        self.pace = pace
        self.estimator, self.show, self.held_out, self.context, self.task = estimator, show, held_out, context, task
        self.settings = settings
        self.rate: float | None = None
        self.subcontext: Any = None
        self.callbacks = functions_of(settings.callbacks)
        self.scorer: Any = None
        self.score: Score | None = None
        if held_out is not None and settings.scoring is None:
            self.score = targets.watched(held_out)
        elif held_out is not None and settings.scoring != "loss":
            self.scorer = check_scoring(estimator, scoring=settings.scoring)

    def begin(self) -> None:
        """An epoch begins."""
        if self.context is not None:
            self.subcontext = self.context.subcontext(task_name="epoch")
            self.subcontext.call_on_fit_task_begin(estimator=self.estimator, **self.task)

    def measure(self, now: Fitted, seen: Outcome | None) -> Mapping[str, Any]:
        """The score on the samples held out."""
        held = self.held_out
        if seen is None:
            return {}
        if self.settings.scoring == "loss":
            return {"validation_score": -float(seen.loss)}
        if seen.score is not None:
            return {"validation_score": seen.score}
        if held is None:
            return {}
        yhat = held.inputs.place.backend.to_numpy(seen.yhat)
        if not bool(np.all(np.isfinite(yhat))):
            return {"validation_score": math.nan}
        if self.score is not None:
            return {"validation_score": self.score(yhat)}
        fitted = viewer(self.estimator, self.show(now), held.inputs.place)
        weights = {} if held.w is None else {"sample_weight": held.w}
        return {"validation_score": float(self.scorer(fitted, held.inputs.on_host(), held.y, **weights))}

    def end(self, now: Fitted, logs: dict[str, Any]) -> bool:
        """Print the line of an epoch, and show the estimator to whoever wants to see it."""
        estimator = self.estimator
        if self.settings.verbose:
            self._print(now.epochs, logs)
        self.rate = logs["learning_rate"]
        stop = False
        if self.callbacks:
            give(estimator, self.show(now))
            told = {name: value for name, value in logs.items() if not (name == "learning_rate" and math.isnan(value))}
            for callback in self.callbacks:
                stop |= callback(estimator, now.epochs, told) is True
        if self.subcontext is not None:
            subcontext, self.subcontext = self.subcontext, None
            stop |= subcontext.call_on_fit_task_end(
                estimator=estimator, reconstruction_attributes=lambda: self.show(now), **self.task
            )
        return stop

    def close(self) -> None:
        """End a task that was begun and broken off, so that each beginning has its end."""
        if self.subcontext is not None:
            self.subcontext.call_on_fit_task_end(estimator=self.estimator)
            self.subcontext = None

    def plateau(self) -> str:
        """The words for having waited long enough."""
        what = "Validation score" if self.settings.early_stopping else "Training loss"
        n = self.settings.n_iter_no_change
        return f"{what} did not improve more than tol={self.settings.tol:f} for {n} consecutive epochs."

    def _print(self, epoch: int, logs: dict[str, Any]) -> None:
        rate = logs["learning_rate"]
        if self.rate is not None and rate < self.rate and self.settings.learning_rate == "adaptive":
            print(f"{self.plateau()} Setting learning rate to {rate:f}")  # noqa: T201 - verbose is for printing
        print(f"Iteration {epoch}, loss = {logs['loss']:.8f}")  # noqa: T201
        if "validation_score" in logs:
            print(f"Validation score: {logs['validation_score']:f}")  # noqa: T201
        if self.pace is not None:
            print(", ".join(f"{name}: {value}" for name, value in self.pace.numbers().items()))  # noqa: T201
