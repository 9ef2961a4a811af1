"""Curvature of the training loss: the top eigenvalues of its Hessian and of its Gauss-Newton matrix, and the trace.

The Hessian of the loss in the parameters is the Gauss-Newton matrix ``J^T C J`` (J the Jacobian of the outputs, C the
curvature of the loss in them) and a part that is linear in the loss's gradient. For a squared loss C is a multiple of
the identity, and the Gauss-Newton matrix has the eigenvalues of the tangent kernel times that.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from nqm_tools._coupling import is_coupled
from nqm_tools._program import Fresh
from nqm_tools._tiles import MEMORY, kernel_vector_product
from nqm_tools._types import Function, Inputs, Targets
from nqm_tools._validation import check_not_traced, check_params, check_whole
from nqm_tools.expansions import check_model, match_precision
from nqm_tools.kernels import DENSE_ROWS, check_is_known, kernel_matrix, kernel_of, largest_eigenpairs
from nqm_tools.losses import LossLike, check_loss, find, targets_for


def sharpness(f: Function, params: PyTree, x: Inputs, y: Targets, loss: LossLike = "mse") -> float:
    """The largest eigenvalue of the training loss's Hessian in the parameters.

    Parameters
    ----------
    f, params
        As in :func:`nqm_tools.empirical_ntk`.
    x, y
        Inputs (n, ...) and targets as the loss takes them: (n, k), or (n,) for one output or numbers of classes.
    loss : str, callable or Loss
        As in :func:`nqm_tools.train`.

    Returns
    -------
    float
        Gradient descent on the loss is locally stable below ``2 / sharpness``. For a linear model and a squared loss
        that is the critical learning rate; for others the two differ at finite width.

    Notes
    -----
    ARPACK driven by Hessian-vector products (forward over reverse); up to 1,024 parameters the Hessian is built.

    Examples
    --------
    >>> x, y = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.zeros(2)
    >>> sharpness(lambda w, x: x @ w, jnp.zeros(2), x, y, loss="half_sum")  # of x^T x
    4.0
    """
    params = check_params(params)
    model, loss, x, y = _check("sharpness", f, params, x, y, loss)
    flat, _ = ravel_pytree(params)
    times = Fresh(lambda model, params, x, y, rows: _hessian_products(model, loss, params, x, y, rows))
    if flat.size <= DENSE_ROWS:
        hessian = times(model, params, x, y, jnp.eye(flat.size, dtype=flat.dtype))
        check_is_known("the loss's Hessian", hessian, params)
        return float(np.linalg.eigvalsh(np.asarray(hessian))[-1])

    def product(v):
        moved = times(model, params, x, y, v[None])[0]
        check_is_known("the loss's Hessian", moved, params)
        return moved

    eigenvalues, _ = largest_eigenpairs(product, flat.size, 1, flat.dtype)
    return float(eigenvalues[0])


def hessian_trace(
    f: Function, params: PyTree, x: Inputs, y: Targets, loss: LossLike = "mse", *, probes: int = 64, seed: int = 0
) -> tuple[float, float]:
    """The trace of the training loss's Hessian in the parameters, and its standard error.

    Parameters
    ----------
    f, params, x, y, loss
        As in :func:`sharpness`.
    probes : int
        How many random vectors of signs the mean is over, with more than 1,024 parameters.
    seed : int
        Of these vectors.

    Returns
    -------
    trace, error : float
        Up to 1,024 parameters the Hessian is built, and the error is 0.

    Notes
    -----
    Hutchinson's estimate, the mean of ``v^T H v`` over vectors v of random signs.

    >>> hessian_trace(lambda w, x: x @ w, jnp.zeros(2), jnp.eye(2), jnp.ones(2), "half_sum")
    (2.0, 0.0)
    """
    params = check_params(params)
    model, loss, x, y = _check("hessian_trace", f, params, x, y, loss)
    probes, seed = check_whole("probes", probes, minimum=2), check_whole("seed", seed, minimum=0)
    flat, _ = ravel_pytree(params)
    times = Fresh(lambda model, params, x, y, rows: _hessian_products(model, loss, params, x, y, rows))
    if flat.size <= DENSE_ROWS:
        hessian = times(model, params, x, y, jnp.eye(flat.size, dtype=flat.dtype))
        check_is_known("the loss's Hessian", hessian, params)
        return float(np.trace(np.asarray(hessian, dtype=float))), 0.0
    rng, values = np.random.default_rng(seed), []
    for _ in range(probes):  # one by one: side by side they would take the memory of as many gradients
        signs = jnp.asarray(rng.choice([-1.0, 1.0], flat.size), flat.dtype)
        product = times(model, params, x, y, signs[None])[0]
        check_is_known("the loss's Hessian", product, params)
        values.append(float(signs @ product))
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(probes))


def _hessian_products(model, loss, params, x, y, rows):
    """The products of the loss's Hessian with flat vectors, a row each."""
    flat, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda p: loss.total(model(unravel(p), x), y))
    return jax.vmap(lambda v: jax.jvp(gradient, (flat,), (v,))[1])(rows)


