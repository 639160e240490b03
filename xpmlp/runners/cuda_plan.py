"""A training step as a list of nodes: kernels and products, bound to arrays that are made once.

    gather                                       the batch, by the permutation
    z[k] = h[k-1] @ W[k];  forward               for k = 1 ... K-1
    z[K] = h[K-1] @ W[K];  output                yhat, the loss, dz[K]
    dW[k] = h[k-1].T @ dz[k];  db[k] = 1 @ dz[k];  da[k-1] = dz[k] @ W[k].T;  backward
    update                                       the optimizer

3 layers are 18 nodes. Who runs them is a machine's affair: on a GPU `cuda_machine.Machine`, in the tests a CPU. All
arrays are flat; those of network i follow those of network i - 1. A shorter batch uses the beginning of the same
arrays.
"""

import math
from typing import Any, NamedTuple

from xpmlp._typing import Array
from xpmlp.runners.cublas import Matrix, Product
from xpmlp.runners.cuda_columns import ACTIVATIONS, SOFTMAX, n_rates
from xpmlp.runners.cuda_kernels import hidden_name
from xpmlp.runners.step import Task

BLOCK = 256  # threads of a block
LOOP_BLOCKS = 2**10  # of a kernel that loops over the parameters, at most: what fills the largest card
ALIGNMENT = 64  # elements: several networks lie this far apart or a multiple, 256 bytes in float32


class Launch(NamedTuple):
    """A node of a plan: a kernel, its threads per network, and its arguments after the C declaration."""

    kernel: str
    threads: int
    networks: int
    arguments: tuple[Any, ...]


Node = Launch | Product


class Samples(NamedTuple):
    """The data of a fit, contiguous; each with a leading axis of m, or shared by all networks."""

    x: Array
    y: Array
    w: Array | None


