"""The front door: what it refuses, in which words, the same on every backend; what it lets pass, and as what."""

# ruff: noqa: E501  # messages stand unbroken

import re

import numpy as np
import pytest

from xpmlp import checks
from xpmlp.backends import BACKENDS, Place
from xpmlp.network.activations import ACTIVATIONS

NUMPY = Place(BACKENDS["numpy"], np, "cpu")


def array(backend, x, **options):
    return checks.array(x, "x", backend.place, backend.dtypes[0], **{"width": 2} | options)


# --- Arrays ---


@pytest.mark.parametrize(
    "x, message",
    [
        (np.zeros((3, 4)), "x must have shape (batch, 2) to enter this network; got (3, 4)."),
        (np.zeros(2), "x must have shape (batch, 2) to enter this network; got (2,). One sample alone needs x[None, :]."),
        (np.zeros(5), "x must have shape (batch, 2) to enter this network; got (5,). One feature alone needs x[:, None]."),
        (np.zeros(()), "x must have shape (batch, 2) to enter this network; got ()."),
        (np.zeros((3, 5, 2)), "x must have shape (batch, 2) to enter this network; got (3, 5, 2)."),
        (np.zeros((0, 2)), "x must hold at least one sample and one column; got shape (0, 2)."),
        (np.array([[1.0, np.nan]]), "x must be finite; it contains NaN or infinity. Drop or impute these samples first."),
        (np.array([[np.inf, -np.inf]]), "x must be finite; it contains NaN or infinity. Drop or impute these samples first."),
        ([[1.0], [1.0, 2.0]], "x must be rectangular: every row needs the same number of columns."),
        ([], "x must have shape (batch, 2) to enter this network; got (0,)."),
    ],
)  # fmt: skip
def test_arrays_of_wrong_shape_or_content_are_a_value_error(x, message, backend):
    with pytest.raises(ValueError, match=re.escape(message)):
        array(backend, backend.put(x) if isinstance(x, np.ndarray) else x)


def test_networks_on_a_leading_axis_are_counted(backend):
    assert tuple(array(backend, backend.put(np.zeros((3, 5, 2))), networks=3).shape) == (3, 5, 2)
    assert tuple(array(backend, backend.put(np.zeros((5, 2))), networks=3).shape) == (5, 2)
    message = "x must have shape (batch, 2) or (3, batch, 2) to enter this network; got (4, 5, 2)."
    with pytest.raises(ValueError, match=re.escape(message)):
        array(backend, backend.put(np.zeros((4, 5, 2))), networks=3)


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_arrays_that_are_not_of_real_floating_numbers_are_a_type_error(dtype, backend):
    message = f"x must be an array of real floating numbers; got dtype {dtype}. Convert it first"
    with pytest.raises(TypeError, match=re.escape(message)):
        array(backend, backend.put(np.zeros((3, 2)), dtype))


