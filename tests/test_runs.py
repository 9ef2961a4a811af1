"""What a run says of itself, and its file."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nqm_tools as nqm
from nqm_tools import training
from nqm_tools.training import _runs as runs

finite = st.floats(0, 1e6)


@given(st.lists(finite, min_size=1))
def test_falling_losses_are_monotone(losses):
    assert nqm.regime(sorted(losses, reverse=True)) == "monotone"


@given(st.lists(finite, min_size=1), st.sampled_from([np.inf, np.nan]), st.data())
def test_a_loss_that_is_not_finite_is_divergence(losses, bad, data):
    losses.insert(data.draw(st.integers(0, len(losses))), bad)
    assert nqm.regime(losses) == "divergent"


@given(st.lists(finite, min_size=2, max_size=19))  # beyond, the last tenth is more than the last loss
def test_a_last_loss_above_the_first_is_divergence(losses):
    assert (nqm.regime(losses) == "divergent") == (losses[-1] > losses[0])


@given(st.lists(finite, min_size=1), st.floats(1e-3, 1e3))
def test_regimes_do_not_depend_on_the_unit_of_the_loss(losses, unit):
    # A power of two, so that scaling is exact.
    unit = 2.0 ** round(np.log2(unit))
    assert nqm.regime(np.array(losses) * unit) == nqm.regime(losses)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0, 0.5, 0.54, 0.1], "monotone"),  # rises by 4 % of the first loss
        ([1.0, 0.5, 0.56, 0.1], "catapult"),  # by 6 %
        ([1.0, 40.0, 0.9], "catapult"),
        ([1.0, 0.2, 1.0], "catapult"),
        ([1.0], "monotone"),
        ([1, 2], "divergent"),
    ],
)
def test_a_catapult_rises_by_five_per_cent_of_the_first_loss(losses, expected):
    assert nqm.regime(losses) == expected


@pytest.mark.parametrize("losses", [[], [[1.0]], 3.0, ["a", "b"], None])
def test_losses_that_are_no_sequence_of_numbers_are_refused(losses):
    with pytest.raises(ValueError, match="losses must be a non-empty sequence of numbers; got"):
        nqm.regime(losses)


@pytest.fixture
def run():
    net = nqm.networks.two_layer_fc(5)
    x = jax.random.normal(jax.random.key(0), (6, 3))
    data = nqm.Data("own", x, jnp.sign(x[:, 0]), x, jnp.sign(x[:, 0]), {"source": "test"})
    return nqm.train(net, data, learning_rate=0.2, steps=9, record_every=4, seed=2)


def test_the_frame_is_tidy(run):
    assert list(run.frame.columns) == [
        "model",
        "learning_rate",
        "step",
        "train_loss",
        "test_loss",
        "test_accuracy",
        "distance",
    ]
    assert run.frame["step"].tolist() == [0, 4, 8, 9]


def test_the_summary_has_the_best_recorded_step(run):
    best = run.frame["test_loss"].idxmin()
    assert run.summary["best_test_loss"] == run.frame["test_loss"][best]
    assert run.summary["best_step"] == run.frame["step"][best]
    assert run.summary["peak_loss"] == run.losses.max()
    assert run.summary["final_loss"] == run.losses[-1]
    assert (run.summary["regime"], run.summary["seed"], run.summary["stopped"]) == ("monotone", 2, "finished")


def test_a_run_comes_back_from_its_file_as_it_was(run, tmp_path):
    path = run.save(tmp_path / "run.npz")
    loaded = nqm.Run.load(path)
    pd.testing.assert_frame_equal(loaded.frame, run.frame)
    np.testing.assert_array_equal(loaded.losses, run.losses)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(run.params)
    assert all(map(np.array_equal, jax.tree.leaves(loaded.params), jax.tree.leaves(run.params)))
    assert (loaded.settings, loaded.environment) == (run.settings, run.environment)
    assert (loaded.summary, repr(loaded)) == (run.summary, repr(run))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "params",
    [
        {"b": [jnp.ones(2), None], "a": (jnp.zeros((1, 2)), {"c": jnp.arange(3.0)})},
        [(), (jnp.ones(3),)],
        jnp.ones(()),
    ],
)
def test_trees_of_plain_containers_come_back(run, tmp_path, params):
    object.__setattr__(run, "params", params)
    loaded = nqm.Run.load(run.save(tmp_path / "run"))
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_parameters_in_other_containers_are_refused_before_anything_is_written(run, tmp_path):
    object.__setattr__(run, "params", nqm.linearize(lambda w, x: w, jnp.ones(2)))
    with pytest.raises(TypeError, match=r"lists, tuples, dictionaries .* got LinearModel"):
        run.save(tmp_path / "run.npz")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file_and_nothing_else(run, tmp_path, monkeypatch):
    path = run.save(tmp_path / "run.npz")
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run.save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"not a file of NumPy's", b"PK\x03\x04 cut"])
def test_damaged_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.npz is no run that nqm_tools saved, or it is damaged"):
        nqm.Run.load(path)


def test_truncated_and_foreign_files_are_refused(run, tmp_path):
    path = run.save(tmp_path / "run.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="damaged"):
        nqm.Run.load(path)
    np.savez(path, header="{}")
    with pytest.raises(ValueError, match="damaged"):
        nqm.Run.load(path)
    with pytest.raises(FileNotFoundError):
        nqm.Run.load(tmp_path / "missing.npz")


def test_a_run_records_versions_and_device(run):
    assert run.environment["nqm_tools"] == nqm.__version__
    assert run.environment["jax"] == jax.__version__
    assert run.environment["device"] == jax.devices()[0].device_kind


def test_a_run_without_test_losses_has_no_best_one(run):
    del run.records["test_loss"]
    assert np.isnan(run.summary["best_test_loss"])
    assert np.isnan(run.summary["best_step"])


def test_a_provenance_with_numpy_values_is_saved(run, tmp_path):
    run.settings["data"] = {"count": np.int64(3), "scale": np.array([0.5, 1.0])}
    loaded = nqm.Run.load(run.save(tmp_path / "run.npz"))
    assert loaded.settings["data"] == {"count": 3, "scale": [0.5, 1.0]}


def test_what_could_not_be_read_back_is_refused_before_anything_is_written(run, tmp_path):
    object.__setattr__(run, "params", [jnp.ones(2, jnp.bfloat16)])
    with pytest.raises(TypeError, match="arrays of bfloat16 cannot be saved"):
        run.save(tmp_path / "run.npz")
    run.settings["data"] = {"source": object()}
    object.__setattr__(run, "params", [jnp.ones(2)])
    with pytest.raises(TypeError, match="must be plain values to be saved; got object"):
        run.save(tmp_path / "run.npz")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match=r"the folder of .* does not exist"):
        run.save(tmp_path / "missing" / "run.npz")


# What train keeps


def small(params=None, f=None, provenance=None, **options):
    x = jax.random.normal(jax.random.key(0), (6, 3))
    data = nqm.Data("own", x, jnp.sign(x[:, 0]), provenance=provenance or {})
    model = nqm.networks.two_layer_fc(5) if f is None else f
    return nqm.train(model, data, **{"learning_rate": 0.2, "steps": 3, "params": params} | options)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}, {"optimizer": optax.adam}])
def test_train_keeps_a_run_that_goes_on(tmp_path, options):
    run = small(save=tmp_path / "run.npz", **options)
    loaded = nqm.Run.load(tmp_path / "run.npz")
    pd.testing.assert_frame_equal(loaded.frame, run.frame)
    assert small(start=loaded, save=str(tmp_path / "rest"), **options).frame["step"].iloc[-1] == 6
    assert len(nqm.Run.load(tmp_path / "rest").losses) == 4


class Own:
    def __init__(self, w):
        self.w = w


jax.tree_util.register_pytree_node(Own, lambda own: ((own.w,), None), lambda _, children: Own(*children))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"save": "no/such/folder/run.npz"}, FileNotFoundError, "the folder of .* does not exist"),
        ({"save": "."}, IsADirectoryError, "'.' is a folder"),
        ({"save": 3}, TypeError, "must be text or a path; got 3"),
        ({"params": Own(jnp.ones((3, 1))), "f": lambda p, x: x @ p.w}, TypeError, "got Own"),
        ({"params": {0: jnp.ones((3, 1))}, "f": lambda p, x: x @ p[0]}, TypeError, "dictionaries with string keys"),
        ({"provenance": {"source": object()}}, TypeError, "must be plain values to be saved; got object"),
        ({"learning_rate": [0.1, 0.2]}, ValueError, "save keeps a single run"),
        (
            {"optimizer": lambda rate: optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.sgd(rate))},
            TypeError,
            "arrays of key<fry> cannot be saved",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_before_the_training(tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training._train, "run_batch", lambda *args, **kwargs: pytest.fail("it trains"))
    with pytest.raises(error, match=message):
        small(**{"save": "run.npz"} | options)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_is_kept(tmp_path, monkeypatch):
    steps = training._loop._steps

    def interrupt(program, problem, rule, batch, start, stop, scalars):
        if start > 4 and scalars["last"] == 100:
            raise KeyboardInterrupt
        return steps(program, problem, rule, batch, start, stop, scalars)

    monkeypatch.setattr(training._loop, "_steps", interrupt)
    run = small(steps=100, save=tmp_path / "run.npz")
    assert run.stopped.startswith("interrupted")
    pd.testing.assert_frame_equal(nqm.Run.load(tmp_path / "run.npz").frame, run.frame)


def test_a_full_disk_does_not_lose_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.np, "savez_compressed", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("full")))
    with pytest.warns(UserWarning, match="the run was not saved: full"):
        assert len(small(save=tmp_path / "run.npz").losses) == 4


CHANGES = {
    "fewer losses": lambda header, arrays: arrays.update(losses=arrays["losses"][:-1]),
    "no losses": lambda header, arrays: arrays.update(losses=arrays["losses"][:0]),
    "a table of losses": lambda header, arrays: arrays.update(losses=arrays["losses"][None]),
    "other losses": lambda header, arrays: arrays.update(losses=arrays["losses"] + 1),
    "a shorter column": lambda header, arrays: arrays.update({"record/distance": arrays["record/distance"][1:]}),
    "a column of text": lambda header, arrays: arrays.update({"record/distance": np.array(["a"] * 4)}),
    "steps in disorder": lambda header, arrays: arrays.update({"record/step": arrays["record/step"][::-1]}),
    "no steps": lambda header, arrays: arrays.pop("record/step"),
    "no seed": lambda header, arrays: header["settings"].pop("seed"),
    "a seed in words": lambda header, arrays: header["settings"].update(seed="one"),
    "too few steps": lambda header, arrays: header["settings"].update(steps=2),
    "settings that are none": lambda header, arrays: header.update(settings=[]),
    "a rate in words": lambda header, arrays: header.update(learning_rate="fast"),
    "parameters that are not there": lambda header, arrays: arrays.pop("leaf/1"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_whose_parts_do_not_belong_together_is_refused(tmp_path, change):
    path = small(save=tmp_path / "run.npz") and tmp_path / "run.npz"
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(str(arrays.pop("header")))
    change(header, arrays)
    np.savez(path, header=json.dumps(header), **arrays)
    with pytest.raises(ValueError, match=r"run\.npz is no run that nqm_tools saved, or it is damaged"):
        nqm.Run.load(path)
