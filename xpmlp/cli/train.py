"""`train`: from a table to a model file that holds its preparation, and a page that shows how it went."""

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp.backends.config import config_context
from xpmlp.cli import scores
from xpmlp.cli.commands import GONE
from xpmlp.cli.figures import need_matplotlib
from xpmlp.cli.models import Parts, fit_model
from xpmlp.cli.report import write_report
from xpmlp.cli.screen import Bar, CliError, columns, dump, say
from xpmlp.cli.tables import File, Reading, read
from xpmlp.cli.targets import Target, chosen, read_target, split, words
from xpmlp.estimators.tabular.serialization import stored
from xpmlp.io import storage
from xpmlp.tabular import TablePreparation, TableWarning
from xpmlp.tabular.columns import Table
from xpmlp.tabular.kinds import CategoryKind, DateKind, NumberKind

FEWEST_ROWS = 10


def train(options: argparse.Namespace) -> int:
    """Read, prepare, fit, score, write."""
    _demand(options)
    if options.report:
        need_matplotlib()
    began = time.perf_counter()
    file = read(options.data, Reading(options.delimiter, options.header, options.encoding))
    missing = words(options.missing)
    lower = frozenset(map(str.lower, missing))
    target = read_target(file, options.target, options.task, missing=lower, decimal=options.decimal)
    if options.balanced and target.task == "regression":
        raise CliError("--balanced weighs classes, and this is a regression.")
    rows = _split(options, target)
    table, dropped, categorical = _inputs(file, options)
    preparation = TablePreparation(
        categorical_features=categorical or "from_dtype", missing=missing, decimal=options.decimal or "auto"
    )
    warnings.simplefilter("ignore", TableWarning)  # for the rest of the command: told below, in its order, and once
    try:
        preparation.fit(table, rows=target.rows[rows[0]])
    except ValueError as error:
        raise CliError(f"{file.path}: {error}") from error
    for note in (*file.notes, *target.notes, *preparation.notes_):
        say(note, "note: ")
    parts = Parts([table.take(target.rows[part]) for part in rows], [target.values[part] for part in rows])
    why = dict(dropped) | preparation.left_out_
    left_out = [(name, why[name]) for name in file.table.columns if name in why]
    if not options.json:
        print("\n".join(_describe(file, target, preparation, left_out, parts)), flush=True)

    with config_context(fallback="error" if options.fallback == "error" else "warn"):
        model, seconds = _fit(options, target, preparation, parts)
    found, baseline, linear, unscored = _scores(model, parts)
    summary = {
        "data": {"file": Path(options.data).name, "rows": file.table.n_rows, "columns": len(file.table.columns)},
        "target": options.target,
        "task": target.task,
        "why": target.why,
        "rows": {name: len(y) for name, y in zip(("training", "held_out"), parts.y, strict=True)},
        "inputs": len(preparation.groups_),
        "left_out": [list(pair) for pair in left_out],
        "members": model.n_members,
        "epochs": model.n_iter_,
        "best_epoch": model.best_epoch_,
        "refitted": model.refit_history_ is not None,
        "seconds": round(seconds, 3),
        "backend": model.backend_,
        "device": model.device_,
        "dtype": model.dtype_,
        "scores": found,
        "baseline": baseline,
        "linear": linear,
        "not_scored": unscored,
    }
    document, arrays = stored(model)
    own = {"target": options.target, "task": target.task, "summary": summary}
    storage.write(options.out, document | own, arrays)
    summary["model"] = options.out
    if options.report:
        write_report(options.report, model, summary, parts.X[1], parts.y[1])
        summary["report"] = options.report
    if unscored:
        told = ", ".join(map(repr, unscored[:5]))
        say(f"no row of {told} is held out, so {'it is' if len(unscored) == 1 else 'they are'} not scored.", "note: ")
    if options.json:
        dump(summary)
    else:
        print("\n".join(_results(summary, time.perf_counter() - began)))
    return 0


