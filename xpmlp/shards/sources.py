"""What a shard is, and where shards come from: arrays, memory maps, anything with a length and numbers."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xpmlp import checks

SHARD_BYTES = 2**22  # of X: so small that some twenty of them in memory are no matter, so large that a disk streams
Read = Callable[[int], tuple[Any, ...]]


class Shards(Sequence[Any]):
    """Pieces of data, each read by its number, as often as it is needed.

    A shard is small, some 4 MB. Shards are dealt to `lanes`, in the order they have, and a batch takes rows of every
    lane; each lane goes through its shards, and through the rows of each, in an order of its own. So data that are
    sorted by their target are mixed as far as the lanes reach, and no further: shuffle them once where they are made.

    Parameters
    ----------
    rows : sequence of int
        The number of rows of each shard.
    read : function
        From the number of a shard to (X, y) or (X, y, sample_weight).
    lanes : int
        More than there are processes. They decide which rows meet in a batch, so they are a property of the data.
    read_y : function, optional
        From the number of a shard to y alone, where that is cheaper.
    classes : array-like, optional
        All labels there are: without it, a classifier reads every y once before it begins.
    weighted : bool
        Whether `read` gives weights.
    runs : sequence of int, optional
        Of each shard, the run it belongs to: the shards of a run are read in their order, one after another.
    names : function, optional
        From the number of a shard to what an error calls it.
    """

    def __init__(
        self,
        rows: Sequence[int],
        read: Read,
        *,
        lanes: int = 8,
        read_y: Callable[[int], Any] | None = None,
        classes: Any = None,
        weighted: bool = False,
        runs: Sequence[int] | None = None,
        names: Callable[[int], str] | None = None,
    ) -> None:
        self.rows = tuple(checks.integer(n, f"rows[{i}]", least=0) for i, n in enumerate(rows))
        if sum(self.rows) == 0:
            raise ValueError("shards must hold at least one row; these hold none.")
        self.read, self.read_y, self.classes, self.weighted = read, read_y, classes, bool(weighted)
        self.lanes = checks.integer(lanes, "lanes", least=1)
        self.runs = tuple(range(len(self.rows)) if runs is None else runs)
        self.names = names

    def __len__(self) -> int:
        """The number of shards."""
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        """The samples of a shard, as they are read."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {len(self)} shards; got {i}.")
        return self.read(i % len(self))

    def y(self, i: int) -> Any:
        """The targets of a shard."""
        return self.read(i)[1] if self.read_y is None else self.read_y(i)

    def sample(self) -> tuple[Any, Any]:
        """X and y of some rows, the same in every process: what they look like."""
        X, y, *_ = self.read(next(i for i, n in enumerate(self.rows) if n))
        return X, y

    def looked_at(self, rank: int, size: int) -> range:
        """The shards that one of several processes looks at where all must be seen once, by one of them."""
        return nth_part(len(self), rank, size)

    def mapped(self, function: Callable[[Any, str], Any]) -> "Shards":
        """The same shards with what `function` makes of each X, and of what it is called, when its turn comes."""

        def read(i: int) -> tuple[Any, ...]:
            X, *others = self.read(i)
            try:
                return function(X, self.name(i)), *others
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self.name(i)}: {error}") from error

        found = copy.copy(self)
        found.read = read
        return found

    def name(self, i: int) -> str:
        """What a shard is called in an error."""
        return f"shard {i}" + ("" if self.names is None else f" ({self.names(i)})")

    @property
    def digest(self) -> str:
        """What tells these shards from others, without reading them."""
        told = repr((self.rows, self.lanes, self.weighted, self.runs))
        return hashlib.sha256(told.encode()).hexdigest()

    def __repr__(self) -> str:
        """Their number and size."""
        return f"Shards({len(self)} shards of {sum(self.rows):,} rows, lanes={self.lanes})"


