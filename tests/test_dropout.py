"""Dropout: the same masks on every backend, the right share of zeros, nothing shared by layers, steps and seeds."""

from itertools import combinations

import numpy as np
import pytest
from witnesses import mlp

from xpmlp import MLP
from xpmlp.backends import select
from xpmlp.network import Network
from xpmlp.network.activations import activation
from xpmlp.network.dropout import mask
from xpmlp.network.losses import loss
from xpmlp.network.parameters import Layout
from xpmlp.optim.optimizers import optimizer
from xpmlp.runners import Data, Task, eager
from xpmlp.runners.step import State

MULTIPLIERS = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)


def lowbias32(x):
    """Wellons' hash as he prints it, on uint32."""
    x = np.asarray(x, dtype=np.uint32)
    x = x ^ (x >> np.uint32(16))
    x = x * MULTIPLIERS[0]
    x = x ^ (x >> np.uint32(15))
    x = x * MULTIPLIERS[1]
    return x ^ (x >> np.uint32(16))


def mask_of(rate, seed, step, layer, shape, dtype="float64"):
    """NumPy's, for one network or m."""
    many = len(shape) == 3
    seed = np.asarray(seed, dtype=np.int32).reshape((-1, 1, 1) if many else (1, 1))
    return mask(rate, seed, np.full((1, 1), step, dtype=np.int32), layer, like=np.zeros(shape, dtype=dtype))


def test_the_mask_is_the_hash_of_the_counter():
    element = np.arange(12).reshape(3, 4)
    key = lowbias32(lowbias32(lowbias32([[77]]) + np.uint32(5)) + np.uint32(2))
    bits = lowbias32(lowbias32(element) + key) & np.uint32(2**31 - 1)
    np.testing.assert_array_equal(mask_of(0.4, 77, 5, 2, (3, 4)), (bits >= int(0.4 * 2**31)) / 0.6)


def test_masks_are_the_same_on_every_backend_to_the_last_bit(backend):
    for shape in ((6, 5), (2, 6, 5)):
        seed = np.array([2**31 - 3, 12345], dtype=np.int32)[: shape[0] if len(shape) == 3 else 1]
        reference = mask_of(0.3, seed, 41, 2, shape, backend.dtypes[0])
        here = mask(
            0.3,
            backend.put(seed.reshape((-1, 1, 1) if len(shape) == 3 else (1, 1)), "int32"),
            backend.put([[41]], "int32"),
            2,
            like=backend.put(np.zeros(shape)),
        )
        backend.assert_close(here, reference)


def test_a_network_of_several_gets_the_mask_that_its_seed_gives_it_alone():
    together = mask_of(0.5, [3, 4], 1, 1, (2, 6, 5))
    for i, seed in enumerate((3, 4)):
        np.testing.assert_array_equal(together[i], mask_of(0.5, seed, 1, 1, (6, 5)))


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.9])
def test_the_share_of_zeros_is_the_rate_and_the_mean_is_1(rate):
    values = np.concatenate([mask_of(rate, 9, step, 1, (100, 100)) for step in range(20)])
    n, zeros = values.size, np.mean(values == 0.0)
    assert set(np.unique(values)) == {0.0, 1.0 / (1.0 - rate)}
    # 4 standard deviations of a binomial share
    assert abs(zeros - rate) < 4.0 * (rate * (1.0 - rate) / n) ** 0.5
    # and no unit and no sample is dropped more often than others: 100 shares each, 5 standard deviations
    kept = (values == 0.0).reshape(20, 100, 100)
    for axes in ((0, 1), (0, 2)):
        assert np.max(np.abs(kept.mean(axis=axes) - rate)) < 5.0 * (rate * (1.0 - rate) / 2000) ** 0.5


