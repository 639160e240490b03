"""What kind of thing an argument is: a plain array, or something that looks like one and would be misread.

One function for every public argument that is to be numbers, so that what is refused at one door is refused at all.
"""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

Rule = tuple[Callable[[Any], bool], str]


def _kind(value: Any) -> str:
    return str(getattr(getattr(value, "dtype", None), "kind", ""))


def _is_lazy(value: Any) -> bool:
    return type(value).__name__ in ("LazyFrame", "LazyGroupBy") or (
        hasattr(value, "collect") and not hasattr(value, "shape") and not hasattr(value, "__array__")
    )


def _is_torch_sparse(value: Any) -> bool:
    layout = getattr(value, "layout", None)
    return layout is not None and str(layout).startswith("torch.sparse")


# In this order: who the value is, and what to do about it. "{name}" is what the message calls it.
LOOK_ALIKES: tuple[Rule, ...] = (
    (
        lambda value: isinstance(value, (AbstractSet, Iterator)),
        "must keep its samples in order, and be there more than once; got {type}. Pass list({name}).",
    ),
    (_is_lazy, "is lazy, and holds no numbers yet; call {name}.collect() first."),
    (
        lambda value: isinstance(value, np.matrix),
        "is a numpy.matrix, in which * is a product and a row stays a matrix; pass numpy.asarray({name}).",
    ),
    (
        lambda value: isinstance(value, np.ma.MaskedArray),
        "is a masked array, and what lies under the mask is no data; pass {name}.filled(...), or drop those samples.",
    ),
    (
        lambda value: _kind(value) in ("M", "m"),
        "must hold numbers, and holds dates or times: subtract a date, divide by a unit.",
    ),
    (
        lambda value: getattr(getattr(value, "dtype", None), "names", None) is not None,
        "is a structured array, of columns with names; pass numpy.lib.recfunctions.structured_to_unstructured({name}).",
    ),
    (_is_torch_sparse, "is a sparse tensor; call {name}.to_dense() first, or pass a SciPy CSR matrix to an estimator."),
)

# What NumPy would make an array of, where a door takes whatever NumPy takes.
NO_ARRAYS: tuple[Rule, ...] = (
    (lambda value: value is None, "must be an array or a frame; got None."),
    (
        lambda value: isinstance(value, (str, bytes)),
        "must be an array or a frame; got text. To read a file, open it first, for instance with pandas.read_csv.",
    ),
    (
        lambda value: isinstance(value, Mapping),
        "must be an array or a frame; got a dict. Make a frame of it: pandas.DataFrame({name}).",
    ),
)


def oddity(value: Any, name: str, rules: tuple[Rule, ...] = LOOK_ALIKES) -> str:
    """Why `value` cannot be read as an array of numbers, as a sentence that begins with its name; "" where it can."""
    if type(value) is np.ndarray and value.dtype.kind in "biuf":  # what nearly everybody passes
        return ""
    for holds, sentence in rules:
        if holds(value):
            return f"{name} {sentence.format(name=name, type=type(value).__name__)}"
    return _odd_column(value, name)


def _odd_column(value: Any, name: str) -> str:
    """The same of a frame with a column of dates, which has a dtype of its own."""
    dtypes = getattr(value, "dtypes", None)
    columns = getattr(value, "columns", None)
    if dtypes is None or columns is None or isinstance(value, np.ndarray):
        return ""
    for column, dtype in zip(columns, dtypes, strict=False):
        text = str(dtype).lower()
        if getattr(dtype, "kind", "") in ("M", "m") or text.startswith(("date", "time", "duration")):
            sentence = f"{name} must hold numbers, and its column {column!r} holds dates or times"
            return f"{sentence}: subtract a date, divide by a unit."
    return ""
