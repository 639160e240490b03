"""Which class, or which value, a model predicts where: for two features."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from xpmlp import checks
from xpmlp.backends import HostArray
from xpmlp.backends.transfer import to_backend
from xpmlp.inspection.models import host, open_up
from xpmlp.mlp import MLP
from xpmlp.plotting.canvas import MARKERS, Display, axes_for, colors, ink, legend_below, pyplot, shorten


class DecisionBoundaryDisplay(Display):
    """The plane of two features: the predicted class, stronger where it is more probable; or the predicted value.

    Parameters
    ----------
    x, y : array
        The coordinates of the grid's columns and rows.
    response : array of shape (rows, columns, classes), or (rows, columns) for values
        Probabilities, or values.
    class_names : sequence of str, optional
    feature_names : pair of str
    points : pair (array of shape (n, 2), array of shape (n,)), optional
        Samples and their classes (0, 1, ...) or values.

    Attributes
    ----------
    surface_ : AxesImage or QuadMesh
    boundary_ : list of QuadContourSet
    points_ : list of PathCollection
        One for each class.

    Examples
    --------
    >>> import numpy as np, xpmlp
    >>> from xpmlp.plotting import DecisionBoundaryDisplay
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> clf = xpmlp.MLPClassifier(8, solver="lbfgs", random_state=0).fit(X, X[:, 0] * X[:, 1] > 0)
    >>> display = DecisionBoundaryDisplay.from_estimator(clf, X, X[:, 0] * X[:, 1] > 0)
    >>> len(display.points_)
    2
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        response: Any,
        *,
        class_names: Sequence[str] = (),
        feature_names: Sequence[str] = ("feature 0", "feature 1"),
        points: tuple[Any, Any] | None = None,
    ) -> None:
        self.x, self.y, self.response = x, y, response
        self.class_names, self.feature_names, self.points = list(class_names), list(feature_names), points

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        grid_resolution: int = 200,
        margin: float = 0.08,
        class_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        ax: Any = None,
        **kw: Any,
    ) -> Self:
        """From an `MLP` or a fitted estimator with two inputs; of m networks the mean is drawn.

        Parameters
        ----------
        X : array-like of shape (n, 2)
            Says how far the plane reaches, `margin` of its extent added.
        y : array-like, optional
            The classes or values of X: then the samples are drawn too.
        """
        pyplot()
        n_inputs = getattr(estimator, "n_features_in_", None) or open_up(estimator).network.n_inputs
        X_ = host(X)
        if n_inputs != 2 or X_.ndim != 2 or X_.shape[1] != 2:
            raise ValueError(
                f"a plane needs a model and an X of 2 features; got {n_inputs}, and X of shape {X_.shape}."
            )
        n = checks.integer(grid_resolution, "grid_resolution", least=2)
        low, high = X_.min(axis=0), X_.max(axis=0)
        room = margin * np.where(high > low, high - low, 1.0)
        xs, ys = (np.linspace(low[i] - room[i], high[i] + room[i], n) for i in range(2))
        grid = np.stack([part.ravel() for part in np.meshgrid(xs, ys)], axis=1)
        response, classes = _responses(estimator, grid, X)
        names = list(map(str, () if classes is None else classes)) if class_names is None else list(class_names)
        n_classes = 0 if classes is None else response.shape[1]
        if len(names) != n_classes:
            raise ValueError(f"class_names must hold {n_classes} names; got {len(names)}.")
        points = None if y is None else (X_, _targets(host(y), classes))
        if feature_names is None:
            feature_names = getattr(estimator, "feature_names_in_", ("feature 0", "feature 1"))
        return cls(
            xs,
            ys,
            response.reshape(n, n, *response.shape[1:]),
            class_names=names,
            feature_names=list(feature_names),
            points=points,
        ).plot(ax=ax, **kw)

    def plot(self, ax: Any = None, **kw: Any) -> Self:
        """Draw; keywords go to the samples, as `s=10`."""
        ax = axes_for(ax, (6.0, 5.0))
        self.points_: list[Any] = []
        ax.set_xlabel(shorten(self.feature_names[0], 50))
        ax.set_ylabel(shorten(self.feature_names[1], 50))
        ax.set_xlim(self.x[0], self.x[-1])
        ax.set_ylim(self.y[0], self.y[-1])
        if self.response.ndim == 3:
            self._plot_classes(ax, kw)
        else:
            self._plot_values(ax, kw)
        return self._drawn([ax])

    def _plot_classes(self, ax: Any, kw: dict[str, Any]) -> None:
        from matplotlib.colors import to_rgb
        from matplotlib.lines import Line2D

        p = self.response
        C = p.shape[-1]
        palette = np.array([to_rgb(color) for color in colors(ax, C)])
        ground = np.array(to_rgb(ax.get_facecolor()))
        winner = np.argmax(p, axis=-1)
        # From the ground, where all classes are equally probable, to 70 % of the colour where one is certain
        strength = 0.12 + 0.58 * (np.max(p, axis=-1, keepdims=True) - 1.0 / C) / (1.0 - 1.0 / C) if C > 1 else 0.7
        picture = np.clip(ground + strength * (palette[winner] - ground), 0.0, 1.0)
        box = (self.x[0], self.x[-1], self.y[0], self.y[-1])
        self.surface_ = ax.imshow(
            picture, origin="lower", extent=box, aspect="auto", interpolation="bilinear", zorder=0
        )
        self.boundary_ = []
        if C == 2:
            self._probability_lines(ax, p[..., 1])
        else:
            for c in range(C):
                if 0 < int(np.sum(winner == c)) < winner.size:
                    margin = p[..., c] - np.max(np.delete(p, c, axis=-1), axis=-1)
                    lines = ax.contour(self.x, self.y, margin, levels=[0.0], colors=[ink(ax)], linewidths=0.8)
                    self.boundary_.append(lines)
        if self.points is not None:
            X, labels = self.points
            for c in range(C):
                style = {"s": 22, "edgecolors": ink(ax), "linewidths": 0.5, "zorder": 3} | kw
                rows = X[labels == c]
                self.points_.append(
                    ax.scatter(rows[:, 0], rows[:, 1], color=[palette[c]], marker=MARKERS[c % len(MARKERS)], **style)
                )
        handles = [
            Line2D([], [], linestyle="none", markersize=7, markeredgewidth=0.5, **self._key(ax, palette[c], c))
            for c in range(C)
        ]
        names = [shorten(name, 40) for name in self.class_names]
        two = "line: equally probable; dashed: one of them 90 % certain"
        title = "lines: equally probable" if C > 2 else two
        self.legend_ = legend_below(ax, handles, names, title=f"class (stronger: more certain; {title})")
        self.legend_.get_title().set_fontsize("small")

    def _key(self, ax: Any, color: Any, c: int) -> dict[str, Any]:
        marker = "s" if self.points is None else MARKERS[c % len(MARKERS)]
        return {"marker": marker, "color": color, "markeredgecolor": ink(ax)}

    def _probability_lines(self, ax: Any, p: HostArray) -> None:
        levels = [level for level in (0.1, 0.5, 0.9) if p.min() < level < p.max()]
        if not levels:
            return
        widths = [1.6 if level == 0.5 else 0.8 for level in levels]
        styles = ["solid" if level == 0.5 else "dashed" for level in levels]
        look = {"colors": [ink(ax)], "linewidths": widths, "linestyles": styles}
        lines = ax.contour(self.x, self.y, p, levels=levels, **look)
        self.boundary_.append(lines)

    def _plot_values(self, ax: Any, kw: dict[str, Any]) -> None:
        shown = [self.response.ravel()] + ([] if self.points is None else [self.points[1]])
        low, high = (float(f([f(values) for values in shown])) for f in (np.min, np.max))
        scale = {"cmap": "cividis", "vmin": low, "vmax": high}
        self.surface_ = ax.pcolormesh(self.x, self.y, self.response, shading="nearest", rasterized=True, **scale)
        self.boundary_ = [ax.contour(self.x, self.y, self.response, levels=8, colors=["white"], linewidths=0.5)]
        ax.clabel(self.boundary_[0], fontsize="x-small")
        if self.points is not None:
            X, values = self.points
            style = {"s": 22, "edgecolors": "white", "linewidths": 0.6, "zorder": 3} | kw
            self.points_.append(ax.scatter(X[:, 0], X[:, 1], c=values, **scale, **style))
        self.colorbar_ = ax.figure.colorbar(self.surface_, ax=ax)
        self.colorbar_.set_label("prediction" if self.points is None else "prediction (points: target)")


