"""Checks at the door: each raises ValueError or TypeError with the offending value and what is accepted."""

import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np


class InputError(ValueError):
    """A network's own, readable complaint about its inputs: passed on as it is."""


def check_choice(name, value, choices):
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
    return value


def check_whole(name, value, minimum=1):
    """A whole number (Python or NumPy, not a bool) of at least ``minimum``, as an int."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a whole number >= {minimum}; got {value!r}")
    if not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(f"{name} must be a whole number >= {minimum}; got {value!r}")
    return int(value)


def _is_number(value):
    if isinstance(value, np.ndarray | jax.Array) and value.ndim == 0:
        return jnp.issubdtype(value.dtype, jnp.number)
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_rate(name, value):
    """A positive finite number, as a float."""
    if not _is_number(value):
        raise TypeError(f"{name} must be a positive finite number; got {value!r}")
    value = float(value)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive finite number; got {value!r}")
    return value


def check_number(name, value):
    """A finite number, as a float."""
    if not _is_number(value) or isinstance(value, complex):
        raise TypeError(f"{name} must be a finite number; got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number; got {value!r}")
    return float(value)


def check_fraction(name, value):
    """A number in [0, 1), as a float."""
    if not _is_number(value):
        raise TypeError(f"{name} must be a number in [0, 1); got {value!r}")
    value = float(value)
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be a number in [0, 1); got {value!r}")
    return value


def check_function(f):
    if not callable(f):
        raise TypeError(f"f must be a function f(params, x) -> (n, k); got {type(f).__name__}: {f!r}")
    try:
        hash(f)
    except TypeError:
        raise TypeError(
            f"f must be hashable, so that what is compiled for it can be found again; {type(f).__name__} is not: "
            "pass a plain function, or a method such as model.apply"
        ) from None
    return f


def check_inputs(name, x):
    """Model inputs: a non-empty numeric array, finite, whose first axis counts the examples."""
    if isinstance(x, jax.core.Tracer):
        return x
    x = check_numeric(name, x)
    if x.ndim == 0:
        raise ValueError(f"{name} must have a first axis that counts the examples; got a single number")
    _check_values(name, x)
    return x


def check_targets(name, y, n, k=None):
    """Targets of ``n`` examples as an (n, k) array; (n,) is accepted for k = 1."""
    if not isinstance(y, jax.core.Tracer):
        y = check_numeric(name, y)
        _check_values(name, y)
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or y.shape[0] != n or (k is not None and y.shape[1] != k):
        raise ValueError(f"{name} must have shape ({n}, {'k' if k is None else k}); got {y.shape}")
    return y


def check_numeric(name, value):
    if not isinstance(value, jax.Array):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} must be an array of numbers: {error}") from None
    if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool):
        raise TypeError(f"{name} must be an array of numbers; got dtype {value.dtype}")
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be real; got dtype {value.dtype}")
    return value


def _check_values(name, value):
    if value.size == 0:
        raise ValueError(f"{name} is empty: shape {value.shape}")
    finite = jnp.isfinite if isinstance(value, jax.Array) else np.isfinite
    if not finite(value).all():
        raise ValueError(f"{name} must be finite; it holds NaN or infinity")


def check_params(params, name="params"):
    """A pytree with at least one array, all of them real, floating and finite."""
    leaves = jax.tree.leaves(params)
    if not leaves:
        raise ValueError(f"{name} holds no arrays; got {params!r}")
    for leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None and isinstance(leaf, float):
            dtype = jnp.result_type(leaf)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            what = type(leaf).__name__ if dtype is None else f"an array of {dtype}"
            raise TypeError(f"{name} must be a pytree of floating-point arrays; it holds {what}")
        if not isinstance(leaf, jax.core.Tracer) and not jnp.isfinite(leaf).all():
            raise ValueError(f"{name} must be finite; it holds NaN or infinity")
    return jax.tree.map(jnp.asarray, params)


def check_same_structure(params, params0):
    """``params`` must have the tree structure and the shapes of ``params0``."""
    if jax.tree.structure(params) != jax.tree.structure(params0):
        raise ValueError(
            f"params must have the tree structure of params0, {jax.tree.structure(params0)}; "
            f"got {jax.tree.structure(params)}"
        )
    shapes, shapes0 = (jax.tree.map(jnp.shape, tree) for tree in (params, params0))
    if shapes != shapes0:
        raise ValueError(f"params must have the shapes of params0, {shapes0}; got {shapes}")
