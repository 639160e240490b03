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
from xpmlp.distributed import Group, alone
from xpmlp.distributed.groups import agreed
from xpmlp.estimators import building, checkpointing, fitting, posing
from xpmlp.estimators.attributes import Attributes
from xpmlp.estimators.checkpointing import NO_CHECKPOINTS, Wanted
from xpmlp.estimators.classes import Classes, class_weights, labels_among, labels_of
from xpmlp.estimators.dealing import (
    JUDGED_ROWS,
    Counts,
    Deal,
    balanced_weights,
    classes_of,
    counted,
    demand_nothing_beside,
    demand_same_parameters,
    demand_shards,
    judged_by,
    shared_parameters,
)
from xpmlp.estimators.judging import Judge, demand_sums
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
    our_errors,
    working_place,
)
from xpmlp.network import Network
from xpmlp.shards import Shards
from xpmlp.shards.lanes import HeldOut
from xpmlp.training.pace import Pace


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
    judged_by: str
    parameters: dict[str, Any]  # that must be the same
    counts: Counts | None  # of the labels in the shards that it has looked at
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
        demand_nothing_beside("X", y, sample_weight)
        return fit_shards(estimator, X, None, None, validation=validation, asked=asked, group=group or alone())
    demand_shards(X, group)
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
        said = agreed(group, lambda: _facts(estimator, X, validation, asked, group, first))
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
    width, n_outputs = int(inputs.x.shape[1]), network.layout.sizes[-1]
    seed = int(rng.randint(2**31 - 1))
    deal = Deal(place, inputs.dtype, width, n_outputs, targets, inputs, seed, group)
    held_shards, held_arrays = _validation(estimator, targets, validation, inputs)
    held_out = held_out_of(settings, given=held_shards is not None or held_arrays is not None)
    held_shards = shards if held_out is not None else held_shards
    data = deal.data(shards, batch_size_of(settings, shards.rows, held_out), held_out, shuffle=settings.shuffle)
    together = deal.together(data, network.layout.size)
    judge = None
    if held_shards is not None:
        chosen, like = (None, None) if held_out is None else (held_out._replace(chosen=True), data)
        held_data = deal.data(held_shards, JUDGED_ROWS, chosen, shuffle=False, like=like)
        demand_sums(targets, settings)
        judge = Judge(network, held_data, targets, together)
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


def _facts(
    estimator: Any, shards: Shards, validation: tuple[Any, Any, Any], asked: Wanted, group: Group, first: list[_First]
) -> _Facts:
    check_parameters(estimator)
    settings = settings_of(estimator)
    anew = not (hasattr(estimator, "coefs_") and settings.warm_start)
    X, y = shards.sample()
    place = working_place(settings.backend, settings.device, X)
    reset = anew or not hasattr(estimator, "n_features_in_")
    inputs = check_inputs(estimator, X, place=place, dtype=settings.dtype, reset=reset)
    first.append(_First(settings, inputs._replace(x=inputs.x[:1]), y[:1], anew))
    counts = None
    balanced = getattr(estimator, "class_weight", None) == "balanced"
    if hasattr(estimator, "class_weight") and (shards.classes is None or balanced):
        counts = counted(shards, group, inputs, balanced=balanced)
    before, state = None, None
    if group.rank == 0:
        before = checkpointing.known(estimator, settings, asked, place, inputs.dtype)
        state = checkpointing.generator(settings, before).get_state()
    judged, parameters = judged_by(validation[0]), shared_parameters(estimator)
    return _Facts(int(inputs.x.shape[1]), inputs.dtype, shards.digest, judged, parameters, counts, state, before)


def _demand_same(said: list[_Facts]) -> None:
    demand_same_parameters([facts.parameters for facts in said])
    for rank, facts in enumerate(said):
        for name in ("width", "dtype", "digest", "judged_by"):
            mine, other = getattr(said[0], name), getattr(facts, name)
            if mine != other:
                what = {"width": "columns of X", "dtype": "dtype", "digest": "shards", "judged_by": "X_val"}[name]
                told = "" if name in ("digest", "judged_by") else f": {mine} in rank 0, {other} in rank {rank}"
                raise InvalidInputError(f"all processes need the same {what}{told}; rank {rank} has others.")


def _learned(
    estimator: Any, shards: Shards, inputs: Inputs, y: Any, said: list[_Facts], anew: bool
) -> tuple[Targets, Samples]:
    """What y means, and one sample that shows its shape."""
    if not hasattr(estimator, "class_weight"):
        targets = estimator._known_targets()
        return targets, targets.encode(y, None, inputs)
    y, counts = np.asarray(y), [facts.counts for facts in said]
    if not anew:
        labels: Classes = replace(estimator._known_targets(), weights=None)
    elif y.ndim == 2 and y.shape[1] > 1:
        labels = labels_of(np.vstack([y, 1 - y]))
    else:
        labels = labels_among(classes_of(shards, counts))
    sample = replace(labels, weights=None).encode(y, None, inputs)
    weights = None
    if estimator.class_weight == "balanced":
        weights = balanced_weights(labels, counts)
    elif estimator.class_weight is not None:
        weights = class_weights(estimator.class_weight, labels, y, None, incremental=False)
    return replace(labels, weights=weights, label_smoothing=float(estimator.label_smoothing)), sample


def _validation(
    estimator: Any, targets: Targets, validation: tuple[Any, Any, Any], inputs: Inputs
) -> tuple[Shards | None, Samples | None]:
    X, y, w = validation
    if isinstance(X, Shards):
        demand_nothing_beside("X_val", y, w)
        return X, None
    return None, fitting.check_validation(estimator, targets, validation, inputs)


def _random_state(settings: Settings, facts: _Facts, group: Group) -> np.random.RandomState:
    rng: np.random.RandomState = check_random_state(settings.random_state)
    if group.rank > 0 or not isinstance(settings.random_state, np.random.RandomState):
        rng = np.random.RandomState()
    rng.set_state(facts.random_state)
    return rng
