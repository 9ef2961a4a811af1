"""One example whose output's Hessian has two eigenvalues of unequal size: progressive sharpening to the edge."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nqm_tools._types import Numbers
from nqm_tools.dynamics._checks import Answer, check_float64, refuse, scalar
from nqm_tools.dynamics._heavy_ball import check_momentum


class TwoEigenvalues(NamedTuple):
    """``z`` and ``kernel``: residual and tangent kernel, times the learning rate, of :func:`two_eigenvalue_step`.

    >>> TwoEigenvalues(z=0.1, kernel=1.9).kernel
    1.9
    """

    z: Numbers
    kernel: Numbers


def two_eigenvalue_step(state: TwoEigenvalues, epsilon: Numbers, target: Numbers = 0) -> TwoEigenvalues:
    """One gradient step of ``f = 1/2 w^T H w`` on one example, where H has the eigenvalues 1 and ``-epsilon``.

    Parameters
    ----------
    state : TwoEigenvalues
        ``z = eta (f - y)`` and ``T = eta lambda``, for ``half_sum``.
    epsilon : float or array
        From 0 to 1. At 1 it is the map of a catapult, :func:`signed_step`.
    target : float or array
        ``E = eta y``.

    Returns
    -------
    TwoEigenvalues

    Notes
    -----
    With ``T_k = eta w^T H^(k+2) w`` a step is ``z' = z - z T + z^2 T_1/2``, ``T' = T - 2 z T_1 + z^2 T_2``; two
    eigenvalues close it: ``T_1 = (1 - epsilon) T + 2 epsilon (z + E)``, ``T_2 = (1 - epsilon) T_1 + epsilon T``. A
    quadratic objective in two directions, after Agarwala, Pedregosa and Pennington (2023); eigenvalues and units are
    ours. Exact. With momentum it takes four numbers: :func:`heavy_ball_step`, with its ``epsilon``.

    >>> two_eigenvalue_step(TwoEigenvalues(0.5, 2.0), epsilon=1.0)
    TwoEigenvalues(z=-0.375, kernel=1.5)
    """
    z, kernel = state
    rest = 1 - epsilon
    first = rest * kernel + 2 * epsilon * (z + target)
    second = rest * first + epsilon * kernel
    return TwoEigenvalues(z - z * kernel + z * z * first / 2, kernel - 2 * z * first + z * z * second)


def two_eigenvalue_edge(epsilon: Numbers, target: Numbers = 0.0, momentum: Numbers = 0.0) -> Answer:
    """Where the tangent kernel ends, times ``eta``, of the runs that sharpen to the edge of stability.

    Parameters
    ----------
    epsilon, target
        As in :func:`two_eigenvalue_step`; arrays are taken elementwise. ``target`` below ``1 + mu``.
    momentum
        ``mu`` of heavy ball, in [0, 1).

    Returns
    -------
    float or numpy.ndarray
        ``2 - epsilon (1 - E)/2 - epsilon^2 (1 - E)(27 - 11 E)/32``; with momentum ``1 + mu`` times that at
        ``E = target/(1 + mu)`` less ``(1 + mu) mu epsilon^2 (1 - E)^2/(2 (1 - mu)^2)``.

    Raises
    ------
    ValueError, TypeError
        For an epsilon outside 0 to 1, a target of ``1 + mu`` or more, a momentum outside [0, 1).

    Notes
    -----
    Derived: it is :func:`two_eigenvalue_curve` at ``z = 0``, to second order in epsilon. Runs reach that curve if they
    come to it from far enough above 2; others end nearer to 2, or lower (:func:`two_eigenvalue_end`). With momentum
    epsilon has to be small against ``(1 - mu)^2/mu``, and the swing by which a run arrives may throw it far off.

    >>> round(two_eigenvalue_edge(0.02), 5), round(two_eigenvalue_edge(0.02, momentum=0.5), 5)
    (1.98966, 2.98389)
    """
    epsilon, target, momentum = _check(epsilon, target, momentum)
    share = 1 - target / (1 + momentum)
    edge = 2 - epsilon * share / 2 - epsilon**2 * share * (16 + 11 * share) / 32
    return scalar((1 + momentum) * (edge - epsilon**2 * share**2 * momentum / (2 * (1 - momentum) ** 2)))


def two_eigenvalue_curve(z: Numbers, epsilon: Numbers, target: Numbers = 0.0, momentum: Numbers = 0.0) -> Answer:
    """The curve, T over z, along which runs come down to :func:`two_eigenvalue_edge`, z changing its sign every step.

    Arguments and errors as in :func:`two_eigenvalue_edge`, and the z where it is asked for.

    Notes
    -----
    The one invariant curve ``T = H(z)`` that is a power series in both z and ``e = epsilon``::

        H = 2 + 2 z + 2 z^2 - e (1 - E)/2 + 2 z^3 - 2 e (1 - E) z
              + 2 z^4 - e (19 - 15 E) z^2/8 - e^2 (1 - E)(27 - 11 E)/32

    Derived by comparing coefficients in ``H(z') = T'``. For z of the order of ``sqrt(e)`` what it leaves out is of
    order ``e^(5/2)``. With momentum it is ``1 + mu`` times the curve at ``z/(1 + mu)`` and ``E/(1 + mu)``, but for the
    last term, which is that of :func:`two_eigenvalue_edge`.

    >>> two_eigenvalue_curve(0.0, 0.02) == two_eigenvalue_edge(0.02)
    True
    """
    z, epsilon, target, momentum = check_float64(z=z, epsilon=epsilon, target=target, momentum=momentum)
    edge = two_eigenvalue_edge(epsilon, target, momentum)
    z, share = z / (1 + momentum), 1 - target / (1 + momentum)
    even = 2 * z**2 + 2 * z**4 - epsilon * (4 + 15 * share) * z**2 / 8
    odd = 2 * z + 2 * z**3 - 2 * epsilon * share * z
    return scalar(edge + (1 + momentum) * (even + odd))


def two_eigenvalue_end(state: TwoEigenvalues, epsilon: Numbers, target: Numbers = 0.0) -> Answer:
    """Where the tangent kernel ends, times ``eta``, from a state near ``T = 2``; to first order in epsilon.

    Parameters
    ----------
    state : TwoEigenvalues
        Of a run on its way down: ``|z|`` of the order of ``sqrt(epsilon)``, ``T - 2`` of that of epsilon and ``2 z``.
    epsilon, target
        As in :func:`two_eigenvalue_edge`.

    Returns
    -------
    float or numpy.ndarray
        ``2 - e/2 (1 + W(-J/exp(1)))`` with ``e = epsilon (1 - E)`` and Lambert's W. J between 0 and 1 ends nearer to 2
        than the edge, a negative one lower; :func:`two_eigenvalue_edge` is J = 0.

    Raises
    ------
    ValueError, TypeError
        As :func:`two_eigenvalue_edge`, and for an epsilon of 0.

    Notes
    -----
    Two steps move ``s = z^2`` and ``Y = T - 2 - 2 (1 - e) z`` to leading order as the flow ``s' = 4 s Y - 8 s^2``,
    ``Y' = -4 e s``, which conserves ``J = (1 + x - 4 s/e) exp(-x)`` with ``x = 2 Y/e``. From above, x is large and J
    next to nothing. At the end s = 0. Derived.

    >>> round(two_eigenvalue_end(TwoEigenvalues(0.0, 1.997), 0.01), 9)  # at rest
    1.997
    """
    from scipy.special import lambertw

    epsilon, target, _ = _check(epsilon, target, 0.0)
    z, kernel, epsilon, target = check_float64(z=state.z, kernel=state.kernel, epsilon=epsilon, target=target)
    refuse(epsilon == 0, "epsilon", "positive", epsilon)
    sharpening = epsilon * (1 - target)
    x = 2 * (kernel - 2 - 2 * (1 - sharpening) * z) / sharpening
    # At most 1; rounding may take it above, where W has no real value.
    conserved = np.minimum((1 + x - 4 * z**2 / sharpening) * np.exp(-x), 1)
    return scalar(2 - sharpening / 2 * (1 + lambertw(-conserved / np.e).real))


def _check(epsilon, target, momentum):
    momentum, epsilon, target = check_momentum(momentum, epsilon=epsilon, target=target)
    refuse((epsilon < 0) | (epsilon > 1), "epsilon", "from 0 to 1", epsilon)
    most = "below 1 + momentum" if np.any(momentum) else "below 1"
    refuse(target >= 1 + momentum, "target", most, target)
    return epsilon, target, momentum
