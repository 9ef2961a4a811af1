"""What single layers of a network take in and weigh: the two sides of the neural feature ansatz."""

from __future__ import annotations

import functools

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from nqm_tools._program import Fresh
from nqm_tools._types import Inputs
from nqm_tools._validation import (
    check_agop,
    check_not_traced,
    check_params,
    check_rate,
    check_same_structure,
    check_whole,
)
from nqm_tools.expansions import FunctionModel, check_model
from nqm_tools.features._agop import average_outer_product, examples_at_once
from nqm_tools.networks import ACTIVATION_FUNCTIONS, FullyConnected, Network, architecture


def layer_agop(net: Network, params: PyTree, x: Inputs, layer: int) -> Float[Array, "m m"]:
    """The AGOP of the layers from ``layer`` on, over what goes into that layer at the inputs x.

    Parameters
    ----------
    net : Network
        A fully connected one of the package.
    params, x
        As in :func:`agop`.
    layer : int
        From 1, for which it is ``agop(net, params, x)``, to the network's depth.

    Returns
    -------
    jax.Array
        (m, m), with m what the layer takes in.

    Examples
    --------
    >>> from nqm_tools import networks
    >>> net, x = networks.deep_fc(16, depth=3), jax.random.normal(jax.random.key(0), (5, 4))
    >>> params = net.init(jax.random.key(1), x.shape)
    >>> layer_agop(net, params, x, layer=2).shape
    (16, 16)
    """
    known = architecture(net)
    if not isinstance(known, FullyConnected):
        raise ValueError(
            f"net must be a fully connected network of nqm_tools.networks, whose layers are known; got {net!r}"
        )
    layer = check_whole("layer", layer, maximum=known.depth)
    params = check_params(params)
    _, x, _ = check_model(net, params, x)
    activation = ACTIVATION_FUNCTIONS[known.activation]
    hidden = activation(known.preactivations(params, x)[layer - 2]) if layer > 1 else x

    def rest(params, hidden):
        for i, weights in enumerate(jax.tree.leaves(params)[layer - 1 :]):
            hidden = (activation(hidden) if i else hidden.reshape(len(hidden), -1)) @ weights / weights.shape[0] ** 0.5
        return hidden

    model = FunctionModel(rest)
    size = examples_at_once(model, params, hidden, rest(params, hidden).shape[1])
    return Fresh(functools.partial(average_outer_product, size=size))(model, params, hidden)


def neural_feature_matrix(params: PyTree, layer: int = 1, *, start: PyTree | None = None) -> Float[Array, "m m"]:
    """``W^T W`` of a layer's weights, which acts on what goes into it.

    Parameters
    ----------
    params : pytree
        Of a network of the package: one array of weights a layer, (in, out) or, of a convolution, (3, 3, channels,
        out), as stax has them (so in their letters it is ``W W^T``).
    layer : int
        From 1.
    start : pytree, optional
        Other parameters, whose weights are taken from these first.

    Returns
    -------
    jax.Array
        (in, in); for a convolution (9 channels, 9 channels).

    Examples
    --------
    >>> neural_feature_matrix([(np.array([[1.0], [2.0]]),), (np.ones((1, 1)),)]).tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    params = check_params(params)
    leaves = jax.tree.leaves(params)
    layer = check_whole("layer", layer, maximum=len(leaves))
    weights = leaves[layer - 1]
    if start is not None:
        start = check_params(start, "start")
        check_same_structure(start, params)
        weights = weights - jax.tree.leaves(start)[layer - 1]
    if weights.ndim < 2:
        raise ValueError(f"layer {layer} of params must be weights (in, out); got an array of shape {weights.shape}")
    weights = weights.reshape(-1, weights.shape[-1])
    return weights @ weights.T


def feature_correlation(a: Real[ArrayLike, "d d"], b: Real[ArrayLike, "d d"], power: float = 1.0) -> float:
    """The Pearson correlation of the entries of a matrix with those of a power of another one.

    Parameters
    ----------
    a, b : array (d, d)
        Symmetric, such as :func:`neural_feature_matrix` and :func:`layer_agop`.
    power : float
        Of b, as a matrix; eigenvalues below zero count as zero.

    Returns
    -------
    float
        From -1 to 1, in float64. With the mean of the entries taken first: not the cosine of :func:`agop_alignment`.

    References
    ----------
    Radhakrishnan, Beaglehole, Pandit, Belkin (2022), arXiv:2212.13881, "neural feature ansatz".

    Examples
    --------
    >>> round(feature_correlation(np.diag([2.0, 1.0]), np.diag([4.0, 1.0]), power=0.5), 4)
    1.0
    """
    check_not_traced("feature_correlation", a, b)
    a, b, power = check_agop("a", a), check_agop("b", b), check_rate("power", power)
    for name, value in (("a", a), ("b", b)):
        if value.shape[0] != value.shape[1] or value.shape != a.shape:
            raise ValueError(f"a and b must be matrices of one shape (d, d); {name} is {value.shape}")
    b = matrix_power(b, power)
    a, b = a - a.mean(), b - b.mean()
    if not (a.any() and b.any()):
        raise ValueError("a and b must not be constant: there is no correlation then")
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def matrix_power(matrix: Float[np.ndarray, "d d"], power: float) -> Float[np.ndarray, "d d"]:
    """A power of a symmetric matrix, with eigenvalues below zero as zero.

    Examples
    --------
    >>> matrix_power(np.diag([4.0, 9.0]), 0.5).tolist()
    [[2.0, 0.0], [0.0, 3.0]]
    """
    if power == 1:
        return matrix
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 0) ** power) @ vectors.T
