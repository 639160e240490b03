"""Layer by layer: weights, the images of the first layer, activations and gradients of a batch."""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from xpmlp import checks
from xpmlp.backends import HostArray, at_home
from xpmlp.inspection.models import Opened, batch_of, host, open_up, per_network, place_of_model
from xpmlp.network import Layers, backward, forward
from xpmlp.plotting.canvas import Display, colors, diverging, panels, pyplot, shorten, whole_numbers

MOST_PANELS = 12


class WeightsDisplay(Display):
    """Every weight matrix as a picture: a column for each unit of the layer, a row for each of its inputs.

    Parameters
    ----------
    weights : list of array of shape (n_in, n_out)
        W[1] ... W[K].
    titles : list of str

    Attributes
    ----------
    images_ : list of AxesImage
    """

    def __init__(self, weights: Sequence[Any], titles: Sequence[str]) -> None:
        self.weights, self.titles = list(weights), list(titles)

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, layers: Sequence[int] | None = None, network: int = 0, ax: Any = None, **kw: Any
    ) -> Self:
        """From an `MLP` or a fitted estimator; `layers` chooses some of 1 ... K, `network` one of m, or a member.

        Of more than 12 layers, 12 are drawn where nothing is chosen.
        """
        pyplot()
        model = open_up(estimator)
        chosen = _layers(layers, model.network.layout.n_layers)
        W = [per_network(host(model.W[k]), model, network) for k in chosen]
        titles = [f"W[{k}]  {w.shape}" for k, w in zip(chosen, W, strict=True)]
        return cls(W, titles).plot(ax=ax, **kw)

    def plot(self, ax: Any = None, **kw: Any) -> Self:
        """Draw; keywords go to every image."""
        axes = panels(ax, len(self.weights), (3.3, 2.8))
        self.images_ = []
        for panel, W, title in zip(axes, self.weights, self.titles, strict=True):
            largest = float(np.max(np.abs(W))) or 1.0
            look = {"cmap": diverging(panel), "vmin": -largest, "vmax": largest, "aspect": "auto"} | kw
            image = panel.imshow(W, interpolation="nearest", **look)
            panel.set_title(title, fontsize="medium")
            panel.set_xlabel("unit")
            panel.set_ylabel("input")
            whole_numbers(panel.xaxis, 6)
            whole_numbers(panel.yaxis, 6)
            bar = panel.figure.colorbar(image, ax=panel)
            bar.ax.tick_params(labelsize="x-small")
            self.images_.append(image)
        return self._drawn(axes)


class FirstLayerDisplay(Display):
    """What the units of the first layer look for: their weights, as images of the input's shape.

    Parameters
    ----------
    images : array of shape (units, height, width)
    units : list of int
        Which units they are.

    Attributes
    ----------
    images_ : list of AxesImage

    Examples
    --------
    >>> import xpmlp
    >>> from xpmlp.plotting import FirstLayerDisplay
    >>> net = xpmlp.MLP([64, 20, 10], random_state=0)
    >>> display = FirstLayerDisplay.from_estimator(net, n_units=8)
    >>> len(display.images_), display.images_[0].get_array().shape
    (8, (8, 8))
    """

    def __init__(self, images: Any, units: Sequence[int]) -> None:
        self.images, self.units = images, list(units)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        image_shape: tuple[int, int] | None = None,
        n_units: int = 16,
        units: Sequence[int] | None = None,
        network: int = 0,
        ax: Any = None,
        **kw: Any,
    ) -> Self:
        """From an `MLP` or a fitted estimator.

        Parameters
        ----------
        image_shape : pair of int, optional
            Height and width; by default square.
        n_units : int
            So many units with the largest weights are drawn,
        units : sequence of int, optional
            or these.
        """
        pyplot()
        model = open_up(estimator)
        W = per_network(host(model.W[1]), model, network)
        side = math.isqrt(W.shape[0])
        shape = (side, side) if image_shape is None else tuple(image_shape)
        if len(shape) != 2 or math.prod(shape) != W.shape[0]:
            raise ValueError(f"image_shape must be (height, width) with {W.shape[0]} pixels; got {shape}.")
        if units is None:
            n = checks.integer(n_units, "n_units", least=1)
            units = np.sort(np.argsort(-np.linalg.norm(W, axis=0), kind="stable")[:n]).tolist()
        return cls(W[:, list(units)].T.reshape(-1, *shape), units).plot(ax=ax, **kw)

    def plot(self, ax: Any = None, **kw: Any) -> Self:
        """Draw; keywords go to every image."""
        columns = min(8, len(self.units))
        axes = panels(ax, len(self.units), (1.0, 1.15), most_columns=columns)
        largest = float(np.max(np.abs(self.images))) or 1.0
        self.images_ = []
        for panel, picture, unit in zip(axes, self.images, self.units, strict=True):
            look = {"cmap": diverging(panel), "vmin": -largest, "vmax": largest, "interpolation": "nearest"} | kw
            self.images_.append(panel.imshow(picture, **look))
            panel.set_title(f"unit {unit}", fontsize="x-small", pad=2)
            panel.set_xticks([])
            panel.set_yticks([])
        bar = axes[0].figure.colorbar(self.images_[0], ax=axes, shrink=0.8)
        bar.set_label("weight", fontsize="small")
        bar.ax.tick_params(labelsize="x-small")
        return self._drawn(axes)


