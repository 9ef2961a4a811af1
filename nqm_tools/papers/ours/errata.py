"""Printed formulas of Zhu et al. (2024) that do not hold, beside the corrected ones: both against gradient descent.

Each function gives ``(corrected, printed)``, the errors of the two forms relative to the largest measured value, in
float64. Notebook A1 derives the corrections.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PyTree

import nqm_tools as nqm
from nqm_tools._types import Function, Inputs, Numbers

_Flat = Callable[[Float[ArrayLike, " p"]], Float[Array, " n"]]


def off(formula: Float[ArrayLike, "..."], measured: Float[ArrayLike, "..."]) -> float:
    """The largest error of a formula, relative to the largest measured value."""
    return float(np.abs(formula - measured).max() / np.abs(measured).max())


def weights(rng: np.random.Generator, d: int, m: int) -> PyTree:
    """A two-layer network's parameters: U normal, v of signs."""
    tree = jax.tree.structure(nqm.networks.two_layer_fc(1).init(jax.random.key(0), (1, 1)))
    return jax.tree.unflatten(tree, [rng.standard_normal((d, m)), rng.choice([-1.0, 1.0], (m, 1))])


def flatten(model: Function, params: PyTree, x: Inputs) -> tuple[_Flat, Float[Array, " p"]]:
    """The model's predictions on x as a function of one weight vector, and that vector."""
    flat, unravel = ravel_pytree(params)
    return lambda w: model(unravel(w), x)[:, 0], flat


