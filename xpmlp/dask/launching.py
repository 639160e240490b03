"""A fit on a Dask cluster, as its client sees it: who takes part, who waits for whom, what happens when one is gone."""

import importlib
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from xpmlp.dask import working
from xpmlp.dask.partitions import Layout, layout_of, look
from xpmlp.distributed import LostPeerError
from xpmlp.shards.lanes import dealt
from xpmlp.shards.sources import nth_part

LOG = logging.getLogger(__name__)
GRACE = 5.0  # seconds beyond the timeout, after which a process that has not ended is given up
PULL = 0.5  # seconds between two looks at the state that is to be kept
Lanes = Sequence[range]  # the shards of each


class WorkerLostError(RuntimeError):
    """A worker of the cluster is gone, or does not answer, and the fit has begun anew as often as it may.

    Attributes
    ----------
    checkpoint : path or None
        The folder to go on from, with resume=True, where the fit was given one.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.checkpoint: Any = None


class Cluster:
    """What a fit needs of a client; no wait is longer than `timeout` where nobody works.

    Parameters
    ----------
    client : distributed.Client
    timeout : float
        Seconds.
    """

    def __init__(self, client: Any, timeout: float) -> None:
        self.client, self.timeout = client, timeout
        self.distributed: Any = importlib.import_module("distributed")
        self.given_up: set[str] = set()  # workers that have not answered

    def workers(self) -> list[str]:
        """The addresses of those who are there; waited for where there are none.

        Raises
        ------
        WorkerLostError
            If none comes, or the scheduler is gone.
        """
        end = time.monotonic() + self.timeout
        while True:
            try:
                found = [name for name in self.client.nthreads() if name not in self.given_up]
            except (OSError, RuntimeError) as error:  # the scheduler cannot be reached
                raise WorkerLostError(f"the scheduler of the Dask cluster does not answer: {error}") from error
            if found:
                return found
            if time.monotonic() > end:
                raise WorkerLostError(f"the Dask cluster has had no worker for {self.timeout:g} seconds.")
            time.sleep(0.1)

    def computed(self, futures: list[Any]) -> list[Any]:
        """Wait until these are there; as long as there are workers, Dask says by itself if they cannot be had.

        What was lost with a worker is computed again, if its origin is not lost too.
        """
        looked, end = 0.0, float("inf")
        while waiting := {future.status for future in futures} & {"pending", "lost"}:
            now = time.monotonic()
            if now > looked + 1.0:
                self.workers()
                looked = now
            end = min(end, now + self.timeout) if waiting == {"lost"} else float("inf")
            if now > end:
                break
            time.sleep(0.01)
        for future in futures:
            if future.status != "finished":
                error = future.exception(timeout=self.timeout) if future.status == "error" else None
                if error is None or isinstance(error, self.losses):
                    told = f": {error}" if error is not None else f"; one is {future.status}"
                    raise WorkerLostError(f"partitions of the data were lost with their worker{told}.") from error
                raise error
        return futures

    @property
    def losses(self) -> tuple[type[BaseException], ...]:
        """What comes of a task whose worker is gone, or that has lost a peer."""
        scheduler: Any = importlib.import_module("distributed.scheduler")
        return LostPeerError, working.NotWantedError, scheduler.KilledWorker, self.distributed.CancelledError

    def submit(self, function: Any, *args: Any, worker: str) -> Any:
        """A task of one worker's, that is its own."""
        return self.client.submit(
            function, *args, workers=[worker], allow_other_workers=False, pure=False, retries=0, priority=10
        )


def pending(futures: list[Any]) -> bool:
    """Whether one of them has still to come."""
    return any(future.status == "pending" for future in futures)


class Data(NamedTuple):
    """Partitions in the cluster's memory, and how they become shards."""

    parts: list[Any]
    layout: Layout


def held(cluster: Cluster, parts: list[Any], lanes: int, *, weighted: bool) -> Data:
    """Have delayed partitions computed, kept, and looked at."""
    futures = cluster.computed(cluster.client.compute(parts))
    looks = cluster.computed([cluster.client.submit(look, future, pure=False) for future in futures])
    told = cluster.client.gather(looks)
    return Data(futures, layout_of(told, lanes, weighted=weighted))


class Fit(NamedTuple):
    """A fit to be done."""

    estimator: Any
    data: Data
    lanes: Lanes  # of the data, as training deals them
    validation: Any  # data, or X_val, y_val and weights as they are
    validation_lanes: Lanes
    asked: dict[str, Any]
    restarts: int
    fixed_order: bool


def launched(cluster: Cluster, fit: Fit) -> tuple[Any, list[Any]]:
    """Train: the estimator that came of it, and warnings.

    Raises
    ------
    WorkerLostError
        If workers are lost, or do not answer, more than `restarts` times.
    """
    folder, state, asked = fit.asked["checkpoint"], None, fit.asked
    for attempt in range(fit.restarts + 1):
        one = _Attempt(cluster, fit._replace(asked=asked), state)
        try:
            return one.run()
        except LostPeerError as error:
            state = one.state[1] if one.state is not None else state
            asked = fit.asked if folder is None else fit.asked | {"resume": True}
            left = fit.restarts - attempt
            LOG.warning("%s: %s.", error, f"{left} restarts are left" if left else "no restart is left")
            last = error
    told = WorkerLostError(
        f"{last}, and restarts={fit.restarts} allows no more"
        + (f"; {folder!s} holds the last checkpoint: fit again with resume=True." if folder is not None else ".")
    )
    told.checkpoint = folder
    raise told from last


