"""The eager runner: step after step, on every backend. Its results are what a step means."""

from collections.abc import Callable, Iterator
from typing import Any, cast

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.network import Drop
from xpmlp.runners.step import State, Task, of_each, step


class Data:
    """The samples of a fit, on the device, and their batches.

    Parameters
    ----------
    x, y : array of shape (n, n_0), (n, n_K), or with a leading axis of m networks
    w : array of shape (n,) or (m, n), or None
    batch_size : int
    rows : int, optional
        The samples of an epoch, where these are fewer than all: the first ones of its order.
    """

    whole = True  # whether x, y and w are there as arrays, and not only batch by batch
    streams = False  # whether it comes to the device batch by batch, which only NumPy's and the eager runner take

    def __init__(
        self, place: Place, x: Array, y: Array | None, w: Array | None, batch_size: int, rows: int | None = None
    ) -> None:
        # What there is no y for can only be looked at, in `x_blocks`.
        self.place, self.x, self.y, self.w = place, x, cast(Array, y), w
        self.dtype: Any = x.dtype  # of a batch
        self.n_there = int(x.shape[-2])
        self.n = self.n_there if rows is None else min(rows, self.n_there)  # in an epoch
        self.batch_size = min(batch_size, self.n)

    @property
    def n_batches(self) -> int:
        """Batches in an epoch, the short last one counted."""
        return -(-self.n // self.batch_size)

    @property
    def is_one_batch(self) -> bool:
        """Whether an epoch is one batch of everything, which is the same batch in any order."""
        return self.n_batches == 1 and self.n == self.n_there

    def batches(
        self,
        order: HostArray | None,
        take: Callable[[Array, Array, int], Array] | None = None,
        *,
        sparse: bool = False,  # noqa: ARG002 - what is here is dense
    ) -> Iterator[tuple[Array, Array, Array | None]]:
        """The batches of one epoch in the given order, shape (n,) or (m, n); None is the order the samples have.

        `take(values, rows, axis)` may stand in for the namespace's for one network: one that makes no new arrays, say.
        Who can multiply `host_data.SparseRows` says so with `sparse`.
        """
        if order is None or self.is_one_batch:
            for start in range(0, self.n, self.batch_size):
                rows = slice(start, min(start + self.batch_size, self.n))
                yield self.x[..., rows, :], self.y[..., rows, :], None if self.w is None else self.w[..., rows]
            return
        index = self.place.asarray(order, None if self.place.backend.name == "numpy" else "int32")
        for start in range(0, self.n, self.batch_size):
            rows = index[..., start : min(start + self.batch_size, self.n)]
            yield self.rows(rows, take)

    def rows(
        self, index: Array, take: Callable[[Array, Array, int], Array] | None = None
    ) -> tuple[Array, Array, Array | None]:
        """The samples at an index on the device, of shape (batch,) or (m, batch)."""
        return (
            self._take(self.x, index, 2, take),
            self._take(self.y, index, 2, take),
            self._take(self.w, index, 1, take),
        )

    def x_blocks(self, *, sparse: bool = False) -> Iterator[Array]:  # noqa: ARG002 - as in `batches`
        """The x of all batches, in the order the samples have."""
        for start in range(0, self.n, self.batch_size):
            yield self.x[..., start : min(start + self.batch_size, self.n), :]

    def _take(
        self, values: Array | None, rows: Array, ndim: int, take: Callable[[Array, Array, int], Array] | None = None
    ) -> Array | None:
        # Rows of `values`, which has `ndim` axes where all networks share it; `rows` is (batch,) or (m, batch).
        if values is None:
            return None
        xp = self.place.xp
        if rows.ndim == 1:
            axis = values.ndim - ndim
            return xp.take(values, rows, axis=axis) if take is None else take(values, rows, axis)
        tail = tuple(values.shape[values.ndim - ndim + 1 :])
        if values.ndim > ndim:  # each network has its own samples: lay them end to end and count on
            offsets = xp.arange(values.shape[0], dtype=rows.dtype, device=rows.device) * self.n_there
            values, rows = xp.reshape(values, (-1, *tail)), rows + offsets[:, None]
        return xp.reshape(xp.take(values, xp.reshape(rows, (-1,)), axis=0), (*rows.shape, *tail))


class Runner:
    """Executes `step` batch by batch."""

    name = "eager"
    reason = ""  # why this runner and not the backend's own

    def __init__(self, task: Task, data: Data, seed: Array | None = None) -> None:
        """`seed` is the int32 array of shape (1, 1) or (m, 1, 1) that dropout masks are hashed from."""
        self.task, self.data, self.seed = task, data, seed

    def epoch(
        self,
        state: State,
        order: HostArray | None,
        rate_of: Callable[[int], float],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> tuple[State, Array]:
        """One epoch: the new state and the mean of the batches' losses, weighted by their samples, shape () or (m,).

        Parameters
        ----------
        order : int array of shape (n,) or (m, n), or None
            The order of the samples of this epoch, on the host.
        rate_of : function
            The learning rate of batch i = 0, 1, ... of this epoch.
        interrupted : function
            Asked after every step; True ends the epoch there, with a whole state.
        """
        task, optimizer = self.task, self.task.optimizer
        p, slots, t = state
        total: Array = 0.0
        seen: Array = 0.0
        for i, (x, y, w) in enumerate(self.data.batches(order)):
            t += 1
            rates = optimizer.scalars(t, rate_of(i))
            p, slots, loss, weight = step(task, p, slots, rates, x, y, w, self._drop(t))
            total, seen = total + loss * weight, seen + weight
            if interrupted():
                break
        loss = total / seen if self.data.w is None and task.reduce is None else total * of_each(seen)
        return State(p, slots, t), loss

    def _drop(self, t: int) -> Drop | None:
        if self.seed is None:
            return None
        xp = self.data.place.xp
        return Drop(self.seed, xp.full((1, 1), t % 2**31, dtype=self.seed.dtype, device=self.seed.device))
