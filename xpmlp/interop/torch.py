"""A network as PyTorch's modules, for those who go on with it there."""

from importlib import import_module
from typing import Any

from xpmlp import checks
from xpmlp.network import Network, Parameters
from xpmlp.network.activations import ACTIVATIONS, LEAKY_SLOPE

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
    """A `torch.nn.Sequential` of linear layers and activations; its arrays are NumPy's, and copied.

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    ValueError
        If PyTorch has no module for an activation.
    """
    network.demand_plain("to_torch")
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise ImportError("to_torch needs PyTorch; install it with pip install 'torch>=2.6'.") from error
    modules: list[Any] = []
    for k, row in enumerate(network.activations, start=1):
        n_in, n_out = p.W[k].shape
        weight = torch.tensor(p.W[k].T.copy())
        linear = torch.nn.Linear(n_in, n_out, dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(torch.tensor(p.b[k].copy()))
        modules.append(linear)
        if not checks.genuine(row, ACTIVATIONS) or row.name not in {*MODULES, "exp"}:
            raise ValueError(f"PyTorch has no module for the activation {row.name!r} of layer {k}; write it by hand.")
        if row.name == "exp":
            modules.append(_exp(torch)())
        else:
            name, options = MODULES[row.name]
            modules.append(getattr(torch.nn, name)(**options))
    return torch.nn.Sequential(*modules)


def _exp(torch: Any) -> Any:
    class Exp(torch.nn.Module):  # type: ignore[misc]  # torch is imported when it is needed
        def forward(self, z: Any) -> Any:
            return torch.exp(z)

    return Exp
