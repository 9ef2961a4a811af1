"""Each public function against NumPy, where all derivatives are written out by hand.

The model is ``f(w; x) = sin(x w) M`` with fixed M, whose Jacobian and second derivatives have one line each. What is
known of a name elsewhere is listed with its test, so that a public name added later has to have one.
"""

import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nqm_tools as nqm
from nqm_tools import curvature, datasets, dynamics, expansions, kernels, losses, networks, quadratic
from nqm_tools.training import (
    RECORDERS,
    Method,
    critical_rate,
    initial_kernel,
    prepare,
    train_rates,
)

D, H = 3, 2  # inputs and hidden units: six parameters
MIX = np.array([[1.0, -0.6], [0.4, 0.8]])
FUNCTIONS = {
    1: lambda w, x: jnp.sin(x @ w) @ MIX[:, :1],
    2: lambda w, x: jnp.sin(x @ w) @ MIX,
}
CLOSE = dict(rtol=1e-9, atol=1e-11)


class Written:
    """The model's value, Jacobian and second derivatives at weights (D, H), for ``order`` 1 and 2 those of its
    expansion around ``w0``."""

    def __init__(self, w0, k, order=None):
        self.w0, self.mix, self.k, self.order = w0, MIX[:, :k], k, order

    def _waves(self, w, x):
        """sin and its derivatives in the weights' direction, as the expansion has them: three arrays (n, H)."""
        s0, step = x @ self.w0, x @ (w - self.w0)
        match self.order:
            case None:
                return np.sin(x @ w), np.cos(x @ w), -np.sin(x @ w)
            case 1:
                return np.sin(s0) + np.cos(s0) * step, np.cos(s0), 0 * s0
            case 2:
                first, second = np.cos(s0), -np.sin(s0)
                return np.sin(s0) + first * step + second * step**2 / 2, first + second * step, second

    def value(self, w, x):
        return self._waves(w, x)[0] @ self.mix

    def jacobian(self, w, x):
        """(n k, p)"""
        return np.einsum("nh,nd,hk->nkdh", self._waves(w, x)[1], x, self.mix).reshape(len(x) * self.k, D * H)

    def hessian(self, w, x):
        """(n k, p, p)"""
        parts = np.einsum("nh,nd,ne,hk,hg->nkdheg", self._waves(w, x)[2], x, x, self.mix, np.eye(H))
        return parts.reshape(len(x) * self.k, D * H, D * H)


# Value of each example, gradient (n, k) and curvature (n, k, k) in the outputs, and the weight of an example.
def squared(factor):
    return (
        lambda p, y: factor * ((p - y) ** 2).sum(axis=1),
        lambda p, y: 2 * factor * (p - y),
        lambda p, y: np.broadcast_to(2 * factor * np.eye(p.shape[1]), (*p.shape, p.shape[1])),
    )


def softmax(p):
    e = np.exp(p)
    return e / e.sum(axis=1, keepdims=True)


def sigmoid(p):
    return 1 / (1 + np.exp(-p))


LOSSES = {
    "half_sum": (*squared(0.5), lambda n: 1.0),
    "mse": (*squared(1.0), lambda n: 1 / n),
    "cross_entropy": (
        lambda p, y: -(y * np.log(softmax(p))).sum(axis=1),
        lambda p, y: softmax(p) - y,
        lambda p, y: np.stack([np.diag(q) - np.outer(q, q) for q in softmax(p)]),
        lambda n: 1 / n,
    ),
    "logistic": (
        lambda p, y: np.log(1 + np.exp(-y * p))[:, 0],
        lambda p, y: -y * sigmoid(-y * p),
        lambda p, y: (sigmoid(p) * sigmoid(-p))[:, :, None],
        lambda n: 1 / n,
    ),
}
OUTPUTS = {"half_sum": (1, 2), "mse": (1, 2), "cross_entropy": (2,), "logistic": (1,)}
ORDERS = {"f": None, "f_lin": 1, "f_quad": 2}


