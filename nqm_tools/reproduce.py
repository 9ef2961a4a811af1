"""Runs the numbered notebooks, two at a time, and writes what they show as pages that can be read offline.

What it leaves in the output folder: ``notebooks/`` (executed), one HTML page each, ``figures/`` (PNG), ``index.html``
with all figures, and the report of the paper's claims. At scale ``paper`` it first runs every sweep of ``experiments/``
into ``results/``, which the notebooks and the report then read in place of the recorded ones.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import functools
import html
import os
import pathlib
import re
import sys
import sysconfig
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nqm_tools import _shipped
from nqm_tools._alt import letter_formulas, name_figures
from nqm_tools._types import FilePath
from nqm_tools._writing import whole_file, write_text

__all__ = [
    "Result",
    "reproduce",
    "select",
]

SCALES = ("quick", "paper")
_NUMBERED = re.compile(r"(\d\d[a-z]?|A\d)_\w+\.ipynb")


class Result(NamedTuple):
    """How one notebook ended: ``problem`` is None if it ran through; ``figures`` are paths in the output folder.

    ``captions`` say what the figures show, one each.

    Examples
    --------
    >>> result = Result("00", "Start here", "00_start_here.html", ["figures/00_start_here_1.png"], 21.5, problem=None)
    >>> "ran through" if result.problem is None else result.problem
    'ran through'
    """

    number: str
    title: str
    page: str | None
    figures: list[str]
    seconds: float
    problem: str | None
    captions: Sequence[str] = ()


def notebooks_folder() -> pathlib.Path:
    """The clone's ``notebooks/`` or, in a package that was installed from a wheel, its own.

    Raises
    ------
    FileNotFoundError
        If this installation has none.
    """
    return _shipped.folder("notebooks")


def select(only: Sequence[str] = ()) -> list[pathlib.Path]:
    """The numbered notebooks in order; with ``only``, those whose numbers (``00``, ``02b``, ``A1``) are in it.

    Examples
    --------
    >>> [path.name for path in select(["02b", "00"])]
    ['00_start_here.ipynb', '02b_catapult_laws.ipynb']
    """
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
        Numbers of the notebooks to run; all by default. The report is written with all of them only: it takes longer
        than a notebook.
    say : callable
        Gets one line of progress at a time.

    Returns
    -------
    list of Result
        In the notebooks' order. One that fails is a result with its problem; the others still run. After Ctrl-C the
        results of those that were running say so, and the finished ones are in place.

    Raises
    ------
    ValueError
        If there is no such scale or notebook, or the output would fall among what belongs to the repository.

    Examples
    --------
    >>> reproduce("pages", only=["99"])
    Traceback (most recent call last):
        ...
    ValueError: no notebook is numbered 99; there are 00, 01, ...
    """
    from nqm_tools import report
    from nqm_tools._validation import check_choice, check_output

    check_choice("scale", scale, SCALES)
    paths = select(only)
    clone = notebooks_folder().parent
    output = check_output(output, clone, ("notebooks", "figures", "results"))
    for folder in (output / "notebooks", output / "figures"):
        folder.mkdir(parents=True, exist_ok=True)
    records = clone / "data" / "results"
    if scale == "paper" and not only:
        records = output / "results"
        _run_sweeps(records, say)
    if records.is_dir() and not only:
        report.write(report.all_claims(records), output)
    results = _in_a_loop(_run_all(paths, output, scale, records, say))
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


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _side_by_side():
    """How many notebooks run at a time: two, where there are two cores for them."""
    return min(2, _cores())


