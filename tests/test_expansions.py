"""Taylor models of any function: equal to derivatives, right to the order they claim, readable when misused."""

import functools

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import nqm_tools as nqm
from nqm_tools import closed_forms, expansions, networks
from nqm_tools.closed_forms import function_space
from nqm_tools.training import GradientDescent


def smooth(params, x):
    """A smooth function with two outputs of a tree of parameters."""
    return jnp.tanh(x @ params["a"]) @ jnp.sin(params["b"]) + x[:, :1] * params["c"] ** 2


def smooth_params(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = {"a": (3, 4), "b": (4, 2), "c": ()}
    return {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}


def flax_network():
    model = flax.linen.Sequential([flax.linen.Dense(5), flax.linen.tanh, flax.linen.Dense(2)])
    params = model.init(jax.random.key(3), jnp.ones((1, 3)))
    return model.apply, params


def equinox_network():
    model = eqx.nn.MLP(3, "scalar", 5, 2, jnp.tanh, key=jax.random.key(3))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def f(params, x):  # outputs (n,)
        return jax.vmap(eqx.combine(params, static))(x)

    return f, params


def package_network(factory=networks.two_layer_fc, shape=(3,), **options):
    net = factory(6, **options)
    return net, net.init(jax.random.key(3), (1, *shape))


FUNCTIONS = {
    "dictionary": lambda: (smooth, smooth_params(3)),
    "flax": flax_network,
    "equinox": equinox_network,
    "fc_relu": package_network,
    "fc_tanh_outputs": lambda: package_network(activation="tanh", outputs=3),
    "deep_swish": lambda: package_network(networks.deep_fc, activation="swish"),
    "cnn_average": lambda: package_network(networks.two_layer_cnn, (4, 4, 3), outputs=2),
    "cnn_flatten": lambda: package_network(networks.two_layer_cnn, (4, 4, 3), readout="flatten"),
}


@pytest.fixture(params=FUNCTIONS)
def problem(x64, request):
    """A function, where to expand it, parameters a step away, and inputs."""
    f, params0 = FUNCTIONS[request.param]()
    params0 = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), params0)
    flat, unravel = ravel_pytree(params0)
    params = unravel(flat + 0.3 * jax.random.normal(jax.random.key(5), flat.shape))
    shape = (4, 4, 4, 3) if request.param.startswith("cnn") else (4, 3)
    return f, params0, params, jax.random.normal(jax.random.key(6), shape)


def as_2d(outputs):
    return outputs[:, None] if outputs.ndim == 1 else outputs


def test_models_are_the_taylor_polynomials_of_whole_derivatives(problem):
    f, params0, params, x = problem
    flat0, unravel = ravel_pytree(params0)
    delta = ravel_pytree(params)[0] - flat0

    def flat_f(w):
        return as_2d(f(unravel(w), x))

    value = flat_f(flat0)
    first = jax.jit(jax.jacobian(flat_f))(flat0) @ delta
    second = jnp.einsum("iapq,p,q->ia", jax.jit(jax.hessian(flat_f))(flat0), delta, delta) / 2
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
    close(nqm.linearize(f, params0)(params, x), value + first)
    close(nqm.quadraticize(f, params0)(params, x), value + first + second)
    close(nqm.second_order_term(f, params0, params, x), second)
    close(nqm.remainder(f, params0, params, x), flat_f(ravel_pytree(params)[0]) - value - first - second)


def test_models_equal_neural_tangents_expansions(problem):
    f, params0, params, x = problem
    np.testing.assert_allclose(
        nqm.linearize(f, params0)(params, x), as_2d(jax.jit(nt.linearize(f, params0))(params, x)), rtol=1e-10
    )
    np.testing.assert_allclose(
        nqm.quadraticize(f, params0)(params, x), as_2d(jax.jit(nt.taylor_expand(f, params0, 2))(params, x)), rtol=1e-10
    )


