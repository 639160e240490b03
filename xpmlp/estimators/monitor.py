"""What happens around each epoch of a fit: history, validation, verbose lines, callbacks.

The estimator is brought up to date before somebody looks at it: a plain callback, one of scikit-learn's, a scorer.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import check_scoring

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.estimators.inputs import Inputs
from xpmlp.network import Network, forward, losses
from xpmlp.training import Report


class HeldOut(NamedTuple):
    """Samples that are not trained on."""

    inputs: Inputs
    y: HostArray  # as the caller has it: labels, numbers
    targets: HostArray  # as the network has it
    w: HostArray | None


class History(NamedTuple):
    """One entry per epoch of every fit that was continued; the validation's are None where nothing was held out."""

    losses: list[float]
    validation_losses: list[float] | None
    validation_scores: list[float] | None


class Monitor:
    """Watches one fit.

    Parameters
    ----------
    network : Network
    show : function
        From the parameters to the fitted attributes that they make: what somebody who looks at the estimator sees.
    held_out : HeldOut or None
    context : CallbackContext or None
        scikit-learn's, of this fit.
    task : dict
        The X, y and metadata that scikit-learn's callbacks are told of.
    """

    def __init__(
        self,
        estimator: Any,
        network: Network,
        show: Callable[[Array], dict[str, Any]],
        held_out: HeldOut | None,
        history: History,
        context: Any,
        task: dict[str, Any],
    ) -> None:
        self.estimator, self.network, self.show, self.held_out = estimator, network, show, held_out
        self.history, self.context, self.task = history, context, task
        self.epochs = 0
        self.rate: float | None = None
        self.subcontext: Any = None
        given = estimator.callbacks
        self.callbacks: Sequence[Any] = () if given is None else [given] if callable(given) else list(given)
        self.scoring: Any = self._scoring() if held_out is not None else None
        self.blocks: Any = None
        self.error: Exception | None = None  # what a callback raised

    @property
    def greater_is_better(self) -> bool:
        """Whether the monitored value is a score, and not a loss."""
        return bool(self.estimator.scoring != "loss")

    def begin(self) -> None:
        """An epoch begins."""
        if self.context is not None:
            self.subcontext = self.context.subcontext(task_name="epoch")
            self.subcontext.call_on_fit_task_begin(estimator=self.estimator, **self.task)

    def validate(self, p: Array) -> HostArray:
        """Loss and score on the samples held out; the one that early stopping watches comes back."""
        assert self.held_out is not None
        assert self.history.validation_losses is not None
        assert self.history.validation_scores is not None
        yhat, loss = self._outputs(p)
        finite = bool(np.all(np.isfinite(yhat)))
        if self.scoring is None:
            score = -loss
        elif self.scoring == "default":
            score = self.estimator._score_outputs(self.held_out.y, yhat, self.held_out.w) if finite else math.nan
        else:
            score = self._call_scorer(p) if finite else math.nan
        self.history.validation_losses.append(loss)
        self.history.validation_scores.append(float(score))
        return np.asarray(score if self.greater_is_better else loss)

    def end(self, report: Report) -> bool:
        """An epoch has ended; True where somebody wants to stop."""
        loss = float(report.loss)
        self._announce_rate(report.learning_rate)
        self.history.losses.append(loss)
        self.epochs = report.epoch
        if self.estimator.verbose:
            print(f"Iteration {report.epoch}, loss = {loss:.8f}")  # noqa: T201 - verbose is for printing
            if self.history.validation_scores:
                print(f"Validation score: {self.history.validation_scores[-1]:f}")  # noqa: T201
        return self._call_back(report.state.p, loss, report.learning_rate)

    def close(self) -> None:
        """End a task that was begun and broken off, so that each beginning has its end."""
        if self.subcontext is not None:
            self.subcontext.call_on_fit_task_end(estimator=self.estimator)
            self.subcontext = None

    def _announce_rate(self, rate: float) -> None:
        lowered = self.rate is not None and rate < self.rate and self.estimator.learning_rate == "adaptive"
        if self.estimator.verbose and lowered:
            print(f"{self.plateau()} Setting learning rate to {rate:f}")  # noqa: T201
        self.rate = rate

    def plateau(self) -> str:
        """The words for having waited long enough."""
        what = "Validation score" if self.estimator.early_stopping else "Training loss"
        estimator, n = self.estimator, self.estimator.n_iter_no_change
        return f"{what} did not improve more than tol={estimator.tol:f} for {n} consecutive epochs."

    def _call_back(self, p: Array, loss: float, rate: float) -> bool:
        stop = False
        if self.callbacks:
            estimator, history = self.estimator, self.history
            logs: dict[str, Any] = {"loss": loss}
            if not math.isnan(rate):  # L-BFGS has none
                logs["learning_rate"] = rate
            if history.validation_losses:
                logs["validation_loss"] = history.validation_losses[-1]
                logs["validation_score"] = (history.validation_scores or [math.nan])[-1]
            vars(estimator).update(self.show(p), n_iter_=self.epochs, loss_=loss, loss_curve_=list(history.losses))
            try:
                for callback in self.callbacks:
                    stop |= callback(estimator, self.epochs, logs) is True
            except Exception as error:  # noqa: BLE001 - whatever it is, it comes out of fit once the estimator is safe
                self.error, stop = error, True
        if self.subcontext is not None:
            subcontext, self.subcontext = self.subcontext, None
            stop |= subcontext.call_on_fit_task_end(
                estimator=self.estimator, reconstruction_attributes=lambda: self.show(p), **self.task
            )
        return stop

    def _scoring(self) -> Any:
        scoring = self.estimator.scoring
        if scoring == "loss":
            return None
        return "default" if scoring is None else check_scoring(self.estimator, scoring=scoring)

    def _outputs(self, p: Array) -> tuple[HostArray, float]:
        """What the network says of the samples held out, and the loss: on the host, in blocks."""
        held = self.held_out
        assert held is not None
        inputs = held.inputs
        if self.blocks is None:
            rows = rows_at_once(self.network.layout.sizes)
            self.blocks = list(inputs.data(held.targets, None, rows).batches(None)) if inputs.n <= rows else None
        blocks = self.blocks or inputs.data(held.targets, None, rows_at_once(self.network.layout.sizes)).batches(None)
        W, b = self.network.layout.unpack(p)
        to_numpy = inputs.place.backend.to_numpy
        outputs, values = [], []
        for x, y, _ in blocks:
            trace = forward(self.network, W, b, x)
            outputs.append(to_numpy(trace.a[-1]))
            values.append(to_numpy(losses(self.network, trace, y)))
        yhat = outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
        return yhat, float(np.average(np.concatenate(values), weights=held.w))

    def _call_scorer(self, p: Array) -> float:
        held = self.held_out
        assert held is not None
        viewer = self.estimator._viewer(self.show(p), held.inputs.place)
        weights = {} if held.w is None else {"sample_weight": held.w}
        return float(self.scoring(viewer, held.inputs.on_host(), held.y, **weights))


def rows_at_once(sizes: tuple[int, ...]) -> int:
    """Samples whose activations fit into 64 MiB a layer."""
    return max(2**26 // (8 * max(sizes)), 1)
