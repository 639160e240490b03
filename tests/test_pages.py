"""The pages in a browser: `nox -s pages` builds the docs, and opens every page of them and those that xpmlp writes.

Chromium is Debian's (`apt-get install chromium chromium-driver`) or the one of a CI machine. The rest of the tests does
not need it, so all of this is skipped where XPMLP_PAGES does not name the folder of the built docs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

import xpmlp
from xpmlp.inspection import page as pages
from xpmlp.network.parts import part

BUILT = os.environ.get("XPMLP_PAGES", "")
pytestmark = pytest.mark.skipif(not BUILT, reason="needs Chromium and the built docs: nox -s pages")

WIDTHS = (1280, 390)


class Quiet(SimpleHTTPRequestHandler):
    """Serves the built docs, and keeps what could not be found."""

    missing: list[str] = []  # noqa: RUF012 - one server, one list

    def log_message(self, *_: object) -> None:
        pass

    def send_error(self, code: int, *rest: object) -> None:
        if not self.path.endswith("favicon.ico"):
            self.missing.append(f"{code} {self.path}")
        super().send_error(code)


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=BUILT))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    assert binary, "nox -s pages needs Chromium: apt-get install chromium chromium-driver"
    assert driver, "nox -s pages needs Chromium's driver: apt-get install chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


def open_at(browser, url, width, *, dark=False):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    browser.get(url)


def complaints(browser) -> list[str]:
    """What the console holds against the page: failed requests, errors, warnings; not what a theme tells of itself."""
    told = browser.get_log("browser")
    serious = (entry["message"] for entry in told if entry["level"] in ("WARNING", "SEVERE"))
    return [message for message in serious if not re.search("favicon|Got invalid theme mode", message)]


# What is wider than its room, and formulas that are cut: by how many pixels.
OVERFLOW = """
const wide = [], page = document.documentElement;
if (page.scrollWidth > innerWidth) wide.push(`page ${page.scrollWidth}`);
for (const it of document.querySelectorAll('.formula, .from-source pre, .output pre'))
  if (it.scrollWidth > it.clientWidth + 1)
    wide.push(`${it.className} ${it.textContent.slice(0, 40)} ${it.scrollWidth - it.clientWidth}`);
for (const it of document.querySelectorAll('.pst-scrollable-table-container'))
  if (it.querySelector('math') && it.scrollWidth > it.clientWidth + 1)
    wide.push(`table ${it.scrollWidth - it.clientWidth}`);
return wide;
"""


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_of_the_docs_fits_and_complains_of_nothing(browser, server, width):
    faults = []
    files = sorted(path.relative_to(BUILT).as_posix() for path in Path(BUILT).rglob("*.html"))
    files = [file for file in files if not file.startswith("_static/")]  # templates of the theme
    assert len(files) > 50
    for file in files:
        open_at(browser, f"{server}/{file}", width)
        faults += [f"{file}: {wide}" for wide in browser.execute_script(OVERFLOW)]
        faults += [f"{file}: {complaint}" for complaint in complaints(browser)]
    assert faults == [], "\n".join(faults)
    assert Quiet.missing == []


# --- The maths of the page, beside the package's ---

KINDS = [
    ("binary_cross_entropy", "sigmoid", 1),
    ("binary_cross_entropy", "sigmoid", 3),
    ("cross_entropy", "softmax", 3),
    ("squared_error", "identity", 2),
]
HIDDEN = ("relu", "tanh", "sigmoid", "softplus", "identity")


def random_network(seed):
    rng = np.random.default_rng(seed)
    loss, output, n_out = KINDS[seed % len(KINDS)]
    sizes = [int(rng.integers(1, 5)), *(int(n) for n in rng.integers(1, 6, size=rng.integers(1, 4))), n_out]
    names = [*(HIDDEN[i] for i in rng.integers(len(HIDDEN), size=len(sizes) - 2)), output]
    net = xpmlp.MLP(sizes, names, loss, random_state=seed)
    net.parameters = net.parameters + 0.3 * rng.normal(size=net.parameters.shape)
    X, y = rng.normal(size=(12, sizes[0])), rng.uniform(size=(12, n_out))
    if loss == "cross_entropy":
        y = y / y.sum(axis=1, keepdims=True)
    return net, X, y


DERIVATIVES = """
const {net, X, Y} = arguments[0], pass = Engine.forward(net, X), g = Engine.backward(net, pass, Y);
return {dW: g.dW, db: g.db, loss: Engine.mean(Engine.losses(net, pass, Y)),
  edge: Engine.curvature(net, X, Y, 0.7, 0.2)};
