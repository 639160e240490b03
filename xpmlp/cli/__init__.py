"""The command line: `xpmlp`, also as `python -m xpmlp`.

To add a command, write the function that runs it, in the file of its family, and its row and parser in `commands`. It
returns its exit status: 0, or 1 where it did its work and the answer is no. It raises `CliError` where it cannot go on;
argparse leaves with 2 where the command line itself is wrong. The file of a command is imported when it is run, so that
help costs no library.
"""

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xpmlp.cli.commands import COMMANDS
from xpmlp.cli.screen import CliError, say_error, show_warning

__all__ = ["COMMANDS", "CliError", "main"]

EXAMPLES = """\
examples:
  {prog} backends
  {prog} demo circles
  {prog} train data.csv --target price --report report.html
  {prog} predict model.safetensors new.csv --out answers.csv
  {prog} inspect model.safetensors

exit status: 0 done; 1 failed, and the last lines say why; 2 wrong command line;
130 interrupted"""


def main(arguments: Sequence[str] | None = None, *, before: Callable[[], Any] | None = None) -> int:
    """Run a command and return its exit status; a command line that is wrong leaves with status 2.

    `before` is called once the libraries are there and the command begins.
    """
    prog = "xpmlp" if Path(sys.argv[0]).stem == "xpmlp" else "python -m xpmlp"
    parser = argparse.ArgumentParser(
        prog,
        description="A multilayer perceptron on NumPy, CuPy, PyTorch or JAX: train, predict, look.",
        epilog=EXAMPLES.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"xpmlp {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    options = parser.parse_args(arguments)
    if "run" not in options:
        parser.print_help()
        return 0
    try:
        status = _run(options, before)
    except KeyboardInterrupt:
        say_error("interrupted.")
        return 130
    except BrokenPipeError:  # `| head` has seen enough; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        say_error(f"{error.strerror}: {error.filename!r}." if error.strerror and error.filename else str(error))
        return 1
    except (ArithmeticError, ImportError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        # The library's own messages say what must hold, what came and what to do.
        say_error(str(error) or type(error).__name__)
        return 1
    return status


def _version() -> str:
    return str(sys.modules["xpmlp"].__version__)  # not an import: that would go upward


def _run(options: argparse.Namespace, before: Callable[[], Any] | None) -> int:
    """Import what the command needs, run it, and see whether Ctrl-C broke its training off."""
    interrupted = False

    def show(message: Any, *_: Any, **__: Any) -> None:
        nonlocal interrupted
        interrupted |= "interrupted by user" in str(message)
        show_warning(message)

    module, _, function = options.run.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        run = getattr(importlib.import_module(f"xpmlp.cli.{module}"), function)
        if before is not None:
            before()
        status: int = run(options)
        sys.stdout.flush()
    return 130 if interrupted else status
