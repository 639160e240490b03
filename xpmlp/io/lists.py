"""Long lists of numbers in a document: in a file they are arrays, because JSON takes many times their room.

`{"list": "list.3"}` stands in the document where the array `list.3` was a list of floats. Its owner sees the list.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np

from xpmlp.backends import HostArray

LONG = 16  # from here on a list is shorter as an array
MARK, NAME = "list", "list.{}"

Arrays = dict[str, HostArray]


def moved_out(document: Mapping[str, Any]) -> tuple[dict[str, Any], Arrays]:
    """The document with a mark for each of its long lists of finite floats, and these lists as arrays."""
    arrays: Arrays = {}
    return _out(document, arrays, count()), arrays


def _out(value: Any, arrays: Arrays, numbers: Iterator[int]) -> Any:
    if isinstance(value, Mapping):
        return {key: _out(item, arrays, numbers) for key, item in value.items()}
    if not isinstance(value, list | tuple):
        return value
    if len(value) >= LONG and all(type(item) is float and math.isfinite(item) for item in value):
        name = NAME.format(next(numbers))
        arrays[name] = np.asarray(value, dtype=np.float64)
        return {MARK: name}
    return [_out(item, arrays, numbers) for item in value]


def moved_in(document: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    """The document with its lists in their places; they are taken out of `arrays`.

    Raises
    ------
    ValueError, KeyError
        If a mark stands for no list of numbers, or for one that another has taken.
    """
    return _in(document, arrays)  # type: ignore[no-any-return]


def _in(value: Any, arrays: Arrays) -> Any:
    if isinstance(value, list):
        return [_in(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {MARK} or not isinstance(value[MARK], str):
        return {key: _in(item, arrays) for key, item in value.items()}
    array = arrays.pop(value[MARK])
    if array.ndim != 1 or array.dtype != np.float64 or not np.all(np.isfinite(array)):
        raise ValueError(f"{value[MARK]} must be a list of finite numbers; got {array.dtype} of shape {array.shape}.")
    return array.tolist()
