"""The house of DESIGN section 4, held: who imports whom, who names an array library, what `import xpmlp` costs.

A new module gets a room in ROWS (and in DESIGN section 4). Everything is read with ast, nothing is run, except where
sys.modules is the question.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

import xpmlp

PACKAGE = Path(xpmlp.__file__).parent
ROOT = Path(__file__).parents[1]

# Row by row from the ground. A room is a module of xpmlp or a subpackage with all its modules.
ROWS = [
    {"_typing", "backends", "checks", "config", "faults", "parameters", "seeds"},
    {"activations", "dropout", "initializers", "optimizers", "schedules", "storage", "transfer"},
    {"losses", "network"},
    {"description", "runners"},
    {"checkpoints", "fitting", "lbfgs", "progress", "training"},
    {"anatomy", "estimators", "explanation", "health", "inspection", "mlp"},
    {"cli", "export", "loading", "plotting"},
    {"__init__", "__main__"},
]
ROW_OF = {room: number for number, row in enumerate(ROWS) for room in row}
TABLES = 1  # the row whose rooms never import each other
CORE = range(5)  # rows 0 to 4: to be read in one sitting
LONGEST = 400  # lines of a file

# Methods such as MLP.to_onnx import the room above them when they are called.
CALLS_UPWARD = {"estimators", "explanation", "inspection", "mlp"}
CALLED_FROM_BELOW = {"export", "plotting"}

LIBRARIES = {
    "array_api_strict",
    "cupy",
    "cupyx",
    "dask",
    "jax",
    "jaxlib",
    "mlx",
    "ndonnx",
    "numba",
    "sparse",
    "tensorflow",
    "torch",
}
NAME_LIBRARIES = {"backends", "runners"}
USE_NUMPY = {
    *("backends", "checkpoints", "checks", "fitting", "initializers", "runners", "storage", "training", "transfer"),
    *("anatomy", "estimators", "explanation", "seeds", "health", "inspection", "mlp"),
    *("cli", "export", "plotting", "__init__", "__main__"),
}
USE_SCIKIT_LEARN = {"estimators", "export", "cli"}
VAGUE = {"base", "common", "core", "helpers", "utils"}


class Import(NamedTuple):
    """One imported module, by its absolute dotted name, and where it stands."""

    name: str
    line: int
    in_function: bool


def room_of(module: str) -> str:
    """The room of a module given by its dotted name: xpmlp.runners.eager lies in runners, xpmlp itself in __init__."""
    return [*module.split("."), "__init__"][1]


def module_name(path: Path, package: Path = PACKAGE) -> str:
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def imports_of(source: str, module: str, *, is_package: bool = False) -> list[Import]:
    """Every module that the source imports, also in functions and for type checkers, relative names made absolute.

    `from xpmlp import network` counts as xpmlp.network; whether `network` is a module or a public name cannot be seen,
    so a public name of xpmlp, too, counts as a room: a module of the house asks the room itself, not the front door.
    """
    found: list[Import] = []

    def visit(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = module.removesuffix(".__init__").split(".")
                up = node.level - 1 if is_package else node.level
                origin = ".".join([*parts[: len(parts) - up], *([origin] if origin else [])])
            found.extend(
                Import(f"{origin}.{alias.name}" if origin == "xpmlp" else origin, node.lineno, in_function)
                for alias in node.names
            )
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return list(dict.fromkeys(found))


def direction_faults(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports that do not go downward."""
    room = room_of(module)
    if room not in ROW_OF:
        return [f"{module}: {room!r} has no room; add it to ROWS in tests/test_architecture.py and to DESIGN section 4"]
    faults = []
    for item in imports_of(source, module, is_package=is_package):
        target = room_of(item.name)
        if item.name.split(".")[0] != "xpmlp" or target == room:
            continue
        where = f"{module}:{item.line} imports {item.name}"
        if target not in ROW_OF:
            faults.append(f"{where}, which has no room in ROWS; import a name from its module, not from xpmlp")
        elif ROW_OF[target] > ROW_OF[room]:
            if not (item.in_function and room in CALLS_UPWARD and target in CALLED_FROM_BELOW):
                faults.append(f"{where}: upward, from row {ROW_OF[room]} to row {ROW_OF[target]}")
        elif ROW_OF[target] == ROW_OF[room] == TABLES:
            faults.append(f"{where}: the tables of row {TABLES} never import each other")
    return faults


