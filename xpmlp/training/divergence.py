"""The sentence for a training that met numbers that are not finite."""

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.network.parameters import Layout


def told_of_divergence(
    diverged: HostArray, epoch: int, rate: float, layout: Layout, p: HostArray, *, clips: bool
) -> str:
    """Where numbers that are not finite began, and what to do about them: clip, say, where who asked can have that."""
    first = int(np.flatnonzero(diverged)[0])
    who, row = ("Training", p) if diverged.ndim == 0 else (f"Training of network {first}", p[first])
    bad = np.flatnonzero(~np.isfinite(row))
    if bad.size:
        name, layer = layout.locate(int(bad[0]))
        what = f"layer {layer} holds {'weights' if name == 'W' else 'biases'} that are not finite"
    else:
        what = f"the loss is not finite, though all weights are: the outputs of layer {layout.n_layers} are too large"
    cures = [f"Lower the learning rate (it was {rate:g})", "scale the inputs and targets to about unit variance"]
    cures += ["clip the gradient norm (clip_norm=1.0)"] if clips else []
    return f"{who} diverged in epoch {epoch}: {what}. {', '.join(cures[:-1])}{',' if clips else ''} or {cures[-1]}."