def _in_a_loop(coroutine):
    """The result of a coroutine; where a loop runs already, as in a notebook, from one in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


async def _run_all(paths, output, scale, records, say):
    """The results in the order of the paths; after Ctrl-C of those that had begun."""
    turn = asyncio.Semaphore(_side_by_side())
    results = {}

    async def run(i, path):
        async with turn:
            say(f"[{i + 1}/{len(paths)}] {path.stem} ...")
            beside = [paths[j].stem if 0 <= j < len(paths) else None for j in (i - 1, i + 1)]
            result = results[i] = await _run(path, output, scale, records, beside)
            _write_index(output, [results[j] for j in sorted(results)], scale)
            say(f"[{i + 1}/{len(paths)}] {path.stem}: {result.problem or 'done'}, {result.seconds:.0f} s")

    tasks = [asyncio.create_task(run(i, path)) for i, path in enumerate(paths)]
    try:
        await asyncio.gather(*tasks)
    except asyncio.CancelledError:
        # Ctrl-C, which has cancelled the notebooks too. Those that run end their kernels and leave results that say so.
        await asyncio.wait(tasks)
        if not results:
            raise
    return [results[i] for i in sorted(results)]


async def _run(path, output, scale, records, beside):
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # what a failure leaves out must not look computed
            cell.outputs, cell.execution_count = [], None
    own = output / "results"
    # A notebook finds the clone's results by itself.
    elsewhere = {"results": str(own.resolve())} if records == own else {}
    parameters = _inject(notebook, {"scale": scale} | elsewhere)
    began = time.monotonic()
    problem = await _execute(notebook, path.parent)
    seconds = time.monotonic() - began
    title = _title(notebook) or path.stem
    number = _number(path)
    if problem == INTERRUPTED:
        return Result(number, title, None, [], seconds, problem)
    if elsewhere:
        # Seen from where the executed notebook lies.
        parameters.source = parameters.source.replace(repr(elsewhere["results"]), repr("../results"))
    _drop_bars(notebook)
    _hide_paths(notebook, output)
    captions = name_figures(notebook)
    write_text(output / "notebooks" / path.name, nbformat.writes(notebook) + "\n")
    page = f"{path.stem}.html"
    write_text(output / page, _to_html(notebook, title, *beside))
    return Result(number, title, page, _write_figures(notebook, path.stem, output), seconds, problem, captions)


def _inject(notebook, parameters):
    """Put a cell that sets parameters after the one that gives their defaults, of those that it has; the new cell."""
    import nbformat

    tagged = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    defaults = notebook.cells[tagged[0]].source if tagged else ""
    lines = [
        f"{name} = {value!r}" for name, value in parameters.items() if re.search(rf"^{name} *=", defaults, re.MULTILINE)
    ]
    cell = nbformat.v4.new_code_cell("\n".join(["# Parameters", *lines]), metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(tagged[0] + 1 if tagged else 0, cell)
    return cell


async def _execute(notebook, folder):
    """Run all cells, in a kernel of their own that works in the folder; what went wrong, or None."""
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    problem = None
    with _short_folder() as own:
        # Unix sockets are the user's alone. Over TCP, the only transport on Windows, each kernel warns that it is not.
        transport = {"transport": "tcp"} if os.name == "nt" else {"transport": "ipc", "ip": f"{own}/ipc"}
        manager = AsyncKernelManager(kernel_name="python3", connection_file=f"{own}/kernel.json", **transport)
        client = NotebookClient(notebook, km=manager, record_timing=False, coalesce_streams=True)
        try:
            await client.async_start_new_kernel(cwd=str(folder), env=_kernel_environment())
            await client.async_start_new_kernel_client()
            for i, cell in enumerate(notebook.cells):
                await client.async_execute_cell(cell, i)
            client.set_widgets_metadata()
        except CellExecutionError as error:
            problem = " ".join(f"failed in cell {cell.execution_count}: {error.ename}: {error.evalue}".split())
        except (RuntimeError, asyncio.CancelledError) as error:
            # nbclient takes a cell that is cancelled for one whose kernel died: a RuntimeError as well.
            if asyncio.current_task().cancelling():
                problem = INTERRUPTED
            elif isinstance(error, RuntimeError):
                problem = f"failed: {error} (is there enough memory?)"
            else:
                raise
        finally:
            if client.kc is not None:
                client.kc.stop_channels()
            if manager.has_kernel:
                await manager.shutdown_kernel(now=problem is not None)
    return problem


def _short_folder():
    """A temporary folder for sockets: the paths of these have some hundred bytes at most, on macOS 103."""
    temporary = tempfile.gettempdir()
    short = os.name == "nt" or len(os.fsencode(temporary)) < 70
    return tempfile.TemporaryDirectory(prefix="nqm-", dir=temporary if short else "/tmp")


def _kernel_environment():
    shared = {
        # By default JAX takes most of a GPU's memory beforehand, which two notebooks cannot both do.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # By default NumPy's BLAS takes a thread a core in each of them, and they wait for each other.
        "OMP_NUM_THREADS": str(_cores() // _side_by_side()),
    }
    return shared | os.environ


def _drop_bars(notebook):
    """Leave out progress bars, which slow runs show as widgets: on a page they would stay at 0 %."""
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [
                out
                for out in cell.outputs
                if not ("application/vnd.jupyter.widget-view+json" in out.get("data", {}) and "%|" in str(out["data"]))
            ]


def _hide_paths(notebook, output):
    """Shorten paths of this machine in what the cells have put out: pages are for others, too."""
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = _each_text(cell.outputs, lambda text: _without_paths(text, output))


def _each_text(value, change):
    """A tree of an output's dicts and lists with all texts changed, but for pictures (which are base64)."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_each_text(item, change) for item in value]
    if isinstance(value, dict):
        changed = {k: v if k.startswith("image/") else _each_text(v, change) for k, v in value.items()}
        return type(value)(changed)
    return value


