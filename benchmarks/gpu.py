"""One run on a GPU: what a step costs, beside PyTorch, JAX and the bare products, and what it computes.

    python benchmarks/gpu.py                    all of it, about five minutes; results/gpu.csv and gpu.txt are written
                                                anew after every section
    python benchmarks/gpu.py --sections steps --sizes small tabular
    python benchmarks/gpu.py --dry              small sizes on a CPU that runs the kernels (needs a C++ compiler): see
                                                that all of it runs; its times mean nothing, nothing is written

Needs CuPy and a GPU. PyTorch and JAX are timed where they are installed with CUDA, and named as absent elsewhere.
The peers find their batch lying ready; xpmlp's steps gather theirs from the data set by a permutation.

The results are those of the card, the driver and the versions that head the table.
"""

import argparse
import csv
import gc
import importlib
import math
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX takes three quarters of the card

import numpy as np  # noqa: E402
from sklearn.datasets import make_classification  # noqa: E402

from xpmlp import MLP, MLPClassifier, TabularClassifier  # noqa: E402
from xpmlp.backends import Place, probe, select  # noqa: E402
from xpmlp.backends.table import State as ProbeState  # noqa: E402
from xpmlp.network import Network  # noqa: E402
from xpmlp.network.activations import activation  # noqa: E402
from xpmlp.network.losses import loss  # noqa: E402
from xpmlp.network.parameters import Layout  # noqa: E402
from xpmlp.optim.optimizers import optimizer  # noqa: E402
from xpmlp.runners import (  # noqa: E402
    Data,
    Task,
    captured,
    cuda_plan,
    eager,
    find_runner,
)
from xpmlp.runners import cupy as cupy_runner  # noqa: E402
from xpmlp.runners.cublas import Product  # noqa: E402
from xpmlp.runners.cuda_machine import Machine  # noqa: E402
from xpmlp.runners.cuda_plan import Join, Launch, nodes  # noqa: E402
from xpmlp.runners.step import State  # noqa: E402

LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-8
COLUMNS = ("section", "case", "candidate", "precision", "what", "unit", "value", "low", "high", "n", "target", "mark")


class AbsentError(Exception):
    """A candidate that cannot run here; the message says why."""


class Size(NamedTuple):
    """A network and its batch."""

    name: str
    batch: int
    sizes: tuple[int, ...]
    n_batches: int  # of an epoch: what an epoch costs besides its steps is in their time

    @property
    def flops(self) -> float:
        """Of the products of a step: forward, dW, and da without da[0]."""
        pairs = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        return sum(2.0 * self.batch * n * m * (2 if k == 0 else 3) for k, (n, m) in enumerate(pairs))


SIZES = {
    row.name: row
    for row in (
        Size("small", 128, (20, 64, 64, 5), 512),
        Size("tabular", 256, (54, 256, 128, 7), 512),
        Size("images", 1024, (784, 1024, 1024, 10), 64),
        Size("wide", 8192, (1024, 4096, 4096, 10), 8),
    )
}
DRY_SIZES = {"small": Size("small", 16, (4, 6, 5, 3), 40), "tabular": Size("tabular", 8, (5, 7, 3), 3)}


