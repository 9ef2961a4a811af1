"""The figures. Each takes ``ax=`` and returns it; :func:`save` writes PDF and SVG.

One colour, dash and marker for each model everywhere, of different lightness, so that figures read in grey too.
"""

import itertools
import pathlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from nqm_tools._dynamics_figures import invariant_curves, phase_diagram, trap  # noqa: F401 (public here)
from nqm_tools._validation import check_rate

MODELS = ("f", "f_lin", "f_quad")
LABELS = {
    "f": "network $f$",
    "f_lin": r"linear model $f_{\mathrm{lin}}$",
    "f_quad": r"quadratic model $f_{\mathrm{quad}}$",
}
PALETTE = {"f": "#12355b", "f_lin": "#9aa5b1", "f_quad": "#d1602b"}
DASHES = {"f": "", "f_lin": (1, 1), "f_quad": (4, 1.5)}
MARKERS = {"f": "o", "f_lin": "s", "f_quad": "^"}
_MARKS = "os^DvP"  # for lines that are no models
_LINES = ((1, 0), (4, 1.5), (1, 1), (6, 1.5, 1, 1.5))


def loss_curves(frame, *, column="train_loss", ax=None):
    """A loss against steps, one line for each model and learning rate, on a logarithmic axis.

    Parameters
    ----------
    frame : pandas.DataFrame
        Rows of ``Run.frame``, of one run or of several concatenated.
    column : str
        What to draw: ``train_loss``, ``test_loss``, ...
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    _check_columns(frame, ("model", "learning_rate", "step", column))
    ax = _axes(ax)
    # A diverged run's last values would stretch the axis until nothing else can be seen.
    finite = frame[np.isfinite(frame[column])]
    sns.lineplot(
        finite,
        x="step",
        y=column,
        hue="model",
        style="model",
        units="learning_rate",
        estimator=None,
        palette=PALETTE,
        dashes=DASHES,
        hue_order=[model for model in MODELS if model in set(frame["model"])],
        ax=ax,
    )
    ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.set_ylabel(column.replace("_", " "))
    _name_models(ax)
    return ax


def regimes(frame, critical_learning_rate, *, axes=None):
    """Training loss against steps, one panel a learning rate, titled with its ratio to the critical one.

    Parameters
    ----------
    frame : pandas.DataFrame
        Rows of ``Run.frame`` of all runs.
    critical_learning_rate : float
        In the units of the frame's learning rates.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each learning rate.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes
    """
    _check_columns(frame, ("model", "learning_rate", "step", "train_loss"))
    critical_learning_rate = check_rate("critical_learning_rate", critical_learning_rate)
    rates = sorted(frame["learning_rate"].unique())
    if axes is None:
        _, axes = plt.subplots(1, len(rates), figsize=(4 * len(rates), 3.4), sharey=True, layout="constrained")
    axes = np.atleast_1d(axes)
    if len(axes) != len(rates):
        raise ValueError(f"axes must hold one for each of the {len(rates)} learning rates; got {len(axes)}")
    first = frame.loc[frame["step"] == 0, "train_loss"].max()
    for i, (ax, rate) in enumerate(zip(axes, rates, strict=True)):
        loss_curves(frame[frame["learning_rate"] == rate], ax=ax)
        ax.axhline(first, color="0.7", linewidth=0.8, zorder=0)
        ax.set_title(rf"$\eta = {rate / critical_learning_rate:.3g}\,\eta_{{\mathrm{{crit}}}}$")
        if i:
            ax.get_legend().remove()
    # Beyond that a run has blown up; what remains has room.
    axes[0].set_ylim(top=min(axes[0].get_ylim()[1], 1e4 * first))
    return axes


def best_test_loss(summary, *, ax=None):
    """Best test loss against learning rate: mean over seeds, band of one standard deviation, divergence marked.

    Parameters
    ----------
    summary : pandas.DataFrame
        One row a run with columns ``model``, ``learning_rate_ratio`` (learning rate over critical learning rate),
        ``best_test_loss`` and ``regime``, as ``Run.summary`` gives them.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        A cross at the upper edge stands for a model and rate at which every run diverged, an open marker for one at
        which some did (the mean is then over the others).
    """
    _check_columns(summary, ("model", "learning_rate_ratio", "best_test_loss", "regime"))
    ax = _axes(ax)
    finite = summary[np.isfinite(summary["best_test_loss"])]
    sns.lineplot(
        finite,
        x="learning_rate_ratio",
        y="best_test_loss",
        hue="model",
        style="model",
        errorbar="sd",
        palette=PALETTE,
        dashes=DASHES,
        markers=MARKERS,
        markersize=6,
        hue_order=[model for model in MODELS if model in set(summary["model"])],
        ax=ax,
    )
    diverged = summary["regime"].eq("divergent").groupby([summary["model"], summary["learning_rate_ratio"]]).mean()
    heights = {model: 0.97 - 0.05 * i for i, model in enumerate(MODELS)}
    for (model, ratio), share in diverged[diverged > 0].items():
        ax.plot(
            ratio,
            heights[model],
            marker="X" if share == 1 else "x",
            color=PALETTE[model],
            markersize=8,
            linestyle="none",
            transform=ax.get_xaxis_transform(),
            clip_on=False,
        )
    if (diverged == 1).any():
        ax.plot([], [], marker="X", color="0.4", linestyle="none", label="every run diverges")
    if ((diverged > 0) & (diverged < 1)).any():
        ax.plot([], [], marker="x", color="0.4", linestyle="none", label="some runs diverge")
    ax.axvline(1, color="0.6", linewidth=0.8, zorder=0)
    ax.set_xlabel(r"learning rate / critical learning rate, $\eta/\eta_{\mathrm{crit}}$")
    ax.set_ylabel("best test loss (mean squared error)")
    _name_models(ax)
    return ax


def against_width(frame, *, y, hue="model", ax=None):
    """A quantity against the width: means and a fitted power law for each line, both axes logarithmic.

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
    """
    exponents = width_exponents(frame, y=y, hue=hue)
    ax = _axes(ax)
    for i, (name, exponent) in enumerate(exponents.items()):
        means = frame[frame[hue] == name].groupby("width")[y].mean()
        color = PALETTE.get(name, list(PALETTE.values())[i % len(PALETTE)])
        marker = MARKERS.get(name, _MARKS[i % len(_MARKS)])
        log_width = np.log(means.index.to_numpy())
        fit = np.exp(np.log(means).mean() + exponent * (log_width - log_width.mean()))
        ax.plot(means.index, fit, color=color, linewidth=1)
        label = rf"{LABELS.get(name, name)}: $\propto m^{{{exponent:.2f}}}$"
        ax.plot(means.index, means, color=color, marker=marker, linestyle="none", label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("width $m$")
    ax.set_ylabel(y.replace("_", " "))
    ax.legend(frameon=False)
    return ax


def width_exponents(frame, *, y, hue="model"):
    """The exponents a in ``y ~ width^a``, by least squares on the logarithms of the means of each width.

    Arguments as in :func:`against_width`; returns a pandas.Series, one entry for each value of ``hue``.
    """
    _check_columns(frame, ("width", y, hue), labels=(hue,))
    if not (np.isfinite(frame[y]).all() and (frame[y] > 0).all() and (frame["width"] > 0).all()):
        raise ValueError(f"width and {y} must be positive and finite: both axes are logarithmic")
    exponents = {}
    for name, rows in frame.groupby(hue, sort=False):
        means = rows.groupby("width")[y].mean()
        if len(means) < 2:
            raise ValueError(f"at least two widths are needed for an exponent; {name} has {len(means)}")
        exponents[name] = np.polyfit(np.log(means.index), np.log(means), 1)[0]
    return pd.Series(exponents)


def decay_factors(frame, eigenvalues, *, ax=None):
    """How much a step of gradient descent shrinks each eigenvector's part of a linear model's residual.

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
    """
    _check_columns(frame, ("learning_rate", "index", "factor"))
    eigenvalues = np.asarray(eigenvalues, dtype=float)
    if eigenvalues.ndim != 1 or not (eigenvalues > 0).all():
        raise ValueError(f"eigenvalues must be a sequence of positive numbers; got {eigenvalues}")
    unknown = set(frame["index"]) - set(range(1, len(eigenvalues) + 1))
    if unknown:
        raise ValueError(f"index must be 1 to {len(eigenvalues)}, the number of eigenvalues; got {sorted(unknown)}")
    ax = _axes(ax)
    rates = np.linspace(0, 1.05 * frame["learning_rate"].max(), 400)
    colors = sns.light_palette(PALETTE["f"], len(eigenvalues) + 2)[:1:-1]
    for i, (eigenvalue, color) in enumerate(zip(eigenvalues, colors, strict=True), start=1):
        measured = frame[frame["index"] == i]
        ax.plot(rates, np.abs(1 - rates * eigenvalue), color=color)
        label = rf"$\lambda_{{{i}}} = {eigenvalue:.2g}$"
        ax.plot(measured["learning_rate"], measured["factor"], _MARKS[(i - 1) % len(_MARKS)], color=color, label=label)
    ax.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    ax.axvline(2 / eigenvalues[0], color="0.6", linewidth=0.8, zorder=0)
    ax.set_xlabel(r"learning rate $\eta$ (for the loss half_sum)")
    ax.set_ylabel(r"factor per step, $|1 - \eta \lambda_i|$")
    ax.legend(frameon=False)
    return ax


def loss_and_eigenvalues(frame, *, unstable=2.0, axes=None):
    """Training loss above, eigenvalues of the tangent kernel below, against steps; one column a learning rate.

    Parameters
    ----------
    frame : pandas.DataFrame
        Rows of one model with columns ``learning_rate``, ``step``, ``train_loss``, ``lambda_1``, ``lambda_2``, ...
        Values that are not finite are left out.
    unstable : float
        The line ``unstable / learning_rate``: a linear model diverges along the eigenvectors above it. 2 for rates of
        ``half_sum``, n for rates of ``mse``.
    axes : array of matplotlib.axes.Axes, optional
        (2, number of learning rates).

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes
    """
    eigenvalues = [column for column in getattr(frame, "columns", ()) if str(column).startswith("lambda_")]
    _check_columns(frame, ("model", "learning_rate", "step", "train_loss", *(eigenvalues or ["lambda_1"])))
    unstable = check_rate("unstable", unstable)
    if frame["model"].nunique() > 1:
        raise ValueError(f"frame must hold one model; got {sorted(frame['model'].unique())}")
    rates = sorted(frame["learning_rate"].unique())
    if axes is None:
        size = {"figsize": (4 * len(rates), 5), "layout": "constrained"}
        _, axes = plt.subplots(2, len(rates), sharex=True, sharey="row", squeeze=False, **size)
    if np.shape(axes) != (2, len(rates)):
        raise ValueError(f"axes must have shape {(2, len(rates))}; got {np.shape(axes)}")
    colors = sns.light_palette(PALETTE[frame["model"].iloc[0]], len(eigenvalues) + 1)[:0:-1]
    for (above, below), rate in zip(np.transpose(axes), rates, strict=True):
        rows = frame[frame["learning_rate"] == rate]
        loss_curves(rows, ax=above).get_legend().remove()
        for i, (column, color) in enumerate(zip(eigenvalues, colors, strict=True)):
            known = rows[np.isfinite(rows[column])]
            label = rf"$\lambda_{{{column.removeprefix('lambda_')}}}$"
            below.plot(known["step"], known[column], color=color, dashes=_LINES[i % len(_LINES)], label=label)
        below.axhline(unstable / rate, color="0.5", linestyle=":", label=rf"${unstable:g}/\eta$")
        above.set(title=rf"$\eta = {rate:.3g}$", xlabel="")
        below.set(xlabel="step", ylim=(0, None))
    for ax in np.ravel(np.asarray(axes)[:, 1:]):
        ax.set_ylabel("")
    axes[1][0].set_ylabel("eigenvalues of the kernel")
    axes[1][0].legend(frameon=False)
    return np.asarray(axes)


def lines(frame, *, y, hue, x="step", ax=None):
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
    """
    _check_columns(frame, (x, y, hue), labels=(hue,))
    ax = _axes(ax)
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
        palette=sns.blend_palette((PALETTE["f"], PALETTE["f_quad"], "#e6b380"), len(names)),
        markers=dict(zip(names, itertools.cycle(_MARKS), strict=False)) if finite[x].nunique() <= 40 else False,
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


