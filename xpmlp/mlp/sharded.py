"""An MLP's fit of shards: its samples, checked when their turn comes, and other processes that train it too."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.backends.transfer import to_numpy
from xpmlp.distributed import Group, alone
from xpmlp.distributed.groups import agreed
from xpmlp.mlp.content import Content
from xpmlp.mlp.metrics import find_metric
from xpmlp.mlp.validation import Samples
from xpmlp.network import Network
from xpmlp.runners import Data
from xpmlp.runners.reduction import OrderedSum, Sum
from xpmlp.shards import Shards
from xpmlp.shards.lanes import HeldOut, LaneData
from xpmlp.training import Outcome
from xpmlp.training.evaluation import evaluate

JUDGED_ROWS = 4096  # of a batch that is looked at, and not trained on


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


class Judge:
    """Called with parameters, it says what they make of the shards that are held out: means over all processes.

    Parameters
    ----------
    metric : function or None
        A mean over the samples, as accuracy is.
    """

    def __init__(self, network: Network, data: LaneData, together: Sum | None, metric: Any) -> None:
        self.network, self.data, self.together, self.metric = network, data, together, metric

    def __call__(self, p: Array) -> Outcome:
        """The outcome of these parameters."""
        total = self.data.summed(partial(self._sums, p), self.together)
        losses, weights, values, count = total.tolist()
        score = float(values / count) if count else np.nan
        return Outcome(np.asarray(losses / weights if weights else np.nan, self.data.dtype), None, score)

    def _sums(self, p: Array, x: Array, y: Array, w: Array | None) -> HostArray:
        """Of some rows: the losses and their weights, the metric and its samples."""
        n = int(x.shape[-2])
        seen = evaluate(self.network, p, Data(self.data.place, x, y, w, n))
        weight = float(n) if w is None else float(np.sum(to_numpy(w), dtype=np.float64))
        value = 0.0 if self.metric is None else float(self.metric(y, seen.yhat))
        return np.array([weight * float(seen.loss), weight, n * value, n])


class Sharded(NamedTuple):
    """What a fit of shards has in place of samples."""

    data: LaneData
    together: Sum | None
    writes: bool  # whether this process writes, and shows
    judge: Judge | None


class Held(NamedTuple):
    """What is held out beside shards: a part of each, or other shards; and what is measured of it."""

    part: HeldOut | None = None
    shards: Shards | None = None
    metric: Any = None


def samples_of(
    net: Content, shards: Shards, batch_size: int, seed: int, group: Group | None, *, shuffle: bool, held: Held
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
    told = shards.digest + ("" if held.shards is None else held.shards.digest)
    mine = (net.network.layout.sizes, net.dtype, told, seed, to_numpy(net.p).tobytes())
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

    def data_of(source: Shards, size: int, *, shuffle: bool, **which: Any) -> LaneData:
        return LaneData(
            net.place,
            source,
            encode,
            net.dtype,
            size,
            width=net.network.n_inputs,
            n_outputs=net.network.loss.target_width or net.network.layout.sizes[-1],
            seed=seed,
            rank=group.rank,
            size=group.size,
            weighted=source.weighted,
            shuffle=shuffle,
            **which,
        )

    data = data_of(shards, batch_size, shuffle=shuffle, held=held.part)

    def parts() -> Sequence[Any]:
        return data.parts

    shape = (net.network.layout.size,)
    together: Sum | None = None
    if group.fixed_order:
        together = OrderedSum(group, net.place, shape, net.dtype, parts, data.lane_blocks)
    elif group.size > 1:
        together = Sum(group, net.place, shape, net.dtype, parts)
    judged: LaneData | None = None
    if held.part is not None:
        judged = data_of(shards, JUDGED_ROWS, shuffle=False, held=held.part._replace(chosen=True), like=data)
    elif held.shards is not None:
        judged = data_of(held.shards, JUDGED_ROWS, shuffle=False)
    judge = None if judged is None else Judge(net.network, judged, together, held.metric)
    return Sharded(data, together, group.rank == 0, judge)


def held_beside(net: Content, y: Any, o: Any) -> tuple[Samples | None, Held]:
    """What `fit` is given to judge shards by: arrays, or shards; `o` are its `Options`."""
    if y is not None or o.sample_weight is not None:
        raise ValueError("shards hold X, y and their weights: fit(shards) takes no y and no sample_weight.")
    if o.batch_size is None and o.optimizer != "lbfgs":
        raise ValueError("shards may be larger than memory: choose a batch_size.")
    if o.drop_last:
        raise ValueError("the batches of shards are all of about one size: leave drop_last out.")
    given = o.validation_data
    by_shards = isinstance(given, Shards) or (given is None and o.early_stopping)
    if callable(o.metric) or (o.metric is not None and not by_shards):
        raise ValueError(
            'of shards, metric can be "accuracy" alone, of those held out (validation_data=shards, or early_stopping): '
            "another function would see all samples at once."
        )
    metric = find_metric(o.metric, net.network)
    if isinstance(given, Shards):
        return None, Held(shards=given, metric=metric)
    if given is not None:
        names = ("validation_data[0]", "validation_data[1]")
        return net.door.samples(*checks.inputs_and_targets(given, "validation_data"), names=names), Held()
    if not o.early_stopping:
        return None, Held()
    fraction = checks.number(o.validation_fraction, "validation_fraction", above=0.0, below=1.0)
    return None, Held(HeldOut(fraction, chosen=False), metric=metric)