def cycles(edges: dict[str, set[str]]) -> list[str]:
    """Rooms that can be reached from themselves. Rows rule out cycles between rows, not within one."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(edges.get(start, ()))
        while todo:
            room = todo.pop()
            if room not in seen:
                seen.add(room)
                todo.extend(edges.get(room, ()))
        return seen

    return sorted(room for room in edges if room in reached(room))


def docstrings_of(tree: ast.AST) -> set[int]:
    """The ids of the nodes that are docstrings, or strings standing alone as notes."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def library_faults(source: str, module: str) -> list[str]:
    """Array libraries, and scikit-learn, named in rooms that must not know them."""
    room = room_of(module)
    tree = ast.parse(source)
    docstrings = docstrings_of(tree)
    named = [(item.name, item.line, "imports") for item in imports_of(source, module)]
    named += [
        (node.value, node.lineno, "names")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        # A whole dotted name, not a sentence about one: error messages may speak of cupy.
        if re.fullmatch(r"\w+(\.\w+)*", node.value)
    ]
    faults = []
    for name, line, verb in named:
        library = name.split(".")[0]
        if library == "array_api_compat" and name.count(".") >= 1:
            library = name.split(".")[1]  # array_api_compat.torch is torch; array_api_compat itself is nobody
        where = f"{module}:{line} {verb} {name}"
        if library in LIBRARIES and room not in NAME_LIBRARIES:
            faults.append(f"{where}: only {sorted(NAME_LIBRARIES)} name array libraries")
        elif library == "numpy" and room not in USE_NUMPY:
            faults.append(f"{where}: only {sorted(USE_NUMPY)} meet the host")
        elif library == "sklearn" and room not in USE_SCIKIT_LEARN:
            faults.append(f"{where}: only {sorted(USE_SCIKIT_LEARN)} know scikit-learn")
    return faults


def form_faults(source: str, module: str) -> list[str]:
    """Files that are too long, say nothing of themselves, or have a name that says nothing."""
    room = room_of(module)
    faults = []
    if ast.get_docstring(ast.parse(source)) is None:
        faults.append(f"{module} has no docstring")
    if VAGUE & {part.strip("_") for part in module.split(".")}:
        faults.append(f"{module}: nothing is called {', '.join(sorted(VAGUE))}; say what it holds")
    lines = len(source.splitlines())
    if ROW_OF.get(room) in CORE and lines > LONGEST:
        faults.append(f"{module} has {lines} lines; a file of the core is read in one sitting, {LONGEST} at most")
    return faults


FILES = sorted(PACKAGE.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=module_name)


@each_file
def test_imports_go_downward(path):
    faults = direction_faults(path.read_text(encoding="utf-8"), module_name(path), is_package=path.stem == "__init__")
    assert not faults, "\n".join(faults)


def test_no_room_can_be_reached_from_itself():
    edges: dict[str, set[str]] = {}
    for path in FILES:
        module = module_name(path)
        for item in imports_of(path.read_text(encoding="utf-8"), module, is_package=path.stem == "__init__"):
            if item.name.startswith("xpmlp.") and not item.in_function and room_of(item.name) != room_of(module):
                edges.setdefault(room_of(module), set()).add(room_of(item.name))
    assert cycles(edges) == []


@each_file
def test_only_backends_and_runners_name_array_libraries(path):
    faults = library_faults(path.read_text(encoding="utf-8"), module_name(path))
    assert not faults, "\n".join(faults)


@each_file
def test_a_file_is_short_and_says_what_it_is(path):
    faults = form_faults(path.read_text(encoding="utf-8"), module_name(path))
    assert not faults, "\n".join(faults)


