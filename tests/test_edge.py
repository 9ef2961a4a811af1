"""The edge of stability: balanced weights, two eigenvalues, a bias, the norm; against gradient descent in NumPy."""

import functools
import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

import nqm_tools as nqm
from nqm_tools import dynamics, quadratic
from nqm_tools.dynamics import BiasedExample, OneExample, Signed, TwoEigenvalues

EXACT = {"rtol": 1e-9, "atol": 1e-11}
ROOT_5 = 5**0.5


def bilinear(x, y, width, n_effective, rate, steps, seed=0, scale=1.0):
    """Outputs, kernels and sharpness of gradient descent on v^T U x / sqrt(n_effective): (steps + 1,) each."""
    rng = np.random.default_rng(seed)
    U, v = scale * rng.standard_normal((width, len(x))), scale * rng.standard_normal(width)
    root, rows = n_effective**0.5, []
    for _ in range(steps + 1):
        h = U @ x
        f, kernel = v @ h / root, (h @ h + v @ v * (x @ x)) / n_effective
        rows.append((f, kernel, dense_sharpness(U, v, x, root, f - y) if width < 10 else np.nan))
        move = rate * (f - y) / root
        U, v = U - move * np.outer(v, x), v - move * h
    return np.array(rows).T


def dense_sharpness(U, v, x, root, r):
    gradient = np.concatenate([np.outer(v, x).ravel(), U @ x]) / root
    size = U.size
    hessian = np.zeros((size + len(v),) * 2)
    hessian[:size, size:] = np.kron(np.eye(len(v)), x[:, None]) / root
    return np.linalg.eigvalsh(np.outer(gradient, gradient) + r * (hessian + hessian.T))[-1]


@pytest.mark.parametrize("parameterization", [0, 0.5, 1])
@pytest.mark.parametrize("y", [0.0, 2.0, -1.0])
def test_the_uv_model_is_the_map_of_one_example_for_every_target_and_parameterization(y, parameterization):
    x = np.random.default_rng(1).standard_normal(5)
    x /= np.linalg.norm(x)
    n_effective = 64 ** (1 - parameterization)
    first = bilinear(x, y, 64, n_effective, 0.0, 0)
    rate = 1.6 / first[1, 0]
    f, kernel, _ = bilinear(x, y, 64, n_effective, rate, 60)
    state = OneExample(f[0], kernel[0])
    for measured in zip(f, kernel, strict=True):
        np.testing.assert_allclose(state, measured, **EXACT)
        state = dynamics.one_example_step(state, rate, 1 / n_effective, y)


@pytest.mark.parametrize("y", [0.0, 0.9, -1.4])
def test_the_sharpness_of_a_state_is_the_largest_eigenvalue_of_the_hessian(y):
    x, rate = np.array([0.6, -0.3, 0.5]), 0.4
    f, kernel, sharpness = bilinear(x, y, 4, 4.0, rate, 25, seed=2)
    c = x @ x / 4.0
    state, beta = Signed(c**0.5 * rate * (f - y), rate * kernel), c**0.5 * rate * y
    np.testing.assert_allclose(dynamics.sharpness_from_state(state, beta), rate * sharpness, rtol=1e-12)
    assert np.ptp(sharpness) > 0.1


@given(st.floats(-3, 3), st.floats(0, 10), st.floats(-2, 2))
def test_the_sharpness_is_at_least_the_kernel_and_the_residual(z, more, beta):
    v = 2 * abs(z + beta) + more
    found = dynamics.sharpness_from_state(Signed(z, v), beta)
    assert found >= abs(z) - 1e-12
    u, w = z * z, beta * z
    assert found == pytest.approx(v / 2 + max(v * v / 4 + 3 * u + 2 * w, 0) ** 0.5, abs=1e-6)


def test_balanced_weights_stay_balanced_and_have_one_number():
    s, beta = sympy.symbols("s beta")
    after = dynamics.signed_step(Signed(s - beta, 2 * s), beta)
    assert sympy.expand(after.z + beta - dynamics.balanced_step(s, beta)) == 0
    assert sympy.expand(after.v - 2 * dynamics.balanced_step(s, beta)) == 0
    # The mirror: P = 0 with the other sign of the target.
    mirrored = dynamics.signed_step(Signed(beta - s, 2 * s), -beta)
    assert sympy.expand(mirrored.z - beta + dynamics.balanced_step(s, beta)) == 0


def multiplier(cycle, beta):
    return np.prod([(1 + beta - s) * (1 + beta - 3 * s) for s in cycle])


