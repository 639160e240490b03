"""How an estimator of tables is fitted, in two stages.

The first sets a part of the rows aside and finds the epoch at which the averaged weights are best; the second trains a
new network on all rows, with the same schedule, and stops there. Where rows are given to judge by, or `refit` is False,
there is no second stage, and the first one has all members.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from sklearn.callback import with_callbacks
from sklearn.utils import check_random_state

from xpmlp import training
from xpmlp.backends import HostArray, Place
from xpmlp.distributed import Group, alone
from xpmlp.distributed.groups import agreed
from xpmlp.estimators.attributes import give
from xpmlp.estimators.checkpointing import NO_CHECKPOINTS, Wanted
from xpmlp.estimators.dealing import demand_nothing_beside, demand_shards
from xpmlp.estimators.fitting import NOT_FINITE, all_or_nothing, training_on
from xpmlp.estimators.splitting import rows_of
from xpmlp.estimators.tabular import checkpointing
from xpmlp.estimators.tabular.attributes import TabularAttributes
from xpmlp.estimators.tabular.checkpointing import Known
from xpmlp.estimators.tabular.parameters import TableSettings, settings_of_table
from xpmlp.estimators.tabular.sharded import posed_on_shards
from xpmlp.estimators.tabular.stages import (
    Held,
    Posed,
    Stage,
    epochs_of,
    inputs_of,
    members_first,
    place_and_dtype,
    posed,
    prepared,
    validation_inputs,
)
from xpmlp.estimators.tabular.targets import TargetsOfTables, numbered, validation_of
from xpmlp.estimators.tabular.timing import Goal, Pace, goal_of, pace_of, unhurried
from xpmlp.estimators.tabular.watching import Looking, observers
from xpmlp.estimators.targets import Samples
from xpmlp.estimators.validation import InvalidInputError, our_errors
from xpmlp.mlp import mlp_of
from xpmlp.shards import Shards
from xpmlp.tabular.columns import Table, table_of
from xpmlp.training import Fitted
from xpmlp.training.fitting import FORESEEN, VALIDATION
from xpmlp.training.loop import DivergenceError, Notes

ENDS_ALL = ("interrupt", "callback")  # what stops a stage, and the fit with it


class Given(NamedTuple):
    """What a fit was given, checked."""

    table: Table
    samples: Samples
    targets: TargetsOfTables
    held: tuple[Table, Samples] | None  # X_val and what goes with it


@dataclass
class Fit:
    """A fit while it runs."""

    estimator: TabularAttributes
    settings: TableSettings
    given: Any  # `Given`; None of shards
    wanted: Wanted
    looking: Looking
    seed: int
    began: float
    goes_on: bool  # from a checkpoint
    prepare: float = 0.0  # seconds that a preparation takes
    goal: Goal = field(default_factory=lambda: Goal(1))
    pace: Pace | None = None  # of the first stage, where there is a limit
    notes: Notes = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds until the time limit."""
        limit = self.settings.time_limit
        return math.inf if limit is None else limit - (time.perf_counter() - self.began)


class Done(NamedTuple):
    """What the second stage must know of the first."""

    stage: Stage
    place: Place
    dtype: str
    n: int  # rows of an epoch
    batches: int
    held: int  # rows that it was judged by


@all_or_nothing
@with_callbacks  # type: ignore[untyped-decorator]
def fit_table(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    validation: tuple[Any, Any, Any] = (None, None, None),
    wanted: Wanted = NO_CHECKPOINTS,
    group: Group | None = None,
) -> Any:
    """Train an estimator of tables; it comes back."""
    began = time.perf_counter()
    if isinstance(X, Shards):
        with our_errors():
            demand_nothing_beside("X", y, sample_weight)
        return _fit_shards(estimator, X, validation, wanted, group or alone(), began)
    settings = settings_of_table(estimator)
    with our_errors():
        demand_shards(X, group)
        place, dtype = place_and_dtype(settings)
        given = _given(estimator, X, y, sample_weight, validation)
        seed = int(check_random_state(settings.random_state).randint(2**31 - 1))
        before = checkpointing.known(estimator, wanted, 1, place, dtype)
        looking = Looking(estimator, X, y, sample_weight)
        seed = seed if before is None else before.seed
        fit = Fit(estimator, settings, given, wanted, looking, seed, began, before is not None)
        with unhurried(settings.time_limit):
            first = _first(fit, before)
    found, best = _found(fit, first, before)
    stopped_by, notes, error = [found.stopped_by], fit.notes + list(found.notes), found.error
    done = _done(first)
    del first  # its data, as large as the second's
    if fit.goal.refits and best and error is None and found.stopped_by not in ENDS_ALL:
        again, more = _second(fit, done, found, best)
        stopped_by.append(again.stopped_by if again else "time")
        notes += more
        error = again.error if again else None
    return _ended(fit, stopped_by, notes, error)


