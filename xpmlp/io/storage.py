"""Files: arrays and plain JSON in one safetensors file, with a digest of everything in it, written whole or not at all.

    8 bytes      length of the header, little-endian
    header       JSON: {"__metadata__": {"sha256": "...", "format": "xpmlp 1", "document": "..."},
                        "W.1": {"dtype": "F64", "shape": [2, 4], "data_offsets": [0, 64]}, ...}
    arrays       one after the other, little-endian, C order, no gaps

Any reader of safetensors files can read the arrays; to be read back here, a file must be one that `write` wrote. The
digest is the sha256 of the whole file with zeros in its own place, which is always the same; `document` is JSON within
the JSON. Nothing here runs code, imports by name or believes a number before it is checked: a file that is not what it
should be is a `FileFormatError`, whatever is wrong with it. What the arrays and the document mean, their owner knows.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.io.lists import moved_in, moved_out

FORMAT = 1
"""The number of the format that is written. Every number up to it can be read, for ever."""

# JSON takes some 150 bytes of memory for each comma: these two bound what a header of a stranger can cost.
LONGEST_HEADER = 2**20
MOST_COMMAS = 2**16

DTYPES = {
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    **{f"{name}{8 * size}": f"<{kind}{size}" for name, kind in (("I", "i"), ("U", "u")) for size in (1, 2, 4, 8)},
    "BOOL": "|b1",
}
NAMES = {np.dtype(code): name for name, code in DTYPES.items()}

START = b'{"__metadata__":{"sha256":"'
ZEROS = b"0" * 64
ALIGNMENT = 64  # of the first array; the widest elements come first, so that every array is aligned to its elements


class FileFormatError(ValueError):
    """The file is not one that xpmlp wrote, or no longer the one that it wrote."""


# --- Writing ---


def write(path: str | os.PathLike[str], document: Mapping[str, Any], arrays: dict[str, HostArray]) -> None:
    """Write a file, or leave what is there: killed at any moment, the old file or the new one is there, and whole.

    Parameters
    ----------
    path : path
        A link is followed. What an earlier write to it left behind when it was killed is removed.
    document : mapping
        Anything that JSON can say; numbers must be finite. Long lists of floats are arrays in the file.
    arrays : dict of str to NumPy array

    Raises
    ------
    OSError
        If it cannot be written: no space, no permission. The old file is then as it was.
    ValueError, TypeError
        If the document is no JSON, or longer than `read` would believe.
    """
    document, lists = moved_out(document)
    # The widest elements first; sorted is stable, so the order is otherwise the caller's.
    parts = dict(sorted((arrays | lists).items(), key=lambda item: -item[1].dtype.itemsize))
    buffers = {name: np.asarray(array, array.dtype.newbyteorder("<"), order="C") for name, array in parts.items()}
    header = _header(document, buffers)
    digest = hashlib.sha256(header)
    for array in buffers.values():
        digest.update(_bytes(array))
    at = 8 + len(START)
    header = header[:at] + digest.hexdigest().encode() + header[at + len(ZEROS) :]
    with replacing(path) as file:
        file.write(header)
        for array in buffers.values():
            file.write(_bytes(array))


def _header(document: Mapping[str, Any], arrays: Mapping[str, HostArray]) -> bytes:
    metadata = {"sha256": ZEROS.decode(), "format": f"xpmlp {FORMAT}", "document": _json(document)}
    entries: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, array in arrays.items():
        if array.dtype not in NAMES:
            raise TypeError(f"array {name!r} must hold booleans, integers or real floats; got dtype {array.dtype}.")
        offsets = [at, at + array.nbytes]
        entries[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        at += array.nbytes
    header = _json(entries).encode()
    header += b" " * (-(8 + len(header)) % ALIGNMENT)
    if len(header) > LONGEST_HEADER or header.count(b",") > MOST_COMMAS:
        commas = header.count(b",")
        raise ValueError(
            f"the header of a file may have {LONGEST_HEADER:,} bytes and {MOST_COMMAS:,} commas; got {len(header):,} "
            f"and {commas:,}. If many class labels are text: fit on integers, and keep the text elsewhere."
        )
    return len(header).to_bytes(8, "little") + header


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _bytes(array: HostArray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A binary file to write into, that takes the place of `path` once the block has ended and the disk has it all.

    Raises
    ------
    OSError
        If something is in the way; what was at `path` is then still there, and nothing else.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not os.access(target, os.W_OK):  # replacing asks the folder only
        raise PermissionError(13, "the file is there, and may not be written", str(target))
    _remove_orphans(target)
    temporary, descriptor = _claim(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            if os.name != "nt":  # Windows does not move an open file; elsewhere the lock is held until it has moved
                os.replace(temporary, target)
        if os.name == "nt":
            os.replace(temporary, target)
        _sync_folder(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _claim(target: Path) -> tuple[Path, int]:
    # The lock says that somebody is at work: it goes when the process goes, however it goes.
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(temporary, flags, 0o666)
        if _lock(descriptor) and temporary.exists():  # between open and lock, somebody may have taken it for an orphan
            return temporary, descriptor
        os.close(descriptor)


def _remove_orphans(target: Path) -> None:
    pattern = re.compile(re.escape(f".{target.name}.") + r"[0-9a-f]{8}\.tmp")
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        if not pattern.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):  # another has just removed it, or (on Windows) is writing it
            descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _lock(descriptor) and os.name != "nt":  # while we hold the lock, it cannot become somebody's
                    path.unlink()
            finally:
                os.close(descriptor)
            if os.name == "nt":
                path.unlink()


def _lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True  # an open file cannot be removed there
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nothing is an orphan, everything may be written
        return True
    return True


def _sync_folder(folder: Path) -> None:
    # Without this the new name may be forgotten in a power cut, though the file is on the disk.
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- Reading ---


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, HostArray]]:
    """The document and the arrays of a file; the arrays are writable and lie in one block of memory.

    Raises
    ------
    FileFormatError
        If it is not a file that `write` wrote, or not whole, or changed, or of a newer format.
    OSError
        If it cannot be opened.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        front = file.read(8)
        length = int.from_bytes(front, "little")
        if len(front) < 8 or length > min(size - 8, LONGEST_HEADER):
            _refuse(path, "it is cut short, or not one of these files at all")
        header = file.read(length)
        data: HostArray = np.empty(size - 8 - length, dtype=np.uint8)
        if len(header) != length or file.readinto(data.data) != len(data) or file.read(1):
            _refuse(path, "its length changed while it was read")
    _check_digest(path, front, header, data)
    metadata, entries = _parse(path, header)
    document = _object(path, metadata["document"], "the document")
    arrays = _arrays(path, entries, data)
    with believing(path):
        return moved_in(document, arrays), arrays


