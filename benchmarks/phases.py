"""The phase diagram of early training: what it costs on digits, with how many products with the Hessian a record."""

import jax
import numpy as np

import nqm_tools as nqm
from benchmarks.measure import timed
from nqm_tools.training import Method, initial_sharpness, prepare, train_rates
from nqm_tools.training._sharpness import BLOCK, BLOCKS


def measure(case):
    """Every width, model and seed of a diagram at depth 2, compile included."""
    rates, total, runs = np.geomspace(*case["c"], case["rates"]), 0.0, 0
    for width in case["widths"]:
        for name in ("f", "f_quad"):
            found, seconds = timed(_column, case, width, name, rates)
            total, runs = total + seconds, runs + found
            row = {"width": width, "model": name, "seeds": case["seeds"], "rates": len(rates), "steps": case["steps"]}
            row |= {"time": {"seconds": [seconds]}, "a record": {"seconds": [seconds / found / (case["steps"] + 1)]}}
            yield "A phase diagram", row | {"products a record": BLOCK * BLOCKS}
    yield "A phase diagram", {"width": "all of these", "time": {"seconds": [total]}, "runs": runs}


def _column(case, width, name, rates):
    runs = 0
    for seed in range(case["seeds"]):
        data = nqm.datasets.load("digits", classes=range(10), n_train=case["n"], n_test=0, seed=seed)
        net = nqm.networks.two_layer_fc(width, outputs=10, readout_init="normal")
        params = net.init(jax.random.key(seed), data.x_train.shape)
        model = net if name == "f" else nqm.quadraticize(net, params)
        method = Method(case["steps"], record=("sharpness", "path_loss"))
        problem = prepare(model, data, method, params=params)
        sharpness, _ = initial_sharpness(problem)
        runs += len(train_rates(problem, rates / sharpness, method, progress=False))
    return runs
