"""How an estimator of tables is fitted: it names a preparation, a network and a schedule, in two stages."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from xpmlp.backends import HostArray
from xpmlp.estimators import building
from xpmlp.estimators.attributes import give
from xpmlp.estimators.fitting import all_or_nothing
from xpmlp.estimators.splitting import rows_of
from xpmlp.estimators.tabular.parameters import TableSettings, settings_of_table
from xpmlp.estimators.validation import NUMPY, Inputs, our_errors
from xpmlp.mlp import MLP
from xpmlp.network.parts import Part, part
from xpmlp.optim.optimizers import optimizer
from xpmlp.optim.schedules import schedule
from xpmlp.tabular import TablePreparation
from xpmlp.tabular.columns import Table, table_of

FEWEST_EPOCHS, MOST_EPOCHS, STEPS = 32, 256, 900  # "auto": about 900 steps, within these
PATIENCE = 8, 0.3  # epochs without a better one: at least so many, or this share of those planned
FEW_MEMBERS = 4  # of the first stage, which only looks for an epoch: half of the time, nearly the same epoch


class Stage(NamedTuple):
    """What a stage is trained on, and how far."""

    rows: HostArray
    held_out: HostArray  # rows that choose the epoch; empty where it is known
    epochs: int  # of the schedule
    stop: int  # the epoch after which it ends
    members: int


@all_or_nothing
def fit_table(estimator: Any, X: Any, y: Any, sample_weight: Any) -> Any:
    """Train an estimator of tables; it comes back."""
    settings = settings_of_table(estimator)
    with our_errors():
        table = table_of(X)
        rows = np.arange(table.n_rows)
        inputs = Inputs(rows[:, None], NUMPY, "float64")
        targets, samples = estimator._learn(y, sample_weight, inputs)
    seed = check_random_state(settings.random_state).randint(2**31 - 1)
    rng = np.random.RandomState(seed)
    trained, held = rows_of(targets.strata(samples), len(rows), settings.validation_fraction, rng)
    epochs = epochs_of(settings, len(trained))
    members = min(settings.n_members, FEW_MEMBERS) if settings.refit else settings.n_members
    net, preparation, targets = train(
        settings, Stage(trained, held, epochs, epochs, members), table, samples, targets, seed
    )
    seen = np.asarray(net.history["validation_loss"])
    best = int(len(seen) - 1 - np.argmin(seen[::-1])) + 1  # the last of equals
    found = {"best_epoch_": best, "validation_loss_": float(seen[best - 1]), "validation_score_": math.nan}
    found |= {"history_": net.history, "refit_history_": None, "stopped_by_": ()}
    if settings.refit:
        stage = Stage(rows, rows[:0], epochs, best, settings.n_members)
        net, preparation, targets = train(settings, stage, table, samples, targets, seed)
        found |= {"refit_history_": net.history}
    give(estimator, found | targets.attributes)
    estimator._show(net, preparation)
    return estimator


def epochs_of(settings: TableSettings, n: int) -> int:
    """The epochs of the schedule for n rows."""
    if settings.max_iter != "auto":
        return int(settings.max_iter)
    return max(FEWEST_EPOCHS, min(MOST_EPOCHS, math.ceil(STEPS / max(n // settings.batch_size, 1))))


def train(
    settings: TableSettings,
    stage: Stage,
    table: Table,
    samples: Any,
    targets: Any,
    seed: int,
) -> tuple[MLP, TablePreparation, Any]:
    """One stage: the network, the preparation before it, what its targets are."""
    preparation = TablePreparation(categorical_features=settings.categorical_features, n_bins=settings.n_bins)
    inputs = preparation.fit(table, rows=stage.rows).transform(table)
    w = samples.w
    if hasattr(targets, "learned"):
        targets = targets.learned(samples.take(stage.rows))
        y = targets.scaled(samples.targets)
    else:
        y = samples.targets
    loss = targets.loss(y.shape[1])
    net = MLP(
        (inputs.shape[1], *building.hidden_sizes(settings), loss.n_outputs or y.shape[1]),
        "silu",
        loss,
        initializer="linear_uniform",
        dropout=settings.dropout,
        parts={0: front(settings, preparation, stage.members)},
        members=stage.members,
        backend=settings.backend or "numpy",
        device=settings.device,
        dtype=settings.dtype or "float32",
        random_state=seed,
    )

    def there(array: HostArray) -> Any:
        return net.place.asarray(np.asarray(array, dtype=np.float64), net.dtype)

    few, share = PATIENCE
    more: dict[str, Any] = {}
    if len(stage.held_out):
        more["validation_data"] = there(inputs[stage.held_out]), there(y[stage.held_out])
        more |= {"early_stopping": True, "patience": max(few, int(share * stage.epochs))}
    given = settings.callbacks or ()
    known: list[Callable[..., Any]] = [lambda _net, epoch, _logs: epoch >= stage.stop]
    net.fit(
        there(inputs[stage.rows]),
        there(y[stage.rows]),
        epochs=stage.epochs,
        batch_size=settings.batch_size,
        optimizer=optimizer("adamw", beta_2=0.95, weight_decay=settings.weight_decay),
        learning_rate=settings.learning_rate_init,
        schedule=schedule("one_cycle", peak=0.05, start=0.02, final=0.0),
        average=settings.average,
        sample_weight=None if w is None else there(w[stage.rows]),
        callbacks=[*([given] if callable(given) else given), *known],
        progress=bool(settings.verbose),
        **more,
    )
    return net, preparation, targets


def front(settings: TableSettings, made: TablePreparation, members: int) -> list[Part]:
    """What stands before the first layer: the code of numbers, and the scales of members, drawn once a column."""
    groups = made.groups_.tolist()
    found = []
    if settings.embedding is not None and made.n_numbers_:
        found.append(part("piecewise", edges=list(made.edges_), width=settings.embedding_width))
        numbers = [group for group in groups[: made.n_numbers_] for _ in range(settings.embedding_width)]
        groups = numbers + groups[made.n_numbers_ :]
    return [*found, part("member_scale", groups=groups)] if members > 1 else found
