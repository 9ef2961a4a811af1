"""Copies the notebooks out of the package, with what they read, to run and to change; for students without solutions.

>>> import tempfile
>>> [path.name for path in copy(tempfile.mkdtemp(), only=["00"], student=True)]
['00_start_here.ipynb']
"""

from __future__ import annotations

import fnmatch
import json
import pathlib
import re
import tomllib
from collections.abc import Sequence
from typing import Protocol

from nqm_tools import reproduce
from nqm_tools._types import FilePath
from nqm_tools._writing import whole_file

__all__ = [
    "copy",
    "for_students",
    "keep_metadata",
]

# The sweeps whose file or recorded results a notebook reads, by its number, as patterns of their names.
READS = {
    "05": ("figure_2[ab]", "figure_3_5*", "figure_6_7_*", "figure_8_*"),
    "06": ("figure_2b*", "figure_4_*"),
    "07": ("figure_2b_digits", "figure_9_*", "figure_19_*"),
    "08": ("own_*",),
    "09": ("momentum_*",),
    "10": ("edge_chebyshev",),
    "11": ("stochastic_edge*",),
    "12": ("phases_*", "beyond_*"),
    "13": ("features_*",),
    "14": ("features_*",),
}
HERE = "*Your solution here.*"


def copy(folder: FilePath, *, only: Sequence[str] = (), student: bool = False) -> list[pathlib.Path]:
    """Copy notebooks to ``folder/notebooks``, and what they read to ``folder/experiments`` and ``folder/data/results``.

    Parameters
    ----------
    folder : path
        Made if need be.
    only : sequence of str
        Numbers of the notebooks (``00``, ``02b``, ``A1``); all by default.
    student : bool
        Without solutions, whose places are marked, and without cells that only check what the page says.

    Returns
    -------
    list of Path
        The copied notebooks, in order. They run where they are.

    Raises
    ------
    ValueError
        If there is no such notebook, the folder is among what belongs to the repository, or a file is there already
        (but for one that a notebook reads and that is the same). Nothing is copied then.

    Examples
    --------
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> [path.relative_to(folder).as_posix() for path in copy(folder, only=["01", "02b"])]
    ['notebooks/01_linear_and_quadratic_models.ipynb', 'notebooks/02b_catapult_laws.ipynb']
    """
    from nqm_tools._validation import check_output

    paths = reproduce.select(only)
    source = reproduce.notebooks_folder().parent
    folder = check_output(folder, source, ("notebooks", "experiments", "data/results"))
    read = {folder / path.relative_to(source): path.read_bytes() for path in _read_by(paths, source)}
    copied = {folder / "notebooks" / path.name: _notebook(path, student) for path in paths}
    there = [target for target, content in read.items() if target.exists() and not _has(target, content)]
    there += [target for target in copied if target.exists()]
    if there:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise ValueError(
            f"nothing was copied: {str(there[0])!r} is there already{more}; name another folder, or move it away"
        )
    for target, content in (read | copied).items():
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as file:
                file.write(content)
    return list(copied)


def for_students(notebook: dict) -> dict:
    r"""A notebook, as its JSON, with a marked place for each exercise's solution, and without cells for tests.

    Examples
    --------
    >>> solution = {"cell_type": "code", "metadata": {"tags": ["solution"]}, "source": ["# Exercise 1\n", "2 + 2"]}
    >>> for_students({"cells": [solution]})["cells"][0]["source"]
    ['**Exercise 1.** *Your solution here.*']
    """
    cells = []
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", ())
        if "solution" in tags:
            place, last = _place(cell), "".join(cells[-1]["source"]) if cells else ""
            # A cell that names no exercise, or the same again, goes on with the one before.
            if HERE not in last or place["source"][0] not in (HERE, last):
                cells.append(place)
        elif "remove-cell" not in tags:
            cells.append(cell)
    return notebook | {"cells": cells}


class Manager(Protocol):
    """Of JupyterLab's, where its files are."""

    root_dir: str


# What JupyterLab notes in cells of how it last showed and ran them.
_NOTED = ("ExecuteTime", "collapsed", "execution", "scrolled", "trusted")


def keep_metadata(*, model: dict, path: str, contents_manager: Manager, **_: object) -> None:
    """Have JupyterLab save a notebook with the metadata that it had, and no names and versions of this machine's.

    ``make lab`` starts ``jupyter lab`` with ``--ContentsManager.pre_save_hook=nqm_tools.notebooks.keep_metadata``. What
    was not changed is then saved as the same file, byte for byte.

    Examples
    --------
    >>> import tempfile, types
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "mine.ipynb").write_text('{"metadata": {}}', encoding="utf-8")
    >>> saved = {"type": "notebook", "content": {"metadata": {"language_info": {"version": "3.13"}}, "cells": []}}
    >>> keep_metadata(model=saved, path="mine.ipynb", contents_manager=types.SimpleNamespace(root_dir=folder))
    >>> saved["content"]["metadata"]
    {}
    """
    file = pathlib.Path(contents_manager.root_dir, path.strip("/"))
    if model["type"] != "notebook" or not file.is_file():
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))["metadata"]
    except (ValueError, KeyError, TypeError):  # what is there is no notebook, and about to be replaced
        return
    model["content"]["metadata"] = before
    for cell in model["content"]["cells"]:
        for name in _NOTED:
            cell["metadata"].pop(name, None)


def _place(cell):
    """What stands in the place of a solution; an id only where cells have them."""
    exercise = re.search(r"^# Exercise (\w+)", "".join(cell["source"]), re.MULTILINE)
    text = f"**Exercise {exercise[1]}.** {HERE}" if exercise else HERE
    place = {"cell_type": "markdown", "metadata": {}, "source": [text]}
    return place | ({"id": cell["id"]} if "id" in cell else {})


def _notebook(path, student):
    content = path.read_bytes()
    if not student:
        return content
    return (json.dumps(for_students(json.loads(content)), indent=1, ensure_ascii=False) + "\n").encode()


def _read_by(paths, source):
    """The files that notebooks read or link to: their glossary, sweeps and what these extend, recorded results."""
    patterns = [pattern for path in paths for pattern in READS.get(path.name.split("_")[0], ())]
    sweeps, results = (
        [
            path
            for path in sorted((source / folder).glob("*"))
            if any(fnmatch.fnmatchcase(path.stem, pattern) for pattern in patterns)
        ]
        for folder in ("experiments", "data/results")
    )
    modules = [path for path in sweeps if path.suffix == ".py"]  # of functions that sweeps name
    sweeps = [path for path in sweeps if path.suffix == ".toml"]
    for path in sweeps:  # grows on the way
        base = tomllib.loads(path.read_text(encoding="utf-8")).get("extends")
        if base and path.parent / base not in sweeps:
            sweeps.append(path.parent / base)
    recorded = [file for store in results for file in sorted(store.glob("*.parquet"))]
    return [*(source / "notebooks").glob("GLOSSARY.md"), *sweeps, *modules, *recorded]


def _has(path, content):
    return path.is_file() and path.read_bytes() == content
