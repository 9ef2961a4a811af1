"""The report: claims decided from recorded results, and the pages and counts that are written of them."""

import html
import pathlib
import re
import warnings

import mistune
import pandas as pd
import pytest

import nqm_tools as nqm
from nqm_tools import _shipped, cli, papers, report, sweeps
from nqm_tools.papers.zhu2024 import theorems
from nqm_tools.store import Store

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results"


@pytest.fixture(scope="module")
def one_example(tmp_path_factory):
    """The sweep of theorems 1 and 2, made small, in a folder of results."""
    folder = tmp_path_factory.mktemp("results")
    sweep = sweeps.Sweep(
        data=[{"name": "single_example", "dimension": 9, "label": label} for label in (0.0, 1.0)],
        network=[{"name": "two_layer_fc", "width": width} for width in (1000, 8000)],
        models=["f_quad"],
        seeds=5,
        learning_rates=[0.9, 1.2, 1.5, 2.1],
        steps=300,
        loss="half_sum",
        record=["lambda_1", "distance"],
    )
    sweeps.run(sweep, folder / "theorems_1_2", say=lambda line: None)
    edge = sweep.only(learning_rates=[1.2, 1.5, 2.1])
    sweeps.run(edge, folder / "theorems_edge", say=lambda line: None)
    return folder


FIGURES_OF_ONE_EXAMPLE = ["1", "Theorem 1", "Theorem 2", "Proposition 6"]


def test_the_theorems_hold_for_real_runs(one_example):
    found = report.claims(one_example, FIGURES_OF_ONE_EXAMPLE)
    assert found["verdict"].tolist() == ["holds"] * 6, found["measured"].tolist()
    of_sweep = found[found["figure"].isin(["1", "Theorem 1"])]
    assert set(of_sweep["recorded"]) == {"f_quad: 5 seeds, 4 rates; width 1000, 8000; " + _machine()}
    assert found["recorded"].iloc[-1] == "computed by the report"


def _machine():
    environment = nqm.training.environment()
    device, cores = environment["device"], environment["cores"]
    return f"{cores} cpu core{'s' if cores > 1 else ''}" if device == "cpu" else device


def test_other_numbers_break_the_theorems(one_example):
    frame = papers.recorded(one_example, "theorems_1_2")
    assert theorems.peak_grows_with_width(frame.assign(peak_loss=1.0)).holds is False
    unstable = frame["lambda_1"].where(frame["step"] == 0, 2.1 / frame["learning_rate"])
    assert theorems.ends_at_rest(frame.assign(lambda_1=unstable)).holds is False
    assert theorems.final_kernel_series(frame.assign(lambda_1=frame["lambda_1"] * 0.98)).holds is False
    assert theorems.regimes(1, 1.9, "monotone")(frame).holds is False
    assert theorems.regimes(5, 6, "catapult")(frame).holds is None


def test_a_folder_without_results_decides_nothing_and_a_missing_one_is_refused(tmp_path):
    frame = report.claims(tmp_path)
    assert set(frame.loc[frame["recorded"] == "", "verdict"]) == {"not recorded"}
    with pytest.raises(ValueError, match="there is no"):
        report.claims(tmp_path / "none")
    with pytest.raises(ValueError, match="no claim is about figure 99; there are 1, Theorem 1"):
        report.claims(tmp_path, ["99"])


def test_failed_runs_and_damaged_files_are_no_results(one_example, tmp_path):
    row = {"key": "ab", "status": "failed", "reason": "x", "model": "f", "seed": 0}
    Store(tmp_path / "theorems_1_2").write([row], {})
    assert set(report.claims(tmp_path, ["1"])["verdict"]) == {"not recorded"}
    (tmp_path / "theorems_1_2" / "0.parquet").write_bytes(b"no parquet")
    with pytest.warns(UserWarning, match="is damaged"):
        assert set(report.claims(tmp_path, ["1"])["verdict"]) == {"not recorded"}


def test_every_claim_names_a_sweep_file_and_every_sweep_file_has_a_claim():
    claims = [claim for name in papers.NAMES for claim in papers.load(name).claims()]
    named = {name for claim in claims for name in (claim.sweep, *claim.beside)} - {""}
    files = {path.stem for path in (ROOT / "experiments").glob("*.toml")}
    assert named <= files
    # Those on digits are the notebooks' own: their readers can run them without a download.
    assert not {name for name in files - named if "digits" not in name}


