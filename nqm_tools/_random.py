"""Random keys from seeds, and draws that compile few programs."""

import math

import jax
import numpy as np

# A draw is the beginning of one of this size; each size is compiled once.
SIZES = (4096, 65_536, 1_048_576)


def random_key(seed):
    """The JAX key of a checked seed, all 64 bits of it: with 32-bit integers JAX drops the upper half."""
    with jax.enable_x64(True):
        return jax.random.key(seed)


def normal(key, shape=(), dtype=float):
    """``jax.random.normal``, bit by bit, with three programs for all shapes of up to a million numbers."""
    return _drawn(jax.random.normal, key, shape, dtype)


def rademacher(key, shape, dtype):
    """``jax.random.rademacher``, in the same way."""
    return _drawn(jax.random.rademacher, key, shape, dtype)


def _drawn(sampler, key, shape, dtype):
    """What ``sampler`` draws, as the beginning of a longer draw.

    XLA takes half a second to compile JAX's generator for a CPU, once a shape. Each number depends on the key and its
    place alone, but for other generators, and where ``jax_threefry_partitionable`` is off.
    """
    count = math.prod(shape)
    size = next((size for size in SIZES if count <= size), None)
    if size is None or not _begins_alike(key):
        return sampler(key, shape, dtype)
    drawn = sampler(key, (size,), dtype)
    if isinstance(drawn, jax.core.Tracer):  # within a transformation nothing is drawn yet
        return sampler(key, shape, dtype)
    return jax.numpy.asarray(np.asarray(drawn)[:count].reshape(shape).copy())


def _begins_alike(key):
    """Whether a long draw of this key is known to begin with a short one, on a device that is slow to compile them."""
    return (
        isinstance(key, jax.Array)
        and not isinstance(key, jax.core.Tracer)
        and not key.committed
        and jax.default_backend() == "cpu"
        and jax.config.jax_threefry_partitionable
        and str(jax.random.key_impl(key)) == "threefry2x32"
    )
