"""Kernels, critical rates, sharpness and the exact kernel step, against whole Jacobians and real gradient descent."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import nqm_tools as nqm
from nqm_tools import kernels, networks


def problem(make=networks.two_layer_fc, shape=(4,), n=5, outputs=1, seed=0, **options):
    """A small network, parameters away from its start, inputs, targets."""
    net = make(6, outputs=outputs, **options)
    x = jax.random.normal(jax.random.key(seed), (n, *shape))
    params0 = net.init(jax.random.key(seed + 1), x.shape)
    flat, unravel = ravel_pytree(params0)
    params = unravel(flat + 0.3 * jax.random.normal(jax.random.key(seed + 2), flat.shape))
    y = jax.random.normal(jax.random.key(seed + 3), (n, outputs))
    return net, params0, params, x, y


NETWORKS = {
    "fc": {},
    "fc_outputs": {"outputs": 3, "activation": "tanh"},
    "deep": {"make": networks.deep_fc, "activation": "swish"},
    "cnn": {"make": networks.two_layer_cnn, "shape": (4, 3, 2), "outputs": 2},
    "cnn_flatten": {"make": networks.two_layer_cnn, "shape": (4, 3, 2), "readout": "flatten"},
}


def jacobian(f, params, x):
    """(n, k, p)."""
    flat, unravel = ravel_pytree(params)
    outputs = jax.jit(jax.jacobian(lambda w: f(unravel(w), x)))(flat)
    return outputs[:, None] if outputs.ndim == 2 else outputs


def full_kernel(f, params, x1, x2):
    return jnp.einsum("iap,jbp->ijab", jacobian(f, params, x1), jacobian(f, params, x2))


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("model", ["f", "f_lin", "f_quad"])
def test_kernel_is_a_product_of_jacobians(x64, options, model):
    net, params0, params, x, _ = problem(**options)
    f = {"f": net, "f_lin": nqm.linearize(net, params0), "f_quad": nqm.quadraticize(net, params0)}[model]
    expected = full_kernel(f, params, x[:2], x)
    kernel = nqm.empirical_ntk(f, params, x[:2], x)
    if expected.shape[2] == 1:
        expected = expected[:, :, 0, 0]
    assert kernel.shape == expected.shape
    np.testing.assert_allclose(kernel, expected, rtol=1e-10, atol=1e-10)


def test_kernel_of_any_function_with_outputs_n_or_n_by_k(x64):
    model = eqx.nn.MLP(4, "scalar", 5, 2, jnp.tanh, key=jax.random.key(3))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def f(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    params = jax.tree.map(lambda w: w.astype(jnp.float64), params)
    x = jax.random.normal(jax.random.key(0), (5, 4))
    np.testing.assert_allclose(
        nqm.empirical_ntk(f, params, x), full_kernel(f, params, x, x)[:, :, 0, 0], rtol=1e-10, atol=1e-12
    )


@given(seed=st.integers(0, 2**16), outputs=st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_kernels_are_symmetric_and_positive(seed, outputs):
    net, _, params, x, _ = problem(outputs=outputs, seed=seed)
    matrix = np.asarray(kernels.kernel_matrix(nqm.empirical_ntk(net, params, x)), float)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-5, atol=1e-5)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues[0] > -1e-5 * eigenvalues[-1]


@pytest.mark.parametrize("dense_rows", [1024, 0], ids=["dense", "matrix_free"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_top_eigenpairs_are_those_of_the_kernel(x64, monkeypatch, dense_rows, outputs):
    for module in (kernels, nqm.curvature):
        monkeypatch.setattr(module, "DENSE_ROWS", dense_rows)
    net, _, params, x, _ = problem(n=9, outputs=outputs)
    matrix = np.asarray(kernels.kernel_matrix(nqm.empirical_ntk(net, params, x)))
    values, vectors = nqm.top_eigenpairs(net, params, x, 3)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1][:3], rtol=1e-10)
    assert vectors.shape == ((9, 3) if outputs == 1 else (9, outputs, 3))
    flat = vectors.reshape(-1, 3)
    np.testing.assert_allclose(matrix @ flat, flat * values, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(flat.T @ flat, np.eye(3), atol=1e-8)


def test_matrix_free_eigenpairs_are_right_for_a_kernel_of_rank_two():
    """One-dimensional inputs give rank two, on which plain Lanczos iterations make up eigenvalues."""
    net = networks.two_layer_fc(32)
    x = jax.random.normal(jax.random.key(0), (1500, 1))
    params = net.init(jax.random.key(1), x.shape)
    values, _ = nqm.top_eigenpairs(net, params, x, 3)
    assert len(x) > kernels.DENSE_ROWS
    exact = np.linalg.eigvalsh(np.asarray(nqm.empirical_ntk(net, params, x), float))[::-1]
    np.testing.assert_allclose(values[:2], exact[:2], rtol=1e-4)
    assert abs(values[2]) < 1e-4 * values[0]


@pytest.mark.parametrize(("loss", "scale"), [("half_sum", 1.0), ("mse", 4 / 2)])
def test_critical_learning_rates_are_two_over_the_eigenvalues(loss, scale):
    kernel = np.diag([8.0, 2.0, 1.0, 0.0])
    assert nqm.critical_learning_rate(kernel, loss) == pytest.approx(scale * 0.25)
    rates = nqm.critical_learning_rate(kernel, loss, k=4)
    np.testing.assert_allclose(rates, scale * np.array([0.25, 1.0, 2.0, np.inf]))


def test_critical_learning_rate_of_several_outputs_counts_examples_once():
    kernel = np.einsum("ij,ab->ijab", np.diag([4.0, 1.0]), np.diag([1.0, 3.0]))
    np.testing.assert_allclose(nqm.critical_learning_rate(kernel, "half_sum", k=4), 2 / np.array([12.0, 4.0, 3.0, 1.0]))
    np.testing.assert_allclose(nqm.critical_learning_rate(kernel, "mse"), 2 / 12)


@pytest.mark.parametrize("loss", ["half_sum", "mse"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_linear_model_converges_just_below_and_diverges_just_above(x64, loss, outputs):
    net, params0, _, x, y = problem(outputs=outputs)
    data = nqm.Data("own", x, y)
    rate = nqm.critical_learning_rate(nqm.empirical_ntk(net, params0, x), loss)
    lin = nqm.linearize(net, params0)
    below = nqm.train(lin, data, learning_rate=0.99 * rate, steps=3000, loss=loss, record=(), record_every=3000)
    above = nqm.train(lin, data, learning_rate=1.01 * rate, steps=3000, loss=loss, record=(), record_every=3000)
    assert below.losses[-1] < below.losses[0]
    assert above.losses[-1] > 1e6 * above.losses[0]


@pytest.mark.parametrize("dense_rows", [1024, 0], ids=["dense", "matrix_free"])
@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("loss", ["half_sum", "mse"])
def test_sharpness_is_the_largest_eigenvalue_of_the_hessian(x64, monkeypatch, dense_rows, options, loss):
    for module in (kernels, nqm.curvature):
        monkeypatch.setattr(module, "DENSE_ROWS", dense_rows)
    net, _, params, x, y = problem(**options)
    flat, unravel = ravel_pytree(params)

    def value(w):
        r = net(unravel(w), x) - y
        return jnp.sum(r**2) / (2 if loss == "half_sum" else len(x))

    expected = np.linalg.eigvalsh(jax.jit(jax.hessian(value))(flat))[-1]
    assert nqm.sharpness(net, params, x, y, loss) == pytest.approx(expected, rel=1e-9)


def test_sharpness_of_a_linear_model_is_the_kernels_largest_eigenvalue(x64):
    net, params0, params, x, y = problem()
    lin = nqm.linearize(net, params0)
    rate = nqm.critical_learning_rate(nqm.empirical_ntk(lin, params, x), "mse")
    assert 2 / nqm.sharpness(lin, params, x, y, "mse") == pytest.approx(rate, rel=1e-10)


def take_step(f, params0, params, x, y, rate):
    """What gradient descent on half_sum really does to an NQM: the next kernel and residual, and the matrices
    F (n k, p) and G (n k, p) that explain it."""
    quad = nqm.quadraticize(f, params0)
    flat, unravel = ravel_pytree(params)

    def predict(w):
        return quad(unravel(w), x).ravel()

    @jax.jit
    def step(flat):
        F, r = jax.jacobian(predict)(flat), predict(flat) - jnp.ravel(y)
        G = jnp.einsum("ipq,q->ip", jax.hessian(predict)(flat), F.T @ r)
        stepped = flat - rate * F.T @ r
        F_next = jax.jacobian(predict)(stepped)
        return F_next @ F_next.T, predict(stepped) - jnp.ravel(y), F, G, r

    return step(flat)


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_kernel_step_is_what_gradient_descent_does(x64, options):
    net, params0, params, x, y = problem(**options)
    rate = 0.7
    kernel, residual, F, G, r = take_step(net, params0, params, x, y, rate)
    step = nqm.kernel_step(net, params0, params, x, y, rate)
    matrix = kernels.kernel_matrix
    close = dict(rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(matrix(step.kernel), kernel, **close)
    np.testing.assert_allclose(step.residual.ravel(), residual, **close)
    np.testing.assert_allclose(matrix(step.R_f), rate**2 / 2 * G @ F.T, **close)
    np.testing.assert_allclose(matrix(step.R_K), rate * (G @ F.T + F @ G.T) - rate**2 * G @ G.T, **close)
    # The two recursions as the paper states them.
    np.testing.assert_allclose(matrix(step.kernel), F @ F.T - matrix(step.R_K), **close)
    np.testing.assert_allclose(residual, r - rate * F @ F.T @ r + matrix(step.R_f) @ r, **close)


@given(seed=st.integers(0, 2**16), rate=st.floats(0.01, 10.0), outputs=st.integers(1, 2))
@settings(max_examples=6, deadline=None)
def test_kernel_step_is_exact_for_any_quadratic_function(seed, rate, outputs):
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), 6)
        linear = jax.random.normal(keys[0], (3, outputs, 7))
        square = jax.random.normal(keys[1], (3, outputs, 7, 7))

        def f(w, x):
            return jnp.einsum("nd,dkp,p->nk", x, linear, w) + jnp.einsum("nd,dkpq,p,q->nk", x, square, w, w)

        x, y = jax.random.normal(keys[2], (4, 3)), jax.random.normal(keys[3], (4, outputs))
        params0, params = jax.random.normal(keys[4], (7,)), jax.random.normal(keys[5], (7,))
        kernel, residual, *_ = take_step(f, params0, params, x, y, rate)
        step = nqm.kernel_step(f, params0, params, x, y, rate)
        np.testing.assert_allclose(
            kernels.kernel_matrix(step.kernel), kernel, rtol=1e-9, atol=1e-9 * float(jnp.abs(kernel).max())
        )
        np.testing.assert_allclose(
            step.residual.ravel(), residual, rtol=1e-9, atol=1e-9 * float(jnp.abs(residual).max())
        )


def test_kernel_step_of_a_taylor_model_is_its_own(x64):
    net, params0, params, x, y = problem(activation="tanh")
    step = nqm.kernel_step(nqm.linearize(net, params0), params0, params, x, y, 0.5)
    np.testing.assert_allclose(step.kernel, nqm.empirical_ntk(net, params0, x), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(step.R_f, 0, atol=1e-12)
    # A quadratic function is its own quadratic model around any point.
    quad = nqm.quadraticize(net, params0)
    here, there = (nqm.kernel_step(quad, point, params, x, y, 0.5) for point in (params0, params))
    np.testing.assert_allclose(here.kernel, there.kernel, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(here.residual, there.residual, rtol=1e-9, atol=1e-12)


def test_the_zero_operator_has_zero_eigenvalues(monkeypatch):
    monkeypatch.setattr(kernels, "DENSE_ROWS", 0)
    net, _, params, x, y = problem()
    values, _ = nqm.top_eigenpairs(net, jax.tree.map(jnp.zeros_like, params), x, 2)
    assert values.tolist() == [0.0, 0.0]
    assert nqm.sharpness(lambda w, x: 0 * x @ w, jnp.ones(4), x, y) == 0.0


def test_kernel_functions_work_inside_jit():
    net, _, params, x, _ = problem()
    inside = jax.jit(lambda p, x: nqm.empirical_ntk(net, p, x))(params, x)
    np.testing.assert_allclose(inside, nqm.empirical_ntk(net, params, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("call", [nqm.empirical_ntk, nqm.top_eigenpairs])
@pytest.mark.parametrize(
    ("params", "x", "error", "message"),
    [
        (None, jnp.ones((2, 5)), ValueError, r"x of shape \(2, 5\) does not fit the first weights"),
        (None, jnp.ones((0, 4)), ValueError, "is empty"),
        (None, jnp.full((2, 4), jnp.inf), ValueError, "must be finite"),
        (None, jnp.ones(4), ValueError, r"x must have shape \(n, d\)"),
        (None, "images", TypeError, "must be an array of numbers"),
        (None, [[1.0], [2.0, 3.0]], ValueError, "must be an array of numbers"),
        (None, jnp.ones((2, 4)) * 1j, TypeError, "must be real"),
        ([jnp.full(3, jnp.nan)], jnp.ones((2, 4)), ValueError, "params must be finite"),
        ([], jnp.ones((2, 4)), ValueError, "params holds no arrays"),
    ],
)
def test_bad_kernel_arguments_are_refused(call, params, x, error, message):
    net = networks.two_layer_fc(6)
    params = net.init(jax.random.key(0), (2, 4)) if params is None else params
    with pytest.raises(error, match=message):
        call(net, params, x)


def test_second_inputs_are_checked_too():
    net, _, params, x, _ = problem()
    with pytest.raises(ValueError, match=r"x of shape \(2, 3\) does not fit"):
        nqm.empirical_ntk(net, params, x, jnp.ones((2, 3)))


@pytest.mark.parametrize(("k", "error"), [(0, ValueError), (6, ValueError), (1.5, ValueError), ("2", TypeError)])
def test_impossible_numbers_of_eigenpairs_are_refused(k, error):
    net, _, params, x, _ = problem(n=5)
    with pytest.raises(error, match="k must be"):
        nqm.top_eigenpairs(net, params, x, k)


@pytest.mark.parametrize(
    ("kernel", "options", "message"),
    [
        (np.ones((2, 3)), {}, r"kernel must have shape \(n, n\).*got \(2, 3\)"),
        (np.ones(4), {}, "got \\(4,\\)"),
        (np.ones((2, 2, 2, 3)), {}, r"got \(2, 2, 2, 3\)"),
        (np.empty((0, 0)), {}, "non-empty"),
        (np.full((2, 2), np.nan), {}, "NaN"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), {}, "symmetric"),
        (
            np.eye(2),
            {"loss": "cross_entropy"},
            "loss 'cross_entropy' has no fixed critical learning rate.*gauss_newton_sharpness",
        ),
        (np.eye(2), {"k": 3}, "k must be at most the number of eigenvalues, 2; got 3"),
        (np.eye(2), {"k": 0}, "k must be a whole number >= 1; got 0"),
    ],
)
def test_bad_kernels_are_refused(kernel, options, message):
    with pytest.raises(ValueError, match=message):
        nqm.critical_learning_rate(kernel, **options)


@pytest.mark.parametrize(
    ("y", "message"), [(jnp.ones((4, 1)), r"y must have shape \(5, 1\); got \(4, 1\)"), (jnp.ones((5, 2)), "got")]
)
def test_targets_that_do_not_match_are_refused(y, message):
    net, params0, params, x, _ = problem()
    with pytest.raises(ValueError, match=message):
        nqm.sharpness(net, params, x, y)
    with pytest.raises(ValueError, match=message):
        nqm.kernel_step(net, params0, params, x, y, 0.1)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_rates_of_a_kernel_step_are_refused(rate):
    net, params0, params, x, y = problem()
    with pytest.raises(ValueError, match="learning_rate must be a positive finite number"):
        nqm.kernel_step(net, params0, params, x, y, rate)


def test_sharpness_refuses_an_unknown_loss():
    net, _, params, x, y = problem()
    with pytest.raises(ValueError, match="loss must be one of"):
        nqm.sharpness(net, params, x, y, "huber")
