"""PyTorch's step as a CUDA graph, on a CPU that records what a graph would hold and refuses what a capture refuses."""

import contextlib
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from test_runners import (
    BATCH,
    CASES,
    EPOCHS,
    EVERY,
    PARTS,
    TOLERANCE,
    Case,
    N,
    check_it_goes_at_once,
    check_partial_fits,
    trained,
    writable,
)

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from xpmlp import config_context  # noqa: E402
from xpmlp.backends import select  # noqa: E402
from xpmlp.network import Layout, Network  # noqa: E402
from xpmlp.network.activations import activation  # noqa: E402
from xpmlp.network.losses import loss  # noqa: E402
from xpmlp.optim.optimizers import optimizer  # noqa: E402
from xpmlp.runners import Data, KeptRunner, Task, eager, find_runner, torch_graph  # noqa: E402
from xpmlp.runners.graphs import WARM_UP  # noqa: E402
from xpmlp.runners.step import Part, State  # noqa: E402
from xpmlp.runners.torch_graph import Graph  # noqa: E402

TO_HOST = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero"}


class Recorder(TorchDispatchMode):
    """Notes every operation; those that write are not made, the others only for the shape of what they return."""

    def __init__(self, calls: list[Any]) -> None:
        super().__init__()
        self.calls, self.broken = calls, False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, schema = kwargs or {}, function._schema
        if schema.name in TO_HOST:
            self.broken = True  # whoever catches the error
            raise RuntimeError(f"{schema.name} is not permitted while a stream is capturing")
        infos = [it.alias_info for it in schema.arguments if it.alias_info is not None]
        call = partial(function, *args, **kwargs)
        if any(info.is_write for info in infos):
            self.calls.append(call)
            if not schema.returns:
                return None
            written = [it.name for it in schema.arguments if it.alias_info is not None and it.alias_info.is_write]
            return kwargs["out"] if "out" in written else kwargs[written[0]] if written[0] in kwargs else args[0]
        made = call()
        lying = {it.untyped_storage().data_ptr() for it in args if isinstance(it, torch.Tensor)}
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in lying:  # no view
            self.calls.append(lambda: made.copy_(call()))
        return made


class CUDAGraph:
    replays = 0

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def replay(self) -> None:
        CUDAGraph.replays += 1
        for call in self.calls:
            call()


@contextlib.contextmanager
def capture(graph: CUDAGraph) -> Any:
    with Recorder(graph.calls) as recorder:
        yield
    if recorder.broken:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


@pytest.fixture(autouse=True)
def on_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr("xpmlp.runners.torch.wanted", lambda _device: True)
    monkeypatch.setattr(CUDAGraph, "replays", 0)


def there(array: Any, dtype: str = "float64") -> Any:
    return torch.tensor(np.array(array), dtype=getattr(torch, dtype))


