"""The in-place runner, for libraries whose arrays can be written into: every array of a step is made once.

Compared with the eager runner it allocates nothing large, makes fewer calls and fewer passes over memory:

- z, a and dz are kept transposed, (units, batch): broadcasts, and the sums over the classes of a softmax, then run
  along the batch, which is long, and not along the units, which may be few. (NumPy, 1,000 x 2: a maximum over the
  classes costs 34 microseconds by rows and 1.5 by columns.)
- dW and db are written by the products themselves into the flat gradient.
- The optimizer goes over the flat vectors in blocks that stay in the cache, or in one pass.

What a library does best in its own words stands in its `Columns`: runners/numpy.py, runners/torch.py. The layers stand
in runners/transposed.py, the optimizer's blocks in runners/update.py. Results are the eager runner's, to rounding.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, array_namespace
from xpmlp.network import Drop, Trace, output_derivative, sample_losses, shares
from xpmlp.network.losses import LOSSES
from xpmlp.optim.optimizers import Rates, clip
from xpmlp.runners.columns import Columns
from xpmlp.runners.eager import Data
from xpmlp.runners.step import Reduction, State, Task, of_each, total_weight
from xpmlp.runners.transposed import Buffers, Layers
from xpmlp.runners.update import FLUSHED, Update, per_network


class InPlaceRunner:
    """Executes steps in place; see the head of this file."""

    name: ClassVar[str]
    columns: Columns
    takes_sparse = False  # whether the products of `columns` know sparse rows
    reason = ""

    def __init__(self, task: Task, data: Data, seed: Array | None = None) -> None:
        self.task, self.data, self.seed = task, data, seed
        network = task.network
        self.takes_sparse = self.takes_sparse and not (network.parts or network.members)
        self.update = Update(task, self.columns, data.place.backend.to_numpy)
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
            if t % FLUSHED == 0:
                self.update.flush()
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
        return (loss + self._apply(rates, weight)) * weight, weight

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
        xp, layout = array_namespace(p), self.task.network.layout
        self.p, self.slots = p, slots
        self.g = xp.zeros_like(p) if layout.size > layout.n_parameters else xp.empty_like(p)  # padding stays 0
        self.layers = Layers(self.task.network, self.columns, layout.unpack(p), layout.unpack(self.g))
        self.update.cut(State(p, slots, 0), self.g)

    def _gradient(self, x: Array, y: Array, w: Array | None, t: Any) -> Any:
        """Write all derivatives into the flat gradient; the loss of the batch. See `network.forward`, `backward`."""
        network, layers, batch = self.task.network, self.layers, x.shape[-2]
        if batch not in self.buffers:
            self.buffers[batch] = Buffers(network, tuple(self.p.shape[:-1]), batch, self.p)
        buffers = self.buffers[batch]
        columns, K, parts, plain = self.columns, layers.K, layers.parts, not network.members  # each call counts
        h: list[Any] = [x.mT] + [None] * K
        a: list[Any] = [None] * (K + 1)
        drop = self._drop(t)
        if parts[0]:
            h[0] = layers.through_parts(0, h[0], buffers)
        for k in range(1, K):
            z = buffers.z[k]
            if plain:
                columns.linear(layers.WT[k], h[k - 1], layers.b[k], z)
            else:
                layers.linear(k, h[k - 1], buffers)
            u = layers.through_parts(k, z, buffers) if parts[k] else z
            dropped = drop if drop is not None and network.dropout[k - 1] > 0.0 else None
            a[k], h[k] = layers.activated(k, u, buffers, dropped)
        if plain:
            columns.linear(layers.WT[K], h[K - 1], layers.b[K], buffers.z[K])
        else:
            layers.linear(K, h[K - 1], buffers)

        share: Any = 1.0 / batch if w is None else shares(w)
        values, dz = self._output(y, share if w is None else share[..., None], buffers)
        loss = values.sum(-1) * share if w is None else (values * share).sum(-1)
        for k in range(K, 0, -1):
            if plain:
                columns.matmul(h[k - 1], dz.mT, layers.dW[k])  # dW[k] = a[k-1].T @ dz[k]
                columns.row_sums(dz, buffers.ones, layers.db[k])  # db[k] = sum over rows of dz[k]
            else:
                dz = layers.slopes(k, h[k - 1], dz, buffers)
            if k > 1 or parts[0]:
                da = layers.back(k, h[k - 1], dz, buffers)
                dz = layers.pulled_back(k - 1, da, a[k - 1], buffers) if k > 1 else da
        if parts[0]:
            layers.back_through_parts(0, dz, buffers)
        return loss.sum() / network.members if network.members else loss

    def _output(self, y: Array, share: Any, buffers: Buffers) -> tuple[Array, Array]:
        """The loss of each sample and dz[K], from the scores in z[K]."""
        network, z = self.task.network, buffers.z[-1]
        if self.loss is None:
            yhat = network.activations[-1].function(z.mT)
            values = sample_losses(network, Trace([z.mT], [yhat], [], [], [z.mT]), y)
            if network.members:
                share = share / network.members
            return values, output_derivative(network, z.mT, yhat, y, share)[1].mT
        smoothing = network.loss.parameters.get("label_smoothing", 0.0)
        if smoothing:
            y = y * (1.0 - smoothing) + smoothing / y.shape[-1]
        values = self.loss(z, y.mT, buffers.note[-1])
        if network.members:
            share = share / network.members
        z *= share.mT if hasattr(share, "mT") else share
        return values, z

    def _drop(self, t: Any) -> Drop | None:
        seed: Any = self.seed
        if seed is None:
            return None
        if isinstance(t, int):
            t = array_namespace(seed).full((1, 1), t % 2**31, dtype=seed.dtype, device=seed.device)
        return Drop(seed, t, self.first)

    def _apply(self, rates: Rates, weight: Any) -> Any:
        """One update of the parameters; the penalty of the loss comes back."""
        task = self.task
        l2: Any = task.l2 * of_each(weight) if self.data.w is not None or task.reduce else task.l2 / weight
        if task.clip_norm is not None:
            # The norm is that of the whole gradient, so the penalty's part has to be there before the blocks begin.
            n = task.network.layout.decaying_stop
            if task.l2 > 0.0:
                self.g[..., :n] += per_network(l2) * self.p[..., :n]
            self.g[...] = clip(self.g, task.clip_norm)
        squares = self.update(rates, l2)
        return 0.5 * l2 * squares if task.l2 > 0.0 else 0.0
