"""A fit of an estimator of tables on shards: one training, judged by a part of every shard, or by what is given.

What cells mean is learned from a sample: shards from all over the data, until there are SAMPLE rows. Of several
processes each gives what it has of the sample, and what rank 0 learns of it holds for all. Shards hold what `fit` takes
as X (frames, arrays), and each is prepared when its turn comes; nothing has the length of the data.
"""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
from sklearn.utils import check_random_state

from xpmlp.backends import HostArray
from xpmlp.distributed import Group, alone
from xpmlp.distributed.groups import agreed
from xpmlp.estimators.checkpointing import Wanted
from xpmlp.estimators.classes import class_weights, labels_of
from xpmlp.estimators.dealing import (
    JUDGED_ROWS,
    Counts,
    Deal,
    balanced_weights,
    classes_of,
    counted,
    demand_nothing_beside,
    demand_same_parameters,
    encoded,
    judged_by,
    shared_parameters,
)
from xpmlp.estimators.judging import Judge
from xpmlp.estimators.tabular import checkpointing
from xpmlp.estimators.tabular.attributes import TabularAttributes
from xpmlp.estimators.tabular.checkpointing import Known
from xpmlp.estimators.tabular.parameters import TableSettings, settings_of_table
from xpmlp.estimators.tabular.stages import (
    Held,
    Posed,
    Stage,
    epochs_of,
    inputs_of,
    network_of,
    place_and_dtype,
    prepared,
    problem_of,
    validation_inputs,
)
from xpmlp.estimators.tabular.targets import (
    LabelsOfTables,
    NumbersOfTables,
    TargetsOfTables,
    numbered,
    two_at_least,
    validation_of,
)
from xpmlp.estimators.validation import InvalidInputError
from xpmlp.mlp.sharded import Epochs
from xpmlp.shards import Shards
from xpmlp.shards.lanes import HeldOut
from xpmlp.tabular import TablePreparation
from xpmlp.tabular.columns import table_of
from xpmlp.training.checkpoints import data_digest
from xpmlp.training.loop import Notes

SAMPLE = 100_000  # rows that a preparation is learned from
MOST_SHARDS = 64  # that they are taken from
MOST_NOTES = 10  # that are made of odd cells
LOG = logging.getLogger("xpmlp")


class Ready(NamedTuple):
    """A fit on shards that may begin."""

    posed: Posed
    settings: TableSettings
    seed: int
    before: Known | None  # the checkpoint to go on from
    notes: Notes  # what is to be said of the table once all is done


class _Facts(NamedTuple):
    """What one process knows of the data before training."""

    digest: str
    judged_by: str
    parameters: dict[str, Any]  # that must be the same
    counts: Counts | None  # of the labels in the shards that it has looked at
    seed: int
    before: Known | None


class _Learned(NamedTuple):
    """What a sample says: of the cells and, of numbers, on which scale they are."""

    preparation: TablePreparation
    notes: Notes
    scales: Any


class _Agreed(NamedTuple):
    """What all processes go by."""

    settings: TableSettings
    group: Group
    targets: TargetsOfTables
    sample: tuple[Any, HostArray]  # X and encoded targets
    preparation: TablePreparation
    notes: Notes
    seed: int
    before: Known | None
    checkpoints: bool


def posed_on_shards(
    estimator: TabularAttributes, shards: Shards, validation: tuple[Any, Any, Any], wanted: Wanted, group: Group
) -> Ready:
    """The stage on the batches of shards, the same in every process.

    Raises
    ------
    ValueError
        If the shards cannot be prepared alike, or X_val comes alone.
    LostPeerError
        If another process cannot go on.
    """
    here: list[Any] = []  # the settings, then the stage: they stay in this process
    said = agreed(group, lambda: _facts(estimator, shards, validation, wanted, group, here))
    _demand_same(said)
    settings, first, counts = here.pop(), said[0], [facts.counts for facts in said]
    X, y = sample_of(shards, group)
    LOG.info("the preparation is learned from %d of %d rows", len(y), sum(shards.rows))
    learned = agreed(group, lambda: _learned(estimator, settings, X, y) if group.rank == 0 else None)[0]
    settings = settings._replace(verbose=settings.verbose and group.rank == 0)  # rank 0 prints

    def pose() -> None:
        targets = _targets(estimator, shards, y, learned, counts)
        sample = X, encoded(targets, numbered(len(y)), False, y, None, len(y))[0]
        keeps = wanted.folder is not None
        preparation, notes = learned.preparation, learned.notes
        by = _Agreed(settings, group, targets, sample, preparation, notes, first.seed, first.before, keeps)
        here.append(_posed(by, shards, validation))

    agreed(group, pose)  # every process for itself: one that fails must not be waited for
    return Ready(here[0], settings, first.seed, first.before, learned.notes)


