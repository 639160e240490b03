"""How an MLP is fitted: check, split, plan, train, and only then change the network."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xpmlp import checkpoints, checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, place_of
from xpmlp.checkpoints import Checkpoints
from xpmlp.description import describe_optimizer, describe_schedule
from xpmlp.faults import telling_of_memory
from xpmlp.mlp import filing
from xpmlp.network import Network
from xpmlp.optimizers import optimizer as find_optimizer
from xpmlp.progress import Bar
from xpmlp.runners import Data, find_runner
from xpmlp.runners.step import State, Task
from xpmlp.schedules import schedule as find_schedule
from xpmlp.seeds import DROPOUT, child, generator
from xpmlp.training import Plan, Report, train
from xpmlp.transfer import to_numpy

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


class Samples(NamedTuple):
    """Checked inputs, targets and weights on the device."""

    x: Array
    y: Array
    w: Array | None

    @property
    def n(self) -> int:
        """Their number."""
        return int(self.x.shape[-2])

    def take(self, rows: HostArray, place: Place) -> "Samples":
        """Some of them, by their indices on the host."""
        index = place.asarray(rows.astype(np.int32))
        take = place.xp.take
        w = None if self.w is None else take(self.w, index, axis=-1)
        return Samples(take(self.x, index, axis=self.x.ndim - 2), take(self.y, index, axis=self.y.ndim - 2), w)


def fit_network(net: "MLP", X: Any, y: Any, options: Options) -> None:
    """Train `net`; it is as it was before if anything fails, and keeps what it learned if a callback does."""
    o = options
    saved = filing.saved(net, o.checkpoint, o.resume)
    orders = copy.deepcopy(net._orders) if saved is None else saved.orders  # a fit that fails has drawn nothing
    began = copy.deepcopy(orders)
    samples, held_out = _samples(net, X, y, o, orders[0])
    batch_size = samples.n if o.batch_size is None else checks.integer(o.batch_size, "batch_size", least=1)
    data = Data(net.place, samples.x, samples.y, samples.w, batch_size)
    task = _task(net, o)
    plan = _plan(o, task, data)
    every = checks.integer(o.checkpoint_every, "checkpoint_every", least=1)
    callbacks = checks.functions(o.callbacks, "callbacks")
    recorder = Recorder(net, samples, held_out, _metric(o.metric, net.network), callbacks, plan.n_epochs, o.progress)

    def order() -> HostArray | None:
        if not o.shuffle or data.n_batches == 1:  # one batch of everything is the same in any order
            return None
        drawn = [rng.permutation(data.n) for rng in orders]
        return drawn[0] if net.n_networks is None else np.stack(drawn)

    before = net.__dict__ | {"history": {name: list(values) for name, values in net.history.items()}}
    keep = start = None
    try:
        if o.checkpoint is not None:
            run = {"arguments": _arguments(o, task, plan, batch_size, every), "data": _digest(samples, held_out)}
            keep = Checkpoints(o.checkpoint, every, net.place, partial(filing.stored, net, orders=orders), run, began)
        if saved is not None:
            start = filing.take_up(net, saved, run, orders)
            recorder.first = len(net.history["loss"]) - start.epoch
        with recorder.bar, telling_of_memory(net.place, f"training with batch_size={data.batch_size}", SMALLER):
            p = net.place.xp.asarray(net._p, copy=True)  # training owns what it changes
            result = train(
                find_runner(task, data, _dropout_seed(net, recorder.first)),
                State(p, task.optimizer.init(p).slots, 0),
                plan,
                net.place,
                net.layout,
                orders=order,
                validate=None if held_out is None else recorder.validate,
                on_epoch=[recorder],
                on_snapshot=lambda snapshot: (
                    None if keep is None else keep(snapshot, failed=recorder.error is not None)
                ),
                start=start,
            )
    except BaseException:
        net.__dict__.update(before)
        raise
    net._p, net._orders, net._trace, net._gradients = result.p, orders, None, None
    if recorder.error is not None:
        recorder.error.add_note(
            f"Training ended here; the network keeps what it had learned in {result.epochs} epochs."
        )
        raise recorder.error


def _samples(net: "MLP", X: Any, y: Any, o: Options, rng: np.random.Generator) -> tuple[Samples, Samples | None]:
    samples = net._samples(X, y, o.sample_weight)
    if o.validation_data is not None:
        names = ("validation_data[0]", "validation_data[1]")
        return samples, net._samples(*checks.inputs_and_targets(o.validation_data, "validation_data"), names=names)
    return _hold_out(samples, o.validation_fraction, rng, net.place) if o.early_stopping else (samples, None)


def _task(net: "MLP", o: Options) -> Task:
    method = find_optimizer(o.optimizer)
    return Task(
        net.network,
        method,
        l2=checks.number(o.l2, "l2", least=0.0),
        clip_norm=None if o.clip_norm is None else checks.number(o.clip_norm, "clip_norm", above=0.0),
        factors=None if o.learning_rate_factors is None else _per_layer(net, o.learning_rate_factors),
        decays=_per_layer(net, [1.0] * net.layout.n_layers, biases=0.0) if method.weight_decay else None,
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


def _per_layer(net: "MLP", factors: Sequence[float], biases: float | None = None) -> Array:
    K = net.layout.n_layers
    if len(factors) != K:
        raise ValueError(f"learning_rate_factors must hold one for each of the {K} layers; got {len(factors)}.")
    flat = np.zeros(net.layout.size)
    for name, k, start, stop, _ in net.layout.segments:
        factor = checks.number(factors[k - 1], f"learning_rate_factors[{k - 1}]", least=0.0)
        flat[start:stop] = factor if name == "W" or biases is None else biases
    return net.place.asarray(flat, net.dtype)


def _dropout_seed(net: "MLP", epochs: int) -> Array | None:
    # Masks are hashed from the steps of one fit; what was trained before takes part, so that no fit repeats another's.
    if not any(net.network.dropout):
        return None
    draws = [generator(child(seed, DROPOUT), epochs).integers(2**31, dtype=np.int32) for seed in net.seeds]
    shape = (1, 1) if net.n_networks is None else (net.n_networks, 1, 1)
    return net.place.asarray(np.asarray(draws, dtype=np.int32).reshape(shape))


class Recorder:
    """What happens after an epoch: history, callbacks, the progress bar."""

    def __init__(
        self,
        net: "MLP",
        samples: Samples,
        held_out: Samples | None,
        metric: Callable[[Array, Array], float] | None,
        callbacks: Sequence[Callable[["MLP", int, dict[str, Any]], object]],
        n_epochs: int,
        progress: bool,
    ) -> None:
        self.net, self.samples, self.held_out, self.metric, self.callbacks = net, samples, held_out, metric, callbacks
        self.bar = Bar(n_epochs, progress)
        self.first = len(net.history.get("loss", []))
        self.error: Exception | None = None  # what a callback or a metric raised

    def validate(self, p: Array) -> Any:
        """The loss on what was held out."""
        self.net._p = p
        assert self.held_out is not None
        return self.net._loss(self.held_out)

    def __call__(self, report: Report) -> bool:
        """Take note of an epoch; True where a callback wants to stop, or has failed."""
        net = self.net
        net._p = report.state.p
        logs: dict[str, Any] = {"loss": plain(report.loss), "learning_rate": report.learning_rate}
        if report.validation is not None:
            logs["validation_loss"] = plain(report.validation)
        try:
            if self.metric is not None:
                logs["metric"] = self.metric(self.samples.y, net.predict(self.samples.x))
                if self.held_out is not None:
                    logs["validation_metric"] = self.metric(self.held_out.y, net.predict(self.held_out.x))
            self._note(logs)
            stop = [
                callback(net, self.first + report.epoch, logs) is True for callback in self.callbacks
            ]  # all of them
        except Exception as error:  # noqa: BLE001 - whatever it is, it comes out of fit once the network is safe
            self.error = error
            return True
        return any(stop)

    def _note(self, logs: dict[str, Any]) -> None:
        for name, value in logs.items():
            self.net.history.setdefault(name, []).append(value)
        self.bar.advance(logs)


def _digest(samples: Samples, held_out: Samples | None) -> str:
    arrays = [*samples, *(held_out or ())]
    return checkpoints.data_digest(*(None if array is None else to_numpy(array) for array in arrays))


def _or_own(describe: Callable[[Any], Any], row: Any) -> Any:
    try:
        return describe(row)
    except ValueError:
        return {"own": row.name}


def plain(value: HostArray) -> Any:
    """A float for one network, a NumPy array of shape (m,) for m."""
    return float(value) if np.ndim(value) == 0 else np.asarray(value)


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
