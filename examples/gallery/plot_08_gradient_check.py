"""
Which line of back-propagation is wrong?
========================================

``check_gradients`` compares each dW and db with numerical ones. Here it looks at derivatives from elsewhere: a chain
rule by hand, with one of four common mistakes. Each leaves its own traces.
"""

import matplotlib.pyplot as plt
import numpy as np

import xpmlp
from xpmlp.plotting import GradientCheckDisplay

rng = np.random.default_rng(0)
X, y = rng.normal(size=(50, 2)), rng.integers(2, size=(50, 1)).astype(float)
net = xpmlp.MLP([2, 4, 3, 1], ["relu", "relu", "sigmoid"], loss="sum_of_squares", random_state=0)


def backward(mistake):
    """The chain rule for this network, with one mistake."""
    net.forward(X)
    a, z, W = net.a, net.z, net.W
    da = 2 * (a[3] - y) if mistake == "no 1/batch in da[K]" else 2 * (a[3] - y) / len(y)
    dW, db = [None] * 4, [None] * 4
    for k in (3, 2, 1):
        slope = a[3] * (1 - a[3]) if k == 3 else z[k] > 0
        if k == 3 and mistake == "sigmoid' doubled":
            slope = 2 * slope
        dz = da * slope
        dW[k] = a[k - 1].T @ dz
        db[k] = dz.mean(axis=0) if mistake == "db[k] a mean" else dz.sum(axis=0)
        da = dz @ W[k].T
        if k == 3 and mistake == "relu' of layer 2 forgotten":
            z = [None, z[1], np.ones_like(z[2])]
    return dW, db


print(f"no mistake: {xpmlp.check_gradients(net, X, y, gradients=backward(None)).ok}")
mistakes = ("no 1/batch in da[K]", "db[k] a mean", "sigmoid' doubled", "relu' of layer 2 forgotten")
figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained")
for ax, mistake in zip(axes.flat, mistakes, strict=True):
    report = xpmlp.check_gradients(net, X, y, gradients=backward(mistake))
    GradientCheckDisplay.from_report(report, ax=ax)
    ax.set_title(mistake)
    print(f"{mistake}: {report.hint}")
