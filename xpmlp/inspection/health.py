"""The health of training: what goes on in each layer, epoch by epoch.

`Health` is a callback that looks at a few hundred samples after an epoch; `diagnosis` puts what it saw into words. What
is recorded, for layer k:

    gradient_norm.k   |dW[k]|, the Euclidean norm                         weight_norm.k   |W[k]|
    update_ratio.k    |W[k] - W[k] at the record before| / |W[k]|         largest_z.k     the largest |z[k]|
    saturation.k      the share of the elements of z[k] where the slope f_k' is below 0.5 % of its peak (hidden layers);
                      of a ReLU these are its zeros, and half of them is usual
    dead.k            the share of the units of layer k for which that is so for every sample: they learn nothing

and largest_input, the largest |x|, and epoch, when. The penalty and dropout take no part. Where parts stand between, z
is u[k], what f_k takes. Of members each figure is one of all together: a unit counts once in each member, the norms of
what each has for itself are taken over all, and the largest is that of any. What parts have is recorded likewise, as in
gradient_norm.piecewise.bins.0, but for the update.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, array_namespace, backend_of, place_of
from xpmlp.backends.arithmetic import unwarned
from xpmlp.backends.kinds import LOOK_ALIKES, NO_ARRAYS, oddity
from xpmlp.inspection.models import Batch, Opened, batch_of, epochs_of, open_up
from xpmlp.mlp import MLP
from xpmlp.network import Layers, backward, forward
from xpmlp.network.activations import Activation

PREFIX = "health."  # of the names in MLP.history
CLOSED = 0.005  # a slope below this share of its peak lets next to nothing through; that of leaky_relu is 0.01
FAR = 40.0  # where an activation that saturates has done so

Records = dict[str, list[Any]]


class Health:
    """A callback that records, after each epoch, how every layer is doing.

    Parameters
    ----------
    X, y, sample_weight
        As for `fit`; the training data itself, or other samples. Of an estimator of tables, which trains twice, the
        records are those of the last training. Only `rows` of them are kept, evenly spaced.
    rows : int
        Samples to look at. A unit that fires for fewer than 1 in `rows` samples may pass for dead.
    every : int
        Epochs between two records.

    Attributes
    ----------
    history : dict of str to list
        One entry per record: see the top of this module. An `MLP` gets the same in its own `history`, each name with
        "health." in front, so they are saved with it.

    Notes
    -----
    A record is one forward and one backward pass over `rows` samples, and one transfer to the host. Measured on NumPy,
    one core, [54, 256, 128, 7], batches of 256: as much as 1.7 steps in float32, 2.3 in float64, once each epoch:
    2 % of an epoch of 100 steps. Where an epoch has fewer than 45 steps, `every=10` keeps it below 5 % there too.

    Examples
    --------
    >>> import numpy as np, xpmlp
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> y = (X[:, 0] * X[:, 1] > 0).astype(float)
    >>> net = xpmlp.MLP([2, 16, 1], "tanh", "binary_cross_entropy", random_state=0)
    >>> health = xpmlp.Health(X, y)
    >>> net = net.fit(X, y, epochs=20, learning_rate=0.01, callbacks=[health])
    >>> len(health.history["gradient_norm.1"])
    20
    >>> print(xpmlp.diagnose(net))
    Nothing to complain about (20 records, epochs 1 to 20).
    """

    def __init__(self, X: Any, y: Any, sample_weight: Any = None, *, rows: int = 256, every: int = 1) -> None:
        self.every = checks.integer(every, "every", least=1)
        rows = checks.integer(rows, "rows", least=1)
        for name, values in (("X", X), ("y", y)):
            if odd := oddity(values, name, (*NO_ARRAYS, *LOOK_ALIKES)):
                raise TypeError(odd)
            if isinstance(values, type) or not hasattr(values, "__getitem__"):
                raise TypeError(f"{name} must be an array or a frame; got {values!r}.")
            if 0 in tuple(getattr(values, "shape", ())):
                raise ValueError(f"{name} must hold at least one sample and one column; got shape {values.shape}.")
        n = int(X.shape[-2] if len(getattr(X, "shape", ())) > 1 else len(X))
        try:
            self._samples = tuple(_some(values, n, rows) for values in (X, y, sample_weight))
        except IndexError:
            raise ValueError(f"X, y and the weights must hold the same number of samples; X holds {n}.") from None
        self.history: Records = {}
        self._batch: tuple[Opened, Batch] | None = None
        self._before: Layers | None = None
        self._measured = 0  # the epoch of which `measure` has just taken a record

    def __call__(self, model: Any, epoch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002 - as all callbacks
        """Take a record, if `measure` has not; `model` is the MLP or the estimator that is being fitted."""
        now = epochs_of(model)
        if now != self._measured:
            self._record(model, now)

    def measure(self, net: Any) -> Mapping[str, Any]:
        """Take a record of the epoch that has just ended; what is in it, each name with "health." in front."""
        self._measured = epochs_of(net) + 1
        return {PREFIX + name: value for name, value in self._record(net, self._measured).items()}

    def _record(self, model: Any, now: int) -> dict[str, Any]:
        # Epochs are counted over all fits: `epoch` of an estimator starts anew where a fit is continued.
        if now <= (self.history.get("epoch") or [0])[-1]:  # another fit, from the beginning
            self.history, self._batch, self._before = {}, None, None
        if (now - 1) % self.every:
            return {}
        opened = open_up(model)
        if self._batch is None or self._batch[0].network is not opened.network:
            self._batch = opened, batch_of(model, *self._samples)
        record = measure(opened, self._batch[1], self._before) | {"epoch": float(now)}
        xp = opened.place.xp
        self._before = [None, *(xp.asarray(W, copy=True) for W in opened.W[1:])]  # the next step writes into them
        for name, value in record.items():
            self.history.setdefault(name, []).append(value)
        return record

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle takes along: not the batch on the device."""
        return self.__dict__ | {"_batch": None, "_before": None}


