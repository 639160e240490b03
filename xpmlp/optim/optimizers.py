"""Optimizers on the flat vector: from the gradient, the step to subtract.

To add one, write its two functions and one row of OPTIMIZERS. The tests and the docs read the table.

`rates(t, lr, ...)` runs on the host and returns the scalars of update number t (1, 2, ...): Python floats, so that no
precision is lost and nothing recompiles. `step(g, slots, rates, ...)` is elementwise: it returns the step and the new
slots, and may write into the slots, which are donated. It works on the whole vector or on any slice of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import array_namespace, device_of

Rates = tuple[Any, ...]
Slots = tuple[Array, ...]
AVERAGE = "average"  # the slot of the averaged parameters, the last


class OptimizerState(NamedTuple):
    """What an optimizer remembers: the number of updates done, and arrays of the shape of the parameters."""

    t: int
    slots: Slots


@dataclass(frozen=True)
class Optimizer:
    """A row of OPTIMIZERS.

    Parameters
    ----------
    slots : tuple of str
        The names of the arrays it remembers.
    learning_rate : float
        The rate used where none is given.
    weight_decay : float
        Decoupled decay (Loshchilov & Hutter, arXiv:1711.05101): every update also subtracts
        lr * weight_decay * W from the weights, never from the biases.
    average : float
        The updates over which an exponential average of the parameters reaches back; 0 keeps none. It is one more slot,
        the last: average += (p - average) max(1 / average, 1 / t), so that it begins at the first update's parameters.
    """

    name: str
    rates: Callable[..., Rates]  # (t, lr, **parameters)
    step: Callable[..., tuple[Array, Slots]]  # (g, slots, rates, **parameters)
    slots: tuple[str, ...] = ()
    parameters: dict[str, float] = field(default_factory=dict)
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    average: float = 0.0

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A pickle names the public lookup, and no function of this file.
        return checks.by_name(self, OPTIMIZERS, optimizer) or super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name, value in self.parameters.items()]
        shown += [f"weight_decay={self.weight_decay!r}"] if self.weight_decay else []
        shown += [f"average={self.average!r}"] if self.average else []
        return f"<optimizer {self.name}({', '.join(shown)})>"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The arrays it remembers, with the average where it keeps one."""
        return (*self.slots, AVERAGE) if self.average else self.slots

    def scalars(self, t: int, lr: float) -> Rates:
        """The scalars of update t: those of `rates`, and the share that the average moves by where there is one."""
        rates = self.rates(t, lr, **self.parameters)
        return (*rates, max(1.0 / self.average, 1.0 / t)) if self.average else rates

    def init(self, p: Array) -> OptimizerState:
        """The state before the first update of `p`."""
        xp = array_namespace(p)
        # Not zeros_like, by which NumPy writes what `zeros` has from the system for nothing.
        return OptimizerState(0, tuple(xp.zeros(p.shape, dtype=p.dtype, device=device_of(p)) for _ in self.slot_names))

    def update(
        self, p: Array, g: Array, state: OptimizerState, lr: float, *, factors: Array = None, decay: Array = None
    ) -> tuple[Array, OptimizerState]:
        """One update: `p` and `state` are donated, go on with what comes back.

        Parameters
        ----------
        p, g : array of shape (P,) or (m, P)
            Parameters and gradient.
        lr : float
            The learning rate of this update.
        factors : array of shape (P,) or None
            The rate of each element is lr times its factor; 0 freezes it.
        decay : array of shape (P,) or None
            1 where weight_decay applies (`decays`), 0 elsewhere.
        """
        t = state.t + 1
        p, slots = self.apply(p, g, state.slots, self.scalars(t, lr), factors, decay)
        return p, OptimizerState(t, slots)

    def apply(
        self, p: Array, g: Array, slots: Slots, rates: Rates, factors: Array = None, decay: Array = None
    ) -> tuple[Array, Slots]:
        """The elementwise part of `update`, for a runner that counts the steps itself."""
        if self.average:
            *own, share = rates
            p, made = replace(self, average=0.0).apply(p, g, slots[:-1], tuple(own), factors, decay)
            return p, (*made, slots[-1] + (p - slots[-1]) * share)
        step, slots = self.step(g, slots, rates, **self.parameters)
        if decay is not None:
            step = step + (rates[0] * self.weight_decay) * (decay * p)
        if factors is not None:
            step = step * factors
        p -= step
        return p, slots


def plain_rates(t: int, lr: float, **_: float) -> Rates:
    return (lr,)


def sgd_step(g: Array, slots: Slots, rates: Rates) -> tuple[Array, Slots]:
    return rates[0] * g, slots


def momentum_step(g: Array, slots: Slots, rates: Rates, *, momentum: float) -> tuple[Array, Slots]:
    # The velocity carries the rate, as in scikit-learn and Sutskever et al. (ICML 2013); here it points uphill.
    (velocity,) = slots
    velocity *= momentum
    velocity += rates[0] * g
    return velocity, (velocity,)


