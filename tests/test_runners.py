"""Every runner agrees with the eager one on NumPy: the same state, the same losses, step by step."""

import gc
import logging
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from conftest import UNDER_TEST, BackendUnderTest

from xpmlp import config_context, loss
from xpmlp.backends import select
from xpmlp.network import Network, forward
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.activations import activation as find_activation
from xpmlp.network.losses import LOSSES, Loss
from xpmlp.network.losses import loss as find_loss
from xpmlp.network.parameters import Layout
from xpmlp.network.parts import part, piecewise_code
from xpmlp.network.propagation import layout_with_parts
from xpmlp.optim.optimizers import OPTIMIZERS, optimizer
from xpmlp.optim.schedules import schedule
from xpmlp.runners import CannotRunError, Data, Task, compiled, eager, find_runner, part_columns
from xpmlp.runners import numpy as in_place
from xpmlp.runners.columns import Room
from xpmlp.runners.step import State, loss_or_nan
from xpmlp.training.loop import DivergenceWarning, Plan, train

# 4 epochs of 3 batches, the last one short, float64: the largest difference seen over all cases and runners was 2e-15
# of the largest value. In float32 it was 2e-6. A GPU fuses multiply and add, and has a tanh of its own: hence the room.
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}
N, BATCH, EPOCHS = 23, 8, 4


@dataclass(frozen=True)
class Case:
    """A task and its data, as NumPy sees them."""

    hidden: Any = "relu"
    output: Any = None
    loss: Any = "squared_error"
    optimizer: Any = "adam"
    weighted: bool = False
    dropout: float = 0.0
    shuffle: bool = True
    batch: int = BATCH
    parts: tuple[tuple[Any, ...], ...] = ()
    members: int = 0
    rows: int = N  # of an epoch
    task: dict[str, Any] = field(default_factory=dict)


def own_square(z: Any) -> Any:
    return 0.1 * z * z


def own_square_derivative(z: Any, a: Any) -> Any:
    return 0.2 * z


CASES = {
    **{f"loss-{name}": Case(loss=name) for name in LOSSES},
    "label-smoothing": Case(loss=loss("cross_entropy", label_smoothing=0.1)),
    "quantiles": Case(loss=loss("pinball", quantile=(0.1, 0.5, 0.8, 0.9))),
    **{f"hidden-{name}": Case(hidden=name) for name, row in ACTIVATIONS.items() if row.outputs != "distribution"},
    "general-path": Case(output="softmax", loss="squared_error"),
    "sigmoid-squared": Case(output="sigmoid", loss="squared_error"),
    "own-activation": Case(hidden=(own_square, own_square_derivative)),
    **{f"optimizer-{name}": Case(optimizer=name, task={"l2": 0.05}) for name in OPTIMIZERS},
    "weights": Case(loss="cross_entropy", weighted=True, task={"l2": 0.1}),
    "weights-general": Case(loss="absolute_error", hidden="tanh", weighted=True),
    "clipping": Case(task={"clip_norm": 0.3, "l2": 0.1}),
    "dropout": Case(dropout=0.4),
    "factors-decay": Case(optimizer=optimizer("adam", weight_decay=0.1), task={"factors": True}),
    "average": Case(optimizer=replace(optimizer("adamw"), average=5.0)),
    "average-clipping": Case(optimizer=replace(optimizer("nesterov"), average=5.0), task={"clip_norm": 0.3}),
    "full-batch": Case(batch=N),
    "in-order": Case(shuffle=False),
    "whole-batches": Case(rows=2 * BATCH, weighted=True),
    "whole-batches-in-order": Case(rows=2 * BATCH, shuffle=False),
    "one-batch-of-many": Case(rows=BATCH),
}
BINS = part("piecewise", edges=[[-1.0, -0.3, 0.2, 1.0], [-0.5, 0.5]], width=2)
SCALE = part("member_scale", groups=[0, 0, 1, 1, 2])
IN_EACH = (BINS, SCALE), (part("layer_norm"), part("member_scale")), (part("layer_norm"),)
PARTS = {
    "parts": Case(parts=((BINS,), (part("layer_norm"),)), task={"l2": 0.05, "factors": True}),
    "parts-dropout": Case(parts=((BINS,), (), (part("layer_norm"),)), dropout=0.4, weighted=True),
    "members": Case(members=4, loss="cross_entropy"),
    "members-dropout": Case(members=4, dropout=0.4, weighted=True, task={"clip_norm": 0.3, "l2": 0.1}),
    "members-parts": Case(members=4, parts=IN_EACH, dropout=0.2, optimizer=replace(optimizer("adamw"), average=5.0)),
    "one-member": Case(members=1, parts=((part("member_scale"),),), loss="binary_cross_entropy"),
}
EVERY = [(name, m) for name, case in (CASES | PARTS).items() for m in (None, 3) if not (case.members and m)]
FEW = ("loss-cross_entropy", "hidden-mish", "optimizer-nesterov", "weights", "clipping", "dropout", "factors-decay")
FEW += ("one-batch-of-many",)


