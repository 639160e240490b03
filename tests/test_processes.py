"""Two and four real processes: what they learn is what one learns, and none is left waiting.

Engines that are not here are skipped with a reason; XPMLP_REQUIRE=gloo,mpi turns that into a failure. Numbers are
compared in float64, or bit for bit with a fixed order: in float32 Adam's first steps turn rounding into directions.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import named_in
from train_in_group import BROKEN, CASES, ORDERED, group_of, main, model_and_data

SCRIPT = Path(__file__).with_name("train_in_group.py")
LOST = 3  # the exit status of a process that has told its error

pytestmark = pytest.mark.skipif(
    "XPMLP_PROCESSES" not in os.environ, reason="several processes a test: `nox -s processes` runs them"
)


def demand(engine: str) -> None:
    """Skip, or fail where the engine should be here."""
    missing = {
        "torch": None if find_spec("torch") else "PyTorch is not installed",
        "mpi": None if find_spec("mpi4py") and shutil.which("mpiexec") else "mpi4py and mpiexec are not installed",
    }[engine]
    if missing and {"torch": "gloo", "mpi": "mpi"}[engine] in named_in("XPMLP_REQUIRE"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(SCRIPT.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    return os.environ | one | {"PYTHONPATH": paths}


def ran(engine: str, cases: str, folder: Path, size: int = 2, timeout: float = 120.0) -> list[int]:
    """Run cases in so many processes; the exit status of each (of mpiexec alone)."""
    demand(engine)
    arguments = [sys.executable, str(SCRIPT), engine, cases, str(folder)]
    if engine == "mpi":
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        command = ["mpiexec", "--oversubscribe", "-n", str(size), *arguments]
        done = subprocess.run(command, env=environment() | root, timeout=timeout, check=False, capture_output=True)
        return [done.returncode]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(size):
        own = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own |= {"LOCAL_WORLD_SIZE": str(size), "CUDA_VISIBLE_DEVICES": ""}
        processes.append(subprocess.Popen(arguments, env=environment() | own, stderr=subprocess.DEVNULL))
    try:
        return [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def left(folder: Path, size: int = 2) -> list[Any]:
    """The file that each process has left of a case."""
    return [np.load(file) if (file := folder / f"{rank}.npz").exists() else None for rank in range(size)]


# What two processes do one case after another: starting them is most of the time, and what one case leaves behind
# must not disturb the next. Those that end them, or take their time, have processes of their own.
TOGETHER = [
    *(case for case in CASES if case != "torch"),
    *(case for case in BROKEN if not case.startswith(("killed", "hangs"))),
]
done: dict[str, Path] = {}


@pytest.fixture
def of_all(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what they made of all cases."""
    demand(engine)
    if engine not in done:
        done[engine] = tmp_path_factory.mktemp(engine)
        cases = [*TOGETHER, *(["torch"] if find_spec("torch") else [])]
        with contextlib.suppress(subprocess.TimeoutExpired):  # what is not there says where they stood
            ran(engine, "; ".join(cases), done[engine], timeout=300.0)
    return done[engine]


def alone(case: str, folder: Path) -> Any:
    """What one process leaves."""
    with warnings.catch_warnings():
        main("alone", case, str(folder))
    return np.load(folder / case / "0.npz")


@pytest.mark.parametrize("engine", ["torch", "mpi"])
@pytest.mark.parametrize("case", [case for case in CASES if case != "fixed"])
def test_two_processes_learn_what_one_does(engine: str, case: str, of_all: Path, tmp_path: Path) -> None:
    if case == "torch":
        pytest.importorskip("torch")
    expected = alone(case, tmp_path)
    for found in left(of_all / case):
        assert found is not None
        assert found.files == expected.files
        assert found["n_iter"] == expected["n_iter"]
        for name in expected.files:
            if name != "at":
                np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("engine", ["torch", "mpi"])
@pytest.mark.parametrize("size", [2, 4])
def test_a_fixed_order_gives_the_same_bits(engine: str, size: int, of_all: Path, tmp_path: Path) -> None:
    folder = of_all
    if size == 4:
        folder = tmp_path
        ran(engine, "fixed", folder, size)
    (tmp_path / "alone").mkdir()
    expected = alone("fixed", tmp_path / "alone")
    for found in left(folder / "fixed", size):
        assert found is not None
        for name in expected.files:
            if name != "at":
                np.testing.assert_array_equal(found[name], expected[name])


def goes_on(case: str, folder: Path) -> None:
    """The checkpoint that is left is whole, and one process goes on from it to the end of an undisturbed run."""
    model, data = model_and_data(case)
    model.max_iter = 8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = group_of("alone", case)
        whole = model_and_data(case)[0].set_params(max_iter=8).fit(data, group=group)
        model.fit(data, checkpoint=folder / "run", resume=True, group=group)
    apart = 0.0 if case in ORDERED else 1e-10
    np.testing.assert_allclose(model.loss_curve_, whole.loss_curve_, rtol=0, atol=apart)
    for got, wanted in zip(model.coefs_, whole.coefs_, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=apart)


@pytest.mark.parametrize("case", ["killed", "killed, in order", "hangs"])
def test_who_loses_a_peer_says_so_and_the_checkpoint_goes_on(case: str, tmp_path: Path) -> None:
    codes = ran("torch", case, tmp_path, timeout=60.0)
    tmp_path /= case
    told, _ = left(tmp_path)
    assert codes[0] == LOST, codes  # and no signal
    assert str(told["error"]).startswith("LostPeerError: rank 0 of 2 lost a peer: ")
    assert "fit again with resume=True, on any number of processes" in str(told["error"])
    assert "It was in epoch 4, " in str(told["error"])
    assert str(told["left"]) == str(tmp_path / "run" / "last.safetensors")
    goes_on(case, tmp_path)


def test_mpiexec_ends_the_job_and_the_checkpoint_goes_on(tmp_path: Path) -> None:
    codes = ran("mpi", "killed", tmp_path)
    assert codes[0] != 0
    goes_on("killed", tmp_path / "killed")


TOLD = {
    "NaN": ("ValueError: shard 12 (rows 732 to 792) contains NaN", "rank 1 of 2 failed: ValueError: shard 12"),
    "callback raises": ("ValueError: no more room", "LostPeerError: rank 1 of 2 failed: ValueError: no more room"),
    "odd parameter": ("The 'max_time' parameter", "LostPeerError: rank 1 of 2 failed: "),
    "odd shards": ("all processes need the same shards", "all processes need the same shards"),
}


@pytest.mark.parametrize("engine", ["torch", "mpi"])
@pytest.mark.parametrize("case", TOLD)
def test_an_error_of_one_process_is_told_to_all(engine: str, case: str, of_all: Path) -> None:
    own, others = TOLD[case]
    first, second = left(of_all / case)
    assert others in str(first["error"])
    assert own in str(second["error"])


@pytest.mark.parametrize("engine", ["torch", "mpi"])
@pytest.mark.parametrize("case", ["interrupt", "terminate", "callback stops", "late"])
def test_all_stop_where_one_wants_to(engine: str, case: str, of_all: Path) -> None:
    first, second = left(of_all / case)
    assert int(first["n_iter"]) == int(second["n_iter"]) <= 5
    for name in first.files:
        if name != "at":
            np.testing.assert_array_equal(first[name], second[name])
    assert case in BROKEN
    assert (of_all / case / "run" / "last.safetensors").exists()