@st.composite
def problems(draw, loss="half_sum", n=None):
    k = draw(st.sampled_from(OUTPUTS[loss]))
    n = n or draw(st.sampled_from([1, 4]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x, w0, w = rng.normal(size=(n, D)), rng.normal(size=(D, H)), rng.normal(size=(D, H))
    y = rng.normal(size=(n, k))
    if loss == "logistic":
        y = np.sign(y)
    if loss == "cross_entropy":
        y = np.eye(k)[rng.integers(k, size=n)]
    return FUNCTIONS[k], k, x, y, w0, w


def with_float64(test):
    def run(*args, **kwargs):
        with jax.enable_x64(True):
            return test(*args, **kwargs)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = inspect.signature(test)
    return run


few = settings(max_examples=6, deadline=None)


def make(name, f, w0):
    return {"f": f, "f_lin": nqm.linearize(f, w0), "f_quad": nqm.quadraticize(f, w0)}[name]


def total(loss, prediction, y):
    return LOSSES[loss][3](len(y)) * LOSSES[loss][0](prediction, y).sum()


def gradient(written, loss, w, x, y):
    """Of the loss, in the weights (D, H)."""
    at_outputs = LOSSES[loss][3](len(y)) * LOSSES[loss][1](written.value(w, x), y)
    return (written.jacobian(w, x).T @ at_outputs.ravel()).reshape(D, H)


def second_derivatives(written, loss, w, x, y):
    """The loss's Gauss-Newton matrix and Hessian, (p, p)."""
    n, k = y.shape
    _, slope, curved, weight = LOSSES[loss]
    prediction, jacobian = written.value(w, x), written.jacobian(w, x)
    inner = np.zeros((n * k, n * k))
    for i, block in enumerate(curved(prediction, y)):
        inner[i * k : i * k + k, i * k : i * k + k] = block
    gauss_newton = weight(n) * jacobian.T @ inner @ jacobian
    bent = np.einsum("i,ipq->pq", weight(n) * slope(prediction, y).ravel(), written.hessian(w, x))
    return gauss_newton, gauss_newton + bent


def kernel_of(written, w, x1, x2):
    """(n1, n2, k, k)"""
    product = written.jacobian(w, x1) @ written.jacobian(w, x2).T
    return product.reshape(len(x1), written.k, len(x2), written.k).transpose(0, 2, 1, 3)


def descend(written, loss, w, x, y, rate, steps, momentum=0.0, nesterov=False):
    """Losses and weights of ``steps`` steps; the rate may be a function of the step."""
    lost, weights, velocity = [], [w], np.zeros_like(w)
    for step in range(steps):
        now = rate(step) if callable(rate) else rate
        slope = gradient(written, loss, w, x, y)
        lost.append(total(loss, written.value(w, x), y))
        velocity = momentum * velocity - now * slope
        w = w + (momentum * velocity - now * slope if nesterov else velocity)
        weights.append(w)
    return np.array([*lost, total(loss, written.value(w, x), y)]), weights


@pytest.mark.parametrize("name", ORDERS)
@given(problems())
@few
@with_float64
def test_models_and_their_pullbacks(name, problem):
    f, k, x, y, w0, w = problem
    written = Written(w0, k, ORDERS[name])
    model = expansions.as_model(make(name, f, w0))
    np.testing.assert_allclose(model(w, x), written.value(w, x), **CLOSE)
    features = model.featurize(jnp.asarray(x))
    prediction, pullback = model.value_and_pullback(jnp.asarray(w), features)
    np.testing.assert_allclose(prediction, written.value(w, x), **CLOSE)
    np.testing.assert_allclose(np.ravel(pullback(jnp.asarray(y))), written.jacobian(w, x).T @ y.ravel(), **CLOSE)


@given(problems())
@few
@with_float64
def test_second_order_term_and_remainder(problem):
    f, k, x, _, w0, w = problem
    value, linear, quad = (Written(w0, k, order).value(w, x) for order in (None, 1, 2))
    np.testing.assert_allclose(nqm.second_order_term(f, w0, w, x), quad - linear, **CLOSE)
    np.testing.assert_allclose(nqm.remainder(f, w0, w, x), value - quad, **CLOSE)


@pytest.mark.parametrize("name", ORDERS)
@given(problems(n=4))
@settings(max_examples=4, deadline=None)
@with_float64
def test_kernels_and_eigenpairs(name, problem):
    f, k, x, _, w0, w = problem
    written, model = Written(w0, k, ORDERS[name]), make(name, f, w0)
    expected = kernel_of(written, w, x, x[:2])
    np.testing.assert_allclose(kernels.tangent_kernel(model, w, x, x[:2]), expected, **CLOSE)
    np.testing.assert_allclose(
        nqm.empirical_ntk(model, w, x, x[:2]), expected[:, :, 0, 0] if k == 1 else expected, **CLOSE
    )
    rows = written.jacobian(w, x) @ written.jacobian(w, x).T
    kernel = nqm.empirical_ntk(model, w, x)
    np.testing.assert_allclose(kernels.kernel_matrix(kernel), rows, **CLOSE)
    eigenvalues, eigenvectors = nqm.top_eigenpairs(model, w, x, k=1)
    top = np.linalg.eigvalsh(rows)[-1]
    np.testing.assert_allclose(eigenvalues[0], top, rtol=1e-8)
    np.testing.assert_allclose(rows @ eigenvectors.ravel(), top * eigenvectors.ravel(), rtol=1e-6, atol=1e-6 * top)
    for loss, curved, weight in (("half_sum", 1, 1), ("mse", 2, 1 / len(x))):
        for momentum in (0.0, 0.5):
            found = nqm.critical_learning_rate(kernel, loss, momentum)
            np.testing.assert_allclose(found, 2 * (1 + momentum) / (curved * weight * top), rtol=1e-8)


@given(problems(), st.floats(0.01, 3))
@few
@with_float64
def test_a_kernel_step(problem, rate):
    f, k, x, y, w0, w = problem
    written = Written(w0, k, 2)
    jacobian, r = written.jacobian(w, x), (written.value(w, x) - y).ravel()
    bent = np.einsum("ipq,q->ip", written.hessian(w, x), jacobian.T @ r)
    after = w - rate * (jacobian.T @ r).reshape(D, H)
    step = nqm.kernel_step(f, w0, w, x, y, rate)
    close = dict(rtol=1e-9, atol=1e-9 * (1 + rate**2))
    np.testing.assert_allclose(kernels.kernel_matrix(step.R_f), rate**2 / 2 * bent @ jacobian.T, **close)
    change = rate * (bent @ jacobian.T + jacobian @ bent.T) - rate**2 * bent @ bent.T
    np.testing.assert_allclose(kernels.kernel_matrix(step.R_K), change, **close)
    np.testing.assert_allclose(step.residual, written.value(after, x) - y, **close)
    there = written.jacobian(after, x)
    np.testing.assert_allclose(kernels.kernel_matrix(step.kernel), there @ there.T, **close)


@pytest.mark.parametrize("loss", LOSSES)
@given(data=st.data())
@few
@with_float64
def test_losses(loss, data):
    _, _, _, y, _, _ = data.draw(problems(loss))
    prediction = np.random.default_rng(data.draw(st.integers(0, 2**32))).normal(size=y.shape)
    found = losses.find(loss)
    value, slope, curved, weight = LOSSES[loss]
    np.testing.assert_allclose(found.value(jnp.asarray(prediction), y), value(prediction, y), **CLOSE)
    np.testing.assert_allclose(found.gradient(jnp.asarray(prediction), y), slope(prediction, y), **CLOSE)
    np.testing.assert_allclose(found.curvature(jnp.asarray(prediction), y), curved(prediction, y), **CLOSE)
    np.testing.assert_allclose(found.weight(len(y)), weight(len(y)))
    np.testing.assert_allclose(found.total(jnp.asarray(prediction), y), total(loss, prediction, y), **CLOSE)


@pytest.mark.parametrize("loss", LOSSES)
@given(data=st.data())
@settings(max_examples=4, deadline=None)
@with_float64
def test_sharpnesses(loss, data):
    f, k, x, y, w0, w = data.draw(problems(loss))
    gauss_newton, hessian = second_derivatives(Written(w0, k), loss, w, x, y)
    found = nqm.sharpness(f, w, x, y, loss)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(hessian)[-1], rtol=1e-7, atol=1e-9)
    found = curvature.gauss_newton_sharpness(f, w, x, y, loss)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(gauss_newton)[-1], rtol=1e-7, atol=1e-9)


