"""Stopped and taken up again in another process, a training ends as if it had never stopped: bit for bit on NumPy."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from itertools import product

import numpy as np
import pytest

import xpmlp
from xpmlp import MLP, MLPClassifier, MLPRegressor
from xpmlp.io import storage

EPOCHS = 6
CUTS = (1, 3, 5)

# Six epochs converge to nothing, and need not.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class CutError(Exception):
    """What stops a training after some epoch."""


def cut_after(epoch):
    def callback(net, at, logs):
        if at == epoch:
            raise CutError

    return callback


def data(dtype="float64"):
    rng = np.random.default_rng(11)
    X = rng.normal(size=(90, 3))
    return X.astype(dtype), np.tanh(X @ [1.0, -2.0, 0.5]).astype(dtype)


# What a training is made of, one by one; then optimizers with schedules, shuffled and not, stopped early and not,
# with dropout and without.
ALONE = {
    "plain": ({}, {}),
    "float32": ({"dtype": "float32"}, {}),
    "one batch": ({}, {"batch_size": None}),
    "clipped": ({}, {"clip_norm": 0.1}),
    "penalized": ({}, {"l2": 0.1}),
    "frozen layer": ({}, {"learning_rate_factors": [0.0, 1.0, 2.0]}),
    "metric": ({"loss": "binary_cross_entropy", "targets": "binary"}, {"metric": "accuracy"}),
    "weights": ({}, {"weights": True}),
    "validation data": ({}, {"validation": True}),
    "many networks": ({"n_networks": 3}, {}),
    "many networks, early stopping": (
        {"n_networks": 3},
        {"early_stopping": True, "patience": 1, "learning_rate": 0.05},
    ),
    "patience runs out": ({}, {"early_stopping": True, "patience": 0, "tol": 0.1}),
    "a checkpoint every second epoch": ({}, {"checkpoint_every": 2}),
}
SCHEDULED = {
    "sgd": "constant",
    "momentum": "step",
    "nesterov": "inverse_scaling",
    "adam": "cosine",
    "adamw": "one_cycle",
    "rmsprop": "exponential",
    "lion": "warm_up",
}
KINDS = {
    "shuffled": (0.0, True, False),
    "shuffled, early": (0.0, True, True),
    "shuffled, dropout": (0.3, True, False),
    "in order, early, dropout": (0.3, False, True),
}
PRODUCT = {
    f"{optimizer}, {schedule}, {kind}": (
        {"dropout": dropout},
        {"optimizer": optimizer, "schedule": schedule, "shuffle": shuffle, "early_stopping": early},
    )
    for (optimizer, schedule), (kind, (dropout, shuffle, early)) in product(SCHEDULED.items(), KINDS.items())
}
CONFIGURATIONS = ALONE | PRODUCT

# Estimators: the class, its parameters, the arguments of fit.
KEPT = {"early_stopping": True, "n_iter_no_change": 2}
ESTIMATORS = {
    "classifier, adam": (MLPClassifier, {}, {}),
    "classifier, adam, early": (MLPClassifier, KEPT, {}),
    "classifier, adam, dropout, in order": (MLPClassifier, {"dropout": 0.3, "shuffle": False}, {}),
    "classifier, sgd": (MLPClassifier, {"solver": "sgd"}, {}),
    "classifier, sgd, invscaling": (MLPClassifier, {"solver": "sgd", "learning_rate": "invscaling"}, {}),
    "classifier, sgd, adaptive": (
        MLPClassifier,
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1},
        {},
    ),
    "classifier, sgd, no momentum": (MLPClassifier, {"solver": "sgd", "momentum": 0.0}, {}),
    "classifier, adamw, cosine": (MLPClassifier, {"solver": "adamw", "learning_rate": "cosine"}, {}),
    "classifier, lbfgs": (MLPClassifier, {"solver": "lbfgs"}, {}),
    "classifier, lbfgs, float32": (MLPClassifier, {"solver": "lbfgs", "dtype": "float32"}, {}),
    "classifier, validation set": (MLPClassifier, KEPT, {"validation": True}),
    "classifier, validation set, unwatched": (MLPClassifier, {}, {"validation": True}),
    "classifier, weights": (MLPClassifier, {"class_weight": "balanced"}, {"weights": True}),
    "classifier, loss watched": (MLPClassifier, KEPT | {"scoring": "loss", "dropout": 0.1}, {}),
    "classifier, random state": (MLPClassifier, {"random_state": "instance"}, {}),
    "classifier, no seed": (MLPClassifier, {"random_state": None}, {}),
    "regressor, adam": (MLPRegressor, {}, {}),
    "regressor, lbfgs": (MLPRegressor, {"solver": "lbfgs"}, {}),
    "regressor, lbfgs, validation set": (MLPRegressor, {"solver": "lbfgs"}, {"validation": True}),
    "regressor, sgd, one_cycle, early": (MLPRegressor, KEPT | {"solver": "sgd", "learning_rate": "one_cycle"}, {}),
    "regressor, float32": (MLPRegressor, {"dtype": "float32", "clip_norm": 0.1}, {}),
    "regressor, quantiles": (MLPRegressor, {"loss": "pinball", "quantile": [0.1, 0.9]}, {}),
}


def make(name):
    """The model, its samples and the arguments of its fit."""
    if name in ESTIMATORS:
        return make_estimator(*ESTIMATORS[name])
    network, arguments = CONFIGURATIONS[name]
    network, arguments = dict(network), {"epochs": EPOCHS, "batch_size": 16} | arguments
    X, y = data(network.get("dtype", "float64"))
    if network.pop("targets", None) == "binary":
        y = (y > 0).astype(y.dtype)
    if arguments.pop("weights", False):
        arguments["sample_weight"] = np.linspace(0.1, 2.0, len(X))
    if arguments.pop("validation", False):
        arguments["validation_data"] = (X[::3], y[::3])
    return MLP([3, 6, 5, 1], random_state=3, **network), X, y, arguments


def make_estimator(cls, parameters, arguments):
    X, y = data()
    y = np.asarray(["a", "b", "c"])[np.arange(len(X)) % 3] if cls is MLPClassifier else y
    parameters = {"hidden_layer_sizes": (5, 4), "max_iter": EPOCHS, "random_state": 2, "batch_size": 16} | parameters
    if parameters["random_state"] == "instance":
        parameters["random_state"] = np.random.RandomState(7)
    more = {"sample_weight": np.linspace(0.1, 2.0, len(X))} if arguments.get("weights") else {}
    more |= {"X_val": X[::3], "y_val": y[::3]} if arguments.get("validation") else {}
    return cls(**parameters), X, y, more


def demand_same_estimator(there, here):
    for a, b in zip(there.coefs_ + there.intercepts_, here.coefs_ + here.intercepts_, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    for name in ("loss_", "n_iter_", "t_", "best_loss_", "best_validation_score_"):
        assert getattr(there, name, None) == getattr(here, name, None), name
    for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
        assert getattr(there, name, None) == getattr(here, name, None), name


def demand_same(there, here):
    if not isinstance(here, MLP):
        demand_same_estimator(there, here)
        return
    assert there.parameters.tobytes() == here.parameters.tobytes()
    assert there.history.keys() == here.history.keys()
    for key, values in here.history.items():
        np.testing.assert_array_equal(there.history[key], values, strict=True)
    # What comes after is the same too: the generators stand where they stood.
    X, y = data(here.dtype)
    y = (y > 0).astype(y.dtype)
    assert there.fit(X, y, epochs=1).parameters.tobytes() == here.fit(X, y, epochs=1).parameters.tobytes()


RESUMER = """
    import json, sys
    sys.path.insert(0, sys.argv[1])
    from tests.test_resume import make
    import xpmlp
    for name, folder, how in json.load(sys.stdin):
        net, X, y, arguments = make(name)
        if how == "fit":
            net.fit(X, y, **arguments, checkpoint=folder, resume=True)
        else:
            more = {k: v for k, v in arguments.items() if k in ("sample_weight", "validation_data", "X_val", "y_val")}
            net = xpmlp.resume(folder, X, y, **more)
        net.save(folder + "/final.safetensors")
