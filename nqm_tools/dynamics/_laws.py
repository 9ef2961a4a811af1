"""How high a catapult goes and where the kernel ends: by iterating the map, as series, and what is conserved."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from nqm_tools._types import Numbers
from nqm_tools.dynamics import _momentum_laws
from nqm_tools.dynamics._checks import Answer, check_dimensionless, refuse, scalar
from nqm_tools.dynamics._heavy_ball import check_momentum
from nqm_tools.dynamics._maps import Dimensionless, dimensionless_step

# Powers of delta = v0 - 2, from the first on.
FINAL_V_SERIES = (1, 2 / 3, 4 / 9, 14 / 135, -76 / 405)  # 2 - v_end
PEAK_U_SERIES = (0, 1 / 2, 1 / 3, 3 / 32)  # the fourth is that of the median phase; the phases span 0 to 1/8

PHASES = 128
_MOST_STEPS = 2_000_000
# Nearer to v0 = 2 than this the series replace the iteration, which would take 20 / delta steps: what they leave out
# is below 1e-11 of the answer.
_SERIES_BELOW = 1e-4
# A run starts "from nothing" at this share of delta^2, and ends when what is left to come is below this.
_NOTHING, _REST = 1e-12, 1e-11


def peak_u(
    v0: Numbers, u0: Numbers | None = None, w0: Numbers = 0.0, *, band: bool = False, momentum: Numbers = 0.0
) -> Answer | tuple[Answer, Answer, Answer]:
    """The highest ``u`` of a run; the peak loss is ``u / (2 c eta^2)`` (:func:`loss_from_u`).

    Parameters
    ----------
    v0, u0, w0
        The initial state; arrays are taken elementwise. Without ``u0``: the limit of a small initial loss, y = 0.
        The limit depends (a little) on where between two steps' growth ``u0`` lies, its phase; the answer is
        the median over 128 phases.
    band : bool
        Without ``u0``: return (lowest, median, highest) over the phases.
    momentum
        Of heavy ball, in [0, 1), from rest. From 0.8 or so on the phase decides much, also whether a run diverges:
        final values are then over the phases that come to rest.

    Returns
    -------
    float or numpy.ndarray
        Infinite for a run that diverges, NaN for one that does not come to rest. With ``band`` three of these.

    Raises
    ------
    ValueError, TypeError
        For values that are negative, not finite, or impossible for these models (v0 below ``2 |u0 + w0| / sqrt(u0)``);
        for a ``w0`` or ``band`` that does not go with ``u0``.

    Notes
    -----
    By iterating :func:`dimensionless_step` (:func:`heavy_ball_step`; :func:`momentum_scaling` within 1e-4 of its
    critical rate). For ``u0 << delta^2 << 1``, with ``delta = v0 - 2``, the peak is
    ``delta^2 / 2`` (:data:`PEAK_U_SERIES` has more), so ``L_peak ~ delta^2 m d / (4 eta^2 |x|^2)``. Theorem 1 of Zhu et
    al. (2024) bounds it from below by a multiple of ``m delta^2 / log m``.

    Examples
    --------
    >>> round(peak_u(2.5), 4)  # from a small loss
    0.1676
    >>> round(peak_u(2.5, 0.1), 4), peak_u(4.5, 0.1)
    (0.261, inf)
    """
    return _law(0, v0, u0, w0, band, momentum)


def final_v(
    v0: Numbers, u0: Numbers | None = None, w0: Numbers = 0.0, *, band: bool = False, momentum: Numbers = 0.0
) -> Answer | tuple[Answer, Answer, Answer]:
    """``v = eta lambda`` at the end of a run; the tangent kernel ends at ``v / eta``.

    Arguments, result and errors as in :func:`peak_u`; NaN for a run that diverges.

    Notes
    -----
    ``2 - v_end = delta + 2/3 delta^2 + 4/9 delta^3 + ...`` with ``delta = v0 - 2`` (:data:`FINAL_V_SERIES`). From
    about ``v0 = 3.085`` on, where ``u`` can reach 1, the end is irregular and its median means little: see the band.

    Examples
    --------
    >>> round(final_v(2.5), 4)  # from a small loss
    1.2823
    >>> final_v(np.array([1.5, 2.5, 4.5]), 1e-3).round(4)
    array([1.4967, 1.28  ,    nan])
    """
    return _law(1, v0, u0, w0, band, momentum)


def peak_u_series(v0: Numbers) -> Numbers:
    """:func:`peak_u` for y = 0 and a small initial loss, as a series in ``v0 - 2 >= 0`` (:data:`PEAK_U_SERIES`).

    Examples
    --------
    >>> round(peak_u_series(2.2), 6), round(peak_u(2.2), 6)
    (0.022817, 0.022772)
    """
    delta = v0 - 2
    return sum(coefficient * delta ** (i + 1) for i, coefficient in enumerate(PEAK_U_SERIES))


def final_v_series(v0: Numbers) -> Numbers:
    """:func:`final_v` for y = 0 and a small initial loss, as a series in ``v0 - 2 >= 0`` (:data:`FINAL_V_SERIES`).

    Examples
    --------
    >>> round(final_v_series(2.2), 4), round(final_v(2.2), 4)
    (1.7697, 1.7697)
    """
    delta = v0 - 2
    return 2 - sum(coefficient * delta ** (i + 1) for i, coefficient in enumerate(FINAL_V_SERIES))


def _law(which, v0, u0, w0, band, momentum):
    inertial = np.any(np.asarray(momentum) != 0)
    if u0 is not None:
        if band:
            raise ValueError("band is over the phases of an unknown u0: leave u0 out, or band=False")
        u0, v0, w0 = check_dimensionless(u0, v0, w0, suffix="0")
        if not inertial:
            return scalar(_come_to_rest(u0, v0, w0)[which])
        momentum, u0, v0, w0 = check_momentum(momentum, u0=u0, v0=v0, w0=w0)
        return scalar(_momentum_laws.from_rest(u0, v0, w0, momentum)[which])
    if np.any(np.asarray(w0) != 0):
        raise ValueError("w0 must be 0 without u0: the limit of a small initial loss is for y = 0")
    momentum, v0 = check_momentum(momentum, v0=v0)
    refuse(v0 < 0, "v0", "non-negative", v0)
    at_phases = _momentum_laws.by_phase(v0, momentum)[which] if inertial else _law_by_phase(which, v0)
    # With momentum some phases may diverge, which have no end.
    none = np.isnan(at_phases).all(axis=-1)
    ended = np.where(none[..., None], 0.0, at_phases)
    low, median, high = (
        scalar(np.where(none, np.nan, over(ended, axis=-1))) for over in (np.nanmin, np.nanmedian, np.nanmax)
    )
    return (low, median, high) if band else median


def _law_by_phase(which, v0):
    """(..., PHASES) answers in the limit of a small initial loss."""
    delta = v0 - 2
    phase = (np.arange(PHASES) + 0.5) / PHASES
    inside = np.where((delta > _SERIES_BELOW) & (v0 < 4), v0, 3.0)[..., None]
    # On the unstable manifold of (0, v0), to first order in u.
    u = _NOTHING * (inside - 2) ** 2 * (inside - 1) ** (2 * phase)
    start = inside - u * (4 - inside) / (inside * (inside - 2))
    iterated = _come_to_rest(u, start, np.zeros_like(u))[which]
    near = np.clip(v0, 2, 2 + _SERIES_BELOW)
    if which == 0:
        limit, beyond = peak_u_series(near), np.inf
    else:
        limit, beyond = np.where(v0 < 2, v0, final_v_series(near)), np.nan
    iterated = np.where((delta > _SERIES_BELOW)[..., None], iterated, limit[..., None])
    return np.where((v0 < 4)[..., None], iterated, beyond)


def _come_to_rest(u, v, w):
    """(highest u, final v) of runs, in float64; those at rest drop out of the iteration after each chunk of steps."""
    shape = np.shape(u)
    state = np.stack([np.ravel(u), np.ravel(v), np.ravel(w)])
    peak, end = state[0].copy(), np.full(state.shape[1], np.nan)
    moving, done, chunk = np.arange(state.shape[1]), 0, 64
    while moving.size and done < _MOST_STEPS:
        # Padded to a power of two, with zeros (at rest), so that few sizes are compiled.
        padded = np.zeros((4, 2 ** math.ceil(math.log2(moving.size))))
        padded[:, : moving.size] = [*state[:, moving], peak[moving]]
        with jax.enable_x64(True):
            after, still = _chunk(jnp.asarray(padded), chunk)
        after = np.asarray(after)[:, : moving.size]
        state[:, moving], peak[moving] = after[:3], after[3]
        done, chunk = done + chunk, min(2 * chunk, 2**16)
        moving = moving[np.asarray(still)[: moving.size]]
    u, v, w = state
    diverged = (4 - v + w < 0) & (u > 0)
    with np.errstate(all="ignore"):  # of runs that diverged
        rest = v - np.where(u > 0, u * (4 - v) / (v * (2 - v)) + 4 * w / v, 0)
    end, peak = np.where(diverged, np.nan, rest), np.where(diverged, np.inf, peak)
    # Some creep towards v = 0 for ever; from there nothing of them is to come but the last 1e-6 of v.
    lost = moving[~(u[moving] < 1e-12)]
    end[lost] = peak[lost] = np.nan
    return peak.reshape(shape), end.reshape(shape)


def _moving(state):
    """Whether what is still to come of v matters: to first order, u and w fall by (1 - v)^2 and 1 - v a step."""
    u, v, w = state
    room = jnp.minimum(v, 2 - v)
    to_come = u * (4 - v) + 4 * jnp.abs(w) * (2 - v)
    at_rest = (u == 0) | ((room > 0) & (to_come < _REST * room * v * (2 - v)))
    diverged = (4 - v + w < 0) | ~(u < jnp.inf)
    return ~(at_rest | diverged)


@jax.jit
def _chunk(values, steps):
    def body(_, values):
        state, peak = Dimensionless(*values[:3]), values[3]
        after = dimensionless_step(state)
        values_after = jnp.stack([*after, jnp.maximum(peak, after.u)])
        return jnp.where(_moving(state), values_after, values)

    values = jax.lax.fori_loop(0, steps, body, values)
    return values, _moving(values[:3])


def adiabatic_invariant(u: Numbers, v: Numbers) -> Numbers:
    """What a catapult with y = 0 keeps while ``u`` rises and falls, to sixth order in its size.

    Notes
    -----
    With ``x = v - 2``,

        I = u + x^2/2 + x^3/3 + x^4/8 - x (150 u^2 + 115 u x^2 + 14 x^4)/180
            + 3 u^2 x^2/8 - 19 u x^4/96 - 205 x^6/1728.

    Along a run with ``|x|, sqrt(u) <= delta`` a step changes it by ``O(delta^8)``. For small ``y != 0`` start from
    ``v0 - 2 c eta^2 r0 y`` in the place of v0: that is better, not exact.

    Examples
    --------
    >>> u, v, kept = 1e-6, 2.2, []
    >>> for _ in range(60):
    ...     kept.append(adiabatic_invariant(u, v))
    ...     u, v, _ = dimensionless_step(Dimensionless(u, v, 0.0))
    >>> round(max(kept) - min(kept), 6), round(kept[0], 4)
    (2e-06, 0.0228)
    """
    x = v - 2
    fifth = x * (150 * u**2 + 115 * u * x**2 + 14 * x**4) / 180
    sixth = 3 * u**2 * x**2 / 8 - 19 * u * x**4 / 96 - 205 * x**6 / 1728
    return u + x**2 / 2 + x**3 / 3 + x**4 / 8 - fifth + sixth
