"""Rules for one example: theorems 1 and 2, proposition 6, the window of catapults. Frames as in ``kernels``."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from nqm_tools import dynamics
from nqm_tools.datasets import single_example
from nqm_tools.papers._rules import (
    FEWEST_SEEDS,
    Check,
    Finding,
    Interval,
    estimated_percent,
    runs_of,
    slope,
    spread,
    unknown,
)
from nqm_tools.papers.zhu2024.kernels import ends

if TYPE_CHECKING:
    import pandas as pd

# The exponent of the peak may be so far from 1.
PEAK_EXPONENT = 0.05
# A loss of almost nothing; it starts at order 1.
AT_REST = 1e-4
PROPOSITION_6_WIDTHS, PROPOSITION_6_DRAWS = (10, 20, 40, 80), 4000


def regimes(low: float, high: float, expected: str) -> Check:
    """Whether all runs of the quadratic model with ``low < eta/eta_crit < high`` are of one regime."""

    def check(frame):
        runs = runs_of(frame[frame["model"] == "f_quad"])
        runs = runs[(runs["learning_rate_ratio"] > low) & (runs["learning_rate_ratio"] < high)]
        if runs.empty:
            return unknown("f_quad is not recorded there")
        good = int((runs["regime"] == expected).sum())
        rates = ", ".join(f"{rate:g}" for rate in sorted(runs["learning_rate_ratio"].unique()))
        return Finding(
            f"{good} of {len(runs)} runs are {expected}, at {rates} times the critical rate", good == len(runs)
        )

    return check


def peak_grows_with_width(frame: pd.DataFrame) -> Finding:
    """Theorem 1: the exponent of the mean peak loss in the width, label 0.

    Over the recorded widths, 1,000 to 30,000, ``m / log m`` has the exponent 0.88: the bound tells it from ``m``.
    """
    runs = catapults(frame, label=0.0)
    if runs["width"].nunique() < 2:
        return unknown("f_quad is not recorded at two widths")
    if runs["seed"].nunique() < FEWEST_SEEDS:
        return unknown(f"{runs['seed'].nunique()} seeds are recorded, {FEWEST_SEEDS} are needed")
    means = runs.groupby(["learning_rate_ratio", "width"])["peak_loss"].mean()
    exponents = [slope(rows.index.get_level_values("width"), rows) for _, rows in means.groupby("learning_rate_ratio")]
    return Finding(
        f"peak ~ width^{spread(exponents, '{:.3f}', of='rates')}",
        bool(np.abs(np.array(exponents) - 1).max() <= PEAK_EXPONENT),
    )


def ends_at_rest(frame: pd.DataFrame) -> Finding:
    """Theorem 2: every run in the window ``2 + eps < eta lambda_0 < 4 - eps`` ends at a stable equilibrium.

    With ``eps = log m / sqrt(m)``. At rest: a loss of almost nothing, and ``2 sqrt(c) eta |y| <= eta lambda < 2``.
    All runs count, also those that diverge, but those that have no stable equilibrium to end at (``sqrt(c) eta |y| >=
    1``: small widths; the theorem is about large ones). Beside it, what these do, and runs outside of the window.
    """
    runs = ends(frame[frame["model"] == "f_quad"], "width", "label", "dimension", diverged=True)
    v0 = (runs["learning_rate"] * runs["lambda_1_first"]).to_numpy()
    v = (runs["learning_rate"] * runs["lambda_1_last"]).to_numpy()
    least = (2 * np.sqrt(coupling(runs)) * runs["learning_rate"] * runs["label"].abs()).to_numpy()
    # Single precision, and a run of finitely many steps, stop a little beside the equilibrium.
    rest = (runs["regime"] != "divergent").to_numpy() & (v < 2) & (v > least - 1e-3)
    rest &= (runs["train_loss_last"] < AT_REST).to_numpy()
    margin = (np.log(runs["width"]) / np.sqrt(runs["width"])).to_numpy()
    between = (v0 > 2) & (v0 < 4)
    window = between & (v0 > 2 + margin) & (v0 < 4 - margin)
    inside, without = window & (least < 2), window & (least >= 2)
    if runs.loc[inside, "seed"].nunique() < FEWEST_SEEDS:
        return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded inside the window")
    outside = between & ~window
    shares = [
        f"{100 * rest[at].mean():.0f} % at width {width}"
        for width in sorted(runs["width"].unique())
        if (at := outside & (runs["width"] == width).to_numpy()).any()
    ]
    measured = f"{rest[inside].sum()} of {inside.sum()} runs"
    if without.any():
        measured += f"; {rest[without].sum()} of {without.sum()} that have no stable equilibrium"
    if shares:
        measured += f"; outside of the window {', '.join(shares)}"
    return Finding(measured, bool(rest[inside].all()))


def final_kernel_series(frame: pd.DataFrame) -> Finding:
    """Ours: the final kernel of wide networks by the series of the adiabatic invariant, label 0."""
    runs = catapults(frame, label=0.0)
    runs = runs[(runs["width"] == runs["width"].max()) & (runs["learning_rate_ratio"] < 1.35)]
    if runs.empty:
        return unknown("no catapult of f_quad is recorded")
    v0 = runs["learning_rate"] * runs["lambda_1_first"]
    predicted = np.asarray(dynamics.final_v_series(v0.to_numpy()))
    errors = np.abs(runs["learning_rate"] * runs["lambda_1_last"] / predicted - 1)
    by_seed = errors.groupby(runs["seed"]).mean()
    return Finding(
        f"off by {estimated_percent(by_seed)} at width {runs['width'].max()}", bool(Interval.of(by_seed).high <= 0.01)
    )


def kernel_at_start() -> Finding:
    """Proposition 6: how rare ``lambda(0)`` outside of ``|x|^2/(2d)`` to ``3|x|^2/(2d)`` gets as the width grows.

    The proposition: for ``m >= C log(4/delta)``, with probability ``1 - delta``, so the share outside falls like
    ``exp(-m/C)``; then at four times the width it is at most its square. A power of m would not do that.
    """
    shares = {width: _share_outside(width) for width in PROPOSITION_6_WIDTHS}
    measured = ", ".join(f"{100 * share:.2f} % at width {width}" for width, share in shares.items())
    pairs = [(shares[m], shares[4 * m]) for m in shares if 4 * m in shares]
    return Finding(
        f"outside in {measured} ({PROPOSITION_6_DRAWS:,} draws each)",
        all(wide <= narrow**2 for narrow, wide in pairs),
    )


@functools.cache
def _share_outside(width):
    import jax
    import jax.numpy as jnp

    from nqm_tools.networks import two_layer_fc

    x = single_example(9, seed=0).x_train
    net = two_layer_fc(width)

    def ratio(key):
        gradient = jax.grad(lambda params: net(params, x)[0, 0])(net.init(key, x.shape))
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)) * x.shape[1] / jnp.sum(x**2)

    ratios = jax.jit(jax.vmap(ratio))(jax.random.split(jax.random.key(0), PROPOSITION_6_DRAWS))
    return float(jnp.mean((ratios < 0.5) | (ratios > 1.5)))


def catapults(frame: pd.DataFrame, label: float | None = None) -> pd.DataFrame:
    """The ends of the quadratic model's catapults, of one label or of all."""
    frame = frame[frame["model"] == "f_quad"]
    runs = ends(frame if label is None else frame[frame["label"] == label], "width", "label", "dimension")
    return runs[runs["regime"] == "catapult"]


def coupling(runs: pd.DataFrame) -> Float[np.ndarray, " runs"]:
    """``c = |x|^2/(m d)`` of each run."""
    norms = {
        (dimension, seed): float((single_example(dimension, seed=seed).x_train ** 2).sum())
        for dimension, seed in set(zip(runs["dimension"], runs["seed"], strict=True))
    }
    squares = [norms[pair] for pair in zip(runs["dimension"], runs["seed"], strict=True)]
    return np.array(squares) / (runs["width"] * runs["dimension"]).to_numpy()