def test_the_public_names_are_sorted_and_can_be_imported():
    # As ruff sorts them (RUF022): capitals (MLP), then classes, then functions.
    in_order = sorted(set(xpmlp.__all__), key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert list(xpmlp.__all__) == in_order
    missing = [name for name in xpmlp.__all__ if getattr(xpmlp, name, None) is None]
    assert missing == []
    assert set(xpmlp.__all__) <= set(dir(xpmlp))


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after the statement."""
    code = f"import json, sys; {statement}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = LIBRARIES | {"matplotlib", "pandas", "scipy", "sklearn", "tqdm"}


def test_importing_xpmlp_loads_no_library_but_numpy():
    assert loaded_by("import xpmlp") & HEAVY == set()


def test_a_module_that_is_missing_is_an_attribute_error():
    # The lazy names of PEP 562 must not answer for everything.
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = xpmlp.no_such_name
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("xpmlp.no_such_name")


def test_ci_runs_the_test_command_of_the_readme():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert " && ".join(commands) in readme.replace("\\\n", " ").replace("  ", " ")


# The test is tested: each of these breaks one rule, and the checker must say so.


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("xpmlp.network", "from xpmlp.training import fit", "upward, from row 2 to row 4"),
        ("xpmlp.network", "from .training import fit", "upward, from row 2 to row 4"),
        ("xpmlp.network", "from . import training", "upward, from row 2 to row 4"),
        ("xpmlp.network", "import xpmlp.training", "upward, from row 2 to row 4"),
        ("xpmlp.network", "def f():\n    from xpmlp import training", "upward, from row 2 to row 4"),
        ("xpmlp.network", "if TYPE_CHECKING:\n    from xpmlp.mlp import MLP", "upward, from row 2 to row 5"),
        ("xpmlp.runners.eager", "from ..training import fit", "upward, from row 3 to row 4"),
        ("xpmlp.activations", "from xpmlp.initializers import he", "never import each other"),
        ("xpmlp.mlp", "from xpmlp.export import to_onnx", "upward, from row 5 to row 6"),
        ("xpmlp.training", "def f():\n    from xpmlp.export import to_onnx", "upward, from row 4 to row 6"),
        ("xpmlp.training", "from xpmlp import MLP", "not from xpmlp"),
        ("xpmlp.pooling", "", "add it to ROWS"),
    ],
)
def test_the_direction_check_objects(module, source, complaint):
    (fault,) = direction_faults(source, module)
    assert complaint in fault


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("xpmlp.network", "from xpmlp.activations import ACTIVATIONS\nfrom .losses import LOSSES\nimport math"),
        ("xpmlp.runners.eager", "from xpmlp.runners import Runner\nfrom .. import network"),
        ("xpmlp.mlp", "class MLP:\n    def to_onnx(self):\n        from xpmlp.export import to_onnx"),
        ("xpmlp.__init__", "from .mlp import MLP"),
    ],
)
def test_the_direction_check_lets_right_imports_pass(module, source):
    assert direction_faults(source, module, is_package=module.endswith("__init__")) == []


def test_the_direction_check_reads_relative_imports_of_a_subpackage():
    assert direction_faults("from .eager import step", "xpmlp.runners", is_package=True) == []
    (fault,) = direction_faults("from ..training import fit", "xpmlp.runners", is_package=True)
    assert "upward, from row 3 to row 4" in fault


def test_the_cycle_check_objects():
    assert cycles({"losses": {"network"}, "network": {"losses", "activations"}}) == ["losses", "network"]
    assert cycles({"network": {"losses", "activations"}, "losses": {"activations"}}) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("xpmlp.network", "import torch", "name array libraries"),
        ("xpmlp.network", "import jax.numpy as jnp", "name array libraries"),
        ("xpmlp.mlp", "def f():\n    from cupy import asarray", "name array libraries"),
        ("xpmlp.mlp", "if backend == 'cupy':\n    pass", "name array libraries"),
        ("xpmlp.transfer", "import array_api_compat.torch as xp", "name array libraries"),
        ("xpmlp.transfer", "load('array_api_compat.cupy')", "name array libraries"),
        ("xpmlp.estimators.classifier", "kind = 'jax.numpy'", "name array libraries"),
        ("xpmlp.network", "import numpy as np", "meet the host"),
        ("xpmlp.optimizers", "from numpy import sqrt", "meet the host"),
        ("xpmlp.losses", "import array_api_compat.numpy as np", "meet the host"),
        ("xpmlp.lbfgs", "name = 'numpy'", "meet the host"),
        ("xpmlp.mlp", "from sklearn.base import BaseEstimator", "know scikit-learn"),
    ],
)
def test_the_wall_check_objects(module, source, complaint):
    (fault,) = library_faults(source, module)
    assert complaint in fault


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("xpmlp.backends", "ROW = Backend('torch', 'array_api_compat.torch')\nimport numpy as np"),
        ("xpmlp.runners.jitted", "import jax"),
        ("xpmlp.network", '"""torch"""\nfrom array_api_compat import array_namespace'),
        ("xpmlp.checks", "raise ValueError('move it with xpmlp.to_backend(x, \"cupy\")')"),
        ("xpmlp.estimators.classifier", "from sklearn.base import ClassifierMixin\nimport numpy as np"),
    ],
)
def test_the_wall_check_lets_right_names_pass(module, source):
    assert library_faults(source, module) == []


def test_the_form_check_objects():
    assert "no docstring" in form_faults("x = 1", "xpmlp.losses")[0]
    assert "say what it holds" in form_faults('"""Things."""', "xpmlp._utils")[0]
    assert "say what it holds" in form_faults('"""Things."""', "xpmlp.estimators._base")[0]
    long = '"""A long one."""\n' + "x = 1\n" * LONGEST
    assert "401 lines" in form_faults(long, "xpmlp.runners.eager")[0]
    assert form_faults(long, "xpmlp.cli") == []
    assert form_faults(textwrap.dedent('"""Fine."""'), "xpmlp.losses") == []


def test_the_weight_check_objects():
    assert "tqdm" not in loaded_by("import xpmlp")
    assert "matplotlib" in loaded_by("import matplotlib")
