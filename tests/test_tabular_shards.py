"""Tables in shards: prepared by what a sample of them says, and trained on piece by piece, in one process or several.

Processes are threads here, as in tests/test_reduce.py; tests/test_dask_tables.py has real ones.
"""

import logging
import pickle
import re
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BackendUnderTest
from sklearn.base import clone
from test_reduce import Meeting, ThreadOf

import xpmlp
from xpmlp import TabularClassifier, TabularRegressor, distributed, shards
from xpmlp.distributed import LostPeerError
from xpmlp.estimators.tabular import sharded
from xpmlp.estimators.tabular.watching import ScoresOfShards

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


def test_rows_may_be_dicts_and_lists() -> None:
    expected = TabularClassifier(**EXACT).fit(parts(TABLE, LABELS)).predict_proba(TABLE)
    for rows in (TABLE.to_dict("records"), TABLE.to_numpy().tolist()):
        model = TabularClassifier(**EXACT).fit(parts(rows, LABELS))
        np.testing.assert_allclose(model.predict_proba(rows), expected, rtol=1e-12)
    pieces = [({name: list(X[name]) for name in X}, y) for X, y in parts(TABLE, LABELS)]
    model = TabularClassifier(**EXACT).fit(shards.from_sequence(pieces))
    np.testing.assert_allclose(model.predict_proba(TABLE), expected, rtol=1e-12)


def of_polars(i: int) -> Any:
    polars = pytest.importorskip("polars")
    return polars.DataFrame({"amount": [1.5, 2.5] if i else ["1.5", "2.5"]})


ODD_PIECES: dict[str, Any] = {
    "another column": lambda i: pandas.DataFrame({"amount" if i else "price": [1.5, 2.5]}).pipe(arrow),
    "another dtype": of_polars,
    "another width": lambda i: np.ones((2, 3 + i)),
    "another column of a dict": lambda i: {"amount" if i else "price": [1.5, 2.5]},
    "a dict after arrays": lambda i: {"amount": [1.5, 2.5]} if i else np.ones((2, 1)),
    "an array after dicts": lambda i: np.ones((2, 1)) if i else {"amount": [1.5, 2.5]},
    "a dict after lists": lambda i: {"amount": [1.5, 2.5]} if i else [{"amount": 1.5}, {"amount": 2.5}],
    "arrays among frames": lambda i: TABLE[:2].to_numpy() if i else TABLE[:2],
}


def arrow(frame: Any) -> Any:
    return pytest.importorskip("pyarrow").Table.from_pandas(frame)


@pytest.mark.parametrize("piece", ODD_PIECES.values(), ids=ODD_PIECES)
def test_shards_that_do_not_go_together_are_told(piece: Any) -> None:
    with pytest.raises(ValueError, match="all shards must hold the same columns, of the same kinds: "):
        TabularClassifier(**SETTINGS).fit(shards.from_sequence([(piece(i), ["no", "yes"]) for i in range(3)]))


def test_a_class_that_is_not_among_those_named_is_told() -> None:
    for weights in (None, "balanced"):
        three = shards.from_arrays(TABLE.to_numpy(), np.where(np.arange(N) < 9, "?", LABELS), classes=["no", "yes"])
        with pytest.raises(ValueError, match=r"classes.*\['no',? 'yes'\].*'\?'"):
            TabularClassifier(**SETTINGS, class_weight=weights).fit(three)


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


def test_a_shard_that_cannot_be_prepared_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded, "SAMPLE", 300)  # every fifth row: it knows nothing of row 801
    broken = TABLE.copy()
    broken.loc[801, "amount"] = np.inf
    with pytest.raises(ValueError, match=r"^shard 3: .*infinit"):
        TabularClassifier(**SETTINGS).fit(parts(broken, LABELS))


@pytest.mark.parametrize("sample", [300, 100_000])  # every fifth row, which knows nothing of row 801, and all
def test_odd_cells_are_told_once_and_with_their_shard(sample: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded, "SAMPLE", sample)
    odd = TABLE.astype({"amount": object})
    odd.loc[801, "amount"] = "much"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        TabularClassifier(**SETTINGS | {"max_iter": 3}).fit(parts(odd, LABELS))
    said = [str(one.message) for one in told if "much" in str(one.message)]
    assert said == ["shard 3: amount: 1 of 236 cells is no number ('much' in row 51): taken as missing."]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "y": ({"y": LABELS}, "fit(shards) takes no y"),
    "y_val beside shards": ({"X_val": parts(TABLE, LABELS), "y_val": LABELS}, "X_val holds y and weights itself"),
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


# --- Several processes ---

