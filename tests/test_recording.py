"""Projections and corrections recorded along a run, against the kernel's exact step and gradient descent by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools import networks

COLUMNS = ("lambda_1", "lambda_2", "projection_1", "projection_2", "R_f", "R_K")


def problem(activation="relu", outputs=1, build=networks.two_layer_fc, shape=(6,)):
    net = build(80, activation=activation, outputs=outputs)
    keys = jax.random.split(jax.random.key(1), 2)
    x = jax.random.normal(keys[0], (5, *shape))
    y = jnp.ones((5, outputs)).at[::2].set(-1.0)
    return net, net.init(keys[1], x.shape), nqm.Data("own", x, y)


def path(model, params, data, rate, steps):
    """Parameters of every step of gradient descent on mse."""
    x, y = jnp.asarray(data.x_train), jnp.asarray(data.y_train)

    @jax.jit
    def step(p):
        return jax.tree.map(
            lambda w, g: w - rate * g, p, jax.grad(lambda q: jnp.sum((model(q, x) - y) ** 2) / len(x))(p)
        )

    points = [params]
    for _ in range(steps):
        points.append(step(points[-1]))
    return points


def matrix(kernel):
    n = kernel.shape[0]
    return np.asarray(kernel if kernel.ndim == 2 else kernel.transpose(0, 2, 1, 3).reshape(n * kernel.shape[2], -1))


def first_eigenvector(kernel):
    vector = np.linalg.eigh(matrix(kernel))[1][:, -1]
    return vector * (-1 if vector.sum() < 0 else 1)


CASES = {
    "relu": {},
    "tanh_outputs": {"activation": "tanh", "outputs": 2},
    "cnn": {"build": networks.two_layer_cnn, "shape": (4, 3, 2)},
    "deep_swish": {"build": networks.deep_fc, "activation": "swish"},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_corrections_of_a_quadratic_model_are_those_of_the_exact_recursion(x64, case):
    net, params, data = problem(**case)
    x, y = data.x_train, data.y_train
    eta = 1.3 * nqm.critical_learning_rate(nqm.empirical_ntk(net, params, x))
    quad = nqm.quadraticize(net, params)
    run = nqm.train(quad, data, learning_rate=eta, steps=12, record=COLUMNS, record_every=6)
    points = path(quad, params, data, eta, 12)
    for row, t in enumerate((0, 6, 12)):
        step = nqm.kernel_step(net, params, points[t], x, y, learning_rate=eta * 2 / 5)
        kernel = nqm.empirical_ntk(quad, points[t], x)
        p = first_eigenvector(kernel)
        residual = np.ravel(quad(points[t], x) - y)
        expected = {
            "projection_1": p @ residual,
            "R_f": p @ matrix(step.R_f) @ p,
            "R_K": p @ matrix(step.R_K) @ p,
            "lambda_1": p @ matrix(kernel) @ p,
        }
        for name, value in expected.items():
            assert run.frame[name][row] == pytest.approx(value, rel=1e-8, abs=1e-12), (name, t)


@pytest.mark.parametrize("loss", ["mse", "half_sum"])
def test_the_corrections_of_a_network_are_what_its_next_step_shows(x64, loss):
    net, params, data = problem(activation="tanh")
    eta = 1.2 * nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train))
    rate = eta if loss == "mse" else eta * 2 / 5
    run = nqm.train(net, data, learning_rate=rate, steps=9, record=COLUMNS, record_every=3, loss=loss)
    points = path(net, params, data, eta, 10)
    run_from_params = nqm.train(
        net, data, learning_rate=rate, steps=9, record=COLUMNS, record_every=3, loss=loss, params=params
    )
    assert run.frame["R_K"][0] != run_from_params.frame["R_K"][0]  # the default start is another draw
    for row, t in enumerate((0, 3, 6, 9)):
        kernels = [matrix(nqm.empirical_ntk(net, points[s], data.x_train)) for s in (t, t + 1)]
        residuals = [np.ravel(net(points[s], data.x_train) - data.y_train) for s in (t, t + 1)]
        p = first_eigenvector(kernels[0])
        ratio = (p @ residuals[1]) / (p @ residuals[0])
        r_f = ratio - 1 + eta * 2 / 5 * (p @ kernels[0] @ p)
        assert run_from_params.frame["R_f"][row] == pytest.approx(r_f, rel=1e-7, abs=1e-10)
        assert run_from_params.frame["R_K"][row] == pytest.approx(p @ (kernels[0] - kernels[1]) @ p, rel=1e-7)


def test_a_linear_model_has_no_corrections(x64):
    net, params, data = problem()
    run = nqm.train(nqm.linearize(net, params), data, learning_rate=0.1, steps=3, record=("R_f", "R_K"))
    np.testing.assert_allclose(run.frame[["R_f", "R_K"]], 0, atol=1e-14)


def test_the_projections_of_all_eigenvectors_give_the_loss(x64):
    net, params, data = problem()
    names = tuple(f"projection_{i}" for i in range(1, 6))
    run = nqm.train(net, data, learning_rate=0.1, steps=20, params=params, record=names)
    np.testing.assert_allclose((run.frame[list(names)] ** 2).sum(axis=1) / 5, run.frame["train_loss"], rtol=1e-12)


def test_more_projections_than_examples_are_refused():
    net, params, data = problem()
    with pytest.raises(ValueError, match="projection_6 asks for more eigenvalues than the kernel has, 5"):
        nqm.train(net, data, learning_rate=0.1, steps=1, params=params, record="projection_6")


def test_followed_eigenvalues_are_those_of_their_directions_also_where_they_cross(x64):
    # One-dimensional inputs: the two eigenvectors are known, and never move (theorem 3 of Zhu et al. 2024).
    data = nqm.datasets.gaussians_1d(16, seed=6)
    net = networks.two_layer_fc(300)
    params = net.init(jax.random.key(1), data.x_train.shape)
    f_quad = nqm.quadraticize(net, params)
    masks = np.stack([data.x_train[:, 0] >= 0, data.x_train[:, 0] < 0])
    directions = masks * data.x_train[:, 0] / np.linalg.norm(masks * data.x_train[:, 0], axis=1)[:, None]
    rate = 1.25 * nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train))
    record = ("lambda_1", "lambda_2", "followed_1", "followed_2")
    record += ({"along": lambda now: jnp.einsum("gi,ij,gj->g", directions, now.kernel, directions)},)
    frame = nqm.train(f_quad, data, learning_rate=rate, steps=60, params=params, record=record).frame
    along = frame[["along_1", "along_2"]].to_numpy()
    first = np.argsort(-along[0])
    np.testing.assert_allclose(frame[["followed_1", "followed_2"]].to_numpy(), along[:, first], rtol=1e-9)
    np.testing.assert_allclose(frame[["lambda_1", "lambda_2"]].to_numpy(), -np.sort(-along, axis=1), rtol=1e-9)
    assert frame["followed_1"].iloc[-1] < frame["followed_2"].iloc[-1], "they crossed"
