"""Heavy ball on one example: the map against the weights themselves, its law against the map, the closing window."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nqm_tools as nqm
from nqm_tools import dynamics, quadratic
from nqm_tools.dynamics import HeavyBall, Signed, _heavy_ball, _inertia, _momentum_laws

MOMENTA = (0.0, 0.3, 0.6, 0.9)
STEPS = 100
# Up to 0.6. Beyond, a catapult amplifies rounding errors like every other change of the start: each step's may be this
# share of the numbers, times what the map makes of such a change by the end.
BOUND, ROUNDING = 1e-11, 1e-13


def descend(gradient, w, momentum, rate, velocity=0.0):
    """The weights of heavy ball written out, (STEPS + 1, p), and those one step before."""
    w, before = np.array(w, float), w - velocity
    path = [(w, before)]
    for _ in range(STEPS):
        w, before = w - rate * gradient(w) + momentum * (w - before), w
        path.append((w, before))
    return path


class TwoLayers:
    """The quadratic model of a two-layer ReLU network on one example, by its formulas in NumPy."""

    def __init__(self, seed, d=7, m=200):
        rng = np.random.default_rng(seed)
        self.x, self.d, self.m = rng.standard_normal(d), d, m
        self.start = np.concatenate([rng.standard_normal(d * m), rng.choice([-1.0, 1.0], m)])
        self.gates = self.x @ self.start[: d * m].reshape(d, m) >= 0
        self.c = dynamics.coupling(self.x, m)

    def parts(self, w):
        hidden = self.gates * (self.x @ w[: self.d * self.m].reshape(self.d, self.m))
        return hidden, self.gates * w[self.d * self.m :]

    def prediction(self, w):
        hidden, readout = self.parts(w)
        return hidden @ readout / np.sqrt(self.m * self.d)

    def gradient(self, w):
        hidden, readout = self.parts(w)
        return np.concatenate([np.outer(self.x, readout).ravel(), hidden]) / np.sqrt(self.m * self.d)


def beta_of(model, rate, y):
    return np.sqrt(model.c) * rate * y


def walk(state, momentum, beta):
    """The observables of STEPS steps, stacked, by the package's own ``iterate`` under jit."""

    @jax.jit
    def path(state, momentum, beta):
        states = dynamics.iterate(lambda s: dynamics.heavy_ball_step(s, momentum, beta), state, STEPS)
        return dynamics.heavy_ball_observables(states, beta)

    return path(state, momentum, beta)


@pytest.mark.parametrize("momentum", MOMENTA)
def test_from_rest_four_numbers_move_as_all_the_weights(x64, momentum):
    regimes = set()
    for seed, y in ((0, 0.0), (1, 1.0), (2, -1.0)):
        model = TwoLayers(seed)
        g0, kernel0 = model.prediction(model.start), np.sum(model.gradient(model.start) ** 2)
        for ratio in (0.7, 1.02, 1.05, 1.1):
            rate = ratio * 2 * (1 + momentum) / kernel0

            def loss_gradient(w, model=model, y=y):
                return (model.prediction(w) - y) * model.gradient(w)

            with np.errstate(all="ignore"):  # of a run that diverges
                path = descend(loss_gradient, model.start, momentum, rate)
                r = np.array([model.prediction(w) - y for w, _ in path])
                kernel = np.array([np.sum(model.gradient(w) ** 2) for w, _ in path])
            state = dynamics.heavy_ball_state(g0, kernel0, rate, model.c)
            z, v = walk(state, momentum, beta_of(model, rate, y))
            until = np.argmax(~(kernel * rate < 1e3)) if np.any(~(kernel * rate < 1e3)) else len(r)
            scale = np.sqrt(model.c) * rate * np.abs(r[:until]).max()
            bound = BOUND
            if momentum > 0.6:
                changed = walk(HeavyBall(*(part * (1 + 1e-9) for part in state)), momentum, beta_of(model, rate, y))
                bound = ROUNDING * np.abs(changed.z - z)[:until].max() / (1e-9 * scale)
                assert bound < 1e-4
            assert np.abs(z[:until] - np.sqrt(model.c) * rate * r[:until]).max() < bound * scale
            if momentum <= 0.6:
                assert np.abs(v[:until] / (rate * kernel[:until]) - 1).max() < bound
            regimes.add(until < len(r) or np.abs(r).max() > 1.5 * np.abs(r[0]))
    assert True in regimes


