"""The papers' architectures as neural-tangents ``stax`` triples, without biases, in NTK parameterisation by default.

>>> import jax
>>> net = two_layer_fc(width=16)
>>> params = net.init(jax.random.key(0), (3, 8))
>>> [w.shape for w in jax.tree.leaves(params)]
[(8, 16), (16, 1)]
>>> net(params, jax.numpy.ones((3, 8))).shape
(3, 1)
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Real
from neural_tangents import stax

from nqm_tools._random import rademacher
from nqm_tools._types import Function, Inputs, Outputs
from nqm_tools._validation import InputError, check_choice, check_number, check_rate, check_whole

ACTIVATION_FUNCTIONS = {
    "relu": lambda h: jnp.maximum(h, 0),
    "tanh": jnp.tanh,
    "swish": jax.nn.swish,
    "linear": lambda h: h,
}
# Their second derivative is zero (almost) everywhere; so is that of a leaky ReLU.
PIECEWISE_LINEAR = ("relu", "linear")
MOST_LAYERS = 1000  # each is a step of its own to JAX, so more than this compiles for hours
READOUTS = ("average", "flatten")
DEEP = (*ACTIVATION_FUNCTIONS, "leaky_relu")  # activations of networks of any depth
READOUT_INITS = ("sign", "normal", "zero")
PARAMETERIZATIONS = ("ntk", "standard")


@dataclasses.dataclass(frozen=True)
class LeakyRelu:
    """The activation ``h`` for positive h, ``slope h`` for others.

    Examples
    --------
    >>> LeakyRelu(0.5)(jnp.array([-2.0, 3.0])).tolist()
    [-1.0, 3.0]
    """

    slope: float

    def __call__(self, h: Float[Array, "..."]) -> Float[Array, "..."]:
        """Of pre-activations, entry by entry."""
        # As ReLU is written, so that its gates are found: one maximum with 0 a unit.
        return (1 - self.slope) * jnp.maximum(h, 0) + self.slope * h


def activation_function(activation: str | LeakyRelu) -> Callable[[Float[Array, "..."]], Float[Array, "..."]]:
    """What an architecture's ``activation`` stands for.

    Examples
    --------
    >>> float(activation_function("relu")(-1.0)), float(activation_function(LeakyRelu(0.25))(-1.0))
    (0.0, -0.25)
    """
    return ACTIVATION_FUNCTIONS[activation] if isinstance(activation, str) else activation


def is_piecewise_linear(activation: str | LeakyRelu) -> bool:
    """Whether an activation's second derivative is zero (almost) everywhere.

    Examples
    --------
    >>> is_piecewise_linear("relu"), is_piecewise_linear(LeakyRelu(0.5)), is_piecewise_linear("tanh")
    (True, True, False)
    """
    return activation in PIECEWISE_LINEAR or isinstance(activation, LeakyRelu)


@dataclasses.dataclass(frozen=True)
class FullyConnected:
    """A fully connected network without biases in NTK parameterisation, ``depth`` weight layers deep.

    Examples
    --------
    >>> net = deep_fc(16, depth=3, activation="tanh")
    >>> architecture(net)
    FullyConnected(depth=3, activation='tanh')
    >>> params = net.init(jax.random.key(0), (5, 8))
    >>> [hidden.shape for hidden in architecture(net).preactivations(params, jnp.ones((5, 8)))]
    [(5, 16), (5, 16)]
    """

    depth: int
    activation: str | LeakyRelu

    def preactivations(self, params: PyTree, x: Real[Array, "n ..."]) -> list[Float[Array, "n m"]]:
        """What goes into the activations of each hidden layer: a list of (n, m)."""
        return _preactivations(self.activation, params, x, lambda fan_in: 1 / math.sqrt(fan_in))


@dataclasses.dataclass(frozen=True)
class StandardFullyConnected:
    """The same in standard parameterisation: layers are plain matrix products. It has no closed forms.

    Examples
    --------
    >>> architecture(deep_fc(16, parameterization="standard"))
    StandardFullyConnected(depth=3, activation='relu')
    """

    depth: int
    activation: str | LeakyRelu

    def preactivations(self, params: PyTree, x: Real[Array, "n ..."]) -> list[Float[Array, "n m"]]:
        """What goes into the activations of each hidden layer: a list of (n, m)."""
        return _preactivations(self.activation, params, x, lambda fan_in: 1.0)


def _preactivations(activation, params, x, scale):
    hidden, layers = x.reshape(len(x), -1), []
    for weights in jax.tree.leaves(params)[:-1]:
        if layers:
            hidden = activation_function(activation)(hidden)
        hidden = hidden @ weights * scale(weights.shape[0])
        layers.append(hidden)
    return layers


@dataclasses.dataclass(frozen=True)
class Convolutional:
    """One 3x3 convolution (stride 1, SAME padding), and a readout of the average over positions or of all positions.

    Examples
    --------
    >>> net = two_layer_cnn(4, readout="flatten")
    >>> architecture(net)
    Convolutional(activation='relu', readout='flatten')
    >>> params = net.init(jax.random.key(0), (2, 8, 8, 1))
    >>> [hidden.shape for hidden in architecture(net).preactivations(params, jnp.ones((2, 8, 8, 1)))]
    [(2, 8, 8, 4)]
    """

    activation: str
    readout: str

    def preactivations(self, params: PyTree, x: Float[Array, "n h w c"]) -> list[Float[Array, "n h w m"]]:
        """What goes into the activations of the hidden layer: a list of one array (n, height, width, m)."""
        filters = jax.tree.leaves(params)[0]
        hidden = jax.lax.conv_general_dilated(x, filters, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return [hidden / math.sqrt(math.prod(filters.shape[:3]))]


class _Triple(NamedTuple):
    init_fn: Callable
    apply_fn: Callable
    kernel_fn: Callable | None


class Network(_Triple):
    """A neural-tangents ``stax`` triple that can be called: ``net(params, x) -> (n, outputs)``.

    Make one of your own functions as ``Network(init_fn, apply_fn)``.

    Attributes
    ----------
    init_fn
        ``init_fn(key, input_shape) -> (output_shape, params)``.
    apply_fn
        ``apply_fn(params, x) -> (n, outputs)``.
    kernel_fn
        The infinite-width NNGP and NTK kernels, ``kernel_fn(x1, x2, get)``, where stax has them (ReLU and linear
        networks; for tanh and swish it raises NotImplementedError), or None.
    architecture
        An object that says what the functions compute, for the closed forms that know it
        (:mod:`nqm_tools.closed_forms`), or None.

    Examples
    --------
    >>> def init_fn(key, input_shape):
    ...     return (input_shape[0], 1), jax.random.normal(key, (input_shape[1], 1))
    >>> net = Network(init_fn, lambda w, x: jnp.tanh(x @ w))
    >>> w = net.init(jax.random.key(0), (5, 3))
    >>> net(w, jnp.ones((5, 3))).shape
    (5, 1)
    """

    architecture: object | None = None

    def __new__(
        cls,
        init_fn: Callable,
        apply_fn: Callable,
        kernel_fn: Callable | None = None,
        architecture: object | None = None,
    ) -> Self:
        """Take functions as they are, unchecked."""
        network = super().__new__(cls, init_fn, apply_fn, kernel_fn)
        network.architecture = architecture
        return network

    def __call__(self, params: PyTree, x: Inputs) -> Outputs:
        """The outputs (n, k) of inputs (n, ...)."""
        return self.apply_fn(params, x)

    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...]) -> PyTree:
        """Draw parameters.

        Parameters
        ----------
        key
            A JAX random key, such as ``jax.random.key(0)``.
        input_shape
            The shape of the inputs, batch axis included: ``(n, d)`` or ``(n, height, width, channels)``.

        Returns
        -------
        params
            As stax has them: a list with one tuple a layer; weights (d, m) and (m, k), a convolution's
            (3, 3, channels, m).
        """
        if not _is_key(key):
            raise TypeError(f"key must be a JAX random key such as jax.random.key(0); got {key!r}")
        try:
            shape = tuple(check_whole("each entry of input_shape", size) for size in input_shape)
        except TypeError:
            raise TypeError(
                f"input_shape must be a tuple of whole numbers >= 1, batch axis included; got {input_shape!r}"
            ) from None
        return self.init_fn(key, shape)[1]


def two_layer_fc(width: int, *, activation: str = "relu", outputs: int = 1, readout_init: str = "sign") -> Network:
    """The network of the theory, ``f(U, v; x) = (1/sqrt(m)) sum_k v_k act(u_k . x / sqrt(d))``.

    Parameters
    ----------
    width : int
        The number m of hidden units.
    activation : {"relu", "tanh", "swish", "linear"}
    outputs : int
        The number k of outputs.
    readout_init : {"sign", "normal", "zero"}
        Readout weights ±1 with equal probability (the paper's main text), standard normal, or 0, so that the outputs
        are.

    Returns
    -------
    Network
        Images are flattened first. The same arguments return the same object, so what JAX compiled for it is reused.

    Notes
    -----
    Zhu, Liu, Radhakrishnan, Belkin, "Quadratic models for understanding catapult dynamics of neural networks"
    (ICLR 2024), equation of the two-layer network; all first-layer weights are standard normal.

    Examples
    --------
    >>> net, x = two_layer_fc(4), jnp.array([[1.0, -2.0, 0.5]])
    >>> params = net.init(jax.random.key(0), x.shape)
    >>> U, v = jax.tree.leaves(params)
    >>> by_hand = jnp.maximum(x @ U / jnp.sqrt(3), 0) @ v / jnp.sqrt(4)
    >>> bool(jnp.allclose(net(params, x), by_hand))
    True
    """
    check_choice("activation", activation, ACTIVATION_FUNCTIONS)
    return deep_fc(width, depth=2, activation=activation, outputs=outputs, readout_init=readout_init)


def deep_fc(
    width: int,
    *,
    depth: int = 3,
    activation: str = "relu",
    outputs: int = 1,
    readout_init: str = "sign",
    slope: float | None = None,
    parameterization: str = "ntk",
    hidden_variance: float = 1.0,
) -> Network:
    """A fully connected network with ``depth`` weight layers.

    Parameters
    ----------
    width, outputs, readout_init
        As in :func:`two_layer_fc`.
    depth : int
        Of weight layers.
    activation : {"relu", "tanh", "swish", "linear", "leaky_relu"}
    slope : float, optional
        Of ``leaky_relu`` at negative h: ``h`` becomes ``slope h`` there. It goes with that activation only.
    parameterization : {"ntk", "standard"}
        A layer is ``h W / sqrt(fan_in)``, or ``h W`` with weights drawn smaller by ``sqrt(fan_in)``: the same function
        at the start. One learning rate then moves a layer ``fan_in`` times as far as in the former.
    hidden_variance : float
        Variance of the weights of all layers but the readout (standard: times ``fan_in``). With 2 the outputs of a ReLU
        network are as large at every depth; with 1 their variance halves with each hidden layer.

    Examples
    --------
    >>> params = deep_fc(16, depth=4, outputs=2).init(jax.random.key(0), (5, 8))
    >>> [weights.shape for weights in jax.tree.leaves(params)]
    [(8, 16), (16, 16), (16, 16), (16, 2)]
    >>> net = deep_fc(16, activation="leaky_relu", slope=0.5, readout_init="zero")
    >>> net(net.init(jax.random.key(0), (1, 8)), jnp.ones((1, 8))).tolist()
    [[0.0]]
    """
    width, depth = check_whole("width", width), check_whole("depth", depth, minimum=2, maximum=MOST_LAYERS)
    check_choice("parameterization", parameterization, PARAMETERIZATIONS)
    hidden_variance = check_rate("hidden_variance", hidden_variance)
    if (activation == "leaky_relu") != (slope is not None):
        raise ValueError(
            f"slope goes with activation 'leaky_relu', and that with a slope; got {activation!r} and {slope!r}"
        )
    leaky = slope is not None
    activation, outputs, readout_init = _check_options("relu" if leaky else activation, outputs, readout_init, DEEP)
    activation = LeakyRelu(check_number("slope", slope)) if leaky else activation
    return _deep_fc(width, depth, activation, outputs, readout_init, parameterization, hidden_variance)


@functools.cache
def _deep_fc(width, depth, activation, outputs, readout_init, parameterization, hidden_variance):
    dense = functools.partial(_dense, parameterization=parameterization)
    hidden = [layer for _ in range(depth - 1) for layer in (dense(width), _activation(activation))]
    triple = stax.serial(stax.Flatten(), *hidden, dense(outputs))
    known = {"ntk": FullyConnected, "standard": StandardFullyConnected}[parameterization](depth, activation)
    return _network(triple, depth, readout_init, _check_fc_input, known, hidden_variance)


def architecture(f: object) -> object | None:
    """The architecture that a network carries; None for other functions.

    Examples
    --------
    >>> architecture(two_layer_fc(16))
    FullyConnected(depth=2, activation='relu')
    >>> print(architecture(jnp.tanh))
    None
    """
    return f.architecture if isinstance(f, Network) else None


def two_layer_cnn(
    width: int, *, readout: str = "average", activation: str = "relu", outputs: int = 1, readout_init: str = "sign"
) -> Network:
    """One 3x3 convolution with ``width`` channels (stride 1, SAME padding), then a dense readout.

    Parameters
    ----------
    width : int
        The number m of channels.
    readout : {"average", "flatten"}
        A dense layer on the average over positions, or on all positions.
    activation, outputs, readout_init
        As in :func:`two_layer_fc`.

    Returns
    -------
    Network
        For images (n, height, width, channels).

    Examples
    --------
    >>> net, x = two_layer_cnn(4), jnp.ones((2, 8, 8, 3))
    >>> params = net.init(jax.random.key(0), x.shape)
    >>> [weights.shape for weights in jax.tree.leaves(params)]
    [(3, 3, 3, 4), (4, 1)]
    >>> net(params, x).shape
    (2, 1)
    """
    check_choice("readout", readout, READOUTS)
    width = check_whole("width", width)
    return _two_layer_cnn(width, readout, *_check_options(activation, outputs, readout_init))


@functools.cache
def _two_layer_cnn(width, readout, activation, outputs, readout_init):
    convolution = stax.Conv(width, (3, 3), padding="SAME", W_std=1.0, b_std=None, parameterization="ntk")
    pool = stax.GlobalAvgPool() if readout == "average" else stax.Flatten()
    triple = stax.serial(convolution, _activation(activation), pool, _dense(outputs))
    return _network(triple, 2, readout_init, _check_cnn_input, Convolutional(activation, readout))


def _is_key(key):
    if not isinstance(key, jax.Array):
        return False
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key.ndim == 0
    return key.dtype == jnp.uint32 and key.ndim == 1  # the older, untyped keys


def _check_options(activation, outputs, readout_init, activations=tuple(ACTIVATION_FUNCTIONS)):
    check_choice("activation", activation, activations)
    check_choice("readout_init", readout_init, READOUT_INITS)
    return activation, check_whole("outputs", outputs), readout_init


def _dense(width, parameterization="ntk"):
    return stax.Dense(width, W_std=1.0, b_std=None, parameterization=parameterization)


def _activation(name):
    # stax knows the infinite-width kernels of these; its ReLUs are the same functions.
    if isinstance(name, LeakyRelu):
        return stax.LeakyRelu(name.slope)
    known = {"relu": stax.Relu, "linear": stax.Identity}
    return known[name]() if name in known else stax.Elementwise(activation_function(name))


def _network(triple, depth, readout_init, check_input, architecture, hidden_variance=1.0):
    init_stax, apply_stax, kernel_fn = triple
    if readout_init == "zero" or hidden_variance != 1 or isinstance(architecture, StandardFullyConnected):
        kernel_fn = None  # stax has that of the others

    def init_fn(key, input_shape):
        check_input(input_shape)
        key_stax, key_sign = jax.random.split(key)
        output_shape, params = init_stax(key_stax, input_shape)
        if hidden_variance != 1:
            params = [*jax.tree.map(lambda w: math.sqrt(hidden_variance) * w, params[:-1]), params[-1]]
        readout = params[-1][0]
        if readout_init == "sign":
            signs = rademacher(key_sign, readout.shape, readout.dtype)
            if isinstance(architecture, StandardFullyConnected):
                signs = signs / math.sqrt(readout.shape[0])
            params[-1] = (signs, *params[-1][1:])
        elif readout_init == "zero":
            params[-1] = (jnp.zeros_like(readout), *params[-1][1:])
        return output_shape, params

    def apply_fn(params, x, **kwargs):
        x = jnp.asarray(x)
        shape = x.shape
        check_input(shape)
        leaves = jax.tree.leaves(params)
        if len(leaves) != depth:
            raise InputError(f"params must hold the weights of {depth} layers; got {len(leaves)}")
        # Weights are (d, m) for flattened inputs and (3, 3, channels, m) for images.
        size = math.prod(shape[1:]) if check_input is _check_fc_input else shape[-1]
        expected = jnp.shape(leaves[0])[-2] if leaves and jnp.ndim(leaves[0]) >= 2 else None
        if size != expected:
            raise InputError(
                f"x of shape {shape} does not fit the first weights of params, "
                f"{jnp.shape(leaves[0]) if leaves else 'none'}: {expected} input features were expected, got {size}"
            )
        return apply_stax(params, x, **kwargs)

    return Network(init_fn, apply_fn, kernel_fn, architecture)


def _check_fc_input(shape):
    if len(shape) < 2:
        raise InputError(f"x must have shape (n, d) or (n, height, width, channels); got {shape}")


def _check_cnn_input(shape):
    if len(shape) != 4:
        raise InputError(f"x must be images of shape (n, height, width, channels); got {shape}")


def from_flax(
    module: object, x: Inputs, key: PRNGKeyArray | None = None, *, dropout: bool = False, **options: object
) -> tuple[Function, PyTree]:
    """A Flax module as a function of its parameters: ``f, params = from_flax(module, x, key)``.

    Parameters
    ----------
    module
        A linen module, whose parameters are drawn here, or an NNX one, which has its own.
    x
        A few inputs (n, ...), by whose shape a linen module is drawn.
    key
        A JAX random key, such as ``jax.random.key(0)``, for a linen module's first parameters and for its dropout.
    dropout : bool
        Off, or on with one mask, the same for all examples and at every call.
    **options
        What a linen module is called with besides x. By default arguments named ``train``, ``training``,
        ``deterministic``, ``use_running_average`` are given so that nothing is random or updated.

    Returns
    -------
    f, params
        ``f(params, x) -> (n, k)``, and a pytree of floating-point arrays. Collections beside the parameters, such as
        statistics of batches, stay as they are at the start, and so does what is no floating-point array.

    Raises
    ------
    TypeError
        For anything that is no Flax module, and for a linen module without a key.
    ModuleNotFoundError
        If Flax is not installed.

    >>> from flax import linen
    >>> f, params = from_flax(linen.Dense(2), jnp.ones((3, 4)), jax.random.key(0))
    >>> f(params, jnp.ones((3, 4))).shape
    (3, 2)
    """
    return _adapters().from_flax(module, x, key, dropout, options)


def from_equinox(
    module: object, *, state: object | None = None, key: PRNGKeyArray | None = None
) -> tuple[Function, PyTree]:
    """An Equinox module as a function of its parameters, over a batch: ``f, params = from_equinox(module)``.

    Parameters
    ----------
    module
        An Equinox module that is called with one example, as Equinox's layers are.
    state : equinox.nn.State, optional
        Of a module that ``equinox.nn.make_with_state`` made: it stays as it is.
    key
        A JAX random key where dropout is to stay on: with one mask, the same for all examples and at every call.
        Without it the module is put into inference mode.

    Returns
    -------
    f, params
        ``f(params, x) -> (n, k)``, and the module's floating-point arrays by their names.

    Raises
    ------
    TypeError
        For anything that is no Equinox module.
    ModuleNotFoundError
        If Equinox is not installed.

    >>> import equinox
    >>> f, params = from_equinox(equinox.nn.MLP(4, 2, width_size=8, depth=1, key=jax.random.key(0)))
    >>> sorted(params)[0], f(params, jnp.ones((3, 4))).shape
    ('layers[0].bias', (3, 2))
    """
    return _adapters().from_equinox(module, state, key)


def _adapters():
    # On first use: Flax and Equinox are nobody's dependencies but theirs who use them.
    return importlib.import_module("nqm_tools._adapters")
