"""The form of what a library does in place: a table of columns, by name of the rows of network's tables.

Arrays of a step lie transposed, (units, batch): see runners/inplace.py. Of k members they are (units, k, batch), so
that the rows of all members are columns of one product; of m networks (m, units, batch).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from xpmlp._typing import Array
from xpmlp.backends import array_namespace


class Activation(NamedTuple):
    """An activation in place: `forward` turns z into a, with a note for `backward`, which turns da into dz.

    All are of one shape; `room` is free to be written into.
    """

    forward: Callable[[Array, Array, Array], object]  # (z, note, room)
    backward: Callable[[Array, Array, Array], object]  # (da, a, note)
    slopes: bool = False  # whether the note is f'(z), and `backward` multiplies by it, without a look at a
    alone: Callable[[Array, Array], object] | None = None  # (z, room): a without a note, where that is another matter

    def without_note(self, z: Array, room: Array) -> None:
        """Turn z into a, for who does not go back."""
        if self.alone is None:
            self.forward(z, room, room)
        else:
            self.alone(z, room)


class PartColumn(NamedTuple):
    """A part in place: `forward` returns u, in a `room` of the part's, and a note for `backward`, which returns dx.

    `own` are its arrays, and `d` those that their derivatives are to be written into. `du` is donated, x is not.
    """

    forward: Callable[..., tuple[Array, Any]]  # (columns, part, own, x, room)
    backward: Callable[..., Array]  # (columns, part, own, d, note, du, room)
    vectors: bool = True  # whether its arrays are vectors over the units, and handed over as columns; else it is first


class Columns(NamedTuple):
    """What one library does in place: by name of the rows of the tables, and the three products of a layer."""

    xp: Any  # the library: its functions take `out`
    take: Callable[[Array, Array, int, Array | None], Array]  # (values, rows, axis, out): rows, in `out` if it is there
    linear: Callable[[Array, Array, Array, Array], object]  # (W.T, h, b, z): z = W.T @ h + b
    matmul: Callable[[Array, Array, Array], object]  # (A, B, out): out = A @ B
    row_sums: Callable[[Array, Array, Array], object]  # (dz, ones, db)
    activations: dict[str, Activation]
    # Of a loss and its canonical link, (z, y, note): the loss of each sample; the scores become dL/dz of each sample.
    losses: dict[str, Callable[[Array, Array, Array], Array]]
    add_multiple: Callable[[Array, Any, Array, Array], object]  # (p, c, room, g): g += c * p
    adam: Callable[..., object]  # (p, g, slots, rates, room, **parameters)
    follow: Callable[[Array, Array, Any, Array], object]  # (average, p, share, room): average += share (p - average)
    parts: dict[str, PartColumn]
    mask: Callable[..., object]  # (elements, key, rate, out, ints): network.dropout.mask, of its `elements` and `key`
    block: int  # elements that the optimizer takes at a time
    cached: int  # elements of a layer that an activation takes at a time
    # (z, slope, elements, key, rate): both times the mask, where that is one pass
    masked: Callable[..., object] | None = None
    code: Callable[..., object] | None = None  # (z, *constants, E): the code of piecewise, where that is one pass


class Room:
    """Arrays that are made once, for a batch of one size, and written over in every step."""

    def __init__(self, like: Array, batch: int, members: int) -> None:
        self.xp, self.where = array_namespace(like), {"dtype": like.dtype, "device": like.device}
        self.batch, self.members = batch, members
        self.ones = self.xp.ones(batch, **self.where)
        self.arrays: dict[Any, Array] = {}

    def __call__(self, name: Any, shape: tuple[int, ...]) -> Array:
        """The array of this name, of that shape."""
        known = self.arrays.get(name)
        if known is None or known.shape != shape:
            known = self.arrays[name] = self.xp.empty(shape, **self.where)
        return known

    def ints(self, name: Any, shape: tuple[int, ...]) -> Array:
        """The same, of int32."""
        if name not in self.arrays or self.arrays[name].shape != shape:
            self.arrays[name] = self.xp.empty(shape, **self.where | {"dtype": self.xp.int32})
        return self.arrays[name]

    @property
    def units(self) -> int:
        """The axis of the units."""
        return -3 if self.members else -2


def as_columns(value: Array, members: int) -> Array:
    """A view of (batch, n), (m, batch, n) or of members (k, batch, n), or a vector of parameters, as columns."""
    if value.ndim == 1:
        return value[:, None]
    if members and value.ndim == 3:
        return array_namespace(value).permute_dims(value, (2, 0, 1))
    return value.mT


def as_rows(value: Array, members: int) -> Array:
    """The reverse of `as_columns`."""
    if members and value.ndim == 3:
        return array_namespace(value).permute_dims(value, (1, 2, 0))
    return value.mT


def flat(value: Array) -> Array:
    """A view of (units, k, batch) with the columns of all members in one axis."""
    return value.reshape(value.shape[0], math.prod(value.shape[1:]))
