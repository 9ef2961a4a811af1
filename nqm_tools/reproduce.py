"""Runs the numbered notebooks and writes what they show as pages that can be read offline.

What it leaves in the output folder: ``notebooks/`` (executed), one HTML page each, ``figures/`` (PNG), ``index.html``
with all figures, and the report of the paper's claims. At scale ``paper`` it first runs every sweep of ``experiments/``
into ``results/``, which the notebooks and the report then read in place of the recorded ones.
"""

from __future__ import annotations

import base64
import html
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nqm_tools._types import FilePath
from nqm_tools._writing import whole_file, write_text

SCALES = ("quick", "paper")
_NUMBERED = re.compile(r"(\d\d[a-z]?|A\d)_\w+\.ipynb")


class Result(NamedTuple):
    """How one notebook ended: ``problem`` is None if it ran through; ``figures`` are paths in the output folder."""

    number: str
    title: str
    page: str | None
    figures: list[str]
    seconds: float
    problem: str | None


def notebooks_folder() -> pathlib.Path:
    """The clone's ``notebooks/``.

    Raises
    ------
    FileNotFoundError
        If the package does not lie in a clone: installed packages carry no notebooks.
    """
    folder = pathlib.Path(__file__).resolve().parent.parent / "notebooks"
    if not folder.is_dir():
        raise FileNotFoundError(
            "the notebooks are part of the repository, not of the installed package: "
            "clone it, install it from there (`make setup`), and run this in the clone"
        )
    return folder


def select(only: Sequence[str] = ()) -> list[pathlib.Path]:
    """The numbered notebooks in order; with ``only``, those whose numbers (``00``, ``02b``, ``A1``) are in it."""
    found = {_number(path): path for path in sorted(notebooks_folder().iterdir()) if _NUMBERED.fullmatch(path.name)}
    unknown = [number for number in only if number not in found]
    if unknown:
        raise ValueError(f"no notebook is numbered {', '.join(unknown)}; there are {', '.join(found)}")
    return [path for number, path in found.items() if not only or number in only]


def _number(path):
    return path.name.split("_")[0]


def reproduce(
    output: FilePath, *, scale: str = "quick", only: Sequence[str] = (), say: Callable[[str], object] = print
) -> list[Result]:
    """Execute notebooks and write pages and figures.

    Parameters
    ----------
    output : path
        A folder; made if need be. Pages of an earlier call are overwritten.
    scale : {"quick", "paper"}
        Goes into each notebook's parameter ``scale``. With ``paper`` and all notebooks the sweeps run too: hours on a
        laptop; what is in ``results/`` already is not computed again.
    only : sequence of str
        Numbers of the notebooks to run; all by default.
    say : callable
        Gets one line of progress at a time.

    Returns
    -------
    list of Result
        A notebook that fails is a result with its problem; the others still run. After Ctrl-C the last result says
        so, and the finished ones are in place.
    """
    from nqm_tools import report
    from nqm_tools._validation import check_choice

    check_choice("scale", scale, SCALES)
    paths = select(only)
    output = pathlib.Path(output)
    for folder in (output / "notebooks", output / "figures"):
        folder.mkdir(parents=True, exist_ok=True)
    records = notebooks_folder().parent / "data" / "results"
    if scale == "paper" and not only:
        records = output / "results"
        _run_sweeps(records, say)
    if records.is_dir():
        report.write(report.all_claims(records), output)
    results = []
    for i, path in enumerate(paths):
        say(f"[{i + 1}/{len(paths)}] {path.stem} ...")
        results.append(_run(path, output, scale, records))
        _write_index(output, results, scale)
        result = results[-1]
        say(f"[{i + 1}/{len(paths)}] {path.stem}: {result.problem or 'done'}, {result.seconds:.0f} s")
        if result.problem == INTERRUPTED:
            break
    say(f"Open {(output / 'index.html').resolve()}")
    return results


INTERRUPTED = "interrupted"


def _run_sweeps(folder, say):
    """Compute what the folder lacks of every sweep; one whose data set is unavailable is reported, and left out."""
    from nqm_tools import sweeps

    folder.mkdir(exist_ok=True)
    for path in sorted((notebooks_folder().parent / "experiments").glob("*.toml")):
        say(f"{path.stem} ...")
        try:
            sweeps.run(sweeps.Sweep.from_toml(path), folder / path.stem, say=say)
        except FileNotFoundError as error:
            say(f"{path.stem} waits for its data: {error}")


