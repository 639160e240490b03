"""Tables from files: CSV, Excel, Parquet and npz, known by their first bytes, packed or not.

Libraries read them: pandas CSV and Excel, pyarrow Parquet, NumPy npz. What is done here is what they leave to their
caller: the encoding, the delimiter, comments, the names of the columns, and where in the file a cell stands.
"""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp.cli.screen import CliError
from xpmlp.tabular.cells import GAPS_AMONG_NUMBERS, is_gap, read_number
from xpmlp.tabular.columns import Column, Table, table_of

NEEDS_PANDAS = "pip install 'pandas>=2.2.2' 'pyarrow>=17'"
DELIMITERS = (",", ";", "\t", "|")
SPACES = r"\s+"
SAMPLE = 50  # lines that say which delimiter it is
BOMS = (  # UTF-32's before UTF-16's, which it begins with
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\0": lzma.decompress,
}
ZSTD, ZIP, OLD_EXCEL = b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
CONTROL = re.compile(r"[\x01-\x08\x0e-\x1f]")


@dataclass(frozen=True)
class File:
    """The table in a file, and what is to be said of how it was read."""

    path: str
    table: Table
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """How a text is written, where its reader says so."""

    delimiter: str | None = None
    header: bool | None = None  # None: there is one, and it must look like one
    encoding: str | None = None


def read(path: str, how: Reading | None = None) -> File:
    """The table in a file; its first bytes say what it is.

    Raises
    ------
    CliError
        If it is no table: rows of unequal length, no rows, bytes that are no text; or its reader is not installed.
    OSError
        If it cannot be opened.
    """
    how = how or Reading()
    if Path(path).is_dir():
        raise CliError(f"{path} is a folder; a table is a file.")
    data = _unpacked(path, Path(path).read_bytes())
    suffix = Path(path).suffix.lower()
    if data.startswith(b"PAR1"):
        found = File(path, _parquet(path, data))
    elif data.startswith((ZIP, OLD_EXCEL)) or suffix in (".xlsx", ".xls", ".ods"):
        found = File(path, _archive(path, data))
    elif suffix in (".parquet", ".pq", ".npz"):
        raise CliError(
            f"{path} is no {'npz file of arrays' if suffix == '.npz' else 'Parquet file'}, as its name says."
        )
    else:
        found = _text(path, data, how)
    if not found.table.columns or not found.table.n_rows:
        raise CliError(f"{path} holds no rows.")
    return found


def _unpacked(path: str, data: bytes) -> bytes:
    for start, unpack in UNPACK.items():
        if data.startswith(start):
            try:
                return unpack(data)
            except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
                raise CliError(f"{path} is packed, and broken: {error}.") from error
    if data.startswith(ZSTD):
        try:
            import pyarrow as pa
        except ImportError as error:
            raise CliError(f"reading {path}, which is packed by zstd, needs pyarrow: {NEEDS_PANDAS}.") from error
        try:
            return bytes(pa.CompressedInputStream(pa.BufferReader(data), "zstd").read())
        except (OSError, ValueError) as error:
            raise CliError(f"{path} is packed, and broken: {error}.") from error
    return data


# --- Frames and arrays ---


def _parquet(path: str, data: bytes) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise CliError(f"reading {path} needs pyarrow; install it with {NEEDS_PANDAS}.") from error
    try:
        frame = pyarrow.parquet.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise CliError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from error
    return _at_rows(table_of(frame.rename_columns(_names(frame.column_names)[0])))


def _archive(path: str, data: bytes) -> Table:
    try:
        members = zipfile.ZipFile(io.BytesIO(data)).namelist() if data.startswith(ZIP) else []
    except zipfile.BadZipFile as error:
        raise CliError(f"{path} is an archive, and broken: {error}.") from error
    if members and all(name.endswith(".npy") for name in members):
        return _npz(path, data)
    sheets = not members or any(name.startswith(("xl/", "content.xml")) for name in members)
    if sheets:
        return _excel(path, data)
    raise CliError(f"{path} is an archive of {len(members)} files, and no table; unpack it first.")


def _excel(path: str, data: bytes) -> Table:
    try:
        import pandas as pd

        frame = pd.read_excel(io.BytesIO(data), dtype=object)
    except ImportError as error:
        wanted = re.search(r"'(\w+)'", str(error))
        what = wanted[1] if wanted and wanted[1] != "pandas" else "pandas openpyxl"
        raise CliError(f"reading {path} needs {what}: pip install {what}; or save it as CSV.") from error
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise CliError(f"{path} is no spreadsheet that can be read; save it as CSV. {error}") from error
    frame.columns = _names([str(name) for name in frame.columns])[0]
    table = table_of(frame) if len(frame) else Table({}, 0)
    return Table(table.columns, table.n_rows, place=lambda row: f"row {row + 2} of the sheet")