def gauss_newton_sharpness(f: Function, params: PyTree, x: Inputs, y: Targets, loss: LossLike = "mse") -> float:
    """The largest eigenvalue of the training loss's Gauss-Newton matrix ``J^T C J``.

    Arguments as in :func:`sharpness`.

    Returns
    -------
    float
        For ``half_sum`` the largest eigenvalue of the tangent kernel, for ``mse`` 2/n times that. In general
        ``2 / gauss_newton_sharpness`` is the critical learning rate of the linear model at its start: for a loss whose
        curvature changes along a run it holds there and then only. Negative curvature (of a loss that is not convex in
        the outputs) counts as none.

    Notes
    -----
    With ``C = R R^T`` it is the largest eigenvalue of ``R^T K R`` (n k rows): built up to 1,024 rows, beyond that by
    ARPACK and products with J and J^T.

    Examples
    --------
    >>> x, labels = jnp.eye(2), jnp.array([1.0, -1.0])
    >>> top = gauss_newton_sharpness(lambda w, x: x @ w, jnp.zeros(2), x, labels, loss="logistic")
    >>> round(top, 4)  # p (1 - p) / n
    0.125
    """
    params = check_params(params)
    model, loss, x, y = _check("gauss_newton_sharpness", f, params, x, y, loss)
    n, k = y.shape
    roots = Fresh(functools.partial(_root, loss))
    if n * k <= DENSE_ROWS:
        kernel = kernel_of(model, params, x)(model, params, x)
        root = roots(model, params, x, y)
        check_is_known("the tangent kernel", kernel, params)
        check_is_known("the loss's curvature", root, params)
        matrix, root = (np.asarray(a, dtype=float) for a in (kernel_matrix(kernel), root))
        # R is block diagonal, a block an example.
        half = np.einsum("pna,nab->pnb", matrix.reshape(n * k, n, k), root).reshape(n * k, n * k)
        whole = np.einsum("nab,naq->nbq", root, half.reshape(n, k, n * k)).reshape(n * k, n * k)
        return float(np.linalg.eigvalsh((whole + whole.T) / 2)[-1])
    root = roots(model, params, x, y)
    coupled = is_coupled(model, params, x)
    times = Fresh(functools.partial(_rooted_kernel_product, coupled=coupled))

    def product(v):
        moved = times(model, params, x, root, v.reshape(n, k)).ravel()
        check_is_known("the Gauss-Newton matrix", moved, params)
        return moved

    eigenvalues, _ = largest_eigenpairs(product, n * k, 1, jnp.result_type(*jax.tree.leaves(params)))
    return float(eigenvalues[0])


def _root(loss, model, params, x, y):
    """R (n, k, k) with ``R R^T`` the curvature, times the loss's weight of an example."""
    curvature = loss.curvature(model(params, x), y) * loss.weight(len(x))
    values, vectors = jnp.linalg.eigh(curvature)
    return vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :]


def _rooted_kernel_product(model, params, x, root, v, coupled):
    rooted = jnp.einsum("nab,nb->na", root, v)
    pushed = kernel_vector_product(model, params, x, rooted, memory=MEMORY, coupled=coupled)
    return jnp.einsum("nab,na->nb", root, pushed)


def _check(what, f, params, x, y, loss):
    model, x, k = check_model(f, params, x)
    check_not_traced(what, model, params, x, y)
    loss, n = find(loss), x.shape[0]
    check_loss(loss, n, k, jnp.result_type(*jax.tree.leaves(params)))
    y, _ = targets_for(loss, "y", y, n, k)
    return model, loss, x, match_precision(y, params)