def test_without_momentum_it_is_gradient_descent(x64):
    state = dynamics.heavy_ball_state(0.3, 1.2, 2.0, 1e-2)
    beta = 0.1
    z, v = walk(state, 0.0, beta)
    path = dynamics.iterate(lambda s: dynamics.signed_step(s, beta), Signed(z[0], v[0]), STEPS)
    np.testing.assert_allclose(z, path.z, atol=1e-13)
    np.testing.assert_allclose(v, path.v, rtol=1e-13)


def test_six_numbers_move_as_all_the_weights_with_any_velocity(x64):
    momentum = 0.6
    for seed in range(3):
        model, y = TwoLayers(seed), 1.0
        rate = 1.05 * 2 * (1 + momentum) / np.sum(model.gradient(model.start) ** 2)
        velocity = 0.05 * np.random.default_rng(seed + 10).standard_normal(model.start.size)

        def loss_gradient(w, model=model, y=y):
            return (model.prediction(w) - y) * model.gradient(w)

        path = descend(loss_gradient, model.start, momentum, rate, velocity)

        def gram(w, before, model=model, rate=rate):
            q, q_before = model.gradient(w), model.gradient(before)
            predictions = model.prediction(w), q @ before / 2, model.prediction(before)
            return dynamics.heavy_ball_gram(predictions, (q @ q, q @ q_before, q_before @ q_before), rate, model.c)

        beta = beta_of(model, rate, y)
        state = gram(*path[0])
        for step, (w, before) in enumerate(path):
            found = np.array(state)
            np.testing.assert_allclose(found, np.array(gram(w, before)), rtol=1e-11, atol=1e-12)
            if step < 20:
                after = dynamics.heavy_ball_step(state, momentum, beta)
                for i in (0, 3):  # both determinants fall by momentum^2
                    determinants = [s[i] * s[i + 2] - s[i + 1] ** 2 for s in (state, after)]
                    np.testing.assert_allclose(determinants[1], momentum**2 * determinants[0], rtol=1e-6, atol=1e-14)
            state = dynamics.heavy_ball_step(state, momentum, beta)
    resting = dynamics.heavy_ball_state(0.3, 1.2, 2.0, 1e-2)
    six = dynamics.heavy_ball_gram((0.3,) * 3, (1.2,) * 3, 2.0, 1e-2)
    for _ in range(5):
        np.testing.assert_allclose(
            dynamics.heavy_ball_observables(six, 0.1), dynamics.heavy_ball_observables(resting, 0.1), rtol=1e-12
        )
        six, resting = (dynamics.heavy_ball_step(state, 0.5, 0.1) for state in (six, resting))


@pytest.mark.parametrize("null_space", [0, 3])
def test_general_quadratic_models_follow_it(x64, null_space):
    rng, momentum, gamma, y = np.random.default_rng(4), 0.5, 0.2, 0.7
    basis = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    signs = np.array([1.0, 1, -1, 1, -1, -1, 1, -1, 1, 1, -1, 1]) * (np.arange(12) >= null_space)
    sigma = 1.7 * basis * signs @ basis.T
    phi = sigma @ rng.standard_normal(12)
    model = quadratic.GeneralQuadraticModel(phi, sigma, gamma)
    c, shift = quadratic.exact_map(model, np.ones((1, 3)))
    w = rng.standard_normal(12)

    def prediction(w):
        return phi @ w + gamma / 2 * w @ sigma @ w

    def gradient(w):
        return (prediction(w) - y) * (phi + gamma * sigma @ w)

    kernel = np.sum((phi + gamma * sigma @ w) ** 2)
    for ratio in (0.4, 0.8):
        rate = ratio * 2 * (1 + momentum) / kernel
        path = descend(gradient, w, momentum, rate)
        state = dynamics.heavy_ball_state(prediction(w) + shift, kernel, rate, c)
        z, _ = walk(state, momentum, np.sqrt(c) * rate * (y + shift))
        r = np.array([prediction(w) - y for w, _ in path])
        assert np.all(np.isfinite(r))
        np.testing.assert_allclose(z, np.sqrt(c) * rate * r, atol=1e-11 * np.abs(z).max())


