"""skl2onnx exports what holds an estimator, and onnxruntime answers as scikit-learn's objects do."""

import re
import warnings

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xpmlp
from xpmlp import MLPClassifier, MLPRegressor
from xpmlp.network.activations import ACTIVATIONS

onnxruntime = pytest.importorskip("onnxruntime")
skl2onnx = pytest.importorskip("skl2onnx")

rng = np.random.default_rng(0)
X = rng.normal(size=(90, 4)).astype(np.float32)
THREE = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
# Measured over this file in float32: 6e-7. The graph computes in float32 what the estimator may in float64.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}
RAW = {"zipmap": False}


@pytest.fixture(autouse=True)
def registered():
    xpmlp.register_onnx()


def fitted(kind, y, x=X, **parameters):
    given = {"hidden_layer_sizes": (6,), "max_iter": 15, "random_state": 0} | parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_pipeline(StandardScaler(), kind(**given)).fit(x, y)


def answers(pipeline, x=X, options=RAW, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = skl2onnx.to_onnx(pipeline, x[:1], options=options, **arguments)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"X": x})


CLASSES = {
    "two": X[:, 0] > 0,
    "three": THREE,
    "one": np.zeros(len(X), dtype=int),
    "text": np.array(["no", "yes", "perhaps"])[THREE],
    "text in objects": np.array(["no", "yes", "perhaps"], dtype=object)[THREE],
    "NumPy's text in objects": np.array([np.str_("no"), np.str_("yes"), np.str_("perhaps")], dtype=object)[THREE],
    "far apart": np.array([-5, 7, 2**40])[THREE],
    "unsigned": np.array([3, 200], dtype=np.uint8)[(X[:, 0] > 0) * 1],
    "floats that are whole": np.array([1.0, 2.0, 5.0])[THREE],
    "several labels": np.stack([X[:, 0] > 0, X[:, 1] > 0, X[:, 2] > 0], axis=1).astype(int),
}


@pytest.mark.parametrize("what", CLASSES)
def test_a_pipeline_with_a_classifier_answers_the_same_in_onnxruntime(what):
    pipeline = fitted(MLPClassifier, CLASSES[what])
    label, probabilities = answers(pipeline)
    expected = pipeline.predict(X)
    if expected.dtype.kind in "bf":  # skl2onnx writes these labels of any classifier as whole numbers
        expected = expected.astype(np.int64)
    np.testing.assert_array_equal(label, expected)
    np.testing.assert_allclose(probabilities, pipeline.predict_proba(X), **TOLERANCE)
    assert probabilities.shape == pipeline.predict_proba(X).shape


NUMBERS = {
    "one output": (X[:, 2], {}),
    "three outputs": (X[:, :3], {}),
    "exp": (np.exp(X[:, 0]), {"loss": "poisson"}),
    "quantiles": (X[:, 2], {"loss": "pinball", "quantile": [0.9, 0.1, 0.5]}),
    "no hidden layer": (X[:, 2], {"hidden_layer_sizes": ()}),
}


@pytest.mark.parametrize("what", NUMBERS)
def test_a_pipeline_with_a_regressor_answers_the_same_in_onnxruntime(what):
    y, parameters = NUMBERS[what]
    pipeline = fitted(MLPRegressor, y, **parameters)
    (answer,) = answers(pipeline, options=None)
    expected = pipeline.predict(X)
    np.testing.assert_allclose(answer, expected.reshape(len(X), -1), **TOLERANCE)


@pytest.mark.parametrize("name", [name for name, row in ACTIVATIONS.items() if row.outputs != "distribution"])
def test_every_activation_goes_into_a_pipeline(name):
    pipeline = fitted(MLPClassifier, THREE, activation=name)
    np.testing.assert_allclose(answers(pipeline)[1], pipeline.predict_proba(X), **TOLERANCE)


@pytest.mark.parametrize("classes", ["two", "three", "text"])
def test_a_calibrated_classifier_answers_the_same_in_onnxruntime(classes):
    y = CLASSES[classes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner = MLPClassifier((6,), max_iter=15, random_state=0)
        model = make_pipeline(StandardScaler(), CalibratedClassifierCV(inner, cv=2)).fit(X, y)
    np.testing.assert_allclose(answers(model)[1], model.predict_proba(X), **TOLERANCE)


def test_two_of_them_in_one_model_keep_their_weights_apart():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        members = [(f"m{seed}", MLPClassifier((5,), max_iter=9, random_state=seed)) for seed in range(2)]
        model = VotingClassifier(members, voting="soft", flatten_transform=False).fit(X, THREE)
    np.testing.assert_allclose(answers(model)[1], model.predict_proba(X), **TOLERANCE)


def test_in_float64_the_graph_computes_in_float64():
    wide = X.astype(np.float64)
    pipeline = fitted(MLPClassifier, THREE, wide)
    _, probabilities = answers(pipeline, wide)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, pipeline.predict_proba(wide), rtol=1e-12)


def test_classes_go_by_number_or_with_zipmap_where_skl2onnx_is_asked_for_it():
    pipeline = fitted(MLPClassifier, CLASSES["text"])
    step = pipeline.steps[-1][1]
    by_number, _ = answers(pipeline, options={id(step): {"nocl": True, "zipmap": False}})
    np.testing.assert_array_equal(step.classes_[by_number], pipeline.predict(X))
    _, mapped = answers(pipeline, options=None)
    assert set(mapped[0]) == {"no", "yes", "perhaps"}
    assert mapped[0]["yes"] == pytest.approx(
        pipeline.predict_proba(X[:1])[0, list(step.classes_).index("yes")], abs=1e-6
    )


def test_an_older_opset_may_be_asked_for():
    pipeline = fitted(MLPClassifier, THREE, activation="gelu")
    _, probabilities = answers(pipeline, target_opset=13)
    np.testing.assert_allclose(probabilities, pipeline.predict_proba(X), **TOLERANCE)


REFUSED = {
    "beyond int64": (np.array([2**63, 2**63 + 1], dtype=np.uint64), "ONNX holds whole numbers as int64"),
    "half a letter": (np.array(["a", "\ud800"]), "which has no letter for the half of a pair in the label '\\ud800'"),
    "half a letter, in objects": (np.array(["a", "\udfff"], dtype=object), "ONNX holds text as UTF-8"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_labels_that_onnx_cannot_hold_are_refused_alone_and_in_a_pipeline(what, tmp_path):
    classes, text = REFUSED[what]
    pipeline = fitted(MLPClassifier, classes[(X[:, 0] > 0) * 1])
    with pytest.raises(ValueError, match=re.escape(text)):
        pipeline.steps[-1][1].to_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=re.escape(text)):
        answers(pipeline)


def test_one_class_has_two_columns_in_a_file_of_its_own_too(tmp_path):
    pipeline = fitted(MLPClassifier, CLASSES["one"])
    clf = pipeline.steps[-1][1]
    clf.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    label, probabilities = session.run(None, {"X": X})
    np.testing.assert_array_equal(label, clf.predict(X))
    np.testing.assert_allclose(probabilities, clf.predict_proba(X), **TOLERANCE)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)
