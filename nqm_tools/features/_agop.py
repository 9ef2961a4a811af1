"""Average gradient outer products of any function, in reverse mode and in tiles, and their alignment."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Real

from nqm_tools._coupling import is_coupled
from nqm_tools._program import Fresh
from nqm_tools._tiles import MEMORY, REVERSE, working_numbers
from nqm_tools._types import Agop, Function, Inputs
from nqm_tools._validation import check_agop, check_not_traced, check_params, check_rate
from nqm_tools.expansions import Model, check_model
from nqm_tools.kernels import check_is_finite


def agop(
    f: Function, params: PyTree, x: Inputs, *, centred: bool = False, memory: float = MEMORY
) -> Float[Array, "d d"]:
    """The average gradient outer product of ``f(params, .)`` over inputs.

    Parameters
    ----------
    f : callable
        ``f(params, x) -> (n, k)`` or ``(n,)``: a network, a model from :func:`nqm_tools.linearize` or
        :func:`nqm_tools.quadraticize`, or any JAX function that treats its examples independently.
    params
        Pytree of floating-point arrays.
    x : array (n, ...)
        Floating-point inputs; images are flattened.
    centred : bool
        Take from each ``J(x_i)`` the mean over examples first.
    memory : float
        Bytes that the computation may take besides its result: it goes over so many examples at a time.

    Returns
    -------
    jax.Array
        (d, d) with d the numbers of an example; summed over outputs.

    Raises
    ------
    TypeError, ValueError
        For whole numbers as inputs, which have no gradients, and functions that couple their examples.

    Notes
    -----
    Reverse mode: about the cost of a gradient step for each output. Taylor models of ReLU networks jump in x, where
    gates of the point of expansion flip; gradients know nothing of the jumps.

    Examples
    --------
    >>> x = jnp.array([[1.0, 2.0], [3.0, 0.0]])
    >>> agop(lambda w, x: w * x[:, 0] * x[:, 1], jnp.array(1.0), x).tolist()  # gradients (2, 1) and (0, 3)
    [[2.0, 1.0], [1.0, 5.0]]
    """
    model, params, x, size = _check(f, params, x, memory)
    if not isinstance(centred, bool):
        raise TypeError(f"centred must be True or False; got {centred!r}")
    found = Fresh(functools.partial(average_outer_product, size=size, centred=centred))(model, params, x)
    check_is_finite("the average gradient outer product", found, params)
    return found


def agop_root(f: Function, params: PyTree, x: Inputs) -> Float[Array, "nk d"]:
    """All gradients in the inputs over the root of n: rows R with ``agop = R^T R``.

    Parameters
    ----------
    f, params, x
        As in :func:`agop`.

    Returns
    -------
    jax.Array
        (n k, d). With more inputs than rows it is a root that :func:`agop_alignment` takes in place of the matrix.

    Examples
    --------
    >>> x = jnp.array([[1.0, 2.0, 5.0]])
    >>> agop_root(lambda w, x: w * x[:, 0] * x[:, 1], jnp.array(1.0), x).tolist()
    [[2.0, 1.0, 0.0]]
    """
    model, params, x, size = _check(f, params, x, MEMORY)
    found = Fresh(functools.partial(root, size=size))(model, params, x)
    check_is_finite("the gradient in the inputs", found, params)
    return found


def _check(f, params, x, memory):
    """The function as a model, its parameters, inputs as an array, and how many examples go at a time."""
    params, memory = check_params(params), check_rate("memory", memory)
    model, x, k = check_model(f, params, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must be floating-point numbers, since gradients are taken in them; got {x.dtype}")
    if x.ndim < 2:
        raise ValueError(f"x must have shape (n, d) or (n, ...); got {x.shape}")
    if is_coupled(model, params, x):
        raise ValueError("f must treat its examples independently: its outputs for some depend on the others")
    return model, params, x, examples_at_once(model, params, x, k, memory)


def examples_at_once(model: Model, params: PyTree, x: Real[Array, "n ..."], k: int, memory: float = MEMORY) -> int:
    """How many examples' gradients in the inputs fit in so many bytes; at least one.

    Examples
    --------
    >>> from nqm_tools.expansions import as_model
    >>> examples_at_once(as_model(lambda w, x: x @ w), jnp.ones(3), jnp.ones((5, 3)), 1, memory=1.0)
    1
    """
    numbers = k * (REVERSE * working_numbers(model, params, x[:1]) + 2 * x[0].size)
    return int(min(len(x), max(1, memory // (numbers * x.dtype.itemsize))))


def _jacobians(model, params, x):
    """``df/dx`` (n, k, d) of each example."""
    each = jax.vmap(jax.jacrev(lambda one: model(params, one[None])[0]))(x)
    return each.reshape(*each.shape[:2], -1)


def average_outer_product(
    model: Model, params: PyTree, x: Real[Array, "n ..."], size: int, centred: bool = False
) -> Float[Array, "d d"]:
    """:func:`agop` of a model inside JAX, so many examples at a time.

    Examples
    --------
    >>> from nqm_tools.expansions import as_model
    >>> average_outer_product(as_model(lambda w, x: x @ w), jnp.array([2.0, 0.0]), jnp.ones((4, 2)), size=3).tolist()
    [[4.0, 0.0], [0.0, 0.0]]
    """
    n = len(x)
    centre = 0.0
    if centred:
        centre = _summed(lambda part: _jacobians(model, params, part).sum(axis=0), x, size) / n

    def products(part):
        rows = _jacobians(model, params, part) - centre
        rows = rows.reshape(-1, rows.shape[-1])
        return rows.T @ rows

    return _summed(products, x, size) / n


def _summed(function, x, size):
    """The sum of ``function`` over tiles of so many examples."""
    n = len(x)
    rest = n % size
    if size == n:
        return function(x)
    parts = x[: n - rest].reshape(-1, size, *x.shape[1:])
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, parts[0]))
    total, _ = jax.lax.scan(lambda total, part: (total + function(part), None), zero, parts)
    return total + function(x[n - rest :]) if rest else total


def root(model: Model, params: PyTree, x: Real[Array, "n ..."], size: int) -> Float[Array, "nk d"]:
    """:func:`agop_root` of a model inside JAX, so many examples at a time.

    Examples
    --------
    >>> from nqm_tools.expansions import as_model
    >>> root(as_model(lambda w, x: x @ w), jnp.array([2.0, 0.0]), jnp.ones((4, 2)), size=3).tolist()[0]
    [1.0, 0.0]
    """
    each = jax.lax.map(lambda one: _jacobians(model, params, one[None])[0], x, batch_size=size)
    return each.reshape(-1, each.shape[-1]) / np.sqrt(len(x)).astype(each.dtype)


def alignment_of(
    model: Model, params: PyTree, x: Real[Array, "n ..."], reference: Float[Array, "r d"]
) -> Float[Array, ""]:
    """The cosine of a model's AGOP with a reference inside JAX; no matrix (d, d) where the gradients are fewer rows.

    Examples
    --------
    >>> from nqm_tools.expansions import as_model
    >>> model, x = as_model(lambda w, x: x @ w), jnp.ones((4, 2))
    >>> round(alignment_of(model, jnp.array([2.0, 0.0]), x, jnp.eye(2)).item(), 4)
    0.7071
    """
    k = jax.eval_shape(lambda: model(params, x)).shape[1]
    size = examples_at_once(model, params, x, k)
    few = len(x) * k < x[0].size
    return cosine(root(model, params, x, size) if few else average_outer_product(model, params, x, size), reference)


def agop_alignment(a: Agop, b: Agop) -> float:
    """The cosine of two AGOPs, ``tr(A^T B)/(|A| |B|)``, with no mean taken: from 0 to 1.

    Parameters
    ----------
    a, b : array (d, d) or (r, d)
        Symmetric matrices, or roots: rows R with r < d and ``A = R^T R``. Of two roots no matrix (d, d) is made.

    Returns
    -------
    float
        In float64. The identity scores ``sqrt(r/d)`` against a projection on r of d directions.

    Raises
    ------
    TypeError, ValueError
        For what is no matrix or root, for other sizes, and for zero, which has no direction.

    References
    ----------
    Zhu, Liu, Radhakrishnan, Belkin (2023), "Catapults in SGD", arXiv:2306.04815.

    Examples
    --------
    >>> round(agop_alignment(np.eye(2), np.diag([1.0, 0.0])), 4)
    0.7071
    >>> agop_alignment(np.array([[3.0, 0.0]]), np.diag([1.0, 0.0]))  # a root
    1.0
    """
    check_not_traced("agop_alignment", a, b)
    a, b = check_agop("a", a), check_agop("b", b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b must be of the same number of inputs; got {a.shape} and {b.shape}")
    return float(cosine(a, b))


def cosine(a, b):
    return _inner(a, b) / (_inner(a, a) * _inner(b, b)) ** 0.5


def _inner(a, b):
    """``tr(A^T B)`` of matrices or roots, of NumPy or of JAX."""
    if a.shape[0] == a.shape[1]:
        return (a * b).sum() if b.shape[0] == b.shape[1] else ((b @ a) * b).sum()
    return ((a @ b) * a).sum() if b.shape[0] == b.shape[1] else ((a @ b.T) ** 2).sum()
