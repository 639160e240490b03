"""Train the tutorial's [2, 4, 3, 1] network on scikit-learn's two circles, on a backend chosen by name.

    python examples/two_circles.py --plot
    python examples/two_circles.py --backend cupy --device cuda:0

The network begins at a coin's toss, about 50 % right, and ends above 98 %: plain gradient descent on all 1,000 points.
"""

import argparse
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import make_circles

import xpmlp


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, print and plot; the accuracy at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="numpy", help="numpy, cupy, torch, jax or array_api_strict")
    parser.add_argument("--device", help="for instance cuda:0")
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the data and of the first weights")
    parser.add_argument(
        "--plot", nargs="?", const="two_circles.png", metavar="FILE", help="draw a picture (needs matplotlib)"
    )
    options = parser.parse_args(arguments)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib, or install xpmlp with its extra: '.[plot]'.")

    net = xpmlp.MLP(
        [2, 4, 3, 1],
        activations=["relu", "relu", "sigmoid"],
        loss="binary_cross_entropy",
        backend=options.backend,  # what cannot run here falls back to NumPy, with a warning that says why
        device=options.device,
        random_state=options.seed,
    )
    print(net, end="\n\n")
    points, labels = make_circles(1000, factor=0.5, noise=0.1, random_state=options.seed)
    X, y = put(net, points), put(net, labels[:, None])

    def tell(net: xpmlp.MLP, epoch: int, _: dict[str, Any]) -> None:
        if epoch % max(options.epochs // 10, 1) == 0 or epoch == options.epochs:
            show(epoch, net.evaluate(X, y), accuracy(net, X, labels))

    print("epoch     loss  accuracy")
    show(0, net.evaluate(X, y), accuracy(net, X, labels))
    started = time.perf_counter()
    net.fit(X, y, epochs=options.epochs, batch_size=None, optimizer="sgd", learning_rate=0.5, callbacks=[tell])
    seconds = time.perf_counter() - started
    print(f"\n{options.epochs} epochs in {seconds:.2f} s on {net.place}.")
    if options.plot:
        print(f"The picture is in {draw(net, points, labels, Path(options.plot)).resolve()}")
    return accuracy(net, X, labels)


def put(net: xpmlp.MLP, values: np.ndarray) -> Any:
    """Bring numbers to where the network lives."""
    return xpmlp.to_backend(values.astype(net.dtype), net.place.backend.name, device=net.place.device_name)


def accuracy(net: xpmlp.MLP, X: Any, labels: np.ndarray) -> float:
    """The share of the points on the right side of 1/2."""
    return float(np.mean((xpmlp.to_numpy(net.predict(X))[:, 0] > 0.5) == labels))


def show(epoch: int, loss: float, share: float) -> None:
    """Print one line of the table."""
    print(f"{epoch:>5}  {loss:>7.4f}  {share:>8.1%}", flush=True)


def draw(net: xpmlp.MLP, points: np.ndarray, labels: np.ndarray, file: Path) -> Path:
    """Draw what the network says of every place, and how the loss fell."""
    from matplotlib.figure import Figure  # without pyplot: needs no screen

    side = np.linspace(-1.5, 1.5, 200)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    p = xpmlp.to_numpy(net.predict(put(net, grid))).reshape(200, 200)

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    filled = left.contourf(side, side, p, levels=np.linspace(0, 1, 11), cmap="RdBu_r", vmin=-0.25, vmax=1.25)
    left.contour(side, side, p, levels=[0.5], colors="black", linewidths=1.5)
    for label, marker, color in ((0, "o", "#08306b"), (1, "^", "#67000d")):
        chosen = points[labels == label]
        where = "outer" if label == 0 else "inner"
        left.scatter(*chosen.T, s=9, marker=marker, color=color, alpha=0.6, label=f"y = {label}, {where} circle")
    figure.colorbar(filled, ax=left, label="yhat, the probability of the inner circle")
    share = accuracy(net, put(net, points), labels)
    left.set(title=f"{share:.1%} of 1,000 points are on the right side of the line", xlabel="x, first feature")
    left.set(ylabel="x, second feature", aspect="equal")
    left.legend(loc="upper right", framealpha=0.9)

    right.plot(np.arange(1, len(net.history["loss"]) + 1), net.history["loss"], color="#333333")
    right.axhline(np.log(2), color="gray", linestyle=":", linewidth=1)
    right.annotate(
        "log 2: a coin's toss", (len(net.history["loss"]), np.log(2)), (0, -12), textcoords="offset points", ha="right"
    )
    right.set(
        title="Gradient descent on all points at rate 0.5", xlabel="epoch", ylabel="loss, mean binary cross-entropy"
    )
    right.set_ylim(bottom=0)
    right.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
    return file


if __name__ == "__main__":
    main()
