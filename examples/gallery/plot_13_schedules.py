"""
Learning-rate schedules
=======================

A learning rate that falls lets training begin in large steps and end in small ones. Every schedule is a function of
progress; a function of your own will do as well.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import xpmlp
from xpmlp.plotting import LossCurveDisplay, ScheduleDisplay

schedules = ["constant", xpmlp.schedule("cosine", warmup=3), "one_cycle", xpmlp.schedule("step", every=10, gamma=0.3)]
ScheduleDisplay.from_schedule(schedules, epochs=40, learning_rate=0.01)

# %%
# The same network, the same batches, the same largest rate; only the schedule differs.

X, labels = load_digits(return_X_y=True)
X, y = X / 16, np.eye(10)[labels]
figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
for schedule in schedules:
    net = xpmlp.MLP([64, 64, 10], loss="cross_entropy", dropout=0.2, random_state=0)
    net.fit(X[:1300], y[:1300], epochs=40, learning_rate=0.01, schedule=schedule, batch_size=32)
    name = getattr(schedule, "name", schedule)
    held_out = net.evaluate(X[1300:], y[1300:])
    LossCurveDisplay.from_history(net.history, ax=ax, name=f"{name} (held out {held_out:.3f})", mark_best=False)
