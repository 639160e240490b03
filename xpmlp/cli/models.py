"""The model of a table: made in one place (`fit_model`), opened in one (`open_model`), asked through `Opened`."""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.backends.transfer import to_backend, to_numpy
from xpmlp.cli.screen import CliError, say
from xpmlp.cli.tables import File
from xpmlp.cli.targets import Target
from xpmlp.estimators import MLPClassifier, MLPRegressor
from xpmlp.interop.loading import load
from xpmlp.io import storage
from xpmlp.mlp import MLP
from xpmlp.tabular import TablePreparation
from xpmlp.tabular.columns import Table

FAR = 1e4  # the mean of a target, in standard deviations, from which float32 loses what there is to learn


@dataclass(frozen=True)
class Parts:
    """Rows of a table: to train on, to decide when to stop, held out."""

    X: list[Table]
    y: list[HostArray]


@dataclass(frozen=True)
class TableModel:
    """A model that takes tables: a preparation, and an estimator behind it."""

    preparation: TablePreparation
    estimator: Any

    @property
    def classes(self) -> HostArray | None:
        """The labels it knows, None of a regression."""
        return getattr(self.estimator, "classes_", None)

    def predict(self, table: Table) -> HostArray:
        """Labels or amounts, shape (n,)."""
        return to_numpy(self.estimator.predict(self._inputs(table)))

    def predict_proba(self, table: Table) -> HostArray:
        """The probability of each class, shape (n, classes)."""
        return to_numpy(self.estimator.predict_proba(self._inputs(table)))

    def _inputs(self, table: Table) -> HostArray:
        return self.preparation.transform_with_notes(table)[0].astype(self.estimator.dtype_)


def fit_model(
    options: argparse.Namespace,
    target: Target,
    preparation: TablePreparation,
    parts: Parts,
    follow: Callable[..., object],
) -> TableModel:
    """Train on rows of a table: a model that answers in the target's own labels or units.

    This is the one place where the command line chooses an estimator.
    """
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
        mean, scale = float(np.mean(y[0])), float(np.std(y[0])) or 1.0
        keywords["dtype"] = _dtype_for(target.name, mean, scale, options.dtype)
        model = MLPRegressor(**keywords)
        y = [(values - mean) / scale for values in y]
    X = [preparation.transform_with_notes(table)[0].astype(keywords["dtype"]) for table in parts.X[:2]]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Maximum iterations")  # said in the command's words
        model.fit(X[0], y[0], X_val=X[1], y_val=y[1])
    model.set_params(callbacks=None)
    if target.task == "regression":  # so that predict answers in the target's own units
        model.coefs_ = [*model.coefs_[:-1], model.coefs_[-1] * scale]
        model.intercepts_ = [*model.intercepts_[:-1], model.intercepts_[-1] * scale + mean]
    return TableModel(preparation, model)


def _dtype_for(name: str, mean: float, scale: float, asked: str | None) -> str:
    """The dtype whose weights can hold the target's own units, unless another was asked for."""
    if asked == "float64" or abs(mean) <= FAR * scale:
        return asked or "float32"
    far = f"{name} lies far from 0 for how little it varies"
    if abs(mean) > np.finfo(np.float32).max / 10:
        step = "not hold it"
    else:
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


class Opened(NamedTuple):
    """What is in a model file."""

    model: Any  # MLPClassifier, MLPRegressor or MLP
    document: dict[str, Any]
    preparation: TablePreparation | None  # where `train` wrote the file
    target: str | None
    task: str | None

    def inputs(self, file: File, drop: list[str]) -> HostArray:
        """The inputs for a table, notes about it on stderr."""
        if self.preparation is not None:
            X, notes = self.preparation.transform_with_notes(file.table)
            for note, loud in notes:
                say(note, "warning: " if loud else "note: ")
            return X.astype(self.model.dtype_)
        return self._numbers(file, drop)

    def _numbers(self, file: File, drop: list[str]) -> HostArray:
        """The columns of a table as they are, for a model that knows no preparation."""
        n = self.model.layout.sizes[0] if isinstance(self.model, MLP) else self.model.n_features_in_
        wanted = getattr(self.model, "feature_names_in_", None)
        names = list(file.table.columns)
        chosen = [name for name in names if name not in drop] if wanted is None else list(wanted)
        absent = [name for name in chosen if name not in names]
        if absent:
            raise CliError(f"{file.path} must have the columns {', '.join(chosen)}; {', '.join(absent)} is not there.")
        if len(chosen) != n:
            raise CliError(
                f"this model takes {n} columns in the order they had; {file.path} has {len(chosen)}. "
                "Name those that are not inputs with --drop."
            )
        X = np.stack([_finite_numbers(file.table, name) for name in chosen], axis=1)
        return X.astype(self.model.dtype if isinstance(self.model, MLP) else self.model.dtype_)


def _finite_numbers(table: Table, name: str) -> HostArray:
    from xpmlp.tabular.kinds import as_written, stray_rows

    column = table.columns[name]
    _, reading = as_written(column, ".", frozenset())
    values = np.full(table.n_rows, np.nan) if reading is None else reading.values
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        strays = stray_rows(column, reading.strays) if reading is not None else bad
        row = int((strays if len(strays) else bad)[0])
        raise CliError(
            f"column {name!r} must hold finite numbers, for this model knows no categories and no gaps; it holds "
            f"{column.cell(row)!r} in {table.place(row)}."
        )
    return values


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
        preparation = target = task = None
        if found is not None:
            preparation = TablePreparation.from_dict(found)
            target, task = str(document["target"]), str(document["task"])
        model = load(path, backend=backend, device=device)
        n = model.layout.sizes[0] if isinstance(model, MLP) else model.n_features_in_
        if preparation is not None and len(preparation.groups_) != n:
            raise ValueError(f"its preparation makes {len(preparation.groups_)} inputs, and its network takes {n}.")
    return Opened(model, document, preparation, target, task)


def answers(model: Any, X: HostArray, proba: bool) -> dict[str, HostArray]:
    """What a model answers for prepared rows, by the names of the answers' columns."""
    if isinstance(model, MLP):
        if model.n_networks is not None:
            raise CliError(f"predict needs one network; this file holds {model.n_networks}.")
        x = to_backend(X, model.place.backend.name, device=model.place.device_name)
        yhat = to_numpy(model.predict(x))
        return {f"yhat{j}": yhat[:, j] for j in range(yhat.shape[1])}
    found = to_numpy(model.predict(X))
    one = found.ndim == 1
    columns = {"prediction": found} if one else {f"prediction{j}": found[:, j] for j in range(found.shape[1])}
    if proba:
        p = to_numpy(model.predict_proba(X))
        columns |= {f"p({name})": p[:, j] for j, name in enumerate(model.classes_)}
    return columns
