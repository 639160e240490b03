"""An estimator's face of a fit of shards, in one process or in several: `fit(shards, group=group)`.

What a fit of arrays learns by looking at all of them (the classes, what they weigh, whether numbers are finite) is
learned shard by shard here, and nothing has the length of the data. Whatever is decided is decided by all processes.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.callback import with_callbacks
from sklearn.utils import check_random_state

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.distributed import Group, alone
from xpmlp.distributed.groups import agreed
from xpmlp.estimators import building, checkpointing, fitting, posing
from xpmlp.estimators.attributes import Attributes
from xpmlp.estimators.checkpointing import NO_CHECKPOINTS, Wanted
from xpmlp.estimators.classes import Classes, class_weights, labels_among, labels_of
from xpmlp.estimators.judging import Judge
from xpmlp.estimators.large import say_the_way
from xpmlp.estimators.monitor import Watcher
from xpmlp.estimators.parameters import check_parameters
from xpmlp.estimators.serialization import random_state_document
from xpmlp.estimators.settings import Settings, settings_of
from xpmlp.estimators.targets import Samples, Targets
from xpmlp.estimators.validation import (
    Inputs,
    InvalidInputError,
    check_inputs,
    check_targets,
    our_errors,
    working_place,
)
from xpmlp.network import Network
from xpmlp.runners.reduction import OrderedSum, Sum
from xpmlp.shards import Shards
from xpmlp.shards.lanes import HeldOut, LaneData
from xpmlp.training.pace import Pace

JUDGED_ROWS = 4096  # of a batch that is looked at, and not trained on


class Epochs:
    """The draws of a fit of shards: the epoch's number, from which batches follow; see `Draws`."""

    def __init__(self, rng: np.random.RandomState, done: int) -> None:
        self.rng, self.last, self.began = rng, np.arange(0), random_state_document(rng)
        self.count = done

    def order(self) -> int:
        """See `Draws`."""
        self.count += 1
        return self.count - 1

    def go_on(self, state: Any) -> None:
        """See `Draws`: there is nothing to draw but the number."""


class _Facts(NamedTuple):
    """What one process knows of the data before training."""

    width: int
    dtype: str
    digest: str
    classes: HostArray | None  # among the shards it has looked at
    counts: HostArray | None  # what each weighs
    random_state: Any
    before: Any  # the checkpoint to go on from


def fit_any(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    validation: tuple[Any, Any, Any],
    asked: Wanted,
    group: Group | None,
) -> Any:
    """What `fit` does: of arrays, or of shards, which alone can be trained on by several processes."""
    if isinstance(X, Shards):
        if y is not None or sample_weight is not None:
            raise InvalidInputError("shards hold X, y and their weights: fit(shards) takes no y and no sample_weight.")
        return fit_shards(estimator, X, None, None, validation=validation, asked=asked, group=group or alone())
    if group is not None:
        raise InvalidInputError(
            f"a group trains on shards, each process on its own; got X of type {type(X).__name__}. "
            "xpmlp.shards.from_arrays(X, y) makes shards of arrays."
        )
    say_the_way(X)
    return fitting.fit_estimator(estimator, X, y, sample_weight, validation=validation, asked=asked)


def is_stream(X: Any) -> bool:
    """Whether X is shards, or gives samples one after another."""
    return isinstance(X, Shards) or (hasattr(X, "__next__") and not hasattr(X, "shape"))


def pass_over(estimator: Any, parts: Any, **classes: Any) -> Any:
    """What `partial_fit` does with shards, or with anything that gives (X, y) or (X, y, sample_weight): one pass."""
    for i, part in enumerate(parts):
        if not isinstance(part, tuple | list) or len(part) not in (2, 3):
            raise InvalidInputError(
                f"an iterator must give partial_fit (X, y) or (X, y, sample_weight); item {i} is {type(part).__name__}."
            )
        known = classes if i == 0 and not hasattr(estimator, "coefs_") else {}
        fitting.fit_estimator(
            estimator, part[0], part[1], part[2] if len(part) == 3 else None, incremental=True, **known
        )
    return estimator


@fitting.all_or_nothing
@with_callbacks  # type: ignore[untyped-decorator]
def fit_shards(
    estimator: Attributes,
    X: Shards,
    y: None,  # noqa: ARG001  # scikit-learn's callbacks are told of X and y by name
    sample_weight: None,  # noqa: ARG001
    *,
    validation: tuple[Any, Any, Any] = (None, None, None),
    asked: Wanted = NO_CHECKPOINTS,
    group: Group,
) -> Any:
    """Train an estimator on shards; it comes back, the same in every process."""
    with our_errors():
        first: list[_First] = []
        said = agreed(group, lambda: _facts(estimator, X, asked, group, first))
        _demand_same(said)
    with fitting.training_on(first[0].inputs.place, first[0].settings.batch_size):
        with our_errors():
            found: list[tuple[Any, ...]] = []
            # Every process prepares for itself: one that fails must not be waited for.
            agreed(group, lambda: found.append(_prepared(estimator, X, validation, asked, group, first[0], said)))
        ((settings, targets, problem, begin, watcher), keep, saved) = found[0]
        return fitting.train_and_give(estimator, settings, targets, problem, begin, watcher, keep=keep, saved=saved)


