"""The critical constants of one example's first step, exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nqm_tools._types import Numbers
from nqm_tools.dynamics._checks import Answer, check_float64, refuse, scalar


class CriticalConstants(NamedTuple):
    """Learning rates of one example in units of one over the sharpness of its start: ``c = eta sharpness``.

    Attributes
    ----------
    c_loss : float or numpy.ndarray
        The smallest at which the first step does not lower the loss.
    c_sharp : float or numpy.ndarray
        The smallest beyond which the first step raises the sharpness; 0 where it does so at every small rate.
    sharpness : float or numpy.ndarray
        The largest eigenvalue of the loss's Hessian at the start.

    >>> critical_constants(0.0, 1.0, 0.01, y=1.0).sharpness
    1.00990...
    """

    c_loss: Answer
    c_sharp: Answer
    sharpness: Answer


def critical_constants(prediction: Numbers, kernel: Numbers, c: Numbers, y: Numbers = 0.0) -> CriticalConstants:
    """From which learning rates on the first step raises the loss, and the sharpness, of one example.

    Parameters
    ----------
    prediction, kernel
        ``g`` and ``lambda`` at the start; arrays are taken elementwise.
    c, y
        As in :func:`one_example_step`; c is ``|x|^2/(m d)``.

    Returns
    -------
    CriticalConstants

    Raises
    ------
    ValueError, TypeError
        For a kernel below ``2 sqrt(c) |g|``, which no model here has; for a c or a kernel that is not positive, and
        where the residual is 0.

    Notes
    -----
    With ``r = g - y``: ``sharpness = lambda/2 + sqrt(lambda^2/4 + c (3 r^2 + 2 r y))`` (:func:`sharpness_from_state`),
    and the loss rises from ``eta = 4/(lambda + sqrt(lambda^2 - 8 c r g))`` on (``lambda/(c r g)`` where that root is
    not real), so ``c_loss = 2 + (4c/lambda^2) (2 r g + r^2/2) + O(c^2)``. The sharpness rises where a polynomial of
    fourth degree in eta does; to leading order ``c_sharp = 1 + 3 g/(2 r)`` for ``g/r > -2/3``, 5/2 for y = 0.

    Both are exact for one step. Over ten steps the loss criterion is the same to O(c); what a first step lowers, later
    ones may raise: c_sharp foretells ten steps for about ``1/7 < g/r < 1`` (observed). Below 1/6 even gradient
    flow ends sharper than it began.

    >>> found = critical_constants(1.0, 1.0, 1e-6)
    >>> round(found.c_loss, 4), round(found.c_sharp, 4)
    (2.0, 2.5)
    """
    prediction, kernel, c, y = check_float64(prediction=prediction, kernel=kernel, c=c, y=y)
    refuse(c <= 0, "c", "positive", c)
    refuse(kernel <= 0, "kernel", "positive", kernel)
    residual = prediction - y
    refuse(residual == 0, "prediction", "another number than y: without a residual nothing moves", prediction)
    low = kernel**2 - 4 * c * prediction**2 < -1e-5 * kernel**2
    refuse(low, "kernel", "at least 2 sqrt(c) |prediction|, as for every model here", kernel)
    sharpness = kernel / 2 + np.sqrt(np.maximum(kernel**2 / 4 + c * residual * (3 * residual + 2 * y), 0))
    product = c * residual * prediction
    root = kernel**2 - 8 * product
    with np.errstate(invalid="ignore", divide="ignore"):  # of the branch that is not taken
        rate = np.where(root >= 0, 4 / (kernel + np.sqrt(np.maximum(root, 0))), kernel / product)
    sharper = np.vectorize(_sharper, otypes=[float])(prediction, kernel, c, y, sharpness)
    return CriticalConstants(scalar(rate * sharpness), scalar(sharper * sharpness), scalar(sharpness))


def _sharper(g, kernel, c, y, sharpness):
    """The smallest rate beyond which a step raises the sharpness.

    It is the larger root X of ``X^2 - lambda X = c (3 r^2 + 2 r y)``, so that it rises where
    ``c (3 r'^2 + 2 r' y) + lambda' X - X^2`` is positive at the X of before.
    """
    r = g - y
    after = np.polynomial.Polynomial([r, -kernel * r, c * r * r * g])
    moved = np.polynomial.Polynomial([kernel, -4 * c * r * g, c * r * r * kernel])
    rise = c * (3 * after**2 + 2 * y * after) + moved * sharpness - sharpness**2
    # At rate 0 nothing rises: the constant is rounding.
    rise = np.polynomial.Polynomial(rise.coef[1:])
    if rise.coef[0] > 0:
        return 0.0
    roots = rise.roots()
    roots = np.sort(roots.real[(np.abs(roots.imag) < 1e-9 * np.abs(roots)) & (roots.real > 0)])
    slopes = rise.deriv()(roots)
    rising = roots[slopes > 0]
    return float(rising[0]) if rising.size else np.inf
