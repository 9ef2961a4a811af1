"""Figures of one quantity against another: against the width, the learning rate, or any column."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import ArrayLike, Real
from matplotlib.axes import Axes

from nqm_tools.plotting._style import LABELS, MARKERS, MARKS, PALETTE, check_columns, new_axes


def against_width(frame: pd.DataFrame, *, y: str, hue: str = "model", ax: Axes | None = None) -> Axes:
    r"""A quantity against the width: means and a fitted power law for each line, both axes logarithmic.

    Parameters
    ----------
    frame : pandas.DataFrame
        Rows with columns ``width``, ``y`` and ``hue``; several rows of a width and line are averaged.
    y : str
        The column to draw; positive.
    hue : str
        The column that tells the lines apart: models, or any labels (in the order of the rows).
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        The legend gives each line's exponent, as :func:`width_exponents` has it.

    Examples
    --------
    >>> frame = pd.DataFrame({"width": [10, 100, 1000], "distance": [1.0, 0.1, 0.01], "model": "f"})
    >>> ax = against_width(frame, y="distance")
    >>> ax.get_legend().get_texts()[0].get_text()
    'network $f$: $\\propto m^{-1.00}$'
    """
    exponents = width_exponents(frame, y=y, hue=hue)
    ax = new_axes(ax)
    shades = _shades(len(exponents))
    for i, (name, exponent) in enumerate(exponents.items()):
        means = frame[frame[hue] == name].groupby("width")[y].mean()
        color = PALETTE.get(name, shades[i])
        marker = MARKERS.get(name, MARKS[i % len(MARKS)])
        log_width = np.log(means.index.to_numpy())
        fit = np.exp(np.log(means).mean() + exponent * (log_width - log_width.mean()))
        ax.plot(means.index, fit, color=color, linewidth=1)
        label = rf"{LABELS.get(name, name)}: $\propto m^{{{exponent:.2f}}}$"
        ax.plot(means.index, means, color=color, marker=marker, linestyle="none", label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    # The decades' own labels run into each other over one or two decades.
    widths = sorted(frame["width"].unique())
    ax.set_xticks(widths, labels=[f"{width:,.0f}" for width in widths])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("width $m$")
    ax.set_ylabel(y.replace("_", " "))
    ax.legend(frameon=False)
    return ax


def _shades(count):
    """Colours of lines that are no models, no two alike; the last one, often what a figure is about, is the darkest."""
    return sns.blend_palette(("#c98f1d", PALETTE["f_quad"], PALETTE["f"]), count)


def width_exponents(frame: pd.DataFrame, *, y: str, hue: str = "model") -> pd.Series:
    """The exponents a in ``y ~ width^a``, by least squares on the logarithms of the means of each width.

    Arguments as in :func:`against_width`; returns a pandas.Series, one entry for each value of ``hue``.

    Examples
    --------
    >>> frame = pd.DataFrame({"width": [10, 100, 1000], "distance": [1.0, 0.1, 0.01], "model": "f"})
    >>> width_exponents(frame, y="distance").round(3).to_dict()
    {'f': -1.0}
    """
    check_columns(frame, ("width", y, hue), labels=(hue,))
    if not (np.isfinite(frame[y]).all() and (frame[y] > 0).all() and (frame["width"] > 0).all()):
        raise ValueError(f"width and {y} must be positive and finite: both axes are logarithmic")
    exponents = {}
    for name, rows in frame.groupby(hue, sort=False):
        means = rows.groupby("width")[y].mean()
        if len(means) < 2:
            raise ValueError(f"at least two widths are needed for an exponent; {name} has {len(means)}")
        exponents[name] = np.polyfit(np.log(means.index), np.log(means), 1)[0]
    return pd.Series(exponents)


def decay_factors(
    frame: pd.DataFrame, eigenvalues: Sequence[float] | Real[ArrayLike, " k"], *, ax: Axes | None = None
) -> Axes:
    r"""How much a step of gradient descent shrinks each eigenvector's part of a linear model's residual.

    Parameters
    ----------
    frame : pandas.DataFrame
        Measured: rows with columns ``learning_rate`` (of ``half_sum``), ``index`` (1 for the first eigenvalue) and
        ``factor``.
    eigenvalues : sequence of float
        Of the tangent kernel, largest first, all positive; lines ``|1 - learning_rate * eigenvalue|``.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> frame = pd.DataFrame({"learning_rate": [0.1, 0.5], "index": [1, 1], "factor": [0.6, 1.0]})
    >>> ax = decay_factors(frame, [4.0, 1.0])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['$\\lambda_{1} = 4$', '$\\lambda_{2} = 1$']
    """
    check_columns(frame, ("learning_rate", "index", "factor"))
    eigenvalues = np.asarray(eigenvalues, dtype=float)
    if eigenvalues.ndim != 1 or not (eigenvalues > 0).all():
        raise ValueError(f"eigenvalues must be a sequence of positive numbers; got {eigenvalues}")
    unknown = set(frame["index"]) - set(range(1, len(eigenvalues) + 1))
    if unknown:
        raise ValueError(f"index must be 1 to {len(eigenvalues)}, the number of eigenvalues; got {sorted(unknown)}")
    ax = new_axes(ax)
    rates = np.linspace(0, 1.05 * frame["learning_rate"].max(), 400)
    colors = sns.light_palette(PALETTE["f"], len(eigenvalues) + 2)[:1:-1]
    for i, (eigenvalue, color) in enumerate(zip(eigenvalues, colors, strict=True), start=1):
        measured = frame[frame["index"] == i]
        ax.plot(rates, np.abs(1 - rates * eigenvalue), color=color)
        label = rf"$\lambda_{{{i}}} = {eigenvalue:.2g}$"
        ax.plot(measured["learning_rate"], measured["factor"], MARKS[(i - 1) % len(MARKS)], color=color, label=label)
    ax.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    ax.axvline(2 / eigenvalues[0], color="0.6", linewidth=0.8, zorder=0)
    ax.set_xlabel(r"learning rate $\eta$ (for the loss half_sum)")
    ax.set_ylabel(r"factor per step, $|1 - \eta \lambda_i|$")
    ax.legend(frameon=False)
    return ax


def lines(frame: pd.DataFrame, *, y: str, hue: str, x: str = "step", ax: Axes | None = None) -> Axes:
    """One quantity against another, one line for each value of a varied parameter, from dark to light.

    Parameters
    ----------
    frame : pandas.DataFrame
        Rows with columns ``x``, ``y`` and ``hue``; several rows of a line and ``x`` are averaged, with a band of one
        standard deviation. Values that are not finite are left out.
    y : str
        The column to draw; on a logarithmic axis if it is a loss.
    hue : str
        The column that tells the lines apart, and the legend's title: numbers (drawn in ascending order) or any labels
        (in the order of the rows).
    x : str
        The horizontal axis.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> frame = pd.DataFrame({"step": [0, 1, 0, 1], "loss": [1.0, 0.5, 1.0, 0.1], "width": [10, 10, 100, 100]})
    >>> ax = lines(frame, y="loss", hue="width")
    >>> [text.get_text() for text in ax.get_legend().get_texts()], ax.get_yscale()
    (['10', '100'], 'log')
    """
    check_columns(frame, (x, y, hue), labels=(hue,))
    ax = new_axes(ax)
    values = frame[hue].unique()
    if frame[hue].dtype.kind in "fiu":
        values = np.sort(values)
    finite = frame[np.isfinite(frame[y])].assign(**{hue: frame[hue].map(_label)})
    names = [_label(value) for value in values]
    sns.lineplot(
        finite,
        x=x,
        y=y,
        hue=hue,
        style=hue,
        hue_order=names,
        style_order=names,
        palette=_shades(len(names)),
        markers=dict(zip(names, itertools.cycle(MARKS), strict=False)) if finite[x].nunique() <= 40 else False,
        errorbar="sd",
        ax=ax,
    )
    if "loss" in y:
        ax.set_yscale("log")
    ax.set_xlabel(x.replace("_", " "))
    ax.set_ylabel(y.replace("_", " "))
    ax.get_legend().set_frame_on(False)
    return ax


def _label(value):
    return f"{value:g}" if isinstance(value, float) else str(value)
