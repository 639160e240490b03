"""What NumPy needs many passes over memory for, in one, compiled by Numba: where that is installed and pays.

Microseconds, float32, one core. The penalty and Adam's update of 537,000 parameters: 840 in thirteen passes, 150 to
290 in one. Of 65,536 units, a mask of dropout 88 in fourteen and 17 in one, silu 62 in eight and 40 in three, ReLU 13
and 3; the code of 64 numbers of 256 rows 219 in six and 26 in one.
To import Numba takes half a second in each process, and to compile some seconds, once on a machine, which a small
network would never win back.
"""

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends.config import get_config
from xpmlp.faults import holding_interrupts
from xpmlp.network import dropout
from xpmlp.runners.eager import Data
from xpmlp.runners.step import Task

# What an epoch goes over, from which on "auto" compiles: it saves some 10 milliseconds an epoch. In each batch count
# the parameters once, units that are masked twice, and those of silu once. This depends on the task alone, so that the
# same fit is always done in the same way.
WORTHWHILE = 2**23

FIRST, SECOND = (np.uint32(factor % 2**32) for factor in dropout.MULTIPLIERS)
SHIFT, SHIFT_BETWEEN, POSITIVE = np.uint32(16), np.uint32(15), np.uint32(dropout.LARGEST)

_logger = logging.getLogger("xpmlp")


class Compiled(NamedTuple):
    """The functions of this file, compiled for arrays of one dtype."""

    adam: Callable[..., None]
    follow: Callable[..., None]
    relu: Callable[..., None]
    relu_backward: Callable[..., None]
    silu: Callable[..., None]
    masked: Callable[..., None]
    code: Callable[..., None]


def find(task: Task, data: Data) -> Compiled | None:
    """The compiled functions, or None where NumPy's serve this task better or are the only ones."""
    setting = get_config()["compiled"]
    if setting == "never" or not task.is_adam:
        return None
    if setting == "auto" and data.n_batches * _goes_over(task, data.batch_size) < WORTHWHILE:
        return None
    try:
        return compiled(np.dtype(data.dtype).name)
    except ImportError:  # also where the two versions of Numba and NumPy do not go together
        if setting == "always":
            raise
        return None


def _goes_over(task: Task, batch_size: int) -> int:
    network = task.network
    rates = network.dropout or [0.0] * len(network.activations)
    hidden = zip(network.layout.sizes[1:-1], rates, network.activations, strict=False)
    units = sum(n * (2 * (rate > 0.0) + (row.name == "silu")) for n, rate, row in hidden)
    return network.layout.size + batch_size * max(network.members, 1) * units


@functools.cache
def compiled(dtype: str) -> Compiled:
    """The functions for arrays of this dtype; ImportError where Numba is not there."""
    with holding_interrupts():
        numba = importlib.import_module("numba")

    number, integer, tuple_of = getattr(numba.types, dtype), numba.types.int64, numba.types.UniTuple
    array = numba.types.Array
    line, rows, bins = (array(number, n_axes, "C") for n_axes in (1, 2, 3))
    elements, key = array(numba.types.int32, 2, "C"), array(numba.types.int32, 1, "C")
    functions: dict[str, tuple[Callable[..., None], Any]] = {
        "adam": (_adam, (rows, rows, rows, rows, tuple_of(integer, 3), line, line, tuple_of(number, 5))),
        "follow": (_follow, (line, line, number)),
        "relu": (_relu, (line,)),
        "relu_backward": (_relu_backward, (line, line)),
        "silu": (_silu, (line, line, line)),
        "masked": (_masked, (rows, rows, elements, key, numba.types.boolean, integer, number)),
        "code": (_code, (rows, bins, bins, bins, bins, bins)),
    }
    with holding_interrupts():
        return Compiled(**{name: njit(numba, numba.void(*types), it) for name, (it, types) in functions.items()})


def njit(numba: Any, signature: Any, function: Callable[..., None]) -> Any:
    """A function, compiled and kept on the disk where that can be.

    "reassoc" lets sums be taken in parallel, "contract" lets multiply and add be one; NaN stays NaN.
    """
    if numba.config.DISABLE_JIT:
        raise ImportError("Numba does not compile while NUMBA_DISABLE_JIT is set.")
    options = {"error_model": "numpy", "fastmath": {"reassoc", "contract"}, "nogil": True}
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except ImportError:
        raise
    except Exception as trouble:  # noqa: BLE001 - a folder that cannot be written, a file that is damaged: whatever
        _logger.info("what Numba compiles is not kept: %s", trouble)
        return numba.njit(signature, cache=False, **options)(function)


