"""Rules about quadratic nets, computed on the spot, and about runs far beyond the critical rate, of ``beyond_*``."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from nqm_tools import dynamics
from nqm_tools.papers._rules import FEWEST_SEEDS, Check, Finding, Interval, estimate, runs_of, unknown

if TYPE_CHECKING:
    import pandas as pd

# Quadratic nets on one example, x = 1 and y = 0: weights, seeds, steps, the interval of the moduli of eigenvalues.
WEIGHTS, SEEDS, STEPS, MODULI = 1000, 8, 4000, (1.0, 2.0)
# In units of the kernel, eta lambda_0: below and above 2; beyond about 3.1 a seed tells nothing of the next.
BELOW, ABOVE = (1.0, 1.5, 1.9), (2.2, 2.5, 3.0)
SAME, KAPPAS = 0.02, (0.0, 0.5, 1.0, 2.0)
# A kernel that has fallen to this share is none: all gates are closed.
DEAD = 1e-6
# From here on leaky ReLUs diverge, in units of the kernel.
FAR = 5.0
# Rank correlation of the rate and the sparsity that it leads to: dead runs are ties, with all gates closed.
AGREE = 0.8


class _Net:
    """Draws of pure quadratic nets ``gamma/2 sum mu_i w_i^2``, a row a seed."""

    def __init__(self, moduli=MODULI):
        rng = np.random.default_rng(0)
        mu = rng.uniform(*moduli, (SEEDS, WEIGHTS // 2))
        self.mu, self.gamma = np.concatenate([mu, -mu], axis=1), (2 / WEIGHTS) ** 0.5
        self.start = rng.standard_normal((SEEDS, WEIGHTS))

    def output(self, w):
        return self.gamma / 2 * np.sum(self.mu * w * w, axis=1)

    def kernel(self, w):
        return self.gamma**2 * np.sum((self.mu * w) ** 2, axis=1)

    def descend(self, times):
        """Squared norms and losses of every step at ``eta = times / lambda_0``, and the weights at the end."""
        w, rate = self.start, times / self.kernel(self.start)
        norms, losses = [], []
        for _ in range(STEPS):
            output = self.output(w)
            norms.append(np.sum(w * w, axis=1))
            losses.append(output**2 / 2)
            w = w * (1 - (rate * self.gamma * output)[:, None] * self.mu)
        return np.array(norms), np.array(losses), w


@functools.cache
def pure_net() -> Finding:
    """Below 2 the loss falls and the kernel stays; above, there is a catapult and the kernel ends lower."""
    net = _Net()
    first = net.kernel(net.start)
    measured, good = [], []
    for times in (*BELOW, *ABOVE):
        _, losses, end = net.descend(times)
        rises, final = losses.max(axis=0) > 1.01 * losses[0], times * net.kernel(end) / first
        gone = losses[-1] < 1e-6 * losses[0]
        if times in BELOW:
            good.append(bool(np.all(~rises & gone) and Interval.of(final / times).low > 1 - SAME))
        else:
            good.append(bool(np.all(rises & gone) and Interval.of(final).high < 2))
            measured.append(f"at {times:g} ends at {estimate(final)}")
    return Finding(f"eta lambda {'; '.join(measured)}", all(good))


@functools.cache
def norm_falls() -> Finding:
    """Below the certificate ``4 lambda_0/(gamma^2 |w_0|^2 mu_max^2)`` no step raises the norm, in catapults too."""
    net = _Net()
    bounds = 4 * net.kernel(net.start) / (net.gamma**2 * np.sum(net.start**2, axis=1) * np.max(net.mu, axis=1) ** 2)
    largest = max(float(np.max(np.diff(net.descend(times)[0], axis=0))) for times in (2.1, float(bounds.min())))
    return Finding(
        f"the certificate is eta lambda_0 = {estimate(bounds)}; the largest change of |w|^2 in a step is {largest:.0e}",
        largest < 1e-9,
    )


def largest_with_bias(kappa: float) -> Float[np.ndarray, " seeds"]:
    """The largest ``eta lambda_0`` of a grid up to which models with the constant kernel part kappa converge, y = 0."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal((SEEDS, WEIGHTS))
    signs = np.where(np.arange(WEIGHTS) % 2, -1.0, 1.0)
    gamma = (2 / WEIGHTS) ** 0.5
    quadratic, kernel = gamma / 2 * np.sum(signs * w * w, axis=1), gamma**2 * np.sum(w * w, axis=1)
    linear = kappa**0.5 * rng.standard_normal(SEEDS)
    times = np.arange(2.0, 4.6, 0.02)[:, None]
    rate = times / (kernel + kappa)
    state = dynamics.BiasedExample(*(np.broadcast_to(part, rate.shape) for part in (linear, quadratic, kernel)))
    with np.errstate(all="ignore"):  # of runs that diverge
        for _ in range(STEPS):
            state = dynamics.biased_step(state, rate, gamma**2, kappa)
        converges = np.abs(state.linear + state.quadratic) < 1e-3
    return times[np.argmin(converges, axis=0) - 1, 0]


