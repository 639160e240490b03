"""One flat vector holds all parameters of a network; `Layout` knows where each W and b lies in it.

The weights come first, layer by layer, then the biases: what only weights take part in (the L2 penalty) is one slice.

    flat = [ W[1] W[2] ... W[K] | b[1] b[2] ... b[K] ]        shape (P,), or (m, P) for m networks
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from xpmlp._typing import Array
from xpmlp.backends import array_namespace, device_of


class Segment(NamedTuple):
    """Where one array lies in the flat vector."""

    name: str  # "W" or "b"
    layer: int  # k of the notation, 1 to K
    start: int
    stop: int
    shape: tuple[int, ...]  # (n_in, n_out) or (n_out,)


@dataclass(frozen=True)
class Layout:
    """The places of W[1] ... W[K] and b[1] ... b[K] in a flat vector.

    Parameters
    ----------
    sizes : tuple of int
        n_0 ... n_K.
    alignment : int
        Every segment starts at a multiple of this many elements (a GPU runner asks for it). The padding between
        segments stays zero and does not count in `n_parameters`.
    """

    sizes: tuple[int, ...]
    alignment: int = 1

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """All weights, then all biases, each by layer."""
        layers = range(1, len(self.sizes))
        shapes: list[tuple[str, int, tuple[int, ...]]] = [("W", k, self.sizes[k - 1 : k + 1]) for k in layers]
        shapes += [("b", k, (self.sizes[k],)) for k in layers]
        segments, stop = [], 0
        for name, layer, shape in shapes:
            start = -(-stop // self.alignment) * self.alignment
            stop = start + math.prod(shape)
            segments.append(Segment(name, layer, start, stop, shape))
        return tuple(segments)

    @property
    def n_layers(self) -> int:
        """K, the number of layers that have parameters."""
        return len(self.sizes) - 1

    @cached_property
    def size(self) -> int:
        """P, the length of the flat vector, padding included."""
        return self.segments[-1].stop

    @cached_property
    def n_parameters(self) -> int:
        """The number of weights and biases."""
        return sum(math.prod(segment.shape) for segment in self.segments)

    @cached_property
    def n_weights(self) -> int:
        """The weights lie in flat[..., :n_weights]."""
        return self.segments[self.n_layers - 1].stop

    def unpack(self, flat: Array) -> tuple[list[Array], list[Array]]:
        """Lists W and b with the layer as index ([0] is None); views of `flat` wherever the library has views."""
        xp = array_namespace(flat)
        W: list[Array] = [None] * len(self.sizes)
        b: list[Array] = [None] * len(self.sizes)
        if flat.ndim == 1:
            for name, k, start, stop, shape in self.segments:
                if name == "W":
                    W[k] = xp.reshape(flat[start:stop], shape)
                else:
                    b[k] = flat[start:stop]
        else:
            m = flat.shape[0]
            for name, k, start, stop, shape in self.segments:
                if name == "W":
                    W[k] = xp.reshape(flat[:, start:stop], (m, *shape))
                else:  # (m, 1, n_out), so that it adds to (m, batch, n_out)
                    b[k] = xp.reshape(flat[:, start:stop], (m, 1, *shape))
        return W, b

    def pack(self, W: Sequence[Array], b: Sequence[Array]) -> Array:
        """The flat vector of `W` and `b` (or of dW and db), indexed as `unpack` returns them."""
        xp = array_namespace(W[1])
        lead = tuple(W[1].shape[:-2])
        parts, at = [], 0
        for name, k, start, stop, _ in self.segments:
            if start > at:
                parts.append(xp.zeros((*lead, start - at), dtype=W[1].dtype, device=device_of(W[1])))
            parts.append(xp.reshape((W if name == "W" else b)[k], (*lead, stop - start)))
            at = stop
        return xp.concat(parts, axis=-1)

    def locate(self, index: int) -> tuple[str, int]:
        """The name and layer of element `index`, as in ("W", 2); padding belongs to the segment before it."""
        found = [segment for segment in self.segments if segment.start <= index]
        return found[-1].name, found[-1].layer
