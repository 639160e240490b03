"""The column that is predicted, the columns that a command line names, and the rows that are held out."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.cli.screen import CliError
from xpmlp.cli.tables import File
from xpmlp.tabular.cells import GAPS_AMONG_NUMBERS, TRUTHS, loosely
from xpmlp.tabular.columns import Column, listed
from xpmlp.tabular.kinds import (
    Reading,
    as_written,
    finite,
    gaps_among,
    guess_decimal,
    mostly_numbers,
    read_dates,
    stray_rows,
    told_of_strays,
)

MOST_CLASSES = 20  # of a target of whole numbers that counts as classes if nobody says so, with 3 rows of each


@dataclass(frozen=True)
class Target:
    """The column that is predicted."""

    name: str
    task: str  # "classification" or "regression"
    why: str  # it is that
    values: HostArray  # of the rows that have one: labels, letter for letter, or floats
    rows: HostArray  # their numbers
    notes: list[str] = field(default_factory=list)


def read_target(
    file: File, name: str, task: str | None, *, missing: frozenset[str] = frozenset(), decimal: str | None = None
) -> Target:
    """The target's values, and whether they are classes or amounts.

    Raises
    ------
    CliError
        If there is no such column, or nothing to learn in it.
    """
    names = list(file.table.columns)
    if name not in names:
        near = [other for other in names if other.lower() == name.lower()]
        raise CliError(
            f"{file.path} has no column {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else f". Its columns: {listed(names)}.")
        )
    column = file.table.columns[name]
    _, reading = as_written(column, decimal or guess_decimal(file.table), missing)
    if reading is not None and mostly_numbers(column, reading) and (column.sort != "truths"):
        return _of_numbers(file, column, reading, task)
    return _of_texts(file, column, reading, task, missing)


def _of_numbers(file: File, column: Column, reading: Reading, task: str | None) -> Target:
    rows = np.flatnonzero(~np.isnan(reading.values))
    values, name = reading.values[rows], column.name
    finite(file.table, name, reading.values)
    notes = [told_of_strays(file.table, column, reading, "number")] if reading.strays else []
    if reading.written:
        notes.append(f"{name}: numbers {reading.written}.")
    different = len(np.unique(values))
    whole = bool(np.all(values == np.round(values)) and np.max(np.abs(values)) < 2**53)
    repeated = different <= max(2, len(rows) // 3)
    found = "classification" if whole and repeated and different <= MOST_CLASSES else "regression"
    if task is not None:
        why = "as asked for"
    elif found == "classification":
        why = f"{different} different whole numbers; --task regression if they are amounts"
    else:
        why = f"{different:,} different numbers"
    if (task or found) == "classification":
        if not whole and different > MOST_CLASSES:
            raise CliError(f"classification needs classes; {name!r} has {different:,} different numbers.")
        labels = _labels([column.cell(int(row)) for row in rows])
        return _classes(Target(name, "classification", why, labels, rows, notes))
    if different == 1:
        raise CliError(f"there is nothing to learn: the target {name!r} is {values[0]:g} in every row.")
    return Target(name, "regression", why, values, rows, notes)


def _of_texts(file: File, column: Column, reading: Reading | None, task: str | None, missing: frozenset[str]) -> Target:
    name = column.name
    dates = read_dates(column, "mdy", missing)
    if dates is not None and dates.n_there and not dates.strays:
        raise CliError(f"the target {name!r} holds dates; a target must be classes or amounts.")
    column = column.as_texts()
    rows = np.flatnonzero(~gaps_among(column, missing)[column.values])
    if not len(rows):
        raise CliError(f"{file.path}: the target {name!r} is missing in every row.")
    if task == "regression":
        bad = stray_rows(column, reading.strays) if reading is not None else rows
        row = int((bad if len(bad) else rows)[0])
        cell = column.texts[column.values[row]]
        raise CliError(f"regression needs a target of numbers; {name!r} has {cell!r} in {file.table.place(row)}.")
    texts = [column.texts[code].strip() for code in column.values[rows]]
    if {loosely(text) for text in texts} <= set(TRUTHS):  # True, TRUE and true are one truth, written as it was first
        first: dict[str, str] = {}
        texts = [first.setdefault(loosely(text), text) for text in texts]
    labels = _labels(texts)
    notes = [
        f"{name}: {label!r} is a class, as it is written; --missing {label} if it says that there is none."
        for label in np.unique(labels).tolist()
        if str(label).lower() in GAPS_AMONG_NUMBERS
    ]
    why = "its values are text" if reading is None or reading.strays else "its values are codes"
    return _classes(Target(name, "classification", why, labels, rows, notes))


def _labels(texts: list[str]) -> HostArray:
    """Labels letter for letter: as whole numbers where that loses no letter, and as texts otherwise."""
    if all(len(text) < 16 and text.removeprefix("-").isdecimal() and str(int(text)) == text for text in set(texts)):
        return np.asarray([int(text) for text in texts], dtype=np.int64)
    return np.asarray(texts, dtype=np.str_)


def _classes(target: Target) -> Target:
    classes = np.unique(target.values)
    if len(classes) == 1:
        raise CliError(f"there is nothing to learn: the target {target.name!r} is {classes[0]!s} in every row.")
    if len(classes) > max(MOST_CLASSES, len(target.values) // 4):
        raise CliError(
            f"the target {target.name!r} has {len(classes):,} classes in {len(target.values):,} rows: too few of each "
            "to learn from. Is it the right column?"
        )
    return target


def as_classes(y: HostArray, classes: HostArray) -> tuple[HostArray, HostArray]:
    """The labels of a table as those of a model, and which of them it knows; the others mean nothing.

    Compared as they are written: a cast to the classes' own type would cut text, and take apple for a. What is not
    found so is found by what two writings of one label share: 3 and 3.0, True and TRUE.
    """
    names = [str(label) for label in classes.tolist()]
    where = {name: i for i, name in enumerate(names)}
    loose: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        loose.setdefault(loosely(name), []).append(i)
    found = []
    for label in map(str, y.tolist()):
        same = loose.get(loosely(label), [])
        found.append(where.get(label, same[0] if len(same) == 1 else -1))
    at = np.asarray(found)
    return classes[at], at >= 0


def chosen(file: File, asked: str, known: Sequence[str]) -> list[str]:
    """The columns that an argument names: it is one itself, or names and patterns of * and ?, with commas between.

    Raises
    ------
    CliError
        If a part of it fits no column.
    """
    if asked in known:
        return [asked]
    found: list[str] = []
    for part in filter(None, map(str.strip, asked.split(","))):
        # Brackets are letters: x[0] is a name, and x0 is another.
        fitting = [part] if part in known else fnmatch.filter(known, part.replace("[", "[[]"))
        if not fitting:
            raise CliError(f"{file.path} has no column {part!r}. Its columns: {listed(list(known))}.")
        found += fitting
    return list(dict.fromkeys(found))


def words(asked: str) -> tuple[str, ...]:
    """Words, with commas between them."""
    return tuple(filter(None, map(str.strip, asked.split(","))))


def split(strata: HostArray | None, n: int, shares: Sequence[float], rng: np.random.Generator) -> list[Any]:
    """The rows in as many parts as there are shares, and one more with the rest, each with its share of every class."""
    groups = [np.arange(n)] if strata is None else [np.flatnonzero(strata == c) for c in np.unique(strata)]
    parts: list[list[HostArray]] = [[] for _ in range(len(shares) + 1)]
    for group in groups:
        order = rng.permutation(group)
        at = 0
        for part, share in zip(parts, shares, strict=False):
            stop = at + round(share * len(group))
            part.append(order[at:stop])
            at = stop
        parts[-1].append(order[at:])
    return [np.sort(np.concatenate(part)) for part in parts]
