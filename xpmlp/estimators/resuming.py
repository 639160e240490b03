"""Checkpoints of a fit of an estimator, and going on from one: `fit(X, y, checkpoint="run/", resume=True)`.

The core's snapshot says where training stands. What scikit-learn's ways add is kept here: the random state as it was
when the fit began and as it is now, the order of the samples (each epoch shuffles the one before), the history.
"""

import copy
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from xpmlp import checkpoints, checks, storage
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.checkpoints import Checkpoint, Checkpoints, Stored
from xpmlp.estimators.filing import CURVES, random_state_document, random_state_of, written_parameters
from xpmlp.estimators.inputs import InvalidInputError
from xpmlp.estimators.monitor import HeldOut, History, Monitor
from xpmlp.estimators.recipe import build_optimizer
from xpmlp.lbfgs import Position
from xpmlp.network import Network
from xpmlp.runners.step import State
from xpmlp.training import Snapshot
from xpmlp.transfer import to_numpy

# Parameters that may be others when a run goes on
FREE = {"max_iter", "max_time", "max_fun", "callbacks", "verbose", "backend", "device", "random_state", "warm_start"}


class Asked(NamedTuple):
    """The arguments of `fit` that are about checkpoints."""

    folder: str | os.PathLike[str] | None = None
    every: int = 1
    resume: bool = False


NO_CHECKPOINTS = Asked()


class Known(NamedTuple):
    """What the checkpoint of an estimator knows beside the core's snapshot."""

    checkpoint: Checkpoint
    began: Mapping[str, Any]  # the random state when the fit began
    now: Mapping[str, Any]
    anew: bool  # whether the fit began with weights of its own drawing
    seen: int  # samples before the fit: t_ of a warm start
    order: HostArray  # of the samples, as last shuffled
    history: dict[str, list[float] | None]

    @property
    def snapshot(self) -> Snapshot:
        """Where training stands."""
        return self.checkpoint.snapshot


def known(estimator: Any, asked: Asked, place: Place, dtype: str) -> Known | None:
    """What there is to go on with; None where there is nothing yet.

    Raises
    ------
    ValueError
        If the checkpoint is not of this kind of estimator with these parameters.
    """
    checks.integer(asked.every, "checkpoint_every", least=1)
    if not asked.resume:
        return None
    if asked.folder is None:
        raise InvalidInputError("resume=True needs a folder to go on from; name it with checkpoint=.")
    path = checkpoints.last(asked.folder)
    if not path.exists():
        return None
    saved = checkpoints.read(asked.folder, place, dtype)
    document, arrays = saved.model
    with storage.believing(path):
        kind, was = document["kind"], document["parameters"]
        fitting = document["fitting"]
        curves = {name: arrays[name].tolist() if name in arrays else None for name in CURVES}
        order = arrays["order"]
        if order.dtype != np.int64 or not np.array_equal(np.sort(order), np.arange(len(order))):
            raise ValueError("order must hold every sample once.")
        found = Known(saved, fitting["began"], fitting["now"], fitting["anew"], int(fitting["seen"]), order, curves)
        random_state_of(found.began)
        random_state_of(found.now)
    if kind != type(estimator).__name__:
        raise InvalidInputError(f"the checkpoint is of a {kind}, this is a {type(estimator).__name__}.")
    now = written_parameters(estimator, without=FREE)
    other = [f"{name} was {was.get(name)!r}, is {now[name]!r}" for name in now if was.get(name) != now[name]]
    if other:
        raise InvalidInputError(f"resume=True goes on with the parameters that the run began with; {'; '.join(other)}.")
    with storage.believing(path):
        if estimator.solver == "lbfgs":
            position_of(found.snapshot)
        else:
            checkpoints.demand_slots(found.snapshot, len(build_optimizer(estimator).slots))
    return found


def generator(estimator: Any, before: Known | None) -> Any:
    """The random state that the fit draws from; of a run that goes on, as it was when it began."""
    rng = check_random_state(estimator.random_state)
    if before is None:
        return rng
    if not isinstance(estimator.random_state, np.random.RandomState):
        rng = np.random.RandomState()
    rng.set_state(random_state_of(before.began).get_state())
    return rng


