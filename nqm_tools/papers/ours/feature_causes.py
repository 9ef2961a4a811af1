"""Rules about what of a catapult's gain is cause: noise, raised rates, optimisers, and the gates of ReLU."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nqm_tools.papers._rules import FEWEST_SEEDS, Check, Finding, Interval, estimate, unknown
from nqm_tools.papers.zhu2023.alignment import ABOVE, BELOW, TRAINED, ends_of_runs, not_trained_out, rank_correlation

# (Rate over the critical one of gradient descent, size of batches), with the same noise in a step: rate over size. At
# the first no batch exceeds its own critical rate.
QUIET, LOUD = (0.06, 1), (0.48, 8)
# So much of the gain is little, and so much is enough.
LITTLE, ENOUGH = 0.25, 0.5
RAISES = ("not_raised", "raised_once", "raised_twice", "raised_3_times", "raised_4_times")
# Rates far above critical and below; most of an error, and little of it; a failure is so many times the error below.
FAR, NEAR, MOST, FEW, WORSE = 1.8, 0.9, 0.5, 0.2, 1.5
# Swish with these factors inside, from Swish itself to ReLU; and one that is smooth.
SHARPNESS, SMOOTH = (1.0, 2.0, 4.0, 8.0, 16.0, np.inf), 4.0
# Fewer optimisers, or runs of them, have no order.
FEWEST_OPTIMIZERS, FEWEST_RUNS = 4, 8


def noise_gains_little(frame: pd.DataFrame) -> Finding:
    """Whether noise as large as that of batches with catapults, but without any, has little of their gain."""
    found = _noise(frame)
    if isinstance(found, Finding):
        return found
    gains, counts, loudest, measured = found
    little = Interval.of(gains[QUIET] - LITTLE * gains[LOUD]).high < 0
    return Finding(measured, bool(loudest < 1 and not counts.any() and Interval.of(gains[LOUD]).low > 0 and little))


def noise_is_enough(frame: pd.DataFrame) -> Finding:
    """Whether noise as large has much of their gain, with no batch above its own critical rate."""
    found = _noise(frame)
    if isinstance(found, Finding):
        return found
    gains, _, loudest, measured = found
    enough = Interval.of(gains[QUIET] - ENOUGH * gains[LOUD]).low > 0
    return Finding(measured, bool(loudest < 1 and Interval.of(gains[LOUD]).low > 0 and enough))


def _noise(frame):
    """By how much test losses are lower than gradient descent's, and what else there is to say; or why not."""
    runs = ends_of_runs(frame)
    if runs.empty or "batch_size" not in runs:
        return unknown("nothing is recorded")
    frame, runs = (table[table["model"] == "f"] for table in (frame, runs))
    settings = {place: runs[_at(runs, *place)].set_index("seed") for place in (QUIET, LOUD)}
    descent = runs[runs["batch_size"].isna() & runs["learning_rate_ratio"].isin(BELOW[1:])]
    late = not_trained_out(pd.concat([*settings.values(), descent]))
    if late:
        return unknown(late)
    descent = descent[descent["regime"] == "monotone"].groupby("seed")["test_loss"].min()
    table = pd.DataFrame({place: settings[place]["test_loss"] for place in settings} | {"descent": descent}).dropna()
    if len(table) < FEWEST_SEEDS:
        return unknown(f"{len(table)} seeds are recorded in all three ways")
    gains = {place: table["descent"] - table[place] for place in settings}
    counts = {place: settings[place].loc[table.index, "catapults"] for place in settings}
    loudest = frame.loc[_at(frame, *QUIET), "worst_batch_ratio"].max()
    loud, quiet = (estimate(gains[place], "{:.3f}") for place in (LOUD, QUIET))
    measured = (
        f"lower than gradient descent's {table['descent'].mean():.3f} by {loud} with batches of "
        f"{LOUD[1]} ({counts[LOUD].mean():.0f} catapults), by {quiet} with single examples "
        f"({counts[QUIET].mean():.0f} catapults; at most {loudest:.2f} times their own critical rates)"
    )
    return gains, counts[QUIET], loudest, measured


def _at(runs, rate, size):
    return (runs["learning_rate_ratio"] == rate) & (runs["batch_size"] == size)


