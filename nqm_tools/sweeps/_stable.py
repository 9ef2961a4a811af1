"""The largest stable learning rate of a model, found by bisection over runs."""

import math
from typing import NamedTuple

import jax

from nqm_tools import dynamics
from nqm_tools._loop import run_batch
from nqm_tools._validation import check_fraction, check_whole
from nqm_tools.kernels import critical_learning_rate, gradient_scale
from nqm_tools.networks import architecture
from nqm_tools.runs import regime
from nqm_tools.sweeps._compute import whole
from nqm_tools.training import check_method, initial_kernel, prepare

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
        ``2/lambda_1`` of the kernel at the start: the largest stable rate of the linear model.
    theory : float
        For one example and a two-layer ReLU network's quadratic model, exactly what the initial state decides
        (:func:`nqm_tools.dynamics.max_learning_rate`); for other networks and quadratic models ``4/lambda_1``, the
        paper's value for y = 0; for linear models ``2/lambda_1``.
    """

    stable: float
    unstable: float
    critical: float
    theory: float


def max_stable_learning_rate(model, data, *, steps, loss="mse", params=None, tolerance=0.01, seed=0):
    """The largest learning rate at which gradient descent on a model converges, by bisection over runs.

    Parameters
    ----------
    model, data, loss, params, seed
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
    are high the end is irregular (Zhu et al. 2024 show it; see notebook 02), so that the answer there is one edge of
    several.

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
    steps = check_whole("steps", steps)
    method = check_method(steps, loss=loss, record=())
    problem = prepare(model, data, method, params=params, seed=seed)
    arrays = problem.arrays
    kernel = initial_kernel(problem)
    critical = critical_learning_rate(kernel, loss=method.loss)
    if not math.isfinite(critical):
        raise ValueError("the tangent kernel at the start is zero, so that nothing moves at any learning rate")

    def is_stable(rate):
        key = jax.random.key(0)[None]
        (outcome,) = whole(run_batch(arrays, [rate], key, method.scalars, method.settings, progress=False))
        if not math.isfinite(outcome.losses[0]):
            raise ValueError(f"the loss at the start is {outcome.losses[0]}, so that no learning rate is stable")
        return regime(outcome.losses) != "divergent"

    stable, unstable = 0.0, FIRST * critical
    while is_stable(unstable):
        stable, unstable = unstable, 2 * unstable
        if unstable > MOST * critical:
            return StableLearningRate(stable, math.inf, critical, _theory(arrays, kernel, critical, method.loss))
    while unstable - stable > tolerance * stable:
        middle = (stable + unstable) / 2
        stable, unstable = (middle, unstable) if is_stable(middle) else (stable, middle)
    return StableLearningRate(stable, unstable, critical, _theory(arrays, kernel, critical, method.loss))


def _theory(arrays, kernel, critical, loss):
    model, x, y = arrays["model"], arrays["x"], arrays["y"]
    if model.name == "f_lin":
        return critical
    known = architecture(getattr(model, "f", None))
    one_relu = (
        known is not None and (known.kind, known.depth, known.activation) == ("fc", 2, "relu") and y.shape == (1, 1)
    )
    if model.name != "f_quad" or not one_relu:
        return 2 * critical
    start = model.params0
    width = jax.tree.leaves(start)[-1].shape[0]
    residual = float(arrays["bound"].predict(arrays["state0"], arrays["features"])[0, 0] - y[0, 0])
    c = float((x**2).sum()) / (width * x.size)
    rate = dynamics.max_learning_rate(residual, kernel.item(), c, float(y[0, 0]))
    return rate / gradient_scale(loss, 1)
