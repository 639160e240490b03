"""What each process of tests/test_processes.py runs: `train_in_group.py ENGINE 'CASE; CASE; ...' FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp import MLPClassifier, TabularClassifier, distributed, shards

RNG = np.random.default_rng(0)
N = 961  # ragged last batches
X = RNG.standard_normal((N, 12))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.7)
W = RNG.random(N)
SETTINGS: dict[str, Any] = {"hidden_layer_sizes": (24, 12), "batch_size": 48, "max_iter": 4, "random_state": 0}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"alpha": 1e-2},
    "early_stopping": {"early_stopping": True, "max_iter": 30, "n_iter_no_change": 2, "learning_rate_init": 0.01},
    "dropout": {"dropout": 0.3},
    "clipped": {"solver": "sgd", "clip_norm": 0.3, "alpha": 0.1, "learning_rate_init": 0.05},
    "weights": {},
    "balanced": {"class_weight": "balanced"},
    "averaged": {"average": 2.0, "learning_rate_factors": {"b": 0.5}},
    "lbfgs": {"solver": "lbfgs", "max_iter": 5, "batch_size": "auto"},
    "torch": {"backend": "torch"},
    "table": {"n_members": 2, "dtype": "float64"},
    "fixed": {},
}
ORDERED = ("fixed", "killed, in order")  # in float32, and the same bits for any number of processes
BROKEN = (
    "killed",
    "killed, in order",
    "hangs",
    "NaN",
    "odd parameter",
    "interrupt",
    "terminate",
    "callback raises",
    "callback stops",
    "late",
    "odd shards",
)


def model_and_data(case: str) -> tuple[Any, shards.Shards]:
    """The model and the shards of a case."""
    if case == "table":
        gaps = np.where(X > 1.5, np.nan, X)
        return TabularClassifier(**SETTINGS | CASES[case]), shards.from_arrays(gaps, Y, W, rows=61)
    settings = SETTINGS | CASES.get(case, {"max_iter": 40, "learning_rate_init": 1e-4, "tol": 0.0})
    if case in ORDERED:
        settings["dtype"] = "float32"
    return MLPClassifier(**settings), shards.from_arrays(X, Y, W if case == "weights" else None, rows=61)


def disturb(case: str, rank: int, model: Any, data: shards.Shards) -> None:
    """Break what the case breaks, in rank 1 alone."""

    def at_epoch_4(estimator: Any, epoch: int, logs: Any) -> bool:
        if epoch < 4 or rank != 1:
            return False
        if case.startswith("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif case == "hangs":
            time.sleep(10)
        elif case == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        elif case == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        elif case == "callback raises":
            raise ValueError("no more room for the log")
        return case == "callback stops"

    model.callbacks = at_epoch_4
    if case == "late" and rank == 0:
        model.max_time = 1e-6
    if case == "NaN" and rank == 1:
        read = data.read
        data.read = lambda i: (np.full_like(read(i)[0], np.nan), read(i)[1]) if i == 12 else read(i)
    if case == "odd parameter" and rank == 1:
        model.max_time = -1.0
    if case == "odd shards" and rank == 1:
        data.rows = (*data.rows[:-1], data.rows[-1] - 1)


def group_of(engine: str, case: str) -> distributed.Group:
    """The group that a case is trained by."""
    fixed = case in ORDERED
    if engine == "mpi":
        return distributed.mpi(fixed_order=fixed)
    if engine == "torch":
        return distributed.torch(fixed_order=fixed, timeout=3.0 if case == "hangs" else 30.0)
    return distributed.alone(fixed_order=fixed)


def run(engine: str, case: str, folder: Path) -> bool:
    """Train, and leave what came of it, or of the failure, in a file for each rank; whether it went well."""
    group = group_of(engine, case)
    model, data = model_and_data(case)
    if case in BROKEN:
        disturb(case, group.rank, model, data)
    folder.mkdir(exist_ok=True)
    out = folder / f"{group.rank}.npz"
    try:
        model.fit(data, group=group, checkpoint=folder / "run" if case in BROKEN else None)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the next case has its turn
        told = {"error": f"{type(error).__name__}: {error}", "left": str(getattr(error, "checkpoint", None))}
        np.savez(out, at=time.time(), **told)
        return False
    np.savez(out, n_iter=model.n_iter_, at=time.time(), **learned(model))
    return True


def learned(model: Any) -> dict[str, Any]:
    """The weights and curves of a model."""
    if isinstance(model, TabularClassifier):
        return model.history_ | {"coef": model.network_.parameters}
    coefs = {f"coef{k}": np.asarray(c) for k, c in enumerate(model.coefs_ + model.intercepts_)}
    scores = getattr(model, "validation_scores_", None) or []
    return coefs | {"loss": getattr(model, "loss_curve_", None) or [model.loss_], "scores": scores}


def main(engine: str, cases: str, folder: str) -> None:
    """Run the cases one after another, each in a folder of its own: what one leaves must not disturb the next."""
    warnings.simplefilter("ignore")
    went_well = [run(engine, case, Path(folder) / case) for case in cases.split("; ")]
    if not all(went_well):
        raise SystemExit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
