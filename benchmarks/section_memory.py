"""What a fit and a prediction take above X, by how X is given, each in a process of its own."""

import importlib
import tracemalloc
import warnings
from typing import Any

import numpy as np
from report import Goal, Report

ROWS, COLUMNS = 500_000, 100  # 400 MB of float64
KINDS = (
    "C",
    "F",
    "frame",
    "float32",
    "C to float32",
    "F to float32",
    "uint8 to float32",
    "uint8, 100 columns",
    "early stopping",
    "MLP",
)
MOST = 0.1  # of X
TABLES = ("table float32", "table float64", "table frame")
TABLE = 200_000, 40  # 32 MB of float32
ALLOWED = 100 * 2**20, 2  # bytes, and times X


def above_x(*, kind: str, quick: bool, **_: Any) -> dict[str, Any]:
    """The peak that Python and NumPy allocate (tracemalloc) in a fit of one epoch and in predict, by the bytes of X.

    The answer of predict does not count.
    """
    width = {"uint8 to float32": 8, "float32": 2}.get(kind, 1) * COLUMNS
    rows = 2_000 if quick else ROWS * (8 if kind == "uint8, 100 columns" else 1)
    rng = np.random.default_rng(0)
    if kind.startswith("uint8"):
        X: Any = rng.integers(0, 200, (rows, width), dtype=np.uint8)
    else:
        X = rng.random((rows, width), dtype=np.float32 if kind == "float32" else np.float64)
    size, y = X.nbytes, np.arange(rows) % 2
    if kind.startswith("F"):
        X = np.asfortranarray(X)
    if kind == "frame":
        try:
            X = importlib.import_module("pandas").DataFrame(X)
        except ImportError as absence:
            return {"absent": str(absence)}
    dtype = "float32" if "float32" in kind or kind in ("MLP", "uint8, 100 columns") else None
    xpmlp = importlib.import_module("xpmlp")
    if kind == "MLP":
        y = y.astype(np.float32)
        model = xpmlp.MLP([width, 4, 1], loss="binary_cross_entropy", dtype="float32", random_state=0)
        options: dict[str, Any] = {"epochs": 1, "batch_size": 2_000}
    else:
        stops = kind == "early stopping"
        model = xpmlp.MLPClassifier(
            (4,), max_iter=1, batch_size=2_000, random_state=0, dtype=dtype, early_stopping=stops
        )
        options = {}
    some = X.iloc[:4_000] if hasattr(X, "iloc") else X[:4_000]
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ConvergenceWarning, batch_size
        model.fit(some, y[:4_000], **options).predict(some)  # what is loaded and made once
        for what, call in (("fit", lambda: model.fit(X, y, **options)), ("predict", lambda: model.predict(X))):
            tracemalloc.start()
            answer = call()
            found[what] = (tracemalloc.get_traced_memory()[1] - getattr(answer, "nbytes", 0)) / size
            tracemalloc.stop()
    return found


def tables_above_x(*, kind: str, quick: bool, **_: Any) -> dict[str, Any]:
    """The same peaks of an estimator of tables (two stages of one epoch), by what it is allowed."""
    rows, width = (500, 4) if quick else TABLE
    rng = np.random.default_rng(0)
    X: Any = rng.standard_normal((rows, width), dtype=np.float32 if kind == "table float32" else np.float64)
    size, y = X.nbytes, rng.integers(0, 2, rows)
    if kind == "table frame":
        try:
            X = importlib.import_module("pandas").DataFrame({f"x{j}": X[:, j] for j in range(width)})
        except ImportError as absence:
            return {"absent": str(absence)}
    model = importlib.import_module("xpmlp").TabularClassifier(max_iter=1, random_state=0)
    some = X.iloc[:500] if hasattr(X, "iloc") else X[:500]
    found = {}
    model.fit(some, y[:500]).predict(some)  # what is loaded and made once
    for what, call in (("fit", lambda: model.fit(X, y)), ("predict", lambda: model.predict(X))):
        tracemalloc.start()
        call()
        found[what] = tracemalloc.get_traced_memory()[1] / (ALLOWED[0] + ALLOWED[1] * size)
        tracemalloc.stop()
    return found


def report_above_x(report: Report, found: dict[str, dict[str, Any]]) -> None:
    """Shares of X."""
    report.head(f"Peak memory above X of 400 MB, shares of X (one epoch; without the answer; target <= {MOST:g})")
    report.say(f"{'':<26}{'fit':>10}{'predict':>14}")
    for kind, rows in found.items():
        if "absent" in rows:
            report.say(f"  {kind:<24}absent: {rows['absent']}")
            continue
        line = f"  {kind:<24}"
        for what, value in rows.items():
            most = 1.0 if kind in TABLES else MOST
            share, mark = report.row("memory above X", kind, what, "X", [value], Goal(at_most=most))
            line += f"{share:>10.3f} {mark:<3}"
        report.say(line + ("  of 100 MB + 2 X (target <= 1)" if kind in TABLES else ""))
