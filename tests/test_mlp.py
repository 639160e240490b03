"""MLP: the tutorial's verbs, the whole work, m networks at once, and an object that bad arguments leave as it was."""

# ruff: noqa: E501  # messages stand unbroken

import re
import warnings

import numpy as np
import pytest
from witnesses import mlp

import xpmlp
from xpmlp import MLP
from xpmlp.backends import Place
from xpmlp.network import Network, backward, forward
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.losses import LOSSES
from xpmlp.network.parts import part

SIZES, N = [3, 5, 2], 20


@pytest.fixture
def data(rng):
    X = rng.normal(size=(N, 3))
    return X, np.stack([X[:, 0] * X[:, 1], np.sin(X[:, 2])], axis=1)


@pytest.fixture
def labels(data):
    return np.eye(2)[(data[0][:, 0] > 0).astype(int)]


def put(backend, *arrays):
    return [backend.put(array) for array in arrays]


# --- The three verbs ---


def test_the_verbs_compute_what_the_functions_compute(backend, data):
    X, y = data
    net = mlp(backend, SIZES, "tanh")
    p = backend.get(net.parameters).astype(np.float64)
    network = Network(net.layout, (ACTIVATIONS["tanh"], ACTIVATIONS["identity"]), LOSSES["squared_error"])
    W, b, _ = parameters = net.layout.unpack(p)
    trace = forward(network, parameters, X)
    grads = backward(network, parameters, trace, y, show=True, inputs=True)
    tol = 1e-13 if backend.float64 else 2e-6
    backend.assert_close(net.forward(backend.put(X)), trace.a[2], rtol=tol)
    net.backward(backend.put(y))
    for name, desired in {
        "z": trace.z,
        "a": trace.a,
        "dz": grads.dz,
        "da": grads.da,
        "dW": grads.dW,
        "db": grads.db,
    }.items():
        for k in range(3):
            ours = getattr(net, name)[k]
            assert (ours is None) == (desired[k] is None), f"{name}[{k}]"
            if ours is not None:
                backend.assert_close(ours, desired[k], rtol=tol)
    net.update(0.5)
    backend.assert_close(net.parameters, p - 0.5 * net.layout.pack(grads.d), rtol=tol)
    for k in (1, 2):
        backend.assert_close(net.W[k], W[k] - 0.5 * grads.dW[k], rtol=tol)
        backend.assert_close(net.b[k], b[k] - 0.5 * grads.db[k], rtol=tol)
    assert net.da[0] is not None, "they stay to be looked at after the update"


def test_derivatives_of_weighted_samples_are_shown_too(backend, data):
    X, y = put(backend, *data)
    net, twin = mlp(backend, SIZES), mlp(backend, SIZES)
    w = np.arange(N) % 3
    net.forward(X)
    net.backward(y, sample_weight=backend.put(w.astype(float)))
    rows = np.repeat(np.arange(N), w)
    twin.forward(backend.put(data[0][rows]))
    twin.backward(backend.put(data[1][rows]))
    for k in (1, 2):
        backend.assert_close(net.dW[k], backend.get(twin.dW[k]), rtol=1e-13 if backend.float64 else 2e-6)


