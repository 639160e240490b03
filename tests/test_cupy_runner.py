"""The CuPy runner without a GPU: on a CPU that runs its kernels, on a CuPy that keeps a log."""

import ctypes
import gc
import importlib
import logging
import subprocess
import sys
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fake_cupy
import numpy as np
import pytest
from conftest import REQUIRED
from kernel_shim import COMPILER, ShimMachine
from test_runners import (
    BATCH,
    CASES,
    EPOCHS,
    EVERY,
    FEW,
    PARTS,
    Case,
    N,
    check_divergence,
    check_it_goes_at_once,
    check_partial_fits,
    remembering,
    trained,
)

from xpmlp import MLP, config_context
from xpmlp.backends import BACKENDS, Place, places, select
from xpmlp.backends.namespaces import Namespace
from xpmlp.faults import out_of_memory
from xpmlp.network import Network
from xpmlp.network.activations import Activation, activation
from xpmlp.network.losses import loss
from xpmlp.network.parameters import Layout
from xpmlp.optim.optimizers import OPTIMIZERS, optimizer
from xpmlp.runners import (
    CannotRunError,
    Data,
    KeptRunner,
    Task,
    captured,
    cublas,
    cuda_machine,
    cuda_plan,
    eager,
    find_runner,
)
from xpmlp.runners import cupy as cupy_runner
from xpmlp.runners.cuda_plan import Join, Launch, nodes
from xpmlp.runners.graphs import UNROLLED, WARM_UP, epoch_rates
from xpmlp.runners.step import State
from xpmlp.training.loop import DivergenceWarning

# As in test_runners: 3e-14 and 3e-6 were the largest differences seen.
TOLERANCE = {"float64": 2e-13, "float32": 2e-5}
HOST = select("numpy")


class CpuRunner(cupy_runner.Runner):
    """The runner on a CPU."""

    machine = ShimMachine


class Backwards(ShimMachine):
    backwards = True


class CapturesNothing(ShimMachine):
    captures = False


class Late(ShimMachine):
    late = True


