"""One stage of a fit: which preparation, which network, which schedule; what these do is done elsewhere."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, select
from xpmlp.estimators import building
from xpmlp.estimators.parameters import InvalidParameterError
from xpmlp.estimators.tabular.parameters import TableSettings
from xpmlp.estimators.tabular.targets import TargetsOfTables
from xpmlp.estimators.targets import Samples
from xpmlp.estimators.validation import NUMPY, OF_VALIDATION, of_validation, scale_of
from xpmlp.mlp import MLP, content_of
from xpmlp.mlp.content import Content
from xpmlp.mlp.fitting import Permutations, dropout_seed, factors_of, whole_batches
from xpmlp.network.parts import Part, part
from xpmlp.optim.optimizers import optimizer
from xpmlp.optim.schedules import schedule
from xpmlp.runners import Data
from xpmlp.runners.reduction import Sum
from xpmlp.runners.step import Task
from xpmlp.tabular import TablePreparation, TableWarning
from xpmlp.tabular.columns import Table
from xpmlp.training import Draws, Outcome, Problem, rows_at_once
from xpmlp.training.checkpoints import data_digest
from xpmlp.training.fitting import FORESEEN, VALIDATION
from xpmlp.training.loop import Notes, Plan

FEWEST_EPOCHS, MOST_EPOCHS, STEPS = 32, 256, 900  # "auto": about 900 steps, within these
PATIENCE = 8, 0.3  # epochs without a better one: at least so many, or this share of those planned
# Members of a first stage that only looks for an epoch: they find nearly that of all, in half of the time. Two would
# find an earlier one; but where many rows judge, it can be foreseen from them what more would lose: another half.
FEW_MEMBERS, TWO, MANY_HELD = 4, 2, 1000
BETA_2 = 0.95
WARM_UP, SLOWEST = 0.05, 0.02  # the share of the training in which the rate rises, and the share that it begins with


class Stage(NamedTuple):
    """How far a stage goes."""

    number: int  # 1 looks for the epoch, 2 trains on all rows
    members: int
    epochs: int  # of the schedule
    stop: int  # the epoch after which it ends
    rows: int | None = None  # of an epoch, where there is no time for all of them
    seconds: float = math.inf  # after which no new epoch begins


class Held(NamedTuple):
    """What the epochs of a stage are judged by."""

    inputs: HostArray  # of shape (n, n_inputs), prepared
    samples: Samples

    def take(self, n: int | None) -> "Held":
        """The first n of them."""
        return self if n is None else Held(self.inputs[:n], self.samples.take(np.arange(min(n, len(self.inputs)))))


@dataclass(frozen=True)
class Posed:
    """A stage, ready to be trained."""

    stage: Stage
    content: Content  # the network at its beginning
    preparation: TablePreparation
    targets: TargetsOfTables
    problem: Problem
    held: Held | None
    digest: str = ""  # what tells its data from others, where there are checkpoints


def place_and_dtype(settings: TableSettings) -> tuple[Place, str]:
    """Where the network is trained, and in which dtype."""
    if settings.device is not None and settings.backend is None:
        raise InvalidParameterError(f"device={settings.device!r} needs a backend, whose device it is.")
    place = NUMPY if settings.backend is None else select(settings.backend, settings.device)
    return place, place.dtype_name(settings.dtype or "float32")


def epochs_of(settings: TableSettings, n: int) -> int:
    """The epochs of the schedule for n rows."""
    if settings.max_iter != "auto":
        return int(settings.max_iter)
    return max(FEWEST_EPOCHS, min(MOST_EPOCHS, math.ceil(STEPS / max(n // settings.batch_size, 1))))


def members_first(n_members: int, n_held: int, *, refits: bool) -> int:
    """The members of the first stage, which so many rows judge."""
    return min(n_members, TWO if n_held >= MANY_HELD else FEW_MEMBERS) if refits else n_members


def prepared(settings: TableSettings, table: Table, rows: HostArray | None) -> tuple[TablePreparation, Notes]:
    """The preparation of a table, and what is to be said of it once all is done."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = _preparation(settings, table, rows)
    return made, [(str(one.message), one.category) for one in told]


def inputs_of(
    preparation: TablePreparation, table: Table, notes: Notes, rows: HostArray | None = None, of: str = ""
) -> HostArray:
    """What a network takes of a table, or of some of its rows; what is to be said of it joins `notes`, once.

    `of` is how that begins.
    """
    inputs, told = preparation.transform_with_notes(table, rows=rows)
    said = [text for text, _ in notes]
    notes += [(of + text, TableWarning) for text, loud in told if loud and of + text not in said]
    return inputs


def validation_inputs(preparation: TablePreparation, table: Table, notes: Notes) -> HostArray:
    """The same of X_val; what is said of it says so."""
    with of_validation():
        return inputs_of(preparation, table, notes, of=OF_VALIDATION)


