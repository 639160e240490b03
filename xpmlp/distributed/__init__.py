"""Several processes that train one network: `fit(shards, group=xpmlp.distributed.mpi())`.

Every process calls the same `fit` and comes back with the same estimator. What a group must be able to do is `Group`;
the engines are MPI (`mpi`), gloo or NCCL by way of PyTorch (`torch`), and one process on its own (`alone`).
"""

from xpmlp.distributed.engines import mpi, torch
from xpmlp.distributed.groups import Group, LostPeerError, alone

__all__ = ["Group", "LostPeerError", "alone", "mpi", "torch"]
