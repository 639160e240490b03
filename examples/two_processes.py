"""Train on a Dask cluster of two processes that this script starts, and show that they learn what one process learns.

    python examples/two_processes.py
    python examples/two_processes.py --scheduler machine:8786

Needs `pip install -e ".[dask]"`. With --scheduler the cluster is one that runs already, on as many machines as it has.
"""

import argparse
import time
import warnings
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from sklearn.exceptions import ConvergenceWarning

from xpmlp import MLPClassifier, shards
from xpmlp.dask import DaskMLPClassifier

PARTITIONS = 20


def main(arguments: Sequence[str] | None = None) -> float:
    """Train both, and print what came of it; the largest difference between their weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scheduler", help="the address of a cluster that runs; by default two processes are started")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", ConvergenceWarning)  # five epochs are no training, and show what is to be shown

    settings: dict[str, Any] = {"hidden_layer_sizes": (64,), "batch_size": 2048, "learning_rate_init": 0.01}
    settings |= {"max_iter": options.epochs, "tol": 0.0, "random_state": 0}
    cluster = options.scheduler or LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client:
        X = da.random.default_rng(0).standard_normal((options.rows, 20), chunks=(options.rows // PARTITIONS, 20))
        y = (X[:, :4] ** 2).sum(axis=1) > 3.4  # drawn and computed by the workers
        model = DaskMLPClassifier(**settings, client=client)
        began = time.perf_counter()
        model.fit(X, y)
        print(f"{len(client.nthreads())} workers: {time.perf_counter() - began:.1f} s, {model.score(X, y):.3f} right")
        print("predict_proba gives", model.predict_proba(X))
        here = X.compute(), y.compute()
    if not options.scheduler:
        cluster.close()

    began = time.perf_counter()
    one = MLPClassifier(**settings).fit(shards.from_arrays(*here, rows=options.rows // PARTITIONS))
    print(f"1 process: {time.perf_counter() - began:.1f} s")
    apart = max(float(np.max(np.abs(a - b))) for a, b in zip(model.coefs_, one.coefs_, strict=True))
    print(f"the weights differ by {apart:.1e} at most, after {one.n_iter_} epochs")
    return apart


if __name__ == "__main__":
    main()