def _fit_shards(
    estimator: TabularAttributes,
    shards: Shards,
    validation: tuple[Any, Any, Any],
    wanted: Wanted,
    group: Group,
    began: float,
) -> TabularAttributes:
    """One training, on shards."""
    with our_errors():
        ready = posed_on_shards(estimator, shards, validation, wanted, group)
    looking: list[Looking] = []  # it stays in this process
    agreed(group, lambda: looking.append(Looking(estimator, shards, None, None)))  # callbacks are told, and may fail
    fit = Fit(
        estimator,
        ready.settings,
        None,
        wanted,
        looking[0],
        ready.seed,
        began,
        ready.before is not None,
        goal=Goal(ready.posed.stage.epochs, refits=False),
        notes=ready.notes,
    )
    found, _ = _found(fit, ready.posed, ready.before)
    return _ended(fit, [found.stopped_by], fit.notes + list(found.notes), found.error)


# --- What is given ---


def _given(estimator: TabularAttributes, X: Any, y: Any, w: Any, validation: tuple[Any, Any, Any]) -> Given:
    table = table_of(X)
    targets, samples = estimator._learn(y, w, numbered(table.n_rows))
    return Given(table, samples, targets, validation_of(targets, validation))


def _split(given: Given, settings: TableSettings, seed: int) -> tuple[HostArray, HostArray]:
    """The rows that the first stage is trained on, and those that it is judged by."""
    n, w = given.table.n_rows, given.samples.w
    if given.held is not None:
        return np.arange(n), np.arange(0)
    if n < 2:
        raise InvalidInputError(
            "X must hold at least two rows, one to learn from and one to judge by; got one sample (n_samples=1). "
            "Pass more, or X_val and y_val."
        )
    rng = np.random.RandomState(seed)
    trained, held = rows_of(given.targets.strata(given.samples), n, settings.validation_fraction, rng)
    for some, which in ((trained, "leaves to train on"), (held, "holds out")):
        if w is not None and not np.any(w[some]):
            raise InvalidInputError(
                f"all that validation_fraction={settings.validation_fraction:g} {which} has weight 0; pass X_val, "
                "y_val, or other weights."
            )
    return trained, held


# --- The stages ---


