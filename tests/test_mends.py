"""What once went wrong in the seams between rooms, and does so no more."""

import copy
import pickle
import signal
from functools import partial

import numpy as np
import pytest

import xpmlp
from xpmlp import MLP, MLPRegressor
from xpmlp.backends import Place, array_namespace
from xpmlp.optim.optimizers import Optimizer


def data(rng, n=40):
    return rng.standard_normal((n, 3)), rng.standard_normal((n, 1))


def value(y, yhat):
    return array_namespace(yhat).sum((yhat - y) ** 2, axis=-1)


def wrong(y, yhat):
    return yhat - y


def right(y, yhat):
    return 2.0 * (yhat - y)


def scaled(y, yhat, c):
    return c * (yhat - y)


def trained(backend, **options):
    rng = np.random.default_rng(0)
    x, y = (backend.put(array, backend.dtypes[0]) for array in data(rng))
    net = MLP(
        [3, 4, 1],
        random_state=0,
        backend=backend.name,
        device=backend.place.device_name,
        dtype=backend.dtypes[0],
        **options,
    )
    return net, x, y


def test_a_mended_derivative_is_trained_with(backend):
    last = []
    for derivative in (wrong, right, partial(scaled, c=1.0), partial(scaled, c=2.0)):
        net, x, y = trained(backend, loss=(value, derivative))
        last.append(net.fit(x, y, epochs=3, learning_rate=0.01, optimizer="sgd").history["loss"][-1])
    assert last[0] != last[1]
    np.testing.assert_allclose(last[2:], last[:2], rtol=1e-6)


def test_an_optimizer_that_makes_new_slots_is_heard(backend):

    def new_slots(g, slots, rates):
        velocity = 0.9 * slots[0] + g
        return rates[0] * velocity, (velocity,)

    row = Optimizer("own", lambda t, lr: (lr,), new_slots, ("velocity",))
    losses = []
    for optimizer in (row, xpmlp.optimizer("momentum", momentum=0.9)):
        net, x, y = trained(backend)
        losses.append(net.fit(x, y, epochs=10, learning_rate=0.01, optimizer=optimizer).history["loss"][-1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_partial_fit_that_failed_leaves_the_optimizer_as_it_was(rng):
    x, y = data(rng)
    twice = [MLPRegressor(hidden_layer_sizes=(5,), random_state=0).partial_fit(x, y[:, 0]) for _ in range(2)]
    with pytest.raises(ValueError, match="Solver produced non-finite"):
        twice[0].partial_fit(x * 1e200, y[:, 0] * 1e200)
    for model in twice:
        model.partial_fit(x, y[:, 0])
    np.testing.assert_array_equal(twice[0].coefs_[0], twice[1].coefs_[0])


def test_ten_fits_of_one_epoch_drop_other_units_than_one_fit_ten_times(rng, monkeypatch):
    from xpmlp.network import dropout

    seen, key = [], dropout.key

    def spy(*args, **kwargs):
        made = key(*args, **kwargs)
        seen.append(np.asarray(made).tobytes())
        return made

    monkeypatch.setattr(dropout, "key", spy)  # masks are hashed from it
    x, y = data(rng)
    net = MLP([3, 8, 1], dropout=0.5, random_state=0)
    for _ in range(10):
        net.fit(x, y, epochs=1)
    assert len(seen) == len(set(seen)) == 20


def test_evaluation_goes_in_blocks_with_the_weights_of_each(rng, monkeypatch):
    x, y = data(rng, n=50)
    w = rng.uniform(size=50)
    net = MLP([3, 4, 1], random_state=0)
    whole, weighted = net.evaluate(x, y), net.evaluate(x, y, w)
    monkeypatch.setattr("xpmlp.training.evaluation.FEWEST", 1)
    monkeypatch.setattr(Place, "block_bytes", 8 * 4 * 7)  # seven rows at once
    assert net.evaluate(x, y) == pytest.approx(whole, rel=1e-14)
    assert net.evaluate(x, y, w) == pytest.approx(weighted, rel=1e-14)


def test_putting_a_weight_where_it_would_go_nowhere_is_refused():
    net = MLP([3, 4, 1], random_state=0)
    with pytest.raises(TypeError, match="call set_weights"):
        net.W[1] = np.zeros((3, 4))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copy_goes_on_as_the_network_does(copied, rng):
    x, y = data(rng)
    net = MLP([3, 4, 1], dropout=0.2, random_state=0).fit(x, y, epochs=3)
    twin = copied(net)
    np.testing.assert_array_equal(twin.fit(x, y, epochs=2).parameters, net.fit(x, y, epochs=2).parameters)


def test_a_broken_off_epoch_leaves_curves_of_one_length(rng):
    x, y = data(rng, n=64)

    def interrupting(z):
        interrupting.calls += 1
        if interrupting.calls == 30:
            signal.raise_signal(signal.SIGINT)
        return np.tanh(z)

    interrupting.calls = 0
    model = MLPRegressor(
        hidden_layer_sizes=(4,),
        activation=(interrupting, lambda z, a: 1.0 - a * a),
        batch_size=8,
        early_stopping=True,
        random_state=0,
    )
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(x, y[:, 0])
    assert len(model.loss_curve_) == len(model.validation_scores_) == model.n_iter_


def test_accuracy_of_several_binary_outputs_wants_all_of_them_right(rng):
    x = rng.standard_normal((60, 3))
    y = (rng.uniform(size=(60, 3)) > 0.5).astype(float)
    net = MLP([3, 6, 3], loss="binary_cross_entropy", random_state=0).fit(x, y, epochs=2, metric="accuracy")
    assert net.history["metric"][-1] == pytest.approx(np.mean(np.all((net.predict(x) > 0.5) == (y > 0.5), axis=1)))


def test_a_metric_that_raises_leaves_what_was_learned(rng):
    x, y = data(rng)

    def metric(y, yhat):
        metric.calls += 1
        if metric.calls == 4:
            raise OSError("the disk of the log is full")
        return 0.0

    metric.calls = 0
    net = MLP([3, 4, 1], random_state=0)
    with pytest.raises(OSError, match="the disk of the log is full"):
        net.fit(x, y, epochs=10, metric=metric)
    assert len(net.history["loss"]) == 3


@pytest.mark.parametrize("factor", [-1.0, np.nan, np.inf])
def test_a_schedule_cannot_turn_training_uphill(factor, rng):
    x, y = data(rng)
    net = MLP([3, 4, 1], random_state=0)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="a schedule must return a finite factor of at least 0"):
        net.fit(x, y, epochs=2, schedule=lambda progress: factor)
    np.testing.assert_array_equal(net.parameters, before)


def test_a_handler_put_up_during_training_stays(rng):
    x, y = data(rng)

    def mine(signum, frame):
        raise AssertionError("nobody pressed anything")

    try:
        MLP([3, 4, 1]).fit(x, y, epochs=1, callbacks=[lambda *_: signal.signal(signal.SIGINT, mine) and None])
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
