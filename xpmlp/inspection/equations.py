"""The equations of one step, in order: from x to L, from L to every weight, and the step itself.

Each array of the step is one `Equation`: its name, what it was made of in words and in LaTeX, and its value. Nothing is
computed here; `Pass` holds what `network.forward` and `network.backward` returned and what they took.

To show what a layer has of its own beside W and b, yield its equations in `forward_of_layer` and `backward_of_layer`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from xpmlp.backends import HostArray
from xpmlp.network import Network

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


@dataclass(frozen=True)
class Pass:
    """One pass there and back and the step after it, on the host; lists have the layer as index."""

    network: Network
    y: HostArray
    w: HostArray | None  # sample weights
    share: HostArray  # of each sample in L, shape (batch,)
    losses: HostArray  # of each sample, shape (batch,)
    loss: HostArray  # L, shape ()
    z: list[HostArray]
    a: list[HostArray]
    slope: list[HostArray]  # f_k'(z[k])
    W: list[HostArray]
    b: list[HostArray]
    dz: list[HostArray]
    da: list[HostArray]
    dW: list[HostArray]
    db: list[HostArray]
    W_new: list[HostArray]
    b_new: list[HostArray]
    loss_new: HostArray
    rate: float

    @property
    def K(self) -> int:
        """The number of layers."""
        return self.network.layout.n_layers

    @property
    def short_cut(self) -> bool:
        """Whether dz[K] is taken from the scores, output activation and loss in one."""
        return self.network.canonical and self.network.loss.derivative_from_scores is not None

    def has_jacobian(self, k: int) -> bool:
        """Whether dz[k] is not da[k] * f'(z[k]), because an output depends on several scores."""
        row = self.network.activations[k - 1]
        return row.pullback is not None and row.name != "identity"

    def name(self, k: int) -> str:
        """Of f_k."""
        return self.network.activations[k - 1].name

    @property
    def target(self) -> str:
        """What stands for y in the derivative."""
        return "smoothed y" if self.network.loss.parameters.get("label_smoothing") else "y"

    def equations(self) -> Iterator[Equation]:
        """All of them."""
        yield from self._forward()
        yield from self._backward()
        yield from self._step()

    # --- From x to L ---

    def _forward(self) -> Iterator[Equation]:
        yield Equation("a[0]", "x", r"a^{[0]} &= x", self.a[0])
        yield Equation("y", "the targets", r"y &\;\text{given}", self.y)
        if self.w is not None:
            yield Equation("w", "the weights of the samples", r"w &\;\text{given}", self.w)
        for k in range(1, self.K + 1):
            yield from self.forward_of_layer(k)
        loss = self.network.loss
        given = ", ".join(f"{name} = {value}" for name, value in loss.parameters.items() if value not in (0.0, None))
        formula = f": {loss.formula}" if loss.formula else ""
        yield Equation(
            "l",
            f"{loss.name} of each sample{formula}" + (f", {given}" if given else ""),
            rf"\ell &= \operatorname{{{tex(loss.name)}}}(y, \hat y)",
            self.losses,
        )
        words, latex = ("w / sum(w)", r"\frac{w}{\sum w}") if self.w is not None else _one_over(self.share)
        yield Equation("share", f"{words}, of each sample in L", rf"s &= {latex}", self.share)
        yield Equation("L", "sum of share * l", r"L &= \textstyle\sum s\,\ell", self.loss)

    def forward_of_layer(self, k: int) -> Iterator[Equation]:
        """W, b, z and a of layer k."""
        row = self.network.activations[k - 1]
        sizes = rf"\in \mathbb{{R}}^{{{self.W[k].shape[0]} \times {self.W[k].shape[1]}}}"
        yield Equation(f"W[{k}]", f"the weights of layer {k}", rf"W^{{[{k}]}} &{sizes}", self.W[k])
        sizes = rf"\in \mathbb{{R}}^{{{self.b[k].shape[0]}}}"
        yield Equation(f"b[{k}]", f"the biases of layer {k}", rf"b^{{[{k}]}} &{sizes}", self.b[k])
        yield Equation(
            f"z[{k}]",
            f"a[{k - 1}] @ W[{k}] + b[{k}]",
            rf"z^{{[{k}]}} &= a^{{[{k - 1}]}} W^{{[{k}]}} + b^{{[{k}]}}",
            self.z[k],
            ((f"a[{k - 1}]", self.a[k - 1].shape), (f"W[{k}]", self.W[k].shape)),
        )
        formula = f" = {row.formula}" if row.formula not in ("", f"{row.name}(z)") else ""
        yield Equation(
            f"a[{k}]",
            f"{row.name}(z[{k}]){formula}" + (", which is yhat" if k == self.K else ""),
            rf"a^{{[{k}]}} &= \operatorname{{{tex(row.name)}}}(z^{{[{k}]}})",
            self.a[k],
        )

    # --- From L to every weight ---

    def _backward(self) -> Iterator[Equation]:
        K, loss = self.K, self.network.loss
        formula = f" = {loss.derivative_formula}" if loss.derivative_formula else ""
        tex_share = r"\frac{w}{\sum w}" if self.w is not None else _one_over(self.share)[1]
        yield Equation(
            f"da[{K}]",
            f"dL/dyhat: derivative of {loss.name}{formula}, times share",
            rf"\mathrm{{d}}a^{{[{K}]}} &= {tex_share}\,\frac{{\partial\,\ell}}{{\partial \hat y}}",
            self.da[K],
            part=BACKWARD,
        )
        for k in range(K, 0, -1):
            yield from self.backward_of_layer(k)

    def backward_of_layer(self, k: int) -> Iterator[Equation]:
        """slope, dz, dW and db of layer k, and da of the layer below."""
        up = f"a[{k - 1}]"
        yield from self._scores(k)
        yield Equation(
            f"dW[{k}]",
            f"{up}.T @ dz[{k}]",
            rf"\mathrm{{d}}W^{{[{k}]}} &= (a^{{[{k - 1}]}})^\top\,\mathrm{{d}}z^{{[{k}]}}",
            self.dW[k],
            ((f"{up}.T", self.a[k - 1].shape[::-1]), (f"dz[{k}]", self.dz[k].shape)),
            BACKWARD,
        )
        yield Equation(
            f"db[{k}]",
            f"sum over rows of dz[{k}]",
            rf"\mathrm{{d}}b^{{[{k}]}} &= \textstyle\sum_{{\text{{rows}}}} \mathrm{{d}}z^{{[{k}]}}",
            self.db[k],
            ((f"dz[{k}]", self.dz[k].shape),),
            BACKWARD,
        )
        yield Equation(
            f"d{up}",
            f"dz[{k}] @ W[{k}].T",
            rf"\mathrm{{d}}a^{{[{k - 1}]}} &= \mathrm{{d}}z^{{[{k}]}}\,(W^{{[{k}]}})^\top",
            self.da[k - 1],
            ((f"dz[{k}]", self.dz[k].shape), (f"W[{k}].T", self.W[k].shape[::-1])),
            BACKWARD,
        )

    def _scores(self, k: int) -> Iterator[Equation]:
        row, dz = self.network.activations[k - 1], rf"\mathrm{{d}}z^{{[{k}]}}"
        if k == self.K and self.short_cut:
            share = r"\frac{w}{\sum w}" if self.w is not None else _one_over(self.share)[1]
            yield Equation(
                f"dz[{k}]",
                f"(yhat - {self.target}) times share: {row.name} and {self.network.loss.name} in one",
                rf"{dz} &= {share}\,(\hat y - y)",
                self.dz[k],
                part=BACKWARD,
            )
        elif self.has_jacobian(k):
            formula = f": {row.derivative_formula}" if row.derivative_formula else ""
            yield Equation(
                f"dz[{k}]",
                f"da[{k}], times the Jacobian of {row.name}{formula}",
                rf"{dz} &= J^\top\,\mathrm{{d}}a^{{[{k}]}}",
                self.dz[k],
                part=BACKWARD,
            )
        else:
            formula = f" = {row.derivative_formula}" if row.derivative_formula else ""
            yield Equation(
                f"slope[{k}]",
                f"{row.name}'(z[{k}]){formula}",
                rf"s^{{[{k}]}} &= \operatorname{{{tex(row.name)}}}'(z^{{[{k}]}})",
                self.slope[k],
                part=BACKWARD,
            )
            yield Equation(
                f"dz[{k}]",
                f"da[{k}] * {row.name}'(z[{k}])",
                rf"{dz} &= \mathrm{{d}}a^{{[{k}]}} \odot \operatorname{{{tex(row.name)}}}'(z^{{[{k}]}})",
                self.dz[k],
                ((f"da[{k}]", self.da[k].shape), (f"slope[{k}]", self.slope[k].shape)),
                BACKWARD,
            )

    # --- The step ---

    def _step(self) -> Iterator[Equation]:
        for k in range(1, self.K + 1):
            for name, now in (("W", self.W_new[k]), ("b", self.b_new[k])):
                label = f"{name}[{k}]"
                yield Equation(
                    f"{name}_new[{k}]",
                    f"{label} - {self.rate:g} d{label}",
                    rf"{name}_{{\text{{new}}}}^{{[{k}]}} &= {name}^{{[{k}]}} - "
                    rf"{self.rate:g}\,\mathrm{{d}}{name}^{{[{k}]}}",
                    now,
                    part=STEP,
                )
        yield Equation("L_new", "L of the new weights", r"L_{\text{new}} &= L(W_{\text{new}}, b_{\text{new}})",
                       self.loss_new, part=STEP)  # fmt: skip


def shape_text(shape: tuple[int, ...]) -> str:
    """As "(4, 3)"; a single number has no shape to show."""
    return str(tuple(int(n) for n in shape)) if shape else "a number"


def tex(name: str) -> str:
    """A name for LaTeX."""
    return name.replace("_", r"\_")


def _one_over(share: HostArray) -> tuple[str, str]:
    return f"1/{len(share)}", rf"\frac{{1}}{{{len(share)}}}"
