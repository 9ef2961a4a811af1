"""Figures of the dimensionless dynamics; public through :mod:`nqm_tools.plotting`."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import ArrayLike, Real
from matplotlib.axes import Axes

from nqm_tools.dynamics import adiabatic_invariant, isolated_equilibria, stable_interval

DIVERGENT = "#c9c9c9"
STABLE, UNSTABLE = "#2a7f62", "#7b4f8c"


def phase_diagram(
    v0: Real[ArrayLike, " a"], heights: Real[ArrayLike, " b"], final: Real[ArrayLike, "b a"], *, ax: Axes | None = None
) -> Axes:
    r"""Where runs end, for every initial state: the final ``v`` as colour, divergence grey.

    Parameters
    ----------
    v0 : array
        (a,) values of ``v0 = eta lambda0``, the horizontal axis.
    heights : array
        (b,) values of the vertical axis.
    final : array
        (b, a) final ``v``; NaN where runs diverge, negative where no network can start (left white).
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> ax = phase_diagram(v0=[1.0, 2.5, 4.5], heights=[0.0, 1.0], final=[[1.0, 1.28, np.nan], [0.9, 1.1, np.nan]])
    >>> ax.get_xlabel()
    '$v_0 = \\eta\\lambda_0$'
    """
    final = np.asarray(final)
    if final.shape != (len(heights), len(v0)):
        raise ValueError(f"final must have shape {(len(heights), len(v0))}, heights by v0; got {final.shape}")
    if ax is None:
        _, ax = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    grey = np.where(np.isnan(final), 1.0, np.nan)
    ax.pcolormesh(v0, heights, grey, cmap=_one_colour(DIVERGENT), shading="nearest", rasterized=True)
    shown = np.where(final < 0, np.nan, final)
    mesh = ax.pcolormesh(v0, heights, shown, cmap="viridis", vmin=0, vmax=2, shading="nearest", rasterized=True)
    ax.figure.colorbar(mesh, ax=ax, label=r"final $v = \eta\lambda_\infty$")
    ax.set_xlabel(r"$v_0 = \eta\lambda_0$")
    return ax


def _one_colour(colour):
    return plt.matplotlib.colors.ListedColormap([colour])


def trap(beta: float = 0.0, *, ax: Axes | None = None) -> Axes:
    """The triangle that traps a run in the (z, v) plane, with the equilibria: stable ones bold, unstable ones hollow.

    Parameters
    ----------
    beta : float
        ``sqrt(c) eta y``, with ``|beta| < 2``.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        Draw runs on it with ``ax.plot(path.z, path.v)``.

    Examples
    --------
    >>> ax = trap(beta=0.5)
    >>> ax.get_legend_handles_labels()[1]
    ['$D = 0$', '$P = 0$, $Q = 0$', 'stable equilibria', 'unstable equilibria']
    """
    if not abs(beta) < 2:
        raise ValueError(f"beta must lie between -2 and 2, where the triangle is bounded; got {beta!r}")
    if ax is None:
        _, ax = plt.subplots(figsize=(5.2, 4.6), layout="constrained")
    z = np.linspace(-2.4, 2.4, 481)
    top = 4 + beta * z
    bottom = 2 * np.abs(z + beta)
    inside = top >= bottom
    ax.fill_between(z[inside], bottom[inside], top[inside], color="#eef2f6", zorder=0)
    ax.plot(z[inside], top[inside], color="0.1", linewidth=1.5, label="$D = 0$")
    ax.plot(z[inside], bottom[inside], color="0.45", linewidth=1.5, linestyle=":", label="$P = 0$, $Q = 0$")
    interval = stable_interval(beta)
    if interval is not None:
        ax.plot([0, 0], interval, color=STABLE, linewidth=5, solid_capstyle="butt", label="stable equilibria")
    line = (max(2.0, 2 * abs(beta)), 4.0)
    ax.plot([0, 0], line, color=UNSTABLE, linewidth=1.2, linestyle="--")
    hollow = {"marker": "o", "markersize": 7, "markerfacecolor": "white", "color": UNSTABLE}
    for place in isolated_equilibria(beta):
        ax.plot(place.z, place.v, linestyle="none", **hollow)
    ax.plot([], [], linestyle="--", label="unstable equilibria", **hollow)
    ax.set_xlabel(r"$z = \sqrt{c}\,\eta\,r$")
    ax.set_ylabel(r"$v = \eta\lambda$")
    return ax


def invariant_curves(v0: Sequence[float], *, ax: Axes | None = None) -> Axes:
    r"""Level curves of the adiabatic invariant in the (v, u) plane, each through ``(v0, 0)``.

    Parameters
    ----------
    v0 : sequence of float
        Above 2.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> ax = invariant_curves([2.1, 2.3])
    >>> ax.get_xlabel()
    '$v = \\eta\\lambda$'
    """
    levels = sorted(float(adiabatic_invariant(0.0, value)) for value in v0)
    if not levels or min(v0) <= 2:
        raise ValueError(f"v0 must hold values above 2; got {v0!r}")
    if ax is None:
        _, ax = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    # No further left than runs go: the series makes up curves of its own there.
    leftmost = max(0.0, 2 - 1.6 * (max(v0) - 2))
    v, u = np.meshgrid(np.linspace(leftmost, max(v0), 400), np.linspace(0, levels[-1] * 1.3, 300))
    ax.contour(v, u, adiabatic_invariant(u, v), levels=levels, colors="0.6", linewidths=1.2)
    ax.set_xlabel(r"$v = \eta\lambda$")
    ax.set_ylabel(r"$u = c\,\eta^2 r^2$")
    return ax
