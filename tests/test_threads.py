"""The threads that a BLAS may take: one for small products, what the user has for large ones, and then as before."""

import threading
import warnings

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import xpmlp
from xpmlp import MLP, MLPClassifier, threads
from xpmlp.backends import select
from xpmlp.runners import passes

SIZES = (4, 8, 1)


def blas() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture(autouse=True)
def steps_of_any_size(monkeypatch):
    """The nets here are small; what is done for small nets is not."""
    monkeypatch.setattr(threads, "LEAST", 0.0)


@pytest.fixture(autouse=True)
def three_threads():
    """More than one, whatever the environment says: OpenBLAS makes as many as it is told to."""
    with threadpool_limits(3, user_api="blas"):
        if set(blas()) != {3}:
            pytest.skip("there is no BLAS here that takes several threads")
        yield


def fit(seen, rows=20, **options):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((rows, 4)), rng.standard_normal((rows, 1))
    net = MLP(SIZES, loss="squared_error", random_state=0)
    return net.fit(X, y, epochs=2, callbacks=[lambda *_: seen.append(blas())], **options)


def test_a_small_fit_has_one_thread_and_leaves_the_pool_as_it_was():
    before, seen = blas(), []
    fit(seen)
    assert seen == [[1] * len(before)] * 2
    assert blas() == before


def test_a_large_fit_keeps_what_the_user_allows(monkeypatch):
    monkeypatch.setattr(threads, "LIMIT", threads.flops_of_step(SIZES, 10))
    before, seen = blas(), []
    fit(seen, batch_size=10)
    with threadpool_limits(2, user_api="blas"):
        fit(seen, batch_size=10)
    fit(seen, batch_size=9)
    assert [set(at) for at in seen] == [{3}, {3}, {2}, {2}, {1}, {1}]
    assert blas() == before


def test_a_setting_leaves_the_threads_alone():
    seen = []
    with xpmlp.config_context(threads="all"):
        fit(seen)
    assert {n for at in seen for n in at} == {3}


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_an_estimator_chooses_too(solver):
    seen = []

    def look(*_):
        seen.append(set(blas()))

    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two epochs do not converge
        MLPClassifier(5, solver=solver, max_iter=2, callbacks=look).fit(X, X[:, 0] > 0)
    assert seen == [{1}] * len(seen)
    assert seen
    assert set(blas()) == {3}


def test_a_fit_that_fails_puts_the_threads_back():
    def fails(*_):
        raise RuntimeError("enough")

    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 4))
    with pytest.raises(RuntimeError, match="enough"):
        MLP(SIZES, loss="squared_error").fit(X, X[:, :1], epochs=2, callbacks=[fails])
    with pytest.raises(KeyError), threads.enough_for(1.0, select("numpy")):
        raise KeyError
    assert set(blas()) == {3}


def test_two_fits_that_overlap_leave_the_pool_as_it_was():
    # A begins, B begins, A ends, B ends: limits that each remember what they found would stay at one thread for good.
    a_is_in, b_is_in, a_is_out = threading.Event(), threading.Event(), threading.Event()
    seen = {}

    def a():
        with threads.enough_for(1.0, select("numpy")):
            a_is_in.set()
            b_is_in.wait(10)
        seen["A out"] = set(blas())
        a_is_out.set()

    def b():
        a_is_in.wait(10)
        with threads.enough_for(1.0, select("numpy")):
            b_is_in.set()
            a_is_out.wait(10)
        seen["B out"] = set(blas())

    both = [threading.Thread(target=work) for work in (a, b)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(20)
    assert seen == {"A out": {1}, "B out": {3}}


def test_one_within_another_gives_nothing_back_early():
    with threads.enough_for(1.0, select("numpy")):
        with threads.enough_for(1.0, select("numpy")):
            assert set(blas()) == {1}
        assert set(blas()) == {1}
    assert set(blas()) == {3}


@pytest.mark.parametrize(("rows", "expected"), [(1000, 3), (1001, 1), (5000, 3)])
def test_a_prediction_of_many_rows_looks_at_its_products(rows, expected, monkeypatch):
    monkeypatch.setattr(threads, "LIMIT", threads.flops_of_forward(SIZES, 2000))  # of a block of a prediction
    seen = []
    forward = passes.InPlacePass.__call__
    monkeypatch.setattr(passes.InPlacePass, "__call__", lambda *args: (seen.append(set(blas())), forward(*args))[1])
    net = MLP(SIZES, loss="squared_error", random_state=0)
    net.predict(np.ones((rows, 4)))
    assert seen
    assert all(found == {expected} for found in seen)
    assert set(blas()) == {3}


def test_arrays_of_other_libraries_have_threads_of_their_own(backend):
    with threads.enough_for(1.0, backend.place):
        assert set(blas()) == ({1} if backend.name == "numpy" else {3})


def test_the_flops_of_a_step_are_those_of_its_products():
    # forward: 4 x 8 and 8 x 1; dW the same; da[1] alone. Two flops for each multiplication and addition.
    assert threads.flops_of_step((4, 8, 1), 10) == 2 * 10 * (32 + 8 + 32 + 8 + 8)
    assert threads.flops_of_forward((4, 8, 1), 10) == 2 * 10 * (32 + 8)


def test_a_small_fit_is_the_same_bits_on_any_number_of_threads():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((400, 64)), rng.standard_normal((400, 1))  # 2.6 Mflop a product: two threads would share

    def weights(n_threads):
        with threadpool_limits(n_threads, user_api="blas"):
            return MLP([64, 100, 1], random_state=0).fit(X, y, epochs=3, batch_size=200)._p

    np.testing.assert_array_equal(weights(1), weights(3))


def test_a_step_so_small_that_blas_takes_one_thread_by_itself_holds_nothing(monkeypatch):
    monkeypatch.setattr(threads, "LEAST", 5e4)
    assert threads.flops_of_step([2, 32, 1], 50) < threads.LEAST < threads.flops_of_step([2, 32, 1], 200)
    with threads.enough_for(threads.LEAST - 1.0, select("numpy")):
        assert set(blas()) == {3}
    with threads.enough_for(threads.LEAST, select("numpy")):
        assert set(blas()) == {1}
