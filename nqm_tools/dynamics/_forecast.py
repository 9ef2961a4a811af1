"""From a model, its example and a learning rate to what gradient descent will do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Real

from nqm_tools.dynamics._laws import final_v, peak_u
from nqm_tools.dynamics._maps import dimensionless, kernel_from_v, loss_from_u
from nqm_tools.dynamics._stability import max_learning_rate, predict_regime


class Forecast(NamedTuple):
    """What :func:`forecast` answers.

    Attributes
    ----------
    regime : str
        As in :func:`predict_regime`.
    peak_loss : float
        The highest loss ``half_sum`` of the run; infinite for a run that diverges, NaN for one that does neither.
    final_kernel : float
        The tangent kernel at the end; NaN for a run without one.
    max_learning_rate : float
        As in :func:`max_learning_rate`.

    Examples
    --------
    >>> answer = forecast(0.1, 1.0, learning_rate=2.5, c=1e-3)
    >>> answer.regime, round(answer.peak_loss, 2), round(answer.final_kernel, 4), answer.max_learning_rate
    ('catapult', 13.61, 0.5129, 4.0)
    """

    regime: str
    peak_loss: float
    final_kernel: float
    max_learning_rate: float


def forecast(
    prediction: Real[ArrayLike, ""],
    kernel: Real[ArrayLike, ""],
    learning_rate: float,
    c: float,
    y: Real[ArrayLike, ""] = 0.0,
) -> Forecast:
    """What gradient descent on one example will do, from the prediction and the tangent kernel at the start.

    Parameters
    ----------
    prediction, kernel : float
        ``net(params, x)[0, 0]`` and ``nqm_tools.empirical_ntk(net, params, x)[0, 0]`` of a two-layer ReLU network, at
        the parameters around which its quadratic model is expanded.
    learning_rate : float
        For ``half_sum``.
    c : float
        :func:`coupling` of the input and the width.
    y : float
        The target.

    Returns
    -------
    Forecast
        Exact for the quadratic model. The network itself has the same regimes below ``4/lambda``, and other numbers.

    Raises
    ------
    ValueError, TypeError
        As :func:`predict_regime` and :func:`max_learning_rate`.

    Examples
    --------
    >>> forecast(0.1, 1.0, learning_rate=2.5, c=1e-3).regime
    'catapult'
    """
    prediction, kernel, y = (np.asarray(value, dtype=float) for value in (prediction, kernel, y))
    u, v, w = dimensionless(prediction, kernel, learning_rate, c, y)
    return Forecast(
        predict_regime(u, v, w),
        loss_from_u(peak_u(v, u, w), learning_rate, c),
        kernel_from_v(final_v(v, u, w), learning_rate),
        max_learning_rate(prediction - y, kernel, c, y),
    )
