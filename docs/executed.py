"""The Learn pages are executed when the docs are built: what a block prints stands under it, each page is a notebook.

A page's ```python blocks run one after the other, in one namespace, as a reader would run them. The notebook holds the
same text and code with the same output; lines that a page includes from the package stand in it as they are.
"""

import contextlib
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^(```|~~~)(.*?)\n(.*?)^\1\n", flags=re.DOTALL | re.MULTILINE)
FOLDER = "learn/"
UNDER_A_BLOCK = "\n```{{code-block}} text\n:class: output\n\n{}\n```\n"


def run(text: str) -> list[str]:
    """What each block of a page prints."""
    names: dict[str, Any] = {"__name__": "page"}
    printed = []
    for language, code in blocks(text):
        if language != "python":
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out), warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(code, "page", "exec"), names)
        printed.append(out.getvalue().rstrip())
    return printed


def blocks(text: str) -> list[tuple[str, str]]:
    """The language and the text of each fenced block."""
    return [(match[2].strip(), match[3]) for match in FENCE.finditer(text)]


def with_outputs(text: str, printed: list[str], notebook: str) -> str:
    """The page with the output under each block, and a link to its notebook under its title."""
    left = iter(printed)

    def add(match: re.Match[str]) -> str:
        if match[2].strip() != "python":
            return match[0]
        out = next(left)
        return match[0] + (UNDER_A_BLOCK.format(out) if out else "")

    title, rest = text.split("\n", 1)
    link = f'\n<p class="notebook"><a href="{notebook}" download>This page as a notebook</a></p>\n'
    return f"{title}\n{link}{FENCE.sub(add, rest)}"


def notebook_of(text: str, printed: list[str], folder: Path) -> dict[str, Any]:
    """The page in the form of Jupyter's notebooks, version 4."""
    cells: list[dict[str, Any]] = []
    left, end = iter(printed), 0

    def prose(part: str) -> None:
        part = re.sub(r"\]\((?!\w+:)([^)#]+)\.(?:md|rst)", r"](\1.html", part).strip()
        if part:
            cells.append({"cell_type": "markdown", "metadata": {}, "source": part})

    for match in FENCE.finditer(text):
        prose(text[end : match.start()])
        end, kind = match.end(), match[2].strip()
        if kind == "python":
            out = next(left)
            streams = [{"output_type": "stream", "name": "stdout", "text": out + "\n"}] if out else []
            cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": streams}
            cells.append(cell | {"source": match[3].rstrip()})
        elif kind.startswith("{literalinclude}"):
            prose(f"```python\n{lines_included(folder, kind, match[3])}\n```")
    prose(text[end:])
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    about = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def lines_included(folder: Path, directive: str, options: str) -> str:
    """The lines of the package that a page shows."""
    file = (folder / directive.rsplit(maxsplit=1)[-1]).resolve()
    marks = dict(re.findall(r'^:(start-at|end-at): "(.*)"$', options, flags=re.MULTILINE))
    lines = file.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if marks["start-at"] in line)
    stop = next(i for i, line in enumerate(lines) if i >= start and marks["end-at"] in line)
    shown = lines[start : stop + 1]
    indent = min(len(line) - len(line.lstrip()) for line in shown if line)
    return comments_above("\n".join(line[indent:] for line in shown))


def comments_above(code: str) -> str:
    """Comments at the end of a line in a line above it: what does not fit the page must not be the equation."""
    lines = []
    for line in code.splitlines():
        match = re.fullmatch(r"( *)(\S.*?)  (# .*)", line)
        lines += [match[1] + match[3], match[1] + match[2]] if match else [line]
    return "\n".join(lines)


def on_read(app: Any, name: str, source: list[str]) -> None:
    """Execute a page, and keep its notebook."""
    if not name.startswith(FOLDER) or name == f"{FOLDER}index":
        return
    text, file = source[0], f"{name.removeprefix(FOLDER)}.ipynb"
    printed = run(text)
    app.notebooks[name] = notebook_of(text, printed, Path(app.srcdir) / FOLDER)
    source[0] = with_outputs(text, printed, file)


def on_doctree(_: Any, doctree: Any) -> None:
    """Lines from the package with their comments above them."""
    from docutils import nodes  # the rest of this file is tested without the docs' requirements

    for block in doctree.findall(nodes.literal_block):
        if "from-source" in block.get("classes", ()):
            code = comments_above(block.rawsource or block.astext())
            block.rawsource = code
            block.children = [nodes.Text(code)]


def write(app: Any, error: Exception | None) -> None:
    """The notebooks, beside the pages."""
    if error is None and app.builder.format == "html":
        for name, notebook in app.notebooks.items():
            file = Path(app.outdir) / f"{name}.ipynb"
            file.write_text(json.dumps(notebook, indent=1) + "\n", encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Tell sphinx."""
    app.notebooks = {}
    app.connect("source-read", on_read, priority=400)  # before links are changed: notebooks have their own
    app.connect("doctree-read", on_doctree)
    app.connect("build-finished", write)
    return {"parallel_read_safe": False}
