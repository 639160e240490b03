"""The layers of a network, forward and back, on arrays that lie transposed: what a step and a prediction share.

Shapes as in runners/columns.py: z, a and dz of layer k are (n_k, batch), of m networks (m, n_k, batch), of members
(n_k, k, batch), but for the last layer, in which each member has weights of its own: (k, n_K, batch). Parts and
activations without a column, and a user's own, run as they are on views.
"""

import math
from typing import Any, NamedTuple

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import array_namespace
from xpmlp.network import Drop, Network, Parameters, dropout, pullback
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.parts import PARTS, Own, Part
from xpmlp.runners.columns import Activation, Columns, PartColumn, Room, as_columns, as_rows, flat


class PlacedPart(NamedTuple):
    """A part in its layer: its column where it has one, and its arrays, as they are or as columns."""

    part: Part
    column: PartColumn | None
    own: dict[str, Array]
    d: dict[str, Array]


class Piece(NamedTuple):
    """Some of the first axis of what an activation works on, so that its passes find it in the cache."""

    which: slice
    u: Array
    note: Array
    room: Array
    elements: Array | None  # of dropout: see `dropout.elements`
    ints: tuple[Array, Array] | tuple[()]


class Buffers:
    """The arrays of a pass over a batch of one size, by layer."""

    def __init__(self, network: Network, lead: tuple[int, ...], batch: int, like: Array) -> None:
        sizes, k = network.layout.sizes, network.members
        K = len(sizes) - 1
        self.network, self.room = network, Room(like, batch, k)
        self.parts: dict[tuple[int, int], Room] = {}
        hidden = [(sizes[i], k, batch) if k else (*lead, sizes[i], batch) for i in range(1, K)]
        shapes = [None, *hidden, (k, sizes[K], batch) if k else (*lead, sizes[K], batch)]
        self.z: list[Any] = [shape and self.room(("z", i), shape) for i, shape in enumerate(shapes)]  # a, by a column
        self.note: list[Any] = [shape and self.room(("note", i), shape) for i, shape in enumerate(shapes)]
        self.ones = self.room.ones
        self.u: list[Any] = [None] * (K + 1)  # what f_k takes; a where there is a column
        self.da: list[Any] = [None] * (K + 1)  # becomes dz
        self.masks: list[Any] = [None] * (K + 1)  # of dropout, where they are not in the notes of activations
        self.notes: list[list[Any]] = [[] for _ in sizes]  # of parts
        self.firsts: dict[int, int] = {}  # the first sample that the elements of masks are of, by layer
        self.pieces: dict[int, tuple[Array, list[Piece]]] = {}  # with what they are pieces of

    def cut(self, k: int, u: Array, size: int) -> list[Piece]:
        """Pieces of u[k], of at most `size` elements each where a row is no more."""
        known = self.pieces.get(k)
        if known is None or known[0] is not u:
            rows, n = max(size // max(math.prod(u.shape[1:]), 1), 1), u.shape[0]
            cuts = [slice(start, min(start + rows, n)) for start in range(0, n, rows)]
            known = self.pieces[k] = u, [self._piece(k, u, which) for which in cuts]
        return known[1]

    def _piece(self, k: int, u: Array, which: slice) -> Piece:
        part, room, dropout = u[which], self.room, self.network.dropout
        beside = room("beside", (which.stop - which.start, *u.shape[1:]))
        if k > len(dropout) or dropout[k - 1] == 0.0:
            return Piece(which, part, self.note[k][which], beside, None, ())
        elements = self._elements(k)
        of_networks = u.ndim == 3 and not room.members
        ints = room.ints("hash", beside.shape), room.ints("shifted", beside.shape)
        if beside.dtype.itemsize == 4:  # the mask is made where it goes
            ints = beside.view(room.xp.int32), ints[1]
        return Piece(which, part, self.note[k][which], beside, elements if of_networks else elements[which], ints)

    def _elements(self, k: int) -> Array:
        n, room = self.network.layout.sizes[k], self.room
        return room.ints(("elements", k), (n, room.members, room.batch) if room.members else (n, room.batch))

    def key(self, k: int, drop: Drop) -> Array:
        """What the elements of the masks of layer k are hashed with; see that they are there."""
        made, room = dropout.key(drop.seed, drop.step, k, self.room.members), self.room
        if self.firsts.get(k) != drop.first:
            self.firsts[k] = drop.first
            found = dropout.elements(room.batch, self.network.layout.sizes[k], drop.seed, drop.first).mT
            self._elements(k)[...] = found[:, None, :] if room.members else found
        if not room.members:
            return made
        key = room.ints(("key", k), (room.members, room.batch))  # laid out, so that to add it is one loop
        key[...] = made[..., 0]
        return key

    def of_part(self, k: int, i: int) -> Room:
        """The room of part i of layer k."""
        if (k, i) not in self.parts:
            room = self.room
            self.parts[k, i] = Room(room.ones, room.batch, room.members)
        return self.parts[k, i]


class Layers:
    """A network's layers, with the parameters `p` and, for going back, the arrays `d` that derivatives go to."""

    def __init__(self, network: Network, columns: Columns, p: Parameters, d: Parameters | None = None) -> None:
        self.network, self.columns, self.members = network, columns, network.members
        self.K = K = network.layout.n_layers
        self.activations = [None, *(self._known(k, row) for k, row in enumerate(network.activations, 1))]
        self.W, self.WT = p.W, [None] + [W.mT for W in p.W[1:]]
        self.b: list[Any] = [None] + [self._vector(b, k) for k, b in enumerate(p.b[1:], 1)]
        slopes = p if d is None else d
        # What products, and sums over the batch, can be written into.
        self.dW: list[Any] = slopes.W
        self.db: list[Any] = [None] + [self._vector(b, k)[..., 0] for k, b in enumerate(slopes.b[1:], 1)]
        parts = [*network.parts, *[()] * (K + 1 - len(network.parts))]
        self.parts = [
            [self._placed(k, i, row, p.own[k], slopes.own[k]) for i, row in enumerate(rows)]
            for k, rows in enumerate(parts)
        ]

    def _known(self, k: int, row: Any) -> Activation | None:
        if k < self.K and row.outputs == "distribution":  # it goes along the units, of which pieces are taken
            return None
        return self.columns.activations.get(row.name) if checks.genuine(row, ACTIVATIONS) else None

    def _vector(self, b: Array, k: int) -> Array:
        return as_columns(b, self.members if k < self.K else 0)

    def _placed(self, k: int, i: int, row: Part, p: Own, d: Own) -> PlacedPart:
        own, slopes, known = row.own(p), row.own(d), PARTS.get(row.name)
        column = self.columns.parts.get(row.name)
        if column is None or known is None or not checks.genuine(row, PARTS):
            return PlacedPart(row, None, own, slopes)
        if not (known.hidden if k else known.before) or (i > 0 and not column.vectors):  # where it stands by the table
            return PlacedPart(row, None, own, slopes)
        if column.vectors:
            own, slopes = ({name: as_columns(it, self.members) for name, it in each.items()} for each in (own, slopes))
        return PlacedPart(row, column, own, slopes)

    # --- Forward ---

    def through_parts(self, k: int, value: Array, buffers: Buffers) -> Array:
        """What the parts of layer k make of x or z[k]."""
        notes = buffers.notes[k]
        notes.clear()
        if k == 0:  # rows, of which parts go along the batch
            x, value = value, buffers.room("x", tuple(value.shape))
            value[...] = x
        for i, (part, column, own, _) in enumerate(self.parts[k]):
            room = buffers.of_part(k, i)
            if column is None:
                made, note = part.forward(part, own, as_rows(value, self.members))
                made = as_columns(made, self.members)
                value = room("made", tuple(made.shape))  # the note may hold what a part made, and f_k writes into it
                value[...] = made
            else:
                value, note = column.forward(self.columns, part, own, value, room)
            notes.append(note)
        return value

    def linear(self, k: int, h: Array, buffers: Buffers) -> Array:
        """z[k] = W[k].T h[k-1] + b[k]."""
        z, W = buffers.z[k], self.WT[k]
        if not self.members:
            self.columns.linear(W, h, self.b[k], z)
        elif k == self.K:
            self.columns.linear(W, self._by_member(h), self.b[k], z)
        elif h.ndim == 2:  # all members are given the same
            same = buffers.room("same", (z.shape[0], z.shape[2]))
            self.columns.matmul(W, h, same)
            z[...] = same[:, None, :]
            z += self.b[k]
        else:
            self.columns.matmul(W, flat(h), flat(z))
            z += self.b[k]
        return z

    def activated(self, k: int, u: Array, buffers: Buffers, drop: Drop | None = None) -> tuple[Array, Array]:
        """a[k] = f_k(u[k]), in place of u[k] where there is a column, and h[k], what dropout leaves of it."""
        column = self.activations[k]
        buffers.u[k], buffers.masks[k] = u, None
        if column is None:
            a = as_columns(self.network.activations[k - 1].function(as_rows(u, self.members)), self.members)
            return a, a if drop is None else self._dropped(k, a, drop, buffers)
        known = buffers.pieces.get(k)
        pieces = known[1] if known is not None and known[0] is u else buffers.cut(k, u, self.columns.cached)
        if drop is None or not column.slopes:
            for _, z, note, room, _, _ in pieces:
                column.forward(z, note, room)
            return u, u if drop is None else self._dropped(k, u, drop, buffers)
        key, rate, multiply = buffers.key(k, drop), self.network.dropout[k - 1], self.columns.xp.multiply
        for which, z, note, room, elements, ints in pieces:
            column.forward(z, note, room)
            if self.columns.masked is not None:
                self.columns.masked(z, note, elements, self._key_of(key, which), rate)
                continue
            self.columns.mask(elements, self._key_of(key, which), rate, room, ints)
            multiply(z, room, out=z)  # h[k]
            multiply(note, room, out=note)  # its derivative with respect to u[k]
        return u, u

    def alone(self, k: int, u: Array, buffers: Buffers) -> Array:
        """a[k] = f_k(u[k]), in place of u[k] where there is a column, for who does not go back."""
        column, members = self.activations[k], self.members if k < self.K else 0
        if column is None:
            return as_columns(self.network.activations[k - 1].function(as_rows(u, members)), members)
        size = self.columns.cached if k < self.K else math.prod(u.shape)  # the last may go along its units
        for _, z, _, room, _, _ in buffers.cut(k, u, size):
            column.without_note(z, room)
        return u

    def _key_of(self, key: Array, which: slice) -> Array:
        return key[which] if key.ndim == 3 else key

    def _dropped(self, k: int, a: Array, drop: Drop, buffers: Buffers) -> Array:
        """h[k] where a[k] is still needed, or the activation has no slopes that a mask could go into."""
        key, rate = buffers.key(k, drop), self.network.dropout[k - 1]
        mask = buffers.masks[k] = buffers.room(("mask", k), a.shape)
        h = buffers.room(("h", k), a.shape)
        if self.columns.masked is not None:
            h[...], mask[...] = a, 1.0
        for which, _, _, room, elements, ints in buffers.cut(k, a, self.columns.cached):
            if self.columns.masked is not None:
                self.columns.masked(h[which], mask[which], elements, self._key_of(key, which), rate)
                continue
            self.columns.mask(elements, self._key_of(key, which), rate, room, ints)
            mask[which] = room
        if self.columns.masked is None:
            self.columns.xp.multiply(a, mask, out=h)
        return h

    # --- Backward ---

    def pulled_back(self, k: int, da: Array, a: Array, buffers: Buffers) -> Array:
        """dz[k] from the derivative of what dropout left, in its place where there is a column."""
        column = self.activations[k]
        if buffers.masks[k] is not None:
            da *= buffers.masks[k]
        if column is None:
            rows = (as_rows(it, self.members) for it in (da, buffers.u[k], a))
            da = as_columns(pullback(self.network.activations[k - 1], *rows), self.members)
        else:
            column.backward(da, a, buffers.note[k])
        return self.back_through_parts(k, da, buffers) if self.parts[k] else da

    def back_through_parts(self, k: int, du: Array, buffers: Buffers) -> Array:
        """dz[k] from du[k], and the derivatives of the parts' arrays."""
        rows = list(enumerate(zip(self.parts[k], buffers.notes[k], strict=True)))
        for i, ((part, column, own, d), note) in reversed(rows):
            if column is not None:
                du = column.backward(self.columns, part, own, d, note, du, buffers.of_part(k, i))
                continue
            du, found = part.backward(part, own, note, as_rows(du, self.members), k > 0 or i > 0)
            for name, slope in found.items():
                d[name][...] = slope
            du = du if du is None else as_columns(du, self.members)
        return du

    def slopes(self, k: int, h: Array, dz: Array, buffers: Buffers) -> Array:
        """Write dW[k] and db[k]; dz[k] comes back, summed over members where all were given the same h[k-1]."""
        self.columns.row_sums(dz, buffers.ones, self.db[k])  # db[k] = sum over rows of dz[k]
        if self.members and k == self.K:
            h = self._by_member(h)
        elif self.members:
            h, dz = (h, dz.sum(1)) if h.ndim == 2 else (flat(h), flat(dz))
        self.columns.matmul(h, dz.mT, self.dW[k])  # dW[k] = a[k-1].T @ dz[k]
        return dz

    def back(self, k: int, h: Array, dz: Array, buffers: Buffers) -> Array:
        """da[k-1] = dz[k] @ W[k].T, of the shape of h[k-1]."""
        da = buffers.da[k - 1]
        if da is None or da.shape != h.shape:
            da = buffers.da[k - 1] = buffers.room(("da", k - 1), tuple(h.shape))
        if k == self.K and dz.shape[-2] == 1 and dz.ndim == h.ndim:  # a product of one term: a quarter of the time
            W = self.W[k]
            if self.members:
                W, dz = (array_namespace(dz).permute_dims(it, (1, 0, 2)) for it in (W, dz))
            self.columns.xp.multiply(W, dz, out=da)
        elif not self.members:
            self.columns.matmul(self.W[k], dz, da)
        elif k < self.K:
            self.columns.matmul(self.W[k], dz, da if h.ndim == 2 else flat(da))
        elif h.ndim == 3:
            self.columns.matmul(self.W[k], dz, self._by_member(da))
        else:
            each = buffers.room("each", (self.members, *h.shape))
            self.columns.matmul(self.W[k], dz, each)
            da[...] = each.sum(0)
        return da

    def _by_member(self, h: Array) -> Array:
        return h if h.ndim == 2 else array_namespace(h).permute_dims(h, (1, 0, 2))
