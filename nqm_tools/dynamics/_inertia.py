"""The orbit behind the scaling law of heavy ball near its critical rate, and the command that tabulates it.

``python -m nqm_tools.dynamics._inertia`` writes ``_inertia_table.py`` beside this file (seconds).

With ``zeta = (-1)^t z``, ``xi = v - 2 (1 + mu)``, ``delta`` its first value and ``M = (1 + mu)/2`` heavy ball is, to
leading order and in time ``sqrt(M/delta)``, ``Z'' + k Z' = X Z``, ``X'' + k X' = -2 Z^2`` with ``zeta = delta Z``,
``xi = delta X``, ``k = (1 - mu)/sqrt(M delta)``. A run from almost nothing follows the unstable manifold of (Z, X) =
(0, 1). Notebook 09 derives it.
"""

from __future__ import annotations

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from nqm_tools._writing import write_text

# The table's k are those of 1/(1 + k) at so many intervals between the extrema of a Chebyshev polynomial.
INTERVALS = 32
TERMS = 14  # of the Taylor series of a step
_LOCAL = 1e-15  # the last term of a step's series, relative
_START, _REST = 1e-7, 1e-14
_MOST_STEPS = 5_000_000
# For k = 0: where the fall is followed to; the mean is over its last half.
_FAR = 1e5


