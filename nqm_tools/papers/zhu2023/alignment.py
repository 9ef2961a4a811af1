"""Rules for catapults and the alignment of AGOPs. Frames are those of :func:`nqm_tools.papers.recorded`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nqm_tools.papers._rules import FEWEST_SEEDS, Check, Finding, Interval, estimate, not_as_claimed, unknown

# Of the sweeps: the rates of gradient descent below critical, and one above; the whole batch, and the others.
BELOW, ABOVE = (0.25, 0.5, 0.9), 1.5
WHOLE, BATCHES = 256, (32, 16, 8, 4)
# A run is trained out where the loss has come to less than this share of its first value.
TRAINED = 5e-4
# Of a spike, so much along so many eigenvectors.
DIRECTIONS, SHARE = 5, 0.95
# The settings by which runs are told apart, and what is read where they end.
SETTINGS = ("key", "model", "learning_rate", "learning_rate_ratio", "critical_learning_rate", "seed", "regime")
SETTINGS += ("catapults", "batch_size", "activation", "width", "optimizer", "momentum", "sharpness", "spectrum")
ENDS = ("lambda_1", "train_loss", "test_loss", "agop_alignment", "test_accuracy", "energy", "change_energy")
ENDS += ("moving_share", "moving_test_loss", "blurred_test_loss", "seen_test_loss", "unseen_share")
# The columns in which a run has got better, and the sign of better.
BETTER = {"agop_alignment": 1, "test_loss": -1}


def ends_of_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a run: its settings, regime and catapults, and what was recorded first and last."""
    if frame.empty:
        return frame
    columns = [name for name in ENDS if name in frame]
    known = [name for name in SETTINGS if name in frame]
    rows = frame.sort_values("step").groupby("key")
    last = rows[columns].last()
    last["fall"] = last["lambda_1"] / rows["lambda_1"].first()
    last["left"] = last["train_loss"] / rows["train_loss"].first()
    return rows[known].first().reset_index(drop=True).set_index("key").join(last).reset_index()


def not_trained_out(runs: pd.DataFrame) -> str | None:
    """Why runs cannot be compared by their test loss, in words; None if they can."""
    late = runs[(runs["regime"] != "divergent") & ~(runs["left"] < TRAINED)]
    if late.empty:
        return None
    return f"{len(late)} of {len(runs)} runs are not trained out: {late['left'].max():.2g} of the first loss is left"


def _spikes(frame, model):
    """Of each seed: the steps' losses, and along how many of the top eigenvectors they lie, summed; or why not."""
    rows = frame[frame["model"] == model] if len(frame) else frame
    found = []
    for seed, run in rows.groupby("seed") if len(rows) else ():
        run = run.sort_values("step")
        losses = run["train_loss"].to_numpy()
        if run["regime"].iloc[0] != "catapult" or losses.argmax() == 0:
            return unknown(f"seed {seed} is no catapult")
        along = run[[f"projection_{i + 1}" for i in range(DIRECTIONS)]].to_numpy() ** 2 / run["n_train"].iloc[0]
        found.append((losses, along.cumsum(axis=1)))
    return found if len(found) >= FEWEST_SEEDS else unknown(f"{len(found)} seeds of {model} are recorded")


def spike_in_top_space(model: str) -> Check:
    """Whether a catapult's rise of the loss lies along the top eigenvectors of the kernel."""

    def check(frame):
        found = _spikes(frame, model)
        if isinstance(found, Finding):
            return found
        first, several = [], []
        for losses, along in found:
            peak = losses.argmax()
            shares = 100 * (along[peak] - along[0]) / (losses[peak] - losses[0])
            first.append(shares[0])
            several.append(shares[-1])
        return Finding(
            f"{estimate(several, '{:.1f}', ' %')} of the rise; along the first alone {np.mean(first):.1f} %",
            bool(Interval.of(several).low > 100 * SHARE),
        )

    return check


def rest_does_not_rise(model: str) -> Check:
    """Whether the loss along all other eigenvectors stays below where it started."""

    def check(frame):
        found = _spikes(frame, model)
        if isinstance(found, Finding):
            return found
        rests = [losses - along[:, -1] for losses, along in found]
        highest = [rest.max() / rest[0] for rest in rests]
        peaks = np.mean([losses.max() / losses[0] for losses, _ in found])
        return Finding(
            f"on {sum(high > 1 for high in highest)} of {len(highest)} seeds it rises, to at most {max(highest):.2f} "
            f"times its first value; the loss comes to {peaks:.0f} times",
            bool(max(highest) <= 1),
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
            bool(Interval.of(lost).low > 0 and Interval.of(below - above).low > 0),
        )

    return check


def _by_seed(runs, model, columns, above=ABOVE):
    """For each column the values of all seeds: the best below the critical rate, and at ``above`` it; or why not.

    Below count runs without a catapult: where the kernel grows at first, some rates just below have one.
    """
    if len(runs):
        runs = runs[(runs["model"] == model) & runs["learning_rate_ratio"].isin((*BELOW, above))]
    if runs.empty:
        return unknown(f"{model} is not recorded at these rates")
    wrong = not_as_claimed(runs[runs["learning_rate_ratio"] == above], model)
    if wrong:
        return unknown(wrong)
    runs = runs[(runs["learning_rate_ratio"] == above) | (runs["regime"] == "monotone")]
    found = {}
    for column in columns:
        table = runs.pivot_table(index="seed", columns="learning_rate_ratio", values=column)
        if above not in table or len(table.columns) < 2:
            return unknown(f"{model} is recorded at {', '.join(map(str, table.columns))}")
        below = table.drop(columns=above)
        table = table[below.notna().any(axis=1)]
        below = below.loc[table.index]
        if len(table) < FEWEST_SEEDS:
            return unknown(f"{len(table)} seeds are recorded")
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
        runs = runs[runs["model"] == model]
        compared = runs[runs["learning_rate_ratio"].isin((*BELOW[1:], above))]
        late = not_trained_out(compared)
        if late:
            return unknown(late)
        lost = compared.loc[compared["learning_rate_ratio"] == above, "regime"].eq("divergent")
        if lost.any():
            return Finding(f"{lost.sum()} of {len(lost)} diverge", False)
        (low, high), (before, after) = found["agop_alignment"], found["test_loss"]
        fall = 100 * (1 - after / before)
        return Finding(
            f"alignment {low.mean():.3f} to {high.mean():.3f}: {estimate(high - low, '{:+.3f}')}; test loss "
            f"{before.mean():.3f} to {after.mean():.3f}: lower by {estimate(fall, '{:.0f}', ' %')}",
            bool(Interval.of(high - low).low > 0 and Interval.of(fall).low > 0),
        )

    return check


def table_of_batches(frame: pd.DataFrame, model: str, column: str) -> pd.DataFrame | Finding:
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
        ranks = sign * table.apply(rank_correlation, axis=1)
        form = "{:.0f}" if column == "catapults" else "{:.3f}"
        means = ", ".join(f"{form.format(mean)} ({size:g})" for size, mean in table.mean().items())
        return Finding(
            f"{means}; rank correlation with smallness {estimate(ranks, '{:.2f}')}",
            bool(Interval.of(more).low > 0 and Interval.of(ranks).low > 0),
        )

    return check


def rank_correlation(values: pd.Series) -> float:
    """Spearman's, of numbers with the order in which they come; 0 where they are all the same."""
    ranks, order = values.rank().to_numpy(), np.arange(len(values))
    ranks, order = ranks - ranks.mean(), order - order.mean()
    return ranks @ order / np.sqrt(ranks @ ranks * (order @ order)) if ranks.any() else 0.0
