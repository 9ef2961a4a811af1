"""Rules about the edge of stability of one example, of the sweep ``edge_one_example`` or computed on the spot."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from nqm_tools import dynamics
from nqm_tools.papers._rules import FEWEST_SEEDS, Check, Finding, unknown
from nqm_tools.papers.zhu2024.theorems import coupling

if TYPE_CHECKING:
    import pandas as pd

# Within so much of |beta| = 1, or of a doubling, all is slow: runs of finitely many steps are not judged there.
MARGIN = 0.02
LAST = 64
# Where the largest s of balanced weights, 4 (1 + beta)^3/27, is 1 + beta: beyond, one step closes a network's gates.
GATES_CLOSE = 27**0.5 / 2 - 1
VANISHED, BALANCED = 1e-6, 1e-3
# Between sqrt(5) - 1 and the next doubling, at 1.288, the period is 4; this is where it is judged.
PERIOD_FOUR = dynamics.PERIOD_FOUR + 0.01, 1.285
DRAWS = 2000
PARAMETERIZATIONS = (0, 0.5, 0.8, 0.9, 0.95, 1)


class State(NamedTuple):
    """A recorded run in the units of the map: beta, what is foretold from its start, u and v of all its rows."""

    seed: int
    beta: float
    foretold: str
    u: Float[np.ndarray, " rows"]
    v: Float[np.ndarray, " rows"]


def states(frame: pd.DataFrame, model: str) -> list[State]:
    """The recorded runs of a model; its targets are far beyond the first outputs, so the first residual is negative."""
    found = []
    for _, rows in frame[frame["model"] == model].groupby("key"):
        first = rows.iloc[0]
        c, rate = coupling(rows.iloc[:1])[0], first["learning_rate"]
        u, v = 2 * c * rate**2 * rows["train_loss"].to_numpy(), rate * rows["lambda_1"].to_numpy()
        beta = c**0.5 * rate * first["label"]
        foretold = dynamics.predict_regime(u[0], v[0], -beta * u[0] ** 0.5)
        found.append(State(int(first["seed"]), beta, foretold, u, v))
    return found


def vanishes(state: State) -> bool:
    """Whether the loss has gone."""
    return bool(np.all(state.u[-LAST:] < VANISHED * state.u[0]))


def dead(state: State) -> bool:
    """Whether the kernel has gone: all gates are closed, and nothing moves any more."""
    return bool(np.all(state.v[-LAST:] < 1e-6))


def sustained(state: State) -> bool:
    """Whether the run is bounded, not dead, and its loss, at the end, more than 1e-4 of the first."""
    bounded = np.isfinite(state.u).all() and np.isfinite(state.v).all()
    return bool(bounded and not dead(state) and state.u[-LAST:].max() > 1e-4 * state.u[0])


def highest_beta(model: str) -> float:
    """Up to where a model can be at the edge: a network until its gates close, its quadratic model up to 2."""
    return GATES_CLOSE if model == "f" else 2.0


def critical_rate(model: str) -> Check:
    """Whether the loss vanishes below ``|beta| = 1``, and neither vanishes nor diverges above it (``D_0 >= 0``).

    Of the network up to where its gates close; how many runs beyond end dead is counted beside it.
    """

    def check(frame):
        runs = [s for s in states(frame, model) if s.foretold != "divergent"] if len(frame) else []
        below = [s for s in runs if s.beta < 1 - MARGIN]
        above = [s for s in runs if 1 + MARGIN < s.beta < highest_beta(model)]
        beyond = [s for s in runs if s.beta > highest_beta(model)]
        if min(len({s.seed for s in part}) for part in (below, above)) < FEWEST_SEEDS:
            return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded on a side of it")
        gone, stay = sum(map(vanishes, below)), sum(map(sustained, above))
        return Finding(
            f"{gone} of {len(below)} runs below vanish; {stay} of {len(above)} above stay"
            + (f"; {sum(map(dead, beyond))} of {len(beyond)} beyond sqrt(27)/2 - 1 end dead" if beyond else ""),
            gone == len(below) and stay == len(above),
        )

    return check


def at_the_edge(frame: pd.DataFrame, model: str, low: float = 1 + MARGIN, high: float = 2.0) -> list[State]:
    """Runs at the edge of stability, with beta between two."""
    if not len(frame):
        return []
    found = states(frame, model)
    return [s for s in found if s.foretold == "edge of stability" and low < s.beta < high and sustained(s)]


def is_balanced(model: str) -> Check:
    """Whether runs at the edge end where the two layers are balanced: ``z = v/2 - beta``."""

    def check(frame):
        runs = at_the_edge(frame, model, high=highest_beta(model))
        if len({s.seed for s in runs}) < FEWEST_SEEDS:
            return unknown(f"fewer than {FEWEST_SEEDS} seeds are at the edge")
        off = [np.abs(s.u[-LAST:] ** 0.5 - np.abs(s.v[-LAST:] / 2 - s.beta)).max() for s in runs]
        good = sum(value < BALANCED for value in off)
        return Finding(f"{good} of {len(runs)} runs, off by {max(off):.0e} at most", bool(good == len(runs)))

    return check


def _period(v):
    for period in (1, 2, 4, 8, 16):
        if np.abs(v[period:] - v[:-period]).max() < 1e-3 * np.abs(v).max():
            return period
    return 0


def periods(frame: pd.DataFrame) -> Finding:
    """Whether ``eta lambda`` has period 2, then 4, then none, as beta grows."""
    regions = {2: (1 + MARGIN, dynamics.PERIOD_FOUR - 0.01), 4: PERIOD_FOUR, 0: (dynamics.CHAOS + 0.005, 1.4)}
    counts, measured = [], []
    for wanted, (low, high) in regions.items():
        runs = at_the_edge(frame, "f_quad", low, high)
        good = sum(_period(s.v[-LAST:]) == wanted for s in runs)
        counts.append((good, len(runs), len({s.seed for s in runs})))
        name = f"period {wanted}" if wanted else "none up to 16"
        measured.append(f"{good} of {len(runs)} runs with {low:.3f} < beta < {high:.3f}: {name}")
    if counts[0][2] < FEWEST_SEEDS or not all(total for _, total, _ in counts):
        return unknown("; ".join(measured))
    return Finding("; ".join(measured), all(good == total for good, total, _ in counts))


@functools.cache
def route_to_chaos() -> Finding:
    """Ratios of the distances between superstable cycles of period 2, 4, 8, ...: 4.669 for a route by doubling."""
    from scipy.optimize import brentq

    def missed(beta, period):
        start = s = (1 + beta) / 3
        for _ in range(period):
            s = dynamics.balanced_step(s, beta)
        return s - start

    found = [brentq(missed, 1.0, 1.2, args=(2,), xtol=1e-14), brentq(missed, 1.24, 1.285, args=(4,), xtol=1e-14)]
    while len(found) < 7:
        ahead = (found[-1] - found[-2]) / 4.669
        bracket = found[-1] + 0.7 * ahead, found[-1] + 1.3 * ahead
        values = [missed(beta, 2 ** (len(found) + 1)) for beta in bracket]
        if values[0] * values[1] > 0:
            return Finding(f"no cycle of period {2 ** (len(found) + 1)} where it should be", False)
        found.append(brentq(missed, *bracket, args=(2 ** (len(found) + 1),), xtol=1e-14))
    gaps = np.diff(found)
    ratio, chaos = gaps[-2] / gaps[-1], found[-1] + gaps[-1] / 3.6692
    exponents = dynamics.lyapunov_exponent([1.2, 1.45, 1.9]).along
    return Finding(
        f"ratio {ratio:.3f}, chaos from {chaos:.5f} on; Lyapunov exponents at 1.2, 1.45, 1.9: "
        + ", ".join(f"{value:.2f}" for value in exponents),
        bool(abs(ratio - 4.669) < 0.01 and exponents[0] < 0 < exponents[1] < exponents[2]),
    )


@functools.cache
def parameterization() -> Finding:
    """The share of draws that can sit at the edge, of ``f = v^T U x/sqrt(n_eff)``, ``n_eff = n^(1 - p)``, y = 1.

    The family is ours. Width 512, weights of variance ``n_eff/n``, so that the kernel is about 2 for every p: the
    neural tangent parameterization at p = 0, one whose features move as fast as its outputs at p = 1.
    """
    width, y, beta = 512, 1.0, 1 + MARGIN
    rng = np.random.default_rng(0)
    # Of inputs with |x| = 1, U x is normal too.
    h, v = rng.standard_normal((2, DRAWS, width))
    shares = []
    for p in PARAMETERIZATIONS:
        n_effective = width ** (1 - p)
        f = np.sum(h * v, axis=1) * n_effective**0.5 / width
        kernel = np.sum(h**2 + v**2, axis=1) / width
        state = dynamics.dimensionless(f, kernel, beta * n_effective**0.5 / y, 1 / n_effective, y)
        shares.append(float(np.mean(dynamics.predict_regime(*state) == "edge of stability")))
    listed = ", ".join(f"{100 * share:.0f} % at {p:g}" for p, share in zip(PARAMETERIZATIONS, shares, strict=True))
    return Finding(f"{listed} ({DRAWS:,} draws each)", shares[0] == 0 and shares[-1] > 0.9 and shares == sorted(shares))


@functools.cache
def mechanism() -> Finding:
    """Random states: the kernel rises if and only if ``r (4 f - eta lambda r) < 0``; so always for ``0 < f < y``."""
    rng = np.random.default_rng(0)
    y, c, rate = rng.uniform(-2, 2, (3, 20_000))
    c, rate = np.abs(c), np.abs(rate)
    f = rng.uniform(-3, 3, y.shape)
    kernel = 2 * c**0.5 * np.abs(f) + rng.exponential(1, y.shape)
    rise = dynamics.one_example_step(dynamics.OneExample(f, kernel), rate, c, y).kernel - kernel
    r = f - y
    wrong = int(np.sum((rise > 0) != (r * (4 * f - rate * kernel * r) < 0)))
    between = (f * y > 0) & (np.abs(f) < np.abs(y))
    return Finding(
        f"{wrong} exceptions in {y.size:,} states; between 0 and y it rises in {np.mean(rise[between] > 0):.0%}",
        wrong == 0 and bool(np.all(rise[between] > 0)),
    )
