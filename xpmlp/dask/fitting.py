"""From an estimator of Dask's to the one that its workers train, and back."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sklearn.base import clone

from xpmlp import checks
from xpmlp.backends import warn
from xpmlp.dask.launching import Cluster, Fit, held, lanes_for, launched
from xpmlp.dask.partitions import is_collection, parts_of
from xpmlp.estimators.dealing import JUDGED_ROWS
from xpmlp.estimators.validation import is_given
from xpmlp.shards.lanes import HeldOut

OWN = ("client", "lanes", "restarts", "timeout", "fixed_order")  # parameters that the estimators without Dask lack


class Batches(NamedTuple):
    """How an estimator makes batches of shards."""

    held_out: HeldOut | None  # of each, where no validation set is given
    size: Callable[[Sequence[int], HeldOut | None], int]  # rows of a batch, of shards of so many


def local_of(estimator: Any) -> Any:
    """The same estimator without Dask, fitted where this one is."""
    names = set(estimator._get_param_names())
    local = estimator._local(**{name: getattr(estimator, name) for name in names - set(OWN)})
    vars(local).update({name: value for name, value in vars(estimator).items() if name not in names})
    return local


def client_of(estimator: Any) -> Any:
    """The client that is named, or the one there is.

    Raises
    ------
    ImportError
        If Dask is not installed.
    ValueError
        If there is none.
    """
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise ImportError(
            f"{type(estimator).__name__} needs Dask; install it with pip install dask distributed."
        ) from error
    client = estimator.client
    if client is None:
        try:
            client = distributed.default_client()
        except ValueError as error:
            raise ValueError(
                f"{type(estimator).__name__} needs a client of a Dask cluster, and there is none: "
                'client=distributed.Client("scheduler:8786"), or Client(), which starts a cluster on this machine.'
            ) from error
    if client.asynchronous:
        raise ValueError("client must be synchronous; Client(..., asynchronous=True) is not.")
    return client


def fit(estimator: Any, X: Any, y: Any, w: Any, validation: tuple[Any, Any, Any], asked: dict[str, Any]) -> Any:
    """Train on the workers; the estimator comes back, and one that fails stays as it was."""
    local = local_of(estimator)
    batches = estimator._batches(local)
    lanes = checks.integer(estimator.lanes, "lanes", least=1)
    restarts = checks.integer(estimator.restarts, "restarts", least=0)
    cluster = Cluster(client_of(estimator), checks.number(estimator.timeout, "timeout", above=0.0))
    if y is None:
        raise ValueError("y must be given: a Dask collection with the partitions of X.")
    data = held(cluster, parts_of(X, y, w), lanes, weighted=w is not None)
    if is_collection(validation[0]):
        is_given(validation)
        names = ("X_val", "y_val", "sample_weight_val")
        parts = parts_of(*validation, names=names)
        judged: Any = held(cluster, parts, lanes, weighted=validation[2] is not None)
        judged_lanes = lanes_for(judged.layout.rows, lanes, JUDGED_ROWS)
    else:
        judged, judged_lanes = validation, []
    held_out = batches.held_out if validation[0] is None else None
    rows = data.layout.rows
    kept = rows if held_out is None else list(map(held_out.kept, rows))
    dealt = lanes_for(kept, lanes, batches.size(rows, held_out))
    told = Fit(local, data, dealt, judged, judged_lanes, asked, restarts, bool(estimator.fixed_order))
    fitted, notes = launched(cluster, told)
    _take(estimator, fitted)
    for message, category in notes:
        warn(message, category)
    return estimator


def _take(estimator: Any, fitted: Any) -> None:
    """Give an estimator what another of the same parameters has learned."""
    names = set(estimator._get_param_names())
    for name in [name for name in vars(estimator) if name not in names]:
        delattr(estimator, name)
    vars(estimator).update({name: value for name, value in vars(fitted).items() if name not in names})
    if hasattr(estimator.random_state, "set_state"):  # it has drawn on, in the worker
        estimator.random_state.set_state(fitted.random_state.get_state())


def cloned_parameters(estimator: Any) -> dict[str, Any]:
    """The parameters of a clone: copies, but for the client, of which there is one."""
    parameters = estimator.get_params(deep=False)
    copies = {name: clone(value, safe=False) for name, value in parameters.items() if name != "client"}
    return copies | {"client": parameters["client"]}
