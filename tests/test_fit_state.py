"""State knows what it is a state of: checkpoints, what callbacks set, histories, warnings, and an MLP's L-BFGS."""

import re
import signal
import warnings

import numpy as np
import pytest

import xpmlp
from xpmlp import MLP, DivergenceWarning, MLPRegressor
from xpmlp.training import checkpoints

SIZES = [3, 6, 1]


@pytest.fixture
def data(rng):
    X = rng.normal(size=(40, 3))
    return X, np.sin(X[:, :1] * X[:, 1:2])


def net(**options):
    return MLP(SIZES, "tanh", random_state=0, **options)


def epochs_in(folder):
    return checkpoints.read(folder, net().place, "float64").snapshot.epoch


# --- The last epoch is in the checkpoint ---


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("every", [1, 2, 3, 10])
def test_the_last_epoch_is_in_the_checkpoint(optimizer, every, data, tmp_path):
    net().fit(*data, epochs=5, optimizer=optimizer, checkpoint=tmp_path, checkpoint_every=every)
    assert epochs_in(tmp_path) == 5


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_run_that_ended_goes_on_to_more_epochs_as_if_it_had_not(every, data, tmp_path):
    straight = net().fit(*data, epochs=7)
    net().fit(*data, epochs=5, checkpoint=tmp_path, checkpoint_every=every)
    longer = net().fit(*data, epochs=7, checkpoint=tmp_path, checkpoint_every=every, resume=True)
    np.testing.assert_array_equal(longer.parameters, straight.parameters)
    assert longer.history == straight.history


@pytest.mark.parametrize("every", [1, 4])
def test_an_interrupt_in_a_callback_leaves_the_epoch_that_was_whole(every, data, tmp_path):
    def interrupt(net, epoch, logs):
        if epoch == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match="interrupted by user in epoch 3"):
        net().fit(*data, epochs=6, callbacks=[interrupt], checkpoint=tmp_path, checkpoint_every=every)
    assert epochs_in(tmp_path) == 3
    went_on = net().fit(*data, epochs=6, checkpoint=tmp_path, checkpoint_every=every, resume=True)
    np.testing.assert_array_equal(went_on.parameters, net().fit(*data, epochs=6).parameters)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_an_interrupt_that_a_callback_raises_keeps_its_epoch(optimizer, data):
    def interrupt(net, epoch, logs):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted by user in epoch 3"):
        fitted = net().fit(*data, epochs=6, optimizer=optimizer, callbacks=[interrupt])
    straight = net().fit(*data, epochs=3, optimizer=optimizer)
    np.testing.assert_array_equal(fitted.parameters, straight.parameters)
    assert len(fitted.history["loss"]) == 3


def test_an_epoch_that_was_broken_off_is_not_in_the_checkpoint(data, tmp_path):
    asked = []

    def interrupting(progress):
        if progress.epoch > 2.3 and not asked:  # in the midst of the third epoch
            asked.append(progress)
            signal.raise_signal(signal.SIGINT)
        return 1.0

    arguments = {"epochs": 4, "batch_size": 8, "schedule": interrupting}
    with pytest.warns(UserWarning, match="interrupted by user in epoch 3"):
        net().fit(*data, checkpoint=tmp_path, **arguments)
    assert epochs_in(tmp_path) == 2
    resumed = net().fit(*data, checkpoint=tmp_path, resume=True, **arguments)
    np.testing.assert_array_equal(resumed.parameters, net().fit(*data, **arguments).parameters)


def test_a_callback_that_fails_where_patience_runs_out_does_not_hide_that_it_has(data, tmp_path):
    X, y = data
    stopping = {"early_stopping": True, "patience": 1, "learning_rate": 0.5, "optimizer": "sgd"}
    straight = net().fit(X, y, epochs=200, **stopping)
    stopped = len(straight.history["loss"])
    assert stopped < 200

    def fail(net, epoch, logs):
        if epoch == stopped:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        net().fit(X, y, epochs=200, callbacks=[fail], checkpoint=tmp_path, **stopping)
    resumed = net().fit(X, y, epochs=200, checkpoint=tmp_path, resume=True, **stopping)
    assert len(resumed.history["loss"]) == stopped
    np.testing.assert_array_equal(resumed.parameters, straight.parameters)


# --- A folder is of one run ---


