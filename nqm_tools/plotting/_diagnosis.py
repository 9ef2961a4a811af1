"""The figure of a diagnosis: losses, peaks, what the Taylor models miss, the kernel at the end or what width does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Shaped

from nqm_tools.losses import LOSSES
from nqm_tools.plotting._quantities import against_width
from nqm_tools.plotting._style import LABELS, models_of, styles

if TYPE_CHECKING:
    from nqm_tools._diagnosis import Diagnosis

# A tenth: where a Taylor model is no longer right.
PASSED = 0.1
# A kernel that grows beyond so many times its start has a logarithmic axis.
LINEAR = 4


def diagnosis(found: Diagnosis, *, axes: Shaped[np.ndarray, "2 2"] | None = None) -> Shaped[np.ndarray, "2 2"]:
    """Four panels about a model: loss curves, peaks against the rate, what is missed, and the kernel at the end.

    Parameters
    ----------
    found : Diagnosis
        As :func:`nqm_tools.diagnose` gives it. Where it has widths, the last panel is what is missed against the width.
    axes : array of matplotlib.axes.Axes, optional
        (2, 2).

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If there are no runs to draw, or the axes are not (2, 2).

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> net, data = nqm.networks.two_layer_fc(32), nqm.datasets.load("digits", n_train=8, n_test=0, seed=0)
    >>> diagnosis(nqm.diagnose(net, data, ratios=(1.5,), steps=20))[1, 1].get_title()
    'Where the kernel ends'
    """
    if not len(found.runs):
        raise ValueError("there is nothing to draw: this diagnosis has no runs (print it to see why)")
    if axes is None:
        _, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    if np.shape(axes) != (2, 2):
        raise ValueError(f"axes must have shape (2, 2); got {np.shape(axes)}")
    axes = np.asarray(axes)
    ratio = _shown(found.runs)
    _losses(found, ratio, axes[0, 0])
    _peaks(found, axes[0, 1])
    _missed(found, ratio, axes[1, 0])
    if found.widths is None:
        _kernels(found, axes[1, 1])
    else:
        _widths(found, axes[1, 1])
    return axes


def _shown(runs):
    """The largest rate at which f does not diverge; the smallest if it always does."""
    of_f = runs[runs["model"] == "f"]
    fine = of_f[of_f["regime"] != "divergent"]["ratio"]
    return fine.max() if len(fine) else of_f["ratio"].min()


def _losses(found, ratio, ax):
    rows = found.curves[found.curves["ratio"] == ratio]
    palette, _, _ = styles(models_of(rows))
    lines = {"f": (1, 0), "f_lin": (1, 1), "f_quad": (4, 1.5)}
    runs = found.runs[found.runs["ratio"] == ratio]
    # What diverges leaves the panel.
    kept = runs[(runs["regime"] != "divergent") | (runs["model"] == "f")]["peak_loss"].replace(np.inf, np.nan)
    top = kept.max() if kept.notna().any() else rows["train_loss"].iloc[0]
    for model in models_of(rows):
        run = rows[rows["model"] == model]
        ax.plot(run["step"], run["train_loss"], color=palette[model], dashes=lines[model], label=LABELS[model])
    regime = found.runs.query("model == 'f' and ratio == @ratio")["regime"].iloc[0]
    ax.set(
        yscale="log",
        xlabel="step",
        ylabel=f"training loss ({found.loss})",
        title=f"At {ratio:g} times the critical rate: {regime}",
    )
    low = rows["train_loss"][rows["train_loss"] > 0].min()
    ax.set_ylim(low / 2, 5 * top)
    ax.legend(frameon=False)


def _peaks(found, ax):
    palette, _, markers = styles(models_of(found.runs))
    shown = found.runs.assign(height=found.runs["peak_loss"] / found.runs["first_loss"])
    top = shown.loc[shown["regime"] != "divergent", "height"].max()
    top = 2 * top if np.isfinite(top) else 2.0
    for i, model in enumerate(models_of(shown)):
        rows = shown[shown["model"] == model]
        fine = rows[rows["regime"] != "divergent"]
        style = {"color": palette[model], "marker": markers[model]}
        ax.plot(fine["ratio"], fine["height"], linestyle=":", label=LABELS[model], **style)
        diverged = rows["ratio"][rows["regime"] == "divergent"]
        ax.plot(
            diverged,
            np.full(len(diverged), top * 1.3**-i),
            linestyle="none",
            color=palette[model],
            marker="X",
            markersize=8,
        )
    if len(found.forecast):
        first = found.runs["first_loss"].iloc[0]
        rows = found.forecast[(found.forecast["model"] == "f") & (found.forecast["peak_forecast"] > first)]
        ax.plot(
            rows["ratio"],
            rows["peak_forecast"] / first,
            color="0.3",
            marker="_",
            markersize=14,
            linestyle="none",
            label="leading order",
        )
    if (shown["regime"] == "divergent").any():
        ax.plot([], [], linestyle="none", color="0.4", marker="X", label="diverges")
    ax.axvline(1, color="0.6", linewidth=0.8, zorder=0)
    ax.set(
        yscale="log",
        xlabel=_RATE,
        ylabel="peak of the loss / first loss",
        title="Where each model catapults or diverges",
    )
    ax.legend(frameon=False)


_RATE = r"learning rate / critical learning rate, $\eta/\eta_{\mathrm{crit}}$"


def _missed(found, ratio, ax):
    rows = found.curves.query("model == 'f' and ratio == @ratio and step > 0")
    palette, _, _ = styles(["f"])
    for model in ("f_lin", "f_quad"):
        for inputs, line, width in (("", (1, 0), 1.6), ("_test", (1, 1), 1.2)):
            column = f"missed_by_{model}{inputs}"
            if column in rows and rows[column].notna().any():
                label = f"{LABELS[model]}, {'test' if inputs else 'training'} inputs"
                ax.plot(rows["step"], rows[column], color=palette[model], dashes=line, linewidth=width, label=label)
    if "flipped_gates" in rows and (rows["flipped_gates"] > 0).any():  # guards of a normalisation never flip
        ax.plot(rows["step"], rows["flipped_gates"], color="black", linewidth=1, label="flipped gates")
    ax.axhline(PASSED, color="0.6", linewidth=0.8, zorder=0)
    ax.set(xlabel="step", ylabel="share of the change", title=f"What is missed along f's own run, at {ratio:g}")
    values = rows[[name for name in rows if name.startswith(("missed", "flipped"))]].to_numpy()
    if (values > 0).any():
        ax.set(yscale="log", ylim=(max(1e-5, np.nanmin(values[values > 0]) / 2), 4))
        ax.legend(frameon=False, fontsize="small")


def _kernels(found, ax):
    palette, _, markers = styles(models_of(found.runs))
    start = found.runs["lambda_1_start"].iloc[0]
    for model in models_of(found.runs):
        rows = found.runs[
            (found.runs["model"] == model) & found.runs["lambda_1_end"].notna() & (found.runs["regime"] != "divergent")
        ]
        ax.plot(
            rows["ratio"],
            rows["lambda_1_end"] / start,
            color=palette[model],
            marker=markers[model],
            linestyle=":",
            label=LABELS[model],
        )
    if len(found.forecast):
        ratios = np.linspace(1, found.runs["ratio"].max(), 100)
        ax.plot(ratios, (2 / ratios - 1).clip(0), color="0.3", linewidth=1, label=r"leading order, $2 - \delta$")
    ratios = np.linspace(found.runs["ratio"].min(), max(found.runs["ratio"].max(), 1.01), 200)
    if getattr(LOSSES.get(found.loss), "constant_curvature", None) is not None:  # else the loss's curvature moves, too
        ax.plot(ratios, 1 / ratios, color="0.6", linewidth=0.8, zorder=0, label=r"$\eta$ is critical")
    ends = (found.runs["lambda_1_end"] / start).dropna()
    top = max(1.0, ends.max()) if len(ends) else 1.0
    if top > LINEAR:
        ax.set(yscale="log", ylim=(min(ends[ends > 0].min(), 1 / ratios[-1]) / 1.3, 1.3 * top))
    else:
        ax.set_ylim(0, 1.2 * top)
    ax.set(
        xlabel=_RATE,
        ylabel=r"$\lambda_1$ at the end / at the start",
        title="Where the kernel ends",
    )
    ax.legend(frameon=False)


def _widths(found, ax):
    rows = found.widths[found.widths["quantity"].str.startswith("missed by f_quad") & (found.widths["value"] > 0)]
    when = rows["quantity"].str.removeprefix("missed by f_quad ") + rows["ratio"].map(", at {:g}".format)
    rows = pd.DataFrame({"width": rows["width"], "missed": rows["value"], "when": when})
    counts = rows.groupby("when")["width"].nunique()
    against_width(rows[rows["when"].isin(counts.index[counts > 1])], y="missed", hue="when", ax=ax)
    ax.set(ylabel=r"share of the change that $f_{\mathrm{quad}}$ misses", title="Does width help?")
