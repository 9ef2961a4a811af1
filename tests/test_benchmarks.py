"""The benchmarks run at small sizes, keep every repeat, say what failed, and their page is what their numbers say."""

import json
import pathlib
import re
import socket
import statistics
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture
def benchmarks(monkeypatch):
    """The package beside ``tests``, which is not installed."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import __main__, cases, report, runner

    return {"main": __main__.main, "cases": cases, "report": report, "runner": runner}


def quick(folder, *parts):
    command = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(folder), "--only", *parts]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def read(folder):
    return json.loads((folder / "benchmarks.json").read_text()), (folder / "README.md").read_text()


def seconds(tree):
    """All lists of repeats in a tree."""
    if isinstance(tree, dict):
        own = [tree["seconds"]] if isinstance(tree.get("seconds"), list) else []
        return own + [found for value in tree.values() for found in seconds(value)]
    return [found for value in tree for found in seconds(value)] if isinstance(tree, list) else []


def rows(results, part):
    return [row for case in results["parts"][part]["cases"] for table in case["tables"].values() for row in table]


def assert_names_no_place(text, *folders):
    for place in (socket.gethostname(), str(ROOT), str(pathlib.Path.home()) + "/", sys.prefix, *map(str, folders)):
        assert place not in text
    assert not re.search(r"/(root|home|tmp|work|Users)/", text)


def test_quick_parts_write_every_repeat_and_a_page_of_them(tmp_path, benchmarks):
    for parts in (["general"], ["share", "groups"]):  # the second call keeps what the first one measured
        done = quick(tmp_path, *parts)
        assert done.returncode == 0, done.stderr
    results, page = read(tmp_path)
    assert list(results["parts"]) == ["share", "groups", "general"]
    assert results["scale"] == "quick"
    assert results["environment"]["cores"] >= 1
    assert results["environment"]["versions"]["jax"]
    for part in results["parts"].values():
        assert len(part["load before"]) == 3
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", part["date"])
        assert [case["status"] for case in part["cases"]] == ["done"] * len(part["cases"])
        assert all(case["peak memory"]["bytes"] > 2**20 for case in part["cases"])
    assert len(seconds(results)) >= 16
    assert all(time > 0 for repeats in seconds(results) for time in repeats)
    schemes = [row for row in rows(results, "general") if "note" not in row]
    assert {row["scheme"][0] for row in rows(results, "general") if "note" in row} <= {"D"}, "jet has not all rules"
    assert all(len(row["step"]["seconds"]) >= 3 for row in schemes)
    taylor = [row for row in schemes if re.match("[A-F]: ", row["scheme"])]
    assert len(taylor) >= 10
    assert all(row["difference"] < 1e-4 for row in taylor)
    assert [row["runs"] for row in rows(results, "groups") if "runs" in row] == [13, 130]
    assert all(row["share of the best product"] > 0 for row in rows(results, "share")[2:])
    assert page == benchmarks["report"].markdown(results)
    for row in schemes:
        median = 1e3 * statistics.median(row["step"]["seconds"])
        assert f"| {row['function']} | {row['scheme']} | {median:.3g} ms (" in page
    assert_names_no_place(json.dumps(results) + page, tmp_path)


def test_a_case_that_fails_is_reported_and_the_others_go_on(tmp_path, benchmarks, monkeypatch, capsys):
    cases = benchmarks["cases"]
    (good,) = cases.PARTS["share"].cases(True)
    bad = good | {"title": "no network", "problem": good["problem"] | {"kind": f"{ROOT}/nothing"}}
    monkeypatch.setitem(cases.PARTS, "share", cases.Part("About.", lambda quick: [bad, good]))
    assert benchmarks["main"](["--quick", "--only", "share", "--output", str(tmp_path)]) == 1
    results, page = read(tmp_path)
    failed, done = results["parts"]["share"]["cases"]
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert failed["reason"] == "KeyError: '(a path)'"
    assert len(failed["tables"]["Rates"]) == 2  # what it had measured before
    assert "- no network: **failed** (KeyError: '(a path)')" in page
    assert "no network: failed" in capsys.readouterr().err
    assert_names_no_place(page, tmp_path)


def test_a_case_beyond_its_limit_is_reported(benchmarks):
    (settings,) = benchmarks["cases"].PARTS["curve"].cases(True)
    case = benchmarks["runner"].run_case("curve", settings | {"limit": 0.1})
    assert (case["status"], case["reason"], case["tables"]) == ("over the limit", "more than 0.1 s", {})


def test_results_of_other_settings_are_not_kept_and_those_of_another_machine_say_so(tmp_path, benchmarks, monkeypatch):
    runner, cases, path = benchmarks["runner"], benchmarks["cases"], tmp_path / "benchmarks.json"
    monkeypatch.setattr(
        runner,
        "run_case",
        lambda part, settings: {"settings": settings, "status": "done", "seconds": 1.0, "tables": {}},
    )

    def parts(only, quick=True):
        return list(runner.run([only], quick, path, lambda line: None)["parts"])

    assert parts("curve") == ["curve"]
    assert parts("share") == ["curve", "share"]
    assert parts("share", quick=False) == ["share"]
    assert parts("curve", quick=False) == ["curve", "share"]
    monkeypatch.setitem(cases.PARTS, "curve", cases.Part("About.", lambda quick: [{"title": "another"}]))
    assert parts("share", quick=False) == ["share"]
    here = runner.environment()
    monkeypatch.setattr(runner, "environment", lambda: here | {"CPU": "another"})
    assert parts("general", quick=False) == ["share", "general"]
    results = json.loads(path.read_text())
    assert results["environment"] == here
    assert "environment" not in results["parts"]["share"]
    assert results["parts"]["general"]["environment"]["CPU"] == "another"
    assert "elsewhere: another" in benchmarks["report"].markdown(results)
    # Where nothing of the old machine is left, the page is of the new one.
    assert parts("share", quick=False) == ["share", "general"]
    assert parts("curve", quick=True) == ["curve"]
    assert json.loads(path.read_text())["environment"]["CPU"] == "another"


def test_the_process_that_starts_the_others_is_light():
    code = "import sys, benchmarks.__main__; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.skipif(not RESULTS.exists(), reason="no results are committed")
def test_the_committed_page_is_what_the_committed_numbers_say(benchmarks):
    results, page = read(RESULTS)
    assert results["scale"] == "paper"
    assert list(results["parts"]) == list(benchmarks["cases"].PARTS)
    assert page == benchmarks["report"].markdown(results)
    assert_names_no_place(json.dumps(results) + page)


@pytest.mark.skipif(not RESULTS.exists(), reason="no results are committed")
def test_the_readme_quotes_the_committed_numbers(benchmarks):
    results, _ = read(RESULTS)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert benchmarks["report"].put_summary(results, readme) == readme
