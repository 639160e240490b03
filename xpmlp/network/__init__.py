"""What a network computes: one flat vector of parameters, the tables of its rows, and the chain rule by hand.

`parameters` (the flat vector), `parts` (what layers may have beside W and b), `activations`, `losses`, `initializers`
(tables), `dropout` (masks), `propagation` (forward and backward).
"""

from xpmlp.network.parameters import Layers, Layout, Parameters
from xpmlp.network.propagation import (
    Drop,
    Gradients,
    Network,
    Trace,
    backward,
    forward,
    losses_of_samples,
    mean,
    mean_loss,
    output_derivative,
    pullback,
    reciprocal,
    said,
    sample_losses,
    shares,
)

__all__ = [
    "Drop",
    "Gradients",
    "Layers",
    "Layout",
    "Network",
    "Parameters",
    "Trace",
    "backward",
    "forward",
    "losses_of_samples",
    "mean",
    "mean_loss",
    "output_derivative",
    "pullback",
    "reciprocal",
    "said",
    "sample_losses",
    "shares",
]
