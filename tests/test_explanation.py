"""explain_step shows the arrays of the very step, the right equation beside each, and one weight's chain rule."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from xpmlp import MLP, MLPClassifier, MLPRegressor, explain_step
from xpmlp.network.activations import ACTIVATIONS, Activation
from xpmlp.network.losses import LOSSES


def problem(rng, batch=5, **options):
    net = MLP([2, 4, 3, 1], ["relu", "tanh", "sigmoid"], "binary_cross_entropy", random_state=0, **options)
    net.parameters = net.parameters + 0.1 * rng.normal(size=net.parameters.shape)
    return net, rng.normal(size=(batch, 2)), (rng.uniform(size=batch) > 0.5).astype(float)


def test_it_shows_the_arrays_of_the_step_on_every_backend(backend, rng):
    X, y = backend.put(rng.normal(size=(5, 2))), backend.put([0.0, 1.0, 1.0, 0.0, 1.0])
    dtype = backend.dtypes[0]
    net = MLP([2, 4, 1], "tanh", backend=backend.name, device=backend.place.device_name, dtype=dtype, random_state=0)
    arrays = explain_step(net, X, y, weight=(1, 1, 2)).arrays
    net.forward(X)
    net.backward(y)
    of_the_net = {f"{name}[{k}]" for name in ("z", "W", "b", "dz", "dW", "db") for k in (1, 2)}
    of_the_net |= {f"{name}[{k}]" for name in ("a", "da") for k in (0, 1, 2)}
    new = {f"{name}_new[{k}]" for name in ("W", "b") for k in (1, 2)}
    assert set(arrays) == of_the_net | new | {"y", "l", "share", "L", "L_new", "slope[1]"}
    for label in of_the_net:
        name, k = re.fullmatch(r"(\w+)\[(\d)\]", label).groups()
        np.testing.assert_array_equal(arrays[label], backend.get(getattr(net, name)[int(k)]))


def test_what_stands_in_an_equation_is_shown_and_gives_what_it_says(rng):
    net, X, y = problem(rng)
    w = rng.uniform(size=5)
    explained = explain_step(net, X, y, w, learning_rate=0.3)
    it = explained.arrays
    np.testing.assert_array_equal(it["y"][:, 0], y)
    np.testing.assert_array_equal(it["w"], w)
    np.testing.assert_allclose(it["share"], w / w.sum(), rtol=1e-12)
    p = it["a[3]"][:, 0]
    np.testing.assert_allclose(it["l"], -y * np.log(p) - (1 - y) * np.log(1 - p), rtol=1e-12)
    assert it["L"] == explained.loss == pytest.approx(np.sum(it["share"] * it["l"]), rel=1e-12)
    np.testing.assert_allclose(it["slope[2]"], 1 - it["a[2]"] ** 2, rtol=1e-12)
    np.testing.assert_array_equal(it["slope[1]"], it["z[1]"] > 0)
    np.testing.assert_array_equal(it["dz[2]"], it["da[2]"] * it["slope[2]"])
    np.testing.assert_allclose(it["dz[3]"], (it["a[3]"] - it["y"]) * it["share"][:, None], rtol=1e-12)
    for name in ("W", "b"):
        for k in (1, 2, 3):
            np.testing.assert_allclose(
                it[f"{name}_new[{k}]"], it[f"{name}[{k}]"] - 0.3 * it[f"d{name}[{k}]"], rtol=1e-12
            )
    assert it["L_new"] - it["L"] == explained.happened


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"softmax"}))
def test_the_formula_of_an_activation_is_what_it_computes(name):
    row = ACTIVATIONS[name]
    z = np.linspace(-3.0, 3.0, 12)  # not 0, a kink
    a = row.function(z)
    assert row.derivative_formula
    # The constants of gelu and selu are written with five digits
    np.testing.assert_allclose(a, value_of(row, row.formula, z, a), rtol=1e-4, atol=1e-5)
    slope = value_of(row, row.derivative_formula, z, a)
    np.testing.assert_allclose(row.derivative(z, a), slope, rtol=1e-4, atol=1e-4)


def value_of(row: Activation, formula: str, z: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Read a row's words: `x where c, else d`, `..., with s = ...`, products without a sign, powers with ^."""

    def code(text: str) -> str:
        text = text.replace("^", "**")
        return re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", text)

    names = {"z": z, "a": a, "exp": np.exp, "log": np.log, "tanh": np.tanh, "max": np.maximum}
    names |= {"softplus": ACTIVATIONS["softplus"].function, "sigmoid": ACTIVATIONS["sigmoid"].function}
    formula, *given = formula.split(", with ")
    for line in row.formula.split(", with ")[1:] + given:
        if line.endswith(" as above"):
            continue
        name, value = line.split(" = ")
        names[name] = eval(code(value), names)
    value, *cases = re.split(r" where |, else ", formula)
    if cases:
        return np.where(eval(code(cases[0]), names), eval(code(value), names), eval(code(cases[1]), names))
    return eval(code(value), names) + 0 * z


