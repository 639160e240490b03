"""From the columns of a table to the inputs of a network, and what a model file remembers of that.

    numbers      (value - mean) / scale; a missing one is the median; where some were missing in training, another input
                 is 1 for those and 0 for the rest
    categories   one input per category, 1 for the rows that have it; missing is a category, where there was one; what
                 training has not seen is 0 in all of them

All of it is learned from the rows that the network is trained on, and stands in the file as plain JSON.
"""

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.cli.screen import CliError
from xpmlp.cli.tables import Table

MOST_CATEGORIES = 100  # of a column; rarer ones share the zeros of what training has not seen
MOST_CLASSES = 20  # of a target of whole numbers that counts as classes if nobody says so, with 3 rows of each
SEEN_ONCE = 0.5  # a column of text of which more than this share is different is a name, a key or a date
FORMAT = 1


@dataclass(frozen=True)
class Number:
    """A column of numbers."""

    name: str
    mean: float
    scale: float
    fill: float  # what stands for a missing one, before scaling
    flags_missing: bool

    @property
    def inputs(self) -> list[str]:
        """The names of the network's inputs that it makes."""
        return [self.name, f"{self.name} is missing"] if self.flags_missing else [self.name]


@dataclass(frozen=True)
class Category:
    """A column of text, or of numbers that are names."""

    name: str
    levels: tuple[str | None, ...]  # None is missing

    @property
    def inputs(self) -> list[str]:
        """The names of the network's inputs that it makes."""
        return [f"{self.name} is missing" if level is None else f"{self.name} = {level}" for level in self.levels]


@dataclass(frozen=True)
class Target:
    """The column that is predicted."""

    name: str
    task: str  # "classification" or "regression"
    why: str  # it is that
    values: HostArray  # of the rows that have one: labels or floats
    rows: HostArray  # their numbers


