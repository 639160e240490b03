"""What strikes a training from outside: Ctrl-C, asked about instead of striking mid-step, and memory that runs out."""

import contextlib
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

TOLD = "not enough memory on"  # how our own words begin

# What libraries say whose error for a failed allocation is a plain RuntimeError: PyTorch on the CPU and on CUDA, JAX,
# and CUDA itself where a library of its own wants memory.
NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|RESOURCE_EXHAUSTED|cudaErrorMemoryAllocation|_ALLOC_FAILED",
    re.IGNORECASE,
)


@contextlib.contextmanager
def interruptible(*, terminate: bool = False) -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C be asked about instead of striking in the middle of a step; a second one strikes at once.

    With `terminate` so may SIGTERM, by which schedulers announce that a process will be ended.

    Only in the main thread, and only where nobody has put a handler of their own: elsewhere Python's rules hold.
    """
    seen = threading.Event()
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )

    def note(_signum: int, _frame: Any) -> None:
        seen.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def note_end(_signum: int, _frame: Any) -> None:
        seen.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    also = terminate and ours and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGINT, note)
    if also:
        signal.signal(signal.SIGTERM, note_end)
    try:
        yield seen.is_set
    finally:
        if also and signal.getsignal(signal.SIGTERM) is note_end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if ours and signal.getsignal(signal.SIGINT) is note:  # nobody has put another there meanwhile
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def holding_interrupts() -> Iterator[None]:
    """Let Ctrl-C strike after a block instead of in it, where it would be swallowed.

    An exception that meets a library while it is loaded, or a callback from C, goes no further.
    """
    with interruptible() as interrupted:
        yield
    if interrupted():
        raise KeyboardInterrupt


def out_of_memory(error: BaseException) -> bool:
    """Whether this is some library's way to say that an allocation failed."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error))))


@contextlib.contextmanager
def telling_of_memory(where: object, doing: str, cure: str) -> Iterator[None]:
    """Turn every library's failed allocation into one MemoryError that says where, doing what, and what to do.

    Parameters
    ----------
    where : Place
    doing : str
        As in "training with batch_size=512".
    cure : str
        A sentence or two.
    """
    try:
        yield
    except Exception as error:
        if not out_of_memory(error) or str(error).startswith(TOLD):
            raise
        # The exception keeps its frames, and they keep the arrays that filled the memory.
        traceback.clear_frames(error.__traceback__)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        raise MemoryError(f"{TOLD} {where} for {doing}: {reason}. {cure}") from None
