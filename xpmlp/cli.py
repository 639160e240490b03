"""The command line: `python -m xpmlp backends` says what works on this machine, and what to do about what does not.

To add a command, write the function that adds its parser and the one that runs it, and name the first in COMMANDS.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from xpmlp.backends import BACKENDS, Probe, probe

WIDTH = 80


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; a command that does not exist leaves with status 2."""
    parser = argparse.ArgumentParser("python -m xpmlp", description="A multilayer perceptron on any array library.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    options = parser.parse_args(arguments)
    if "run" not in options:
        parser.print_help()
        return 0
    status: int = options.run(options)
    return status


def add_backends(commands: Any) -> None:
    """Add `backends`: the table of array libraries."""
    summary = "show which array libraries work on this machine, and what to do about the others"
    parser = commands.add_parser("backends", help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="print it for a program to read")
    parser.set_defaults(run=show_backends)


def show_backends(options: argparse.Namespace) -> int:
    """Try every backend and print what was found."""
    found = {name: probe(name) for name in BACKENDS}
    print(json.dumps({name: asdict(it) for name, it in found.items()}, indent=2) if options.json else table(found))
    return 0


def table(found: dict[str, Probe]) -> str:
    """Lay the probes out, one row each; beneath a row that is not ok, what is wrong and what to do about it."""
    rows = [("backend", "version", "state")]
    rows += [(name, it.version or "-", it.state) for name, it in found.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    starts = ["".join(f"{cell:{width}}  " for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines = [starts[0] + "devices", "-" * WIDTH]
    for start, it in zip(starts[1:], found.values(), strict=True):
        lines += _wrap(", ".join(it.devices) or "-", start)
        if it.hint:
            lines += [*_wrap(f"{it.message}.", "    "), *_wrap(f"What to do: {it.hint}.", "    ")]
    return "\n".join(lines)


def _wrap(text: str, start: str) -> list[str]:
    # A command to copy must not be cut inside a word.
    rest = " " * len(start)
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=rest, break_on_hyphens=False)


COMMANDS = (add_backends,)
