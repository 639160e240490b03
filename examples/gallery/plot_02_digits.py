"""
Hand-written digits
===================

``MLPClassifier`` takes scikit-learn's parameters and gives scikit-learn's attributes. Only the import is another.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from xpmlp import MLPClassifier
from xpmlp.plotting import FirstLayerDisplay

warnings.simplefilter("ignore", ConvergenceWarning)  # so many epochs were wanted, and no fewer

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0, stratify=y)

clf = MLPClassifier((64,), alpha=1e-3, batch_size=64, learning_rate_init=0.003, max_iter=80, tol=0, random_state=0)
clf.set_params(n_iter_no_change=80).fit(X_train, y_train)
print(f"{clf.score(X_test, y_test):.1%} of {len(y_test)} digits that it had never seen are right.")

# %%
# What the units of the first layer look for: red where ink raises the unit, blue where it lowers it.

FirstLayerDisplay.from_estimator(clf, n_units=16)

# %%
# The digits that it got wrong, and how sure it was. Most would make a person hesitate too.

p = clf.predict_proba(X_test)
wrong = np.flatnonzero(clf.predict(X_test) != y_test)[:8]
figure, axes = plt.subplots(1, len(wrong), figsize=(1.7 * len(wrong), 2.4), layout="constrained", squeeze=False)
for ax, i in zip(axes[0], wrong, strict=True):
    ax.imshow(X_test[i].reshape(8, 8), cmap="gray_r")
    ax.set_title(f"is {y_test[i]}\nsaid {p[i].argmax()}, {p[i].max():.0%}", fontsize=10)
    ax.set_axis_off()