@pytest.mark.parametrize("make", [expansions.FunctionModel, nqm.linearize, nqm.quadraticize])
def test_pullback_is_the_gradient_of_what_the_model_predicts(problem, make):
    f, params0, params, x = problem
    model = make(f) if make is expansions.FunctionModel else make(f, params0)
    r = jax.random.normal(jax.random.key(8), model.predict(params, x).shape)
    expected = jax.jit(jax.grad(lambda p: jnp.sum(r * model.predict(p, x))))(params)
    pulled = jax.jit(model.pullback)(params, x, r)
    for a, b in zip(jax.tree.leaves(pulled), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_models_of_two_kinds_never_share_a_compiled_function():
    """Structures that compare equal but hash differently meet in JAX's caches once in a hundred processes."""
    net = networks.two_layer_fc(4)
    params = net.init(jax.random.key(0), (2, 3))
    kinds = [expansions.FunctionModel(net), nqm.linearize(net, params), nqm.quadraticize(net, params)]
    kinds += [closed_forms.bind(model, jnp.eye(2, 3), params, GradientDescent()) for model in kinds]
    structures = [jax.tree.structure(model) for model in kinds]
    for i, structure in enumerate(structures):
        assert [other == structure for other in structures] == [j == i for j in range(len(kinds))]
    again = jax.tree.structure(nqm.quadraticize(net, net.init(jax.random.key(1), (2, 3))))
    assert again == structures[2]
    assert hash(again) == hash(structures[2])


@pytest.mark.parametrize(
    ("make", "whole"),
    [(expansions.FunctionModel, False), (nqm.linearize, False), (nqm.quadraticize, False), (nqm.quadraticize, True)],
)
def test_a_bound_model_moves_as_the_model_does(problem, make, whole):
    f, params0, _, x = problem
    model = make(f) if make is expansions.FunctionModel else make(f, params0)
    bound = closed_forms.bind(model, x, params0, GradientDescent())
    assert isinstance(bound, function_space.FunctionSpaceModel) == (make is nqm.linearize)
    features, x_test = bound.featurize(x), 0.5 - x[:3]
    if whole:
        features = bound.keep(features)

    @jax.jit
    def move(state, params, key):
        value, pullback = bound.value_and_pullback(state, features)
        r = jax.random.normal(key, value.shape)
        gradients = pullback(r), model.pullback(params, x, r)
        moved = jax.tree.map(lambda w, g: w - 0.1 * g, (state, params), gradients)
        return value, model.predict(params, x), *moved

    close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
    state, params = bound.encode(params0), params0
    for step in range(3):
        value, expected, state, params = move(state, params, jax.random.key(step))
        close(value, expected)
    jax.tree.map(close, bound.decode(state), params)
    close(bound.predict(state, bound.featurize(x_test)), model.predict(params, x_test))
    close(bound.distance(state, bound.encode(params0)), model.distance(params, params0))
    if bound.kernel is not None:
        kernel = nqm.empirical_ntk(model, params, x)
        close(bound.kernel(state, features), kernel if kernel.ndim == 4 else kernel[:, :, None, None])


@given(seed=st.integers(0, 2**16), scale=st.floats(0.2, 2.0))
@settings(max_examples=20, deadline=None)
def test_errors_shrink_with_the_order_of_the_expansion(seed, scale):
    """Halving the step quarters the linear model's error, and cuts the quadratic model's to an eighth."""
    with jax.enable_x64(True):
        params0, direction = smooth_params(seed), smooth_params(seed + 1)
        x = jax.random.normal(jax.random.key(seed + 2), (3, 3))
        lin, quad = nqm.linearize(smooth, params0), nqm.quadraticize(smooth, params0)

        def errors(h):
            params = jax.tree.map(lambda w, d: w + h * scale * d, params0, direction)
            exact = smooth(params, x)
            return tuple(float(jnp.linalg.norm(model(params, x) - exact)) for model in (lin, quad))

        (lin_1, quad_1), (lin_2, quad_2) = errors(1e-3), errors(5e-4)
        # The next order's share of the error is about the step itself.
        assert lin_2 == pytest.approx(lin_1 / 4, rel=0.05)
        assert quad_2 == pytest.approx(quad_1 / 8, rel=0.05)


@given(seed=st.integers(0, 2**16), a=st.floats(-3, 3), b=st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_the_linear_model_is_affine_and_the_quadratic_term_homogeneous(seed, a, b):
    with jax.enable_x64(True):
        params0, d1, d2 = (smooth_params(seed + i) for i in range(3))
        x = jax.random.normal(jax.random.key(seed + 3), (3, 3))
        lin = nqm.linearize(smooth, params0)

        def at(s, t):
            return jax.tree.map(lambda w, p, q: w + s * p + t * q, params0, d1, d2)

        origin = lin(params0, x)
        combined = a * (lin(at(1, 0), x) - origin) + b * (lin(at(0, 1), x) - origin)
        np.testing.assert_allclose(lin(at(a, b), x) - origin, combined, rtol=1e-9, atol=1e-9)
        term = nqm.second_order_term(smooth, params0, at(1, 0), x)
        np.testing.assert_allclose(
            nqm.second_order_term(smooth, params0, at(a, 0), x), a**2 * term, rtol=1e-9, atol=1e-9
        )


def test_all_three_agree_at_the_expansion_point(problem):
    f, params0, _, x = problem
    exact = as_2d(f(params0, x))
    for model in (nqm.linearize(f, params0), nqm.quadraticize(f, params0)):
        np.testing.assert_allclose(model(params0, x), exact, rtol=1e-14)
    assert not np.any(nqm.second_order_term(f, params0, params0, x))


def test_a_relu_networks_second_order_term_is_the_papers_bilinear_form(x64):
    """g = (md)^(-1/2) sum_k v_k s_k(x) u_k.x with the gates s_k of the start (paper, section 2)."""
    net, params0 = package_network()
    x = jax.random.normal(jax.random.key(1), (5, 3))
    u0, v0 = jax.tree.leaves(params0)
    u, v = (w + jax.random.normal(jax.random.key(i), w.shape) for i, w in enumerate((u0, v0)))
    params = jax.tree.unflatten(jax.tree.structure(params0), [u, v])
    bilinear = ((x @ u0 >= 0) * (x @ u)) @ v / np.sqrt(6 * 3)
    np.testing.assert_allclose(nqm.quadraticize(net, params0)(params, x), bilinear, rtol=1e-12)


def test_integer_inputs_such_as_tokens_stay_integers():
    def f(params, tokens):
        return params["embedding"][tokens].mean(axis=1) @ params["readout"]

    params = {"embedding": jnp.ones((7, 2)), "readout": jnp.ones((2, 1))}
    tokens = np.array([[0, 1, 2], [3, 4, 5]])
    assert nqm.second_order_term(f, params, params, tokens).shape == (2, 1)
    assert nqm.empirical_ntk(f, params, tokens).shape == (2, 2)


@pytest.mark.parametrize("make", [nqm.linearize, nqm.quadraticize])
@pytest.mark.parametrize(
    ("f", "params0", "error", "message"),
    [
        ("relu", {"a": jnp.ones(2)}, TypeError, "f must be a function"),
        (smooth, {}, ValueError, "params0 holds no arrays"),
        (smooth, {"a": jnp.array([1.0, jnp.nan])}, ValueError, "params0 must be finite"),
        (smooth, {"a": jnp.array([1, 2])}, TypeError, "floating-point arrays; it holds an array of int32"),
        (smooth, {"a": "weights"}, TypeError, "it holds str"),
    ],
)
def test_bad_models_are_refused_at_the_door(make, f, params0, error, message):
    with pytest.raises(error, match=message):
        make(f, params0)


def test_an_unhashable_function_is_refused_with_advice():
    class Model(dict):
        def __call__(self, params, x):
            return x

    with pytest.raises(TypeError, match=r"f must be hashable.*Model is not"):
        nqm.linearize(Model(), jnp.ones(2))


@pytest.mark.parametrize("call", [nqm.second_order_term, nqm.remainder])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": {"a": jnp.ones((3, 4))}}, "tree structure of params0"),
        ({"params": {"a": jnp.ones((3, 5)), "b": jnp.ones((4, 2)), "c": jnp.ones(())}}, "shapes of params0"),
        ({"x": jnp.ones((2, 7))}, r"f\(params, x\) failed for x of shape \(2, 7\)"),
        ({"x": jnp.ones((0, 3))}, "x is empty"),
        ({"x": jnp.full((2, 3), jnp.nan)}, "x must be finite"),
        ({"x": 3.0}, "first axis that counts the examples"),
    ],
)
def test_bad_arguments_are_refused_in_plain_words(call, change, message):
    arguments = {"f": smooth, "params0": smooth_params(0), "params": smooth_params(1), "x": jnp.ones((2, 3))} | change
    with pytest.raises(ValueError, match=message) as caught:
        call(**arguments)
    assert "Tracer" not in str(caught.value)


