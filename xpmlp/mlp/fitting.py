"""How an MLP is fitted: the arguments of `fit` become a `Problem`, and what came of it goes back to the object."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from xpmlp import checks, training
from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.backends.transfer import to_numpy
from xpmlp.faults import telling_of_memory
from xpmlp.io.description import describe_optimizer, describe_schedule
from xpmlp.mlp import serialization, sharded
from xpmlp.mlp.content import Content
from xpmlp.mlp.metrics import find_metric
from xpmlp.mlp.observers import Callbacks, Metrics, ShardMetric
from xpmlp.mlp.validation import Door, Samples
from xpmlp.network import Network
from xpmlp.optim.optimizers import OPTIMIZERS
from xpmlp.optim.optimizers import optimizer as find_optimizer
from xpmlp.optim.schedules import schedule as find_schedule
from xpmlp.runners import Data, find_runner, lbfgs
from xpmlp.runners.step import Task
from xpmlp.shards import Shards
from xpmlp.training import CheckpointRequest, Fitted, Observer, Problem, Saved, checkpoints, even_blocks, rows_at_once
from xpmlp.training.checkpoints import Stored
from xpmlp.training.loop import Plan
from xpmlp.training.pace import Pace
from xpmlp.training.progress import Bar
from xpmlp.training.seeds import DROPOUT, child, generator

SMALLER = "Lower batch_size, or make the network narrower; it is as it was before."
LBFGS = "lbfgs"


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
    average: Any
    precision: Any
    shuffle: Any
    drop_last: Any
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
    overwrite: Any
    group: Any


class Permutations:
    """The orders of the epochs: each network draws its own."""

    def __init__(self, rngs: list[np.random.Generator], data: Data, shuffle: bool, alone: bool) -> None:
        self.rngs, self.data, self.alone = rngs, data, alone
        self.shuffle = shuffle and not data.is_one_batch

    def order(self) -> HostArray | None:
        """See `Draws`."""
        if not self.shuffle:
            return None
        drawn = [rng.permutation(self.data.n_there)[: self.data.n] for rng in self.rngs]
        return drawn[0] if self.alone else np.stack(drawn)

    def go_on(self, state: list[np.random.Generator]) -> None:
        """See `Draws`."""
        self.rngs[:] = state


def fit_network(
    net: Content,
    X: Any,
    y: Any,
    options: Options,
    show: Callable[[Fitted], Any],
    parameters: Callable[[], Array],
) -> tuple[Fitted, Content]:
    """Train from the parameters of `net` on: what came of it, and `net` as it is then.

    `show` and `parameters` are those of `Callbacks`.
    """
    o = options
    saved = serialization.saved(net, o.checkpoint, o.resume)
    orders = copy.deepcopy(net.orders) if saved is None else saved.orders  # a fit that fails has drawn nothing
    began = copy.deepcopy(orders)
    data: Data
    samples: Samples | None = None
    parts: sharded.Sharded | None = None
    if isinstance(X, Shards):
        held_out, held = sharded.held_beside(net, y, o)
        size = 4096 if o.optimizer == LBFGS else checks.integer(o.batch_size, "batch_size", least=1)
        parts = sharded.samples_of(
            net, X, size, int(orders[0].integers(2**31)), o.group, shuffle=bool(o.shuffle), held=held
        )
        data = parts.data
    else:
        if o.group is not None:
            raise ValueError("a group trains on shards; xpmlp.shards.from_arrays(X, y) makes them of arrays.")
        samples, held_out = _samples(net.door, X, y, o, orders[0])
        data = _data(net, samples, o)
    task, plan = _task(net, o, data), _plan(o, data)
    if parts is not None:
        task = replace(task, reduce=parts.together)
    if samples is not None and samples.w is not None:
        task = replace(task, l2=task.l2 * checks.weight_scale(_largest(o.sample_weight)))
    every = checks.integer(o.checkpoint_every, "checkpoint_every", least=1)
    metric = find_metric(o.metric, net.network)
    callbacks = checks.functions(o.callbacks, "callbacks")
    goes_on, done, seed = None, len(net.history.get("loss", [])), net.random_state
    if saved is not None:
        was = serialization.of_stored(*saved.model, net.place)
        goes_on = Saved(saved.snapshot, saved.run, was.orders, was.history)
        done, seed = len(was.history["loss"]) - saved.snapshot.epoch, was.random_state
    net = net._replace(orders=orders, random_state=seed)
    rows = rows_at_once(net.network, net.place, net.n_networks)
    draws: Any = Permutations(orders, data, bool(o.shuffle), net.n_networks is None)
    if parts is not None:
        draws = sharded.Epochs(0 if saved is None else saved.snapshot.epoch)
    problem = Problem(
        task,
        data,
        plan,
        draws,
        held_out=None if held_out is None else held_out.looked_at(net.place, net.dtype, rows),
        monitor="loss" if held_out is None and (parts is None or parts.judge is None) else "validation_loss",
        judge=None if parts is None else parts.judge,
        seed=dropout_seed(net, done),
        runner=_lbfgs_runner if o.optimizer == LBFGS else find_runner,
        together=None if parts is None else parts.together,
    )
    begin = Fitted(net.network, net.place.xp.asarray(net.p, copy=True), net.history)  # training owns what it changes
    keep = None
    if o.checkpoint is not None:
        told = X.digest if samples is None else _digest(net, samples, held_out)
        run = {"arguments": _arguments(o, task, plan, data.batch_size, every), "data": told}
        keep = CheckpointRequest(o.checkpoint, every, partial(_stored, net), run, began, overwrite=bool(o.overwrite))
    observers = _bars(o, plan, parts)
    if metric is not None:
        observers.append(ShardMetric() if samples is None else Metrics(metric, samples, held_out))
    if callbacks:
        observers.append(Callbacks(callbacks, show, parameters))
    with telling_of_memory(net.place, f"training with batch_size={data.batch_size}", SMALLER):
        fitted = training.fit(problem, begin, observers, keep=keep, saved=goes_on)
    return fitted, net._replace(p=fitted.p, history=fitted.history)


def _bars(o: Options, plan: Plan, parts: sharded.Sharded | None) -> list[Observer]:
    if not o.progress:
        return []
    if parts is None:
        return [Bar(plan.n_epochs)]
    return [Bar(plan.n_epochs, pace=Pace(parts.data, parts.together))] if parts.writes else []


def plain_descent(o: Options, history: dict[str, list[Any]]) -> tuple[float, tuple[float, ...] | None] | None:
    """The rate of the last epoch, and its factors by layer, where a fit was plain gradient descent; else None."""
    plain = (
        not o.average
        and not isinstance(o.learning_rate_factors, Mapping)
        and getattr(o.optimizer, "name", o.optimizer) == "sgd"
        and not getattr(o.optimizer, "weight_decay", 0.0)
    )
    if not plain or o.clip_norm is not None or not history.get("learning_rate"):
        return None
    given = o.learning_rate_factors
    factors = None if given is None or isinstance(given, Mapping) else tuple(map(float, given))
    return float(history["learning_rate"][-1]), factors


def _stored(net: Content, fitted: Fitted) -> Stored:
    return serialization.stored(net, np.asarray(to_numpy(fitted.p)), fitted.history, net.orders)


def _samples(door: Door, X: Any, y: Any, o: Options, rng: np.random.Generator) -> tuple[Samples, Samples | None]:
    samples = door.samples(X, y, o.sample_weight, whole=False)
    if o.validation_data is not None:
        names = ("validation_data[0]", "validation_data[1]")
        held_out = checks.inputs_and_targets(o.validation_data, "validation_data")
        return samples, door.samples(*held_out, names=names, whole=False)
    return _hold_out(samples, o.validation_fraction, rng, door) if o.early_stopping else (samples, None)


def whole_batches(n: int, batch_size: int) -> int:
    """The samples, of n, of an epoch that leaves out those which fill no batch; all where there is no whole batch."""
    return n // batch_size * batch_size or n


def _data(net: Content, samples: Samples, o: Options) -> Data:
    size = _batch_size(o, samples, net)
    if o.drop_last and o.optimizer == LBFGS:
        raise ValueError("lbfgs looks at all samples in every step; leave out drop_last.")
    return samples.data(net.place, net.dtype, size, whole_batches(samples.n, size) if o.drop_last else None)


def _batch_size(o: Options, samples: Samples, net: Content) -> int:
    if o.optimizer == LBFGS:  # every step looks at all samples; in blocks, so that memory stays bounded
        return even_blocks(net.network, net.place, samples.n)
    return samples.n if o.batch_size is None else checks.integer(o.batch_size, "batch_size", least=1)


def _task(net: Content, o: Options, data: Data) -> Task:
    layout, l2 = net.network.layout, checks.number(o.l2, "l2", least=0.0)
    precision = checks.option(o.precision, "precision", ("highest", "high"))
    if o.optimizer == LBFGS:
        _demand_what_lbfgs_can_do(net, o)
        return Task(net.network, OPTIMIZERS["sgd"], l2=l2, precision=precision)
    method = find_optimizer(o.optimizer)
    if (epochs := checks.number(o.average, "average", least=0.0)) > 0.0:
        method = replace(method, average=epochs * data.n_batches)
    return Task(
        net.network,
        method,
        l2=l2,
        clip_norm=None if o.clip_norm is None else checks.number(o.clip_norm, "clip_norm", above=0.0),
        factors=factors_of(net.network, net.p, o.learning_rate_factors),
        decays=layout.fill(lambda segment: segment.decays, net.p) if method.weight_decay else None,
        precision=precision,
    )


def _demand_what_lbfgs_can_do(net: Content, o: Options) -> None:
    if net.n_networks is not None:
        raise ValueError(f"lbfgs trains one network at a time; this MLP has {net.n_networks}.")
    if any(net.network.dropout):
        raise ValueError("dropout makes the loss change from call to call, and lbfgs cannot follow it.")
    given = [name for name in ("learning_rate", "clip_norm", "learning_rate_factors") if getattr(o, name) is not None]
    if o.average:
        given.append("average")
    if find_schedule(o.schedule) != find_schedule("constant"):
        given.append("schedule")
    if given:
        raise ValueError(f"lbfgs finds the length of its steps itself; leave out {' and '.join(given)}.")


def _lbfgs_runner(task: Task, data: Data, *_: object) -> lbfgs.Runner:
    return lbfgs.Runner(lbfgs.objective(task, data), max_fun=2**62, tol=0.0)


def _plan(o: Options, data: Data) -> Plan:
    rate = float("nan")
    if o.optimizer != LBFGS:
        own = find_optimizer(o.optimizer).learning_rate
        rate = checks.number(own if o.learning_rate is None else o.learning_rate, "learning_rate", above=0.0)
    patience = checks.integer(o.patience, "patience", least=0)
    return Plan(
        n_epochs=checks.integer(o.epochs, "epochs", least=1),
        learning_rate=rate,
        schedule=find_schedule(o.schedule),
        n_batches=data.n_batches,
        n_samples=data.n,
        patience=patience if o.early_stopping else float("inf"),
        tol=checks.number(o.tol, "tol", least=0.0),
        keep_best=o.early_stopping,
        on_divergence=checks.option(o.on_divergence, "on_divergence", ("restore", "raise")),
        max_time=float("inf") if o.max_time is None else checks.number(o.max_time, "max_time", above=0.0),
        know_best=o.checkpoint is not None,
        averaged=o.optimizer != LBFGS and bool(o.average),
    )


def _arguments(o: Options, task: Task, plan: Plan, batch_size: int, every: int) -> dict[str, Any]:
    """What a checkpoint says of its run, in JSON; resuming with other arguments is refused."""
    given = o.learning_rate_factors
    if isinstance(given, Mapping):
        factors: Any = {name: float(factor) for name, factor in given.items()}
    else:
        factors = None if given is None else list(map(float, given))
    return {
        "epochs": plan.n_epochs,
        "batch_size": batch_size,
        "optimizer": LBFGS if o.optimizer == LBFGS else _or_own(describe_optimizer, task.optimizer),
        "learning_rate": None if o.optimizer == LBFGS else plan.learning_rate,
        "schedule": _or_own(describe_schedule, plan.schedule),
        "l2": task.l2,
        "clip_norm": task.clip_norm,
        "precision": task.precision,
        "learning_rate_factors": factors,
        "average": float(o.average),
        "shuffle": bool(o.shuffle),
        "drop_last": bool(o.drop_last),
        "validation_fraction": float(o.validation_fraction),
        "early_stopping": bool(o.early_stopping),
        "patience": int(o.patience),
        "tol": plan.tol,
        "metric": {"own": getattr(o.metric, "__name__", "function")} if callable(o.metric) else o.metric,
        "on_divergence": plan.on_divergence,
        "max_time": None if o.max_time is None else float(o.max_time),
        "checkpoint_every": every,
    }


def _hold_out(samples: Samples, fraction: float, rng: np.random.Generator, door: Door) -> tuple[Samples, Samples]:
    """A part of the samples, the same for every network; among those that have weight: others tell nothing."""
    fraction = checks.number(fraction, "validation_fraction", above=0.0, below=1.0)
    order = rng.permutation(samples.n)
    if samples.w is not None:
        w = np.asarray(door.place.backend.to_numpy(samples.w))
        counts = np.all(w > 0.0, axis=0) if w.ndim > 1 else w > 0.0
        order = np.concatenate([order[counts[order]], order[~counts[order]]])
        n = int(np.sum(counts))
    else:
        n = samples.n
    n_held = max(round(fraction * n), 1)
    if n_held >= n:
        which = "samples" if samples.w is None else "samples with weight"
        raise ValueError(f"validation_fraction={fraction:g} of {n} {which} leaves none to train on.")
    return samples.take(np.sort(order[n_held:]), door), samples.take(np.sort(order[:n_held]), door)


def factors_of(network: Network, p: Array, given: Sequence[float] | Mapping[str, float] | None) -> Array | None:
    """The factor on the rate of each element of the flat vector p; None where all are 1."""
    layout, K = network.layout, network.layout.n_layers
    factors = {it: part.rate if (part := network.part(it.name, it.layer)) else 1.0 for it in layout.segments}
    if isinstance(given, Mapping):
        names = {name for segment in layout.segments for name in (segment.name, segment.name.partition(".")[0])}
        for name, value in given.items():
            if name not in names:
                raise ValueError(
                    f"learning_rate_factors must name what the network has, {sorted(names)}; got {name!r}."
                )
            factor = checks.number(value, f"learning_rate_factors[{name!r}]", least=0.0)
            factors |= {it: factor for it in factors if name in (it.name, it.name.partition(".")[0])}
    elif given is not None:
        if len(given) != K:
            raise ValueError(f"learning_rate_factors must hold one for each of the {K} layers; got {len(given)}.")
        each = [checks.number(it, f"learning_rate_factors[{k}]", least=0.0) for k, it in enumerate(given)]
        factors = {segment: factor * each[max(segment.layer, 1) - 1] for segment, factor in factors.items()}
    plain = given is None and all(factor == 1.0 for factor in factors.values())
    return None if plain else layout.fill(factors.__getitem__, p)


def _largest(w: Any) -> float:
    return float(np.max(to_numpy(w)))


def dropout_seed(net: Content, epochs: int) -> Array | None:
    """What the masks of a fit are hashed from, on a network that has been trained for so many epochs."""
    # Masks are hashed from the steps of one fit; what was trained before takes part, so that no fit repeats another's.
    if not any(net.network.dropout):
        return None
    draws = [generator(child(seed, DROPOUT), epochs).integers(2**31, dtype=np.int32) for seed in net.seeds]
    shape = (1, 1) if net.n_networks is None else (net.n_networks, 1, 1)
    return net.place.asarray(np.asarray(draws, dtype=np.int32).reshape(shape))


def _digest(net: Content, samples: Samples, held_out: Samples | None) -> str:
    arrays = [a for part in (samples, held_out) if part for a in part.on_device(net.place, net.dtype)[:3]]
    return checkpoints.data_digest(*(None if array is None else to_numpy(array) for array in arrays))


def _or_own(describe: Callable[[Any], Any], row: Any) -> Any:
    try:
        return describe(row)
    except ValueError:
        return {"own": row.name}
