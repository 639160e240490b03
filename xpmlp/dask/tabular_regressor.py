"""DaskTabularRegressor: TabularRegressor on a Dask cluster."""

from typing import Any

from xpmlp._typing import Array
from xpmlp.dask import answers
from xpmlp.dask.estimator import RegressorOnDask
from xpmlp.dask.families import OfTables
from xpmlp.dask.partitions import is_collection
from xpmlp.estimators.tabular import TabularRegressor
from xpmlp.tabular import TablePreparation


class DaskTabularRegressor(OfTables, RegressorOnDask, TabularRegressor):  # type: ignore[misc]  # fit knows no group
    """`TabularRegressor`, trained by all workers of a Dask cluster on what they have in memory.

    All parameters, attributes and methods are those of `TabularRegressor`; `predict` and its kin answer a Dask
    collection with a Dask array of which nothing has been computed yet. Callbacks are called in the workers, in each of
    them.

    Parameters
    ----------
    **parameters
        Those of `TabularRegressor`.
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
    xpmlp.TabularRegressor : what the other parameters mean.

    Notes
    -----
    There is one training, judged by `validation_fraction` of each shard or by `X_val`, whatever `refit` says. What the
    cells mean is learned from 100,000 rows out of all partitions, which come together in the workers.

    Partitions are cut into shards of some 4 MB, and dealt to lanes, in the order they have: what is learned depends on
    the order of the rows and the sizes of the partitions, never on which worker has them.
    """

    _local = TabularRegressor

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
        client: Any = None,
        lanes: int = 8,
        restarts: int = 2,
        timeout: float = 60.0,
        fixed_order: bool = False,
    ) -> None:
        super().__init__(
            n_members=n_members,
            hidden_layer_sizes=hidden_layer_sizes,
            dropout=dropout,
            embedding=embedding,
            n_bins=n_bins,
            embedding_width=embedding_width,
            learning_rate_init=learning_rate_init,
            weight_decay=weight_decay,
            batch_size=batch_size,
            max_iter=max_iter,
            validation_fraction=validation_fraction,
            refit=refit,
            average=average,
            categorical_features=categorical_features,
            preparation=preparation,
            time_limit=time_limit,
            random_state=random_state,
            verbose=verbose,
            backend=backend,
            device=device,
            dtype=dtype,
            callbacks=callbacks,
            loss=loss,
            quantile=quantile,
        )
        self.client = client
        self.lanes = lanes
        self.restarts = restarts
        self.timeout = timeout
        self.fixed_order = fixed_order

    def predict_members(self, X: Any) -> Array:
        """As without Dask; of a Dask collection a Dask array."""
        if not is_collection(X):
            return super().predict_members(X)
        shape = (self._n_members, None, self._n_outputs)
        return answers.lazily(X, self.to_local().predict_members, shape, self._number_dtype)
