"""The model of a table: made in one place (`fit_model`), opened in one (`open_model`), asked through `Opened`."""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.backends.transfer import to_backend, to_numpy
from xpmlp.cli.screen import CliError, say
from xpmlp.cli.tables import File
from xpmlp.estimators.tabular import TabularClassifier, TabularRegressor
from xpmlp.interop.loading import load
from xpmlp.io import storage
from xpmlp.mlp import MLP
from xpmlp.tabular import TablePreparation, TableWarning
from xpmlp.tabular.columns import Table

# Options that are parameters of an estimator, and their names there; what is not given is the estimator's own default.
SAME = ("batch_size", "weight_decay", "dropout", "time_limit", "refit", "dtype", "backend", "device")
PARAMETERS = {
    "hidden": "hidden_layer_sizes",
    "members": "n_members",
    "epochs": "max_iter",
    "learning_rate": "learning_rate_init",
    "seed": "random_state",
} | {name: name for name in SAME}


@dataclass(frozen=True)
class Parts:
    """Rows of a table: to train on, and held out."""

    X: list[Table]
    y: list[HostArray]


def fit_model(
    options: argparse.Namespace, task: str, preparation: TablePreparation, parts: Parts, follow: Callable[..., object]
) -> Any:
    """Train on rows of a table: an estimator that answers in the target's own labels or units.

    This is the one place where the command line chooses an estimator.
    """
    given = {own: getattr(options, name) for name, own in PARAMETERS.items() if getattr(options, name) is not None}
    if task == "classification":
        model: Any = TabularClassifier(**given, class_weight="balanced" if options.balanced else None)
    else:
        model = TabularRegressor(**given)
    model.set_params(preparation=preparation, callbacks=follow)
    model.fit(parts.X[0], parts.y[0])
    return model.set_params(preparation=None, callbacks=None)


class Opened(NamedTuple):
    """What is in a model file."""

    model: Any  # TabularClassifier, TabularRegressor, MLPClassifier, MLPRegressor or MLP
    document: dict[str, Any]
    preparation: TablePreparation | None  # where `train` wrote the file
    target: str | None
    task: str | None

    @property
    def takes_tables(self) -> bool:
        """Whether the preparation is the model's own, and not in front of it as `train` had it up to version 0.1."""
        return hasattr(self.model, "preparation_")

    def inputs(self, file: File, drop: list[str]) -> Table | HostArray:
        """What the model takes for the rows of a table, notes about it on stderr."""
        if self.preparation is None:
            return self._numbers(file, drop)
        kept = {name: column for name, column in file.table.columns.items() if name not in drop}
        table = replace(file.table, columns=kept)
        X, notes = self.preparation.transform_with_notes(table)
        for note, loud in notes:
            say(note, "warning: " if loud else "note: ")
        warnings.simplefilter("ignore", TableWarning)  # for the rest of the command: it would say the same again
        return table if self.takes_tables else X.astype(self.model.dtype_)

    def _numbers(self, file: File, drop: list[str]) -> HostArray:
        """The columns of a table as they are, for a model that knows no preparation."""
        n = _n_inputs(self.model)
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
        model = load(path, backend=backend, device=device)
        preparation = getattr(model, "preparation_", None)
        if preparation is None and "preparation" in document:
            preparation = TablePreparation.from_dict(document["preparation"])
            n = _n_inputs(model)
            if len(preparation.groups_) != n:
                raise ValueError(f"its preparation makes {len(preparation.groups_)} inputs, and its network takes {n}.")
        target, task = (None if name not in document else str(document[name]) for name in ("target", "task"))
    return Opened(model, document, preparation, target, task)


def some_of(X: Table | HostArray, rows: HostArray) -> Table | HostArray:
    """Some rows, by their numbers or as a mask."""
    return X[rows] if isinstance(X, np.ndarray) else X.take(np.arange(X.n_rows)[rows])


def answers(model: Any, X: Table | HostArray, proba: bool) -> dict[str, HostArray]:
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


def _n_inputs(model: Any) -> int:
    return int(model.network.n_inputs if isinstance(model, MLP) else model.n_features_in_)


def network_of(model: Any) -> Any:
    """The MLP in an estimator of tables; another model itself."""
    return getattr(model, "network_", model)


def in_words(net: MLP) -> str:
    """What stands in a network beside its layers, as a phrase; "" where nothing does."""
    found = []
    for part in (part for row in net.network.parts for part in row if not part.members):
        edges = part.parameters.get("edges")
        code = f"{len(edges or ())} numbers by their piecewise-linear code, {part.parameters.get('width')} inputs each"
        found.append(part.name if edges is None else code)
    if net.network.members:
        found.append(f"{net.network.members} members that share their weights")
    return "; ".join(found)
