"""Figures of runs: losses, regimes, eigenvalues along a run, and the images trained on."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Shaped
from matplotlib.axes import Axes

from nqm_tools._validation import check_rate
from nqm_tools.datasets import Data
from nqm_tools.plotting._style import LINES, check_columns, models_of, name_models, new_axes, styles


def loss_curves(frame: pd.DataFrame, *, column: str = "train_loss", ax: Axes | None = None) -> Axes:
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

    Examples
    --------
    >>> frame = pd.DataFrame({"model": "f_quad", "learning_rate": 0.5, "step": [0, 1, 2]})
    >>> ax = loss_curves(frame.assign(train_loss=[1.0, 3.0, 0.1]))
    >>> ax.get_ylabel(), ax.get_yscale()
    ('train loss', 'log')
    """
    check_columns(frame, ("model", "learning_rate", "step", column))
    ax = new_axes(ax)
    # A diverged run's last values would stretch the axis until nothing else can be seen.
    finite = frame[np.isfinite(frame[column])]
    models = models_of(frame)
    palette, dashes, _ = styles(models)
    sns.lineplot(
        finite,
        x="step",
        y=column,
        hue="model",
        style="model",
        units="learning_rate",
        estimator=None,
        palette=palette,
        dashes=dashes,
        hue_order=models,
        ax=ax,
    )
    ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.set_ylabel(column.replace("_", " "))
    name_models(ax)
    return ax


def regimes(
    frame: pd.DataFrame, critical_learning_rate: float, *, axes: Sequence[Axes] | None = None
) -> Shaped[np.ndarray, " rates"]:
    r"""Training loss against steps, one panel a learning rate, titled with its ratio to the critical one.

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

    Examples
    --------
    >>> frame = pd.DataFrame({"model": "f", "learning_rate": [0.5, 0.5, 2.0, 2.0], "step": [0, 1, 0, 1]})
    >>> axes = regimes(frame.assign(train_loss=[1.0, 0.5, 1.0, 4.0]), critical_learning_rate=1.0)
    >>> [ax.get_title() for ax in axes]
    ['$\\eta = 0.5\\,\\eta_{\\mathrm{crit}}$', '$\\eta = 2\\,\\eta_{\\mathrm{crit}}$']
    """
    check_columns(frame, ("model", "learning_rate", "step", "train_loss"))
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


def loss_and_eigenvalues(
    frame: pd.DataFrame, *, unstable: float = 2.0, axes: Shaped[np.ndarray, "2 rates"] | None = None
) -> Shaped[np.ndarray, "2 rates"]:
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

    Examples
    --------
    >>> frame = pd.DataFrame({"model": "f", "learning_rate": 0.5, "step": [0, 1], "train_loss": [1.0, 2.0]})
    >>> axes = loss_and_eigenvalues(frame.assign(lambda_1=[4.0, 3.0], lambda_2=[1.0, 1.0]))
    >>> axes.shape
    (2, 1)
    """
    eigenvalues = [column for column in getattr(frame, "columns", ()) if str(column).startswith("lambda_")]
    check_columns(frame, ("model", "learning_rate", "step", "train_loss", *(eigenvalues or ["lambda_1"])))
    unstable = check_rate("unstable", unstable)
    if frame["model"].nunique() > 1:
        raise ValueError(f"frame must hold one model; got {sorted(frame['model'].unique())}")
    rates = sorted(frame["learning_rate"].unique())
    if axes is None:
        size = {"figsize": (4 * len(rates), 5), "layout": "constrained"}
        _, axes = plt.subplots(2, len(rates), sharex=True, sharey="row", squeeze=False, **size)
    if np.shape(axes) != (2, len(rates)):
        raise ValueError(f"axes must have shape {(2, len(rates))}; got {np.shape(axes)}")
    palette, _, _ = styles(models_of(frame))
    # Two shades more than lines: the palest would not be seen on a wall.
    colors = sns.light_palette(palette[frame["model"].iloc[0]], len(eigenvalues) + 2)[:1:-1]
    for (above, below), rate in zip(np.transpose(axes), rates, strict=True):
        rows = frame[frame["learning_rate"] == rate]
        loss_curves(rows, ax=above).get_legend().remove()
        for i, (column, color) in enumerate(zip(eigenvalues, colors, strict=True)):
            known = rows[np.isfinite(rows[column])]
            label = rf"$\lambda_{{{column.removeprefix('lambda_')}}}$"
            below.plot(known["step"], known[column], color=color, dashes=LINES[i % len(LINES)], label=label)
        below.axhline(unstable / rate, color="0.5", linestyle=":", label=rf"${unstable:g}/\eta$")
        above.set(title=rf"$\eta = {rate:.3g}$", xlabel="")
        below.set(xlabel="step", ylim=(0, None))
    for ax in np.ravel(np.asarray(axes)[:, 1:]):
        ax.set_ylabel("")
    axes[1][0].set_ylabel("eigenvalues of the kernel")
    axes[1][0].legend(frameon=False)
    return np.asarray(axes)


def examples(
    data: Data, *, rows: int = 1, columns: int = 10, axes: Sequence[Axes] | None = None
) -> Shaped[np.ndarray, " panels"]:
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

    Examples
    --------
    >>> from nqm_tools.datasets import load
    >>> axes = examples(load("digits", n_train=3, n_test=0, seed=0), columns=3)
    >>> [ax.get_title() for ax in axes]
    ['+1', '+1', '-1']
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
