"""Rules about models with two eigenvalues and with many directions drawn at random; computed on the spot."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nqm_tools import dynamics, quadratic
from nqm_tools.papers._rules import Finding, Interval, estimate

EPSILONS = (0.005, 0.02, 0.05)
STARTS, SEEDS = 600, 5
# The random models: examples, parameters, gamma, where eta lambda starts, steps, draws.
EXAMPLES, PARAMETERS, GAMMA, FIRST_V, STEPS, DRAWS = 30, 60, 0.2, 1.0, 1500, 10
AT_THE_EDGE = 1.8
# Sizes of the quadratic term with which they stop before the edge, and with which some diverge.
LESS, MORE = 0.1, 0.3


@functools.cache
def ends(epsilon: float, target: float, seed: int) -> Float[np.ndarray, " runs"]:
    """``eta lambda`` at the end of the runs that start below 2 and cross it."""
    rng = np.random.default_rng(seed)
    kernel, z = rng.uniform(0.5, 1.95, STARTS), rng.uniform(-0.5, 0.5, STARTS)
    # What a model can have: a share of each eigenvalue that is not negative.
    share = (kernel - 2 * (z + target)) / (1 + 1 / epsilon)
    possible = (share >= 0) & (share <= kernel)
    state = dynamics.TwoEigenvalues(z[possible], kernel[possible])
    top = state.kernel
    for _ in range(int(60 / epsilon)):
        state = dynamics.two_eigenvalue_step(state, epsilon, target)
        top = np.maximum(top, state.kernel)
    return state.kernel[top > 2]


def ends_near_the_edge() -> Finding:
    """Whether the median run that crosses 2 ends below it, by a multiple of epsilon between 0.45 and 0.6."""
    medians = {e: [np.median((2 - ends(e, 0.0, seed)) / e) for seed in range(SEEDS)] for e in EPSILONS}
    measured = ", ".join(f"{np.mean(values):.3f} at {e:g}" for e, values in medians.items())
    found = np.array(list(medians.values()))
    return Finding(
        f"(2 - end)/epsilon {measured} (means of {SEEDS} seeds)", bool(np.all((found > 0.45) & (found < 0.6)))
    )


@functools.cache
def random_runs(gamma: float = GAMMA) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """The largest ``eta lambda`` on the way and its end, of each draw of the random model."""
    highest, last = [], []
    with jax.enable_x64(True):
        for seed in range(DRAWS):
            model, data, _ = quadratic.random_regression(EXAMPLES, PARAMETERS, gamma, seed=seed)
            phi, sigma = model.featurize(jnp.asarray(data.x_train))
            v = np.asarray(_follow(phi, -jnp.asarray(data.y_train[:, 0]), gamma * sigma))
            highest.append(v.max())
            last.append(v[-1])
    return np.array(highest), np.array(last)


@jax.jit  # out here, so that every gamma finds it compiled
def _follow(jacobian, residual, matrices):
    rate = FIRST_V / jnp.linalg.eigvalsh(jacobian @ jacobian.T)[-1]

    def step(state, _):
        for _ in range(5):
            state = dynamics.quadratic_step(state, rate, lambda direction: matrices @ direction)
        return state, rate * jnp.linalg.eigvalsh(state.jacobian @ state.jacobian.T)[-1]

    return jax.lax.scan(step, dynamics.Quadratic(jacobian, residual), length=STEPS // 5)[1]


def random_models_sharpen() -> Finding:
    """Whether the kernel of random quadratic models rises from ``eta lambda = 1`` towards 2, and stays about there.

    With a smaller quadratic term it is to stop before, with a larger one some models are to diverge.
    """
    highest, last = random_runs()
    if not np.isfinite(last).all():
        return Finding(f"{np.sum(~np.isfinite(last))} of {DRAWS} draws diverge", False)
    near = int(np.sum(last > AT_THE_EDGE))
    below, beyond = random_runs(LESS)[1], random_runs(MORE)[1]
    diverged = int(np.sum(~np.isfinite(beyond)))
    interval = Interval.of(last)
    return Finding(
        f"from {FIRST_V:g} to {estimate(last, '{:.2f}', of='draws')}, at most {last.max():.2f}; {near} of {DRAWS} end "
        f"above {AT_THE_EDGE:g}; highest on the way {highest.max():.2f}; with gamma = {LESS:g} they end at "
        f"{below.min():.2f} to {below.max():.2f}, with {MORE:g} {diverged} of {DRAWS} diverge",
        bool(interval.low > AT_THE_EDGE and last.max() < 2.1 and below.max() < AT_THE_EDGE and diverged > 0),
    )


@functools.cache
def first_step() -> Finding:
    """The mean first change of the top eigenvalue's Rayleigh quotient over matrices, against its exact value."""
    rng = np.random.default_rng(0)
    n, p, gamma, rate, pairs = 20, 40, 0.3, 0.5, 800
    jacobian, residual = rng.standard_normal((n, p)) / p**0.5, rng.standard_normal(n)
    top = np.linalg.eigh(jacobian @ jacobian.T)[1][:, -1]
    direction = residual @ jacobian
    exact = rate**2 * gamma**2 / p * (p + 1) * direction @ direction
    changes = []
    for _ in range(pairs):
        matrices = rng.standard_normal((n, p, p))
        g = gamma * (matrices + matrices.transpose(0, 2, 1)) @ direction / (2 * p) ** 0.5
        # The mean over a draw and its negative: what is linear in the matrices cancels.
        changes.append(rate**2 * np.sum((top @ g) ** 2))
    interval = Interval.of(np.array(changes) / exact)
    return Finding(
        f"measured over exact: {estimate(np.array(changes) / exact, '{:.3f}', of='draws')}",
        bool(interval.low < 1 < interval.high and interval.high - interval.low < 0.05),
    )
