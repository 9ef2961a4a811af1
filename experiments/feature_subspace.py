"""Recorded columns of ``features_tasks``: how much of the first layer lies along the inputs that targets depend on.

Never edited: its checksum is in the keys of recorded runs.
"""

import jax
import jax.numpy as jnp


def energy(now):
    """``energy``: the share of |U|^2 in the inputs that the data's AGOP has; ``change_energy``: of |U - start|^2."""
    weights, start = (jax.tree.leaves(params)[0] for params in (now.params, now.start))
    used = (jnp.diag(now.agop) > 0)[:, None]

    def share(rows):
        whole = (rows**2).sum()
        return jnp.where(whole > 0, (rows**2 * used).sum() / whole, 0.0)

    return {"energy": share(weights), "change_energy": share(weights - start)}