@unwarned
def measure(model: Opened, batch: Batch, before: Layers | None = None) -> dict[str, Any]:
    """One record of the module's names: floats, or arrays of shape (m,). What cannot be known is NaN.

    Parameters
    ----------
    batch : Batch
        Without targets there are no gradients.
    before : list of arrays, optional
        W at the record before.
    """
    network, p, place, _, m = model
    W = p.W
    xp, K = place.xp, network.layout.n_layers
    trace = forward(network, p, batch.x)
    d = None if batch.y is None else backward(network, p, trace, batch.y, batch.w).d

    def whole(values: Array) -> Array:
        # Members side by side: their rows below each other
        return xp.reshape(values, (-1, values.shape[-1])) if network.members else values

    found: dict[str, Array] = {"largest_input": _largest(batch.x)}
    for k in range(1, K + 1):
        size = _norm(whole(W[k]))
        found[f"weight_norm.{k}"] = size
        if d is not None:
            found[f"gradient_norm.{k}"] = _norm(whole(d.W[k]))
        if before is not None:
            found[f"update_ratio.{k}"] = _norm(whole(W[k] - before[k])) / size
        found[f"largest_z.{k}"] = _largest(whole(trace.u[k]))
        if k < K:
            row = network.activations[k - 1]
            closed = xp.abs(row.derivative(trace.u[k], trace.a[k])) < CLOSED * slope_of(row, place).peak
            shares = xp.mean(xp.astype(closed, trace.u[k].dtype), axis=-2)  # of the samples, for each unit
            shares = xp.reshape(shares, (-1,)) if network.members else shares
            found[f"saturation.{k}"] = xp.mean(shares, axis=-1)
            found[f"dead.{k}"] = xp.mean(xp.astype(shares == 1.0, shares.dtype), axis=-1)
    for name, k, *_ in network.layout.segments:
        if name not in ("W", "b"):
            found[f"weight_norm.{name}.{k}"] = _norm(_rows(p.own[k][name], m))
            if d is not None:
                found[f"gradient_norm.{name}.{k}"] = _norm(_rows(d.own[k][name], m))
    lead = () if m is None else (m,)
    together = xp.stack([xp.broadcast_to(value, lead) for value in found.values()])
    host = np.asarray(place.backend.to_numpy(together), dtype=float)  # the one transfer
    record: dict[str, Any] = dict(zip(found, host, strict=True))
    unknown = np.full(lead, np.nan)
    for k in range(1, K + 1):
        for name in ("gradient_norm", "update_ratio"):
            record.setdefault(f"{name}.{k}", unknown)
        for name in ("saturation", "dead"):  # a slope that is not a number is not a slope of 0
            if k < K:
                known = np.isfinite(record[f"largest_z.{k}"])
                record[f"{name}.{k}"] = np.where(known, record[f"{name}.{k}"], np.nan)[()]
    return {name: float(value) if m is None else value for name, value in record.items()}


