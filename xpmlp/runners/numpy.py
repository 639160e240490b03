"""The NumPy runner: in place, with ufuncs that write where they are told to."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.network import dropout
from xpmlp.network.activations import LEAKY_SLOPE
from xpmlp.optim.optimizers import Rates
from xpmlp.runners import compiled
from xpmlp.runners.columns import Activation, Columns
from xpmlp.runners.eager import Data
from xpmlp.runners.host_data import SparseColumns
from xpmlp.runners.inplace import InPlaceRunner
from xpmlp.runners.part_columns import PARTS
from xpmlp.runners.step import Task
from xpmlp.runners.update import Update


def take(values: HostArray, rows: HostArray, axis: int, out: HostArray | None) -> HostArray:
    if values.flags.c_contiguous:
        return values.take(rows, axis, out, "clip")  # 256 rows of 54: 2 microseconds, without `out` or otherwise 28
    # What lies otherwise, as a frame by columns, `take` would first copy whole.
    if values.ndim == 2 and values.flags.f_contiguous:
        return values.T.take(rows, 1 - axis, None if out is None else out.T, "clip").T
    return values[(slice(None),) * axis + (rows,)]


def linear(WT: HostArray, h: Any, b: HostArray, z: HostArray) -> None:
    if type(h) is SparseColumns:
        np.add((h.rows @ WT.T).T, b, out=z)
        return
    np.matmul(WT, h, out=z)
    z += b


def matmul(a: Any, b: HostArray, out: HostArray) -> None:
    if type(a) is SparseColumns:
        out[...] = a.rows.T @ b
        return
    np.matmul(a, b, out=out)


def row_sums(dz: HostArray, ones: HostArray, db: HostArray) -> None:
    np.matmul(dz, ones, out=db)  # a third of the time of a sum


def relu(z: HostArray, slope: HostArray, room: HostArray) -> None:
    # The slope is a number the backward pass needs anyway, and z * slope is half the time of maximum(z, 0).
    np.greater(z, 0.0, out=slope, casting="unsafe")
    np.multiply(z, slope, out=z)


def relu_alone(z: HostArray, room: HostArray) -> None:
    if z.dtype == np.float64:
        np.maximum(z, 0.0, out=z)  # 0.75 of the time; of float32 it is 1.3 times
    else:
        relu(z, room, room)


def leaky_relu(z: HostArray, slope: HostArray, room: HostArray) -> None:
    np.greater(z, 0.0, out=slope, casting="unsafe")
    slope *= 1.0 - LEAKY_SLOPE
    slope += LEAKY_SLOPE
    np.multiply(z, slope, out=z)


def slope_backward(da: HostArray, a: HostArray, slope: HostArray) -> None:
    np.multiply(da, slope, out=da)


def tanh(z: HostArray, note: HostArray, room: HostArray) -> None:
    np.tanh(z, out=z)


def tanh_backward(da: HostArray, a: HostArray, note: HostArray) -> None:
    np.multiply(a, a, out=note)
    np.subtract(1.0, note, out=note)
    np.multiply(da, note, out=da)


def sigmoid(z: HostArray, note: HostArray, room: HostArray) -> None:
    z *= 0.5
    np.tanh(z, out=z)
    z *= 0.5
    z += 0.5


def sigmoid_alone(z: HostArray, room: HostArray) -> None:
    # activations.sigmoid: a small probability keeps its digits, which a step, that has the scores, can do without
    np.abs(z, out=room)
    np.negative(room, out=room)
    np.exp(room, out=room)
    room += 1.0
    np.minimum(z, 0.0, out=z)
    np.exp(z, out=z)
    z /= room


def sigmoid_backward(da: HostArray, a: HostArray, note: HostArray) -> None:
    np.subtract(1.0, a, out=note)
    np.multiply(note, a, out=note)
    np.multiply(da, note, out=da)


def softmax(z: HostArray, note: HostArray, room: HostArray) -> None:
    z -= np.maximum.reduce(z, axis=-2, keepdims=True)
    np.exp(z, out=z)
    z /= np.add.reduce(z, axis=-2, keepdims=True)


def softmax_backward(da: HostArray, a: HostArray, note: HostArray) -> None:
    np.multiply(da, a, out=note)
    da -= np.add.reduce(note, axis=-2, keepdims=True)
    np.multiply(da, a, out=da)


def silu(z: HostArray, slope: HostArray, room: HostArray) -> None:
    # With e = 1 + tanh(z / 2) = 2 sigmoid(z): a = z e / 2, and f' = a + (1 - a) e / 2
    z *= 0.5
    np.tanh(z, out=room)
    room += 1.0
    z *= room
    np.subtract(1.0, z, out=slope)
    room *= 0.5
    slope *= room
    slope += z


def silu_alone(z: HostArray, room: HostArray) -> None:
    z *= 0.5
    np.tanh(z, out=room)
    room += 1.0
    z *= room


def nothing(*_: HostArray) -> None:
    pass


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(nothing, nothing),
    "relu": Activation(relu, slope_backward, slopes=True, alone=relu_alone),
    "leaky_relu": Activation(leaky_relu, slope_backward, slopes=True),
    "silu": Activation(silu, slope_backward, slopes=True, alone=silu_alone),
    "tanh": Activation(tanh, tanh_backward),
    "sigmoid": Activation(sigmoid, sigmoid_backward, alone=sigmoid_alone),
    "softmax": Activation(softmax, softmax_backward),
}


def cross_entropy(z: HostArray, y: HostArray, note: HostArray) -> HostArray:
    # losses.cross_entropy_from_scores and its derivative, which share the shift and the exponential
    z -= np.maximum.reduce(z, axis=-2, keepdims=True)
    np.multiply(y, z, out=note)
    values: HostArray = np.add.reduce(note, axis=-2)
    np.sign(z, out=note)  # 0 where a score is the largest, -1 elsewhere
    np.exp(z, out=z)
    total = np.add.reduce(z, axis=-2, keepdims=True)
    note *= z
    less = np.add.reduce(note, axis=-2)  # minus the sum of all but the largest, which are 1
    others = total[..., 0, :] + less
    np.rint(others, out=others)  # how many are as large as the largest
    others -= 1.0
    others -= less
    z /= total
    z -= y
    np.log1p(others, out=others)
    np.subtract(others, values, out=values)
    return values


def binary_cross_entropy(z: HostArray, y: HostArray, note: HostArray) -> HostArray:
    # losses.binary_cross_entropy_from_scores: log(1 + exp(-|z|)) + (max(z, 0) - y z), and the bracket is exact
    np.abs(z, out=note)
    np.negative(note, out=note)
    np.exp(note, out=note)
    np.log1p(note, out=note)
    linear = np.maximum(z, 0.0)
    linear -= y * z
    note += linear
    values: HostArray = np.add.reduce(note, axis=-2)
    sigmoid(z, note, note)
    z -= y
    return values


def squared_error(z: HostArray, y: HostArray, note: HostArray) -> HostArray:
    z -= y
    np.multiply(z, z, out=note)
    values: HostArray = np.add.reduce(note, axis=-2)
    values *= 0.5
    return values


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


def add_multiple(p: HostArray, c: Any, room: HostArray, g: HostArray) -> None:
    np.multiply(p, c, out=room)
    np.add(g, room, out=g)


def follow(average: HostArray, p: HostArray, share: float, room: HostArray) -> None:
    np.subtract(p, average, out=room)
    np.multiply(room, share, out=room)
    np.add(average, room, out=average)


SHIFT, SHIFT_BETWEEN, SIGN, POSITIVE = np.uint32(16), np.uint32(15), np.int32(31), np.uint32(dropout.LARGEST)
FIRST, SECOND = np.array(dropout.MULTIPLIERS, dtype=np.int32).view(np.uint32)


def mask(elements: HostArray, key: HostArray, rate: float, out: HostArray, ints: tuple[HostArray, HostArray]) -> None:
    # dropout.hashed in uint32, in which >> drags no sign along
    x, y = (it.view(np.uint32) for it in ints)
    np.add(elements.view(np.uint32), key.view(np.uint32), out=x)
    for shift, factor in ((SHIFT, FIRST), (SHIFT_BETWEEN, SECOND)):
        np.right_shift(x, shift, out=y)
        np.bitwise_xor(x, y, out=x)
        np.multiply(x, factor, out=x)
    np.right_shift(x, SHIFT, out=y)
    np.bitwise_xor(x, y, out=x)
    np.bitwise_and(x, POSITIVE, out=x)
    least, kept = dropout.least(rate), out.dtype.type(1.0 / (1.0 - rate))
    if out.dtype != np.float32:
        np.multiply(x >= least, kept, out=out)
        return
    # The sign of least - 1 - x, dragged along, is all bits or none: those of the number that keeps, or those of 0.
    signed = ints[0]
    np.subtract(np.int32(least - 1), signed, out=signed)
    np.right_shift(signed, SIGN, out=signed)
    np.bitwise_and(signed, kept.view(np.int32), out=out.view(np.int32))


# The block: p, g, m, v and one temporary are 5 x 256 KiB in float32. 537,000 parameters, 1 MiB of second-level cache:
# blocks of 2^14 took 0.77 ms, of 2^16 0.57, all at once 0.60.
COLUMNS = Columns(
    np,
    take,
    linear,
    matmul,
    row_sums,
    ACTIVATIONS,
    LOSSES,
    add_multiple,
    adam,
    follow,
    PARTS,
    mask,
    block=2**16,
    cached=2**16,
)


class Runner(InPlaceRunner):
    """Executes steps on NumPy arrays."""

    name = "numpy"
    takes_sparse = True
    columns = COLUMNS

    def __init__(self, task: Task, data: Data, seed: HostArray | None = None) -> None:
        self.compiled = compiled.find(task, data)
        if self.compiled is not None:
            self.columns = columns_of(self.compiled)
        super().__init__(task, data, seed)
        if self.compiled is not None:
            self.update = CompiledUpdate(task, self.columns, self.compiled)


def line(array: HostArray) -> HostArray:
    """A view of all elements in a row; a copy would take what is written into it along."""
    if not array.flags.c_contiguous:
        raise ValueError(f"an array must be contiguous to be written into; its strides are {array.strides}.")
    return array.reshape(-1)


def columns_of(functions: compiled.Compiled) -> Columns:
    """NumPy's columns with the functions that have been compiled."""

    def silu(z: HostArray, slope: HostArray, room: HostArray) -> None:
        np.multiply(z, 0.5, out=room)
        np.tanh(room, out=room)
        functions.silu(line(z), line(slope), line(room))

    def masked(z: HostArray, slope: HostArray, elements: HostArray, key: HostArray, rate: float) -> None:
        of_networks = elements.ndim < z.ndim  # each with a key of its own; otherwise it is one, or one of each column
        z, slope = (line(it).reshape(len(it), -1) for it in (z, slope))
        elements, key = elements.reshape(1 if of_networks else len(z), -1), key.reshape(-1)
        kept = z.dtype.type(1.0 / (1.0 - rate))
        functions.masked(z, slope, elements, key, of_networks or len(key) == 1, dropout.least(rate), kept)

    rows = {
        "relu": Activation(
            lambda z, note, room: functions.relu(line(z)),
            lambda da, a, note: functions.relu_backward(line(da), line(a)),
        ),
        "silu": ACTIVATIONS["silu"]._replace(forward=silu),
    }
    return COLUMNS._replace(activations=ACTIVATIONS | rows, masked=masked, code=functions.code)