RULES = {
    "plain": {},
    "momentum": dict(momentum=0.6),
    "Nesterov": dict(momentum=0.6, nesterov=True),
}


@pytest.mark.parametrize(("name", "loss"), [(name, "mse") for name in ORDERS] + [("f", loss) for loss in LOSSES])
@given(data=st.data())
@settings(max_examples=3, deadline=None)
@with_float64
def test_training(name, loss, data):
    f, k, x, y, w0, _ = data.draw(problems(loss, n=4))
    rule, share = data.draw(st.sampled_from(sorted(RULES))), data.draw(st.floats(0.05, 0.5))
    written = Written(w0, k, ORDERS[name])
    # No curvature in the outputs is larger, no Jacobian longer: rounding does not grow with the run.
    largest = {"half_sum": 1, "mse": 2 / len(x)}.get(loss, 0.5 / len(x))
    rate = 2 * share / (largest * (x**2).sum() * np.linalg.norm(MIX, 2) ** 2)
    expected, weights = descend(written, loss, w0, x, y, rate, 12, **RULES[rule])
    run = nqm.train(
        make(name, f, w0), nqm.Data("written", x, y), learning_rate=rate, steps=12, loss=loss, params=w0,
        record=("distance",), **RULES[rule],
    )  # fmt: skip
    np.testing.assert_allclose(run.losses, expected[: len(run.losses)], rtol=1e-8, atol=1e-12)
    # A quadratic model may diverge, and only then does a run stop early.
    assert len(run.losses) == len(expected) or not np.isfinite(expected[len(run.losses) - 1])
    np.testing.assert_allclose(run.params, weights[len(run.losses) - 1], rtol=1e-8, atol=1e-10)
    distances = [np.linalg.norm(w - w0) for w in weights[: len(run.losses)]]
    np.testing.assert_allclose(run.records["distance"], distances, rtol=1e-8, atol=1e-10)
    problem = prepare(make(name, f, w0), nqm.Data("written", x, y), Method(12, loss=loss), params=w0)
    np.testing.assert_allclose(initial_kernel(problem), kernel_of(Written(w0, k), w0, x, x), **CLOSE)
    gauss_newton, _ = second_derivatives(written, loss, w0, x, y)
    np.testing.assert_allclose(critical_rate(problem), 2 / np.linalg.eigvalsh(gauss_newton)[-1], rtol=1e-7)


