"""Rules for panels of best test loss (or accuracy) against learning rate: figures 2b, 4, 9, 10, 19.6, 19.8.

The paper's number, the best test loss over steps and rates, is optimistic: both are chosen on the examples that they
are judged on, and noise alone makes the best of many look better than the best of few. What decides here is chosen
blindly: for each seed the rate and the step that are best on the mean of the *other* seeds, judged on this one; the
gains, one per seed, are paired, and hold if their 95 % interval says so. Any two choices share most of their seeds, so
the gains vary together, which their spread does not show: the interval is Student's t, widened as Nadeau and Bengio
("Inference for the generalization error", 2003) do for cross-validation.

Each rule takes the frame that :func:`nqm_tools.papers.recorded` gives for one panel, a row a recorded step.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from nqm_tools.papers._rules import (
    FEWEST_SEEDS,
    Check,
    Finding,
    Interval,
    estimate,
    estimated_percent,
    not_as_claimed,
    runs_of,
    unknown,
)

if TYPE_CHECKING:
    import pandas as pd

MODELS = ("f", "f_lin", "f_quad")
# The project's bar for figure 2b (its other panels: below at all).
AGREEMENT = 0.02
CLEAR_GAIN = 0.05
# What the gains of seeds have in common, as a share of their variance: 1/(n - 1) for n = 5 seeds. With more it is kept,
# for then all seeds choose the same, which is the best of many.
SHARED = 1 / 4
# With fewer wrong answers than this there is no room for a higher accuracy.
FEWEST_ERRORS = 5
# A training loss of which nothing is left to learn.
FITTED = 1e-3
CURVES = {"best_test_loss": "test_loss", "best_test_accuracy": "test_accuracy"}


def agreement(curves: pd.DataFrame) -> Finding:
    """Below the critical rate: how far apart the three models' best test losses are at the same rate and seed."""
    # Of curves that come from no store, too, which have no keys.
    runs = curves.drop_duplicates(["seed", "model", "learning_rate_ratio"])
    below = runs[(runs["learning_rate_ratio"] < 1) & runs["model"].isin(MODELS)]
    diverged = below[below["regime"] == "divergent"]
    if not diverged.empty:
        return Finding(f"{len(diverged)} of {len(below)} runs diverge below the critical rate", False)
    below, left_out = that_stay_below(below, MODELS)
    for model in MODELS:
        if reason := not_as_claimed(below, model):
            return unknown(reason)
    worst = disagreement(below)
    if worst.empty:
        return unknown("the three models are not recorded at one rate below the critical one")
    measured = f"apart by {estimated_percent(worst)} at most{left_out}"
    return Finding(measured, None if len(worst) < FEWEST_SEEDS else Interval.of(worst).high <= AGREEMENT)


def disagreement(runs: pd.DataFrame) -> pd.Series:
    """How far apart the three models' best test losses are below the critical rate, relative to their mean.

    At the rate at which that is largest; a number per seed that has all three.
    """
    below = runs[(runs["learning_rate_ratio"] < 1) & runs["model"].isin(MODELS)]
    table = below.pivot_table(index=["seed", "learning_rate_ratio"], columns="model", values="best_test_loss")
    table = table.reindex(columns=list(MODELS)).dropna()
    apart = (table.max(axis=1) - table.min(axis=1)) / table.mean(axis=1)
    return apart.groupby("seed").max()


