"""The sweep files: both scales are sound, and each runs, made tiny, on files generated in its publisher's layout."""

import pathlib

import publishers
import pytest

from nqm_tools import papers, report, sweeps
from nqm_tools.sweeps import Sweep
from nqm_tools.sweeps._references import make_importable
from nqm_tools.sweeps._settings import _read as read

FILES = sorted((pathlib.Path(__file__).resolve().parent.parent / "experiments").glob("*.toml"))
# The copies here lie elsewhere than the modules that they name.
make_importable(str(FILES[0].parent))
EXAMPLES = 12, 8  # a generated pool has ten of each of the two classes


@pytest.fixture
def generated(monkeypatch, tmp_path):
    for name in publishers.SOURCES:
        publishers.publish(name, tmp_path / "published")
    publishers.isolate(monkeypatch, tmp_path / "cache", publishers.sources(publishers.NOWHERE, tmp_path / "published"))
    monkeypatch.setenv("NQM_DATA_DIR", str(tmp_path / "published"))


def tiny(path, folder):
    """A copy of a sweep file with a scale ``tiny``: one seed, few examples, width 8, three steps."""
    content = read(path)
    data = content["data"] if isinstance(content["data"], list) else [content["data"]]
    networks = content["network"] if isinstance(content["network"], list) else [content["network"]]
    text = "\n[scales.tiny]\nseeds = 1\n[scales.tiny.training]\nsteps = 3\nrecord_every = 1\n"
    if "batch_size" in content["training"]:
        text += "batch_size = 5\n"
    if all("n_train" in table for table in data):
        text += f"[scales.tiny.data]\nn_train = {EXAMPLES[0]}\n"
        text += f"n_test = {EXAMPLES[1]}\n" * all(table.get("n_test") for table in data)
        if isinstance(data[0].get("reference"), list):  # images of each of the publisher's two sets
            text += f'source = "mnist"\nclasses = [0, 2]\nreference = {list(EXAMPLES)}\n'
        elif "reference" in data[0]:
            text += f"classes = [0, 2]\nreference = {EXAMPLES[0]}\n"
    if len(networks) == 1 and "width" in networks[0]:
        text += "[scales.tiny.network]\nwidth = 8\n"
    if len(networks) > 1 and all("width" in table for table in networks):  # of several one
        text += f'[[scales.tiny.network]]\nname = "{networks[0]["name"]}"\nwidth = 8\n'
        text += f"outputs = {networks[0]['outputs']}\n" if "outputs" in networks[0] else ""
    for file in (*FILES, *FILES[0].parent.glob("*.py")):  # with those that it extends, and modules
        (folder / file.name).write_text(file.read_text())
    (folder / path.name).write_text(path.read_text() + text)
    return folder / path.name


def parts(path):
    """What a sweep file is made of: its data, networks and ways of training."""
    content = read(path)
    for kind in ("data", "network"):
        for table in content[kind] if isinstance(content[kind], list) else [content[kind]]:
            yield kind, table["name"], table.get("activation"), table.get("readout")
    training = content["training"]
    yield "loss", training.get("loss")
    for name in training.get("record", ()):
        yield "record", name
    yield from (("training", name) for name in training)
    yield from (("rates", unit) for unit in content["learning_rates"])


def some_files():
    """Few files that have all parts of all of them: each is taken whose parts are not yet there."""
    found, chosen = set(), []
    for path in sorted(FILES, key=lambda path: (-len(set(parts(path))), path)):
        if set(parts(path)) - found:
            found |= set(parts(path))
            chosen.append(path)
    return chosen


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_both_scales_are_sound_and_quick_is_the_smaller(path):
    paper, quick = Sweep.from_toml(path), Sweep.from_toml(path, "quick")
    assert len(paper.seeds) >= 3
    assert len(quick) < len(paper)
    assert set(quick.models) <= set(paper.models)
    # (Mini-batches have critical rates of their own; small rates that need more steps lie beside their panel.)
    if path.stem.endswith("_slow"):
        assert max(paper.learning_rates) < 1
    elif (
        paper.unit == "critical" and "test_loss" in paper.training[0]["record"] and not paper.training[0]["batch_size"]
    ):
        assert min(paper.learning_rates) < 1 < max(paper.learning_rates)


@pytest.mark.parametrize("path", some_files(), ids=lambda path: path.stem)
def test_sweeps_run_on_generated_files(generated, path, tmp_path):
    sweep = Sweep.from_toml(tiny(path, tmp_path), "tiny")
    rates = sweep.learning_rates
    part = sweep.only(learning_rates=sorted({min(rates), max(rates)}))
    store = tmp_path / "results" / path.stem
    frame = sweeps.run(part, store, say=lambda line: None)
    assert len(frame) == len(part)
    assert set(frame["status"]) <= {"finished", "diverged"}, frame["reason"].unique()
    claims = [
        claim
        for name in papers.NAMES
        for claim in papers.load(name).claims()
        if path.stem in (claim.sweep, *claim.beside)
    ]
    decided = report.decide(claims, tmp_path / "results")
    assert set(decided["verdict"]) <= {"holds", "does not hold", "undecided", "identity"}
    if "digits" not in path.stem:
        assert not decided.empty
