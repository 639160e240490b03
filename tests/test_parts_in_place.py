"""Parts and members in place, on NumPy and PyTorch: the steps of the eager runner, one and a hundred."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from conftest import UNDER_TEST, BackendUnderTest
from test_parts import PIECEWISE, SCALE
from test_runners import check_pass
from witnesses import relative

from xpmlp import MLP, config_context
from xpmlp.backends import Place, select
from xpmlp.network import Network, dropout
from xpmlp.network.activations import activation
from xpmlp.network.losses import loss
from xpmlp.network.parts import PARTS, Own, Part
from xpmlp.network.propagation import layout_with_parts
from xpmlp.optim.optimizers import optimizer
from xpmlp.runners import GO_BATCH_BY_BATCH, Data, Task, eager, find_runner, inplace, passes
from xpmlp.runners import numpy as numpy_runner
from xpmlp.runners.passes import EagerPass, find_pass
from xpmlp.runners.step import State

IN_PLACE = pytest.mark.parametrize(
    "backend", [pytest.param(it, id=it.id) for it in UNDER_TEST if it.name in GO_BATCH_BY_BATCH], indirect=True
)
N, BATCH = 23, 8  # three batches, the last one short

NORM, ROW_SCALE = PARTS["layer_norm"], PARTS["member_scale"]


def own_forward(part: Part, own: Own, z: Any) -> Any:
    return NORM.forward(part, own, z)


OWN = replace(NORM, forward=own_forward)  # no longer the table's, so that it has no column

# Parts of each layer, members, networks.
NETWORKS: dict[str, tuple[Any, int, int | None]] = {
    "piecewise": (((PIECEWISE,),), 0, None),
    "layer_norm": (((), (NORM,), (NORM,)), 0, None),
    "an own part": (((), (OWN,)), 0, None),
    "three networks": (((PIECEWISE,), (NORM,), (OWN,)), 0, 3),
    "members that share the input": ((), 3, None),
    "members that share numbers": (((PIECEWISE,),), 3, None),
    "one member": (((ROW_SCALE,),), 1, None),
    "members with all parts": (((PIECEWISE, SCALE), (NORM, ROW_SCALE), (ROW_SCALE, NORM)), 4, None),
    "members with an own part": (((PIECEWISE, SCALE), (OWN, ROW_SCALE)), 4, None),
}


@dataclass(frozen=True)
class Case:
    """What is trained, and how."""

    hidden: str = "silu"
    loss: str = "squared_error"
    outputs: int = 2
    optimizer: Any = "adamw"
    dropout: float = 0.3
    weighted: bool = False
    average: float = 5.0
    sizes: tuple[int, ...] = (5, 6, 4)
    by_element: bool = False  # factors that change from element to element
    l2: float = 0.0
    clip_norm: float | None = None


CASES = {
    "silu": Case(),
    "weights": Case(loss="cross_entropy", outputs=3, weighted=True, l2=0.1),
    "clipping": Case(hidden="tanh", loss="binary_cross_entropy", outputs=1, optimizer="adam", l2=0.1, clip_norm=0.3),
    "no column for f": Case(hidden="gelu", outputs=1, optimizer="momentum"),
    "no column for the loss": Case(hidden="relu", loss="absolute_error", weighted=True, dropout=0.0),
    "along the units": Case(hidden="softmax", loss="poisson", outputs=1, by_element=True, average=0.0),
}
LAST_LAYER_ALONE = Case(loss="cross_entropy", outputs=3, sizes=(5,))
SHALLOW = [name for name, (parts, _, _) in NETWORKS.items() if len(parts) < 2]


def trained(
    name: str, case: Case, place: Place, make: Any, epochs: int = 1, dtype: str = "float64"
) -> tuple[list[Any], Any]:
    """The parameters, the slots and the losses; and the runner."""
    rng = np.random.default_rng(0)
    parts, members, m = NETWORKS[name]
    row = loss(case.loss)
    layout = layout_with_parts((*case.sizes, case.outputs), parts, members)
    hidden = len(case.sizes) - 1
    rows = *[activation(case.hidden)] * hidden, activation(row.link or "identity")
    network = Network(layout, rows, row, (case.dropout,) * hidden, parts)

    def put(array: Any) -> Any:
        return place.asarray(np.array(array, dtype=dtype))

    method = replace(optimizer(case.optimizer), average=case.average)
    p = put(0.5 * rng.standard_normal((*((m,) if m else ()), layout.size)))
    rates = {"W": 1.0, "b": 0.5}
    factors = layout.fill(lambda segment: rates.get(segment.name, 5.0), p)
    task = Task(
        network,
        method,
        case.l2,
        case.clip_norm,
        factors=put(np.linspace(0.0, 2.0, layout.size)) if case.by_element else factors,
        decays=layout.fill(lambda segment: segment.decays, p) if method.weight_decay else None,
    )
    x, y = rng.standard_normal((N, 5)), np.abs(rng.standard_normal((N, case.outputs)))
    if row.targets in ("distribution", "probability"):
        y = np.eye(case.outputs)[rng.integers(case.outputs, size=N)] if case.outputs > 1 else 1.0 * (y > 0.7)
    w = put(rng.random(N)) if case.weighted else None
    seed = place.asarray(np.arange(5, 5 + (m or 1), dtype=np.int32).reshape((m, 1, 1) if m else (1, 1)))
    runner = make(task, Data(place, put(x), put(y), w, BATCH), seed)
    state, losses = State(p, method.init(p).slots, 0), []
    for epoch in range(epochs):
        order = np.stack([rng.permutation(N) for _ in range(m or 1)])
        state, value = runner.epoch(state, order if m else order[0], lambda i, e=epoch: 0.02 / (1 + i + e))
        losses.append(value)
    host = place.backend.to_numpy
    return [np.asarray(host(it)) for it in (state.p, *state.slots, *losses)], runner


def compare(name: str, case: Case, backend: BackendUnderTest, epochs: int, tolerance: float) -> None:
    expected, _ = trained(name, case, select("numpy"), eager.Runner, epochs)
    got, runner = trained(name, case, backend.place, find_runner, epochs)
    assert isinstance(runner, inplace.InPlaceRunner)
    assert runner.reason == ""
    for array, wanted in zip(got, expected, strict=True):
        assert relative(array, wanted) < tolerance


@IN_PLACE
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", NETWORKS)
def test_an_epoch_in_place_is_that_of_the_eager_runner(name: str, case: Case, backend: BackendUnderTest) -> None:
    compare(name, case, backend, 1, 1e-12)  # 2e-14 at most


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_functions_take_the_steps_of_the_eager_runner(name: str, case: Case) -> None:
    pytest.importorskip("numba")
    expected, _ = trained(name, case, select("numpy"), eager.Runner, 2)
    with config_context(compiled="always"):
        got, runner = trained(name, case, select("numpy"), numpy_runner.Runner, 2)
    assert (runner.compiled is not None) == case.optimizer.startswith("adam")
    for array, wanted in zip(got, expected, strict=True):
        assert relative(array, wanted) < 1e-12


@IN_PLACE
@pytest.mark.parametrize("name", SHALLOW)
def test_a_last_layer_alone_is_that_of_the_eager_runner(name: str, backend: BackendUnderTest) -> None:
    compare(name, LAST_LAYER_ALONE, backend, 1, 1e-12)


@IN_PLACE
@pytest.mark.parametrize("name", NETWORKS)
def test_a_hundred_steps_of_adam_stay_together(name: str, backend: BackendUnderTest) -> None:
    compare(name, Case(loss="cross_entropy", outputs=3), backend, 34, 1e-10)


@IN_PLACE
def test_the_fused_update_is_kept_where_factors_change_by_name(backend: BackendUnderTest) -> None:
    for case, fused in ((Case(), True), (Case(by_element=True), False), (Case(optimizer="sgd"), False)):
        _, runner = trained("members with all parts", case, backend.place, find_runner)
        assert runner.update.fused == fused
    _, runner = trained("members with all parts", Case(), backend.place, find_runner)
    assert {block.factor for block in runner.update.blocks} == {0.5, 1.0, 5.0}


def test_other_masks_for_members_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = trained("one member", Case(), select("numpy"), eager.Runner)
    key = dropout.key
    monkeypatch.setattr(dropout, "key", lambda *a: key(*a) + 1)
    got, _ = trained("one member", Case(), select("numpy"), find_runner)
    assert relative(got[0], expected[0]) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@IN_PLACE
def test_masks_in_place_are_those_of_dropout_to_the_bit(dtype: str, backend: BackendUnderTest) -> None:
    column = import_module(f"xpmlp.runners.{backend.name}").Runner.columns.mask
    n, batch = 5, 7
    for rate in (0.001, 0.2, 0.5, 0.75):
        for members, networks in ((0, 0), (0, 3), (4, 0)):
            shape = (batch, n) if not members + networks else (members + networks, batch, n)
            seeds = np.arange(11, 11 + (networks or 1), dtype=np.int32).reshape(
                (networks, 1, 1) if networks else (1, 1)
            )
            seed, step = backend.place.asarray(seeds), backend.place.asarray(np.full((1, 1), 9, np.int32))
            like = backend.put(np.zeros(shape), dtype)
            wanted = backend.get(dropout.mask(rate, seed, step, 2, like, first=3, members=members > 0))
            elements = dropout.elements(batch, n, seed, first=3)
            xp, zeros = backend.xp, partial(backend.xp.zeros, device=backend.device)
            ints = zeros(shape, dtype=xp.int32), zeros(shape, dtype=xp.int32)
            out = zeros(shape, dtype=getattr(xp, dtype))
            column(elements, dropout.key(seed, step, 2, members), rate, out, ints)
            np.testing.assert_array_equal(backend.get(out), wanted)


@pytest.mark.parametrize("cached", [30, 2**16], ids=["in pieces", "whole"])
@pytest.mark.parametrize("hidden", ["silu", "tanh", "gelu", "softmax"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_forward_pass_in_place_is_that_of_the_network(
    name: str, hidden: str, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "COLUMNS", passes.COLUMNS._replace(cached=cached))
    rng = np.random.default_rng(2)
    parts, members, m = NETWORKS[name]
    layout = layout_with_parts((5, 6, 4, 3), parts, members)
    network = Network(layout, (*[activation(hidden)] * 2, activation("softmax")), loss("cross_entropy"), (), parts)
    p = layout.unpack(rng.uniform(-0.5, 0.5, size=(m, layout.size) if m else layout.size))
    x, go = rng.standard_normal((17, 5)), find_pass(network, p, select("numpy"))
    assert not isinstance(go, EagerPass)
    go.begin(many=True)
    check_pass(go, network, p, x)


@pytest.mark.parametrize("size", [1, 30, 2**15])
@IN_PLACE
def test_steps_in_small_pieces_are_the_same(size: int, backend: BackendUnderTest, monkeypatch: Any) -> None:
    kind = import_module(f"xpmlp.runners.{backend.name}").Runner
    monkeypatch.setattr(kind, "columns", kind.columns._replace(cached=size))
    for name in ("piecewise", "three networks", "members with all parts"):
        for hidden in ("silu", "tanh", "softmax"):
            compare(name, Case(hidden=hidden), backend, 1, 1e-12)


def test_a_thousand_steps_stay_finite_and_learn() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, size=(200, 5))
    y = np.sin(3.0 * x[:, :1]) * x[:, 1:2]
    net = MLP((5, 32, 32, 1), "silu", "squared_error", members=4, parts={0: [PIECEWISE, SCALE]}, random_state=0)
    net.fit(x, y, epochs=143, batch_size=32, optimizer="adamw", learning_rate=3e-3, average=2.0)  # 1,001 steps
    assert np.all(np.isfinite(net.parameters))
    assert net.history["loss"][-1] < 0.1 * net.history["loss"][0]


@IN_PLACE
def test_moments_of_what_is_no_longer_met_become_zero_and_not_denormal(backend: BackendUnderTest) -> None:
    def moments(epochs: int) -> list[Any]:
        p = backend.place.asarray(np.full(5, 0.3, np.float32))
        network = Network(layout_with_parts((4, 1), (), 0), (activation("identity"),), loss("squared_error"))
        x, y = np.zeros((4, 4), np.float32), np.ones((4, 1), np.float32)
        x[:, 0] = 1.0  # the other inputs have no gradient
        method = optimizer("adam", beta_2=0.95)
        data = Data(backend.place, *(backend.place.asarray(it) for it in (x, y)), None, 4)
        runner, small = (
            find_runner(Task(network, method), data),
            np.asarray([1.0, 1e-39, -1e-39, 1e-20, 1.0], np.float32),
        )
        state = State(p, tuple(backend.place.asarray(np.abs(small) if i else small.copy()) for i in range(2)), 1)
        for _ in range(epochs):
            state, _ = runner.epoch(state, None, lambda i: 1e-3)
        return [backend.get(slot) for slot in state.slots]

    least = np.finfo(np.float32).smallest_normal
    for slot in moments(63):  # update 64
        assert np.array_equal(slot != 0.0, [True, False, False, True, True])
    for slot in moments(2_000):
        assert not np.any((slot != 0.0) & (np.abs(slot) < least))
