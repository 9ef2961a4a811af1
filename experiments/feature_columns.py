"""Recorded columns of ``features_ansatz``: how like a layer's weights and their change are to powers of its AGOP.

Never edited: its checksum is in the keys of recorded runs.
"""

import jax
import jax.numpy as jnp

from nqm_tools import features


def _power(matrix, power):
    if power == 1:
        return matrix
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.maximum(values, 0) ** power) @ vectors.T


def _correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / jnp.sqrt((a**2).sum() * (b**2).sum())


def ansatz(now):
    """Columns ``weights_1``, ``change_1`` (layer 1 with the AGOP) and ``weights_root_1``, ``change_root_1`` (its root).

    Of a network without an own start the change is 0, and its columns too.
    """
    found = {}
    for layer in range(1, len(jax.tree.leaves(now.params))):
        agop = features.layer_agop(now.model.f, now.params, now.x, layer)
        for name, start in (("weights", None), ("change", now.start)):
            matrix = features.neural_feature_matrix(now.params, layer, start=start)
            for suffix, power in (("", 1), ("_root", 0.5)):
                value = _correlation(matrix, _power(agop, power))
                found[f"{name}{suffix}_{layer}"] = jnp.where(matrix.any(), value, 0.0)
    return found
