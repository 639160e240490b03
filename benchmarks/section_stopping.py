"""What a validation set costs: fits with early stopping that never stop, beside scikit-learn's and beside none."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from report import Goal, Report
from timing import rounds

# rows, columns, hidden layers, outputs (0: a regression), batch, epochs; and by how much scikit-learn must be slower
CASES = {
    "circles": ((1_000, 2, (4, 3), 2, 200, 60), 3.5),
    "digits": ((1_797, 64, (100,), 10, 200, 30), 2.4),
    "regression": ((2_000, 8, (32,), 0, 200, 60), 3.2),
}


def stopping(*, repeats: int, quick: bool, **_: Any) -> dict[str, Any]:
    """Times by case: scikit-learn's, ours, ours without a validation set, ours compiled where Numba is installed."""
    found = {}
    for name, ((rows, columns, hidden, classes, batch, epochs), _goal) in CASES.items():
        rng = np.random.default_rng(0)
        X = rng.standard_normal((rows, columns), dtype=np.float32)
        scores = X @ rng.standard_normal((columns, max(classes, 1)), dtype=np.float32)
        y = scores.argmax(axis=1) if classes else scores[:, 0]
        kind = "MLPClassifier" if classes else "MLPRegressor"
        options = {
            "hidden_layer_sizes": hidden,
            "batch_size": batch,
            "max_iter": 2 if quick else epochs,
            "tol": 0.0,
            "n_iter_no_change": 10**9,
            "random_state": 0,
        }
        theirs = getattr(importlib.import_module("sklearn.neural_network"), kind)
        ours = getattr(importlib.import_module("xpmlp"), kind)
        ready: dict[str, Callable[[], Any]] = {
            "scikit-learn": _fit(theirs, options | {"early_stopping": True}, X, y),
            "xpmlp": _fit(ours, options | {"early_stopping": True}, X, y, compiled="never"),
            "without": _fit(ours, options, X, y, compiled="never"),
        }
        if importlib.util.find_spec("numba") is not None:
            ready["numba"] = _fit(ours, options | {"early_stopping": True}, X, y, compiled="always")
        for work in ready.values():
            work()
        found[name] = rounds(ready, repeats)
    return found


def _fit(kind: Any, options: dict[str, Any], X: np.ndarray, y: np.ndarray, **settings: str) -> Callable[[], Any]:
    context = importlib.import_module("xpmlp").config_context

    def fit() -> Any:
        with context(**settings), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ConvergenceWarning: the number of epochs is given
            return kind(**options).fit(X, y)

    return fit


def report_stopping(report: Report, found: dict[str, Any]) -> None:
    """Seconds, and ratios."""
    report.head("Early stopping that never stops: seconds of a fit, NumPy")
    report.say(f"{'':<12}{'scikit-learn':>14}{'xpmlp':>10}{'without':>10}{'compiled':>10}{'sklearn/xpmlp':>16}")
    for name, times in found.items():
        line = f"  {name:<10}"
        for who, width in (("scikit-learn", 14), ("xpmlp", 10), ("without", 10), ("numba", 10)):
            if who in times:
                seconds, _ = report.row("stopping", name, who, "s", report.seconds({"times": times[who]}))
                line += f"{seconds:>{width}.4f}"
            else:
                line += f"{'absent':>{width}}"
        goal = Goal(at_least=CASES[name][1])
        values = report.ratios({"times": times["scikit-learn"]}, {"times": times["xpmlp"]})
        ratio, mark = report.row("stopping", name, "scikit-learn / xpmlp", "", values, goal)
        report.say(f"{line}{ratio:>13.2f} {mark:<2} (target {goal})")
