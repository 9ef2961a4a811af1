"""The paper's errata (notebook A1): the corrected form is what gradient descent does, the printed one is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nqm_tools as nqm

EXACT = 1e-10


def off(formula, measured):
    """The largest error of a formula, relative to the largest measured value."""
    return float(np.abs(formula - measured).max() / np.abs(measured).max())


def weights(rng, d, m):
    """A two-layer network's parameters: U normal, v of signs."""
    tree = jax.tree.structure(nqm.networks.two_layer_fc(1).init(jax.random.key(0), (1, 1)))
    return jax.tree.unflatten(tree, [rng.standard_normal((d, m)), rng.choice([-1.0, 1.0], (m, 1))])


def flatten(model, params, x):
    """The model's predictions on x as a function of one weight vector, and that vector."""
    flat, unravel = ravel_pytree(params)
    return lambda w: model(unravel(w), x)[:, 0], flat


@functools.partial(jax.jit, static_argnums=0)
def measure(f, w, y):
    """Residual and tangent kernel."""
    F = jax.jacobian(f)(w)
    return f(w) - y, F @ F.T


@functools.partial(jax.jit, static_argnums=0)
def descend(f, w, y, rate):
    """One step of gradient descent on half_sum."""
    return w - rate * jax.grad(lambda w: jnp.sum((f(w) - y) ** 2) / 2)(w)


def test_erratum_1_the_kernels_recursion(x64):
    rng, rate = np.random.default_rng(0), 0.7
    x, y, start = rng.standard_normal((5, 3)), rng.standard_normal(5), weights(rng, 3, 20)
    f, w = flatten(nqm.quadraticize(nqm.networks.two_layer_fc(20, activation="tanh"), start), start, x)
    w = w + 0.3 * rng.standard_normal(len(w))
    (r, K), (_, K_next) = measure(f, w, y), measure(f, descend(f, w, y, rate), y)
    F, G = jax.jit(lambda w: jax.jvp(jax.jacobian(f), (w,), (jax.jacobian(f)(w).T @ r,)))(w)
    assert G.shape == (5, len(w))
    correct = -rate * (G @ F.T + F @ G.T) + rate**2 * G @ G.T
    printed = -rate / 4 * (4 * G @ F.T - rate * G @ G.T)
    assert off(correct, K_next - K) < EXACT
    for form in (printed, -printed, (printed + printed.T) / 2):
        assert off(form, K_next - K) > 0.1
    # What is missing: a factor 2 in G, and the symmetric part.
    doubled = -rate / 4 * (4 * 2 * G @ F.T - rate * 4 * G @ G.T)
    assert off((doubled + doubled.T) / 2, K_next - K) < EXACT


def quadratic_step(model, x, w, rate):
    """(g, lambda) before and after a step towards the target 0."""
    f, w = flatten(model, w, x)
    states = [measure(f, at, 0.0) for at in (w, descend(f, w, 0.0, rate))]
    return np.array([[g[0], kernel[0, 0]] for g, kernel in states])


def proposition_10(state, rate, in_g, in_kernel):
    g, kernel = state
    return np.array([(1 - rate * kernel + in_g * g**2) * g, kernel - in_kernel * g**2 * (4 - rate * kernel)])


def test_erratum_2_powers_of_gamma_and_of_the_rate(x64):
    rng, gamma, rate = np.random.default_rng(0), 0.3, 0.4
    x = np.array([[1.0, -0.5, 0.7]])
    s2 = np.sum(x**2)
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    sigma = np.sqrt(s2) * basis * np.array([1, 1, -1, 1, -1, -1]) @ basis.T
    model = nqm.quadratic.GeneralQuadraticModel(np.zeros(6), sigma, gamma)
    before, after = quadratic_step(model, x, 2 * rng.standard_normal(6), rate)
    correct = proposition_10(before, rate, gamma**2 * rate**2 * s2, rate * gamma**2 * s2)
    printed = proposition_10(before, rate, gamma * rate**2 * s2, gamma * s2)
    np.testing.assert_allclose(correct, after, rtol=EXACT)
    assert (np.abs(printed / after - 1) > 0.1).all()


