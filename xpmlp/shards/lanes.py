"""From shards to batches: lanes, the order of reading, one reader thread.

Batches follow from the seed, the epoch and the row counts alone, so that one process, eight, and a run that goes on on
other machines see the same ones. Of the first t rows of an epoch, lane v has given floor(R[v+1] t / n) - floor(R[v] t /
n), where R[v] counts the rows of the lanes before it: every batch is full but the last, and all lanes end with it.
"""

import bisect
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import is_array_api_obj

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.backends.transfer import to_numpy
from xpmlp.runners import Data
from xpmlp.runners.reduction import Sum
from xpmlp.runners.step import Part
from xpmlp.shards.sources import Shards, nth_part

HELD, SHARDS, ROWS, CUT = range(4)  # what is drawn
Encode = Callable[[Any, Any, int], tuple[HostArray, HostArray | None]]  # y and w of so many rows, for the network


class Piece(NamedTuple):
    """Rows of a shard that a lane gives one after another."""

    step: int  # in which the first is needed
    lane: int
    shard: int
    start: int
    stop: int


class HeldOut(NamedTuple):
    """A part of every shard that is not trained on."""

    fraction: float
    chosen: bool  # whether these are its batches, or the others'

    def count(self, n: int) -> int:
        """Rows held out of n."""
        return min(round(self.fraction * n), max(n - 1, 0))

    def kept(self, n: int) -> int:
        """Rows of n that are in these batches."""
        return self.count(n) if self.chosen else n - self.count(n)


