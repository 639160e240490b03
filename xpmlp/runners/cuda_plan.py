"""A training step as a list of nodes: kernels and products, bound to arrays that are made once.

    gather                                       the batch, by the permutation
    z[k] = h[k-1] @ W[k];  forward               for k = 1 ... K-1
    z[K] = h[K-1] @ W[K];  output                yhat, the loss, dz[K]
    dW[k] = h[k-1].T @ dz[k];  db[k] = 1 @ dz[k];  da[k-1] = dz[k] @ W[k].T;  backward
    update                                       the optimizer

3 layers are 18 nodes; 13 where all products are small, and so kernels of our own: a product and what follows it are one
node then, dW[k] and db[k] another, beside the way back, which does not wait for it; nor does anything wait for the
copies of W.T before it. (On an H100 cuBLAS takes some six microseconds for a product, however small. Beside products
that fill the card even db costs more than in its turn: 392 microseconds for 383, 784-1024-1024-10.)

All arrays of layers are flat; those of network i follow those of network i - 1. A shorter batch uses the beginning of
the same arrays.

Who runs the nodes is a machine's affair: on a GPU `cuda_machine.Machine`, in the tests a CPU.
"""

from itertools import pairwise
from typing import Any, NamedTuple

from xpmlp._typing import Array
from xpmlp.network.dropout import least
from xpmlp.runners.cublas import Product
from xpmlp.runners.cuda_columns import ACTIVATIONS, SOFTMAX
from xpmlp.runners.cuda_kernels import hidden_name
from xpmlp.runners.eager import Data
from xpmlp.runners.step import State, Task

BLOCK, FEWEST = 256, 32  # threads of a block, at most and where there are few
SPREAD = 128  # blocks that a small kernel is cut into: cards that are in use today have about as many processors
LOOP_BLOCKS = 2**10  # of a kernel that loops over the parameters, at most: what fills the largest card
SMALL_PRODUCT, LONGEST_SUM = 2**23, 512  # multiplications and terms of a product that is a kernel of ours, at most
ALIGNMENT = 64  # elements: several networks lie this far apart or a multiple, 256 bytes in float32


