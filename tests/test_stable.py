"""The largest stable learning rate found by bisection, against theory where that is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools import networks
from nqm_tools._program import compilations
from nqm_tools.training import _loop


def one_example(label, width=200):
    net = networks.two_layer_fc(width)
    data = nqm.datasets.single_example(6, label=label, seed=0)
    return net, net.init(jax.random.key(3), data.x_train.shape), data


def several(build=networks.two_layer_fc, **options):
    net = build(40, **options)
    x = jax.random.normal(jax.random.key(0), (5, 6))
    return net, net.init(jax.random.key(1), x.shape), nqm.Data("own", x, jnp.ones(5).at[::2].set(-1))


@pytest.mark.parametrize("loss", ["mse", "half_sum"])
def test_a_linear_model_is_stable_up_to_two_over_lambda(x64, loss):
    net, params, data = several()
    kernel = nqm.empirical_ntk(net, params, data.x_train)
    found = nqm.max_stable_learning_rate(nqm.linearize(net, params), data, steps=3000, loss=loss, tolerance=0.002)
    assert found.critical == pytest.approx(nqm.critical_learning_rate(kernel, loss=loss), rel=1e-12)
    assert found.theory == found.critical
    assert found.stable <= found.critical <= found.unstable
    assert found.unstable - found.stable <= 0.002 * found.unstable


@pytest.mark.parametrize("label", [1.0, -0.5])
@pytest.mark.parametrize("loss", ["mse", "half_sum"])
def test_the_quadratic_model_of_one_example_is_stable_up_to_the_certificate(x64, label, loss):
    net, params, data = one_example(label)
    quad = nqm.quadraticize(net, params)
    found = nqm.max_stable_learning_rate(quad, data, steps=4000, loss=loss, tolerance=0.001)
    x, y = data.x_train, label
    kernel = float(nqm.empirical_ntk(net, params, x)[0, 0])
    c = float(np.sum(x**2)) / (200 * 6)
    exact = nqm.dynamics.max_learning_rate(float(net(params, x)[0, 0]) - y, kernel, c, y)
    assert found.theory == pytest.approx(exact / (2 if loss == "mse" else 1), rel=1e-12)
    assert found.stable < found.theory < found.unstable


def test_without_a_target_the_quadratic_model_is_stable_up_to_four_over_lambda(x64):
    net, params, data = one_example(0.0)
    found = nqm.max_stable_learning_rate(nqm.quadraticize(net, params), data, steps=4000)
    assert found.theory == pytest.approx(2 * found.critical, rel=1e-12)
    # At exactly 4/lambda a run is bounded and never rests, so it may be either edge.
    assert found.stable <= found.theory * (1 + 1e-12)
    assert found.theory <= found.unstable


@pytest.mark.parametrize("options", [{"activation": "tanh"}, {"build": networks.deep_fc}], ids=["tanh", "deep"])
def test_elsewhere_there_is_no_theory_and_the_bracket_is_measured(options):
    net, params, data = several(**options)
    quad = nqm.quadraticize(net, params)
    found = nqm.max_stable_learning_rate(quad, data, steps=300, tolerance=0.05)
    assert np.isnan(found.theory)
    assert found.critical < found.stable < found.unstable <= found.stable / 0.95
    regimes = [
        nqm.train(quad, data, learning_rate=rate, steps=300, record=()).regime
        for rate in (found.stable, found.unstable)
    ]
    assert regimes[0] != "divergent"
    assert regimes[1] == "divergent"


def test_a_model_whose_loss_cannot_grow_has_no_unstable_rate():
    data = nqm.Data("own", np.ones((1, 1)), np.full(1, 2.0))
    # The output is at most 1, and 0.1 at the start: no step ends above the first loss of 1.9^2.
    start = jnp.full(1, np.arcsin(0.1))
    found = nqm.max_stable_learning_rate(lambda w, x: x * jnp.abs(jnp.sin(w)), data, steps=20, params=start)
    assert found.unstable == np.inf
    assert found.stable == 64 * found.critical
    assert np.isnan(found.theory)
    # A target that can be overshot, on the other hand: f = w^3 leaves for good.
    cubic = nqm.max_stable_learning_rate(lambda w, x: x * w**3, data, steps=200, params=jnp.full(1, 0.9))
    assert 0 < cubic.stable < cubic.unstable < np.inf


def test_a_network_that_comes_back_from_any_rate_has_no_unstable_one(x64):
    # A step that is too long shuts a ReLU network's gates, and at y = 0 that is right.
    net, params, data = one_example(0.0)
    found = nqm.max_stable_learning_rate(net, data, steps=300, params=params)
    assert found.unstable == np.inf
    assert found.stable == 64 * found.critical


def test_the_theory_is_that_of_where_the_run_starts(x64):
    net, params, data = one_example(1.0)
    quad, start = nqm.quadraticize(net, params), net.init(jax.random.key(7), data.x_train.shape)
    found = nqm.max_stable_learning_rate(quad, data, steps=2000, params=start, tolerance=0.001)
    assert found.stable < found.theory < found.unstable
    assert found.theory != pytest.approx(nqm.max_stable_learning_rate(quad, data, steps=9).theory, rel=0.01)


@pytest.mark.parametrize("tolerance", [0.9, 0.6, 0.3, 0.02])
def test_the_bracket_is_as_narrow_as_asked_for(tolerance):
    net, params, data = one_example(1.0)
    found = nqm.max_stable_learning_rate(nqm.linearize(net, params), data, steps=50, tolerance=tolerance)
    assert 0 < found.unstable - found.stable <= tolerance * found.stable


def test_all_runs_share_one_compilation():
    net, params, data = one_example(0.3, width=33)
    quad = nqm.quadraticize(net, params)
    nqm.train(quad, data, learning_rate=0.1, steps=9, record=())
    nqm.empirical_ntk(net, params, data.x_train)
    before = compilations()
    nqm.max_stable_learning_rate(quad, data, steps=100)
    assert compilations() <= before + 1  # the kernel at the start


def test_ctrl_c_ends_the_search(monkeypatch):
    net, params, data = one_example(1.0)
    calls, steps = [], _loop._steps

    def interrupt(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return steps(*args)

    monkeypatch.setattr(_loop, "_steps", interrupt)
    with pytest.raises(KeyboardInterrupt):
        nqm.max_stable_learning_rate(nqm.quadraticize(net, params), data, steps=100)
    assert len(calls) == 5  # one more, with which the loop ends its run


def test_a_loss_that_is_infinite_at_the_start_is_refused():
    net, params, data = one_example(1e30)
    with pytest.raises(ValueError, match="the loss at the start is inf, so that no learning rate is stable"):
        nqm.max_stable_learning_rate(nqm.linearize(net, params), data, steps=10)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be a whole number >= 1"),
        ({"tolerance": 0}, ValueError, "tolerance must be positive; got 0"),
        ({"tolerance": 1.0}, ValueError, r"tolerance must be a number in \[0, 1\)"),
        ({"loss": "hinge"}, ValueError, "loss must be one of"),
        ({"data": None}, TypeError, "data must be an nqm_tools.Data"),
        ({"model": lambda w, x: 0 * x @ w, "params": jnp.ones((6, 1))}, ValueError, "kernel at the start is zero"),
    ],
)
def test_bad_arguments_are_refused_at_the_door(change, error, message):
    net, params, data = several()
    arguments = {"model": net, "data": data, "steps": 5, "params": params} | change
    with pytest.raises(error, match=message):
        nqm.max_stable_learning_rate(arguments.pop("model"), arguments.pop("data"), **arguments)
