"""A coverage-guided fuzzer for `xpmlp.load`: `nox -s fuzz -- -max_total_time=600`. Optional: atheris needs a clang.

Whatever the bytes are, the outcome is a model or a FileFormatError. The fuzzer cannot guess a sha256, so the digest is
made right before each load; the corpus is the golden files.
"""

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["xpmlp", "json"]):
    import xpmlp
    from xpmlp.io import storage

AT = 8 + len(storage.START)
TARGET = Path(tempfile.mkdtemp()) / "fuzzed.safetensors"


def once(raw: bytes) -> None:
    """Sign, write, load."""
    if len(raw) > AT + 64:
        raw = raw[:8] + storage.START + storage.ZEROS + raw[AT + 64 :]
        raw = raw[:AT] + hashlib.sha256(raw).hexdigest().encode() + raw[AT + 64 :]
    TARGET.write_bytes(raw)
    with contextlib.suppress(xpmlp.FileFormatError):
        xpmlp.load(TARGET)


if __name__ == "__main__":
    corpus = Path(tempfile.mkdtemp())
    for golden in (Path(__file__).parent / "golden").glob("*.safetensors"):
        shutil.copy(golden, corpus)
    atheris.Setup([*sys.argv, os.fspath(corpus)], once)
    atheris.Fuzz()
