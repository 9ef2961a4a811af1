"""The largest stable learning rate of a model, found by bisection over runs."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
from jaxtyping import PyTree

from nqm_tools import dynamics
from nqm_tools._types import Function
from nqm_tools._validation import check_fraction, check_whole
from nqm_tools.datasets import Data
from nqm_tools.expansions import LinearModel, QuadraticModel
from nqm_tools.losses import LossLike
from nqm_tools.networks import FullyConnected, architecture
from nqm_tools.training._problem import Method, Problem, critical_rate, initial_kernel, prepare
from nqm_tools.training._train import train_rates, whole

# Bisection begins at this many times the critical rate; the paper's eta_max lies between one and two times.
FIRST, MOST = 2.0, 64.0


class StableLearningRate(NamedTuple):
    """What :func:`max_stable_learning_rate` found, in units of the named loss.

    Attributes
    ----------
    stable, unstable : float
        The largest rate that was seen to converge and the smallest beyond it that was seen not to. ``unstable`` is
        infinite where every rate tried converged.
    critical : float
        ``2 (1 + momentum) / lambda_1`` of the kernel at the start (over the Gauss-Newton sharpness where the loss's
        curvature is not constant): the largest stable rate of the linear model.
    theory : float
        For linear models and squared losses ``critical``; for the quadratic model of a two-layer ReLU network on one
        example exactly what the initial state decides (:func:`nqm_tools.dynamics.max_learning_rate`). NaN for all
        others, for which there is no theory.

    Examples
    --------
    >>> import numpy as np, nqm_tools as nqm
    >>> one = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1)))
    >>> lin = nqm.linearize(lambda w, x: w * x, jax.numpy.zeros(1))
    >>> found = max_stable_learning_rate(lin, one, steps=50, loss="half_sum")
    >>> found.critical, found.theory
    (2.0, 2.0)
    >>> found.stable <= found.theory <= found.unstable
    True
    """

    stable: float
    unstable: float
    critical: float
    theory: float


def max_stable_learning_rate(
    model: Function,
    data: Data,
    *,
    steps: int,
    loss: LossLike = "mse",
    momentum: float = 0.0,
    params: PyTree | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
) -> StableLearningRate:
    """The largest learning rate at which gradient descent on a model converges, by bisection over runs.

    Parameters
    ----------
    model, data, loss, momentum, params, seed
        As in :func:`nqm_tools.train`.
    steps : int
        The length of a run. A run counts as unstable if its regime is ``divergent``: its loss is not finite, or ends
        above where it began. Too few steps call slow catapults unstable.
    tolerance : float
        The bracket's width, relative to ``stable``.

    Returns
    -------
    StableLearningRate

    Notes
    -----
    Bisection takes for granted that all smaller rates are stable. Near the largest one that need not hold: where peaks
    are high the end is irregular (Zhu et al. 2024 show it; see notebook 02b), so that the answer there is one edge of
    several.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> net = nqm.networks.two_layer_fc(500)
    >>> data = nqm.datasets.single_example(5, label=1.0, seed=0)
    >>> params = net.init(jax.random.key(1), data.x_train.shape)
    >>> found = max_stable_learning_rate(nqm.quadraticize(net, params), data, steps=500)
    >>> found.stable < found.theory < found.unstable
    True
    """
    tolerance = check_fraction("tolerance", tolerance)
    if tolerance == 0:
        raise ValueError("tolerance must be positive; got 0")
    seed = check_whole("seed", seed, minimum=0)
    method = Method(check_whole("steps", steps), momentum=momentum, loss=loss, record=())
    problem = prepare(model, data, method, params=params, seed=seed)
    critical = (1 + method.momentum) * critical_rate(problem)
    if not math.isfinite(critical):
        raise ValueError("the tangent kernel at the start is zero, so that nothing moves at any learning rate")
    stable, unstable = stable_bracket(problem, method, critical, tolerance)
    return StableLearningRate(stable, unstable, critical, _theory(problem, method, critical))


def stable_bracket(problem: Problem, method: Method, critical: float, tolerance: float) -> tuple[float, float]:
    """``stable`` and ``unstable`` of :func:`max_stable_learning_rate`, for a prepared problem.

    Examples
    --------
    >>> import numpy as np, nqm_tools as nqm
    >>> one = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1)))
    >>> method = Method(steps=50, loss="half_sum", record=())
    >>> problem = prepare(nqm.linearize(lambda w, x: w * x, jax.numpy.zeros(1)), one, method)
    >>> stable, unstable = stable_bracket(problem, method, 2.0, 0.01)
    >>> 1.98 < stable <= 2 <= unstable < 2.02
    True
    """

    def is_stable(rate):
        (run,) = whole(train_rates(problem, [rate], method, progress=False, keep_params=False))
        if not math.isfinite(run.losses[0]):
            raise ValueError(f"the loss at the start is {run.losses[0]}, so that no learning rate is stable")
        return run.regime != "divergent"

    stable, unstable = 0.0, FIRST * critical
    while is_stable(unstable):
        stable, unstable = unstable, 2 * unstable
        if unstable > MOST * critical:
            return stable, math.inf
    while unstable - stable > tolerance * stable:
        middle = (stable + unstable) / 2
        stable, unstable = (middle, unstable) if is_stable(middle) else (stable, middle)
    return stable, unstable


def _theory(problem, method, critical):
    model, x, y, loss = problem.model, problem.x, problem.y, problem.loss
    if loss.constant_curvature is None:
        return math.nan
    if type(model) is LinearModel:
        return critical
    two_layer_relu = architecture(getattr(model, "f", None)) == FullyConnected(2, "relu")
    if type(model) is not QuadraticModel or method.momentum or not two_layer_relu or y.shape != (1, 1):
        return math.nan
    width = jax.tree.leaves(model.params0)[-1].shape[0]
    residual = float(problem.bound.predict(problem.state0, problem.features)[0, 0] - y[0, 0])
    c = float((x**2).sum()) / (width * x.size)
    rate = dynamics.max_learning_rate(residual, initial_kernel(problem).item(), c, float(y[0, 0]))
    return rate / (loss.constant_curvature * loss.weight(1))
