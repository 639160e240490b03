"""The rows of the tables in C, for the kernels of a CUDA step.

To give a new activation, loss or optimizer a place in a captured step, write its row of ACTIVATIONS, LOSSES or
OPTIMIZERS below. tests/test_cuda_kernels.py holds every row against the function of the same name in the tables.
`T` is float or double.
"""

import re
from typing import Any, NamedTuple

from xpmlp import checks
from xpmlp.network import activations, losses
from xpmlp.network.losses import Loss
from xpmlp.optim import optimizers
from xpmlp.runners.step import Task


class Column(NamedTuple):
    """An activation in C: a from z, and f'(z) from a (and z, where it has to be kept)."""

    function: str
    derivative: str

    @property
    def needs_z(self) -> bool:
        """Whether z must be kept beside a."""
        return re.search(r"\bz\b", self.derivative) is not None


SELU_PRODUCT = activations.SELU_SCALE * activations.SELU_ALPHA
_GELU_TANH = f"tanh(T({activations.GELU_SCALE}) * (z + T({activations.GELU_CUBIC}) * z * z * z))"

# A comparison that a NaN fails lets it through: the divergence guard must see it.
ACTIVATIONS = {
    "identity": Column("z", "T(1)"),
    "sigmoid": Column("sigmoid(z)", "a * (T(1) - a)"),
    "tanh": Column("tanh(z)", "T(1) - a * a"),
    "relu": Column("z < T(0) ? T(0) : z", "a > T(0) ? T(1) : T(0)"),
    "leaky_relu": Column(
        f"z < T(0) ? T({activations.LEAKY_SLOPE}) * z : z", f"a > T(0) ? T(1) : T({activations.LEAKY_SLOPE})"
    ),
    "elu": Column("z > T(0) ? z : expm1(z)", "a < T(0) ? a + T(1) : T(1)"),
    "selu": Column(
        f"z > T(0) ? T({activations.SELU_SCALE}) * z : T({SELU_PRODUCT}) * expm1(z)",
        f"a > T(0) ? T({activations.SELU_SCALE}) : a + T({SELU_PRODUCT})",
    ),
    "softplus": Column("softplus(z)", "-expm1(-a)"),  # sigmoid(z) = 1 - exp(-softplus(z)): z need not be kept
    "silu": Column("z * sigmoid(z)", "sigmoid(z) + a * (T(1) - sigmoid(z))"),
    "gelu": Column(
        f"T(0.5) * z * (T(1) + {_GELU_TANH})",
        f"gelu_slope(z, {_GELU_TANH})",
    ),
    "mish": Column("z * tanh(softplus(z))", "mish_slope(z, tanh(softplus(z)))"),
    "exp": Column("exp(z)", "a"),
}
SOFTMAX = "softmax"  # not elementwise: the output kernel has a form of its own for it


class LossColumn(NamedTuple):
    """The part of one output in a loss, in C, from y and a = yhat; `from_scores` from y and z, of the canonical link.

    With the canonical link dz is a - y.
    """

    value: str
    derivative: str
    from_scores: str = ""


LOSSES = {
    "squared_error": LossColumn("T(0.5) * (a - y) * (a - y)", "a - y", "T(0.5) * (a - y) * (a - y)"),
    "sum_of_squares": LossColumn("(a - y) * (a - y)", "T(2) * (a - y)"),
    "absolute_error": LossColumn("fabs(a - y)", "sign(a - y)"),
    "huber": LossColumn("huber(fabs(a - y))", "sign(a - y) * smaller(fabs(a - y), T({delta}))"),
    "pinball": LossColumn("pinball(y - a, quantile(j))", "(a > y ? T(1) : T(0)) - quantile(j)"),
    "poisson": LossColumn(
        "minus_y_log(y, a) - minus_y_log(y, y) - y + a",
        "T(1) - y_over(y, a)",
        "poisson(y, z)",
    ),
    "binary_cross_entropy": LossColumn(
        "minus_y_log(y, a) + minus_y_log(T(1) - y, T(1) - a)",
        "y_over(T(1) - y, T(1) - a) - y_over(y, a)",
        "log1p(exp(-fabs(z))) + ((z > T(0) ? z : T(0)) - y * z)",
    ),
    "cross_entropy": LossColumn("", ""),  # follows softmax alone: `softmax_cross_entropy`
}

# The `step` to subtract, from g, the slots s0 and s1 (which change) and the row's rates.
_ADAM = "s0 = T({beta_1}) * s0 + g; s1 = T({beta_2}) * s1 + g * g; step = s0 / (sqrt(s1) + rate[2]) * rate[1];"
OPTIMIZERS = {
    "sgd": "step = rate[0] * g;",
    "momentum": "s0 = T({momentum}) * s0 + rate[0] * g; step = s0;",
    "nesterov": "step = rate[0] * g; s0 = T({momentum}) * s0 + step; step = step + T({momentum}) * s0;",
    "adam": _ADAM,
    "adamw": _ADAM,
    "rmsprop": "s0 = T({rho}) * s0 + T(1 - {rho}) * (g * g); step = g / (sqrt(s0) + T({epsilon})) * rate[0];",
    "lion": (
        "step = sign(T({beta_1}) * s0 + T(1 - {beta_1}) * g) * rate[0]; s0 = T({beta_2}) * s0 + T(1 - {beta_2}) * g;"
    ),
}

