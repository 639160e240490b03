"""Every example in a docstring runs, and says what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import warnings

import pytest

import xpmlp

# The module that needs CUDA to be imported is documented by its tests.
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(xpmlp.__path__, "xpmlp.")
    if not module.name.startswith(("xpmlp.runners.", "xpmlp.__main__"))
)


@pytest.mark.parametrize("name", ["xpmlp", *MODULES])
def test_the_examples_run(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an example that does not converge, for one
        found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(examples) >= 15


def test_an_example_that_is_wrong_is_noticed():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(test, out=lambda _: None).failed == 1
