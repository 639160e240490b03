"""Training: when it stops, what it ends with, what it says. Where the loop alone is meant, a make-believe runner."""

import re
import signal
import time
import warnings

import numpy as np
import pytest
from witnesses import mlp

from xpmlp import MLP, DivergenceError, DivergenceWarning
from xpmlp.backends import BACKENDS, Place
from xpmlp.network.parameters import Layout
from xpmlp.optim.schedules import SCHEDULES
from xpmlp.runners.step import State
from xpmlp.training.loop import Plan, Standing, train

LAYOUT = Layout((1, 1))  # W[1] and b[1]: two numbers
PASSED_ON = ("validate", "validate_point", "greater_is_better", "on_epoch", "on_snapshot")  # to train, not to its plan


class Script:
    """A runner that plays: in epoch e every parameter becomes e, and the loss is what the script says."""

    name = "script"

    def __init__(self, losses):
        self.losses, self.epochs, self.rates = np.asarray(losses, dtype=float), 0, []

    def epoch(self, state, order, rate_of, interrupted):
        loss = self.losses[self.epochs]
        self.epochs += 1
        self.rates.append(rate_of(0))
        p = state.p
        p[...] = np.where(np.isnan(loss)[..., None], np.nan, self.epochs)
        for average in state.slots:  # of a plan that is averaged
            average[...] = self.epochs
        return State(p, state.slots, state.t + 2), loss


def play(losses, networks=None, **options):
    """Train by the script, from parameters 0; the result and the runner."""
    arguments = {name: options.pop(name) for name in PASSED_ON if name in options}
    plan = Plan(
        n_epochs=options.pop("n_epochs", len(losses)),
        learning_rate=1.0,
        schedule=options.pop("schedule", SCHEDULES["constant"]),
        n_batches=2,
        n_samples=10,
        **options,
    )
    runner = Script(losses)
    p = np.zeros(2 if networks is None else (networks, 2))
    slots = (np.zeros_like(p),) if plan.averaged else ()
    place = Place(BACKENDS["numpy"], np, "cpu")
    result = train(runner, State(p, slots, 0), plan, place, LAYOUT, orders=lambda: None, **arguments)
    for message, category in result.notes:  # as faces do
        warnings.warn(message, category, stacklevel=1)
    return result, runner


# --- Stopping ---


def test_without_a_reason_to_stop_all_epochs_are_done_and_the_last_weights_kept():
    result, _ = play([3.0, 2.0, 2.5])
    assert (result.epochs, result.stopped_by, result.state.t) == (3, "epochs", 6)
    np.testing.assert_array_equal(result.p, [3.0, 3.0])


def test_patience_counts_the_epochs_that_did_not_improve_and_the_best_weights_come_back():
    result, runner = play([3.0, 2.0, 2.5, 2.0, 2.1, 1.0], patience=2, keep_best=True)
    # The best so far is that of epoch 2. To equal it, with tol = 0, is to wait no longer; it is no better either.
    assert (result.epochs, result.stopped_by, float(result.best)) == (6, "epochs", 1.0)
    result, runner = play([3.0, 2.0, 2.5, 2.2, 2.1, 1.0], patience=2, keep_best=True)
    assert (result.epochs, result.stopped_by, float(result.best)) == (5, "patience", 2.0)
    np.testing.assert_array_equal(result.p, [2.0, 2.0])
    assert runner.epochs == 5


def test_an_improvement_below_tol_is_waiting_but_still_the_best():
    result, _ = play([3.0, 2.95, 2.9, 2.85, 1.0], patience=2, tol=0.5, keep_best=True)
    assert (result.epochs, result.stopped_by) == (4, "patience")
    np.testing.assert_array_equal(result.p, [4.0, 4.0])


def test_without_keep_best_patience_ends_with_the_last_weights():
    result, _ = play([1.0, 2.0, 2.0, 2.0], patience=1)
    assert (result.epochs, result.stopped_by) == (3, "patience")
    np.testing.assert_array_equal(result.p, [3.0, 3.0])


