"""What the columns of a table are, decided on all of its rows: numbers, dates, categories, or nothing to learn from.

    numbers      at least 95 % of the cells are; the others count as gaps and are named. One code (007, 1_2) among texts
                 makes the column one of names
    dates        likewise: days since the first one, month, day of the week and hour, those of them that differ
    categories   categories and truths as the table says, and other texts that repeat themselves
    left out     constants, columns of gaps, ids, texts that are different in more than half of the rows

A kind says how a cell is read ever after, so that a new table is read as the first one was.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.tabular.cells import (
    GAPS,
    GAPS_AMONG_NUMBERS,
    TRUTHS,
    date_order,
    decimal_mark,
    is_code,
    is_gap,
    is_plain,
    loosely,
    read_date,
    read_number,
)
from xpmlp.tabular.columns import Column, Table

MOST = 0.95  # of the cells of a column must be numbers, or dates, for it to be one of them
SEEN_ONCE = 0.5  # texts of which more than this share is different are names, keys, or sentences
FEWEST_IDS = 10  # rows from which whole numbers that all differ can be ids
ID_NAME = re.compile(
    r"(?i:unnamed.*|id|index|idx|key|row|row.?(?:id|no|nr|num|number)|id[_ .-].*|.*[_ .-](?:id|key))|.*[a-z]I[dD]"
)
DATE_PARTS = ("days", "month", "weekday", "hour")


@dataclass(frozen=True)
class NumberKind:
    """A column of numbers; `decimal` is the mark of its texts, None where they have none that tells."""

    name: str
    decimal: str | None
    gaps: bool  # whether some are missing, so that an input says where


@dataclass(frozen=True)
class DateKind:
    """A column of dates, as numbers; `order` is of 03/04/2024, `first` the day from which days are counted."""

    name: str
    order: str
    first: str
    parts: tuple[str, ...]
    gaps: bool


@dataclass(frozen=True)
class CategoryKind:
    """A column of categories; a level that is None is what is missing."""

    name: str
    levels: tuple[str | None, ...]


@dataclass(frozen=True)
class LeftOut:
    """A column that is not used, and why; `quietly` where nothing is lost by it."""

    name: str
    why: str
    quietly: bool = False


Kind = NumberKind | DateKind | CategoryKind | LeftOut


class Reading(NamedTuple):
    """A column as numbers or dates."""

    values: HostArray  # gaps and strays are NaN or NaT
    strays: tuple[int, ...]  # codes of the texts that are neither numbers nor gaps
    n_there: int  # cells that are no gaps
    written: str = ""  # in an unusual way, in words


def read_numbers(column: Column, decimal: str | None, missing: frozenset[str] = frozenset()) -> Reading | None:
    """The numbers of a column; None where its cells are dates, or amounts in several currencies."""
    if column.sort == "numbers":
        values = column.values.astype(np.float64, copy=False)
        return Reading(values, (), int(np.sum(~np.isnan(values))))
    if column.sort == "dates":
        return None
    words = GAPS_AMONG_NUMBERS | missing
    table = np.full(len(column.texts) + 1, math.nan)  # the last is what -1 stands for
    strays, gaps, units, grouped = [], [], set(), ""
    for code, text in enumerate(column.texts):
        if decimal != "," and is_plain(text):
            table[code] = float(text)
            continue
        if is_gap(text, words):
            gaps.append(code)
            continue
        number = read_number(text, decimal or ".")
        if number is None:
            strays.append(code)
            continue
        table[code] = number.value
        if number.unit:
            units.add(number.unit)
        if number.grouped and not grouped:
            grouped = text
    if len(units) > 1:
        return None
    counts = np.bincount(column.values + 1, minlength=len(column.texts) + 1)[1:]
    there = int(np.sum(counts)) - int(np.sum(counts[gaps]))
    ways = [f"in {unit}" for unit in units] + ["with decimal commas"] * (decimal == ",")
    ways += [f"with thousands separators ({grouped!r})"] if grouped else []
    return Reading(table[column.values], tuple(strays), there, ", ".join(ways))


def read_dates(column: Column, order: str, missing: frozenset[str] = frozenset()) -> Reading | None:
    """The dates of a column; None where it is one of numbers."""
    if column.sort == "dates":
        return Reading(column.values, (), int(np.sum(~np.isnat(column.values))))
    if column.sort == "numbers":
        gaps = bool(np.all(np.isnan(column.values)))
        return Reading(np.full(len(column.values), np.datetime64("NaT", "s")), (), 0) if gaps else None
    words = GAPS_AMONG_NUMBERS | missing
    table = np.full(len(column.texts) + 1, np.datetime64("NaT", "s"))
    strays, gaps_ = [], []
    for code, text in enumerate(column.texts):
        if is_gap(text, words):
            gaps_.append(code)
            continue
        found = read_date(text, order)
        if found is None:
            strays.append(code)
        else:
            table[code] = np.datetime64(found, "s")
    counts = np.bincount(column.values + 1, minlength=len(column.texts) + 1)[1:]
    return Reading(table[column.values], tuple(strays), int(np.sum(counts)) - int(np.sum(counts[gaps_])))


def date_numbers(dates: HostArray, kind: DateKind) -> HostArray:
    """The numbers that a column of dates is turned into, shape (n, parts), NaN for gaps."""
    none = np.isnat(dates)
    filled = np.where(none, np.datetime64("1970-01-01", "s"), dates)
    day = filled.astype("datetime64[D]")
    month = filled.astype("datetime64[M]").astype(np.int64) % 12 + 1
    parts = {
        "days": (filled - np.datetime64(kind.first, "s")) / np.timedelta64(86_400, "s"),
        "month": month,
        "weekday": (day.astype(np.int64) + 3) % 7,  # Monday is 0; 1970 began with a Thursday
        "hour": (filled - day.astype("datetime64[s]")) / np.timedelta64(3_600, "s"),
    }
    numbers = np.stack([np.asarray(parts[name], dtype=np.float64) for name in kind.parts], axis=1)
    numbers[none] = math.nan
    return numbers


def stray_rows(column: Column, strays: Sequence[int]) -> HostArray:
    """The rows of cells that are neither what they should be nor gaps."""
    return np.flatnonzero(np.isin(column.values, np.asarray(strays, dtype=np.int64)))


def told_of_strays(table: Table, column: Column, reading: Reading, what: str) -> str:
    """A sentence about the cells that are taken for gaps."""
    rows = stray_rows(column, reading.strays)
    cell, place = column.texts[column.values[rows[0]]], table.place(int(rows[0]))
    found = f"{len(rows):,} of {reading.n_there:,} cells {'is' if len(rows) == 1 else 'are'} no {what}"
    return f"{column.name}: {found} ({cell!r} in {place}{', ...' if len(rows) > 1 else ''}): taken as missing."


def guess_decimal(table: Table) -> str:
    """The decimal mark of most columns of texts that tell one."""
    marks = [decimal_mark(c.texts) for c in table.columns.values() if c.sort == "texts"]
    return "," if marks.count(",") > marks.count(".") else "."


def kind_of(
    table: Table, column: Column, *, category: bool, decimal: str, missing: frozenset[str], max_levels: int
) -> tuple[Kind, list[str]]:
    """What a column is, and what should be said about it.

    Parameters
    ----------
    table : Table
    column : Column
        Of that table.
    category : bool
        Whether it was asked to be one of categories.
    decimal : str
        The mark where the column itself does not tell.
    missing : frozenset of str
        Words, in lower case, that are gaps beside those of `cells`.
    max_levels : int

    Raises
    ------
    ValueError
        If a number is infinite: its message says where.
    """
    if category or column.sort in ("categories", "truths"):
        return _category(column.as_texts(), missing, max_levels, declared=True), []
    mark, reading = as_written(column, decimal, missing)
    if reading is not None and reading.n_there == 0 and bool(np.all(gaps_among(column, missing))):
        return LeftOut(column.name, "all missing", quietly=True), []
    codes = [] if reading is None else [column.texts[i] for i in reading.strays if is_code(column.texts[i])]
    if reading is not None and mostly_numbers(column, reading):
        return _number(table, column, mark, reading)
    order = date_order(column.texts)
    dates = read_dates(column, order, missing)
    if dates is not None and dates.n_there and _share(column, dates) >= MOST:
        return _date(table, column, order, dates)
    kind = _category(column, missing, max_levels, declared=False)
    if isinstance(kind, LeftOut) and not kind.quietly:
        kind = LeftOut(kind.name, kind.why + _why_no_number(table, column, reading, codes))
    return kind, []


def as_written(column: Column, decimal: str, missing: frozenset[str]) -> tuple[str | None, Reading | None]:
    """The decimal mark of a column, `decimal` if it tells none, and its numbers under that mark."""
    mark = (decimal_mark(column.texts) or decimal) if column.texts else None
    reading = read_numbers(column, mark, missing)
    if reading is not None and mark is not None and _share(column, reading) < MOST:
        other = "," if mark == "." else "."
        again = read_numbers(column, other, missing)
        if again is not None and _share(column, again) >= MOST:
            return other, again
    return mark, reading


def mostly_numbers(column: Column, reading: Reading) -> bool:
    """Whether a column is one of numbers: nearly all of its cells are, and none is a code."""
    return (
        reading.n_there > 0
        and _share(column, reading) >= MOST
        and not any(is_code(column.texts[i]) for i in reading.strays)
    )


def _share(column: Column, reading: Reading) -> float:
    if not reading.strays:
        return 1.0
    return 1.0 - len(stray_rows(column, reading.strays)) / max(reading.n_there, 1)


def _why_no_number(table: Table, column: Column, reading: Reading | None, codes: list[str]) -> str:
    if codes:
        row = int(stray_rows(column, [column.texts.index(codes[0])])[0])
        return f", and codes are no numbers ({codes[0]!r} in {table.place(row)})"
    if reading is None:
        return ", with amounts in several currencies"
    share = _share(column, reading)
    if share < 0.5:
        return ""
    row = int(stray_rows(column, reading.strays)[0])
    return f"; {share:.0%} are numbers, {column.texts[column.values[row]]!r} in {table.place(row)} is none"


def finite(table: Table, name: str, values: HostArray) -> None:
    """ValueError where a number is infinite, with its place."""
    if np.any(np.isinf(values)):
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise ValueError(
            f"column {name!r} must be finite; it holds infinity in {table.place(row)}. Leave the cell empty if it is "
            "not known."
        )


def _number(table: Table, column: Column, mark: str | None, reading: Reading) -> tuple[Kind, list[str]]:
    finite(table, column.name, reading.values)
    notes = [told_of_strays(table, column, reading, "number")] if reading.strays else []
    if reading.written:
        notes.append(f"{column.name}: numbers {reading.written}.")
    there = reading.values[~np.isnan(reading.values)]
    gaps = len(there) < len(reading.values)
    different = len(np.unique(there))
    if different == 1 and not gaps:
        return LeftOut(column.name, f"{there[0]:g} in every row", quietly=True), []
    if table.named and not gaps and different == len(there) >= FEWEST_IDS and bool(np.all(there == np.round(there))):
        if ID_NAME.fullmatch(column.name):
            return LeftOut(column.name, "an id: it numbers the rows, a whole number of its own in each"), []
        if bool(np.all(np.diff(there) == 1)):
            notes.append(f"{column.name}: it counts the rows; leave it out if a new row has no such number.")
    return NumberKind(column.name, mark, gaps), notes


def _date(table: Table, column: Column, order: str, reading: Reading) -> tuple[Kind, list[str]]:
    notes = [told_of_strays(table, column, reading, "date")] if reading.strays else []
    there = reading.values[~np.isnat(reading.values)]
    kind = DateKind(column.name, order, str(there.min()), DATE_PARTS, len(there) < len(reading.values))
    numbers = date_numbers(there, kind)
    parts = tuple(part for part, values in zip(DATE_PARTS, numbers.T, strict=True) if len(np.unique(values)) > 1)
    if not parts:
        return LeftOut(column.name, f"the date {str(there[0])[:10]} in every row", quietly=True), []
    notes.append(f"{column.name}: dates, as {', '.join(parts)}.")
    return DateKind(column.name, order, kind.first, parts, kind.gaps), notes


def gaps_among(column: Column, missing: frozenset[str]) -> HostArray:
    """Whether each text of a column of categories is a gap, shape (texts + 1,); the last is what -1 stands for."""
    words = GAPS | missing
    return np.array([*(is_gap(text, words) for text in column.texts), True])


def _category(column: Column, missing: frozenset[str], max_levels: int, *, declared: bool) -> Kind:
    none = gaps_among(column, missing)
    counts = np.bincount(column.values % (len(column.texts) + 1), minlength=len(column.texts) + 1)
    seen: dict[str, int] = {}
    truths = {loosely(text) for text, gap in zip(column.texts, none, strict=False) if not gap} <= set(TRUTHS)
    for text, gap, count in zip(column.texts, none, counts.tolist(), strict=False):
        if not gap and count:
            level = loosely(text) if truths else text
            seen[level] = seen.get(level, 0) + count
    missed = int(np.sum(counts[none]))
    total = sum(seen.values())
    if not seen:
        return LeftOut(column.name, "all missing", quietly=True)
    if len(seen) == 1 and not missed:
        return LeftOut(column.name, f"{next(iter(seen))!r} in every row", quietly=True)
    if not declared and len(seen) > max(10, SEEN_ONCE * total):
        return LeftOut(column.name, f"text with {len(seen):,} different values in {total:,} rows")
    most = sorted(seen, key=lambda level: (-seen[level], level))[:max_levels]
    levels: tuple[str | None, ...] = tuple(sorted(most))
    return CategoryKind(column.name, (*levels, None) if missed else levels)


def level_codes(column: Column, kind: CategoryKind, missing: frozenset[str] = frozenset()) -> HostArray:
    """For each row the index of its level, -1 for what is unknown; shape (n,).

    Letter for letter first; what is not found so is found by what two writings of one thing share (`cells.loosely`).
    """
    column = column.as_texts()
    exactly = {level: i for i, level in enumerate(kind.levels)}
    by_share: dict[str, list[int]] = {}
    for i, level in enumerate(kind.levels):
        if level is not None:
            by_share.setdefault(loosely(level), []).append(i)
    if set(by_share) == set(TRUTHS):
        by_share |= {"0": by_share["false"], "1": by_share["true"]}
    table = np.full(len(column.texts) + 1, -1)
    gaps = gaps_among(column, missing)
    for code, text in enumerate(column.texts):
        same = by_share.get(loosely(text), [])
        if text in exactly:
            table[code] = exactly[text]
        elif not gaps[code] and len(same) == 1:
            table[code] = same[0]
    if None in exactly:
        table[gaps & (table < 0)] = exactly[None]
    return table[column.values]
