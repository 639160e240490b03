"""What reaches the terminal: 80 columns, colour where it is wanted, notes and warnings on stderr, a progress bar."""

import argparse
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from xpmlp.backends import BACKENDS

WIDTH = 80
CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class CliError(ValueError):
    """What was asked for cannot be done, through no fault of the program; the message says why and what to do."""


def coloured(stream: TextIO) -> bool:
    """Whether to colour: as no-color.org has it, and never into a file unless FORCE_COLOR is set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def paint(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """The text in these styles, if the stream takes them."""
    if not coloured(stream or sys.stdout):
        return text
    return f"\033[{';'.join(CODES[style] for style in styles)}m{text}\033[0m"


def wrap(text: str, start: str = "", rest: str | None = None) -> list[str]:
    """Lines of at most 80 columns; a command to copy is not cut inside a word."""
    rest = " " * len(start) if rest is None else rest
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=rest, break_on_hyphens=False) or [start]


def say(text: str, start: str = "") -> None:
    """Print a sentence to stderr, where it does not mix with results."""
    print("\n".join(wrap(text, start)), file=sys.stderr, flush=True)


def say_error(text: str) -> None:
    """Print why nothing came of it."""
    _say_about("error:", "red", text)


def show_warning(message: Any, *_: Any, **__: Any) -> None:
    """Stand in for `warnings.showwarning`: the sentence, without the line of code that it came from."""
    _say_about("warning:", "yellow", str(message))


def _say_about(word: str, colour: str, text: str) -> None:
    first, *more = [part for part in text.splitlines() if part.strip()] or [""]
    lines = wrap(first, f"{word} ", "  ") + [line for part in more for line in wrap(part, "  ", "  ")]
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)  # a progress bar may stand there
    lines[0] = lines[0].replace(word, paint(word, "bold", colour, stream=sys.stderr), 1)
    print("\n".join(lines), file=sys.stderr, flush=True)


def columns(rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), indent: str = "") -> list[str]:
    """Rows of cells as lines with aligned columns, the last one wrapped at 80; `right` are flush right."""
    rows = [list(row) for row in rows]
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            f"{cell:>{width}}" if i in right else f"{cell:<{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        start = indent + "".join(f"{cell}  " for cell in cells[:-1])
        lines += wrap(cells[-1].rstrip(), start) if len(start) < WIDTH - 20 else [(start + cells[-1]).rstrip()]
    return [line.rstrip() for line in lines]


def dump(document: Any) -> None:
    """Print it for a program to read."""
    print(json.dumps(document, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def add_command(commands: Any, name: str, summary: str, examples: str, run: Any) -> argparse.ArgumentParser:
    """A command's parser, whose help ends with examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=textwrap.fill(summary[0].upper() + summary[1:] + ".", WIDTH - 2),
        epilog="examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_backend(parser: argparse.ArgumentParser) -> None:
    """The options that say where the arithmetic is done."""
    parser.add_argument(
        "--backend", metavar="NAME", choices=sorted(BACKENDS), help=f"{', '.join(BACKENDS)} (default: numpy)"
    )
    parser.add_argument("--device", metavar="NAME", help="of that library, as cuda:0")
    parser.add_argument(
        "--fallback",
        choices=("warn", "error"),
        default="warn",
        help="where the backend cannot run here: go on with NumPy, or fail (default: warn)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that every command with a result has."""
    parser.add_argument("--json", action="store_true", help="print the result for a program to read")


class Bar:
    """A progress bar on stderr, redrawn in one line of a terminal; elsewhere nothing. A context manager."""

    def __init__(self, total: int, what: str = "epoch") -> None:
        self.total, self.what, self.shown = total, what, sys.stderr.isatty()
        self.began = self.drawn = time.monotonic()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def show(self, done: int, numbers: dict[str, float]) -> None:
        """Draw it, at most ten times a second."""
        now = time.monotonic()
        if not self.shown or (now - self.drawn < 0.1 and done < self.total):
            return
        self.drawn = now
        width = min(shutil.get_terminal_size().columns, WIDTH) - 1
        text = "".join(f"  {name} {value:.4g}" for name, value in numbers.items())
        head = f"{self.what} {done}/{self.total} "
        tail = f"{text}  {now - self.began:.0f} s"
        room = max(width - len(head) - len(tail) - 2, 4)
        filled = round(room * done / self.total)
        line = f"{head}[{'#' * filled}{'.' * (room - filled)}]{tail}"
        print(f"\r\033[K{line[:width]}", end="", file=sys.stderr, flush=True)
