"""Tables of whatever kind as columns of four sorts: what a frame, an array or a list of dicts says of itself, no more.

What the cells of a column of texts mean is asked later, of `cells`, once per different text.
"""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import narwhals as nw
import numpy as np
from sklearn.utils import check_array

from xpmlp import checks
from xpmlp.backends import HostArray
from xpmlp.tabular.cells import text_of

LARGEST = 1e15  # whole numbers from here are codes: float64 no longer tells each from the next


def row_of(row: int) -> str:
    """Where a row is, for who counts from 0."""
    return f"row {row}"


@dataclass(frozen=True)
class Column:
    """One column, shape (n,).

    `sort` is "numbers" (of any real dtype, NaN is a gap), "dates" (datetime64[s], NaT), or "texts", "categories",
    "truths": then the values are codes, indices of `texts`, and -1 is a gap. They may be the caller's own.
    """

    name: str
    sort: str
    values: HostArray
    texts: tuple[str, ...] = ()

    def as_texts(self) -> "Column":
        """The column with its values written out; whole numbers without a decimal point."""
        if self.texts or self.sort not in ("numbers", "dates"):
            return self
        if self.sort == "dates":
            cells = [None if np.isnat(value) else str(value) for value in self.values]
        else:
            cells = [None if math.isnan(value) else text_of(value) for value in self.values.astype(np.float64).tolist()]
        return of_texts(self.name, cells, "texts")

    def cell(self, row: int) -> str:
        """The text that a row has."""
        one = replace(self, values=self.values[row : row + 1]).as_texts()
        code = int(one.values[0])
        return "" if code < 0 else one.texts[code]

    def take(self, rows: HostArray) -> "Column":
        """Some of the rows, with the texts that they have."""
        values = self.values[rows]
        if not self.texts:
            return replace(self, values=values)
        used = np.unique(values[values >= 0])
        number = np.full(len(self.texts) + 1, -1)  # the last is what -1 stands for
        number[used] = np.arange(len(used))
        return replace(self, values=number[values], texts=tuple(self.texts[code] for code in used))


@dataclass(frozen=True)
class Table:
    """Columns of one length, by name, in the order they came in."""

    columns: dict[str, Column]
    n_rows: int
    named: bool = True  # whether the names came with the data
    place: Callable[[int], str] = field(default=row_of, compare=False)  # where a row is, in messages

    def take(self, rows: HostArray) -> "Table":
        """Some of the rows, which still know where they were."""
        place = self.place
        kept = [int(row) for row in rows]
        taken = {name: column.take(rows) for name, column in self.columns.items()}
        return Table(taken, len(kept), self.named, lambda row: place(kept[row]))


def of_texts(name: str, cells: Sequence[str | None], sort: str = "texts") -> Column:
    """A column from its cells; None is a gap."""
    index: dict[str, int] = {}
    codes = np.fromiter(
        (-1 if cell is None else index.setdefault(cell, len(index)) for cell in cells), np.int64, len(cells)
    )
    return Column(name, sort, codes, tuple(index))


def table_of(X: Any) -> Table:
    """The columns of a table.

    Parameters
    ----------
    X : frame, array, list of dicts, or dict of columns
        A frame of pandas, polars, pyarrow or whatever narwhals reads, of shape (n, p); an array of numbers, texts or
        objects, shape (n, p), a structured array of shape (n,), lists of lists; a list of one dict for each row.

    Returns
    -------
    Table

    Raises
    ------
    TypeError, ValueError
        If it is no table: one axis, no rows, two columns of one name, cells that are no values (lists, bytes).
    """
    if isinstance(X, Table):
        return X
    if hasattr(X, "toarray"):
        check_array(X, accept_sparse=False)  # refuses it, and says what to do
    if hasattr(X, "__dask_graph__") and not hasattr(X, "chunks"):  # an array of Dask's becomes one in memory
        raise TypeError(
            "X must be a table in memory; this one is in Dask's partitions: the estimators of xpmlp.dask train and "
            "predict where these are, and X.compute() brings them here."
        )
    frame = nw.from_native(X, pass_through=True, eager_only=False)
    if isinstance(frame, nw.LazyFrame):
        raise TypeError("X must be a table in memory; this one is lazy: call .collect() first.")
    if isinstance(frame, nw.DataFrame):
        return _of_frame(frame)
    if isinstance(X, list) and X and all(isinstance(row, Mapping) for row in X):
        names = list(dict.fromkeys(name for row in X for name in row))
        return _of_lists({name: [row.get(name) for row in X] for name in names}, len(X))
    if isinstance(X, Mapping):
        for name, values in X.items():
            if isinstance(values, str) or not hasattr(values, "__len__"):
                raise TypeError(
                    f"X as a dict must hold columns, one list each; {name!r} is a single {type(values).__name__}. "
                    "One row alone is a list of one dict: [X]."
                )
        parts = {name: list(values) for name, values in X.items()}
        lengths = {len(values) for values in parts.values()}
        if len(lengths) != 1:
            raise ValueError(
                f"all columns of X must have the same number of rows; got {sorted(lengths) or 'no column'}."
            )
        return _of_lists(parts, lengths.pop())
    if getattr(getattr(X, "dtype", None), "names", None):
        return _of_lists({name: list(X[name]) for name in X.dtype.names}, len(X))
    return _of_array(X)


