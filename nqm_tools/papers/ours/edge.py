"""Rules about the edge of stability that are ours: recorded runs against the exact map, series, random models."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from nqm_tools import dynamics
from nqm_tools.papers._rules import (
    FEWEST_SEEDS,
    Check,
    Finding,
    Interval,
    estimate,
    runs_of,
    unknown,
)
from nqm_tools.papers.agarwala2022 import sharpening
from nqm_tools.papers.kalra2023b import edge

if TYPE_CHECKING:
    import pandas as pd

MEAN_ERROR = 1e-4
# Chebyshev polynomial: where the edge is judged, and how far from 2 the mean sharpness may be that counts as being
# there: a quarter of where the kernels start, 1.8 and 2.2. It was chosen with the recorded runs in view.
RATES, NEAR_TWO = (0.9, 1.1), 0.05
# A rate from which not every width comes to the edge in the recorded steps: reported, not judged.
SLOW_RATE = 0.7
# One example, written out: on both sides of where gates close, and outside of the widest periodic windows.
GATE_BETAS, GATE_SEEDS, GATE_STEPS = (1.1, 1.25, 1.4, 1.5, 1.58, 1.62, 1.66, 1.75, 1.8), 10, 5000
# Two eigenvalues with momentum: where their edge is measured, and the cliff. Runs start with X^2 at a share of where it
# would come to rest if Y stood still, and that is so many times the edge; what ends this near to where starts
# beside the curve end has come back.
INERTIA_EPSILONS, INERTIA_MOMENTA = (0.004, 0.008, 0.016), (0.3, 0.6)
CLIFF_EPSILON, CLIFF_MOMENTA, CLIFF_STARTS, CLIFF_NEAR = 0.02, (0.0, 0.5, 0.8), 200, 0.01
CLIFF_SHARE, CLIFF_REACH, CLIFF_BESIDE = (0.85, 0.95), (1.0, 1.25), np.linspace(1.002, 1.02, 8)
# Of the runs whose quadratic model diverges: the share of networks that close all their gates.
MOST = 0.9


def foretold(frame: pd.DataFrame) -> Finding:
    """Whether each recorded run of the quadratic model does what ``predict_regime`` says of its start."""
    runs = edge.states(frame, "f_quad") if len(frame) else []
    runs = [s for s in runs if min(abs(s.beta - 1), abs(s.beta - 2)) > edge.MARGIN]
    wanted = {"divergent": _diverged, "edge of stability": edge.sustained}
    kinds = {kind: [s for s in runs if _kind(s) == kind] for kind in (*wanted, "at rest")}
    if min(len({s.seed for s in part}) for part in kinds.values()) < FEWEST_SEEDS:
        return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded of one of {', '.join(kinds)}")
    good = {kind: sum(map(wanted.get(kind, edge.vanishes), part)) for kind, part in kinds.items()}
    return Finding(
        "; ".join(f"{kind}: {good[kind]} of {len(part)}" for kind, part in kinds.items()),
        all(bool(good[kind] == len(part)) for kind, part in kinds.items()),
    )


def _kind(state):
    return state.foretold if state.foretold in ("divergent", "edge of stability") else "at rest"


def _diverged(state):
    return not np.isfinite(state.u).all() or state.u[-1] > 1e3 * state.u[0]


def mean_kernel(model: str) -> Check:
    """Whether the time average of ``eta lambda`` over a 2-cycle is ``1 + beta``."""

    def check(frame):
        runs = edge.at_the_edge(frame, model, 1 + edge.MARGIN, dynamics.PERIOD_FOUR - 0.01)
        if len({s.seed for s in runs}) < FEWEST_SEEDS:
            return unknown(f"fewer than {FEWEST_SEEDS} seeds have period 2")
        errors = [abs(s.v[-edge.LAST :].mean() / (1 + s.beta) - 1) for s in runs]
        good = sum(error < MEAN_ERROR for error in errors)
        return Finding(f"{good} of {len(runs)} runs, off by {max(errors):.0e} at most", bool(good == len(runs)))

    return check


def network_survives(frame: pd.DataFrame) -> Finding:
    """Whether the network stays bounded where its quadratic model diverges, and most runs close all their gates."""
    runs = [s for s in edge.states(frame, "f") if s.foretold == "divergent"] if len(frame) else []
    if len({s.seed for s in runs}) < FEWEST_SEEDS:
        return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded there")
    dead, diverged = sum(map(edge.dead, runs)), sum(bool(_diverged(s)) for s in runs)
    return Finding(
        f"{diverged} of {len(runs)} runs diverge; {dead} end with kernel 0, all gates closed, "
        f"{len(runs) - dead - diverged} alive",
        diverged == 0 and dead >= MOST * len(runs),
    )


@functools.cache
def gates_close() -> Finding:
    """Networks of 64 units written out without units: alive up to ``beta = sqrt(27)/2 - 1``, and dead beyond.

    ``h`` are the pre-activations and ``a`` the readouts, so that ``s = sum a h`` and ``v = sum a^2 + h^2`` over the
    open gates. Closed units never move.
    """
    rng = np.random.default_rng(0)
    beta = np.repeat(GATE_BETAS, GATE_SEEDS)
    h, a = rng.standard_normal((2, len(beta), 64)) / 16
    for _ in range(GATE_STEPS):
        open_a, open_h = a * (h > 0), np.maximum(h, 0)
        z = (np.sum(a * open_h, axis=1) - beta)[:, None]
        h, a = h - z * open_a, a - z * open_h
    dead, below = ~np.any(h > 0, axis=1), beta < edge.GATES_CLOSE
    return Finding(
        f"{dead[below].sum()} of {below.sum()} runs below end dead, {dead[~below].sum()} of {(~below).sum()} beyond",
        bool(np.array_equal(dead, ~below)),
    )


@functools.cache
def second_term() -> Finding:
    """How the error of ``two_eigenvalue_edge`` scales with epsilon: as its third power."""
    exponents = []
    for target in (0.0, 0.3):
        errors = [
            abs(np.median(sharpening.ends(e, target, 0)) - dynamics.two_eigenvalue_edge(e, target))
            for e in sharpening.EPSILONS
        ]
        exponents.append(np.polyfit(np.log(sharpening.EPSILONS), np.log(errors), 1)[0])
    return Finding(
        f"exponents {exponents[0]:.2f} and {exponents[1]:.2f} for targets 0 and 0.3",
        all(2.7 < exponent < 3.3 for exponent in exponents),
    )


def ends_with_momentum(
    reach: Float[np.ndarray, " runs"],
    share: Float[np.ndarray, " runs"],
    epsilon: float,
    momentum: float,
    target: float = 0.0,
    steps: int = 4000,
) -> Float[np.ndarray, " runs"]:
    """``eta lambda`` at the end of runs of heavy ball from rest, NaN or infinite of those that diverge.

    If Y stood still the kernel would come to ``2 (1 + momentum) reach``; ``X^2`` starts at that share of it.
    """
    rest = 2 * (1 + momentum) * np.asarray(reach)
    x, y = (share * rest) ** 0.5, (rest - 2 * target) ** 0.5
    state = dynamics.HeavyBall(x, x, y, y)
    with np.errstate(all="ignore"):
        for _ in range(steps):
            state = dynamics.heavy_ball_step(state, momentum, target, epsilon)
        return dynamics.heavy_ball_observables(state, target, epsilon).v


@functools.cache
def edge_with_momentum() -> Finding:
    """How the error of ``two_eigenvalue_edge`` with momentum scales with epsilon: as its third power."""
    exponents = {}
    for momentum in INERTIA_MOMENTA:
        for target in (0.0, 0.3):
            errors = [
                abs(
                    ends_with_momentum(np.array(1.05), 1.002, e, momentum, target, steps=int(60 / e))
                    - dynamics.two_eigenvalue_edge(e, target, momentum)
                )
                for e in INERTIA_EPSILONS
            ]
            exponents[momentum, target] = np.polyfit(np.log(INERTIA_EPSILONS), np.log(errors), 1)[0]
    return Finding(
        "exponents "
        + ", ".join(f"{exponent:.2f} (momentum {m:g}, target {e:g})" for (m, e), exponent in exponents.items()),
        all(bool(2.7 < exponent < 3.5) for exponent in exponents.values()),
    )


@functools.cache
def cliff() -> Finding:
    """The share of starts past the edge that come back to it: all without momentum, and the fewer the more of it.

    To where the runs end that start next to the curve: the more momentum, the further below the edge that is.
    """
    found = {momentum: [] for momentum in CLIFF_MOMENTA}
    for seed in range(FEWEST_SEEDS):
        rng = np.random.default_rng(seed)
        reach, share = rng.uniform(*CLIFF_REACH, CLIFF_STARTS), rng.uniform(*CLIFF_SHARE, CLIFF_STARTS)
        for momentum in CLIFF_MOMENTA:
            near = np.nanmedian(ends_with_momentum(np.array(1.02), CLIFF_BESIDE, CLIFF_EPSILON, momentum))
            end = ends_with_momentum(reach, share, CLIFF_EPSILON, momentum)
            found[momentum].append(np.mean(np.abs(end - near) < CLIFF_NEAR * 2 * (1 + momentum)))
    falls = [Interval.of(np.subtract(found[more], found[less])) for less, more in itertools.pairwise(CLIFF_MOMENTA)]
    return Finding(
        "; ".join(f"momentum {m:g}: {100 * np.mean(values):.1f} %" for m, values in found.items()),
        bool(min(found[0.0]) == 1.0 and all(fall.high < 0 for fall in falls)),
    )


@functools.cache
def end_law() -> Finding:
    """The median error of ``two_eigenvalue_end``, over epsilon, from random states near ``T = 2``."""
    rng, errors, spread = np.random.default_rng(0), {}, 0.0
    for epsilon in (1e-2, 1e-3):
        x, s = rng.uniform(0, 3, 300), rng.uniform(0.1, 2, 300) * epsilon
        z = np.sqrt(s)
        start = dynamics.TwoEigenvalues(z, 2 + x * epsilon / 2 + 2 * (1 - epsilon) * z)
        state = start
        for _ in range(int(30 / epsilon)):
            state = dynamics.two_eigenvalue_step(state, epsilon)
        rest = np.abs(state.z) < 1e-4
        off = np.abs(dynamics.two_eigenvalue_end(start, epsilon) - state.kernel) / epsilon
        errors[epsilon] = float(np.median(off[rest]))
        spread = float(np.ptp(state.kernel[rest]) / epsilon)
    return Finding(
        ", ".join(f"off by {error:.4f} epsilon at {epsilon:g}" for epsilon, error in errors.items())
        + f"; ends differ by up to {spread:.2f} epsilon",
        errors[1e-2] < 0.03 and errors[1e-3] < errors[1e-2] / 3 and spread > 0.4,
    )


@functools.cache
def norm_law() -> Finding:
    """The change of the weights' norm in a step of ReLU networks of two and three layers, written out."""
    rng, errors = np.random.default_rng(0), []
    x, y, rate = rng.standard_normal((5, 3)), rng.standard_normal(5), 0.05
    for sizes in ((3, 20, 1), (3, 10, 10, 1)):
        layers = [rng.standard_normal(shape) / 2 for shape in itertools.pairwise(sizes)]
        inputs = [x]
        for weights in layers[:-1]:
            inputs.append(np.maximum(inputs[-1] @ weights, 0))
        f = (inputs[-1] @ layers[-1])[:, 0]
        back, gradients = np.ones((5, 1)), []
        for weights, below in zip(layers[::-1], inputs[::-1], strict=True):
            gradients.append((below[:, :, None] * back[:, None, :]).reshape(5, -1))
            back = (back @ weights.T) * (below > 0)
        w, gradient = np.concatenate([layer.ravel() for layer in layers[::-1]]), np.concatenate(gradients, axis=1)
        after = w - rate * (f - y) @ gradient
        law = dynamics.norm_change(f - y, f, gradient @ gradient.T, rate, degree=len(layers))
        errors.append(abs(law / (after @ after - w @ w) - 1))
    exact = bool(max(errors) < 1e-9)
    return Finding("exact to rounding" if exact else f"off by {max(errors):.1g}", exact)