def test_erratum_2_condition_and_gamma_of_the_two_layer_linear_network(x64):
    rng, rate, m = np.random.default_rng(0), 0.4, 4
    x, w = np.array([[1.0, -0.5, 0.7]]), rng.standard_normal(16)
    s2 = np.sum(x**2)
    model = nqm.quadratic.two_layer_linear(m)
    S = np.asarray(model.featurize(x)[1])[0]
    assert off(S @ S @ S, s2 * S) < EXACT
    assert off(S @ S, s2 * np.eye(16)) > 0.1
    before, after = quadratic_step(model, x, w, rate)
    np.testing.assert_allclose(proposition_10(before, rate, rate**2 * s2 / m, rate * s2 / m), after, rtol=EXACT)
    network = (w[:12].reshape(m, 3) @ x[0]) @ w[12:] / np.sqrt(m)
    assert off(w @ S @ w / (2 * np.sqrt(m)), network) < EXACT
    assert off(w @ S @ w / (2 * m), network) > 0.1


def test_erratum_3_the_rates_of_figure_3_are_those_of_mse():
    rates = {"half_sum": [], "mse": []}
    rng, net = np.random.default_rng(0), nqm.networks.two_layer_fc(5000)
    for seed in range(12):
        data = nqm.datasets.gaussians_1d(128, seed=seed)
        kernel = nqm.empirical_ntk(net, weights(rng, 1, 5000), data.x_train)
        for loss in rates:
            rates[loss].append(nqm.critical_learning_rate(kernel, loss=loss, k=2))
    printed = np.array([0.37, 0.39])
    mean, std = np.mean(rates["mse"], axis=0), np.std(rates["mse"], axis=0)
    assert (np.abs(printed - mean) < 2.5 * std).all()
    assert np.max(rates["half_sum"]) < 0.02


def test_erratum_4_both_laws_of_v_give_the_same_mean_kernel_and_signs_vary_less():
    rng, m = np.random.default_rng(0), 64
    gates, h2 = rng.integers(0, 2, (20_000, m)), rng.standard_normal((20_000, m)) ** 2
    sums = {"signs": 1, "normal": rng.standard_normal((20_000, m)) ** 2}
    kernels = {name: np.mean(gates * (v2 + h2), axis=1) for name, v2 in sums.items()}
    outside = {name: np.mean(np.abs(values - 1) > 0.5) for name, values in kernels.items()}
    for name, variance in (("signs", 2), ("normal", 3)):
        assert kernels[name].mean() == pytest.approx(1, abs=0.01)
        assert m * kernels[name].var() == pytest.approx(variance, rel=0.1)
    assert outside["signs"] < outside["normal"] < 0.05


@functools.cache
def catapult(targets=True):
    """A real NQM of one-dimensional data that catapults along both directions; call under x64."""
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
    assert (np.max(r**2, axis=0) > 2 * r[0] ** 2).all()  # both catapult
    run = dict(y=y, m=m, masks=masks, P=P, norms=norms, p=p, c=norms**2 / m, rate=rate, path=path)
    return run | dict(residuals=residuals, kernels=kernels, lam=lam, r=r, yp=p @ y, losses=r**2 / 2)


def test_erratum_5_convergence_needs_a_norm_below_1_on_the_span(x64):
    run = catapult()
    x = nqm.datasets.gaussians_1d(16, seed=6).x_train
    start = weights(np.random.default_rng(1), 1, run["m"])
    f, w0 = flatten(nqm.linearize(nqm.networks.two_layer_fc(run["m"]), start), start, x)
    _, K = measure(f, w0, run["y"])
    for ratio, converges in ((0.5, True), (0.9, True), (1.1, False), (1.4, False), (1.6, False)):
        rate, w = ratio * 2 / run["lam"][0].max(), w0
        step = np.eye(16) - rate * K
        assert (np.linalg.norm(run["p"] @ step @ run["p"].T, 2) < 1) == converges
        assert np.linalg.norm(step, 2) > 1 - EXACT  # rank 2: what is outside of the span stays
        assert (np.linalg.norm(step, 2) < 2) == (ratio < 1.5)
        for _ in range(20):
            w = descend(f, w, run["y"], rate)
        before, after = (run["p"] @ (f(at) - run["y"]) for at in (w0, w))
        assert (np.linalg.norm(after) < np.linalg.norm(before)) == converges


