"""MLP's face of a fit: its arguments become a `Problem`, what came of it becomes the network."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xpmlp import checks, training
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, place_of
from xpmlp.backends.transfer import to_numpy
from xpmlp.faults import telling_of_memory
from xpmlp.io.description import describe_optimizer, describe_schedule
from xpmlp.mlp import serialization
from xpmlp.mlp.validation import Door, Samples
from xpmlp.network import Network
from xpmlp.optim.optimizers import optimizer as find_optimizer
from xpmlp.optim.schedules import schedule as find_schedule
from xpmlp.runners import Data
from xpmlp.runners.step import Task
from xpmlp.training import Asked, Fitted, Observer, Outcome, Problem, Saved, checkpoints, plain, rows_at_once
from xpmlp.training.checkpoints import Stored
from xpmlp.training.loop import Plan
from xpmlp.training.progress import Bar
from xpmlp.training.seeds import DROPOUT, child, generator

if TYPE_CHECKING:
    from xpmlp.mlp.mlp import MLP

SMALLER = "Lower batch_size, or make the network narrower; it is as it was before."


class Options(NamedTuple):
    """The arguments of `MLP.fit`, where they are explained."""

    epochs: Any
    batch_size: Any
    optimizer: Any
    learning_rate: Any
    schedule: Any
    l2: Any
    clip_norm: Any
    learning_rate_factors: Any
    precision: Any
    shuffle: Any
    sample_weight: Any
    validation_data: Any
    validation_fraction: Any
    early_stopping: Any
    patience: Any
    tol: Any
    metric: Any
    callbacks: Any
    progress: Any
    on_divergence: Any
    max_time: Any
    checkpoint: Any
    checkpoint_every: Any
    resume: Any


class Permutations:
    """The orders of the epochs: each network draws its own."""

    def __init__(self, rngs: list[np.random.Generator], n: int, shuffle: bool, alone: bool) -> None:
        self.rngs, self.n, self.shuffle, self.alone = rngs, n, shuffle, alone

    def order(self) -> HostArray | None:
        """See `Draws`."""
        if not self.shuffle:
            return None
        drawn = [rng.permutation(self.n) for rng in self.rngs]
        return drawn[0] if self.alone else np.stack(drawn)

    def go_on(self, state: list[np.random.Generator]) -> None:
        """See `Draws`."""
        self.rngs[:] = state


def fit_network(net: "MLP", X: Any, y: Any, options: Options) -> None:
    """Train `net`; it is as it was before if anything fails, and keeps what it learned if a callback does."""
    o = options
    before = dict(vars(net))
    try:
        saved = serialization.saved(net, o.checkpoint, o.resume)
        orders = copy.deepcopy(net._orders) if saved is None else saved.orders  # a fit that fails has drawn nothing
        began = copy.deepcopy(orders)
        samples, held_out = _samples(net._door, X, y, o, orders[0])
        batch_size = samples.n if o.batch_size is None else checks.integer(o.batch_size, "batch_size", least=1)
        data = Data(net.place, *samples, batch_size)
        task = _task(net, o)
        plan = _plan(o, task, data)
        every = checks.integer(o.checkpoint_every, "checkpoint_every", least=1)
        callbacks = checks.functions(o.callbacks, "callbacks")
        metric = _metric(o.metric, net.network)
        goes_on, done = None, len(net.history.get("loss", []))
        if saved is not None:
            was = serialization.of_stored(type(net), *saved.model, net.place)
            net.random_state = was.random_state
            goes_on = Saved(saved.snapshot, saved.run, was._orders, was.history)
            done = len(was.history["loss"]) - saved.snapshot.epoch
        rows = rows_at_once(net.layout.sizes, net.n_networks)
        problem = Problem(
            task,
            data,
            plan,
            Permutations(orders, data.n, o.shuffle and data.n_batches > 1, net.n_networks is None),
            held_out=None if held_out is None else Data(net.place, *held_out, rows),
            monitor="loss" if held_out is None else "validation_loss",
            seed=_dropout_seed(net, done),
        )
        begin = Fitted(
            net.network, net.place.xp.asarray(net._p, copy=True), net.history
        )  # training owns what it changes
        keep = None
        if o.checkpoint is not None:
            run = {"arguments": _arguments(o, task, plan, batch_size, every), "data": _digest(samples, held_out)}
            keep = Asked(o.checkpoint, every, partial(_stored, net, orders), run, began)
        bar = Bar(plan.n_epochs, o.progress)
        watcher = Watcher(net, samples, held_out, metric, callbacks, bar)
        with bar, telling_of_memory(net.place, f"training with batch_size={data.batch_size}", SMALLER):
            fitted = training.fit(problem, begin, [watcher], keep=keep, saved=goes_on)
    except BaseException:
        vars(net).clear()
        vars(net).update(before)
        raise
    net._p, net.history, net._orders, net._trace, net._gradients = fitted.p, fitted.history, orders, None, None
    if fitted.error is not None:
        fitted.error.add_note(f"Training ended here; the network keeps what it had learned in {fitted.epochs} epochs.")
        raise fitted.error


class Watcher(Observer):
    """Whoever looks at the network after an epoch: the metric, the callbacks, the progress bar."""

    def __init__(
        self,
        net: "MLP",
        samples: Samples,
        held_out: Samples | None,
        metric: Callable[[Array, Array], float] | None,
        callbacks: Sequence[Callable[["MLP", int, dict[str, Any]], object]],
        bar: Bar,
    ) -> None:
        self.net, self.samples, self.held_out, self.metric = net, samples, held_out, metric
        self.callbacks, self.bar = callbacks, bar

    def measure(self, now: Fitted, seen: Outcome | None) -> Mapping[str, Any]:
        """The metric, of the training data too."""
        if self.metric is None:
            return {}
        self.net._p = now.p
        found = {"metric": self.metric(self.samples.y, self.net.predict(self.samples.x))}
        if self.held_out is not None and seen is not None:
            found["validation_metric"] = self.metric(self.held_out.y, seen.yhat)
        return found

    def end(self, now: Fitted, logs: dict[str, Any]) -> bool:
        """Show the network of this epoch to the callbacks."""
        self.net._p, self.net.history = now.p, now.history
        self.bar.advance(logs)
        epoch = len(now.history["loss"])
        wishes = [callback(self.net, epoch, logs) is True for callback in self.callbacks]  # all are called
        return any(wishes)


def _stored(net: "MLP", orders: list[np.random.Generator], fitted: Fitted) -> Stored:
    return serialization.stored(net, np.asarray(to_numpy(fitted.p)), fitted.history, orders)


def _samples(door: Door, X: Any, y: Any, o: Options, rng: np.random.Generator) -> tuple[Samples, Samples | None]:
    samples = door.samples(X, y, o.sample_weight)
    if o.validation_data is not None:
        names = ("validation_data[0]", "validation_data[1]")
        return samples, door.samples(*checks.inputs_and_targets(o.validation_data, "validation_data"), names=names)
    return _hold_out(samples, o.validation_fraction, rng, door.place) if o.early_stopping else (samples, None)


def _task(net: "MLP", o: Options) -> Task:
    method = find_optimizer(o.optimizer)
    return Task(
        net.network,
        method,
        l2=checks.number(o.l2, "l2", least=0.0),
        clip_norm=None if o.clip_norm is None else checks.number(o.clip_norm, "clip_norm", above=0.0),
        factors=None if o.learning_rate_factors is None else _factors(net, o.learning_rate_factors),
        decays=net.layout.fill(lambda segment: segment.decays, net._p) if method.weight_decay else None,
        precision=checks.option(o.precision, "precision", ("highest", "high")),
    )


def _plan(o: Options, task: Task, data: Data) -> Plan:
    rate = task.optimizer.learning_rate if o.learning_rate is None else o.learning_rate
    patience = checks.integer(o.patience, "patience", least=0)
    return Plan(
        n_epochs=checks.integer(o.epochs, "epochs", least=1),
        learning_rate=checks.number(rate, "learning_rate", above=0.0),
        schedule=find_schedule(o.schedule),
        n_batches=data.n_batches,
        n_samples=data.n,
        patience=patience if o.early_stopping else float("inf"),
        tol=checks.number(o.tol, "tol", least=0.0),
        keep_best=o.early_stopping,
        on_divergence=checks.option(o.on_divergence, "on_divergence", ("restore", "raise")),
        max_time=float("inf") if o.max_time is None else checks.number(o.max_time, "max_time", above=0.0),
        know_best=o.checkpoint is not None,
    )


def _arguments(o: Options, task: Task, plan: Plan, batch_size: int, every: int) -> dict[str, Any]:
    """What a checkpoint says of its run, in JSON; resuming with other arguments is refused."""
    factors = None if o.learning_rate_factors is None else list(map(float, o.learning_rate_factors))
    return {
        "epochs": plan.n_epochs,
        "batch_size": batch_size,
        "optimizer": _or_own(describe_optimizer, task.optimizer),
        "learning_rate": plan.learning_rate,
        "schedule": _or_own(describe_schedule, plan.schedule),
        "l2": task.l2,
        "clip_norm": task.clip_norm,
        "precision": task.precision,
        "learning_rate_factors": factors,
        "shuffle": bool(o.shuffle),
        "validation_fraction": float(o.validation_fraction),
        "early_stopping": bool(o.early_stopping),
        "patience": int(o.patience),
        "tol": plan.tol,
        "metric": {"own": getattr(o.metric, "__name__", "function")} if callable(o.metric) else o.metric,
        "on_divergence": plan.on_divergence,
        "max_time": None if o.max_time is None else float(o.max_time),
        "checkpoint_every": every,
    }


def _hold_out(samples: Samples, fraction: float, rng: np.random.Generator, place: Place) -> tuple[Samples, Samples]:
    fraction = checks.number(fraction, "validation_fraction", above=0.0, below=1.0)
    n_held = max(round(fraction * samples.n), 1)
    if n_held >= samples.n:
        raise ValueError(f"validation_fraction={fraction:g} of {samples.n} samples leaves none to train on.")
    order = rng.permutation(samples.n)  # the same samples are held out from every network
    return samples.take(np.sort(order[n_held:]), place), samples.take(np.sort(order[:n_held]), place)


def _factors(net: "MLP", factors: Sequence[float]) -> Array:
    K = net.layout.n_layers
    if len(factors) != K:
        raise ValueError(f"learning_rate_factors must hold one for each of the {K} layers; got {len(factors)}.")
    each = [checks.number(it, f"learning_rate_factors[{k}]", least=0.0) for k, it in enumerate(factors)]
    return net.layout.fill(lambda segment: each[max(segment.layer, 1) - 1], net._p)


def _dropout_seed(net: "MLP", epochs: int) -> Array | None:
    # Masks are hashed from the steps of one fit; what was trained before takes part, so that no fit repeats another's.
    if not any(net.network.dropout):
        return None
    draws = [generator(child(seed, DROPOUT), epochs).integers(2**31, dtype=np.int32) for seed in net.seeds]
    shape = (1, 1) if net.n_networks is None else (net.n_networks, 1, 1)
    return net.place.asarray(np.asarray(draws, dtype=np.int32).reshape(shape))


def _digest(samples: Samples, held_out: Samples | None) -> str:
    arrays = [*samples, *(held_out or ())]
    return checkpoints.data_digest(*(None if array is None else to_numpy(array) for array in arrays))


def _or_own(describe: Callable[[Any], Any], row: Any) -> Any:
    try:
        return describe(row)
    except ValueError:
        return {"own": row.name}


def accuracy(y: Array, yhat: Array) -> Any:
    """The share of samples whose class, the largest of the outputs, is right.

    A float, or a NumPy array of shape (m,) for m networks.
    """
    xp = place_of(y=y, yhat=yhat).xp
    return _share(xp.argmax(yhat, axis=-1) == xp.argmax(y, axis=-1), yhat)


def binary_accuracy(y: Array, yhat: Array) -> Any:
    """The share of samples of which every output is on y's side of 1/2.

    A float, or a NumPy array of shape (m,) for m networks.
    """
    xp = place_of(y=y, yhat=yhat).xp
    return _share(xp.all((yhat > 0.5) == (y > 0.5), axis=-1), yhat)


def _share(right: Array, like: Array) -> Any:
    place = place_of(right)
    return plain(place.backend.to_numpy(place.xp.mean(place.xp.astype(right, like.dtype), axis=-1)))


def _metric(metric: Any, network: Network) -> Callable[[Array, Array], float] | None:
    if metric is None or callable(metric):
        return metric  # type: ignore[no-any-return]
    checks.option(metric, "metric", ("accuracy",))
    if network.loss.targets not in ("probability", "distribution"):
        raise ValueError(f"accuracy needs a classification loss; got {network.loss.name!r}.")
    return accuracy if network.loss.targets == "distribution" else binary_accuracy
