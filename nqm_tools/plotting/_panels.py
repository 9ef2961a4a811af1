"""Figures of best test losses and accuracies against the learning rate, one panel a setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Shaped
from matplotlib.axes import Axes

from nqm_tools.plotting._style import LABELS, check_columns, models_of, name_models, new_axes, styles

CRITICAL = r"\eta_{\mathrm{crit}}"


def best_test_loss(summary: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Best test loss against learning rate: mean over seeds, band of one standard deviation, divergence marked.

    Parameters
    ----------
    summary : pandas.DataFrame
        One row a run with columns ``model``, ``best_test_loss``, ``regime`` and ``learning_rate_ratio`` (learning rate
        over critical learning rate), as :func:`nqm_tools.sweeps.load` gives them; or ``learning_rate`` in place of the
        ratio, as in ``pandas.DataFrame([run.summary, ...])``.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        A cross at the upper edge stands for a model and rate at which every run diverged, an open marker for one at
        which some did (the mean is then over the others).

    Examples
    --------
    >>> summary = pd.DataFrame({"model": "f", "learning_rate_ratio": [0.5, 1.5], "regime": ["monotone", "catapult"]})
    >>> ax = best_test_loss(summary.assign(best_test_loss=[0.4, 0.3]))
    >>> ax.get_ylabel()
    'best test loss (mean squared error)'
    """
    ax = _against_rate(summary, "best_test_loss", [0.97, 0.92, 0.87], ax)
    ax.set_ylabel("best test loss (mean squared error)")
    return ax


