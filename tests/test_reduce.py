"""The seam between gradient and update: a batch in parts, here and in other processes, is the batch.

Processes are threads here, that wait for each other at a barrier.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import BackendUnderTest
from test_runners import BATCH, CASES, TOLERANCE, Case, trained, writable

from xpmlp import distributed
from xpmlp.backends import select
from xpmlp.distributed import LostPeerError
from xpmlp.distributed.groups import agreed
from xpmlp.network import dropout
from xpmlp.runners import GO_BATCH_BY_BATCH, Data, eager, find_runner, lbfgs
from xpmlp.runners import numpy as in_place
from xpmlp.runners.reduction import OrderedSum, Sum
from xpmlp.runners.step import Part, Task

FIRST = 7  # rows of a batch that rank 0 has: the short last batch has no more, and rank 1 then has none


class Meeting:
    """Where the threads of one group meet."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier, self.values = size, threading.Barrier(size, timeout=20.0), [None] * size

    def all_of(self, rank: int, value: Any) -> list[Any]:
        self.values[rank] = value
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()
        return found


class ThreadOf:
    """A group whose processes are threads."""

    name = "threads"

    def __init__(self, meeting: Meeting, rank: int, fixed_order: bool = False) -> None:
        self.meeting, self.rank, self.size, self.fixed_order = meeting, rank, meeting.size, fixed_order

    def sum(self, buffer: Any) -> None:
        buffer[...] = sum(self.meeting.all_of(self.rank, buffer.copy()))

    def gather(self, buffer: Any) -> Any:
        return np.stack(self.meeting.all_of(self.rank, buffer.copy()))

    def share(self, value: Any) -> list[Any]:
        return self.meeting.all_of(self.rank, value)


class PartOf(Data):
    """The rows of every batch that one process has, and where they stand in it."""

    whole = False

    def __init__(self, data: Data, bounds: list[int], mine: tuple[int, int]) -> None:
        super().__init__(data.place, data.x, data.y, data.w, data.batch_size)
        self.bounds, self.mine = bounds, mine
        self.parts: list[Part] = []

    def batches(self, order: Any, take: Any = None, *, sparse: bool = False) -> Iterator[Any]:
        # `take` fills one array again and again: here each part is a view of it, and is used up before the next.
        for x, y, w in super().batches(order, take, sparse=sparse):
            n = int(x.shape[-2])
            cut = [min(bound, n) for bound in self.bounds]
            start, stop = cut[self.mine[0]], cut[self.mine[1]]
            self.parts = [Part(slice(cut[v] - start, cut[v + 1] - start), cut[v], v) for v in range(*self.mine)]
            yield x[..., start:stop, :], y[..., start:stop, :], None if w is None else w[..., start:stop]


def together(size: int, work: Callable[[ThreadOf], Any], fixed_order: bool = False) -> list[Any]:
    """What `work` returns in each process of a group."""
    meeting = Meeting(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, (ThreadOf(meeting, rank, fixed_order) for rank in range(size))))


def in_two(case: Case, m: int | None, make: Callable[..., Any], put: Callable[[Any], Any], place: Any) -> list[Any]:
    """What two processes learn, rank 0 from the first rows of every batch."""

    def of(group: ThreadOf) -> Any:
        def runner(task: Task, data: Data, seed: Any) -> Any:
            part = PartOf(data, [0, FIRST, BATCH], (group.rank, group.rank + 1))
            shape = (*(() if m is None else (m,)), task.network.layout.size)
            dtype = str(data.y.dtype).rpartition(".")[2]
            reduce = Sum(group, place, shape, dtype, lambda: part.parts)
            return make(replace(task, reduce=reduce), part, seed)

        return trained(case, m, runner, put, place)

    return together(2, of)


SEAMS = ["loss-cross_entropy", "weights", "clipping", "dropout", "optimizer-momentum", "optimizer-adamw", "in-order"]


@pytest.mark.parametrize("name", SEAMS)
@pytest.mark.parametrize("m", [None, 3], ids=["one", "three"])
@pytest.mark.parametrize("make", [eager.Runner, find_runner], ids=["eager", "own"])
def test_two_processes_take_the_steps_of_one(name: str, m: int | None, make: Any, backend: BackendUnderTest) -> None:
    case, dtype = CASES[name], backend.dtypes[0]
    if dtype != "float64":
        pytest.skip("Adam's first steps turn the rounding of float32 into another direction")
    if backend.name not in GO_BATCH_BY_BATCH and (name not in ("weights", "dropout") or make is not find_runner):
        pytest.skip("the eager runner is one code for every backend, and slow here")
    put = (lambda array: backend.put(np.array(array), dtype)) if backend.name != "numpy" else writable
    expected, losses = trained(case, m, eager.Runner, writable, select("numpy"))
    for got, found in in_two(case, m, make, put, backend.place):
        backend.assert_close(got.p, expected.p, rtol=TOLERANCE[dtype])
        for value, wanted in zip(found, losses, strict=True):  # the same loss of an epoch in every process
            np.testing.assert_allclose(backend.place.backend.to_numpy(value), wanted, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["loss-cross_entropy", "weights", "dropout", "clipping"])