@pytest.mark.parametrize("make", [nqm.linearize, nqm.quadraticize])
def test_models_refuse_parameters_of_another_shape(make):
    model = make(smooth, smooth_params(0))
    with pytest.raises(ValueError, match="tree structure"):
        model({"a": jnp.ones((3, 4))}, jnp.ones((2, 3)))


def test_outputs_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"must return \(n, k\) or \(n,\) with n = 2 examples; got \(3,\)"):
        nqm.empirical_ntk(lambda w, x: w, jnp.ones(3), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"got \(2, 3, 1\)"):
        nqm.empirical_ntk(lambda w, x: (w * x)[..., None], jnp.ones(3), jnp.ones((2, 3)))


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda w, x: (x @ w) * 1j, "the floating-point type of params, float32; got complex64"),
        (lambda w, x: x @ w > 0, "got bool"),
        (lambda w, x: (x @ w).astype(jnp.bfloat16), "got bfloat16"),
        (lambda w, x: (x @ w, x @ w), "must return one array, .* got tuple"),
    ],
)
def test_outputs_of_a_wrong_type_are_refused(f, message):
    data = nqm.Data("own", np.ones((2, 3)), np.ones(2))
    with pytest.raises(TypeError, match=message):
        nqm.empirical_ntk(f, jnp.ones(3), data.x_train)
    with pytest.raises(TypeError, match=message):
        nqm.train(f, data, learning_rate=0.1, steps=1, params=jnp.ones(3))


