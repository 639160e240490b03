"""An MLP's fit of shards: its samples, checked when their turn comes, and other processes that train it too."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.backends.transfer import to_numpy
from xpmlp.distributed import Group, alone
from xpmlp.distributed.groups import agreed
from xpmlp.mlp.content import Content
from xpmlp.runners.reduction import OrderedSum, Sum
from xpmlp.shards import Shards
from xpmlp.shards.lanes import LaneData


class Epochs:
    """The draws of a fit of shards: the epoch's number, from which batches follow; see `Draws`."""

    def __init__(self, done: int) -> None:
        self.count = done

    def order(self) -> int:
        """See `Draws`."""
        self.count += 1
        return self.count - 1

    def go_on(self, state: Any) -> None:
        """See `Draws`: there is nothing to draw but the number."""


class Sharded(NamedTuple):
    """What a fit of shards has in place of samples."""

    data: LaneData
    together: Sum | None
    writes: bool  # whether this process writes, and shows


def samples_of(
    net: Content, shards: Shards, batch_size: int, seed: int, group: Group | None, *, shuffle: bool
) -> Sharded:
    """The batches of shards, and the sum of those who train on them.

    Raises
    ------
    ValueError
        If this MLP has several networks, or the processes have other networks or shards.
    """
    if net.n_networks is not None:
        raise ValueError(f"shards train one network at a time; this MLP has {net.n_networks}.")
    group = alone() if group is None else group
    mine = (net.network.layout.sizes, net.dtype, shards.digest, seed, to_numpy(net.p).tobytes())
    said = agreed(group, lambda: mine)
    if any(other != said[0] for other in said):
        raise ValueError(
            "all processes need the same network, with the same random_state, and the same shards; rank "
            f"{next(rank for rank, other in enumerate(said) if other != said[0])} has others than rank 0."
        )
    door = net.door

    def encode(y: Any, w: Any, n: int) -> tuple[HostArray, HostArray | None]:
        targets, weights = door.targets(y, n, None)
        if w is not None:
            weights = np.asarray(w, np.float64)
            if weights.shape != (n,) or not np.all(np.isfinite(weights)) or np.any(weights < 0.0):
                raise ValueError(f"its weights must be {n} finite numbers of at least 0; got shape {weights.shape}.")
        return np.asarray(to_numpy(targets)), weights

    data = LaneData(
        net.place,
        shards,
        encode,
        net.dtype,
        batch_size,
        width=net.network.layout.sizes[0],
        n_outputs=net.network.loss.target_width or net.network.layout.sizes[-1],
        seed=seed,
        rank=group.rank,
        size=group.size,
        weighted=shards.weighted,
        shuffle=shuffle,
    )

    def parts() -> Sequence[Any]:
        return data.parts

    shape = (net.network.layout.size,)
    together: Sum | None = None
    if group.fixed_order:
        together = OrderedSum(group, net.place, shape, net.dtype, parts, data.lane_blocks)
    elif group.size > 1:
        together = Sum(group, net.place, shape, net.dtype, parts)
    return Sharded(data, together, group.rank == 0)
