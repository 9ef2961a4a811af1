"""The edge of stability of one example: balanced weights, where the map has one number, and the sharpness anywhere."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nqm_tools._types import Numbers
from nqm_tools._validation import check_whole
from nqm_tools.dynamics._checks import Answer, check_float64, refuse, scalar
from nqm_tools.dynamics._maps import Signed

# The beta at which the balanced map's attractor changes. The second is exact: there the 2-cycle's multiplier is -1.
# The last is where the doublings 1, 1.236, 1.288, 1.299, ... accumulate, found by bisection of superstable cycles.
PERIOD_TWO, PERIOD_FOUR, CHAOS = 1.0, 5**0.5 - 1, 1.3022834627


def balanced_step(s: Numbers, beta: Numbers) -> Numbers:
    """One step from balanced weights: ``s' = s (1 + beta - s)^2``.

    Parameters
    ----------
    s : float or array
        The output without units, ``s = z + beta = sqrt(c) eta f``, of a state with ``Q = v - 2 s = 0``: there the two
        layers' vectors coincide. It is ``Signed(s - beta, 2 * s)``.
    beta : float or array
        ``sqrt(c) eta y``, positive. For a negative target it is P = 0 that is reached: take -s and -beta.

    Returns
    -------
    float or array

    Notes
    -----
    ``Q' = (1 + z)^2 Q`` (:func:`triangle`), so Q = 0 stays; with ``s = a^2`` it is the cubic map
    ``a' = (1 + beta) a - a^3``. A step multiplies the weights by ``1 + beta - s``, a ReLU network's open units too: its
    gates stay open as long as ``s < 1 + beta``: for ever up to ``beta = sqrt(27)/2 - 1``; beyond it, orbits come to an
    s from which one step closes all. The fixed point ``s = beta`` has zero loss and the multiplier ``1 - 2 beta``.

    >>> balanced_step(1.5, 1.5)  # zero loss
    1.5
    """
    factor = 1 + beta - s
    return factor * factor * s


def sharpness_from_state(state: Signed, beta: Numbers = 0) -> Numbers:
    """``eta`` times the largest eigenvalue of the loss's Hessian, of a :class:`Signed` state.

    Parameters
    ----------
    state : Signed
    beta : float or array
        ``sqrt(c) eta y``.

    Returns
    -------
    float or array
        Its trace, times ``eta``, is v: the trace of the loss's Hessian is the tangent kernel.

    Notes
    -----
    ``v/2 + sqrt(v^2/4 + 3 u + 2 w)``, exact for every target. The Hessian is ``q q^T + r H`` with the output's
    gradient q, whose parts in the eigenspaces ``±sqrt(c)`` of the output's Hessian H have the squares P/2 and Q/2
    (over eta); hence ``x^2 - v x = u + 2 z s``, with ``s = z + beta``, in the plane of these parts. All other
    eigenvalues are ``±z``, which are smaller: ``v >= 2 |s|``. The root is taken of ``(2 z + beta)^2 + P Q / 4``.

    >>> sharpness_from_state(Signed(0.0, 2.0))  # without loss it is the tangent kernel
    2.0
    """
    z, v = state
    s = z + beta
    return v / 2 + ((z + s) * (z + s) + (v + 2 * s) * (v - 2 * s) / 4) ** 0.5


def gradient_flow_kernel(prediction: Numbers, kernel: Numbers, c: Numbers, y: Numbers = 0.0) -> Answer:
    """The tangent kernel at the end of gradient flow, the limit of small learning rates.

    Parameters
    ----------
    prediction, kernel
        ``g`` and ``lambda`` at the start; arrays are taken elementwise.
    c, y
        As in :func:`one_example_step`.

    Returns
    -------
    float or numpy.ndarray
        ``sqrt(lambda^2 + 4 c (y^2 - g^2))``: larger than at the start if and only if ``|y| > |g|``.

    Raises
    ------
    ValueError, TypeError
        For a kernel below ``2 sqrt(c) |g|``, which no model here has; for a c that is not positive.

    Notes
    -----
    Gradient flow conserves ``lambda^2 - 4 c g^2``. Gradient descent multiplies it, as ``P Q``, by ``(1 - u)^2`` at
    every step: so ``v_end^2 = 4 beta^2 + (v_0^2 - 4 s_0^2) prod (1 - u_t)^2`` for a run that comes to rest. For y = 0
    that is the formula for the end of a catapult.

    >>> gradient_flow_kernel(0.0, 1.0, 0.36, y=1.0)
    1.5620...
    """
    prediction, kernel, c, y = check_float64(prediction=prediction, kernel=kernel, c=c, y=y)
    refuse(c <= 0, "c", "positive", c)
    conserved = kernel**2 - 4 * c * prediction**2
    refuse(conserved < -1e-5 * kernel**2, "kernel", "at least 2 sqrt(c) |prediction|, as for every model here", kernel)
    return scalar(np.sqrt(np.maximum(conserved, 0) + 4 * c * y**2))


class TwoCycle(NamedTuple):
    """The orbit of period two of :func:`balanced_step`.

    Attributes
    ----------
    s : numpy.ndarray
        (..., 2), the smaller one first; their sum is ``1 + beta``, their product 1.
    mean_v : float or numpy.ndarray
        ``1 + beta``: the mean of ``eta lambda`` over the two steps.
    mean_sharpness : float or numpy.ndarray
        The mean of :func:`sharpness_from_state`; up to ``sqrt(5) - 1``, as long as the orbit is stable, it is
        ``(3 + beta)/2``.
    multiplier_along, multiplier_across : float or numpy.ndarray
        ``9 - 2 (1 + beta)^2`` among balanced weights and ``(3 - 2 beta)^2`` from others to these: stable up to
        ``beta = sqrt(5) - 1``.

    >>> two_cycle(1.5).s.tolist()
    [0.5, 2.0]
    """

    s: Float[np.ndarray, "... 2"]
    mean_v: Answer
    mean_sharpness: Answer
    multiplier_along: Answer
    multiplier_across: Answer


def two_cycle(beta: Numbers) -> TwoCycle:
    """The orbit of period two that balanced weights have for ``1 < beta < 2``.

    Parameters
    ----------
    beta : float or array
        ``sqrt(c) eta y``; arrays are taken elementwise.

    Returns
    -------
    TwoCycle

    Raises
    ------
    ValueError, TypeError
        For a beta that is not between 1 and 2.

    Notes
    -----
    ``s_1 + s_2 = 1 + beta`` makes the factor of one step the other's ``s``, and ``s_1 s_2 = 1`` closes the orbit.

    >>> cycle = two_cycle(1.1)
    >>> round(cycle.mean_v, 12), round(cycle.mean_sharpness, 12)
    (2.1, 2.05)
    """
    (beta,) = check_float64(beta=beta)
    refuse(~((beta > 1) & (beta < 2)), "beta", "between 1 and 2, where balanced weights have that orbit", beta)
    total = 1 + beta
    gap = np.sqrt((total - 2) * (total + 2))
    s = np.stack([(total - gap) / 2, (total + gap) / 2], axis=-1)
    z = s - beta[..., None]
    sharpness = sharpness_from_state(Signed(z, 2 * s), beta[..., None])
    return TwoCycle(
        s, scalar(total), scalar(sharpness.mean(axis=-1)), scalar(9 - 2 * total**2), scalar((3 - 2 * beta) ** 2)
    )


def attractor(beta: Numbers, *, states: int = 256, transient: int = 4096) -> Float[np.ndarray, "... states"]:
    """Where balanced weights end: successive ``s`` of :func:`balanced_step` after a transient.

    Parameters
    ----------
    beta : float or array
        Between 0 and 2; arrays are taken elementwise.
    states, transient : int
        How many to return, and how many steps to make before.

    Returns
    -------
    numpy.ndarray
        (..., states). Near the beta of a doubling, where all is slow, a longer transient is needed.

    >>> [round(s, 3) for s in attractor(1.1, states=3).tolist()]
    [0.73, 1.37, 0.73]
    """
    beta = _check_bounded(beta)
    states, transient = check_whole("states", states), check_whole("transient", transient, minimum=0)
    with jax.enable_x64(True):
        found = _orbit(jnp.asarray(_start(beta)), jnp.asarray(beta), transient, states)
    return np.moveaxis(np.asarray(found), 0, -1)


class Lyapunov(NamedTuple):
    """Mean logarithms of how a step stretches: among balanced weights, and from other weights to these.

    >>> lyapunov_exponent(1.4).along > 0  # chaos
    True
    """

    along: Answer
    across: Answer


def lyapunov_exponent(beta: Numbers, *, steps: int = 100_000) -> Lyapunov:
    """The Lyapunov exponents of balanced weights, from a start that is not special.

    Parameters
    ----------
    beta : float or array
        Between 0 and 2; arrays are taken elementwise.
    steps : int
        Of the mean; a tenth as many are made before.

    Returns
    -------
    Lyapunov
        ``along`` is positive for chaos (ln 3 at beta = 2); ``across`` is negative where the weights become balanced:
        observed for every beta between 1 and 2. At 2 it is exactly 0.

    Notes
    -----
    Means of ``ln |(1 + beta - s)(1 + beta - 3 s)|`` and ``2 ln |1 + z|``. In chaos their error falls like
    ``1/sqrt(steps)``.

    >>> along, across = lyapunov_exponent(1.1, steps=1000)
    >>> bool(np.isclose(along, np.log(abs(two_cycle(1.1).multiplier_along)) / 2))
    True
    """
    beta, steps = _check_bounded(beta), check_whole("steps", steps)
    with jax.enable_x64(True):
        along, across = _mean_logarithms(jnp.asarray(_start(beta)), jnp.asarray(beta), steps)
    return Lyapunov(scalar(np.asarray(along)), scalar(np.asarray(across)))


def _check_bounded(beta):
    (beta,) = check_float64(beta=beta)
    refuse(~((beta > 0) & (beta <= 2)), "beta", "above 0 and at most 2, where balanced weights stay bounded", beta)
    return beta


def _start(beta):
    # The attracting orbits attract the map's maximum, s = (1 + beta)/3, but there that may step onto an orbit that
    # nothing else goes to (at beta = 2: onto s = 4, for ever).
    return 0.9 * (1 + beta) / 3


@jax.jit
def _walk(s, beta, steps):
    return jax.lax.fori_loop(0, steps, lambda _, s: balanced_step(s, beta), s)


def _orbit(s, beta, transient, states):
    s = _walk(s, beta, transient)
    return jax.lax.scan(lambda s, _: (balanced_step(s, beta), s), s, length=states)[1]


@jax.jit
def _mean_logarithms(s, beta, steps):
    def body(_, carry):
        s, along, across = carry
        along = along + jnp.log(jnp.abs((1 + beta - s) * (1 + beta - 3 * s)))
        return balanced_step(s, beta), along, across + 2 * jnp.log(jnp.abs(1 - beta + s))

    s = jax.lax.fori_loop(0, steps // 10, lambda _, s: balanced_step(s, beta), s)
    _, along, across = jax.lax.fori_loop(0, steps, body, (s, jnp.zeros_like(s), jnp.zeros_like(s)))
    return along / steps, across / steps