def draw(seed: int, *which: int) -> np.random.Generator:
    """The generator of one purpose: the same wherever it is asked for."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=which)))


def dealt(rows: list[int], lanes: int, batch_size: int) -> list[range]:
    """The shards of each lane; of so many lanes at most that each has a row in every batch."""
    n, count = sum(rows), min(lanes, len(rows))
    while True:
        of = [nth_part(len(rows), v, count) for v in range(count)]
        sizes = [sum(rows[i] for i in lane) for lane in of]
        if count == 1 or all(size == 0 or size * batch_size >= n for size in sizes):
            return of
        count = count // 2


class LaneData(Data):
    """The batches of shards: see `runners.Data`.

    Parameters
    ----------
    encode : function
        From y and w of a shard to targets of shape (rows, n_outputs) and weights.
    dtype : str
        Of the arithmetic.
    width, n_outputs : int
        Columns of X and of the targets.
    rank, size : int
        This process, and the number of them: it gives the rows of its lanes.
    held : HeldOut or None
    shuffle : bool
        Otherwise shards and rows keep the order they have.
    like : LaneData or None
        Data of the same shards, whose lanes these have too: then a process reads the same ones.
    """

    whole = False

    def __init__(
        self,
        place: Place,
        shards: Shards,
        encode: Encode,
        dtype: str,
        batch_size: int,
        *,
        width: int,
        n_outputs: int = 1,
        seed: int = 0,
        rank: int = 0,
        size: int = 1,
        weighted: bool = False,
        held: HeldOut | None = None,
        shuffle: bool = True,
        like: "LaneData | None" = None,
    ) -> None:
        self.place, self.shards, self.encode, self.dtype, self.width = place, shards, encode, dtype, width
        self.seed, self.held, self.shuffle, self.n_outputs = seed, held, shuffle, n_outputs
        self.kept = [n if held is None else held.kept(n) for n in shards.rows]
        self.n = self.n_there = sum(self.kept)
        if held is not None and self.n == 0:
            raise ValueError(
                f"validation_fraction={held.fraction:g} holds out no row of any shard: the largest has "
                f"{max(shards.rows)} rows. Make shards larger, hold out more, or pass a validation set."
            )
        self.batch_size = min(batch_size, self.n)
        self.lanes: list[range] = dealt(self.kept, shards.lanes, self.batch_size) if like is None else like.lanes
        blocks = [nth_part(len(self.lanes), r, size) for r in range(size)]
        self.lane_blocks = [(block.start, block.stop) for block in blocks]
        self.mine = blocks[rank]
        ends = np.cumsum([0] + [sum(self.kept[i] for i in lane) for lane in self.lanes])
        self.before: list[int] = [int(end) for end in ends]
        self.w = np.zeros(0, dtype) if weighted else None  # whether there are weights
        self.x = self.y = None
        self.parts: list[Part] = []  # of the present batch
        self.waited = 0.0  # seconds for the reader

    def given(self, lane: int, step: int) -> int:
        """Rows that a lane has given before a batch."""
        t = min(step * self.batch_size, self.n)
        return self.before[lane + 1] * t // self.n - self.before[lane] * t // self.n

    def _given_after(self, lane: int, step: int) -> int:
        return self.given(lane, step + 1)

    def plan(self, epoch: int | None) -> list[Piece]:
        """What this process reads in an epoch, in the order of need."""
        found = []
        for lane in self.mine:
            at = 0
            for shard, start, stop in self._pieces(lane, epoch):
                step = bisect.bisect_right(range(self.n_batches), at, key=partial(self._given_after, lane))
                found.append(Piece(step, lane, shard, start, stop))
                at += stop - start
        return sorted(found, key=lambda piece: piece.step)  # those of one step lane by lane: sorting is stable

    def _pieces(self, lane: int, epoch: int | None) -> list[tuple[int, int, int]]:
        runs: dict[int, list[int]] = {}
        for i in self.lanes[lane]:
            if self.kept[i]:
                runs.setdefault(self.shards.runs[i], []).append(i)
        ordered = list(runs.values())
        if epoch is None or not self.shuffle:
            return [(i, 0, self.kept[i]) for run in ordered for i in run]
        ordered = [ordered[k] for k in draw(self.seed, SHARDS, epoch, lane).permutation(len(ordered))]
        order = [i for run in ordered for i in run]
        pieces = [(i, 0, self.kept[i]) for i in order]
        if len(ordered) > 1 and len(ordered[0]) == 1:
            # A part of the first shard comes last: lanes of equal shards would else all need the next ones at once.
            first, cut = order[0], self.kept[order[0]] * (lane + 1) // (len(self.lanes) + 1)
            pieces = [(first, cut, self.kept[first]), *pieces[1:], (first, 0, cut)]
        return [piece for piece in pieces if piece[1] < piece[2]]

    def batches(
        self,
        order: HostArray | int | None,
        take: Callable[[Array, Array, int], Array] | None = None,  # noqa: ARG002  # rows are taken on the host
        *,
        sparse: bool = False,  # noqa: ARG002  # they come dense
    ) -> Iterator[tuple[Array, Array, Array | None]]:
        """The batches of an epoch, by its number; None is the order that the data have."""
        epoch = None if order is None else int(order)
        plan = self.plan(epoch)
        source = ahead(self._load(piece, epoch) for piece in plan)
        holds: dict[int, list[list[Any]]] = {lane: [] for lane in self.mine}  # of each lane: x, y, w, rows, place
        due = 0
        try:
            for step in range(self.n_batches):
                while due < len(plan) and plan[due].step <= step:
                    began = time.perf_counter()
                    holds[plan[due].lane].append([*next(source), 0])
                    self.waited += time.perf_counter() - began
                    due += 1
                yield self._batch(step, holds)
        finally:
            source.close()

    def summed(self, sums_of: Callable[[Array, Array, Array | None], HostArray], together: Sum | None) -> HostArray:
        """The sum over all rows, and processes, of what is said of some: of x, y and w.

        Lane by lane, and of the lanes in their order: any number of processes finds the same bits.
        """
        lanes: dict[int, HostArray] = {}
        for x, y, w in self.batches(None):
            for part in self.parts:
                rows = part.rows
                if rows.stop > rows.start:
                    sums = sums_of(x[rows, ...], y[rows, ...], None if w is None else w[rows])
                    lanes[part.lane] = lanes[part.lane] + sums if part.lane in lanes else sums
        for others in [] if together is None else together.agree(lanes):
            lanes |= others
        total: HostArray = np.sum([lanes[lane] for lane in sorted(lanes)], axis=0)
        return total

    def _batch(self, step: int, holds: dict[int, list[list[Any]]]) -> tuple[Array, Array, Array | None]:
        counts = {lane: self.given(lane, step + 1) - self.given(lane, step) for lane in self.mine}
        first, at, self.parts = self._first(step), 0, []
        for lane, n in counts.items():
            self.parts.append(Part(slice(at, at + n), first + at, lane))
            at += n
        x = np.empty((at, self.width), self.dtype)
        found_y, found_w = [], []
        at = 0
        for lane, wanted in counts.items():
            end = at + wanted
            while at < end:
                hold = holds[lane][0]
                own_x, own_y, own_w, rows, begin = hold
                some = rows[begin : begin + end - at]
                np.take(own_x, some, axis=0, out=x[at : at + len(some)], mode="clip")
                found_y.append(own_y[some])
                if own_w is not None:
                    found_w.append(own_w[some])
                at, hold[4] = at + len(some), begin + len(some)
                if hold[4] == len(rows):
                    holds[lane].pop(0)
        place, dtype = self.place, self.dtype
        y = np.concatenate(found_y) if found_y else np.empty((0, self.n_outputs), dtype)
        w = None if self.w is None else place.asarray(np.concatenate(found_w or [self.w]), dtype)
        return place.asarray(x, dtype), place.asarray(y, dtype), w

    def _first(self, step: int) -> int:
        if not self.mine:
            return 0
        end, start = (min((step + i) * self.batch_size, self.n) for i in (1, 0))
        rows = self.before[self.mine.start]
        return rows * end // self.n - rows * start // self.n

    def _load(self, piece: Piece, epoch: int | None) -> tuple[HostArray, HostArray, HostArray | None, HostArray]:
        i, n = piece.shard, self.shards.rows[piece.shard]
        x, y, w = self.samples(i)
        rows = np.arange(n)
        if self.held is not None:
            drawn = draw(self.seed, HELD, i).permutation(n)
            count = self.held.count(n)
            rows = np.sort(drawn[:count] if self.held.chosen else drawn[count:])
        if epoch is not None and self.shuffle:
            rows = rows[draw(self.seed, ROWS, epoch, i).permutation(len(rows))]
        return x, y, w, rows[piece.start : piece.stop]

    def samples(self, i: int) -> tuple[HostArray, HostArray, HostArray | None]:
        """A shard, read, checked and written for the network.

        Raises
        ------
        ValueError
            If it is not what it should be; the message names the shard.
        """
        shards, name, n = self.shards, self.shards.name(i), self.shards.rows[i]
        found = tuple(shards.read(i))
        if len(found) not in (2, 3):
            raise ValueError(f"{name} must be (X, y) or (X, y, sample_weight); got {len(found)} parts.")
        x = as_numbers(found[0], name, self.dtype)
        if x.shape != (n, self.width):
            raise ValueError(f"X of {name} must have shape ({n}, {self.width}); got {x.shape}.")
        try:
            y, w = self.encode(found[1], found[2] if len(found) == 3 else None, n)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {error}") from error
        if (w is None) != (self.w is None):
            raise ValueError(f"{name} must {'have' if w is None else 'not have'} weights, as the others do.")
        return x, np.asarray(y, self.dtype), None if w is None else np.asarray(w, self.dtype)


def as_numbers(x: Any, name: str, dtype: str) -> HostArray:
    """X of a shard, in memory: finite numbers of shape (rows, columns)."""
    x = x.to_numpy() if hasattr(x, "to_numpy") else x
    if hasattr(x, "toarray"):
        x = x.toarray()
    x = to_numpy(x) if is_array_api_obj(x) and not isinstance(x, np.ndarray) else x
    kind = getattr(getattr(x, "dtype", None), "kind", "f")
    if kind not in "iufb":
        raise ValueError(f"X of {name} must hold numbers; got dtype {x.dtype}.")
    # A memory map is copied: what is read once in one go need not be fetched row by row.
    found: HostArray = np.array(x, dtype) if isinstance(x, np.memmap) else np.asarray(x, dtype)
    if found.ndim != 2:
        raise ValueError(f"X of {name} must have shape (rows, columns); got {found.shape}.")
    if not np.isfinite(np.sum(found)) and not np.all(np.isfinite(found)):
        raise ValueError(f"{name} contains NaN or infinity in X. Drop these rows, or impute them first.")
    return found


def ahead(items: Iterator[Any]) -> Generator[Any, None, None]:
    """The same items, made by a thread that is one ahead; what it raises comes out here."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(what: tuple[str, Any]) -> bool:
        while not stop.is_set():
            try:
                ready.put(what, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(("item", item)):
                    return
            put(("end", None))
        except BaseException as error:  # noqa: BLE001 - it is raised where the item is asked for
            put(("error", error))

    thread = threading.Thread(target=work, name="xpmlp-reader", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
