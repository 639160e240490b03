"""
What ails this network?
=======================

``Health`` records, epoch by epoch, how every layer does; ``diagnose`` says in sentences what it means. Here a
learning rate that is too high kills ReLU units: they are zero for every sample, have no slope, and never learn again.
"""

import numpy as np
from sklearn.datasets import make_moons

import xpmlp
from xpmlp.plotting import HealthDisplay

X, y = make_moons(1000, noise=0.2, random_state=0)
y = y.astype(float)


def train(learning_rate):
    net = xpmlp.MLP([2, 32, 32, 1], "relu", "binary_cross_entropy", random_state=0)
    health = xpmlp.Health(X, y)
    net.fit(X, y, epochs=30, optimizer="sgd", learning_rate=learning_rate, callbacks=[health])
    print(f"learning rate {learning_rate:g}: {np.mean((net.predict(X)[:, 0] > 0.5) == y):.1%} right")
    print(xpmlp.diagnose(net), end="\n\n")
    return net


well = train(0.1)
ill = train(3.0)

# %%
# The one that is well:

HealthDisplay.from_estimator(well)

# %%
# And the one that is not:

HealthDisplay.from_estimator(ill)
