"""Rules for the neural feature ansatz. Frames are those of :func:`nqm_tools.papers.recorded`."""

from __future__ import annotations

import pandas as pd

from nqm_tools.papers._rules import FEWEST_SEEDS, Check, Finding, Interval, estimate, unknown

# What a correlation has to reach.
HIGH = 0.8


def at_both_ends(frame: pd.DataFrame, depth: int, column: str) -> pd.DataFrame:
    """The first and the last recorded value of a column, a row a seed."""
    rows = frame[(frame["depth"] == depth) & (frame["regime"] != "divergent")].sort_values("step")
    return rows.groupby("seed")[column].agg(["first", "last"])


def correlates(depth: int, column: str, high: float = HIGH) -> Check:
    """Whether a correlation is high after training, and higher than at the start."""

    def check(frame):
        if frame.empty or column not in frame:
            return unknown("nothing is recorded")
        found = at_both_ends(frame, depth, column).dropna()
        if len(found) < FEWEST_SEEDS:
            return unknown(f"{len(found)} seeds are recorded, {FEWEST_SEEDS} are needed")
        start, end = found["first"], found["last"]
        # The change is zero at the start, and so is its column.
        before = "" if (start == 0).all() else f"; at the start {start.mean():.3f}"
        return Finding(
            f"{estimate(end, '{:.3f}')}{before}",
            bool(Interval.of(end).low > high and Interval.of(end - start).low > 0),
        )

    return check


def root_is_better(depth: int, name: str, layer: int) -> Check:
    """Whether the root of the AGOP correlates more than the AGOP."""
    return _is_better(depth, (f"{name}_{layer}", "the AGOP"), (f"{name}_root_{layer}", "its root"))


def inverse_depth_is_better(depth: int, layer: int) -> Check:
    """Whether the power 1/depth of the AGOP correlates more with the weights than its root."""
    return _is_better(depth, (f"weights_root_{layer}", "the root"), (f"weights_depth_{layer}", f"the power 1/{depth}"))


def _is_better(depth, one, other):
    columns = one[0], other[0]

    def check(frame):
        if frame.empty or not set(columns) <= set(frame):
            return unknown("nothing is recorded")
        before, after = (at_both_ends(frame, depth, column)["last"].dropna() for column in columns)
        if len(before) < FEWEST_SEEDS:
            return unknown(f"{len(before)} seeds are recorded, {FEWEST_SEEDS} are needed")
        return Finding(
            f"{before.mean():.3f} with {one[1]}, {after.mean():.3f} with {other[1]}: "
            f"{estimate(after - before, '{:+.3f}')}",
            bool(Interval.of(after - before).low > 0),
        )

    return check