"""


def in_a_fresh_process(jobs, **environment):
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RESUMER), os.path.dirname(os.path.dirname(__file__))],
        input=json.dumps(jobs),
        text=True,
        check=True,
        timeout=300,
        env=os.environ | environment,
    )


def cut(name, epoch, folder):
    net, X, y, arguments = make(name)
    callbacks = {"callbacks": [cut_after(epoch)]}
    if not isinstance(net, MLP):
        net.set_params(**callbacks)
        callbacks = {}
    with contextlib.suppress(CutError):  # patience may have run out before
        net.fit(X, y, **arguments, checkpoint=folder, **callbacks)


@pytest.mark.parametrize("how", ["fit", "resume"])
@pytest.mark.parametrize("part", range(3))
def test_a_run_taken_up_in_a_fresh_process_ends_as_the_uninterrupted_one(how, part, tmp_path):
    # One process takes up a third of the configurations, each cut after another epoch: 63 x 2 in all.
    names = [*CONFIGURATIONS, *ESTIMATORS][part::3]
    jobs = []
    for i, name in enumerate(names):
        folder = tmp_path / str(i)
        cut(name, CUTS[(i + part) % len(CUTS)], folder)
        jobs.append((name, str(folder), how))
    in_a_fresh_process(jobs, PYTHONHASHSEED=str(part))
    for name, folder, _ in jobs:
        if name == "classifier, no seed":  # below, where what was drawn is known
            continue
        net, X, y, arguments = make(name)
        arguments.pop("checkpoint_every", None)
        demand_same(xpmlp.load(f"{folder}/final.safetensors"), net.fit(X, y, **arguments))


def test_there_are_enough_configurations():
    assert len(CONFIGURATIONS) + len(ESTIMATORS) >= 60


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("epoch", CUTS)
def test_an_estimator_can_be_cut_after_any_epoch(name, epoch, tmp_path, monkeypatch):
    drawn = np.random.RandomState(3)
    monkeypatch.setattr(np.random.mtrand, "_rand", drawn)  # what scikit-learn draws from where there is no seed
    cut(name, epoch, tmp_path)
    drawn.seed(3)
    net, X, y, arguments = make(name)
    net.fit(X, y, **arguments)
    drawn.seed(99)
    again, _, _, _ = make(name)
    demand_same(again.fit(X, y, **arguments, checkpoint=tmp_path, resume=True), net)
    last, best = (xpmlp.load(tmp_path / f"{kind}.safetensors") for kind in ("last", "best"))
    assert last.n_iter_ == net.n_iter_
    assert best.predict(X).shape == net.predict(X).shape


def test_other_parameters_and_samples_are_refused_for_an_estimator(tmp_path):
    cut("classifier, adam", 2, tmp_path)
    net, X, y, _ = make("classifier, adam")
    with pytest.raises(ValueError, match=re.escape("alpha was 0.0001, is 0.5")):
        net.set_params(alpha=0.5).fit(X, y, checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match="the samples that the run began with"):
        xpmlp.resume(tmp_path, X + 1.0, y)
    with pytest.raises(ValueError, match="the checkpoint is of a MLPClassifier, this is a MLPRegressor"):
        MLPRegressor().fit(X, X[:, 0], checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match="resume=True needs a folder"):
        net.fit(X, y, resume=True)
    longer = xpmlp.resume(tmp_path, X, y, max_iter=9)
    demand_same(longer, make("classifier, adam")[0].set_params(max_iter=9).fit(X, y))


def test_a_warm_start_is_resumed_as_one(tmp_path):
    def begin():
        net, X, y, _ = make("classifier, sgd, invscaling")
        return net.set_params(warm_start=True).fit(X, y), X, y

    net, X, y = begin()
    with pytest.raises(CutError):
        net.set_params(callbacks=[cut_after(2)]).fit(X, y, checkpoint=tmp_path)
    demand_same(xpmlp.resume(tmp_path, X, y), begin()[0].fit(X, y))


def test_an_estimator_with_functions_of_the_users_own_refuses_checkpoints_before_it_trains(tmp_path):
    _, X, y, _ = make("classifier, adam")
    net = MLPClassifier(activation=(np.sin, lambda z, a: np.cos(z)), max_iter=1)
    with pytest.raises(ValueError, match=r"holds? (no functions|names and numbers)"):
        net.fit(X, y, checkpoint=tmp_path)
    assert not hasattr(net, "coefs_")


@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
@pytest.mark.parametrize("name", ["plain", "adam, cosine, in order, early, dropout", "many networks, early stopping"])
def test_a_run_can_be_cut_after_any_epoch(name, epoch, tmp_path):
    cut(name, epoch, tmp_path)
    net, X, y, arguments = make(name)
    demand_same(net.fit(X, y, **arguments, checkpoint=tmp_path, resume=True), make(name)[0].fit(X, y, **arguments))


def test_a_run_can_be_cut_again_and_again(tmp_path):
    name = "adam, cosine, in order, early, dropout"
    for epoch in (1, 2, 4):
        net, X, y, arguments = make(name)
        with pytest.raises(CutError):
            net.fit(X, y, **arguments, checkpoint=tmp_path, resume=True, callbacks=[cut_after(epoch)])
    net, X, y, arguments = make(name)
    demand_same(net.fit(X, y, **arguments, checkpoint=tmp_path, resume=True), make(name)[0].fit(X, y, **arguments))


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_run_that_was_killed_goes_on(tmp_path, rng):
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from tests.test_resume import make
        net, X, y, arguments = make("adam, cosine, in order, early, dropout")
        print("go", flush=True)
        net.fit(X, y, **arguments | {"epochs": 300}, checkpoint=sys.argv[2], resume=True)
        print("done", flush=True)
    """
    root = os.path.dirname(os.path.dirname(__file__))
    kills = 0
    for _ in range(50):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), root, tmp_path], stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        try:
            process.wait(timeout=float(rng.uniform(0.05, 0.3)) if kills < 5 else 60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        done = "done" in process.communicate()[0]
        if done:
            break
    assert done
    assert kills > 0
    net, X, y, arguments = make("adam, cosine, in order, early, dropout")
    net.fit(X, y, **arguments | {"epochs": 300})
    # The checkpoint's own network is the last one; what fit returns is the best.
    assert xpmlp.load(tmp_path / "last.safetensors").history == net.history
    np.testing.assert_array_equal(xpmlp.load(tmp_path / "best.safetensors").parameters, net.parameters)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".tmp") == ["best.safetensors", "last.safetensors"]


