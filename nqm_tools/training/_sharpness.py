"""Sharpness along a run: the largest eigenvalue of the training loss's Hessian, by warm-started block Lanczos."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

# Lanczos iteration for the sharpness: blocks of two vectors, so that an eigenvalue that overtakes the first is seen,
# three of them a row, which makes six products.
BLOCK, BLOCKS = 2, 3
# At the start of a run the iteration is repeated until its error is this share of the sharpness, or so many times.
START_ERROR, START_REPEATS = 1e-3, 50


def start(now):
    size = sum(leaf.size for leaf in jax.tree.leaves(_coordinates(now)[1]))
    block = jax.random.normal(jax.random.key(0), (BLOCK, size), now.y.dtype)
    product = _hessian(now)

    def inaccurate(carry):
        _, value, error, repeats = carry
        return (repeats < START_REPEATS) & (error > START_ERROR * jnp.abs(value))

    def repeat(carry):
        block, value, error = _top_ritz_pairs(product, carry[0])
        return block, value, error, carry[3] + 1

    value = jnp.zeros((), now.y.dtype)
    return jax.lax.while_loop(inaccurate, repeat, (block, value, value + jnp.inf, 0))[0]


def update(block, now):
    block, value, error = _top_ritz_pairs(_hessian(now), block)
    return block, {"sharpness": value, "sharpness_error": error}


def _coordinates(now):
    """A model, a place and features in coordinates whose distances are those of the parameters."""
    problem = now._problem
    if problem.bound.isometric:
        return problem.bound, now._state, problem.features
    return problem.model, now.params, problem.x


def _hessian(now):
    """Products of the training loss's Hessian with flat vectors: forward over the pullback."""
    model, state, features = _coordinates(now)
    flat, unravel = ravel_pytree(state)

    def gradient(place):
        value, pullback = model.value_and_pullback(unravel(place), features)
        return ravel_pytree(pullback(now._problem.loss.output_gradient(value, now.y)))[0]

    return lambda v: jax.jvp(gradient, (flat,), (v,))[1]


def _top_ritz_pairs(product, block):
    """Rayleigh-Ritz on the block Krylov space of ``block`` (2, p): the two top vectors, the top value, its residual.

    The products of every basis vector are kept, so no value can lie outside the operator's range and the residual is
    true; a direction that is only rounding left (an operator of low rank) is put to zero instead of being blown up.
    """
    basis, images, candidates = [], [], list(block)
    for _ in range(BLOCKS):
        for vector in candidates:
            basis.append(_orthonormal(vector, basis))
        images += [product(vector) for vector in basis[-BLOCK:]]
        candidates = images[-BLOCK:]
    basis, images = jnp.stack(basis), jnp.stack(images)
    matrix = basis @ images.T
    matrix = (matrix + matrix.T) / 2
    # Below all eigenvalues, and no larger than needed: an eigenvalue's rounding error is relative to the largest.
    below = -2 * jnp.linalg.norm(matrix)
    _, vectors = jnp.linalg.eigh(matrix + jnp.diag(jnp.where((basis**2).sum(axis=1) == 0, below, 0)))
    top = vectors[:, -1]
    value = top @ matrix @ top
    error = jnp.linalg.norm(top @ images - value * (top @ basis))
    return vectors[:, : -BLOCK - 1 : -1].T @ basis, value, error


def _orthonormal(vector, basis):
    before = jnp.linalg.norm(vector)
    for _ in range(2):  # twice is enough (Kahan and Parlett)
        for other in basis:
            vector = vector - (other @ vector) * other
    after = jnp.linalg.norm(vector)
    rounding = 100 * jnp.finfo(vector.dtype).eps * before
    return jnp.where(after > rounding, vector / jnp.where(after > 0, after, 1), 0)
