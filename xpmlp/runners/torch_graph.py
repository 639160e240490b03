"""A step of PyTorch on CUDA as a graph: the kernels of the in-place step, launched together.

What the graph reads lies where it was captured: a batch, the step's rates and its number are copied there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xpmlp.backends.config import get_config
from xpmlp.optim.optimizers import Rates
from xpmlp.runners.graphs import Batch

Step = Callable[[Tensor, Tensor, Tensor | None, Any, Rates], tuple[Tensor, Any]]


def wanted(device: Any) -> bool:
    """Whether steps on this device are to be captured."""
    return device.type == "cuda" and get_config()["captured"] != "never"


class Graph(Batch):
    """The graph of a step on batches like a first one; while it is being made, and where none can be, the step itself.

    Parameters
    ----------
    step : function
        (x, y, w, t, rates) -> the loss of the batch times its weight, and that weight. Arrays that outlive it are
        written in place. `t`, an int32 tensor of shape (1, 1), counts the updates; `rates` are 0-d tensors.
    """

    def __init__(self, step: Step, x: Tensor, y: Tensor, w: Tensor | None, rates: Rates) -> None:
        super().__init__()
        self.step = step
        self.samples: Any = [None if it is None else torch.empty_like(it) for it in (x, y, w)]
        dtype = torch.float32 if x.dtype != torch.float64 else x.dtype
        self.rates = [torch.zeros((), dtype=dtype, device=x.device) for _ in rates]
        self.t = torch.zeros((1, 1), dtype=torch.int32, device=x.device)
        self.filled: Rates = (0.0,) * len(rates)

    def take(self, runner: Any, x: Tensor, y: Tensor, w: Tensor | None, t: int, rates: Rates) -> tuple[Tensor, Any]:
        """Take the step, and return its loss times its weight, and that weight."""
        for own, given in zip(self.samples, (x, y, w), strict=True):
            if own is not None:
                own.copy_(given)
        self.t.fill_(t % 2**31)
        for own, old, new in zip(self.rates, self.filled, rates, strict=True):
            if old != new:
                own.fill_(new)
        self.filled = rates
        self.capture_if_due(runner)
        self.advance()
        return self.result

    def run(self) -> None:
        """See `Batch`."""
        x, y, w = self.samples
        self.result = self.step(x, y, w, self.t, tuple(self.rates))

    def capture(self, steps: int) -> Callable[[], object]:  # noqa: ARG002 - one
        """See `Batch`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.run()
        return graph.replay  # type: ignore[no-any-return]
