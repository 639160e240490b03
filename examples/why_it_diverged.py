"""Take a widely copied neural-network tutorial apart: why its network learns the circles, and loses them again.

    python examples/why_it_diverged.py --plot

Its class is rebuilt below, in our words, with a switch for each line that is not the derivative of its loss. Run as
published, it gives the numbers that the tutorial printed, to the last digit. `xpmlp.check_gradients` finds the wrong
lines, `xpmlp.curvature` the wrong learning rate; and because the two faults mask each other, both axes are tried.

A run that has left stability has no reproducible end: another BLAS rounds the last digit another way, and 100 epochs
later nothing is the same. So the ends of such runs are told in words here, over ten seeds.
"""

import argparse
import importlib.util
import itertools
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import make_circles

import xpmlp

SIZES = (2, 4, 3, 1)
RATE = 0.005  # of the sum of 1,000 losses
TINY = float(np.finfo(float).eps)

# The lines that are wrong, each as the tutorial's code has it.
MEAN_DB = "db[k] = mean of dz[k], not its sum"
DOUBLED = "sigmoid' = 2 s (1 - s): doubled"
PUBLISHED = frozenset({MEAN_DB, DOUBLED})
# A slip of its text, which its code does not have.
SIGN = "text: dL/dyhat with the other sign"

# What the tutorial printed: iteration, loss (a sum over the points), share right.
PRINTED = (
    ("before", 0, 693.62972747, None),
    ("0", 0, 693.62972747, None),
    ("145", 145, 664.60120828, 0.818),
    ("146", 146, 697.97739669, 0.580),
    ("149", 149, 683.61702980, 0.614),
)