@pytest.mark.parametrize("networks", [None, 2])
@pytest.mark.parametrize(("averaged", "best"), [(False, 2.0), (True, 4.0)])
def test_of_equal_epochs_the_first_is_the_best_of_weights_and_the_last_of_averages(averaged, best, networks):
    values = iter([3.0, 1.0, 2.0, 1.0, 2.0])
    lead = () if networks is None else (networks,)
    result, _ = play(
        np.ones((5, *lead)),
        networks,
        keep_best=True,
        averaged=averaged,
        validate=lambda p: np.full(lead, next(values)),
        patience=9,
    )
    np.testing.assert_array_equal(result.p, np.full((*lead, 2), best))


@pytest.mark.parametrize(("points", "epochs"), [(range(8), 4), ([9.0, 9.5, 8.0, 7.0, 7.5, 7.6, 7.7, 0.0], 7)])
def test_patience_lasts_while_the_weights_or_their_average_improve(points, epochs):
    averages, points = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]), iter(points)
    # Alone, the average (best in epoch 2) or the weights (in epoch 4) are waited for until 2 and 3 epochs later.
    result, _ = play(
        [1.0] * 8,
        patience=1 if epochs == 4 else 2,
        keep_best=True,
        averaged=True,
        validate=lambda p: np.asarray(next(averages)),
        validate_point=lambda p: np.asarray(next(points)),
    )
    assert (result.epochs, result.stopped_by) == (epochs, "patience")
    np.testing.assert_array_equal(result.p, [2.0, 2.0])  # whoever was waited for, the average is kept


def test_training_may_end_before_the_end_of_its_schedule():
    ((_, runner), (_, whole)) = (play([1.0] * 6, n_epochs=n, planned=6, schedule=SCHEDULES["cosine"]) for n in (3, 6))
    assert runner.rates == whole.rates[:3]


def test_a_validation_score_is_watched_in_its_own_direction():
    scores = iter([0.5, 0.9, 0.7, 0.6, 0.8])
    result, _ = play(
        [1.0] * 5, patience=1, keep_best=True, validate=lambda p: np.asarray(next(scores)), greater_is_better=True
    )
    assert (result.epochs, float(result.best)) == (4, 0.9)
    np.testing.assert_array_equal(result.p, [2.0, 2.0])


def test_networks_stop_one_by_one_each_with_its_own_best_weights():
    losses = [[3.0, 3.0, 3.0], [2.0, 4.0, 2.0], [2.5, 2.0, 1.0], [2.6, 2.5, 0.5], [0.1, 2.6, 0.4], [0.1, 1.0, 0.3]]
    result, runner = play(losses, networks=3, patience=1, keep_best=True)
    # Network 0 stops after epoch 4: what it would have reached in epoch 5 is not its own any more.
    np.testing.assert_array_equal(result.p, [[2.0, 2.0], [3.0, 3.0], [6.0, 6.0]])
    np.testing.assert_array_equal(result.best, [2.0, 2.0, 0.3])
    assert (runner.epochs, result.stopped_by) == (6, "epochs")
    result, runner = play(losses, networks=3, patience=1)
    np.testing.assert_array_equal(result.p, [[4.0, 4.0], [5.0, 5.0], [6.0, 6.0]])


def test_dividing_the_rate_on_a_plateau_goes_on_at_a_fifth():
    result, runner = play([1.0] + [2.0] * 11, patience=1, on_plateau="divide")
    np.testing.assert_allclose(
        runner.rates, [1.0] * 3 + [0.2] * 2 + [0.04] * 2 + [0.008] * 2 + [0.0016] * 2 + [0.00032]
    )
    assert result.stopped_by == "epochs"


def test_dividing_the_rate_does_not_wake_a_network_that_has_diverged():
    losses = np.full((9, 2), [2.0, np.nan])
    losses[0] = 1.0
    with pytest.warns(DivergenceWarning) as caught:
        result, _ = play(losses, networks=2, patience=1, on_plateau="divide")
    assert len(caught) == 1
    np.testing.assert_array_equal(result.p, [[9.0, 9.0], [1.0, 1.0]])


def test_a_callback_that_returns_true_stops_and_all_callbacks_are_called():
    seen = []
    result, _ = play(
        [3.0, 2.0, 1.0], on_epoch=[lambda report: report.epoch == 2, lambda report: seen.append(report.epoch)]
    )
    assert (result.epochs, result.stopped_by, seen) == (2, "callback", [1, 2])
    assert play([3.0, 2.0], on_epoch=[lambda report: "yes"])[0].stopped_by == "epochs", "only True is True"


