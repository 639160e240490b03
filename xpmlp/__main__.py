"""`python -m xpmlp`, and the command `xpmlp`.

Nothing is imported here that takes time, so that Ctrl-C finds an ear before the libraries load: in the midst of their
import it would be a traceback, or an error about a library that is half there.
"""

import os
import signal
import sys
from typing import Any


def leave(*_: Any) -> None:
    """End at once: nothing has begun that would have to be put away."""
    os.write(2, b"\nerror: interrupted.\n")
    os._exit(130)


def main() -> int:
    """Run a command of the command line and return its exit status."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, leave)
    from xpmlp.cli import main as run

    try:
        return run(before=(lambda: signal.signal(signal.SIGINT, signal.default_int_handler)) if ours else None)
    finally:
        if ours:  # what is left is Python's own end
            signal.signal(signal.SIGINT, leave)


if __name__ == "__main__":
    sys.exit(main())
