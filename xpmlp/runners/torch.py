"""The PyTorch runner: in place and in inference mode, with PyTorch's own operations, fused where it fuses them.

The eager runner works on PyTorch too, through array-api-compat, whose wrappers cost several microseconds a call.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.optimizers import Rates
from xpmlp.runners.inplace import Activation, Columns, InPlaceRunner
from xpmlp.runners.step import State

aten = torch.ops.aten


def linear(WT: Tensor, h: Tensor, b: Tensor, z: Tensor) -> None:
    if z.ndim == 2:
        torch.addmm(b, WT, h, out=z)
    else:
        torch.matmul(WT, h, out=z).add_(b)


def matmul(a: Tensor, b: Tensor, out: Tensor) -> None:
    torch.matmul(a, b, out=out)


def row_sums(dz: Tensor, ones: Tensor, db: Tensor) -> None:
    torch.sum(dz, -1, out=db)


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda z, note: z, lambda da, a, note: da),
    "relu": Activation(
        lambda z, note: z.relu_(), lambda da, a, note: aten.threshold_backward.grad_input(da, a, 0, grad_input=da)
    ),
    "tanh": Activation(
        lambda z, note: z.tanh_(), lambda da, a, note: aten.tanh_backward.grad_input(da, a, grad_input=da)
    ),
    "sigmoid": Activation(
        lambda z, note: z.sigmoid_(), lambda da, a, note: aten.sigmoid_backward.grad_input(da, a, grad_input=da)
    ),
}


def cross_entropy(z: Tensor, y: Tensor, note: Tensor) -> Tensor:
    torch.log_softmax(z, -2, out=note)
    values = (y * note).sum(-2).neg_()
    torch.exp(note, out=z).sub_(y)
    return values


def binary_cross_entropy(z: Tensor, y: Tensor, note: Tensor) -> Tensor:
    # max(z, 0) + log(1 + exp(-|z|)) - y z
    torch.abs(z, out=note).neg_().exp_().log1p_().add_(z.clamp(min=0.0)).sub_(y * z)
    values = note.sum(-2)
    z.sigmoid_().sub_(y)
    return values


def squared_error(z: Tensor, y: Tensor, note: Tensor) -> Tensor:
    z.sub_(y)
    return torch.mul(z, z, out=note).sum(-2).mul_(0.5)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "squared_error": squared_error,
}


def add_multiple(p: Tensor, c: Any, room: Tensor, g: Tensor) -> None:
    if isinstance(c, float):
        g.add_(p, alpha=c)
    else:
        g.addcmul_(p, c)


def adam(
    p: Tensor, g: Tensor, slots: Any, rates: Rates, room: Tensor, *, beta_1: float, beta_2: float, **_: float
) -> None:
    # optimizers.adam_step in seven passes
    m, v = slots
    _lr, lr_t, epsilon = rates
    m.mul_(beta_1).add_(g)
    v.mul_(beta_2).addcmul_(g, g)
    torch.sqrt(v, out=room).add_(epsilon)
    p.addcdiv_(m, room, value=-lr_t)


class Runner(InPlaceRunner):
    """Executes steps on PyTorch tensors."""

    name = "torch"
    columns = Columns(linear, matmul, row_sums, ACTIVATIONS, LOSSES, add_multiple, adam)

    def epoch(
        self,
        state: State,
        order: HostArray | None,
        rate_of: Callable[[int], float],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> tuple[State, Array]:
        """One epoch; see `eager.Runner.epoch`."""
        with torch.inference_mode():
            return super().epoch(state, order, rate_of, interrupted)
