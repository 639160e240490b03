"""explain_step: one batch, forward and back, with the equation that made each array and the numbers in it.

The arrays are those that `network.forward` and `network.backward` made; nothing is computed a second time here but the
sums along the path of one weight, term by term.
"""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.inspection.models import batch_of, open_up
from xpmlp.network import Network, backward, forward, mean, sample_losses

MOST_ROWS, MOST_COLUMNS = 6, 7  # of an array that is shown number by number


@dataclass(frozen=True)
class Equation:
    """An array, and what it was made of."""

    name: str  # "dW[2]"
    formula: str  # "a[1].T @ dz[2]"
    latex: str
    value: HostArray
    factors: tuple[tuple[str, tuple[int, ...]], ...]  # what was put together, each with its shape

    @property
    def shapes(self) -> str:
        """As in "(4, 8) @ (8, 3) -> (4, 3)", with the sign that stands in the formula."""
        sign = " @ " if "@" in self.formula else " * "
        made_of = sign.join(_shape(shape) for _, shape in self.factors)
        return f"{made_of} -> {_shape(self.value.shape)}" if made_of else _shape(self.value.shape)


@dataclass(frozen=True)
class Path:
    """The chain rule from L back to one weight or bias, for the sample that weighs most in it."""

    label: str  # "W[2][0, 1]"
    derivative: float  # dL/dw
    sample: int
    shares: HostArray  # what each sample adds to the derivative, shape (batch,)
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class StepExplanation:
    """What `explain_step` returns: print it, show it in a notebook, take its `latex` or its `arrays`."""

    equations: tuple[Equation, ...]
    n_forward: int  # how many of them are the forward pass
    loss: float
    learning_rate: float
    predicted: float  # dL = sum (dL/dw) dw
    happened: float  # L after the step - L before it
    path: Path | None

    @property
    def arrays(self) -> dict[str, HostArray]:
        """Every array by its name, on the host: `arrays["dW[2]"]`."""
        return {equation.name: equation.value for equation in self.equations}

    def __repr__(self) -> str:
        lines = ["Forward: from x to L", ""]
        for i, equation in enumerate(self.equations):
            if i == self.n_forward:
                lines += [f"L = {self.loss:.6g}", "", "Backward: from L to every weight; dz means dL/dz", ""]
            lines += [f"{equation.name} = {equation.formula}", f"    {equation.shapes}"]
            lines += [f"    {line}" for line in _numbers(equation.value)]
        lines += ["", *self._step()]
        if self.path is not None:
            lines += ["", *self.path.lines]
        return "\n".join(lines)

    def _step(self) -> list[str]:
        lines = [
            f"A step of gradient descent, dw = -{self.learning_rate:g} dL/dw for every w:",
            f"    predicted  dL = sum (dL/dw) dw = {self.predicted:+.6e}",
            f"    happened   L after - L before  = {self.happened:+.6e}",
        ]
        if self.predicted and math.isfinite(self.happened):
            lines.append(
                f"    happened / predicted           = {self.happened / self.predicted:.4f}, 1 for a small step"
            )
        return lines

    def _repr_html_(self) -> str:
        # Colours come from the page, so that it can be light or dark.
        line = "border-top:1px solid rgba(128,128,128,.4);padding:.3em .8em;text-align:left;vertical-align:top"
        rows = []
        for i, equation in enumerate(self.equations):
            if i in (0, self.n_forward):
                title = "Forward: from x to L" if i == 0 else f"Backward: from L = {self.loss:.6g} to every weight"
                rows.append(f'<tr><th colspan="3" style="{line}">{title}</th></tr>')
            wrap = "pre-wrap" if "," in _numbers(equation.value)[0] else "pre"  # statistics may wrap, rows may not
            numbers = html.escape("\n".join(_numbers(equation.value)))
            made = html.escape(f"{equation.name} = {equation.formula}")
            rows.append(
                f'<tr><td style="{line};min-width:22em"><code>{made}</code></td>'
                f'<td style="{line};white-space:nowrap"><code>{html.escape(equation.shapes)}</code></td>'
                f'<td style="{line}"><pre style="margin:0;background:none;color:inherit;white-space:{wrap}">'
                f"{numbers}</pre></td></tr>"
            )
        text = self._step() + ([] if self.path is None else ["", *self.path.lines])
        return (
            '<div style="overflow-x:auto;color:inherit"><table style="border-collapse:collapse;color:inherit">'
            f"{''.join(rows)}</table>"
            f'<pre style="background:none;color:inherit">{html.escape(chr(10).join(text))}</pre></div>'
        )

    @property
    def latex(self) -> str:
        """The equations with their shapes, as an `aligned` block for a display."""
        rows = []
        for equation in self.equations:
            shape = r" \times ".join(map(str, equation.value.shape))
            rows.append(rf"{equation.latex} && {shape} \\")
        return "\n".join([r"\begin{aligned}", *rows, r"\end{aligned}"])


