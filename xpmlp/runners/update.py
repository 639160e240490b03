"""The update of an in-place step: the optimizer goes over the flat vectors in blocks that stay in the cache.

Adam's update is fused where a block has one learning rate: blocks are cut where factors change.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.optim.optimizers import Rates
from xpmlp.runners.columns import Columns
from xpmlp.runners.step import State, Task

# Moments whose gradient has become 0, as of a bin that is rarely met, decay into denormal numbers and stay there, which
# a processor computes with at up to a hundredth of its speed. So what is smaller than this many times the smallest
# normal number becomes 0, once in FLUSHED steps: far below what can be seen beside epsilon.
SMALL, FLUSHED = 2.0**24, 64
UNSEEN = 1e-7
MOST_STRETCHES = 64  # of one factor each; factors that change more often than that are taken element by element


class Block(NamedTuple):
    """A stretch of the flat vectors that is updated at a time."""

    p: Array
    g: Array
    slots: tuple[Array, ...]
    room: Array
    weights: tuple[Array, Array, Array] | None  # the part of p, room and g that belongs to weights
    factor: float  # on the learning rate, of a fused update
    factors: Array | None  # elementwise, of any other
    decays: Array | None


class Update:
    """Penalty, decay, optimizer and average, block by block."""

    def __init__(self, task: Task, columns: Columns, to_host: Any) -> None:
        self.task, self.columns = task, columns
        self.cuts: list[int] = []
        factors = None if task.factors is None else np.asarray(to_host(task.factors))
        if factors is not None:
            self.cuts = (np.flatnonzero(np.diff(factors)) + 1).tolist()
        self.fused = task.is_adam and len(self.cuts) < MOST_STRETCHES  # whether the slots are Adam's alone
        self.factors: HostArray | None = factors if self.fused else None
        self.blocks: list[Block] = []
        self.state: Any = None
        self.g: Any = None

    def cut(self, state: State, g: Array) -> None:
        """Cut the vectors of a state, and its gradient, into blocks."""
        self.state, self.g = state, g
        n = self.task.network.layout.size
        size = min(self.columns.block, n)
        room = self.columns.xp.empty_like(state.p[..., :size])
        bounds = [0, *(self.cuts if self.fused else []), n]
        self.blocks = [
            self._block(start, min(start + size, stop), state, g, room)
            for first, stop in pairwise(bounds)
            for start in range(first, stop, size)
        ]

    def _block(self, start: int, stop: int, state: State, g: Array, room: Array) -> Block:
        task, part = self.task, slice(start, stop)
        p, g, room = state.p[..., part], g[..., part], room[..., : stop - start]
        n = min(task.network.layout.decaying_stop, stop) - start
        return Block(
            p,
            g,
            tuple(slot[..., part] for slot in state.slots),
            room,
            (p[..., :n], room[..., :n], g[..., :n]) if n > 0 else None,
            1.0 if self.factors is None else float(self.factors[start]),
            None if task.factors is None else task.factors[part],
            None if task.decays is None else task.decays[part],
        )

    def flush(self) -> None:
        """Have moments be 0 that are almost that; once in FLUSHED updates is enough."""
        if not self.fused:
            return
        least = SMALL * float(self.columns.xp.finfo(self.state.p.dtype).smallest_normal)
        if least**0.5 <= UNSEEN * self.task.optimizer.parameters["epsilon"]:
            for slot in self.state.slots[:2]:
                self.columns.xp.multiply(slot, abs(slot) >= least, out=slot)

    def __call__(self, rates: Rates, l2: Any) -> Any:
        """Add l2 W to the gradient, if it is not there already, and update; sum(W^2), as W was, comes back."""
        task, optimizer, columns = self.task, self.task.optimizer, self.columns
        squares: Any = 0.0
        for p, g, slots, room, weights, factor, factors, decays in self.blocks:
            if weights is not None:
                W, beside, dW = weights
                if task.l2 > 0.0:
                    squares = squares + _sum_of_squares(W)
                    if task.clip_norm is None:
                        columns.add_multiple(W, per_network(l2), beside, dW)
                if self.fused and decays is not None:
                    W *= 1.0 - rates[0] * (factor * optimizer.weight_decay)  # the step does not depend on W
            if self.fused:
                own = rates if factor == 1.0 else (rates[0], rates[1] * factor, *rates[2:])
                columns.adam(p, g, slots[:2], own[:3], room, **optimizer.parameters)
                if len(rates) > 3:
                    columns.follow(slots[2], p, rates[3], room)
            else:
                made = optimizer.apply(p, g, slots, rates, factors, decays)
                for old, new in zip((p, *slots), (made[0], *made[1]), strict=True):
                    if new is not old:  # a row may make new arrays instead of writing into those it was given
                        old[...] = new
        return squares


def per_network(value: Any) -> Any:
    """A number for each network, to be multiplied by the rows of their vectors."""
    return value[:, None] if getattr(value, "ndim", 0) else value


def _sum_of_squares(p: Array) -> Array:
    return p @ p if p.ndim == 1 else (p * p).sum(-1)
