"""Which regime, from the initial state alone; the triangle that traps a run; equilibria and their stability."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from nqm_tools._types import Numbers
from nqm_tools._validation import check_fraction, check_number
from nqm_tools.dynamics._checks import Answer, check_dimensionless, check_float64, refuse, scalar
from nqm_tools.dynamics._heavy_ball import isolated, multipliers_at_rest
from nqm_tools.dynamics._maps import Signed


class Triangle(NamedTuple):
    """The three quantities of :func:`triangle`: p and q are never negative, d is positive where a run converges.

    Examples
    --------
    >>> triangle(Signed(z=0.5, v=2.5))
    Triangle(d=1.5, p=3.5, q=1.5)
    """

    d: Numbers
    p: Numbers
    q: Numbers


def triangle(state: Signed, beta: Numbers = 0) -> Triangle:
    """``D = 4 - v + w``, ``P = v + 2(z + beta)``, ``Q = v - 2(z + beta)`` of a :class:`Signed` state.

    Notes
    -----
    Exactly ``D' = (1 + u + w) D``, ``P' = (1 - z)^2 P``, ``Q' = (1 + z)^2 Q`` and
    ``D + P (1/2 - beta/4) + Q (1/2 + beta/4) = 4 - beta^2``. P and Q are never negative for a network (they are
    sums of squares), so with ``|beta| < 2`` and ``D >= 0`` the state stays in a triangle for ever.

    Examples
    --------
    >>> from nqm_tools.dynamics import signed_step
    >>> before = triangle(Signed(0.5, 2.5))
    >>> after = triangle(signed_step(Signed(0.5, 2.5)))
    >>> before.d, after.d, (1 + 0.5**2) * before.d
    (1.5, 1.875, 1.875)
    """
    z, v = state
    return Triangle(4 - v + beta * z, v + 2 * (z + beta), v - 2 * (z + beta))


def max_learning_rate(residual: Numbers, kernel: Numbers, c: Numbers, y: Numbers = 0.0) -> Answer:
    """The largest learning rate at which gradient descent converges, from the initial state.

    Parameters
    ----------
    residual, kernel
        ``r`` and ``lambda`` at the start; arrays are taken elementwise.
    c, y
        As in :func:`one_example_step`.

    Returns
    -------
    float or numpy.ndarray
        For ``half_sum``: the smallest positive root of ``4 - eta lambda + c eta^2 r y`` or, if that is smaller (it is
        for targets of the order of sqrt(m) only) or there is no root, ``1 / (sqrt(c) |y|)``, where ``|beta| = 1``
        and the last stable equilibrium disappears: the edge of stability begins. Infinite if there is neither.

    Raises
    ------
    ValueError, TypeError
        For a negative kernel, a c that is not positive, or anything not finite.

    Notes
    -----
    Beyond it almost no start converges (proved for ``|beta| < 2``: D cannot change sign, see :func:`triangle`). That
    every smaller rate converges is proved for y = 0 and observed for y != 0.

    Examples
    --------
    >>> max_learning_rate(residual=0.1, kernel=1.0, c=1e-3)  # 4 / lambda for y = 0
    4.0
    >>> round(max_learning_rate(residual=0.1, kernel=1.0, c=1e-3, y=20.0), 4)
    1.5811
    """
    residual, kernel, c, y = check_float64(residual=residual, kernel=kernel, c=c, y=y)
    refuse(kernel < 0, "kernel", "non-negative", kernel)
    refuse(c <= 0, "c", "positive", c)
    discriminant = kernel**2 - 16 * c * residual * y
    with np.errstate(divide="ignore", over="ignore"):
        root = 8 / (kernel + np.sqrt(np.maximum(discriminant, 0)))
        last_stable = 1 / (np.sqrt(c) * np.abs(y))
    return scalar(np.minimum(np.where(discriminant >= 0, root, np.inf), last_stable))


def predict_regime(u: Numbers, v: Numbers, w: Numbers = 0.0) -> str | np.ndarray:
    """The regime of a run from its initial state alone.

    Parameters
    ----------
    u, v, w
        As in :class:`Dimensionless`; arrays are taken elementwise.

    Returns
    -------
    str or numpy.ndarray of str
        ``"divergent"`` if ``4 - v + w < 0`` or ``|beta| > 2`` (``w^2 > 4 u``); otherwise ``"edge of stability"`` if
        ``1 < |beta| < 2`` (no equilibrium is stable, and the run stays bounded: on the 2-cycle, stable up to
        ``|beta| = sqrt(5) - 1``, the mean of ``eta lambda`` is ``1 + |beta|``, see :func:`two_cycle`),
        ``"catapult"`` if the first step raises the loss, ``|1 - v + u + w| > 1``, else ``"monotone"``. ``"undecided"``
        at ``|beta| = 1``, at 2, and where ``4 - v + w = 0`` (bounded, but nothing comes to rest). A run that starts
        with residual zero stays there: ``"monotone"``.

    Raises
    ------
    ValueError, TypeError
        For values that are negative, not finite, or impossible for these models (v below ``2 |u + w| / sqrt(u)``).

    Notes
    -----
    For ``1 < |beta| < 2``: that runs are bounded is proved; that almost all of them tend to balanced weights
    (:func:`balanced_step`) is observed. For ``|beta| > 2`` that nothing can rest is proved, divergence is observed.

    With y = 0 and ``v <= 2`` no later step raises the loss either. From ``v > 2`` with ``u >= v - 2``, a start that
    wide networks do not have, the loss falls at first and may rise later.

    Examples
    --------
    >>> predict_regime(u=1e-3, v=np.array([1.5, 2.5, 4.5])).tolist()
    ['monotone', 'catapult', 'divergent']
    """
    u, v, w = check_dimensionless(u, v, w)
    factor = 1 - v + u + w
    answer = np.where(np.abs(factor) > 1, "catapult", "monotone")
    answer = np.where(w**2 > u, "edge of stability", answer)
    answer = np.where((w**2 == u) | (w**2 == 4 * u) | (4 - v + w == 0), "undecided", answer)
    answer = np.where((4 - v + w < 0) | (w**2 > 4 * u), "divergent", answer)
    return scalar(np.where(u == 0, "monotone", answer))


class Equilibrium(NamedTuple):
    """A state that the dynamics leave where it is.

    Attributes
    ----------
    z, v : float
    period : int
        1; or 2 where the residual changes its sign at every step and ``(u, v)`` stays.
    multipliers : numpy.ndarray
        (2,), the eigenvalues of the step's Jacobian in (z, v), with the sign of z followed; largest modulus first. With
        momentum (4,), in the four numbers of :class:`HeavyBall`, up to a reflection of them.
    stable : bool
        Whether the residual contracts nearby: the modulus of its multiplier is below 1. False at v = 2, where it is -1;
        True at v = 0, where it is 1 and beside which a network has v > 0.

    Examples
    --------
    >>> place = equilibrium(v=1.5)
    >>> place.stable, place.multipliers.tolist()
    (True, [1.0, -0.5])
    """

    z: float
    v: float
    period: int
    multipliers: Num[np.ndarray, "2"] | Num[np.ndarray, "4"]
    stable: bool


def jacobian(state: Signed, beta: float = 0.0) -> Float[np.ndarray, "2 2"]:
    """The Jacobian of :func:`signed_step` at a :class:`Signed` state, (2, 2): rows z', v', columns z, v.

    Examples
    --------
    >>> jacobian(Signed(0.5, 2.5)).tolist()
    [[-0.75, -0.5], [-1.5, 1.25]]
    """
    z, v = state
    return np.array(
        [
            [1 - v + 3 * z * z + 2 * beta * z, -z],
            [-2 * z * (4 - v) - 4 * beta, 1 + z * z],
        ],
        dtype=float,
    )


def stable_interval(beta: float = 0.0, momentum: float = 0.0) -> tuple[float, float] | None:
    """The ``v`` of the stable equilibria, all with ``r = 0``: ``2 |beta| <= v < 2``, or None for ``|beta| >= 1``.

    Zhu et al. (2024), Theorem 2, with constants: a network's kernel cannot fall below ``2 sqrt(c) |y|`` at r = 0. With
    heavy-ball momentum mu the upper end is ``2 (1 + mu)``, and there are none for ``|beta| >= 1 + mu``.

    Examples
    --------
    >>> stable_interval(0.25), stable_interval(1.5)
    ((0.5, 2.0), None)
    """
    beta, momentum = check_number("beta", beta), check_fraction("momentum", momentum)
    return (2 * abs(beta), 2 * (1 + momentum)) if abs(beta) < 1 + momentum else None


def equilibrium(v: float, beta: float = 0.0, momentum: float = 0.0) -> Equilibrium:
    """The equilibrium with ``r = 0`` and kernel ``v = eta lambda``; its multipliers are ``1 - v`` and 1.

    With heavy-ball momentum mu: 1, mu and the roots of ``s^2 - (1 + mu - v) s + mu``.

    Examples
    --------
    >>> [equilibrium(v).stable for v in (1.9, 2.0, 2.1)]
    [True, False, False]
    """
    v, beta, momentum = check_number("v", v), check_number("beta", beta), check_fraction("momentum", momentum)
    if v < 2 * abs(beta):
        raise ValueError(f"v must be at least 2 |beta| = {2 * abs(beta):g}, where a network's r is 0; got {v:g}")
    if momentum:
        return Equilibrium(0.0, v, 1, multipliers_at_rest(v, momentum), v < 2 * (1 + momentum))
    multipliers = np.array(sorted((1.0, 1 - v), key=abs, reverse=True))
    return Equilibrium(0.0, v, 1, multipliers, v < 2)


def isolated_equilibria(beta: float = 0.0, momentum: float = 0.0) -> list[Equilibrium]:
    """The equilibria off the line ``r = 0``; all are unstable.

    Returns
    -------
    list of Equilibrium
        ``z = ±2, v = 4 ± 2 beta > 0``, and all weights zero (``z = -beta, v = 0``). For beta = 0 also ``u = 2, v = 4``,
        where the residual changes sign at every step. With heavy-ball momentum mu the first are at ``z = ±2 (1 + mu),
        v = 2 |z + beta|``, the last, which (X, Y) takes four steps for, at ``u = 2 (1 + mu^2)``,
        ``v = 4 (1 + mu^2)/(1 + mu)``.

    Examples
    --------
    >>> [(place.z, place.v, place.stable) for place in isolated_equilibria(beta=0.5)]
    [(2.0, 5.0, False), (-2.0, 3.0, False), (-0.5, 0.0, False)]
    """
    beta = check_number("beta", beta)
    if momentum:
        return [
            Equilibrium(*place, multipliers, bool(np.all(np.abs(multipliers) < 1)))
            for *place, multipliers in isolated(momentum, beta)
        ]
    places = [(z, 4 + z * beta, 1) for z in (2.0, -2.0) if 4 + z * beta > 0]
    if beta:
        places.append((-beta, 0.0, 1))
    else:
        places += [(2**0.5, 4.0, 2), (-(2**0.5), 4.0, 2)]
    found = []
    for z, v, period in places:
        # At period 2 the step is followed by the reflection of z, which takes it back to where it was.
        matrix = np.diag([-1.0 if period == 2 else 1.0, 1.0]) @ jacobian(Signed(z, v), beta)
        # Real: 9 and 5 + beta z, (1 ± |beta|)^2, or ±3. From NumPy 2.5 on the answer is complex by type all the same.
        multipliers = np.linalg.eigvals(matrix).real
        multipliers = multipliers[np.argsort(-np.abs(multipliers))]
        found.append(Equilibrium(z, v, period, multipliers, bool(np.all(np.abs(multipliers) < 1))))
    return found
