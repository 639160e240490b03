"""Dropout masks from a counter: the same on every backend, and at home inside a compiled or captured step.

A mask is a hash of (seed, step, layer, element), not a draw: nothing to carry along, nothing to synchronise. The hash
is lowbias32 (Wellons, "Prospecting for hash functions", 2018) in wrapping int32: PyTorch has no arithmetic on uint32.
"""

from xpmlp._typing import Array
from xpmlp.backends import array_namespace, device_of

LARGEST = 2**31 - 1
# 0x7feb352d and 0x846ca68b, the second as the int32 of the same bits
MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)


def hashed(x: Array) -> Array:
    """Another int32 for each, by a function that looks like chance."""
    # x >> n drags the sign along in int32, so the dragged bits are masked away.
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * MULTIPLIERS[0]
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * MULTIPLIERS[1]
    return x ^ ((x >> 16) & 0xFFFF)


def mask(
    rate: float, seed: Array, step: Array, layer: int, like: Array, first: int = 0, members: bool = False
) -> Array:
    """The mask of `like`: 0 with probability `rate`, 1 / (1 - rate) elsewhere.

    Parameters
    ----------
    seed : int32 array of shape (1, 1), or (m, 1, 1) for m networks
        Network i of m is given the mask that its seed gives it alone.
    step : int32 array of one element
        The number of updates done.
    layer : int
        k of the notation.
    like : array of shape (batch, n_k) or (m, batch, n_k)
        The activations a[k] that the mask multiplies.
    first : int
        Samples of the batch before these, where `like` is a part of one: the parts' masks are those of the whole.
    members : bool
        Whether the leading axis is that of members: each has a mask of its own.
    """
    xp = array_namespace(like)
    element = elements(like.shape[-2], like.shape[-1], seed, first)
    keep = (hashed(element + key(seed, step, layer, like.shape[0] if members else 0)) & LARGEST) >= least(rate)
    return xp.astype(keep, like.dtype) * (1.0 / (1.0 - rate))


def elements(batch: int, n: int, seed: Array, first: int = 0) -> Array:
    """What the elements of a mask of shape (batch, n) begin with, where `seed` is."""
    xp = array_namespace(seed)
    element = xp.arange(first * n, (first + batch) * n, dtype=seed.dtype, device=device_of(seed))
    return hashed(xp.reshape(element, (batch, n)))


def key(seed: Array, step: Array, layer: int, members: int = 0) -> Array:
    """What is added to all elements of a mask, shape (1, 1), (m, 1, 1), or (members, 1, 1): see `mask`."""
    made = hashed(hashed(hashed(seed) + step) + layer)
    if members:
        xp = array_namespace(seed)
        made = hashed(made + xp.reshape(xp.arange(members, dtype=seed.dtype, device=device_of(seed)), (-1, 1, 1)))
    return made


def least(rate: float) -> int:
    """The least 31 bits of a hash that keep an element."""
    return int(rate * 2**31)
