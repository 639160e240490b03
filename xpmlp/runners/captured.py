"""The captured runner: the step of `runners.step` itself as a CUDA graph, for every row and the user's own functions.

A step of array functions takes no value from the host, and its shapes depend on no data; that JAX compiles it shows it.
So CuPy's kernels can be captured as they are launched: more of them than `runners.cupy` needs, and none of our own.
Products are ours, for CuPy refuses its own while it captures. What changes from step to step, the place in the epoch's
order, its rates, the count that dropout hashes, is read from the device. Arrays that come and go within a step have a
pool of their own: a graph writes to where they lay when it was captured.
"""

from contextvars import copy_context
from typing import Any
from weakref import proxy

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends.namespaces import captured_matmul
from xpmlp.network import Drop
from xpmlp.network.dropout import LARGEST
from xpmlp.runners.cublas import Product, by_rows
from xpmlp.runners.cuda_machine import Stream
from xpmlp.runners.graphs import GraphRunner
from xpmlp.runners.step import State, step


class Runner(GraphRunner):
    """Executes captured steps of CuPy arrays; see the head of this file."""

    name = "captured"
    captures = "step"
    machine = Stream

    def _connect(self) -> Any:
        return self.machine(self.dtype, self.data.place.device, tf32=self.task.precision == "high")

    def _build(self, state: State) -> State:
        xp = self._machine.xp
        self._arrays = xp.cuda.MemoryPool()
        self._places = xp.arange(self.data.batch_size, dtype="int32")  # in a batch
        self._total = xp.zeros(state.p.shape[:-1], dtype=state.p.dtype)
        self._sums = [(1.0, self._total)]
        p, *slots = (xp.empty(it.shape, dtype=it.dtype) for it in (state.p, *state.slots))
        return State(p, tuple(slots), state.t)

    def _program(self, rows: int) -> Any:
        runner = proxy(self)  # what it holds is not to wait for the collector of cycles

        def queue() -> None:
            captured_matmul.set(runner._matmul)  # in a context that ends here
            with runner._machine.xp.cuda.using_allocator(runner._arrays.malloc):
                runner._step(rows)

        return [lambda: copy_context().run(queue)]

    def _matmul(self, a: Array, b: Array) -> Array:
        xp = self._machine.xp
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        if len(lead) > 1:  # of parts of several networks: cuBLAS counts products along one axis
            a, b = (xp.broadcast_to(it, (*lead, *it.shape[-2:])) for it in (a, b))
            a, b = (xp.reshape(it, (-1, *it.shape[-2:])) for it in (a, b))
        a, b = (it if by_rows(it) or by_rows(it.swapaxes(-1, -2)) else xp.ascontiguousarray(it) for it in (a, b))
        out = xp.empty((*lead, a.shape[-2], b.shape[-1]), dtype=a.dtype)
        self._machine.cublas.multiply(Product(a, b, xp.reshape(out, (-1, *out.shape[-2:]))))
        return out

    def _step(self, rows: int) -> None:
        """A whole step; every array that outlives it is written in place."""
        data, task, xp = self.data, self.task, self.data.place.xp
        own, batch = self._own, self._epoch["cells"][:1]
        index = xp.take(self._epoch["order"], batch * data.batch_size + self._places[:rows], axis=-1)
        x, y, w = data.rows(index)
        rates = xp.take(self._epoch["rates"], batch, axis=0)
        t = xp.reshape(self._epoch["cells"][2:] + batch, (1, 1))  # updates done
        drop = None if self.seed is None else Drop(self.seed, (t + 1) & LARGEST)
        numbers = tuple(rates[0, i] for i in range(rates.shape[1]))
        p, slots, loss, weight = step(task, own.p, own.slots, numbers, x, y, w, drop)
        for array, new in zip((own.p, *own.slots), (p, *slots), strict=True):
            if new is not array:
                array[...] = new
        self._total[...] = self._total + loss * weight
        batch += 1
