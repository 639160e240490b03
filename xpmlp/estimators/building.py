"""From the parameters of an estimator to the rows of the core: the network, the optimizer, the schedule, the weights.

Here stands what scikit-learn's names mean in xpmlp's words.
"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.estimators.parameters import InvalidParameterError
from xpmlp.estimators.settings import Settings
from xpmlp.estimators.validation import NUMPY, InvalidInputError, caller_place, move
from xpmlp.network import Network, Parameters
from xpmlp.network.activations import Activation, activation
from xpmlp.network.initializers import fill, initializer
from xpmlp.network.losses import Loss
from xpmlp.network.parameters import Layout
from xpmlp.optim.optimizers import OPTIMIZERS, Optimizer
from xpmlp.optim.schedules import Schedule, schedule

# scikit-learn's names of output activations, where they are not xpmlp's
SCIKIT_LEARN_NAMES = {"sigmoid": "logistic"}


class _WithSizes(Protocol):
    @property
    def hidden_layer_sizes(self) -> Any: ...
    @property
    def owner(self) -> str: ...


def hidden_sizes(settings: _WithSizes) -> list[int]:
    """The units of each hidden layer; one number is one layer."""
    sizes = settings.hidden_layer_sizes
    sizes = [sizes] if isinstance(sizes, numbers.Integral) else list(_sequence(sizes, settings))
    for size in sizes:
        if isinstance(size, (bool, np.bool_)) or not isinstance(size, numbers.Integral):
            raise InvalidParameterError(
                f"The 'hidden_layer_sizes' parameter of {settings.owner} must hold whole numbers. "
                f"Got {settings.hidden_layer_sizes!r} instead."
            )
    if any(size <= 0 for size in sizes):
        raise InvalidParameterError(f"hidden_layer_sizes must be > 0, got {[int(size) for size in sizes]}.")
    return [int(size) for size in sizes]


def _sequence(sizes: Any, settings: _WithSizes) -> Any:
    if isinstance(sizes, (dict, set)) or np.ndim(np.asarray(sizes, dtype=object)) > 1:
        raise InvalidParameterError(
            f"The 'hidden_layer_sizes' parameter of {settings.owner} must be one number or a sequence of them. "
            f"Got {sizes!r} instead."
        )
    return sizes


def hidden_activations(settings: Settings, n_hidden: int) -> list[Activation]:
    """F of each hidden layer."""
    given = settings.activation
    is_pair = isinstance(given, tuple) and len(given) == 2 and all(callable(function) for function in given)
    if not isinstance(given, (list, tuple)) or is_pair:
        return [activation(given)] * n_hidden
    _one_each(settings, "activation", given, n_hidden)
    return [activation(value) for value in given]


def dropout_rates(settings: Settings, n_hidden: int) -> tuple[float, ...]:
    """The dropout of each hidden layer; () where nothing is dropped."""
    given = settings.dropout
    if isinstance(given, (list, tuple)):
        _one_each(settings, "dropout", given, n_hidden)
    rates = [float(rate) for rate in given] if isinstance(given, (list, tuple)) else [float(given)] * n_hidden
    return tuple(rates) if any(rates) else ()


def _one_each(settings: Settings, name: str, given: Any, n_hidden: int) -> None:
    if len(given) != n_hidden:
        raise InvalidParameterError(
            f"The {name!r} parameter of {settings.owner} must be one, or a list with one per hidden layer: "
            f"{n_hidden}. Got {len(given)} instead."
        )


def build_network(settings: Settings, sizes: tuple[int, ...], loss: Loss, output: Activation | None = None) -> Network:
    """The network of these sizes; the output activation is the link of the loss unless another is given."""
    n_hidden = len(sizes) - 2
    f = [*hidden_activations(settings, n_hidden), output or activation(loss.link or "identity")]
    if not loss.accepts(f[-1].outputs):
        raise InvalidParameterError(
            f"loss {loss.name!r} needs outputs of kind {loss.outputs!r}; {f[-1].name!r} is not."
        )
    return Network(Layout(sizes), tuple(f), loss, dropout_rates(settings, n_hidden))


def build_optimizer(settings: Settings) -> Optimizer:
    """The row of OPTIMIZERS, with those of the estimator's parameters that scikit-learn gives it."""
    solver = settings.solver
    if isinstance(solver, Optimizer):
        return solver
    if solver == "sgd" and settings.momentum > 0:
        solver = "nesterov" if settings.nesterovs_momentum else "momentum"
    row = OPTIMIZERS[solver]
    names = {"adam": ("beta_1", "beta_2", "epsilon"), "momentum": ("momentum",)}
    takes = names.get({"adamw": "adam", "nesterov": "momentum"}.get(solver, solver), ())
    # Not through `optimizer()`: scikit-learn lets momentum be 1.
    parameters = row.parameters | {name: float(getattr(settings, name)) for name in takes}
    return row if parameters == row.parameters else replace(row, parameters=parameters)


