"""One seed, many streams: every network, and every purpose within it, draws from a generator of its own."""

from typing import Any

import numpy as np

from xpmlp import checks

INITIAL_WEIGHTS, ORDERS, DROPOUT = range(3)  # the purposes


def seed_sequence(random_state: Any) -> np.random.SeedSequence:
    """The seed for a whole number, for None (a fresh one), or the seed itself."""
    if isinstance(random_state, np.random.SeedSequence):
        return random_state
    if random_state is None:
        return np.random.SeedSequence()
    return np.random.SeedSequence(checks.integer(random_state, "random_state", least=0))


def child(seed: np.random.SeedSequence, key: int) -> np.random.SeedSequence:
    """The child `key` of a seed, the same whenever it is asked for: spawn() counts, so its second call gives others."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, key))


def generator(seed: np.random.SeedSequence, stream: int) -> np.random.Generator:
    """The generator of one purpose."""
    return np.random.Generator(np.random.Philox(child(seed, stream)))
