"""Tables in shards: prepared by what a sample of them says, and trained on piece by piece."""

import logging
import re
from typing import Any

import numpy as np
import pytest
from conftest import BackendUnderTest

from xpmlp import TabularClassifier, TabularRegressor, shards
from xpmlp.estimators.tabular import sharded

pandas = pytest.importorskip("pandas")

RNG = np.random.default_rng(0)
N = 1500
TABLE = pandas.DataFrame({"amount": RNG.standard_normal(N), "colour": RNG.choice(["red", "green", "blue"], N)})
TABLE.loc[::17, "amount"] = np.nan
LABELS = np.where((TABLE["amount"].fillna(0.0) > 0.0) ^ (TABLE["colour"] == "red"), "yes", "no")
AMOUNTS = np.where(TABLE["colour"] == "red", 3.0, 0.0) + 2.0 * np.nan_to_num(TABLE["amount"]) + 50.0
W = RNG.random(N)
SETTINGS: dict[str, Any] = {"n_members": 2, "hidden_layer_sizes": (16,), "max_iter": 30, "random_state": 0}


def parts(*columns: Any, rows: int = 250) -> shards.Shards:
    return shards.from_sequence([tuple(c[i : i + rows] for c in columns) for i in range(0, N, rows)])


def test_a_classifier_learns_from_shards_of_frames_what_it_learns_from_the_table() -> None:
    # In memory with the same one training: both were above 0.99.
    whole = TabularClassifier(**SETTINGS, refit=False).fit(TABLE, LABELS)
    model = TabularClassifier(**SETTINGS).fit(parts(TABLE, LABELS))
    assert whole.score(TABLE, LABELS) > 0.97
    assert model.score(TABLE, LABELS) > 0.97
    assert model.classes_.tolist() == ["no", "yes"]
    assert len(model.history_["validation_loss"]) <= 30
    assert model.validation_loss_ == min(model.history_["validation_loss"])


def test_a_regressor_learns_its_scale_from_the_sample() -> None:
    model = TabularRegressor(**SETTINGS).fit(parts(TABLE, AMOUNTS, W))
    assert model.score(TABLE, AMOUNTS) > 0.97
    held = TabularRegressor(**SETTINGS).fit(parts(TABLE, AMOUNTS), X_val=TABLE[:300], y_val=AMOUNTS[:300])
    assert held.validation_score_ > 0.97


def test_a_part_of_every_shard_is_judged_wherever_training_is(backend: BackendUnderTest) -> None:
    settings = SETTINGS | {"max_iter": 3}
    here = TabularClassifier(**settings).fit(parts(TABLE, LABELS)).history_["validation_loss"]
    model = TabularClassifier(**settings, backend=backend.name, device=backend.place.device_name)
    there = model.fit(parts(TABLE, LABELS)).history_["validation_loss"]
    np.testing.assert_allclose(there, here, rtol=1e-3)  # float32, after up to 18 steps


def test_weights_and_balanced_classes_count() -> None:
    few = np.where(np.arange(N) % 10 == 0, "yes", "no")  # noise: what is likely is what weighs most
    light = TabularClassifier(**SETTINGS).fit(parts(TABLE, few)).predict_proba(TABLE)[:, 1].mean()
    even = TabularClassifier(**SETTINGS, class_weight="balanced").fit(parts(TABLE, few)).predict_proba(TABLE)[:, 1]
    weighed = parts(TABLE, few, np.where(few == "yes", 9.0, 1.0))
    given = TabularClassifier(**SETTINGS).fit(weighed).predict_proba(TABLE)[:, 1].mean()
    assert light < 0.2
    assert 0.35 < even.mean() < 0.65
    assert 0.35 < given < 0.65


def test_a_sample_is_taken_from_all_over_and_told(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(sharded, "SAMPLE", 300)
    X, y = sharded.sample_of(parts(TABLE, LABELS))
    assert X.index.tolist() == list(range(0, N, 5))
    assert y.tolist() == LABELS[::5].tolist()
    caplog.set_level(logging.INFO, "xpmlp")
    TabularClassifier(**SETTINGS | {"max_iter": 1}).fit(parts(TABLE, LABELS))
    assert "the preparation is learned from 300 of 1500 rows" in caplog.text
    arrays = shards.from_arrays(RNG.standard_normal((N, 3)), AMOUNTS, rows=100)
    assert sharded.sample_of(arrays)[0].shape == (300, 3)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "y": ({"y": LABELS}, "fit(shards) takes no y"),
    "a checkpoint": ({"checkpoint": "run"}, "keeps no checkpoints"),
    "X_val alone": ({"X_val": TABLE}, "X_val and y_val come together"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_shards_of_tables_cannot_do_says_so(options: dict[str, Any], message: str) -> None:
    model = TabularClassifier(**SETTINGS)
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(parts(TABLE, LABELS), **options)
    assert not hasattr(model, "classes_")
    with pytest.raises(ValueError, match="two classes"):
        model.fit(parts(TABLE, np.full(N, "no")))