def explain_step(
    net: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    learning_rate: float = 0.01,
    weight: Sequence[int] | None = None,
) -> StepExplanation:
    """Show every array of one step: z, a, dz, da, dW, db, the equation that made it, what was multiplied with what.

    Small arrays are shown number by number, large ones by their statistics. The network is left as it was.

    Parameters
    ----------
    net : MLP, or fitted MLPClassifier or MLPRegressor
        One network; of several, make an MLP of one and set `one.parameters = net.parameters[i]`.
    X, y, sample_weight : array
        As for its `fit`: of a classifier, y holds labels. Penalties take no part; class weights do.
    learning_rate : float
        Of the step whose change of L is predicted by dL = sum (dL/dw) dw, and compared with what happens. They agree
        to first order: ten times smaller a rate brings their ratio ten times nearer to 1.
    weight : (k, i, j) or (k, j), optional
        Also follow the chain rule from L back to W[k][i, j], or to b[k][j].

    Examples
    --------
    >>> import numpy as np, xpmlp
    >>> net = xpmlp.MLP([2, 2, 1], "tanh", random_state=0)
    >>> step = xpmlp.explain_step(net, np.eye(2), np.array([0.0, 1.0]), weight=(1, 0, 1))
    >>> step.arrays["dW[1]"].shape
    (2, 2)
    >>> bool(step.path.derivative == step.arrays["dW[1]"][0, 1])
    True
    """
    opened = open_up(net)
    if opened.n_networks is not None:
        raise ValueError(
            f"explain_step shows one network; this MLP has {opened.n_networks}. Make an MLP of one and give it the "
            "parameters of network i: one.parameters = net.parameters[i]."
        )
    rate = checks.number(learning_rate, "learning_rate", above=0.0)
    network, p, place = opened[:3]
    layout = network.layout
    target = None if weight is None else _target(layout.sizes, weight)
    x, y, w = batch_of(net, X, y, sample_weight)
    trace = forward(network, p, x)
    grads = backward(network, p, trace, y, w, show=True, inputs=True)
    loss = mean(sample_losses(network, trace, y), w)

    g = layout.pack(grads.d)
    after = forward(network, layout.unpack(layout.pack(p) - rate * g), x)
    change = mean(sample_losses(network, after, y), w) - loss
    predicted = -rate * place.xp.sum(g * g)

    def host(layers: Sequence[Array]) -> list[HostArray]:
        return [np.zeros(0) if it is None else np.array(place.backend.to_numpy(it)) for it in layers]

    batch = _Batch(
        network,
        w is not None,
        host(trace.z),
        host(trace.a),
        host(p.W),
        host(p.b),
        *map(host, (grads.dz, grads.da, grads.dW, grads.db)),
    )
    equations = [*batch.forward(), *batch.backward()]
    return StepExplanation(
        tuple(equations),
        n_forward=4 * layout.n_layers + 1,
        loss=float(loss),
        learning_rate=rate,
        predicted=float(predicted),
        happened=float(change),
        path=None if target is None else batch.path(*target),
    )


