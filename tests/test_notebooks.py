"""Notebooks that leave the package: what `nqm notebooks` copies, and what a wheel carries."""

import ast
import builtins
import fnmatch
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

from nqm_tools import _shipped, cli, notebooks, papers, reproduce

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = reproduce.select()
NUMBERS = [path.name.split("_")[0] for path in NOTEBOOKS]
# What shells, formats and pages could take for something else.
ODD = "{odd} {} 50% #1 &amp; 'ü' <b> $(x)"


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source_of(path):
    return "\n".join("".join(cell["source"]) for cell in cells_of(path))


def tags_of(cell):
    return set(cell["metadata"].get("tags", ()))


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_all_notebooks_are_copied_as_they_are_with_what_they_read(tmp_path, capsys):
    folder = tmp_path / ODD / "new"
    assert cli.main(["notebooks", str(folder)]) == 0
    assert f"{len(NOTEBOOKS)} copied" in capsys.readouterr().out
    for path in NOTEBOOKS:
        assert (folder / "notebooks" / path.name).read_bytes() == path.read_bytes()
    copied = files(folder)
    for path in copied:
        assert (folder / path).read_bytes() == (ROOT / path).read_bytes()
    patterns = [pattern for read in notebooks.READS.values() for pattern in read]
    stores = [path.name for path in (ROOT / "data" / "results").iterdir() if path.is_dir()]
    recorded = {name for name in stores if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
    assert {name for name in stores if name.startswith("figure_")} <= recorded
    assert {path.split("/")[2] for path in copied if path.startswith("data/")} == recorded, (
        "what no notebook reads is not"
    )
    assert "notebooks/GLOSSARY.md" in copied


def test_of_some_notebooks_only_what_these_read_is_copied(tmp_path):
    written = notebooks.copy(tmp_path / "a", only=["02b", "00"])
    assert [path.name.split("_")[0] for path in written] == ["00", "02b"]
    assert files(tmp_path / "a") == {f"notebooks/{path.name}" for path in written} | {"notebooks/GLOSSARY.md"}
    notebooks.copy(tmp_path / "b", only=["07"])
    copied = files(tmp_path / "b")
    assert not [path for path in copied if "figure_4_" in path and path.startswith("data")]
    # A file that another extends comes along.
    assert "experiments/figure_19_cifar2_cnn_tanh.toml" in copied
    assert "experiments/figure_4_cifar2_cnn.toml" in copied


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_sweep_that_a_notebook_names_is_among_what_is_copied(path):
    source = source_of(path)
    patterns = notebooks.READS.get(path.name.split("_")[0], ())
    sweeps = {path.stem for path in (ROOT / "experiments").glob("*.toml")}
    named = {name for name in sweeps if re.search(rf"\b{name}\b", source)}
    figures = {figure for call in re.findall(r"\b(?:claims|of_figure)\(([^()]*)\)", source) for figure in _texts(call)}
    claims = [claim for name in papers.NAMES for claim in papers.load(name).claims()]
    named |= {claim.sweep for claim in claims if claim.sweep and claim.figure in figures}
    missed = {name for name in named if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
    assert not missed
    assert bool(patterns) == ("../data/results" in source or "../experiments" in source)


def _texts(call):
    return re.findall(r'"([^"]+)"', call)


def test_students_get_no_solution_and_their_places_are_marked(tmp_path):
    notebooks.copy(tmp_path, student=True)
    for path in NOTEBOOKS:
        before, after = cells_of(path), cells_of(tmp_path / "notebooks" / path.name)
        text = (tmp_path / "notebooks" / path.name).read_text(encoding="utf-8")
        assert not [cell for cell in after if tags_of(cell) & {"solution", "remove-cell"}]
        kept = [cell for cell in before if not tags_of(cell) & {"solution", "remove-cell"}]
        places = [cell for cell in after if notebooks.HERE in "".join(cell["source"])]
        assert [cell for cell in after if cell not in places] == kept
        solved = [cell for cell in before if "solution" in tags_of(cell)]
        exercises = re.findall(r"^# Exercise (\w+)", "\n".join("".join(c["source"]) for c in solved), re.MULTILINE)
        wanted = [f"**Exercise {number}.** {notebooks.HERE}" for number in dict.fromkeys(exercises)]
        assert ["".join(cell["source"]) for cell in places] == wanted
        assert {cell["cell_type"] for cell in places} == {"markdown"}
        assert not re.search(r'"# Exercise \w', text)  # how solutions begin, and headings do not
        assert len({cell["id"] for cell in after}) == len(after)
        assert json.loads(text)["nbformat"] == 4


def test_a_solution_without_a_number_and_cells_without_ids():
    def cell(source, *tags):
        return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": [source], "outputs": []}

    given = {"cells": [cell("1"), cell("2", "solution"), cell("3", "solution"), cell("4"), cell("5", "remove-cell")]}
    made = notebooks.for_students(given)
    assert ["".join(cell["source"]) for cell in made["cells"]] == ["1", notebooks.HERE, "4"]
    assert "id" not in made["cells"][1]
    assert len(given["cells"]) == 5, "what was given is changed"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_that_readers_see_needs_a_cell_that_students_and_pages_lack(path):
    """No name is made in cells tagged `solution` or `remove-cell` alone and used elsewhere."""
    made, hidden, used = set(dir(builtins)), set(), set()
    for cell in cells_of(path):
        if cell["cell_type"] == "code":
            nodes = list(ast.walk(ast.parse("".join(cell["source"]))))
            stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
            stored |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            stored |= {node.arg for node in nodes if isinstance(node, ast.arg)}
            imported = [
                alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
            ]
            stored |= {(alias.asname or alias.name).split(".")[0] for alias in imported}
            if tags_of(cell) & {"solution", "remove-cell"}:
                hidden |= stored
            else:
                made |= stored
                used |= {node.id for node in nodes if isinstance(node, ast.Name)}
    assert not (used - made) & hidden
    assert not used - made


def test_nothing_is_overwritten_and_what_notebooks_share_may_be_there(tmp_path, capsys):
    assert cli.main(["notebooks", str(tmp_path), "--only", "00"]) == 0
    assert cli.main(["notebooks", str(tmp_path), "--only", "01"]) == 0, "the same glossary is there already"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert cli.main(["notebooks", str(tmp_path), "--only", "00", "05"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nqm: nothing was copied: ")
    assert "00_start_here.ipynb' is there already; name another folder" in error
    assert error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "notebooks" / "GLOSSARY.md").write_text("mine")
    assert cli.main(["notebooks", str(tmp_path), "--only", "00"]) == 2
    assert "GLOSSARY.md' is there already (and 1 more)" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert cli.main(["notebooks", str(tmp_path / "file"), "--only", "00"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_notebooks_are_not_copied_among_those_of_the_repository(tmp_path, capsys):
    for folder in (ROOT, ROOT / "notebooks", ROOT / "docs"):
        assert cli.main(["notebooks", str(folder)]) == 2
        assert "output must be a folder of its own" in capsys.readouterr().err
    assert cli.main(["notebooks", str(tmp_path / "a"), "--only", "98"]) == 2
    assert "no notebook is numbered 98" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_sweeps_of_the_package_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = ROOT / "experiments" / "figure_2b.toml"
    for name in ("figure_2b", "figure_2b.toml", "experiments/figure_2b.toml"):
        assert _shipped.sweep_file(name) == own
    (tmp_path / "figure_2b").mkdir()  # somebody's store
    assert _shipped.sweep_file("figure_2b") == own
    for name in ("else/figure_2b.toml", "figure_99", str(tmp_path / "figure_2b.toml")):
        assert _shipped.sweep_file(name) == name
    (tmp_path / "figure_2b.toml").write_text("")
    assert _shipped.sweep_file("figure_2b.toml") == "figure_2b.toml", "the user's comes first"


def test_jupyterlab_saves_an_unchanged_notebook_as_the_same_file(tmp_path):
    """As `make lab` starts it; what the browser sends names the kernel of this machine."""
    from jupyter_server.services.contents.filemanager import FileContentsManager
    from traitlets.config import Config

    option = re.search(r"--(ContentsManager)\.(pre_save_hook)=(\S+)", (ROOT / "Makefile").read_text())
    config = Config({option[1]: {option[2]: option[3]}})
    manager = FileContentsManager(root_dir=str(tmp_path), config=config)
    path = tmp_path / "00 ü.ipynb"
    before = NOTEBOOKS[0].read_bytes()
    path.write_bytes(before)
    model = manager.get(path.name)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    model["content"]["metadata"] = {"kernelspec": kernel, "language_info": {"name": "python", "version": "3.99"}}
    for cell in model["content"]["cells"]:
        cell["metadata"] |= {"execution": {"iopub.execute_input": "now"}, "collapsed": False, "trusted": True}
    manager.save(model, path.name)
    assert path.read_bytes() == before
    model["content"]["cells"][0]["source"] += "changed"
    manager.save(model, path.name)
    assert b"changed" in path.read_bytes()
    model["content"]["metadata"] = {"kernelspec": kernel, "language_info": {"name": "python", "version": "3.99"}}
    manager.save(model, "new.ipynb")
    assert json.loads((tmp_path / "new.ipynb").read_text())["metadata"]["language_info"]["version"] == "3.99"
    path.write_text("no notebook")
    manager.save(model, path.name)
    assert b"changed" in path.read_bytes()
    manager.save({"type": "file", "format": "text", "content": "text"}, "file.txt")
    assert (tmp_path / "file.txt").read_text() == "text"


def test_a_wheel_carries_what_the_commands_read(tmp_path):
    """Built as `pip` builds it, but for the packing; run where there is no clone."""
    pytest.importorskip("setuptools")
    site = tmp_path / "site packages"
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(site)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    share = site / "nqm_tools" / "_share"
    carried = files(share)
    assert {f"notebooks/{path.name}" for path in NOTEBOOKS} <= carried
    assert {f"experiments/{path.name}" for path in (ROOT / "experiments").glob("*.toml")} <= carried
    assert {p.relative_to(ROOT).as_posix() for p in (ROOT / "data" / "results").glob("*/*.parquet")} <= carried
    assert not [path for path in carried if "lock" in path or "checkpoint" in path]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:  # packers take more trouble
        for path in site.rglob("*"):
            archive.write(path, path.relative_to(site))
    assert packed.tell() < 25e6
    code = (
        "import sys; from nqm_tools import _shipped, cli, report; "
        "assert report.recorded_results() == _shipped.root() / 'data' / 'results'; "
        "assert _shipped.sweep_file('figure_2b').is_file(); "
        "sys.exit(cli.main(['notebooks', 'out', '--only', '06', '--student']))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out" / "notebooks" / "06_generalization.ipynb").is_file()
    assert list((tmp_path / "out" / "data" / "results" / "figure_2b").glob("*.parquet"))
