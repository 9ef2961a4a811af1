"""From a model, its example and a learning rate to what gradient descent will do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Real

from nqm_tools._validation import check_fraction
from nqm_tools.dynamics._laws import final_v, peak_u
from nqm_tools.dynamics._maps import dimensionless, kernel_from_v, loss_from_u
from nqm_tools.dynamics._momentum_laws import first_divergence_from
from nqm_tools.dynamics._stability import max_learning_rate, predict_regime


class Forecast(NamedTuple):
    """What :func:`forecast` answers.

    Attributes
    ----------
    regime : str
        As in :func:`predict_regime`. With momentum ``"divergent"`` and, of runs that come to rest, ``"catapult"`` where
        ``eta lambda_0 > 2 (1 + momentum)``, else ``"monotone"`` (by inertia the loss can rise there too, see
        :func:`transient_growth`); ``"undecided"`` of one that does neither.
    peak_loss : float
        The highest loss ``half_sum`` of the run; infinite for a run that diverges, NaN for one that does neither.
    final_kernel : float
        The tangent kernel at the end; NaN for a run without one.
    max_learning_rate : float
        As in :func:`max_learning_rate`. With momentum the first rate at which the run diverges, of multiples of
        ``0.01/kernel``, or infinite if there is none up to ``8/kernel``; beyond it some rates converge again.

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
    *,
    momentum: float = 0.0,
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
    momentum : float
        Of heavy ball, in [0, 1), from rest.

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
    momentum = check_fraction("momentum", momentum)
    u, v, w = dimensionless(prediction, kernel, learning_rate, c, y)
    peak, end = peak_u(v, u, w, momentum=momentum), final_v(v, u, w, momentum=momentum)
    if momentum:
        largest = first_divergence_from(prediction - y, kernel, c, y, momentum)
        above = "catapult" if v > 2 * (1 + momentum) else "monotone"
        regime = "divergent" if np.isinf(peak) else "undecided" if np.isnan(end) else above
    else:
        largest, regime = max_learning_rate(prediction - y, kernel, c, y), predict_regime(u, v, w)
    return Forecast(regime, loss_from_u(peak, learning_rate, c), kernel_from_v(end, learning_rate), largest)
