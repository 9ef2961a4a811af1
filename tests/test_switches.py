"""JAX's own switches leave results alone: every public function that computes with JAX, under each of them."""

import contextlib

import jax
import numpy as np
import optax
import pytest

import nqm_tools as nqm


@contextlib.contextmanager
def every_check():
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
        jax.debug_infs(True),
        jax.checking_leaks(),
    ):
        yield


N, D, M = 3, 2, 4
NET = nqm.networks.two_layer_fc(M, activation="tanh")
KEYS = jax.random.split(jax.random.key(0), 3)
X = jax.random.normal(KEYS[0], (N, D))
Y = np.array([1.0, -1.0, 1.0])
PARAMS, ELSEWHERE = (NET.init(key, X.shape) for key in KEYS[1:])
DATA = nqm.Data("own", np.asarray(X), Y, np.asarray(X) + 0.5, Y)


def own(params, x):
    """A function of the user's, as careful as the switches want it."""
    (a,), (b,) = jax.tree.leaves(params)[:1], jax.tree.leaves(params)[1:]
    return jax.nn.sigmoid(x @ a) @ b


def trained(model, **options):
    options = {"learning_rate": 0.1, "steps": 3, "params": PARAMS} | options
    run = nqm.train(model, DATA, **options)
    columns = [np.asarray(values) for name, values in run.records.items() if name != "sharpness_error"]
    return [run.losses, *columns, *jax.tree.leaves(run.params)]


def saved(tmp_path):
    run = nqm.train(NET, DATA, learning_rate=0.1, steps=2, params=PARAMS, save=tmp_path / "run.npz")
    return [run.losses, *jax.tree.leaves(nqm.Run.load(tmp_path / "run.npz").params)]


def swept(tmp_path):
    sweep = nqm.sweeps.Sweep(
        data={"name": "gaussians_1d", "n_train": 3}, network={"name": "two_layer_fc", "width": 3}, learning_rates=[0.5],
        steps=2, record=["lambda_1"],
    )  # fmt: skip
    return [nqm.sweeps.run(sweep, tmp_path / "store", say=lambda line: None)["final_loss"].to_numpy()]


EVERYTHING = ("test_loss", "distance", "lambda_1", "projection_1", "followed_1", "R_f", "R_K", "trace", "weight_norm")
IMAGES = jax.random.normal(jax.random.key(5), (2, 3, 3, 1))
CNN = nqm.networks.two_layer_cnn(2)
DIAGONAL = nqm.quadratic.diagonal(0.1)
WORK = {
    "a network's draw": lambda tmp_path: jax.tree.leaves(NET.init(jax.random.key(3), X.shape)),
    "a convolution": lambda tmp_path: [CNN(CNN.init(jax.random.key(0), IMAGES.shape), IMAGES)],
    "f_lin": lambda tmp_path: [nqm.linearize(NET, PARAMS)(ELSEWHERE, X)],
    "f_quad": lambda tmp_path: [nqm.quadraticize(own, PARAMS)(ELSEWHERE, X)],
    "second_order_term": lambda tmp_path: [nqm.second_order_term(NET, PARAMS, ELSEWHERE, X)],
    "remainder": lambda tmp_path: [nqm.remainder(own, PARAMS, ELSEWHERE, X)],
    "empirical_ntk": lambda tmp_path: [nqm.empirical_ntk(NET, PARAMS, X), nqm.empirical_ntk(own, PARAMS, X, X[:2])],
    "top_eigenpairs": lambda tmp_path: [nqm.top_eigenpairs(own, PARAMS, X, 2)[0]],
    "critical_learning_rate": lambda tmp_path: [nqm.critical_learning_rate(nqm.empirical_ntk(NET, PARAMS, X))],
    "kernel_step": lambda tmp_path: list(nqm.kernel_step(NET, PARAMS, ELSEWHERE, X, Y, 0.1)),
    "sharpness": lambda tmp_path: [nqm.sharpness(own, PARAMS, X, Y, "logistic")],
    "gauss_newton_sharpness": lambda tmp_path: [nqm.curvature.gauss_newton_sharpness(NET, PARAMS, X, Y)],
    "train f": lambda tmp_path: trained(NET, record=EVERYTHING),
    "train f of the user's": lambda tmp_path: trained(own, record=("lambda_1", "sharpness"), loss="logistic"),
    "train f_lin": lambda tmp_path: trained(nqm.linearize(own, PARAMS), record=EVERYTHING, batch_size=2, momentum=0.5),
    "train f_quad": lambda tmp_path: trained(nqm.quadraticize(own, PARAMS), record=EVERYTHING),
    "train by adam": lambda tmp_path: trained(NET, optimizer=optax.adam, loss=lambda p, y: ((p - y) ** 4).sum(axis=1)),
    "train by a schedule": lambda tmp_path: trained(NET, learning_rate=lambda step: 0.1 / (1 + step)),
    "train a general model": lambda tmp_path: trained(DIAGONAL, params=None, record=("lambda_1",)),
    "a run that diverges": lambda tmp_path: trained(nqm.quadraticize(NET, PARAMS), learning_rate=1e4, steps=20),
    "max_stable_learning_rate": lambda tmp_path: list(
        nqm.max_stable_learning_rate(NET, DATA, params=PARAMS, steps=4, tolerance=0.5)
    ),
    "Run.save": saved,
    "sweeps.run": swept,
    "datasets": lambda tmp_path: [nqm.datasets.gaussians_1d(4, seed=0).x_train],
    "exact_map": lambda tmp_path: list(nqm.quadratic.exact_map(DIAGONAL, X[:1])),
    "dynamics": lambda tmp_path: [nqm.dynamics.final_v(2.5), *nqm.dynamics.one_example_step((0.1, 2.0), 0.1, 0.01)],
}


def check(tmp_path, work, switch):
    for folder in ("plain", "switched"):
        (tmp_path / folder).mkdir()
    expected = work(tmp_path / "plain")
    with switch():
        found = work(tmp_path / "switched")
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_results_are_the_same_under_every_check(tmp_path, work):
    check(tmp_path, work, every_check)


@pytest.mark.parametrize("name", ["f_quad", "top_eigenpairs", "train f of the user's", "a run that diverges"])
def test_results_are_the_same_where_nothing_is_compiled(tmp_path, name):
    check(tmp_path, WORK[name], jax.disable_jit)