def _run(path, output, scale, records):
    import nbformat
    import papermill

    parameters = {"scale": scale}
    if "results" in papermill.inspect_notebook(str(path)):
        parameters["results"] = str(records.resolve())
    executed = output / "notebooks" / path.name
    began, problem = time.monotonic(), None
    try:
        papermill.execute_notebook(
            str(path),
            str(executed),
            parameters=parameters,
            kernel_name="python3",
            cwd=str(path.parent),
            progress_bar={"desc": path.stem, "leave": False},
            log_output=False,
        )
    except KeyboardInterrupt:
        problem = INTERRUPTED
    except papermill.PapermillExecutionError as error:
        problem = f"failed in cell {error.exec_count}: {error.ename}: {error.evalue}"
    seconds = time.monotonic() - began
    notebook = nbformat.read(executed if executed.is_file() else path, as_version=4)
    title = _title(notebook) or path.stem
    number = _number(path)
    if problem == INTERRUPTED:
        return Result(number, title, None, [], seconds, problem)
    page = f"{path.stem}.html"
    write_text(output / page, _to_html(notebook, title))
    return Result(number, title, page, _write_figures(notebook, path.stem, output), seconds, problem)


def _title(notebook):
    for cell in notebook.cells:
        match = cell.cell_type == "markdown" and re.match(r"# (.+)", cell.source)
        if match:
            return match[1].strip()
    return None


def _write_figures(notebook, stem, output):
    for old in (output / "figures").glob(f"{stem}_*.png"):
        old.unlink()
    figures = []
    for cell in notebook.cells:
        for out in cell.get("outputs", []):
            image = out.get("data", {}).get("image/png")
            if image:
                name = f"figures/{stem}_{len(figures) + 1}.png"
                with whole_file(output / name) as file:
                    file.write(base64.b64decode(image))
                figures.append(name)
    return figures


# Notebook pages fetch scripts (MathJax, RequireJS, ...) from the web by default. Leave those out; formulas are
# turned into MathML, which browsers draw themselves.
_OFFLINE_TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock html_head_js -%}
{%- block html_head_js_mathjax -%}{%- endblock html_head_js_mathjax -%}
{%- block html_head_js_mermaidjs -%}{%- endblock html_head_js_mermaidjs -%}
{%- block jupyter_widgets -%}{%- endblock jupyter_widgets -%}
"""


def _to_html(notebook, title):
    import copy

    from nbconvert import HTMLExporter

    notebook = copy.deepcopy(notebook)
    # Cells that only check what the page says: for the project's tests, not for readers.
    notebook.cells = [cell for cell in notebook.cells if "remove-cell" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = formulas_to_mathml(cell.source)
    exporter = HTMLExporter(raw_template=_OFFLINE_TEMPLATE)
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    return body


def formulas_to_mathml(markdown: str) -> str:
    """Markdown with ``$...$`` and ``$$...$$`` as MathML; code stays as it is."""
    from latex2mathml.converter import convert

    def replace(match):
        if match["code"]:
            return match["code"]
        display = match["display"] is not None
        latex = match["display"] if display else match["inline"]
        return convert(latex.strip(), display="block" if display else "inline")

    pattern = r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$\n]+(?:\n[^$\n]+)?)\$"
    return re.sub(pattern, replace, markdown, flags=re.DOTALL)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nqm-tools: reproduced figures</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h2 {{ margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem; font-size: 1.25rem; }}
img {{ max-width: 100%; display: block; margin: 1rem 0; }}
.note {{ color: #666; }}
.problem {{ color: #a00; font-weight: 600; }}
</style>
</head>
<body>
<h1>Catapults in wide networks: reproduced figures</h1>
<p class="note">Computed on this machine at scale “{scale}”. {count}</p>
{report}
{sections}
</body>
</html>
"""


def _write_index(output, results, scale):
    sections = []
    for result in results:
        title = html.escape(f"{result.number}  {result.title}")
        heading = f'<a href="{result.page}">{title}</a>' if result.page else title
        state = f'<p class="problem">{html.escape(result.problem)}</p>' if result.problem else ""
        figures = "\n".join(
            f'<a href="{name}"><img src="{name}" alt="{title}, figure {i + 1}"></a>'
            for i, name in enumerate(result.figures)
        )
        note = f'<p class="note">{result.seconds:.0f} s</p>'
        sections.append(f"<section>\n<h2>{heading}</h2>\n{note}\n{state}\n{figures}\n</section>")
    good = sum(result.problem is None for result in results)
    count = f"{good} of {len(results)} notebooks ran through."
    report = (
        "<p><a href='report.html'>Which of the paper's claims hold</a></p>"
        if (output / "report.html").is_file()
        else ""
    )
    page = _PAGE.format(scale=scale, count=count, report=report, sections="\n".join(sections))
    write_text(output / "index.html", page)
