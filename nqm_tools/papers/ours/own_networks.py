"""Residual networks, a text transformer, cross-entropy: what of the catapult survives outside the papers' networks.

The runs are those of ``experiments/own_*.toml``, of the networks in ``experiments/own_models.py``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from nqm_tools.papers._rules import FEWEST_SEEDS, Check, Claim, Finding, Interval, estimate, runs_of, slope, unknown
from nqm_tools.papers.zhu2024.generalization import SHARED, gains
from nqm_tools.training._runs import CATAPULT_RISE

# How much above -1 or -0.7 the upper end of a fitted power's interval may be.
POWER_ERROR = 0.1
NOISY = {"own_resnet": "residual network, digits", "own_transformer": "transformer, AG News"}
WIDTHS = {
    "ReLU": ("own_widths", {}, -0.7),
    "Swish": ("own_widths", {"activation": "swish"}, -1.0),
    "ReLU, LayerNorm": ("own_widths", {"norm": "layer"}, -0.7),
    "ReLU, frozen BatchNorm": ("own_widths", {"norm": "frozen"}, -0.7),
    "ReLU, standard parameterisation": ("own_widths", {"parameterization": "standard"}, -0.7),
    "transformer": ("own_widths_transformer", {}, -1.0),
    "transformer, uniform attention": ("own_widths_transformer", {"attention": "uniform"}, -1.0),
    "transformer, standard parameterisation": ("own_widths_transformer", {"parameterization": "standard"}, -1.0),
}


def claims() -> list[Claim]:
    """The statements about networks beyond the papers', each with its rule."""
    found = []
    for sweep, panel in NOISY.items():
        for statement, rule, check in (
            ("f does not diverge up to 1.5 times the critical rate", "no run does", survives("f", 1.5)),
            ("f_quad diverges where f does, up to 1.5 times it", "every pair of runs agrees", follows(1.5)),
            ("... and up to 3 times it", "every pair of runs agrees", follows(3.0)),
            ("below the critical rate f's loss falls monotonically", "every run is monotone", monotone_below),
            ("above the critical rate f reaches a lower best test loss than below", _GAIN, gain),
        ):
            found.append(
                Claim("own", panel, sweep, statement, f"{_SEEDS}: {rule}", check, status="observed", where=("08",))
            )
        found.append(
            Claim(
                "own",
                f"{panel}, clean labels",
                f"{sweep}_clean",
                statement,
                f"{_SEEDS}: {rule}",
                gain,
                status="observed",
                where=("08",),
            )
        )
    panel, sweep = "fully connected, cross-entropy", "own_cross_entropy"
    for statement, rule, check in (
        (
            "2 over the Gauss-Newton sharpness at the start is critical: at 1.1 times it f's loss rises",
            f"by {100 * CATAPULT_RISE:.0f} % of its first value in every run",
            rises("f", 1.1),
        ),
        ("at 3 times it f's loss rises", f"by {100 * CATAPULT_RISE:.0f} % in every run", rises("f", 3.0)),
        ("f_lin diverges above it", "every run does", diverges_above("f_lin")),
        ("f_quad's loss rises where f's does", "every pair of runs agrees", rises_together),
        ("above it f reaches a lower best test loss than below", _GAIN, gain),
    ):
        found.append(
            Claim("own", panel, sweep, statement, f"{_SEEDS}: {rule}", check, status="observed", where=("08",))
        )
    for panel, (sweep, chosen, power) in WIDTHS.items():
        end = power + POWER_ERROR
        for ratio in (0.5, 1.3):
            found.append(
                Claim(
                    "own, widths",
                    panel,
                    sweep,
                    f"at {ratio:g} times the critical rate what f_quad misses falls like m^{power:g} or faster",
                    f"{_SEEDS}, four widths: the interval of the exponents, one a seed, ends by {end:g}",
                    falls_with_width("missed_by_f_quad", chosen, ratio, end),
                    status="observed",
                    where=("08",),
                )
            )
    return found


_SEEDS = f"{FEWEST_SEEDS} seeds or more"
_GAIN = "with rate and step chosen on the other seeds, the 95 % interval of the paired gain is above 0"


def _above(frame, models, up_to):
    """The runs of models above the critical rate, up to a multiple; None where one has too few seeds at a rate."""
    runs = runs_of(frame)
    if runs.empty:
        return None
    runs = runs[(runs["learning_rate_ratio"] > 1) & (runs["learning_rate_ratio"] <= up_to)]
    for model in models:
        seeds = runs[runs["model"] == model].groupby("learning_rate_ratio")["seed"].nunique()
        if seeds.empty or seeds.min() < FEWEST_SEEDS or len(seeds) < runs["learning_rate_ratio"].nunique():
            return None
    return runs


def _too_few(*models):
    return unknown(f"{FEWEST_SEEDS} seeds of {' and '.join(models)} are needed at each rate")


def survives(model: str, up_to: float) -> Check:
    """Whether no run of a model diverges above the critical rate, up to a multiple of it."""

    def check(frame):
        runs = _above(frame, (model,), up_to)
        if runs is None:
            return _too_few(model)
        runs = runs[runs["model"] == model]
        lost = int((runs["regime"] == "divergent").sum())
        kinds = ", ".join(f"{count} {kind}" for kind, count in runs["regime"].value_counts().items())
        return Finding(f"{len(runs)} runs: {kinds}", lost == 0)

    return check


