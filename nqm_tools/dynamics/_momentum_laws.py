"""Catapults with heavy-ball momentum: by iterating the map, by their scaling law, and the rate at which they end."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nqm_tools._types import Numbers
from nqm_tools._validation import check_fraction, check_number, check_rate, check_whole
from nqm_tools.dynamics._checks import Answer, check_float64, refuse, scalar
from nqm_tools.dynamics._heavy_ball import HeavyBall, check_momentum, heavy_ball_observables, heavy_ball_step
from nqm_tools.dynamics._inertia_table import FALL, PEAK

PHASES = 128
_MOST_STEPS = 2_000_000
# Nearer to the critical rate than this the scaling law replaces the iteration: it leaves out a share of order delta.
LAW_BELOW = 1e-4
# A run from almost nothing starts at this share of delta, ends when what is left to come is below the second, and has
# diverged where v is beyond the third.
_NOTHING, _REST, _LOST = 1e-6, 1e-11, 1e4
# Where every run from almost nothing diverges, whatever the momentum.
_TOP = 5.0
# Rates that are tried at once.
_RATES = 16


class Scaling(NamedTuple):
    """What :func:`momentum_scaling` answers.

    Attributes
    ----------
    k : float or array
        The friction of a catapult, ``(1 - mu)/sqrt(delta (1 + mu)/2)``.
    peak_u : float or array
        ``delta^2 F(k)``.
    final_v : float or array
        ``2 (1 + mu) - delta G(k)``; NaN where that is negative, far beyond where the law holds.

    Examples
    --------
    >>> k, peak, end = momentum_scaling(2.1, 0.0)
    >>> round(k, 3), round(peak, 5), round(end, 3)
    (4.472, 0.00551, 1.889)
    """

    k: Answer
    peak_u: Answer
    final_v: Answer


class ScalingFunctions(NamedTuple):
    """What :func:`scaling_functions` answers: ``F``, the peak over delta^2, and ``G``, the fall over delta.

    Examples
    --------
    >>> scaling_functions(1e-3).peak  # almost no friction
    2.912...
    """

    peak: Answer
    fall: Answer


def momentum_scaling(v0: Numbers, momentum: Numbers) -> Scaling:
    """The leading law of a catapult with heavy-ball momentum: peak and final kernel from the one number ``k``.

    Parameters
    ----------
    v0
        ``eta lambda`` at the start; arrays are taken elementwise.
    momentum
        ``mu`` in [0, 1).

    Returns
    -------
    Scaling
        With ``delta = v0 - 2 (1 + mu)``; below the critical rate k is infinite, the peak 0, and v stays.

    Raises
    ------
    ValueError, TypeError
        For a v0 that is negative or a momentum outside [0, 1).

    Notes
    -----
    Derived (notebook 09) for y = 0, ``delta << 1``, ``delta G << 2 (1 + mu)`` and a start at
    ``z0 (1 + mu)/(1 - mu) << delta``, in the limit delta -> 0 at fixed k. What is left is of relative order delta in
    the peak and, observed, of order ``delta G`` in the fall: a fifth of the share ``delta G/(2 (1 + mu))``. F and G
    (:func:`scaling_functions`) are of one orbit of two differential equations: F goes from 1/2 (k large, as for
    gradient descent) to 2.9157 (k = 0), G from 1 to ``6.6549 k^(-4/3)``.

    Examples
    --------
    >>> momentum_scaling(3.82, 0.9)
    Scaling(k=0.725..., peak_u=0.00055..., final_v=3.657...)
    """
    momentum, v0 = check_momentum(momentum, v0=v0)
    refuse(v0 < 0, "v0", "non-negative", v0)
    critical = 2 * (1 + momentum)
    delta = np.maximum(v0 - critical, 0)
    with np.errstate(divide="ignore"):
        k = (1 - momentum) / np.sqrt(delta * (1 + momentum) / 2)
    peak, fall = _scaling_functions(np.where(delta > 0, k, 1.0))
    end = critical - delta * fall
    end = np.where(delta > 0, np.where(end < 0, np.nan, end), v0)
    return Scaling(scalar(k), scalar(np.where(delta > 0, delta**2 * peak, 0.0)), scalar(end))


def scaling_functions(k: Numbers) -> ScalingFunctions:
    """``F(k)`` and ``G(k)`` of :func:`momentum_scaling`, for positive ``k``; arrays are taken elementwise.

    Tabulated (``python -m nqm_tools.dynamics._inertia``) with a relative error below 1e-6.

    Examples
    --------
    >>> scaling_functions(1.0)
    ScalingFunctions(peak=1.14466..., fall=4.30683...)
    """
    (k,) = check_float64(k=k)
    refuse(k <= 0, "k", "positive", k)
    return ScalingFunctions(*(scalar(values) for values in _scaling_functions(k)))


def _scaling_functions(k):
    peak, fall = (_interpolated(which)(1 / (1 + k)) for which in (0, 1))
    return peak, fall * (k / (1 + k)) ** (-4 / 3)


@functools.cache
def _interpolated(which):
    from scipy.interpolate import BarycentricInterpolator

    values = (PEAK, FALL)[which]
    nodes = (1 - np.cos(np.pi * np.arange(len(values)) / (len(values) - 1))) / 2
    return BarycentricInterpolator(nodes, values)


def first_divergence(momentum: float, z0: float = 1e-4, *, phases: int = 32, grid: float = 0.01) -> float:
    """``eta_max lambda_0``: the smallest one above critical, on a grid, at which a run at y = 0 diverges.

    Parameters
    ----------
    momentum : float
        ``mu`` in [0, 1).
    z0 : float
        The size of the residual at the start, without units.
    phases : int
        From each rate so many runs start, at z0 and up to one step's growth above it.
    grid : float
        The distance of the rates.

    Returns
    -------
    float
        The first such rate above critical, up to 5; infinite where none of them diverges. The boundary is irregular,
        and beyond it some rates and phases converge again.

    Raises
    ------
    ValueError, TypeError
        For a z0 that with a step's growth is above ``eta lambda_0/2`` at some rate, which no model has.

    Notes
    -----
    Observed from small starts: between 3.9 and 4.3 for every momentum tried, 0 to 0.99, while the critical rate goes
    from 2 to 4; so the window of catapults, ``eta_max/eta_crit``, closes. For gradient descent it is 4 exactly.

    Examples
    --------
    >>> round(first_divergence(0.9, phases=8, grid=0.05), 2)
    4.2
    """
    momentum, z0, grid = check_fraction("momentum", momentum), check_rate("z0", z0), check_rate("grid", grid)
    phase = np.arange(check_whole("phases", phases)) / phases
    rates = np.arange(math.floor(2 * (1 + momentum) / grid) + 1, math.ceil(_TOP / grid) + 1) * grid
    v0 = rates[:, None]
    growth = np.abs(_growth(v0, momentum)) ** phase
    most = np.min(v0 / (2 * growth))
    refuse(z0 > most, "z0", f"at most {most:.3g}, so that every start has eta lambda_0 >= 2 |z|", np.asarray(z0))
    z = z0 * growth
    for first in range(0, rates.size, _RATES):  # upwards, since those beyond the first that diverges are not asked for
        some = slice(first, first + _RATES)
        peak, _ = come_to_rest(_at_rest(z[some], v0[some] + 0 * z[some]), momentum + 0 * z[some], 0 * z[some])
        lost = np.isinf(peak).any(axis=1)
        if lost.any():
            return float(rates[some][np.argmax(lost)])
    return np.inf


def by_phase(v0, momentum):
    """(..., PHASES) highest u and final v in the limit of a small initial loss, y = 0."""
    critical = 2 * (1 + momentum)
    law = momentum_scaling(np.clip(v0, 0, critical + LAW_BELOW), momentum)
    iterated = v0 > critical + LAW_BELOW
    v = np.where(iterated, v0, critical + 0.1)[..., None]
    mu = np.broadcast_to(momentum[..., None], v.shape)
    growth = _growth(v, mu)
    phase = (np.arange(PHASES) + 0.5) / PHASES
    # On the unstable manifold of z = 0, to first order: X = X0 + a, Y = X0 - a with a growing by that factor a step.
    side = np.sqrt(v / 2)
    a = _NOTHING * (v - 2 * (1 + mu)) / (2 * side) * np.abs(growth) ** phase
    state = HeavyBall(side + a, side + a / growth, side - a, side - a / growth)
    found = come_to_rest(state, mu + 0 * a, np.zeros(a.shape))
    return [
        np.where(iterated[..., None], values, np.asarray(limit)[..., None])
        for values, limit in zip(found, (law.peak_u, law.final_v), strict=True)
    ]


def _growth(v, momentum):
    """The root of ``s^2 - (1 + mu - v) s + mu`` beyond -1, by which small residuals are multiplied a step."""
    half = (v - 1 - momentum) / 2
    return -(half + np.sqrt(np.maximum(half**2 - momentum, 0)))


def _at_rest(z, v, beta=0.0):
    x, y = np.sqrt(v / 2 + (z + beta)), np.sqrt(v / 2 - (z + beta))
    return HeavyBall(x, x, y, y)


def from_rest(u, v, w, momentum):
    """(highest u, final v) of runs that start at rest at ``(u, v, w)``."""
    z = np.sqrt(u)
    beta = np.where(z > 0, w / np.where(z > 0, z, 1), 0.0)
    # The slack of `check_dimensionless`.
    size = np.maximum(v, 2 * np.abs(z + beta))
    return come_to_rest(_at_rest(z, size, beta), momentum, beta)


def come_to_rest(state, momentum, beta):
    """(highest u, final v) of runs of heavy ball, in float64; infinite and NaN where they diverge, NaN without an end.

    Those that are at rest, or lost, drop out of the iteration after each chunk of steps.
    """
    shape = np.shape(state.x)
    values = np.stack([np.ravel(part) for part in (*state, np.zeros(shape), momentum, beta)])
    with np.errstate(all="ignore"):
        values[4] = heavy_ball_observables(HeavyBall(*values[:4]), values[6]).z ** 2
    peak, end = _iterated(values.tobytes())
    return peak.reshape(shape), end.reshape(shape)


# The peak and the end of the same runs are asked for one after the other.
@functools.lru_cache(maxsize=4)
def _iterated(content):
    """Highest u and final v of runs whose rows of X, X_before, Y, Y_before, u, momentum, beta are these bytes."""
    values = np.frombuffer(content).reshape(7, -1).copy()
    moving, done, chunk = np.arange(values.shape[1]), 0, 64
    while moving.size and done < _MOST_STEPS:
        # Padded to a power of two, with zeros (at rest), so that few sizes are compiled.
        padded = np.zeros((7, 2 ** math.ceil(math.log2(moving.size))))
        padded[:, : moving.size] = values[:, moving]
        with jax.enable_x64(True):
            after, still = _chunk(jnp.asarray(padded), chunk)
            after, still = np.asarray(after), np.asarray(still)
        values[:, moving] = after[:, : moving.size]
        done, chunk = done + chunk, min(2 * chunk, 2**16)
        moving = moving[still[: moving.size]]
    with np.errstate(all="ignore"):  # of runs that diverged
        end = _to_be(values)[0] + _to_be(values)[1]
        lost = ~(heavy_ball_observables(HeavyBall(*values[:4])).v < _LOST)
    end, peak = np.where(lost, np.nan, end), np.where(lost, np.inf, values[4])
    # Some creep towards v = 0 for ever; from there nothing of them is to come but the last of v.
    with np.errstate(all="ignore"):
        u = heavy_ball_observables(HeavyBall(*values[:4]), values[6]).z ** 2
    stuck = moving[~(u[moving] < 1e-12)]
    end[stuck] = peak[stuck] = np.nan
    end.flags.writeable = peak.flags.writeable = False
    return peak, end


def _to_be(values):
    """Squares of X and Y where they would coast to, were z = 0 from here on."""
    x, x_before, y, y_before, _, momentum, _ = values
    return ((x - momentum * x_before) / (1 - momentum)) ** 2, ((y - momentum * y_before) / (1 - momentum)) ** 2


def _moving(values):
    """Whether what is still to come of v matters: each further z takes ``4 z (z + beta)/(1 - mu)`` from it."""
    state, momentum, beta = HeavyBall(*values[:4]), values[5], values[6]
    z, v = heavy_ball_observables(state, beta)
    before = heavy_ball_observables(HeavyBall(state.x_before, state.x_before, state.y_before, state.y_before), beta).z
    size = jnp.maximum(jnp.abs(z), jnp.abs(before))
    end = sum(_to_be(values))
    room = jnp.minimum(end, 2 * (1 + momentum) - end)
    lasts = (1 - momentum) / room + 2 / (1 - momentum)
    to_come = 4 * size * (size + jnp.abs(beta)) * lasts / (1 - momentum)
    # Coasting without a force is rest too: from there on only what z there is matters.
    at_rest = (v == 0) | ((room > 0) & (to_come < _REST * room) & (jnp.abs(v - end) < 1e-3 * room))
    return ~(at_rest | ~(v < _LOST))


@jax.jit
def _chunk(values, steps):
    def body(_, values):
        momentum, beta = values[5], values[6]
        after = heavy_ball_step(HeavyBall(*values[:4]), momentum, beta)
        peak = jnp.maximum(values[4], heavy_ball_observables(after, beta).z ** 2)
        return jnp.where(_moving(values), jnp.stack([*after, peak, momentum, beta]), values)

    values = jax.lax.fori_loop(0, steps, body, values)
    return values, _moving(values)


def first_divergence_from(residual, kernel, c, y, momentum):
    """The first rate on a grid of 0.01/kernel, up to 8/kernel, at which the run from this start diverges."""
    check_number("kernel", kernel)
    rates = np.arange(1, 801) / (100 * kernel)
    z, beta = np.sqrt(c) * rates * residual, np.sqrt(c) * rates * y
    # The slack of `check_dimensionless`.
    size = np.maximum(rates * kernel, 2 * np.abs(z + beta))
    peak, _ = come_to_rest(_at_rest(z, size, beta), np.full(rates.shape, momentum), beta)
    return float(rates[np.argmax(np.isinf(peak))]) if np.isinf(peak).any() else np.inf
