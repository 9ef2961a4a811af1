"""The keys of all recorded runs, recomputed from what their files say, without data."""

import pathlib

import pytest

from nqm_tools import sweeps
from nqm_tools.store import Store
from nqm_tools.sweeps._compute import RATE_COLUMN
from nqm_tools.sweeps._references import make_importable

STORES = sorted(path for path in (pathlib.Path(__file__).parents[1] / "data" / "results").iterdir() if path.is_dir())

# Modules that recorded sweeps name lie beside their files.
make_importable(str(pathlib.Path(__file__).parents[1] / "experiments"))


def group_of(settings, rates):
    """The group that today's code makes of the settings that a file has."""
    sweep = sweeps.Sweep(
        data=settings["data"],
        network=settings["network"],
        models=[settings["model"]],
        seeds=[settings["seed"]],
        unit=settings["unit"],
        learning_rates=rates,
        **settings["training"],
    )
    (training,) = sweep.training
    return sweep.group(
        sweep.data[0], settings["files"], sweep.network[0], training, settings["model"], settings["seed"]
    )


@pytest.mark.parametrize("folder", STORES, ids=lambda path: path.name)
def test_every_recorded_run_is_found_by_its_key(folder):
    checked = 0
    for file in Store(folder, create=False)._files(tables=True):
        settings = file.provenance["settings"]
        column = RATE_COLUMN[settings["unit"]]
        rows = file.table.select(["key", column]).to_pylist()
        group = group_of(settings, [row[column] for row in rows])
        assert group.settings == settings
        assert group.keys == tuple(row["key"] for row in rows)
        checked += len(rows)
    assert checked > 0


def test_all_of_them_are_checked():
    assert sum(len(sweeps.load(folder)) for folder in STORES) >= 3081


def test_a_new_setting_enters_a_key_only_where_it_is_not_the_default():
    plain = {"data": {"name": "single_example", "dimension": 3}, "network": {"name": "two_layer_fc", "width": 4}}
    plain |= {"learning_rates": [1.0], "steps": 5}
    (key,) = sweeps.Sweep(**plain, models=["f"]).groups()[0].keys
    default = {"nesterov": False, "batches": "epochs", "optimizer": None, "warmup": 0}
    assert sweeps.Sweep(**plain, **default, models=["f"]).groups()[0].keys == (key,)
    changes = ({"nesterov": True, "momentum": 0.5}, {"batches": "iid", "batch_size": 1}, {"record": ["trace"]})
    for change in (*changes, {"warmup": 3}):
        assert sweeps.Sweep(**plain, **change, models=["f"]).groups()[0].keys != (key,)


def test_of_several_ways_of_training_each_run_has_the_key_that_it_has_alone():
    plain = {"data": {"name": "single_example", "dimension": 3}, "network": {"name": "two_layer_fc", "width": 4}}
    plain |= {"learning_rates": [0.5, 1.0], "steps": 5, "models": ["f", "f_quad"], "seeds": 2}
    several = sweeps.Sweep(**plain, momentum=[0.0, 0.5], optimizer=[None])
    found = [key for group in several.groups() for key in group.keys]
    alone = [
        key
        for momentum in (0.0, 0.5)
        for group in sweeps.Sweep(**plain, momentum=momentum).groups()
        for key in group.keys
    ]
    assert len(several) == len(found) == 16
    assert sorted(found) == sorted(alone)
    seeds = [group.settings["seed"] for group in several.groups()]
    assert seeds == sorted(seeds), "what shares data and a start is next to each other"
    with pytest.raises(ValueError, match="momentum must not be empty"):
        sweeps.Sweep(**plain, momentum=[])
    with pytest.raises(ValueError, match="training must not hold anything twice"):
        sweeps.Sweep(**plain, momentum=[0, 0.0])
