"""An estimator's face of a fit: its parameters and data become a `Problem`, what came of it becomes its attributes."""

import functools
import numbers
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.callback import with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from xpmlp import training
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, array_namespace, place_of, warn
from xpmlp.estimators import building, checkpointing
from xpmlp.estimators.checkpointing import NO_CHECKPOINTS, Wanted
from xpmlp.estimators.monitor import CURVES, HeldOut, Watcher
from xpmlp.estimators.parameters import InvalidParameterError, check_parameters
from xpmlp.estimators.validation import Inputs, InvalidInputError, check_inputs, our_errors, working_place
from xpmlp.faults import telling_of_memory
from xpmlp.network import Network
from xpmlp.network.losses import check_targets
from xpmlp.optim.optimizers import OPTIMIZERS
from xpmlp.optim.schedules import schedule
from xpmlp.runners import lbfgs
from xpmlp.runners.step import Task
from xpmlp.training import Carried, Fitted, Problem, rows_at_once
from xpmlp.training.loop import BEGINNING, DivergenceError, Notes, Plan

SMALLER = "Lower batch_size, or the layers' sizes, or train in float32."
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)
NOTED = (*CURVES.values(), "loss_", "best_loss_", "best_validation_score_")


class Samples(NamedTuple):
    """What is trained on."""

    inputs: Inputs
    y: HostArray  # as the caller has it
    targets: HostArray  # of shape (n, n_outputs)
    w: HostArray | None

    def take(self, rows: HostArray) -> "Samples":
        """Some of the samples."""
        w = None if self.w is None else self.w[rows]
        return Samples(self.inputs.take(rows), self.y[rows], self.targets[rows], w)