def _without_paths(text, output):
    """A text without where the clone, the output, Python, its packages, the data and the home folder lie."""
    home = pathlib.Path.home()
    folders = {
        home: "~",
        pathlib.Path(tempfile.gettempdir()): "tmp",
        pathlib.Path(sys.prefix): "python",
        pathlib.Path(sysconfig.get_path("stdlib")): "python",
        pathlib.Path(sysconfig.get_path("purelib")): "site-packages",
        pathlib.Path(sysconfig.get_path("platlib")): "site-packages",
        notebooks_folder().parent: "nqm-tools",
        output: "output",
    }
    folders |= {
        pathlib.Path(os.environ[name]): name for name in ("NQM_DATA_DIR", "NQM_CACHE_DIR") if os.environ.get(name)
    }
    spelled = {}
    for folder, name in folders.items():
        for path in {folder.absolute(), folder.resolve()}:
            spelled[str(path)] = name
            if path != home and path.is_relative_to(home):
                spelled[f"~/{path.relative_to(home).as_posix()}"] = name  # as tracebacks have it
    # The longest first: the clone lies in the home folder. The root of the file system is no folder to hide.
    names = sorted((path for path in spelled if len(path) > 1 and pathlib.Path(path) != pathlib.Path("/")), key=len)
    pattern = "|".join(re.escape(path) for path in reversed(names))
    # Before it no part of a name, unless that is the end of an escape sequence for a colour.
    text = re.sub(rf"(?:(?<![\w.-])|(?<=\dm))(?:{pattern})(?![\w.-])", lambda match: spelled[match[0]], text)
    return re.sub(r"\S*ipykernel_\d+/\d+\.py", "cell.py", text)


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


# Notebook pages fetch scripts (MathJax, RequireJS, ...) from the web by default. Leave those out; formulas are drawn.
_OFFLINE_TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock html_head_js -%}
{%- block html_head_js_mathjax -%}{%- endblock html_head_js_mathjax -%}
{%- block html_head_js_mermaidjs -%}{%- endblock html_head_js_mermaidjs -%}
{%- block jupyter_widgets -%}{%- endblock jupyter_widgets -%}
{%- block data_png scoped -%}
<div class="jp-RenderedImage jp-OutputArea-output" tabindex="0">
<img src="data:image/png;base64,{{ output.data['image/png'] | escape_html }}"
 alt="{{ output | get_metadata('alt', 'image/png') | escape_html }}">
</div>
{%- endblock data_png -%}
"""


def _to_html(notebook, title, before=None, after=None):
    """The page of a notebook; before and after are the names of the pages beside it."""
    import copy

    from nbconvert import HTMLExporter

    notebook = copy.deepcopy(notebook)
    # Cells that only check what the page says: for the project's tests, not for readers.
    notebook.cells = [cell for cell in notebook.cells if "remove-cell" not in cell.metadata.get("tags", [])]
    letter_formulas(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = formulas_to_svg(cell.source)
    exporter = HTMLExporter(raw_template=_OFFLINE_TEMPLATE)
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    addresses = {"Previous": before, "All notebooks and figures": "index", "Next": after}
    # The template's own style leaves links outside of cells as text.
    look = "color: #0550ae; text-decoration: underline"
    links = " | ".join(f'<a style="{look}" href="{page}.html">{text}</a>' for text, page in addresses.items() if page)
    place = '<p style="margin: 1em; font-family: sans-serif">'
    return re.sub(r"<body[^>]*>", rf"\g<0>\n{place}{links}</p>", body, count=1)


def formulas_to_svg(markdown: str) -> str:
    """Markdown with ``$...$`` and ``$$...$$`` as drawings, with the LaTeX as their text; code stays as it is.

    Drawn, a formula needs no fonts, and is the same in every browser.
    """

    def replace(match):
        if match["code"]:
            return match["code"]
        display = match["display"] is not None
        return _drawn((match["display"] if display else match["inline"]).strip(), display)

    pattern = r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$\n]+(?:\n[^$\n]+)?)\$"
    return re.sub(pattern, replace, markdown, flags=re.DOTALL)


@functools.lru_cache(4096)
def _drawn(latex, display):
    """A formula; most symbols come many times."""
    import ziamath

    # The same to LaTeX inside a formula; ziamath knows the second.
    drawn = ziamath.Latex(latex.replace("{aligned}", "{split}"), size=17 if display else 16, inline=not display)
    # An image to those who do not see it; below the line as far as the formula is.
    style = "display:block;margin:1em auto" if display else f"vertical-align:{drawn.getyofst():.2f}px"
    label = html.escape(" ".join(latex.split()), quote=True)
    # In a page svg needs no namespace, and in a heading nbconvert would take it for another element's.
    svg = drawn.svg().replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{style}" ', 1)
    return " ".join(svg.split())


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
        heading = f'<a href="{_link(result.page)}">{title}</a>' if result.page else title
        problem = html.escape(_without_paths(result.problem or "", output))
        state = f'<p class="problem">{problem}</p>' if problem else ""
        figures = "\n".join(
            f'<a href="{_link(name)}"><img src="{_link(name)}" alt="{html.escape(caption)}"></a>'
            for name, caption in zip(result.figures, result.captions, strict=True)
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


def _link(name):
    return urllib.parse.quote(name)