@functools.cache
def bias_lowers() -> Finding:
    """Whether a bias leaves the catapult, and lowers the largest rate that converges."""
    found = [largest_with_bias(kappa) for kappa in KAPPAS]
    falls = [Interval.of(found[0] - values).low > 0 for values in found[1:]]
    return Finding(
        "largest eta lambda_0: " + "; ".join(f"kappa {k:g}: {estimate(v)}" for k, v in zip(KAPPAS, found, strict=True)),
        all(falls) and all(bool(Interval.of(values).low > 2) for values in found),
    )


def ends(frame: pd.DataFrame, model: str, activation: str = "relu") -> pd.DataFrame:
    """A row a run: its ``times`` (``eta lambda_0``), and first and last rows of what is recorded."""
    runs = runs_of(frame)
    runs = runs[(runs["model"] == model) & (runs["activation"] == activation)].set_index("key")
    rows = frame[frame["key"].isin(runs.index)].sort_values("step").groupby("key")
    last, first = rows.last(), rows.first()
    found = runs[["seed", "learning_rate", "learning_rate_ratio", "regime", "status"]].copy()
    found["times"] = 2 * found["learning_rate_ratio"]
    found["v"] = 2 * found["learning_rate_ratio"] * last["lambda_1"] / first["lambda_1"]
    found["sparsity"], found["first_sparsity"] = last["sparsity"], first["sparsity"]
    found["norm"] = (last["weight_norm"] / first["weight_norm"]) ** 2
    found["loss"] = last["train_loss"] / first["train_loss"]
    if "test_loss" in last:
        found["test_loss"] = last["test_loss"]
    found["diverged"] = (found["status"] == "diverged") | ~np.isfinite(found["loss"])
    found["dead"] = ~found["diverged"] & (found["v"] < DEAD * found["times"])
    return found.reset_index()


def _few(found):
    seeds = found.groupby("times")["seed"].nunique().min() if len(found) else 0
    return unknown(f"{seeds} seeds are recorded, {FEWEST_SEEDS} are needed") if seeds < FEWEST_SEEDS else None


def survives(frame: pd.DataFrame) -> Finding:
    """Whether no ReLU network diverges at any recorded rate, far beyond 4."""
    found = ends(frame, "f") if len(frame) else frame
    if (reason := _few(found)) is not None:
        return reason
    far = found[found["times"] > 4]
    return Finding(
        f"{far['diverged'].sum()} of {len(far)} runs beyond 4 diverge, up to eta lambda_0 = {far['times'].max():g}; "
        f"{far['dead'].sum()} end dead, with the kernel 0",
        len(far) > 0 and not far["diverged"].any(),
    )


