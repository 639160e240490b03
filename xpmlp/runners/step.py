"""One training step: forward, backward, penalty, clipping, update: what every runner must agree with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

from array_api_compat import is_numpy_array

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import array_namespace
from xpmlp.network import Drop, Network, Parameters, backward, forward, mean_loss, reciprocal
from xpmlp.optim.optimizers import OPTIMIZERS, Optimizer, Rates, Slots, adam_step, clip


class CannotRunError(Exception):
    """A runner cannot execute this task; the message says why, and the eager runner takes over."""


class Part(NamedTuple):
    """Rows of a batch whose gradient is one term of a sum."""

    rows: slice  # among those of the batch that this process has
    first: int  # rows of the whole batch before them
    lane: int = 0  # where they come from


class Reduction(Protocol):
    """From the gradients of the parts of a batch, here and in other processes, to that of the batch."""

    stopped: bool  # whether somebody, anywhere, wants to stop

    def parts(self, n: int) -> Sequence[Part]:
        """Those of the `n` rows that this process has of the batch; none where it has no rows."""
        ...

    def add(self, part: Part, g: Array, loss: Array, weight: Any) -> None:
        """Take the gradient of a part and its loss, means over the part and without penalty, and its sum of weights."""
        ...

    def total(self, out: Array) -> tuple[Array, Any, Any]:
        """The same three of the whole batch, the gradient in `out` if that can be; every process calls it."""
        ...


@dataclass(frozen=True)
class Task:
    """What is trained and how, apart from the data and the learning rates."""

    network: Network
    optimizer: Optimizer
    l2: float = 0.0  # L gains l2 / 2 * sum(W^2) / sum(w): weights only, never biases
    clip_norm: float | None = None
    factors: Array | None = None  # per-element factors on the learning rate, shape (P,)
    decays: Array | None = None  # 1 for weights, 0 for biases, shape (P,), where the optimizer decays weights
    precision: str = "highest"  # "high" lets a device round the factors of float32 products to TF32; others ignore it
    reduce: Reduction | None = None  # where a batch comes in parts, or is that of several processes

    @property
    def is_adam(self) -> bool:
        """Whether an update is that of Adam, up to factors, decay and average, so that a runner may have it fused."""
        return self.optimizer.step is adam_step and checks.genuine(self.optimizer, OPTIMIZERS)


def arithmetic(task: Task) -> tuple[Any, ...]:
    """What a task computes, as a key, its arrays apart: tasks with equal ones may share what was compiled for one."""
    network, optimizer, loss = task.network, task.optimizer, task.network.loss
    return (
        (network.layout, network.activations, network.dropout, loss.name, loss.link, network.members),
        tuple(tuple(part.key for part in row) for row in network.parts),
        tuple(map(_meaning, (loss.value, loss.derivative, loss.value_from_scores, loss.derivative_from_scores))),
        (optimizer.name, optimizer.step, tuple(optimizer.parameters.items())),
        (optimizer.weight_decay, bool(optimizer.average)),
        (task.l2, task.clip_norm),
    )


def _meaning(function: Any) -> Any:
    # Two partials of one function with the same arguments do the same; rows with parameters hold partials.
    if isinstance(function, partial):
        return function.func, function.args, tuple(sorted(function.keywords.items()))
    return function


class State(NamedTuple):
    """What a step changes. Donated to the step: go on with what comes back."""

    p: Array  # parameters, (P,) or (m, P)
    slots: Slots  # the optimizer's arrays
    t: int  # updates done


def gradients(
    task: Task, p: Parameters, x: Array, y: Array, w: Array | None, drop: Drop | None = None
) -> tuple[Array, Parameters]:
    """The loss of a batch, shape () or (m,), with its penalty, and its derivatives, by name and layer."""
    network = task.network
    trace = forward(network, p, x, drop)
    loss = mean_loss(network, trace, y, w)
    d = backward(network, p, trace, y, w).d
    if task.l2 > 0.0:
        xp = array_namespace(loss)
        total = total_weight(trace.a[-1], w)
        per_sample = task.l2 / total if w is None else task.l2 * reciprocal(total)
        squares: Array = 0.0
        for name, k, _, _, shape, _ in network.layout.decaying:
            value, slope = p.at(name, k), d.at(name, k)
            squares = squares + xp.sum(value * value, axis=tuple(range(-len(shape), 0)))
            slope += _over_weights(per_sample) * value
            d.put(name, k, slope)
        loss = loss + 0.5 * per_sample * squares
    return loss, d


def gradient(
    task: Task, p: Array, x: Array, y: Array, w: Array | None, drop: Drop | None = None
) -> tuple[Array, Array]:
    """The loss of a batch and its derivative with respect to the flat vector: shapes (), (P,), or (m,), (m, P)."""
    layout = task.network.layout
    loss, d = gradients(task, layout.unpack(p), x, y, w, drop)
    return loss, layout.pack(d)


def total_weight(yhat: Array, w: Array | None) -> Array | float:
    """sum(w) of a batch, shape () or (m,); its number of samples where there are no weights."""
    return float(yhat.shape[-2]) if w is None else array_namespace(w).sum(w, axis=-1)


def of_each(total: Array | float) -> Array | float:
    """1 / total, and 0 where the weights sum to 0."""
    if isinstance(total, float):
        return 1.0 / total if total > 0.0 else 0.0
    return reciprocal(total)


def _over_weights(per_network: Array | float) -> Array | float:
    # (m,) to (m, 1, 1); a number or a 0-d array broadcasts as it is
    return per_network[:, None, None] if getattr(per_network, "ndim", 0) == 1 else per_network  # type: ignore[index]


def step(
    task: Task, p: Array, slots: Slots, rates: Rates, x: Array, y: Array, w: Array | None, drop: Drop | None = None
) -> tuple[Array, Slots, Array, Array | float]:
    """One step on one batch, its loss, and its sum of weights; `p` and `slots` are donated."""
    if task.reduce is None:
        loss, g = gradient(task, p, x, y, w, drop)
        weight = total_weight(x, w)
    else:
        loss, g, weight = _reduced(task, task.reduce, p, x, y, w, drop)
    if task.clip_norm is not None:
        g = clip(g, task.clip_norm)
    p, slots = task.optimizer.apply(p, g, slots, rates, task.factors, task.decays)
    return p, slots, loss, weight


def _reduced(
    task: Task, reduce: Reduction, p: Array, x: Array, y: Array, w: Array | None, drop: Drop | None
) -> tuple[Array, Array, Array | float]:
    """The loss and gradient of a batch that comes in parts; the penalty is that of the whole."""
    bare = replace(task, l2=0.0)
    for part in reduce.parts(int(x.shape[-2])):
        rows = part.rows
        some = x[..., rows, :], y[..., rows, :], None if w is None else w[..., rows]
        loss, g = gradient(bare, p, *some, None if drop is None else drop._replace(first=part.first))
        reduce.add(part, g, loss, total_weight(some[0], some[2]))
    g, loss, total = reduce.total(array_namespace(p).empty_like(p))
    if task.l2 > 0.0:
        xp, n = array_namespace(p), task.network.layout.decaying_stop
        l2 = task.l2 * of_each(total)
        W = p[..., :n]
        each = l2[..., None] if getattr(l2, "ndim", 0) else l2  # type: ignore[index]
        g = xp.concat([g[..., :n] + each * W, g[..., n:]], axis=-1)
        loss = loss + 0.5 * l2 * xp.sum(W * W, axis=-1)
    return loss, g, total


def loss_or_nan(loss: Array, p: Array) -> Array:
    """The loss of an epoch, or NaN where it ended with parameters that are not finite: one number tells both.

    Its caller lets NumPy be silent, once for all epochs: a sum of parameters may overflow.
    """
    xp = array_namespace(p)
    if p.ndim == 1 and is_numpy_array(p) and math.isfinite(p.sum()):
        return loss  # at a fifth of the time; where the sum is not finite, all may still be
    # Both extremes are finite if all are, and NaN is either: no temporary as large as p.
    finite = xp.isfinite(xp.max(p, axis=-1)) & xp.isfinite(xp.min(p, axis=-1))
    return xp.where(finite, loss, xp.nan)
