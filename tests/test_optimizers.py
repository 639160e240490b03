"""Optimizers: every row against a plain rendering of its paper, and PyTorch where the semantics agree."""

# ruff: noqa: E501  # messages stand unbroken

import re
from importlib.util import find_spec

import numpy as np
import pytest
from witnesses import mlp

from xpmlp.optim.optimizers import OPTIMIZERS, clip, optimizer

each_row = pytest.mark.parametrize("row", OPTIMIZERS.values(), ids=lambda row: row.name)

# After 6 updates, largest difference over largest value: 2e-16 and 1.3e-7.
TOLERANCE = {"float64": 1e-14, "float32": 2e-6}
RATES = [0.1, 0.05, 0.2, 0.1, 0.03, 0.1]


# --- Papers, rendered element by element in plain Python ---


def sgd(p, gradients, rates):
    for g, lr in zip(gradients, rates, strict=True):
        p = p - lr * g
    return p


def momentum(p, gradients, rates, mu=0.9):
    # scikit-learn 1.9, SGDOptimizer._get_updates: velocity = momentum * velocity - lr * g; p += velocity
    velocity = 0.0 * p
    for g, lr in zip(gradients, rates, strict=True):
        velocity = mu * velocity - lr * g
        p = p + velocity
    return p


def nesterov(p, gradients, rates, mu=0.9):
    # scikit-learn's, with nesterov: p += momentum * velocity - lr * g
    velocity = 0.0 * p
    for g, lr in zip(gradients, rates, strict=True):
        velocity = mu * velocity - lr * g
        p = p + mu * velocity - lr * g
    return p


def adam(p, gradients, rates, decay=0.0, b1=0.9, b2=0.999, eps=1e-8):
    # arXiv:1412.6980, algorithm 1 with the last three lines of its loop as at the end of section 2: m and v as they are,
    # lr_t = lr sqrt(1 - b2^t) / (1 - b1^t), p -= lr_t m / (sqrt(v) + eps). Decay as in arXiv:1711.05101.
    m, v = 0.0 * p, 0.0 * p
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = b1 * m + (1.0 - b1) * g
        v = b2 * v + (1.0 - b2) * g**2
        lr_t = lr * np.sqrt(1.0 - b2**t) / (1.0 - b1**t)
        p = p - lr_t * m / (np.sqrt(v) + eps) - lr * decay * p
    return p


def rmsprop(p, gradients, rates, rho=0.99, eps=1e-8):
    v = 0.0 * p
    for g, lr in zip(gradients, rates, strict=True):
        v = rho * v + (1.0 - rho) * g**2
        p = p - lr * g / (np.sqrt(v) + eps)
    return p


def lion(p, gradients, rates, b1=0.9, b2=0.99):
    # arXiv:2302.06675, algorithm 2
    m = 0.0 * p
    for g, lr in zip(gradients, rates, strict=True):
        p = p - lr * np.sign(b1 * m + (1.0 - b1) * g)
        m = b2 * m + (1.0 - b2) * g
    return p


PAPERS = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "adam": adam,
    "adamw": lambda p, gradients, rates: adam(p, gradients, rates, decay=0.01),
    "rmsprop": rmsprop,
    "lion": lion,
}


def run(row, put, p, gradients, rates=RATES, **options):
    """Our updates; parameters are donated, so they start from an array that may be written into."""
    p = put(p) + put(np.zeros(p.shape))
    state = row.init(p)
    for g, lr in zip(gradients, rates, strict=True):
        p, state = row.update(p, put(g), state, lr, **options)
    assert state.t == len(gradients)
    assert len(state.slots) == len(row.slots)
    return p


@pytest.fixture
def problem(rng):
    # (m, P): two networks at once, gradients over 8 orders of magnitude
    return rng.normal(size=(2, 7)), [rng.normal(size=(2, 7)) * np.logspace(-6, 2, 7) for _ in RATES]


