"""The documentation: its code runs, its examples run, what it includes is there, and its phrases are the package's."""

from __future__ import annotations

import ast
import importlib
import json
import re
import runpy
import warnings
from pathlib import Path
from typing import Any

import pytest

import xpmlp

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(path for folder in ("learn", "use") for path in (DOCS / folder).glob("*.md")), DOCS / "index.md"]
GALLERY = sorted((ROOT / "examples" / "gallery").glob("plot_*.py"))

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")


@pytest.fixture(autouse=True)
def _quiet_plots(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@each_page
def test_the_code_of_a_page_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(path.read_text(encoding="utf-8")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", xpmlp.BackendFallbackWarning)  # PyTorch and CuPy may not be here
            exec(compile(block, str(path), "exec"), names)


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_an_example_of_the_gallery_runs_and_draws(path, tmp_path, monkeypatch, capsys):
    if "onnxruntime" in path.read_text(encoding="utf-8"):
        pytest.importorskip("onnx", reason="pip install onnx")
        pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path))
    assert plt.get_fignums()


def test_the_gallery_has_ten_examples_that_say_what_they_show():
    assert len(GALLERY) >= 10
    for path in GALLERY:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring is not None
        title, rule, _, text, *_ = docstring.splitlines()
        assert rule == "=" * len(title)
        assert len(text) > 60


