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
    """Prediction ``g`` and tangent kernel ``lambda`` of a model of one example.

    Examples
    --------
    >>> one_example_step(OneExample(prediction=1.0, kernel=1.0), learning_rate=0.5, c=0.0)  # a linear model
    OneExample(prediction=0.5, kernel=1.0)
    """

    prediction: Numbers
    kernel: Numbers


class Dimensionless(NamedTuple):
    """``u = c eta^2 r^2``, ``v = eta lambda``, ``w = c eta^2 r y``; ``w`` is zero for y = 0.

    Examples
    --------
    >>> dimensionless(prediction=2.0, kernel=3.0, learning_rate=0.5, c=0.25)
    Dimensionless(u=0.25, v=1.5, w=0.0)
    """

    u: Numbers
    v: Numbers
    w: Numbers


class Signed(NamedTuple):
    """``z = sqrt(c) eta r`` and ``v = eta lambda``: as (u, v, w), with the sign of the residual.

    Examples
    --------
    >>> signed_step(Signed(z=0.5, v=2.5))
    Signed(z=-0.625, v=2.125)
    """

    z: Numbers
    v: Numbers


class ManyExamples(NamedTuple):
    """Residual (n,) and tangent kernel's eigenvalues (2,): of the examples with x >= 0, of those with x < 0.

    Examples
    --------
    >>> groups = sign_groups(np.array([3.0, 4.0, -1.0]), width=100)
    >>> state = ManyExamples(residual=np.array([0.3, 0.4, -0.1]), kernel=np.array([2.0, 5.0]))
    >>> after = many_examples_step(state, 0.1, np.zeros(3), groups)
    >>> np.asarray(after.residual, float).round(4).tolist()
    [0.2402, 0.3203, -0.05]
    """

    residual: Float[ArrayLike, " n"]
    kernel: Float[ArrayLike, "2"]


class Quadratic(NamedTuple):
    """Jacobian (n, p) and residual (n,) of any quadratic model with one output.

    Examples
    --------
    >>> state = Quadratic(jacobian=np.array([[1.0, 0.0]]), residual=np.array([2.0]))
    >>> quadratic_step(state, 0.5, lambda direction: direction[None]).jacobian.tolist()  # Hessian 1
    [[0.0, 0.0]]
    """

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

    Examples
    --------
    >>> state = OneExample(prediction=1.0, kernel=5.0)
    >>> one_example_step(state, learning_rate=0.5, c=0.25)
    OneExample(prediction=-1.4375, kernel=4.8125)
    """
    g, kernel = state
    r = g - y
    v = learning_rate * kernel
    factor = 1 - v + c * learning_rate**2 * r * g
    return OneExample(y + factor * r, kernel - learning_rate * c * r * (4 * g - v * r))


def dimensionless_step(state: Dimensionless) -> Dimensionless:
    """:func:`one_example_step` in ``(u, v, w)``: ``u' = (1-v+u+w)^2 u, v' = v - u(4-v) - 4w, w' = (1-v+u+w) w``.

    Examples
    --------
    >>> dimensionless_step(Dimensionless(u=0.25, v=2.5, w=0.125))
    Dimensionless(u=0.31640625, v=1.625, w=-0.140625)
    """
    u, v, w = state
    factor = 1 - v + u + w
    return Dimensionless(factor * factor * u, v - u * (4 - v) - 4 * w, factor * w)


def signed_step(state: Signed, beta: Numbers = 0) -> Signed:
    """:func:`one_example_step` in ``(z, v)``, with ``beta = sqrt(c) eta y``.

    Examples
    --------
    >>> z, v = signed_step(Signed(z=0.5, v=2.5))
    >>> z**2, v  # u and v of dimensionless_step
    (0.390625, 2.125)
    """
    z, v = state
    u, w = z * z, beta * z
    return Signed((1 - v + u + w) * z, v - u * (4 - v) - 4 * w)


class SignGroups(NamedTuple):
    """The eigendirections of one-dimensional data: unit vectors (2, n) and ``c = |p|^2 / m`` of each, (2,).

    Examples
    --------
    >>> groups = sign_groups(np.array([3.0, 4.0, -1.0]), width=100)
    >>> np.asarray(groups.c, float).round(4).tolist()
    [0.25, 0.01]
    """

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

    Examples
    --------
    >>> directions, c = sign_groups(np.array([3.0, 4.0, -1.0]), width=100)
    >>> np.asarray(directions, float).round(4).tolist()  # unit vectors
    [[0.6, 0.8, 0.0], [0.0, 0.0, -1.0]]
    """
    x = check_inputs("x", x)
    if x.ndim > 2 or (x.ndim == 2 and x.shape[1] != 1):
        raise ValueError(f"x must hold one-dimensional inputs, (n,) or (n, 1); got {x.shape}")
    x = jnp.ravel(jnp.asarray(x))
    masked = jnp.stack([jnp.where(x >= 0, x, 0), jnp.where(x < 0, x, 0)])
    norms = jnp.sqrt(jnp.sum(masked**2, axis=1))
    return SignGroups(masked / jnp.where(norms > 0, norms, 1)[:, None], norms**2 / check_whole("width", width))


