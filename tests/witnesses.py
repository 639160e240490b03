"""Independent witnesses: what the package computes, computed once more in another way.

Plain NumPy in float64, formulas from another source than ours (SciPy, scikit-learn, the textbook's sums). `differences`
alone uses our own forward pass, which is what it is about.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special
from sklearn.metrics import mean_pinball_loss, mean_poisson_deviance

from xpmlp import MLP
from xpmlp.network import Drop, Network, forward, mean, sample_losses

ACTIVATION = {
    "identity": lambda z: z,
    "sigmoid": special.expit,
    "tanh": lambda z: 2.0 * special.expit(2.0 * z) - 1.0,
    "relu": lambda z: np.where(z > 0, z, 0.0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": lambda z: np.where(z > 0, z, np.exp(np.minimum(z, 0.0)) - 1.0),
    # The two constants to all digits, from the two equations that they solve (arXiv:1706.02515): the test of the table
    # recomputes them.
    "selu": lambda z: 1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * (np.exp(np.minimum(z, 0.0)) - 1.0)),
    "softplus": lambda z: np.logaddexp(0.0, z),
    "silu": lambda z: z * special.expit(z),
    # (1 + tanh u) / 2 = 1 / (1 + exp(-2 u))
    "gelu": lambda z: z * special.expit(2.0 * math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)),
    # tanh(log t) = (t^2 - 1) / (t^2 + 1) = 1 - 2 / (t^2 + 1), with t = 1 + exp(z); from z = 30 on it is 1
    "mish": lambda z: z * (1.0 - 2.0 / ((1.0 + np.exp(np.minimum(z, 30.0))) ** 2 + 1.0)),
    "exp": np.exp,
    "softmax": lambda z: special.softmax(z, axis=-1),
}

LOSS = {
    "squared_error": lambda y, p: float(np.linalg.norm(y - p) ** 2 / 2),
    "sum_of_squares": lambda y, p: float(np.linalg.norm(y - p) ** 2),
    "absolute_error": lambda y, p: float(np.linalg.norm(y - p, ord=1)),
    "huber": lambda y, p: float(special.huber(1.0, y - p).sum()),
    "pinball": lambda y, p: len(p) * float(mean_pinball_loss(y, p, alpha=0.5)),
    "poisson": lambda y, p: len(p) * float(mean_poisson_deviance(y, p)) / 2,
    "binary_cross_entropy": lambda y, p: float(-(special.xlogy(y, p) + special.xlog1py(1.0 - y, -p)).sum()),
    "cross_entropy": lambda y, p: float(-special.xlogy(y, p).sum()),
}


def of_each_sample(name: str, y: Any, yhat: Any) -> Any:
    """The loss `name` of every sample, one by one."""
    values = [
        LOSS[name](*pair) for pair in zip(y.reshape(-1, y.shape[-1]), yhat.reshape(-1, yhat.shape[-1]), strict=True)
    ]
    return np.reshape(values, yhat.shape[:-1])


def outputs(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Numbers that are outputs of this kind, well inside."""
    z = rng.normal(size=shape)
    return {
        "real": z,
        "positive": np.exp(z),
        "probability": special.expit(z),
        "distribution": special.softmax(z, axis=-1),
    }[kind]


def targets(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Targets of this kind, those on the edge of the domain included."""
    if kind == "real":
        return rng.normal(size=shape)
    if kind == "nonnegative":
        return rng.poisson(1.0, size=shape).astype(float)
    if kind == "probability":
        return rng.choice([0.0, 1.0, 0.25], size=shape)
    hard = np.eye(shape[-1])[rng.integers(shape[-1], size=shape[:-1])]
    return np.where(rng.random((*shape[:-1], 1)) < 0.5, hard, special.softmax(rng.normal(size=shape), axis=-1))


def slopes(f: Any, x: Any, h: float = 1e-5) -> Any:
    """df/dx of a function of one array to a number, by central differences, element by element."""
    result = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        result[index] = (f(x + step) - f(x - step)) / (2.0 * h)
    return result


def differences(
    network: Network, p: Any, x: Any, y: Any, w: Any = None, *, drop: Drop | None = None, h: float = 3e-5
) -> Any:
    """dL/dp by central differences, with our own forward pass: all shifted networks at once, on the leading axis.

    Four points, so that the error falls with h^4 and h can be large enough to spare the digits of L.
    """
    shift = h * np.concatenate([s * np.eye(p.size) for s in (1, -1, 2, -2)])
    L = mean(sample_losses(network, forward(network, network.layout.unpack(p + shift), x, drop), y), w)
    near, mirrored, far, far_mirrored = np.split(L, 4)
    return (8.0 * (near - mirrored) - (far - far_mirrored)) / (12.0 * h)


def relative(actual: Any, desired: Any) -> float:
    """The largest difference over the largest desired value."""
    return float(np.max(np.abs(actual - desired)) / np.max(np.abs(desired)))


def by_units(W: Any, b: Any, x: Any, y: Any) -> dict[str, Any]:
    """The textbook's sums over units i, j, written out, for tanh layers, a sigmoid output and binary cross entropy.

    W[k][i][j] leads from unit i of layer k-1 to unit j of layer k. Every quantity is kept for each sample s; the
    derivatives are those of the mean over the samples.
    """
    K, samples = len(W) - 1, range(len(x))
    n = [len(W[1]), *(len(b[k]) for k in range(1, K + 1))]
    z = [[[0.0] * n[k] for _ in samples] for k in range(K + 1)]
    a = [[[0.0] * n[k] for _ in samples] for k in range(K + 1)]
    dz = [[[0.0] * n[k] for _ in samples] for k in range(K + 1)]
    da = [[[0.0] * n[k] for _ in samples] for k in range(K + 1)]
    dW = [None] + [[[0.0] * n[k] for _ in range(n[k - 1])] for k in range(1, K + 1)]
    db = [None] + [[0.0] * n[k] for k in range(1, K + 1)]
    for s in samples:
        for i in range(n[0]):
            a[0][s][i] = float(x[s][i])
        for k in range(1, K + 1):
            for j in range(n[k]):
                z[k][s][j] = sum(a[k - 1][s][i] * float(W[k][i][j]) for i in range(n[k - 1])) + float(b[k][j])
                a[k][s][j] = math.tanh(z[k][s][j]) if k < K else 1.0 / (1.0 + math.exp(-z[k][s][j]))
        for j in range(n[K]):
            t, p = float(y[s][j]), a[K][s][j]
            da[K][s][j] = ((1.0 - t) / (1.0 - p) - t / p) / len(x)
        for k in range(K, 0, -1):
            for j in range(n[k]):
                slope = 1.0 / math.cosh(z[k][s][j]) ** 2 if k < K else a[k][s][j] * (1.0 - a[k][s][j])
                dz[k][s][j] = da[k][s][j] * slope
                db[k][j] += dz[k][s][j]
                for i in range(n[k - 1]):
                    dW[k][i][j] += a[k - 1][s][i] * dz[k][s][j]
            for i in range(n[k - 1]):
                da[k - 1][s][i] = sum(dz[k][s][j] * float(W[k][i][j]) for j in range(n[k]))
    return {"z": z, "a": a, "dz": dz, "da": da, "dW": dW, "db": db}


def mlp(backend: Any, *args: Any, **options: Any) -> MLP:
    """An `MLP` on the backend under test, as wide as it can be there."""
    options = {"dtype": backend.dtypes[0], "random_state": 0} | options
    return MLP(*args, backend=backend.name, device=backend.place.device_name, **options)