def raises(model: str, column: str, rate: float) -> Check:
    """Whether each further raise of the rate, after which the run is trained out, is better in a column."""
    sign = 1 if column == "agop_alignment" else -1

    def check(frame):
        runs = ends_of_runs(frame)
        if len(runs):
            runs = runs[(runs["model"] == model) & (runs["learning_rate_ratio"] == rate)]
        if runs.empty:
            return unknown(f"{model} is not recorded")
        late = not_trained_out(runs)
        if late:
            return unknown(late)
        runs = runs.assign(raises=runs["optimizer"].str.split(":").str[1].map(RAISES.index))
        table = runs.pivot_table(index="seed", columns="raises", values=column, dropna=False)
        if len(table) < FEWEST_SEEDS or list(table.columns) != list(range(len(RAISES))):
            return unknown(f"{len(table)} seeds are recorded")
        if (runs["regime"] == "divergent").any():
            return Finding(f"{(runs['regime'] == 'divergent').sum()} of {len(runs)} diverge", False)
        ranks = (sign * table).apply(rank_correlation, axis=1)
        further = sign * (table[len(RAISES) - 1] - table[1])
        counts = runs.groupby("raises")["catapults"].mean()
        return Finding(
            f"{', '.join(f'{mean:.3f}' for mean in table.mean())} after 0 to {len(RAISES) - 1} raises "
            f"({', '.join(f'{count:.1f}' for count in counts)} catapults); rank correlation "
            f"{estimate(ranks, '{:.2f}')}; from one raise to {len(RAISES) - 1} {estimate(further, '{:+.3f}')}",
            bool(Interval.of(ranks).low > 0 and Interval.of(further).low > 0),
        )

    return check


