"""An estimator's face of a fit: its parameters and data become a `Problem`, what came of it becomes its attributes."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from sklearn.callback import with_callbacks
from sklearn.exceptions import ConvergenceWarning

from xpmlp import training
from xpmlp._typing import Array
from xpmlp.backends import Place, array_namespace, place_of, warn
from xpmlp.estimators import building, checkpointing, posing
from xpmlp.estimators.attributes import Attributes, dtype_of, give
from xpmlp.estimators.checkpointing import NO_CHECKPOINTS, Wanted
from xpmlp.estimators.monitor import CURVES, Watcher
from xpmlp.estimators.parameters import InvalidParameterError, check_parameters
from xpmlp.estimators.settings import Settings, settings_of
from xpmlp.estimators.splitting import hold_out
from xpmlp.estimators.targets import Samples, Targets
from xpmlp.estimators.validation import (
    Inputs,
    InvalidInputError,
    check_inputs,
    is_given,
    of_validation,
    our_errors,
    working_place,
)
from xpmlp.faults import telling_of_memory
from xpmlp.network import Network
from xpmlp.network.targets import check_targets
from xpmlp.runners import KeptRunner
from xpmlp.training import Carried, CheckpointRequest, Fitted, Problem, Saved
from xpmlp.training.loop import BEGINNING, DivergenceError, Notes

# Of estimators that learn from a stream: what their runner has on a device serves the next call.
_RUNNERS: WeakKeyDictionary[Any, KeptRunner] = WeakKeyDictionary()

SMALLER = "Lower batch_size, or the layers' sizes, or train in float32."
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)
NOTED = (*CURVES.values(), "loss_", "best_loss_", "best_validation_score_")


def all_or_nothing(method: Callable[..., Any]) -> Callable[..., Any]:
    """A function that leaves the estimator as it was if it fails, whatever it had changed by then."""

    @functools.wraps(method)
    def careful(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(estimator))
        try:
            result = method(estimator, *args, **kwargs)
        except BaseException:
            vars(estimator).clear()
            vars(estimator).update(before)
            raise
        error = vars(estimator).pop("_died", None)  # what a callback raised: training ended there, and is kept
        notes = vars(estimator).pop("_notes", [])
        if error is not None:
            error.add_note(
                f"Training ended here; the estimator keeps what it had learned in {estimator.n_iter_} epochs."
            )
            raise error
        for message, category in notes:  # last of all, where nothing is rolled back any more
            warn(message, category)
        return result

    return careful


@all_or_nothing
@with_callbacks  # type: ignore[untyped-decorator]
def fit_estimator(
    estimator: Attributes,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    incremental: bool = False,
    classes: Any = None,
    validation: tuple[Any, Any, Any] = (None, None, None),
    asked: Wanted = NO_CHECKPOINTS,
) -> Any:
    """Train an estimator: what `fit` and, with `incremental`, `partial_fit` do. The estimator comes back."""
    check_parameters(estimator)
    settings = settings_of(estimator)
    if incremental and settings.early_stopping:
        raise InvalidInputError("partial_fit does not support early_stopping=True: one pass has nothing to stop.")
    with our_errors():
        place = working_place(settings.backend, settings.device, X)
    options: Any = {"incremental": incremental, "classes": classes, "validation": validation, "asked": asked}
    with training_on(place, settings.batch_size):
        return _fit_there(estimator, settings, place, X, y, sample_weight, **options)


@contextlib.contextmanager
def training_on(place: Place, batch_size: Any) -> Iterator[None]:
    """Within it, work is done on the device of `place`, and memory that runs out is one MemoryError."""
    with place.here(), telling_of_memory(place, f"training with batch_size={batch_size}", SMALLER):
        yield


def _fit_there(
    estimator: Attributes,
    settings: Settings,
    place: Place,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    incremental: bool,
    classes: Any,
    validation: tuple[Any, Any, Any],
    asked: Wanted,
) -> Any:
    anew = not hasattr(estimator, "coefs_") or not (settings.warm_start or incremental)
    stochastic = settings.solver != "lbfgs"
    with our_errors():
        reset = anew or not hasattr(estimator, "n_features_in_")
        # A model that goes on keeps its dtype, whatever that of the new samples.
        dtype = settings.dtype if anew or settings.dtype is not None else dtype_of(estimator)
        inputs = check_inputs(estimator, X, place=place, dtype=dtype, reset=reset)
        targets, samples = estimator._learn(
            y, sample_weight, inputs, anew=anew, incremental=incremental, classes=classes
        )
        held_out = check_validation(estimator, targets, validation, inputs)
        network = build_network(settings, targets, samples)
    before = checkpointing.known(estimator, settings, asked, place, inputs.dtype)
    draws = checkpointing.Shuffles(checkpointing.generator(settings, before), asked.folder is not None)
    anew = anew if before is None else before.anew
    with our_errors():
        # A run that goes on draws again what it drew when it began; a warm start's weights are in the checkpoint.
        if anew:
            p = inputs.place.asarray(building.first_weights(settings, network, draws.rng, inputs.dtype))
        elif before is None:
            known = building.known_weights(estimator.coefs_, estimator.intercepts_, network, place, inputs.dtype)
            p = network.layout.pack(known)
        else:
            p = before.saved.snapshot.state.p
        if settings.early_stopping and stochastic and held_out is None:
            samples, held_out = hold_out(settings, targets, samples, draws.rng)
        begin = beginning(estimator, settings, network, p, anew, incremental, held_out is not None)
        pose = posing.problem if stochastic else posing.problem_of_lbfgs
        problem = pose(
            settings, network, samples, held_out, draws, checkpoints=asked.folder is not None, incremental=incremental
        )
        if incremental:
            problem = replace(problem, runner=_RUNNERS.setdefault(estimator, KeptRunner()))
        context, task = tell(estimator, settings, X, y, sample_weight, incremental)
        show = partial(attributes, settings, targets, incremental=incremental)
        watcher = Watcher(estimator, settings, targets, show, held_out, context, task)
        seen = 0 if anew else int(getattr(estimator, "t_", 0) if before is None else before.seen)
        data = "" if asked.folder is None else checkpointing.digest_of(samples, held_out)
        keep = checkpointing.asked(estimator, asked, problem, show, data, anew, seen)
    saved = None if before is None else before.saved
    return train_and_give(
        estimator, settings, targets, problem, begin, watcher, keep=keep, saved=saved, incremental=incremental
    )


def train_and_give(
    estimator: Any,
    settings: Settings,
    targets: Targets,
    problem: Problem,
    begin: Fitted,
    watcher: Watcher,
    *,
    keep: CheckpointRequest | None,
    saved: Saved | None,
    incremental: bool = False,
) -> Any:
    """Train, and give the estimator what came of it."""
    context = watcher.context
    with np.errstate(all="ignore"):  # what is not finite ends training, and the message says where it began
        try:
            fitted = training.fit(problem, begin, [watcher], keep=keep, saved=saved)
        except DivergenceError as error:
            raise DivergenceError(f"{NOT_FINITE} {error}") from None
    notes = _how_it_ended(settings, fitted, watcher, incremental, problem.data.n)
    give(estimator, attributes(settings, targets, fitted, incremental=incremental, ended=True), instead_of=NOTED)
    estimator._asked = None if settings.backend is None else (settings.backend, settings.device)
    estimator._settled = True
    give(estimator, {"_died": fitted.error, "_notes": notes})
    if context is not None:
        context.call_on_fit_task_end(estimator=estimator, reconstruction_attributes={}, **watcher.task)
    return estimator


# --- The problem ---


def build_network(settings: Settings, targets: Targets, samples: Samples) -> Network:
    """The network that fits the settings and the samples."""
    loss = targets.loss(samples.targets.shape[1])
    check_targets(loss, samples.targets.astype(samples.inputs.dtype, copy=False))
    n_outputs = loss.n_outputs or samples.targets.shape[1]
    sizes = (int(samples.inputs.x.shape[1]), *building.hidden_sizes(settings), n_outputs)
    network = building.build_network(settings, sizes, loss)
    if network.dropout and settings.solver == "lbfgs":
        raise InvalidParameterError("dropout makes the loss change from call to call, and lbfgs cannot follow it.")
    return network


def check_validation(
    estimator: Attributes, targets: Targets, validation: tuple[Any, Any, Any], inputs: Inputs
) -> Samples | None:
    """The samples of X_val and y_val, if there are any."""
    if not is_given(validation):
        return None
    X, y, w = validation
    with of_validation():
        held = check_inputs(estimator, X, place=inputs.place, dtype=inputs.dtype, reset=False)
        return targets.encode(y, w, held, "sample_weight_val")


def beginning(
    estimator: Attributes,
    settings: Settings,
    network: Network,
    p: Array,
    anew: bool,
    incremental: bool,
    validated: bool,
) -> Fitted:
    """What training goes on from: everything in partial_fit, all but the optimizer in a warm start."""
    if anew or settings.solver == "lbfgs":
        return Fitted(network, p)
    history = _history(estimator, validated)
    optimizer = building.build_optimizer(settings)
    if settings.average and not incremental:  # over how many updates, the problem says
        optimizer = replace(optimizer, average=1.0)
    fresh = optimizer.init(p).slots
    known: Carried | None = getattr(estimator, "_carried", None)
    if known is None:
        standing = BEGINNING._replace(samples=getattr(estimator, "t_", 0))
        return Fitted(network, p, history, carried=Carried(optimizer, fresh, 0, standing))
    goes_on = incremental and building.remembers_the_same(optimizer, known.optimizer)
    if not goes_on or [s.shape for s in known.slots] != [s.shape for s in fresh]:  # a pickle may have left them behind
        standing = known.standing if goes_on else known.standing._replace(scale=1.0)
        # The count of the updates stays where nothing but the schedule asks for it: invscaling goes on.
        t = known.t if goes_on and building.counts_for_schedules_only(optimizer, known.t) else 0
        return Fitted(network, p, history, carried=Carried(optimizer, fresh, t, standing))
    dtype, here = str(p.dtype).rpartition(".")[2], array_namespace(p)
    # Copies: the slots are donated to the training, and what is remembered must outlive one that fails.
    place = place_of(p)
    slots = tuple(here.asarray(building.on_place(slot, place, dtype), copy=True) for slot in known.slots)
    return Fitted(network, p, history, carried=known._replace(slots=slots))


def _history(estimator: Attributes, validated: bool) -> dict[str, list[Any]]:
    """The curves so far, an entry for each epoch."""
    known = {name: list(getattr(estimator, curve, None) or []) for name, curve in CURVES.items()}
    n = len(known["loss"])
    return {
        name: [float("nan")] * (n - len(curve)) + curve
        for name, curve in known.items()
        if curve or validated or name == "loss"
    }


def tell(
    estimator: Any, settings: Settings, X: Any, y: Any, sample_weight: Any, incremental: bool
) -> tuple[Any, dict[str, Any]]:
    """scikit-learn's callbacks: with nobody to tell of it, no context, a third of what happens between epochs."""
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    task = {"X": X, "y": y, "metadata": metadata}
    if incremental or not getattr(estimator, "_skl_callbacks", None):
        return None, task
    context = estimator._init_callback_context(max_subtasks=settings.max_iter)
    context.call_on_fit_task_begin(estimator=estimator, **task)
    return context, task