def test_the_last_and_the_best_are_kept(tmp_path):
    net, X, y, arguments = make("validation data")
    seen = []
    keep = [lambda net, *_: seen.append(net.parameters.copy())]
    net.fit(X, y, **arguments | {"learning_rate": 0.5}, checkpoint=tmp_path, callbacks=keep)
    best = int(np.argmin(net.history["validation_loss"]))
    assert best < EPOCHS - 1  # or the test shows nothing
    np.testing.assert_array_equal(xpmlp.load(tmp_path / "last.safetensors").parameters, seen[-1])
    np.testing.assert_array_equal(xpmlp.load(tmp_path / "best.safetensors").parameters, seen[best])


def test_a_finished_run_is_not_trained_further_but_can_be_made_longer(tmp_path):
    net, X, y, arguments = make("plain")
    net.fit(X, y, **arguments, checkpoint=tmp_path)
    again = xpmlp.resume(tmp_path, X, y)
    assert again.parameters.tobytes() == net.parameters.tobytes()
    longer = xpmlp.resume(tmp_path, X, y, epochs=9)
    nine = make("plain")[0].fit(X, y, **arguments | {"epochs": 9})
    demand_same(longer, nine)


def test_without_a_checkpoint_resume_begins(tmp_path):
    net, X, y, arguments = make("plain")
    demand_same(
        net.fit(X, y, **arguments, checkpoint=tmp_path / "new", resume=True), make("plain")[0].fit(X, y, **arguments)
    )


