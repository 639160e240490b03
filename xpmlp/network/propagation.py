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

Parts (see `parts`) make a[0] of x, or u[k] of z[k], which f_k then takes: a[k] = f_k(u[k]). k members share W[1] ...
W[K-1]; every array but a shared a[0] has a leading axis of k, the rows of all members make one product, and L is the
mean of the members' own losses.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from xpmlp._typing import Array
from xpmlp.backends import array_namespace
from xpmlp.backends.arithmetic import unwarned
from xpmlp.network import dropout
from xpmlp.network.activations import Activation
from xpmlp.network.losses import Loss
from xpmlp.network.parameters import Layers, Layout, Parameters
from xpmlp.network.parts import Part


@dataclass(frozen=True)
class Network:
    """What a network is, without its parameters: the sizes n_0 ... n_K, f_1 ... f_K, the loss, the dropout rates."""

    layout: Layout
    activations: tuple[Activation, ...]  # f_k is activations[k - 1]
    loss: Loss
    dropout: tuple[float, ...] = field(default=())  # of the hidden layers; () for none
    parts: tuple[tuple[Part, ...], ...] = ()  # parts[0] make a[0] of x, parts[k] u[k] of z[k]; () for none anywhere

    @cached_property
    def members(self) -> int:
        """How many share the weights; 0 is one network."""
        return self.layout.members

    def demand_plain(self, what: str) -> None:
        """ValueError where there are parts or members, which `what` does not know."""
        if self.parts or self.members:
            found = sorted({part.name for row in self.parts for part in row}) + ["members"] * bool(self.members)
            raise ValueError(f"{what} knows W, b and activations only; this network has {', '.join(found)}.")

    @cached_property
    def n_inputs(self) -> int:
        """How many inputs x has: n_0, unless parts make more of them."""
        return self.layout.sizes[0] - sum(part.adds for part in (self.parts[0] if self.parts else ()))

    def widest(self, *, inputs: bool) -> int:
        """Numbers that one sample has in the widest array of a forward pass; x counts where `inputs` says so."""
        made = self.parts[0] if self.parts else ()
        units = self.layout.sizes[0 if inputs or made else 1 :]
        return max(max(units) * max(self.members, 1), *(part.codes for part in made), 1)

    def part(self, name: str, k: int) -> Part | None:
        """The part that the array `name` of layer k belongs to; None of W and b."""
        row = self.parts[k] if k < len(self.parts) else ()
        return next((part for part in row if part.name == name.partition(".")[0]), None)

    @cached_property
    def canonical(self) -> bool:
        """Whether the loss can be taken from the scores z[K]."""
        return self.loss.canonical(self.activations[-1])


def layout_with_parts(sizes: tuple[int, ...], parts: tuple[tuple[Part, ...], ...], members: int) -> Layout:
    """The layout of a network with so many inputs, units and outputs: n_0 grows by what parts add.

    Raises
    ------
    ValueError
        Where a part cannot stand in its layer, or stands there twice.
    """
    others, n = [], sizes[0]
    for k, row in enumerate(parts):
        if len({part.name for part in row}) < len(row):
            raise ValueError(f"a part may stand once in a layer; layer {k} has {', '.join(part.name for part in row)}.")
        shared = k == 0
        for part in row:
            if not (part.before if k == 0 else part.hidden):
                where = "before the first layer" if k else "in hidden layers"
                raise ValueError(f"{part.name} stands {where} only; got it in layer {k}.")
            if part.members and not members:
                raise ValueError(f"{part.name} is what members differ in; pass members=, or leave it out.")
            if not shared and "edges" in part.parameters:  # numbers in bins are of all members
                raise ValueError(f"{part.name} stands first in its layer.")
            shared = shared and not part.members
            inputs = n if k == 0 else sizes[k]
            lead = (members, 1) if members else ()
            others += part.others(k, inputs, lead)
            n += part.adds if k == 0 else 0
    return Layout((n, *sizes[1:]), others=tuple(others), members=members)


class Trace(NamedTuple):
    """What forward leaves for backward."""

    z: Layers
    a: Layers
    h: Layers  # a after dropout, h[k] is the input of layer k + 1; the very arrays of `a` where nothing is dropped
    masks: Layers  # h[k] = a[k] * masks[k]; None where nothing is dropped
    u: Layers  # what parts make of z[k], and f_k takes; the very arrays of `z` where there are none
    notes: list[list[Any]] = []  # noqa: RUF012 - what parts leave for their own backward; never changed


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
    u, notes = z, list[list[Any]]()
    if network.parts:
        u, notes = [None] * (K + 1), [[] for _ in z]
        a[0] = h[0] = through_parts(network, p, 0, x, notes)
    if network.members and a[0].ndim == 2:
        h[0] = xp.broadcast_to(a[0], (network.members, *a[0].shape))
    for k in range(1, K + 1):
        if network.members:
            z[k] = product(h[k - 1], W[k])
        else:
            z[k] = xp.matmul(h[k - 1], W[k])  # z[k] = a[k-1] @ W[k] + b[k]
        z[k] += b[k]
        if network.parts:
            u[k] = through_parts(network, p, k, z[k], notes)
            a[k] = network.activations[k - 1].function(u[k])
        else:
            a[k] = network.activations[k - 1].function(z[k])  # a[k] = f_k(z[k])
        h[k] = a[k]
        if drop is not None and k < K and network.dropout[k - 1] > 0.0:
            masks[k] = dropout.mask(
                network.dropout[k - 1], drop.seed, drop.step, k, a[k], drop.first, network.members > 0
            )
            h[k] = a[k] * masks[k]
    return Trace(z, a, h, masks, u, notes)