_FUNCTIONS = """
static __device__ T sigmoid(T z) { return T(0.5) * tanh(T(0.5) * z) + T(0.5); }
static __device__ T softplus(T z) { return (z > T(0) ? z : T(0)) + log1p(exp(-fabs(z))); }
static __device__ T gelu_slope(T z, T t) {
  return T(0.5) * (T(1) + t) + T(0.5) * z * (T(1) - t * t) * T(@SCALE) * (T(1) + T(3 * @CUBIC) * z * z);
}
static __device__ T mish_slope(T z, T t) { return t + z * (T(1) - t * t) * sigmoid(z); }
static __device__ T sign(T r) { return r > T(0) ? T(1) : r < T(0) ? T(-1) : r; }
static __device__ T smaller(T r, T s) { return r > s ? s : r; }
static __device__ T huber(T r) { T c = smaller(r, T(@DELTA)); return c * (r - T(0.5) * c); }
static __device__ T quantile(unsigned j) { const T q[] = {@QUANTILES}; return q[@N_QUANTILES == 1 ? 0 : j]; }
static __device__ T pinball(T r, T q) { return r > T(0) ? q * r : (q - T(1)) * r; }
static __device__ T minus_y_log(T y, T p) { return y > T(0) ? -y * log(p) : T(0) * y; }
static __device__ T beyond_linear(T t) {  // exp(t) - 1 - t, as losses.poisson_from_scores has it
  T series = T(1) + t / T(15);
  for (int n = 14; n > 2; n--) series = T(1) + series * t / T(n);
  return T(0.5) * t * t * series;
}
static __device__ T poisson(T y, T z) {
  if (!(y > T(0))) return exp(z) + T(0) * y;
  T t = z - log(y);
  return fabs(t) < T(0.5) ? y * beyond_linear(t) : exp(z) - y * (T(1) + t);
}
static __device__ T y_over(T y, T p) { return y > T(0) ? y / p : T(0) * y; }
static __device__ T dot(const T* a, size_t step_a, const T* b, size_t step_b, unsigned n) {
  const unsigned ROUND = 32;  // terms that are on their way at a time
  T sums[4] = {T(0), T(0), T(0), T(0)}, x[ROUND], y[ROUND];
  for (unsigned k = 0; k < n; k += ROUND, a += ROUND * step_a, b += ROUND * step_b) {
    if (k + ROUND <= n) {
      #pragma unroll
      for (unsigned j = 0; j < ROUND; j++) { x[j] = a[j * step_a]; y[j] = b[j * step_b]; }
    } else {
      #pragma unroll
      for (unsigned j = 0; j < ROUND; j++) {
        x[j] = k + j < n ? a[j * step_a] : T(0);
        y[j] = k + j < n ? b[j * step_b] : T(0);
      }
    }
    #pragma unroll
    for (unsigned j = 0; j < ROUND; j++) sums[j % 4] += x[j] * y[j];
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}
static __device__ T inverse(T total) { return total > T(0) ? T(1) / total : T(0); }
static __device__ unsigned mix(unsigned x) {
  x ^= x >> 16; x *= 0x7feb352du; x ^= x >> 15; x *= 0x846ca68bu; return x ^ (x >> 16);
}
static __device__ T mask(int seed, unsigned step, unsigned layer, unsigned element, unsigned threshold, T scale) {
  unsigned key = mix(mix(mix((unsigned)seed) + (step & 0x7fffffffu)) + layer);
  return (mix(mix(element) + key) & 0x7fffffffu) >= threshold ? scale : T(0);
}
""".replace("@SCALE", str(activations.GELU_SCALE)).replace("@CUBIC", str(activations.GELU_CUBIC))


def obstacle(task: Task) -> str:
    """Why no CUDA kernels can be made for a task; "" where they can."""
    network = task.network
    if network.parts or network.members:
        return "parts and members have no column of C in runners/cuda_columns.py"
    if task.optimizer.average:
        return "the average of the weights has no column of C in runners/cuda_columns.py"
    rows: list[tuple[str, Any, Any, Any]] = [
        *(("activation", row, activations.ACTIVATIONS, {*ACTIVATIONS, SOFTMAX}) for row in network.activations),
        ("loss", network.loss, losses.LOSSES, LOSSES),
        ("optimizer", task.optimizer, optimizers.OPTIMIZERS, OPTIMIZERS),
    ]
    for kind, row, table, columns in rows:
        if row.name not in columns or not checks.genuine(row, table):
            return f"the {kind} {row.name!r} has no column of C in runners/cuda_columns.py"
    if network.loss.name == "cross_entropy" and not network.canonical:
        return "cross_entropy follows softmax only"
    return ""


def functions(loss: Loss) -> str:
    """What the columns call, with the parameters of a loss filled in."""
    quantiles = loss.parameters.get("quantile", (0.5,))
    return (
        _FUNCTIONS.replace("@DELTA", str(loss.parameters.get("delta", 1.0)))
        .replace("@QUANTILES", ", ".join(f"T({q})" for q in quantiles))
        .replace("@N_QUANTILES", str(len(quantiles)))
    )
