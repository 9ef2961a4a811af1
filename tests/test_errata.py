"""The paper's errata (notebook A1): the corrected form is what gradient descent does, the printed one is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools.papers.ours import errata
from nqm_tools.papers.ours.errata import catapult, descend, flatten, measure, off, weights

EXACT = 1e-10


@pytest.mark.parametrize(
    "erratum",
    [
        errata.kernel_recursion,
        errata.proposition_10,
        errata.change_along_a_direction,
        errata.kappa,
        errata.normalised_vectors,
        errata.norm_in_u,
        errata.linear_term,
    ],
)
def test_the_corrected_form_is_exact_and_the_printed_one_far_off(x64, erratum):
    corrected, printed = erratum()
    assert corrected < EXACT
    assert printed > 0.1


def test_both_directions_of_the_example_catapult(x64):
    r = catapult()["r"]
    assert (np.max(r**2, axis=0) > 2 * r[0] ** 2).all()


def quadratic_step(model, x, w, rate):
    """(g, lambda) before and after a step towards the target 0."""
    f, w = flatten(model, w, x)
    states = [measure(f, at, 0.0) for at in (w, descend(f, w, 0.0, rate))]
    return np.array([[g[0], kernel[0, 0]] for g, kernel in states])


def proposition_10(state, rate, in_g, in_kernel):
    g, kernel = state
    return np.array([(1 - rate * kernel + in_g * g**2) * g, kernel - in_kernel * g**2 * (4 - rate * kernel)])


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
