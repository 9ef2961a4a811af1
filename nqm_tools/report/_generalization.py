"""Rules for panels of best test loss (or accuracy) against learning rate: figures 2b, 4, 9, 10, 19.6, 19.8.

Each takes the frame that :func:`nqm_tools.sweeps.load` gives for one panel.
"""

import numpy as np

from nqm_tools.report._finding import Finding, beyond_spread, percent, spread, unknown

MODELS = ("f", "f_lin", "f_quad")
# The project's bar for figure 2b (its other panels: below at all, beyond the spread).
AGREEMENT = 0.02
CLEAR_GAIN = 0.05
# One seed has no spread to compare with.
FEWEST_SEEDS = 2
# With fewer wrong answers than this there is no room for a higher accuracy.
FEWEST_ERRORS = 5
# A training loss of which nothing is left to learn.
FITTED = 1e-3


def agreement(frame):
    """Below the critical rate: how far apart the three models' best test losses are at the same rate and seed."""
    below = frame[frame["learning_rate_ratio"] < 1]
    diverged = below[(below["regime"] == "divergent") & below["model"].isin(MODELS)]
    if not diverged.empty:
        return Finding(f"{len(diverged)} of {len(below)} runs diverge below the critical rate", False)
    table = below.pivot_table(index=["seed", "learning_rate_ratio"], columns="model", values="best_test_loss")
    if not set(MODELS) <= set(table.columns) or table[list(MODELS)].dropna().empty:
        return unknown("the three models are not recorded at one rate below the critical one")
    table = table[list(MODELS)].dropna()
    apart = (table.max(axis=1) - table.min(axis=1)) / table.mean(axis=1)
    worst = apart.groupby("seed").max()
    measured = f"apart by {percent(worst)} at most"
    return Finding(measured, None if len(worst) < FEWEST_SEEDS else bool(worst.mean() <= AGREEMENT))


def gain(model, least=0.0, column="best_test_loss"):
    """How much better the best rate above the critical one is than the best below it, seed by seed.

    Both rates are those with the best means over seeds, among the rates that every seed has and at which none
    diverged. ``least`` is a share of the loss. For ``best_test_accuracy`` the gain is in percentage points.
    """

    def check(frame):
        table = _by_rate(frame, model, column)
        below, above = table[[r for r in table if r < 1]], table[[r for r in table if r > 1]]
        if table.empty or below.empty or above.empty:
            return unknown(f"{model} is not recorded on both sides of the critical rate")
        if column == "best_test_accuracy":
            ratio = above.mean().idxmax()
            best_below = below[below.mean().idxmax()]
            gains = above[ratio] - best_below
            measured = spread(100 * gains, "{:+.2f}", " points")
            errors = (1 - best_below.mean()) * frame["n_test"].iloc[0]
            if errors < FEWEST_ERRORS:
                return unknown(f"{measured}; only {errors:.1f} wrong answers are left below the critical rate")
        else:
            ratio = above.mean().idxmin()
            gains = 1 - above[ratio] / below[below.mean().idxmin()]
            measured = "lower by " + percent(gains)
        holds = None if len(gains) < FEWEST_SEEDS else bool(beyond_spread(gains) and gains.mean() >= least)
        return Finding(f"{measured} at {ratio:g} times the critical rate", holds)

    return check


def falls_over_a_range(model, at_least=2):
    """Over how many learning rates above the critical one the mean best test loss falls, without a break."""

    def check(frame):
        means = _by_rate(frame, model, "best_test_loss").mean()
        below, above = means[means.index < 1], means[means.index > 1].sort_index()
        if below.empty or len(above) < at_least:
            return unknown(f"{model} is recorded at {len(above)} rates above the critical one")
        steps = np.diff([below.iloc[-1], *above]) < 0
        falling = len(steps) if steps.all() else int(np.argmin(steps))
        if falling < at_least and len(above) == at_least:
            return unknown(f"only {len(above)} rates above the critical one are recorded, too few to tell")
        until = f", to {above.index[falling - 1]:g} times the critical rate" if falling else ""
        return Finding(f"falls over {falling} of {len(above)} rates{until}", falling >= at_least)

    return check


def linear_model_diverges(frame):
    """Whether every run of the linear model above the critical rate diverges."""
    runs = frame[(frame["model"] == "f_lin") & (frame["learning_rate_ratio"] > 1)]
    if runs.empty:
        return unknown("f_lin is not recorded above the critical rate")
    diverged = int((runs["regime"] == "divergent").sum())
    rates = runs["learning_rate_ratio"].nunique()
    return Finding(f"{diverged} of {len(runs)} runs diverge ({rates} rates)", diverged == len(runs))


def long_enough(frame):
    """Whether no best test loss below the critical rate is at the last step, unless there is nothing left to learn."""
    runs = frame[(frame["learning_rate_ratio"] < 1) & (frame["regime"] != "divergent")]
    if runs.empty:
        return unknown("no run below the critical rate is recorded")
    cut_short = runs[(runs["best_step"] >= runs["steps"]) & (runs["final_loss"] > FITTED)]
    latest = int(runs["best_step"].max())
    measured = (
        f"{runs['steps'].max()} steps; the latest best one is {latest}; {len(cut_short)} of {len(runs)} runs cut short"
    )
    return Finding(measured, cut_short.empty)


def _by_rate(frame, model, column):
    """``column`` by seed (rows) and learning rate (columns, ascending), where every seed has a number."""
    runs = frame[frame["model"] == model]
    return runs.pivot_table(index="seed", columns="learning_rate_ratio", values=column, dropna=False).dropna(axis=1)