@pytest.mark.parametrize("beta", [1.01, 1.1, 1.2, 1.5, 1.9])
def test_the_two_cycle_is_one_and_has_the_printed_multipliers(beta):
    cycle = dynamics.two_cycle(beta)
    low, high = cycle.s
    assert dynamics.balanced_step(low, beta) == pytest.approx(high)
    assert dynamics.balanced_step(high, beta) == pytest.approx(low)
    assert cycle.mean_v == pytest.approx(1 + beta) == pytest.approx(low + high)
    assert cycle.multiplier_along == pytest.approx(multiplier(cycle.s, beta))
    assert cycle.multiplier_across == pytest.approx(((1 + low - beta) * (1 + high - beta)) ** 2)
    jacobians = [dynamics.jacobian(Signed(s - beta, 2 * s), beta) for s in cycle.s]
    along_and_across = sorted(np.linalg.eigvals(jacobians[0] @ jacobians[1]).real)
    assert along_and_across == pytest.approx(sorted([cycle.multiplier_along, cycle.multiplier_across]), abs=1e-9)
    stable = abs(cycle.multiplier_along) < 1
    assert stable == (beta < dynamics.PERIOD_FOUR)
    # The printed mean is that of the stable orbits: from sqrt(5) - 1 on, the lower half has sharpness |z|.
    assert (cycle.mean_sharpness == pytest.approx((3 + beta) / 2)) == stable


def test_the_means_at_1_1_are_2_1_and_2_05_on_the_attractor_too():
    s = dynamics.attractor(1.1, states=64)
    assert 2 * s.mean() == pytest.approx(2.1, abs=1e-12)
    assert dynamics.sharpness_from_state(Signed(s - 1.1, 2 * s), 1.1).mean() == pytest.approx(2.05, abs=1e-12)
    assert dynamics.PERIOD_TWO == 1
    assert pytest.approx(ROOT_5 - 1) == dynamics.PERIOD_FOUR
    s = dynamics.attractor(0.9, states=4)
    assert s == pytest.approx(0.9)


def test_periods_double_at_the_constants():
    def period(beta):
        s = dynamics.attractor(beta, states=64, transient=100_000)
        return next(n for n in (1, 2, 4, 8, 16, 32, 64) if n == 64 or np.allclose(s[n:], s[:-n], atol=1e-7))

    at = dynamics.PERIOD_FOUR
    betas = [0.99, 1.01, at - 0.002, at + 0.002, 1.2875, 1.2885, 1.299, 1.3]
    assert [period(beta) for beta in betas] == [1, 2, 2, 4, 4, 8, 8, 16]


def superstable(n, low, high):
    """The beta at which the maximum s = (1 + beta)/3 has period n, between two."""

    def missed(beta):
        start = s = (1 + beta) / 3
        for _ in range(n):
            s = dynamics.balanced_step(s, beta)
        return s - start

    return brentq(missed, low, high, xtol=1e-14)


def test_the_doublings_accumulate_at_the_constant_for_chaos():
    found = [superstable(2, 1.0, 1.2), superstable(4, 1.24, 1.285)]
    while len(found) < 9:
        # The next one lies about Feigenbaum's 4.669 times nearer.
        step = (found[-1] - found[-2]) / 4.669
        n = 2 ** (len(found) + 1)
        found.append(superstable(n, found[-1] + 0.9 * step, found[-1] + 1.1 * step))
    gaps = np.diff(found)
    assert gaps[-2] / gaps[-1] == pytest.approx(4.669, abs=2e-3)
    limit = found[-1] + gaps[-1] / (4.6692016 - 1)
    assert limit == pytest.approx(dynamics.CHAOS, abs=2e-9)
    below, above = dynamics.lyapunov_exponent([dynamics.CHAOS - 3e-4, 1.31]).along
    assert below < 0 < above


def test_lyapunov_exponents():
    along, across = dynamics.lyapunov_exponent([0.7, 1.1, 1.3, 1.7, 2.0])
    assert along[0] == pytest.approx(np.log(0.4), rel=1e-9)
    assert across[0] == pytest.approx(0, abs=1e-9)
    cycle = dynamics.two_cycle(1.1)
    assert along[1] == pytest.approx(np.log(abs(cycle.multiplier_along)) / 2, rel=1e-4)
    assert across[1] == pytest.approx(np.log(cycle.multiplier_across) / 2, rel=1e-4)
    assert along[2] < 0
    assert along[3] < 0, "a periodic window"
    assert along[4] == pytest.approx(np.log(3), abs=5e-3)
    one = dynamics.lyapunov_exponent(1.1)
    assert isinstance(one.along, float)
    assert one.along == pytest.approx(along[1], rel=1e-9)


def test_balanced_weights_are_bounded_up_to_two_and_not_beyond():
    s = np.linspace(0.01, 3.9, 200)
    for _ in range(2000):
        s = dynamics.balanced_step(s, 1.99)
    assert np.all((s >= 0) & (s <= 4))
    s = np.linspace(0.013, 3.9, 200)
    with np.errstate(all="ignore"):
        for _ in range(3000):
            s = dynamics.balanced_step(s, 2.05)
    assert not np.isfinite(s).any()


def starts(rng, count, beta):
    """Starts that a network can have, over the triangle and beyond."""
    z, v = rng.uniform(-2, 2, 8 * count), rng.uniform(0, 7, 8 * count)
    possible = v >= 2 * np.abs(z + beta)
    return z[possible][:count], v[possible][:count]


