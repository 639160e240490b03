"""How X reaches the first product: whatever its dtype, its order or its form, in blocks, and never copied whole."""

import tracemalloc

import numpy as np
import pytest
from scipy import sparse
from test_runners import check_pass

from xpmlp import MLP, MLPClassifier, MLPRegressor
from xpmlp.backends import select
from xpmlp.estimators import checkpointing
from xpmlp.network import Layout, Network, forward
from xpmlp.network.activations import ACTIVATIONS, activation
from xpmlp.network.losses import loss
from xpmlp.optim.optimizers import optimizer
from xpmlp.runners import Data, HostData, Task, find_runner, host_data
from xpmlp.runners.lbfgs import objective
from xpmlp.runners.passes import find_pass, outputs_of_few
from xpmlp.training import evaluate, outputs

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
rng = np.random.default_rng(0)
COUNTS = rng.integers(0, 4, size=(60, 5))
Y = (COUNTS[:, 0] + COUNTS[:, 1] > 3).astype(int)


def frame(X):
    return pytest.importorskip("pandas").DataFrame(X, columns=[str(j) for j in range(X.shape[1])])


# All hold the same numbers; those of a matrix with a tenth of them are in the other table.
DENSE = {
    "by rows": lambda X: np.ascontiguousarray(X, dtype=np.float64),
    "by columns": lambda X: np.asfortranarray(X, dtype=np.float64),
    "every other row": lambda X: np.repeat(X.astype(np.float64), 2, axis=0)[::2],
    "every other column": lambda X: np.repeat(X.astype(np.float64), 2, axis=1)[:, ::2],
    "float32": lambda X: X.astype(np.float32),
    "float32 by columns": lambda X: np.asfortranarray(X, dtype=np.float32),
    "bytes the other way round": lambda X: X.astype(np.dtype(np.float64).newbyteorder()),
    "uint8": lambda X: X.astype(np.uint8),
    "int64 by columns": lambda X: np.asfortranarray(X, dtype=np.int64),
    "a frame": lambda X: frame(X.astype(np.float64)),
    "a frame of integers": frame,
    "sparse rows": lambda X: sparse.csr_array(X.astype(np.float64)),
    "sparse columns": lambda X: sparse.csc_matrix(X.astype(np.float32)),
}


def few(X):
    """X with its last 54 columns 0: of a density below that from which on rows are dense."""
    return np.concatenate([X, np.zeros((len(X), 54), X.dtype)], axis=1)


@pytest.fixture(params=[0, 2**25], ids=["batch by batch", "copied where small"])
def copied_bytes(request, monkeypatch):
    monkeypatch.setattr(host_data, "COPIED_BYTES", request.param)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.usefixtures("copied_bytes")
