"""Taylor models of any JAX function ``f(params, x)`` in its parameters, over neural-tangents' expansions.

With ``delta = params - params0`` and the Hessian ``H`` of ``f(.; x)`` at ``params0``,

    f_lin(params; x)  = f(params0; x) + delta . grad f(params0; x)
    f_quad(params; x) = f_lin(params; x) + 1/2 delta^T H delta        (the neural quadratic model, NQM)

All models are trained by the same loop; :class:`Model` says what it asks of them. A function is evaluated as it is at
the time of the call: what it reads around it (a global, an attribute, an array) may change in between.

>>> import jax.numpy as jnp
>>> f = lambda w, x: jnp.sin(w) * x
>>> quad = quadraticize(f, jnp.array(0.0))
>>> float(quad(jnp.array(0.5), jnp.ones((1, 1)))[0, 0])  # sin(w) = w + O(w^3)
0.5
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np
from jaxtyping import Array, Float, PyTree, Real

from nqm_tools._kept import Kept, keep
from nqm_tools._program import Fresh, plain_switches
from nqm_tools._types import Function, Inputs, Numbers, Outputs, ValueAndPullback
from nqm_tools._validation import (
    InputError,
    check_function,
    check_inputs,
    check_params,
    check_same_structure,
    is_finite,
)

__all__ = [
    "MODELS",
    "FunctionModel",
    "LinearModel",
    "Model",
    "QuadraticModel",
    "TaylorModel",
    "as_model",
    "linearize",
    "quadraticize",
    "remainder",
    "second_order_term",
]

_Class = TypeVar("_Class", bound=type)


class Model:
    """What the trainer asks of a model. The defaults suit models whose state is their parameters.

    Before a run it is bound to the training inputs (:func:`nqm_tools.closed_forms.bind`): what is trained need not be
    the parameters themselves, and what a test input contributes may depend on the training inputs. The bound model is a
    JAX pytree (so that its arrays are arguments of the compiled loop, never constants in it) with

    - ``featurize(x)``: what ``predict`` needs of inputs, computed once per data set;
    - ``keep(features)``: what may take the place of the features of the training inputs where every step uses all of
      them: with results that no step changes;
    - ``predict(state, features) -> (n, k)``;
    - ``pullback(state, features, r)``: the gradient of ``sum(r * prediction)`` in the state, for ``r`` of (n, k);
    - ``value_and_pullback(state, features)``: the prediction and the function ``r -> pullback``, for models that get
      both for less than twice the work;
    - ``encode(params) -> state`` and ``decode(state) -> params``, and the same for directions (velocities, gradients),
      ``encode_direction`` and ``decode_direction``; the former is None where not every direction has a state;
    - ``distance(state, other)``: between the parameters of two states, Euclidean;
    - ``kernel(state, features, others=None) -> (n1, n2, k, k)``, the tangent kernel between the inputs of ``features``
      and those of ``others`` (by default the same; one of the two must be training inputs), if it has a closed form,
      else None;
    - ``form``: what is trained in the parameters' place, in words.

    ``isometric`` tells whether distances between states are those between their parameters. A model that draws its own
    start, as networks do, has ``init(key, input_shape) -> params``.

    Examples
    --------
    >>> model = as_model(lambda w, x: x @ w)
    >>> x, w = jnp.eye(2), jnp.array([3.0, 4.0])
    >>> features = model.featurize(x)
    >>> model.predict(w, features).tolist()
    [[3.0], [4.0]]
    >>> model.pullback(w, features, jnp.array([[1.0], [-1.0]])).tolist()
    [1.0, -1.0]
    """

    name: str = "f"
    form: str = "parameters"
    kernel: Callable[..., Float[Array, "n1 n2 k k"]] | None = None
    init: Callable[..., PyTree] | None = None
    isometric: bool = True
    quadratic: bool = False  # whether the model is quadratic (or linear) in its state

    def featurize(self, x: Real[Array, "n ..."]) -> PyTree:
        return x

    def keep(self, features: PyTree) -> PyTree:
        return features

    def value_and_pullback(self, state: PyTree, features: PyTree) -> ValueAndPullback:
        return self.predict(state, features), functools.partial(self.pullback, state, features)

    def encode(self, params: PyTree) -> PyTree:
        return params

    def decode(self, state: PyTree) -> PyTree:
        return state

    def encode_direction(self, direction: PyTree) -> PyTree:
        return direction

    def decode_direction(self, direction: PyTree) -> PyTree:
        return direction

    def distance(self, state: PyTree, other: PyTree) -> Float[Array, ""]:
        squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), state, other)
        return jnp.sqrt(sum(jax.tree.leaves(squares)))

    def __call__(self, params: PyTree, x: Inputs) -> Outputs:
        return self.predict(params, x)


def static(default: object = dataclasses.MISSING) -> dataclasses.Field:
    """A field of a :func:`pytree_model` that is no data: a function, a name, a flag; hashable."""
    return dataclasses.field(default=default, metadata={"static": True})


def pytree_model(cls: _Class) -> _Class:
    """A frozen dataclass, compared by identity, and a JAX pytree: all fields are data but those made by :func:`static`.

    Not ``jax.tree_util.register_dataclass``: JAX (0.10.2 and 0.12.0.1, not 0.9.0) takes the structures of two such
    classes for equal when their fields are, though their hashes differ. Where the hashes collide, about one process
    in fifty, a jitted function that was traced for ``f_lin`` then answers for ``f_quad``.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)
    data = [field.name for field in fields if not field.metadata.get("static")]
    fixed = [field.name for field in fields if field.metadata.get("static")]

    def flatten(model):
        return tuple(getattr(model, name) for name in data), tuple(getattr(model, name) for name in fixed)

    def unflatten(functions, arrays):
        # JAX may put anything in the place of arrays, so this must not pass through the checks of an __init__.
        model = object.__new__(cls)
        for name, value in zip((*data, *fixed), (*arrays, *functions), strict=True):
            object.__setattr__(model, name, value)
        return model

    jax.tree_util.register_pytree_node(cls, flatten, unflatten)
    return cls


