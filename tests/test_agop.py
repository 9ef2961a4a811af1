"""Average gradient outer products, alignment, feature matrices and kernel machines, against formulas written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from jax.flatten_util import ravel_pytree
from sklearn.gaussian_process.kernels import RBF, Matern

import nqm_tools as nqm
from nqm_tools import features, networks
from nqm_tools.features import _agop


def written_out(f, params, x, centred=False):
    """The AGOP by a loop over examples, with derivatives forward."""
    each = jax.jit(jax.vmap(jax.jacfwd(lambda z: f(params, z[None])[0])))(jnp.asarray(x))
    jacobians = np.array(each).reshape(*each.shape[:2], -1)
    if centred:
        jacobians -= jacobians.mean(axis=0)
    return sum(rows.T @ rows for rows in jacobians) / len(x)


def a_case(outputs, shape, activation="swish"):
    keys = jax.random.split(jax.random.key(outputs), 3)
    x = jax.random.normal(keys[0], (5, *shape))
    build = networks.two_layer_cnn if len(shape) == 3 else networks.two_layer_fc
    net = build(6, activation=activation, outputs=outputs)
    start = net.init(keys[1], x.shape)
    params = jax.tree.map(lambda w: w + 0.3 * jax.random.normal(keys[2], w.shape), start)
    return net, start, params, x


@pytest.mark.parametrize(("outputs", "shape"), [(1, (4,)), (3, (4,)), (3, (3, 2, 2))])
def test_the_agop_is_the_mean_of_outer_products_in_any_tiles(x64, outputs, shape):
    net, start, params, x = a_case(outputs, shape)
    for model, centred, memory in ((net, False, 1.0), (net, True, 2e9), (nqm.quadraticize(net, start), True, 1.0)):
        found = nqm.agop(model, params, x, centred=centred, memory=memory)
        np.testing.assert_allclose(found, written_out(model, params, x, centred), rtol=1e-10, atol=1e-12)
    rows = features.agop_root(net, params, x)
    assert rows.shape == (5 * outputs, x[0].size)
    np.testing.assert_allclose(rows.T @ rows, written_out(net, params, x), rtol=1e-10, atol=1e-12)


def test_tiles_that_do_not_fill_up_are_counted_once(x64, monkeypatch):
    net, _, params, x = a_case(1, (4,))
    whole = nqm.agop(net, params, x)
    for size in (2, 3, 5):
        monkeypatch.setattr(_agop, "examples_at_once", lambda *_, size=size: size)
        np.testing.assert_allclose(nqm.agop(net, params, x), whole, rtol=1e-12)


def test_the_agop_of_functions_of_the_users(x64):
    x = np.random.default_rng(0).normal(size=(7, 3))
    product = nqm.agop(lambda w, x: w * x[:, 0] * x[:, 1], jnp.array(2.0), x)
    rows = 2 * np.stack([x[:, 1], x[:, 0], 0 * x[:, 0]], axis=1)
    np.testing.assert_allclose(product, rows.T @ rows / 7, rtol=1e-12)


@pytest.mark.parametrize("sizes", [(4, 4), (2, 4), (4, 3), (1, 2)])
def test_the_alignment_is_the_cosine_of_matrices_and_of_roots(sizes):
    rng = np.random.default_rng(1)
    rows = [rng.normal(size=(size, 4)) for size in sizes]
    a, b = (r.T @ r for r in rows)
    expected = np.trace(a.T @ b) / np.linalg.norm(a) / np.linalg.norm(b)
    # A square array is a matrix.
    given = [r if len(r) < 4 else m for r, m in zip(rows, (a, b), strict=True)]
    for one, other in (given, given[::-1], (a, b)):
        assert nqm.agop_alignment(one, other) == pytest.approx(expected, rel=1e-10)
    assert nqm.agop_alignment(a, 3 * a) == pytest.approx(1, rel=1e-12)
    projector = np.diag([1.0, 1.0, 0, 0])
    assert nqm.agop_alignment(np.eye(4), projector) == pytest.approx(np.sqrt(2 / 4), rel=1e-12)


@pytest.mark.parametrize("n", [3, 30])
def test_the_alignment_inside_jax_makes_no_square_matrix_of_few_gradients(x64, n):
    net, _, params, _ = a_case(2, (20,))
    x = jax.random.normal(jax.random.key(5), (n, 20))
    params = net.init(jax.random.key(6), x.shape)
    reference = np.diag(np.arange(20.0))
    model = nqm.linearize(net, params)
    found = _agop.alignment_of(model, params, x, jnp.asarray(reference))
    assert float(found) == pytest.approx(nqm.agop_alignment(written_out(net, params, x), reference), rel=1e-10)
    traced = jax.make_jaxpr(lambda x: _agop.alignment_of(model, params, x, jnp.asarray(reference[:3])))(x)
    assert ("20,20]" not in str(traced)) == (n * 2 < 20)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_agop_of_a_layer_is_that_of_the_network_from_there_on(x64, outputs):
    net = networks.deep_fc(5, depth=3, activation="tanh", outputs=outputs)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    params = net.init(jax.random.key(1), x.shape)
    first, second, third = jax.tree.leaves(params)
    if outputs == 1:
        np.testing.assert_allclose(features.layer_agop(net, params, x, 1), nqm.agop(net, params, x), rtol=1e-12)
    hidden = jnp.tanh(x @ first / np.sqrt(3))
    np.testing.assert_allclose(
        features.layer_agop(net, params, x, 2),
        written_out(lambda p, h: jnp.tanh(h @ second / np.sqrt(5)) @ third / np.sqrt(5), params, hidden),
        rtol=1e-10,
    )
    np.testing.assert_allclose(features.layer_agop(net, params, x, 3), third @ third.T / 5, rtol=1e-10)


def test_the_neural_feature_matrix_is_that_of_the_weights_and_of_their_change(x64):
    _, start, params, _ = a_case(1, (3, 2, 2))
    w, w0 = (np.asarray(jax.tree.leaves(p)[0]).reshape(18, 6) for p in (params, start))
    np.testing.assert_allclose(features.neural_feature_matrix(params), w @ w.T, rtol=1e-10)
    np.testing.assert_allclose(
        features.neural_feature_matrix(params, 1, start=start), (w - w0) @ (w - w0).T, rtol=1e-10, atol=1e-12
    )
    v = np.asarray(jax.tree.leaves(params)[1])
    np.testing.assert_allclose(features.neural_feature_matrix(params, 2), v @ v.T, rtol=1e-10)


def test_the_correlation_is_pearsons_of_a_power():
    rng = np.random.default_rng(2)
    (a, b), third = (m @ m.T for m in rng.normal(size=(2, 4, 4))), 1 / 3
    cube = b @ b @ b
    assert features.feature_correlation(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], rel=1e-10)
    assert features.feature_correlation(b, cube, third) == pytest.approx(1, rel=1e-10)
    assert features.feature_correlation(a, cube, power=third) == pytest.approx(features.feature_correlation(a, b))
    shifted = a + 5 * np.ones((4, 4))
    assert features.feature_correlation(shifted, b) == pytest.approx(features.feature_correlation(a, b))
    assert nqm.agop_alignment(shifted, b) != pytest.approx(nqm.agop_alignment(a, b), rel=1e-3)


def test_catapults_start_above_the_rise_and_end_back_below():
    losses = [1.0, 0.5, 0.51, 0.8, 2.0, 0.9, 0.55, 0.3, 0.2, 0.34, 0.1, 0.1, 9.0]
    found = nqm.catapults(losses)
    # 0.8 > 1.5 * 0.5 + 0.02, over below 1.1 * 0.5 + 0.01; 0.34 > 1.5 * 0.2 + 0.02; the last one is not over.
    assert found == (3, (3, 9, 12), (2.0, 0.34, 9.0))
    assert nqm.catapults(losses, rise=1.8).starts == (4, 12)
    assert nqm.catapults(losses, rise=100).count == 0
    assert nqm.catapults([1.0, 1e-6, 1e-2, 1e-6]).count == 0, "noise at a tiny loss"
    assert nqm.catapults([1.0, 5.0, np.inf]) == (1, (1,), (np.inf,))
    assert nqm.catapults([1.0, 5.0, np.nan]).peaks == (np.inf,)
    assert nqm.catapults(np.exp(-np.arange(50.0))).count == 0


# Recursive feature machines.


@functools.cache
def machine(kernel, **options):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    return x, y, nqm.recursive_feature_machine(x, y, kernel=kernel, bandwidth=2.0, iterations=2, **options)


ORACLES = {"laplace": Matern(2.0, nu=0.5), "gaussian": RBF(2.0)}


@pytest.mark.parametrize("kernel", ORACLES)
def test_the_machine_is_kernel_regression_in_coordinates_of_its_features(kernel):
    x, y, found = machine(kernel)
    root = np.linalg.cholesky(found.feature_matrix)
    points = np.random.default_rng(4).normal(size=(6, 4))
    alpha = np.linalg.solve(ORACLES[kernel](x @ root) + 1e-3 * np.eye(30), y)
    np.testing.assert_allclose(found.coefficients, alpha, rtol=1e-9)
    np.testing.assert_allclose(found(points), ORACLES[kernel](points @ root, x @ root) @ alpha, rtol=1e-9)
    np.testing.assert_allclose(found(x), ORACLES[kernel](x @ root) @ alpha, rtol=1e-9)


@pytest.mark.parametrize("kernel", ORACLES)
def test_its_agop_is_that_of_autodiff_without_the_term_of_the_point_itself(x64, kernel):
    x, _, found = machine(kernel)
    matrix, alpha = jnp.asarray(found.feature_matrix), jnp.asarray(found.coefficients)

    def predict(point, keep):
        moved = jnp.where(keep[:, None], point - x, 1.0)
        square = ((moved @ matrix) * moved).sum(axis=1)
        values = jnp.exp(-jnp.sqrt(square) / 2.0) if kernel == "laplace" else jnp.exp(-square / 8.0)
        return (values * keep) @ alpha

    jacobians = jax.jit(jax.vmap(jax.jacrev(predict)))(jnp.asarray(x), ~jnp.eye(30, dtype=bool))
    np.testing.assert_allclose(found.agop(), np.einsum("nko,nkp->op", jacobians, jacobians) / 30, rtol=1e-10)
    elsewhere = np.random.default_rng(4).normal(size=(6, 4))
    jacobians = jax.jit(jax.vmap(jax.jacrev(predict)))(jnp.asarray(elsewhere), jnp.ones((6, 30), bool))
    np.testing.assert_allclose(found.agop(elsewhere), np.einsum("nko,nkp->op", jacobians, jacobians) / 6, rtol=1e-10)


def test_each_iteration_takes_the_agop_of_the_one_before():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    plain = nqm.recursive_feature_machine(x, y, iterations=0)
    np.testing.assert_array_equal(plain.feature_matrix, np.eye(3))
    G = plain.agop()
    values, vectors = np.linalg.eigh(G)
    half = (vectors * np.sqrt(values)) @ vectors.T
    for power, matrix in ((1.0, G), (0.5, half)):
        for normalise, expected in (
            ("none", matrix),
            ("max", matrix / matrix.max()),
            ("trace", 3 * matrix / np.trace(matrix)),
        ):
            once = nqm.recursive_feature_machine(x, y, iterations=1, power=power, normalise=normalise)
            np.testing.assert_allclose(once.feature_matrix, expected, rtol=1e-9, atol=1e-12)


def test_the_history_is_of_each_iterations_machine():
    data = nqm.datasets.multi_index("x1x2", 5, n_train=100, n_test=100, seed=0)
    x, y, test = data.x_train, data.y_train, (data.x_test, data.y_test)
    found = nqm.recursive_feature_machine(x, y, iterations=2, test=test, reference=data.agop)
    for iteration, row in found.history.iterrows():
        alone = nqm.recursive_feature_machine(x, y, iterations=iteration)
        assert row["iteration"] == iteration
        assert row["train_loss"] == pytest.approx(np.mean((alone(x) - y) ** 2), rel=1e-9)
        assert row["test_loss"] == pytest.approx(np.mean((alone(data.x_test) - data.y_test) ** 2), rel=1e-9)
        assert row["agop_alignment"] == pytest.approx(nqm.agop_alignment(alone.agop(), data.agop), rel=1e-9)
    assert found.history["test_loss"].iloc[-1] < found.history["test_loss"].iloc[0] / 2
    assert list(nqm.recursive_feature_machine(x, y, iterations=0).history) == ["iteration", "train_loss"]


def test_a_point_given_twice_has_no_slope_of_its_own():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(8, 3))
    twice = np.concatenate([x, x])
    y = rng.normal(size=8)
    once = nqm.recursive_feature_machine(x, y, iterations=0, ridge=1e-3)
    both = nqm.recursive_feature_machine(twice, np.tile(y, 2), iterations=0, ridge=2e-3)
    np.testing.assert_allclose(both.agop(), once.agop(), rtol=1e-8)


# Data with a known AGOP.

WRITTEN = {
    "x1x2": lambda z: z[0] * z[1],
    "x1x2x3": lambda z: z[0] * z[1] * z[2],
    "he2": lambda z: (z[0] ** 2 - 1) / np.sqrt(2),
    "relu": lambda z: jax.nn.relu(z[0]),
}


def deviations(spectrum, d):
    variances = np.arange(1.0, d + 1) ** -spectrum
    return np.sqrt(d * variances / variances.sum())


@pytest.mark.parametrize("target", WRITTEN)
@pytest.mark.parametrize("spectrum", [0.0, 1.5])
def test_the_exact_agop_is_the_mean_of_gradients_over_many_draws(x64, target, spectrum):
    data = nqm.datasets.multi_index(target, 5, n_train=100_000, spectrum=spectrum, seed=7)
    scale = deviations(spectrum, 5)
    np.testing.assert_allclose(data.x_train.std(axis=0), scale, rtol=0.01)
    values, gradients = jax.vmap(jax.value_and_grad(lambda x: WRITTEN[target](x / scale)))(data.x_train)
    np.testing.assert_allclose(data.y_train[:, 0], values, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(data.agop, gradients.T @ gradients / len(values), rtol=0.03, atol=0.02)
    if target != "relu":
        assert data.y_train.mean() == pytest.approx(0, abs=0.02)
        assert data.y_train.var() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("target", "eigenvalues"), [("x1x2", [-0.5, 0.5]), ("he2", [0.5**0.5])])
def test_the_exact_agop_of_several_tasks_is_that_of_their_quadratic_forms(x64, target, eigenvalues):
    """Which regression on all products of two inputs finds without an error."""
    data = nqm.datasets.multi_index(target, 5, n_train=60, spectrum=0.7, outputs=3, subspace=4, seed=2)
    scale = deviations(0.7, 5)
    z, (i, j) = data.x_train / scale, np.triu_indices(5)
    columns = np.concatenate([z[:, i] * z[:, j], np.ones((60, 1))], axis=1)
    found, *_ = np.linalg.lstsq(columns, data.y_train, rcond=None)
    total = np.zeros((5, 5))
    for task in found.T:
        form = np.zeros((5, 5))
        form[i, j] = task[:-1]
        form = (form + form.T) / 2
        np.testing.assert_allclose(form[4], 0, atol=1e-10)
        values = np.linalg.eigvalsh(form)
        np.testing.assert_allclose(values[np.abs(values) > 1e-8], eigenvalues, rtol=1e-8)
        total += 4 * form @ form / np.outer(scale, scale)
    np.testing.assert_allclose(data.agop, total, rtol=1e-8, atol=1e-10)


def test_a_single_target_is_of_the_first_inputs_and_seeds_are_draws():
    data = nqm.datasets.multi_index("x1x2x3", 6, n_train=9, n_test=4, seed=3)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        np.testing.assert_allclose(y[:, 0], x[:, 0] * x[:, 1] * x[:, 2], rtol=1e-5)
    np.testing.assert_array_equal(data.agop, np.diag([1, 1, 1, 0, 0, 0]))
    assert data.provenance["target"] == "x1x2x3"
    other = nqm.datasets.multi_index("x1x2x3", 6, n_train=9, n_test=4, seed=4)
    assert not (other.x_train == data.x_train).any()


# Recorded along runs.


def vector(row, name, size):
    """A recorded vector; the frame's columns are in the order of their names."""
    return row[[f"{name}_{i + 1}" for i in range(size)]].to_numpy(float)


