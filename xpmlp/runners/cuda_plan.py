"""A training step as a list of nodes: kernels and products, bound to arrays that are made once.

    gather                                       the batch, by the permutation
    z[k] = h[k-1] @ W[k];  forward               for k = 1 ... K-1
    z[K] = h[K-1] @ W[K];  output                yhat, the loss, dz[K]
    dW[k] = h[k-1].T @ dz[k];  db[k] = 1 @ dz[k];  da[k-1] = dz[k] @ W[k].T;  backward
    update                                       the optimizer

3 layers are 18 nodes. Who runs them is a machine's affair: on a GPU `cuda_machine.Machine`, in the tests a CPU. All
arrays of layers are flat; those of network i follow those of network i - 1. A shorter batch uses the beginning of the
same arrays.
"""

from typing import Any, NamedTuple

from xpmlp._typing import Array
from xpmlp.network.dropout import least
from xpmlp.runners.cublas import Product
from xpmlp.runners.cuda_columns import ACTIVATIONS, SOFTMAX
from xpmlp.runners.cuda_kernels import hidden_name
from xpmlp.runners.eager import Data
from xpmlp.runners.step import State, Task

BLOCK = 256  # threads of a block
LOOP_BLOCKS = 2**10  # of a kernel that loops over the parameters, at most: what fills the largest card
ALIGNMENT = 64  # elements: several networks lie this far apart or a multiple, 256 bytes in float32


class Launch(NamedTuple):
    """A node of a plan: a kernel, its threads per network, and its arguments by their names in C, among others."""

    kernel: str
    threads: int
    networks: int
    values: dict[str, Any]


Node = Launch | Product


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


def nodes(step: Buffers, rows: int) -> list[Node]:
    """The step on a batch of `rows` samples."""
    task, network, layout, m = step.task, step.task.network, step.task.network.layout, step.networks
    sizes, K, rates = layout.sizes, layout.n_layers, network.dropout or (0.0,) * layout.n_layers
    p, d, flat = layout.unpack(step.p), layout.unpack(step.g), step.p.reshape(-1)
    b = {it.layer: flat[it.start :] for it in layout.segments if it.name == "b"}
    values = {**step.values, "rows": rows, "l2": task.l2 if step.weighted else task.l2 / rows}
    plan: list[Node] = []

    def launch(kernel: str, threads: int, own: dict[str, Any] | None = None) -> None:
        plan.append(Launch(kernel, threads, m, values | (own or {})))

    def hidden(direction: str, k: int) -> None:
        rate, size = rates[k - 1], rows * sizes[k]
        own = {"zs": step.z[k], "as": step.a[k], "hs": step.h[k], "da": step.da[k], "b": b[k]}
        own |= {"size": size, "n": sizes[k], "layer": k, "threshold": least(rate), "scale": 1.0 / (1.0 - rate)}
        launch(f"{direction}_{hidden_name(network.activations[k - 1], rate)}", size, own)

    def multiply(a: Array, b: Array, out: Array, *, exact: bool = False) -> None:
        plan.append(Product(a, b, out, exact))

    def of_batch(arrays: list[Any]) -> list[Any]:
        sized = zip(arrays, sizes, strict=False)
        return [None if it is None else it[: m * rows * n].reshape(m, rows, n) for it, n in sized]

    h, z, da = of_batch(step.h), of_batch(step.z), of_batch(step.da)
    launch("gather", rows * (sizes[0] + step.values["n_y"]))
    for k in range(1, K + 1):
        multiply(h[k - 1], p.W[k], z[k])  # z[k] = a[k-1] @ W[k] + b[k], a[k] = f_k(z[k])
        if k < K:
            hidden("forward", k)
    by_rows = network.activations[-1].name == SOFTMAX
    launch("output", rows if by_rows else rows * sizes[K], {"zs": step.z[K], "b": b[K], "n": sizes[K]})
    dz = z[K]
    for k in range(K, 0, -1):
        multiply(h[k - 1].swapaxes(1, 2), dz, d.W[k])  # dW[k] = a[k-1].T @ dz[k]
        multiply(step.ones[:, :rows], dz, d.b[k], exact=True)  # db[k] = sum over rows of dz[k]
        if k > 1:  # da[k-1] = dz[k] @ W[k].T, dz[k-1] = da[k-1] * f'(z[k-1])
            multiply(dz, p.W[k].swapaxes(1, 2), da[k - 1])
            dz = da[k - 1]
            if hidden_name(network.activations[k - 2], rates[k - 2]) != "identity":
                hidden("backward", k - 1)
    if task.clip_norm is not None:  # the norm is that of the whole gradient, which the penalty is part of
        if task.l2 > 0.0:
            launch("penalize", step.loop_threads)
        g = step.g[:, None, : layout.size]
        multiply(g, g.swapaxes(1, 2), step.squared_norm, exact=True)
    launch("update", step.loop_threads)
    return plan
