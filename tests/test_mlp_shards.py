"""MLP.fit of shards: as estimators' fit, with targets that are the network's own."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BackendUnderTest
from test_reduce import ThreadOf, together

from xpmlp import MLP, MLPRegressor, distributed, shards
from xpmlp.network.parts import part

RNG = np.random.default_rng(1)
X = RNG.standard_normal((300, 4))
Y = np.stack([X[:, 0] * X[:, 1], X[:, 2]], axis=1)


def net(**options: Any) -> MLP:
    return MLP([4, 12, 2], random_state=0, **options)


def test_an_mlp_learns_from_shards() -> None:
    data = shards.from_arrays(X, Y)
    trained = net().fit(data, epochs=60, batch_size=32, learning_rate=0.01)
    assert trained.evaluate(X, Y) < 0.15 * net().evaluate(X, Y)
    ordered = net().fit(data, epochs=60, batch_size=32, learning_rate=0.01, group=distributed.alone(fixed_order=True))
    np.testing.assert_allclose(ordered.history["loss"], trained.history["loss"], rtol=1e-9)


def test_one_batch_of_weighted_shards_is_one_of_arrays() -> None:
    w = RNG.random(300)
    options = {"epochs": 3, "batch_size": 300, "optimizer": "sgd", "l2": 0.1, "shuffle": False}
    whole = net().fit(X, Y, sample_weight=w / w.max(), **options)
    parts = net().fit(shards.from_arrays(X, Y, w / w.max()), **options)
    for k in (1, 2):
        np.testing.assert_allclose(parts.W[k], whole.W[k], rtol=1e-10, atol=1e-13)


PARTS: dict[str, dict[str, Any]] = {
    "piecewise": {"parts": {0: [part("piecewise", edges=[[-1.0, 0.0, 1.0]], width=3)]}},
    "layer_norm": {"parts": {1: ["layer_norm"]}},
    "members": {"members": 3, "parts": {0: ["member_scale"]}},
}


@pytest.mark.parametrize("options", PARTS.values(), ids=PARTS)
def test_networks_with_parts_and_members_learn_from_shards_what_they_learn_from_arrays(options: dict[str, Any]) -> None:
    fit: dict[str, Any] = {"epochs": 3, "batch_size": 300, "optimizer": "momentum", "average": 2.0, "shuffle": False}
    whole, parts = net(**options).fit(X, Y, **fit), net(**options).fit(shards.from_arrays(X, Y, rows=60), **fit)
    np.testing.assert_allclose(parts.parameters, whole.parameters, rtol=1e-9, atol=1e-12)
    held = net(**options).fit(shards.from_arrays(X, Y), validation_data=shards.from_arrays(X, Y), **fit)
    assert held.history["validation_loss"][-1] == pytest.approx(held.evaluate(X, Y))


def test_a_run_of_an_mlp_on_shards_goes_on(tmp_path: Path) -> None:
    data = shards.from_arrays(X, Y)
    options = {"batch_size": 32, "learning_rate": 0.01, "validation_data": (X[:50], Y[:50])}
    whole = net(dropout=0.1).fit(data, epochs=6, **options)
    net(dropout=0.1).fit(data, epochs=2, checkpoint=tmp_path, **options)
    again = net(dropout=0.1).fit(data, epochs=6, checkpoint=tmp_path, resume=True, **options)
    assert again.history["validation_loss"] == whole.history["validation_loss"]
    np.testing.assert_array_equal(again.W[2], whole.W[2])


@pytest.mark.parametrize("weighted", [False, True])
def test_shards_that_are_held_out_are_judged_as_arrays_are(weighted: bool) -> None:
    w = RNG.random(300) if weighted else None
    labels = (X[:, :1] > 0.3).astype(float)
    options: dict[str, Any] = {"epochs": 4, "batch_size": 32}
    make = partial(MLP, [4, 8, 1], loss="binary_cross_entropy", random_state=0)
    held = shards.from_arrays(X, labels, w, rows=41)
    found = make().fit(shards.from_arrays(X, labels), validation_data=held, metric="accuracy", **options)
    p = make().fit(shards.from_arrays(X, labels), **options)
    assert found.history["loss"] == p.history["loss"]
    assert found.history["validation_loss"][-1] == pytest.approx(p.evaluate(X, labels, sample_weight=w))
    assert found.history["validation_metric"][-1] == np.mean((p.predict(X) > 0.5) == labels)


def test_a_part_of_every_shard_stops_a_fit_and_is_not_trained_on() -> None:
    data = shards.from_arrays(X, Y, rows=50)
    options: dict[str, Any] = {"epochs": 400, "batch_size": 32, "learning_rate": 0.05, "early_stopping": True}
    trained = net().fit(data, validation_fraction=0.3, patience=3, **options)
    losses = trained.history["validation_loss"]
    assert len(losses) < 400
    # What it ends with is the best epoch: its loss on all is that of neither part.
    ordered = net().fit(data, validation_fraction=0.3, patience=3, group=distributed.alone(fixed_order=True), **options)
    np.testing.assert_allclose(ordered.history["validation_loss"][:20], losses[:20], rtol=1e-6)
    assert min(losses) < losses[0] / 2.0


def test_shards_of_which_nothing_is_held_out_say_so() -> None:
    data = shards.from_arrays(X, Y, rows=4)
    for trains in (
        lambda: net().fit(data, batch_size=8, early_stopping=True),
        lambda: MLPRegressor(hidden_layer_sizes=4, early_stopping=True).fit(data),
    ):
        with pytest.raises(ValueError, match="holds out no row of any shard: the largest has 4 rows"):
            trains()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_shards_that_are_held_out_are_judged_on_every_backend(backend: BackendUnderTest) -> None:
    options: dict[str, Any] = {"dtype": "float32", "random_state": 0}
    there = options | {"backend": backend.name, "device": backend.place.device_name}
    data, on_host = (shards.from_arrays(*arrays, rows=60) for arrays in (map(backend.put, (X, Y)), (X, Y)))

    def of_mlp(held: Any, arguments: dict[str, Any]) -> Any:
        trained = MLP([4, 5, 2], **arguments).fit(held, epochs=2, batch_size=32, early_stopping=True)
        return trained.history["validation_loss"]

    def of_estimator(arguments: dict[str, Any]) -> Any:
        model = MLPRegressor(hidden_layer_sizes=4, max_iter=2, early_stopping=True, scoring="loss", **arguments)
        return model.fit(on_host).validation_loss_curve_

    tolerance = backend.tolerance("float32")
    np.testing.assert_allclose(of_mlp(data, there), of_mlp(on_host, options), rtol=tolerance)
    np.testing.assert_allclose(of_estimator(there), of_estimator(options), rtol=tolerance)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_is_held_out_is_judged_to_the_same_bits_by_any_number_of_processes() -> None:
    def of(group: ThreadOf) -> list[Any]:
        group.fixed_order = True
        data = shards.from_arrays(X, Y, rows=23)
        options: dict[str, Any] = {"dtype": "float32", "random_state": 0}
        trained = MLP([4, 5, 2], **options).fit(data, epochs=3, batch_size=32, early_stopping=True, group=group)
        model = MLPRegressor("squared_error", 5, max_iter=3, early_stopping=True, **options).fit(data, group=group)
        return [trained.history["validation_loss"], model.validation_loss_curve_, model.validation_scores_]

    for size in (2, 3):
        for found in together(size, of):
            assert found == together(1, of)[0]


@pytest.mark.parametrize("average", [0.0, 2.0])
def test_processes_whose_validation_sets_differ_go_by_that_of_rank_0(average: float) -> None:
    # No epoch gains as much as `tol` on rank 0's set; on rank 1's, whose losses are a million times as large, all do.
    def of(group: ThreadOf) -> int:
        held = (X[:50], Y[:50] * 1e3**group.rank)
        data = shards.from_arrays(X, Y)
        options: dict[str, Any] = {"batch_size": 32, "early_stopping": True, "patience": 2, "tol": 10.0}
        fitted = net().fit(data, epochs=9, validation_data=held, average=average, group=group, **options)
        return len(fitted.history["loss"])

    assert together(2, of) == [4, 4]  # the first gains, and then there is patience for two


REFUSED = {
    "y": ({"y": Y, "batch_size": 8}, "shards hold X, y and their weights"),
    "no batch_size": ({"batch_size": None}, "choose a batch_size"),
    "a metric": ({"batch_size": 8, "metric": lambda y, yhat: 0.0}, 'metric can be "accuracy" alone'),
    "a metric of arrays": (
        {"batch_size": 8, "metric": "accuracy", "validation_data": (X, Y)},
        "of those held out (validation_data=shards, or early_stopping)",
    ),
    "a fraction that is none": ({"batch_size": 8, "early_stopping": True, "validation_fraction": 1.0}, "fraction"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_shards_cannot_do_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        net().fit(shards.from_arrays(X, Y), **options)


def test_shards_to_judge_by_that_differ_are_told_before_an_estimator_trains() -> None:
    def of(group: ThreadOf) -> str:
        held = shards.from_arrays(X[:64], Y[:64], rows=16 + group.rank)
        with pytest.raises(ValueError, match="the same X_val") as told:
            MLPRegressor(hidden_layer_sizes=5).fit(shards.from_arrays(X, Y), X_val=held, group=group)
        return str(told.value)

    assert together(2, of) == ["all processes need the same X_val; rank 1 has others."] * 2


@pytest.mark.parametrize(("name", "odd"), [("hidden_layer_sizes", (6,)), ("batch_size", 16), ("tol", 1e-3)])
def test_parameters_that_differ_are_told_before_an_estimator_trains(name: str, odd: Any) -> None:
    def of(group: ThreadOf) -> str:
        model = MLPRegressor(hidden_layer_sizes=(5,), batch_size=32, tol=1e-4, max_iter=2)
        with pytest.raises(ValueError, match=f"the same {name}") as told:
            model.set_params(**{name: odd} if group.rank else {}).fit(shards.from_arrays(X, Y), group=group)
        return str(told.value)

    first, second = together(2, of)
    assert first == second
    assert first.endswith(f", {odd!r} in rank 1.")


def test_several_networks_and_groups_of_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="one network at a time; this MLP has 3"):
        net(n_networks=3).fit(shards.from_arrays(X, Y), batch_size=8)
    with pytest.raises(ValueError, match="a group trains on shards"):
        net().fit(X, Y, group=distributed.alone())
