"""The kernel of small networks takes the steps of the eager runner, says what it cannot do, and costs no surprise."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_runners import CASES, TOLERANCE, Case, trained, writable

from xpmlp import MLP, DivergenceWarning, MLPRegressor, config_context
from xpmlp.backends import select
from xpmlp.network import Network
from xpmlp.network.activations import ACTIVATIONS, activation
from xpmlp.network.losses import LOSSES, loss
from xpmlp.network.parameters import Layout
from xpmlp.optim.optimizers import OPTIMIZERS, optimizer
from xpmlp.runners import Data, Task, eager, find_runner, numba_epoch
from xpmlp.runners.step import CannotRunError, State

pytest.importorskip("numba")

COVERED = {
    *(f"loss-{name}" for name in numba_epoch.KINDS_OF_LOSS),
    *(f"hidden-{name}" for name in numba_epoch.KINDS),
    *(f"optimizer-{name}" for name in numba_epoch.METHODS),
    *("label-smoothing", "weights", "full-batch", "in-order"),
    *("whole-batches", "whole-batches-in-order", "one-batch-of-many"),
}
NUMPY = select("numpy")


def in_the_kernel(task: Task, data: Data, seed: Any) -> Any:
    with config_context(compiled="always"):
        runner = find_runner(task, data, seed)
    assert runner.name == "numba"
    return runner


def assert_same(got: tuple[State, list[Any]], expected: tuple[State, list[Any]], dtype: str) -> None:
    (state, losses), (wanted, wanted_losses) = got, expected
    assert state.t == wanted.t
    for array, right in zip((state.p, *state.slots, *losses), (wanted.p, *wanted.slots, *wanted_losses), strict=True):
        assert array.dtype == dtype
        np.testing.assert_allclose(array, right, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * np.abs(right).max())


# --- The same steps ---


@pytest.mark.parametrize("name", sorted(COVERED))
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_kernel_takes_the_steps_of_the_eager_runner(name: str, dtype: str) -> None:
    expected = trained(CASES[name], None, eager.Runner, writable, NUMPY)
    runners = []

    def make(*arguments: Any) -> Any:
        runners.append(in_the_kernel(*arguments))
        return runners[0]

    got = trained(CASES[name], None, make, lambda array: np.array(array, dtype=dtype), NUMPY)
    assert_same(got, expected, dtype)
    assert runners[0].kernel is not None  # not NumPy's steps behind its name
    assert runners[0].numpy is None


@pytest.mark.parametrize("name", sorted(set(CASES) - COVERED))
def test_what_the_kernel_does_not_know_it_leaves_to_numpy(name: str) -> None:
    def make(task: Task, data: Data, seed: Any) -> Any:
        with pytest.raises(CannotRunError, match=r"^it "):
            numba_epoch.Runner(task, data, seed)
        with config_context(compiled="always"):
            runner = find_runner(task, data, seed)
        assert runner.name == "numpy"
        return runner

    trained(CASES[name], None, make, writable, NUMPY)


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    hidden=st.lists(st.sampled_from(sorted(numba_epoch.KINDS)), min_size=4, max_size=4),
    loss_name=st.sampled_from(sorted(numba_epoch.KINDS_OF_LOSS)),
    method=st.sampled_from(sorted(numba_epoch.METHODS)),
    decay=st.sampled_from([0.0, 0.1]),
    l2=st.sampled_from([0.0, 0.3]),
    weighted=st.booleans(),
    n=st.integers(1, 40),
    batch=st.integers(1, 40),
    shuffled=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_tasks_of_any_shape_agree(
    sizes: list[int],
    hidden: list[str],
    loss_name: str,
    method: str,
    decay: float,
    l2: float,
    weighted: bool,
    n: int,
    batch: int,
    shuffled: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    row, layout = loss(loss_name), Layout(tuple(sizes))
    rows = (*map(activation, hidden[: len(sizes) - 2]), activation(row.link))
    decays = (np.arange(layout.size) < layout.decaying_stop).astype(float) if decay else None
    task = Task(Network(layout, rows, row), optimizer(method, weight_decay=decay), l2=l2, decays=decays)
    y = rng.uniform(0.1, 0.9, (n, sizes[-1]))
    y = y / y.sum(axis=1, keepdims=True) if loss_name == "cross_entropy" else y
    w = rng.integers(0, 3, n).astype(float) if weighted else None
    data = Data(NUMPY, rng.standard_normal((n, sizes[0])), y, w, batch)
    start = rng.standard_normal(layout.size)
    outcomes = []
    orders = [rng.permutation(n) if shuffled else None for _ in range(3)]
    for make in (eager.Runner, in_the_kernel):
        state = State(start.copy(), task.optimizer.init(start).slots, 0)
        runner, losses = make(task, data, None), []
        for order in orders:
            state, value = runner.epoch(state, order, lambda i: 0.02 / (1 + i))
            losses.append(value)
        outcomes.append((state, losses))
    assert_same(outcomes[1], outcomes[0], "float64")


def test_networks_trained_together_are_left_to_numpy() -> None:
    case = CASES["loss-squared_error"]
    expected = trained(case, 3, eager.Runner, writable, NUMPY)
    assert_same(trained(case, 3, in_the_kernel, writable, NUMPY), expected, "float64")


@pytest.mark.parametrize("order", ["C", "F"])
def test_x_may_lie_in_memory_as_it_likes_and_be_read_only(order: str) -> None:
    case = CASES["loss-squared_error"]

    def make(task: Task, data: Data, seed: Any) -> Any:
        data.x = np.array(data.x, order=order)  # type: ignore[call-overload]
        data.x.flags.writeable = data.y.flags.writeable = False
        return in_the_kernel(task, data, seed)

    expected = trained(case, None, eager.Runner, writable, NUMPY)
    assert_same(trained(case, None, make, writable, NUMPY), expected, "float64")


def simple(**options: Any) -> tuple[Task, Data]:
    sizes = options.pop("sizes", (3, 4, 1))
    hidden = options.pop("hidden", activation("tanh"))
    row = options.pop("loss", loss("squared_error"))
    output = options.pop("output", activation(row.link or "identity"))
    task = Task(Network(Layout(sizes), (hidden, output), row), options.pop("optimizer", optimizer("adam")), **options)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, sizes[0]))
    return task, Data(NUMPY, x, np.abs(rng.standard_normal((40, sizes[-1]))) / 4.0, None, 8)


OWN = {
    "hidden": replace(ACTIVATIONS["tanh"], function=lambda z: 0.5 * z),
    "output": replace(ACTIVATIONS["identity"], derivative=lambda z, a: 2.0 + 0.0 * z),
    "loss": replace(LOSSES["squared_error"], derivative_from_scores=lambda y, z, yhat: 3.0 * (yhat - y)),
    "optimizer": replace(OPTIMIZERS["adam"], rates=lambda t, lr, **_: (lr, lr, 1.0)),
}


@pytest.mark.parametrize("kind", OWN)
def test_a_row_with_another_function_is_not_taken_for_its_namesake(kind: str) -> None:
    with pytest.raises(CannotRunError, match=r"^it does not know <"):
        numba_epoch.Runner(*simple(**{kind: OWN[kind]}))
    numba_epoch.Runner(*simple())  # with the table's own rows it can


def test_a_large_network_is_left_to_numpy() -> None:
    with pytest.raises(CannotRunError, match="wins nothing"):
        numba_epoch.Runner(*simple(sizes=(300, 400, 1)))


# --- Numbers ---


@pytest.mark.parametrize(("dtype", "most"), [("float32", 87.0), ("float64", 708.0)])
def test_exp_is_right_to_two_units_of_the_last_digit(dtype: str, most: float) -> None:
    from xpmlp.runners import numba_kernel

    x = np.concatenate([np.linspace(-most, most, 20_001), [0.0, -0.0, 1e-30, np.nan]]).astype(dtype)
    found, floats = x.copy(), np.empty_like(x)
    numba_kernel.exp(found, floats, floats.view(np.int32 if dtype == "float32" else np.int64))
    right = np.exp(x.astype(np.longdouble))
    assert np.isnan(found[-1])
    assert found[-4] == found[-3] == 1.0
    assert np.max(np.abs(found[:-1] - right[:-1]) / np.spacing(right[:-1].astype(dtype))) <= 2.0


@pytest.mark.parametrize("hidden", sorted(numba_epoch.KINDS))
@pytest.mark.parametrize("loss_name", sorted(numba_epoch.KINDS_OF_LOSS))
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e20, 1e300])
def test_what_is_not_finite_is_not_finite_as_on_numpy(hidden: str, loss_name: str, bad: float) -> None:
    task, data = simple(hidden=activation(hidden), loss=loss(loss_name), sizes=(3, 4, 1))
    data.x[17, 1] = bad
    found = []
    with np.errstate(all="ignore"):
        for make in (eager.Runner, in_the_kernel):
            p = np.random.default_rng(1).standard_normal(task.network.layout.size)
            state, value = make(task, data, None).epoch(State(p, task.optimizer.init(p).slots, 0), None, lambda _: 1e-3)
            found.append((np.isfinite(state.p), np.isfinite(value)))
    np.testing.assert_array_equal(found[1][1], found[0][1])
    np.testing.assert_array_equal(found[1][0].all(), found[0][0].all())


def test_a_training_that_diverges_is_told() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((64, 5)), rng.standard_normal((64, 1))
    X[3, 2] = 1e300
    with config_context(compiled="always"), pytest.warns(DivergenceWarning, match="diverged in epoch 1"):
        MLP([5, 8, 1], loss="squared_error", random_state=0).fit(X, y, epochs=2, batch_size=16)


# --- When it begins, and when it is heard ---


def test_on_auto_the_kernel_begins_when_a_fit_has_lasted_and_is_to_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_epoch, "FIRST_STEPS", 12)
    monkeypatch.setattr(numba_epoch, "MORE_STEPS", 20)
    task, data = simple()  # 5 batches
    assert find_runner(task, data, None, 31).name == "numpy"
    runner = find_runner(task, data, None, 32)
    assert runner.name == "numba"
    p = np.random.default_rng(1).standard_normal(task.network.layout.size)
    state = State(p, task.optimizer.init(p).slots, 0)
    who = []
    for _ in range(5):
        state, _ = runner.epoch(state, None, lambda _: 1e-3)
        who.append(runner.kernel is not None)
    assert who == [False, False, False, True, True]  # 15 steps are the first not below 12
    with config_context(compiled="never"):
        assert find_runner(task, data, None, 10**9).name == "numpy"


def test_a_fit_tells_how_many_steps_it_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    monkeypatch.setattr(numba_epoch, "find", lambda task, data, seed, steps: planned.append(steps))
    X = np.ones((40, 3))
    MLP([3, 4, 1], loss="squared_error").fit(X, X[:, :1], epochs=7, batch_size=15)
    assert planned == [7 * 3]


def test_without_numba_auto_goes_on_and_always_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    numba_epoch.compiled.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(numba_epoch.importlib.util, "find_spec", lambda _: None)
    task, data = simple()
    assert find_runner(task, data, None, 10**9).name == "numpy"
    with config_context(compiled="always"), pytest.raises(ImportError, match="numba"):
        find_runner(task, data)


def test_on_auto_a_compiler_that_fails_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: str) -> None:
        raise RuntimeError("no compiler today")

    monkeypatch.setattr(numba_epoch, "compiled", fails)
    monkeypatch.setattr(numba_epoch, "FIRST_STEPS", 5)
    task, data = simple()
    runner = find_runner(task, data, None, 10**9)
    p = np.zeros(task.network.layout.size)
    state = State(p, task.optimizer.init(p).slots, 0)
    for _ in range(3):
        state, _ = runner.epoch(state, None, lambda _: 1e-3)
    assert (runner.name, state.t, runner.kernel) == ("numba", 15, None)


@pytest.mark.parametrize("obstacle", [RuntimeError("cannot cache function 'steps': no locator available"), EOFError()])
def test_where_nothing_can_be_kept_the_kernel_is_compiled_anew(
    obstacle: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numba

    asked = []

    def njit(_: Any, *, cache: bool, **options: Any) -> Any:
        asked.append(cache)
        if cache:
            raise obstacle
        return lambda function: function

    numba_epoch.compiled.cache_clear()
    monkeypatch.setattr(numba, "njit", njit)
    try:
        numba_epoch.compiled("float32")
    finally:
        numba_epoch.compiled.cache_clear()
    assert asked == [True, False]


def epoch_of(runner: Any, task: Task, interrupted: Any = lambda: False) -> tuple[State, Any]:
    p = np.random.default_rng(1).standard_normal(task.network.layout.size)
    order = np.random.default_rng(2).permutation(40)
    return runner.epoch(State(p, task.optimizer.init(p).slots, 0), order, lambda i: 0.01 * (1 + i), interrupted)


def test_how_many_steps_a_call_takes_changes_no_bit() -> None:
    task, data = simple(l2=0.1)
    one, all_at_once = in_the_kernel(task, data, None), in_the_kernel(task, data, None)
    first, first_loss = epoch_of(one, task)
    epoch_of(all_at_once, task)
    all_at_once.kernel.at_once = 5
    second, second_loss = epoch_of(all_at_once, task)
    np.testing.assert_array_equal(first.p, second.p)
    assert first_loss == second_loss


def test_an_epoch_that_is_broken_off_leaves_a_whole_state() -> None:
    task, data = simple()
    state, value = epoch_of(in_the_kernel(task, data, None), task, lambda: True)
    expected, expected_loss = epoch_of(eager.Runner(task, data), task, lambda: True)
    assert state.t == expected.t == 1
    np.testing.assert_allclose(state.p, expected.p, rtol=1e-12)
    np.testing.assert_allclose(value, expected_loss, rtol=1e-12)


def test_a_call_takes_no_longer_than_somebody_who_interrupts_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    task, data = simple()
    data = Data(NUMPY, np.ones((4000, 3)), np.ones((4000, 1)), None, 1)
    now, calls = [0.0], []
    monkeypatch.setattr(numba_epoch.time, "perf_counter", lambda: now[0])

    def steps(*arguments: Any) -> None:
        first, last = arguments[-3:-1]
        calls.append(last - first)
        arguments[-1][:] += last - first  # the sums of losses and weights
        now[0] += 0.0004 * (last - first) if first < 2000 else 0.002 * (last - first)  # something else wants the core

    monkeypatch.setattr(numba_epoch, "compiled", lambda _: steps)
    runner = in_the_kernel(task, data, None)
    asked = []
    epoch_of(runner, task, lambda: asked.append(now[0]))
    assert calls[:5] == [1, 8, 64, 125, 125]
    assert max(calls[:-1]) * 0.0004 <= numba_epoch.HEARD
    assert calls[-2] == 25  # at 2 milliseconds a step
    assert sum(calls) == 4000
    assert len(asked) == len(calls)


def test_estimators_take_the_kernel_and_end_where_numpy_ends() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 5))
    options = {"hidden_layer_sizes": (8, 4), "max_iter": 20, "batch_size": 32, "random_state": 0}
    options |= {"early_stopping": True, "n_iter_no_change": 50}
    models = []
    for setting in ("never", "always"):
        with config_context(compiled=setting), pytest.warns(UserWarning, match="Maximum iterations"):
            models.append(MLPRegressor(**options).fit(X, X[:, 0] * X[:, 1]))
    for one, other in zip(models[0].coefs_, models[1].coefs_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("broken", ["bias", "penalty", "weights"])
def test_a_wrong_kernel_is_noticed(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = numba_epoch.compiled("float64")

    def wrong(p: Any, *rest: Any) -> None:
        before, (g, m, v, X, Y, w, *others) = p.copy(), rest
        numbers = others[-5].copy()
        if broken == "penalty":
            numbers[2] *= 0.999
        w = np.empty(0) if broken == "weights" else w
        right(p, g, m, v, X, Y, w, *others[:-5], numbers, *others[-4:])
        if broken == "bias":
            p[-1] = before[-1]

    monkeypatch.setattr(numba_epoch, "compiled", lambda _: wrong)
    case: Case = CASES["weights"]
    expected = trained(case, None, eager.Runner, writable, NUMPY)
    with pytest.raises(AssertionError):
        assert_same(trained(case, None, in_the_kernel, writable, NUMPY), expected, "float64")
