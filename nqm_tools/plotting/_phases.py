"""Figures of the phases of early training; public through :mod:`nqm_tools.plotting`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from nqm_tools.plotting._style import LABELS, MARKERS, PALETTE, check_columns, models_of

if TYPE_CHECKING:
    import pandas as pd

# How the constants are told apart: a dash and a name each.
CONSTANTS = {
    "c_loss": ("-", r"$\hat\eta_{\mathrm{loss}}$"),
    "c_sharp": ("--", r"$\hat\eta_{\mathrm{sharp}}$"),
    "c_barrier": ("-.", r"$\hat\eta_{\mathrm{barrier}}$"),
    "c_max": (":", r"$\hat\eta_{\max}$"),
}


def phases_by_width(
    frame: pd.DataFrame, names: Sequence[str] = ("c_loss", "c_sharp", "c_max"), *, ax: Axes | None = None
) -> Axes:
    r"""Critical constants of early training against one over the width: means and standard deviations over seeds.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns ``width``, ``model``, ``seed`` and the constants, as
        ``nqm_tools.papers.kalra2023a.phases.constants`` gives them, of one depth. A constant that is infinite, because
        nothing happens within the grid, is an arrow at the top.
    names : sequence of str
        Which constants, of ``c_loss``, ``c_sharp``, ``c_barrier``, ``c_max``.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [{"width": w, "model": "f", "seed": s, "c_loss": 2 + (60 + s) / w} for w in (64, 256) for s in (0, 1)]
    >>> ax = phases_by_width(pd.DataFrame(rows), ["c_loss"])
    >>> ax.get_yscale()
    'log'
    """
    check_columns(frame, ("width", "model", "seed", *names))
    unknown = [name for name in names if name not in CONSTANTS]
    if unknown:
        raise ValueError(f"names must be of {', '.join(CONSTANTS)}; got {unknown[0]!r}")
    if ax is None:
        _, ax = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    for i, model in enumerate(models_of(frame)):
        rows = frame[frame["model"] == model]
        for name in names:
            finite = rows[np.isfinite(rows[name])]
            table = finite.groupby("width")[name].agg(["mean", "std"])
            # Models side by side, so that bars do not hide each other.
            x = (1 + 0.05 * i) / table.index
            dash, label = CONSTANTS[name]
            look = {"color": PALETTE.get(model, "0.3"), "marker": MARKERS.get(model, "o"), "markersize": 4}
            look |= {"linestyle": dash, "linewidth": 1.2, "capsize": 2}
            ax.errorbar(x, table["mean"], table["std"].fillna(0), **look, label=f"{label}, {LABELS.get(model, model)}")
            beyond = rows[~np.isfinite(rows[name])]["width"].unique()
            mark = {"color": look["color"], "marker": "^", "linestyle": "none", "transform": ax.get_xaxis_transform()}
            ax.plot((1 + 0.05 * i) / beyond, np.full(len(beyond), 0.97), **mark)
    ax.set(xscale="log", yscale="log", xlabel="width", ylabel=r"$\hat\eta = \eta\,\lambda_{\max}(H_L)$")
    widths = sorted(frame["width"].unique())
    ax.set_xticks([1 / width for width in widths], labels=[f"{width:g}" for width in widths])
    ax.set_xticks([], minor=True)
    ax.set_yticks([2, 3, 5, 10, 20], labels=["2", "3", "5", "10", "20"])
    ax.set_yticks([], minor=True)
    ax.axhline(2, color="0.6", linewidth=0.8)
    return ax