def targets(row: Loss, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if row.targets == "distribution":
        return np.eye(4)[rng.integers(0, 4, N)]
    if row.targets == "probability":
        return rng.integers(0, 2, (N, 4)).astype(float)
    return np.abs(rng.standard_normal((N, row.target_width or 4)))


def trained(
    case: Case, m: int | None, make: Callable[[Task, Data, Any], Any], put: Callable[[Any], Any], place: Any
) -> tuple[State, list[Any]]:
    """The state after four epochs, and their losses."""
    rng = np.random.default_rng(3)
    row = find_loss(case.loss)
    layout = layout_with_parts((3, 6, 5, 4), case.parts, case.members)
    activations = (
        *(find_activation(case.hidden) for _ in range(2)),
        find_activation(case.output or row.link or "identity"),
    )
    network = Network(layout, activations, row, (case.dropout, case.dropout) if case.dropout else (), case.parts)
    lead = () if m is None else (m,)
    method = optimizer(case.optimizer)
    options = dict(case.task)
    if options.pop("factors", False):
        options["factors"] = put(np.linspace(0.0, 2.0, layout.size))
    if method.weight_decay:
        options["decays"] = put((np.arange(layout.size) < layout.decaying_stop).astype(float))
    task = Task(network, method, **options)
    x, y = rng.standard_normal((N, 3)), targets(row, rng)
    w = np.abs(rng.standard_normal(N)) if case.weighted else None
    if case.weighted and w is not None:
        w[:BATCH] = 0.0  # in order, the first batch would weigh nothing
    p = put(0.5 * rng.standard_normal((*lead, layout.size)))
    data = Data(place, put(x), put(y), None if w is None else put(w), case.batch, case.rows)
    seed = None
    if case.dropout:
        seed = place.asarray(np.arange(5, 5 + (m or 1), dtype=np.int32).reshape((m, 1, 1) if m else (1, 1)))
    runner = make(task, data, seed)
    state = State(p, method.init(p).slots, 0)
    epoch_losses = []
    for epoch in range(EPOCHS):
        orders = [rng.permutation(N)[: case.rows] for _ in range(m or 1)]
        order = orders[0] if m is None else np.stack(orders)
        state, value = runner.epoch(state, order if case.shuffle else None, lambda i, e=epoch: 0.02 / (1 + i + e))
        epoch_losses.append(value)
    return state, epoch_losses


def writable(array: Any) -> np.ndarray[Any, Any]:
    return np.array(array, dtype=np.float64)


# Where every case is compiled anew, the whole table is walked for one network and in float64, and a few cases else.
COMPILED = {"jax", "array_api_strict"}
WHOLE = [
    pytest.param(it, name, m, id=f"{it.id}-{name}-{'three' if m else 'one'}")
    for it in UNDER_TEST
    for name, m in EVERY
    if it.name not in COMPILED or name in FEW or (m is None and it.id in ("jax-x64", "strict-device1"))
]


@pytest.mark.parametrize(("backend", "name", "m"), WHOLE, indirect=["backend"])
def test_a_runner_takes_the_steps_of_the_eager_one(name: str, m: int | None, backend: BackendUnderTest) -> None:
    case = (CASES | PARTS)[name]
    dtype = backend.dtypes[0]
    expected, expected_losses = trained(case, m, eager.Runner, writable, select("numpy"))
    put = lambda array: backend.put(np.array(array), dtype) if backend.name != "numpy" else writable(array)  # noqa: E731
    got, losses = trained(case, m, find_runner, put, backend.place)
    assert got.t == expected.t == EPOCHS * -(-case.rows // case.batch)
    backend.assert_close(got.p, expected.p, rtol=TOLERANCE[dtype])
    for slot, wanted in zip(got.slots, expected.slots, strict=True):
        backend.assert_close(slot, wanted, rtol=TOLERANCE[dtype])
    for value, wanted in zip(losses, expected_losses, strict=True):
        host = backend.place.backend.to_numpy(value)
        np.testing.assert_allclose(host, wanted, rtol=TOLERANCE[dtype])


APART = [
    pytest.param(it, name, m, id=f"{name}-{'three' if m else 'one'}")
    for it in UNDER_TEST
    if it.id == "jax-x64"
    for name in FEW
    for m in (None, 3)
]


@pytest.mark.parametrize(("backend", "name", "m"), APART, indirect=["backend"])
def test_jax_takes_the_same_steps_with_w_and_b_apart(
    name: str, m: int | None, backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xpmlp.runners import jax as runner

    monkeypatch.setattr(runner, "APART", 1)
    runner._program.cache_clear()
    try:
        test_a_runner_takes_the_steps_of_the_eager_one(name, m, backend)
    finally:
        runner._program.cache_clear()


def test_every_backend_is_served_by_the_runner_of_its_row(backend: BackendUnderTest) -> None:
    layout = Layout((3, 4, 1))
    rows = (find_activation("tanh"), find_activation("identity"))
    task = Task(Network(layout, rows, find_loss("squared_error")), optimizer("adam"))
    data = Data(backend.place, backend.put(np.ones((5, 3))), backend.put(np.ones((5, 1))), None, 2)
    runner = find_runner(task, data)
    assert runner.name == backend.place.backend.runner
    assert runner.reason == ""


def test_who_cannot_run_a_task_says_why_and_the_eager_runner_takes_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from xpmlp.runners import numpy as columns

    class Refuses:
        def __init__(self, *_: Any) -> None:
            raise CannotRunError("no room for the buffers")

    monkeypatch.setattr(columns, "Runner", Refuses)
    layout = Layout((3, 1))
    task = Task(Network(layout, (find_activation("identity"),), find_loss("squared_error")), optimizer("sgd"))
    with caplog.at_level(logging.INFO, logger="xpmlp"):
        runner = find_runner(task, Data(select("numpy"), np.ones((5, 3)), np.ones((5, 1)), None, 2))
    assert (runner.name, runner.reason) == ("eager", "no room for the buffers")
    assert "no room for the buffers" in caplog.text


def test_a_runner_that_skips_a_bias_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from xpmlp.runners import numpy as columns

    def without_bias(WT: Any, h: Any, b: Any, z: Any) -> None:
        np.matmul(WT, h, out=z)

    broken = columns.Runner.columns._replace(linear=without_bias)
    monkeypatch.setattr(columns.Runner, "columns", broken)
    expected, _ = trained(CASES["full-batch"], None, eager.Runner, writable, select("numpy"))
    got, _ = trained(CASES["full-batch"], None, find_runner, writable, select("numpy"))
    assert np.max(np.abs(got.p - expected.p)) > 1e-3


# --- Compiled by Numba ---

OF_ADAM = ["optimizer-adam", "optimizer-adamw", "loss-cross_entropy", "weights", "clipping", "dropout", "full-batch"]
OF_ADAM += ["hidden-silu", "average", "factors-decay"]


@pytest.mark.parametrize("name", OF_ADAM)
@pytest.mark.parametrize("m", [None, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_compiled_functions_take_the_steps_of_the_eager_runner(name: str, m: int | None, dtype: str) -> None:
    pytest.importorskip("numba")
    case, place = CASES[name], select("numpy")
    put = lambda array: np.array(array, dtype=dtype)  # noqa: E731
    expected, expected_losses = trained(case, m, eager.Runner, writable, place)
    with config_context(compiled="always"):
        got, losses = trained(case, m, in_place.Runner, put, place)
    for array, wanted in zip(
        (got.p, *got.slots, *losses), (expected.p, *expected.slots, *expected_losses), strict=True
    ):
        assert array.dtype == dtype
        np.testing.assert_allclose(array, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * np.abs(wanted).max())


def runner_of(case: Case, sizes: tuple[int, ...], n: int, batch: int) -> Any:
    rows = [find_activation(case.hidden)] * (len(sizes) - 2) + [find_activation("identity")]
    dropped = (case.dropout,) * (len(sizes) - 2) if case.dropout else ()
    network = Network(Layout(sizes), tuple(rows), find_loss("squared_error"), dropped)
    data = Data(select("numpy"), np.ones((n, sizes[0])), np.ones((n, sizes[-1])), None, batch)
    return find_runner(Task(network, optimizer(case.optimizer)), data)


def test_compiled_functions_are_used_where_they_pay() -> None:
    pytest.importorskip("numba")
    large = (1000, 500, 1), 40, 2  # half a million parameters, 20 batches
    assert runner_of(CASES["optimizer-adam"], *large).compiled is not None
    assert runner_of(CASES["optimizer-adamw"], *large).compiled is not None
    assert runner_of(CASES["optimizer-sgd"], *large).compiled is None
    assert runner_of(CASES["optimizer-adam"], (1000, 500, 1), 40, 40).compiled is None
    assert (
        runner_of(CASES["optimizer-adam"], (10, 100, 1), 20_000, 200).compiled is None
    )  # 2 million units in 100 batches
    assert runner_of(CASES["dropout"], (10, 100, 1), 20_000, 200).compiled is None  # 4 million times a mask
    assert runner_of(Case(hidden="silu", dropout=0.4), (10, 100, 1), 50_000, 200).compiled is not None
    with config_context(compiled="never"):
        assert runner_of(CASES["optimizer-adam"], *large).compiled is None


def test_without_numba_numpy_does_it_alone_unless_it_must_not(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.compiled.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    large = (1000, 500, 1), 40, 2
    assert runner_of(CASES["optimizer-adam"], *large).compiled is None
    with config_context(compiled="always"), pytest.raises(ImportError, match="numba"):
        runner_of(CASES["optimizer-adam"], *large)


def test_compiled_relu_lets_nothing_that_is_not_finite_pass_for_a_number() -> None:
    pytest.importorskip("numba")
    z = np.array([np.nan, -np.inf, -1.0, -0.0, 2.0, np.inf], dtype=np.float32)
    a = z.copy()
    compiled.compiled("float32").relu(a)
    np.testing.assert_array_equal(a, [np.nan, 0.0, 0.0, 0.0, 2.0, np.inf])
    da = np.ones_like(a)
    compiled.compiled("float32").relu_backward(da, a)
    np.testing.assert_array_equal(da[1:], [0.0, 0.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", ["one", "networks", "members", "members of one row", "one member of one row"])
def test_compiled_masks_are_the_same_bits(shape: str, dtype: str) -> None:
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    of_element, of_key, of_z = {
        "one": ((40, 6), (1, 1), (40, 6)),
        "networks": ((40, 6), (3, 1, 1), (3, 40, 6)),
        "members": ((40, 3, 6), (3, 6), (40, 3, 6)),
        "members of one row": ((40, 3, 1), (3, 1), (40, 3, 1)),
        "one member of one row": ((40, 1, 1), (1, 1), (40, 1, 1)),
    }[shape]
    elements, key = (rng.integers(-(2**31), 2**31, size, dtype=np.int32) for size in (of_element, of_key))
    z, slope = (rng.standard_normal(of_z).astype(dtype) for _ in range(2))
    mask = np.empty(of_z, dtype)
    ints = np.empty(of_z, np.int32), np.empty(of_z, np.int32)
    in_place.COLUMNS.mask(elements, key, 0.3, mask, ints)
    assert len(np.unique(mask)) == 2
    wanted = z * mask, slope * mask
    masked = in_place.columns_of(compiled.compiled(dtype)).masked
    assert masked is not None
    masked(z, slope, elements, key, 0.3)
    for array, right in zip((z, slope), wanted, strict=True):
        np.testing.assert_array_equal(array, right)


@pytest.mark.parametrize("hidden", ["relu", "leaky_relu", "tanh", "gelu"])
@pytest.mark.parametrize("m", [None, 3])
def test_masks_are_compiled_whatever_the_activation(
    hidden: str, m: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    case = Case(hidden=hidden, dropout=0.4)
    expected, _ = trained(case, m, eager.Runner, writable, select("numpy"))
    monkeypatch.setattr(in_place, "COLUMNS", in_place.COLUMNS._replace(mask=None))
    with config_context(compiled="always"):
        got, _ = trained(case, m, in_place.Runner, writable, select("numpy"))
    np.testing.assert_allclose(got.p, expected.p, rtol=TOLERANCE["float64"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_compiled_code_of_numbers_is_to_the_last_bit_that_of_numpy(dtype: str) -> None:
    pytest.importorskip("numba")
    edges = [[-1.0, 1.0], [-1.0, 0.0, 0.5, 2.0], [0.0, 1.0, 3.0]]  # one bin, which is open at both ends, and padding
    piecewise = part("piecewise", edges=edges, width=2)
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.uniform(-4, 4, (3, 40)), [[np.nan, np.inf, -np.inf, 0.5]] * 3], 1).astype(dtype)
    room = Room(z, z.shape[1], 0)
    with np.errstate(invalid="ignore"):  # a bin that is none, times infinity
        expected = part_columns._code(in_place.COLUMNS, piecewise, z, room).copy()
        got = part_columns._code(in_place.columns_of(compiled.compiled(dtype)), piecewise, z, room)
        right = piecewise_code(piecewise, z)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(got.mT[:, :-4], right[:, :-4])


@pytest.mark.parametrize("name", ["relu", "relu backward", "silu", "masked"])
def test_nothing_is_written_into_a_copy(name: str) -> None:
    pytest.importorskip("numba")
    columns = in_place.columns_of(compiled.compiled("float64"))
    z, straight = np.ones((6, 4)).T, np.ones((4, 6))
    ints = np.zeros((4, 6), np.int32), np.zeros((1, 1), np.int32)
    assert columns.masked is not None
    calls = {
        "relu": lambda: columns.activations["relu"].forward(z, straight, straight),
        "relu backward": lambda: columns.activations["relu"].backward(z, straight, straight),
        "silu": lambda: columns.activations["silu"].forward(z, straight, straight),
        "masked": lambda: columns.masked(z, straight, *ints, 0.5) if columns.masked else None,
    }
    with pytest.raises(ValueError, match="must be contiguous"):
        calls[name]()


@pytest.mark.parametrize("broken", ["penalty", "decay", "bias"])
def test_a_wrong_compiled_update_is_noticed(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = compiled._adam

    def wrong(p: Any, g: Any, m: Any, v: Any, part: Any, l2: Any, squares: Any, scalars: Any) -> None:
        if broken == "penalty":
            l2 = 0.0 * l2
        elif broken == "decay":
            scalars = (*scalars[:4], 1.0)
        else:
            part = (part[0], p.shape[1], p.shape[1])
        right(p, g, m, v, part, l2, squares, scalars)

    functions = compiled.compiled("float64")
    monkeypatch.setattr(compiled, "compiled", lambda dtype: functions._replace(adam=wrong))
    case = CASES["optimizer-adamw"]
    expected, _ = trained(case, None, eager.Runner, writable, select("numpy"))
    with config_context(compiled="always"):
        got, _ = trained(case, None, in_place.Runner, writable, select("numpy"))
    assert np.max(np.abs(got.p - expected.p)) > 1e-6


# --- The contract of `epoch` that training looks after itself ---


@pytest.mark.parametrize("m", [None, 3], ids=["one", "three"])
def test_a_last_update_that_diverges_is_told_and_undone(m: int | None, backend: BackendUnderTest) -> None:
    check_divergence(backend.place, backend.dtypes[0], m, find_runner)


def remembering(make: Any) -> tuple[Any, list[Any]]:
    """The same maker of runners, and a list of what it has made."""
    made: list[Any] = []

    def remember(*arguments: Any) -> Any:
        made.append(make(*arguments))
        return made[-1]

    return remember, made


def check_pass(go: Any, network: Network, p: Any, x: np.ndarray[Any, Any]) -> None:
    """A pass that has begun says of 17 rows what `forward` does."""
    expected = forward(network, p, x)
    for layer in (1, 2, -1):
        for rows in (17, 5, 17):  # rooms of one size serve again
            z, a = go(x[:rows], layer)
            np.testing.assert_allclose(z, expected.z[layer][..., :rows, :], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(a, expected.a[layer][..., :rows, :], rtol=1e-12, atol=1e-12)


def check_divergence(place: Any, dtype: str, m: int | None, make: Callable[..., Any]) -> None:
    """One epoch of one step, whose loss is finite and whose update is not: of the second network, where there are 3."""
    network = Network(Layout((3, 2)), (find_activation("identity"),), find_loss("squared_error"))
    p = np.zeros(network.layout.size) if m is None else np.zeros((m, network.layout.size))
    p[... if m is None else 1] = 100.0  # the others are where the loss has its least, and stay
    rate = 0.9 * float(np.finfo(dtype).max)
    put = lambda array: place.asarray(np.array(array, dtype=dtype))  # noqa: E731
    data = Data(place, put(np.ones((4, 3))), put(np.zeros((4, 2))), None, 4)
    plan = Plan(n_epochs=1, learning_rate=rate, schedule=schedule("constant"), n_batches=1, n_samples=4)
    runner = make(Task(network, optimizer("sgd")), data)
    with place.here():
        result = train(runner, State(put(p), (), 0), plan, place, network.layout, orders=lambda: None)
    host = place.backend.to_numpy
    np.testing.assert_array_equal(host(result.p), p)
    assert not np.isfinite(host(result.state.p)[... if m is None else 1]).all()
    assert m is None or np.isfinite(host(result.state.p)[[0, 2]]).all()
    ((message, category),) = result.notes
    assert category is DivergenceWarning
    assert ("Training of network 1" if m else "Training") + " diverged in epoch 1" in message


def check_partial_fits(place: Any, make: Callable[..., Any]) -> Any:
    """Fits of one epoch with samples, weights and masks of their own take the eager runner's steps, by one runner."""
    rng, put = np.random.default_rng(0), place.asarray
    rows = (find_activation("relu"), find_activation("identity"))
    network = Network(Layout((3, 4, 2)), rows, find_loss("squared_error"), (0.3,))
    task = Task(network, optimizer("adam"))
    p = rng.standard_normal(network.layout.size)
    state, reference = (State(put(p), tuple(put(np.zeros_like(p)) for _ in range(2)), 0) for put in (put, writable))
    runners, given = [], []
    for i in range(6):
        x, y, w = rng.standard_normal((8, 3)), rng.standard_normal((8, 2)), rng.random(8)
        x = np.asfortranarray(x) if i < 3 else x  # by columns, as those of a table may lie
        seed = np.full((1, 1), i, dtype=np.int32)
        there = Data(place, put(x), put(y), put(w), 8)
        given += [(array, np.array(place.backend.to_numpy(array))) for array in (state.p, there.x)]
        with place.here():
            runners.append(make(task, there, put(seed)))
            state, loss = runners[-1].epoch(state, None, lambda _: 0.1)
        expected = eager.Runner(task, Data(select("numpy"), x, y, w, 8), seed)
        reference, wanted = expected.epoch(reference, None, lambda _: 0.1)
        reference = State(*map(np.copy, reference[:1]), reference.slots, reference.t)
        np.testing.assert_allclose(place.backend.to_numpy(loss), wanted, rtol=TOLERANCE["float64"])
    assert {id(runner) for runner in runners} == {id(runners[0])}
    np.testing.assert_allclose(place.backend.to_numpy(state.p), reference.p, rtol=TOLERANCE["float64"])
    for array, was in given[1:]:  # the caller's samples, and what it handed out, are no place for the next ones
        np.testing.assert_array_equal(place.backend.to_numpy(array), was)
    with place.here():
        assert make(task, Data(place, put(x[1:]), put(y[1:]), None, 7), put(seed)) is not runners[0]
    return runners[0]


def check_it_goes_at_once(train_by: Callable[[Callable[..., Any]], object], make: Callable[..., Any]) -> None:
    """A runner that nobody holds any longer goes, and what it holds of a device, without the collector of cycles."""
    made: list[weakref.ref[Any]] = []

    def remember(*arguments: Any) -> Any:
        runner = make(*arguments)
        made.append(weakref.ref(runner))
        return runner

    gc.collect()
    gc.disable()
    try:
        train_by(remember)
        assert [runner() for runner in made] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_parameter_that_is_not_finite_is_told_by_the_loss(bad: float, backend: BackendUnderTest) -> None:
    p = np.linspace(-3e38, 3e38, 12).reshape(2, 6)  # in float32 their squares, and some sums, are not finite
    p[1, 4] = bad
    host = backend.place.backend.to_numpy
    one, two = (loss_or_nan(backend.put(np.asarray(0.5)), backend.put(row)) for row in p)
    assert host(one) == 0.5
    assert np.isnan(host(two))
    np.testing.assert_array_equal(
        host(loss_or_nan(backend.put(np.array([0.5, 0.7])), backend.put(p))), host(backend.put([0.5, np.nan]))
    )


@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf])
def test_finite_parameters_are_told_as_such_also_where_their_sum_is_not(
    bad: float | None, backend: BackendUnderTest
) -> None:
    p = np.full(12, 3e38)
    if bad is not None:
        p[4] = bad
    with np.errstate(all="ignore"):
        told = loss_or_nan(backend.put(np.asarray(0.5)), backend.put(p, "float32"))
    value = float(backend.place.backend.to_numpy(told))
    assert np.isnan(value) if bad is not None else value == 0.5