def test_the_recorded_alignment_is_that_of_the_parameters_of_its_row(x64):
    data = nqm.datasets.multi_index("x1x2", 5, n_train=12, n_test=7, seed=0)
    net = networks.two_layer_fc(16, activation="swish")
    params = net.init(jax.random.key(0), data.x_train.shape)
    model = nqm.quadraticize(net, params)
    run = nqm.train(model, data, params=params, learning_rate=0.5, steps=3, record="agop_alignment")
    expected = nqm.agop_alignment(written_out(model, run.params, data.x_test), data.agop)
    assert run.frame["agop_alignment"].iloc[-1] == pytest.approx(expected, rel=1e-9)
    assert run.frame["agop_alignment"].nunique() == 4


# A network in closed form, and a function as it is.
KINDS = {"mse": lambda net: net, "half_sum": lambda net: lambda p, x: net(p, x)}


@pytest.mark.parametrize(("batches", "loss", "rate"), [("epochs", "mse", 2.0), ("iid", "half_sum", 0.4)])
def test_the_recorded_batch_is_the_one_that_the_step_takes(x64, batches, loss, rate):
    data = nqm.datasets.multi_index("x1x2", 3, n_train=9, seed=0)
    net = networks.two_layer_fc(8, activation="tanh")
    params = net.init(jax.random.key(0), data.x_train.shape)
    model, (flat, back) = KINDS[loss](net), ravel_pytree(params)
    keep = {"rows": lambda now: now.batch, "weights": lambda now: ravel_pytree(now.params)[0]}
    options = dict(params=params, learning_rate=rate, steps=2, batch_size=4, batches=batches, loss=loss, seed=3)
    frame = nqm.train(model, data, record=("batch_critical_ratio", "batch_loss_ratio", keep), **options).frame
    factor, weight = (1, 1 / 4) if loss == "mse" else (1 / 2, 1)

    @jax.jit
    def written(flat, x, y):
        outputs, jacobian = net(back(flat), x)[:, 0], jax.jacfwd(lambda w: net(back(w), x)[:, 0])(flat)
        return factor * weight * jnp.sum((outputs - y) ** 2), jnp.linalg.eigvalsh(jacobian @ jacobian.T)[-1]

    for t in range(2):
        rows = vector(frame.loc[t], "rows", 4).astype(int)
        here, there = (vector(frame.loc[s], "weights", len(flat)) for s in (t, t + 1))
        x, y = data.x_train[rows], data.y_train[rows, 0]
        before, largest, after, _ = map(float, (*written(here, x, y), *written(there, x, y)))
        assert frame.loc[t, "batch_critical_ratio"] == pytest.approx(rate * factor * weight * largest, rel=1e-9)
        assert frame.loc[t, "batch_loss_ratio"] == pytest.approx(after / before, rel=1e-8)


