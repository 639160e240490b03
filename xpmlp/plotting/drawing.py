"""The network itself: units, connections, shapes."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from xpmlp import checks
from xpmlp.backends import HostArray
from xpmlp.inspection.models import host, open_up, per_network
from xpmlp.plotting.canvas import Display, axes_for, colors, ink, pyplot, shorten

COLUMN = 1.15  # inches for each layer of a new figure
WIDEST = 14.0  # inches


class NetworkDisplay(Display):
    r"""The network drawn: a column of units for each layer, a line for each weight, the shapes beneath.

    A line's colour is the sign of the weight (blue below 0, orange above), its strength the size, relative to the
    largest of its layer. Of a layer with many units the first and the last are drawn, with dots between.

    Parameters
    ----------
    weights : list of array of shape (n_in, n_out)
        W[1] ... W[K].
    activations : list of str
        Of layers 1 ... K.
    feature_names, class_names : sequence of str, optional
        Beside the units of the input and of the output.

    Attributes
    ----------
    units_ : list of PathCollection
        The units of each layer that are drawn.
    connections_ : list of LineCollection
    texts_ : list of Text

    Examples
    --------
    >>> import xpmlp
    >>> from xpmlp.plotting import NetworkDisplay
    >>> display = NetworkDisplay.from_estimator(xpmlp.MLP([2, 4, 3, 1], random_state=0))
    >>> [text.get_text() for text in display.texts_ if "W[2]" in text.get_text()]
    ['W[2]\n(4, 3)']
    """

    def __init__(
        self,
        weights: Sequence[Any],
        activations: Sequence[str],
        *,
        feature_names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.weights, self.activations = list(weights), list(activations)
        self.feature_names, self.class_names = feature_names, class_names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        feature_names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        network: int = 0,
        ax: Any = None,
        **kw: Any,
    ) -> Self:
        """From an `MLP` or a fitted estimator; `network` chooses one of m, or a member."""
        pyplot()
        model = open_up(estimator)
        sizes = model.network.layout.sizes
        W = [per_network(host(w), model, network) for w in model.W[1:]]
        if feature_names is None:
            feature_names = getattr(estimator, "feature_names_in_", None)
            if feature_names is not None and len(feature_names) != sizes[0]:  # a preparation has made others of them
                feature_names = None
        for names, n, what in ((feature_names, sizes[0], "feature"), (class_names, sizes[-1], "class")):
            if names is not None and len(names) != n:
                raise ValueError(f"{what}_names must hold {n} names; got {len(names)}.")
        rows = [row.name for row in model.network.activations]
        return cls(W, rows, feature_names=feature_names, class_names=class_names).plot(ax=ax, **kw)

    def plot(self, ax: Any = None, *, most_units: int = 8) -> Self:
        """Draw at most `most_units` units of a layer."""
        most = checks.integer(most_units, "most_units", least=2)
        sizes = [self.weights[0].shape[0], *(W.shape[1] for W in self.weights)]
        K = len(self.weights)
        named = sum(names is not None for names in (self.feature_names, self.class_names))
        ax = axes_for(ax, (min(max(COLUMN * (K + 1) + 1.2 * named, 4.0), WIDEST), 4.4))
        inches = ax.get_window_extent().width / ax.figure.dpi / (K + 1 + named)
        font = float(np.clip(9.0 * inches / COLUMN, 5.0, 9.0))
        shown = [_shown(n, most) for n in sizes]
        tall = max(len(rows) + (len(rows) < n) for rows, n in zip(shown, sizes, strict=True))
        heights = [_heights(len(rows), len(rows) < n, tall) for rows, n in zip(shown, sizes, strict=True)]
        self.units_: list[Any] = []
        self.connections_: list[Any] = []
        self.texts_: list[Any] = []
        for k in range(1, K + 1):
            self._connect(ax, k, shown[k - 1 : k + 1], heights[k - 1 : k + 1])
        for k, (rows, ys) in enumerate(zip(shown, heights, strict=True)):
            style = {"s": 70, "color": [ax.get_facecolor()], "edgecolors": [ink(ax)], "linewidths": 1.2, "zorder": 3}
            self.units_.append(ax.scatter([k] * len(ys), ys, **style))
            if len(rows) < sizes[k]:
                gap = 0.5 * (ys[-2] + ys[-1])
                dots = {"marker": ".", "s": 6, "color": [ink(ax)], "zorder": 3}
                ax.scatter([k] * 3, gap + np.array([-0.18, 0.0, 0.18]), **dots)
        self._write(ax, sizes, tall, font, crowded=inches < 0.6)
        for k, names, side in ((0, self.feature_names, -1), (K, self.class_names, 1)):
            if names is not None:
                for row, y in zip(shown[k], heights[k], strict=True):
                    where = {"ha": "right" if side < 0 else "left", "va": "center", "fontsize": font}
                    self.texts_.append(ax.text(k + 0.16 * side, y, shorten(names[row], 24), **where))
        ax.set_xlim(-0.5, K + 0.5)
        ax.set_ylim(-0.4, tall - 0.4)
        ax.set_axis_off()
        return self._drawn([ax])

    def _connect(self, ax: Any, k: int, shown: Sequence[HostArray], heights: Sequence[HostArray]) -> None:
        from matplotlib.collections import LineCollection
        from matplotlib.colors import to_rgb

        W = np.asarray(self.weights[k - 1], dtype=float)[np.ix_(*shown)]
        size = np.abs(W) / (float(np.max(np.abs(self.weights[k - 1]))) or 1.0)
        ends = [[(k - 1, y), (k, u)] for y in heights[0] for u in heights[1]]
        blue, orange = map(to_rgb, colors(ax, 2))
        shades = [(*(orange if w > 0 else blue), 0.08 + 0.85 * s) for w, s in zip(W.ravel(), size.ravel(), strict=True)]
        lines = LineCollection(ends, colors=shades, linewidths=0.4 + 1.6 * size.ravel(), zorder=1)
        self.connections_.append(ax.add_collection(lines))

    def _write(self, ax: Any, sizes: Sequence[int], tall: int, font: float, *, crowded: bool) -> None:
        K = len(sizes) - 1
        step = 2.4 if crowded else 0.0  # every other shape a line lower

        def beneath(x: float, lines: float, text: str) -> None:
            where = {"xytext": (0.0, -lines * font), "textcoords": "offset points", "ha": "center", "va": "top"}
            self.texts_.append(ax.annotate(text, (x, -0.4), fontsize=font, **where))

        for k, n in enumerate(sizes):
            name = "input" if k == 0 else "output" if k == K else f"layer {k}"
            self.texts_.append(ax.text(k, tall - 0.5, f"{name}\n{n}", va="bottom", ha="center", fontsize=font))
            if k > 0:
                beneath(k, 0.2, shorten(self.activations[k - 1].removeprefix("own "), 12))
                beneath(k - 0.5, 1.8 + step * (k % 2), f"W[{k}]\n({sizes[k - 1]}, {n})")
        zero = [f"W[{k}]" for k, W in enumerate(self.weights, start=1) if not np.any(W)]
        said = "orange: weight above 0, blue: below 0; the stronger, the larger"
        if zero:
            every = len(zero) == K
            said = f"all weights are 0{'' if every else ' in ' + ', '.join(zero)}" + ("" if every else f"; {said}")
        beneath(0.5 * K, 5.2 + step, said)


def _shown(n: int, most: int) -> HostArray:
    return np.arange(n) if n <= most else np.array([*range(most - 2), n - 1])


def _heights(n: int, gap: bool, tall: int) -> HostArray:
    # From the top down, in the middle of the column; the dots take the place of one unit
    steps = np.arange(n, dtype=float)
    if gap:
        steps[-1] += 1.0
    heights: HostArray = 0.5 * (tall - 1 + steps[-1]) - steps
    return heights
