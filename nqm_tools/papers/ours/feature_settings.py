"""Rules about where a catapult gains: widths, inputs of unequal variances, many tasks, and images."""

from __future__ import annotations

from collections.abc import Sequence

from nqm_tools.papers._rules import FEWEST_SEEDS, Check, Finding, Interval, estimate, not_as_claimed, unknown
from nqm_tools.papers.zhu2023.alignment import ABOVE, BELOW, ends_of_runs

WIDTHS = (128, 512, 1024)


def at_each(column: str, values: Sequence[float], check: Check) -> Check:
    """Whether a rule holds at each value of a column, each by itself."""

    def check_all(frame):
        if frame.empty or column not in frame:
            return unknown("nothing is recorded")
        found = {value: check(frame[frame[column] == value]) for value in values}
        measured = "; ".join(f"{column} {value:g}: {finding.measured}" for value, finding in found.items())
        verdicts = [finding.holds for finding in found.values()]
        # One value at which it does not hold is enough, whatever the others say.
        return Finding(measured, False if False in verdicts else None if None in verdicts else True)

    return check_all


def rises(model: str, column: str, form: str, times: float = 1.0) -> Check:
    """Whether a column ends higher above the critical rate than in the best run below that has no catapult."""

    def check(frame):
        runs = ends_of_runs(frame)
        if len(runs):
            runs = runs[(runs["model"] == model) & runs["learning_rate_ratio"].isin((*BELOW, ABOVE))]
        if runs.empty or column not in runs:
            return unknown(f"{model} is not recorded")
        above = runs[runs["learning_rate_ratio"] == ABOVE]
        wrong = not_as_claimed(above, model)
        if wrong:
            return unknown(wrong)
        if (above["regime"] == "divergent").any():
            return Finding(f"{(above['regime'] == 'divergent').sum()} of {len(above)} diverge", False)
        below = runs[(runs["learning_rate_ratio"] < 1) & (runs["regime"] == "monotone")]
        below, above = times * below.groupby("seed")[column].max(), times * above.set_index("seed")[column]
        gain = (above - below).dropna()
        if len(gain) < FEWEST_SEEDS:
            return unknown(
                f"{above.size} seeds are recorded, {len(gain)} of them with a run below critical that has no catapult"
            )
        return Finding(
            f"{form.format(below[gain.index].mean())} to {form.format(above[gain.index].mean())}: "
            f"{estimate(gain, form)}",
            bool(Interval.of(gain).low > 0),
        )

    return check
