"""Forward and backward: the chain rule, by hand, once for every backend and for m networks at once.

    a[0] = x                         (batch, n_0)
    z[k] = a[k-1] @ W[k] + b[k]      (batch, n_k)      W[k]: (n_{k-1}, n_k)   b[k]: (n_k,)
    a[k] = f_k(z[k])                 (batch, n_k)      a[K] = yhat
    L    = mean over the batch of the per-sample loss

    da[K] = dL/dyhat                 dz[k] = da[k] * f_k'(z[k])
    dW[k] = a[k-1].T @ dz[k]         db[k] = sum over rows of dz[k]
    da[k-1] = dz[k] @ W[k].T

`d` in front of a name means "the derivative of L with respect to". L is the mean, so the 1/batch is already in da[K].
Every list is indexed by layer as above; what does not exist (z[0], W[0], ...) is None. For m networks every array but a
shared x has a leading axis of m. With dropout, h[k] is what is left of a[k], and stands for a[k] in the layer above.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from xpmlp._typing import Array
from xpmlp.backends import array_namespace
from xpmlp.backends.arithmetic import unwarned
from xpmlp.network import dropout
from xpmlp.network.activations import Activation
from xpmlp.network.losses import Loss
from xpmlp.network.parameters import Layers, Layout, Parameters


@dataclass(frozen=True)
class Network:
    """What a network is, without its parameters: the sizes n_0 ... n_K, f_1 ... f_K, the loss, the dropout rates."""

    layout: Layout
    activations: tuple[Activation, ...]  # f_k is activations[k - 1]
    loss: Loss
    dropout: tuple[float, ...] = field(default=())  # of the hidden layers; () for none

    @cached_property
    def canonical(self) -> bool:
        """Whether the loss can be taken from the scores z[K]."""
        return self.loss.canonical(self.activations[-1])


class Trace(NamedTuple):
    """What forward leaves for backward."""

    z: Layers
    a: Layers
    h: Layers  # a after dropout, h[k] is the input of layer k + 1; the very arrays of `a` where nothing is dropped
    masks: Layers  # h[k] = a[k] * masks[k]; None where nothing is dropped


class Gradients(NamedTuple):
    """What backward returns."""

    dz: Layers
    da: Layers
    d: Parameters  # dW[k], db[k], and what else layers have

    @property
    def dW(self) -> Layers:
        """The derivatives of the weights, by layer."""
        return self.d.W

    @property
    def db(self) -> Layers:
        """Those of the biases."""
        return self.d.b


class Drop(NamedTuple):
    """The counter that dropout masks are hashed from; see `dropout.mask`."""

    seed: Array
    step: Array
    first: int = 0  # samples of the batch before these, where a part of it is looked at


@unwarned
def forward(network: Network, p: Parameters, x: Array, drop: Drop | None = None) -> Trace:
    """All z and a for the inputs `x`; a[K] is yhat. Without `drop` (in prediction) no unit is dropped."""
    xp = array_namespace(x)
    K = network.layout.n_layers
    W, b = p.W, p.b
    z: Layers = [None] * (K + 1)
    a: Layers = [x] + [None] * K
    h: Layers = [x] + [None] * K
    masks: Layers = [None] * (K + 1)
    for k in range(1, K + 1):
        z[k] = xp.matmul(h[k - 1], W[k])  # z[k] = a[k-1] @ W[k] + b[k]
        z[k] += b[k]
        a[k] = network.activations[k - 1].function(z[k])  # a[k] = f_k(z[k])
        h[k] = a[k]
        if drop is not None and k < K and network.dropout[k - 1] > 0.0:
            masks[k] = dropout.mask(network.dropout[k - 1], drop.seed, drop.step, k, like=a[k], first=drop.first)
            h[k] = a[k] * masks[k]
    return Trace(z, a, h, masks)


@unwarned
def sample_losses(network: Network, trace: Trace, y: Array) -> Array:
    """The loss of each sample, shape (batch,) or (m, batch)."""
    if network.canonical and network.loss.value_from_scores is not None:
        return network.loss.value_from_scores(y, trace.z[-1])
    return network.loss.value(y, trace.a[-1])


@unwarned
def mean(values: Array, w: Array | None = None) -> Array:
    """sum(w l) / sum(w) over the last axis, and 0 where the weights sum to 0."""
    xp = array_namespace(values)
    if w is None:
        return xp.sum(values, axis=-1) / values.shape[-1]
    return xp.sum(values * shares(w), axis=-1)


@unwarned
def shares(w: Array) -> Array:
    """Return w / sum(w), the share of each sample in L."""
    return w * reciprocal(array_namespace(w).sum(w, axis=-1, keepdims=True))


def reciprocal(total: Array) -> Array:
    """1 / total, and 0 where the total is 0: samples whose weights are all zero have no loss and no gradient."""
    xp = array_namespace(total)
    some = total > 0
    return xp.astype(some, total.dtype) / xp.where(some, total, xp.ones_like(total))


@unwarned
def output_derivative(
    network: Network, z: Array, a: Array, y: Array, share: Array | float
) -> tuple[Array | None, Array]:
    """da[K] and dz[K], from the scores z[K] and outputs a[K]; da[K] is None where the loss knows dz[K] itself.

    `share` is that of each sample in L: 1 / batch, or w / sum(w) with a last axis of 1.
    """
    loss = network.loss
    if network.canonical and loss.derivative_from_scores is not None:
        return None, loss.derivative_from_scores(y, z, a) * share
    da = loss.derivative(y, a) * share  # da[K] = dL/dyhat
    return da, pullback(network.activations[-1], da, z, a, show=True)


@unwarned
def backward(
    network: Network,
    p: Parameters,
    trace: Trace,
    y: Array,
    w: Array | None = None,
    *,
    show: bool = False,
    inputs: bool = False,
) -> Gradients:
    """All derivatives of L for the targets `y`, each of the shape of what it belongs to.

    Parameters
    ----------
    y : array of shape (batch, n_K) or (m, batch, n_K)
        Targets.
    w : array of shape (batch,) or (m, batch), or None
        Sample weights: L is then sum(w l) / sum(w).
    show : bool
        Keep every dz[k] and da[k], da[K] of a canonical pair included, for someone to look at; a training step has no
        use for them.
    inputs : bool
        Also compute da[0] = dL/dx.
    """
    z, a, h, masks = trace
    W = p.W
    xp = array_namespace(a[-1])
    f = network.activations
    K = network.layout.n_layers
    dz: Layers = [None] * (K + 1)
    da: Layers = [None] * (K + 1)
    dW: Layers = [None] * (K + 1)
    db: Layers = [None] * (K + 1)
    share = 1.0 / a[K].shape[-2] if w is None else shares(w)[..., None]

    da[K], dz[K] = output_derivative(network, z[K], a[K], y, share)
    if show and da[K] is None:
        da[K] = network.loss.derivative(y, a[K]) * share
    for k in range(K, 0, -1):
        dW[k] = xp.matmul(xp.matrix_transpose(h[k - 1]), dz[k])  # dW[k] = a[k-1].T @ dz[k]
        db[k] = xp.sum(dz[k], axis=-2, keepdims=dz[k].ndim > 2)  # db[k] = sum over rows of dz[k]
        if k > 1 or inputs:
            da[k - 1] = xp.matmul(dz[k], xp.matrix_transpose(W[k]))  # da[k-1] = dz[k] @ W[k].T
        if k > 1:
            if masks[k - 1] is not None:
                da[k - 1] *= masks[k - 1]
            dz[k - 1] = pullback(f[k - 2], da[k - 1], z[k - 1], a[k - 1], show)
    return Gradients(dz, da, Parameters(dW, db))


def pullback(f: Activation, da: Array, z: Array, a: Array, show: bool = False) -> Array:
    """dz[k] = da[k] * f_k'(z[k]); `da` is donated unless it is to be shown."""
    if f.pullback is not None:
        return f.pullback(da, z, a)
    if show:
        return da * f.derivative(z, a)
    da *= f.derivative(z, a)
    return da
