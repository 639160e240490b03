"""Shards of Parquet files: row groups, the large ones in slices."""

import glob
import importlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.shards.sources import Shards, rows_of_a_shard


class _Slice(NamedTuple):
    """A shard: a slice of a row group of a file."""

    file: str
    group: int
    number: int  # of the slice within the group
    rows: int
    full: int  # rows of the other slices of the group, the last apart


def from_parquet(
    path: Any, *, target: str | list[str], weight: str | None = None, columns: Any = None, lanes: int = 8,
    classes: Any = None,
) -> Shards:  # fmt: skip
    """The row groups of Parquet files, read when their turn comes; needs pyarrow.

    A row group of more than 4 MB is read in slices, and unpacked from its beginning each time that another one came
    between. Write small groups (`row_group_size`): with 1.6 million rows of 54 columns, training took 47 MB and 4
    seconds an epoch with groups of 9,600 rows, 210 MB with 100,000, and 310 MB and 10 seconds with 1,048,576.

    Parameters
    ----------
    path : path or list of paths
        A file, a folder, or a pattern with `*`.
    target : str or list of str
        The column of y, or several.
    weight : str, optional
        The column of sample weights.
    columns : list of str, optional
        Those of X, all of them numbers; by default all others.
    lanes, classes
        As in `Shards`.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    ValueError
        If there is no such file or column.
    """
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError("from_parquet needs pyarrow; install it with pip install pyarrow.") from error
    files = _files(path)
    targets = [target] if isinstance(target, str) else list(target)
    schema = parquet.read_schema(files[0])
    apart = {*targets, *(() if weight is None else (weight,))}
    names = [name for name in schema.names if name not in apart] if columns is None else list(columns)
    missing = [name for name in (*names, *apart) if name not in schema.names]
    if missing or not names:
        raise ValueError(
            f"{files[0]} has no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, schema.names))}."
            if missing
            else f"{files[0]} has no column beside target and weight: there is nothing to learn from."
        )
    slices: list[_Slice] = []
    runs: list[int] = []
    width = 8 * len(names)
    for file in files:
        details = parquet.read_metadata(file)
        for group in range(details.num_row_groups):
            n = details.row_group(group).num_rows
            count = -(-n // rows_of_a_shard(width))
            full = -(-n // max(count, 1))
            for number in range(count):
                slices.append(_Slice(file, group, number, min(full, n - number * full), full))
                runs.append(len(runs) if number == 0 else runs[-1])
    reader = _Reader(parquet, names, targets, weight)
    return Shards(
        [part.rows for part in slices],
        lambda i: reader.read(slices[i]),
        lanes=lanes,
        read_y=lambda i: reader.targets_of(slices[i]),
        classes=classes,
        weighted=weight is not None,
        runs=runs,
        names=lambda i: f"{os.path.basename(slices[i].file)}, row group {slices[i].group}",
    )


def _files(path: Any) -> list[str]:
    found = []
    for one in [path] if isinstance(path, str | os.PathLike) else list(path):
        text = os.fspath(one)
        if Path(text).is_dir():
            found += sorted(map(str, Path(text).glob("*.parquet")))
        else:
            found += sorted(glob.glob(text)) if glob.has_magic(text) else [text]
    if not found:
        raise ValueError(f"there is no Parquet file at {path!r}.")
    return found


class _Reader:
    """Reads slices; of a row group in several slices it remembers where it stands."""

    def __init__(self, parquet: Any, names: list[str], targets: list[str], weight: str | None) -> None:
        self.parquet, self.names, self.targets, self.weight = parquet, names, targets, weight
        self.standing: OrderedDict[tuple[str, int], tuple[int, Iterator[Any]]] = OrderedDict()
        self.lock = threading.Lock()
        self.pool: Any = importlib.import_module("pyarrow").default_memory_pool()

    def read(self, part: _Slice) -> tuple[Any, ...]:
        """The samples of a slice."""
        columns = [*self.names, *self.targets, *([] if self.weight is None else [self.weight])]
        with self.lock:
            table = self._at(part, columns)
        X = np.empty((part.rows, len(self.names)), _widest(table, self.names))
        for k, name in enumerate(self.names):
            X[:, k] = _column(table, name)
        y = self._targets(table)
        w = None if self.weight is None else _column(table, self.weight)
        del table
        self.pool.release_unused()  # Arrow would keep what it needed for the largest
        return (X, y) if w is None else (X, y, w)

    def targets_of(self, part: _Slice) -> HostArray:
        """The targets of a slice: only these columns are read."""
        table = self.parquet.ParquetFile(part.file, memory_map=True).read_row_group(part.group, columns=self.targets)
        return self._targets(table.slice(part.number * part.full, part.rows))

    def _targets(self, table: Any) -> HostArray:
        if len(self.targets) == 1:
            return _column(table, self.targets[0])
        return np.column_stack([_column(table, name) for name in self.targets])

    def _at(self, part: _Slice, columns: list[str]) -> Any:
        key = (part.file, part.group)
        if part.rows == part.full and part.number == 0 and key not in self.standing:
            whole = self.parquet.read_metadata(part.file).row_group(part.group).num_rows
            if whole == part.rows:
                return self.parquet.ParquetFile(part.file, memory_map=True).read_row_group(
                    part.group, columns=columns, use_threads=False
                )
        at, batches = self.standing.pop(key, (0, None))
        if batches is None or at > part.number:
            file = self.parquet.ParquetFile(part.file, memory_map=True, pre_buffer=False)
            at = 0
            batches = file.iter_batches(part.full, row_groups=[part.group], columns=columns, use_threads=False)
        for _ in range(part.number - at):
            next(batches)
        table = next(batches)
        if part.rows == part.full:  # the last slice is shorter, or there is no more
            self.standing[key] = (part.number + 1, batches)
            while len(self.standing) > 2:
                self.standing.popitem(last=False)
        return table


def _widest(table: Any, names: list[str]) -> Any:
    kinds = [table.schema.field(name).type.to_pandas_dtype() for name in names]
    for name, kind in zip(names, kinds, strict=True):
        if np.dtype(kind).kind not in "iufb":
            raise ValueError(f"column {name!r} must hold numbers; it holds {table.schema.field(name).type}.")
    return np.result_type(np.float32, *kinds)


def _column(table: Any, name: str) -> HostArray:
    found: HostArray = np.asarray(table.column(name).to_numpy(zero_copy_only=False))
    return found