def test_verbs_in_the_wrong_order_say_what_to_call_first(data):
    X, y = data
    net = MLP(SIZES)
    for act, message in [
        (lambda: net.z, "there is no z and no a yet; call forward(X) first."),
        (lambda: net.backward(y), "backward needs the z and a of a batch; call forward(X) first."),
        (lambda: net.dW, "there are no derivatives yet; call forward(X), then backward(y)."),
        (lambda: net.update(0.1), "there are no derivatives yet; call forward(X), then backward(y)."),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            act()
    net.forward(X)
    net.backward(y)
    net.forward(X)
    with pytest.raises(ValueError, match=re.escape("there are no derivatives yet")):
        _ = net.db


def test_the_three_verbs_are_one_step_of_full_batch_gradient_descent(data):
    X, y = data
    one, other = MLP(SIZES, "tanh", random_state=0), MLP(SIZES, "tanh", random_state=0)
    for _ in range(5):
        one.forward(X)
        one.backward(y)
        one.update(0.1)
    other.fit(X, y, epochs=5, batch_size=None, optimizer="sgd", learning_rate=0.1)
    np.testing.assert_allclose(one.parameters, other.parameters, rtol=0, atol=1e-14)


def test_initialize_begins_anew(data):
    net = MLP(SIZES, random_state=0)
    begun, _ = net.parameters.copy(), net.fit(*data, epochs=2)
    first = net.parameters.copy()
    np.testing.assert_array_equal(net.initialize().parameters, begun)
    assert net.history == {}
    np.testing.assert_array_equal(net.fit(*data, epochs=2).parameters, first)


# --- fit and predict ---


def test_a_network_learns_the_two_circles_of_the_tutorial():
    from sklearn.datasets import make_circles

    X, y = make_circles(300, factor=0.5, noise=0.1, random_state=0)
    net = MLP([2, 8, 1], "relu", "binary_cross_entropy", random_state=0)
    net.fit(X, y.astype(float), epochs=60, learning_rate=0.02, metric="accuracy")
    assert net.history["metric"][-1] > 0.97
    assert net.history["loss"][-1] < 0.2 < net.history["loss"][0]
    assert net.history["metric"][-1] == np.mean((net.predict(X)[:, 0] > 0.5) == y)


def test_predictions_in_blocks_are_predictions_at_once(monkeypatch, backend, data):
    X = backend.put(data[0])
    net = mlp(backend, SIZES)
    at_once = backend.get(net.predict(X))
    monkeypatch.setattr("xpmlp.training.evaluation.FEWEST", 1)
    monkeypatch.setattr(Place, "block_bytes", 8 * 5 * 6)  # 6 rows of the widest layer: 20 rows are 6, 6, 6, 2
    backend.assert_close(net.predict(X), at_once, rtol=1e-15 if backend.float64 else 1e-6)


def test_fit_neither_changes_nor_keeps_what_it_was_given(backend, data):
    given = put(backend, *data, np.ones(N))
    before = [backend.get(array).copy() for array in given]
    mlp(backend, SIZES).fit(given[0], given[1], epochs=2, batch_size=7, sample_weight=given[2])
    for array, was in zip(given, before, strict=True):
        np.testing.assert_array_equal(backend.get(array), was)


def test_history_grows_with_every_fit_and_holds_what_was_asked_for(data):
    X, y = data
    net = MLP(SIZES, random_state=0)
    net.fit(X, y, epochs=2, learning_rate=0.01).fit(X, y, epochs=3, learning_rate=0.02)
    assert list(net.history) == ["loss", "learning_rate"]
    assert net.history["learning_rate"] == [0.01] * 2 + [0.02] * 3
    assert all(type(loss) is float for loss in net.history["loss"])
    net.fit(X, y, epochs=1, metric=lambda y, yhat: float(np.abs(y - yhat).max()), validation_data=(X[:5], y[:5]))
    assert net.history["validation_loss"][5:] == [pytest.approx(net.evaluate(X[:5], y[:5]))]
    assert net.history["metric"][5:] == [np.abs(y - net.predict(X)).max()]
    assert net.history["validation_metric"][5:] == [np.abs(y[:5] - net.predict(X[:5])).max()]
    net.fit(X, y, epochs=1)
    for name in ("validation_loss", "metric", "validation_metric"):  # the n-th entry is of the n-th epoch
        assert np.isnan(net.history[name]).tolist() == [True] * 5 + [False, True]


def test_callbacks_see_the_network_of_their_epoch_and_can_stop(data):
    X, y = data
    seen = []
    net = MLP(SIZES, random_state=0).fit(
        X, y, epochs=9, callbacks=[lambda net, epoch, logs: seen.append((epoch, logs["loss"], net.evaluate(X, y))), lambda net, epoch, logs: epoch == 3]
    )  # fmt: skip
    assert [epoch for epoch, _, _ in seen] == [1, 2, 3]
    assert [loss for _, loss, _ in seen] == net.history["loss"]
    assert seen[-1][2] == net.evaluate(X, y)


def test_what_a_callback_raises_comes_out_and_the_network_keeps_what_it_has_learned(data):
    def fail(net, epoch, logs):
        if epoch == 2:
            raise LookupError("the disk of the callback is full")

    net, twin = MLP(SIZES, random_state=0), MLP(SIZES, random_state=0).fit(*data, epochs=2)
    with pytest.raises(LookupError, match="the disk of the callback is full") as caught:
        net.fit(*data, epochs=9, callbacks=[fail])
    assert caught.value.__notes__ == ["Training ended here; the network keeps what it had learned in 2 epochs."]
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_early_stopping_ends_with_the_best_weights_seen_on_the_held_out_samples(data):
    X, y = data
    kept = []
    net = MLP([3, 30, 2], "tanh", random_state=0).fit(
        X[:10], y[:10], epochs=200, learning_rate=0.05, early_stopping=True, patience=5,
        validation_data=(X[10:], y[10:]), callbacks=[lambda net, epoch, logs: kept.append(net.parameters.copy())],
    )  # fmt: skip
    losses = net.history["validation_loss"]
    assert len(losses) < 200
    assert len(losses) - 1 - int(np.argmin(losses)) == 6  # more than 5 epochs after the best
    np.testing.assert_array_equal(net.parameters, kept[int(np.argmin(losses))])
    assert net.evaluate(X[10:], y[10:]) == min(losses)


def test_held_out_samples_are_not_trained_on(data):
    X, y = data
    seen = []
    own = (lambda z: (seen.append(z.shape[-2]), z)[1], lambda z, a: np.ones_like(z))
    MLP([3, 2], [own], random_state=0).fit(
        X, y, epochs=1, batch_size=None, early_stopping=True, validation_fraction=0.25
    )
    assert sorted(set(seen)) == [5, 15]


def test_l2_adds_half_of_it_times_the_squared_weights_over_the_sum_of_the_sample_weights(backend, data):
    X, y = data
    for w in (None, np.linspace(0.0, 2.0, N)):
        weights, total = (None, N) if w is None else (backend.put(w), w.sum())
        net, plain = mlp(backend, SIZES, "tanh"), mlp(backend, SIZES, "tanh")
        p = backend.get(net.parameters).astype(np.float64)
        squares = np.sum(p[: net.layout.decaying_stop] ** 2)
        options = {"epochs": 1, "batch_size": None, "optimizer": "sgd", "learning_rate": 0.1, "sample_weight": weights}
        net.fit(*put(backend, X, y), l2=0.7, **options)
        plain.fit(*put(backend, X, y), **options)
        tol = 1e-13 if backend.float64 else 1e-5
        assert net.history["loss"][0] - plain.history["loss"][0] == pytest.approx(0.35 * squares / total, rel=tol * 10)
        pull = np.where(np.arange(p.size) < net.layout.decaying_stop, 0.1 * 0.7 * p / total, 0.0)  # never on biases
        backend.assert_close(net.parameters, backend.get(plain.parameters) - pull, rtol=tol, dtype=backend.dtypes[0])


def test_a_sample_weight_of_w_is_w_repetitions(backend, data):
    X, y = data
    w = np.arange(N) % 3
    rows = np.repeat(np.arange(N), w)
    options = {"epochs": 3, "batch_size": None, "shuffle": False, "l2": 0.1}
    weighted = mlp(backend, SIZES).fit(*put(backend, X, y), sample_weight=backend.put(w.astype(float)), **options)
    repeated = mlp(backend, SIZES).fit(*put(backend, X[rows], y[rows]), **options)
    backend.assert_close(weighted.parameters, backend.get(repeated.parameters), rtol=1e-12 if backend.float64 else 1e-5)
    np.testing.assert_allclose(
        weighted.history["loss"], repeated.history["loss"], rtol=1e-12 if backend.float64 else 1e-5
    )


def test_learning_rate_factors_freeze_and_slow_layers(data):
    net = MLP(SIZES, "tanh", random_state=0)
    W, b = [None, *(x.copy() for x in net.W[1:])], [None, *(x.copy() for x in net.b[1:])]
    options = {"epochs": 1, "batch_size": None, "optimizer": "sgd", "learning_rate": 0.1}
    net.fit(*data, learning_rate_factors=[0.0, 0.5], **options)
    plain = MLP(SIZES, "tanh", random_state=0).fit(*data, **options)
    np.testing.assert_array_equal(net.W[1], W[1])
    np.testing.assert_array_equal(net.b[1], b[1])
    np.testing.assert_allclose(net.W[2] - W[2], 0.5 * (plain.W[2] - W[2]), rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(net.b[2] - b[2], 0.5 * (plain.b[2] - b[2]), rtol=1e-12, atol=1e-16)


def test_clipping_bounds_the_step(data):
    X, y = data
    net = MLP(SIZES, "tanh", random_state=0)
    before = net.parameters.copy()
    net.fit(X, 100 * y, epochs=1, batch_size=None, optimizer="sgd", learning_rate=1.0, clip_norm=0.25)
    assert np.linalg.norm(net.parameters - before) == pytest.approx(0.25)


def test_adamw_decays_weights_and_never_biases(data):
    X = data[0]
    net = MLP(SIZES, "tanh", random_state=0)
    net.set_weights([W.copy() for W in net.W[1:]], [np.ones(5), np.ones(2)])
    W = net.W[1].copy()
    y = net.predict(X)  # the loss is 0: decay is all that moves
    net.fit(X, y, epochs=1, batch_size=None, optimizer=xpmlp.optimizer("adamw", weight_decay=0.5), learning_rate=0.1)
    np.testing.assert_allclose(net.W[1], 0.95 * W, rtol=1e-6)
    np.testing.assert_allclose(net.b[1], 1.0, rtol=1e-6)


def test_several_quantiles_of_one_target(rng):
    X, y = rng.normal(size=(400, 1)), rng.normal(size=400)
    net = MLP([1, 2], ["identity"], xpmlp.loss("pinball", quantile=(0.1, 0.9)), random_state=0)
    net.fit(X, y, epochs=100, learning_rate=0.02)
    share_below = np.mean(y[:, None] < net.predict(X), axis=0)
    np.testing.assert_allclose(share_below, [0.1, 0.9], atol=0.03)


# --- Many networks at once ---

MANY = {
    "plain": {},
    "batches": {"batch_size": 7},
    "no shuffling": {"batch_size": 7, "shuffle": False},
    "dropout": {"batch_size": 7, "dropout": 0.4},
    "dropout, one batch": {"batch_size": None, "dropout": 0.4},
    "clipping": {"batch_size": 7, "clip_norm": 0.05},
    "penalty and weights": {"batch_size": 7, "l2": 0.3, "weights": True},
    "decay": {"batch_size": 7, "optimizer": "adamw", "learning_rate": 0.05},
    "early stopping": {"batch_size": 7, "early_stopping": True, "patience": 1, "epochs": 40, "learning_rate": 0.1},
}


# 5 networks against 5 alone: 5e-16 was seen; float32 2e-7.
@pytest.mark.parametrize("case", MANY)
def test_networks_at_once_are_trained_like_each_alone(case, backend, data):
    if backend.name == "jax" and (case not in ("dropout", "early stopping") or not backend.float64):
        pytest.skip("two cases are enough where every case is a compilation")
    options = dict(MANY[case])
    made = {"dropout": options.pop("dropout", 0.0)}
    options = {"epochs": 3, "learning_rate": 0.02} | options
    X, y = put(backend, *data)
    if options.pop("weights", False):
        options["sample_weight"] = backend.put(np.linspace(0.0, 1.0, N))
    if "early_stopping" in options:
        options["validation_data"] = (X[:6, :], y[:6, :])
        X, y = X[6:, :], y[6:, :]
    together = mlp(backend, SIZES, "tanh", n_networks=5, **made)
    begun = backend.get(together.parameters).copy()
    together.fit(X, y, **options)
    tolerance = 1e-12 if backend.float64 else 1e-5
    epochs = set()
    for i in range(5):
        alone = mlp(backend, SIZES, "tanh", random_state=together.seeds[i], **made)
        np.testing.assert_array_equal(begun[i], backend.get(alone.parameters))
        alone.fit(X, y, **options)
        epochs.add(len(alone.history["loss"]))
        backend.assert_close(together.parameters[i, :], backend.get(alone.parameters), rtol=tolerance)
        losses = [loss[i] for loss in together.history["loss"]][: len(alone.history["loss"])]
        np.testing.assert_allclose(losses, alone.history["loss"], rtol=tolerance)
    if case == "early stopping":
        assert len(epochs) > 1, "all networks stopped together, which proves little"


def test_predictions_of_several_networks_are_stacked_or_averaged(backend, data):
    X = backend.put(data[0])
    net = mlp(backend, SIZES, n_networks=3)
    stacked = backend.get(net.predict(X))
    assert stacked.shape == (3, N, 2)
    backend.assert_close(net.predict(X, average=True), stacked.mean(axis=0), rtol=1e-15 if backend.float64 else 1e-6)
    own = backend.put(np.stack([data[0]] * 3))
    backend.assert_close(net.predict(own), stacked, rtol=1e-15 if backend.float64 else 1e-6)
    assert net.evaluate(X, backend.put(data[1])).shape == (3,)


def test_each_network_may_have_samples_of_its_own(backend, rng):
    if backend.name == "jax":
        pytest.skip("the same take, and minutes of compilation")
    X, y = rng.normal(size=(3, N, 3)), rng.normal(size=(3, N, 2))
    net = mlp(backend, SIZES, n_networks=3).fit(*put(backend, X, y), epochs=2, batch_size=7)
    for i in range(3):
        alone = mlp(backend, SIZES, random_state=net.seeds[i]).fit(*put(backend, X[i], y[i]), epochs=2, batch_size=7)
        backend.assert_close(
            net.parameters[i, :], backend.get(alone.parameters), rtol=1e-12 if backend.float64 else 1e-5
        )


# --- The object ---


def test_the_repr_shows_shapes_and_counts():
    net = MLP([2, 40, 1], "relu", "binary_cross_entropy", dropout=0.25, n_networks=3)
    assert repr(net).splitlines() == [
        "MLP: 3 networks of 161 parameters, float64 on NumPy on cpu, loss binary_cross_entropy",
        "  layer 1  W (2, 40)  b (40,)  relu             120  dropout 0.25",
        "  layer 2  W (40, 1)  b (1,)  sigmoid           41",
    ]


def test_the_repr_shows_parts_and_members_and_counts_what_they_have():
    code = part("piecewise", edges=[[-1.0, 0.0, 1.0]], width=3)
    net = MLP([2, 4, 1], members=2, parts={0: [code, "member_scale"], 1: ["layer_norm"]}, dropout=0.1)
    assert repr(net).splitlines() == [
        "MLP: 70 parameters of 2 members, float64 on NumPy on cpu, loss squared_error",
        "  input           20  piecewise  member_scale",
        "  layer 1  W (4, 4)  b (2, 1, 4)  relu              40  layer_norm  dropout 0.1",
        "  layer 2  W (2, 4, 1)  b (2, 1, 1)  identity          10",
    ]
    assert net.layout.n_parameters == 70


def test_one_activation_is_for_the_hidden_layers_and_the_output_takes_the_link_of_the_loss():
    for name, row in LOSSES.items():
        net = MLP([2, 3, 3, 2], "elu", name)
        assert [f.name for f in net.network.activations] == ["elu", "elu", row.link or "identity"]


def test_weights_can_be_set_and_read_back(backend):
    net = mlp(backend, [2, 2, 1])
    W, b = [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0], [6.0]])], [np.array([7.0, 8.0]), np.array([9.0])]
    net.set_weights([W[0].tolist(), backend.put(W[1])], put(backend, *b))
    backend.assert_close(net.parameters, np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9]))
    for k in (1, 2):
        backend.assert_close(net.W[k], W[k - 1])
        backend.assert_close(net.b[k], b[k - 1])
    given = backend.put(np.arange(9.0))
    net.parameters = given
    net.forward(backend.put([[1.0, 1.0]]))
    net.backward(backend.put([[1.0]]))
    net.update(0.1)
    backend.assert_close(given, np.arange(9.0))  # a copy was taken


