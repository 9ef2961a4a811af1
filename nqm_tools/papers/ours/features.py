"""Rules for what catapults do to features, in networks and in their quadratic models."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nqm_tools.papers._rules import FEWEST_SEEDS, Check, Finding, Interval, estimate, unknown
from nqm_tools.papers.zhu2023.alignment import BATCHES, WHOLE, ends_of_runs, not_trained_out

# With a smooth activation model and network are alike at these rates, within so much of the alignment.
ALIKE_AT, ALIKE = (0.5, 0.9, 1.2), 0.01
# Beyond this rate a ReLU network's quadratic model has lost what it gained: its test error is so many times that below.
BEYOND, WORSE = 1.8, 1.5
# The rates of mini-batches, the batch of the control, and how much of the gain it may have.
FAST, SLOW, CONTROL, SMALL_SHARE = 0.6, 0.1, 8, 0.25
# Gradient descent does as well as batches where it misses at most so much of their gain.
MARGIN = 0.1
# A batch's loss has risen where it is above this many times what it was; losses below this share of the first one are
# rounding in float32.
RISEN, ROUNDING = 1 + 1e-4, 1e-7
FEWEST_STEPS = 100


def control(model: str) -> Check:
    """Whether a small batch at a small rate, trained out, has no catapults and little of its gain at a larger one."""

    def check(frame):
        runs = ends_of_runs(frame)
        if len(runs):
            runs = runs[runs["model"] == model]
            rates, sizes = runs["learning_rate_ratio"], runs["batch_size"]
            runs = runs[((rates == FAST) & sizes.isin((WHOLE, CONTROL))) | ((rates == SLOW) & (sizes == CONTROL))]
        if runs.empty:
            return unknown(f"{model} is not recorded")
        late = not_trained_out(runs)
        if late:
            return unknown(late)
        by = ["learning_rate_ratio", "batch_size"]
        tables = {
            name: runs.pivot_table(index="seed", columns=by, values=name, dropna=False)
            for name in ("catapults", "test_loss", "agop_alignment")
        }
        wanted = [(FAST, WHOLE), (FAST, CONTROL), (SLOW, CONTROL)]
        table = tables["test_loss"]
        if not set(wanted) <= set(table.columns) or len(table) < FEWEST_SEEDS:
            return unknown(f"{len(table)} seeds are recorded, or not all of the three ways")
        descent, fast, slow = (table[column] for column in wanted)
        spikes = tables["catapults"][(SLOW, CONTROL)]
        share = (descent - slow) - SMALL_SHARE * (descent - fast)
        aligned = tables["agop_alignment"][wanted].mean()
        return Finding(
            f"test loss {descent.mean():.3f} (gradient descent), {fast.mean():.3f} (batches of {CONTROL}, "
            f"{tables['catapults'][(FAST, CONTROL)].mean():.0f} catapults), {slow.mean():.3f} (the same at a sixth of "
            f"the rate, {spikes.sum():.0f} catapults): lower than gradient descent's by "
            f"{estimate(descent - slow, '{:.3f}')}; alignment {', '.join(f'{value:.3f}' for value in aligned)}",
            bool(spikes.sum() == 0 and Interval.of(descent - fast).low > 0 and Interval.of(share).high < 0),
        )

    return check


def batch_criterion(model: str) -> Check:
    """Whether a batch's loss rises only where the rate is above that batch's critical rate."""

    def check(frame):
        rows = frame[frame["model"] == model].sort_values(["key", "step"]) if len(frame) else frame
        if len(rows):
            rows = rows[(rows["batch_size"] < WHOLE) & (rows["regime"] != "divergent")]
            rows = rows[(rows["step"] < rows["steps"]) & rows["batch_loss_ratio"].notna()]
            first = rows.groupby("key")["train_loss"].transform("first")
            rows = rows[rows["train_loss"] > ROUNDING * first]
        if rows.empty or rows["seed"].nunique() < FEWEST_SEEDS:
            return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded")
        rose, above = rows["batch_loss_ratio"] > RISEN, rows["batch_critical_ratio"] > 1
        if min((~above).sum(), above.sum()) < FEWEST_STEPS:
            return unknown(f"{above.sum()} steps above and {(~above).sum()} below are recorded")
        return Finding(
            f"rises in {(rose & ~above).sum()} of {(~above).sum():,} steps below a batch's own critical rate, in "
            f"{(rose & above).sum():,} of {above.sum():,} above",
            bool((rose & ~above).sum() == 0 and (rose & above).any()),
        )

    return check


def descent_matches_batches(model: str) -> Check:
    """Whether gradient descent above its critical rate, chosen on the other seeds, does as well as any batch."""

    def check(frame):
        runs = ends_of_runs(frame)
        sizes = runs.get("batch_size", pd.Series(dtype=float)).isna()
        if sizes.all() or not sizes.any():
            return unknown("not both of gradient descent and mini-batches are recorded")
        runs = runs[runs["model"] == model]
        whole, batches = runs[runs["batch_size"].isna()], runs[runs["batch_size"].notna()]
        descent = whole.pivot_table(index="seed", columns="learning_rate_ratio", values="test_loss", dropna=False)
        diverged = whole.assign(lost=whole["regime"] == "divergent").pivot_table(
            index="seed", columns="learning_rate_ratio", values="lost"
        )
        descent = descent.loc[:, ~diverged.any()]
        table = batches.pivot_table(index="seed", columns="batch_size", values="test_loss", dropna=False)
        seeds = descent.index.intersection(table.index)
        if len(seeds) < FEWEST_SEEDS or not {*BATCHES, WHOLE} <= set(table.columns) or not (descent.columns > 1).any():
            return unknown(f"{len(seeds)} seeds are recorded")
        descent, table = descent.loc[seeds], table.loc[seeds]
        chosen = [descent.loc[seed, descent.drop(seed).mean().idxmin()] for seed in seeds]
        best = table[table.mean().idxmin()]
        less = best - chosen
        allowed = MARGIN * (table[WHOLE] - best)
        return Finding(
            f"{np.mean(chosen):.3f} against {best.mean():.3f} (batches of {table.mean().idxmin():g}): lower by "
            f"{estimate(less, '{:.3f}')}",
            bool(Interval.of(less + allowed).low > 0),
        )

    return check


def alike(frame: pd.DataFrame) -> Finding:
    """Whether a smooth network and its quadratic model are aligned alike, below and a little above critical."""
    runs = ends_of_runs(frame)
    if runs.empty:
        return unknown("nothing is recorded")
    runs = runs[runs["learning_rate_ratio"].isin(ALIKE_AT) & runs["model"].isin(("f", "f_quad"))]
    table = runs.pivot_table(
        index="seed", columns=["learning_rate_ratio", "model"], values="agop_alignment", dropna=False
    )
    if len(table) < FEWEST_SEEDS or not {(rate, model) for rate in ALIKE_AT for model in ("f", "f_quad")} <= set(table):
        return unknown(f"{len(table)} seeds are recorded")
    apart = {rate: table[(rate, "f_quad")] - table[(rate, "f")] for rate in ALIKE_AT}
    intervals = [Interval.of(values) for values in apart.values()]
    return Finding(
        "; ".join(f"at {rate:g}: {estimate(values, '{:+.4f}')}" for rate, values in apart.items()),
        bool(all(max(-i.low, i.high) < ALIKE for i in intervals)),
    )


def collapses(frame: pd.DataFrame) -> Finding:
    """Whether the quadratic model of a ReLU network, trained out, has a larger test error far above critical."""
    runs = ends_of_runs(frame)
    if runs.empty:
        return unknown("nothing is recorded")
    runs = runs[runs["learning_rate_ratio"].isin((0.9, BEYOND))]
    runs = runs[runs["regime"] != "divergent"]
    late = not_trained_out(runs[runs["model"] == "f_quad"])
    if late:
        return unknown(late)
    found = {}
    for model in ("f_quad", "f"):
        table = runs[runs["model"] == model].pivot_table(
            index="seed", columns="learning_rate_ratio", values="test_loss"
        )
        if not {0.9, BEYOND} <= set(table.columns):
            return unknown(f"{model} is not recorded at these rates")
        found[model] = (table[BEYOND] / table[0.9]).dropna()
        if len(found[model]) < FEWEST_SEEDS:
            return unknown(f"{len(found[model])} seeds of {model} are recorded at {BEYOND:g} that do not diverge")
    return Finding(
        f"test loss times {estimate(found['f_quad'], '{:.2f}')}; the network's {estimate(found['f'], '{:.2f}')}",
        bool(Interval.of(np.log(found["f_quad"])).low > np.log(WORSE) and Interval.of(found["f"]).high < 1),
    )
