"""What runs in the workers: one process's part of a fit."""

import importlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from xpmlp.backends import kept_warnings
from xpmlp.dask.partitions import Layout, Part, Partitions
from xpmlp.distributed import Group, alone
from xpmlp.distributed.gloo import Gloo, open_store
from xpmlp.estimators.parameters import functions_of
from xpmlp.training import checkpoints


class Share(NamedTuple):
    """What a worker has of a collection: the numbers of the partitions that it is given, and its shards."""

    layout: Layout
    partitions: list[int]
    mine: range

    def shards(self, parts: list[Part]) -> Partitions:
        """Its shards."""
        return Partitions(self.layout, dict(zip(self.partitions, parts, strict=True)), self.mine)


class Job(NamedTuple):
    """One process's part of a fit."""

    name: str  # of the fit
    rank: int
    size: int
    address: tuple[str, int] | None  # where they meet
    timeout: float
    fixed_order: bool
    data: Share
    validation: Any  # a share, or X_val, y_val and weights as they are
    asked: dict[str, Any]  # what fit is told of checkpoints
    keeps: bool  # whether the state is kept for the client, who named no folder
    state: bytes | None  # to go on from


class NotWantedError(RuntimeError):
    """The client has let a fit go."""


# Of the fits that this process takes part in: where they meet, and where rank 0 keeps their state.
_STORES: dict[str, Any] = {}
_FOLDERS: dict[str, Path] = {}


def meeting(name: str, address: str) -> tuple[str, int]:
    """Open the place where the processes of a fit meet, in the worker that has this address."""
    host = str(urlsplit(address).hostname)
    _STORES[name], port = open_store(host)
    return host, port


def forget(name: str) -> None:
    """Close what a fit that has not begun has left here."""
    _STORES.pop(name, None)


def state_of(name: str, known: int) -> tuple[int, bytes] | None:
    """The checkpoint of a fit here and when it was written; None where there is no other than the one known."""
    folder = _FOLDERS.get(name)
    if folder is None:
        return None
    path = checkpoints.last_of(folder)
    try:
        written = path.stat().st_mtime_ns
        return None if written == known else (written, path.read_bytes())
    except OSError:  # not yet, or no longer
        return None


def train(estimator: Any, job: Job, parts: list[Part], held_parts: list[Part]) -> tuple[Any, list[Any]] | None:
    """Take part in a fit; rank 0 gives the estimator, and the warnings."""
    distributed: Any = importlib.import_module("distributed")
    worker = distributed.get_worker()
    key = worker.get_current_task()
    distributed.secede()  # other fits and predictions have the worker's threads: none waits for another

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state in ("executing", "long-running")

    try:
        return _trained(estimator, job, parts, held_parts, worker.address, wanted)
    finally:
        forget(job.name)


def _trained(
    estimator: Any, job: Job, parts: list[Part], held_parts: list[Part], address: str, wanted: Callable[[], bool]
) -> tuple[Any, list[Any]] | None:
    def stopped() -> None:
        if not wanted():
            raise NotWantedError(f"the client no longer wants the fit {job.name}.")

    def stops(*_: Any) -> bool:
        return not wanted()

    estimator.callbacks = [*functions_of(estimator.callbacks), stops]
    asked = dict(job.asked)
    if job.keeps:  # every process is told that there are checkpoints, and rank 0 writes them
        asked["checkpoint"] = folder = Path(tempfile.mkdtemp(prefix="xpmlp-"))
        asked["resume"] = job.state is not None
        if job.rank == 0:
            _FOLDERS[job.name] = folder
            if job.state is not None:
                checkpoints.last_of(folder).write_bytes(job.state)
    validation = (job.validation.shards(held_parts),) if isinstance(job.validation, Share) else job.validation
    group: Group | None = None
    try:
        group = _group(job, address, stopped)
        with kept_warnings() as notes:
            estimator.fit(job.data.shards(parts), None, None, *validation, group=group, **asked)
    finally:
        if isinstance(group, Gloo):
            group.close()
        if job.keeps:
            _FOLDERS.pop(job.name, None)
            shutil.rmtree(asked["checkpoint"], ignore_errors=True)
    stopped()
    estimator.callbacks = None
    return (estimator, notes) if job.rank == 0 else None


def _group(job: Job, address: str, stopped: Callable[[], None]) -> Group:
    if job.address is None:
        return alone(fixed_order=job.fixed_order)
    host = str(urlsplit(address).hostname)
    return Gloo(
        job.rank, job.size, job.address, host, fixed_order=job.fixed_order, timeout=job.timeout, stopped=stopped
    )
