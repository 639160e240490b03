"""`predict`: the answers of a model file for a table; and how any command opens a model and its data."""

import argparse
import csv
import io
import sys
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.backends.config import config_context
from xpmlp.backends.transfer import to_backend, to_numpy
from xpmlp.cli.preparation import Preparation, read_target
from xpmlp.cli.screen import CliError, add_backend, add_command, add_json, dump, say
from xpmlp.cli.tables import Table, read
from xpmlp.cli.train import add_reading, classification_scores, names, regression_scores, score_rows
from xpmlp.interop.loading import load
from xpmlp.io import storage
from xpmlp.mlp import MLP


class Opened(NamedTuple):
    """What is in a model file."""

    model: Any  # MLPClassifier, MLPRegressor or MLP
    document: dict[str, Any]
    preparation: Preparation | None  # where `train` wrote the file

    def inputs(self, table: Table, drop: list[str]) -> HostArray:
        """The inputs for a table, notes about it on stderr."""
        if self.preparation is not None:
            X, notes = self.preparation.apply(table)
            for note in notes:
                say(note, "note: ")
            return X
        n = self.model.layout.sizes[0] if isinstance(self.model, MLP) else self.model.n_features_in_
        wanted = getattr(self.model, "feature_names_in_", None)
        chosen = [name for name in table.columns if name not in drop] if wanted is None else list(wanted)
        absent = [name for name in chosen if name not in table.columns]
        if absent:
            raise CliError(
                f"{table.source} must have the columns {', '.join(chosen)}; {', '.join(absent)} is not there."
            )
        if len(chosen) != n:
            raise CliError(
                f"this model takes {n} columns in the order they had; {table.source} has {len(chosen)}. "
                "Name those that are not inputs with --drop."
            )
        found = []
        for name in chosen:
            values = table.numbers(name)
            if values is None or not np.all(np.isfinite(values)):
                raise CliError(
                    f"column {name!r} must hold finite numbers: this model knows no categories, and no gaps."
                )
            found.append(values)
        return np.stack(found, axis=1)


def open_model(path: str, backend: str | None = None, device: str | None = None) -> Opened:
    """Read a model file, and what `train` has noted in it.

    Raises
    ------
    FileFormatError
        If it is not one.
    """
    document, _ = storage.read(path)
    with storage.believing(path):
        found = document.get("preparation")
        preparation = None if found is None else Preparation.of(found)
        model = load(path, backend=backend, device=device)
        n = model.layout.sizes[0] if isinstance(model, MLP) else model.n_features_in_
        if preparation is not None and len(preparation.inputs) != n:
            raise ValueError(f"its preparation makes {len(preparation.inputs)} inputs, and its network takes {n}.")
    return Opened(model, document, preparation)


def add_predict(commands: Any) -> None:
    """Add `predict`."""
    parser = add_command(
        commands,
        "predict",
        "answer for each row of a table, with a model that train or save wrote",
        "xpmlp predict model.safetensors new.csv\n"
        "xpmlp predict model.safetensors new.csv --proba --out answers.csv\n\n"
        "Where the table has the target too, the score is printed to stderr.",
        predict,
    )
    parser.add_argument("model", help="the model file")
    parser.add_argument("data", help="the table: CSV, Parquet or npz")
    parser.add_argument("--proba", action="store_true", help="also the probability of each class")
    parser.add_argument("--out", metavar="FILE", help="write a CSV file (default: to the terminal)")
    parser.add_argument("--drop", metavar="COLUMNS", type=names, default=[], help="columns that are not inputs")
    add_reading(parser)
    add_backend(parser)
    add_json(parser)


def predict(options: argparse.Namespace) -> int:
    """Load, prepare, answer."""
    with config_context(fallback="error" if options.fallback == "error" else "warn"):
        opened = open_model(options.model, options.backend, options.device)
    model = opened.model
    table = read(options.data, delimiter=options.delimiter, header=not options.no_header)
    X = opened.inputs(table, options.drop)
    if options.proba and not hasattr(model, "predict_proba"):
        raise CliError(f"--proba needs a classifier; this is {type(model).__name__}.")
    answers = _answers(model, X.astype(model.dtype if isinstance(model, MLP) else model.dtype_), options.proba)
    target = opened.preparation.target if opened.preparation else "prediction"
    header = [target if name == "prediction" else name for name in answers]
    if options.json:
        dump({"target": target, "columns": dict(zip(header, answers.values(), strict=True))})
    elif options.out:
        with storage.replacing(options.out) as binary:
            text = _csv_text(header, answers)
            binary.write(text.encode("utf-8"))
        say(f"{len(X):,} answers in {options.out}")
    else:
        sys.stdout.write(_csv_text(header, answers))
    _score(opened, table, X)
    return 0


def _answers(model: Any, X: HostArray, proba: bool) -> dict[str, HostArray]:
    if isinstance(model, MLP):
        x = to_backend(X, model.place.backend.name, device=model.place.device_name)
        yhat = to_numpy(model.predict(x))
        if model.n_networks is not None:
            raise CliError(f"predict needs one network; this file holds {model.n_networks}.")
        return {f"yhat{j}": yhat[:, j] for j in range(yhat.shape[1])}
    answers = to_numpy(model.predict(X))
    one = answers.ndim == 1
    found = {"prediction": answers} if one else {f"prediction{j}": answers[:, j] for j in range(answers.shape[1])}
    if proba:
        p = to_numpy(model.predict_proba(X))
        found |= {f"p({name})": p[:, j] for j, name in enumerate(model.classes_)}
    return found


def _csv_text(header: list[str], answers: dict[str, HostArray]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    digits = [15 if values.dtype == np.float64 else 7 for values in answers.values()]
    for row in zip(*(values.tolist() for values in answers.values()), strict=True):
        cells = zip(row, digits, strict=True)
        writer.writerow([f"{cell:.{n}g}" if isinstance(cell, float) else cell for cell, n in cells])
    return out.getvalue()


def _score(opened: Opened, table: Table, X: HostArray) -> None:
    """Where the answers are known, say how many are right."""
    preparation, model = opened.preparation, opened.model
    if preparation is None or preparation.target not in table.columns:
        return
    try:
        target = read_target(table, preparation.target, preparation.task)
    except CliError:  # all missing, or one class: nothing to score
        return
    X, y = X[target.rows].astype(model.dtype_), target.values
    have = f"{len(y):,} rows have the answer"
    if preparation.task == "classification":
        labels, known = as_classes(y, model.classes_)
        unknown = len(np.unique(y[~known]))
        if not np.any(known):
            say(f"none: the model knows none of the {unknown:,} labels in {len(y):,} rows.", "score: ")
            return
        if unknown:
            have = f"{np.sum(known):,} of {len(y):,} rows have an answer that the model knows; of {unknown:,} "
            have += f"{'label' if unknown == 1 else 'labels'} it knows nothing"
        scores, baseline = classification_scores(model, X[known], labels[known], labels[known])
    else:
        scores, baseline = regression_scores(np.asarray(model.predict(X)), y, y)
    told = ", ".join(f"{label} {value}" for label, value, _ in score_rows(scores, baseline))
    say(f"{have}: {told}.", "score: ")


def as_classes(y: HostArray, classes: HostArray) -> tuple[HostArray, HostArray]:
    """The labels of a table as those of a model, and which of them it knows; the others mean nothing.

    Compared as they are written: a cast to the classes' own type would cut text, and take apple for a.
    """
    where = {str(label): i for i, label in enumerate(classes.tolist())}
    at = np.asarray([where.get(str(label), -1) for label in y.tolist()])
    return classes[at], at >= 0
