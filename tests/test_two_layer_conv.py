"""Closed forms of two-layer CNNs against neural-tangents' expansions, away from the point of expansion, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covering import triples

import nqm_tools as nqm
from nqm_tools.closed_forms import two_layer_conv
from nqm_tools.expansions import FunctionModel
from nqm_tools.training import GradientDescent

TRAIN, TEST = slice(0, 7), slice(7, 11)

# Compiled functions that are run once on small arrays: compiling is most of their time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of two examples (one is left over of seven) or of five positions (of twenty)."""
    monkeypatch.setattr(two_layer_conv, "TILE", 2 * 5 * 4 * 6)
    monkeypatch.setattr(two_layer_conv, "KERNEL_TILE", 2 * 5 * 4 * 6)


def models(name, readout, activation, outputs=1, width=6):
    """The general model, its closed form, parameters away from those of the expansion, and inputs."""
    net = nqm.networks.two_layer_cnn(width, readout=readout, activation=activation, outputs=outputs)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (TEST.stop, 5, 4, 2))
    params0 = net.init(keys[1], x.shape)
    model = FunctionModel(net) if name == "f" else nqm.quadraticize(net, params0)
    params = jax.tree.map(lambda w: w + jax.random.normal(keys[2], w.shape), params0)
    return model, two_layer_conv.bind(model, x, params0, GradientDescent()), params, x


def assert_close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), found, expected)


def gradients(model, params, features, count, outputs):
    """The gradient of every output of every example: leaves (count, outputs, ...)."""
    unit = jnp.eye(count * outputs).reshape(count, outputs, count, outputs)
    return jax.vmap(jax.vmap(lambda r: model.pullback(params, features, r)))(unit)


@pytest.mark.parametrize(
    ("name", "readout", "activation", "outputs"),
    triples(("f", "f_quad"), ("average", "flatten"), ("relu", "tanh", "swish", "linear"), (1, 3)),
)
def test_values_pullbacks_and_kernels_are_those_of_the_expansion(x64, small_tiles, name, readout, activation, outputs):
    model, bound, params, x = models(name, readout, activation, outputs)
    r = jax.random.normal(jax.random.key(3), (TRAIN.stop, outputs))

    @jit
    def find(bound, params, x, r):
        train, test = bound.featurize(x[TRAIN]), bound.featurize(x[TEST])
        value, pullback = bound.value_and_pullback(params, train)
        values = value, bound.predict(params, train), bound.predict(params, test)
        pullbacks = pullback(r), bound.pullback(params, train, r)
        kernels = bound.kernel(params, train), bound.kernel(params, test, train)
        return values, pullbacks, kernels

    @jit
    def expect(model, params, x):
        return model.predict(params, x), gradients(model, params, x, TEST.stop, outputs)

    values, pullbacks, kernels = find(bound, params, x, r)
    value, gradient = expect(model, params, x)
    assert_close(values, (value[TRAIN], value[TRAIN], value[TEST]))
    expected = jax.tree.map(lambda g: jnp.einsum("nk,nk...->...", r, g[TRAIN]), gradient)
    assert_close(pullbacks, (expected, expected))
    flat = jnp.concatenate([g.reshape(TEST.stop, outputs, -1) for g in jax.tree.leaves(gradient)], axis=-1)
    kernel = jnp.einsum("iap,jbp->ijab", flat, flat)
    assert_close(kernels, (kernel[TRAIN, TRAIN], kernel[TEST, TRAIN]))


@pytest.mark.parametrize("readout", ["average", "flatten"])
@pytest.mark.parametrize("name", ["f", "f_quad"])
def test_the_size_of_the_tiles_changes_nothing(x64, monkeypatch, name, readout):
    _, bound, params, x = models(name, readout, "tanh")
    results = []
    for tile in (1, two_layer_conv.TILE):
        monkeypatch.setattr(two_layer_conv, "TILE", tile)
        monkeypatch.setattr(two_layer_conv, "KERNEL_TILE", tile)

        @jit
        def compute(bound, params, x):
            features = bound.featurize(x)
            r = bound.predict(params, features)
            few = jax.tree.map(lambda leaf: leaf[TEST], features)
            kernels = bound.kernel(params, features), bound.kernel(params, few, features)
            return r, bound.pullback(params, features, r), kernels

        results.append(compute(bound, params, x))
    assert_close(*results)
    whole, rows = results[0][2]
    assert_close(rows, whole[TEST])