def test_no_epoch_begins_after_max_time():
    result, _ = play([1.0] * 1000, max_time=0.02, on_epoch=[lambda report: time.sleep(0.015)])
    assert result.stopped_by == "time"
    assert result.epochs <= 3


def test_a_report_says_what_the_epoch_was():
    reports = []
    play([3.0, 2.0], validate=lambda p: np.asarray(p[0] + 0.5), on_epoch=[lambda report: reports.append(report[:4])])
    assert [tuple(map(float, report)) for report in reports] == [(1.0, 3.0, 1.5, 1.0), (2.0, 2.0, 2.5, 1.0)]


def test_a_new_optimizer_begins_at_the_full_rate_and_goes_on_where_the_samples_stand():
    def rates_of(t, epochs=3):
        plan = Plan(epochs, 1.0, SCHEDULES["inverse_scaling"], n_batches=2, n_samples=10)
        runner, place = Script([1.0] * epochs), Place(BACKENDS["numpy"], np, "cpu")
        begun = State(np.zeros(2), (), t)
        train(runner, begun, plan, place, LAYOUT, orders=lambda: None, standing=Standing(samples=30))
        return runner.rates

    # 1 / sqrt(samples + 1), after the 30 samples of an earlier fit, at 10 an epoch
    np.testing.assert_allclose(rates_of(t=0), [1.0, 41**-0.5, 51**-0.5], rtol=1e-15)
    np.testing.assert_allclose(rates_of(t=6), [31**-0.5, 41**-0.5, 51**-0.5], rtol=1e-15)


@pytest.mark.parametrize("keep_best", [False, True])
@pytest.mark.parametrize("networks", [None, 2])
def test_what_a_snapshot_keeps_is_no_memory_that_the_next_step_writes_into(networks, keep_best):
    seen = []

    def look(snapshot, last):
        for name in ("safe", "final"):
            kept = getattr(snapshot, name)
            if kept is not None:
                assert not np.shares_memory(kept, snapshot.state.p), (name, snapshot.epoch)
                seen.append((name, snapshot.epoch))

    # All networks tire together, twice, and the plan goes on at a lower rate.
    losses = np.array([1.0, 2.0, 2.0, 2.0, 0.5, 2.0, 2.0, 2.0])
    losses = losses if networks is None else np.stack([losses, losses], axis=1)
    play(losses, networks, patience=1, on_plateau="divide", keep_best=keep_best, on_snapshot=look)
    assert {("final", 3), ("final", 7), ("safe", 5)} <= set(seen)


# --- Divergence ---


def test_the_guard_puts_the_best_finite_weights_back_and_says_where_and_when():
    with pytest.warns(DivergenceWarning) as caught:
        result, runner = play([3.0, 2.0, 2.5, np.nan, 1.0])
    assert (result.epochs, result.stopped_by, runner.epochs) == (4, "divergence", 4)
    np.testing.assert_array_equal(result.p, [2.0, 2.0])
    assert str(caught[0].message) == (
        "Training diverged in epoch 4: layer 1 holds weights that are not finite. Lower the learning rate (it was 1), "
        "scale the inputs and targets to about unit variance, or clip the gradient norm (clip_norm=1.0). "
        "The best finite weights were put back."
    )


def test_a_training_that_diverges_at_once_ends_where_it_began():
    with pytest.warns(DivergenceWarning, match=re.escape("diverged in epoch 1")):
        result, _ = play([np.nan])
    np.testing.assert_array_equal(result.p, [0.0, 0.0])


def test_only_the_network_that_diverges_is_put_back():
    losses = [[3.0, 3.0], [2.0, 2.0], [1.0, np.nan], [0.5, np.nan]]
    with pytest.warns(DivergenceWarning, match=re.escape("Training of network 1 diverged in epoch 3")) as caught:
        result, _ = play(losses, networks=2)
    assert len(caught) == 1, "said once, not in every epoch that follows"
    assert result.stopped_by == "epochs"
    np.testing.assert_array_equal(result.p, [[4.0, 4.0], [2.0, 2.0]])