@dataclass
class Report:
    """Lines to read and rows to compute with."""

    dry: bool
    candidates: list[str] = field(default_factory=list)  # parts of their names; none: all of them
    lines: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def say(self, line: str = "") -> None:
        """Add a line, and print it."""
        self.lines.append(line)
        print(line, flush=True)

    def add(
        self,
        section: str,
        case: str,
        candidate: str,
        what: str,
        unit: str,
        values: list[float],
        *,
        precision: str = "",
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> float:
        """Add the median of some values, held against its target."""
        value = statistics.median(values)
        target = f"<= {at_most:g}" if at_most is not None else f">= {at_least:g}" if at_least is not None else ""
        reached = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        mark = "" if not target or self.dry else "+" if reached else "-"
        spread = {"value": f"{value:.6g}", "low": f"{min(values):.6g}", "high": f"{max(values):.6g}", "n": len(values)}
        head = {"section": section, "case": case, "candidate": candidate, "precision": precision}
        self.rows.append(head | {"what": what, "unit": unit} | spread | {"target": target, "mark": mark})
        name = f"{candidate} {precision}".strip()
        self.say(f"  {case:<10} {name:<44} {what:<28} {value:>12.4g} {unit:<8} {target:>8} {mark}")
        return value

    def write(self, folder: Path) -> None:
        """Write gpu.txt and gpu.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.txt").write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        with open(folder / "gpu.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(self.rows)


def attempt(report: Report, section: str, case: str, candidate: str, call: Callable[[], Any]) -> Any:
    """What `call` returns, or None and a line that says why not: one broken candidate must not cost the run."""
    try:
        return call()
    except AbsentError as absence:
        why = f"absent: {absence}"
    except Exception as error:  # noqa: BLE001 - whatever a peer or a driver throws
        why = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
    report.say(f"  {case:<10} {candidate:<44} {why}")
    report.rows.append({"section": section, "case": case, "candidate": candidate, "what": why})
    return None


# --- xpmlp on this machine ---


class OneByOne(Machine):
    """A machine that captures nothing."""

    def capture(self, program: Any, repeats: int) -> Any:  # noqa: ARG002
        """Refuse."""
        raise RuntimeError("not asked to capture")


class OneChain(Machine):
    """A machine that puts nothing aside."""

    def _call(self, node: Any) -> Any:
        if isinstance(node, Join):
            return lambda: None
        return super()._call(node._replace(aside=False) if isinstance(node, Launch) else node)


def by_cublas(call: Callable[[], Any]) -> Any:
    """Call, with no product small enough to be a kernel of ours."""
    before, cuda_plan.SMALL_PRODUCT = cuda_plan.SMALL_PRODUCT, 0
    try:
        return call()
    finally:
        cuda_plan.SMALL_PRODUCT = before


@dataclass(frozen=True)
class Bench:
    """Where xpmlp's steps run: CuPy, or in a dry run NumPy with the kernels on the CPU."""

    dry: bool
    place: Any
    captured: type
    uncaptured: type

    @property
    def rounds(self) -> int:
        """How often a measurement is repeated."""
        return 1 if self.dry else 5

    def put(self, array: Any) -> Any:
        """Bring numbers here in float32."""
        return self.place.asarray(np.asarray(array, dtype=np.float32))

    def wait(self) -> None:
        """Wait until the device has nothing left to do."""
        if not self.dry:
            importlib.import_module("cupy").cuda.runtime.deviceSynchronize()


def bench(dry: bool) -> Bench:
    if not dry:
        found = probe("cupy")
        if found.state is not ProbeState.OK:
            sys.exit(f"CuPy cannot run here: {found.state} ({found.message}). {found.hint}. --dry runs on a CPU.")
        uncaptured = type("Uncaptured", (cupy_runner.Runner,), {"machine": OneByOne})
        return Bench(False, select("cupy"), cupy_runner.Runner, uncaptured)
    shim = importlib.import_module("kernel_shim")
    nothing = type("CapturesNothing", (shim.ShimMachine,), {"captures": False})
    made = [type("OnCpu", (cupy_runner.Runner,), {"machine": machine}) for machine in (shim.ShimMachine, nothing)]
    return Bench(True, select("numpy"), *made)


def samples(size: Size, seed: int = 0, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and one-hot labels that can be learned from them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n or size.batch * size.n_batches, size.sizes[0]), dtype=np.float32)
    directions = rng.standard_normal((size.sizes[0], size.sizes[-1]), dtype=np.float32)
    return x, np.eye(size.sizes[-1], dtype=np.float32)[np.argmax(x @ directions, axis=1)]


def network(size: Size) -> Network:
    rows = [activation("relu")] * (len(size.sizes) - 2) + [activation("softmax")]
    return Network(Layout(size.sizes), tuple(rows), loss("cross_entropy"))


