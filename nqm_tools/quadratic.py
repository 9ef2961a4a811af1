"""General quadratic models ``g(w; x) = w . phi(x) + gamma/2 w^T Sigma(x) w``, and where one example moves them exactly.

>>> model = GeneralQuadraticModel(phi=np.zeros(2), sigma=np.array([1.0, -1.0]), gamma=0.1)
>>> model(jnp.array([3.0, 1.0]), jnp.ones((1, 5))).item()
0.4...
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from nqm_tools._random import normal
from nqm_tools._types import Inputs
from nqm_tools._validation import (
    InputError,
    check_choice,
    check_function,
    check_inputs,
    check_number,
    check_rate,
    check_whole,
)
from nqm_tools.datasets import Data
from nqm_tools.expansions import Model, pytree_model
from nqm_tools.networks import ACTIVATION_FUNCTIONS


@pytree_model
class GeneralQuadraticModel(Model):
    """The paper's general quadratic model; ``nqm_tools.train(model, data, ...)`` trains it.

    Parameters
    ----------
    phi : array or callable
        (p,), the same for all inputs; or a function of the inputs (n, ...) that gives (n, p).
    sigma : array or callable
        (p,) the diagonal of Sigma, or (p, p) dense; or a function of the inputs that gives (n, p) or (n, p, p). Of a
        dense one the symmetric part counts.
    gamma : float
        The size of the quadratic term.

    Raises
    ------
    TypeError, ValueError
        For arrays of other shapes, with NaN or infinity; for a gamma that is not a finite number.

    Notes
    -----
    Zhu et al. (2024), section on general quadratic models. Callable as ``model(w, x) -> (n, 1)`` with ``w`` of shape
    (p,), drawn by ``init`` where ``train`` gets no ``params``. With ``gamma = 0`` it is a linear model.

    Examples
    --------
    >>> model = GeneralQuadraticModel(phi=np.ones(2), sigma=np.array([1.0, -1.0]), gamma=0.5)
    >>> model(jnp.array([2.0, 1.0]), jnp.ones((1, 3))).item()  # 3 + (4 - 1) / 4
    3.75
    """

    phi: jax.tree_util.Partial
    sigma: jax.tree_util.Partial
    gamma: float

    name = "g"
    quadratic = True

    def __init__(
        self,
        phi: Real[ArrayLike, " p"] | Callable[[Real[Array, "n ..."]], Float[Array, "n p"]],
        sigma: Real[ArrayLike, " p"]
        | Real[ArrayLike, "p p"]
        | Callable[[Real[Array, "n ..."]], Float[Array, "n p"] | Float[Array, "n p p"]],
        gamma: float,
    ) -> None:
        object.__setattr__(self, "phi", _feature("phi", phi, (1,)))
        object.__setattr__(self, "sigma", _feature("sigma", sigma, (1, 2)))
        object.__setattr__(self, "gamma", check_number("gamma", gamma))

    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...]) -> Float[Array, " p"]:
        """Draw parameters (p,), standard normal."""
        phi, _ = jax.eval_shape(self.featurize, jax.ShapeDtypeStruct(input_shape, jnp.result_type(float)))
        return normal(key, phi.shape[1:])

    def featurize(self, x: Inputs) -> tuple[Float[Array, "n p"], Float[Array, "n p"] | Float[Array, "n p p"]]:
        phi, sigma = jnp.asarray(self.phi(x)), jnp.asarray(self.sigma(x))
        n = x.shape[0]
        if phi.ndim != 2 or len(phi) != n:
            raise InputError(f"phi must give (n, p) with n = {n} examples; got {phi.shape}")
        p = phi.shape[1]
        if sigma.shape == (n, p, p):
            sigma = (sigma + jnp.swapaxes(sigma, 1, 2)) / 2
        elif sigma.shape != (n, p):
            raise InputError(f"sigma must give {(n, p)} or {(n, p, p)} as phi has p = {p}; got {sigma.shape}")
        return phi, sigma

    def predict(self, state: Float[Array, " p"], features: tuple[Array, Array]) -> Float[Array, "n 1"]:
        phi, sigma = features
        if jnp.shape(state) != phi.shape[1:]:
            raise InputError(f"params must be an array of shape {phi.shape[1:]}; got {jnp.shape(state)}")
        moved = jnp.einsum("nij,j->ni", sigma, state) if sigma.ndim == 3 else sigma * state
        return ((phi + self.gamma / 2 * moved) @ state).astype(state.dtype)[:, None]

    def pullback(
        self, state: Float[Array, " p"], features: tuple[Array, Array], r: Float[Array, "n 1"]
    ) -> Float[Array, " p"]:
        phi, sigma = features
        r = r[:, 0]
        if sigma.ndim == 2:
            return (r @ phi + self.gamma * (r @ sigma) * state).astype(state.dtype)
        return (r @ phi + self.gamma * jnp.einsum("n,nij,j->i", r, sigma, state)).astype(state.dtype)

    def __call__(self, params: Float[Array, " p"], x: Inputs) -> Float[Array, "n 1"]:
        return self.predict(params, self.featurize(x))


def _feature(name, value, shapes):
    """``value`` as a pytree that can be called with inputs: functions are static, arrays are data."""
    if callable(value):
        return jax.tree_util.Partial(check_function(value))
    value = check_inputs(name, value)
    if value.ndim not in shapes or (value.ndim == 2 and value.shape[0] != value.shape[1]):
        accepted = "(p,)" if shapes == (1,) else "(p,) or (p, p)"
        raise ValueError(f"{name} must be an array {accepted}, or a function of the inputs; got shape {value.shape}")
    return jax.tree_util.Partial(_constant, jnp.asarray(value, jnp.result_type(float)))


def _constant(value, x):
    return jnp.broadcast_to(value, (x.shape[0], *value.shape))


def diagonal(gamma: float) -> GeneralQuadraticModel:
    """The model of the paper's figure 8A: ``phi(x) = x/|x|``, Sigma diagonal ±1.

    Parameters
    ----------
    gamma : float
        The size of the quadratic term.

    Returns
    -------
    GeneralQuadraticModel
        For inputs (n, d) and parameters (d,). ``Sigma = diag(1, -1, 1, ...)``: the paper draws its signs, and a start
        that is the same in all directions makes only their balance matter.

    Examples
    --------
    >>> model, x = diagonal(gamma=0.5), jnp.array([[3.0, 4.0]])
    >>> round(model(jnp.array([2.0, 1.0]), x).item(), 4)  # (3 * 2 + 4) / 5 + (4 - 1) / 4
    2.75
    """
    return GeneralQuadraticModel(_unit_length, _alternating_signs, gamma)


def _unit_length(x):
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def _alternating_signs(x):
    return jnp.broadcast_to(jnp.where(jnp.arange(x.shape[1]) % 2 == 0, 1.0, -1.0), x.shape)


def two_layer_linear(width: int) -> GeneralQuadraticModel:
    """The two-layer linear network of Lewkowycz et al. (2020), ``f = (1/sqrt(m)) sum_k v_k u_k . x``.

    Parameters
    ----------
    width : int
        The number m of hidden units.

    Returns
    -------
    GeneralQuadraticModel
        For inputs (n, d) and parameters (m d + m,): ``u_1, ..., u_m``, then ``v``. With ``phi = 0``,
        ``gamma = 1/sqrt(m)`` and ``Sigma = [[0, I x x], [(I x x)^T, 0]]`` (Kronecker products), for which
        ``Sigma^3 = |x|^2 Sigma``; ``Sigma^2 = |x|^2 I`` only when d = 1.

    Examples
    --------
    >>> model, x = two_layer_linear(2), jnp.array([[3.0, 4.0]])
    >>> w = jnp.array([1.0, 0.0, 0.0, 1.0, 1.0, 2.0])  # u_1, u_2, v
    >>> round(model(w, x).item() * math.sqrt(2), 4)  # v_1 u_1.x + v_2 u_2.x = 3 + 8
    11.0
    """
    width = check_whole("width", width)

    def phi(x):
        return jnp.zeros((x.shape[0], width * (x.shape[1] + 1)), x.dtype)

    def sigma(x):
        block = jax.vmap(lambda row: jnp.kron(jnp.eye(width, dtype=x.dtype), row[:, None]))(x)
        size = block.shape[1]
        dense = jnp.zeros((x.shape[0], size + width, size + width), x.dtype)
        return dense.at[:, :size, size:].set(block).at[:, size:, :size].set(jnp.swapaxes(block, 1, 2))

    return GeneralQuadraticModel(phi, sigma, 1 / math.sqrt(width))


class ExactMap(NamedTuple):
    """How a model moves under one example: :func:`nqm_tools.dynamics.one_example_step` for ``g + shift, y + shift``.

    Attributes
    ----------
    c : float
        ``gamma^2 s^2``, where ``Sigma^3 = s^2 Sigma``.
    shift : float
        ``phi^T Sigma^+ phi / (2 gamma)``; zero for phi = 0.

    Examples
    --------
    >>> round(exact_map(two_layer_linear(4), np.array([[3.0, 4.0]])).c, 4)  # |x|^2 / m
    6.25
    """

    c: float
    shift: float


def exact_map(model: GeneralQuadraticModel, x: Real[ArrayLike, "1 ..."]) -> ExactMap:
    """The constants of the exact map that a general quadratic model follows on one example.

    Parameters
    ----------
    model : GeneralQuadraticModel
    x
        One input with its batch axis, (1, ...).

    Returns
    -------
    ExactMap

    Raises
    ------
    ValueError
        Unless ``Sigma^3 = s^2 Sigma`` (the eigenvalues of Sigma are 0 and ±s) and phi lies in the range of Sigma:
        otherwise the model does not follow that map. (With two non-zero eigenvalues of different moduli there is
        another one for the same two numbers, see notebook 04; with more there is none.)

    Notes
    -----
    Proposition 10 of Zhu et al. (2024) asks for ``phi = 0``, y = 0 and ``Sigma^2 = |x|^2 I``; this condition is
    weaker and enough. With ``w~ = w + Sigma^+ phi / gamma`` the model is ``gamma/2 w~^T Sigma w~ - shift``.

    Examples
    --------
    >>> model = GeneralQuadraticModel(np.array([0.6, 0.8]), np.array([1.0, -1.0]), gamma=0.1)
    >>> c, shift = exact_map(model, np.ones((1, 3)))
    >>> round(c, 6), round(shift, 6)
    (0.01, -1.4)
    """
    c, shift, outside = _completed(model, x)
    if c and np.any(outside):  # a linear model is the map with c = 0, whatever its phi
        raise ValueError(
            "no exact map: phi must lie in the range of sigma; it has a part in its null space, for which "
            "quadratic.biased_map has a map of three numbers"
        )
    return ExactMap(c, shift)


class BiasedMap(NamedTuple):
    """How a model with a constant part of its kernel moves: :func:`nqm_tools.dynamics.biased_step`, ``y + shift``.

    Attributes
    ----------
    c, shift : float
        As in :class:`ExactMap`, for the part of phi in the range of Sigma.
    direction : numpy.ndarray
        (p,), the part of phi in Sigma's null space: ``linear = w . direction``, and the rest of the output plus the
        shift is ``quadratic``.

    >>> BiasedMap(c=0.01, shift=0.0, direction=np.array([0.0, 0.5])).kappa
    0.25
    """

    c: float
    shift: float
    direction: Float[np.ndarray, " p"]

    @property
    def kappa(self) -> float:
        """``|direction|^2``, the constant part of the tangent kernel."""
        return float(self.direction @ self.direction)


def biased_map(model: GeneralQuadraticModel, x: Real[ArrayLike, "1 ..."]) -> BiasedMap:
    """The constants of the exact map of three numbers, where phi has a part in the null space of Sigma.

    Arguments and errors as in :func:`exact_map`, but for phi, which may be any.

    Notes
    -----
    That part feels no quadratic term: ``w . direction`` moves as a linear model does, by the common residual.

    >>> model = GeneralQuadraticModel(np.array([0.0, 0.0, 0.5]), np.array([1.0, -1.0, 0.0]), gamma=0.1)
    >>> biased_map(model, np.ones((1, 3))).kappa
    0.25
    """
    return BiasedMap(*_completed(model, x))


def _completed(model, x):
    """c, the shift that completes the square, and the part of phi that no square takes in."""
    if not isinstance(model, GeneralQuadraticModel):
        raise TypeError(f"model must be a GeneralQuadraticModel; got {type(model).__name__}")
    x = check_inputs("x", x)
    if len(x) != 1:
        raise ValueError(f"x must hold one example, with its batch axis; got {len(x)}")
    phi, sigma = (np.asarray(feature)[0] for feature in model.featurize(jnp.asarray(x)))
    tolerance = 1e-4 if sigma.dtype.itemsize < 8 else 1e-9
    phi, sigma = phi.astype(float), sigma.astype(float)
    eigenvalues, vectors = (sigma, np.eye(len(sigma))) if sigma.ndim == 1 else np.linalg.eigh(sigma)
    size = np.abs(eigenvalues).max()
    if model.gamma == 0 or size == 0:
        return 0.0, 0.0, phi  # a linear model
    zero = np.abs(eigenvalues) <= tolerance * size
    if np.any(np.abs(np.abs(eigenvalues[~zero]) - size) > tolerance * size):
        moduli = np.unique(np.round(np.abs(eigenvalues), 6))
        raise ValueError(
            "no exact map: sigma must satisfy Sigma^3 = s^2 Sigma, so its eigenvalues are 0 and ±s; "
            f"their moduli go from {moduli[0]:g} to {moduli[-1]:g}"
        )
    along = vectors.T @ phi
    outside = vectors @ np.where(zero, along, 0)
    if np.linalg.norm(outside) <= tolerance * np.linalg.norm(phi):
        outside = np.zeros_like(phi)
    shift = np.sum(along[~zero] ** 2 / eigenvalues[~zero]) / (2 * model.gamma)
    return float(model.gamma**2 * size**2), float(shift), outside


def norm_certificate(model: GeneralQuadraticModel, x: Inputs, params: Float[ArrayLike, " p"]) -> float:
    """A rate below which no step of gradient descent raises ``|w|^2``, for ``phi = 0`` and targets 0: runs are bounded.

    Parameters
    ----------
    model : GeneralQuadraticModel
        With ``phi = 0`` on these inputs.
    x : array
        The training inputs (n, ...).
    params : array
        (p,), the start.

    Returns
    -------
    float
        For ``half_sum``: ``4/(gamma^2 |w|^2 max eig sum_i Sigma_i^2)``. It is sufficient only: beyond it runs may
        converge as well, up to about ``4/lambda_0``.

    Raises
    ------
    ValueError, TypeError
        For a model with ``phi != 0``.

    Notes
    -----
    The norm falls while ``eta lambda_1(K) < 4`` (:func:`nqm_tools.dynamics.norm_change`), and ``r^T K r`` is at most
    ``gamma^2 |sum_i r_i Sigma_i w|^2 <= gamma^2 |r|^2 |w|^2 max eig sum_i Sigma_i^2``: from a start below, all later
    steps are below too. The idea is that of Meltzer, Chen and Liu (2023); the matrix of all blocks
    ``Sigma_i Sigma_j`` has the same largest eigenvalue as the sum of squares.

    >>> norm_certificate(two_layer_linear(4), np.ones((1, 1)), jnp.ones(8))  # 4/lambda_0: eigenvalues of one modulus
    2.0...
    """
    if not isinstance(model, GeneralQuadraticModel):
        raise TypeError(f"model must be a GeneralQuadraticModel; got {type(model).__name__}")
    x = check_inputs("x", x)
    phi, sigma = (np.asarray(feature, dtype=float) for feature in model.featurize(jnp.asarray(x)))
    if np.any(phi):
        raise ValueError(
            "no certificate: phi must be 0, the norm law is for models that are homogeneous in the weights"
        )
    w = np.asarray(check_inputs("params", params), dtype=float)
    if w.shape != phi.shape[1:]:
        raise ValueError(f"params must be an array of shape {phi.shape[1:]}; got {w.shape}")
    squares = (
        np.sum(sigma**2, axis=0) if sigma.ndim == 2 else np.linalg.eigvalsh(np.einsum("nij,njk->ik", sigma, sigma))
    )
    bound = model.gamma**2 * (w @ w) * squares.max()
    return float(4 / bound) if bound > 0 else math.inf


class RandomRegression(NamedTuple):
    """What :func:`random_regression` makes: ``train(model, data, params=params, ...)`` trains it.

    >>> random_regression(3, 5, 0.1).data.x_train.shape
    (3, 3)
    """

    model: GeneralQuadraticModel
    data: Data
    params: Float[Array, " p"]


def random_regression(n: int, p: int, gamma: float, *, seed: int = 0) -> RandomRegression:
    """A quadratic model drawn at random: no network, many directions.

    After Agarwala, Pedregosa and Pennington (2023); what is drawn, and with which variances, is ours.

    Parameters
    ----------
    n, p : int
        Examples and parameters.
    gamma : float
        The size of the quadratic term.
    seed : int
        Of the draw.

    Returns
    -------
    RandomRegression
        The start is ``w = 0``, the inputs are the rows of the identity: an example is its number. Features have
        independent entries N(0, 1/p); so have the matrices off their diagonal, on it N(0, 2/p); targets N(0, 1).

    Raises
    ------
    ValueError, TypeError
        For sizes that are not whole or positive, a gamma that is not a finite number.

    >>> model, data, params = random_regression(3, 5, 0.1)
    >>> model(params, data.x_train).shape
    (3, 1)
    """
    n, p, gamma = check_whole("n", n), check_whole("p", p), check_number("gamma", gamma)
    rng = np.random.default_rng(check_whole("seed", seed, minimum=0))
    features = jnp.asarray(rng.standard_normal((n, p)) / math.sqrt(p))
    matrices = rng.standard_normal((n, p, p))
    matrices = jnp.asarray((matrices + matrices.transpose(0, 2, 1)) / math.sqrt(2 * p))
    model = GeneralQuadraticModel(lambda x: x @ features, lambda x: jnp.einsum("ni,ipq->npq", x, matrices), gamma)
    provenance = {"name": "random_regression", "n": n, "p": p, "gamma": gamma, "seed": seed}
    data = Data("random regression", np.eye(n), rng.standard_normal(n), provenance=provenance)
    return RandomRegression(model, data, jnp.zeros(p))


def quadratic_net(
    p: int,
    *,
    dimension: int = 1,
    moduli: tuple[float, float] = (1.0, 1.0),
    activation: str = "linear",
    features: int = 0,
    seed: int = 0,
) -> GeneralQuadraticModel:
    """A quadratic net of Meltzer, Chen and Liu (2023): random matrices of the inputs, with or without a bias.

    Parameters
    ----------
    p : int
        Weights of the quadratic part, an even number.
    dimension : int
        d, of the inputs.
    moduli : pair of float
        The ends of the interval from which the moduli mu of eigenvalues are drawn, uniformly.
    activation : {"linear", "relu", "tanh", "swish"}
        Of the matrices' entries.
    features : int
        F, weights of a linear part of their own, the bias; with 0 the model is purely quadratic.
    seed : int
        Of the draw.

    Returns
    -------
    GeneralQuadraticModel
        For inputs (n, d) and parameters (F + p,), the linear ones first, standard normal:
        ``w_a . phi(x) + gamma/2 w_b^T Sigma(x) w_b`` with ``Sigma(x) = act(sum_i x_i W_i / sqrt(d))``,
        ``gamma = sqrt(2/p)``, ``phi(x) = U^T x / sqrt(d F)``, U standard normal. W_i has the eigenvalues ±mu in a
        random basis; for d = 1 without activation in that of the weights, to which a normal start is blind.

    Raises
    ------
    ValueError, TypeError
        For sizes that are not whole or positive, an odd p, moduli that are no rising pair of positive numbers.

    Notes
    -----
    The form is theirs; random bases by QR of a normal matrix are ours.

    >>> model = quadratic_net(4, features=2)
    >>> x, w = jnp.array([[2.0]]), jnp.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    >>> round(model(w, x).item(), 4)  # sqrt(2/4)/2 times 2
    0.7071
    """
    matrices, phi = _draw_net(p, dimension, moduli, features, seed)
    return _net(matrices, phi, activation)


def _draw_net(p, dimension, moduli, features, seed):
    """The matrices W_i (d, p, p), of one dimension their diagonal (1, p); and U (d, F)."""
    p, d = check_whole("p", p, minimum=2), check_whole("dimension", dimension)
    features = check_whole("features", features, minimum=0)
    if p % 2:
        raise ValueError(f"p must be even, since eigenvalues come as ±mu; got {p}")
    if not isinstance(moduli, tuple | list) or len(moduli) != 2:
        raise ValueError(f"moduli must be a pair of numbers; got {moduli!r}")
    low, high = (check_rate("each of moduli", value) for value in moduli)
    if low > high:
        raise ValueError(f"moduli must be a rising pair; got {moduli!r}")
    rng = np.random.default_rng(check_whole("seed", seed, minimum=0))
    mu = rng.uniform(low, high, (d, p // 2))
    eigenvalues = np.concatenate([mu, -mu], axis=1)
    matrices = eigenvalues
    if d > 1:
        bases = [np.linalg.qr(rng.standard_normal((p, p)))[0] for _ in range(d)]
        matrices = np.stack([(basis * values) @ basis.T for basis, values in zip(bases, eigenvalues, strict=True)])
    return matrices, rng.standard_normal((d, features)) / math.sqrt(d * features) if features else np.zeros((d, 0))


def _net(matrices, phi, activation):
    check_choice("activation", activation, tuple(ACTIVATION_FUNCTIONS))
    d, p = matrices.shape[:2]
    # A diagonal one's other entries are 0, which every activation here keeps.
    padding = [(0, 0)] + [(phi.shape[1], 0)] * (matrices.ndim - 1)
    blocks = jnp.asarray(np.pad(matrices, padding) / math.sqrt(d))
    phi = jnp.asarray(np.pad(phi, [(0, 0), (0, p)]))
    act = ACTIVATION_FUNCTIONS[activation]

    def sigma(x):
        return act(jnp.tensordot(x, blocks.astype(x.dtype), axes=1))

    return GeneralQuadraticModel(lambda x: x @ phi.astype(x.dtype), sigma, math.sqrt(2 / p))


def teacher_and_student(
    n: int,
    p: int,
    teacher_p: int,
    *,
    dimension: int = 1,
    moduli: tuple[float, float] = (1.0, 1.0),
    activation: str = "linear",
    n_test: int = 0,
    seed: int = 0,
) -> RandomRegression:
    """A quadratic net that is to learn from a larger one, of whose weights it has a random part.

    Parameters
    ----------
    n, n_test : int
        Training and test examples, standard normal inputs; targets are the teacher's outputs.
    p, teacher_p : int
        Weights of the student and of the teacher, ``p <= teacher_p``.
    dimension, moduli, activation, seed
        As in :func:`quadratic_net`, of the teacher.

    Returns
    -------
    RandomRegression
        The student, whose matrices are blocks of the teacher's, its data, and a standard normal start.

    Raises
    ------
    ValueError, TypeError
        As :func:`quadratic_net`; for a student with more weights than the teacher.

    >>> student, data, params = teacher_and_student(5, 4, 8, dimension=2, n_test=3)
    >>> student(params, data.x_test).shape, data.y_train.shape
    ((3, 1), (5, 1))
    """
    n, p, n_test = check_whole("n", n), check_whole("p", p), check_whole("n_test", n_test, minimum=0)
    matrices, phi = _draw_net(teacher_p, dimension, moduli, 0, seed)
    if p > teacher_p:
        raise ValueError(f"p must be at most the teacher's {teacher_p}; got {p}")
    rng = np.random.default_rng([seed, 1])
    x, weights = rng.standard_normal((n + n_test, dimension)), rng.standard_normal(teacher_p)
    y = np.asarray(_net(matrices, phi, activation)(jnp.asarray(weights), jnp.asarray(x)))
    part = np.sort(rng.permutation(teacher_p)[:p])
    student = _net(matrices[:, part][:, :, part] if dimension > 1 else matrices[:, part], phi, activation)
    provenance = {"name": "teacher_and_student", "n": n, "p": p, "teacher_p": teacher_p, "dimension": dimension}
    provenance |= {"moduli": list(moduli), "activation": activation, "seed": seed}
    data = Data("teacher and student", x[:n], y[:n], x[n:], y[n:], provenance)
    return RandomRegression(student, data, jnp.asarray(rng.standard_normal(p)))
