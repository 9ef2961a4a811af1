"""The problems for a course: each has a grade and a solution, and the solutions' code runs."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEACH = ROOT / "docs" / "teach"
PROBLEMS = (TEACH / "problems.md").read_text(encoding="utf-8")
SOLUTIONS = (TEACH / "problems_solutions.md").read_text(encoding="utf-8")
TITLES = re.findall(r"^### (\d+\. .+)$", PROBLEMS, re.MULTILINE)
PARTS = dict(zip(TITLES, re.split(r"^### \d+\. .+$", SOLUTIONS, flags=re.MULTILINE)[1:], strict=True))


def test_every_problem_is_listed_graded_and_solved():
    assert len(TITLES) >= 12
    assert re.findall(r"^### (\d+\. .+)$", SOLUTIONS, re.MULTILINE) == TITLES
    listed = re.findall(r"^\| (★+) \| \[(.+?)\]\(#(.+?)\) \|", PROBLEMS, re.MULTILINE)
    assert [title for _, title, _ in listed] == TITLES
    for _, title, anchor in listed:
        assert anchor == re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
    sections = re.split(r"^## (★+)$", PROBLEMS, flags=re.MULTILINE)
    graded = {
        title: grade
        for grade, text in zip(sections[1::2], sections[2::2], strict=True)
        for title in TITLES
        if title in text
    }
    assert graded == {title: grade for grade, title, _ in listed}
    assert set(graded.values()) == {"★", "★★", "★★★"}


def test_no_problem_is_in_a_notebook():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        exercises = " ".join("".join(cell["source"]) for cell in cells if "## Exercises" in "".join(cell["source"]))
        for title in TITLES:
            assert title.split(". ", 1)[1] not in exercises


@pytest.mark.parametrize("title", [title for title in TITLES if "```python" in PARTS[title]])
def test_the_code_of_a_solution_runs(title):
    blocks = re.findall(r"^```python\n(.*?)^```$", PARTS[title], re.MULTILINE | re.DOTALL)
    assert "assert" in "".join(blocks)
    for block in blocks:
        exec(compile(block, title, "exec"), {"__name__": "solution"})


def test_all_but_the_reading_of_a_figure_are_checked_by_code():
    assert [title for title in TITLES if "```python" not in PARTS[title]] == ["4. Reading the headline figure"]