EXACT = SETTINGS | {"dtype": "float64", "max_iter": 5, "batch_size": 96}
CASES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "classes": (TabularClassifier(**EXACT), (TABLE, LABELS), {}),
    "balanced classes, with weights": (TabularClassifier(**EXACT, class_weight="balanced"), (TABLE, LABELS, W), {}),
    "numbers, with weights": (TabularRegressor(**EXACT), (TABLE, AMOUNTS, W), {}),
    "one member, no average": (
        TabularRegressor(**EXACT | {"n_members": 1}, average=0.0, dropout=0.0),
        (TABLE, AMOUNTS),
        {},
    ),
    "shards to judge by": (TabularRegressor(**EXACT), (TABLE, AMOUNTS), {"X_val": parts(TABLE, AMOUNTS, rows=400)}),
    "rows to judge by": (
        TabularClassifier(**EXACT),
        (TABLE, LABELS),
        {"X_val": TABLE[:300], "y_val": LABELS[:300]},
    ),
}


class Apart(ThreadOf):
    """A group whose processes are threads that have nothing in common: what they say goes through pickle."""

    def share(self, value: Any) -> list[Any]:
        return [pickle.loads(said) for said in super().share(pickle.dumps(value))]


def in_group(size: int, work: Any, fixed_order: bool = False) -> list[Any]:
    """What `work` returns, or raises, in each process of a group."""
    meeting = Meeting(size)

    def of(rank: int) -> Any:
        try:
            return work(Apart(meeting, rank, fixed_order))
        except Exception as error:  # noqa: BLE001 - looked at below
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(of, range(size)))


def same(found: Any, expected: Any, apart: float) -> None:
    """The same preparation, weights and curves."""
    assert not isinstance(found, Exception), found
    assert found.preparation_.to_dict() == expected.preparation_.to_dict()
    assert list(found.history_) == list(expected.history_)
    for name, curve in expected.history_.items():
        np.testing.assert_allclose(found.history_[name], curve, rtol=0, atol=apart, err_msg=name)
    np.testing.assert_allclose(found.network_.parameters, expected.network_.parameters, rtol=0, atol=apart)


@pytest.mark.parametrize(("model", "columns", "validation"), CASES.values(), ids=CASES)
def test_two_processes_learn_what_one_does(model: Any, columns: tuple[Any, ...], validation: dict[str, Any]) -> None:
    expected = clone(model).fit(parts(*columns, rows=61), **validation)
    for found in in_group(2, lambda group: clone(model).fit(parts(*columns, rows=61), **validation, group=group)):
        same(found, expected, 1e-10)
    assert np.all(np.isfinite(expected.history_["validation_score"]))


@pytest.mark.parametrize("size", [2, 4])
def test_a_fixed_order_gives_the_same_bits(size: int) -> None:
    def fitted(group: Any) -> Any:
        return TabularRegressor(**EXACT | {"dtype": "float32"}).fit(parts(TABLE, AMOUNTS, rows=61), group=group)

    expected = fitted(distributed.alone(fixed_order=True))
    for found in in_group(size, fitted, fixed_order=True):
        same(found, expected, 0.0)


def test_the_seed_and_what_the_cells_mean_are_those_of_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    prepared = sharded.prepared
    monkeypatch.setattr(sharded, "prepared", lambda *arguments: asked.append(1) or prepared(*arguments))
    models = in_group(
        2,
        lambda group: TabularRegressor(**EXACT | {"random_state": group.rank}).fit(parts(TABLE, AMOUNTS), group=group),
    )
    same(models[1], models[0], 0.0)
    assert len(asked) == 1


def test_the_score_of_shards_is_that_of_their_rows() -> None:
    # Sums in float64 here and in the network's dtype there, of 400 rows.
    for Model, y in ((TabularClassifier, LABELS), (TabularRegressor, AMOUNTS)):
        by_shards = Model(**EXACT).fit(parts(TABLE, y), X_val=parts(TABLE[:400], y[:400], rows=N))
        by_rows = Model(**EXACT).fit(parts(TABLE, y), X_val=TABLE[:400], y_val=y[:400])
        assert by_shards.history_.keys() == by_rows.history_.keys()
        for name, curve in by_rows.history_.items():
            np.testing.assert_allclose(by_shards.history_[name], curve, rtol=1e-9, err_msg=name)
        assert by_shards.validation_score_ == pytest.approx(by_rows.validation_score_)


def test_quantiles_have_a_loss_but_no_score_on_shards() -> None:
    model = TabularRegressor(**EXACT, quantile=[0.1, 0.9]).fit(parts(TABLE, AMOUNTS))
    assert np.all(np.isfinite(model.history_["validation_loss"]))
    assert np.all(np.isnan(model.history_["validation_score"]))


def test_a_fit_of_shards_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = TabularClassifier(**EXACT).fit(parts(TABLE, LABELS))

    def fails(_: Any, epoch: int, logs: Any) -> None:
        if epoch == 4:
            raise OSError("no more room for the log")

    model = TabularClassifier(**EXACT, callbacks=fails)
    with pytest.raises(OSError, match="no more room"):
        model.fit(parts(TABLE, LABELS), checkpoint=tmp_path / "run")
    assert 3 <= xpmlp.load(tmp_path / "run" / "last.safetensors").n_iter_ < 5
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    same(xpmlp.resume(tmp_path / "again", parts(TABLE, LABELS), None), whole, 0.0)
    model.set_params(callbacks=None)
    in_two = in_group(
        2, lambda group: clone(model).fit(parts(TABLE, LABELS), checkpoint=tmp_path / "run", resume=True, group=group)
    )
    same(in_two[1], whole, 1e-10)

    with pytest.raises(ValueError, match="these are others"):
        model.fit(parts(TABLE[::-1], LABELS), checkpoint=tmp_path / "run", resume=True)


