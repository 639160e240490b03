"""Ctrl-C, asked about instead of striking in the middle of a step."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C be asked about instead of striking in the middle of a step; a second one strikes at once.

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

    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield seen.is_set
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