def test_of_gradient_descent_the_batch_is_everything(x64):
    data = nqm.datasets.multi_index("x1x2", 3, n_train=9, seed=0)
    net = networks.two_layer_fc(8)
    params = net.init(jax.random.key(0), data.x_train.shape)
    critical = nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train))
    record = ("batch_critical_ratio", "batch_loss_ratio")
    frame = nqm.train(net, data, params=params, learning_rate=0.7 * critical, steps=3, record=record).frame
    assert frame["batch_critical_ratio"][0] == pytest.approx(0.7, rel=1e-9)
    losses = frame["train_loss"].to_numpy()
    np.testing.assert_allclose(frame["batch_loss_ratio"][:3], losses[1:] / losses[:-1], rtol=1e-9)


def test_a_sweep_knows_the_data_and_counts_catapults(tmp_path):
    sweep = nqm.sweeps.Sweep(
        data={"name": "multi_index", "n_train": 40, "n_test": 20, "dimension": 8},
        network={"name": "two_layer_fc", "width": 64},
        learning_rates=[0.5, 1.4],
        models=["f"],
        steps=60,
        record=["test_loss", "agop_alignment"],
        record_every=30,
    )
    assert sweep.data[0]["target"] == "x1x2"
    frame = nqm.sweeps.run(sweep, tmp_path, say=lambda line: None)
    assert frame["catapults"].tolist() == [0, 1]
    assert frame["regime"].tolist() == ["monotone", "catapult"]
    curves = nqm.sweeps.load_curves(tmp_path)
    assert curves["agop_alignment"].between(0, 1).all()