def nth_part(n: int, i: int, count: int) -> range:
    """Part i of so many, of n things in a row; no two differ by more than one."""
    return range(n * i // count, n * (i + 1) // count)


def rows_of_a_shard(row_bytes: int) -> int:
    """How many rows make a shard."""
    return max(SHARD_BYTES // max(row_bytes, 1), 1)


def from_arrays(
    X: Any, y: Any, sample_weight: Any = None, *, rows: int | None = None, lanes: int = 8, classes: Any = None
) -> Shards:
    """Slices of arrays: NumPy's, memory maps, and what else has a shape, a dtype and slices (HDF5, zarr).

    Parameters
    ----------
    X : array of shape (n, n_features)
    y : array of shape (n,) or (n, n_outputs)
    sample_weight : array of shape (n,), optional
    rows : int, optional
        Of a shard. By default so many that X has about 4 MB of it, and every lane has as many shards.
    lanes, classes
        As in `Shards`.

    Raises
    ------
    ValueError
        If the arrays do not have one entry per row.

    Examples
    --------
    >>> import numpy as np
    >>> from xpmlp import MLPClassifier, shards
    >>> X = np.random.default_rng(0).standard_normal((1000, 4))
    >>> data = shards.from_arrays(X, X[:, 0] > 0)
    >>> clf = MLPClassifier(8, batch_size=100, learning_rate_init=0.01, tol=1e-3, random_state=0)
    >>> clf.fit(data).score(X, X[:, 0] > 0) > 0.95
    True
    """
    shape = tuple(getattr(X, "shape", ()))
    if len(shape) != 2 or not hasattr(X, "dtype") or hasattr(X, "iloc"):
        raise ValueError(
            f"X must be an array of shape (n, n_features); got {type(X).__name__} of shape {shape}. "
            "Of a table, X.to_numpy() is one; from_sequence takes anything else in pieces."
        )
    y = y if hasattr(y, "shape") else np.asarray(y)
    w = sample_weight if sample_weight is None or hasattr(sample_weight, "shape") else np.asarray(sample_weight)
    n = int(shape[0])
    for name, array in (("y", y), ("sample_weight", w)):
        if array is not None and (not array.shape or array.shape[0] != n):
            raise ValueError(f"{name} must have one entry per row of X, {n}; got shape {tuple(array.shape)}.")
    if rows is None:
        count = -(-n // rows_of_a_shard(X.dtype.itemsize * shape[1]))
        count = max(min(-(-count // lanes) * lanes, n), 1)
        edges = [n * i // count for i in range(count + 1)]
    else:
        edges = [*range(0, n, checks.integer(rows, "rows", least=1)), n]

    def read(i: int) -> tuple[Any, ...]:
        part = slice(edges[i], edges[i + 1])
        return tuple(_rows(array, part) for array in ((X, y) if w is None else (X, y, w)))

    return Shards(
        np.diff(edges).tolist(),
        read,
        lanes=lanes,
        read_y=lambda i: _rows(y, slice(edges[i], edges[i + 1])),
        classes=classes,
        weighted=w is not None,
        names=lambda i: f"rows {edges[i]} to {edges[i + 1] - 1}",
    )


def _rows(array: Any, part: slice) -> Any:
    # As the Array API has it, where an array keeps to that; columns of frames have no ellipsis.
    return array[part, ...] if hasattr(array, "__array_namespace__") else array[part]


def _n_rows(X: Any, y: Any = None, *_: Any) -> int:
    return len(X if y is None else y)  # a dict of columns would count these


def from_sequence(parts: Any, *, rows: Sequence[int] | None = None, lanes: int = 8, classes: Any = None) -> Shards:
    """Anything with a length that gives (X, y) or (X, y, sample_weight) for a number.

    Parameters
    ----------
    parts : sequence
        `len(parts)`, and `parts[i]`, as often as it is asked for.
    rows : sequence of int, optional
        The rows of each part; without it, every part is read once to count them.
    lanes, classes
        As in `Shards`.

    Raises
    ------
    TypeError
        If it has no length or no numbers, as a generator: training reads a part again and again.
    """
    if not (hasattr(parts, "__len__") and hasattr(parts, "__getitem__")):
        raise TypeError(
            f"parts must have a length and give a part for a number, as a list does; got {type(parts).__name__}. "
            "Training goes through the data many times, in an order of its own; for one pass, call partial_fit."
        )
    n = len(parts)
    if n == 0:
        raise ValueError("parts must hold at least one part; got none.")
    if rows is None:
        rows = [_n_rows(*parts[i]) for i in range(n)]
    elif len(rows) != n:
        raise ValueError(f"rows must hold a number for each of the {n} parts; got {len(rows)}.")
    weighted = len(parts[0]) == 3 and parts[0][2] is not None
    return Shards(rows, lambda i: tuple(parts[i]), lanes=lanes, classes=classes, weighted=weighted)