def test_every_loss_has_its_formulas():
    for row in LOSSES.values():
        assert "" not in (row.formula, row.derivative_formula), row.name


def test_a_row_of_your_own_brings_its_formulas(rng):
    cube = Activation("cube", lambda z: z**3, lambda z, a: 3 * z**2, formula="z^3", derivative_formula="3 z^2")
    net = MLP([2, 3, 1], [cube, "identity"], random_state=0)
    text = repr(explain_step(net, rng.normal(size=(4, 2)), rng.normal(size=4)))
    assert "a[1] = cube(z[1]) = z^3\n" in text
    assert "slope[1] = cube'(z[1]) = 3 z^2\n" in text


@pytest.mark.parametrize("weight", [(1, 0, 2), (2, 3, 1), (3, 1, 0), (1, 3), (3, 0)])
def test_the_partial_derivatives_multiply_to_what_the_sample_adds(weight, rng):
    path = explain_step(*problem(rng), weight=weight).path
    product, *rest = (np.asarray(partial.value) for partial in path.partials)
    for partial, value in zip(path.partials[1:], rest, strict=True):
        # dz/da is a matrix (of the last layer, its row): the sum over paths; all others stand element by element
        product = value @ product if partial.name.startswith("dz") and "/da" in partial.name else product * value
    assert float(np.squeeze(product)) == pytest.approx(path.shares[path.sample], rel=1e-12)
    k = weight[0]
    assert path.partials[-1].name == (f"dz[{k}]/dW[{k}]" if len(weight) == 3 else f"dz[{k}]/db[{k}]")


def test_every_product_is_the_product_of_what_is_named(rng):
    explained = explain_step(*problem(rng))
    products = 0
    for equation in explained.equations:
        if "@" in equation.formula:
            formula = re.sub(r"(\w+\[\d\])", r"arrays['\1']", equation.formula)
            np.testing.assert_allclose(eval(formula, {"arrays": explained.arrays}), equation.value, rtol=1e-12)
            left, right = (shape for _, shape in equation.factors)
            assert (left[0], right[1]) == equation.value.shape
            assert left[1] == right[0]
            products += 1
    assert products == 9  # z, dW and da of three layers


@pytest.mark.parametrize("weight", [(1, 0, 2), (2, 3, 1), (3, 1, 0), (1, 3), (3, 0)])
def test_the_path_of_a_weight_ends_at_its_derivative(weight, rng):
    net, X, y = problem(rng)
    w = rng.uniform(size=5)
    explained = explain_step(net, X, y, w, weight=weight)
    k, *index = weight
    name = "W" if len(index) == 2 else "b"
    derivative = explained.arrays[f"d{name}[{k}]"][tuple(index)]
    assert explained.path.derivative == derivative
    assert explained.loss == pytest.approx(net.evaluate(X, y, w), rel=1e-12)
    assert explained.path.shares.sum() == pytest.approx(derivative, rel=1e-12)
    assert abs(explained.path.shares[explained.path.sample]) == abs(explained.path.shares).max()
    assert str(explained.path).endswith(f"all 5 samples: d{explained.path.label} = {derivative:.6g}")
    assert str(explained.path) in str(explained)


def test_the_sum_over_units_in_the_path_adds_up(rng):
    line = next(line for line in explain_step(*problem(rng), weight=(1, 0, 2)).path.lines if " + " in line)
    terms, result = line.removeprefix("        = ").rsplit(" = ", 1)
    assert eval(terms) == pytest.approx(float(result), rel=0.03)  # three digits are shown


def test_the_differential_predicts_a_small_step(rng):
    net, X, y = problem(rng)
    # Both are of first order in the rate, their difference of second. Seen: 0.024 and 0.0024.
    coarse, fine = (explain_step(net, X, y, learning_rate=rate) for rate in (0.1, 0.01))
    off = [abs(it.happened / it.predicted - 1) for it in (coarse, fine)]
    assert 0 < off[1] < off[0] / 5 < 0.1
    before = net.evaluate(X, y)
    net.forward(X)
    net.backward(y)
    net.update(0.1)
    assert coarse.happened == pytest.approx(net.evaluate(X, y) - before, rel=1e-9)


