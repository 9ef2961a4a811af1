"""The site's pages that are made from elsewhere: whatever is added has its place. `make docs` builds all of it."""

import ast
import builtins
import doctest
import importlib
import inspect
import json
import pathlib
import re

import pytest

import nqm_tools as nqm
from nqm_tools import papers, report, reproduce

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("_pages")


@pytest.fixture
def api(pages, tmp_path):
    pages._api(tmp_path / "api")
    return {path.stem: path.read_text() for path in (tmp_path / "api").iterdir()}


def test_every_public_name_has_its_place(api):
    documented = "\n".join(api.values())
    modules = [name for name in nqm.__all__ if f"nqm_tools.{name}" in api]
    assert {"dynamics", "training", "sweeps"} <= set(modules)
    for name in set(nqm.__all__) - set(modules) - {"__version__"}:
        home = getattr(nqm, name).__module__.removeprefix("nqm_tools.").split(".")[0]
        home = r"\w+" if home.startswith("_") else home  # of a file without a page: where it is public
        assert re.search(rf"^\.\. auto(class|function):: nqm_tools\.{home}\.{name}$", documented, re.MULTILINE), name
    for name in modules:
        assert f"nqm_tools.{name}" in api["index"]


def public(pages):
    """Module, name and value of all that has a place on the pages of the API."""
    modules = [importlib.import_module(name) for name in pages.public_modules()]
    found = [(module, name, getattr(module, name)) for module in modules for name in pages._public_names(module)]
    return [entry for entry in found if not inspect.ismodule(entry[2])]


def test_every_public_name_has_an_example(pages):
    names = [(module.__name__, name, value) for module, name, value in public(pages) if callable(value)]
    assert len(names) > 100
    lacking = [f"{module}.{name}" for module, name, value in names if not _examples(value)]
    assert lacking == [], "a public name needs an example in its docstring, which pytest runs"
    # Of a module one example is not that of the names in it: each is in the name's own docstring.
    assert not _examples(type("Undocumented", (), {"__doc__": "What it does, and no more."}))


def test_examples_use_what_a_reader_of_their_page_has(pages):
    """The page's names, those that its foot names as imported, and what an example binds itself."""
    lacking = []
    for module, name, value in public(pages):
        tree = ast.parse("".join(example.source for example in _examples(value)) if callable(value) else "")
        known = {*pages._public_names(module), *pages.TAKEN_FOR_GRANTED, *vars(builtins), *_bound(tree)}
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        lacking += [f"{module.__name__}.{name}: {other}" for other in sorted(used - known)]
    assert lacking == []


def _examples(value):
    return doctest.DocTestParser().get_examples(inspect.getdoc(value) or "")


