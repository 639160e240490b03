"""explain_step shows the arrays of the very step, the right equation beside each, and one weight's chain rule."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from xpmlp import MLP, MLPClassifier, MLPRegressor, explain_step


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
    shown = {f"{name}[{k}]" for name in ("z", "W", "b", "dz", "dW", "db") for k in (1, 2)}
    assert set(arrays) == shown | {f"{name}[{k}]" for name in ("a", "da") for k in (0, 1, 2)}
    for label, array in arrays.items():
        name, k = re.fullmatch(r"(\w+)\[(\d)\]", label).groups()
        np.testing.assert_array_equal(array, backend.get(getattr(net, name)[int(k)]))


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
    assert "dz[3] = (yhat - y) times 1/5: sigmoid and binary_cross_entropy in one" in small
    large = repr(explain_step(*problem(rng, batch=500)))
    assert re.search(r"a\[1\] = relu\(z\[1\]\)\n    \(500, 4\)\n    min 0, mean .*% are 0\n", large)
    assert len(large.splitlines()) < 110  # 27 arrays, 3 lines each, and the frame


def test_the_html_is_whole_and_leaves_the_colours_to_the_page(rng):
    opened: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    page = explain_step(*problem(rng), weight=(1, 0, 2))._repr_html_()
    reader = Reader()
    reader.feed(page)
    assert opened == []
    assert "dz[1] = da[1] * relu&#x27;(z[1])" in page
    assert "The chain rule from L back to W[1][0, 2]" in page
    assert not re.search(r"#[0-9a-f]{3,6}\b(?!;)|white(?!-space)|black", page)


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


def test_arguments_that_do_not_fit_are_refused(rng):
    net, X, y = problem(rng)
    with pytest.raises(TypeError, match="an MLP or an estimator of xpmlp is needed here; got str"):
        explain_step("net", X, y)
    with pytest.raises(ValueError, match="explain_step shows one network; this MLP has 3"):
        explain_step(MLP([2, 1], n_networks=3, random_state=0), X, y)
    with pytest.raises(ValueError, match=re.escape("weight must name a layer k of 1 to 3; got 4.")):
        explain_step(net, X, y, weight=(4, 0, 0))
    with pytest.raises(ValueError, match=re.escape("weight must lie in layer 1, W (2, 4); got (1, 2, 0).")):
        explain_step(net, X, y, weight=(1, 2, 0))
    with pytest.raises(ValueError, match=re.escape("weight must be (k, i, j) for W[k][i, j] or (k, j) for b[k][j]")):
        explain_step(net, X, y, weight=(1,))
