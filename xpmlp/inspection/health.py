"""The health of training: what goes on in each layer, epoch by epoch, and what it means in words.

`Health` is a callback that looks at a few hundred samples after an epoch; `diagnose` turns what it saw, or one batch,
into sentences. What is recorded, for layer k:

    gradient_norm.k   |dW[k]|, the Euclidean norm                         weight_norm.k   |W[k]|
    update_ratio.k    |W[k] - W[k] at the record before| / |W[k]|         largest_z.k     the largest |z[k]|
    saturation.k      the share of the elements of z[k] where the slope f_k' is below 0.5 % of its peak (hidden layers);
                      of a ReLU these are its zeros, and half of them is usual
    dead.k            the share of the units of layer k for which that is so for every sample: they learn nothing

and largest_input, the largest |x|, and epoch, when. The penalty and dropout take no part.

To add a complaint, write a function from `_Chart` to findings, and name it in COMPLAINTS.
"""

import functools
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, array_namespace, backend_of, place_of
from xpmlp.backends.arithmetic import unwarned
from xpmlp.inspection.models import Batch, Opened, batch_of, curves_of, open_up
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
        As for `fit`; the training data itself, or other samples. Only `rows` of them are kept, evenly spaced.
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
        n = int(X.shape[-2] if len(getattr(X, "shape", ())) > 1 else len(X))
        self._samples = tuple(_some(values, n, rows) for values in (X, y, sample_weight))
        self.history: Records = {}
        self._batch: tuple[Opened, Batch] | None = None
        self._before: Layers | None = None

    def __call__(self, model: Any, epoch: int, logs: Mapping[str, Any]) -> None:  # noqa: ARG002 - as all callbacks
        """Take a record; `model` is the MLP or the estimator that is being fitted."""
        curve = model.history["loss"] if isinstance(model, MLP) else model.loss_curve_
        now = len(curve)  # `epoch` of an estimator starts anew where a fit is continued
        if now <= (self.history.get("epoch") or [0])[-1]:  # another fit, from the beginning
            self.history, self._batch, self._before = {}, None, None
        if (now - 1) % self.every:
            return
        opened = open_up(model)
        if self._batch is None or self._batch[0].network is not opened.network:
            self._batch = opened, batch_of(model, *self._samples)
        record = measure(opened, self._batch[1], self._before) | {"epoch": float(now)}
        xp = opened.place.xp
        self._before = [None, *(xp.asarray(W, copy=True) for W in opened.W[1:])]  # the next step writes into them
        for name, value in record.items():
            self.history.setdefault(name, []).append(value)
            if isinstance(model, MLP):
                model.history.setdefault(PREFIX + name, []).append(value)

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
    dW = None if batch.y is None else backward(network, p, trace, batch.y, batch.w).dW
    found: dict[str, Array] = {"largest_input": _largest(batch.x)}
    for k in range(1, K + 1):
        size = _norm(W[k])
        found[f"weight_norm.{k}"] = size
        if dW is not None:
            found[f"gradient_norm.{k}"] = _norm(dW[k])
        if before is not None:
            found[f"update_ratio.{k}"] = _norm(W[k] - before[k]) / size
        found[f"largest_z.{k}"] = _largest(trace.z[k])
        if k < K:
            row = network.activations[k - 1]
            closed = xp.abs(row.derivative(trace.z[k], trace.a[k])) < CLOSED * slope_of(row, place).peak
            shares = xp.mean(xp.astype(closed, trace.z[k].dtype), axis=-2)  # of the samples, for each unit
            found[f"saturation.{k}"] = xp.mean(shares, axis=-1)
            found[f"dead.{k}"] = xp.mean(xp.astype(shares == 1.0, shares.dtype), axis=-1)
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


# --- In words ---