"""


@pytest.fixture(scope="module")
def circles(browser, server):
    open_at(browser, f"{server}/circles.html", 1280)
    return browser


@pytest.mark.parametrize("seed", range(20))
def test_the_derivatives_of_the_page_are_the_packages(circles, seed):
    net, X, y = random_network(seed)
    net.forward(X)
    net.backward(y)
    description = {
        "sizes": list(net.layout.sizes),
        "names": [row.name for row in net.network.activations],
        "loss": net.network.loss.name,
        "W": [None, *(W.tolist() for W in net.W[1:])],
        "b": [None, *(b.tolist() for b in net.b[1:])],
    }
    found = circles.execute_script(DERIVATIVES, {"net": description, "X": X.tolist(), "Y": y.tolist()})
    # Sums in another order, and another exp: seen 3e-16 of the largest derivative
    for name in ("dW", "db"):
        for k, theirs in enumerate(found[name][1:], start=1):
            np.testing.assert_allclose(theirs, getattr(net, name)[k], rtol=0, atol=1e-12)
    assert found["loss"] == pytest.approx(net.evaluate(X, y), rel=1e-12)
    K = net.layout.n_layers
    expected = xpmlp.curvature(net, X, y, learning_rate_factors=([0.7] * K, [0.2] * K))
    assert found["edge"] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_the_circles_give_the_published_numbers(circles):
    history = circles.execute_script("document.getElementById('published').click(); return circles.run(149)")
    for epoch, loss in ((0, 693.62972747), (145, 664.60120828), (146, 697.97739669), (149, 683.61702980)):
        assert 1000 * history["loss"][epoch] == pytest.approx(loss, abs=1e-6)
    assert max(history["edge"][:122]) < 1.5
    assert history["edge"][122] > 2.0
    assert "Epoch 149. Mean loss 0.6836 (sum 683.6170), 61.4 % right" in circles.find_element("id", "told").text


def test_all_mended_learns_the_circles(circles):
    circles.execute_script("document.getElementById('mended').click(); circles.run(150)")
    right = re.search(r"([\d.]+) % right", circles.find_element("id", "told").text)
    assert float(right.group(1)) > 97.0


def test_the_page_opens_on_a_path_that_carries_something(browser, server):
    open_at(browser, f"{server}/circles.html", 390)
    products = browser.execute_script(
        "return [...document.querySelectorAll('ul.paths li > .factor:last-child data')].map(it => Number(it.value))"
    )
    assert any(products)
    assert browser.find_element("id", "sample").get_attribute("value")
    assert "press One epoch, or Play" in browser.find_element("id", "loss").text
    browser.find_element("id", "epoch").click()
    assert len(browser.find_elements("css selector", "#loss svg, #edge svg")) == 2
    assert complaints(browser) == []


def test_the_buttons_are_the_three_verbs(circles):
    circles.execute_script("document.getElementById('published').click()")
    told = circles.find_element("id", "told")
    for button, text in (
        ("update", "Epoch 1."),
        ("forward", "next, Backward"),
        ("backward", "Epoch 1."),
        ("update", "Epoch 2."),
    ):
        circles.execute_script(f"document.getElementById('{button}').click()")
        assert text in told.text
    assert complaints(circles) == []


# --- The page of a step ---


@pytest.fixture
def step(tmp_path, rng):
    net = xpmlp.MLP([2, 3, 2, 1], ["tanh", "relu", "sigmoid"], "binary_cross_entropy", random_state=1)
    X, y = rng.normal(size=(5, 2)), np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    explained = xpmlp.explain_step(net, X, y, learning_rate=0.1, weight=(1, 0, 2))
    return explained, explained.page(tmp_path / "step.html").as_uri()


NUMBERS = """return [...document.querySelectorAll('data[data-of]')].filter(it => it.dataset.of)
  .map(it => [it.dataset.of, it.getAttribute('value'), it.textContent])"""


@pytest.mark.parametrize("width", WIDTHS)
def test_every_number_of_the_page_is_one_of_the_arrays(browser, step, width):
    explained, url = step
    open_at(browser, url, width, dark=width < 600)
    known = {**explained.arrays, "rates": explained.rates, "changes": explained.changes}
    seen = set()
    for weight, sample in ((0, -1), (3, 0), (8, 2), (12, -1), (19, 4)):
        browser.execute_script(
            "for (const [id, i] of [['weight', arguments[0]], ['sample', arguments[1]]]) {"
            "const it = document.getElementById(id); if (id === 'weight') it.selectedIndex = i; else it.value = i;"
            "it.dispatchEvent(new Event('change')); } document.querySelector('details').open = true;",
            weight,
            sample,
        )
        for of, value, text in browser.execute_script(NUMBERS):
            name, index = (
                re.fullmatch(r"(\w+(?:\[\d+\])?)(?:\[([\d, ]+)\])?", of).groups() if of in known else split(of)
            )
            expected = known[name] if index is None else known[name][tuple(map(int, index.split(",")))]
            assert float(value) == float(np.squeeze(expected)), of
            assert float(text) == pytest.approx(float(value), rel=5.1e-3)
            seen.add(name)
        assert browser.execute_script(OVERFLOW) == []
    assert {"dW[1]", "W[3]", "slope[1]", "dz[3]", "L", "y", "L_new", "W_new[2]"} <= seen
    assert not browser.find_element("id", "member").is_displayed()
    assert complaints(browser) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_every_number_of_a_page_of_members_is_one_of_the_arrays(browser, tmp_path, rng, width):
    parts = {
        0: [part("piecewise", edges=[[-1.0, 0.0, 1.0]], width=2), "member_scale"],
        1: "member_scale",
        2: "layer_norm",
    }
    net = xpmlp.MLP([2, 3, 3, 1], "tanh", "binary_cross_entropy", parts=parts, members=3, random_state=1)
    net.parameters = net.parameters + 0.1 * rng.normal(size=net.parameters.shape)
    X, y = rng.normal(size=(4, 2)), np.array([0.0, 1.0, 1.0, 0.0])
    explained = xpmlp.explain_step(net, X, y, learning_rate=0.1, weight=(2, 0, 1), member=2)
    open_at(browser, explained.page(tmp_path / "step.html").as_uri(), width, dark=width < 600)
    told, arrays, seen = browser.find_element("id", "told"), explained.arrays, set()
    assert told.text.startswith("W[2][0, 1], member 2's derivative ")
    for member in (2, 0):
        for weight, sample in (
            ("W[1][0, 2]", -1),
            ("W[2][0, 1]", 1),
            ("b[2][1]", 0),
            ("W[3][2, 0]", -1),
            ("b[3][0]", 2),
        ):
            browser.execute_script(
                "for (const [i, id] of ['weight', 'sample', 'member'].entries()) {"
                "const it = document.getElementById(id), text = arguments[i];"
                "it.value = id === 'weight' ? [...it.options].find(o => o.textContent === text).value : text;"
                "it.dispatchEvent(new Event('change')); } document.querySelector('details').open = true;",
                weight,
                sample,
                member,
            )
            for of, value, _ in browser.execute_script(NUMBERS):
                name, index = split(of) if of not in arrays else (of, None)
                if name in arrays:
                    expected = arrays[name] if index is None else arrays[name][tuple(map(int, index.split(",")))]
                    assert float(value) == float(expected), of
                    seen.add(name)
            assert browser.execute_script(OVERFLOW) == []
            total = browser.find_elements("css selector", "#matrix .total")
            shared = weight.startswith(("W[1]", "W[2]"))
            assert [it.text.startswith("Added over the 3 members") for it in total] == [False, True][: 1 + shared]
    assert {
        "dW_members[1]",
        "dW[1]",
        "dW[3]",
        "db[2]",
        "member_scale.scale[1]",
        "piecewise.bins[0]",
        "L_members",
    } <= seen
    # From W[2], below layer_norm, there are no paths one by one; from W[3] there are
    for weight, paths in (("W[2][0, 1]", 0), ("W[3][2, 0]", 1)):
        browser.execute_script(
            "const it = document.getElementById('weight');"
            "it.value = [...it.options].find(o => o.textContent === arguments[0]).value;"
            "it.dispatchEvent(new Event('change'))",
            weight,
        )
        assert len(browser.find_elements("css selector", "ul.paths li")) == paths
    assert complaints(browser) == []


@pytest.mark.parametrize("members", [None, 2])
def test_the_paths_through_scales_add_up(browser, tmp_path, rng, members):
    parts = {1: "member_scale"} if members else None
    net = xpmlp.MLP([2, 3, 2], "tanh", parts=parts, members=members, random_state=1)
    explained = xpmlp.explain_step(net, rng.normal(size=(4, 2)), rng.normal(size=(4, 2)), weight=(1, 1, 2))
    open_at(browser, explained.page(tmp_path / "step.html").as_uri(), 1280)
    browser.execute_script(
        "const s = document.getElementById('sample'); s.value = -1; s.dispatchEvent(new Event('change'))"
    )
    derivative = explained.arrays["dW_members[1]"][explained.path.member] if members else explained.arrays["dW[1]"]
    total = float(browser.find_element("id", "sum").get_attribute("value"))
    assert total == pytest.approx(derivative[1, 2], rel=1e-12)
    assert len(browser.find_elements("css selector", "ul.paths li")) == 2


def split(of: str) -> tuple[str, str | None]:
    """Split "W[2][0, 1]" into the name of an array and an index into it."""
    match = re.fullmatch(r"([\w.]+\[\d+\])\[([\d, ]+)\]", of) or re.fullmatch(r"(\w+)\[([\d, ]+)\]", of)
    return match.group(1), match.group(2)


def test_the_paths_add_up_to_the_derivative_of_every_weight(browser, step):
    explained, url = step
    open_at(browser, url, 1280)
    sums = browser.execute_script(
        "const all = {}; const select = document.getElementById('weight'), s = document.getElementById('sample');"
        "s.value = -1; s.dispatchEvent(new Event('change'));"
        "for (const option of select.options) { select.value = option.value; select.dispatchEvent(new Event('change'));"
        "all[option.textContent] = Number(document.getElementById('sum').value); } return all;"
    )
    assert len(sums) == 2 * 3 + 3 + 3 * 2 + 2 + 2 + 1
    for label, total in sums.items():
        name, index = split(label)
        derivative = explained.arrays[f"d{name}"][tuple(map(int, index.split(",")))]
        assert total == pytest.approx(derivative, rel=1e-12, abs=1e-15)


def test_the_arrow_keys_go_from_weight_to_weight_and_are_told(browser, step):
    from selenium.webdriver.common.keys import Keys

    _, url = step
    open_at(browser, url, 1280)
    chosen = browser.find_element("css selector", ".edge.chosen")
    assert chosen.get_attribute("aria-label").startswith("W[1][0, 2] = ")
    browser.execute_script("arguments[0].focus()", chosen)
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element.get_attribute("aria-label").startswith("W[1][1, 0] = ")
    assert browser.find_element("id", "told").text.startswith("W[1][1, 0], derivative ")
    assert len(browser.find_elements("css selector", "[tabindex='0'].edge")) == 1


def test_in_a_notebook_the_page_is_shown_inline(browser, step, tmp_path):
    explained, _ = step
    file = tmp_path / "notebook.html"
    file.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{explained._repr_html_()}</body>", encoding="utf-8")
    open_at(browser, file.as_uri(), 900)
    browser.switch_to.frame(browser.find_element("css selector", "iframe"))
    assert "path" in browser.find_element("id", "chain").text
    browser.switch_to.default_content()
    assert complaints(browser) == []


def test_the_maths_of_the_circles_page_is_embedded_whole():
    data = json.loads(
        re.search(r'<script id="data" type="application/json">(.*?)</script>', read("circles.html")).group(1)
    )
    assert len(data["X"]) == 1000
    assert pages.document("circles", data, about="x").count("<script") == 2


def read(name: str) -> str:
    return (Path(BUILT) / name).read_text(encoding="utf-8")