def test_a_second_fit_resumes_as_the_second(tmp_path):
    def begin():
        net, X, y, arguments = make("plain")
        return net.fit(X, y, **arguments), X, y, arguments | {"early_stopping": True}

    net, X, y, arguments = begin()
    with pytest.raises(CutError):
        net.fit(X, y, **arguments, checkpoint=tmp_path, callbacks=[cut_after(EPOCHS + 2)])
    demand_same(xpmlp.resume(tmp_path, X, y), begin()[0].fit(X, y, **arguments))


def test_a_divergence_is_remembered(tmp_path):
    X, y = data()
    arguments = {"epochs": 4, "optimizer": "sgd", "learning_rate": 1e200}
    with np.errstate(all="ignore"):
        with pytest.warns(xpmlp.DivergenceWarning):
            net = MLP([3, 4, 1], random_state=1).fit(X, y, **arguments, checkpoint=tmp_path)
        again = xpmlp.resume(tmp_path, X, y)
    assert again.parameters.tobytes() == net.parameters.tobytes()


def test_resume_on_every_backend_is_close_to_uninterrupted(backend, tmp_path):
    X, y = data()
    dtype = backend.dtypes[0]
    X, y = backend.put(X, dtype), backend.put(y, dtype)

    def begin():
        where = {"backend": backend.name, "device": backend.place.device_name}
        return MLP([3, 4, 1], random_state=1, dropout=0.2, dtype=dtype, **where)

    with pytest.raises(CutError):
        begin().fit(X, y, epochs=4, checkpoint=tmp_path, callbacks=[cut_after(2)])
    again = begin().fit(X, y, epochs=4, checkpoint=tmp_path, resume=True)
    whole = begin().fit(X, y, epochs=4)
    backend.assert_close(again.parameters, backend.get(whole.parameters), rtol=backend.tolerance(dtype))


