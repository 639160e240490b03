"""What the displays draw, read from their artists: data, labels, titles, axes; nothing here looks at pixels."""

import re
import subprocess
import sys
import textwrap
import warnings
from functools import cache

import numpy as np
import pytest

import xpmlp
from xpmlp import MLP, Health, MLPClassifier, MLPRegressor, plotting

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402 - after the choice of Agg
from matplotlib.colors import to_rgb  # noqa: E402

STYLES = ("default", "dark_background")


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


@pytest.fixture(params=STYLES)
def style(request):
    with plt.style.context(request.param):
        yield request.param


@cache
def fitted(backend="numpy", device=None, n_networks=None, sizes=(2, 8, 6, 3), dtype="float64", **fit):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(60, sizes[0])), np.eye(sizes[-1])[np.arange(60) % sizes[-1]]
    place = xpmlp.get_backend(backend, device)
    where = {"backend": backend, "device": device, "dtype": dtype}
    net = MLP(sizes, "relu", "cross_entropy", n_networks=n_networks, random_state=0, **where)
    data = {"validation_data": tuple(place.asarray(part, net.dtype) for part in (X[40:], Y[40:]))}
    health = Health(place.asarray(X, net.dtype), place.asarray(Y, net.dtype))
    net.fit(*(place.asarray(part, net.dtype) for part in (X, Y)), epochs=6, callbacks=[health], **(data | fit))
    return net, X, Y


def classifier(n_classes=2, **parameters):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 2)) + 3.0 * np.eye(3)[np.arange(90) % n_classes][:, :2]
    names = np.array([f"class {'abc'[i % n_classes]}" for i in range(90)])
    return (
        MLPClassifier(8, solver="lbfgs", alpha=0.1, max_iter=3000, random_state=0, **parameters).fit(X, names),
        X,
        names,
    )


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def draw(display):
    """Lay the figure out and render it, as `savefig` would: a warning there is an error here."""
    display.figure_.canvas.draw()
    return display


def colliding(artists, figure):
    """Pairs of texts that cover one another."""
    renderer = figure.canvas.get_renderer()
    shown = [artist for artist in artists if artist.get_text()]
    boxes = [artist.get_window_extent(renderer) for artist in shown]
    return [
        (shown[i].get_text(), shown[j].get_text())
        for i in range(len(boxes))
        for j in range(i)
        if boxes[i].padded(-1.0).overlaps(boxes[j].padded(-1.0))
    ]


# --- Curves ---


def test_the_loss_curve_holds_the_history(style):
    net, _, _ = fitted()
    display = draw(plotting.LossCurveDisplay.from_estimator(net))
    training, validation = display.lines_
    np.testing.assert_array_equal(training.get_ydata(), net.history["loss"])
    np.testing.assert_array_equal(training.get_xdata(), np.arange(1, 7))
    np.testing.assert_array_equal(validation.get_ydata(), net.history["validation_loss"])
    best = int(np.argmin(net.history["validation_loss"]))
    assert texts(display.ax_) == ["training", "validation", f"best, epoch {best + 1}"]
    assert list(display.best_.get_xdata()) == [best + 1]
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("epoch", "loss")
    assert display.figure_ is display.ax_.figure
    assert training.get_color() != validation.get_color()
    assert training.get_linestyle() != validation.get_linestyle()  # colour is not all


def test_models_can_be_compared_on_one_axes():
    net, _, _ = fitted()
    first = plotting.LossCurveDisplay.from_history(net.history, name="one")
    second = plotting.LossCurveDisplay.from_estimator(net, name="another", ax=first.ax_)
    assert second.ax_ is first.ax_
    assert [text.split(":")[0] for text in texts(first.ax_)] == ["one"] * 3 + ["another"] * 3
    lines = [*first.lines_, *second.lines_]
    assert len({line.get_color() for line in lines}) == len(lines)


