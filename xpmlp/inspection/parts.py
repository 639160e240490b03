"""The parts of a step, one by one: what each took and made, and the derivatives that it handed down.

`network` keeps what enters and leaves a layer. In between, the same functions are called again for whoever looks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xpmlp._typing import Array
from xpmlp.backends import HostArray, array_namespace
from xpmlp.backends.arithmetic import unwarned
from xpmlp.network import Gradients, Network, Parameters, Trace, pullback
from xpmlp.network.parts import Part
from xpmlp.network.propagation import product


@dataclass(frozen=True)
class PartPass:
    """One part of layer k, there and back; arrays on the host."""

    part: Part
    k: int
    takes: str  # "x", "z[1]", or the name of what the part before it makes
    makes: str  # "a[0]", "u[1]", or as "piecewise[0]" where another part follows
    made: HostArray
    own: dict[str, HostArray]  # its arrays, by name
    within: dict[str, HostArray]  # what it computes on the way
    derivatives: dict[str, HostArray]  # of its arrays
    handed_down: HostArray  # the derivative of what it takes
    summed: bool  # whether the members share what it takes, so that their derivatives are added

    def label(self, name: str) -> str:
        """As in "layer_norm.gain[1]"."""
        return f"{self.part.name}.{name}[{self.k}]"

    def words(self, formula: str) -> str:
        """A formula of its row, with the names of this layer."""
        return formula.format(x=self.takes, du=f"d{self.makes}")


@unwarned
def parts_of_step(
    network: Network, p: Parameters, trace: Trace, grads: Gradients, x: Array, host: Callable[[Array], HostArray]
) -> tuple[list[list[PartPass]], list[Array]]:
    """The parts of each layer, and du: the derivatives of what they make, [0] that of a[0]; [] and [] without parts."""
    if not network.parts:
        return [], []
    found: list[list[PartPass]] = []
    du: list[Array] = [None] * len(trace.z)
    for k, row in enumerate(network.parts):
        du[k] = _of_outputs(network, p, trace, grads, k)
        value, taken = x if k == 0 else trace.z[k], []
        for part in row:
            taken.append(value)
            value = part.forward(part, part.own(p.own[k]), value)[0]
        taken.append(value)
        names = [f"{part.name}[{k}]" for part in row]
        names = ["x" if k == 0 else f"z[{k}]", *names[:-1], "a[0]" if k == 0 else f"u[{k}]"]
        passes, dx = [], du[k]
        for i in reversed(range(len(row))):
            part, note, own = row[i], trace.notes[k][i], row[i].own(p.own[k])
            dx, derivatives = part.backward(part, own, note, dx, True)
            passes.append(
                PartPass(
                    part,
                    k,
                    names[i],
                    names[i + 1],
                    host(taken[i + 1]),
                    {name: host(array) for name, array in own.items()},
                    {name: host(note[at]) for name, (at, _) in part.within.items()},
                    {name: host(array) for name, array in derivatives.items()},
                    host(dx),
                    taken[i].ndim < taken[i + 1].ndim,
                )
            )
        found.append(passes[::-1])
    return found, du


def _of_outputs(network: Network, p: Parameters, trace: Trace, grads: Gradients, k: int) -> Array | None:
    """The derivative of what the parts of layer k make."""
    if not network.parts[k]:
        return None
    if k > 0:
        return pullback(network.activations[k - 1], grads.da[k], trace.u[k], trace.a[k], show=True)
    xp = array_namespace(grads.dz[1])
    da = product(grads.dz[1], xp.matrix_transpose(p.W[1]))
    return xp.sum(da, axis=0) if trace.a[0].ndim < da.ndim else da


def of_each_member(network: Network, trace: Trace, grads: Gradients) -> list[Any]:
    """What each member adds to dW[k] of the weights that they share, (k, n_in, n_out); None where they share none."""
    found: list[Any] = [None] * len(trace.z)
    if network.members:
        for k in range(1, len(trace.z) - 1):
            xp = array_namespace(grads.dz[k])
            found[k] = xp.matmul(xp.matrix_transpose(trace.h[k - 1]), grads.dz[k])
    return found
