"""What a network says of samples and how far off it is, in blocks, so that memory stays bounded."""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, array_namespace
from xpmlp.backends.arithmetic import unwarned
from xpmlp.network import Network, Parameters, Trace, losses_of_samples, reciprocal, said, sample_losses
from xpmlp.runners import Data
from xpmlp.runners.passes import find_pass
from xpmlp.threads import enough_for, flops_of_forward

MANY = 1000  # rows from which on it is worth a look how to go through them: threads, and see `Pass.begin`
# Of NumPy's blocks: no fewer rows than a product needs, and no more than the caches of small ones hold.
# (Time of 100,000 rows by that of blocks of 64 MiB, float64: 20-64-2 0.55 to 0.65, 54-256-128-7 0.4.)
FEWEST, MOST = 512, 4096
LARGE = 2**20  # elements of a W that comes from memory for each block: for twice as many rows, then
AVERAGED_AWAY = 1 / 3  # of a loss: the most by which that of one member may be larger to be believed


class Outcome(NamedTuple):
    """What a network says of samples that it is not trained on."""

    loss: HostArray  # without the penalty; shape () or (m,)
    yhat: Array  # where the network is; None where only the score is known
    score: float | None = None  # where whoever measured knows it
    foreseen: HostArray | None = None  # the loss of more members: see `Evaluator`


def rows_at_once(network: Network, place: Place, networks: int | None = None) -> int:
    """Samples of one block: its widest array is as large as suits the place."""
    in_place = place.backend.runner == "numpy"  # x is looked at where it lies
    rows = place.block_bytes // (8 * network.widest(inputs=not in_place) * (networks or 1))
    return min(max(rows, _fewest(network)), MOST) if in_place else max(rows, 1)


def _fewest(network: Network) -> int:
    return FEWEST * (1 + any(n_in * n_out > LARGE for n_in, n_out in pairwise(network.layout.sizes)))


def even_blocks(network: Network, place: Place, n: int) -> int:
    """Samples of one block of n for a gradient of all: as many in each, if that can be.

    Half as many as of a prediction, where there are enough: on the way there and back a layer has z, slope and da. (Of
    digits in float64, 100 units, blocks of 600 take 0.96 of the time of blocks of 900.)
    """
    rows = rows_at_once(network, place)
    return -(-n // -(-n // max(rows // 2, min(rows, _fewest(network)))))


def outputs(network: Network, p: Parameters, data: Data, layer: int = -1) -> Array:
    """a[layer], by default yhat, of all samples, in the blocks of `data`."""
    rows = data.batch_size
    # To set and to put back the threads takes as long as one row does.
    few = enough_for(flops_of_forward(network.layout.sizes, rows), data.place) if data.n > MANY else nullcontext()
    found = find_pass(network, p, data.place)
    with few:
        found.begin(many=data.n > MANY)
        found_in_blocks = (found(x, layer)[1] for x in data.x_blocks(sparse=found.takes_sparse))
        if layer == -1:
            found_in_blocks = (said(network, yhat) for yhat in found_in_blocks)
        return found.joined(found_in_blocks, data.n)


def judged(network: Network, trace: Trace, y: Array) -> tuple[Array, Array]:
    """The loss of each sample, and the outputs; what members are worth is what their mean is worth."""
    yhat = said(network, trace.a[-1])
    return (network.loss.value(y, yhat) if network.members else sample_losses(network, trace, y)), yhat


class Evaluator:
    """Says again and again what a network is worth on the samples of `data`.

    Of members it also foresees, where so many are to come, what the loss of their mean would be. That of the mean of k
    is a + b / k: exactly so of squared error, where a is what they all get wrong, and b the variance of one. One member
    has a + b, which is the mean of their own losses, and those that are there have a + b / k. Of other losses it is
    nearly so while members are not much surer than they should be: a difference of a third of the loss is believed.
    """

    def __init__(self, network: Network, data: Data, to_come: int | None = None) -> None:
        self.network, self.data = network, data
        k = network.members
        self.further = (1.0 / k - 1.0 / to_come) / (1.0 - 1.0 / k) if to_come and 1 < k < to_come else None
        self.p: Array | None = None
        self.found: Any = None

    @unwarned
    def __call__(self, p: Array) -> Outcome:
        """The mean loss, in the batches of the data, and the outputs, of a network with these parameters."""
        if p is not self.p:
            self.p, self.found = p, find_pass(self.network, self.network.layout.unpack(p), self.data.place)
        self.found.begin(many=self.data.n > MANY)
        data = self.data
        total, alone = (_Total(weighted=data.w is not None) for _ in range(2))
        yhat = self.found.joined(self._judged(total, alone), data.n)
        loss = np.asarray(data.place.backend.to_numpy(total.mean()))
        if self.further is None:
            return Outcome(loss, yhat)
        own = np.asarray(data.place.backend.to_numpy(alone.mean()))
        gained = np.minimum(own - loss, AVERAGED_AWAY * np.abs(loss))
        return Outcome(loss, yhat, foreseen=np.where(np.isfinite(own), loss - self.further * gained, loss))

    def _judged(self, total: "_Total", alone: "_Total") -> Iterator[Array]:
        for x, y, w in self.data.batches(None, sparse=self.found.takes_sparse):
            z, a = self.found(x)
            trace = Trace([z], [a], [], [], [z])
            values, yhat = judged(self.network, trace, y)
            total.add(values, w)
            if self.further is not None:
                alone.add(losses_of_samples(self.network, trace, y), w)
            yield yhat


class _Total:
    """The sum of w l so far, and of w."""

    def __init__(self, *, weighted: bool) -> None:
        self.weighted = weighted
        self.losses: Any = 0.0
        self.seen: Any = 0.0

    def add(self, values: Array, w: Array | None) -> None:
        xp = array_namespace(values)
        self.losses = self.losses + xp.sum(values if w is None else values * w, axis=-1)
        self.seen = self.seen + (values.shape[-1] if w is None else xp.sum(w, axis=-1))

    def mean(self) -> Any:
        return self.losses * reciprocal(self.seen) if self.weighted else self.losses / self.seen


def evaluate(network: Network, p: Array, data: Data) -> Outcome:
    """The mean loss of `data`, in its batches, and the outputs."""
    return Evaluator(network, data)(p)


def plain(value: HostArray) -> Any:
    """A float for one network, a NumPy array of shape (m,) for m."""
    return float(value) if np.ndim(value) == 0 else np.asarray(value)