@functools.partial(jax.jit, static_argnums=0)
def measure(f: _Flat, w: Float[ArrayLike, " p"], y: Numbers) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Residual and tangent kernel."""
    F = jax.jacobian(f)(w)
    return f(w) - y, F @ F.T


@functools.partial(jax.jit, static_argnums=0)
def descend(f: _Flat, w: Float[ArrayLike, " p"], y: Numbers, rate: Numbers) -> Float[Array, " p"]:
    """One step of gradient descent on half_sum."""
    return w - rate * jax.grad(lambda w: jnp.sum((f(w) - y) ** 2) / 2)(w)


def kernel_recursion() -> tuple[float, float]:
    """Erratum 1: the change of the kernel in one step of any quadratic model."""
    rng, rate = np.random.default_rng(0), 0.7
    x, y, start = rng.standard_normal((5, 3)), rng.standard_normal(5), weights(rng, 3, 20)
    f, w = flatten(nqm.quadraticize(nqm.networks.two_layer_fc(20, activation="tanh"), start), start, x)
    w = w + 0.3 * rng.standard_normal(len(w))
    (r, K), (_, K_next) = measure(f, w, y), measure(f, descend(f, w, y, rate), y)
    F, G = jax.jit(lambda w: jax.jvp(jax.jacobian(f), (w,), (jax.jacobian(f)(w).T @ r,)))(w)
    corrected = -rate * (G @ F.T + F @ G.T) + rate**2 * G @ G.T
    printed = -rate / 4 * (4 * G @ F.T - rate * G @ G.T)
    readings = (printed, -printed, (printed + printed.T) / 2)
    return off(corrected, K_next - K), min(off(form, K_next - K) for form in readings)


def proposition_10() -> tuple[float, float]:
    """Erratum 2: the powers of gamma and of the rate in the map of a general quadratic model."""
    rng, gamma, rate = np.random.default_rng(0), 0.3, 0.4
    x = np.array([[1.0, -0.5, 0.7]])
    square = np.sum(x**2)
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    sigma = np.sqrt(square) * basis * np.array([1, 1, -1, 1, -1, -1]) @ basis.T
    model = nqm.quadratic.GeneralQuadraticModel(np.zeros(6), sigma, gamma)
    f, w = flatten(model, 2 * rng.standard_normal(6), x)
    before, after = (
        np.array([g[0], kernel[0, 0]]) for g, kernel in (measure(f, at, 0.0) for at in (w, descend(f, w, 0.0, rate)))
    )

    def stepped(in_g, in_kernel):
        g, kernel = before
        return np.array([(1 - rate * kernel + in_g * g**2) * g, kernel - in_kernel * g**2 * (4 - rate * kernel)])

    corrected = stepped(gamma**2 * rate**2 * square, rate * gamma**2 * square)
    printed = stepped(gamma * rate**2 * square, gamma * square)
    return off(corrected / after, np.ones(2)), off(printed / after, np.ones(2))


@functools.cache
def catapult(targets: bool = True) -> dict:
    """A quadratic model of one-dimensional data that catapults along both directions (in float64)."""
    data = nqm.datasets.gaussians_1d(16, seed=6)
    x, y, m = data.x_train, data.y_train[:, 0] * targets, 300
    start = weights(np.random.default_rng(1), 1, m)
    f, w0 = flatten(nqm.quadraticize(nqm.networks.two_layer_fc(m), start), start, x)
    masks = np.stack([x[:, 0] >= 0, x[:, 0] < 0])
    P = masks * x[:, 0]
    norms = np.linalg.norm(P, axis=1)
    p = P / norms[:, None]
    lam0 = np.einsum("gi,ij,gj->g", p, measure(f, w0, y)[1], p)
    rate = 0.6 * 2 / lam0.min() + 0.4 * 4 / lam0.max()

    def body(w, _):
        return descend(f, w, y, rate), (w, *measure(f, w, y))

    path, residuals, kernels = (np.asarray(values) for values in jax.lax.scan(body, w0, length=101)[1])
    lam, r = np.einsum("gi,tij,gj->tg", p, kernels, p), residuals @ p.T
    run = dict(y=y, m=m, masks=masks, P=P, norms=norms, p=p, c=norms**2 / m, rate=rate, path=path)
    return run | dict(residuals=residuals, kernels=kernels, lam=lam, r=r, yp=p @ y, losses=r**2 / 2)


def change_along_a_direction() -> tuple[float, float]:
    """Erratum 5: how the kernel changes along a direction of one-dimensional data, targets 0."""
    run = catapult(targets=False)
    rate, lam, size = run["rate"], run["lam"], 2 * run["c"] * run["losses"]
    change = np.diff(lam, axis=0)
    corrected, printed = size * rate * (rate * lam - 4), size * rate * (lam - 4 * rate)
    return off(corrected[:-1], change), off(printed[:-1], change)


def kappa() -> tuple[float, float]:
    """Erratum 5: kappa leads from a loss to the next one."""
    run = catapult()
    rate, r, losses = run["rate"], run["r"], run["losses"]
    kappa = (1 - rate * run["lam"] + run["c"] * rate**2 * r * (r + run["yp"])) ** 2
    return off((kappa * losses)[:-1], losses[1:]), off((kappa * losses)[:-1], losses[:-1])


def normalised_vectors() -> tuple[float, float]:
    """Erratum 6: the kernel of one-dimensional data from its eigenvectors."""
    run = catapult()
    forms = [np.einsum("tg,gi,gj->tij", run["lam"], vectors, vectors) for vectors in (run["p"], run["P"])]
    return tuple(off(form, run["kernels"]) for form in forms)


def norm_in_u() -> tuple[float, float]:
    """Erratum 6: u and w need the squared norm of the direction."""
    run = catapult()
    rate, r, v = run["rate"], run["r"], run["rate"] * run["lam"]

    def next_v(c):
        return (v - c * rate**2 * (r**2 * (4 - v) + 4 * r * run["yp"]))[:-1]

    return off(next_v(run["c"]), v[1:]), off(next_v(1 / run["m"]), v[1:])


def critical_rate() -> tuple[float, float]:
    """Erratum 7: 2 over the Hessian's top eigenvalue is the critical rate of the linear model, not of the others."""
    rng = np.random.default_rng(0)
    x, y, start = rng.standard_normal((6, 3)), rng.standard_normal(6), weights(rng, 3, 50)
    net = nqm.networks.two_layer_fc(50)
    gaps = []
    for model in (nqm.linearize(net, start), nqm.quadraticize(net, start), net):
        critical = nqm.critical_learning_rate(nqm.empirical_ntk(model, start, x), "half_sum")
        gaps.append(abs(nqm.sharpness(model, start, x, y, "half_sum") * critical / 2 - 1))
    return gaps[0], min(gaps[1:])


def linear_term() -> tuple[float, float]:
    """Erratum 8: the gradient in v has the factor 1/sqrt(d) inside the activation."""
    x, start = np.array([[1.0, -0.5, 0.7], [0.2, 0.9, -1.4]]), weights(np.random.default_rng(0), 3, 50)
    net = nqm.networks.two_layer_fc(50)
    gradient = jax.tree.leaves(jax.jit(jax.jacobian(lambda params: net(params, x)[:, 0]))(start))[1][:, :, 0]
    h = x @ jax.tree.leaves(start)[0]
    return tuple(off(np.maximum(h / root, 0) / np.sqrt(50), gradient) for root in (np.sqrt(3), 1.0))
