"""A sweep is nqm.train run by run, computed once, whatever order, file or process asks for it."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import publishers
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import nqm_tools as nqm
from nqm_tools import cli, networks, sweeps
from nqm_tools._program import compilations
from nqm_tools.store import Store
from nqm_tools.sweeps import _compute, _run
from nqm_tools.training import _train

SETTINGS = {
    "data": {"name": "digits", "n_train": 12, "n_test": 10},
    "network": {"name": "two_layer_fc", "width": 24},
    "models": ["f_lin"],
    "learning_rates": [0.5, 1.5],
    "steps": 20,
}


def sweep(**changes):
    return sweeps.Sweep(**{name: value for name, value in (SETTINGS | changes).items() if value is not None})


def run(store, **changes):
    return sweeps.run(sweep(**changes), store, say=lambda line: None)


def computed(store, **changes):
    """How many runs a sweep computes that the store does not hold yet."""
    lines = []
    sweeps.run(sweep(**changes), store, say=lines.append)
    total, kept = (int(word) for word in (lines[0].split()[0], lines[0].split("; ")[1].split()[0]))
    assert (kept == total) == (len(lines) == 1)
    return total - kept


def keys(**changes):
    return [key for group in sweep(**changes).groups() for key in group.keys]


# The runs are those of nqm.train

METHODS = {
    "gd": {},
    "sgd": {"batch_size": 5},
    "half_sum": {"loss": "half_sum", "unit": "critical", "momentum": 0.4},
    "absolute": {"unit": "absolute", "learning_rates": [0.3, 2.5], "momentum": 0.2, "batch_size": 4},
}
NETWORKS = {
    "fc": {"name": "two_layer_fc", "width": 24},
    "deep": {"name": "deep_fc", "width": 16, "depth": 3, "activation": "tanh"},
    "cnn": {"name": "two_layer_cnn", "width": 4},
}


@pytest.mark.parametrize(
    ("network", "method"),
    [("fc", "gd"), ("fc", "half_sum"), ("fc", "absolute"), ("deep", "gd"), ("cnn", "sgd")],
)
def test_a_sweep_is_the_runs_one_by_one(tmp_path, x64, network, method):
    record = ["test_loss", "test_accuracy", *(["lambda_1"] if network == "fc" else [])]
    changes = {"network": NETWORKS[network], "learning_rates": [0.6, 1.4, 5.0], "record": record, "record_every": 4}
    # Linear and quadratic models at 5 times the critical rate overflow by then.
    changes |= {
        "models": ["f", "f_lin", "f_quad"],
        "seeds": [3],
        "steps": 300 if (network, method) == ("fc", "gd") else 50,
    }
    changes |= METHODS[method]
    frame = run(tmp_path, **changes)
    curves = sweeps.load_curves(tmp_path)
    assert len(frame) == 3 * len(changes["learning_rates"])

    data = nqm.datasets.load("digits", n_train=12, n_test=10, seed=3)
    arguments = {name: value for name, value in NETWORKS[network].items() if name != "name"}
    net = getattr(networks, NETWORKS[network]["name"])(**arguments)
    params = net.init(jax.random.key(3), data.x_train.shape)
    training = {
        name: changes[name]
        for name in ("steps", "momentum", "batch_size", "loss", "record", "record_every")
        if name in changes
    }
    loss = training.get("loss", "mse")
    critical = nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train), loss=loss)
    unit = critical if changes.get("unit", "critical") == "critical" else 1.0
    models = {"f": net, "f_lin": nqm.linearize(net, params), "f_quad": nqm.quadraticize(net, params)}
    for row in frame.to_dict("records"):
        run_ = nqm.train(
            models[row["model"]], data, learning_rate=row["learning_rate"], params=params, seed=3, **training
        )
        assert row["critical_learning_rate"] == pytest.approx(critical, rel=1e-12)
        assert any(row["learning_rate"] / unit == pytest.approx(rate, rel=1e-12) for rate in changes["learning_rates"])
        assert row["learning_rate_ratio"] == pytest.approx(row["learning_rate"] / critical, rel=1e-12)
        for name in ("regime", "best_step"):
            assert row[name] == run_.summary[name] or np.isnan(row[name])
        for name in ("peak_loss", "final_loss", "best_test_loss"):
            np.testing.assert_allclose(row[name], run_.summary[name], rtol=1e-7)
        np.testing.assert_allclose(row["best_test_accuracy"], run_.best_test_accuracy)
        assert row["reason"] == run_.stopped
        assert row["status"] == run_.stopped.split()[0]
        assert np.isnan(row["best_test_loss"]) == (run_.regime == "divergent")
        curve = curves[curves["key"] == row["key"]]
        assert curve["step"].tolist() == run_.records["step"].tolist()
        for name in ("train_loss", *record):
            np.testing.assert_allclose(curve[name], run_.records[name], rtol=1e-7, atol=1e-9)
    if (network, method) == ("fc", "gd"):
        assert {"finished", "diverged"} == set(frame["status"])


def test_a_warmup_is_a_linear_rise_of_each_rate(tmp_path, x64):
    changes = {"momentum": 0.4, "models": ["f_quad"], "learning_rates": [0.6, 1.5], "loss": "half_sum", "record": []}
    frame = run(tmp_path, warmup=7, **changes)
    curves = sweeps.load_curves(tmp_path)
    data = nqm.datasets.load("digits", n_train=12, n_test=10, seed=0)
    net = networks.two_layer_fc(24)
    quad = nqm.quadraticize(net, net.init(jax.random.key(0), data.x_train.shape))
    for row in frame.to_dict("records"):
        rate = row["learning_rate"]
        options = {"momentum": 0.4, "steps": 20, "loss": "half_sum", "record": ()}
        other = nqm.train(quad, data, learning_rate=lambda t, rate=rate: rate * jnp.minimum(t + 1, 7) / 7, **options)
        assert row["warmup"] == 7
        assert other.learning_rate == pytest.approx(rate)
        np.testing.assert_allclose(curves["train_loss"][curves["key"] == row["key"]], other.losses, rtol=1e-9)
    assert not np.allclose(run(tmp_path / "without", **changes)["final_loss"], frame["final_loss"], rtol=1e-3)
    with pytest.raises(ValueError, match="warmup must be a whole number >= 0; got -1"):
        sweep(warmup=-1)
    with pytest.raises(ValueError, match="warmup is of gradient descent and heavy ball"):
        sweep(warmup=2, optimizer="optax:adam")


def test_columns_are_the_settings_and_the_results(tmp_path):
    frame = run(tmp_path, learning_rates=[0.1, 0.7, 1.1], seeds=3)
    row = frame.iloc[0]
    expected = {"data": "digits", "n_train": 12, "n_test": 10, "label_noise": 0.0, "classes": "0,2"}
    expected |= {"network": "two_layer_fc", "width": 24, "activation": "relu", "readout_init": "sign", "outputs": 1}
    expected |= {"model": "f_lin", "seed": 0, "steps": 20, "momentum": 0.0, "loss": "mse", "record_every": 1}
    assert {name: row[name] for name in expected} == expected
    assert frame["batch_size"].isna().all()
    assert (frame["seconds"] >= 0).all()
    # As they were given, to the bit, so that runs of several seeds can be grouped by them.
    assert frame["learning_rate_ratio"].tolist() == [0.1, 0.7, 1.1] * 3
    assert frame["seed"].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    pd.testing.assert_frame_equal(frame, sweeps.load(tmp_path))


def test_absolute_rates_are_kept_to_the_bit(tmp_path):
    frame = run(tmp_path, learning_rates=[0.1, 0.7], unit="absolute", seeds=2)
    assert frame["learning_rate"].tolist() == [0.1, 0.7] * 2


def test_a_fixed_sample_is_the_same_for_every_seed(tmp_path):
    run(tmp_path, data=SETTINGS["data"] | {"seed": 5}, seeds=[1, 2])
    assert [p["data"]["seed"] for p in Store(tmp_path).provenance().values()] == [5, 5]
    assert sweeps.load(tmp_path)["data_seed"].tolist() == [5] * 4


def test_one_example_and_gaussians_are_data_too(tmp_path):
    frame = run(
        tmp_path,
        data=[{"name": "single_example", "dimension": 3, "label": 1}, {"name": "gaussians_1d", "n_train": 8}],
        record=["distance"],
    )
    assert frame["data"].tolist() == ["gaussians_1d"] * 2 + ["single_example"] * 2
    assert frame["label"].tolist()[2:] == [1.0, 1.0]
    assert frame["best_test_loss"].isna().all()


# What is computed, and what is not


def test_only_what_is_new_is_computed(tmp_path):
    assert computed(tmp_path) == 2
    assert computed(tmp_path) == 0
    assert computed(tmp_path, learning_rates=[1.0, 1.5, 0.5]) == 1
    assert computed(tmp_path, models=["f_quad", "f_lin"], name="another title") == 2
    assert computed(tmp_path, models=["f_lin", "f_quad"], learning_rates=[1.5, 0.5]) == 0
    frame = run(tmp_path)
    assert frame["learning_rate_ratio"].tolist() == [0.5, 1.5]  # the sweep's own; load gives all
    assert len(sweeps.load(tmp_path)) == 5


OTHERS = [
    {"steps": 21},
    {"record_every": 2},
    {"record": ["test_loss"]},
    {"momentum": 0.1},
    {"batch_size": 12},
    {"loss": "half_sum"},
    {"unit": "absolute"},
    {"seeds": [1]},
    {"models": ["f_quad"]},
    {"network": SETTINGS["network"] | {"width": 25}},
    {"network": SETTINGS["network"] | {"activation": "tanh"}},
    {"network": SETTINGS["network"] | {"readout_init": "normal"}},
    {"data": SETTINGS["data"] | {"n_train": 13}},
    {"data": SETTINGS["data"] | {"n_test": 11}},
    {"data": SETTINGS["data"] | {"label_noise": 0.2}},
    {"data": SETTINGS["data"] | {"classes": [2, 0]}},
    {"data": SETTINGS["data"] | {"seed": 0}},
]


@pytest.mark.parametrize("changes", OTHERS, ids=json.dumps)
def test_another_setting_is_another_run(changes):
    assert not set(keys()) & set(keys(**changes))


def test_another_precision_is_another_run(x64):
    in_64_bits = keys()
    jax.config.update("jax_enable_x64", False)
    assert not set(in_64_bits) & set(keys())


SAME = [
    {"name": "another"},
    {"unit": "critical", "momentum": 0, "loss": "mse", "batch_size": None, "record_every": 1},
    {"record": ["distance", "test_accuracy", "test_loss"]},
    {"momentum": 0.0, "seeds": 1},
    {"learning_rates": (0.5, np.float64(1.5))},
    {"learning_rates": np.array([0.5, 1.5])},
    {"seeds": np.int64(1), "steps": np.int64(20)},
    {"seeds": np.arange(1)},
    {"models": "f_lin"},
    {"data": SETTINGS["data"] | {"label_noise": 0}},
    {"data": SETTINGS["data"] | {"label_noise": 0.0, "classes": [0, 2]}},
    {"data": SETTINGS["data"] | {"classes": (0, 2)}},
    {"data": SETTINGS["data"] | {"n_train": np.int64(12), "label_noise": np.float32(0)}},
    {"network": [{"width": 24, "name": "two_layer_fc", "activation": "relu", "outputs": 1, "readout_init": "sign"}]},
    {"network": {"name": "two_layer_fc", "width": np.int32(24)}},
]


@pytest.mark.parametrize("changes", SAME, ids=repr)
def test_what_is_the_same_is_the_same_run(changes):
    assert keys() == keys(**changes)


def test_a_single_rate_is_a_list_of_one():
    assert keys(learning_rates=[1]) == keys(learning_rates=1.0) == keys(learning_rates=np.float64(1))


@functools.cache
def _titles(count):
    return [{"name": "single_example", "dimension": d} for d in range(1, count + 1)]


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.data())
def test_keys_are_unique_and_do_not_depend_on_the_order(data):
    grid = {
        "data": _titles(data.draw(st.integers(1, 3))),
        "network": [{"name": "two_layer_fc", "width": width} for width in range(1, data.draw(st.integers(2, 4)))],
        "models": data.draw(st.lists(st.sampled_from(["f", "f_lin", "f_quad"]), min_size=1, unique=True)),
        "learning_rates": data.draw(st.lists(st.floats(1e-3, 10), min_size=1, max_size=4, unique=True)),
        "seeds": data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True)),
        "unit": data.draw(st.sampled_from(["critical", "absolute"])),
    }
    lists = ("data", "network", "models", "learning_rates", "seeds")
    other = grid | {name: data.draw(st.permutations(grid[name])) for name in lists}
    ours, theirs = sweep(**grid), sweep(**other)

    def named(sweep_):
        return {
            (json.dumps(group.settings, sort_keys=True), rate): key
            for group in sweep_.groups()
            for rate, key in zip(group.rates, group.keys, strict=True)
        }

    assert named(ours) == named(theirs)
    assert len(set(named(ours).values())) == len(ours) == len(theirs)
    names = [group.name for group in ours.groups()]
    assert len(set(names)) == len(names)


@pytest.fixture
def published(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    publishers.publish("mnist", folder)
    sources = tuple(
        source._replace(url=f"{publishers.NOWHERE}/{source.path}", md5=publishers.md5(folder / source.path))
        for source in publishers.SOURCES["mnist"]
    )
    publishers.isolate(monkeypatch, tmp_path / "cache", {"mnist": sources})
    monkeypatch.setenv("NQM_DATA_DIR", str(folder))
    return folder


def test_other_data_files_are_another_run(tmp_path, published):
    data = {"name": "mnist", "n_train": 8, "n_test": 6}
    assert computed(tmp_path / "store", data=data) == 2
    assert computed(tmp_path / "store", data=data) == 0
    publishers.publish("mnist", published, seed=1)
    with pytest.warns(UserWarning, match="is not the published file"):
        assert computed(tmp_path / "store", data=data) == 2
    frame = sweeps.load(tmp_path / "store")
    assert frame["critical_learning_rate"].nunique() == 2
    md5s = [[file["md5"] for file in p["data"]["files"]] for p in Store(tmp_path / "store").provenance().values()]
    assert len(md5s) == 2
    assert md5s[0] != md5s[1]


def test_data_that_change_under_a_sweep_are_failed_runs(tmp_path, published):
    (group,) = sweep(data={"name": "mnist", "n_train": 8, "n_test": 6}).groups()
    good, _ = _compute.compute(group)
    assert [row["status"] for row in good] == ["finished"] * 2
    before = publishers.listing(published)
    publishers.publish("mnist", published, seed=1)
    _compute._setting.cache_clear()
    with pytest.warns(UserWarning, match="is not the published file"):
        bad, _ = _compute.compute(group)
    assert {row["status"] for row in bad} == {"failed"}
    assert "where the sweep was started" in bad[0]["reason"]
    # With the files back, it works: what was read meanwhile is not kept.
    for path, content in before.items():
        if content is not None:
            (published / path).write_bytes(content[0])
    assert [row["status"] for row in _compute.compute(group)[0]] == ["finished"] * 2


def test_a_data_function_keeps_the_files_that_it_reads(tmp_path, published, monkeypatch):
    (tmp_path / "halves.py").write_text(
        "from nqm_tools import datasets\n\n"
        "def half(n, seed):\n    return datasets.load('mnist', n_train=n // 2, n_test=2, seed=seed)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert computed(tmp_path / "store", data={"name": "halves:half", "n": 8}) == 2
    (provenance,) = Store(tmp_path / "store").provenance().values()
    assert len(provenance["data"]["files"]) == 4


# What went wrong is a row


def test_a_diverged_run_is_a_row(tmp_path):
    frame = run(tmp_path, models=["f_quad"], learning_rates=[0.5, 8.0], steps=60)
    fine, lost = frame.to_dict("records")
    assert (fine["status"], fine["reason"]) == ("finished", "finished")
    assert (lost["status"], lost["regime"]) == ("diverged", "divergent")
    assert lost["reason"].startswith("diverged at step ")
    assert np.isnan(lost["best_test_loss"])
    assert np.isnan(lost["best_step"])
    assert np.isnan(lost["best_test_accuracy"])
    assert lost["peak_loss"] == np.inf
    curves = sweeps.load_curves(tmp_path)
    assert np.isfinite(curves[curves["key"] == fine["key"]]["train_loss"]).all()
    assert not np.isfinite(curves[curves["key"] == lost["key"]]["train_loss"].iloc[-1])
    assert computed(tmp_path, models=["f_quad"], learning_rates=[0.5, 8.0], steps=60) == 0


def test_a_group_that_fails_is_rows_with_the_reason_and_tried_again(tmp_path, monkeypatch):
    grid = {"models": ["f_lin", "f_quad"], "unit": "absolute", "learning_rates": [0.1, 0.2]}
    prepare = _compute.prepare

    def failing(model, *args, **kwargs):
        if getattr(model, "name", None) == "f_lin":  # the sweep's unit comes from the network itself
            raise RuntimeError("out of memory, say")
        return prepare(model, *args, **kwargs)

    lines = []
    with monkeypatch.context() as patch:
        patch.setattr(_compute, "prepare", failing)
        frame = sweeps.run(sweep(**grid), tmp_path, say=lines.append)
    assert frame["status"].tolist() == ["failed"] * 2 + ["finished"] * 2, frame["reason"].tolist()
    failed = frame[frame["status"] == "failed"]
    assert failed["reason"].tolist() == ["RuntimeError: out of memory, say"] * 2
    assert failed["learning_rate"].tolist() == [0.1, 0.2]
    assert failed["width"].tolist() == [24, 24]
    assert failed[["regime", "best_test_loss", "critical_learning_rate"]].isna().all(axis=None)
    assert ": 2 failed in " in lines[1]
    assert lines[2] == "    RuntimeError: out of memory, say"
    tracebacks = [p["traceback"] for p in Store(tmp_path).provenance().values() if "traceback" in p]
    assert len(tracebacks) == 1
    assert "in failing" in tracebacks[0]
    assert set(sweeps.load_curves(tmp_path)["model"]) == {"f_quad"}
    # The next call tries them again, and nothing else.
    assert computed(tmp_path, **grid) == 2
    assert sweeps.load(tmp_path)["status"].tolist() == ["finished"] * 4
    assert computed(tmp_path, **grid) == 0


def test_a_worker_of_another_precision_fails_rather_than_computes(x64):
    (in_64_bits,) = sweep().groups()
    good, _ = _compute.compute(in_64_bits)
    jax.config.update("jax_enable_x64", False)
    bad, provenance = _compute.compute(in_64_bits)
    assert {row["status"] for row in bad} == {"failed"}
    assert bad[0]["reason"] == "ValueError: the precision in force must be one of 'float64'; got 'float32'"
    assert "traceback" in provenance
    (in_32_bits,) = sweep().groups()
    again, _ = _compute.compute(in_32_bits)  # what was made in 64 bits is not found again
    assert [row["status"] for row in good + again] == ["finished"] * 4


def test_runs_that_share_a_shape_share_a_compilation(tmp_path):
    grid = {"network": {"name": "two_layer_fc", "width": 23}}  # a shape of its own
    run(tmp_path, **grid)
    before = compilations()
    run(tmp_path, **grid, seeds=[1, 2], steps=30, learning_rates=[0.3, 0.4], record_every=3)
    run(tmp_path, **grid, data=SETTINGS["data"] | {"label_noise": 0.2}, unit="absolute")
    assert compilations() == before


@pytest.mark.parametrize("small", [0, _train.SMALL_STATE])
def test_big_states_go_one_by_one_and_small_ones_side_by_side(tmp_path, monkeypatch, small):
    sizes = []
    run_batch = _train.run_batch
    monkeypatch.setattr(_train, "SMALL_STATE", small)
    monkeypatch.setattr(
        _train, "run_batch", lambda p, rates, *a, **k: sizes.append(len(rates)) or run_batch(p, rates, *a, **k)
    )
    frame = run(tmp_path)
    assert sizes == ([2] if small else [1, 1])
    assert frame["learning_rate_ratio"].tolist() == [0.5, 1.5]


# Files that say what a sweep is

TOML = """
name = "All of it"
models = ["f_quad", "f"]
seeds = [2, 5]

