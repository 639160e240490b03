"""`train`: from a table to a model file that holds its preparation, and a page that shows how it went."""

import argparse
import math
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics

from xpmlp.backends import HostArray
from xpmlp.backends.config import config_context
from xpmlp.backends.transfer import to_numpy
from xpmlp.cli.preparation import Category, Number, Preparation, Target, learn, read_target, split
from xpmlp.cli.report import write_report
from xpmlp.cli.screen import (
    Bar,
    CliError,
    add_backend,
    add_command,
    add_json,
    columns,
    dump,
    paint,
    say,
)
from xpmlp.cli.tables import Table, read
from xpmlp.estimators import MLPClassifier, MLPRegressor
from xpmlp.estimators.serialization import stored
from xpmlp.io import storage

VALIDATION = 0.1  # of all rows, to decide when to stop
FEWEST_ROWS = 10
FAR = 1e4  # the mean of a target, in standard deviations, from which float32 loses what there is to learn

EXAMPLES = """\
xpmlp train flowers.csv --target species
xpmlp train houses.parquet --target price --report report.html
xpmlp train big.csv --target y --backend cupy --hidden 512,256 --epochs 50
xpmlp train data.csv --target grade --task regression --drop id

Columns of numbers are standardised, columns of text become one input per
value, missing values are filled in; the model file remembers all of it. A
part of the rows is held out: the score that is printed is on rows never seen."""


@dataclass(frozen=True)
class Parts:
    """Prepared rows: to train on, to decide when to stop, held out."""

    X: list[HostArray]
    y: list[HostArray]


def add_train(commands: Any) -> None:
    """Add `train`."""
    parser = add_command(commands, "train", "train a network on a table: a CSV, Parquet or npz file", EXAMPLES, train)
    parser.add_argument("data", help="the table")
    parser.add_argument("--target", required=True, metavar="COLUMN", help="what is to be predicted")
    parser.add_argument("--out", metavar="FILE", default="model.safetensors", help="the model (default: %(default)s)")
    parser.add_argument("--report", metavar="FILE", help="write a page with curves and figures, as report.html")
    parser.add_argument("--task", choices=("classification", "regression"), help="default: found out and said")
    add_reading(parser)
    parser.add_argument("--drop", metavar="COLUMNS", type=names, default=[], help="leave out; as id,name or extra_*")
    parser.add_argument(
        "--categorical", metavar="COLUMNS", type=names, default=[], help="numbers that are names: as zip,code_*"
    )
    parser.add_argument("--hidden", metavar="SIZES", type=sizes, default=(128, 64), help="as 128,64 (the default)")
    parser.add_argument("--activation", default="relu", help="of the hidden layers (default: relu)")
    parser.add_argument("--epochs", type=int, default=200, help="at most (default: 200)")
    parser.add_argument(
        "--patience", type=int, default=10, help="epochs without progress before it stops (default: 10)"
    )
    parser.add_argument("--batch-size", type=int, help="default: min(200, rows)")
    parser.add_argument("--learning-rate", type=float, default=0.001, help="default: 0.001")
    parser.add_argument("--dropout", type=float, default=0.0, help="share of hidden units left out (default: 0)")
    parser.add_argument("--l2", type=float, default=1e-4, help="strength of the penalty (default: 0.0001)")
    parser.add_argument("--balanced", action="store_true", help="let every class weigh the same (classification)")
    parser.add_argument("--test-size", type=float, default=0.2, help="share of rows held out (default: 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the weights (default: 0)")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="default: float32")
    add_backend(parser)
    add_json(parser)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options that say how a CSV file is written."""
    parser.add_argument("--delimiter", metavar="CHAR", type=one_character, help="of a CSV file (default: found out)")
    parser.add_argument("--no-header", action="store_true", help="the CSV file begins with data: column1, column2, ...")


def names(text: str) -> list[str]:
    """Names or patterns, with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def sizes(text: str) -> tuple[int, ...]:
    """Sizes of hidden layers, with commas between them; none for no hidden layer."""
    try:
        found = tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers as in 128,64; got {text!r}") from None
    if any(size < 1 for size in found):
        raise argparse.ArgumentTypeError(f"every layer needs at least 1 unit; got {text!r}")
    return found


def one_character(text: str) -> str:
    """A delimiter; a tab may be written as tab, or as backslash and t."""
    text = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if len(text) != 1:
        raise argparse.ArgumentTypeError(f"must be one character; got {text!r}")
    return text