def _adam(p: Any, g: Any, m: Any, v: Any, part: Any, l2: Any, squares: Any, scalars: Any) -> None:
    # optimizers.adam_step after g += l2 W, of the parameters from `first` to `stop`, of which W ends at `n_weights`;
    # sum(W^2), as W was, is added to `squares`. `keep` is what a decoupled decay leaves of W. All arrays have a leading
    # axis of networks. (Indices that begin at 0 are known not to be negative, and only then is a loop made of vectors.)
    first, n_weights, stop = part
    beta_1, beta_2, lr_t, epsilon, keep = scalars
    for i in range(p.shape[0]):
        w, dw, mw, vw = p[i, first:n_weights], g[i, first:n_weights], m[i, first:n_weights], v[i, first:n_weights]
        total = squares[i]
        for j in range(w.shape[0]):
            was = w[j]
            total += was * was
            d = dw[j] + l2[i] * was
            mw[j] = beta_1 * mw[j] + d
            vw[j] = beta_2 * vw[j] + d * d
            w[j] = keep * was - lr_t * mw[j] / (np.sqrt(vw[j]) + epsilon)
        squares[i] = total
        rest = max(first, n_weights)
        b, db, mb, vb = p[i, rest:stop], g[i, rest:stop], m[i, rest:stop], v[i, rest:stop]
        for j in range(b.shape[0]):
            mb[j] = beta_1 * mb[j] + db[j]
            vb[j] = beta_2 * vb[j] + db[j] * db[j]
            b[j] -= lr_t * mb[j] / (np.sqrt(vb[j]) + epsilon)


def _follow(average: Any, p: Any, share: Any) -> None:
    for i in range(p.shape[0]):
        average[i] += share * (p[i] - average[i])


def _relu(z: Any) -> None:
    for i in range(z.shape[0]):
        z[i] = z.dtype.type(0.0) if z[i] <= 0.0 else z[i]  # and not max(z, 0): NaN must stay NaN


def _relu_backward(da: Any, a: Any) -> None:
    for i in range(da.shape[0]):
        da[i] = da[i] if a[i] > 0.0 else da.dtype.type(0.0)


def _silu(z: Any, slope: Any, t: Any) -> None:
    # t = tanh(z / 2), which NumPy has in vectors: sigmoid(z) = (1 + t) / 2, f' = a + (1 - a) sigmoid(z)
    half, one = z.dtype.type(0.5), z.dtype.type(1.0)
    for i in range(z.shape[0]):
        s = half * t[i] + half
        z[i] *= s
        slope[i] = z[i] + (one - z[i]) * s


def _masked(z: Any, slope: Any, elements: Any, key: Any, of_rows: Any, least: Any, kept: Any) -> None:
    # Multiply by dropout.mask, of its elements and key: `elements` are those of z or of each row of it, and `key` is of
    # each column, or of each row, or one.
    zero, bound, many = z.dtype.type(0.0), np.uint32(least), elements.shape[0] > 1
    for i in range(z.shape[0]):
        own = elements[i if many else 0]
        of_row = np.uint32(key[i if len(key) > 1 and of_rows else 0])
        for j in range(z.shape[1]):
            x = np.uint32(np.uint32(own[j]) + (of_row if of_rows else np.uint32(key[j])))
            x = np.uint32(np.uint32(x ^ (x >> SHIFT)) * FIRST)
            x = np.uint32(np.uint32(x ^ (x >> SHIFT_BETWEEN)) * SECOND)
            factor = kept if ((x ^ (x >> SHIFT)) & POSITIVE) >= bound else zero
            z[i, j] *= factor
            slope[i, j] *= factor


def _code(z: Any, left: Any, scale: Any, low: Any, high: Any, E: Any) -> None:
    # parts.piecewise_code of z (F, batch), as E (F, T, batch); the constants are (F, 1, T). NaN stays NaN.
    for f in range(z.shape[0]):
        x = z[f]
        for t in range(E.shape[1]):
            code, e, per, least, most = E[f, t], left[f, 0, t], scale[f, 0, t], low[f, 0, t], high[f, 0, t]
            for i in range(x.shape[0]):
                at = (x[i] - e) * per
                at = least if at < least else at  # noqa: FURB136 - of NaN, max would be another number
                code[i] = most if at > most else at  # noqa: FURB136