def test_every_row_has_a_witness():
    assert set(PAPERS) == set(OPTIMIZERS)


@each_row
def test_updates_are_those_of_the_paper(row, backend, problem):
    p, gradients = problem
    desired = PAPERS[row.name](p, gradients, RATES)
    for dtype in backend.dtypes:
        decay = backend.put(np.ones(7), dtype) if row.weight_decay else None
        ours = run(row, lambda x, dtype=dtype: backend.put(x, dtype), p, gradients, decay=decay)
        backend.assert_close(ours, desired, rtol=TOLERANCE[dtype], dtype=dtype)


@each_row
def test_networks_at_once_are_updated_one_by_one(row, backend, problem):
    p, gradients = problem
    decay = backend.put(np.ones(7)) if row.weight_decay else None
    together = backend.get(run(row, backend.put, p, gradients, decay=decay))
    alone = run(row, backend.put, p[1], [g[1] for g in gradients], decay=decay)
    backend.assert_close(alone, together[1], rtol=TOLERANCE[backend.dtypes[0]])


@each_row
def test_parameters_of_the_optimizer_reach_the_update(row, problem):
    p, gradients = problem
    for name, value in row.parameters.items():
        changed = optimizer(row.name, **{name: value + 0.01 if name == "epsilon" else value * 0.9})
        assert np.max(np.abs(run(changed, np.array, p, gradients) - run(row, np.array, p, gradients))) > 1e-6, name


@each_row
def test_gradients_are_only_read(row, rng):
    g = rng.normal(size=5)
    g.setflags(write=False)
    row.update(np.zeros(5), g, row.init(np.zeros(5)), 0.1)


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch, the witness, is not installed")
@each_row
def test_updates_are_those_of_torch_optim(row, problem):
    import torch

    if row.name == "lion":
        pytest.skip("PyTorch has no Lion")
    p, gradients = problem
    rate = 0.05  # constant: PyTorch's velocity does not carry the rate, which then makes no difference
    t = torch.tensor(p, requires_grad=True)
    theirs = {
        "sgd": lambda: torch.optim.SGD([t], lr=rate),
        "momentum": lambda: torch.optim.SGD([t], lr=rate, momentum=0.9),
        "nesterov": lambda: torch.optim.SGD([t], lr=rate, momentum=0.9, nesterov=True),
        "adam": lambda: torch.optim.Adam([t], lr=rate),
        "adamw": lambda: torch.optim.AdamW([t], lr=rate, weight_decay=0.01),
        "rmsprop": lambda: torch.optim.RMSprop([t], lr=rate, alpha=0.99),
    }[row.name]()
    for step, g in enumerate(gradients, start=1):
        if row.name in ("adam", "adamw"):  # PyTorch adds epsilon to the corrected root, we to the uncorrected (D11)
            theirs.param_groups[0]["eps"] = 1e-8 / np.sqrt(1 - 0.999**step)
        t.grad = torch.tensor(g)
        theirs.step()
    decay = np.ones(7) if row.weight_decay else None
    ours = run(row, np.array, p, gradients, rates=[rate] * len(gradients), decay=decay)
    np.testing.assert_allclose(ours, t.detach().numpy(), rtol=1e-13, atol=1e-14)


# --- What every update can do ---


def test_decoupled_decay_takes_from_the_weights_only(backend):
    p, g = np.array([2.0, -4.0, 3.0]), np.zeros(3)
    decay = backend.put([1.0, 1.0, 0.0])
    shrunk = run(optimizer("sgd", weight_decay=0.5), backend.put, p, [g], rates=[0.1], decay=decay)
    backend.assert_close(shrunk, [1.9, -3.8, 3.0], rtol=TOLERANCE[backend.dtypes[0]], dtype=backend.dtypes[0])


