"""What a fitted estimator says of Dask's collections: collections again, nothing of them computed yet."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.dask.partitions import is_frame, parts_of

Shape = tuple[int | None, ...]
Moments = tuple[float, Any, Any, Any]  # weight, mean of y, squares about it, squared errors


def lazily(X: Any, function: Callable[[Any], Any], shape: Shape, dtype: Any) -> Any:
    """`function` of each partition of X, as a Dask array.

    Parameters
    ----------
    shape : tuple
        That of what the function gives, with None in the place of the rows: (None,) is one number per row.
    """
    da: Any = importlib.import_module("dask.array")
    work = importlib.import_module("dask").delayed(partial(_answer, function, shape, dtype))
    if is_frame(X):
        parts, rows = X.to_delayed(), [np.nan] * X.npartitions
    else:
        X = X.rechunk({1: -1}) if X.numblocks[1] > 1 else X
        parts, rows = X.to_delayed().ravel().tolist(), X.chunks[0]
    pairs = zip(parts, rows, strict=True)
    pieces = [da.from_delayed(work(part), _shape(shape, n), dtype=dtype) for part, n in pairs]
    return da.concatenate(pieces, axis=shape.index(None))


def _answer(function: Callable[[Any], Any], shape: Shape, dtype: Any, part: Any) -> Any:
    return function(part) if len(part) else np.empty(_shape(shape, 0), dtype)


def _shape(shape: Shape, n: Any) -> tuple[Any, ...]:
    return tuple(n if size is None else size for size in shape)


def share_right(model: Any, X: Any, y: Any, w: Any) -> float:
    """The share of samples whose prediction is right, partition by partition."""

    def count(part: Any) -> tuple[float, float]:
        weight = float(_weights(part).sum())
        return (model.score(*part) * weight if weight else 0.0), weight

    found: list[tuple[float, float]] = _computed(X, y, w, count)
    weight = _demand_weight(sum(weight for _, weight in found))
    return sum(right for right, _ in found) / weight


def explained(model: Any, X: Any, y: Any, w: Any) -> float:
    """R^2, averaged over the outputs, partition by partition."""

    def moments(part: Any) -> Moments:
        weights = _weights(part)
        weight = float(weights.sum())
        if not weight:
            return 0.0, 0.0, 0.0, 0.0
        of = np.asarray(part[1], np.float64).reshape(len(weights), -1)
        mean = weights @ of / weight
        off = of - model.predict(part[0]).reshape(of.shape)
        return weight, mean, weights @ (of - mean) ** 2, weights @ off**2

    weight, mean, squares, off = 0.0, np.zeros(1), np.zeros(1), np.zeros(1)
    for own, own_mean, own_squares, own_off in _computed(X, y, w, moments):
        if own:  # Chan, Golub and LeVeque: moments of a union from those of its parts, without cancellation
            both, apart = weight + own, own_mean - mean
            mean, squares = mean + apart * own / both, squares + own_squares + apart**2 * weight * own / both
            weight, off = both, off + own_off
    _demand_weight(weight)
    known = np.where(squares > 0.0, 1.0 - off / np.where(squares > 0.0, squares, 1.0), off == 0.0)
    return float(np.mean(known))


def _demand_weight(weight: float) -> float:
    if not weight:
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weight


def _weights(part: Any) -> HostArray:
    return np.ones(len(part[0])) if len(part) == 2 else np.asarray(part[2], np.float64).reshape(-1)


def _computed(X: Any, y: Any, w: Any, function: Callable[[Any], Any]) -> Any:
    dask: Any = importlib.import_module("dask")
    work = dask.delayed(function, pure=False)
    return dask.compute(*[work(part) for part in parts_of(X, y, w)])


def brought(model: Any, X: Any, y: Any, w: Any) -> list[HostArray]:
    """The predictions, y and, where there are some, the weights, in this process."""

    def answered(part: Any) -> Any:
        return (model.predict(part[0]), *map(np.asarray, part[1:])) if len(part[0]) else None

    found = [columns for columns in _computed(X, y, w, answered) if columns is not None]
    return [np.concatenate(pieces) for pieces in zip(*found, strict=True)]
