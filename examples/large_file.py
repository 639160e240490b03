"""Train on a file of several gigabytes, and show how little memory that takes.

    python examples/large_file.py                     4 GB, made first where it is not there; some minutes
    python examples/large_file.py --gigabytes 40 --file /data/x.npy

The rows are read in pieces of 4 MB, whose order is drawn anew for each epoch; nothing has the length of the file.
"""

import argparse
import re
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from xpmlp import MLPClassifier, shards

COLUMNS, BLOCK = 54, 100_000


def main(arguments: Sequence[str] | None = None) -> float:
    """Make the file, train on it, and print what it took; the megabytes that training added."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, default=Path("large_file.npy"))
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args(arguments)
    rows = int(options.gigabytes * 1e9 / (4 * (COLUMNS + 1)))
    warnings.simplefilter("ignore", ConvergenceWarning)  # one epoch is no training, and shows what is to be shown
    if not options.file.exists():
        make(options.file, rows)

    table = np.load(options.file, mmap_mode="r")  # the label is the last column
    data = shards.from_arrays(table[:, :COLUMNS], table[:, COLUMNS], classes=[0.0, 1.0])
    settings = {"hidden_layer_sizes": (64,), "batch_size": 1024, "learning_rate_init": 0.003, "random_state": 0}
    MLPClassifier(**settings | {"max_iter": 1}).fit(table[:2000, :COLUMNS], table[:2000, COLUMNS])  # imports are done
    print(f"{options.file}: {options.file.stat().st_size / 1e9:.2f} GB, {len(table):,} rows, as {data}")
    before = anonymous()
    watch = Watch()
    began = time.perf_counter()
    model = MLPClassifier(**settings, max_iter=options.epochs, verbose=True).fit(data)
    seconds = time.perf_counter() - began
    added = watch.most() - before
    print(f"{seconds:.1f} s; training added {added:.0f} MB of memory to {before:.0f} MB")
    print(f"right for {model.score(table[:BLOCK, :COLUMNS], table[:BLOCK, COLUMNS]):.1%} of the first rows")
    return added


def make(file: Path, rows: int) -> None:
    """A .npy file, written block by block."""
    rng = np.random.default_rng(0)
    slopes = rng.standard_normal(COLUMNS, dtype=np.float32)
    table = np.lib.format.open_memmap(file, "w+", np.float32, (rows, COLUMNS + 1))
    for start in range(0, rows, BLOCK):
        block = table[start : start + BLOCK]
        block[:, :COLUMNS] = rng.standard_normal((len(block), COLUMNS), dtype=np.float32)
        block[:, COLUMNS] = block[:, :COLUMNS] @ slopes > 0.0
    table.flush()


def anonymous() -> float:
    """The megabytes that are this process's own: not the pages of the file, there while there is room."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) / 1024 if found else 0.0


class Watch:
    """A thread that looks how much memory there is."""

    def __init__(self) -> None:
        self.seen, self.over = 0.0, threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def look(self) -> None:
        """Look, until it is over."""
        while not self.over.wait(0.02):
            self.seen = max(self.seen, anonymous())

    def most(self) -> float:
        """The most that was seen."""
        self.over.set()
        self.thread.join()
        return self.seen


if __name__ == "__main__":
    main()
