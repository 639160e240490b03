"""Curves over epochs: loss, score, learning rate."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np

from xpmlp import checks
from xpmlp.inspection.models import curves_of
from xpmlp.mlp import MLP
from xpmlp.optim.schedules import Progress, Schedule
from xpmlp.optim.schedules import schedule as find_schedule
from xpmlp.plotting.canvas import Display, axes_for, colors, pyplot, shorten, whole_numbers, wide_range


class _CurveDisplay(Display):
    """Curves with one value per epoch, of one network or of several."""

    names: Mapping[str, str]  # of a history -> what the legend says
    ylabel: str
    lowest_is_best: bool

    def __init__(self, curves: Mapping[str, Any], *, name: str | None = None) -> None:
        self.curves = {label: np.asarray(values, dtype=float) for label, values in curves.items()}
        self.name = name

    @classmethod
    def from_history(cls, history: Mapping[str, Any], *, name: str | None = None, ax: Any = None, **kw: Any) -> Self:
        """From `MLP.history`, or a dict of its form; `name` goes before every label of the legend."""
        return cls._of(history, name, "history").plot(ax=ax, **kw)

    @classmethod
    def from_estimator(cls, estimator: Any, *, name: str | None = None, ax: Any = None, **kw: Any) -> Self:
        """From an `MLP` or a fitted estimator."""
        return cls._of(estimator, name, type(estimator).__name__).plot(ax=ax, **kw)

    @classmethod
    def _of(cls, source: Any, name: str | None, what: str) -> Self:
        pyplot()
        found = curves_of(source)
        curves = {label: found[key] for key, label in cls.names.items() if key in found and found[key].size}
        if not curves:
            keys = " or ".join(repr(key) for key in cls.names)
            raise ValueError(f"there is no {cls.ylabel} to draw: this {what} has recorded no {keys}. {cls._cure()}")
        return cls(curves, name=name)

    @classmethod
    def _cure(cls) -> str:
        return "Call fit first; the solver lbfgs records none."

    def plot(self, ax: Any = None, *, log: bool | None = None, mark_best: bool = True, **kw: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        log : bool, optional
            Whether the values get a logarithmic axis; by default where they spread widely.
        mark_best : bool
            Mark the best epoch of the last curve (the validation's, where there is one).
        **kw
            For every line, as `linewidth=2`.
        """
        ax = axes_for(ax, (6.0, 4.0))
        before = sum(1 for line in ax.get_lines() if line.get_label()[:1] != "_")
        self.lines_: list[Any] = []
        self.best_: Any = None
        prefix = "" if self.name is None else f"{shorten(self.name)}: "
        for i, (label, values) in enumerate(self.curves.items()):
            style = {"color": colors(ax, 1, before + i)[0], "linestyle": "-" if i == 0 else "--"} | kw
            epochs = np.arange(1, len(values) + 1)
            said = f"{prefix}{label}"
            middle = values
            if values.ndim > 1:
                ax.plot(epochs, values, **(style | {"linewidth": 0.8, "alpha": 0.35}))
                middle = np.median(values, axis=1)
                said += f" (median of {values.shape[1]})"
            dot = {"marker": "o"} if len(values) == 1 else {}
            self.lines_ += ax.plot(epochs, middle, label=said, **(dot | style))
            _mark_lone_points(ax, epochs, middle, style["color"])
        self._mark_missing(ax)
        if mark_best and len(middle) > 1 and np.any(np.isfinite(middle)):
            finite = np.where(np.isfinite(middle), middle, np.nan)
            at = int(np.nanargmin(finite) if self.lowest_is_best else np.nanargmax(finite))
            said = f"{prefix}best, epoch {at + 1}"
            point = {"marker": "o", "linestyle": "none", "fillstyle": "none", "markersize": 9, "markeredgewidth": 1.5}
            (self.best_,) = ax.plot([at + 1], [middle[at]], color=style["color"], label=said, **point)
        everything = np.concatenate([values.ravel() for values in self.curves.values()])
        if log or (log is None and self.lowest_is_best and wide_range(everything)):
            ax.set_yscale("log")
        whole_numbers(ax.xaxis)
        ax.set_xlabel("epoch")
        ax.set_ylabel(self.ylabel)
        ax.legend(fontsize="small", loc="best")
        return self._drawn([ax])

    def _mark_missing(self, ax: Any) -> None:
        # Epochs in which some curve is NaN or infinite have no place on the axis: a grey ground says that they were
        most = max(map(len, self.curves.values()))
        missing = np.zeros(most, dtype=bool)
        for values in self.curves.values():
            missing[: len(values)] |= ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not missing.any():
            return
        first = int(np.argmax(missing)) + 1
        said = f"not finite in {missing.sum()} of {most} epochs, first in {first}"
        ends = np.flatnonzero(np.diff(np.r_[False, missing, False].astype(int)))
        for i, (start, stop) in enumerate(zip(ends[::2], ends[1::2], strict=True)):
            ax.axvspan(start + 0.5, stop + 0.5, color="0.5", alpha=0.25, linewidth=0, label="_" if i else said)


def _mark_lone_points(ax: Any, epochs: Any, values: Any, color: Any) -> None:
    # Between epochs that are not finite a line has no length, and would not be seen
    there = np.isfinite(values)
    lone = there & ~np.r_[False, there[:-1]] & ~np.r_[there[1:], False]
    if np.any(lone) and len(values) > 1:
        ax.plot(epochs[lone], values[lone], color=color, marker=".", linestyle="none", label="_lone")