@pytest.mark.parametrize("beta", [1.05, -1.15, 1.26, 1.4, -1.7, 1.9])
def test_predict_regime_between_one_and_two(beta):
    z, v = starts(np.random.default_rng(0), 3000, beta)
    regimes = dynamics.predict_regime(z**2, v, beta * z)
    assert set(regimes) == {"edge of stability", "divergent"}
    state, mean_v = Signed(z, v), np.zeros(len(z))
    with np.errstate(all="ignore"):
        for t in range(3000):
            state = dynamics.signed_step(state, beta)
            if t >= 2600:
                mean_v += state.v / 400
        _, p, q = dynamics.triangle(state, beta)
    stays = np.isfinite(state.z)
    edge = regimes == "edge of stability"
    assert not np.any(stays & ~edge)
    assert np.mean(stays[edge]) > 0.998  # rounding at a corner of the triangle may throw one out
    side = (q if beta > 0 else p)[edge & stays]
    assert np.mean(np.abs(side) < 1e-6) > 0.998
    if abs(beta) < dynamics.PERIOD_FOUR:
        np.testing.assert_allclose(np.median(mean_v[edge & stays]), 1 + abs(beta), rtol=1e-6)


def test_predict_regime_on_its_boundaries_and_beyond_two():
    def regime(z, v, beta):
        return dynamics.predict_regime(z * z, v, beta * z)

    assert regime(0.5, 3.0, 1.0) == regime(-0.5, 3.0, -1.0) == "undecided"
    assert regime(0.5, 4.75, 1.5) == "undecided"  # D = 0
    assert regime(0.5, 5.0, 1.5) == "divergent"
    assert regime(0.5, 6.0, 2.25) == regime(-1.0, 3.0, 2.25) == "divergent"
    assert dynamics.predict_regime(0.0, 3.0) == "monotone"
    z, v = starts(np.random.default_rng(1), 2000, 2.1)
    with np.errstate(all="ignore"):
        for _ in range(3000):
            z, v = dynamics.signed_step(Signed(z, v), 2.1)
    assert not np.isfinite(z).any()


@pytest.mark.parametrize("beta", [0.9, 1.1, 1.26, 1.4])
def test_the_network_itself_sits_on_the_balanced_line(x64, beta):
    """A ReLU network, its quadratic model, one example; gates stop flipping."""
    width, d, y = 64, 9, 6.0
    x = np.random.default_rng(0).standard_normal((1, d))
    c = dynamics.coupling(x, width)
    net = nqm.networks.two_layer_fc(width)
    params = jax.tree.map(lambda leaf: 0.3 * leaf, net.init(jax.random.key(0), x.shape))
    rate = beta / (c**0.5 * y)
    data = nqm.Data("one example", x, [y])
    for model in (net, nqm.quadraticize(net, params)):
        record = ("lambda_1", "sharpness") if beta == 1.1 else ("lambda_1",)
        options = {"params": params, "loss": "half_sum", "record": record}
        run = nqm.train(model, data, learning_rate=rate, steps=250 if beta == 1.1 else 4000, **options)
        last = slice(-100, None) if beta == 1.1 else slice(-400, None)
        v = rate * run.records["lambda_1"][last]
        if beta < 1:
            assert run.regime == "monotone"
            assert v[-1] == pytest.approx(2 * beta, rel=1e-6)
            continue
        attractor = dynamics.attractor(beta, states=400)
        if beta < dynamics.CHAOS:
            assert run.regime == "edge of stability"
            assert np.mean(v) == pytest.approx(2 * attractor.mean(), rel=1e-6)
            assert np.sort(v)[::25] == pytest.approx(np.sort(2 * attractor[: len(v)])[::25], abs=1e-5)
        else:
            assert np.mean(v) == pytest.approx(2 * attractor.mean(), rel=0.03)
        if beta == 1.1:
            assert np.mean(v) == pytest.approx(2.1, rel=1e-6)
            assert rate * np.mean(run.records["sharpness"][last]) == pytest.approx(2.05, rel=1e-4)


@pytest.mark.parametrize("s", [0.3, 2.2, 2.6, 3.1])
def test_a_step_from_balanced_weights_multiplies_open_units_and_so_closes_all_gates_or_none(s):
    """Gradient descent on a ReLU network, written out: below s = 1 + beta no gate flips, above every one closes."""
    width, beta, y, rng = 20, 1.5, 4.0, np.random.default_rng(0)
    x = rng.standard_normal(5)
    U = rng.standard_normal((width, 5))
    h = U @ x / 5**0.5
    # Balanced: |x|/sqrt(d) v = h on the open gates, of which s = c^(1/2) eta f fixes the size.
    c = x @ x / (width * 5)
    rate = beta / (c**0.5 * y)
    opened = h > 0
    target_output = s / (c**0.5 * rate)
    size = (target_output * np.sqrt(x @ x / 5) * width**0.5 / np.sum(h[opened] ** 2)) ** 0.5
    U, h = size * U, size * h
    v = np.where(opened, h / np.sqrt(x @ x / 5), rng.standard_normal(width))
    f = v @ np.maximum(h, 0) / width**0.5
    assert f == pytest.approx(target_output)
    move = rate * (f - y) / width**0.5
    U, v = U - move * np.outer(v * opened, x) / 5**0.5, v - move * np.maximum(h, 0)
    after = U @ x / 5**0.5
    np.testing.assert_allclose(after[opened], (1 + beta - s) * h[opened], **EXACT)
    np.testing.assert_allclose(v[opened], (1 + beta - s) * h[opened] / np.sqrt(x @ x / 5), **EXACT)
    np.testing.assert_allclose(after[~opened], h[~opened], **EXACT)
    assert np.array_equal(after > 0, opened) == (s < 1 + beta)
    assert np.any(after > 0) == (s < 1 + beta)


