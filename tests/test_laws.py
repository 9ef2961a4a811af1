"""What follows from the exact maps alone: the certificate, the series, the invariant, the laws; bad input."""

from decimal import Decimal, localcontext
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nqm_tools import dynamics
from nqm_tools.dynamics import Dimensionless


def physical_states(count, rng, largest_beta=0.999):
    """Random (z, v, beta) with P, Q >= 0; half of them near the certificate's edge, many with a small loss."""
    beta = rng.uniform(-largest_beta, largest_beta, 2 * count)
    prediction = rng.uniform(-3, 3, 2 * count) * rng.choice([1, 0.1, 0.01], 2 * count)
    z = prediction - beta
    anywhere = 2 * np.abs(prediction) + rng.uniform(0, 6, 2 * count) * rng.choice([1, 0.1], 2 * count)
    v = np.where(rng.random(2 * count) < 0.5, 4 + beta * z - rng.uniform(-0.3, 0.3, 2 * count), anywhere)
    kept = np.flatnonzero(v >= 2 * np.abs(prediction))[:count]
    return z[kept], v[kept], beta[kept]


@jax.jit
def _steps(state, steps):
    return jax.lax.fori_loop(0, steps, lambda _, state: dynamics.dimensionless_step(state), state)


def converges(u, v, w):
    """Whether each run ends at u = 0, by iterating until it is near there and stays, or is far away."""
    state, answer = np.stack([u, v, w]), np.full(len(u), -1)
    left, chunk = np.arange(len(u)), 128
    for _ in range(12):
        padded = np.zeros((3, 2 ** int(np.ceil(np.log2(left.size)))))
        padded[:, : left.size] = state[:, left]
        with jax.enable_x64(True):
            state[:, left] = np.stack(_steps(Dimensionless(*padded), chunk))[:, : left.size]
        u, v, _ = state[:, left]
        answer[left[(u < 1e-12) & (v > 0) & (v < 2)]] = 1
        answer[left[~(u < 1e6)]] = 0
        left, chunk = np.flatnonzero(answer < 0), 2 * chunk
        if not left.size:
            return answer == 1
    raise AssertionError(f"{left.size} runs were not decided")


def test_gradient_descent_converges_if_and_only_if_the_certificate_says_so():
    z, v, beta = physical_states(100_000, np.random.default_rng(0))
    u, w = z**2, beta * z
    assert len(u) == 100_000
    certified = dynamics.triangle(dynamics.Signed(z, v), beta).d > 0
    assert 0.4 < certified.mean() < 0.7
    np.testing.assert_array_equal(converges(u, v, w), certified)  # no margin around 0, and no exception
    regime = dynamics.predict_regime(u, v, w)
    np.testing.assert_array_equal(regime == "divergent", ~certified)
    raised = dynamics.dimensionless_step(Dimensionless(u, v, w)).u > u
    np.testing.assert_array_equal(regime == "catapult", certified & raised)
    some = slice(0, 5000)
    end = dynamics.final_v(v[some], u[some], w[some])
    np.testing.assert_array_equal(np.isfinite(end), certified[some])
    assert np.all((end >= 2 * np.abs(beta[some]) - 1e-9) | ~certified[some])  # Theorem 2
    assert np.all((end < 2) | ~certified[some])
    np.testing.assert_array_equal(np.isinf(dynamics.peak_u(v[some], u[some], w[some])), ~certified[some])


def test_beyond_beta_one_nothing_comes_to_rest():
    u, v, w = 0.25, 3.0, -0.6  # beta = -1.2: inside the triangle, so it does not diverge either
    assert dynamics.predict_regime(u, v, w) == "edge of stability"
    assert dynamics.predict_regime(u, v, -w / 1.2) == "undecided"  # beta = 1
    assert dynamics.predict_regime(u, 6.0, 1.05) == "divergent"  # beta = 2.1
    assert np.isnan(dynamics.final_v(v, u, w))
    assert np.isnan(dynamics.peak_u(v, u, w))
    assert dynamics.predict_regime(0.0, 5.0) == "monotone"  # a residual of zero stays zero