def all_or_nothing(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that leaves the estimator as it was if it fails, whatever it had changed by then."""

    @functools.wraps(method)
    def careful(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            result = method(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise
        error = vars(self).pop("_died", None)  # what a callback raised: training ended there, and is kept
        notes = vars(self).pop("_notes", [])
        if error is not None:
            error.add_note(f"Training ended here; the estimator keeps what it had learned in {self.n_iter_} epochs.")
            raise error
        for message, category in notes:  # last of all, where nothing is rolled back any more
            warn(message, category)
        return result

    return careful


@all_or_nothing
@with_callbacks  # type: ignore[untyped-decorator]
def fit_estimator(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    incremental: bool = False,
    validation: tuple[Any, Any, Any] = (None, None, None),
    asked: Wanted = NO_CHECKPOINTS,
    **targets: Any,
) -> Any:
    check_parameters(estimator)
    if incremental and estimator.early_stopping:
        raise InvalidInputError("partial_fit does not support early_stopping=True: one pass has nothing to stop.")
    anew = not hasattr(estimator, "coefs_") or not (estimator.warm_start or incremental)
    stochastic = estimator.solver != "lbfgs"
    with our_errors():
        place = working_place(estimator.backend, estimator.device, X)
        reset = anew or not hasattr(estimator, "n_features_in_")
        inputs = check_inputs(estimator, X, place=place, dtype=estimator.dtype, reset=reset)
        samples = estimator._encode(y, sample_weight, inputs, anew=anew, incremental=incremental, **targets)
        held_out = _check_validation(estimator, validation, inputs)
        network = _build_network(estimator, samples)
    before = checkpointing.known(estimator, asked, place, inputs.dtype)
    draws = checkpointing.Shuffles(checkpointing.generator(estimator, before), asked.folder is not None)
    anew = anew if before is None else before.anew
    with our_errors():
        # A run that goes on draws again what it drew when it began; a warm start's weights are in the checkpoint.
        p = (
            _start(estimator, network, inputs, draws.rng, anew)
            if anew or before is None
            else before.saved.snapshot.state.p
        )
        if estimator.early_stopping and stochastic and held_out is None:
            samples, held_out = _hold_out(estimator, samples, draws.rng)
        begin = _begin(estimator, network, p, anew, incremental, held_out is not None)
        pose = _problem if stochastic else _problem_of_lbfgs
        problem = pose(
            estimator, network, samples, held_out, draws, checkpoints=asked.folder is not None, incremental=incremental
        )
        context, task = _tell(estimator, X, y, sample_weight, incremental)
        show = partial(_show, estimator, incremental=incremental)
        watcher = Watcher(estimator, show, held_out, context, task)
        seen = 0 if anew else int(getattr(estimator, "t_", 0) if before is None else before.seen)
        keep = checkpointing.asked(estimator, asked, problem, show, samples, held_out, anew, seen)
    with (
        np.errstate(all="ignore"),
        telling_of_memory(place, f"training with batch_size={estimator.batch_size}", SMALLER),
    ):  # what is not finite ends training, and the message says where it began
        try:
            fitted = training.fit(problem, begin, [watcher], keep=keep, saved=None if before is None else before.saved)
        except DivergenceError as error:
            raise DivergenceError(f"{NOT_FINITE} {error}") from None
    notes = _how_it_ended(estimator, fitted, watcher, incremental)
    for name in NOTED:
        vars(estimator).pop(name, None)
    vars(estimator).update(_show(estimator, fitted, incremental=incremental, ended=True))
    estimator._asked = None if estimator.backend is None else (estimator.backend, estimator.device)
    estimator._settled = True
    estimator._died, estimator._notes = fitted.error, notes
    if context is not None:
        context.call_on_fit_task_end(estimator=estimator, reconstruction_attributes={}, **task)
    return estimator


# --- The problem ---


def _build_network(estimator: Any, samples: Samples) -> Network:
    loss = estimator._loss_row(samples.targets.shape[1])
    check_targets(loss, samples.targets.astype(samples.inputs.dtype, copy=False))
    n_outputs = loss.n_outputs or samples.targets.shape[1]
    sizes = (int(samples.inputs.x.shape[1]), *building.hidden_sizes(estimator), n_outputs)
    network = building.build_network(estimator, sizes, loss)
    if network.dropout and estimator.solver == "lbfgs":
        raise InvalidParameterError("dropout makes the loss change from call to call, and lbfgs cannot follow it.")
    return network


def _check_validation(estimator: Any, validation: tuple[Any, Any, Any], inputs: Inputs) -> HeldOut | None:
    X, y, w = validation
    if X is None and y is None and w is None:
        return None
    if X is None or y is None:
        raise InvalidInputError("X_val and y_val come together; got one of them, or sample_weight_val, alone.")
    held = check_inputs(estimator, X, place=inputs.place, dtype=inputs.dtype, reset=False)
    y, targets, w = estimator._encode_held_out(y, w, held)
    return HeldOut(held, y, targets, w)


def _start(estimator: Any, network: Network, inputs: Inputs, rng: np.random.RandomState, anew: bool) -> Array:
    """The flat vector that training begins from; training owns it."""
    if anew:
        return inputs.place.asarray(building.first_weights(estimator, network, rng, inputs.dtype))
    return network.layout.pack(building.known_weights(estimator, network, inputs.place, inputs.dtype))


def _hold_out(estimator: Any, samples: Samples, rng: np.random.RandomState) -> tuple[Samples, HeldOut]:
    rows = np.arange(samples.inputs.n)
    split = {"random_state": rng, "test_size": estimator.validation_fraction, "stratify": estimator._strata(samples)}
    train_rows, held_rows = train_test_split(rows, **split)
    if len(held_rows) < 2:
        raise InvalidInputError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
        )
    trained, held = samples.take(train_rows), samples.take(held_rows)
    for part, which in ((held, "holds out"), (trained, "leaves to train on")):
        if part.w is not None and not np.any(part.w):
            raise InvalidInputError(
                f"all that validation_fraction={estimator.validation_fraction:g} {which} has weight 0; pass X_val, "
                "y_val, or other weights."
            )
    return trained, HeldOut(*held)


def _begin(estimator: Any, network: Network, p: Array, anew: bool, incremental: bool, validated: bool) -> Fitted:
    """What training goes on from: everything in partial_fit, all but the optimizer in a warm start."""
    if anew or estimator.solver == "lbfgs":
        return Fitted(network, p)
    curves = CURVES if validated else {"loss": CURVES["loss"]}
    history = {name: list(getattr(estimator, curve, None) or []) for name, curve in curves.items()}
    optimizer = building.build_optimizer(estimator)
    fresh = optimizer.init(p).slots
    known: Carried | None = getattr(estimator, "_carried", None)
    if known is None:
        standing = BEGINNING._replace(samples=getattr(estimator, "t_", 0))
        return Fitted(network, p, history, carried=Carried(optimizer, fresh, 0, standing))
    same = known.optimizer.name == optimizer.name and [s.shape for s in known.slots] == [s.shape for s in fresh]
    if not (incremental and same):
        standing = known.standing._replace(scale=1.0)
        return Fitted(network, p, history, carried=Carried(optimizer, fresh, 0, standing))
    dtype, here = str(p.dtype).rpartition(".")[2], array_namespace(p)
    # Copies: the slots are donated to the training, and what is remembered must outlive one that fails.
    place = place_of(p)
    slots = tuple(here.asarray(building.on_place(slot, place, dtype), copy=True) for slot in known.slots)
    return Fitted(network, p, history, carried=known._replace(slots=slots))


def _problem(
    estimator: Any,
    network: Network,
    samples: Samples,
    held_out: HeldOut | None,
    draws: Any,
    *,
    checkpoints: bool,
    incremental: bool,
) -> Problem:
    data = samples.inputs.data(samples.targets, samples.w, _batch_size(estimator, samples.inputs.n))
    optimizer = building.build_optimizer(estimator)
    schedule, on_plateau = building.build_schedule(estimator)
    task = Task(
        network,
        optimizer,
        l2=float(estimator.alpha),
        clip_norm=None if estimator.clip_norm is None else float(estimator.clip_norm),
        decays=_decays(network, data.place, samples.inputs.dtype) if optimizer.weight_decay else None,
    )
    plan = Plan(
        n_epochs=1 if incremental else int(estimator.max_iter),
        learning_rate=float(estimator.learning_rate_init),
        schedule=schedule,
        n_batches=data.n_batches,
        n_samples=data.n,
        patience=float(estimator.n_iter_no_change),
        tol=float(estimator.tol),
        keep_best=bool(estimator.early_stopping),
        on_plateau=on_plateau,
        on_divergence="restore" if estimator.early_stopping else "raise",
        max_time=float("inf") if estimator.max_time is None else float(estimator.max_time),
        know_best=checkpoints,
    )
    # One batch of everything is the same in any order; nobody sees whether a seeded generator was asked for it.
    shuffles = estimator.shuffle and (data.n_batches > 1 or not isinstance(estimator.random_state, numbers.Integral))
    scores = bool(estimator.scoring != "loss")
    return Problem(
        task,
        data,
        plan,
        draws.of(samples.inputs.n, shuffles),
        held_out=None if held_out is None else _looked_at(held_out, network),
        # Without early stopping what is held out is looked at, but decides nothing.
        monitor=("validation_score" if scores else "validation_loss") if estimator.early_stopping else "loss",
        greater_is_better=bool(estimator.early_stopping) and scores,
        monitors=_monitored(estimator, network),
        seed=_dropout_seed(estimator, network, data.place, draws.rng),
    )


def _monitored(estimator: Any, network: Network) -> str:
    """What the monitored value depends on beside weights and samples."""
    loss = f"{network.loss.name} {sorted(network.loss.parameters.items())}"
    if not estimator.early_stopping:
        return f"the loss of training, {loss}, alpha {float(estimator.alpha)!r}"
    scoring = estimator.scoring
    return f"{'score' if scoring is None else scoring} of what is held out" + (f", {loss}" if scoring == "loss" else "")


def _problem_of_lbfgs(
    estimator: Any,
    network: Network,
    samples: Samples,
    held_out: HeldOut | None,
    draws: Any,
    *,
    checkpoints: bool,
    incremental: bool,
) -> Problem:
    data = samples.inputs.data(samples.targets, samples.w, rows_at_once(network.layout.sizes))
    max_time = float("inf") if estimator.max_time is None else float(estimator.max_time)
    plan = Plan(
        int(estimator.max_iter), float("nan"), schedule("constant"), 1, 0,
        on_divergence="raise", max_time=max_time, know_best=checkpoints,
    )  # fmt: skip
    return Problem(
        Task(network, OPTIMIZERS["sgd"], l2=float(estimator.alpha)),
        data,
        plan,
        draws.of(samples.inputs.n, False),
        held_out=None if held_out is None else _looked_at(held_out, network),
        runner=lambda task, data, *_: lbfgs.Runner(
            lbfgs.objective(task, data), max_fun=int(estimator.max_fun), tol=float(estimator.tol)
        ),
    )


def _tell(estimator: Any, X: Any, y: Any, sample_weight: Any, incremental: bool) -> tuple[Any, dict[str, Any]]:
    """scikit-learn's callbacks: with nobody to tell of it, no context, a third of what happens between epochs."""
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    task = {"X": X, "y": y, "metadata": metadata}
    if incremental or not getattr(estimator, "_skl_callbacks", None):
        return None, task
    context = estimator._init_callback_context(max_subtasks=estimator.max_iter)
    context.call_on_fit_task_begin(estimator=estimator, **task)
    return context, task


def _batch_size(estimator: Any, n: int) -> int:
    if estimator.batch_size == "auto":
        return min(200, n)
    if estimator.batch_size > n:
        warn("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", UserWarning)
    return min(int(estimator.batch_size), n)


def _dropout_seed(estimator: Any, network: Network, place: Place, rng: np.random.RandomState) -> Array | None:
    if not network.dropout:
        return None
    return place.asarray(rng.randint(2**31 - 1, size=(1, 1)).astype(np.int32))


# --- What came of it ---


def _how_it_ended(estimator: Any, fitted: Fitted, watcher: Watcher, incremental: bool) -> Notes:
    stopped_by, notes = fitted.stopped_by, list(fitted.notes)
    if estimator.solver == "lbfgs":
        if stopped_by == "not finite":
            text = "The loss of the first weights is not finite: scale X and y."
            raise DivergenceError(f"{NOT_FINITE} {text}")
        if stopped_by in ("epochs", "calls", "line search"):
            limit = {"epochs": "max_iter", "calls": "max_fun"}.get(stopped_by)
            cure = f"Increase {limit}, or scale the data" if limit else "Scale the data, or train in float64"
            why = "iterations" if stopped_by == "epochs" else stopped_by
            stop = f"lbfgs failed to converge after {fitted.epochs} iteration(s), stopped by its {why}."
            notes.append((f"{stop} {cure}.", ConvergenceWarning))
    elif stopped_by == "epochs" and fitted.epochs == estimator.max_iter and not incremental:
        text = f"Maximum iterations ({estimator.max_iter}) reached and the optimization hasn't converged yet."
        notes.append((f"Stochastic Optimizer: {text}", ConvergenceWarning))
    elif stopped_by == "patience" and estimator.verbose:
        print(f"{watcher.plateau()} Stopping.")  # noqa: T201 - verbose is for printing
    return notes


def _show(estimator: Any, fitted: Fitted, *, incremental: bool = False, ended: bool = False) -> dict[str, Any]:
    """The attributes of an estimator that has learned this: callbacks, files and `fit` itself show them."""
    p, network, history = fitted.p, fitted.network, fitted.history
    if not ended:  # the next step will write into p, and the next epoch into the history
        p = array_namespace(p).asarray(p, copy=True)
        history = {name: list(values) for name, values in history.items()}
    W, b, _ = network.layout.unpack(p)
    output = network.activations[-1].name
    shown = {
        "coefs_": W[1:],
        "intercepts_": b[1:],
        "n_layers_": network.layout.n_layers + 1,
        "n_outputs_": network.layout.sizes[-1],
        "out_activation_": building.SCIKIT_LEARN_NAMES.get(output, output),
        "_network": network,
        "n_iter_": fitted.epochs,
        "t_": fitted.samples,
        "validation_scores_": history.get("validation_score"),
        "validation_loss_curve_": history.get("validation_loss"),
        **estimator._fitted_targets(),
    }
    losses = history.get("loss", [])
    if losses:
        shown["loss_"] = losses[-1]
    if estimator.solver == "lbfgs":
        if not history.get("validation_loss"):
            del shown["validation_scores_"], shown["validation_loss_curve_"]
        return shown | {"_carried": None, "_slim": True}
    shown["loss_curve_"] = losses
    if fitted.carried is not None:
        best = float(fitted.carried.standing.best)
        shown["best_loss_"] = None if estimator.early_stopping else best
        shown["best_validation_score_"] = None
        if estimator.early_stopping:
            shown["best_validation_score_"] = best if estimator.scoring != "loss" else -best
        shown |= {"_carried": fitted.carried, "_slim": not incremental}
    return shown


def _looked_at(held_out: HeldOut, network: Network) -> Any:
    inputs, rows = held_out.inputs, rows_at_once(network.layout.sizes)
    if inputs.n <= rows and not isinstance(inputs.x, np.ndarray) and hasattr(inputs.x, "toarray"):
        inputs = inputs._replace(x=inputs.x.toarray())  # once, and not in every epoch
    return inputs.data(held_out.targets, held_out.w, rows)


def _decays(network: Network, place: Place, dtype: str) -> Array:
    return network.layout.fill(lambda segment: segment.decays, place.asarray(np.zeros(0), dtype))
