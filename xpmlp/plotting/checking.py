"""What was checked: gradients beside differences, and the health of every layer, epoch by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from xpmlp.inspection import GradientReport, check_gradients
from xpmlp.inspection.health import records_of
from xpmlp.plotting.canvas import (
    MOST_IN_LEGEND,
    Display,
    axes_for,
    layer_colors,
    layer_map,
    panels,
    pyplot,
    whole_numbers,
    wide_range,
)


class GradientCheckDisplay(Display):
    """The report of `check_gradients` as a matrix: a row for each layer, a column each for dW and db.

    The numbers are the relative differences. Blue is agreement, orange is not; a cell that failed also says so.

    Parameters
    ----------
    report : GradientReport

    Attributes
    ----------
    image_ : AxesImage
    texts_ : list of Text

    Examples
    --------
    >>> import numpy as np, xpmlp
    >>> from xpmlp.plotting import GradientCheckDisplay
    >>> net = xpmlp.MLP([2, 3, 1], "tanh", random_state=0)
    >>> rng = np.random.default_rng(0)
    >>> display = GradientCheckDisplay.from_estimator(net, rng.normal(size=(8, 2)), rng.normal(size=8))
    >>> display.ax_.get_title()
    'Gradient check: all agree'
    """

    def __init__(self, report: GradientReport) -> None:
        self.report = report

    @classmethod
    def from_report(cls, report: GradientReport, *, ax: Any = None, **kw: Any) -> Self:
        """From what `xpmlp.check_gradients` returned."""
        return cls(report).plot(ax=ax, **kw)

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, y: Any, *, ax: Any = None, **kw: Any) -> Self:
        """Check the gradients of an `MLP` on a batch, and draw the report."""
        pyplot()
        return cls(check_gradients(estimator, X, y)).plot(ax=ax, **kw)

    def plot(self, ax: Any = None, **kw: Any) -> Self:
        """Draw; keywords go to the image."""
        from matplotlib.colors import LinearSegmentedColormap

        report = self.report
        K = max(row.layer for row in report.rows)
        ax = axes_for(ax, (5.0, 1.3 + 0.36 * K))
        cells = np.full((K, 2), np.nan)
        for row in report.rows:
            size = max(row.relative, 1e-300) if np.isfinite(row.relative) else 1e300
            cells[row.layer - 1, "Wb".index(row.name)] = np.log10(size)
        limit = float(np.log10(report.tolerance))
        # The colours part at the tolerance, as many powers of ten on either side; both are dark enough for white text.
        parts = [(0.0, "#003A5C"), (0.5, "#0072B2"), (0.5, "#C25400"), (1.0, "#7A3500")]
        cmap = LinearSegmentedColormap.from_list("check", parts)
        look = {"cmap": cmap, "vmin": limit - 6.0, "vmax": limit + 6.0, "aspect": "auto"} | kw
        self.image_ = ax.imshow(cells, **look)
        self.texts_ = []
        for row in report.rows:
            said = f"{row.relative:.0e}" + ("" if row.ok else f"  {row.verdict}") + ("  ?" if row.undecided else "")
            at = "Wb".index(row.name), row.layer - 1
            weight = "normal" if row.ok else "bold"
            self.texts_.append(ax.text(*at, said, ha="center", va="center", color="white", fontweight=weight))
        ax.set_xticks([0, 1], ["dW", "db"])
        ax.set_yticks(range(K), [f"layer {k}" for k in range(1, K + 1)])
        ax.tick_params(length=0)
        ax.grid(visible=False)
        wrong = sum(not row.ok for row in report.rows)
        ax.set_title(f"Gradient check: {f'{wrong} of {len(report.rows)} wrong' if wrong else 'all agree'}")
        note = f"difference / largest derivative; ok up to {report.tolerance:.0e}"
        if any(row.undecided for row in report.rows):
            note += "; ?: too small to tell"
        ax.set_xlabel(note, fontsize="small")
        return self._drawn([ax])


# name: what stands above the panel, whether a logarithmic axis suits it
QUANTITIES = {
    "gradient_norm": ("gradient norm |dW|", True),
    "update_ratio": ("update / weight", True),
    "largest_z": ("largest |z|", True),
    "dead": ("dead units, %", False),
    "saturation": ("slopes next to 0, %", False),
}


class HealthDisplay(Display):
    """What a `Health` callback recorded: one panel for each quantity, one line for each layer.

    Parameters
    ----------
    epochs : array of shape (records,)
    records : dict of str to dict of int to array
        By quantity and layer.

    Attributes
    ----------
    lines_ : dict of str to list of Line2D
        By quantity; one line for each layer.
    """

    def __init__(self, epochs: Any, records: Mapping[str, Mapping[int, Any]]) -> None:
        self.epochs, self.records = epochs, records

    @classmethod
    def from_history(cls, history: Any, *, network: int = 0, ax: Any = None, **kw: Any) -> Self:
        """From `MLP.history`, or from a `Health` callback; `network` chooses one of m."""
        return cls._of(history, network).plot(ax=ax, **kw)

    @classmethod
    def from_estimator(cls, estimator: Any, *, network: int = 0, ax: Any = None, **kw: Any) -> Self:
        """From an `MLP`, or an estimator, that was fitted with a `Health` callback; `network` chooses one of m."""
        return cls._of(estimator, network).plot(ax=ax, **kw)

    @classmethod
    def _of(cls, source: Any, network: int) -> Self:
        pyplot()
        found = records_of(source)
        if "epoch" not in found:
            raise ValueError("there are no health records; fit with callbacks=[xpmlp.Health(X, y)] first.")
        records: dict[str, dict[int, Any]] = {name: {} for name in QUANTITIES}
        for key, values in found.items():
            name, _, layer = key.partition(".")
            if name in QUANTITIES and layer.isdecimal():  # not what parts have
                several = values.ndim > 1
                if several and not 0 <= network < values.shape[1]:
                    raise ValueError(f"network must be one of {values.shape[1]}, 0 the first; got {network}.")
                records[name][int(layer)] = values[:, network] if several else values
        return cls(found["epoch"], {name: layers for name, layers in records.items() if layers})

    def plot(self, ax: Any = None, **kw: Any) -> Self:
        """Draw; keywords go to every line."""
        axes = panels(ax, len(self.records), (3.6, 2.5), most_columns=3)
        K = max(max(layers) for layers in self.records.values())
        self.lines_: dict[str, list[Any]] = {}
        dashes = ("-", "--", "-.", ":") if K <= MOST_IN_LEGEND else ("-",)
        for panel, (name, layers) in zip(axes, self.records.items(), strict=True):
            title, log = QUANTITIES[name]
            palette = layer_colors(panel, K)
            self.lines_[name] = []
            for k, recorded in sorted(layers.items()):
                values = np.where(np.isfinite(recorded), recorded, np.nan) * (1.0 if log else 100.0)
                style = {"color": palette[k - 1], "linestyle": dashes[(k - 1) % len(dashes)], "linewidth": 1.4} | kw
                dot = {"marker": "o", "markersize": 4} if np.isfinite(values).sum() == 1 else {}
                self.lines_[name] += panel.plot(self.epochs, values, label=f"layer {k}", **(dot | style))
            panel.set_title(title, fontsize="small")
            panel.set_xlabel("epoch", fontsize="small")
            panel.tick_params(labelsize="small")
            whole_numbers(panel.xaxis, 5)
            if log and wide_range(np.concatenate([np.ravel(v) for v in layers.values()]), 10.0):
                panel.set_yscale("log")
            elif not log:
                panel.set_ylim(-3.0, 103.0)
        self._key(axes, K)
        return self._drawn(axes)

    def _key(self, axes: Sequence[Any], K: int) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        if K <= MOST_IN_LEGEND:
            axes[0].legend(fontsize="x-small", loc="best")
        else:
            scale = ScalarMappable(Normalize(1, K), layer_map(axes[0]))
            bar = axes[0].figure.colorbar(scale, ax=list(axes), shrink=0.7)
            bar.set_label("layer")
            whole_numbers(bar.ax.yaxis)