def _bound(tree):
    """Names that code binds: by assignments, imports, definitions, arguments, and in `except ... as`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.asname or node.name
        elif isinstance(node, ast.FunctionDef | ast.ExceptHandler):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg


def test_every_notebook_is_shown_without_checks_and_its_solutions_behind_a_toggle(pages, tmp_path):
    import nbformat

    pages._notebooks(tmp_path / "notebooks")
    learn = pages._learn()
    for path in reproduce.select():
        assert f"(notebooks/{path.name})" in learn
        shown = nbformat.read(tmp_path / "notebooks" / path.name, 4).cells
        tags = [tag for cell in shown for tag in cell.metadata.get("tags", [])]
        assert "remove-cell" not in tags
        solutions = [cell for cell in shown if "solution" in cell.metadata.get("tags", [])]
        assert solutions
        for cell in solutions:
            assert "hide-cell" in cell.metadata.tags if cell.cell_type == "code" else "{dropdown}" in cell.source
        originals = [c for c in nbformat.read(path, 4).cells if "remove-cell" not in c.metadata.get("tags", [])]
        assert [_pictures(cell) for cell in shown if cell.cell_type == "code"] == [
            _pictures(cell) for cell in originals if cell.cell_type == "code"
        ]
        for cell in shown:
            assert (
                not any("image/png" in output for output in _pictures(cell)) or len(cell.metadata.mystnb.image.alt) > 10
            )


def _pictures(cell):
    """What a cell puts out but for tables, whose formulas are letters on pages."""
    return [
        output.get("text") or {kind: data for kind, data in output["data"].items() if kind != "text/html"}
        for output in cell.get("outputs", [])
    ]


def test_the_playground_stands_in_the_sliders_place(pages):
    import nbformat

    made = [pages._in_a_sliders_place(cell) for path in reproduce.select() for cell in nbformat.read(path, 4).cells]
    shown = [cell.source for cells in made for cell in cells]
    assert shown
    for source in shown:
        assert 'src="../playground/index.html#' in source
        assert "title=" in source


@pytest.fixture(scope="module")
def decided():
    """The claims of every paper as the report has them; decided elsewhere, which takes a while."""
    found = papers.Finding("what was found", True)
    return {
        name: report.decide([claim._replace(check=lambda *_: found) for claim in papers.load(name).claims()], DOCS)
        for name in papers.NAMES
    }


def test_every_claim_is_among_the_results(pages, decided):
    text = pages._results(decided)
    for frame in decided.values():
        for claim in frame["claim"]:
            assert pages._said(claim) in text


def test_what_is_ours_says_how_it_is_known_and_where_it_is(pages, decided):
    text = pages._ours(decided["ours"])
    for claim in papers.load("ours").claims():
        assert claim.status in pages.KNOWN, claim.statement
        assert claim.where, f"{claim.statement}: name the notebook, and what of the package has it (where=)"
        assert f"### {pages._heading(claim.statement)}" in text
    assert text.count("*Evidence:*") == len(decided["ours"])
    with pytest.raises(AttributeError, match=r"dynamics\.nothing"):
        pages._place("dynamics.nothing")


def test_claims_are_written_in_signs(pages):
    shown = pages.in_signs("2/lambda_1 < eta_crit <= 4, beta = sqrt(c) eta y, delta^7, p_1^T R_K p_1, width^0.5, meta")
    assert shown == "2/λ₁ < η_crit ≤ 4, β = √c η y, δ⁷, p₁ᵀ R_K p₁, width^0.5, meta"


def test_pages_name_no_other_host_for_scripts_styles_and_fonts():
    for path in [*DOCS.glob("*.md"), *DOCS.glob("howto/*.md"), *DOCS.glob("_static/*")]:
        assert not re.search(r"<(script|link|iframe|img)[^>]*https?:|@import|url\(['\"]?https?:", path.read_text()), (
            path
        )


def test_links_between_the_pages_lead_somewhere(pages, tmp_path):
    made = {"learn.md", "results.md", "ours.md", "api", "notebooks"}
    for path in [*DOCS.glob("*.md"), *DOCS.glob("howto/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            found = (path.parent / target).resolve()
            inside = found.relative_to(DOCS.resolve())
            assert found.exists() or inside.parts[0] in made, f"{path.name}: {target}"


def test_what_changed_since_0_1_is_told():
    """Names of 0.1 that are gone, and calls of 0.1 that would mean something else, as names_0.1.json has them."""
    note = (DOCS / "migration.md").read_text(encoding="utf-8")
    before = json.loads((DOCS / "names_0.1.json").read_text(encoding="utf-8"))
    assert len(before) > 150
    untold = [name for name, call in before.items() if _changed(name, call) and f"`{name}" not in note]
    assert untold == []


def test_changes_are_found():
    assert _changed("kernels.nothing", "value")
    assert _changed("nothing.at_all", "value")
    assert _changed("losses.find", "(name)")  # another name
    assert _changed("losses.find", "()")  # an argument more that has to be given
    assert _changed("training.regime", "(losses, momentum=0.5)")
    assert _changed("kernels.critical_learning_rate", "(kernel, loss='mse', k=1)")
    assert not _changed("training.regime", "(losses)")
    assert not _changed("kernels.empirical_ntk", "(f, params, x1, x2=None)")


def _changed(name, call):
    """Whether a name is not there any more, or cannot be called as it was."""
    module, _, last = name.rpartition(".")
    try:
        value = getattr(importlib.import_module(f"nqm_tools.{module}" if module else "nqm_tools"), last)
    except (ModuleNotFoundError, AttributeError):
        return True
    if not call or call == "value":
        return False
    old = ast.parse(f"def f{call}: ...").body[0].args
    new = [p for p in inspect.signature(value).parameters.values() if p.name != "self"]
    positional = [p.name for p in new if p.kind == p.POSITIONAL_OR_KEYWORD]
    names, given = [a.arg for a in old.args], {a.arg for a in (*old.args, *old.kwonlyargs)}
    defaults = dict(zip(names[len(names) - len(old.defaults) :], map(ast.literal_eval, old.defaults), strict=True))
    return (
        positional[: len(names)] != names
        or not given <= {p.name for p in new} | ({*given} if any(p.kind == p.VAR_KEYWORD for p in new) else set())
        or any(p.default is p.empty and p.name not in given and p.kind != p.VAR_KEYWORD for p in new)
        or any(p.name in defaults and defaults[p.name] not in (..., p.default) for p in new)
    )