# --- What came of it ---


def _how_it_ended(settings: Settings, fitted: Fitted, watcher: Watcher, incremental: bool, n: int) -> Notes:
    stopped_by, notes = fitted.stopped_by, list(fitted.notes)
    if settings.solver != "lbfgs" and settings.batch_size != "auto" and settings.batch_size > n:
        text = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
        notes.insert(0, (text, UserWarning))
    if settings.solver == "lbfgs":
        if stopped_by == "not finite":
            text = "The loss of the first weights is not finite: scale X and y."
            raise DivergenceError(f"{NOT_FINITE} {text}")
        if stopped_by in ("epochs", "calls", "line search"):
            limit = {"epochs": "max_iter", "calls": "max_fun"}.get(stopped_by)
            cure = f"Increase {limit}, or scale the data" if limit else "Scale the data, or train in float64"
            why = "iterations" if stopped_by == "epochs" else stopped_by
            stop = f"lbfgs failed to converge after {fitted.epochs} iteration(s), stopped by its {why}."
            notes.append((f"{stop} {cure}.", ConvergenceWarning))
    elif stopped_by == "epochs" and fitted.epochs == settings.max_iter and not incremental:
        text = f"Maximum iterations ({settings.max_iter}) reached and the optimization hasn't converged yet."
        notes.append((f"Stochastic Optimizer: {text}", ConvergenceWarning))
    elif stopped_by == "patience" and settings.verbose:
        print(f"{watcher.plateau()} Stopping.")  # noqa: T201 - verbose is for printing
    return notes


