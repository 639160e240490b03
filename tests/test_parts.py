"""Parts and members: gradients against differences and autodiff, first values, fits on every backend, files."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from witnesses import relative

import xpmlp
from xpmlp import MLP
from xpmlp.backends import select
from xpmlp.network import backward, forward, mean_loss
from xpmlp.network.parts import PARTS, part
from xpmlp.runners import Data
from xpmlp.training import evaluation, rows_at_once
from xpmlp.training.evaluation import Evaluator

EDGES = [[-1.0, -0.3, 0.2, 1.0], [-0.5, 0.5], [-2.0, -1.0, 0.0, 1.0, 2.0]]
PIECEWISE = part("piecewise", edges=EDGES, width=3)
SCALE = part("member_scale", groups=[*[0] * 3, *[1] * 3, *[2] * 3, 3, 4])
SCALE_OF_TEN = part("member_scale", groups=range(10))

NETWORKS = {
    "piecewise": {"parts": {0: PIECEWISE}},
    "layer_norm": {"parts": {1: "layer_norm", 2: "layer_norm"}},
    "several networks": {"parts": {0: PIECEWISE, 1: "layer_norm"}, "n_networks": 3},
    "members that share the input": {"members": 3},
    "members behind one code": {"parts": {0: PIECEWISE, 1: "member_scale"}, "members": 3},
    "one member": {"parts": {0: "member_scale"}, "members": 1},
    "members with all parts": {"parts": {0: [PIECEWISE, SCALE], 1: ["layer_norm", "member_scale"]}, "members": 4},
}
LOSSES = [("squared_error", 2), ("binary_cross_entropy", 1), ("cross_entropy", 3)]


def net_and_samples(rng, loss="squared_error", n_outputs=2, **arguments):
    """A network whose parameters have left their first values (bins begin at 0), inputs, targets and weights."""
    net = MLP([5, 6, 4, n_outputs], "silu", loss, random_state=1, **arguments)
    net.parameters = net.parameters + 0.1 * rng.normal(size=net.parameters.shape)
    y = rng.normal(size=(7, n_outputs))
    if loss != "squared_error":
        y = np.eye(n_outputs)[rng.integers(n_outputs, size=7)] if n_outputs > 1 else rng.integers(2, size=(7, 1)) * 1.0
    return net, rng.normal(size=(7, 5)), y, rng.random(7)


def gradient(network, p, x, y, w, **options):
    parameters = network.layout.unpack(p)
    return backward(network, parameters, forward(network, parameters, x), y, w, **options)


@pytest.mark.parametrize("loss, n_outputs", LOSSES)
@pytest.mark.parametrize("arguments", NETWORKS.values(), ids=NETWORKS)
def test_gradients_of_parts_and_members_agree_with_differences(arguments, loss, n_outputs, rng):
    net, x, y, w = net_and_samples(rng, loss, n_outputs, **arguments)
    network, p = net.network, net.parameters

    def value(p, x):
        return mean_loss(network, forward(network, network.layout.unpack(p), x), y, w)

    found = gradient(network, p, x, y, w, inputs=True)
    sides = 1e-5 * np.eye(p.shape[-1])
    slopes = np.stack([value(p + side, x) - value(p - side, x) for side in sides], axis=-1) / 2e-5
    assert relative(network.layout.pack(found.d), slopes) < 1e-7  # as in test_network; here at most 1e-9
    moved = 1e-5 * np.eye(x.size).reshape(-1, *x.shape)
    slopes = np.stack([value(p, x + side) - value(p, x - side) for side in moved], axis=-1) / 2e-5
    assert relative(np.reshape(found.da[0], slopes.shape), slopes) < 1e-7


def torch_outputs(network, p, x):
    """The same network in PyTorch's own words."""
    import torch

    k = max(network.members, 1)
    for row in network.parts[0] if network.parts else ():
        own = row.own(p.own[0])
        if row.name == "piecewise":
            pieces = []
            for f, edges in enumerate(EDGES):
                z, codes = x[:, f], []
                for t in range(len(edges) - 1):
                    code = (z - edges[t]) / (edges[t + 1] - edges[t])
                    code = code.clamp(min=0.0) if t else code
                    codes.append(code.clamp(max=1.0) if t < len(edges) - 2 else code)
                E = torch.stack(codes, dim=-1)
                pieces.append(z[:, None] * own["slope"][f] + own["offset"][f] + E @ own["bins"][f][: E.shape[1]])
            x = torch.cat([*pieces, x[:, len(EDGES) :]], dim=1)
        else:
            x = x * own["scale"].reshape(k, 1, -1)
    h = x
    for layer in range(1, network.layout.n_layers + 1):
        h = h @ p.W[layer] + p.b[layer]
        for row in network.parts[layer] if layer < len(network.parts) else ():
            own = row.own(p.own[layer])
            if row.name == "layer_norm":
                h = torch.nn.functional.layer_norm(h, h.shape[-1:]) * own["gain"] + own["shift"]
            else:
                h = h * own["scale"]
        h = torch.nn.functional.silu(h) if layer < network.layout.n_layers else h
    return h


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "several networks"])
def test_gradients_of_parts_and_members_agree_with_autodiff(name, rng):
    torch = pytest.importorskip("torch")
    net, x, y, _ = net_and_samples(rng, **NETWORKS[name])
    p = torch.tensor(net.parameters, requires_grad=True)
    outputs = torch_outputs(net.network, net.layout.unpack(p), torch.tensor(x))
    (0.5 * (outputs - torch.tensor(y)) ** 2).sum(-1).mean().backward()
    found = net.layout.pack(gradient(net.network, net.parameters, x, y, None).d)
    assert relative(found, p.grad.numpy()) < 1e-10  # float64; 1e-15 here


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fit_with_parts_is_the_same_on_every_backend(name, backend, rng):
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 2))
    how = {"epochs": 5, "batch_size": 7, "optimizer": "adamw", "average": 2.0}

    def fitted(place):
        where = {"backend": place.backend.name, "device": place.device_name, "dtype": backend.dtypes[0]}
        net = MLP([5, 6, 4, 2], "silu", dropout=0.2, random_state=0, **where, **NETWORKS[name])
        return net.fit(*(place.asarray(array, net.dtype) for array in (x, y)), **how)

    ours, expected = fitted(backend.place), fitted(select("numpy"))
    tolerance = 1e-10 if ours.dtype == "float64" else 1e-3  # Adam's first steps are signs: a rounding may turn one
    assert relative(backend.get(ours.parameters), expected.parameters) < tolerance