@pytest.mark.parametrize("outputs", [1, 3])
def test_second_moments_of_the_patches_change_nothing(x64, monkeypatch, outputs):
    net = nqm.networks.two_layer_cnn(6, activation="swish", outputs=outputs)
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (5, 7, 7, 1))  # more positions than pairs of a patch's nine entries
    params0 = net.init(keys[1], x.shape)
    bound = two_layer_conv.bind(nqm.quadraticize(net, params0), x, params0, GradientDescent())
    params = jax.tree.map(lambda w: w + jax.random.normal(keys[2], w.shape), params0)
    r = jax.random.normal(keys[3], (len(x), outputs))

    def compute(most):
        monkeypatch.setattr(two_layer_conv, "MOST_MOMENTS", most)
        features = bound.featurize(x)
        value, pullback = bound.value_and_pullback(params, features)
        few = jax.tree.map(lambda leaf: leaf[:2], features)
        kernels = bound.kernel(params, features), bound.kernel(params, few, features)
        return features[-1], (value, pullback(r), bound.predict(params, features), kernels)

    moments, kept = compute(two_layer_conv.MOST_MOMENTS)
    none, recomputed = compute(moments.size - 1)
    assert moments.shape == (5, 45, 6)
    assert none is None
    assert_close(kept, recomputed)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("readout", ["average", "flatten"])
@pytest.mark.parametrize("name", ["f", "f_quad"])
def test_a_batch_of_states_gives_what_each_of_them_gives(x64, small_tiles, name, readout, activation):
    _, bound, params, x = models(name, readout, activation)
    features = bound.featurize(x)
    states = jax.tree.map(lambda w: jnp.stack([w, -2 * w, w**2]), params)

    def compute(state):
        value, pullback = bound.value_and_pullback(state, features)
        return value, bound.predict(state, features), pullback(value), bound.pullback(state, features, value)

    one_by_one = jit(lambda states: jax.lax.map(compute, states))(states)
    assert_close(jit(jax.vmap(compute))(states), one_by_one)
    assert_close(one_by_one[2], one_by_one[3])


@pytest.mark.parametrize("readout", ["average", "flatten"])
@pytest.mark.parametrize("name", ["f", "f_quad"])
def test_a_mini_batch_of_the_features_is_the_features_of_the_mini_batch(x64, small_tiles, name, readout):
    _, bound, _, x = models(name, readout, "swish")
    batch = jnp.array([8, 0, 3])
    assert_close(jax.tree.map(lambda leaf: leaf[batch], bound.featurize(x)), bound.featurize(x[batch]))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("readout", ["average", "flatten"])
def test_the_pullback_of_the_quadratic_model_has_its_forward_derivative(x64, small_tiles, readout, activation):
    model, bound, params, x = models("f_quad", readout, activation)
    r = jax.random.normal(jax.random.key(3), (len(x), 1))
    tangent = jax.tree.map(jnp.sin, params)

    @jit
    def derivative(model, features, params, tangent):
        return jax.jvp(lambda state: model.pullback(state, features, r), (params,), (tangent,))

    expected = derivative(model, x, params, tangent)
    assert_close(derivative(bound, bound.featurize(x), params, tangent), expected)
    assert all(float(jnp.abs(leaf).max()) > 1e-3 for leaf in jax.tree.leaves(expected[1]))


@pytest.mark.parametrize("case", ["average-relu", "average-swish", "flatten-relu", "flatten-tanh"])
@pytest.mark.parametrize("name", ["f", "f_quad"])
def test_a_catapult_is_the_same_run(x64, small_tiles, name, case):
    readout, activation = case.split("-")
    model, bound, params, x = models(name, readout, activation, width=50)
    params = getattr(model, "params0", params)
    x, y = x[TRAIN], jnp.sign(x[TRAIN, 0, 0, :1])
    rate = 1.2 * nqm.critical_learning_rate(nqm.empirical_ntk(model.f, params, x), loss="mse")

    @jit
    def descend(model, features, params):
        def body(carry):
            step, params, losses = carry
            value, pullback = model.value_and_pullback(params, features)
            gradient = pullback(2 * (value - y) / len(y))
            params = jax.tree.map(lambda w, g: w - rate * g, params, gradient)
            return step + 1, params, losses.at[step].set(jnp.mean((value - y) ** 2))

        return jax.lax.while_loop(lambda carry: carry[0] < 50, body, (0, params, jnp.zeros(50)))[1:]

    found, expected = descend(bound, bound.featurize(x), params), descend(model, x, params)
    losses = expected[1]
    assert jnp.diff(losses).max() > 0.1
    assert losses[-1] < losses[0]
    assert_close(found, expected)


def test_the_quadratic_model_keeps_images_only_for_a_curvature():
    for activation, kept in (("relu", False), ("linear", False), ("tanh", True), ("swish", True)):
        _, bound, _, x = models("f_quad", "average", activation)
        features = bound.featurize(x)
        assert (features[0] is not None) == kept
        assert max(leaf.size for leaf in jax.tree.leaves(features)) <= 11 * 18 * 6


def test_only_the_network_and_its_quadratic_model_have_a_closed_form():
    model, _, params, x = models("f_quad", "average", "relu")
    assert two_layer_conv.bind(nqm.linearize(model.f, params), x, params, GradientDescent()) is None
