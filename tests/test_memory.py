"""Kernels in tiles: the same numbers, within the memory that XLA itself says they take."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools import _tiles, kernels, networks

KEY = jax.random.key(0)


def mlp(params, x):
    for weights in params[:-1]:
        x = jnp.tanh(x @ weights)
    return x @ params[-1]


def mlp_params(*sizes, dtype=None):
    keys = jax.random.split(KEY, len(sizes))
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=False)
    return [jax.random.normal(key, pair, dtype) / pair[0] ** 0.5 for key, *pair in pairs]


def attention(params, x):
    """A head over sequences (n, tokens, features), averaged."""
    query, key, value, out = params
    scores = jax.nn.softmax((x @ query) @ jnp.swapaxes(x @ key, 1, 2))
    return (scores @ (x @ value)).mean(axis=1) @ out


def centred(params, x):
    """Examples that depend on each other through their mean."""
    h = x @ params[0]
    return jnp.tanh(h - h.mean(axis=0)) @ params[1]


def recurrent(params, x):
    """A scan over (n, time, features)."""
    inner, outer = params

    def step(state, now):
        return jnp.tanh(state @ inner + now), None

    return jax.lax.scan(step, jnp.zeros((len(x), x.shape[2])), jnp.swapaxes(x, 0, 1))[0] @ outer


def normal(*shape):
    return jax.random.normal(jax.random.key(1), shape)


def of_network(make, shape, n=9, width=12, **options):
    net = make(width, **options)
    x = normal(n, *shape)
    return net, net.init(KEY, x.shape), x


CASES = {
    "one output": lambda: (mlp, mlp_params(4, 7, 6, 1), normal(9, 4)),
    "three outputs": lambda: (mlp, mlp_params(4, 7, 3), normal(9, 4)),
    "attention": lambda: (attention, mlp_params(5, 5, 5, 5, 2), normal(6, 4, 5)),
    "recurrent": lambda: (recurrent, mlp_params(5, 5, 2), normal(6, 3, 5)),
    "coupled": lambda: (centred, mlp_params(4, 7, 2), normal(9, 4)),
    "fc": lambda: of_network(networks.two_layer_fc, (4,), outputs=2),
    "deep_fc": lambda: of_network(networks.deep_fc, (4,)),
    "cnn": lambda: of_network(networks.two_layer_cnn, (5, 5, 2), outputs=2),
    "f_quad": lambda: (nqm.quadraticize(mlp, mlp_params(4, 7, 2)), mlp_params(4, 7, 2), normal(9, 4)),
}


# With the least memory it is a gradient of one output of one example at a time.
@pytest.mark.parametrize(
    ("name", "memory"), [*((name, 8_000) for name in CASES), ("three outputs", 1), ("coupled", 1), ("cnn", 1)]
)
def test_tiles_change_no_number(x64, name, memory):
    f, params, x = CASES[name]()
    whole = nqm.empirical_ntk(f, params, x)
    np.testing.assert_allclose(nqm.empirical_ntk(f, params, x, memory=memory), whole, rtol=1e-10, atol=1e-12)
    if name != "coupled":
        pair = nqm.empirical_ntk(f, params, x[:4], x[2:], memory=memory)
        np.testing.assert_allclose(pair, whole[:4, 2:], rtol=1e-10, atol=1e-12)


# Tiles that do not divide what they cover, so that the last ones overlap or are smaller.
@pytest.mark.parametrize(("name", "sizes"), [("three outputs", [4]), ("three outputs", [1, 2]), ("coupled", [4])])
def test_the_last_tiles_are_right_too(x64, monkeypatch, name, sizes):
    f, params, x = CASES[name]()
    whole = nqm.empirical_ntk(f, params, x)
    sizes = itertools.cycle(sizes)
    monkeypatch.setattr(_tiles, "_most", lambda memory, each: next(sizes))
    np.testing.assert_allclose(nqm.empirical_ntk(f, params, x, memory=1), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 4, 8])
def test_products_over_slices_are_products(x64, monkeypatch, size):
    f, params, x = CASES["three outputs"]()
    v = normal(9, 3)
    expected = jnp.einsum("ijab,jb->ia", nqm.empirical_ntk(f, params, x), v)
    monkeypatch.setattr(_tiles, "_most", lambda memory, each: size)
    moved = _tiles.kernel_vector_product(f, params, x, v, memory=1, coupled=False)
    np.testing.assert_allclose(moved, expected, rtol=1e-10, atol=1e-12)


def test_examples_that_depend_on_each_other_have_the_gradients_of_each_batch_in_tiles_too(x64):
    f, params, x = CASES["coupled"]()
    jacobians = [jax.jacobian(f)(params, part) for part in (x[:4], x)]
    expected = sum(
        jnp.einsum("iap,jbp->ijab", one.reshape(4, 2, -1), other.reshape(9, 2, -1))
        for one, other in zip(*jacobians, strict=True)
    )
    for memory in (1e9, 5_000):
        np.testing.assert_allclose(nqm.empirical_ntk(f, params, x[:4], x, memory=memory), expected, rtol=1e-10)


@pytest.mark.parametrize(("name", "memory"), [("three outputs", 10_000), ("attention", 1), ("coupled", 1)])
def test_matrix_free_eigenvalues_are_those_of_the_kernel_in_slices_too(x64, monkeypatch, name, memory):
    f, params, x = CASES[name]()
    expected = np.linalg.eigvalsh(kernels.kernel_matrix(nqm.empirical_ntk(f, params, x)))[::-1][:2]
    monkeypatch.setattr(kernels, "DENSE_ROWS", 1)
    np.testing.assert_allclose(nqm.top_eigenpairs(f, params, x, 2, memory=memory)[0], expected, rtol=1e-9)


def test_products_in_columns_are_products(x64, monkeypatch):
    monkeypatch.setattr(_tiles, "COLUMNS", 3)
    for columns in (1, 5, 6, 9, 11):
        one, other = normal(4, columns), normal(2, columns)
        np.testing.assert_allclose(_tiles._product(one, other), one @ other.T, rtol=1e-12, atol=1e-12)


def allocated(function, *arguments):
    """Bytes that XLA sets aside for a compiled function, besides its arguments and results."""
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


LARGE = {
    "one output": lambda: (mlp, mlp_params(40, 200, 200, 1), normal(200, 40)),
    "recurrent": lambda: (recurrent, mlp_params(64, 64, 2), normal(100, 20, 64)),
    "coupled": lambda: (centred, mlp_params(40, 300, 1), normal(100, 40)),
    "cnn": lambda: of_network(networks.two_layer_cnn, (32, 32, 3), n=24),
    "deep_fc": lambda: of_network(networks.deep_fc, (400,), n=400, width=200),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_more_memory_is_taken_than_is_given(name):
    f, params, x = LARGE[name]()
    model = nqm.expansions.as_model(f)
    k = jax.eval_shape(model, params, x).shape[1]

    def kernel(memory, params, x):
        return kernels.tangent_kernel(model, params, x, coupled=name == "coupled", memory=memory)

    def product(memory, params, x, v):
        return _tiles.kernel_vector_product(model, params, x, v, memory=memory, coupled=False)

    for function, arguments, result in (
        (kernel, (params, x), 4 * (len(x) * k) ** 2),
        (product, (params, x, jnp.ones((len(x), k))), 4 * len(x) * k),
    ):
        if function is product and name == "coupled":  # a batch is one piece
            continue
        # A loop has a second copy of its result; a product has directions in the parameters, and copies of the inputs.
        fixed = result + (_tiles.COPIES * _tiles._gradient_bytes(params) + 2 * x.nbytes if function is product else 0)
        at_once = allocated(functools.partial(function, 1e15), *arguments)
        memory = 0.4 * at_once
        assert allocated(functools.partial(function, memory), *arguments) <= memory + fixed