def test_masks_of_other_seeds_steps_and_layers_have_nothing_in_common():
    # Neighbours on purpose, also along the diagonals: seed + 1 and step - 1 must not meet.
    masks = {
        key: mask_of(0.5, *key, (100, 100)).ravel() - 1.0
        for key in [(5, 7, 1), (6, 7, 1), (5, 8, 1), (5, 7, 2), (6, 6, 1), (5, 6, 2), (4, 8, 1), (0, 0, 1), (0, 1, 0)]
    }
    for one, other in combinations(masks, 2):
        # Their correlation is normal with standard deviation 1 / 100; of 36 pairs none exceeds 4 of them.
        assert abs(np.mean(masks[one] * masks[other])) < 0.04, (one, other)


def test_dropout_is_off_in_prediction_and_on_in_training(backend, rng):
    X, y = backend.put(rng.normal(size=(8, 3))), backend.put(rng.normal(size=(8, 1)))
    nets = [mlp(backend, [3, 6, 1], dropout=rate) for rate in (0.5, 0.0)]
    with_dropout, without = (backend.get(net.predict(X)) for net in nets)
    np.testing.assert_array_equal(with_dropout, without)  # the same seed is the same network
    backend.assert_close(nets[0].forward(X), without)
    trained = [backend.get(net.fit(X, y, epochs=1, batch_size=4).parameters) for net in nets]
    assert np.max(np.abs(trained[0] - trained[1])) > 1e-4


def test_training_with_dropout_is_the_same_on_every_backend(backend, rng):
    X, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))
    options = {"dropout": 0.5, "dtype": backend.dtypes[0]}
    here = mlp(backend, [3, 6, 1], **options).fit(backend.put(X), backend.put(y), epochs=5, batch_size=4)
    there = MLP([3, 6, 1], random_state=0, **options).fit(X, y, epochs=5, batch_size=4)
    backend.assert_close(here.parameters, there.parameters, rtol=backend.tolerance(backend.dtypes[0]))


@pytest.mark.parametrize("rates", [(0.5, 0.3, 0.4), (0.5, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 0.4)], ids=str)
def test_a_step_drops_units_of_each_hidden_layer_at_its_rate_and_of_no_other(rates, rng):
    sizes, n, rate, seed, done = (3, 6, 5, 4, 2), 7, 0.1, 21, 4
    layout = Layout(sizes)
    network = Network(layout, (activation("tanh"),) * 3 + (activation("identity"),), loss("squared_error"), rates)
    p, x, y = rng.normal(size=layout.size), rng.normal(size=(n, 3)), rng.normal(size=(n, 2))

    # The step with its masks, by hand: h[k] = a[k] * mask[k] goes into layer k + 1, and da[k] comes back through it.
    parts = {(it.name, it.layer): p[it.start : it.stop].reshape(it.shape) for it in layout.segments}
    masks = [None, *(mask_of(r, seed, done + 1, k, (n, sizes[k])) for k, r in enumerate(rates, start=1)), 1.0]
    h, a = [x], [x]
    for k in range(1, 5):
        z = h[k - 1] @ parts["W", k] + parts["b", k]
        a.append(np.tanh(z) if k < 4 else z)
        h.append(a[k] * masks[k])
    desired, dz = {}, (a[4] - y) / n
    for k in range(4, 0, -1):
        desired["W", k] = parts["W", k] - rate * h[k - 1].T @ dz
        desired["b", k] = parts["b", k] - rate * dz.sum(axis=0)
        dz = (dz @ parts["W", k].T) * masks[k - 1] * (1.0 - a[k - 1] ** 2) if k > 1 else None

    place = select("numpy")
    data = Data(place, x, y, None, n)
    runner = eager.Runner(Task(network, optimizer("sgd")), data, np.full((1, 1), seed, dtype=np.int32))
    state, _ = runner.epoch(State(p.copy(), (), done), None, lambda _: rate)
    for it in layout.segments:
        # 2e-16 was seen; a layer that is not dropped is off by 1e-2.
        np.testing.assert_allclose(
            state.p[it.start : it.stop].reshape(it.shape), desired[it.name, it.layer], rtol=0, atol=1e-14
        )