@pytest.fixture(params=["own", "cuBLAS"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who multiplies: kernels of ours, or cuBLAS."""
    if request.param == "cuBLAS":
        monkeypatch.setattr(cuda_plan, "SMALL_PRODUCT", 0)
    return str(request.param)


@pytest.fixture(autouse=True)
def a_compiler() -> None:
    if COMPILER is None:
        reason = "there is no C++ compiler to run the kernels with"
        if {"cupy", "c++"} & REQUIRED:
            pytest.fail(f"XPMLP_REQUIRE wants it, and {reason}", pytrace=False)
        pytest.skip(reason)


def put(dtype: str, array: Any) -> np.ndarray:
    return np.array(array, dtype=dtype)


def on_machine(machine: type) -> type:
    return type("CpuRunner", (cupy_runner.Runner,), {"machine": machine})


def assert_same(got: tuple[State, list[Any]], wanted: tuple[State, list[Any]], tolerance: float) -> None:
    (state, values), (state_wanted, values_wanted) = got, wanted
    assert state.t == state_wanted.t
    arrays = [(state.p, state_wanted.p), *zip(state.slots, state_wanted.slots, strict=True)]
    arrays += [(np.asarray(v), np.asarray(u)) for v, u in zip(values, values_wanted, strict=True)]
    for array, expected in arrays:
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape
        assert np.max(np.abs(array - expected)) <= tolerance * np.max(np.abs(expected))


# --- The steps ---

FUSED = [name for name in CASES if name != "own-activation" and "average" not in name]


@pytest.mark.parametrize("m", [None, 3], ids=["one", "three"])
@pytest.mark.parametrize("name", FUSED)
def test_the_steps_are_those_of_the_eager_runner(name, m, products):
    wanted = trained(CASES[name], m, eager.Runner, partial(put, "float64"), HOST)
    assert_same(trained(CASES[name], m, CpuRunner, partial(put, "float64"), HOST), wanted, TOLERANCE["float64"])


@pytest.mark.parametrize("name", FEW)
def test_the_steps_in_float32_are_near_those_in_float64(name):
    (wanted, _), (got, losses) = (
        trained(CASES[name], None, make, partial(put, dtype), HOST)
        for make, dtype in ((eager.Runner, "float64"), (CpuRunner, "float32"))
    )
    assert got.p.dtype == losses[0].dtype == np.float32
    assert np.max(np.abs(got.p - wanted.p)) <= TOLERANCE["float32"] * np.max(np.abs(wanted.p))


def test_28_adam_steps_in_float32_stay_near_the_float64_reference():
    # 20-48-48-5, batch 32, the difference seen is 2.6e-7 of the largest weight.
    rng = np.random.default_rng(1)
    rows = (activation("relu"), activation("relu"), activation("softmax"))
    network = Network(Layout((20, 48, 48, 5)), rows, loss("cross_entropy"))
    x, y = rng.standard_normal((200, 20)), np.eye(5)[rng.integers(0, 5, 200)]
    p, orders = 0.2 * rng.standard_normal(network.layout.size), [rng.permutation(200) for _ in range(4)]
    ends = {}
    for make, dtype in ((eager.Runner, "float64"), (CpuRunner, "float32")):
        start = put(dtype, p)
        runner = make(Task(network, optimizer("adam")), Data(HOST, put(dtype, x), put(dtype, y), None, 32))
        state = State(start, optimizer("adam").init(start).slots, 0)
        for order in orders:
            state, _ = runner.epoch(state, order, lambda _: 1e-3)
        assert state.t == 28
        ends[dtype] = state.p
    difference = np.max(np.abs(ends["float32"] - ends["float64"])) / np.max(np.abs(ends["float64"]))
    assert difference < 1e-6


@pytest.mark.parametrize("m", [None, 3], ids=["one", "three"])
@pytest.mark.parametrize("name", ["weights", "dropout", "clipping"])
def test_no_thread_cares_when_it_runs_and_no_kernel_put_aside(name, m, products):
    forwards, backwards, late = (
        trained(CASES[name], m, on_machine(machine), partial(put, "float32"), HOST)
        for machine in (ShimMachine, Backwards, Late)
    )
    assert_same(backwards, forwards, 0.0)
    assert_same(late, forwards, 0.0)


def test_a_penalty_has_its_place_in_the_loss_of_weighted_samples():
    case = replace(CASES["weights"], task={"l2": 0.7, "clip_norm": 0.2})
    wanted = trained(case, 3, eager.Runner, partial(put, "float64"), HOST)
    assert_same(trained(case, 3, CpuRunner, partial(put, "float64"), HOST), wanted, TOLERANCE["float64"])


def test_the_comparison_sees_a_hash_that_is_off(monkeypatch):
    from xpmlp.runners import cuda_kernels

    wrong = cuda_kernels._MASK.replace("cells[{cell}] + 1u", "cells[{cell}] + 2u")
    monkeypatch.setattr(cuda_kernels, "_MASK", wrong)
    wanted = trained(CASES["dropout"], None, eager.Runner, partial(put, "float64"), HOST)
    got = trained(CASES["dropout"], None, CpuRunner, partial(put, "float64"), HOST)
    with pytest.raises(AssertionError):
        assert_same(got, wanted, TOLERANCE["float64"])


def simple(
    n: int = N,
    batch: int = BATCH,
    runner: Any = CpuRunner,
    dtype: str = "float64",
    m: int | None = None,
    **options: Any,
) -> tuple[Any, State, np.random.Generator]:
    """A runner of a small regression, and the state it begins with."""
    rng = np.random.default_rng(8)
    rows = (activation(options.pop("hidden", "tanh")), activation("identity"))
    network = Network(Layout((3, 5, 2)), rows, loss("squared_error"))
    method = optimizer(options.pop("optimizer", "adam"))
    data = Data(options.pop("place", HOST), *(put(dtype, rng.standard_normal((n, k))) for k in (3, 2)), None, batch)
    p = put(dtype, rng.standard_normal((*(() if m is None else (m,)), network.layout.size)))
    state = State(p, method.init(p).slots, 0)
    return runner(Task(network, method, **options), data, None), state, rng


NODES = {"own": (9, 13), "cuBLAS": (12, 18)}


def test_two_and_three_layers_are_so_many_nodes(products):
    runner, state, rng = simple()
    runner.epoch(state, rng.permutation(N), lambda _: 0.01)
    case = Case(loss="cross_entropy")
    make, made = remembering(CpuRunner)
    trained(case, None, make, partial(put, "float64"), HOST)
    counts = (sum(not isinstance(it, Join) for it in nodes(it._arrays, BATCH)) for it in (runner, made[0]))
    assert tuple(counts) == NODES[products]


def test_large_products_and_long_sums_are_left_to_cublas():
    assert cuda_plan._is_small(1, 256, 256, 128)
    assert not cuda_plan._is_small(2, 256, 256, 128)
    assert not cuda_plan._is_small(1, 1024, 8, 8)  # dW has its sums
    assert not cuda_plan._is_small(1, 8, 1024, 8)


def test_one_large_product_leaves_all_of_them_to_cublas(monkeypatch):
    monkeypatch.setattr(cuda_plan, "SMALL_PRODUCT", BATCH * 6 * 5 - 1)  # of 3-6-5-4 the middle one is larger
    make, made = remembering(CpuRunner)
    trained(CASES["loss-cross_entropy"], None, make, partial(put, "float64"), HOST)
    assert len(nodes(made[0]._arrays, BATCH)) == NODES["cuBLAS"][1]


@pytest.mark.parametrize(
    ("threads", "networks", "grid"),
    [(5, 1, ((1, 1), 32)), (8192, 1, ((128, 1), 64)), (8192, 4, ((32, 4), 256)), (10**6, 1, ((3907, 1), 256))],
)
def test_small_kernels_are_spread_over_the_card(threads, networks, grid):
    assert Launch("update", threads, networks, {}).grid == grid


def test_the_rates_of_an_epoch_are_those_of_its_updates():
    for row in OPTIMIZERS.values():
        for rate_of in (lambda _: 0.3, lambda i: 0.1 / (1 + i)):
            got = epoch_rates(row, 41, 5, rate_of)
            wanted = [row.rates(42 + i, rate_of(i), **row.parameters) for i in range(5)]
            np.testing.assert_allclose(got, wanted, rtol=1e-12)  # 1 - beta^t magnifies an ulp


# --- Capture ---


def test_a_step_is_captured_after_its_warm_up_and_launched_from_then_on():
    runner, state, rng = simple(n=16)
    for _ in range(2):
        state, _ = runner.epoch(state, rng.permutation(16), lambda _: 0.01)
    assert runner._machine.asked == ["begin", *["run"] * WARM_UP, "end", "begin", "capture 1", *["launch 1"] * 2, "end"]
    assert (runner.name, runner.reason) == ("cupy", "")


def test_long_epochs_launch_several_steps_at_once():
    n_batches = 4 * UNROLLED + 3
    runner, state, rng = simple(n=n_batches * BATCH + 1)
    reference, state_reference, _ = simple(n=n_batches * BATCH + 1, runner=eager.Runner)
    order = rng.permutation(n_batches * BATCH + 1)
    got = runner.epoch(state, order, lambda i: 0.01 / (i + 1))
    asked = runner._machine.asked
    assert asked.count(f"launch {UNROLLED}") == (n_batches - WARM_UP) // UNROLLED
    assert asked.count("launch 1") == (n_batches - WARM_UP) % UNROLLED
    assert asked.count("run") == WARM_UP + 1  # and the short last batch
    wanted = reference.epoch(state_reference, order, lambda i: 0.01 / (i + 1))
    assert_same((got[0], [got[1]]), (wanted[0], [wanted[1]]), TOLERANCE["float64"])


def test_where_nothing_can_be_captured_the_nodes_go_on_one_by_one(caplog):
    caplog.set_level(logging.INFO, "xpmlp")
    make, made = remembering(on_machine(CapturesNothing))
    got = trained(CASES["dropout"], 3, make, partial(put, "float64"), HOST)
    wanted = trained(CASES["dropout"], 3, eager.Runner, partial(put, "float64"), HOST)
    assert_same(got, wanted, TOLERANCE["float64"])
    assert made[0].name == "cupy"
    assert made[0].reason == "the step cannot be captured: RuntimeError: this driver captures nothing"
    assert [record.message for record in caplog.records] == [f"the cupy runner goes on call by call: {made[0].reason}"]


class FailsLater(ShimMachine):
    """The first kernel of a second size of batch does not run."""

    def run(self, program: list) -> None:
        if len(self.asked) > 2:
            raise RuntimeError("out of luck")
        super().run(program)


def test_where_a_first_step_fails_the_eager_runner_takes_the_epoch(caplog):
    caplog.set_level(logging.INFO, "xpmlp")
    make, made = remembering(on_machine(FailsLater))
    got = trained(CASES["clipping"], None, make, partial(put, "float64"), HOST)  # here it is the short last batch
    wanted = trained(CASES["clipping"], None, eager.Runner, partial(put, "float64"), HOST)
    assert_same(got, wanted, TOLERANCE["float64"])
    assert (made[0].name, made[0].reason) == ("eager", "the first step failed: RuntimeError: out of luck")
    assert "leaves this training to the eager one: the first step failed" in caplog.text


# --- State ---


def test_an_interrupted_epoch_leaves_a_whole_state():
    runner, state, rng = simple()
    reference, state_reference, _ = simple(runner=eager.Runner)
    order = rng.permutation(N)

    def after_two() -> Any:
        answers = iter([False, True])
        return lambda: next(answers)

    for _ in range(2):
        state, value = runner.epoch(state, order, lambda _: 0.01, after_two())
        state_reference, wanted = reference.epoch(state_reference, order, lambda _: 0.01, after_two())
        assert state.t == state_reference.t
        assert_same((state, [value]), (state_reference, [wanted]), TOLERANCE["float64"])


@pytest.mark.parametrize("m", [None, 3], ids=["one", "three"])
def test_whoever_hands_over_other_arrays_is_followed(m):
    runner, state, rng = simple(m=m)
    order = rng.permutation(N)
    first, _ = runner.epoch(State(state.p.copy(), tuple(map(np.copy, state.slots)), 0), order, lambda _: 0.01)
    once = first.p.copy()
    runner.epoch(first, order, lambda _: 0.01)
    again, _ = runner.epoch(State(state.p.copy(), tuple(map(np.copy, state.slots)), 0), order, lambda _: 0.01)
    np.testing.assert_array_equal(again.p, once)


def test_arrays_with_strides_are_read_as_they_are():
    rng = np.random.default_rng(0)
    runner, state, _ = simple()
    reference, state_reference, _ = simple(runner=eager.Runner)
    for it in (runner, reference):
        it.data.x = np.asfortranarray(it.data.x)
    order = rng.permutation(N)
    got, wanted = runner.epoch(state, order, lambda _: 0.1), reference.epoch(state_reference, order, lambda _: 0.1)
    assert_same((got[0], [got[1]]), (wanted[0], [wanted[1]]), TOLERANCE["float64"])


def test_several_networks_lie_apart_and_the_gap_stays_zero():
    runner, state, rng = simple(m=3, dtype="float32", optimizer="rmsprop")
    state, _ = runner.epoch(state, np.stack([rng.permutation(N)] * 3), lambda _: 0.01)
    buffers, size = runner._arrays, state.p.shape[-1]
    pitch = buffers.values["pitch"]
    assert pitch % 64 == 0
    for flat in (buffers.p, *buffers.slots, buffers.g):
        assert flat.shape == (3, pitch)
        np.testing.assert_array_equal(flat[:, size:], 0.0)


def test_numbers_that_are_not_finite_reach_the_loss_and_the_weights():
    runner, state, rng = simple(hidden="relu")
    state.p[0] = np.nan
    state, value = runner.epoch(state, rng.permutation(N), lambda _: 0.01)
    assert np.isnan(value)
    assert np.isnan(state.p).any()


# --- Refusals ---


def test_what_has_no_column_of_c_is_left_to_the_eager_runner():
    own = Activation("relu", lambda z: z, lambda z, a: 1.0 + 0.0 * z)  # a row of one's own under a name of ours
    rows = (own, activation("identity"))
    network = Network(Layout((3, 5, 2)), rows, loss("squared_error"))
    data = Data(HOST, np.zeros((4, 3)), np.zeros((4, 2)), None, 2)
    with pytest.raises(CannotRunError, match="the activation 'relu' has no column of C"):
        CpuRunner(Task(network, optimizer("sgd")), data)
    network = replace(network, activations=(activation("relu"), activation("identity")))
    pair = loss((lambda y, a: ((a - y) ** 4).sum(-1), lambda y, a: 4 * (a - y) ** 3))
    with pytest.raises(CannotRunError, match="the loss 'own <lambda>' has no column of C"):
        CpuRunner(Task(replace(network, loss=pair), optimizer("sgd")), data)
    with pytest.raises(CannotRunError, match="the optimizer 'sgd' has no column of C"):
        CpuRunner(Task(network, replace(optimizer("sgd"), step=lambda g, slots, rates: (g, slots))), data)
    half = Data(HOST, np.zeros((4, 3), "float16"), np.zeros((4, 2), "float16"), None, 2)
    with pytest.raises(CannotRunError, match="for float32 and float64, not for float16"):
        CpuRunner(Task(network, optimizer("sgd")), half)
    CpuRunner(Task(replace(network, loss=loss("huber", delta=2.0)), optimizer("sgd")), data)  # parameters are no change


def test_where_no_kernels_can_be_made_the_reason_can_be_read(caplog):
    caplog.set_level(logging.INFO, "xpmlp")
    task, data = _tiny_task()
    data.place = Place(BACKENDS["cupy"], np, object())  # no device either
    runner = find_runner(task, data)
    assert runner.name == "eager"
    assert runner.reason.startswith("the kernels of this network cannot be made here: ")
    assert all(why in caplog.text for why in runner.reason.split("; "))


def _tiny_task() -> tuple[Task, Data]:
    network = Network(Layout((3, 2)), (activation("identity"),), loss("squared_error"))
    return Task(network, optimizer("sgd")), Data(HOST, np.zeros((4, 3)), np.zeros((4, 2)), None, 2)


def test_memory_that_runs_out_is_no_reason_to_try_another_runner():
    class Full(ShimMachine):
        def __init__(self, *args: Any, **options: Any) -> None:
            raise MemoryError("out of memory")

    with pytest.raises(MemoryError):
        on_machine(Full)(*_tiny_task())


def failing(text: str, where: str) -> type:
    def fail(self: Any, *_: Any, **__: Any) -> None:
        raise RuntimeError(text)

    return on_machine(type("Failing", (ShimMachine,), {where: fail}))


@pytest.mark.parametrize("where", ["__init__", "run"])
@pytest.mark.parametrize("text", ["cudaErrorMemoryAllocation: out of memory", "failed (CUBLAS_STATUS_ALLOC_FAILED)"])
def test_memory_that_runs_out_inside_a_library_is_no_reason_either(where, text):
    task, data = _tiny_task()
    with pytest.raises(RuntimeError) as error:
        failing(text, where)(task, data).epoch(State(np.zeros(8), (), 0), None, lambda _: 0.1)
    assert out_of_memory(error.value)  # which `fit` makes a MemoryError of
    with pytest.raises(RuntimeError, match="CUBLAS_STATUS_ALLOC_FAILED"):
        cublas.Cublas._check(3, "cublasGemmEx")


def test_the_error_that_lost_the_device_is_not_hidden_by_those_that_follow(monkeypatch):
    def wait(self: Any) -> None:
        raise RuntimeError("cudaErrorIllegalAddress, once more")

    monkeypatch.setattr(ShimMachine, "wait", wait)
    task, data = _tiny_task()
    runner = failing("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access", "run")(task, data)
    with pytest.raises(RuntimeError, match="an illegal memory access"):  # no other runner could go on
        runner.epoch(State(np.zeros(8), (), 0), None, lambda _: 0.1)
    runner.close()


@pytest.mark.parametrize(("setting", "place"), [("fused", "HOST"), ("step", "FAKE")])
def test_a_stream_of_partial_fits_has_one_runner_and_its_graph(setting, place, driver, monkeypatch):
    kept = KeptRunner()
    monkeypatch.setattr(importlib.import_module("xpmlp.runners.numpy"), "Runner", CpuRunner)

    def make(*arguments: Any) -> Any:
        with config_context(captured=setting):
            return kept(*arguments)

    runner = check_partial_fits({"HOST": HOST, "FAKE": FAKE}[place], make).runner
    assert runner.captures == setting
    assert runner._batches[8].graphs


# --- The machine, on a CuPy that keeps a log ---


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A CuPy and a cuBLAS that run on the CPU, behind the machine's own calls."""
    pathfinder = fake_cupy.pretended_cublas()
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", pathfinder)

    class Queued(cublas.Cublas):
        """The real calls, made when the stream comes to them."""

        def multiply(self, product: Any) -> None:
            fake_cupy.current[-1].put(partial(super().multiply, product))

    monkeypatch.setattr(cuda_machine, "Cublas", Queued)
    monkeypatch.setattr(fake_cupy.RawModule, "broken", "")
    fake_cupy.log.clear()
    loaded, handle = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path), ctypes.c_void_p()
    loaded.cublasCreate_v2(ctypes.byref(handle))
    monkeypatch.setattr(fake_cupy.cuda, "get_cublas_handle", lambda: handle.value)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", fake_cupy.functions)
    monkeypatch.setitem(places._NAMESPACES, fake_cupy.ndarray, NAMESPACE)
    return loaded


NAMESPACE = Namespace(fake_cupy.functions, BACKENDS["cupy"].replaced)
ROW = replace(
    BACKENDS["cupy"],
    from_numpy=lambda array, _xp, _device: np.array(array).view(fake_cupy.ndarray),
    to_numpy=fake_cupy.plain,
    lacks=lambda _device: set(),
)
FAKE = Place(ROW, NAMESPACE, fake_cupy.Device(3))


def fake(dtype: str, array: Any) -> Any:
    return np.array(array, dtype=dtype).view(fake_cupy.ndarray)


def trained_there(case: Case, m: int | None, make: Any) -> Any:
    with FAKE.device:
        return trained(case, m, make, partial(fake, "float64"), FAKE)


@pytest.mark.parametrize(("name", "m"), EVERY, ids=lambda it: {None: "one", 3: "three"}.get(it, it))
def test_queued_and_captured_steps_are_those_of_the_eager_runner_and_who_is_not_fused_says_why(
    name, m, products, driver
):
    case = (CASES | PARTS)[name]
    wanted, batched = trained(case, m, eager.Runner, partial(put, "float64"), HOST), driver.batched_calls()
    make, made = remembering(find_runner)
    got = trained_there(case, m, make)
    assert made[0].name == ("cupy" if name in FUSED else "captured")
    assert made[0].reason == "" if name in FUSED else "no column of C" in made[0].reason
    assert all(batch.graphs for batch in made[0]._batches.values())
    assert_same(got, wanted, TOLERANCE["float64"])
    if name in CASES:  # the products of parts and members have axes of their own
        by_cublas = products != "own" or name not in FUSED or name == "clipping"
        assert (driver.batched_calls() > batched) == (m is not None and by_cublas)


@pytest.mark.parametrize(("name", "m"), EVERY, ids=lambda it: {None: "one", 3: "three"}.get(it, it))
def test_the_step_of_array_functions_is_captured_and_takes_the_steps_of_the_eager_runner(name, m, driver):
    # Own functions too. The stand-in refuses what CuPy does in a capture: products, numbers from the host and to it.
    case = (CASES | PARTS)[name]
    wanted = trained(case, m, eager.Runner, partial(put, "float64"), HOST)
    make, made = remembering(captured.Runner)
    got = trained_there(case, m, make)
    assert (made[0].name, made[0].reason) == ("captured", "")
    assert all(batch.graphs for batch in made[0]._batches.values())
    assert_same(got, wanted, TOLERANCE["float64"])


@pytest.mark.parametrize("make", [cupy_runner.Runner, captured.Runner], ids=["fused", "captured"])
def test_100_adam_steps_stay_within_1e10_of_the_eager_runner(make, driver):
    ends = []
    for runner, place, kind in ((eager.Runner, HOST, put), (make, FAKE, fake)):
        it, state, rng = simple(n=40, runner=runner, place=place)
        it.data = Data(place, kind("float64", it.data.x), kind("float64", it.data.y), None, BATCH)
        state = State(kind("float64", state.p), tuple(kind("float64", slot) for slot in state.slots), 0)
        for _ in range(20):
            state, _ = it.epoch(state, rng.permutation(40), lambda _: 0.01)
        assert state.t == 100
        ends.append(np.array(state.p))
    assert np.max(np.abs(ends[1] - ends[0])) < 1e-10


def test_a_deep_network_is_captured_too(driver):
    # CuPy joins more than 8 arrays by a table of pointers that it brings over; 6 layers are 12 arrays.
    rows = (*(activation("tanh"),) * 5, activation("identity"))
    network = Network(Layout((3, 4, 4, 4, 4, 4, 2)), rows, loss("squared_error"))
    x, y, p = np.ones((16, 3)), np.ones((16, 2)), np.linspace(-1.0, 1.0, network.layout.size)
    runner = captured.Runner(
        Task(network, optimizer("sgd")), Data(FAKE, fake("float64", x), fake("float64", y), None, 8)
    )
    state = State(fake("float64", p), (), 0)
    for _ in range(2):
        state, _ = runner.epoch(state, None, lambda _: 0.1)
    assert runner._batches[8].graphs


def reads_the_host(z: Any) -> Any:
    return z * float(z[0, 0])


def multiplies_by_cupy(z: Any) -> Any:
    return z @ np.eye(z.shape[-1]).view(fake_cupy.ndarray)


def asks_the_host(z: Any) -> Any:
    return z * NAMESPACE.asarray(2.0)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (reads_the_host, "a number brought to the host"),
        (multiplies_by_cupy, "cuBLAS through CuPy"),
        (asks_the_host, "a copy from the host"),
    ],
)
def test_a_function_that_no_graph_can_hold_runs_call_by_call_and_says_why(function, why, driver):
    case = Case(hidden=(function, lambda z, a: 1.0 + 0.0 * z))
    make, made = remembering(find_runner)
    state, _ = trained_there(case, None, make)
    assert made[0].name == "captured"
    assert "has no column of C in runners/cuda_columns.py; the step cannot be captured: " in made[0].reason
    assert f"{why} is not permitted while a stream is capturing" in made[0].reason
    wanted, _ = trained_there(case, None, eager.Runner)
    np.testing.assert_allclose(np.asarray(state.p), np.asarray(wanted.p), rtol=1e-12)


