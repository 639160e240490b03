"""Samples whose x stays on the host as the caller has it: a batch is made ready when its turn comes.

What is of another dtype is cast, what is sparse made dense, and what lies elsewhere is brought; never the whole, so
that memory is bounded by a batch. On NumPy, rows of a matrix that is sparse enough stay sparse up to the first product.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.runners.eager import Data

# Products of sparse rows pay up to here. (Time of a fit by that of scikit-learn, 1,000 columns, 100 units, float32 and
# float64, sparse and dense: at a density of 0.1 0.70 and 0.93, 0.80 and 1.34; at 0.2 0.79 and 0.78, 0.89 and 0.94; at
# 0.5 0.84 and 0.50, 0.92 and 0.52.)
DENSE_FROM = 0.2
DENSE_FROM_FORWARD = 0.3  # where there is no gradient, whose product gains less


COPIED_BYTES = 2**25  # of samples: what is no larger is copied where that makes its batches a little faster
CAST_BYTES = 2**21  # of a block, where it is made to be looked at once


def rows_of_cast_block(rows: int, width: int) -> int:
    """Rows of a block that is made of `width` columns for a look, of the `rows` that are looked at at once."""
    return min(rows, max(CAST_BYTES // (8 * width), 256))


class SparseColumns(NamedTuple):
    """The transpose of sparse rows, which is h[0] of a step in place: `runners.numpy` multiplies it."""

    rows: Any  # SciPy's CSR


class SparseRows(NamedTuple):
    """A batch x of shape (batch, n_0) whose rows are sparse, in the dtype of the network."""

    rows: Any  # SciPy's CSR

    @property
    def shape(self) -> tuple[int, int]:
        """(batch, n_0)."""
        n, width = self.rows.shape
        return int(n), int(width)

    @property
    def mT(self) -> SparseColumns:
        """As of an array."""
        return SparseColumns(self.rows)


class HostData(Data):
    """See the head of this file.

    Parameters
    ----------
    x : array or sparse matrix of shape (N, n_0)
        On the host, of any dtype and order; a sparse one in rows (CSR).
    y, w, batch_size, rows : see `Data`
    dtype : str
        Of a batch.
    which : int array of shape (n,), optional
        The rows of x that are the samples; all by default. y and w are of these alone.
    """

    streams = True

    def __init__(
        self,
        place: Place,
        x: Any,
        y: Array | None,
        w: Array | None,
        batch_size: int,
        rows: int | None = None,
        *,
        dtype: str,
        which: HostArray | None = None,
    ) -> None:
        super().__init__(place, x, y, w, batch_size)
        self.dtype, self.which = np.dtype(dtype), which
        self.n_there = int(x.shape[0]) if which is None else len(which)
        self.n = self.n_there if rows is None else min(rows, self.n_there)
        self.batch_size = min(batch_size, self.n)
        self.is_sparse = hasattr(x, "tocsr")
        self.here = place.backend.name == "numpy"  # and then what is made for a batch serves the next one
        dense_from = DENSE_FROM if y is not None else DENSE_FROM_FORWARD
        self.stays_sparse = self.here and self.is_sparse and x.nnz < dense_from * x.shape[0] * x.shape[1]
        self.by_columns = not self.is_sparse and x.flags.f_contiguous and not x.flags.c_contiguous
        self.room: HostArray | None = None

    def batches(
        self,
        order: HostArray | None,
        take: Callable[[Array, Array, int], Array] | None = None,
        *,
        sparse: bool = False,
    ) -> Iterator[tuple[Array, Array, Array | None]]:
        """See `Data.batches`; a batch of x is good until the next one is asked for."""
        order = None if self.is_one_batch else order
        index = None if order is None else self.place.asarray(order, None if self.here else "int32")
        for start in range(0, self.n, self.batch_size):
            part = slice(start, min(start + self.batch_size, self.n))
            if index is None or order is None:
                x = self._rows(part, sparse)
                yield x, self.y[..., part, :], None if self.w is None else self.w[..., part]
            else:
                rows = index[part]
                x = self._rows(order[part], sparse)
                yield x, self._take(self.y, rows, 2, take), self._take(self.w, rows, 1, take)

    def x_blocks(self, *, sparse: bool = False) -> Iterator[Array]:
        """See `Data.x_blocks`."""
        for start in range(0, self.n, self.batch_size):
            yield self._rows(slice(start, min(start + self.batch_size, self.n)), sparse)

    def _rows(self, rows: Any, sparse: bool) -> Any:
        rows = rows if self.which is None else self.which[rows]
        if not self.is_sparse:
            return self._cast(self._dense(rows))
        part = self._stretch(rows) if isinstance(rows, slice) else self.x[rows]
        if part.data.dtype != self.dtype:
            part = type(part)((part.data.astype(self.dtype), part.indices, part.indptr), shape=part.shape, copy=False)
        if sparse and self.stays_sparse:
            return SparseRows(part)
        return part.toarray(out=self._room(part.shape[0])) if self.here else self._bring(part.toarray())

    def _stretch(self, rows: slice) -> Any:
        # A view: to index would copy it.
        x, ends = self.x, self.x.indptr[rows.start : rows.stop + 1]
        own = slice(ends[0], ends[-1])
        shape = len(ends) - 1, x.shape[1]
        return type(x)((x.data[own], x.indices[own], ends - ends[0]), shape=shape, copy=False)

    def _dense(self, rows: Any) -> HostArray:
        if isinstance(rows, slice):
            return self.x[rows]  # type: ignore[no-any-return]
        if self.by_columns:  # `take` would first copy all that does not lie as it takes it
            return self.x.T.take(rows, 1).T  # type: ignore[no-any-return]
        return self.x.take(rows, 0) if self.x.flags.c_contiguous else self.x[rows]  # type: ignore[no-any-return]

    def _cast(self, part: HostArray) -> Array:
        if not self.here:
            return self._bring(part)
        if part.dtype == self.dtype:
            return part
        room = self._room(len(part))
        np.copyto(room, part, casting="unsafe")
        return room

    def _bring(self, part: HostArray) -> Array:
        # A library may read an array when it likes: none is used twice.
        return self.place.asarray(part, self.dtype.name)

    def _room(self, n: int) -> HostArray:
        if self.room is None:
            shape = self.batch_size, self.x.shape[1]
            self.room = np.empty(shape, self.dtype, order="F" if self.by_columns else "C")
        return self.room[:n]