def test_another_run_is_refused_unless_told(data, tmp_path):
    X, y = data
    first = net().fit(X, y, epochs=2, checkpoint=tmp_path)
    net().fit(X, y, epochs=2, checkpoint=tmp_path)  # the same run once more
    for other in ({"learning_rate": 0.5}, {"batch_size": 8}):
        with pytest.raises(ValueError, match=re.escape("holds the checkpoint of another run")):
            net().fit(X, y, epochs=2, checkpoint=tmp_path, **other)
    with pytest.raises(ValueError, match=re.escape("say overwrite=True")):
        net().fit(X, y + 1.0, epochs=2, checkpoint=tmp_path)
    np.testing.assert_array_equal(xpmlp.load(tmp_path / "last.safetensors").parameters, first.parameters)
    told = net().fit(X, y + 1.0, epochs=2, checkpoint=tmp_path, overwrite=True)
    np.testing.assert_array_equal(xpmlp.load(tmp_path / "last.safetensors").parameters, told.parameters)


# --- What a callback sets ---

SETTERS = {
    "parameters": lambda it: setattr(it, "parameters", 0.5 * it.parameters),
    "set_weights": lambda it: it.set_weights([0.5 * W for W in it.W[1:]], [0.5 * b for b in it.b[1:]]),
}


@pytest.mark.parametrize("how", SETTERS)
@pytest.mark.parametrize("m", [None, 2])
def test_parameters_that_a_callback_sets_are_trained_on(how, m, data, backend):
    X, y = map(backend.put, data)
    place = {"backend": backend.place.backend.name, "device": backend.place.device_name}
    place |= {"dtype": backend.dtypes[0], "n_networks": m}
    arguments = {"batch_size": None, "optimizer": "sgd", "learning_rate": 0.1}

    def halve(it, epoch, logs):
        if epoch == 2:
            SETTERS[how](it)

    fitted = net(**place).fit(X, y, epochs=3, callbacks=[halve], **arguments)
    by_hand = net(**place).fit(X, y, epochs=2, **arguments)
    by_hand.parameters = 0.5 * by_hand.parameters
    by_hand.fit(X, y, epochs=1, **arguments)
    backend.assert_close(fitted.parameters, backend.get(by_hand.parameters), rtol=1e-6)
    assert float(np.max(np.abs(backend.get(fitted.parameters)))) < 3.0


def test_parameters_that_a_callback_sets_are_the_average_too(data):
    # An average that went on from what it was would bring back a share of the parameters that were replaced.
    arguments = {"optimizer": "sgd", "learning_rate": 1e-12, "average": 2.0}

    def set_to_2(it, epoch, logs):
        if epoch == 2:
            it.parameters = 0.0 * it.parameters + 2.0

    fitted = net().fit(*data, epochs=4, callbacks=[set_to_2], **arguments)
    np.testing.assert_allclose(fitted.parameters, 2.0, rtol=1e-9)


def test_parameters_set_after_the_last_epoch_are_those_that_stay(data):
    fitted = net().fit(*data, epochs=1, callbacks=[lambda it, *_: setattr(it, "parameters", 0.0 * it.parameters)])
    np.testing.assert_array_equal(fitted.parameters, 0.0)


def test_a_callback_that_measures_adds_to_the_history(data):
    class Norm:
        def measure(self, it):
            return {"norm": float(np.linalg.norm(it.parameters))}

        def __call__(self, it, epoch, logs):
            assert logs["norm"] == float(np.linalg.norm(it.parameters))

    fitted = net().fit(*data, epochs=3).fit(*data, epochs=2, callbacks=[Norm()])
    assert np.isnan(fitted.history["norm"]).tolist() == [True, True, True, False, False]
    assert fitted.history["norm"][-1] == np.linalg.norm(fitted.parameters)


def test_every_curve_is_as_long_as_the_history(data):
    # Nobody measures in the second fit what was measured in the first.
    fitted = net().fit(*data, epochs=2, early_stopping=True, patience=9).fit(*data, epochs=3)
    assert {len(curve) for curve in fitted.history.values()} == {5}
    assert np.isnan(fitted.history["validation_loss"]).tolist() == [False, False, True, True, True]


# --- A best value is the best of one quantity ---

