"""From shards to what one process has of them: batches, and the sum over all processes; their labels, counted once."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends import HostArray, Place
from xpmlp.distributed import Group
from xpmlp.estimators.classes import Classes
from xpmlp.estimators.targets import Targets
from xpmlp.estimators.validation import Inputs, InvalidInputError, check_targets
from xpmlp.runners.reduction import OrderedSum, Sum
from xpmlp.shards import Shards
from xpmlp.shards.lanes import HeldOut, LaneData

JUDGED_ROWS = 4096  # of a batch that is looked at, and not trained on
# Parameters that each process may have its own way: rank 0's hold for all, or they are of this process alone.
OWN = {"backend", "callbacks", "device", "max_time", "preparation", "random_state", "time_limit", "verbose"}
Counts = tuple[HostArray, HostArray]  # labels, and what each weighs


def demand_nothing_beside(name: str, y: Any, w: Any) -> None:
    """Refuse y and weights beside shards, which hold them; `name` is that of the argument that is shards."""
    if y is None and w is None:
        return
    if name == "X":
        raise InvalidInputError("shards hold X, y and their weights: fit(shards) takes no y and no sample_weight.")
    raise InvalidInputError(f"{name} holds y and weights itself: leave y_val and sample_weight_val out.")


def shared_parameters(estimator: Any) -> dict[str, Any]:
    """The parameters of an estimator that all processes need alike, those of names and numbers."""
    parameters = estimator.get_params(deep=False).items()
    return {name: value for name, value in parameters if name not in OWN and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def demand_same_parameters(said: Sequence[dict[str, Any]]) -> None:
    """Refuse parameters of processes, in their order, that differ: one would wait for a step that others do not do."""
    for rank, parameters in enumerate(said):
        for name, value in said[0].items():
            if (other := parameters.get(name, value)) != value:
                told = f"it is {value!r} in rank 0, {other!r} in rank {rank}"
                raise InvalidInputError(f"all processes need the same {name}; {told}.")


def judged_by(X_val: Any) -> str:
    """What a validation set is, in short: the same in processes that have the same shards there, or rows."""
    if X_val is None:
        return "none"
    return X_val.digest if isinstance(X_val, Shards) else "rows"


def demand_shards(X: Any, group: Group | None) -> None:
    """Refuse a group for what is no shards."""
    if group is not None:
        raise InvalidInputError(
            f"a group trains on shards, each process on its own; got X of type {type(X).__name__}. "
            "xpmlp.shards.from_arrays(X, y) makes shards of arrays."
        )


class Deal(NamedTuple):
    """How shards become the data of one process."""

    place: Place
    dtype: str
    width: int  # columns of X
    n_outputs: int
    targets: Targets
    inputs: Inputs  # beside which y is checked
    seed: int
    group: Group

    def data(
        self, shards: Shards, batch_size: int, held: HeldOut | None, *, shuffle: bool, like: LaneData | None = None
    ) -> LaneData:
        """The batches of shards."""
        weighted = shards.weighted or getattr(self.targets, "weights", None) is not None
        return LaneData(
            self.place,
            shards,
            partial(encoded, self.targets, self.inputs, weighted),
            self.dtype,
            batch_size,
            width=self.width,
            n_outputs=self.n_outputs,
            seed=self.seed,
            rank=self.group.rank,
            size=self.group.size,
            weighted=weighted,
            held=held,
            shuffle=shuffle,
            like=like,
        )

    def together(self, data: LaneData, n_parameters: int) -> Sum | None:
        """The sum of the gradients of all who train on these batches."""

        def parts() -> Any:
            return data.parts

        if self.group.fixed_order:
            return OrderedSum(self.group, self.place, (n_parameters,), self.dtype, parts, data.lane_blocks)
        return None if self.group.size == 1 else Sum(self.group, self.place, (n_parameters,), self.dtype, parts)


def encoded(targets: Any, inputs: Inputs, weighted: bool, y: Any, w: Any, n: int) -> tuple[HostArray, HostArray | None]:
    """Targets and weights of a shard for the network; a shard may weigh nothing."""
    bare = replace(targets, weights=None) if isinstance(targets, Classes) else targets
    samples = bare.encode(y, None, inputs._replace(x=np.empty((n, 0))))
    if not weighted:
        return samples.targets, None
    w = np.ones(n) if w is None else np.asarray(w, np.float64)
    if w.shape != (n,) or not np.all(np.isfinite(w)) or np.any(w < 0.0):
        raise ValueError(f"its weights must be {n} finite numbers of at least 0; got shape {w.shape}.")
    if isinstance(targets, Classes) and targets.weights is not None:
        weights = targets.weights
        w = w * np.asarray([weights[c] for c in targets.classes.tolist()])[targets.codes(samples.y)]
    return samples.targets, w


def counted(shards: Shards, group: Group, inputs: Inputs, *, balanced: bool) -> Counts:
    """The labels of this process's shards, and what they weigh."""
    found: dict[Any, float] = {}
    for i in shards.looked_at(group.rank, group.size):
        w = None
        if balanced and shards.weighted:
            _, y, w = shards.read(i)
        else:
            y = shards.y(i)
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] > 1:  # a column per label: there is nothing to count
            return np.arange(y.shape[1]), np.zeros(y.shape[1])
        y = check_targets(Classes.owner, y, inputs._replace(x=np.empty((len(y), 0))), numeric=False)
        labels, codes = np.unique(y, return_inverse=True)
        weights = np.bincount(codes.ravel(), weights=None if w is None else np.asarray(w, np.float64))
        for label, weight in zip(labels.tolist(), weights.tolist(), strict=True):
            found[label] = found.get(label, 0.0) + weight
    labels = np.array(sorted(found))
    return labels, np.array([found[label] for label in labels.tolist()])


def classes_of(shards: Shards, found: Sequence[Counts | None]) -> HostArray:
    """All labels there are: those that shards name, or those that the processes have found."""
    if shards.classes is not None:
        return np.unique(shards.classes)
    return np.unique(np.concatenate([one[0] for one in found if one is not None and len(one[0])]))


def balanced_weights(labels: Classes, found: Sequence[Counts | None]) -> dict[Any, float]:
    """What each class weighs where all are to weigh the same, by the counts of all processes."""
    if labels.kind == "multilabel":
        raise InvalidInputError("class_weight needs one class per sample; y has several labels. Use sample_weight.")
    total = dict.fromkeys(labels.classes.tolist(), 0.0)
    for one in found:
        if one is not None:
            for label, weight in zip(*(array.tolist() for array in one), strict=True):
                if label not in total:
                    raise InvalidInputError(f"y must hold the classes {list(total)}; it has {label!r}, too.")
                total[label] += weight
    share = sum(total.values()) / len(total)
    return {c: share / n if n else 0.0 for c, n in total.items()}
