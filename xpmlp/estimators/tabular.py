"""TabularClassifier and TabularRegressor: networks for tables as they are, good without a word of tuning.

They name a preparation, a network and a schedule; what these do is done elsewhere. A fit has two stages. The first sets
a part of the rows aside and finds the epoch at which the averaged weights are best; the second trains a new network on
all rows, with the same schedule, and stops there.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d

from xpmlp import checks
from xpmlp.backends import HostArray
from xpmlp.mlp import MLP
from xpmlp.network.losses import Loss
from xpmlp.network.losses import loss as find_loss
from xpmlp.network.parts import Part, part
from xpmlp.optim.optimizers import optimizer
from xpmlp.optim.schedules import schedule
from xpmlp.tabular import TablePreparation

FEWEST_EPOCHS, MOST_EPOCHS, STEPS = 32, 256, 900  # "auto": about 900 steps, within these
AVERAGE = 2.0  # epochs that the average of the weights reaches back
PATIENCE = 8, 0.3  # epochs without a better one: at least so many, or this share of those planned
FEW_MEMBERS = 4  # of the first stage, which only looks for an epoch: half of the time, nearly the same epoch


class Stage(NamedTuple):
    """What a stage is trained on, and how far."""

    rows: HostArray
    held_out: HostArray  # rows that choose the epoch; empty where it is known
    epochs: int  # of the schedule
    stop: int  # the epoch after which it ends
    members: int


class TabularEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What both estimators do."""

    network_: MLP
    preparation_: TablePreparation

    def __init__(
        self,
        *,
        n_members: int = 8,
        hidden_layer_sizes: Any = (256, 256),
        dropout: float = 0.2,
        embedding: str | None = "piecewise",
        n_bins: int = 64,
        embedding_width: int = 8,
        learning_rate_init: float = 1e-2,
        weight_decay: float = 1e-2,
        batch_size: int = 256,
        max_iter: int | str = "auto",
        validation_fraction: float = 0.2,
        refit: bool = True,
        average: float = AVERAGE,
        categorical_features: Any = "from_dtype",
        random_state: Any = None,
        verbose: bool = False,
        backend: str = "numpy",
        device: str | None = None,
        dtype: str = "float32",
        callbacks: Any = (),
    ) -> None:
        self.n_members = n_members
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
        self.embedding = embedding
        self.n_bins = n_bins
        self.embedding_width = embedding_width
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.validation_fraction = validation_fraction
        self.refit = refit
        self.average = average
        self.categorical_features = categorical_features
        self.random_state = random_state
        self.verbose = verbose
        self.backend = backend
        self.device = device
        self.dtype = dtype
        self.callbacks = callbacks

    # --- What the two differ in ---

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _encode(self, y: HostArray, rows: HostArray) -> HostArray:
        """Targets as the network has them, (n, n_outputs); `rows` are those trained on."""
        raise NotImplementedError

    # --- Learning ---

    def _fit(self, X: Any, y: HostArray, w: HostArray | None, strata: HostArray | None) -> Self:
        if self.embedding is not None:
            checks.option(self.embedding, "embedding", ("piecewise",))
        members = checks.integer(self.n_members, "n_members", least=1)
        fraction = checks.number(self.validation_fraction, "validation_fraction", above=0.0, below=1.0)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        rows = np.arange(len(y))
        if strata is not None and np.min(np.bincount(strata)) < 2:
            strata = None
        trained, held = train_test_split(rows, test_size=fraction, random_state=seed, stratify=strata)
        epochs = self._epochs(len(trained))
        first = Stage(trained, held, epochs, epochs, min(members, FEW_MEMBERS) if self.refit else members)
        net = self._train(first, X, y, w, seed)
        seen = np.asarray(net.history["validation_loss"])
        self.best_epoch_: int = int(len(seen) - 1 - np.argmin(seen[::-1])) + 1  # the last of equals
        self.validation_loss_ = float(np.min(seen))
        self.history_ = net.history
        if self.refit:
            net = self._train(Stage(rows, rows[:0], epochs, self.best_epoch_, members), X, y, w, seed)
        self.network_ = net
        self.n_parameters_: int = net.layout.n_parameters
        self.n_iter_ = len(self.history_["loss"])
        return self

    def _epochs(self, n: int) -> int:
        if self.max_iter != "auto":
            return checks.integer(self.max_iter, "max_iter", least=1)
        steps = max(n // checks.integer(self.batch_size, "batch_size", least=1), 1)
        return max(FEWEST_EPOCHS, min(MOST_EPOCHS, math.ceil(STEPS / steps)))

    def _train(self, stage: Stage, X: Any, y: HostArray, w: HostArray | None, seed: int) -> MLP:
        self.preparation_ = TablePreparation(categorical_features=self.categorical_features, n_bins=self.n_bins)
        inputs = self.preparation_.fit(X, rows=stage.rows).transform(X)
        self.n_features_in_ = self.preparation_.n_features_in_
        if len(inputs) != len(y):
            raise ValueError(f"X and y must hold the same number of samples; got {len(inputs)} and {len(y)}.")
        targets = self._encode(y, stage.rows)
        sizes = (inputs.shape[1], *checks.layer_sizes((1, *np.atleast_1d(self.hidden_layer_sizes)))[1:])
        loss = self._loss()
        net = MLP(
            (*sizes, loss.n_outputs or targets.shape[1]),
            "silu",
            loss,
            initializer="linear_uniform",
            dropout=self.dropout,
            parts={0: self._front(stage.members)},
            members=stage.members,
            backend=self.backend,
            device=self.device,
            dtype=self.dtype,
            random_state=seed,
        )
        there = self._to(net)
        few, share = PATIENCE
        held: dict[str, Any] = {}
        if len(stage.held_out):
            held["validation_data"] = there(inputs[stage.held_out]), there(targets[stage.held_out])
            held |= {"early_stopping": True, "patience": max(few, int(share * stage.epochs))}
        known: list[Callable[..., Any]] = [lambda _net, epoch, _logs: epoch >= stage.stop]
        return net.fit(
            there(inputs[stage.rows]),
            there(targets[stage.rows]),
            epochs=stage.epochs,
            batch_size=self.batch_size,
            optimizer=optimizer("adamw", beta_2=0.95, weight_decay=self.weight_decay),
            learning_rate=self.learning_rate_init,
            schedule=schedule("one_cycle", peak=0.05, start=0.02, final=0.0),
            average=self.average,
            sample_weight=None if w is None else there(w[stage.rows]),
            callbacks=[*self.callbacks, *known],
            progress=bool(self.verbose),
            **held,
        )

    def _front(self, members: int) -> list[Part]:
        """What stands before the first layer: the code of numbers, and the scales of members, drawn once a column."""
        made, groups = self.preparation_, self.preparation_.groups_.tolist()
        front = []
        if self.embedding is not None and made.n_numbers_:
            front.append(part("piecewise", edges=[_edges(row) for row in made.edges_], width=self.embedding_width))
            number = [group for group in groups[: made.n_numbers_] for _ in range(self.embedding_width)]
            groups = number + groups[made.n_numbers_ :]
        return [*front, part("member_scale", groups=groups)] if members > 1 else front

    @staticmethod
    def _to(net: MLP) -> Callable[[HostArray], Any]:
        return lambda array: net.place.asarray(np.asarray(array), net.dtype)

    # --- Using ---

    def predict_members(self, X: Any) -> HostArray:
        """What each member says, shape (n_members, n, n_outputs): probabilities, or numbers as the network has them."""
        check_is_fitted(self)
        net = self.network_
        inputs = self.preparation_.transform(X)
        blocks = [net.forward(self._to(net)(inputs[i : i + 1024])) for i in range(0, max(len(inputs), 1), 1024)]
        return np.concatenate([np.asarray(net.place.backend.to_numpy(block)) for block in blocks], axis=1)

    def _outputs(self, X: Any) -> HostArray:
        """The mean of the members' outputs, shape (n, n_outputs)."""
        check_is_fitted(self)
        net = self.network_
        yhat = net.predict(self._to(net)(self.preparation_.transform(X)))
        return np.asarray(net.place.backend.to_numpy(yhat), dtype=np.float64)


def _edges(row: HostArray) -> HostArray:
    # of a constant column: one bin
    return row if len(row) > 1 else np.asarray([row[0], row[0] + 1.0])


class TabularClassifier(ClassifierMixin, TabularEstimator):  # type: ignore[misc]
    """A classifier of tables with numbers, names, gaps and dates.

    Parameters
    ----------
    n_members : int
        Networks that share their weights; predictions are the mean of theirs.
    hidden_layer_sizes, dropout, learning_rate_init, weight_decay, batch_size
        Of the network and its training.
    embedding : "piecewise" or None
        How numbers enter: by their piecewise-linear code of at most `n_bins` bins, `embedding_width` inputs each; or as
        they are.
    max_iter : int or "auto"
        Epochs; "auto" is about 900 steps, 32 to 256 epochs.
    validation_fraction : float
        The share of the rows by which the epoch is chosen at which training ends.
    refit : bool
        Train on all rows once that epoch is known.
    average : float
        Epochs over which the exponential average of the weights reaches back.
    categorical_features
        See `TablePreparation`.
    random_state, verbose, backend, device, dtype, callbacks
        As of MLP and its fit.
    class_weight : dict, "balanced" or None
        See scikit-learn.

    Attributes
    ----------
    classes_, n_features_in_, preparation_, network_, history_, best_epoch_, validation_loss_, n_parameters_
        `history_` is that of the first stage, which chose `best_epoch_`.
    """

    def __init__(self, *, class_weight: Any = None, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.class_weight = class_weight

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return sorted([*TabularEstimator._get_param_names(), "class_weight"])

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from a table X, shape (n, p), and labels y, shape (n,)."""
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes; got only {self.classes_.tolist()}.")
        w = None if sample_weight is None else _check_sample_weight(sample_weight, y, dtype=np.float64)
        if self.class_weight is not None:
            w = compute_sample_weight(self.class_weight, y) * (1.0 if w is None else w)
        return self._fit(X, codes, w, codes)

    def _loss(self) -> Loss:
        return find_loss("binary_cross_entropy" if len(self.classes_) == 2 else "cross_entropy")

    def _encode(self, y: HostArray, rows: HostArray) -> HostArray:  # noqa: ARG002 - as a regressor's
        return y[:, None].astype(float) if len(self.classes_) == 2 else np.eye(len(self.classes_))[y]

    def predict_proba(self, X: Any) -> HostArray:
        """The probability of each class, shape (n, n_classes): the mean of the members'."""
        p = self._outputs(X)
        p = np.concatenate([1.0 - p, p], axis=1) if p.shape[1] == 1 else p
        shares: HostArray = p / p.sum(axis=1, keepdims=True)
        return shares

    def predict(self, X: Any) -> HostArray:
        """The most probable class of each row, shape (n,)."""
        found: HostArray = self.classes_[np.argmax(self.predict_proba(X), axis=1)]
        return found


class TabularRegressor(RegressorMixin, TabularEstimator):  # type: ignore[misc]
    """A regressor of tables with numbers, names, gaps and dates; its parameters are those of `TabularClassifier`.

    Parameters
    ----------
    quantile : float, sequence of float or None
        Quantiles to predict in place of the mean; several are columns, which never cross.
    """

    def __init__(self, *, quantile: Any = None, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.quantile = quantile

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return sorted([*TabularEstimator._get_param_names(), "quantile"])

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from a table X, shape (n, p), and numbers y, shape (n,)."""
        y = column_or_1d(y, warn=True).astype(np.float64)
        if not np.all(np.isfinite(y)):
            raise ValueError("y must be finite; it holds NaN or infinity.")
        w = None if sample_weight is None else _check_sample_weight(sample_weight, y, dtype=np.float64)
        return self._fit(X, y, w, None)

    def _loss(self) -> Loss:
        if self.quantile is None:
            return find_loss("squared_error")
        several = not isinstance(self.quantile, numbers.Real)
        return find_loss("pinball", quantile=tuple(self.quantile) if several else self.quantile)

    def _encode(self, y: HostArray, rows: HostArray) -> HostArray:
        self.center_, self.scale_ = float(np.mean(y[rows])), float(np.std(y[rows])) or 1.0
        self.range_ = float(np.min(y[rows])), float(np.max(y[rows]))
        return ((y - self.center_) / self.scale_)[:, None]

    def predict(self, X: Any) -> HostArray:
        """The number of each row, shape (n,); of several quantiles (n, n_quantiles)."""
        yhat = np.clip(self._outputs(X) * self.scale_ + self.center_, *self.range_)
        if yhat.shape[1] == 1:
            return yhat[:, 0]
        ranks = np.argsort(np.argsort(self.quantile))
        uncrossed: HostArray = np.sort(yhat, axis=1)[:, ranks]
        return uncrossed