def train(options: argparse.Namespace) -> int:
    """Read, prepare, fit, score, write."""
    _demand(options)
    began = time.perf_counter()
    table = read(options.data, delimiter=options.delimiter, header=not options.no_header)
    target = read_target(table, options.target, options.task)
    rng = np.random.default_rng(options.seed)
    classes, codes = np.unique(target.values, return_inverse=True) if target.task == "classification" else (None, None)
    n = len(target.rows)
    if n < FEWEST_ROWS:
        raise CliError(f"{options.data} must have at least {FEWEST_ROWS} rows with a target; it has {n}.")
    held_out, validation, training = split(codes, n, (options.test_size, VALIDATION), rng)
    if not len(held_out) or not len(validation) or not len(training):
        raise CliError(
            f"{n} rows with --test-size {options.test_size:g} leave {len(training)} to train on, {len(validation)} to "
            f"decide when to stop and {len(held_out)} to score; each part needs some. More rows, or another share."
        )
    if classes is not None and len(np.unique(target.values[training])) < len(classes):
        raise CliError(
            f"{target.name!r} was taken for classes ({target.why}), and one of them has no row to train on; lower "
            "--test-size, or add rows of it."
        )
    preparation = learn(
        table.rows(target.rows[training]), options.target, target.task, options.categorical, options.drop
    )
    X, _ = preparation.apply(Table(table.source, table.columns, table.first_line, table.decimal_comma))
    order = (training, validation, held_out)
    parts = Parts([X[target.rows[part]] for part in order], [target.values[part] for part in order])
    if not options.json:
        print("\n".join(_describe(table, target, preparation, parts)), flush=True)

    with config_context(fallback="error" if options.fallback == "error" else "warn"):
        model, seconds = _fit(options, target, parts)
    if target.task == "classification":
        scores, baseline = classification_scores(model, parts.X[2], parts.y[2], parts.y[0])
    else:
        scores, baseline = regression_scores(np.asarray(model.predict(parts.X[2])), parts.y[2], parts.y[0])
    summary = {
        "data": {"file": Path(options.data).name, "rows": table.n_rows, "columns": len(table.columns)},
        "target": options.target,
        "task": target.task,
        "why": target.why,
        "rows": {name: len(y) for name, y in zip(("training", "validation", "held_out"), parts.y, strict=True)},
        "inputs": len(preparation.inputs),
        "left_out": [list(pair) for pair in preparation.left_out],
        "epochs": model.n_iter_,
        "best_epoch": best_epoch(model),
        "seconds": round(seconds, 3),
        "backend": model.backend_,
        "device": model.device_,
        "dtype": model.dtype_,
        "scores": scores,
        "baseline": baseline,
    }
    document, arrays = stored(model)
    storage.write(options.out, document | {"preparation": preparation.document(), "summary": summary}, arrays)
    summary["model"] = options.out
    if options.report:
        write_report(options.report, model, preparation, summary, parts.X[2], parts.y[2])
        summary["report"] = options.report
    if options.json:
        dump(summary)
    else:
        print("\n".join(_results(summary, time.perf_counter() - began)))
    return 0


