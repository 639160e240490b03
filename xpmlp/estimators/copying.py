"""Copies of an estimator: pickles, which name public classes only and know their version, and copies in memory.

A pickle holds NumPy arrays, so that a model of a GPU loads where there is none. After `fit` it leaves the vectors of
the optimizer behind, which are twice as large as the weights; a copy in memory leaves nothing.
"""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.exceptions import InconsistentVersionWarning

from xpmlp.backends.transfer import to_numpy
from xpmlp.estimators.attributes import Attributes
from xpmlp.io import description
from xpmlp.network import Network
from xpmlp.optim.optimizers import Optimizer
from xpmlp.training import Carried
from xpmlp.training.checkpoints import versions
from xpmlp.training.loop import Standing

VERSION = "_xpmlp_version"
FIRST = "0.1.0 or before"  # which wrote none down
SHARED = ("_network", "_carried")  # never written into, so that copies may have the same


def pickled(state: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of an estimator as a pickle holds them."""
    state = dict(state)
    for name in ("coefs_", "intercepts_"):
        if name in state:
            state[name] = [to_numpy(values) for values in state[name]]
    if state.get("_network") is not None:
        state["_network"] = _described(state["_network"], description.describe_network)
    carried: Carried | None = state.get("_carried")
    if carried is not None:
        state["_carried"] = {
            "optimizer": _described(carried.optimizer, description.describe_optimizer),
            "slots": () if state["_slim"] else tuple(to_numpy(slot) for slot in carried.slots),
            "t": int(carried.t),
            "standing": dict(zip(Standing._fields, map(_plain, carried.standing), strict=True)),
        }
    if "coefs_" in state:
        state["_settled"] = state.get("_asked") is None
    return versioned(state)


def versioned(state: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes, and the version that they are of."""
    return dict(state) | {VERSION: versions()["xpmlp"]}


def unpickled(state: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The attributes of an estimator, from what `pickled` made of them, in this version or in another."""
    state = demand_version(state, owner, stacklevel=4)
    network, carried = state.get("_network"), state.get("_carried")
    if isinstance(network, Network):  # of a version that stored the object; rows by their names, where they have some
        network = _described(network, description.describe_network)
    if isinstance(network, dict):
        state["_network"] = description.network_of(network)
    if isinstance(carried, dict):
        row = carried["optimizer"]
        row = row if isinstance(row, Optimizer) else description.optimizer_of(row)
        state["_carried"] = Carried(row, carried["slots"], carried["t"], Standing(**carried["standing"]))
    return state


def demand_version(state: Mapping[str, Any], owner: str, stacklevel: int = 3) -> dict[str, Any]:
    """The attributes of a pickle without their version; a warning where it is another than this."""
    state = dict(state)
    own = versions()["xpmlp"]
    was = state.pop(VERSION, FIRST)
    if was != own:
        versions_differ = InconsistentVersionWarning(
            estimator_name=owner, current_sklearn_version=own, original_sklearn_version=was
        )
        warnings.warn(versions_differ, stacklevel=stacklevel)
    return state


def copied(estimator: Attributes, memo: dict[int, Any] | None) -> Any:
    """A copy in memory, whole: with a `memo` a deep one."""
    twin: Any = object.__new__(type(estimator))
    if memo is not None:
        memo[id(estimator)] = twin
    own = vars(twin)
    for name, value in vars(estimator).items():
        if memo is not None and name not in SHARED:
            own[name] = copy.deepcopy(value, memo)
        else:
            own[name] = list(value) if name in ("coefs_", "intercepts_") else value
    return twin


def _described(row: Any, describe: Any) -> Any:
    try:
        return describe(row)
    except ValueError:  # a function of the user's own: pickle asks for its module
        return row


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0 else value
