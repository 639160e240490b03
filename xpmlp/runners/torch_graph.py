"""A step of PyTorch on CUDA as a graph: the kernels of the in-place step, launched together.

What the graph reads lies where it was captured: a batch, the step's rates and its number are copied there.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xpmlp.backends.config import get_config
from xpmlp.backends.table import reason as line_of
from xpmlp.optim.optimizers import Rates
from xpmlp.runners.graphs import DEVICE_IS_LOST, WARM_UP

Step = Callable[[Tensor, Tensor, Tensor | None, Any, Rates], tuple[Tensor, Any]]

_logger = logging.getLogger("xpmlp")


def wanted(device: Any) -> bool:
    """Whether steps on this device are to be captured."""
    return device.type == "cuda" and get_config()["captured"] != "never"


class Graph:
    """The graph of a step on batches of one size; while it is being made, and where none can be, the step itself.

    Parameters
    ----------
    step : function
        (x, y, w, t, rates) -> the loss of the batch times its weight, and that weight. Arrays that outlive it are
        written in place. `t`, a number or an int32 tensor of shape (1, 1), counts the updates.
    """

    def __init__(self, step: Step) -> None:
        self.step, self.runs, self.reason = step, 0, ""
        self.graph: Any = None
        self.rates: Rates = ()
        self.samples: Any = ()
        self.varying: frozenset[int] = frozenset()  # which of the rates change from step to step

    def __call__(self, x: Tensor, y: Tensor, w: Tensor | None, t: int, rates: Rates) -> tuple[Tensor, Any]:
        """Take the step, and return its loss times its weight, and that weight."""
        if self.runs == 0:
            self.rates = rates
            self._make_room(x, y, w)
        changed = {i for i, (old, new) in enumerate(zip(self.rates, rates, strict=True)) if old != new} - self.varying
        if changed:  # a number that a graph holds is none that may change
            self.varying, self.graph, self.rates = self.varying | changed, None, rates
        for own, given in zip(self.samples, (x, y, w), strict=True):
            if own is not None and own is not given:
                own.copy_(given)
        self.t.fill_(t % 2**31)
        for i in self.varying:
            self.numbers[i].fill_(rates[i])
        if self.graph is None and self.runs >= WARM_UP and not self.reason:
            self._capture()
        self.runs += 1
        if self.graph is None:
            return self._step()
        self.graph.replay()
        return self.result

    def _make_room(self, x: Tensor, y: Tensor, w: Tensor | None) -> None:
        self.samples = tuple(None if it is None else torch.empty_like(it).copy_(it) for it in (x, y, w))
        dtype = torch.float32 if x.dtype != torch.float64 else x.dtype
        self.numbers = [torch.zeros((), dtype=dtype, device=x.device) for _ in self.rates]
        self.t = torch.zeros((1, 1), dtype=torch.int32, device=x.device)

    def _step(self) -> tuple[Tensor, Any]:
        rates = tuple(self.numbers[i] if i in self.varying else rate for i, rate in enumerate(self.rates))
        x, y, w = self.samples
        return self.step(x, y, w, self.t, rates)

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.result = self._step()
        except Exception as error:  # of many kinds; training goes on without
            if DEVICE_IS_LOST.search(str(error)):
                raise
            self.reason = f"the step cannot be captured: {line_of(error)}"
            _logger.info("the torch runner goes on call by call: %s", self.reason)
        else:
            self.graph = graph