def test_two_sign_groups_of_one_dimensional_data_are_two_maps(x64):
    momentum, m = 0.6, 200
    for seed in range(3):
        data = nqm.datasets.gaussians_1d(16, seed=seed)
        x, y = np.asarray(data.x_train, float), np.asarray(data.y_train, float)[:, 0]
        rng = np.random.default_rng(seed)
        u0, v0 = rng.standard_normal(m), rng.choice([-1.0, 1.0], m)
        gates = x * u0 >= 0  # (n, m)

        def prediction(w, x=x, gates=gates):
            return (gates * (x * w[:m])) @ w[m:] / np.sqrt(m)

        def jacobian(w, x=x, gates=gates):
            return np.concatenate([gates * x * w[m:], gates * (x * w[:m])], axis=1) / np.sqrt(m)

        w = np.concatenate([u0, v0])
        groups = dynamics.sign_groups(x, m)
        p, c = np.asarray(groups.directions), np.asarray(groups.c)
        kernel = jacobian(w) @ jacobian(w).T
        rate = 1.03 * 2 * (1 + momentum) / np.linalg.eigvalsh(kernel)[-1]
        path = descend(lambda w, y=y, f=prediction, j=jacobian: j(w).T @ (f(w) - y), w, momentum, rate)
        state = dynamics.heavy_ball_state(
            p @ prediction(w), np.asarray(dynamics.group_eigenvalues(kernel, groups)), rate, c
        )
        z, _ = walk(state, momentum, np.sqrt(c) * rate * (p @ y))
        r = np.array([p @ (prediction(w) - y) for w, _ in path])
        assert np.all(np.isfinite(r))
        np.testing.assert_allclose(z, np.sqrt(c) * rate * r, atol=1e-11 * np.abs(z).max())


def test_steps_broadcast_under_vmap_and_jit(x64):
    momenta = jnp.array([0.0, 0.4, 0.8])
    state = jax.jit(dynamics.heavy_ball_state)(0.1, jnp.array([1.0, 1.1, 1.2]), 2.5, 1e-2)
    together = dynamics.heavy_ball_step(state, momenta, 0.2)
    one_by_one = jax.vmap(dynamics.heavy_ball_step, in_axes=(0, 0, None))(state, momenta, 0.2)
    np.testing.assert_allclose(np.array(together), np.array(one_by_one), rtol=1e-15)


def test_a_kernel_that_no_model_has_is_refused():
    with pytest.raises(ValueError, match=r"kernel must be at least 2 sqrt\(c\) \|prediction\|; got 0.1"):
        dynamics.heavy_ball_state(1.0, 0.1, 2.0, 1e-2)
    with pytest.raises(ValueError, match=r"kernel .* times epsilon for a negative one; got 0.1"):
        dynamics.heavy_ball_state(-1.0, 0.1, 2.0, 1.0, epsilon=0.2)
    for call in (
        lambda: dynamics.transient_growth(1.0),
        lambda: dynamics.momentum_scaling(3.1, -0.1),
        lambda: dynamics.momentum_scaling(3.1, np.array([0.5, 1.5])),
        lambda: dynamics.peak_u(2.5, momentum=1.0),
        lambda: dynamics.first_divergence(1.0),
        lambda: dynamics.equilibrium(1.0, momentum=2.0),
        lambda: dynamics.stable_interval(momentum=-0.5),
    ):
        with pytest.raises(ValueError, match=r"momentum must be (a number )?in"):
            call()
    with pytest.raises(ValueError, match=r"v0 must be non-negative; got -1\.0"):
        dynamics.momentum_scaling(-1.0, 0.5)


