"""Draws that compile few programs are JAX's own, bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools import _random

SHAPES = [(), (0, 3), (1,), (7, 5), (64, 1), (1, 64), (3, 3, 1, 8), (33, 129), (4096,), (4097,), (256, 257)]


def same(a, b):
    assert (a.shape, a.dtype, a.weak_type, a.committed) == (b.shape, b.dtype, b.weak_type, b.committed)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_are_jaxs(shape):
    for seed in range(3):
        key = jax.random.key(seed)
        same(_random.normal(key, shape), jax.random.normal(key, shape))
        same(_random.rademacher(key, shape, jnp.float32), jax.random.rademacher(key, shape, jnp.float32))


@pytest.mark.parametrize("shape", SHAPES[2:6])
def test_draws_are_jaxs_in_float64(x64, shape):
    same(_random.normal(jax.random.key(1), shape), jax.random.normal(jax.random.key(1), shape))
    same(_random.rademacher(jax.random.key(1), shape, float), jax.random.rademacher(jax.random.key(1), shape, float))


@pytest.mark.parametrize(
    "key",
    [jax.random.PRNGKey(3), jax.random.key(3, impl="rbg"), jax.device_put(jax.random.key(3), jax.devices()[0])],
    ids=["raw", "another generator", "placed"],
)
def test_every_key_draws_as_in_jax(key):
    same(_random.normal(key, (7, 5)), jax.random.normal(key, (7, 5)))


def test_within_transformations_draws_are_jaxs():
    key = jax.random.key(2)
    expected = np.asarray(jax.random.normal(key, (7, 5)))
    inside = [jax.jit(lambda key: _random.normal(key, (7, 5)))(key), jax.jit(lambda: _random.normal(key, (7, 5)))()]
    inside.append(jax.vmap(lambda key: _random.normal(key, (7, 5)))(key[None])[0])
    for drawn in inside:
        np.testing.assert_array_equal(drawn, expected)


def test_draws_are_jaxs_where_the_place_is_not_all_that_counts():
    jax.config.update("jax_threefry_partitionable", False)
    try:
        same(_random.normal(jax.random.key(1), (7, 5)), jax.random.normal(jax.random.key(1), (7, 5)))
        assert np.any(jax.random.normal(jax.random.key(1), (6,))[:5] != jax.random.normal(jax.random.key(1), (5,)))
    finally:
        jax.config.update("jax_threefry_partitionable", True)


def test_networks_of_many_shapes_compile_the_generator_once(caplog):
    def compiled(draw):
        caplog.clear()
        with jax.log_compiles():
            draw()
        names = [record.getMessage() for record in caplog.records]
        return [name for name in names if name.startswith("Finished XLA compilation") and "_normal" in name]

    for size in _random.SIZES[:2]:
        _random.normal(jax.random.key(0), (size,))
    for width in range(100, 105):
        net = nqm.networks.two_layer_fc(width)
        assert not compiled(lambda net=net, width=width: net.init(jax.random.key(0), (3, width + 1)))
    assert compiled(lambda: jax.random.normal(jax.random.key(0), (3, 77)))  # what is compiled shows
