"""curvature: how sharply L bends along the steepest direction of a step, so that too large a rate shows early.

Near a point with gradient g and Hessian H, one step of plain gradient descent with the rates P (a diagonal) turns g
into (I - H P) g, to first order. What lies along an eigenvector of P^1/2 H P^1/2 with eigenvalue s is multiplied by
1 - s: it shrinks while 0 < s < 2, and grows, with its sign turned at each step, where s > 2. With one rate for all, s
is the rate times the largest eigenvalue of H (Cohen et al., arXiv:2103.00065, section 2).

H itself is never made. H v is the difference of two gradients, (g(w + h v) - g(w - h v)) / 2h, and Lanczos' method
finds the largest eigenvalue from a few dozen of these products.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, at_home
from xpmlp.inspection.differences import LossSurface
from xpmlp.inspection.kinks import same_side
from xpmlp.inspection.models import open_up, place_of_model
from xpmlp.network import Layout, Trace, backward

STEP = 1e-5  # of w along a direction of length 1: truncation and rounding both leave 1e-10 or so of H v
MOST_PRODUCTS = 100
TOLERANCE = 1e-4  # the residual of the eigenvector; the eigenvalue's error is of its square


@at_home("measuring the curvature", of=place_of_model)
def curvature(
    net: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    learning_rate: float = 1.0,
    learning_rate_factors: Sequence[Any] | None = None,
) -> Any:
    """The learning rate times the largest curvature of the loss: above 2, plain gradient descent diverges.

    The largest eigenvalue of P^1/2 H P^1/2, H the second derivatives of L and P the learning rates. Without a rate it
    is the largest eigenvalue of H itself, and 2 / curvature the largest rate that plain gradient descent bears here.

    Parameters
    ----------
    net : MLP, or fitted MLPClassifier or MLPRegressor
        One network or several; float32 is looked at in float64. Dropout and penalties take no part.
    X, y, sample_weight : array
        As for its `fit`: of a classifier, y holds labels.
    learning_rate : float
        Of plain gradient descent. Momentum bears a rate that is larger, up to 2 (1 + momentum) / curvature; for
        optimizers that scale the gradient (adam), the number says little.
    learning_rate_factors : sequence of K floats, or a pair of them, optional
        The rate of layer k is `learning_rate` times its factor, as in `MLP.fit`; a pair has other factors for W than
        for b. 0 freezes an array.

    Returns
    -------
    float, or array of shape (m,)
        Below 2, the step shrinks what is left of the gradient in every direction; above, it grows in the steepest one,
        and L soon rises. A training at a rate as large as it bears hovers about 2. Negative or 0 where L bends nowhere
        upward.

    Raises
    ------
    TypeError, ValueError
        If `net` is no model of xpmlp or was not fitted, where there is no float64 (JAX without x64, MPS), or if an
        argument does not fit.

    Notes
    -----
    Products of H with a vector come from differences of the hand-written gradients; a few dozen, each two backward
    passes over the batch. Where a sample steps across a kink (a ReLU's), the side that does not cross is taken: at a
    kink itself the loss has no curvature. The criterion is that of descent on a quadratic, and exact for a full batch
    [1]_.

    References
    ----------
    .. [1] J. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar, "Gradient descent on neural networks typically occurs
       at the edge of stability", ICLR 2021, arXiv:2103.00065.

    Examples
    --------
    >>> import numpy as np, xpmlp
    >>> X, y = np.array([[1.0], [-1.0]]), np.array([2.0, -2.0])
    >>> net = xpmlp.MLP([1, 1], random_state=0)  # L = mean of (w x + b - y)^2 / 2 bends by 1 in w and in b
    >>> round(xpmlp.curvature(net, X, y), 6)
    1.0
    >>> round(xpmlp.curvature(net, X, y, learning_rate=2.5), 6)  # w jumps over its valley, and further each time
    2.5
    """
    opened = open_up(net)
    if not opened.place.float64:
        raise ValueError(
            f"curvature needs float64, which {opened.place} lacks. Look at a copy on NumPy: "
            "net.to_backend('numpy'), with NumPy arrays; or at an estimator fitted with backend='numpy'."
        )
    rate = checks.number(learning_rate, "learning_rate", above=0.0)
    roots = np.sqrt(rate * _factors(opened.network.layout, learning_rate_factors))
    products = _Products(LossSurface(net, X, y, sample_weight), roots)
    found = np.array([_largest(products, i) for i in range(products.n_networks)])
    return float(found[0]) if opened.n_networks is None else found


class _Products:
    """v -> P^1/2 H P^1/2 v, for one network after the other."""

    def __init__(self, surface: LossSurface, roots: HostArray) -> None:
        self.surface, self.roots = surface, roots
        self.lead = surface.flat.shape[:-1]
        self.n_networks = int(np.prod(self.lead))
        xp = surface.place.xp
        self.w = xp.ones_like(surface.values) if surface.w is None else surface.w
        self.total = xp.sum(self.w, axis=-1)

    def __call__(self, v: HostArray, network: int) -> HostArray:
        """`v` of shape (P,); the other networks stand still."""
        direction = self.roots * v
        length = float(np.linalg.norm(direction))
        if length == 0.0:
            return np.zeros_like(v)
        moved = np.zeros((self.n_networks, v.size))
        moved[network] = STEP / length * direction
        surface, xp = self.surface, self.surface.place.xp
        flat, moved = surface.flat, moved.reshape(surface.flat.shape)
        above, below = surface._forward(flat + moved)[0], surface._forward(flat - moved)[0]
        stays_above, stays_below = (same_side(surface.network, surface.trace, it, surface.y) for it in (above, below))

        def gradient(flat: HostArray, trace: Trace, holds: Array) -> HostArray:
            # The part of the samples for which it holds, as a share of all
            w = self.w * xp.astype(holds, self.w.dtype)
            d = backward(surface.network, surface._parameters(flat), trace, surface.y, w).d
            share = surface._host(xp.sum(w, axis=-1) / self.total)
            whole = surface._host(surface.network.layout.pack(d)) * share[..., None]
            part: HostArray = whole.reshape(self.n_networks, -1)[network]
            return part

        both = xp.logical_and(stays_above, stays_below)
        change = (gradient(flat + moved, above, both) - gradient(flat - moved, below, both)) / 2
        if not bool(xp.all(both)):
            only_above = xp.logical_and(stays_above, xp.logical_not(both))
            only_below = xp.logical_and(stays_below, xp.logical_not(both))
            change += gradient(flat + moved, above, only_above) - gradient(flat, surface.trace, only_above)
            change += gradient(flat, surface.trace, only_below) - gradient(flat - moved, below, only_below)
        product: HostArray = self.roots * change * (length / STEP)
        return product


def _largest(products: _Products, network: int) -> float:
    """Lanczos' method with full reorthogonalization (Golub & Van Loan, Matrix Computations, 4th ed., section 10.1)."""
    size = products.roots.size
    v = np.random.default_rng(0).normal(size=size)
    basis = [v / np.linalg.norm(v)]
    alphas: list[float] = []
    betas: list[float] = []
    for _ in range(min(size, MOST_PRODUCTS)):
        v = products(basis[-1], network)
        alphas.append(float(v @ basis[-1]))
        if not np.all(np.isfinite(v)):
            return float("nan")
        Q = np.array(basis)
        for _ in range(2):  # twice is enough
            v = v - Q.T @ (Q @ v)
        beta = float(np.linalg.norm(v))
        values, vectors = np.linalg.eigh(np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1))
        largest = float(values[-1])
        size_of_all = float(np.max(np.abs(values)))
        if beta * abs(float(vectors[-1, -1])) <= TOLERANCE * abs(largest) or beta <= 1e-12 * size_of_all:
            break
        betas.append(beta)
        basis.append(v / beta)
    return largest


def _factors(layout: Layout, factors: Sequence[Any] | None) -> HostArray:
    """One for each element of the flat vector."""
    K = layout.n_layers
    pair = factors is not None and len(factors) == 2 and all(np.ndim(it) == 1 for it in factors)
    of_W, of_b = (factors[0], factors[1]) if factors is not None and pair else (factors, factors)
    flat = np.zeros(layout.size)
    each: dict[bool, list[float]] = {}
    for is_bias, given in ((False, of_W), (True, of_b)):
        by_layer = [1.0] * K if given is None else list(given)
        if len(by_layer) != K:
            raise ValueError(
                f"learning_rate_factors must hold one for each of the {K} layers, or a pair (of W, of b) of such; "
                f"got {len(by_layer)}."
            )
        each[is_bias] = [checks.number(it, f"learning_rate_factors[{k}]", least=0.0) for k, it in enumerate(by_layer)]
    for segment in layout.segments:
        flat[segment.start : segment.stop] = each[segment.name == "b"][max(segment.layer, 1) - 1]
    return flat
