"""Linear models in function space, against the linear model in its parameters, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools import closed_forms, networks
from nqm_tools.closed_forms import function_space
from nqm_tools.training import GradientDescent


def bind(model, x, params):
    return closed_forms.bind(model, x, params, GradientDescent())


def problem(outputs=1):
    net = networks.two_layer_fc(30, activation="tanh", outputs=outputs)
    keys = jax.random.split(jax.random.key(0), 3)
    x, x_test = jax.random.normal(keys[0], (6, 4)), jax.random.normal(keys[1], (5, 4))
    y, y_test = jnp.ones((6, outputs)).at[::2].set(-1), jnp.ones((5, outputs))
    return net, net.init(keys[2], x.shape), nqm.Data("own", x, y, x_test, y_test)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("method", [{}, {"momentum": 0.5}, {"batch_size": 4}], ids=["gd", "momentum", "sgd"])
def test_a_run_that_starts_elsewhere_is_the_run_in_the_parameters(x64, monkeypatch, method, outputs):
    net, params0, data = problem(outputs)
    lin = nqm.linearize(net, params0)
    start = jax.tree.map(lambda w: w + 0.3, params0)
    arguments = {"learning_rate": 0.05, "steps": 40, "params": start, "record": ("test_loss", "distance")} | method
    fast = nqm.train(lin, data, **arguments)
    monkeypatch.setattr(closed_forms, "FORMS", [])
    plain = nqm.train(lin, data, **arguments)
    for column in ("train_loss", "test_loss", "distance"):
        np.testing.assert_allclose(fast.frame[column], plain.frame[column], rtol=1e-10, atol=1e-10)
    for a, b in zip(jax.tree.leaves(fast.params), jax.tree.leaves(plain.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_a_function_that_couples_its_examples_stays_in_its_parameters(x64):
    def coupled(w, x):
        h = x @ w
        return h - h.mean(axis=0)

    x, w = jax.random.normal(jax.random.key(0), (6, 4)), jnp.ones((4, 1))
    lin = nqm.linearize(coupled, w)
    assert bind(lin, x, w) is lin
    alone = nqm.linearize(lambda w, x: x @ w, w)
    assert isinstance(bind(alone, x, w), function_space.FunctionSpaceModel)


def test_it_is_left_where_the_kernel_would_be_larger_than_what_it_replaces(monkeypatch):
    net, params, data = problem()
    lin, x = nqm.linearize(net, params), jnp.asarray(data.x_train)
    own = nqm.linearize(net.apply_fn, params)
    monkeypatch.setattr(function_space, "MOST_JACOBIAN", 6 * 150 - 1)  # one less than 6 examples times 150 weights
    assert bind(own, x, params) is own
    assert bind(lin, x, params) is not lin
    monkeypatch.setattr(function_space, "MOST_JACOBIAN", 6 * 150)
    assert bind(own, x, params) is not own
    monkeypatch.setattr(function_space, "MOST_ROWS", 5)
    assert not isinstance(bind(lin, x, params), function_space.FunctionSpaceModel)


def test_kernel_rows_come_in_blocks(x64, monkeypatch):
    net, params, data = problem(outputs=2)
    lin, x = nqm.linearize(net, params), jnp.asarray(data.x_train)
    whole = bind(lin, x, params).featurize(jnp.asarray(data.x_test))
    monkeypatch.setattr(function_space, "BLOCK", 2)
    blocks = bind(lin, x, params).featurize(jnp.asarray(data.x_test))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), blocks, whole)


def test_tokens_have_a_linear_model_too(x64):
    def embed(w, x):
        return jnp.tanh(w[x]).sum(axis=1)

    data = nqm.Data("own", np.array([[0, 1], [2, 3], [1, 1]]), np.array([1.0, -1.0, 1.0]))
    lin = nqm.linearize(embed, jnp.full(4, 0.2))
    run = nqm.train(lin, data, learning_rate=0.1, steps=500)
    assert run.losses[-1] < 1e-6
    residual = lin(run.params, data.x_train) - data.y_train
    assert float(jnp.sum(residual**2) / 3) == pytest.approx(run.losses[-1], rel=1e-9)