class Buffers:
    """Every array that a step reads or writes, for m networks and batches of up to `batch` samples.

    Parameters
    ----------
    seeds : int32 array of shape (m,), or None
        What dropout masks are hashed from.
    p, slots : arrays of shape (m, pitch)
        Parameters and the optimizer's arrays, made by the caller: they outlive a training.
    n : int
        The samples of an epoch.
    """

    def __init__(
        self,
        xp: Any,
        task: Task,
        samples: Samples,
        seeds: Array | None,
        *,
        p: Array,
        slots: tuple[Array, ...],
        n: int,
        batch: int,
        n_batches: int,
    ) -> None:
        network, dtype, (m, pitch) = task.network, p.dtype, p.shape
        sizes = network.layout.sizes
        K = len(sizes) - 1
        n_y = int(samples.y.shape[-1])
        weighted = samples.w is not None

        def room(*shape: int, dtype: Any = dtype) -> Array:
            return xp.zeros(math.prod(shape), dtype=dtype)

        self.task, self.samples, self.seeds, self.p, self.slots = task, samples, seeds, p, slots
        self.networks, self.pitch, self.n, self.batch, self.n_y = int(m), int(pitch), n, batch, n_y
        self.n_batches = n_batches
        self.order = room(m, n, dtype="int32")
        self.cells = room(3, dtype="int32")
        self.rates = room(n_batches, n_rates(task.optimizer))
        self.reciprocals: Array = room(m, n_batches) if weighted else None  # 1 / sum(w) of every batch
        self.g = room(m, pitch)
        self.x, self.y = room(m, batch, sizes[0]), room(m, batch, n_y)
        self.w = room(m, batch) if weighted else None
        self.shares = room(m, batch) if weighted else None
        self.ones = xp.ones(batch, dtype=dtype)

        dropout = network.dropout or (0.0,) * (K - 1)
        self.z: list[Any] = [None] + [room(m, batch, size) for size in sizes[1:]]
        self.a: list[Any] = [self.x, *self.z[1:]]  # a takes the place of z, unless f' needs z
        self.h: list[Any] = list(self.a)
        self.da: list[Any] = [None] + [room(m, batch, size) for size in sizes[1:-1]]
        for k in range(1, K):
            if ACTIVATIONS[network.activations[k - 1].name].needs_z:
                self.a[k] = room(m, batch, sizes[k])
            self.h[k] = room(m, batch, sizes[k]) if dropout[k - 1] > 0.0 else self.a[k]

        by_rows = network.activations[-1].name == SOFTMAX
        self.sums_pitch = batch if by_rows else batch * sizes[-1]
        self.sums = room(m, self.sums_pitch, dtype="float64")
        self.loop_threads = BLOCK * min(-(-network.layout.size // BLOCK), LOOP_BLOCKS)
        self.penalties = room(m, self.loop_threads, dtype="float64") if task.l2 > 0.0 else None  # one for each thread
        self.squared_norm = room(m) if task.clip_norm is not None else None


def nodes(buffers: Buffers, rows: int) -> list[Node]:
    """The step on a batch of `rows` samples."""
    network, task, m = buffers.task.network, buffers.task, buffers.networks
    sizes, K, pitch = network.layout.sizes, network.layout.n_layers, buffers.pitch
    starts = {(segment.name, segment.layer): segment.start for segment in network.layout.segments}
    rates = network.dropout or (0.0,) * (K - 1)
    plan: list[Node] = [_gather(buffers, rows)]

    def values(array: Array, k: int) -> Matrix:  # of layer k, for each sample of the batch
        return Matrix(array, rows, sizes[k], rows * sizes[k])

    def weights(flat: Array, k: int) -> Matrix:
        return Matrix(flat[starts["W", k] :], sizes[k - 1], sizes[k], pitch)

    def bias(flat: Array, k: int) -> Array:
        return flat[starts["b", k] :]

    def drop(k: int) -> tuple[Any, ...]:
        rate = rates[k - 1]
        return (buffers.seeds, buffers.cells, k, int(rate * 2**31), 1.0 / (1.0 - rate)) if rate > 0.0 else ()

    p, g = buffers.p.reshape(-1), buffers.g
    for k in range(1, K + 1):  # z[k] = a[k-1] @ W[k] + b[k], a[k] = f_k(z[k])
        plan.append(Product(values(buffers.h[k - 1], k - 1), weights(p, k), values(buffers.z[k], k), networks=m))
        if k < K:
            name, size = hidden_name(network.activations[k - 1], rates[k - 1]), rows * sizes[k]
            dropped = (buffers.h[k], *drop(k)) if rates[k - 1] > 0.0 else ()
            arguments = (buffers.z[k], buffers.a[k], *dropped, bias(p, k), pitch, size, sizes[k])
            plan.append(Launch(f"forward_{name}", size, m, arguments))
    plan.append(_output(buffers, rows, bias(p, K)))
    dz = buffers.z[K]
    for k in range(K, 0, -1):
        db, ones = Matrix(bias(g, k), 1, sizes[k], pitch), Matrix(buffers.ones, 1, rows)
        # dW[k] = a[k-1].T @ dz[k]; db[k] = sum over rows of dz[k]
        plan.append(
            Product(values(buffers.h[k - 1], k - 1), values(dz, k), weights(g, k), transpose_a=True, networks=m)
        )
        plan.append(Product(ones, values(dz, k), db, networks=m, exact=True))
        if k > 1:  # da[k-1] = dz[k] @ W[k].T, dz[k-1] = da[k-1] * f'(z[k-1])
            da = buffers.da[k - 1]
            plan.append(Product(values(dz, k), weights(p, k), values(da, k - 1), transpose_b=True, networks=m))
            name, size = hidden_name(network.activations[k - 2], rates[k - 2]), rows * sizes[k - 1]
            if name != "identity":
                arguments = (da, buffers.z[k - 1], buffers.a[k - 1], *drop(k - 1), size)
                plan.append(Launch(f"backward_{name}", size, m, arguments))
            dz = da
    total = float(rows) if buffers.samples.w is None else 1.0
    if task.clip_norm is not None:
        plan += _norm(buffers, total)
    return [*plan, _update(buffers, total)]


def _gather(buffers: Buffers, rows: int) -> Launch:
    samples, sizes = buffers.samples, buffers.task.network.layout.sizes
    n, n_x, n_y = int(samples.x.shape[-2]), sizes[0], buffers.n_y
    weights: tuple[Any, ...] = ()
    if samples.w is not None:
        pitch = n if samples.w.ndim == 2 else 0
        weights = (samples.w, pitch, buffers.reciprocals, buffers.n_batches, buffers.w, buffers.shares)
    arguments = (
        *(samples.x, n * n_x if samples.x.ndim == 3 else 0, samples.y, n * n_y if samples.y.ndim == 3 else 0),
        *weights,
        *(buffers.order, buffers.n, buffers.cells, buffers.x, buffers.y, buffers.batch, rows, n_x, n_y),
    )
    return Launch("gather", rows * (n_x + n_y), buffers.networks, arguments)


def _output(buffers: Buffers, rows: int, b: Array) -> Launch:
    network, K = buffers.task.network, buffers.task.network.layout.n_layers
    n = network.layout.sizes[K]
    weights = () if buffers.w is None else (buffers.w, buffers.shares)
    arguments = (
        *(buffers.z[K], b, buffers.pitch, buffers.y, *weights),
        *(buffers.sums, buffers.sums_pitch, buffers.cells, rows, n, buffers.n_y),
    )
    return Launch("output", rows if network.activations[-1].name == SOFTMAX else rows * n, buffers.networks, arguments)


def _norm(buffers: Buffers, total: float) -> list[Node]:
    """The square of the norm of the gradient, which the penalty is part of."""
    task, m, size = buffers.task, buffers.networks, buffers.task.network.layout.size
    row, column = Matrix(buffers.g, 1, size, buffers.pitch), Matrix(buffers.g, size, 1, buffers.pitch)
    norm = Product(row, column, Matrix(buffers.squared_norm, 1, 1, 1), networks=m, exact=True)
    if task.l2 == 0.0:
        return [norm]
    arguments = (
        *(buffers.p, buffers.g, buffers.pitch, task.network.layout.decaying_stop, task.l2 / total),
        *_reciprocals(buffers),
        *(buffers.cells, buffers.penalties),
    )
    return [Launch("penalize", buffers.loop_threads, m, arguments), norm]


def _reciprocals(buffers: Buffers) -> tuple[Any, ...]:
    return () if buffers.reciprocals is None else (buffers.reciprocals, buffers.n_batches)


def _update(buffers: Buffers, total: float) -> Launch:
    task = buffers.task
    more: tuple[Any, ...] = ()
    if task.l2 > 0.0 and task.clip_norm is None:
        more += (task.network.layout.decaying_stop, task.l2 / total, *_reciprocals(buffers), buffers.penalties)
    if task.clip_norm is not None:
        more += (buffers.squared_norm, task.clip_norm)
    if task.decays is not None:
        more += (task.decays, task.optimizer.weight_decay)
    if task.factors is not None:
        more += (task.factors,)
    arguments = (
        *(buffers.p, buffers.g, *buffers.slots, buffers.pitch, task.network.layout.size, buffers.rates, buffers.cells),
        *more,
    )
    return Launch("update", buffers.loop_threads, buffers.networks, arguments)
