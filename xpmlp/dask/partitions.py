"""Dask's collections as shards: cut where a shard ends, each read by the process that has it in memory."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpmlp.shards import Shards
from xpmlp.shards.sources import rows_of_a_shard

Part = tuple[Any, ...]  # X, y and perhaps weights of a partition


def is_collection(X: Any) -> bool:
    """Whether X is Dask's."""
    return hasattr(X, "__dask_graph__")


def is_frame(X: Any) -> bool:
    """Whether a collection is a dataframe or one of its columns."""
    return hasattr(X, "npartitions") and hasattr(X, "divisions")


class Cut(NamedTuple):
    """A shard: some rows of a partition."""

    partition: int
    start: int
    stop: int


class Layout(NamedTuple):
    """What is known of partitions without having them."""

    cuts: list[Cut]
    sample: tuple[Any, Any]  # a row
    lanes: int
    weighted: bool

    @property
    def rows(self) -> list[int]:
        """Of each shard."""
        return [cut.stop - cut.start for cut in self.cuts]


class Partitions(Shards):
    """The shards of a layout, of which this process has some.

    Parameters
    ----------
    layout : Layout
    held : mapping
        From the number of a partition to it.
    mine : range
        The shards that are this process's.
    """

    def __init__(self, layout: Layout, held: Mapping[int, Part], mine: range) -> None:
        self.layout, self.held, self.mine = layout, held, mine
        super().__init__(
            layout.rows,
            self._read,
            lanes=layout.lanes,
            read_y=lambda i: self._read(i)[1],
            weighted=layout.weighted,
            names=lambda i: f"partition {layout.cuts[i].partition}",
        )

    def _read(self, i: int) -> Part:
        cut = self.layout.cuts[i]
        X, *others = self.held[cut.partition]
        rows = slice(cut.start, cut.stop)
        X = X.iloc[rows] if hasattr(X, "iloc") else X[rows]
        return X, *(_values(column, rows) for column in others)

    def sample(self) -> tuple[Any, Any]:
        """See `Shards`."""
        return self.layout.sample

    def looked_at(self, rank: int, size: int) -> range:  # noqa: ARG002
        """See `Shards`: those that are here."""
        return self.mine


def parts_of(X: Any, y: Any, w: Any, names: tuple[str, str, str] = ("X", "y", "sample_weight")) -> list[Any]:
    """X, y and w as a delayed tuple for each partition.

    Raises
    ------
    ValueError
        If they are no collections that have the same partitions.
    """
    dask: Any = importlib.import_module("dask")
    if not is_collection(X) or not (is_frame(X) or getattr(X, "ndim", 0) == 2):
        raise ValueError(
            f"{names[0]} must be a Dask array of shape (n, n_features) or a Dask dataframe; got {type(X).__name__}. "
            "The estimator without Dask trains on what is in memory here."
        )
    if not is_frame(X) and X.numblocks[1] > 1:
        X = X.rechunk({1: -1})
    columns = [_column(X, values, name) for values, name in ((y, names[1]), (w, names[2])) if values is not None]
    pieces = [
        piece.to_delayed().ravel().tolist() if not is_frame(piece) else piece.to_delayed() for piece in (X, *columns)
    ]
    for found, name in zip(pieces[1:], names[1:], strict=False):
        if len(found) != len(pieces[0]):
            raise ValueError(
                f"{name} must have the partitions of {names[0]}, {len(pieces[0])}; it has {len(found)}. Make both of "
                "one collection, or rechunk one like the other."
            )
    together = dask.delayed(_together, pure=False)
    return [together(i, names, *parts) for i, parts in enumerate(zip(*pieces, strict=True))]


def _column(X: Any, values: Any, name: str) -> Any:
    """One value per row, or several, in the partitions of X, where these are known."""
    known = None if is_frame(X) or any(np.isnan(n) for n in X.chunks[0]) else X.chunks[0]
    if not is_collection(values):
        values = np.asarray(values)
        if known is None:
            raise ValueError(f"{name} must be a Dask collection too: how many rows each partition of X has is unknown.")
        if values.ndim == 0 or len(values) != sum(known):
            raise ValueError(f"{name} must have one entry per row of X, {sum(known)}; got shape {values.shape}.")
        da: Any = importlib.import_module("dask.array")
        return da.from_array(values, chunks=(known, *values.shape[1:]))
    if is_frame(values):
        return values
    if values.ndim == 2 and values.numblocks[1] > 1:
        values = values.rechunk({1: -1})
    if known is None or any(np.isnan(n) for n in values.chunks[0]):
        return values
    if sum(values.chunks[0]) != sum(known):
        raise ValueError(f"{name} must have one entry per row of X, {sum(known)}; it has {sum(values.chunks[0])}.")
    return values if values.chunks[0] == known else values.rechunk({0: known})


def _together(i: int, names: Sequence[str], *parts: Any) -> Part:
    lengths = [len(part) for part in parts]
    if len(set(lengths)) > 1:
        told = ", ".join(f"{name} {n}" for name, n in zip(names, lengths, strict=False))
        raise ValueError(f"in partition {i} not all have the same number of rows: {told}.")
    return parts


def look(part: Part) -> tuple[int, int, Any]:
    """Of a partition: its rows, the bytes of one, and one."""
    X, y = part[:2]
    n = len(X)
    size = X.memory_usage(index=False).sum() if hasattr(X, "memory_usage") else getattr(X, "nbytes", 0)
    if not n:
        return 0, 0, None
    row = X.iloc[:1] if hasattr(X, "iloc") else X[:1].copy()
    return n, int(size) // n, (row, np.array(_values(y, slice(1))))


def _values(column: Any, rows: slice) -> Any:
    """Some of y, or of the weights, as an array; a frame of one column is that column."""
    found = (column.to_numpy() if hasattr(column, "to_numpy") else column)[rows]
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def layout_of(looks: Sequence[tuple[int, int, Any]], lanes: int, *, weighted: bool) -> Layout:
    """Where shards are cut: some 4 MB each, and one for every lane at least."""
    samples = [sample for n, _, sample in looks if n]
    if not samples:
        raise ValueError("the collection must hold at least one row; it holds none.")
    least = -(-lanes // len(samples))
    cuts = []
    for i, (n, size, _) in enumerate(looks):
        count = min(max(-(-n // rows_of_a_shard(size)), least), n)
        cuts += [Cut(i, n * k // count, n * (k + 1) // count) for k in range(count)]
    return Layout(cuts, samples[0], lanes, weighted)
