"""What each parameter of an estimator of tables must be; those that all share are in `estimators.parameters`."""

import numbers
from typing import Any, NamedTuple

from xpmlp.estimators.parameters import (
    BOOLEAN,
    CONSTRAINTS,
    NONE,
    QUANTILE,
    Constraint,
    among,
    between,
    check_parameters,
    list_of,
    of_type,
)
from xpmlp.tabular import TablePreparation

POSITIVE = between(numbers.Real, 0, closed="neither")

CONSTRAINTS_OF_TABLES: dict[str, tuple[Constraint, ...]] = CONSTRAINTS | {
    "n_members": (between(numbers.Integral, 1),),
    "embedding": (among({"piecewise"}), NONE),
    "n_bins": (between(numbers.Integral, 2),),
    "embedding_width": (between(numbers.Integral, 1),),
    "weight_decay": (between(numbers.Real, 0),),
    "batch_size": (between(numbers.Integral, 1),),
    "max_iter": (among({"auto"}), between(numbers.Integral, 1)),
    "validation_fraction": (between(numbers.Real, 0, 1, closed="neither"),),
    "refit": BOOLEAN,
    "categorical_features": (
        among({"from_dtype"}),
        Constraint("an array-like", lambda value: not isinstance(value, str) and hasattr(value, "__len__")),
        NONE,
    ),
    "preparation": (of_type(TablePreparation), NONE),
    "time_limit": (POSITIVE, NONE),
    "quantile": (QUANTILE, list_of((QUANTILE,), "a list of such floats"), NONE),
    "verbose": (between(numbers.Integral, 0), *BOOLEAN),
}


class TableSettings(NamedTuple):
    """The parameters that both estimators of tables have, as they were when a fit began."""

    n_members: int
    hidden_layer_sizes: Any
    dropout: Any
    embedding: str | None
    n_bins: int
    embedding_width: int
    learning_rate_init: float
    weight_decay: float
    batch_size: int
    max_iter: int | str
    validation_fraction: float
    refit: bool
    average: float
    categorical_features: Any
    preparation: TablePreparation | None
    time_limit: float | None
    random_state: Any
    verbose: bool | int
    backend: str | None
    device: str | None
    dtype: str | None
    callbacks: Any
    owner: str  # the name of the estimator's class, for messages


def settings_of_table(estimator: Any) -> TableSettings:
    """What the parameters of an estimator say now; `InvalidParameterError` for one that cannot be."""
    check_parameters(estimator, CONSTRAINTS_OF_TABLES)
    values = [getattr(estimator, name) for name in TableSettings._fields[:-1]]
    return TableSettings._make([*values, type(estimator).__name__])
