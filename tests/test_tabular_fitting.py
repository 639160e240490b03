"""The two stages of a table's fit: what they are judged by, what watches them, what stops them, how they go on."""

import itertools
import re
import signal
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.inspection import permutation_importance
from sklearn.metrics import log_loss

import xpmlp
from xpmlp import (
    BackendFallbackWarning,
    DivergenceError,
    MLPRegressor,
    TablePreparation,
    TabularClassifier,
    TabularRegressor,
    config_context,
    get_config,
)
from xpmlp.backends import State, probe
from xpmlp.estimators.tabular import fitting, stages, timing
from xpmlp.estimators.tabular.timing import FEWEST_HELD, Goal, Pace, goal_of
from xpmlp.runners import compiled

TINY = {"hidden_layer_sizes": (8,), "max_iter": 6, "batch_size": 16, "n_bins": 8, "random_state": 0}
N = 90
RNG = np.random.default_rng(0)
SIZE, TOWN = RNG.normal(size=N), RNG.choice(["Ulm", "Bonn", "Kiel"], size=N)
ROWS = [
    {"size": float(size), "town": str(town), "id": f"r{i}x"}
    for i, (size, town) in enumerate(zip(SIZE, TOWN, strict=True))
]
Y = SIZE + 2.0 * (TOWN == "Ulm")
LABELS = np.where(Y > 1.0, "large", "small")
pytestmark = pytest.mark.filterwarnings("ignore::xpmlp.tabular.TableWarning")  # the ids are left out, loudly


def same(first, second):
    """Whether two models are the same to the last bit."""
    return np.array_equal(first.predict(ROWS), second.predict(ROWS)) and np.array_equal(
        first.predict_members(ROWS), second.predict_members(ROWS)
    )


# --- What epochs are judged by ---


def test_both_trainings_are_told_and_follow_one_schedule():
    model = TabularClassifier(n_members=6, **TINY).fit(ROWS, LABELS)
    first, second = model.history_, model.refit_history_
    assert model.stopped_by_ == ("epochs", "epochs")
    assert len(first["loss"]) == 6
    assert len(second["loss"]) == model.best_epoch_
    names = {"loss", "learning_rate", "validation_loss", "validation_loss_unaveraged", "validation_score"}
    assert set(first) == names
    assert set(second) == {"loss", "learning_rate"}
    assert model.validation_loss_ == min(first["validation_loss"]) == first["validation_loss"][model.best_epoch_ - 1]
    assert model.validation_score_ == first["validation_score"][model.best_epoch_ - 1]
    # Five steps an epoch, then four: the rates are those of the same shares of the schedule.
    np.testing.assert_allclose(second["learning_rate"], first["learning_rate"][: model.best_epoch_], rtol=1e-12)


def test_the_first_training_has_four_members_and_the_second_all():
    seen = []
    model = TabularClassifier(
        n_members=6, callbacks=lambda m, epoch, logs: seen.append((logs["stage"], m.network_.network.members)), **TINY
    ).fit(ROWS, LABELS)
    assert set(seen) == {(1, 4), (2, 6)}
    assert model.predict_members(ROWS).shape == (6, N, 2)


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_to_judge_by_make_one_training_whose_best_epoch_is_the_model(weighted):
    w = np.linspace(0.0, 2.0, 30) if weighted else None
    model = TabularClassifier(n_members=3, **TINY)
    model.fit(ROWS[:60], LABELS[:60], X_val=ROWS[60:], y_val=LABELS[60:], sample_weight_val=w)
    assert model.refit_history_ is None
    assert model.stopped_by_ == ("epochs",)
    told = log_loss(LABELS[60:], model.predict_proba(ROWS[60:]), sample_weight=w)
    assert model.validation_loss_ == pytest.approx(told, rel=1e-5)  # float32
    score = model.score(ROWS[60:], LABELS[60:], sample_weight=w)
    assert model.validation_score_ == pytest.approx(score, rel=1e-12)