def test_what_the_fused_runner_cannot_do_the_captured_one_does(driver, monkeypatch):
    task, data = _tiny_task()
    data = Data(FAKE, fake("float64", data.x), fake("float64", data.y), None, 2)
    assert (find_runner(task, data).name, find_runner(task, data).reason) == ("cupy", "")
    sgd, network = optimizer("sgd"), task.network
    for other, what in (
        ({"optimizer": replace(sgd, step=lambda g, slots, rates: (rates[0] * g, slots))}, "the optimizer 'sgd' has"),
        ({"optimizer": replace(sgd, average=2.0)}, "the average of the weights has"),
        ({"network": replace(network, layout=Layout((3, 2), members=2))}, "parts and members have"),
    ):
        found = find_runner(replace(task, **other), data)
        assert (found.name, found.reason) == ("captured", f"{what} no column of C in runners/cuda_columns.py")
    for setting, name in (("fused", "cupy"), ("step", "captured"), ("never", "eager")):
        with config_context(captured=setting):
            assert find_runner(task, data).name == name


def test_where_a_fused_step_fails_the_captured_one_takes_the_epoch(driver, monkeypatch):
    monkeypatch.setattr(fake_cupy.RawModule, "broken", "gather")
    monkeypatch.setattr(fake_cupy.RawModule, "why", "CUDA_ERROR_NOT_SUPPORTED: operation not supported")
    wanted = trained(CASES["clipping"], None, eager.Runner, partial(put, "float64"), HOST)
    make, made = remembering(cupy_runner.Runner)
    got = trained_there(CASES["clipping"], None, make)
    assert made[0].name == "captured"
    assert made[0].reason == "the first step failed: RuntimeError: CUDA_ERROR_NOT_SUPPORTED: operation not supported"
    assert_same(got, wanted, TOLERANCE["float64"])