def test_members_differ_and_predict_their_mean(rng):
    net, x, _, _ = net_and_samples(rng, "cross_entropy", 3, members=4, parts={0: [PIECEWISE, SCALE]})
    each = net.forward(x)
    assert each.shape == (4, 7, 3)
    assert np.ptp(each, axis=0).max() > 1e-3
    np.testing.assert_allclose(net.predict(x), each.mean(axis=0), rtol=1e-14)


def test_a_network_of_members_holds_one_trunk():
    net = MLP([5, 6, 4, 2], members=4)
    assert [W.shape for W in net.W[1:]] == [(5, 6), (6, 4), (4, 4, 2)]
    assert [b.shape for b in net.b[1:]] == [(4, 1, 6), (4, 1, 4), (4, 1, 2)]


def test_inputs_of_one_group_begin_with_one_scale_and_bins_with_zeros():
    own = MLP([5, 6, 2], members=4, parts={0: [PIECEWISE, SCALE]}, random_state=0)
    own = own.layout.unpack(own.parameters).own[0]
    scale = own["member_scale.scale"][:, 0]
    assert np.array_equal(scale[:, 0], scale[:, 2])
    assert np.all(scale[:, 2] != scale[:, 3])
    assert not np.any(own["piecewise.bins"])
    assert np.all(np.abs(own["piecewise.slope"]) <= 3**-0.5)


@pytest.mark.parametrize("name", NETWORKS)
def test_files_hold_parts_and_members(name, rng, tmp_path):
    net, x, *_ = net_and_samples(rng, **NETWORKS[name])
    net.save(tmp_path / "net.safetensors")
    back = xpmlp.load(tmp_path / "net.safetensors")
    assert np.array_equal(back.predict(x), net.predict(x))
    assert [[row.key for row in layer] for layer in back.network.parts] == [
        [row.key for row in layer] for layer in net.network.parts
    ]


def test_a_fit_that_is_resumed_ends_as_one_that_never_stopped(rng, tmp_path):
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 2))

    def fitted(epochs, **how):
        net = MLP([5, 6, 4, 2], random_state=0, **NETWORKS["members with all parts"])
        return net.fit(x, y, epochs=epochs, average=2.0, **how)

    fitted(3, checkpoint=tmp_path)
    assert np.array_equal(fitted(6, checkpoint=tmp_path, resume=True).parameters, fitted(6).parameters)