@given(*[st.floats(0.1, 3)] * 2, st.floats(1e-4, 1), st.floats(-3, 3))
def test_the_largest_rate_is_the_first_root_of_the_certificate_where_something_is_stable(residual, kernel, c, y):
    rate = dynamics.max_learning_rate(residual, kernel, c, y)
    last_stable = 1 / (c**0.5 * abs(y)) if abs(y) > 1e-300 else np.inf

    def certificate(rate):
        return 4 - rate * kernel + c * rate**2 * residual * y

    if rate == pytest.approx(last_stable, rel=1e-12):
        assert kernel**2 < 16 * c * residual * y or certificate(rate * np.linspace(0, 1, 100)).min() > -1e-9
    else:
        assert rate < last_stable
        assert certificate(rate) == pytest.approx(0, abs=1e-13 * rate * kernel)
        assert np.all(certificate(np.linspace(0, 0.999, 100) * rate) > 0)
    assert dynamics.max_learning_rate(residual, kernel, c, 0.0) == pytest.approx(4 / kernel)


def interpolate(points, values, x):
    """At x, the polynomial through the values (Neville)."""
    values = list(values)
    for gap in range(1, len(points)):
        for i in range(len(points) - gap):
            left, right = points[i], points[i + gap]
            values[i] = ((x - right) * values[i] - (x - left) * values[i + 1]) / (left - right)
    return values[0]


def high_precision(delta):
    """Final v, and the highest u of the highest, median and lowest phase, from u(0) = 1e-44 with 60 digits."""
    state = Dimensionless(Decimal("1e-44"), 2 + delta, Decimal(0))
    us = [state.u]
    while not (state.v < 2 and state.u < Decimal("1e-44")):
        state = dynamics.dimensionless_step(state)
        us.append(state.u)
    top = us.index(max(us))
    near, times = us[top - 8 : top + 9], [Decimal(k) for k in range(-8, 9)]

    def u(time):  # what other phases of the same path pass through
        return interpolate(times, near, time)

    low, high = Decimal(-1), Decimal(1)
    for _ in range(60):
        third = (high - low) / 3
        low, high = (low + third, high) if u(low + third) < u(high - third) else (low, high - third)
    # Steps fall within half a step of the top; a quarter is the median. (The slope's asymmetry is of higher order.)
    sides = [[u(low), u(low)], [u(low + Decimal(s) / 4) for s in (-1, 1)], [u(low + Decimal(s) / 2) for s in (-1, 1)]]
    return state.v, *(sum(side) / 2 for side in sides)


def peeled(values, coefficients, points):
    """Each coefficient of a power series, after those before it were taken off."""
    for power, coefficient in enumerate(coefficients, start=1):
        quotients = [value / x**power for x, value in zip(points, values, strict=True)]
        yield interpolate(points, quotients, Decimal(0)), coefficient
        exact = Fraction(coefficient).limit_denominator(1000)
        exact = Decimal(exact.numerator) / exact.denominator
        values = [value - exact * x**power for x, value in zip(points, values, strict=True)]


def test_every_coefficient_of_the_series_is_that_of_the_map():
    with localcontext(prec=60):
        points = [Decimal(k) / 100 for k in range(1, 12)]
        ends, highest, median, lowest = zip(*map(high_precision, points), strict=True)
        for found, coefficient in peeled([2 - v for v in ends], dynamics.FINAL_V_SERIES, points):
            assert float(found) == pytest.approx(coefficient, abs=1e-6)
        for peak, kappa in ((highest, 1 / 8), (median, dynamics.PEAK_U_SERIES[3]), (lowest, 0)):
            for found, coefficient in peeled(peak, (*dynamics.PEAK_U_SERIES[:3], kappa), points):
                assert float(found) == pytest.approx(coefficient, abs=1e-6)


def test_the_series_are_the_laws_near_two():
    for delta in (0.05, 0.1, 0.2):  # what is left out is of the next order, with coefficients of about 0.3 and 0.8
        assert dynamics.final_v_series(2 + delta) == pytest.approx(dynamics.final_v(2 + delta), abs=0.5 * delta**6)
        assert dynamics.peak_u_series(2 + delta) == pytest.approx(dynamics.peak_u(2 + delta), abs=delta**5)
    around_the_switch = 2 + np.array([0.9e-4, 1.1e-4])
    for law, series in ((dynamics.final_v, dynamics.final_v_series), (dynamics.peak_u, dynamics.peak_u_series)):
        np.testing.assert_allclose(law(around_the_switch), series(around_the_switch), rtol=1e-7)


