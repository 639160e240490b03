"""A fit of an estimator of tables on shards: one training, judged by a part of every shard, or by rows that are given.

What cells mean is learned from a sample: shards from all over the data, until there are SAMPLE rows. Shards hold what
`fit` takes as X (frames, arrays), and each is prepared when its turn comes; nothing has the length of the data.
"""

import logging
import math
from dataclasses import replace
from functools import partial
from typing import Any

import narwhals as nw
import numpy as np

from xpmlp.backends import HostArray
from xpmlp.estimators.classes import class_weights, labels_of
from xpmlp.estimators.sharded import encoded
from xpmlp.estimators.tabular.attributes import TabularAttributes
from xpmlp.estimators.tabular.parameters import TableSettings
from xpmlp.estimators.tabular.stages import Held, Posed, Stage, epochs_of, network_of, prepared, problem_of
from xpmlp.estimators.tabular.targets import LabelsOfTables, TargetsOfTables, numbered, two_at_least, validation_of
from xpmlp.mlp.sharded import JUDGED_ROWS, Epochs, Judge
from xpmlp.shards import Shards
from xpmlp.shards.lanes import HeldOut, LaneData
from xpmlp.tabular.columns import table_of
from xpmlp.training.loop import Notes

SAMPLE = 100_000  # rows that a preparation is learned from
MOST_SHARDS = 64  # that they are taken from
LOG = logging.getLogger("xpmlp")


def posed_on_shards(
    estimator: TabularAttributes, settings: TableSettings, shards: Shards, validation: tuple[Any, Any, Any], seed: int
) -> tuple[Posed, Notes]:
    """The stage on the batches of shards, and what is to be said of their table once all is done.

    Raises
    ------
    ValueError
        If the shards cannot be prepared alike, or X_val comes alone.
    """
    X, y = sample_of(shards)
    table, rows = table_of(X), numbered(len(y))
    LOG.info("the preparation is learned from %d of %d rows", len(y), sum(shards.rows))
    preparation, notes = prepared(settings, table, None)
    targets: TargetsOfTables
    if hasattr(estimator, "class_weight"):
        labels = _labels(shards, y)
        targets = replace(labels, weights=_weights(shards, labels, estimator.class_weight))
        samples = labels.encode(y, None, rows)
    else:
        targets, samples = estimator._learn(y, None, rows)
        targets = targets.learned(samples)
    n_columns = samples.targets.shape[1]
    given = validation_of(targets, validation)
    held = None if given is None else Held(preparation.transform(given[0]), given[1])
    part = HeldOut(settings.validation_fraction, chosen=False) if held is None else None
    epochs = epochs_of(settings, sum(shards.rows if part is None else map(part.kept, shards.rows)))
    seconds = math.inf if settings.time_limit is None else float(settings.time_limit)
    stage = Stage(1, settings.n_members, epochs, epochs, seconds=seconds)
    net = network_of(settings, stage, preparation, targets, n_columns, seed)

    def read(i: int) -> tuple[Any, ...]:
        X, *others = shards.read(i)
        return preparation.transform(table_of(X)), *others

    ready = Shards(
        shards.rows, read, lanes=shards.lanes, weighted=shards.weighted, runs=shards.runs, names=shards.names
    )
    weighted = shards.weighted or getattr(targets, "weights", None) is not None

    def data_of(size: int, held_out: HeldOut | None, *, shuffle: bool, like: LaneData | None = None) -> LaneData:
        return LaneData(
            net.place,
            ready,
            partial(encoded, targets, rows, weighted),
            net.dtype,
            size,
            width=net.network.n_inputs,
            n_outputs=n_columns,
            seed=seed,
            weighted=weighted,
            held=held_out,
            shuffle=shuffle,
            like=like,
        )

    data = data_of(settings.batch_size, part, shuffle=True)
    judge = None
    if part is not None:
        others = data_of(JUDGED_ROWS, part._replace(chosen=True), shuffle=False, like=data)
        judge = Judge(net.network, others, None, None)
    problem = problem_of(settings, stage, net, data, Epochs(0), held, judged=True, checkpoints=False)
    return Posed(stage, net, preparation, targets, replace(problem, judge=judge), held), notes


def sample_of(shards: Shards) -> tuple[Any, HostArray]:
    """Rows from all over the shards, and what goes with them: all rows, where there are few."""
    total = sum(shards.rows)
    each = max(len(shards) // MOST_SHARDS, 1) if total > SAMPLE else 1
    chosen = [i for i in range(len(shards)) if shards.rows[i]][::each]
    step = max(sum(shards.rows[i] for i in chosen) // SAMPLE, 1)
    tables: list[Any] = []
    columns: list[HostArray] = []
    for i in chosen:
        X, y, *_ = shards.read(i)
        frame = nw.from_native(X, pass_through=True, eager_only=True)
        tables.append(frame.gather_every(step) if isinstance(frame, nw.DataFrame) else np.asarray(X)[::step])
        columns.append(np.asarray(y)[::step])
    frames = isinstance(tables[0], nw.DataFrame)
    return nw.to_native(nw.concat(tables)) if frames else np.concatenate(tables), np.concatenate(columns)


def _labels(shards: Shards, y: HostArray) -> LabelsOfTables:
    if y.ndim == 2 and y.shape[1] > 1:
        known = labels_of(np.vstack([y, 1 - y]))
    elif shards.classes is not None:
        known = labels_of(np.asarray(shards.classes))
    else:
        found: set[Any] = set()
        for i in range(len(shards)):
            found.update(np.unique(np.asarray(shards.y(i))).tolist())
        known = labels_of(np.array(sorted(found)))
    return two_at_least(known)


def _weights(shards: Shards, labels: LabelsOfTables, given: Any) -> dict[Any, float] | None:
    counts = None
    if given == "balanced" and labels.kind != "multilabel":
        counts = np.zeros(len(labels.classes))
        for i in range(len(shards)):
            counts += np.bincount(labels.codes(np.asarray(shards.y(i)).ravel()), minlength=len(counts))
    return class_weights(given, labels, labels.classes, counts, incremental=False)  # a sample of each, that many times
