"""
Stop today, go on tomorrow
==========================

With ``checkpoint=`` a training leaves its whole state in a folder after every epoch: weights, the optimizer's memory,
the generators of the batches. Taken up again, it ends in the same bits as one that was never stopped.
"""

import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes

import xpmlp

X, y = load_diabetes(return_X_y=True)
y = (y - y.mean()) / y.std()


def network():
    return xpmlp.MLP([10, 32, 1], dropout=0.2, random_state=0)


folder = tempfile.mkdtemp()
arguments = {"learning_rate": 0.003, "schedule": "cosine"}

whole = network().fit(X, y, epochs=60, **arguments)


def power_cut(net, epoch, logs):
    if epoch == 25:
        raise RuntimeError("no power")


try:
    network().fit(X, y, epochs=60, checkpoint=folder, callbacks=[power_cut], **arguments)
except RuntimeError:
    print("The power is gone after 25 epochs.")

taken_up = xpmlp.resume(folder, X, y)
print(f"The same bits: {np.array_equal(whole.parameters, taken_up.parameters)}")

# %%
# The file also holds the history, so the curve has no gap.

figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.plot(range(1, 61), whole.history["loss"], linewidth=6, alpha=0.3, label="never stopped")
ax.plot(range(1, 61), taken_up.history["loss"], linewidth=1.5, color="black", label="stopped, taken up")
ax.axvline(25, linestyle=":", color="gray")
ax.text(25.5, max(whole.history["loss"]) * 0.97, "stopped here")
ax.set(xlabel="epoch", ylabel="loss")
ax.legend()