def weights(size: Size, m: int | None = None) -> np.ndarray:
    """He's, the same for everybody."""
    rng = np.random.default_rng(1)
    layout = Layout(size.sizes)
    lead = () if m is None else (m,)
    flat = np.zeros((*lead, layout.size), dtype=np.float32)
    for segment in layout.segments[: layout.n_layers]:
        drawn = rng.standard_normal((*lead, segment.stop - segment.start)) * math.sqrt(2.0 / segment.shape[0])
        flat[..., segment.start : segment.stop] = drawn
    return flat


def runner_of(
    here: Bench, kind: Any, size: Size, precision: str = "highest", m: int | None = None, method: str = "adam"
) -> tuple[Any, State]:
    task = Task(network(size), optimizer(method), precision=precision)
    x, y = samples(size)
    p = here.put(weights(size, m))
    return kind(task, Data(here.place, here.put(x), here.put(y), None, size.batch)), State(
        p, optimizer(method).init(p).slots, 0
    )


def warm_up(here: Bench, seconds: float = 2.0) -> None:
    """Work until the clocks of a card have risen."""
    runner, state = runner_of(here, eager.Runner, DRY_SIZES["small"])
    began = time.perf_counter()
    while not here.dry and time.perf_counter() - began < seconds:
        state, value = runner.epoch(state, None, lambda _: 0.0)
        here.place.backend.to_numpy(value)


def on_library(here: Bench, backend: str, precision: str) -> Bench:
    """The bench of another library's runner, where it has a device that is no CPU."""
    if here.dry:
        raise AbsentError("no GPU in a dry run")
    found = probe(backend, "cuda")
    if found.state is not ProbeState.OK:
        raise AbsentError(found.message)
    if backend == "torch":  # whose precision is one setting for all of the process
        importlib.import_module("torch").set_float32_matmul_precision(precision)
    return Bench(False, select(backend, "cuda"), find_runner, find_runner)


def seconds_per_step(here: Bench, kind: Any, size: Size, precision: str = "highest", m: int | None = None) -> Any:
    """The wall time of a step over whole epochs, the uploads of an epoch included; and the runner."""
    runner, state = runner_of(here, kind, size, precision, m)
    rng, n = np.random.default_rng(2), size.batch * size.n_batches
    order = rng.permutation(n) if m is None else np.stack([rng.permutation(n)] * m)

    def epoch() -> None:
        nonlocal state
        state, value = runner.epoch(state, order, lambda _: LEARNING_RATE)
        here.place.backend.to_numpy(value)  # waits

    epoch()
    return timed(epoch, here.rounds, size.n_batches), runner


def timed(call: Callable[[], object], rounds: int, steps: int) -> list[float]:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) / steps)
    return times


def products(here: Bench, size: Size, precision: str) -> list[float]:
    """The products of a step by cuBLAS and nothing else, in a graph: the floor, where products are not small."""
    runner, state = runner_of(here, here.captured, size, precision)
    runner.epoch(state, None, lambda _: 0.0)
    plan = [it for it in nodes(runner._arrays, size.batch) if isinstance(it, Product) and not it.exact]
    machine, repeats = runner._machine, 2 if here.dry else max(size.n_batches, 50)
    launch = machine.capture(machine.program(plan), 1)

    def many() -> None:
        with machine.in_order():
            for _ in range(repeats):
                launch()
        machine.wait()

    many()
    return timed(many, here.rounds, repeats)


# --- The peers ---


def torch_on_gpu(precision: str) -> Any:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise AbsentError("PyTorch is not installed") from None
    if not torch.cuda.is_available():
        raise AbsentError(f"PyTorch {torch.__version__} sees no GPU")
    torch.set_float32_matmul_precision(precision)
    return torch


