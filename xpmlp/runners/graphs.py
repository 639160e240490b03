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
from functools import partial
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.backends.table import reason as line_of
from xpmlp.faults import out_of_memory
from xpmlp.optim.optimizers import Optimizer, Slots
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
    next_best: type = eager.Runner  # who takes over

    def __init__(self, task: Task, data: Data, seed: Array | None = None) -> None:
        self.task, self.data, self.seed = task, data, seed
        self._batches: dict[int, Batch] = {}  # by their number of samples
        self._substitute: Any = None
        self._machine: Any = None
        self._p: Array = None
        self._slots: Slots = ()
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

    cannot_start = "the step cannot be made here"

    def _connect(self) -> Any:
        """The machine that queues and captures."""
        raise NotImplementedError

    def _build(self, state: State) -> None:
        """Make every array that a graph reads, `_p` and `_slots` among them."""
        raise NotImplementedError

    def _own(self, state: State) -> State:
        """The state in the arrays that the graph knows: at first, and of whoever hands over others, a copy."""
        if self._p is None:
            if state.p.dtype != self.data.x.dtype:
                raise CannotRunError(f"the parameters are {state.p.dtype}, the data {self.data.x.dtype}")
            self._build(state)
        for own, given in zip((self._p, *self._slots), (state.p, *state.slots), strict=True):
            if given is not own:
                own[...] = given
        return State(self._p, self._slots, state.t)

    def _prepare(self, t: int, order: HostArray | None, rate_of: Callable[[int], float]) -> None:
        """Bring what an epoch needs to the device, and begin to count anew."""
        raise NotImplementedError

    def _program(self, rows: int) -> Any:
        """The step on a batch of `rows` samples, as calls that queue it."""
        raise NotImplementedError

    def _mean_loss(self, done: int) -> Array:
        """The loss of an epoch of `done` batches, shape () or (m,)."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Let go of arrays."""
        raise NotImplementedError

    @property
    def replays(self) -> bool:
        """Whether steps are, or may be, replayed: worth to be kept for other samples."""
        return self._machine is not None

    def keep_samples(self) -> None:
        """Have the data where others may be written, which somebody else's arrays are not."""
        copy, data = partial(self.data.place.xp.asarray, copy=True), self.data
        x, y, w, self.seed = (None if it is None else copy(it) for it in (data.x, data.y, data.w, self.seed))
        self.data = Data(data.place, x, y, w, data.batch_size, data.n)

    def renew(self, data: Data, seed: Array | None) -> None:
        """Go on with other samples of the same shapes."""
        kept = (self.data.x, self.data.y, self.data.w, self.seed)
        for own, given in zip(kept, (data.x, data.y, data.w, seed), strict=True):
            if own is not None:
                own[...] = given

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let graphs go, then what they read; never raises, so as not to hide the error that led here."""
        machine, self._machine = getattr(self, "_machine", None), None
        if machine is not None and not sys.is_finalizing():
            with suppress(Exception):
                machine.wait()
            self._batches.clear()
            self._p, self._slots = None, ()
            self._forget()

    @property
    def launches(self) -> int:
        """The calls of a step, once one has been made."""
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
        epoch: tuple[State, Array] = self._substitute.epoch(state, order, rate_of, interrupted)
        return epoch

    def _steps(
        self, state: State, order: HostArray | None, rate_of: Callable[[int], float], interrupted: Callable[[], bool]
    ) -> tuple[State, int]:
        """The steps of an epoch, and how many there were."""
        p, slots, t = self._own(state)
        machine, done = self._machine, 0
        machine.forget_uploads()
        self._prepare(t, order, rate_of)
        machine.begin()
        try:
            while done < self.data.n_batches:
                batch = self._batch(done)
                batch.capture_if_due()
                if batch.obstacle and not self.reason:
                    self.reason = batch.obstacle
                    _logger.info("the %s runner goes on call by call: %s", self.name, self.reason)
                done += batch.advance(max(self.data.n // self.data.batch_size - done, 1))
                if interrupted():
                    break
        finally:
            machine.end()
        return State(p, slots, t + done), done

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
            self._batches[rows] = Batch(self._machine, self._program(rows), unrolled)
        return self._batches[rows]


class Batch:
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
        except Exception as error:  # the driver's errors are many, and training goes on without
            if DEVICE_IS_LOST.search(str(error)):
                raise
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
        except Exception as error:
            if self.runs > 0 or out_of_memory(error) or DEVICE_IS_LOST.search(str(error)):
                raise
            # Parameters change in the last call only, so another runner can go on from here.
            raise CannotRunError(f"the first step failed: {line_of(error)}") from error
        self.runs += 1


def epoch_rates(optimizer: Optimizer, t: int, n_batches: int, rate_of: Callable[[int], float]) -> HostArray:
    """The rates of all updates of an epoch, shape (n_batches, rates), from update t + 1 on."""
    numbers = np.arange(t + 1, t + 1 + n_batches, dtype=np.float64)
    rate = np.array([rate_of(i) for i in range(n_batches)], dtype=np.float64)
    columns = optimizer.rates(numbers, rate, **optimizer.parameters)  # the formulas take arrays too
    if optimizer.average:
        columns = (*columns, 1.0 / np.minimum(optimizer.average, numbers))
    return np.stack(np.broadcast_arrays(*columns, rate)[: len(columns)], axis=-1)


def uploaded_order(data: Data, order: HostArray | None) -> HostArray | None:
    """The order that an epoch takes its samples in; None where that is the one they have."""
    return order if order is not None and (not data.is_one_batch or order.ndim == 2) else None