@pytest.mark.parametrize("make", [eager.Runner, in_place.Runner], ids=["eager", "in place"])
def test_a_fixed_order_gives_the_same_bits_in_any_number_of_processes(name: str, make: Any) -> None:
    bounds = [0, 1, 3, 4, 5, 8]  # five lanes: no power of two

    def learned(size: int) -> list[Any]:
        blocks = [(5 * r // size, 5 * (r + 1) // size) for r in range(size)]

        def of(group: ThreadOf) -> Any:
            def runner(task: Task, data: Data, seed: Any) -> Any:
                part = PartOf(data, bounds, blocks[group.rank])
                shape = (task.network.layout.size,)
                reduce = OrderedSum(group, data.place, shape, "float32", lambda: part.parts, blocks)
                return make(replace(task, reduce=reduce), part, seed)

            put = lambda array: np.array(array, dtype=np.float32)  # noqa: E731
            return trained(CASES[name], None, runner, put, select("numpy"))

        return together(size, of, fixed_order=True)

    ((alone, losses),) = learned(1)
    for size in (2, 3, 4, 5):
        for state, found in learned(size):
            assert state.p.tobytes() == alone.p.tobytes()
            assert [float(value) for value in found] == [float(value) for value in losses]


def test_the_masks_of_parts_are_those_of_the_batch() -> None:
    seed, step, a = np.full((1, 1), 7, np.int32), np.full((1, 1), 3, np.int32), np.ones((10, 4))
    whole = dropout.mask(0.5, seed, step, 1, a)
    parts = [dropout.mask(0.5, seed, step, 1, a[:4]), dropout.mask(0.5, seed, step, 1, a[4:], first=4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_lbfgs_sums_once_an_evaluation() -> None:
    rng = np.random.default_rng(0)
    place, case = select("numpy"), CASES["loss-cross_entropy"]
    sums = []

    class Counted(ThreadOf):
        def sum(self, buffer: Any) -> None:
            sums.append(self.rank)
            super().sum(buffer)

    found = []

    def note(task: Task, data: Data, _: Any) -> Any:
        p = rng.standard_normal(task.network.layout.size)
        task = replace(task, l2=0.1)
        found.append(lbfgs.objective(task, data)(p))

        def of(group: ThreadOf) -> Any:
            counted = Counted(group.meeting, group.rank)
            part = PartOf(data, [0, FIRST, BATCH], (group.rank, group.rank + 1))
            reduce = Sum(counted, place, p.shape, "float64", lambda: part.parts)
            return lbfgs.objective(replace(task, reduce=reduce), part)(p)

        found.extend(together(2, of))
        return eager.Runner(task, data)

    trained(case, None, note, writable, place)
    (loss, g), *others = found
    for other in others:
        np.testing.assert_allclose(other[0], loss, rtol=1e-13)
        np.testing.assert_allclose(other[1], g, rtol=0, atol=1e-13 * np.abs(g).max())
    assert sorted(sums) == [0, 1]


def test_a_runner_that_cannot_wait_for_a_sum_gives_way_and_says_so(
    backend: BackendUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    given: list[Any] = []

    def note(*found: Any) -> eager.Runner:
        given.extend(found)
        return eager.Runner(*found)

    put = (lambda array: backend.put(np.array(array))) if backend.name != "numpy" else writable
    trained(CASES["in-order"], None, note, put, backend.place)
    task, data, seed = given
    dtype = str(data.y.dtype).rpartition(".")[2]
    task = replace(task, reduce=Sum(distributed.alone(), backend.place, (task.network.layout.size,), dtype))
    with caplog.at_level(logging.INFO, logger="xpmlp"):
        runner = find_runner(task, data, seed)
    if backend.name in ("numpy", "torch"):
        assert runner.name == backend.name
    else:
        assert runner.name == "eager"
        assert "each gradient is summed on its own" in runner.reason


def test_who_fails_tells_the_others_and_who_wants_to_stop_stops_all() -> None:
    def fails(group: ThreadOf) -> Any:
        reduce = Sum(group, select("numpy"), (3,), "float64")
        if group.rank == 1:
            reduce.fail(ValueError("shard 19 contains NaN"))
            return None
        with pytest.raises(LostPeerError, match="rank 1 of 2 failed: ValueError: shard 19 contains NaN"):
            reduce.total(np.zeros(3))
        return None

    def stops(group: ThreadOf) -> bool:
        reduce = Sum(group, select("numpy"), (3,), "float64")
        reduce.wish = lambda: group.rank == 1
        reduce.total(np.zeros(3))
        return reduce.stopped

    together(2, fails)
    assert together(2, stops) == [True, True]


def test_what_fails_in_one_process_before_training_fails_in_all() -> None:
    def prepared(group: ThreadOf) -> str:
        def here() -> int:
            if group.rank == 0:
                raise ValueError("no such file")
            return group.rank

        with pytest.raises((ValueError, LostPeerError)) as caught:
            agreed(group, here)
        return f"{type(caught.value).__name__}: {caught.value}"

    assert together(2, prepared) == [
        "ValueError: no such file",
        "LostPeerError: rank 0 of 2 failed: ValueError: no such file",
    ]


def test_ranks_agree_on_what_each_of_them_says() -> None:
    def says(group: ThreadOf) -> list[Any]:
        return Sum(group, select("numpy"), (3,), "float64").agree(group.rank + 0.5)

    assert together(2, says) == [[0.5, 1.5], [0.5, 1.5]]