def test_the_text_fits_a_terminal_and_large_arrays_become_statistics(rng):
    small = repr(explain_step(*problem(rng), weight=(1, 0, 2)))
    assert max(map(len, small.splitlines())) <= 80
    assert "dW[2] = a[1].T @ dz[2]\n    (4, 5) @ (5, 3) -> (4, 3)\n" in small
    assert "share = 1/5, of each sample in L" in small
    assert "dz[3] = (yhat - y) times share: sigmoid and binary_cross_entropy in one" in small
    large = repr(explain_step(*problem(rng, batch=500)))
    assert re.search(r"a\[1\] = relu\(z\[1\]\) = max\(z, 0\)\n    \(500, 4\)\n    min 0, mean .*% are 0\n", large)
    assert len(large.splitlines()) < 150  # 40 arrays, 3 lines each, and the frame


def test_the_html_is_whole_and_leaves_the_colours_to_the_page(rng):
    opened: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    shown = explain_step(*problem(rng), weight=(1, 0, 2))._repr_html_()
    page, table = re.fullmatch(r'<iframe [^>]*srcdoc="([^"]*)"></iframe>(.*)', shown, re.DOTALL).groups()
    reader = Reader()
    reader.feed(table)
    assert opened == []
    assert "dz[1] = da[1] * relu&#x27;(z[1])" in table
    assert "The chain rule from L back to W[1][0, 2]" in table
    assert not re.search(r"#[0-9a-f]{3,6}\b(?!;)|white(?!-space)|black", table)
    assert "prefers-color-scheme: dark" in page


def embedded(page: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page).group(1))


def test_the_page_holds_every_array_to_the_last_digit_and_loads_nothing(rng, tmp_path):
    explained = explain_step(*problem(rng), learning_rate=0.2, weight=(2, 3, 1))
    file = explained.page(tmp_path / "step.html")
    page = file.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!data:,)|@import|url\(|https?://(?!www\.w3\.org)""", page)
    data = embedded(page)
    assert set(data["arrays"]) == set(explained.arrays)
    for name, value in explained.arrays.items():
        np.testing.assert_array_equal(np.array(data["arrays"][name]), value)
    assert data["chosen"] == {"k": 2, "i": 3, "j": 1}
    assert data["rates"][data["at"]] == 0.2
    assert data["changes"][data["at"]] == explained.happened
    assert -0.2 * data["squared"] == pytest.approx(explained.predicted, rel=1e-15)


def test_the_page_of_a_rate_that_overflows_is_still_json(rng, tmp_path):
    _, X, y = problem(rng)
    net = MLP([2, 3, 1], ["exp", "identity"], random_state=0)
    net.parameters = net.parameters + 3.0
    file = explain_step(net, X, y, learning_rate=1e-8).page(tmp_path / "step.html")
    data = embedded(file.read_text(encoding="utf-8"))
    assert None in data["changes"]


def test_a_network_that_is_too_large_to_draw_is_shown_as_a_table(rng, tmp_path):
    net, X, y = MLP([2, 30, 1], random_state=0), rng.normal(size=(4, 2)), rng.normal(size=4)
    large = explain_step(net, X, y)
    assert "iframe" not in large._repr_html_()
    with pytest.raises(ValueError, match=re.escape("this network has layers of up to 30 units and 90 weights.")):
        large.page(tmp_path / "step.html")
    with pytest.raises(ValueError, match=re.escape("holds at most 200 samples; got 201. Explain some of them: X[:20]")):
        explain_step(MLP([2, 1], random_state=0), np.ones((201, 2)), np.ones(201)).page(tmp_path / "step.html")


def test_the_latex_has_a_row_for_every_equation(rng):
    explained = explain_step(*problem(rng))
    lines = explained.latex.splitlines()
    assert (lines[0], lines[-1]) == (r"\begin{aligned}", r"\end{aligned}")
    assert len(lines) == len(explained.equations) + 2
    assert r"\mathrm{d}W^{[2]} &= (a^{[1]})^\top\,\mathrm{d}z^{[2]} && 4 \times 3 \\" in lines
    assert all(line.count("{") == line.count("}") for line in lines)


def test_matplotlib_can_read_the_latex(rng):
    parser = pytest.importorskip("matplotlib.mathtext").MathTextParser("path")
    for line in explain_step(*problem(rng)).latex.splitlines()[1:-1]:
        for part in line.removesuffix(r"\\").replace(r"\textstyle", "").replace(r"\text{", r"\mathrm{").split("&"):
            if part.strip():
                parser.parse(f"${part.removeprefix('=').replace(chr(92) + 'top', 'T')}$")


def test_softmax_without_its_loss_is_called_a_jacobian(rng):
    net = MLP([2, 3], ["softmax"], "squared_error", random_state=0)
    text = repr(explain_step(net, rng.normal(size=(4, 2)), rng.normal(size=(4, 3))))
    assert "dz[1] = da[1], times the Jacobian of softmax" in text


def test_the_network_is_left_as_it_was(rng):
    net, X, y = problem(rng)
    before = net.parameters.copy()
    explain_step(net, X, y)
    np.testing.assert_array_equal(net.parameters, before)
    with pytest.raises(ValueError, match="call forward"):
        _ = net.z


def test_a_fitted_classifier_is_explained_with_its_labels(rng):
    X = rng.normal(size=(30, 2))
    y = np.where(X[:, 0] > 0, "in", "out")
    clf = MLPClassifier((4,), class_weight={"in": 2.0, "out": 1.0}, alpha=0.0, solver="sgd", momentum=0.0, max_iter=1)
    clf.set_params(batch_size=30, learning_rate_init=0.01, random_state=0)
    with pytest.warns(ConvergenceWarning):
        clf.fit(X, y)
    explained = explain_step(clf, X, y, learning_rate=0.01, weight=(1, 0, 2))
    before = [values.copy() for values in (*clf.coefs_, *clf.intercepts_)]
    np.testing.assert_array_equal(explained.arrays["a[2]"][:, 0], clf.predict_proba(X)[:, 1])
    np.testing.assert_array_equal(explained.arrays["a[1]"], clf.hidden_activations(X))
    assert explained.path.label == "W[1][0, 2]"
    clf.set_params(warm_start=True)
    with pytest.warns(ConvergenceWarning):
        clf.fit(X, y)  # one step of plain gradient descent
    names = ("dW[1]", "dW[2]", "db[1]", "db[2]")
    for name, then, now in zip(names, before, (*clf.coefs_, *clf.intercepts_), strict=True):
        np.testing.assert_allclose(now - then, -0.01 * explained.arrays[name], rtol=0, atol=1e-15)


def test_a_fitted_regressor_is_explained(rng):
    X = rng.normal(size=(30, 2))
    with pytest.warns(ConvergenceWarning):
        reg = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2, random_state=0).fit(X, X[:, 0])
    explained = explain_step(reg, X, X[:, 0])
    np.testing.assert_array_equal(explained.arrays["a[2]"][:, 0], reg.predict(X))
    assert explained.loss == pytest.approx(0.5 * np.mean((reg.predict(X) - X[:, 0]) ** 2), rel=1e-12)
    with pytest.raises(ValueError, match=re.escape("this MLPRegressor has no weights yet; call its fit first.")):
        explain_step(MLPRegressor(), X, X[:, 0])


