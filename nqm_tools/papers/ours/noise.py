"""Rules for the exact kernel norm: against second moments written out over all batches, in float64."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from nqm_tools.batch_noise import stochastic_critical_learning_rate
from nqm_tools.papers._rules import Finding

EXAMPLES, BATCHES, MOMENTA, KERNELS = 5, (1, 2, 3), (0.0, 0.5, 0.9), 5
RIGHT, BESIDE = 1e-9, 0.02


def growth(kernel: np.ndarray, rate: float, batch_size: int, momentum: float) -> float:
    """The spectral radius of what a step makes of the second moments, the mean over all batches; loss ``mse``."""
    n = len(kernel)
    identity, steps = np.eye(n), []
    for rows in itertools.combinations(range(n), batch_size):
        chosen = np.zeros((n, n))
        chosen[rows, rows] = 1
        move = (1 + momentum) * identity - 2 * rate / batch_size * kernel @ chosen
        one = np.block([[move, -momentum * identity], [identity, 0 * identity]])
        steps.append(np.kron(one, one))
    return float(np.abs(np.linalg.eigvals(np.mean(steps, axis=0))).max())


@functools.cache
def exact_threshold() -> Finding:
    """Whether the rate at which the exact norm is 1 is the one beyond which second moments grow."""
    off, sides, cases = 0.0, True, 0
    for seed, size, momentum in itertools.product(range(KERNELS), BATCHES, MOMENTA):
        x = np.random.default_rng(seed).normal(size=(EXAMPLES, EXAMPLES))
        kernel = x @ x.T
        rate = stochastic_critical_learning_rate(kernel, size, momentum=momentum, form="exact")
        off = max(off, abs(growth(kernel, rate, size, momentum) - 1))
        below, above = (growth(kernel, share * rate, size, momentum) for share in (1 - BESIDE, 1 + BESIDE))
        sides &= below < 1 < above
        cases += 1
    right = "exact to rounding" if off < RIGHT else f"off by {off:.1g}"
    return Finding(f"radius 1 there: {right} ({cases} kernels, batch sizes and momenta)", sides and off < RIGHT)