def test_m_networks_are_thin_lines_and_a_median():
    net, _, _ = fitted(n_networks=3)
    display = plotting.LossCurveDisplay.from_estimator(net)
    np.testing.assert_allclose(display.lines_[0].get_ydata(), np.median(net.history["loss"], axis=1))
    assert texts(display.ax_)[0] == "training (median of 3)"
    assert sum(line.get_linewidth() == 0.8 for line in display.ax_.get_lines()) == 6


def test_a_loss_that_spans_decades_gets_a_logarithmic_axis():
    display = plotting.LossCurveDisplay({"training": [10.0, 1.0, 0.1]}).plot()
    assert display.ax_.get_yscale() == "log"
    assert plotting.LossCurveDisplay({"training": [10.0, 1.0, 0.1]}).plot(log=False).ax_.get_yscale() == "linear"
    assert plotting.LossCurveDisplay({"training": [1.0, 0.9, -0.1]}).plot().ax_.get_yscale() == "linear"


def test_curves_of_estimators():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # five epochs do not converge
        clf = MLPClassifier(8, early_stopping=True, max_iter=5, random_state=0).fit(X, X[:, 0] > 0)
    loss = plotting.LossCurveDisplay.from_estimator(clf)
    np.testing.assert_array_equal(loss.lines_[0].get_ydata(), clf.loss_curve_)
    np.testing.assert_array_equal(loss.lines_[1].get_ydata(), clf.validation_loss_curve_)
    score = plotting.ScoreCurveDisplay.from_estimator(clf)
    np.testing.assert_array_equal(score.lines_[0].get_ydata(), clf.validation_scores_)
    assert texts(score.ax_)[1] == f"best, epoch {1 + int(np.argmax(clf.validation_scores_))}"
    with pytest.raises(ValueError, match=re.escape("this MLPClassifier has recorded no 'loss' or 'validation_loss'.")):
        plotting.LossCurveDisplay.from_estimator(classifier()[0])
    with pytest.raises(ValueError, match=re.escape('Fit an MLP with metric="accuracy"')):
        plotting.ScoreCurveDisplay.from_history(fitted()[0].history)


def test_the_score_curve_of_an_mlp():
    net, _, _ = fitted(metric="accuracy")
    display = plotting.ScoreCurveDisplay.from_estimator(net)
    np.testing.assert_array_equal(display.lines_[0].get_ydata(), net.history["metric"])
    assert texts(display.ax_)[:2] == ["training", "validation"]


def test_the_schedule_drawn_is_the_schedule_used():
    net, _, _ = fitted(schedule="exponential", learning_rate=0.1)
    used = plotting.ScheduleDisplay.from_estimator(net).lines_[0]
    np.testing.assert_allclose(used.get_ydata(), 0.1 * 0.95 ** np.arange(6))
    planned = plotting.ScheduleDisplay.from_schedule("exponential", epochs=6, learning_rate=0.1, n_batches=4).lines_[0]
    np.testing.assert_allclose(np.interp(np.arange(6), *planned.get_data()), used.get_ydata())
    several = draw(plotting.ScheduleDisplay.from_schedule(["constant", xpmlp.schedule("step", every=5)], epochs=20))
    assert texts(several.ax_) == ["constant", "step(every=5.0, gamma=0.5)"]
    reg = MLPRegressor(learning_rate="invscaling", solver="sgd", learning_rate_init=0.5, max_iter=30)
    assert plotting.ScheduleDisplay.from_estimator(reg).lines_[0].get_ydata()[0] == 0.5
    with pytest.raises(ValueError, match=re.escape('learning_rate="adaptive" has no plan')):
        plotting.ScheduleDisplay.from_estimator(MLPRegressor(learning_rate="adaptive", solver="sgd"))


# --- Decision boundaries ---


