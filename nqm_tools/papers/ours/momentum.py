"""Our statements about heavy-ball momentum: the map, its law, the window, and what the network shares of it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from nqm_tools import dynamics
from nqm_tools.papers._rules import FEWEST_SEEDS, Claim, Finding, Interval, slope, unknown
from nqm_tools.papers.zhu2024.theorems import coupling

if TYPE_CHECKING:
    import pandas as pd

# Recorded in single precision, whose rounding a catapult with momentum 0.8 amplifies; with 0.9 it decides the end from
# 5 % above critical on, so that nothing recorded there tells the map from another.
MAP_ERROR = 2e-3
LOWEST, HIGHEST = 3.9, 4.3
# What the law says may be this share of the critical value at most, where it is compared; within this factor.
IN_RANGE, WITHIN = 0.5, 2.0


def claims() -> list[Claim]:
    """All of them."""
    found = [
        Claim(
            "momentum",
            f"one example, momentum {float(mu[0] + '.' + mu[1:]):g}",
            f"momentum_{mu}_one_example",
            "heavy ball moves the quadratic model by the map of four numbers, to the end of a catapult",
            f"{FEWEST_SEEDS} seeds or more: in every run the error of the recorded final kernel against the map "
            f"from the run's own start is below {MAP_ERROR:g} (single precision; with momentum 0.9 its rounding "
            "decides the end above 2.5 %, so that is not asked)",
            ends_where_the_map_says,
            status="proved",
            where=("09", "dynamics.heavy_ball_step"),
        )
        for mu in ("00", "05", "08")
    ]
    found += [
        Claim(
            "momentum",
            "one example",
            "",
            "near critical u_peak = delta^2 F(k), 2 (1 + mu) - v_end = delta G(k), k = (1 - mu)/sqrt(delta (1 + mu)/2)",
            "at k = 1, momentum 0.8 to 0.975, the errors of F and G fall like delta: exponents 1 ± 0.1",
            law_of_friction,
            status="derived",
            where=("09", "dynamics.momentum_scaling"),
        ),
        Claim(
            "momentum",
            "one example",
            "",
            "the largest eta lambda_0 from small starts stays between 3.9 and 4.3 for every momentum tried, 0 to 0.99, "
            "so the window of catapults closes",
            "first divergence over 32 phases, starts of 1e-6 and 1e-3, momenta 0 to 0.99: no exception",
            window,
            status="observed",
            where=("09", "dynamics.first_divergence"),
        ),
    ]
    for kind, panel in (("one_example", "one example"), ("digits", "64 digits")):
        found += [
            Claim(
                "momentum",
                f"{panel}, {model}",
                f"momentum_08_{kind}",
                "the fall of the kernel below critical is delta G(k), within a factor of 2",
                f"{FEWEST_SEEDS} seeds or more, widest network, each momentum and excess for which the law says at "
                "most half of the critical value: the 95 % interval of the mean of measured/law is within 1/2 to 2",
                functools.partial(follows_the_law, model=model),
                status="observed",
                where=("09", "dynamics.momentum_scaling"),
                beside=tuple(f"momentum_{mu}_{kind}" for mu in ("00", "05", "09")),
            )
            for model in ("f_quad", "f")
        ]
    return found


def ends_where_the_map_says(frame: pd.DataFrame) -> Finding:
    """The recorded final kernels of the quadratic model against the map; label 0, so the sign of g does not matter."""
    frame = frame[frame["model"] == "f_quad"]
    groups = frame.groupby("key")
    # `last` of a group would pass over NaN.
    runs, last = groups.first(), groups["lambda_1"].agg(lambda values: values.iloc[-1])
    if runs["seed"].nunique() < FEWEST_SEEDS:
        return unknown(f"{runs['seed'].nunique()} seeds are recorded, {FEWEST_SEEDS} are needed")
    rate, momentum = runs["learning_rate"].to_numpy(), runs["momentum"].to_numpy()
    u0 = 2 * coupling(runs) * rate**2 * runs["train_loss"].to_numpy()
    end = dynamics.final_v(rate * runs["lambda_1"].to_numpy(), u0, momentum=momentum)
    # A run, or its map, without an end makes this NaN, which is below nothing.
    largest = np.max(np.abs(rate * last.to_numpy() / end - 1))
    return Finding(
        f"error up to {largest:.2g} ({runs['seed'].nunique()} seeds, widths "
        f"{', '.join(str(width) for width in sorted(runs['width'].unique()))})",
        bool(largest < MAP_ERROR),
    )


@functools.cache
def law_of_friction() -> Finding:
    """How the errors of the law scale with delta at a fixed k."""
    momenta = np.array([0.8, 0.9, 0.95, 0.975])
    delta = (1 - momenta) ** 2 / ((1 + momenta) / 2)
    v0 = 2 * (1 + momenta) + delta
    F, G = dynamics.scaling_functions(1.0)
    peak = np.abs(dynamics.peak_u(v0, momentum=momenta) / delta**2 - F)
    fall = np.abs((2 * (1 + momenta) - dynamics.final_v(v0, momentum=momenta)) / delta - G)
    exponents = slope(delta, peak), slope(delta, fall)
    return Finding(
        f"exponents {exponents[0]:.2f} (peak) and {exponents[1]:.2f} (fall)",
        bool(np.all(np.abs(np.array(exponents) - 1) < 0.1)),
    )


@functools.cache
def window() -> Finding:
    """The first divergent rate at many momenta."""
    momenta = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
    largest = np.array([[dynamics.first_divergence(mu, z0) for z0 in (1e-6, 1e-3)] for mu in momenta])
    closing = largest.min(axis=1) / (2 * (1 + np.array(momenta)))
    return Finding(
        f"{largest.min():.2f} to {largest.max():.2f}; over the critical rate {closing[0]:.2f} falling to "
        f"{closing[-1]:.2f}",
        bool(np.all((largest > LOWEST) & (largest < HIGHEST)) and np.all(np.diff(closing) < 0)),
    )


def follows_the_law(frame: pd.DataFrame, *, model: str) -> Finding:
    """Measured fall over the law's, for each momentum and excess where the law is in its range."""
    frame = frame[(frame["model"] == model) & (frame["width"] == frame["width"].max())]
    groups = frame.groupby("key")
    runs, last = groups.first(), groups["lambda_1"].last()
    critical, v0 = 2 * (1 + runs["momentum"]), 2 * runs["learning_rate_ratio"]
    runs["measured"], runs["critical"], runs["v0"] = critical - v0 * last / runs["lambda_1"], critical, v0
    runs = runs[v0 > critical * (1 + 1e-6)]
    law = runs["critical"] - dynamics.momentum_scaling(runs["v0"].to_numpy(), runs["momentum"].to_numpy()).final_v
    runs = runs.assign(ratio=runs["measured"] / law)[law <= IN_RANGE * runs["critical"]]  # NaN is beyond
    diverged = int(np.sum(runs["regime"] == "divergent"))
    runs = runs[runs["regime"] != "divergent"]
    found = {
        place: rows["ratio"].to_numpy()
        for place, rows in runs.groupby(["momentum", "learning_rate_ratio"])
        if rows["seed"].nunique() >= FEWEST_SEEDS
    }
    if len({momentum for momentum, _ in found}) < 2:
        return unknown(f"fewer than two momenta have {FEWEST_SEEDS} seeds in the range of the law")
    intervals = [Interval.of(values) for values in found.values()]
    means = [interval.mean for interval in intervals]
    return Finding(
        f"measured/law from {min(means):.2f} to {max(means):.2f} on average over seeds, at {len(found)} pairs of "
        f"momentum and excess{f'; {diverged} runs left out, as they diverge' if diverged else ''}",
        all(i.low >= 1 / WITHIN and i.high <= WITHIN for i in intervals),
    )