def nesterov_step(g: Array, slots: Slots, rates: Rates, *, momentum: float) -> tuple[Array, Slots]:
    # Sutskever et al., equations 3 and 4, with the parameters kept at the point looked ahead to
    (velocity,) = slots
    step = rates[0] * g
    velocity *= momentum
    velocity += step
    step += momentum * velocity
    return step, (velocity,)


def adam_rates(t: int, lr: float, *, beta_1: float, beta_2: float, epsilon: float) -> Rates:
    # The efficient form, end of section 2 of arXiv:1412.6980: lr_t = lr sqrt(1 - b2^t) / (1 - b1^t), and the step
    # lr_t m / (sqrt(v) + eps). The slots hold m / (1 - b1) and v / (1 - b2), which saves two passes over them.
    lr_t = lr * (1.0 - beta_2**t) ** 0.5 / (1.0 - beta_1**t)
    root = (1.0 - beta_2) ** 0.5
    return (lr, lr_t * (1.0 - beta_1) / root, epsilon / root)


def adam_step(g: Array, slots: Slots, rates: Rates, *, beta_1: float, beta_2: float, **_: float) -> tuple[Array, Slots]:
    m, v = slots
    _lr, lr_t, epsilon = rates
    m *= beta_1
    m += g
    v *= beta_2
    v += g * g
    step = array_namespace(v).sqrt(v)
    step += epsilon
    step = m / step
    step *= lr_t
    return step, (m, v)


def rmsprop_step(g: Array, slots: Slots, rates: Rates, *, rho: float, epsilon: float) -> tuple[Array, Slots]:
    # Tieleman & Hinton, Coursera lecture 6.5 (2012); epsilon outside the root, as in PyTorch
    (v,) = slots
    v *= rho
    v += (1.0 - rho) * (g * g)
    step = array_namespace(v).sqrt(v)
    step += epsilon
    step = g / step
    step *= rates[0]
    return step, (v,)


def lion_step(g: Array, slots: Slots, rates: Rates, *, beta_1: float, beta_2: float) -> tuple[Array, Slots]:
    # Chen et al., arXiv:2302.06675, algorithm 2
    (m,) = slots
    step = array_namespace(m).sign(beta_1 * m + (1.0 - beta_1) * g)
    step *= rates[0]
    m *= beta_2
    m += (1.0 - beta_2) * g
    return step, (m,)


_ADAM = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}

OPTIMIZERS: dict[str, Optimizer] = {
    row.name: row
    for row in (
        Optimizer("sgd", plain_rates, sgd_step, learning_rate=0.1),
        Optimizer("momentum", plain_rates, momentum_step, ("velocity",), {"momentum": 0.9}, learning_rate=0.01),
        Optimizer("nesterov", plain_rates, nesterov_step, ("velocity",), {"momentum": 0.9}, learning_rate=0.01),
        Optimizer("adam", adam_rates, adam_step, ("m", "v"), _ADAM),
        Optimizer("adamw", adam_rates, adam_step, ("m", "v"), _ADAM, weight_decay=1e-2),
        Optimizer("rmsprop", plain_rates, rmsprop_step, ("v",), {"rho": 0.99, "epsilon": 1e-8}),
        Optimizer("lion", plain_rates, lion_step, ("m",), {"beta_1": 0.9, "beta_2": 0.99}, learning_rate=1e-4),
    )
}


def optimizer(value: object, *, weight_decay: float | None = None, **parameters: float) -> Optimizer:
    """The row for a name or a row, its parameters set to those given.

    Raises
    ------
    ValueError
        For an unknown name or parameter, or a value outside its bounds.

    Examples
    --------
    >>> from xpmlp.optim.optimizers import optimizer
    >>> optimizer("adam", beta_1=0.8)
    <optimizer adam(beta_1=0.8, beta_2=0.999, epsilon=1e-08)>
    """
    row = checks.choose(OPTIMIZERS, value, "optimizer")
    checks.known_parameters(row, parameters, "optimizer")
    for name, number in parameters.items():
        parameters[name] = checks.number(number, name, least=0.0, below=None if name == "epsilon" else 1.0)
    if weight_decay is not None:
        row = replace(row, weight_decay=checks.number(weight_decay, "weight_decay", least=0.0))
    return replace(row, parameters=row.parameters | parameters) if parameters else row


def clip(g: Array, max_norm: float) -> Array:
    """`g`, scaled so that the norm of the whole gradient is at most `max_norm`; per network for shape (m, P).

    Pascanu et al., arXiv:1211.5063, section 3.2.
    """
    xp = array_namespace(g)
    norm = xp.sqrt(xp.sum(g * g, axis=-1, keepdims=True))
    limit = xp.full((), max_norm, dtype=g.dtype, device=device_of(g))
    return g * (limit / xp.maximum(norm, limit))