def test_the_plane_of_two_classes(style):
    clf, X, names = classifier()
    display = draw(plotting.DecisionBoundaryDisplay.from_estimator(clf, X, names, grid_resolution=30))
    assert display.response.shape == (30, 30, 2)
    grid = np.array([display.x[4], display.y[7]])[None, :]
    np.testing.assert_allclose(display.response[7, 4], clf.predict_proba(grid)[0])
    assert [len(points.get_offsets()) for points in display.points_] == [45, 45]
    assert texts(display.ax_) == ["class a", "class b"]
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("feature 0", "feature 1")
    assert list(display.boundary_[0].levels) == [0.1, 0.5, 0.9]
    # Where it is sure, the colour of the class is nearer than that of the other.
    sure = np.unravel_index(np.argmax(display.response[..., 0]), (30, 30))
    pixel = display.surface_.get_array()[sure]
    mine, other = (to_rgb(points.get_facecolor()[0][:3]) for points in display.points_)
    assert np.linalg.norm(pixel - mine) < np.linalg.norm(pixel - other)


def test_the_plane_of_three_classes_with_long_names(style):
    clf, X, names = classifier(3)
    long = [f"a class with a name that nobody would want to read, number {i}" for i in range(3)]
    display = draw(plotting.DecisionBoundaryDisplay.from_estimator(clf, X, names, class_names=long, grid_resolution=30))
    assert len(display.boundary_) == 3
    assert all(len(text) <= 40 and text.endswith("…") for text in texts(display.ax_))
    assert len({tuple(map(tuple, points.get_paths()[0].vertices)) for points in display.points_}) == 3  # markers differ
    below, frame = display.legend_.get_window_extent(), display.ax_.get_window_extent()
    assert below.y1 < frame.y0  # the legend hides nothing
    assert not colliding([*display.legend_.get_texts(), display.ax_.xaxis.label], display.figure_)


def test_the_plane_of_values():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2))
    reg = MLPRegressor(hidden_layer_sizes=4, solver="lbfgs", max_iter=3000, random_state=0).fit(X, X[:, 0])
    display = draw(plotting.DecisionBoundaryDisplay.from_estimator(reg, X, X[:, 0], grid_resolution=20))
    assert display.response.shape == (20, 20)
    assert display.colorbar_.ax.get_ylabel() == "prediction (points: target)"
    np.testing.assert_array_equal(display.points_[0].get_array(), X[:, 0])


def test_the_plane_of_an_mlp_on_any_backend(backend):
    where = {"backend": backend.name, "device": backend.place.device_name, "dtype": backend.dtypes[0]}
    net = MLP([2, 6, 3], "tanh", "cross_entropy", random_state=0, **where)
    X = np.random.default_rng(0).normal(size=(12, 2))
    display = plotting.DecisionBoundaryDisplay.from_estimator(net, X, np.arange(12) % 3, grid_resolution=10)
    np.testing.assert_allclose(display.response.sum(axis=-1), 1.0, atol=1e-5)
    assert texts(display.ax_) == ["0", "1", "2"]


def test_several_networks_and_one_hot_targets():
    net, X, Y = fitted(n_networks=3)
    display = plotting.DecisionBoundaryDisplay.from_estimator(net, X, Y, grid_resolution=10)
    mean = net.predict(np.array([[display.x[2], display.y[3]]]), average=True)[0]
    np.testing.assert_allclose(display.response[3, 2], mean)
    assert sum(len(points.get_offsets()) for points in display.points_) == 60


def test_what_has_no_plane_is_refused():
    net, X, _ = fitted(sizes=(4, 8, 3))
    with pytest.raises(
        ValueError, match=re.escape("needs a model and an X of 2 features; got 4, and X of shape (60, 4).")
    ):
        plotting.DecisionBoundaryDisplay.from_estimator(net, X)
    clf, X, _ = classifier()
    with pytest.raises(ValueError, match=re.escape("class_names must hold 2 names; got 1.")):
        plotting.DecisionBoundaryDisplay.from_estimator(clf, X, class_names=["alone"])
    with pytest.raises(ValueError, match=re.escape(", which is none of the classes")):
        plotting.DecisionBoundaryDisplay.from_estimator(clf, X, np.full(90, "class z"))


