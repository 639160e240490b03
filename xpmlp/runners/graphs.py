"""Steps that are captured once and launched again and again: what the runners with a CUDA graph have in common.

The first steps of a training run call by call, which loads kernels and warms cuBLAS up, and are then captured. Where
capture fails, they go on call by call; where not even the first step succeeds, another runner takes over, from where
the epoch began. `reason` tells, and the log.
"""

import logging
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.backends.table import reason as line_of
from xpmlp.faults import out_of_memory
from xpmlp.network import reciprocal
from xpmlp.optim.optimizers import Optimizer
from xpmlp.runners import eager
from xpmlp.runners.eager import Data
from xpmlp.runners.step import CannotRunError, State, Task

WARM_UP = 2  # steps before a capture
MOST = 2**31  # of samples: what is within a network is counted in 32 bits
UNROLLED = 8  # steps of the graph that long epochs launch: between two graphs the device idles for microseconds

# After one of these no call of the process succeeds on the device, whoever makes it.
DEVICE_IS_LOST = re.compile(
    r"ILLEGAL_ADDRESS|IllegalAddress|ILLEGAL_INSTRUCTION|MISALIGNED|Misaligned|HARDWARE|ECC", re.ASCII
)

_logger = logging.getLogger("xpmlp")


class GraphRunner:
    """Executes steps that another class queues; see the head of this file."""

    name = ""
    reason = ""  # why not captured, where it is not
    captures: str  # as `set_config(captured=...)` calls it
    machine: Any  # what queues and captures; tests put a CPU in its place
    next_best: type = eager.Runner  # who takes over
    cannot_start = "the step cannot be made here"
    replays = True  # worth to be kept for other samples

    def __init__(self, task: Task, data: Data, seed: Array | None = None) -> None:
        self.task, self.data, self.seed = task, data, seed
        self._batches: dict[int, Batch] = {}  # by their number of samples
        self._substitute: Any = None
        self._machine: Any = None
        self._own: Any = None  # the state, in the arrays that graphs know
        self._arrays: Any = None  # others that they know, or where those come from
        self._epoch: dict[str, Array] = {}  # what is brought from the host once an epoch
        self._sums: list[tuple[float, Array]] = []  # what adds up to the loss of an epoch, and the factor of each
        self.dtype = str(data.x.dtype)
        if self.dtype not in ("float32", "float64"):
            raise CannotRunError(f"graphs are made for float32 and float64, not for {self.dtype}")
        if data.n_there >= MOST:
            raise CannotRunError(f"there are {MOST:,} samples or more")
        try:
            self._machine = self._connect()
        except (MemoryError, CannotRunError):
            raise
        except Exception as error:  # a missing library has many faces, see backends/probing.py
            if out_of_memory(error):
                raise
            raise CannotRunError(f"{self.cannot_start}: {line_of(error)}") from error

    def _connect(self) -> Any:
        """A `machine` for the task."""
        raise NotImplementedError

    def _build(self, state: State) -> State:
        """Make every array that a graph reads beside those of an epoch; the state in its own comes back, unfilled."""
        raise NotImplementedError

    def _program(self, rows: int) -> Any:
        """The step on a batch of `rows` samples, as calls that queue it."""
        raise NotImplementedError

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let graphs go, then what they read; never raises, so as not to hide the error that led here."""
        machine, self._machine = getattr(self, "_machine", None), None
        if machine is not None and not sys.is_finalizing():
            with suppress(Exception):
                machine.wait()
            self._batches.clear()
            self._own = self._arrays = None
            self._epoch, self._sums = {}, []

    def epoch(
        self,
        state: State,
        order: HostArray | None,
        rate_of: Callable[[int], float],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> tuple[State, Array]:
        """One epoch; see `eager.Runner.epoch`. A long one asks `interrupted` after every eighth step."""
        if self._substitute is None:
            with self._machine.device:
                try:
                    self._begin(state, order, rate_of)
                    done = self._steps(interrupted)
                    return State(self._own.p, self._own.slots, state.t + done), self._mean_loss(done)
                except CannotRunError as error:
                    self._give_up(str(error))
        epoch: tuple[State, Array] = self._substitute.epoch(state, order, rate_of, interrupted)
        return epoch

    def _begin(self, state: State, order: HostArray | None, rate_of: Callable[[int], float]) -> None:
        """Bring what an epoch needs to the device, and begin to count anew."""
        task, data, machine, epoch = self.task, self.data, self._machine, self._epoch
        if self._own is None:
            if state.p.dtype != data.x.dtype:
                raise CannotRunError(f"the parameters are {state.p.dtype}, the data {data.x.dtype}")
            lead, n_batches, zeros = tuple(state.p.shape[:-1]), data.n_batches, machine.xp.zeros
            epoch["order"] = zeros((*lead, data.n), dtype="int32")
            epoch["rates"] = zeros((n_batches, len(task.optimizer.scalars(1, 0.0))), dtype=state.p.dtype)
            epoch["cells"] = zeros(3, dtype="int32")  # see cuda_kernels
            epoch["totals"] = zeros((*lead, n_batches), dtype=state.p.dtype)  # sum(w) of every batch
            self._own, self._shuffled = self._build(state), True
        for own, given in zip((self._own.p, *self._own.slots), (state.p, *state.slots), strict=True):
            if given is not own:  # at first, and of whoever hands over others, a copy
                own[...] = given
        shuffled = order is not None and (not data.is_one_batch or order.ndim == 2)
        if shuffled or self._shuffled:  # else they lie there in their own order
            which: Any = order if shuffled else np.arange(data.n)
            machine.upload(epoch["order"], np.broadcast_to(which, epoch["order"].shape))
        self._shuffled = shuffled
        machine.upload(epoch["rates"], epoch_rates(task.optimizer, state.t, data.n_batches, rate_of))
        machine.upload(epoch["cells"], np.array([0, 0, state.t % 2**31]))
        if data.w is not None:
            epoch["totals"][...] = self._batch_weights()
        for _, array in self._sums:
            array[...] = 0.0

    def _batch_weights(self) -> Array:
        xp, data, order = self._machine.xp, self.data, self._epoch["order"]
        lead = order.shape[:-1]
        w = xp.take_along_axis(xp.broadcast_to(data.w, (*lead, data.n_there)), order, axis=-1)
        missing = data.n_batches * data.batch_size - data.n
        w = xp.concatenate([w, xp.zeros((*lead, missing), dtype=w.dtype)], axis=-1)
        return xp.sum(w.reshape(*lead, data.n_batches, data.batch_size), axis=-1)

    def _mean_loss(self, done: int) -> Array:
        """The loss of an epoch of `done` batches, shape () or (m,)."""
        xp, data, totals = self._machine.xp, self.data, self._epoch["totals"]
        total: Any = sum(factor * xp.sum(it.reshape(*totals.shape[:-1], -1), axis=-1) for factor, it in self._sums)
        seen = min(done * data.batch_size, data.n)
        loss = total / seen if data.w is None else total * reciprocal(xp.sum(totals[..., :done], axis=-1))
        return loss.astype(totals.dtype)

    def _steps(self, interrupted: Callable[[], bool]) -> int:
        """Take the steps of an epoch, and count them."""
        done = 0
        with self._machine.in_order():
            while done < self.data.n_batches:
                batch = self._batch(done)
                batch.capture_if_due(self)
                try:
                    done += batch.advance(max(self.data.n // self.data.batch_size - done, 1))
                except Exception as error:
                    if batch.runs > 0 or out_of_memory(error) or DEVICE_IS_LOST.search(str(error)):
                        raise
                    # Parameters change in the last call only, so another runner can go on from here.
                    raise CannotRunError(f"the first step failed: {line_of(error)}") from error
                if interrupted():
                    break
        return done

    def _give_up(self, why: str) -> None:
        own = self.name
        try:
            self._substitute = type(self).next_best(self.task, self.data, self.seed)
        except CannotRunError:
            self._substitute = eager.Runner(self.task, self.data, self.seed)
        self.name, self.reason = self._substitute.name, why
        _logger.info("the %s runner leaves this training to the %s one: %s", own, self.name, why)
        self.close()

    def _batch(self, done: int) -> "Batch":
        rows = min(self.data.batch_size, self.data.n - done * self.data.batch_size)
        if rows not in self._batches:
            unrolled = UNROLLED if self.data.n_batches >= 4 * UNROLLED and rows == self.data.batch_size else 1
            self._batches[rows] = Queued(self._machine, self._program(rows), unrolled)
        return self._batches[rows]


class Batch:
    """The step on batches of one size, and its graphs once it has run a few times."""

    unrolled = 1  # steps of the longest graph

    def __init__(self) -> None:
        self.runs = 0
        self.obstacle = ""  # to a capture
        self.graphs: dict[int, Callable[[], object]] = {}  # by the steps in them

    def run(self) -> None:
        """Take the step."""
        raise NotImplementedError

    def capture(self, steps: int) -> Callable[[], object]:
        """What launches a graph of so many steps."""
        raise NotImplementedError

    def capture_if_due(self, runner: Any) -> None:
        """Capture once warm; `runner.reason` and the log say why not."""
        if self.runs < WARM_UP or self.graphs or self.obstacle:
            return
        try:
            self.graphs = {steps: self.capture(steps) for steps in {1, self.unrolled}}
        except Exception as error:  # the driver's errors are many, and training goes on without
            if DEVICE_IS_LOST.search(str(error)):
                raise
            self.obstacle = f"the step cannot be captured: {line_of(error)}"
            if self.obstacle not in runner.reason:
                runner.reason = "; ".join(filter(None, (runner.reason, self.obstacle)))
                _logger.info("the %s runner goes on call by call: %s", runner.name, self.obstacle)

    def advance(self, left: int = 1) -> int:
        """Take one or more of the `left` steps that are to come, and say how many."""
        if not self.graphs:
            self.run()
            self.runs += 1
            return 1
        steps = max(steps for steps in self.graphs if steps <= left)
        self.graphs[steps]()
        return steps


class Queued(Batch):
    """A step that a machine queues."""

    def __init__(self, machine: Any, program: Any, unrolled: int) -> None:
        super().__init__()
        self.machine, self.program, self.unrolled = machine, program, unrolled

    def run(self) -> None:
        """Take the step."""
        self.machine.run(self.program)

    def capture(self, steps: int) -> Callable[[], object]:
        """What launches a graph of so many steps."""
        return self.machine.capture(self.program, steps)  # type: ignore[no-any-return]


def epoch_rates(optimizer: Optimizer, t: int, n_batches: int, rate_of: Callable[[int], float]) -> HostArray:
    """The rates of all updates of an epoch, shape (n_batches, rates), from update t + 1 on."""
    numbers = np.arange(t + 1, t + 1 + n_batches, dtype=np.float64)
    rate = np.array([rate_of(i) for i in range(n_batches)], dtype=np.float64)
    columns = optimizer.rates(numbers, rate, **optimizer.parameters)  # the formulas take arrays too
    if optimizer.average:
        columns = (*columns, 1.0 / np.minimum(optimizer.average, numbers))
    return np.stack(np.broadcast_arrays(*columns, rate)[: len(columns)], axis=-1)