@pytree_model
class FunctionModel(Model):
    """``f`` itself, as a model.

    Examples
    --------
    >>> model = FunctionModel(lambda w, x: x @ w)
    >>> model(jnp.array([3.0, 4.0]), jnp.eye(2)).shape
    (2, 1)
    """

    f: Function = static()

    def predict(self, state: PyTree, features: PyTree) -> Outputs:
        return with_output_axis(self.f)(state, features)

    def pullback(self, state: PyTree, features: PyTree, r: Outputs) -> PyTree:
        return self.value_and_pullback(state, features)[1](r)

    def value_and_pullback(self, state: PyTree, features: PyTree) -> ValueAndPullback:
        value, vjp = jax.vjp(lambda params: self.predict(params, features), state)
        return value, lambda r: vjp(r)[0]


class TaylorModel(Model):
    """What the two expansions share: the function ``f`` and where it is expanded.

    Examples
    --------
    >>> quad = quadraticize(lambda w, x: jnp.exp(w) * x, jnp.array(0.0))
    >>> isinstance(quad, TaylorModel), float(quad.params0)
    (True, 0.0)
    """

    f: Function
    params0: PyTree

    def __call__(self, params: PyTree, x: Inputs) -> Outputs:
        check_same_structure(params, self.params0)
        _, x, _ = check_model(self.f, self.params0, x)
        return Fresh(_predict)(self, params, x)


@pytree_model
class LinearModel(TaylorModel):
    """The linear model of ``f`` around ``params0``; made by :func:`linearize`.

    Examples
    --------
    >>> lin = linearize(lambda w, x: w**2 * x, jnp.array(1.0))
    >>> lin.name, float(lin(jnp.array(3.0), jnp.ones((1, 1)))[0, 0])
    ('f_lin', 5.0)
    """

    f: Function = static()
    params0: PyTree

    name = "f_lin"
    quadratic = True

    def predict(self, state: PyTree, features: PyTree) -> Outputs:
        return nt.linearize(with_output_axis(self.f), self.params0)(state, features)

    def pullback(self, state: PyTree, features: PyTree, r: Outputs) -> PyTree:
        return FunctionModel(self.f).pullback(self.params0, features, r)


