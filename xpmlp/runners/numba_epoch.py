"""The runner of small networks on NumPy: an epoch is a few calls of one function that Numba has compiled.

A step of a small network is products of microseconds and Python around them; `numba_kernel.steps` does it at a third of
the time. From some 100,000 parameters on the products are all there is, and runners/numpy.py is as good. To compile
takes 6 seconds, once on a machine, for Numba keeps what it compiled in a folder, and to load it 0.4 in each process.
So on "auto" the kernel begins when a fit has lasted for long and is to last longer; this depends on the task alone, so
that the same fit is always done in the same way.

The eager runner is the meaning; results are its results, to rounding. Rows are known by their functions.
"""

import functools
import importlib
import importlib.util
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.backends.config import get_config
from xpmlp.faults import holding_interrupts
from xpmlp.network import reciprocal
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.losses import LOSSES
from xpmlp.optim.optimizers import OPTIMIZERS
from xpmlp.runners import numpy as plain
from xpmlp.runners.compiled import njit
from xpmlp.runners.eager import Data
from xpmlp.runners.step import CannotRunError, State, Task

# Parameters from which on the kernel wins nothing. (Time of NumPy's runner by the kernel's: 1.5 to 3.3 up to 14,000
# parameters, 1.2 at 48,000, 0.95 at 535,000.)
MOST_PARAMETERS = 100_000
# On "auto" the first steps of a fit are NumPy's, for patience may end it soon; after them enough must be planned that
# the 50 microseconds or more that the kernel saves in a step pay for 6 seconds.
FIRST_STEPS, MORE_STEPS = 2**16, 2**17
COPIED_BYTES = 2**25  # of an x that is not in rows: up to here it is copied, beyond it is NumPy's
HEARD = 0.05  # seconds of steps between two looks at whether somebody wants to stop

# What the kernel knows, by the numbers that it has there.
KINDS = {"identity": 0, "relu": 1, "leaky_relu": 2, "tanh": 3, "sigmoid": 4}
KINDS_OF_LOSS = {"squared_error": 0, "binary_cross_entropy": 1, "cross_entropy": 2}
METHODS = {"sgd": 0, "momentum": 1, "nesterov": 2, "adam": 3, "adamw": 3}

_logger = logging.getLogger("xpmlp")


def _is_wanted(steps: int) -> bool:
    setting = get_config()["compiled"]
    pays = steps >= FIRST_STEPS + MORE_STEPS and importlib.util.find_spec("numba") is not None
    return setting == "always" or (setting == "auto" and pays)


def would_take(task: Task, seed: Array | None, steps: int) -> bool:
    """Whether this runner would be the one, if the samples were in memory and nobody else's."""
    return _is_wanted(steps) and not _obstacle_in(task, seed)


def find(task: Task, data: Data, seed: Array | None, steps: int) -> "Runner | None":
    """The runner for a fit of at most `steps` steps, or None where NumPy's serves it better or is the only one."""
    if not _is_wanted(steps):
        return None
    try:
        return Runner(task, data, seed, begins=0 if get_config()["compiled"] == "always" else FIRST_STEPS)
    except CannotRunError as obstacle:
        _logger.info("the numba runner leaves this training to NumPy's: %s", obstacle)
        return None


def _obstacle(task: Task, data: Data, seed: Array | None) -> str:
    """Why the kernel cannot run a task on these data; "" where it can."""
    if data.streams:
        return "x is made ready batch by batch"
    if obstacle := _obstacle_in(task, seed):
        return obstacle
    arrays = [data.x, data.y] + ([] if data.w is None else [data.w])
    if data.x.ndim != 2 or data.y.ndim != 2:
        return "it trains one network at a time"
    if {array.dtype.name for array in arrays} not in ({"float32"}, {"float64"}):
        return "it computes in float32 or float64"
    if not data.x.flags.c_contiguous and data.x.nbytes > COPIED_BYTES:
        return "x does not lie in memory row by row"
    return ""


def _obstacle_in(task: Task, seed: Array | None) -> str:
    """Why the kernel cannot run a task, whatever the data; "" where it can."""
    network, layout = task.network, task.network.layout
    *hidden, output = network.activations
    if layout.size > MOST_PARAMETERS:
        return "it wins nothing on networks of this size"
    if network.parts or network.members or task.optimizer.average:
        return "it knows no parts, no members, and no average of the weights"
    if seed is not None or task.clip_norm is not None or task.factors is not None:
        return "it knows no dropout, no clipping, and no factors on the learning rate"
    rows: list[tuple[Any, Mapping[str, Any], dict[str, int]]] = [
        *((row, ACTIVATIONS, KINDS) for row in hidden),
        (network.loss, LOSSES, KINDS_OF_LOSS),
        (task.optimizer, OPTIMIZERS, METHODS),
    ]
    for row, table, kinds in rows:
        if row.name not in kinds or not checks.genuine(row, table):
            return f"it does not know {row!r}"
    if not network.canonical or not checks.genuine(output, ACTIVATIONS):
        return f"it does not know {network.loss!r} after {output!r}"
    if layout.others or layout.alignment > 1:
        return "it knows layers of W and b alone"
    return ""


