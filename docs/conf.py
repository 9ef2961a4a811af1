"""Sphinx's settings. Pages are Markdown here, committed notebooks, docstrings, and the report (``_pages.py``)."""

import inspect
import json
import pathlib
import re
import socket
import subprocess
import sys
import time

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
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
html_extra_path = ["_extra"]
# Formulas are HTML when a page is written: no script, and an error in one is an error of the build.
katex_prerender = True
katex_css_path = "katex.min.css"
html_theme_options = {"navigation_with_keys": True}
html_show_copyright = False
pygments_dark_style = "github-dark"  # Furo's own underlines every imported name

# Signatures are those of the source, with shapes, a parameter a line where they are long.
autodoc_typehints = "none"
maximum_signature_line_length = 78
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
napoleon_numpy_docstring = True
napoleon_use_ivar = True
napoleon_attr_annotations = False

nitpicky = False


def check_katex():
    """Refuse fonts and styles of another KaTeX than the one that writes the formulas."""
    import sphinxcontrib.katex

    script = pathlib.Path(sphinxcontrib.katex.__file__).with_name("katex.min.js").read_text(encoding="utf-8")
    writes = re.search(r'version:"([\d.]+)"', script)[1]
    styles = json.loads((HERE / "package.json").read_text(encoding="utf-8"))["dependencies"]["katex"]
    if writes != styles:
        raise ValueError(f"docs/package.json must name KaTeX {writes}, which writes the formulas; it names {styles}")


def wait_for_katex():
    """Let a busy machine's Node take its time.

    The file of its Unix socket is there before it listens. By TCP, where each formula waits twice for a packet to be
    acknowledged, 0.09 s, the formulas take four minutes.
    """
    from sphinxcontrib import katex

    def start(rundir, timeout):
        path = str(rundir / "katex.sock")
        process = subprocess.Popen(katex.KaTeXServer.build_command(socket=path), stdin=subprocess.PIPE, cwd=rundir)
        until = time.monotonic() + timeout
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(path)
                return process, connection
            except (FileNotFoundError, ConnectionRefusedError):  # not yet
                connection.close()
                if process.poll() is not None or time.monotonic() > until:
                    process.kill()
                    raise katex.KaTeXServer.timeout_error(timeout) from None
                time.sleep(0.01)

    katex.STARTUP_TIMEOUT = katex.RENDER_TIMEOUT = 60.0
    katex.KaTeXServer.start_server_process = start


def as_written(app, what, name, obj, options, signature, returns):
    """The signature with annotations as they are in the source: ``Float[Array, "n n"]``, not what it stands for."""
    if what not in ("class", "function", "method"):
        return None
    try:
        found = inspect.signature(obj)
    except (TypeError, ValueError):
        return None
    parameters = [parameter for parameter in found.parameters.values() if parameter.name != "self"]
    parts, kinds = [], [parameter.kind for parameter in parameters]
    for i, parameter in enumerate(parameters):
        starred = {parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL} & set(kinds[:i])
        if parameter.kind == parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
        parts.append(_parameter(parameter))
        if parameter.kind == parameter.POSITIONAL_ONLY and kinds[i + 1 : i + 2] != [parameter.kind]:
            parts.append("/")
    given = found.return_annotation
    shown = None if what == "class" or given in (inspect.Signature.empty, "None") else _annotation(given)
    return f"({', '.join(parts)})", shown


def _parameter(parameter):
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    empty = inspect.Parameter.empty
    text = stars + parameter.name
    if parameter.annotation is not empty:
        text += f": {_annotation(parameter.annotation)}"
    if parameter.default is empty:
        return text
    default = getattr(parameter.default, "__name__", repr(parameter.default))
    equals = " = " if parameter.annotation is not empty else "="
    return text + equals + (default if "<" not in default else "...")  # a factory, a place in memory


def _annotation(annotation):
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__forward_arg__", None)
    return text or getattr(annotation, "__name__", str(annotation))


def names_in_a_row(app, what, name, obj, options, lines):
    """Attributes that share a description stay together: Sphinx takes what is after a space for the name."""
    for i, line in enumerate(lines):
        if line.startswith(":ivar ") and ", " in line.split(":")[1]:
            _, names, rest = line.split(":", 2)
            names = names.replace(", ", ",\N{ZERO WIDTH SPACE}")
            lines[i] = f":{names}:{rest}"


def setup(app):
    check_katex()
    wait_for_katex()
    app.connect("autodoc-process-signature", as_written)
    app.connect("autodoc-process-docstring", names_in_a_row, priority=900)
    _pages.write(HERE)