def test_the_average_reaches_back_as_far_as_it_says(rng):
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(20, 1))
    how = {"epochs": 1, "batch_size": None, "optimizer": "sgd", "learning_rate": 0.1}
    net, averaged = MLP([2, 3, 1], random_state=0), 0.0
    for t in range(1, 9):
        net.fit(x, y, **how)
        averaged = averaged + (net.parameters - averaged) * max(1 / 3, 1 / t)
    ours = MLP([2, 3, 1], random_state=0).fit(x, y, **how | {"epochs": 8, "average": 3.0})
    np.testing.assert_allclose(ours.parameters, averaged, rtol=1e-12)


def test_rates_are_set_by_name(rng):
    x, y = rng.normal(size=(20, 5)), rng.normal(size=(20, 2))
    net = MLP([5, 6, 4, 2], parts={0: PIECEWISE, 1: "layer_norm"}, random_state=0)
    before = net.layout.unpack(net.parameters)
    net.fit(x, y, epochs=2, learning_rate_factors={"W": 0.0, "piecewise.slope": 0.0})
    after = net.layout.unpack(net.parameters)
    assert np.array_equal(before.W[1], after.W[1])
    assert not np.array_equal(before.b[1], after.b[1])
    assert np.array_equal(before.own[0]["piecewise.slope"], after.own[0]["piecewise.slope"])
    assert not np.array_equal(before.own[0]["piecewise.offset"], after.own[0]["piecewise.offset"])


def test_blocks_have_room_for_codes_and_for_all_members():
    place = select("numpy")
    monkey = {"FEWEST": 1, "MOST": 2**30}
    wide = part("piecewise", edges=[np.arange(65.0)] * 5, width=2)

    def rows(sizes=(5, 6, 4, 2), **arguments):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in monkey.items():
                patch.setattr(f"xpmlp.training.evaluation.{name}", value)
            return rows_at_once(MLP(sizes, **arguments).network, place)

    numbers = place.block_bytes // 8
    assert rows() == numbers // 6
    assert rows(members=4) == numbers // (4 * 6)
    assert rows(parts={0: wide}) == numbers // (5 * 64)
    assert rows(parts={0: [wide, SCALE_OF_TEN]}, members=40) == numbers // (40 * 5 * 2)


REFUSED = {
    "members of several networks": ({"members": 2, "n_networks": 2}, "members share their weights"),
    "a part of members without members": ({"parts": {0: "member_scale"}}, "pass members="),
    "a part in the last layer": ({"parts": {3: "layer_norm"}}, "never in the last"),
    "a part before the first layer": ({"parts": {0: "layer_norm"}}, "layer_norm stands in hidden layers only"),
    "a part in a hidden layer": ({"parts": {1: "piecewise"}}, "piecewise stands before the first layer only"),
    "a part twice": ({"parts": {1: ["layer_norm", "layer_norm"]}}, "once in a layer"),
    "a part that is none": ({"parts": {1: "batch_norm"}}, "part"),
    **{
        f"bins of width {width} for what members have scaled": (
            {"parts": {0: ["member_scale", part("piecewise", edges=[[0, 1]] * 5, width=width)]}, "members": 2},
            "piecewise stands first in its layer",
        )
        for width in (1, 2)
    },
    "too many edges": ({"parts": {0: part("piecewise", edges=[[0, 1]] * 6)}}, "edges for 6 inputs; there are 5"),
}


