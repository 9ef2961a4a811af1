"""Writes the pages that come from elsewhere: notebooks, the API, the report. What is added there has its page here."""

import copy
import importlib
import inspect
import pkgutil
import re
import shutil

import _slides
import nbformat

import nqm_tools
from nqm_tools import papers, report, reproduce

# Folders and pages that this module makes, and git ignores.
NOTEBOOKS, API = "notebooks", "api"
# What a reader looks for first; the others follow by name.
# What examples on the pages of the API do not import.
TAKEN_FOR_GRANTED = {
    "jax": "jax",
    "jnp": "jax.numpy",
    "np": "numpy",
    "pd": "pandas",
    "math": "math",
    "pathlib": "pathlib",
}
FIRST = ("networks", "expansions", "kernels", "curvature", "training", "losses", "dynamics", "quadratic")


def write(folder):
    """Write all of them into the folder of the documentation."""
    _notebooks(folder / NOTEBOOKS)
    (folder / "learn.md").write_text(_learn(), encoding="utf-8")
    _api(folder / API)
    (folder / "results.md").write_text(_results(), encoding="utf-8")
    _extra(folder)


def _extra(folder):
    """What is no page of Sphinx's: the playground, the slides, and what these need."""
    extra = folder / "_extra"
    shutil.rmtree(extra, ignore_errors=True)
    extra.mkdir()
    for source, target in (
        (folder / "playground", "playground"),
        (folder / "_vendor" / "reveal", "vendor/reveal"),
        (folder / "_vendor" / "katex", "vendor/katex"),
    ):
        if source.is_dir():
            shutil.copytree(source, extra / target)
    _slides.write(extra / "slides")


def _notebooks(folder):
    """Committed notebooks with their outputs: cells for tests left out, solutions behind a toggle."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in reproduce.select():
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [_shown(cell) for cell in notebook.cells if "remove-cell" not in _tags(cell)]
        nbformat.write(notebook, folder / path.name)
    shutil.copy(reproduce.notebooks_folder() / "GLOSSARY.md", folder)


def _tags(cell):
    return cell.metadata.get("tags", [])


def _shown(cell):
    if "solution" not in _tags(cell):
        return cell
    cell = copy.deepcopy(cell)
    if cell.cell_type == "markdown":
        cell.source = f":::::{{dropdown}} Solution\n{cell.source}\n:::::"
    else:
        cell.metadata.tags = [*_tags(cell), "hide-cell"]
        cell.metadata["mystnb"] = {"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
    return cell


def _learn():
    """The notebooks in order: title, what one can do afterwards, and the facts of their openings."""
    lines = ["# Learn", "", "The notebooks in order. ★ marks what a first reading leaves out.", ""]
    names = []
    for path in reproduce.select():
        opening = nbformat.read(path, as_version=4).cells[0].source
        title = re.match(r"# (.+)", opening)[1]
        names.append(f"{NOTEBOOKS}/{path.stem}")
        lines += [f"## [{path.stem.split('_')[0]}: {title}]({NOTEBOOKS}/{path.name})", ""]
        # Links of the opening are seen from the notebook's folder.
        rest = re.sub(r"\]\((?!https?:)([^)]+)\)", rf"]({NOTEBOOKS}/\1)", opening.split("\n", 1)[1])
        lines += [rest.strip(), ""]
    entries = "\n".join([*names, f"{NOTEBOOKS}/GLOSSARY"])
    return "\n".join(lines) + f"\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"


def public_modules():
    """Names of the modules without an underscore, those first that a reader looks for first.

    What papers and closed forms are made of has no pages: they are reached through their packages.
    """
    found = [f"nqm_tools.{module.name}" for module in pkgutil.iter_modules(nqm_tools.__path__) if module.name[0] != "_"]
    found.remove("nqm_tools.cli")
    order = {f"nqm_tools.{name}": place for place, name in enumerate(FIRST)}
    return sorted(found, key=lambda name: (order.get(name, len(order)), name))


def _public_names(module):
    """The names that a module declares, or those that are defined in it."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def _api(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = public_modules()
    about = inspect.getdoc(nqm_tools).split("The public names:")[1].strip()
    index = ["# API", "", about.replace("``", "`"), ""]
    index += ["| module | is about |", "|---|---|"]
    for name in names:
        module = importlib.import_module(name)
        summary = (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")
        index.append(f"| [`{name}`]({name}.md) | {summary.replace('``', '`')} |")
        page = ["# " + name.removeprefix("nqm_tools."), "", _taken_for_granted(name), ""]
        page += ["```{eval-rst}", f".. automodule:: {name}", ""]
        for public in _public_names(module):
            value = getattr(module, public)
            if inspect.ismodule(value):
                continue
            if inspect.isclass(value):
                page += [f".. autoclass:: {name}.{public}", "   :members:", ""]
            elif callable(value):
                page += [f".. autofunction:: {name}.{public}", ""]
            else:
                page += _data(f"{name}.{public}", value)
        (folder / f"{name}.md").write_text("\n".join([*page, "```", ""]), encoding="utf-8")
    toctree = "\n".join(names)
    text = "\n".join(index) + f"\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"
    (folder / "index.md").write_text(text, encoding="utf-8")


def _taken_for_granted(name):
    imports = ", ".join(path if path == short else f"{path} as {short}" for short, path in TAKEN_FOR_GRANTED.items())
    return f"*Examples on this page take for granted:* `import {imports}` and `from {name} import *`."


def _data(name, value):
    """A constant: its value where that is short, else what it is a table of."""
    text = repr(value)
    if len(text) > 100 or " at 0x" in text:
        keys = ", ".join(f"``{key}``" for key in value) if isinstance(value, dict) else ""
        return [f".. py:data:: {name}", "", f"   A {type(value).__name__}{f' of {keys}' if keys else ''}.", ""]
    return [f".. py:data:: {name}", f"   :value: {text}", ""]


def _results():
    """Every claim of every paper."""
    store = report.recorded_results()
    lines = [
        "# Results",
        "",
        "Computed from recorded runs by `nqm report`, when these pages were built. *a (b to c; n seeds)* is a mean",
        "with its 95 % interval. An identity holds by construction or by a proof: it cannot fail, and supports",
        "nothing. A check is about the recording. What does not hold stays in; its notebook discusses it.",
        "",
    ]
    for name in papers.NAMES:
        frame = report.claims(store, paper=name)
        lines += [f"## {papers.load(name).TITLE}", "", report.headline(frame), ""]
        for (figure, panel), group in frame.groupby(["figure", "panel"], sort=False):
            lines += [f"### {f'Figure {figure}' if figure[0].isdigit() else figure}: {panel}", ""]
            for _, claim in group.iterrows():
                lines += _claim(*(report.escape(str(claim[name])) for name in CLAIM))
            lines += [f"*Recorded:* {report.escape(group['recorded'].iloc[0]) or 'nothing yet'}", ""]
    return "\n".join(lines)


CLAIM = ("kind", "status", "claim", "verdict", "measured", "rule")


def _claim(kind, status, claim, verdict, measured, rule):
    said = ", ".join(word for word in (verdict, status, kind if kind not in ("claim", verdict) else "") if word)
    lines = [f'- <span class="verdict {verdict.replace(" ", "-")}">{said}</span> {claim}']
    lines += [f"  : {measured}"] if measured else []
    lines += [f"  : *Rule:* {rule}"] if rule else []
    return [*(line.replace("  : ", "\n  ") for line in lines), ""]
