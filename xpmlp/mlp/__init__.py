"""MLP, the network as an object.

`mlp` (what it is and shows), `content` (the same as a value), `validation` (samples), `fitting` (arguments of `fit`
into a Problem), `observers` and `metrics` (who looks on), `serialization` (what a file holds).
"""

from xpmlp.mlp.metrics import accuracy, binary_accuracy
from xpmlp.mlp.mlp import MLP, content_of, descent_of, mlp_of

__all__ = ["MLP", "accuracy", "binary_accuracy", "content_of", "descent_of", "mlp_of"]