def test_the_guard_raises_where_it_is_asked_to():
    with pytest.raises(DivergenceError, match=re.escape("Training diverged in epoch 2: layer 1 holds weights")):
        play([1.0, np.nan], on_divergence="raise")


def problem(rng, scale=1.0):
    X = scale * rng.normal(size=(20, 3))
    return X, X[:, :1] - X[:, 1:2] * X[:, 2:]


def test_a_diverging_fit_warns_in_our_words_only_and_stays_usable(backend, rng):
    X, y = map(backend.put, problem(rng, scale=100.0))
    net = mlp(backend, [3, 5, 1], "relu")
    with pytest.warns(DivergenceWarning) as caught:
        net.fit(X, y, epochs=50, batch_size=7, optimizer="sgd", learning_rate=10.0)
    assert [it.category for it in caught] == [DivergenceWarning], "NumPy's warnings on the way there are noise"
    assert re.match(
        r"Training diverged in epoch \d+: layer 1 holds weights that are not finite. Lower", str(caught[0].message)
    )
    assert np.all(np.isfinite(backend.get(net.predict(X))))


def test_a_fit_that_raises_on_divergence_leaves_the_network_as_it_was(backend, rng):
    X, y = map(backend.put, problem(rng, scale=100.0))
    net, twin = mlp(backend, [3, 5, 1], "relu"), mlp(backend, [3, 5, 1], "relu")
    with pytest.raises(DivergenceError):
        net.fit(X, y, epochs=50, batch_size=7, optimizer="sgd", learning_rate=10.0, on_divergence="raise")
    assert net.history == {}
    np.testing.assert_array_equal(backend.get(net.parameters), backend.get(twin.parameters))
    for one in (net, twin):  # the orders that were drawn have been put back, too
        one.fit(X, y, epochs=1, batch_size=7, learning_rate=1e-5)
    np.testing.assert_array_equal(backend.get(net.parameters), backend.get(twin.parameters))


def test_a_diverging_network_leaves_the_others_alone(rng):
    X, y = problem(rng)
    factor = np.where(np.arange(3) == 1, 1e160, 1.0)[:, None, None]  # the squares of network 1 overflow
    options = {"epochs": 4, "batch_size": 7, "shuffle": False}
    with pytest.warns(DivergenceWarning, match="Training of network 1 diverged in epoch 1"):
        net = MLP([3, 5, 1], "tanh", n_networks=3, random_state=0).fit(factor * X, factor * y, **options)
    for i in (0, 2):
        alone = MLP([3, 5, 1], "tanh", random_state=net.seeds[i]).fit(X, y, **options)
        np.testing.assert_allclose(net.parameters[i], alone.parameters, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(net.parameters[1], MLP([3, 5, 1], "tanh", random_state=net.seeds[1]).parameters)


# --- Ctrl-C ---


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_a_callback_keeps_what_was_learned_and_warns(backend, rng):
    X, y = map(backend.put, problem(rng))
    net, twin = mlp(backend, [3, 5, 1]), mlp(backend, [3, 5, 1])
    with pytest.warns(
        UserWarning, match=re.escape("Training interrupted by user in epoch 2; what was learned is kept.")
    ):
        net.fit(X, y, epochs=9, batch_size=7, callbacks=[lambda net, epoch, logs: epoch == 2 and press_ctrl_c()])
    twin.fit(X, y, epochs=2, batch_size=7)
    assert len(net.history["loss"]) == 2
    np.testing.assert_array_equal(backend.get(net.parameters), backend.get(twin.parameters))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_the_last_epoch_is_heard(rng):
    with pytest.warns(UserWarning, match=re.escape("interrupted by user in epoch 3")):
        MLP([3, 1]).fit(*problem(rng), epochs=3, callbacks=[lambda net, epoch, logs: epoch == 3 and press_ctrl_c()])


def pressing(at_call):
    """A tanh in the middle of whose `at_call`-th call somebody presses Ctrl-C."""
    calls = []

    def own(z):
        calls.append(1)
        if len(calls) in at_call:
            press_ctrl_c()
        return np.tanh(z)

    return own, lambda z, a: 1 - a * a


def test_ctrl_c_in_the_middle_of_a_step_lets_the_step_end(rng):
    X, y = problem(rng)
    # 20 samples in batches of 7 are 3 steps; the fifth forward pass is the second step of epoch 2.
    net = MLP([3, 5, 1], [pressing({5}), "identity"], random_state=0)
    with pytest.warns(
        UserWarning, match=re.escape("Training interrupted by user in epoch 2; what was learned is kept.")
    ):
        net.fit(X, y, epochs=9, batch_size=7, shuffle=False)
    assert len(net.history["loss"]) == 1, "an epoch that was broken off is not reported"


def test_ctrl_c_keeps_exactly_the_steps_that_were_done(rng):
    X, y = problem(rng)
    options = {"batch_size": 7, "shuffle": False, "optimizer": "sgd", "learning_rate": 0.1}
    net = MLP([3, 5, 1], [pressing({2}), "identity"], random_state=0)
    with pytest.warns(UserWarning, match="in epoch 1"):
        net.fit(X, y, epochs=9, **options)
    twin = MLP([3, 5, 1], ["tanh", "identity"], random_state=0)
    for rows in (slice(0, 7), slice(7, 14)):
        twin.forward(X[rows])
        twin.backward(y[rows])
        twin.update(0.1)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=0, atol=1e-15)


