"""Argument checks: each raises ValueError or TypeError with the offending value and what is accepted."""

import math
import numbers
import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

# Of a symmetric matrix in float32, a share of its largest entry.
ASYMMETRY = 1e-4


class InputError(ValueError):
    """A network's own, readable complaint about its inputs: passed on as it is."""


def check_choice(name, value, choices):
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
    return value


# What lies in a clone; a new folder there is the user's. `tests/test_package.py` compares.
REPOSITORY = (".ci", ".git", ".github", "benchmarks", "data", "docs", "experiments", "notebooks", "nqm_tools", "tests")


def check_output(folder, clone, inside=()):
    """A folder to write in, as a path; neither it nor those inside may be the clone, or among the repository's own."""
    for path in (pathlib.Path(folder), *(pathlib.Path(folder, name) for name in inside)):
        path = path.resolve()
        for own in (clone, *(clone / name for name in REPOSITORY)):
            # The same folder may have other names: by links, or by letters' case on some file systems.
            above = [path] if own == clone else [path, *path.parents]
            if own.exists() and any(part.exists() and os.path.samefile(part, own) for part in above):
                what = "the repository itself" if own == clone else f"the repository's {own.name}/"
                raise ValueError(
                    f"output must be a folder of its own, such as 'out'; {str(folder)!r} would write in {what}"
                )
    return pathlib.Path(folder)


def _is_real(value):
    # NumPy's spans of time are integers to Python.
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.timedelta64)


def check_whole(name, value, minimum=1, maximum=2**63 - 1):
    """A whole number (Python or NumPy, not a bool) of at least ``minimum``, as an int; by default of 64 bits."""
    if isinstance(value, np.bool_) or not _is_real(value):
        raise TypeError(f"{name} must be a whole number >= {minimum}; got {value!r}")
    if not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(f"{name} must be a whole number >= {minimum}; got {value!r}")
    if value > maximum:
        raise ValueError(f"{name} must be a whole number <= {maximum}; got {value!r}")
    return int(value)


def check_not_traced(what, *trees):
    """Refuse to compute outside JAX with what a transformation of the caller's is tracing."""
    # Under jax.jit a sum of two numbers is traced, too.
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((trees, jnp.add(0, 0)))):
        raise TypeError(
            f"{what} computes outside JAX, so it cannot be inside jax.jit, jax.vmap or jax.grad: call it outside "
            "(nqm_tools.empirical_ntk and jax.numpy.linalg.eigh can be inside)"
        )


def _check_number(name, value, what, accepts):
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} must be {what}, and known: it cannot be an argument of a jax.jit, vmap or grad around")
    if isinstance(value, np.ndarray | jax.Array) and value.ndim == 0:
        real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
        real = real and value.dtype.kind != "m"
    else:
        real = _is_real(value)
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
    if not _fits(x):
        raise ValueError(
            f"{name} must be of whole numbers that JAX keeps; it holds {x.min()} to {x.max()}, beyond "
            f"{jax.dtypes.canonicalize_dtype(x.dtype)}: give them as floating point, or set jax_enable_x64"
        )
    return x


def check_targets(name, y, n, k=None):
    """Targets of ``n`` examples as an (n, k) array; (n,) is accepted for k = 1."""
    if not isinstance(y, jax.core.Tracer):
        y = check_numeric(name, y)
        _check_values(name, y)
        if not _fits(y):
            y = y.astype(np.float64)  # as targets are used
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or y.shape[0] != n or (k is not None and y.shape[1] != k):
        raise ValueError(f"{name} must have shape ({n}, {'k' if k is None else k}); got {y.shape}")
    return y


def check_agop(name, value, d=None):
    """An AGOP: a symmetric matrix (d, d), or a root (r, d) with r < d, in float64; finite, and not zero."""
    value = np.asarray(check_numeric(name, value), dtype=float)
    wanted = "d" if d is None else d
    if value.ndim != 2 or not 1 <= value.shape[0] <= value.shape[1] or (d is not None and value.shape[1] != d):
        raise ValueError(
            f"{name} must be an AGOP of shape ({wanted}, {wanted}), or its root (r, {wanted}) with fewer rows; "
            f"got {value.shape}"
        )
    _check_values(name, value)
    if not value.any():
        raise ValueError(f"{name} is zero: it has no direction")
    if value.shape[0] == value.shape[1]:
        apart = np.abs(value - value.T).max()
        if apart > ASYMMETRY * np.abs(value).max():
            raise ValueError(f"{name} must be symmetric; it differs from its transpose by {apart:g}")
    return value


