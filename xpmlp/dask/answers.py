"""What a fitted estimator says of Dask's collections: collections again, nothing of them computed yet."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.dask.partitions import is_frame, parts_of

Moments = tuple[float, Any, Any, Any]  # weight, mean of y, squares about it, squared errors


def lazily(X: Any, function: Callable[[Any], Any], width: int | None, dtype: Any) -> Any:
    """`function` of each partition of X, as a Dask array.

    Parameters
    ----------
    width : int or None
        Columns of what the function gives; None where it gives one number per row.
    """
    da: Any = importlib.import_module("dask.array")
    delayed: Any = importlib.import_module("dask").delayed
    if not is_frame(X):
        X = X.rechunk({1: -1}) if X.numblocks[1] > 1 else X
        meta = np.empty((0,) if width is None else (0, width), dtype)
        if width is None:
            return X.map_blocks(function, drop_axis=1, dtype=dtype, meta=meta)
        return X.map_blocks(function, chunks=(X.chunks[0], (width,)), dtype=dtype, meta=meta)
    work = delayed(function)
    shape = (np.nan,) if width is None else (np.nan, width)
    return da.concatenate([da.from_delayed(work(part), shape, dtype=dtype) for part in X.to_delayed()])


def share_right(model: Any, X: Any, y: Any, w: Any) -> float:
    """The share of samples whose prediction is right, partition by partition."""

    def count(part: Any) -> tuple[float, float]:
        if not len(part[0]):
            return 0.0, 0.0
        weight = float(_weights(part).sum())
        return model.score(*part) * weight, weight

    found: list[tuple[float, float]] = _computed(X, y, w, count)
    return sum(right for right, _ in found) / sum(weight for _, weight in found)


def explained(model: Any, X: Any, y: Any, w: Any) -> float:
    """R^2, averaged over the outputs, partition by partition."""

    def moments(part: Any) -> Moments:
        of = np.asarray(part[1], np.float64).reshape(len(part[0]), -1)
        weights = _weights(part)
        weight = float(weights.sum())
        if not weight:
            nothing = np.zeros(of.shape[1])
            return 0.0, nothing, nothing, nothing
        mean = weights @ of / weight
        off = of - model.predict(part[0]).reshape(of.shape)
        return weight, mean, weights @ (of - mean) ** 2, weights @ off**2

    weight, mean, squares, off = (np.zeros(1) for _ in range(4))
    for own, own_mean, own_squares, own_off in _computed(X, y, w, moments):
        if own:  # Chan, Golub and LeVeque: moments of a union from those of its parts, without cancellation
            both, apart = weight + own, own_mean - mean
            mean, squares = mean + apart * own / both, squares + own_squares + apart**2 * weight * own / both
            weight, off = both, off + own_off
    known = np.where(squares > 0.0, 1.0 - off / np.where(squares > 0.0, squares, 1.0), off == 0.0)
    return float(np.mean(known))


def _weights(part: Any) -> HostArray:
    return np.ones(len(part[0])) if len(part) == 2 else np.asarray(part[2], np.float64)


def _computed(X: Any, y: Any, w: Any, function: Callable[[Any], Any]) -> Any:
    dask: Any = importlib.import_module("dask")
    work = dask.delayed(function, pure=False)
    return dask.compute(*[work(part) for part in parts_of(X, y, w)])


def brought(collections: Any) -> list[Any]:
    """Collections as NumPy arrays, computed together."""
    dask: Any = importlib.import_module("dask")
    return [np.asarray(found) for found in dask.compute(*collections)]
