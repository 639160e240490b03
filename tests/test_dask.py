"""A Dask cluster of two processes on this machine: what its workers learn is what one process learns.

Without Dask or PyTorch the tests are skipped; XPMLP_REQUIRE=dask turns that into a failure. Numbers are compared in
float64, or bit for bit with a fixed order, as in tests/test_processes.py, whose cases these are.
"""

from __future__ import annotations

import itertools
import os
import pickle
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from train_in_group import CASES, SETTINGS, N, W, X, Y

import xpmlp
from xpmlp import MLPClassifier, MLPRegressor, distributed, shards
from xpmlp.dask import DaskMLPClassifier, DaskMLPRegressor, WorkerLostError

pytestmark = [
    pytest.mark.skipif("XPMLP_PROCESSES" not in os.environ, reason="several processes: `nox -s processes` runs them"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
ROWS = 61  # of a partition: a shard each
LONG = {"max_iter": 12, "tol": 0.0}
T = np.stack([X[:, 0] * X[:, 1], X[:, 2]], axis=1)


def arrays(*values: Any) -> list[Any]:
    """Dask arrays in partitions of `ROWS`."""
    da: Any = pytest.importorskip("dask.array")
    return [da.from_array(value, chunks=(ROWS, *value.shape[1:])) for value in values]


def same(found: Any, expected: Any) -> None:
    """The same weights and curves, up to the rounding of another order of the sum."""
    assert found.n_iter_ == expected.n_iter_
    np.testing.assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=0, atol=1e-10)
    if expected.validation_scores_ is not None:
        np.testing.assert_allclose(found.validation_scores_, expected.validation_scores_, rtol=0, atol=1e-10)
    for got, wanted in zip(found.coefs_, expected.coefs_, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", ["plain", "early_stopping", "dropout", "weights", "balanced", "averaged"])
def test_two_workers_learn_what_one_process_does(client: Any, case: str) -> None:
    settings = SETTINGS | CASES[case]
    w = W if case == "weights" else None
    expected = MLPClassifier(**settings).fit(shards.from_arrays(X, Y, w, rows=ROWS))
    found = DaskMLPClassifier(**settings, client=client).fit(*arrays(X, Y, *([] if w is None else [w])))
    same(found, expected)


def test_a_regressor_watches_a_validation_set_of_its_own(client: Any) -> None:
    settings = SETTINGS | {"early_stopping": True, "max_iter": 6}
    held = shards.from_arrays(X[:300], T[:300], rows=ROWS)
    expected = MLPRegressor(**settings).fit(shards.from_arrays(X, T, rows=ROWS), X_val=held)
    dX, dT = arrays(X, T)
    found = DaskMLPRegressor(**settings, client=client).fit(dX, dT, X_val=arrays(X[:300])[0], y_val=arrays(T[:300])[0])
    same(found, expected)
    local = DaskMLPRegressor(**settings, client=client).fit(dX, T, X_val=X[:300], y_val=T[:300])
    np.testing.assert_allclose(local.validation_scores_, expected.validation_scores_, rtol=1e-9)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fixed_order_gives_the_same_bits_on_any_number_of_workers(client: Any, workers: int) -> None:
    settings = SETTINGS | {"dtype": "float32"}
    group = distributed.alone(fixed_order=True)
    expected = MLPClassifier(**settings).fit(shards.from_arrays(X, Y, rows=ROWS), group=group)
    # More lanes than the partitions give a worker each; with one lane there is work for one worker alone.
    lanes = 8 if workers == 2 else 1
    if workers == 1:
        expected = MLPClassifier(**settings).fit(shards.from_arrays(X, Y, rows=ROWS, lanes=1), group=group)
    found = DaskMLPClassifier(**settings, client=client, lanes=lanes, fixed_order=True).fit(*arrays(X, Y))
    for got, wanted in zip(found.coefs_, expected.coefs_, strict=True):
        np.testing.assert_array_equal(got, wanted)


def frames() -> tuple[Any, Any, Any]:
    """A dataframe in ragged partitions, its labels, and the parts as pandas has them."""
    pandas, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    table = pandas.DataFrame(X, columns=[f"x{i}" for i in range(12)])
    table["label"] = np.array(["no", "or", "yes"])[Y]
    edges = [0, *range(37, N, ROWS), N]
    parts = [table[a:b] for a, b in itertools.pairwise(edges)]
    together = dd.concat([dd.from_pandas(part, npartitions=1) for part in parts])
    return together.drop(columns="label"), together["label"], parts


def test_dataframes_and_arrays_of_unknown_length_are_trained_on(client: Any) -> None:
    table, labels, parts = frames()
    source = shards.from_sequence([(part.iloc[:, :12].to_numpy(), part["label"].to_numpy()) for part in parts])
    expected = MLPClassifier(**SETTINGS).fit(source)
    found = DaskMLPClassifier(**SETTINGS, client=client).fit(table, labels)
    same(found, expected)
    assert list(found.feature_names_in_) == list(table.columns)
    assert list(found.classes_) == ["no", "or", "yes"]
    predicted = found.predict(table)
    assert predicted.dtype == found.classes_.dtype
    np.testing.assert_array_equal(predicted.compute(), expected.predict(X))
    assert found.score(table, labels) == pytest.approx(expected.score(X, np.array(["no", "or", "yes"])[Y]))

    # Arrays whose chunks have unknown lengths; with a number in each row for the label.
    codes = labels.map_partitions(lambda part: part.map({"no": 0, "or": 1, "yes": 2}).astype(int), meta=("label", int))
    same(DaskMLPClassifier(**SETTINGS, client=client).fit(table.to_dask_array(), codes.to_dask_array()), expected)


def test_what_is_predicted_of_a_collection_is_one(client: Any) -> None:
    dX, dY, dT, dW = arrays(X, Y, T, W)
    clf = DaskMLPClassifier(**SETTINGS, client=client).fit(dX, dY)
    reg = DaskMLPRegressor(**SETTINGS | {"dtype": "float32"}, client=client).fit(dX, dT)
    one = DaskMLPRegressor("pinball", **SETTINGS, client=client).fit(dX, dT[:, 0])
    wide = dX.rechunk((100, 5))
    for model, method, shape, dtype in (
        (clf, "predict", (N,), np.int64),
        (clf, "predict_proba", (N, 3), np.float64),
        (clf, "predict_log_proba", (N, 3), np.float64),
        (reg, "predict", (N, 2), np.float32),
        (one, "predict", (N,), np.float64),
    ):
        answer = getattr(model, method)(wide)
        assert (answer.shape, answer.dtype, answer.chunks[0]) == (shape, dtype, wide.chunks[0]), method
        given = answer.compute()
        assert given.dtype == dtype
        np.testing.assert_allclose(given, getattr(model.to_local(), method)(X), rtol=1e-5, err_msg=method)
    assert clf.score(dX, dY, dW) == pytest.approx(clf.to_local().score(X, Y, W))
    assert reg.score(dX, dT, dW) == pytest.approx(reg.to_local().score(X, T, W), abs=1e-6)
    assert one.score(dX, dT[:, 0], dW) == pytest.approx(one.to_local().score(X, T[:, 0], W))
    np.testing.assert_array_equal(clf.predict(X[:5]), clf.predict(dX).compute()[:5])


def test_a_local_model_knows_nothing_of_dask(client: Any, tmp_path: Path) -> None:
    model = DaskMLPClassifier(**SETTINGS, client=client, lanes=4, restarts=0).fit(*arrays(X, Y))
    local = model.to_local()
    assert type(local) is MLPClassifier
    assert not {"client", "lanes", "restarts"} & set(vars(local))
    expected = local.predict_proba(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(local)).predict_proba(X), expected)
    again = pickle.loads(pickle.dumps(model))
    assert again.client is None
    np.testing.assert_array_equal(again.predict_proba(X), expected)
    model.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(xpmlp.load(tmp_path / "model.safetensors").predict_proba(X), expected)
    cloned = clone(model)
    assert cloned.get_params() == model.get_params()
    assert cloned.client is client
    assert not hasattr(cloned, "coefs_")


def test_a_warm_start_goes_on_and_a_generator_draws_on(client: Any) -> None:
    rng, twin = np.random.RandomState(0), np.random.RandomState(0)
    settings = SETTINGS | {"warm_start": True}
    found = DaskMLPClassifier(**settings | {"random_state": rng}, client=client)
    expected = MLPClassifier(**settings | {"random_state": twin})
    for _ in range(2):
        found.fit(*arrays(X, Y))
        expected.fit(shards.from_arrays(X, Y, rows=ROWS))
    same(found, expected)
    assert len(found.loss_curve_) == 8
    assert rng.randint(1000) == twin.randint(1000)


# --- When something breaks ---


def at_epoch_4(folder: Path, happens: Callable[[], Any]) -> Callable[..., bool]:
    """A callback: in the fourth epoch something happens, once, in one of the processes."""
    mark = str(folder / "happened")

    def callback(estimator: Any, epoch: int, logs: Any) -> bool:
        time.sleep(0.2)  # so that an epoch is no shorter than what is looked at between two of them
        if epoch == 4:
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return False
            happens()
        return False

    return callback


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_a_fit_outlives_a_worker_that_is_killed(client: Any, tmp_path: Path, named: bool, fixed: bool) -> None:
    settings = SETTINGS | LONG | ({"dtype": "float32"} if fixed else {})
    group = distributed.alone(fixed_order=fixed)
    expected = MLPClassifier(**settings).fit(shards.from_arrays(X, Y, rows=ROWS), group=group)
    model = DaskMLPClassifier(**settings, client=client, callbacks=at_epoch_4(tmp_path, dies), fixed_order=fixed)
    model.fit(*arrays(X, Y), checkpoint=tmp_path / "run" if named else None)
    assert time.time() - (tmp_path / "happened").stat().st_mtime < 60.0
    if not fixed:
        same(model, expected)
        return
    assert model.loss_curve_ == expected.loss_curve_
    for got, wanted in zip(model.coefs_, expected.coefs_, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_who_has_no_restarts_left_is_told_which_worker_was_lost(client: Any, tmp_path: Path) -> None:
    model = DaskMLPClassifier(**SETTINGS | LONG, client=client, callbacks=at_epoch_4(tmp_path, dies), restarts=0)
    with pytest.raises(WorkerLostError, match=r"the worker tcp://\S+ is gone, in epoch 4, and restarts=0") as told:
        model.fit(*arrays(X, Y), checkpoint=tmp_path / "run")
    assert time.time() - (tmp_path / "happened").stat().st_mtime < 15.0
    assert told.value.checkpoint == tmp_path / "run"
    # What the other worker said, which nobody has killed.
    assert isinstance(told.value.__cause__.__cause__, distributed.LostPeerError)
    assert not hasattr(model, "coefs_")

    client.wait_for_workers(2, timeout=60)
    whole = MLPClassifier(**SETTINGS | LONG).fit(shards.from_arrays(X, Y, rows=ROWS))
    model.set_params(callbacks=None).fit(*arrays(X, Y), checkpoint=tmp_path / "run", resume=True)
    same(model, whole)


def test_a_worker_that_hangs_is_not_waited_for(client: Any, tmp_path: Path) -> None:
    hangs = at_epoch_4(tmp_path, lambda: time.sleep(8))
    model = DaskMLPClassifier(**SETTINGS | LONG, client=client, callbacks=hangs, timeout=2.0).fit(*arrays(X, Y))
    same(model, MLPClassifier(**SETTINGS | LONG).fit(shards.from_arrays(X, Y, rows=ROWS)))
    assert time.time() - (tmp_path / "happened").stat().st_mtime < 60.0


def test_an_error_of_the_model_is_raised_at_once(client: Any, tmp_path: Path) -> None:
    broken = X.copy()
    broken[700] = np.nan
    with pytest.raises(ValueError, match=r"shard 11 \(partition 11\) contains NaN or infinity in X"):
        DaskMLPClassifier(**SETTINGS, client=client).fit(*arrays(broken, Y))

    def raises() -> None:
        raise ValueError("no more room for the log")

    with pytest.raises(ValueError, match="no more room for the log"):
        DaskMLPClassifier(**SETTINGS | LONG, client=client, callbacks=at_epoch_4(tmp_path, raises)).fit(*arrays(X, Y))


def test_warnings_of_the_workers_are_the_clients(client: Any) -> None:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        DaskMLPClassifier(**SETTINGS, client=client).fit(*arrays(X, Y))
    told = [one for one in given if "Maximum iterations (4)" in str(one.message)]
    assert [Path(one.filename).name for one in told] == [Path(__file__).name]


def test_ctrl_c_ends_the_work_of_the_workers(client: Any) -> None:
    def works() -> list[str]:
        from xpmlp.dask import working

        return list(working._STORES)

    def slow(*_: Any) -> bool:
        time.sleep(0.1)
        return False

    endless = DaskMLPClassifier(**SETTINGS | {"max_iter": 10**6, "tol": 0.0}, client=client, callbacks=slow)
    timer = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        endless.fit(*arrays(X, Y))
    end = time.monotonic() + 20.0
    while any(client.run(works).values()) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(client.run(works).values())


def test_two_fits_at_once_do_not_meet(client: Any) -> None:
    expected = MLPClassifier(**SETTINGS).fit(shards.from_arrays(X, Y, rows=ROWS))
    found: dict[int, Any] = {}

    def one(i: int) -> None:
        found[i] = DaskMLPClassifier(**SETTINGS, client=client).fit(*arrays(X, Y))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    for i in range(3):
        same(found[i], expected)


def test_a_task_of_a_worker_may_fit(client: Any) -> None:
    def task() -> Any:
        from distributed import worker_client

        with worker_client() as own:
            return DaskMLPClassifier(**SETTINGS, client=own).fit(*arrays(X, Y)).to_local()

    same(client.submit(task).result(timeout=60), MLPClassifier(**SETTINGS).fit(shards.from_arrays(X, Y, rows=ROWS)))


def test_several_workers_need_pytorch_and_one_does_not(client: Any) -> None:
    client.run(lambda: sys.modules.update(torch=None))
    try:
        with pytest.raises(ImportError, match="several Dask workers need PyTorch"):
            DaskMLPClassifier(**SETTINGS, client=client).fit(*arrays(X, Y))
        DaskMLPClassifier(**SETTINGS, client=client, lanes=1).fit(*arrays(X, Y))
    finally:
        client.restart(timeout=60)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "an array": (lambda: (X, Y), "X must be a Dask array of shape (n, n_features) or a Dask dataframe; got ndarray"),
    "y too short": (lambda: (arrays(X)[0], Y[:-1]), "y must have one entry per row of X, 961; got shape (960,)"),
    "y in Dask too short": (lambda: (arrays(X)[0], arrays(Y[:-1])[0]), "one entry per row of X, 961; it has 960"),
    "no y": (lambda: (arrays(X)[0], None), "y must be given"),
    "other partitions": (lambda: (frames()[0], arrays(Y)[0].rechunk(500)), "the partitions of X, 17; it has 2"),
    "other rows": (lambda: (frames()[0], arrays(np.append(Y, Y[:30]))[0]), "X 37, y 61"),
    "y in memory": (lambda: (frames()[0], Y), "y must be a Dask collection too"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_trained_on_says_so(client: Any, data: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DaskMLPClassifier(**SETTINGS, client=client).fit(*data())


@pytest.mark.parametrize("name", ["lanes", "timeout", "restarts", "alpha"])
def test_parameters_are_checked_before_anything_is_computed(client: Any, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        DaskMLPClassifier(**SETTINGS, client=client).set_params(**{name: -1}).fit(*arrays(X, Y))