def test_class_weights_count_in_the_choice_of_the_epoch():
    heavy = {"large": 5.0, "small": 1.0}
    model = TabularClassifier(n_members=2, class_weight=heavy, **TINY)
    model.fit(ROWS[:60], LABELS[:60], X_val=ROWS[60:], y_val=LABELS[60:])
    w = np.where(LABELS[60:] == "large", 5.0, 1.0)
    told = log_loss(LABELS[60:], model.predict_proba(ROWS[60:]), sample_weight=w)
    assert model.validation_loss_ == pytest.approx(told, rel=1e-5)
    equal = TabularClassifier(n_members=2, **TINY)
    equal.fit(ROWS[:60], LABELS[:60], X_val=ROWS[60:], y_val=LABELS[60:])
    assert np.mean(model.predict_proba(ROWS)[:, 0] > equal.predict_proba(ROWS)[:, 0]) > 0.9  # "large" weighs more


def test_a_weight_of_two_is_twice_the_row_and_scales_of_weights_say_nothing():
    twice = ROWS[:60] + ROWS[:30]
    judged = {"X_val": ROWS[60:], "y_val": Y[60:]}
    options = {**TINY, "batch_size": 90, "n_members": 2, "dropout": 0.0, "embedding": None}
    repeated = TabularRegressor(**options).fit(twice, [*Y[:60], *Y[:30]], **judged)
    weighted = TabularRegressor(**options).fit(ROWS[:60], Y[:60], np.repeat([2.0, 1.0], 30), **judged)
    scaled = TabularRegressor(**options).fit(ROWS[:60], Y[:60], np.repeat([4.0, 2.0], 30), **judged)
    assert same(weighted, scaled)
    # The medians of the columns are of rows, whatever they weigh, so that the two are near and no more.
    assert np.corrcoef(weighted.predict(ROWS), repeated.predict(ROWS))[0, 1] > 0.98


def test_rows_that_weigh_nothing_say_nothing_of_the_scale_of_the_numbers():
    y, w = Y.copy(), np.ones(N)
    y[::9], w[::9] = 1e6, 0.0
    model = TabularRegressor(n_members=2, **TINY).fit(ROWS, y, w)
    scales = model._known_targets()
    assert (scales.low[0], scales.high[0]) == (y[w > 0.0].min(), y[w > 0.0].max())
    assert scales.scale[0] == pytest.approx(y[w > 0.0].std())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X_val": ROWS}, "X_val and y_val come together"),
        ({"X_val": ROWS, "y_val": ["huge"] * N}, "classes not in"),
        ({"X_val": [{"size": 1.0}], "y_val": ["large"]}, "'town' is not there"),
        ({"X_val": ROWS, "y_val": LABELS, "sample_weight_val": -np.ones(N)}, "sample_weight_val"),
        ({"sample_weight": np.zeros(N)}, "non-zero"),
    ],
)
def test_what_cannot_be_judged_by_is_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        TabularClassifier(**TINY).fit(ROWS, LABELS, **arguments)


def test_early_stopping_is_told():
    model = TabularRegressor(n_members=1, **TINY | {"max_iter": 40, "learning_rate_init": 1.0, "refit": False})
    model.fit(ROWS, RNG.normal(size=N))
    assert model.stopped_by_ == ("patience",)
    assert len(model.history_["loss"]) < 40


# --- Who watches ---


def test_a_callback_sees_an_estimator_that_predicts_and_may_stop_it():
    seen = []

    def stop(model, epoch, logs):
        seen.append((logs["stage"], epoch, model.predict(ROWS).shape, model.n_iter_))
        return (logs["stage"], epoch) == (1, 3)

    model = TabularRegressor(n_members=2, callbacks=stop, **TINY).fit(ROWS, Y)
    assert seen == [(1, epoch, (N,), epoch) for epoch in (1, 2, 3)]
    assert model.stopped_by_ == ("callback",)
    assert model.refit_history_ is None


def test_a_callback_that_fails_leaves_what_was_learned():
    def fail(model, epoch, logs):
        if epoch == 2:
            raise RuntimeError("no disk")

    model = TabularRegressor(n_members=2, callbacks=[fail], **TINY)
    with pytest.raises(RuntimeError, match="no disk"):
        model.fit(ROWS, Y)
    assert len(model.history_["loss"]) == 2
    assert model.predict(ROWS).shape == (N,)


