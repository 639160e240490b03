"""A group by gloo for threads: torch.distributed's own group, of which a process has one, is left to others."""

import datetime
import importlib
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.distributed.engines import told


def _library() -> Any:
    try:
        return importlib.import_module("torch").distributed
    except ImportError as error:
        raise ImportError(
            "several Dask workers need PyTorch, whose gloo sums their gradients; install it on all of them with "
            "pip install torch."
        ) from error


def open_store(host: str) -> tuple[Any, int]:
    """Where the processes of a group find each other, and its port; it is there as long as somebody holds it."""
    store = _library().TCPStore(host, 0, is_master=True, wait_for_workers=False)
    return store, int(store.port)


class Gloo:
    """Processes, or threads, that have found each other by a store.

    Parameters
    ----------
    rank, size : int
    address : tuple of str and int
        The store's.
    host : str
        This machine, as the others reach it.
    timeout : float
        Seconds after which a process that does not answer counts as lost.
    stopped : function
        Asked again and again while the others are waited for at the beginning, which may take as long as it takes; it
        raises where nobody wants them any more.

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    LostPeerError
        If the others cannot be reached.
    """

    name = "gloo"

    def __init__(
        self,
        rank: int,
        size: int,
        address: tuple[str, int],
        host: str,
        *,
        fixed_order: bool,
        timeout: float,
        stopped: Callable[[], None],
    ) -> None:
        self.rank, self.size, self.fixed_order = rank, size, fixed_order
        engine, limit = _library(), datetime.timedelta(seconds=timeout)
        self.torch: Any = importlib.import_module("torch")
        with told(self):
            store = engine.TCPStore(*address, is_master=False, wait_for_workers=False, timeout=limit)
            store.set(f"here/{rank}", "")
            others = [f"here/{other}" for other in range(size)]
            while not store.check(others):
                stopped()
                time.sleep(0.05)
            kind = engine.ProcessGroupGloo
            options = kind._Options()
            options._devices = [kind.create_device(hostname=host)]
            options._timeout = limit
            self.engine: Any = kind(engine.PrefixStore("group", store), rank, size, options)
        self.store = store

    def sum(self, buffer: HostArray) -> None:
        """See `Group`."""
        with told(self):
            self.engine.allreduce([self.torch.from_numpy(buffer)]).wait()

    def gather(self, buffer: HostArray) -> HostArray:
        """See `Group`."""
        mine = self.torch.from_numpy(np.ascontiguousarray(buffer))
        found = [self.torch.empty_like(mine) for _ in range(self.size)]
        with told(self):
            self.engine.allgather([found], [mine]).wait()
        return np.stack([part.numpy() for part in found])

    def share(self, value: Any) -> list[Any]:
        """See `Group`."""
        mine = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = self.gather(np.array([len(mine)]))[:, 0]
        padded = np.zeros(sizes.max(), np.uint8)
        padded[: len(mine)] = mine
        rows = zip(self.gather(padded), sizes, strict=True)
        return [pickle.loads(row[:n].tobytes()) for row, n in rows]

    def close(self) -> None:
        """Let the others go: without it a thread of gloo's may end the interpreter by a signal."""
        self.engine = None
        self.store = None
