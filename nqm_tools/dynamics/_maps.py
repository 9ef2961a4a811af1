"""Steps of gradient descent on quadratic models, exact and in few numbers, and the units they are in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from nqm_tools._types import Numbers
from nqm_tools._validation import check_inputs, check_numeric, check_rate, check_whole

_State = TypeVar("_State")


class OneExample(NamedTuple):
    """Prediction ``g`` and tangent kernel ``lambda`` of a model of one example."""

    prediction: Numbers
    kernel: Numbers


class Dimensionless(NamedTuple):
    """``u = c eta^2 r^2``, ``v = eta lambda``, ``w = c eta^2 r y``; ``w`` is zero for y = 0."""

    u: Numbers
    v: Numbers
    w: Numbers


class Signed(NamedTuple):
    """``z = sqrt(c) eta r`` and ``v = eta lambda``: as (u, v, w), with the sign of the residual."""

    z: Numbers
    v: Numbers


class ManyExamples(NamedTuple):
    """Residual (n,) and tangent kernel's eigenvalues (2,): of the examples with x >= 0, of those with x < 0."""

    residual: Float[ArrayLike, " n"]
    kernel: Float[ArrayLike, "2"]


class Quadratic(NamedTuple):
    """Jacobian (n, p) and residual (n,) of any quadratic model with one output."""

    jacobian: Float[ArrayLike, "n p"]
    residual: Float[ArrayLike, " n"]


def one_example_step(state: OneExample, learning_rate: Numbers, c: Numbers, y: Numbers = 0) -> OneExample:
    """One gradient step of the quadratic model of a two-layer ReLU network on one example.

    Parameters
    ----------
    state : OneExample
    learning_rate : float or array
        For ``half_sum``.
    c : float or array
        ``|x|^2 / (m d)``, see :func:`coupling`. For a general quadratic model see
        :func:`nqm_tools.quadratic.exact_map`; with y = 0 and ``c = gamma^2 |x|^2`` this is Proposition 10.
    y : float or array
        The target.

    Returns
    -------
    OneExample

    Notes
    -----
    Zhu et al. (2024), section on one example; exact.
    """
    g, kernel = state
    r = g - y
    v = learning_rate * kernel
    factor = 1 - v + c * learning_rate**2 * r * g
    return OneExample(y + factor * r, kernel - learning_rate * c * r * (4 * g - v * r))


def dimensionless_step(state: Dimensionless) -> Dimensionless:
    """:func:`one_example_step` in ``(u, v, w)``: ``u' = (1-v+u+w)^2 u, v' = v - u(4-v) - 4w, w' = (1-v+u+w) w``."""
    u, v, w = state
    factor = 1 - v + u + w
    return Dimensionless(factor * factor * u, v - u * (4 - v) - 4 * w, factor * w)


def signed_step(state: Signed, beta: Numbers = 0) -> Signed:
    """:func:`one_example_step` in ``(z, v)``, with ``beta = sqrt(c) eta y``."""
    z, v = state
    u, w = z * z, beta * z
    return Signed((1 - v + u + w) * z, v - u * (4 - v) - 4 * w)


class SignGroups(NamedTuple):
    """The eigendirections of one-dimensional data: unit vectors (2, n) and ``c = |p|^2 / m`` of each, (2,)."""

    directions: Float[Array, "2 n"]
    c: Float[Array, "2"]


def sign_groups(x: Real[ArrayLike, " n"] | Real[ArrayLike, "n 1"], width: int) -> SignGroups:
    """The two groups of one-dimensional examples: those with x >= 0 and those with x < 0.

    Parameters
    ----------
    x
        Inputs, (n,) or (n, 1).
    width : int
        The network's width m.

    Returns
    -------
    SignGroups
        A group without examples has a zero direction and ``c = 0``.

    Notes
    -----
    The tangent kernel of the quadratic model of a two-layer ReLU network on such data has rank at most 2 at every
    step, with these eigenvectors. Follow its eigenvalues by group (:func:`group_eigenvalues`), not sorted: they cross.
    """
    x = check_inputs("x", x)
    if x.ndim > 2 or (x.ndim == 2 and x.shape[1] != 1):
        raise ValueError(f"x must hold one-dimensional inputs, (n,) or (n, 1); got {x.shape}")
    x = jnp.ravel(jnp.asarray(x))
    masked = jnp.stack([jnp.where(x >= 0, x, 0), jnp.where(x < 0, x, 0)])
    norms = jnp.sqrt(jnp.sum(masked**2, axis=1))
    return SignGroups(masked / jnp.where(norms > 0, norms, 1)[:, None], norms**2 / check_whole("width", width))