def test_a_network_moves_to_another_backend_and_computes_the_same(backend, data):
    net = MLP(SIZES, "tanh", random_state=0).fit(*data, epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xpmlp.PrecisionWarning)
        there = net.to_backend(backend.name, device=backend.place.device_name)
    tol = 1e-14 if backend.float64 else 1e-6
    backend.assert_close(there.predict(backend.put(data[0])), net.predict(data[0]), rtol=tol)
    assert there.history == net.history
    before = net.parameters.copy()
    there.fit(*put(backend, *data), epochs=1)
    np.testing.assert_array_equal(net.parameters, before)  # NumPy's copy shares nothing either
    net.fit(*data, epochs=1)
    backend.assert_close(there.parameters, net.parameters, rtol=backend.tolerance(backend.dtypes[0]))  # the same orders


# --- Bad input ---

X, Y = np.zeros((4, 3)), np.zeros((4, 2))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"X": X[:, :2]}, ValueError, "x must have shape (batch, 3) to enter this network; got (4, 2)."),
        ({"X": X[0]}, ValueError, "x must have shape (batch, 3) to enter this network; got (3,). One sample alone needs x[None, :]."),
        ({"X": X[:0], "y": Y[:0]}, ValueError, "x must hold at least one sample and one column; got shape (0, 3)."),
        ({"X": X + np.nan}, ValueError, "x must be finite; it contains NaN or infinity."),
        ({"X": X.astype(np.int32)}, TypeError, "x must be an array of real floating numbers; got dtype int32."),
        ({"X": None}, TypeError, "x must be an array of array_api_strict, cupy, jax, numpy, torch; got NoneType."),
        ({"y": Y[:3]}, ValueError, "x and y must hold the same number of samples; got 4 and 3."),
        ({"y": Y[:, :1]}, ValueError, "y must have shape (batch, 2) to be compared with the outputs; got (4, 1)."),
        ({"y": Y - np.inf}, ValueError, "y must be finite; it contains NaN or infinity."),
        ({"y": Y.astype(np.complex64)}, TypeError, "y must be an array of real floating numbers; got dtype complex64."),
        ({"sample_weight": np.ones(3)}, ValueError, "sample_weight must hold one weight per sample, shape (4,); got (3,)."),
        ({"sample_weight": -np.ones(4)}, ValueError, "sample_weight must not be negative; got a weight of -1."),
        ({"validation_data": X}, TypeError, "validation_data must be a pair (X, y); got "),
        ({"validation_data": (X[:, :1], Y)}, ValueError, "validation_data[0] must have shape (batch, 3) to enter this network; got (4, 1)."),
        ({"validation_data": (X, Y[:, :1])}, ValueError, "validation_data[1] must have shape (batch, 2) to be compared with the outputs; got (4, 1)."),
        ({"epochs": 0}, ValueError, "epochs must be a whole number of at least 1; got 0."),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1; got 0."),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number of at least 1; got 2.5 of type float."),
        ({"optimizer": "adma"}, ValueError, "unknown optimizer 'adma'; did you mean 'adam'?"),
        ({"schedule": "cosin"}, ValueError, "unknown schedule 'cosin'; did you mean 'cosine'?"),
        ({"learning_rate": -0.1}, ValueError, "learning_rate must be a finite number above 0; got -0.1."),
        ({"l2": -1.0}, ValueError, "l2 must be a finite number at least 0; got -1.0."),
        ({"clip_norm": 0.0}, ValueError, "clip_norm must be a finite number above 0; got 0.0."),
        ({"learning_rate_factors": [1.0]}, ValueError, "learning_rate_factors must hold one for each of the 2 layers; got 1."),
        ({"learning_rate_factors": [1.0, -1.0]}, ValueError, "learning_rate_factors[1] must be a finite number at least 0; got -1.0."),
        ({"early_stopping": True, "validation_fraction": 1.0}, ValueError, "validation_fraction must be a finite number above 0 and below 1; got 1.0."),
        ({"early_stopping": True, "validation_fraction": 0.9}, ValueError, "validation_fraction=0.9 of 4 samples leaves none to train on."),
        ({"early_stopping": True, "patience": -1}, ValueError, "patience must be a whole number of at least 0; got -1."),
        ({"patience": "long"}, TypeError, "patience must be a whole number of at least 0; got 'long' of type str."),
        ({"tol": -1.0}, ValueError, "tol must be a finite number at least 0; got -1.0."),
        ({"metric": "accuracy"}, ValueError, "accuracy needs a classification loss; got 'squared_error'."),
        ({"metric": "f1"}, ValueError, "metric must be one of 'accuracy'; got 'f1'."),
        ({"callbacks": print}, TypeError, "callbacks must be a sequence of functions; got "),
        ({"on_divergence": "ignore"}, ValueError, "on_divergence must be one of 'restore', 'raise'; got 'ignore'."),
        ({"max_time": 0}, ValueError, "max_time must be a finite number above 0; got 0."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_fit_refuses_in_our_words_and_leaves_the_object_as_it_was(arguments, error, message, backend):
    def here(value):
        if isinstance(value, tuple):
            return tuple(here(part) for part in value)
        return backend.put(value) if isinstance(value, np.ndarray) else value

    net = mlp(backend, SIZES)
    net.history = {"loss": [1.0]}
    before, history = backend.get(net.parameters).copy(), dict(net.history)
    orders = [rng.bit_generator.state["state"]["counter"].tolist() for rng in net._orders]
    arguments = {name: here(value) for name, value in ({"X": X, "y": Y} | arguments).items()}
    with pytest.raises(error, match=re.escape(message)):
        net.fit(arguments.pop("X"), arguments.pop("y"), **arguments)
    np.testing.assert_array_equal(backend.get(net.parameters), before)
    assert net.history == history
    assert [rng.bit_generator.state["state"]["counter"].tolist() for rng in net._orders] == orders


@pytest.mark.parametrize(
    "loss, y, message",
    [
        ("poisson", -np.ones((4, 2)), "y must not be negative for the loss 'poisson'; got a target of -1."),
        ("binary_cross_entropy", 2 * np.ones((4, 2)), "y must lie between 0 and 1 for the loss 'binary_cross_entropy'; got a target of 2."),
        ("cross_entropy", np.ones((4, 2)), "each row of y must sum to 1 for the loss 'cross_entropy' (one-hot or soft targets); one is 1 off."),
    ],
)  # fmt: skip
def test_targets_outside_the_domain_of_the_loss_are_refused(loss, y, message, backend):
    net = mlp(backend, SIZES, loss=loss)
    before = backend.get(net.parameters).copy()
    for act in (
        lambda: net.fit(backend.put(X), backend.put(y)),
        lambda: (net.forward(backend.put(X)), net.backward(backend.put(y))),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            act()
    np.testing.assert_array_equal(backend.get(net.parameters), before)


def test_arrays_of_another_library_are_refused_by_every_door(backend):
    if backend.name == "numpy":
        pytest.skip("NumPy's arrays are at home here")
    net = mlp(backend, SIZES)
    here_X, here_Y = put(backend, X, Y)
    net.forward(here_X)
    p = np.zeros(net.layout.size)
    for act in (
        lambda: net.forward(X),
        lambda: net.predict(X),
        lambda: net.backward(Y),
        lambda: net.evaluate(here_X, Y),
        lambda: net.fit(here_X, Y),
        lambda: net.fit(here_X, here_Y, sample_weight=np.ones(4)),
        lambda: net.set_weights(*(values[1:] for values in net.layout.unpack(p)[:2])),
        lambda: setattr(net, "parameters", p),
    ):
        with pytest.raises(
            ValueError, match=r"is a NumPy array, (the parameters|those of this network) are .*; move one with"
        ):
            act()


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"sizes": [3]}, ValueError, "a network needs at least an input and an output layer, as in [2, 1]; got [3]."),
        ({"activations": "rleu"}, ValueError, "unknown activation 'rleu'; did you mean 'relu'?"),
        ({"activations": ["relu"]}, ValueError, "activations must name one function for each of the 2 layers; got 1."),
        ({"activations": ["softmax", "identity"]}, ValueError, "softmax is for the output layer; layer 1 is hidden."),
        ({"activations": 7}, TypeError, "an activation must be a name or a pair of functions (f(z), f'(z, a)); got 7."),
        ({"loss": "mse"}, ValueError, "unknown loss 'mse'; Choose one of absolute_error, "),
        ({"loss": None}, TypeError, "a loss must be a name or a pair of functions"),
        ({"activations": ["relu", "tanh"], "loss": "binary_cross_entropy"}, ValueError, "loss 'binary_cross_entropy' needs outputs of kind 'probability'; 'tanh' gives 'real'. Its usual output activation is 'sigmoid'."),
        ({"loss": xpmlp.loss("pinball", quantile=(0.1, 0.5, 0.9))}, ValueError, "<loss pinball(quantile=(0.1, 0.5, 0.9))> needs 3 outputs, one per quantile; the last layer has 2."),
        ({"initializer": "glorot"}, ValueError, "unknown initializer 'glorot'; did you mean "),
        ({"dropout": 1.0}, ValueError, "dropout must be a finite number at least 0 and below 1; got 1.0."),
        ({"dropout": [0.1, 0.1]}, ValueError, "dropout must be one rate, or one for each of the 1 hidden layers; got 2."),
        ({"dropout": None}, TypeError, "dropout must be a finite number at least 0 and below 1; got None of type NoneType."),
        ({"n_networks": 0}, ValueError, "n_networks must be a whole number of at least 1; got 0."),
        ({"dtype": "float16"}, ValueError, "dtype must be 'float64' or 'float32'; got 'float16'."),
        ({"random_state": -1}, ValueError, "random_state must be a whole number of at least 0; got -1."),
        ({"random_state": 0.5}, TypeError, "random_state must be a whole number of at least 0; got 0.5 of type float."),
        ({"backend": "nump"}, ValueError, "'nump'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_network_that_cannot_be_is_refused(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        MLP(**({"sizes": SIZES} | arguments))


def test_weights_of_wrong_number_or_shape_are_refused_and_nothing_is_set(backend):
    net = mlp(backend, [2, 2, 1])
    before = backend.get(net.parameters).copy()
    W, b = [np.zeros((2, 2)), np.zeros((2, 1))], [np.zeros(2), np.zeros(1)]
    for act, error, message in [
        (lambda: net.set_weights(put(backend, *W[:1]), put(backend, *b)), ValueError, "this network has 2 weight matrices and 2 biases; got 1 and 2."),
        (lambda: net.set_weights(put(backend, W[0], W[0]), put(backend, *b)), ValueError, "W[2] must have shape (2, 1); got (2, 2)."),
        (lambda: net.set_weights(put(backend, *W), put(backend, b[1], b[1])), ValueError, "b[1] must have shape (2,); got (1,)."),
        (lambda: setattr(net, "parameters", backend.put(np.zeros(8))), ValueError, "the parameters of this network have shape (9,); got (8,)."),
        (lambda: setattr(net, "parameters", "zeros"), TypeError, "parameters must be an array of "),
        (lambda: net.update(-1.0), ValueError, "learning_rate must be a finite number above 0; got -1.0."),
    ]:  # fmt: skip
        with pytest.raises(error, match=re.escape(message)):
            act()
    np.testing.assert_array_equal(backend.get(net.parameters), before)
