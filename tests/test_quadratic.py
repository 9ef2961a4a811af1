"""General quadratic models: what they compute, how they train, and the exact map of those that have one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nqm_tools as nqm
from nqm_tools import dynamics, networks
from nqm_tools.dynamics import OneExample
from nqm_tools.quadratic import (
    GeneralQuadraticModel,
    diagonal,
    exact_map,
    quadratic_net,
    teacher_and_student,
    two_layer_linear,
)

P = 6
RNG = np.random.default_rng(0)
PHI, DIAGONAL, DENSE = RNG.standard_normal(P), RNG.standard_normal(P), RNG.standard_normal((P, P))
ROTATION = np.linalg.qr(DENSE)[0]
SIGNS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])


def phi_of(x):
    return jnp.sin(x[:, :1] + jnp.arange(P))


def diagonal_of(x):
    return jnp.cos(x[:, 1:] * jnp.arange(1, P + 1))


def dense_of(x):
    return diagonal_of(x)[:, :, None] * phi_of(x)[:, None, :]


MODELS = {
    "diagonal": (PHI, DIAGONAL),
    "dense": (PHI, DENSE),
    "functions_diagonal": (phi_of, diagonal_of),
    "functions_dense": (phi_of, dense_of),
    "mixed": (PHI, dense_of),
}


def written_out(phi, sigma, gamma, w, x):
    """g(w; x) = w . phi(x) + gamma/2 w^T Sigma(x) w, example by example; its kernel from gradients written out."""
    phis = phi(x) if callable(phi) else np.broadcast_to(phi, (len(x), P))
    sigmas = sigma(x) if callable(sigma) else np.broadcast_to(sigma, (len(x), *sigma.shape))
    sigmas = [np.diag(s) if s.ndim == 1 else np.asarray(s) for s in sigmas]
    gradients = np.stack([p + gamma / 2 * (s + s.T) @ w for p, s in zip(phis, sigmas, strict=True)])
    return [w @ p + gamma / 2 * w @ s @ w for p, s in zip(phis, sigmas, strict=True)], gradients @ gradients.T


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_its_formula_and_its_training_is_gradient_descent(x64, name):
    phi, sigma = MODELS[name]
    model = GeneralQuadraticModel(phi, sigma, gamma=0.3)
    x, y, w = RNG.standard_normal((4, 2)), RNG.standard_normal(4), jnp.asarray(RNG.standard_normal(P))
    outputs, kernel = written_out(phi, sigma, 0.3, w, x)
    np.testing.assert_allclose(model(w, x), np.reshape(outputs, (4, 1)), rtol=1e-12)
    np.testing.assert_allclose(nqm.empirical_ntk(model, w, x), kernel, rtol=1e-10, atol=1e-12)
    run = nqm.train(model, nqm.Data("own", x, y), params=w, learning_rate=0.02, steps=10, loss="half_sum", record=())
    slope = jax.jit(jax.grad(lambda w: jnp.sum((model(w, x)[:, 0] - y) ** 2) / 2))
    for _ in range(10):
        w = w - 0.02 * slope(w)
    np.testing.assert_allclose(run.params, w, rtol=1e-10)


def test_of_a_dense_sigma_the_symmetric_part_counts(x64):
    w, x = RNG.standard_normal(P), np.ones((2, 3))
    symmetric = GeneralQuadraticModel(PHI, (DENSE + DENSE.T) / 2, 0.5)
    antisymmetric = GeneralQuadraticModel(np.zeros(P), DENSE - DENSE.T, 0.5)
    np.testing.assert_allclose(GeneralQuadraticModel(PHI, DENSE, 0.5)(w, x), symmetric(w, x), rtol=1e-12)
    np.testing.assert_allclose(antisymmetric(w, x), 0, atol=1e-12)


def test_it_is_its_own_quadratic_model_and_linear_without_gamma(x64):
    w0, w, x = RNG.standard_normal(P), RNG.standard_normal(P), RNG.standard_normal((3, 2))
    model = GeneralQuadraticModel(phi_of, dense_of, 0.7)
    np.testing.assert_allclose(nqm.quadraticize(model, w0)(w, x), model(w, x), rtol=1e-12)
    linear = GeneralQuadraticModel(phi_of, dense_of, 0)
    np.testing.assert_allclose(nqm.linearize(linear, w0)(w, x), linear(w, x), rtol=1e-12)
    np.testing.assert_allclose(linear(w, x)[:, 0], phi_of(x) @ w, rtol=1e-12)


def test_models_go_through_jit_as_arguments():
    w, x = jnp.ones(P), jnp.ones((2, 3))
    calls = []

    @jax.jit
    def evaluate(model, w, x):
        calls.append(1)
        return model(w, x)

    for gamma in (0.1, 0.2):
        model = GeneralQuadraticModel(PHI, SIGNS, gamma)
        np.testing.assert_allclose(evaluate(model, w, x), model(w, x), rtol=1e-6)
    assert len(calls) == 1


@pytest.mark.parametrize("d", [1, 3])
def test_the_two_layer_linear_network_is_a_general_quadratic_model(x64, d):
    m, x = 5, RNG.standard_normal((4, d))
    net = networks.two_layer_fc(m, activation="linear")
    u, v = RNG.standard_normal((d, m)), RNG.standard_normal((m, 1))
    shapes = jax.eval_shape(lambda key: net.init(key, x.shape), jax.random.key(0))
    params = jax.tree.unflatten(jax.tree.structure(shapes), [u, v])
    w = np.concatenate([u.T.ravel(), v.ravel()])
    model = two_layer_linear(m)
    # The package's network divides by sqrt(d) also.
    np.testing.assert_allclose(model(w, x), net(params, x) * d**0.5, rtol=1e-12)
    phi, sigma = model.featurize(jnp.asarray(x))
    squares = np.sum(x**2, axis=1)[:, None, None]
    np.testing.assert_allclose(sigma @ sigma @ sigma, squares * sigma, atol=1e-12)
    assert np.allclose(sigma @ sigma, squares * np.eye(len(w))) == (d == 1)
    assert not phi.any()


def rotated(eigenvalues):
    return ROTATION * np.asarray(eigenvalues) @ ROTATION.T


def by_input(x):
    """Sigma(x)^2 = |x|^2 I, as Proposition 10 asks."""
    return jnp.linalg.norm(x, axis=1)[:, None] * SIGNS


def nothing(x):
    return jnp.zeros((len(x), P))


ZERO = np.zeros(P)
PARTLY_NULL = rotated([2, 2, 0, -2, 0, 2])
EXACT = {  # phi, Sigma, gamma; c for |x|^2 = 4.41
    "diagonal": (ZERO, SIGNS, 0.1, 0.01),
    "figure_8": (PHI, SIGNS, 0.1, 0.01),
    "scaled": (PHI, 2.5 * SIGNS, -0.04, 0.01),
    "dense": (PHI, rotated(SIGNS), 0.1, 0.01),
    "definite": (PHI, np.full(P, 2.0), 0.05, 0.01),
    "null_space": (PARTLY_NULL @ PHI, PARTLY_NULL, 0.05, 0.01),
    "proposition_10": (nothing, by_input, 0.1, 0.01 * 4.41),
    "two_layer_linear": (4.41 / 8,),
}


@pytest.mark.parametrize("name", EXACT)
def test_one_example_moves_as_the_exact_map_says(x64, name):
    """200 steps of the trainer, or until the run ends: below and above the critical rate, and beyond the largest."""
    *arguments, c = EXACT[name]
    model = GeneralQuadraticModel(*arguments) if arguments else two_layer_linear(8)
    x = np.array([[2.0, 0.4, 0.5]])
    w = 3 * np.random.default_rng(3).standard_normal(32 if name == "two_layer_linear" else P)
    found = exact_map(model, x)
    assert found.c == pytest.approx(c, rel=1e-9)
    assert (found.shift == 0) == (name in ("diagonal", "proposition_10", "two_layer_linear"))
    g0, kernel0 = model(w, x).item(), nqm.empirical_ntk(model, w, x).item()
    shift = found.shift

    @jax.jit
    def walk(rate, y):
        step = functools.partial(dynamics.one_example_step, learning_rate=rate, c=found.c, y=y + shift)
        return dynamics.iterate(step, OneExample(g0 + shift, kernel0), 200)

    for v0 in (1.3, 2.4, 4.5):
        for y in (0.0, 0.8):
            rate = v0 / kernel0
            run = nqm.train(
                model,
                nqm.Data("own", x, [y]),
                params=w,
                learning_rate=rate,
                steps=200,
                loss="half_sum",
                record="lambda_1",
            )
            path, until = walk(rate, y), np.isfinite(run.losses).sum()
            residuals = np.abs(path.prediction - shift - y)[:until]
            np.testing.assert_allclose(residuals, np.sqrt(2 * run.losses[:until]), rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(path.kernel[:until], run.records["lambda_1"][:until], rtol=1e-10, atol=1e-10)
            assert until > 4


def test_the_printed_powers_of_proposition_10_are_not_what_happens(x64):
    gamma, x, rate = 0.1, np.array([[2.0, 0.4, 0.5]]), 0.3
    model = GeneralQuadraticModel(nothing, by_input, gamma)
    w = 3 * np.random.default_rng(3).standard_normal(P)
    g, kernel, square = model(w, x).item(), nqm.empirical_ntk(model, w, x).item(), 4.41
    run = nqm.train(
        model, nqm.Data("own", x, [0.0]), params=w, learning_rate=rate, steps=1, loss="half_sum", record="lambda_1"
    )
    correct = kernel - rate * gamma**2 * square * g**2 * (4 - rate * kernel)
    printed = kernel - gamma * square * g**2 * (4 - rate * kernel)
    assert run.records["lambda_1"][1] == pytest.approx(correct, rel=1e-12)
    assert abs(printed - correct) > 0.1 * abs(correct - kernel)


@given(
    signs=st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=6).filter(any),
    size=st.floats(0.1, 10),
    gamma=st.floats(0.01, 2) | st.floats(-2, -0.01),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_any_sigma_with_sigma_cubed_proportional_to_sigma_has_an_exact_map(signs, size, gamma, seed):
    with jax.enable_x64(True):
        rng, sigma = np.random.default_rng(seed), size * np.array(signs)
        phi, w = sigma * rng.standard_normal(len(sigma)), rng.standard_normal(len(sigma))
        c, shift = exact_map(GeneralQuadraticModel(phi, sigma, gamma), np.ones((1, 1)))
    g, slope, y, rate = w @ phi + gamma / 2 * w @ (sigma * w), phi + gamma * sigma * w, rng.standard_normal(), 0.7
    after = dynamics.one_example_step(OneExample(g + shift, slope @ slope), rate, c, y + shift)
    moved = w - rate * (g - y) * slope
    scale = 1 + np.abs(after).max() + abs(shift)
    new_slope = phi + gamma * sigma * moved
    assert after.prediction - shift == pytest.approx(
        moved @ phi + gamma / 2 * moved @ (sigma * moved), abs=1e-9 * scale
    )
    assert after.kernel == pytest.approx(new_slope @ new_slope, abs=1e-9 * scale)


def test_a_linear_model_has_a_constant_kernel():
    x = np.ones((1, 2))
    assert exact_map(GeneralQuadraticModel(PHI, SIGNS, 0.0), x) == (0.0, 0.0)
    assert exact_map(GeneralQuadraticModel(PHI, ZERO, 1.0), x) == (0.0, 0.0)


def test_in_figure_8_gamma_sets_the_peak_and_not_the_final_kernel(x64):
    """d = 100, phi = x / |x|, Sigma diagonal +-1, eta = 2.8, y = 0: to leading order the peak is 1 / gamma^2."""
    rng = np.random.default_rng(0)
    x, w0, signs = rng.standard_normal((1, 100)), rng.standard_normal(100), rng.choice([-1.0, 1.0], 100)
    runs = []
    for gamma in (1e-3, 1e-4):
        model = GeneralQuadraticModel(lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True), signs, gamma)
        data = nqm.Data("own", x, [0.0])
        run = nqm.train(model, data, params=w0, learning_rate=2.8, steps=200, loss="half_sum", record="lambda_1")
        assert run.regime == "catapult"
        runs.append(run)
    peaks, ends = [run.peak_loss for run in runs], [run.records["lambda_1"][-1] for run in runs]
    assert peaks[1] / peaks[0] == pytest.approx(100, rel=0.3)
    assert ends[1] == pytest.approx(ends[0], rel=0.1)
    assert max(ends) < 0.5 * runs[0].records["lambda_1"][0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((2, 2)), np.ones(2), 1.0), ValueError, r"phi must be an array \(p,\).*got shape \(2, 2\)"),
        ((np.ones(2), np.ones((2, 3)), 1.0), ValueError, r"sigma must be an array \(p,\) or \(p, p\).*\(2, 3\)"),
        ((np.ones(2), np.ones((2, 2, 2)), 1.0), ValueError, "sigma must be an array"),
        (([np.nan, 1.0], np.ones(2), 1.0), ValueError, "phi must be finite"),
        ((np.ones(2), [np.inf, 1.0], 1.0), ValueError, "sigma must be finite"),
        ((np.ones(2), "diagonal", 1.0), TypeError, "sigma must be an array of numbers"),
        ((np.ones(2), np.ones(2), np.inf), ValueError, "gamma must be a finite number; got inf"),
        ((np.ones(2), np.ones(2), "1"), TypeError, "gamma must be a finite number; got '1'"),
        ((np.ones(2), np.ones(2), None), TypeError, "gamma must be a finite number; got None"),
    ],
)
def test_impossible_models_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        GeneralQuadraticModel(*arguments)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (GeneralQuadraticModel(np.ones(3), np.ones(2), 1.0), r"sigma must give \(2, 3\) or \(2, 3, 3\).*got \(2, 2\)"),
        (GeneralQuadraticModel(lambda x: x[:, 0], np.ones(2), 1.0), r"phi must give \(n, p\) with n = 2.*got \(2,\)"),
        (GeneralQuadraticModel(lambda x: x[:1], np.ones(2), 1.0), r"phi must give \(n, p\) with n = 2.*got \(1, 2\)"),
        (GeneralQuadraticModel(np.ones(4), np.ones(4), 1.0), r"params must be an array of shape \(4,\); got \(2,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        model(jnp.ones(2), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=message):
        nqm.train(model, nqm.Data("own", np.ones((2, 2)), np.ones(2)), params=jnp.ones(2), learning_rate=0.1, steps=1)


@pytest.mark.parametrize("width", [0, 2.5, "8", None, True])
def test_impossible_widths_are_refused(width):
    with pytest.raises((TypeError, ValueError), match="width must be a whole number >= 1"):
        two_layer_linear(width)


@pytest.mark.parametrize(
    ("model", "x", "error", "message"),
    [
        (networks.two_layer_fc(3), np.ones((1, 2)), TypeError, "model must be a GeneralQuadraticModel; got Network"),
        (GeneralQuadraticModel(PHI, SIGNS, 1.0), np.ones((2, 2)), ValueError, "x must hold one example.*got 2"),
        (GeneralQuadraticModel(PHI, SIGNS, 1.0), np.ones((0, 2)), ValueError, "x is empty"),
        (GeneralQuadraticModel(PHI, SIGNS, 1.0), [[np.nan]], ValueError, "x must be finite"),
        (
            GeneralQuadraticModel(ZERO, SIGNS * [1, 1, 1, 1, 1, 2], 1.0),
            [[1.0]],
            ValueError,
            "sigma must satisfy.*1 to 2",
        ),
        (GeneralQuadraticModel(PHI, SIGNS * [1, 1, 1, 1, 1, 0], 1.0), [[1.0]], ValueError, "phi must lie in the range"),
    ],
)
def test_models_without_an_exact_map_are_refused(model, x, error, message):
    with pytest.raises(error, match=message):
        exact_map(model, x)


def test_the_model_of_figure_8_is_a_general_quadratic_model_that_draws_its_start(x64):
    gamma, x = 0.3, np.random.default_rng(1).standard_normal((4, 7))
    net = diagonal(gamma)
    w = net.init(jax.random.key(0), x.shape)
    assert w.shape == (7,)
    signs = np.array([1.0, -1, 1, -1, 1, -1, 1])
    model = GeneralQuadraticModel(lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True), signs, gamma)
    np.testing.assert_allclose(net(w, x), model(w, x), rtol=1e-12)
    kernel = nqm.empirical_ntk(net, w, x)
    np.testing.assert_allclose(kernel, nqm.empirical_ntk(model, w, x), rtol=1e-12)
    run = nqm.train(net, nqm.Data("own", x, np.ones(4)), learning_rate=0.1, steps=2, seed=3)
    assert run.losses[0] == pytest.approx(float(jnp.mean((net(net.init(jax.random.key(3), x.shape), x) - 1) ** 2)))


@pytest.mark.parametrize("activation", ["linear", "tanh"])
@pytest.mark.parametrize("features", [0, 3])
@pytest.mark.parametrize("dimension", [1, 2])
def test_a_quadratic_net_is_its_formula_with_the_drawn_eigenvalues(x64, dimension, features, activation):
    p, act = 6, {"linear": lambda a: a, "tanh": np.tanh}[activation]
    options = {"dimension": dimension, "moduli": (1.0, 2.0), "features": features}
    net, plain = (quadratic_net(p, **options, activation=name, seed=3) for name in (activation, "linear"))
    # The matrices and U, read off the net without activation.
    units = np.eye(dimension)
    phi, blocks = (np.asarray(part) for part in plain.featurize(jnp.asarray(units)))
    if blocks.ndim == 2:
        blocks = np.stack([np.diag(row) for row in blocks])
    assert not np.any(blocks[:, :features])
    assert not np.any(phi[:, features:])
    W = np.sqrt(dimension) * blocks[:, features:, features:]
    for matrix in W:
        eigenvalues = np.linalg.eigvalsh(matrix)
        np.testing.assert_allclose(eigenvalues, -eigenvalues[::-1], atol=1e-12)
        assert np.all((np.abs(eigenvalues) >= 1 - 1e-12) & (np.abs(eigenvalues) <= 2 + 1e-12))
    x, w = RNG.standard_normal((4, dimension)), RNG.standard_normal(features + p)
    sigma = act(np.einsum("nd,dij->nij", x, W) / np.sqrt(dimension))
    quadratic_part = np.einsum("i,nij,j->n", w[features:], sigma, w[features:])
    expected = x @ phi[:, :features] @ w[:features] + np.sqrt(2 / p) / 2 * quadratic_part
    np.testing.assert_allclose(net(jnp.asarray(w), x)[:, 0], expected, rtol=1e-12)
    assert net.init(jax.random.key(0), x.shape).shape == (features + p,)


def test_the_features_of_a_quadratic_net_have_the_variance_of_its_docstring(x64):
    phi, _ = quadratic_net(2, dimension=4, features=1000).featurize(jnp.eye(4))
    assert abs(float((phi[:, :1000] ** 2).mean()) * 4 * 1000 - 1) < 0.1


def test_the_certificate_of_a_quadratic_net_is_its_spread(x64):
    """For one example and many weights ``4 <mu^2>/mu_max^2`` over the kernel, 7/3 for U[1, 2]."""
    x = jnp.ones((1, 1))
    for moduli, value in (((1.0, 2.0), 7 / 3), ((1.0, 1.0), 4.0)):
        net = quadratic_net(20_000, moduli=moduli)
        params = net.init(jax.random.key(0), x.shape)
        kernel = nqm.empirical_ntk(net, params, x).item()
        assert nqm.quadratic.norm_certificate(net, x, params) * kernel == pytest.approx(value, rel=0.03)


def test_a_student_has_blocks_of_its_teachers_matrices(x64):
    student, data, params = teacher_and_student(5, 4, 10, dimension=2, moduli=(0.5, 1.5), n_test=3, seed=7)
    teacher = quadratic_net(10, dimension=2, moduli=(0.5, 1.5), seed=7)
    large, small = (np.asarray(net.featurize(jnp.eye(2))[1]) for net in (teacher, student))
    rows = [np.flatnonzero(np.isclose(large[0], value).any(axis=0))[0] for value in small[0].diagonal()]
    assert len(set(rows)) == 4
    np.testing.assert_allclose(small, large[:, rows][:, :, rows], rtol=1e-12)
    assert (student.gamma, teacher.gamma) == (np.sqrt(2 / 4), np.sqrt(2 / 10))
    assert params.shape == (4,)
    # Targets are the teacher's: one set of its weights gives all of them, through its features' products.
    assert (data.y_train.shape, data.y_test.shape) == ((5, 1), (3, 1))
    own = teacher_and_student(5, 10, 10, dimension=2, moduli=(0.5, 1.5), n_test=3, seed=7)
    np.testing.assert_array_equal(own.data.y_train, data.y_train)
    np.testing.assert_allclose(own.model.featurize(jnp.eye(2))[1], large, rtol=1e-12)
    assert not np.allclose(own.model(own.params, data.x_train), data.y_train), "its start is not the teacher"
    weights = np.random.default_rng([7, 1]).standard_normal(8 * 2 + 10)[16:]
    np.testing.assert_allclose(teacher(jnp.asarray(weights), data.x_train), data.y_train, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 5}, "p must be even, since eigenvalues come as ±mu; got 5"),
        ({"moduli": (2.0, 1.0)}, "moduli must be a rising pair"),
        ({"moduli": 1.0}, "moduli must be a pair of numbers; got 1.0"),
        ({"moduli": (0.0, 1.0)}, "each of moduli must be a positive finite number; got 0.0"),
        ({"activation": "gelu"}, "activation must be one of"),
        ({"features": -1}, "features must be a whole number >= 0; got -1"),
        ({"dimension": 0}, "dimension must be a whole number >= 1; got 0"),
    ],
)
def test_impossible_quadratic_nets_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        quadratic_net(**{"p": 4} | arguments)


def test_a_student_is_no_larger_than_its_teacher():
    with pytest.raises(ValueError, match="p must be at most the teacher's 4; got 6"):
        teacher_and_student(3, 6, 4)