@pytest.mark.parametrize("make", [nqm.linearize, nqm.quadraticize])
def test_models_check_what_they_are_called_with(x64, make):
    model = make(smooth, smooth_params(0))
    single = jax.tree.map(lambda w: w.astype(jnp.float32), smooth_params(1))
    with pytest.raises(TypeError, match="params must have the precision of params0, float64; got float32"):
        model(single, jnp.ones((2, 3)))
    with pytest.raises(TypeError, match="x must be an array of numbers"):
        model(smooth_params(1), "abc")
    with pytest.raises(ValueError, match=r"f\(params, x\) failed for x of shape \(2, 7\)"):
        model(smooth_params(1), np.ones((2, 7)))
    assert model(smooth_params(1), [[1.0, 2.0, 3.0]]).shape == (1, 2)


def test_parameters_of_several_precisions_are_refused(x64):
    with pytest.raises(TypeError, match="of one floating-point type; it holds float32, float64"):
        nqm.linearize(smooth, smooth_params(0) | {"c": jnp.float32(1.0)})


def test_numbers_too_large_for_the_parameters_precision_are_refused():
    with pytest.raises(ValueError, match="some are too large for the parameters' float32"):
        nqm.empirical_ntk(smooth, smooth_params(0), np.full((2, 3), 1e300))
