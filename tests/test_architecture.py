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

# Floor by floor from the ground. A room is a folder of xpmlp with all its modules, or a module that lies flat.
FLOORS = [
    {"_typing", "faults"},
    {"backends"},
    {"checks", "threads"},
    {"network"},
    {"optim", "distributed"},
    {"runners"},
    {"io", "shards"},
    {"training"},
    {"mlp", "tabular"},
    {"estimators"},
    {"inspection", "dask"},
    {"interop"},
    {"cli", "plotting"},
    {"__init__", "__main__"},
]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
LONGEST = 400  # lines of a file
MOST_FLAT = 4  # modules that lie flat, those that Python asks for and _typing not counted

# Methods that import a room above them when they are called: (module, what it calls).
CALLED_LATE = {
    ("xpmlp.estimators.conversion", "xpmlp.interop.onnx"),  # to_onnx
    ("xpmlp.estimators.conversion", "xpmlp.interop.torch"),  # to_torch
    ("xpmlp.estimators.tabular.estimator", "xpmlp.interop.onnx_tables"),  # to_onnx
    ("xpmlp.mlp.mlp", "xpmlp.interop.onnx"),  # to_onnx
    ("xpmlp.mlp.mlp", "xpmlp.interop.torch"),  # to_torch
}

LIBRARIES = {
    "array_api_strict",
    "cupy",
    "cupyx",
    "dask",
    "distributed",
    "jax",
    "jaxlib",
    "mlx",
    "mpi4py",
    "ndonnx",
    "numba",
    "sparse",
    "tensorflow",
    "torch",
}
# Rooms, or modules of a room.
NAME_LIBRARIES = {"backends", "dask", "distributed", "runners", "interop.torch"}
NO_NUMPY = {
    *("_typing", "faults", "optim", "network.activations", "network.dropout", "network.losses"),
    "network.targets",
    *("network.parameters", "network.propagation", "runners.lbfgs", "runners.step", "io.description"),
}
USE_SCIKIT_LEARN = {"estimators", "tabular", "interop.onnx", "cli", "dask"}
VAGUE = {"base", "common", "core", "helpers", "utils"}


class Import(NamedTuple):
    """One imported module, by its absolute dotted name, and where it stands."""

    name: str
    line: int
    in_function: bool
    names: tuple[str, ...] = ()  # what `from name import ...` takes


def room_of(module: str) -> str:
    """The room of a module given by its dotted name: xpmlp.runners.eager lies in runners, xpmlp itself in __init__."""
    return [*module.split("."), "__init__"][1]


def names_of(module: str) -> set[str]:
    """The room of a module, and the module within it: what the walls name."""
    return {room_of(module), module.removeprefix("xpmlp.")}


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
            names = tuple(alias.name for alias in node.names)
            if origin == "xpmlp":
                found.extend(Import(f"xpmlp.{name}", node.lineno, in_function) for name in names)
            else:
                found.append(Import(origin, node.lineno, in_function, names))
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return list(dict.fromkeys(found))


