"""The phases of early training: from which learning rates on loss and sharpness rise in the first steps, or diverge."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree, Real

from nqm_tools._types import Function
from nqm_tools._validation import check_rate
from nqm_tools.datasets import Data
from nqm_tools.losses import LossLike
from nqm_tools.training._problem import Method, initial_sharpness, prepare
from nqm_tools.training._train import train_rates, whole

# c from 1.41 to 32, by 7 %.
GRID = tuple(2 ** (k / 10) for k in range(5, 51))
# The loss counts as diverged beyond so many times the first one: with first losses of order 1 it is the 1e5 of Kalra
# and Barkeshli's public code.
DIVERGED = 1e5
# What counts as a rise, relative: more than the rounding of a loss, and than the error of the sharpness at the start.
LOSS_RISE, SHARPNESS_RISE = 1e-5, 2e-3
# Rates that are trained before it is asked whether one diverged: the larger ones tell nothing more.
RATES_AT_ONCE = 8


class PhaseConstants(NamedTuple):
    """What :func:`phase_constants` found: learning rates ``c / sharpness``, infinite where nothing happens on the grid.

    Attributes
    ----------
    c_loss, c_sharp, c_barrier : float
        Where the loss, the sharpness, and the loss on the segment from start to end come to exceed their first values.
        The smallest c of the grid where they do so there already. Without a barrier ``c_barrier`` is ``c_max``.
    c_max : float
        The largest c of the grid below the first that diverges.
    sharpness, sharpness_error : float
        Of the start, the largest eigenvalue of the loss's Hessian, and the norm of its residual.

    Examples
    --------
    >>> PhaseConstants(2.5, 3.2, 3.9, 4.0, sharpness=1.2, sharpness_error=1e-4).c_max
    4.0
    """

    c_loss: float
    c_sharp: float
    c_barrier: float
    c_max: float
    sharpness: float
    sharpness_error: float


def phase_constants(
    model: Function,
    data: Data,
    params: PyTree | None = None,
    *,
    steps: int = 10,
    grid: Sequence[float] | Real[np.ndarray, " rates"] = GRID,
    loss: LossLike = "mse",
    seed: int = 0,
) -> PhaseConstants:
    """The critical constants of early training: gradient descent at rates ``c / sharpness`` for a grid of c.

    Parameters
    ----------
    model, data, params, loss, seed
        As in :func:`nqm_tools.train`; test examples are not used.
    steps : int
        The length of a run.
    grid : sequence of float
        The c that are tried, rising, up to the first that diverges (loss beyond 1e5 times the first one).

    Returns
    -------
    PhaseConstants
        Between two c of the grid the logarithm of what exceeds is interpolated; for ``c_max`` it is not. A ``c_loss``
        or ``c_sharp`` above ``c_max`` is the first c that diverges, or of the first step.

    Raises
    ------
    TypeError, ValueError
        Naming the offending argument and what is accepted; for a start where the loss has no positive curvature.

    Notes
    -----
    Definitions after Kalra and Barkeshli, "Phase diagram of early training dynamics in deep neural networks" (NeurIPS
    2023). A run takes six products with the loss's Hessian a step, besides its gradients; the start up to 306, once.

    Examples
    --------
    >>> import jax, nqm_tools as nqm
    >>> data, net = nqm.datasets.single_example(3, seed=0), nqm.networks.two_layer_fc(64)
    >>> params = net.init(jax.random.key(1), data.x_train.shape)
    >>> found = phase_constants(nqm.quadraticize(net, params), data, grid=[1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0])
    >>> bool(2 < found.c_loss < found.c_sharp < found.c_max)
    True
    """
    grid = _check_grid(grid)
    method = Method(steps, loss=loss, record=("sharpness", "path_loss"))
    training_set = data if not isinstance(data, Data) else Data(data.name, data.x_train, data.y_train)
    problem = prepare(model, training_set, method, params=params, seed=seed)
    sharpness, error = initial_sharpness(problem)
    if not (math.isfinite(sharpness) and sharpness > 0):
        raise ValueError(f"the loss must have a positive curvature at the start; its sharpness is {sharpness:g}")
    runs = []
    for chosen in (grid[i : i + RATES_AT_ONCE] for i in range(0, len(grid), RATES_AT_ONCE)):
        with warnings.catch_warnings():
            # Of runs that diverge the sharpness overflows before the loss does.
            warnings.filterwarnings("ignore", "the recorded .* is NaN")
            runs += whole(train_rates(problem, chosen / sharpness, method, progress=False, keep_params=False))
        if any(_diverged(run.losses) for run in runs):
            break
    records = [run.records for run in runs]
    columns = ([record[name] for record in records] for name in ("train_loss", "sharpness", "path_loss"))
    return PhaseConstants(*phases(grid[: len(runs)], *columns), sharpness, error)


def phases(
    c: Real[np.ndarray, " rates"],
    losses: Sequence[Real[np.ndarray, " rows"]],
    sharpness: Sequence[Real[np.ndarray, " rows"]],
    path_losses: Sequence[Real[np.ndarray, " rows"]],
) -> tuple[float, float, float, float]:
    """``c_loss, c_sharp, c_barrier, c_max`` of recorded runs, in the order of their c.

    Parameters
    ----------
    c : array
        Rising.
    losses, sharpness, path_losses : sequence of array
        Columns ``train_loss``, ``sharpness`` and ``path_loss`` of each run, a row a step.

    Examples
    --------
    >>> c, losses = np.array([2.0, 4.0, 8.0]), [[1.0, 0.5], [1.0, 2.0], [1.0, 1e9]]
    >>> phases(c, losses, sharpness=[[3.0, 2.0], [3.0, 2.9], [3.0, 9.0]], path_losses=[[1.0, 0.9]] * 3)
    (2.8..., 4.0..., 4.0, 4.0)
    """
    diverged = np.array([_diverged(loss) for loss in losses])
    first = int(diverged.argmax()) if diverged.any() else len(c)
    if first == 0:
        raise ValueError(f"the smallest c of the grid, {c[0]:g}, diverges already: give smaller ones")
    c_max = float(c[first - 1]) if first < len(c) else math.inf
    # Of the ends, so far as there are such.
    ends = [[loss[0], path[-1]] for loss, path in zip(losses[:first], path_losses[:first], strict=True)]
    # No later than in the first step, which may be there to interpolate where ten steps overflow.
    c_loss, c_sharp = (
        min(_crossing(c, _excess(columns, rise)), _crossing(c, _excess([values[:2] for values in columns], rise)))
        for columns, rise in ((losses, LOSS_RISE), (sharpness, SHARPNESS_RISE))
    )
    return c_loss, c_sharp, min(_crossing(c, _excess(ends, LOSS_RISE)), c_max), c_max


def _check_grid(grid):
    grid = [check_rate("each entry of grid", value) for value in grid]
    if len(grid) < 2 or any(b <= a for a, b in itertools.pairwise(grid)):
        raise ValueError(f"grid must hold two or more rising numbers; got {grid}")
    return np.array(grid)


def _diverged(losses):
    losses = np.asarray(losses)
    return not np.isfinite(losses).all() or losses.max() > DIVERGED * losses[0]


def _excess(columns, rise):
    """Of each run the logarithm of the largest value after the first over the first, less what counts as a rise."""
    table = np.full((len(columns), max(map(len, columns))), -np.inf)
    for row, values in zip(table, columns, strict=True):
        row[: len(values)] = values
    later = np.where(np.isnan(table[:, 1:]), np.inf, table[:, 1:])  # it overflowed
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.log(np.maximum(later.max(axis=1), 0) / table[:, 0]) - rise


def _crossing(c, excess):
    above = np.flatnonzero(excess > 0)
    if not above.size:
        return math.inf
    i = above[0]
    if i == 0 or not math.isfinite(excess[i - 1]) or not math.isfinite(excess[i]):
        return float(c[i])
    share = excess[i - 1] / (excess[i - 1] - excess[i])
    return float(c[i - 1] * (c[i] / c[i - 1]) ** share)
