"""Made the golden files of version 0.1.0 (format 1): `python tests/golden/make.py FOLDER`.

A golden file is never changed and never made again: it stands for what users have on their disks. A new kind of model,
or a new format, adds files, and their entries in expected.json.
"""

import hashlib
import json
import sys
import warnings
from pathlib import Path

import numpy as np

from xpmlp import MLP, MLPClassifier, MLPRegressor, loss, normal

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3)).round(3)
wave = np.sin(X.sum(axis=1))
words = np.asarray(["no", "perhaps", "yes"])
probe = X[:5]


def made() -> dict[str, object]:
    """The models, by file name."""
    X32, wave32 = X.astype(np.float32), wave.astype(np.float32)
    short = {"max_iter": 5, "random_state": 0}
    mlp = MLP([3, 5, 4, 1], activations=["relu", "tanh", "identity"], random_state=1)
    many = MLP([3, 4, 1], n_networks=3, random_state=2, initializer=normal(0.3))
    single = MLP([3, 4, 3], activations="gelu", loss=loss("cross_entropy", label_smoothing=0.1), dtype="float32")
    quantiles = MLP(
        [3, 4, 2], activations="selu", loss=loss("pinball", quantile=(0.1, 0.9)), dropout=0.1, random_state=4
    )
    codes = np.eye(3, dtype=np.float32)[np.arange(40) % 3]
    return {
        "mlp-float64": mlp.fit(X, wave, epochs=3),
        "mlp-many": many.fit(X, wave, epochs=3),
        "mlp-float32": single.fit(X32, codes, epochs=3),
        "mlp-quantiles": quantiles.fit(X, wave, epochs=3),
        "classifier-binary-text-float64": MLPClassifier((4,), **short).fit(X, words[(wave > 0) * 2]),
        "classifier-binary-bool-float32": MLPClassifier((4,), **short).fit(X32, wave > 0),
        "classifier-multi-text-float32": MLPClassifier((4, 3), activation="tanh", **short).fit(
            X32, words[np.arange(40) % 3]
        ),
        "classifier-multi-int-float64": MLPClassifier((4,), class_weight={1: 1.0, 5: 2.0, 9: 1.0}, **short).fit(
            X, np.asarray([1, 5, 9])[np.arange(40) % 3]
        ),
        "classifier-object-float64": MLPClassifier((4,), early_stopping=True, **short).fit(
            X, words.astype(object)[np.arange(40) % 3]
        ),
        "classifier-multilabel-float64": MLPClassifier((4,), **short).fit(X, (X > 0).astype(int)),
        "classifier-multilabel-float32": MLPClassifier((4,), **short).fit(X32, (X > 0).astype(int)),
        "classifier-partial-float64": MLPClassifier((4,), **short).partial_fit(
            X, words[np.arange(40) % 3], classes=words
        ),
        "regressor-float64": MLPRegressor(hidden_layer_sizes=(4,), solver="lbfgs", **short).fit(X, X[:, :2]),
        "regressor-float32": MLPRegressor(hidden_layer_sizes=(4,), solver="sgd", **short).fit(X32, wave32),
        "regressor-poisson-float64": MLPRegressor("poisson", (4,), **short).fit(X, np.abs(wave)),
        "regressor-quantiles-float64": MLPRegressor("pinball", (4,), quantile=[0.1, 0.5, 0.9], **short).fit(X, wave),
    }


def main(folder: Path) -> None:
    """Write the files and what they must answer."""
    warnings.simplefilter("ignore")
    expected = {}
    for name, model in made().items():
        path = folder / f"{name}.safetensors"
        model.save(path)
        dtype = name.rpartition("-")[2] if "float" in name else "float64"
        methods = ("predict", "predict_proba") if hasattr(model, "predict_proba") else ("predict",)
        x = probe.astype(dtype)
        expected[path.name] = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "dtype": dtype,
            "X": x.tolist(),
            "outputs": {method: getattr(model, method)(x).tolist() for method in methods},
        }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