def test_who_cannot_measure_an_epoch_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    here, measure = threading.local(), ScoresOfShards.measure

    def fails(self: ScoresOfShards, now: Any, seen: Any) -> Any:
        if here.rank == 1 and now.epochs == 2:
            raise OSError("no room for the score")
        return measure(self, now, seen)

    def fitted(group: Any) -> Any:
        here.rank = group.rank
        return TabularClassifier(**EXACT).fit(parts(TABLE, LABELS), group=group)

    monkeypatch.setattr(ScoresOfShards, "measure", fails)
    lost, told = in_group(2, fitted)
    assert isinstance(lost, LostPeerError)
    assert "rank 1 of 2 failed: OSError: no room for the score" in str(lost)
    assert isinstance(told, OSError)


def test_an_end_that_one_process_asks_for_is_that_of_all() -> None:
    def interrupts(*_: Any) -> None:
        raise KeyboardInterrupt

    def fitted(group: Any) -> Any:
        callbacks = None if group.rank == 0 else interrupts
        return TabularClassifier(**EXACT, callbacks=callbacks).fit(parts(TABLE, LABELS), group=group)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that training was interrupted
        models = in_group(2, fitted)
    assert [model.stopped_by_ for model in models] == [("interrupt",)] * 2


def test_who_may_not_go_on_with_a_run_that_is_over_tells_the_others(tmp_path: Path) -> None:
    TabularClassifier(**EXACT).fit(parts(TABLE, LABELS), checkpoint=tmp_path)

    def again(group: Any) -> Any:
        return TabularClassifier(**EXACT).fit(parts(TABLE, LABELS[::-1]), checkpoint=tmp_path, resume=True, group=group)

    told, lost = in_group(2, again)
    assert "these are others" in str(told)
    assert isinstance(lost, LostPeerError)


def test_who_is_told_of_a_fit_and_fails_leaves_nobody_waiting() -> None:
    class Fails:
        max_estimator_depth = None

        def setup(self, *_: Any, **__: Any) -> None: ...

        def teardown(self, *_: Any, **__: Any) -> None: ...

        def on_fit_task_end(self, *_: Any, **__: Any) -> None: ...

        def on_fit_task_begin(self, *_: Any, **__: Any) -> None:
            raise OSError("no display")

    def fitted(group: Any) -> Any:
        model = TabularClassifier(**EXACT)
        if group.rank == 1:
            model.set_callbacks(Fails())
        return model.fit(parts(TABLE, LABELS), group=group)

    lost, told = in_group(2, fitted)
    assert isinstance(lost, LostPeerError)
    assert isinstance(told, OSError)


DIFFER: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a network of another size": ({"n_members": 3}, {}, "the same n_members; it is 2 in rank 0, 3 in rank 1."),
    "another end": ({"max_iter": 6}, {}, "the same max_iter; it is 5 in rank 0, 6 in rank 1."),
    "a validation set": ({}, {"X_val": TABLE[:9], "y_val": LABELS[:9]}, "the same X_val"),
    "other shards to judge by": ({}, {"X_val": parts(TABLE, LABELS, rows=60)}, "the same X_val"),
}


@pytest.mark.parametrize(("parameters", "validation", "message"), DIFFER.values(), ids=DIFFER)
def test_processes_that_differ_are_told_before_they_train(
    parameters: dict[str, Any], validation: dict[str, Any], message: str
) -> None:
    def fitted(group: Any) -> Any:
        odd = group.rank == 1
        model = TabularClassifier(**EXACT | (parameters if odd else {}))
        return model.fit(parts(TABLE, LABELS), **validation if odd else {}, group=group)

    for error in in_group(2, fitted):
        assert "all processes need " + message in str(error)


def test_who_fails_tells_the_others_and_what_differs_is_refused() -> None:
    def odd(group: Any) -> Any:
        model = TabularClassifier(**EXACT | {"max_iter": 5 if group.rank == 0 else -1})
        return model.fit(parts(TABLE, LABELS), group=group)

    lost, told = in_group(2, odd)
    assert isinstance(lost, LostPeerError)
    assert "max_iter" in str(lost)
    assert isinstance(told, ValueError)

    def other(group: Any) -> Any:
        return TabularClassifier(**EXACT).fit(parts(TABLE, LABELS, rows=250 - group.rank), group=group)

    assert all("all processes need the same shards" in str(error) for error in in_group(2, other))
    with pytest.raises(ValueError, match=re.escape("a group trains on shards")):
        TabularClassifier(**EXACT).fit(TABLE, LABELS, group=distributed.alone())
