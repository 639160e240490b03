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
from xpmlp.backends.config import get_config
from xpmlp.runners import eager, numba_epoch
from xpmlp.runners.eager import Data
from xpmlp.runners.graphs import GraphRunner
from xpmlp.runners.host_data import HostData
from xpmlp.runners.step import CannotRunError, Task, gradient

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
    """Finds the runner of a fit, and keeps one that can go on with other samples: a stream of partial fits."""

    def __init__(self) -> None:
        self._runner: Any = None

    def __call__(self, task: Task, data: Data, seed: Array | None = None, steps: int = 0) -> Any:
        """See `find_runner`."""
        if not (isinstance(self._runner, GraphRunner) and self._runner.renew(task, data, seed)):
            self._runner = None  # its memory first
            self._runner = find_runner(task, data, seed, steps)
            if isinstance(self._runner, GraphRunner):
                self._runner.kept = True
        return self._runner


def _wanted(kind: Any) -> bool:
    # Those that capture a step as a CUDA graph can be chosen between, and switched off.
    captures = getattr(kind, "captures", "")
    return not captures or get_config()["captured"] in ("auto", captures)


def find_gradient(task: Task, data: Data) -> Callable[[Array, Array, Array, Array | None], tuple[Array, Array]]:
    """What tells the loss of a batch of `data` and its gradient, which the next call may write over."""
    if data.place.backend.runner != "numpy":
        return partial(gradient, task)
    return importlib.import_module("xpmlp.runners.numpy").Runner(task, data).gradient  # type: ignore[no-any-return]