class _First(NamedTuple):
    """What the first look has shown here."""

    settings: Settings
    inputs: Inputs  # one row
    y: Any  # its target
    anew: bool


def _prepared(
    estimator: Any,
    shards: Shards,
    validation: tuple[Any, Any, Any],
    asked: Wanted,
    group: Group,
    first: _First,
    said: list[_Facts],
) -> tuple[Any, ...]:
    """The problem, and all that belongs to it."""
    settings, inputs, y, anew = first
    facts, place = said[0], inputs.place
    targets, sample = _learned(estimator, shards, inputs, y, said, anew)
    network = fitting.build_network(settings, targets, sample)
    before = facts.before
    rng = _random_state(settings, facts, group)
    draws = Epochs(rng, 0 if before is None else before.saved.snapshot.epoch)
    anew = anew if before is None else before.anew
    p = _first_weights(estimator, settings, network, rng, inputs, before, anew)
    deal = _Deal(settings, targets, inputs, network.layout.sizes[-1], int(rng.randint(2**31 - 1)), group)
    held_shards, held_arrays = _validation(estimator, targets, validation, inputs)
    held_out = held_out_of(settings, given=held_shards is not None or held_arrays is not None)
    held_shards = shards if held_out is not None else held_shards
    data = deal.data(shards, batch_size_of(settings, shards.rows, held_out), held_out, shuffle=settings.shuffle)
    together = _together(group, place, network.layout.size, inputs.dtype, data)
    judge = None
    if held_shards is not None:
        chosen, like = (None, None) if held_out is None else (held_out._replace(chosen=True), data)
        held_data = deal.data(held_shards, JUDGED_ROWS, chosen, shuffle=False, like=like)
        judge = Judge(network, held_data, targets, settings, together)
    options: Any = {"judge": judge, "together": together, "checkpoints": asked.folder is not None}
    options["held_out"] = None if held_arrays is None else posing.looked_at(held_arrays, network)
    if settings.solver != "lbfgs":
        problem = posing.problem_of_data(settings, network, data, inputs.dtype, draws, rng, **options)
    else:
        problem = posing.lbfgs_of_data(settings, network, data, draws, **options)
    begin = fitting.beginning(estimator, settings, network, p, anew, False, bool(judge or held_arrays))
    show = partial(fitting.attributes, settings, targets)
    told = fitting.tell(estimator, settings, shards, None, None, False)
    quiet = settings._replace(verbose=settings.verbose and group.rank == 0)  # rank 0 prints
    watcher = Watcher(estimator, quiet, targets, show, held_arrays, *told, pace=Pace(data, together))
    done = 0 if anew else int(getattr(estimator, "t_", 0) if before is None else before.seen)
    keep = checkpointing.asked(estimator, asked, problem, show, shards.digest + facts.digest, anew, done)
    return (quiet, targets, problem, begin, watcher), keep, None if before is None else before.saved


class _Deal(NamedTuple):
    """How shards become the data of one process."""

    settings: Settings
    targets: Targets
    inputs: Inputs
    n_outputs: int
    seed: int
    group: Group

    def data(
        self, shards: Shards, batch_size: int, held: HeldOut | None, *, shuffle: bool, like: LaneData | None = None
    ) -> LaneData:
        """The batches of shards."""
        weighted = shards.weighted or getattr(self.targets, "weights", None) is not None
        return LaneData(
            self.inputs.place,
            shards,
            partial(encoded, self.targets, self.inputs, weighted),
            self.inputs.dtype,
            batch_size,
            width=int(self.inputs.x.shape[1]),
            n_outputs=self.n_outputs,
            seed=self.seed,
            rank=self.group.rank,
            size=self.group.size,
            weighted=weighted,
            held=held,
            shuffle=shuffle,
            like=like,
        )


def held_out_of(settings: Settings, *, given: bool) -> HeldOut | None:
    """What is held out of every shard: nothing where a validation set is given, or nobody asks for one."""
    if given or not settings.early_stopping or settings.solver == "lbfgs":
        return None
    return HeldOut(settings.validation_fraction, chosen=False)


def batch_size_of(settings: Settings, rows: Sequence[int], held: HeldOut | None) -> int:
    """The rows of a batch, of shards of so many."""
    n = sum(rows if held is None else map(held.kept, rows))
    return posing.batch_size_of(settings, n) if settings.solver != "lbfgs" else min(JUDGED_ROWS, n)