@pytree_model
class QuadraticModel(TaylorModel):
    """The neural quadratic model of ``f`` around ``params0``; made by :func:`quadraticize`.

    Examples
    --------
    >>> quad = quadraticize(lambda w, x: w**3 * x, jnp.array(1.0))
    >>> quad.name, float(quad(jnp.array(2.0), jnp.ones((1, 1)))[0, 0])
    ('f_quad', 7.0)
    """

    f: Function = static()
    params0: PyTree

    name = "f_quad"
    quadratic = True

    def keep(self, features: PyTree) -> PyTree:
        # The pass through f at params0 is a tenth of a step's operations.
        if jax.config.jax_disable_jit:
            return features
        outputs = jax.eval_shape(FunctionModel(self.f).predict, self.params0, features)
        kept = keep(self._steps, (self.params0, features), self.params0, outputs)
        return features if kept is None else kept

    def predict(self, state: PyTree, features: PyTree) -> Outputs:
        if isinstance(features, Kept):
            return features(self._delta(state))[0]
        return nt.taylor_expand(with_output_axis(self.f), self.params0, 2)(state, features)

    def pullback(self, state: PyTree, features: PyTree, r: Outputs) -> PyTree:
        return self.value_and_pullback(state, features)[1](r)

    def value_and_pullback(self, state: PyTree, features: PyTree) -> ValueAndPullback:
        if isinstance(features, Kept):
            return features(self._delta(state))
        return self._derivatives(self.params0, features, self._delta(state))

    def _delta(self, state):
        return jax.tree.map(jnp.subtract, state, self.params0)

    def _steps(self, fixed, delta, r):
        value, pullback = self._derivatives(*fixed, delta)
        return value, pullback(r)

    def _derivatives(self, params0, x, delta):
        # With first(p) = (f(p), J(p) delta): its derivative along delta ends in delta^T H delta, and r . (both of its
        # parts) has the gradient J^T r + H_r delta at params0. `make bench` compares the orders of derivatives.
        def first(params):
            return jax.jvp(lambda p: FunctionModel(self.f).predict(p, x), (params,), (delta,))

        (value, slope), (_, curvature) = jax.jvp(first, (params0,), (delta,))
        _, vjp = jax.vjp(first, params0)
        return value + slope + curvature / 2, lambda r: vjp((r, r))[0]


def _predict(model, params, x):
    return model.predict(params, x)


def with_output_axis(f: Function) -> Callable[[PyTree, Inputs], Outputs]:
    """``f`` with outputs (n, k): (n,) becomes (n, 1)."""

    def f_2d(params, x):
        outputs = f(params, x)
        if outputs.ndim == 2:
            return outputs
        # An f that ends in `.squeeze()` drops the axis of a single example too.
        return outputs.reshape(len(jax.tree.leaves(x)[0]), -1)

    return f_2d


def linearize(f: Function, params0: PyTree) -> LinearModel:
    """The linear model ``f_lin`` of ``f`` around ``params0``.

    Parameters
    ----------
    f : callable
        Any JAX function ``f(params, x) -> (n, k)`` or ``(n,)``, differentiable in ``params``.
    params0
        The pytree of floating-point arrays to expand around.

    Returns
    -------
    LinearModel
        Callable as ``model(params, x) -> (n, k)``; ``nqm_tools.train`` starts it at ``params0``.

    Raises
    ------
    TypeError, ValueError
        If ``f`` is no hashable function, or ``params0`` holds no, non-floating or non-finite arrays.

    Examples
    --------
    >>> f = lambda w, x: w**3 * x
    >>> lin = linearize(f, jnp.array(1.0))
    >>> float(lin(jnp.array(2.0), jnp.ones((1, 1)))[0, 0])  # 1 + 3 delta
    4.0
    """
    return LinearModel(check_function(f), check_params(params0, "params0"))


def quadraticize(f: Function, params0: PyTree) -> QuadraticModel:
    """The neural quadratic model ``f_quad`` of ``f`` around ``params0`` (second-order Taylor expansion).

    Arguments, result and errors as in :func:`linearize`.

    Notes
    -----
    Zhu, Liu, Radhakrishnan, Belkin (ICLR 2024), definition of the NQM. Computed with forward-mode derivatives
    (``nt.taylor_expand``), so it costs a few evaluations of ``f`` and never builds a Hessian.

    Examples
    --------
    >>> f = lambda w, x: w**3 * x
    >>> quad = quadraticize(f, jnp.array(1.0))
    >>> float(quad(jnp.array(2.0), jnp.ones((1, 1)))[0, 0])  # 1 + 3 delta + 3 delta^2
    7.0
    """
    return QuadraticModel(check_function(f), check_params(params0, "params0"))


# The models of a function f around params0, by name; the one table of them.
MODELS = {"f": lambda f, params0: f, "f_lin": linearize, "f_quad": quadraticize}


def second_order_term(f: Function, params0: PyTree, params: PyTree, x: Inputs) -> Outputs:
    """The quadratic model's second-order term, ``1/2 delta^T H_f(params0; x) delta``, of shape (n, k).

    Parameters
    ----------
    f : callable
        ``f(params, x) -> (n, k)`` or ``(n,)``.
    params0, params
        Pytrees of the same structure and shapes.
    x
        Inputs (n, ...).

    Examples
    --------
    >>> f, x = lambda w, x: w**3 * x, jnp.ones((1, 1))
    >>> float(second_order_term(f, jnp.array(1.0), jnp.array(2.0), x)[0, 0])  # 3 delta^2
    3.0
    """
    return Fresh(_second_order_term)(*_check_expansion(f, params0, params, x))


