"""Rules for what losses and kernels do along runs: figures 2a, 3, 5, 6, 7, 8, theorems 1 to 3, proposition 6.

Each takes the frame of :func:`nqm_tools.papers.recorded`: a row a recorded step, with the run's settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nqm_tools.papers._rules import (
    FEWEST_SEEDS,
    Check,
    Finding,
    not_as_claimed,
    percent,
    runs_of,
    slope,
    spread,
    unknown,
)

if TYPE_CHECKING:
    import pandas as pd

ENDS = ("train_loss", "lambda_1", "lambda_2", "followed_1", "followed_2", "distance")
RUN = ["model", "learning_rate_ratio", "seed"]
# An eigenvalue "stays" if it ends within this share of its first value.
STAYS = 0.03
# A loss is "large" once it is above this many times its first value.
LARGE = 2.0
# For an exponent.
FEWEST_STEPS = 3
# An exponent needs a loss that spans a decade, on average over runs: in less, the eigenvector turns as fast.
DECADE = 10.0
# A spike lies in a space if this share of the loss's rise does, on average over seeds.
TOP_SHARE = 0.95
# The end of the exact map is irregular from 1.54 times the critical rate on.
REGULAR = 1.5
# Final kernels are the same if they are this share of the first one apart.
SAME_END = 0.05


def ends(frame: pd.DataFrame, *by: str, diverged: bool = False) -> pd.DataFrame:
    """First and last values of each run, diverged ones if asked: loss, lambda_1, ...; and the highest loss."""
    columns = [name for name in ENDS if name in frame]
    groups = frame[diverged | (frame["regime"] != "divergent")].groupby([*by, *RUN])
    first, last = groups[columns].first(), groups[columns].last()
    kept = groups[["peak_loss", "regime", "learning_rate", "critical_learning_rate"]].first()
    return kept.join(first.add_suffix("_first")).join(last.add_suffix("_last")).reset_index()


def eigenvalues_by_rate(model: str, region: int) -> Check:
    """Theorem 3: which of the two eigenvalues falls. ``region``: 0 below 2/lambda_1, 1 between, 2 above 2/lambda_2.

    A direction catapults if its eigenvalue, unstable at the start, ends below ``2/eta`` (``n/eta``: the records are for
    mse, whose rates are n/2 times those of half_sum). The eigenvalues are those of the two first eigenvectors, followed
    along the run by the overlap of the eigenvectors (columns ``followed_1``, ``followed_2``): sorted ones cross.
    """

    def check(frame):
        of_model = frame[frame["model"] == model]
        runs = ends(of_model, diverged=True)
        if runs.empty:
            return unknown(f"{model} is not recorded")
        to_v = (runs["learning_rate"] * 2 / frame["n_train"].iloc[0]).to_numpy()[:, None]
        first = to_v * runs[["followed_1_first", "followed_2_first"]].to_numpy()
        last = to_v * runs[["followed_1_last", "followed_2_last"]].to_numpy()
        chosen = ((first > 2).sum(axis=1) == region) & (first[:, 0] < 4)
        if not chosen.any():
            return unknown("no recorded run lies in this region")
        runs, first, last = runs[chosen], first[chosen], last[chosen]
        if runs["seed"].nunique() < FEWEST_SEEDS:
            return unknown(f"{runs['seed'].nunique()} seeds are recorded in this region, {FEWEST_SEEDS} are needed")
        expected = "monotone" if region == 0 else "catapult"
        strange = int((~runs["regime"].isin((expected, "divergent"))).sum())
        if strange:
            return unknown(f"{strange} of {len(runs)} runs in this region are not {expected}")
        converged = (runs["regime"] != "divergent").to_numpy()
        changes = last / first - 1
        if region == 0:
            good = (np.abs(changes) < STAYS).all(axis=1)
            say = f"largest change {100 * np.abs(changes).max():.2f} %"
        elif region == 1:
            good = (np.abs(changes[:, 1]) < STAYS) & (last[:, 0] < 2)
            say = f"lambda_1 falls by {percent(-changes[:, 0], 'runs')}, "
            say += f"lambda_2 changes by {changes[:, 1].min():+.1%} to {changes[:, 1].max():+.1%}"
        else:
            good = (last < 2).all(axis=1)
            say = f"their sum falls by {percent(1 - last.sum(axis=1) / first.sum(axis=1), 'runs')}"
        good &= converged
        return Finding(f"{good.sum()} of {len(good)} runs; {say}", bool(good.all()))

    return check


def spike_in_top_space(model: str, directions: int) -> Check:
    """Figures 6, 7: how much of the loss's rise to its peak is along the eigenvectors that are unstable at the start.

    ``directions`` is their number: 1 for runs between 2/lambda_1 and 2/lambda_2, 2 for runs above both. Above 100 % if
    the loss along the others fell meanwhile.
    """

    def check(frame):
        runs = _catapults(frame, model, directions)
        if not runs:
            return unknown(f"no run of {model} with {directions} unstable directions is recorded")
        shares = []
        for run in runs:
            peak = run["train_loss"].to_numpy().argmax()
            along = sum(run[f"projection_{i + 1}"].to_numpy() ** 2 for i in range(directions)) / run["n_train"].iloc[0]
            shares.append((along[peak] - along[0]) / np.ptp(run["train_loss"].iloc[[0, peak]]))
        return Finding(percent(shares, "runs") + " of the rise", bool(np.mean(shares) >= TOP_SHARE))

    return check


def corrections_are_positive(model: str) -> Check:
    """Figures 6, 7: the signs of the corrections R_f and R_K along the top eigenvector while the loss is large."""

    def check(frame):
        runs = _catapults(frame, model)
        if not runs:
            return unknown(f"no catapult of {model} along one direction is recorded")
        positive = [((rows["R_f"] > 0) & (rows["R_K"] > 0)).mean() for rows in map(_large, runs)]
        return Finding(
            f"both positive at {percent(positive, 'runs')} of the steps with a loss above {LARGE:g} times the first",
            bool(min(positive) == 1),
        )

    return check


def corrections_scale(model: str, tolerance: float = 0.2) -> Check:
    """Figures 6, 7: the exponents of R_f and R_K in the loss along the top eigenvector, while the loss is large."""

    def check(frame):
        runs = _catapults(frame, model)
        if not runs:
            return unknown(f"no catapult of {model} along one direction is recorded")
        exponents, spans = {"R_f": [], "R_K": []}, []
        for rows in map(_large, runs):
            rows = rows[(rows["R_f"] > 0) & (rows["R_K"] > 0)]
            if len(rows) < FEWEST_STEPS:
                return unknown(f"a run has {len(rows)} steps with a large loss and positive corrections, too few")
            for name, values in exponents.items():
                values.append(slope(rows["projection_1"] ** 2, rows[name]))
            spans.append(np.ptp(np.log(rows["projection_1"] ** 2)))
        measured = "; ".join(
            f"{name}: exponent {spread(values, '{:.2f}', of='runs')}" for name, values in exponents.items()
        )
        span = np.exp(np.mean(spans))
        measured += f", over a factor of {span:.0f}"
        if span < DECADE:
            return unknown(f"{measured}: the loss spans too little for an exponent")
        means = [np.mean(values) for values in exponents.values()]
        return Finding(measured, bool(np.abs(np.array(means) - 1).max() <= tolerance))

    return check


def _catapults(frame, model, directions=1):
    """The runs whose loss gets large and falls again; ``directions`` of the first two are unstable at the start."""
    runs = frame[(frame["model"] == model) & (frame["regime"] == "catapult")]
    runs = [run.sort_values("step") for _, run in runs.groupby(RUN)]
    return [run for run in runs if not _large(run).empty and _unstable(run.iloc[0]) == directions]


def _large(run):
    """The rows of a run, sorted by step, whose loss is large."""
    return run[run["train_loss"] > LARGE * run["train_loss"].iloc[0]]


def _unstable(row):
    """How many of lambda_1, lambda_2 are above ``2/eta`` (the rate is for mse)."""
    return sum(row[name] * row["learning_rate"] > row["n_train"] for name in ("lambda_1", "lambda_2"))


def peak_rises(with_column: str, model: str, rising: bool = True) -> Check:
    """Figure 8: whether the mean peak loss rises with the width (falls with gamma), and with the learning rate."""

    def check(frame):
        table = _table(frame, with_column, model, lambda runs: runs["peak_loss"])
        if table is None:
            return unknown(f"catapults of {model} are not recorded at every pair of two sizes and two rates")
        by_size = np.diff(table.to_numpy(), axis=0)
        by_rate = np.diff(table.to_numpy(), axis=1)
        good = ((by_size > 0) if rising else (by_size < 0)).all() and (by_rate > 0).all()
        exponent = np.mean([slope(table.index, table[rate]) for rate in table])
        rates = table.iloc[-1] / table.iloc[-1, 0]
        return Finding(
            f"peak ~ {with_column}^{exponent:.2f}; times {rates.iloc[-1]:.1f} from "
            f"{table.columns[0]:g} to {table.columns[-1]:g} times the critical rate",
            bool(good),
        )

    return check


def kernel_falls_with_rate(with_column: str, model: str) -> Check:
    """Figure 8: a larger learning rate ends with a smaller kernel."""

    def check(frame):
        table = _table(frame, with_column, model, _kernel_left)
        if table is None:
            return unknown(f"catapults of {model} are not recorded at every pair of two sizes and two rates")
        left = ", ".join(f"{100 * value:.0f} %" for value in table.mean())
        rates = ", ".join(f"{rate:g}" for rate in table)
        falls = bool((np.diff(table.to_numpy()) < 0).all())
        return Finding(f"{left} of it left at {rates} times the critical rate", falls)

    return check


def kernel_end_is_the_same(with_column: str, model: str) -> Check:
    """Figure 8: how far apart the final kernels are, as shares of the first, that differ in width (or gamma) alone.

    At rates up to 1.5 times the critical one: beyond 1.54 (``v_0 = 3.085``) the end of the exact map itself is
    irregular.
    """

    def check(frame):
        table = _table(frame[frame["learning_rate_ratio"] <= REGULAR], with_column, model, _kernel_left)
        if table is None:
            return unknown(f"catapults of {model} are not recorded at every pair of two sizes and two rates")
        apart = (table.max() - table.min()).max()
        return Finding(f"final over first kernel apart by {apart:.3f} at most", bool(apart <= SAME_END))

    return check


def _kernel_left(runs):
    return runs["lambda_1_last"] / runs["lambda_1_first"]


def _table(frame, with_column, model, value):
    """Means over seeds by ``with_column`` (rows) and learning rate (columns); None if not two of each, or with gaps."""
    runs = ends(frame[frame["model"] == model], with_column)
    runs = runs[runs["regime"] == "catapult"]
    if runs.empty:
        return None
    table = runs.assign(value=value(runs))
    table = table.pivot_table(index=with_column, columns="learning_rate_ratio", values="value")
    return table if min(table.shape) >= 2 and not table.isna().any(axis=None) else None


def distance_exponent(model: str, above: bool) -> Check:
    """Figure 2a: how the distance between start and end of a run grows with the width.

    Above the critical rate, of what the catapult adds, in quadrature, to the largest distance below it: learning the
    labels takes a distance of its own, which does not grow.
    """

    def check(frame):
        if reason := not_as_claimed(runs_of(frame), model):
            return unknown(reason)
        runs = ends(frame[frame["model"] == model], "width")
        table = runs.pivot_table(index=["seed", "width"], columns="learning_rate_ratio", values="distance_last")
        below, beyond = table[[r for r in table if r < 1]], table[[r for r in table if r > 1]]
        chosen = beyond if above else below
        if runs["width"].nunique() < 2 or below.empty or chosen.empty:
            return unknown(f"{model} is not recorded at two widths")
        added = np.sqrt((chosen**2).sub(below.max(axis=1) ** 2, axis=0)) if above else chosen
        curves = [rows[r].dropna() for _, rows in added.groupby("seed") for r in rows]
        if min(map(len, curves)) < 2:
            return unknown(f"a seed of {model} has converged at fewer than two widths")
        exponents = [slope(curve.index.get_level_values("width"), curve) for curve in curves]
        good = abs(np.mean(exponents) - (0.5 if above else 0)) <= 0.1
        return Finding(f"distance ~ width^{spread(exponents, '{:.2f}', of='seeds and rates')}", bool(good))

    return check
