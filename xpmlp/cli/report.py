"""One page that shows how a training went: self-contained HTML with figures in SVG, light or dark as the reader has it.

Drawn here, and not with matplotlib, so that the page needs nothing to be made and nothing to be read.
"""

import html
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.backends.transfer import to_numpy
from xpmlp.cli import scores as scoring
from xpmlp.io import storage
from xpmlp.tabular import TablePreparation
from xpmlp.tabular.kinds import LeftOut

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 26, 44
MOST_ROWS = 2_000  # for what costs a prediction per column
MOST_BARS = 15
MOST_CLASSES = 20  # of a table of confusions
SERIES = ("var(--one)", "var(--two)")

STYLE = """
:root { --ink: #1c1f23; --paper: #ffffff; --faint: #d8dce0; --soft: #5b636b; --one: #1f5a99; --two: #c2541b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #16191c; --faint: #3a4047; --soft: #a0a8b0; --one: #74b0ee; --two: #f09a62; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto;
       max-width: 1180px; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin: 0 0 .3rem }
p { margin: .3rem 0; color: var(--soft); max-width: 70ch }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 2rem; }
section { min-width: 0; overflow-x: auto; margin-top: 1.6rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .2rem .8rem .2rem 0;
        text-align: left; vertical-align: top; border-bottom: 1px solid var(--faint) }
td.n, th.n { text-align: right } td.c { text-align: right; padding: .25rem .5rem; border: 1px solid var(--paper) }
svg { width: 100%; height: auto; max-width: 640px } svg text { fill: var(--ink); font: 12px system-ui, sans-serif }
"""


def write_report(
    path: str, model: Any, preparation: TablePreparation, summary: dict[str, Any], X: HostArray, y: HostArray
) -> None:
    """Write the page; X and y are the rows held out."""
    with storage.replacing(path) as file:
        file.write(page(model, preparation, summary, X, y).encode("utf-8"))


def page(model: Any, preparation: TablePreparation, summary: dict[str, Any], X: HostArray, y: HostArray) -> str:
    """The page as text."""
    X = X.astype(model.dtype_)
    title = f"{summary['target']}: {summary['task']} from {summary['data']['file']}"
    others = [summary["baseline"], *([] if summary["linear"] is None else [summary["linear"]])]
    scores = scoring.rows_of(summary["scores"], *others)
    always = summary["baseline"]["always"]
    always = f"{always:.4g}" if isinstance(always, float) else str(always)
    head = (
        "",
        f"on {summary['rows']['held_out']:,} rows held out",
        f"if the answer were always {always}",
        "a linear model",
    )[: 2 + len(others)]
    sections = [curves(model, summary)]
    if summary["task"] == "classification":
        p = to_numpy(model.predict_proba(X))
        predicted = model.classes_[np.argmax(p, axis=1)]
        sections += [confusion(model.classes_, y, predicted), calibration(p, model.classes_, y)]
    else:
        sections.append(scatter(y, np.asarray(model.predict(X))))
    sections.append(importance(model, preparation, X, y))
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{html.escape(title)}</h1>",
            f"<p>{summary['task'].capitalize()}: {html.escape(summary['why'])}. {summary['epochs']} epochs in "
            f"{summary['seconds']:.1f} s on {html.escape(summary['backend'])}, {html.escape(summary['device'])}, "
            f"{summary['dtype']}.</p>",
            f"<section>{_table([head, *scores])}</section>",
            '<div class="figures">',
            *(f"<section>{section}</section>" for section in sections if section),
            "</div>",
            f"<section><h2>The network</h2>{_network(model)}</section>",
            f"<section><h2>The columns</h2>{_columns(preparation, summary)}</section>",
            "</body></html>\n",
        ]
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    def line(row: Sequence[str], tag: str) -> str:
        cells = (f"<{tag}{' class=n' if i else ''}>{html.escape(cell)}</{tag}>" for i, cell in enumerate(row))
        return f"<tr>{''.join(cells)}</tr>"

    return f"<table>{line(rows[0], 'th')}{''.join(line(row, 'td') for row in rows[1:])}</table>"


def _network(model: Any) -> str:
    rows = [("layer", "inputs", "units", "parameters")]
    for k, (W, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True), start=1):
        rows.append((str(k), f"{W.shape[0]:,}", f"{W.shape[1]:,}", f"{W.shape[0] * W.shape[1] + b.shape[0]:,}"))
    return _table(rows)


def _columns(preparation: TablePreparation, summary: dict[str, Any]) -> str:
    rows = [("column", "", "inputs")]
    for i, kind in enumerate(preparation.kinds_):
        if not isinstance(kind, LeftOut):
            what = type(kind).__name__.removesuffix("Kind").lower()
            rows.append((kind.name, what, str(int(np.sum(preparation.sources_ == i)))))
    rows += [(name, f"left out: {why}", "") for name, why in summary["left_out"]]
    return _table(rows)


