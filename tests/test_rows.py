"""A row is what its functions are, not its name: wherever a short cut is taken for a row of a table, it is asked."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import xpmlp
from xpmlp import MLP, checks
from xpmlp.backends import array_namespace, select
from xpmlp.network import Network
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.initializers import INITIALIZERS, normal
from xpmlp.network.losses import LOSSES, huber, loss
from xpmlp.network.parameters import Layout
from xpmlp.optim.optimizers import OPTIMIZERS, optimizer
from xpmlp.optim.schedules import SCHEDULES
from xpmlp.runners.cuda_columns import obstacle
from xpmlp.runners.step import Task

TABLES = (ACTIVATIONS, LOSSES, INITIALIZERS, OPTIMIZERS, SCHEDULES)


def own_leaky(z):
    return array_namespace(z).maximum(z, 0.3 * z)


def own_leaky_derivative(z, a):
    xp = array_namespace(z)
    return 0.7 * xp.astype(z > 0, z.dtype) + 0.3


def half(z):
    return 0.5 * z


def half_derivative(z, a):
    return 0.5 * array_namespace(z).ones_like(z)


def quartic(y, yhat):
    return array_namespace(yhat).sum((yhat - y) ** 4, axis=-1)


def quartic_derivative(y, yhat):
    return 4.0 * (yhat - y) ** 3


def own_rates(t, lr, **_):
    return lr, lr, 1e-2 / t


LEAKY = replace(ACTIVATIONS["leaky_relu"], function=own_leaky, derivative=own_leaky_derivative)
RELU = replace(ACTIVATIONS["relu"], function=own_leaky, derivative=own_leaky_derivative)
HALF = replace(ACTIVATIONS["identity"], function=half, derivative=half_derivative, pullback=None)
QUARTIC = replace(LOSSES["squared_error"], value=quartic, derivative=quartic_derivative)
ADAM = replace(OPTIMIZERS["adam"], rates=own_rates)


def test_every_row_of_every_table_is_genuine_also_with_other_parameters():
    for table in TABLES:
        assert all(checks.genuine(row, table) for row in table.values())
    assert checks.genuine(loss("huber", delta=0.3), LOSSES)
    assert checks.genuine(loss("cross_entropy", label_smoothing=0.1), LOSSES)
    assert checks.genuine(optimizer("adam", beta_1=0.5, weight_decay=0.1), OPTIMIZERS)
    assert checks.genuine(normal(0.3), INITIALIZERS)


@pytest.mark.parametrize(
    "row, table",
    [
        (LEAKY, ACTIVATIONS),
        (replace(ACTIVATIONS["tanh"], derivative=own_leaky_derivative), ACTIVATIONS),
        (replace(ACTIVATIONS["softmax"], pullback=None), ACTIVATIONS),
        (replace(ACTIVATIONS["tanh"], name="mine"), ACTIVATIONS),
        (QUARTIC, LOSSES),
        (replace(LOSSES["huber"], value=partial(huber, delta=2.0)), LOSSES),  # and still called one of delta = 1
        (ADAM, OPTIMIZERS),
        (replace(OPTIMIZERS["momentum"], step=OPTIMIZERS["nesterov"].step), OPTIMIZERS),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_row_with_another_function_is_not(row, table):
    assert not checks.genuine(row, table)


@pytest.mark.parametrize(
    "hidden, output, its_loss",
    [
        (LEAKY, "identity", "squared_error"),
        (RELU, "identity", "squared_error"),
        ("tanh", HALF, "squared_error"),
        ("tanh", replace(HALF, name="sigmoid", outputs="probability"), "squared_error"),
        ("tanh", "identity", QUARTIC),
        ("tanh", "identity", replace(QUARTIC, name="one of my own")),
        ("tanh", "softmax", replace(loss("cross_entropy", label_smoothing=0.1), value=quartic)),
    ],
    ids=["leaky_relu", "relu", "identity", "sigmoid", "squared_error", "renamed", "cross_entropy"],
)
def test_it_trains_with_its_own_functions(hidden, output, its_loss, backend, rng):
    n_out = 3 if output == "softmax" else 1
    X, y = rng.normal(size=(40, 3)), np.eye(3)[rng.integers(3, size=40)] if n_out == 3 else rng.normal(size=(40, 1))
    where = {"backend": backend.name, "device": backend.place.device_name, "dtype": backend.dtypes[0]}
    net = MLP([3, 6, n_out], [hidden, output], its_loss, random_state=0, **where)
    X, y = (backend.put(values, backend.dtypes[0]) for values in (X, y))
    own = its_loss.value if not isinstance(its_loss, str) else LOSSES[its_loss].value
    of_functions = float(np.mean(np.asarray(xpmlp.to_numpy(own(y, net.forward(X))))))
    rtol = 1e-9 if backend.dtypes[0] == "float64" else 1e-4
    assert net.evaluate(X, y) == pytest.approx(of_functions, rel=rtol)
    net.fit(X, y, epochs=1, batch_size=None, optimizer="sgd", learning_rate=1e-3)
    assert net.history["loss"] == pytest.approx([of_functions], rel=rtol)


def test_own_rates_of_adam_are_the_same_on_every_backend(backend, rng):
    X, y, dtype = rng.normal(size=(60, 3)), rng.normal(size=(60, 1)), backend.dtypes[0]

    def trained(name, device, dtype, put):
        net = MLP([3, 4, 1], "tanh", backend=name, device=device, dtype=dtype, random_state=0)
        net.fit(put(X), put(y), epochs=3, batch_size=16, optimizer=ADAM, learning_rate=0.01)
        return np.asarray(xpmlp.to_numpy(net.parameters))

    here = trained(backend.name, backend.place.device_name, dtype, lambda values: backend.put(values, dtype))
    there = trained("numpy", None, "float64", lambda values: values)
    np.testing.assert_allclose(here, there, atol=1e-12 if dtype == "float64" else 1e-5)


def test_it_has_no_column_of_c():
    place = select("numpy", None)
    assert place is not None
    network = Network(Layout((3, 4, 1)), (ACTIVATIONS["relu"], ACTIVATIONS["identity"]), LOSSES["squared_error"])
    adam = OPTIMIZERS["adam"]
    assert obstacle(Task(network, adam)) == ""
    for task in (
        Task(replace(network, activations=(RELU, ACTIVATIONS["identity"])), adam),
        Task(replace(network, loss=QUARTIC), adam),
        Task(network, ADAM),
    ):
        assert "has no column of C" in obstacle(task)


def test_it_is_not_written_under_the_name_it_has(tmp_path):
    net = MLP([3, 4, 1], [LEAKY, "identity"], random_state=0)
    with pytest.raises(ValueError, match=re.escape("so it cannot hold 'leaky_relu', which is a function of your own.")):
        net.save(tmp_path / "net.safetensors")
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match=re.escape("ONNX has no word for the activation 'leaky_relu'")):
        net.to_onnx(tmp_path / "net.onnx")
