"""The tutorial's verbs on one batch, initialize, forward, backward, update, and what they leave to be looked at."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import Place, at_home
from xpmlp.backends.arithmetic import unwarned
from xpmlp.mlp.content import Content, first_parameters, seeds_of
from xpmlp.mlp.validation import Door, is_output
from xpmlp.network import Gradients, Layout, Network, Trace, backward, forward
from xpmlp.network.initializers import Initializer
from xpmlp.training.seeds import ORDERS, generator


class Passes:
    """A network that can be sent there and back, batch by batch; what it consists of is a `Content`."""

    network: Network
    initializer: Initializer | None
    n_networks: int | None
    place: Place
    dtype: str
    random_state: np.random.SeedSequence
    history: dict[str, list[Any]]
    _p: Array
    _orders: list[np.random.Generator]
    _trace: Trace | None
    _gradients: Gradients | None
    # The rate, and its factors by layer, of the plain gradient descent that moved the weights last; None of any other.
    _descent: tuple[float, tuple[float, ...] | None] | None = None

    # --- The tutorial's verbs ---

    @at_home("drawing weights", "Make the network smaller.")
    def initialize(self) -> Self:
        """Draw the weights anew from the seed, set the biases to zero, forget what was learned."""
        p = first_parameters(self.network, self.initializer, self.seeds, self.dtype)
        self._p = self.place.asarray(p[0] if self.n_networks is None else p)
        self._orders = [generator(seed, ORDERS) for seed in self.seeds]
        self._trace = None
        self._gradients = None
        self._descent = None
        self.history = {}
        return self

    @at_home("forward")
    def forward(self, X: Array) -> Array:
        """The outputs yhat for the inputs `X`, shape (batch, n_K) or (m, batch, n_K); keeps every z and a.

        Raises
        ------
        ValueError, TypeError
            If `X` does not fit: shape, dtype, place, NaN or infinity.
        """
        X = self._door.inputs(X)
        self._trace, self._gradients = forward(self.network, self.layout.unpack(self._p), X), None
        return self._trace.a[-1]

    @at_home("backward")
    def backward(self, y: Array, sample_weight: Array | None = None) -> None:
        """All derivatives of the loss for the batch last seen by `forward`; read them as dz, da, dW, db."""
        if self._trace is None:
            raise ValueError("backward needs the z and a of a batch; call forward(X) first.")
        yhat = self._trace.a[-1]
        if is_output(sample_weight, yhat):
            raise ValueError(
                "backward(y) knows yhat from the last forward, and takes the targets alone; its second argument is "
                "sample_weight, one weight per sample. Call backward(y)."
            )
        y, w = self._door.targets(y, int(yhat.shape[-2]), sample_weight)
        self._gradients = backward(self.network, self.layout.unpack(self._p), self._trace, y, w, show=True, inputs=True)

    @at_home("update")
    def update(self, learning_rate: float) -> None:
        """One step of plain gradient descent: W[k] -= learning_rate * dW[k], b[k] -= learning_rate * db[k]."""
        rate = checks.number(learning_rate, "learning_rate", above=0.0)
        self._move(rate)
        self._descent = rate, None

    @unwarned
    def _move(self, rate: float) -> None:
        self._p = self._p - rate * self.layout.pack(self._seen().d)

    # --- What can be looked at ---

    @property
    def layout(self) -> Layout:
        """Where each W and b lies in the flat vector."""
        return self.network.layout

    @property
    def parameters(self) -> Array:
        """The flat vector of all weights and biases, shape (P,) or (m, P); assign to it to set them.

        While `fit` runs, a callback sees the vector that is trained: copy what is to be kept beyond the epoch.
        """
        return self._p

    @parameters.setter
    @at_home("setting parameters")
    def parameters(self, flat: Array) -> None:
        shape = tuple(self._p.shape)
        flat = checks.floating(flat, "parameters", self.place, self.dtype, like="those of this network")
        if tuple(flat.shape) != shape:
            raise ValueError(f"the parameters of this network have shape {shape}; got {tuple(flat.shape)}.")
        self._p = self.place.xp.asarray(flat, dtype=self._p.dtype, copy=True)

    @at_home("setting weights")
    def set_weights(self, W: Sequence[Any], b: Sequence[Any]) -> Self:
        """Set W[1] ... W[K] and b[1] ... b[K] from sequences of K arrays (or nested lists) each."""
        K = self.layout.n_layers
        if len(W) != K or len(b) != K:
            raise ValueError(f"this network has {K} weight matrices and {K} biases; got {len(W)} and {len(b)}.")
        p = self.layout.unpack(self._p)
        for name, given, own in (("W", W, p.W), ("b", b, p.b)):
            for k, value in enumerate(given, start=1):
                part = checks.floating(value, f"{name}[{k}]", self.place, self.dtype)
                if tuple(part.shape) != tuple(own[k].shape):
                    raise ValueError(f"{name}[{k}] must have shape {tuple(own[k].shape)}; got {tuple(part.shape)}.")
                own[k] = self.place.xp.astype(part, self._p.dtype)
        self.parameters = self.layout.pack(p)
        return self

    @property
    def seeds(self) -> list[np.random.SeedSequence]:
        """The seed of each network, fit for `random_state=` of an MLP that is to be that network alone."""
        return seeds_of(self.random_state, self.n_networks)

    W = property(lambda self: _Shown(self.layout.unpack(self._p).W), doc="Weights; W[k] has shape (n_{k-1}, n_k).")
    b = property(lambda self: _Shown(self.layout.unpack(self._p).b), doc="Biases; b[k] has shape (n_k,).")
    z = property(lambda self: self._passed().z, doc="z[k] = a[k-1] @ W[k] + b[k], shape (batch, n_k).")
    a = property(lambda self: self._passed().a, doc="a[k] = f_k(z[k]), shape (batch, n_k); a[0] is X, a[K] is yhat.")
    dz = property(lambda self: self._seen().dz, doc="dz[k] = da[k] * f_k'(z[k]), shape (batch, n_k).")
    da = property(lambda self: self._seen().da, doc="da[k-1] = dz[k] @ W[k].T; da[K] = dL/dyhat; shape (batch, n_k).")
    dW = property(lambda self: self._seen().dW, doc="dW[k] = a[k-1].T @ dz[k], of the shape of W[k].")
    db = property(lambda self: self._seen().db, doc="db[k] = sum over rows of dz[k], of the shape of b[k].")

    # --- Behind it ---

    @property
    def _content(self) -> Content:
        place = self.place, self.dtype, self.random_state
        return Content(self.network, self.initializer, self.n_networks, *place, self._p, self._orders, self.history)

    @_content.setter
    def _content(self, content: Content) -> None:
        self.network, self.initializer, self.n_networks = content[:3]
        self.place, self.dtype, self.random_state = content[3:6]
        self._p, self._orders, self.history = content[6:]
        self._trace = self._gradients = None

    @property
    def _door(self) -> Door:
        return self._content.door

    def _passed(self) -> Trace:
        if self._trace is None:
            raise ValueError("there is no z and no a yet; call forward(X) first.")
        return self._trace

    def _seen(self) -> Gradients:
        if self._gradients is None:
            raise ValueError("there are no derivatives yet; call forward(X), then backward(y).")
        return self._gradients


class _Shown(tuple[Array, ...]):
    """Weights by layer, to look at: what is put in here would go nowhere, so it is refused."""

    def __setitem__(self, layer: int, value: Array) -> None:
        raise TypeError("W and b show the parameters; to change them call set_weights(W, b) or assign to parameters.")
