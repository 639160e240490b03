"""Those who look into a network know its parts and members: check_gradients, curvature, explain_step, Health."""

import re
from dataclasses import replace

import numpy as np
import pytest
from test_parts import LOSSES, NETWORKS, PIECEWISE, net_and_samples
from witnesses import relative

import xpmlp
from xpmlp import MLP, TabularClassifier, TabularRegressor, check_gradients, curvature, diagnose, explain_step
from xpmlp.inspection.health import measure
from xpmlp.inspection.models import batch_of, open_up
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
        report = check_gradients(net, x, y, gradients=gradients(wrong), elements=6)
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


# --- explain_step ---


@pytest.mark.parametrize("name", NETWORKS)
def test_the_arrays_of_a_step_are_those_of_the_step(name, rng):
    net, x, y, w = net_and_samples(rng, **NETWORKS[name])
    which = {"network": 1} if net.n_networks else {}
    explained = explain_step(net, x, y, w, learning_rate=0.3, **which)
    p = net.parameters[1] if which else net.parameters
    p, it = net.layout.unpack(p), explained.arrays
    trace = forward(net.network, p, x)
    found = backward(net.network, p, trace, y, w, show=True, inputs=True)
    for k in range(1, net.layout.n_layers + 1):
        for letter, layers in (("z", trace.z), ("a", trace.a), ("dz", found.dz), ("da", found.da)):
            np.testing.assert_allclose(it[f"{letter}[{k}]"], layers[k], rtol=0, atol=1e-15)
    for segment in net.layout.segments:
        label = f"{segment.name}[{segment.layer}]"
        derivative = found.d.at(segment.name, segment.layer)
        np.testing.assert_array_equal(it[label], p.at(segment.name, segment.layer))
        # Parts are gone through once more: another product, another last digit
        np.testing.assert_allclose(it[f"d{label}"], derivative, rtol=0, atol=1e-15)
        new = it[f"{segment.name}_new[{segment.layer}]"]
        np.testing.assert_allclose(new, it[label] - 0.3 * it[f"d{label}"], rtol=0, atol=1e-15)
    parts_before = bool(net.network.parts and net.network.parts[0])
    np.testing.assert_allclose(it["dx" if parts_before else "da[0]"], found.da[0], rtol=0, atol=1e-15)
    assert it["L"] == explained.loss == pytest.approx(float(np.mean(np.sum(it["share"] * it["l"], axis=-1))), rel=1e-12)
    assert explained.happened == pytest.approx(it["L_new"] - it["L"])
    # To first order
    small = explain_step(net, x, y, w, learning_rate=1e-6, **which)
    assert small.happened / small.predicted == pytest.approx(1.0, abs=1e-4)


def test_every_line_of_parts_gives_what_its_formula_says(rng):
    net, x, y, _ = net_and_samples(rng, **NETWORKS["members with all parts"])
    explained = explain_step(net, x, y)
    it, formulas = explained.arrays, {row.name: row.formula for row in explained.equations}
    assert formulas["x"] == "the inputs"
    assert formulas["piecewise[0]"].startswith("piecewise of x: o_f = x_f slope_f + offset_f + code_f @ bins_f")
    slope, offset, bins = (it[f"piecewise.{name}[0]"] for name in ("slope", "offset", "bins"))
    code, numbers = it["piecewise.code[0]"], len(slope)
    o = [it["x"][:, [f]] * slope[f] + offset[f] + code[f] @ bins[f] for f in range(numbers)]
    np.testing.assert_allclose(it["piecewise[0]"], np.concatenate([*o, x[:, numbers:]], axis=1), rtol=1e-12)
    assert formulas["a[0]"] == "member_scale of piecewise[0]: piecewise[0] * scale, of each member its own"
    np.testing.assert_array_equal(it["a[0]"], it["piecewise[0]"] * it["member_scale.scale[0]"])
    z = it["z[1]"]
    np.testing.assert_allclose(it["layer_norm.r[1]"], 1 / np.sqrt(z.var(axis=-1, keepdims=True) + 1e-5), rtol=1e-12)
    n = (z - z.mean(axis=-1, keepdims=True)) * it["layer_norm.r[1]"]
    np.testing.assert_allclose(it["layer_norm.n[1]"], n, atol=1e-15)
    assert formulas["layer_norm[1]"] == "layer_norm of z[1]: gain * n + shift"
    normed = it["layer_norm.gain[1]"] * n + it["layer_norm.shift[1]"]
    np.testing.assert_allclose(it["layer_norm[1]"], normed, atol=1e-14)
    np.testing.assert_array_equal(it["u[1]"], it["layer_norm[1]"] * it["member_scale.scale[1]"])
    assert formulas["a[1]"] == "silu(u[1]) = z s, with s = sigmoid(z), with z = u[1]"
    # And back
    np.testing.assert_array_equal(it["du[1]"], it["da[1]"] * it["slope[1]"])
    np.testing.assert_array_equal(it["dlayer_norm[1]"], it["du[1]"] * it["member_scale.scale[1]"])
    assert formulas["dlayer_norm.gain[1]"] == "sum over rows of dlayer_norm[1] * n"
    gain = np.sum(it["dlayer_norm[1]"] * n, axis=-2, keepdims=True)
    np.testing.assert_allclose(it["dlayer_norm.gain[1]"], gain, atol=1e-15)
    dn = it["dlayer_norm[1]"] * it["layer_norm.gain[1]"]
    back = dn - dn.mean(axis=-1, keepdims=True) - n * (dn * n).mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(it["dz[1]"], it["layer_norm.r[1]"] * back, atol=1e-15)
    together = np.sum(it["da[0]"] * it["member_scale.scale[0]"], axis=0)
    assert formulas["dpiecewise[0]"] == "da[0] * scale, added over the members"
    np.testing.assert_allclose(it["dpiecewise[0]"], together, atol=1e-15)
    of_f = it["dpiecewise[0]"][:, 3:6]  # the second number's columns
    np.testing.assert_allclose(it["dpiecewise.slope[0]"][1], np.sum(x[:, [1]] * of_f, axis=0), atol=1e-15)
    np.testing.assert_allclose(it["dpiecewise.bins[0]"][1], code[1].T @ of_f, atol=1e-15)