@given(a=st.fractions(-1, 1, max_denominator=50), b=st.fractions(-1, 1, max_denominator=50))
def test_a_step_changes_the_invariant_by_the_eighth_power_of_the_size(a, b):
    for size in (Fraction(1, 10**3), Fraction(1, 10**6), Fraction(1, 10**9)):  # exactly: no rounding to hide behind
        state = Dimensionless((size * a) ** 2, 2 + size * b, 0)
        after = dynamics.dimensionless_step(state)
        change = dynamics.adiabatic_invariant(after.u, after.v) - dynamics.adiabatic_invariant(state.u, state.v)
        assert abs(change) <= 3 * size**8


def test_on_the_edge_of_the_certificate_a_run_is_bounded_and_never_rests():
    """At v = 4, y = 0 it stays, with z' = z^3 - 3 z: z = 2 cos(theta) has theta' = 3 theta."""
    assert dynamics.predict_regime(1e-4, 4.0) == "undecided"
    assert np.isnan(dynamics.peak_u(4.0, 1e-4))
    assert np.isnan(dynamics.final_v(4.0, 1e-4))


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_a_forecast_gathers_the_answers_in_the_units_of_the_network(y):
    answer = dynamics.forecast(0.3, 2.0, 1.2, 1e-3, y)
    u, v, w = dynamics.dimensionless(0.3, 2.0, 1.2, 1e-3, y)
    assert answer.regime == dynamics.predict_regime(u, v, w) == "catapult"
    assert answer.peak_loss == pytest.approx(dynamics.peak_u(v, u, w) / (2 * 1e-3 * 1.2**2))
    assert answer.final_kernel == pytest.approx(dynamics.final_v(v, u, w) / 1.2)
    assert answer.max_learning_rate == dynamics.max_learning_rate(0.3 - y, 2.0, 1e-3, y)
    assert dynamics.forecast(0.3, 2.0, 2.5, 1e-3, y)[:2] == ("divergent", np.inf)


def test_conserved_products_give_the_final_kernel():
    u0, v0 = 0.01, 2.6
    path = [Dimensionless(u0, v0, 0.0)]
    while path[-1].u > 1e-30:
        path.append(dynamics.dimensionless_step(path[-1]))
    u, v = np.array([state.u for state in path]), np.array([state.v for state in path])
    end = dynamics.final_v(v0, u0)
    assert 4 - end == pytest.approx((4 - v0) * np.prod(1 + u), rel=1e-12)
    assert end == pytest.approx((v0**2 - 4 * u0) ** 0.5 * np.prod(np.abs(1 - u)), rel=1e-12)
    assert np.all(u <= v**2 / 4)
    assert dynamics.peak_u(v0, u0) == pytest.approx(u.max(), rel=1e-12)


PRINTED = {  # u* and final v in the limit of a small initial loss; u* is 0.07615 at 2.35
    2.05: ("0.00129", "1.948"),
    2.1: ("0.00534", "1.893"),
    2.2: ("0.0228", "1.770"),
    2.35: ("0.0762", "1.549"),
    2.5: ("0.168", "1.282"),
    2.7: ("0.356", "0.864"),
    2.8: ("0.479", "0.642"),
    3.0: ("0.783", "0.216"),
}


@pytest.mark.parametrize("v0", PRINTED)
def test_medians_over_the_phase_are_as_printed(v0):
    for value, printed in zip((dynamics.peak_u(v0), dynamics.final_v(v0)), PRINTED[v0], strict=True):
        assert f"{value:.{len(printed) - 2}f}" == printed
    if v0 == 2.7:
        assert [round(edge, 3) for edge in dynamics.peak_u(v0, band=True)[::2]] == [0.324, 0.367]


def test_bands_are_ordered_and_widen_beyond_all_orders():
    v0 = np.linspace(0, 4.2, 85)
    for law in (dynamics.peak_u, dynamics.final_v):
        low, median, high = law(v0, band=True)
        known = np.isfinite(median)
        np.testing.assert_array_equal(known, v0 < 4)  # nothing but divergence is without an answer
        assert np.all((low <= median) & (median <= high) | ~known)
        np.testing.assert_array_equal(median, law(v0))
    for delta in (0.4, 0.5, 0.6, 0.7):
        low, _, high = dynamics.final_v(2 + delta, band=True)
        assert high - low == pytest.approx(2e3 * np.exp(-(np.pi**2) / delta), rel=0.15)
    assert dynamics.peak_u(3.08, band=True)[2] < 1 < dynamics.peak_u(3.09, band=True)[2]


def test_a_run_that_creeps_towards_a_vanishing_kernel_has_an_end():
    """On the triangle's side Q = 0, y = 0, z falls like 1/t: there is no step from which on it is at rest."""
    assert dynamics.final_v(0.02, 0.01**2) == pytest.approx(0, abs=1e-6)
    assert dynamics.peak_u(0.02, 0.01**2) == 0.01**2