@pytest.mark.parametrize("own", [False, True], ids=["shared batch", "a batch for each"])
def test_one_of_several_networks_is_explained_as_it_is_alone(own, rng):
    net = MLP([2, 3, 1], ["tanh", "sigmoid"], "binary_cross_entropy", n_networks=3, random_state=0)
    lead = (3,) if own else ()
    X, y, w = rng.normal(size=(*lead, 5, 2)), rng.uniform(size=(*lead, 5)), rng.uniform(size=5)
    alone = MLP([2, 3, 1], ["tanh", "sigmoid"], "binary_cross_entropy", random_state=0)
    alone.parameters = net.parameters[2]
    theirs = explain_step(net, X, y[..., None] if own else y, w, network=2, weight=(1, 0, 1))
    its_own = (values[2] if own else values for values in (X, y))
    expected = explain_step(alone, *its_own, w, weight=(1, 0, 1))
    for name, value in expected.arrays.items():
        np.testing.assert_allclose(theirs.arrays[name], value, rtol=1e-12, atol=1e-15)
    assert theirs.path.label == expected.path.label
    with pytest.raises(ValueError, match=re.escape("network must be one of 3, 0 the first; got 3.")):
        explain_step(net, X, y[..., None] if own else y, w, network=3)


def test_arguments_that_do_not_fit_are_refused(rng):
    net, X, y = problem(rng)
    with pytest.raises(TypeError, match="an MLP or an estimator of xpmlp is needed here; got str"):
        explain_step("net", X, y)
    with pytest.raises(ValueError, match=re.escape("this MLP has 3. Choose one: explain_step(..., network=0).")):
        explain_step(MLP([2, 1], n_networks=3, random_state=0), X, y)
    with pytest.raises(ValueError, match=re.escape("weight must name a layer k of 1 to 3; got 4.")):
        explain_step(net, X, y, weight=(4, 0, 0))
    with pytest.raises(ValueError, match=re.escape("weight must lie in layer 1, W (2, 4); got (1, 2, 0).")):
        explain_step(net, X, y, weight=(1, 2, 0))
    with pytest.raises(ValueError, match=re.escape("weight must be (k, i, j) for W[k][i, j] or (k, j) for b[k][j]")):
        explain_step(net, X, y, weight=(1,))
