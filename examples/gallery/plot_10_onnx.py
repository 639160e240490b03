"""
To a phone, a browser, a microcontroller: ONNX
==============================================

``to_onnx`` writes the fitted network as an ONNX model. A runtime that knows neither xpmlp nor Python gives the same
answers from it.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

from xpmlp import MLPClassifier

iris = load_iris()
X_train, X_test, y_train, y_test = train_test_split(iris.data, iris.target_names[iris.target], random_state=0)
clf = MLPClassifier((16,), solver="lbfgs", alpha=0.1, max_iter=2000, random_state=0).fit(X_train, y_train)

file = Path(tempfile.mkdtemp()) / "iris.onnx"
clf.to_onnx(file)
print(f"{file.name}: {file.stat().st_size:,} bytes")

# %%
# The runtime answers with labels and probabilities.

session = onnxruntime.InferenceSession(file)
label, p = session.run(["label", "probabilities"], {"X": X_test.astype("float32")})
print("same labels:", np.array_equal(label, clf.predict(X_test)))
print("first three:", list(label[:3]))

figure, ax = plt.subplots(figsize=(5.4, 5), layout="constrained")
ours = clf.predict_proba(X_test)
for j, name in enumerate(clf.classes_):
    ax.plot(ours[:, j], p[:, j], "o", alpha=0.6, label=name)
ax.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
ax.set(xlabel="probability, xpmlp", ylabel="probability, onnxruntime", aspect="equal")
ax.set_title(f"largest difference {np.abs(ours - p).max():.0e}, in float32")
ax.legend()
