"""From the gradients of a batch's parts to the gradient of the batch: one sum of P + 3 numbers a step.

What is summed is [g * weight | loss * weight | weight | stop]. The last cell says how many processes want to stop after
this step; FAILED in it says that one of them cannot go on, and hands in nothing but that.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.distributed.groups import Group, LostPeerError, failures
from xpmlp.runners.step import Part

FAILED = 2.0**20


class Sum:
    """The sum as the engine likes it: see `step.Reduction`.

    Parameters
    ----------
    group : Group
    shape : tuple of int
        That of the parameters, (P,) or (m, P).
    parts : function
        The parts of the present batch that this process has, lane by lane; without it the batch is one part.
    """

    def __init__(
        self,
        group: Group,
        place: Place,
        shape: tuple[int, ...],
        dtype: str,
        parts: Callable[[], Sequence[Part]] | None = None,
    ) -> None:
        self.group, self.place, self.lanes = group, place, parts
        self.buffer = np.zeros((*shape[:-1], shape[-1] + 3), dtype)
        self.wish: Callable[[], bool] = lambda: False  # whether this process wants to stop
        self.stopped = False  # whether one of them does, all told
        self.empty = True  # whether this process has added nothing
        self.steps = 0
        self.waited = 0.0  # seconds in sums, and for those who were not there yet

    def parts(self, n: int) -> Sequence[Part]:
        """See `step.Reduction`."""
        first = self.lanes()[0].first if self.lanes is not None and n else 0
        return [Part(slice(0, n), first)] if n else []

    def add(self, part: Part, g: Array, loss: Array, weight: Any) -> None:  # noqa: ARG002  # there is one
        """See `step.Reduction`."""
        self._write(self.buffer, g, loss, weight)
        self.empty = False

    def total(self, out: Array) -> tuple[Array, Any, Any]:
        """See `step.Reduction`."""
        self.steps += 1
        summed = self._exchange(1.0 if self.wish() else 0.0)
        weight = summed[..., -2:-1]
        if weight.ndim == 1:
            share: Any = 1.0 / weight[0] if weight[0] > 0.0 else weight[0]
            loss = summed[-3] * share
        else:
            share = np.divide(1.0, weight, out=np.zeros_like(weight), where=weight > 0.0)
            loss = summed[..., -3] * share[..., 0]
        g = summed[..., :-3]
        if isinstance(out, np.ndarray):
            g = np.multiply(g, share, out=out)
        else:
            g *= share
            g = self.place.asarray(np.array(g, copy=True))
        known: Any = float(weight[0]) if weight.ndim == 1 else self.place.asarray(np.array(weight[..., 0], copy=True))
        loss = self.place.asarray(np.asarray(loss))
        self._clear()
        return g, loss, known

    def agree(self, value: Any) -> list[Any]:
        """What each process says between two steps, in their order."""
        self._clear()
        self._exchange(1.0 if self.wish() else 0.0)
        self._clear()
        return self.group.share(value)

    def fail(self, error: BaseException) -> None:
        """Tell the others, who wait in a sum, that this process cannot go on."""
        self._clear()
        try:
            self._exchange(FAILED, text=f"{type(error).__name__}: {error}")
        except LostPeerError:  # others have failed too, or are gone: what matters here is this process's own error
            return

    def _exchange(self, stop: float, text: str | None = None) -> HostArray:
        self._set_stop(stop)
        began = time.perf_counter()
        summed = self._summed()
        self.waited += time.perf_counter() - began
        stops = float(summed.reshape(-1)[-1])
        if stops >= FAILED:
            raise LostPeerError(failures(self.group.share(text)), rank=self.group.rank)
        self.stopped = stops > 0.0
        return summed

    def _write(self, buffer: HostArray, g: Array, loss: Array, weight: Any) -> None:
        host = self.place.backend.to_numpy
        w: Any = weight if isinstance(weight, float) else np.asarray(host(weight))
        each = w[..., None] if np.ndim(w) else w
        np.multiply(np.asarray(host(g)), each, out=buffer[..., :-3], casting="same_kind")
        buffer[..., -3], buffer[..., -2] = np.asarray(host(loss)) * w, w

    def _set_stop(self, stop: float) -> None:
        if self.empty:
            self.buffer[...] = 0.0
        self.buffer[..., -1] = stop

    def _clear(self) -> None:
        self.empty = True

    def _summed(self) -> HostArray:
        self.group.sum(self.buffer)
        return self.buffer


class OrderedSum(Sum):
    """The sum over the lanes in one binary tree: the same bits for any number of processes.

    Leaf v of the tree is lane v. A process has a block of lanes; it adds up the subtrees that lie within the block,
    these are gathered, and every process adds up the rest.

    Parameters
    ----------
    blocks : sequence of pairs of int
        The first lane of each process, and the one after its last.
    """

    def __init__(
        self,
        group: Group,
        place: Place,
        shape: tuple[int, ...],
        dtype: str,
        parts: Callable[[], Sequence[Part]],
        blocks: Sequence[tuple[int, int]],
    ) -> None:
        self.blocks, self.levels = blocks, max(blocks[-1][1] - 1, 0).bit_length()
        self.nodes = [list(self._subtrees(*block)) for block in blocks]
        most = max(1, *(len(nodes) for nodes in self.nodes))
        super().__init__(group, place, shape, dtype, parts)
        self.room = np.zeros((most, *self.buffer.shape), dtype)
        self.leaves: dict[int, HostArray] = {}

    def parts(self, n: int) -> Sequence[Part]:
        """See `step.Reduction`."""
        assert self.lanes is not None
        return [part for part in self.lanes() if part.rows.stop > part.rows.start] if n else []

    def add(self, part: Part, g: Array, loss: Array, weight: Any) -> None:
        """See `step.Reduction`."""
        leaf = self.leaves[part.lane] = np.zeros_like(self.buffer)
        self._write(leaf, g, loss, weight)

    def _subtrees(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        # The largest aligned subtrees of the lanes from start to stop: (level, index at that level).
        while start < stop:
            level = min((start & -start).bit_length() - 1 if start else self.levels, (stop - start).bit_length() - 1)
            yield level, start >> level
            start += 1 << level

    def _set_stop(self, stop: float) -> None:
        self.room[...] = 0.0
        leaves = {(0, lane): leaf for lane, leaf in self.leaves.items()}
        for i, node in enumerate(self.nodes[self.group.rank]):
            found = _sum_of(node, leaves)
            if found is not None:
                self.room[i] = found
        self.room[..., -1] = 0.0
        self.room[0, ..., -1] = stop

    def _clear(self) -> None:
        self.leaves.clear()

    def _summed(self) -> HostArray:
        gathered = self.group.gather(self.room)
        known: dict[tuple[int, int], HostArray] = {}
        for nodes, room in zip(self.nodes, gathered, strict=True):
            known |= dict(zip(nodes, room, strict=False))
        found = _sum_of((self.levels, 0), known)
        found = np.zeros_like(self.buffer) if found is None else found
        # The cell of a process without lanes, too, is read; and of small numbers any order gives the same bits.
        found[..., -1] = gathered[:, 0, ..., -1].sum(axis=0)
        return found


def _sum_of(node: tuple[int, int], known: dict[tuple[int, int], HostArray]) -> HostArray | None:
    """The sum of a subtree, from those that are known; these are written into."""
    level, i = node
    if node in known or level == 0:
        return known.get(node)
    left, right = _sum_of((level - 1, 2 * i), known), _sum_of((level - 1, 2 * i + 1), known)
    if left is None or right is None:
        return right if left is None else left
    left += right
    return left
