"""
How much it may be: quantile regression
=======================================

The mean says nothing of how far off it may be. With ``loss="pinball"`` one network learns several quantiles at once:
the line that one value in twenty stays below, the median, and the line that one in twenty exceeds. They never cross.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from xpmlp import MLPRegressor

warnings.simplefilter("ignore", ConvergenceWarning)  # so many epochs were wanted, and no fewer

rng = np.random.default_rng(0)
x = np.sort(rng.uniform(-4, 4, 2000))
y = np.sin(1.5 * x) + (0.1 + 0.2 * np.abs(x)) * rng.normal(size=len(x))

quantiles = [0.05, 0.5, 0.95]
model = MLPRegressor(
    loss="pinball",
    quantile=quantiles,
    hidden_layer_sizes=(64, 32),
    learning_rate_init=0.01,
    learning_rate="cosine",
    max_iter=80,
    n_iter_no_change=80,
    random_state=0,
).fit(x[:, None], y)
low, median, high = model.predict(x[:, None]).T

figure, ax = plt.subplots(figsize=(9, 4.6), layout="constrained")
ax.plot(x, y, ".", markersize=3, alpha=0.4, color="gray", label="data")
ax.fill_between(x, low, high, alpha=0.25, label="from the 5 % to the 95 % quantile")
ax.plot(x, median, linewidth=2, label="median")
ax.set(
    xlabel="x", ylabel="y", title=f"{np.mean((y >= low) & (y <= high)):.1%} of the points lie in the band (90 % wanted)"
)
ax.legend(loc="upper center", ncols=3)
ax.set_ylim(-3.6, 4.2)
