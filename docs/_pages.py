"""Writes the pages that come from elsewhere: notebooks, the API, the report. What is added there has its page here."""

import ast
import copy
import importlib
import inspect
import pathlib
import pkgutil
import re
import shutil

import _slides
import nbformat

import nqm_tools
from nqm_tools import _types, losses, papers, report, reproduce
from nqm_tools._alt import SUBSCRIPTS, greek, letter_formulas, name_figures
from nqm_tools.training import _recording, _rules

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
    decided = report.recorded_claims()  # a test compares it with the results
    frames = {name: decided[decided["paper"] == name] for name in papers.NAMES}
    (folder / "results.md").write_text(_results(frames), encoding="utf-8")
    (folder / "ours.md").write_text(_ours(frames["ours"]), encoding="utf-8")
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
        name_figures(notebook)
        letter_formulas(notebook)
        notebook.cells = [_shown(cell) for cell in notebook.cells if "remove-cell" not in _tags(cell)]
        notebook.cells = [shown for cell in notebook.cells for shown in (cell, *_in_a_sliders_place(cell))]
        opening = notebook.cells[0]
        run = (
            f"*To run it:* `make lab`, or `nqm notebooks mine --only {_number(path)}` and `jupyter lab mine/notebooks`."
        )
        title, rest = opening.source.split("\n", 1)
        opening.source = f"# {_number(path)}: {title.removeprefix('# ')}\n\n{run}\n{rest}"
        nbformat.write(notebook, folder / path.name)
    shutil.copy(reproduce.notebooks_folder() / "GLOSSARY.md", folder)


def _tags(cell):
    return cell.metadata.get("tags", [])


def _number(path):
    return path.stem.split("_")[0]


def _in_a_sliders_place(cell):
    """The playground, after a cell that makes a slider: that needs a running kernel."""
    if "ipywidgets.interact" in cell.source:
        text = "On this page the playground stands in the slider's place: its learning rate is that of the slider."
        yield nbformat.v4.new_markdown_cell(f"{text}\n\n{playground('../', 'v0=2.5&loss=0.01&steps=100')}")


def playground(root, state):
    """The playground inside another page, and a link to it; ``root`` leads to the site's first page."""
    address = f"{root}playground/index.html#{state.replace('&', '&amp;')}"
    return (
        f'<iframe class="playground" src="{address}" title="Playground: the exact map of one example" '
        f'loading="lazy"></iframe>\n<p><a href="{address}">The playground on a page of its own</a></p>'
    )


def _shown(cell):
    cell = copy.deepcopy(cell)
    for output in cell.get("outputs", []):
        alt = output.get("metadata", {}).get("image/png", {}).pop("alt", None)
        if alt:
            cell.metadata["mystnb"] = {"image": {"alt": alt}}
    if "solution" not in _tags(cell):
        return cell
    if cell.cell_type == "markdown":
        cell.source = f":::::{{dropdown}} Solution\n{cell.source}\n:::::"
    else:
        cell.metadata.tags = [*_tags(cell), "hide-cell"]
        prompts = {"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
        cell.metadata["mystnb"] = cell.metadata.get("mystnb", {}) | prompts
    return cell


def _learn():
    """The notebooks in order: title, what one can do afterwards, and the facts of their openings."""
    lines = ["# Learn", "", "The notebooks in order. ★ marks what a first reading leaves out.", ""]
    names = []
    for path in reproduce.select():
        opening = nbformat.read(path, as_version=4).cells[0].source
        title = re.match(r"# (.+)", opening)[1]
        names.append(f"{NOTEBOOKS}/{path.stem}")
        lines += [f"## [{_number(path)}: {title}]({NOTEBOOKS}/{path.name})", ""]
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
                page += [f".. autoclass:: {name}.{public}", "   :members:", *_fields(value), ""]
            elif callable(value):
                page += [f".. autofunction:: {name}.{public}", ""]
            else:
                page += _data(f"{name}.{public}", value)
        (folder / f"{name}.md").write_text("\n".join([*page, "```", ""]), encoding="utf-8")
    index += ["", "Types that several signatures share:", "", "| name | stands for |", "|---|---|"]
    index += [f"| `{short}` | `{_in_a_cell(written)}` |" for short, written in _shared_types()]
    toctree = "\n".join(names)
    text = "\n".join(index) + f"\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"
    (folder / "index.md").write_text(text, encoding="utf-8")


def _fields(value):
    """Of a named tuple: its fields are in its signature and its docstring."""
    fields = getattr(value, "_fields", ())
    return [f"   :exclude-members: {', '.join(fields)}"] if fields else []


def _shared_types():
    """Names that stand for types in signatures, and what for, as the source has them."""
    for module in (_types, losses, _rules, _recording):
        source = pathlib.Path(module.__file__).read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp | ast.Subscript):
                yield node.targets[0].id, " ".join(ast.get_source_segment(source, node.value).split())
    yield "Function", "(params, x) -> (n, k) or (n,)"


def _in_a_cell(text):
    return text.replace("|", "\\|")


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