def torch_steps(size: Size, precision: str, *, graph: bool, compiled: bool) -> list[float]:
    torch = torch_on_gpu(precision)
    layers: list[Any] = []
    for n, m in zip(size.sizes[:-1], size.sizes[1:], strict=True):
        layers += [torch.nn.Linear(n, m), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).cuda()
    method = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True, capturable=True)
    x, y = samples(size, n=size.batch)
    x, labels = torch.tensor(x, device="cuda"), torch.tensor(y.argmax(axis=1), device="cuda")
    value = torch.nn.functional.cross_entropy

    def network_loss() -> Any:
        return value(model(x), labels)

    if compiled:  # for these shapes: else the second size is compiled for any
        torch._dynamo.reset()
        network_loss = torch.compile(network_loss, dynamic=False)

    def step() -> None:
        method.zero_grad(set_to_none=True)
        network_loss().backward()
        method.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(side)
    call = step
    if graph:
        captured = torch.cuda.CUDAGraph()
        method.zero_grad(set_to_none=True)
        with torch.cuda.graph(captured):
            network_loss().backward()
            method.step()
        call = captured.replay
    repeats = max(size.n_batches, 50)

    def many() -> None:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()

    many()
    return timed(many, 5, repeats)


def jax_steps(size: Size, precision: str) -> list[float]:
    try:
        jax = importlib.import_module("jax")
    except ImportError:
        raise AbsentError("JAX is not installed") from None
    if jax.default_backend() != "gpu":
        raise AbsentError(f"JAX {jax.__version__} sees no GPU")
    jnp = jax.numpy
    x, y = (jnp.asarray(it) for it in samples(size, n=size.batch))
    W, b, _ = Layout(size.sizes).unpack(weights(size))
    start = tuple((jnp.asarray(Wk), jnp.asarray(bk)) for Wk, bk in zip(W[1:], b[1:], strict=True))

    def value(p: Any) -> Any:
        a = x
        for Wk, bk in p[:-1]:
            a = jax.nn.relu(a @ Wk + bk)
        z = a @ p[-1][0] + p[-1][1]
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(z), axis=-1))

    def step(state: Any, _: Any) -> Any:
        p, m, v, t = state
        t = t + 1
        out, g = jax.value_and_grad(value)(p)
        tree = jax.tree.map
        m, v = (
            tree(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, m, g),
            tree(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, v, g),
        )
        rate = LEARNING_RATE * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        return (tree(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + EPSILON), p, m, v), m, v, t), out

    repeats = max(size.n_batches, 50)
    with jax.default_matmul_precision("highest" if precision == "highest" else "tensorfloat32"):
        epoch = jax.jit(lambda state: jax.lax.scan(step, state, None, length=repeats), donate_argnums=0)
        zeros = jax.tree.map(jnp.zeros_like, (start, start))
        state = (start, *zeros, jnp.zeros(()))

        def many() -> None:
            nonlocal state
            state, values = epoch(state)
            jax.block_until_ready(values)

        many()
        return timed(many, 5, repeats)


# --- The sections ---


def steps(report: Report, here: Bench, sizes: list[Size]) -> None:
    """The table of steps."""
    warm_up(here)
    for size in sizes:
        for precision in ("highest",) if size.name == "small" else ("highest", "high"):
            report.say(f"{size.name}: {'-'.join(map(str, size.sizes))}, batch {size.batch}, precision {precision}")
            found = step_times(report, here, size, precision)
            ratios(report, size, precision, found)
            gc.collect()


