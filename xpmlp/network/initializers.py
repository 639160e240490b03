"""Initial weights, drawn on the host in float64, then cast and moved: the same seed is the same network everywhere.

To add one, write its function and one row of INITIALIZERS. A function is handed the generator (whatever has NumPy's
`normal` and `uniform`), the shape to draw, the layer's numbers of inputs and outputs, and its activation's gain.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp.backends import HostArray

Draw = Callable[[Any, tuple[int, ...], int, int, float], HostArray]


@dataclass(frozen=True)
class Initializer:
    """A row of INITIALIZERS."""

    name: str
    draw: Draw
    variance: Callable[[int, int], float] | None  # of a weight, from (n_in, n_out); None where it has no fixed value
    parameters: dict[str, Any] = field(default_factory=dict)
    independent: bool = False  # no weight depends on another: they may be drawn a part at a time
    bias_bound: Callable[[int], float] | None = None  # biases are uniform on (-bound(n_in), bound(n_in)), not 0

    def fill(self, rng: Any, out: HostArray, gain: float) -> None:
        """Draw the weights of a layer into `out`, shape (n_in, n_out)."""

        def draw(shape: tuple[int, ...]) -> HostArray:
            return self.draw(rng, shape, out.shape[0], out.shape[1], gain)

        if self.independent:
            fill(out, draw)
        else:
            out[...] = draw(out.shape)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A pickle names the public lookup, and no function of this file.
        if self.name == "normal" and checks.genuine(self, INITIALIZERS):
            return normal, (self.parameters["sigma"],)
        return checks.by_name(self, INITIALIZERS, initializer) or super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return f"<initializer {self.name}{f'({shown})' if shown else ''}>"


def fill(out: HostArray, draw: Callable[[tuple[int, ...]], HostArray]) -> None:
    """Write `draw(shape)` into `out`, some rows at a time: what is drawn in float64 does not leave the cache."""
    rows = max(2**16 // math.prod(out.shape[1:]), 1)
    for start in range(0, len(out), rows):
        part = out[start : start + rows]
        part[...] = draw(part.shape)


def glorot_variance(n_in: int, n_out: int) -> float:
    # Glorot & Bengio, AISTATS 2010, equation 16
    return 2.0 / (n_in + n_out)


def he_variance(n_in: int, n_out: int) -> float:
    # He et al., arXiv:1502.01852, equation 10
    return 2.0 / n_in


def lecun_variance(n_in: int, n_out: int) -> float:
    # LeCun et al., Efficient BackProp (1998), section 4.6
    return 1.0 / n_in


def third_variance(n_in: int, n_out: int) -> float:
    # PyTorch's nn.Linear: uniform on (-bound, bound), bound = n_in^-1/2, weights and biases
    return 1.0 / (3.0 * n_in)


def inverse_root(n_in: int) -> float:
    return 1.0 / math.sqrt(n_in)


def fixed_variance(n_in: int, n_out: int, *, sigma: float) -> float:
    return sigma**2


def draw_uniform(rng: Any, shape: tuple[int, ...], n_in: int, n_out: int, gain: float, *, variance: Any) -> Any:
    bound = (3.0 * variance(n_in, n_out)) ** 0.5  # a uniform law on (-bound, bound) has variance bound^2 / 3
    return rng.uniform(-bound, bound, shape)


def draw_normal(rng: Any, shape: tuple[int, ...], n_in: int, n_out: int, gain: float, *, variance: Any) -> Any:
    return rng.normal(0.0, variance(n_in, n_out) ** 0.5, shape)


def draw_with_sigma(rng: Any, shape: tuple[int, ...], n_in: int, n_out: int, gain: float, *, sigma: float) -> Any:
    return rng.normal(0.0, sigma, shape)


def draw_orthogonal(rng: Any, shape: tuple[int, ...], n_in: int, n_out: int, gain: float) -> Any:
    # Saxe et al., arXiv:1312.6120. The signs of R make the law uniform (Haar): Mezzadri, arXiv:math-ph/0609050.
    if len(shape) == 1:
        return np.zeros(shape)
    q, r = np.linalg.qr(rng.normal(0.0, 1.0, (max(shape), min(shape))))
    q *= np.sign(np.diag(r))
    return gain * (q if shape[0] >= shape[1] else q.T)


def draw_zeros(rng: Any, shape: tuple[int, ...], n_in: int, n_out: int, gain: float) -> Any:
    return np.zeros(shape)


def _family(name: str, variance: Callable[[int, int], float]) -> tuple[Initializer, Initializer]:
    return (
        Initializer(f"{name}_uniform", partial(draw_uniform, variance=variance), variance, independent=True),
        Initializer(f"{name}_normal", partial(draw_normal, variance=variance), variance, independent=True),
    )


def _normal(sigma: float) -> Initializer:
    functions = (partial(draw_with_sigma, sigma=sigma), partial(fixed_variance, sigma=sigma))
    return Initializer("normal", *functions, parameters={"sigma": sigma}, independent=True)


INITIALIZERS: dict[str, Initializer] = {
    row.name: row
    for row in (
        *_family("glorot", glorot_variance),
        *_family("he", he_variance),
        *_family("lecun", lecun_variance),
        Initializer(
            "linear_uniform",
            partial(draw_uniform, variance=third_variance),
            third_variance,
            independent=True,
            bias_bound=inverse_root,
        ),
        Initializer("orthogonal", draw_orthogonal, None),
        _normal(0.1),
        Initializer("zeros", draw_zeros, partial(fixed_variance, sigma=0.0)),
    )
}


def initializer(value: object) -> Initializer:
    """The row for a name or a row; see also `normal`."""
    return checks.choose(INITIALIZERS, value, "initializer")


def normal(sigma: float) -> Initializer:
    """Independent normal weights of standard deviation `sigma`, as in the tutorial (sigma = 0.1).

    Examples
    --------
    >>> from xpmlp.network.initializers import normal
    >>> normal(0.5)
    <initializer normal(sigma=0.5)>
    """
    return _normal(checks.number(sigma, "sigma", least=0.0))
