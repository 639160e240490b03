"""An MLP as a document and arrays, for files and checkpoints, and back."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp.backends import HostArray, Place, select, warn
from xpmlp.io.description import describe_initializer, describe_network, initializer_of, network_of
from xpmlp.mlp.content import Content
from xpmlp.network import Parameters
from xpmlp.training import checkpoints
from xpmlp.training.checkpoints import Checkpoint, Stored


def stored(
    net: Content,
    p: HostArray,
    history: Mapping[str, Sequence[Any]],
    orders: Sequence[np.random.Generator],
) -> Stored:
    """The document and arrays that stand for this network with the parameters `p`."""
    layout = net.network.layout
    parameters = layout.unpack(p)
    arrays = {f"{name}.{k}": parameters.at(name, k) for name, k, *_ in layout.segments}
    for name, values in history.items():
        arrays[f"history.{name}"] = np.asarray(values, dtype=np.float64)
    document = {
        "kind": "mlp",
        "network": describe_network(net.network),
        "initializer": describe_initializer(net.initializer),
        "n_networks": net.n_networks,
        "dtype": net.dtype,
        "seed": checkpoints.seed_document(net.random_state),
        "orders": [checkpoints.generator_document(rng) for rng in orders],
        "versions": checkpoints.versions(),
    }
    return document, arrays


def of_stored(document: Mapping[str, Any], arrays: Mapping[str, HostArray], place: Place) -> Content:
    """What `stored` described; ValueError, TypeError or KeyError where it makes no sense."""
    network = network_of(document["network"])
    m = document["n_networks"]
    n_networks = None if m is None else checks.integer(m, "n_networks", least=1)
    dtype = checks.option(document["dtype"], "dtype", ("float64", "float32"))
    lead = () if n_networks is None else (n_networks,)
    K = network.layout.n_layers
    p = Parameters([None] * (K + 1), [None] * (K + 1), [{} for _ in range(K + 1)])
    for name, k, _, _, shape, _ in network.layout.segments:
        array = arrays[f"{name}.{k}"]
        wanted = (*lead, 1, *shape) if lead and len(shape) == 1 else (*lead, *shape)
        if array.shape != wanted or array.dtype != dtype:
            raise ValueError(f"{name}.{k} must be {wanted}, {dtype}; got {array.shape}, {array.dtype}.")
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name}.{k} holds NaN or infinity.")
        p.put(name, k, array)
    orders = [checkpoints.generator_of(state) for state in document["orders"]]
    if len(orders) != (n_networks or 1):
        raise ValueError(f"{n_networks or 1} networks need as many random generators; got {len(orders)}.")
    history: dict[str, list[Any]] = {}
    for name, array in arrays.items():
        if name.startswith("history."):
            if array.dtype != np.float64 or array.shape[1:] not in ((), lead):
                raise ValueError(f"{name} must have one number per epoch and network; got shape {array.shape}.")
            history[name.removeprefix("history.")] = [float(value) if np.ndim(value) == 0 else value for value in array]
    there = place.dtype_name(dtype)
    return Content(
        network,
        initializer_of(document["initializer"]),
        n_networks,
        place,
        there,
        checkpoints.seed_of(document["seed"]),
        place.asarray(network.layout.pack(p), there),
        orders,
        history,
    )


def saved(net: Content, checkpoint: str | os.PathLike[str] | None, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from, if there is one."""
    if not resume:
        return None
    if checkpoint is None:
        raise ValueError("resume=True needs a folder to go on from; name it with checkpoint=.")
    if not checkpoints.last_of(checkpoint).exists():
        return None
    found = checkpoints.read(checkpoint, net.place, net.dtype)
    there, here = found.model[0], stored(net, np.asarray(net.place.backend.to_numpy(net.p)), {}, [])[0]
    for what in ("kind", "network", "n_networks", "initializer", "dtype"):
        if there.get(what) != here[what]:
            raise ValueError(
                f"the checkpoint in {os.fspath(checkpoint)!r} is of another network; its {what} is "
                f"{there.get(what)!r}, here it is {here[what]!r}. Choose another folder, or the same network."
            )
    return found


# --- Pickles ---

VERSION = "_xpmlp_version"
# What a pickle holds in plain words, so that it names no function of this package.
WORDS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "network": (describe_network, network_of),
    "initializer": (describe_initializer, initializer_of),
    "place": (lambda place: [place.backend.name, place.device_name], lambda words: select(*words)),
}


def pickled(state: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of an MLP as a pickle holds them; functions of the user's own stay what they are."""
    held, words = dict(state), {}
    for name, (describe, _) in WORDS.items():
        try:
            words[name] = describe(held[name])
        except ValueError:  # a function of the user's own has no words
            continue
        del held[name]
    return held | {"words": words, VERSION: checkpoints.versions()["xpmlp"]}


def revived(state: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes again, also those of a pickle from before there were words."""
    held = dict(state)
    own = checkpoints.versions()["xpmlp"]
    was = held.pop(VERSION, own)
    if was != own:
        warn(
            f"this MLP was pickled by version {was} of xpmlp, and is read by {own}: look at what it says.", UserWarning
        )
    words = held.pop("words", {})
    return held | {name: revive(words[name]) for name, (_, revive) in WORDS.items() if name in words}