@pytest.mark.parametrize(("library", "name"), [("NVRTC", "captured"), ("cuBLAS", "eager")])
def test_where_a_library_is_missing_the_next_runner_takes_over(library, name, driver, monkeypatch):
    def missing(_: Any) -> None:
        raise RuntimeError(f"there is no {library}")

    if library == "NVRTC":
        monkeypatch.setattr(fake_cupy.RawModule, "compile", missing)
    else:
        monkeypatch.setattr(sys.modules["cuda.pathfinder"], "load_nvidia_dynamic_lib", missing)
    make, made = remembering(find_runner)
    wanted = trained(CASES["clipping"], None, eager.Runner, partial(put, "float64"), HOST)
    assert_same(trained_there(CASES["clipping"], None, make), wanted, TOLERANCE["float64"])
    assert made[0].name == name
    assert f"cannot be made here: RuntimeError: there is no {library}" in made[0].reason


def test_where_a_captured_step_fails_the_eager_one_takes_the_epoch(driver):
    def only_outside_the_pool(z: Any) -> Any:
        if fake_cupy.pools:
            raise RuntimeError("not in here")
        return z * z

    case = Case(hidden=(only_outside_the_pool, lambda z, a: 2.0 * z))
    make, made = remembering(captured.Runner)
    got = trained_there(case, None, make)
    assert (made[0].name, made[0].reason) == ("eager", "the first step failed: RuntimeError: not in here")
    wanted = trained_there(case, None, eager.Runner)
    np.testing.assert_allclose(np.asarray(got[0].p), np.asarray(wanted[0].p), rtol=1e-12)