# --- Figures ---


def curves(model: Any, summary: dict[str, Any]) -> str:
    """The loss by epoch, on a logarithmic scale where it falls far."""
    training, validation = model.loss_curve_, model.validation_loss_curve_
    series = [("training", training), ("validation", validation)]
    finite = [value for _, values in series for value in values if math.isfinite(value)]
    log = min(finite) > 0 and max(finite) / min(finite) > 20
    low, high = min(finite), max(finite)
    if not log:
        low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    chart = Chart((1, max(len(training), 2)), (low, high), "epoch", "loss", log)
    for (name, values), colour in zip(series, SERIES, strict=True):
        chart.line(range(1, len(values) + 1), values, colour)
        chart.legend(name, colour)
    best = summary["best_epoch"]
    if best:
        chart.mark(best, "kept")
    unit = "" if summary["task"] == "classification" else " Of the target divided by its standard deviation."
    return (
        f"<h2>Loss</h2><p>The weights of epoch {best} are kept: the lowest loss in validation.{unit}</p>{chart.svg()}"
    )


def confusion(classes: HostArray, y: HostArray, predicted: HostArray) -> str:
    """How often each class was taken for each other."""
    if len(classes) > MOST_CLASSES:
        wrong = [(np.sum((y == c) & (predicted != c)), np.sum(y == c), str(c)) for c in classes]
        rows = [(name, f"{bad:,}", f"{n:,}") for bad, n, name in sorted(wrong, reverse=True)[:MOST_CLASSES]]
        return f"<h2>Classes that are taken for others</h2>{_table([('class', 'wrong', 'of'), *rows])}"
    counts = np.asarray([[np.sum((y == c) & (predicted == other)) for other in classes] for c in classes])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [html.escape(str(c)) for c in classes]
    lines = ["<tr><th></th>" + "".join(f"<th class=n>{name}</th>" for name in names) + "</tr>"]
    for i, name in enumerate(names):
        cells = []
        for j in range(len(names)):
            colour = "var(--one)" if i == j else "var(--two)"
            shade = f"background:color-mix(in srgb, {colour} {70 * shares[i, j]:.0f}%, transparent)"
            cells.append(f'<td class="c" style="{shade}" title="{shares[i, j]:.1%}">{counts[i, j]:,}</td>')
        lines.append(f"<tr><th>{name}</th>{''.join(cells)}</tr>")
    return (
        "<h2>Which class is taken for which</h2><p>A row is what is true, a column what was answered; "
        f"held-out rows.</p><table>{''.join(lines)}</table>"
    )


def calibration(p: HostArray, classes: HostArray, y: HostArray) -> str:
    """Whether a probability of 80 % is right 8 times in 10."""
    sure, right = np.max(p, axis=1), classes[np.argmax(p, axis=1)] == y
    edges = np.linspace(1 / len(classes), 1.0, 11)
    chart = Chart((float(edges[0]), 1.0), (0.0, 1.0), "what the network says", "how often it is right")
    chart.line([edges[0], 1.0], [edges[0], 1.0], "var(--faint)")
    for low, high in pairwise(edges):
        inside = (sure >= low) & ((sure < high) | (high == 1.0))
        n = int(np.sum(inside))
        if n:
            share = float(np.mean(right[inside]))
            radius = 3 + 9 * math.sqrt(n / len(y))
            chart.point(float(np.mean(sure[inside])), share, "var(--one)", radius, f"{share:.1%} of {n:,} are right")
    return (
        "<h2>How sure, and how often right</h2><p>On the line: as often right as it says. Below it: too sure of "
        f"itself. Larger points are more rows.</p>{chart.svg()}"
    )


def scatter(y: HostArray, predicted: HostArray) -> str:
    """Answers against the truth."""
    some = np.linspace(0, len(y) - 1, min(len(y), MOST_ROWS)).astype(int)
    truth, said = y[some], predicted[some]
    low, high = float(min(truth.min(), said.min())), float(max(truth.max(), said.max()))
    chart = Chart((low, high), (low, high), "true", "predicted")
    chart.line([low, high], [low, high], "var(--two)")
    for a, b in zip(truth, said, strict=True):
        chart.point(float(a), float(b), "var(--one)", 2.2)
    return f"<h2>Answers and truth</h2><p>On the line: right. {len(some):,} rows held out.</p>{chart.svg()}"


