"""A batch of runs is the same runs one by one, on one device and on several."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools import networks, training
from nqm_tools.training import _loop

RATIOS = (0.3, 0.9, 1.2, 1.5, 3.0, 5.0)
STEPS = 400  # a linear model at 5 times its critical rate overflows by then


def problem(seed=0, batch_size=None, momentum=0.0, record=("test_loss", "lambda_1"), steps=60):
    data = nqm.datasets.load("digits", n_train=12, n_test=9, seed=seed)
    net = networks.two_layer_fc(40)
    params = net.init(jax.random.key(seed), data.x_train.shape)
    eta = nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train))
    method = training.Method(steps, batch_size, momentum, record=record, record_every=7)
    return net, params, data, eta, method


def batch(prepared, rates, keys, method):
    return _loop.run_batch(prepared, rates, keys, method)


def assert_same(outcome, run, rtol=1e-9):
    assert outcome.stopped == run.stopped
    assert outcome.rows["step"].tolist() == run.records["step"].tolist()
    np.testing.assert_allclose(outcome.losses, run.losses, rtol=rtol)
    for name in outcome.rows:
        np.testing.assert_allclose(outcome.rows[name], run.records[name], rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("method", [{}, {"momentum": 0.3}, {"batch_size": 5}], ids=["gd", "momentum", "sgd"])
@pytest.mark.parametrize("name", ["f", "f_lin", "f_quad"])
def test_rates_side_by_side_are_the_runs_one_by_one(x64, monkeypatch, name, method):
    # A ReLU network comes back from any rate, its gates shut, so it needs no time to overflow.
    steps = 60 if name == "f" else STEPS
    net, params, data, eta, settings = problem(**method, steps=steps)
    model = {"f": net, "f_lin": nqm.linearize(net, params), "f_quad": nqm.quadraticize(net, params)}[name]
    prepared = training.prepare(model, data, settings, params=params)
    monkeypatch.setattr(_loop, "LARGE_STATE", 0)
    rates = [ratio * eta for ratio in RATIOS]
    keys = jnp.stack([jax.random.key(7)] * len(rates))
    outcomes = batch(prepared, rates, keys, settings)
    # Runs of both kinds, so that rows are dropped on the way.
    assert {outcome.stopped.split()[0] for outcome in outcomes} == {"finished", "diverged"} or name == "f"
    for rate, outcome in zip(rates, outcomes, strict=True):
        run = nqm.train(
            model,
            data,
            learning_rate=rate,
            steps=steps,
            params=params,
            seed=7,
            record=settings.recording.names,
            record_every=7,
            **method,
        )
        assert_same(outcome, run, 1e-7)
        decoded = prepared.bound.decode(outcome.state)
        # Beyond, weights that have been huge on the way keep the rounding errors of that size.
        if rate <= 1.5 * eta and outcome.stopped == "finished":
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), decoded, run.params)


def test_a_run_that_is_over_stays_where_it_was(x64):
    net, params, data, eta, settings = problem(steps=400)
    quad = nqm.quadraticize(net, params)
    prepared = training.prepare(quad, data, settings, params=params)
    fine, lost = batch(prepared, [0.5 * eta, 5 * eta], jax.random.split(jax.random.key(0), 2), settings)
    assert fine.stopped == "finished"
    assert lost.stopped.startswith("diverged at step")
    assert not np.isfinite(lost.losses[-1])
    assert np.isfinite(lost.losses[:-1]).all()


def test_idle_rows_of_small_states_stay(x64, monkeypatch):
    assert drop_rows(monkeypatch)[-1] == 5


def test_rows_are_dropped_once_half_of_them_are_idle(x64, monkeypatch):
    monkeypatch.setattr(_loop, "LARGE_STATE", 0)
    assert drop_rows(monkeypatch)[-1] == 1


def drop_rows(monkeypatch):
    """The sizes of the batch along five runs of which four diverge; the same results in any case."""
    net, params, data, eta, settings = problem(steps=400)
    quad = nqm.quadraticize(net, params)
    prepared = training.prepare(quad, data, settings, params=params)
    sizes = []
    steps = _loop._steps
    monkeypatch.setattr(_loop, "_steps", lambda *args: sizes.append(len(args[3].rates)) or steps(*args))
    rates = [ratio * eta for ratio in (0.5, 4.0, 5.0, 6.0, 7.0)]
    outcomes = batch(prepared, rates, jax.random.split(jax.random.key(0), 5), settings)
    assert [outcome.stopped == "finished" for outcome in outcomes] == [True, False, False, False, False]
    assert sizes[0] == 5
    found = list(sizes)
    alone = nqm.train(quad, data, learning_rate=0.5 * eta, steps=400, record=settings.recording.names, record_every=7)
    assert_same(outcomes[0], alone, 1e-9)
    return found


FOUR_DEVICES = """
import jax, numpy as np
import nqm_tools as nqm
from nqm_tools import training
from nqm_tools.training import _loop
jax.config.update("jax_enable_x64", True)
assert len(jax.devices()) == 4
data = nqm.datasets.load("digits", n_train=12, n_test=9, seed=0)
net = nqm.networks.two_layer_fc(40)
params = net.init(jax.random.key(0), data.x_train.shape)
eta = nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train))
method = training.Method(60, record=("test_loss",), record_every=7)
quad = nqm.quadraticize(net, params)
problem = training.prepare(quad, data, method, params=params)
spread = []
steps = _loop._steps
def watch(program, problem, rule, batch, *args):
    spread.append(len(batch.rates.sharding.device_set))
    return steps(program, problem, rule, batch, *args)
_loop._steps = watch
rates = [ratio * eta for ratio in (0.3, 0.9, 1.2, 1.5, 3.0, 5.0)]
outcomes = _loop.run_batch(problem, rates, jax.random.split(jax.random.key(0), 6), method)
assert max(spread) == 4, spread
for rate, outcome in zip(rates, outcomes):
    run = nqm.train(quad, data, learning_rate=rate, steps=60, record=("test_loss",), record_every=7)
    assert outcome.stopped == run.stopped
    np.testing.assert_allclose(outcome.losses, run.losses, rtol=1e-7)
print("same on", max(spread))
"""


def test_four_devices_share_a_batch():
    code = "import os; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=4'\n" + FOUR_DEVICES
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "same on 4\n"