def test_a_pinned_copy_is_not_needed_for_what_is_uploaded_to_live_long_enough():
    class Slow:
        dtype, shape = np.dtype("int32"), (6,)

        def set(self, host: Any) -> None:
            self.source = weakref.ref(host if host.base is None else host.base)

    stream, array = object.__new__(cuda_machine.Stream), Slow()
    stream.upload(array, np.arange(6))
    stream.upload(Slow(), np.arange(6))
    gc.collect()
    first = array.source
    assert first() is not None
    stream.upload(array, np.arange(6))  # of the next epoch: the loss of the one before has been read
    gc.collect()
    assert first() is None
    assert array.source() is not None


def test_streams_wait_for_each_other_graphs_go_first_and_memory_comes_back(driver):
    runner, state, rng = simple(n=16, runner=cupy_runner.Runner, place=FAKE)
    state = State(fake("float64", state.p), tuple(fake("float64", slot) for slot in state.slots), 0)
    for _ in range(2):
        state, _ = runner.epoch(state, rng.permutation(16), lambda _: 0.01)
    with FAKE.device:
        n = sum(not isinstance(it, Join) for it in nodes(runner._arrays, BATCH))
    fences = ["record null", "own waits"], ["record own", "null waits"]
    step = ["record own", "own waits"] * 4  # W.T of the second layer goes aside and comes back, and its gradients
    captured = ["begin_capture", *step, "end_capture", "upload", f"launch {n}", f"launch {n}"]
    assert fake_cupy.log == [*fences[0], *step, *step, *fences[1], *fences[0], *captured, *fences[1]]
    assert fake_cupy.Graph.alive == 1
    fake_cupy.log.clear()
    del runner
    gc.collect()
    assert fake_cupy.log == ["synchronize own"] * 2 + ["graph destroyed"]
    assert fake_cupy.Graph.alive == 0
    assert np.isfinite(state.p).all()  # what came back outlives the runner


