"""What reaches the terminal: 80 columns at most, fewer where it is narrow; colour; notes on stderr; a progress bar."""

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

WIDTH, NARROWEST = 80, 20
CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class CliError(ValueError):
    """What was asked for cannot be done, through no fault of the program; the message says why and what to do."""


def width() -> int:
    """How many columns to use: those of the terminal, at most 80."""
    return max(min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH), NARROWEST)


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
    """Lines of at most so many columns; a command to copy is not cut inside a word."""
    rest = " " * len(start) if rest is None else rest
    if len(start) > max(width() - 20, width() // 2):
        lines = textwrap.wrap(start, width(), subsequent_indent="    ")
        return [*lines, *textwrap.wrap(text, width(), initial_indent="    ", subsequent_indent="    ")]
    return textwrap.wrap(text, width(), initial_indent=start, subsequent_indent=rest, break_on_hyphens=False) or [start]


def say(text: str, start: str = "") -> None:
    """Print a sentence to stderr, where it does not mix with results."""
    print("\n".join(wrap(text, start)), file=sys.stderr, flush=True)


def say_line(text: str) -> None:
    """Print a sentence to stdout, among the results; line breaks at its ends are blank lines."""
    print("\n".join(line for part in text.split("\n") for line in (wrap(part) if part else [""])))


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
    """Rows of cells as lines with aligned columns, the last one wrapped; `right` are flush right.

    Where the terminal is too narrow for that, the first cell stands alone, and the others below it.
    """
    rows = [list(row) for row in rows]
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    fits = len(indent) + sum(widths[:-1]) + 2 * len(widths) <= max(width() - min(widths[-1], 20), width() // 2)
    lines = []
    for row in rows:
        if not fits:
            lines += textwrap.wrap(row[0], width(), initial_indent=indent, subsequent_indent=indent)
            lines += wrap("  ".join(cell for cell in row[1:] if cell), indent + "  ")
            continue
        cells = [
            f"{cell:>{size}}" if i in right else f"{cell:<{size}}"
            for i, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        start = indent + "".join(f"{cell}  " for cell in cells[:-1])
        lines += [start + cells[-1]] if len(start + cells[-1]) <= width() else wrap(cells[-1].strip(), start)
    return [line.rstrip() for line in lines]


def dump(document: Any) -> None:
    """Print it for a program to read."""
    print(json.dumps(document, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


class Bar:
    """A progress bar on stderr, redrawn in one line of a terminal; elsewhere nothing. A context manager.

    Without a `total` it is a line of numbers.
    """

    def __init__(self, total: int | None = None, what: str = "epoch") -> None:
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
        if not self.shown or (now - self.drawn < 0.1 and done != self.total):
            return
        self.drawn = now
        room = width() - 1
        seconds = f"  {now - self.began:.0f} s"
        head = f"{self.what} {done}" + ("" if self.total is None else f"/{self.total} ")
        text = "".join(f"  {name} {value:.4g}" for name, value in numbers.items())
        if len(head + text) > room:  # a narrow one: the numbers matter, their names less
            text = "".join(f" {name[:4]} {value:.3g}" for name, value in numbers.items())
        if len(head + text + seconds) <= room:
            text += seconds
        left = room - len(head + text) - 2
        filled = 0 if self.total is None else round(left * done / self.total)
        bar = f"[{'#' * filled}{'.' * (left - filled)}]" if left >= 4 and self.total is not None else ""
        print(f"\r\033[K{(head + bar + text)[:room]}", end="", file=sys.stderr, flush=True)