@given(problems(n=4), st.floats(0.02, 0.2))
@settings(max_examples=4, deadline=None)
@with_float64
def test_schedules_and_several_rates(problem, rate):
    f, k, x, y, w0, _ = problem
    data, written = nqm.Data("written", x, y), Written(w0, k)
    falling = nqm.train(f, data, learning_rate=lambda t: rate / (1 + t), steps=6, loss="half_sum", params=w0, record=())
    expected, _ = descend(written, "half_sum", w0, x, y, lambda t: rate / (1 + t), 6)
    np.testing.assert_allclose(falling.losses, expected[: len(falling.losses)], rtol=1e-8, atol=1e-12)
    method = Method(6, loss="half_sum", record=())
    runs = train_rates(prepare(f, data, method, params=w0), [rate, 2 * rate], method, progress=False)
    for run, one in zip(runs, (rate, 2 * rate), strict=True):
        expected, _ = descend(written, "half_sum", w0, x, y, one, 6)
        np.testing.assert_allclose(run.losses, expected[: len(run.losses)], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ORDERS)
@given(problems(n=4), st.floats(0.02, 0.2))
@settings(max_examples=1, deadline=None)
@with_float64
def test_recorded_quantities(name, problem, rate):
    f, k, x, y, w0, _ = problem
    written = Written(w0, k, ORDERS[name])
    data = nqm.Data("written", x, y, x[:2] + 0.1, y[:2])
    # Left out: what is of the package's networks, of kinks, of one output, or of data with an AGOP of their own.
    left_out = r"sparsity|followed_([2-9]|\d\d)|flipped_gates|kernel_norm_exact|agop_alignment"
    record = [column for column in RECORDERS if not re.match(left_out, column)]
    # The kernel has as many eigenvalues as rows.
    numbers = {column: re.search(r"_(\d+)$", column) for column in record}
    record = [column for column in record if not numbers[column] or int(numbers[column][1]) <= len(x) * k]
    run = nqm.train(
        make(name, f, w0), data, learning_rate=rate, steps=3, loss="half_sum", params=w0, record=tuple(record)
    )
    _, weights = descend(written, "half_sum", w0, x, y, rate, 3)
    for row, w in enumerate(weights[: len(run.losses)]):
        jacobian, r = written.jacobian(w, x), (written.value(w, x) - y).ravel()
        after = w - rate * (jacobian.T @ r).reshape(D, H)
        eigenvalues, vectors = np.linalg.eigh(jacobian @ jacobian.T)
        eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
        p = vectors[:, 0]
        R_f = p @ (written.value(after, x) - y).ravel() / (p @ r) - 1 + rate * eigenvalues[0]
        if name != "f":
            bent = np.einsum("ipq,q->ip", written.hessian(w, x), jacobian.T @ r)
            R_f = rate**2 / 2 * (p @ bent) @ (jacobian.T @ p)
        expected = {
            "test_loss": total("half_sum", written.value(w, x[:2] + 0.1), y[:2]),
            "test_accuracy": np.nan,  # targets are no labels
            "distance": np.linalg.norm(w - w0),
            "weight_norm": np.linalg.norm(w),
            "path_loss": max(
                total("half_sum", written.value(w0 + share * (w - w0), x), y) for share in np.arange(1, 21) / 20
            ),
            "trace": (jacobian**2).sum(),
            "sharpness": np.linalg.eigvalsh(second_derivatives(written, "half_sum", w, x, y)[1])[-1],
            "R_f": R_f,
            "R_K": p @ (jacobian @ jacobian.T) @ p - ((written.jacobian(after, x).T @ p) ** 2).sum(),
            "followed_1": eigenvalues[0] if row == 0 else None,
        }
        for i, eigenvalue in enumerate(eigenvalues[:8], start=1):
            expected[f"lambda_{i}"] = eigenvalue
            if i == 1:
                expected["projection_1"] = abs(p @ r)
        for column, value in expected.items():
            if value is None or column not in run.records:
                continue
            found = run.records[column][row]
            found = abs(found) if column.startswith("projection") else found
            scale = eigenvalues[0] if column.startswith("lambda") else 1.0
            tolerance = 10 * abs(run.records["sharpness_error"][row]) if column == "sharpness" else 0
            np.testing.assert_allclose(
                found, value, rtol=1e-7, atol=1e-9 * scale + tolerance, err_msg=f"{column}, row {row}"
            )