def solve(k: Float[ArrayLike, " n"]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """``F = max Z^2`` and ``G = -X`` at the end, for positive ``k``; relative error about 1e-10."""
    with jax.enable_x64(True):
        peak, end = _solve(jnp.asarray(k, float))
    return np.asarray(peak), np.asarray(end)


@jax.jit
def _solve(k):
    rate = 2 / (k + jnp.sqrt(k * k + 4))  # of growth on the unstable manifold, and what Z^2 takes from X there
    taken = 2 * _START**2 / (4 * rate**2 + 2 * k * rate)
    start = (jnp.full_like(k, _START), _START * rate, 1 - taken, -2 * rate * taken, jnp.zeros_like(k), k < 0)

    def goes_on(carry):
        return ~jnp.all(carry[0][5]) & (carry[1] < _MOST_STEPS)

    def body(carry):
        state, count = carry
        new = _step(state, k)
        return tuple(jnp.where(state[5], old, value) for old, value in zip(state, new, strict=True)), count + 1

    (_, _, x, v, peak, rest), _ = jax.lax.while_loop(goes_on, body, (start, 0))
    return peak, jnp.where(rest, -(x + v / k), jnp.nan)


def _step(state, k):
    """One step of a Taylor series, as long as its last term allows."""
    z, w, x, v, peak, _ = state
    for_z, for_x = _series(z, w, x, v, k)
    sizes = jnp.abs(z) + jnp.abs(w), jnp.abs(x) + jnp.abs(v)
    longest = [
        (_LOCAL * size / (jnp.abs(series[-1]) + 1e-300)) ** (1 / TERMS)
        for size, series in zip(sizes, (for_z, for_x), strict=True)
    ]
    h = jnp.minimum(*longest)
    (z, w_new), (x, v) = _at(for_z, h), _at(for_x, h)
    # The first time that Z' changes its sign is the highest peak: the later ones are damped, or faster.
    turns = (peak == 0) & (w_new <= 0)
    slope = [n * for_z[n] for n in range(1, TERMS + 1)]
    top = h * w / (w - w_new)

    def nearer(_, top):
        value, derivative = _at(slope, top)
        return jnp.clip(top - value / derivative, 0, h)

    top = jax.lax.fori_loop(0, 6, nearer, top)
    peak = jnp.where(turns, _at(for_z, top)[0] ** 2, peak)
    left = (z**2 + w_new**2 / jnp.abs(x)) * (1 / jnp.abs(x) + 1 / k**2)  # what X is still to fall by, about
    return z, w_new, x, v, peak, (peak > 0) & (x < 0) & (left < _REST * jnp.abs(x))


def _series(z, w, x, v, k):
    for_z, for_x = [z, w], [x, v]
    for n in range(TERMS - 1):
        product = sum(for_x[j] * for_z[n - j] for j in range(n + 1))
        square = sum(for_z[j] * for_z[n - j] for j in range(n + 1))
        for_z.append((product - k * (n + 1) * for_z[n + 1]) / ((n + 1) * (n + 2)))
        for_x.append((-2 * square - k * (n + 1) * for_x[n + 1]) / ((n + 1) * (n + 2)))
    return for_z, for_x


def _at(series, h):
    """Value and derivative of a polynomial."""
    value, derivative = jnp.zeros_like(h), jnp.zeros_like(h)
    for coefficient in reversed(series):
        derivative = derivative * h + value
        value = value * h + coefficient
    return value, derivative


def without_friction() -> tuple[float, float]:
    """The limits for ``k -> 0``: ``F``, and ``G k^(4/3) = (2 J)^(2/3) y(infinity)``.

    ``J = X'^2/(8 sqrt(-X))`` is the action of Z's fast oscillation at k = 0; with friction it falls like ``exp(-k t)``,
    and ``-X`` follows ``y'' + y' = exp(-s) y^(-1/2)`` from y = 0.
    """
    from scipy.integrate import solve_ivp

    with jax.enable_x64(True):
        peak, action = map(float, _fall())

    def slow(t, state):  # in log s near 0, where y = (3 s/2)^(4/3) (1 + a s + ...)
        s = np.exp(t)
        return s * state[1], s * (np.exp(-s) * state[0] ** -0.5 - state[1])

    first = 1e-6  # y'' + y' = (1 - s) y^(-1/2) to next order: a = -3/5
    y = (1.5 * first) ** (4 / 3) * (1 - 0.6 * first)
    slope = 2 * (1.5 * first) ** (1 / 3) * (1 - 0.6 * first * 7 / 4)
    found = solve_ivp(slow, np.log([first, 60.0]), (y, slope), method="DOP853", rtol=1e-12, atol=1e-14)
    return peak, float((2 * action) ** (2 / 3) * found.y[0, -1])


@jax.jit
def _fall():
    k = jnp.zeros(1)
    start = (k + _START, k + _START, k + 1 - _START**2 / 2, k - _START**2, k, k < 0)

    def body(carry):
        state, total, time = carry
        z, w, x, v, peak, _ = new = _step(state, k)
        # The mean over time of X'^2/(8 sqrt(-X)), which oscillates around the action, over the last half.
        far = (x < -_FAR / 2)[0]
        span = jnp.where(far, 1.0, 0.0)
        return (
            (z, w, x, v, peak, new[5]),
            total + span * v[0] ** 2 / (8 * jnp.sqrt(jnp.abs(x[0]))),
            time + span,
        )

    state, total, count = jax.lax.while_loop(lambda carry: carry[0][2][0] > -_FAR, body, (start, 0.0, 0.0))
    return state[4][0], total / count


@functools.cache
def table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``1/(1 + k)`` from 0 to 1, ``F`` and ``G (k/(1 + k))^(4/3)``, computed anew."""
    inverse = (1 - np.cos(np.pi * np.arange(INTERVALS + 1) / INTERVALS)) / 2
    k = 1 / inverse[1:-1] - 1
    peak, end = solve(k)
    first, last = without_friction()
    return (
        inverse,
        np.concatenate([[0.5], peak, [first]]),
        np.concatenate([[1.0], end * (k / (1 + k)) ** (4 / 3), [last]]),
    )


def main() -> None:
    """Write the table."""
    _, peak, end = table()
    lines = [
        '"""F and G of the scaling law of heavy ball, written by ``python -m nqm_tools.dynamics._inertia``.\n\n',
        f"At ``1/(1 + k) = (1 - cos(pi n/{INTERVALS}))/2``, n = 0, 1, ...: ``F``, and ``G (k/(1 + k))^(4/3)``.\n",
        '"""\n\n',
    ]
    for name, values in (("PEAK", peak), ("FALL", end)):
        lines.append(f"{name} = (\n" + "".join(f"    {value:.9f},\n" for value in values) + ")\n")
    write_text(pathlib.Path(__file__).with_name("_inertia_table.py"), "".join(lines))


if __name__ == "__main__":
    main()
