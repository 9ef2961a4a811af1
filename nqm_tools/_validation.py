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


def check_whole(name, value, minimum=1, maximum=2**63 - 1):
    """A whole number (Python or NumPy, not a bool) of at least ``minimum``, as an int; by default of 64 bits."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a whole number >= {minimum}; got {value!r}")
    if not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(f"{name} must be a whole number >= {minimum}; got {value!r}")
    if value > maximum:
        raise ValueError(f"{name} must be a whole number <= {maximum}; got {value!r}")
    return int(value)


def _check_number(name, value, what, accepts):
    if isinstance(value, np.ndarray | jax.Array) and value.ndim == 0:
        real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
    else:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real:
        raise TypeError(f"{name} must be {what}; got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not accepts(number):
        raise ValueError(f"{name} must be {what}; got {value!r}")
    return number


def check_rate(name, value):
    """A positive finite number, as a float."""
    return _check_number(name, value, "a positive finite number", lambda v: math.isfinite(v) and v > 0)


def check_number(name, value):
    """A finite number, as a float."""
    return _check_number(name, value, "a finite number", math.isfinite)


def check_fraction(name, value):
    """A number in [0, 1), as a float."""
    return _check_number(name, value, "a number in [0, 1)", lambda v: 0 <= v < 1)


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
    if not is_finite(value):
        raise ValueError(f"{name} must be finite; it holds NaN or infinity")


def is_finite(value):
    """Whether all numbers are finite; yes for a tracer, whose numbers are not known yet."""
    if isinstance(value, jax.core.Tracer):
        return True
    if not isinstance(value, jax.Array):
        return bool(np.isfinite(value).all())
    # Inside a jitted function, too, a concrete array can be looked at.
    with jax.ensure_compile_time_eval():
        return bool(jnp.isfinite(value).all())


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
        if not is_finite(leaf):
            raise ValueError(f"{name} must be finite; it holds NaN or infinity")
    params = jax.tree.map(jnp.asarray, params)
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(params)})
    if len(dtypes) > 1:
        raise TypeError(f"{name} must be of one floating-point type; it holds {', '.join(dtypes)}")
    return params


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
    dtype, dtype0 = (jnp.result_type(*jax.tree.leaves(tree)) for tree in (params, params0))
    if dtype != dtype0:
        raise TypeError(f"params must have the precision of params0, {dtype0}; got {dtype}")
