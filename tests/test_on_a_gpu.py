"""What only a GPU can say: that CuPy, cuBLAS, PyTorch, JAX and the driver accept what their stand-ins accept.

tests/test_runners.py compares every step there too, by the runner that is found first.
"""

import gc
import importlib
from typing import Any

import numpy as np
import pytest
from conftest import UNDER_TEST, BackendUnderTest
from test_runners import (
    BATCH,
    CASES,
    EVERY,
    PARTS,
    TOLERANCE,
    N,
    check_divergence,
    check_partial_fits,
    remembering,
    trained,
    writable,
)

from xpmlp import MLP, MLPClassifier, config_context
from xpmlp.backends import select
from xpmlp.runners import KeptRunner, captured, eager, find_runner
from xpmlp.runners import cupy as fused

MAKERS = {"fused": fused.Runner, "captured": captured.Runner}


def on(*ids: str) -> Any:
    """The combinations of these ids, as far as they are under test."""
    chosen = [it for it in UNDER_TEST if it.id in ids]
    return pytest.mark.parametrize("backend", chosen, indirect=True, ids=lambda it: it.id)


def memory_of(backend: BackendUnderTest) -> Any:
    """What tells the free bytes of the card, once all that is not in use was given back."""
    if backend.name == "cupy":
        cupy = importlib.import_module("cupy")

        def free() -> int:
            gc.collect()
            cupy.get_default_memory_pool().free_all_blocks()
            return int(cupy.cuda.runtime.memGetInfo()[0])
    else:
        torch = importlib.import_module("torch")

        def free() -> int:
            gc.collect()
            torch.cuda.empty_cache()
            return int(torch.cuda.mem_get_info()[0])

    return free


@on("cupy")
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
class TestCuPy:
    """Both runners that capture."""

    @pytest.mark.parametrize("m", [None, 3], ids=["one", "three"])
    def test_a_step_is_captured(self, backend, make, m):
        remember, made = remembering(make)
        put = lambda array: backend.put(array, "float32")  # noqa: E731
        state, losses = trained(CASES["loss-cross_entropy"], m, remember, put, backend.place)
        (runner,) = made
        assert (runner.name, runner.reason) == (make.name, "")
        assert {rows: sorted(batch.graphs) for rows, batch in runner._batches.items()} == {BATCH: [1], N % BATCH: [1]}
        wanted, losses_wanted = trained(CASES["loss-cross_entropy"], m, eager.Runner, writable, select("numpy"))
        backend.assert_close(state.p, wanted.p, rtol=TOLERANCE["float32"], dtype="float32")
        for value, expected in zip(losses, losses_wanted, strict=True):
            backend.assert_close(value, expected, rtol=TOLERANCE["float32"], dtype="float32")

    def test_an_epoch_of_many_batches_launches_eight_at_a_time(self, backend, make):
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((1000, 3)), rng.standard_normal((1000, 1))
        nets = []
        for place in (backend.place, select("numpy")):
            nets.append(MLP([3, 8, 1], backend=place.backend.name, dtype="float64", random_state=0))
            with config_context(captured=make.captures):
                nets[-1].fit(place.asarray(x), place.asarray(y), batch_size=16, epochs=3)
        np.testing.assert_allclose(*(net.history["loss"] for net in nets), rtol=1e-10)
        backend.assert_close(nets[0].parameters, nets[1].parameters, rtol=1e-10)

    @pytest.mark.parametrize("m", [None, 3], ids=["one", "three"])
    def test_a_last_update_that_diverges_is_told_and_undone(self, backend, make, m):
        check_divergence(backend.place, "float32", m, make)

    def test_partial_fits_share_a_runner(self, backend, make):
        with config_context(captured=make.captures):
            check_partial_fits(backend.place, KeptRunner())


WHOLE = [
    pytest.param(it, name, m, id=f"{name}-{'three' if m else 'one'}")
    for it in UNDER_TEST
    if it.id == "cupy"
    for name, m in EVERY
]


@pytest.mark.parametrize(("backend", "name", "m"), WHOLE, indirect=["backend"])
def test_the_captured_runner_takes_the_steps_of_the_eager_one(name, m, backend):
    remember, made = remembering(captured.Runner)
    case = (CASES | PARTS)[name]
    wanted, losses_wanted = trained(case, m, eager.Runner, writable, select("numpy"))
    got, losses = trained(case, m, remember, lambda array: backend.put(np.array(array)), backend.place)
    assert (made[0].name, made[0].reason) == ("captured", "")
    assert all(batch.graphs for batch in made[0]._batches.values())
    for value, expected in zip((got.p, *got.slots, *losses), (wanted.p, *wanted.slots, *losses_wanted), strict=True):
        backend.assert_close(value, expected, rtol=TOLERANCE["float64"])


