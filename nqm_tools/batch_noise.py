"""When mini-batches, not the critical rate, bound the learning rate: the kernel norm, and the rate at which it is 1.

A linear model (a constant tangent kernel) is trained on batches of B of n examples, drawn anew at each step. Its mean
residual converges below the critical rate of gradient descent; its mean *square* need not, since each batch adds noise
in proportion to the residual. The kernel norm says by how much; where it reaches 1 the noise feeds itself. Agarwala and
Pennington (2024) call the place where networks stay just below it the stochastic edge of stability.

With ``x_a`` the kernel's eigenvalues times rate and loss's curvature, so that ``x = 2`` is the critical rate, mu the
momentum and ``f = (n - B)/(B (n - 1))``,

    w_a = f x_a / ((1 - mu)(2 - x_a/(1 + mu)))

is the variance that one unit of noise, spread over all examples, leaves in direction a.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, ArrayLike, Float, Real

from nqm_tools._types import Numbers
from nqm_tools._validation import check_choice, check_fraction, check_not_traced, check_rate, check_whole
from nqm_tools.kernels import check_kernel
from nqm_tools.losses import LossLike, find

__all__ = [
    "FORMS",
    "kernel_norm",
    "stochastic_critical_learning_rate",
]

FORMS = ("delocalised", "random", "exact")


def kernel_norm(
    kernel: Real[ArrayLike, "n n"] | Real[ArrayLike, "n n outputs outputs"],
    learning_rate: float,
    batch_size: int,
    *,
    loss: LossLike = "mse",
    momentum: float = 0.0,
    form: str = "delocalised",
) -> float:
    """The norm of a tangent kernel under the noise of mini-batches: at 1 linear training stops being stable.

    Parameters
    ----------
    kernel : array (n, n) or (n, n, outputs, outputs)
        Of the training inputs with themselves, symmetric.
    learning_rate : float
        In units of the loss.
    batch_size : int
        B, from 1 to n.
    loss : str or Loss
        A squared loss: ``"mse"`` or ``"half_sum"``.
    momentum : float
        Of heavy ball, mu in [0, 1).
    form : {"delocalised", "random", "exact"}
        ``"delocalised"``: ``K = sum_a w_a`` (see the module), the norm of Agarwala and Pennington (2024), extended to
        momentum. It takes each eigenvector for spread evenly over the examples. ``"random"``: ``sum_a w_a/(1 - w_a)``,
        for eigenvectors that are random directions, which meet themselves more often than others. ``"exact"``: with
        the kernel's own eigenvectors, the largest eigenvalue of the matrix N in the notes.

    Returns
    -------
    float
        0 for the whole batch; infinite at and beyond the critical rate of gradient descent, where no batch converges.

    Raises
    ------
    TypeError, ValueError
        For kernels that are none, impossible arguments, a loss whose curvature is not constant, and ``"exact"`` for a
        kernel of several outputs (the other forms take their mean over outputs, which is right where outputs share one
        kernel and do not mix).

    Notes
    -----
    Batches are drawn independently, without replacement (``train(batches="iid")``); :func:`nqm_tools.train`'s epochs
    differ from them by what one shuffle remembers.

    With eigenvectors V and ``d`` the diagonal of the residuals' second moments, ``d = N d`` at the threshold, where

        N_ik = b sum_jl V_ij V_kj V_il V_kl x_j x_l/(g_jl + f x_j x_l),   b = n (n - B)/(B (n - 1)),
        g_jl = (1 - mu)(x_j + x_l) - ((1 + mu^2) x_j x_l - mu (x_j^2 + x_l^2))/(1 - mu^2).

    Without momentum ``g_jl + f x_j x_l = x_j + x_l - (1 - f) x_j x_l``, and second moments shrink if and only if the
    largest eigenvalue of N is below 1, for a positive definite kernel (for others the residuals in its range). With
    momentum that eigenvalue, 0 for small rates, first reaches 1 at the rate at which the spectral radius of a step
    does (proofs in notebook 11); that it stays above is observed. The other forms drop what couples directions.
    ``sum_a w_a/(1 + w_a) <= N's largest eigenvalue`` for every kernel, with equality where every eigenvector is spread
    evenly.

    References
    ----------
    Agarwala and Pennington (2024), "High dimensional analysis reveals conservative sharpening and a stochastic edge of
    stability", arXiv:2404.19261. The random and exact forms and the momentum are ours.

    Examples
    --------
    >>> kernel = np.diag([4.0, 4.0, 4.0, 4.0])
    >>> kernel_norm(kernel, 0.5, 2, loss="half_sum")  # each x_a is 1
    1.3333333333333333
    >>> kernel_norm(kernel, 0.25, 4, loss="half_sum")
    0.0
    """
    check_not_traced("kernel_norm", kernel)
    moves, n, momentum, form = _check(kernel, batch_size, loss, momentum, form)
    return _norm(*moves(check_rate("learning_rate", learning_rate)), n, batch_size, momentum, form)


def stochastic_critical_learning_rate(
    kernel: Real[ArrayLike, "n n"] | Real[ArrayLike, "n n outputs outputs"],
    batch_size: int,
    *,
    loss: LossLike = "mse",
    momentum: float = 0.0,
    form: str = "delocalised",
) -> float:
    """The largest learning rate at which mini-batches are stable in mean square: :func:`kernel_norm` is 1 there.

    Parameters
    ----------
    kernel, batch_size, loss, momentum, form
        As in :func:`kernel_norm`.

    Returns
    -------
    float
        In units of the loss; for ``mse`` never above :func:`nqm_tools.critical_learning_rate`, which it is for the
        whole batch. (``half_sum`` adds up the batch alone, so that a step is B/n of the whole batch's.) Infinite for a
        kernel that is zero.

    Raises
    ------
    TypeError, ValueError
        As :func:`kernel_norm`.

    Examples
    --------
    >>> kernel = np.diag([4.0, 4.0, 4.0, 4.0])
    >>> round(stochastic_critical_learning_rate(kernel, 2, loss="half_sum"), 12)
    0.428571428571
    >>> stochastic_critical_learning_rate(kernel, 2, loss="half_sum", form="exact")  # examples on their own
    0.5
    """
    check_not_traced("stochastic_critical_learning_rate", kernel)
    moves, n, momentum, form = _check(kernel, batch_size, loss, momentum, form)
    x, _ = moves(1.0)
    if not x.max() > 0:
        return float("inf")
    critical = 2 * (1 + momentum) / x.max()
    if batch_size == n:
        return float(critical)

    def excess(share):
        # The norm goes from 0 to infinity; of its inverse the root is as well conditioned at both ends.
        norm = _norm(*moves(share * critical), n, batch_size, momentum, form)
        return 1 - 1 / max(norm, 1e-300)

    return float(critical * scipy.optimize.brentq(excess, 1e-9 * (1 - momentum) / n, 1, xtol=1e-18, rtol=1e-13))


def _check(kernel, batch_size, loss, momentum, form):
    """Eigenvalues ``x`` and eigenvectors as a function of the rate, the number of examples, momentum and form."""
    n, matrix, zero = check_kernel(kernel)
    if check_whole("batch_size", batch_size) > n:
        raise ValueError(f"batch_size must be at most the kernel's number of examples, {n}; got {batch_size}")
    form = check_choice("form", form, FORMS)
    if form == "exact" and len(matrix) != n:
        raise ValueError(
            f"form 'exact' is for one output; this kernel has {len(matrix) // n}: give the kernel of one of them"
        )
    eigenvalues, vectors = np.linalg.eigh(matrix)
    eigenvalues = np.where(eigenvalues > zero, eigenvalues, 0.0)
    factor = curvature_of_a_step(find(loss), n, batch_size)
    return (
        lambda rate: (factor * rate * eigenvalues, vectors),
        n,
        check_fraction("momentum", momentum),
        form,
    )


def curvature_of_a_step(loss, n, batch_size):
    """What rate and eigenvalue of the kernel on all n examples are multiplied with for a step on the mean batch.

    Raises
    ------
    ValueError
        For a loss whose curvature is not constant.
    """
    if loss.constant_curvature is None:
        raise ValueError(
            "the kernel norm is of losses of constant curvature, 'mse' and 'half_sum'; the loss is " + repr(loss.name)
        )
    return loss.constant_curvature * loss.weight(batch_size) * batch_size / n


def noise_share(n: int, batch_size: int) -> float:
    """``f = (n - B)/(B (n - 1))``: 0 for the whole batch, 1 for single examples."""
    return (n - batch_size) / (batch_size * max(n - 1, 1))


def variances(x: Numbers, share: float, momentum: float) -> Numbers:
    """``w_a`` of the module, for x below the critical ``2 (1 + momentum)``."""
    return share * x / ((1 - momentum) * (2 - x / (1 + momentum)))


def _norm(x, vectors, n, batch_size, momentum, form):
    share = noise_share(n, batch_size)
    if x.max() >= 2 * (1 + momentum):
        return float("inf")
    if form == "exact":
        return _radius(x, vectors, n * share, share, momentum)
    outputs = len(x) // n
    w = variances(x, share, momentum)
    if form == "delocalised":
        return float(w.sum() / outputs)
    return float((w / (1 - w)).sum() / outputs) if w.max() < 1 else float("inf")


def _radius(x, vectors, b, share, momentum):
    response = _response(np, x, share, momentum)
    products = (vectors * v for v in vectors)
    rows = np.array([((row @ response) * row).sum(axis=1) for row in products])
    return float(b * np.linalg.eigvalsh((rows + rows.T) / 2)[-1])


def exact_norm(
    x: Float[Array, " n"], vectors: Float[Array, "n n"], n: int, share: float, momentum: float
) -> Float[Array, ""]:
    """``form="exact"`` of :func:`kernel_norm` inside JAX, for one output and x below critical."""
    response = _response(jnp, x, share, momentum)

    def row(v):
        products = vectors * v
        return ((products @ response) * products).sum(axis=1)

    rows = jax.lax.map(row, vectors)
    return n * share * jnp.linalg.eigvalsh((rows + rows.T) / 2)[-1]


def _response(xp, x, share, momentum):
    """``x_j x_l/(g_jl + f x_j x_l)`` of the notes; 0 for directions without a kernel, which noise does not reach."""
    one, other = x[:, None], x[None, :]
    product = one * other
    turned = (1 + momentum**2) * product - momentum * (one**2 + other**2)
    g = (1 - momentum) * (one + other) - turned / (1 - momentum**2)
    some = product > 0
    return xp.where(some, product / xp.where(some, g + share * product, 1.0), 0.0)