@pytest.mark.parametrize("where", ["callback", "step"])
def test_a_second_ctrl_c_strikes_at_once_and_leaves_the_old_network(where, rng):
    X, y = problem(rng)

    def press_in_step(z, calls=[]):  # noqa: B006 - it is to remember
        calls.append(1)
        if where == "step" and len(calls) == 5:
            press_ctrl_c()
            press_ctrl_c()
        return np.tanh(z)

    def press_twice(net, epoch, logs):
        if where == "callback" and epoch == 2:
            press_ctrl_c()
            press_ctrl_c()

    net = MLP([3, 5, 1], [(press_in_step, lambda z, a: 1 - a * a), "identity"], random_state=0)
    before = net.parameters.copy()
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, y, epochs=9, batch_size=7, callbacks=[press_twice])
    np.testing.assert_array_equal(net.parameters, before)
    assert net.history == {}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_somebody_elses_handler_of_ctrl_c_is_left_in_place(rng):
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        MLP([3, 1]).fit(*problem(rng), epochs=3, callbacks=[lambda net, epoch, logs: press_ctrl_c()])
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(heard) == 3


# --- The epoch ---


def test_the_loss_of_an_epoch_is_the_mean_over_samples_not_over_batches(backend, rng):
    X, y = problem(rng)
    # 20 samples in batches of 7: 7, 7 and 6. At a rate of (almost) nothing the loss is that of the whole data.
    for w in (None, rng.random(20), np.where(np.arange(20) < 7, 0.0, 1.0)):
        net = mlp(backend, [3, 5, 1], "tanh")
        weights = None if w is None else backend.put(w)
        expected = net.evaluate(backend.put(X), backend.put(y), weights)
        net.fit(
            backend.put(X),
            backend.put(y),
            epochs=1,
            batch_size=7,
            optimizer="sgd",
            learning_rate=1e-30,
            sample_weight=weights,
        )
        assert net.history["loss"][0] == pytest.approx(expected, rel=1e-13 if backend.float64 else 1e-6)


def test_the_last_batch_is_kept_however_short(rng):
    X, y = problem(rng)
    X[-1] = 0.0
    seen = []
    spy = (lambda z: (seen.append(len(z)), z)[1], lambda z, a: np.ones_like(z))
    MLP([3, 1], [spy]).fit(X, y, epochs=1, batch_size=19)
    assert seen[:2] == [19, 1]


def test_every_sample_is_seen_once_per_epoch_in_an_order_that_changes(rng):
    seen = []
    X = np.arange(20.0)[:, None]
    net = MLP([1, 1], [(lambda z: (seen.append(z[:, 0].copy()), z)[1], lambda z, a: np.ones_like(z))], random_state=0)
    net.set_weights([[[1.0]]], [[0.0]])
    net.fit(X, X, epochs=2, batch_size=6)  # the loss is 0: nothing moves, and z is x
    first, second = np.concatenate(seen[:4]), np.concatenate(seen[4:8])
    np.testing.assert_array_equal(np.sort(first), np.arange(20.0))
    np.testing.assert_array_equal(np.sort(second), np.arange(20.0))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(20.0))
