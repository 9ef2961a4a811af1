"""Rules for catapults and the alignment of AGOPs. Frames are those of :func:`nqm_tools.papers.recorded`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nqm_tools.papers._rules import FEWEST_SEEDS, Check, Finding, Interval, estimate, not_as_claimed, unknown

# Of the sweeps: the rates of gradient descent below critical, and one above; the whole batch, and the others.
BELOW, ABOVE = (0.25, 0.5, 0.9), 1.5
WHOLE, BATCHES = 256, (32, 16, 8, 4)
# A run is trained out where the loss has come to less than this share of its first value.
TRAINED = 5e-3
# Of a spike, so much along so many eigenvectors.
DIRECTIONS, SHARE = 5, 0.95
# The columns in which a run has got better, and the sign of better.
BETTER = {"agop_alignment": 1, "test_loss": -1}


def ends_of_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a run: its settings, regime and catapults, and what was recorded first and last."""
    if frame.empty:
        return frame
    columns = ["lambda_1", "train_loss", "test_loss", "agop_alignment"]
    known = ["key", "model", "learning_rate_ratio", "seed", "regime", "catapults", "batch_size", "activation"]
    known = [name for name in known if name in frame]
    rows = frame.sort_values("step").groupby("key")
    last = rows[columns].last()
    last["fall"] = last["lambda_1"] / rows["lambda_1"].first()
    last["left"] = last["train_loss"] / rows["train_loss"].first()
    return rows[known].first().reset_index(drop=True).set_index("key").join(last).reset_index()


def not_trained_out(runs):
    """Why runs cannot be compared by their test loss, in words; None if they can."""
    late = runs[(runs["regime"] != "divergent") & ~(runs["left"] < TRAINED)]
    if late.empty:
        return None
    return f"{len(late)} of {len(runs)} runs are not trained out: {late['left'].max():.2g} of the first loss is left"


def spike_in_top_space(model: str) -> Check:
    """Whether a catapult's rise of the loss lies along the top eigenvectors of the kernel."""

    def check(frame):
        rows = frame[frame["model"] == model] if len(frame) else frame
        shares, rests = [], []
        for _, run in rows.groupby("seed") if len(rows) else ():
            run = run.sort_values("step")
            losses = run["train_loss"].to_numpy()
            peak = losses.argmax()
            if run["regime"].iloc[0] != "catapult" or peak == 0:
                return unknown(f"seed {run['seed'].iloc[0]} is no catapult")
            along = run[[f"projection_{i + 1}" for i in range(DIRECTIONS)]].to_numpy() ** 2 / run["n_train"].iloc[0]
            shares.append([(a[peak] - a[0]) / (losses[peak] - losses[0]) for a in (along[:, 0], along.sum(axis=1))])
            rests.append((losses - along.sum(axis=1)).max() / losses[0])
        if len(shares) < FEWEST_SEEDS:
            return unknown(f"{len(shares)} seeds are recorded, {FEWEST_SEEDS} are needed")
        first, several = 100 * np.array(shares).T
        return Finding(
            f"{estimate(several, '{:.1f}', ' %')} of the rise; along the first alone {first.mean():.1f} %; the rest is "
            f"never above {max(rests):.2f} of the first loss",
            Interval.of(several).low > 100 * SHARE and max(rests) < 1,
        )

    return check


def kernel_falls(model: str) -> Check:
    """Whether the kernel's largest eigenvalue falls in a catapult, and not without one."""

    def check(frame):
        runs = ends_of_runs(frame)
        found = _by_seed(runs, model, ("fall",))
        if isinstance(found, Finding):
            return found
        below, above = found["fall"]
        lost = 1 - above
        return Finding(
            f"lambda_1 falls by {estimate(100 * lost, '{:.0f}', ' %')}; below critical it ends at "
            f"{below.mean():.2f} of its start",
            Interval.of(lost).low > 0 and Interval.of(below - above).low > 0,
        )

    return check


