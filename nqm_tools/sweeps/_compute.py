"""A group of runs, from plain settings to rows for the store: what a worker does."""

import functools
import json
import time
import traceback

import jax

from nqm_tools import _files
from nqm_tools._loop import run_batch
from nqm_tools._validation import check_choice
from nqm_tools.datasets import Data
from nqm_tools.expansions import linearize, quadraticize
from nqm_tools.kernels import critical_learning_rate
from nqm_tools.runs import Run, environment
from nqm_tools.sweeps._settings import load_data, make_network
from nqm_tools.training import Method, check_method, initial_kernel, prepare

# On a CPU, states of up to this many numbers are faster side by side; beyond, matrix products fill it by themselves.
# `make bench` writes the measurement.
SMALL_STATE = 2048
# An accelerator's memory is shared with the products of a step, each a few times the size of the state.
STATES_A_RUN = 8


def compute(group):
    """The rows of a group's runs, and their provenance. A fault is in the rows, as their reason."""
    began = time.perf_counter()
    provenance = {"settings": group.settings, "environment": environment()}
    machine = {name: provenance["environment"][name] for name in ("device", "cores")}
    try:
        setting, runs = _runs(group)
    except Exception as error:  # whatever it is, the sweep goes on, and the row says it
        rows = failed_rows(group, error)
        provenance["traceback"] = traceback.format_exc()
    else:
        provenance["data"] = setting.data.provenance
        rows = [
            _row(group.settings, key, setting.critical, rate, run) | machine
            for key, rate, run in zip(group.keys, group.rates, runs, strict=True)
        ]
    return rows, provenance | {"seconds": round(time.perf_counter() - began, 3)}


def failed_rows(group, error):
    """Rows that give the reason why there are no results."""
    row = _columns(group.settings) | {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    rate_column = "learning_rate" if group.settings["unit"] == "absolute" else "learning_rate_ratio"
    return [row | {"key": key, rate_column: rate} for rate, key in zip(group.rates, group.keys, strict=True)]


class _Setting:
    """Data, network, start and critical rate: the same for the three models."""

    def __init__(self, data, network, seed, loss):
        self.data = load_data(data, seed)
        self.network = make_network(network)
        self.params = self.network.init(jax.random.key(seed), self.data.x_train.shape)
        training_set = Data(self.data.name, self.data.x_train, self.data.y_train)
        problem = prepare(self.network, training_set, check_method(steps=1, record=()), params=self.params)
        self.critical = critical_learning_rate(initial_kernel(problem), loss=loss)


@functools.lru_cache(maxsize=1)
def _setting(text):
    data, files, network, seed, loss, _ = json.loads(text)
    setting = _Setting(data, network, seed, loss)
    found = dict(_files.counted_as(file["file"], file["md5"]) for file in setting.data.provenance.get("files", ()))
    if found != files:
        raise ValueError(f"the data files here are {found}, where the sweep was started {files}")
    return setting


def _runs(group):
    settings = group.settings
    training = dict(settings["training"])
    method = Method(**training | {"record": tuple(training["record"])})
    check_choice("the precision in force", str(jax.numpy.zeros(0).dtype), (settings["precision"],))
    # Precision and files too: what was made with others must not be found again.
    made_of = [settings[name] for name in ("data", "files", "network", "seed")]
    setting = _setting(json.dumps([*made_of, method.loss, settings["precision"]]))
    make = {"f": lambda network, params: network, "f_lin": linearize, "f_quad": quadraticize}[settings["model"]]
    model = make(setting.network, setting.params)
    problem = prepare(model, setting.data, method, params=setting.params, seed=settings["seed"])
    unit = setting.critical if settings["unit"] == "critical" else 1.0
    rates = [float(unit * rate) for rate in group.rates]
    key = jax.random.key(settings["seed"])
    outcomes, seconds = [], []
    for chosen in _batches(rates, _runs_at_once(problem.arrays, len(rates))):
        began = time.perf_counter()
        keys = jax.numpy.stack([key] * len(chosen))
        outcomes += whole(run_batch(problem.arrays, chosen, keys, method.scalars, method.settings, progress=False))
        seconds += [(time.perf_counter() - began) / len(chosen)] * len(chosen)
    return setting, [
        Run(
            model=settings["model"],
            learning_rate=rate,
            losses=outcome.losses,
            records=outcome.rows,
            params=None,
            stopped=outcome.stopped,
            settings=training | {"seed": settings["seed"], "seconds": round(spent, 4)},
        )
        for rate, outcome, spent in zip(rates, outcomes, seconds, strict=True)
    ]


def whole(outcomes):
    """The outcomes of a batch; KeyboardInterrupt if that is why they ended early, since a part of a run is none."""
    if any(outcome.stopped.startswith("interrupted") for outcome in outcomes):
        raise KeyboardInterrupt
    return outcomes


def _batches(values, size):
    return [values[i : i + size] for i in range(0, len(values), size)]


def _runs_at_once(arrays, runs):
    """How many runs go side by side: as many as are faster so, and as fit."""
    state = sum(leaf.size for leaf in jax.tree.leaves(arrays["state0"]))
    devices = jax.local_devices()
    if devices[0].platform == "cpu" and len(devices) == 1:
        return runs if state <= SMALL_STATE else 1
    memory = (devices[0].memory_stats() or {}).get("bytes_limit")
    if memory is None:
        return runs
    itemsize = arrays["y"].dtype.itemsize
    hidden = sum(leaf.size for leaf in jax.tree.leaves(arrays["features"]))
    one = itemsize * STATES_A_RUN * (state + hidden)
    return max(1, min(runs, len(devices) * int(memory / 2 / one)))


def _row(settings, key, critical, rate, run):
    diverged = run.stopped.startswith("diverged")
    return (
        _columns(settings)
        | {
            "learning_rate": run.learning_rate,
            # As it was given, to the bit, so that the runs of several seeds can be grouped by it.
            "learning_rate_ratio": rate if settings["unit"] == "critical" else run.learning_rate / critical,
            "critical_learning_rate": critical,
            **{
                name: run.summary[name] for name in ("regime", "peak_loss", "final_loss", "best_test_loss", "best_step")
            },
            "best_test_accuracy": run.best_test_accuracy,
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
