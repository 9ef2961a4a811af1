"""Sharpness along a run: the largest eigenvalue of the training loss's Hessian, by warm-started block Lanczos."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from nqm_tools._random import normal

# Lanczos iteration for the sharpness: blocks of two vectors, so that an eigenvalue that overtakes the first is seen,
# three of them a row, which makes six products.
BLOCK, BLOCKS = 2, 3
# At the start of a run the iteration is repeated until its error is this share of the sharpness, or so many times.
START_ERROR, START_REPEATS = 1e-3, 50


def start(now):
    """A block to begin with, and whether it is new: that of the problem, where it has one, is not."""
    if now._problem.sharpest is not None:
        return now._problem.sharpest, jnp.array(False)
    size = sum(leaf.size for leaf in jax.tree.leaves(_coordinates(now)[1]))
    return normal(jax.random.key(0), (BLOCK, size), now.y.dtype), jnp.array(True)


def update(carry, now):
    """An iteration from the block of the row before; a new block is iterated until it is accurate, and once more.

    One loop for both, so that the product is compiled once.
    """
    block, new = carry
    product = _hessian(now)

    def goes_on(state):
        repeats, was_accurate = state[3], state[5]
        return (repeats == 0) | (new & ~was_accurate)

    def repeat(state):
        block, value, error = _top_ritz_pairs(product, state[0])
        repeats = state[3] + 1
        accurate = (error <= START_ERROR * jnp.abs(value)) | (repeats >= START_REPEATS)
        return block, value, error, repeats, accurate, state[4]

    value = jnp.zeros((), now.y.dtype)
    begin = block, value, value, 0, jnp.array(False), jnp.array(False)
    block, value, error, *_ = jax.lax.while_loop(goes_on, repeat, begin)
    return (block, jnp.array(False)), {"sharpness": value, "sharpness_error": error}


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

    Loops, so that the product, which may be a large program, is compiled once and not six times.
    """

    def extend(number, carry):
        basis, images, candidates = carry
        first = number * BLOCK

        def add(i, basis):
            return basis.at[first + i].set(_orthonormal(candidates[i], basis))

        basis = jax.lax.fori_loop(0, BLOCK, add, basis)
        candidates = jax.lax.map(product, jax.lax.dynamic_slice_in_dim(basis, first, BLOCK))
        return basis, jax.lax.dynamic_update_slice_in_dim(images, candidates, first, 0), candidates

    empty = jnp.zeros((BLOCK * BLOCKS, block.shape[1]), block.dtype)
    basis, images, _ = jax.lax.fori_loop(0, BLOCKS, extend, (empty, empty, block))
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
    """The part of a vector outside of the rows of ``basis``, some of which are zero, at length 1."""
    before = jnp.linalg.norm(vector)
    for _ in range(2):  # twice is enough (Giraud, Langou and Rozloznik 2005); row by row takes longer
        vector = vector - (basis @ vector) @ basis
    after = jnp.linalg.norm(vector)
    rounding = 100 * jnp.finfo(vector.dtype).eps * before
    return jnp.where(after > rounding, vector / jnp.where(after > 0, after, 1), 0)