def open_regular(path: str | os.PathLike[str]) -> Any:
    """Open a file to read; FileFormatError for a folder, a pipe or a device, which could keep us for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        _refuse(path, "it is not a regular file")
    return open(path, "rb")


def _check_digest(path: object, front: bytes, header: bytes, data: HostArray) -> None:
    at = len(START)
    found = header[at : at + len(ZEROS)]
    if not header.startswith(START) or not re.fullmatch(rb"[0-9a-f]{64}", found):
        _refuse(path, "it has no digest where xpmlp puts one; open a file from elsewhere with the safetensors package")
    digest = hashlib.sha256(front + header[:at] + ZEROS + header[at + len(ZEROS) :])
    digest.update(data.data)
    if digest.hexdigest().encode() != found:
        _refuse(path, "its digest does not match: it was cut or changed after it was written. Take another copy")


def _parse(path: object, header: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    if header.count(b",") > MOST_COMMAS:
        _refuse(path, f"its header has more than {MOST_COMMAS:,} commas")
    entries = _object(path, header, "the header")
    metadata = entries.pop("__metadata__")  # `header` begins with it
    version = metadata.get("format")
    newer = re.fullmatch(r"xpmlp ([1-9][0-9]{0,8})", version) if isinstance(version, str) else None
    if newer is None:
        _refuse(path, f"its format is {version!r}, not 'xpmlp {FORMAT}'")
    if int(newer[1]) > FORMAT:
        _refuse(path, f"it has format {newer[1]}, and this version of xpmlp reads up to {FORMAT}. Update xpmlp")
    if set(metadata) != {"sha256", "format", "document"} or not isinstance(metadata["document"], str):
        _refuse(path, "its metadata must be sha256, format and document")
    return metadata, entries


def _arrays(path: object, entries: dict[str, Any], data: HostArray) -> dict[str, HostArray]:
    arrays: dict[str, HostArray] = {}
    at = 0
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            _refuse(path, f"array {name!r} must have dtype, shape and data_offsets, and nothing else")
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
            _refuse(path, f"array {name!r} has dtype {entry['dtype']!r}; choose one of {', '.join(sorted(DTYPES))}")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(shape) > 8 or len(offsets) != 2:
            _refuse(path, f"array {name!r} must have up to 8 whole numbers as shape and two as data_offsets")
        dtype = np.dtype(DTYPES[entry["dtype"]])
        if offsets != [at, at + math.prod(shape) * dtype.itemsize] or offsets[1] > len(data):
            _refuse(path, f"array {name!r} must begin where the one before ends, and end where its shape says")
        part = data[at : offsets[1]]
        if dtype.kind == "b" and bool(np.any(part > 1)):
            _refuse(path, f"array {name!r} holds booleans that are neither 0 nor 1")
        arrays[name] = part.view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
        at = offsets[1]
    if at != len(data):
        _refuse(path, f"its arrays end at byte {at} of {len(data)}")
    return arrays


def _whole_numbers(values: object) -> bool:
    # Below 2^48: no product of eight is slow, and none of them is a memory that exists.
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _object(path: object, text: str | bytes, what: str) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise ValueError("a name comes twice")
        return result

    def finite(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError(f"{digits} is not finite")
        return value

    try:
        result = json.loads(text, object_pairs_hook=pairs, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"{what} is not JSON as it should be: {str(error)[:200]}")
    if not isinstance(result, dict):
        _refuse(path, f"{what} is not a JSON object")
    return result


@contextlib.contextmanager
def believing(path: object) -> Iterator[None]:
    """For an owner who makes sense of what `read` returned: what does not fit is a `FileFormatError` too."""
    try:
        yield
    except FileFormatError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise FileFormatError(f"{path} cannot be loaded: {reason}") from error


def _refuse(path: object, reason: str) -> NoReturn:
    raise FileFormatError(f"{path} cannot be loaded: {reason}.")