def step_times(report: Report, here: Bench, size: Size, precision: str) -> dict[str, float]:
    found: dict[str, float] = {}

    def take(name: str, call: Callable[[], list[float]]) -> None:
        if report.candidates and not any(it in name for it in report.candidates):
            return
        times = attempt(report, "steps", size.name, f"{name} {precision}", call)
        if times is not None:
            micro = [1e6 * it for it in times]
            found[name] = report.add("steps", size.name, name, "step", "us", micro, precision=precision)
            rate = [size.flops / it / 1e12 for it in times]
            report.add("steps", size.name, name, "products", "TFLOP/s", rate, precision=precision)

    def xpmlp(kind: Any) -> list[float]:
        times, runner = seconds_per_step(here, kind, size, precision)
        if runner.reason and kind in (here.captured, captured.Runner):
            report.say(f"  not captured: {runner.reason}")
        if kind is here.captured and isinstance(runner, cupy_runner.Runner):
            launches = [sum(not isinstance(it, Join) for it in nodes(runner._arrays, size.batch))]
            report.add("steps", size.name, "xpmlp", "launches of a step", "", launches, precision=precision)
        return times

    take("bare products", lambda: by_cublas(lambda: products(here, size, precision)))
    take("xpmlp fused", lambda: xpmlp(here.captured))
    if precision == "highest":
        if not here.dry and size.name in ("small", "tabular"):
            chain = type("OneChain", (cupy_runner.Runner,), {"machine": OneChain})
            take("xpmlp fused, in one chain", lambda: xpmlp(chain))
            take("xpmlp fused, all products by cuBLAS", lambda: by_cublas(lambda: xpmlp(here.captured)))
        take("xpmlp fused, node by node", lambda: xpmlp(here.uncaptured))
        if not here.dry:
            take("xpmlp captured", lambda: xpmlp(captured.Runner))
        take("xpmlp eager", lambda: xpmlp(eager.Runner))
    for library in ("torch", "jax"):
        there = partial(on_library, here, library, precision)
        take(f"xpmlp on {library}", lambda there=there: seconds_per_step(there(), find_runner, size, precision)[0])
    if precision == "highest":
        take("torch eager", lambda: torch_steps(size, precision, graph=False, compiled=False))
        take("torch compile + graph", lambda: torch_steps(size, precision, graph=True, compiled=True))
    take("torch graph", lambda: torch_steps(size, precision, graph=True, compiled=False))
    take("jax scan", lambda: jax_steps(size, precision))
    return found


def ratios(report: Report, size: Size, precision: str, found: dict[str, float]) -> None:
    ours = found.get("xpmlp fused")
    if ours is None:
        return
    small = size.name in ("small", "tabular") and precision == "highest"
    for name in ("torch graph", "torch compile + graph", "jax scan"):
        if name in found:
            goal = 1.0 if small and name != "torch compile + graph" else None
            report.add(
                *("steps", size.name, f"xpmlp fused / {name}", "ratio", "", [ours / found[name]]),
                precision=precision,
                at_most=goal,
            )
    if "bare products" in found:
        goal = 1.15 if size.name == "wide" and precision == "highest" else None
        ratio = [ours / found["bare products"]]
        report.add(
            *("steps", size.name, "xpmlp fused / bare products", "ratio", "", ratio),
            precision=precision,
            at_most=goal,
        )
    if "xpmlp eager" in found:
        goal = 8.0 if size.name == "small" else None
        ratio = [found["xpmlp eager"] / ours]
        report.add(
            *("steps", size.name, "xpmlp eager / xpmlp fused", "ratio", "", ratio),
            precision=precision,
            at_least=goal,
        )
    if "xpmlp captured" in found:  # below 1.5 the kernels of the fused step are not worth what they cost to keep
        goal = 1.5 if size.name in ("tabular", "images") else None
        ratio = [found["xpmlp captured"] / ours]
        report.add(
            *("steps", size.name, "xpmlp captured / xpmlp fused", "ratio", "", ratio),
            precision=precision,
            at_least=goal,
        )


def node_times(report: Report, here: Bench, sizes: list[Size]) -> None:
    """Each node of the fused step by itself."""
    for size in sizes:
        attempt(report, "nodes", size.name, "all nodes", partial(nodes_of, report, here, size))


def nodes_of(report: Report, here: Bench, size: Size, repeats: int = 20) -> None:
    runner, state = runner_of(here, here.captured, size)
    runner.epoch(state, None, lambda _: 0.0)
    machine, buffers = runner._machine, runner._arrays
    plan = [it for it in nodes(buffers, size.batch) if not isinstance(it, Join)]
    for i, node in enumerate(it._replace(aside=False) if isinstance(it, Launch) else it for it in plan):
        launch = machine.capture(machine.program([node]), repeats)

        def once(launch: Any = launch) -> None:
            buffers.values["cells"][...] = 0  # gather and update index by them, and output counts them up
            here.wait()
            launch()
            machine.wait()

        once()
        what = f"{node.out.shape[-2]} x {node.out.shape[-1]}" if isinstance(node, Product) else node.kernel
        report.add("nodes", size.name, f"{i}: {what}", "node", "us", [1e6 * it for it in timed(once, 3, repeats)])