@dataclass(frozen=True)
class Finding:
    """One complaint."""

    kind: str  # "dead", "saturated", "vanishing", "exploding", "not finite", "overfitting", "too slow", ...
    evidence: str
    cure: str
    layer: int | None = None
    network: int | None = None
    since: int | None = None  # the epoch from which on it has been so; None for a single batch

    def __str__(self) -> str:
        who = "" if self.network is None else f"Network {self.network}: "
        return f"{who}{self.evidence}: {self.cure}."


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; print it to read it, or go through `findings`."""

    findings: tuple[Finding, ...]
    seen: str  # what was looked at
    missing: str = ""  # what could not be looked at, and how to change that

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to complain about."""
        return not self.findings

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the findings."""
        return tuple(finding.kind for finding in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __repr__(self) -> str:
        lines = [f"- {finding}" for finding in self.findings] or [f"Nothing to complain about ({self.seen})."]
        lines += [self.missing] if self.missing else []
        wrap = textwrap.TextWrapper(80, subsequent_indent="  " if self.findings else "", break_on_hyphens=False)
        return "\n".join(wrap.fill(line) for line in lines)


def diagnose(model: Any, X: Any = None, y: Any = None, sample_weight: Any = None) -> Diagnosis:
    """Say in sentences what is wrong with a training, each with its evidence and its cure.

    Parameters
    ----------
    model : MLP or estimator
        What a `Health` callback recorded while it was fitted is read (of an estimator, from its `callbacks`), and its
        loss curves.
    X, y, sample_weight : optional
        A batch, to look at the model as it is now; without y there are no gradients to look at.

    Returns
    -------
    Diagnosis
        Its text is one sentence per complaint, or "Nothing to complain about". Complaints are rules of thumb: a network
        that has them may learn all the same, only worse than it could.

    Raises
    ------
    TypeError, ValueError
        If `model` is no model of xpmlp, or was not fitted, or if the batch does not fit it.

    Examples
    --------
    >>> import numpy as np, xpmlp
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> net = xpmlp.MLP([3, 50, 50, 1], "tanh", initializer=xpmlp.normal(9.0), random_state=0)
    >>> for finding in xpmlp.diagnose(net, X, X[:, 0]):
    ...     print(finding.kind, finding.layer)
    saturated 1
    saturated 2
    """
    chart = _Chart(model, X, y, sample_weight)
    findings = [finding for complain in COMPLAINTS for finding in complain(chart)]
    return Diagnosis(tuple(findings), chart.seen, chart.missing)


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
    return {name: np.asarray(values, dtype=float) for name, values in found.items()}


class _Chart:
    """All that is known of one model, for the complaints to read."""

    def __init__(self, model: Any, X: Any, y: Any, sample_weight: Any) -> None:
        self.model = open_up(model)
        records = records_of(model)
        self.epochs = records.get("epoch", np.zeros(0))
        self.n_records = len(self.epochs)
        self.now = X is not None
        if self.now:
            record = measure(self.model, batch_of(model, X, y, sample_weight))
            for name, value in record.items():
                before = records.get(name, np.full((self.n_records, *np.shape(value)), np.nan))
                records[name] = np.concatenate([before, np.asarray(value, dtype=float)[None]])
        self.records = {name: values.reshape(len(values), -1) for name, values in records.items()}
        self.curves = {
            name: curve.reshape(len(curve), -1) for name, curve in curves_of(model).items() if PREFIX not in name
        }
        self.networks = range(self.model.n_networks or 1)
        self.K = self.model.network.layout.n_layers

    @property
    def seen(self) -> str:
        """What was looked at."""
        parts = ["this batch"] if self.now else []
        if self.n_records:
            at = f"epochs {self.epochs[0]:g} to {self.epochs[-1]:g}" if self.n_records > 1 else "one epoch"
            parts.append(f"{self.n_records} records, {at}" if self.n_records > 1 else "one record")
        if not parts:
            parts.append("loss curves only")
        return ", ".join(parts)

    @property
    def missing(self) -> str:
        """What was not looked at, and how to change that."""
        if self.n_records or self.now:
            return ""
        return (
            "No layer was looked at. Call diagnose(model, X, y) with a batch, or record every epoch: "
            "callbacks=[xpmlp.Health(X, y)]."
        )

    def series(self, name: str, network: int) -> HostArray:
        """The values of one network at each record, NaN where unknown; empty where there are none at all."""
        values = self.records.get(name)
        return np.zeros(0) if values is None else values[:, network]

    def last(self, name: str, network: int) -> float:
        """The latest value that is known."""
        values = self.series(name, network)
        values = values[~np.isnan(values)]
        return float(values[-1]) if values.size else float("nan")

    def since(self, holds: HostArray) -> tuple[int | None, str]:
        """The epoch from which on a condition has held at each record, and the words for it; "" if it does not hold."""
        if not holds.size or not holds[-1]:
            return None, ""
        first = len(holds) - int(np.argmin(holds[::-1])) if not holds.all() else 0
        if first >= self.n_records:
            return None, "on this batch"
        return int(self.epochs[first]), f"since epoch {self.epochs[first]:g}"

    def who(self, network: int) -> int | None:
        """How a finding names the network."""
        return None if self.model.n_networks is None else network

    def curve(self, name: str, network: int) -> HostArray:
        """A curve of one network."""
        values = self.curves.get(name)
        return np.zeros(0) if values is None or not values.size else values[:, network]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share > 0.02 else f"{100 * share:.2g} %"


def not_finite(chart: _Chart) -> Iterator[Finding]:
    """Numbers that overflowed."""
    for j in chart.networks:
        loss = chart.curve("loss", j)
        bad = np.flatnonzero(~np.isfinite(loss))
        if bad.size:
            epoch = int(bad[0]) + 1
            yield Finding(
                "not finite",
                f"the loss was no longer finite in epoch {epoch}",
                "lower the learning rate, scale the inputs and targets to about unit variance, or clip the gradient "
                "(clip_norm=1.0)",
                network=chart.who(j),
                since=epoch,
            )


def unscaled_inputs(chart: _Chart) -> Iterator[Finding]:
    """Inputs of a size that no initializer was made for."""
    largest = max((chart.last("largest_input", j) for j in chart.networks), default=0.0)
    if largest > 100.0:
        yield Finding(
            "unscaled inputs",
            f"the inputs reach {largest:.3g}, and initial weights are made for inputs of about 1",
            "scale each column to unit variance, for instance with sklearn.preprocessing.StandardScaler",
        )


def equal_units(chart: _Chart) -> Iterator[Finding]:
    """Units of one layer that have the same weights, in and out: they get the same derivatives, and stay equal."""
    to_numpy = chart.model.place.backend.to_numpy
    W, b = (
        [None, *(np.asarray(to_numpy(values), dtype=float) for values in layers[1:])]
        for layers in (chart.model.W, chart.model.b)
    )
    for j, k, _ in _hidden(chart):
        several = W[k].ndim == 3
        into, bias, out = (values[j] if several else values for values in (W[k], b[k], W[k + 1]))
        parts = (into.T, bias.reshape(-1, 1), out)
        # To rounding, which may differ from column to column of a product.
        units = np.concatenate([part / (np.max(np.abs(part)) or 1.0) for part in parts], axis=1)
        if not np.all(np.isfinite(units)):
            continue
        n, different = len(units), len(np.unique(np.round(units, 6) + 0.0, axis=0))
        if different < n:
            which = f"all {n} units of layer {k}" if different == 1 else f"{n} units of layer {k} are {different}: some"
            yield Finding(
                "equal units",
                f"{which} have the same weights, in and out, and nothing tells them apart, so they get the same "
                f"derivatives and stay the same: the layer learns as if it had {different}",
                "begin with random weights (an initializer other than zeros, or initialize() with the usual one)",
                layer=k,
                network=chart.who(j),
            )


def dead_units(chart: _Chart) -> Iterator[Finding]:
    """Units of ReLU and its kin that let nothing through, for any sample."""
    for j, k, row in _hidden(chart):
        share = chart.series(f"dead.{k}", j)
        since, when = chart.since(share >= 0.25)
        slope = slope_of(row, chart.model.place)
        if when and not slope.squashes and (slope.closes_below or slope.closes_above):
            other = "use leaky_relu" if row.name == "relu" else "use an activation without a flat side (leaky_relu)"
            yield Finding(
                "dead",
                f"{_percent(share[-1])} of layer {k}'s units are dead {when}, their slope is 0 for every sample, so "
                "they learn nothing",
                f"lower the learning rate or {other}",
                layer=k,
                network=chart.who(j),
                since=since,
            )


def saturated_units(chart: _Chart) -> Iterator[Finding]:
    """Units of tanh, sigmoid and their kin that sit on a flat end."""
    for j, k, row in _hidden(chart):
        share = chart.series(f"saturation.{k}", j)
        since, when = chart.since(share >= 0.5)
        if when and slope_of(row, chart.model.place).squashes:
            yield Finding(
                "saturated",
                f"{_percent(share[-1])} of layer {k}'s {row.name} outputs are saturated {when}, |z| reaches "
                f"{chart.last(f'largest_z.{k}', j):.3g} where the slope is next to 0",
                "take smaller initial weights (glorot_uniform), scale the inputs, or lower the learning rate",
                layer=k,
                network=chart.who(j),
                since=since,
            )


def vanishing_gradients(chart: _Chart) -> Iterator[Finding]:
    """Gradients that get lost on the way down."""
    stuck = {finding.network for finding in (*dead_units(chart), *saturated_units(chart))}  # that is another sentence
    for j in chart.networks:
        pulls = [_pull(chart, k, j) for k in range(1, chart.K + 1)]
        if chart.K == 1 or not pulls[0].size or chart.who(j) in stuck:
            continue
        k = int(np.argmin([pull[-1] for pull in pulls[:-1]])) + 1
        bottom, top = pulls[k - 1], pulls[-1]
        since, when = chart.since((bottom < 1e-3 * top) & (top > 0.0))
        if when:
            yield Finding(
                "vanishing",
                f"the gradient of layer {k} is {bottom[-1] / top[-1]:.1g} of that of layer {chart.K} {when} (each "
                "relative to its weights), so the lower layers hardly learn",
                "use relu or gelu with their own initializer, fewer layers, or larger initial weights",
                layer=k,
                network=chart.who(j),
                since=since,
            )


def exploding_gradients(chart: _Chart) -> Iterator[Finding]:
    """Gradients or signals that grow without bound: from layer to layer, or from epoch to epoch."""
    cure = "lower the learning rate, take smaller initial weights, or clip the gradient (clip_norm=1.0)"
    for j in chart.networks:
        first, last = chart.series("largest_z.1", j), chart.series(f"largest_z.{max(chart.K - 1, 1)}", j)
        bottom, top = _pull(chart, 1, j), _pull(chart, chart.K, j)
        total = np.sqrt(sum(chart.series(f"gradient_norm.{k}", j) ** 2 for k in range(1, chart.K + 1)))
        known = np.flatnonzero(np.isfinite(total))
        start = float(np.median(total[known[:3]])) if known.size > 3 else float("nan")
        with np.errstate(all="ignore"):
            signals, signals_when = chart.since(last > 100.0 * first)
            down, down_when = chart.since((bottom > 1e3 * top) & (top > 0.0))
            grown, grown_when = chart.since(total > 100.0 * start)
        if signals_when:
            text = f"the signals grow from |z| = {first[-1]:.2g} in layer 1 to {last[-1]:.2g} in layer {chart.K - 1}"
            yield Finding("exploding", f"{text} {signals_when}", cure, network=chart.who(j), since=signals)
        elif down_when:
            text = f"the gradient of layer 1 is {bottom[-1] / top[-1]:.1g} times that of layer {chart.K} {down_when}"
            yield Finding("exploding", f"{text} (each relative to its weights)", cure, 1, chart.who(j), down)
        elif grown_when:
            text = f"the gradient is {total[-1] / start:.0f} times what it was in the first epochs {grown_when}"
            yield Finding("exploding", text, cure, network=chart.who(j), since=grown)


def too_fast(chart: _Chart) -> Iterator[Finding]:
    """A learning rate that throws the weights about."""
    for j in chart.networks:
        evidence = ""
        ratios = np.array([chart.series(f"update_ratio.{k}", j)[: chart.n_records] for k in range(1, chart.K + 1)])
        recent = ratios[:, -3:] if ratios.shape[-1] > 3 else np.zeros((0, 1))
        steps = np.min(np.where(np.isnan(recent), np.inf, recent), axis=1)
        steps[np.isnan(recent).all(axis=1)] = 0.0  # weights of 0 that do not move
        if steps.size and np.max(steps) > 1.0:
            k = int(np.argmax(steps)) + 1
            evidence = (
                f"each epoch moves the weights of layer {k} by {_percent(steps[k - 1])} of their size, to the end"
            )
        loss = chart.curve("loss", j)
        late = loss[len(loss) // 2 :]
        if not evidence and len(late) >= 5 and np.all(np.isfinite(loss)):
            rises = np.diff(late)
            rises = rises[rises > 0.0]
            level = float(np.mean(np.abs(late)))
            often = len(rises) >= 0.3 * (len(late) - 1)
            if often and float(np.mean(rises)) > 0.2 * level and level > 0.05 * abs(loss[0]):
                evidence = (
                    f"the loss rose in {len(rises)} of the last {len(late) - 1} epochs, by "
                    f"{_percent(float(np.mean(rises)) / level)} on average"
                )
            best, now = int(np.argmin(loss)), float(np.median(loss[-3:]))
            if not evidence and now > 1.3 * loss[best] > 0.0 and now > 0.05 * loss[0]:
                evidence = f"the loss was lowest in epoch {best + 1} and is {now / loss[best]:.1f} times as large now"
        if evidence:
            cure = 'lower the learning rate, or let it fall (schedule="cosine")'
            yield Finding("too fast", evidence, cure, network=chart.who(j))


def too_slow(chart: _Chart) -> Iterator[Finding]:
    """A learning rate with which training would take for ever."""
    for j in chart.networks:
        loss = chart.curve("loss", j)
        if len(loss) < 5 or not np.all(np.isfinite(loss)) or loss[0] <= 0.0:
            continue
        fall = 1.0 - (loss[-1] / loss[0]) ** (1.0 / (len(loss) - 1)) if loss[-1] > 0.0 else 1.0
        steady = np.mean(np.diff(loss) < 0.0) >= 0.9
        # A training that has converged has slowed down; one that crawls falls at the end as it did at the start.
        half = len(loss) // 2
        early, later = loss[0] - loss[half], loss[half] - loss[-1]
        if steady and 0.0 < fall < 2e-3 and later > 0.5 * early:
            yield Finding(
                "too slow",
                f"the loss falls in almost every epoch, but by {_percent(fall)} only, and no slower at the end than "
                "at the start",
                "raise the learning rate tenfold",
                network=chart.who(j),
            )


def overfitting(chart: _Chart) -> Iterator[Finding]:
    """A validation loss that rises while the training loss falls."""
    for j in chart.networks:
        loss, held_out = chart.curve("loss", j), chart.curve("validation_loss", j)
        n = min(len(loss), len(held_out))
        if n < 5 or not np.all(np.isfinite(held_out)):
            continue
        loss, held_out = loss[-n:], held_out[-n:]
        best, late = int(np.argmin(held_out)), float(np.median(held_out[-3:]))
        if late > 1.1 * held_out[best] and loss[-1] < loss[best] and best < n - 3:
            first = len(chart.curve("loss", j)) - n
            yield Finding(
                "overfitting",
                f"the validation loss was lowest in epoch {first + best + 1} and is "
                f"{_percent(late / held_out[best] - 1)} higher now, while the training "
                f"loss fell from {loss[best]:.3g} to {loss[-1]:.3g}",
                "stop early (early_stopping=True), use dropout or a larger penalty, or a smaller network",
                network=chart.who(j),
                since=first + best + 1,
            )


def _hidden(chart: _Chart) -> Iterator[tuple[int, int, Activation]]:
    for j in chart.networks:
        for k in range(1, chart.K):
            yield j, k, chart.model.network.activations[k - 1]


def _pull(chart: _Chart, k: int, network: int) -> HostArray:
    """|dW[k]| / |W[k]|: layers of any size can be compared."""
    with np.errstate(all="ignore"):
        return chart.series(f"gradient_norm.{k}", network) / chart.series(f"weight_norm.{k}", network)


# In the order in which a doctor would ask.
COMPLAINTS: tuple[Callable[[_Chart], Iterator[Finding]], ...] = (
    not_finite,
    unscaled_inputs,
    equal_units,
    exploding_gradients,
    vanishing_gradients,
    dead_units,
    saturated_units,
    too_fast,
    too_slow,
    overfitting,
)