[[data]]
name = "digits"
n_train = 12
n_test = 10
label_noise = 0.1
classes = [1, 7]
seed = 4

[[data]]
name = "single_example"
dimension = 6
label = 1

[[network]]
name = "two_layer_fc"
width = 24
readout_init = "normal"

[[network]]
name = "deep_fc"
width = 16
depth = 4
activation = "tanh"

[learning_rates]
absolute = [0.5, 1]

[training]
steps = 20
batch_size = 1
momentum = 0.5
loss = "half_sum"
record = ["distance"]
record_every = 5
"""

SMALL = """
models = ["f_lin"]
[data]
name = "digits"
n_train = 12
n_test = 10
[network]
name = "two_layer_fc"
width = 24
[learning_rates]
critical = [0.5, 1.5]
[training]
steps = 20
"""


def test_a_file_says_all_that_the_arguments_say(tmp_path):
    (tmp_path / "all.toml").write_text(TOML)
    read = sweeps.Sweep.from_toml(tmp_path / "all.toml")
    written = sweeps.Sweep(
        name="All of it",
        models=["f_quad", "f"],
        seeds=[2, 5],
        data=[
            {"name": "digits", "n_train": 12, "n_test": 10, "label_noise": 0.1, "classes": [1, 7], "seed": 4},
            {"name": "single_example", "dimension": 6, "label": 1},
        ],
        network=[
            {"name": "two_layer_fc", "width": 24, "readout_init": "normal"},
            {"name": "deep_fc", "width": 16, "depth": 4, "activation": "tanh"},
        ],
        learning_rates=[0.5, 1.0],
        unit="absolute",
        steps=20,
        batch_size=1,
        momentum=0.5,
        loss="half_sum",
        record=["distance"],
        record_every=5,
    )
    assert read == written
    assert read.groups() == written.groups()
    assert len(read) == 2 * 2 * 2 * 2 * 2


SCALES = (
    SMALL
    + """
