"""What a network is, in words and numbers that JSON can say, and back: rows by their names, never functions.

A row of a table is described by its name and its parameters, if it still is the row that its name stands for: a
function of the user's own cannot be named, so what contains one is refused.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from xpmlp import checks
from xpmlp.network import Network
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.activations import activation as find_activation
from xpmlp.network.initializers import INITIALIZERS, Initializer, normal
from xpmlp.network.initializers import initializer as find_initializer
from xpmlp.network.losses import LOSSES
from xpmlp.network.losses import loss as find_loss
from xpmlp.network.parts import PARTS
from xpmlp.network.parts import part as find_part
from xpmlp.network.propagation import layout_with_parts
from xpmlp.optim.optimizers import OPTIMIZERS, Optimizer
from xpmlp.optim.optimizers import optimizer as find_optimizer
from xpmlp.optim.schedules import SCHEDULES, Schedule
from xpmlp.optim.schedules import schedule as find_schedule

Document = dict[str, Any]


def describe_network(network: Network) -> Document:
    """The document of a network.

    Raises
    ------
    ValueError
        If an activation or the loss is a function of the user's own.
    """
    document = {
        "sizes": [network.n_inputs, *network.layout.sizes[1:]],
        "activations": [_name(row, ACTIVATIONS, "activation") for row in network.activations],
        "loss": _row(network.loss, LOSSES, "loss"),
        "dropout": list(network.dropout),
    }
    if network.parts:
        document["parts"] = [[_row(row, PARTS, "part") for row in layer] for layer in network.parts]
    if network.members:
        document["members"] = network.members
    return document


def network_of(document: Mapping[str, Any]) -> Network:
    """The network of a document; ValueError, TypeError or KeyError where there is none such."""
    sizes = checks.layer_sizes(document["sizes"])
    activations = tuple(find_activation(_text(name)) for name in document["activations"])
    rates = tuple(checks.number(rate, "dropout", least=0.0, below=1.0) for rate in document["dropout"])
    if len(activations) != len(sizes) - 1 or len(rates) not in (0, len(sizes) - 2):
        raise ValueError(f"{len(sizes)} layers do not go with {len(activations)} activations and {len(rates)} rates.")
    loss = find_loss(_text(document["loss"]["name"]), **_parameters(document["loss"]))
    if not loss.accepts(activations[-1].outputs) or any(row.outputs == "distribution" for row in activations[:-1]):
        raise ValueError("its activations do not go with its loss.")
    parts = tuple(
        tuple(find_part(_text(row["name"]), **_parameters(row)) for row in layer) for layer in document.get("parts", ())
    )
    members = checks.integer(document.get("members", 0), "members", least=0)
    if len(parts) not in (0, len(sizes) - 1):
        raise ValueError(f"{len(sizes)} layers do not go with parts of {len(parts)}.")
    return Network(layout_with_parts(sizes, parts, members), activations, loss, rates, parts)


def describe_initializer(row: Initializer | None) -> Document | None:
    """The document of an initializer; None for the one that suits each activation."""
    return None if row is None else _row(row, INITIALIZERS, "initializer")


def initializer_of(document: Mapping[str, Any] | None) -> Initializer | None:
    """The initializer of a document."""
    if document is None:
        return None
    parameters = _parameters(document)
    return normal(**parameters) if parameters else find_initializer(_text(document["name"]))


def describe_optimizer(row: Optimizer) -> Document:
    """The document of an optimizer."""
    average = {"average": row.average} if row.average else {}
    return _row(row, OPTIMIZERS, "optimizer") | {"weight_decay": row.weight_decay} | average


def optimizer_of(document: Mapping[str, Any]) -> Optimizer:
    """The optimizer of a document."""
    parameters = _parameters(document)
    found = find_optimizer(_text(document["name"]), weight_decay=document["weight_decay"], **parameters)
    return replace(found, average=checks.number(document.get("average", 0.0), "average", least=0.0))


def describe_schedule(row: Schedule) -> Document:
    """The document of a schedule."""
    return _row(row, SCHEDULES, "schedule")


def schedule_of(document: Mapping[str, Any]) -> Schedule:
    """The schedule of a document."""
    return find_schedule(_text(document["name"]), **_parameters(document))


def _row(row: Any, table: Mapping[str, Any], kind: str) -> Document:
    parameters = {name: _listed(value) for name, value in row.parameters.items()}
    return {"name": _name(row, table, kind), "parameters": parameters}


def _listed(value: Any) -> Any:
    # as JSON gives it back
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _name(row: Any, table: Mapping[str, Any], kind: str) -> str:
    if not checks.genuine(row, table):
        raise ValueError(
            f"a file names its {kind} and holds no functions, so it cannot hold {row.name!r}, which is a function of "
            f"your own. Save the parameters (numpy.savez), or add a row to the table of the package."
        )
    return str(row.name)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a name must be text; got {type(value).__name__}.")
    return value


def _parameters(document: Mapping[str, Any]) -> dict[str, Any]:
    parameters = document["parameters"]
    if not isinstance(parameters, dict):
        raise TypeError(f"parameters must be an object; got {type(parameters).__name__}.")
    return parameters