QUANTITIES = {
    "the loss": {},
    "the score": {"early_stopping": True},
    "the loss held out": {"early_stopping": True, "scoring": "loss"},
    "another loss": {"loss": "absolute_error"},
    "with a penalty": {"alpha": 5.0},
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("second", QUANTITIES)
@pytest.mark.parametrize("first", QUANTITIES)
def test_a_best_value_is_of_what_is_monitored_now(first, second, data):
    X, y = 4.0 * data[0], 9.0 * data[1][:, 0]
    usual = {"loss": "squared_error", "early_stopping": False, "scoring": None, "alpha": 0.0}
    model = MLPRegressor(hidden_layer_sizes=(6,), max_iter=4, random_state=0, warm_start=True)
    for parameters in (QUANTITIES[first], QUANTITIES[second]):
        model.set_params(**usual | parameters).fit(X, y)
    if model.early_stopping:
        curve, found, best = model.validation_scores_, model.best_validation_score_, max
    else:
        curve, found, best = model.loss_curve_, model.best_loss_, min
    # An equal quantity is carried on: its best is that of both fits.
    assert found == best(curve if first == second else curve[-4:])


# --- What is held out has weight ---


@pytest.mark.parametrize("seed", range(8))
def test_samples_without_weight_are_not_held_out(seed, data):
    X, y = data
    w = np.zeros(40)
    w[seed : seed + 4] = 1.0
    fitted = MLP(SIZES, "tanh", random_state=seed).fit(X, y, epochs=4, sample_weight=w, early_stopping=True)
    assert min(fitted.history["validation_loss"]) > 0.0
    assert min(fitted.history["loss"]) > 0.0


def test_too_few_samples_with_weight_are_told(data):
    with pytest.raises(ValueError, match=re.escape("of 1 samples with weight leaves none to train on")):
        net().fit(*data, sample_weight=np.eye(1, 40)[0], early_stopping=True)


# --- Warnings come last ---


def test_a_warning_that_is_an_error_leaves_what_was_learned(data):
    X, y = data
    fitted = net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DivergenceWarning):
            fitted.fit(X, y, epochs=5, optimizer="sgd", learning_rate=1e200)
    assert len(fitted.history["loss"]) >= 1


# --- L-BFGS ---


def test_lbfgs_has_validation_callbacks_checkpoints_and_goes_on(data, tmp_path):
    X, y = data
    seen = []
    straight = net().fit(
        *(X, y),
        epochs=30,
        optimizer="lbfgs",
        validation_data=(X[:9], y[:9]),
        callbacks=[lambda it, epoch, logs: seen.append((epoch, logs["validation_loss"]))],
    )
    assert straight.history["loss"][-1] < 0.1 * straight.history["loss"][0]
    assert [epoch for epoch, _ in seen] == list(range(1, len(straight.history["loss"]) + 1))
    assert straight.history["validation_loss"][-1] == pytest.approx(straight.evaluate(X[:9], y[:9]))
    arguments = {"optimizer": "lbfgs", "validation_data": (X[:9], y[:9]), "checkpoint": tmp_path}
    net().fit(X, y, epochs=11, **arguments)
    resumed = net().fit(X, y, epochs=30, resume=True, **arguments)
    np.testing.assert_array_equal(resumed.parameters, straight.parameters)
    again = xpmlp.resume(tmp_path, X, y, validation_data=(X[:9], y[:9]))
    np.testing.assert_array_equal(again.parameters, straight.parameters)


def test_lbfgs_finds_the_minimum_that_scikit_learn_finds(data):
    # A network without hidden layers is least squares with a penalty.
    X, y = data
    fitted = MLP([3, 1], random_state=0).fit(X, y, epochs=200, optimizer="lbfgs", l2=1.0)
    centred, mean = X - X.mean(axis=0), y.mean()
    W = np.linalg.solve(centred.T @ centred + np.eye(3), centred.T @ (y - mean))
    np.testing.assert_allclose(fitted.W[1], W, atol=1e-4)


def test_lbfgs_stops_early_and_by_time(data):
    X, y = data
    stopped = net().fit(X, y, epochs=500, optimizer="lbfgs", early_stopping=True, patience=3)
    assert len(stopped.history["loss"]) < 500
    best = min(stopped.history["validation_loss"])
    assert best < stopped.history["validation_loss"][-1]
    assert len(net().fit(X, y, epochs=500, optimizer="lbfgs", max_time=1e-9).history["loss"]) == 1


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"n_networks": 2}, {}, "lbfgs trains one network at a time; this MLP has 2."),
        ({"dropout": 0.5}, {}, "dropout makes the loss change from call to call"),
        ({}, {"learning_rate": 0.1, "clip_norm": 1.0}, "leave out learning_rate and clip_norm."),
        ({}, {"schedule": "cosine"}, "leave out schedule."),
        ({}, {"average": 2.0}, "leave out average."),
    ],
)
def test_what_lbfgs_cannot_do_is_told(options, arguments, message, data):
    with pytest.raises(ValueError, match=re.escape(message)):
        net(**options).fit(*data, optimizer="lbfgs", **arguments)