def test_rounding_at_the_edge_of_what_a_network_can_have_is_no_fault():
    """All weights in one of the two halves: a kernel of float32 may be a little below what such a model can have."""
    c, g, y = 1e-2, -3.0, -2.0
    kernel = 2 * np.sqrt(c) * abs(g) * (1 - 1e-7)
    state = dynamics.heavy_ball_state(g, kernel, 1.0, c)
    assert min(state) == 0.0
    assert np.all(np.isfinite(dynamics.heavy_ball_state(np.array([g, 0.1]), np.array([kernel, 1.0]), 1.0, c).x))
    answer = dynamics.forecast(g, kernel, 1.0, c, y, momentum=0.5)
    assert answer.regime == "monotone"
    assert answer.final_kernel == pytest.approx(2 * np.sqrt(c) * abs(y), rel=1e-5)
    assert np.isfinite(answer.max_learning_rate)
    for near in (kernel, kernel * (1 + 1e-4)):
        u, v, w = dynamics.dimensionless(-g, near, 1.0, c, -y)
        assert dynamics.final_v(v, u, w, momentum=0.5) == pytest.approx(answer.final_kernel, rel=1e-3)


@pytest.mark.parametrize("momentum", MOMENTA)
def test_a_kernel_of_zero_is_a_stable_rest(momentum):
    place = dynamics.equilibrium(0.0, momentum=momentum)
    assert place.stable
    assert np.abs(place.multipliers).max() == pytest.approx(1.0)
    side = np.array([1e-3, 1e-4, 0.0])
    state = start = HeavyBall(side, side, side[::-1], side[::-1])
    for _ in range(300):
        state = dynamics.heavy_ball_step(state, momentum)
    np.testing.assert_allclose(state, start, atol=1e-5)  # a step moves them by 1e-9/(1 - momentum) at most
    z, v = dynamics.heavy_ball_observables(state)
    assert np.all((v > 0) & (np.abs(z) <= np.abs(dynamics.heavy_ball_observables(start).z)))


@pytest.mark.parametrize("momentum", MOMENTA[1:])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_equilibria_stay_and_their_multipliers_are_those_of_the_step(momentum, beta):
    low, high = dynamics.stable_interval(beta, momentum)
    assert (low, high) == (2 * beta, 2 * (1 + momentum))
    assert dynamics.stable_interval(1 + momentum, momentum) is None
    for v in np.linspace(low, high + 0.5, 7)[1:]:
        place = dynamics.equilibrium(v, beta, momentum)
        x, y = np.sqrt(v / 2 + beta), np.sqrt(v / 2 - beta)
        seen = _heavy_ball._multipliers(HeavyBall(x, x, y, y), momentum, beta, np.eye(2))
        np.testing.assert_allclose(np.sort_complex(seen), np.sort_complex(place.multipliers), atol=1e-6)
        assert place.stable == (v < high)
        assert np.sum(np.abs(place.multipliers) > 1 + 1e-9) == (v > high + 1e-9)


@pytest.mark.parametrize("momentum", MOMENTA[1:])
def test_the_orbit_of_period_four_returns(momentum):
    z, v = np.sqrt(2 * (1 + momentum**2)), 4 * (1 + momentum**2) / (1 + momentum)
    places = [place for place in dynamics.isolated_equilibria(0.0, momentum) if place.period == 2]
    assert [(place.z, place.v) for place in places] == [(pytest.approx(z), pytest.approx(v)), (-z, pytest.approx(v))]
    assert not any(place.stable for place in dynamics.isolated_equilibria(0.0, momentum))
    x, y = np.sqrt(v / 2 + z), np.sqrt(v / 2 - z)
    state = start = HeavyBall(x, y, y, -x)
    for step in range(1, 5):
        state = dynamics.heavy_ball_step(state, momentum)
        observed = dynamics.heavy_ball_observables(state)
        np.testing.assert_allclose(observed, ((-1) ** step * z, v), rtol=1e-12)
    np.testing.assert_allclose(state, start, rtol=1e-11)
    # The other places: X -> -X with Y = 0.
    for place in dynamics.isolated_equilibria(0.4, momentum):
        x, y = np.sqrt(np.maximum([place.v / 2 + (place.z + 0.4), place.v / 2 - (place.z + 0.4)], 0))
        after = dynamics.heavy_ball_step(HeavyBall(x, -x, y, -y), momentum, 0.4)
        np.testing.assert_allclose(dynamics.heavy_ball_observables(after, 0.4), (place.z, place.v), atol=1e-12)


