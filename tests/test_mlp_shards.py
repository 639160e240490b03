"""MLP.fit of shards: as estimators' fit, with targets that are the network's own."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpmlp import MLP, distributed, shards

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


def test_a_run_of_an_mlp_on_shards_goes_on(tmp_path: Path) -> None:
    data = shards.from_arrays(X, Y)
    options = {"batch_size": 32, "learning_rate": 0.01, "validation_data": (X[:50], Y[:50])}
    whole = net(dropout=0.1).fit(data, epochs=6, **options)
    net(dropout=0.1).fit(data, epochs=2, checkpoint=tmp_path, **options)
    again = net(dropout=0.1).fit(data, epochs=6, checkpoint=tmp_path, resume=True, **options)
    assert again.history["validation_loss"] == whole.history["validation_loss"]
    np.testing.assert_array_equal(again.W[2], whole.W[2])


REFUSED = {
    "y": ({"y": Y, "batch_size": 8}, "shards hold X, y and their weights"),
    "no batch_size": ({"batch_size": None}, "choose a batch_size"),
    "a metric": ({"batch_size": 8, "metric": lambda y, yhat: 0.0}, "leave metric out"),
    "early stopping": ({"batch_size": 8, "early_stopping": True}, "needs validation_data"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_shards_cannot_do_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        net().fit(shards.from_arrays(X, Y), **options)


def test_several_networks_and_groups_of_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="one network at a time; this MLP has 3"):
        net(n_networks=3).fit(shards.from_arrays(X, Y), batch_size=8)
    with pytest.raises(ValueError, match="a group trains on shards"):
        net().fit(X, Y, group=distributed.alone())
