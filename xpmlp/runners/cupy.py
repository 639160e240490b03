"""The CuPy runner: the whole step, batch gather included, as one CUDA graph.

Array by array a step is some hundred kernels of about ten microseconds each, slower than NumPy for a small network.
Here it is the 18 nodes of `cuda_plan` (for 3 layers), captured once for each size of batch and launched again and
again. Data, permutation, rates, counters and losses stay on the device; the losses are read once an epoch.

Where a row has no column of C, or the kernels cannot be made, the captured runner takes over: it needs neither.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.network import reciprocal
from xpmlp.runners import captured
from xpmlp.runners.cuda_columns import obstacle
from xpmlp.runners.cuda_kernels import source
from xpmlp.runners.cuda_machine import Machine
from xpmlp.runners.cuda_plan import ALIGNMENT, Buffers, Samples, nodes
from xpmlp.runners.eager import Data
from xpmlp.runners.graphs import MOST, GraphRunner, epoch_rates, uploaded_order
from xpmlp.runners.step import CannotRunError, State, Task

MOST_NETWORKS = 2**16 - 1  # the second axis of a CUDA grid


class Runner(GraphRunner):
    """Executes steps of CuPy arrays; see the head of this file."""

    name = "cupy"
    captures = "fused"
    cannot_start = "the kernels of this network cannot be made here"
    machine: Callable[..., Any] = Machine  # tests put a CPU in its place
    next_best = captured.Runner
    _buffers: Buffers | None = None

    def _connect(self) -> Any:
        task, data = self.task, self.data
        if why := obstacle(task) or _limits(task, data):
            raise CannotRunError(why)
        text = source(task, self.dtype, weighted=data.w is not None)
        return type(self).machine(text, self.dtype, data.place.device, tf32=task.precision == "high")

    def _forget(self) -> None:
        self._buffers = None

    def _build(self, state: State) -> None:
        data, task, xp = self.data, self.task, self._machine.xp
        lead, size = tuple(state.p.shape[:-1]), int(state.p.shape[-1])
        m = lead[0] if lead else 1
        if m > MOST_NETWORKS:
            raise CannotRunError(f"a grid has room for {MOST_NETWORKS:,} networks; here are {m:,}")
        # Networks begin at a multiple of 256 bytes, so that products read all equally fast; the padding stays 0.
        pitch = size if m == 1 else -(-size // ALIGNMENT) * ALIGNMENT
        flat = [xp.zeros((m, pitch), dtype=state.p.dtype) for _ in range(1 + len(state.slots))]
        views = [array[:, :size] if lead else array[0, :size] for array in flat]
        self._p, self._slots = views[0], tuple(views[1:])
        samples = Samples(*(None if it is None else xp.ascontiguousarray(it) for it in (data.x, data.y, data.w)))
        seeds = None if self.seed is None else xp.ascontiguousarray(self.seed.reshape(-1))
        self._buffers = Buffers(
            *(xp, task, samples, seeds),
            p=flat[0],
            slots=tuple(flat[1:]),
            n=data.n,
            batch=data.batch_size,
            n_batches=data.n_batches,
        )
        self._ordered = False

    def _program(self, rows: int) -> Any:
        return self._machine.program(nodes(self._arrays, rows))

    @property
    def _arrays(self) -> Buffers:
        assert self._buffers is not None
        return self._buffers

    def _prepare(self, t: int, order: HostArray | None, rate_of: Callable[[int], float]) -> None:
        data, machine, buffers = self.data, self._machine, self._arrays
        order = uploaded_order(data, order)
        if order is not None:
            machine.upload(buffers.order, np.broadcast_to(order, (buffers.networks, data.n)))
            self._ordered = False
        elif not self._ordered:
            machine.upload(buffers.order, np.broadcast_to(np.arange(data.n), (buffers.networks, data.n)))
            self._ordered = True
        machine.upload(buffers.rates, epoch_rates(self.task.optimizer, t, data.n_batches, rate_of))
        machine.upload(buffers.cells, np.array([0, 0, t % 2**31]))
        buffers.sums[...] = 0.0
        if buffers.penalties is not None:
            buffers.penalties[...] = 0.0
        if buffers.samples.w is not None:
            self._totals = self._batch_weights()
            buffers.reciprocals[...] = reciprocal(self._totals).reshape(-1)

    def _batch_weights(self) -> Array:
        """sum(w) of every batch of the epoch, shape (m, n_batches)."""
        xp, data, buffers = self._machine.xp, self.data, self._arrays
        m = buffers.networks
        w = xp.broadcast_to(buffers.samples.w, (m, data.n_there))
        w = xp.take_along_axis(w, buffers.order.reshape(m, data.n), axis=1)
        missing = data.n_batches * data.batch_size - data.n
        w = xp.concatenate([w, xp.zeros((m, missing), dtype=w.dtype)], axis=1)
        return xp.sum(w.reshape(m, data.n_batches, data.batch_size), axis=-1)

    def _mean_loss(self, done: int) -> Array:
        xp, data, buffers = self._machine.xp, self.data, self._arrays
        m = buffers.networks
        total = xp.sum(buffers.sums.reshape(m, -1), axis=-1)
        if buffers.penalties is not None:
            total = total + 0.5 * self.task.l2 * xp.sum(buffers.penalties.reshape(m, -1), axis=-1)
        if buffers.samples.w is None:
            total = total / min(done * data.batch_size, data.n)
        else:
            total = total * reciprocal(xp.sum(self._totals[:, :done], axis=-1))
        loss = total.astype(buffers.p.dtype)
        return loss if self._p.ndim == 2 else loss[0]


def _limits(task: Task, data: Data) -> str:
    sizes = task.network.layout.sizes
    widest = max(*sizes, sizes[0] + int(data.y.shape[-1]))
    if data.batch_size * widest >= MOST or task.network.layout.size >= MOST:
        return f"there are {MOST:,} elements or more in one array of a step"
    return ""