def test_below_critical_the_loss_grows_transiently_up_to_the_bound():
    for momentum in (0.0, 0.5, 0.9):
        t = np.arange(400)
        largest = 0.0
        for v in np.linspace(0.01, (2 - 1e-6) * (1 + momentum), 200):
            z = [1.0, 1.0]
            for _ in t:
                z.append((1 + momentum - v) * z[-1] - momentum * z[-2])
            bound = (1 + momentum - 2 * momentum ** (t + 1.0)) / (1 - momentum)
            assert np.all(np.abs(z[1:-1]) <= np.maximum(bound, 1) + 1e-9)
            largest = max(largest, np.max(np.square(z)))
        assert 0.9 * dynamics.transient_growth(momentum) < largest <= dynamics.transient_growth(momentum) + 1e-9
    assert dynamics.transient_growth(0.9) == pytest.approx(361)


# F and G of the fact that `momentum_scaling` rests on, to seven digits; found by another integrator, too (below).
ORBIT = {1.0: (1.144662, 4.306834), 20.0: (0.502503, 1.005025), 0.25: (2.189922, 36.319395), 0.1: (2.590303, 134.50923)}


@functools.cache
def recomputed():
    return dict(zip(ORBIT, zip(*_inertia.solve(list(ORBIT)), strict=True), strict=True))


def test_the_table_is_the_orbit_of_its_equations():
    for k, (peak, fall) in ORBIT.items():
        np.testing.assert_allclose(recomputed()[k], (peak, fall), rtol=1e-6)
        momentum = 1 - 0.01 * k
        delta = ((1 - momentum) / k) ** 2 / ((1 + momentum) / 2)
        law = dynamics.momentum_scaling(2 * (1 + momentum) + delta, momentum)
        assert law.k == pytest.approx(k)
        assert law.peak_u == pytest.approx(delta**2 * recomputed()[k][0], rel=1e-6)
        assert 2 * (1 + momentum) - law.final_v == pytest.approx(delta * recomputed()[k][1], rel=1e-6)


def test_the_orbit_agrees_with_another_integrator():
    from scipy.integrate import solve_ivp

    def right(t, s):
        return s[1], s[2] * s[0] - s[1], s[3], -2 * s[0] ** 2 - s[3]

    rate = (np.sqrt(5) - 1) / 2
    small = 1e-5
    start = small, small * rate, 1 - 2 * small**2 / (4 * rate**2 + 2 * rate), 0.0
    found = solve_ivp(right, (0, 60), start, method="DOP853", rtol=1e-10, atol=1e-12, dense_output=True)
    peak = np.max(found.sol(np.linspace(0, 60, 60_001))[0]) ** 2
    np.testing.assert_allclose((peak, -found.y[2, -1]), recomputed()[1.0], rtol=1e-6)


def test_limits_of_the_law_are_gradient_descents_and_the_frictionless_ones():
    large = dynamics.momentum_scaling(2 + 1e-6, 0.0)
    assert large.peak_u == pytest.approx(1e-12 * (1 / 2 + 1 / large.k**2), rel=1e-8)
    assert (2 - large.final_v) / 1e-6 == pytest.approx(1 + 2 / large.k**2, rel=1e-6)
    momentum = 1 - 1e-9
    small = dynamics.momentum_scaling(2 * (1 + momentum) + 1e-4, momentum)
    assert small.peak_u == pytest.approx(2.9157165 * 1e-8, rel=1e-5)
    assert np.isnan(small.final_v)
    peak, fall = dynamics.scaling_functions(1e-3)
    np.testing.assert_allclose((peak, fall * 1e-4), (2.9157, 6.6549), rtol=2e-3)
    with pytest.raises(ValueError, match=r"k must be positive; got 0\.0"):
        dynamics.scaling_functions(0.0)
    below = dynamics.momentum_scaling(np.array([1.0, 3.0]), 0.5)
    assert np.all(np.isinf(below.k))
    np.testing.assert_array_equal(below.peak_u, 0)
    np.testing.assert_array_equal(below.final_v, [1.0, 3.0])


