"""The CuPy runner: the whole step, batch gather included, as one CUDA graph.

Array by array a step is some hundred kernels of about ten microseconds each, slower than NumPy for a small network.
Here it is the 18 nodes of `cuda_plan` (for 3 layers), captured once for each size of batch and launched again and
again. Data, permutation, rates, counters and losses stay on the device; the losses are read once an epoch.

The first steps of a training run node by node, which loads kernels and warms cuBLAS up, and are then captured. Where
capture fails, they go on node by node; where not even the first step succeeds, or a row has no column of C, the eager
runner takes over. `reason` tells, and the log.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.backends.table import reason as line_of
from xpmlp.network import reciprocal
from xpmlp.optim.optimizers import Optimizer
from xpmlp.runners import eager
from xpmlp.runners.cuda_columns import obstacle
from xpmlp.runners.cuda_kernels import source
from xpmlp.runners.cuda_machine import Machine
from xpmlp.runners.cuda_plan import ALIGNMENT, Buffers, Samples, nodes
from xpmlp.runners.eager import Data
from xpmlp.runners.step import CannotRunError, State, Task

WARM_UP = 2  # steps before a capture
UNROLLED = 8  # steps of the graph that long epochs launch: between two graphs the device idles for microseconds
MOST_NETWORKS = 2**16 - 1  # the second axis of a CUDA grid
MOST_THREADS = 2**31  # kernels count within a network in 32 bits

_logger = logging.getLogger("xpmlp")


class Runner:
    """Executes steps of CuPy arrays; see the head of this file."""

    name = "cupy"
    reason = ""  # why not captured, where it is not
    machine: Callable[..., Any] = Machine  # tests put a CPU in its place

    def __init__(self, task: Task, data: Data, seed: Array | None = None) -> None:
        self.task, self.data, self.seed = task, data, seed
        self._buffers: Buffers | None = None
        self._batches: dict[int, _Batch] = {}  # by their number of samples
        self._substitute: eager.Runner | None = None
        self._machine: Any = None
        dtype = str(data.x.dtype)
        if why := obstacle(task) or _limits(task, data, dtype):
            raise CannotRunError(why)
        text = source(task, dtype, weighted=data.w is not None)
        try:
            self._machine = type(self).machine(text, dtype, data.place.device, tf32=task.precision == "high")
        except MemoryError:
            raise
        except Exception as error:  # a missing library has many faces, see backends/probing.py
            raise CannotRunError(f"the kernels of this network cannot be made here: {line_of(error)}") from error

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Give graphs, buffers and their memory back to the device."""
        machine, self._machine = getattr(self, "_machine", None), None
        if machine is not None:
            machine.wait()
            self._batches.clear()
            self._buffers = None
            machine.close()

    @property
    def launches(self) -> int:
        """The nodes of a step, once one has been made."""
        return max((len(batch.program) for batch in self._batches.values()), default=0)

    def epoch(
        self,
        state: State,
        order: HostArray | None,
        rate_of: Callable[[int], float],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> tuple[State, Array]:
        """One epoch; see `eager.Runner.epoch`. A long one asks `interrupted` after every eighth step."""
        if self._substitute is None:
            with self._machine.here():
                try:
                    state, done = self._steps(state, order, rate_of, interrupted)
                    return state, self._mean_loss(done)
                except CannotRunError as error:
                    self._give_up(str(error))
        return self._substitute.epoch(state, order, rate_of, interrupted)  # type: ignore[union-attr]

    def _steps(
        self, state: State, order: HostArray | None, rate_of: Callable[[int], float], interrupted: Callable[[], bool]
    ) -> tuple[State, int]:
        """The steps of an epoch, and how many there were."""
        p, slots, t = self._own(state)
        self._prepare(t, order, rate_of)
        machine, done = self._machine, 0
        machine.begin()
        try:
            while done < self.data.n_batches:
                batch = self._batch(done)
                batch.capture_if_due()
                if batch.obstacle and not self.reason:
                    self.reason = batch.obstacle
                    _logger.info("the cupy runner goes on node by node: %s", self.reason)
                done += batch.advance(max(self.data.n // self.data.batch_size - done, 1))
                if interrupted():
                    break
        finally:
            machine.end()
        return State(p, slots, t + done), done

    def _give_up(self, why: str) -> None:
        _logger.info("the cupy runner leaves this training to the eager one: %s", why)
        self._substitute = eager.Runner(self.task, self.data, self.seed)
        self.name, self.reason = self._substitute.name, why
        self.close()

    def _own(self, state: State) -> State:
        """The state in the arrays that the graph knows: at first, and whenever somebody hands over others, a copy."""
        if self._buffers is None:
            self._buffers = self._build(state)
        for own, given in zip((self._p, *self._slots), (state.p, *state.slots), strict=True):
            if given is not own:
                own[...] = given
        return State(self._p, self._slots, state.t)

    def _build(self, state: State) -> Buffers:
        data, task, xp = self.data, self.task, self._machine.xp
        lead, size = tuple(state.p.shape[:-1]), int(state.p.shape[-1])
        m = lead[0] if lead else 1
        if m > MOST_NETWORKS:
            raise CannotRunError(f"a grid has room for {MOST_NETWORKS:,} networks; here are {m:,}")
        if state.p.dtype != data.x.dtype:
            raise CannotRunError(f"the parameters are {state.p.dtype}, the data {data.x.dtype}")
        # Networks begin at a multiple of 256 bytes, so that products read all equally fast; the padding stays 0.
        pitch = size if m == 1 else -(-size // ALIGNMENT) * ALIGNMENT
        flat = [xp.zeros((m, pitch), dtype=state.p.dtype) for _ in range(1 + len(state.slots))]
        views = [array[:, :size] if lead else array[0, :size] for array in flat]
        self._p, self._slots = views[0], tuple(views[1:])
        with self._machine.private():
            samples = Samples(*(None if it is None else xp.ascontiguousarray(it) for it in (data.x, data.y, data.w)))
            seeds = None if self.seed is None else xp.ascontiguousarray(self.seed.reshape(-1))
            buffers = Buffers(
                *(xp, task, samples, seeds),
                p=flat[0],
                slots=tuple(flat[1:]),
                batch=data.batch_size,
                n_batches=data.n_batches,
            )
        self._ordered = False
        return buffers

    def _batch(self, done: int) -> "_Batch":
        rows = min(self.data.batch_size, self.data.n - done * self.data.batch_size)
        if rows not in self._batches:
            unrolled = UNROLLED if self.data.n_batches >= 4 * UNROLLED and rows == self.data.batch_size else 1
            self._batches[rows] = _Batch(self._machine, self._machine.program(nodes(self._arrays, rows)), unrolled)
        return self._batches[rows]

    @property
    def _arrays(self) -> Buffers:
        assert self._buffers is not None
        return self._buffers

    def _prepare(self, t: int, order: HostArray | None, rate_of: Callable[[int], float]) -> None:
        """Bring what an epoch needs to the device, and begin to count anew."""
        data, machine, buffers = self.data, self._machine, self._arrays
        if order is not None and (data.n_batches > 1 or order.ndim == 2):
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
        w = xp.broadcast_to(buffers.samples.w, (m, data.n))
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


class _Batch:
    """The program for batches of one size, and its graphs once it has run a few times."""

    def __init__(self, machine: Any, program: Any, unrolled: int) -> None:
        self.machine, self.program, self.unrolled = machine, program, unrolled
        self.runs = 0
        self.obstacle = ""  # to a capture
        self.graphs: dict[int, Callable[[], object]] = {}  # by the steps in them

    def capture_if_due(self) -> None:
        """Capture once warm; `obstacle` says why not."""
        if self.runs < WARM_UP or self.graphs or self.obstacle:
            return
        try:
            self.graphs = {steps: self.machine.capture(self.program, steps) for steps in {1, self.unrolled}}
        except Exception as error:  # noqa: BLE001 - the driver's errors are many, and training goes on without
            self.obstacle = f"the step cannot be captured: {line_of(error)}"

    def advance(self, left: int) -> int:
        """Run one or more of the `left` steps that are to come, and say how many."""
        if not self.graphs:
            self._run()
            return 1
        steps = max(steps for steps in self.graphs if steps <= left)
        self.graphs[steps]()
        return steps

    def _run(self) -> None:
        try:
            self.machine.run(self.program)
        except MemoryError:
            raise
        except Exception as error:
            if self.runs > 0:
                raise
            # Parameters change in the last node only, so another runner can go on from here.
            raise CannotRunError(f"the first step failed: {line_of(error)}") from error
        self.runs += 1


def epoch_rates(optimizer: Optimizer, t: int, n_batches: int, rate_of: Callable[[int], float]) -> HostArray:
    """The rates of all updates of an epoch, shape (n_batches, rates), from update t + 1 on."""
    numbers = np.arange(t + 1, t + 1 + n_batches, dtype=np.float64)
    rate = np.array([rate_of(i) for i in range(n_batches)], dtype=np.float64)
    columns = optimizer.rates(numbers, rate, **optimizer.parameters)  # the formulas take arrays too
    return np.stack(np.broadcast_arrays(*columns, rate)[: len(columns)], axis=-1)


def _limits(task: Task, data: Data, dtype: str) -> str:
    if dtype not in ("float32", "float64"):
        return f"kernels are made for float32 and float64, not for {dtype}"
    sizes = task.network.layout.sizes
    widest = max(*sizes, sizes[0] + int(data.y.shape[-1]))
    if data.n >= MOST_THREADS or data.batch_size * widest >= MOST_THREADS or task.network.layout.size >= MOST_THREADS:
        return "there are more than 2^31 elements in one array of a step"
    return ""