class Launch(NamedTuple):
    """A node of a plan: a kernel, its threads per network, and its arguments by their names in C, among others."""

    kernel: str
    threads: int
    networks: int
    values: dict[str, Any]
    aside: bool = False  # whether nothing waits for it before the next `Join`

    @property
    def grid(self) -> tuple[tuple[int, int], int]:
        """Blocks for the threads and for the networks, and the threads of a block."""
        block = BLOCK
        while block > FEWEST and -(-self.threads // block) * self.networks < SPREAD:
            block //= 2
        return (-(-self.threads // block), self.networks), block


class Join(NamedTuple):
    """A node of a plan: what follows waits for all that was put aside."""


Node = Launch | Product | Join


class Buffers:
    """Every array that a step reads or writes, for m networks and batches of up to `data.batch_size` samples.

    `values` are those that kernels name; `epoch` is what they name of an epoch: `order`, `rates`, `cells`, `totals`.
    """

    def __init__(
        self, xp: Any, task: Task, data: Data, seed: Array | None, state: State, epoch: dict[str, Any]
    ) -> None:
        network, layout, batch = task.network, task.network.layout, data.batch_size
        sizes, K, by_rows = layout.sizes, layout.n_layers, network.activations[-1].name == SOFTMAX
        m = int(state.p.shape[0]) if state.p.ndim == 2 else 1
        # Networks begin at a multiple of 256 bytes, so that products read all equally fast; the padding stays 0.
        pitch = layout.size if m == 1 else -(-layout.size // ALIGNMENT) * ALIGNMENT

        def room(*shape: int, dtype: Any = state.p.dtype) -> Array:
            return xp.zeros(shape, dtype=dtype)

        self.task, self.networks, self.weighted = task, m, data.w is not None
        self.p, self.g, *self.slots = (room(m, pitch) for _ in range(2 + len(state.slots)))
        self.squared_norm = room(m, 1, 1)
        self.x, y, w = room(m * batch * sizes[0]), room(m * batch * data.y.shape[-1]), room(m * batch)
        self.ones = xp.ones((1, batch), dtype=state.p.dtype)
        self.z: list[Any] = [None, *(room(m * batch * n) for n in sizes[1:])]
        self.a: list[Any] = [self.x, *self.z[1:]]  # a takes the place of z, unless f' needs z
        self.h: list[Any] = list(self.a)
        self.da: list[Any] = [None, *(room(m * batch * n) for n in sizes[1:-1])]
        for k in range(1, K):
            if ACTIVATIONS[network.activations[k - 1].name].needs_z:
                self.a[k] = room(m * batch * sizes[k])
            self.h[k] = room(m * batch * sizes[k]) if network.dropout and network.dropout[k - 1] > 0.0 else self.a[k]
        self.own = all(_is_small(m, batch, *pair) for pair in pairwise(sizes))  # whether products are kernels of ours
        self.WT = [room(m * sizes[k - 1] * sizes[k]) if k > 1 and self.own else None for k in range(K + 1)]
        self.sums = room(m, batch if by_rows else batch * sizes[K], dtype="float64")
        self.loop_threads = BLOCK * min(-(-layout.size // BLOCK), LOOP_BLOCKS)
        self.penalties = room(m, self.loop_threads, dtype="float64") if task.l2 > 0.0 else None  # one for each thread

        self.values: dict[str, Any] = {
            **epoch,
            "order_pitch": data.n,
            "batches": data.n_batches,
            "batch": batch,
            "n_x": sizes[0],
            "n_y": data.y.shape[-1],
            "x_batch": self.x,
            "y_batch": y,
            "weights": w,
            "shares": room(m * batch),
            "seeds": None if seed is None else xp.ascontiguousarray(seed.reshape(-1)),
            "sums": self.sums,
            "sums_pitch": self.sums.shape[1],
            "penalties": self.penalties,
            "squared_norm": self.squared_norm,
            "limit": task.clip_norm,
            "decays": task.decays,
            "decay": task.optimizer.weight_decay,
            "factors": task.factors,
            "n_weights": layout.decaying_stop,
            "size": layout.size,
            "pitch": pitch,
            "ps": self.p,
            "gs": self.g,
            **{f"s{i}s": slot for i, slot in enumerate(self.slots)},
        }
        for name, given, ndim in (("x", data.x, 2), ("y", data.y, 2), ("w", data.w, 1)):
            if given is not None:  # of each network, or shared by all
                self.values[name] = xp.ascontiguousarray(given)
                self.values[f"{name}_pitch"] = given[0].size if given.ndim > ndim else 0


def _is_small(m: int, batch: int, n_in: int, n_out: int) -> bool:
    # The three products of a layer multiply equally often.
    return m * batch * n_in * n_out <= SMALL_PRODUCT and max(batch, n_in, n_out) <= LONGEST_SUM


def nodes(step: Buffers, rows: int) -> list[Node]:
    """The step on a batch of `rows` samples."""
    return _Plan(step, rows).nodes


class _Plan:
    def __init__(self, step: Buffers, rows: int) -> None:
        task, layout = step.task, step.task.network.layout
        self.step, self.rows, self.nodes = step, rows, list[Node]()
        self.network, self.sizes, self.K = task.network, layout.sizes, layout.n_layers
        self.rates = task.network.dropout or (0.0,) * layout.n_layers
        self.values = {**step.values, "rows": rows, "l2": task.l2 if step.weighted else task.l2 / rows}
        self.p, self.d = layout.unpack(step.p), layout.unpack(step.g)
        self.W, self.b, self.dW, self.db = (
            {it.layer: flat.reshape(-1)[it.start :] for it in layout.segments if it.name == name}
            for flat in (step.p, step.g)
            for name in ("W", "b")
        )
        self.launch("gather", rows * (self.sizes[0] + step.values["n_y"]))
        aside = range(2, self.K + 1) if step.own else range(0)  # the layers whose W.T, dW and db nothing waits for
        for k in aside:
            own = self.arrays(k) | {"size": self.sizes[k - 1] * self.sizes[k], "n": self.sizes[k - 1]}
            self.launch("transpose", own["size"], own, aside=True)
        for k in range(1, self.K + 1):
            self.forward(k)
        by_rows = self.network.activations[-1].name == SOFTMAX
        threads = rows if by_rows else rows * self.sizes[self.K]
        self.launch("output", threads, {"zs": step.z[self.K], "b": self.b[self.K], "n": self.sizes[self.K]})
        self.nodes += [Join()] * bool(aside)
        for k in range(self.K, 0, -1):
            self.gradients(k, aside=k in aside)
            if k > 1:
                self.back(k)
        self.nodes += [Join()] * bool(aside)
        self.update()

    def launch(self, kernel: str, threads: int, own: dict[str, Any] | None = None, *, aside: bool = False) -> None:
        self.nodes.append(Launch(kernel, threads, self.step.networks, self.values | (own or {}), aside))

    def multiply(self, a: Array, b: Array, out: Array, *, exact: bool = False) -> None:
        self.nodes.append(Product(a, b, out, exact))

    def hidden(self, direction: str, k: int, product: dict[str, Any] | None = None) -> None:
        step, size, rate = self.step, self.rows * self.sizes[k], self.rates[k - 1]
        own = {"zs": step.z[k], "as": step.a[k], "hs": step.h[k], "da": step.da[k], "b": self.b[k]}
        own |= {"size": size, "n": self.sizes[k], "layer": k, "threshold": least(rate), "scale": 1.0 / (1.0 - rate)}
        name = f"{direction}_{hidden_name(self.network.activations[k - 1], rate)}"
        self.launch(name if product is None else f"product_{name}", size, own | (product or {}))

    def arrays(self, k: int) -> dict[str, Any]:
        """What our own products call the arrays of layer k."""
        step, dz = self.step, self.step.z[k] if k == self.K else self.step.da[k]
        own = {
            "below": step.h[k - 1],
            "W": self.W[k],
            "WT": step.WT[k],
            "above": dz,
            "dW": self.dW[k],
            "db": self.db[k],
        }
        return own | {"inner": self.sizes[k - 1]}

    def batch(self, arrays: list[Any], k: int) -> Array:
        """As matrices, one for each network."""
        m, rows, n = self.step.networks, self.rows, self.sizes[k]
        return arrays[k][: m * rows * n].reshape(m, rows, n)

    def dz(self, k: int) -> Array:
        return self.batch(self.step.z if k == self.K else self.step.da, k)

    def forward(self, k: int) -> None:
        # z[k] = a[k-1] @ W[k] + b[k], a[k] = f_k(z[k])
        step, n, product = self.step, self.sizes[k], self.arrays(k) if self.step.own else None
        if product is None:
            self.multiply(self.batch(step.h, k - 1), self.p.W[k], self.batch(step.z, k))
        elif k == self.K:
            self.launch("product", self.rows * n, product | {"zs": step.z[k], "size": self.rows * n, "n": n})
        if k < self.K:
            self.hidden("forward", k, product)

    def gradients(self, k: int, *, aside: bool) -> None:
        # dW[k] = a[k-1].T @ dz[k], db[k] = sum over rows of dz[k]
        if self.step.own:
            n, threads = self.sizes[k], (self.sizes[k - 1] + 1) * self.sizes[k]
            self.launch("gradients", threads, self.arrays(k) | {"n": n}, aside=aside)
        else:
            self.multiply(self.batch(self.step.h, k - 1).swapaxes(1, 2), self.dz(k), self.d.W[k])
            self.multiply(self.step.ones[:, : self.rows], self.dz(k), self.d.b[k], exact=True)

    def back(self, k: int) -> None:
        # da[k-1] = dz[k] @ W[k].T, dz[k-1] = da[k-1] * f'(z[k-1])
        if self.step.own:
            self.hidden("backward", k - 1, self.arrays(k) | {"inner": self.sizes[k]})
            return
        self.multiply(self.dz(k), self.p.W[k].swapaxes(1, 2), self.batch(self.step.da, k - 1))
        if hidden_name(self.network.activations[k - 2], self.rates[k - 2]) != "identity":
            self.hidden("backward", k - 1)

    def update(self) -> None:
        step, task = self.step, self.step.task
        if task.clip_norm is not None:  # the norm is that of the whole gradient, which the penalty is part of
            if task.l2 > 0.0:
                self.launch("penalize", step.loop_threads)
            g = step.g[:, None, : task.network.layout.size]
            self.multiply(g, g.swapaxes(1, 2), step.squared_norm, exact=True)
        self.launch("update", step.loop_threads)