def test_what_members_share_is_the_sum_of_what_each_adds_and_L_the_mean_of_theirs(rng):
    net, x, y, w = net_and_samples(rng, "cross_entropy", 3, **NETWORKS["members with all parts"])
    it = explain_step(net, x, y, w).arrays
    for k in (1, 2):
        assert it[f"dW_members[{k}]"].shape == (4, *it[f"dW[{k}]"].shape)
        each = [it[f"a[{k - 1}]"][m].T @ it[f"dz[{k}]"][m] for m in range(4)]
        np.testing.assert_allclose(it[f"dW_members[{k}]"], each, atol=1e-15)
        np.testing.assert_allclose(it[f"dW[{k}]"], np.sum(each, axis=0), atol=1e-15)
    assert it["L_members"].shape == (4,)
    assert it["L"] == pytest.approx(it["L_members"].mean(), rel=1e-14)
    np.testing.assert_allclose(it["prediction"], net.predict(x), rtol=1e-12)
    text = repr(explain_step(net, x, y, w))
    assert "dW[1] = sum over the members of dW_members[1]" in text
    assert "L = mean of L_members, the 4 members' own" in text
    assert "W[1] = the weights of layer 1, which the members share" in text


@pytest.mark.parametrize("name", NETWORKS)
def test_a_path_goes_through_parts_and_one_member(name, rng):
    net, x, y, w = net_and_samples(rng, **NETWORKS[name])
    which = {"network": 1} if net.n_networks else {}
    for weight in ((1, 0, 2), (1, 2), (2, 5, 3), (3, 1, 0), (3, 1)):
        explained = explain_step(net, x, y, w, weight=weight, **which)
        k, *index = weight
        name, path = "W" if len(index) == 2 else "b", explained.path
        array = explained.arrays[f"d{name}[{k}]"]
        if net.network.members and (name == "b" or k == 3):  # each member has its own
            index = [path.member, *index]
            array = array if name == "W" else array[:, 0]
        assert path.label == f"{name}[{k}][{', '.join(map(str, index))}]"
        assert path.derivative == array[tuple(index)]
        assert path.derivative == pytest.approx(np.sum(path.shares), abs=1e-15)
    if not any("layer_norm" in str(row) for row in net.network.parts):
        # Each partial derivative is one of the path: their product is what that sample adds.
        path = explain_step(net, x, y, w, weight=(1, 0, 2), **which).path
        value = None
        for partial in path.partials:
            matrix = partial.name.startswith("dz[") and "/da[" in partial.name
            value = partial.value if value is None else value @ partial.value.T if matrix else value * partial.value
        shares = path.shares if path.member is None else path.shares[path.member]
        assert value == pytest.approx(shares[path.sample], rel=1e-12)