def test_a_fit_and_its_answers_are_the_same_however_x_lies(kind, dtype, early_stopping, solver):
    settings = {"dtype": dtype, "early_stopping": early_stopping and solver == "adam", "batch_size": 7}
    X = few(COUNTS) if "sparse" in kind else COUNTS
    answers = []
    for given in (X.astype(dtype), DENSE[kind](X)):
        model = MLPClassifier((6, 4), solver=solver, max_iter=4, random_state=0, **settings).fit(given, Y)
        answers.append(
            [
                np.asarray(answer)
                for answer in (
                    *model.coefs_, model.loss_, model.predict_proba(given), model.predict_proba(given[:1] if
                    not hasattr(given, "iloc") else given.iloc[:1]),
                    model.hidden_activations(given, 1), model.input_gradients(given, Y),
                )
            ]
        )  # fmt: skip
    # A product of other strides, or a sparse one, sums in another order: some units of the last place a step.
    tolerance = 1e-9 if dtype == "float64" else 2e-4
    for expected, found in zip(*answers, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_sparse_rows_stay_sparse_up_to_the_first_product(monkeypatch):
    X = sparse.csr_matrix(few(COUNTS).astype(np.float64))

    def refuse(*_, **__):
        raise AssertionError("a sparse batch was made dense")

    monkeypatch.setattr(sparse.csr_matrix, "toarray", refuse)
    for settings in ({}, {"solver": "lbfgs"}, {"early_stopping": True}):
        model = MLPClassifier((4,), max_iter=2, batch_size=7, random_state=0, **settings).fit(X, Y)
        model.predict_proba(X)
        model.hidden_activations(X)


@pytest.mark.parametrize(("density", "stays"), [(0.19, True), (0.21, False)])
def test_rows_with_many_numbers_are_made_dense(density, stays):
    X = sparse.random(50, 40, density, format="csr", random_state=0)
    data = HostData(select("numpy"), X, np.zeros((50, 1)), None, 10, dtype="float64")
    assert data.stays_sparse == stays
    first = next(iter(data.batches(None, sparse=True)))[0]
    assert isinstance(first, np.ndarray) == (not stays)
    assert isinstance(next(iter(data.batches(None)))[0], np.ndarray)  # for who has not said that he can multiply them


@pytest.mark.parametrize("kind", ["by rows", "by columns", "a frame", "uint8", "int64 by columns"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_nothing_as_large_as_x_is_made(kind, dtype, early_stopping, monkeypatch):
    monkeypatch.setattr(host_data, "COPIED_BYTES", 0)
    n, width = 8_000, 400
    large = np.random.default_rng(0).integers(0, 4, size=(n, width), dtype=np.uint8)
    large, y = DENSE[kind](large), np.arange(n) % 2
    model = MLPClassifier(
        (4,), max_iter=1, batch_size=200, random_state=0, dtype=dtype, early_stopping=early_stopping, tol=0.0
    )
    some = large.iloc[:1_200] if hasattr(large, "iloc") else large[:1_200]
    model.fit(some, y[:1_200]).predict(some)  # what is made once
    x_bytes = n * width * (1 if kind == "uint8" else 8)
    for call in (lambda: model.fit(large, y), lambda: model.predict(large)):
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # A block of 655 rows, what is made of y, and little else: float32 of all X would be 12.8 MB, of uint8 4 X.
        assert peak < 8e6, f"{peak / x_bytes:.2f} X"


@pytest.mark.parametrize(("early_stopping", "bytes_a_row"), [(False, 12), (True, 30)])
def test_what_is_made_of_y_and_of_the_order_is_little(early_stopping, bytes_a_row, monkeypatch):
    monkeypatch.setattr(host_data, "COPIED_BYTES", 0)
    monkeypatch.setattr(checkpointing, "MANY", 0)
    n = 200_000
    X, y = np.random.default_rng(0).integers(0, 4, size=(n, 5), dtype=np.uint8), np.arange(n) % 2
    model = MLPClassifier(
        (4,), max_iter=2, batch_size=200, random_state=0, dtype="float32", early_stopping=early_stopping, tol=0.0
    )
    model.fit(X[:1_000], y[:1_000]).predict(X[:2_000])  # what is made once
    # Targets as float32 and an order as int32 are 8 bytes a row, the sort of a split by classes 8 and 4 more; labels
    # that are predicted are 8 bytes, the outputs 4 and which side of 1/2 they are on 1.
    for call, most in ((lambda: model.fit(X, y), bytes_a_row), (lambda: model.predict(X), 14)):
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most * n + 3e5, f"{peak / n:.1f} bytes a row"


def test_the_order_of_very_many_samples_is_that_of_fewer(monkeypatch):
    found = []
    for many in (2**20, 0):
        monkeypatch.setattr(checkpointing, "MANY", many)
        model = MLPClassifier((4,), max_iter=3, batch_size=7, random_state=0, early_stopping=True).fit(COUNTS, Y)
        found.append([*model.coefs_, model.validation_scores_])
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("many", [False, True], ids=["one network", "three networks"])
@pytest.mark.parametrize("units", [3, 20], ids=["few units", "many units"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_pass_in_place_is_the_forward_pass(name, units, many):
    layout = Layout((4, units, units + 1, 3))
    row = activation(name)
    network = Network(layout, (row, row, row), loss("squared_error"))
    flat = np.random.default_rng(1).uniform(-0.5, 0.5, size=(3, layout.size) if many else layout.size)
    p, x = layout.unpack(flat), np.random.default_rng(2).normal(size=(17, 4))
    go = find_pass(network, p, select("numpy"))
    for factor, shortened in ((1.0, False), (-1.5, True), (-1.0, True)):  # parameters change in place
        flat *= factor
        go.begin(many=shortened)
        assert (go.least[1] is not None) == (shortened and name == "relu")
        check_pass(go, network, p, x)


def relu_net(depth, seed=0):
    """Of 16 units a layer, with He's weights, and small biases."""
    net = MLP([6, *(16,) * depth, 1], "relu", dtype="float32", initializer="he_normal", random_state=seed)
    for b in net.b[1:]:
        b[...] = np.random.default_rng(seed).uniform(-0.3, 0.3, b.shape)
    return net


@pytest.mark.parametrize("depth, bias", [(2, None), (40, None), (1, -10.0), (2, -1e5), (2, -3e38)])
def test_many_rows_are_predicted_as_exactly_as_few(depth, bias):
    net, x = relu_net(depth), np.random.default_rng(1).normal(size=(1001, 6)).astype(np.float32)
    if bias is not None:
        net.b[1][::2] = bias  # half of the units are dead
    exact = x.astype(np.float64)
    for W, b in zip(net.W[1:-1], net.b[1:-1], strict=True):
        exact = np.maximum(exact @ W.astype(np.float64) + b, 0.0)
    exact = exact @ net.W[-1].astype(np.float64) + net.b[-1]
    many, few = net.predict(x), net.predict(x[:1000])
    assert np.max(np.abs(many - exact)) < 3.0 * np.max(np.abs(few - exact[:1000])) + 1e-7 * np.max(np.abs(exact))


@pytest.mark.parametrize("sizes", [(64, 100, 1), (6, 37, 29, 3), (9, 300, 200, 1)], ids=str)
def test_a_prediction_does_not_depend_on_where_the_weights_begin(sizes):
    # As those of a file that is mapped into memory: a product with a vector may sum in another order there.
    layout, rows = Layout(sizes), [activation("relu")] * (len(sizes) - 2) + [activation("identity")]
    network, x = Network(layout, tuple(rows), loss("squared_error")), rng.standard_normal((1100, sizes[0]))
    flat, found = 0.3 * rng.standard_normal(layout.size), set()
    for start in range(16):
        room = np.zeros(layout.size + 16)
        room[start : start + layout.size] = flat
        p = layout.unpack(room[start : start + layout.size])
        found.add(outputs(network, p, Data(select("numpy"), x, None, None, 512)).tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("n", [900, 1500])
def test_a_loss_on_held_out_rows_is_that_of_the_weights_as_they_are_then(n):
    x = rng.standard_normal((n, 6)).astype(np.float32)
    y = x[:, :1] ** 2
    net = relu_net(2).fit(x, y, epochs=3, batch_size=64, validation_data=(x, y))
    assert net.history["validation_loss"][-1] == net.evaluate(x, y)
    assert len(set(net.history["validation_loss"])) == 3


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_few_rows_are_those_of_the_forward_pass(name):
    layout, row = Layout((4, 5, 3)), activation(name)
    network = Network(layout, (row, row), loss("squared_error"))
    p = layout.unpack(np.random.default_rng(1).uniform(-0.5, 0.5, size=layout.size))
    x = np.random.default_rng(2).normal(size=(3, 4))
    before = x.copy()
    found = outputs_of_few(network, p, x)
    np.testing.assert_allclose(found, forward(network, p, x).a[-1], rtol=1e-12, atol=1e-12)
    assert np.array_equal(x, before)


def test_a_small_probability_keeps_its_digits_however_many_rows_are_asked_for():
    layout = Layout((1, 1, 1))
    network = Network(layout, (activation("identity"), activation("sigmoid")), loss("binary_cross_entropy"))
    p = layout.unpack(np.ones(layout.size))
    p.b[1][...] = p.b[2][...] = 0.0
    x = np.linspace(-700.0, 30.0, 200)[:, None]
    expected = np.exp(x) / (1.0 + np.exp(x))
    for found in (
        outputs_of_few(network, p, x),
        outputs(network, p, HostData(select("numpy"), x, None, None, 64, dtype="float64")),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def a_network(backend, n=23, w=None):
    dtype = backend.dtypes[-1]
    here = np.random.default_rng(3)
    layout = Layout((4, 5, 3))
    network = Network(layout, (activation("tanh"), activation("softmax")), loss("cross_entropy"))
    x, y = here.normal(size=(n, 4)), np.eye(3)[here.integers(0, 3, n)]
    p = backend.put(here.normal(size=layout.size), dtype)
    w = None if w is None else backend.put(w, dtype)
    return network, p, lambda rows: Data(backend.place, backend.put(x, dtype), backend.put(y, dtype), w, rows)


@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_change_neither_outputs_nor_loss(backend, weighted):
    network, p, data = a_network(backend, w=np.arange(23.0) if weighted else None)
    tolerance = 1e-5 if backend.dtypes[-1] == "float32" else 1e-12
    whole = evaluate(network, p, data(23))
    for rows in (1, 5, 22, 100):
        found = evaluate(network, p, data(rows))
        np.testing.assert_allclose(found.loss, whole.loss, rtol=tolerance)
        backend.assert_close(found.yhat, backend.get(whole.yhat), atol=tolerance)
        yhat = outputs(network, network.layout.unpack(p), data(rows))
        backend.assert_close(yhat, backend.get(whole.yhat), atol=tolerance)


def test_an_objective_keeps_the_gradients_that_it_has_told(backend):
    network, p, data = a_network(backend)
    function = objective(Task(network, optimizer("sgd"), l2=0.1), data(7))
    _, g = function(p)
    before, parameters = np.array(backend.get(g)), np.array(backend.get(p))
    function(p + 1.0)
    np.testing.assert_array_equal(backend.get(g), before)
    np.testing.assert_array_equal(backend.get(p), parameters)


def test_other_backends_take_dense_batches_and_say_so(backend):
    if backend.name == "numpy":
        pytest.skip("NumPy's own runner takes sparse rows")
    dtype = backend.dtypes[-1]
    X = sparse.random(20, 4, 0.1, format="csr", random_state=0)
    network, _, _ = a_network(backend)
    data = HostData(backend.place, X, backend.put(np.eye(3)[np.arange(20) % 3], dtype), None, 6, dtype=dtype)
    runner = find_runner(Task(network, optimizer("sgd")), data)
    assert runner.name == "eager"
    assert "batch by batch" in runner.reason
    for x, _, _ in data.batches(np.arange(20)):
        assert x.dtype == getattr(backend.xp, dtype)


def test_a_regression_on_sparse_rows_learns_what_it_learns_on_dense_ones():
    X = sparse.random(400, 300, 0.02, format="csr", random_state=0)
    y = np.asarray(X.sum(axis=1)).ravel()
    models = [MLPRegressor(hidden_layer_sizes=(16,), max_iter=5, random_state=0).fit(x, y) for x in (X, X.toarray())]
    np.testing.assert_allclose(models[0].loss_curve_, models[1].loss_curve_, rtol=1e-6)


@pytest.mark.parametrize("kind", ["by rows", "by columns", "float32", "bytes the other way round"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 7},
        {"batch_size": 7, "shuffle": False, "metric": "accuracy"},
        {"batch_size": None},
        {"batch_size": 7, "early_stopping": True, "metric": "accuracy"},
        {"batch_size": 7, "drop_last": True},
        {"batch_size": 7, "validation_data": True},
        {"optimizer": "lbfgs"},
    ],
    ids=str,
)
def test_an_mlp_learns_the_same_from_an_x_that_is_not_copied(kind, dtype, settings, monkeypatch, tmp_path):
    X, y = DENSE[kind](COUNTS), Y.astype(dtype)
    w = np.linspace(0.5, 1.5, len(y)).astype(dtype)
    if "validation_data" in settings:
        settings = settings | {"validation_data": (X[::2], y[::2])}
    found = []
    for copied in (2**25, 0):
        monkeypatch.setattr(host_data, "COPIED_BYTES", copied)
        net = MLP([5, 6, 1], loss="binary_cross_entropy", dtype=dtype, random_state=0)
        # The second goes on from what the first has left: to its checkpoint they are the same samples.
        net.fit(X, y, epochs=4 + len(found), sample_weight=w, checkpoint=tmp_path / "run", resume=True, **settings)
        alone = MLP([5, 6, 1], loss="binary_cross_entropy", dtype=dtype, random_state=0)
        alone.fit(X, y, epochs=4, sample_weight=w, **settings)
        found.append([alone.parameters, *alone.history.values(), alone.predict(X), alone.evaluate(X, y)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("how", ["early_stopping", "validation_data"])
def test_several_networks_learn_the_same_from_a_large_x(how, monkeypatch):
    X, y = COUNTS.astype(np.float64), Y.astype(np.float64)
    settings = {"early_stopping": True} if how == "early_stopping" else {"validation_data": (X[::2], y[::2])}
    found = []
    for copied in (2**25, 0):
        monkeypatch.setattr(host_data, "COPIED_BYTES", copied)
        net = MLP([5, 6, 1], loss="binary_cross_entropy", dtype="float64", random_state=0, n_networks=3)
        found.append(net.fit(X, y, epochs=3, batch_size=7, **settings).parameters)
    np.testing.assert_array_equal(*found)


def test_an_mlp_makes_nothing_as_large_as_x(monkeypatch):
    monkeypatch.setattr(host_data, "COPIED_BYTES", 0)
    X, y = np.random.default_rng(0).normal(size=(20_000, 200)), (np.arange(20_000) % 2).astype("float32")
    net = MLP([200, 3, 1], loss="binary_cross_entropy", dtype="float32", random_state=0)
    fit = {"epochs": 1, "batch_size": 200, "early_stopping": True}
    net.fit(X[:1_200], y[:1_200], **fit).predict(X[:1_200])  # what is made once
    for call in (lambda: net.fit(X, y, **fit), lambda: net.predict(X), lambda: net.evaluate(X, y)):
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.15 * X.nbytes, f"{peak / X.nbytes:.2f} X"  # as float32 it would be 0.5 X, of truth values 0.125
