"""What columns are, as plain JSON and back; nothing of a stranger's file is believed before it is checked."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp.tabular.kinds import DATE_PARTS, CategoryKind, DateKind, Kind, LeftOut, NumberKind

KINDS = {"number": NumberKind, "date": DateKind, "category": CategoryKind, "left out": LeftOut}
NAMES = {row: name for name, row in KINDS.items()}


def kind_entry(kind: Kind) -> list[Any]:
    """What a column is, as the pair of its kind's name and its fields."""
    fields = dataclasses.asdict(kind).items()
    return [NAMES[type(kind)], {name: list(value) if isinstance(value, tuple) else value for name, value in fields}]


def kind_from(name: str, entry: Mapping[str, Any]) -> Kind:
    """What a column is, from such a pair; ValueError, TypeError or KeyError where it makes no sense."""
    row = KINDS[name]
    texts = {"name", "why", "first"}
    values = {}
    for column in dataclasses.fields(row):
        value = entry[column.name]
        if column.name in texts and not isinstance(value, str):
            raise TypeError(f"{column.name} must be text; got {type(value).__name__}.")
        if column.name in ("parts", "levels"):
            value = tuple(_texts(value, none=column.name == "levels"))
        if column.name in ("gaps", "quietly") and not isinstance(value, bool):
            raise TypeError(f"{column.name} must be true or false; got {value!r}.")
        values[column.name] = value
    kind: Kind = row(**values)
    if isinstance(kind, NumberKind):
        checks.option(kind.decimal, "decimal", (None, ".", ","))  # type: ignore[arg-type]
    if isinstance(kind, DateKind):
        checks.option(kind.order, "order", ("mdy", "dmy"))
        np.datetime64(kind.first, "s")
        for part in kind.parts:
            checks.option(part, "part", DATE_PARTS)
    if isinstance(kind, CategoryKind) and not kind.levels:
        raise ValueError(f"category {kind.name!r} must have levels.")
    return kind


def _texts(values: Any, *, none: bool) -> Iterable[Any]:
    if not isinstance(values, list) or not all(isinstance(v, str) or (none and v is None) for v in values):
        raise TypeError(f"it must be a list of texts; got {values!r}."[:200])
    return values
