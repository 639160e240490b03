"""A network as PyTorch's modules, for those who go on with it there."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp.network import Network, Parameters
from xpmlp.network.activations import ACTIVATIONS, LEAKY_SLOPE
from xpmlp.network.parts import EPSILON, PARTS, Own, Part

# The module of each activation, and what it is made with.
MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "identity": ("Identity", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "relu": ("ReLU", {}),
    "leaky_relu": ("LeakyReLU", {"negative_slope": LEAKY_SLOPE}),
    "elu": ("ELU", {}),
    "selu": ("SELU", {}),
    "softplus": ("Softplus", {"threshold": 1000.0}),  # ours is never cut off
    "silu": ("SiLU", {}),
    "gelu": ("GELU", {"approximate": "tanh"}),
    "mish": ("Mish", {}),
    "softmax": ("Softmax", {"dim": -1}),
}


def sequential(network: Network, p: Parameters) -> Any:
    """A `torch.nn.Sequential` of layers, parts and activations; its arrays are NumPy's, and copied.

    Layers of one network are `torch.nn.Linear`. Those of members and of m networks, and parts, are modules of a few
    lines each; of members the last module takes the mean of their outputs, and `module[:-1]` gives those of each.

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    ValueError
        If PyTorch has no module for an activation or a part.
    """
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise ImportError("to_torch needs PyTorch; install it with pip install 'torch>=2.6'.") from error
    modules = _parts(torch, network, p, 0)
    for k, row in enumerate(network.activations, start=1):
        modules.append(_layer(torch, p.W[k], p.b[k]))
        modules += _parts(torch, network, p, k)
        if not checks.genuine(row, ACTIVATIONS) or row.name not in {*MODULES, "exp"}:
            raise ValueError(f"PyTorch has no module for the activation {row.name!r} of layer {k}; write it by hand.")
        if row.name == "exp":
            modules.append(_module(torch, "Exp", lambda _, z: torch.exp(z)))
        else:
            name, options = MODULES[row.name]
            modules.append(getattr(torch.nn, name)(**options))
    if network.members:
        modules.append(_module(torch, "MeanOfMembers", lambda _, a: a.mean(dim=0)))
    return torch.nn.Sequential(*modules)


def _module(torch: Any, name: str, forward: Callable[[Any, Any], Any], **parameters: Any) -> Any:
    """A module with these arrays as its parameters."""
    kind = type(name, (torch.nn.Module,), {"forward": forward})
    module = kind()
    for key, array in parameters.items():
        module.register_parameter(key, torch.nn.Parameter(torch.tensor(np.array(array))))
    return module


def _layer(torch: Any, W: Any, b: Any) -> Any:
    if b.ndim > 1:  # of members, or of m networks
        return _module(torch, "Affine", lambda module, x: x @ module.weight + module.bias, weight=W, bias=b)
    weight = torch.tensor(W.T.copy())
    linear = torch.nn.Linear(*W.shape, dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(torch.tensor(b.copy()))
    return linear


# --- Parts ---


def _piecewise(torch: Any, part: Part, own: Own) -> Any:
    F, d = len(part.parameters["edges"]), part.parameters["width"]

    def forward(module: Any, x: Any) -> Any:
        z = x[..., :F].mT[..., None]  # (..., F, batch, 1)
        code = ((z - module.left) * module.rise).clamp(module.low, module.high)
        o = code @ module.bins + z * module.slope[..., None, :] + module.offset[..., None, :]
        o = o.movedim(-3, -2)
        o = o.reshape(*o.shape[:-2], F * d)
        return torch.cat([o, x[..., F:].expand(*o.shape[:-1], -1)], dim=-1)

    made = _module(torch, "Piecewise", forward, **own)
    for name, array in zip(("left", "rise", "low", "high"), part.constants(own["slope"]), strict=True):
        made.register_buffer(name, torch.tensor(np.array(array)))
    return made


def _layer_norm(torch: Any, part: Part, own: Own) -> Any:  # noqa: ARG001
    def forward(module: Any, z: Any) -> Any:
        return torch.nn.functional.layer_norm(z, z.shape[-1:], eps=EPSILON) * module.gain + module.shift

    return _module(torch, "LayerNorm", forward, **own)


def _member_scale(torch: Any, part: Part, own: Own) -> Any:  # noqa: ARG001
    return _module(torch, "MemberScale", lambda module, x: x * module.scale, **own)


PART_MODULES: dict[str, Callable[[Any, Part, Own], Any]] = {
    "piecewise": _piecewise,
    "layer_norm": _layer_norm,
    "member_scale": _member_scale,
}


def _parts(torch: Any, network: Network, p: Parameters, k: int) -> list[Any]:
    found = []
    for part in network.parts[k] if k < len(network.parts) else ():
        row = PARTS.get(part.name)
        if part.name not in PART_MODULES or row is None or row.forward is not part.forward:
            raise ValueError(f"PyTorch has no module for the part {part.name!r} of layer {k}; write it by hand.")
        found.append(PART_MODULES[part.name](torch, part, part.own(p.own[k])))
    return found