@dataclass(frozen=True)
class Preparation:
    """What turns a table into inputs, and answers into a table."""

    target: str
    task: str
    columns: tuple[Number | Category, ...]
    left_out: tuple[tuple[str, str], ...]  # name, why

    @property
    def inputs(self) -> list[str]:
        """The names of the network's inputs."""
        return [name for column in self.columns for name in column.inputs]

    def apply(self, table: Table) -> tuple[HostArray, list[str]]:
        """The inputs, shape (rows, inputs), and what is to be said about the table.

        Raises
        ------
        CliError
            If a column is missing, or holds text where the model knows numbers.
        """
        absent = [column.name for column in self.columns if column.name not in table.columns]
        if absent:
            raise CliError(
                f"{table.source} must have the columns that the model was trained on; "
                f"{', '.join(map(repr, absent))} {'is' if len(absent) == 1 else 'are'} not there."
            )
        X = np.zeros((table.n_rows, len(self.inputs)))
        notes: list[str] = []
        at = 0
        for column in self.columns:
            n = len(column.inputs)
            block = X[:, at : at + n]
            notes += _number(column, table, block) if isinstance(column, Number) else _category(column, table, block)
            at += n
        return X, notes

    def document(self) -> dict[str, Any]:
        """It as JSON."""
        return {
            "format": FORMAT,
            "target": self.target,
            "task": self.task,
            "columns": [
                {"number": [c.name, c.mean, c.scale, c.fill, c.flags_missing]}
                if isinstance(c, Number)
                else {"category": [c.name, list(c.levels)]}
                for c in self.columns
            ],
            "left_out": [list(pair) for pair in self.left_out],
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Preparation":
        """Back from JSON; ValueError, TypeError or KeyError where it makes no sense."""
        if document["format"] != FORMAT:
            raise ValueError(f"its preparation has format {document['format']!r}, and this version reads {FORMAT}.")
        columns: list[Number | Category] = []
        for entry in document["columns"]:
            ((kind, content),) = entry.items()
            if kind == "number":
                name, mean, scale, fill, flags = content
                if not float(scale) > 0:
                    raise ValueError(f"a scale must be above 0; got {scale!r}.")
                columns.append(Number(str(name), float(mean), float(scale), float(fill), bool(flags)))
            elif kind == "category":
                name, levels = content
                columns.append(Category(str(name), tuple(None if level is None else str(level) for level in levels)))
            else:
                raise ValueError(f"a column must be a number or a category; got {kind!r}.")
        left_out = tuple((str(name), str(why)) for name, why in document["left_out"])
        return cls(str(document["target"]), str(document["task"]), tuple(columns), left_out)


def _number(column: Number, table: Table, out: HostArray) -> list[str]:
    values = table.numbers(column.name)
    if values is None:
        raise CliError(
            f"{table.source}: column {column.name!r} must hold numbers, as in training; "
            f"it has {table.not_a_number(column.name)}."
        )
    if np.any(np.isinf(values)):
        raise CliError(f"{table.source}: column {column.name!r} must be finite; it holds infinity.")
    missing = np.isnan(values)
    out[:, 0] = (np.where(missing, column.fill, values) - column.mean) / column.scale
    if column.flags_missing:
        out[:, 1] = missing
    elif np.any(missing):
        return [f"{column.name}: {np.sum(missing):,} missing, none in training; taken for the median, {column.fill:g}."]
    return []


def _category(column: Category, table: Table, out: HostArray) -> list[str]:
    where = {level: i for i, level in enumerate(column.levels)}
    unseen: Counter[str] = Counter()
    for row, text in enumerate(table.texts(column.name)):
        if text in where:
            out[row, where[text]] = 1.0
        else:
            unseen["nothing" if text is None else repr(text)] += 1
    if not unseen:
        return []
    names = ", ".join(name for name, _ in unseen.most_common(3)) + (", ..." if len(unseen) > 3 else "")
    rows = "1 row" if unseen.total() == 1 else f"{unseen.total():,} rows"
    return [f"{column.name}: {rows} with what the model has no input for ({names}): all zeros."]


def read_target(table: Table, name: str, task: str | None) -> Target:
    """The target's values, and whether they are classes or amounts.

    Raises
    ------
    CliError
        If there is no such column, or nothing to learn in it.
    """
    if name not in table.columns:
        near = [other for other in table.columns if other.lower() == name.lower()]
        raise CliError(
            f"{table.source} has no column {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else f". Its columns: {_some(list(table.columns), 12)}.")
        )
    numbers, texts = table.numbers(name), table.texts(name)
    rows = np.flatnonzero([text is not None for text in texts])
    if len(rows) == 0:
        raise CliError(f"{table.source}: the target {name!r} is missing in every row.")
    if numbers is None:
        why = "its values are text"
        if task == "regression":
            raise CliError(f"regression needs a target of numbers; {name!r} has {table.not_a_number(name)}.")
        return _classes(Target(name, "classification", why, np.asarray(texts[rows].tolist(), dtype=np.str_), rows))
    values = numbers[rows]
    if not np.all(np.isfinite(values)):
        raise CliError(f"{table.source}: the target {name!r} must be finite; it holds infinity.")
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
        labels = values.astype(np.int64) if whole else np.asarray([str(value) for value in values])
        return _classes(Target(name, "classification", why, labels, rows))
    if different == 1:
        raise CliError(f"there is nothing to learn: the target {name!r} is {values[0]:g} in every row.")
    return Target(name, "regression", why, values, rows)


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


def learn(table: Table, target: str, task: str, categorical: Sequence[str], drop: Sequence[str]) -> Preparation:
    """Find out what each column is, from the rows to train on; `categorical` and `drop` are names or patterns.

    Raises
    ------
    CliError
        If a name or pattern fits no column, or no column is left.
    """
    names = [name for name in table.columns if name != target]
    for pattern in (*categorical, *drop):
        if not fnmatch.filter(names, pattern) and pattern not in names:
            raise CliError(f"{table.source} has no column {pattern!r}. Its columns: {_some(names, 12)}.")
    columns: list[Number | Category] = []
    left_out: list[tuple[str, str]] = []
    for name in names:
        if _among(name, drop):
            left_out.append((name, "as asked for"))
            continue
        numbers = None if _among(name, categorical) else table.numbers(name)
        column = _learn_category(table, name) if numbers is None else _learn_number(table.source, name, numbers)
        if isinstance(column, str):
            left_out.append((name, column))
        else:
            columns.append(column)
    if not columns:
        told = "; ".join(f"{name}: {why}" for name, why in left_out[:5])
        raise CliError(f"no column of {table.source} is left to learn from" + (f" ({told})." if told else "."))
    return Preparation(target, task, tuple(columns), tuple(left_out))


def _learn_number(source: str, name: str, values: HostArray) -> Number | str:
    there = values[~np.isnan(values)]
    if len(there) == 0:
        return "all missing"
    if np.any(np.isinf(there)):
        raise CliError(f"{source}: column {name!r} must be finite; it holds infinity.")
    missing = len(there) < len(values)
    fill = float(np.median(there))
    filled = np.where(np.isnan(values), fill, values)
    mean, scale = float(np.mean(filled)), float(np.std(filled))
    if not np.isfinite(scale):
        raise CliError(f"{source}: column {name!r} holds numbers that are too large: up to {np.max(np.abs(there)):g}.")
    if np.all(there == there[0]):
        if not missing:
            return f"{there[0]:g} in every row"
        scale = 1.0
    return Number(name, mean, scale, fill, missing)


def _learn_category(table: Table, name: str) -> Category | str:
    texts = table.texts(name)
    counts = Counter(text for text in texts if text is not None)
    if not counts:
        return "all missing"
    missing = any(text is None for text in texts)
    if len(counts) == 1 and not missing:
        return f"{next(iter(counts))!r} in every row"
    if len(counts) > max(10, SEEN_ONCE * counts.total()):
        return f"text with {len(counts):,} different values in {counts.total():,} rows"
    levels = sorted(text for text, _ in counts.most_common(MOST_CATEGORIES))
    return Category(name, (*levels, None) if missing else tuple(levels))


def _among(name: str, patterns: Sequence[str]) -> bool:
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def split(strata: HostArray | None, n: int, shares: Sequence[float], rng: np.random.Generator) -> list[HostArray]:
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
