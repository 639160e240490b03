"""The engines of a group: MPI, and what PyTorch brings (gloo, NCCL). Both are imported when they are asked for."""

import atexit
import datetime
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.distributed.groups import Group, LostPeerError


class _MPI:
    """A communicator of mpi4py's."""

    name = "mpi"

    def __init__(self, MPI: Any, comm: Any, fixed_order: bool) -> None:
        self.MPI, self.comm, self.fixed_order = MPI, comm, fixed_order
        self.rank, self.size = int(comm.Get_rank()), int(comm.Get_size())

    def sum(self, buffer: HostArray) -> None:
        """See `Group`."""
        with told(self, self.MPI.Exception):
            self.comm.Allreduce(self.MPI.IN_PLACE, buffer)

    def gather(self, buffer: HostArray) -> HostArray:
        """See `Group`."""
        found = np.empty((self.size, *buffer.shape), buffer.dtype)
        with told(self, self.MPI.Exception):
            self.comm.Allgather(np.ascontiguousarray(buffer), found)
        return found

    def share(self, value: Any) -> list[Any]:
        """See `Group`."""
        with told(self, self.MPI.Exception):
            return list(self.comm.allgather(value))


def mpi(comm: Any = None, *, fixed_order: bool = False) -> Group:
    """The processes that `mpiexec -n 16 python train.py` has started; needs mpi4py.

    Where a process dies, mpiexec ends them all, and no Python sees it: start it again with resume=True.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        By default all processes.
    fixed_order : bool
        Sum the gradient in one order: the same bits for any number of processes.

    Raises
    ------
    ImportError
        If mpi4py is not installed.
    """
    try:
        MPI: Any = importlib.import_module("mpi4py.MPI")
    except ImportError as error:
        raise ImportError("distributed.mpi() needs mpi4py and an MPI; install them with pip install mpi4py.") from error
    return _MPI(MPI, MPI.COMM_WORLD if comm is None else comm, fixed_order)


class _Torch:
    """A process group of torch.distributed's."""

    def __init__(self, group: Any, fixed_order: bool) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.engine: Any = self.torch.distributed
        self.group, self.fixed_order = group, fixed_order
        self.name = str(self.engine.get_backend(group))
        self.rank, self.size = self.engine.get_rank(group), self.engine.get_world_size(group)
        self.device = "cpu"
        if self.name == "nccl":
            self.device = f"cuda:{self.torch.cuda.current_device()}"

    def sum(self, buffer: HostArray) -> None:
        """See `Group`."""
        with told(self):
            there = self.torch.from_numpy(buffer).to(self.device)
            self.engine.all_reduce(there, group=self.group)
            if self.device != "cpu":
                buffer[...] = there.cpu().numpy()

    def gather(self, buffer: HostArray) -> HostArray:
        """See `Group`."""
        with told(self):
            there = self.torch.from_numpy(np.ascontiguousarray(buffer)).to(self.device)
            found = [self.torch.empty_like(there) for _ in range(self.size)]
            self.engine.all_gather(found, there, group=self.group)
            return np.stack([part.cpu().numpy() for part in found])

    def share(self, value: Any) -> list[Any]:
        """See `Group`."""
        found: list[Any] = [None] * self.size
        with told(self):
            self.engine.all_gather_object(found, value, group=self.group)
        return found


def torch(group: Any = None, *, fixed_order: bool = False, timeout: float = 60.0) -> Group:
    """The processes that `torchrun --nproc-per-node 8 train.py` has started; needs PyTorch.

    Where nobody has begun torch.distributed, it is begun from torchrun's variables: gloo on CPUs, NCCL where each
    process of the machine has a GPU of its own.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        By default all processes.
    fixed_order : bool
        Sum the gradient in one order: the same bits for any number of processes.
    timeout : float
        Seconds after which a process that does not answer counts as lost.

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    RuntimeError
        If nobody has begun torch.distributed, and this process was not started by torchrun.
    """
    try:
        library: Any = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError("distributed.torch() needs PyTorch; install it with pip install torch.") from error
    engine = library.distributed
    if not engine.is_initialized():
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise RuntimeError(
                f"distributed.torch() needs processes that torchrun has started; {', '.join(missing)} is not set. Run "
                "torchrun --nproc-per-node 2 train.py, or begin torch.distributed yourself."
            )
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        on_gpus = library.cuda.is_available() and library.cuda.device_count() >= local
        if on_gpus:
            library.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        engine.init_process_group("nccl" if on_gpus else "gloo", timeout=datetime.timedelta(seconds=timeout))
        atexit.register(end)
    return _Torch(group, fixed_order)


def end() -> None:
    """End torch.distributed: without it an interpreter that saw an error may end by a signal."""
    engine: Any = importlib.import_module("torch").distributed
    if engine.is_initialized():
        engine.destroy_process_group()


@contextmanager
def told(group: Group, kind: type[Exception] = RuntimeError) -> Iterator[None]:
    """Have an engine's error say that a peer is lost; PyTorch's are DistBackendError and its kin, and gloo's plain."""
    try:
        yield
    except kind as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise LostPeerError(f"rank {group.rank} of {group.size} lost a peer: {reason}", rank=group.rank) from error
