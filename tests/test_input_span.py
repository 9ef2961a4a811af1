"""Training in the span of the inputs is the same run: against the trainer without it, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools import closed_forms, networks
from nqm_tools.closed_forms import input_span
from nqm_tools.training import GradientDescent


def problem(activation="relu", depth=2, outputs=1, n=5, shape=(4, 3, 1), width=200):
    net = networks.deep_fc(width, depth=depth, activation=activation, outputs=outputs)
    keys = jax.random.split(jax.random.key(0), 3)
    x, x_test = jax.random.normal(keys[0], (n, *shape)), jax.random.normal(keys[1], (6, *shape))
    y, y_test = jnp.ones((n, outputs)).at[::2].set(-1), jnp.ones((6, outputs))
    return net, net.init(keys[2], x.shape), nqm.Data("own", x, y, x_test, y_test)


def models(net, params):
    return {"f": net, "f_lin": nqm.linearize(net, params), "f_quad": nqm.quadraticize(net, params)}


CASES = {
    "relu": ({}, {}),
    "tanh_outputs": ({"activation": "tanh", "outputs": 3}, {}),
    "swish_deep": ({"activation": "swish", "depth": 3}, {}),
    "linear_deep": ({"activation": "linear", "depth": 4, "outputs": 2}, {}),
    "momentum": ({"activation": "tanh"}, {"momentum": 0.5}),
    "sgd": ({"outputs": 2}, {"batch_size": 2}),
    "swish_outputs": ({"activation": "swish", "outputs": 2}, {}),
    "more_examples_than_inputs": ({"activation": "tanh", "n": 15, "outputs": 2}, {}),
    "more_examples_sgd": ({"n": 15}, {"batch_size": 4}),
}


# Linear models are trained in function space here, whatever the network.
CHOICES = [(name, case) for case in CASES for name in ("f", "f_quad")]
CHOICES += [("f_lin", case) for case in ("relu", "swish_deep", "more_examples_sgd")]


@pytest.mark.parametrize(("name", "case"), CHOICES)
def test_a_run_in_the_span_is_the_run_in_all_coordinates(x64, monkeypatch, name, case):
    case, method = CASES[case]
    net, params, data = problem(**case)
    eta = nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train))
    # Above the critical rate; the linear model, momentum and small batches stand less.
    rate = eta * (1.2 if name != "f_lin" and not method else 0.4)
    arguments = {"learning_rate": rate, "steps": 50, "params": params, "record": ("test_loss", "distance", "lambda_1")}

    def run():
        return nqm.train(models(net, params)[name], data, **arguments, **method)

    fast = run()
    monkeypatch.setattr(closed_forms, "FORMS", [])
    plain = run()
    closed = ", two layers" if net.architecture.depth == 2 else ""
    span = f"input span{closed}" if len(data.x_train) < 12 else "two layers"
    assert fast.settings["form"] == ("function space" if name == "f_lin" else span)
    assert plain.settings["form"] == "parameters"
    assert np.isfinite(plain.losses).all()
    for column in ("train_loss", "test_loss", "distance", "lambda_1"):
        np.testing.assert_allclose(fast.frame[column], plain.frame[column], rtol=1e-10, atol=1e-10)
    for a, b in zip(jax.tree.leaves(fast.params), jax.tree.leaves(plain.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    assert jax.tree.structure(fast.params) == jax.tree.structure(params)


def test_float32_agrees_before_the_peak(monkeypatch):
    net, params, data = problem(n=10, shape=(12, 12, 1), width=400)
    eta = nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train))
    quad = nqm.quadraticize(net, params)
    fast = nqm.train(quad, data, learning_rate=1.3 * eta, steps=100)
    monkeypatch.setattr(closed_forms, "FORMS", [])
    plain = nqm.train(quad, data, learning_rate=1.3 * eta, steps=100)
    assert fast.regime == plain.regime == "catapult"
    peak = np.argmax(plain.losses)
    np.testing.assert_allclose(fast.losses[:peak], plain.losses[:peak], rtol=1e-4)


def test_repeated_inputs_have_a_span_too(x64):
    net, params, data = problem(n=4)
    x = np.concatenate([data.x_train, data.x_train[:2]])
    twice = nqm.Data("own", x, np.ones(6))
    fast = nqm.train(net, twice, learning_rate=0.1, steps=20, params=params)
    assert isinstance(
        closed_forms.bind(nqm.expansions.FunctionModel(net), jnp.asarray(x), params, GradientDescent()),
        input_span.SpanModel,
    )
    weights = np.array([2.0, 2, 1, 1]) / 6
    residuals = net(fast.params, data.x_train)[:, 0] - 1
    assert float(weights @ residuals**2) == pytest.approx(fast.losses[-1], rel=1e-9)


def test_where_it_would_not_be_exact_or_not_pay_the_model_stays_as_it_is():
    net, params, data = problem(depth=3)
    elsewhere = jax.tree.map(lambda w: w + 1.0, params)
    x = jnp.asarray(data.x_train)
    for model, inputs, start in (
        (nqm.quadraticize(net, params), x, elsewhere),
        (nqm.expansions.FunctionModel(net), jnp.ones((12, 4, 3, 1)), params),
        (nqm.expansions.FunctionModel(net.apply_fn), x, params),
    ):
        assert closed_forms.bind(model, inputs, start, GradientDescent()) is model


def test_a_taylor_model_started_elsewhere_still_trains_right(x64):
    net, params, data = problem()
    elsewhere = jax.tree.map(lambda w: w + 0.1, params)
    quad = nqm.quadraticize(net, params)
    run = nqm.train(quad, data, learning_rate=0.05, steps=3, params=elsewhere)
    residual = quad(elsewhere, data.x_train) - data.y_train
    assert run.losses[0] == pytest.approx(float(jnp.sum(residual**2) / len(residual)), rel=1e-12)