def direction_faults(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports that do not go downward: late ones and those for type checkers count too, but for CALLED_LATE."""
    room = room_of(module)
    if room not in FLOOR_OF:
        return [
            f"{module}: {room!r} has no room; add it to FLOORS in tests/test_architecture.py and to DESIGN section 4"
        ]
    faults = []
    for item in imports_of(source, module, is_package=is_package):
        target = room_of(item.name)
        if item.name.split(".")[0] != "xpmlp" or target == room:
            continue
        if item.in_function and (module, item.name) in CALLED_LATE:
            continue
        where = f"{module}:{item.line} imports {item.name}"
        if target not in FLOOR_OF:
            faults.append(f"{where}, which has no room in FLOORS; import a name from its module, not from xpmlp")
        elif FLOOR_OF[target] > FLOOR_OF[room]:
            faults.append(f"{where}: upward, from floor {FLOOR_OF[room]} to floor {FLOOR_OF[target]}")
        elif FLOOR_OF[target] == FLOOR_OF[room]:
            faults.append(f"{where}: {room} and {target} lie on one floor, and do not know each other")
    return faults


def module_edges(sources: dict[str, tuple[str, bool]]) -> dict[str, set[str]]:
    """Who imports whom, module by module, late imports and those for type checkers counted.

    `from xpmlp.network import dropout` is an arrow to the module dropout; `from xpmlp.network import forward` one to
    the package, whose `__init__` says where that comes from.
    """
    edges: dict[str, set[str]] = {}
    for module, (source, is_package) in sources.items():
        for item in imports_of(source, module, is_package=is_package):
            named = item.name
            if not named.startswith("xpmlp.") or (item.in_function and (module, named) in CALLED_LATE):
                continue
            submodules = {f"{named}.{name}" for name in item.names} & set(sources)
            targets = submodules or {named}
            if submodules and len(submodules) < len(item.names):
                targets = targets | {named}
            edges.setdefault(module, set()).update(targets - {module})
    return edges


def cycles(edges: dict[str, set[str]]) -> list[str]:
    """What can be reached from itself. Floors rule out cycles between rooms, not within one."""

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
    names = names_of(module)
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
        if library in LIBRARIES and not names & NAME_LIBRARIES:
            faults.append(f"{where}: only {sorted(NAME_LIBRARIES)} name array libraries")
        elif library == "numpy" and names & NO_NUMPY:
            faults.append(f"{where}: {min(names & NO_NUMPY)} is written for every namespace")
        elif library == "sklearn" and not names & USE_SCIKIT_LEARN:
            faults.append(f"{where}: only {sorted(USE_SCIKIT_LEARN)} know scikit-learn")
    return faults


def form_faults(source: str, module: str) -> list[str]:
    """Files that are too long, say nothing of themselves, or have a name that says nothing."""
    faults = []
    if ast.get_docstring(ast.parse(source)) is None:
        faults.append(f"{module} has no docstring")
    if VAGUE & {part.strip("_") for part in module.split(".")}:
        faults.append(f"{module}: nothing is called {', '.join(sorted(VAGUE))}; say what it holds")
    lines = len(source.splitlines())
    if lines > LONGEST:
        faults.append(f"{module} has {lines} lines; a file is read in one sitting, {LONGEST} at most")
    return faults


FILES = sorted(PACKAGE.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=module_name)


@each_file
def test_imports_go_downward(path):
    faults = direction_faults(path.read_text(encoding="utf-8"), module_name(path), is_package=path.stem == "__init__")
    assert not faults, "\n".join(faults)


def test_no_module_can_be_reached_from_itself():
    sources = {module_name(path): (path.read_text(encoding="utf-8"), path.stem == "__init__") for path in FILES}
    assert cycles(module_edges(sources)) == []


def test_few_modules_lie_flat():
    flat = {path.stem for path in PACKAGE.glob("*.py")} - {"_typing"}
    flat = {name for name in flat if not name.startswith("__")}
    assert len(flat) <= MOST_FLAT, sorted(flat)


def test_no_method_takes_any_object_as_itself():
    # A mixin whose self may be anything cannot be followed, by a reader or by a type checker.
    found = [module_name(path) for path in FILES if re.search(r"\bself: Any\b", path.read_text(encoding="utf-8"))]
    assert found == []


def callers_of(function: str, module: str) -> list[str]:
    """The modules that take `function` from `module`."""
    found = []
    for path in FILES:
        name = module_name(path)
        for item in imports_of(path.read_text(encoding="utf-8"), name, is_package=path.stem == "__init__"):
            if item.name == module and function in item.names and name != module:
                found.append(name)  # noqa: PERF401 - three loops in one comprehension are a riddle
    return found


def test_only_the_one_fit_trains():
    assert callers_of("train", "xpmlp.training.loop") == ["xpmlp.training.fitting"]


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


HEAVY = LIBRARIES | {"matplotlib", "pandas", "pyarrow", "scipy", "sklearn", "tqdm"}


def test_importing_xpmlp_loads_no_library_but_numpy():
    assert loaded_by("import xpmlp") & HEAVY == set()


def test_a_module_that_is_missing_is_an_attribute_error():
    # The lazy names of PEP 562 must not answer for everything.
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = xpmlp.no_such_name
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("xpmlp.no_such_name")


def test_ci_runs_the_test_command_of_the_readme():
    source = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in source.splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    *commands, again, install, together = lines
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"    {' && '.join(commands)}\n" in readme

    # And then its last line once more, with other BLAS kernels, on some of the files: nothing else.
    settings, files = again.split(commands[-1])
    assert settings == "OPENBLAS_CORETYPE=Prescott XPMLP_BACKENDS=numpy "
    named = names_in(files)
    assert named == sorted(named)

    # And the session `processes` of noxfile.py, in the same environment.
    nox = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    (torch,) = re.findall(r'^TORCH = "(.*)"$', nox, flags=re.MULTILINE)
    assert install == f".venv/bin/pip install -e . --group processes {torch}"
    settings, files = together.split(commands[-1])
    assert settings == "XPMLP_PROCESSES=1 XPMLP_REQUIRE=dask,gloo XPMLP_BACKENDS=numpy "
    session = nox[nox.index("def processes(") :]
    assert f"for name in {tuple(names_in(files))!r}".replace("'", '"') in session[: session.index("@nox.session")]


def names_in(files: str) -> list[str]:
    """The names of tests/test_{one,two}.py, which are there."""
    named = [name for group in re.findall(r"tests/test_\{([\w,]+)\}\.py", files) for name in group.split(",")]
    assert re.sub(r"tests/test_\{[\w,]+\}\.py", "", files).strip() == ""
    assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in named), named
    return named


# The test is tested: each of these breaks one rule, and the checker must say so.


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("xpmlp.network", "from xpmlp.training import fit", "upward, from floor 3 to floor 7"),
        ("xpmlp.network.losses", "from ..training import fit", "upward, from floor 3 to floor 7"),
        ("xpmlp.checks", "from . import training", "upward, from floor 2 to floor 7"),
        ("xpmlp.network", "import xpmlp.training", "upward, from floor 3 to floor 7"),
        ("xpmlp.network", "def f():\n    from xpmlp import training", "upward, from floor 3 to floor 7"),
        ("xpmlp.network", "if TYPE_CHECKING:\n    from xpmlp.mlp import MLP", "upward, from floor 3 to floor 8"),
        ("xpmlp.runners.eager", "from ..training import fit", "upward, from floor 5 to floor 7"),
        ("xpmlp.mlp", "from xpmlp.tabular import TablePreparation", "lie on one floor"),
        ("xpmlp.mlp.mlp", "from xpmlp.interop.onnx import to_onnx", "upward, from floor 8 to floor 11"),
        ("xpmlp.training", "def f():\n    from xpmlp.interop.onnx import f", "upward, from floor 7 to floor 11"),
        ("xpmlp.training", "from xpmlp import MLP", "not from xpmlp"),
        ("xpmlp.pooling", "", "add it to FLOORS"),
    ],
)
def test_the_direction_check_objects(module, source, complaint):
    (fault,) = direction_faults(source, module)
    assert complaint in fault


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("xpmlp.network.propagation", "from xpmlp.backends import warn\nfrom .losses import LOSSES\nimport math"),
        ("xpmlp.runners.eager", "from xpmlp.runners import Runner\nfrom .. import network"),
        ("xpmlp.mlp.mlp", "class MLP:\n    def to_onnx(self):\n        from xpmlp.interop.onnx import to_onnx"),
        ("xpmlp.__init__", "from .mlp import MLP"),
    ],
)
def test_the_direction_check_lets_right_imports_pass(module, source):
    assert direction_faults(source, module, is_package=module.endswith("__init__")) == []


def test_the_direction_check_reads_relative_imports_of_a_subpackage():
    assert direction_faults("from .eager import step", "xpmlp.runners", is_package=True) == []
    (fault,) = direction_faults("from ..training import fit", "xpmlp.runners", is_package=True)
    assert "upward, from floor 5 to floor 7" in fault


def test_the_cycle_check_objects():
    assert cycles({"losses": {"network"}, "network": {"losses", "activations"}}) == ["losses", "network"]
    assert cycles({"network": {"losses", "activations"}, "losses": {"activations"}}) == []
    late = "def f():\n    from xpmlp.mlp.mlp import MLP"
    typed = "if TYPE_CHECKING:\n    from xpmlp.mlp import fitting"
    edges = module_edges({"xpmlp.mlp.fitting": (late, False), "xpmlp.mlp.mlp": (typed, False), "xpmlp.mlp": ("", True)})
    assert cycles(edges) == ["xpmlp.mlp.fitting", "xpmlp.mlp.mlp"]


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("xpmlp.network", "import torch", "name array libraries"),
        ("xpmlp.network", "import jax.numpy as jnp", "name array libraries"),
        ("xpmlp.mlp", "def f():\n    from cupy import asarray", "name array libraries"),
        ("xpmlp.mlp", "if backend == 'cupy':\n    pass", "name array libraries"),
        ("xpmlp.checks", "import array_api_compat.torch as xp", "name array libraries"),
        ("xpmlp.io.storage", "load('array_api_compat.cupy')", "name array libraries"),
        ("xpmlp.estimators.classifier", "kind = 'jax.numpy'", "name array libraries"),
        ("xpmlp.network.propagation", "import numpy as np", "every namespace"),
        ("xpmlp.optim.optimizers", "from numpy import sqrt", "every namespace"),
        ("xpmlp.network.losses", "import array_api_compat.numpy as np", "every namespace"),
        ("xpmlp.runners.lbfgs", "name = 'numpy'", "every namespace"),
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
    assert form_faults(textwrap.dedent('"""Fine."""'), "xpmlp.losses") == []


def test_the_weight_check_objects():
    assert "tqdm" not in loaded_by("import xpmlp")
    assert "matplotlib" in loaded_by("import matplotlib")
