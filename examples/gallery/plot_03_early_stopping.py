"""
Stop when it no longer helps
============================

A large network learns a small data set by heart. The loss on the training data keeps falling; the loss on data held
out turns. ``early_stopping=True`` watches the second, stops, and puts the best weights back.
"""

import numpy as np
from sklearn.datasets import make_moons

import xpmlp
from xpmlp.plotting import LossCurveDisplay

X, y = make_moons(200, noise=0.35, random_state=0)
X_new, y_new = make_moons(3000, noise=0.35, random_state=1)
y, y_new = y.astype(float), y_new.astype(float)


def network():
    return xpmlp.MLP([2, 128, 64, 1], loss="binary_cross_entropy", random_state=0)


def right(net):
    return np.mean((net.predict(X_new)[:, 0] > 0.5) == y_new)


arguments = {"epochs": 250, "batch_size": None, "learning_rate": 0.005, "validation_data": (X[:100], y[:100])}
to_the_end = network().fit(X[100:], y[100:], **arguments)
stopped = network().fit(X[100:], y[100:], early_stopping=True, patience=30, **arguments)
print(f"250 epochs: {right(to_the_end):.1%} of new points right, loss {to_the_end.evaluate(X_new, y_new):.3f}")
print(f"stopped after {len(stopped.history['loss'])}: {right(stopped):.1%}, loss {stopped.evaluate(X_new, y_new):.3f}")

# %%
# The circle marks the epoch whose weights early stopping keeps. What follows it is learned by heart: the network
# becomes surer of its answers than it should be, and its loss on other points rises.

LossCurveDisplay.from_estimator(to_the_end)