@on("torch-cuda")
class TestTorch:
    """The in-place step as PyTorch's graph."""

    def test_a_step_is_captured(self, backend):
        remember, made = remembering(find_runner)
        case, put = CASES["loss-cross_entropy"], lambda array: backend.put(array, "float32")
        state, _ = trained(case, None, remember, put, backend.place)
        assert made[0].reason == ""
        assert all(graph.graphs for graph in made[0].graphs.values())
        wanted, _ = trained(case, None, eager.Runner, writable, select("numpy"))
        backend.assert_close(state.p, wanted.p, rtol=TOLERANCE["float32"], dtype="float32")

    def test_partial_fits_share_a_runner(self, backend):
        check_partial_fits(backend.place, KeptRunner())

    @pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
    def test_the_default_dtype_is_not_that_of_the_steps(self, backend, dtype):
        torch = importlib.import_module("torch")
        before = torch.get_default_dtype()
        rng = np.random.default_rng(0)
        x, y = (backend.put(rng.random((64, k)), "float32") for k in (3, 1))
        nets = [MLP([3, 4, 1], backend="torch", device="cuda", dtype="float32", random_state=0) for _ in range(2)]
        nets[0].fit(x, y, epochs=2, batch_size=16)
        try:
            torch.set_default_dtype(getattr(torch, dtype))
            nets[1].fit(x, y, epochs=2, batch_size=16)
        finally:
            torch.set_default_dtype(before)
        backend.assert_close(nets[1].parameters, backend.get(nets[0].parameters), rtol=1e-6)


@on("cupy", "torch-cuda")
class TestMemory:
    """Of a card."""

    @staticmethod
    def net(backend: BackendUnderTest, *sizes: int) -> MLP:
        options = {"backend": backend.name, "device": backend.place.device_name, "dtype": "float32"}
        return MLP(sizes, **options, random_state=0)

    def test_a_fit_gives_its_memory_back(self, backend, rng):
        free = memory_of(backend)
        x, y = (backend.put(rng.random((5000, k)), "float32") for k in (20, 1))
        net = self.net(backend, 20, 64, 1)
        net.fit(x, y, epochs=3, batch_size=500)
        before = free()
        for _ in range(5):
            net.fit(x, y, epochs=3, batch_size=500)
        assert before - free() < 2**24

    def test_what_has_no_room_is_a_memory_error_and_the_net_goes_on_as_it_was(self, backend, rng):
        free = memory_of(backend)
        n = free() // (4 * 2**20)  # an array of (n, 2**20) fills the card
        x, y = (backend.put(rng.random((64, k)), "float32") for k in (4, 1))
        net = self.net(backend, 4, 8, 1).fit(x, y, epochs=2, batch_size=16)
        before = backend.get(net.parameters).copy()
        wide = self.net(backend, 4, 2**20, 1)
        many = backend.place.xp.zeros((n, 4), dtype=x.dtype, device=backend.device)
        with pytest.raises(MemoryError, match=r"not enough memory on .* for training .*batch_size"):
            wide.fit(many, many[:, :1], epochs=1, batch_size=n)
        assert not wide.history.get("loss")
        del many
        net.fit(x, y, epochs=2, batch_size=16)
        assert np.isfinite(backend.get(net.parameters)).all()
        assert not np.array_equal(backend.get(net.parameters), before)
        assert free() > 0.95 * n * 4 * 2**20


@on("cupy", "torch-cuda", "jax-x32")
class TestPrecision:
    """What a product of float32 is rounded to."""

    @staticmethod
    def answer_off(backend: BackendUnderTest) -> float:
        place, x = backend.place, np.random.default_rng(0).random((512, 512), dtype=np.float32)
        options = {"backend": place.backend.name, "device": place.device_name, "dtype": "float32"}
        net = MLP([512, 512, 1], "identity", **options, random_state=0)
        got = backend.get(net.predict(backend.put(x)))
        wanted = x.astype(float)
        for W in net.W[1:]:
            wanted = wanted @ backend.get(W).astype(float)
        return float(np.max(np.abs(got - wanted)) / np.max(np.abs(wanted)))

    def test_it_is_float32(self, backend):
        assert self.answer_off(backend) < 2e-6  # in TF32 some 1e-4


@on("cupy")
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_tf32_is_taken_where_it_may_be(make, backend):
    rng = np.random.default_rng(0)
    x, y = (backend.put(rng.standard_normal((512, k)), "float32") for k in (256, 1))
    ends = []
    with config_context(captured=make.captures):
        for precision in ("highest", "high", "high"):
            net = MLP([256, 256, 1], "tanh", backend="cupy", dtype="float32", random_state=0)
            net.fit(x, y, epochs=1, batch_size=512, optimizer="sgd", precision=precision)
            ends.append(backend.get(net.parameters))
    off = np.max(np.abs(ends[1] - ends[0])) / np.max(np.abs(ends[0]))
    assert 0 < off < 1e-3
    np.testing.assert_array_equal(ends[1], ends[2])


@on("cupy", "torch-cuda", "jax-x32")
@pytest.mark.filterwarnings("ignore:.*Maximum iterations")
def test_an_estimator_learns_the_circles(backend):
    datasets = importlib.import_module("sklearn.datasets")
    x, y = datasets.make_circles(400, noise=0.05, factor=0.4, random_state=0)
    clf = MLPClassifier(
        (8,), backend=backend.name, device=backend.place.device_name, random_state=0, learning_rate_init=0.02
    )
    x = x.astype(np.float32)
    clf.fit(x, y)
    assert clf.score(x, y) > 0.98
    assert isinstance(clf.predict(x), np.ndarray)
