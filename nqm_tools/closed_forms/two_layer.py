"""Two-layer fully connected networks and their quadratic models in closed form: two matrix products a step.

With pre-activations ``h = u . x / sqrt(d)`` and ``0`` for the point of expansion,

    f      = (1/sqrt(m)) sum_k v_k act(h_k)
    f_quad = (1/sqrt(m)) sum_k [ v_k (act(h0_k) + act'(h0_k) dh_k) + 1/2 v0_k act''(h0_k) dh_k^2 ]

where ``dh = h - h0``: all that is to be known of an input is ``act``, ``act'`` and ``act''`` at ``h0``, once. Both are
linear in two arrays of the inputs, A and B (n, m) for each output, whose products also give the tangent kernel

    K_ij = (x_i . x_j / d) (1/m) sum_k A_ik A_jk + (1/m) sum_k B_ik B_jk.

Inputs are arrays, or what :class:`nqm_tools.closed_forms.input_span.SpanModel` hands over: a pair ``(inside, outside)``
with ``h = (inside @ Z + outside) / sqrt(d)``, where Z, (s, m), is what is trained of the first layer; ``outside`` is
None where Z is all of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from nqm_tools._types import Outputs
from nqm_tools.expansions import FunctionModel, Model, QuadraticModel, pytree_model, static
from nqm_tools.networks import FullyConnected, LeakyRelu, activation_function, architecture, is_piecewise_linear

if TYPE_CHECKING:
    from nqm_tools.training._rules import Rule


def bind(model: Model, x_train: Real[Array, "n ..."], params: PyTree, rule: Rule) -> Model | None:
    """The closed form of a two-layer fully connected ``f`` or ``f_quad``; its state is its parameters."""
    known = architecture(getattr(model, "f", None))
    if not isinstance(known, FullyConnected):
        return None
    return closed_form(model, known, math.prod(x_train.shape[1:]), getattr(model, "params0", None))


def closed_form(model: Model, known: FullyConnected, d: int, coordinates: PyTree) -> Model | None:
    """The closed form of a model of the architecture ``known`` for d inputs, or None.

    A quadratic model is expanded around ``coordinates``, its point of expansion with Z in the place of the first
    weights.
    """
    if known.depth == 2 and type(model) is FunctionModel:
        return TwoLayerNetwork(known.activation, 1 / math.sqrt(d))
    if known.depth == 2 and type(model) is QuadraticModel:
        return TwoLayerQuadratic(known.activation, 1 / math.sqrt(d), coordinates)
    return None


@pytree_model
class TwoLayerNetwork(Model):
    """``f`` itself, with its ``activation``; ``scale`` is ``1/sqrt(d)``."""

    activation: str | LeakyRelu = static()
    scale: Float[ArrayLike, ""]

    form = "two layers"

    def featurize(self, x: Real[Array, "n ..."] | tuple) -> tuple:
        return _parts(x)

    def predict(self, state: PyTree, features: PyTree) -> Outputs:
        first, readout = jax.tree.leaves(state)
        values = activation_function(self.activation)(_hidden(self.scale, first, features))
        return values @ readout / root_width(readout)

    def pullback(self, state: PyTree, features: PyTree, r: Outputs) -> PyTree:
        first, readout = jax.tree.leaves(state)
        value, slope = value_and_slope(self.activation, _hidden(self.scale, first, features))
        a = slope * (r @ readout.T)
        gradients = [features[0].T @ a * (self.scale / root_width(readout)), value.T @ r / root_width(readout)]
        return jax.tree.unflatten(jax.tree.structure(state), gradients)

    def kernel(self, state: PyTree, features: PyTree, others: PyTree | None = None) -> Float[Array, "n1 n2 k k"]:
        return _kernel(self.scale, *_both(lambda inputs: self._jacobian(state, inputs), features, others))

    def _jacobian(self, state, features):
        first, readout = jax.tree.leaves(state)
        value, slope = value_and_slope(self.activation, _hidden(self.scale, first, features))
        return features[0], slope[:, None, :] * readout.T, value


@pytree_model
class TwoLayerQuadratic(Model):
    """``f_quad`` around ``params0`` (whose first weights are Z at the start); fields as in TwoLayerNetwork."""

    activation: str | LeakyRelu = static()
    scale: Float[ArrayLike, ""]
    params0: PyTree

    form = "two layers"

    def featurize(self, x: Real[Array, "n ..."] | tuple) -> tuple:
        x = _parts(x)
        hidden = _hidden(self.scale, jax.tree.leaves(self.params0)[0], x)
        value, slope = value_and_slope(self.activation, hidden)
        curvature = None if is_piecewise_linear(self.activation) else slope_of_slope(self.activation, hidden)
        return x[0], value, slope, curvature

    def _moved(self, state, features):
        inside, value, slope, curvature = features
        first, readout = jax.tree.leaves(state)
        first0, readout0 = jax.tree.leaves(self.params0)
        moved = inside @ (first - first0) * self.scale
        return moved, value + slope * moved, readout, readout0, curvature

    def predict(self, state: PyTree, features: PyTree) -> Outputs:
        moved, b, readout, readout0, curvature = self._moved(state, features)
        total = b @ readout
        if curvature is not None:
            total += (curvature * moved**2) @ readout0 / 2
        return total / root_width(readout)

    def pullback(self, state: PyTree, features: PyTree, r: Outputs) -> PyTree:
        moved, b, readout, readout0, curvature = self._moved(state, features)
        a = features[2] * (r @ readout.T)
        if curvature is not None:
            a += curvature * moved * (r @ readout0.T)
        gradients = [features[0].T @ a * (self.scale / root_width(readout)), b.T @ r / root_width(readout)]
        return jax.tree.unflatten(jax.tree.structure(state), gradients)

    def kernel(self, state: PyTree, features: PyTree, others: PyTree | None = None) -> Float[Array, "n1 n2 k k"]:
        return _kernel(self.scale, *_both(lambda inputs: self._jacobian(state, inputs), features, others))

    def _jacobian(self, state, features):
        moved, b, readout, readout0, curvature = self._moved(state, features)
        a = features[2][:, None, :] * readout.T
        if curvature is not None:
            a += (curvature * moved)[:, None, :] * readout0.T
        return features[0], a, b


def _parts(x):
    """Inputs as a pair: in the span as they come, else flattened."""
    return x if isinstance(x, tuple) else (x.reshape(len(x), -1), None)


def _hidden(scale, first, x):
    inside, outside = x
    return (inside @ first if outside is None else inside @ first + outside) * scale


def root_width(readout: Float[Array, "m k"]) -> float:
    """The square root of the number of hidden units (or channels), which divides the outputs."""
    return math.sqrt(readout.shape[0])


def value_and_slope(
    activation: str | LeakyRelu, hidden: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """An activation and its first derivative."""
    return jax.jvp(activation_function(activation), (hidden,), (jnp.ones_like(hidden),))


def slope_of_slope(activation: str | LeakyRelu, hidden: Float[Array, "..."]) -> Float[Array, "..."]:
    """The second derivative of an activation."""
    return jax.jvp(lambda h: value_and_slope(activation, h)[1], (hidden,), (jnp.ones_like(hidden),))[1]


def _both(jacobian, features, others):
    jacobians = jacobian(features)
    return jacobians, jacobians if others is None else jacobian(others)


def _kernel(scale, jacobians, others):
    """(n1, n2, k, k) from the inputs in the span, A (n, k, m) and B (n, m); one of the two lies in the span whole."""
    (x1, a1, b1), (x2, a2, b2) = jacobians, others
    outputs, width = a1.shape[1:]
    # As one product of matrices: with more axes XLA takes a slow path inside the compiled loop.
    first = (a1.reshape(-1, width) @ a2.reshape(-1, width).T).reshape(len(a1), outputs, len(a2), outputs)
    first *= (x1 @ x2.T)[:, None, :, None] * scale**2
    second = (b1 @ b2.T)[:, :, None, None] * jnp.eye(outputs, dtype=b1.dtype)
    return (first.transpose(0, 2, 1, 3) + second) / width
