"""Two versions of xpmlp side by side: how much slower or faster whole fits have become.

    git worktree add ../before 217fc45
    python benchmarks/versions.py ../before .

Each version runs in a process of its own, on one BLAS thread; fits alternate in random order, and what is compared is
the CPU time of the fit alone. A ratio above 1 says that the second version is slower.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from pathlib import Path

WORKER = r"""
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
from sklearn.datasets import load_digits, make_circles
from xpmlp import MLP, MLPClassifier

circles = make_circles(1000, factor=0.5, noise=0.1, random_state=0)
digits = load_digits(return_X_y=True)
digits = (digits[0] / 16.0, digits[1])
rng = np.random.default_rng(0)
table = rng.normal(size=(4000, 54)).astype("float32"), rng.integers(7, size=4000)
small = dict(hidden_layer_sizes=(4, 3), batch_size=32, random_state=0, tol=0.0, n_iter_no_change=10**6)
part = MLPClassifier((32,), random_state=0).partial_fit(circles[0][:50], circles[1][:50], classes=[0, 1])


def case(name):
    if name == "circles, adam":
        return lambda: MLPClassifier(max_iter=60, **small).fit(*circles)
    if name == "circles, early stopping":
        return lambda: MLPClassifier(max_iter=60, early_stopping=True, **small).fit(*circles)
    if name == "circles, lbfgs":
        return lambda: MLPClassifier((4, 3), solver="lbfgs", max_iter=100, random_state=0).fit(*circles)
    if name == "digits":
        return lambda: MLPClassifier((64, 32), max_iter=8, batch_size=32, random_state=0).fit(*digits)
    if name == "partial_fit of 50 rows":
        return lambda: [part.partial_fit(circles[0][:50], circles[1][:50]) for _ in range(30)]
    if name == "MLP, circles":
        net = MLP([2, 4, 3, 1], loss="binary_cross_entropy", random_state=0)
        return lambda: net.initialize().fit(circles[0], circles[1].astype(float), epochs=40)
    if name == "tabular":
        return lambda: MLPClassifier((256, 128), max_iter=3, batch_size=256, random_state=0).fit(*table)
    raise ValueError(name)


cases = {}
for line in sys.stdin:
    name = json.loads(line)
    run = cases.setdefault(name, case(name))
    start = time.process_time()
    run()
    print(json.dumps(time.process_time() - start), flush=True)
"""

CASES = (
    "circles, adam",
    "circles, early stopping",
    "circles, lbfgs",
    "digits",
    "partial_fit of 50 rows",
    "MLP, circles",
    "tabular",
)


class Version:
    """A checkout, and a process that runs fits of it."""

    def __init__(self, tree: Path) -> None:
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        env = os.environ | threads | {"PYTHONPATH": str(tree.resolve())}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def seconds(self, case: str) -> float:
        """CPU time of one fit."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))


def revision(tree: Path) -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=tree, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or str(tree)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--cases", nargs="*", default=CASES)
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    versions = [Version(options.before), Version(options.after)]
    names = [revision(tree) for tree in (options.before, options.after)]
    lines = [
        f"CPU time of whole fits, {names[1]} over {names[0]}: one BLAS thread, {options.rounds} rounds, alternating.",
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}",
        "",
        f"{'fit':<26}{'before, ms':>12}{'after, ms':>12}{'minima':>9}{'median of pairs':>17}",
    ]
    print("\n".join(lines))
    for case in options.cases:
        times: tuple[list[float], list[float]] = ([], [])
        for version in versions:
            version.seconds(case)  # imports, caches
        for _ in range(options.rounds):
            for which in random.sample((0, 1), 2):
                times[which].append(versions[which].seconds(case))
        least = [min(seconds) for seconds in times]
        pairs = statistics.median(after / before for before, after in zip(*times, strict=True))
        ms = f"{1e3 * least[0]:>12.1f}{1e3 * least[1]:>12.1f}"
        lines.append(f"{case:<26}{ms}{least[1] / least[0]:>9.3f}{pairs:>17.3f}")
        print(lines[-1], flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