def _of_frame(frame: Any) -> Table:
    names = list(frame.columns)
    if len(set(map(str, names))) < len(names):
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        raise ValueError(f"every column needs a name of its own; {', '.join(map(repr, twice))} comes twice.")
    if not len(frame) or not names:
        raise ValueError(f"X must hold at least one row and one column; got shape {frame.shape}.")
    # As scikit-learn has it: names that are not all texts are no names.
    named = all(isinstance(name, str) for name in names)
    columns = {}
    for i in range(len(names)):
        name = names[i] if named else f"x{i}"
        columns[name] = _of_series(name, frame[:, i])  # by place: a name that is a number would be taken for one
    return Table(columns, len(frame), named)


def _of_series(name: str, series: Any) -> Column:
    kind = series.dtype
    if kind == nw.Boolean:
        return _of_cells(name, series.to_list(), "truths")
    if kind.is_integer() or kind.is_float():
        values = _at_once(series)
        if values is not None and not (kind.is_integer() and _has_codes(values)):
            return Column(name, "numbers", values)
    if kind.is_integer():
        cells = [None if _nothing(cell) else cell for cell in series.to_list()]
        if any(cell is not None and abs(cell) >= LARGEST for cell in cells):
            return of_texts(name, [None if cell is None else str(cell) for cell in cells])
        return Column(name, "numbers", np.array([math.nan if cell is None else cell for cell in cells], np.float64))
    if kind.is_numeric():  # floats and decimals
        cells = series.cast(nw.Float64).to_list()
        return Column(name, "numbers", np.array([math.nan if _nothing(cell) else cell for cell in cells], np.float64))
    if kind in (nw.Categorical, nw.Enum):
        return _of_cells(name, series.cast(nw.String).to_list(), "categories")
    if kind == nw.Datetime:
        # What its clock shows: an hour of the day means that of the place.
        series = series.dt.replace_time_zone(None) if kind.time_zone else series
        return Column(name, "dates", np.asarray(series.to_numpy()).astype("datetime64[s]"))
    if kind == nw.Date:
        return Column(name, "dates", np.array(series.to_list(), dtype="datetime64[s]"))
    return _of_cells(name, series.to_list())


def _at_once(series: Any) -> HostArray | None:
    """A column of numbers without a look at each cell; None where its gaps are objects."""
    values = np.asarray(series.to_numpy())
    return values if values.dtype.kind in "iuf" else None


def _has_codes(values: HostArray) -> bool:
    return bool(np.any(np.abs(values.astype(np.float64)) >= LARGEST))  # as integers, the smallest has no |.|


def _of_lists(parts: Mapping[Any, list[Any]], n: int) -> Table:
    named = all(isinstance(name, str) for name in parts)
    columns = {}
    for i, (original, cells) in enumerate(parts.items()):
        name = original if named else f"x{i}"
        columns[name] = _of_cells(name, cells)
    if not columns or not n:
        raise ValueError(f"X must hold at least one row and one column; got {n} rows of {len(columns)} columns.")
    return Table(columns, n, named)


def _of_array(X: Any) -> Table:
    # scikit-learn's own words for what is no array of two axes; gaps and infinities are told apart later, by place.
    array = check_array(X, dtype=None, ensure_all_finite=False)
    names = [f"x{i}" for i in range(array.shape[1])]
    if array.dtype.kind in "iuf":
        wide = array.dtype.kind in "iu" and array.dtype.itemsize == 8
        columns = {
            name: _of_cells(name, array[:, i].tolist())
            if wide and _has_codes(array[:, i])
            else Column(name, "numbers", array[:, i])
            for i, name in enumerate(names)
        }
    elif array.dtype.kind == "M":
        columns = {name: Column(name, "dates", array[:, i].astype("datetime64[s]")) for i, name in enumerate(names)}
    else:
        columns = {name: _of_cells(name, array[:, i].tolist()) for i, name in enumerate(names)}
    return Table(columns, len(array), named=False)