class _Attempt:
    """One try: processes that begin together, and end together."""

    def __init__(self, cluster: Cluster, fit: Fit, begun: bytes | None) -> None:
        self.cluster, self.fit, self.begun = cluster, fit, begun
        self.name = f"xpmlp-{uuid.uuid4().hex[:12]}"
        self.keeps = fit.asked["checkpoint"] is None and fit.restarts > 0
        self.state: tuple[int, bytes] | None = None  # what rank 0 has written last: when, and what
        self.pull: Any = None
        self.pulled = 0.0
        self.futures: list[Any] = []
        self.workers: list[str] = []

    def run(self) -> tuple[Any, list[Any]]:
        """Begin, watch, and say what came of it; LostPeerError where another try may help."""
        try:
            self._begin()
            self._watch()
            return self._outcome()
        finally:
            self.cluster.client.cancel([future for future in self.futures if future.status == "pending"])

    def _begin(self) -> None:
        cluster, fit = self.cluster, self.fit
        collections = [fit.data] + ([fit.validation] if isinstance(fit.validation, Data) else [])
        cluster.computed([part for data in collections for part in data.parts])
        there = cluster.workers()
        size = min(len(there), len(fit.lanes))
        shares = [_share(fit.data.layout, fit.lanes, rank, size) for rank in range(size)]
        self.workers = self._nearest(there, shares)
        address = None
        if size > 1:
            (opened,) = cluster.computed(
                [cluster.submit(working.meeting, self.name, self.workers[0], worker=self.workers[0])]
            )
            address = opened.result(timeout=cluster.timeout)
        for rank, (worker, share) in enumerate(zip(self.workers, shares, strict=True)):
            validation, held_parts = fit.validation, []
            if isinstance(validation, Data):
                own = _share(validation.layout, fit.validation_lanes, rank, size)
                held_parts = [validation.parts[i] for i in own.partitions]
                validation = own
            job = working.Job(
                self.name, rank, size, address, cluster.timeout, fit.fixed_order, share, validation, fit.asked,
                self.keeps, self.begun,
            )  # fmt: skip
            parts = [fit.data.parts[i] for i in share.partitions]
            self.futures.append(cluster.submit(working.train, fit.estimator, job, parts, held_parts, worker=worker))

    def _nearest(self, workers: list[str], shares: list[working.Share]) -> list[str]:
        """A worker for each share, the one that has most of its partitions."""
        parts = self.fit.data.parts
        where = self.cluster.client.who_has(parts)
        left, chosen = list(workers), []
        for share in shares:
            owned = [where.get(parts[i].key, ()) for i in share.partitions]
            best = max(left, key=lambda worker: sum(worker in owners for owners in owned))
            left.remove(best)
            chosen.append(best)
        return chosen

    def _watch(self) -> None:
        """Wait until all have ended, or one has and the others had their time."""
        cluster, looked, end = self.cluster, 0.0, float("inf")
        while pending(self.futures):
            now = time.monotonic()
            if now > looked + PULL:
                looked, there = now, set(cluster.workers())
                gone = [worker for worker in self.workers if worker not in there]
                failed = any(future.status not in ("pending", "finished") for future in self.futures)
                if (gone or failed) and end == float("inf"):
                    end = now + cluster.timeout + GRACE
                waited_for = [f for f, w in zip(self.futures, self.workers, strict=True) if w in there]
                if now > end or (gone and not pending(waited_for)):
                    break
                self._keep_state()
            time.sleep(0.02)

    def _outcome(self) -> tuple[Any, list[Any]]:
        cluster = self.cluster
        failed = {w: f for f, w in zip(self.futures, self.workers, strict=True) if f.status != "finished"}
        if not failed:
            try:
                found: tuple[Any, list[Any]] = self.futures[0].result(timeout=cluster.timeout)
            except (TimeoutError, cluster.distributed.CancelledError) as error:
                raise LostPeerError(f"the worker {self.workers[0]} is gone, after the last epoch") from error
            return found
        errors = [f.exception(timeout=cluster.timeout) for f in failed.values() if f.status == "error"]
        for told in errors:
            if not isinstance(told, cluster.losses):
                raise told
        there = cluster.workers()
        gone = [worker for worker in failed if worker not in there]
        silent = [worker for worker, future in failed.items() if worker in there and future.status == "pending"]
        cluster.given_up.update(silent)
        if gone:
            what = f"the worker {', '.join(gone)} is gone"
        elif silent:
            what = f"the worker {', '.join(silent)} has not answered for {cluster.timeout:g} seconds"
        else:
            what = "workers do not reach each other"
        epochs = [error.epoch for error in errors if isinstance(error, LostPeerError) and error.epoch is not None]
        raise LostPeerError(what + (f", in epoch {epochs[0]}" if epochs else "")) from next(iter(errors), None)

    def _keep_state(self) -> None:
        """Fetch what rank 0 has written, without waiting for it."""
        if not self.keeps:
            return
        if self.pull is None:
            known = -1 if self.state is None else self.state[0]
            self.pull = self.cluster.submit(working.state_of, self.name, known, worker=self.workers[0])
        elif self.pull.status != "pending":
            if self.pull.status == "finished":
                self.state = self.pull.result(timeout=self.cluster.timeout) or self.state
            self.pull = None


def lanes_for(rows: list[int], lanes: int, batch_size: int) -> Lanes:
    """The lanes of shards of so many rows, as `LaneData` deals them."""
    return dealt(rows, lanes, min(batch_size, sum(rows)))


def _share(layout: Layout, lanes: Lanes, rank: int, size: int) -> working.Share:
    own = nth_part(len(lanes), rank, size)
    mine = range(lanes[own.start].start, lanes[own.stop - 1].stop) if own else range(0)
    return working.Share(layout, sorted({layout.cuts[i].partition for i in mine}), mine)