def many(report: Report, here: Bench, _sizes: list[Size]) -> None:
    """64 networks at once beside one."""
    size, m = (DRY_SIZES if here.dry else SIZES)["small"], 3 if here.dry else 64
    one, at_once = (
        attempt(
            *(report, "many", size.name, f"{count or 1} networks"),
            lambda count=count: seconds_per_step(here, here.captured, size, m=count)[0],
        )
        for count in (None, m)
    )
    if one and at_once:
        report.add("many", size.name, "one network", "step", "us", [1e6 * it for it in one])
        report.add("many", size.name, f"{m} networks", "step", "us", [1e6 * it for it in at_once])
        ratio = [statistics.median(at_once) / statistics.median(one)]
        report.add("many", size.name, f"{m} networks / one", "ratio", "", ratio, at_most=3.0)


def fit(report: Report, here: Bench, _sizes: list[Size]) -> None:
    """A long fit, here and on the CPU."""
    rows, epochs, batch, layers = (600, 2, 64, (5, 7, 3)) if here.dry else (1_000_000, 10, 1024, (54, 256, 128, 7))
    x, y = samples(Size("fit", batch, layers, 1), n=rows)
    for name, there, n_epochs in (("this device", here.place, epochs), ("the CPU", select("numpy"), 1)):

        def whole(there: Any = there, n_epochs: int = n_epochs, name: str = name) -> list[float]:
            net = MLP(layers, loss="cross_entropy", backend=there.backend.name, dtype="float32", random_state=0)
            start = time.perf_counter()
            net.fit(there.asarray(x), there.asarray(y), epochs=n_epochs, batch_size=batch)
            here.wait()
            report.say(f"  loss of epoch {n_epochs} on {name}: {net.history['loss'][-1]:.4f}")
            return [(time.perf_counter() - start) * epochs / n_epochs]

        spent = attempt(report, "fit", f"{rows:,} rows", name, whole)
        if spent:
            note = "" if n_epochs == epochs else f" ({n_epochs} timed)"
            report.add("fit", f"{rows:,} x {layers[0]}", name + note, f"{epochs} epochs", "s", spent)