def _results(frames):
    """Every claim of every paper; ``frames`` are their claims, decided."""
    lines = [
        "# Results",
        "",
        "Computed from recorded runs by `nqm report` (a test decides them again). *a (b to c; n seeds)* is a mean",
        "with its 95 % interval. An identity holds by construction or by a proof: it cannot fail, and supports",
        "nothing. A check is about the recording. What does not hold stays in; its notebook discusses it.",
        "",
        "[What of it is ours and new](ours.md), and how each of it is known, has a page of its own.",
        "",
        "```{toctree}",
        ":hidden:",
        "",
        "ours",
        "```",
        "",
    ]
    for name, frame in frames.items():
        lines += [f"## {papers.load(name).TITLE}", "", report.headline(frame), ""]
        for (figure, panel), group in frame.groupby(["figure", "panel"], sort=False):
            lines += [f"### {f'Figure {figure}' if figure[0].isdigit() else figure}: {panel}", ""]
            for _, claim in group.iterrows():
                lines += _claim(*(_said(claim[name]) for name in CLAIM))
            lines += [f"*Recorded:* {_said(group['recorded'].iloc[0]) or 'nothing yet'}", ""]
    return "\n".join(lines)


CLAIM = ("kind", "status", "claim", "verdict", "measured", "rule")


def _said(text):
    return report.escape(in_signs(str(text)))


_GREEK = ("alpha", "beta", "gamma", "delta", "eta", "kappa", "lambda", "omega")


def in_signs(text):
    """A text with ``eta <= 2/lambda_1`` in it as ``η ≤ 2/λ₁``: claims are written for terminals too."""
    text = re.sub(rf"(?<![A-Za-z])({'|'.join(_GREEK)})(?![A-Za-z])", lambda found: greek(found[1]), text)
    text = re.sub(r"(?<=[^\W\d_])_([0-9])(?!\w)", lambda found: found[1].translate(SUBSCRIPTS), text)
    text = re.sub(r"\^([2-9])(?![0-9.])", lambda found: "⁰¹²³⁴⁵⁶⁷⁸⁹"[int(found[1])], text)
    text = re.sub(r"(?<![A-Za-z])sqrt\((\w)\)", r"√\1", text)
    text = re.sub(r"(?<![A-Za-z])sqrt(?=\()", "√", text)
    return text.replace("^T", "ᵀ").replace("<=", "≤").replace(">=", "≥")


def _claim(kind, status, claim, verdict, measured, rule):
    said = ", ".join(word for word in (verdict, status, kind if kind not in ("claim", verdict) else "") if word)
    lines = [f'- <span class="verdict {verdict.replace(" ", "-")}">{said}</span> {claim}']
    lines += [f"  : {measured}"] if measured else []
    lines += [f"  : *Rule:* {rule}"] if rule else []
    return [*(line.replace("  : ", "\n  ") for line in lines), ""]


KNOWN = {
    "proved": "a proof stands in a notebook, and the numbers agree with it",
    "derived": "derived to the order that is stated, without a bound for what is left out; measured beside it",
    "observed": "seen in every run that was looked at, and not proved",
}


def _ours(frame):
    """What is ours and new: statement, status, evidence, where in the code; ``frame`` are our claims, decided."""
    lines = [
        "# What is ours",
        "",
        "Statements that are not in the papers, or correct them. Each is decided by a rule in code, like those of the",
        "papers.",
        "",
        *(f"- **{status}**: {meaning}." for status, meaning in KNOWN.items()),
        "",
    ]
    claims = papers.load("ours").claims()
    for status in KNOWN:
        lines += [f"## {status.capitalize()}", ""]
        for claim, (_, row) in zip(claims, frame.iterrows(), strict=True):
            if claim.status != status:
                continue
            kind = claim.figure if not claim.figure[0].isdigit() else f"figure {claim.figure}"
            lines += [f"### {_heading(claim.statement)}", ""]
            lines += [f"- {kind}, {claim.panel}: **{row['verdict']}**", f"- *Evidence:* {_said(row['measured'])}"]
            lines += [f"- *Rule:* {_said(claim.rule)}", f"- *Recorded:* {_said(row['recorded'])}"]
            lines += [f"- *Where:* {', '.join(_place(place) for place in claim.where)}", ""]
    return "\n".join(lines)


def _heading(statement):
    """A statement with a capital, unless it begins with a symbol."""
    text = _said(statement)
    return text[0].upper() + text[1:] if re.match(r"[a-z]{2,} ", text) else text


def _place(where):
    """A link to a notebook, by its number, or to a public name."""
    found = {_number(path): path for path in reproduce.select()}
    if where in found:
        return f"[notebook {where}]({NOTEBOOKS}/{found[where].name})"
    module = importlib.import_module(f"nqm_tools.{where.rpartition('.')[0]}")
    if not hasattr(module, where.rpartition(".")[2]):
        raise AttributeError(f"a claim of ours names {where!r}, which the package does not have")
    return f"`nqm_tools.{where}`" if module.__name__.split(".")[1] == "papers" else f"{{any}}`nqm_tools.{where}`"
