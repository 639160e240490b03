"""MLP, the network as an object: what it is and shows (mlp), how it is fitted (fitting), what a file holds (filing)."""

from xpmlp.mlp.fitting import accuracy, binary_accuracy
from xpmlp.mlp.mlp import MLP

__all__ = ["MLP", "accuracy", "binary_accuracy"]
