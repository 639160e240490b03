"""Slips of which a derivative from elsewhere has the trace: what a factor means, and an index that is one off.

To add one that is no factor, write a function from (surface, segment, theirs, chosen) to a sentence, and name it in
SLIPS.
"""

import itertools
from collections.abc import Callable

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.inspection.differences import LossSurface
from xpmlp.network import backward
from xpmlp.network.parameters import Segment

FIT = 1e-3  # a factor is one if it leaves no more than this share of the largest element


def meaning_of(factor: float, n_samples: int) -> str:
    """What a factor says of the line that made it, "" where nothing known makes such a one."""
    signs = {1.0: "", -1.0: "its sign is wrong"}
    sizes = {1.0: "", 2.0: "it is doubled", 0.5: "it is halved"}
    means = {
        1.0: "",
        float(n_samples): "it is a sum over samples where L is their mean",
        1.0 / n_samples: "the mean over samples is taken twice",
    }
    if abs(factor) <= FIT * 1e-3:
        return "it is zero"
    found = []
    for (sign, a), (size, b), (share, c) in itertools.product(signs.items(), sizes.items(), means.items()):
        product = sign * size * share
        if abs(factor - product) <= FIT * abs(product):
            found.append([words for words in (a, b, c) if words])
    words = min(found, key=len, default=[])
    return ", and ".join(words) if len(words) < 3 else f"{words[0]}, {words[1]}, and {words[2]}"


def factor_between(theirs: HostArray, right: HostArray) -> float | None:
    """The c that makes theirs - c right smallest (least squares), None where none leaves next to nothing."""
    square = float(np.sum(right * right))
    if square == 0.0:
        return None
    c = float(np.sum(theirs * right)) / square
    left = float(np.max(np.abs(theirs - c * right)))
    return c if left <= FIT * float(np.max(np.abs(theirs))) else None


def same_layer(surface: LossSurface, segment: Segment, theirs: HostArray, chosen: HostArray) -> str:
    """A dW[k] made of a[k] where a[k-1] belongs."""
    k = segment.layer
    several = surface.flat.ndim > 1 or surface.network.members
    if segment.name != "W" or several or segment.shape[0] != segment.shape[1]:
        return ""
    p = surface.network.layout.unpack(surface.place.asarray(surface.flat, "float64"))
    dz = backward(surface.network, p, surface.trace, surface.y, surface.w).dz[k]
    to_numpy = surface.place.backend.to_numpy
    slipped = (np.asarray(to_numpy(surface.trace.a[k])).T @ np.asarray(to_numpy(dz))).ravel()[chosen]
    c = factor_between(theirs, slipped)
    if c is None:
        return ""
    times = "" if abs(c - 1.0) <= FIT else f"{c:.6g} times "
    meaning = meaning_of(c, surface.n)
    return f"it is {times}a[{k}].T @ dz[{k}], where a[{k - 1}].T belongs" + (f": {meaning}" if meaning else "")


SLIPS: tuple[Callable[[LossSurface, Segment, HostArray, HostArray], str], ...] = (same_layer,)


def slip_in(surface: LossSurface, segment: Segment, theirs: HostArray, chosen: HostArray) -> str:
    """The first of SLIPS that explains the elements `chosen` of a derivative, "" where none does."""
    return next(filter(None, (slip(surface, segment, theirs, chosen) for slip in SLIPS)), "")