@pytest.mark.parametrize("stage", [1, 2])
def test_ctrl_c_keeps_what_was_learned(stage):
    def press(model, epoch, logs):
        if (logs["stage"], epoch) == (stage, 1):
            signal.raise_signal(signal.SIGINT)

    model = TabularRegressor(n_members=2, callbacks=press, **TINY)
    with pytest.warns(UserWarning, match="interrupted by user"):
        model.fit(ROWS, Y)
    assert model.stopped_by_[-1] == "interrupt"
    assert len(model.stopped_by_) == stage
    assert model.refit_history_ is None
    assert len(model.history_["loss"]) == (1 if stage == 1 else 6)
    if stage == 2:  # the first training is whole: half of the second is worth less
        whole = TabularRegressor(n_members=2, **TINY | {"refit": False}).fit(ROWS, Y)
        assert same(model, whole)


def test_ctrl_c_between_the_trainings_keeps_the_first(monkeypatch):
    from xpmlp.estimators.tabular import fitting

    made = fitting.prepared
    calls = []

    def press(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return made(*arguments)

    monkeypatch.setattr(fitting, "prepared", press)
    model = TabularRegressor(n_members=2, **TINY)
    with pytest.warns(UserWarning, match="interrupted by user before the second training"):
        model.fit(ROWS, Y)
    assert model.stopped_by_ == ("epochs", "interrupt")
    assert np.all(np.isfinite(model.predict(ROWS)))


def test_a_progress_bar_says_which_training_it_is(capsys):
    pytest.importorskip("tqdm")
    TabularRegressor(n_members=2, verbose=True, **TINY).fit(ROWS, Y)
    shown = capsys.readouterr().err
    assert "finding the epoch: 100%" in shown
    assert "training on all rows: 100%" in shown


def test_scikit_learns_callbacks_are_told_of_every_epoch():
    told = []

    class Told:
        def setup(self, estimator, context):
            told.append("setup")

        def on_fit_task_begin(self, estimator, context, **data):
            told.append("begin")

        def on_fit_task_end(self, estimator, context, **data):
            told.append("end")

        def teardown(self, estimator, context):
            told.append("teardown")

    TabularRegressor(n_members=2, **TINY | {"refit": False}).set_callbacks(Told()).fit(ROWS, Y)
    assert told == ["setup", "begin", *["begin", "end"] * 6, "end", "teardown"]


# --- Going on ---


class Killed(BaseException):
    """What no fit can hold up."""


def killed_in(stage, epoch):
    def kill(model, now, logs):
        if (logs["stage"], now) == (stage, epoch):
            raise Killed

    return kill


@pytest.mark.parametrize(("stage", "epoch"), [(1, 3), (1, 6), (2, 1), (2, 2)])
@pytest.mark.parametrize("again", ["fit", "resume"])
def test_a_fit_that_was_killed_goes_on_to_the_same_bits(stage, epoch, again, tmp_path):
    options = {"n_members": 5, **TINY, "learning_rate_init": 3e-3}
    whole = TabularClassifier(**options).fit(ROWS, LABELS)
    assert whole.best_epoch_ > 2
    with pytest.raises(Killed):
        TabularClassifier(callbacks=killed_in(stage, epoch), **options).fit(ROWS, LABELS, checkpoint=tmp_path / "run")
    trained = []
    note = lambda model, epoch, logs: trained.append((logs["stage"], epoch))  # noqa: E731
    if again == "fit":
        model = TabularClassifier(callbacks=note, **options)
        model.fit(ROWS, LABELS, checkpoint=tmp_path / "run", resume=True)
    else:
        model = xpmlp.resume(tmp_path / "run", ROWS, LABELS, callbacks=note)
    # What was killed in an epoch has the one before in its checkpoint, and no epoch is trained twice.
    assert trained[0] == (stage, epoch)
    assert same(model, whole)
    assert model.history_ == whole.history_
    assert model.refit_history_ == whole.refit_history_
    assert (model.best_epoch_, model.stopped_by_) == (whole.best_epoch_, whole.stopped_by_)


def test_a_fit_that_is_over_goes_on_to_itself(tmp_path):
    options = {"n_members": 2, **TINY}
    whole = TabularRegressor(**options).fit(ROWS, Y, checkpoint=tmp_path)
    assert same(TabularRegressor(**options).fit(ROWS, Y, checkpoint=tmp_path, resume=True), whole)
    assert same(xpmlp.load(tmp_path / "refit" / "last.safetensors"), whole)


@pytest.mark.parametrize(
    ("parameters", "y", "message"),
    [({"dropout": 0.5}, Y, "dropout was 0.2, is 0.5"), ({}, Y + 1.0, "these are others")],
)
def test_going_on_with_other_things_is_refused(parameters, y, message, tmp_path):
    options = {"n_members": 2, **TINY}
    TabularRegressor(**options).fit(ROWS, Y, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=message):
        TabularRegressor(**options | parameters).fit(ROWS, y, checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match="overwrite=True"):
        TabularRegressor(**options | parameters).fit(ROWS, y, checkpoint=tmp_path)
    TabularRegressor(**options | parameters).fit(ROWS, y, checkpoint=tmp_path, overwrite=True)


def test_what_fails_before_there_is_something_leaves_the_estimator_as_it_was():
    model = TabularRegressor(n_members=2, **TINY).fit(ROWS, Y)
    before = model.predict(ROWS)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(ROWS, np.full(N, np.nan))
    with pytest.raises(ValueError, match="n_members"):
        model.set_params(n_members=0).fit(ROWS, Y)
    assert np.array_equal(model.predict(ROWS), before)


@pytest.mark.parametrize(
    ("kind", "y", "options", "members"),
    [
        (TabularClassifier, LABELS, {}, [4, 8]),
        (TabularClassifier, LABELS, {"n_members": 3}, [3, 3]),
        (TabularRegressor, Y, {}, [4, 8]),
        (TabularRegressor, Y, {"validation_fraction": 0.4}, [2, 8]),
        (TabularClassifier, LABELS, {"validation_fraction": 0.4, "time_limit": 1e6}, [2, 8]),
        (TabularRegressor, Y, {"refit": False}, [8]),
    ],
)
def test_a_stage_that_only_looks_for_an_epoch_has_few_members(kind, y, options, members, monkeypatch):
    monkeypatch.setattr(stages, "MANY_HELD", 0.3 * N)  # of 90 rows, a fifth is below it
    trained, train = [], fitting._train
    monkeypatch.setattr(
        fitting, "_train", lambda fit, stage, before: trained.append(stage) or train(fit, stage, before)
    )
    model = kind(**TINY | options).fit(ROWS, y)
    assert [stage.content.network.members for stage in trained] == members
    foreseen = model.history_.get("validation_loss_foreseen")
    assert (foreseen is None) == (members[0] != 2)
    losses = foreseen or model.history_["validation_loss"]
    assert model.best_epoch_ == len(losses) - np.argmin(losses[::-1])


# --- Time ---

# Seconds a step of 4 members and a look at 1,000 rows, with nothing to compile.
PACE = Pace(4, 0.01, 0.01, 0.0)


@pytest.mark.parametrize(
    ("left", "held", "goal"),
    [
        (1e9, 1000, Goal(40)),  # all the time there is: nothing changes
        # 0.85 of 20 s, 0.5 s for the second preparation: 16.5 s for epochs of 0.2 + 0.02 + 0.5 s
        (20.0, 1000, Goal(22)),
        # 4.25 s: fewer than 8 epochs of both stages, 9 of one with 8 members (0.4 + 0.04 s)
        (5.0, 1000, Goal(9, refits=False)),
        # 0.85 s: four epochs of 8 steps of 0.02 s, after looks of 0.04 s
        (1.0, 1000, Goal(4, 8 * 32, 1000, refits=False)),
        # looks at 100,000 rows would take it all: they are of those that a quarter of the time is enough for
        (1.0, 100_000, Goal(4, 7 * 32, 1328, refits=False)),
        (0.001, 100_000, Goal(4, 32, FEWEST_HELD, refits=False)),
    ],
)
def test_a_fit_goes_as_far_as_there_is_time_for(left, held, goal):
    batches = (20, 25)
    assert goal_of(PACE, left, 40, 8, batches, held, 32, 0.5) == goal


def test_the_pace_is_that_of_a_step_and_of_a_thousand_rows(monkeypatch):
    posed, ticks = [], itertools.count()
    monkeypatch.setattr(fitting, "pace_of", lambda stage: posed.append(stage) or timing.pace_of(stage))
    TabularRegressor(time_limit=1e6, validation_fraction=0.4, **TINY).fit(ROWS, Y)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(ticks)))  # whatever is timed takes a second
    pace = timing.pace_of(posed[0])
    assert pace == Pace(4, 1.0 / timing.TIMED, 1000.0 / 36, 0.0)  # 36 of 90 rows are held out, and are one batch


