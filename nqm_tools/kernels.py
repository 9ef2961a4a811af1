"""Tangent kernels, their top eigenpairs, critical learning rates, and the kernel's exact change in one step.

The empirical tangent kernel (NTK) of ``f`` at ``params`` is ``K_ij = <grad f(params; x_i), grad f(params; x_j)>``. It
sets the critical learning rate: gradient descent on ``1/2 sum_i r_i^2`` moves a linear model's residual along an
eigenvector of ``K`` by the factor ``1 - learning_rate * lambda``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from nqm_tools._coupling import is_coupled
from nqm_tools._program import Fresh
from nqm_tools._tiles import MEMORY, kernel_vector_product, tiled_kernel
from nqm_tools._types import Function, Inputs, Outputs, Targets
from nqm_tools._validation import (
    check_fraction,
    check_not_traced,
    check_numeric,
    check_params,
    check_rate,
    check_same_structure,
    check_targets,
    check_whole,
    is_finite,
)
from nqm_tools.expansions import QuadraticModel, check_model, match_precision
from nqm_tools.losses import LossLike, find
from nqm_tools.networks import architecture

__all__ = [
    "KernelStep",
    "critical_learning_rate",
    "empirical_ntk",
    "kernel_matrix",
    "kernel_step",
    "tangent_kernel",
    "top_eigenpairs",
]

# Kernels up to this many rows are built and decomposed whole; beyond, top eigenpairs are found matrix-free.
DENSE_ROWS = 1024


def empirical_ntk(
    f: Function,
    params: PyTree,
    x1: Real[ArrayLike, "n1 ..."],
    x2: Real[ArrayLike, "n2 ..."] | None = None,
    *,
    memory: float = MEMORY,
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 k k"]:
    """The empirical tangent kernel of ``f`` at ``params``.

    Parameters
    ----------
    f : callable
        ``f(params, x) -> (n, k)`` or ``(n,)``: a network, a model from :func:`nqm_tools.linearize` or
        :func:`nqm_tools.quadraticize`, or any JAX function.
    params
        Pytree of floating-point arrays.
    x1, x2
        Inputs (n1, ...) and (n2, ...); ``x2=None`` means ``x1``.
    memory : float
        Bytes that the computation may take besides its result. A kernel that needs more is computed in tiles: the same
        numbers, in more time.

    Returns
    -------
    jax.Array
        (n1, n2) for one output; (n1, n2, k, k) for several.

    Notes
    -----
    Computed by the structured derivatives of ``nt.empirical_ntk_fn`` for the package's networks, and by products of
    gradients, n k rows of all parameters, for other functions: all of them at once, or in tiles of examples and
    outputs. A tile is a gradient of one output of one example at least, whatever ``memory`` says.

    Where ``f`` makes its examples depend on each other (statistics of the batch, a random mask for the whole batch) the
    gradients are those of ``f`` on all of ``x1``, and on all of ``x2``, as gradient descent on a batch has them.

    Examples
    --------
    >>> x = jnp.array([[1.0, 2.0], [0.0, 3.0]])
    >>> f = lambda w, x: x @ w  # its gradient in w is x
    >>> empirical_ntk(f, jnp.zeros(2), x).tolist()
    [[5.0, 6.0], [6.0, 9.0]]
    """
    params, memory = check_params(params), check_rate("memory", memory)
    model, x1, k = check_model(f, params, x1, "x1")
    if x2 is not None:
        _, x2, _ = check_model(f, params, x2, "x2")
    kernel = kernel_of(model, params, x1, x2, memory=memory)(model, params, x1, x2)
    check_is_finite("the tangent kernel", kernel, params)
    return kernel[:, :, 0, 0] if k == 1 else kernel


def check_is_known(what: str, array: Array, params: PyTree) -> None:
    """Refuse what is being traced (where f reads it from around), infinity and NaN in what was computed at params."""
    check_not_traced(what, array)
    check_is_finite(what, array, params)


def check_is_finite(what: str, array: Array, params: PyTree) -> None:
    """Refuse infinity and NaN in what was computed at params, with what they come from."""
    if not is_finite(array):
        leaves = jax.tree.leaves(params)
        largest = max(float(jnp.abs(leaf).max()) for leaf in leaves if leaf.size)
        raise ValueError(
            f"{what} holds NaN or infinity at these params, whose largest number is {largest:.3g}: it overflows "
            f"{leaves[0].dtype}, as after a run that diverged, or f has no finite derivatives there"
        )


def kernel_of(
    model: Function,
    params: PyTree,
    x1: Real[Array, "n1 ..."],
    x2: Real[Array, "n2 ..."] | None = None,
    *,
    memory: float = MEMORY,
) -> Fresh:
    """The compiled :func:`tangent_kernel` for a model and inputs."""
    coupled = is_coupled(model, params, x1) or (x2 is not None and is_coupled(model, params, x2))
    return Fresh(functools.partial(tangent_kernel, coupled=coupled, memory=memory))


def tangent_kernel(
    model: Function,
    params: PyTree,
    x1: Real[ArrayLike, "n1 ..."],
    x2: Real[ArrayLike, "n2 ..."] | None = None,
    *,
    coupled: bool = False,
    memory: float = MEMORY,
) -> Float[Array, "n1 n2 k k"]:
    """The (n1, n2, k, k) kernel of a :class:`~nqm_tools.expansions.Model`, traceable and unchecked.

    ``x2 = None`` means x1, and costs half. ``coupled`` says that the model is one for :func:`is_coupled`.

    Examples
    --------
    >>> from nqm_tools.expansions import as_model
    >>> model = as_model(lambda w, x: x @ w)
    >>> jax.jit(lambda w, x: tangent_kernel(model, w, x))(jnp.zeros(2), jnp.eye(2)).shape
    (2, 2, 1, 1)
    """
    structured = _is_layered(model)
    return tiled_kernel(model, params, x1, x2, memory=memory, coupled=coupled, structured=structured)


def _is_layered(model):
    """Whether the function under a model is made of the package's layers.

    On them structured derivatives are the fastest and smallest; they do not know every primitive, though.
    """
    return architecture(getattr(model, "f", None)) is not None


def kernel_matrix(kernel: Float[ArrayLike, "n n"] | Float[ArrayLike, "n n k k"]) -> Float[ArrayLike, "rows rows"]:
    """A kernel of shape (n, n) or (n, n, k, k) as a symmetric (n k, n k) matrix.

    Examples
    --------
    >>> kernel = jnp.arange(16.0).reshape(2, 2, 2, 2)  # two examples, two outputs
    >>> kernel_matrix(kernel).tolist()
    [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0], [8.0, 9.0, 12.0, 13.0], [10.0, 11.0, 14.0, 15.0]]
    """
    if kernel.ndim == 2:
        return kernel
    n, _, k, _ = kernel.shape
    return kernel.transpose(0, 2, 1, 3).reshape(n * k, n * k)


def top_eigenpairs(
    f: Function, params: PyTree, x: Inputs, k: int = 1, *, memory: float = MEMORY
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "n k"] | Float[np.ndarray, "n outputs k"]]:
    """The ``k`` largest eigenvalues of the tangent kernel on ``x``, and their eigenvectors.

    Parameters
    ----------
    f, params, memory
        As in :func:`empirical_ntk`.
    x
        Inputs (n, ...).
    k : int
        How many; at most n times the number of outputs.

    Returns
    -------
    eigenvalues : numpy.ndarray
        (k,), largest first.
    eigenvectors : numpy.ndarray
        (n, k) for one output, (n, outputs, k) for several: normalised, in the order of the eigenvalues, each with a
        non-negative sum.

    Notes
    -----
    Up to 1,024 rows the kernel is built and decomposed. Beyond, ARPACK's restarted Lanczos iteration
    (``scipy.sparse.linalg.eigsh``) is driven by kernel-vector products ``J (J^T v)``: neither the kernel nor the
    Jacobian is stored. (It converges to rounding and copes with kernels of low rank, where plain Lanczos makes up
    eigenvalues.)

    Examples
    --------
    >>> x = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    >>> eigenvalues, eigenvectors = top_eigenpairs(lambda w, x: x @ w, jnp.zeros(2), x, k=2)
    >>> eigenvalues.tolist(), eigenvectors.tolist()
    ([4.0, 1.0], [[1.0, 0.0], [0.0, 1.0]])
    """
    params, memory = check_params(params), check_rate("memory", memory)
    model, x, outputs = check_model(f, params, x)
    rows = x.shape[0] * outputs
    k = check_whole("k", k)
    if k > rows:
        raise ValueError(f"k must be at most n times the number of outputs, {rows}; got {k}")
    check_not_traced("top_eigenpairs", model, params, x)
    if rows <= DENSE_ROWS or k >= rows - 1:
        matrix = kernel_matrix(kernel_of(model, params, x, memory=memory)(model, params, x))
        check_is_known("the tangent kernel", matrix, params)
        eigenvalues, eigenvectors = np.linalg.eigh(np.asarray(matrix))
    else:
        coupled = is_coupled(model, params, x)
        times = Fresh(functools.partial(kernel_vector_product, memory=memory, coupled=coupled))

        def product(v):
            moved = times(model, params, x, v.reshape(x.shape[0], outputs)).ravel()
            check_is_known("the tangent kernel", moved, params)
            return moved

        eigenvalues, eigenvectors = largest_eigenpairs(product, rows, k, jnp.result_type(*jax.tree.leaves(params)))
    order = np.argsort(eigenvalues)[::-1][:k]
    eigenvectors = eigenvectors[:, order]
    eigenvectors = eigenvectors * np.where(eigenvectors.sum(axis=0) < 0, -1, 1)
    shape = (x.shape[0], k) if outputs == 1 else (x.shape[0], outputs, k)
    return eigenvalues[order], eigenvectors.reshape(shape)


def largest_eigenpairs(
    product: Callable[[Float[np.ndarray, " size"]], Float[ArrayLike, " size"]], size: int, k: int, dtype: DTypeLike
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "size k"]]:
    """The k algebraically largest eigenpairs of a symmetric operator, by ARPACK, to rounding."""
    dtype = np.dtype(dtype)
    operator = scipy.sparse.linalg.LinearOperator(
        (size, size), matvec=lambda v: np.asarray(product(v.astype(dtype))), dtype=dtype
    )
    start = np.random.default_rng(0).standard_normal(size).astype(dtype)
    if not np.any(operator @ start):  # ARPACK refuses the zero operator
        return np.zeros(k, dtype), np.eye(size, k, dtype=dtype)
    return scipy.sparse.linalg.eigsh(operator, k=k, which="LA", v0=start)


def check_kernel(
    kernel: Real[ArrayLike, "n n"] | Real[ArrayLike, "n n outputs outputs"],
) -> tuple[int, Float[np.ndarray, "rows rows"], float]:
    """The number n of examples, a kernel as a matrix in float64, and below which its eigenvalues are zero to rounding.

    Raises
    ------
    TypeError, ValueError
        For what is no kernel of inputs with themselves.
    """
    kernel = np.asarray(check_numeric("kernel", kernel))
    if kernel.ndim not in (2, 4) or kernel.shape[0] != kernel.shape[1] or kernel.shape[2:3] != kernel.shape[3:]:
        raise ValueError(f"kernel must have shape (n, n) or (n, n, outputs, outputs); got {kernel.shape}")
    if kernel.size == 0:
        raise ValueError(f"kernel must be a non-empty array; got shape {kernel.shape}")
    matrix = np.asarray(kernel_matrix(kernel), dtype=float)
    if not np.isfinite(matrix).all():
        raise ValueError(
            "kernel must be finite; it holds NaN or infinity, as where it overflows after a run that diverged"
        )
    scale = np.abs(matrix).max()
    eps = float(jnp.finfo(kernel.dtype if jnp.issubdtype(kernel.dtype, jnp.floating) else float).eps)
    rounding = max(eps, 1e-4 if kernel.dtype.itemsize < 8 else 1e-8)
    if np.abs(matrix - matrix.T).max() > rounding * scale:
        raise ValueError("kernel must be symmetric: give the kernel of the training inputs with themselves")
    return kernel.shape[0], (matrix + matrix.T) / 2, len(matrix) * eps * scale


def critical_learning_rate(
    kernel: Real[ArrayLike, "n n"] | Real[ArrayLike, "n n outputs outputs"],
    loss: LossLike = "mse",
    momentum: float = 0.0,
    k: int = 1,
) -> float | Float[np.ndarray, " k"]:
    """The ``k`` smallest critical learning rates ``2/lambda_i`` of gradient descent on the named loss.

    Parameters
    ----------
    kernel
        A tangent kernel on the training inputs, (n, n) or (n, n, outputs, outputs), as :func:`empirical_ntk`
        returns it.
    loss : {"mse", "half_sum"} or Loss
        ``half_sum`` is ``1/2 sum r^2``: the rates are ``2/lambda_i``. ``mse`` is ``(1/n) sum r^2``: ``n/lambda_i``.
        Of constant curvature; for others there is :func:`nqm_tools.curvature.gauss_newton_sharpness`.
    momentum : float
        Of heavy-ball momentum, in [0, 1): all rates are ``1 + momentum`` times larger. (Nesterov's are
        ``(1 + momentum) / (1 + 2 momentum)`` times those without momentum.)
    k : int
        How many, smallest first. With k = 1 the result is a float, else an array (k,).

    Returns
    -------
    float or numpy.ndarray
        Infinite where the eigenvalue is zero to rounding.

    Raises
    ------
    TypeError, ValueError
        For a loss whose curvature is not constant, and for kernels that are none.

    Notes
    -----
    A linear model converges below the first and diverges above it. Wide networks and their quadratic models catapult
    between the first and about twice that (Zhu et al. 2024, Theorem 1).

    Examples
    --------
    >>> critical_learning_rate(np.diag([4.0, 1.0]), loss="half_sum", k=2)
    array([0.5, 2. ])
    """
    check_not_traced("critical_learning_rate", kernel)
    loss, momentum = find(loss), check_fraction("momentum", momentum)
    if loss.constant_curvature is None:
        raise ValueError(
            f"loss {loss.name!r} has no fixed critical learning rate, since its curvature changes with the outputs: "
            "at given parameters it is 2 / nqm_tools.curvature.gauss_newton_sharpness(f, params, x, y, loss)"
        )
    n, matrix, zero = check_kernel(kernel)
    k = check_whole("k", k)
    if k > len(matrix):
        raise ValueError(f"k must be at most the number of eigenvalues, {len(matrix)}; got {k}")
    eigenvalues = np.linalg.eigvalsh(matrix)[::-1][:k]
    with np.errstate(divide="ignore"):
        rates = np.where(eigenvalues > zero, 2 / np.abs(eigenvalues), np.inf)
    rates = rates * (1 + momentum) / (loss.constant_curvature * loss.weight(n))
    return float(rates[0]) if k == 1 else rates


class KernelStep(NamedTuple):
    """One gradient step of an NQM: ``K(t+1) = K - R_K`` and ``r(t+1) = (I - learning_rate K + R_f) r``.

    Attributes
    ----------
    kernel, R_K, R_f
        (n, n) for one output, (n, n, k, k) for several.
    residual
        (n, k).

    Examples
    --------
    >>> f, x = lambda w, x: x @ w + (x @ w) ** 2, jnp.eye(2)
    >>> step = kernel_step(f, jnp.zeros(2), jnp.ones(2), x, jnp.zeros(2), 0.1)
    >>> before = empirical_ntk(f, jnp.ones(2), x)
    >>> bool(jnp.allclose(step.kernel, before - step.R_K))
    True
    """

    kernel: Float[Array, "n n"] | Float[Array, "n n k k"]
    residual: Outputs
    R_f: Float[Array, "n n"] | Float[Array, "n n k k"]
    R_K: Float[Array, "n n"] | Float[Array, "n n k k"]


def kernel_step(
    f: Function, params0: PyTree, params: PyTree, x: Inputs, y: Targets, learning_rate: float
) -> KernelStep:
    """The exact change of an NQM's kernel and residual in one step of gradient descent.

    Parameters
    ----------
    f : callable
        The function whose quadratic model around ``params0`` makes the step; as in :func:`nqm_tools.quadraticize`.
    params0, params
        Expansion point, and parameters before the step.
    x, y
        Inputs (n, ...) and targets (n, k); (n,) for one output.
    learning_rate : float
        For the loss ``half_sum``, ``1/2 sum r^2`` (a rate for ``mse`` is to be multiplied by 2/n).

    Returns
    -------
    KernelStep
        ``kernel`` K(t+1), ``residual`` r(t+1), ``R_f``, ``R_K``.

    Notes
    -----
    With ``F`` the (n, p) Jacobian at ``params``, ``r`` the residual and ``G_i = (F^T r)^T H_f(x_i)``,

        r(t+1) = (I - learning_rate K + R_f) r,   R_f = 1/2 learning_rate^2 G F^T
        K(t+1) = K - R_K,   R_K = learning_rate (G F^T + F G^T) - learning_rate^2 G G^T

    for any quadratic model. (Zhu et al. 2024 print the correction to K with other constants; this form follows from
    ``F(t+1) = F - learning_rate G``.) ``G`` enters only through n x n products.

    Examples
    --------
    >>> f = lambda w, x: x @ w + (x @ w) ** 2
    >>> step = kernel_step(f, jnp.zeros(2), jnp.ones(2), jnp.eye(2), jnp.zeros(2), 0.1)
    >>> step.kernel.shape, step.residual.shape
    ((2, 2), (2, 1))
    """
    params0, params = check_params(params0, "params0"), check_params(params)
    check_same_structure(params, params0)
    rate = check_rate("learning_rate", learning_rate)
    _, x, k = check_model(f, params0, x)
    y = match_precision(check_targets("y", y, x.shape[0], k), params)
    # Of `f` itself, also where that is a Taylor model: the quadratic model of a linear one is linear.
    quad = QuadraticModel(f, params0)
    step = Fresh(functools.partial(_kernel_step, coupled=is_coupled(quad, params, x)))
    return KernelStep(*step(quad, params, x, y, rate))


def _kernel_step(quad, params, x, y, rate, coupled):
    def predict(p):
        return quad(p, x)

    prediction, vjp = jax.vjp(predict, params)
    residual = prediction - y
    (direction,) = vjp(residual)  # F^T r
    k = prediction.shape[1]

    def stacked(p, x):
        # The second half's gradient in p is G. So the kernel of both halves together consists of the products
        # F F^T, F G^T, G F^T and G G^T, and no n x p matrix is built.
        value, slope = jax.jvp(lambda p: quad(p, x), (p,), (direction,))
        return jnp.concatenate([value, slope], axis=1)

    structured = _is_layered(quad)
    blocks = tiled_kernel(stacked, params, x, None, memory=MEMORY, coupled=coupled, structured=structured)
    ff, fg = blocks[:, :, :k, :k], blocks[:, :, :k, k:]
    gf, gg = blocks[:, :, k:, :k], blocks[:, :, k:, k:]
    r_f = rate**2 / 2 * gf
    r_k = rate * (gf + fg) - rate**2 * gg
    next_residual = residual + jnp.einsum("ijab,jb->ia", r_f - rate * ff, residual)
    squeeze = (lambda block: block[:, :, 0, 0]) if k == 1 else (lambda block: block)
    return squeeze(ff - r_k), next_residual, squeeze(r_f), squeeze(r_k)