@pytest.mark.parametrize(
    ("name", "m"), [pytest.param(*it, id=f"{it[0]}-{it[1]}") for it in EVERY if it[0] != "full-batch"]
)
def test_a_graph_takes_the_steps_of_the_eager_runner(name: str, m: int | None) -> None:
    case = (CASES | PARTS)[name]
    wanted, losses_wanted = trained(case, m, eager.Runner, writable, select("numpy"))
    got, losses = trained(case, m, find_runner, there, select("torch"))
    sizes = 1 if case.rows % BATCH == 0 else 2  # of batches, each warmed up
    assert CUDAGraph.replays == EPOCHS * -(-case.rows // BATCH) - sizes * WARM_UP
    for value, expected in zip((got.p, *got.slots, *losses), (wanted.p, *wanted.slots, *losses_wanted), strict=True):
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(np.asarray(value), expected, rtol=0.0, atol=TOLERANCE["float64"] * scale)


@pytest.mark.parametrize("name", ["optimizer-adam", "optimizer-adamw", "average", "factors-decay", "clipping"])
def test_a_graph_in_float32_reads_no_number_to_the_host(name: str) -> None:
    # Adam's kernel is PyTorch's there.
    wanted, _ = trained(CASES[name], None, eager.Runner, writable, select("numpy"))
    got, _ = trained(CASES[name], None, find_runner, partial(there, dtype="float32"), select("torch"))
    assert CUDAGraph.replays == EPOCHS * -(-N // BATCH) - 2 * WARM_UP
    scale = np.max(np.abs(wanted.p))
    np.testing.assert_allclose(np.asarray(got.p), wanted.p, rtol=0.0, atol=TOLERANCE["float32"] * scale)


def test_a_stream_of_partial_fits_has_one_runner_and_its_graph() -> None:
    check_partial_fits(select("torch"), KeptRunner())
    assert CUDAGraph.replays == 6 - WARM_UP


def test_what_a_runner_holds_does_not_wait_for_the_collector_of_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "graph", lambda _: contextlib.nullcontext())  # PyTorch keeps frames of a recorder
    train = partial(trained, CASES["dropout"], None)
    check_it_goes_at_once(lambda make: train(make, there, select("torch")), find_runner)
    assert CUDAGraph.replays > 0


def test_a_kept_runner_lets_the_batches_of_samples_that_are_gone_go() -> None:
    rows = (activation("relu"), activation("identity"))
    task = Task(Network(Layout((3, 4, 2)), rows, loss("squared_error")), optimizer("sgd"))
    kept, rng = KeptRunner(), np.random.default_rng(0)
    state, given = State(there(rng.standard_normal(task.network.layout.size)), (), 0), []
    for _ in range(4):
        given.append(Data(select("torch"), there(rng.random((20, 3))), there(rng.random((20, 2))), None, 8))
        runner = kept(task, given[-1])
        state, _ = runner.epoch(state, rng.permutation(20), lambda _: 0.1)
        assert len(runner.runner.taken) == 4  # x and y, in whole batches and in the short last one


def test_a_runner_without_graphs_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpmlp.runners.torch.wanted", lambda _device: False)
    with pytest.raises(AssertionError):
        check_partial_fits(select("torch"), KeptRunner())


def test_a_number_that_changes_late_is_no_number_that_the_graph_holds() -> None:
    seen: list[float] = []

    def step(x: Any, y: Any, w: Any, t: Any, rates: Any) -> Any:
        out.copy_(x * rates[0])
        return out, 1.0

    out, x = torch.zeros(3), torch.ones(3)
    graph = Graph(step, x, x, None, (0.5,))
    for i in range(8):
        graph.take(None, x, x, None, i, (0.5 if i < 5 else 0.25,))
        seen.append(float(out[0]))
    assert seen == [0.5] * 5 + [0.25] * 3
    assert CUDAGraph.replays == 8 - WARM_UP


def reads_the_host(z: Any) -> Any:
    return z * float(z[0, 0])


def test_what_no_graph_can_hold_runs_call_by_call_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    case, runners = Case(hidden=(reads_the_host, lambda z, a: 1.0 + 0.0 * z)), []

    def make(*arguments: Any) -> Any:
        runners.append(find_runner(*arguments))
        return runners[-1]

    with caplog.at_level("INFO", logger="xpmlp"):
        got, _ = trained(case, None, make, there, select("torch"))
    wanted, _ = trained(case, None, eager.Runner, writable, select("numpy"))
    np.testing.assert_allclose(np.asarray(got.p), wanted.p, rtol=1e-10)
    assert runners[0].name == "torch"
    assert "is not permitted while a stream is capturing" in runners[0].reason
    assert [record.message for record in caplog.records] == [
        f"the torch runner goes on call by call: {runners[0].reason}"
    ]
    assert CUDAGraph.replays == 0


def test_only_steps_on_cuda_are_captured_and_only_where_they_may_be() -> None:
    assert not torch_graph.wanted(torch.device("cpu"))
    assert torch_graph.wanted(torch.device("cuda", 1))
    with config_context(captured="never"):
        assert not torch_graph.wanted(torch.device("cuda", 1))


class Summed:
    """A batch that comes in one part, summed by Python and not by a kernel."""

    stopped = False
    totals = 0

    def parts(self, n: int) -> list[Part]:
        return [Part(slice(0, n), 0)]

    def add(self, part: Part, g: Any, loss: Any, weight: Any) -> None:
        self.one = g, loss, weight

    def total(self, out: Any) -> Any:
        self.totals += 1
        g, loss, weight = self.one
        return out.copy_(g), loss, torch.as_tensor(weight)


def test_a_step_that_sums_over_processes_is_not_captured() -> None:
    summed = Summed()

    def make(task: Any, data: Any, seed: Any) -> Any:
        return find_runner(replace(task, reduce=summed), data, seed)

    trained(CASES["loss-squared_error"], None, make, there, select("torch"))
    assert CUDAGraph.replays == 0
    assert summed.totals == EPOCHS * -(-N // BATCH)
