"""The examples and the README do what they say."""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris

import xpmlp
from xpmlp import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PNG = b"\x89PNG\r\n\x1a\n"


def load(name: str) -> ModuleType:
    """An example as a module, run in this process."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def two_circles() -> ModuleType:
    return load("two_circles")


@pytest.fixture(scope="module")
def why() -> ModuleType:
    return load("why_it_diverged")


def lines_of_the_table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if re.match(r" +\d+ +\d\.\d{4} ", line)]


def test_the_circles_are_learned_and_drawn(two_circles, tmp_path, capsys):
    file = tmp_path / "circles.png"
    accuracy = two_circles.main(["--plot", str(file)])
    printed = capsys.readouterr().out
    table = lines_of_the_table(printed)
    assert [int(line[0]) for line in table] == list(range(0, 1001, 100))
    assert 40 <= float(table[0][2].rstrip("%")) <= 60
    assert accuracy >= 0.98
    assert table[-1][2] == f"{accuracy:.1%}"
    assert float(table[-1][1]) < 0.1 < float(table[0][1])
    assert file.read_bytes().startswith(PNG)
    assert str(file) in printed


def test_nine_of_ten_seeds_learn_the_circles(two_circles, capsys):
    # Seen: 10 of 10, the worst 0.990
    assert sum(two_circles.main(["--seed", str(seed)]) >= 0.98 for seed in range(10)) >= 9


def test_the_circles_are_the_same_on_every_backend(two_circles, backend, capsys):
    if not backend.float64:
        pytest.skip("parity of the printed digits needs float64")
    arguments = ["--epochs", "20", "--backend", backend.name, "--device", backend.place.device_name]
    two_circles.main(["--epochs", "20"])
    expected = lines_of_the_table(capsys.readouterr().out)
    two_circles.main(arguments)
    printed = capsys.readouterr().out
    assert lines_of_the_table(printed) == expected
    assert f"on {backend.place}." in printed


def test_the_circles_fall_back_with_one_warning(two_circles, monkeypatch, capsys):
    if "cupy" in xpmlp.available_backends():
        pytest.skip("CuPy works here")
    with pytest.warns(xpmlp.BackendFallbackWarning) as caught:
        two_circles.main(["--epochs", "1", "--backend", "cupy"])
    assert len(caught) == 1
    assert "on NumPy on cpu." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["two_circles", "why_it_diverged", "tables"])
def test_a_plot_without_matplotlib_says_what_to_install(name, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda it, *rest: None if it == "matplotlib" else find_spec(it, *rest)
    )
    with pytest.raises(SystemExit):
        load_and_run(name, ["--plot"])
    assert "pip install matplotlib" in capsys.readouterr().err


def load_and_run(name: str, arguments: list[str]) -> Any:
    spec = sys.modules.get(name)
    return (spec or load(name)).main(arguments)


def test_a_table_of_penguins_is_learned_and_opened_up(tmp_path, capsys):
    pytest.importorskip("palmerpenguins", reason="pip install palmerpenguins")
    file = tmp_path / "tables.png"
    errors = load("tables").main(["--quick", "--plot", str(file)])
    printed = capsys.readouterr().out
    assert file.read_bytes().startswith(PNG)
    assert max(len(line) for line in printed.splitlines() if str(file) not in line) <= 84
    for text in ("1. THE TABLE. 344 rows, 16 columns", "2. SIDE BY SIDE", "3. QUANTILES", "4. IMPORTANCES", "5. DOUBT"):
        assert text in printed
    for line in ("Date Egg             a date", "Sex                  a category, with gaps", "left out: 'Anvers'"):
        assert line in printed
    mass, sex = errors.values()
    # Two small networks, eight epochs: half of a constant's error is seen, a whole fit has a third.
    assert mass["xpmlp"] < 0.8 * mass["a constant"]
    assert sex["xpmlp"] < sex["a constant"]
    for name in ("linear", "HistGradientBoosting"):
        assert mass[name] < 0.5 * mass["a constant"]


def test_without_the_penguins_the_example_says_what_to_install(monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda it, *rest: None if it == "palmerpenguins" else find_spec(it, *rest)
    )
    with pytest.raises(SystemExit):
        load_and_run("tables", [])
    assert "pip install palmerpenguins" in capsys.readouterr().err


def test_the_published_recipe_is_taken_apart(why, tmp_path, capsys):
    file = tmp_path / "why.png"
    why.main(["--quick", "--plot", str(file)])
    printed = capsys.readouterr().out
    assert file.read_bytes().startswith(PNG)
    assert str(file) in printed
    assert max(len(line) for line in printed.splitlines() if str(file) not in line) <= 84
    for text in ("1. THE RUN", "2. THE LINES.", "3. THE RATE.", "4. BOTH."):
        assert text in printed


def test_the_published_run_gives_the_numbers_that_were_printed(why):
    # 150 epochs leave 1e-9 on the Prescott, Haswell and SkylakeX kernels of OpenBLAS; of 1,000 epochs nothing holds.
    run = why.train(0)
    for _, epoch, loss, right in why.PRINTED:
        assert 1000 * run.loss[epoch] == pytest.approx(loss, abs=1e-6)
        assert right is None or run.accuracy[epoch] == right
    assert run.accuracy.max() < 0.98


def test_the_rate_times_the_curvature_passes_two_where_the_loss_first_jumps(why):
    run = why.train(0, watch=True, epochs=124)
    assert int(np.argmax(run.rate_times_curvature > 2.0)) == 122
    assert run.rate_times_curvature[:122].max() < 1.5
    assert int(np.argmax(np.diff(run.loss) > 0.01 * run.loss[:-1])) + 1 == 122


def test_mending_db_alone_puts_the_first_step_above_two(why):
    for seed in range(3):
        first = (why.train(seed, wrong, epochs=1, watch=True) for wrong in (why.PUBLISHED, frozenset({why.DOUBLED})))
        published, mended = (run.rate_times_curvature[0] for run in first)
        assert published < 0.3
        assert mended > 2.4


def test_each_wrong_line_leaves_its_factor(why):
    n = 200
    expected = {
        (): (1, 1),
        (why.MEAN_DB,): (1, 1 / n),
        (why.DOUBLED,): (2, 2),
        (why.SIGN,): (-1, -1),
        tuple(why.PUBLISHED): (2, 2 / n),
    }
    for lines, (of_dW, of_db) in expected.items():
        report = why.check(frozenset(lines), n)
        assert report.ok == (lines == ())
        for row in report:
            assert row.factor == pytest.approx(of_dW if row.name == "W" else of_db, rel=1e-6)


def test_what_the_readme_says_of_the_published_recipe(why):
    # As published none of ten is ever good (150 epochs do not depend on rounding); mended, most are at the end: 7, and
    # 9 from He's start, on one kernel. These descend steadily but for a few epochs, so another may move one or two.
    assert all(why.train(seed).accuracy.max() < 0.98 for seed in range(10))
    mended = [why.train(seed, frozenset(), "he", why.RATE / 10, 1000).accuracy[-1] for seed in range(10)]
    assert sum(accuracy >= 0.98 for accuracy in mended) >= 6


def blocks_of_the_readme() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


OPTIONAL = {"onnx": "to_onnx(", "mparray": "digits="}  # and by what a block of the README shows that it needs them


@pytest.mark.parametrize("hidden", [(), tuple(OPTIONAL)], ids=["as-installed", "without-what-is-optional"])
def test_the_code_of_the_readme_runs(hidden, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for library in hidden:
        monkeypatch.setitem(sys.modules, library, None)
    missing = [text for library, text in OPTIONAL.items() if importlib.util.find_spec(library) is None]
    blocks = blocks_of_the_readme()
    run = [block for block in blocks if not any(text in block for text in missing)]
    assert len(blocks) - len(run) == len(missing), "each optional library is needed by one block"
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xpmlp.BackendFallbackWarning)  # one block asks for CuPy
        for block in run:
            exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    claims = re.findall(r"^print\(.*\)  # ([0-9.]+|\([0-9, ]+\)|True)|^# (.+)$", "".join(run), re.MULTILINE)
    assert len(claims) == 5 - (OPTIONAL["mparray"] in missing)
    for of_a_line, of_the_line_above in claims:
        assert (of_a_line or of_the_line_above) in printed


def test_the_commands_of_the_readme_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = load_iris(return_X_y=True)
    rows = [
        ",".join([*map(str, x), ("setosa", "versicolor", "virginica")[label]]) for x, label in zip(X, y, strict=True)
    ]
    Path("flowers.csv").write_text("\n".join(["a,b,c,d,species", *rows]), encoding="utf-8")
    commands = re.findall(r"^    \.venv/bin/xpmlp (.+)$", README, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        short = ["--epochs", "3", "--hidden", "8", "--members", "2"] if command.startswith("train") else []
        assert cli.main([*command.split(), *short]) == 0, command
    assert {"model.safetensors", "report.html", "answers.csv"} <= {file.name for file in tmp_path.iterdir()}


def test_the_links_within_the_readme_lead_somewhere():
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", README, flags=re.DOTALL), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in heads}
    links = re.findall(r"\]\(#([^)]+)\)", README)
    assert len(links) > 8
    assert set(links) <= anchors
    # Every room is in the table of contents.
    assert anchors - set(links) == {"xpmlp"}


def test_the_readme_names_files_that_are_there():
    for name in re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"examples/\w+\.py", README):
        assert (ROOT / name).exists(), name
