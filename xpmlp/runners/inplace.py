"""The in-place runner: NumPy, with every array of a step made once and written again and again.

Compared with the eager runner it allocates nothing large, makes fewer calls and fewer passes over memory:

- z, a and dz are kept transposed, (units, batch): broadcasts, and the sums over the classes of a softmax, then run
  along the batch, which is long, and not along the units, which may be few. (1,000 x 2: a maximum over the classes
  costs 34 microseconds by rows and 1.5 by columns.)
- dW and db are written by the products themselves into the flat gradient.
- The optimizer goes over the flat vectors in blocks that stay in the cache.

The rows that matter most have columns of their own here (ACTIVATIONS, LOSSES, OPTIMIZERS below); every other row, and a
user's own functions, run as they are on transposed views. The results are the eager runner's, to rounding.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xpmlp import dropout
from xpmlp.activations import LEAKY_SLOPE
from xpmlp.backends import HostArray
from xpmlp.network import Trace, losses, output_derivative, pullback, reciprocal, shares
from xpmlp.optimizers import Rates, adam_step, clip
from xpmlp.runners.eager import Data
from xpmlp.runners.step import State, Task, total_weight

BLOCK = 2**14  # elements of p, g, m, v and one temporary: 5 x 64 KiB in float32, which a second-level cache holds


class Column(NamedTuple):
    """An activation in place: `forward` turns z into a and may leave a note in `note` for `backward`, da into dz."""

    forward: Callable[[HostArray, HostArray], object]
    backward: Callable[[HostArray, HostArray, HostArray], object]  # (da, a, note)


def relu(z: HostArray, slope: HostArray) -> None:
    # The slope is a number the backward pass needs anyway, and z * slope is half the time of maximum(z, 0).
    np.greater(z, 0.0, out=slope, casting="unsafe")
    np.multiply(z, slope, out=z)


def leaky_relu(z: HostArray, slope: HostArray) -> None:
    np.greater(z, 0.0, out=slope, casting="unsafe")
    slope *= 1.0 - LEAKY_SLOPE
    slope += LEAKY_SLOPE
    np.multiply(z, slope, out=z)


def slope_backward(da: HostArray, a: HostArray, slope: HostArray) -> None:
    np.multiply(da, slope, out=da)


def tanh(z: HostArray, note: HostArray) -> None:
    np.tanh(z, out=z)


def tanh_backward(da: HostArray, a: HostArray, note: HostArray) -> None:
    np.multiply(a, a, out=note)
    np.subtract(1.0, note, out=note)
    np.multiply(da, note, out=da)


def sigmoid(z: HostArray, note: HostArray) -> None:
    z *= 0.5
    np.tanh(z, out=z)
    z *= 0.5
    z += 0.5


def sigmoid_backward(da: HostArray, a: HostArray, note: HostArray) -> None:
    np.subtract(1.0, a, out=note)
    np.multiply(note, a, out=note)
    np.multiply(da, note, out=da)


def nothing(*_: HostArray) -> None:
    pass


ACTIVATIONS: dict[str, Column] = {
    "identity": Column(nothing, nothing),
    "relu": Column(relu, slope_backward),
    "leaky_relu": Column(leaky_relu, slope_backward),
    "tanh": Column(tanh, tanh_backward),
    "sigmoid": Column(sigmoid, sigmoid_backward),
}


def cross_entropy(z: HostArray, y: HostArray, note: HostArray) -> HostArray:
    # losses.cross_entropy_from_scores and its derivative, which share the shift and the exponential
    z -= np.maximum.reduce(z, axis=-2, keepdims=True)
    np.multiply(y, z, out=note)
    values = np.add.reduce(note, axis=-2)
    np.exp(z, out=z)
    total = np.add.reduce(z, axis=-2, keepdims=True)
    z /= total
    z -= y
    return np.subtract(np.log(total[..., 0, :]), values, out=values)


def binary_cross_entropy(z: HostArray, y: HostArray, note: HostArray) -> HostArray:
    # losses.binary_cross_entropy_from_scores: max(z, 0) + log(1 + exp(-|z|)) - y z
    np.abs(z, out=note)
    np.negative(note, out=note)
    np.exp(note, out=note)
    np.log1p(note, out=note)
    note += np.maximum(z, 0.0)
    note -= y * z
    values: HostArray = np.add.reduce(note, axis=-2)
    sigmoid(z, note)
    z -= y
    return values


def squared_error(z: HostArray, y: HostArray, note: HostArray) -> HostArray:
    z -= y
    np.multiply(z, z, out=note)
    values: HostArray = np.add.reduce(note, axis=-2)
    values *= 0.5
    return values


# Of a loss and its canonical link: the loss of each sample from scores of shape (..., n_K, batch), which become dL/dz.
LOSSES: dict[str, Callable[[HostArray, HostArray, HostArray], HostArray]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "squared_error": squared_error,
}


def adam(
    p: HostArray, g: HostArray, slots: Any, rates: Rates, room: HostArray, *, beta_1: float, beta_2: float, **_: float
) -> None:
    # optimizers.adam_step in ten passes; g is overwritten
    m, v = slots
    _lr, lr_t, epsilon = rates
    np.multiply(m, beta_1, out=m)
    np.add(m, g, out=m)
    np.multiply(v, beta_2, out=v)
    np.multiply(g, g, out=g)
    np.add(v, g, out=v)
    np.sqrt(v, out=room)
    np.add(room, epsilon, out=room)
    np.divide(m, room, out=room)
    np.multiply(room, lr_t, out=room)
    np.subtract(p, room, out=p)


class Buffers:
    """The arrays of a step on a batch of one size, transposed: (units, batch), with the leading axis of m networks."""

    def __init__(self, sizes: tuple[int, ...], lead: tuple[int, ...], batch: int, dtype: Any) -> None:
        def room(k: int) -> HostArray:
            return np.empty((*lead, sizes[k], batch), dtype)

        K = len(sizes) - 1
        self.z: list[Any] = [None] + [room(k) for k in range(1, K + 1)]  # becomes a where the row has a column
        self.note: list[Any] = [None] + [room(k) for k in range(1, K + 1)]
        self.da: list[Any] = [None] + [room(k) for k in range(1, K)]  # becomes dz
        self.ones = np.ones(batch, dtype)


class Runner:
    """Executes steps on NumPy arrays in place; see the head of this file."""

    name = "inplace"

    def __init__(self, task: Task, data: Data, seed: HostArray | None = None) -> None:
        self.task, self.data, self.seed = task, data, seed
        network = task.network
        self.columns = [None, *(ACTIVATIONS.get(row.name) for row in network.activations)]
        self.loss = LOSSES.get(network.loss.name) if network.canonical else None
        if self.loss is None:
            self.columns[-1] = None  # the generic loss needs z[K] and a[K] both
        self.buffers: dict[int, Buffers] = {}
        self.p: Any = None

    def epoch(
        self,
        state: State,
        order: HostArray | None,
        rate_of: Callable[[int], float],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> tuple[State, HostArray]:
        """One epoch; see `eager.Runner.epoch`."""
        optimizer = self.task.optimizer
        p, slots, t = state
        self._own(p, slots)
        total: Any = 0.0
        seen: Any = 0.0
        for i, (x, y, w) in enumerate(self.data.batches(order)):
            t += 1
            loss = self._gradient(x, y, w, t)
            weight = total_weight(x, w)
            loss = loss + self._update(optimizer.rates(t, rate_of(i), **optimizer.parameters), weight)
            total, seen = total + loss * weight, seen + weight
            if interrupted():
                break
        return State(p, slots, t), np.asarray(total / seen if self.data.w is None else total * reciprocal(seen))

    def _own(self, p: Any, slots: tuple[HostArray, ...]) -> None:
        # The views of parameters and gradient are cut once, and again only if somebody hands over other vectors.
        if p is self.p:
            return
        task, layout, many = self.task, self.task.network.layout, p.ndim == 2
        self.p, self.g = p, np.zeros_like(p)
        self.W, b = layout.unpack(p)
        self.dW, db = layout.unpack(self.g)
        self.WT: list[Any] = [None] + [_transposed(W) for W in self.W[1:]]
        # A column that broadcasts along the batch, and a vector that a product can be written into.
        self.b = [None] + [_transposed(bk) if many else bk[:, None] for bk in b[1:]]
        self.db = [None] + [bk[:, 0, :] if many else bk for bk in db[1:]]
        room = np.empty((*p.shape[:-1], BLOCK), p.dtype)
        self.blocks = [
            (
                part.start < layout.n_weights,
                p[..., part],
                self.g[..., part],
                tuple(slot[..., part] for slot in slots),
                room[..., : part.stop - part.start],
                None if task.factors is None else task.factors[part],
                None if task.decays is None else task.decays[part],
            )
            for part in (*_blocks(0, layout.n_weights), *_blocks(layout.n_weights, layout.size))
        ]

    def _gradient(self, x: HostArray, y: HostArray, w: HostArray | None, t: int) -> Any:
        """Writes dW and db into the flat gradient and returns the loss of the batch; `network.forward`, `backward`."""
        network, buffers = self.task.network, self._buffers(x.shape[-2])
        K, f = network.layout.n_layers, network.activations
        h: list[Any] = [_transposed(x)] + [None] * K
        a: list[Any] = [None] * (K + 1)
        masks: list[Any] = [None] * (K + 1)
        for k in range(1, K + 1):
            z = buffers.z[k]
            np.matmul(self.WT[k], h[k - 1], out=z)
            z += self.b[k]
            if k == K:
                break
            h[k] = a[k] = self._activate(k, z)
            if self.seed is not None and network.dropout[k - 1] > 0.0:
                step = np.full((1, 1), t % 2**31, dtype=np.int32)
                masks[k] = _transposed(dropout.mask(network.dropout[k - 1], self.seed, step, k, like=_transposed(a[k])))
                h[k] = a[k] * masks[k]

        share: Any = 1.0 / x.shape[-2] if w is None else shares(w)
        z = buffers.z[K]
        if self.loss is not None:
            targets = _transposed(y)
            smoothing = network.loss.parameters.get("label_smoothing", 0.0)
            if smoothing:
                targets = targets * (1.0 - smoothing) + smoothing / y.shape[-1]
            values: Any = self.loss(z, np.ascontiguousarray(targets), buffers.note[K])
            z *= share if w is None else share[..., None, :]
            dz = z
        else:
            z = _transposed(z)
            yhat = f[-1].function(z)
            values = losses(network, Trace([z], [yhat], [], []), y)
            _, dz = output_derivative(network, z, yhat, y, share if w is None else share[..., None])
            dz = _transposed(dz)
        loss = values.sum(axis=-1) * share if w is None else (values * share).sum(axis=-1)

        for k in range(K, 0, -1):
            np.matmul(h[k - 1], _transposed(dz), out=self.dW[k])  # dW[k] = a[k-1].T @ dz[k]
            np.matmul(dz, buffers.ones, out=self.db[k])  # db[k] = sum over rows of dz[k]
            if k > 1:
                da = np.matmul(self.W[k], dz, out=buffers.da[k - 1])  # da[k-1] = dz[k] @ W[k].T
                if masks[k - 1] is not None:
                    da *= masks[k - 1]
                dz = self._pull_back(k - 1, da, a[k - 1])
        return loss

    def _activate(self, k: int, z: HostArray) -> HostArray:
        column = self.columns[k]
        if column is None:
            return _transposed(self.task.network.activations[k - 1].function(_transposed(z)))
        column.forward(z, self.buffers[z.shape[-1]].note[k])
        return z

    def _pull_back(self, k: int, da: HostArray, a: HostArray) -> HostArray:
        buffers, column = self.buffers[da.shape[-1]], self.columns[k]
        if column is None:
            row = self.task.network.activations[k - 1]
            return _transposed(pullback(row, _transposed(da), _transposed(buffers.z[k]), _transposed(a)))
        column.backward(da, a, buffers.note[k])
        return da

    def _update(self, rates: Rates, weight: Any) -> Any:
        """One update of the parameters, block by block; the penalty of the loss comes back."""
        task, optimizer = self.task, self.task.optimizer
        l2: Any = task.l2 / weight if isinstance(weight, float) else task.l2 * reciprocal(weight)
        l2_column = l2[:, None] if np.ndim(l2) else l2
        penalty: Any = 0.0
        if task.clip_norm is not None:
            # The norm is that of the whole gradient, so the penalty's part has to be there before the blocks begin.
            n = task.network.layout.n_weights
            if task.l2 > 0.0:
                self.g[..., :n] += l2_column * self.p[..., :n]
            self.g[...] = clip(self.g, task.clip_norm)
        for has_weights, p, g, slots, room, factors, decays in self.blocks:
            if has_weights and task.l2 > 0.0:
                if task.clip_norm is None:
                    np.multiply(p, l2_column, out=room)
                    np.add(g, room, out=g)
                penalty = penalty + (np.dot(p, p) if p.ndim == 1 else np.vecdot(p, p))
            if optimizer.step is adam_step and factors is None and decays is None:
                adam(p, g, slots, rates, room, **optimizer.parameters)
            else:
                optimizer.apply(p, g, slots, rates, factors, decays)
        return 0.5 * l2 * penalty

    def _buffers(self, batch: int) -> Buffers:
        if batch not in self.buffers:
            self.buffers[batch] = Buffers(self.task.network.layout.sizes, self.p.shape[:-1], batch, self.p.dtype)
        return self.buffers[batch]


def _transposed(x: HostArray) -> HostArray:
    return np.swapaxes(x, -1, -2)


def _blocks(start: int, stop: int) -> Iterator[slice]:
    for at in range(start, stop, BLOCK):
        yield slice(at, min(at + BLOCK, stop))
