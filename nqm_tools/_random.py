"""Random keys from seeds."""

import jax


def random_key(seed):
    """The JAX key of a checked seed, all 64 bits of it: with 32-bit integers JAX drops the upper half."""
    with jax.enable_x64(True):
        return jax.random.key(seed)