@functools.cache
def compiled(dtype: str) -> Any:
    """`numba_kernel.steps` for arrays of this dtype; ImportError where Numba, or SciPy for it, is not there."""
    numba = importlib.import_module("numba")
    kernel = importlib.import_module("xpmlp.runners.numba_kernel")
    of = numba.types.Array
    number, integers = getattr(numba.types, dtype), of(numba.types.int64, 1, "C")
    bits = numba.types.int32 if dtype == "float32" else numba.types.int64
    vector, rows = of(number, 1, "C"), of(number, 2, "C", readonly=True)
    doubles, table = of(numba.types.float64, 1, "C"), of(numba.types.float64, 2, "C")
    signature = numba.void(
        *(vector, vector, vector, vector, rows, rows, of(number, 1, "C", readonly=True)),
        *(integers, integers, integers, of(numba.types.int64, 2, "C"), integers),
        *(vector, vector, of(bits, 1, "C"), doubles, table, numba.types.int64, numba.types.int64, doubles),
    )
    return njit(numba, signature, kernel.steps)


class Runner:
    """Executes steps in the kernel, from step `begins` on; before, and for m networks, on NumPy.

    Raises CannotRunError where the kernel does not know the task.
    """

    name = "numba"
    reason = ""

    def __init__(self, task: Task, data: Data, seed: Array | None = None, *, begins: int = 0) -> None:
        reason = _obstacle(task, data, seed)
        if reason:
            raise CannotRunError(reason)
        self.task, self.data, self.begins = task, data, begins
        self.dtype = data.x.dtype.name
        self.steps: Any = None
        with holding_interrupts():
            if begins == 0:
                self.steps = compiled(self.dtype)
            else:  # the BLAS of the kernel's products must be there before somebody counts its threads
                importlib.import_module("scipy.linalg")
        self.numpy: plain.Runner | None = None
        self.kernel: _Kernel | None = None

    def epoch(
        self,
        state: State,
        order: HostArray | None,
        rate_of: Callable[[int], float],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> tuple[State, Array]:
        """One epoch; see `eager.Runner.epoch`."""
        if state.t < self.begins or state.p.ndim != 1 or not self._ready():
            if self.numpy is None:
                self.numpy = plain.Runner(self.task, self.data)
            return self.numpy.epoch(state, order, rate_of, interrupted)
        if self.kernel is None:
            self.kernel = _Kernel(self.steps, self.task, self.data)
        return self.kernel.epoch(state, order, rate_of, interrupted)

    def _ready(self) -> bool:
        if self.steps is None and self.begins > 0:
            try:
                self.steps = compiled(self.dtype)
            except Exception as trouble:  # noqa: BLE001 - nobody has asked for it, and NumPy can do it
                _logger.info("the epochs stay with NumPy: %s", trouble)
                self.begins = 0  # and it is not tried again
        return self.steps is not None


class _Kernel:
    """The arguments of `numba_kernel.steps` for one task."""

    def __init__(self, steps: Callable[..., None], task: Task, data: Data) -> None:
        self.steps, self.task, self.data = steps, task, data
        network, layout, method = task.network, task.network.layout, task.optimizer
        sizes, K, batch = layout.sizes, layout.n_layers, data.batch_size
        dtype = data.x.dtype
        self.none = np.empty(0, dtype)
        self.no_order = np.empty(0, np.int64)
        w = self.none if data.w is None else np.ascontiguousarray(data.w)
        self.samples = (np.ascontiguousarray(data.x), np.ascontiguousarray(data.y), w)
        at = np.zeros((2, K + 1), np.int64)
        for segment in layout.segments:
            at["Wb".index(segment.name), segment.layer] = segment.start
        kinds = [METHODS[method.name], *(KINDS[f.name] for f in network.activations[:-1])]
        rooms, total = [], 0
        for units in (*sizes, sizes[-1], max(sizes), 1, sizes[-1] + 1):
            rooms.append(total)
            total += -(-units * batch // 16) * 16
        floats = np.empty(max(sizes[1:]) * batch, dtype)
        self.arrays = (
            np.array(sizes, np.int64),
            np.array([*kinds, KINDS_OF_LOSS[network.loss.name]], np.int64),
            at,
            np.array([*rooms, batch], np.int64),
            np.empty(total, dtype),
            floats,
            floats.view(np.int32 if dtype.itemsize == 4 else np.int64),
        )
        own = method.parameters
        decay = 0.0 if task.decays is None else method.weight_decay
        smoothing = network.loss.parameters.get("label_smoothing", 0.0)
        first = own.get("beta_1", own.get("momentum", 0.0))
        self.numbers = np.array([first, own.get("beta_2", 0.0), task.l2, decay, smoothing])
        self.g = np.empty(layout.size, dtype)
        self.at_once = 1  # steps of a call

    def epoch(
        self, state: State, order: HostArray | None, rate_of: Callable[[int], float], interrupted: Callable[[], bool]
    ) -> tuple[State, Array]:
        method, n_batches = self.task.optimizer, self.data.n_batches
        p, slots, t = state
        m, v = (*slots, self.none, self.none)[:2]
        rates = np.zeros((n_batches, 3))
        for i in range(n_batches):
            of_step = method.rates(t + 1 + i, rate_of(i), **method.parameters)
            rates[i, : len(of_step)] = of_step
        if order is None or self.data.is_one_batch:
            order = self.no_order
        order = np.ascontiguousarray(order, dtype=np.int64)
        sums = np.zeros(2)
        done = 0
        while done < n_batches:
            last = min(done + self.at_once, n_batches)
            began = time.perf_counter()
            self.steps(p, self.g, m, v, *self.samples, order, *self.arrays, self.numbers, rates, done, last, sums)
            took = time.perf_counter() - began
            # As many steps as go into the time, and not all at once: the first steps may say little of the next.
            fit = int(HEARD * (last - done) / max(took, 1e-9))
            self.at_once = max(min(fit, 8 * self.at_once), 1)
            done = last
            if interrupted():
                break
        total, seen = sums
        loss = total / seen if self.data.w is None else total * reciprocal(seen)
        return State(p, slots, t + done), p.dtype.type(loss)
