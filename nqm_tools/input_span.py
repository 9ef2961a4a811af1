"""Fully connected networks trained in the span of their training inputs: fewer coordinates, the same run.

Gradient descent moves first-layer weights only along training inputs, since the gradient is ``sum_i r_i (...) x_i^T``.
With an orthonormal basis ``Q`` (d, n) of that span one can train ``Z = Q^T U`` of shape (n, m) in place of ``U`` of
shape (d, m). An input then enters through ``Q^T x``, and through ``U_start^T (x - Q Q^T x)``, which never changes. For
``f``, ``f_lin`` and ``f_quad`` this is exact with gradient descent, mini-batches and momentum (from zero velocity), and
it pays when n < d. (It would not be exact with weight decay or Adam.)
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from nqm_tools.expansions import FunctionModel, Model, TaylorModel, pytree_model
from nqm_tools.networks import ACTIVATION_FUNCTIONS, fully_connected_activation


def bind(model, x_train, params):
    """``model`` bound to the training inputs: in their span where that is exact and smaller, else as it is."""
    activation = fully_connected_activation(getattr(model, "f", None))
    d = math.prod(x_train.shape[1:])
    if activation is None or len(x_train) >= d:
        return model
    if isinstance(model, TaylorModel) and not _same(params, model.params0):
        # Started elsewhere: the part of that offset outside the span would have to be carried along.
        return model
    start = jax.tree.leaves(params)[0]
    basis, _ = jnp.linalg.qr(x_train.reshape(len(x_train), d).T.astype(start.dtype))
    coordinates = _replace_first(params, basis.T @ start)
    f = _network_in_the_span(activation, d)
    inner = FunctionModel(f) if isinstance(model, FunctionModel) else type(model)(f, coordinates)
    return SpanModel(inner, basis, start)


def _same(params, others):
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True)
    return all(a is b or bool((a == b).all()) for a, b in pairs)


def _replace_first(params, first):
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [first, *leaves[1:]])


@functools.cache
def _network_in_the_span(activation, d):
    """The network of coordinates ``(Z, ...)`` and features ``(Q^T x, U_start^T (x - Q Q^T x))``."""
    act = ACTIVATION_FUNCTIONS[activation]

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
    basis: Any
    start: Any

    def featurize(self, x):
        flat = x.reshape(len(x), -1).astype(self.start.dtype)
        inside = flat @ self.basis
        return inside, (flat - inside @ self.basis.T) @ self.start

    def predict(self, state, features):
        return self.inner.predict(state, features)

    def pullback(self, state, features, r):
        return self.inner.pullback(state, features, r)

    def encode(self, params):
        return _replace_first(params, self.basis.T @ jax.tree.leaves(params)[0])

    def decode(self, state):
        moved = jax.tree.leaves(state)[0] - self.basis.T @ self.start
        return _replace_first(state, self.start + self.basis @ moved)