def attributes(
    settings: Settings, targets: Targets, fitted: Fitted, *, incremental: bool = False, ended: bool = False
) -> dict[str, Any]:
    """The attributes of an estimator that has learned this: callbacks, files and `fit` itself show them."""
    p, network, history = fitted.p, fitted.network, fitted.history
    if not ended:  # the next step will write into p, and the next epoch into the history
        p = array_namespace(p).asarray(p, copy=True)
        history = {name: list(values) for name, values in history.items()}
    W, b, _ = network.layout.unpack(p)
    shown = {
        "coefs_": W[1:],
        "intercepts_": b[1:],
        **building.shape_attributes(network),
        "n_iter_": fitted.epochs,
        "t_": fitted.samples,
        "validation_scores_": _from_the_first(history.get("validation_score")),
        "validation_loss_curve_": _from_the_first(history.get("validation_loss")),
        **targets.attributes,
    }
    losses = history.get("loss", [])
    if losses:
        shown["loss_"] = losses[-1]
    if settings.solver == "lbfgs":
        if not history.get("validation_loss"):
            del shown["validation_scores_"], shown["validation_loss_curve_"]
        return shown | {"_carried": None, "_slim": True}
    shown["loss_curve_"] = losses
    if fitted.carried is not None:
        best = float(fitted.carried.standing.best)
        shown["best_loss_"] = None if settings.early_stopping else best
        shown["best_validation_score_"] = None
        if settings.early_stopping:
            shown["best_validation_score_"] = best if settings.scoring != "loss" else -best
        shown |= {"_carried": fitted.carried, "_slim": not incremental}
    return shown


def _from_the_first(curve: list[float] | None) -> list[float] | None:
    """A curve from the first epoch on in which it was measured; its last entry is that of the last epoch."""
    if curve is None:
        return None
    unknown = np.isnan(curve)
    return curve[int(np.argmin(unknown)) :] if len(curve) and unknown[0] and not unknown.all() else curve
