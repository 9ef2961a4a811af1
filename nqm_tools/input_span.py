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

from nqm_tools._lapack import one_thread
from nqm_tools.expansions import FunctionModel, LinearModel, Model, pytree_model
from nqm_tools.networks import ACTIVATION_FUNCTIONS
from nqm_tools.two_layer import TwoLayerNetwork, TwoLayerQuadratic


def bind(model, network, x_train, params):
    """A model of a fully connected ``network`` (its architecture), in the span of ``x_train`` where that is smaller.

    Two-layer networks and their quadratic models come in closed form, in the span or not.
    """
    d = math.prod(x_train.shape[1:])
    closed = network.depth == 2 and not isinstance(model, LinearModel)
    if len(x_train) >= d:
        return SpanModel(_closed_form(model, network.activation, d, params), None, None) if closed else model
    start = jax.tree.leaves(params)[0]
    with one_thread():
        basis, _ = jax.block_until_ready(jnp.linalg.qr(x_train.reshape(len(x_train), d).T.astype(start.dtype)))
    coordinates = _replace_first(params, basis.T @ start)
    if closed:
        return SpanModel(_closed_form(model, network.activation, d, coordinates), basis, start)
    f = _network_in_the_span(network.activation, d)
    inner = FunctionModel(f) if isinstance(model, FunctionModel) else type(model)(f, coordinates)
    return SpanModel(inner, basis, start)


def _closed_form(model, activation, d, coordinates):
    scale = 1 / math.sqrt(d)
    if isinstance(model, FunctionModel):
        return TwoLayerNetwork(activation, scale)
    return TwoLayerQuadratic(activation, scale, coordinates)


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
    """A model bound to its training inputs; its state is the parameters with ``Q^T U`` in the place of ``U``.

    Without a basis the state is the parameters themselves.
    """

    inner: Model
    basis: Any
    start: Any

    def featurize(self, x):
        flat = x.reshape(len(x), -1)
        if self.basis is None:
            return self.inner.featurize((flat, None))
        flat = flat.astype(self.start.dtype)
        inside = flat @ self.basis
        return self.inner.featurize((inside, (flat - inside @ self.basis.T) @ self.start))

    def predict(self, state, features):
        return self.inner.predict(state, features)

    def pullback(self, state, features, r):
        return self.inner.pullback(state, features, r)

    def value_and_pullback(self, state, features):
        return self.inner.value_and_pullback(state, features)

    @property
    def kernel(self):
        return self.inner.kernel

    def encode(self, params):
        if self.basis is None:
            return params
        return _replace_first(params, self.basis.T @ jax.tree.leaves(params)[0])

    def decode(self, state):
        if self.basis is None:
            return state
        moved = jax.tree.leaves(state)[0] - self.basis.T @ self.start
        return _replace_first(state, self.start + self.basis @ moved)