def test_what_a_second_stage_takes_is_told_by_the_steps_of_the_first():
    fit = SimpleNamespace(
        settings=SimpleNamespace(time_limit=60.0, n_members=8),
        given=SimpleNamespace(table=SimpleNamespace(n_rows=6000)),
        looking=SimpleNamespace(seconds_an_epoch=0.5),
        pace=Pace(2, 0.01, 0.05, 0.0),  # 0.2 s for the steps of an epoch and 0.1 s for looks, of which it took 0.5 s
        prepare=1.0,
    )
    done = fitting.Done(SimpleNamespace(members=2), None, "float32", 5000, batches=20, held=1000)
    took = 0.5 * 2 / 3 * 4 * 6000 / 5000
    assert fitting._would_take(fit, done, 10) == pytest.approx(1.0 + 10 * took)
    fit.pace = None  # it goes on from a checkpoint
    assert fitting._would_take(fit, done, 10) == pytest.approx(1.0 + 15 * took)


def test_a_short_time_is_kept_and_ends_with_a_model():
    X = np.random.default_rng(0).normal(size=(3000, 4))
    model = TabularRegressor(hidden_layer_sizes=(64, 64), time_limit=0.3, random_state=0).fit(X, X[:, 0])
    # Without a limit there are 100 epochs of 9 steps, some 10 s: a clock is not asserted here, the plan is.
    assert len(model.history_["loss"]) < 60
    assert model.history_["learning_rate"][0] == pytest.approx(2e-4)
    assert model.score(X, X[:, 0]) > 0.1


