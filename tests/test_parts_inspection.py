"""Those who look into a network know its parts and members: check_gradients, curvature, explain_step, Health."""

import re
from dataclasses import replace

import numpy as np
import pytest
from test_parts import LOSSES, NETWORKS, PIECEWISE, net_and_samples
from witnesses import relative

from xpmlp import MLP, check_gradients, curvature
from xpmlp.network import backward, forward, mean_loss
from xpmlp.network.parts import PARTS

# As in test_inspection: seen here, at most 1e-9.
TIGHT = 1e-7


@pytest.mark.parametrize("loss, n_outputs", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_array_is_checked_by_its_name(name, loss, n_outputs, rng):
    net, x, y, w = net_and_samples(rng, loss, n_outputs, **NETWORKS[name])
    report = check_gradients(net, x, y, w, tolerance=TIGHT)
    assert report, f"{name}\n{report}"
    assert {row.label for row in report} == {f"{it.name}[{it.layer}]" for it in net.layout.segments}
    losses = mean_loss(net.network, forward(net.network, net.layout.unpack(net.parameters), x), y, w)
    assert report.loss == pytest.approx(np.mean(losses))


def test_it_works_on_every_backend_with_float64(backend, rng):
    if not backend.float64:
        pytest.skip("needs float64")
    net, x, y, w = net_and_samples(rng, **NETWORKS["members with all parts"])
    there = net.to_backend(backend.name, device=backend.place.device_name)
    report = check_gradients(there, *map(backend.put, (x, y, w)), tolerance=TIGHT, elements=3)
    assert report
    assert "piecewise.bins[0]" in [row.label for row in report]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_thousandth_in_any_array_is_found_and_named(name, rng):
    net, x, y, _ = net_and_samples(rng, **NETWORKS[name])
    p = net.layout.unpack(net.parameters)
    d = backward(net.network, p, forward(net.network, p, x), y).d
    right = {f"{it.name}[{it.layer}]": d.at(it.name, it.layer) for it in net.layout.segments}

    def gradients(wrong):
        arrays = right if wrong is None else right | {wrong: 1.001 * right[wrong]}
        layers = range(1, net.layout.n_layers + 1)
        others = {label: array for label, array in arrays.items() if label[:2] not in ("W[", "b[")}
        return [arrays[f"W[{k}]"] for k in layers], [arrays[f"b[{k}]"] for k in layers], others

    assert check_gradients(net, x, y, gradients=gradients(None))
    for wrong in right:
        report = check_gradients(net, x, y, gradients=gradients(wrong))
        assert [row.label for row in report if not row.ok] == [wrong]
        assert report.worst.factor == pytest.approx(1.001, rel=1e-6)
        assert f"d{wrong}" in report.hint


@pytest.mark.parametrize("name", PARTS)
def test_a_slope_of_a_part_off_by_a_thousandth_is_found(name, rng):
    # What a part returns for its arrays, and where there is a layer below, for its input
    good = {"piecewise": PIECEWISE}.get(name, PARTS[name])

    def off(part, own, note, du, inputs):
        dx, found = good.backward(part, own, note, du, inputs)
        return None if dx is None else 1.001 * dx, {key: 1.001 * value for key, value in found.items()}

    layer = 1 if good.hidden else 0
    members = 3 if good.members else None
    net, x, y, _ = net_and_samples(rng, parts={layer: replace(good, backward=off)}, members=members)
    wrong = {row.label for row in check_gradients(net, x, y) if not row.ok}
    assert {f"{it.name}[{layer}]" for it in net.layout.others} <= wrong
    assert ("W[1]" in wrong) is (layer == 1)


def test_derivatives_of_arrays_that_are_not_there_are_refused(rng):
    net, x, y, _ = net_and_samples(rng, **NETWORKS["layer_norm"])
    net.forward(x)
    net.backward(y)
    with pytest.raises(ValueError, match=re.escape("has no 'gain[1]'; beside W and b it has layer_norm.gain[1]")):
        check_gradients(net, x, y, gradients=(net.dW, net.db, {"gain[1]": np.ones(6)}))
    with pytest.raises(ValueError, match=re.escape("dlayer_norm.gain[1] must have shape (6,); got (5,)")):
        check_gradients(net, x, y, gradients=(net.dW, net.db, {"layer_norm.gain[1]": np.ones(5)}))


def test_samples_of_members_that_stand_on_a_kink_are_told(rng):
    # Without biases the zero row stands on the kink of every ReLU of every member, and moves off it with b alone.
    net = MLP([3, 4, 4, 1], "relu", members=2, random_state=0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=5)
    x[2] = 0.0
    report = check_gradients(net, x, y)
    assert report
    assert report.on_kinks == 1
    net.forward(x)
    net.backward(y)
    wrong = [None, 1.001 * net.dW[1], *net.dW[2:]]
    assert [row.label for row in check_gradients(net, x, y, gradients=(wrong, net.db)) if not row.ok] == ["W[1]"]


@pytest.mark.parametrize("name", ["piecewise", "layer_norm", "members that share the input", "members with all parts"])
def test_curvature_is_the_largest_eigenvalue_of_what_gradients_differ_by(name, rng):
    net, x, y, w = net_and_samples(rng, **NETWORKS[name])

    def gradient(flat):
        p = net.layout.unpack(flat)
        return net.layout.pack(backward(net.network, p, forward(net.network, p, x), y, w).d)

    sides = 1e-5 * np.eye(net.layout.size)
    H = np.array([gradient(net.parameters + side) - gradient(net.parameters - side) for side in sides]) / 2e-5
    assert relative(curvature(net, x, y, w), np.linalg.eigvalsh((H + H.T) / 2.0)[-1]) < 1e-6


def test_many_digits_are_for_parts_and_members_too(rng):
    pytest.importorskip("mparray")
    net, x, y, _ = net_and_samples(rng, **NETWORKS["members with all parts"])
    # Seen: at most 4e-16
    assert check_gradients(net, x[:2], y[:2], digits=20, elements=1)
