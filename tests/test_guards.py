"""Guards stand around the maths itself: what a program set elsewhere, or typed as the tutorial has it, does no harm."""

import re
import warnings

import numpy as np
import pytest

import xpmlp
from xpmlp import MLP
from xpmlp.network.activations import activation


@pytest.mark.parametrize("output, its_loss", [("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy")])
def test_saturated_outputs_are_answers_under_seterr_raise(output, its_loss, rng):
    X, n_out = 1e5 * rng.normal(size=(30, 4)), 1 if output == "sigmoid" else 3
    y = np.eye(3)[rng.integers(3, size=30)][:, :n_out]
    net = MLP([4, 5, n_out], ["tanh", output], its_loss, random_state=0)
    net.parameters = 1e3 * net.parameters
    plain = net.predict(X), net.evaluate(X, y)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(net.predict(X), plain[0])
        assert net.evaluate(X, y) == plain[1]
        # In place a sigmoid takes the exponential of -|z|: 1e-61 where through tanh it is 0.
        np.testing.assert_allclose(net.forward(X), plain[0], rtol=0.0, atol=1e-15)
        net.backward(y)
        net.update(0.1)
        xpmlp.diagnose(net, X, y)
        assert xpmlp.check_gradients(net, X[:5], y[:5])


def test_the_derivative_of_a_saturated_output_is_infinite_without_a_warning():
    net = MLP([1, 1], ["sigmoid"], "binary_cross_entropy", random_state=0).set_weights([[[1.0]]], [[0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.forward(np.array([[800.0]]))
        net.backward(np.array([0.0]))
    assert np.isinf(net.da[1]).all()
    assert net.dz[1] == 1.0


def test_a_tensor_with_a_graph_leaves_it_at_the_door():
    torch = pytest.importorskip("torch")
    X = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    y = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    net = MLP([2, 3, 1], "tanh", backend="torch", random_state=0)
    net.parameters = net.parameters.clone().requires_grad_()
    for _ in range(2):
        net.forward(X)
        net.backward(y, torch.ones(5, dtype=torch.float64, requires_grad=True))
        net.update(0.1)
    net.set_weights([W.clone().requires_grad_() for W in net.W[1:]], [b.clone().requires_grad_() for b in net.b[1:]])
    seen = [net.parameters, net.predict(X), *net.dW[1:], *net.db[1:], *net.z[1:], *net.da]
    assert not any(tensor.requires_grad for tensor in seen)


@pytest.mark.parametrize("shape", ["(batch, 1)", "(batch,)", "a list"])
def test_yhat_is_not_taken_for_weights(shape, rng):
    net = MLP([2, 3, 1], ["relu", "sigmoid"], "binary_cross_entropy", random_state=0)
    yhat = net.forward(rng.normal(size=(6, 2)))
    given = {"(batch, 1)": yhat, "(batch,)": yhat[:, 0].copy(), "a list": yhat.tolist()}[shape]
    with pytest.raises(ValueError, match=re.escape("takes the targets alone; its second argument is sample_weight")):
        net.backward(np.ones(6), given)
    net.backward(np.ones(6), np.ones(6))


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_whole_numbers_are_targets(dtype, rng):
    X, y = rng.normal(size=(6, 2)), np.array([0, 1, 1, 0, 1, 0])
    net = MLP([2, 3, 1], ["relu", "sigmoid"], "binary_cross_entropy", random_state=0)
    net.forward(X)
    net.backward(y.astype(float))
    right = net.dW[1]
    net.forward(X)
    net.backward(y.astype(dtype))
    np.testing.assert_array_equal(net.dW[1], right)


def test_whole_numbers_that_floats_do_not_hold_are_refused(rng):
    net = MLP([2, 3, 1], random_state=0)
    with pytest.raises(TypeError, match=re.escape("y must be an array of real floating numbers; got dtype int64.")):
        net.fit(rng.normal(size=(2, 2)), np.array([2**53 + 1, 0]))


@pytest.mark.parametrize("y", [np.arange(6) % 3, (np.arange(6) % 3)[:, None], (np.arange(6) % 3) * 1.0, [0, 1, 2] * 2])
def test_class_numbers_for_a_cross_entropy_are_told_how_to_become_one_hot(y, rng):
    net, X = MLP([2, 3, 3], "tanh", "cross_entropy", random_state=0), rng.normal(size=(6, 2))
    with pytest.raises(ValueError, match=re.escape("numpy.eye(3)[numpy.ravel(y).astype(int)] makes one-hot rows.")):
        net.fit(X, y)
    net.fit(X, np.eye(3)[np.ravel(y).astype(int)], epochs=1)


def test_images_are_told_how_to_become_rows(rng):
    net = MLP([784, 3, 1], random_state=0)
    with pytest.raises(
        ValueError, match=re.escape("got (10, 28, 28). Lay the numbers of each sample in one row: x.res")
    ):
        net.forward(rng.normal(size=(10, 28, 28)))


@pytest.mark.parametrize(
    "derivative", [lambda z: 2.0 * z, lambda a: 2.0 * np.sqrt(a), lambda z, a: 2.0 * z], ids=["z", "a", "both"]
)
def test_a_derivative_of_one_argument_is_taken(derivative, rng):
    X, y = np.abs(rng.normal(size=(6, 2))), rng.normal(size=6)
    net = MLP([2, 3, 1], [(np.square, derivative), "identity"], random_state=0)
    net.parameters = np.abs(net.parameters) + 0.1
    assert xpmlp.check_gradients(net, X, y)


def test_a_derivative_that_would_be_written_into_is_asked_for_one_argument():
    z = np.array([[0.3]])
    a = np.sin(z)
    assert activation((np.sin, np.cos)).derivative(z, a) == np.cos(0.3)
    assert a == np.sin(z)  # numpy.cos(z, a) would write into a


@pytest.mark.parametrize(
    "pair, message",
    [
        ((lambda z, a: z, lambda z, a: a), "does not take 1 argument. Write it as f(z)"),
        ((np.tanh, lambda z, a, da: a), "does not take 2 arguments. Write it as f'(z, a)"),
    ],
)
def test_functions_of_other_arguments_are_refused_at_once(pair, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        MLP([2, 3, 1], [pair, "identity"])