def product(h: Array, W: Array) -> Array:
    """Multiply h by W, of members; the rows of all are those of one product where they share W."""
    xp = array_namespace(h)
    if W.ndim == 2:
        return xp.reshape(xp.matmul(xp.reshape(h, (-1, h.shape[-1])), W), (*h.shape[:-1], W.shape[-1]))
    return xp.matmul(h, W)


def through_parts(network: Network, p: Parameters, k: int, value: Array, notes: list[list[Any]]) -> Array:
    """What the parts of layer k make of x or z[k], one after the other."""
    for part in network.parts[k] if k < len(network.parts) else ():
        value, note = part.forward(part, part.own(p.own[k]), value)
        notes[k].append(note)
    return value


def back_through_parts(
    network: Network,
    p: Parameters,
    k: int,
    du: Array | None,
    notes: list[list[Any]],
    own: dict[str, Array],
    inputs: bool,
) -> Array | None:
    """What `through_parts` was given, differentiated: du becomes dx or dz[k], and `own` gains what parts have."""
    rows = list(zip(network.parts[k], notes[k], strict=True)) if k < len(network.parts) else []
    for i, (part, note) in reversed(list(enumerate(rows))):
        du, found = part.backward(part, part.own(p.own[k]), note, du, inputs or i > 0)
        own |= part.named(found)
    return du


def said(network: Network, yhat: Array) -> Array:
    """The outputs of the network: of members the mean of theirs, of probabilities where they are such."""
    return array_namespace(yhat).mean(yhat, axis=0) if network.members else yhat


@unwarned
def sample_losses(network: Network, trace: Trace, y: Array) -> Array:
    """The loss of each sample, shape (batch,) or (m, batch)."""
    if network.canonical and network.loss.value_from_scores is not None:
        return network.loss.value_from_scores(y, trace.z[-1])
    return network.loss.value(y, trace.a[-1])


def losses_of_samples(network: Network, trace: Trace, y: Array) -> Array:
    """The same, of members the mean of theirs: L is the mean of these."""
    losses = sample_losses(network, trace, y)
    return array_namespace(losses).mean(losses, axis=0) if network.members else losses


@unwarned
def mean(values: Array, w: Array | None = None) -> Array:
    """sum(w l) / sum(w) over the last axis, and 0 where the weights sum to 0."""
    xp = array_namespace(values)
    if w is None:
        return xp.sum(values, axis=-1) / values.shape[-1]
    return xp.sum(values * shares(w), axis=-1)


def mean_loss(network: Network, trace: Trace, y: Array, w: Array | None = None) -> Array:
    """L, shape () or (m,): of members the mean of their own."""
    loss = mean(sample_losses(network, trace, y), w)
    return array_namespace(loss).mean(loss) if network.members else loss


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
def backward(  # noqa: PLR0912 - the chain rule stands in one place
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
    z, a, h, masks, u, notes = trace
    W = p.W
    xp = array_namespace(a[-1])
    f = network.activations
    K = network.layout.n_layers
    dz: Layers = [None] * (K + 1)
    da: Layers = [None] * (K + 1)
    dW: Layers = [None] * (K + 1)
    db: Layers = [None] * (K + 1)
    own: list[dict[str, Array]] = [{} for _ in network.layout.sizes] if network.parts else []
    share = 1.0 / a[K].shape[-2] if w is None else shares(w)[..., None]
    if network.members:
        share = share / network.members

    da[K], dz[K] = output_derivative(network, z[K], a[K], y, share)
    if show and da[K] is None:
        da[K] = network.loss.derivative(y, a[K]) * share
    for k in range(K, 0, -1):
        if network.members and k < K:
            dW[k] = slope_of_shared(h[k - 1], dz[k])
        else:
            dW[k] = xp.matmul(xp.matrix_transpose(h[k - 1]), dz[k])  # dW[k] = a[k-1].T @ dz[k]
        db[k] = xp.sum(dz[k], axis=-2, keepdims=dz[k].ndim > 2)  # db[k] = sum over rows of dz[k]
        if k > 1 or inputs or (network.parts and network.parts[0]):
            if network.members:
                da[k - 1] = product(dz[k], xp.matrix_transpose(W[k]))
            else:
                da[k - 1] = xp.matmul(dz[k], xp.matrix_transpose(W[k]))  # da[k-1] = dz[k] @ W[k].T
        if k > 1:
            if masks[k - 1] is not None:
                da[k - 1] *= masks[k - 1]
            dz[k - 1] = pullback(f[k - 2], da[k - 1], u[k - 1], a[k - 1], show)
            if network.parts:
                dz[k - 1] = back_through_parts(network, p, k - 1, dz[k - 1], notes, own[k - 1], True)
    if da[0] is not None and a[0].ndim < h[0].ndim:  # all members were given the same
        da[0] = xp.sum(da[0], axis=0)
    if network.parts:
        da[0] = back_through_parts(network, p, 0, da[0], notes, own[0], inputs)
    return Gradients(dz, da, Parameters(dW, db, own))


def slope_of_shared(h: Array, dz: Array) -> Array:
    """Multiply h.T by dz, over the rows of all members."""
    xp = array_namespace(dz)
    return xp.matmul(xp.reshape(h, (-1, h.shape[-1])).T, xp.reshape(dz, (-1, dz.shape[-1])))


def pullback(f: Activation, da: Array, z: Array, a: Array, show: bool = False) -> Array:
    """dz[k] = da[k] * f_k'(z[k]); `da` is donated unless it is to be shown."""
    if f.pullback is not None:
        return f.pullback(da, z, a)
    if show:
        return da * f.derivative(z, a)
    da *= f.derivative(z, a)
    return da