class _HistogramDisplay(Display):
    """A histogram for each layer.

    Parameters
    ----------
    values : list of array
        One for each layer; of any shape.
    titles, notes : list of str
        Above each panel, and in it.

    Attributes
    ----------
    bars_ : list of StepPatch
    """

    xlabel: str
    shared: bool  # whether all panels have one x axis, so that they can be compared

    def __init__(self, values: Sequence[Any], titles: Sequence[str], notes: Sequence[str]) -> None:
        self.values, self.titles, self.notes = list(values), list(titles), list(notes)

    def plot(self, ax: Any = None, *, bins: int = 40, **kw: Any) -> Self:
        """Draw histograms of `bins` bins; other keywords go to `Axes.stairs`."""
        bins = checks.integer(bins, "bins", least=1)
        axes = panels(ax, len(self.values), (2.9, 2.2))
        everything = np.concatenate([np.ravel(values) for values in self.values])
        self.bars_ = []
        for i, (panel, values) in enumerate(zip(axes, self.values, strict=True)):
            span = everything if self.shared else np.ravel(values)
            low, high = (float(span.min()), float(span.max())) if span.size else (0.0, 1.0)
            if high - low < 1e-9 * max(abs(low), abs(high), 1e-300):
                low, high = low - 0.5, high + 0.5
            counts, edges = np.histogram(values, bins=bins, range=(low, high))
            share = counts / max(counts.sum(), 1)
            style = {"fill": True, "color": colors(panel, 1)[0]} | kw
            self.bars_.append(panel.stairs(share, edges, **style))
            # Room above the bars for the note
            panel.set_ylim(0.0, 1.45 * max(float(share.max()), 1e-9))
            if np.size(values):
                panel.set_yticks([tick for tick in panel.get_yticks() if 0.0 <= tick <= 1.0])
            panel.text(0.98, 0.96, self.notes[i], transform=panel.transAxes, ha="right", va="top", fontsize="x-small")
            panel.set_title(self.titles[i], fontsize="small")
            if span.size:
                panel.locator_params(axis="x", nbins=5)
            if not np.size(values):  # an axis without anything on it says nothing
                panel.text(0.5, 0.5, "all 0", transform=panel.transAxes, ha="center", va="center", fontsize="medium")
                panel.set_yticks([])
                panel.set_xticks(panel.get_xticks() if span.size else [])
            panel.tick_params(labelsize="x-small")
            panel.set_xlabel(self.xlabel, fontsize="small")
            if i % 4 == 0:
                panel.set_ylabel("share", fontsize="small")
        return self._drawn(axes)


class ActivationsDisplay(_HistogramDisplay):
    """The activations of a batch, layer by layer: dead and saturated layers show as one bar, or two."""

    xlabel = "a"
    shared = False

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        layers: Sequence[int] | None = None,
        network: int = 0,
        ax: Any = None,
        **kw: Any,
    ) -> Self:
        """From an `MLP` or a fitted estimator and a batch.

        `layers` chooses some of 1 ... K, `network` one of m, or a member. Of more than 12 layers, 12 are drawn where
        nothing is chosen.
        """
        pyplot()
        model, found, _ = _passed(estimator, X)
        values, titles, notes = [], [], []
        for k in _layers(layers, model.network.layout.n_layers):
            row = model.network.activations[k - 1]
            a = per_network(host(found[k]), model, network)
            values.append(a)
            titles.append(f"a[{k}]  {shorten(row.name, 18)}, {a.shape[-1]} unit{'s' if a.shape[-1] > 1 else ''}")
            zeros = float(np.mean(a == 0.0))
            notes.append(f"mean {a.mean():.2g}, sd {a.std():.2g}" + (f"\n{zeros:.0%} are 0" if zeros else ""))
        return cls(values, titles, notes).plot(ax=ax, **kw)


class GradientsDisplay(_HistogramDisplay):
    """The sizes of the derivatives dW of a batch, layer by layer, on one logarithmic scale.

    Where the histograms move to the left from layer to layer, the gradient vanishes; to the right, it explodes.
    """

    xlabel = "log10 |dW|"
    shared = True

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        layers: Sequence[int] | None = None,
        network: int = 0,
        ax: Any = None,
        **kw: Any,
    ) -> Self:
        """From an `MLP` or a fitted estimator and a batch with its targets.

        `layers` chooses some of 1 ... K, `network` one of m, or a member. Of more than 12 layers, 12 are drawn where
        nothing is chosen.
        """
        pyplot()
        model, _, dW = _passed(estimator, X, y)
        values: list[HostArray] = []
        titles, notes = [], []
        for k in _layers(layers, len(dW) - 1):
            sizes = np.abs(per_network(host(dW[k]), model, network)).astype(float)
            values.append(np.log10(sizes[sizes > 0.0]))
            zeros = float(np.mean(sizes == 0.0))
            titles.append(f"dW[{k}]  {sizes.shape}")
            notes.append(
                f"norm {np.linalg.norm(sizes):.1e}"
                + (f"\n{zeros:.0%} are 0" + (", not drawn" if zeros < 1.0 else "") if zeros else "")
            )
        return cls(values, titles, notes).plot(ax=ax, **kw)


@at_home("a pass to be drawn", of=place_of_model)
def _passed(estimator: Any, X: Any, y: Any = None) -> tuple[Opened, Layers, Layers]:
    """The model opened up, every a[k], and with targets every dW[k]."""
    model, batch = open_up(estimator), batch_of(estimator, X, y)
    trace = forward(model.network, model.parameters, batch.x)
    if batch.y is None:
        return model, trace.a, []
    return model, trace.a, backward(model.network, model.parameters, trace, batch.y, batch.w).dW


def _layers(layers: Sequence[int] | None, K: int) -> list[int]:
    if layers is None:
        # Of a deep network the first, the last and some between, evenly: twenty panels cannot be read
        return sorted({round(k) for k in np.linspace(1, K, min(K, MOST_PANELS))})
    chosen = [checks.integer(k, "layer", least=1) for k in layers]
    if not chosen or max(chosen) > K:
        raise ValueError(f"layers must be some of 1 to {K}; got {list(layers)}.")
    return chosen
