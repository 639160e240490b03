"""One page that shows how a training went: self-contained HTML, its pictures light or dark as the reader has it."""

import html
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.cli import figures
from xpmlp.cli import scores as scoring
from xpmlp.cli.models import in_words
from xpmlp.io import storage
from xpmlp.tabular import TablePreparation
from xpmlp.tabular.columns import Table
from xpmlp.tabular.encoding import as_read
from xpmlp.tabular.kinds import LeftOut

MOST_ROWS = 2_000  # for what costs a prediction per column
MOST_BARS = 15
MOST_CLASSES = 20  # of a table of confusions

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


def write_report(path: str, model: Any, summary: dict[str, Any], X: Table, y: HostArray) -> None:
    """Write the page; X and y are the rows held out."""
    with storage.replacing(path) as file:
        file.write(page(model, summary, X, y).encode("utf-8"))


def page(model: Any, summary: dict[str, Any], X: Table, y: HostArray) -> str:
    """The page as text."""
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
    classes = getattr(model, "classes_", None)
    if classes is not None:
        p = model.predict_proba(X)
        sections += [confusion(classes, y, classes[np.argmax(p, axis=1)]), calibration(p, classes, y)]
    else:
        sections.append(scatter(y, model.predict(X)))
    sections.append(importance(model, X, y))
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
            f"<section><h2>The columns</h2>{_columns(model.preparation_, summary)}</section>",
            "</body></html>\n",
        ]
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    def line(row: Sequence[str], tag: str) -> str:
        cells = (f"<{tag}{' class=n' if i else ''}>{html.escape(cell)}</{tag}>" for i, cell in enumerate(row))
        return f"<tr>{''.join(cells)}</tr>"

    return f"<table>{line(rows[0], 'th')}{''.join(line(row, 'td') for row in rows[1:])}</table>"


def _network(model: Any) -> str:
    net = model.network_
    told = f"<p>{html.escape(in_words(net))}</p>"
    rows = [("layer", "inputs", "units", "weights and biases")]
    for k, (W, b) in enumerate(zip(net.W[1:], net.b[1:], strict=True), start=1):
        rows.append((str(k), f"{W.shape[-2]:,}", f"{W.shape[-1]:,}", f"{math.prod(W.shape) + math.prod(b.shape):,}"))
    return told + _table(rows)


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
    """The loss by epoch."""
    best, seen = summary["best_epoch"], model.history_
    series = [
        (name, seen[key]) for name, key in (("training", "loss"), ("validation", "validation_loss")) if key in seen
    ]
    unit = "" if summary["task"] == "classification" else " Of the target divided by its standard deviation."
    told = f"Epoch {best} is the best: the lowest loss in validation."
    told += " Up to it the network was trained anew on all rows." if summary["refitted"] else ""
    return f"<h2>Loss</h2><p>{told}{unit}</p>{figures.losses(series, best)}"


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
    points = []
    for low, high in pairwise(edges):
        inside = (sure >= low) & ((sure < high) | (high == 1.0))
        if np.any(inside):
            points.append((float(np.mean(sure[inside])), float(np.mean(right[inside])), float(np.mean(inside))))
    return (
        "<h2>How sure, and how often right</h2><p>On the line: as often right as it says. Below it: too sure of "
        f"itself. Larger points are more rows.</p>{figures.calibration(points, float(edges[0]))}"
    )


def scatter(y: HostArray, predicted: HostArray) -> str:
    """Answers against the truth."""
    some = np.linspace(0, len(y) - 1, min(len(y), MOST_ROWS)).astype(int)
    picture = figures.scatter(y[some], predicted[some])
    return f"<h2>Answers and truth</h2><p>On the line: right. {len(some):,} rows held out.</p>{picture}"


def importance(model: Any, X: Table, y: HostArray) -> str:
    """How much worse the score gets when a column is shuffled among the rows."""
    rng = np.random.default_rng(0)
    some = np.linspace(0, len(y) - 1, min(len(y), MOST_ROWS)).astype(int)
    X, y = X.take(some), y[some]
    kinds = {kind.name: kind for kind in model.preparation_.kinds_}
    X = replace(X, columns={name: as_read(column, kinds[name]) for name, column in X.columns.items()})
    score = _score(model, X, y)
    losses = []
    for name, kind in kinds.items():
        if not isinstance(kind, LeftOut):
            mixed = X.columns | {name: X.columns[name].take(rng.permutation(len(y)))}
            losses.append((name, score - _score(model, replace(X, columns=mixed), y)))
    losses = sorted(losses, key=lambda pair: -pair[1])
    rest = len(losses) - MOST_BARS
    what = "R2" if not hasattr(model, "classes_") else "share of right answers"
    more = f" {rest} columns that matter less are not shown." if rest > 0 else ""
    return (
        f"<h2>What the answers depend on</h2><p>How much the {what} falls ({score:.3f} now) when a column is shuffled "
        f"among {len(y):,} rows held out. Of two columns that say the same, each looks small.{more}</p>"
        f"{figures.bars(losses[:MOST_BARS])}"
    )


def _score(model: Any, X: Table, y: HostArray) -> float:
    """The share of right answers, or R2."""
    if not hasattr(model, "classes_"):
        return scoring.of_amounts(model.predict(X), y).get("r2", 0.0)
    return float(np.mean(model.predict(X) == y))
