"""The front door of the estimators: X, y and weights, checked, and where the work on them is done.

What NumPy can hold (lists, pandas, polars, sparse matrices) passes scikit-learn's own checks; arrays of another library
pass ours, because scikit-learn's would bring them to NumPy. Both end in one type of error.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import validate_data

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, array_namespace, backend_of, place_of, select, warn
from xpmlp.backends.transfer import to_backend, to_numpy
from xpmlp.checks import demand_no_loss, weight_scale
from xpmlp.estimators.front_door import advised, odd_inputs, odd_targets
from xpmlp.estimators.parameters import InvalidParameterError
from xpmlp.runners import Data, HostData, host_data
from xpmlp.runners.host_data import rows_of_cast_block

NUMPY = select("numpy")


class InvalidInputError(ValueError, TypeError):
    """Data that an estimator was given cannot be what it needs."""


@contextlib.contextmanager
def our_errors() -> Iterator[None]:
    """Turn what the checks of scikit-learn, NumPy and the core raise into InvalidInputError, with advice."""
    try:
        yield
    except (InvalidInputError, InvalidParameterError, NotFittedError):
        raise
    except (ValueError, TypeError) as error:
        raise InvalidInputError(advised(error)) from error


OF_VALIDATION = "In the validation set (X_val, y_val): "  # how what is said of it begins


@contextlib.contextmanager
def of_validation() -> Iterator[None]:
    """Within it, errors are InvalidInputError and say that they are of the validation set."""
    try:
        with our_errors():
            yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{OF_VALIDATION}{error}") from error


class Inputs(NamedTuple):
    """Checked inputs, where they were, and where the work is done."""

    x: Any  # of shape (N, n_0): on the host (perhaps sparse, CSR, or integers) or still where the caller had it
    place: Place
    dtype: str  # of the arithmetic
    which: HostArray | None = None  # the rows of x that are meant; None for all

    @property
    def n(self) -> int:
        """The number of samples."""
        return int(self.x.shape[0]) if self.which is None else len(self.which)

    def on_host(self) -> Any:
        """The samples as NumPy's, or as a sparse matrix."""
        x = self.x if _is_host(self.x) else to_numpy(self.x)
        return x if self.which is None else x[self.which]

    def take(self, rows: HostArray) -> "Inputs":
        """Some of the samples; of large ones, by their numbers alone."""
        if isinstance(self.x, np.ndarray) and self.place.backend.name == "numpy" and self._is_large():
            return self._replace(which=rows if self.which is None else self.which[rows])
        if _is_host(self.x):
            return self._replace(x=self.x[rows])
        here = place_of(self.x)
        with here.here():
            return self._replace(x=here.xp.take(self.x, here.asarray(rows.astype(np.int32)), axis=0))

    def data(self, y: HostArray, w: HostArray | None, batch_size: int) -> Data:
        """The samples, ready to be trained on: on the device, but for those that stay on the host as they are.

        Those are sparse ones, and on NumPy what would have to be copied and is large.
        """
        place, dtype = self.place, self.dtype
        w = None if w is None else place.asarray(w * scale_of(w), dtype)
        y = place.asarray(y, dtype)
        stays = sparse.issparse(self.x) or self.which is not None
        copied = isinstance(self.x, np.ndarray) and self.x.dtype != dtype and place.backend.name == "numpy"
        if stays or (copied and self._is_large() and batch_size < self.n):
            return HostData(place, self.x, y, w, batch_size, dtype=dtype, which=self.which)
        return Data(place, move(self.x, place, dtype), y, w, batch_size)

    def looked_at(self, y: HostArray, w: HostArray | None, rows: int) -> Data:
        """The samples, to be looked at in order, `rows` at a time: each block leaves the host when its turn comes."""
        if not _is_host(self.x) or self.n <= rows or self.place.backend.name == "numpy":
            made = not sparse.issparse(self.x) and (self.which is not None or self.x.dtype != self.dtype)
            return self.data(y, w, rows_of_cast_block(rows, self.x.shape[1]) if made else rows)
        place, dtype = self.place, self.dtype
        w = None if w is None else place.asarray(w * scale_of(w), dtype)
        return HostData(place, self.x, place.asarray(y, dtype), w, rows, dtype=dtype)

    def blocks(self, rows: int) -> Data:
        """The samples, to be looked at in blocks: what is on the host is brought block by block."""
        if _is_host(self.x):
            data = HostData(self.place, self.x, None, None, rows, dtype=self.dtype, which=self.which)
            if data.stays_sparse:
                data.batch_size = min(2 * rows, data.n)  # they take little room
            elif data.here and (data.is_sparse or self.x.dtype != self.dtype):
                data.batch_size = min(rows_of_cast_block(rows, self.x.shape[1]), data.n)
            return data
        return Data(self.place, move(self.x, self.place, self.dtype), None, None, rows)

    def _is_large(self) -> bool:
        return int(self.x.size) * np.dtype(self.dtype).itemsize > host_data.COPIED_BYTES


