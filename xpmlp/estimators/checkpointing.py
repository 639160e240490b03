"""Checkpoints of a fit of an estimator, and going on from one: `fit(X, y, checkpoint="run/", resume=True)`.

The core's checkpoint says where training stands. What scikit-learn's ways add is kept here: the random state as it was
when the fit began and as it is now, and the order of the samples (each epoch shuffles the one before).
"""

import numbers
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from xpmlp import checks
from xpmlp.backends import HostArray, Place
from xpmlp.estimators.attributes import Attributes
from xpmlp.estimators.building import build_optimizer
from xpmlp.estimators.copying import copied
from xpmlp.estimators.monitor import CURVES
from xpmlp.estimators.serialization import random_state_document, random_state_of, stored, written_parameters
from xpmlp.estimators.settings import Settings
from xpmlp.estimators.targets import Samples
from xpmlp.estimators.validation import InvalidInputError
from xpmlp.io import storage
from xpmlp.training import CheckpointRequest, Fitted, Problem, Saved, checkpoints
from xpmlp.training.checkpoints import Stored

# Parameters that may be others when a run goes on
FREE = {"max_iter", "max_time", "max_fun", "callbacks", "verbose", "backend", "device", "random_state", "warm_start"}


class Wanted(NamedTuple):
    """The arguments of `fit` that are about checkpoints."""

    folder: str | os.PathLike[str] | None = None
    every: int = 1
    resume: bool = False
    overwrite: bool = False


NO_CHECKPOINTS = Wanted()
MANY = 2**20  # samples whose order takes megabytes: half of them as int32, which is shuffled a little slower


class Known(NamedTuple):
    """What the checkpoint of an estimator knows."""

    saved: Saved
    began: Mapping[str, Any]  # the random state when the fit began
    anew: bool  # whether the fit began with weights of its own drawing
    seen: int  # samples before the fit: t_ of a warm start


class Shuffles:
    """The orders of the epochs as scikit-learn draws them: each shuffles the one before, and takes its place."""

    def __init__(self, rng: np.random.RandomState, kept: bool) -> None:
        self.rng, self.draws, self.last = rng, False, np.arange(0)
        self.began = random_state_document(rng) if kept else None

    def of(self, n: int, draws: bool) -> "Shuffles":
        """Those of n samples."""
        self.last, self.draws = np.arange(n, dtype=np.int32 if n > MANY else np.int64), draws
        return self

    def order(self) -> HostArray | None:
        """See `Draws`."""
        if not self.draws:
            return None
        self.rng.shuffle(self.last)
        return self.last

    def go_on(self, state: tuple[Mapping[str, Any], HostArray]) -> None:
        """See `Draws`."""
        now, order = state
        if len(order) != len(self.last):
            raise InvalidInputError(f"the checkpoint is of {len(order)} samples, not {len(self.last)}.")
        self.rng.set_state(random_state_of(now).get_state())
        self.last = order.astype(self.last.dtype)


def known(estimator: Attributes, settings: Settings, wanted: Wanted, place: Place, dtype: str) -> Known | None:
    """What there is to go on with; None where there is nothing yet.

    Raises
    ------
    ValueError
        If the checkpoint is not of this kind of estimator with these parameters.
    """
    checks.integer(wanted.every, "checkpoint_every", least=1)
    if not wanted.resume:
        _demand_no_other_run(estimator, settings, wanted)
        return None
    if wanted.folder is None:
        raise InvalidInputError("resume=True needs a folder to go on from; name it with checkpoint=.")
    path = checkpoints.last_of(wanted.folder)
    if not path.exists():
        return None
    found = checkpoints.read(wanted.folder, place, dtype)
    document, arrays = found.model
    with storage.believing(path):
        kind, was = document["kind"], document["parameters"]
        fitting = document["fitting"]
        history = {name: arrays[curve].tolist() for name, curve in CURVES.items() if curve in arrays}
        order = arrays["order"]
        if order.dtype != np.int64 or not np.array_equal(np.sort(order), np.arange(len(order))):
            raise ValueError("order must hold every sample once.")
        saved = Saved(found.snapshot, found.run, (fitting["now"], order), history)
        before = Known(saved, fitting["began"], fitting["anew"], int(fitting["seen"]))
        random_state_of(before.began)
        random_state_of(fitting["now"])
    if kind != type(estimator).__name__:
        raise InvalidInputError(f"the checkpoint is of a {kind}, this is a {type(estimator).__name__}.")
    now = written_parameters(estimator, without=FREE)
    other = [f"{name} was {was.get(name)!r}, is {now[name]!r}" for name in now if was.get(name) != now[name]]
    if other:
        raise InvalidInputError(f"resume=True goes on with the parameters that the run began with; {'; '.join(other)}.")
    with storage.believing(path):
        if settings.solver != "lbfgs":
            checkpoints.demand_slots(found.snapshot, len(build_optimizer(settings).slots) + bool(settings.average))
        else:
            checkpoints.demand_pairs(found.snapshot)
    return before


