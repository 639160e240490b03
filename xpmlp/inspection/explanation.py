"""explain_step: one batch, forward and back, with the equation that made each array and the numbers in it.

The arrays are those that `network.forward` and `network.backward` made, and what these took: y, the weights of the
samples, the slopes; `parts` adds what goes on within parts. `equations` says how each was made, `paths` follows one
weight, `page` shows all of it drawn.
"""

import html
import math
import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, at_home
from xpmlp.inspection import page as pages
from xpmlp.inspection.equations import BACKWARD, FORWARD, STEP, Equation, equations_of
from xpmlp.inspection.models import batch_with_targets, open_up, place_of_model
from xpmlp.inspection.parts import of_each_member, parts_of_step
from xpmlp.inspection.passes import Pass
from xpmlp.inspection.paths import Path, path_to, target_of
from xpmlp.network import backward, forward, mean, mean_loss, said, sample_losses, shares
from xpmlp.network.parts import Part

MOST_ROWS, MOST_COLUMNS = 6, 7  # of an array that is shown number by number
WIDTH = 80  # of the text
# The rates of the page's slider, as shares of the one that was given.
SLIDER = np.logspace(-2, 3, 51)


@dataclass(frozen=True)
class StepExplanation:
    """What `explain_step` returns: print it, show it in a notebook, take its `latex` or its `arrays`, or make a `page`.

    Attributes
    ----------
    equations : tuple of Equation
        In order: `name`, `formula`, `latex`, `value`, `factors` (what was put together, with shapes), `part` (forward,
        backward or step).
    loss, learning_rate : float
        L of the batch, and the rate of the step.
    predicted, happened : float
        The change of L that the total differential predicts, sum (dL/dw) dw, and L after the step - L before it.
    path : Path or None
        The chain rule to one weight: `derivative`, `shares` of the samples, `partials` by name, `lines`.

    Of members, arrays that each has for itself have a leading axis, `arrays["dW_members[1]"]` is what each adds to
    dW[1], and L is the mean of `arrays["L_members"]`.
    """

    equations: tuple[Equation, ...]
    loss: float
    learning_rate: float
    predicted: float
    happened: float
    path: Path | None
    rates: HostArray = field(repr=False)  # of the page's slider
    changes: HostArray = field(repr=False)  # L after a step with each of these rates - L before it
    names: tuple[str, ...] = ()  # of the activations of layers 1 to K
    parts: tuple[tuple[Part, ...], ...] = field(default=(), repr=False)  # of layers 0 to K - 1; () for none
    members: int = 0  # that share the weights; 0 is one network
    member: int | None = None  # that the page begins with

    @property
    def arrays(self) -> dict[str, HostArray]:
        """Every array by its name, on the host: `arrays["dW[2]"]`."""
        return {equation.name: equation.value for equation in self.equations}

    def __repr__(self) -> str:
        lines: list[str] = []
        for part, title in self._titles().items():
            lines += ["", title, ""] if lines else [title, ""]
            for equation in self._of(part):
                made = f"{equation.name} = {equation.formula}"
                lines += textwrap.wrap(made, WIDTH, subsequent_indent="    ", break_long_words=False)
                lines += [f"    {equation.shapes}"] if equation.value.ndim else []
                lines += [f"    {line}" for line in _numbers(equation.value)]
        lines += ["", *self._step()]
        if self.path is not None:
            lines += ["", *self.path.lines]
        return "\n".join(lines)

    def _titles(self) -> dict[str, str]:
        return {
            FORWARD: "Forward: from x to L",
            BACKWARD: f"Backward: from L = {self.loss:.6g} to every weight; dz means dL/dz",
            STEP: f"The step: w - {self.learning_rate:g} dL/dw for every w",
        }

    def _of(self, part: str) -> list[Equation]:
        return [equation for equation in self.equations if equation.part == part]

    def _step(self) -> list[str]:
        lines = [
            f"What it does to L, with dw = -{self.learning_rate:g} dL/dw for every w:",
            f"    predicted  dL = sum (dL/dw) dw = {self.predicted:+.6e}",
            f"    happened   L_new - L           = {self.happened:+.6e}",
        ]
        if self.predicted and math.isfinite(self.happened):
            lines.append(
                f"    happened / predicted           = {self.happened / self.predicted:.4f}, 1 for a small step"
            )
        return lines

    def page(self, file: str | os.PathLike[str]) -> File:
        """Write one HTML file in which the network is drawn and every derivative can be followed; returns its path.

        Nothing is loaded from elsewhere: it can be sent, and opened in any browser. Choose a weight, by mouse, keyboard
        or list: every path from L to it lights up, with the partial derivatives along it, their product, and the sum
        over the paths. A slider changes the rate, with the change of L that is predicted and the one that happens.

        Raises
        ------
        ValueError
            If the network or the batch is too large to be drawn: 24 units in a layer, 1,000 weights, 200 samples.
        """
        if problem := pages.too_large(self._sizes(), len(self.arrays["y"]), self.members):
            raise ValueError(problem)
        target = File(file)
        target.write_text(self._drawn(), encoding="utf-8")
        return target

    def _repr_html_(self) -> str:
        table = self._table()
        if pages.too_large(self._sizes(), len(self.arrays["y"]), self.members):
            return table
        return (
            f"{pages.inline(self._drawn(), 1040)}"
            f'<details style="color:inherit"><summary>All arrays, and how each was made</summary>{table}</details>'
        )

    def _sizes(self) -> tuple[int, ...]:
        arrays = self.arrays
        return tuple(arrays[f"a[{k}]"].shape[-1] for k in range(len(self.names) + 1))

    def _drawn(self) -> str:
        arrays, sizes = self.arrays, self._sizes()
        data = {
            "arrays": arrays,
            "sizes": sizes,
            "names": self.names,
            "parts": [[part.name for part in row] for row in self.parts],
            "scales": [
                None if any(part.mixes for part in row) else [f"{part.name}.scale[{k}]" for part in reversed(row)]
                for k, row in enumerate(self.parts)
            ],
            "members": self.members,
            "member": self._member(),
            "each": [name for name, array in arrays.items() if self.members and _of_members(name, array)],
            "equations": [(it.name, it.formula, it.shapes) for it in self.equations],
            "chosen": self._chosen(),
            "sample": 0 if self.path is None else self.path.sample,  # with a path's numbers, not their sums
            "rates": self.rates,
            "changes": self.changes,
            "at": int(np.argmin(np.abs(self.rates - self.learning_rate))),
            "squared": -self.predicted / self.learning_rate,
        }
        many = f"{self.members} members that share the weights, " if self.members else ""
        about = f"{'-'.join(map(str, sizes))} units, {many}{len(arrays['y'])} samples, L = {self.loss:.6g}."
        return pages.document("step", data, about=about)

    def _chosen(self) -> dict[str, int | None]:
        # The weight that was asked for; else the one of layer 1 with the largest derivative
        if self.path is not None:
            name, *index = re.findall(r"\w+", self.path.label)
            k, *rest = map(int, index)
            rest = rest[-2:] if name == "W" else rest[-1:]  # without the member
            return {"k": k, "i": rest[0] if name == "W" else None, "j": rest[-1]}
        dW = np.abs(self.arrays["dW[1]"])
        dW = dW[self._member()] if dW.ndim == 3 else dW
        i, j = np.unravel_index(int(np.argmax(np.nan_to_num(dW))), dW.shape)
        return {"k": 1, "i": int(i), "j": int(j)}

    def _member(self) -> int:
        if self.path is not None and self.path.member is not None:
            return self.path.member
        return self.member or 0

    def _table(self) -> str:
        # Colours come from the page, so that it can be light or dark.
        line = "border-top:1px solid rgba(128,128,128,.4);padding:.3em .8em;text-align:left;vertical-align:top"
        rows = []
        for part, title in self._titles().items():
            rows.append(f'<tr><th colspan="3" style="{line}">{title}</th></tr>')
            for equation in self._of(part):
                wrap = "pre-wrap" if "," in _numbers(equation.value)[0] else "pre"  # statistics may wrap, rows may not
                numbers = html.escape("\n".join(_numbers(equation.value)))
                made = html.escape(f"{equation.name} = {equation.formula}")
                rows.append(
                    f'<tr><td style="{line};min-width:12em"><code>{made}</code></td>'
                    f'<td style="{line}"><code>{html.escape(equation.shapes)}</code></td>'
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


@at_home("explaining a step", of=place_of_model)
def explain_step(
    net: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    learning_rate: float = 0.01,
    weight: Sequence[int] | None = None,
    network: int | None = None,
    member: int | None = None,
) -> StepExplanation:
    """Show every array of one step: what it is, the equation that made it, what was multiplied with what.

    From x, y and the weights of the samples over z, a and each sample's loss to L; back over da, f'(z) and dz to every
    dW and db; and the weights and L after a step. Small arrays are shown number by number, large ones by their
    statistics. The network is left as it was.

    Parameters
    ----------
    net : MLP, or fitted estimator
        Functions of your own are shown with their formulas where their row has them:
        `Activation(..., formula=, derivative_formula=)`.
    X, y, sample_weight : array
        As for its `fit`: of a classifier, y holds labels. Penalties take no part; class weights do.
    learning_rate : float
        Of the step whose change of L is predicted by dL = sum (dL/dw) dw, and compared with what happens. They agree
        to first order: ten times smaller a rate brings their ratio ten times nearer to 1.
    weight : (k, i, j) or (k, j), optional
        Also follow the chain rule from L back to W[k][i, j], or to b[k][j].
    network : int, optional
        Which of several networks, 0 the first.
    member : int, optional
        Of members, which one the chain rule is followed in, and the page begins with; without it, the one in which a
        sample weighs most.

    Returns
    -------
    StepExplanation
        Print it; in a notebook it is shown drawn. It has `arrays` by name, `equations` in order, the `path` to the
        weight, `latex`, and `page("step.html")`: a file in which every path from L to every weight can be followed.

    Raises
    ------
    TypeError, ValueError
        If `net` is no model of xpmlp or was not fitted, if it holds several networks and none was chosen, or if an
        argument does not fit.

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
    rate = checks.number(learning_rate, "learning_rate", above=0.0)
    of, p, place = opened[:3]
    layout, xp = of.layout, place.xp
    target = None if weight is None else target_of(layout.sizes, weight)
    i = None if opened.n_networks is None else _chosen(network, opened.n_networks)
    if member is not None and not checks.integer(member, "member", least=0) < of.members:
        raise ValueError(f"member must be one of {of.members} members, 0 the first; got {member}.")
    x, y, w = batch_with_targets(net, X, y, sample_weight)
    if i is not None:
        p = layout.unpack(layout.pack(p)[i, :])
        # What all networks share has no axis of its own for them
        x, y = (values[i, ...] if values.ndim > 2 else values for values in (x, y))
    trace = forward(of, p, x)
    grads = backward(of, p, trace, y, w, show=True, inputs=True)
    losses = sample_losses(of, trace, y)
    loss = mean_loss(of, trace, y, w)
    slopes = [None] + [row.derivative(u, a) for row, u, a in zip(of.activations, trace.u[1:], trace.a[1:], strict=True)]

    flat, g = layout.pack(p), layout.pack(grads.d)

    def after(rate: float) -> tuple[Any, Array]:
        new = layout.unpack(flat - rate * g)
        return new, mean_loss(of, forward(of, new, x), y, w)

    def host(it: Array) -> HostArray:
        return np.zeros(0) if it is None else np.array(place.backend.to_numpy(it))

    def hosts(layers: Sequence[Array]) -> list[HostArray]:
        return [host(it) for it in layers]

    new, loss_new = after(rate)
    parts, du = parts_of_step(of, p, trace, grads, x, host)
    batch = Pass(
        of,
        x=host(x),
        y=host(y),
        w=None if w is None else host(w),
        share=np.full(losses.shape[-1], 1.0 / losses.shape[-1]) if w is None else host(shares(w)),
        losses=host(losses),
        loss=host(loss),
        z=hosts(trace.z),
        u=hosts(trace.u),
        a=hosts(trace.a),
        slope=hosts(slopes),
        W=hosts(p.W),
        b=hosts(p.b),
        dz=hosts(grads.dz),
        du=hosts(du),
        da=hosts(grads.da),
        dW=hosts(grads.dW),
        dW_members=hosts(of_each_member(of, trace, grads)),
        db=hosts(grads.db),
        parts=parts,
        losses_members=host(mean(losses, w)),
        prediction=host(said(of, trace.a[-1])),
        W_new=hosts(new.W),
        b_new=hosts(new.b),
        own_new=[{name: host(array) for name, array in own.items()} for own in new.own],
        loss_new=host(loss_new),
        rate=rate,
    )
    drawn = not pages.too_large(layout.sizes, len(batch.y), of.members)
    rates = rate * SLIDER if drawn else np.zeros(0)
    with np.errstate(all="ignore"):  # the largest of them may overflow
        changes = np.array([float(after(float(it))[1] - loss) for it in rates])
    return StepExplanation(
        tuple(equations_of(batch)),
        loss=float(loss),
        learning_rate=rate,
        predicted=float(-rate * xp.sum(g * g)),
        happened=float(loss_new - loss),
        path=None if target is None else path_to(batch, *target, member),
        rates=rates,
        changes=changes,
        names=tuple(row.name for row in of.activations),
        parts=of.parts,
        members=of.members,
        member=member,
    )


def _chosen(network: int | None, n_networks: int) -> int:
    if network is None:
        raise ValueError(
            f"explain_step shows one network; this MLP has {n_networks}. Choose one: explain_step(..., network=0)."
        )
    i = checks.integer(network, "network", least=0)
    if i >= n_networks:
        raise ValueError(f"network must be one of {n_networks}, 0 the first; got {i}.")
    return i


def _of_members(name: str, array: HostArray) -> bool:
    # Those that are one for each member have it as the first of three axes, but for what piecewise is of each input
    return name in ("l", "L_members") or (array.ndim == 3 and not name.removeprefix("d").startswith("piecewise."))


def _numbers(value: HostArray) -> list[str]:
    if value.ndim == 3 and value.size <= MOST_ROWS * MOST_COLUMNS * 2:
        blocks = [_numbers(block) for block in value]
        if all("," not in lines[0] for lines in blocks):
            return [
                f"[{i}] {line}" if not r else f"    {line}" for i, it in enumerate(blocks) for r, line in enumerate(it)
            ]
    rows = value if value.ndim == 2 else value.reshape(1, -1)
    if rows.shape[0] <= MOST_ROWS and rows.shape[1] <= MOST_COLUMNS:
        return [" ".join(f"{number + 0.0:>10.4g}" for number in row) for row in rows]
    zeros = float(np.mean(value == 0))
    return [
        f"min {value.min() + 0.0:.4g}, mean {value.mean():.4g}, max {value.max() + 0.0:.4g}, std {value.std():.4g}"
        + (f", {zeros:.0%} are 0" if zeros >= 0.005 else "")
    ]
