"""The command line: `xpmlp`, also as `python -m xpmlp`.

To add a command, write the function that adds its parser and the one that runs it, in the file of its family, and name
the first in COMMANDS. A command returns its exit status: 0, or 1 where it did its work and the answer is no. It raises
`CliError` where it cannot go on; argparse leaves with 2 where the command line itself is wrong.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from xpmlp.cli.demo import add_demo
from xpmlp.cli.look import add_check_gradients, add_export, add_inspect
from xpmlp.cli.machine import add_backends, add_bench, table
from xpmlp.cli.predict import add_predict
from xpmlp.cli.screen import CliError, say_error, show_warning
from xpmlp.cli.train import add_train

__all__ = ["COMMANDS", "CliError", "main", "table"]

COMMANDS = (
    add_backends,
    add_demo,
    add_train,
    add_predict,
    add_inspect,
    add_export,
    add_check_gradients,
    add_bench,
)

EXAMPLES = """\
examples:
  {prog} backends
  {prog} demo circles
  {prog} train data.csv --target price --report report.html
  {prog} predict model.safetensors new.csv --out answers.csv
  {prog} inspect model.safetensors

exit status: 0 done; 1 failed, and the last lines say why; 2 wrong command line"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; a command line that is wrong leaves with status 2."""
    prog = "xpmlp" if Path(sys.argv[0]).stem == "xpmlp" else "python -m xpmlp"
    parser = argparse.ArgumentParser(
        prog,
        description="A multilayer perceptron on NumPy, CuPy, PyTorch or JAX: train, predict, look.",
        epilog=EXAMPLES.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    options = parser.parse_args(arguments)
    if "run" not in options:
        parser.print_help()
        return 0
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show_warning
        try:
            status: int = options.run(options)
            sys.stdout.flush()
        except KeyboardInterrupt:
            say_error("interrupted.")
            return 130
        except BrokenPipeError:  # `| head` has seen enough; nothing may be written at exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (ArithmeticError, ImportError, MemoryError, OSError, RuntimeError, ValueError) as error:
            # The library's own messages say what must hold, what came and what to do.
            say_error(str(error) or type(error).__name__)
            return 1
    return status
