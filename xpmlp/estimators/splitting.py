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
    if strata is not None:
        strata = np.asarray(strata, dtype=np.int32)
        shared = np.bincount(strata)[strata] > 1
        n_shared, n_held = int(np.count_nonzero(shared)), int(np.ceil(fraction * n))
        n_strata = len(np.unique(strata[shared]))
        if n_strata <= min(n_held, n_shared - n_held):
            if n_shared == n:
                return _keeping_shares(strata, n_held, rng)
            rows = np.flatnonzero(shared)
            train, held = _keeping_shares(strata[shared], n_held, rng)
            return np.concatenate([rows[train], np.flatnonzero(~shared)]), rows[held]
    train, held = train_test_split(np.arange(n), random_state=rng, test_size=fraction)
    return train, held


def _keeping_shares(strata: HostArray, n_held: int, rng: np.random.RandomState) -> tuple[HostArray, HostArray]:
    """What scikit-learn's StratifiedShuffleSplit draws: it makes lists of numbers, five times as large as these."""
    counts = np.bincount(strata)
    counts = counts[counts > 0]
    of_train = _shares(counts, len(strata) - n_held, rng)
    of_held = _shares(counts - of_train, n_held, rng)
    by_stratum = np.argsort(strata, kind="stable").astype(np.int32)
    parts: list[list[HostArray]] = [[], []]
    for start, count, n_train, n in zip(np.cumsum(counts) - counts, counts, of_train, of_held, strict=True):
        drawn = np.arange(count, dtype=np.int32)
        rng.shuffle(drawn)
        drawn = by_stratum[start : start + count][drawn]
        parts[0].append(drawn[:n_train])
        parts[1].append(drawn[n_train : n_train + n])
    train, held = (np.concatenate(part) for part in parts)
    rng.shuffle(train)
    rng.shuffle(held)
    return train, held


def _shares(counts: HostArray, n: int, rng: np.random.RandomState) -> HostArray:
    """How many of each stratum n samples hold; those left over go to the largest remainders, ties are drawn."""
    exact = counts / counts.sum() * n
    whole = np.floor(exact)
    left, remainders = int(n - whole.sum()), exact - whole
    for remainder in np.unique(remainders)[::-1]:
        if left <= 0:
            break
        (tied,) = np.nonzero(remainders == remainder)
        chosen = rng.choice(tied, size=min(len(tied), left), replace=False)
        whole[chosen] += 1
        left -= len(chosen)
    rounded: HostArray = whole.astype(int)
    return rounded
