"""`predict`: the answers of a model file for a table."""

import argparse
import csv
import io
import sys

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.backends.config import config_context
from xpmlp.backends.transfer import to_numpy
from xpmlp.cli import scores
from xpmlp.cli.models import Opened, answers, open_model, some_of
from xpmlp.cli.screen import CliError, dump, say
from xpmlp.cli.tables import File, Reading, read
from xpmlp.cli.targets import as_classes, chosen, read_target
from xpmlp.io import storage
from xpmlp.tabular.columns import Table


def predict(options: argparse.Namespace) -> int:
    """Load, prepare, answer."""
    with config_context(fallback="error" if options.fallback == "error" else "warn"):
        opened = open_model(options.model, options.backend, options.device)
    model = opened.model
    if options.proba and not hasattr(model, "predict_proba"):
        raise CliError(f"--proba needs a classifier; this is {type(model).__name__}.")
    file = read(options.data, Reading(options.delimiter, options.header, options.encoding))
    for note in file.notes:
        say(note, "note: ")
    drop = chosen(file, options.drop, list(file.table.columns))
    try:
        X = opened.inputs(file, drop)
    except CliError:
        raise
    except ValueError as error:
        raise CliError(f"{file.path}: {error}") from error
    found = answers(model, X, options.proba)
    target = opened.target or "prediction"
    header = [target if name == "prediction" else name for name in found]
    if options.json:
        dump({"target": target, "columns": dict(zip(header, found.values(), strict=True))})
    elif options.out:
        with storage.replacing(options.out) as binary:
            binary.write(_csv_text(header, found).encode("utf-8"))
        say(f"{file.table.n_rows:,} answers in {options.out}")
    else:
        sys.stdout.write(_csv_text(header, found))
    _score(opened, file, X)
    return 0


def _csv_text(header: list[str], columns: dict[str, HostArray]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    digits = [15 if values.dtype == np.float64 else 7 for values in columns.values()]
    for row in zip(*(values.tolist() for values in columns.values()), strict=True):
        cells = zip(row, digits, strict=True)
        writer.writerow([f"{cell:.{n}g}" if isinstance(cell, float) else cell for cell, n in cells])
    return out.getvalue()


def _score(opened: Opened, file: File, X: Table | HostArray) -> None:
    """Where the answers are known, say how many are right."""
    if opened.preparation is None or opened.target not in file.table.columns:
        return
    try:
        target = read_target(file, str(opened.target), opened.task)
    except ValueError:  # all missing, or one class: nothing to score
        return
    X, y = some_of(X, target.rows), target.values
    have = f"{len(y):,} rows have the answer"
    if opened.task == "classification":
        labels, known = as_classes(y, opened.model.classes_)
        unknown = len(np.unique(y[~known]))
        if not np.any(known):
            say(f"none: the model knows none of the {unknown:,} labels in {len(y):,} rows.", "score: ")
            return
        if unknown:
            have = f"{np.sum(known):,} of {len(y):,} rows have an answer that the model knows; of {unknown:,} "
            have += f"{'label' if unknown == 1 else 'labels'} it knows nothing"
        p = to_numpy(opened.model.predict_proba(some_of(X, known)))
        found = scores.of_probabilities(p, labels[known], opened.model.classes_)
    else:
        found = scores.of_amounts(to_numpy(opened.model.predict(X)), y)
    told = ", ".join(f"{label} {value}" for label, value in scores.rows_of(found))
    say(f"{have}: {told}.", "score: ")