# --- What does not go on ---


@pytest.fixture
def run(tmp_path):
    cut("plain", 2, tmp_path)
    return tmp_path


def test_other_samples_are_refused(run):
    X, y = data()
    with pytest.raises(ValueError, match=re.escape("resume=True goes on with the samples that the run began with")):
        xpmlp.resume(run, X + 1e-9, y)


def test_other_arguments_are_refused_by_name(run):
    X, y = data()
    with pytest.raises(ValueError, match=re.escape("batch_size was 16, is 8")):
        xpmlp.resume(run, X, y, batch_size=8)


@pytest.mark.parametrize("sizes", [[3, 6, 1], [3, 6, 6, 1]])
def test_another_network_is_refused_and_stays_as_it_was(sizes, run):
    X, y = data()
    net = MLP(sizes, random_state=1)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=re.escape("is of another network; its network is")):
        net.fit(X, y, checkpoint=run, resume=True)
    np.testing.assert_array_equal(net.parameters, before)


def test_resume_needs_a_folder_and_a_checkpoint_in_it(tmp_path):
    X, y = data()
    with pytest.raises(ValueError, match="resume=True needs a folder to go on from"):
        MLP([3, 1]).fit(X, y, resume=True)
    with pytest.raises(FileNotFoundError):
        xpmlp.resume(tmp_path, X, y)
    MLP([3, 1]).save(tmp_path / "last.safetensors")
    with pytest.raises(xpmlp.FileFormatError, match="it holds a model, but no training to go on with"):
        MLP([3, 1]).fit(X, y, checkpoint=tmp_path, resume=True)


def test_functions_of_the_users_own_are_asked_for_again(tmp_path):
    X, y = data()

    def slope(progress):
        return 1.0 / (1.0 + progress.epoch)

    net = MLP([3, 1], random_state=1)
    with pytest.raises(CutError):
        net.fit(X, y, epochs=4, schedule=slope, checkpoint=tmp_path, callbacks=[cut_after(2)])
    with pytest.raises(ValueError, match=re.escape("schedule was a function of your own, 'slope'")) as caught:
        xpmlp.resume(tmp_path, X, y)
    assert "hand it over again as schedule=" in str(caught.value)
    demand_same(
        xpmlp.resume(tmp_path, X, y, schedule=slope), MLP([3, 1], random_state=1).fit(X, y, epochs=4, schedule=slope)
    )


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("training", "epoch"), -1),
        (("training", "t"), 1.5),
        (("training", "slots"), 10**9),
        (("training", "scale"), 0.0),
        (("training", "stopped_by"), 3),
        (("run", "orders"), 3),
        (("run", "arguments"), []),
        (("run", "arguments", "X"), [[0.0]]),
        (("run", "arguments", "verbose"), 3),
        (("training", "slots"), 1),
        (("orders",), []),
    ],
)
def test_a_checkpoint_that_lies_is_refused(where, value, run):
    path = run / "last.safetensors"
    document, arrays = storage.read(path)
    place = document
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    storage.write(path, document, arrays)
    X, y = data()
    with pytest.raises(xpmlp.FileFormatError, match=re.escape("last.safetensors cannot be loaded: ")):
        xpmlp.resume(run, X, y)


