"""Checkpoints: all that training knows after an epoch, as arrays and JSON, and back; `last` and `best` in a folder.

From `last` training goes on as if it had never stopped: parameters, optimizer state, position, what early stopping has
seen, the best weights, the history, the state of every random generator. What a model is, its owner says: it is handed
over as a document and arrays, and `last` and `best` are files of that model, which `xpmlp.load` reads too.
"""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.io import storage
from xpmlp.io.description import network_of, optimizer_of
from xpmlp.runners.step import State
from xpmlp.training.loop import Snapshot

Document = dict[str, Any]
Arrays = dict[str, HostArray]
Stored = tuple[Document, Arrays]

PREFIX = "training."
LISTS = ("lowest", "waited", "running", "dead", "lowest_point")  # of a Snapshot: on the host, one element per network
FINAL = (
    "patience",
    "callback",
    "divergence",
    "gradient",
    "loss",
    "calls",
    "line search",
)  # a run stopped by these has nothing to go on with
FREE = ("epochs", "max_time", "checkpoint_every")  # arguments that may change when a run goes on
VECTORS = ("safe", "final")  # on the device, of the shape of the parameters, or None


class Checkpoint(NamedTuple):
    """What `last` holds beside the model."""

    snapshot: Snapshot
    run: Document  # what the owner said of the run: its arguments, the digest of its data
    orders: list[np.random.Generator]  # as they were when the fit began
    model: Stored


class Checkpoints:
    """The folder of a run.

    Parameters
    ----------
    folder : path
        Made if it is not there.
    every : int
        `last` and `best` are written after every so many epochs, and when training ends.
    describe : function
        From parameters (a flat host vector) to the document and arrays of the model that has them.
    run : dict
        What must be the same when the run goes on, as JSON.
    orders : sequence of Generator
        As they were when the fit began.
    goes_on : bool
        Whether this is the run whose checkpoint is there.
    overwrite : bool
        Whether what another run has left there may go.
    averaged : bool
        Whether the model is the average of the weights, the optimizer's last slot.

    Raises
    ------
    ValueError
        If another run has left its checkpoint there.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: int,
        place: Place,
        describe: Callable[[HostArray], Stored],
        run: Document,
        orders: Sequence[np.random.Generator],
        *,
        goes_on: bool,
        overwrite: bool = False,
        averaged: bool = False,
    ) -> None:
        if not (goes_on or overwrite):
            demand_no_other_run(folder, run)
        self.folder, self.every, self.place, self.describe = Path(folder), every, place, describe
        self.averaged = averaged
        self.run = run | {"orders": [generator_document(rng) for rng in orders]}
        self.kept: HostArray | None = None  # the best value that `best` stands for
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, snapshot: Snapshot, last: bool = False, failed: bool = False) -> None:
        """Write, if it is time to, and always after the `last` epoch.

        `failed` says that a callback which has stopped training was not meant to stop the run.
        """
        if snapshot.epoch % self.every and not last:
            return
        host = self.place.backend.to_numpy
        p = snapshot.state.slots[-1] if self.averaged else snapshot.state.p
        p, safe = np.asarray(host(p)), np.asarray(host(snapshot.safe))
        # A file of a model holds finite parameters only: a network that has diverged stands there as the best it was.
        finite = np.where(np.all(np.isfinite(p), axis=-1, keepdims=True), p, safe)
        document, arrays = self.describe(finite)
        goes_on = failed and snapshot.stopped_by == "callback"
        training, more = _describe(snapshot._replace(stopped_by="epochs") if goes_on else snapshot, host)
        storage.write(last_of(self.folder), document | {"run": self.run, "training": training}, arrays | more)
        if self.kept is None or not np.array_equal(self.kept, snapshot.lowest):
            storage.write(self.folder / "best.safetensors", *self.describe(safe))
            self.kept = snapshot.lowest.copy()


def last_of(folder: str | os.PathLike[str]) -> Path:
    """The file to go on from."""
    return Path(folder) / "last.safetensors"


def read(folder: str | os.PathLike[str], place: Place, dtype: str) -> Checkpoint:
    """The last checkpoint of a folder, its arrays on `place`.

    Raises
    ------
    FileFormatError
        If it is not the checkpoint of a run, or not whole.
    """
    path = last_of(folder)
    document, arrays = storage.read(path)
    with storage.believing(path):
        if "training" not in document:
            raise ValueError("it holds a model, but no training to go on with.")
        run = dict(document.pop("run"))
        training = document.pop("training")
        snapshot = _snapshot(training, arrays, _shape(document), place, dtype)
        optimizer = run["arguments"].get("optimizer", {"own": ""})
        if optimizer == "lbfgs":
            demand_pairs(snapshot)
        elif "own" not in optimizer:  # of a function of the user's own, and of an estimator's, nothing is said here
            demand_slots(snapshot, len(optimizer_of(optimizer).slot_names))
        orders = [generator_of(state) for state in run.pop("orders")]
        model = {name: array for name, array in arrays.items() if not name.startswith(PREFIX)}
        return Checkpoint(snapshot, run, orders, (document, model))


def _describe(snapshot: Snapshot, host: Callable[[Array], HostArray]) -> Stored:
    state = snapshot.state
    document = {
        "epoch": snapshot.epoch,
        "samples": snapshot.samples,
        "scale": snapshot.scale,
        "stopped_by": snapshot.stopped_by,
        "t": state.t,
        "slots": len(state.slots),
    }
    arrays = {"p": state.p} | {f"slot.{i}": slot for i, slot in enumerate(state.slots)}
    arrays |= {name: getattr(snapshot, name) for name in VECTORS if getattr(snapshot, name) is not None}
    on_host = {name: np.asarray(host(array)) for name, array in arrays.items()}
    on_host |= {name: np.asarray(getattr(snapshot, name)) for name in LISTS}
    return document, {PREFIX + name: array for name, array in on_host.items()}


def _shape(document: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of the parameters of the model of a document."""
    m = document.get("n_networks")
    lead = () if m is None else (checks.integer(m, "n_networks", least=1),)
    return (*lead, network_of(document["network"]).layout.size)


