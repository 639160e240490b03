"""The in-place runner, for libraries whose arrays can be written into: every array of a step is made once.

Compared with the eager runner it allocates nothing large, makes fewer calls and fewer passes over memory:

- z, a and dz are kept transposed, (units, batch): broadcasts, and the sums over the classes of a softmax, then run
  along the batch, which is long, and not along the units, which may be few. (NumPy, 1,000 x 2: a maximum over the
  classes costs 34 microseconds by rows and 1.5 by columns.)
- dW and db are written by the products themselves into the flat gradient.
- The optimizer goes over the flat vectors in blocks that stay in the cache, or in one pass.

What a library does best in its own words stands in its `Columns`: runners/numpy.py, runners/torch.py. Rows without a
column, and a user's own functions, run as they are on transposed views. Results are the eager runner's, to rounding.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, array_namespace
from xpmlp.network import Trace, dropout, output_derivative, pullback, sample_losses, shares
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.losses import LOSSES
from xpmlp.optim.optimizers import Rates, clip
from xpmlp.runners.eager import Data
from xpmlp.runners.step import CannotRunError, Reduction, State, Task, of_each, total_weight


class Activation(NamedTuple):
    """An activation in place: `forward` turns z into a, with a note for `backward`, which turns da into dz."""

    forward: Callable[[Array, Array], object]  # (z, note)
    backward: Callable[[Array, Array, Array], object]  # (da, a, note)


class Columns(NamedTuple):
    """What one library does in place: by name of the rows of the tables, and the three products of a layer."""

    take: Callable[[Array, Array, int, Array | None], Array]  # (values, rows, axis, out): rows, in `out` if it is there
    linear: Callable[[Array, Array, Array, Array], object]  # (W.T, h, b, z): z = W.T @ h + b
    matmul: Callable[[Array, Array, Array], object]  # (A, B, out): out = A @ B
    row_sums: Callable[[Array, Array, Array], object]  # (dz, ones, db)
    activations: dict[str, Activation]
    # Of a loss and its canonical link, (z, y, note): the loss of each sample; the scores become dL/dz of each sample.
    losses: dict[str, Callable[[Array, Array, Array], Array]]
    add_multiple: Callable[[Array, Any, Array, Array], object]  # (p, c, room, g): g += c * p
    adam: Callable[..., object]  # (p, g, slots, rates, room, **parameters)
    block: int  # elements that the optimizer takes at a time


class Buffers:
    """The arrays of a step on a batch of one size, transposed: (units, batch), with the leading axis of m networks."""

    def __init__(self, sizes: tuple[int, ...], lead: tuple[int, ...], batch: int, like: Array) -> None:
        xp, where = array_namespace(like), {"dtype": like.dtype, "device": like.device}
        K = len(sizes) - 1

        def room(last: int) -> list[Array]:
            return [None] + [xp.empty((*lead, sizes[k], batch), **where) for k in range(1, last + 1)]

        self.z = room(K)  # becomes a where the row has a column
        self.note = room(K)
        self.da = room(K - 1)  # becomes dz
        self.ones = xp.ones(batch, **where)


class Block(NamedTuple):
    """A stretch of the flat vectors that is updated at a time."""

    p: Array
    g: Array
    slots: tuple[Array, ...]
    room: Array
    weights: tuple[Array, Array, Array] | None  # the part of p, room and g that belongs to weights
    factors: Array | None
    decays: Array | None


class InPlaceRunner:
    """Executes steps in place; see the head of this file."""

    name: ClassVar[str]
    columns: Columns
    takes_sparse = False  # whether the products of `columns` know sparse rows
    reason = ""

    def __init__(self, task: Task, data: Data, seed: Array | None = None) -> None:
        self.task, self.data, self.seed = task, data, seed
        network = task.network
        if network.parts or network.members:
            raise CannotRunError("parts and members have no columns here")
        self.activations = [
            None,
            *(
                self.columns.activations.get(row.name) if checks.genuine(row, ACTIVATIONS) else None
                for row in network.activations
            ),
        ]
        self.is_adam = task.is_adam and not task.optimizer.average
        known_loss = network.canonical and checks.genuine(network.loss, LOSSES)
        self.loss = self.columns.losses.get(network.loss.name) if known_loss else None
        self.buffers: dict[int, Buffers] = {}
        self.taken: dict[tuple[int, int], Array] = {}
        self.first = 0  # rows of the batch before the part that is looked at
        self.p: Any = None

    def epoch(
        self,
        state: State,
        order: HostArray | None,
        rate_of: Callable[[int], float],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> tuple[State, Array]:
        """One epoch; see `eager.Runner.epoch`."""
        optimizer = self.task.optimizer
        p, slots, t = state
        self._own(p, slots)
        total: Any = 0.0
        seen: Any = 0.0
        for i, (x, y, w) in enumerate(self.data.batches(order, self._take, sparse=self.takes_sparse)):
            t += 1
            part, weight = self._step(x, y, w, t, optimizer.scalars(t, rate_of(i)))
            total, seen = total + part, seen + weight
            if interrupted():
                break
        plain = self.data.w is None and self.task.reduce is None
        return State(p, slots, t), total / seen if plain else total * of_each(seen)

    def _reduced(self, reduce: Reduction, x: Array, y: Array, w: Array | None, t: int) -> tuple[Any, Any]:
        """The loss and weight of a batch that comes in parts; its gradient lies in `self.g` then."""
        for part in reduce.parts(int(x.shape[-2])):
            rows = part.rows
            some = x[..., rows, :], y[..., rows, :], None if w is None else w[..., rows]
            self.first = part.first
            loss = self._gradient(*some, t)
            reduce.add(part, self.g, loss, total_weight(some[0], some[2]))
        g, loss, weight = reduce.total(self.g)
        if g is not self.g:
            self.g[...] = g
        return loss, weight

    def _step(self, x: Array, y: Array, w: Array | None, t: Any, rates: Rates) -> tuple[Array, Any]:
        """One step on one batch: its loss times its weight, and that weight."""
        if self.task.reduce is None:
            loss = self._gradient(x, y, w, t)
            weight = total_weight(x, w)
        else:
            loss, weight = self._reduced(self.task.reduce, x, y, w, t)
        return (loss + self._update(rates, weight)) * weight, weight

    def gradient(self, p: Array, x: Array, y: Array, w: Array | None) -> tuple[Array, Array]:
        """The loss of a batch, without penalty, and its gradient, which the next call writes over."""
        if self.p is None or self.p.shape != p.shape:
            self._own(array_namespace(p).asarray(p, copy=True), ())
        else:
            self.p[...] = p  # the views of our own vector need not be cut again
        return self._gradient(x, y, w, 0), self.g

    def _take(self, values: Array, rows: Array, axis: int) -> Array:
        which = (id(values), len(rows))
        taken = self.taken[which] = self.columns.take(values, rows, axis, self.taken.get(which))
        return taken

    def _own(self, p: Array, slots: tuple[Array, ...]) -> None:
        # The views of parameters and gradient are cut once, and again only if somebody hands over another vector.
        if p is self.p:
            return
        xp, layout, many = array_namespace(p), self.task.network.layout, p.ndim == 2
        self.p, self.slots = p, slots
        self.g = xp.zeros_like(p) if layout.size > layout.n_parameters else xp.empty_like(p)  # padding stays 0
        (self.W, b, _), (self.dW, db, _) = layout.unpack(p), layout.unpack(self.g)
        self.WT: list[Any] = [None] + [W.mT for W in self.W[1:]]
        # A column that broadcasts along the batch, and a vector that a product can be written into.
        self.b = [None] + [bk.mT if many else bk[:, None] for bk in b[1:]]
        self.db = [None] + [bk[:, 0, :] if many else bk for bk in db[1:]]
        size = min(self.columns.block, layout.size)
        room = xp.empty_like(p[..., :size])
        self.blocks = [
            self._block(start, min(start + size, layout.size), slots, room) for start in range(0, layout.size, size)
        ]

    def _block(self, start: int, stop: int, slots: tuple[Array, ...], room: Array) -> Block:
        task, part = self.task, slice(start, stop)
        p, g, room = self.p[..., part], self.g[..., part], room[..., : stop - start]
        n = min(task.network.layout.decaying_stop, stop) - start
        return Block(
            p,
            g,
            tuple(slot[..., part] for slot in slots),
            room,
            (p[..., :n], room[..., :n], g[..., :n]) if n > 0 else None,
            None if task.factors is None else task.factors[part],
            None if task.decays is None else task.decays[part],
        )

    def _gradient(self, x: Array, y: Array, w: Array | None, t: Any) -> Any:
        """Write dW and db into the flat gradient and return the loss of the batch; `network.forward`, `backward`."""
        network, columns = self.task.network, self.columns
        batch = x.shape[-2]
        if batch not in self.buffers:
            self.buffers[batch] = Buffers(network.layout.sizes, tuple(self.p.shape[:-1]), batch, self.p)
        buffers = self.buffers[batch]
        K = network.layout.n_layers
        h: list[Any] = [x.mT] + [None] * K
        a: list[Any] = [None] * (K + 1)
        masks: list[Any] = [None] * (K + 1)
        for k in range(1, K):
            columns.linear(self.WT[k], h[k - 1], self.b[k], buffers.z[k])
            h[k] = a[k] = self._activate(k, buffers)
            if self.seed is not None and network.dropout[k - 1] > 0.0:
                masks[k] = self._mask(k, a[k], t)
                h[k] = a[k] * masks[k]
        columns.linear(self.WT[K], h[K - 1], self.b[K], buffers.z[K])

        share: Any = 1.0 / batch if w is None else shares(w)
        values, dz = self._output(y, share if w is None else share[..., None], buffers)
        loss = values.sum(-1) * share if w is None else (values * share).sum(-1)
        for k in range(K, 0, -1):
            columns.matmul(h[k - 1], dz.mT, self.dW[k])  # dW[k] = a[k-1].T @ dz[k]
            columns.row_sums(dz, buffers.ones, self.db[k])  # db[k] = sum over rows of dz[k]
            if k > 1:
                columns.matmul(self.W[k], dz, buffers.da[k - 1])  # da[k-1] = dz[k] @ W[k].T
                if masks[k - 1] is not None:
                    buffers.da[k - 1] *= masks[k - 1]
                dz = self._pull_back(k - 1, a[k - 1], buffers)
        return loss

    def _activate(self, k: int, buffers: Buffers) -> Array:
        column, z = self.activations[k], buffers.z[k]
        if column is None:
            return self.task.network.activations[k - 1].function(z.mT).mT
        column.forward(z, buffers.note[k])
        return z

    def _pull_back(self, k: int, a: Array, buffers: Buffers) -> Array:
        column, da = self.activations[k], buffers.da[k]
        if column is None:
            return pullback(self.task.network.activations[k - 1], da.mT, buffers.z[k].mT, a.mT).mT
        column.backward(da, a, buffers.note[k])
        return da

    def _output(self, y: Array, share: Any, buffers: Buffers) -> tuple[Array, Array]:
        """The loss of each sample and dz[K], from the scores in z[K]."""
        network, z = self.task.network, buffers.z[-1]
        if self.loss is None:
            yhat = network.activations[-1].function(z.mT)
            values = sample_losses(network, Trace([z.mT], [yhat], [], [], [z.mT]), y)
            return values, output_derivative(network, z.mT, yhat, y, share)[1].mT
        smoothing = network.loss.parameters.get("label_smoothing", 0.0)
        if smoothing:
            y = y * (1.0 - smoothing) + smoothing / y.shape[-1]
        values = self.loss(z, y.mT, buffers.note[-1])
        z *= share.mT if hasattr(share, "mT") else share
        return values, z

    def _mask(self, k: int, a: Array, t: Any) -> Array:
        seed: Any = self.seed
        step = t
        if isinstance(t, int):
            step = array_namespace(seed).full((1, 1), t % 2**31, dtype=seed.dtype, device=seed.device)
        return dropout.mask(self.task.network.dropout[k - 1], seed, step, k, like=a.mT, first=self.first).mT

    def _update(self, rates: Rates, weight: Any) -> Any:
        """One update of the parameters; the penalty of the loss comes back."""
        task = self.task
        l2: Any = task.l2 * of_each(weight) if self.data.w is not None or task.reduce else task.l2 / weight
        added = l2
        if task.clip_norm is not None:
            # The norm is that of the whole gradient, so the penalty's part has to be there before the blocks begin.
            n, added = task.network.layout.decaying_stop, 0.0
            if task.l2 > 0.0:
                self.g[..., :n] += _column(l2) * self.p[..., :n]
            self.g[...] = clip(self.g, task.clip_norm)
        squares = self._apply(rates, added)
        return 0.5 * l2 * squares if task.l2 > 0.0 else 0.0

    def _apply(self, rates: Rates, l2: Any) -> Any:
        """Add l2 W to the gradient and let the optimizer go, block by block; sum(W^2), as W was, comes back."""
        task, optimizer, columns = self.task, self.task.optimizer, self.columns
        squares: Any = 0.0
        for p, g, slots, room, weights, factors, decays in self.blocks:
            if weights is not None:
                W, beside, dW = weights
                if task.l2 > 0.0:
                    squares = squares + _sum_of_squares(W)
                    if task.clip_norm is None:
                        columns.add_multiple(W, _column(l2), beside, dW)
                if self.is_adam and decays is not None:
                    W *= 1.0 - rates[0] * optimizer.weight_decay  # the step does not depend on W
            if self.is_adam:
                columns.adam(p, g, slots, rates, room, **optimizer.parameters)
            else:
                made = optimizer.apply(p, g, slots, rates, factors, decays)
                for old, new in zip((p, *slots), (made[0], *made[1]), strict=True):
                    if new is not old:  # a row may make new arrays instead of writing into those it was given
                        old[...] = new
        return squares


def _column(per_network: Any) -> Any:
    return per_network[:, None] if getattr(per_network, "ndim", 0) else per_network


def _sum_of_squares(p: Array) -> Array:
    return p @ p if p.ndim == 1 else (p * p).sum(-1)
