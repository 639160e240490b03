"""How a training step is executed: eagerly on every backend, in place, compiled or captured where it pays.

A backend's row names its runner, a module of this package with a class `Runner`. The eager runner is the meaning of a
step; every other must agree with it (tests/test_runners.py), and one that cannot run a task says why and leaves it to
the eager runner.
"""

import importlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from xpmlp._typing import Array
from xpmlp.backends import array_namespace, device_of
from xpmlp.backends.config import get_config
from xpmlp.runners import eager, numba_epoch
from xpmlp.runners.eager import Data
from xpmlp.runners.host_data import HostData
from xpmlp.runners.step import CannotRunError, State, Task, arithmetic, gradient

__all__ = ["CannotRunError", "Data", "HostData", "KeptRunner", "Task", "find_gradient", "find_runner"]

# Runners that take a batch as it comes and can wait between gradient and update; the others compile or capture more.
GO_BATCH_BY_BATCH = ("numpy", "torch")
TAKE_SPARSE = ("numpy",)  # those whose first product knows sparse rows

_logger = logging.getLogger("xpmlp")


def find_runner(task: Task, data: Data, seed: Array | None = None, steps: int = 0) -> Any:
    """The runner for data on this place: its backend's own, or the eager one with the reason logged as `reason`.

    A fit of many `steps`, as far as that is known, may win back what a compiler costs.
    """
    backend, reasons = data.place.backend, list[str]()
    kind: Any = importlib.import_module(f"xpmlp.runners.{backend.runner}").Runner
    if data.streams and backend.runner != "numpy":
        reasons = ["x stays on the host, and comes to the device batch by batch"]
        _logger.info("the eager runner takes this training: %s", reasons[0])
        kind = eager.Runner
    elif not data.whole or task.reduce is not None:
        if backend.runner not in GO_BATCH_BY_BATCH:
            reasons = ["batches come in parts or one by one, and each gradient is summed on its own"]
            _logger.info("the eager runner takes this training: %s", reasons[0])
            kind = eager.Runner
        elif backend.name == "numpy" and numba_epoch.would_take(task, seed, steps):
            reasons = ["batches come in parts or one by one, and each gradient is summed: no epoch is compiled whole"]
            _logger.info("the numba runner leaves this training to NumPy's: %s", reasons[0])
    elif backend.name == "numpy" and (compiled := numba_epoch.find(task, data, seed, steps)) is not None:
        return compiled
    runner: Any = None
    while runner is None:
        try:
            runner = kind(task, data, seed) if _wanted(kind) else None
        except CannotRunError as obstacle:
            reasons.append(str(obstacle))
            _logger.info("the %s runner leaves this training to the next one: %s", backend.runner, obstacle)
        kind = getattr(kind, "next_best", eager.Runner)
    runner.reason = runner.reason or "; ".join(reasons)
    return runner


class KeptRunner:
    """Finds the runner of a fit, and keeps one that replays its steps for the next fit of the kind: partial fits."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None
        self._kind: Any = None

    def __call__(self, task: Task, data: Data, seed: Array | None = None, steps: int = 0) -> Any:
        """See `find_runner`."""
        kind = _kind(task, data, seed)
        if self._kept is None or self._kept.state is None or kind != self._kind:
            self._kept = None  # its memory first
            runner = find_runner(task, data, seed, steps)
            if kind is None or not getattr(runner, "replays", False):
                return runner
            self._kept, self._kind = _Kept(runner), kind
        self._kept.bring(data, seed)
        return self._kept


class _Kept:
    """A runner whose arrays outlive a fit: it takes samples and state of each in copies, and hands copies out."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.state: State | None = State(None, (), 0)  # in the runner's arrays; None while, and after, it fails
        data, xp = runner.data, runner.data.place.xp
        # By rows: what the samples lie like now, those that are to come may not.
        x, y, w, runner.seed = (
            None if it is None else xp.empty(it.shape, dtype=it.dtype, device=device_of(it))
            for it in (data.x, data.y, data.w, runner.seed)
        )
        runner.data = Data(data.place, x, y, w, data.batch_size, data.n)

    def bring(self, data: Data, seed: Array | None) -> None:
        """Go on with other samples of the same shapes."""
        own = self.runner.data
        for kept, given in zip((own.x, own.y, own.w, self.runner.seed), (data.x, data.y, data.w, seed), strict=True):
            if kept is not None:
                kept[...] = given

    @property
    def name(self) -> str:
        """Who executes the steps."""
        return self.runner.name  # type: ignore[no-any-return]

    @property
    def reason(self) -> str:
        """Why not another."""
        return self.runner.reason  # type: ignore[no-any-return]

    def epoch(self, state: State, *arguments: Any) -> tuple[State, Array]:
        """One epoch; see `eager.Runner.epoch`."""
        own, self.state = self.state, None
        if own is not None and own.p is not None:
            for array, given in zip((own.p, *own.slots), (state.p, *state.slots), strict=True):
                array[...] = given
            state = State(own.p, own.slots, state.t)
        self.state, loss = self.runner.epoch(state, *arguments)
        copy = partial(array_namespace(self.state.p).asarray, copy=True)
        return State(copy(self.state.p), tuple(map(copy, self.state.slots)), self.state.t), loss


def _kind(task: Task, data: Data, seed: Array | None) -> Any:
    """Equal of fits that one graph can serve; None of one that none can."""
    if task.factors is not None or task.reduce is not None or not data.whole:
        return None
    shapes = [None if it is None else (tuple(it.shape), it.dtype) for it in (data.x, data.y, data.w, seed, task.decays)]
    return arithmetic(task), task.precision, get_config()["captured"], data.place, data.batch_size, data.n, shapes


def _wanted(kind: Any) -> bool:
    # Those that capture a step as a CUDA graph can be chosen between, and switched off.
    captures = getattr(kind, "captures", "")
    return not captures or get_config()["captured"] in ("auto", captures)


def find_gradient(task: Task, data: Data) -> Callable[[Array, Array, Array, Array | None], tuple[Array, Array]]:
    """What tells the loss of a batch of `data` and its gradient, which the next call may write over."""
    if data.place.backend.runner != "numpy":
        return partial(gradient, task)
    return importlib.import_module("xpmlp.runners.numpy").Runner(task, data).gradient  # type: ignore[no-any-return]
