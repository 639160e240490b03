"""ONNX: what a runtime says of an exported model is what the model says.

Two witnesses: onnxruntime runs what export.py wrote by hand; ndonnx traces our own forward pass, so that the graph it
makes owes nothing to export.py.
"""

from __future__ import annotations

import os
import re
import warnings

import numpy as np
import pytest

import xpmlp
from xpmlp import MLP, MLPClassifier, MLPRegressor
from xpmlp.interop.onnx import ACTIVATIONS as EXPORTED
from xpmlp.io.storage import FileFormatError
from xpmlp.network import Parameters, forward
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.losses import LOSSES

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# The largest difference over the largest value, 13 activations in 3 layers of 8 units: measured 4e-7 and 3e-15.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def run(path, X):
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"X": X}), strict=True))


def close(there, here, dtype):
    assert there.dtype == dtype
    assert there.shape == here.shape
    assert np.max(np.abs(there - here)) <= TOLERANCE[dtype] * max(np.max(np.abs(here)), 1.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


@pytest.fixture
def X(rng):
    return rng.normal(size=(50, 4))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_says_in_onnx_what_it_says_here(name, dtype, path, X):
    hidden = "tanh" if name in ("softmax", "exp") else name
    net = MLP([4, 8, 8, 3], activations=[hidden, hidden, name], loss=loss_for(name), dtype=dtype, random_state=1)
    net.to_onnx(path, dtype=dtype)
    for rows in (1, 7, 50):  # any number of them
        x = (X[:rows] * 2.0).astype(dtype)
        close(run(path, x)["yhat"], net.predict(x), dtype)


def loss_for(name):
    return {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy", "exp": "poisson"}.get(name, "squared_error")


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_exports_with_its_link(name, path, X):
    net = MLP([4, 5, 1 if name == "pinball" else 3], loss=name, random_state=1)
    net.to_onnx(path)
    close(run(path, X.astype(np.float32))["yhat"], net.predict(X).astype(np.float32), "float32")


def test_every_activation_of_the_table_has_a_word_in_onnx():
    assert set(EXPORTED) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_far_out_stay_finite_where_ours_do(name, path):
    net = MLP([1, 1], activations=[name], loss=loss_for(name), dtype="float32", random_state=1)
    net.set_weights([[[1.0]]], [[0.0]])
    net.to_onnx(path)
    x = np.asarray([[-1e4], [-90.0], [-20.0], [-1e-3], [0.0], [1e-3], [20.0], [80.0]], dtype=np.float32)
    np.testing.assert_allclose(run(path, x)["yhat"], net.predict(x), rtol=1e-5, atol=1e-7)


def test_several_networks_export_as_one(path, X):
    net = MLP([4, 5, 2], n_networks=3, random_state=1)
    net.to_onnx(path)
    close(run(path, X.astype(np.float32))["yhat"], net.predict(X).astype(np.float32), "float32")


def test_a_network_of_any_backend_exports(backend, path, X):
    dtype = backend.dtypes[0]
    where = {"backend": backend.name, "device": backend.place.device_name}
    net = MLP([4, 5, 2], dtype=dtype, random_state=1, **where)
    net.to_onnx(path)
    close(
        run(path, X.astype(np.float32))["yhat"], backend.get(net.predict(backend.put(X, dtype))).astype("f4"), "float32"
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_graph_that_ndonnx_traces_of_our_forward_pass_says_the_same(name, path, X):
    ndx = pytest.importorskip("ndonnx")
    hidden = "tanh" if name in ("softmax", "exp") else name
    net = MLP([4, 8, 3], activations=[hidden, name], loss=loss_for(name), dtype="float32", random_state=1)
    net.to_onnx(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ndonnx and of what it needs
        x = ndx.argument(shape=("batch", 4), dtype=ndx.float32)
        W, b = ([None, *(ndx.asarray(np.array(part)) for part in parts[1:])] for parts in (net.W, net.b))
        trace = forward(net.network, Parameters(W, b), x)
        traced = path.with_name("traced.onnx")
        onnx.save(ndx.build({"X": x}, {"yhat": trace.a[-1]}), traced)
    X = X.astype(np.float32)
    ours, theirs = run(path, X)["yhat"], run(traced, X)["yhat"]
    close(theirs, net.predict(X), "float32")
    close(ours, theirs, "float32")


LABELS = {
    "text": np.asarray(["no", "yes", "perhaps"]),
    "objects": np.asarray(["no", "yes", "perhaps"], dtype=object),
    "integers": np.asarray([-5, 3, 2**40]),
    "small integers": np.asarray([1, 2, 3], dtype=np.int8),
    "floats": np.asarray([1.0, 2.0, 4.0]),
}


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", LABELS)
def test_a_classifier_exports_its_labels_and_probabilities(name, classes, path, X, quiet):
    y = LABELS[name][:classes][np.arange(len(X)) % classes]
    clf = MLPClassifier((6,), max_iter=20, random_state=0).fit(X, y)
    clf.to_onnx(path)
    there = run(path, X.astype(np.float32))
    assert list(there) == ["label", "probabilities"]
    assert there["label"].tolist() == clf.predict(X).tolist()
    close(there["probabilities"], clf.predict_proba(X).astype(np.float32), "float32")


def test_a_classifier_of_booleans_exports(path, X, quiet):
    clf = MLPClassifier((6,), max_iter=20, random_state=0).fit(X, X[:, 0] > 0)
    clf.to_onnx(path)
    there = run(path, X.astype(np.float32))
    assert there["label"].dtype == bool
    assert there["label"].tolist() == clf.predict(X).tolist()


def test_a_classifier_of_one_class_exports(path, X, quiet):
    clf = MLPClassifier((6,), max_iter=3, random_state=0).fit(X, np.full(len(X), "only"))
    clf.to_onnx(path)
    there = run(path, X.astype(np.float32))
    assert there["label"].tolist() == clf.predict(X).tolist()
    close(there["probabilities"], clf.predict_proba(X).astype(np.float32), "float32")


def test_a_classifier_of_several_labels_exports(path, X, quiet):
    clf = MLPClassifier((6,), max_iter=20, random_state=0).fit(X, (X[:, :3] > 0).astype(int))
    clf.to_onnx(path)
    there = run(path, X.astype(np.float32))
    np.testing.assert_array_equal(there["label"], clf.predict(X))
    close(there["probabilities"], clf.predict_proba(X).astype(np.float32), "float32")


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "absolute_error", "huber"])
@pytest.mark.parametrize("width", [1, 2])
def test_a_regressor_exports(loss, width, path, X, quiet):
    y = np.abs(X[:, :width])
    reg = MLPRegressor(loss, (6,), max_iter=5, random_state=0).fit(X, y[:, 0] if width == 1 else y)
    reg.to_onnx(path)
    there = run(path, X.astype(np.float32))
    assert list(there) == ["variable"]
    close(there["variable"], reg.predict(X).reshape(-1, width).astype(np.float32), "float32")


def test_quantiles_export_uncrossed(path, X, quiet):
    reg = MLPRegressor("pinball", (6,), quantile=[0.9, 0.1, 0.5], max_iter=1, random_state=0).fit(X, X[:, 0])
    reg.to_onnx(path)
    there = run(path, X.astype(np.float32))["variable"]
    close(there, reg.predict(X).astype(np.float32), "float32")
    assert np.all(there[:, 1] <= there[:, 2])


def test_the_names_are_those_of_skl2onnx(tmp_path, X, quiet):
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.neural_network import MLPClassifier as TheirClassifier
    from sklearn.neural_network import MLPRegressor as TheirRegressor

    targets = np.asarray(["a", "b", "c"])[np.arange(len(X)) % 3], X[:, 0]
    for ours, theirs, y in zip((MLPClassifier, MLPRegressor), (TheirClassifier, TheirRegressor), targets, strict=True):
        model = ours(hidden_layer_sizes=(4,), max_iter=2).fit(X, y)
        twin = theirs(hidden_layer_sizes=(4,), max_iter=2).fit(X, y)
        types = [("X", skl2onnx.common.data_types.FloatTensorType([None, 4]))]
        options = {"zipmap": False} if ours is MLPClassifier else {}
        reference = skl2onnx.convert_sklearn(
            twin, initial_types=types, options={id(twin): options} if options else None
        )
        model.to_onnx(tmp_path / "model.onnx")
        graph = onnx.load(tmp_path / "model.onnx").graph

        def shape(value):
            return [dimension.dim_value or None for dimension in value.type.tensor_type.shape.dim]

        for side in ("input", "output"):
            here, there = getattr(graph, side), getattr(reference.graph, side)
            assert [v.name for v in here] == [v.name for v in there]
            assert [v.type.tensor_type.elem_type for v in here] == [v.type.tensor_type.elem_type for v in there]
            assert [shape(v) for v in here] == [shape(v) for v in there]


def test_the_model_says_what_it_is(path):
    MLP([2, 3, 1], random_state=1).to_onnx(path)
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.producer_name == "xpmlp"
    assert {node.op_type for node in model.graph.node} <= {"Gemm", "Max", "Identity"}
    onnx.checker.check_model(model, full_check=True)


def test_functions_of_the_users_own_are_refused(path):
    net = MLP([2, 2, 1], activations=[(np.sin, lambda z, a: np.cos(z)), "identity"])
    with pytest.raises(
        ValueError, match=re.escape("ONNX has no word for the activation 'own sin', which is a function of")
    ):
        net.to_onnx(path)
    assert not path.exists()


def test_labels_that_are_a_mixture_are_refused(path, X, quiet):
    clf = MLPClassifier((3,), max_iter=2).fit(X, np.asarray(["a", "b"])[np.arange(len(X)) % 2])
    clf.classes_ = np.asarray(["a", 1], dtype=object)
    with pytest.raises(ValueError, match="ONNX has no type for labels such as"):
        clf.to_onnx(path)


def test_a_dtype_that_runtimes_lack_is_refused(path):
    with pytest.raises(ValueError, match=re.escape("dtype must be one of 'float32', 'float64'; got 'float16'")):
        MLP([2, 1]).to_onnx(path, dtype="float16")


def test_without_onnx_the_error_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'onnx>=1.17'")):
        MLP([2, 1]).to_onnx(path)


def test_an_onnx_file_is_not_a_model_to_load(path):
    MLP([2, 1]).to_onnx(path)
    with pytest.raises(FileFormatError):
        xpmlp.load(path)


def test_the_comparison_objects():
    # The test is tested: a unit in the fifth digit is seen.
    here = np.linspace(0.0, 1.0, 5, dtype=np.float32)
    with pytest.raises(AssertionError):
        close(here * np.float32(1.0001), here, "float32")
