"""How many catapults there are in a run's losses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Real

from nqm_tools._validation import check_numeric, check_rate

# A catapult is over when the loss is below so many times where it rose from, and so much of the first loss above that;
# it starts at `rise` times that, and so much of the first loss above, without which noise at a tiny loss would count.
BACK, BACK_FLOOR, FLOOR = 1.1, 0.01, 0.02


class Catapults(NamedTuple):
    """What :func:`catapults` finds: how many, the step at which each starts, and its highest loss.

    Examples
    --------
    >>> catapults([1.0, 3.0, 0.5])
    Catapults(count=1, starts=(1,), peaks=(3.0,))
    """

    count: int
    starts: tuple[int, ...]
    peaks: tuple[float, ...]


def catapults(losses: Real[ArrayLike, " steps"], rise: float = 1.5) -> Catapults:
    """The catapults in the training losses of all steps of a run.

    Parameters
    ----------
    losses : array (steps,)
        Of all steps, of the whole training set. What is not finite counts as infinite.
    rise : float
        A catapult starts where the loss exceeds ``rise`` times its lowest value since the last catapult by more than
        2 % of the first loss. It is over where the loss is below 1.1 times that value plus 1 % of the first loss.

    Returns
    -------
    Catapults
        One that never ends counts. How many there are depends on ``rise``: compare counts, and try others.

    Examples
    --------
    >>> catapults([1.0, 5.0, 0.5, 0.4, 2.0, 3.0, 0.3]).starts
    (1, 4)
    """
    losses = np.asarray(check_numeric("losses", losses), dtype=float)
    if losses.ndim != 1 or not losses.size:
        raise ValueError(f"losses must be one number a step, (steps,); got shape {losses.shape}")
    rise = check_rate("rise", rise)
    if rise <= BACK:
        raise ValueError(f"rise must be above {BACK}, below which a catapult is over; got {rise!r}")
    losses = np.where(np.isfinite(losses), losses, np.inf)
    first = low = losses[0]
    starts, peaks, inside = [], [], False
    for step, loss in enumerate(losses):
        if inside:
            peaks[-1] = max(peaks[-1], float(loss))
            if loss < BACK * low + BACK_FLOOR * first:
                inside, low = False, loss
        elif loss > rise * low + FLOOR * first:
            inside = True
            starts.append(step)
            peaks.append(float(loss))
        else:
            low = min(low, loss)
    return Catapults(len(starts), tuple(starts), tuple(peaks))