def _demand(options: argparse.Namespace) -> None:
    if not 0.0 < options.test_size < 0.9:
        raise CliError(f"--test-size must lie between 0 and 0.9; got {options.test_size:g}.")
    for name, least in (("epochs", 1), ("patience", 1), ("batch_size", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise CliError(f"--{name.replace('_', '-')} must be at least {least}; got {value}.")
    for path in filter(None, (options.out, options.report)):  # not after an hour of training
        if not Path(path).absolute().parent.is_dir():
            raise CliError(f"{path} cannot be written: the folder {Path(path).absolute().parent} does not exist.")
        if Path(path).is_dir():
            raise CliError(f"{path} cannot be written: it is a folder.")


def _fit(options: argparse.Namespace, target: Target, parts: Parts) -> tuple[Any, float]:
    bar = Bar(options.epochs)

    def follow(_: Any, epoch: int, logs: dict[str, Any]) -> None:
        bar.show(epoch, {"loss": logs["loss"], "validation": logs["validation_loss"]})

    keywords: dict[str, Any] = {
        "hidden_layer_sizes": options.hidden,
        "activation": options.activation,
        "alpha": options.l2,
        "batch_size": min(options.batch_size or 200, len(parts.y[0])),
        "learning_rate_init": options.learning_rate,
        "max_iter": options.epochs,
        "n_iter_no_change": options.patience,
        "early_stopping": True,
        "scoring": "loss",
        "dropout": options.dropout,
        "random_state": options.seed,
        "dtype": options.dtype or "float32",
        "backend": options.backend,
        "device": options.device,
        "callbacks": follow,
    }
    mean, scale = 0.0, 1.0
    y = parts.y
    if target.task == "classification":
        model: Any = MLPClassifier(**keywords, class_weight="balanced" if options.balanced else None)
    else:
        if options.balanced:
            raise CliError("--balanced weighs classes, and this is a regression.")
        mean, scale = float(np.mean(y[0])), float(np.std(y[0])) or 1.0
        keywords["dtype"] = _dtype_for(target.name, mean, scale, options.dtype)
        model = MLPRegressor(**keywords)
        y = [(values - mean) / scale for values in y]
    X = [values.astype(keywords["dtype"]) for values in parts.X]
    began = time.perf_counter()
    with bar, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Maximum iterations")  # said in this command's words below
        model.fit(X[0], y[0], X_val=X[1], y_val=y[1])
    seconds = time.perf_counter() - began
    if model.n_iter_ == options.epochs:
        say(f"it had not settled after {options.epochs} epochs; more --epochs may do better.", "note: ")
    model.set_params(callbacks=None)
    if target.task == "regression":  # so that predict answers in the target's own units
        model.coefs_ = [*model.coefs_[:-1], model.coefs_[-1] * scale]
        model.intercepts_ = [*model.intercepts_[:-1], model.intercepts_[-1] * scale + mean]
    return model, seconds


def _dtype_for(name: str, mean: float, scale: float, asked: str | None) -> str:
    """The dtype whose weights can hold the target's own units, unless another was asked for."""
    if asked == "float64" or abs(mean) <= FAR * scale:
        return asked or "float32"
    far = f"{name} lies far from 0 for how little it varies"
    step = f"round it to steps of {np.spacing(np.float32(abs(mean))):.2g}"
    if asked is None:
        say(f"{far}: float64, so that float32 does not {step}.", "note: ")
        return "float64"
    say(f"{far}: float32 {step.replace('round', 'rounds')}, and its standard deviation is {scale:.2g}.", "warning: ")
    return asked


def best_epoch(model: Any) -> int | None:
    """The epoch whose weights were kept, counted from 1."""
    curve = getattr(model, "validation_loss_curve_", None)
    return int(np.argmin(curve)) + 1 if curve else None


def classification_scores(
    model: Any, X: HostArray, y: HostArray, known: HostArray
) -> tuple[dict[str, float], dict[str, float]]:
    """Scores on these rows, and those of an answer that is always the most frequent class of `known`."""
    p = to_numpy(model.predict_proba(X)).astype(np.float64)
    predicted = model.classes_[np.argmax(p, axis=1)]
    scores = {
        "accuracy": float(metrics.accuracy_score(y, predicted)),
        "balanced_accuracy": float(np.mean([np.mean(predicted[y == c] == c) for c in np.unique(y)])),
        "log_loss": _log_loss(p, y, model.classes_),
    }
    if len(model.classes_) == 2 and len(np.unique(y)) == 2:
        scores["roc_auc"] = float(metrics.roc_auc_score(y == model.classes_[1], p[:, 1]))
    most = Counter(known.tolist()).most_common(1)[0][0]
    shares = np.asarray([np.mean(known == c) for c in model.classes_])
    return scores, {
        "always": most,
        "accuracy": float(np.mean(y == most)),
        "balanced_accuracy": 1.0 / len(np.unique(y)),
        "log_loss": _log_loss(np.tile(shares, (len(y), 1)), y, model.classes_),
    }


def _log_loss(p: HostArray, y: HostArray, classes: HostArray) -> float:
    # Not scikit-learn's: a class may be missing among the rows held out.
    given = p[np.arange(len(y)), np.searchsorted(classes, y)]
    return float(-np.mean(np.log(np.maximum(given, np.finfo(np.float32).tiny))))


def regression_scores(
    predicted: HostArray, y: HostArray, known: HostArray
) -> tuple[dict[str, float], dict[str, float]]:
    """Scores on these rows, and those of an answer that is always the mean of `known`."""

    def errors(values: Any) -> dict[str, float]:
        off = values - y
        return {"rmse": math.sqrt(float(np.mean(off * off))), "mae": float(np.mean(np.abs(off)))}

    mean = float(np.mean(known))
    scores = {"r2": float(metrics.r2_score(y, predicted)) if len(y) > 1 else math.nan}
    return scores | errors(predicted.astype(np.float64)), {"always": mean, "r2": 0.0} | errors(mean)


# --- In words ---


def _describe(table: Table, target: Target, preparation: Preparation, parts: Parts) -> list[str]:
    n = len(target.rows)
    if target.task == "classification":
        counts = Counter(target.values.tolist()).most_common()
        told = ", ".join(f"{name} {count / n:.1%}" for name, count in counts[:4])
        found = f"{target.name}: {len(counts)} classes: {told}" + (", ..." if len(counts) > 4 else "")
    else:
        low, mean, high = np.min(target.values), np.mean(target.values), np.max(target.values)
        found = f"{target.name}: from {low:.6g} to {high:.6g}, mean {mean:.6g}"
    if n < table.n_rows:
        found += f"; {table.n_rows - n:,} rows without one are not used"
    numbers = [column for column in preparation.columns if isinstance(column, Number)]
    texts = [column for column in preparation.columns if isinstance(column, Category)]
    filled = [c.name for c in numbers if c.flags_missing]
    gaps = [c.name for c in texts if None in c.levels]
    made = []
    if numbers:
        made.append(f"{len(numbers)} of numbers, standardised")
    if texts:
        made.append(f"{len(texts)} of categories, as {sum(len(c.levels) for c in texts)} inputs of 0 and 1")
    rows = [
        ("data", f"{table.source}: {table.n_rows:,} rows, {len(table.columns)} columns"),
        ("target", found),
        ("task", f"{target.task}: {target.why}"),
        ("columns", "; ".join(made)),
    ]
    if filled:
        rows.append(("missing", f"in {_list(filled)}: taken for the median, and an input says where"))
    if gaps:
        rows.append(("" if filled else "missing", f"in {_list(gaps)}: a category of its own"))
    if preparation.left_out:
        rows.append(("left out", "; ".join(f"{name} ({why})" for name, why in preparation.left_out)))
    counts_ = [f"{len(y):,}" for y in parts.y]
    rows.append(("rows", f"{counts_[0]} to train on, {counts_[1]} to decide when to stop, {counts_[2]} held out"))
    return columns(rows)


def _list(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


LABELS = {
    "accuracy": "right answers",
    "balanced_accuracy": "mean over the classes",
    "log_loss": "log loss",
    "roc_auc": "area under the ROC curve",
    "r2": "R2",
    "rmse": "root of the mean square error",
    "mae": "mean absolute error",
}


def score_rows(scores: dict[str, float], baseline: dict[str, Any]) -> list[tuple[str, str, str]]:
    """A line for each score: what, how much, and what a constant answer gets."""
    shares = {"accuracy", "balanced_accuracy"}

    def written(name: str, value: float) -> str:
        return f"{value:.1%}" if name in shares else f"{value:.4g}"

    return [
        (LABELS[name], written(name, value), written(name, baseline[name]) if name in baseline else "")
        for name, value in scores.items()
    ]


def _results(summary: dict[str, Any], seconds: float) -> list[str]:
    always = summary["baseline"]["always"]
    told = f"{always:.4g}" if isinstance(always, float) else str(always)
    head = ("held out", f"{summary['rows']['held_out']:,} rows", f"always {told if len(told) < 24 else 'the same'}")
    lines = [
        f"{summary['epochs']} epochs, the best was {summary['best_epoch']}; {summary['seconds']:.1f} s on "
        f"{summary['backend']}, {summary['device']}, {summary['dtype']}; {seconds:.1f} s in all",
        "",
    ]
    rows = score_rows(summary["scores"], summary["baseline"])
    widths = [max(len(row[i]) for row in [head[0:3], *rows]) for i in range(3)]
    lines.append(paint(f"{head[0]:<{widths[0]}}  {head[1]:>{widths[1]}}  {head[2]:>{widths[2]}}", "bold"))
    lines += [f"{a:<{widths[0]}}  {paint(f'{b:>{widths[1]}}', 'green')}  {c:>{widths[2]}}".rstrip() for a, b, c in rows]
    lines.append("")
    lines += columns([(what, summary[what]) for what in ("model", "report") if what in summary])
    return lines