# --- Layers ---


def test_every_weight_matrix_is_a_picture(style):
    net, _, _ = fitted()
    display = draw(plotting.WeightsDisplay.from_estimator(net))
    assert [ax.get_title() for ax in display.axes_] == ["W[1]  (2, 8)", "W[2]  (8, 6)", "W[3]  (6, 3)"]
    for k, image in enumerate(display.images_, start=1):
        np.testing.assert_array_equal(image.get_array(), net.W[k])
        low, high = image.get_clim()
        assert -low == high == np.abs(net.W[k]).max()  # white, or black, is 0
    some = plotting.WeightsDisplay.from_estimator(net, layers=[3])
    assert [ax.get_title() for ax in some.axes_] == ["W[3]  (6, 3)"]
    with pytest.raises(ValueError, match=re.escape("layers must be some of 1 to 3; got [4].")):
        plotting.WeightsDisplay.from_estimator(net, layers=[4])


def test_the_images_of_the_first_layer():
    net = MLP([12, 20, 3], random_state=0)
    display = draw(plotting.FirstLayerDisplay.from_estimator(net, image_shape=(3, 4), units=[7, 2]))
    np.testing.assert_array_equal(display.images_[0].get_array(), np.reshape(net.W[1][:, 7], (3, 4)))
    assert [ax.get_title() for ax in display.axes_] == ["unit 7", "unit 2"]
    largest = plotting.FirstLayerDisplay.from_estimator(net, image_shape=(3, 4), n_units=5).units
    assert set(largest) == set(np.argsort(-np.linalg.norm(net.W[1], axis=0))[:5])
    with pytest.raises(ValueError, match=re.escape("image_shape must be (height, width) with 12 pixels; got (3, 3).")):
        plotting.FirstLayerDisplay.from_estimator(net)


def test_the_histograms_of_a_batch(style):
    net, X, Y = fitted()
    net.forward(X)
    net.backward(Y)
    activations = draw(plotting.ActivationsDisplay.from_estimator(net, X))
    assert [ax.get_title() for ax in activations.axes_] == [
        "a[1]  relu, 8 units",
        "a[2]  relu, 6 units",
        "a[3]  softmax, 3 units",
    ]
    values, edges, _ = activations.bars_[0].get_data()
    assert values.sum() == pytest.approx(1.0)
    assert edges[-1] == pytest.approx(net.a[1].max())
    assert f"{np.mean(net.a[1] == 0):.0%} are 0" in activations.axes_[0].texts[0].get_text()
    gradients = draw(plotting.GradientsDisplay.from_estimator(net, X, Y))
    assert [ax.get_title() for ax in gradients.axes_] == ["dW[1]  (2, 8)", "dW[2]  (8, 6)", "dW[3]  (6, 3)"]
    assert f"norm {np.linalg.norm(net.dW[2]):.1e}" in gradients.axes_[1].texts[0].get_text()
    assert gradients.bars_[0].get_data()[1][0] == gradients.bars_[2].get_data()[1][0]  # one scale


def test_histograms_of_nothing_at_all():
    net = MLP([3, 5, 4, 1], random_state=0)
    net.set_weights([W * 0.0 for W in net.W[1:]], net.b[1:])
    X = np.ones((4, 3))
    display = draw(plotting.GradientsDisplay.from_estimator(net, X, np.zeros(4)))
    assert display.axes_[0].texts[0].get_text() == "norm 0.0e+00\n100% are 0"
    draw(plotting.ActivationsDisplay.from_estimator(net, X))


# --- Checks and health ---