@pytest.mark.parametrize(("momentum", "ratio"), [(0.0, 0.946), (0.5, 0.884), (0.7, 0.708), (0.8, 0.446)])
def test_at_the_same_relative_excess_momentum_lets_the_kernel_fall_further(momentum, ratio):
    critical = 2 * (1 + momentum)
    assert dynamics.final_v(1.05 * critical, momentum=momentum) / critical == pytest.approx(ratio, abs=6e-4)


def test_with_momentum_nine_tenths_the_end_comes_to_depend_on_the_phase():
    low, median, high = (end / 3.8 for end in dynamics.final_v(1.05 * 3.8, momentum=0.9, band=True))
    assert low < 0.5 * median < median < 0.01 > high > 1.5 * median
    peaks = [dynamics.peak_u((1 + excess) * 3.8, momentum=0.9, band=True)[2] for excess in (0.05, 0.1)]
    assert np.isinf(peaks).tolist() == [False, True], "some phases diverge at 10 %"


def test_the_error_of_the_fall_is_a_fifth_of_the_share_the_kernel_loses():
    momentum, critical = 0.98, 3.96
    for k in (1.0, 0.5, 0.25):
        delta = ((1 - momentum) / k) ** 2 / ((1 + momentum) / 2)
        law = critical - dynamics.momentum_scaling(critical + delta, momentum).final_v
        fall = critical - dynamics.final_v(critical + delta, momentum=momentum)
        assert 0.15 < (law / fall - 1) / (law / critical) < 0.3


def test_a_large_target_leaves_an_orbit_of_period_two_that_attracts():
    for momentum, beta in ((0.3, 1.35), (0.3, 1.5), (0.9, 1.95)):
        assert abs(beta) > 1 + momentum
        x = np.sqrt(2 * beta + 0.5)
        state, seen = HeavyBall(x, x, 1e-3, 1e-3), []
        for step in range(4004):
            state = dynamics.heavy_ball_step(state, momentum, beta)
            if step >= 4000:
                seen.append(dynamics.heavy_ball_observables(state, beta).z)
        assert abs(state.y) < 1e-12
        np.testing.assert_allclose(seen[2:], seen[:2], rtol=1e-9)
        assert abs(seen[1] - seen[0]) > 0.1


def test_the_law_is_that_of_the_map_over_phases_with_an_error_of_order_delta():
    """At k = 1 the error of G falls like delta, for every phase; so does that of the peak."""
    momenta = np.array([0.5, 0.8, 0.9, 0.95])
    delta = (1 - momenta) ** 2 / ((1 + momenta) / 2)
    v0 = 2 * (1 + momenta) + delta
    law = dynamics.momentum_scaling(v0, momenta)
    np.testing.assert_allclose(law.k, 1)
    for which, of_law, scale in ((0, law.peak_u, delta**2), (1, law.final_v, delta)):
        by_phase = _momentum_laws.by_phase(v0, momenta)[which]
        errors = np.abs(by_phase - of_law[:, None]).max(axis=1) / scale
        assert np.all(errors < (0.4, 1.6)[which] * delta)
        assert np.all(np.diff(errors) < 0)


def test_the_corrections_of_the_map_at_fixed_momentum():
    """u = delta^2/2 + B delta^3 and 2 (1 + mu) - v = delta + 2 B delta^2, derived in notebook 09."""
    for momentum in (0.3, 0.6):
        B = (1 + 4 * momentum + momentum**2) / (3 * (1 - momentum) ** 2 * (1 + momentum))
        errors = []
        for delta in (0.002, 0.004):
            v0 = 2 * (1 + momentum) + delta
            peak, end = dynamics.peak_u(v0, momentum=momentum), dynamics.final_v(v0, momentum=momentum)
            errors.append([peak / delta**2 - 1 / 2 - B * delta, (2 * (1 + momentum) - end) / delta - 1 - 2 * B * delta])
        ratios = np.divide(*errors[::-1])
        assert np.all((ratios > 3) & (ratios < 5)), "what is left falls like delta^2"


