"""The largest stable learning rate found by bisection, against theory where that is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools import networks


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
def test_elsewhere_theory_is_four_over_lambda_and_the_bracket_is_measured(options):
    net, params, data = several(**options)
    quad = nqm.quadraticize(net, params)
    found = nqm.max_stable_learning_rate(quad, data, steps=300, tolerance=0.05)
    assert found.theory == 2 * found.critical
    assert found.critical < found.stable < found.unstable <= found.stable / 0.95
    regimes = [
        nqm.train(quad, data, learning_rate=rate, steps=300, record=()).regime
        for rate in (found.stable, found.unstable)
    ]
    assert regimes[0] != "divergent"
    assert regimes[1] == "divergent"


def test_a_model_that_never_diverges_has_no_unstable_rate():
    data = nqm.Data("own", np.ones((1, 1)), np.ones(1))
    # Its kernel is w^2 / (1 + w^2)^3: no step leads further than the bounded output.
    found = nqm.max_stable_learning_rate(lambda w, x: x * jnp.sin(w), data, steps=20, params=jnp.full(1, 1.2))
    assert found.stable > 0


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
