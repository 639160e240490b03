"""
Thirty networks at once
=======================

``n_networks=30`` trains thirty independent networks in the same products: every array has one more axis. Together
they say what one alone cannot: where they disagree, nothing is known.
"""

import time

import matplotlib.pyplot as plt
import numpy as np

import xpmlp

rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-3, -1, 60), rng.uniform(0.5, 2.5, 60)])[:, None]
y = np.sin(2 * x) + 0.1 * rng.normal(size=x.shape)

m = 30
nets = xpmlp.MLP([1, 32, 32, 1], "tanh", n_networks=m, initializer=xpmlp.normal(0.7), random_state=0)
began = time.perf_counter()
nets.fit(x, y, epochs=600, batch_size=None, learning_rate=0.01)
together = time.perf_counter() - began

line = np.linspace(-4.5, 4.5, 300)[:, None]
answers = nets.predict(line)[:, :, 0]  # (networks, points)
mean, spread = answers.mean(axis=0), answers.std(axis=0)

figure, ax = plt.subplots(figsize=(9, 4.6), layout="constrained")
ax.plot(line, answers.T, color="tab:blue", alpha=0.25, linewidth=0.8)
ax.fill_between(line[:, 0], mean - 2 * spread, mean + 2 * spread, alpha=0.2, label="mean ± 2 standard deviations")
ax.plot(line, mean, linewidth=2, label=f"mean of {m} networks")
ax.plot(x, y, ".", color="black", markersize=4, label="data")
ax.set(xlabel="x", ylabel="y", ylim=(-2.5, 2.5), title="Far from the data the networks part")
ax.legend(loc="upper center")

# %%
# Network i of them is the one that its seed would make alone, so any of them can be taken out and looked at. How long
# one takes alone, and thirty together, depends on the machine:

one = xpmlp.MLP([1, 32, 32, 1], "tanh", initializer=xpmlp.normal(0.7), random_state=nets.seeds[7])
began = time.perf_counter()
one.fit(x, y, epochs=600, batch_size=None, learning_rate=0.01)
alone = time.perf_counter() - began
print(f"the same network: {np.allclose(one.predict(line)[:, 0], answers[7])}")
print(f"one alone {alone:.2f} s, thirty together {together:.2f} s")
