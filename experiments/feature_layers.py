"""Recorded columns of ``features_ansatz_scales``: weights, and their change, against three powers of a layer's AGOP.

Never edited: its checksum is in the keys of recorded runs.
"""

import jax
import jax.numpy as jnp

from nqm_tools import features


def _correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return jnp.where(a.any(), (a * b).sum() / jnp.sqrt((a**2).sum() * (b**2).sum()), 0.0)


def ansatz(now):
    """Columns ``weights_1``, ``weights_root_1``, ``weights_depth_1``: layer 1, and the AGOP to the 1, 1/2, 1/depth.

    ``change_...``: the same of the weights less those of the start, which is 0 at the start. All layers but the last.
    """
    found, depth = {}, len(jax.tree.leaves(now.params))
    for layer in range(1, depth):
        agop = features.layer_agop(now.model.f, now.params, now.x, layer)
        values, vectors = jnp.linalg.eigh(agop)
        for suffix, power in (("", 1.0), ("_root", 0.5), ("_depth", 1 / depth)):
            powered = (vectors * jnp.maximum(values, 0) ** power) @ vectors.T
            for name, start in (("weights", None), ("change", now.start)):
                matrix = features.neural_feature_matrix(now.params, layer, start=start)
                found[f"{name}{suffix}_{layer}"] = _correlation(matrix, powered)
    return found
