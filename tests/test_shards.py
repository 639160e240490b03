"""Shards: which rows meet in a batch, where they come from, and that a fit of them learns what it should."""

import os
import re
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpmlp
from xpmlp import MLP, MLPClassifier, MLPRegressor, distributed, shards
from xpmlp.backends import select
from xpmlp.shards.lanes import HeldOut, LaneData, ahead, dealt

RNG = np.random.default_rng(0)
X = RNG.standard_normal((1000, 6))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
SETTINGS: dict[str, Any] = {"hidden_layer_sizes": (16,), "batch_size": 64, "max_iter": 5, "random_state": 0}


@pytest.fixture(autouse=True)
def _no_warning_of_few_epochs() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Stochastic Optimizer")
        warnings.filterwarnings("ignore", message="lbfgs failed")
        yield


def lane_data(rows: list[int], batch: int, *, rank: int = 0, size: int = 1, lanes: int = 8, **options: Any) -> LaneData:
    """Data whose rows are numbered."""
    edges = np.cumsum([0, *rows])
    numbered = np.arange(edges[-1], dtype=float)[:, None]
    read = lambda i: (numbered[edges[i] : edges[i + 1]], numbered[edges[i] : edges[i + 1]])  # noqa: E731
    encode = lambda y, w, n: (y, None)  # noqa: E731
    source = shards.Shards(rows, read, lanes=lanes)
    return LaneData(select("numpy"), source, encode, "float64", batch, width=1, rank=rank, size=size, **options)


def seen(data: LaneData, epoch: int | None) -> list[list[int]]:
    """The rows of each batch."""
    return [x[:, 0].astype(int).tolist() for x, _, _ in data.batches(epoch)]