@each_row
def test_a_factor_multiplies_the_rate_of_its_element_and_zero_freezes_it(row, backend, problem):
    p, gradients = problem
    factors = np.array([0.0, 0.5, 1.0, 2.0, 0.0, 0.25, 1.0])
    decay = backend.put(np.ones(7)) if row.weight_decay else None
    ours = run(row, backend.put, p, gradients, factors=backend.put(factors), decay=decay)
    desired = np.stack(  # the update of an element depends on nothing but its own history
        [PAPERS[row.name](p[:, i], [g[:, i] for g in gradients], factor * np.array(RATES)) for i, factor in enumerate(factors)],
        axis=1,
    )  # fmt: skip
    backend.assert_close(ours, desired, rtol=TOLERANCE[backend.dtypes[0]])
    np.testing.assert_array_equal(backend.get(ours)[:, factors == 0], backend.get(backend.put(p))[:, factors == 0])


def test_a_frozen_layer_does_not_shrink_by_its_decay_either(backend, rng):
    x, y = (
        backend.put(rng.normal(size=(12, 3)), backend.dtypes[0]),
        backend.put(rng.normal(size=(12, 1)), backend.dtypes[0]),
    )
    net = mlp(backend, [3, 4, 1], "tanh")
    frozen, free = (backend.get(net.W[k]).copy() for k in (1, 2))
    options = {"optimizer": optimizer("adamw", weight_decay=0.5), "learning_rate_factors": [0.0, 1.0]}
    net.fit(x, y, epochs=3, batch_size=5, learning_rate=0.1, **options)
    np.testing.assert_array_equal(backend.get(net.W[1]), frozen)
    assert np.max(np.abs(backend.get(net.W[2]) - free)) > 0.01


def test_clipping_shortens_what_is_too_long_network_by_network(backend):
    g = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    clipped = backend.get(clip(backend.put(g), 1.0))
    backend.assert_close(backend.put(clipped), [[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], rtol=1e-7, dtype=backend.dtypes[0])
    np.testing.assert_array_equal(clipped[1:], backend.get(backend.put(g))[1:])  # untouched to the last bit
    backend.assert_close(clip(backend.put(g[0]), 2.5), [1.5, 2.0], rtol=1e-7, dtype=backend.dtypes[0])


@pytest.mark.parametrize(
    "name, parameters, error, message",
    [
        ("adma", {}, ValueError, "unknown optimizer 'adma'; did you mean 'adam'? Choose one of adam, adamw, lion, momentum, nesterov, rmsprop, sgd."),
        ("adam", {"beta1": 0.9}, ValueError, "optimizer 'adam' has no parameter 'beta1'; its parameters: beta_1, beta_2, epsilon."),
        ("sgd", {"momentum": 0.9}, ValueError, "optimizer 'sgd' has no parameter 'momentum'; its parameters: none."),
        ("adam", {"beta_1": 1.0}, ValueError, "beta_1 must be a finite number at least 0 and below 1; got 1.0."),
        ("adam", {"epsilon": -1.0}, ValueError, "epsilon must be a finite number at least 0; got -1.0."),
        ("adamw", {"weight_decay": -0.1}, ValueError, "weight_decay must be a finite number at least 0; got -0.1."),
        ("rmsprop", {"rho": "0.9"}, TypeError, "rho must be a finite number at least 0 and below 1; got '0.9' of type str."),
    ],
)  # fmt: skip
def test_wrong_names_and_parameters_are_refused(name, parameters, error, message):
    with pytest.raises(error, match=re.escape(message)):
        optimizer(name, **parameters)


def test_setting_a_parameter_leaves_the_table_alone():
    assert optimizer("adam", beta_1=0.8).parameters["beta_1"] == 0.8
    assert OPTIMIZERS["adam"].parameters["beta_1"] == 0.9
    assert (
        repr(optimizer("adamw", weight_decay=0.5))
        == "<optimizer adamw(beta_1=0.9, beta_2=0.999, epsilon=1e-08, weight_decay=0.5)>"
    )
