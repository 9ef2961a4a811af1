"""What surrounds the code agrees with itself: metadata, lock, conda file, notebooks, README."""

import configparser
import functools
import importlib
import importlib.metadata
import inspect
import json
import pathlib
import pkgutil
import re
import subprocess
import sys
import types
import typing

import distributed
import filelock
import optax
import pandas as pd
import pytest

import nqm_tools as nqm
from nqm_tools import _validation
from nqm_tools.training._rules import Rule

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What signatures name and their modules import for type checkers only: it is slow, optional, or imports theirs.
UNIMPORTED = {
    "pd": pd,
    "distributed": distributed,
    "filelock": filelock,
    "optax": optax,
    "Problem": nqm.training.Problem,
    "Rule": Rule,
    "Diagnosis": nqm.Diagnosis,
}


@pytest.fixture(scope="module")
def config():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def names(requirements):
    """The distributions that a block of requirements names, this one left out."""
    found = {re.match(r"[A-Za-z0-9_.-]+", line)[0].lower() for line in requirements.strip().splitlines()}
    return found - {"nqm-tools"}


def test_every_public_name_is_there():
    for name in nqm.__all__:
        assert getattr(nqm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nqm.nothing


def test_every_public_function_is_documented():
    for name in nqm.__all__:
        thing = getattr(nqm, name)
        if callable(thing):
            assert len(thing.__doc__ or "") > 40, name


def public():
    """``{path: function or class}`` of all that can be reached without an underscore."""
    paths = [info.name for info in pkgutil.walk_packages(nqm.__path__, "nqm_tools.")]
    found = {}
    for module in (nqm, *(importlib.import_module(path) for path in paths if "._" not in path)):
        own = [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
        for name in getattr(module, "__all__", own):
            thing = inspect.unwrap(getattr(module, name))
            if inspect.isfunction(thing) or inspect.isclass(thing):
                found |= {f"{module.__name__}.{name}": thing} if name[0] != "_" else {}
    return found


def functions_of(thing):
    """``{name: function}``: a function itself, or the methods and properties that a class defines by public names."""
    if inspect.isfunction(thing):
        return {"": thing}
    found = {}
    for name, member in vars(thing).items():
        if isinstance(member, property | functools.cached_property):
            member = member.fget if isinstance(member, property) else member.func
        member = inspect.unwrap(getattr(member, "__func__", member))
        written_here = isinstance(member, types.FunctionType) and member.__module__ == thing.__module__
        if written_here and (name[0] != "_" or name in ("__init__", "__new__", "__call__", "__len__")):
            found[f".{name}"] = member
    return found


def test_every_public_signature_is_annotated_and_documented():
    things, bare = public(), []
    assert len(things) > 150
    assert {"nqm_tools.train", "nqm_tools.plotting.trap", "nqm_tools.store.Store"} <= set(things)
    for path, thing in things.items():
        assert inspect.getdoc(thing), path
        assert typing.Any not in typing.get_type_hints(thing, localns=UNIMPORTED).values(), path
        for name, function in functions_of(thing).items():
            # Raises NameError where an annotation names nothing.
            hints = typing.get_type_hints(function, localns=UNIMPORTED)
            parameters = list(inspect.signature(function).parameters)
            wanted = {*parameters[1 if name else 0 :], "return"}
            bare += [f"{path}{name}: {missing}" for missing in wanted if hints.get(missing, typing.Any) is typing.Any]
    assert bare == []


def test_the_types_are_shipped(config):
    assert config["options.package_data"]["nqm_tools"].split() == ["py.typed"]
    assert (pathlib.Path(nqm.__file__).parent / "py.typed").is_file()


def test_output_is_kept_out_of_every_folder_of_the_repository():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no clone")
    ours = {path.split("/")[0] for path in listed.stdout.splitlines() if "/" in path}
    assert ours <= set(_validation.REPOSITORY)


def test_the_lock_has_every_requirement_and_no_index(config):
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    extras = config["options.extras_require"]
    # What drives a browser is 50 MB that users and most tests do without: `make browser`.
    for block in (config["options"]["install_requires"], *(extras[name] for name in extras if name != "browser")):
        assert names(block) <= locked
    assert "://" not in lock
    assert "index-url" not in lock
    for line in re.findall(r"^(?:tensorflow|tf2jax)==.*$", lock, re.MULTILINE):
        assert "sys_platform == 'never'" in line


def test_the_lock_pins_one_version_up_to_python_3_14():
    lock = (ROOT / "requirements.lock").read_text()
    lines = re.findall(r"^([a-z0-9-]+)==.*?(?: ; (.*?))? \\$", lock, re.MULTILINE)
    pinned = [name for name, marker in lines if marker != "python_full_version >= '3.15'"]
    assert len(pinned) == len(set(pinned))
    newer = {name for name, marker in lines if marker == "python_full_version >= '3.15'"}
    assert newer == {"contourpy", "jax", "jaxlib", "numpy", "scipy"}


def test_the_supported_pythons_are_the_same_everywhere(config):
    low, beyond = (int(minor) for minor in re.findall(r"3\.(\d+)", config["options"]["python_requires"]))
    classified = re.findall(r"Python :: 3\.(\d+)", config["metadata"]["classifiers"])
    assert classified == [str(minor) for minor in range(low, beyond)]
    assert f"With Python 3.{low} to 3.{beyond - 1}, " in (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert f"(3, {low}) <= sys.version_info[:2] <= (3, {beyond - 1});" in makefile
    assert f"Python 3.{low} to 3.{beyond - 1} is needed" in makefile


def test_the_installed_environment_is_tensorflow_free():
    installed = {(dist.metadata["Name"] or "").lower() for dist in importlib.metadata.distributions()}
    assert "neural-tangents" in installed
    assert not installed & {"tensorflow", "tf2jax"}


def test_the_conda_file_is_in_step_with_the_metadata(config):
    text = (ROOT / "environment.yml").read_text()
    assert re.search(r"^name: (.+)$", text, re.MULTILINE)[1] == config["metadata"]["name"]
    python = tuple(map(int, re.search(r"python=(\d+)\.(\d+)", text).groups()))
    low, beyond = (tuple(map(int, v.split("."))) for v in re.findall(r"\d+\.\d+", config["options"]["python_requires"]))
    assert low <= python < beyond
    pip = re.findall(r"^      - (.+)$", text, re.MULTILINE)
    assert pip == ["-r requirements.lock"]


def test_versions_agree(config):
    version = nqm.__version__
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert re.search(rf"^## {re.escape(version)}", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert config["metadata"]["version"] == "attr: nqm_tools._version.__version__"


def test_the_readme_names_the_locked_jax_and_the_declared_range():
    readme = (ROOT / "README.md").read_text()
    locked = re.search(r"^jax==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[1]
    assert f'"jax[cuda12]=={locked}"' in readme
    first, beyond = nqm._compat.JAX_RANGE
    assert f"JAX from {first} to 0.{int(beyond.split('.')[1]) - 1}" in readme


def test_the_readme_lists_every_notebook_and_its_pictures_exist():
    readme = (ROOT / "README.md").read_text()
    for path in NOTEBOOKS:
        assert f"notebooks/{path.name}" in readme
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", readme):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_executed_whole_and_name_no_machine(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]
    assert not [cell for cell in code if len(cell["source"]) > 30], "a cell longer than a screen"
    assert any("parameters" in cell["metadata"].get("tags", []) for cell in code)
    assert any("NBVAL_CHECK_OUTPUT" in "".join(cell["source"]) for cell in code)
    assert not re.search(r"/(root|home|tmp|Users)/", path.read_text())
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}


def cells_of(path):
    """Kind, tags and source of each cell."""
    cells = json.loads(path.read_text())["cells"]
    return [(cell["cell_type"], set(cell["metadata"].get("tags", ())), "".join(cell["source"])) for cell in cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_can_be_projected(path):
    # Rows of tables cannot be broken.
    lines = [line for _, _, source in cells_of(path) for line in source.split("\n") if not line.startswith("|")]
    assert not [line for line in lines if len(line) > 88]
    assert path.stat().st_size < 3e6


FORMULA = re.compile(r"\$\$.*?\$\$|\$(?:[^$\\]|\\.)+?\$", re.DOTALL)


def cut_formulas(source):
    """Formulas with a line that Markdown takes for a list or a quotation: the formula ends there, and is printed raw.

    Displayed ones that open a line are blocks of their own, which nothing cuts.
    """
    code, displayed = r"^```.*?^```|`[^`\n]*`", r"^[ \t]*\$\$.*?\$\$"
    source = re.sub(f"{code}|{displayed}", "", source, flags=re.DOTALL | re.MULTILINE)
    return [found[0] for found in FORMULA.finditer(source) if re.search(r"\n\s*(?:[-+*] |>)", found[0])]


def test_a_formula_that_a_list_would_cut_is_found():
    assert cut_formulas("Let $H = q q^T\n+ r H$ be") == ["$H = q q^T\n+ r H$"]
    assert cut_formulas("for $a\n> b$ it is") == ["$a\n> b$"]
    assert cut_formulas("it is $$a\n- b$$") == ["$$a\n- b$$"]
    assert cut_formulas("It is\n\n$$a\n- b$$\n\nand $a\n* b$") == ["$a\n* b$"]
    assert cut_formulas("Let $a$ be:\n\n- one $b$\n- two, and `$HOME`\n- $c\n-d$") == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_formula_has_a_line_that_opens_like_a_list(path):
    assert [cut for kind, _, source in cells_of(path) if kind == "markdown" for cut in cut_formulas(source)] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_say_for_whom_they_are_and_what_can_be_left_out(path):
    cells = cells_of(path)
    opening = cells[0][2]
    for word in ("**Audience:**", "**Prerequisites:**", "**Time:**", "**Core:**", "★", "](GLOSSARY.md)"):
        assert word in opening, word
    exercises = next(source for _, _, source in cells if "## Exercises" in source)
    for word in ("*Warm-up.*", "\n1. ★", "★★ "):
        assert word in exercises, word


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_solutions_and_checks_are_tagged(path):
    cells = cells_of(path)
    assert set().union(*(tags for _, tags, _ in cells)) <= {"parameters", "remove-cell", "solution"}
    exercises = next(i for i, (_, _, source) in enumerate(cells) if "## Exercises" in source)
    for i, (kind, tags, source) in enumerate(cells):
        if kind == "code":
            assert ("solution" in tags) == (i > exercises), source
            assert "remove-cell" not in tags or "NBVAL_CHECK_OUTPUT" in source, source


def test_the_glossary_is_linked_and_gives_each_symbol_one_row():
    first_cells = re.findall(r"^\| (\$.*?) \| ", (ROOT / "notebooks" / "GLOSSARY.md").read_text(), re.MULTILINE)
    symbols = [symbol for cell in first_cells for symbol in re.findall(r"\$[^$]+\$", cell)]
    assert len(symbols) == len(set(symbols))
    assert {"$d$", "$n$", "$H_f$", r"$\omega$"} <= set(symbols)


def test_the_package_runs_as_a_module_of_its_own():
    done = subprocess.run([sys.executable, "-m", "nqm_tools", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"nqm-tools {nqm.__version__}\n"
