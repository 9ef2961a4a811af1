"""Fully connected networks trained in the span of their training inputs: fewer coordinates, the same run.

Gradient descent moves first-layer weights only along training inputs, since the gradient is ``sum_i r_i (...) x_i^T``.
With an orthonormal basis ``Q`` (d, n) of that span one can train ``Z = Q^T U`` of shape (n, m) in place of ``U`` of
shape (d, m). An input then enters through ``Q^T x``, and through ``U_start^T (x - Q Q^T x)``, which never changes. For
``f``, ``f_lin`` and ``f_quad`` this is exact with gradient descent, mini-batches and momentum (from zero velocity), and
it pays when n < d. (It would not be exact with weight decay or Adam.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Real

from nqm_tools._lapack import one_thread
from nqm_tools._types import Outputs, ValueAndPullback
from nqm_tools.closed_forms.two_layer import closed_form
from nqm_tools.expansions import FunctionModel, LinearModel, Model, QuadraticModel, TaylorModel, pytree_model, same
from nqm_tools.networks import FullyConnected, activation_function, architecture

if TYPE_CHECKING:
    from nqm_tools.training._rules import Rule


def bind(model: Model, x_train: Real[Array, "n ..."], params: PyTree, rule: Rule) -> Model | None:
    """A fully connected network's model in the span of ``x_train``, where that is smaller than all coordinates."""
    known = architecture(getattr(model, "f", None))
    d = math.prod(x_train.shape[1:])
    if not isinstance(known, FullyConnected) or not rule.linear or len(x_train) >= d:
        return None
    if type(model) not in (FunctionModel, LinearModel, QuadraticModel):
        return None
    if isinstance(model, TaylorModel) and not same(params, model.params0):
        return None  # its offset outside the span would have to be carried along
    start = jax.tree.leaves(params)[0]
    with one_thread():
        basis, _ = jax.block_until_ready(jnp.linalg.qr(x_train.reshape(len(x_train), d).T.astype(start.dtype)))
    coordinates = _replace_first(params, basis.T @ start)
    inner = closed_form(model, known, d, coordinates)
    if inner is None:
        f = _network_in_the_span(known.activation, d)
        inner = FunctionModel(f) if type(model) is FunctionModel else type(model)(f, coordinates)
    return SpanModel(inner, basis, start)


def _replace_first(params, first):
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [first, *leaves[1:]])


def _network_in_the_span(activation, d):
    """The network of coordinates ``(Z, ...)`` and features ``(Q^T x, U_start^T (x - Q Q^T x))``."""
    act = activation_function(activation)

    def f(params, features):
        inside, outside = features
        first, *others = jax.tree.leaves(params)
        hidden = (inside @ first + outside) / math.sqrt(d)
        for weights in others:
            hidden = act(hidden) @ weights / math.sqrt(weights.shape[0])
        return hidden

    return f


@pytree_model
class SpanModel(Model):
    """A model bound to its training inputs; its state is the parameters with ``Q^T U`` in the place of ``U``."""

    inner: Model
    basis: Float[Array, "d s"]
    start: Float[Array, "d m"]

    @property
    def form(self) -> str:
        inner = self.inner.form
        return "input span" if inner == Model.form else f"input span, {inner}"

    def featurize(self, x: Real[Array, "n ..."]) -> PyTree:
        flat = x.reshape(len(x), -1).astype(self.start.dtype)
        inside = flat @ self.basis
        return self.inner.featurize((inside, (flat - inside @ self.basis.T) @ self.start))

    def predict(self, state: PyTree, features: PyTree) -> Outputs:
        return self.inner.predict(state, features)

    def pullback(self, state: PyTree, features: PyTree, r: Outputs) -> PyTree:
        return self.inner.pullback(state, features, r)

    def value_and_pullback(self, state: PyTree, features: PyTree) -> ValueAndPullback:
        return self.inner.value_and_pullback(state, features)

    @property
    def kernel(self) -> Callable[..., Float[Array, "n1 n2 k k"]] | None:
        return self.inner.kernel

    def encode(self, params: PyTree) -> PyTree:
        return _replace_first(params, self.basis.T @ jax.tree.leaves(params)[0])

    def decode(self, state: PyTree) -> PyTree:
        moved = jax.tree.leaves(state)[0] - self.basis.T @ self.start
        return _replace_first(state, self.start + self.basis @ moved)

    encode_direction = encode

    def decode_direction(self, direction: PyTree) -> PyTree:
        return _replace_first(direction, self.basis @ jax.tree.leaves(direction)[0])
