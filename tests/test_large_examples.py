"""The examples of large data and of several processes, in a small size."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.skipif("XPMLP_PROCESSES" not in os.environ, reason="`nox -s processes` runs them")


def printed(name: str, *arguments: str) -> str:
    paths = os.pathsep.join([str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True, text=True, timeout=300, check=False, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    text = printed("large_file.py", "--gigabytes", "0.4", "--file", str(tmp_path / "x.npy"))
    (added,) = [int(line.split(" MB")[0].split()[-1]) for line in text.splitlines() if "training added" in line]
    assert added < 160
    assert float(text.split("right for ")[1].split("%")[0]) > 90.0  # 98.9 were seen


def test_two_processes_learn_what_one_does() -> None:
    if find_spec("distributed") is None or find_spec("torch") is None:
        pytest.skip("Dask or PyTorch is not installed")
    text = printed("two_processes.py", "--rows", "40000", "--epochs", "2")
    assert "2 workers" in text
    assert float(text.split("differ by ")[1].split()[0]) < 1e-10