@given(problems(n=4))
@settings(max_examples=2, deadline=None)
@with_float64
def test_the_largest_stable_rate(problem):
    f, k, x, y, w0, _ = problem
    written = Written(w0, k, 2)
    found = nqm.max_stable_learning_rate(
        nqm.quadraticize(f, w0), nqm.Data("written", x, y), steps=15, loss="half_sum", params=w0, tolerance=0.05
    )

    def diverges(rate):
        with np.errstate(all="ignore"):
            lost, _ = descend(written, "half_sum", w0, x, y, rate, 15)
        return not np.isfinite(lost).all() or nqm.regime(lost) == "divergent"

    assert not diverges(found.stable)
    assert diverges(found.unstable)
    top = np.linalg.eigvalsh(kernel_of(written, w0, x, x).transpose(0, 2, 1, 3).reshape(4 * k, 4 * k))[-1]
    np.testing.assert_allclose(found.critical, 2 / top, rtol=1e-8)


def relu(a):
    return np.maximum(a, 0)


ACTIVATIONS = {"relu": relu, "tanh": np.tanh, "swish": lambda a: a * sigmoid(a)}


@given(
    st.integers(0, 2**31), st.sampled_from(sorted(ACTIVATIONS)), st.integers(1, 2), st.sampled_from(["sign", "normal"])
)
@few
@with_float64
def test_networks(seed, activation, outputs, readout_init):
    options = dict(activation=activation, outputs=outputs, readout_init=readout_init)
    act, rng = ACTIVATIONS[activation], np.random.default_rng(seed)
    x = rng.normal(size=(3, 4))
    for net in (networks.two_layer_fc(5, **options), networks.deep_fc(5, depth=3, **options)):
        params = net.init(jax.random.key(seed), x.shape)
        layers = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
        hidden = x
        for i, weights in enumerate(layers):
            hidden = hidden @ weights / np.sqrt(len(weights))
            hidden = hidden if i == len(layers) - 1 else act(hidden)
        np.testing.assert_allclose(net(params, x), hidden, **CLOSE)
    images = rng.normal(size=(2, 4, 3, 2))
    for readout in ("average", "flatten"):
        net = networks.two_layer_cnn(5, readout=readout, **options)
        params = net.init(jax.random.key(seed), images.shape)
        filters, last = (np.asarray(leaf) for leaf in jax.tree.leaves(params))
        padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # (n, h, w, channels, 3, 3)
        hidden = act(np.einsum("nhwcij,ijcm->nhwm", patches, filters) / np.sqrt(9 * 2))
        hidden = hidden.mean(axis=(1, 2)) if readout == "average" else hidden.reshape(2, -1)
        np.testing.assert_allclose(net(params, images), hidden @ last / np.sqrt(len(last)), **CLOSE)


