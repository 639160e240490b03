"""One flat vector holds all parameters of a network; `Layout` knows where each array lies in it.

What takes part in the penalty and in weight decay comes first, layer by layer, then the rest: the penalty is one slice.

    flat = [ W[1] W[2] ... W[K] | b[1] b[2] ... b[K] ]        shape (P,), or (m, P) for m networks

What a layer has beside W and b (`Other`) lies behind the weights where it decays, behind the biases where it does not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

from xpmlp._typing import Array
from xpmlp.backends import array_namespace, device_of

Layers = list[Array]
"""Arrays by layer, as in the notation: [0] is the input's; what does not exist is None."""


class Parameters(NamedTuple):
    """All arrays of a network, or their derivatives: W[k], b[k], and own[k][name] of what else layer k has."""

    W: Layers
    b: Layers
    own: list[dict[str, Array]] = []  # noqa: RUF012 - empty where no layer has anything of its own; never changed

    def at(self, name: str, k: int) -> Array:
        """The array of a segment."""
        return self.W[k] if name == "W" else self.b[k] if name == "b" else self.own[k][name]

    def put(self, name: str, k: int, value: Array) -> None:
        """Another array in its place."""
        if name in ("W", "b"):
            (self.W if name == "W" else self.b)[k] = value
        else:
            self.own[k][name] = value


class Other(NamedTuple):
    """An array of layer k (0: before the first) that is neither W nor b."""

    name: str
    layer: int
    shape: tuple[int, ...]
    decays: bool = False  # whether the penalty and weight decay take part, as for W


class Segment(NamedTuple):
    """Where one array lies in the flat vector."""

    name: str  # "W", "b", or that of an `Other`
    layer: int  # k of the notation, 1 to K; 0 for what stands before the first layer
    start: int
    stop: int
    shape: tuple[int, ...]  # (n_in, n_out) of W, (n_out,) of b
    decays: bool = False  # pickles of 0.1.0 hold none


@dataclass(frozen=True)
class Layout:
    """The places of W[1] ... W[K], b[1] ... b[K] and `others` in a flat vector.

    Parameters
    ----------
    sizes : tuple of int
        n_0 ... n_K.
    alignment : int
        Every segment starts at a multiple of this many elements (a GPU runner asks for it). The padding between
        segments stays zero and does not count in `n_parameters`.
    others : tuple of Other
        What layers have beside W and b.
    members : int
        Of k members that share W[1] ... W[K-1], every one has biases and a last layer of its own: b[k] is then of shape
        (k, 1, n_out) and W[K] of (k, n_in, n_out). 0 is one network.
    """

    sizes: tuple[int, ...]
    alignment: int = 1
    others: tuple[Other, ...] = ()
    members: int = 0

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what is derived from them is derived anew, also by another version."""
        return {name: value for name, value in vars(self).items() if name in _FIELDS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `__getstate__`; a pickle of 0.1.0 holds more."""
        for name in _FIELDS & set(state):
            object.__setattr__(self, name, state[name])

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """All weights, then all biases, each by layer; others behind those with which they decay, or do not."""
        layers = range(1, len(self.sizes))
        each = (self.members,) if self.members else ()
        arrays = [Other("W", k, (each if k == self.n_layers else ()) + self.sizes[k - 1 : k + 1], True) for k in layers]
        arrays += [other for other in self.others if other.decays]
        arrays += [Other("b", k, (*each, 1, self.sizes[k]) if each else (self.sizes[k],), False) for k in layers]
        arrays += [other for other in self.others if not other.decays]
        segments, stop = [], 0
        for name, layer, shape, decays in arrays:
            start = -(-stop // self.alignment) * self.alignment
            stop = start + math.prod(shape)
            segments.append(Segment(name, layer, start, stop, shape, decays))
        return tuple(segments)

    @property
    def n_layers(self) -> int:
        """K, the number of layers that have weights."""
        return len(self.sizes) - 1

    @cached_property
    def size(self) -> int:
        """P, the length of the flat vector, padding included."""
        return self.segments[-1].stop

    @cached_property
    def n_parameters(self) -> int:
        """The number of parameters, padding not counted."""
        return sum(math.prod(segment.shape) for segment in self.segments)

    @cached_property
    def decaying(self) -> tuple[Segment, ...]:
        """What the penalty and weight decay take part in: the weights, and others that say so."""
        return tuple(segment for segment in self.segments if segment.decays)

    @cached_property
    def decaying_stop(self) -> int:
        """`decaying` lies in flat[..., :decaying_stop]; padding counts."""
        return self.decaying[-1].stop

    def unpack(self, flat: Array) -> Parameters:
        """Every array by name and layer; views of `flat` wherever the library has views."""
        xp = array_namespace(flat)
        p = Parameters([None] * len(self.sizes), [None] * len(self.sizes), self._nothing_of_its_own())
        if flat.ndim == 1:
            for name, k, start, stop, shape, _ in self.segments:
                if name == "W":
                    p.W[k] = xp.reshape(flat[start:stop], shape)
                elif name == "b":
                    p.b[k] = xp.reshape(flat[start:stop], shape) if self.members else flat[start:stop]
                else:
                    p.own[k][name] = xp.reshape(flat[start:stop], shape)
        else:
            m = flat.shape[0]
            for name, k, start, stop, shape, _ in self.segments:
                array = flat[:, start:stop]
                if name == "W":
                    p.W[k] = xp.reshape(array, (m, *shape))
                elif name == "b":  # (m, 1, n_out), so that it adds to (m, batch, n_out)
                    p.b[k] = xp.reshape(array, (m, 1, *shape))
                else:
                    p.own[k][name] = xp.reshape(array, (m, 1, *shape) if len(shape) == 1 else (m, *shape))
        return p

    def pack(self, p: Parameters) -> Array:
        """The flat vector of what `unpack` returns, or of its derivatives."""
        like = p.W[1]
        alone = self.segments[0].shape  # of W[1] of one network, or of members that share it
        xp, lead = array_namespace(like), tuple(like.shape[: like.ndim - len(alone)])
        arrays, at = [], 0
        for name, k, start, stop, _, _ in self.segments:
            if start > at:
                arrays.append(xp.zeros((*lead, start - at), dtype=like.dtype, device=device_of(like)))
            arrays.append(xp.reshape(p.at(name, k), (*lead, stop - start)))
            at = stop
        return xp.concat(arrays, axis=-1)

    def fill(self, value: Callable[[Segment], float], like: Array) -> Array:
        """A vector (P,) that has one value per segment, 0 in the padding; with the namespace and dtype of `like`.

        Factors on the learning rate, and the share that decays, are such vectors.
        """
        xp, where = array_namespace(like), {"dtype": like.dtype, "device": device_of(like)}
        pieces, at = [], 0
        for segment in self.segments:
            if segment.start > at:
                pieces.append(xp.zeros((segment.start - at,), **where))
            pieces.append(xp.full((segment.stop - segment.start,), float(value(segment)), **where))
            at = segment.stop
        return xp.concat(pieces)

    def locate(self, index: int) -> tuple[str, int]:
        """The name and layer of element `index`, as in ("W", 2); padding belongs to the segment before it."""
        found = [segment for segment in self.segments if segment.start <= index]
        return found[-1].name, found[-1].layer

    def _nothing_of_its_own(self) -> list[dict[str, Array]]:
        return [{} for _ in self.sizes] if self.others else []


_FIELDS = {column.name for column in fields(Layout)}