def _preparation(settings: TableSettings, table: Table, rows: HostArray | None) -> TablePreparation:
    # Kinds by all its rows, or as the parameter knows them; numbers by `rows`.
    given = settings.preparation
    if given is None:
        made = TablePreparation(categorical_features=settings.categorical_features, n_bins=settings.n_bins)
        return made.fit(table, rows=rows)
    if hasattr(given, "kinds_"):
        return copy.deepcopy(given).fit_scales(table, rows=rows)
    return TablePreparation(**given.get_params()).fit(table, rows=rows)


def posed(
    settings: TableSettings,
    stage: Stage,
    preparation: TablePreparation,
    targets: TargetsOfTables,
    inputs: HostArray,
    samples: Samples,
    held: Held | None,
    seed: int,
    *,
    checkpoints: bool,
) -> Posed:
    """The stage on prepared inputs of shape (n, n_inputs) and their samples."""
    net = network_of(settings, stage, preparation, targets, samples.targets.shape[1], seed)
    size = min(settings.batch_size, len(inputs))
    rows = min(whole_batches(len(inputs), size), stage.rows or len(inputs))
    data = _data(net, inputs, samples, size, rows)
    draws = Permutations(net.orders, data, True, True)
    problem = problem_of(settings, stage, net, data, draws, held, judged=held is not None, checkpoints=checkpoints)
    parts = [inputs, samples.targets, samples.w]
    parts += [] if held is None else [held.inputs, held.samples.targets, held.samples.w]
    digest = data_digest(*parts) if checkpoints else ""
    return Posed(stage, net, preparation, targets, problem, held, digest)


def network_of(
    settings: TableSettings,
    stage: Stage,
    preparation: TablePreparation,
    targets: TargetsOfTables,
    n_columns: int,
    seed: int,
) -> Content:
    """The network at its beginning, for targets of so many columns."""
    loss = targets.loss(n_columns)
    return content_of(
        MLP(
            (len(preparation.groups_), *building.hidden_sizes(settings), loss.n_outputs or n_columns),
            "silu",
            loss,
            initializer="linear_uniform",
            dropout=settings.dropout,
            parts={0: front(settings, preparation, stage.members)},
            members=stage.members,
            backend=settings.backend or NUMPY.backend.name,
            device=settings.device,
            dtype=settings.dtype or "float32",
            random_state=seed,
        )
    )


def problem_of(
    settings: TableSettings,
    stage: Stage,
    net: Content,
    data: Data,
    draws: Draws,
    held: Held | None,
    *,
    judged: bool,
    checkpoints: bool,
    judge: Callable[[Array], Outcome] | None = None,
    together: Sum | None = None,
) -> Problem:
    """The problem of a stage; one that is `judged`, by rows or by a judge, ends where it is best."""
    few, share = PATIENCE
    to_come = settings.n_members if held is not None and stage.members == TWO < settings.n_members else None
    plan = Plan(
        n_epochs=stage.stop,
        planned=stage.epochs,
        learning_rate=float(settings.learning_rate_init),
        schedule=schedule("one_cycle", peak=WARM_UP, start=SLOWEST, final=0.0, rise="linear"),
        n_batches=data.n_batches,
        n_samples=data.n,
        patience=max(few, share * stage.epochs) if judged else math.inf,
        keep_best=judged,
        max_time=stage.seconds,
        know_best=checkpoints,
        averaged=settings.average > 0.0,
        clips=False,
    )
    return Problem(
        _task(settings, net, data, together),
        data,
        plan,
        draws,
        held_out=None if held is None else _data(net, *held, rows_at_once(net.network, net.place)),
        members_to_come=to_come,
        monitor="loss" if not judged else FORESEEN if to_come else VALIDATION,
        seed=dropout_seed(net, 0),
        judge=judge,
        together=together,
    )


def _task(settings: TableSettings, net: Content, data: Data, together: Sum | None) -> Task:
    # What is trained, on data of so many batches.
    method = optimizer("adamw", beta_2=BETA_2, weight_decay=float(settings.weight_decay))
    method = replace(method, average=float(settings.average) * data.n_batches)
    with net.place.here():
        decays = net.network.layout.fill(lambda segment: segment.decays, net.p) if method.weight_decay else None
        factors = factors_of(net.network, net.p, None)
        return Task(net.network, method, factors=factors, decays=decays, reduce=together)


def _data(net: Content, inputs: HostArray, samples: Samples, batch_size: int, rows: int | None = None) -> Data:
    place, w = net.place, samples.w
    w = None if w is None else place.asarray(w * scale_of(w), net.dtype)
    targets = place.asarray(np.asarray(samples.targets, np.float64), net.dtype)
    return Data(place, place.asarray(inputs, net.dtype), targets, w, batch_size, rows)


def front(settings: TableSettings, made: TablePreparation, members: int) -> Sequence[Part]:
    """What stands before the first layer: the code of numbers, and the scales of members, drawn once a column."""
    groups = made.groups_.tolist()
    found = []
    if settings.embedding is not None and made.n_numbers_:
        found.append(part("piecewise", edges=list(made.edges_), width=settings.embedding_width))
        numbers = [group for group in groups[: made.n_numbers_] for _ in range(settings.embedding_width)]
        groups = numbers + groups[made.n_numbers_ :]
    return [*found, part("member_scale", groups=groups)] if members > 1 else found
