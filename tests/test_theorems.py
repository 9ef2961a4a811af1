"""The laws and the theorems on real runs: gradient descent on the quadratic models of two-layer ReLU networks.

Seeds are fixed, so no test is a game of chance; stated rates say how surprising a failure on other seeds would be.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import nqm_tools as nqm
from nqm_tools import dynamics, networks


class Descent(NamedTuple):
    losses: np.ndarray
    distance: float
    kernel: np.ndarray


def draw(seed, width, d):
    """An input (1, d) with |x|^2 = d, so that c = 1 / width, and the parameters of a two-layer network."""
    rng = np.random.default_rng([seed, width, d])
    x = rng.standard_normal((1, d))
    return x * d**0.5 / np.linalg.norm(x), rng.standard_normal((d, width)), rng.choice([-1.0, 1.0], width)


def start(x, u, v):
    """Predictions (n,) and tangent kernel (n, n) of the network at its start."""
    hidden = np.maximum(x @ u, 0)
    kernel = hidden @ hidden.T + x @ x.T * ((hidden > 0) * v**2 @ (hidden > 0).T)
    return hidden @ v / u.size**0.5, kernel / u.size


def descend(x, y, u, v, rate, steps=150):
    """Gradient descent on half_sum of the quadratic model of a two-layer ReLU network, in float64."""
    with jax.enable_x64(True):
        return Descent(*map(np.asarray, _descend(x, np.asarray(y, float), u, v, rate, steps)))


@functools.partial(jax.jit, static_argnames="steps")
def _descend(x, y, u, v, rate, steps):
    gates = (x @ u >= 0).astype(float)

    def predict(weights):
        return gates * (x @ weights[0]) @ weights[1] / u.size**0.5

    def update(weights, _):
        residual, pullback = jax.vjp(lambda weights: predict(weights) - y, weights)
        (gradient,) = pullback(residual)
        return jax.tree.map(lambda w, g: w - rate * g, weights, gradient), jnp.sum(residual**2) / 2

    end, losses = jax.lax.scan(update, (u, v), length=steps)
    distance = jnp.sqrt(jnp.sum((end[0] - u) ** 2) + jnp.sum((end[1] - v) ** 2))
    hidden = gates * (x @ end[0])
    kernel = hidden @ hidden.T + x @ x.T * (gates * end[1] ** 2 @ gates.T)
    return losses, distance, kernel / u.size


def one_example(seed, width, v0, y=0.0, d=2, steps=150):
    """(u0, w0), the highest u and the final v of a run at the learning rate ``v0 / lambda(0)``; the run; the rate."""
    x, *weights = draw(seed, width, d)
    (g0,), ((kernel0,),) = start(x, *weights)
    rate = v0 / kernel0
    run = descend(x, y, *weights, rate, steps)
    u0, _, w0 = dynamics.dimensionless(g0, kernel0, rate, 1 / width, y)
    peak = np.inf if np.isnan(run.losses).any() else 2 / width * rate**2 * run.losses.max()
    return (u0, w0), peak, rate * run.kernel.item(), run, rate


def trained(width, d, seed):
    """Input, quadratic model, prediction and kernel, for runs by the trainer."""
    x, *weights = draw(seed, width, d)
    net = networks.two_layer_fc(width)
    shapes = jax.eval_shape(lambda key: net.init(key, x.shape), jax.random.key(0))
    params = jax.tree.unflatten(jax.tree.structure(shapes), [weights[0], weights[1][:, None]])
    return x, weights, nqm.quadraticize(net, params), *np.ravel(np.concatenate(start(x, *weights), axis=None))


def train(model, x, y, rate, steps=150, record=()):
    data = nqm.Data("own", x, np.reshape(y, (1, 1)))
    return nqm.train(model, data, learning_rate=rate, steps=steps, loss="half_sum", record=record, record_every=1)


def test_the_descent_of_these_tests_is_the_trainers(x64):
    for v0, y in ((1.2, 1.0), (2.6, 0.0), (3.1, 1.0)):
        x, weights, model, _, kernel0 = trained(1000, 4, seed=0)
        run = train(model, x, y, v0 / kernel0, steps=149, record=("lambda_1", "distance"))
        own = descend(x, y, *weights, v0 / kernel0)
        assert run.records["lambda_1"][0] == pytest.approx(kernel0, rel=1e-12)
        np.testing.assert_allclose(own.losses**0.5, run.losses**0.5, rtol=1e-10, atol=1e-12)
        assert run.records["lambda_1"][-1] == pytest.approx(own.kernel.item(), rel=1e-10)
        assert run.records["distance"][-1] == pytest.approx(own.distance, rel=1e-10)


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_laws_with_the_runs_own_start_are_exact(x64, y):
    for seed in range(5):
        x, _, model, g0, kernel0 = trained(1000, 4, seed)
        for v0 in (1.6, 2.2, 2.6, 3.0):
            rate = v0 / kernel0
            u0, _, w0 = dynamics.dimensionless(g0, kernel0, rate, 1e-3, y)
            run = train(model, x, y, rate, steps=400, record="lambda_1")
            peak = dynamics.loss_from_u(dynamics.peak_u(v0, u0, w0), rate, 1e-3)
            assert peak == pytest.approx(run.peak_loss, rel=1e-9)
            end = dynamics.kernel_from_v(dynamics.final_v(v0, u0, w0), rate)
            assert end == pytest.approx(run.records["lambda_1"][-1], rel=1e-9)
            assert run.regime == dynamics.predict_regime(u0, v0, w0)


def test_laws_without_the_start_hold_on_average():
    """Means of 20 seeds, y = 0: the peak within 5 %, the final kernel within 1 %."""
    for v0 in (2.1, 2.2, 2.35, 2.5, 2.7):
        runs = [one_example(seed, 10_000, v0, steps=150 if v0 < 2.2 else 100) for seed in range(20)]
        assert np.mean([peak for _, peak, *_ in runs]) == pytest.approx(dynamics.peak_u(v0), rel=0.05)
        assert np.mean([end for _, _, end, *_ in runs]) == pytest.approx(dynamics.final_v(v0), rel=0.01)


@pytest.mark.parametrize(("y", "without", "bound"), [(0.0, 0.01, 5e-5), (1.0, 0.02, 1e-3)])
def test_the_invariant_takes_finite_width_into_account(y, without, bound):
    """At m = 1,000 and v0 = 2.1 it foretells the final kernel of real runs 20 to 200 times better than the limit."""
    v0, errors = 2.1, []
    for seed in range(60):
        (u0, w0), _, end, _, _ = one_example(seed, 1000, v0, y, steps=300)
        invariant = dynamics.adiabatic_invariant(u0, v0 - 2 * w0)
        foretold = scipy.optimize.brentq(lambda v, i=invariant: dynamics.adiabatic_invariant(0.0, v) - i, 1, 2)
        errors.append((dynamics.final_v(v0) / end - 1, foretold / end - 1))
    rms = np.sqrt(np.mean(np.square(errors), axis=0))
    assert rms[0] > without
    assert rms[1] < bound


def test_real_runs_converge_just_below_the_largest_rate_and_diverge_just_above(x64):
    for seed in range(8):
        for y in (0.0, 1.0, -2.0):
            x, _, model, g0, kernel0 = trained(200, 3, seed)
            largest = dynamics.max_learning_rate(g0 - y, kernel0, 1 / 200, y)
            below, above = (train(model, x, y, share * largest, steps=800) for share in (0.999, 1.001))
            assert below.losses[-1] < 1e-3 * below.losses[0]
            assert not np.isfinite(above.losses[-1])


def test_the_largest_rate_of_random_networks_is_as_printed():
    for width, printed in ((200, 3.923), (5000, 3.997)):
        starts = [start(*draw(seed, width, 9)) for seed in range(400)]
        g0, kernel0 = np.array([prediction[0] for prediction, _ in starts]), np.array([k.item() for _, k in starts])
        mean = np.mean(dynamics.max_learning_rate(g0 - 1, kernel0, 1 / width, 1.0) * kernel0)
        # The spread is about 16 / width times that of r0 y, 0.7: over 400 draws 0.003 and 0.0001.
        assert mean == pytest.approx(printed, abs=3 * 16 / width * 0.7 / 400**0.5 + 5e-4)


def test_regimes_are_where_the_theorems_put_them():
    """100 draws a window, m = 5,000, y = 1, windows (0, 2), (2, 4) and beyond 4 with margins of 0.2.

    The margins are far beyond what the width leaves undecided (u0, w0 ~ 16 r0 / 5,000), so no draw may be elsewhere.
    (0 failures of 100 are compatible, at the 5 % level, with a share of at most 3 %: 0.97^100 = 0.05.)
    """
    for low, high, regime in ((0.2, 1.8, "monotone"), (2.2, 3.8, "catapult"), (4.2, 6.0, "divergent")):
        for seed, v0 in enumerate(np.random.default_rng(0).uniform(low, high, 100)):
            (u0, w0), _, _, run, _ = one_example(seed, 5000, v0, y=1.0, steps=200)
            assert nqm.regime(run.losses) == dynamics.predict_regime(u0, v0, w0) == regime


def test_a_catapult_climbs_in_proportion_to_the_width_and_leaves_every_ball():
    """Theorem 1 has m / log m: over these widths the logarithm would take off 40 %. y = 0, means of 12 seeds."""
    peaks, distances, quiet = [], [], []
    for width in (1000, 100_000):
        runs = [one_example(seed, width, 2.5)[3] for seed in range(12)]
        peaks.append(np.mean([run.losses.max() for run in runs]) / width)
        distances.append(np.mean([run.distance for run in runs]) / width**0.5)
        assert all(run.losses[-1] < 1e-9 for run in runs)
        quiet.append(np.mean([one_example(seed, width, 1.5)[3].distance for seed in range(12)]))
    assert peaks[0] == pytest.approx(peaks[1], rel=0.1)
    assert distances[0] == pytest.approx(distances[1], rel=0.05)
    assert quiet[0] == pytest.approx(quiet[1], rel=0.5)  # below the critical rate it does not grow


def test_below_the_critical_rate_the_kernel_moves_by_one_over_the_width():
    moves = []
    for width in (1000, 10_000):
        runs = [one_example(seed, width, 1.5) for seed in range(100)]
        moves.append(np.mean([abs(end - 1.5) for *_, end, _, _ in runs]))
    # Means of 100 chi-squared variables: each has a relative spread of 0.14, their ratio one of 0.2.
    assert moves[0] / moves[1] == pytest.approx(10, rel=0.6)


def test_proposition_6_bounds_the_kernel_of_most_draws():
    """At most a share of delta = 4 exp(-m / C) is outside of |x|^2 / (2 d) <= lambda(0) <= 3 |x|^2 / (2 d).

    C is ours: 12. Counts of 4,000 draws may exceed it by three of their standard deviations.
    """
    for width in (20, 40, 80):
        kernels = np.array([start(*draw(seed, width, 3))[1].item() for seed in range(4000)])
        outside, delta = np.mean((kernels < 0.5) | (kernels > 1.5)), min(1, 4 * np.exp(-width / 12))
        assert outside <= delta + 3 * (delta * (1 - delta) / 4000) ** 0.5


def two_clusters(seed, positive, negative, width):
    """The inputs and labels of figure 3, with clusters of these sizes; the parameters."""
    rng = np.random.default_rng(seed)
    y = np.repeat([1.0, -1.0], [positive, negative])
    x = rng.standard_normal((len(y), 1)) + 2 * y[:, None]
    return x, y, rng.standard_normal((1, width)), rng.choice([-1.0, 1.0], width)


def test_proposition_8_bounds_the_largest_eigenvalue_of_every_draw():
    """300 draws, n = 32, m = 500; the bounds are 8 standard deviations, sqrt(2 / m) each, away."""
    for seed in range(300):
        x, _, *weights = two_clusters(seed, 20, 12, 500)
        largest = np.linalg.eigvalsh(start(x, *weights)[1])[-1]
        bound = max(np.sum(x[x >= 0] ** 2), np.sum(x[x < 0] ** 2))
        assert bound / 2 <= largest <= 3 * bound / 2


def which_fall(seed, positive, negative, rate_of, width=1000):
    """lambda_2 / lambda_1; for both groups, larger first, whether the eigenvalue falls by 8 % and more; the regime."""
    x, y, *weights = two_clusters(seed, positive, negative, width)
    groups = dynamics.sign_groups(x, width)
    before = np.asarray(dynamics.group_eigenvalues(start(x, *weights)[1], groups))
    second, first = np.sort(before).tolist()
    run = descend(x, y, *weights, rate_of(first, second), steps=100)
    after = np.asarray(dynamics.group_eigenvalues(run.kernel, groups))
    return second / first, *(after < 0.92 * before)[np.argsort(-before)].tolist(), nqm.regime(run.losses)


def test_theorem_3_says_which_eigenvalue_falls():
    """Every draw, where the window exists with a margin; the rate is the geometric mean of the window's ends.

    (With at least 40 draws each and no failure, a share of failures above 7 % is excluded at the 5 % level.)
    """
    windows = {
        (False, False, "monotone"): lambda first, second: 1.8 / first,
        (True, False, "catapult"): lambda first, second: 2 / (first * second) ** 0.5,
        (True, True, "catapult"): lambda first, second: (8 / (first * second)) ** 0.5,
    }
    for expected, rate_of in windows.items():
        found = [which_fall(seed, 10, 7, rate_of) for seed in range(120)]
        within = [outcome for ratio, *outcome in found if 0.6 < ratio < 0.85]
        assert len(within) >= 40
        assert {tuple(outcome) for outcome in within} == {expected}


def test_the_second_direction_never_catapults_when_its_window_is_beyond_divergence():
    """2/lambda_2 > 4/lambda_1, with a margin: just below 4/lambda_1 only lambda_1 falls, just above all diverges."""
    for share, expected in ((0.95, (True, False, "catapult")), (1.05, (False, False, "divergent"))):
        found = [which_fall(seed, 12, 4, lambda first, second, share=share: share * 4 / first) for seed in range(60)]
        within = [outcome for ratio, *outcome in found if ratio < 0.45]
        assert len(within) >= 40
        assert {tuple(outcome) for outcome in within} == {expected}
