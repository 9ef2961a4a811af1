"""Rules about the phase diagram of early training, of the sweeps ``phases_*``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nqm_tools.papers._rules import FEWEST_SEEDS, Check, Finding, Interval, estimate, unknown
from nqm_tools.training import phases

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("c_loss", "c_sharp", "c_barrier", "c_max")
PLACE = ["depth", "width", "model", "seed"]
# Below that width the seeds of one setting differ by factors, and some runs of a network never raise their loss.
NARROWEST = 64
# How near two constants are the same: the recorded grid of c has steps of 4 to 8 % between 2 and 5.2, and constants are
# interpolated. An exponent of the width that is hardly one.
GRID_STEP, FLAT = 1.05, 0.25
# The stored output of the authors' public notebook: CIFAR-10, ten classes, depth 8, standard parameterisation, one
# initialisation a width; c_loss, c_sharp, c_max.
AUTHORS = {256: (3.25, 4.92, 13.9), 512: (3.03, 4.29, 13.0), 1024: (2.64, 4.00, 13.9), 2048: (2.46, 3.25, 12.1)}


def constants(frame: pd.DataFrame) -> pd.DataFrame:
    """``c_loss``, ``c_sharp``, ``c_barrier``, ``c_max`` of each depth, width, model and seed of recorded runs.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> recorded = nqm.papers.recorded(nqm.report.recorded_results(), "phases_zero")
    >>> found = constants(recorded)
    >>> list(found.columns)
    ['depth', 'width', 'model', 'seed', 'c_loss', 'c_sharp', 'c_barrier', 'c_max', 'sharpness']
    """
    import pandas as pd

    found = []
    for place, runs in frame.sort_values(["sharpness_ratio", "step"]).groupby(PLACE) if len(frame) else ():
        c, first = np.unique(runs["sharpness_ratio"], return_index=True)
        columns = [np.split(runs[name].to_numpy(), first[1:]) for name in ("train_loss", "sharpness", "path_loss")]
        found.append([*place, *phases(c, *columns), runs["initial_sharpness"].iloc[0]])
    return pd.DataFrame(found, columns=[*PLACE, *NAMES, "sharpness"])


def wide(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    """The constants of a model, of widths of 64 and more."""
    found = constants(frame)
    return found[(found["model"] == model) & (found["width"] >= NARROWEST)]


def few_seeds(found: pd.DataFrame) -> Finding | None:
    """Why these do not suffice to tell; None if they do."""
    seeds = found.groupby(["depth", "width"])["seed"].nunique().min() if len(found) else 0
    return unknown(f"{seeds} seeds are recorded, {FEWEST_SEEDS} are needed") if seeds < FEWEST_SEEDS else None


def falls_to_two(depth: int) -> Check:
    """Whether ``c_loss`` exceeds 2 at every width, and is smaller in the widest network than in the narrowest.

    Infinite ones count as the grid's end.
    """

    def check(frame):
        found = wide(frame, "f")
        found = found[found["depth"] == depth]
        if (reason := few_seeds(found)) is not None:
            return reason
        found = found.replace(np.inf, frame["sharpness_ratio"].max())
        table = found.pivot(index="seed", columns="width", values="c_loss")
        fall = np.log(table[table.columns.min()] / table[table.columns.max()])
        return Finding(
            "; ".join(f"width {width}: {estimate(values)}" for width, values in table.items()),
            all(Interval.of(values).low > 2 for _, values in table.items()) and bool(Interval.of(fall).low > 0),
        )

    return check


def grows_with_depth(name: str) -> Check:
    """Whether a constant grows with the depth at the same width and seed; infinite ones count as the grid's end."""

    def check(frame):
        found = wide(frame, "f")
        if (reason := few_seeds(found)) is not None:
            return reason
        found, grown = found.replace(np.inf, frame["sharpness_ratio"].max()), {}
        for width, rows in found.groupby("width"):
            table = rows.pivot(index="seed", columns="depth", values=name)
            for less, more in zip(table.columns, table.columns[1:], strict=False):
                grown[width, less, more] = (table[more] / table[less]).to_numpy()
        if not grown:
            return unknown("one depth is recorded, two are needed")
        return Finding(
            "; ".join(
                f"width {width}, {less} to {more}: {estimate(values)} times"
                for (width, less, more), values in grown.items()
            ),
            all(bool(Interval.of(np.log(values)).low > 0) for values in grown.values()),
        )

    return check