def group_eigenvalues(kernel: Float[ArrayLike, "n n"], groups: SignGroups) -> Float[Array, "2"]:
    """``p^T K p`` along both directions, (2,), of a kernel (n, n)."""
    return jnp.einsum("gi,ij,gj->g", groups.directions, kernel, groups.directions)


def many_examples_step(
    state: ManyExamples, learning_rate: Numbers, targets: Real[ArrayLike, " n"], groups: SignGroups
) -> ManyExamples:
    """One gradient step of the quadratic model of a two-layer ReLU network on one-dimensional examples.

    Parameters
    ----------
    state : ManyExamples
    learning_rate : float or array
        For ``half_sum``.
    targets
        (n,).
    groups : SignGroups
        From :func:`sign_groups`.

    Returns
    -------
    ManyExamples

    Notes
    -----
    Each direction follows :func:`one_example_step` with its own c and the projected target; what is outside of both
    never changes (Zhu et al. 2024, Proposition 9). Exact.
    """
    directions, c = groups
    r, y = directions @ state.residual, directions @ targets
    after = one_example_step(OneExample(r + y, state.kernel), learning_rate, c, y)
    return ManyExamples(state.residual + directions.T @ (after.prediction - y - r), after.kernel)


def quadratic_step(
    state: Quadratic,
    learning_rate: Numbers,
    hessian_product: Callable[[Float[ArrayLike, " p"]], Float[ArrayLike, "n p"]],
) -> Quadratic:
    """One gradient step of any quadratic model, ``F' = F - eta G``, ``r' = (I - eta K + 1/2 eta^2 G F^T) r``.

    Parameters
    ----------
    state : Quadratic
        ``F`` (n, p) and ``r`` (n,); the tangent kernel is ``K = F F^T``.
    learning_rate : float or array
        For ``half_sum``.
    hessian_product : callable
        ``hessian_product(direction)`` with a direction (p,) gives the rows ``H_i direction``, (n, p).

    Returns
    -------
    Quadratic

    Notes
    -----
    ``G_i = H_i F^T r``. Hence ``K' = K - eta (G F^T + F G^T) + eta^2 G G^T``;
    :func:`nqm_tools.kernel_step` computes that for a network without its Hessians.
    """
    jacobian, residual = state
    direction = residual @ jacobian
    g = hessian_product(direction)
    moved = residual - learning_rate * (jacobian @ direction) + learning_rate**2 / 2 * (g @ direction)
    return Quadratic(jacobian - learning_rate * g, moved)


def iterate(step: Callable[[_State], _State], state: _State, steps: int) -> _State:
    """The states after 0, 1, ..., ``steps`` steps, stacked along a new first axis.

    Parameters
    ----------
    step : callable
        ``step(state) -> state``; bind other arguments with ``functools.partial`` or a lambda.
    state
        A NamedTuple of floats or arrays, such as :class:`Dimensionless`.
    steps : int
    """
    steps = check_whole("steps", steps, minimum=0)
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf, float)), state)
    _, path = jax.lax.scan(lambda carry, _: (step(carry), carry), state, length=steps + 1)
    return path


def coupling(x: Real[ArrayLike, " d"] | Real[ArrayLike, "1 ..."], width: int) -> float:
    """``c = |x|^2 / (m d)`` of one input x, (d,) or (1, ...), and a two-layer network of width m."""
    shape = np.shape(check_numeric("x", x))
    x = np.ravel(x)
    if (len(shape) > 1 and shape[0] != 1) or shape == () or not x.size or not np.isfinite(x).all():
        raise ValueError(f"x must be one finite input, (d,) or (1, ...) with its batch axis; got shape {shape}")
    return float(x @ x) / (check_whole("width", width) * x.size)


def dimensionless(
    prediction: Numbers, kernel: Numbers, learning_rate: Numbers, c: Numbers, y: Numbers = 0
) -> Dimensionless:
    """``(u, v, w)`` of a prediction and a tangent kernel; arguments as in :func:`one_example_step`."""
    r = prediction - y
    scale = c * learning_rate**2
    return Dimensionless(scale * r * r, learning_rate * kernel, scale * r * y)


def loss_from_u(u: Numbers, learning_rate: float, c: Numbers) -> Numbers:
    """The loss ``half_sum``, ``1/2 r^2 = u / (2 c eta^2)``."""
    return u / (2 * c * check_rate("learning_rate", learning_rate) ** 2)


def kernel_from_v(v: Numbers, learning_rate: float) -> Numbers:
    """The tangent kernel, ``lambda = v / eta``."""
    return v / check_rate("learning_rate", learning_rate)