@pytest.mark.parametrize(
    "x, message",
    [
        (np.array([[1, "a"]], dtype=object), "x must be an array of real floating numbers; got dtype object."),
        (np.array([["a", "b"]]), "x must be an array of real floating numbers; got dtype str"),
    ],
)
def test_object_and_string_arrays_are_a_type_error(x, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        checks.array(x, "x", NUMPY, "float64")


@pytest.mark.parametrize("x", [None, "circles", 3.0, {"a": 1}, object()])
def test_what_is_no_array_is_a_type_error_that_names_the_argument(x, backend):
    with pytest.raises(TypeError, match=re.escape(f"x must be an array of array_api_strict, cupy, jax, numpy, torch; got {type(x).__name__}.")):  # fmt: skip
        array(backend, x)


@pytest.mark.parametrize("x", [[["a", "b"]], [[None, 1.0]], [[True, False]], [[1j, 2.0]]], ids=str)
def test_lists_that_do_not_hold_real_numbers_are_a_type_error(x, backend):
    with pytest.raises(TypeError, match=re.escape("x must hold real numbers; got dtype ")):
        array(backend, x)


def test_arrays_of_another_library_are_refused_with_the_way_to_move_them(backend):
    if backend.name == "numpy":
        pytest.skip("NumPy's arrays are at home here")
    message = f"x is a NumPy array, the parameters are {backend.place.describe(plural=True)}; move one with xpmlp.to_backend(x, "
    with pytest.raises(ValueError, match=re.escape(message) + f'"{backend.name}"'):
        array(backend, np.zeros((3, 2)))
    back = (
        f'x is {backend.place.describe()}, the parameters are NumPy arrays; move one with xpmlp.to_backend(x, "numpy").'
    )
    with pytest.raises(ValueError, match=re.escape(back)):
        checks.array(backend.put(np.zeros((3, 2))), "x", NUMPY, "float64")


def test_arrays_on_another_device_are_refused_with_the_way_to_move_them():
    strict = pytest.importorskip("array_api_strict")
    place = Place(BACKENDS["array_api_strict"], BACKENDS["array_api_strict"].xp, strict.Device("device1"))
    message = (
        "x is an array-api-strict array on CPU_DEVICE, the parameters are array-api-strict arrays on device1; move one with "
        'xpmlp.to_backend(x, "array_api_strict", device="device1").'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        checks.array(strict.zeros((3, 2)), "x", place, "float64")


def test_what_fits_comes_through_as_it_is_or_as_the_dtype_of_the_parameters(backend):
    for dtype in backend.dtypes:
        x = backend.put(np.ones((3, 2)), dtype)
        assert array(backend, x).dtype == getattr(backend.xp, backend.dtypes[0])
        backend.assert_close(array(backend, x), np.ones((3, 2)))
    x = backend.put(np.ones((3, 2)))
    assert array(backend, x) is x or backend.name == "array_api_strict", "what fits is not copied"
    backend.assert_close(array(backend, [[1, 2], [3, 4]]), np.array([[1.0, 2.0], [3.0, 4.0]]))
    backend.assert_close(array(backend, backend.put(np.ones(3)), width=1), np.ones((3, 1)))


# --- Weights ---


@pytest.mark.parametrize(
    "w, message",
    [
        ([1.0, 2.0], "sample_weight must hold one weight per sample, shape (3,); got (2,)."),
        ([[1.0], [1.0], [1.0]], "sample_weight must hold one weight per sample, shape (3,); got (3, 1)."),
        ([1.0, -2.0, 3.0], "sample_weight must not be negative; got a weight of -2."),
        ([1.0, float("nan"), 3.0], "sample_weight must be finite; it contains NaN or infinity."),
    ],
)
def test_weights_that_do_not_fit_are_refused(w, message, backend):
    with pytest.raises(ValueError, match=re.escape(message)):
        checks.sample_weight(backend.put(w), "sample_weight", backend.place, backend.dtypes[0], 3)


def test_weights_that_fit_come_through(backend):
    assert checks.sample_weight(None, "w", backend.place, backend.dtypes[0], 3) is None
    w = checks.sample_weight([0, 1, 2], "w", backend.place, backend.dtypes[0], 3)
    backend.assert_close(w, np.array([0.0, 1.0, 2.0]))


# --- Numbers, names, sizes ---


@pytest.mark.parametrize(
    "value, bounds, error, message",
    [
        (0.0, {"above": 0.0}, ValueError, "rate must be a finite number above 0; got 0.0."),
        (
            1.0,
            {"least": 0.0, "below": 1.0},
            ValueError,
            "rate must be a finite number at least 0 and below 1; got 1.0.",
        ),
        (1.5, {"most": 1.0}, ValueError, "rate must be a finite number at most 1; got 1.5."),
        (-0.1, {"least": 0.0}, ValueError, "rate must be a finite number at least 0; got -0.1."),
        (float("inf"), {}, ValueError, "rate must be a finite number; got inf."),
        (float("nan"), {"least": 0.0}, ValueError, "rate must be a finite number at least 0; got nan."),
        ("0.1", {}, TypeError, "rate must be a finite number; got '0.1' of type str."),
        (True, {}, TypeError, "rate must be a finite number; got True of type bool."),
        (1j, {}, TypeError, "rate must be a finite number; got 1j of type complex."),
        (None, {}, TypeError, "rate must be a finite number; got None of type NoneType."),
    ],
)
def test_numbers_outside_their_bounds_are_refused(value, bounds, error, message):
    with pytest.raises(error, match=re.escape(message)):
        checks.number(value, "rate", **bounds)


def test_numbers_inside_come_out_as_python_floats():
    for value in (1, 0.5, np.float32(0.5), np.float64(2.0), np.int64(3)):
        number = checks.number(value, "rate", above=0.0)
        assert type(number) is float
        assert number == value
    assert checks.number(0.0, "rate", least=0.0) == 0.0
    assert checks.number(1.0, "rate", most=1.0) == 1.0


@pytest.mark.parametrize(
    "value, error, message",
    [
        (0, ValueError, "epochs must be a whole number of at least 1; got 0."),
        (2.0, TypeError, "epochs must be a whole number of at least 1; got 2.0 of type float."),
        (True, TypeError, "epochs must be a whole number of at least 1; got True of type bool."),
    ],
)
def test_what_is_no_whole_number_of_enough_is_refused(value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        checks.integer(value, "epochs", least=1)
    assert type(checks.integer(np.int32(2), "epochs", least=1)) is int


@pytest.mark.parametrize(
    "sizes, error, message",
    [
        (5, TypeError, "layer sizes must be a sequence such as [2, 4, 3, 1]; got 5."),
        ("24", TypeError, "layer sizes must be a sequence such as [2, 4, 3, 1]; got '24'."),
        ([], ValueError, "a network needs at least an input and an output layer, as in [2, 1]; got []."),
        ([3], ValueError, "a network needs at least an input and an output layer, as in [2, 1]; got [3]."),
        ([2, 0, 1], ValueError, "layer size 1 must be a whole number of at least 1; got 0."),
        ([2, -3], ValueError, "layer size 1 must be a whole number of at least 1; got -3."),
        ([2.5, 1], TypeError, "layer size 0 must be a whole number of at least 1; got 2.5 of type float."),
    ],
)
def test_impossible_sizes_are_refused(sizes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        checks.layer_sizes(sizes)


def test_possible_sizes_come_out_as_python_ints():
    assert checks.layer_sizes(np.array([2, 3])) == checks.layer_sizes(n for n in (2, 3)) == (2, 3)
    assert all(type(n) is int for n in checks.layer_sizes(np.array([2, 3])))


def test_unknown_names_are_told_with_the_nearest_and_the_sorted_list():
    assert (
        checks.unknown("fruit", "aple", ["pear", "apple"])
        == "unknown fruit 'aple'; did you mean 'apple'? Choose one of apple, pear."
    )
    assert checks.unknown("fruit", "xyz", ["pear", "apple"]) == "unknown fruit 'xyz'; Choose one of apple, pear."
    with pytest.raises(ValueError, match=re.escape("unknown activation ['relu'];")):
        checks.choose(ACTIVATIONS, ["relu"], "activation")
    with pytest.raises(ValueError, match=re.escape("metric must be one of 'a', 'b'; got 'c'.")):
        checks.option("c", "metric", ("a", "b"))


def test_pairs_are_pairs():
    assert checks.inputs_and_targets((1, 2), "validation_data") == (1, 2)
    for value in (np.zeros((2, 2)), (1, 2, 3), None):
        with pytest.raises(
            TypeError, match=re.escape(f"validation_data must be a pair (X, y); got {type(value).__name__}.")
        ):
            checks.inputs_and_targets(value, "validation_data")
