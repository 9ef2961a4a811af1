"""Closed forms of two-layer networks against neural-tangents' expansions, at random parameters, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covering import triples

import nqm_tools as nqm
from nqm_tools import closed_forms
from nqm_tools.closed_forms import two_layer
from nqm_tools.expansions import FunctionModel
from nqm_tools.training import GradientDescent


@pytest.mark.parametrize(
    ("name", "activation", "outputs", "n"),
    # Four examples span less than all coordinates, nine do not.
    triples(("f", "f_quad"), ("relu", "tanh", "swish", "linear", "leaky_relu"), (1, 3), (4, 9)),
)
def test_values_pullbacks_and_kernels_are_those_of_the_expansion(x64, name, activation, outputs, n):
    slope = 0.5 if activation == "leaky_relu" else None
    net = nqm.networks.deep_fc(30, depth=2, activation=activation, slope=slope, outputs=outputs)
    keys = jax.random.split(jax.random.key(0), 5)
    x, x_test = jax.random.normal(keys[0], (n, 6)), jax.random.normal(keys[1], (5, 6))
    params0 = net.init(keys[2], x.shape)
    model = FunctionModel(net) if name == "f" else nqm.quadraticize(net, params0)
    bound = closed_forms.bind(model, x, params0, GradientDescent())
    assert isinstance(getattr(bound, "inner", bound), two_layer.TwoLayerNetwork | two_layer.TwoLayerQuadratic)
    # Anywhere that gradient descent can go: first weights move in the span of x only.
    change = x.T @ jax.random.normal(keys[3], (n, 30)) / 3
    state = jax.tree.map(lambda w: w + jax.random.normal(keys[4], w.shape), bound.encode(params0))
    first = jax.tree.leaves(bound.encode(jax.tree.map(lambda w: w + change if w.shape == (6, 30) else w, params0)))[0]
    state = jax.tree.unflatten(jax.tree.structure(state), [first, jax.tree.leaves(state)[1]])
    params = bound.decode(state)
    features = bound.featurize(x)
    r = jax.random.normal(keys[4], (n, outputs))
    tolerance = {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(bound.predict(state, features), model(params, x), **tolerance)
    np.testing.assert_allclose(bound.predict(state, bound.featurize(x_test)), model(params, x_test), **tolerance)
    expected = model.pullback(params, x, r)
    found = bound.pullback(state, features, r)
    moved = jax.tree.map(jnp.subtract, bound.decode(jax.tree.map(jnp.add, state, found)), params)
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)
    kernel = nqm.empirical_ntk(model, params, x)
    np.testing.assert_allclose(np.squeeze(bound.kernel(state, features)), np.squeeze(kernel), **tolerance)


def test_the_quadratic_model_keeps_nothing_of_a_second_derivative_that_is_zero():
    x = jnp.ones((2, 5))
    for activation, kept in (("relu", False), ("linear", False), ("tanh", True)):
        net = nqm.networks.two_layer_fc(4, activation=activation)
        params = net.init(jax.random.key(0), x.shape)
        features = closed_forms.bind(nqm.quadraticize(net, params), x, params, GradientDescent()).featurize(x)
        assert (features[3] is not None) == kept
