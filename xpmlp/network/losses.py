"""Losses: the loss of each sample, its derivative dL/dyhat, and the stable forms on the scores of its canonical link.

To add one, write its functions and one row of LOSSES. The tests and the docs read the table.

`value(y, yhat)` returns one number per sample, shape (..., batch); `derivative(y, yhat)` has the shape of yhat. Neither
knows of the mean over the batch or of weights: the network multiplies by w / sum(w).

Where the output activation is the loss's `link`, a = link(z), value and derivative are taken from the scores z:
nothing saturates, nothing is clipped. For every canonical pair here dz[K] is yhat - y.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import array_namespace, device_of
from xpmlp.network.activations import ACTIVATIONS, Activation

# Which outputs a loss can follow: each kind of output is also one of the kinds to its left.
KINDS_OF_OUTPUT = ("real", "positive", "probability", "distribution")


@dataclass(frozen=True)
class Loss:
    """A row of LOSSES."""

    name: str
    value: Callable[[Array, Array], Array]
    derivative: Callable[[Array, Array], Array]
    link: str | None = None  # the activation whose scores the two functions below take
    value_from_scores: Callable[[Array, Array], Array] | None = None  # (y, z)
    derivative_from_scores: Callable[[Array, Array, Array], Array] | None = None  # (y, z, yhat)
    outputs: str = "real"  # what yhat must be
    targets: str = "real"  # what y must be: "real", "nonnegative", "probability" or "distribution"
    kinked: bool = False  # the derivative jumps where y = yhat
    parameters: dict[str, Any] = field(default_factory=dict)
    formula: str = ""  # of one sample's loss, in words, of y and yhat: what `explain_step` shows
    derivative_formula: str = ""  # dL/dyhat of one sample, in words

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A pickle names the public lookup, and no function of this file.
        return checks.by_name(self, LOSSES, loss) or super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return f"<loss {self.name}{f'({shown})' if shown else ''}>"

    @property
    def n_outputs(self) -> int | None:
        """How many outputs there must be, where the loss says so: one for each of several quantiles."""
        n_quantiles = len(self.parameters.get("quantile", ()))
        return n_quantiles if n_quantiles > 1 else None

    @property
    def target_width(self) -> int | None:
        """The columns of y where they are not those of yhat: several quantiles are of one target."""
        return None if self.n_outputs is None else 1

    def canonical(self, output: Activation) -> bool:
        """Whether value and derivative may be taken from the scores of `output`, which then is the link itself.

        Not where the forms on scores are left over from a row of LOSSES whose value or derivative was replaced.
        """
        if output.name != self.link or (self.link in ACTIVATIONS and not checks.genuine(output, ACTIVATIONS)):
            return False
        value, derivative, *forms = self._functions()
        for row in LOSSES.values():
            known_value, known_derivative, *known_forms = row._functions()
            # A derivative from scores serves several rows: the name tells whose it was.
            shared = forms if row.name == self.name else forms[:1]
            left_over = any(form is not None and form in known_forms for form in shared)
            if left_over and (value, derivative) != (known_value, known_derivative):
                return False
        return True

    def _functions(self) -> list[Any]:
        functions = (self.value, self.derivative, self.value_from_scores, self.derivative_from_scores)
        return [function.func if isinstance(function, partial) else function for function in functions]

    def accepts(self, outputs: str) -> bool:
        """Whether yhat of this kind lies in the domain of the loss."""
        return KINDS_OF_OUTPUT.index(outputs) >= KINDS_OF_OUTPUT.index(self.outputs)


def squared_error(y: Array, yhat: Array) -> Array:
    r = yhat - y
    return 0.5 * array_namespace(r).sum(r * r, axis=-1)


def residual(y: Array, yhat: Array) -> Array:
    return yhat - y


def residual_from_scores(y: Array, z: Array, yhat: Array) -> Array:
    return yhat - y


def sum_of_squares(y: Array, yhat: Array) -> Array:
    r = yhat - y
    return array_namespace(r).sum(r * r, axis=-1)


def sum_of_squares_derivative(y: Array, yhat: Array) -> Array:
    return 2.0 * (yhat - y)


def absolute_error(y: Array, yhat: Array) -> Array:
    xp = array_namespace(yhat)
    return xp.sum(xp.abs(yhat - y), axis=-1)


def absolute_error_derivative(y: Array, yhat: Array) -> Array:
    return array_namespace(yhat).sign(yhat - y)


def huber(y: Array, yhat: Array, delta: float) -> Array:
    # r^2 / 2 where |r| <= delta, delta (|r| - delta / 2) beyond: with c = min(|r|, delta) both are c (|r| - c / 2)
    xp = array_namespace(yhat)
    r = xp.abs(yhat - y)
    c = xp.minimum(r, xp.full((), delta, dtype=r.dtype, device=device_of(r)))
    return xp.sum(c * (r - 0.5 * c), axis=-1)


def huber_derivative(y: Array, yhat: Array, delta: float) -> Array:
    xp = array_namespace(yhat)
    r = yhat - y
    return xp.sign(r) * xp.minimum(xp.abs(r), xp.full((), delta, dtype=r.dtype, device=device_of(r)))


def _quantiles_like(quantile: tuple[float, ...], like: Array) -> Array:
    # One number each output, or one for all; made where `like` is, for a step brings nothing over from the host.
    xp, where = array_namespace(like), {"device": device_of(like)}
    q = xp.full((len(quantile),), quantile[0], dtype=like.dtype, **where)
    which = xp.arange(len(quantile), **where)
    for j, value in enumerate(quantile[1:], start=1):
        q = xp.where(which == j, xp.full((), value, dtype=like.dtype, **where), q)
    return q


def pinball(y: Array, yhat: Array, quantile: tuple[float, ...]) -> Array:
    # q (y - yhat) where y lies above, (1 - q) (yhat - y) where below; Koenker & Bassett, Econometrica 46 (1978)
    xp = array_namespace(yhat)
    q = _quantiles_like(quantile, yhat)
    r = y - yhat
    return xp.sum(xp.maximum(q * r, (q - 1.0) * r), axis=-1)


def pinball_derivative(y: Array, yhat: Array, quantile: tuple[float, ...]) -> Array:
    xp = array_namespace(yhat)
    q = _quantiles_like(quantile, yhat)
    return xp.astype(yhat > y, yhat.dtype) - q


def _y_log_y(y: Array) -> Array:
    # 0 log 0 = 0
    xp = array_namespace(y)
    return y * xp.log(xp.where(y > 0, y, xp.ones_like(y)))


def _minus_y_log(y: Array, p: Array) -> Array:
    # -y log p, and 0 where y = 0 whatever p is
    xp = array_namespace(p)
    return -y * xp.log(xp.where(y > 0, p, xp.ones_like(p)))


def _y_over(y: Array, p: Array) -> Array:
    # y / p, and 0 where y = 0 whatever p is: a saturated output may be 0
    xp = array_namespace(p)
    return y / xp.where(y > 0, p, xp.ones_like(p))


def poisson(y: Array, yhat: Array) -> Array:
    # Half the deviance, as scikit-learn: y log(y / yhat) - y + yhat
    xp = array_namespace(yhat)
    return xp.sum(_y_log_y(y) + _minus_y_log(y, yhat) - y + yhat, axis=-1)


def poisson_derivative(y: Array, yhat: Array) -> Array:
    return 1.0 - _y_over(y, yhat)


def poisson_from_scores(y: Array, z: Array) -> Array:
    # yhat = exp(z). Above z = 88 (float32) or 709 (float64) the loss itself is beyond the largest float: inf is right.
    # exp(z) - y z - y + y log y = y (exp(t) - 1 - t) with t = z - log y: near the optimum the terms on the left are
    # large and cancel, those on the right are as small as the loss.
    xp = array_namespace(z)
    some = y > 0
    positive = xp.where(some, y, xp.ones_like(y))
    t = z - xp.log(positive)
    near = xp.abs(t) < 0.5
    t_near = xp.where(near, t, xp.zeros_like(t))
    t_far = xp.where(near, xp.zeros_like(t), t)
    far = xp.exp(z) - positive * (1.0 + t_far)
    values = xp.where(near, positive * _exp_beyond_linear(t_near), far)
    return xp.sum(xp.where(some, values, xp.exp(z)), axis=-1)


def _exp_beyond_linear(t: Array) -> Array:
    # exp(t) - 1 - t for |t| < 0.5, by its series t^2 / 2 (1 + t / 3 (1 + t / 4 (...))); 13 terms for float64.
    series = 1.0 + t / 15.0
    for n in range(14, 2, -1):
        series = 1.0 + series * t / n
    return 0.5 * t * t * series


def binary_cross_entropy(y: Array, yhat: Array) -> Array:
    return array_namespace(yhat).sum(_minus_y_log(y, yhat) + _minus_y_log(1.0 - y, 1.0 - yhat), axis=-1)


def binary_cross_entropy_derivative(y: Array, yhat: Array) -> Array:
    return _y_over(1.0 - y, 1.0 - yhat) - _y_over(y, yhat)


def binary_cross_entropy_from_scores(y: Array, z: Array) -> Array:
    # -y log s(z) - (1 - y) log s(-z) = log(1 + exp(z)) - y z, with max(z, 0) - y z taken first: for y in {0, 1} that is
    # exact, and what is left of a sure, right answer, log(1 + exp(-|z|)), keeps all its digits for either class.
    xp = array_namespace(z)
    linear = xp.maximum(z, xp.zeros((), dtype=z.dtype, device=device_of(z))) - y * z
    return xp.sum(xp.log1p(xp.exp(-xp.abs(z))) + linear, axis=-1)


def _smoothed(y: Array, label_smoothing: float) -> Array:
    # Szegedy et al., arXiv:1512.00567, section 7: a share of the target is spread over all classes.
    return y if label_smoothing == 0.0 else y * (1.0 - label_smoothing) + label_smoothing / y.shape[-1]


def cross_entropy(y: Array, yhat: Array, label_smoothing: float) -> Array:
    return array_namespace(yhat).sum(_minus_y_log(_smoothed(y, label_smoothing), yhat), axis=-1)


def cross_entropy_derivative(y: Array, yhat: Array, label_smoothing: float) -> Array:
    return -_y_over(_smoothed(y, label_smoothing), yhat)


def cross_entropy_from_scores(y: Array, z: Array, label_smoothing: float) -> Array:
    # -sum_i y_i log softmax(z)_i = log sum_j exp(z_j) - sum_i y_i z_i, since the y_i sum to 1; shifted to max z = 0.
    # The largest term of the sum is then 1 and stays out of it: log1p keeps what the others add, however small.
    xp = array_namespace(z)
    z = z - xp.max(z, axis=-1, keepdims=True)
    below = xp.astype(z < 0, z.dtype)
    others = xp.sum(below * xp.exp(z), axis=-1) + (xp.sum(1.0 - below, axis=-1) - 1.0)
    return xp.log1p(others) - xp.sum(_smoothed(y, label_smoothing) * z, axis=-1)


def cross_entropy_derivative_from_scores(y: Array, z: Array, yhat: Array, label_smoothing: float) -> Array:
    return yhat - _smoothed(y, label_smoothing)


LOSSES: dict[str, Loss] = {
    row.name: row
    for row in (
        Loss(
            "squared_error",
            squared_error,
            residual,
            "identity",
            squared_error,
            residual_from_scores,
            formula="sum over j of (yhat_j - y_j)^2 / 2",
            derivative_formula="yhat - y",
        ),
        Loss(
            "sum_of_squares",
            sum_of_squares,
            sum_of_squares_derivative,
            formula="sum over j of (yhat_j - y_j)^2",
            derivative_formula="2 (yhat - y)",
        ),
        Loss(
            "absolute_error",
            absolute_error,
            absolute_error_derivative,
            kinked=True,
            formula="sum over j of |yhat_j - y_j|",
            derivative_formula="sign(yhat - y)",
        ),
        Loss(
            "huber",
            partial(huber, delta=1.0),
            partial(huber_derivative, delta=1.0),
            parameters={"delta": 1.0},
            formula="sum over j of r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2), with r = yhat_j - y_j",
            derivative_formula="r where |r| <= delta, else delta sign(r), with r = yhat - y",
        ),
        Loss(
            "pinball",
            partial(pinball, quantile=(0.5,)),
            partial(pinball_derivative, quantile=(0.5,)),
            kinked=True,
            parameters={"quantile": (0.5,)},
            formula="sum over j of q (y - yhat_j) where y > yhat_j, else (1 - q) (yhat_j - y)",
            derivative_formula="-q where y >= yhat, else 1 - q",
        ),
        Loss(
            "poisson",
            poisson,
            poisson_derivative,
            "exp",
            poisson_from_scores,
            residual_from_scores,
            outputs="positive",
            targets="nonnegative",
            formula="sum over j of y_j log(y_j / yhat_j) - y_j + yhat_j",
            derivative_formula="1 - y / yhat",
        ),
        Loss(
            "binary_cross_entropy",
            binary_cross_entropy,
            binary_cross_entropy_derivative,
            "sigmoid",
            binary_cross_entropy_from_scores,
            residual_from_scores,
            outputs="probability",
            targets="probability",
            formula="sum over j of -y_j log(yhat_j) - (1 - y_j) log(1 - yhat_j)",
            derivative_formula="(1 - y) / (1 - yhat) - y / yhat",
        ),
        Loss(
            "cross_entropy",
            partial(cross_entropy, label_smoothing=0.0),
            partial(cross_entropy_derivative, label_smoothing=0.0),
            "softmax",
            partial(cross_entropy_from_scores, label_smoothing=0.0),
            partial(cross_entropy_derivative_from_scores, label_smoothing=0.0),
            outputs="distribution",
            targets="distribution",
            parameters={"label_smoothing": 0.0},
            formula="-sum over j of y_j log(yhat_j)",
            derivative_formula="-y / yhat",
        ),
    )
}


def loss(value: object, **parameters: Any) -> Loss:
    """The row for a name, a row, or a user's own pair; its parameters set to those given.

    Parameters
    ----------
    value : str, Loss, or pair of functions
        A pair is `value(y, yhat)`, one number per sample, and `derivative(y, yhat)`, dL/dyhat per sample.
    **parameters
        `delta` > 0 of huber; `quantile` of pinball, one or several strictly inside (0, 1); `label_smoothing` of
        cross_entropy, in [0, 1).

    Raises
    ------
    ValueError
        For an unknown name, an unknown parameter, or a value outside its bounds.

    Examples
    --------
    >>> from xpmlp.network.losses import loss
    >>> loss("pinball", quantile=(0.1, 0.9))
    <loss pinball(quantile=(0.1, 0.9))>
    """
    if not isinstance(value, (str, Loss)):
        function, derivative = checks.pair(value, "a loss", "value(y, yhat)", "derivative(y, yhat)")
        row = Loss(f"own {getattr(function, '__name__', 'function')}", function, derivative)
    else:
        row = checks.choose(LOSSES, value, "loss")
    checks.known_parameters(row, parameters, "loss")
    if not parameters:
        return row
    checked = {name: _PARAMETER_CHECKS[name](value) for name, value in parameters.items()}
    if row.parameters | checked == row.parameters:
        return row

    def bound(function: Any) -> Any:
        return None if function is None else partial(function, **checked)

    return replace(
        row,
        value=bound(row.value),
        derivative=bound(row.derivative),
        value_from_scores=bound(row.value_from_scores),
        derivative_from_scores=bound(row.derivative_from_scores),
        parameters=row.parameters | checked,
    )


def _quantiles(value: object) -> tuple[float, ...]:
    values = value if isinstance(value, (tuple, list)) else (value,)
    if not values:
        raise ValueError("quantile must name at least one quantile; got none.")
    return tuple(checks.number(q, "quantile", above=0.0, below=1.0) for q in values)


_PARAMETER_CHECKS: dict[str, Callable[[object], Any]] = {
    "delta": partial(checks.number, name="delta", above=0.0),
    "quantile": _quantiles,
    "label_smoothing": partial(checks.number, name="label_smoothing", least=0.0, below=1.0),
}
