"""
A class that is rare
====================

Five in a hundred samples belong to the class that matters. A network that is asked to be right as often as possible
leaves most of them out. ``class_weight="balanced"`` lets both classes weigh the same in the loss.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import recall_score

from xpmlp import MLPClassifier
from xpmlp.plotting import DecisionBoundaryDisplay

warnings.simplefilter("ignore", ConvergenceWarning)  # so many epochs were wanted, and no fewer


def data(n, seed):
    rng = np.random.default_rng(seed)
    rare = rng.random(n) < 0.05
    X = rng.normal(size=(n, 2)) * np.where(rare, 0.7, 1.0)[:, None] + np.where(rare, 1.3, 0.0)[:, None]
    return X, rare.astype(int)


X, y = data(1500, 0)
X_new, y_new = data(20000, 1)

figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
for ax, weight in zip(axes, (None, "balanced"), strict=True):
    clf = MLPClassifier((16,), class_weight=weight, max_iter=150, learning_rate_init=0.01, tol=0, random_state=0)
    clf.set_params(n_iter_no_change=150).fit(X, y)
    found = recall_score(y_new, clf.predict(X_new))
    alarms = np.mean(clf.predict(X_new)[y_new == 0])
    DecisionBoundaryDisplay.from_estimator(clf, X, y, ax=ax, class_names=["common", "rare"], s=6)
    ax.set_title(f"class_weight={weight!r}: finds {found:.0%} of the rare,\nfalse alarm for {alarms:.0%} of the common")

# %%
# Which of the two is right depends on what a miss costs, and what a false alarm. A dictionary says anything in
# between: ``class_weight={0: 1.0, 1: 5.0}``.
