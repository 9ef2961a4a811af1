"""Large catapults and much flatter minima with momentum, and the rules that decide it from runs in our settings.

Read in the paper: with a large rate and a linear warm-up, momentum gives large catapults and much flatter minima than
gradient descent. How high the loss peaks and how low the kernel ends are our measures of that. Runs are with a linear
warm-up (over a quarter of the steps) and without; how long it was in the paper we do not know.

Compared is at the same excess of the rate over each momentum's own critical rate: there 2 (1 + momentum)/eta, the
largest stable sharpness, is the same.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from nqm_tools.papers._rules import FEWEST_SEEDS, Claim, Finding, Interval, estimate, unknown

if TYPE_CHECKING:
    import pandas as pd

# The recorded sweeps: what they are of, their momenta, what is measured.
PANELS = {
    "one_example": ("one example", ("05", "08", "09"), ("kernel", "peak")),
    "digits": ("64 digits", ("05", "08", "09"), ("kernel", "sharpness", "peak")),
    "warmup": ("64 digits with a warm-up", ("05", "09"), ("kernel", "sharpness", "peak")),
}
MEASURES = {
    "kernel": ("the tangent kernel ends lower", "lambda_end/lambda_0", " (our measure)"),
    "sharpness": ("the run ends in a flatter minimum", "sharpness at the end over that at the start", ""),
    "peak": ("the loss peaks higher", "log of peak loss/first loss", " (our measure)"),
}


def claims() -> list[Claim]:
    """All claims."""
    found = []
    for kind, (panel, momenta, measures) in PANELS.items():
        for measure in measures:
            for model in ("f_quad", "f"):
                found += [_claim(kind, f"{panel}, {model}", measure, model, mu) for mu in momenta]
    return found


def _claim(kind, panel, measure, model, mu):
    what, number, whose = MEASURES[measure]
    return Claim(
        f"momentum {float(mu[0] + '.' + mu[1:]):g}",
        panel,
        f"momentum_{mu}_{kind}",
        f"above critical, with momentum {what} than without, at the same excess{whose}",
        f"widest network, {number} minus that without momentum, paired over {FEWEST_SEEDS} seeds or more that converge "
        "in both: the 95 % interval is on that side of 0 at every excess that has as many",
        functools.partial(goes_further, measure=measure, model=model),
        beside=(f"momentum_00_{kind}",),
    )


def widest(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a run of the widest network: its ``excess`` and the measures, which mean nothing where it diverged."""
    frame = frame[frame["width"] == frame["width"].max()]
    groups = frame.groupby("key")
    runs, last = groups.first(), groups.last()
    runs["excess"] = (runs["learning_rate_ratio"] / (1 + runs["momentum"]) - 1).round(3)
    runs["kernel"] = last["lambda_1"] / runs["lambda_1"]
    if "sharpness" in frame:
        runs["sharpness"] = last["sharpness"] / runs["sharpness"]
    runs["peak"] = np.log(runs["peak_loss"] / runs["train_loss"])
    return runs


def goes_further(frame: pd.DataFrame, *, measure: str, model: str) -> Finding:
    """Paired over seeds: the run with momentum against the one without, at each excess above critical."""
    runs = widest(frame[frame["model"] == model])
    runs = runs[runs["excess"] > 0]
    found, left_out = {}, []
    for excess, rows in runs.groupby("excess"):
        diverged = rows[rows["regime"] == "divergent"]["seed"].nunique()
        table = rows.assign(value=rows[measure].where(rows["regime"] != "divergent"))
        table = table.pivot(index="seed", columns="momentum", values="value").dropna()
        if diverged:
            left_out.append(f"{diverged} of {rows['seed'].nunique()} seeds at {100 * excess:g} %")
        if table.shape[1] == 2 and len(table) >= FEWEST_SEEDS:
            found[excess] = (table.iloc[:, 1] - table.iloc[:, 0]).to_numpy()
    if not found:
        return unknown(f"no excess has {FEWEST_SEEDS} seeds that converge with and without momentum")
    measured = "; ".join(f"at {100 * excess:g} % {estimate(values, '{:+.3f}')}" for excess, values in found.items())
    if left_out:
        measured += f"; left out, as they diverge: {', '.join(left_out)}"
    intervals = [Interval.of(values) for values in found.values()]
    up = measure == "peak"
    return Finding(measured, all(i.low > 0 if up else i.high < 0 for i in intervals))