def test_laws_take_arrays_and_broadcast():
    v0, u0 = np.array([[1.5], [2.5], [4.5]]), np.array([1e-4, 1e-3])
    for law in (dynamics.peak_u, dynamics.final_v):
        table = law(v0, u0)
        assert table.shape == (3, 2)
        assert [[law(float(v), float(u)) for u in u0] for v in v0[:2, 0]] == table[:2].tolist()
        assert isinstance(law(2.5), float)
        assert law(np.float32(2.5)) == law(2.5)
        assert [edge.shape for edge in law(v0, band=True)] == [(3, 1)] * 3
    assert dynamics.peak_u(4.5) == dynamics.peak_u(4.5, 1e-3) == np.inf
    assert np.isnan([dynamics.final_v(4.5), dynamics.final_v(4.5, 1e-3)]).all()
    assert (dynamics.peak_u(1.5), dynamics.final_v(1.5)) == (0.0, 1.5)
    assert dynamics.final_v(2.5, 0.0) == 2.5
    assert dynamics.max_learning_rate([1.0, 2.0], [[1.0], [2.0]], 0.01, 0.0).tolist() == [[4, 4], [2, 2]]
    assert dynamics.predict_regime([1e-4, 1e-4, 1e-4], [1.5, 2.5, 4.5]).tolist() == [
        "monotone",
        "catapult",
        "divergent",
    ]


@pytest.mark.parametrize("law", [dynamics.peak_u, dynamics.final_v])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"v0": np.nan}, ValueError, "v0 must be finite; got nan"),
        ({"v0": [2.5, -1.0]}, ValueError, "v0 must be non-negative; got -1.0"),
        ({"v0": "2.5"}, TypeError, "v0 must be an array of numbers"),
        ({"v0": 2.5j}, TypeError, "v0 must be real"),
        ({"v0": [[1.0], [2.0, 3.0]]}, ValueError, "v0 must be an array of numbers"),
        ({"v0": 2.5, "u0": -0.1}, ValueError, "u0 must be non-negative; got -0.1"),
        ({"v0": 2.5, "u0": None, "w0": 0.1}, ValueError, "w0 must be 0 without u0"),
        ({"v0": 2.5, "u0": 0.0, "w0": 0.1}, ValueError, "w0 must be 0 where u is 0"),
        ({"v0": 2.5, "u0": 0.1, "w0": np.inf}, ValueError, "w0 must be finite"),
        ({"v0": 0.1, "u0": 0.1}, ValueError, r"v0 must be at least 2 \|u \+ w\| / sqrt\(u\).*got 0.1"),
        ({"v0": 2.5, "u0": 0.1, "band": True}, ValueError, "band is over the phases of an unknown u0"),
        ({"v0": [2.5, 2.6], "u0": [0.1] * 3}, ValueError, r"u0, v0, w0 must have shapes that broadcast; got \(3,\)"),
    ],
)
def test_impossible_starts_are_refused(law, arguments, error, message):
    with pytest.raises(error, match=message):
        law(**arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dynamics.predict_regime(-0.1, 2.0), ValueError, "u must be non-negative; got -0.1"),
        (lambda: dynamics.predict_regime(0.1, -2.0), ValueError, "v must be non-negative; got -2.0"),
        (lambda: dynamics.predict_regime(0.0, 2.0, 0.1), ValueError, "w must be 0 where u is 0"),
        (lambda: dynamics.predict_regime(0.1, 0.1), ValueError, "v must be at least 2"),
        (lambda: dynamics.predict_regime(0.1, None), TypeError, "v must be an array of numbers"),
        (lambda: dynamics.max_learning_rate(np.nan, 1.0, 1.0), ValueError, "residual must be finite"),
        (lambda: dynamics.max_learning_rate(1.0, -1.0, 1.0), ValueError, "kernel must be non-negative; got -1.0"),
        (lambda: dynamics.max_learning_rate(1.0, 1.0, 0.0), ValueError, "c must be positive; got 0.0"),
        (lambda: dynamics.max_learning_rate(1.0, 1.0, 1.0, "y"), TypeError, "y must be an array of numbers"),
        (lambda: dynamics.max_learning_rate([1.0] * 2, [1.0] * 3, 1.0), ValueError, "residual, kernel, c, y must have"),
    ],
)
def test_impossible_states_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
