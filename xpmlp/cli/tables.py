"""Tables from files: CSV with the standard library, npz with NumPy, Parquet with pyarrow or polars where installed.

A column is a NumPy array: of floats, where NaN is missing, or of objects, each a text or None. A CSV file says only
texts; whether they are numbers is asked of the column when it is used.
"""

import csv
import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.cli.screen import CliError

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "?"})
DELIMITERS = (",", ";", "\t", "|")
FORMATS = (".csv", ".tsv", ".txt", ".npz", ".parquet", ".pq")


@dataclass(frozen=True)
class Table:
    """Columns of one length, by name."""

    source: str
    columns: dict[str, HostArray]
    first_line: int = 0  # of the first row in the file, where rows are lines
    decimal_comma: bool = False  # whether 3,5 may be a number

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def place(self, row: int) -> str:
        """Where a row is, in the words of who looks for it."""
        return f"line {row + self.first_line}" if self.first_line else f"row {row + 1}"

    def numbers(self, name: str) -> HostArray | None:
        """The column as floats with NaN for what is missing, or None where some cell is no number."""
        column = self.columns[name]
        if column.dtype != object:
            return column
        texts = ["nan" if cell is None else cell for cell in column]
        if self.decimal_comma:
            texts = [text.replace(",", ".") for text in texts]
        try:
            # NumPy reads 1_000 and infinity too, as Python does.
            return np.asarray(texts, dtype=np.str_).astype(np.float64) if texts else np.zeros(0)
        except ValueError:
            return None

    def not_a_number(self, name: str) -> str:
        """The first cell of a column that is none, and where it is."""
        for row, cell in enumerate(self.columns[name]):
            one = Table(self.source, {name: self.columns[name][row : row + 1]}, decimal_comma=self.decimal_comma)
            if one.numbers(name) is None:
                return f"{cell!r} in {self.place(row)}"
        return "nothing"

    def texts(self, name: str) -> HostArray:
        """The column as texts, None for what is missing; whole numbers without a decimal point."""
        column = self.columns[name]
        if column.dtype == object:
            return column
        texts = np.empty(len(column), dtype=object)
        texts[:] = [_text(value) for value in map(float, column)]
        return texts

    def without(self, names: set[str]) -> "Table":
        """The table less some columns."""
        left = {name: column for name, column in self.columns.items() if name not in names}
        return Table(self.source, left, self.first_line, self.decimal_comma)

    def rows(self, index: HostArray) -> "Table":
        """Some of the rows; messages no longer know their lines."""
        chosen = {name: column[index] for name, column in self.columns.items()}
        return Table(self.source, chosen, 0, self.decimal_comma)


def _text(value: float) -> str | None:
    if math.isnan(value):
        return None
    return f"{value:.0f}" if value.is_integer() else repr(value)


def read(path: str, *, delimiter: str | None = None, header: bool = True) -> Table:
    """The table in a file, whose format its name says.

    Raises
    ------
    CliError
        If it is not such a file, or no table: rows of unequal length, two columns of one name, no rows.
    OSError
        If it cannot be opened.
    """
    suffix = Path(path).suffix.lower()
    readers: dict[str, Callable[[str], Table]] = {".npz": _npz, ".parquet": _parquet, ".pq": _parquet}
    if suffix not in FORMATS:
        raise CliError(f"{path}: a table must be a file named {', '.join(FORMATS)}; got {suffix or 'no ending'!r}.")
    table = readers[suffix](path) if suffix in readers else _csv(path, delimiter, header)
    if not table.columns or table.n_rows == 0:
        raise CliError(f"{path} holds no rows.")
    return table


