"""The ferry between array libraries."""

from __future__ import annotations

import re

import numpy as np
import pytest

from xpmlp.backends import (
    BACKENDS,
    BackendFallbackWarning,
    BackendUnavailableError,
    PrecisionWarning,
    State,
    array_namespace,
    forget_probes,
    place_of,
    probe,
)
from xpmlp.backends.config import config_context
from xpmlp.backends.transfer import to_backend, to_device, to_numpy


@pytest.mark.parametrize("target", BACKENDS)
def test_an_array_crosses_from_any_library_to_any_other_and_back(backend, target, rng):
    if probe(target).state is not State.OK:
        pytest.skip(f"{target}: {probe(target).state}: {probe(target).message}")
    host = rng.normal(size=(3, 4))
    for dtype in ("float32", "int32", "bool"):
        x = backend.put(host.astype(dtype))
        there = to_backend(x, target)
        assert place_of(there).backend.name == target
        back = to_backend(there, backend.name, device=backend.place.device_name)
        backend.assert_close(back, host.astype(dtype))


def test_an_array_that_is_there_already_is_itself(backend):
    x = backend.put([1.0, 2.0])
    assert to_backend(x, backend.name) is x
    assert to_device(x, backend.place.device_name) is x


def test_home_from_another_library_comes_a_copy_of_ones_own(backend, rng):
    host = rng.normal(size=(4, 3)).astype("float32")
    x = backend.put(host)
    if backend.name == "numpy":
        assert to_numpy(x) is x
        return
    for home, desired in ((to_numpy(x), host), (to_numpy(backend.xp.permute_dims(x, (1, 0))), host.T)):
        assert type(home) is np.ndarray
        np.testing.assert_array_equal(home, desired)
        assert home.flags.c_contiguous
        home[...] = 0
    backend.assert_close(x, host)


def test_a_scalar_array_stays_a_scalar(backend):
    x = to_backend(backend.put(np.float32(2.5)), backend.name)
    assert x.shape == ()
    assert to_numpy(x).shape == ()
    assert to_numpy(x) == 2.5


def test_a_gradient_is_left_behind():
    torch = pytest.importorskip("torch")
    x = torch.ones(2, requires_grad=True)
    assert to_numpy(x * 2).tolist() == [2.0, 2.0]


STRANGE_MEMORY = {
    "reversed": lambda a: a[::-1, ::-1],
    "read-only": lambda a: np.broadcast_to(a, a.shape),
    "strided": lambda a: a[::2, 1:],
    "transposed": lambda a: a.T,
    "field of a record": lambda a: np.rec.fromarrays([a.astype("i1"), a], names="tag, value")["value"],
    "foreign byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "empty": lambda a: a[:0],
}


@pytest.mark.parametrize("view", STRANGE_MEMORY.values(), ids=STRANGE_MEMORY)
def test_numpy_arrays_of_any_memory_layout_cross(backend, view, rng):
    host = view(rng.normal(size=(4, 3)).astype("float32"))
    x = to_backend(host, backend.name, device=backend.place.device_name)
    np.testing.assert_array_equal(backend.get(x), host)


@pytest.mark.parametrize("x", [2.5, [1.0, 2.0], [[1, 2], [3, 4]], (True, False), range(3), np.float64(3.5)], ids=str)
def test_what_numpy_makes_an_array_of_crosses(backend, x):
    there = to_backend(x, backend.name, device=backend.place.device_name, dtype="float32")
    backend.assert_close(there, np.asarray(x, dtype="float32"))


def test_a_dtype_changes_on_the_way_and_on_the_spot(backend, rng):
    host = rng.uniform(0, 9, size=5)
    for dtype in (*backend.dtypes, "int32"):
        for x in (host, backend.put(host, "float32")):
            there = to_backend(x, backend.name, device=backend.place.device_name, dtype=dtype)
            backend.assert_close(there, host.astype("float32").astype(dtype), rtol=1e-6, dtype=dtype)
    for spelling in (np.float32, np.dtype("float32"), "f4"):
        assert to_backend(host, "numpy", dtype=spelling).dtype == np.float32


@pytest.mark.parametrize("dtype", ["flaot32", "str", "object", "datetime64[s]", object(), 32])
def test_a_dtype_that_does_not_exist_is_an_error(dtype):
    message = f"dtype must name a dtype of the Array API, such as 'float32'; got {dtype!r}."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        to_backend([1.0], "numpy", dtype=dtype)


def test_float64_becomes_float32_where_there_is_no_float64(backend, rng):
    host = rng.normal(size=3)
    there = {"device": backend.place.device_name}
    if backend.float64:
        backend.assert_close(to_backend(host, backend.name, **there), host)
        return
    with pytest.warns(PrecisionWarning, match="has no float64: going on in float32"):
        backend.assert_close(to_backend(host, backend.name, **there), host.astype("float32"))
    x = backend.put(host)
    with pytest.warns(PrecisionWarning):
        assert to_backend(x, backend.name, dtype="float64").dtype == backend.xp.float32
    backend.assert_close(to_backend(host, backend.name, **there, dtype="float32"), host.astype("float32"))


def test_a_device_of_the_same_library_is_reached_with_and_without_its_dtypes():
    strict = pytest.importorskip("array_api_strict")
    x = to_backend(np.array([1 / 3]), "array_api_strict", device="device1")
    assert to_device(x, "device2").device == strict.Device("device2")
    assert to_device(x, "device2").dtype == strict.float64
    with pytest.warns(PrecisionWarning, match=re.escape("array-api-strict on no_float64 has no float64")):
        there = to_device(x, "no_float64")
    assert (there.device, there.dtype) == (strict.Device("no_float64"), strict.float32)
    assert to_backend(there, "array_api_strict", device="device1", dtype="float64").dtype == strict.float64
    assert to_backend(x, "array_api_strict").device == strict.Device("device1")  # no device named: it stays


def test_no_device_is_handed_a_dtype_that_it_lacks(monkeypatch):
    pytest.importorskip("array_api_strict")
    x = to_backend(np.array([1 / 3]), "array_api_strict", device="device1")

    def refuse(array, device):  # as torch's MPS device refuses float64; array-api-strict takes it without a word
        raise TypeError("no float64 there")

    monkeypatch.setattr("array_api_compat.to_device", refuse)
    there = to_backend(x, "array_api_strict", device="no_float64", dtype="float32")
    assert place_of(there).device_name == "no_float64"


def test_words_do_not_cross(backend):
    with pytest.raises(TypeError, match=re.escape("x must hold numbers or truth values; got a list, of dtype <U3.")):
        to_backend(["cat"], backend.name)


def test_only_an_array_is_on_a_device():
    with pytest.raises(
        TypeError, match=re.escape("x must be an array of array_api_strict, cupy, jax, numpy, torch; got list.")
    ):
        to_device([1.0], "cpu")
    assert to_numpy([1.0]).tolist() == [1.0]


def test_a_ferry_to_a_backend_that_cannot_run_obeys_the_fallback_rule(monkeypatch):
    forget_probes()
    monkeypatch.setattr("xpmlp.backends.probing.find_spec", lambda package: None if package == "cupy" else package)
    with pytest.warns(BackendFallbackWarning):
        x = to_backend([1.0], "cupy", device="cuda:0", dtype="float32")
    assert array_namespace(x) is BACKENDS["numpy"].xp
    assert x.dtype == np.float32
    with config_context(fallback="error"), pytest.raises(BackendUnavailableError):
        to_backend([1.0], "cupy")
    forget_probes()
