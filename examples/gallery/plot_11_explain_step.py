"""
One step, explained
===================

``explain_step`` shows every array of one step with the equation that made it, follows the chain rule back to one
weight, and compares what the differential predicts with what happens.
"""

import matplotlib.pyplot as plt
import numpy as np

import xpmlp

X, y = np.array([[0.0, 1.0], [1.0, 0.5], [0.5, -1.0]]), np.array([0.0, 1.0, 1.0])
net = xpmlp.MLP([2, 2, 1], ["tanh", "sigmoid"], loss="binary_cross_entropy", random_state=1)

step = xpmlp.explain_step(net, X, y, learning_rate=0.1, weight=(1, 0, 1))
print(step.path)

# %%
# In a notebook, and here, it is drawn: choose a weight, and every path from the loss to it lights up.

step

# %%
# The differential :math:`dL = \sum (\partial L / \partial w)\, dw` is exact for infinitely small steps. How far it
# carries for larger ones, this network shows: up to a learning rate of one half or so it foretells what happens.

rates = np.geomspace(0.01, 30, 40)
steps = [xpmlp.explain_step(net, X, y, learning_rate=rate) for rate in rates]
figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
ax.plot(rates, [step.predicted for step in steps], "--", label="predicted by dL = sum (dL/dw) dw")
ax.plot(rates, [step.happened for step in steps], label="what happens")
ax.axhline(0, color="gray", linewidth=0.8)
ax.set_xscale("log")
ax.set(xlabel="learning rate of the step", ylabel="change of the loss", ylim=(-0.8, 0.4))
ax.legend()
