"""The parameters of an estimator as they were when its fit began.

A fit reads them once, here. What a callback sets while it runs is for the next one.
"""

from typing import Any, NamedTuple


class Settings(NamedTuple):
    """The parameters that both estimators have, where they are explained."""

    hidden_layer_sizes: Any
    activation: Any
    solver: Any
    alpha: float
    batch_size: Any
    learning_rate: Any
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    random_state: Any
    tol: float
    verbose: bool | int
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    backend: str | None
    device: str | None
    dtype: str | None
    initializer: Any
    dropout: Any
    clip_norm: float | None
    scoring: Any
    max_time: float | None
    callbacks: Any
    average: float
    learning_rate_factors: Any
    owner: str  # the name of the estimator's class, for messages


def settings_of(estimator: Any) -> Settings:
    """What the parameters of an estimator say now."""
    values = [getattr(estimator, name) for name in Settings._fields[:-1]]
    return Settings._make([*values, type(estimator).__name__])