def working_place(backend: str | None, device: str | None, X: Any) -> Place:
    """Where the work is done: where `backend` and `device` say, or else where X lives."""
    if backend is not None:
        return select(backend, device)
    if device is not None:
        raise InvalidParameterError(f"device={device!r} needs a backend: without one, the work follows X.")
    return caller_place(X)


def caller_place(X: Any) -> Place:
    """Where the caller works: the place of an array of a known library, and NumPy for all else."""
    row = None if type(X) is np.ndarray else backend_of(X)
    return NUMPY if row is None or row.name == "numpy" else place_of(X=X)


def check_inputs(estimator: Any, X: Any, *, place: Place, dtype: str | None, reset: bool) -> Inputs:
    """X as finite floating numbers of shape (n, n_0); sets, or compares, `n_features_in_` and `feature_names_in_`."""
    if X is not None and (odd := odd_inputs(X)):
        raise InvalidInputError(odd)
    with caller_place(X).here():
        return _checked_inputs(estimator, X, place, dtype, reset)


def _checked_inputs(estimator: Any, X: Any, place: Place, dtype: str | None, reset: bool) -> Inputs:
    if caller_place(X) is NUMPY:
        # Integers stay what they are until their batch comes, and columns lie as they do in a frame.
        dtypes = None if _holds_integers(X) else [np.float64, np.float32]
        options = {"accept_sparse": ["csr", "csc"], "dtype": dtypes}
        x = validate_data(estimator, X=X, reset=reset, **options)
        x = x.tocsr() if sparse.issparse(x) else x
    else:
        x = _check_array(X)
        validate_data(estimator, X=x, reset=reset, skip_check_array=True)
    is_ = str(x.dtype).rpartition(".")[2] if "float" in str(x.dtype) else "float64"
    dtype = place.dtype_name(is_ if dtype is None else dtype)
    held = x.data[:, None] if sparse.issparse(x) else x
    demand_no_loss(held, "X", array_namespace(held), dtype)
    return Inputs(x, place, dtype)


def _holds_integers(X: Any) -> bool:
    """Whether X is an array of integers or booleans, or a frame whose columns all are of one such dtype."""
    kinds = [X.dtype] if type(X) is np.ndarray else list(getattr(X, "dtypes", ()))
    return bool(kinds) and isinstance(kinds[0], np.dtype) and kinds[0].kind in "iub" and len(set(kinds)) == 1


def _check_array(X: Any) -> Array:
    # What scikit-learn's check_array asks of NumPy arrays, asked of any other library's.
    X = X.detach() if hasattr(X, "detach") else X  # no gradient of an outer computation runs through a fit
    place = place_of(X=X)
    xp = place.xp
    if xp.isdtype(X.dtype, "complex floating"):
        raise InvalidInputError("Complex data not supported: pass the real and the imaginary part as columns.")
    if X.ndim != 2:
        raise InvalidInputError(
            f"Expected 2D array, got {X.ndim}D array instead. Reshape your data either using xp.reshape(X, (-1, 1)) "
            "if it has a single feature or xp.reshape(X, (1, -1)) if it is a single sample."
        )
    for count, what, axis in ((X.shape[0], "sample", 0), (X.shape[1], "feature", 1)):
        if count == 0:
            raise InvalidInputError(
                f"Found array with 0 {what}(s) (shape={tuple(X.shape)}) while a minimum of 1 is required; "
                f"pass at least one along axis {axis}."
            )
    if not (X.dtype == xp.float32 or (place.float64 and X.dtype == xp.float64)):
        wide = "float64" if place.float64 and not xp.isdtype(X.dtype, "real floating") else "float32"
        X = xp.astype(X, getattr(xp, wide))
    if not bool(xp.all(xp.isfinite(X))):
        raise InvalidInputError("Input X contains NaN or infinity. Drop these samples or impute them first.")
    return X