def test_the_largest_s_of_balanced_weights_is_where_gates_close_from_sqrt_27_over_2_less_1_on():
    limit = 27**0.5 / 2 - 1
    for beta in (limit - 0.02, limit + 0.02):
        top = dynamics.attractor(beta, states=20_000).max()
        assert top == pytest.approx(4 * (1 + beta) ** 3 / 27, rel=1e-4)
        assert (top > 1 + beta) == (beta > limit)


def test_at_two_the_exponent_across_is_zero():
    """s = 2 + 2 cos a, with a uniform: the mean of 2 ln|s - 1| = 2 ln|1 + 2 cos a| over a circle."""
    angles = (np.arange(100_000) + 0.5) * np.pi / 100_000
    assert 2 * np.mean(np.log(np.abs(1 + 2 * np.cos(angles)))) == pytest.approx(0, abs=1e-4)
    assert dynamics.lyapunov_exponent(2.0).across == pytest.approx(0, abs=0.02)


def test_the_kernel_at_the_end_of_gradient_flow():
    f, kernel, c, y = 0.3, 1.4, 0.2, 1.1
    state, rate = OneExample(f, kernel), 1e-3
    for _ in range(20_000):
        state = dynamics.one_example_step(state, rate, c, y)
    flow = dynamics.gradient_flow_kernel(f, kernel, c, y)
    assert state.prediction == pytest.approx(y, abs=1e-9)
    assert state.kernel == pytest.approx(flow, rel=1e-3)
    # At any rate: the product over the run.
    rate, product = 0.8, 1.0
    state = OneExample(f, kernel)
    for _ in range(2000):
        product *= 1 - c * rate**2 * (state.prediction - y) ** 2
        state = dynamics.one_example_step(state, rate, c, y)
    conserved = (kernel**2 - 4 * c * f**2) * product**2
    assert state.kernel == pytest.approx((4 * c * y**2 + conserved) ** 0.5, rel=1e-9)
    assert dynamics.gradient_flow_kernel([0.0, f], kernel, c, [y, f]).shape == (2,)
    assert dynamics.gradient_flow_kernel(f, kernel, c, f) == pytest.approx(kernel)


def quadratic_descent(phi, sigma, gamma, w, y, rate, steps):
    """Outputs and gradients of gradient descent on w.phi + gamma/2 w^T sigma w, written out."""
    rows = []
    for _ in range(steps + 1):
        gradient = phi + gamma * sigma @ w
        f = w @ phi + gamma / 2 * w @ sigma @ w
        rows.append((f, gradient @ gradient, w))
        w = w - rate * (f - y) * gradient
    return rows


