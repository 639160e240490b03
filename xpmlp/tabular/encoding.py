"""The cells of one column, read as its kind says, numbers with gaps or levels; and what is to be said of them."""

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.tabular.columns import Column, Table
from xpmlp.tabular.kinds import (
    CategoryKind,
    DateKind,
    Kind,
    NumberKind,
    date_numbers,
    finite,
    read_dates,
    read_numbers,
    stray_rows,
    told_of_strays,
)


def n_numbers(kind: Kind) -> int:
    """How many inputs of numbers a column is."""
    return len(kind.parts) if isinstance(kind, DateKind) else int(isinstance(kind, NumberKind))


def n_inputs(kind: CategoryKind) -> int:
    """How many inputs a column of categories is; two levels are one."""
    return 1 if len(kind.levels) <= 2 else len(kind.levels)


def as_read(column: Column, kind: Kind) -> Column:
    """The column with its texts read, so that it is read at once from now on."""
    reading = None
    if isinstance(kind, NumberKind):
        reading = read_numbers(column, kind.decimal)
    elif isinstance(kind, DateKind):
        reading = read_dates(column, kind.order)
    if reading is None:
        return column
    return Column(column.name, "dates" if isinstance(kind, DateKind) else "numbers", reading.values)


def numbers_of(
    table: Table, kind: NumberKind | DateKind, words: frozenset[str]
) -> tuple[HostArray, list[tuple[str, bool]]]:
    """The numbers of a column, shape (n, inputs), NaN for gaps; ValueError where most cells are none."""
    column = table.columns[kind.name]
    if isinstance(kind, NumberKind):
        what, reading = "number", read_numbers(column, kind.decimal, words)
    else:
        what, reading = "date", read_dates(column, kind.order, words)
    if reading is None:
        raise ValueError(f"column {kind.name!r} must hold {what}s, as in training; it holds {column.sort}.")
    notes = []
    if reading.strays:
        rows = stray_rows(column, reading.strays)
        if 2 * len(rows) > reading.n_there:
            cell = column.texts[column.values[rows[0]]]
            raise ValueError(
                f"column {kind.name!r} must hold {what}s, as in training; it has {cell!r} in "
                f"{table.place(int(rows[0]))}, and {len(rows):,} of its {reading.n_there:,} cells are none."
            )
        if len(rows):
            notes.append((told_of_strays(table, column, reading, what), True))
    if isinstance(kind, DateKind):
        return date_numbers(reading.values, kind), notes
    finite(table, kind.name, reading.values)
    return reading.values[:, None], notes


def told_of_unknown(column: Column, kind: CategoryKind, codes: HostArray) -> list[tuple[str, bool]]:
    """What is to be said of rows that are none of the levels, and whether it is a warning."""
    rows = np.flatnonzero(codes < 0)
    if not len(rows):
        return []
    cells = list(dict.fromkeys(column.take(rows[:1_000]).as_texts().cell(i) for i in range(min(len(rows), 1_000))))
    shown = ", ".join("nothing" if cell == "" else repr(cell) for cell in cells[:3])
    shown += ", ..." if len(cells) > 3 else ""
    n = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
    told = f"{kind.name}: {n} with what the model has no input for ({shown}): all zeros"
    if len(rows) == len(codes) > 1 and "" not in cells:
        known = ", ".join("nothing" if level is None else repr(level) for level in kind.levels[:3])
        return [(f"{told}. That is every row; in training it had {known}: is it written otherwise?", True)]
    return [(f"{told}.", False)]
