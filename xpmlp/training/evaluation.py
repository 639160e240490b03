"""What a network says of samples and how far off it is, in blocks, so that memory stays bounded."""

from collections.abc import Iterable
from contextlib import nullcontext
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray, array_namespace, place_of
from xpmlp.backends.arithmetic import unwarned
from xpmlp.network import Network, Parameters, forward, reciprocal, said, sample_losses
from xpmlp.runners import Data
from xpmlp.threads import enough_for, flops_of_forward

MANY = 1000  # rows of a prediction from which on its threads are worth a look
BLOCK_BYTES = 2**26  # of the widest layer, so that a prediction of any size needs this much room for each layer


class Outcome(NamedTuple):
    """What a network says of samples that it is not trained on."""

    loss: HostArray  # without the penalty; shape () or (m,)
    yhat: Array  # where the network is; None where only the score is known
    score: float | None = None  # where whoever measured knows it


def rows_at_once(sizes: tuple[int, ...], networks: int | None = None) -> int:
    """Samples of one block."""
    return max(BLOCK_BYTES // (8 * max(sizes) * (networks or 1)), 1)


def outputs(network: Network, p: Parameters, blocks: Iterable[Array], layer: int = -1) -> Array:
    """a[layer], by default yhat, of all blocks."""
    blocks = iter(blocks)
    first = next(blocks)
    rows = int(first.shape[-2])
    # To set and to put back the threads takes as long as one row does.
    few = enough_for(flops_of_forward(network.layout.sizes, rows), place_of(first)) if rows > MANY else nullcontext()
    with few:
        found = [forward(network, p, x).a[layer] for x in chain([first], blocks)]
    return _joined([said(network, block) for block in found] if layer == -1 else found)


@unwarned
def evaluate(network: Network, p: Array, data: Data) -> Outcome:
    """The mean loss of `data`, in its batches, and the outputs."""
    xp, parameters = data.place.xp, network.layout.unpack(p)
    total: Any = 0.0
    seen: Any = 0.0
    found = []
    for x, y, w in data.batches(None):
        trace = forward(network, parameters, x)
        yhat = said(network, trace.a[-1])
        # What members are worth is what their mean is worth.
        values = network.loss.value(y, yhat) if network.members else sample_losses(network, trace, y)
        if w is None:
            total, seen = total + xp.sum(values, axis=-1), seen + values.shape[-1]
        else:
            total, seen = total + xp.sum(values * w, axis=-1), seen + xp.sum(w, axis=-1)
        found.append(yhat)
    loss = total / seen if data.w is None else total * reciprocal(seen)
    return Outcome(np.asarray(data.place.backend.to_numpy(loss)), _joined(found))


def plain(value: HostArray) -> Any:
    """A float for one network, a NumPy array of shape (m,) for m."""
    return float(value) if np.ndim(value) == 0 else np.asarray(value)


def _joined(blocks: list[Array]) -> Array:
    return blocks[0] if len(blocks) == 1 else array_namespace(blocks[0]).concat(blocks, axis=-2)
