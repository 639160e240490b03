"""Shards of Parquet files: row groups, the large ones in slices."""

import glob
import importlib
import itertools
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.shards.sources import Shards, rows_of_a_shard


class _Slice(NamedTuple):
    """A shard: a slice of a row group of a file."""

    file: str
    group: int
    start: int
    stop: int
    whole: bool  # whether it is all of the group


def from_parquet(
    path: Any, *, target: str | list[str], weight: str | None = None, columns: Any = None, lanes: int = 8,
    classes: Any = None, scratch: Any = None,
) -> Shards:  # fmt: skip
    """The row groups of Parquet files, read when their turn comes; needs pyarrow.

    A row group of more than 4 MB cannot be read in slices without unpacking all that comes before, in every column at
    once. So it is unpacked when it is first needed, column by column, into a file of its own that goes when the shards
    go: that takes the room of its numbers on a disk. Groups of about 4 MB (`row_group_size`) need no copy.

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
    scratch : path, optional
        The folder of these files, on a disk and not in memory; by default /var/tmp, where it is there and TMPDIR does
        not name another.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    ValueError
        If there is no such file or column.
    OSError
        While shards are read: if there is no room in `scratch`.
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
    width = 8 * len(names)
    for file in files:
        details = parquet.read_metadata(file)
        for group in range(details.num_row_groups):
            n = details.row_group(group).num_rows
            count = -(-n // rows_of_a_shard(width))
            edges = [n * k // max(count, 1) for k in range(count + 1)]
            slices += [_Slice(file, group, a, b, count <= 1) for a, b in itertools.pairwise(edges)]
    reader = _Reader(parquet, names, targets, weight, _scratch(scratch))
    return Shards(
        [part.stop - part.start for part in slices],
        lambda i: reader.read(slices[i]),
        lanes=lanes,
        read_y=lambda i: reader.targets_of(slices[i]),
        classes=classes,
        weighted=weight is not None,
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


def _scratch(folder: Any) -> Any:
    """Where copies go: /tmp is memory on many machines."""
    if folder is not None:
        return folder
    named = any(name in os.environ for name in ("TMPDIR", "TEMP", "TMP"))
    return "/var/tmp" if Path("/var/tmp").is_dir() and not named else tempfile.gettempdir()


class _Reader:
    """Reads slices; of a row group in several slices it makes a copy first."""

    def __init__(self, parquet: Any, names: list[str], targets: list[str], weight: str | None, scratch: Any) -> None:
        self.parquet, self.names, self.targets, self.weight, self.scratch = parquet, names, targets, weight, scratch
        self.copies: dict[tuple[str, int], HostArray] = {}  # X of a row group, column by column
        self.lock = threading.Lock()
        self.pool: Any = importlib.import_module("pyarrow").default_memory_pool()

    def read(self, part: _Slice) -> tuple[Any, ...]:
        """The samples of a slice."""
        others = [*self.targets, *([] if self.weight is None else [self.weight])]
        table = self._columns(part, [*self.names, *others] if part.whole else others)
        if part.whole:
            X = np.empty((table.num_rows, len(self.names)), _widest(table.schema, self.names))
            for k, name in enumerate(self.names):
                X[:, k] = _column(table, name)
        else:
            with self.lock:
                copy = self._copy(part)
            X = np.ascontiguousarray(copy[:, part.start : part.stop].T)
            table = table.slice(part.start, part.stop - part.start)
        y = self._targets(table)
        w = None if self.weight is None else _column(table, self.weight)
        del table
        self.pool.release_unused()  # Arrow would keep what it needed for the largest
        return (X, y) if w is None else (X, y, w)

    def targets_of(self, part: _Slice) -> HostArray:
        """The targets of a slice: only these columns are read."""
        return self._targets(self._columns(part, self.targets).slice(part.start, part.stop - part.start))

    def _targets(self, table: Any) -> HostArray:
        if len(self.targets) == 1:
            return _column(table, self.targets[0])
        return np.column_stack([_column(table, name) for name in self.targets])

    def _columns(self, part: _Slice, names: list[str]) -> Any:
        file = self.parquet.ParquetFile(part.file, memory_map=True, pre_buffer=False)
        return file.read_row_group(part.group, columns=names, use_threads=False)

    def _copy(self, part: _Slice) -> HostArray:
        key = (part.file, part.group)
        if key not in self.copies:
            schema = self.parquet.read_schema(part.file)
            dtype = np.dtype(_widest(schema, self.names))
            n = self.parquet.read_metadata(part.file).row_group(part.group).num_rows
            try:
                with tempfile.TemporaryFile(prefix="xpmlp-", dir=self.scratch) as file:
                    for name in self.names:  # of each its pages and its dictionary are in memory, and then nothing
                        np.ascontiguousarray(_column(self._columns(part, [name]), name), dtype).tofile(file)
                        self.pool.release_unused()
                    file.flush()
                    self.copies[key] = np.memmap(file, dtype, "r", shape=(len(self.names), n))
            except OSError as error:
                error.add_note(
                    f"A row group of {os.path.basename(part.file)} is copied to {self.scratch}, where it takes "
                    f"{n * len(self.names) * dtype.itemsize / 2**20:.0f} MB: name another folder with scratch=, or "
                    "write smaller row groups, which need no copy."
                )
                raise
        return self.copies[key]


def _widest(schema: Any, names: list[str]) -> Any:
    kinds = [schema.field(name).type.to_pandas_dtype() for name in names]
    for name, kind in zip(names, kinds, strict=True):
        if np.dtype(kind).kind not in "iufb":
            raise ValueError(f"column {name!r} must hold numbers; it holds {schema.field(name).type}.")
    return np.result_type(np.float32, *kinds)


def _column(table: Any, name: str) -> HostArray:
    found: HostArray = np.asarray(table.column(name).to_numpy(zero_copy_only=False))
    return found
