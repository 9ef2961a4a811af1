"""Linear models trained in function space: one number an example in place of the parameters.

Gradient descent moves the parameters of a linear model by ``J^T alpha``, with ``J`` the Jacobian on the training inputs
X and alpha (n, k) minus the sum of the residuals met, each times its learning rate. So

    f_lin(x) = f_lin(start; x) + K(x, X) alpha,

and the gradient in alpha's place is the gradient of the loss in the outputs (for a squared loss the residual): a step
costs one product with the kernel ``K(X, X)``, whatever the loss.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Real

from nqm_tools._coupling import takes_single_examples
from nqm_tools._program import Fresh
from nqm_tools._types import Outputs
from nqm_tools.closed_forms import input_span, two_layer, two_layer_conv
from nqm_tools.expansions import FunctionModel, LinearModel, Model, pytree_model, same, static
from nqm_tools.kernels import tangent_kernel
from nqm_tools.networks import architecture

if TYPE_CHECKING:
    from nqm_tools.training._rules import Rule

# Beyond this many rows the kernel is no longer the smaller thing.
MOST_ROWS = 4096
# Of a function that is not one of the package's networks the Jacobian on the training inputs may have up to this many
# numbers, half a gigabyte in float32: beyond that, steps in the parameters are cheaper than this kernel.
MOST_JACOBIAN = 2**27
# Kernel rows of this many inputs at a time.
BLOCK = 256


def bind(model: Model, x_train: Real[Array, "n ..."], params: PyTree, rule: Rule) -> Model | None:
    """A linear model in function space; None where that is not smaller or not exact."""
    if type(model) is not LinearModel or not rule.linear:
        return None
    layered = architecture(model.f) is not None
    outputs = jax.eval_shape(lambda p, x: FunctionModel(model.f).predict(p, x), params, x_train).shape[1]
    rows = len(x_train) * outputs
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    if rows > MOST_ROWS or (not layered and rows * size > MOST_JACOBIAN):
        return None
    if not layered and not takes_single_examples(FunctionModel(model.f), model.params0, x_train):
        return None
    start = None if same(params, model.params0) else params
    inner = _network(FunctionModel(model.f), x_train, model.params0, rule)
    state, train = inner.encode(model.params0), inner.featurize(x_train)
    rows = _rows(FunctionSpaceModel(model, start, inner, state, x_train, train, None), x_train)
    rows = dataclasses.replace(rows, is_train=True)
    bound = FunctionSpaceModel(model, start, inner, state, x_train, train, rows)
    if not layered and not _is_exact(bound):
        return None
    return bound


def _network(model, x_train, params, rule):
    """The network under a linear model, in closed form where it has one."""
    for form in (input_span.bind, two_layer.bind, two_layer_conv.bind):
        bound = form(model, x_train, params, rule)
        if bound is not None:
            return bound
    return model


def _is_exact(bound):
    """Whether the kernel moves the outputs as the parameters do: not if ``f`` makes examples depend on each other."""
    dtype = bound.rows.values.dtype
    error, size = map(float, Fresh(_error)(bound, bound.x_train))
    return error <= (1e-3 if dtype == jnp.float32 else 1e-8) * size


def _error(bound, x_train):
    values = bound.rows.values
    alpha = jnp.cos(jnp.arange(values.size, dtype=values.dtype)).reshape(values.shape)
    expected = bound.model.predict(bound.decode(alpha), x_train) - values
    found = bound.predict(alpha, bound.rows) - values
    return jnp.abs(found - expected).max(), jnp.abs(expected).max()


@pytree_model
class Rows:
    """What a linear model needs of some inputs.

    Attributes
    ----------
    values
        The outputs at the start, (n, k).
    kernel
        Kernel rows, (n, k, n_train k).
    numbers
        Which training examples the inputs are, (n,), if they are training inputs (or some of them).
    is_train : bool
    """

    values: Outputs
    kernel: Float[Array, "n k rows"]
    numbers: Int[Array, " n"]
    is_train: bool = static()

    def columns(self, of: Rows) -> Float[Array, "n n_of k k"]:
        """The kernel (n, n_of, k, k) between these inputs and the training inputs ``of``."""
        n, k = self.values.shape
        kernel = self.kernel.reshape(n, k, -1, k)[:, :, of.numbers]
        return kernel.transpose(0, 2, 1, 3)


@pytree_model
class FunctionSpaceModel(Model):
    """A linear model whose state is alpha; ``inner`` is its network's closed form, ``rows`` the training features.

    ``start`` is None where that is the expansion point.
    """

    model: LinearModel
    start: PyTree | None
    inner: Model
    state: PyTree
    x_train: Real[Array, "n ..."]
    train: PyTree
    rows: Rows | None

    form = "function space"
    isometric = False
    quadratic = True
    encode_direction = None

    def featurize(self, x: Real[Array, "n ..."]) -> Rows:
        """The :class:`Rows` of inputs."""
        same_inputs = x.shape == self.x_train.shape and np.array_equal(x, self.x_train)
        return self.rows if same_inputs else _rows(self, x)

    def predict(self, state: Outputs, features: Rows) -> Float[Array, "n_x k"]:
        return features.values + features.kernel @ state.ravel()

    def pullback(self, state: Outputs, features: Rows, r: Float[Array, "n_x k"]) -> Outputs:
        """For training inputs, or a mini-batch of them."""
        return jnp.zeros_like(state).at[features.numbers].add(r)

    def kernel(self, state: Outputs, features: Rows, others: Rows | None = None) -> Float[Array, "n1 n2 k k"]:
        others = features if others is None else others
        if others.is_train:
            return features.columns(others)
        if features.is_train:
            return others.columns(features).transpose(1, 0, 3, 2)
        raise ValueError("in function space a kernel is known between inputs of which some are the training inputs")

    def encode(self, params: PyTree) -> Outputs:
        return jnp.zeros_like(self.rows.values)

    def decode(self, state: Outputs) -> PyTree:
        start = self.model.params0 if self.start is None else self.start
        return jax.tree.map(jnp.add, start, self.decode_direction(state))

    def decode_direction(self, direction: Outputs) -> PyTree:
        return Fresh(_pullback)(FunctionModel(self.model.f), self.model.params0, self.x_train, direction)

    def distance(self, state: Outputs, other: Outputs) -> Float[Array, ""]:
        moved = (state - other).ravel()
        square = moved @ (self.rows.kernel.reshape(moved.size, -1) @ moved)
        return jnp.sqrt(jnp.maximum(square, 0))  # rounding can make the square of a tiny distance negative


def _rows(bound, x):
    """The features of inputs, a block at a time; the last one is filled up, so that one size is compiled."""
    n = len(x)
    size = min(BLOCK, n)
    x = np.asarray(x)  # sliced and put together outside JAX, which would compile every slice
    x = np.concatenate([x, np.broadcast_to(x[:1], (-n % size, *x.shape[1:]))])
    bare = dataclasses.replace(bound, rows=None)  # the same for training and for test inputs
    block = Fresh(_block)
    blocks = [jax.device_get(block(bare, x[i : i + size])) for i in range(0, n, size)]
    values, kernel = (jnp.asarray(np.concatenate(parts)[:n]) for parts in zip(*blocks, strict=True))
    return Rows(values, kernel, jnp.asarray(np.arange(n, dtype=jnp.result_type(int))), False)


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


def _pullback(model, params, x, r):
    return model.pullback(params, x, r)