class Run:
    """A fit that leaves checkpoints, or goes on from one, or neither."""

    def __init__(self, asked: Asked, before: Known | None, rng: Any) -> None:
        self.asked, self.before, self.rng = asked, before, rng
        self.began = random_state_document(rng) if asked.folder is not None else None
        self.anew, self.seen = True, 0
        self.order: HostArray = np.arange(0)
        self.keep: Checkpoints | None = None

    @property
    def start(self) -> Snapshot | None:
        """Where training goes on."""
        return None if self.before is None else self.before.snapshot

    def history(self, otherwise: Callable[[], History]) -> History:
        """The history that this fit goes on with."""
        if self.before is None:
            return otherwise()
        losses, scores, validation = (self.before.history[name] for name in CURVES)
        return History(losses or [], validation, scores)

    def open(
        self,
        monitor: Monitor,
        network: Network,
        samples: Any,
        held_out: HeldOut | None,
        show: Callable[[Array], dict[str, Any]],
    ) -> None:
        """Be ready to train on these samples: everything before training has been drawn."""
        self.order = np.arange(samples.inputs.n)
        if self.asked.folder is None:
            return
        estimator, place, dtype = monitor.estimator, samples.inputs.place, samples.inputs.dtype
        data = _digest(samples.inputs, samples.targets, samples.w)
        if held_out is not None:
            data += _digest(held_out.inputs, held_out.targets, held_out.w)
        run = {"data": data, "arguments": {"checkpoint_every": self.asked.every}}
        if self.before is not None:
            checkpoints.demand_same_run(self.before.checkpoint.run, run)
            if len(self.before.order) != samples.inputs.n:
                raise InvalidInputError(
                    f"the checkpoint is of {len(self.before.order)} samples, not {samples.inputs.n}."
                )
            monitor.epochs = self.before.snapshot.epoch

        def describe(flat: HostArray) -> Stored:
            view = copy.copy(estimator)
            history = monitor.history
            p = place.asarray(np.array(flat, copy=True), dtype)
            vars(view).update(show(p), n_iter_=monitor.epochs, t_=self.seen + samples.inputs.n * monitor.epochs)
            vars(view).update(
                zip(CURVES, (history.losses, history.validation_scores, history.validation_losses), strict=True)
            )
            vars(view).update(callbacks=None, _slim=True, _carried=None)
            document, arrays = view._stored()
            document["fitting"] = {
                "began": self.began,
                "now": random_state_document(self.rng),
                "anew": self.anew,
                "seen": self.seen,
            }
            return document, arrays | {"order": self.order.astype(np.int64)}

        describe(to_numpy(network.layout.pack(*_zeros(network))))  # what cannot be kept is said before training
        self.keep = Checkpoints(self.asked.folder, self.asked.every, place, describe, run, [])

    def go_on(self) -> None:
        """Stand where the checkpoint stands, if there is one."""
        if self.before is not None:
            self.rng.set_state(random_state_of(self.before.now).get_state())
            self.order = self.before.order

    def __call__(self, snapshot: Snapshot, failed: bool = False) -> None:
        """Write a checkpoint, if it is time to."""
        if self.keep is not None:
            self.keep(snapshot, failed)


def snapshot_of(position: Position, why: str) -> Snapshot:
    """An iteration of L-BFGS as a snapshot; `why` says what its callback stopped it for."""
    p, loss, g, pairs, n_iter, n_fun, stopped_by = position
    state = State(p, (g, *(s for s, _ in pairs), *(y for _, y in pairs)), n_fun)
    stopped_by = why or {"": "epochs", "iterations": "epochs"}.get(stopped_by, stopped_by)
    flags = (np.asarray(0), np.asarray(True), np.asarray(False))
    return Snapshot(state, n_iter, 0, 1.0, stopped_by, np.asarray(loss), *flags, p, None)


def position_of(snapshot: Snapshot) -> Position:
    """The iteration of L-BFGS that a snapshot was made of."""
    p, (g, *vectors), n_fun = snapshot.state
    n = len(vectors) // 2
    stopped_by = "" if snapshot.stopped_by == "epochs" else snapshot.stopped_by
    pairs = tuple(zip(vectors[:n], vectors[n:], strict=True))
    return Position(p, float(snapshot.lowest), g, pairs, snapshot.epoch, n_fun, stopped_by)


def _zeros(network: Network) -> tuple[list[Any], list[Any]]:
    sizes = network.layout.sizes
    K = range(1, len(sizes))
    return [None, *(np.zeros((sizes[k - 1], sizes[k])) for k in K)], [None, *(np.zeros(sizes[k]) for k in K)]


def _digest(inputs: Any, targets: HostArray, w: HostArray | None) -> str:
    x = inputs.on_host()
    parts = (x,) if isinstance(x, np.ndarray) else (x.data, x.indices, x.indptr)
    return checkpoints.data_digest(*parts, targets, w)