@pytest.mark.parametrize("how", ["fit", "resume"])
@pytest.mark.parametrize("lie", ["longer", "another axis", "a slot too many", "a slot too few"])
@pytest.mark.parametrize(
    "name", ["plain", "many networks", "classifier, adam", "classifier, sgd, no momentum", "classifier, lbfgs"]
)
def test_a_checkpoint_of_other_arrays_is_refused(name, lie, how, tmp_path):
    cut(name, 2, tmp_path)
    path = tmp_path / "last.safetensors"
    document, arrays = storage.read(path)
    slots = document["training"]["slots"]
    vectors = ["p", "safe", "final", *(f"slot.{i}" for i in range(slots))]
    for name_ in {f"training.{vector}" for vector in vectors} & set(arrays):
        if lie == "longer":
            arrays[name_] = np.concatenate([arrays[name_]] * 2, axis=-1)
        elif lie == "another axis":
            arrays[name_] = arrays[name_][None]
    if lie == "another axis":
        for name_ in ("lowest", "waited", "running", "dead"):
            arrays[f"training.{name_}"] = arrays[f"training.{name_}"][None]
    if lie == "a slot too many":
        document["training"]["slots"] = slots + 1
        arrays[f"training.slot.{slots}"] = arrays["training.p"]
    elif lie == "a slot too few":
        document["training"]["slots"] = slots - 1
    storage.write(path, document, arrays)
    model, X, y, arguments = make(name)
    fit = {
        "fit": lambda: model.fit(X, y, **arguments, checkpoint=tmp_path, resume=True),
        "resume": lambda: xpmlp.resume(tmp_path, X, y),
    }[how]
    with pytest.raises(xpmlp.FileFormatError, match=re.escape("last.safetensors cannot be loaded: ")):
        fit()


def test_the_comparison_sees_a_single_bit(tmp_path):
    # The test is tested.
    net, X, y, arguments = make("plain")
    net.fit(X, y, **arguments)
    net.save(tmp_path / "x")
    other = xpmlp.load(tmp_path / "x")
    other._p[0] = np.nextafter(other._p[0], 1.0)
    with pytest.raises(AssertionError):
        demand_same(other, net)


@pytest.mark.parametrize("forgotten", ["t", "samples", "waited", "safe"])
def test_forgetting_any_part_of_the_state_is_noticed(forgotten, tmp_path, monkeypatch):
    # The test is tested: resume with one part of the state left out, and the outcome differs.
    arguments = {"epochs": EPOCHS, "patience": 1, "tol": 10.0, "early_stopping": True, "schedule": "inverse_scaling"}
    X, y = data()

    def begin():
        return MLP([3, 6, 1], random_state=3, dropout=0.2)

    with pytest.raises(CutError):
        begin().fit(X, y, **arguments, checkpoint=tmp_path, callbacks=[cut_after(2)])
    whole = begin().fit(X, y, **arguments)
    document, arrays = storage.read(tmp_path / "last.safetensors")
    match forgotten:
        case "t":
            document["training"]["t"] = 0
        case "samples":
            document["training"]["samples"] = 0
        case "waited":
            arrays["training.waited"] = arrays["training.waited"] * 0
        case "safe":
            arrays["training.safe"] = arrays["training.safe"] * 0.0
            arrays["training.lowest"] = arrays["training.lowest"] * 0.0
    storage.write(tmp_path / "last.safetensors", document, arrays)
    again = begin().fit(X, y, **arguments, checkpoint=tmp_path, resume=True)
    assert again.parameters.tobytes() != whole.parameters.tobytes()


# --- The same seed, the same bits ---

HASHER = """
    import hashlib, json, sys
    sys.path.insert(0, sys.argv[1])
    from tests.test_resume import make
    import numpy as np
    np.random.seed(int(sys.argv[2]))
    digests = {}
    for name in json.load(sys.stdin):
        net, X, y, arguments = make(name)
        arguments.pop("checkpoint_every", None)
        digests[name] = hashlib.sha256(net.fit(X, y, **arguments).parameters.tobytes()).hexdigest()
        again = make(name)[0].fit(X, y, **arguments)
        assert again.parameters.tobytes() == net.parameters.tobytes()
    print(json.dumps(digests))
"""


def test_the_same_seed_is_the_same_bits_across_processes_hash_seeds_and_fits():
    names = list(CONFIGURATIONS)[::3]
    answers = []
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(HASHER), os.path.dirname(os.path.dirname(__file__)), seed],
            input=json.dumps(names), text=True, check=True, timeout=300, capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )  # fmt: skip
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0].values())) >= len(names) - 1  # and these are different trainings