ROWS = {
    "equal": [50] * 16,
    "ragged": [7, 100, 31, 1, 64, 64, 3, 90, 12],
    "one": [123],
    "fewer than lanes": [40, 41, 42],
    "an empty one": [30, 0, 30, 30, 0, 11],
    "a lane that is tiny": [1, 500, 500, 500],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("batch", [1, 8, 64, 10_000])
def test_every_row_is_seen_once_an_epoch_in_full_batches(rows: list[int], batch: int) -> None:
    data = lane_data(rows, batch)
    for epoch in (0, 1):
        batches = seen(data, epoch)
        assert sorted(i for rows_of in batches for i in rows_of) == list(range(sum(rows)))
        assert {len(rows_of) for rows_of in batches[:-1]} <= {data.batch_size}
        assert len(batches) == data.n_batches == -(-sum(rows) // data.batch_size)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("size", [2, 3, 4, 9])
def test_batches_are_the_same_for_any_number_of_processes(rows: list[int], size: int) -> None:
    whole = seen(lane_data(rows, 40, seed=5), 3)
    ranks = [lane_data(rows, 40, seed=5, rank=rank, size=size) for rank in range(size)]
    places = [[] for _ in ranks]
    parts = []
    for rank, data in enumerate(ranks):
        batches = []
        for x, _, _ in data.batches(3):
            batches.append(x[:, 0].astype(int).tolist())
            places[rank].append((data.parts[0].first if data.parts else None, len(batches[-1])))
        parts.append(batches)
    assert [[i for part in of_batch for i in part] for of_batch in zip(*parts, strict=True)] == whole
    for of_step in zip(*places, strict=True):  # each knows how many rows of the batch come before its own
        at = 0
        for first, n in of_step:
            assert first in (None, at)
            at += n


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    data = lane_data(ROWS["equal"], 40)
    assert seen(data, 0) == seen(data, 0) != seen(data, 1)
    assert seen(lane_data(ROWS["equal"], 40, seed=1), 0) != seen(data, 0)
    in_order = lane_data(ROWS["equal"], 40, lanes=1, shuffle=False)
    assert seen(in_order, 4) == [list(range(i, i + 40)) for i in range(0, 800, 40)]


def test_the_shards_of_a_run_are_read_in_their_order() -> None:
    read = []
    source = shards.Shards([10] * 12, lambda i: read.append(i) or (np.ones((10, 1)), np.ones(10)), lanes=1,
                           runs=[i // 4 for i in range(12)])  # fmt: skip
    data = LaneData(select("numpy"), source, lambda y, w, n: (y[:, None], None), "float64", 16, width=1)
    list(data.batches(0))
    assert sorted(read) == list(range(12))
    assert all(read[k : k + 4] == list(range(read[k], read[k] + 4)) for k in (0, 4, 8))


def test_lanes_of_equal_shards_do_not_all_need_the_next_at_once() -> None:
    data = lane_data([100] * 64, 80)
    steps = [piece.step for piece in data.plan(0) if piece.step > 0]
    # 8 lanes of 8 shards, 10 rows of each in a batch: without a cut all 8 would be due in every tenth step.
    assert max(steps.count(step) for step in steps) <= 2


def test_what_is_held_out_is_the_same_in_every_epoch_and_never_trained_on() -> None:
    held = HeldOut(0.2, chosen=True)
    judged = lane_data(ROWS["ragged"], 50, held=held, shuffle=False)
    trained = lane_data(ROWS["ragged"], 50, held=held._replace(chosen=False))
    kept = sorted(i for rows in seen(judged, None) for i in rows)
    for epoch in (0, 1):
        assert sorted(kept + [i for rows in seen(trained, epoch) for i in rows]) == list(range(sum(ROWS["ragged"])))
    assert len(kept) == sum(held.count(n) for n in ROWS["ragged"])


def test_so_few_lanes_that_each_has_a_row_in_every_batch() -> None:
    assert len(dealt([100] * 16, 8, 64)) == 8
    assert len(dealt([100] * 16, 8, 5)) == 4
    assert len(dealt([1, 500, 500, 500], 4, 64)) == 2
    assert len(dealt([100] * 16, 8, 1)) == 1


def test_the_reader_is_one_ahead_and_hands_its_errors_on() -> None:
    made = []

    def items() -> Any:
        for i in range(100):
            made.append(i)
            yield i

    source = ahead(items())
    assert [next(source), next(source)] == [0, 1]
    source.close()
    assert len(made) <= 5
    assert not [thread for thread in threading.enumerate() if thread.name == "xpmlp-reader"]

    def breaks() -> Any:
        yield 1
        raise OSError("the disk is gone")

    source = ahead(breaks())
    assert next(source) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(source)


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True))


def test_memory_a_memory_map_a_sequence_and_parquet_give_the_same_bits(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    data = shards.from_arrays(X, Y)
    assert len(data) == 8
    model = MLPClassifier(**SETTINGS).fit(data)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    mapped = shards.from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), np.load(tmp_path / "y.npy", mmap_mode="r"))
    parts = [data[i] for i in range(len(data))]
    table = pandas.DataFrame(X, columns=[f"c{k}" for k in range(6)]).assign(label=Y)
    for i, start in enumerate((0, 500)):
        table[start : start + 500].to_parquet(tmp_path / f"{i}.parquet", row_group_size=125)
    files = shards.from_parquet(tmp_path / "*.parquet", target="label")
    for other in (mapped, shards.from_sequence(parts), files, shards.from_parquet(tmp_path, target="label")):
        assert other.rows == data.rows
        assert same(MLPClassifier(**SETTINGS).fit(other), model)


def test_large_row_groups_are_read_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("xpmlp.shards.sources.SHARD_BYTES", 6 * 8 * 60)
    table = pandas.DataFrame(X, columns=[f"c{k}" for k in range(6)]).assign(label=Y, weight=np.arange(1000.0))
    table.to_parquet(tmp_path / "a.parquet", row_group_size=500)
    data = shards.from_parquet(tmp_path / "a.parquet", target="label", weight="weight")
    assert len(data) == 18
    assert max(data.rows) <= 60
    order = [*range(18), *reversed(range(18)), 3, 12, 4, 13, 3]
    edges = np.cumsum([0, *data.rows])
    for i in order:
        x, y, w = data[i]
        np.testing.assert_array_equal(x, X[edges[i] : edges[i + 1]])
        np.testing.assert_array_equal(y, Y[edges[i] : edges[i + 1]])
        np.testing.assert_array_equal(data.y(i), y)
        np.testing.assert_array_equal(w, np.arange(edges[i], edges[i + 1]))


def test_the_copy_of_a_large_row_group_lies_where_it_is_told_to_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("xpmlp.shards.sources.SHARD_BYTES", 6 * 8 * 60)
    pandas.DataFrame(X, columns=[f"c{k}" for k in range(6)]).assign(label=Y).to_parquet(tmp_path / "a.parquet")
    data = shards.from_parquet(tmp_path / "a.parquet", target="label", scratch=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError) as told:
        data[0]
    assert "name another folder with scratch=, or write smaller row groups" in told.value.__notes__[0]
    (tmp_path / "nowhere").mkdir()
    np.testing.assert_array_equal(data[3][0], X[sum(data.rows[:3]) : sum(data.rows[:4])])
    assert list((tmp_path / "nowhere").iterdir()) == []


def test_an_empty_row_group_is_an_empty_shard(tmp_path: Path) -> None:
    pandas, parquet = pytest.importorskip("pandas"), pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pandas(pandas.DataFrame(X).rename(columns=str).assign(label=Y))
    with parquet.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for part in (table.slice(0, 0), table, table.slice(0, 0)):
            writer.write_table(part)
    data = shards.from_parquet(tmp_path / "a.parquet", target="label")
    assert sum(data.rows) == 1000
    assert [data[i][0].shape for i in range(len(data))] == [(n, 6) for n in data.rows]
    assert MLPClassifier(**SETTINGS).fit(data).n_features_in_ == 6


def test_a_fit_of_shards_learns_as_well_as_one_of_arrays() -> None:
    settings = SETTINGS | {"max_iter": 60}
    for early_stopping in (False, True):
        of_arrays = MLPClassifier(**settings, early_stopping=early_stopping).fit(X, Y).score(X, Y)
        of_shards = MLPClassifier(**settings, early_stopping=early_stopping).fit(shards.from_arrays(X, Y))
        # 1,000 rows, a tenth held out: where it stops is luck; 0.92 and 0.885 were seen.
        assert of_shards.score(X, Y) > of_arrays - 0.06
        assert len(of_shards.loss_curve_) == of_shards.n_iter_
        assert of_shards.t_ == of_shards.n_iter_ * (904 if early_stopping else 1000)  # 12 of each 125 are held out
    regressor = MLPRegressor(**settings, early_stopping=True, learning_rate_init=0.02)
    regressor.fit(shards.from_arrays(X, X[:, 0] + 7.0))
    assert regressor.score(X, X[:, 0] + 7.0) > 0.95
    assert regressor.best_validation_score_ > 0.9


@pytest.mark.parametrize("kind", ["classes", "labels", "numbers"])
@pytest.mark.parametrize("weighted", [False, True])
def test_shards_that_are_held_out_are_judged_as_arrays_are(kind: str, weighted: bool) -> None:
    y = {"classes": Y, "labels": (X[:, :3] > 0).astype(int), "numbers": X[:, :2] + 5.0}[kind]
    w = RNG.random(1000) if weighted else None
    estimator = MLPRegressor if kind == "numbers" else MLPClassifier
    parts = shards.from_arrays(X[:800], y[:800])
    val = {"X_val": X[800:], "y_val": y[800:], "sample_weight_val": None if w is None else w[800:]}
    of_arrays = estimator(**SETTINGS).fit(parts, **val)
    held = shards.from_arrays(X[800:], y[800:], None if w is None else w[800:])
    of_shards = estimator(**SETTINGS).fit(parts, X_val=held)
    np.testing.assert_allclose(of_shards.validation_loss_curve_, of_arrays.validation_loss_curve_, rtol=1e-12)
    np.testing.assert_allclose(of_shards.validation_scores_, of_arrays.validation_scores_, rtol=1e-9)


def test_weights_and_balanced_classes_are_what_they_are_for_arrays() -> None:
    w = RNG.random(1000)
    w[:300] = 0.0  # whole shards weigh nothing
    settings = SETTINGS | {"batch_size": 1000, "solver": "sgd", "class_weight": "balanced", "max_iter": 3}
    whole = MLPClassifier(**settings, shuffle=False).fit(X, Y, w)
    parts = MLPClassifier(**settings, shuffle=False).fit(shards.from_arrays(X, Y, w))
    for a, b in zip(whole.coefs_, parts.coefs_, strict=True):  # one batch of everything: only the order of sums differs
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    data = shards.from_arrays(X, Y)
    settings = SETTINGS | {"dropout": 0.2, "class_weight": "balanced"}
    whole = MLPClassifier(**settings).fit(data)
    MLPClassifier(**settings | {"max_iter": 2}).fit(data, checkpoint=tmp_path)
    again = MLPClassifier(**settings).fit(data, checkpoint=tmp_path, resume=True)
    assert same(whole, again)
    assert again.loss_curve_ == whole.loss_curve_
    with pytest.raises(ValueError, match="the samples that the run began with"):
        MLPClassifier(**settings).fit(shards.from_arrays(X, Y, lanes=4), checkpoint=tmp_path, resume=True)


def test_lbfgs_takes_shards() -> None:
    data = shards.from_arrays(X, Y)
    settings = {"hidden_layer_sizes": (4,), "solver": "lbfgs", "max_iter": 3, "random_state": 0}
    whole, parts = MLPClassifier(**settings).fit(X, Y), MLPClassifier(**settings).fit(data)
    assert parts.n_iter_ == whole.n_iter_ == 3  # rounding grows with iterations
    np.testing.assert_allclose(parts.loss_, whole.loss_, rtol=1e-9)


def test_partial_fit_takes_each_item_of_a_stream_once() -> None:
    data = shards.from_arrays(X, Y)
    stepped = MLPClassifier(**SETTINGS)
    for i in range(len(data)):
        stepped.partial_fit(*data[i], classes=[0, 1, 2])
    assert same(MLPClassifier(**SETTINGS).partial_fit(data, classes=[0, 1, 2]), stepped)
    assert same(MLPClassifier(**SETTINGS).partial_fit(iter(data), classes=[0, 1, 2]), stepped)
    assert MLPRegressor(**SETTINGS).partial_fit((x, y) for x, y in data).t_ == 1000


def test_one_process_with_a_fixed_order_learns_the_same_to_rounding() -> None:
    data = shards.from_arrays(X, Y)
    plain = MLPClassifier(**SETTINGS, dropout=0.3).fit(data)
    ordered = MLPClassifier(**SETTINGS, dropout=0.3).fit(data, group=distributed.alone(fixed_order=True))
    for a, b in zip(plain.coefs_, ordered.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


BAD = {
    "NaN": (lambda: with_bad(X, 700, np.nan), "shard 5 (rows 625 to 749) contains NaN or infinity in X"),
    "width": (
        lambda: shards.from_sequence([(X[:9], Y[:9]), (X[:9, :3], Y[:9])]),
        "X of shard 1 must have shape (9, 6); got (9, 3)",
    ),
    "text": (
        lambda: shards.from_sequence([(X[:9], Y[:9]), (X[:9].astype(str), Y[:9])]),
        "X of shard 1 must hold numbers",
    ),
    "rows": (lambda: shards.from_sequence([(X[:9], Y[:9])], rows=[8]), "X of shard 0 must have shape (8, 6)"),
    "weights": (lambda: shards.from_arrays(X, Y, -np.ones(1000)), "its weights must be 125 finite numbers"),
    "parts": (lambda: shards.Shards([9], lambda i: (X[:9], Y[:9], None, None)), "got 4 parts"),
}


def with_bad(x: Any, row: int, value: float) -> shards.Shards:
    x = x.copy()
    x[row, 2] = value
    return shards.from_arrays(x, Y)


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_an_error_names_the_shard_and_the_estimator_stays_what_it_was(make: Any, message: str) -> None:
    model = MLPClassifier(**SETTINGS).fit(X, Y)
    before = dict(vars(model))
    model.batch_size = before["batch_size"] = 8
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(make())
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())


REFUSED = {
    "y beside shards": (lambda: MLPClassifier().fit(shards.from_arrays(X, Y), Y), "fit(shards) takes no y"),
    "a group of arrays": (lambda: MLPClassifier().fit(X, Y, group=distributed.alone()), "a group trains on shards"),
    "a generator": (lambda: shards.from_sequence(x for x in [1]), "call partial_fit"),
    "a table": (lambda: shards.from_arrays([[1.0]], [1]), "X must be an array of shape (n, n_features)"),
    "other lengths": (lambda: shards.from_arrays(X, Y[:5]), "y must have one entry per row of X, 1000; got shape (5,)"),
    "no rows": (lambda: shards.Shards([0, 0], lambda i: i), "at least one row"),
    "a scorer": (
        lambda: MLPClassifier(scoring="roc_auc").fit(shards.from_arrays(X, Y), X_val=shards.from_arrays(X, Y)),
        "pass X_val and y_val as arrays",
    ),
    "a stream of numbers": (lambda: MLPClassifier().partial_fit(iter([1.0]), classes=[0, 1]), "item 0 is float"),
    "no file": (lambda: shards.from_parquet("nowhere/*.parquet", target="y"), "there is no Parquet file"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_says_what_to_do(call: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        call()


def lazy_frame() -> Any:
    return pytest.importorskip("polars").DataFrame(X).lazy()


def data_set(folder: Path) -> Any:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    from pyarrow import dataset

    pandas.DataFrame(X).rename(columns=str).to_parquet(folder / "x.parquet")
    return dataset.dataset(folder / "x.parquet")


class Loader:
    """What a loader of batches looks like."""

    batch_sampler = collate_fn = None

    def __iter__(self) -> Any:
        return iter(())


WAYS = {
    "a generator": (lambda _: (row for row in X), "call partial_fit(stream)"),
    "a lazy frame": (lambda _: lazy_frame(), "xpmlp.shards.from_parquet(path)"),
    "a data set": (data_set, "xpmlp.shards.from_parquet(X.files)"),
    "a loader": (lambda _: Loader(), "partial_fit(iter(loader)) makes one pass"),
}


@pytest.mark.parametrize(("make", "message"), WAYS.values(), ids=WAYS)
def test_what_is_not_there_at_once_is_told_its_way(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        MLPClassifier().fit(make(tmp_path), Y)


def test_a_memory_map_of_more_than_half_of_the_memory_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    MLPClassifier(**SETTINGS).fit(mapped, Y)
    monkeypatch.setattr("xpmlp.estimators.large.memory_bytes", lambda: 2 * X.nbytes - 2)
    with pytest.warns(UserWarning, match=re.escape("xpmlp.shards.from_arrays(X, y) reads it in pieces")):
        MLPClassifier(**SETTINGS).fit(mapped, Y)


GIBIBYTE = """
import numpy as np, re, sys, threading, time, warnings
from pathlib import Path
from xpmlp import MLPClassifier, shards
warnings.simplefilter("ignore")
folder = Path(sys.argv[1])
n, width = 2**28 // 54, 54
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
if (folder / "x").exists():
    X = np.memmap(folder / "x", "float32", "r", shape=(n, width))  # a hole: it takes no room on the disk
    data = shards.from_arrays(X, np.arange(n) % 2)
else:
    data = shards.from_parquet(folder / "x.parquet", target="label", scratch=folder)
MLPClassifier(8, max_iter=1).fit(np.eye(54, dtype="float32"), np.arange(54) % 2)  # what is imported is there
before, most, over = anonymous(), 0.0, threading.Event()
def watch():
    global most
    while not over.is_set():
        most = max(most, anonymous())
        time.sleep(0.01)
watcher = threading.Thread(target=watch)
watcher.start()
MLPClassifier((16,), batch_size=8192, max_iter=1, random_state=0, early_stopping=sys.argv[2] == "True").fit(data)
over.set()
watcher.join()
print(most - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
@pytest.mark.skipif("XPMLP_PROCESSES" not in os.environ, reason="a gibibyte is read: `nox -s processes` does")
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_gibibyte_on_disk_adds_little_memory(early_stopping: bool, tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(2**28 // 54 * 54 * 4)
    assert added(tmp_path, early_stopping) < 160.0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
@pytest.mark.skipif("XPMLP_PROCESSES" not in os.environ, reason="200 MB are read: `nox -s processes` does")
def test_a_large_row_group_adds_little_memory(tmp_path: Path) -> None:
    # Unpacked all at once, or slice by slice in all its columns, a group of a million rows took 300 MB and more.
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = np.random.default_rng(0).standard_normal((54, 2**20), dtype=np.float32)
    table = arrow.table({f"x{i}": column for i, column in enumerate(columns)} | {"label": columns[0] > 0})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=2**20)
    del table, columns
    assert added(tmp_path, False) < 160.0


def added(folder: Path, early_stopping: bool) -> float:
    """The megabytes of anonymous memory that a fit of what lies in the folder adds to its process."""
    done = subprocess.run(
        [sys.executable, "-c", GIBIBYTE, str(folder), str(early_stopping)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_verbose_lines_and_the_bar_say_how_fast_shards_go(capsys: pytest.CaptureFixture[str]) -> None:
    data = shards.from_arrays(X, Y)
    model = MLPClassifier(**SETTINGS | {"max_iter": 2, "verbose": True})
    model.fit(data, group=distributed.alone(fixed_order=True))
    line = r"^rows/s: [\d,]+, reader: \d+%, sum: \d+%$"
    assert len(re.findall(line, capsys.readouterr().out, flags=re.MULTILINE)) == 2
    model.fit(data)
    assert len(re.findall(r"^rows/s: [\d,]+, reader: \d+%$", capsys.readouterr().out, flags=re.MULTILINE)) == 2
    pytest.importorskip("tqdm")
    MLP([6, 4, 1], random_state=0).fit(
        shards.from_arrays(X, Y[:, None].astype(float)), epochs=2, batch_size=50, progress=True
    )
    assert re.search(r"2/2 .*loss=.*rows/s=[\d,]+, reader=\d+%", capsys.readouterr().err)


def test_a_slow_reader_is_what_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    def slow(i: int) -> tuple[Any, Any]:
        time.sleep(0.05)
        return X[i : i + 1], Y[i : i + 1]

    settings = SETTINGS | {"max_iter": 1, "verbose": True, "batch_size": 8}
    MLPClassifier(**settings).fit(shards.Shards([1] * 20, slow, classes=[0, 1, 2]))
    (share,) = re.findall(r"reader: (\d+)%", capsys.readouterr().out)
    assert int(share) > 50  # a second of reading


def test_what_is_not_compiled_for_shards_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("numba")
    caplog.set_level("INFO", "xpmlp")
    with xpmlp.config_context(compiled="always"):
        MLPClassifier(**SETTINGS | {"max_iter": 1}).fit(shards.from_arrays(X, Y))
        MLPClassifier(**SETTINGS | {"max_iter": 1, "dropout": 0.5}).fit(shards.from_arrays(X, Y))
    assert caplog.text.count("no epoch is compiled whole") == 1  # with dropout none would be in any case