def examples(data, *, rows=1, columns=10, axes=None):
    """The first training images with their labels.

    Parameters
    ----------
    data : Data
        With images (n, height, width, channels); the first channel is drawn.
    rows, columns : int
    axes : sequence of matplotlib.axes.Axes, optional
        ``rows * columns`` of them.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes
    """
    if data.x_train.ndim != 4:
        raise ValueError(f"data must hold images (n, height, width, channels); got shape {data.x_train.shape}")
    if axes is None:
        _, axes = plt.subplots(rows, columns, figsize=(columns, 1.2 * rows), layout="constrained")
    axes = np.ravel(axes)
    for ax, image, label in zip(axes, data.x_train, data.y_train[:, 0], strict=False):
        ax.imshow(image[..., 0], cmap="gray_r")
        ax.set_title(f"{label:+.0f}")
    for ax in axes:
        ax.set_axis_off()
    return axes


def save(ax, path):
    """Write the figure that ``ax`` belongs to as ``path.pdf`` and ``path.svg``; returns both paths."""
    path = pathlib.Path(path)
    if path.suffix in (".pdf", ".svg"):
        path = path.with_suffix("")
    paths = [path.with_name(path.name + suffix) for suffix in (".pdf", ".svg")]
    for target in paths:
        np.ravel(ax)[0].figure.savefig(target, bbox_inches="tight")
    return paths


def _axes(ax):
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
    return ax


def _name_models(ax):
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles, [LABELS.get(label, label) for label in labels], frameon=False)


def _check_columns(frame, needed, labels=("model", "regime")):
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"frame must be a pandas DataFrame; got {type(frame).__name__}")
    missing = [column for column in needed if column not in frame.columns]
    if missing or frame.empty:
        raise ValueError(f"frame must have rows with columns {', '.join(needed)}; missing: {missing or 'rows'}")
    text = [column for column in needed if column not in labels and frame[column].dtype.kind not in "fiu"]
    if text:
        raise ValueError(f"columns must hold numbers; {', '.join(text)} does not")
    unknown = set(frame["model"]) - set(MODELS) if "model" in needed else None
    if unknown:
        raise ValueError(f"models must be among {MODELS}; got {sorted(unknown)}")