def _second_order_term(quad, params, x):
    delta = jax.tree.map(jnp.subtract, params, quad.params0)
    exact = FunctionModel(quad.f)

    def slope(at):
        return jax.jvp(lambda p: exact.predict(p, x), (at,), (delta,))[1]

    return jax.jvp(slope, (quad.params0,), (delta,))[1] / 2


def remainder(f: Function, params0: PyTree, params: PyTree, x: Inputs) -> Outputs:
    """What the quadratic model leaves out, ``f(params; x) - f_quad(params; x)``, of shape (n, k).

    Arguments as in :func:`second_order_term`. It falls with the third power of ``params - params0`` for a smooth
    ``f``.

    Examples
    --------
    >>> f, x = lambda w, x: w**3 * x, jnp.ones((1, 1))
    >>> float(remainder(f, jnp.array(1.0), jnp.array(2.0), x)[0, 0])  # delta^3
    1.0
    """
    return Fresh(_remainder)(*_check_expansion(f, params0, params, x))


def _remainder(quad, params, x):
    return FunctionModel(quad.f).predict(params, x) - quad.predict(params, x)


def _check_expansion(f, params0, params, x):
    params0, params = check_params(params0, "params0"), check_params(params)
    check_same_structure(params, params0)
    _, x, _ = check_model(f, params0, x)
    return QuadraticModel(f, params0), params, x


def as_model(f: Function) -> Model:
    """``f`` as a :class:`Model`: unchanged if it is one, else wrapped.

    Examples
    --------
    >>> as_model(jnp.multiply).name
    'f'
    >>> lin = linearize(jnp.multiply, jnp.array(1.0))
    >>> as_model(lin) is lin
    True
    """
    return f if isinstance(f, Model) else FunctionModel(check_function(f))


@plain_switches()
def check_model(f: Function, params: PyTree, x: Inputs, name: str = "x") -> tuple[Model, Real[Array, "n ..."], int]:
    """``f`` as a model, ``x`` as an array of the parameters' precision, and the number k of outputs.

    Raises
    ------
    ValueError
        If ``f(params, x)`` fails or does not give (n, k) or (n,) for the n inputs.
    """
    model = as_model(f)
    x = match_precision(check_inputs(name, x), params)
    if isinstance(model, TaylorModel):
        check_same_structure(params, model.params0)
    k = _count_outputs(getattr(model, "f", model), params, x, name)
    return model, x, k


def _count_outputs(function, params, x, name):
    try:
        # A lambda, since JAX keeps weak references to functions and a named tuple (a network) takes none.
        outputs = jax.eval_shape(lambda p, x: function(p, x), params, x)
    except InputError:
        raise
    except Exception as error:
        raise ValueError(f"f(params, x) failed for {name} of shape {x.shape} and dtype {x.dtype}") from error
    n = x.shape[0]
    if not isinstance(outputs, jax.ShapeDtypeStruct):
        raise TypeError(f"f(params, x) must return one array, (n, k) or (n,); got {type(outputs).__name__}")
    shape = outputs.shape
    if n == 1 and len(shape) < 2:  # squeezed, () or (k,)
        shape = (1, *(shape or (1,)))
    if len(shape) not in (1, 2) or shape[0] != n:
        raise ValueError(f"f(params, x) must return (n, k) or (n,) with n = {n} examples; got {outputs.shape}")
    dtype = jnp.result_type(*jax.tree.leaves(params))
    if outputs.dtype != dtype:
        raise TypeError(f"f(params, x) must return the floating-point type of params, {dtype}; got {outputs.dtype}")
    return shape[1] if len(shape) == 2 else 1


def same(params: PyTree, others: PyTree) -> bool:
    """Whether two trees of one structure hold equal arrays."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True)
    return all(a is b or bool((a == b).all()) for a, b in pairs)


def match_precision(x: Numbers, params: PyTree) -> Real[Array, "..."]:
    """``x`` in the floating-point type of ``params``; integer inputs (tokens) stay as they are."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.asarray(x)
    with np.errstate(over="ignore"):
        cast = jnp.asarray(x, dtype=jnp.result_type(*jax.tree.leaves(params)))
    if cast.dtype != x.dtype and not is_finite(cast):
        raise ValueError(f"inputs and targets must be finite; some are too large for the parameters' {cast.dtype}")
    return cast
