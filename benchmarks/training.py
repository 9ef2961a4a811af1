"""Whole runs: what records cost, a curve of learning rates, and a sweep."""

import functools
import pathlib
import tempfile

import jax
import jax.numpy as jnp

import nqm_tools as nqm
from benchmarks.measure import repeated, timed
from benchmarks.problems import make_data, make_model, make_network, make_params
from nqm_tools import _files, sweeps
from nqm_tools.training import Method, critical_rate, prepare, train_rates
from nqm_tools.training._loop import run_batch

RECORD = ("lambda_1", "lambda_2", "projection_1", "R_f", "R_K")
FIGURE_2B = pathlib.Path(__file__).parents[1] / "experiments" / "figure_2b.toml"


def measure_recording(case):
    problem, steps = case["problem"], case["steps"]
    data, params = make_data(problem), make_params(problem)
    model = make_model(case["model"], make_network(problem), params)
    rate = _critical_rate(problem, params, data) / 2
    for title, record in (("nothing", ()), ("five columns", RECORD)):
        method = Method(steps, record=record, record_every=10)
        ready = prepare(model, data, method, params=params)
        run = functools.partial(run_side_by_side, ready, [rate], method)
        timed(run)
        row = {"problem": problem["name"], "model": case["model"], "steps": steps, "recorded": title}
        yield "A run", row | {"run": repeated(run)}


def _critical_rate(problem, params, data):
    return nqm.critical_learning_rate(nqm.empirical_ntk(make_network(problem), params, data.x_train))


def run_side_by_side(ready, rates, method):
    """Runs of ``run_batch`` with a key each."""
    keys = jnp.stack([jax.random.key(0)] * len(rates))
    return run_batch(ready, rates, keys, method, progress=False)


def measure_rates(case):
    """All learning rates of each model, from arrays to losses."""
    problem = case["problem"]
    row = {"problem": f"random data of the shape of {problem['name']}", "rates": len(case["rates"]), "seeds": 1}
    row |= {name: case[name] for name in ("steps", "n_test")}
    data, params = make_data(problem, case["n_test"]), make_params(problem)
    total = 0.0
    for name in case["models"]:
        jax.clear_caches()
        _, seconds = timed(_curve, case, name, data, params)
        total += seconds
        yield "Learning rates", row | {"model": name, "time": {"seconds": [seconds]}}
    yield "Learning rates", row | {"model": "all of these", "time": {"seconds": [total]}}


def _curve(case, name, data, params):
    """As a sweep's group does it; the critical rate is from the kernel that it has."""
    model = make_model(name, make_network(case["problem"]), params)
    method = Method(case["steps"], record=("test_loss", "test_accuracy"), record_every=case["record_every"])
    ready = prepare(model, data, method, params=params)
    critical = critical_rate(ready)
    rates = [critical * rate for rate in case["rates"]]
    return [run.losses for run in train_rates(ready, rates, method, progress=False)]


def measure_sweep(case):
    """The shipped sweep of figure 2b where its data are here, else one of its seeds on random data."""
    if not (case["real_data"] and _has_cifar()):
        yield from measure_rates(case)
        yield "note", "Without CIFAR-10 (`NQM_DATA_DIR`) this is a stand-in: one of the five seeds, on random data."
        return
    sweep = sweeps.Sweep.from_toml(FIGURE_2B)
    with tempfile.TemporaryDirectory() as store:
        frame, seconds = timed(lambda: sweeps.run(sweep, store, say=lambda line: None))
    if (frame["status"] == "failed").any():
        raise RuntimeError(f"runs failed: {frame.loc[frame['status'] == 'failed', 'reason'].iloc[0]}")
    row = {"problem": "experiments/figure_2b.toml, CIFAR-10", "rates": len(sweep.learning_rates)}
    row |= {"seeds": len(sweep.seeds), "steps": sweep.training[0]["steps"], "n_test": sweep.data[0]["n_test"]}
    for name, runs in frame.groupby("model"):
        yield "Learning rates", row | {"model": f"runs of {name}", "time": {"seconds": [float(runs["seconds"].sum())]}}
    yield "Learning rates", row | {"model": "all of it", "time": {"seconds": [seconds]}}


def _has_cifar():
    try:
        return bool(_files.locate("cifar2", download=False))
    except (FileNotFoundError, ModuleNotFoundError):
        return False