def _by_seed(runs, model, columns, above=ABOVE):
    """For each column the values of all seeds: the best below the critical rate, and at ``above`` it; or why not."""
    if len(runs):
        runs = runs[(runs["model"] == model) & runs["learning_rate_ratio"].isin((*BELOW, above))]
    if runs.empty:
        return unknown(f"{model} is not recorded at these rates")
    wrong = not_as_claimed(runs, model)
    if wrong:
        return unknown(wrong)
    found = {}
    for column in columns:
        table = runs.pivot_table(index="seed", columns="learning_rate_ratio", values=column, dropna=False)
        if not {*BELOW, above} <= set(table.columns) or len(table) < FEWEST_SEEDS:
            return unknown(f"{len(table)} seeds are recorded at {', '.join(map(str, table.columns))}")
        below = table[list(BELOW)]
        found[column] = (below.max(axis=1) if BETTER.get(column, -1) > 0 else below.min(axis=1)), table[above]
    return found


def catapult_gains(model: str, above: float = ABOVE) -> Check:
    """Whether gradient descent above the critical rate ends better aligned, and with a lower test loss.

    Each seed's run is compared with the best of its runs below, chosen on the test examples.
    """

    def check(frame):
        runs = ends_of_runs(frame)
        found = _by_seed(runs, model, BETTER, above)
        if isinstance(found, Finding):
            return found
        compared = runs[(runs["model"] == model) & runs["learning_rate_ratio"].isin((0.9, above))]
        late = not_trained_out(compared)
        if late:
            return unknown(late)
        lost = compared["regime"].eq("divergent").sum()
        if lost:
            return Finding(f"{lost} of {len(compared) // 2} diverge", False)
        (low, high), (before, after) = found["agop_alignment"], found["test_loss"]
        fall = 100 * (1 - after / before)
        return Finding(
            f"alignment {low.mean():.3f} to {high.mean():.3f}: {estimate(high - low, '{:+.3f}')}; test loss "
            f"{before.mean():.3f} to {after.mean():.3f}: lower by {estimate(fall, '{:.0f}', ' %')}",
            Interval.of(high - low).low > 0 and Interval.of(fall).low > 0,
        )

    return check


def table_of_batches(frame, model, column):
    """One row a seed, one column a batch size; or why there is none."""
    runs = ends_of_runs(frame)
    if len(runs):
        runs = runs[runs["model"] == model]
    if runs.empty:
        return unknown(f"{model} is not recorded")
    late = not_trained_out(runs)
    if late:
        return unknown(late)
    table = runs.pivot_table(index="seed", columns="batch_size", values=column, dropna=False)
    if not {*BATCHES, WHOLE} <= set(table.columns) or len(table) < FEWEST_SEEDS:
        return unknown(f"{len(table)} seeds are recorded with batches of {', '.join(map(str, table.columns))}")
    if runs["regime"].eq("divergent").any():
        return Finding(f"{runs['regime'].eq('divergent').sum()} of {len(runs)} runs diverge", False)
    return table[sorted(table.columns, reverse=True)]


def smaller_batches(model: str, column: str) -> Check:
    """Whether smaller batches have more catapults, or better ends."""

    def check(frame):
        table = table_of_batches(frame, model, column)
        if isinstance(table, Finding):
            return table
        sign = BETTER.get(column, 1)
        more = sign * (table[min(BATCHES)] - table[WHOLE])
        order = pd.Series(np.arange(len(table.columns)), table.columns)
        # A seed without a difference between batches has no order.
        ranks = sign * table.corrwith(order, axis=1, method="spearman").fillna(0)
        form = "{:.0f}" if column == "catapults" else "{:.3f}"
        means = ", ".join(f"{form.format(mean)} ({size:g})" for size, mean in table.mean().items())
        return Finding(
            f"{means}; rank correlation with smallness {estimate(ranks, '{:.2f}')}",
            Interval.of(more).low > 0 and Interval.of(ranks).low > 0,
        )

    return check
