"""The front door of MLP: samples checked against one network, and brought to where it lives."""

from typing import Any, NamedTuple

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.network import Network
from xpmlp.network.targets import check_targets
from xpmlp.runners import Data, HostData, host_data
from xpmlp.runners.host_data import rows_of_cast_block


class Samples(NamedTuple):
    """Checked inputs, targets and weights on the device.

    Where that is NumPy, a large x is not copied: it keeps its dtype, and rows of it are known by their numbers.
    """

    x: Array
    y: Array
    w: Array | None
    which: HostArray | None = None  # the rows of x that are meant; None for all

    @property
    def n(self) -> int:
        """Their number."""
        return int(self.y.shape[-2])

    def take(self, rows: HostArray, door: "Door") -> "Samples":
        """Some of those that have come through this door, by their indices on the host."""
        index = door.place.asarray(rows.astype(np.int32))
        take = door.place.xp.take
        y, w = take(self.y, index, axis=self.y.ndim - 2), None if self.w is None else take(self.w, index, axis=-1)
        if door.stays(self.x):
            return Samples(self.x, y, w, rows)
        return Samples(take(self.x, index, axis=self.x.ndim - 2), y, w)

    def data(self, place: Place, dtype: str, batch_size: int, rows: int | None = None) -> Data:
        """The samples, to be trained on in batches; `rows` of them in an epoch."""
        if self.which is None and _name(self.x) != dtype and batch_size >= self.n:  # once, and not in every epoch
            return Data(place, place.asarray(self.x, dtype), self.y, self.w, batch_size, rows)
        if self.which is not None or _name(self.x) != dtype:
            return HostData(place, self.x, self.y, self.w, batch_size, rows, dtype=dtype, which=self.which)
        return Data(place, self.x, self.y, self.w, batch_size, rows)

    def looked_at(self, place: Place, dtype: str, rows: int) -> Data:
        """The samples, to be looked at in order, at most `rows` at a time."""
        made = self.which is not None or _name(self.x) != dtype
        return self.data(place, dtype, rows_of_cast_block(rows, int(self.x.shape[-1])) if made else rows)

    def on_device(self, place: Place, dtype: str) -> "Samples":
        """The same, with every number of x that is meant there in its dtype."""
        x = self.x if self.which is None else self.x[self.which]
        return Samples(x if _name(x) == dtype else place.asarray(x, dtype), self.y, self.w)


def _name(x: Array) -> str:
    return str(x.dtype).rpartition(".")[2]


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

    def stays(self, x: Array) -> bool:
        """Whether x is so large that its batches are made ready one by one; only NumPy's, of one network."""
        here = self.n_networks is None and self.place.backend.name == "numpy"
        return here and x.ndim == 2 and int(x.nbytes) > host_data.COPIED_BYTES

    def inputs(self, X: Any, name: str = "x", *, whole: bool = True) -> Array:
        """X of shape (n, n_0), or (m, n, n_0); where it may stay as it `stays`, it need not be `whole`."""
        width, m = self.network.n_inputs, self.n_networks
        if not whole and isinstance(X, np.ndarray) and self.stays(X):
            return checks.array(X, name, self.place, self.dtype, width=width, cast=False)
        return checks.array(X, name, self.place, self.dtype, width=width, networks=m)

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

    def samples(
        self, X: Any, y: Any, w: Any = None, names: tuple[str, str] = ("x", "y"), *, whole: bool = True
    ) -> Samples:
        """All three."""
        x = self.inputs(X, names[0], whole=whole)
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