def check_targets(owner: str, y: Any, inputs: Inputs, *, numeric: bool) -> HostArray:
    """Y on the host, of shape (n,) or (n, n_outputs); a single column is flattened, with scikit-learn's warning.

    `owner` is the name of the estimator's class, for messages.
    """
    if y is None:
        raise InvalidInputError(f"This {owner} estimator requires y to be passed, but the target y is None.")
    if odd := odd_targets(y, numeric=numeric):
        raise InvalidInputError(odd)
    y = host(y)
    y = _checked(y, "y", dtype=None, accept_sparse="csr", estimator=owner)
    y = y.toarray() if sparse.issparse(y) else y
    if y.ndim == 2 and y.shape[1] == 1:
        text = (
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples, )"
        )
        warn(f"{text}, for example using ravel().", DataConversionWarning)
        y = y[:, 0]
    if y.ndim not in (1, 2):
        raise InvalidInputError(f"y must have shape (n,) or (n, n_outputs); got {y.shape}.")
    if numeric and y.dtype.kind not in "iufb":
        y = y.astype(np.float64)
    check_consistent_length(inputs.x, y)
    checked: HostArray = y
    return checked


def check_weights(w: Any, n: int, name: str = "sample_weight") -> HostArray | None:
    """Weights of n samples on the host: one number each, none negative, not all zero; one number serves for all."""
    if w is None:
        return None
    if isinstance(w, (int, float, np.number)) and not isinstance(w, bool):
        w = np.full(n, float(w))
    if odd := odd_inputs(w, name):
        raise InvalidInputError(odd)
    weights: HostArray = _checked(host(w), name, dtype=np.float64, accept_sparse=False)
    if weights.ndim != 1:
        raise InvalidInputError(
            f"Sample weights must be 1D array or scalar, got {weights.ndim}D array: {name} needs shape "
            f"({n},) or one number."
        )
    if weights.shape != (n,):
        raise InvalidInputError(f"{name}.shape == {weights.shape}, expected {(n,)}: one weight per sample.")
    if np.any(weights < 0.0):
        raise InvalidInputError(
            f"Negative values in data passed to {name}: the least is {weights.min():g}, it must be 0."
        )
    if not np.any(weights > 0.0):
        raise InvalidInputError(f"Sample weights must contain at least one non-zero number; all of {name} are zero.")
    return weights


def _checked(values: Any, name: str, **options: Any) -> Any:
    """What scikit-learn's `check_array` makes of one argument, whose name its errors say."""
    try:
        return check_array(values, ensure_2d=False, input_name=name, **options)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(advised(error, name)) from error


def is_given(validation: tuple[Any, Any, Any]) -> bool:
    """Whether there are X_val and y_val, and perhaps weights; InvalidInputError where one comes alone."""
    X, y, w = validation
    if X is None and y is None and w is None:
        return False
    if X is None or y is None:
        raise InvalidInputError("X_val and y_val come together; got one of them, or sample_weight_val, alone.")
    return True


def scale_of(w: HostArray | None) -> float:
    """What weights are multiplied with, and with them the penalty: see `checks.weight_scale`."""
    return 1.0 if w is None else weight_scale(float(np.max(w, initial=0.0)))


def host(values: Any) -> Any:
    """Arrays of another library as NumPy's; whatever else as it is."""
    return values if caller_place(values) is NUMPY else to_numpy(values)


def move(x: Any, place: Place, dtype: str) -> Array:
    """A checked array of any library, on `place`."""
    if _is_host(x):
        return place.asarray(x, dtype)
    here = place_of(x)
    if here.backend is place.backend and here.device == place.device:
        return place.xp.astype(x, getattr(place.xp, dtype), copy=False)
    return to_backend(x, place.backend.name, device=place.device_name, dtype=dtype)


def bring(values: Array, place: Place, caller: Place) -> Array:
    """An answer, to where the caller is; in float32 where there is no float64."""
    if place.backend is caller.backend and place.device == caller.device:
        return values
    there: HostArray = place.backend.to_numpy(values)
    return caller.asarray(there if caller.float64 else there.astype(np.float32))


def _is_host(x: Any) -> bool:
    return isinstance(x, np.ndarray) or sparse.issparse(x)
