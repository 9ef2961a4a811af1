"""Checks at the door of functions that take numbers or arrays of them."""

import numpy as np

from nqm_tools._validation import check_numeric

_SLACK = 1e-5


def check_float64(**values):
    arrays = []
    for name, value in values.items():
        array = np.asarray(check_numeric(name, value), dtype=float)
        refuse(~np.isfinite(array), name, "finite", array)
        arrays.append(array)
    return np.broadcast_arrays(*arrays)


def check_dimensionless(u, v, w):
    u, v, w = check_float64(u=u, v=v, w=w)
    refuse(u < 0, "u", "non-negative", u)
    refuse(v < 0, "v", "non-negative", v)
    refuse((u == 0) & (w != 0), "w", "0 where u is 0 (w = beta sqrt(u))", w)
    # P and Q of `triangle` are sums of squares. The slack is for states that were computed in float32.
    impossible = (v + _SLACK) ** 2 * u < 4 * (u + w) ** 2 * (1 - _SLACK)
    refuse(impossible, "v", "at least 2 |u + w| / sqrt(u), as for every quadratic model here", v)
    return u, v, w


def refuse(bad, name, what, array):
    if np.any(bad):
        raise ValueError(f"{name} must be {what}; got {np.ravel(array)[np.argmax(np.ravel(bad))].item()!r}")


def scalar(array):
    return array.item() if array.ndim == 0 else array
