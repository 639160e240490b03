"""What all displays share: matplotlib when it is needed, axes, colours, short labels."""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from xpmlp.backends import HostArray

# Okabe and Ito's colours, safe for the colour-blind, in the order that is best seen on each ground
ON_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ON_DARK = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#FFFFFF")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_IN_LEGEND = 6  # layers; more of them are read from a colour bar


def pyplot() -> Any:
    """Return matplotlib.pyplot, or say how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib; install it with pip install 'matplotlib>=3.9'.") from error
    return plt


class Display:
    """The end of every `plot`: where it was drawn."""

    ax_: Any
    axes_: HostArray
    figure_: Any

    def _drawn(self, axes: Sequence[Any]) -> Self:
        self.axes_ = np.array(axes, dtype=object)
        self.ax_, self.figure_ = axes[0], axes[0].figure
        return self


def axes_for(ax: Any, size: tuple[float, float]) -> Any:
    """The axes that were given, or those of a new figure of this size."""
    if ax is not None:
        return ax
    return pyplot().subplots(figsize=size, layout="constrained")[1]


def panels(ax: Any, n: int, size: tuple[float, float], *, most_columns: int = 4) -> list[Any]:
    """`n` axes: in a new figure, or in the place of the axes that were given, or those n that were given."""
    plt = pyplot()
    columns = min(n, most_columns)
    rows = math.ceil(n / columns)
    if ax is None:
        figure = plt.figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        grid = figure.add_gridspec(rows, columns)
    elif isinstance(ax, plt.Axes):
        if n == 1:
            return [ax]
        if ax.get_subplotspec() is None:
            raise ValueError(f"ax must belong to a grid (plt.subplots) to be divided; or pass a list of {n} axes.")
        ax.set_axis_off()
        figure = ax.figure
        grid = ax.get_subplotspec().subgridspec(rows, columns)
    else:
        given = list(np.ravel(ax))
        if len(given) != n:
            raise ValueError(f"ax must be one axes or {n} of them; got {len(given)}.")
        return given
    return [figure.add_subplot(grid[i // columns, i % columns]) for i in range(n)]


def is_dark(ax: Any) -> bool:
    """Whether the ground is nearer to black than to white."""
    from matplotlib.colors import to_rgb

    return float(np.dot(to_rgb(ax.get_facecolor()), (0.2126, 0.7152, 0.0722))) < 0.5


def ink(ax: Any) -> Any:
    """The colour of text."""
    return ax.xaxis.label.get_color()


def colors(ax: Any, n: int, start: int = 0) -> list[str]:
    """Colours for n things that have no order."""
    table = ON_DARK if is_dark(ax) else ON_LIGHT
    return [table[i % len(table)] for i in range(start, start + n)]


def layer_map(ax: Any) -> Any:
    """The colour map of layers, the lowest first: the part of viridis that is seen on this ground."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    low, high = (0.4, 1.0) if is_dark(ax) else (0.0, 0.85)
    return ListedColormap(colormaps["viridis"](np.linspace(low, high, 256)))


def layer_colors(ax: Any, n: int) -> list[Any]:
    """Colours for n layers."""
    return list(layer_map(ax)(np.linspace(0.0, 1.0, n) if n > 1 else [0.0]))


def diverging(ax: Any) -> Any:
    """Blue below 0, the ground at 0, orange above: of weights."""
    from matplotlib.colors import LinearSegmentedColormap

    if is_dark(ax):
        return LinearSegmentedColormap.from_list("weights", ["#8FD3FF", "#2B7DB0", "#101010", "#B87A00", "#FFD98A"])
    return LinearSegmentedColormap.from_list("weights", ["#00466E", "#6FB0D6", "#F7F7F7", "#F0A66B", "#A34700"])


def shorten(label: Any, most: int = 28) -> str:
    """Text that fits: its beginning, and an ellipsis if that was not all."""
    text = " ".join(str(label).split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def whole_numbers(axis: Any, nbins: int = 8) -> None:
    """Ticks of epochs and layers are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=nbins, integer=True, min_n_ticks=1))


def legend_below(ax: Any, handles: Sequence[Any], labels: Sequence[str], title: str | None = None) -> Any:
    """A legend under the axes, where it hides nothing, with as many columns as its labels leave room for."""
    width = ax.get_window_extent().width / ax.figure.dpi
    longest = max(map(len, labels))
    columns = max(1, min(len(labels), int(width / (0.085 * longest + 0.45))))
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "borderaxespad": 0.0}
    return ax.legend(handles, labels, title=title, ncols=columns, frameon=False, fontsize="small", **place)


def wide_range(values: HostArray, factor: float = 30.0) -> bool:
    """Whether positive numbers spread so far that only a logarithmic axis shows them all."""
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0.0 and values.max() > factor * values.min())
