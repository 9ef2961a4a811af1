"""A group of runs, from plain settings to rows for the store: what a worker does."""

import functools
import json
import time
import traceback

import jax

from nqm_tools import _files
from nqm_tools._random import random_key
from nqm_tools._validation import check_choice
from nqm_tools.datasets import Data
from nqm_tools.expansions import MODELS
from nqm_tools.features import catapults
from nqm_tools.sweeps._references import checksums, make_importable
from nqm_tools.sweeps._settings import load_data, make_method, make_network
from nqm_tools.training import Method, critical_rate, environment, initial_sharpness, prepare, train_rates, whole


def compute(group):
    """The rows of a group's runs, and their provenance. A fault is in the rows, as their reason."""
    began = time.perf_counter()
    provenance = {"settings": group.settings, "environment": environment()}
    machine = {name: provenance["environment"][name] for name in ("device", "cores")}
    try:
        make_importable(group.folder)
        setting, runs = _runs(group)
    except Exception as error:  # whatever it is, the sweep goes on, and the row says it
        rows = failed_rows(group, error)
        provenance["traceback"] = traceback.format_exc()
    else:
        provenance["data"] = runs[0].settings["data"]
        provenance["form"] = runs[0].settings["form"]
        rows = [
            _row(group.settings, key, setting, rate, run) | machine
            for key, rate, run in zip(group.keys, group.rates, runs, strict=True)
        ]
    return rows, provenance | {"seconds": round(time.perf_counter() - began, 3)}


# The column that has a run's rate as its sweep gives it.
RATE_COLUMN = {"critical": "learning_rate_ratio", "absolute": "learning_rate", "sharpness": "sharpness_ratio"}


def failed_rows(group, error):
    """Rows that give the reason why there are no results."""
    row = _columns(group.settings) | {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    column = RATE_COLUMN[group.settings["unit"]]
    return [row | {"key": key, column: rate} for rate, key in zip(group.rates, group.keys, strict=True)]


class _Setting:
    """Data, network, start and what rates are measured in: the same for the three models."""

    def __init__(self, data, network, seed, loss, unit):
        self.data = load_data(data, seed)
        self.network = make_network(network)
        self.params = self.network.init(random_key(seed), self.data.x_train.shape)
        training_set = Data(self.data.name, self.data.x_train, self.data.y_train)
        method = Method(steps=1, loss=loss, record=())
        problem = prepare(self.network, training_set, method, params=self.params)
        if unit == "sharpness":  # without the kernel, which is far larger than a gradient
            self.sharpness, self.error = initial_sharpness(problem)
            self.unit = 1 / self.sharpness
        else:
            self.critical = critical_rate(problem)
            self.unit = self.critical if unit == "critical" else 1.0


@functools.lru_cache(maxsize=1)
def _setting(text):
    data, files, network, seed, unit, loss, _, _ = json.loads(text)
    setting = _Setting(data, network, seed, make_method({"steps": 1, "loss": loss, "record": []}).loss, unit)
    found = dict(_files.counted_as(file["file"], file["md5"]) for file in setting.data.provenance.get("files", ()))
    # Which files a data function of the user's reads is not known before it has.
    if data["name"] in _files.SOURCES and found != files:
        raise ValueError(f"the data files here are {found}, where the sweep was started {files}")
    return setting


def _runs(group):
    settings = group.settings
    plain = {name: value for name, value in settings.items() if name != "modules"}
    if (found := checksums(plain)) != settings.get("modules", {}):
        raise ValueError(f"the modules here are {found}, where the sweep was started {settings.get('modules')}")
    method = make_method(settings["training"])
    check_choice("the precision in force", str(jax.numpy.zeros(0).dtype), (settings["precision"],))
    # Precision, files and modules too: what was made with others must not be found again.
    made_of = [settings[name] for name in ("data", "files", "network", "seed", "unit")]
    made_of += [settings["training"]["loss"], settings["precision"], settings.get("modules", {})]
    setting = _setting(json.dumps(made_of))
    model = MODELS[settings["model"]](setting.network, setting.params)
    problem = prepare(model, setting.data, method, params=setting.params, seed=settings["seed"])
    rates = [float(setting.unit * rate) for rate in group.rates]
    options = {"seed": settings["seed"], "provenance": setting.data.provenance}
    return setting, whole(train_rates(problem, rates, method, progress=False, keep_params=False, **options))


def _row(settings, key, setting, rate, run):
    # As it was given, to the bit, so that the runs of several seeds can be grouped by it.
    if settings["unit"] == "sharpness":
        measured = {"sharpness_ratio": rate}
        measured |= {"initial_sharpness": setting.sharpness, "initial_sharpness_error": setting.error}
    else:
        ratio = rate if settings["unit"] == "critical" else run.learning_rate / setting.critical
        measured = {"learning_rate_ratio": ratio, "critical_learning_rate": setting.critical}
    diverged = run.stopped.startswith("diverged")
    return (
        _columns(settings)
        | {
            "learning_rate": run.learning_rate,
            **measured,
            **{
                name: run.summary[name] for name in ("regime", "peak_loss", "final_loss", "best_test_loss", "best_step")
            },
            "best_test_accuracy": run.best_test_accuracy,
            "catapults": catapults(run.losses).count,
            "seconds": run.settings["seconds"],
            "key": key,
            "status": "diverged" if diverged else "finished",
            "reason": run.stopped,
        }
        | {name: values for name, values in run.records.items()}
    )


def _columns(settings):
    """A row's settings as scalars; ``name`` becomes ``data`` or ``network``."""
    data, network = dict(settings["data"]), dict(settings["network"])
    columns = {"data": data.pop("name")}
    columns |= {f"data_{name}" if name == "seed" else name: _scalar(value) for name, value in data.items()}
    columns |= {"network": network.pop("name")} | {name: _scalar(value) for name, value in network.items()}
    columns |= {"model": settings["model"], "seed": settings["seed"]}
    training = {name: value for name, value in settings["training"].items() if name != "record"}
    return columns | training


def _scalar(value):
    return ",".join(map(str, value)) if isinstance(value, list) else value
