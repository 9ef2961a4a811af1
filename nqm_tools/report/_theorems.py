"""Rules for one example: theorems 1 and 2, proposition 6, the window of catapults. Frames as in ``_kernels``."""

import numpy as np

from nqm_tools import dynamics
from nqm_tools.datasets import single_example
from nqm_tools.report._finding import Finding, percent, spread, unknown
from nqm_tools.report._kernels import ends, slope


def regimes(low, high, expected):
    """Whether all runs of the quadratic model with ``low < eta/eta_crit < high`` are of one regime."""

    def check(frame):
        runs = frame[frame["model"] == "f_quad"].drop_duplicates("key")
        runs = runs[(runs["learning_rate_ratio"] > low) & (runs["learning_rate_ratio"] < high)]
        if runs.empty:
            return unknown("f_quad is not recorded there")
        good = int((runs["regime"] == expected).sum())
        rates = ", ".join(f"{rate:g}" for rate in sorted(runs["learning_rate_ratio"].unique()))
        return Finding(
            f"{good} of {len(runs)} runs are {expected}, at {rates} times the critical rate", good == len(runs)
        )

    return check


def peak_grows_with_width(frame):
    """Theorem 1: the exponent of the mean peak loss in the width, label 0."""
    runs = _catapults(frame, label=0.0)
    if runs["width"].nunique() < 2:
        return unknown("f_quad is not recorded at two widths")
    means = runs.groupby(["learning_rate_ratio", "width"])["peak_loss"].mean()
    exponents = [slope(rows.index.get_level_values("width"), rows) for _, rows in means.groupby("learning_rate_ratio")]
    return Finding(
        f"peak ~ width^{spread(exponents, '{:.2f}', of='rates')}",
        bool(np.abs(np.array(exponents) - 1).max() <= 0.2),
    )


def final_kernel(frame):
    """Theorem 2: ``eta lambda`` at the end lies between ``2 sqrt(c) eta |y|`` and 2."""
    runs = _catapults(frame)
    if runs.empty:
        return unknown("no catapult of f_quad is recorded")
    v = runs["learning_rate"] * runs["lambda_1_last"]
    least = 2 * np.sqrt(_coupling(runs)) * runs["learning_rate"] * runs["label"].abs()
    # Single precision, and a run of finitely many steps, stop a little beside the equilibrium.
    good = (v < 2) & (v > least - 1e-3)
    return Finding(f"{good.sum()} of {len(good)} runs; from {v.min():.3f} to {v.max():.3f}", bool(good.all()))


def final_kernel_series(frame):
    """Ours: the final kernel of wide networks by the series of the adiabatic invariant, label 0."""
    runs = _catapults(frame, label=0.0)
    runs = runs[(runs["width"] == runs["width"].max()) & (runs["learning_rate_ratio"] < 1.35)]
    if runs.empty:
        return unknown("no catapult of f_quad is recorded")
    v0 = runs["learning_rate"] * runs["lambda_1_first"]
    predicted = np.asarray(dynamics.final_v_series(v0.to_numpy()))
    errors = np.abs(runs["learning_rate"] * runs["lambda_1_last"] / predicted - 1)
    by_seed = errors.groupby(runs["seed"]).mean()
    return Finding(f"off by {percent(by_seed)} at width {runs['width'].max()}", bool(by_seed.mean() <= 0.01))


def kernel_at_start(frame):
    """Proposition 6: ``lambda(0)`` against ``|x|^2/d``."""
    runs = frame[frame["model"] == "f_quad"].drop_duplicates(["width", "seed", "dimension"])
    if runs.empty:
        return unknown("f_quad is not recorded")
    ratios = 2 / runs["critical_learning_rate"] / (_coupling(runs) * runs["width"])
    return Finding(
        f"lambda(0) d/|x|^2 from {ratios.min():.3f} to {ratios.max():.3f} in {len(runs)} draws",
        bool(((ratios >= 0.5) & (ratios <= 1.5)).all()),
    )


def _catapults(frame, label=None):
    frame = frame[frame["model"] == "f_quad"]
    runs = ends(frame if label is None else frame[frame["label"] == label], "width", "label", "dimension")
    return runs[runs["regime"] == "catapult"]


def _coupling(runs):
    """``c = |x|^2/(m d)`` of each run."""
    norms = {
        (dimension, seed): float((single_example(dimension, seed=seed).x_train ** 2).sum())
        for dimension, seed in set(zip(runs["dimension"], runs["seed"], strict=True))
    }
    squares = [norms[pair] for pair in zip(runs["dimension"], runs["seed"], strict=True)]
    return np.array(squares) / (runs["width"] * runs["dimension"]).to_numpy()