class LossCurveDisplay(_CurveDisplay):
    """The loss after each epoch, on the training data and, where there was one, on a validation set.

    Parameters
    ----------
    curves : dict of str to array of shape (epochs,) or (epochs, m)
        By the label of the legend. Of m networks each has a thin line, their median a thick one.
    name : str, optional
        Goes before every label: to draw several models on one axes.

    Attributes
    ----------
    lines_ : list of Line2D
        One for each curve.
    best_ : Line2D
        The mark of the best epoch.

    Examples
    --------
    >>> import numpy as np, xpmlp
    >>> from xpmlp.plotting import LossCurveDisplay
    >>> X = np.linspace(-1.0, 1.0, 40)[:, None]
    >>> net = xpmlp.MLP([1, 8, 1], "tanh", random_state=0).fit(X, X**2, epochs=5)
    >>> display = LossCurveDisplay.from_estimator(net)
    >>> display.ax_.get_xlabel()
    'epoch'
    """

    names = {"loss": "training", "validation_loss": "validation"}  # noqa: RUF012
    ylabel = "loss"
    lowest_is_best = True


class ScoreCurveDisplay(_CurveDisplay):
    """The score after each epoch: the metric of `MLP.fit`, or what an estimator's early stopping watched."""

    names = {  # noqa: RUF012
        "metric": "training",
        "validation_metric": "validation",
        "validation_score": "validation",
    }
    ylabel = "score"
    lowest_is_best = False

    @classmethod
    def _cure(cls) -> str:
        return 'Fit an MLP with metric="accuracy", an estimator with early_stopping=True or X_val and y_val.'


class ScheduleDisplay(Display):
    """The learning rate over epochs, as a schedule plans it or as it was.

    Parameters
    ----------
    rates : dict of str to pair (epochs, rates)
        By the label of the legend.

    Examples
    --------
    >>> from xpmlp import schedule
    >>> from xpmlp.plotting import ScheduleDisplay
    >>> display = ScheduleDisplay.from_schedule([schedule("cosine", warmup=5), "step"], epochs=50)
    >>> [line.get_label() for line in display.lines_]
    ['cosine(warmup=5.0, final=0.0)', 'step(every=10.0, gamma=0.5)']
    """

    def __init__(self, rates: Mapping[str, tuple[Any, Any]]) -> None:
        self.rates = {name: (np.asarray(x, dtype=float), np.asarray(y, dtype=float)) for name, (x, y) in rates.items()}

    @classmethod
    def from_schedule(
        cls,
        schedule: Any,
        *,
        epochs: int,
        learning_rate: float = 1.0,
        n_batches: int = 20,
        n_samples: int = 1000,
        ax: Any = None,
        **kw: Any,
    ) -> Self:
        """From a schedule as `fit` takes it, or from a list of them to compare.

        Parameters
        ----------
        epochs, n_batches, n_samples : int
            Of the training: epochs, steps per epoch, samples per epoch.
        learning_rate : float
            What the schedule multiplies.
        """
        pyplot()
        epochs = checks.integer(epochs, "epochs", least=1)
        several = isinstance(schedule, Iterable) and not isinstance(schedule, str)
        rates = {}
        for given in schedule if several else [schedule]:
            row = find_schedule(given)
            steps = range(epochs * n_batches + 1)
            values = [row(Progress(i, i / n_batches, i // n_batches * n_samples, epochs)) for i in steps]
            rates[_title(row)] = (np.array(steps) / n_batches, learning_rate * np.array(values))
        return cls(rates).plot(ax=ax, **kw)

    @classmethod
    def from_history(
        cls, history: Mapping[str, Any], *, name: str = "learning rate", ax: Any = None, **kw: Any
    ) -> Self:
        """From what `MLP.history` recorded: the rate with which each epoch began."""
        pyplot()
        rates = np.asarray(history.get("learning_rate", ()), dtype=float)
        if not rates.size:
            raise ValueError("this history has recorded no 'learning_rate'. Call fit first.")
        return cls({name: (np.arange(1, len(rates) + 1), rates)}).plot(ax=ax, **kw)

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kw: Any) -> Self:
        """From an `MLP`, as it was; or from an estimator, as its parameters plan it over `max_iter` epochs."""
        if isinstance(estimator, MLP):
            return cls.from_history(estimator.history, ax=ax, **kw)
        from xpmlp.estimators.building import build_schedule
        from xpmlp.estimators.settings import settings_of

        row, on_plateau = build_schedule(settings_of(estimator))
        if on_plateau == "divide":
            raise ValueError('learning_rate="adaptive" has no plan: it follows the loss.')
        epochs, rate = int(estimator.max_iter), float(estimator.learning_rate_init)
        return cls.from_schedule(row, epochs=epochs, learning_rate=rate, ax=ax, **kw)

    def plot(self, ax: Any = None, *, log: bool = False, **kw: Any) -> Self:
        """Draw the rates; `log` gives them a logarithmic axis, other keywords go to every line."""
        ax = axes_for(ax, (6.0, 3.6))
        self.lines_: list[Any] = []
        styles = ("-", "--", "-.", ":")
        for i, (name, (epochs, rates)) in enumerate(self.rates.items()):
            style = {"color": colors(ax, 1, i)[0], "linestyle": styles[i % len(styles)]} | kw
            self.lines_ += ax.plot(epochs, rates, label=shorten(name, 48), **style)
        if log:
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=0.0)
        whole_numbers(ax.xaxis)
        ax.set_xlabel("epoch")
        ax.set_ylabel("learning rate")
        ax.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0.0, 1.01), frameon=False, borderaxespad=0.0)
        return self._drawn([ax])


def _title(row: Schedule) -> str:
    return repr(row).removeprefix("<schedule ").removesuffix(">").removesuffix("()")