@pytest.mark.parametrize(
    ("limit", "setting", "seen"), [(0.3, "auto", "never"), (1e3, "auto", "auto"), (0.3, "always", "always")]
)
def test_nothing_is_compiled_in_a_short_time_unless_it_must_be(limit, setting, seen, monkeypatch):
    settings = []
    monkeypatch.setattr(compiled, "find", lambda task, data: settings.append(get_config()["compiled"]))
    with config_context(compiled=setting):
        TabularRegressor(time_limit=limit, **TINY).fit(ROWS, Y)
    assert set(settings) == {seen}


def test_time_enough_changes_nothing():
    options = {"n_members": 2, **TINY}
    assert same(TabularRegressor(time_limit=1000, **options).fit(ROWS, Y), TabularRegressor(**options).fit(ROWS, Y))


# --- What matters ---


@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize("embedding", ["piecewise", None])
def test_importances_are_the_slopes_of_the_loss(n_members, embedding):
    model = TabularRegressor(n_members=n_members, embedding=embedding, dtype="float64", **TINY).fit(ROWS, Y)
    found = model.feature_importances(ROWS[:20], Y[:20])
    net, z = model.network_, model.preparation_.transform(ROWS[:20]).astype(np.float64)
    t = model._known_targets().scaled(Y[:20, None])
    slopes = np.zeros_like(z)
    h = 1e-6
    for i in range(z.shape[1]):
        up, down = z.copy(), z.copy()
        up[:, i] += h
        down[:, i] -= h
        losses = [0.5 * np.mean((np.asarray(net.forward(x)).reshape(-1, 20, 1) - t) ** 2, axis=0) for x in (up, down)]
        slopes[:, i] = (losses[0] - losses[1])[:, 0] / (2 * h)
    wanted = np.bincount(model.preparation_.sources_, np.abs(slopes).mean(axis=0), minlength=3)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)  # a row may stand on an edge of a bin
    assert found[2] == 0.0  # ids are left out


def test_importances_by_permutation_are_scikit_learns_own_on_a_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS)
    model = TabularRegressor(n_members=2, **TINY | {"max_iter": 30}).fit(frame, Y)
    found = permutation_importance(model, frame, Y, n_repeats=2, random_state=0).importances_mean
    assert found[0] > 0.05
    assert found[2] == 0.0


# --- Where ---