def remembers_the_same(optimizer: Optimizer, known: Optimizer) -> bool:
    """Whether what `known` remembers means the same to `optimizer`: by its functions, whatever its name."""
    return optimizer.slots == known.slots and checks.genuine(optimizer, {known.name: known})


def counts_for_schedules_only(optimizer: Optimizer, t: int) -> bool:
    """Whether update t + 1 is as the first one, if nothing is remembered: of Adam's kind none is."""
    own = optimizer.parameters
    return bool(optimizer.rates(1, 1.0, **own) == optimizer.rates(t + 1, 1.0, **own))


def build_schedule(settings: Settings) -> tuple[Schedule, str]:
    """The schedule, and what a plateau does: "stop", or "divide" the learning rate."""
    given = settings.learning_rate
    if given in ("invscaling", "adaptive") and settings.solver == "adam":
        given = "constant"  # as scikit-learn: these two are for sgd
    if isinstance(given, str) and given == "adaptive":
        return schedule("constant"), "divide"
    if isinstance(given, str) and given == "invscaling":
        return schedule("inverse_scaling", power=settings.power_t), "stop"
    return schedule(given), "stop"


def first_weights(settings: Settings, network: Network, rng: np.random.RandomState, dtype: str) -> HostArray:
    """The flat vector to begin with, on the host, drawn layer by layer.

    By default scikit-learn's law for weights and biases alike: uniform on (-c, c) with c^2 = 6 / (n_in + n_out), or 2
    for logistic units (Glorot & Bengio, AISTATS 2010). With an `initializer` the weights follow it, the biases are 0.
    """
    sizes, f = network.layout.sizes, network.activations
    row = None if settings.initializer is None else initializer(settings.initializer)
    flat: HostArray = np.zeros(network.layout.size, dtype=dtype)
    W, b, _ = network.layout.unpack(flat)
    for k in range(1, len(sizes)):
        if row is not None:
            row.fill(rng, W[k], f[k - 1].init_gain)
            continue
        hidden = f[min(k, len(f) - 1) - 1].name if len(f) > 1 else settings.activation
        bound = math.sqrt((2.0 if hidden in ("sigmoid", "logistic") else 6.0) / (sizes[k - 1] + sizes[k]))
        for array in (W[k], b[k]):
            fill(array, partial(_uniform, rng, bound))
    return flat


def _uniform(rng: np.random.RandomState, bound: float, shape: tuple[int, ...]) -> HostArray:
    return rng.uniform(-bound, bound, shape)


def known_weights(
    coefs: Sequence[Array], intercepts: Sequence[Array], network: Network, place: Place, dtype: str
) -> Parameters:
    """The weights and biases of an estimator on `place`, if they fit the network."""
    sizes = network.layout.sizes
    has = [tuple(np.shape(c)) for c in coefs], [tuple(np.shape(c)) for c in intercepts]
    needs = [(n_in, n_out) for n_in, n_out in pairwise(sizes)], [(n_out,) for n_out in sizes[1:]]
    if has != needs:
        raise InvalidInputError(
            f"the fitted weights have shapes {has[0]}, the network that training is to go on with needs {needs[0]}: "
            "hidden_layer_sizes, X or y have changed since. Put them back, or fit anew with warm_start=False."
        )
    W, b = ([None, *(on_place(c, place, dtype) for c in values)] for values in (coefs, intercepts))
    return Parameters(W, b)


def on_place(values: Any, place: Place, dtype: str) -> Array:
    """A weight, of whatever library somebody assigned it, on `place`."""
    return move(np.asarray(values) if caller_place(values) is NUMPY else values, place, dtype)


def shape_attributes(network: Network) -> dict[str, Any]:
    """What a fitted estimator shows of its network."""
    output = network.activations[-1].name
    return {
        "n_layers_": network.layout.n_layers + 1,
        "n_outputs_": network.layout.sizes[-1],
        "out_activation_": SCIKIT_LEARN_NAMES.get(output, output),
        "_network": network,
    }
