"""Two-layer convolutional networks and their quadratic models in closed form, over the patches of the images.

With the 3x3 patches ``P_p`` (9c entries, zero padding) of an image at its positions ``p``, pre-activations
``h_p = u . P_p / sqrt(9c)``, ``dh = h - h0`` and ``0`` for the point of expansion,

    f      = (1/sqrt(m)) sum_k v_k mean_p act(h_kp)
    f_quad = (1/sqrt(m)) sum_k [ v_k mean_p (act(h0_kp) + act'(h0_kp) dh_kp) + 1/2 v0_k mean_p act''(h0_kp) dh_kp^2 ]

where the readout averages over positions. The mean passes through to the patches: all that is to be known of an image
is its mean activation and its *gated patch mean* ``Phi_k = mean_p act'(h_kp) P_p / sqrt(9c)``, since the gradient in
``u_k`` is ``v_k Phi_k / sqrt(m)`` and, in ``f_quad``, ``mean_p act'(h0_kp) dh_kp = Phi_k . du_k``. For ``f_quad`` of a
ReLU network both are computed once, and no image is touched again. ``f`` computes both in one pass over the images,
which gives value and gradient. A curvature goes the same way, with ``act''(h0_kp) dh_kp`` for a gate; or through the
second moments ``C_k = mean_p act''(h0_kp) P_p P_p^T / 9c``, kept where they fit: ``mean_p act''(h0_kp) dh_kp^2`` is
``du_k^T C_k du_k``.

A dense readout over all positions, ``v_kp`` in place of ``v_k / sqrt(h w)``, has no such collapse: value and gradient
are one pass each.

No pass ever holds the hidden layer of all examples, which is 1 GB for 256 images of 32 x 32 and m = 1,000; it goes
through them in tiles that fit the cache, which is also several times faster.

The tangent kernel is ``K_ij[a, b] = A_ia . A_jb + (a == b) B_i . B_j`` with the derivatives A in the filters (9c m
numbers for each example and output) and B in the readout. A is kept for the smaller of the two sets of inputs and
recomputed in tiles of the other; B of a dense readout (h w m numbers an example) is multiplied up position by position.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Real

from nqm_tools._types import Outputs, ValueAndPullback
from nqm_tools.closed_forms.two_layer import root_width, slope_of_slope, value_and_slope
from nqm_tools.expansions import FunctionModel, Model, QuadraticModel, pytree_model, static
from nqm_tools.networks import Convolutional, activation_function, architecture, is_piecewise_linear

if TYPE_CHECKING:
    from nqm_tools.training._rules import Rule

# Hidden activations in a tile on a CPU, 2 MB in float32, or one example if that has more. Measured on two cores at
# m = 1,000 and 32 x 32: tiles of two examples, in place of one, took half as long again.
TILE = 2**19
# An accelerator wants more work at a time (chosen, not measured: 128 MB in float32).
ACCELERATOR_TILE = 2**25
# The second moments of the patches, weighted by curvature, are kept up to this many numbers (half a gigabyte in
# float32). Measured at m = 1,000 on 256 colour images of 32 x 32 with tanh: a step in a sixteenth of the time.
MOST_MOMENTS = 2**27
# The same in the kernel, for all outputs: 128 MB, since larger tiles read the other set's A less often.
KERNEL_TILE = 2**25


def bind(model: Model, x_train: Real[Array, "n ..."], params: PyTree, rule: Rule) -> Model | None:
    """The closed form of ``model``, an ``f`` or ``f_quad`` of the package's CNN; its state is its parameters."""
    known = architecture(getattr(model, "f", None))
    if not isinstance(known, Convolutional):
        return None
    if type(model) is FunctionModel:
        return {"average": AverageNetwork, "flatten": FlattenNetwork}[known.readout](known.activation)
    if type(model) is QuadraticModel:
        return {"average": AverageQuadratic, "flatten": FlattenQuadratic}[known.readout](
            known.activation, model.params0
        )
    return None


