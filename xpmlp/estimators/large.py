"""What a plain fit says of data that are not there at once, or too large for it: which way leads on."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp.backends import warn
from xpmlp.estimators.front_door import odd_inputs
from xpmlp.estimators.validation import InvalidInputError

PIECES = "xpmlp.shards.from_sequence takes anything with a length that gives (X, y) for a number"
LIMITS = Path("/sys/fs/cgroup/memory.max")  # of a container


def say_the_way(X: Any) -> None:
    """Refuse what cannot be fitted as a whole, and warn of what had better not be.

    Raises
    ------
    InvalidInputError
        For generators, loaders, lazy frames and data sets, each with its way.
    """
    kind = type(X).__name__
    if hasattr(X, "__next__") and not hasattr(X, "shape"):
        raise InvalidInputError(f"{odd_inputs(X)} For one pass over (X, y), call partial_fit(stream); {PIECES}.")
    if hasattr(X, "sink_parquet") and hasattr(X, "collect"):
        raise InvalidInputError(
            f"{odd_inputs(X)} If it is larger than memory, X.sink_parquet(path) and xpmlp.shards.from_parquet(path)."
        )
    if hasattr(X, "get_fragments") and hasattr(X, "to_batches"):
        raise InvalidInputError(f"X is a {kind} of files: train on them with xpmlp.shards.from_parquet(X.files).")
    if hasattr(X, "batch_sampler") and hasattr(X, "collate_fn"):
        raise InvalidInputError(
            f"X is a {kind}, which makes batches itself, and so does fit: pass X and y, or pieces; {PIECES}. "
            "partial_fit(iter(loader)) makes one pass."
        )
    if hasattr(X, "__dask_graph__"):
        size = getattr(X, "nbytes", None)
        known = f" of {size / 2**30:.2g} GiB" if isinstance(size, int | np.integer) else ""
        warn(
            f"X is a collection{known} in partitions, and becomes one array in this process; the estimators of "
            "xpmlp.dask train where the partitions are.",
            UserWarning,
        )
    memory = memory_bytes()
    if isinstance(X, np.memmap) and memory is not None and X.nbytes > memory / 2:
        warn(
            f"X is a memory map of {X.nbytes / 2**30:.3g} GiB, more than half of the {memory / 2**30:.3g} GiB of "
            "memory here: rows in random order will be read from the disk one by one, and the fit may never end. "
            "xpmlp.shards.from_arrays(X, y) reads it in pieces.",
            UserWarning,
        )


def memory_bytes() -> int | None:
    """The memory of this machine, or of its container; None where nobody says."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        limit = LIMITS.read_text(encoding="ascii").strip()
    except OSError:
        return found
    return min(found, int(limit)) if limit.isdigit() else found