def test_erratum_5_after_the_catapult_the_rate_is_below_two_over_the_eigenvalues(x64):
    run = catapult()
    assert (run["rate"] > 2 / run["lam"][0]).all()
    assert (run["rate"] < 2 / run["lam"][-1]).all()


def test_erratum_5_the_change_of_the_kernel_along_a_direction(x64):
    run = catapult(targets=False)
    rate, lam, size = run["rate"], run["lam"], 2 * run["c"] * run["losses"]
    change = np.diff(lam, axis=0)
    assert off((size * rate * (rate * lam - 4))[:-1], change) < EXACT
    assert off((size * rate * (lam - 4 * rate))[:-1], change) > 0.1
    run = catapult()
    rate, r = run["rate"], run["r"]
    exact = -rate * run["c"] * (2 * run["losses"] * (4 - rate * run["lam"]) + 4 * r * run["yp"])
    assert off(exact[:-1], np.diff(run["lam"], axis=0)) < EXACT


def test_erratum_5_kappa_leads_to_the_next_loss(x64):
    run = catapult()
    rate, r, losses = run["rate"], run["r"], run["losses"]
    kappa = (1 - rate * run["lam"] + run["c"] * rate**2 * r * (r + run["yp"])) ** 2
    assert off((kappa * losses)[:-1], losses[1:]) < EXACT
    assert off((kappa * losses)[:-1], losses[:-1]) > 0.1


def test_erratum_6_the_kernel_needs_normalised_vectors(x64):
    run = catapult()
    by_unit, by_p = (np.einsum("tg,gi,gj->tij", run["lam"], vectors, vectors) for vectors in (run["p"], run["P"]))
    assert off(by_unit, run["kernels"]) < EXACT
    assert off(by_p, run["kernels"]) > 0.1


def test_erratum_6_u_and_w_need_the_norm_and_projections(x64):
    run = catapult()
    rate, r, y, c = run["rate"], run["r"], run["y"], run["c"]
    v = rate * run["lam"]

    def next_v(c, products):
        return (v - c * rate**2 * (r**2 * (4 - v) + 4 * products))[:-1]

    assert off(next_v(c, r * run["yp"]), v[1:]) < EXACT
    assert off(next_v(1 / run["m"], r * run["yp"]), v[1:]) > 0.1
    masked = np.einsum("ti,gi,i->tg", run["residuals"], run["masks"], y)
    y_perp = run["masks"] * y - run["yp"][:, None] * run["p"]
    constant = 4 * c * rate**2 * np.sum(y_perp**2, axis=1)
    assert (constant > 1e-4).all()
    np.testing.assert_allclose(next_v(c, masked) - v[1:], np.broadcast_to(constant, (100, 2)), atol=EXACT)


@pytest.mark.parametrize("name", ["f", "f_quad", "f_lin"])
def test_erratum_7_the_hessians_rate_is_the_kernels_for_linear_models_only(x64, name):
    rng = np.random.default_rng(0)
    x, y, start = rng.standard_normal((6, 3)), rng.standard_normal(6), weights(rng, 3, 50)
    net = nqm.networks.two_layer_fc(50)
    model = {"f": net, "f_quad": nqm.quadraticize(net, start), "f_lin": nqm.linearize(net, start)}[name]
    gap = nqm.sharpness(model, start, x, y, "half_sum") * nqm.critical_learning_rate(
        nqm.empirical_ntk(model, start, x), "half_sum"
    )
    assert (abs(gap / 2 - 1) < EXACT) == (name == "f_lin")


def test_erratum_7_the_hessians_rate_of_one_example_is_exact(x64):
    rng, m, y = np.random.default_rng(0), 50, 0.5
    x, start = np.array([[1.0, -0.5, 0.7]]), weights(rng, 3, m)
    f, w = flatten(nqm.networks.two_layer_fc(m), start, x)
    (r, lam), c = (value.item() for value in measure(f, w, y)), np.sum(x**2) / (3 * m)
    expected = (lam + np.sqrt(lam**2 + 4 * c * r * (2 * (r + y) + r))) / 2
    sharpness = nqm.sharpness(nqm.networks.two_layer_fc(m), start, x, np.array([y]), "half_sum")
    assert sharpness == pytest.approx(expected, rel=EXACT)


