"""How numbers become inputs: z = f((x - centre) / width), f(u) = u / sqrt(1 + (u / 3)^2), and the edges of z's bins.

The centre is the median, the width the distance of the quartiles; f keeps what lies near and draws what lies far to
within 3, so that one wild number moves nothing but its own row.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from xpmlp.backends import HostArray

SOFT = 3.0  # |z| stays below it


@dataclasses.dataclass(frozen=True)
class Scale:
    """How one input of numbers is scaled: z = f((x - centre) / width), 0 where width is."""

    centre: float
    width: float
    edges: tuple[float, ...]

    def apply(self, x: HostArray) -> HostArray:
        """Scaled numbers, shape (n,); gaps become 0, as the median does."""
        if self.width == 0.0:
            return np.zeros(len(x))
        # Halves, because the difference of two numbers may be too large where they are not.
        with np.errstate(over="ignore"):
            u = np.clip((x / 2.0 - self.centre / 2.0) / (self.width / 2.0), -1e9, 1e9)
        return np.nan_to_num(u / np.sqrt(1.0 + (u / SOFT) ** 2), nan=0.0)


def scale_of(x: HostArray, n_bins: int) -> Scale:
    """The scale of a column of numbers, shape (n,), where NaN is a gap."""
    there = x[~np.isnan(x)]
    centre = float(np.median(there / 2.0) * 2.0) if len(there) else 0.0
    filled = np.where(np.isnan(x), centre, x)
    low, first, third, high = np.quantile(filled / 2.0, [0.0, 0.25, 0.75, 1.0])
    half = third - first if third - first > np.finfo(np.float64).tiny else (high - low) / 2.0
    width = float(min(2.0 * half, np.finfo(np.float64).max))
    scale = Scale(centre, width if width > np.finfo(np.float64).tiny else 0.0, ())
    z = scale.apply(filled)
    steps = np.linspace(0.0, 1.0, n_bins // 2 + 1)
    edges = np.unique(np.concatenate([np.quantile(z, steps), np.quantile(np.unique(z), steps)]))
    if len(edges) < 2:
        edges = np.array([edges[0], edges[0] + 1.0])
    return dataclasses.replace(scale, edges=tuple(edges.tolist()))


def scale_from(centre: Any, width: Any, edges: Any) -> Scale:
    """The scale of three entries of a file; ValueError or TypeError where they make no sense."""
    numbers = [float(centre), float(width), *map(float, edges)]
    if (
        not all(map(math.isfinite, numbers))
        or numbers[1] < 0.0
        or len(numbers) < 4
        or not np.all(np.diff(numbers[2:]) > 0.0)
    ):
        raise ValueError(
            f"a scale must be finite, its width not negative, its edges two at least and rising; got centre "
            f"{centre!r}, width {width!r}."
        )
    return Scale(numbers[0], numbers[1], tuple(numbers[2:]))