def importance(model: Any, preparation: TablePreparation, X: HostArray, y: HostArray) -> str:
    """How much worse the score gets when a column is shuffled among the rows."""
    rng = np.random.default_rng(0)
    some = np.linspace(0, len(y) - 1, min(len(y), MOST_ROWS)).astype(int)
    X, y = X[some], y[some]
    score = float(model.score(X, y))
    losses = []
    for i, kind in enumerate(preparation.kinds_):
        if isinstance(kind, LeftOut):
            continue
        inputs = np.flatnonzero(preparation.sources_ == i)
        mixed = X.copy()
        mixed[:, inputs] = X[rng.permutation(len(X))][:, inputs]
        losses.append((score - float(model.score(mixed, y)), kind.name))
    losses = sorted(losses, key=lambda pair: -pair[0])
    rest = len(losses) - MOST_BARS
    losses = losses[:MOST_BARS]
    largest = max(*(loss for loss, _ in losses), 1e-12)
    what = "share of right answers" if hasattr(model, "classes_") else "R2"
    height, label = 26, 180
    lines = []
    for i, (loss, name) in enumerate(losses):
        width = max(loss, 0.0) / largest * (WIDTH - label - 70)
        shown = name if len(name) <= 26 else name[:25] + "…"
        at_y = i * height
        lines.append(
            f'<text x="{label - 8}" y="{at_y + 17}" text-anchor="end">{html.escape(shown)}'
            f"<title>{html.escape(name)}</title></text>"
            f'<rect x="{label}" y="{at_y + 4}" width="{width:.1f}" height="{height - 8}" fill="var(--one)"/>'
            f'<text x="{label + width + 6:.1f}" y="{at_y + 17}">{loss:.3f}</text>'
        )
    more = f" {rest} columns that matter less are not shown." if rest > 0 else ""
    return (
        f"<h2>What the answers depend on</h2><p>How much the {what} falls ({score:.3f} now) when a column is shuffled "
        f"among {len(y):,} rows held out. Of two columns that say the same, each looks small.{more}</p>"
        f'<svg viewBox="0 0 {WIDTH} {height * len(losses)}" role="img">{"".join(lines)}</svg>'
    )


class Chart:
    """Two axes and what is drawn between them."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], xlabel: str, ylabel: str, log: bool = False
    ) -> None:
        self.log = log
        self.x, self.y = x, (math.log10(y[0]), math.log10(y[1])) if log else y
        if self.x[0] == self.x[1]:
            self.x = (self.x[0] - 0.5, self.x[1] + 0.5)
        if self.y[0] == self.y[1]:
            self.y = (self.y[0] - 0.5, self.y[1] + 0.5)
        self.parts: list[str] = []
        self.keys: list[tuple[str, str]] = []
        for value in ticks(*self.x):
            at = self._x(value)
            self.parts.append(
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="var(--faint)"/>'
                f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:.6g}</text>'
            )
        for value in decades(*y) if log else ticks(*self.y):
            at = self._y(value)
            self.parts.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="var(--faint)"/>'
                f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.6g}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        self.parts.append(
            f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(xlabel)}</text>'
            f'<text transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
            f"{html.escape(ylabel)}</text>"
        )

    def _x(self, value: float) -> float:
        return LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        if self.log:
            value = math.log10(value)
        return HEIGHT - BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)

    def line(self, x: Any, y: Any, colour: str) -> None:
        """A line through points; those that are not finite are gaps."""
        pairs = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b) and (not self.log or b > 0)]
        points = " ".join(f"{self._x(a):.1f},{self._y(b):.1f}" for a, b in pairs)
        self.parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')

    def point(self, x: float, y: float, colour: str, radius: float, tip: str = "") -> None:
        """A point, with a text for who points at it."""
        title = f"<title>{html.escape(tip)}</title>" if tip else ""
        self.parts.append(
            f'<circle cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="{radius:.1f}" fill="{colour}" '
            f'fill-opacity="0.45">{title}</circle>'
        )

    def mark(self, x: float, text: str) -> None:
        """A dashed line across."""
        at = self._x(x)
        side = "end" if at > WIDTH / 2 else "start"
        self.parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="var(--soft)" '
            f'stroke-dasharray="4 3"/><text x="{at + (-5 if side == "end" else 5):.1f}" y="{HEIGHT - BOTTOM - 8}" '
            f'text-anchor="{side}">{text}</text>'
        )

    def legend(self, name: str, colour: str) -> None:
        """A name for a colour."""
        self.keys.append((name, colour))

    def svg(self) -> str:
        """The figure."""
        keys = "".join(
            f'<line x1="{LEFT + 110 * i}" x2="{LEFT + 22 + 110 * i}" y1="10" y2="10" '
            f'stroke="{colour}" stroke-width="2.5"/><text x="{LEFT + 28 + 110 * i}" y="14">{html.escape(name)}</text>'
            for i, (name, colour) in enumerate(self.keys)
        )
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(self.parts)}{keys}</svg>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two."""
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two numbers."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    return [value for value in values if low <= value <= high] or [low, high]
