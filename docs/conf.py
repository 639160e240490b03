"""The documentation, built by `nox -s docs`: sphinx, sphinx-gallery, pydata-sphinx-theme, MyST. Warnings are errors."""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # included.py, formulas.py, executed.py, circles.py, pictures.py

import xpmlp  # noqa: E402

project = "xpmlp"
author = copyright = "The xpmlp developers"
version = release = xpmlp.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "included",
    "formulas",
    "executed",
    "circles",
    "pictures",
]
exclude_patterns = [
    "_build",
    "_templates",
    "images/*",
    "gallery/*.ipynb",
    "gallery/*.py",
    "gallery/*.json",
    "gallery/*.zip",
    "reference/generated/*.inc",
]
default_role = "code"  # `name` in a docstring is code, as in the comments
nitpicky = True
suppress_warnings = ["config.cache"]  # the gallery's settings hold a function

# --- Text ---

templates_path = ["_templates"]

# Pages at the root of the repository, where a link to them is right on GitHub, have a page here that includes them.
ROOT_PAGES = {"SECURITY": "reporting", "DESIGN": "house", "CONTRIBUTING": "contributing", "CHANGELOG": "changes"}


def link_to_pages(app: Any, name: str, source: list[str]) -> None:
    """Turn ../SECURITY.md into the page that includes it."""
    up = "" if name.startswith("design/") else "../" * name.count("/") + "design/"
    for file, page in ROOT_PAGES.items():
        source[0] = source[0].replace(f"](../{file}.md)", f"]({up}{page}.md)")


def setup(app: Any) -> None:
    """Tell sphinx."""
    app.connect("source-read", link_to_pages)


myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = True

# --- Reference ---

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say it in words
autodoc_default_options = {"members": True, "inherited-members": False}
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# --- Gallery ---

os.environ.setdefault("MPLBACKEND", "Agg")
warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")
sphinx_gallery_conf = {
    "examples_dirs": str(HERE.parent / "examples" / "gallery"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1_000_000,
    "write_computation_times": False,
    "matplotlib_animations": False,
    "capture_repr": ("_repr_html_",),
}

# --- Pages ---

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "xpmlp"
html_favicon = "_static/favicon.svg"
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
}
