"""Parity: training on each backend arrives where NumPy does, and NumPy where plain steps do (DESIGN, section 7)."""

import numpy as np
import pytest
from witnesses import mlp

from xpmlp import MLP
from xpmlp.backends import BACKENDS, Place
from xpmlp.network import Network
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.losses import LOSSES
from xpmlp.optim.optimizers import OPTIMIZERS
from xpmlp.runners import Data, eager
from xpmlp.runners.step import State, Task

# 34 samples in batches of 8: four whole ones and one of 2. 20 epochs of 5 steps are 100.
N, BATCH, EPOCHS = 34, 8, 20


@pytest.fixture
def data(rng):
    X = rng.normal(size=(N, 3))
    classes = (X[:, 0] * X[:, 1] > 0).astype(int) + (X[:, 2] > 0.5)
    return X, np.eye(3)[classes]


# Largest relative difference of the parameters after 100 steps on every backend: 5e-16 in float64, 5e-7 in float32.
@pytest.mark.parametrize("options", [{}, {"n_networks": 2}], ids=["one network", "two networks"])
def test_a_hundred_steps_of_adam_arrive_where_numpy_does(options, backend, data):
    if options and not backend.float64:
        pytest.skip("one network in float32 and two in float64 have been compared")
    X, y = data
    sizes, activations = [3, 8, 6, 3], ["tanh", "gelu", "softmax"]
    here_fit = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.01, "shuffle": True}
    reference = MLP(sizes, activations, "cross_entropy", random_state=3, **options).fit(X, y, **here_fit)
    for dtype in backend.dtypes if not options else backend.dtypes[:1]:
        net = mlp(backend, sizes, activations, "cross_entropy", random_state=3, dtype=dtype, **options)
        begun = backend.get(net.parameters).copy()
        net.fit(backend.put(X, dtype), backend.put(y, dtype), **here_fit)
        tolerance = backend.tolerance(dtype)
        assert np.max(np.abs(backend.get(net.parameters) - begun)) > 0.1, "nothing was learned"
        backend.assert_close(net.parameters, reference.parameters, rtol=tolerance, dtype=dtype)
        yhat = net.predict(backend.put(X, dtype))
        backend.assert_close(yhat, reference.predict(X), rtol=tolerance, dtype=dtype)
        np.testing.assert_allclose(net.history["loss"], reference.history["loss"], rtol=tolerance)


def test_numpy_itself_arrives_where_plain_steps_do(data):
    # The reference above is an `MLP`, whose runner may be a fast one: hold it to the eager meaning of a step.
    X, y = data
    net = MLP([3, 8, 6, 3], ["tanh", "gelu", "softmax"], "cross_entropy", random_state=3)
    place = Place(BACKENDS["numpy"], np, "cpu")
    network = Network(net.layout, tuple(ACTIVATIONS[f] for f in ("tanh", "gelu", "softmax")), LOSSES["cross_entropy"])
    task = Task(network, OPTIMIZERS["adam"])
    state = State(net.parameters.copy(), OPTIMIZERS["adam"].init(net.parameters).slots, 0)
    runner = eager.Runner(task, Data(place, X, y, None, BATCH))
    for _ in range(EPOCHS):
        state, _ = runner.epoch(state, None, lambda i: 0.01)
    net.fit(X, y, epochs=EPOCHS, batch_size=BATCH, learning_rate=0.01, shuffle=False)
    assert state.t == 100
    np.testing.assert_allclose(net.parameters, state.p, rtol=0, atol=1e-12)
