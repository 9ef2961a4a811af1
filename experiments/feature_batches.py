"""A recorded column of ``features_noise``: whether any batch could exceed its own critical rate.

Never edited: its checksum is in the keys of recorded runs.
"""

import jax.numpy as jnp


def worst_batch_ratio(now):
    """The rate over the critical one of the single training example with the largest kernel, for ``mse``.

    No batch exceeds that: the largest eigenvalue of its kernel is at most its trace.
    """
    return now.learning_rate * jnp.diag(now.kernel).max()