def test_the_member_of_a_path_can_be_chosen(rng):
    net, x, y, _ = net_and_samples(rng, **NETWORKS["members with all parts"])
    path = explain_step(net, x, y, weight=(2, 0, 1), member=3).path
    assert path.member == 3
    assert "of member 3, which weighs most" in str(path)
    assert path.shares.shape == (4, 7)
    with pytest.raises(ValueError, match=re.escape("member must be one of 4 members, 0 the first; got 4.")):
        explain_step(net, x, y, member=4)


def test_a_page_of_members_counts_the_samples_of_all(rng, tmp_path):
    net, x, y, _ = net_and_samples(rng, **NETWORKS["members with all parts"])
    many = np.repeat(x, 8, axis=0), np.repeat(y, 8, axis=0)
    with pytest.raises(ValueError, match=re.escape("at most 200 samples; got 56 in each of 4 members.")):
        explain_step(net, *many).page(tmp_path / "step.html")
    assert "layer_norm" in explain_step(net, x, y).page(tmp_path / "step.html").read_text(encoding="utf-8")


# --- Health and diagnose ---


@pytest.mark.parametrize("name", NETWORKS)
def test_a_record_is_what_the_definitions_say_of_all_members_together(name, rng):
    net, x, y, w = net_and_samples(rng, **NETWORKS[name])
    opened = open_up(net)
    p = opened.parameters
    trace = forward(net.network, p, x)
    d = backward(net.network, p, trace, y, w).d
    found = measure(opened, batch_of(net, x, y, w), [None, *(0.9 * W for W in p.W[1:])])
    axes = (-2, -1) if net.n_networks else None  # each network for itself, members all together

    def norm(array):
        array = array.reshape(3, -1) if axes else array.ravel()
        return np.linalg.norm(array, axis=-1)

    for k in range(1, 4):
        np.testing.assert_allclose(found[f"weight_norm.{k}"], norm(p.W[k]), rtol=1e-12)
        np.testing.assert_allclose(found[f"gradient_norm.{k}"], norm(d.W[k]), rtol=1e-12)
        np.testing.assert_allclose(found[f"update_ratio.{k}"], 0.1, rtol=1e-12)
        np.testing.assert_allclose(found[f"largest_z.{k}"], np.max(np.abs(trace.u[k]), axis=axes), rtol=1e-12)
    for segment in net.layout.others:
        for what, arrays in (("weight", p.own), ("gradient", d.own)):
            array = arrays[segment.layer][segment.name]
            np.testing.assert_allclose(found[f"{what}_norm.{segment.name}.{segment.layer}"], norm(array), rtol=1e-12)
    assert {f"saturation.{k}" for k in (1, 2)} <= set(found)
    assert all(np.shape(value) == ((3,) if net.n_networks else ()) for value in found.values())


def test_units_that_are_dead_in_one_member_count_as_a_part_of_all(rng):
    net, x, y = MLP([3, 6, 1], "relu", members=4, random_state=0), rng.normal(size=(20, 3)), rng.normal(size=20)
    p = net.layout.unpack(net.parameters)
    p.b[1][2] = -1e3  # no sample lets a unit of member 2 fire
    record = measure(open_up(net), batch_of(net, x, y))
    alive = 6 * 3 - int(np.sum(np.all(forward(net.network, p, x).z[1][[0, 1, 3]] <= 0, axis=1)))
    assert record["dead.1"] == pytest.approx(1.0 - alive / 24)
    assert "dead" in diagnose(net, x, y).kinds
    assert any("25 % of layer 1's units are dead" in str(finding) for finding in diagnose(net, x, y)) or alive < 18


def test_diagnose_tells_what_ails_a_network_with_parts_and_members(rng):
    x, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    layer = {1: "member_scale"}
    equal = MLP([3, 5, 1], "tanh", members=2, parts=layer, initializer="zeros", random_state=0)
    p = equal.layout.unpack(equal.parameters)
    p.own[1]["member_scale.scale"][...] = [[[1.0]], [[2.0]]]
    assert "equal units" in diagnose(equal, x, y).kinds
    p.own[1]["member_scale.scale"][1, 0] = rng.normal(size=5)  # now one member tells them apart
    assert "equal units" not in diagnose(equal, x, y).kinds
    wild = MLP(
        [3, 50, 50, 1], "tanh", members=2, parts={1: "layer_norm"}, initializer=xpmlp.normal(9.0), random_state=0
    )
    # Norms keep what layer 1 takes near 1, whatever its weights: it is the next layer that is saturated.
    assert [finding.layer for finding in diagnose(wild, x, y) if finding.kind == "saturated"] == [2]


