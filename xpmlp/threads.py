"""How many threads a BLAS may take: one for small products, which win nothing by more; for large ones what it has.

A product of a few megaflops on two threads takes as long as on one where the machine is free, and up to 88 times as
long where other processes are busy, for one thread spins while the other has no core. So whoever computes says how
much it is, and below LIMIT the libraries get one thread. The rule looks at the task alone: a small fit ends in the same
bits whatever number of threads a user allows.

The limit of a library holds for the whole process. Who comes first remembers it and sets it, who leaves last puts it
back; a large fit that another thread runs meanwhile has one thread, too.
"""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from xpmlp.backends import Place
from xpmlp.backends.config import get_config
from xpmlp.faults import holding_interrupts

# Flops of a step, or of a block of a prediction. On two cores a network of 66 Mflop a step loses a fifth of its speed
# by one thread where the machine is free, and wins 2 to 70 times where it is not; more cores have more to lose.
LIMIT = 100e6 if (os.cpu_count() or 1) < 4 else 50e6
# Flops of a step below which OpenBLAS takes one thread by itself, for its products (interface/gemm.c: 4 x 65,536
# multiplications) and for sums over rows (interface/gemv.c: 4 x 2,304): to hold the pool costs more than the step.
LEAST = 5e4
# What brings a BLAS of its own when it is imported: SciPy's serves compiled code, NumPy's is there from the start.
BRINGS_BLAS = ("scipy.linalg",)


def flops_of_step(sizes: Sequence[int], rows: int) -> float:
    """The flops of the products of a training step: forward, dW, and da but for da[0]."""
    products = [n_in * n_out for n_in, n_out in pairwise(sizes)]
    return 2.0 * rows * (3 * sum(products) - products[0])


def flops_of_forward(sizes: Sequence[int], rows: int) -> float:
    """The flops of the products of a forward pass."""
    return 2.0 * rows * sum(n_in * n_out for n_in, n_out in pairwise(sizes))


@contextlib.contextmanager
def enough_for(flops: float, place: Place) -> Iterator[None]:
    """Let NumPy's BLAS have one thread in a `with` block whose products are of fewer flops than LIMIT.

    Nothing happens for larger ones, for those so small that BLAS takes one by itself, for arrays of other libraries,
    whose threads are their own, or where the setting `threads` is "all".
    """
    if not LEAST <= flops < LIMIT or place.backend.name != "numpy" or get_config()["threads"] == "all":
        yield
        return
    own, shared = _pools(tuple(name for name in BRINGS_BLAS if name in sys.modules))
    with own.limit(limits=1):
        _HELD.take(shared)
        try:
            yield
        finally:
            _HELD.give_back()


class _Held:
    """What all threads of the process share at one thread, and by how many it is held there."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders = 0
        self.before: Any = None

    def take(self, pools: Any) -> None:
        with self.lock:
            if self.holders == 0:
                with _whoever_limited_it_last():
                    self.before = pools.limit(limits=1)
            self.holders += 1

    def give_back(self) -> None:
        with self.lock:
            self.holders -= 1
            if self.holders == 0:
                with _whoever_limited_it_last():
                    self.before.restore_original_limits()
                self.before = None


_HELD = _Held()


@functools.cache
def _pools(_loaded: tuple[str, ...]) -> tuple[Any, Any]:
    """The libraries whose limit each thread has for itself, and those that all threads share."""
    # To find them takes 2 milliseconds: once, and again when there is one more.
    from threadpoolctl import ThreadpoolController

    with holding_interrupts():  # it is called back from C
        found = ThreadpoolController().select(user_api="blas")
    own: list[str] = []
    shared: list[str] = []
    for library in found.lib_controllers:
        alone = library.internal_api == "mkl" or getattr(library, "threading_layer", "") == "openmp"
        (own if alone else shared).append(library.filepath)
    return found.select(filepath=own), found.select(filepath=shared)


@contextlib.contextmanager
def _whoever_limited_it_last() -> Iterator[None]:
    # threadpoolctl (3.8) lets one Python thread alone set OpenBLAS' limit, and does nothing for the others, without a
    # word. Here the last one out may be another than the first one in, and the lock sees to it that they do not fight.
    from threadpoolctl import OpenBLASController

    release = getattr(OpenBLASController, "clear_controlling_thread", lambda **_: None)
    release(force=True)
    try:
        yield
    finally:
        release(force=True)
