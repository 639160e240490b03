"""The sentence for a training that met numbers that are not finite."""

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.network.parameters import Layout


def told_of_divergence(diverged: HostArray, epoch: int, rate: float, layout: Layout, p: HostArray) -> str:
    """Where numbers that are not finite began, and what to do about them."""
    first = int(np.flatnonzero(diverged)[0])
    who, row = ("Training", p) if diverged.ndim == 0 else (f"Training of network {first}", p[first])
    bad = np.flatnonzero(~np.isfinite(row))
    if bad.size:
        name, layer = layout.locate(int(bad[0]))
        what = f"layer {layer} holds {'weights' if name == 'W' else 'biases'} that are not finite"
    else:
        what = f"the loss is not finite, though all weights are: the outputs of layer {layout.n_layers} are too large"
    return (
        f"{who} diverged in epoch {epoch}: {what}. Lower the learning rate (it was {rate:g}), "
        "scale the inputs and targets to about unit variance, or clip the gradient norm (clip_norm=1.0)."
    )
