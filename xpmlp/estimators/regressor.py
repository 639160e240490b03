"""MLPRegressor: scikit-learn's, swapped in by changing one import, and what scikit-learn has declined to add."""

import os
from typing import Any, Self

from sklearn.base import RegressorMixin
from sklearn.utils.metaestimators import available_if

from xpmlp._typing import Array
from xpmlp.distributed import Group
from xpmlp.estimators import prediction
from xpmlp.estimators.checkpointing import Wanted
from xpmlp.estimators.estimator import Estimator
from xpmlp.estimators.fitting import fit_estimator
from xpmlp.estimators.parameters import is_stochastic
from xpmlp.estimators.sharded import fit_any, is_stream, pass_over
from xpmlp.estimators.targets import Numbers, Samples, numbers_of
from xpmlp.estimators.validation import Inputs


class MLPRegressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """Multilayer perceptron for regression, with one output or several.

    Constructor, methods, fitted attributes and, for the same seed, the training itself are those of
    `sklearn.neural_network.MLPRegressor`.

    For several outputs the squared error is half the sum over the outputs of (yhat - y)^2, the loss whose gradient both
    libraries descend; scikit-learn reports its mean over the outputs, so its `loss_` is smaller by their number.

    Parameters
    ----------
    loss : str, Loss or pair, default="squared_error"
        "squared_error"; "poisson" (outputs exp(z), y >= 0); "absolute_error" and "huber" for outliers; "pinball" for
        quantiles; "sum_of_squares"; `xpmlp.loss(name, ...)` with parameters, as xpmlp.loss("huber", delta=2.0); or a
        pair `value(y, yhat)`, one number per sample, and `derivative(y, yhat)`.
    hidden_layer_sizes : int or array-like of int, default=(100,)
        Units of each hidden layer; () is no hidden layer.
    activation : str, list, pair or Activation, default="relu"
        Of the hidden layers: "identity", "logistic", "tanh", "relu", or any other name of the activations table; a list
        has one for each hidden layer; a pair is a function f(z) of your own and its derivative f'(z, a).
    solver : str or Optimizer, default="adam"
        "lbfgs" for small data (full batch, few iterations); "sgd", "adam", or any optimizer of xpmlp by name or as
        `xpmlp.optimizer(name, ...)` with its own parameters.
    alpha : float, default=0.0001
        Strength of the L2 penalty: alpha / 2 * sum(W^2) / sum of the batch's weights joins the loss.
    batch_size : int or "auto", default="auto"
        Samples per step; "auto" is min(200, n).
    learning_rate : str, Schedule or function, default="constant"
        "constant"; "invscaling" and "adaptive" as in scikit-learn (which the solver "adam" ignores, as there); or any
        schedule of xpmlp, by name, as `xpmlp.schedule(name, ...)`, or a function from `Progress` to a factor.
    learning_rate_init : float, default=0.001
        The learning rate, whatever the solver.
    power_t : float, default=0.5
        The exponent of "invscaling".
    max_iter : int, default=200
        Epochs; iterations of lbfgs.
    shuffle : bool, default=True
        Draw a new order of the samples for each epoch.
    random_state : int, RandomState instance or None, default=None
        Draws weights, orders and the validation split as scikit-learn draws them: the same seed is the same training.
    tol : float, default=1e-4
        An epoch that improves by less does not count as one; the flatness of the gradient at which lbfgs has converged.
    verbose : bool, default=False
        Print a line per epoch.
    warm_start : bool, default=False
        `fit` goes on from the weights that are there.
    momentum : float, default=0.9
        Of "sgd".
    nesterovs_momentum : bool, default=True
        The form of momentum.
    early_stopping : bool, default=False
        Stop when the score on a validation set no longer improves, and end with the weights of the best epoch. The set
        is `X_val` where `fit` is given one, otherwise a part of X.
    validation_fraction : float, default=0.1
        That part.
    beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        Of "adam" and "adamw".
    n_iter_no_change : int, default=10
        Epochs without improvement to bear with.
    max_fun : int, default=15000
        Calls of the loss that lbfgs may make.
    backend : str, default=None
        None: everything follows X, and so do the answers; NumPy in, NumPy out. A name ("cupy", "torch", "jax"): the
        work is done there, because that is where the GPU is, and the answers come back to where the caller is.
    device : str, default=None
        Of that backend, as "cuda:1"; its own default otherwise.
    dtype : {"float32", "float64"}, default=None
        Of weights and arithmetic; that of X by default (GPUs are many times faster in float32).
    initializer : str or Initializer, default=None
        The law of the first weights, with biases 0; by default scikit-learn's, which does not know He's for ReLU.
    dropout : float or list of float, default=0.0
        The share of hidden units left out of each step, against overfitting; one for all, or one per hidden layer.
    clip_norm : float, default=None
        Scale the gradient down to this norm wherever it is larger, against jumps; a good first value is 1.
    scoring : str or callable, default=None
        What early stopping watches: any scorer of scikit-learn's, or "loss"; by default `score`.
    max_time : float, default=None
        Seconds after which no new epoch begins.
    callbacks : callable or list of callables, default=None
        Called as callback(estimator, epoch, logs) after each epoch, with an estimator that can predict; one that
        returns True stops training. scikit-learn's own callbacks are set with `set_callbacks`.
    quantile : float or list of float, default=0.5
        Of the loss "pinball". Several quantiles share one network, need a y of one column, and are predicted as columns
        of their own, shape (n, q), which never cross.
    average : float, default=0.0
        Epochs over which an exponential average of the weights reaches back; the average is then what is judged, shown
        and kept. 0 keeps none; neither do "lbfgs" and `partial_fit`.
    learning_rate_factors : list of float or dict, default=None
        The rate of each layer is the learning rate times its factor, 0 freezes it; or by name: {"W": 1, "b": 2}.

    Attributes
    ----------
    coefs_, intercepts_ : list of array
        Weights (n_in, n_out) and biases (n_out,) of each layer. They are the truth: what is assigned to them is what
        `predict`, `partial_fit` and a warm start use.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Defined where X has column names that are all strings.
    n_iter_ : int
        Epochs (or iterations of lbfgs) of the last fit.
    n_layers_, n_outputs_ : int
        All layers, input and output counted; outputs.
    out_activation_ : str
        Of the output layer.
    t_ : int
        Samples seen; 0 for lbfgs.
    loss_ : float
        Of the last epoch, the penalty included. See above for its scale.
    loss_curve_ : list of float
        One per epoch; not for lbfgs. With sample weights each batch counts by its weight.
    best_loss_ : float or None
        The lowest of them; None with early stopping.
    validation_scores_, best_validation_score_ : list of float, float; or None
        `score` (or what `scoring` says) on the validation set, per epoch; None without early stopping or X_val.
    validation_loss_curve_ : list of float or None
        The loss on the validation set, without the penalty, per epoch.
    backend_, device_, dtype_ : str
        What was really used.

    Examples
    --------
    >>> import numpy as np
    >>> from xpmlp import MLPRegressor
    >>> X = np.linspace(-2.0, 2.0, 200).reshape(-1, 1)
    >>> reg = MLPRegressor(hidden_layer_sizes=(20,), activation="tanh", solver="lbfgs", random_state=0)
    >>> reg.fit(X, np.sin(X[:, 0])).score(X, np.sin(X[:, 0])) > 0.99
    True

    An interval that holds four fifths of what may come:

    >>> y = np.sin(X[:, 0]) + np.random.default_rng(0).normal(0.0, 0.1, 200)
    >>> reg = MLPRegressor("pinball", (20,), quantile=[0.1, 0.9], learning_rate_init=0.01,
    ...                    max_iter=2000, n_iter_no_change=50, random_state=0)
    >>> low, high = reg.fit(X, y).predict(X).T
    >>> 0.7 < np.mean((low <= y) & (y <= high)) < 0.9
    np.True_
    """

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        backend: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        initializer: Any = None,
        dropout: Any = 0.0,
        clip_norm: float | None = None,
        scoring: Any = None,
        max_time: float | None = None,
        callbacks: Any = None,
        quantile: Any = 0.5,
        average: float = 0.0,
        learning_rate_factors: Any = None,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.backend = backend
        self.device = device
        self.dtype = dtype
        self.initializer = initializer
        self.dropout = dropout
        self.clip_norm = clip_norm
        self.scoring = scoring
        self.max_time = max_time
        self.callbacks = callbacks
        self.quantile = quantile
        self.average = average
        self.learning_rate_factors = learning_rate_factors

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = self.backend is None
        return tags

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
        """Train.

        Parameters
        ----------
        X : array-like or sparse matrix (CSR, CSC) of shape (n, n_features), or `xpmlp.shards.Shards`
            Of any backend, or pandas, or polars. A sparse matrix becomes dense batch by batch. Shards are data larger
            than memory, and hold y and the weights themselves.
        y : array-like of shape (n,) or (n, n_outputs)
            Targets.
        sample_weight : array-like of shape (n,), or float, optional
            The loss is sum(w l) / sum(w): a weight of 2 is the sample given twice.
        X_val, y_val, sample_weight_val : array-like, optional
            A validation set. With `early_stopping` it is watched in place of a part of X; its loss and score are
            recorded in any case.
        checkpoint : path, optional
            A folder. `last.safetensors` there is the whole state after an epoch, `best.safetensors` the estimator with
            the best monitored value so far; `xpmlp.load` reads both.
        checkpoint_every : int
            Epochs between two checkpoints; there is always one at the end.
        resume : bool
            Go on from `last`, if it is there, as if training had never stopped: with the same data and parameters the
            outcome is the same, on NumPy bit for bit. `max_iter` may be another. See also `xpmlp.resume`.
        overwrite : bool
            Let a checkpoint go that another run, on other data or with other parameters, has left in the folder.
        group : Group, optional
            Several processes that train on shards together, of `xpmlp.distributed`: each calls `fit`, and each comes
            back with the same estimator.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            For parameters and data that cannot be, and (`DivergenceError`) where training meets numbers that are not
            finite; a fitted estimator then stays what it was.
        LostPeerError
            Where another process of the group is gone or has failed.
        """
        asked = Wanted(checkpoint, checkpoint_every, resume, overwrite)
        validation = (X_val, y_val, sample_weight_val)
        return fit_any(  # type: ignore[no-any-return]
            self, X, y, sample_weight, validation=validation, asked=asked, group=group
        )

    @available_if(is_stochastic)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch more on this batch of data; X, y and sample_weight as in `fit`.

        Without y, X is an iterator over (X, y) or (X, y, sample_weight), or shards: each is trained on once.
        """
        if y is None and is_stream(X):
            return pass_over(self, X)  # type: ignore[no-any-return]
        return fit_estimator(self, X, y, sample_weight, incremental=True)  # type: ignore[no-any-return]

    def predict(self, X: Any) -> Array:
        """Predictions of shape (n,), or (n, n_outputs), or one column per quantile, in the order of `quantile`."""
        return prediction.predict(self, X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R^2; for the loss "pinball" D^2, the share of the pinball loss explained, averaged over the quantiles."""
        return prediction.score(self, X, y, sample_weight)

    def _known_targets(self) -> Numbers:
        network = vars(self).get("_network")
        # The loss it was fitted with, where it was.
        return numbers_of(self.loss, self.quantile) if network is None else Numbers(network.loss)

    def _learn(
        self,
        y: Any,
        w: Any,
        inputs: Inputs,
        *,
        anew: bool,  # noqa: ARG002
        incremental: bool,  # noqa: ARG002
        classes: Any = None,  # noqa: ARG002
    ) -> tuple[Numbers, Samples]:
        targets = numbers_of(self.loss, self.quantile)
        return targets, targets.encode(y, w, inputs)
