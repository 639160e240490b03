"""What NumPy needs many passes over memory for, in one, compiled by Numba: where that is installed and pays.

Microseconds, float32, one core: the penalty and Adam's update of 537,000 parameters 760 in thirteen passes, 110 in one;
ReLU of 256 x 256 13, 3. To import Numba and to compile takes a second, which a small network would never win back.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends.config import get_config
from xpmlp.runners.eager import Data
from xpmlp.runners.step import Task

# Updates in an epoch, batches times parameters, from which on "auto" compiles: it saves some 10 milliseconds an epoch.
# This depends on the task alone, so that the same fit is always done in the same way.
WORTHWHILE = 2**23


class Compiled(NamedTuple):
    """The functions of this file, compiled."""

    adam: Callable[..., None]
    relu: Callable[..., None]
    relu_backward: Callable[..., None]


def find(task: Task, data: Data) -> Compiled | None:
    """The compiled functions, or None where NumPy's serve this task better or are the only ones."""
    setting = get_config()["compiled"]
    if setting == "never" or not task.is_adam or task.factors is not None or task.optimizer.average:
        return None
    if setting == "auto" and data.n_batches * task.network.layout.size < WORTHWHILE:
        return None
    try:
        return _compiled()
    except ImportError:  # also where the two versions of Numba and NumPy do not go together
        if setting == "always":
            raise
        return None


@functools.cache
def _compiled() -> Compiled:
    import numba

    # "reassoc" lets the sum of squares be taken in parallel, "contract" lets multiply and add be one; NaN stays NaN.
    compiler = numba.njit(error_model="numpy", fastmath={"reassoc", "contract"})
    return Compiled(compiler(_adam), compiler(_relu), compiler(_relu_backward))


def _adam(p: Any, g: Any, m: Any, v: Any, n_weights: int, l2: Any, squares: Any, scalars: Any) -> None:
    # optimizers.adam_step after g += l2 W; sum(W^2), as W was, is added to `squares`. `keep` is what a decoupled decay
    # leaves of W. All arrays have a leading axis of networks.
    beta_1, beta_2, lr_t, epsilon, keep = scalars
    for i in range(p.shape[0]):
        total = squares[i]
        for j in range(n_weights):
            w = p[i, j]
            total += w * w
            d = g[i, j] + l2[i] * w
            m[i, j] = beta_1 * m[i, j] + d
            v[i, j] = beta_2 * v[i, j] + d * d
            p[i, j] = keep * w - lr_t * m[i, j] / (np.sqrt(v[i, j]) + epsilon)
        squares[i] = total
        for j in range(n_weights, p.shape[1]):
            m[i, j] = beta_1 * m[i, j] + g[i, j]
            v[i, j] = beta_2 * v[i, j] + g[i, j] * g[i, j]
            p[i, j] -= lr_t * m[i, j] / (np.sqrt(v[i, j]) + epsilon)


def _relu(z: Any) -> None:
    for i in range(z.shape[0]):
        z[i] = z.dtype.type(0.0) if z[i] <= 0.0 else z[i]  # and not max(z, 0): NaN must stay NaN


def _relu_backward(da: Any, a: Any) -> None:
    for i in range(da.shape[0]):
        da[i] = da[i] if a[i] > 0.0 else da.dtype.type(0.0)