def _npz(path: str, data: bytes) -> Table:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise CliError(f"{path} is no npz file of plain arrays: {error}.") from error
    parts: dict[str, Any] = {}
    for name, array in arrays.items():
        if array.ndim not in (1, 2):
            raise CliError(f"{path}: arrays must have one axis or two; {name!r} has shape {array.shape}.")
        parts |= {name: array} if array.ndim == 1 else {f"{name}{i}": array[:, i] for i in range(array.shape[1])}
    lengths = {name: len(array) for name, array in parts.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {n:,}" for name, n in lengths.items())
        raise CliError(f"{path}: all arrays must have the same number of rows; got {told}.")
    return _at_rows(table_of({name: array.tolist() for name, array in parts.items()}))


def _at_rows(table: Table) -> Table:
    return Table(table.columns, table.n_rows, place=lambda row: f"row {row + 1}")


# --- Texts ---


def _text(path: str, data: bytes, how: Reading) -> File:
    notes: list[str] = []
    text = _decoded(path, data, how.encoding, notes)
    if not text.strip():
        raise CliError(f"{path} is empty.")
    told = re.match(r"sep=(.)[\r\n]+", text)  # as Excel writes it
    lines_before = 0
    if told:
        text, lines_before = text[told.end() :], 1
    delimiter = how.delimiter or (told[1] if told else _delimiter(text))
    text, numbers = _without_comments(text, delimiter)
    try:
        import pandas as pd
    except ImportError as error:
        raise CliError(f"reading {path} needs pandas; install it with {NEEDS_PANDAS}.") from error
    try:
        frame = pd.read_csv(
            io.StringIO(text, newline=""),
            sep=delimiter,
            header=None,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            index_col=False,
        )
    except pd.errors.ParserError as error:
        why = _why_ragged(path, text, delimiter, numbers, lines_before, open_quote="EOF inside" in str(error))
        raise CliError(why or f"{path}: {error}") from error
    except pd.errors.EmptyDataError as error:
        raise CliError(f"{path} is empty.") from error
    cells = [frame[i].str.strip() for i in frame.columns]
    if len(cells) > 1 and bool((cells[-1] == "").any()):  # where pandas fills a row that is too short
        ragged = _why_ragged(path, text, delimiter, numbers, lines_before)
        if ragged:
            raise CliError(ragged)
    header = how.header is not False
    first = [column.iloc[0] for column in cells]
    if header and how.header is None and all(is_gap(n, GAPS_AMONG_NUMBERS) or read_number(n) for n in first):
        raise CliError(
            f"{path}: the first line must name the columns; it holds {', '.join(first[:3])}. Try --no-header, or "
            "--header if these are names."
        )
    names, twice = _names(first if header else [""] * len(cells))
    notes += [f"two columns are called {old!r}; one of them is {new!r} here." for old, new in twice]
    n = len(frame) - header

    starts: list[str] = []

    def place(row: int) -> str:
        if not starts:  # only who meets a fault pays for this
            records = [number for number, _ in _records(text, delimiter)][1 if header else 0 :]
            whole = len(records) == n
            starts.extend(
                f"line {numbers[number - 1] + lines_before}" if whole else f"row {i + 1}"
                for i, number in enumerate(records if whole else range(n))
            )
        return starts[row]

    columns = {}
    for name, column in zip(names, cells, strict=True):
        codes, texts = pd.factorize(column.iloc[1:] if header else column)
        columns[name] = Column(name, "texts", codes.astype(np.int64), tuple(texts.tolist()))
    return File(path, Table(columns, n, place=place), notes)


def _decoded(path: str, data: bytes, encoding: str | None, notes: list[str]) -> str:
    known = next((name for bom, name in BOMS if data.startswith(bom)), None)
    if known == "utf-8":
        data = data[len(codecs.BOM_UTF8) :]
    if encoding is None and known is None and b"\0" in data[:1000]:
        zeros = [data[:1000:2].count(0), data[1:1000:2].count(0)]
        if max(zeros) > 100 or (min(zeros) == 0 and max(zeros) * 5 > len(data[:1000])):
            known = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    try:
        text = data.decode(known or encoding or "utf-8")
    except LookupError as error:
        raise CliError(f"there is no encoding {encoding!r}; there are utf-8, latin-1, cp1252, shift_jis.") from error
    except UnicodeDecodeError as error:
        if known or encoding:
            raise CliError(f"{path} is no {known or encoding}: byte {error.start:,} is not.") from error
        text = data.decode("cp1252", errors="replace")
        if len(CONTROL.findall(text[:10_000])) * 50 > min(len(text), 10_000) or "\0" in text:
            raise CliError(
                f"{path} is no text: byte {error.start:,} is none of UTF-8, and others are of no writing. A table must "
                "be CSV, Parquet, Excel or npz."
            ) from error
        notes.append(f"{path} is not UTF-8 (byte {error.start:,}); read as Windows-1252. --encoding names another.")
    if "\0" in text:
        raise CliError(f"{path} holds zero bytes, so it is no text. Is it a spreadsheet? Save it as CSV.")
    return text


def _delimiter(text: str) -> str:
    """The one that cuts the first lines into the same number of cells, and into most."""
    sample = "".join(line for line, _ in zip(io.StringIO(text, newline=""), range(SAMPLE), strict=False))
    best, most = ",", (0.0, 0)
    for delimiter in (*DELIMITERS, SPACES):
        counts = [len(cells) for _, cells in _records(sample, delimiter) if not cells[0].startswith("#")]
        if len(counts) > 1 and counts[-1] < counts[0] and text != sample:
            counts.pop()  # the sample may end in the midst of a quoted cell
        if not counts:
            continue
        usual, times = Counter(counts).most_common(1)[0]
        # A comma that only some lines have is one within texts or numbers. Spaces are the last that is asked.
        score = (times / len(counts) if usual > 1 else 0.0, usual)
        if score > most and (delimiter != SPACES or (most[0] == 0.0 and score[0] == 1.0 and _numeric(sample))):
            best, most = delimiter, score
    return best


def _numeric(sample: str) -> bool:
    cells = [cell for line in sample.splitlines()[1:] for cell in line.split()]
    return bool(cells) and 2 * sum(read_number(cell) is not None for cell in cells) > len(cells)


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a text, each with the line it begins in, counted from 1; blank lines are none."""
    for start, _, cells in _spans(text, delimiter):
        if len(cells) > 1 or (cells and cells[0].strip()):
            yield start, cells


def _spans(text: str, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    lines = io.StringIO(text, newline="")
    if delimiter == SPACES:
        yield from ((i, i, line.split()) for i, line in enumerate(lines, start=1))
        return
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    start = 1
    for cells in reader:
        yield start, reader.line_num, cells
        start = reader.line_num + 1


def _without_comments(text: str, delimiter: str) -> tuple[str, list[int] | range]:
    """The text without its lines of comment, and the number that each line of it had.

    A comment is a line that begins with # and a space, or with # where it has not the cells of a row.
    """
    lines = list(io.StringIO(text, newline=""))
    if not any(line.startswith("#") for line in lines):
        return text, range(1, len(lines) + 2)
    spans = list(_spans(text, delimiter))
    usual = Counter(len(cells) for _, _, cells in spans if cells).most_common(1)[0][0]
    gone: set[int] = set()
    for start, stop, cells in spans:
        line = lines[start - 1]
        if line.startswith("#") and (line[1:2] in ("", " ", "#", "\n", "\r", "\t") or len(cells) != usual):
            gone.update(range(start, stop + 1))
    kept = [i for i in range(1, len(lines) + 1) if i not in gone]
    return "".join(lines[i - 1] for i in kept), [*kept, len(lines) + 1]


def _why_ragged(
    path: str, text: str, delimiter: str, numbers: Any, before: int, *, open_quote: bool = False
) -> str | None:
    """A sentence about the first row that has not the cells of the first one, or about an open quote."""
    if open_quote:
        *_, (start, _, _) = _spans(text, delimiter)
        return f"{path}, line {numbers[start - 1] + before}: a cell begins with a quote that is never closed."
    wanted = None
    for start, cells in _records(text, delimiter):
        wanted = wanted or len(cells)
        line = numbers[start - 1] + before
        if len(cells) != wanted:
            mark = "a space" if delimiter == SPACES else repr(delimiter)
            held = f"{len(cells)} cell{'s' if len(cells) != 1 else ''}, where the header has {wanted}"
            return f"{path}, line {line}: {held}. A cell that holds {mark} must be in quotes."
    return None


def _names(names: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of their own for all columns, and which had to be changed: the second a is a.1, as pandas has it."""
    found: list[str] = []
    changed = []
    for i, given in enumerate(names, start=1):
        name = given or f"column{i}"
        own, k = name, 1
        while own in found or (own != name and own in names):
            own, k = f"{name}.{k}", k + 1
        if own != name:
            changed.append((name, own))
        found.append(own)
    return found, changed