def methods(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a run of any optimiser that is trained out: its name in ``method``."""
    runs = ends_of_runs(frame)
    if runs.empty:
        return runs
    runs = runs.assign(method=runs["optimizer"].str.split(":").str[1])
    return runs[(runs["regime"] != "divergent") & (runs["left"] < TRAINED)]


def optimizers_agree(frame: pd.DataFrame) -> Finding:
    """Whether runs of all optimisers and rates with a better alignment have a lower test loss, seed by seed."""
    runs = methods(frame)
    if runs.empty or runs["method"].nunique() < FEWEST_OPTIMIZERS:
        return unknown("fewer optimisers are recorded and trained out")
    ranks = {seed: _order(rows) for seed, rows in runs.groupby("seed") if len(rows) >= FEWEST_RUNS}
    if len(ranks) < FEWEST_SEEDS:
        return unknown(f"{len(ranks)} seeds are recorded")
    return Finding(
        f"rank correlation {estimate(list(ranks.values()), '{:.2f}')}, over {runs.groupby('seed').size().min()} runs "
        "or more of a seed",
        bool(Interval.of(list(ranks.values())).high < 0),
    )


def best_of_each(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a seed and optimiser: its run at the rate that is best on the mean of the other seeds, all trained out."""
    rows = []
    for _, its in runs.groupby("method"):
        table = its.pivot_table(index="seed", columns="learning_rate", values="test_loss", dropna=False)
        whole = table.loc[:, table.notna().all()]
        for seed in whole.index if len(whole.columns) else ():
            rate = whole.drop(seed).mean().idxmin()
            rows.append(its[(its["seed"] == seed) & (its["learning_rate"] == rate)])
    return pd.concat(rows) if rows else runs.iloc[:0]


def tuned_optimizers_agree(frame: pd.DataFrame) -> Finding:
    """The same of one run an optimiser, whose rate is chosen on the other seeds."""
    runs = methods(frame)
    runs = best_of_each(runs) if len(runs) else runs
    if runs.empty or runs["method"].nunique() < FEWEST_OPTIMIZERS:
        return unknown("fewer optimisers are recorded and trained out")
    ranks = {seed: _order(rows) for seed, rows in runs.groupby("seed") if len(rows) >= FEWEST_OPTIMIZERS}
    if len(ranks) < FEWEST_SEEDS:
        return unknown(f"{len(ranks)} seeds are recorded")
    means = runs.groupby("method")[["test_loss", "agop_alignment"]].mean().sort_values("test_loss")
    listed = ", ".join(f"{name} {row.test_loss:.3f} ({row.agop_alignment:.3f})" for name, row in means.iterrows())
    return Finding(
        f"test loss (alignment): {listed}; rank correlation {estimate(list(ranks.values()), '{:.2f}')}",
        bool(Interval.of(list(ranks.values())).high < 0),
    )


def _order(rows):
    return rank_correlation(rows.sort_values("agop_alignment")["test_loss"])


def moving_gates(frame: pd.DataFrame) -> Finding:
    """Whether most of the quadratic model's test error far above critical lies where gates have flipped."""
    found = _of_gates(frame, "moving_share", "moving_test_loss")
    if isinstance(found, Finding):
        return found
    share, loss, moving = found
    return Finding(
        f"share {estimate(share[FAR], '{:.2f}')}, at {NEAR:g} times {share[NEAR].mean():.2f}; test loss "
        f"{loss.mean():.3f}, with gates that move {moving.mean():.3f}",
        bool(Interval.of(share[FAR]).low > MOST and Interval.of(share[FAR] - share[NEAR]).low > 0),
    )


def jumps(frame: pd.DataFrame) -> Finding:
    """Whether blurring the gates, at the weights as they are, takes away little of that error."""
    found = _of_gates(frame, "moving_share", "blurred_test_loss")
    if isinstance(found, Finding):
        return found
    _, loss, blurred = found
    less = 1 - blurred / loss
    return Finding(
        f"test loss {loss.mean():.3f}, blurred {blurred.mean():.3f}: lower by {estimate(100 * less, '{:.0f}', ' %')}",
        bool(Interval.of(less).high < FEW),
    )


def unseen(frame: pd.DataFrame) -> Finding:
    """Whether most of that error is a part of the model that is zero on all training examples, which helped before."""
    found = _of_gates(frame, "unseen_share", "seen_test_loss")
    if isinstance(found, Finding):
        return found
    share, loss, seen = found
    return Finding(
        f"share {estimate(share[FAR], '{:.2f}')}, at {ABOVE:g} times {estimate(share[ABOVE], '{:.2f}')}; test loss "
        f"{loss.mean():.3f}, without that part {seen.mean():.3f}",
        bool(Interval.of(share[FAR]).low > MOST and Interval.of(share[ABOVE]).high < 0),
    )


def _of_gates(frame, share, other):
    """A share by seed and rate, the test loss far above, and another loss there; or why not."""
    runs = ends_of_runs(frame)
    if runs.empty or not {share, other} <= set(runs):
        return unknown("nothing is recorded")
    runs = runs[runs["learning_rate_ratio"].isin((NEAR, ABOVE, FAR)) & (runs["regime"] != "divergent")]
    late = not_trained_out(runs)
    if late:
        return unknown(late)
    table = runs.pivot_table(index="seed", columns="learning_rate_ratio", values=[share, "test_loss", other])
    if not {(share, rate) for rate in (NEAR, ABOVE, FAR)} <= set(table) or len(table := table.dropna()) < FEWEST_SEEDS:
        return unknown(f"{len(table)} seeds are recorded at all rates")
    return table[share], table["test_loss"][FAR], table[other][FAR]


def sharper_is_worse(frame: pd.DataFrame) -> Finding:
    """Whether the quadratic model's failure far above critical grows from Swish to ReLU."""
    ratios = _far_over_near(frame)
    if isinstance(ratios, Finding):
        return ratios
    ranks, apart = ratios.apply(rank_correlation, axis=1), ratios[np.inf] - ratios[1.0]
    listed = ", ".join(f"{np.exp(mean):.2f} ({s:g})" for s, mean in ratios.mean().items())
    return Finding(
        f"test loss at {FAR:g} over that at {NEAR:g} times critical, geometric mean: {listed}; rank correlation "
        f"{estimate(ranks, '{:.2f}')}",
        bool(Interval.of(ranks).low > 0 and Interval.of(apart).low > 0),
    )


def smooth_ones_fail(frame: pd.DataFrame) -> Finding:
    """Whether the quadratic model fails far above critical with a smooth activation, so without any jump."""
    ratios = _far_over_near(frame)
    if isinstance(ratios, Finding):
        return ratios
    return Finding(
        f"sharpness {SMOOTH:g}: test loss times {estimate(np.exp(ratios[SMOOTH]), '{:.2f}')}; ReLU's "
        f"{np.exp(ratios[np.inf]).mean():.2f}",
        bool(Interval.of(ratios[SMOOTH]).low > np.log(WORSE)),
    )


def _far_over_near(frame):
    """The logarithm of the quadratic model's test losses far above critical over below, by seed and sharpness."""
    runs = ends_of_runs(frame)
    if runs.empty:
        return unknown("nothing is recorded")
    runs = with_sharpness(runs)
    runs = runs[runs["learning_rate_ratio"].isin((NEAR, FAR)) & (runs["model"] == "f_quad")]
    late = not_trained_out(runs)
    if late:
        return unknown(late)
    table = runs.pivot_table(index="seed", columns=["learning_rate_ratio", "sharpness"], values="test_loss")
    wanted = {(rate, sharpness) for rate in (NEAR, FAR) for sharpness in SHARPNESS}
    if not wanted <= set(table) or len(table := table.dropna()) < FEWEST_SEEDS:
        return unknown(f"{len(table)} seeds are recorded, or not all activations")
    if (runs["regime"] == "divergent").any():
        return unknown(f"{(runs['regime'] == 'divergent').sum()} runs diverge")
    return np.log(table[FAR] / table[NEAR])


def with_sharpness(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with the sharpness of Swish and ReLU, too."""
    # A store of one of the two kinds only does not have the other's column.
    columns = runs.reindex(columns=["activation", "sharpness"])
    known = columns["activation"].map({"swish": 1.0, "relu": np.inf}).astype(float)
    return runs.assign(sharpness=columns["sharpness"].astype(float).fillna(known))