def test_erratum_8_the_gates_are_those_of_the_start(x64):
    run = catapult()
    u, v = run["path"][:, : run["m"]], run["path"][:, run["m"] :]
    gates = np.stack([u >= 0, u < 0], axis=1)
    frozen, moving = (run["c"] * np.einsum("tk,tgk->tg", u**2 + v**2, g) for g in (0 * gates + gates[:1], gates))
    assert off(frozen, run["lam"]) < EXACT
    assert off(moving, run["lam"]) > 0.01


def test_erratum_8_the_linear_term_has_one_over_root_d(x64):
    x, start = np.array([[1.0, -0.5, 0.7], [0.2, 0.9, -1.4]]), weights(np.random.default_rng(0), 3, 50)
    net = nqm.networks.two_layer_fc(50)
    gradient = jax.tree.leaves(jax.jit(jax.jacobian(lambda params: net(params, x)[:, 0]))(start))[1][:, :, 0]
    h = x @ jax.tree.leaves(start)[0]
    assert off(np.maximum(h / np.sqrt(3), 0) / np.sqrt(50), gradient) < EXACT
    assert off(np.maximum(h, 0) / np.sqrt(50), gradient) > 0.1


@functools.cache
def equal_units(m=4):
    """A quadratic model of m equal units on x = 1; call under x64."""
    ones = jax.tree.map(jnp.ones_like, weights(np.random.default_rng(0), 1, m))
    return flatten(nqm.quadraticize(nqm.networks.two_layer_fc(m), ones), ones, np.ones((1, 1)))[0]


def next_states(z, v, beta, steps=1, m=4):
    """(z, v) from this state on, by gradient descent with learning rate 1; c = 1/m."""
    p, q = np.sqrt(v + 2 * (z + beta)), np.sqrt(v - 2 * (z + beta))
    w, y, states = jnp.repeat(jnp.array([p + q, p - q]) / 2, m), beta * np.sqrt(m), []
    for _ in range(steps + 1):
        r, kernel = measure(equal_units(m), w, y)
        states.append((r[0] / np.sqrt(m), kernel[0, 0]))
        w = descend(equal_units(m), w, y, 1.0)
    return np.array(states)


@pytest.mark.parametrize(("z", "beta"), [(0.5, 0.3), (-1.0, 0.3), (1.2, 0.0), (-0.7, -0.2)])
def test_erratum_8_case_2_1_of_theorem_2(x64, z, beta):
    before, after = next_states(z, 2 + z**2 + beta * z, beta)[:, 0]
    assert before == pytest.approx(z, rel=EXACT)
    assert after == pytest.approx(-before, rel=EXACT)


def test_erratum_8_case_2_1_rests_for_target_zero_only(x64):
    cycle = next_states(np.sqrt(2), 4.0, 0.0, steps=2)
    np.testing.assert_allclose(cycle, cycle[0] * np.array([[1, 1], [-1, 1], [1, 1]]), rtol=EXACT)
    beta = 0.3
    for z in np.roots([1, beta, -2, -4 * beta]).real:
        states = next_states(z, 2 + z**2 + beta * z, beta, steps=2)
        np.testing.assert_allclose(states[1], states[0] * np.array([-1, 1]), rtol=EXACT)
        assert states[2, 1] - states[1, 1] == pytest.approx(8 * beta * z, rel=1e-8)


@pytest.mark.parametrize(("beta", "v"), [(0.2, 3.0), (0.1, 2.5), (0.3, 2.0)])
def test_erratum_8_the_threshold_of_proposition_2(x64, beta, v):
    m = 4
    C = beta * np.sqrt(m)  # eta |x| |y| / sqrt(d)
    z = np.sqrt(16 * C**2 / (m * (4 - v) ** 2))
    at, above, below, positive = (
        np.diff(next_states(start, v, beta)[:, 1]).item() for start in (-z, -1.01 * z, -0.99 * z, 1.01 * z)
    )
    assert abs(at) < EXACT
    assert above < -1e-4
    assert positive < -1e-4
    assert below > 1e-4