def _chebyshev(frame, model, rates=RATES):
    """The recorded steps of a model where the edge is judged: at every width."""
    return frame[(frame["model"] == model) & frame["learning_rate_ratio"].isin(rates)]


def _late_sharpness(rows):
    late = rows[rows["step"] >= rows["steps"] / 2]
    return (late["learning_rate"] * late["sharpness"]).groupby([late["width"], late["key"]]).mean()


def reaches_the_edge(model: str) -> Check:
    """Whether ``eta`` times the sharpness averages to 2 over the second half of every run."""

    def check(frame):
        rows = _chebyshev(frame, model) if len(frame) else frame
        if not len(rows) or rows["seed"].nunique() < FEWEST_SEEDS:
            return unknown(f"fewer than {FEWEST_SEEDS} seeds of {model} are recorded")
        if (runs_of(rows)["regime"] == "divergent").any():
            return Finding(f"{(runs_of(rows)['regime'] == 'divergent').sum()} runs diverge", False)
        means, slow = _late_sharpness(rows), _late_sharpness(_chebyshev(frame, model, (SLOW_RATE,)))
        good = int((np.abs(means - 2) < NEAR_TWO).sum())
        beside = [
            f"width {width}: {(np.abs(values - 2) < NEAR_TWO).sum()} of {len(values)} "
            f"({values.min():.2f} to {values.max():.2f})"
            for width, values in slow.groupby("width")
        ]
        return Finding(
            f"{good} of {len(means)} runs; {means.min():.3f} to {means.max():.3f}, mean {means.mean():.3f}"
            + (f". At {SLOW_RATE:g}, {'; '.join(beside)}" if beside else ""),
            good == len(means),
        )

    return check


def loss_at_the_edge(frame: pd.DataFrame) -> Finding:
    """By how much the quadratic model's last losses lie above the network's, at the same rate, width and seed.

    Width by width: the wider, the less.
    """
    columns = ["width", "learning_rate_ratio", "seed"]
    losses = {}
    for model in ("f", "f_quad") if len(frame) else ():
        rows = _chebyshev(frame, model)
        late = rows[rows["step"] >= 0.9 * rows["steps"]]
        losses[model] = late.groupby(columns)["train_loss"].median()
    if not losses or min(len(values) for values in losses.values()) == 0:
        return unknown("not recorded")
    paired = np.log10(losses["f_quad"] / losses["f"]).dropna().groupby(["width", "seed"]).mean()
    widths = {width: values for width, values in paired.groupby("width")}
    fewest = min(map(len, widths.values()), default=0)
    if fewest < FEWEST_SEEDS:
        return unknown(f"{fewest} seeds are recorded, {FEWEST_SEEDS} are needed")
    return Finding(
        "; ".join(f"width {width}: by 10^{estimate(values)}" for width, values in widths.items()),
        all(bool(Interval.of(values).low > 0) for values in widths.values())
        and paired.groupby("width").mean().is_monotonic_decreasing,
    )