def diverges_above(model: str) -> Check:
    """Whether every run of a model above the critical rate diverges."""

    def check(frame):
        runs = _above(frame, (model,), np.inf)
        if runs is None:
            return _too_few(model)
        runs = runs[runs["model"] == model]
        lost = int((runs["regime"] == "divergent").sum())
        return Finding(f"{lost} of {len(runs)} runs diverge", lost == len(runs))

    return check


def _agree(table, what):
    """Whether f and f_quad agree in every pair of runs: a table with a column for each, of bools."""
    same = int((table["f"] == table["f_quad"]).sum())
    by_rate = table.groupby("learning_rate_ratio").sum()
    counts = ", ".join(f"{row.f:.0f} and {row.f_quad:.0f} at {row.Index:g}" for row in by_rate.itertuples())
    return Finding(
        f"{same} of {len(table)} pairs agree; runs of f and f_quad that {what}: {counts}", same == len(table)
    )


def follows(up_to: float) -> Check:
    """Whether the quadratic model diverges where the network does, and only there: seed by seed, rate by rate."""

    def check(frame):
        runs = _above(frame, ("f", "f_quad"), up_to)
        if runs is None:
            return _too_few("f", "f_quad")
        lost = runs.assign(lost=runs["regime"] == "divergent")
        table = lost.pivot(index=["learning_rate_ratio", "seed"], columns="model", values="lost")
        return _agree(table[["f", "f_quad"]].dropna(), "diverge")

    return check


def _rise(frame):
    """A row a run, with whether its loss rose above its first value."""
    first = frame[frame["step"] == 0].set_index("key")["train_loss"]
    runs = runs_of(frame)
    return runs.assign(rose=runs["peak_loss"].to_numpy() > (1 + CATAPULT_RISE) * first[runs["key"]].to_numpy())


def rises(model: str, ratio: float) -> Check:
    """Whether at a multiple of the critical rate the loss of every run rises above its first value."""

    def check(frame):
        runs = _rise(frame)
        runs = runs[(runs["model"] == model) & np.isclose(runs["learning_rate_ratio"], ratio)]
        if runs["seed"].nunique() < FEWEST_SEEDS:
            return _too_few(model)
        return Finding(f"{int(runs['rose'].sum())} of {len(runs)} runs", bool(runs["rose"].all()))

    return check


def rises_together(frame: pd.DataFrame) -> Finding:
    """Whether the quadratic model's loss rises above its first value where the network's does, and only there."""
    if _above(frame, ("f", "f_quad"), np.inf) is None:
        return _too_few("f", "f_quad")
    table = _rise(frame).pivot(index=["learning_rate_ratio", "seed"], columns="model", values="rose")
    return _agree(table[["f", "f_quad"]].dropna(), "rise")


def monotone_below(frame: pd.DataFrame) -> Finding:
    """Whether every run of the network below the critical rate is monotone."""
    runs = runs_of(frame)
    runs = runs[(runs["model"] == "f") & (runs["learning_rate_ratio"] < 1)]
    if runs.groupby("learning_rate_ratio")["seed"].nunique().min() < FEWEST_SEEDS:
        return _too_few("f")
    shares = runs["regime"].eq("monotone").groupby(runs["learning_rate_ratio"])
    counts = ", ".join(f"{int(rows.sum())} of {len(rows)} at {ratio:g}" for ratio, rows in shares)
    return Finding(f"monotone: {counts}", bool(runs["regime"].eq("monotone").all()))


def gain(frame: pd.DataFrame) -> Finding:
    """Whether the network's best test loss is lower above the critical rate, chosen blindly, whatever the regimes."""
    found = gains(frame, "f")
    if isinstance(found, str):
        return unknown(found)
    if len(found.seeds) < FEWEST_SEEDS:
        return _too_few("f")
    lost = int(np.isnan(found.blind).sum())
    if lost:
        return Finding(f"the rate chosen on the other seeds diverges on {lost} of {len(found.blind)} seeds", False)
    rates = " or ".join(f"{rate:g}" for rate in sorted(set(found.rates)))
    measured = (
        f"lower by {estimate(100 * found.blind, '{:.1f}', ' %', shared=SHARED)} at {rates} times the critical rate"
    )
    return Finding(measured, bool(found.interval.low > 0))


def falls_with_width(column: str, chosen: dict[str, str], ratio: float, at_most: float) -> Check:
    """Whether a column's last value falls with the width: the interval of the exponents, one a seed, ends by a number.

    ``chosen`` are the arguments of the network that are not its defaults.
    """

    def check(frame):
        rows = frame[np.isclose(frame["learning_rate_ratio"], ratio) & (frame["model"] == "f")]
        for name in ("norm", "activation", "parameterization", "attention"):
            if name in rows:
                rows = rows[rows[name].isna()] if name not in chosen else rows[rows[name] == chosen[name]]
            elif name in chosen:
                rows = rows[:0]
        exponents = exponents_of(rows, column)
        if len(exponents) < FEWEST_SEEDS:
            return unknown(f"{len(exponents)} seeds have four widths that do not diverge, {FEWEST_SEEDS} are needed")
        return Finding(f"m^{estimate(exponents, '{:.2f}')}", bool(Interval.of(exponents).high <= at_most))

    return check


def exponents_of(rows: pd.DataFrame, column: str, fewest: int = 4) -> list[float]:
    """The powers of the width of a column's last value, one a seed that has so many widths without divergence."""
    last = rows[rows["regime"] != "divergent"].sort_values("step").groupby(["seed", "width"])[column].last()
    last = last[last > 0].reset_index()
    groups = [group for _, group in last.groupby("seed") if group["width"].nunique() >= fewest]
    return [float(slope(group["width"], group[column])) for group in groups]