def predict(report: Report, here: Bench, _sizes: list[Size]) -> None:
    """A large table predicted from the host, by the size of a block."""
    rows, layers = (600, (5, 7, 3)) if here.dry else (1_000_000, (54, 256, 128, 7))
    x, y = samples(Size("predict", 128, layers, 1), n=rows)
    clf = MLPClassifier(layers[1:-1], max_iter=1, backend=here.place.backend.name, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf.fit(x[:500], y[:500].argmax(axis=1))
    for power in (22, 24, 26, 28):

        def whole(power: int = power) -> list[float]:
            with mock.patch.object(Place, "block_bytes", 2**power):
                clf.predict_proba(x)
                return timed(lambda: clf.predict_proba(x), 3, 1)

        spent = attempt(report, "predict", f"{rows:,} rows", f"blocks of 2^{power}", whole)
        if spent:
            report.add("predict", f"{rows:,}", f"blocks of 2^{power} bytes", "predict_proba", "ms", [1e3 * spent[0]])


def tables(report: Report, here: Bench, _sizes: list[Size]) -> None:
    """TabularClassifier, here and on the CPU."""
    rows = 300 if here.dry else 10_000
    x, y = make_classification(2 * rows, 30, n_informative=12, n_classes=4, flip_y=0.02, random_state=0)
    x = x.astype(np.float32)
    for there in (here.place, select("numpy")):

        def whole(there: Any = there) -> list[float]:
            limit = {"max_iter": 2} if here.dry else {}
            clf = TabularClassifier(backend=there.backend.name, random_state=0, **limit)
            start = time.perf_counter()
            clf.fit(x[:rows], y[:rows])
            spent = time.perf_counter() - start
            share, epochs = float(np.mean(clf.predict(x[rows:]) == y[rows:])), clf.n_iter_
            report.say(f"  test accuracy {share:.4f} after {epochs} epochs on {there}")
            return [spent]

        spent = attempt(report, "tables", f"{rows:,} rows", str(there), whole)
        if spent:
            report.add("tables", f"{rows:,} x 30", str(there), "fit", "s", spent)


def accuracy(report: Report, here: Bench, sizes: list[Size]) -> None:
    """One step of descent in float32 beside NumPy's in float64, and the test accuracy of trained models.

    Not a step of Adam: its first is the rate times the sign of each derivative, and of noise the sign is noise too.
    """
    for size in sizes:

        def one_step(size: Size = size) -> float:
            short = replace_batches(size, 1)
            runner, state = runner_of(here, here.captured, short, method="sgd")
            state, _ = runner.epoch(state, None, lambda _: 1.0)
            x, y = (it.astype(np.float64) for it in samples(short))
            p = weights(short).astype(np.float64)
            reference = eager.Runner(
                Task(network(short), optimizer("sgd")), Data(select("numpy"), x, y, None, size.batch)
            )
            wanted, _ = reference.epoch(State(p, (), 0), None, lambda _: 1.0)
            got = here.place.backend.to_numpy(state.p)
            return float(np.max(np.abs(got - wanted.p)) / np.max(np.abs(wanted.p)))

        off = attempt(report, "accuracy", size.name, "one step", one_step)
        if off is not None:
            report.add("accuracy", size.name, "one step from NumPy's in float64", "off", "", [off], at_most=1e-5)
    layers = (20, 64, 64, 5)
    x, y = samples(Size("test", 128, layers, 1), n=600 if here.dry else 20_000)
    half = len(x) // 2
    for there in (here.place, select("numpy")):
        shares = []
        for seed in range(2 if here.dry else 5):
            net = MLP(layers, loss="cross_entropy", backend=there.backend.name, dtype="float32", random_state=seed)
            net.fit(there.asarray(x[:half]), there.asarray(y[:half]), epochs=2 if here.dry else 20, batch_size=128)
            yhat = there.backend.to_numpy(net.predict(there.asarray(x[half:])))
            shares.append(float(np.mean(yhat.argmax(axis=1) == y[half:].argmax(axis=1))))
        report.add("accuracy", "5 seeds", str(there), "test accuracy", "", shares)


def replace_batches(size: Size, n_batches: int) -> Size:
    return size._replace(n_batches=n_batches)


SECTIONS = {
    "steps": steps,
    "nodes": node_times,
    "many": many,
    "fit": fit,
    "predict": predict,
    "tables": tables,
    "accuracy": accuracy,
}


def environment(report: Report, here: Bench) -> None:
    about = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    for name in ("numpy", "cupy", "torch", "jax"):
        try:
            about[name] = str(importlib.import_module(name).__version__)
        except ImportError:
            about[name] = "absent"
    if not here.dry:
        runtime = importlib.import_module("cupy").cuda.runtime
        about["device"] = runtime.getDeviceProperties(here.place.device.id)["name"].decode()
        about["driver"], about["cuda"] = str(runtime.driverGetVersion()), str(runtime.runtimeGetVersion())
    for name, value in about.items():
        report.say(f"{name}: {value}")
        report.rows.append({"section": "environment", "case": name, "what": value})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--candidates", nargs="+", default=[], help="only steps whose names hold one of these")
    parser.add_argument("--dry", action="store_true", help="small sizes on a CPU")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    here, report = bench(options.dry), Report(options.dry, options.candidates)
    environment(report, here)
    table = DRY_SIZES if options.dry else SIZES
    for name in options.sections:
        report.say(f"\n{name}: {(SECTIONS[name].__doc__ or '').splitlines()[0]}")
        chosen = [table[size] for size in options.sizes if size in table]
        try:
            attempt(report, name, "", "the whole section", partial(SECTIONS[name], report, here, chosen))
        finally:  # whatever comes after
            if not options.dry:
                report.write(options.results)
    failed = [row for row in report.rows if str(row.get("what", "")).startswith("failed")]
    if failed:
        sys.exit(f"{len(failed)} candidates failed; see above.")


if __name__ == "__main__":
    main()
