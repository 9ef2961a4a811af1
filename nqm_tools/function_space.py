"""Linear models trained in function space: one number an example in place of the parameters.

Gradient descent moves the parameters of a linear model by ``J^T alpha``, with ``J`` the Jacobian on the training inputs
X and alpha (n, k) minus the sum of the residuals met, each times its learning rate. So

    f_lin(x) = f_lin(start; x) + K(x, X) alpha,

and the gradient in alpha's place is the residual itself: a step costs one product with the kernel ``K(X, X)``. Exact
for gradient descent, mini-batches and momentum (from zero velocity).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nqm_tools.expansions import FunctionModel, LinearModel, Model, pytree_model, same
from nqm_tools.kernels import tangent_kernel
from nqm_tools.networks import Network

# Beyond this many rows the kernel is no longer the smaller thing.
MOST_ROWS = 4096
# The Jacobian of a function that is not one of the package's networks is built on all training inputs at once: up to
# this many numbers, half a gigabyte in float32.
MOST_JACOBIAN = 2**27
# Kernel rows of this many inputs at a time.
BLOCK = 256


def bind(model, x_train, params, network):
    """The :class:`FunctionSpaceModel` of a linear model, or the model as it is where that is not smaller or not exact.

    ``network(model, x_train, params)`` gives the closed form of a network.
    """
    outputs = jax.eval_shape(FunctionModel(model.f).predict, params, x_train).shape[1]
    rows = len(x_train) * outputs
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    if rows > MOST_ROWS or (not isinstance(model.f, Network) and rows * size > MOST_JACOBIAN):
        return model
    start = None if same(params, model.params0) else params
    inner = network(FunctionModel(model.f), x_train, model.params0)
    state, train = inner.encode(model.params0), inner.featurize(x_train)
    rows = _rows(FunctionSpaceModel(model, start, inner, state, x_train, train, None), x_train)
    bound = FunctionSpaceModel(model, start, inner, state, x_train, train, rows)
    if not isinstance(model.f, Network) and not _is_exact(bound):
        return model
    return bound


def _is_exact(bound):
    """Whether the kernel moves the outputs as the parameters do: not if ``f`` makes examples depend on each other."""
    values = bound.rows[0]
    alpha = jnp.cos(jnp.arange(values.size, dtype=values.dtype)).reshape(values.shape)
    expected = _predict(bound.model, bound.decode(alpha), bound.x_train) - values
    found = bound.predict(alpha, bound.rows) - values
    rounding = 1e-3 if values.dtype == jnp.float32 else 1e-8
    return bool(jnp.abs(found - expected).max() <= rounding * jnp.abs(expected).max())


@pytree_model
class FunctionSpaceModel(Model):
    """A linear model whose state is alpha; ``inner`` is its network's closed form, ``rows`` the training features.

    ``start`` is None where that is the expansion point.
    """

    model: LinearModel
    start: Any
    inner: Model
    state: Any
    x_train: Any
    train: Any
    rows: Any

    quadratic = True

    def featurize(self, x):
        """(values at the start (n, k), kernel rows (n, k, n_train k), number of the example)."""
        return self.rows if x is self.x_train else _rows(self, x)

    def predict(self, state, features):
        values, kernel, _ = features
        return values + kernel @ state.ravel()

    def pullback(self, state, features, r):
        """For training inputs, or a mini-batch of them."""
        return jnp.zeros_like(state).at[features[2]].add(r)

    def kernel(self, state, features, others=None):
        n, k = features[0].shape
        return features[1].reshape(n, k, -1, k).transpose(0, 2, 1, 3)

    def encode(self, params):
        return jnp.zeros_like(self.rows[0])

    def decode(self, state):
        moved = _pullback(FunctionModel(self.model.f), self.model.params0, self.x_train, state)
        start = self.model.params0 if self.start is None else self.start
        return jax.tree.map(jnp.add, start, moved)

    def distance(self, state, other):
        moved = (state - other).ravel()
        square = moved @ (self.rows[1].reshape(moved.size, -1) @ moved)
        return jnp.sqrt(jnp.maximum(square, 0))  # rounding can make the square of a tiny distance negative


def _rows(bound, x):
    """The features of inputs, a block at a time; the last one is filled up, so that one size is compiled."""
    n = len(x)
    size = min(BLOCK, n)
    x = np.asarray(x)  # sliced and put together outside JAX, which would compile every slice
    x = np.concatenate([x, np.broadcast_to(x[:1], (-n % size, *x.shape[1:]))])
    bare = dataclasses.replace(bound, rows=None)  # the same for training and for test inputs
    blocks = [jax.device_get(_block(bare, x[i : i + size])) for i in range(0, n, size)]
    values, kernel = (jnp.asarray(np.concatenate(parts)[:n]) for parts in zip(*blocks, strict=True))
    return values, kernel, jnp.arange(n)


@jax.jit
def _block(bound, x):
    model, inner = bound.model, bound.inner
    features = inner.featurize(x)
    values = inner.predict(bound.state, features) if bound.start is None else model.predict(bound.start, x)
    if inner.kernel is None:
        kernel = tangent_kernel(FunctionModel(model.f), model.params0, x, bound.x_train)
    else:
        kernel = inner.kernel(bound.state, features, bound.train)
    n, others, k, _ = kernel.shape
    return values, kernel.transpose(0, 2, 1, 3).reshape(n, k, others * k)


@jax.jit
def _predict(model, params, x):
    return model.predict(params, x)


@jax.jit
def _pullback(model, params, x, r):
    return model.pullback(params, x, r)
