"""What `MLP.fit` can measure beside the loss."""

from collections.abc import Callable
from typing import Any

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import place_of
from xpmlp.network import Network
from xpmlp.training import plain


def accuracy(y: Array, yhat: Array) -> Any:
    """The share of samples whose class, the largest of the outputs, is right.

    A float, or a NumPy array of shape (m,) for m networks.
    """
    xp = place_of(y=y, yhat=yhat).xp
    return _share(xp.argmax(yhat, axis=-1) == xp.argmax(y, axis=-1), yhat)


def binary_accuracy(y: Array, yhat: Array) -> Any:
    """The share of samples of which every output is on y's side of 1/2.

    A float, or a NumPy array of shape (m,) for m networks.
    """
    xp = place_of(y=y, yhat=yhat).xp
    return _share(xp.all((yhat > 0.5) == (y > 0.5), axis=-1), yhat)


def _share(right: Array, like: Array) -> Any:
    place = place_of(right)
    return plain(place.backend.to_numpy(place.xp.mean(place.xp.astype(right, like.dtype), axis=-1)))


def find_metric(metric: Any, network: Network) -> Callable[[Array, Array], float] | None:
    """The function that `metric` names or is; ValueError where it does not suit the network's loss."""
    if metric is None or callable(metric):
        return metric  # type: ignore[no-any-return]
    checks.option(metric, "metric", ("accuracy",))
    if network.loss.targets not in ("probability", "distribution"):
        raise ValueError(f"accuracy needs a classification loss; got {network.loss.name!r}.")
    return accuracy if network.loss.targets == "distribution" else binary_accuracy
