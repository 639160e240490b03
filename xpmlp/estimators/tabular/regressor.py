"""TabularRegressor: numbers, and their quantiles, from tables as they are."""

import os
from collections.abc import Mapping
from typing import Any, Self

from sklearn.base import RegressorMixin

from xpmlp.backends import HostArray
from xpmlp.distributed import Group
from xpmlp.estimators.checkpointing import Wanted
from xpmlp.estimators.tabular.estimator import TabularEstimator
from xpmlp.estimators.tabular.fitting import fit_table
from xpmlp.estimators.tabular.targets import NumbersOfTables, numbers_of_tables, numbers_read
from xpmlp.estimators.targets import Samples
from xpmlp.estimators.validation import NUMPY, Inputs
from xpmlp.network import Network
from xpmlp.tabular import TablePreparation


class TabularRegressor(RegressorMixin, TabularEstimator):  # type: ignore[misc]
    """A regressor of tables with numbers, names, gaps and dates, as they are.

    A fit has two stages. The first sets a part of the rows aside and finds the epoch at which the averaged weights are
    best; the second trains a new network on all rows, with the same schedule, and stops there. Predictions stay within
    the least and the largest number of the training.

    Parameters
    ----------
    loss : str, Loss or pair, default="squared_error"
        A name of the losses table ("absolute_error", "huber", "poisson"), or a loss of your own.
    quantile : float or list of float, default=None
        Predict these quantiles in place of the mean; several are columns, which never cross.
    n_members : int, default=8
        Networks that share their weights, trained at once; a prediction is the mean of theirs.
    hidden_layer_sizes : int or array-like of int, default=(256, 256)
        Units of each hidden layer.
    dropout : float or list of float, default=0.2
        The share of hidden units left out of each step.
    embedding : {"piecewise"} or None, default="piecewise"
        How numbers enter: by their piecewise-linear code, or as they are.
    n_bins, embedding_width : int, default=64, 8
        Of that code: the most bins of a column, and the inputs that a number becomes.
    learning_rate_init, weight_decay : float, default=1e-2, 1e-2
        The peak of the learning rate, and the decoupled decay of the weights, of AdamW.
    batch_size : int, default=256
        Rows per step; an epoch leaves out the rows that fill no batch.
    max_iter : int or "auto", default="auto"
        Epochs of the schedule; "auto" is about 900 steps, 32 to 256 epochs.
    validation_fraction : float, default=0.2
        The share of the rows that chooses the epoch at which training ends, where `fit` is given no `X_val`.
    refit : bool, default=True
        Once that epoch is known, train anew on all rows and stop there. The first training then has 4 members
        at most, and 2 where 1,000 rows or more are set aside.
    average : float, default=2.0
        Epochs over which the exponential average of the weights reaches back; the average is the model. 0 keeps none.
    categorical_features : "from_dtype", or sequence of str, int or bool
        Columns that are categories although they hold numbers: see `TablePreparation`.
    preparation : TablePreparation, default=None
        How a table becomes numbers, in place of one with `categorical_features` and `n_bins`. Of one that is fitted,
        what it knows of the columns is kept, and only their scales are learned anew. A file of the estimator has what
        came of it, `preparation_`, and not this parameter.
    time_limit : float, default=None
        Seconds that `fit` may take: fewer epochs where that is short, and no second training where it is very short.
    random_state : int, RandomState instance or None, default=None
        Draws the validation part, weights, orders and masks: the same seed is the same model on one backend.
    verbose : bool, default=False
        Show a progress bar for each of the two trainings (needs tqdm).
    backend, device : str, default=None
        Where the network is trained ("torch", "cuda:0"); None is NumPy. Answers are NumPy arrays in any case.
    dtype : {"float32", "float64"}, default="float32"
        Of weights and arithmetic.
    callbacks : callable or list of callables, default=None
        Called as callback(estimator, epoch, logs) after each epoch of both trainings, with an estimator that can
        predict; `logs["stage"]` is 1 or 2. One that returns True stops `fit`.

    Attributes
    ----------
    preparation_ : TablePreparation
        What the columns are, and what becomes of them.
    network_ : MLP
    best_epoch_ : int
        The epoch at which the averaged weights were best on the rows held out, or foreseen to be: see `history_`.
    validation_loss_, validation_score_ : float
        Loss and score on them, at that epoch.
    history_, refit_history_ : dict of str to list of float
        A number per epoch of the first training and, where there was one (else None), of the second.
        "validation_loss" is that of the averaged weights, "validation_loss_unaveraged" of the weights themselves. Where
        the first training has two members for more to come, "validation_loss_foreseen" is what these would lose, and
        chooses the epoch: the loss of the mean of k members is a + b / k, exactly so of squared error.
    stopped_by_ : tuple of str
        What ended each training: "epochs", "patience", "time", "callback", "interrupt", "divergence".
    n_parameters_, n_iter_, n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X has column names.
    backend_, device_, dtype_ : str
        What was really used.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from xpmlp import TabularRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = TabularRegressor(quantile=[0.1, 0.9], n_members=2, max_iter=10, batch_size=32, random_state=0)
    >>> model.fit(X, y).predict(X).shape
    (442, 2)
    """

    def __init__(
        self,
        *,
        n_members: int = 8,
        hidden_layer_sizes: Any = (256, 256),
        dropout: Any = 0.2,
        embedding: str | None = "piecewise",
        n_bins: int = 64,
        embedding_width: int = 8,
        learning_rate_init: float = 1e-2,
        weight_decay: float = 1e-2,
        batch_size: int = 256,
        max_iter: int | str = "auto",
        validation_fraction: float = 0.2,
        refit: bool = True,
        average: float = 2.0,
        categorical_features: Any = "from_dtype",
        preparation: TablePreparation | None = None,
        time_limit: float | None = None,
        random_state: Any = None,
        verbose: bool | int = False,
        backend: str | None = None,
        device: str | None = None,
        dtype: str | None = "float32",
        callbacks: Any = None,
        loss: Any = "squared_error",
        quantile: Any = None,
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
        self.preparation = preparation
        self.time_limit = time_limit
        self.random_state = random_state
        self.verbose = verbose
        self.backend = backend
        self.device = device
        self.dtype = dtype
        self.callbacks = callbacks
        self.loss = loss
        self.quantile = quantile

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        resume: bool = False,
        overwrite: bool = False,
        group: Group | None = None,
    ) -> Self:
        """Learn from a table.

        Parameters
        ----------
        X : frame of pandas, polars or pyarrow, array, list of dicts, dict of columns, or `xpmlp.shards.Shards` of these
            Of shape (n, p).
            Of shards, which hold y and the weights, 100,000 rows from all over them say what the cells mean, and there
            is one training, judged by `validation_fraction` of each.
            Numbers as people write them, names, truths, dates, gaps: see `TablePreparation`. In `predict` columns are
            found by their names.
        y : array-like of shape (n,) or (n, n_outputs)
        sample_weight : array-like of shape (n,), or float, optional
            The loss is sum(w l) / sum(w), in training and in the choice of the epoch.
        X_val, y_val, sample_weight_val : table and array-like, optional
            Rows to choose the epoch by; beside shards X_val may be shards, too. There is one training then, on X.
        checkpoint : path, optional
            A folder. `last.safetensors` there is the whole state after an epoch, `best.safetensors` the estimator with
            the least loss on what is held out; the second training has a folder in it, `refit`. `xpmlp.load` reads all.
        checkpoint_every : int
            Epochs between two checkpoints; there is always one at the end.
        resume : bool
            Go on from there, in whichever training it was, as if it had never stopped: with the same data and
            parameters the outcome is the same, on NumPy bit for bit. See also `xpmlp.resume`.
        overwrite : bool
            Let a checkpoint go that another run, on other data or with other parameters, has left in the folder.
        group : Group, optional
            Several processes that train on shards together, of `xpmlp.distributed`: each calls `fit`, and each comes
            back with the same estimator.

        Raises
        ------
        ValueError, TypeError
            For parameters and data that cannot be, with the place of a cell; a fitted estimator then stays what it was.
        LostPeerError
            Where another process of the group is gone or has failed.
        """
        wanted = Wanted(checkpoint, checkpoint_every, resume, overwrite)
        return fit_table(  # type: ignore[no-any-return]
            self, X, y, sample_weight, (X_val, y_val, sample_weight_val), wanted, group
        )

    def predict(self, X: Any) -> HostArray:
        """The number of each row, shape (n,) or (n, n_outputs); of several quantiles a column for each."""
        yhat = self._outputs(X)
        return self._known_targets().decode(yhat, NUMPY, NUMPY)

    def predict_members(self, X: Any) -> HostArray:
        """What each member says, shape (n_members, n, n_outputs): how much they differ is how little is known."""
        yhat = self._outputs(X, of_each=True)
        return self._known_targets().unscaled(yhat)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R^2; of quantiles D^2, the share of the pinball loss explained, averaged over them."""
        predicted = self.predict(X)
        return self._known_targets().score(y, predicted, sample_weight)

    def _known_targets(self) -> NumbersOfTables:
        return NumbersOfTables(self.network_.network.loss, *self._scales)

    def _learn(self, y: Any, w: Any, inputs: Inputs) -> tuple[NumbersOfTables, Samples]:
        targets = numbers_of_tables(self.loss, self.quantile)
        return targets, targets.encode(y, w, inputs)

    @classmethod
    def _targets_read(
        cls,
        document: Mapping[str, Any],
        arrays: Mapping[str, HostArray],  # noqa: ARG003
        network: Network,
    ) -> NumbersOfTables:
        return numbers_read(document, network.loss, network.layout.sizes[-1])