def test_health_follows_a_fit_of_members_and_is_drawn(rng):
    pytest.importorskip("matplotlib")
    from xpmlp.plotting import ActivationsDisplay, GradientsDisplay, HealthDisplay, NetworkDisplay, WeightsDisplay

    net, x, y, _ = net_and_samples(rng, **NETWORKS["members with all parts"])
    net.fit(x, y, epochs=4, callbacks=[xpmlp.Health(x, y)])
    assert len(net.history["health.gradient_norm.piecewise.bins.0"]) == 4
    assert np.all(np.isfinite(net.history["health.dead.1"]))
    assert diagnose(net).seen == "4 records, epochs 1 to 4"
    assert len(HealthDisplay.from_estimator(net).lines_["gradient_norm"]) == 3
    for display in (WeightsDisplay, NetworkDisplay):
        display.from_estimator(net, network=3)
    ActivationsDisplay.from_estimator(net, x, network=3)
    GradientsDisplay.from_estimator(net, x, y)
    with pytest.raises(ValueError, match=re.escape("network must be one of 4 members, 0 the first; got 4.")):
        WeightsDisplay.from_estimator(net, network=4)


# --- The estimators of tables ---


@pytest.fixture(scope="module")
def of_tables():
    """A classifier and a regressor of a table with numbers, gaps and names, and what they were fitted on."""
    rng = np.random.default_rng(0)
    rows = [
        {"size": float(a) if b else None, "town": "ABC"[c], "n": int(d)}
        for a, b, c, d in zip(
            rng.normal(size=40), rng.random(40) > 0.1, rng.integers(3, size=40), range(40), strict=True
        )
    ]
    y = np.array([3.0 * (row["size"] or 0.0) + "ABC".index(row["town"]) for row in rows])
    how = {"n_members": 2, "hidden_layer_sizes": (6, 5), "max_iter": 3, "batch_size": 8, "n_bins": 4, "random_state": 0}
    classes = np.array(["low", "high"])[(y > 1.0).astype(int)]
    labels = TabularClassifier(class_weight="balanced", dtype="float64", **how).fit(rows, classes)
    return rows, [(labels, classes), (TabularRegressor(embedding_width=2, **how).fit(rows, y), y)]


def test_estimators_of_tables_are_looked_into_as_their_networks(of_tables):
    rows, models = of_tables
    for model, y in models:
        report = check_gradients(model, rows, y, elements=5)
        assert report
        assert report["piecewise.bins", 0].checked == 5
        assert report["member_scale.scale", 0].ok
        step = explain_step(model, rows[:6], y[:6])
        np.testing.assert_allclose(step.arrays["x"], model.preparation_.transform(rows[:6]), rtol=1e-6)
        assert step.arrays["dW_members[1]"].shape[0] == 2
        assert np.isfinite(curvature(model, rows, y)) or model.dtype_ == "float32"
        assert diagnose(model, rows, y).seen == "this batch"
        assert not diagnose(model).findings
    classifier, labels = models[0]
    told = explain_step(classifier, rows, labels).arrays
    np.testing.assert_allclose(told["prediction"][:, 0], classifier.predict_proba(rows)[:, 1], rtol=1e-12)
    assert len(np.unique(told["w"])) == 2  # class weights take part
    regressor, y = models[1]
    told = explain_step(regressor, rows, y).arrays
    assert np.mean(told["y"]) == pytest.approx(0.0, abs=1e-6)  # in the units of the network


@pytest.mark.parametrize("refit", [True, False])
def test_health_looks_on_where_an_estimator_of_tables_is_fitted(refit, of_tables):
    rows, ((_, labels), _) = of_tables
    health = xpmlp.Health(rows, labels)
    how = {"n_members": 2, "hidden_layer_sizes": (6,), "max_iter": 3, "batch_size": 8, "random_state": 0}
    model = TabularClassifier(refit=refit, callbacks=[health], **how).fit(rows, labels)
    epochs = model.best_epoch_ if refit else 3  # the second training ends where the first was best
    assert health.history["epoch"] == list(range(1, epochs + 1))
    assert len(health.history["gradient_norm.piecewise.bins.0"]) == epochs
    assert diagnose(model).seen.startswith(f"{epochs} records" if epochs > 1 else "one record")


def test_an_estimator_of_tables_that_was_not_fitted_says_so():
    with pytest.raises(ValueError, match="this TabularClassifier has no weights yet; call its fit first"):
        check_gradients(TabularClassifier(), [{"a": 1.0}], [0])
