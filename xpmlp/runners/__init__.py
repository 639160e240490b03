"""How a training step is executed: eagerly on every backend, compiled or captured where it pays."""

from xpmlp._typing import Array
from xpmlp.runners.eager import Data, EagerRunner
from xpmlp.runners.step import Task


def runner(task: Task, data: Data, seed: Array | None = None) -> EagerRunner:
    """The runner of the backend that the data lives on."""
    if data.place.backend.name == "numpy":
        from xpmlp.runners.inplace import InPlaceRunner

        return InPlaceRunner(task, data, seed)
    return EagerRunner(task, data, seed)