[scales.quick]
seeds = 3
[scales.quick.data]
n_train = 8
[scales.quick.learning_rates]
absolute = [0.1]
[scales.quick.training]
steps = 5
"""
)


def test_a_scale_is_laid_over_the_file(tmp_path, capsys):
    path = tmp_path / "scales.toml"
    path.write_text(SCALES)
    assert sweeps.Sweep.from_toml(path).groups() == sweep().groups()
    quick = sweep(
        seeds=3, data=SETTINGS["data"] | {"n_train": 8}, learning_rates=[0.1], unit="absolute", steps=5
    ).groups()
    assert sweeps.Sweep.from_toml(path, "quick").groups() == quick
    with pytest.raises(ValueError, match=r"scales\.toml: scale must be one of 'quick'; got 'paper'"):
        sweeps.Sweep.from_toml(path, "paper")
    assert cli.main(["sweep", str(path), "--store", str(tmp_path / "store"), "--scale", "quick"]) == 0
    assert capsys.readouterr().out.startswith("3 finished; ")


def test_a_scale_is_laid_over_each_table_that_is_repeated(tmp_path):
    path = tmp_path / "all.toml"
    path.write_text(TOML + "[scales.quick.network]\nwidth = 8\n")
    assert [network["width"] for network in sweeps.Sweep.from_toml(path, "quick").network] == [8, 8]
    assert [network["width"] for network in sweeps.Sweep.from_toml(path).network] == [24, 16]


def test_a_part_of_a_sweep_has_the_same_runs(tmp_path, capsys):
    whole = sweep(models=["f_lin", "f_quad"], seeds=3, learning_rates=[0.5, 1.5, 1.7])
    part = whole.only(models=["f_quad"], seeds=[2, 1], learning_rates=[1.5])
    assert len(part) == 2
    assert len(whole) == 18
    assert [(g.settings["model"], g.settings["seed"], g.rates) for g in part.groups()] == [
        ("f_quad", 1, (1.5,)),
        ("f_quad", 2, (1.5,)),
    ]
    assert {key for g in part.groups() for key in g.keys} < {key for g in whole.groups() for key in g.keys}
    assert whole.only().groups() == whole.groups()
    for wrong, message in (
        ({"models": ["f"]}, "each of models must be one of 'f_lin', 'f_quad'; got 'f'"),
        ({"seeds": [3]}, "each of seeds must be one of 0, 1, 2; got 3"),
        ({"learning_rates": [1.6]}, "each of learning_rates must be one of 0.5, 1.5, 1.7; got 1.6"),
        ({"seeds": []}, "seeds must not be empty"),
    ):
        with pytest.raises(ValueError, match=message):
            whole.only(**wrong)
    path = tmp_path / "small.toml"
    path.write_text("seeds = 2\n" + SMALL)
    command = ["sweep", str(path), "--store", str(tmp_path / "store"), "--models", "f_lin", "--rates", "0.5"]
    assert cli.main([*command, "--seeds", "1"]) == 0
    assert capsys.readouterr().out.startswith("1 finished; ")
    assert cli.main([*command, "--seeds", "2"]) == 2
    assert "each of seeds must be one of 0, 1; got 2" in capsys.readouterr().err


def test_a_short_file_has_the_defaults(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    assert sweeps.Sweep.from_toml(str(tmp_path / "small.toml")).groups() == sweep().groups()


BAD_FILES = {
    "not TOML": ("name = ", "is no TOML file: "),
    "binary": (b"\xff\xfe\x00", "is no TOML file: "),
    "empty": ("", "a sweep lacks data, network, learning_rates, training; it takes name, data, "),
    "unknown table": (SMALL + "[trainning]\n", "a sweep knows no trainning; it takes "),
    "unknown setting": (SMALL + "step = 3\n", "training knows no step; it takes steps, batch_size, "),
    "a setting of another table": (SMALL + "seeds = 3\n", "training knows no seeds; it takes steps, batch_size, "),
    "a title in another table": (SMALL + 'name = "x"\n', "training knows no name; it takes steps, batch_size, "),
    "no steps": (SMALL.replace("steps = 20", ""), "training lacks steps"),
    "no width": (SMALL.replace("width = 24", ""), "network 'two_layer_fc' lacks width; it takes width, activation"),
    "no n_test": (SMALL.replace("n_test = 10", ""), "data 'digits' lacks n_test; it takes "),
    "no name": (SMALL.replace('name = "digits"', ""), "data must have a name, one of digits, "),
    "unknown data": (SMALL.replace('"digits"', '"digit"'), "the name of data must be one of 'digits', "),
    "unknown network": (SMALL.replace('"two_layer_fc"', '"fc"'), "the name of network must be one of 'two_layer_fc'"),
    "unknown model": (SMALL.replace('"f_lin"', '"g"'), "each of models must be one of 'f', 'f_lin', 'f_quad'; got 'g'"),
    "unknown unit": (SMALL.replace("critical", "paper"), "learning_rates must be a table with one list, critical or"),
    "two units": (
        SMALL.replace("critical", "absolute = [1]\ncritical"),
        "learning_rates must be a table with one list, critical or absolute",
    ),
    "rates without a unit": (
        "learning_rates = [1]\n" + SMALL.replace("[learning_rates]\ncritical", "[x]\ny"),
        "a sweep knows no x",
    ),
    "no rates": (SMALL.replace("[0.5, 1.5]", "[]"), "learning_rates must not be empty"),
    "no models": (SMALL.replace('["f_lin"]', "[]"), "models must not be empty"),
    "twice": (SMALL.replace("[0.5, 1.5]", "[1, 1.0]"), "learning_rates must not hold anything twice; got 1.0 twice"),
    "wrong type": (SMALL.replace("steps = 20", 'steps = "20"'), "steps must be a whole number >= 1; got '20'"),
    "training is no table": (
        "training = 3\n" + SMALL.replace("[training]\nsteps = 20", ""),
        "training must be a table",
    ),
    "data is no table": ('data = "digits"\n' + SMALL.replace("[data]", "[x]"), "a sweep knows no x"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, capsys, what):
    content, message = BAD_FILES[what]
    path = tmp_path / "bad.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"bad\.toml") as caught:
        sweeps.Sweep.from_toml(path)
    assert message in str(caught.value)
    assert cli.main(["sweep", str(path), "--store", str(tmp_path / "store")]) == 2
    assert capsys.readouterr().err == f"nqm: {caught.value}\n"
    assert not (tmp_path / "store").exists()


def test_a_missing_file_is_named(tmp_path, capsys):
    path = tmp_path / "none.toml"
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        sweeps.Sweep.from_toml(path)
    assert cli.main(["sweep", str(path), "--store", str(tmp_path / "store")]) == 1
    assert "none.toml" in capsys.readouterr().err


def test_missing_data_are_named(tmp_path, capsys, published, monkeypatch):
    monkeypatch.delenv("NQM_DATA_DIR")
    path = tmp_path / "mnist.toml"
    path.write_text(SMALL.replace("digits", "mnist"))
    with pytest.warns(UserWarning, match="could not be downloaded"):
        assert cli.main(["sweep", str(path), "--store", str(tmp_path / "store")]) == 1
    assert "data set 'mnist' is not here and could not be downloaded" in capsys.readouterr().err


def test_the_command_says_what_there_is_and_whether_all_is_well(tmp_path, capsys, monkeypatch):
    path, store = tmp_path / "small.toml", tmp_path / "store"
    path.write_text(SMALL)
    command = ["sweep", str(path), "--store", str(store)]
    with monkeypatch.context() as patch:
        patch.setattr(_compute, "prepare", lambda *args, **kwargs: 1 / 0)
        assert cli.main(command) == 1
    assert capsys.readouterr().out == f"2 failed; read them with sweeps.load({str(store)!r})\n"
    assert cli.main(command) == 0
    assert capsys.readouterr().out == f"2 finished; read them with sweeps.load({str(store)!r})\n"


@pytest.mark.parametrize("arguments", [[], ["{path}"], ["--store", "x"], ["{path}", "--store", "x", "--steps", "3"]])
def test_wrong_usage_is_code_2(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(["sweep", *(argument.format(path=tmp_path / "x.toml") for argument in arguments)])
    assert caught.value.code == 2
    assert "usage: nqm" in capsys.readouterr().err


BASE = """
name = "base"
models = ["f_lin", "f"]
[data]
name = "digits"
n_train = 16
n_test = 4
[network]
name = "two_layer_fc"
width = 8
[learning_rates]
critical = [0.5]
[training]
steps = 5
[scales.quick.network]
width = 4
"""


def test_a_file_is_laid_over_the_one_that_it_extends(tmp_path):
    (tmp_path / "base.toml").write_text(BASE)
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "own.toml").write_text(
        'extends = "../base.toml"\n[network]\nactivation = "tanh"\n[learning_rates]\nabsolute = [1.0, 2.0]\n'
        "[scales.quick]\nseeds = 2\n"
    )
    (folder / "third.toml").write_text('extends = "own.toml"\nname = "third"\nmodels = ["f"]\n')
    own, third = (sweeps.Sweep.from_toml(folder / f"{name}.toml") for name in ("own", "third"))
    assert own.network[0]["width"] == 8
    assert own.network[0]["activation"] == "tanh"
    assert (own.unit, own.learning_rates, own.name) == ("absolute", (1.0, 2.0), "base")
    assert (third.name, third.models, third.network) == ("third", ("f",), own.network)
    quick = sweeps.Sweep.from_toml(folder / "third.toml", "quick")
    assert (quick.network[0]["width"], quick.seeds) == (4, (0, 1))
    # The runs are those of a file that says all of it.
    plain = BASE.replace("width = 8", 'width = 8\nactivation = "tanh"').replace(
        "critical = [0.5]", "absolute = [1.0, 2.0]"
    )
    (tmp_path / "plain.toml").write_text(plain)
    files = folder / "own.toml", tmp_path / "plain.toml"
    keys = [[group.keys for group in sweeps.Sweep.from_toml(path).groups()] for path in files]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("base", ['"none.toml"', "3", '"self.toml"', '"there.toml"'])
def test_what_a_file_extends_must_be_another_file(tmp_path, base):
    (tmp_path / "there.toml").write_text('extends = "self.toml"\n')
    (tmp_path / "self.toml").write_text(f"extends = {base}\n{BASE}")
    with pytest.raises(ValueError, match=r"(self|there).toml.*(extends must name another sweep file|extends itself)"):
        sweeps.Sweep.from_toml(tmp_path / "self.toml")


# Argument checks

BAD = [
    ({"name": 3}, TypeError, "name must be text; got 3"),
    ({"data": "digits"}, TypeError, "data must be a table of settings, or a list of them; got 'digits'"),
    ({"data": []}, ValueError, "data must not be empty"),
    ({"data": {}}, ValueError, "data must have a name"),
    ({"data": [SETTINGS["data"]] * 2}, ValueError, "data must not hold anything twice"),
    ({"data": [SETTINGS["data"], SETTINGS["data"] | {"label_noise": 0}]}, ValueError, "data must not hold anything tw"),
    ({"data": SETTINGS["data"] | {"root": "/x"}}, ValueError, "data 'digits' knows no root"),
    ({"network": SETTINGS["network"] | {"depth": 3}}, ValueError, "network 'two_layer_fc' knows no depth"),
    ({"network": SETTINGS["network"] | {"width": 0}}, ValueError, "width must be a whole number >= 1; got 0"),
    ({"network": SETTINGS["network"] | {"width": 2.5}}, ValueError, "width must be a whole number >= 1; got 2.5"),
    ({"network": SETTINGS["network"] | {"activation": "x"}}, ValueError, "activation must be one of"),
    (
        {"network": [SETTINGS["network"], SETTINGS["network"] | {"outputs": 1}]},
        ValueError,
        "network must not hold anything twice",
    ),
    ({"models": ["f", "f"]}, ValueError, "models must not hold anything twice; got 'f' twice"),
    ({"models": ["F"]}, ValueError, "each of models must be one of 'f', 'f_lin', 'f_quad'; got 'F'"),
    ({"learning_rates": []}, ValueError, "learning_rates must not be empty"),
    ({"learning_rates": [0.5, 0]}, ValueError, "each of learning_rates must be a positive finite number; got 0"),
    ({"learning_rates": [np.inf]}, ValueError, "each of learning_rates must be a positive finite number; got inf"),
    ({"learning_rates": ["a"]}, TypeError, "each of learning_rates must be a positive finite number; got 'a'"),
    ({"learning_rates": np.array([0.5, 0.5])}, ValueError, "learning_rates must not hold anything twice"),
    ({"unit": "paper"}, ValueError, "unit must be one of 'critical', 'absolute', 'sharpness'; got 'paper'"),
    ({"seeds": 0}, ValueError, "seeds must be a whole number >= 1; got 0"),
    ({"seeds": []}, ValueError, "seeds must not be empty"),
    ({"seeds": [0, -1]}, ValueError, "each of seeds must be a whole number >= 0; got -1"),
    ({"seeds": True}, TypeError, "each of seeds must be a whole number >= 0; got True"),
    ({"seeds": 1.5}, ValueError, "each of seeds must be a whole number >= 0; got 1.5"),
    ({"steps": None}, ValueError, "training lacks steps"),
    ({"steps": 0}, ValueError, "steps must be a whole number >= 1; got 0"),
    ({"step": 3}, ValueError, "training knows no step; it takes steps, batch_size"),
    ({"momentum": 1}, ValueError, "momentum must be a number in [0, 1); got 1"),
    ({"loss": "l2"}, ValueError, "loss must be one of"),
    ({"record": ["test"]}, ValueError, "each entry of record must be one of"),
    ({"batch_size": 0}, ValueError, "batch_size must be a whole number >= 1; got 0"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD, ids=[f"{i}-{'-'.join(c[0])}" for i, c in enumerate(BAD)])
def test_bad_settings_are_refused_at_the_door(changes, error, message):
    with pytest.raises(error) as caught:
        sweep(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"n_train": 10**6}, "digits has "),
        ({"n_train": 0}, "n_train must be a whole number >= 1; got 0"),
        ({"n_train": 12.0}, "n_train must be a whole number >= 1; got 12.0"),
        ({"classes": [0]}, "classes must be a pair"),
        ({"label_noise": 1.0}, r"label_noise must be a number in \[0, 1\); got 1.0"),
    ],
)
def test_data_that_are_not_to_be_had_are_refused_before_anything_runs(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "store", data=SETTINGS["data"] | data)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_sweep_and_a_store_are_wanted(tmp_path):
    with pytest.raises(TypeError, match=r"sweep must be an nqm_tools.sweeps.Sweep; got dict"):
        sweeps.run(SETTINGS, tmp_path)
    with pytest.raises(TypeError, match="folder must be the path of a folder; got None"):
        sweeps.run(sweep(), None)
    for load in (sweeps.load, sweeps.load_curves):
        with pytest.raises(ValueError, match="folder must be the path of an existing folder"):
            load(tmp_path / "none")


def test_a_sweep_does_not_change():
    with pytest.raises(AttributeError):
        sweep().unit = "absolute"


# What is said, and written down


def test_every_file_says_where_it_comes_from(tmp_path):
    run(tmp_path, models=["f", "f_lin"], seeds=2)
    provenances = Store(tmp_path).provenance()
    assert len(provenances) == 4
    for provenance in provenances.values():
        assert set(provenance) == {"settings", "environment", "data", "form", "seconds"}
        assert provenance["settings"]["network"]["width"] == 24
        assert provenance["settings"]["training"]["steps"] == 20
        assert provenance["settings"]["precision"] == "float32"
        assert provenance["environment"]["jax"] == jax.__version__
        assert provenance["environment"]["nqm_tools"] == nqm.__version__
        assert provenance["data"]["name"] == "digits"
        assert provenance["data"]["seed"] == provenance["settings"]["seed"]
        assert provenance["seconds"] > 0


def test_progress_counts_the_runs_and_says_how_long(tmp_path, capsys):
    lines = []
    sweeps.run(sweep(models=["f_lin", "f_quad"]), tmp_path, say=lines.append)
    assert lines[0] == f"4 runs in 2 groups; 0 are in {tmp_path} already"
    assert lines[1].startswith("[2/4] digits, two_layer_fc 24, f_lin, seed 0: 2 finished in ")
    assert lines[1].endswith(" left")
    assert lines[2].startswith("[4/4] digits, two_layer_fc 24, f_quad, seed 0: 2 finished in ")
    assert "; all done after " in lines[2]
    assert len(lines) == 3
    assert capsys.readouterr() == ("", "")
    sweeps.run(sweep(models=["f_lin", "f_quad"]), tmp_path)
    assert capsys.readouterr() == ("", f"4 runs in 2 groups; 4 are in {tmp_path} already\n")


def test_time_left_is_estimated_model_by_model(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_run.time, "perf_counter", lambda: now[0])
    lines = []
    arrived = set()
    store = type("Empty", (), {"folder": "here", "finished": lambda self, set_aside: set()})()
    store.arrived = lambda: arrived
    groups = sweep(models=["f_lin", "f"], seeds=[0, 1, 2]).groups()
    progress = _run._Progress(_run._Wanted(groups, store), len(groups), store, lines.append)
    # f_lin takes 1 s a run and f 100 s; two workers halve the time that passes.
    for group, seconds in zip(groups[:2], (2.0, 200.0), strict=True):
        now[0] += seconds / 2
        progress.done(group, [{"key": key, "status": "finished", "reason": ""} for key in group.keys], seconds)
    assert lines[1].startswith("[2/12] ")
    assert lines[1].endswith("about 5 s left")  # f is taken to cost what f_lin does, before it is seen
    assert lines[2].endswith("about 3 min left")
    # Meanwhile another process does as much as this one; what fails here is done, too.
    arrived |= {*groups[2].keys, *groups[3].keys}
    progress.done(groups[4], [{"key": key, "status": "failed", "reason": "?"} for key in groups[4].keys], 2.0)
    assert lines[3].startswith("[10/12] ")
    assert lines[3].endswith("about 50 s left")  # 2 runs of f; 4 of f took 101 s
    assert [_run._duration(seconds) for seconds in (99, 150, 7200)] == ["99 s", "2 min", "2.0 h"]


NO_EXTRAS = """
import importlib.abc, sys
blocked = {"seaborn", "matplotlib", "IPython", "jupyter", "jupyterlab", "nbclient", "ipywidgets", "distributed"}
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
from nqm_tools import cli
code = cli.main(["sweep", sys.argv[1], "--store", sys.argv[2]])
assert not {name.partition(".")[0] for name in sys.modules} & blocked
assert code == 0
sys.exit(cli.main(["sweep", sys.argv[1], "--store", sys.argv[2] + "/2", "--dask", "tcp://127.0.0.1:1"]))
"""


def test_a_sweep_needs_neither_plots_nor_notebooks(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    command = [sys.executable, "-c", NO_EXTRAS, str(tmp_path / "small.toml"), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("2 finished; "), done.stderr
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "nqm: a Dask cluster needs distributed: the extra [distributed]"


# Reading


def test_an_empty_store_is_an_empty_frame(tmp_path):
    for load in (sweeps.load, sweeps.load_curves):
        frame = load(tmp_path)
        assert len(frame) == 0
        assert {"key", "status", "reason"} <= set(frame.columns)


def test_frames_are_sorted_whatever_the_order_of_computing(tmp_path):
    for seed, rate in ((1, 1.5), (0, 0.7), (1, 0.7), (0, 1.5)):
        run(tmp_path, seeds=[seed], learning_rates=[rate], models=["f_quad", "f_lin"])
    columns = ["model", "seed", "learning_rate_ratio"]
    frame, curves = sweeps.load(tmp_path), sweeps.load_curves(tmp_path)
    pd.testing.assert_frame_equal(frame[columns], frame[columns].sort_values(columns, ignore_index=True))
    pd.testing.assert_frame_equal(
        curves[[*columns, "step"]], curves[[*columns, "step"]].sort_values([*columns, "step"], ignore_index=True)
    )
    assert len(curves) == 8 * 21
    assert jnp.zeros(0).dtype == "float32"