def group_eigenvalues(kernel: Float[ArrayLike, "n n"], groups: SignGroups) -> Float[Array, "2"]:
    """``p^T K p`` along both directions, (2,), of a kernel (n, n).

    Examples
    --------
    >>> x = np.array([3.0, 4.0, -1.0])
    >>> kernel = np.where(np.outer(x, x) > 0, np.outer(x, x), 0)
    >>> group_eigenvalues(kernel, sign_groups(x, width=100)).round(4).tolist()
    [25.0, 1.0]
    """
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

    Examples
    --------
    >>> groups = sign_groups(np.array([3.0, 4.0, -1.0]), width=100)
    >>> state = ManyExamples(np.array([0.3, 0.4, -0.1]), np.array([2.0, 5.0]))
    >>> after = many_examples_step(state, 0.1, np.zeros(3), groups)
    >>> np.asarray(after.kernel, float).round(4).tolist()
    [1.9763, 5.0]
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

    Examples
    --------
    >>> state = Quadratic(np.array([[1.0, 0.0]]), np.array([2.0]))  # g = w_1 + |w|^2 / 2 at w = 0, y = -2
    >>> quadratic_step(state, 0.5, lambda direction: direction[None])
    Quadratic(jacobian=array([[0., 0.]]), residual=array([1.5]))
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

    Examples
    --------
    >>> path = iterate(dimensionless_step, Dimensionless(1e-3, 2.5, 0.0), steps=100)
    >>> path.u.shape, round(float(path.v[-1]), 3)
    ((101,), 1.28)
    """
    steps = check_whole("steps", steps, minimum=0)
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf, float)), state)
    _, path = jax.lax.scan(lambda carry, _: (step(carry), carry), state, length=steps + 1)
    return path


def coupling(x: Real[ArrayLike, " d"] | Real[ArrayLike, "1 ..."], width: int) -> float:
    """``c = |x|^2 / (m d)`` of one input x, (d,) or (1, ...), and a two-layer network of width m.

    Examples
    --------
    >>> coupling(np.array([3.0, 4.0]), width=100)  # 25 / (100 * 2)
    0.125
    """
    shape = np.shape(check_numeric("x", x))
    x = np.ravel(x)
    if (len(shape) > 1 and shape[0] != 1) or shape == () or not x.size or not np.isfinite(x).all():
        raise ValueError(f"x must be one finite input, (d,) or (1, ...) with its batch axis; got shape {shape}")
    return float(x @ x) / (check_whole("width", width) * x.size)


def dimensionless(
    prediction: Numbers, kernel: Numbers, learning_rate: Numbers, c: Numbers, y: Numbers = 0
) -> Dimensionless:
    """``(u, v, w)`` of a prediction and a tangent kernel; arguments as in :func:`one_example_step`.

    Examples
    --------
    >>> dimensionless(prediction=3.0, kernel=2.0, learning_rate=0.5, c=0.25, y=1.0)
    Dimensionless(u=0.25, v=1.0, w=0.125)
    """
    r = prediction - y
    scale = c * learning_rate**2
    return Dimensionless(scale * r * r, learning_rate * kernel, scale * r * y)


def loss_from_u(u: Numbers, learning_rate: float, c: Numbers) -> Numbers:
    """The loss ``half_sum``, ``1/2 r^2 = u / (2 c eta^2)``.

    Examples
    --------
    >>> loss_from_u(0.25, learning_rate=0.5, c=0.25)
    2.0
    """
    return u / (2 * c * check_rate("learning_rate", learning_rate) ** 2)


def kernel_from_v(v: Numbers, learning_rate: float) -> Numbers:
    """The tangent kernel, ``lambda = v / eta``.

    Examples
    --------
    >>> kernel_from_v(1.5, learning_rate=0.5)
    3.0
    """
    return v / check_rate("learning_rate", learning_rate)
