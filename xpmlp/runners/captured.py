"""The captured runner: the step of `runners.step` itself as a CUDA graph, for every row and the user's own functions.

A step of array functions takes no value from the host, and its shapes depend on no data; that JAX compiles it shows it.
So CuPy's kernels can be captured as they are launched: more of them than `runners.cupy` needs, and none of our own.
Products are ours, for CuPy refuses its own while it captures. What changes from step to step, the place in the epoch's
order, its rates, the count that dropout hashes, is read from the device. Arrays that come and go within a step have a
pool of their own: a graph writes to where they lay when it was captured.
"""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.backends.namespaces import captured_matmul
from xpmlp.network import Drop, reciprocal
from xpmlp.network.dropout import LARGEST
from xpmlp.runners.cublas import product_of
from xpmlp.runners.cuda_machine import Stream
from xpmlp.runners.graphs import GraphRunner, epoch_rates, uploaded_order
from xpmlp.runners.step import State, step, total_weight


class Runner(GraphRunner):
    """Executes captured steps of CuPy arrays; see the head of this file."""

    name = "captured"
    captures = "step"
    machine: Callable[..., Any] = Stream
    _order: Array = None
    _pool: Any = None

    def _connect(self) -> Any:
        machine = type(self).machine(self.dtype, self.data.place.device, tf32=self.task.precision == "high")
        self._pool = machine.xp.cuda.MemoryPool()
        return machine

    def _forget(self) -> None:
        self._order = self._pool = None

    def _build(self, state: State) -> None:
        data, xp, p = self.data, self.data.place.xp, state.p
        lead = tuple(p.shape[:-1])
        self._p, *slots = (xp.empty(p.shape, dtype=p.dtype) for _ in range(1 + len(state.slots)))
        self._slots = tuple(slots)
        self._order = xp.zeros((*lead, data.n), dtype=xp.int32)
        n_rates = epoch_rates(self.task.optimizer, 0, 1, lambda _: 0.0).shape[1]
        self._rates = xp.zeros((data.n_batches, n_rates), dtype=p.dtype)
        self._batch_at = xp.zeros((1,), dtype=xp.int32)  # of this epoch
        self._t = xp.zeros((1, 1), dtype=xp.int32)  # updates done
        self._places = xp.arange(data.batch_size, dtype=xp.int32)  # in a batch
        self._total, self._seen = (xp.zeros(lead, dtype=p.dtype) for _ in range(2))

    def _prepare(self, t: int, order: HostArray | None, rate_of: Callable[[int], float]) -> None:
        data, machine = self.data, self._machine
        order = uploaded_order(data, order)
        machine.upload(self._order, np.broadcast_to(np.arange(data.n) if order is None else order, self._order.shape))
        machine.upload(self._rates, epoch_rates(self.task.optimizer, t, data.n_batches, rate_of))
        machine.upload(self._t, np.full((1, 1), t % 2**31))
        for counter in (self._batch_at, self._total, self._seen):
            counter[...] = 0

    def _program(self, rows: int) -> Any:
        def queue() -> None:
            with self._machine.xp.cuda.using_allocator(self._pool.malloc), self._own_products():
                self._step(rows)

        return [queue]

    @contextmanager
    def _own_products(self) -> Any:
        token = captured_matmul.set(self._matmul)
        try:
            yield
        finally:
            captured_matmul.reset(token)

    def _matmul(self, a: Array, b: Array) -> Array:
        xp = self.data.place.xp
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        if len(lead) > 1:  # of parts of several networks: cuBLAS counts products along one axis
            a, b = (xp.reshape(xp.broadcast_to(it, (*lead, *it.shape[-2:])), (-1, *it.shape[-2:])) for it in (a, b))
        out = xp.empty((*(a.shape[:-2] or b.shape[:-2]), a.shape[-2], b.shape[-1]), dtype=a.dtype)
        product = product_of(a, b, out, self._machine.xp.ascontiguousarray)
        self._machine.cublas.multiply(product)
        return xp.reshape(out, (*lead, *out.shape[-2:]))

    def _step(self, rows: int) -> None:
        """A whole step; every array that outlives it is written in place."""
        data, task, xp = self.data, self.task, self.data.place.xp
        index = xp.take(self._order, self._batch_at * data.batch_size + self._places[:rows], axis=-1)
        x, y, w = data.rows(index)
        rates = xp.take(self._rates, self._batch_at, axis=0)
        drop = None if self.seed is None else Drop(self.seed, (self._t + 1) & LARGEST)
        numbers = tuple(rates[0, i] for i in range(rates.shape[1]))
        p, slots, loss, _ = step(task, self._p, self._slots, numbers, x, y, w, drop)
        for own, new in zip((self._p, *self._slots), (p, *slots), strict=True):
            if new is not own:
                own[...] = new
        weight = total_weight(x, w)
        self._total[...] = self._total + loss * weight
        self._seen[...] = self._seen + weight
        self._batch_at += 1
        self._t += 1

    def _mean_loss(self, done: int) -> Array:  # noqa: ARG002 - the device has counted
        loss = self._total / self._seen if self.data.w is None else self._total * reciprocal(self._seen)
        return loss.astype(self._p.dtype)