def check_numeric(name, value):
    """An array of real numbers, of a type that JAX knows; what NumPy has beyond it becomes that, value by value."""
    if not isinstance(value, jax.Array):
        value = _numpy_numbers(name, value)
    if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool):
        raise TypeError(f"{name} must be an array of numbers; got dtype {value.dtype}")
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be real; got dtype {value.dtype}")
    return value


def _numpy_numbers(name, value):
    if _has_masked(value):
        raise ValueError(f"{name} holds masked values: fill them, or leave out their examples")
    try:
        value = np.asarray(value)
    except (ValueError, RuntimeError) as error:  # RuntimeError: a torch tensor whose gradient is wanted
        raise ValueError(f"{name} must be an array of numbers: {error}") from None
    if value.dtype == object:
        value = _unboxed(name, value)
    if value.dtype.kind in "mM":
        raise TypeError(f"{name} must be an array of numbers; got dates or times, dtype {value.dtype}")
    if value.dtype.names is not None:
        raise TypeError(
            f"{name} must be an array of numbers; got a structured array with the fields "
            f"{', '.join(map(repr, value.dtype.names))}: put them side by side, as "
            "numpy.lib.recfunctions.structured_to_unstructured does"
        )
    return _native(name, value)


def _has_masked(value):
    """Whether values are masked out; NumPy would use what lies under the mask."""
    if isinstance(value, list | tuple):
        return any(_has_masked(item) for item in value)
    return isinstance(value, np.ma.MaskedArray) and bool(np.ma.is_masked(value))


def _unboxed(name, value):
    """The numbers in an array of Python objects, which pandas makes of nullable columns and of columns of two types."""
    items = value.ravel().tolist()
    for item in items:
        kind = type(item)
        if value.ndim and (item is None or (kind.__name__ in ("NAType", "NaTType") and "pandas" in kind.__module__)):
            raise ValueError(f"{name} holds missing values ({item}): fill them, or leave out their examples")
        if not isinstance(item, numbers.Real | np.bool_):
            raise TypeError(f"{name} must be an array of numbers; it holds {kind.__name__}")
        if isinstance(item, numbers.Integral) and not -(2**63) <= item < 2**63:
            raise ValueError(f"{name} must be of numbers of at most 64 bits; it holds {item!r}")
    # Fractions and the like become floats; all else has a type in NumPy.
    plain = [item if isinstance(item, int | float | np.generic) else float(item) for item in items]
    return np.array(plain).reshape(value.shape)


def _native(name, array):
    """The same numbers in this machine's byte order, and in 64 bits where there are more."""
    if array.dtype.kind == "f" and array.dtype.char == np.dtype(np.longdouble).char:
        with np.errstate(over="ignore"):
            narrow = array.astype(np.float64)
        if not np.array_equal(np.isfinite(narrow), np.isfinite(array)):
            raise ValueError(f"{name} must be finite in 64 bits; it holds larger values")
        return narrow
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _fits(array):
    """Whether JAX, in its precision in force, keeps the whole numbers of an array; it wraps those that it does not."""
    kept = jax.dtypes.canonicalize_dtype(array.dtype)
    if array.dtype.kind not in "iu" or kept == array.dtype or array.size == 0:
        return True
    return np.iinfo(kept).min <= array.min() and array.max() <= np.iinfo(kept).max


def _check_values(name, value):
    if value.size == 0:
        raise ValueError(f"{name} is empty: shape {value.shape}")
    if not is_finite(value):
        raise ValueError(f"{name} must be finite; it holds NaN or infinity")


def is_finite(value):
    """Whether all numbers are finite; yes for a tracer, whose numbers are not known yet."""
    if isinstance(value, jax.core.Tracer):
        return True
    # What lies in a CPU's memory NumPy reads in place: JAX would compile two programs for each shape.
    if not isinstance(value, jax.Array) or all(device.platform == "cpu" for device in value.devices()):
        return bool(np.isfinite(np.asarray(value)).all())
    # Inside a jitted function, too, a concrete array can be looked at.
    with jax.ensure_compile_time_eval():
        return bool(jnp.isfinite(value).all())


