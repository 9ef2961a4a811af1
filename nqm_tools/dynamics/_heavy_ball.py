"""Heavy-ball momentum on one example: a map of four numbers from rest, of six for any velocity.

In the symmetric and antisymmetric halves of the weights every component is multiplied by one and the same scalar
recursion, so what the weights do is what two lengths do. The same of an output whose Hessian has two eigenvalues of
unequal size, 1 and ``-epsilon`` (:func:`two_eigenvalue_step`): the halves are the parts in its two eigenspaces.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import numpy as np

from nqm_tools._types import Numbers
from nqm_tools._validation import check_fraction, check_number
from nqm_tools.dynamics._checks import SLACK, Answer, check_float64, refuse, scalar
from nqm_tools.dynamics._maps import Signed


class HeavyBall(NamedTuple):
    """Heavy ball from rest: ``X`` and ``Y``, now and one step before.

    ``X^2 = v/2 + (z + beta)`` and ``Y^2 = v/2 - (z + beta)``. Both are signed: with momentum they can pass through 0.
    For two eigenvalues ``X^2 = (v + 2 epsilon (z + beta))/(1 + epsilon)``, ``Y^2 = (v - 2 (z + beta))/(1 + epsilon)``.

    Examples
    --------
    >>> heavy_ball_step(HeavyBall(1.25, 1.25, 0.75, 0.75), momentum=0.5)
    HeavyBall(x=0.625, x_before=1.25, y=1.125, y_before=0.75)
    """

    x: Numbers
    x_before: Numbers
    y: Numbers
    y_before: Numbers


class HeavyBallGram(NamedTuple):
    """Heavy ball with any velocity: the squares and products of both halves of the weights, now and one step before.

    ``xx`` is ``X^2`` of :class:`HeavyBall`, ``xx_before`` that of the step before, ``x_between`` the scalar product of
    the two; so for ``Y``. ``xx xx_before - x_between^2`` is zero from rest, and falls by exactly ``momentum^2`` a step.

    Examples
    --------
    >>> after = heavy_ball_step(HeavyBallGram(2.0, 0.0, 1.0, 1.0, 0.0, 1.0), momentum=0.5)
    >>> after.xx * after.xx_before - after.x_between**2
    0.5
    """

    xx: Numbers
    x_between: Numbers
    xx_before: Numbers
    yy: Numbers
    y_between: Numbers
    yy_before: Numbers


_AnyHeavyBall = TypeVar("_AnyHeavyBall", HeavyBall, HeavyBallGram)


def heavy_ball_state(
    prediction: Numbers, kernel: Numbers, learning_rate: Numbers, c: Numbers, epsilon: Numbers = 1
) -> HeavyBall:
    """The state of a run that starts at rest, from its prediction and its tangent kernel.

    Parameters
    ----------
    prediction, kernel
        ``g`` and ``lambda`` of the quadratic model of a two-layer ReLU network on one example; of a general quadratic
        model ``g + shift`` (:func:`nqm_tools.quadratic.exact_map`); of one-dimensional data the components along both
        sign groups (:func:`sign_groups`), which move independently. Arrays are taken elementwise.
    learning_rate, c
        As in :func:`one_example_step`. The target enters with the steps, as ``beta = sqrt(c) eta y``.
    epsilon
        Of ``1/2 w^T H w`` where H has the eigenvalues ``sqrt(c)`` and ``-epsilon sqrt(c)``; from 0 to 1.

    Returns
    -------
    HeavyBall

    Raises
    ------
    ValueError
        For a kernel below ``2 sqrt(c) |g|`` (``2 sqrt(c) epsilon |g|`` for a negative g), which no such model has, but
        for rounding. Not inside ``jit``: NaN there.

    Examples
    --------
    >>> state = heavy_ball_state(0.1, 1.0, learning_rate=2.1, c=1e-3)
    >>> z, v = heavy_ball_observables(state)
    >>> round(z, 4), round(v, 4)
    (0.0066, 2.1)
    """
    size, signed = learning_rate * kernel, c**0.5 * learning_rate * prediction
    xx, yy = (size + 2 * epsilon * signed) / (1 + epsilon), (size - 2 * signed) / (1 + epsilon)
    if not any(isinstance(value, jax.core.Tracer) for value in (xx, yy)):
        least = "at least 2 sqrt(c) |prediction|"
        if np.any(np.asarray(epsilon) != 1):
            least += ", times epsilon for a negative one"
        # A sum of squares that a network computed in float32 may be a little less than 0.
        slack = SLACK * size
        refuse((xx < -slack) | (yy < -slack), "kernel", least, np.asarray(kernel))
        xx, yy = (np.maximum(square, 0) if np.any(square < 0) else square for square in (xx, yy))
    x, y = xx**0.5, yy**0.5
    return HeavyBall(x, x, y, y)


def heavy_ball_gram(
    prediction: tuple[Numbers, Numbers, Numbers],
    kernel: tuple[Numbers, Numbers, Numbers],
    learning_rate: Numbers,
    c: Numbers,
) -> HeavyBallGram:
    """The state of a run with any velocity, from its weights ``w`` now and ``w_before`` one step before.

    Parameters
    ----------
    prediction
        ``g(w)``, ``g(w, w_before) = 1/2 grad g(w) . w_before`` and ``g(w_before)``: the model is a quadratic form in
        its weights, and the middle one is its bilinear form.
    kernel
        ``|grad g(w)|^2``, ``grad g(w) . grad g(w_before)`` and ``|grad g(w_before)|^2``.
    learning_rate, c
        As in :func:`heavy_ball_state`.

    Returns
    -------
    HeavyBallGram

    Examples
    --------
    >>> heavy_ball_gram((0.1, 0.1, 0.1), (1.0, 1.0, 1.0), learning_rate=2.0, c=1e-2).xx
    1.02
    """
    halves = [learning_rate * k / 2 for k in kernel], [c**0.5 * learning_rate * g for g in prediction]
    sums = [size + signed for size, signed in zip(*halves, strict=True)]
    differences = [size - signed for size, signed in zip(*halves, strict=True)]
    return HeavyBallGram(*sums, *differences)


def heavy_ball_step(state: _AnyHeavyBall, momentum: Numbers, beta: Numbers = 0, epsilon: Numbers = 1) -> _AnyHeavyBall:
    """One step of heavy ball, ``w' = w - eta grad + momentum (w - w_before)``, on one example.

    Parameters
    ----------
    state : HeavyBall or HeavyBallGram
    momentum
        ``mu`` in [0, 1); 0 is gradient descent, :func:`signed_step`.
    beta
        ``sqrt(c) eta y``.
    epsilon
        As in :func:`heavy_ball_state`; with momentum 0 the step is then :func:`two_eigenvalue_step`.

    Returns
    -------
    HeavyBall or HeavyBallGram

    Notes
    -----
    ``X' = (1 + mu - z) X - mu X_before``, ``Y' = (1 + mu + epsilon z) Y - mu Y_before`` with
    ``z = (X^2 - Y^2)/2 - beta``; exact for the quadratic model of a two-layer ReLU network and for general quadratic
    models with ``Sigma^3 = s^2 Sigma`` (epsilon = 1), and for two eigenvalues. The kernel is stable below
    ``v = 2 (1 + mu)``.

    Examples
    --------
    >>> state = heavy_ball_step(HeavyBall(1.0, 1.0, 1.0, 1.0), momentum=0.5, beta=0.25)
    >>> state.x, state.y
    (1.25, 0.75)
    """
    z = heavy_ball_observables(state, beta).z
    for_x, for_y = 1 + momentum - z, 1 + momentum + epsilon * z
    if isinstance(state, HeavyBall):
        x, x_before, y, y_before = state
        return HeavyBall(for_x * x - momentum * x_before, x, for_y * y - momentum * y_before, y)
    xx, x_between, xx_before, yy, y_between, yy_before = state
    return HeavyBallGram(
        *_moved(for_x, momentum, xx, x_between, xx_before), *_moved(for_y, momentum, yy, y_between, yy_before)
    )


def _moved(factor, momentum, square, between, before):
    """Squares and products of ``factor p - momentum p_before`` and ``p``."""
    new = factor * factor * square - 2 * factor * momentum * between + momentum * momentum * before
    return new, factor * square - momentum * between, square


def heavy_ball_observables(state: HeavyBall | HeavyBallGram, beta: Numbers = 0, epsilon: Numbers = 1) -> Signed:
    """Residual and tangent kernel without units, ``z = sqrt(c) eta r`` and ``v = eta lambda = X^2 + epsilon Y^2``.

    Examples
    --------
    >>> heavy_ball_observables(HeavyBall(1.25, 1.0, 0.75, 1.0), beta=0.25)
    Signed(z=0.25, v=2.125)
    """
    if isinstance(state, HeavyBall):
        xx, yy = state.x * state.x, state.y * state.y
    else:
        xx, yy = state.xx, state.yy
    return Signed((xx - yy) / 2 - beta, xx + epsilon * yy)


def transient_growth(momentum: Numbers) -> Answer:
    """How many times heavy ball from rest can raise a small loss below its critical rate: ``((1 + mu)/(1 - mu))^2``.

    Notes
    -----
    Proved for the linear model: with the two roots of modulus at most 1 and product mu, the residual after t steps is
    at most ``(1 + mu - 2 mu^(t+1))/(1 - mu)`` times the first one, and comes near it just below the critical rate.
    So a rise of the loss alone is no catapult where there is momentum.

    Examples
    --------
    >>> transient_growth(0.9)
    361.0...
    """
    (momentum,) = check_momentum(momentum=momentum)
    return scalar(((1 + momentum) / (1 - momentum)) ** 2)


def check_momentum(momentum, **values):
    """``momentum`` in [0, 1) and other numbers, as float64 arrays of one shape; momentum first."""
    if np.ndim(momentum) == 0 and not isinstance(momentum, np.ndarray):
        check_fraction("momentum", momentum)
    arrays = check_float64(momentum=momentum, **values)
    refuse((arrays[0] < 0) | (arrays[0] >= 1), "momentum", "in [0, 1)", arrays[0])
    return arrays


def multipliers_at_rest(v: float, momentum: float) -> np.ndarray:
    """Of the four numbers at ``z = 0``: 1 and mu along the line, and the roots of ``s^2 - (1 + mu - v) s + mu``."""
    return by_modulus(np.concatenate([[1.0, momentum], np.roots([1.0, -(1 + momentum - v), momentum])]))


def isolated(momentum: float, beta: float) -> list[tuple[float, float, int, np.ndarray]]:
    """``(z, v, period, multipliers)`` of the places off the line ``z = 0`` that (X, Y) returns to up to a reflection.

    All are unstable. There are other orbits: for ``|beta| > 1 + mu`` one with two values of z, on ``Y = 0`` or
    ``X = 0``, which attracts. Multipliers are of the four numbers, of a step followed by that reflection.
    """
    momentum, beta = check_fraction("momentum", momentum), check_number("beta", beta)
    found = []
    # X' = -X with Y = 0, or the other way round.
    for z in (2 * (1 + momentum), -2 * (1 + momentum)):
        v = 2 * abs(z + beta)
        if z * (z + beta) > 0:
            side = v**0.5
            x, y = (side, 0.0) if z > 0 else (0.0, side)
            state = HeavyBall(x, -x, y, -y)
            found.append((z, v, 1, _multipliers(state, momentum, beta, -np.eye(2))))
    if beta:
        found.append((-beta, 0.0, 1, _multipliers(HeavyBall(0.0, 0.0, 0.0, 0.0), momentum, beta, np.eye(2))))
        return found
    # For beta = 0 alone, (X, Y) -> (-Y, X) -> (-X, -Y): the residual changes its sign at every step; its square and the
    # kernel stay.
    z = (2 * (1 + momentum**2)) ** 0.5
    v = 4 * (1 + momentum**2) / (1 + momentum)
    x, y = (v / 2 + z) ** 0.5, (v / 2 - z) ** 0.5
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    found.append((z, v, 2, _multipliers(HeavyBall(x, y, y, -x), momentum, beta, quarter)))
    found.append((-z, v, 2, _multipliers(HeavyBall(y, -x, -x, -y), momentum, beta, quarter)))
    return found


def _multipliers(state, momentum, beta, reflection):
    """Eigenvalues of the Jacobian of a step in (X, Y, X_before, Y_before), followed by a reflection of the pairs."""
    x, _, y, _ = state
    z = heavy_ball_observables(state, beta).z
    now = np.array([[1 + momentum - z - x * x, x * y], [x * y, 1 + momentum + z - y * y]])
    step = np.block([[now, -momentum * np.eye(2)], [np.eye(2), np.zeros((2, 2))]])
    return by_modulus(np.linalg.eigvals(np.kron(np.eye(2), reflection) @ step))


def by_modulus(multipliers):
    """Largest modulus first; real where all are."""
    multipliers = multipliers[np.argsort(-np.abs(multipliers), kind="stable")]
    return multipliers.real if np.all(np.abs(np.imag(multipliers)) < 1e-12) else multipliers