def test_the_same_seed_is_the_same_fit_on_every_backend(backend):
    options = {"n_members": 3, "dtype": "float64", "refit": False, **TINY, "max_iter": 25}
    here = TabularRegressor(**options).fit(ROWS, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xpmlp.backends.PrecisionWarning)
        there = TabularRegressor(backend=backend.name, device=None, **options).fit(ROWS, Y)
    assert there.backend_ == backend.name
    assert isinstance(there.predict(ROWS), np.ndarray)
    # 100 steps with dropout: the same weights, batches and masks, or they would be far apart.
    rtol = 1e-10 if there.dtype_ == "float64" else 1e-3
    np.testing.assert_allclose(there.predict(ROWS), here.predict(ROWS), rtol=rtol)
    assert there.validation_loss_ == pytest.approx(here.validation_loss_, rel=0.01)


def test_a_backend_that_is_not_there_is_told_and_numpy_takes_over():
    if probe("cupy").state is State.OK:
        pytest.skip("CuPy works here")
    with pytest.warns(BackendFallbackWarning, match="CuPy"):
        model = TabularRegressor(n_members=2, backend="cupy", **TINY).fit(ROWS, Y)
    assert model.backend_ == "numpy"


def test_a_device_needs_a_backend():
    with pytest.raises(ValueError, match=re.escape("device='cuda:0' needs a backend")):
        TabularRegressor(device="cuda:0", **TINY).fit(ROWS, Y)


@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_what_transform_is_set_to_give_is_nothing_to_a_fit(output):
    pytest.importorskip(output)
    held = {"X_val": ROWS[:30], "y_val": Y[:30]}
    for options in ({}, held):
        expected = TabularRegressor(n_members=2, **TINY).fit(ROWS, Y, **options)
        with sklearn.config_context(transform_output=output):
            assert same(TabularRegressor(n_members=2, **TINY).fit(ROWS, Y, **options), expected)


# --- What errors and warnings say ---

NUMBERS = np.random.default_rng(0).normal(size=(40, 3))
BAD_SETS = {
    "a column less": (NUMBERS[:9, :-1], NUMBERS[:9, 0], "features"),
    "infinity": (np.where(NUMBERS[:9] == NUMBERS[2, 1], np.inf, NUMBERS[:9]), NUMBERS[:9, 0], "infinity"),
    "no rows": (NUMBERS[:0], NUMBERS[:0, 0], "minimum of 1"),
    "other lengths": (NUMBERS[:9], NUMBERS[:5, 0], "inconsistent numbers"),
    "a target that is none": (NUMBERS[:9], np.full(9, np.nan), "NaN"),
}


@pytest.mark.parametrize(("X", "y", "said"), BAD_SETS.values(), ids=BAD_SETS)
@pytest.mark.parametrize("model", [TabularRegressor(), MLPRegressor(early_stopping=True)], ids=["tables", "arrays"])
def test_a_fault_of_the_validation_set_is_told_as_one(model, X, y, said):
    with pytest.raises(ValueError, match=rf"^In the validation set \(X_val, y_val\): .*{said}"):
        clone(model).fit(NUMBERS, NUMBERS[:, 0], X_val=X, y_val=y)


def with_a_stray(row):
    return [*ROWS[:row], ROWS[row] | {"size": "tall"}, *ROWS[row + 1 :]]


@pytest.mark.parametrize("known", [False, True], ids=["found out", "known"])
def test_odd_cells_of_a_fit_are_told_once_and_where(known):
    preparation = TablePreparation().fit(ROWS) if known else None
    model = TabularRegressor(n_members=2, preparation=preparation, **TINY)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit(with_a_stray(2), Y)
        model.fit(ROWS, Y, X_val=with_a_stray(7)[:30], y_val=Y[:30])
    said = [str(one.message) for one in told if "tall" in str(one.message)]
    assert said == [
        "size: 1 of 90 cells is no number ('tall' in row 2): taken as missing.",
        "In the validation set (X_val, y_val): size: 1 of 30 cells is no number ('tall' in row 7): taken as missing.",
    ]


def test_divergence_is_answered_by_what_the_estimator_has():
    with pytest.raises(DivergenceError, match=r"Lower the learning rate .* or scale the inputs") as told:
        TabularRegressor(learning_rate_init=1e30, **TINY).fit(ROWS, Y)
    assert "clip" not in str(told.value)