@pytest.mark.parametrize("make", [cupy_runner.Runner, captured.Runner], ids=["fused", "captured"])
def test_what_a_runner_holds_does_not_wait_for_the_collector_of_cycles(make, driver):
    check_it_goes_at_once(lambda remembered: trained_there(CASES["dropout"], None, remembered), make)


def test_a_capture_that_breaks_leaves_the_stream_as_it_was(driver, monkeypatch):
    runner, state, rng = simple(n=16, runner=cupy_runner.Runner, place=FAKE)
    state = State(fake("float64", state.p), tuple(fake("float64", slot) for slot in state.slots), 0)
    state, _ = runner.epoch(state, rng.permutation(16), lambda _: 0.01)
    monkeypatch.setattr(fake_cupy.RawModule, "broken", "update")
    with pytest.raises(RuntimeError, match="LAUNCH_FAILED"):  # one by one it does not run either
        runner.epoch(state, rng.permutation(16), lambda _: 0.01)
    assert runner.reason == (
        "the step cannot be captured: RuntimeError: CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure"
    )
    assert fake_cupy.Stream.capturing is None


@pytest.mark.parametrize("kernel", ["gradients", "product_backward_relu", "transpose"])
def test_a_capture_that_breaks_with_work_aside_leaves_both_streams_as_they_were(kernel, driver, monkeypatch):
    begin = fake_cupy.Stream.begin_capture

    def begin_broken(stream: Any) -> None:
        monkeypatch.setattr(fake_cupy.RawModule, "broken", kernel)
        begin(stream)

    def end(stream: Any, end: Any = fake_cupy.Stream.end_capture) -> Any:
        monkeypatch.setattr(fake_cupy.RawModule, "broken", "")
        return end(stream)

    monkeypatch.setattr(fake_cupy.Stream, "begin_capture", begin_broken)
    monkeypatch.setattr(fake_cupy.Stream, "end_capture", end)
    case = CASES["loss-cross_entropy"]
    make, made = remembering(cupy_runner.Runner)
    got = trained_there(case, None, make)
    assert made[0].name == "cupy"
    assert "the step cannot be captured: RuntimeError: CUDA_ERROR_LAUNCH_FAILED" in made[0].reason
    assert_same(got, trained(case, None, eager.Runner, partial(put, "float64"), HOST), TOLERANCE["float64"])


