"""Slides and paths: they agree with the notebooks, and the slides' page asks no other host for anything."""

import importlib.util
import pathlib
import re

import pytest

from nqm_tools import reproduce

DOCS = pathlib.Path(__file__).parents[1] / "docs"
STEMS = {path.stem for path in reproduce.select()}


@pytest.fixture(scope="module")
def slides():
    spec = importlib.util.spec_from_file_location("_slides", DOCS / "_slides.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_slides_are_about_twenty_and_have_notes_with_times(slides):
    every = slides.sources()
    assert 18 <= len(every) <= 22
    minutes = [re.match(r"(\d+) minutes?\b", note) for _, note in every]
    assert all(minutes[:-1]), "a slide without its time"
    assert 35 <= sum(int(found[1]) for found in minutes if found) <= 45
    for slide, _ in every:
        assert re.match(r"##? \w|## \"", slide), slide
        assert len(slide.splitlines()) < 25


def test_the_page_of_the_slides_is_whole(slides, tmp_path):
    page = slides.write(tmp_path / "slides").read_text(encoding="utf-8")
    assert page.count("<section>") == len(slides.sources())
    assert page.count(r"\(") > 40
    assert "$" not in page
    assert "FORMULA" not in page
    used = re.findall(r'(?:src|href)="([^"]+)"', page)
    figures = {link for link in used if link.startswith("figures/")}
    assert len(figures) >= 8
    for link in used:
        if link in figures:
            assert (tmp_path / "slides" / link).read_bytes().startswith(b"\x89PNG")
        elif link.startswith("../notebooks/"):
            assert pathlib.PurePosixPath(link).stem in STEMS
        else:
            assert link.startswith(
                ("../vendor/reveal/", "../vendor/katex/", "../teach/problems.html", "../index.html", "../_static/")
            ), link


@pytest.mark.parametrize("name", ["teach/paths.md", "teach/index.md", "teach/problems.md", "index.md"])
def test_links_of_the_paths_lead_somewhere(name):
    page = DOCS / name
    for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve()
        made = {DOCS / "notebooks" / f"{stem}.ipynb" for stem in STEMS} | {DOCS / "notebooks" / "GLOSSARY.md"}
        made |= {DOCS / "learn.md", DOCS / "results.md", DOCS / "api" / "index.md"}
        assert path.is_file() or path in made, link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, link


def test_the_minutes_of_a_path_follow_each_other():
    text = (DOCS / "teach" / "paths.md").read_text(encoding="utf-8")
    for title, whole in (("45 minutes", 45), ("90 minutes", 90)):
        section = re.search(rf"^## {title}.*?(?=^## )", text, re.MULTILINE | re.DOTALL)[0]
        spans = [tuple(map(int, span)) for span in re.findall(r"^\| (\d+)\W(\d+) \|", section, re.MULTILINE)]
        assert [begin for begin, _ in spans] == [0, *(end for _, end in spans[:-1])]
        assert spans[-1][1] == whole


def test_the_sections_that_paths_name_are_there():
    """The numbers of sections that lecturers are sent to: with the titles that a path's words are about."""
    for stem, number, word in (
        ("01_linear_and_quadratic_models", 2, "critical rate"),
        ("01_linear_and_quadratic_models", 4, "discontinuity"),
        ("02_catapult_one_example", 2, "regimes"),
        ("02_catapult_one_example", 3, "proved"),
        ("02_catapult_one_example", 7, "leaves"),
        ("06_generalization", 6, "more training"),
    ):
        text = (reproduce.notebooks_folder() / f"{stem}.ipynb").read_text(encoding="utf-8")
        assert re.search(rf'"## (?:★ )?{number}\. (?:★ )?[^"]*{word}', text), (stem, number)
