"""Elementwise activations: a = f(z), and the derivative f'(z) that back-propagation needs.

To add one, write its two functions and one row of ACTIVATIONS. The tests and the docs read the table.
A function takes z of shape (..., batch, n) and returns the same shape and dtype; a derivative is handed z and a,
and uses whichever makes it cheaper. Neither changes what it was given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import array_namespace, device_of

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al., arXiv:1706.02515, appendix A.1
LEAKY_SLOPE = 0.01
GELU_CUBIC, GELU_SCALE = 0.044715, 0.7978845608028654  # sqrt(2 / pi); Hendrycks & Gimpel, arXiv:1606.08415, section 2


@dataclass(frozen=True)
class Activation:
    """A row of ACTIVATIONS: a function, its derivative, and what the rest of the package and the tests need of them."""

    name: str
    function: Callable[[Array], Array]
    derivative: Callable[[Array, Array], Array]  # f'(z) from (z, a)
    aliases: tuple[str, ...] = ()
    init_gain: float = 1.0  # what keeps the variance of z from layer to layer, for the orthogonal initializer
    initializer: str = "glorot_uniform"  # the default for a layer with this activation
    kinks: tuple[float, ...] = ()  # where the derivative jumps, so that tests can keep away
    outputs: str = "real"  # "real", "positive", "probability" or "distribution": which losses may follow
    pullback: Callable[[Array, Array, Array], Array] | None = None  # dz from (da, z, a) where it is not da * f'
    formula: str = ""  # f in words, of z: what `explain_step` shows
    derivative_formula: str = ""  # f' in words, of z and a

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A pickle names the public lookup, and no function of this file.
        return checks.by_name(self, ACTIVATIONS, activation) or super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"<activation {self.name}>"


def _zero(z: Array) -> Array:
    # A 0-d array: `maximum(array, scalar)` is what torch.compile cannot trace through array-api-compat.
    return array_namespace(z).zeros((), dtype=z.dtype, device=device_of(z))


def _positive(z: Array) -> Array:
    return array_namespace(z).astype(z > 0, z.dtype)


def identity(z: Array) -> Array:
    return z


def identity_derivative(z: Array, a: Array) -> Array:
    return array_namespace(z).ones_like(z)


def identity_pullback(da: Array, z: Array, a: Array) -> Array:
    return da


def sigmoid(z: Array) -> Array:
    # 1 / (1 + exp(-z)) above 0 and exp(z) / (1 + exp(z)) below: exp never overflows, and a small probability keeps all
    # its digits, so that its logarithm is right down to z = -745 (float64), where it underflows.
    xp = array_namespace(z)
    a = xp.exp(xp.minimum(z, _zero(z)))
    a /= 1.0 + xp.exp(-xp.abs(z))
    return a


def sigmoid_derivative(z: Array, a: Array) -> Array:
    return a * (1.0 - a)


def tanh(z: Array) -> Array:
    return array_namespace(z).tanh(z)


def tanh_derivative(z: Array, a: Array) -> Array:
    # tanh'(z) = 1 - tanh(z)^2
    return 1.0 - a * a


def relu(z: Array) -> Array:
    return array_namespace(z).maximum(z, _zero(z))


def relu_derivative(z: Array, a: Array) -> Array:
    return _positive(a)


def leaky_relu(z: Array) -> Array:
    return array_namespace(z).maximum(z, LEAKY_SLOPE * z)


def leaky_relu_derivative(z: Array, a: Array) -> Array:
    return (1.0 - LEAKY_SLOPE) * _positive(z) + LEAKY_SLOPE


def elu(z: Array) -> Array:
    xp, zero = array_namespace(z), _zero(z)
    return xp.maximum(z, zero) + xp.expm1(xp.minimum(z, zero))


def elu_derivative(z: Array, a: Array) -> Array:
    # exp(z) = a + 1 where z < 0, and 1 elsewhere
    return array_namespace(z).minimum(a, _zero(a)) + 1.0


def selu(z: Array) -> Array:
    xp, zero = array_namespace(z), _zero(z)
    return SELU_SCALE * xp.maximum(z, zero) + (SELU_SCALE * SELU_ALPHA) * xp.expm1(xp.minimum(z, zero))


def selu_derivative(z: Array, a: Array) -> Array:
    # scale * alpha * exp(z) = a + scale * alpha where z < 0
    return array_namespace(z).where(z > 0, SELU_SCALE, a + SELU_SCALE * SELU_ALPHA)


def softplus(z: Array) -> Array:
    # log(1 + exp(z)), written so that exp never overflows
    xp = array_namespace(z)
    return xp.maximum(z, _zero(z)) + xp.log1p(xp.exp(-xp.abs(z)))


def softplus_derivative(z: Array, a: Array) -> Array:
    return sigmoid(z)


def silu(z: Array) -> Array:
    return z * sigmoid(z)


def silu_derivative(z: Array, a: Array) -> Array:
    # s + z s (1 - s) with s = sigmoid(z) and a = z s
    s = sigmoid(z)
    return s + a * (1.0 - s)


def gelu(z: Array) -> Array:
    # The tanh form: erf is not in the Array API.
    return 0.5 * z * (1.0 + array_namespace(z).tanh(GELU_SCALE * (z + GELU_CUBIC * z * z * z)))


def gelu_derivative(z: Array, a: Array) -> Array:
    t = array_namespace(z).tanh(GELU_SCALE * (z + GELU_CUBIC * z * z * z))
    du = GELU_SCALE * (1.0 + 3.0 * GELU_CUBIC * z * z)
    return 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * du


def mish(z: Array) -> Array:
    # Misra, arXiv:1908.08681
    return z * array_namespace(z).tanh(softplus(z))


def mish_derivative(z: Array, a: Array) -> Array:
    t = array_namespace(z).tanh(softplus(z))
    return t + z * (1.0 - t * t) * sigmoid(z)


def exp(z: Array) -> Array:
    return array_namespace(z).exp(z)


def exp_derivative(z: Array, a: Array) -> Array:
    return a


def softmax(z: Array) -> Array:
    # A shift of all scores changes nothing; shifted to a maximum of 0, exp cannot overflow.
    xp = array_namespace(z)
    a = z - xp.max(z, axis=-1, keepdims=True)
    a = xp.exp(a)
    a /= xp.sum(a, axis=-1, keepdims=True)
    return a


def softmax_derivative(z: Array, a: Array) -> Array:
    # Only the diagonal of the Jacobian, da_i/dz_i; back-propagation needs all of it: softmax_pullback.
    return a * (1.0 - a)


def softmax_pullback(da: Array, z: Array, a: Array) -> Array:
    # dz_i = sum_j da_j a_j (delta_ij - a_i) = a_i (da_i - sum_j da_j a_j)
    return a * (da - array_namespace(z).sum(da * a, axis=-1, keepdims=True))


ACTIVATIONS: dict[str, Activation] = {
    row.name: row
    for row in (
        Activation(
            "identity",
            identity,
            identity_derivative,
            pullback=identity_pullback,
            formula="z",
            derivative_formula="1",
        ),
        Activation(
            "sigmoid",
            sigmoid,
            sigmoid_derivative,
            aliases=("logistic",),
            outputs="probability",
            formula="1 / (1 + exp(-z))",
            derivative_formula="a (1 - a)",
        ),
        Activation(
            "tanh",
            tanh,
            tanh_derivative,
            init_gain=5 / 3,
            formula="tanh(z)",
            derivative_formula="1 - a^2",
        ),
        Activation(
            "relu",
            relu,
            relu_derivative,
            init_gain=2**0.5,
            initializer="he_uniform",
            kinks=(0.0,),
            formula="max(z, 0)",
            derivative_formula="1 where z > 0, else 0",
        ),
        Activation(
            "leaky_relu",
            leaky_relu,
            leaky_relu_derivative,
            init_gain=(2 / (1 + LEAKY_SLOPE**2)) ** 0.5,
            initializer="he_uniform",
            kinks=(0.0,),
            formula="max(z, 0.01 z)",
            derivative_formula="1 where z > 0, else 0.01",
        ),
        Activation(
            "elu",
            elu,
            elu_derivative,
            initializer="he_uniform",
            formula="z where z > 0, else exp(z) - 1",
            derivative_formula="1 where z > 0, else exp(z)",
        ),
        Activation(
            "selu",
            selu,
            selu_derivative,
            initializer="lecun_normal",
            kinks=(0.0,),
            formula="1.0507 z where z > 0, else 1.7581 (exp(z) - 1)",
            derivative_formula="1.0507 where z > 0, else 1.7581 exp(z)",
        ),
        Activation(
            "softplus",
            softplus,
            softplus_derivative,
            outputs="positive",
            formula="log(1 + exp(z))",
            derivative_formula="1 / (1 + exp(-z))",
        ),
        Activation(
            "silu",
            silu,
            silu_derivative,
            aliases=("swish",),
            initializer="he_uniform",
            formula="z s, with s = sigmoid(z)",
            derivative_formula="s + a (1 - s), with s = sigmoid(z)",
        ),
        Activation(
            "gelu",
            gelu,
            gelu_derivative,
            initializer="he_uniform",
            formula="z (1 + t) / 2, with t = tanh(0.79788 (z + 0.044715 z^3))",
            derivative_formula="(1 + t) / 2 + z (1 - t^2) (0.79788 + 0.10703 z^2) / 2, with t as above",
        ),
        Activation(
            "mish",
            mish,
            mish_derivative,
            initializer="he_uniform",
            formula="z t, with t = tanh(softplus(z))",
            derivative_formula="t + z (1 - t^2) sigmoid(z), with t as above",
        ),
        Activation(
            "exp",
            exp,
            exp_derivative,
            outputs="positive",
            formula="exp(z)",
            derivative_formula="a",
        ),
        Activation(
            "softmax",
            softmax,
            softmax_derivative,
            outputs="distribution",
            pullback=softmax_pullback,
            formula="exp(z_i) / sum over j of exp(z_j)",
            derivative_formula="da_i/dz_j = a_i ((i = j) - a_j)",
        ),
    )
}


@dataclass(frozen=True)
class DerivativeOfOne:
    """f'(z, a) from a derivative of one argument, which is z; or a, where the function calls it so."""

    function: Callable[[Array], Array]

    def __call__(self, z: Array, a: Array) -> Array:
        """f'(z, a)."""
        names = list(getattr(getattr(self.function, "__code__", None), "co_varnames", ()))
        return self.function(a if names[:1] == ["a"] else z)


def activation(value: object) -> Activation:
    """The row for a name, a row, or a user's own pair (f, f'), with f(z) and f'(z, a), or f'(z), or f'(a)."""
    if isinstance(value, (str, Activation)):
        return checks.choose(ACTIVATIONS, value, "activation")
    if isinstance(value, tuple) and len(value) == 2 and all(map(callable, value)) and not checks.takes(value[1], 2):
        value = (value[0], DerivativeOfOne(value[1])) if checks.takes(value[1], 1) else value
    f, derivative = checks.pair(value, "an activation", "f(z)", "f'(z, a)")
    return Activation(f"own {getattr(f, '__name__', 'function')}", f, derivative)