@pytest.mark.parametrize("arguments, words", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_together_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        MLP([5, 6, 4, 2], **arguments)


@pytest.mark.parametrize("edges", [[[0.0]], [[0.0, 0.0]], [[0.0, np.nan]], []], ids=str)
def test_edges_that_are_none_are_refused(edges):
    with pytest.raises(ValueError, match="edges"):
        part("piecewise", edges=edges)


def test_every_part_is_tested():
    tested = {
        row.name
        for arguments in NETWORKS.values()
        for layer in MLP([5, 6, 4, 2], **arguments).network.parts
        for row in layer
    }
    assert tested == set(PARTS)


# --- In other hands ---


@pytest.mark.parametrize("loss, n_outputs", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_torchs_modules_give_the_same_outputs_and_gradients(name, loss, n_outputs, rng):
    torch = pytest.importorskip("torch")
    net, x, y, _ = net_and_samples(rng, loss, n_outputs, **NETWORKS[name])
    module = net.to_torch()
    np.testing.assert_allclose(module(torch.tensor(x)).detach().numpy(), net.predict(x), rtol=1e-12)
    each = (module[:-1] if net.network.members else module)(torch.tensor(x))
    if loss == "squared_error":
        losses = 0.5 * (each - torch.tensor(y)) ** 2
    else:
        losses = -torch.tensor(y) * torch.log(each)
        losses = losses if n_outputs > 1 else losses - (1 - torch.tensor(y)) * torch.log(1 - each)
    # The mean over the members; of several networks each has its own
    losses.sum(-1).mean(-1).sum().backward() if net.n_networks else losses.sum(-1).mean().backward()
    d = gradient(net.network, net.parameters, x, y, None).d
    ours = sorted(np.abs(array).sum() for k in range(4) for array in (d.W[k], d.b[k]) if array is not None)
    ours += sorted(np.abs(array).sum() for own in d.own for array in own.values())
    theirs = [np.abs(it.grad.numpy()).sum() for it in module.parameters()]
    np.testing.assert_allclose(sorted(theirs), sorted(ours), rtol=1e-10)  # float64; 1e-14 here
    shapes = sorted(tuple(it.shape) for it in module.parameters() if it.ndim > 2)
    assert (len(shapes) > 0) is bool(net.n_networks or net.network.members or "piecewise" in name)


def test_torch_refuses_a_part_of_your_own():
    pytest.importorskip("torch")
    row = replace(PARTS["layer_norm"], forward=lambda part, own, z: (z, None))
    with pytest.raises(ValueError, match="PyTorch has no module for the part 'layer_norm' of layer 1"):
        MLP([5, 6, 2], parts={1: row}).to_torch()


@pytest.mark.parametrize("weighted", [False, True])
def test_few_members_foresee_what_more_would_lose(weighted, backend, rng, monkeypatch):
    monkeypatch.setattr(evaluation, "AVERAGED_AWAY", np.inf)  # of first weights most of a loss is made of it
    dtype = backend.dtypes[-1]
    net, x, y, w = net_and_samples(rng, parts={0: "member_scale"}, members=4, dropout=0.2)
    whole, some = net.network, MLP([5, 6, 4, 2], "silu", parts={0: "member_scale"}, members=2).network
    data = Data(backend.place, *(backend.put(it, dtype) for it in (x, y, w if weighted else np.ones(7))), 3)
    p = whole.layout.unpack(net.parameters)
    foreseen = []
    for pair in itertools.combinations(range(4), 2):
        small = np.zeros(some.layout.size)
        arrays = some.layout.unpack(small)
        for segment in some.layout.segments:
            of_two, of_four = (it.at(segment.name, segment.layer) for it in (arrays, p))
            of_two[...] = of_four if of_two.shape == of_four.shape else of_four[list(pair)]
        foreseen.append(Evaluator(some, data, 4)(backend.put(small, dtype)).foreseen)
    all_four = Evaluator(whole, data, 4)(backend.put(net.parameters, dtype))
    assert all_four.foreseen is None
    assert Evaluator(whole, data)(backend.put(net.parameters, dtype)).foreseen is None
    # Of squared error the mean over all pairs is exactly the loss of the four.
    np.testing.assert_allclose(np.mean(foreseen), all_four.loss, rtol=1e-5 if dtype == "float32" else 1e-12)


def test_members_that_are_too_sure_are_not_believed(rng):
    net, x, y, _ = net_and_samples(rng, "cross_entropy", 3, parts={0: "member_scale"}, members=2)
    layout, data = net.network.layout, Data(select("numpy"), x, y, None, 7)
    for times in (1.0, 30.0, 1e4, 1e200):  # the larger the scores, the surer the members, of right and of wrong
        p = net.parameters.copy()
        layout.unpack(p).W[-1][...] *= times
        with np.errstate(all="ignore"):
            seen = Evaluator(net.network, data, 8)(p)
        assert seen.foreseen <= seen.loss or np.isinf(seen.loss)
        assert seen.foreseen >= (1.0 - 0.75 / 3.0) * (1.0 - 1e-12) * seen.loss or np.isinf(seen.loss)
