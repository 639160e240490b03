"""Made the golden pickles with xpmlp 0.1.0, before its modules moved into folders: `python make.py FOLDER`.

They are never made again: they stand for what users have on their disks.
"""

import json
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np

from xpmlp import MLP, MLPClassifier, MLPRegressor

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3)).round(3)
wave = np.sin(X.sum(axis=1))
words = np.asarray(["no", "perhaps", "yes"])
short = {"max_iter": 5, "random_state": 0}
models = {
    "classifier": MLPClassifier((4,), **short).fit(X, words[np.arange(40) % 3]),
    "classifier-partial": MLPClassifier((4,), activation="tanh", **short).partial_fit(
        X, wave > 0, classes=[False, True]
    ),
    "regressor-quantiles": MLPRegressor("pinball", (4,), quantile=[0.1, 0.9], **short).fit(X, wave),
    "mlp": MLP([3, 4, 1], random_state=0).fit(X, wave, epochs=2),
}
folder = Path(sys.argv[1])
expected = {}
for name, model in models.items():
    (folder / f"{name}.pickle").write_bytes(pickle.dumps(model, protocol=4))
    expected[name] = model.predict(X[:5]).tolist()
(folder / "expected.json").write_text(json.dumps({"X": X[:5].tolist(), "predict": expected}, indent=1) + "\n")
