"""Rules for the noise of mini-batches. Frames are those of :func:`nqm_tools.papers.recorded`."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
from jaxtyping import Float

from nqm_tools.batch_noise import stochastic_critical_learning_rate
from nqm_tools.papers._rules import FEWEST_SEEDS, Check, Finding, Interval, estimate, unknown

# Of the sweep: the whole batch, the others, and the rate at which nothing is unstable.
WHOLE, BATCHES, SMALL = 64, (1, 2, 4, 8), 0.3
# Of the runs that start beyond the edge, so many may diverge.
LOST = 0.1
# Thresholds of linear models.
EXAMPLES, NEAR = 60, 0.1


def ends_of_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a run: batch size, model, rate, seed, regime, peak, and lambda_1, loss and both norms at both ends."""
    if frame.empty:
        return frame
    by = ["batch_size", "model", "learning_rate_ratio", "seed", "regime", "peak_loss"]
    rows = frame.sort_values("step").groupby(by)[["lambda_1", "kernel_norm", "kernel_norm_exact", "train_loss"]]
    return rows.first().add_suffix("_first").join(rows.last().add_suffix("_last")).reset_index()


def sharpens_less(model: str) -> Check:
    """Whether the top eigenvalue of a model grows less, or falls more, the smaller the batch is."""

    def check(frame):
        runs = ends_of_runs(frame)
        if len(runs):
            runs = runs[(runs["model"] == model) & (runs["learning_rate_ratio"] == SMALL)]
        if runs.empty:
            return unknown(f"{model} is not recorded at {SMALL:g} times the critical rate")
        grown = (runs["lambda_1_last"] / runs["lambda_1_first"]).rename("grown")
        table = runs.assign(grown=grown).pivot_table(index="seed", columns="batch_size", values="grown").dropna()
        if not {*BATCHES, WHOLE} <= set(table.columns) or len(table) < FEWEST_SEEDS:
            return unknown(f"{len(table)} seeds are recorded with batches of {', '.join(map(str, table.columns))}")
        means = table[sorted(table.columns)].mean()
        less = {size: table[WHOLE] - table[size] for size in (2, 1)}
        measured = (
            "lambda_1 grows by "
            + ", ".join(f"{100 * (mean - 1):+.1f} % ({size:g})" for size, mean in means.items())
            + "; whole batch less 1: "
            + estimate(100 * less[1], "{:.1f}", " %")
        )
        ordered = bool((np.diff(means) > 0).all())
        return Finding(measured, ordered and all(Interval.of(values).low > 0 for values in less.values()))

    return check


def comes_to_the_edge(model: str) -> Check:
    """Whether the exact kernel norm comes down from above 1, and stays below where it is."""

    def check(frame):
        runs = ends_of_runs(frame)
        if len(runs):
            runs = runs[(runs["model"] == model) & (runs["batch_size"] < WHOLE)]
            # Beyond the critical rate gradient descent itself is unstable: another catapult.
            runs = runs[np.isfinite(runs["kernel_norm_exact_first"])]
        if runs.empty or runs["seed"].nunique() < FEWEST_SEEDS:
            return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded")
        above, below = (runs[(runs["kernel_norm_exact_first"] > 1) == side] for side in (True, False))
        if above.empty or below.empty:
            return unknown("no runs start above the edge, or none below it")
        lost = above["regime"] == "divergent"
        ends = above.loc[~lost, "kernel_norm_exact_last"]
        moved = np.abs(below["kernel_norm_exact_last"] / below["kernel_norm_exact_first"] - 1)
        measured = (
            f"{len(above)} runs start at {above['kernel_norm_exact_first'].min():.2f} to "
            f"{above['kernel_norm_exact_first'].max():.1f}: {int(lost.sum())} diverge, the others end at "
            f"{ends.min():.2f} to {ends.max():.2f}; {len(below)} from below move by at most {100 * moved.max():.0f} %"
        )
        safe = bool((below["regime"] != "divergent").all() and below["kernel_norm_exact_last"].max() < 1)
        return Finding(measured, bool(lost.mean() <= LOST and ends.max() < 1) and safe)

    return check


def _rotated(eigenvalues, seed):
    vectors, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(EXAMPLES, EXAMPLES)))
    return (vectors * eigenvalues) @ vectors.T


def _flat(seed):
    x = np.random.default_rng(seed).normal(size=(EXAMPLES, 2 * EXAMPLES))
    return x @ x.T / (2 * EXAMPLES)


# Kernels (n, n) of a seed.
KERNELS = {
    "flat kernel": _flat,
    "power law": lambda seed: _rotated(1 / np.arange(1, EXAMPLES + 1), seed),
    "one spike": lambda seed: _rotated(np.r_[1.0, np.full(EXAMPLES - 1, 0.01)], seed),
    "diagonal power law": lambda seed: np.diag(1 / np.arange(1, EXAMPLES + 1)),
}


@functools.cache
def _thresholds(name, form):
    return np.array(
        [
            [
                stochastic_critical_learning_rate(KERNELS[name](seed), size, form=form)
                for size in (1, 2, 4, EXAMPLES // 2)
            ]
            for seed in range(FEWEST_SEEDS)
        ]
    )


def threshold_ratios(name: str, form: str = "delocalised") -> Float[np.ndarray, "kernels batches"]:
    """The rate at which a form of the kernel norm is 1, over the exact one: five kernels; batches of 1, 2, 4, half."""
    return _thresholds(name, form) / _thresholds(name, "exact")


def near_one(name: str) -> Check:
    """Whether K = 1 tells the threshold of the linear model with this kernel."""

    def check():
        ratios = threshold_ratios(name)
        means = ", ".join(f"{mean:.2f}" for mean in ratios.mean(axis=0))
        return Finding(
            f"K = 1 over exact: {means} (batches of 1, 2, 4, {EXAMPLES // 2}; {len(ratios)} kernels)",
            bool(np.abs(ratios.mean(axis=0) - 1).max() <= NEAR),
        )

    return check
