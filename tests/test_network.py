"""Forward and backward: against differences, digits worked by hand, the textbook's sums, autodiff, and themselves."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from witnesses import by_units, differences, relative, targets

from xpmlp.network import Drop, Network, Parameters, backward, forward, mean, sample_losses
from xpmlp.network.activations import ACTIVATIONS, activation
from xpmlp.network.losses import LOSSES, loss
from xpmlp.network.parameters import Layout

HIDDEN = [row for row in ACTIVATIONS.values() if row.outputs != "distribution"]
LINKS = {row.link for row in LOSSES.values()} - {None}
PAIRS = [(row, output) for row in LOSSES.values() for output in ACTIVATIONS.values() if row.accepts(output.outputs)]

# 3-4-3 net, batch 5, all 864 triples: right derivatives err by at most 1.6e-8 (exp under softmax; 2e-10 without exp),
# one that is off by 0.1 % by 2e-4 and more.
TOLERANCE = 1e-7


def gradient(network, p, x, y, w=None, drop=None):
    """Our dL/dp, flat."""
    parameters = network.layout.unpack(p)
    grads = backward(network, parameters, forward(network, parameters, x, drop), y, w)
    return network.layout.pack(grads.d)


def problem(rng, hidden, output, row, sizes=(3, 4, 3), batch=5):
    """A network with its parameters, inputs and targets."""
    network = Network(Layout(sizes), (hidden,) * (len(sizes) - 2) + (output,), row)
    p = rng.normal(scale=0.7, size=network.layout.size)
    return network, p, rng.normal(size=(batch, sizes[0])), targets(row.targets, rng, (batch, sizes[-1]))


# --- Differences ---


@pytest.mark.parametrize("row, output", PAIRS, ids=lambda row: row.name)
@pytest.mark.parametrize("hidden", HIDDEN, ids=lambda row: row.name)
def test_gradients_agree_with_differences(hidden, output, row, rng):
    network, p, x, y = problem(rng, hidden, output, row)
    assert relative(gradient(network, p, x, y), differences(network, p, x, y)) < TOLERANCE


@pytest.mark.parametrize("row, output", PAIRS, ids=lambda row: row.name)
def test_gradients_with_weights_agree_with_differences(output, row, rng):
    network, p, x, y = problem(rng, ACTIVATIONS["tanh"], output, row)
    w = rng.integers(4, size=5) + 0.5
    assert relative(gradient(network, p, x, y, w), differences(network, p, x, y, w)) < TOLERANCE


def off_by_a_thousandth(row):
    if row.pullback is not None:
        return replace(row, pullback=lambda da, z, a: 1.001 * row.pullback(da, z, a))
    return replace(row, derivative=lambda z, a: 1.001 * row.derivative(z, a))


@pytest.mark.parametrize("hidden", HIDDEN, ids=lambda row: row.name)
def test_the_comparison_catches_a_hidden_derivative_off_by_a_thousandth(hidden, rng):
    network, p, x, y = problem(rng, off_by_a_thousandth(hidden), ACTIVATIONS["identity"], LOSSES["squared_error"])
    assert relative(gradient(network, p, x, y), differences(network, p, x, y)) > 100 * TOLERANCE


@pytest.mark.parametrize("row, output", PAIRS, ids=lambda row: row.name)
def test_the_comparison_catches_a_loss_or_output_derivative_off_by_a_thousandth(row, output, rng):
    wrong = {"derivative": lambda y, yhat: 1.001 * row.derivative(y, yhat)}
    if row.derivative_from_scores is not None:
        wrong["derivative_from_scores"] = lambda y, z, a: 1.001 * row.derivative_from_scores(y, z, a)
    network, p, x, y = problem(rng, ACTIVATIONS["tanh"], output, replace(row, **wrong))
    assert relative(gradient(network, p, x, y), differences(network, p, x, y)) > 100 * TOLERANCE
    if output.name != row.link:
        network, p, x, y = problem(rng, ACTIVATIONS["tanh"], off_by_a_thousandth(output), row)
        assert relative(gradient(network, p, x, y), differences(network, p, x, y)) > 100 * TOLERANCE


def test_the_derivative_of_the_inputs_agrees_with_differences(rng):
    network, p, x, y = problem(rng, ACTIVATIONS["gelu"], ACTIVATIONS["softmax"], LOSSES["cross_entropy"])
    parameters = network.layout.unpack(p)
    dx = backward(network, parameters, forward(network, parameters, x), y, inputs=True).da[0]
    shift = 1e-5 * np.eye(x.size).reshape(-1, *x.shape)
    L = [mean(sample_losses(network, forward(network, parameters, x + side), y)) for side in (shift, -shift)]
    assert relative(dx.ravel(), (L[0] - L[1]) / 2e-5) < TOLERANCE


@pytest.mark.parametrize(
    "parameters", [{"delta": 0.3}, {"quantile": (0.1, 0.5, 0.9)}, {"label_smoothing": 0.2}], ids=str
)
def test_gradients_of_losses_with_parameters_agree_with_differences(parameters, rng):
    name = {"delta": "huber", "quantile": "pinball", "label_smoothing": "cross_entropy"}[next(iter(parameters))]
    row = loss(name, **parameters)
    network, p, x, y = problem(rng, ACTIVATIONS["tanh"], ACTIVATIONS[row.link or "identity"], row)
    y = y[:, : row.target_width]
    assert relative(gradient(network, p, x, y), differences(network, p, x, y)) < TOLERANCE


def test_gradients_of_functions_of_your_own_agree_with_differences(rng):
    cube = activation((lambda z: z**3 / 3, lambda z, a: z * z))
    quartic = loss((lambda y, yhat: ((yhat - y) ** 4).sum(axis=-1), lambda y, yhat: 4 * (yhat - y) ** 3))
    network, p, x, y = problem(rng, cube, ACTIVATIONS["identity"], quartic)
    assert relative(gradient(network, p, x, y), differences(network, p, x, y)) < TOLERANCE


def test_a_function_of_your_own_called_sigmoid_does_not_take_the_short_cut(rng):
    def sigmoid(z):  # steeper than the one of the table
        return 1 / (1 + np.exp(-3 * z))

    own = replace(activation((sigmoid, lambda z, a: 3 * a * (1 - a))), outputs="probability")
    network, p, x, y = problem(rng, ACTIVATIONS["tanh"], own, LOSSES["binary_cross_entropy"])
    assert not network.canonical
    assert relative(gradient(network, p, x, y), differences(network, p, x, y)) < TOLERANCE


def test_gradients_with_dropout_agree_with_differences_at_a_fixed_step(rng):
    network, p, x, y = problem(
        rng, ACTIVATIONS["tanh"], ACTIVATIONS["softmax"], LOSSES["cross_entropy"], (3, 6, 5, 3), 7
    )
    network = replace(network, dropout=(0.4, 0.3))
    drop = Drop(np.full((1, 1), 11, dtype=np.int32), np.full((1, 1), 3, dtype=np.int32))
    ours = gradient(network, p, x, y, drop=drop)
    assert relative(ours, differences(network, p, x, y, drop=drop)) < TOLERANCE
    assert relative(gradient(network, p, x, y), ours) > 0.1, "dropout did nothing"


# --- Every backend computes what NumPy does ---


# 2e-15 and 9e-7 were seen.
PARITY = {"float64": 1e-13, "float32": 1e-5}


@pytest.mark.parametrize(
    "hidden, output, row",
    [(hidden, ACTIVATIONS["identity"], LOSSES["squared_error"]) for hidden in HIDDEN if hidden.name != "tanh"]
    + [(ACTIVATIONS["tanh"], output, row) for row, output in PAIRS if output.name in LINKS],
    ids=lambda row: row.name,
)  # fmt: skip
def test_forward_and_backward_are_those_of_numpy(hidden, output, row, backend, rng):
    network, p, x, y = problem(rng, hidden, output, row)
    w = rng.random(5)
    parameters = network.layout.unpack(p)
    trace = forward(network, parameters, x)
    grads = backward(network, parameters, trace, y, w, show=True, inputs=True)
    dtype = backend.dtypes[0]
    parameters = network.layout.unpack(backend.put(p))
    here = forward(network, parameters, backend.put(x))
    derivatives = backward(network, parameters, here, backend.put(y), backend.put(w), show=True, inputs=True)
    for k in range(3):
        assert (here.z[k] is None) == (k == 0)
        backend.assert_close(here.a[k], trace.a[k], rtol=PARITY[dtype])
        backend.assert_close(derivatives.da[k], grads.da[k], rtol=PARITY[dtype])
        if k:
            backend.assert_close(here.z[k], trace.z[k], rtol=PARITY[dtype])
            backend.assert_close(derivatives.dz[k], grads.dz[k], rtol=PARITY[dtype])
            backend.assert_close(derivatives.dW[k], grads.dW[k], rtol=PARITY[dtype])
            backend.assert_close(derivatives.db[k], grads.db[k], rtol=PARITY[dtype])


@pytest.mark.parametrize("row", [row for row in LOSSES.values() if row.link], ids=lambda row: row.name)
def test_the_short_cut_gives_the_gradient_of_the_long_way(row, backend, rng):
    network, p, x, y = problem(rng, ACTIVATIONS["tanh"], ACTIVATIONS[row.link], row)
    long = replace(network, loss=replace(row, value_from_scores=None, derivative_from_scores=None))
    p, x, y = map(backend.put, (p, x, y))
    backend.assert_close(
        gradient(network, p, x, y), backend.get(gradient(long, p, x, y)), rtol=PARITY[backend.dtypes[0]]
    )


# --- Digits worked by hand ---


def hand_worked(backend, output, row):
    network = Network(Layout((2, 2, 1)), (ACTIVATIONS["relu"], ACTIVATIONS[output]), LOSSES[row])
    W = [None, backend.put([[1.0, -1.0], [0.5, 2.0]]), backend.put([[2.0], [-0.5]])]
    b = [None, backend.put([0.5, -1.0]), backend.put([0.25])]
    x, y = backend.put([[1.0, 2.0], [3.0, 1.0]]), backend.put([[1.0], [0.0]])
    parameters = Parameters(W, b)
    trace = forward(network, parameters, x)
    return network, trace, y, backward(network, parameters, trace, y, show=True, inputs=True)


def test_a_network_worked_by_hand_with_squared_error(backend):
    """Every digit of these was worked out with pencil and paper; all are exact in binary."""
    network, trace, y, grads = hand_worked(backend, "identity", "squared_error")
    # x = [1 2], [3 1]:   z = x @ W + b
    backend.assert_close(trace.z[1], [[2.5, 2.0], [4.0, -2.0]])
    backend.assert_close(trace.a[1], [[2.5, 2.0], [4.0, 0.0]])
    backend.assert_close(trace.z[2], [[4.25], [8.25]])  # 5 - 1 + 0.25;  8 - 0 + 0.25
    backend.assert_close(sample_losses(network, trace, y), [5.28125, 34.03125])  # 3.25^2 / 2;  8.25^2 / 2
    backend.assert_close(mean(sample_losses(network, trace, y)), np.float64(19.65625))
    backend.assert_close(grads.da[2], [[1.625], [4.125]])  # (yhat - y) / 2
    backend.assert_close(grads.dz[2], [[1.625], [4.125]])
    backend.assert_close(grads.dW[2], [[20.5625], [3.25]])  # 2.5 * 1.625 + 4 * 4.125;  2 * 1.625 + 0
    backend.assert_close(grads.db[2], [5.75])
    backend.assert_close(grads.da[1], [[3.25, -0.8125], [8.25, -2.0625]])
    backend.assert_close(grads.dz[1], [[3.25, -0.8125], [8.25, 0.0]])  # the unit that is off learns nothing
    backend.assert_close(grads.dW[1], [[28.0, -0.8125], [14.75, -1.625]])  # 3.25 + 3 * 8.25;  2 * 3.25 + 8.25
    backend.assert_close(grads.db[1], [11.5, -0.8125])
    backend.assert_close(grads.da[0], [[4.0625, 0.0], [8.25, 4.125]])  # 3.25 + 0.8125;  1.625 - 1.625


def test_a_network_worked_by_hand_with_binary_cross_entropy(backend):
    """The same network; 18 digits of the sigmoid and the logarithm from a calculator."""
    network, trace, y, grads = hand_worked(backend, "sigmoid", "binary_cross_entropy")
    s, t = 0.985936372956754526, 0.999738809680904281  # 1 / (1 + exp(-4.25)), 1 / (1 + exp(-8.25))
    tol = 1e-15 if backend.float64 else 1e-6
    backend.assert_close(trace.a[2], [[s], [t]], rtol=tol)
    backend.assert_close(sample_losses(network, trace, y), [0.0141634569315049757, 8.25026122443522777], rtol=tol)
    backend.assert_close(
        grads.da[2], [[-0.507132116954499628], [1914.31291071995311]], rtol=1e-12 if backend.float64 else 5e-4
    )  # 1 - yhat = 2.6e-4 has lost digits: half an ulp of yhat, 3e-8 in float32, is 1.1e-4 of it
    backend.assert_close(grads.dz[2], [[-0.00703181352162273712], [0.499869404840452140]], rtol=tol)
    backend.assert_close(grads.dW[2], [[1.98189808555775172], [-0.0140636270432454743]], rtol=tol)
    backend.assert_close(grads.db[2], [0.492837591318829403], rtol=tol)


# --- The textbook's sums ---


def test_the_matrix_form_is_the_textbooks_sums_over_units(backend, rng):
    network, p, x, y = problem(
        rng, ACTIVATIONS["tanh"], ACTIVATIONS["sigmoid"], LOSSES["binary_cross_entropy"], (3, 4, 3, 2), 5
    )
    W, b, _ = parameters = network.layout.unpack(p)
    sums = by_units(W, b, x, y)
    W, b, _ = parameters = network.layout.unpack(backend.put(p))
    trace = forward(network, parameters, backend.put(x))
    grads = backward(network, parameters, trace, backend.put(y), show=True, inputs=True)
    ours = {"z": trace.z, "a": trace.a} | {"dz": grads.dz, "da": grads.da, "dW": grads.dW, "db": grads.db}
    for name, layers in sums.items():
        for k in range(4):
            if ours[name][k] is not None:  # 3e-16 and 4e-7 were seen
                backend.assert_close(ours[name][k], np.array(layers[k]), rtol=1e-13 if backend.float64 else 1e-5)


# --- Autodiff ---

TORCH_ACTIVATIONS = {
    "identity": lambda F, z: z,
    "sigmoid": lambda F, z: z.sigmoid(),
    "tanh": lambda F, z: z.tanh(),
    "relu": lambda F, z: F.relu(z),
    "leaky_relu": lambda F, z: F.leaky_relu(z),
    "elu": lambda F, z: F.elu(z),
    "selu": lambda F, z: F.selu(z),
    "softplus": lambda F, z: F.softplus(z, threshold=1e9),
    "silu": lambda F, z: F.silu(z),
    "gelu": lambda F, z: F.gelu(z, approximate="tanh"),
    "mish": lambda F, z: F.mish(z),
    "exp": lambda F, z: z.exp(),
    "softmax": lambda F, z: F.softmax(z, dim=-1),
}
TORCH_LOSSES = {  # of the scores or outputs z, the mean over samples of sums over outputs
    "squared_error": ("identity", lambda F, z, y: F.mse_loss(z, y, reduction="sum") / 2),
    "sum_of_squares": ("identity", lambda F, z, y: F.mse_loss(z, y, reduction="sum")),
    "absolute_error": ("identity", lambda F, z, y: F.l1_loss(z, y, reduction="sum")),
    "huber": ("identity", lambda F, z, y: F.huber_loss(z, y, reduction="sum")),
    "pinball": ("identity", lambda F, z, y: F.l1_loss(z, y, reduction="sum") / 2),
    "poisson": ("exp", lambda F, z, y: F.poisson_nll_loss(z, y, reduction="sum")),
    "binary_cross_entropy": ("sigmoid", lambda F, z, y: F.binary_cross_entropy_with_logits(z, y, reduction="sum")),
    "cross_entropy": ("softmax", lambda F, z, y: F.cross_entropy(z, y, reduction="sum")),
}


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch, the witness, is not installed")
@pytest.mark.parametrize("row", LOSSES.values(), ids=lambda row: row.name)
@pytest.mark.parametrize("hidden", HIDDEN, ids=lambda row: row.name)
def test_gradients_are_those_of_autodiff(hidden, row, rng):
    import torch

    F = torch.nn.functional
    link, torch_loss = TORCH_LOSSES[row.name]
    network, p, x, y = problem(rng, hidden, ACTIVATIONS[link], row, (3, 4, 4, 3))
    p *= 0.5  # exp in three layers overflows otherwise
    t = torch.tensor(p, requires_grad=True)
    W, b, _ = network.layout.unpack(t)
    h = torch.tensor(x)
    for k in (1, 2):
        h = TORCH_ACTIVATIONS[hidden.name](F, h @ W[k] + b[k])
    torch_loss(F, h @ W[3] + b[3], torch.tensor(y)).div(len(x)).backward()
    assert relative(gradient(network, p, x, y), t.grad.numpy()) < 1e-13  # 3e-15 was seen


# --- Relations that need no witness ---


def test_permuting_hidden_units_leaves_the_outputs_alone(backend, rng):
    network, p, x, _ = problem(rng, ACTIVATIONS["tanh"], ACTIVATIONS["identity"], LOSSES["squared_error"])
    W, b, _ = network.layout.unpack(p)
    order = np.array([2, 0, 3, 1])
    permuted = network.layout.pack(Parameters([None, W[1][:, order], W[2][order]], [None, b[1][order], b[2]]))
    outputs = [forward(network, network.layout.unpack(backend.put(q)), backend.put(x)).a[-1] for q in (p, permuted)]
    backend.assert_close(outputs[1], backend.get(outputs[0]), rtol=1e-14 if backend.float64 else 1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_a_batch_is_the_weighted_mean_of_its_parts(weighted, backend, rng):
    network, p, x, y = problem(rng, ACTIVATIONS["tanh"], ACTIVATIONS["softmax"], LOSSES["cross_entropy"], batch=7)
    w = rng.random(7) if weighted else np.ones(7)
    parts = [slice(0, 2), slice(2, 7)]
    p = backend.put(p)

    def of(rows):
        weights = backend.put(w[rows]) if weighted else None
        return backend.get(gradient(network, p, backend.put(x[rows]), backend.put(y[rows]), weights))

    desired = sum(w[rows].sum() * of(rows) for rows in parts) / w.sum()
    backend.assert_close(backend.put(of(slice(None))), desired, rtol=1e-14 if backend.float64 else 1e-6)


def test_a_weight_of_w_is_w_repetitions(backend, rng):
    network, p, x, y = problem(rng, ACTIVATIONS["relu"], ACTIVATIONS["softmax"], LOSSES["cross_entropy"])
    w = np.array([0, 1, 2, 3, 1])
    p = backend.put(p)
    repeated = gradient(network, p, backend.put(np.repeat(x, w, axis=0)), backend.put(np.repeat(y, w, axis=0)))
    weighted = gradient(network, p, backend.put(x), backend.put(y), backend.put(w.astype(float)))
    backend.assert_close(weighted, backend.get(repeated), rtol=1e-14 if backend.float64 else 2e-6)


def test_samples_that_all_weigh_nothing_have_no_gradient(backend, rng):
    network, p, x, y = problem(rng, ACTIVATIONS["relu"], ACTIVATIONS["softmax"], LOSSES["cross_entropy"])
    p, x, y, w = map(backend.put, (p, x, y, np.zeros(5)))
    backend.assert_close(gradient(network, p, x, y, w), np.zeros(network.layout.size))


# A product of m networks at once may sum in another order: 2e-16 was seen.
TOGETHER = {"float64": 1e-12, "float32": 2e-6}


@pytest.mark.parametrize("own_samples", [False, True], ids=["shared x", "own x"])
def test_networks_at_once_are_the_networks_one_by_one(own_samples, backend, rng):
    network, _, x, y = problem(rng, ACTIVATIONS["tanh"], ACTIVATIONS["softmax"], LOSSES["cross_entropy"])
    p = rng.normal(size=(3, network.layout.size))
    w = rng.random((3, 5)) if own_samples else rng.random(5)
    if own_samples:
        x, y = rng.normal(size=(3, *x.shape)), y[rng.permuted(np.tile(np.arange(5), (3, 1)), axis=1)]
    parameters = network.layout.unpack(backend.put(p))
    trace = forward(network, parameters, backend.put(x))
    grads = backward(network, parameters, trace, backend.put(y), backend.put(w), show=True, inputs=True)
    L = mean(sample_losses(network, trace, backend.put(y)), backend.put(w))
    assert tuple(L.shape) == (3,)
    tol = TOGETHER[backend.dtypes[0]]
    for i in range(3):
        xi, yi, wi = (x[i], y[i], w[i]) if own_samples else (x, y, w)
        one = network.layout.unpack(backend.put(p[i]))
        trace1 = forward(network, one, backend.put(xi))
        grads1 = backward(network, one, trace1, backend.put(yi), backend.put(wi), show=True, inputs=True)
        backend.assert_close(
            L[i], backend.get(mean(sample_losses(network, trace1, backend.put(yi)), backend.put(wi))), rtol=tol
        )
        for many, one in [
            (trace.z, trace1.z),
            (trace.a, trace1.a),
            *zip(grads[:2] + grads.d[:2], grads1[:2] + grads1.d[:2], strict=True),
        ]:
            for k in range(3):
                if one[k] is not None and not (k == 0 and many is trace.a):  # a[0] is x itself
                    single = backend.get(one[k])
                    lead = (1,) if single.ndim == 1 else ()  # db[k] has shape (1, n_k) for each of m networks
                    backend.assert_close(many[k][i, ...], single.reshape(*lead, *single.shape), rtol=tol)


def test_forward_and_backward_change_nothing_that_they_were_given(backend, rng):
    network, p, x, y = problem(rng, ACTIVATIONS["identity"], ACTIVATIONS["identity"], LOSSES["absolute_error"])
    given = [backend.put(value) for value in (p, x, y, rng.random(5))]
    before = [backend.get(value).copy() for value in given]
    gradient(network, *given)
    for value, was in zip(given, before, strict=True):
        np.testing.assert_array_equal(backend.get(value), was)


def test_what_is_shown_stays_what_it_was(rng):
    # With show, nothing may be written over: da[k] is still the derivative of a[k] after dz[k] was made from it.
    network, p, x, y = problem(rng, ACTIVATIONS["tanh"], ACTIVATIONS["tanh"], LOSSES["squared_error"], (3, 4, 4, 3))
    W, _, _ = parameters = network.layout.unpack(p)
    trace = forward(network, parameters, x)
    grads = backward(network, parameters, trace, y, show=True)
    for k in (1, 2, 3):
        np.testing.assert_allclose(grads.dz[k], grads.da[k] * (1 - trace.a[k] ** 2), rtol=1e-14)
        if k > 1:
            np.testing.assert_allclose(grads.da[k - 1], grads.dz[k] @ W[k].T, rtol=1e-14)