@dataclass(frozen=True)
class _Batch:
    """One pass there and back, on the host."""

    network: Network
    weighted: bool
    z: list[HostArray]
    a: list[HostArray]
    W: list[HostArray]
    b: list[HostArray]
    dz: list[HostArray]
    da: list[HostArray]
    dW: list[HostArray]
    db: list[HostArray]

    @property
    def K(self) -> int:
        return self.network.layout.n_layers

    def name(self, k: int) -> str:
        return self.network.activations[k - 1].name

    def forward(self) -> Iterator[Equation]:
        yield Equation("a[0]", "x", r"a^{[0]} &= x", self.a[0], ())
        for k in range(1, self.K + 1):
            sizes = rf"\in \mathbb{{R}}^{{{self.W[k].shape[0]} \times {self.W[k].shape[1]}}}"
            yield Equation(f"W[{k}]", f"the weights of layer {k}", rf"W^{{[{k}]}} &{sizes}", self.W[k], ())
            sizes = rf"\in \mathbb{{R}}^{{{self.b[k].shape[0]}}}"
            yield Equation(f"b[{k}]", f"the biases of layer {k}", rf"b^{{[{k}]}} &{sizes}", self.b[k], ())
            yield Equation(
                f"z[{k}]",
                f"a[{k - 1}] @ W[{k}] + b[{k}]",
                rf"z^{{[{k}]}} &= a^{{[{k - 1}]}} W^{{[{k}]}} + b^{{[{k}]}}",
                self.z[k],
                ((f"a[{k - 1}]", self.a[k - 1].shape), (f"W[{k}]", self.W[k].shape)),
            )
            yield Equation(
                f"a[{k}]",
                f"{self.name(k)}(z[{k}])" + (", which is yhat" if k == self.K else ""),
                rf"a^{{[{k}]}} &= \operatorname{{{_tex(self.name(k))}}}(z^{{[{k}]}})",
                self.a[k],
                (),
            )

    def backward(self) -> Iterator[Equation]:
        K, loss, batch = self.K, self.network.loss.name, self.a[0].shape[0]
        share = "w / sum(w)" if self.weighted else f"1/{batch}"
        y = "smoothed y" if self.network.loss.parameters.get("label_smoothing") else "y"
        tex_share = r"\frac{w}{\sum w}" if self.weighted else rf"\frac{{1}}{{{batch}}}"
        yield Equation(
            f"da[{K}]",
            f"dL/dyhat: derivative of {loss}, times {share}",
            rf"\mathrm{{d}}a^{{[{K}]}} &= {tex_share}\,\frac{{\partial\,\ell}}{{\partial \hat y}}",
            self.da[K],
            (),
        )
        for k in range(K, 0, -1):
            f, up = self.name(k), f"a[{k - 1}]"
            if k == K and self.short_cut:
                formula = f"(yhat - {y}) times {share}: {f} and {loss} in one"
                latex = rf"\mathrm{{d}}z^{{[{k}]}} &= {tex_share}\,(\hat y - y)"
                factors: tuple[tuple[str, tuple[int, ...]], ...] = ()
            elif self.network.activations[k - 1].pullback is not None and f != "identity":
                formula = f"da[{k}], times the Jacobian of {f}"
                latex = rf"\mathrm{{d}}z^{{[{k}]}} &= J^\top\,\mathrm{{d}}a^{{[{k}]}}"
                factors = ()
            else:
                formula = f"da[{k}] * {f}'(z[{k}])"
                latex = (
                    rf"\mathrm{{d}}z^{{[{k}]}} &= \mathrm{{d}}a^{{[{k}]}} \odot"
                    rf" \operatorname{{{_tex(f)}}}'(z^{{[{k}]}})"
                )
                factors = ((f"da[{k}]", self.da[k].shape), (f"{f}'", self.z[k].shape))
            yield Equation(f"dz[{k}]", formula, latex, self.dz[k], factors)
            yield Equation(
                f"dW[{k}]",
                f"{up}.T @ dz[{k}]",
                rf"\mathrm{{d}}W^{{[{k}]}} &= (a^{{[{k - 1}]}})^\top\,\mathrm{{d}}z^{{[{k}]}}",
                self.dW[k],
                ((f"{up}.T", self.a[k - 1].shape[::-1]), (f"dz[{k}]", self.dz[k].shape)),
            )
            yield Equation(
                f"db[{k}]",
                f"sum over rows of dz[{k}]",
                rf"\mathrm{{d}}b^{{[{k}]}} &= \textstyle\sum_{{\text{{rows}}}} \mathrm{{d}}z^{{[{k}]}}",
                self.db[k],
                ((f"dz[{k}]", self.dz[k].shape),),
            )
            yield Equation(
                f"d{up}",
                f"dz[{k}] @ W[{k}].T",
                rf"\mathrm{{d}}a^{{[{k - 1}]}} &= \mathrm{{d}}z^{{[{k}]}}\,(W^{{[{k}]}})^\top",
                self.da[k - 1],
                ((f"dz[{k}]", self.dz[k].shape), (f"W[{k}].T", self.W[k].shape[::-1])),
            )

    @property
    def short_cut(self) -> bool:
        return self.network.canonical and self.network.loss.derivative_from_scores is not None

    def path(self, k: int, i: int | None, j: int) -> Path:
        """From L back to W[k][i, j], or to b[k][j] where i is None."""
        shares = self.dz[k][:, j] * (1.0 if i is None else self.a[k - 1][:, i])
        s = int(np.argmax(np.abs(shares)))
        label = f"b[{k}][{j}]" if i is None else f"W[{k}][{i}, {j}]"
        derivative = float(self.db[k][j] if i is None else self.dW[k][i, j])
        lines = [
            f"The chain rule from L back to {label}, in sample {s}, which weighs most",
            f"    dz[{self.K}][{s}] = {_vector(self.dz[self.K][s])}",
        ]
        for l in range(self.K - 1, k, -1):
            lines += [
                f"    da[{l}][{s}] = dz[{l + 1}][{s}] @ W[{l + 1}].T = {_vector(self.da[l][s])}",
                f"    dz[{l}][{s}] = da[{l}][{s}] * {self.name(l)}'(z[{l}][{s}]) = {_vector(self.dz[l][s])}",
            ]
        if k < self.K:
            pairs = list(zip(self.dz[k + 1][s], self.W[k + 1][j], strict=True))
            terms = " + ".join(f"{dz:.3g} * {w:.3g}" for dz, w in pairs[:3]) + (" + ..." if len(pairs) > 3 else "")
            lines += [
                f"    da[{k}][{s}, {j}] = sum over l of dz[{k + 1}][{s}, l] * W[{k + 1}][{j}, l]",
                f"        = {terms} = {self.da[k][s, j]:.6g}",
                f"    dz[{k}][{s}, {j}] = da[{k}][{s}, {j}] * {self.name(k)}'({self.z[k][s, j]:.4g})"
                f" = {self.dz[k][s, j]:.6g}",
            ]
        if i is not None:
            lines.append(
                f"    this sample adds a[{k - 1}][{s}, {i}] * dz[{k}][{s}, {j}]"
                f" = {self.a[k - 1][s, i]:.4g} * {self.dz[k][s, j]:.4g} = {shares[s]:.6g}"
            )
        else:
            lines.append(f"    this sample adds dz[{k}][{s}, {j}] = {shares[s]:.6g}")
        lines.append(f"    all {len(shares)} samples: d{label} = {derivative:.6g}")
        return Path(label, derivative, s, shares, tuple(lines))


