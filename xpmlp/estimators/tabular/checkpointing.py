"""Checkpoints of a fit of an estimator of tables, and going on from one; the second stage has a folder of its own.

The core's checkpoint says where training stands, the estimator's file what the model is. What a stage was set to is
kept beside them: a fit that goes on has the same seed, and as many epochs as it had time for when it began.
"""

import copy
import os
from pathlib import Path
from typing import Any, NamedTuple

from xpmlp import checks
from xpmlp.backends import Place
from xpmlp.estimators.checkpointing import Wanted
from xpmlp.estimators.tabular.attributes import TabularAttributes
from xpmlp.estimators.tabular.serialization import HISTORIES, parameters_of_table, stored
from xpmlp.estimators.tabular.stages import Posed, Stage
from xpmlp.estimators.validation import InvalidInputError
from xpmlp.io import storage
from xpmlp.mlp import serialization
from xpmlp.training import CheckpointRequest, Fitted, Saved, checkpoints
from xpmlp.training.checkpoints import Stored

# Parameters that may be others when a run goes on
FREE = {"time_limit", "callbacks", "verbose", "backend", "device", "random_state"}
SECOND = "refit"  # the folder of the second stage, within that of the fit


class Known(NamedTuple):
    """What the checkpoint of a stage knows."""

    saved: Saved
    seed: int
    stage: Stage
    held: int | None  # rows that it is judged by, where these are not all that are held out
    refits: bool


def folder_of(wanted: Wanted, number: int) -> Path | None:
    """Where the checkpoints of a stage are."""
    if wanted.folder is None:
        return None
    return Path(wanted.folder) if number == 1 else Path(wanted.folder) / SECOND


def known(estimator: TabularAttributes, wanted: Wanted, number: int, place: Place, dtype: str) -> Known | None:
    """What there is to go on with in a stage; None where there is nothing yet.

    Raises
    ------
    ValueError
        If the checkpoint is not of this kind of estimator with these parameters.
    """
    checks.integer(wanted.every, "checkpoint_every", least=1)
    folder = folder_of(wanted, number)
    if wanted.resume and folder is None:
        raise InvalidInputError("resume=True needs a folder to go on from; name it with checkpoint=.")
    if folder is None or not checkpoints.last_of(folder).exists() or (wanted.overwrite and not wanted.resume):
        return None
    path = checkpoints.last_of(folder)
    document, arrays = storage.read(path)
    with storage.believing(path):
        kind, was = document["kind"], document["parameters"]
    now = parameters_of_table(estimator, without=FREE)
    other = [f"{name} was {was.get(name)!r}, is {now[name]!r}" for name in now if was.get(name) != now[name]]
    if not wanted.resume:
        if kind != type(estimator).__name__ or other:
            raise InvalidInputError(
                f"{os.fspath(folder)!r} holds the checkpoint of another run, with other parameters, and it would be "
                "lost. Choose another folder, or say overwrite=True."
            )
        return None
    if kind != type(estimator).__name__:
        raise InvalidInputError(f"the checkpoint is of a {kind}, this is a {type(estimator).__name__}.")
    if other:
        raise InvalidInputError(f"resume=True goes on with the parameters that the run began with; {'; '.join(other)}.")
    found = checkpoints.read(folder, place, dtype)
    document, arrays = found.model
    with storage.believing(path):
        fitting = document["fitting"]
        orders = serialization.of_stored(document, arrays, place).orders
        start = HISTORIES["history_" if number == 1 else "refit_history_"]
        history = {
            name.removeprefix(start): array.reshape(-1).tolist()
            for name, array in arrays.items()
            if name.startswith(start)
        }
        stage = Stage(
            number,
            *(checks.integer(fitting[name], name, least=1) for name in ("members", "epochs", "stop")),
        )
        if fitting["rows"] is not None:
            stage = stage._replace(rows=checks.integer(fitting["rows"], "rows", least=1))
        held = None if fitting["held"] is None else checks.integer(fitting["held"], "held", least=1)
        seed = checks.integer(fitting["seed"], "seed", least=0)
        saved = Saved(found.snapshot, found.run, orders, history)
    return Known(saved, seed, stage, held, fitting["refits"] is True)


def asked(
    estimator: TabularAttributes, wanted: Wanted, posed: Posed, seed: int, held: int | None, refits: bool, show: Any
) -> CheckpointRequest | None:
    """The checkpoints of a stage; `show` brings an estimator to where a `Fitted` is."""
    folder = folder_of(wanted, posed.stage.number)
    if folder is None:
        return None
    stage = posed.stage

    def describe(fitted: Fitted) -> Stored:
        view: Any = object.__new__(type(estimator))
        view.__dict__.update(vars(estimator), callbacks=None)
        document, arrays = stored(show(view, posed, fitted))
        document["fitting"] = {
            "seed": seed,
            "members": stage.members,
            "epochs": stage.epochs,
            "stop": stage.stop,
            "rows": stage.rows,
            "held": held,
            "refits": refits,
        }
        return document, arrays

    run = {"data": posed.digest, "arguments": {"checkpoint_every": wanted.every}}
    began = copy.deepcopy(posed.content.orders)
    return CheckpointRequest(folder, wanted.every, describe, run, began, overwrite=wanted.overwrite)