def check_params(params, name="params"):
    """A pytree with at least one array, all of them real, floating and finite, of 32 or 64 bits."""
    _check_collections(params, name)
    leaves = jax.tree.leaves(params)
    if not leaves:
        raise ValueError(f"{name} holds no arrays; got {params!r}")
    if any(map(_has_masked, leaves)):
        raise ValueError(f"{name} holds masked values: fill them")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None and isinstance(leaf, float):
            dtype = jnp.result_type(leaf)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            what, where = _kind_of_leaf(leaf, dtype), jax.tree_util.keystr(path)
            where = f" at {where}" if where else ""
            raise TypeError(
                f"{name} must be a pytree of floating-point arrays; it holds {what}{where}. They are what is trained: "
                "what is not (counters, masks, random keys) f can read from around it"
            )
        if jnp.finfo(dtype).bits < 32:
            raise TypeError(
                f"{name} must be of float32 or float64; it holds {dtype}, too coarse for eigenvalues and catapults: "
                'convert it with jax.tree.map(lambda w: w.astype("float32"), params)'
            )
        if not is_finite(leaf):
            raise ValueError(f"{name} must be finite; it holds NaN or infinity")
    # Looked at twice, as JAX and the cache of compiled functions do.
    kind = _unequal_node(jax.tree.structure(params), jax.tree.structure(params))
    if kind is not None:
        raise TypeError(
            f"{name} holds a {kind}, and what flattening it gives beside its arrays does not compare equal to itself: "
            "it must have an __eq__ and a __hash__ (tuples for arrays)"
        )
    params = jax.tree.map(
        lambda leaf: jnp.asarray(_native(name, leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf), params
    )
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(params)})
    if len(dtypes) > 1:
        raise TypeError(f"{name} must be of one floating-point type; it holds {', '.join(dtypes)}")
    return params


def _kind_of_leaf(leaf, dtype):
    if dtype is None:
        return type(leaf).__name__
    return "a random key" if jnp.issubdtype(dtype, jax.dtypes.extended) else f"an array of {dtype}"


def _check_collections(params, name):
    """Refuse a Flax module's state beside its parameters: it would be counted, and moved, as parameters."""
    if isinstance(params, Mapping) and "params" in params and len(params) > 1:
        others = [key for key in params if key != "params"]
        read = ", ".join(f'"{key}": variables["{key}"]' for key in others)
        raise ValueError(
            f"{name} holds {', '.join(map(repr, others))} beside 'params', as the variables of a Flax module do: that "
            'is state, which is not trained. Give variables["params"], and let f read the rest from around it: '
            f'f = lambda p, x: net.apply({{"params": p, {read}}}, x)'
        )
    for node in jax.tree.leaves(params, is_leaf=_is_nnx_variable):
        kinds = [kind.__name__ for kind in type(node).__mro__]
        if _is_nnx_variable(node) and "Param" not in kinds:
            raise ValueError(
                f"{name} holds variables of nnx.{kinds[0]}, which are not trained. Give the first state of "
                "nnx.split(module, nnx.Param, ...), and let f read the rest from around it"
            )


def _is_nnx_variable(node):
    return any(kind.__module__.startswith("flax.nnx") and kind.__name__ == "Variable" for kind in type(node).__mro__)


def check_same_structure(params, params0):
    """``params`` must have the tree structure and the shapes of ``params0``."""
    structure, structure0 = jax.tree.structure(params), jax.tree.structure(params0)
    if not _are_equal(structure, structure0):
        if str(structure) == str(structure0):
            kind = _unequal_node(structure, structure0)
            raise ValueError(
                f"params must have the tree structure of params0: both hold a {kind}, but what flattening it gives "
                "beside its arrays does not compare equal. Give that an __eq__ and a __hash__, or make params from "
                "params0 with jax.tree.map"
            )
        raise ValueError(f"params must have the tree structure of params0, {structure0}; got {structure}")
    # Their leaves, since containers of the user's need not compare equal.
    shapes, shapes0 = (list(map(jnp.shape, jax.tree.leaves(tree))) for tree in (params, params0))
    if shapes != shapes0:
        raise ValueError(f"params must have the shapes of params0, {shapes0}; got {shapes}")
    dtype, dtype0 = (jnp.result_type(*jax.tree.leaves(tree)) for tree in (params, params0))
    if dtype != dtype0:
        raise TypeError(f"params must have the precision of params0, {dtype0}; got {dtype}")


def _are_equal(one, other):
    try:
        return bool(one == other)
    except Exception:  # of an __eq__ of the user's, or of NumPy's arrays
        return False


def _unequal_node(structure, other):
    """The name of the class that makes two trees differ that look the same; None where none does."""
    node, node_of_other = structure.node_data(), other.node_data()
    if node is None:
        return None
    if not _are_equal(node[1], node_of_other[1]):
        return node[0].__name__
    pairs = zip(structure.children(), other.children(), strict=True)
    return next(filter(None, (_unequal_node(*pair) for pair in pairs)), None)