def _target(sizes: tuple[int, ...], weight: Sequence[int]) -> tuple[int, int | None, int]:
    indices = [checks.integer(index, "an index of weight", least=0) for index in weight]
    if len(indices) not in (2, 3):
        raise ValueError(f"weight must be (k, i, j) for W[k][i, j] or (k, j) for b[k][j]; got {tuple(weight)}.")
    k = indices[0]
    if not 1 <= k < len(sizes):
        raise ValueError(f"weight must name a layer k of 1 to {len(sizes) - 1}; got {k}.")
    for index, size in zip(indices[1:], sizes[k - 1 : k + 1] if len(indices) == 3 else sizes[k : k + 1], strict=True):
        if index >= size:
            raise ValueError(f"weight must lie in layer {k}, W ({sizes[k - 1]}, {sizes[k]}); got {tuple(weight)}.")
    return k, indices[1] if len(indices) == 3 else None, indices[-1]


def _numbers(value: HostArray) -> list[str]:
    rows = value if value.ndim == 2 else value[None, :]
    if rows.shape[0] <= MOST_ROWS and rows.shape[1] <= MOST_COLUMNS:
        return [" ".join(f"{number + 0.0:>10.4g}" for number in row) for row in rows]
    zeros = float(np.mean(value == 0))
    return [
        f"min {value.min() + 0.0:.4g}, mean {value.mean():.4g}, max {value.max() + 0.0:.4g}, std {value.std():.4g}"
        + (f", {zeros:.0%} are 0" if zeros >= 0.005 else "")
    ]


def _vector(row: HostArray) -> str:
    return "[" + " ".join(f"{number:.4g}" for number in row[:3]) + (" ...]" if len(row) > 3 else "]")


def _shape(shape: tuple[int, ...]) -> str:
    return str(tuple(int(n) for n in shape))


def _tex(name: str) -> str:
    return name.replace("_", r"\_")