class PublishedMLP:
    """The tutorial's class, with the lines in `wrong` as published and the others mended.

    Its loss is called an average but divides by the number of columns of y, which is 1: it is a sum over the batch, and
    its derivatives (cross entropy's, without 1/n) are those of the sum.
    """

    def __init__(self, seed: int, start: str = "published", wrong: frozenset[str] = PUBLISHED) -> None:
        # RandomState draws what np.random.randn does after np.random.seed(seed).
        draw = np.random.RandomState(seed).randn
        self.W, self.b = [], []
        for m, n in itertools.pairwise(SIZES):
            W, b = 0.1 * draw(m, n), 0.1 * draw(1, n)
            self.W.append(W if start == "published" else (2 / m) ** 0.5 / 0.1 * W)
            self.b.append(b if start == "published" else np.zeros_like(b))
        self.wrong = wrong

    def forward(self, X: np.ndarray) -> np.ndarray:
        """ReLU in the hidden layers, a sigmoid at the end."""
        self.z, self.a = [None], [X]
        for k in (1, 2, 3):
            self.z.append(self.a[k - 1] @ self.W[k - 1] + self.b[k - 1])
            self.a.append(np.maximum(self.z[k], 0) if k < 3 else 1 / (1 + np.exp(-self.z[k])))
        return self.a[3]

    def loss(self, y: np.ndarray) -> float:
        """The sum over the batch."""
        yhat = self.a[3]
        return -float(np.sum(y * np.log(yhat.clip(TINY)) + (1 - y) * np.log((1 - yhat).clip(TINY))))

    def backward(self, y: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """All dW and db, right or wrong: the derivatives of the sum of the losses, where they are right."""
        wrong, yhat = self.wrong, self.a[3]
        da = -y / yhat.clip(TINY) + (1 - y) / (1 - yhat).clip(TINY)
        if SIGN in wrong:
            da = -da
        dW, db = [None] * 3, [None] * 3
        for k in (3, 2, 1):
            slope = self.z[k] > 0 if k < 3 else yhat * (1 - yhat)
            dz = da * (2 * slope if k == 3 and DOUBLED in wrong else slope)
            dW[k - 1] = self.a[k - 1].T @ dz
            db[k - 1] = (np.mean if MEAN_DB in wrong else np.sum)(dz, axis=0, keepdims=True)
            da = dz @ self.W[k - 1].T
        return dW, db

    def update(self, dW: list[np.ndarray], db: list[np.ndarray], rate: float) -> None:
        """One step of gradient descent."""
        for k in range(3):
            self.W[k] = self.W[k] - rate * dW[k]
            self.b[k] = self.b[k] - rate * db[k]


def circles(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The data of the tutorial, after np.random.seed(seed): 1,000 points."""
    X, y = make_circles(n_samples=1000, factor=0.5, noise=0.1, random_state=seed)
    return X, y[:, None].astype(float)


# --- 1. The run ---


@dataclass(frozen=True)
class Run:
    """What happened, for each epoch before its update."""

    loss: np.ndarray  # the mean over the points
    accuracy: np.ndarray
    rate_times_curvature: np.ndarray  # NaN where it was not asked for


def train(
    seed: int,
    wrong: frozenset[str] = PUBLISHED,
    start: str = "published",
    rate: float = RATE,
    epochs: int = 150,
    watch: bool = False,
) -> Run:
    """Gradient descent on all points: data of `seed`, weights of seed 42 + `seed`."""
    X, y = circles(seed)
    net = PublishedMLP(42 + seed, start, wrong)
    found = np.full((3, epochs), np.nan)
    for epoch in range(epochs):
        yhat = net.forward(X)
        found[:, epoch] = net.loss(y) / len(X), np.mean((yhat > 0.5) == y), np.nan
        if watch:
            found[2, epoch] = rate_times_curvature(net, X, y, rate)
        net.update(*net.backward(y), rate)
    return Run(*found)


def rate_times_curvature(theirs: PublishedMLP, X: np.ndarray, y: np.ndarray, rate: float) -> float:
    """The rates are those that the wrong lines amount to, for the mean loss."""
    of_W = rate * len(X) * (2 if DOUBLED in theirs.wrong else 1)
    of_b = of_W / len(X) if MEAN_DB in theirs.wrong else of_W
    return float(xpmlp.curvature(as_mlp(theirs), X, y, learning_rate_factors=([of_W] * 3, [of_b] * 3)))


def as_mlp(theirs: PublishedMLP) -> xpmlp.MLP:
    """Their network as one of ours."""
    net = xpmlp.MLP(SIZES, ["relu", "relu", "sigmoid"], "binary_cross_entropy")
    return net.set_weights(theirs.W, [b[0] for b in theirs.b])


def reproduce() -> Run:
    """Print the published lines beside ours."""
    run = train(0, watch=True)
    print("1. THE RUN, as published: rate 0.005 on the sum of the losses, 150 epochs.\n")
    print(f"{'iteration':<11}{'loss printed':>14}{'loss here':>15}{'right printed':>15}{'right here':>12}")
    for name, epoch, loss, right in PRINTED:
        there = "" if right is None else f"{right:.3f}"
        here = "" if right is None else f"{run.accuracy[epoch]:.3f}"
        print(f"{name:<11}{loss:>14.8f}{1000 * run.loss[epoch]:>15.8f}{there:>15}{here:>12}")
    return run


# --- 2. The lines: what check_gradients says ---


def check(wrong: frozenset[str], n: int = 200) -> Any:
    """The report on the class's derivatives of the sum, for a batch of circles and weights that are not small."""
    X, y = circles(0)
    X, y = X[:n], y[:n]
    theirs = PublishedMLP(0, "he", wrong)
    theirs.forward(X)
    dW, db = theirs.backward(y)
    mean = ([it / n for it in dW], [it / n for it in db])  # check_gradients speaks of the mean over the batch
    return xpmlp.check_gradients(as_mlp(theirs), X, y, gradients=mean)


def point_at_lines() -> None:
    """Print a table of every line alone."""
    print("\n2. THE LINES. Theirs / numerical, by check_gradients; 1 is right.\n   L is the sum, n = 200.\n")
    labels = [f"d{row.label}" for row in check(frozenset())]
    print(f"{'':<36}" + "".join(f"{label:>7}" for label in labels))
    for name, lines in (
        *((line, frozenset({line})) for line in (MEAN_DB, DOUBLED, SIGN)),
        ("as published: the first two", PUBLISHED),
        ("none", frozenset()),
    ):
        print(f"{name:<36}" + "".join(f"{ratio(row):>7}" for row in check(lines)))
    print("\nWhat it says of the published lines:")
    print(textwrap.indent(textwrap.fill(check(PUBLISHED).hint, 76), "  "))


def ratio(row: Any) -> str:
    """Theirs / numerical of a row of the report."""
    return "?" if row.factor is None else f"{row.factor:.4g}"


# --- 3. The rate: what curvature says ---


def point_at_rate(run: Run) -> None:
    """Print the loss beside the rate times the curvature, up to the first jump."""
    jump = int(np.argmax(run.rate_times_curvature > 2.0))
    print(
        "\n3. THE RATE. The step is one with rate 10 for W and 0.01 for b, of the mean loss.\n"
        "Where rate x largest curvature is above 2, plain gradient descent diverges.\n"
    )
    print(f"{'epoch':>7}{'mean loss':>11}{'right':>8}{'rate x curvature':>18}")
    for epoch in (0, 50, 100, jump - 2, jump - 1, jump, 145, 146):
        mark = "  above 2" if run.rate_times_curvature[epoch] > 2.0 else ""
        print(
            f"{epoch:>7}{run.loss[epoch]:>11.3f}{run.accuracy[epoch]:>8.3f}{run.rate_times_curvature[epoch]:>18.2f}{mark}"
        )
    print(
        f"\nIt passes 2 for the first time in epoch {jump}, where the loss has jumped by more than\n"
        f"1 % for the first time, one epoch after the best of the run ({run.accuracy.max():.1%} right).\n"
        "The wrong lines did not do that: a positive factor for each parameter still leads\n"
        "downhill, if the steps are small enough."
    )


# --- 4. Both, and each alone ---


@dataclass(frozen=True)
class Recipe:
    """One way to train."""

    name: str
    wrong: frozenset[str]
    start: str
    rate: float
    epochs: int


RECIPES = (
    Recipe("as published", PUBLISHED, "published", RATE, 150),
    Recipe("sigmoid' mended", frozenset({MEAN_DB}), "published", RATE, 150),
    Recipe("db mended", frozenset({DOUBLED}), "published", RATE, 150),
    Recipe("both lines mended", frozenset(), "published", RATE, 150),
    Recipe("as published", PUBLISHED, "published", RATE / 10, 1000),
    Recipe("both lines mended", frozenset(), "published", RATE / 10, 1000),
    Recipe("both, and He's start", frozenset(), "he", RATE / 10, 1000),
)


@dataclass(frozen=True)
class Runs:
    """The same recipe from several seeds, each array of shape (seeds, epochs)."""

    loss: np.ndarray
    accuracy: np.ndarray

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
        """The share right, median over the seeds and over the last tenth of the epochs: one epoch alone is chance."""
        late = self.accuracy[:, -max(self.accuracy.shape[1] // 10, 1) :]
        return float(np.median(late))


def in_words(count: int, of: int) -> str:
    """A count that depends on the last digit of a product is not shown to the unit."""
    return "none" if count == 0 else "some" if 2 * count < of else "most"


def level(share: float) -> str:
    """The same for a share of right answers."""
    return "97 % or more" if share >= 0.97 else "65 to 97 %" if share >= 0.65 else "below 65 %"


def compare(seeds: int, shorter: int) -> dict[Recipe, Runs]:
    """Train by every recipe and print the table."""
    print(f"\n4. BOTH. {seeds} seeds; good: 98 % of the points right.\n")
    print(f"{'lines':<22}{'rate':>7}{'epochs':>8}   {'ever good':<11}{'good at end':<13}{'right at end, median'}")
    results = {}
    for recipe in RECIPES:
        epochs = max(recipe.epochs // shorter, 1)
        runs = [train(seed, recipe.wrong, recipe.start, recipe.rate, epochs) for seed in range(seeds)]
        found = results[recipe] = Runs(*(np.array([getattr(it, name) for it in runs]) for name in ("loss", "accuracy")))
        print(
            f"{recipe.name:<22}{recipe.rate:>7g}{epochs:>8}   {in_words(found.once_good, seeds):<11}"
            f"{in_words(found.good, seeds):<13}{level(found.end)}",
            flush=True,
        )
    print(
        """
The averaged db makes the biases learn a thousand times too slowly: they stay at
their first values, and a ReLU network whose biases do not move cannot measure a
circle's radius. It also hides the rate: with db mended alone, rate x curvature is
above 2 from the first epoch on, and it gets worse. Mend both lines and take a tenth
of the rate. Two faults that mask each other: check_gradients names the one,
curvature the other."""
    )
    return results


def draw(run: Run, results: dict[Recipe, Runs], file: Path) -> Path:
    """Draw the published run, what its rate does, and the medians of the mends."""
    from matplotlib.figure import Figure  # without pyplot: needs no screen

    figure = Figure(figsize=(11, 7.2), layout="constrained")
    (loss, edge), (at_rate, at_tenth) = figure.subplots(2, 2)
    epochs = np.arange(len(run.loss))
    loss.plot(epochs, run.loss, color="#1f5a99")
    loss.set_title("as published: the loss falls, then jumps")
    loss.set_ylabel("mean loss")
    edge.plot(epochs, run.rate_times_curvature, color="#b03a2e")
    edge.axhline(2.0, color="0.4", linestyle="--", linewidth=1)
    edge.text(2, 2.05, "above 2 plain gradient descent diverges", va="bottom", fontsize=9)
    edge.set_title("rate x largest curvature")
    edge.set_ylim(0.0, None)
    for axis, rate in ((at_rate, RATE), (at_tenth, RATE / 10)):
        for recipe, runs in results.items():
            if recipe.rate == rate:
                axis.plot(np.median(smooth(runs.accuracy), axis=0), label=recipe.name)
        axis.axhline(0.98, color="0.4", linestyle="--", linewidth=1)
        axis.set_ylim(0.45, 1.02)
        axis.set_title(f"rate {rate:g}: share right, median of the seeds")
        axis.legend(loc="center right" if rate == RATE else "lower right", fontsize=9)
    for axis in (loss, edge, at_rate, at_tenth):
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.25)
    figure.savefig(file, dpi=120)
    return file


def smooth(values: np.ndarray) -> np.ndarray:
    """The median over the last 9 epochs: a run that flips each epoch is a solid band otherwise."""
    padded = np.concatenate([np.repeat(values[:, :1], 8, axis=1), values], axis=1)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 9, axis=1), axis=-1)


def main(arguments: Sequence[str] | None = None) -> dict[Recipe, Runs]:
    """Reproduce, check, train, compare and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 seeds and a tenth of the epochs, to see that it runs")
    parser.add_argument(
        "--plot", nargs="?", const="why_it_diverged.png", metavar="FILE", help="draw a picture (needs matplotlib)"
    )
    options = parser.parse_args(arguments)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib, or install xpmlp with its extra: '.[plot]'.")
    started = time.perf_counter()
    run = reproduce()
    point_at_lines()
    point_at_rate(run)
    with np.errstate(over="ignore"):  # exp(-z) of a network that diverges
        results = compare(*((2, 10) if options.quick else (10, 1)))
    print(f"\n{time.perf_counter() - started:.0f} s.")
    if options.plot:
        print(f"The picture is in {draw(run, results, Path(options.plot)).resolve()}")
    return results


if __name__ == "__main__":
    main()