def sparser(frame: pd.DataFrame) -> Finding:
    """Whether the share of hidden units that are off grows with the rate beyond 2, and only there."""
    found = ends(frame, "f") if len(frame) else frame
    if (reason := _few(found)) is not None:
        return reason
    from scipy import stats

    below, above = found[found["times"] < 2], found[found["times"] > 2]
    change = below["sparsity"] - below["first_sparsity"]
    ranks = [stats.spearmanr(own["times"], own["sparsity"]).statistic for _, own in above.groupby("seed")]
    means = above.groupby("times")["sparsity"].mean()
    return Finding(
        f"{100 * below['sparsity'].mean():.1f} % below 2, then {100 * means.iloc[0]:.1f} % at {means.index[0]:g} to "
        f"{100 * means.iloc[-1]:.1f} % at {means.index[-1]:g}; rank correlation with the rate {estimate(ranks)}",
        bool(np.abs(change).max() < SAME and Interval.of(ranks).low > AGREE),
    )


def kernel_falls_and_returns(frame: pd.DataFrame) -> Finding:
    """Whether ``eta lambda`` ends lower than it began just beyond 2, lowest between 3 and 5, and higher far beyond."""
    found = ends(frame, "f") if len(frame) else frame
    if (reason := _few(found)) is not None:
        return reason
    table = found.pivot(index="seed", columns="times", values="v")
    means = table.mean()
    lowest = means[means.index > 2].idxmin()
    rise = table[table.columns.max()] - table[lowest]
    return Finding(
        ", ".join(f"{mean:.2f} at {times:g}" for times, mean in means.items()) + f"; lowest at {lowest:g}",
        bool(3 <= lowest <= 5 and Interval.of(table[lowest]).high < 2 and Interval.of(rise).low > 0),
    )


def quadratic_diverges(activation: str) -> Check:
    """Whether every quadratic model diverges beyond 4, where its network never does."""

    def check(frame):
        found = {model: ends(frame, model, activation) if len(frame) else frame for model in ("f", "f_quad")}
        reasons = [_few(runs) for runs in found.values()]
        if any(reason is not None for reason in reasons):
            return next(reason for reason in reasons if reason is not None)
        far = {model: runs[runs["times"] > 4] for model, runs in found.items()}
        inside = found["f_quad"][found["f_quad"]["times"] <= 3.5]
        counts = {model: int(runs["diverged"].sum()) for model, runs in far.items()}
        return Finding(
            f"beyond 4 diverge {counts['f_quad']} of {len(far['f_quad'])} quadratic models and {counts['f']} of "
            f"{len(far['f'])} networks; up to 3.5, {inside['diverged'].sum()} of {len(inside)} quadratic models",
            counts["f_quad"] == len(far["f_quad"]) > 0 and counts["f"] == 0 and not inside["diverged"].any(),
        )

    return check


def leaky_diverges(frame: pd.DataFrame) -> Finding:
    """Whether networks of leaky ReLUs, whose gates do not close, diverge from 5 on."""
    found = ends(frame, "f", "leaky_relu") if len(frame) else frame
    if (reason := _few(found)) is not None:
        return reason
    far, near = found[found["times"] >= FAR], found[(found["times"] > 4) & (found["times"] < FAR)]
    return Finding(
        f"from {FAR:g} on {far['diverged'].sum()} of {len(far)} networks diverge"
        + (f", between 4 and {FAR:g} {near['diverged'].sum()} of {len(near)}" if len(near) else ""),
        bool(len(far) > 0 and far["diverged"].all()),
    )


def norm_grows(frame: pd.DataFrame) -> Finding:
    """Whether the squared norm of the weights grows far beyond 4, by more the larger the rate."""
    found = ends(frame, "f") if len(frame) else frame
    if (reason := _few(found)) is not None:
        return reason
    table = found.pivot(index="seed", columns="times", values="norm")
    far = table[[times for times in table.columns if times > 5]]
    far = np.log10(far)
    grows = far[far.columns.max()] - far[far.columns.min()]
    return Finding(
        "by 10^" + "; ".join(f"{estimate(values)} at {times:g}" for times, values in far.items()),
        bool(all(Interval.of(values).low > 0 for _, values in far.items()) and Interval.of(grows).low > 0),
    )