@given(st.integers(0, 2**31), st.floats(0.05, 2))
@few
@with_float64
def test_general_quadratic_models(seed, gamma):
    rng = np.random.default_rng(seed)
    phi, sigma, w = rng.normal(size=5), rng.normal(size=(5, 5)), rng.normal(size=5)
    x = rng.normal(size=(1, 5))
    symmetric = (sigma + sigma.T) / 2
    model = quadratic.GeneralQuadraticModel(phi, sigma, gamma)
    np.testing.assert_allclose(model(w, x), [[w @ phi + gamma / 2 * w @ symmetric @ w]], **CLOSE)
    slope = phi + gamma * symmetric @ w
    np.testing.assert_allclose(nqm.empirical_ntk(model, w, x), [[slope @ slope]], **CLOSE)


def test_data_sets_by_formula():
    drawn = datasets.gaussians_1d(50, mean=3.0, std=0.5, n_test=20, seed=1)
    assert drawn.x_train.shape == (50, 1)
    assert drawn.x_test.shape == (20, 1)
    z = (drawn.x_train[:, 0] - 3.0 * drawn.y_train[:, 0]) / 0.5
    assert abs(z.mean()) < 4 / np.sqrt(50)
    assert 0.6 < z.std() < 1.5
    one = datasets.single_example(7, label=-2.0, seed=3)
    assert one.x_train.shape == (1, 7)
    np.testing.assert_array_equal(one.y_train, [[-2.0]])


