"""The equations of one step, in order: from x to L, from L to every weight, and the step itself.

Each array of the step is one `Equation`: its name, what it was made of in words and in LaTeX, and its value. Nothing is
computed here; `Pass` holds what `network.forward` and `network.backward` returned and what they took.

What a part says of itself in words stands in its row of PARTS. Of members every z and a has a leading axis, and what is
theirs alone, too; the weights that they share get the sum of what each member adds.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from xpmlp.backends import HostArray
from xpmlp.inspection.parts import PartPass
from xpmlp.inspection.passes import Pass

FORWARD, BACKWARD, STEP = "forward", "backward", "step"


@dataclass(frozen=True)
class Equation:
    """An array, and what it was made of."""

    name: str  # "dW[2]"
    formula: str  # "a[1].T @ dz[2]"
    latex: str
    value: HostArray
    factors: tuple[tuple[str, tuple[int, ...]], ...] = ()  # what was put together, each with its shape
    part: str = FORWARD

    @property
    def shapes(self) -> str:
        """As in "(4, 8) @ (8, 3) -> (4, 3)", with the sign that stands in the formula."""
        sign = " @ " if "@" in self.formula else " * "
        made_of = sign.join(shape_text(shape) for _, shape in self.factors)
        return f"{made_of} -> {shape_text(self.value.shape)}" if made_of else shape_text(self.value.shape)


def equations_of(batch: Pass) -> Iterator[Equation]:
    """All of them."""
    yield from _forward(batch)
    yield from _backward(batch)
    yield from _step(batch)


# --- From x to L ---


def _forward(batch: Pass) -> Iterator[Equation]:
    if batch.parts_of(0):
        yield Equation("x", "the inputs", r"x &\;\text{given}", batch.x)
        yield from _through_parts(batch, 0)
    else:
        yield Equation("a[0]", "x", r"a^{[0]} &= x", batch.a[0])
    yield Equation("y", "the targets", r"y &\;\text{given}", batch.y)
    if batch.w is not None:
        yield Equation("w", "the weights of the samples", r"w &\;\text{given}", batch.w)
    for k in range(1, batch.K + 1):
        yield from forward_of_layer(batch, k)
    loss = batch.network.loss
    given = ", ".join(f"{name} = {value}" for name, value in loss.parameters.items() if value not in (0.0, None))
    formula = f": {loss.formula}" if loss.formula else ""
    yield Equation(
        "l",
        f"{loss.name} of each sample{' and member' * bool(batch.members)}{formula}" + (f", {given}" if given else ""),
        rf"\ell &= \operatorname{{{tex(loss.name)}}}(y, \hat y)",
        batch.losses,
    )
    words, latex = _share(batch)
    yield Equation("share", f"{words}, of each sample in L", rf"s &= {latex}", batch.share)
    if not batch.members:
        yield Equation("L", "sum of share * l", r"L &= \textstyle\sum s\,\ell", batch.loss)
        return
    yield Equation(
        "L_members", "sum of share * l, of each member", r"L_i &= \textstyle\sum s\,\ell_i", batch.losses_members
    )
    yield Equation(
        "L",
        f"mean of L_members, the {batch.members} members' own",
        rf"L &= \tfrac{{1}}{{{batch.members}}} \textstyle\sum_i L_i",
        batch.loss,
    )


def _through_parts(batch: Pass, k: int) -> Iterator[Equation]:
    for it in batch.parts_of(k):
        for name, array in it.own.items():
            label, sizes = it.label(name), r" \times ".join(map(str, array.shape))
            what = f"{name} of {it.part.name}" + (" in layer " + str(k) if k else ", before the first layer")
            yield Equation(label, what, rf"\text{{{tex(label)}}} &\in \mathbb{{R}}^{{{sizes}}}", array)
        for name, (_, formula) in it.part.within.items():
            label = it.label(name)
            yield Equation(
                label, it.words(formula), rf"\text{{{tex(label)}}} &= {in_tex(it, formula)}", it.within[name]
            )
        words = f"{it.part.name} of {it.takes}" + (f": {it.words(it.part.formula)}" if it.part.formula else "")
        yield Equation(
            it.makes, words, rf"{symbol(it.makes)} &= \operatorname{{{tex(it.part.name)}}}({symbol(it.takes)})", it.made
        )


def forward_of_layer(batch: Pass, k: int) -> Iterator[Equation]:
    """W, b, z and a of layer k, and what its parts make."""
    row, whose = batch.network.activations[k - 1], ", of each member its own" if batch.members else ""
    of_W = ", which the members share" if batch.members and k < batch.K else whose
    sizes = rf"\in \mathbb{{R}}^{{{batch.W[k].shape[-2]} \times {batch.W[k].shape[-1]}}}"
    yield Equation(f"W[{k}]", f"the weights of layer {k}{of_W}", rf"W^{{[{k}]}} &{sizes}", batch.W[k])
    sizes = rf"\in \mathbb{{R}}^{{{batch.b[k].shape[-1]}}}"
    yield Equation(f"b[{k}]", f"the biases of layer {k}{whose}", rf"b^{{[{k}]}} &{sizes}", batch.b[k])
    yield Equation(
        f"z[{k}]",
        f"a[{k - 1}] @ W[{k}] + b[{k}]",
        rf"z^{{[{k}]}} &= a^{{[{k - 1}]}} W^{{[{k}]}} + b^{{[{k}]}}",
        batch.z[k],
        ((f"a[{k - 1}]", batch.a[k - 1].shape), (f"W[{k}]", batch.W[k].shape)),
    )
    yield from _through_parts(batch, k)
    formula = f" = {row.formula}" if row.formula not in ("", f"{row.name}(z)") else ""
    formula += _where_z_is(batch, k, formula)
    yield Equation(
        f"a[{k}]",
        f"{row.name}({batch.into(k)}){formula}" + (f", which is yhat{whose}" if k == batch.K else ""),
        rf"a^{{[{k}]}} &= \operatorname{{{tex(row.name)}}}({symbol(batch.into(k))})",
        batch.a[k],
    )
    if batch.members and k == batch.K:
        yield Equation(
            "prediction",
            f"the mean over the members of a[{k}]",
            rf"\bar y &= \tfrac{{1}}{{{batch.members}}} \textstyle\sum_i a_i^{{[{k}]}}",
            batch.prediction,
        )


# --- From L to every weight ---


def _backward(batch: Pass) -> Iterator[Equation]:
    K, loss = batch.K, batch.network.loss
    formula = f" = {loss.derivative_formula}" if loss.derivative_formula else ""
    yield Equation(
        f"da[{K}]",
        f"dL/dyhat: derivative of {loss.name}{formula}, times share{_each(batch)}",
        rf"\mathrm{{d}}a^{{[{K}]}} &= {_share(batch)[1]}\,\frac{{\partial\,\ell}}{{\partial \hat y}}",
        batch.da[K],
        part=BACKWARD,
    )
    for k in range(K, 0, -1):
        yield from backward_of_layer(batch, k)
    yield from _back_through_parts(batch, 0)


def _each(batch: Pass) -> str:
    # L is the mean of the members' own
    return f", times 1/{batch.members} of each member" if batch.members else ""


def backward_of_layer(batch: Pass, k: int) -> Iterator[Equation]:
    """slope, dz, dW and db of layer k, those of its parts, and da of the layer below."""
    up = f"a[{k - 1}]"
    yield from _scores(batch, k)
    yield from _back_through_parts(batch, k)
    shared = batch.members and k < batch.K
    product = rf"(a^{{[{k - 1}]}})^\top\,\mathrm{{d}}z^{{[{k}]}}"
    made_of = ((f"{up}.T", turned(batch.a[k - 1].shape)), (f"dz[{k}]", batch.dz[k].shape))
    yield Equation(
        f"dW_members[{k}]" if shared else f"dW[{k}]",
        f"{up}.T @ dz[{k}]" + (", what each member adds" if shared else ""),
        rf"\mathrm{{d}}W{'_i' if shared else ''}^{{[{k}]}} &= {product}",
        batch.dW_members[k] if shared else batch.dW[k],
        made_of,
        BACKWARD,
    )
    if shared:
        yield Equation(
            f"dW[{k}]",
            f"sum over the members of dW_members[{k}]",
            rf"\mathrm{{d}}W^{{[{k}]}} &= \textstyle\sum_i \mathrm{{d}}W_i^{{[{k}]}}",
            batch.dW[k],
            ((f"dW_members[{k}]", batch.dW_members[k].shape),),
            BACKWARD,
        )
    yield Equation(
        f"db[{k}]",
        f"sum over rows of dz[{k}]",
        rf"\mathrm{{d}}b^{{[{k}]}} &= \textstyle\sum_{{\text{{rows}}}} \mathrm{{d}}z^{{[{k}]}}",
        batch.db[k],
        ((f"dz[{k}]", batch.dz[k].shape),),
        BACKWARD,
    )
    da = batch.da[k - 1] if k > 1 or not batch.parts_of(0) else batch.du[0]
    together = batch.members and da.ndim == 2
    over = r"\textstyle\sum_i " if together else ""
    yield Equation(
        f"d{up}",
        f"dz[{k}] @ W[{k}].T" + (f", added over the members, which all take {up}" if together else ""),
        rf"\mathrm{{d}}a^{{[{k - 1}]}} &= {over}\mathrm{{d}}z^{{[{k}]}}\,(W^{{[{k}]}})^\top",
        da,
        ((f"dz[{k}]", batch.dz[k].shape), (f"W[{k}].T", turned(batch.W[k].shape))),
        BACKWARD,
    )


def _back_through_parts(batch: Pass, k: int) -> Iterator[Equation]:
    for it in reversed(batch.parts_of(k)):
        words = it.part.derivative_formulas
        for name, array in it.derivatives.items():
            label = tex(it.label(name))
            yield Equation(
                f"d{it.label(name)}",
                it.words(words[name]) if name in words else f"by {it.part.name}",
                rf"\mathrm{{d}}\text{{{label}}} &= {in_tex(it, words.get(name, it.part.name))}",
                array,
                part=BACKWARD,
            )
        together = ", added over the members" if it.summed else ""
        yield Equation(
            f"d{it.takes}",
            (it.words(words["x"]) if "x" in words else f"by {it.part.name}") + together,
            rf"\mathrm{{d}}{symbol(it.takes)} &= {in_tex(it, words.get('x', it.part.name) + together)}",
            it.handed_down,
            part=BACKWARD,
        )


def _scores(batch: Pass, k: int) -> Iterator[Equation]:
    row, into = batch.network.activations[k - 1], batch.into(k)
    dz, value = rf"\mathrm{{d}}{symbol(into)}", batch.d_into(k)
    if k == batch.K and batch.short_cut:
        yield Equation(
            f"dz[{k}]",
            f"(yhat - {batch.target}) times share{_each(batch)}: {row.name} and {batch.network.loss.name} in one",
            rf"{dz} &= {_share(batch)[1]}\,(\hat y - y)",
            batch.dz[k],
            part=BACKWARD,
        )
    elif batch.has_jacobian(k):
        formula = f": {row.derivative_formula}" if row.derivative_formula else ""
        yield Equation(
            f"d{into}",
            f"da[{k}], times the Jacobian of {row.name}{formula}",
            rf"{dz} &= J^\top\,\mathrm{{d}}a^{{[{k}]}}",
            value,
            part=BACKWARD,
        )
    else:
        formula = f" = {row.derivative_formula}" if row.derivative_formula else ""
        yield Equation(
            f"slope[{k}]",
            f"{row.name}'({into}){formula}{_where_z_is(batch, k, formula)}",
            rf"s^{{[{k}]}} &= \operatorname{{{tex(row.name)}}}'({symbol(into)})",
            batch.slope[k],
            part=BACKWARD,
        )
        yield Equation(
            f"d{into}",
            f"da[{k}] * {row.name}'({into})",
            rf"{dz} &= \mathrm{{d}}a^{{[{k}]}} \odot \operatorname{{{tex(row.name)}}}'({symbol(into)})",
            value,
            ((f"da[{k}]", batch.da[k].shape), (f"slope[{k}]", batch.slope[k].shape)),
            BACKWARD,
        )


# --- The step ---


def _step(batch: Pass) -> Iterator[Equation]:
    for k in range(1, batch.K + 1):
        for name, now in (("W", batch.W_new[k]), ("b", batch.b_new[k])):
            label = f"{name}[{k}]"
            yield Equation(
                f"{name}_new[{k}]",
                f"{label} - {batch.rate:g} d{label}",
                rf"{name}_{{\text{{new}}}}^{{[{k}]}} &= {name}^{{[{k}]}} - "
                rf"{batch.rate:g}\,\mathrm{{d}}{name}^{{[{k}]}}",
                now,
                part=STEP,
            )
    for k, arrays in enumerate(batch.own_new):
        for name, now in arrays.items():
            label = f"{name}[{k}]"
            words = f"{label} - {batch.rate:g} d{label}"
            yield Equation(
                f"{name}_new[{k}]", words, rf"\text{{{tex(name)}}}_{{\text{{new}}}} &= \text{{{tex(words)}}}", now,
                part=STEP,
            )  # fmt: skip
    yield Equation("L_new", "L of the new weights", r"L_{\text{new}} &= L(W_{\text{new}}, b_{\text{new}})",
                   batch.loss_new, part=STEP)  # fmt: skip


def _where_z_is(batch: Pass, k: int, formula: str) -> str:
    # A row's words are of z; where parts stand between, f_k takes u
    return f", with z = {batch.into(k)}" if batch.parts_of(k) and re.search(r"\bz\b", formula) else ""


def shape_text(shape: tuple[int, ...]) -> str:
    """As "(4, 3)"; a single number has no shape to show."""
    return str(tuple(int(n) for n in shape)) if shape else "a number"


def turned(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the transpose."""
    return (*shape[:-2], shape[-1], shape[-2])


def tex(name: str) -> str:
    """A name for LaTeX."""
    return name.replace("_", r"\_").replace("^", r"\^{}")


def symbol(name: str) -> str:
    """A name such as "z[1]" for LaTeX."""
    letter, _, k = name.partition("[")
    return (letter if len(letter) == 1 else rf"\text{{{tex(letter)}}}") + (f"^{{[{k.rstrip(']')}]}}" if k else "")


def in_tex(it: PartPass, formula: str) -> str:
    """The words of a part's row for LaTeX."""
    return rf"\text{{{tex(it.words(formula))}}}"


def _share(batch: Pass) -> tuple[str, str]:
    # Of a sample in L, in words and in LaTeX
    if batch.w is not None:
        return "w / sum(w)", r"\frac{w}{\sum w}"
    n = len(batch.share)
    return f"1/{n}", rf"\frac{{1}}{{{n}}}"
