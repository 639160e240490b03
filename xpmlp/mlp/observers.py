"""Who looks at a fit of an MLP: the metric, and the user's callbacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xpmlp._typing import Array
from xpmlp.backends import HostArray, place_of
from xpmlp.mlp.validation import Samples
from xpmlp.network import Network
from xpmlp.runners import Data, HostData
from xpmlp.runners.host_data import rows_of_cast_block
from xpmlp.training import Fitted, Observer, Outcome, outputs, rows_at_once

Metric = Callable[[Array, Array], float]
Callback = Callable[[Any, int, dict[str, Any]], object]


def predicted(network: Network, p: Array, x: Array, which: HostArray | None = None) -> Array:
    """The outputs for the inputs `x`, shape (n, n_K) or (m, n, n_K); in blocks, so that memory stays bounded."""
    place, dtype = place_of(x), str(p.dtype).rpartition(".")[2]
    rows = rows_at_once(network, place, None if p.ndim == 1 else int(p.shape[0]))
    data: Data
    if which is not None or x.dtype != p.dtype:
        rows = rows_of_cast_block(rows, int(x.shape[1]))
        data = HostData(place, x, None, None, rows, dtype=dtype, which=which)
    else:
        data = Data(place, x, None, None, rows)
    return outputs(network, network.layout.unpack(p), data)


class Metrics(Observer):
    """A number beside the loss: of the samples trained on, and of those held out."""

    def __init__(self, metric: Metric, samples: Samples, held_out: Samples | None) -> None:
        self.metric, self.samples, self.held_out = metric, samples, held_out

    def measure(self, now: Fitted, seen: Outcome | None) -> Mapping[str, Any]:
        """The metric of this epoch."""
        found = {
            "metric": self.metric(self.samples.y, predicted(now.network, now.p, self.samples.x, self.samples.which))
        }
        if self.held_out is not None and seen is not None:
            found["validation_metric"] = self.metric(self.held_out.y, seen.yhat)
        return found


class ShardMetric(Observer):
    """A number beside the loss, of shards that are held out: known where these are judged."""

    def measure(self, now: Fitted, seen: Outcome | None) -> Mapping[str, Any]:  # noqa: ARG002 - as an Observer's
        """The metric of this epoch."""
        return {} if seen is None or seen.score is None else {"validation_metric": seen.score}


class Callbacks(Observer):
    """The user's functions of (net, epoch, logs); one that has a method `measure(net)` adds its numbers to the history.

    Parameters
    ----------
    show : function
        From a `Fitted` to the user's object as it is then.
    parameters : function
        The parameters that the object has now: others than it was shown with, if a callback has set them.
    """

    def __init__(
        self, callbacks: Sequence[Callback], show: Callable[[Fitted], Any], parameters: Callable[[], Array]
    ) -> None:
        self.callbacks, self.show, self.parameters = callbacks, show, parameters
        self.shown: Array | None = None

    def measure(self, now: Fitted, seen: Outcome | None) -> Mapping[str, Any]:  # noqa: ARG002 - as an Observer's
        """What callbacks measure."""
        found: dict[str, Any] = {}
        for callback in self.callbacks:
            measure = getattr(callback, "measure", None)
            if measure is not None:
                found |= measure(self.show(now))
        return found

    def end(self, now: Fitted, logs: dict[str, Any]) -> bool:
        """Show the network of this epoch to the callbacks."""
        net, epoch = self.show(now), len(now.history["loss"])
        self.shown = now.p
        wishes = [callback(net, epoch, logs) is True for callback in self.callbacks]  # all are called
        return any(wishes)

    def assigned(self) -> Array | None:
        """Parameters that a callback has set."""
        shown, self.shown = self.shown, None
        if shown is None:  # of an epoch that was broken off nothing was shown
            return None
        p = self.parameters()
        return None if p is shown else p
