"""Schedules: end points, monotony, bounds, and how often they are asked."""

import re

import numpy as np
import pytest

from xpmlp import MLP
from xpmlp.optim.schedules import SCHEDULES, Progress, schedule

N = 50


def at(row, epoch, samples=0):
    return row(Progress(step=int(epoch * 4), epoch=epoch, samples=samples, n_epochs=N))


def curve(row):
    """The factor at every quarter of an epoch; 100 samples an epoch."""
    return np.array([at(row, step / 4, 100 * (step // 4)) for step in range(4 * N + 1)])


@pytest.mark.parametrize("row", SCHEDULES.values(), ids=lambda row: row.name)
def test_factors_are_python_floats_between_0_and_1(row):
    values = curve(row)
    assert all(type(at(row, epoch)) is float for epoch in (0, 0.25, 1, N))
    assert np.all((values >= 0.0) & (values <= 1.0))


@pytest.mark.parametrize("name", ["constant", "inverse_scaling", "step", "exponential", "cosine"])
def test_what_decays_begins_at_1_and_never_rises(name):
    values = curve(SCHEDULES[name])
    assert values[0] == 1.0
    assert np.all(np.diff(values) <= 0.0)


def test_warm_up_never_falls_and_ends_at_1():
    values = curve(SCHEDULES["warm_up"])
    assert values[0] == 0.01
    assert np.all(np.diff(values) >= 0.0)
    np.testing.assert_array_equal(values[20:], 1.0)  # 5 epochs of 4 steps
    assert at(SCHEDULES["warm_up"], 2.5) == 0.5
    assert at(schedule("warm_up", warmup=0), 0.0) == 1.0


def test_one_cycle_rises_to_1_at_its_peak_and_falls_to_its_end():
    row = schedule("one_cycle", peak=0.2, start=0.1, final=0.01)
    values = curve(row)
    assert values.argmax() == 4 * N * 0.2
    assert np.all(np.diff(values[:41]) > 0)
    assert np.all(np.diff(values[40:]) < 0)
    np.testing.assert_allclose([values[0], values.max(), values[-1]], [0.1, 1.0, 0.01], rtol=1e-12)


def test_one_cycle_rises_along_a_line_that_begins_no_lower_than_its_start():
    row = schedule("one_cycle", peak=0.2, start=0.1, final=0.0, rise="linear")
    assert [at(row, epoch) for epoch in (0, 0.5, 2.5, 7.5)] == pytest.approx([0.1, 0.1, 0.25, 0.75])
    assert at(row, 10) == 1.0
    assert at(row, 30) == pytest.approx(0.5)  # half of the way down a cosine
    with pytest.raises(ValueError, match="rise must be"):
        schedule("one_cycle", rise="quick")


def test_values_worked_by_hand():
    assert at(schedule("step", every=10, gamma=0.1), 29.75) == pytest.approx(0.01)
    assert at(schedule("exponential", gamma=0.5), 2.5) == pytest.approx(2**-2.5)
    assert at(SCHEDULES["inverse_scaling"], 3, samples=99) == pytest.approx(0.1)  # 100^-1/2
    assert at(schedule("inverse_scaling", power=1), 3, samples=99) == pytest.approx(0.01)
    assert at(SCHEDULES["cosine"], N / 2) == pytest.approx(0.5)
    assert at(schedule("cosine", final=0.2), N) == pytest.approx(0.2)
    assert at(schedule("cosine", warmup=10), 5) == pytest.approx(0.5)
    assert at(schedule("cosine", warmup=10), 10) == pytest.approx(1.0)
    assert at(schedule("cosine", warmup=10), 11) == pytest.approx(0.5 + 0.5 * np.cos(np.pi / 40))
    assert at(schedule("cosine", warmup=10), 30) == pytest.approx(0.5)
    assert at(schedule("cosine", warmup=N), N) == pytest.approx(1.0)  # all warm-up, no room to fall


@pytest.mark.parametrize(
    "name, parameters, error, message",
    [
        ("cosin", {}, ValueError, "unknown schedule 'cosin'; did you mean 'cosine'? Choose one of constant, cosine, "),
        ("constant", {"gamma": 0.5}, ValueError, "schedule 'constant' has no parameter 'gamma'; its parameters: none."),
        ("step", {"every": 0}, ValueError, "every must be a finite number above 0; got 0."),
        ("exponential", {"gamma": 1.5}, ValueError, "gamma must be a finite number above 0 and at most 1; got 1.5."),
        ("cosine", {"final": -0.1}, ValueError, "final must be a finite number at least 0 and at most 1; got -0.1."),
        ("one_cycle", {"peak": 1.0}, ValueError, "peak must be a finite number above 0 and below 1; got 1.0."),
        (
            "warm_up",
            {"warmup": None},
            TypeError,
            "warmup must be a finite number at least 0; got None of type NoneType.",
        ),
        (abs, {"gamma": 1.0}, ValueError, "schedule 'abs' has no parameter 'gamma'; its parameters: none."),
        (7, {}, ValueError, "unknown schedule 7; Choose one of "),
    ],
)
def test_wrong_names_and_bounds_are_refused(name, parameters, error, message):
    with pytest.raises(error, match=re.escape(message)):
        schedule(name, **parameters)


def seen_by(row, epochs=3):
    """The `Progress` of every question that a training of 7 samples in batches of 2 asks."""
    asked = []
    spy = type(row)(row.name, lambda progress: asked.append(progress) or 1.0, per_step=row.per_step)
    MLP([1, 1], random_state=0).fit(np.ones((7, 1)), np.ones(7), epochs=epochs, batch_size=2, schedule=spy)
    return asked


def test_a_schedule_that_moves_with_epochs_is_asked_once_per_epoch():
    for name in ("constant", "inverse_scaling"):
        assert [(it.step, it.epoch, it.samples) for it in seen_by(SCHEDULES[name])] == [
            (0, 0, 0),
            (4, 1, 7),
            (8, 2, 14),
        ]


def test_a_schedule_that_moves_with_steps_is_asked_at_every_one():
    asked = seen_by(SCHEDULES["cosine"])
    assert sorted({it.step for it in asked}) == list(range(12))
    assert {it.step: it.epoch for it in asked} == {step: step / 4 for step in range(12)}
    assert {it.n_epochs for it in asked} == {3}


def test_a_function_of_your_own_is_a_schedule():
    net = MLP([1, 1], random_state=0)
    net.fit(
        np.ones((4, 1)),
        np.ones(4),
        epochs=3,
        learning_rate=0.5,
        optimizer="sgd",
        schedule=lambda it: 1.0 / (1 + it.step),
    )
    assert net.history["learning_rate"] == [0.5, 0.25, 0.5 / 3]