def that_stay_below(curves: pd.DataFrame, models: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """The rows, without rates below the critical one at which runs of these models do not stay below it.

    The critical rate is that of the start and of all examples. A kernel that grows may pass ``2/eta`` later, and a
    batch has a critical rate of its own, between B/n and 1 times that of all n examples. So rates below from the first
    on at which a run is no longer monotone are on neither side. If none remains, nothing is left out.

    Also what was left out, in words.
    """
    # Of curves that come from no store, too, which have no keys.
    runs = curves.drop_duplicates(["seed", "model", "learning_rate_ratio"])
    below = runs[(runs["learning_rate_ratio"] < 1) & (runs["regime"] != "divergent") & runs["model"].isin(models)]
    first = below.loc[below["regime"] != "monotone", "learning_rate_ratio"].min()
    beyond = below[below["learning_rate_ratio"] >= first]
    if beyond.empty or len(beyond) == len(below):
        return curves, ""
    rates = ", ".join(f"{rate:g}" for rate in sorted(beyond["learning_rate_ratio"].unique()))
    wrong = int((beyond["regime"] != "monotone").sum())
    left_out = f"; {rates} left out, where {wrong} of {len(beyond)} runs do not stay below critical"
    return curves[~curves["learning_rate_ratio"].between(first, 1, inclusive="left")], left_out


class Gains(NamedTuple):
    """How much better a model does above the critical rate than below it: arrays of one number a seed.

    ``blind`` with rate and step chosen on the other seeds (NaN where the chosen rate diverges on this one),
    ``optimistic`` with both chosen on what they are judged on, as the paper's figures are. Losses: the share by which
    they are lower. Accuracies: the difference. ``rates`` are the rates above that were chosen blindly, ``best_rate``
    the optimistic one; ``below`` the best value below, by the optimistic choice. ``left_out`` says which rates were, by
    :func:`that_stay_below`.
    """

    seeds: tuple[int, ...]
    blind: Float[np.ndarray, " seeds"]
    optimistic: Float[np.ndarray, " seeds"]
    rates: Float[np.ndarray, " seeds"]
    best_rate: float
    below: Float[np.ndarray, " seeds"]
    left_out: str

    @property
    def interval(self) -> Interval:
        """The mean of the blind gains and its 95 % interval."""
        return Interval.of(self.blind, SHARED)


def gains(curves: pd.DataFrame, model: str, column: str = "best_test_loss") -> Gains | str:
    """The :class:`Gains` of a model, or a text that says what is missing.

    Of the rates that every seed has; ``column`` is ``best_test_loss`` or ``best_test_accuracy``.
    """
    rows, left_out = that_stay_below(curves[curves["model"] == model], (model,))
    if rows.empty:
        return f"{model} is not recorded"
    # Of a run that diverged nothing counts.
    values = rows[CURVES[column]].where(rows["regime"] != "divergent")
    table = rows.assign(value=values).pivot_table(
        index="seed", columns=["learning_rate_ratio", "step"], values="value", dropna=False
    )
    everywhere = set(rows["learning_rate_ratio"])
    for _, of_seed in rows.groupby("seed"):
        everywhere &= set(of_seed["learning_rate_ratio"])
    sides = [[r for r in sorted(everywhere) if (r > 1) == above] for above in (False, True)]
    if not all(sides):
        return f"{model} is not recorded on both sides of the critical rate"
    below, above = (np.stack([table[r].to_numpy() for r in side], axis=1) for side in sides)
    lower = column == "best_test_loss"
    blind_below, _ = _blind(below if lower else -below)
    blind_above, chosen = _blind(above if lower else -above)
    best_below, _ = _best(below if lower else -below)
    best_above, best = _best(above if lower else -above)
    gained = _share if lower else _difference
    return Gains(
        tuple(table.index),
        gained(blind_above, blind_below),
        gained(best_above, best_below),
        np.array([sides[1][i] if i >= 0 else np.nan for i in chosen]),
        sides[1][best] if best >= 0 else np.nan,
        best_below if lower else -best_below,
        left_out,
    )


def _share(above, below):
    return 1 - above / below


def _difference(above, below):
    return below - above


def _blind(values):
    """What the rate and step that are best (lowest) on the mean of the other seeds give on each seed.

    ``values`` (seeds, rates, steps), NaN where a run diverged. Rates at which another seed diverged are not chosen.
    Also the indices of the chosen rates; -1, and NaN, where there is no other seed or no rate left.
    """
    found, chosen = np.full(len(values), np.nan), np.full(len(values), -1)
    for seed in range(len(values)):
        others = np.delete(values, seed, axis=0)
        means = others.mean(axis=0) if len(others) else np.full(values.shape[1:], np.nan)
        if not np.isnan(means).all():
            place = np.unravel_index(np.nanargmin(means), means.shape)
            found[seed], chosen[seed] = values[(seed, *place)], place[0]
    return found, chosen


def _best(values):
    """The lowest value over the steps of each seed, at the rate with the best mean of these; the rate's index."""
    lowest = np.full(values.shape[:2], np.nan)
    some = ~np.isnan(values).all(axis=2)
    lowest[some] = np.nanmin(values[some], axis=1)
    means = lowest.mean(axis=0)
    if np.isnan(means).all():
        return np.full(len(values), np.nan), -1
    best = int(np.nanargmin(means))
    return lowest[:, best], best


def gain(model: str, least: float = 0.0, column: str = "best_test_loss") -> Check:
    """Whether a model does better above the critical rate than below it, with rate and step chosen on other seeds.

    The lower end of the 95 % interval of the paired gains must be above ``least`` (a share of the loss); for accuracies
    above 0, and the mean gain more than one test example.
    """
    accuracy = column == "best_test_accuracy"

    def check(curves):
        found = gains(curves, model, column)
        if isinstance(found, str):
            return unknown(found)
        runs = runs_of(that_stay_below(curves, (model,))[0])
        if reason := not_as_claimed(runs, model):
            return unknown(reason)
        if np.isnan(found.optimistic).any():
            return Finding(f"{model} converges with every seed at no rate above the critical one", False)

        def say(values):
            if accuracy:
                return estimate(100 * values, "{:+.2f}", " points", shared=SHARED)
            return f"lower by {estimated_percent(values, shared=SHARED)}"

        mean = found.optimistic.mean()
        optimistic = f"{100 * mean:+.2f} points" if accuracy else f"lower by {100 * mean:.2f} %"
        optimistic = f"{optimistic} at {found.best_rate:g}, chosen on the test examples themselves{found.left_out}"
        if len(found.seeds) < FEWEST_SEEDS:
            return unknown(f"{optimistic}; {FEWEST_SEEDS} seeds are needed")
        if accuracy:
            errors = (1 - found.below.mean()) * runs["n_test"].iloc[0]
            if errors < FEWEST_ERRORS:
                return unknown(f"{optimistic}; only {errors:.1f} wrong answers are left below the critical rate")
        lost = int(np.isnan(found.blind).sum())
        if lost:
            return Finding(f"the rate chosen on the other seeds diverges on {lost} of {len(found.blind)} seeds", False)
        interval = found.interval
        holds = interval.low > least
        if accuracy:
            holds = holds and interval.mean > 1 / runs["n_test"].iloc[0]
        rates = " or ".join(f"{rate:g}" for rate in sorted(set(found.rates)))
        return Finding(f"{say(found.blind)} at {rates} times the critical rate; {optimistic}", bool(holds))

    return check


def falls_over_a_range(model: str, at_least: int = 2) -> Check:
    """Whether the best test loss falls from rate to rate above the critical one: paired over seeds, each fall clear.

    From the largest rate below the critical one on; the mean fall and its 95 % interval at each of the first
    ``at_least`` rates above.
    """

    def check(curves):
        runs, left_out = that_stay_below(runs_of(curves), (model,))
        if runs.empty or model not in set(runs["model"]):
            return unknown(f"{model} is not recorded")
        if reason := not_as_claimed(runs, model):
            return unknown(reason)
        table = best_by_rate(runs, model)
        below, above = [r for r in table if r < 1], [r for r in table if r > 1]
        if not below or len(above) < at_least:
            return unknown(f"{model} is recorded at {len(above)} rates above the critical one")
        if len(table) < FEWEST_SEEDS:
            return unknown(f"{len(table)} seeds are recorded, {FEWEST_SEEDS} are needed")
        path = [below[-1], *above]
        falls = [Interval.of(1 - table[b] / table[a]) for a, b in itertools.pairwise(path)]
        falling = next((i for i, fall in enumerate(falls) if not fall.low > 0), len(falls))
        if falling < at_least and len(above) == at_least:
            return unknown(f"only {len(above)} rates above the critical one are recorded, too few to tell")
        until = f", to {above[falling - 1]:g} times the critical rate" if falling else ""
        first = ", ".join(
            f"{100 * fall.mean:.1f} % ({100 * fall.low:.1f} to {100 * fall.high:.1f})" for fall in falls[:at_least]
        )
        measured = (
            f"falls clearly over {falling} of {len(above)} rates{until}; the first by {first}; "
            f"{len(table)} seeds{left_out}"
        )
        return Finding(measured, falling >= at_least)

    return check


def linear_model_diverges(curves: pd.DataFrame) -> Finding:
    """Whether every run of the linear model above the critical rate diverges: an identity."""
    runs = runs_of(curves)
    runs = runs[(runs["model"] == "f_lin") & (runs["learning_rate_ratio"] > 1)]
    if runs.empty:
        return unknown("f_lin is not recorded above the critical rate")
    diverged = int((runs["regime"] == "divergent").sum())
    rates = runs["learning_rate_ratio"].nunique()
    return Finding(f"{diverged} of {len(runs)} runs diverge ({rates} rates)", diverged == len(runs))


def long_enough(curves: pd.DataFrame) -> Finding:
    """Whether no best test loss below the critical rate is at the last step, unless there is nothing left to learn."""
    runs, _ = that_stay_below(runs_of(curves), MODELS)
    runs = runs[(runs["learning_rate_ratio"] < 1) & (runs["regime"] != "divergent")]
    if runs.empty:
        return unknown("no run below the critical rate is recorded")
    cut_short = runs[(runs["best_step"] >= runs["steps"]) & (runs["final_loss"] > FITTED)]
    latest = int(runs["best_step"].max())
    measured = (
        f"{runs['steps'].max()} steps; the latest best one is {latest}; {len(cut_short)} of {len(runs)} runs cut short"
    )
    return Finding(measured, cut_short.empty)


def best_by_rate(runs: pd.DataFrame, model: str, column: str = "best_test_loss") -> pd.DataFrame:
    """``column`` by seed (rows) and learning rate (columns, ascending), where every seed has a number."""
    rows = runs[runs["model"] == model]
    return rows.pivot_table(index="seed", columns="learning_rate_ratio", values=column, dropna=False).dropna(axis=1)
