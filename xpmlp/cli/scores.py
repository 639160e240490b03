"""How good answers are: of a network, of a constant, of a linear model; and the words for it."""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics
from sklearn.linear_model import LogisticRegression, RidgeCV

from xpmlp.backends import HostArray
from xpmlp.cli.screen import columns, paint, width

MOST_ROWS = 10_000  # that a linear model learns from: it needs no more
LABELS = {
    "accuracy": "right answers",
    "balanced_accuracy": "mean over the classes",
    "log_loss": "log loss",
    "roc_auc": "area under the ROC curve",
    "r2": "R2",
    "rmse": "root of the mean square error",
    "mae": "mean absolute error",
}
Scores = dict[str, float]


def of_probabilities(p: HostArray, y: HostArray, classes: HostArray) -> Scores:
    """Scores of probabilities, shape (n, classes); no mean over the classes where one of them has no row."""
    p = np.asarray(p, dtype=np.float64)
    predicted = classes[np.argmax(p, axis=1)]
    there = np.unique(y)
    scores = {"accuracy": float(np.mean(predicted == y))}
    if len(there) == len(classes):
        scores["balanced_accuracy"] = float(np.mean([np.mean(predicted[y == c] == c) for c in there]))
    # Not scikit-learn's: a class may be missing among the rows.
    given = p[np.arange(len(y)), np.searchsorted(classes, y)]
    scores["log_loss"] = float(-np.mean(np.log(np.maximum(given, np.finfo(np.float32).tiny))))
    if len(classes) == 2 and len(there) == 2:
        scores["roc_auc"] = float(metrics.roc_auc_score(y == classes[1], p[:, 1]))
    return scores


def of_amounts(predicted: HostArray, y: HostArray) -> Scores:
    """Scores of a regression, shapes (n,)."""
    off = np.asarray(predicted, dtype=np.float64) - y
    scores = {"r2": float(metrics.r2_score(y, predicted))} if len(y) > 1 else {}
    return scores | {"rmse": math.sqrt(float(np.mean(off * off))), "mae": float(np.mean(np.abs(off)))}


def of_constant(known: HostArray, y: HostArray, classes: HostArray | None) -> dict[str, Any]:
    """Scores on y of an answer that is always the same: the mean of `known`, or how often each class is in it."""
    if classes is None:
        mean = float(np.mean(known))
        return {"always": mean} | of_amounts(np.full(len(y), mean), y) | ({"r2": 0.0} if len(y) > 1 else {})
    most = Counter(known.tolist()).most_common(1)[0][0]
    shares = np.asarray([np.mean(known == c) for c in classes])
    scores = of_probabilities(np.tile(shares, (len(y), 1)), y, classes)
    scores.pop("roc_auc", None)
    return {"always": most} | scores | {"accuracy": float(np.mean(y == most))}


def of_linear(X: Sequence[HostArray], known: HostArray, y: HostArray, classes: HostArray | None) -> Scores | None:
    """Scores on (X[1], y) of a linear model that learned from (X[0], known); None where it cannot."""
    some = np.linspace(0, len(known) - 1, min(len(known), MOST_ROWS)).astype(int)
    train, test = (np.asarray(values, dtype=np.float64) for values in (X[0][some], X[1]))
    known = known[some]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if classes is None:
            scale = float(np.std(known)) or 1.0
            mean = float(np.mean(known))
            model: Any = RidgeCV(alphas=(1e-3, 1.0, 1e3)).fit(train, (known - mean) / scale)
            return of_amounts(model.predict(test) * scale + mean, y)
        if len(np.unique(known)) < len(classes):
            return None
        model = LogisticRegression(max_iter=200).fit(train, known)
        return of_probabilities(model.predict_proba(test), y, classes)


def rows_of(scores: Scores, *others: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line for each score: what, how much, and what others get."""
    shares = {"accuracy", "balanced_accuracy"}

    def written(name: str, value: float) -> str:
        return f"{value:.1%}" if name in shares else f"{value:.4g}"

    return [
        (LABELS[name], written(name, value), *(written(name, it[name]) if name in it else "" for it in others))
        for name, value in scores.items()
    ]


def score_lines(summary: dict[str, Any]) -> list[str]:
    """The scores on rows held out as a small table."""
    always, linear = summary["baseline"]["always"], summary.get("linear")
    told = f"{always:.4g}" if isinstance(always, float) else str(always)
    head = ["held out", f"{summary['rows']['held_out']:,} rows", f"always {told if len(told) < 24 else 'the same'}"]
    others = [summary["baseline"]]
    if linear is not None:
        head.append("a linear model")
        others.append(linear)
    rows = [tuple(head), *rows_of(summary["scores"], *others)]
    if sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True)) > width():
        rows = [(f"{label}:", ", ".join(filter(None, cells))) for label, *cells in rows]
        return columns([(f"{a} {b}",) for a, b in rows])
    lines = columns(rows, right=range(1, len(head)))
    return [paint(lines[0], "bold"), *lines[1:]]
