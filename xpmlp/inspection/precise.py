"""The numerical derivatives with as many digits as you like: our own forward pass on mpmath's numbers.

mparray is an Array API namespace over mpmath, so `network.forward` and the losses run on it as on any other. The step
is 10^-(digits + 5) and the numbers have twice as many digits, so neither truncation nor rounding reaches the first
`digits` digits of (L(w + h) - L(w)) / h: one forward pass for each derivative is enough, and what is left of a
difference is the rounding of ours.
"""

import math
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.inspection.differences import Compared, LossSurface
from xpmlp.network import Trace, forward, losses_of_samples, mean

# Measured on one core: 10 microseconds for each product of two numbers and for each use of an activation.
MOST_PRODUCTS = 10_000_000
ROUNDING = 8.0  # times what the last digit of the parameters does


class Precise:
    """L as a function of the flat vector, in numbers of many digits."""

    def __init__(self, surface: LossSurface, digits: int, passes: int) -> None:
        self.xp, self.mp = _libraries()
        self.surface, self.digits, self.network = surface, digits, surface.network
        self._demand_small(passes)
        self.resolutions = ROUNDING * surface.sensitivity()
        with self.mp.workdps(2 * digits + 10):
            self.h = self.mp.mpf(10) ** -(digits + 5)
            self.x, self.y, self.w = (
                None if values is None else self._numbers(surface._host(values))
                for values in (surface.x, surface.y, surface.w)
            )
            self.flat = np.vectorize(self.mp.mpf, otypes=[object])(surface.flat)
            try:
                self.trace, self.values = self._forward(self.flat)
            except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
                raise TypeError(
                    f"digits={digits} runs the network on mparray's arrays, which a function here does not take: "
                    f"{error}. Write functions of your own with the namespace of what they are given: "
                    "xp = array_api_compat.array_namespace(z)."
                ) from error

    def compare(self, index: HostArray, ours: HostArray) -> Compared:
        """The elements `index` of the flat vector."""
        if not np.isfinite(self.surface.loss):
            return Compared(np.zeros_like(ours), np.zeros_like(ours), np.full_like(ours, np.inf))
        with self.mp.workdps(2 * self.digits + 10):
            exact = np.stack([self.difference(i) for i in index], axis=-1)
            wide = np.vectorize(self.mp.mpf, otypes=[object])(ours)
            apart = np.abs(wide - exact).astype(np.float64)
            furthest = exact.ravel()[int(np.argmax(apart))]
            shown = self.mp.nstr(furthest, self.digits, strip_zeros=False)
        return Compared(exact.astype(np.float64), apart, self.resolutions[..., index], shown)

    def difference(self, i: int) -> HostArray:
        """dL/dw for element i of the flat vector: mpmath's numbers, shape () or (m,)."""
        slopes, kinks = self._one_sided(i, self.h), self.surface.kinks_that_move(i)
        if np.any(kinks > 0):
            right, left = self._host(slopes), self._host(self._one_sided(i, -self.h))
            own = np.array([self.surface.derivatives_of_sample(n)[:, i] for n in range(kinks.shape[-1])], dtype=object)
            own = np.vectorize(self.mp.mpf, otypes=[object])(own.T.reshape(kinks.shape))
            # Between its two sides a derivative is right; on several kinks at once there are more sides than two.
            between = np.where(
                kinks > 1, own, np.minimum(np.maximum(own, np.minimum(left, right)), np.maximum(left, right))
            )
            slopes = self._numbers(np.where(kinks > 0, between, right))
        return self._host(mean(slopes, self.w))

    def _one_sided(self, i: int, step: Any) -> Array:
        moved = self.flat.copy()
        moved[..., i] += step
        return (self._forward(moved)[1] - self.values) / self._numbers(step)

    def _forward(self, flat: HostArray) -> tuple[Trace, Array]:
        trace = forward(self.network, self.network.layout.unpack(self._numbers(flat)), self.x)
        return trace, losses_of_samples(self.network, trace, self.y)

    def _numbers(self, values: Any) -> Array:
        return self.xp.asarray(values, dtype=self.xp.float64)  # float64 is mparray's name for real numbers

    def _host(self, values: Array) -> HostArray:
        # mparray gives away floats only: a number is the sum of the floats that are left of it, one after the other.
        flat, found = self.xp.reshape(values, (-1,)), []
        for i in range(math.prod(values.shape)):
            left, total = flat[i], self.mp.mpf(0)
            while math.isfinite(part := float(left)) and part != 0.0:
                total, left = total + part, left - part
            found.append(total if math.isfinite(part) else self.mp.mpf(part))
        return np.array(found, dtype=object).reshape(values.shape)

    def _demand_small(self, passes: int) -> None:
        sizes, (*lead, n) = self.network.layout.sizes, self.surface.values.shape
        each = sum(a * b + 5 * b for a, b in pairwise(sizes)) * max(self.network.members, 1)
        products = math.prod(lead) * n * each * passes
        if products > MOST_PRODUCTS:
            raise ValueError(
                f"digits={self.digits} is for small networks and batches: this check would take about "
                f"{products / 1e6:,.0f} million products one by one, and {MOST_PRODUCTS / 1e6:.0f} million (a minute "
                f"or two) are the most. Check fewer samples (of {n}) or fewer elements=, or a smaller network."
            )


def _libraries() -> tuple[ModuleType, Any]:
    try:
        import mparray
        from mpmath import mp
    except ImportError as error:
        raise ImportError(
            "check_gradients with digits= needs mparray; install it with pip install 'mparray>=0.2.2'."
        ) from error
    return mparray, mp