def test_a_step_that_breaks_off_waits_for_what_went_aside(driver, monkeypatch):
    runner, state, rng = simple(n=16, runner=cupy_runner.Runner, place=FAKE)
    state = State(fake("float64", state.p), tuple(fake("float64", slot) for slot in state.slots), 0)
    state, _ = runner.epoch(state, rng.permutation(16), lambda _: 0.01)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner._machine, "capture", interrupt)
    fake_cupy.log.clear()
    with pytest.raises(KeyboardInterrupt):
        runner.epoch(state, rng.permutation(16), lambda _: 0.01)
    assert fake_cupy.log[-4:] == ["record own", "null waits"] * 2


def test_an_error_within_an_epoch_is_not_hidden_by_one_that_follows_from_it(driver, monkeypatch):
    def once_more(*_: Any) -> None:
        raise RuntimeError("cudaErrorIllegalAddress, once more")

    def lose_the_device() -> None:
        monkeypatch.setattr(fake_cupy.Stream, "record", once_more)
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access")

    stream = cuda_machine.Stream("float64", fake_cupy.Device(3))
    with pytest.raises(RuntimeError, match="an illegal memory access"), stream.in_order():
        lose_the_device()


def test_a_plan_that_allocates_or_copies_cannot_be_captured(driver, monkeypatch):
    runner, state, rng = simple(n=16, runner=cupy_runner.Runner, place=FAKE)
    state = State(fake("float64", state.p), tuple(fake("float64", slot) for slot in state.slots), 0)
    state, _ = runner.epoch(state, rng.permutation(16), lambda _: 0.01)
    with FAKE.device, pytest.raises(RuntimeError, match="an allocation outside of the plan is not permitted"):
        runner._machine.capture([*runner._program(BATCH), lambda: runner._machine.xp.zeros(3)], 1)