def test_the_command_writes_both_pages_and_ends_with_zero(one_example, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(papers, "NAMES", ("zhu2024", "phunyaphibarn2023"))
    assert cli.main(["report", "--store", str(one_example), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"zhu2024: \d+ claims \(6 hold, ", printed)
    assert re.search(r"phunyaphibarn2023: \d+ claims \(", printed)
    assert "| Theorem 2 | one example | 1 of 1 |" in printed
    markdown = (tmp_path / "out" / "report.md").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    for name in papers.NAMES:
        for claim in papers.load(name).claims():
            assert claim.statement.replace("|", r"\|") in markdown
    assert "✓ holds" in page
    assert "<td>eta &lt; 2/lambda: monotone</td>" in page
    assert cli.main(["report", "--store", str(tmp_path / "none")]) == 2
    other = ["--output", str(tmp_path / "out"), "--paper", papers.NAMES[1]]
    assert cli.main(["report", "--store", str(one_example), *other]) == 0
    assert "zhu2024:" not in capsys.readouterr().out
    assert "Zhu, Liu" not in (tmp_path / "out" / "report.md").read_text().split("##")[0]
    assert cli.main(["report", "--store", str(one_example), "--paper", "zhu"]) == 2
    assert "there is no paper 'zhu'" in capsys.readouterr().err


def test_a_claim_that_does_not_hold_is_shown_with_its_number(one_example, tmp_path):
    frame = report.claims(one_example, ["Theorem 1"]).assign(verdict="does not hold", measured="peak ~ width^0.5")
    short = report.summary(frame)
    assert short["does not hold"].tolist() == ["the loss climbs to order m (peak ~ width^0.5)"]
    assert short["holds"].tolist() == ["0 of 1"]


def test_what_is_recorded_is_said_model_by_model_where_it_differs():
    runs = pd.DataFrame(
        [
            {"model": model, "seed": seed, "learning_rate_ratio": rate, "device": "cpu", "cores": 2, "width": 64}
            for model in ("f", "f_lin", "f_quad")
            for seed in range(3)
            for rate in (0.5, 0.9, 1.1, 1.3, 1.5)
        ]
    )
    assert report._recorded(runs) == "f, f_lin, f_quad: 3 seeds, 5 rates; width 64; 2 cpu cores"
    part = runs[(runs["model"] != "f") | ((runs["seed"] == 0) & (runs["learning_rate_ratio"] > 0.8))]
    part = part.assign(device=part["model"].map({"f": "H100"}).fillna("cpu"))
    assert report._recorded(part) == "f: 1 seed, 4 rates; f_lin, f_quad: 3 seeds, 5 rates; width 64; H100; 2 cpu cores"


def test_what_cannot_fail_is_counted_apart():
    rows = [
        {"paper": "zhu2024", "figure": "4", "panel": "p", "kind": kind, "status": "", "claim": kind, "measured": "1"}
        | {"rule": "r", "verdict": verdict, "recorded": "x"}
        for kind, verdict in (("claim", "holds"), ("identity", "identity"), ("check", "holds"))
    ]
    frame = pd.DataFrame(rows)
    assert report.headline(frame) == (
        "1 claim (1 hold); 1 identity, which cannot fail (and did not); 1 check (1 hold) of the recordings."
    )
    frame.loc[1, "verdict"] = "does not hold"
    assert "1 identity, which cannot fail (1 did: a fault)" in report.headline(frame)
    assert report.summary(frame)["holds"].tolist() == ["1 of 1"]
    assert report.summary(frame)["open"].tolist() == ["not so: identity (1)"]


def test_without_recorded_results_the_command_says_where_they_are(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(_shipped, "__file__", str(tmp_path / "site-packages" / "nqm_tools" / "_shipped.py"))
    assert cli.main(["report"]) == 1
    assert "no data/results/, which is part of the repository and of its wheels" in capsys.readouterr().err


def test_the_readmes_quote_the_report_of_the_recorded_results(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a damaged file
        frame = report.all_claims(RESULTS)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    quoted = re.search(r"<!-- report -->\n(.*)<!-- report -->", readme, re.DOTALL)[1]
    assert quoted == report.readme_table(frame[frame["paper"] == papers.NAMES[0]]), "make report"
    page, _, table = report.write(frame, tmp_path)
    assert page.read_text(encoding="utf-8") == (RESULTS / "README.md").read_text(encoding="utf-8"), "make report"
    assert table.read_text(encoding="utf-8") == (RESULTS / "claims.csv").read_text(encoding="utf-8"), "make report"
    pd.testing.assert_frame_equal(report.recorded_claims(), frame.astype(str))


def test_a_file_without_the_two_marks_is_left_alone(one_example, tmp_path):
    frame = report.claims(one_example, FIGURES_OF_ONE_EXAMPLE)
    path = tmp_path / "page.md"
    path.write_text(f"above\n{report.MARK}old\n{report.MARK}below\n")
    report.quote(frame, path)
    assert path.read_text() == f"above\n{report.MARK}{report.readme_table(frame)}{report.MARK}below\n"
    path.write_text("no marks")
    with pytest.raises(ValueError, match="two marks"):
        report.quote(frame, path)
    assert path.read_text() == "no marks"


HOSTILE = (
    r"a|b \| c\\",
    "two\nlines\r\n# three\u2028four",
    "`code` ``x` $a_1$ $$b$$",
    "<b>bold</b> <!-- report --> <https://a.b> &lt; &#60;",
    "[link](http://a.b) ![image](x) https://a.b/c www.a.b me@a.b",
    "*a* **b** _c_ __d__ e_f_ ~~g~~ ~h~",
    "lambda_1 < eta, ~ width^0.5, a & b",
)


def rendered(markdown):
    """The texts of a page's cells and items, as a reader with GitHub's extensions sees them."""
    page = mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "url", "math"])(markdown)
    parts = re.findall(r"<(td|th|li)\b[^>]*>(.*?)</\1>", page, re.DOTALL)
    assert not re.search(r"<(?!/?(?:table|thead|tbody|tr|td|th|ul|li|p)\b)", page), page
    return [html.unescape(text) for _, text in parts]


def one_line(text):
    return " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_store_says_is_shown_letter_by_letter(text):
    cells = rendered(report.to_markdown(pd.DataFrame({"x": [text, "1"], text: ["2", text]})))
    assert [one_line(cell) for cell in cells] == ["x", one_line(text), one_line(text), "2", "1", one_line(text)]
    row = {"figure": "4", "panel": text, "kind": "claim", "claim": "c", "measured": text, "verdict": "does not hold"}
    quoted = report.readme_table(pd.DataFrame([row, row]))
    said = one_line(f"figure 4: c ({text})")
    assert [one_line(item) for item in rendered(quoted)] == [one_line(f"{text}, {said}; {said}")]


def test_an_output_or_a_quoting_file_that_must_stay_is_refused_before_anything_is_written(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "clone" / "data" / "results").mkdir(parents=True)
    (tmp_path / "text.md").write_text("no marks")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    monkeypatch.setattr(_shipped, "root", lambda: tmp_path / "clone")
    monkeypatch.setattr(papers, "NAMES", ("ours",))
    before = sorted(tmp_path.rglob("*"))
    command = ["report", "--store", str(tmp_path), "--output"]
    for output in (tmp_path / "clone", tmp_path / "clone" / "data" / "results"):
        assert cli.main([*command, str(output)]) == 2
        assert "output must be a folder of its own" in capsys.readouterr().err
    for file in ("text.md", "picture.png"):
        assert cli.main([*command, str(tmp_path / "out"), "--quote", str(tmp_path / file)]) == 2
        assert f"{file} must" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_recorded_results_say_where_they_come_from_and_stay_small():
    files = [path for path in RESULTS.rglob("*") if path.is_file() and "locks" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 15e6
    assert [path for path in files if b"ARROW:schema" in path.read_bytes()] == []  # a third of a small file
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        assert (ROOT / "experiments" / f"{folder.name}.toml").is_file(), folder.name
        for provenance in Store(folder, create=False).provenance().values():
            assert {"jax", "device", "cores"} <= set(provenance["environment"])
            assert not re.search(r"/(root|home|tmp|Users|work)/", str(provenance))
