"""The part of the samples that early stopping watches, and the part that is left to train on."""

import numpy as np
from sklearn.model_selection import train_test_split

from xpmlp.backends import HostArray
from xpmlp.estimators.settings import Settings
from xpmlp.estimators.targets import Samples, Targets
from xpmlp.estimators.validation import InvalidInputError


def hold_out(
    settings: Settings, targets: Targets, samples: Samples, rng: np.random.RandomState
) -> tuple[Samples, Samples]:
    """The samples to train on, and those held out.

    Raises
    ------
    ValueError
        If fewer than two are held out, or all of a part weigh nothing.
    """
    train_rows, held_rows = rows_of(targets.strata(samples), samples.inputs.n, settings.validation_fraction, rng)
    if len(held_rows) < 2:
        raise InvalidInputError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
        )
    trained, held = samples.take(train_rows), samples.take(held_rows)
    for part, which in ((held, "holds out"), (trained, "leaves to train on")):
        if part.w is not None and not np.any(part.w):
            raise InvalidInputError(
                f"all that validation_fraction={settings.validation_fraction:g} {which} has weight 0; pass X_val, "
                "y_val, or other weights."
            )
    return trained, held


def rows_of(
    strata: HostArray | None, n: int, fraction: float, rng: np.random.RandomState
) -> tuple[HostArray, HostArray]:
    """The rows of n to train on and those to hold out, drawn as scikit-learn draws them; strata keep their shares.

    The only sample of a stratum is trained on. Where there are more strata than samples to hold out or to train on,
    shares cannot be kept, and the draw does not look at them: scikit-learn never does for more than two classes.
    """
    rows = np.arange(n)
    if strata is not None:
        shared = np.bincount(strata)[strata] > 1
        among, n_held = strata[shared], int(np.ceil(fraction * n))
        if len(np.unique(among)) <= min(n_held, len(among) - n_held):
            size = fraction if shared.all() else n_held
            train, held = train_test_split(rows[shared], random_state=rng, test_size=size, stratify=among)
            return np.concatenate([train, rows[~shared]]), held
    train, held = train_test_split(rows, random_state=rng, test_size=fraction)
    return train, held