def _first_weights(
    estimator: Any, settings: Settings, network: Network, rng: Any, inputs: Inputs, before: Any, anew: bool
) -> Array:
    if anew:
        return inputs.place.asarray(building.first_weights(settings, network, rng, inputs.dtype))
    if before is None:
        known = building.known_weights(estimator.coefs_, estimator.intercepts_, network, inputs.place, inputs.dtype)
        return network.layout.pack(known)
    return before.saved.snapshot.state.p


def _together(group: Group, place: Place, size: int, dtype: str, data: LaneData) -> Sum | None:
    def parts() -> Any:
        return data.parts

    if group.fixed_order:
        return OrderedSum(group, place, (size,), dtype, parts, data.lane_blocks)
    return None if group.size == 1 else Sum(group, place, (size,), dtype, parts)


def _facts(estimator: Any, shards: Shards, asked: Wanted, group: Group, first: list[_First]) -> _Facts:
    check_parameters(estimator)
    settings = settings_of(estimator)
    anew = not (hasattr(estimator, "coefs_") and settings.warm_start)
    X, y = shards.sample()
    place = working_place(settings.backend, settings.device, X)
    reset = anew or not hasattr(estimator, "n_features_in_")
    inputs = check_inputs(estimator, X, place=place, dtype=settings.dtype, reset=reset)
    first.append(_First(settings, inputs._replace(x=inputs.x[:1]), y[:1], anew))
    known, counts = None, None
    balanced = getattr(estimator, "class_weight", None) == "balanced"
    if hasattr(estimator, "class_weight") and (shards.classes is None or balanced):
        known, counts = _counted(shards, group, inputs, balanced=balanced)
    before, state = None, None
    if group.rank == 0:
        before = checkpointing.known(estimator, settings, asked, place, inputs.dtype)
        state = checkpointing.generator(settings, before).get_state()
    return _Facts(int(inputs.x.shape[1]), inputs.dtype, shards.digest, known, counts, state, before)


def _counted(shards: Shards, group: Group, inputs: Inputs, *, balanced: bool) -> tuple[HostArray, HostArray]:
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


def _demand_same(said: list[_Facts]) -> None:
    for rank, facts in enumerate(said):
        for name in ("width", "dtype", "digest"):
            mine, other = getattr(said[0], name), getattr(facts, name)
            if mine != other:
                what = {"width": "columns of X", "dtype": "dtype", "digest": "shards"}[name]
                told = "" if name == "digest" else f": {mine} in rank 0, {other} in rank {rank}"
                raise InvalidInputError(f"all processes need the same {what}{told}; rank {rank} has others.")


def _learned(
    estimator: Any, shards: Shards, inputs: Inputs, y: Any, said: list[_Facts], anew: bool
) -> tuple[Targets, Samples]:
    """What y means, and one sample that shows its shape."""
    if not hasattr(estimator, "class_weight"):
        targets = estimator._known_targets()
        return targets, targets.encode(y, None, inputs)
    y = np.asarray(y)
    if not anew:
        labels: Classes = replace(estimator._known_targets(), weights=None)
    elif y.ndim == 2 and y.shape[1] > 1:
        labels = labels_of(np.vstack([y, 1 - y]))
    else:
        found = [facts.classes for facts in said if facts.classes is not None and len(facts.classes)]
        given = shards.classes if shards.classes is not None else np.concatenate(found)
        labels = labels_among(np.unique(given))
    sample = replace(labels, weights=None).encode(y, None, inputs)
    weights = None
    if estimator.class_weight == "balanced":
        weights = _balanced(labels, said)
    elif estimator.class_weight is not None:
        weights = class_weights(estimator.class_weight, labels, y, None, incremental=False)
    return replace(labels, weights=weights, label_smoothing=float(estimator.label_smoothing)), sample


def _balanced(labels: Classes, said: list[_Facts]) -> dict[Any, float]:
    if labels.kind == "multilabel":
        raise InvalidInputError("class_weight needs one class per sample; y has several labels. Use sample_weight.")
    total = dict.fromkeys(labels.classes.tolist(), 0.0)
    for facts in said:
        if facts.classes is not None and facts.counts is not None:
            for label, weight in zip(facts.classes.tolist(), facts.counts.tolist(), strict=True):
                total[label] += weight
    share = sum(total.values()) / len(total)
    return {c: share / n if n else 0.0 for c, n in total.items()}


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


def _validation(
    estimator: Any, targets: Targets, validation: tuple[Any, Any, Any], inputs: Inputs
) -> tuple[Shards | None, Samples | None]:
    X, y, w = validation
    if isinstance(X, Shards):
        if y is not None or w is not None:
            raise InvalidInputError("X_val holds y and weights itself: leave y_val and sample_weight_val out.")
        return X, None
    return None, fitting.check_validation(estimator, targets, validation, inputs)


def _random_state(settings: Settings, facts: _Facts, group: Group) -> np.random.RandomState:
    rng: np.random.RandomState = check_random_state(settings.random_state)
    if group.rank > 0 or not isinstance(settings.random_state, np.random.RandomState):
        rng = np.random.RandomState()
    rng.set_state(facts.random_state)
    return rng
