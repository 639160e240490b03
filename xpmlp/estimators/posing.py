"""From the settings of an estimator and its samples to the `Problem` that the one fit is given."""

import numbers
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import Place
from xpmlp.estimators import building
from xpmlp.estimators.checkpointing import Shuffles
from xpmlp.estimators.parameters import InvalidParameterError
from xpmlp.estimators.settings import Settings
from xpmlp.estimators.targets import Samples
from xpmlp.estimators.validation import scale_of
from xpmlp.mlp.fitting import factors_of
from xpmlp.network import Network
from xpmlp.optim.optimizers import OPTIMIZERS
from xpmlp.optim.schedules import schedule
from xpmlp.runners import Data, lbfgs
from xpmlp.runners.reduction import Sum
from xpmlp.runners.step import Task
from xpmlp.training import Draws, Outcome, Problem, even_blocks, rows_at_once
from xpmlp.training.loop import Plan


def problem(
    settings: Settings,
    network: Network,
    samples: Samples,
    held_out: Samples | None,
    draws: Shuffles,
    *,
    checkpoints: bool,
    incremental: bool,
) -> Problem:
    """The problem of a solver that goes from batch to batch; one epoch where it is `incremental`."""
    data = samples.inputs.data(samples.targets, samples.w, batch_size_of(settings, samples.inputs.n))
    # One batch of everything is the same in any order; nobody sees whether a seeded generator was asked for it.
    shuffles = settings.shuffle and (data.n_batches > 1 or not isinstance(settings.random_state, numbers.Integral))
    return problem_of_data(
        settings,
        network,
        data,
        samples.inputs.dtype,
        draws.of(samples.inputs.n, shuffles),
        draws.rng,
        held_out=None if held_out is None else looked_at(held_out, network),
        scale=scale_of(samples.w),
        checkpoints=checkpoints,
        incremental=incremental,
    )


def problem_of_data(
    settings: Settings,
    network: Network,
    data: Data,
    dtype: str,
    draws: Draws,
    rng: np.random.RandomState,
    *,
    held_out: Data | None = None,
    judge: Callable[[Array], Outcome] | None = None,
    together: Sum | None = None,
    scale: float = 1.0,
    checkpoints: bool,
    incremental: bool = False,
) -> Problem:
    """The same of samples that are ready to be trained on; `scale` is that of their weights."""
    optimizer = building.build_optimizer(settings)
    if settings.average and not incremental:
        optimizer = replace(optimizer, average=float(settings.average) * data.n_batches)
    schedule, on_plateau = building.build_schedule(settings)
    task = Task(
        network,
        optimizer,
        l2=float(settings.alpha) * scale,
        clip_norm=None if settings.clip_norm is None else float(settings.clip_norm),
        factors=factors_of(network, data.place.asarray(np.zeros(0), dtype), settings.learning_rate_factors),
        decays=_decays(network, data.place, dtype) if optimizer.weight_decay else None,
        reduce=together,
    )
    plan = Plan(
        n_epochs=1 if incremental else int(settings.max_iter),
        learning_rate=float(settings.learning_rate_init),
        schedule=schedule,
        n_batches=data.n_batches,
        n_samples=data.n,
        patience=float(settings.n_iter_no_change),
        tol=float(settings.tol),
        keep_best=bool(settings.early_stopping),
        on_plateau=on_plateau,
        on_divergence="restore" if settings.early_stopping else "raise",
        max_time=float("inf") if settings.max_time is None else float(settings.max_time),
        know_best=checkpoints,
        averaged=bool(optimizer.average),
    )
    scores = bool(settings.scoring != "loss")
    return Problem(
        task,
        data,
        plan,
        draws,
        held_out=held_out,
        judge=judge,
        together=together,
        # Without early stopping what is held out is looked at, but decides nothing.
        monitor=("validation_score" if scores else "validation_loss") if settings.early_stopping else "loss",
        greater_is_better=bool(settings.early_stopping) and scores,
        monitors=_monitored(settings, network),
        seed=_dropout_seed(network, data.place, rng),
    )


def _monitored(settings: Settings, network: Network) -> str:
    """What the monitored value depends on beside weights and samples."""
    loss = f"{network.loss.name} {sorted(network.loss.parameters.items())}"
    if not settings.early_stopping:
        return f"the loss of training, {loss}, alpha {float(settings.alpha)!r}"
    scoring = settings.scoring
    return f"{'score' if scoring is None else scoring} of what is held out" + (f", {loss}" if scoring == "loss" else "")


def problem_of_lbfgs(
    settings: Settings,
    network: Network,
    samples: Samples,
    held_out: Samples | None,
    draws: Shuffles,
    *,
    checkpoints: bool,
    incremental: bool,  # noqa: ARG001  # there is none
) -> Problem:
    """The problem of L-BFGS, which sees all samples in each iteration."""
    data = samples.inputs.data(samples.targets, samples.w, even_blocks(network, samples.inputs.place, samples.inputs.n))
    return lbfgs_of_data(
        settings,
        network,
        data,
        draws.of(samples.inputs.n, False),
        held_out=None if held_out is None else looked_at(held_out, network),
        scale=scale_of(samples.w),
        checkpoints=checkpoints,
    )


def lbfgs_of_data(
    settings: Settings,
    network: Network,
    data: Data,
    draws: Draws,
    *,
    held_out: Data | None = None,
    judge: Callable[[Array], Outcome] | None = None,
    together: Sum | None = None,
    scale: float = 1.0,
    checkpoints: bool,
) -> Problem:
    """The same of samples that are ready to be trained on."""
    for name in ("average", "learning_rate_factors"):
        if getattr(settings, name):
            raise InvalidParameterError(f"lbfgs finds its steps itself; leave {name} out, or choose another solver.")
    max_time = float("inf") if settings.max_time is None else float(settings.max_time)
    plan = Plan(
        int(settings.max_iter), float("nan"), schedule("constant"), 1, 0,
        on_divergence="raise", max_time=max_time, know_best=checkpoints,
    )  # fmt: skip
    return Problem(
        Task(network, OPTIMIZERS["sgd"], l2=float(settings.alpha) * scale, reduce=together),
        data,
        plan,
        draws,
        held_out=held_out,
        judge=judge,
        together=together,
        runner=lambda task, data, *_: lbfgs.Runner(
            lbfgs.objective(task, data), max_fun=int(settings.max_fun), tol=float(settings.tol)
        ),
    )


def batch_size_of(settings: Settings, n: int) -> int:
    """Samples of a batch, of n."""
    if settings.batch_size == "auto":
        return min(200, n)
    return min(int(settings.batch_size), n)


def _dropout_seed(network: Network, place: Place, rng: np.random.RandomState) -> Array | None:
    if not network.dropout:
        return None
    return place.asarray(rng.randint(2**31 - 1, size=(1, 1)).astype(np.int32))


def looked_at(held_out: Samples, network: Network) -> Any:
    """Samples that are looked at, and not trained on."""
    inputs, rows = held_out.inputs, rows_at_once(network, held_out.inputs.place)
    if inputs.n <= rows and hasattr(inputs.x, "toarray") and inputs.place.backend.name != "numpy":
        inputs = inputs._replace(x=inputs.x.toarray())  # once, and not in every epoch
    return inputs.looked_at(held_out.targets, held_out.w, rows)


def _decays(network: Network, place: Place, dtype: str) -> Array:
    return network.layout.fill(lambda segment: segment.decays, place.asarray(np.zeros(0), dtype))