def test_the_gradient_check_as_a_matrix(style):
    net, X, Y = fitted()
    display = draw(plotting.GradientCheckDisplay.from_estimator(net, X[:5], Y[:5]))
    assert display.ax_.get_title() == "Gradient check: all agree"
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == ["layer 1", "layer 2", "layer 3"]
    assert display.image_.get_array().shape == (3, 2)

    wrong = MLP([2, 3, 1], [(lambda z: z * z, lambda z, a: 2.2 * z), "identity"], random_state=0)
    report = xpmlp.check_gradients(wrong, X[:5], X[:5, 0])
    bad = draw(plotting.GradientCheckDisplay.from_report(report))
    assert bad.ax_.get_title() == "Gradient check: 2 of 4 wrong"
    assert [text.get_text().endswith("WRONG") for text in bad.texts_] == [not row.ok for row in report.rows]


def test_health_is_one_line_for_each_layer(style):
    net, _, _ = fitted()
    display = draw(plotting.HealthDisplay.from_estimator(net))
    assert [len(lines) for lines in display.lines_.values()] == [3, 3, 3, 2, 2]
    np.testing.assert_array_equal(display.lines_["gradient_norm"][1].get_ydata(), net.history["health.gradient_norm.2"])
    np.testing.assert_allclose(display.lines_["dead"][0].get_ydata(), 100.0 * np.array(net.history["health.dead.1"]))
    assert texts(display.ax_) == ["layer 1", "layer 2", "layer 3"]
    many, _, _ = fitted(n_networks=2)
    line = plotting.HealthDisplay.from_history(many.history, network=1).lines_["largest_z"][0]
    np.testing.assert_array_equal(line.get_ydata(), np.array(many.history["health.largest_z.1"])[:, 1])
    with pytest.raises(ValueError, match=re.escape("fit with callbacks=[xpmlp.Health(X, y)] first.")):
        plotting.HealthDisplay.from_estimator(MLP([2, 3, 1]))


def test_many_layers_are_read_from_a_colour_bar():
    net, _, _ = fitted(sizes=(2, *[5] * 12, 3))
    display = draw(plotting.HealthDisplay.from_estimator(net))
    assert display.ax_.get_legend() is None
    assert display.figure_.axes[-1].get_ylabel() == "layer"


# --- The network ---


def test_the_network_is_drawn_with_its_shapes(style):
    net = MLP([2, 4, 30, 1], ["relu", "tanh", "identity"], random_state=0)
    display = draw(plotting.NetworkDisplay.from_estimator(net, feature_names=["width", "h" * 50]))
    said = [text.get_text() for text in display.texts_]
    for text in (
        "input\n2",
        "layer 1\n4",
        "layer 2\n30",
        "output\n1",
        "W[2]\n(4, 30)",
        "tanh",
        "width",
        "h" * 23 + "…",
    ):
        assert text in said
    assert [len(units.get_offsets()) for units in display.units_] == [2, 4, 7, 1]  # 6, dots, and the last
    assert [len(lines.get_segments()) for lines in display.connections_] == [8, 28, 7]
    assert not colliding(display.texts_, display.figure_)
    with pytest.raises(ValueError, match=re.escape("feature_names must hold 2 names; got 1.")):
        plotting.NetworkDisplay.from_estimator(net, feature_names=["alone"])


def test_many_layers_do_not_collide(style):
    net = MLP([64, *[128] * 14, 10], random_state=0)
    display = draw(plotting.NetworkDisplay.from_estimator(net))
    assert not colliding(display.texts_, display.figure_)


def ticks_of(ax):
    low, high = ax.get_xlim()
    return [label for label in ax.get_xticklabels() if low <= label.get_position()[0] <= high]


@pytest.mark.parametrize("draw_it", [plotting.WeightsDisplay, plotting.ActivationsDisplay, plotting.HealthDisplay])
def test_titles_of_many_panels_do_not_collide(draw_it):
    net, X, _ = fitted(sizes=(64, *[40] * 10, 3))
    display = draw(draw_it.from_estimator(net, *([X] if draw_it is plotting.ActivationsDisplay else [])))
    words = [text for ax in display.axes_ for text in (ax.title, ax.xaxis.label, *ticks_of(ax))]
    assert not colliding(words, display.figure_)