def demand_slots(snapshot: Snapshot, n: int) -> None:
    """ValueError where an optimizer that remembers `n` arrays cannot go on from a snapshot."""
    if len(snapshot.state.slots) != n:
        raise ValueError(f"its optimizer remembers {n} arrays; got {len(snapshot.state.slots)}.")


def demand_pairs(snapshot: Snapshot) -> None:
    """ValueError where L-BFGS cannot go on from a snapshot: it remembers one gradient, and pairs."""
    if len(snapshot.state.slots) % 2 == 0:
        raise ValueError("a checkpoint of lbfgs holds one gradient, and pairs.")


def _snapshot(
    document: Mapping[str, Any], arrays: Mapping[str, HostArray], shape: tuple[int, ...], place: Place, dtype: str
) -> Snapshot:
    def vector(name: str) -> Array:
        array = arrays[PREFIX + name]
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name} must have shape {shape} and dtype {dtype}; got {array.shape} and {array.dtype}.")
        # Into memory of its own, which begins where NumPy's begins: some BLAS kernels round by where an array lies.
        return place.asarray(np.array(array, copy=True))

    def per_network(name: str, kind: str, otherwise: float | None = None) -> HostArray:
        if otherwise is not None and PREFIX + name not in arrays:
            return np.full(shape[:-1], otherwise)  # a file from before it was kept
        array = arrays[PREFIX + name]
        if array.shape != shape[:-1] or array.dtype.kind != kind:
            raise ValueError(f"{name} must have shape {shape[:-1]}; got {array.shape}, dtype {array.dtype}.")
        return array

    slots = tuple(vector(f"slot.{i}") for i in range(_count(document, "slots")))
    scale = document["scale"]
    if type(scale) is not float or not 0.0 < scale <= 1.0:
        raise ValueError(f"scale must lie in (0, 1]; got {scale!r}.")
    if not isinstance(document["stopped_by"], str):
        raise TypeError(f"stopped_by must be text; got {document['stopped_by']!r}.")
    seen = [per_network(name, kind) for name, kind in zip(LISTS[:4], "fibb", strict=True)]
    seen.append(per_network(LISTS[4], "f", otherwise=float("inf")))
    return Snapshot(
        State(vector("p"), slots, _count(document, "t")),
        _count(document, "epoch"),
        _count(document, "samples"),
        scale,
        document["stopped_by"] if document["stopped_by"] in FINAL else "epochs",
        *seen,
        *(vector(name) if PREFIX + name in arrays else None for name in VECTORS),
    )


