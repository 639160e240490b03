"""Data larger than memory, in pieces that are read when their turn comes: what `fit` takes in place of X and y.

`from_arrays` cuts arrays and memory maps, `from_parquet` reads files, `from_sequence` takes whatever has a length and
gives (X, y) or (X, y, sample_weight) for a number. See `Shards` for how batches come of them.
"""

from xpmlp.shards.parquet import from_parquet
from xpmlp.shards.sources import Shards, from_arrays, from_sequence

__all__ = ["Shards", "from_arrays", "from_parquet", "from_sequence"]