@pytest.mark.parametrize("ratio", [0.7, 2.2, 2.8])
@pytest.mark.parametrize("y", [0.0, 0.8])
def test_with_a_bias_three_numbers_are_gradient_descent(x64, y, ratio):
    rng, p = np.random.default_rng(4), 9
    basis = np.linalg.qr(rng.standard_normal((p, p)))[0]
    sigma = 1.3 * basis * np.array([1, 1, -1, -1, 1, 0, 0, 0, 0]) @ basis.T
    phi, gamma, w = rng.standard_normal(p) / 2, 0.05, rng.standard_normal(p)
    model, x = quadratic.GeneralQuadraticModel(phi, sigma, gamma), np.ones((1, 1))
    c, shift, direction = found = quadratic.biased_map(model, x)
    with pytest.raises(ValueError, match=r"quadratic\.biased_map"):
        quadratic.exact_map(model, x)
    gradient = phi + gamma * sigma @ w
    rate = ratio / (gradient @ gradient)
    rows = quadratic_descent(phi, sigma, gamma, w, y, rate, 100)
    linear = w @ direction
    state = BiasedExample(linear, rows[0][0] - linear + shift, rows[0][1] - found.kappa)
    for f, kernel, weights in rows:
        np.testing.assert_allclose(state.linear + state.quadratic - shift, f, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(state.kernel + found.kappa, kernel, rtol=1e-9)
        np.testing.assert_allclose(state.linear, weights @ direction, rtol=1e-9, atol=1e-9)
        state = dynamics.biased_step(state, rate, c, found.kappa, y + shift)


def test_without_a_bias_the_three_numbers_are_the_two():
    model, x = quadratic.GeneralQuadraticModel(np.array([0.6, 0.8]), np.array([1.0, -1.0]), 0.1), np.ones((1, 1))
    c, shift = quadratic.exact_map(model, x)
    found = quadratic.biased_map(model, x)
    assert (found.c, found.shift, found.kappa) == (c, shift, 0)
    two, three = OneExample(0.7, 1.5), BiasedExample(0.0, 0.7, 1.5)
    for _ in range(20):
        np.testing.assert_allclose((three.quadratic, three.kernel), two, rtol=1e-12)
        assert three.linear == 0
        two, three = dynamics.one_example_step(two, 1.6, 0.3, 0.2), dynamics.biased_step(three, 1.6, 0.3, 0.0, 0.2)


def relu_descent_step(layers, X, y, rate):
    """(residual, outputs, gradients of every output by layer, layers after a step) of a bias-free ReLU network."""
    activations = [X]
    for W in layers[:-1]:
        activations.append(np.maximum(activations[-1] @ W, 0))
    f = (activations[-1] @ layers[-1])[:, 0]
    back, gradients = np.ones((len(X), 1)), []
    for W, a in zip(layers[::-1], activations[::-1], strict=True):
        gradients.append(a[:, :, None] * back[:, None, :])
        back = (back @ W.T) * (a > 0)
    gradients = gradients[::-1]
    after = [W - rate * np.einsum("n,nij->ij", f - y, g) for W, g in zip(layers, gradients, strict=True)]
    return f - y, f, gradients, after


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_law_of_the_norm_for_networks_whole_and_layer_by_layer(depth):
    rng = np.random.default_rng(depth)
    X, y = rng.standard_normal((6, 4)), rng.standard_normal(6)
    sizes = [4, *[8] * (depth - 1), 1]
    layers = [rng.standard_normal(shape) / 2 for shape in itertools.pairwise(sizes)]
    for _ in range(5):
        r, f, gradients, after = relu_descent_step(layers, X, y, 0.05)
        kernels = [np.einsum("nij,mij->nm", g, g) for g in gradients]
        changes = [np.sum(new**2) - np.sum(old**2) for new, old in zip(after, layers, strict=True)]
        for change, kernel in zip(changes, kernels, strict=True):
            assert dynamics.norm_change(r, f, kernel, 0.05, degree=1) == pytest.approx(change, rel=1e-9, abs=1e-12)
        whole = dynamics.norm_change(r, f, sum(kernels), 0.05, degree=depth)
        assert whole == pytest.approx(sum(changes), rel=1e-9, abs=1e-12)
        layers = after


@pytest.mark.parametrize("dense", [False, True])
def test_below_the_certificate_the_norm_never_rises(x64, dense):
    rng, p, n = np.random.default_rng(0), 40, 3
    matrices = rng.standard_normal((n, p, p)) if dense else rng.uniform(1, 2, (n, p)) * rng.choice([-1, 1], (n, p))
    if dense:
        matrices = (matrices + matrices.transpose(0, 2, 1)) / 9
    model = quadratic.GeneralQuadraticModel(
        lambda x: jnp.zeros((len(x), p)), lambda x: jnp.tensordot(x, jnp.asarray(matrices), 1), (2 / p) ** 0.5
    )
    x, w = np.eye(n), rng.standard_normal(p)
    rate = 0.99 * quadratic.norm_certificate(model, x, w)
    sigmas = matrices if dense else np.stack([np.diag(row) for row in matrices])
    blocks = np.einsum("aij,bjk->aibk", sigmas, sigmas).reshape(n * p, n * p)
    assert rate == pytest.approx(0.99 * 4 / (2 / p * (w @ w) * np.linalg.eigvalsh(blocks)[-1]))
    norms = [w @ w]
    for _ in range(300):
        pull = model.gamma * sigmas @ w
        w = w - rate * (pull @ w / 2) @ pull
        norms.append(w @ w)
    assert np.all(np.diff(norms) <= 1e-12)
    assert norms[-1] < 0.95 * norms[0]


def test_the_certificate_is_sufficient_only():
    """Eigenvalues spread over 1 to 2: certified to 4 <mu^2>/mu_max^2 = 2.33, and fine at 3.5."""
    rng, p = np.random.default_rng(3), 1000
    mu = np.repeat(rng.uniform(1, 2, p // 2), 2) * np.tile([1, -1], p // 2)
    gamma, w = (2 / p) ** 0.5, rng.standard_normal(p)
    model = quadratic.GeneralQuadraticModel(np.zeros(p), mu, gamma)
    kernel = gamma**2 * np.sum((mu * w) ** 2)
    certified = quadratic.norm_certificate(model, np.ones((1, 1)), w) * kernel
    assert certified == pytest.approx(4 * np.mean((mu * w) ** 2) / np.mean(w**2) / np.max(np.abs(mu)) ** 2, rel=1e-5)
    assert 2.2 < certified < 2.5
    rate = 3.5 / kernel
    norms, losses = [w @ w], []
    for _ in range(400):
        r = gamma / 2 * w @ (mu * w)
        w = (1 - rate * r * gamma * mu) * w
        norms.append(w @ w)
        losses.append(r * r / 2)
    assert losses[-1] < 1e-6 < losses[0] < max(losses)
    assert np.all(np.diff(norms) <= 1e-9)


@pytest.mark.parametrize(("epsilon", "target"), [(0.05, 0.0), (0.3, 0.2), (1.0, -0.4), (0.01, 0.1)])
def test_two_eigenvalues_are_gradient_descent(epsilon, target):
    rng = np.random.default_rng(5)
    h = np.where(np.arange(15) < 7, 1.0, -epsilon)
    rate, w = 0.35, rng.standard_normal(15) / 2
    y = target / rate
    state = TwoEigenvalues(rate * (w @ (h * w) / 2 - y), rate * np.sum((h * w) ** 2))
    for _ in range(60):
        r = w @ (h * w) / 2 - y
        np.testing.assert_allclose(state, (rate * r, rate * np.sum((h * w) ** 2)), rtol=1e-10, atol=1e-12)
        w = w - rate * r * h * w
        state = dynamics.two_eigenvalue_step(state, epsilon, target)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.6])
@pytest.mark.parametrize(("epsilon", "target"), [(0.05, 0.0), (0.3, 0.2), (1.0, -0.4), (0.01, 0.1)])
def test_two_eigenvalues_with_momentum_are_four_numbers(x64, momentum, epsilon, target):
    h = np.where(np.arange(15) < 7, 1.0, -epsilon)
    for seed, ratio in enumerate((0.5, 0.95, 1.05)):
        # At this ratio to the critical rate, with a small residual: two parts of the right lengths.
        rate, v0 = 0.35, ratio * 2 * (1 + momentum)
        s = target - 0.02 * v0
        w = np.random.default_rng(seed).standard_normal(15)
        w[:7] *= ((v0 + 2 * epsilon * s) / (1 + epsilon) / rate) ** 0.5 / np.linalg.norm(w[:7])
        w[7:] *= ((v0 - 2 * s) / (1 + epsilon) / rate) ** 0.5 / (epsilon**0.5 * np.linalg.norm(w[7:]))
        y, before, path = target / rate, w, []
        for _ in range(101):
            r = w @ (h * w) / 2 - y
            path.append((rate * r, rate * np.sum((h * w) ** 2)))
            w, before = w - rate * r * h * w + momentum * (w - before), w
        z, v = np.array(path).T
        assert np.all(np.isfinite(v))
        state = dynamics.heavy_ball_state((z[0] + target) / rate, v[0] / rate, rate, 1.0, epsilon)
        states = dynamics.iterate(lambda s: dynamics.heavy_ball_step(s, momentum, target, epsilon), state, 100)
        found = dynamics.heavy_ball_observables(states, target, epsilon)
        assert np.abs(found.z - z).max() < 1e-11 * np.abs(z).max()
        assert np.abs(found.v - v).max() < 1e-11 * v.max()
        if momentum == 0:
            step = dynamics.two_eigenvalue_step(TwoEigenvalues(z[0], v[0]), epsilon, target)
            np.testing.assert_allclose(step, (z[1], v[1]), rtol=1e-12, atol=1e-14)


def test_one_modulus_is_the_map_of_a_catapult():
    z, v, beta = sympy.symbols("z v beta")
    found = dynamics.two_eigenvalue_step(TwoEigenvalues(z, v), 1, beta)
    assert [sympy.expand(a - b) for a, b in zip(found, dynamics.signed_step(Signed(z, v), beta), strict=True)] == [0, 0]


@functools.cache
def crossing_ends(epsilon, target, count=1500):
    """Where runs end that start below 2 and cross it."""
    rng = np.random.default_rng(0)
    kernel, z = rng.uniform(0.5, 1.95, count), rng.uniform(-0.5, 0.5, count)
    share = (kernel - 2 * (z + target)) / (1 + 1 / epsilon)
    possible = (share >= 0) & (share <= kernel)
    state = TwoEigenvalues(z[possible], kernel[possible])
    top = state.kernel
    for _ in range(int(60 / epsilon)):
        state = dynamics.two_eigenvalue_step(state, epsilon, target)
        top = np.maximum(top, state.kernel)
    return state.kernel[top > 2]


@pytest.mark.parametrize(("epsilon", "printed"), [(0.005, 0.504), (0.02, 0.517)])
def test_the_edge_of_two_eigenvalues_is_where_most_crossing_runs_end(epsilon, printed):
    gaps = (2 - crossing_ends(epsilon, 0.0)) / epsilon
    assert np.median(gaps) == pytest.approx(printed, abs=1e-3)
    edge = (2 - dynamics.two_eigenvalue_edge(epsilon)) / epsilon
    assert np.median(gaps) == pytest.approx(edge, abs=1.5 * epsilon**2)
    near = np.mean(np.abs(gaps - edge) < 0.02 * edge)
    assert 0.6 < near < 0.85, "not all: some end lower"
    assert gaps.max() > 5


def derived_curve(z, e, target):
    first = 2 + 2 * z + 2 * z**2 - e * (1 - target) / 2 + 2 * z**3 - 2 * e * (1 - target) * z
    return first + 2 * z**4 - e * (19 - 15 * target) * z**2 / 8 - e**2 * (1 - target) * (27 - 11 * target) / 32


@given(*[st.fractions(-1, 1, max_denominator=50)] * 2, st.fractions(0, 1, max_denominator=50))
def test_the_second_term_is_derived(a, target, b):
    """H(z') = T' but for an error of order 5, where z counts 1 and epsilon 2; in exact numbers."""
    for size in (Fraction(1, 10**3), Fraction(1, 10**6), Fraction(1, 10**9)):
        z, e = size * a, size**2 * b
        after = dynamics.two_eigenvalue_step(TwoEigenvalues(z, derived_curve(z, e, target)), e, target)
        assert abs(after.kernel - derived_curve(after.z, e, target)) <= 60 * size**5


def test_the_curve_in_code_is_that_one():
    found = dynamics.two_eigenvalue_curve([0.1, -0.2], 0.02, 0.3)
    assert found == pytest.approx([derived_curve(z, 0.02, 0.3) for z in (0.1, -0.2)], rel=1e-14)
    assert dynamics.two_eigenvalue_curve(0.0, 0.02, 0.3) == dynamics.two_eigenvalue_edge(0.02, 0.3)


def slow_arrival(epsilon, target, momentum, steps):
    """(steps, runs) z and v of runs from rest near the curve, 5 % above the edge; in NumPy."""
    edge = 2 * (1 + momentum)
    x, y = (1.05 * edge * np.linspace(1.001, 1.004, 4)) ** 0.5, (1.05 * edge - 2 * target) ** 0.5 * np.ones(4)
    x_before, y_before, path = x, y, []
    for _ in range(steps):
        z = (x**2 - y**2) / 2 - target
        path.append((z, x**2 + epsilon * y**2))
        x, x_before = (1 + momentum - z) * x - momentum * x_before, x
        y, y_before = (1 + momentum + epsilon * z) * y - momentum * y_before, y
    return np.moveaxis(np.array(path), 1, 0)


@pytest.mark.parametrize(("momentum", "target"), [(0.3, 0.0), (0.3, 0.4), (0.6, 0.4)])
def test_with_momentum_the_edge_and_the_curve_are_right_to_second_order(momentum, target):
    ends, curves = [], []
    for epsilon in (0.008, 0.004):
        z, v = slow_arrival(epsilon, target, momentum, int(60 / epsilon))
        assert np.ptp(v[-1]) < 1e-8
        edge = dynamics.two_eigenvalue_edge(epsilon, target, momentum)
        ends.append(abs(v[-1, 0] - edge))
        # Along the way down, where z is of the order of the root of epsilon.
        size = np.abs(z[:, 0]) / epsilon**0.5
        near = (size > 0.4) & (size < 1.2) & (np.arange(len(z)) > 1.5 * (1 - momentum) / epsilon)
        assert near.sum() > 40
        off = v[near, 0] - dynamics.two_eigenvalue_curve(z[near, 0], epsilon, target, momentum)
        curves.append(np.abs(off).max())
        # The last term is seen: without it the end is off by much more.
        inertia = momentum * (epsilon * (1 - target / (1 + momentum)) / (1 - momentum)) ** 2 * (1 + momentum) / 2
        assert ends[-1] < 0.2 * inertia
    assert 7.5 < ends[0] / ends[1] < 11, "of third order"
    assert 5 < curves[0] / curves[1] < 9, "of order 5/2 or above"
    assert dynamics.two_eigenvalue_edge(0.01, target, 0.0) == dynamics.two_eigenvalue_edge(0.01, target)


def test_how_far_below_a_run_ends_that_does_not_come_from_far_above():
    rng = np.random.default_rng(0)
    for target in (0.0, 0.4):
        errors = []
        for epsilon in (1e-2, 1e-3):
            e = epsilon * (1 - target)
            x, s = rng.uniform(0, 3, 200), rng.uniform(0.1, 2, 200) * e
            z = np.sqrt(s)
            start = TwoEigenvalues(z, 2 + x * e / 2 + 2 * (1 - e) * z)
            foretold = dynamics.two_eigenvalue_end(start, epsilon, target)
            state = start
            for _ in range(int(40 / epsilon)):
                state = dynamics.two_eigenvalue_step(state, epsilon, target)
            rest = np.abs(state.z) < 1e-4
            assert rest.mean() > 0.9
            errors.append(np.median(np.abs(foretold - state.kernel)[rest]) / e)
            assert np.ptp((2 - state.kernel)[rest] / e) > 0.4
        assert errors[0] < 0.03
        assert errors[1] < errors[0] / 2


def test_random_regression_is_its_formula_and_sharpens(x64):
    model, data, w = quadratic.random_regression(6, 10, 0.1, seed=1)
    kernel = nqm.empirical_ntk(model, w, data.x_train)
    assert data.x_train.tolist() == np.eye(6).tolist()
    rate = 1.5 / np.linalg.eigvalsh(kernel)[-1]
    phi, sigma = (np.asarray(part) for part in model.featurize(jnp.asarray(data.x_train)))
    assert np.allclose(sigma, sigma.transpose(0, 2, 1))
    own, y = np.zeros(10), data.y_train[:, 0]
    run = nqm.train(model, data, learning_rate=rate, steps=30, params=w, loss="half_sum", record=("lambda_1",))
    for loss, top in zip(run.losses, run.records["lambda_1"], strict=True):
        gradients = phi + 0.1 * sigma @ own
        r = phi @ own + 0.05 * np.einsum("i,nij,j->n", own, sigma, own) - y
        assert loss == pytest.approx(r @ r / 2, rel=1e-9)
        assert top == pytest.approx(np.linalg.eigvalsh(gradients @ gradients.T)[-1], rel=1e-9)
        own = own - rate * r @ gradients
    big, _, _ = quadratic.random_regression(80, 50, 1.0)
    _, sigma = big.featurize(jnp.eye(80))
    assert float(jnp.std(sigma[:, 0, 1:])) == pytest.approx(50**-0.5, rel=0.05)
    assert float(jnp.std(jnp.diagonal(sigma, axis1=1, axis2=2))) == pytest.approx((2 / 50) ** 0.5, rel=0.05)
    again, other = (np.asarray(quadratic.random_regression(6, 10, 0.1, seed=s).data.y_train[:, 0]) for s in (1, 2))
    assert np.array_equal(again, y)
    assert not np.array_equal(other, y)


@pytest.mark.parametrize("degree", [1, 3, 6])
def test_the_chebyshev_data_are_its_polynomial(degree):
    data = nqm.datasets.chebyshev(degree, n_train=11)
    x = np.linspace(-1, 1, 11)
    np.testing.assert_allclose(data.x_train, np.stack([x, np.ones(11)], axis=1), atol=1e-7)
    np.testing.assert_allclose(data.y_train[:, 0], np.cos(degree * np.arccos(x)), atol=1e-6)
    assert nqm.datasets.chebyshev(3).x_train.shape == (20, 2)
    for wrong in (0, 2.5):
        with pytest.raises((ValueError, TypeError), match="degree must be"):
            nqm.datasets.chebyshev(wrong)


@pytest.mark.parametrize("step", ["balanced", "biased", "two"])
def test_steps_go_through_jit_vmap_and_iterate(x64, step):
    step, start = {
        "balanced": (lambda s: dynamics.balanced_step(s, 1.3), np.array([0.3, 0.7])),
        "biased": (
            lambda s: dynamics.biased_step(s, 0.7, 0.2, 0.5, 0.1),
            BiasedExample(*np.array([[0.1, 0.3], [0.2, 0.5], [1.0, 1.4]])),
        ),
        "two": (
            lambda s: dynamics.two_eigenvalue_step(s, 0.1, 0.2),
            TwoEigenvalues(*np.array([[0.1, 0.3], [1.4, 1.9]])),
        ),
    }[step]
    path = dynamics.iterate(step, start, 3)
    together = jax.jit(jax.vmap(step))(jax.tree.map(jnp.asarray, start))
    for stacked, one, plain in zip(*(jax.tree.leaves(tree) for tree in (path, together, step(start))), strict=True):
        np.testing.assert_allclose(stacked[1], plain, rtol=1e-13)
        np.testing.assert_allclose(one, plain, rtol=1e-13)


MODEL = quadratic.GeneralQuadraticModel(np.ones(2), np.ones(2), 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: dynamics.two_cycle(1.0),
            "beta must be between 1 and 2, where balanced weights have that orbit; got 1.0",
        ),
        (lambda: dynamics.two_cycle([1.5, 2.0]), "beta must be between 1 and 2"),
        (lambda: dynamics.attractor(2.1), "beta must be above 0 and at most 2"),
        (lambda: dynamics.attractor(-1.1), "beta must be above 0"),
        (lambda: dynamics.attractor(1.1, states=0), "states must be"),
        (lambda: dynamics.lyapunov_exponent(np.nan), "beta must be finite"),
        (lambda: dynamics.gradient_flow_kernel(2.0, 1.0, 0.36), "kernel must be at least 2 sqrt"),
        (lambda: dynamics.gradient_flow_kernel(0.0, 1.0, 0.0), "c must be positive"),
        (lambda: dynamics.two_eigenvalue_edge(1.1), "epsilon must be from 0 to 1; got 1.1"),
        (lambda: dynamics.two_eigenvalue_curve(0.1, 0.1, 1.0), "target must be below 1"),
        (lambda: dynamics.two_eigenvalue_edge(0.1, 1.5, 0.5), r"target must be below 1 \+ momentum; got 1.5"),
        (lambda: dynamics.two_eigenvalue_edge(0.1, momentum=1.0), "momentum must be a number in"),
        (lambda: dynamics.two_eigenvalue_end(TwoEigenvalues(0.1, 2.0), 0.0), "epsilon must be positive"),
        (lambda: quadratic.norm_certificate(MODEL, np.ones((1, 1)), np.ones(2)), "no certificate: phi must be 0"),
        (
            lambda: quadratic.norm_certificate(quadratic.two_layer_linear(2), np.ones((1, 1)), np.ones(3)),
            "params must be",
        ),
        (lambda: quadratic.random_regression(0, 3, 0.1), "n must be"),
        (lambda: quadratic.random_regression(2, 3, np.inf), "gamma must be"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_model_is_refused():
    for function in (quadratic.biased_map, lambda model, x: quadratic.norm_certificate(model, x, np.ones(2))):
        with pytest.raises(TypeError, match="must be a GeneralQuadraticModel; got"):
            function(nqm.networks.two_layer_fc(3), np.ones((1, 1)))
