"""The table of array libraries: what is found on a machine, and what happens when it is not what was asked for."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

import xpmlp.backends.probing
from xpmlp.backends import (
    BACKENDS,
    BackendFallbackWarning,
    BackendUnavailableError,
    PrecisionWarning,
    State,
    array_namespace,
    at_home,
    available_backends,
    backend_of,
    forget_probes,
    get_backend,
    place_of,
    probe,
    select,
)
from xpmlp.backends.config import config_context, get_config, set_config
from xpmlp.backends.namespaces import Namespace

ACCELERATORS = {"cupy", "torch", "jax", "array_api_strict"}
NAMES = "array_api_strict, cupy, jax, numpy, torch"


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


needs_cupy = pytest.mark.skipif(not is_installed("cupy"), reason="cupy: not installed")
needs_torch = pytest.mark.skipif(not is_installed("torch"), reason="torch: not installed")
needs_jax = pytest.mark.skipif(not is_installed("jax"), reason="jax: not installed")
needs_strict = pytest.mark.skipif(not is_installed("array_api_strict"), reason="array_api_strict: not installed")


@pytest.fixture(autouse=True)
def fresh_probes():
    forget_probes()
    yield
    forget_probes()


@pytest.fixture
def unplugged(monkeypatch):
    """A backend that is certain not to run: CuPy, not installed."""
    monkeypatch.setattr(xpmlp.backends.probing, "find_spec", lambda package: None if package == "cupy" else package)


def python(*arguments: str, first_on_path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python that has just started, and what came of it."""
    path = [str(first_on_path or ""), str(Path(xpmlp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), **environment}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def run(code: str, **options: object) -> str:
    """What the code prints in such a Python."""
    done = python("-c", code, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- Probing ---


def test_a_probe_says_what_it_found(backend):
    found = probe(backend.name, backend.place.device_name)
    assert found.state is State.OK
    assert found.version is not None
    assert backend.place.device_name in found.devices
    assert found.message == f"{BACKENDS[backend.name].label} {found.version} works on {backend.place.device_name}"
    assert found.hint == ""


def test_importing_the_table_imports_and_probes_no_library():
    code = (
        "import sys, xpmlp.backends, xpmlp.backends.transfer; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    assert ACCELERATORS.isdisjoint(run(code).split())


def test_to_know_whose_an_array_is_imports_no_library():
    code = "import sys, numpy; from xpmlp.backends import place_of; print(place_of(numpy.ones(1)), *sys.modules)"
    assert ACCELERATORS.isdisjoint(run(code).split())


def test_a_probe_is_remembered_until_it_is_forgotten(monkeypatch):
    before = probe("numpy")
    monkeypatch.setattr(xpmlp.backends.probing, "find_spec", lambda package: None)
    assert probe("numpy") is before
    forget_probes()
    assert probe("numpy").state is State.NOT_INSTALLED


def test_what_is_not_installed_says_how_to_install_it(unplugged):
    found = probe("cupy")
    assert found.state is State.NOT_INSTALLED
    assert found.message == "CuPy is not installed"
    assert found.hint == "pip install 'cupy-cuda13x[ctk]>=14', or 'cupy-cuda12x[ctk]>=14' for a driver older than 580"


PRINT_CUPY = (
    "import json; from xpmlp.backends import probe; p = probe('cupy'); print(json.dumps([p.state, p.message, p.hint]))"
)
BANNER = "\\n====\\nFailed to import CuPy.\\n\\nOriginal error:\\n  ImportError: libcudart.so.13: no such file\\n===="


def test_a_broken_installation_gives_the_cause_from_beneath_the_banner(tmp_path):
    (tmp_path / "cupy.py").write_text(f'raise ImportError("{BANNER}")')
    state, message, hint = json.loads(run(PRINT_CUPY, first_on_path=tmp_path))
    assert state == State.BROKEN_INSTALL
    assert message == "CuPy is installed but cannot be imported: ImportError: libcudart.so.13: no such file"
    assert hint.startswith("reinstall it (pip install 'cupy-cuda13x[ctk]>=14'")


def machine_has_a_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@needs_cupy
@pytest.mark.skipif(machine_has_a_driver(), reason="cupy: this machine has a driver")
def test_a_machine_without_a_driver_is_told_so():
    found = probe("cupy")
    assert found.state is State.NO_DRIVER
    assert found.message.endswith("is installed, but there is no NVIDIA driver (libcuda) on this machine")
    assert found.hint == "install the NVIDIA driver"


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory):
    """A folder with a driver that has no GPU, for CuPy's real runtime to find."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("fake driver: no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("fake_libcuda.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", source], check=True)
    return folder


@needs_cupy
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fake driver: Linux only")
@pytest.mark.parametrize(
    "version, answer, state, message, hint",
    [
        ("13000", "100", State.NO_DEVICE, "the NVIDIA driver sees no CUDA device", "CUDA_VISIBLE_DEVICES"),
        ("13020", "0", State.NO_DEVICE, "the NVIDIA driver sees no CUDA device", "CUDA_VISIBLE_DEVICES"),
        ("11080", "100", State.DRIVER_TOO_OLD, "driver knows CUDA 11.8, and this CuPy wheel needs", "newer NVIDIA"),
        ("13020", "802", State.DRIVER_ERROR, "cudaErrorSystemNotReady", "nvidia-smi"),
        ("13020", "999", State.DRIVER_ERROR, "cudaErrorUnknown", "nvidia-smi"),
    ],
)  # fmt: skip
def test_the_states_of_a_driver_are_told_apart(fake_driver, version, answer, state, message, hint):
    setting = {"FAKE_CUDA_VERSION": version, "FAKE_CUDA_INIT": answer, "LD_LIBRARY_PATH": str(fake_driver)}
    found_state, found_message, found_hint = json.loads(run(PRINT_CUPY, **setting))
    assert found_state == state
    assert message in found_message
    assert hint in found_hint


@pytest.fixture
def pretend_gpu(monkeypatch):
    """CuPy on a machine with one GPU, as far as counting goes: nothing can be computed on it."""
    runtime = pytest.importorskip("cupy").cuda.runtime
    monkeypatch.setattr(runtime, "driverGetVersion", lambda: 13020)
    monkeypatch.setattr(runtime, "getDeviceCount", lambda: 1)
    return runtime


@pytest.mark.parametrize(
    "driver, hint",
    [
        (11080, "install a newer NVIDIA driver"),
        (12080, "pip install 'cupy-cuda12x[ctk]>=14' in place of this wheel, or install a newer NVIDIA driver"),
    ],
)
def test_a_driver_that_is_too_old_for_the_wheel_may_do_for_an_older_one(pretend_gpu, monkeypatch, driver, hint):
    def count():
        raise pretend_gpu.CUDARuntimeError(35)

    monkeypatch.setattr(pretend_gpu, "driverGetVersion", lambda: driver)
    monkeypatch.setattr(pretend_gpu, "getDeviceCount", count)
    assert probe("cupy").state is State.DRIVER_TOO_OLD
    assert probe("cupy").hint == hint


def test_a_gpu_that_the_machine_does_not_have_is_no_device(pretend_gpu):
    found = probe("cupy", "cuda:1")
    assert found.state is State.NO_DEVICE
    assert found.message.endswith("is installed, but there is no device 'cuda:1' here")
    assert found.hint == "choose one of cuda:0"


@pytest.fixture
def crippled(monkeypatch):
    """Make a library whose matmul does something else, and return its row's name."""

    def cripple(matmul):
        namespace = types.ModuleType("crippled")
        vars(namespace).update({name: getattr(np, name) for name in ("arange", "reshape", "sum", "float32")})
        namespace.matmul = matmul
        monkeypatch.setitem(sys.modules, "crippled", namespace)
        monkeypatch.setitem(BACKENDS, "crippled", dataclasses.replace(BACKENDS["numpy"], module="crippled"))
        return "crippled"

    return cripple


def raises(error):
    def matmul(a, b):
        raise error

    return matmul


DynamicLibNotFoundError = type("DynamicLibNotFoundError", (RuntimeError,), {})
CompileException = type("CompileException", (Exception,), {})


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcublas.so.13: cannot open shared object file"),
        OSError("libcublas.so.13"),
        DynamicLibNotFoundError("nvrtc"),
        CompileException("cuda_fp16.h not found"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_product_that_cannot_be_computed_for_want_of_a_library_says_so(crippled, error):
    found = probe(crippled(raises(error)))
    assert found.state is State.LIBRARIES_MISSING
    assert f"sees cpu, but cannot compute on it: {type(error).__name__}: {error}" in found.message
    assert found.hint == "install it with the libraries it needs: pip install numpy"


@pytest.mark.parametrize(
    "error", [MemoryError("out of memory"), RuntimeError("CUDA error: no kernel image")], ids=lambda e: type(e).__name__
)
def test_a_product_that_fails_otherwise_is_the_drivers_error(crippled, error):
    found = probe(crippled(raises(error)))
    assert found.state is State.DRIVER_ERROR
    assert str(error) in found.message


def test_a_wrong_product_is_not_ok(crippled):
    found = probe(crippled(lambda a, b: a * b))
    assert found.state is State.DRIVER_ERROR
    assert "computes wrong numbers on cpu: 18.0 instead of 26.0" in found.message


@needs_torch
@pytest.mark.parametrize(
    "words, state",
    [
        ("Found no NVIDIA driver on your system.", State.NO_DRIVER),
        ("The NVIDIA driver on your system is too old (found version 12080).", State.DRIVER_TOO_OLD),
        ("CUDA error: invalid device ordinal", State.NO_DEVICE),
    ],
)
def test_torch_says_in_words_what_is_wrong_with_a_gpu(monkeypatch, words, state):
    import torch

    def empty(shape, *, device):
        raise RuntimeError(words)

    monkeypatch.setattr(torch, "empty", empty)
    assert probe("torch", "cuda").state is state


def test_the_backends_that_work_are_available(unplugged):
    assert "numpy" in available_backends()
    assert "cupy" not in available_backends()


# --- Names ---


@pytest.mark.parametrize(
    "name, message",
    [
        ("cuppy", f"unknown backend 'cuppy'; did you mean 'cupy'? Choose one of {NAMES}."),
        ("abacus", f"unknown backend 'abacus'. Choose one of {NAMES}."),
    ],
)
@pytest.mark.parametrize("ask", [probe, select, get_backend])
@pytest.mark.parametrize("fallback", ["warn", "error"])
def test_a_backend_that_does_not_exist_is_always_an_error(ask, name, message, fallback):
    with config_context(fallback=fallback), pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ask(name)


def test_a_backend_is_named_by_a_string():
    with pytest.raises(TypeError, match=re.escape(f"a backend is named by a string, one of {NAMES}; got module.")):
        select(np)


@pytest.mark.parametrize("device", ["", "cuda:", "cuda:-1", "cuda:x", "cuda 0", ":0", "cuda:0\n"])
def test_a_malformed_device_is_an_error(device, unplugged):
    message = f"a device is named like 'cpu', 'cuda' or 'cuda:1'; got {device!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        select("cupy", device)


@pytest.mark.parametrize("device", [0, -1, ("cuda", 0)])
def test_a_device_is_named_by_a_string(device):
    message = f"a device is named by a string such as 'cpu' or 'cuda:0'; got {type(device).__name__}."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        select("torch", device)


@pytest.mark.parametrize(
    "backend_name, device, message",
    [
        ("torch", "cdua:0", "PyTorch has no device 'cdua:0'; did you mean 'cuda'? It has cpu, cuda, mps, xpu."),
        ("numpy", "cuda", "NumPy has no device 'cuda'. It has cpu."),
        ("cupy", "cpu", "CuPy has no device 'cpu'. It has cuda."),
    ],
)
def test_a_kind_of_device_that_the_library_never_has_is_an_error(backend_name, device, message, unplugged):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        select(backend_name, device)


def test_a_device_without_a_backend_is_an_error():
    message = f"device='cuda' needs a backend; name one of {NAMES}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        select(None, "cuda")


# --- Selection and the fallback rule ---


def test_what_works_is_selected_without_a_word(backend):
    place = select(backend.name, backend.place.device_name)
    assert place == backend.place
    assert place == get_backend(backend.name, backend.place.device_name)
    assert hash(place) == hash(backend.place)
    assert array_namespace(place.asarray(np.ones(2), "float32")) is backend.xp


def test_nothing_named_is_numpy():
    place = select(None)
    assert (place.backend.name, place.device, place.device_name, place.float64) == ("numpy", "cpu", "cpu", True)


def test_a_backend_that_cannot_run_falls_back_to_numpy_and_says_why_and_what_to_do(unplugged):
    message = (
        "backend 'cupy' cannot run here: not installed (CuPy is not installed). Going on with NumPy on the CPU. "
        "What to do: pip install 'cupy-cuda13x[ctk]>=14', or 'cupy-cuda12x[ctk]>=14' for a driver older than 580."
    )
    with pytest.warns(BackendFallbackWarning, match=f"^{re.escape(message)}$") as caught:
        place = select("cupy")
    assert place == select("numpy")
    assert caught[0].filename == __file__  # the user's line, not ours


def test_with_fallback_error_a_backend_that_cannot_run_is_an_error(unplugged):
    message = "backend 'cupy' cannot run here: not installed (CuPy is not installed). What to do: pip install"
    with (
        config_context(fallback="error"),
        pytest.raises(BackendUnavailableError, match=f"^{re.escape(message)}") as error,
    ):
        select("cupy")
    assert error.value.state is State.NOT_INSTALLED
    assert error.value.hint == probe("cupy").hint
    copy = pickle.loads(pickle.dumps(error.value))  # as it comes back from a worker process
    assert (str(copy), copy.state, copy.hint) == (str(error.value), error.value.state, error.value.hint)


@pytest.mark.parametrize(
    "backend_name, device",
    [
        pytest.param("torch", "cuda:99", marks=needs_torch),
        pytest.param("torch", "xpu:99", marks=needs_torch),
        pytest.param("jax", "gpu:99", marks=needs_jax),
        pytest.param("jax", "cpu:99", marks=needs_jax),
        pytest.param("jax", "tpu:99", marks=needs_jax),
        pytest.param("array_api_strict", "device1:99", marks=needs_strict),
    ],
)
def test_a_working_backend_without_the_device_obeys_the_same_rule(backend_name, device):
    assert probe(backend_name).state is State.OK
    with pytest.warns(BackendFallbackWarning, match=re.escape(f"backend '{backend_name}', device '{device}', cannot")):
        assert select(backend_name, device).backend.name == "numpy"
    with config_context(fallback="error"), pytest.raises(BackendUnavailableError) as error:
        select(backend_name, device)
    assert error.value.state in (State.NO_DEVICE, State.NO_DRIVER)


# --- Settings ---


def test_contexts_nest_and_end_where_they_began():
    assert get_config() == {"fallback": "warn", "compiled": "auto", "threads": "auto", "captured": "auto"}
    with config_context(fallback="error"):
        with config_context(fallback="warn"):
            assert get_config() == {"fallback": "warn", "compiled": "auto", "threads": "auto", "captured": "auto"}
        with config_context():
            assert get_config() == {"fallback": "error", "compiled": "auto", "threads": "auto", "captured": "auto"}
        with pytest.raises(KeyError), config_context(fallback="warn"):
            raise KeyError
        assert get_config() == {"fallback": "error", "compiled": "auto", "threads": "auto", "captured": "auto"}
    assert get_config() == {"fallback": "warn", "compiled": "auto", "threads": "auto", "captured": "auto"}


def test_a_setting_made_in_one_thread_leaves_the_others_alone():
    seen = []

    def work():
        seen.append(get_config()["fallback"])
        set_config(fallback="error")
        set_config()
        seen.append(get_config()["fallback"])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["warn", "error"]
    assert get_config() == {"fallback": "warn", "compiled": "auto", "threads": "auto", "captured": "auto"}


@pytest.mark.parametrize("change", [set_config, lambda **settings: config_context(**settings).__enter__()])
def test_a_setting_that_does_not_exist_is_an_error(change):
    with pytest.raises(ValueError, match=re.escape("fallback must be 'warn' or 'error'; got 'raise'.")):
        change(fallback="raise")
    with pytest.raises(ValueError, match=re.escape("compiled must be 'auto', 'always' or 'never'; got True.")):
        change(fallback="error", compiled=True)
    assert get_config() == {
        "fallback": "warn",
        "compiled": "auto",
        "threads": "auto",
        "captured": "auto",
    }  # all of it or nothing


# --- Following arrays ---


def test_arrays_are_followed_to_their_place(backend):
    x, y = backend.put([1.0, 2.0]), backend.put([[3]])
    assert place_of(x, y) == place_of(x=x) == backend.place
    assert backend_of(x) is backend.place.backend
    assert array_namespace(x) is backend.xp


def test_arrays_of_two_libraries_are_refused(backend):
    x, parameters = np.ones(1), backend.put([1.0])
    if backend.name == "numpy":
        return
    there = f'{backend.place.describe()}; move one with xpmlp.to_backend(x, "{backend.name}").'
    with pytest.raises(TypeError, match=f"^{re.escape(f'x is a NumPy array, parameters is {there}')}$"):
        place_of(parameters=parameters, x=x)
    there = 'array 1 is a NumPy array; move one with xpmlp.to_backend(array, "numpy").'
    with pytest.raises(TypeError, match=f"^{re.escape(f'array 2 is {backend.place.describe()}, {there}')}$"):
        place_of(x, parameters)


@needs_strict
def test_arrays_on_two_devices_are_refused():
    x, y = (get_backend("array_api_strict", device).asarray(np.ones(1)) for device in ("device1", "device2"))
    message = (
        "y is an array-api-strict array on device2, x is an array-api-strict array on device1; "
        'move one with xpmlp.to_device(y, "device1").'
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        place_of(x=x, y=y)


@pytest.mark.parametrize("thing", [[1.0], 1.0, "x", None])
def test_what_is_no_array_has_no_place(thing):
    message = f"x must be an array of {NAMES}; got {type(thing).__name__}."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        place_of(x=thing)
    with pytest.raises(TypeError):
        array_namespace(thing)


def test_no_array_has_no_place():
    with pytest.raises(TypeError, match=re.escape("place_of needs at least one array.")):
        place_of()


@needs_jax
def test_a_traced_array_has_a_place():
    import jax

    def double(x):
        assert place_of(x, x).describe() == "a JAX array"
        assert array_namespace(x).sum is jax.numpy.sum
        return x * 2

    assert jax.jit(double)(jax.numpy.ones(1)) == 2


@needs_torch
def test_a_compiled_function_may_ask_for_the_namespace():
    import torch

    def total(x):
        return array_namespace(x).sum(x)

    x = torch.ones(3)
    array_namespace(x)  # the first question goes to array-api-compat, and dynamo would warn of its caches
    assert torch.compile(total, fullgraph=True, backend="eager")(x) == 3


def test_a_library_without_a_row_has_a_namespace_all_the_same():
    class Array:
        def __array_namespace__(self, api_version=None):
            return math_of_its_own

    math_of_its_own = types.ModuleType("math_of_its_own")
    assert array_namespace(Array()) is math_of_its_own
    assert array_namespace(Array()) is math_of_its_own
    assert backend_of(Array()) is None


# --- Places ---


@pytest.mark.parametrize(
    "backend_name, one, many",
    [
        ("numpy", "a NumPy array", "NumPy arrays"),
        pytest.param("torch", "a PyTorch tensor on cpu", "PyTorch tensors on cpu", marks=needs_torch),
        pytest.param("jax", "a JAX array on cpu", "JAX arrays on cpu", marks=needs_jax),
    ],
)
def test_a_place_describes_its_arrays(backend_name, one, many):
    place = select(backend_name, "cpu")
    assert (place.describe(), place.describe(plural=True)) == (one, many)


def test_a_cupy_place_names_its_device():
    pretend = types.SimpleNamespace(id=1)
    place = xpmlp.backends.Place(BACKENDS["cupy"], None, pretend)
    assert place.device_name == "cuda:1"
    assert place.describe(plural=True) == "CuPy arrays on cuda:1"
    assert str(place) == "CuPy on cuda:1"


def test_blocks_are_larger_on_a_device_than_on_a_processor(backend):
    place = backend.place
    device = place.backend.name == "cupy" or not place.on_cpu
    assert place.block_bytes == (2**26 if device else 2**20 if place.backend.name == "numpy" else 2**23)
    assert xpmlp.backends.Place(BACKENDS["cupy"], None, types.SimpleNamespace(id=0)).block_bytes == 2**26


def test_a_place_brings_arrays_in_every_dtype_that_it_has(backend, rng):
    host = rng.uniform(0, 100, size=(3, 2))
    for dtype in (*backend.dtypes, "int32", "uint8", "bool"):
        backend.assert_close(backend.place.asarray(host, dtype), host.astype(dtype), dtype=dtype)


def test_a_device_without_float64_goes_on_in_float32_and_warns(backend):
    host = np.array([1 / 3])
    if backend.float64:
        assert str(backend.place.asarray(host).dtype).endswith("float64")
        return
    with pytest.warns(
        PrecisionWarning, match=re.escape(f"{backend.place} has no float64: going on in float32")
    ) as caught:
        backend.assert_close(backend.place.asarray(host), host.astype("float32"))
    assert caught[0].filename == __file__


def test_integers_keep_their_values_or_are_refused(backend):
    small, large = np.array([0, 2**31 - 1]), np.array([-1, 2**31])
    assert backend.get(backend.place.asarray(small)).tolist() == small.tolist()
    if backend.float64:
        assert backend.get(backend.place.asarray(large)).tolist() == large.tolist()
        return
    with pytest.raises(ValueError, match=re.escape(f"{backend.place} has no int64, and int32 cannot hold 2147483648.")):
        backend.place.asarray(large)


def test_numpy_keeps_what_other_libraries_refuse(backend):
    words = np.array(["cat", "dog"])
    if backend.name == "numpy":
        assert backend.place.asarray(words) is words
        return
    message = f"{backend.place.backend.noun}s hold numbers and booleans; got dtype str96."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        backend.place.asarray(words)


@needs_strict
def test_a_dtype_that_nothing_stands_for_is_an_error():
    with pytest.raises(TypeError, match=re.escape("array-api-strict on CPU_DEVICE has no float16.")):
        get_backend("array_api_strict").asarray(np.ones(1), "float16")


# --- The table ---


@pytest.mark.parametrize("row", BACKENDS.values(), ids=lambda row: row.name)
def test_every_row_says_how_to_get_it(row):
    assert row.name in BACKENDS
    assert row.install.startswith("pip install ")
    assert not row.owns([1.0])


def test_warnings_from_deep_inside_are_shown_at_the_users_line(unplugged):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from xpmlp.backends.transfer import to_backend

        to_backend([1.0], "cupy")
    assert [warning.filename for warning in caught] == [__file__]


# --- The fixtures of these tests ---


def test_a_required_backend_that_cannot_run_is_a_failure_and_no_skip(tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('broken on purpose')")
    test = f"{Path(__file__).with_name('test_transfer.py')}::test_a_scalar_array_stays_a_scalar"
    pytest_run = ("-m", "pytest", "-p", "no:cacheprovider", "-q", test)
    skipped = python(*pytest_run, first_on_path=tmp_path, XPMLP_BACKENDS="cupy", XPMLP_REQUIRE="")
    assert "cupy: broken install: CuPy is installed but cannot be imported: ImportError: broken" in skipped.stdout
    assert skipped.returncode == pytest.ExitCode.OK
    failed = python(*pytest_run, first_on_path=tmp_path, XPMLP_BACKENDS="numpy", XPMLP_REQUIRE="cupy")
    assert "XPMLP_REQUIRE wants cupy: broken install" in failed.stdout
    assert failed.returncode == pytest.ExitCode.TESTS_FAILED
    mistyped = python(*pytest_run, XPMLP_REQUIRE="cuppy")
    assert "XPMLP_REQUIRE names ['cuppy']" in mistyped.stderr
    assert mistyped.returncode == pytest.ExitCode.USAGE_ERROR


def test_the_comparison_objects_to_all_that_differs(backend):
    desired = np.array([1.0, -100.0, np.inf, np.nan])
    actual = backend.put(desired)
    backend.assert_close(actual, desired)
    nearly = desired * np.where(np.isfinite(desired), 1 + 1e-3, 1.0)
    backend.assert_close(actual, nearly, rtol=2e-3)
    backend.assert_close(actual, nearly, atol=0.2)
    wrong = {
        "largest difference 0.1, allowed": nearly,
        "shape is (4,), not (2, 2)": desired.reshape(2, 2),
        "dtype is float": np.ones(4, dtype=np.int32),
        "Arrays are not equal": desired[[0, 1, 3, 2]],
    }
    for message, other in wrong.items():
        with pytest.raises(AssertionError, match=re.escape(message)):
            backend.assert_close(actual, other)
    if backend.name == "numpy":
        with pytest.raises(ValueError, match="read-only"):
            actual += 1
        return
    with pytest.raises(AssertionError, match="is no"):
        backend.assert_close(desired, desired)


# --- Every public door ---


class Home:
    """What at_home makes a door of."""

    def __init__(self, place):
        self.place = place

    @at_home("adding")
    def add(self, error=None):
        if error is not None:
            raise error
        return entered[-1]


entered: list[str] = ["elsewhere"]


@contextlib.contextmanager
def entering(device):
    entered.append(device)
    yield
    entered.pop()


def test_a_door_enters_the_device_and_leaves_it():
    place = dataclasses.replace(get_backend("numpy"), backend=dataclasses.replace(BACKENDS["numpy"], here=entering))
    assert Home(place).add() == "cpu"
    assert entered == ["elsewhere"]


@pytest.mark.parametrize("error", [MemoryError("no"), RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")])
def test_a_door_tells_of_memory_in_one_way_once(error):
    home = Home(get_backend("numpy"))
    with pytest.raises(MemoryError, match=r"^not enough memory on NumPy on cpu for adding: ") as told:
        home.add(error)
    with pytest.raises(MemoryError, match=f"^{re.escape(str(told.value))}$"):
        home.add(told.value)


def test_what_a_namespace_replaces_is_its_own_and_all_else_the_librarys():
    xp = Namespace(np, (("matmul", lambda a, b: "ours"),))
    assert xp.matmul(1, 2) == "ours"
    assert xp.add is np.add
    with pytest.raises(AttributeError, match="no_such_function"):
        xp.no_such_function()


@needs_jax
@pytest.mark.parametrize(("user", "asked"), [(None, "HIGHEST"), ("high", "HIGH")])
def test_jax_is_asked_for_whole_products_unless_the_user_has_set_its_default(user, asked):
    import jax

    xp = get_backend("jax").xp
    with jax.default_matmul_precision(user) if user else contextlib.nullcontext():
        text = str(jax.make_jaxpr(xp.matmul)(xp.ones((2, 3)), xp.ones((3, 2))))
    assert asked in text
    assert "DEFAULT" not in text