def _first(fit: Fit, before: Known | None) -> Posed:
    settings, given = fit.settings, fit.given
    rows, held_rows = _split(given, settings, fit.seed)
    began = time.perf_counter()
    preparation, fit.notes = prepared(settings, given.table, rows)
    inputs = inputs_of(preparation, given.table, fit.notes, np.concatenate([rows, held_rows]))
    inputs, held_inputs = inputs[: len(rows)], inputs[len(rows) :]
    fit.prepare = time.perf_counter() - began
    targets = given.targets.learned(given.samples.take(rows))
    samples = targets.rescaled(given.samples)
    if given.held is None:
        held = Held(held_inputs, samples.take(held_rows))
    else:
        held = Held(validation_inputs(preparation, given.held[0], fit.notes), targets.rescaled(given.held[1]))
    epochs, refits = epochs_of(settings, len(rows)), bool(settings.refit) and given.held is None
    fit.goal = Goal(epochs, refits=refits)
    stage = Stage(1, members_first(settings.n_members, len(held.inputs), refits=refits), epochs, epochs)
    trained = inputs, samples.take(rows)

    def pose(stage: Stage, judged: Held) -> Posed:
        checkpoints = fit.wanted.folder is not None
        return posed(settings, stage, preparation, targets, *trained, judged, fit.seed, checkpoints=checkpoints)

    if before is not None:
        fit.goal = Goal(before.stage.epochs, before.stage.rows, before.held, before.refits)
        return pose(before.stage._replace(seconds=fit.left), held.take(before.held))
    made = pose(stage, held)
    if settings.time_limit is None:
        return made
    batches = made.problem.data.n_batches, max(given.table.n_rows // settings.batch_size, 1)
    prepare, size = fit.prepare if refits else math.inf, made.problem.data.batch_size
    n_held = len(held.inputs)
    fit.pace = pace_of(made)
    fit.goal = goal_of(fit.pace, fit.left, epochs, settings.n_members, batches, n_held, size, prepare)
    members = members_first(settings.n_members, n_held, refits=fit.goal.refits)
    stage = Stage(1, members, fit.goal.epochs, fit.goal.epochs, fit.goal.rows, max(fit.left, 0.0))
    return pose(stage, held.take(fit.goal.held))


def _second(fit: Fit, first: Done, found: Fitted, best: int) -> tuple[Fitted | None, Notes]:
    """The second stage, and what is to be said; None where there is no time for it."""
    estimator, settings, given = fit.estimator, fit.settings, fit.given
    kept = dict(vars(estimator))
    try:
        with our_errors():
            before = checkpointing.known(estimator, fit.wanted, 2, first.place, first.dtype) if fit.goes_on else None
            if before is not None and before.stage.stop != best:  # of another first training
                before = None
            if before is None and _would_take(fit, first, best) > fit.left:
                return None, []
            preparation, _ = prepared(settings, given.table, None)  # what is to be said of the table has been noted
            inputs, _ = preparation.transform_with_notes(given.table)
            targets = given.targets.learned(given.samples)
            stage = Stage(2, settings.n_members, first.stage.epochs, best, seconds=fit.left)
            second = posed(
                *(settings, stage, preparation, targets, inputs, targets.rescaled(given.samples), None, fit.seed),
                checkpoints=fit.wanted.folder is not None,
            )
    except KeyboardInterrupt:
        told = "Training interrupted by user before the second training; what the first one learned is kept."
        return replace(found, stopped_by="interrupt"), [(told, UserWarning)]
    again = _train(fit, second, before)
    if again.stopped_by != "divergence" and len(again.history.get("loss", ())) == best:  # stopped after its last, say
        _show(estimator, second, again)
    else:  # half a training is worth less than the one that is whole
        estimator.__dict__.clear()
        estimator.__dict__.update(kept)
    return again, list(again.notes)


def _done(first: Posed) -> Done:
    data, held = first.problem.data, first.problem.held_out
    return Done(first.stage, data.place, first.content.dtype, data.n, data.n_batches, 0 if held is None else held.n)


def _would_take(fit: Fit, first: Done, best: int) -> float:
    """Seconds that a second stage of so many epochs would take, by what the first one took."""
    if fit.settings.time_limit is None:
        return 0.0
    more = fit.settings.n_members / first.stage.members * fit.given.table.n_rows / first.n
    share = 1.0 if fit.pace is None else fit.pace.share_of_steps(first.batches, first.held)
    return float(fit.prepare + best * more * share * fit.looking.seconds_an_epoch)


# --- Training ---


def _found(fit: Fit, first: Posed, before: Known | None) -> tuple[Fitted, int]:
    """What came of the first stage, which the estimator shows, and its best epoch."""
    found = _train(fit, first, before)
    best = _best_epoch(found.history, averaged=fit.settings.average > 0.0)
    if best == 0 and found.stopped_by == "divergence":
        raise DivergenceError(f"{NOT_FINITE} {found.notes[0][0] if found.notes else ''}")
    _show(fit.estimator, first, found)
    return found, best


def _ended(fit: Fit, stopped_by: list[str], notes: Notes, error: Exception | None) -> TabularAttributes:
    give(fit.estimator, {"stopped_by_": tuple(stopped_by), "_died": error, "_notes": notes})
    fit.looking.done()
    return fit.estimator


def _train(fit: Fit, stage: Posed, before: Known | None) -> Fitted:
    estimator, settings, net = fit.estimator, fit.settings, stage.content
    keep = checkpointing.asked(estimator, fit.wanted, stage, fit.seed, fit.goal.held, fit.goal.refits, _show)
    watching = observers(
        settings, stage, fit.looking, lambda now: _show(estimator, stage, now), lambda: estimator.network_._p
    )
    saved = None if before is None else before.saved
    timely = unhurried(settings.time_limit)
    with np.errstate(all="ignore"), training_on(net.place, settings.batch_size), timely:
        return training.fit(stage.problem, Fitted(net.network, net.p), watching, keep=keep, saved=saved)


def _show(estimator: TabularAttributes, stage: Posed, now: Fitted) -> TabularAttributes:
    """The estimator as it is when a stage has come this far."""
    history: Any = now.history
    give(estimator, stage.targets.attributes)
    if stage.stage.number == 1:
        best = _best_epoch(history, averaged=stage.problem.plan.averaged)
        give(estimator, {"history_": history, "refit_history_": None, "best_epoch_": best, "stopped_by_": ()})
        give(estimator, _at_best(history, best))
    else:
        estimator.refit_history_ = history
    estimator._show(mlp_of(stage.content._replace(p=now.p, history=history)), stage.preparation)
    return estimator


def _best_epoch(history: Mapping[str, Sequence[float]], *, averaged: bool) -> int:
    """The epoch, from 1, of the least loss, foreseen or measured, of what was held out; of equals an average's last."""
    losses = np.asarray(history.get(FORESEEN) or history.get(VALIDATION, ()), dtype=np.float64)
    if not np.any(np.isfinite(losses)):
        return 0
    equal = np.flatnonzero(losses == np.nanmin(losses))
    return int(equal[-1 if averaged else 0]) + 1


def _at_best(history: Mapping[str, Sequence[float]], best: int) -> dict[str, float]:
    """What the history says of that epoch."""
    names = {"validation_loss_": VALIDATION, "validation_score_": "validation_score"}
    return {
        attribute: float(history[curve][best - 1]) if best and curve in history else math.nan
        for attribute, curve in names.items()
    }