def _rows(array: Array, m: int | None) -> Array:
    # Any array of one network, or of each of m, as a row
    return array_namespace(array).reshape(array, (1, -1) if m is None else (m, 1, -1))


def _largest(z: Array) -> Array:
    # The largest |z| of each network, without an array of absolute values
    xp = array_namespace(z)
    return xp.maximum(xp.max(z, axis=(-2, -1)), -xp.min(z, axis=(-2, -1)))


def _norm(W: Array) -> Array:
    # Of each network. Scaled by the largest element: the squares of an exploding float32 gradient overflow.
    xp = array_namespace(W)
    largest = _largest(W)
    scale = xp.where(largest > 0, largest, xp.ones_like(largest))
    part = W / scale[..., None, None]
    part *= part
    return xp.sqrt(xp.sum(part, axis=(-2, -1))) * scale


@dataclass(frozen=True)
class Slope:
    """How an activation's slope behaves far out."""

    peak: float  # the largest |f'| there is, 1 at most: an exp has no largest
    closes_below: bool  # f' vanishes for z far below 0
    closes_above: bool

    @property
    def squashes(self) -> bool:
        """Whether it has two flat ends, as tanh and sigmoid have."""
        return self.closes_below and self.closes_above


@functools.cache
def slope_of(row: Activation, place: Place) -> Slope:
    """Found by trying, so that a user's own activation has one too."""
    z = place.asarray(np.linspace(-FAR, FAR, 801)[:, None], "float32")
    a = row.function(z)
    slopes = np.abs(np.asarray(place.backend.to_numpy(row.derivative(z, a)), dtype=float))[:, 0]
    peak = min(float(np.nanmax(slopes)), 1.0)
    return Slope(peak, bool(slopes[0] < CLOSED * peak), bool(slopes[-1] < CLOSED * peak))


def _some(values: Any, n: int, rows: int) -> Any:
    """Some of the samples, evenly spaced: data is often sorted by class."""
    if values is None or isinstance(values, (int, float)):
        return values
    index = np.unique(np.linspace(0, n - 1, min(rows, n)).round().astype(np.int32))
    if hasattr(values, "iloc"):
        return values.iloc[index]
    if isinstance(values, (list, tuple)):
        return [values[i] for i in index]
    if backend_of(values) is None:  # a sparse matrix, a polars frame
        return values[index]
    place = place_of(values=values)
    return place.xp.take(values, place.asarray(index), axis=max(values.ndim - 2, 0))


def records_of(model: Any) -> dict[str, HostArray]:
    """What `Health` recorded, by the module's names: arrays of shape (records,) or (records, m)."""
    if isinstance(model, Health):
        found: Mapping[str, Any] = model.history
    elif isinstance(model, (MLP, Mapping)):
        found = model.history if isinstance(model, MLP) else model
        found = {name.removeprefix(PREFIX): v for name, v in found.items() if name.startswith(PREFIX)} or (
            {} if isinstance(model, MLP) or "epoch" not in model else found
        )
    else:
        given = getattr(model, "callbacks", None)
        given = given if isinstance(given, (list, tuple)) else [given]
        found = next((callback.history for callback in given if isinstance(callback, Health)), {})
    records = {name: np.asarray(values, dtype=float) for name, values in found.items()}
    if "epoch" in records:  # a history has an entry for every epoch, NaN where no record was taken
        taken = np.isfinite(records["epoch"])
        records = {name: values[taken] for name, values in records.items()}
    return records
