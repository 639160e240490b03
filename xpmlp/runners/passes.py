"""The forward pass alone, block by block, for who has no gradient to ask for: predictions, validation, hidden layers.

On NumPy it goes in place, over blocks that stay in the cache: every array is made once, z has the shape (units, rows)
as in a step (runners/inplace.py), and what is found is written into one array that was made before. Elsewhere
`network.forward` is as good.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, array_namespace
from xpmlp.backends.arithmetic import unwarned
from xpmlp.network import Network, Parameters, forward, said
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.runners.columns import Columns, as_rows
from xpmlp.runners.host_data import SparseRows
from xpmlp.runners.numpy import COLUMNS
from xpmlp.runners.transposed import Buffers, Layers

# Units from which on a layer lies in memory row by row: the product is up to twice as fast, and what goes along the
# units, as the bias does, has enough of them.
BY_ROWS = 16


def _relu(z: HostArray, room: HostArray) -> None:  # noqa: ARG001 - it takes none
    np.maximum(z, 0.0, out=z)  # slower than the column's for many rows, and one call less for few


# Beyond it a bias is added where it stands: what goes on instead of relu(z + b) is as large as b, and where that is 0
# leaves the rounding of b behind. Deep networks would pass on more and more.
LARGEST_B = 1.0

OF_FEW = COLUMNS.activations | {"relu": COLUMNS.activations["relu"]._replace(alone=_relu)}


class Pass(Protocol):
    """The forward pass of one network."""

    takes_sparse: bool  # whether x may be `SparseRows`

    def begin(self, *, many: bool) -> None:
        """To be called first, and again when the parameters have changed in place; `many` rows are worth more of it."""
        ...

    def __call__(self, x: Any, layer: int = -1) -> tuple[Array, Array]:
        """z[layer] and a[layer], of shape (rows, n_k) or (m, rows, n_k), good until the next call."""
        ...

    def joined(self, blocks: Iterable[Array], n: int) -> Array:
        """What has been found block by block, n rows in all, in one array."""
        ...


class EagerPass:
    """`network.forward`: see `Pass`."""

    takes_sparse = False

    def __init__(self, network: Network, p: Parameters) -> None:
        self.network, self.p = network, p

    def begin(self, *, many: bool) -> None:
        """See `Pass`."""

    def __call__(self, x: Array, layer: int = -1) -> tuple[Array, Array]:
        """See `Pass`."""
        trace = forward(self.network, self.p, x)
        return trace.z[layer], trace.a[layer]

    def joined(self, blocks: Iterable[Array], n: int) -> Array:  # noqa: ARG002 - they know it
        """See `Pass`."""
        found = list(blocks)
        return found[0] if len(found) == 1 else array_namespace(found[0]).concat(found, axis=-2)


class InPlacePass:
    """NumPy's: see `Pass`.

    relu(z + b) is max(z, -b) + b. So, of many rows, a hidden layer of ReLU is one pass over z instead of two or three:
    what it lacks, b, goes through the next W once, and into the next b.
    """

    takes_sparse = True

    def __init__(self, network: Network, p: Parameters, columns: Columns) -> None:
        self.network, self.columns = network, columns
        self.known = [
            None,
            *(columns.activations.get(f.name) if checks.genuine(f, ACTIVATIONS) else None for f in network.activations),
        ]
        self.WT: list[Any] = [None] + [W.mT for W in p.W[1:]]
        self.own_b: list[Any] = [None] + [b.mT if b.ndim == 3 else b[:, None] for b in p.b[1:]]
        self.lead = self.WT[1].shape[:-2]
        self.rooms: dict[int, Rooms] = {}
        self.flat = [np.empty(0)] * 3  # where those of the largest block so far lie
        self.b: list[Any] = self.own_b  # with what comes from the layers below
        self.least: list[Any] = [None] * len(self.WT)  # -b of hidden layers of ReLU

    @unwarned
    def begin(self, *, many: bool) -> None:
        """See `Pass`."""
        self.b, self.least = list(self.own_b), [None] * len(self.own_b)
        for k, row in enumerate(self.network.activations[:-1] if many else (), 1):
            b = self.b[k]
            if row.name == "relu" and self.known[k] is not None and np.abs(b).max() <= LARGEST_B:
                self.least[k] = -b
                # As two columns: with some kernels the last digits of a product with one depend on where it begins.
                self.b[k + 1] = self.b[k + 1] + (self.WT[k + 1] @ np.concatenate([b, b], axis=-1))[..., :1]

    @unwarned
    def __call__(self, x: Any, layer: int = -1) -> tuple[HostArray, HostArray]:
        """See `Pass`."""
        layer, rows = layer % (self.network.layout.n_layers + 1), x.shape[-2]
        sparse = type(x) is SparseRows
        if rows not in self.rooms:
            self.rooms[rows] = self._rooms(rows, 2 if sparse else 1)
        z, note = self.rooms[rows]
        h = x.mT
        for k in range(1, layer + 1):
            if k == 1 and sparse:  # SciPy makes an array of its own
                z[k] = (x.rows @ self.WT[k].T).T
            else:
                self.columns.matmul(self.WT[k], h, z[k])
            if k < layer and self.least[k] is not None:
                h = np.maximum(z[k], self.least[k], out=z[k])
                continue
            z[k] += self.b[k]
            if k < layer:
                h = self._activated(k, z[k], note[k])
        a = self._activated(layer, z[layer].copy(), note[layer])
        return z[layer].mT, a.mT

    def joined(self, blocks: Iterable[HostArray], n: int) -> HostArray:
        """See `Pass`."""
        found: Any = None
        at = 0
        for block in blocks:
            rows = block.shape[-2]
            if found is None:
                found = np.empty((*block.shape[:-2], n, block.shape[-1]), block.dtype)
            found[..., at : at + rows, :] = block
            at += rows
        return found  # type: ignore[no-any-return]

    def _activated(self, k: int, z: HostArray, note: HostArray) -> HostArray:
        column = self.known[k]
        if column is None:
            return self.network.activations[k - 1].function(z.mT).mT  # type: ignore[no-any-return]
        column.without_note(z, note)
        return z

    def _rooms(self, rows: int, first: int) -> "Rooms":
        # z of a layer and of the one above it lie apart, that of the next one where the first was.
        sizes, dtype, many = self.network.layout.sizes, self.WT[1].dtype, math.prod(self.lead)
        wanted = sizes[first::2], sizes[first + 1 :: 2], sizes[1:]
        needed = [many * rows * max(units, default=0) for units in wanted]
        if any(len(room) < n for room, n in zip(self.flat, needed, strict=True)):
            self.flat = [np.empty(n, dtype) for n in needed]  # a shorter block then takes their heads
        flat = self.flat

        def cut(k: int, which: int) -> HostArray:
            part = flat[which][: many * rows * sizes[k]]
            if sizes[k] < BY_ROWS:
                return part.reshape(*self.lead, sizes[k], rows)
            return part.reshape(*self.lead, rows, sizes[k]).mT

        z = [cut(k, (k - first) % 2) if k >= first else None for k in range(1, len(sizes))]
        return Rooms([None, *z], [None, *(cut(k, 2) for k in range(1, len(sizes)))])


class LayersPass:
    """That of parts and members, with the layers of a step: see `Pass`."""

    takes_sparse = False

    def __init__(self, network: Network, p: Parameters, columns: Columns) -> None:
        self.network, self.layers = network, Layers(network, columns, p)
        self.lead = p.W[1].shape[:-2] if not network.members else ()
        self.buffers: dict[int, Buffers] = {}

    begin = EagerPass.begin

    @unwarned
    def __call__(self, x: Array, layer: int = -1) -> tuple[Array, Array]:
        """See `Pass`."""
        layers, network, rows = self.layers, self.network, x.shape[-2]
        layer = layer % (layers.K + 1)
        if rows not in self.buffers:
            self.buffers[rows] = Buffers(network, self.lead, rows, x)
        buffers = self.buffers[rows]
        h = layers.through_parts(0, x.mT, buffers) if layers.parts[0] else x.mT
        z = h
        for k in range(1, layer + 1):
            z = layers.linear(k, h, buffers)
            u = layers.through_parts(k, z, buffers) if layers.parts[k] else z
            if k == layer and u is z:
                u = array_namespace(z).asarray(z, copy=True)
            h = layers.alone(k, u, buffers)
        members = network.members if layer < layers.K else 0
        return as_rows(z, members), as_rows(h, members)

    joined = InPlacePass.joined


class Rooms(NamedTuple):
    """Where the numbers of a block go, by layer, each of shape (n_k, rows) or (m, n_k, rows)."""

    z: list[Any]
    note: list[Any]


def find_pass(network: Network, p: Parameters, place: Place) -> Pass:
    """The pass for a network whose parameters live on `place`."""
    if place.backend.runner != "numpy":
        return EagerPass(network, p)
    return (LayersPass if network.parts or network.members else InPlacePass)(network, p, COLUMNS)


@unwarned
def outputs_of_few(network: Network, p: Parameters, x: HostArray) -> HostArray:
    """The outputs yhat of a few rows on NumPy, where calls are what it costs: no block, no buffer, nothing is kept."""
    if network.parts or network.members:
        return said(network, forward(network, p, x).a[-1])  # type: ignore[no-any-return]
    h = x
    for W, b, row in zip(p.W[1:], p.b[1:], network.activations, strict=True):
        z = h @ W
        z += b
        column = OF_FEW.get(row.name) if checks.genuine(row, ACTIVATIONS) else None
        if column is None:
            h = row.function(z)
        else:
            column.without_note(z.T, np.empty_like(z).T)
            h = z
    return h
