"""
The tutorial's network, step by step
====================================

Two circles cannot be told apart by a line. A network of 31 parameters can: two inputs, four hidden units, three, and
one output that is the probability of the inner circle. The three verbs are the whole of training.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_circles

import xpmlp
from xpmlp.plotting import DecisionBoundaryDisplay

X, labels = make_circles(1000, factor=0.5, noise=0.1, random_state=0)
y = labels.astype("float64")

net = xpmlp.MLP([2, 4, 3, 1], activations=["relu", "relu", "sigmoid"], loss="binary_cross_entropy", random_state=0)
print(net)

# %%
# ``forward`` computes every z and a, ``backward`` every derivative, ``update`` takes a step down the slope. Four
# pictures along the way show how the boundary closes around the inner circle.

figure, axes = plt.subplots(2, 2, figsize=(10, 8.6), layout="constrained")
pictures = dict(zip((0, 60, 150, 1000), axes.flat, strict=True))
for step in range(1001):
    if step in pictures:
        right = np.mean((net.predict(X)[:, 0] > 0.5) == labels)
        DecisionBoundaryDisplay.from_estimator(net, X, labels, ax=pictures[step], s=4)
        pictures[step].set_title(f"after {step} steps: {right:.1%} right")
    net.forward(X)
    net.backward(y)
    net.update(0.5)

# %%
# Every array of the last step can be looked at, by the names of the formulas.

print("z[2]", net.z[2].shape, " dW[2]", net.dW[2].shape, " db[2]", net.db[2].shape)
print(net.dW[3])
