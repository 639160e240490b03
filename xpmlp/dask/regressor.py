"""DaskMLPRegressor: MLPRegressor on a Dask cluster."""

from typing import Any

from xpmlp.dask.estimator import RegressorOnDask
from xpmlp.dask.families import OfArrays
from xpmlp.estimators import MLPRegressor


class DaskMLPRegressor(OfArrays, RegressorOnDask, MLPRegressor):  # type: ignore[misc]  # fit knows no group
    """`MLPRegressor`, trained by all workers of a Dask cluster on what they have in memory.

    All parameters, attributes and methods are those of `MLPRegressor`; `predict` and its kin answer a Dask collection
    with a Dask array of which nothing has been computed yet. Callbacks are called in the workers, in each of them.

    Parameters
    ----------
    **parameters
        Those of `MLPRegressor`.
    client : distributed.Client, default=None
        Of the cluster to work on; by default the one there is.
    lanes : int, default=8
        How many rows apart a batch is taken from, at least as many as there are workers; see `xpmlp.shards.Shards`. Who
        has fewer workers, or more, trains on the same batches.
    restarts : int, default=2
        How many times a fit goes on from its last state with the workers that are left, where one is lost.
    timeout : float, default=60
        Seconds after which a worker that does not answer counts as lost.
    fixed_order : bool, default=False
        Sum gradients in one order: the same bits for any number of workers.

    See Also
    --------
    xpmlp.MLPRegressor : what the other parameters mean.

    Notes
    -----
    Partitions are cut into shards of some 4 MB, and dealt to lanes, in the order they have: what is learned depends on
    the order of the rows and the sizes of the partitions, never on which worker has them.
    """

    _local = MLPRegressor

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
        client: Any = None,
        lanes: int = 8,
        restarts: int = 2,
        timeout: float = 60.0,
        fixed_order: bool = False,
    ) -> None:
        super().__init__(
            loss,
            hidden_layer_sizes,
            activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
            backend=backend,
            device=device,
            dtype=dtype,
            initializer=initializer,
            dropout=dropout,
            clip_norm=clip_norm,
            scoring=scoring,
            max_time=max_time,
            callbacks=callbacks,
            quantile=quantile,
            average=average,
            learning_rate_factors=learning_rate_factors,
        )
        self.client = client
        self.lanes = lanes
        self.restarts = restarts
        self.timeout = timeout
        self.fixed_order = fixed_order
