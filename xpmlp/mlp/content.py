"""All that an MLP consists of, as a value: what fits, files and those who look are given in place of the object."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.mlp.validation import Door
from xpmlp.network import Network
from xpmlp.network.activations import activation
from xpmlp.network.initializers import Initializer
from xpmlp.network.initializers import initializer as find_initializer
from xpmlp.network.losses import Loss
from xpmlp.network.parts import Part, part
from xpmlp.network.propagation import layout_with_parts
from xpmlp.training.seeds import INITIAL_WEIGHTS, child, generator


class Content(NamedTuple):
    """The network, where it lives, its parameters, and what it remembers."""

    network: Network
    initializer: Initializer | None
    n_networks: int | None
    place: Place
    dtype: str
    random_state: np.random.SeedSequence
    p: Array  # (P,) or (m, P)
    orders: list[np.random.Generator]  # of the samples: one for each network
    history: dict[str, list[Any]]

    @property
    def door(self) -> Door:
        """What samples must be for this network."""
        return Door(self.network, self.place, self.dtype, self.n_networks)

    @property
    def seeds(self) -> list[np.random.SeedSequence]:
        """The seed of each network."""
        return seeds_of(self.random_state, self.n_networks)


def seeds_of(seed: np.random.SeedSequence, n_networks: int | None) -> list[np.random.SeedSequence]:
    """The seed of each of m networks; of one network its own."""
    return [seed] if n_networks is None else [child(seed, i) for i in range(n_networks)]


def first_parameters(
    network: Network, initializer: Initializer | None, seeds: Sequence[np.random.SeedSequence], dtype: str
) -> HostArray:
    """Weights drawn from the seeds, biases of 0; shape (m, P)."""
    layout, f = network.layout, network.activations
    p: HostArray = np.zeros((len(seeds), layout.size), dtype=dtype)
    for own, seed in zip(p, seeds, strict=True):
        rng = generator(seed, INITIAL_WEIGHTS)
        values = layout.unpack(own)
        for k in range(1, layout.n_layers + 1):
            row = initializer or find_initializer(f[k - 1].initializer)
            for W in values.W[k] if values.W[k].ndim == 3 else [values.W[k]]:  # each member has a last layer of its own
                row.fill(rng, W, f[k - 1].init_gain)
            if row.bias_bound is not None:
                b, bound = values.b[k], row.bias_bound(layout.sizes[k - 1])
                b[...] = rng.uniform(-bound, bound, b.shape if k == layout.n_layers else b.shape[-1:])
        for name, k, _, _, shape, _ in layout.segments:
            if (part := network.part(name, k)) is not None:
                values.own[k][name][...] = part.first(part, name.partition(".")[2], shape, rng)
    return p


def build_network(
    sizes: tuple[int, ...],
    activations: Any,
    loss: Loss,
    dropout: Any,
    parts: Mapping[int, Any] | None = None,
    members: int | None = None,
) -> Network:
    """The network that the arguments of `MLP` describe; ValueError where they do not fit together."""
    K = len(sizes) - 1
    one_alone = isinstance(activations, str) or (isinstance(activations, tuple) and all(map(callable, activations)))
    if one_alone or not isinstance(activations, Sequence):
        activations = [activations] * (K - 1) + [loss.link or "identity"]
    if len(activations) != K:
        raise ValueError(f"activations must name one function for each of the {K} layers; got {len(activations)}.")
    rows = tuple(activation(value) for value in activations)
    for k, row in enumerate(rows[:-1], start=1):
        if row.outputs == "distribution":
            raise ValueError(f"{row.name} is for the output layer; layer {k} is hidden.")
    if not loss.accepts(rows[-1].outputs):
        raise ValueError(
            f"loss {loss.name!r} needs outputs of kind {loss.outputs!r}; {rows[-1].name!r} gives {rows[-1].outputs!r}. "
            f"Its usual output activation is {loss.link!r}."
        )
    if loss.n_outputs not in (None, sizes[-1]):
        raise ValueError(f"{loss!r} needs {loss.n_outputs} outputs, one per quantile; the last layer has {sizes[-1]}.")
    rates = list(dropout) if isinstance(dropout, Sequence) else [dropout] * (K - 1)
    if len(rates) != K - 1:
        raise ValueError(f"dropout must be one rate, or one for each of the {K - 1} hidden layers; got {len(rates)}.")
    rates = [checks.number(rate, "dropout", least=0.0, below=1.0) for rate in rates]
    chosen = tuple(chosen_parts(parts, K))
    k = 0 if members is None else checks.integer(members, "members", least=1)
    return Network(layout_with_parts(sizes, chosen, k), rows, loss, tuple(rates), chosen)


def chosen_parts(parts: Mapping[int, Any] | None, K: int) -> list[tuple[Part, ...]]:
    """The parts of each layer but the last, as the argument `parts` of `MLP` names them; [] where there are none."""
    if not parts:
        return []
    if not all(isinstance(k, int) for k in parts):
        raise TypeError(
            f'parts must be a dict from a layer to its part or parts, as in {{1: "layer_norm"}}; got {parts!r}.'
        )
    for k in parts:
        if not 0 <= k < K:
            raise ValueError(f"parts stand in layers 0 (before the first) to {K - 1}, never in the last; got {k}.")
    found = []
    for k in range(K):
        given = parts.get(k, ())
        found.append(tuple(map(part, given if isinstance(given, (list, tuple)) else [given])))
    return found


def layers_in_words(network: Network) -> list[str]:
    """A line for each layer: W and b of one network, f, how many numbers it has with its parts, and these."""
    lines = []
    for k in range(network.layout.n_layers + 1):
        own = [segment for segment in network.layout.segments if segment.layer == k]
        count = f"{sum(segment.stop - segment.start for segment in own):>9,}"
        told = [it.name for it in (network.parts[k] if k < len(network.parts) else ())]
        if k == 0 and own:
            lines.append("  ".join([f"  input    {count}", *told]))
        elif k > 0:
            shapes = "  ".join(f"{name} {it.shape}" for name in "Wb" for it in own if it.name == name)
            rate = network.dropout[k - 1] if k <= len(network.dropout) else 0.0
            told += [f"dropout {rate:g}"] if rate else []
            lines.append("  ".join([f"  layer {k}  {shapes}  {network.activations[k - 1].name:<10} {count}", *told]))
    return lines