def _of_cells(name: str, cells: list[Any], sort: str | None = None) -> Column:
    """A column of Python's own values: whatever sort they are of, one of texts where they are mixed."""
    there = [cell for cell in cells if not _nothing(cell)]
    if sort is None and there:
        if all(isinstance(cell, bool | np.bool_) for cell in there):
            sort = "truths"
        elif all(isinstance(cell, timedelta | np.timedelta64) for cell in there):
            day = np.timedelta64(1, "D")
            days = [math.nan if _nothing(cell) else float(np.timedelta64(cell) / day) for cell in cells]
            return Column(name, "numbers", np.array(days, np.float64))
        elif all(isinstance(cell, datetime | date | np.datetime64) for cell in there):
            stamps = [np.datetime64("NaT") if _nothing(cell) else np.datetime64(_bare(cell), "s") for cell in cells]
            return Column(name, "dates", np.array(stamps, "datetime64[s]"))
        elif all(_is_amount(cell) for cell in there):
            values = [math.nan if _nothing(cell) else float(cell) for cell in cells]
            return Column(name, "numbers", np.array(values, np.float64))
    if sort is None and not there:
        return Column(name, "numbers", np.full(len(cells), math.nan))
    return of_texts(name, [None if _nothing(cell) else _text(name, cell) for cell in cells], sort or "texts")


def _is_amount(cell: Any) -> bool:
    if isinstance(cell, bool | np.bool_) or not isinstance(cell, numbers.Real | Decimal):
        return False
    return not isinstance(cell, numbers.Integral) or abs(int(cell)) < LARGEST


def _bare(cell: Any) -> Any:
    return cell.replace(tzinfo=None) if isinstance(cell, datetime) else cell


def _nothing(cell: Any) -> bool:
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(cell, np.datetime64 | np.timedelta64):
        return bool(np.isnat(cell))
    return isinstance(cell, numbers.Real | Decimal) and math.isnan(cell)


def _text(name: str, cell: Any) -> str:
    if isinstance(cell, str):
        return str(cell)
    if isinstance(cell, bool | np.bool_):
        return "true" if cell else "false"
    if isinstance(cell, numbers.Integral):
        return str(int(cell))
    if isinstance(cell, numbers.Real | Decimal):
        return text_of(float(cell))
    if isinstance(cell, date | time | timedelta | np.datetime64 | np.timedelta64):
        return str(cell)
    raise TypeError(
        f"column {name!r} must hold numbers, texts, truths or dates; it holds a {type(cell).__name__}. "
        "Each argument must be a string, a number, a truth or a date: spread lists over columns of their own, or leave "
        "the column out."
    )


def chosen_columns(asked: Any, names: list[str]) -> set[str]:
    """The names of the columns that were asked to be categories."""
    if isinstance(asked, str):
        checks.option(asked, "categorical_features", ("from_dtype",))
        return set()
    items = [] if asked is None else list(asked)
    if items and all(isinstance(item, bool | np.bool_) for item in items):
        if len(items) != len(names):
            raise ValueError(
                f"categorical_features as a mask must have an entry for each of {len(names)} columns; got {len(items)}."
            )
        return {name for name, item in zip(names, items, strict=True) if item}
    found = set()
    for item in items:
        if isinstance(item, str) and item in names:
            found.add(item)
        elif not isinstance(item, str) and 0 <= checks.integer(item, "categorical_features", least=0) < len(names):
            found.add(names[int(item)])
        else:
            raise ValueError(
                f"categorical_features must name columns of the table; {item!r} is none. Its columns: {listed(names)}."
            )
    return found


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for a message, not too many."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def rows_among(rows: Any, n: int) -> HostArray:
    """The numbers of rows, of a table of n, that an argument gives, as such or as a mask; ValueError otherwise."""
    chosen = np.asarray(rows)
    if chosen.dtype == bool and chosen.shape == (n,):
        chosen = np.flatnonzero(chosen)
    integers = chosen.dtype.kind in "iu" and chosen.ndim == 1
    if not integers or not len(chosen) or chosen.min() < 0 or chosen.max() >= n:
        raise ValueError(
            f"rows must be numbers of rows of X, from 0 to {n - 1}, one at least, or a mask of {n}; got {rows!r}."
        )
    return chosen