def test_the_window_of_catapults_closes():
    assert dynamics.first_divergence(0.0) == pytest.approx(4.0, abs=0.011)
    for momentum, low, high in ((0.5, 4.19, 4.24), (0.9, 4.12, 4.17)):
        assert low < dynamics.first_divergence(momentum) < high
    # Of runs that start with a larger residual some diverge earlier: "every v0 < 4 converges" needs momentum 0.
    assert np.isinf(dynamics.peak_u(3.5, 0.3, momentum=0.9))
    assert np.isfinite(dynamics.peak_u(3.5, 0.3))


def test_a_first_divergence_is_never_made_up(monkeypatch):
    for momentum, z0 in ((0.5, 3.0), (0.9, 1.5)):
        with pytest.raises(ValueError, match=r"z0 must be at most [\d.]+, so that every start has eta lambda_0"):
            dynamics.first_divergence(momentum, z0)
    monkeypatch.setattr(_momentum_laws, "_TOP", 3.5)
    assert dynamics.first_divergence(0.5, phases=4, grid=0.1) == np.inf


def test_the_first_divergence_is_that_of_the_map_written_out():
    momentum, z0, phases = 0.6, 1e-3, 4
    found = dynamics.first_divergence(momentum, z0, phases=phases, grid=0.05)
    for v0, lost in ((found - 0.05, False), (found, True)):
        half = (v0 - 1 - momentum) / 2
        z = z0 * (half + np.sqrt(half**2 - momentum)) ** (np.arange(phases) / phases)
        x, y = np.sqrt(v0 / 2 + z), np.sqrt(v0 / 2 - z)
        x_before, y_before = x, y
        with np.errstate(all="ignore"):
            for _ in range(3000):
                z = (x**2 - y**2) / 2
                x, x_before = (1 + momentum - z) * x - momentum * x_before, x
                y, y_before = (1 + momentum + z) * y - momentum * y_before, y
        assert np.any(~np.isfinite(x)) == lost


def test_given_starts_are_followed_from_rest(x64):
    """``peak_u`` and ``final_v`` against the map itself."""
    for momentum, y in ((0.5, 0.0), (0.8, 0.6)):
        g, kernel, c, rate = 0.3, 1.0, 1e-4, 1.04 * 2 * (1 + momentum)
        state = dynamics.heavy_ball_state(g, kernel, rate, c)
        beta = np.sqrt(c) * rate * y
        peak = 0.0
        for _ in range(6000):
            peak = max(peak, dynamics.heavy_ball_observables(state, beta).z ** 2)
            state = dynamics.heavy_ball_step(state, momentum, beta)
        u, v, w = dynamics.dimensionless(g, kernel, rate, c, y)
        assert dynamics.peak_u(v, u, w, momentum=momentum) == pytest.approx(peak, rel=1e-9)
        end = dynamics.heavy_ball_observables(state, beta).v
        assert dynamics.final_v(v, u, w, momentum=momentum) == pytest.approx(end, rel=1e-9)
        forecast = dynamics.forecast(g, kernel, rate, c, y, momentum=momentum)
        assert forecast.regime == "catapult"
        assert forecast.peak_loss == pytest.approx(peak / (2 * c * rate**2), rel=1e-9)
        assert forecast.final_kernel == pytest.approx(end / rate, rel=1e-9)
        assert 3.9 < forecast.max_learning_rate * kernel < 4.4
        assert dynamics.forecast(g, kernel, 5.0, c, y, momentum=momentum).regime == "divergent"
        assert dynamics.forecast(g, kernel, 1.0, c, y, momentum=momentum).regime == "monotone"


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.95), st.floats(-0.3, 0.3), st.floats(0.2, 1.1))
def test_answers_are_never_negative_and_an_end_is_stable(momentum, beta, ratio):
    v = ratio * 2 * (1 + momentum)
    z = 0.01
    if v < 2 * abs(z + beta):
        return
    peak = dynamics.peak_u(v, z**2, beta * z, momentum=momentum)
    end = dynamics.final_v(v, z**2, beta * z, momentum=momentum)
    assert np.isnan(peak) or peak >= z**2 * (1 - 1e-12)
    if np.isfinite(end):
        assert 2 * abs(beta) - 1e-6 <= end <= 2 * (1 + momentum) + 1e-9
