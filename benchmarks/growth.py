"""How a step grows with examples and width, its share of the machine's rate, what running side by side gains; and how
a sweep grows with its groups and seeds."""

import functools
import pathlib
import statistics
import tempfile

import jax
import jax.numpy as jnp

from benchmarks.measure import fair_rate, follow, repeated, timed
from benchmarks.problems import make_data, make_model, make_network, make_params
from benchmarks.steps import package_step
from benchmarks.training import run_side_by_side
from nqm_tools import _store_file, sweeps
from nqm_tools.training import Method, prepare

TOGETHER = "Per run and step, side by side and one by one"


def measure_growth(case):
    if "grid" in case:
        for problem in case["grid"]:
            seconds, _ = _step(problem, "f_quad")
            yield "A step by n and m", {"n": problem["n"], "m": problem["width"], "step": seconds}
    else:
        yield from _rates_side_by_side(case)


def _step(problem, name):
    """Seconds of a step of a model, and the numbers in its state."""
    data, network, params = make_data(problem), make_network(problem), make_params(problem)
    rate = fair_rate(network, params, jnp.asarray(data.x_train), jnp.asarray(data.y_train))
    state, step = package_step(make_model(name, network, params), data, params, rate)
    return follow(step, state)[1], _size(state)


def _size(state):
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def _prepared(case, seed=0):
    problem = case["problem"]
    method = Method(case["steps"], record=())
    data, params = make_data(problem, seed=seed), make_params(problem, seed)
    quad = make_model("f_quad", make_network(problem), params)
    ready = prepare(quad, data, method, params=params)
    rate = fair_rate(make_network(problem), params, ready.x, ready.y) * problem["n"] / 20  # mse, and small
    return method, ready, rate


def _rates_side_by_side(case):
    method, ready, rate = _prepared(case)
    for runs in case["runs"]:
        rates = [rate * (1 + run / runs) for run in range(runs)]
        together = functools.partial(run_side_by_side, ready, rates, method)
        apart = [functools.partial(run_side_by_side, ready, [each], method) for each in rates]
        yield TOGETHER, _row(case, _size(ready.state0), method, together, apart)


def _row(case, state, method, together, apart):
    def one_by_one():
        return [run() for run in apart]

    outcomes, _ = timed(together)
    timed(one_by_one)
    if not all(outcome.stopped == "finished" for outcome in outcomes):
        raise RuntimeError("a run diverged, so that its steps cannot be counted")
    runs = len(apart)

    def each(function):
        return {"seconds": [seconds / runs / (method.steps + 1) for seconds in repeated(function)["seconds"]]}

    together, apart = each(together), each(one_by_one)
    gain = statistics.median(apart["seconds"]) / statistics.median(together["seconds"])
    row = {"size": case["problem"]["name"], "state": state, "rates": runs}
    return row | {"side by side": together, "one by one": apart, "gain": gain}


def measure_groups(case):
    """Sweeps of ever more groups over stores that hold all of their runs, or of ever more seeds."""
    for count in case.get("groups", ()):
        sweep = _sweep(count, case["rates"])
        made, seconds = timed(sweep.groups)
        with tempfile.TemporaryDirectory() as store:
            _fill(pathlib.Path(store), made)
            frame, found = timed(functools.partial(sweeps.run, sweep, store, say=lambda line: None))
        if len(frame) != len(sweep) or len(made) != count:
            raise RuntimeError(f"{len(frame)} of {len(sweep)} runs are there")
        row = {"groups": count, "runs": len(sweep), "groups made": {"seconds": [seconds]}}
        yield "A sweep whose runs are all there", row | {"all there": {"seconds": [found]}}
    for count in case.get("seeds", ()):
        _, seconds = timed(_sweep, count, 1)
        yield "A sweep of many seeds", {"seeds": count, "sweep made": {"seconds": [seconds]}}


def _sweep(seeds, rates):
    return sweeps.Sweep(
        data={"name": "single_example", "dimension": 3},
        network={"name": "two_layer_fc", "width": 4},
        models=["f"],
        learning_rates=[0.1 * (1 + i) for i in range(rates)],
        seeds=range(seeds),
        steps=10,
    )


def _fill(folder, groups):
    """A store's files as it would write them, but not each brought to the disk, which would take minutes."""
    curve = [float(step) for step in range(11)]
    for i, group in enumerate(groups):
        settings = {"data": "single_example", "network": "two_layer_fc", "width": 4, "model": "f"}
        rows = [
            settings
            | {"key": key, "status": "finished", "reason": "finished", "seed": group.settings["seed"]}
            | {"learning_rate_ratio": rate, "step": list(range(11)), "train_loss": curve}
            for key, rate in zip(group.keys, group.rates, strict=True)
        ]
        content = _store_file.encode(_store_file.check_rows(rows), {"settings": group.settings})
        (folder / f"{i:016x}.parquet").write_bytes(content)


def measure_share(case):
    """Products of the step's own shapes, a large square one, then steps."""
    problem, square = case["problem"], case["square"]
    n, m = problem["n"], problem["width"]
    best = 0.0
    for a, b, c in ((n, n, m), (square, square, square)):
        left, right = jax.random.normal(jax.random.key(0), (a, b)), jax.random.normal(jax.random.key(1), (b, c))
        timed(_product, left, right)
        row = _rate(f"product of {a} x {b} and {b} x {c}", 2 * a * b * c, repeated(_product, left, right))
        best = max(best, row["GFLOP/s, fastest"])
        yield "Rates", row
    for name in ("f", "f_quad"):
        row = _rate(f"a step of {name}", 4 * n * n * m + 6 * n * m, _step(problem, name)[0])
        yield "Rates", row | {"share of the best product": row["GFLOP/s, median"] / best}


def _rate(title, operations, time):
    rates = [operations / seconds / 1e9 for seconds in time["seconds"]]
    rates = {"GFLOP/s, median": statistics.median(rates), "GFLOP/s, fastest": max(rates)}
    return {"what": title, "GFLOP": operations / 1e9, "time": time} | rates


@jax.jit
def _product(left, right):
    return left @ right