def _count(document: Mapping[str, Any], name: str) -> int:
    value = document[name]
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{name} must be a count; got {value!r}.")
    return value


def demand_same_run(saved: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """ValueError where a run would go on with other data or other arguments."""
    if saved["data"] != run["data"]:
        raise ValueError("resume=True goes on with the samples that the run began with; these are others.")
    was, now = saved["arguments"], json.loads(json.dumps(run["arguments"]))
    other = [
        f"{name} was {was.get(name)!r}, is {now[name]!r}"
        for name in now
        if name not in FREE and was.get(name) != now[name]
    ]
    if other:
        raise ValueError(f"resume=True goes on with the arguments that the run began with; {'; '.join(other)}.")


def demand_no_other_run(folder: str | os.PathLike[str], run: Mapping[str, Any]) -> None:
    """ValueError where the folder holds a checkpoint of a run on other data or with other arguments."""
    path = last_of(folder)
    if not path.exists():
        return
    try:
        demand_same_run(storage.read(path)[0].get("run", {"data": "", "arguments": {}}), run)
    except ValueError:
        raise ValueError(
            f"{os.fspath(folder)!r} holds the checkpoint of another run, on other data or with other arguments, and it "
            "would be lost. Choose another folder, or say overwrite=True."
        ) from None


def data_digest(*arrays: HostArray | None) -> str:
    """A digest of the samples of a run: with others, going on is not going on."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is None:
            digest.update(b"none")
            continue
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def versions() -> Document:
    """The versions that a file was made with: for people, nothing depends on them."""
    own: str = sys.modules["xpmlp"].__version__  # not an import: that would go upward
    return {"xpmlp": own, "numpy": np.__version__, "python": platform.python_version()}


# --- Random generators ---


def generator_document(rng: np.random.Generator) -> Document:
    """The state of a Philox generator, in integers."""
    state: Any = rng.bit_generator.state
    return {
        "bit_generator": state["bit_generator"],
        "counter": [int(n) for n in state["state"]["counter"]],
        "key": [int(n) for n in state["state"]["key"]],
        "buffer": [int(n) for n in state["buffer"]],
        "buffer_pos": int(state["buffer_pos"]),
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }


def generator_of(document: Mapping[str, Any]) -> np.random.Generator:
    """The generator of a state. NumPy does not check what it is given, so that is done here."""
    if document["bit_generator"] != "Philox":
        raise ValueError(f"a generator must be a Philox; got {document['bit_generator']!r}.")
    bits = np.random.Philox()
    bits.state = {
        "bit_generator": "Philox",
        "state": {"counter": _words(document["counter"], 4), "key": _words(document["key"], 2)},
        "buffer": _words(document["buffer"], 4),
        "buffer_pos": int(_words([document["buffer_pos"]], 1, 5)[0]),
        "has_uint32": int(_words([document["has_uint32"]], 1, 2)[0]),
        "uinteger": int(_words([document["uinteger"]], 1, 2**32)[0]),
    }
    return np.random.Generator(bits)


def seed_document(seed: np.random.SeedSequence) -> Document:
    """A seed, in integers."""
    entropy: Any = seed.entropy
    words = [int(entropy)] if isinstance(entropy, (int, np.integer)) else [int(n) for n in entropy]
    return {
        "entropy": words,
        "one": isinstance(entropy, (int, np.integer)),
        "spawn_key": list(map(int, seed.spawn_key)),
    }


def seed_of(document: Mapping[str, Any]) -> np.random.SeedSequence:
    """The seed of a document."""
    entropy, key = document["entropy"], document["spawn_key"]
    for values in (entropy, key):
        if not isinstance(values, list) or not all(type(n) is int and 0 <= n < 2**1024 for n in values):
            raise ValueError("a seed must be a list of whole numbers.")
    if document["one"] is True and len(entropy) != 1:
        raise ValueError("a seed of one number must have one.")
    return np.random.SeedSequence(entropy[0] if document["one"] is True else entropy, spawn_key=tuple(key))


def _words(values: object, n: int, end: int = 2**64) -> HostArray:
    if not isinstance(values, list) or len(values) != n or not all(type(v) is int and 0 <= v < end for v in values):
        raise ValueError(f"a generator's state must have {n} whole numbers below {end} here.")
    return np.asarray(values, dtype=np.uint64)
