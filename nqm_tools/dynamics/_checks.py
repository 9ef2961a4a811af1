"""Argument checks of functions that take numbers or arrays of them."""

import numpy as np
from jaxtyping import Float

from nqm_tools._validation import check_numeric

# What functions of numbers or arrays answer: a number for numbers.
Answer = float | Float[np.ndarray, "..."]

SLACK = 1e-5


def check_float64(**values):
    arrays = []
    for name, value in values.items():
        array = np.asarray(check_numeric(name, value), dtype=float)
        refuse(~np.isfinite(array), name, "finite", array)
        arrays.append(array)
    try:
        return np.broadcast_arrays(*arrays)
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"{', '.join(values)} must have shapes that broadcast; got {shapes}") from None


def check_dimensionless(u, v, w, suffix=""):
    names = [name + suffix for name in "uvw"]
    u, v, w = check_float64(**dict(zip(names, (u, v, w), strict=True)))
    refuse(u < 0, names[0], "non-negative", u)
    refuse(v < 0, names[1], "non-negative", v)
    refuse((u == 0) & (w != 0), names[2], "0 where u is 0 (w = beta sqrt(u))", w)
    # P and Q of `triangle` are sums of squares. The slack is for states that were computed in float32.
    impossible = (v + SLACK) ** 2 * u < 4 * (u + w) ** 2 * (1 - SLACK)
    refuse(impossible, names[1], "at least 2 |u + w| / sqrt(u), as for every quadratic model here", v)
    return u, v, w


def refuse(bad, name, what, array):
    if np.any(bad):
        raise ValueError(f"{name} must be {what}; got {np.ravel(array)[np.argmax(np.ravel(bad))].item()!r}")


def scalar(array):
    return array.item() if array.ndim == 0 else array
