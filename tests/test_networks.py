"""The paper's networks: their formulas, their parameters, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools import networks

ACTIVATIONS = {
    "relu": lambda h: jnp.maximum(h, 0),
    "tanh": jnp.tanh,
    "swish": lambda h: h / (1 + jnp.exp(-h)),
    "linear": lambda h: h,
}
FACTORIES = [networks.two_layer_fc, networks.deep_fc, networks.two_layer_cnn]


def images(n=3, shape=(4, 5, 2)):
    return jax.random.normal(jax.random.key(7), (n, *shape))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_two_layer_fc_is_the_formula_of_the_theory(x64, activation, outputs):
    net = networks.two_layer_fc(6, activation=activation, outputs=outputs)
    x = images()
    params = net.init(jax.random.key(0), x.shape)
    u, v = jax.tree.leaves(params)
    assert (u.shape, v.shape) == ((40, 6), (6, outputs))
    hidden = ACTIVATIONS[activation](x.reshape(3, 40) @ u / np.sqrt(40))
    np.testing.assert_allclose(net(params, x), hidden @ v / np.sqrt(6), rtol=1e-12, atol=1e-12)


def test_deep_fc_counts_weight_layers(x64):
    net = networks.deep_fc(6, depth=4, activation="tanh")
    x = images()
    weights = jax.tree.leaves(net.init(jax.random.key(0), x.shape))
    assert [w.shape for w in weights] == [(40, 6), (6, 6), (6, 6), (6, 1)]
    h = x.reshape(3, 40)
    for i, w in enumerate(weights):
        h = h @ w / np.sqrt(w.shape[0])
        h = jnp.tanh(h) if i < 3 else h
    np.testing.assert_allclose(net(net.init(jax.random.key(0), x.shape), x), h, rtol=1e-12)


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@pytest.mark.parametrize("activation", ["relu", networks.LeakyRelu(0.25)])
def test_the_options_of_deep_networks_are_their_formulas(x64, activation, parameterization):
    options = {"slope": 0.25, "activation": "leaky_relu"} if activation != "relu" else {}
    assert networks.is_piecewise_linear(activation)
    net = networks.deep_fc(50, outputs=2, parameterization=parameterization, hidden_variance=3, **options)
    plain = networks.deep_fc(50, outputs=2, **options)
    x = images()
    params, others = (one.init(jax.random.key(0), x.shape) for one in (net, plain))
    slope = 0.25 if options else 0.0
    hidden = networks.architecture(net).preactivations(params, x)
    h = x.reshape(3, 40)
    for i, (w, other) in enumerate(zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True)):
        layer = w if parameterization == "standard" else w / np.sqrt(len(w))
        np.testing.assert_allclose(layer, other / np.sqrt(len(w)) * (1 if i == 2 else np.sqrt(3)), rtol=1e-12)
        h = h @ layer
        if i < 2:
            np.testing.assert_allclose(hidden[i], h, rtol=1e-12)
            np.testing.assert_allclose(networks.activation_function(activation)(h), np.where(h > 0, h, slope * h))
            h = np.where(h > 0, h, slope * h)
    np.testing.assert_allclose(net(params, x), h, rtol=1e-12)
    assert net.kernel_fn is None


def test_a_leaky_networks_kernel_has_its_wide_limit():
    net, x = networks.deep_fc(4096, depth=2, activation="leaky_relu", slope=0.5), images(2)
    empirical = nqm.empirical_ntk(net, net.init(jax.random.key(1), x.shape), x)
    np.testing.assert_allclose(empirical, net.kernel_fn(x, None, "ntk"), rtol=0.1, atol=0.03)


@pytest.mark.parametrize("readout", networks.READOUTS)
def test_two_layer_cnn_is_a_convolution_and_a_readout(x64, readout):
    net = networks.two_layer_cnn(6, readout=readout, outputs=2)
    x = images()
    params = net.init(jax.random.key(0), x.shape)
    u, v = jax.tree.leaves(params)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    hidden = sum(padded[:, i : i + 4, j : j + 5] @ u[i, j] for i in range(3) for j in range(3)) / np.sqrt(9 * 2)
    hidden = jnp.maximum(hidden, 0)
    pooled = hidden.mean(axis=(1, 2)) if readout == "average" else hidden.reshape(3, -1)
    assert v.shape == (pooled.shape[1], 2)
    np.testing.assert_allclose(net(params, x), pooled @ v / np.sqrt(len(v)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factory", FACTORIES)
def test_readout_weights_are_signs_or_normal(factory):
    shape = (2, 4, 4, 1)
    signs = jax.tree.leaves(factory(500).init(jax.random.key(0), shape))[-1]
    normal = jax.tree.leaves(factory(500, readout_init="normal").init(jax.random.key(0), shape))[-1]
    zero = factory(500, readout_init="zero")
    assert not np.any(jax.tree.leaves(zero.init(jax.random.key(0), shape))[-1])
    assert zero.kernel_fn is None, "stax has that of other readouts"
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 5 / np.sqrt(500)
    assert len(np.unique(normal)) > 400
    assert abs(normal.std() - 1) < 5 / np.sqrt(2 * 500)


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("factory", FACTORIES)
def test_infinite_width_kernel_is_the_wide_limit(factory, activation):
    # Sign readouts have unit variance, so they share the limit of normal ones.
    net = factory(4096, activation=activation)
    x = images(2)
    empirical = nqm.empirical_ntk(net, net.init(jax.random.key(1), x.shape), x)
    np.testing.assert_allclose(empirical, net.kernel_fn(x, None, "ntk"), rtol=0.1, atol=0.03)


def test_tanh_has_no_infinite_width_kernel():
    with pytest.raises(NotImplementedError):
        networks.two_layer_fc(8, activation="tanh").kernel_fn(jnp.ones((2, 3)), None, "ntk")


def test_a_network_is_a_triple_that_is_reused():
    net = networks.two_layer_fc(8)
    assert isinstance(net, tuple)
    assert net._fields == ("init_fn", "apply_fn", "kernel_fn")
    assert networks.two_layer_fc(np.int64(8)) is net
    assert networks.deep_fc(8, depth=2) is net
    assert networks.two_layer_fc(8, outputs=2) is not net
    output_shape, params = net.init_fn(jax.random.key(0), (3, 5))
    assert output_shape == (3, 1)
    np.testing.assert_array_equal(net.apply_fn(params, jnp.ones((3, 5))), net(params, jnp.ones((3, 5))))


def test_parameters_depend_on_the_key_alone():
    net = networks.deep_fc(8)
    first, again, other = (net.init(jax.random.key(seed), (3, 5)) for seed in (0, 0, 1))
    assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(again)))
    assert not any(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(other)))
    legacy = net.init(jax.random.PRNGKey(0), (3, 5))
    assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(legacy)))


@pytest.mark.parametrize("width", [0, -3, 2.5, float("nan")])
@pytest.mark.parametrize("factory", FACTORIES)
def test_impossible_widths_are_refused(factory, width):
    with pytest.raises(ValueError, match=rf"width must be a whole number >= 1; got {width}"):
        factory(width)


@pytest.mark.parametrize("width", ["8", None, True, [8]])
def test_widths_that_are_no_numbers_are_refused(width):
    with pytest.raises(TypeError, match="width must be a whole number >= 1; got"):
        networks.two_layer_fc(width)


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (networks.two_layer_fc, {"activation": "gelu"}, "activation must be one of 'relu', 'tanh', 'swish', 'linear'"),
        (networks.two_layer_fc, {"activation": None}, "got None"),
        (networks.two_layer_fc, {"outputs": 0}, "outputs must be a whole number >= 1; got 0"),
        (networks.two_layer_fc, {"readout_init": "zeros"}, "readout_init must be one of 'sign', 'normal', 'zero'"),
        (networks.two_layer_fc, {"activation": "leaky_relu"}, "'linear'; got 'leaky_relu'"),
        (networks.deep_fc, {"activation": "leaky_relu"}, "slope goes with activation 'leaky_relu'"),
        (networks.deep_fc, {"slope": 0.5}, "got 'relu' and 0.5"),
        (networks.deep_fc, {"activation": "gelu"}, "'linear', 'leaky_relu'; got 'gelu'"),
        (networks.deep_fc, {"parameterization": "mup"}, "parameterization must be one of 'ntk', 'standard'; got 'mup'"),
        (networks.deep_fc, {"hidden_variance": 0}, "hidden_variance must be a positive finite number"),
        (networks.deep_fc, {"depth": 1}, "depth must be a whole number >= 2; got 1"),
        (networks.two_layer_cnn, {"readout": "max"}, "readout must be one of 'average', 'flatten'; got 'max'"),
    ],
)
def test_unknown_options_are_refused(factory, options, message):
    with pytest.raises(ValueError, match=message):
        factory(8, **options)


@pytest.mark.parametrize(
    ("factory", "shape", "message"),
    [
        (networks.two_layer_fc, (5,), r"x must have shape \(n, d\)"),
        (networks.two_layer_cnn, (5, 3), r"x must be images of shape \(n, height, width, channels\); got \(5, 3\)"),
        (networks.two_layer_fc, (0, 3), "each entry of input_shape must be a whole number >= 1; got 0"),
        (networks.two_layer_fc, (2, -1), "got -1"),
    ],
)
def test_impossible_input_shapes_are_refused(factory, shape, message):
    with pytest.raises(ValueError, match=message):
        factory(8).init(jax.random.key(0), shape)


@pytest.mark.parametrize("shape", [5, "ab", None])
def test_input_shapes_that_are_no_tuples_are_refused(shape):
    with pytest.raises(TypeError, match="input_shape must be a tuple of whole numbers"):
        networks.two_layer_fc(8).init(jax.random.key(0), shape)


@pytest.mark.parametrize("key", [0, None, np.zeros(2), jnp.ones(3), jax.random.split(jax.random.key(0))])
def test_keys_that_are_no_jax_keys_are_refused(key):
    with pytest.raises(TypeError, match=r"key must be a JAX random key such as jax\.random\.key\(0\)"):
        networks.two_layer_fc(8).init(key, (2, 3))


@pytest.mark.parametrize(
    ("factory", "shape", "wrong"),
    [
        (networks.two_layer_fc, (2, 3), (2, 4)),
        (networks.deep_fc, (2, 4, 4, 1), (2, 4, 5, 1)),
        (networks.two_layer_cnn, (2, 4, 4, 3), (2, 4, 4, 1)),
    ],
)
def test_inputs_that_do_not_fit_the_weights_are_refused_in_plain_words(factory, shape, wrong):
    net = factory(8)
    params = net.init(jax.random.key(0), shape)
    with pytest.raises(ValueError, match="does not fit the first weights of params"):
        net(params, jnp.ones(wrong))


def test_parameters_of_another_depth_are_refused():
    shallow, deep = networks.two_layer_fc(6), networks.deep_fc(6)
    with pytest.raises(ValueError, match="params must hold the weights of 3 layers; got 2"):
        deep(shallow.init(jax.random.key(0), (2, 3)), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="params must hold the weights of 2 layers; got 3"):
        nqm.empirical_ntk(shallow, deep.init(jax.random.key(0), (2, 3)), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="params must hold the weights of 2 layers; got 0"):
        shallow(None, jnp.ones((2, 3)))


def test_inputs_may_be_lists():
    net = networks.two_layer_fc(6)
    params = net.init(jax.random.key(0), (1, 3))
    np.testing.assert_array_equal(net(params, [[1.0, 2.0, 3.0]]), net(params, jnp.array([[1.0, 2.0, 3.0]])))