def _demand(options: argparse.Namespace) -> None:
    if not 0.0 < options.test_size < 0.9:
        raise CliError(f"--test-size must lie between 0 and 0.9; got {options.test_size:g}.")
    for option, why in GONE.items():
        if getattr(options, option.removeprefix("--")) is not None:
            raise CliError(f"{option} is no option any more: {why}")
    if options.patience is not None:
        say("--patience is not used any more: training finds its best epoch by a rule of its own.", "note: ")
    if options.time_limit is not None and not options.time_limit > 0.0:
        raise CliError(f"--time-limit must be above 0 seconds; got {options.time_limit:g}.")
    for name, least in (("epochs", 1), ("members", 1), ("batch_size", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise CliError(f"--{name.replace('_', '-')} must be at least {least}; got {value}.")
    for path in filter(None, (options.out, options.report)):  # not after an hour of training
        if not Path(path).absolute().parent.is_dir():
            raise CliError(f"{path} cannot be written: the folder {Path(path).absolute().parent} does not exist.")
        if Path(path).is_dir():
            raise CliError(f"{path} cannot be written: it is a folder.")


def _split(options: argparse.Namespace, target: Target) -> list[Any]:
    """The rows of a target to train on, and held out."""
    n = len(target.rows)
    if n < FEWEST_ROWS:
        raise CliError(f"{options.data} must have at least {FEWEST_ROWS} rows with a target; it has {n}.")
    classes = codes = None
    if target.task == "classification":
        classes, codes = np.unique(target.values, return_inverse=True)
    held_out, training = split(codes, n, (options.test_size,), np.random.default_rng(options.seed))
    if not len(held_out) or len(training) < 2:
        raise CliError(
            f"{n} rows with --test-size {options.test_size:g} leave {len(training)} to train on and {len(held_out)} to "
            "score; each part needs some. More rows, or another share."
        )
    if classes is not None and len(np.unique(target.values[training])) < len(classes):
        raise CliError(
            f"{target.name!r} was taken for classes ({target.why}), and one of them has no row to train on; lower "
            "--test-size, or add rows of it."
        )
    return [training, held_out]


def _inputs(file: File, options: argparse.Namespace) -> tuple[Table, list[tuple[str, str]], list[str]]:
    """The table to learn from, what was left out as asked for, and what is categories as asked for."""
    names = [name for name in file.table.columns if name != options.target]
    dropped = chosen(file, options.drop, names)
    categorical = [name for name in chosen(file, options.categorical, names) if name not in dropped]
    kept = {name: file.table.columns[name] for name in names if name not in dropped}
    if not kept:
        raise CliError(f"no column of {file.path} is left to learn from.")
    table = Table(kept, file.table.n_rows, place=file.table.place)
    return table, [(name, "as asked for") for name in dropped], categorical


def _fit(options: argparse.Namespace, target: Target, preparation: TablePreparation, parts: Parts) -> tuple[Any, float]:
    bar = Bar()

    def follow(_: Any, epoch: int, logs: dict[str, Any]) -> None:
        names = {"loss": "loss", "validation_loss": "validation"}
        bar.show(epoch, {name: logs[key] for key, name in names.items() if key in logs})

    began = time.perf_counter()
    with bar:
        model = fit_model(options, target.task, preparation, parts, follow)
    return model, time.perf_counter() - began


def _scores(model: Any, parts: Parts) -> tuple[dict[str, float], dict[str, Any], Any, list[Any]]:
    """Scores on the rows held out: the network's, a constant's, a linear model's; and classes that have none."""
    (trained, X), (known, y) = parts.X, parts.y
    classes = getattr(model, "classes_", None)
    if classes is None:
        found = scores.of_amounts(model.predict(X), y)
    else:
        found = scores.of_probabilities(model.predict_proba(X), y, classes)
    unscored = [] if classes is None else [c for c in classes.tolist() if c not in set(y.tolist())]
    prepared = [model.preparation_.transform_with_notes(table)[0] for table in (trained, X)]
    linear = scores.of_linear(prepared, known, y, classes)
    return found, scores.of_constant(known, y, classes), linear, unscored


# --- In words ---


def _describe(
    file: File, target: Target, preparation: TablePreparation, left_out: list[tuple[str, str]], parts: Parts
) -> list[str]:
    n = len(target.rows)
    if target.task == "classification":
        counts = Counter(target.values.tolist()).most_common()
        told = ", ".join(f"{name} {count / n:.1%}" for name, count in counts[:4])
        found = f"{target.name}: {len(counts)} classes: {told}" + (", ..." if len(counts) > 4 else "")
    else:
        low, mean, high = np.min(target.values), np.mean(target.values), np.max(target.values)
        found = f"{target.name}: from {low:.6g} to {high:.6g}, mean {mean:.6g}"
    if n < file.table.n_rows:
        found += f"; {file.table.n_rows - n:,} rows without one are not used"
    kinds = preparation.kinds_
    texts = [kind for kind in kinds if isinstance(kind, CategoryKind)]
    filled = [kind.name for kind in kinds if isinstance(kind, NumberKind | DateKind) and kind.gaps]
    gaps = [kind.name for kind in texts if None in kind.levels]
    counted = [
        (sum(isinstance(kind, NumberKind) for kind in kinds), "of numbers, scaled"),
        (sum(isinstance(kind, DateKind) for kind in kinds), "of dates"),
        (len(texts), "of categories"),
    ]
    made = ", ".join(f"{n} {what}" for n, what in counted if n)
    rows = [
        ("data", f"{file.path}: {file.table.n_rows:,} rows, {len(file.table.columns)} columns"),
        ("target", found),
        ("task", f"{target.task}: {target.why}"),
        ("columns", f"{made}; {len(preparation.groups_)} inputs"),
    ]
    if filled:
        rows.append(("missing", f"in {_list(filled)}: taken for the median, and an input says where"))
    if gaps:
        rows.append(("" if filled else "missing", f"in {_list(gaps)}: a category of its own"))
    if left_out:
        rows.append(("left out", "; ".join(f"{name} ({why})" for name, why in left_out)))
    told_ = [f"{len(y):,}" for y in parts.y]
    rows.append(("rows", f"{told_[0]} to train on, {told_[1]} held out"))
    return columns(rows)


def _list(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _results(summary: dict[str, Any], seconds: float) -> list[str]:
    refitted = f"; then anew on all {summary['rows']['training']:,} rows" if summary["refitted"] else ""
    fit = (
        f"{summary['epochs']} epochs, the best was {summary['best_epoch']}{refitted}; {summary['seconds']:.1f} s on "
        f"{summary['backend']}, {summary['device']}, {summary['dtype']}; {seconds:.1f} s in all"
    )
    written = [(what, summary[what]) for what in ("model", "report") if what in summary]
    return [*columns([(fit,)]), "", *scores.score_lines(summary), "", *columns(written)]