def _demand_no_other_run(estimator: Attributes, settings: Settings, wanted: Wanted) -> None:
    """ValueError where the folder holds a run of another estimator; that the data are the same is seen later."""
    if wanted.folder is None or wanted.overwrite or not checkpoints.last_of(wanted.folder).exists():
        return
    try:
        document, _ = storage.read(checkpoints.last_of(wanted.folder))
    except storage.FileFormatError:  # refused when training is about to write there
        return
    was = document.get("parameters", {})
    now = written_parameters(estimator, without=FREE)
    if isinstance(settings.random_state, numbers.Integral):  # a generator has drawn since, and would say nothing
        now["random_state"] = int(settings.random_state)
    if document.get("kind") != type(estimator).__name__ or any(was.get(name) != now[name] for name in now):
        raise InvalidInputError(
            f"{os.fspath(wanted.folder)!r} holds the checkpoint of another run, with other parameters, and it would be "
            "lost. Choose another folder, or say overwrite=True."
        )


def generator(settings: Settings, before: Known | None) -> Any:
    """The random state that the fit draws from; of a run that goes on, as it was when it began."""
    rng = check_random_state(settings.random_state)
    if before is None:
        return rng
    if not isinstance(settings.random_state, np.random.RandomState):
        rng = np.random.RandomState()
    rng.set_state(random_state_of(before.began).get_state())
    return rng


def asked(
    estimator: Attributes,
    wanted: Wanted,
    problem: Problem,
    show: Callable[[Fitted], dict[str, Any]],
    data: str,
    anew: bool,
    seen: int,
) -> CheckpointRequest | None:
    """The checkpoints of this fit; `data` is what tells its samples from others."""
    if wanted.folder is None:
        return None
    draws: Any = problem.draws

    def describe(fitted: Fitted) -> Stored:
        view = copied(estimator, None)
        vars(view).update(show(fitted), callbacks=None, _slim=True, _carried=None)
        document, arrays = stored(view)
        now = random_state_document(draws.rng)
        document["fitting"] = {"began": draws.began, "now": now, "anew": anew, "seen": seen}
        return document, arrays | {"order": draws.last.astype(np.int64)}

    run = {"data": data, "arguments": {"checkpoint_every": wanted.every}}
    return CheckpointRequest(wanted.folder, wanted.every, describe, run, [], overwrite=wanted.overwrite)


def digest_of(samples: Samples, held_out: Samples | None) -> str:
    """What tells the samples of a run, and those that it is judged by, from others."""
    found = digest(samples.inputs, samples.targets, samples.w)
    return found if held_out is None else found + digest(held_out.inputs, held_out.targets, held_out.w)


def digest(inputs: Any, targets: HostArray, w: HostArray | None) -> str:
    """What tells the samples of a run from others."""
    x = inputs.on_host()
    parts = (x,) if isinstance(x, np.ndarray) else (x.data, x.indices, x.indptr)
    return checkpoints.data_digest(*parts, targets, w)