def _csv(path: str, delimiter: str | None, header: bool) -> Table:
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CliError(
            f"{path} must be UTF-8; byte {error.start:,} is not. Convert it: "
            f"iconv -f latin1 -t utf-8 {path} > converted.csv"
        ) from error
    if "\0" in text:
        raise CliError(f"{path} holds zero bytes, so it is no text. Is it a spreadsheet? Save it as CSV.")
    first = text.lstrip("\r\n").partition("\n")[0]
    if delimiter is None:
        delimiter = max(DELIMITERS, key=first.count)
    rows: list[list[str]] = []
    lines: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        for row in reader:
            if row:  # blank lines are none
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise CliError(f"{path}, line {reader.line_num}: {error}.") from error
    if not rows:
        raise CliError(f"{path} is empty.")
    names = _header(path, rows.pop(0)) if header else [f"column{i}" for i in range(1, len(rows[0]) + 1)]
    first_line = lines[1] if header and len(lines) > 1 else lines[0]
    for row, line in zip(rows, lines[len(lines) - len(rows) :], strict=True):
        if len(row) != len(names):
            raise CliError(
                f"{path}, line {line}: {len(row)} cells, where the header has {len(names)}. "
                f"A cell that holds {delimiter!r} must be in quotes."
            )
    columns: dict[str, HostArray] = {}
    for name, cells in zip(names, zip(*rows, strict=True), strict=False):
        column = np.empty(len(cells), dtype=object)
        column[:] = [None if cell.lower() in MISSING else cell for cell in cells]
        columns[name] = column
    return Table(path, columns, first_line, decimal_comma=delimiter == ";" and _has_decimal_commas(columns))


def _has_decimal_commas(columns: dict[str, HostArray]) -> bool:
    cells = [cell for column in columns.values() for cell in column[:100] if cell]
    numbers = [cell for cell in cells if cell.lstrip("+-").replace(",", "", 1).replace(".", "", 1).isdigit()]
    return any("," in cell for cell in numbers) and not any("." in cell for cell in numbers)


def _header(path: str, names: list[str]) -> list[str]:
    if all(name.lower() in MISSING or _is_number(name) for name in names):
        raise CliError(
            f"{path}: the first line must name the columns; it holds {', '.join(names[:3])}. Try --no-header."
        )
    if "" in names:
        names = [name or f"column{i}" for i, name in enumerate(names, start=1)]  # as pandas writes its index
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CliError(f"{path}: every column needs a name of its own; {', '.join(map(repr, twice))} comes twice.")
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _npz(path: str) -> Table:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise CliError(f"{path} is no npz file of plain arrays: {error}.") from error
    columns: dict[str, HostArray] = {}
    for name, array in arrays.items():
        if array.ndim not in (1, 2):
            raise CliError(f"{path}: arrays must have one axis or two; {name!r} has shape {array.shape}.")
        parts = [(name, array)] if array.ndim == 1 else [(f"{name}{i}", array[:, i]) for i in range(array.shape[1])]
        columns |= {part: _column(path, part, values) for part, values in parts}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {n:,}" for name, n in lengths.items())
        raise CliError(f"{path}: all arrays must have the same number of rows; got {told}.")
    return Table(path, columns)


def _column(path: str, name: str, values: HostArray) -> HostArray:
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    if values.dtype.kind not in "bUO":
        raise CliError(f"{path}: column {name!r} must hold numbers or text; its dtype is {values.dtype}.")
    column = np.empty(len(values), dtype=object)
    column[:] = [None if value is None or str(value).strip().lower() in MISSING else str(value) for value in values]
    return column


def _parquet(path: str) -> Table:
    with open(path, "rb"):  # says what is wrong in Python's words where it cannot be opened
        pass
    try:
        columns = _with_pyarrow(path)
    except ImportError:
        try:
            columns = _with_polars(path)
        except ImportError as error:
            raise CliError(f"reading {path} needs pyarrow; install it with pip install pyarrow.") from error
    return Table(path, {name: _column(path, name, values) for name, values in columns.items()})


def _with_pyarrow(path: str) -> dict[str, HostArray]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pa.ArrowInvalid as error:
        raise CliError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from error
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            columns[name] = column.cast(pa.float64()).to_numpy()
        else:
            columns[name] = _objects(column.to_pylist())
    return columns


def _with_polars(path: str) -> dict[str, HostArray]:
    import polars as pl

    try:
        frame = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise CliError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from error
    return {
        column.name: column.cast(pl.Float64).to_numpy() if column.dtype.is_numeric() else _objects(column.to_list())
        for column in frame
    }


def _objects(values: list[Any]) -> HostArray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
