"""The CuPy runner: the whole step, batch gather included, as one CUDA graph.

Array by array a step of 3 layers is some 64 kernels, of 23 microseconds each on an H100. Here it is the 13 or 18 nodes
of `cuda_plan`, captured once for each size of batch and launched again and again: 22 microseconds in all for a small
network. Data, permutation, rates, counters and losses stay on the device; the losses are read once an epoch.

Where a row has no column of C, or the kernels cannot be made, the captured runner takes over: it needs neither.
"""

from typing import Any

from xpmlp.runners import captured
from xpmlp.runners.cuda_columns import obstacle
from xpmlp.runners.cuda_kernels import source
from xpmlp.runners.cuda_machine import Machine
from xpmlp.runners.cuda_plan import Buffers, nodes
from xpmlp.runners.graphs import MOST, GraphRunner
from xpmlp.runners.step import CannotRunError, State

MOST_NETWORKS = 2**16 - 1  # the second axis of a CUDA grid


class Runner(GraphRunner):
    """Executes steps of CuPy arrays; see the head of this file."""

    name = "cupy"
    captures = "fused"
    cannot_start = "the kernels of this network cannot be made here"
    machine = Machine
    next_best = captured.Runner

    def _connect(self) -> Any:
        task, data = self.task, self.data
        sizes = task.network.layout.sizes
        widest = max(*sizes, sizes[0] + int(data.y.shape[-1]))
        if data.batch_size * widest >= MOST or task.network.layout.size >= MOST:
            raise CannotRunError(f"there are {MOST:,} elements or more in one array of a step")
        if why := obstacle(task):
            raise CannotRunError(why)
        text = source(task, self.dtype, weighted=data.w is not None)
        return self.machine(text, self.dtype, data.place.device, tf32=task.precision == "high")

    def _build(self, state: State) -> State:
        if state.p.ndim == 2 and state.p.shape[0] > MOST_NETWORKS:
            raise CannotRunError(f"a grid has room for {MOST_NETWORKS:,} networks; here are {state.p.shape[0]:,}")
        own = self._arrays = Buffers(self._machine.xp, self.task, self.data, self.seed, state, self._epoch)
        self._sums = [(1.0, own.sums)]
        if own.penalties is not None:
            self._sums.append((0.5 * self.task.l2, own.penalties))
        row = slice(None) if state.p.ndim == 2 else 0
        p, *slots = (array[row, : state.p.shape[-1]] for array in (own.p, *own.slots))
        return State(p, tuple(slots), state.t)

    def _program(self, rows: int) -> Any:
        return self._machine.program(nodes(self._arrays, rows))