def _facts(
    estimator: TabularAttributes,
    shards: Shards,
    validation: tuple[Any, Any, Any],
    wanted: Wanted,
    group: Group,
    here: list[Any],
) -> _Facts:
    settings = settings_of_table(estimator)
    here.append(settings)
    counts, before = None, None
    balanced = getattr(estimator, "class_weight", None) == "balanced"
    if hasattr(estimator, "class_weight") and (shards.classes is None or balanced):
        counts = counted(shards, group, numbered(0), balanced=balanced)
    seed = int(check_random_state(settings.random_state).randint(2**31 - 1))
    if group.rank == 0:
        before = checkpointing.known(estimator, wanted, 1, *place_and_dtype(settings))
    seed = seed if before is None else before.seed
    return _Facts(shards.digest, judged_by(validation[0]), shared_parameters(estimator), counts, seed, before)


def _demand_same(said: list[_Facts]) -> None:
    first = said[0]
    demand_same_parameters([facts.parameters for facts in said])
    for rank, facts in enumerate(said):
        if facts.digest != first.digest:
            raise InvalidInputError("all processes need the same shards; they have others.")
        if facts.judged_by != first.judged_by:
            raise InvalidInputError(f"all processes need the same X_val; rank {rank} has others.")


def sample_of(shards: Shards, group: Group | None = None) -> tuple[Any, HostArray]:
    """Rows from all over the shards, and what goes with them: all rows, where there are few."""
    group = alone() if group is None else group
    total = sum(shards.rows)
    each = max(len(shards) // MOST_SHARDS, 1) if total > SAMPLE else 1
    chosen = [i for i in range(len(shards)) if shards.rows[i]][::each]
    step = max(sum(shards.rows[i] for i in chosen) // SAMPLE, 1)

    def pieces() -> dict[int, tuple[Any, HostArray]]:
        found = {}
        for i in sorted(set(shards.looked_at(group.rank, group.size)) & set(chosen)):
            X, y, *_ = shards.read(i)
            found[i] = _thinned(X, step), np.asarray(y)[::step]
        return found

    together: dict[int, tuple[Any, HostArray]] = {}
    for found in agreed(group, pieces):
        together |= found
    tables, columns = zip(*(together[i] for i in chosen), strict=True)
    return _joined(tables), np.concatenate(columns)


def _thinned(X: Any, step: int) -> Any:
    frame = nw.from_native(X, pass_through=True, eager_only=True)
    if isinstance(frame, nw.DataFrame):
        return nw.to_native(frame.gather_every(step))
    if isinstance(X, Mapping):
        table_of(X)  # that it is one of columns
        return {name: list(values)[::step] for name, values in X.items()}
    return X[::step] if _is_dicts(X) else np.asarray(X)[::step]


def _joined(tables: Sequence[Any]) -> Any:
    if all(map(_is_dicts, tables)):
        return [row for rows in tables for row in rows]
    columns = [set(X) if isinstance(X, Mapping) else None for X in tables]
    if any(columns):
        odd = next((i for i, names in enumerate(columns) if names != columns[0]), 0)
        if odd:
            first, other = (f"{type(X).__name__} of {list(X)[:5]}" for X in (tables[0], tables[odd]))
            raise InvalidInputError(f"all shards must hold the same columns, of the same kinds: {first}, and {other}.")
        return {name: [value for X in tables for value in X[name]] for name in tables[0]}
    frames = [nw.from_native(X, pass_through=True, eager_only=True) for X in tables]
    try:
        return nw.to_native(nw.concat(frames)) if isinstance(frames[0], nw.DataFrame) else np.concatenate(tables)
    except Exception as error:  # each library of frames has its own
        raise InvalidInputError(f"all shards must hold the same columns, of the same kinds: {error}") from error


def _is_dicts(X: Any) -> bool:
    return isinstance(X, list) and all(isinstance(row, Mapping) for row in X)


def _learned(estimator: TabularAttributes, settings: TableSettings, X: Any, y: HostArray) -> _Learned:
    table = table_of(X)
    preparation, notes = prepared(settings, table, None)
    cells = {text for text, _ in preparation.transform_with_notes(table)[1]}
    notes = [note for note in notes if note[0] not in cells]  # of a cell its shard tells, with its row there
    scales = None
    if not hasattr(estimator, "class_weight"):
        targets, samples = estimator._learn(y, None, numbered(len(y)))
        scales = targets.learned(samples).attributes["_scales"]
    return _Learned(preparation, notes, scales)


def _targets(
    estimator: TabularAttributes, shards: Shards, y: HostArray, learned: _Learned, counts: list[Counts | None]
) -> TargetsOfTables:
    if not hasattr(estimator, "class_weight"):
        numbers, _ = estimator._learn(y, None, numbered(len(y)))
        assert isinstance(numbers, NumbersOfTables)
        return NumbersOfTables(numbers.row, *learned.scales)
    if y.ndim == 2 and y.shape[1] > 1:
        known = labels_of(np.vstack([y, 1 - y]))
    else:
        known = labels_of(classes_of(shards, counts))
    labels: LabelsOfTables = two_at_least(known)
    if estimator.class_weight == "balanced":
        return replace(labels, weights=balanced_weights(labels, counts))
    weights = class_weights(estimator.class_weight, labels, labels.classes, None, incremental=False)
    return replace(labels, weights=weights)


def _posed(by: _Agreed, shards: Shards, validation: tuple[Any, Any, Any]) -> Posed:
    settings, targets, preparation, before = by.settings, by.targets, by.preparation, by.before

    def prepare(X: Any, name: str) -> HostArray:
        return inputs_of(preparation, table_of(X), by.notes if len(by.notes) < MOST_NOTES else [], of=f"{name}: ")

    ready = shards.mapped(prepare)
    judged: Shards | None = None
    held: Held | None = None
    if isinstance(validation[0], Shards):
        demand_nothing_beside("X_val", *validation[1:])
        judged = validation[0].mapped(prepare)
    elif (given := validation_of(targets, validation)) is not None:
        held = Held(validation_inputs(preparation, given[0], by.notes), given[1])
    part = None
    if judged is None and held is None:
        part, judged = HeldOut(settings.validation_fraction, chosen=False), ready
    epochs = epochs_of(settings, sum(shards.rows if part is None else map(part.kept, shards.rows)))
    seconds = math.inf if settings.time_limit is None else float(settings.time_limit)
    stage = Stage(1, settings.n_members, epochs, epochs) if before is None else before.stage
    stage = stage._replace(seconds=seconds)
    n_columns = int(by.sample[1].shape[1])
    net = network_of(settings, stage, preparation, targets, n_columns, by.seed)
    width, rows = net.network.n_inputs, numbered(0)
    deal = Deal(net.place, net.dtype, width, n_columns, targets, rows, by.seed, by.group)
    data = deal.data(ready, settings.batch_size, part, shuffle=True)
    together = deal.together(data, net.network.layout.size)
    judge = None
    if judged is not None:
        chosen, like = (None, None) if part is None else (part._replace(chosen=True), data)
        held_data = deal.data(judged, JUDGED_ROWS, chosen, shuffle=False, like=like)
        judge = Judge(net.network, held_data, targets, together)
    draws = Epochs(0 if before is None else before.saved.snapshot.epoch)
    problem = problem_of(
        settings, stage, net, data, draws, held,
        judged=True, checkpoints=by.checkpoints, judge=judge, together=together,
    )  # fmt: skip
    digest = _digest(by, shards, judged, held) if by.checkpoints and by.group.rank == 0 else ""  # rank 0 writes
    return Posed(stage, net, preparation, targets, problem, held, digest)


def _digest(by: _Agreed, shards: Shards, judged: Shards | None, held: Held | None) -> str:
    """What tells the data of this fit from others: the sample, and how many rows there are where."""
    X, targets = by.sample
    inputs, _ = by.preparation.transform_with_notes(table_of(X))
    parts: list[HostArray | None] = [inputs, targets]
    parts += [] if held is None else [held.inputs, held.samples.targets, held.samples.w]
    told = [shards.digest, "" if judged is None else judged.digest, data_digest(*parts)]
    return hashlib.sha256(" ".join(told).encode()).hexdigest()