# Public names of the modules that compute, and where each is compared with numbers that are made another way.
MODULES = (
    nqm,
    kernels,
    expansions,
    losses,
    curvature,
    networks,
    quadratic,
    datasets,
    dynamics,
    nqm.features,
    nqm.training,
)
ELSEWHERE = {
    "kernel_norm": "test_batch_noise.py::test_the_exact_form_is_one_where_second_moments_stop_shrinking",
    "stochastic_critical_learning_rate": (
        "test_batch_noise.py::test_the_exact_form_is_one_where_second_moments_stop_shrinking"
    ),
    "agop": "test_agop.py::test_the_agop_is_the_mean_of_outer_products_in_any_tiles",
    "agop_root": "test_agop.py::test_the_agop_is_the_mean_of_outer_products_in_any_tiles",
    "agop_alignment": "test_agop.py::test_the_alignment_is_the_cosine_of_matrices_and_of_roots",
    "layer_agop": "test_agop.py::test_the_agop_of_a_layer_is_that_of_the_network_from_there_on",
    "neural_feature_matrix": "test_agop.py::test_the_neural_feature_matrix_is_that_of_the_weights_and_of_their_change",
    "feature_correlation": "test_agop.py::test_the_correlation_is_pearsons_of_a_power",
    "catapults": "test_agop.py::test_catapults_start_above_the_rise_and_end_back_below",
    "recursive_feature_machine": ("test_agop.py::test_the_machine_is_kernel_regression_in_coordinates_of_its_features"),
    "multi_index": "test_agop.py::test_the_exact_agop_is_the_mean_of_gradients_over_many_draws",
    "diagnose": "test_diagnose.py::test_the_runs_are_gradient_descent_on_each_model",
    "from_flax": "test_adapters.py::test_a_linen_module_is_its_own_call_with_frozen_statistics",
    "from_equinox": "test_adapters.py::test_an_equinox_module_is_its_own_call_over_a_batch_with_frozen_state",
    "hessian_trace": "test_diagnose.py::test_the_numbers_of_the_start",
    "architecture": "test_contracts.py::test_a_new_architecture_is_trained_as_itself",
    "regime": "test_runs.py::test_falling_losses_are_monotone",
    "exact_map": "test_quadratic.py::test_one_example_moves_as_the_exact_map_says",
    "diagonal": "test_quadratic.py::test_the_model_is_its_formula_and_its_training_is_gradient_descent",
    "two_layer_linear": "test_quadratic.py::test_the_two_layer_linear_network_is_a_general_quadratic_model",
    "load": "test_datasets.py::test_all_of_a_set_is_its_two_classes_with_the_first_labelled_plus_one",
    "available": "test_datasets.py::test_available_says_whether_the_files_are_here_and_fetches_nothing",
    "default_classes": "test_datasets.py::test_the_default_classes_are_the_papers",
    "one_example_step": "test_dynamics.py::test_one_example_moves_as_the_map_says",
    "heavy_ball_state": "test_heavy_ball.py::test_from_rest_four_numbers_move_as_all_the_weights",
    "heavy_ball_step": "test_heavy_ball.py::test_from_rest_four_numbers_move_as_all_the_weights",
    "heavy_ball_observables": "test_heavy_ball.py::test_from_rest_four_numbers_move_as_all_the_weights",
    "heavy_ball_gram": "test_heavy_ball.py::test_six_numbers_move_as_all_the_weights_with_any_velocity",
    "transient_growth": "test_heavy_ball.py::test_below_critical_the_loss_grows_transiently_up_to_the_bound",
    "momentum_scaling": "test_heavy_ball.py::test_the_law_is_that_of_the_map_over_phases_with_an_error_of_order_delta",
    "scaling_functions": "test_heavy_ball.py::test_the_orbit_agrees_with_another_integrator",
    "first_divergence": "test_heavy_ball.py::test_the_first_divergence_is_that_of_the_map_written_out",
    "coupling": "test_dynamics.py::test_one_example_moves_as_the_map_says",
    "many_examples_step": "test_dynamics.py::test_one_dimensional_examples_move_as_the_map_says_group_by_group",
    "group_eigenvalues": "test_dynamics.py::test_one_dimensional_examples_move_as_the_map_says_group_by_group",
    "sign_groups": "test_dynamics.py::test_sign_groups_are_orthonormal_and_an_empty_one_is_zero",
    "quadratic_step": "test_dynamics.py::test_any_quadratic_model_moves_as_the_map_says",
    "iterate": "test_dynamics.py::test_steps_keep_the_precision_under_jit_vmap_and_scan",
    "dimensionless": "test_dynamics.py::test_all_units_are_one_map",
    "dimensionless_step": "test_dynamics.py::test_all_units_are_one_map",
    "signed_step": "test_dynamics.py::test_all_units_are_one_map",
    "triangle": "test_dynamics.py::test_the_triangle_is_exact",
    "kernel_from_v": "test_dynamics.py::test_units_go_there_and_back",
    "loss_from_u": "test_dynamics.py::test_units_go_there_and_back",
    "jacobian": "test_dynamics.py::test_the_jacobian_is_the_steps_derivative",
    "equilibrium": "test_dynamics.py::test_neighbours_come_to_rest_at_the_stable_equilibria_and_leave_the_others",
    "stable_interval": "test_dynamics.py::test_neighbours_come_to_rest_at_the_stable_equilibria_and_leave_the_others",
    "isolated_equilibria": "test_dynamics.py::test_isolated_equilibria_are_fixed_and_unstable",
    "predict_regime": "test_laws.py::test_gradient_descent_converges_if_and_only_if_the_certificate_says_so",
    "max_learning_rate": (
        "test_laws.py::test_the_largest_rate_is_the_first_root_of_the_certificate_where_something_is_stable"
    ),
    "peak_u_series": "test_laws.py::test_every_coefficient_of_the_series_is_that_of_the_map",
    "final_v_series": "test_laws.py::test_every_coefficient_of_the_series_is_that_of_the_map",
    "peak_u": "test_laws.py::test_medians_over_the_phase_are_as_printed",
    "final_v": "test_laws.py::test_medians_over_the_phase_are_as_printed",
    "adiabatic_invariant": "test_laws.py::test_a_step_changes_the_invariant_by_the_eighth_power_of_the_size",
    "forecast": "test_laws.py::test_a_forecast_gathers_the_answers_in_the_units_of_the_network",
    "balanced_step": "test_edge.py::test_balanced_weights_stay_balanced_and_have_one_number",
    "sharpness_from_state": "test_edge.py::test_the_sharpness_of_a_state_is_the_largest_eigenvalue_of_the_hessian",
    "gradient_flow_kernel": "test_edge.py::test_the_kernel_at_the_end_of_gradient_flow",
    "two_cycle": "test_edge.py::test_the_two_cycle_is_one_and_has_the_printed_multipliers",
    "attractor": "test_edge.py::test_periods_double_at_the_constants",
    "lyapunov_exponent": "test_edge.py::test_lyapunov_exponents",
    "biased_step": "test_edge.py::test_with_a_bias_three_numbers_are_gradient_descent",
    "biased_map": "test_edge.py::test_with_a_bias_three_numbers_are_gradient_descent",
    "norm_change": "test_edge.py::test_the_law_of_the_norm_for_networks_whole_and_layer_by_layer",
    "norm_certificate": "test_edge.py::test_below_the_certificate_the_norm_never_rises",
    "random_regression": "test_edge.py::test_random_regression_is_its_formula_and_sharpens",
    "two_eigenvalue_step": "test_edge.py::test_two_eigenvalues_are_gradient_descent",
    "two_eigenvalue_edge": "test_edge.py::test_the_edge_of_two_eigenvalues_is_where_most_crossing_runs_end",
    "two_eigenvalue_curve": "test_edge.py::test_the_curve_in_code_is_that_one",
    "two_eigenvalue_end": "test_edge.py::test_how_far_below_a_run_ends_that_does_not_come_from_far_above",
    "chebyshev": "test_edge.py::test_the_chebyshev_data_are_its_polynomial",
    "critical_constants": "test_phases.py::test_critical_constants_are_the_first_steps_of_the_map",
    "phase_constants": "test_phases.py::test_phase_constants_are_those_of_gradient_descent_written_out",
    "phases": "test_phases.py::test_phases_are_where_something_first_exceeds",
    "initial_sharpness": "test_phases.py::test_phase_constants_are_those_of_gradient_descent_written_out",
    "quadratic_net": "test_quadratic.py::test_a_quadratic_net_is_its_formula_with_the_drawn_eigenvalues",
    "teacher_and_student": "test_quadratic.py::test_a_student_has_blocks_of_its_teachers_matrices",
    "activation_function": "test_networks.py::test_the_options_of_deep_networks_are_their_formulas",
    "is_piecewise_linear": "test_networks.py::test_the_options_of_deep_networks_are_their_formulas",
    "whole": "test_stable.py::test_ctrl_c_ends_the_search",
    "environment": "test_runs.py::test_a_run_records_versions_and_device",
}


def public_functions():
    """Names of functions; classes hold what functions give."""
    for module in MODULES:
        defined = getattr(module, "__all__", None) or [
            name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
        ]
        yield from (
            name
            for name in defined
            if not name.startswith("_") and inspect.isfunction(getattr(module, name))
        )  # fmt: skip


def test_every_public_function_is_compared_with_numbers_made_another_way():
    here = pathlib.Path(__file__)
    text = here.read_text()
    text = text[: text.index("ELSEWHERE = {")]
    for name in sorted(set(public_functions())):
        if name in ELSEWHERE:
            file, test = ELSEWHERE[name].split("::")
            assert f"def {test}(" in (here.parent / file).read_text(), f"{name}: there is no {ELSEWHERE[name]}"
        else:
            used = re.search(rf"(?<![\w.])(?:nqm\.|\w+\.)?{name}\(", text)
            assert used, f"{name} is not compared with NumPy here; name the test that does it in ELSEWHERE"
    assert set(ELSEWHERE) <= set(public_functions()), "a name in ELSEWHERE is gone"