def best_test_accuracy(summary: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Best test accuracy against learning rate, as :func:`best_test_loss` draws losses; crosses at the lower edge.

    Parameters
    ----------
    summary : pandas.DataFrame
        As for :func:`best_test_loss`, with the column ``best_test_accuracy``.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> summary = pd.DataFrame({"model": "f", "learning_rate_ratio": [0.5, 1.5], "regime": ["monotone", "catapult"]})
    >>> ax = best_test_accuracy(summary.assign(best_test_accuracy=[0.9, 0.95]))
    >>> ax.get_ylabel()
    'best test accuracy'
    """
    ax = _against_rate(summary, "best_test_accuracy", [0.03, 0.08, 0.13], ax)
    ax.set_ylabel("best test accuracy")
    return ax


def _against_rate(summary, column, heights, ax):
    """Means and bands of ``column``; the models' marks of divergence at ``heights``, as shares of the axis."""
    in_units = "learning_rate_ratio" in summary or "learning_rate" not in summary
    rate = "learning_rate_ratio" if in_units else "learning_rate"
    check_columns(summary, ("model", rate, column, "regime"))
    ax = new_axes(ax)
    models = models_of(summary)
    palette, dashes, markers = styles(models)
    sns.lineplot(
        summary[np.isfinite(summary[column])],
        x=rate,
        y=column,
        hue="model",
        style="model",
        errorbar="sd",
        palette=palette,
        dashes=dashes,
        markers=markers,
        markersize=6,
        hue_order=models,
        ax=ax,
    )
    diverged = summary["regime"].eq("divergent").groupby([summary["model"], summary[rate]]).mean()
    for (model, ratio), share in diverged[diverged > 0].items():
        ax.plot(
            ratio,
            heights[models.index(model) % len(heights)],
            marker="X" if share == 1 else "x",
            color=palette[model],
            markersize=8,
            linestyle="none",
            transform=ax.get_xaxis_transform(),
            clip_on=False,
        )
    if (diverged == 1).any():
        ax.plot([], [], marker="X", color="0.4", linestyle="none", label="every run diverges")
    if ((diverged > 0) & (diverged < 1)).any():
        ax.plot([], [], marker="x", color="0.4", linestyle="none", label="some runs diverge")
    if in_units:
        ax.axvline(1, color="0.6", linewidth=0.8, zorder=0)
        ax.set_xlabel(rf"learning rate / critical learning rate, $\eta/{CRITICAL}$")
    else:
        ax.set_xlabel(r"learning rate $\eta$")
    name_models(ax)
    return ax


def single_runs(summary: pd.DataFrame, *, column: str = "best_test_loss", ax: Axes | None = None) -> Axes:
    """Runs one by one, as hollow markers, to be compared with the curves that ``ax`` has.

    Parameters
    ----------
    summary : pandas.DataFrame
        One row a run with columns ``model``, ``learning_rate_ratio`` and ``column``. Diverged runs are left out.
    column : str
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> summary = pd.DataFrame({"model": ["f", "f_quad"], "learning_rate_ratio": 1.5, "best_test_loss": [0.3, 0.32]})
    >>> ax = single_runs(summary)
    >>> len(ax.lines)
    2
    """
    check_columns(summary, ("model", "learning_rate_ratio", column))
    ax = new_axes(ax)
    palette, _, markers = styles(models_of(summary))
    for model, rows in summary[np.isfinite(summary[column])].groupby("model"):
        style = {"color": palette[model], "marker": markers[model], "markerfacecolor": "white", "zorder": 4}
        ax.plot(rows["learning_rate_ratio"], rows[column], linestyle="none", markersize=9, **style)
    return ax


def panels(
    summaries: Mapping[str, pd.DataFrame | str],
    *,
    draw: Callable[..., Axes] = best_test_loss,
    columns: int = 3,
    axes: Sequence[Axes] | None = None,
) -> Shaped[np.ndarray, " settings"]:
    """One panel a setting, each with its size and the steps of its best test losses; one legend for all.

    Parameters
    ----------
    summaries : dict
        Titles and, for each, the rows of its runs as :func:`nqm_tools.sweeps.load` gives them, or a text that says why
        there are none: such a setting has no panel, and is named below the others with that text.
    draw : callable
        :func:`best_test_loss` or :func:`best_test_accuracy`.
    columns : int
    axes : sequence of matplotlib.axes.Axes, optional
        One for each setting that has rows.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes
        One for each setting that has rows.

    Raises
    ------
    ValueError
        If no setting has rows, or there are more or fewer axes than settings that have.

    Examples
    --------
    >>> summary = pd.DataFrame({"model": "f", "learning_rate_ratio": [0.5, 1.5], "regime": ["monotone", "catapult"]})
    >>> summary = summary.assign(best_test_loss=[0.4, 0.3], best_step=[50, 40])
    >>> summary = summary.assign(seed=0, n_train=100, width=1000, steps=50)
    >>> axes = panels({"digits": summary, "svhn2": "its data set is unavailable"})
    >>> [ax.get_title() for ax in axes]
    ['digits']
    """
    missing = {title: reason for title, reason in summaries.items() if isinstance(reason, str)}
    summaries = {title: summary for title, summary in summaries.items() if title not in missing}
    if not summaries:
        raise ValueError(f"no setting has rows: {', '.join(f'{t} ({reason})' for t, reason in missing.items())}")
    if axes is None:
        columns = min(columns, len(summaries))
        rows = -(-len(summaries) // columns)
        _, grid = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.7 * rows), squeeze=False, layout="constrained")
        axes = grid.ravel()[: len(summaries)]
        for ax in grid.ravel()[len(summaries) :]:
            ax.set_axis_off()
    axes = np.ravel(axes)
    if len(axes) != len(summaries):
        raise ValueError(f"axes must hold one for each of the {len(summaries)} settings; got {len(axes)}")
    legend, labelled = {}, set()
    for i, (ax, (title, summary)) in enumerate(zip(axes, summaries.items(), strict=True)):
        draw(summary, ax=ax)
        handles = ax.get_legend_handles_labels()[0]
        legend |= dict(zip([text.get_text() for text in ax.get_legend().get_texts()], handles, strict=True))
        ax.get_legend().remove()
        ax.set_title(title, fontsize="medium")
        ax.set_xlabel(rf"$\eta/{CRITICAL}$" + f"\n{describe(summary)}", fontsize="small")
        if i // columns in labelled:  # once in a row of panels
            ax.set_ylabel("")
        labelled.add(i // columns)
    arguments = {"loc": "outside lower center", "ncols": len(legend), "frameon": False}
    if missing:
        reasons = ", ".join(f"{title} ({reason})" for title, reason in missing.items())
        arguments |= {"title": f"no panel: {reasons}", "title_fontsize": "small"}
    axes[0].figure.legend(legend.values(), legend.keys(), **arguments)
    return axes


def describe(summary: pd.DataFrame) -> str:
    """What a panel shows, in two lines: examples, width, steps and seeds; the steps of the best test losses.

    Parameters
    ----------
    summary : pandas.DataFrame
        Rows as :func:`nqm_tools.sweeps.load` gives them, of one setting; with a column ``images``, such as
        ``"recovered"``, where they are not the publisher's.

    Returns
    -------
    str

    Examples
    --------
    >>> summary = pd.DataFrame({"model": "f", "seed": [0, 1], "n_train": 100, "width": 1000, "steps": 50})
    >>> print(describe(summary.assign(learning_rate_ratio=1.5, best_step=[40, 45])))
    $n$ = 100, $m$ = 1,000, 50 steps, 2 seeds
    best loss at step 40 to 45 above
    """
    check_columns(summary, ("model", "seed", "n_train", "width", "steps", "learning_rate_ratio", "best_step"))
    seeds = summary.groupby("model")["seed"].nunique()
    most = int(seeds.max())
    texts = [
        f"$n$ = {_range(summary['n_train'])}",
        f"$m$ = {_range(summary['width'])}",
        f"{_range(summary['steps'])} steps",
        f"{most} seed{'s' if most > 1 else ''}",
    ]
    texts += [f"{images} images" for images in summary["images"].unique()] if "images" in summary else []
    texts += [f"{count} of {LABELS.get(model, model).split()[-1]}" for model, count in seeds.items() if count < most]
    below = summary["learning_rate_ratio"] < 1
    steps = {f"below ${CRITICAL}$": summary["best_step"][below], "above": summary["best_step"][~below]}
    found = [f"{_range(values)} {where}" for where, values in steps.items() if values.notna().any()]
    return ", ".join(texts) + "\n" + ("best loss at step " + ", ".join(found) if found else "every run diverges")


def _range(values):
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