# What is refused.

X, P, E = np.ones((3, 2)), jnp.ones(2), np.eye(2)
DRAW, LEARN = nqm.datasets.multi_index, nqm.recursive_feature_machine
REFUSED = {
    "x must be floating-point numbers": lambda: nqm.agop(lambda w, x: x @ w, P, np.eye(2, dtype=int)),
    r"x must have shape \(n, d\)": lambda: nqm.agop(lambda w, x: w[0] * x, P, np.ones(3)),
    "centred must be True or False; got 1": lambda: nqm.agop(lambda w, x: x @ w, P, X, centred=1),
    "f must treat its examples independently": lambda: nqm.agop(lambda w, x: (x - x.mean(0)) @ w, P, X[:2] + E),
    "a is zero": lambda: nqm.agop_alignment(0 * E, E),
    r"a must be an AGOP of shape .*; got \(3, 2\)": lambda: nqm.agop_alignment(X, E),
    "a and b must be of the same number of inputs": lambda: nqm.agop_alignment(E, np.eye(3)),
    "a must be symmetric; it differs from its transpose by 1": lambda: nqm.agop_alignment(np.triu(X[:2]), E),
    "a and b must be matrices of one shape": lambda: features.feature_correlation(X[:1], E),
    "a and b must not be constant": lambda: features.feature_correlation(X[:2], E),
    "whose layers are known": lambda: features.layer_agop(lambda p, x: x @ p, P, X, 1),
    "layer must be a whole number <= 1; got 2": lambda: features.neural_feature_matrix([jnp.ones((2, 2))], 2),
    r"must be weights \(in, out\)": lambda: features.neural_feature_matrix([P]),
    r"losses must be one number a step, \(steps,\)": lambda: nqm.catapults([[1.0]]),
    "rise must be above 1.1": lambda: nqm.catapults([1.0], rise=1.05),
    "kernel must be one of 'laplace', 'gaussian'": lambda: LEARN(X, X, kernel="ntk"),
    "normalise must be one of 'trace', 'max', 'none'": lambda: LEARN(X, X, normalise="l2"),
    "the inputs of test must have examples of 2 numbers": lambda: LEARN(X, X, test=(np.ones((2, 3)), E)),
    r"reference must be an AGOP of shape \(2, 2\)": lambda: LEARN(X, X, reference=np.eye(3)),
    "ridge must be larger for these inputs": lambda: LEARN(X, X, ridge=1e-30),
    "y must not be zero": lambda: LEARN(E, np.zeros(2)),
    "target must be one of 'x1x2'": lambda: DRAW("x4", 5, n_train=3, seed=0),
    "dimension must be a whole number >= 3": lambda: DRAW("x1x2x3", 2, n_train=3, seed=0),
    "spectrum must be a number from 0 to 10; got -1": lambda: DRAW("x1x2", 4, n_train=3, spectrum=-1, seed=0),
    "subspace is of several outputs": lambda: DRAW("x1x2", 4, n_train=3, subspace=3, seed=0),
    r"agop must be an AGOP of shape \(2, 2\)": lambda: nqm.Data("own", X, X, agop=np.eye(3)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_is_said(message):
    with pytest.raises((TypeError, ValueError), match=message):
        REFUSED[message]()


def test_what_cannot_be_recorded_is_said():
    net, bare = networks.two_layer_fc(4), nqm.Data("own", X, X[:, :1])
    known = nqm.datasets.multi_index("x1x2", 2, n_train=4, seed=0)
    options = {"learning_rate": 0.1, "steps": 1}
    for data, record, message, more in (
        (bare, "agop_alignment", r"these have none: Data\(agop=...\)", {}),
        (known, "agop_alignment", "over test inputs, and the data have none", {}),
        (known, "batch_critical_ratio", "gradient descent without momentum", {"momentum": 0.5}),
        (known, "batch_loss_ratio", "gradient descent without momentum", {"optimizer": optax.adam}),
        (nqm.Data("own", X, [1, -1, 1]), "batch_critical_ratio", "squared losses", {"loss": "logistic"}),
    ):
        with pytest.raises(ValueError, match=message):
            nqm.train(net, data, record=record, **options, **more)


def test_an_agop_of_a_data_set_is_kept_in_its_precision():
    data = nqm.Data("own", X, X[:, :1], agop=[[1, 0], [0, 2]])
    assert data.agop.dtype == np.float32
    assert nqm.Data("own", X, X[:, :1]).agop is None
    assert isinstance(nqm.recursive_feature_machine(X + np.eye(3, 2), X, iterations=0).history, pd.DataFrame)