def test_the_collision_check_objects():
    figure, ax = plt.subplots()
    words = [ax.text(0.5, 0.5, "one"), ax.text(0.51, 0.5, "another")]
    figure.canvas.draw()
    assert colliding(words, figure) == [("another", "one")]


# --- All of them ---


EVERY_DISPLAY = {
    "LossCurveDisplay": lambda display, net, X, Y, **kw: display.from_estimator(net, **kw),
    "ScheduleDisplay": lambda display, net, X, Y, **kw: display.from_estimator(net, **kw),
    "DecisionBoundaryDisplay": lambda display, net, X, Y, **kw: display.from_estimator(
        net, X, Y, grid_resolution=5, **kw
    ),
    "WeightsDisplay": lambda display, net, X, Y, **kw: display.from_estimator(net, **kw),
    "FirstLayerDisplay": lambda display, net, X, Y, **kw: display.from_estimator(net, image_shape=(1, 2), **kw),
    "ActivationsDisplay": lambda display, net, X, Y, **kw: display.from_estimator(net, X, **kw),
    "GradientsDisplay": lambda display, net, X, Y, **kw: display.from_estimator(net, X, Y, **kw),
    "GradientCheckDisplay": lambda display, net, X, Y, **kw: display.from_estimator(net, X[:4, :], Y[:4, :], **kw),
    "HealthDisplay": lambda display, net, X, Y, **kw: display.from_estimator(net, **kw),
    "NetworkDisplay": lambda display, net, X, Y, **kw: display.from_estimator(net, **kw),
}
each_display = pytest.mark.parametrize("name", EVERY_DISPLAY)


def test_every_display_is_tested():
    assert {*EVERY_DISPLAY, "ScoreCurveDisplay"} == set(plotting.__all__)


@each_display
def test_a_display_goes_where_it_is_told_and_can_be_drawn_again(name):
    net, X, Y = fitted()
    figure, (left, right) = plt.subplots(1, 2, figsize=(16, 8), layout="constrained")
    display = draw(EVERY_DISPLAY[name](getattr(plotting, name), net, X, Y, ax=right))
    assert display.figure_ is figure
    assert display.ax_ is display.axes_[0]
    assert not left.has_data()
    assert plt.get_fignums() == [figure.number]
    assert display.plot() is display
    assert display.figure_ is not figure


@each_display
def test_a_display_takes_a_model_of_any_backend(name, backend):
    if name == "GradientCheckDisplay" and not backend.float64:
        pytest.skip("check_gradients needs float64")
    net, X, Y = fitted(backend.name, backend.place.device_name, dtype=backend.dtypes[0])
    if name == "GradientCheckDisplay":  # like fit, it takes the arrays of the model's own place
        X, Y = map(backend.put, (X, Y))
    display = EVERY_DISPLAY[name](getattr(plotting, name), net, X, Y)
    assert display.ax_.has_data() or display.ax_.texts


def test_panels_need_a_grid_or_as_many_axes_as_there_are():
    net, _, _ = fitted()
    figure, axes = plt.subplots(1, 3)
    display = plotting.WeightsDisplay.from_estimator(net, ax=axes)
    assert list(display.axes_) == list(axes)
    with pytest.raises(ValueError, match=re.escape("ax must be one axes or 3 of them; got 2.")):
        plotting.WeightsDisplay.from_estimator(net, ax=axes[:2])
    with pytest.raises(ValueError, match=re.escape("ax must belong to a grid (plt.subplots) to be divided")):
        plotting.WeightsDisplay.from_estimator(net, ax=figure.add_axes((0, 0, 1, 1)))