def in_order(frame: pd.DataFrame) -> Finding:
    """Whether ``c_loss <= c_sharp <= c_barrier <= c_max``, to one per cent, in every network."""
    found = wide(frame, "f")
    if (reason := few_seeds(found)) is not None:
        return reason
    values = found[list(NAMES)].to_numpy()
    good = values[:, 1:] >= 0.99 * values[:, :-1]
    counts = ", ".join(f"{a} <= {b} in {n}" for a, b, n in zip(NAMES, NAMES[1:], good.sum(axis=0), strict=False))
    return Finding(f"{counts}, of {len(found)} networks", bool(good.all()))


def c_max_by_width(frame: pd.DataFrame) -> Finding:
    """Whether ``c_max`` hardly depends on the width: its exponent, depth by depth, where it is within the grid."""
    found = wide(frame, "f")
    if (reason := few_seeds(found)) is not None:
        return reason
    exponents, beyond = {}, []
    for depth, rows in found.groupby("depth"):
        if np.isinf(rows["c_max"]).any():
            beyond.append(depth)
            continue
        if rows["width"].nunique() < 2:
            continue
        slopes = [np.polyfit(np.log(own["width"]), np.log(own["c_max"]), 1)[0] for _, own in rows.groupby("seed")]
        exponents[depth] = np.array(slopes), rows["c_max"]
    if not exponents:
        return unknown("at every depth c_max lies beyond the grid")
    measured = "; ".join(
        f"depth {depth}: exponent {estimate(slopes)}, c_max {values.min():.3g} to {values.max():.3g}"
        for depth, (slopes, values) in exponents.items()
    )
    intervals = [Interval.of(slopes) for slopes, _ in exponents.values()]
    return Finding(
        measured + "".join(f"; depth {depth}: beyond the grid" for depth in beyond),
        all(i.low > -FLAT and i.high < FLAT for i in intervals),
    )


def sharpness_falls_above_two(frame: pd.DataFrame) -> Finding:
    """Whether between 2 and ``c_loss`` neither loss nor sharpness ever exceed their first values."""
    found = wide(frame, "f")
    if (reason := few_seeds(found)) is not None:
        return reason
    opened = found[found["c_loss"] > 2 * GRID_STEP]
    good = int((opened["c_sharp"] >= opened["c_loss"]).sum())
    return Finding(
        f"{len(opened)} of {len(found)} networks have c_loss above {2 * GRID_STEP:g}; in {good} of them the sharpness "
        "rises no sooner than the loss",
        len(opened) > 0 and good == len(opened),
    )


def at_two(frame: pd.DataFrame) -> Finding:
    """Whether with the readout at zero ``c_loss`` is 2 to a step of the grid, and the sharpness rises below 2."""
    found = wide(frame, "f")
    if (reason := few_seeds(found)) is not None:
        return reason
    near = np.abs(found["c_loss"] / 2 - 1) < GRID_STEP - 1
    sooner = found["c_sharp"] < 2
    places = [
        f"depth {depth}, width {width}: {estimate(rows['c_loss'])}"
        for (depth, width), rows in found.groupby(["depth", "width"])
    ]
    return Finding(
        f"c_loss at {'; '.join(places)}. {near.sum()} of {len(found)} within {100 * (GRID_STEP - 1):.0f} % of 2; "
        f"c_sharp below 2 in {sooner.sum()}",
        bool(near.all() and sooner.all()),
    )
