"""The PyTorch runner: in place and in inference mode, with PyTorch's own operations, fused where it fuses them.

The eager runner works on PyTorch too, through array-api-compat, whose wrappers cost several microseconds a call.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.network import dropout
from xpmlp.optim.optimizers import Rates
from xpmlp.runners.columns import Activation, Columns
from xpmlp.runners.eager import Data
from xpmlp.runners.inplace import InPlaceRunner
from xpmlp.runners.part_columns import PARTS
from xpmlp.runners.step import State, Task
from xpmlp.runners.torch_graph import Graph, wanted

aten = torch.ops.aten


def take(values: Tensor, rows: Tensor, axis: int, out: Tensor | None) -> Tensor:
    return torch.index_select(values, axis, rows, out=out)


def linear(WT: Tensor, h: Tensor, b: Tensor, z: Tensor) -> None:
    if z.ndim == 2:
        torch.addmm(b, WT, h, out=z)
    else:
        torch.matmul(WT, h, out=z).add_(b)


def matmul(a: Tensor, b: Tensor, out: Tensor) -> None:
    torch.matmul(a, b, out=out)


def row_sums(dz: Tensor, ones: Tensor, db: Tensor) -> None:
    torch.sum(dz, -1, out=db)


def silu(z: Tensor, slope: Tensor, room: Tensor) -> None:
    aten.silu_backward.grad_input(room.fill_(1.0), z, grad_input=slope)
    aten.silu_(z)


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda z, note, room: z, lambda da, a, note: da),
    "relu": Activation(
        lambda z, note, room: z.relu_(), lambda da, a, note: aten.threshold_backward.grad_input(da, a, 0, grad_input=da)
    ),
    "tanh": Activation(
        lambda z, note, room: z.tanh_(), lambda da, a, note: aten.tanh_backward.grad_input(da, a, grad_input=da)
    ),
    "sigmoid": Activation(
        lambda z, note, room: z.sigmoid_(), lambda da, a, note: aten.sigmoid_backward.grad_input(da, a, grad_input=da)
    ),
    "silu": Activation(silu, lambda da, a, slope: da.mul_(slope), slopes=True, alone=lambda z, room: aten.silu_(z)),
}


def cross_entropy(z: Tensor, y: Tensor, note: Tensor) -> Tensor:
    # losses.cross_entropy_from_scores: the largest term of the sum is 1 and stays out of the logarithm
    z.sub_(z.amax(-2, keepdim=True))
    linear = torch.mul(y, z, out=note).sum(-2)
    below = z < 0
    z.exp_()
    others = torch.mul(z, below, out=note).sum(-2).sub_(below.sum(-2)).add_(z.shape[-2] - 1)
    z.div_(z.sum(-2, keepdim=True)).sub_(y)
    return others.log1p_().sub_(linear)


def binary_cross_entropy(z: Tensor, y: Tensor, note: Tensor) -> Tensor:
    # log(1 + exp(-|z|)) + (max(z, 0) - y z), and the bracket is exact
    torch.abs(z, out=note).neg_().exp_().log1p_().add_(z.clamp(min=0.0).sub_(y * z))
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
    p: Tensor,
    g: Tensor,
    slots: Any,
    rates: Rates,
    room: Tensor,
    *,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> None:
    # PyTorch's kernel, one pass. After infinitely many steps its own correction of the bias is 1: ours is in lr_t.
    # The slots hold m and v themselves here, see Runner.epoch; so does lr_t fit, with optimizers.adam_rates undone.
    m, v = slots
    lr_t = rates[1] * ((1.0 - beta_2) ** 0.5 / (1.0 - beta_1))
    if isinstance(lr_t, Tensor) and p.dtype != torch.float32:  # the kernel reads a rate on the device as float32
        m.mul_(beta_1).add_(g, alpha=1.0 - beta_1)
        v.mul_(beta_2).addcmul_(g, g, value=1.0 - beta_2)
        p.sub_(torch.sqrt(v, out=room).add_(epsilon).reciprocal_().mul_(m).mul_(lr_t))
        return
    # A rate on the device needs its overload by name: PyTorch tries the first one, and reads the rate to the host.
    fused = aten._fused_adam_.tensor_lr if isinstance(lr_t, Tensor) else aten._fused_adam_
    options = {"lr": lr_t, "beta1": beta_1, "beta2": beta_2, "weight_decay": 0.0, "eps": epsilon}
    # The kernel takes what lies in one piece: of a stretch of m networks, each row.
    lists = [[it] if p.is_contiguous() else list(it) for it in (p, g, m, v)]
    steps = [_infinity(p.device)] * len(lists[0])
    fused(*lists, [], steps, **options, amsgrad=False, maximize=False)


def follow(average: Tensor, p: Tensor, share: Any, room: Tensor) -> None:
    average.lerp_(p, share)


def mask(elements: Tensor, key: Tensor, rate: float, out: Tensor, ints: tuple[Tensor, Tensor]) -> None:
    # dropout.hashed, of elements + key
    x, y = ints
    first, second = dropout.MULTIPLIERS
    torch.add(elements, key, out=x)
    for shift, bits, factor in ((16, 0xFFFF, first), (15, 0x1FFFF, second), (16, 0xFFFF, 1)):
        torch.bitwise_right_shift(x, shift, out=y)
        x.bitwise_xor_(y.bitwise_and_(bits))
        if factor != 1:
            x.mul_(factor)
    torch.ge(x.bitwise_and_(dropout.LARGEST), dropout.least(rate), out=out)
    out.mul_(1.0 / (1.0 - rate))


@functools.cache
def _infinity(device: torch.device) -> Tensor:
    return torch.full((), float("inf"), dtype=torch.float32, device=device)  # which is what the kernel reads


class Runner(InPlaceRunner):
    """Executes steps on PyTorch tensors."""

    name = "torch"
    columns = Columns(
        torch,
        take,
        linear,
        matmul,
        row_sums,
        ACTIVATIONS,
        LOSSES,
        add_multiple,
        adam,
        follow,
        PARTS,
        mask,
        block=2**62,
        cached=2**18,  # tabular, 8 members: a step of 19.6 ms in pieces of 2^15, 18.6 of 2^18
    )

    def __init__(self, task: Task, data: Data, seed: Tensor | None = None) -> None:
        if data.place.device.type != "cpu":  # where a call costs more than the memory it goes over
            self.columns = self.columns._replace(cached=2**62)
        super().__init__(task, data, seed)

    def epoch(
        self,
        state: State,
        order: HostArray | None,
        rate_of: Callable[[int], float],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> tuple[State, Array]:
        """One epoch; see `eager.Runner.epoch`."""
        if state.p is not self.p:  # the graphs write elsewhere
            self.graphs: dict[int, Graph] = {}
        with torch.inference_mode(), self._true_moments(state):
            return super().epoch(state, order, rate_of, interrupted)

    @property
    def replays(self) -> bool:
        """Whether steps are captured and replayed; one that sums over processes is no list of kernels."""
        return self.task.reduce is None and wanted(self.data.place.device)

    def _step(self, x: Tensor, y: Tensor, w: Tensor | None, t: Any, rates: Rates) -> tuple[Tensor, Any]:
        if not self.replays:
            return super()._step(x, y, w, t, rates)
        rows = int(x.shape[-2])
        if rows not in self.graphs:
            runner = weakref.proxy(self)  # what it holds is not to wait for the collector of cycles
            self.graphs[rows] = Graph(functools.partial(InPlaceRunner._step, runner), x, y, w, rates)
        return self.graphs[rows].take(self, x, y, w, t, rates)

    @contextlib.contextmanager
    def _true_moments(self, state: State) -> Iterator[None]:
        # The slots hold m / (1 - beta_1) and v / (1 - beta_2), the kernel of `adam` knows m and v.
        parameters = self.task.optimizer.parameters
        factors = [1.0 - parameters["beta_1"], 1.0 - parameters["beta_2"]] if self.update.fused else []
        pairs = list(zip(state.slots, factors, strict=False))
        for slot, factor in pairs if state.t > 0 else ():  # before the first update they are 0
            slot.mul_(factor)
        try:
            yield
        finally:
            for slot, factor in pairs:
                slot.div_(factor)
