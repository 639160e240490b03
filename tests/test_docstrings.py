"""Every example in a docstring runs, and says what it says."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
import sys
import warnings
from types import ModuleType

import pytest

import xpmlp

# The module that needs CUDA to be imported is documented by its tests.
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(xpmlp.__path__, "xpmlp.")
    if not module.name.startswith(("xpmlp.runners.", "xpmlp.__main__"))
)


MPARRAY = importlib.util.find_spec("mparray") is not None
# Examples that need what not everybody has installed, and the text by which they are known.
OPTIONAL = {"mparray": "digits="}


def run_examples(name: str) -> tuple[int, int]:
    """Run the examples of a module, but for those whose library is missing; how many failed, and how many ran."""
    missing = [text for library, text in OPTIONAL.items() if importlib.util.find_spec(library) is None]
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of an example that does not converge, for one
        for test in doctest.DocTestFinder().find(module):
            test.examples = [it for it in test.examples if not any(text in it.source for text in missing)]
            runner.run(test)
    return runner.failures, runner.tries


@pytest.mark.parametrize("name", ["xpmlp", *MODULES])
def test_the_examples_run(name):
    failed, _ = run_examples(name)
    assert failed == 0


def test_without_an_optional_library_the_other_examples_run(monkeypatch):
    with_all = run_examples("xpmlp.inspection.checking")
    monkeypatch.setitem(sys.modules, "mparray", None)
    failed, tried = run_examples("xpmlp.inspection.checking")
    assert failed == 0
    assert tried == with_all[1] - 1 if MPARRAY else with_all[1]


def test_an_example_that_warns_is_noticed(monkeypatch):
    module = ModuleType("warns")
    module.__doc__ = ">>> import warnings\n>>> warnings.warn('not converged')\n"
    monkeypatch.setitem(sys.modules, "warns", module)
    assert run_examples("warns") == (1, 2)


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(examples) >= 15


def test_an_example_that_is_wrong_is_noticed():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(test, out=lambda _: None).failed == 1
