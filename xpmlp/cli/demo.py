"""`demo`: a network that learns while one looks on, in the terminal."""

import argparse
import time
import warnings
from typing import Any

import numpy as np
from sklearn.datasets import load_digits, make_circles

from xpmlp.backends.config import config_context
from xpmlp.backends.transfer import to_backend, to_numpy
from xpmlp.cli.screen import Bar, dump, paint, say_line, width, wrap
from xpmlp.estimators import MLPClassifier
from xpmlp.mlp import MLP

SHADES = " .:-=+*#%@"
COLUMNS, LINES = 56, 22


def demo(options: argparse.Namespace) -> int:
    """Run the one that is asked for."""
    with config_context(fallback="error" if options.fallback == "error" else "warn"):
        result = (circles if options.what == "circles" else digits)(options)
    if options.json:
        dump(result)
    return 0


def circles(options: argparse.Namespace) -> dict[str, Any]:
    """The tutorial's 2-4-3-1 network on two circles; the map of what it answers, before and after."""
    net = MLP(
        [2, 4, 3, 1],
        ["relu", "relu", "sigmoid"],
        "binary_cross_entropy",
        backend=options.backend or "numpy",
        device=options.device,
        random_state=options.seed,
    )
    points, labels = make_circles(1000, factor=0.5, noise=0.1, random_state=options.seed)
    X, y = (_put(net, values) for values in (points, labels[:, None]))
    before = _share(net, X, labels)
    if not options.json:
        for line in str(net).splitlines():
            say_line(line)
        say_line(f"\nBefore: {before:.1%} of 1,000 points right")
    epochs = 1000
    bar = Bar(epochs)
    began = time.perf_counter()
    with bar:
        net.fit(
            X,
            y,
            epochs=epochs,
            batch_size=None,
            optimizer="sgd",
            learning_rate=0.5,
            callbacks=[lambda _, epoch, logs: bar.show(epoch, {"loss": logs["loss"]})],
        )
    seconds = time.perf_counter() - began
    after = _share(net, X, labels)
    if not options.json:
        told = f"After:  {after:.1%}, {epochs:,} epochs of gradient descent, {seconds:.1f} s"
        print("\n".join(wrap(told)).replace(f"{after:.1%}", paint(f"{after:.1%}", "bold", "green")))
        say_line("\nWhat it answers, from no (blank) to yes (@); the line is where it wavers:\n")
        print("\n".join(_map(net)))
        say_line("\nNext: examples/two_circles.py --plot; xpmlp demo digits; xpmlp train --help")
    return {"before": before, "after": after, "epochs": epochs, "seconds": seconds, "place": str(net.place)}


def _put(net: MLP, values: Any) -> Any:
    return to_backend(values.astype(net.dtype), net.place.backend.name, device=net.place.device_name)


def _share(net: MLP, X: Any, labels: Any) -> float:
    return float(np.mean((to_numpy(net.predict(X))[:, 0] > 0.5) == labels))


def _map(net: MLP) -> list[str]:
    wide = min(COLUMNS, width() - 8)
    high = round(LINES * wide / COLUMNS)
    x, y = np.linspace(-1.2, 1.2, wide), np.linspace(1.0, -1.0, high)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    p = to_numpy(net.predict(_put(net, grid))).reshape(high, wide)
    index = np.minimum((p * len(SHADES)).astype(int), len(SHADES) - 1)
    return [("    " + "".join(SHADES[i] for i in row)).rstrip() for row in index]


def digits(options: argparse.Namespace) -> dict[str, Any]:
    """1,797 digits of 8 x 8 pixels: the score on a quarter held out, and two that it got wrong."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16.0).astype(np.float32)
    order = np.random.default_rng(options.seed).permutation(len(y))
    test, training = order[: len(y) // 4], order[len(y) // 4 :]
    epochs = 60
    bar = Bar(epochs)
    model = MLPClassifier(
        (64,),
        batch_size=64,
        learning_rate_init=0.005,
        max_iter=epochs,
        tol=0.0,
        n_iter_no_change=epochs,
        random_state=options.seed,
        backend=options.backend,
        device=options.device,
        callbacks=lambda _, epoch, logs: bar.show(epoch, {"loss": logs["loss"]}),
    )
    began = time.perf_counter()
    with bar, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Maximum iterations")  # so many were wanted
        model.fit(X[training], y[training])
    seconds = time.perf_counter() - began
    answers = np.asarray(model.predict(X[test]))
    right = answers == y[test]
    result = {
        "accuracy": float(np.mean(right)),
        "held_out": len(test),
        "epochs": model.n_iter_,
        "seconds": seconds,
        "place": f"{model.backend_}, {model.device_}",
    }
    if not options.json:
        say_line(f"{len(training):,} digits learned in {seconds:.1f} s on {result['place']}.")
        say_line(f"{result['accuracy']:.1%} of {len(test)} that it had never seen are right. Some of the others:\n")
        wrong = np.flatnonzero(~right)[: (width() - 4) // 20]
        pictures = [_digit(X[test[i]]) for i in wrong]
        print("\n".join(("    " + "    ".join(row)).rstrip() for row in zip(*pictures, strict=True)))
        told = [f"a {y[test[i]]}, taken for {answers[i]}" for i in wrong]
        print(("\n    " + " ".join(f"{text:<19}" for text in told)).rstrip())
        print("\nNext: xpmlp train --help")
    return result


def _digit(pixels: Any) -> list[str]:
    index = np.minimum((pixels.reshape(8, 8) * len(SHADES)).astype(int), len(SHADES) - 1)
    return ["".join(SHADES[i] * 2 for i in row) for row in index]
