"""Pictures for a page: drawn by matplotlib, as SVG text whose colours the page's style sheet names, light or dark.

Each colour that is drawn stands for a name of the style sheet (`COLOURS`) and is written as that name in the end, so
one picture serves both grounds; its text stays text. It needs no display, and changes no setting of matplotlib.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.cli.screen import CliError

COLOURS = {"ink": "#010203", "faint": "#020304", "soft": "#030405", "one": "#040506", "two": "#050607"}
SIZE, DPI = (5.6, 3.0), 72  # inches
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "xpmlp",
    "font.family": "sans-serif",
    "font.size": 9.0,
}
SETTINGS |= {"text.parse_math": False}  # a $ in a name is a $


def need_matplotlib() -> None:
    """CliError where there is none: before a training, not after it."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise CliError("--report needs matplotlib; install it with pip install 'matplotlib>=3.9'.") from error


def picture(draw: Callable[[Any], object], *, height: float = SIZE[1], name: str) -> str:
    """The SVG of what `draw` does to axes; `name` keeps its marks apart from those of other pictures on the page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink, faint = COLOURS["ink"], COLOURS["faint"]
    inked = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
    with mpl.rc_context(SETTINGS | inked), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that its font has not: the reader's has
        figure = Figure(figsize=(SIZE[0], height), dpi=DPI, layout="constrained")
        ax = figure.subplots()
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ax.grid(visible=True, color=faint, linewidth=0.8)
        ax.set_axisbelow(True)
        draw(ax)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[0-9.]+pt"', "", svg, count=2)
    svg = re.sub(r"""(id="|url\(#|href="#)""", rf"\g<1>{name}-", svg)
    for role, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg.replace("<svg ", '<svg role="img" ', 1)


def losses(series: Sequence[tuple[str, Sequence[float]]], best: int | None) -> str:
    """Losses by epoch, on a logarithmic scale where they fall far."""

    def draw(ax: Any) -> None:
        finite = [value for _, values in series for value in values if math.isfinite(value)]
        for (name, values), role in zip(series, ("one", "two"), strict=False):
            ax.plot(range(1, len(values) + 1), values, color=COLOURS[role], label=name)
        if finite and min(finite) > 0 and max(finite) / min(finite) > 20:
            ax.set_yscale("log")
        if best:
            ax.axvline(best, color=COLOURS["soft"], linestyle="--", linewidth=1.0, label="kept")
        ax.set(xlabel="epoch", ylabel="loss")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False)

    return picture(draw, name="losses")


def calibration(points: Sequence[tuple[float, float, float]], low: float) -> str:
    """How sure, and how often right; `points` are (sure, right, share of the rows)."""

    def draw(ax: Any) -> None:
        ax.plot([low, 1.0], [low, 1.0], color=COLOURS["soft"], linewidth=1.0)
        sure, right, share = np.asarray(points).reshape(-1, 3).T
        ax.scatter(sure, right, s=(6 + 18 * np.sqrt(share)) ** 2, color=COLOURS["one"], alpha=0.5, linewidths=0)
        ax.set(xlabel="what the network says", ylabel="how often it is right", ylim=(-0.05, 1.05))

    return picture(draw, name="calibration")


def scatter(truth: HostArray, said: HostArray) -> str:
    """Answers against the truth."""

    def draw(ax: Any) -> None:
        ends = [float(min(truth.min(), said.min())), float(max(truth.max(), said.max()))]
        ax.plot(ends, ends, color=COLOURS["two"], linewidth=1.0)
        ax.scatter(truth, said, s=14, color=COLOURS["one"], alpha=0.45, linewidths=0)
        ax.set(xlabel="true", ylabel="predicted")

    return picture(draw, name="answers")


def bars(rows: Sequence[tuple[str, float]]) -> str:
    """A bar for each name, the longest on top."""

    def draw(ax: Any) -> None:
        names = [name if len(name) <= 26 else name[:25] + "…" for name, _ in rows]
        values = [value for _, value in rows]
        places = range(len(rows))
        drawn = ax.barh(places, [max(value, 0.0) for value in values], color=COLOURS["one"])
        ax.bar_label(drawn, [f"{value:.3f}" for value in values], padding=4)
        ax.set_yticks(places, names)
        ax.invert_yaxis()
        ax.grid(visible=False)
        ax.set_xticks([])
        ax.margins(x=0.15)

    return picture(draw, height=0.5 + 0.3 * len(rows), name="bars")