class ConvolutionalModel(Model):
    """What the four models share: the name of an ``activation``; features have the examples first.

    A model says what an example's A is, ``_slopes(state, example) -> (k, 9c, m)``, and how the B of two sets multiply,
    ``_readout_gram(state, features, others) -> (n1, n2)``, both times the square root of the readout's size.
    """

    form = "two layers, convolutional"

    def kernel(self, state: PyTree, features: PyTree, others: PyTree | None = None) -> Float[Array, "n1 n2 k k"]:
        others = features if others is None else others
        if _count(features) < _count(others):
            return self.kernel(state, others, features).transpose(1, 0, 3, 2)
        filters, readout = _weights(state)
        slopes = functools.partial(self._slopes, state)
        numbers = filters.shape[1] * readout.shape[1] * max(_positions(features), len(filters))
        examples = max(1, KERNEL_TILE // numbers)
        kept = jax.lax.map(slopes, others, batch_size=examples)
        first = jax.lax.map(
            lambda example: jnp.einsum("adm,jbdm->jab", slopes(example), kept), features, batch_size=examples
        )
        second = self._readout_gram(state, features, others)
        return (first + second[:, :, None, None] * jnp.eye(readout.shape[1], dtype=second.dtype)) / readout.shape[0]


class AverageModel(ConvolutionalModel):
    """Readout by an average over positions; ``_values(state, features)`` is B, (n, m)."""

    def pullback(self, state: PyTree, features: PyTree, r: Outputs) -> PyTree:
        return self.value_and_pullback(state, features)[1](r)

    def _readout_gram(self, state, features, others):
        return self._values(state, features) @ self._values(state, others).T


@pytree_model
class AverageNetwork(AverageModel):
    """``f`` itself; its features are the images."""

    activation: str = static()

    def _values(self, state, features):
        filters, _ = _weights(state)
        return _over_examples(lambda image: _mean_activation(self.activation, filters, image), features, filters)

    def _slopes(self, state, image):
        filters, readout = _weights(state)
        return _gated_means(self.activation, filters, image)[1] * readout.T[:, None, :]

    def predict(self, state: PyTree, features: PyTree) -> Outputs:
        _, readout = _weights(state)
        return self._values(state, features) @ readout / root_width(readout)

    def value_and_pullback(self, state: PyTree, features: PyTree) -> ValueAndPullback:
        filters, readout = _weights(state)
        value, gated = _over_examples(lambda image: _gated_means(self.activation, filters, image), features, filters)

        def pullback(r):
            slope = jnp.tensordot(r, gated, (0, 0))
            return _like(state, jnp.einsum("kdm,mk->dm", slope, readout), value.T @ r)

        return value @ readout / root_width(readout), pullback


@pytree_model
class AverageQuadratic(AverageModel):
    """``f_quad`` around ``params0``; keeps the images only if the activation has a curvature."""

    activation: str = static()
    params0: PyTree

    def featurize(self, x: Float[Array, "n h w c"]) -> tuple:
        filters0, _ = _weights(self.params0)
        value, gated = _over_examples(lambda image: _gated_means(self.activation, filters0, image), x, filters0)
        images = None if is_piecewise_linear(self.activation) else x
        return images, value, gated, None if images is None else self._moments(images)

    def _moments(self, images):
        """``mean_p act''(h0_kp) P_p P_p^T / 9c``, its upper triangle, (n, pairs, m); None if they are too many."""
        filters0, _ = _weights(self.params0)
        i, j = jnp.triu_indices(len(filters0))
        if len(i) > math.prod(images.shape[1:3]) or len(images) * len(i) * filters0.shape[1] > MOST_MOMENTS:
            return None

        def moments(image):
            patches = _patches(image)
            return (
                (patches[:, i] * patches[:, j]).T @ slope_of_slope(self.activation, patches @ filters0) / len(patches)
            )

        return _over_examples(moments, images, filters0)

    def _curved_means(self, moved, image):
        filters0, _ = _weights(self.params0)
        patches = _patches(image)
        return patches.T @ (slope_of_slope(self.activation, patches @ filters0) * (patches @ moved)) / len(patches)

    def _values(self, state, features):
        _, value, gated, _ = features
        return value + jnp.einsum("ndm,dm->nm", gated, _moved(state, self.params0))

    def _slopes(self, state, example):
        image, _, gated, _ = example
        slopes = gated * _weights(state)[1].T[:, None, :]
        if image is not None:
            curved = self._curved_means(_moved(state, self.params0), image)
            slopes += curved * _weights(self.params0)[1].T[:, None, :]
        return slopes

    def predict(self, state: PyTree, features: PyTree) -> Outputs:
        return self.value_and_pullback(state, features)[0]

    def value_and_pullback(self, state: PyTree, features: PyTree) -> ValueAndPullback:
        images, value, gated, _ = features
        _, readout = _weights(state)
        moved = _moved(state, self.params0)
        total = value @ readout + jnp.tensordot(gated, moved[:, :, None] * readout, 2)
        if images is not None:
            second, pull_curved = self._second_order(moved, features)
            total += second

        def pullback(r):
            # The sum over examples first: it is the only other pass over the gated means.
            slope = jnp.tensordot(r, gated, (0, 0))
            first = jnp.einsum("kdm,mk->dm", slope, readout)
            if images is not None:
                first += pull_curved(r)
            return _like(state, first, value.T @ r + jnp.einsum("kdm,dm->mk", slope, moved))

        return total / root_width(readout), pullback

    def _second_order(self, moved, features):
        """The curved term's value (n, k) and the function that pulls r back to the filters."""
        images, _, _, moments = features
        _, readout0 = _weights(self.params0)
        if moments is None:
            curved = _over_examples(functools.partial(self._curved_means, moved), images, moved)
            value = jnp.tensordot(curved, moved[:, :, None] * readout0, 2) / 2
            return value, lambda r: jnp.einsum("kdm,mk->dm", jnp.tensordot(r, curved, (0, 0)), readout0)
        i, j = jnp.triu_indices(len(moved))
        products = jnp.where(i == j, 0.5, 1.0).astype(moved.dtype)[:, None] * moved[i] * moved[j]

        def pullback(r):
            by_pair = jnp.einsum("kpm,mk->pm", jnp.tensordot(r, moments, (0, 0)), readout0)
            square = jnp.zeros((len(moved), *moved.shape), moved.dtype).at[i, j].set(by_pair).at[j, i].set(by_pair)
            return jnp.einsum("ijm,jm->im", square, moved)

        return jnp.tensordot(moments, products[:, :, None] * readout0, 2), pullback


class FlattenModel(ConvolutionalModel):
    """Dense readout over all positions; features are the images.

    ``_layer(state, patches)`` gives for patches (..., 9c) the value and slope of the hidden layer and, if the model is
    curved, ``dh`` and ``act''(h0) dh``, all (..., m); ``_readouts(state, positions)`` the weights (h w, m, k) of the
    readout and, if the model is curved, those at the point of expansion.
    """

    def _over_positions(self, state, features, body, start, *others):
        """Scan over tiles of positions: ``body(carry, patches, readout, readout0, *others)``, patches (p, n, 9c)."""
        patches = _patches(jnp.moveaxis(features, 0, 2))
        positions, n, _ = patches.shape
        _, readout = _weights(state)
        size = _largest_divisor(positions, _tile() * positions // (n * readout.shape[0]))
        arrays = patches, *self._readouts(state, positions), *others
        tiles = jax.tree.map(lambda a: a.reshape(positions // size, size, *a.shape[1:]), arrays)
        return jax.lax.scan(lambda carry, tile: body(carry, *tile), start, tiles)

    def predict(self, state: PyTree, features: PyTree) -> Outputs:
        def add(total, patches, readout, readout0):
            value, _, moved, curved = self._layer(state, patches)
            total += (value @ readout).sum(0)
            if curved is not None:
                total += ((curved * moved) @ readout0).sum(0) / 2
            return total, None

        _, readout = _weights(state)
        start = jnp.zeros((len(features), readout.shape[1]), readout.dtype)
        return self._over_positions(state, features, add, start)[0] / root_width(readout)

    def pullback(self, state: PyTree, features: PyTree, r: Outputs) -> PyTree:
        filters, _ = _weights(state)

        def add(total, patches, readout, readout0):
            value, slope, _, curved = self._layer(state, patches)
            if is_piecewise_linear(self.activation) and r.shape[1] == 1:
                # The value is slope * (patches @ filters), so gated patches, summed over examples, give both gradients:
                # f_quad saves a matrix product with its dh, and f passes over the hidden layer less often.
                gated = (patches * r).swapaxes(1, 2) @ slope
                by_readout = jnp.einsum("pdm,dm->pm", gated, filters)[:, :, None]
                return total + jnp.einsum("pdm,pmk->dm", gated, readout), by_readout
            a = slope * jnp.einsum("nk,pmk->pnm", r, readout)
            if curved is not None:
                a += curved * jnp.einsum("nk,pmk->pnm", r, readout0)
            # A product for each position was faster on CPU than one einsum over the tile.
            return total + jnp.tensordot(patches, a, ((0, 1), (0, 1))), (r.T @ value).swapaxes(1, 2)

        return _like(state, *self._over_positions(state, features, add, jnp.zeros_like(filters)))

    def _slopes(self, state, image):
        patches = _patches(image)
        _, slope, _, curved = self._layer(state, patches)
        readout, readout0 = self._readouts(state, len(patches))
        a = slope[:, :, None] * readout
        if curved is not None:
            a += curved[:, :, None] * readout0
        return jnp.einsum("pd,pmk->kdm", patches, a)

    def _readout_gram(self, state, features, others):
        def add(total, patches, *rest):
            values = [self._layer(state, of)[0] for of in (patches, rest[-1])]
            return total + jnp.einsum("pim,pjm->ij", *values), None

        start = jnp.zeros((len(features), len(others)), features.dtype)
        return self._over_positions(state, features, add, start, _patches(jnp.moveaxis(others, 0, 2)))[0]


@pytree_model
class FlattenNetwork(FlattenModel):
    """``f`` itself."""

    activation: str = static()

    def _layer(self, state, patches):
        return *value_and_slope(self.activation, patches @ _weights(state)[0]), None, None

    def _readouts(self, state, positions):
        return _by_position(state, positions), None


@pytree_model
class FlattenQuadratic(FlattenModel):
    """``f_quad`` around ``params0``. Its gates are computed anew in each pass: to keep them is to keep the layer."""

    activation: str = static()
    params0: PyTree

    def _layer(self, state, patches):
        hidden = patches @ _weights(self.params0)[0]
        value, slope = value_and_slope(self.activation, hidden)
        moved = patches @ _moved(state, self.params0)
        curved = None if is_piecewise_linear(self.activation) else slope_of_slope(self.activation, hidden) * moved
        return value + slope * moved, slope, moved, curved

    def _readouts(self, state, positions):
        curved = not is_piecewise_linear(self.activation)
        return _by_position(state, positions), _by_position(self.params0, positions) if curved else None


def _patches(image):
    """The 3x3 patches of an image (h, w, c) times 1/sqrt(9c), as (h w, 9c); of images (h, w, n, c) too."""
    height, width, *examples, channels = image.shape
    padded = jnp.pad(image, [(1, 1), (1, 1)] + [(0, 0)] * (image.ndim - 2))
    shifted = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    patches = jnp.concatenate(shifted, axis=-1).reshape(height * width, *examples, 9 * channels)
    return patches / math.sqrt(9 * channels)


def _mean_activation(activation, filters, image):
    return activation_function(activation)(_patches(image) @ filters).mean(0)


def _gated_means(activation, filters, image):
    """Of one image: the mean activations (m,) and the gated patch means (9c, m)."""
    patches = _patches(image)
    value, slope = value_and_slope(activation, patches @ filters)
    return value.mean(0), patches.T @ slope / len(patches)


def _over_examples(function, images, filters):
    """``function`` of each image, in tiles of examples."""
    _, height, width, _ = images.shape
    return jax.lax.map(function, images, batch_size=max(1, _tile() // (height * width * filters.shape[1])))


def _tile():
    return TILE if jax.default_backend() == "cpu" else ACCELERATOR_TILE


def _weights(params):
    """The filters as (9c, m), and the readout."""
    filters, readout = jax.tree.leaves(params)
    return filters.reshape(-1, filters.shape[-1]), readout


def _moved(state, params0):
    return _weights(state)[0] - _weights(params0)[0]


def _by_position(params, positions):
    _, readout = _weights(params)
    return readout.reshape(positions, -1, readout.shape[1])


def _like(state, *gradients):
    """The gradients, so far without the factor 1/sqrt(size of the readout), in the shapes of the state."""
    leaves, tree = jax.tree.flatten(state)
    root = root_width(leaves[1])
    return jax.tree.unflatten(tree, [g.reshape(w.shape) / root for g, w in zip(gradients, leaves, strict=True)])


def _count(features):
    return len(jax.tree.leaves(features)[0])


def _largest_divisor(number, bound):
    return next(d for d in range(max(1, min(number, bound)), 0, -1) if number % d == 0)


def _positions(features):
    """The positions of the images among the features, 0 if there are none."""
    images = jax.tree.leaves(features)[0]
    return math.prod(images.shape[1:3]) if images.ndim == 4 else 0
