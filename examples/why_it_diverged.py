"""Take a widely copied neural-network tutorial apart: why it learns at first, and then diverges.

    python examples/why_it_diverged.py --plot

Its class is rebuilt below, in our words, with a switch for every line that is wrong. `xpmlp.check_gradients` compares
what each line computes with numerical derivatives; then the same network is trained on ten draws of two circles, with
one thing mended at a time. Three faults look alike from afar and are told apart here: wrong lines, a learning rate that
is too large, and first weights that are too small.
"""

import argparse
import importlib.util
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import make_circles

import xpmlp

SIZES = (2, 4, 3, 1)

# The lines that are wrong, each as the tutorial has it.
NO_SHARE = "da[K] = 2 (yhat - y): no 1/batch"
MEAN_DB = "db[k] = mean of dz[k], not its sum"
DOUBLED = "sigmoid' = 2 a (1 - a): doubled"
SIGN = "da[K] = 2 (y - yhat): the sign"  # in its text only; its code has the other sign
PUBLISHED = frozenset({NO_SHARE, MEAN_DB, DOUBLED})


class PublishedMLP:
    """The tutorial's class, with the lines in `wrong` as published and the others mended.

    Its loss is called an average, but is divided by the number of columns of y, which is 1: it is a sum over the batch.
    """

    def __init__(self, rng: np.random.Generator, start: float | str = 0.1, wrong: frozenset[str] = PUBLISHED) -> None:
        pairs = list(itertools.pairwise(SIZES))
        # start: the standard deviation of the weights, or "he" for sqrt(2 / n_in)
        self.W = [rng.normal(0, (2 / m) ** 0.5 if start == "he" else start, (m, n)) for m, n in pairs]
        self.b = [np.zeros(n) for _, n in pairs]
        self.wrong = wrong

    def forward(self, X: np.ndarray) -> np.ndarray:
        """ReLU in the hidden layers, a sigmoid at the end."""
        self.z, self.a = [], [X]
        for W, b in zip(self.W, self.b, strict=True):
            self.z.append(self.a[-1] @ W + b)
            last = len(self.z) == len(self.W)
            self.a.append(1 / (1 + np.exp(-self.z[-1])) if last else np.maximum(self.z[-1], 0))
        return self.a[-1]

    def backward(self, y: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """All dW and db, right or wrong."""
        wrong, yhat, K = self.wrong, self.a[-1], len(self.W)
        da = 2 * (y - yhat) if SIGN in wrong else 2 * (yhat - y)
        if NO_SHARE not in wrong:
            da = da / len(y)  # L is the mean
        dW, db = [None] * K, [None] * K
        for k in reversed(range(K)):
            slope = self.z[k] > 0 if k < K - 1 else yhat * (1 - yhat)
            if k == K - 1 and DOUBLED in wrong:
                slope = 2 * slope
            dz = da * slope
            dW[k] = self.a[k].T @ dz
            db[k] = dz.mean(axis=0) if MEAN_DB in wrong else dz.sum(axis=0)
            da = dz @ self.W[k].T
        return dW, db

    def update(self, dW: list[np.ndarray], db: list[np.ndarray], rate: float) -> None:
        """One step of gradient descent."""
        for k in range(len(self.W)):
            self.W[k] -= rate * dW[k]
            self.b[k] -= rate * db[k]


# --- Wrong lines: what check_gradients says ---


def check(wrong: frozenset[str], n: int = 200) -> Any:
    """The report on the class's derivatives, for a batch of circles and weights that are not small."""
    X, y = circles(0)
    X, y = X[:n], y[:n]
    theirs = PublishedMLP(np.random.default_rng(0), "he", wrong)
    net = xpmlp.MLP(SIZES, ["relu", "relu", "sigmoid"], "sum_of_squares").set_weights(theirs.W, theirs.b)
    theirs.forward(X)
    return xpmlp.check_gradients(net, X, y, gradients=theirs.backward(y))


def point_at_lines() -> None:
    """Print one full report, and a table of every line alone."""
    print("1. WRONG LINES. The derivatives as published, beside numerical ones.\n   L is the mean of (yhat - y)^2.\n")
    print(check(PUBLISHED))
    print("\nEach wrong line alone. Numbers: theirs / numerical; 1 is right, and n = 200.\n")
    labels = [f"d{row.label}" for row in check(frozenset())]
    print(f"{'':<36}" + "".join(f"{label:>7}" for label in labels))
    for line in (NO_SHARE, MEAN_DB, DOUBLED, SIGN):
        print(f"{line:<36}" + "".join(f"{ratio(row):>7}" for row in check(frozenset({line}))))
    print(f"{'all three in its code':<36}" + "".join(f"{ratio(row):>7}" for row in check(PUBLISHED)))
    print(f"{'none':<36}" + "".join(f"{ratio(row):>7}" for row in check(frozenset())))
    print(
        "\nThe doubling aside, dW is the derivative of the sum of the losses and db that of\n"
        "their mean: there is no L of which both are right. On all 1,000 points the\n"
        "biases learn 1,000 times too slowly beside the weights.\n"
    )


def ratio(row: Any) -> str:
    """Theirs / numerical of a row of the report."""
    return "?" if row.factor is None else f"{row.factor:.4g}"


# --- What each mend changes ---


@dataclass(frozen=True)
class Recipe:
    """One way to train."""

    name: str
    wrong: frozenset[str]
    start: float | str
    rate: float


RECIPES = (
    Recipe("as published", PUBLISHED, 0.1, 0.005),
    Recipe("+ 1/batch in da[K] (rate x 1,000)", PUBLISHED - {NO_SHARE}, 0.1, 5.0),
    Recipe("+ db[k] a sum", frozenset({DOUBLED}), 0.1, 5.0),
    Recipe("+ sigmoid' = a (1 - a): lines right", frozenset(), 0.1, 5.0),
    Recipe("+ rate 0.5", frozenset(), 0.1, 0.5),
    Recipe("+ He start: all mended", frozenset(), "he", 0.5),
    Recipe("mended, but rate 20", frozenset(), "he", 20.0),
    Recipe("mended, but start 0.01", frozenset(), 0.01, 0.5),
)


PANELS = (
    "as published",
    "da[K] and db[k] mended",
    "and sigmoid': all lines right",
    "and a smaller rate, He's start: all mended",
    "all mended, but the rate too large",
    "all mended, but the start too small",
)


@dataclass(frozen=True)
class Runs:
    """What happened, for each seed and epoch."""

    accuracy: np.ndarray  # (seeds, epochs)
    loss: np.ndarray

    @property
    def good(self) -> int:
        """Seeds that end with at least 98 % of the points right."""
        return int(np.sum(self.accuracy[:, -1] >= 0.98))

    @property
    def once_good(self) -> int:
        """Seeds that had 98 % at some epoch."""
        return int(np.sum(self.accuracy.max(axis=1) >= 0.98))

    @property
    def end(self) -> float:
        """L in the last epoch, the median over seeds."""
        return float(np.median(self.loss[:, -1]))

    @property
    def rises(self) -> float:
        """The share of epochs after which L was larger than before."""
        return float(np.mean(np.diff(self.loss, axis=1) > 0))

    @property
    def wait(self) -> float:
        """Epochs until 75 % are right: the median over seeds, infinite where most never get there."""
        there = self.accuracy >= 0.75
        return float(np.median(np.where(there.any(axis=1), there.argmax(axis=1), np.inf)))


def circles(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The data of the tutorial: 1,000 points."""
    X, y = make_circles(1000, factor=0.5, noise=0.1, random_state=seed)
    return X, y[:, None].astype(float)


def train(recipe: Recipe, seeds: int, epochs: int) -> Runs:
    """Gradient descent on all points, once for each seed, which draws the points and the weights."""
    accuracy, loss = np.zeros((seeds, epochs)), np.zeros((seeds, epochs))
    for seed in range(seeds):
        X, y = circles(seed)
        net = PublishedMLP(np.random.default_rng([seed, 1]), recipe.start, recipe.wrong)
        for epoch in range(epochs):
            yhat = net.forward(X)
            accuracy[seed, epoch] = np.mean((yhat > 0.5) == y)
            loss[seed, epoch] = np.mean((yhat - y) ** 2)
            net.update(*net.backward(y), recipe.rate)
    return Runs(accuracy, loss)


def waited(runs: Runs) -> str:
    """The median wait in words."""
    return f"{runs.wait:.0f}" if np.isfinite(runs.wait) else "never"


def compare(seeds: int, epochs: int) -> dict[Recipe, Runs]:
    """Train by every recipe and print the table."""
    print(f"2. WHAT EACH MEND CHANGES. {seeds} seeds, {epochs} epochs; good: 98 % of the points right.\n")
    print(f"{'':<35}{'start':>6}{'rate':>7}{'good':>7}{'once':>6}{'median':>8}{'L':>5}{'wait':>6}")
    print(f"{'':<35}{'':>6}{'':>7}{'at end':>7}{'good':>6}{'at end':>8}{'rose':>5}{'':>6}")
    results = {}
    for recipe in RECIPES:
        runs = results[recipe] = train(recipe, seeds, epochs)
        print(
            f"{recipe.name:<35}{recipe.start!s:>6}{recipe.rate:>7g}{runs.good:>7}{runs.once_good:>6}"
            f"{np.median(runs.accuracy[:, -1]):>8.1%}{runs.rises:>5.0%}{waited(runs):>6}",
            flush=True,
        )
    published, right, slower, mended, large, small = (results[RECIPES[i]] for i in (0, 3, 4, 5, 6, 7))
    print(
        f"""
rate: of the sum of the losses where 1/batch is missing, else of their mean.
median: share of points right. L rose: in this share of the epochs.
wait: epochs until 75 % are right, the median over seeds.

3. THREE FAULTS, TOLD APART.
Wrong lines: check_gradients sees them before any training. As published,
  {published.once_good} of {seeds} networks are good at some epoch and {published.good} are at the end. With the lines
  right, at the same rate and from the same start, {right.good} are.
A rate too large: the derivatives are right, but L keeps rising: in {large.rises:.0%} of the
  epochs at rate 20, where {large.good} of {seeds} end good; in {mended.rises:.1%} at rate 0.5, where {mended.good} do.
A start too small: the derivatives are right, but L stands still,
  since products of small weights make small derivatives. It ends at {small.end:.3f}
  (median; a coin's toss has 0.25) from normal(0.01), at {mended.end:.3f} from He's start.
  Epochs until 75 % are right: {waited(mended)} from He's start, {waited(slower)} from normal(0.1),
  {waited(small)} from normal(0.01)."""
    )
    return results


def draw(results: dict[Recipe, Runs], file: Path) -> Path:
    """Draw the accuracy of every network by epoch, a panel for each of six recipes."""
    from matplotlib.figure import Figure  # without pyplot: needs no screen

    figure = Figure(figsize=(11, 6.6), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    for axis, i, title in zip(axes.flat, (0, 2, 3, 5, 6, 7), PANELS, strict=True):
        recipe = RECIPES[i]
        runs = results[recipe]
        seeds, epochs = runs.accuracy.shape
        start = "He" if recipe.start == "he" else f"normal({recipe.start})"
        axis.plot(np.arange(epochs), runs.accuracy.T, color="#1f5a99", alpha=0.45, linewidth=0.6)
        axis.axhline(0.98, color="#b03a2e", linestyle="--", linewidth=1)
        axis.set_title(title, fontsize=11)
        axis.text(
            0.97,
            0.06,
            f"start: {start}, rate: {recipe.rate:g}\n{runs.good} of {seeds} end at 98 % or more",
            transform=axis.transAxes,
            ha="right",
            bbox={"facecolor": "white", "edgecolor": "0.8", "alpha": 0.9},
        )
        axis.set_ylim(0.28, 1.02)
        axis.grid(alpha=0.25)
    for axis in axes[:, 0]:
        axis.set_ylabel("share of points right")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    figure.suptitle(
        "Two circles, a 2-4-3-1 network, one line for each seed; a solid band flips from epoch to epoch.\n"
        "Above: wrong lines, mended in turn. Below: all mended; a rate too large; a start too small. Dashed: 98 %.",
        fontsize=11,
    )
    figure.savefig(file, dpi=120)
    return file


def main(arguments: Sequence[str] | None = None) -> dict[Recipe, Runs]:
    """Check, train, compare and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 seeds and 200 epochs, to see that it runs")
    parser.add_argument(
        "--plot", nargs="?", const="why_it_diverged.png", metavar="FILE", help="draw a picture (needs matplotlib)"
    )
    options = parser.parse_args(arguments)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib, or install xpmlp with its extra: '.[plot]'.")
    started = time.perf_counter()
    point_at_lines()
    with np.errstate(over="ignore"):  # exp(-z) of a network that diverges
        results = compare(*((3, 200) if options.quick else (10, 1000)))
    print(f"\n{time.perf_counter() - started:.0f} s.")
    if options.plot:
        print(f"The picture is in {draw(results, Path(options.plot)).resolve()}")
    return results


if __name__ == "__main__":
    main()
