"""How a section is timed: in rounds, each candidate once in a round, every other round backwards."""

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Times = list[tuple[float, float]]  # (wall, cpu) seconds of each round


def rounds(ready: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Times]:
    """Whatever else the machine does falls on all candidates alike."""
    times: dict[str, Times] = {name: [] for name in ready}
    for turn in range(repeats):
        for name in ready if turn % 2 == 0 else reversed(ready):
            times[name].append(timed(ready[name])[0])
    return times


def timed(work: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """(wall, cpu) seconds of one call, and what it returned."""
    gc.collect()
    np.empty(2**28, dtype=np.uint8).fill(1)  # a virtual machine may lack pages that it gave back: no candidate's fault
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    wall = time.perf_counter() - wall
    return (wall, time.process_time() - cpu), result
