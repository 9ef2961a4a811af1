"""Sphinx's settings. Pages are Markdown here, committed notebooks, docstrings, and the report (``_pages.py``)."""

import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import _pages  # noqa: E402

import nqm_tools  # noqa: E402

project = "nqm-tools"
author = "The nqm-tools developers"
version = release = nqm_tools.__version__
language = "en-GB"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.katex",
]
exclude_patterns = ["_build", "_extra", "_vendor", "node_modules", "teach/slides/**"]

nb_execution_mode = "off"
nb_remove_code_source = False
# No widget scripts from the net; nothing here needs them.
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "nqm-tools"
html_copy_source = html_show_sourcelink = False
html_static_path = ["_static", "_vendor/katex"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]
# Formulas are HTML when a page is written: no script, and an error in one is an error of the build.
katex_prerender = True
katex_css_path = "katex.min.css"
html_theme_options = {"navigation_with_keys": True}

autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = True
napoleon_use_ivar = True

nitpicky = False


def check_katex():
    """Refuse fonts and styles of another KaTeX than the one that writes the formulas."""
    import sphinxcontrib.katex

    script = pathlib.Path(sphinxcontrib.katex.__file__).with_name("katex.min.js").read_text(encoding="utf-8")
    writes = re.search(r'version:"([\d.]+)"', script)[1]
    styles = json.loads((HERE / "package.json").read_text(encoding="utf-8"))["dependencies"]["katex"]
    if writes != styles:
        raise ValueError(f"docs/package.json must name KaTeX {writes}, which writes the formulas; it names {styles}")


def setup(app):
    check_katex()
    _pages.write(HERE)