def _responses(model: Any, grid: HostArray, X: Any) -> tuple[HostArray, Any]:
    """Probabilities (n, C) and the classes, or values (n,) and None."""
    if isinstance(model, MLP):
        place = model.place
        x = to_backend(grid, place.backend.name, device=place.device_name, dtype=model.dtype)
        yhat = host(model.predict(x, average=True)).astype(float)
        if model.network.loss.targets in ("probability", "distribution"):
            p = np.concatenate([1.0 - yhat, yhat], axis=1) if yhat.shape[1] == 1 else yhat
            return p, np.arange(p.shape[1])
        return _one_column(yhat), None
    names = getattr(model, "feature_names_in_", None)
    if names is not None and hasattr(X, "iloc"):
        x = type(X)(grid, columns=names)  # a data frame, or scikit-learn warns of names it misses
    else:
        anatomy = open_up(model)
        same = getattr(model, "_asked", None) is None
        x = to_backend(grid, anatomy.place.backend.name, device=anatomy.place.device_name) if same else grid
    if hasattr(model, "predict_proba"):
        network = open_up(model).network
        if network.layout.sizes[-1] > 1 and network.activations[-1].name != "softmax":
            raise ValueError("several labels at once have no one boundary; fit a classifier for the label to be drawn.")
        return host(model.predict_proba(x)).astype(float), model.classes_
    yhat = host(model.predict(x)).astype(float)
    return _one_column(yhat[:, None] if yhat.ndim == 1 else yhat), None


def _one_column(yhat: HostArray) -> HostArray:
    if yhat.shape[1] != 1:
        raise ValueError(f"a plane shows one output; this model has {yhat.shape[1]}.")
    return yhat[:, 0]


def _targets(y: HostArray, classes: Any) -> HostArray:
    if y.ndim == 2:
        y = np.argmax(y, axis=1) if y.shape[1] > 1 else y[:, 0]
    if classes is None:
        return y
    found = np.array([np.flatnonzero(classes == label)[:1] for label in y], dtype=object)
    unknown = [label for label, at in zip(y, found, strict=True) if not len(at)]
    if unknown:
        raise ValueError(f"y holds {unknown[0]!r}, which is none of the classes {list(classes)}.")
    return np.array([int(at[0]) for at in found])