def test_tf32_is_asked_for_products_but_not_for_sums(driver, monkeypatch):
    monkeypatch.setattr(cuda_plan, "SMALL_PRODUCT", 0)
    asked: list[tuple[bool, int]] = []  # is it a sum or a norm, and the type of its arithmetic
    original = cublas.Cublas.multiply

    def watched(self: Any, product: Any) -> None:
        asked.append((product.a.shape[-2] == 1, self._exact if product.exact else self._compute))
        original(self, product)

    monkeypatch.setattr(cublas.Cublas, "multiply", watched)
    for precision, dtype, compute in (
        ("highest", "float32", cublas.COMPUTE_32F),
        ("high", "float32", cublas.COMPUTE_32F_FAST_TF32),
        ("high", "float64", cublas.COMPUTE_64F),
    ):
        runner, state, rng = simple(
            n=16, runner=cupy_runner.Runner, place=FAKE, dtype=dtype, precision=precision, clip_norm=1.0
        )
        state = State(fake(dtype, state.p), tuple(fake(dtype, slot) for slot in state.slots), 0)
        asked.clear()
        runner.epoch(state, rng.permutation(16), lambda _: 0.01)
        exact = cublas.COMPUTE_64F if dtype == "float64" else cublas.COMPUTE_32F
        assert set(asked) == {(False, compute), (True, exact)}
        runner.close()


def test_a_kernel_is_given_numbers_of_its_own_types(driver):
    task, data = _tiny_task()
    runner = cupy_runner.Runner(task, replace_place(data))
    values = {"ps": "p", "gs": "g", "pitch": 3, "size": 4, "rates": "r", "cells": "c", "another": "kernel's"}
    call = runner._machine._call(Launch("update", 300, 2, values))
    grid, block, arguments = call.args
    assert (grid, block) == ((10, 2), (32,))
    assert arguments == ("p", "g", 3, 4, "r", "c")  # in the order of the C declaration
    assert [type(it) for it in arguments] == [str, str, np.int64, np.uint32, str, str]


def replace_place(data: Data) -> Data:
    return Data(FAKE, data.x.view(fake_cupy.ndarray), data.y.view(fake_cupy.ndarray), None, data.batch_size)


def test_the_classes_of_this_file_are_what_they_replace():
    # The shim and the machine answer to the same calls.
    for name in ("upload", "program", "run", "capture", "in_order", "wait"):
        assert callable(getattr(ShimMachine, name))
        assert callable(getattr(cuda_machine.Machine, name))
    assert EPOCHS * -(-N // BATCH) > WARM_UP


def test_precision_is_a_permission_and_half_precision_is_refused(rng):
    x, y = rng.standard_normal((12, 3)), rng.standard_normal((12, 2))
    nets = [MLP([3, 4, 2], random_state=0).fit(x, y, epochs=2, precision=word) for word in ("highest", "high")]
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    with pytest.raises(ValueError, match="precision must be one of 'highest', 'high'; got 'bfloat16'"):
        MLP([3, 4, 2], random_state=0).fit(x, y, precision="bfloat16")


def test_the_benchmark_runs_dry_to_its_end(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    command = [sys.executable, str(script), "--dry", "--sizes", "small", "--results", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    assert "xpmlp fused highest" in done.stdout
    assert "gather" in done.stdout
    assert not (tmp_path / "results").exists()  # times of a dry run are nobody's


@pytest.mark.parametrize("m", [None, 3], ids=["one", "three"])
def test_a_whole_training_is_that_of_the_runner_of_numpy(m, monkeypatch, rng):
    x, y = rng.standard_normal((60, 3)), np.eye(4)[rng.integers(0, 4, 60)]

    def fitted() -> MLP:
        net = MLP([3, 16, 8, 4], loss="cross_entropy", dropout=0.1, n_networks=m, random_state=5)
        options = {"batch_size": 16, "early_stopping": True, "patience": 3, "schedule": "cosine", "l2": 0.01}
        return net.fit(x, y, epochs=25, learning_rate=0.05, **options).fit(x, y, epochs=3, optimizer="nesterov")

    wanted = fitted()
    monkeypatch.setattr(importlib.import_module("xpmlp.runners.numpy"), "Runner", CpuRunner)
    got = fitted()
    assert got.parameters.shape == wanted.parameters.shape
    assert len(got.history["loss"]) == len(wanted.history["loss"]) > 4
    np.testing.assert_allclose(got.parameters, wanted.parameters, rtol=0.0, atol=1e-9)
    for name in ("loss", "validation_loss", "learning_rate"):
        np.testing.assert_allclose(got.history[name], wanted.history[name], rtol=1e-9)


@pytest.mark.parametrize("m", [None, 3], ids=["one", "three"])
@pytest.mark.parametrize("make", [cupy_runner.Runner, captured.Runner], ids=["fused", "captured"])
def test_a_last_update_that_diverges_is_told_and_undone_on_a_device(make, m, driver):
    check_divergence(FAKE, "float32", m, make)


def test_a_training_that_diverges_is_noticed_and_undone(monkeypatch, rng):
    monkeypatch.setattr(importlib.import_module("xpmlp.runners.numpy"), "Runner", CpuRunner)
    net = MLP([3, 4, 2], "relu", random_state=0)
    x, y = 1e3 * rng.standard_normal((60, 3)), 1e3 * rng.standard_normal((60, 2))
    with np.errstate(all="ignore"), pytest.warns(DivergenceWarning, match="diverged in epoch"):
        net.fit(x, y, optimizer="sgd", learning_rate=1e3, epochs=20)
    assert np.isfinite(net.parameters).all()
