"""The fixtures of every test: `backend`, each array library in turn, and `rng`.

Two environment variables choose; both take backend names or combination ids, with commas between them:

XPMLP_BACKENDS=numpy,jax-x32    run these only; by default all that are installed
XPMLP_REQUIRE=cupy,torch        fail where one of these cannot run; by default its tests are skipped, and say why
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import array_api_compat
import numpy as np
import pytest

from xpmlp.backends import BACKENDS, Place, State, backend_of, probe

# A shell has the jobs that it puts into the background ignore Ctrl-C, and the tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Combination:
    """A backend with the device and the settings under which it is tested."""

    id: str
    name: str
    device: str | None = None
    x64: bool = True
    by_name: bool = True  # else only who asks for its id gets it

    @property
    def names(self) -> set[str]:
        """By which it can be asked for."""
        return {self.id, self.name} if self.by_name else {self.id}

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """Put the library into the state under test, and back."""
        if self.name == "array_api_strict":
            # What a GPU library may refuse, refused: masks, shapes that depend on data, what is newer than our target.
            with import_module("array_api_strict").ArrayAPIStrictFlags(
                api_version="2024.12", boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
            ):
                yield
        elif self.name == "jax":
            config = import_module("jax").config
            before = config.jax_enable_x64
            config.update("jax_enable_x64", self.x64)
            try:
                yield
            finally:
                config.update("jax_enable_x64", before)
        else:
            yield


COMBINATIONS = (
    Combination("numpy", "numpy"),
    Combination("strict-device1", "array_api_strict", device="device1"),  # the stand-in for a GPU
    Combination("strict-no_x64", "array_api_strict", device="no_x64"),
    Combination("torch", "torch"),
    Combination("torch-cuda", "torch", device="cuda", by_name=False),
    Combination("jax-x64", "jax"),
    Combination("jax-x32", "jax", x64=False),
    Combination("cupy", "cupy"),
)


# For XPMLP_REQUIRE too: what joins processes, in tests/test_processes.py, and CUDA's compiler and one of C++, by which
# the kernels are tested without a GPU.
TOOLS = {"dask", "gloo", "mpi", "nvrtc", "c++"}


def named_in(variable: str) -> set[str]:
    """The ids and names that an environment variable lists."""
    names = {name.strip() for name in os.environ.get(variable, "").split(",")} - {""}
    known = {combination.id for combination in COMBINATIONS} | set(BACKENDS) | TOOLS
    if names - known:
        raise pytest.UsageError(f"{variable} names {sorted(names - known)}; choose from {sorted(known)}.")
    return names


REQUIRED = named_in("XPMLP_REQUIRE")
CHOSEN = named_in("XPMLP_BACKENDS") or {name for name, row in BACKENDS.items() if find_spec(row.package)}
UNDER_TEST = [it for it in COMBINATIONS if it.names & (CHOSEN | REQUIRED)]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests that no backend changes to the run that has NumPy: every session needs them once, not each."""
    if any(combination.id == "numpy" for combination in UNDER_TEST):
        return
    of_a_backend = [item for item in items if "backend" in getattr(item, "fixturenames", ()) or _names_one(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in of_a_backend])
    items[:] = of_a_backend


def _names_one(item: pytest.Item) -> bool:
    # Tests of the libraries themselves, of their states and of what moves between them, ask for no fixture.
    return item.path.stem in {"test_backends", "test_transfer", "test_torch_graph", "test_on_a_gpu"}


@dataclass(frozen=True)
class BackendUnderTest:
    """What a test may do with a backend without knowing which it is."""

    id: str
    place: Place

    @property
    def name(self) -> str:
        return self.place.backend.name

    @property
    def xp(self) -> Any:
        return self.place.xp

    @property
    def device(self) -> Any:
        return self.place.device

    @property
    def float64(self) -> bool:
        return self.place.float64

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The names of the real dtypes to test, the widest first."""
        return ("float64", "float32") if self.float64 else ("float32",)

    @staticmethod
    def tolerance(dtype: str) -> float:
        """How far from NumPy's float64 a training may come (DESIGN, section 7)."""
        return {"float64": 1e-10, "float32": 1e-4}[dtype]

    def put(self, array: Any, dtype: str | None = None) -> Any:
        """Bring numbers here, as `dtype` or as the nearest that there is; read-only where they stay with NumPy."""
        host = np.array(array, dtype=dtype)  # a copy: no test can change another's data
        if host.dtype == np.float64 and dtype is None:
            host = host.astype(self.dtypes[0])
        if self.name == "numpy":
            host.setflags(write=False)
        return self.place.asarray(host)

    def get(self, array: Any) -> np.ndarray[Any, Any]:
        """Bring an array home, if it is where it should be."""
        assert backend_of(array) is self.place.backend, f"{type(array)} is no {self.place.backend.noun}"
        assert array_api_compat.device(array) == self.device
        return self.place.backend.to_numpy(array)

    def assert_close(
        self, actual: Any, desired: Any, rtol: float = 0.0, atol: float = 0.0, *, dtype: str | None = None
    ) -> None:
        """Demand the same namespace, device, dtype and shape, and then the same values.

        `rtol` bounds the largest difference over the largest desired value. `dtype` is what is demanded where it is not
        that of `desired` (in the width that there is): a float32 result beside a float64 reference.
        """
        host, desired = self.get(actual), np.asarray(desired)
        if dtype is None:
            dtype = self.dtypes[0] if desired.dtype == np.float64 else desired.dtype.name
        assert host.dtype == dtype, f"dtype is {host.dtype}, not {dtype}"
        assert host.shape == desired.shape, f"shape is {host.shape}, not {desired.shape}"
        if host.dtype.kind not in "fc":
            np.testing.assert_array_equal(host, desired)
            return
        host, desired = host.astype(np.complex128), desired.astype(np.complex128)  # either kind, wide enough for both
        finite = np.isfinite(desired)
        np.testing.assert_array_equal(host[~finite], desired[~finite])
        difference = np.max(np.abs(host[finite] - desired[finite]), initial=0.0)
        bound = atol + rtol * np.max(np.abs(desired[finite]), initial=0.0)
        assert difference <= bound, f"largest difference {difference:.3g}, allowed are {bound:.3g}"


@pytest.fixture(params=UNDER_TEST, ids=lambda combination: combination.id)
def backend(request: pytest.FixtureRequest) -> Iterator[BackendUnderTest]:
    """Each backend in turn, on a device and under settings that are hard to please."""
    combination = request.param
    found = probe(combination.name, combination.device)
    if found.state is not State.OK:
        reason = f"{combination.id}: {found.state}: {found.message}"
        if combination.names & REQUIRED:
            pytest.fail(f"XPMLP_REQUIRE wants {reason}", pytrace=False)
        pytest.skip(reason)
    with combination.settings():
        row = BACKENDS[combination.name]
        yield BackendUnderTest(combination.id, Place(row, row.xp, row.find_device(combination.device)))


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every run."""
    return np.random.default_rng(20261123)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes of a thread each, and a client."""
    missing = [name for name in ("dask", "distributed", "torch") if find_spec(name) is None]
    if missing and "dask" in named_in("XPMLP_REQUIRE"):
        pytest.fail(f"{', '.join(missing)} is not installed")
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    library: Any = pytest.importorskip("distributed")
    with (
        library.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as found,
        library.Client(found) as client,
    ):
        yield client


@pytest.fixture
def client(cluster: Any) -> Any:
    """The client; of a cluster that has both workers, whatever the test before has done to them."""
    cluster.wait_for_workers(2, timeout=60)
    return cluster
