"""Figures of the top eigendirections along a run: the spike of the loss, and the corrections of the kernel."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nqm_tools._validation import check_whole
from nqm_tools.plotting._style import LINES, check_columns, models_of, new_axes, styles


def spike(frame: pd.DataFrame, *, examples: int, directions: int = 1, ax: Axes | None = None) -> Axes:
    """The training loss of one run, and how much of it lies along the first eigenvectors of the kernel at each step.

    Parameters
    ----------
    frame : pandas.DataFrame
        Rows of one run on the loss ``mse``, with columns ``model``, ``step``, ``train_loss`` and ``projection_1``, ...
    examples : int
        The number n of training examples: the loss along ``p_i`` is ``projection_i^2 / n``.
    directions : int
        How many eigenvectors.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> frame = pd.DataFrame({"model": "f", "step": [0, 1, 2], "train_loss": [1.0, 4.0, 0.5]})
    >>> ax = spike(frame.assign(projection_1=[1.0, 3.9, 0.1]), examples=4)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['whole loss', 'along $p_1$']
    """
    examples, directions = check_whole("examples", examples), check_whole("directions", directions)
    projections = [f"projection_{i + 1}" for i in range(directions)]
    _check_one_run(frame, ("train_loss", *projections))
    ax = new_axes(ax)
    ax.plot(frame["step"], frame["train_loss"], color="0.75", linewidth=4, label="whole loss")
    palette, _, _ = styles(models_of(frame))
    for i, name in enumerate(projections):
        style = {"color": palette[frame["model"].iloc[0]], "dashes": LINES[i], "alpha": 1 - 0.4 * (i > 0)}
        ax.plot(frame["step"], frame[name] ** 2 / examples, label=f"along $p_{i + 1}$", **style)
    # Below the end of the run nothing is to be seen but rounding.
    ax.set(yscale="log", ylim=(frame["train_loss"].min() / 10, None), xlabel="step", ylabel="train loss")
    ax.legend(frameon=False)
    return ax


def corrections(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """What a step changes along the top eigenvector beyond the linear model: ``p_1^T R_f p_1`` and ``p_1^T R_K p_1``.

    Parameters
    ----------
    frame : pandas.DataFrame
        Rows of one run with columns ``model``, ``step``, ``R_f`` and ``R_K``.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        Absolute values on a logarithmic axis; positive ones filled, negative ones hollow.

    Examples
    --------
    >>> frame = pd.DataFrame({"model": "f", "step": [0, 1], "R_f": [0.1, 0.2], "R_K": [0.5, -0.1]})
    >>> ax = corrections(frame)
    >>> len(ax.get_legend().get_texts())
    3
    """
    _check_one_run(frame, ("R_f", "R_K"))
    ax = new_axes(ax)
    palette, _, _ = styles(models_of(frame))
    color = palette[frame["model"].iloc[0]]
    for name, marker, line in (("R_K", "o", (1, 0)), ("R_f", "^", (4, 1.5))):
        values = frame[name].to_numpy()
        ax.plot(frame["step"], np.abs(values), color=color, dashes=line, linewidth=0.8)
        for chosen, face, label in (
            (values > 0, color, rf"$p_1^\top {name} p_1 > 0$"),
            (values < 0, "white", rf"$p_1^\top {name} p_1 < 0$"),
        ):
            style = {"color": color, "markerfacecolor": face, "marker": marker, "markersize": 4, "linestyle": "none"}
            if chosen.any():
                ax.plot(frame["step"][chosen], np.abs(values[chosen]), label=label, **style)
    ax.set(yscale="log", xlabel="step", ylabel="correction along $p_1$")
    ax.legend(frameon=False)
    return ax


def _check_one_run(frame, columns):
    check_columns(frame, ("model", "step", *columns))
    if frame["step"].duplicated().any():
        raise ValueError("frame must hold one run; a step is there twice")
