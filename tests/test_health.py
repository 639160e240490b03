"""Health records what happens in a layer; diagnose names each illness that a real network has, and no other."""

import copy
import math
import pickle
import re
import warnings
from functools import cache

import numpy as np
import pytest

import xpmlp
from xpmlp import MLP, Health, diagnose
from xpmlp.backends import select
from xpmlp.inspection.diagnosis import Diagnosis
from xpmlp.inspection.health import CLOSED, measure, records_of, slope_of
from xpmlp.inspection.models import batch_of, open_up
from xpmlp.network.activations import ACTIVATIONS


@cache
def blobs():
    """Four classes in six dimensions that a small network tells apart, scaled as they should be."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 4
    X = rng.normal(size=(600, 6)) + 1.8 * rng.normal(size=(4, 6))[labels]
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    return X, np.eye(4)[labels]


def trained(sizes, activations="relu", *, initializer=None, n_networks=None, X=None, Y=None, **fit):
    """A network that was trained with a Health callback, whatever warnings its illness brings."""
    X, Y = (blobs()[0] if X is None else X), (blobs()[1] if Y is None else Y)
    loss = fit.pop("loss", "cross_entropy")
    net = MLP(sizes, activations, loss, initializer=initializer, n_networks=n_networks, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return net.fit(X, Y, callbacks=[Health(X, Y)], **fit)


# --- What is recorded ---


def test_a_record_is_what_the_definitions_say(backend, rng):
    net = MLP([3, 5, 4, 2], ["relu", "tanh", "identity"], random_state=1)
    X, y = 2.0 * rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    net.forward(X)
    net.backward(y)
    before = [None, *(0.9 * W for W in net.W[1:])]
    there = MLP(
        [3, 5, 4, 2],
        ["relu", "tanh", "identity"],
        backend=backend.name,
        device=backend.place.device_name,
        dtype=backend.dtypes[0],
    )
    there.set_weights([backend.put(W) for W in net.W[1:]], [backend.put(b) for b in net.b[1:]])
    batch = batch_of(there, backend.put(X), backend.put(y))
    found = measure(open_up(there), batch, [None, *(backend.put(W) for W in before[1:])])
    close = {"rel": 10 * backend.tolerance(backend.dtypes[0])}
    assert found["largest_input"] == pytest.approx(np.abs(X).max(), **close)
    for k in (1, 2, 3):
        assert found[f"gradient_norm.{k}"] == pytest.approx(np.linalg.norm(net.dW[k]), **close)
        assert found[f"weight_norm.{k}"] == pytest.approx(np.linalg.norm(net.W[k]), **close)
        assert found[f"update_ratio.{k}"] == pytest.approx(0.1, **close)
        assert found[f"largest_z.{k}"] == pytest.approx(np.abs(net.z[k]).max(), **close)
    closed = net.z[1] <= 0.0
    assert found["saturation.1"] == pytest.approx(closed.mean(), **close)
    assert found["dead.1"] == pytest.approx(closed.all(axis=0).mean(), **close)
    assert found["saturation.2"] == pytest.approx((1.0 - net.a[2] ** 2 < CLOSED).mean(), **close)
    assert "saturation.3" not in found  # a sure output is no illness
    assert all(isinstance(value, float) for value in found.values())


def test_records_of_m_networks_are_those_of_each(rng):
    X, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 1))
    many = MLP([3, 4, 1], n_networks=3, random_state=5)
    together = measure(open_up(many), batch_of(many, X, y))
    for i, seed in enumerate(many.seeds):
        one = MLP([3, 4, 1], random_state=seed)
        alone = measure(open_up(one), batch_of(one, X, y))
        for name, value in alone.items():
            assert together[name].shape == (3,)
            np.testing.assert_allclose(together[name][i], value, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("row", ACTIVATIONS.values(), ids=lambda row: row.name)
def test_which_ends_of_an_activation_are_flat(row):
    if row.name == "softmax":
        pytest.skip("for the output layer")
    slope = slope_of(row, select("numpy"))
    flat = {"sigmoid": (True, True), "tanh": (True, True), "identity": (False, False), "leaky_relu": (False, False)}
    assert (slope.closes_below, slope.closes_above) == flat.get(row.name, (True, False))  # relu and its kin


def test_every_epoch_goes_into_the_history_and_into_the_file(tmp_path):
    X, Y = blobs()
    health = Health(X, Y, rows=50)
    net = MLP([6, 8, 4], loss="cross_entropy", random_state=0).fit(X, Y, epochs=4, callbacks=[health])
    assert health.history["epoch"] == [1.0, 2.0, 3.0, 4.0]
    assert net.history["health.dead.1"] == health.history["dead.1"]
    assert math.isnan(health.history["update_ratio.1"][0])
    assert all(0.0 < ratio < 1.0 for ratio in health.history["update_ratio.1"][1:])
    net.fit(X, Y, epochs=2, callbacks=[health])  # goes on
    assert health.history["epoch"] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    net.save(tmp_path / "net.safetensors")
    loaded = xpmlp.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(loaded.history["health.gradient_norm.2"], health.history["gradient_norm.2"])
    assert repr(diagnose(loaded)) == repr(diagnose(net))
    net.initialize().fit(X, Y, epochs=1, callbacks=[health])  # begins anew
    assert health.history["epoch"] == [1.0]


def test_recording_changes_nothing_in_the_training():
    X, Y = blobs()
    fit = {"epochs": 3, "learning_rate": 0.01}
    watched = MLP([6, 8, 4], loss="cross_entropy", random_state=0).fit(X, Y, callbacks=[Health(X, Y)], **fit)
    alone = MLP([6, 8, 4], loss="cross_entropy", random_state=0).fit(X, Y, **fit)
    np.testing.assert_array_equal(watched.parameters, alone.parameters)


def test_every_and_rows_say_how_much_is_looked_at():
    X, Y = blobs()
    health = Health(X, Y, rows=7, every=3)
    MLP([6, 8, 4], loss="cross_entropy", random_state=0).fit(X, Y, epochs=8, callbacks=[health])
    assert health.history["epoch"] == [1.0, 4.0, 7.0]
    assert health._samples[0].shape == (7, 6)
    with pytest.raises(ValueError, match=re.escape("every must be a whole number of at least 1; got 0.")):
        Health(X, Y, every=0)


def test_it_watches_estimators_and_survives_clones_and_pickles():
    X, Y = blobs()
    labels = np.array(["red", "green", "blue", "grey"])[Y.argmax(axis=1)]
    health = Health(X, labels)
    clf = xpmlp.MLPClassifier(8, callbacks=[health], max_iter=6, n_iter_no_change=6, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # six epochs do not converge
        clf.fit(X, labels)
    assert health.history["epoch"] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert records_of(clf)["gradient_norm.1"].shape == (6,)
    assert "6 records" in repr(diagnose(clf))
    other = pickle.loads(pickle.dumps(copy.deepcopy(clf)))
    assert repr(diagnose(other)) == repr(diagnose(clf))


# --- What is said ---


@pytest.mark.parametrize("activations", ["relu", "tanh", "gelu", "leaky_relu"])
def test_of_a_healthy_network_there_is_nothing_to_complain(activations):
    X, Y = blobs()
    net = trained([6, 32, 16, 4], activations, epochs=15, validation_data=(X[::3], Y[::3]))
    assert repr(diagnose(net)) == "Nothing to complain about (15 records, epochs 1 to 15)."
    assert repr(diagnose(net, X, Y)) == "Nothing to complain about (this batch, 15 records, epochs 1 to 15)."
    assert diagnose(net).healthy
    assert len(diagnose(net)) == 0


def the_one(found: Diagnosis, kind, layer=None):
    chosen = [finding for finding in found if finding.kind == kind and layer in (None, finding.layer)]
    assert chosen, f"no {kind} in {found!r}"
    return chosen[0]


def test_dead_units():
    net = trained([6, 32, 16, 4], optimizer="sgd", learning_rate=30.0, epochs=6, clip_norm=5.0)
    found = the_one(diagnose(net), "dead")
    share = net.history[f"health.dead.{found.layer}"][-1]
    assert share >= 0.25
    assert str(found).startswith(
        f"{100 * share:.0f} % of layer {found.layer}'s units are dead since epoch {found.since}"
    )
    assert str(found).endswith("lower the learning rate or use leaky_relu.")


def test_dead_since_the_epoch_in_which_they_died():
    X, Y = blobs()
    net = MLP([6, 16, 4], loss="cross_entropy", random_state=0)
    health = Health(X, Y)

    def kill(net, epoch, logs):
        if epoch == 2:  # what is set now is what epoch 3 is trained on
            net.b[1][:] = -100.0

    net.fit(X, Y, epochs=6, learning_rate=1e-4, callbacks=[kill, health])
    assert the_one(diagnose(net), "dead").since == 3
    assert str(the_one(diagnose(net), "dead")).startswith("100 % of layer 1's units are dead since epoch 3,")


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_units_that_began_alike(value):
    X, y = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0.0, 1.0, 1.0, 0.0])
    net = MLP([2, 4, 1], ["tanh", "sigmoid"], "binary_cross_entropy", random_state=0)
    assert "equal units" not in diagnose(net).kinds
    net.set_weights([np.full((2, 4), value), np.full((4, 1), value)], [np.zeros(4), np.zeros(1)])
    net.fit(X, y, epochs=200, batch_size=None, learning_rate=0.01, callbacks=[Health(X, y)])
    for diagnosis in (diagnose(net), diagnose(net, X, y)):
        finding = next(it for it in diagnosis if it.kind == "equal units")
        assert finding.layer == 1
        assert "all 4 units of layer 1 have the same weights" in str(finding)


def test_two_units_of_many_networks_that_are_alike():
    net = MLP([2, 4, 4, 1], "tanh", n_networks=2, random_state=0)
    W, b = [np.array(array) for array in net.W[1:]], [np.array(array) for array in net.b[1:]]
    W[1][1, :, 3] = W[1][1, :, 0]
    W[2][1, 3, :] = W[2][1, 0, :]
    (finding,) = (it for it in diagnose(net.set_weights(W, b)) if it.kind == "equal units")
    assert (finding.network, finding.layer) == (1, 2)
    W[2][1, 3, :] *= 1.01  # the derivatives of their weights differ, so they part
    assert "equal units" not in diagnose(net.set_weights(W, b)).kinds


def test_saturated_units():
    net = trained([6, 32, 16, 4], "tanh", initializer=xpmlp.normal(4.0), epochs=5)
    found = the_one(diagnose(net), "saturated", layer=2)
    assert "of layer 2's tanh outputs are saturated since epoch 1, |z| reaches" in found.evidence
    assert "take smaller initial weights" in found.cure
    assert "vanishing" not in diagnose(net).kinds  # it is, but this is why


def test_vanishing_gradients():
    net = trained([6, *[20] * 8, 4], "sigmoid", optimizer="sgd", epochs=5)
    found = the_one(diagnose(net), "vanishing")
    assert re.search(r"the gradient of layer [12] is \de-\d+ of that of layer 9 since epoch 1", found.evidence)
    assert "use relu or gelu" in found.cure


def test_exploding_signals_and_gradients():
    net = trained([6, *[40] * 6, 4], "relu", initializer=xpmlp.normal(1.0), epochs=3)
    found = the_one(diagnose(net), "exploding")
    assert re.search(r"the signals grow from \|z\| = .* in layer 1 to .* in layer 6 since epoch 1", found.evidence)
    assert "clip_norm=1.0" in found.cure
    x = np.linspace(1.0, 2.0, 64)[:, None]
    grows = trained([1, 1], "identity", X=x, Y=x, loss="squared_error", epochs=8, optimizer="sgd", learning_rate=1.2)
    assert the_one(diagnose(grows), "exploding").evidence.startswith("the gradient is ")


def test_numbers_that_are_not_finite():
    net = trained([6, 30, 30, 4], loss="squared_error", optimizer="sgd", learning_rate=50.0, epochs=5)
    found = the_one(diagnose(net), "not finite")
    assert str(found).startswith(f"the loss was no longer finite in epoch {found.since}: lower the learning rate")
    assert math.isnan(net.history["health.dead.1"][-1])  # and not 1: nobody knows


def test_overfitting():
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(60, 6)), np.eye(4)[rng.integers(0, 4, 60)]  # nothing to be learned but by heart
    net = MLP([6, 64, 4], loss="cross_entropy", random_state=0)
    net.fit(X[:40], Y[:40], epochs=80, learning_rate=0.01, validation_data=(X[40:], Y[40:]))
    found = the_one(diagnose(net), "overfitting")
    best = int(np.argmin(net.history["validation_loss"])) + 1
    assert f"the validation loss was lowest in epoch {best} and is " in found.evidence
    assert "early_stopping=True" in found.cure
    assert repr(diagnose(net)).endswith("callbacks=[xpmlp.Health(X, y)].")  # no layer was looked at


def test_a_learning_rate_that_is_too_small():
    net = trained([6, 32, 4], learning_rate=1e-7, epochs=12)
    assert the_one(diagnose(net), "too slow").cure == "raise the learning rate tenfold"


# A training at too high a rate is chaotic: the last digit of one product decides what its losses are. So the sentences
# are told of losses that are given here; each condition is met by a hair in one line and missed by a hair in the next.
BEFORE = [6.0, 6.0, 6.0, 6.0]  # of nine epochs the last five are looked at for rises
ROSE = "the loss rose in {} of the last {} epochs, by {} % on average".format
LOWEST = "the loss was lowest in epoch {} and is {} times as large now".format


@pytest.mark.parametrize(
    "losses, evidence",
    [
        ([*BEFORE, 4.0, 6.0, 4.0, 6.0, 5.0], ROSE(2, 4, 40)),
        ([*BEFORE, 9.0, 4.0, 8.0, 4.0, 6.0, 4.0], ROSE(2, 4, 58)),
        # In at least three of ten: of four rises that is two, of ten three.
        ([*BEFORE, 7.0, 6.0, 8.0, 6.0, 5.0], ""),
        ([7.0] * 10 + [7, 6, 6, 9, 8, 7, 10, 9, 7, 9, 8], ROSE(3, 10, 34)),
        ([7.0] * 10 + [7, 6, 6, 9, 8, 7, 10, 9, 8, 7, 7], ""),
        # By more than a fifth of what the loss is on average: here 5 and 5.05.
        ([*BEFORE, 4.0, 5.0, 6.0, 5.0, 5.0], ""),
        ([*BEFORE, 4.0, 5.125, 6.125, 5.0, 5.0], ROSE(2, 4, 21)),
        # And as long as anything is left of the loss: above a twentieth of the first.
        ([100.0, *BEFORE[1:], 4.0, 6.0, 4.0, 6.0, 5.0], ""),
        ([99.0, *BEFORE[1:], 4.0, 6.0, 4.0, 6.0, 5.0], ROSE(2, 4, 40)),
        # Fewer than nine epochs say nothing yet.
        ([*BEFORE[1:], 4.0, 6.0, 4.0, 6.0, 5.0], ""),
        # It does not jump, but it has left the best behind: by more than three tenths of it, for three epochs.
        ([9.0, 8.0, 7.0, 4.0, 5.0, 5.25, 5.25, 5.25, 5.25], LOWEST(4, 1.3)),
        ([9.0, 8.0, 7.0, 4.0, 5.0, 5.25, 5.2, 5.2, 5.2], ""),
        ([9.0, 8.0, 7.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], LOWEST(4, 3.0)),
        ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 5.0, 6.0, 5.5], LOWEST(6, 1.4)),
        ([104.0, 8.0, 7.0, 4.0, 5.0, 5.25, 5.25, 5.25, 5.25], LOWEST(4, 1.3)),
        ([106.0, 8.0, 7.0, 4.0, 5.0, 5.25, 5.25, 5.25, 5.25], ""),
        ([9.0, 8.0, 7.0, 6.0, 5.0, 4.5, 4.0, 5.5, 5.75], ""),
        # What falls steeply to the end has left nothing behind, nor has what fell to 0.
        ([9.0, 8.5, 8.0, 7.5, 7.0, 6.5, 4.0, 2.0, 1.0], ""),
        ([9.0, 8.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], ""),
        # Falling, standing, rising by little.
        ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.25], ""),
        ([5.0] * 12, ""),
        ([5.0 + 0.05 * i for i in range(12)], ""),
    ],
)  # fmt: skip
def test_a_learning_rate_that_is_too_large_is_seen_in_the_losses(losses, evidence):
    net = MLP([1, 1], random_state=0)
    net.history["loss"] = losses
    found = [finding for finding in diagnose(net) if finding.kind == "too fast"]
    assert [finding.evidence for finding in found] == ([evidence] if evidence else [])
    assert all(finding.cure == 'lower the learning rate, or let it fall (schedule="cosine")' for finding in found)


def test_a_learning_rate_that_is_too_large_is_told_of_each_network():
    net = MLP([1, 1], n_networks=3, random_state=0)
    losses = [[*BEFORE, 4.0, 6.0, 4.0, 6.0, 5.0], [5.0] * 9, [*BEFORE, 2.0, 8.0, 2.0, 8.0, 5.0]]
    net.history["loss"] = np.array(losses).T.tolist()
    assert [(it.kind, it.network) for it in diagnose(net)] == [("too fast", 0), ("too fast", 2)]


@pytest.mark.parametrize(
    "ratios, evidence",
    [
        ([0.5, 0.5, 1.25, 1.5, 1.25], "each epoch moves the weights of layer 1 by 125 % of their size, to the end"),
        ([0.5, 0.5, 1.25, 1.5, 1.0], ""),
        ([0.5, 0.5, 1.0, 1.5, 1.25], ""),
        ([1.25, 1.5, 1.25], ""),  # three records may be the beginning
    ],
)
def test_a_learning_rate_that_is_too_large_is_seen_in_the_weights(ratios, evidence):
    net = MLP([1, 1], random_state=0)
    net.history |= {"loss": [5.0] * len(ratios), "health.epoch": list(range(1, len(ratios) + 1))}
    net.history["health.update_ratio.1"] = ratios
    assert [it.evidence for it in diagnose(net) if it.kind == "too fast"] == ([evidence] if evidence else [])


def test_a_learning_rate_just_above_what_a_quadratic_bears():
    # The error of y = w x, x = 1, is multiplied by 1 - rate in every step: by -1.05, and the loss by 1.1.
    x = np.ones((8, 1))
    net = MLP([1, 1], ["identity"], "squared_error", random_state=0)
    net.fit(x, 3.0 * x, epochs=12, optimizer="sgd", learning_rate=1.025)
    # W and b share the error, so each half of the rate: 1 - 2 * 1.025 = -1.05.
    (found,) = diagnose(net)
    assert found.evidence == "the loss was lowest in epoch 1 and is 2.7 times as large now"


def test_inputs_that_were_not_scaled():
    found = the_one(diagnose(trained([6, 16, 4], X=1000.0 * blobs()[0], epochs=3)), "unscaled inputs")
    assert re.match(
        r"the inputs reach \d\.\d+e\+03, and initial weights are made for inputs of about 1: scale", str(found)
    )


def test_one_batch_is_enough():
    X, Y = blobs()
    net = MLP([6, 20, 20, 4], "tanh", "cross_entropy", initializer=xpmlp.normal(5.0), random_state=0)
    assert "are saturated on this batch" in the_one(diagnose(net, X, Y), "saturated").evidence
    assert the_one(diagnose(net, X), "saturated").since is None
    assert repr(diagnose(net)).startswith("Nothing to complain about (loss curves only).\nNo layer was looked at.")


def test_of_many_networks_the_ill_one_is_named():
    X, Y = blobs()
    net = MLP([6, 16, 4], loss="cross_entropy", n_networks=3, random_state=0)
    b = [None, np.zeros((3, 1, 16)), np.zeros((3, 1, 4))]
    b[1][1] = -100.0
    net.set_weights(net.W[1:], b[1:])
    (found,) = diagnose(net, X, Y)
    assert (found.kind, found.network) == ("dead", 1)
    assert str(found).startswith("Network 1: 100 % of layer 1's units are dead on this batch")


def test_an_estimator_is_diagnosed_like_an_mlp():
    X, Y = blobs()
    reg = xpmlp.MLPRegressor(hidden_layer_sizes=(20, 10), activation="tanh", max_iter=3, initializer=xpmlp.normal(8.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three epochs do not converge
        reg.fit(X, Y[:, 0])
    assert "saturated" in diagnose(reg, X, Y[:, 0]).kinds


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=re.escape("an MLP or an estimator of xpmlp is needed here; got dict.")):
        diagnose({})
    with pytest.raises(ValueError, match=re.escape("this MLPClassifier has no weights yet; call its fit first.")):
        diagnose(xpmlp.MLPClassifier())


def test_a_rate_that_the_curvature_does_not_bear_is_told_before_the_loss_rises(rng):
    X, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    net = MLP([3, 1], random_state=0)
    steepest = xpmlp.curvature(net, X, y)
    for share, told in ((0.9, False), (1.05, False), (1.5, True)):
        net.initialize()
        net.forward(X)
        net.backward(y)
        net.update(2.0 * share / steepest)
        found = [finding for finding in diagnose(net, X, y) if finding.kind == "too sharp"]
        assert bool(found) == told
    assert "is 3 on this batch" in str(found[0])
    assert "too sharp" not in diagnose(net, X).kinds  # without y nothing is known of the loss
    net.fit(X, y, epochs=1, optimizer="adam", learning_rate=10.0)
    assert "too sharp" not in diagnose(net, X, y).kinds  # of adam it says little
    net.initialize().fit(X, y, epochs=1, optimizer="sgd", learning_rate=3.0 / steepest)
    assert "too sharp" in diagnose(net, X, y).kinds
    net.initialize().fit(X, y, epochs=1, optimizer="sgd", learning_rate=3.0 / steepest, learning_rate_factors=[0.1])
    assert "too sharp" not in diagnose(net, X, y).kinds


def test_an_estimator_of_plain_descent_is_held_against_the_curvature(rng):
    X, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    for momentum, told in ((0.0, True), (0.9, False)):
        reg = xpmlp.MLPRegressor(hidden_layer_sizes=(3,), solver="sgd", momentum=momentum, learning_rate_init=1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reg.set_params(max_iter=1, random_state=0).fit(X, y)
        reg.learning_rate_init = 100.0  # the rate of the fit to come
        assert ("too sharp" in diagnose(reg, X, y).kinds) == told
