"""How an estimator of tables is fitted, in two stages.

The first sets a part of the rows aside and finds the epoch at which the averaged weights are best; the second trains a
new network on all rows, with the same schedule, and stops there. Where rows are given to judge by, or `refit` is False,
there is no second stage, and the first one has all members.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from xpmlp import training
from xpmlp.backends import HostArray
from xpmlp.estimators.attributes import give
from xpmlp.estimators.fitting import NOT_FINITE, SMALLER, all_or_nothing
from xpmlp.estimators.splitting import rows_of
from xpmlp.estimators.tabular.attributes import TabularAttributes
from xpmlp.estimators.tabular.parameters import TableSettings, settings_of_table
from xpmlp.estimators.tabular.stages import FEW_MEMBERS, Held, Posed, Stage, epochs_of, posed, prepared
from xpmlp.estimators.tabular.targets import TargetsOfTables
from xpmlp.estimators.tabular.watching import observers
from xpmlp.estimators.targets import Samples
from xpmlp.estimators.validation import NUMPY, Inputs, InvalidInputError, our_errors
from xpmlp.faults import telling_of_memory
from xpmlp.mlp import mlp_of
from xpmlp.tabular.columns import Table, table_of
from xpmlp.training import Fitted
from xpmlp.training.loop import DivergenceError

ENDS_ALL = ("interrupt", "callback")  # what stops a stage, and the fit with it


class Given(NamedTuple):
    """What a fit was given, checked."""

    table: Table
    samples: Samples
    targets: TargetsOfTables
    table_val: Table | None = None
    samples_val: Samples | None = None


@all_or_nothing
def fit_table(
    estimator: Any, X: Any, y: Any, sample_weight: Any, validation: tuple[Any, Any, Any] = (None, None, None)
) -> Any:
    """Train an estimator of tables; it comes back."""
    settings = settings_of_table(estimator)
    with our_errors():
        given = _given(estimator, X, y, sample_weight, validation)
        seed = int(check_random_state(settings.random_state).randint(2**31 - 1))
        first = _first(settings, given, seed)
    found = _train(estimator, settings, first)
    best = best_epoch(found.history, averaged=settings.average > 0.0)
    if best == 0 and found.stopped_by == "divergence":
        raise DivergenceError(f"{NOT_FINITE} {found.notes[0][0] if found.notes else ''}")
    stopped, notes, error = [found.stopped_by], list(found.notes), found.error
    _show(estimator, first, found)
    if _refits(settings, given) and best and error is None and found.stopped_by not in ENDS_ALL:
        before = dict(vars(estimator))
        with our_errors():
            second = _second(settings, given, first, best, seed)
        again = _train(estimator, settings, second)
        stopped.append(again.stopped_by)
        notes, error = notes + list(again.notes), again.error
        if again.stopped_by == "epochs":
            give(estimator, {"refit_history_": again.history})
            _show(estimator, second, again)
        else:  # half a training is worth less than the one that is whole
            vars(estimator).clear()
            vars(estimator).update(before)
    give(estimator, {"stopped_by_": tuple(stopped), "_died": error, "_notes": notes})
    return estimator


# --- What is given ---


def _given(estimator: TabularAttributes, X: Any, y: Any, w: Any, validation: tuple[Any, Any, Any]) -> Given:
    table = table_of(X)
    targets, samples = estimator._learn(y, w, _numbered(table))
    X_val, y_val, w_val = validation
    if X_val is None and y_val is None and w_val is None:
        return Given(table, samples, targets)
    if X_val is None or y_val is None:
        raise InvalidInputError("X_val and y_val come together; got one of them, or sample_weight_val, alone.")
    table_val = table_of(X_val)
    held = targets.encode(y_val, w_val, _numbered(table_val), "sample_weight_val")
    return Given(table, samples, targets, table_val, held)


def _numbered(table: Table) -> Inputs:
    # Samples of a table know their rows; what the cells mean is found out stage by stage.
    return Inputs(np.arange(table.n_rows)[:, None], NUMPY, "float64")


def _refits(settings: TableSettings, given: Given) -> bool:
    return bool(settings.refit) and given.table_val is None


# --- The stages ---


def _first(settings: TableSettings, given: Given, seed: int) -> Posed:
    rows = np.arange(given.table.n_rows)
    trained, held = rows, rows[:0]
    if given.samples_val is None:
        strata = given.targets.strata(given.samples)
        trained, held = _split(strata, len(rows), settings, np.random.RandomState(seed))
    for some, which in ((trained, "leaves to train on"), (held, "holds out")):
        if len(some) and given.samples.w is not None and not np.any(given.samples.w[some]):
            raise InvalidInputError(
                f"all that validation_fraction={settings.validation_fraction:g} {which} has weight 0; pass X_val, "
                "y_val, or other weights."
            )
    preparation = prepared(settings, given.table, trained)
    inputs = preparation.transform(given.table)
    targets = given.targets.learned(given.samples.take(trained))
    samples = targets.rescaled(given.samples)
    if given.table_val is not None and given.samples_val is not None:
        judged = Held(preparation.transform(given.table_val), targets.rescaled(given.samples_val))
    else:
        judged = Held(inputs[held], samples.take(held))
    epochs = epochs_of(settings, len(trained))
    members = min(settings.n_members, FEW_MEMBERS) if _refits(settings, given) else settings.n_members
    stage = Stage(1, members, epochs, epochs)
    return posed(
        settings, stage, preparation, targets, inputs[trained], samples.take(trained), judged, seed, checkpoints=False
    )


def _second(settings: TableSettings, given: Given, first: Posed, best: int, seed: int) -> Posed:
    preparation = prepared(settings, given.table, None)
    targets = given.targets.learned(given.samples)
    stage = Stage(2, settings.n_members, first.stage.epochs, best)
    inputs, samples = preparation.transform(given.table), targets.rescaled(given.samples)
    return posed(settings, stage, preparation, targets, inputs, samples, None, seed, checkpoints=False)


def _split(
    strata: HostArray | None, n: int, settings: TableSettings, rng: np.random.RandomState
) -> tuple[HostArray, HostArray]:
    if n < 2:
        raise InvalidInputError(
            "X must hold at least two rows, one to learn from and one to judge by; got one sample (n_samples=1). "
            "Pass more, or X_val and y_val."
        )
    return rows_of(strata, n, settings.validation_fraction, rng)


# --- Training ---


def _train(estimator: TabularAttributes, settings: TableSettings, stage: Posed) -> Fitted:
    net, place = stage.content, stage.content.place
    begin = Fitted(net.network, net.p)
    show = partial(_show, estimator, stage)
    watching = observers(settings, stage, show, lambda: estimator.network_._p)
    doing = f"training with batch_size={settings.batch_size}"
    with np.errstate(all="ignore"), telling_of_memory(place, doing, SMALLER):
        return training.fit(stage.problem, begin, watching)


def _show(estimator: TabularAttributes, stage: Posed, now: Fitted) -> TabularAttributes:
    """The estimator as it is when a stage has come this far."""
    which = "history_" if stage.stage.number == 1 else "refit_history_"
    give(estimator, {which: now.history} | stage.targets.attributes)
    if stage.stage.number == 1:
        best = best_epoch(now.history, averaged=stage.problem.plan.averaged)
        give(estimator, {"refit_history_": None, "best_epoch_": best, "stopped_by_": ()} | at_best(now.history, best))
    net = mlp_of(stage.content._replace(p=now.p, history=now.history))
    estimator._show(net, stage.preparation)
    return estimator


def best_epoch(history: dict[str, Sequence[float]], *, averaged: bool) -> int:
    """The epoch, counted from 1, of the least loss on what was held out; of equals the last where it is averaged."""
    losses = np.asarray(history.get("validation_loss", ()), dtype=np.float64)
    if not np.any(np.isfinite(losses)):
        return 0
    equal = np.flatnonzero(losses == np.nanmin(losses))
    return int(equal[-1 if averaged else 0]) + 1


def at_best(history: dict[str, Sequence[float]], best: int) -> dict[str, float]:
    """What the history says of that epoch."""
    names = {"validation_loss_": "validation_loss", "validation_score_": "validation_score"}
    return {
        attribute: float(history[curve][best - 1]) if best and curve in history else math.nan
        for attribute, curve in names.items()
    }
