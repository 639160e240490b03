"""The front door of MLP: samples checked against one network, and brought to where it lives."""

from typing import Any, NamedTuple

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.network import Network
from xpmlp.network.targets import check_targets


class Samples(NamedTuple):
    """Checked inputs, targets and weights on the device."""

    x: Array
    y: Array
    w: Array | None

    @property
    def n(self) -> int:
        """Their number."""
        return int(self.x.shape[-2])

    def take(self, rows: HostArray, place: Place) -> "Samples":
        """Some of them, by their indices on the host."""
        index = place.asarray(rows.astype(np.int32))
        take = place.xp.take
        w = None if self.w is None else take(self.w, index, axis=-1)
        return Samples(take(self.x, index, axis=self.x.ndim - 2), take(self.y, index, axis=self.y.ndim - 2), w)


def is_output(given: Any, yhat: Array) -> bool:
    """Whether `given` is yhat: of backward(y, yhat), as the tutorial has it, it would be taken for weights."""
    if isinstance(given, (list, tuple)):
        try:
            return np.shape(given) == tuple(yhat.shape)
        except ValueError:  # ragged: the check of weights will say so
            return False
    shape = getattr(given, "shape", ())
    if not isinstance(shape, tuple) and type(given) is not type(yhat):
        return False
    shape = tuple(shape)
    if type(given) is not type(yhat) or (shape != tuple(yhat.shape) and shape != tuple(yhat.shape[:-1])):
        return False
    alone = yhat.shape[-1] == 1 and len(shape) == yhat.ndim - 1
    return shape == tuple(yhat.shape) or (alone and bool((given == yhat[..., 0]).all()))


class Door(NamedTuple):
    """What samples must be, for this network, here."""

    network: Network
    place: Place
    dtype: str
    n_networks: int | None

    def inputs(self, X: Any, name: str = "x") -> Array:
        """X of shape (n, n_0), or (m, n, n_0)."""
        width = self.network.n_inputs
        return checks.array(X, name, self.place, self.dtype, width=width, networks=self.n_networks)

    def targets(self, y: Any, n: int, w: Any = None, name: str = "y") -> tuple[Array, Array | None]:
        """Targets in the loss's domain, and weights."""
        width = self.network.loss.target_width or self.network.layout.sizes[-1]
        where = "be compared with the outputs"
        y = checks.numbers_of_any_kind(checks.plain(y, name, self.place, self.dtype), self.dtype)
        self._demand_one_hot(y, n, width, name)
        y = checks.array(y, name, self.place, self.dtype, width=width, networks=self.n_networks, where=where)
        if y.shape[-2] != n:
            raise ValueError(f"x and {name} must hold the same number of samples; got {n} and {int(y.shape[-2])}.")
        y = check_targets(self.network.loss, y)
        return y, checks.sample_weight(w, "sample_weight", self.place, self.dtype, n)

    def samples(self, X: Any, y: Any, w: Any = None, names: tuple[str, str] = ("x", "y")) -> Samples:
        """All three."""
        x = self.inputs(X, names[0])
        return Samples(x, *self.targets(y, int(x.shape[-2]), w, names[1]))

    def _demand_one_hot(self, y: Any, n: int, width: int, name: str) -> None:
        # Class numbers have one column, or none: to say how a column is made would lead to the next error.
        shape = tuple(y.shape)
        if self.network.loss.targets == "distribution" and width > 1 and shape in ((n,), (n, 1)):
            raise ValueError(
                f"{name} must hold one-hot rows (or soft targets) of shape ({n}, {width}) for the loss "
                f"{self.network.loss.name!r}; got {shape}, as class numbers have. Of classes 0 to {width - 1}, "
                f"numpy.eye({width})[numpy.ravel({name}).astype(int)] makes one-hot rows."
            )