class CompiledUpdate(Update):
    """Adam's, in one pass over all that has one learning rate."""

    def __init__(self, task: Task, columns: Columns, functions: compiled.Compiled) -> None:
        super().__init__(task, columns, np.asarray)
        self.functions = functions

    def __call__(self, rates: Rates, l2: Any) -> Any:
        """See `Update`."""
        if not self.fused:
            return super().__call__(rates, l2)
        task, state, (lr, lr_t, epsilon) = self.task, self.state, rates[:3]
        p, g, m, v = (array.reshape(-1, array.shape[-1]) for array in (state.p, self.g, *state.slots[:2]))
        number, beta, n = p.dtype.type, task.optimizer.parameters, task.network.layout.decaying_stop
        decay = 0.0 if task.decays is None else lr * task.optimizer.weight_decay
        # Where gradients are clipped, the penalty's part is in them.
        penalties = np.full(len(p), 0.0 if task.clip_norm is not None else l2, p.dtype)
        squares = np.zeros(len(p), p.dtype)
        for first, stop in pairwise([0, *self.cuts, p.shape[1]]):
            factor = 1.0 if self.factors is None else float(self.factors[first])
            keep = 1.0 - factor * decay
            scalars = tuple(map(number, (beta["beta_1"], beta["beta_2"], factor * lr_t, epsilon, keep)))
            self.functions.adam(p, g, m, v, (first, min(n, stop), stop), penalties, squares, scalars)
        if len(rates) > 3:
            self.functions.follow(line(state.slots[2]), line(p), number(rates[3]))
        return squares if state.p.ndim == 2 else squares[0]