def included(page: str) -> list[tuple[str, str, str]]:
    """File, first and last text of every literalinclude of a page."""
    found = []
    for body in re.findall(r"^```\{literalinclude\} (.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        file, *options = body.strip().splitlines()
        marks = dict(re.findall(r'^:(start-at|end-at): "(.*)"$', "\n".join(options), flags=re.MULTILINE))
        found.append((file, marks["start-at"], marks["end-at"]))
    return found


def include_faults(page: str, source: str) -> list[str]:
    """What is wrong with the lines that a page shows: they are gone, moved, or the mark fits several."""
    faults = []
    for _, start, end in included(page):
        lines = source.splitlines()
        at = [i for i, line in enumerate(lines) if start in line]
        if len(at) != 1:
            faults.append(f"{start!r} is in {len(at)} lines")
            continue
        ends = [i for i, line in enumerate(lines) if end in line and i >= at[0]]
        if not ends or ends[0] - at[0] > 12:
            faults.append(f"{end!r} does not follow {start!r}")
    return faults


@each_page
def test_every_line_shown_is_a_line_of_the_package(path):
    page = path.read_text(encoding="utf-8")
    for file, *_ in included(page):
        assert (path.parent / file).resolve() == ROOT / "xpmlp" / "network" / "propagation.py"
    assert include_faults(page, (ROOT / "xpmlp" / "network" / "propagation.py").read_text(encoding="utf-8")) == []


def test_learn_shows_every_equation_of_the_matrix_form():
    shown = "".join(start for _, start, _ in included((DOCS / "learn" / "matrix_form.md").read_text(encoding="utf-8")))
    for name in ("z[k] = ", "a[k] = ", "da = loss", "if f.pullback", "dW[k] = "):
        assert name in shown


def test_the_include_check_objects():
    page = '```{literalinclude} ../../xpmlp/network/propagation.py\n:start-at: "dW = "\n:end-at: "db = "\n```\n'
    assert include_faults(page, "dW = 1\ndb = 2\n") == []
    assert include_faults(page, "dV = 1\ndb = 2\n") == ["'dW = ' is in 0 lines"]
    assert include_faults(page, "dW = 1\ndW = 1\ndb = 2\n") == ["'dW = ' is in 2 lines"]
    assert include_faults(page, "db = 2\ndW = 1\n") == ["'db = ' does not follow 'dW = '"]


def texts_of(source: str) -> list[str]:
    """The string constants of a module; those that stand side by side, or with values between them, as one."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_the_phrases_of_troubleshooting_are_the_packages_own():
    page = (DOCS / "use" / "troubleshooting.md").read_text(encoding="utf-8")
    terms = [line for line, after in zip(page.splitlines(), page.splitlines()[1:], strict=False) if after[:2] == ": "]
    phrases = [phrase for term in terms for phrase in re.findall(r"`([^`]+)`", term)]
    assert len(phrases) > 40
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "xpmlp").rglob("*.py"))
    texts = [text for source in sources for text in texts_of(source)]
    missing = [phrase for phrase in phrases if not any(phrase in text for text in texts)]
    assert missing == []


@each_page
def test_formulas_are_written_for_the_converter(path):
    # It reads \frac12 as 12 over what follows, and hangs the index of {\hat y}_j below the hat, without a word.
    prose = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert re.findall(r"\\[td]?frac(?!\{)|\\hat \w\}?_", prose) == []


@each_page
def test_links_inside_hold(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if target.startswith(("gallery/", "../gallery/")):
            made_of = ROOT / "examples" / "gallery" / Path(target).with_suffix(".py").name
            assert made_of.exists() or target.endswith("gallery/index.rst"), target
        else:
            assert (path.parent / target).exists(), target


# --- Learn: executed, and to run as notebooks ---

LEARN = [path for path in PAGES if path.parent.name == "learn" and path.stem != "index"]
# What belongs in the blank lines of the exercises.
SOLUTIONS = {
    "differential": [("dW = np.zeros((2, 1))", "dW = X.T @ dyhat[:, None]")],
    "chain_rule": [("da = 0.0", "da = sum(dz[k + 1][s, j] * W[k + 1][i, j] for j in range(z[k + 1].shape[1]))")],
    "by_hand": [("2 * (Y - a[2])", "2 * (a[2] - Y)"), ("a[k].T @ dz", "a[k - 1].T @ dz")],
    "matrix_form": [("da = np.ones_like(a[k - 1])", "da = dz @ W[k].T")],
    "training": [("share = np.full(len(y), 1 / len(y))", "share = w / w.sum()")],
    "divergence": [
        ("2 * (Y - a[3])", "2 * (a[3] - Y) / n"),
        ("da * 2 * a[k] * (1 - a[k])", "da * a[k] * (1 - a[k])"),
        ("a[k].T @ dz", "a[k - 1].T @ dz"),
        ("dz.mean(axis=0)", "dz.sum(axis=0)"),
    ],
}
each_learn_page = pytest.mark.parametrize("path", LEARN, ids=lambda path: path.stem)


@pytest.fixture
def executed(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("executed")


@each_learn_page
def test_the_judge_refuses_an_exercise_as_it_stands_and_accepts_its_solution(path, executed):
    text = path.read_text(encoding="utf-8")
    before, exercise = text.split("\n## Exercise\n")
    assert "gradients=" in exercise
    as_it_stands = executed.run(text)[-1]
    assert "Look first at layer" in as_it_stands or as_it_stands.startswith("False")
    for blank, line in SOLUTIONS[path.stem]:
        assert blank in exercise
        exercise = exercise.replace(blank, line)
    assert executed.run(f"{before}\n{exercise}")[-1] in ("", "True []")


@each_learn_page
def test_what_a_block_prints_stands_under_it_and_in_the_notebook(path, executed):
    text = path.read_text(encoding="utf-8")
    printed = executed.run(text)
    page = executed.with_outputs(text, printed, f"{path.stem}.ipynb")
    assert page.count(":class: output") == sum(map(bool, printed)) > 0
    assert f'href="{path.stem}.ipynb"' in page
    notebook = json.loads(json.dumps(executed.notebook_of(text, printed, path.parent)))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["source"] for cell in code] == [block.rstrip() for block in blocks(text)]
    assert ["".join(out["text"] for out in cell["outputs"]).rstrip() for cell in code] == printed
    prose = "".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert "{literalinclude}" not in prose
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


def test_a_comment_stands_above_its_line_so_that_neither_is_cut(executed):
    assert executed.comments_above("  dW = f(x)  # dW = x\nb = 1") == "  # dW = x\n  dW = f(x)\nb = 1"
