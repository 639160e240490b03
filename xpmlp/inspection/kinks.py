"""Samples that stand on a kink: where a function of the network, or the loss, has a left and a right slope."""

from collections.abc import Iterator

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, array_namespace
from xpmlp.backends.arithmetic import unwarned
from xpmlp.network import Network, Trace

STEP = 1e-7  # times |z|, 1 at least: whoever is so near stands on it
EPSILON = float(np.finfo(np.float64).eps)
JUMP = 1e-3  # of the larger slope; a second derivative of 1 makes 1e-7


@unwarned
def kinks_of(network: Network, trace: Trace, y: Array, place: Place) -> HostArray:
    """On how many kinks of each layer each sample stands, and of the loss: shape (K + 2, batch) or (K + 2, m, batch).

    Of members likewise (K + 2, k, batch): each has units of its own. A kink lies in what the function takes, u[k].

    Found by trying each function on both sides, so that a function of a user's own need not declare its kinks.
    """
    xp = array_namespace(trace.a[-1])
    count = np.zeros((len(trace.a) + 1, *trace.a[-1].shape[:-1]), dtype=int)

    def host(values: Array) -> HostArray:
        return np.asarray(place.backend.to_numpy(values))

    for k, row in enumerate(network.activations, start=1):
        z, a = trace.u[k], trace.a[k]
        eps = STEP * xp.maximum(xp.abs(z), xp.ones_like(z))
        above, below = row.function(z + eps), row.function(z - eps)
        count[k] = np.sum(_kinked(host(below), host(a), host(above), host(eps)), axis=-1)
    if network.canonical and network.loss.value_from_scores is not None:  # smooth, as all that have a link
        return count
    yhat = trace.a[-1]
    now = host(network.loss.value(y, yhat))
    for unit in np.eye(yhat.shape[-1]):
        eps = STEP * xp.maximum(xp.abs(yhat), xp.ones_like(yhat)) * place.asarray(unit, "float64")
        above, below = network.loss.value(y, yhat + eps), network.loss.value(y, yhat - eps)
        count[-1] += _kinked(host(below), now, host(above), host(xp.sum(eps, axis=-1)))
    return count


def _kinked(below: HostArray, now: HostArray, above: HostArray, eps: HostArray) -> HostArray:
    with np.errstate(all="ignore"):
        right, left = (above - now) / eps, (now - below) / eps
        rounding = 8.0 * EPSILON * np.maximum(np.abs(now), np.maximum(np.abs(above), np.abs(below))) / eps
        least = np.maximum(JUMP * np.maximum(np.abs(right), np.abs(left)), 1e-6)
        kinked: HostArray = np.abs(right - left) > least + rounding
    return kinked


def same_side(network: Network, before: Trace, after: Trace, y: Array) -> Array:
    """Which samples are on the same side of every kink as before, shape (batch,) or (m, batch); for all members."""
    xp = array_namespace(after.a[-1])
    same = xp.ones(after.a[-1].shape[:-1], dtype=xp.bool, device=after.a[-1].device)
    for now, then in zip(_sides(network, after, y), _sides(network, before, y), strict=True):
        same = xp.logical_and(same, xp.all(now == then, axis=-1))
    return xp.all(same, axis=0) if network.members else same


def _sides(network: Network, trace: Trace, y: Array) -> Iterator[Array]:
    for k, row in enumerate(network.activations, start=1):
        for kink in row.kinks:
            yield trace.u[k] > kink
    if network.loss.kinked:
        yield trace.a[-1] > y