def test_without_matplotlib_the_message_says_what_to_install():
    code = """
        import sys
        sys.modules["matplotlib"] = sys.modules["matplotlib.pyplot"] = None
        import xpmlp
        from xpmlp import plotting
        net = xpmlp.MLP([2, 3, 1])
        for make in (
            lambda: plotting.NetworkDisplay.from_estimator(net),
            lambda: plotting.LossCurveDisplay({"training": [1.0]}).plot(),
            lambda: plotting.HealthDisplay.from_estimator(net),
        ):
            try:
                make()
            except ImportError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["plots need matplotlib; install it with pip install 'matplotlib>=3.9'."] * 3


# --- What cannot be drawn is said ---


def test_epochs_that_are_not_finite_are_shaded_and_counted():
    loss = [1.0, 0.5, np.nan, np.inf, 0.4, np.nan, 0.3, 0.2]
    display = plotting.LossCurveDisplay({"training": loss}).plot()
    labels = display.ax_.get_legend_handles_labels()[1]
    assert "not finite in 3 of 8 epochs, first in 3" in labels
    assert len(display.ax_.patches) == 2  # epochs 3 and 4, and 6
    lone = next(line for line in display.ax_.get_lines() if line.get_label() == "_lone")
    assert lone.get_xdata().tolist() == [5]
    assert "best, epoch 8" in labels
    assert not plotting.LossCurveDisplay({"training": [1.0, 0.5]}).plot().ax_.patches


def test_the_best_score_is_a_number():
    display = plotting.ScoreCurveDisplay({"validation": [0.5, np.inf, 0.7, np.nan]}).plot()
    assert "best, epoch 3" in display.ax_.get_legend_handles_labels()[1]


@pytest.mark.parametrize("display", [plotting.ActivationsDisplay, plotting.GradientsDisplay, plotting.WeightsDisplay])
def test_of_twenty_layers_twelve_are_drawn_and_any_can_be_chosen(display, rng):
    net = MLP([2, *[3] * 20, 1], "tanh", random_state=0)
    X = rng.normal(size=(9, 2))
    batch = {plotting.ActivationsDisplay: (X,), plotting.GradientsDisplay: (X, X[:, 0]), plotting.WeightsDisplay: ()}[
        display
    ]
    drawn = display.from_estimator(net, *batch)
    layers = [int(re.search(r"\[(\d+)\]", title).group(1)) for title in drawn.titles]
    assert len(layers) == 12
    assert (layers[0], layers[-1]) == (1, 21)
    assert max(np.diff(layers)) == 2
    assert len(display.from_estimator(net, *batch, layers=[3, 20]).axes_) == 2


def test_derivatives_that_are_all_zero_are_said_to_be(rng):
    net = MLP([2, 3, 1], random_state=0)
    net.parameters = 0.0 * net.parameters
    panel = plotting.GradientsDisplay.from_estimator(net, rng.normal(size=(5, 2)), np.zeros(5)).axes_[0]
    assert "all 0" in [text.get_text() for text in panel.texts]
    assert len(panel.get_xticks()) == len(panel.get_yticks()) == 0


def test_weights_of_zero_are_named_since_their_lines_are_not_seen():
    net = MLP([2, 3, 2, 1], random_state=0)
    assert "all weights are 0" not in words(plotting.NetworkDisplay.from_estimator(net))
    W = [np.array(W) for W in net.W[1:]]
    net.set_weights([W[0], 0 * W[1], W[2]], net.b[1:])
    assert "all weights are 0 in W[2]; orange: weight above 0" in words(plotting.NetworkDisplay.from_estimator(net))
    net.set_weights([0 * w for w in W], net.b[1:])
    assert words(plotting.NetworkDisplay.from_estimator(net)).endswith("all weights are 0")


def words(display) -> str:
    return " ".join(text.get_text() for text in display.texts_)


def test_a_deep_network_fits_a_page():
    display = plotting.NetworkDisplay.from_estimator(MLP([2, *[3] * 20, 1], random_state=0))
    assert display.figure_.get_size_inches()[0] <= 14.0
