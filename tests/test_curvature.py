"""Sharpness and Gauss-Newton sharpness for every loss against Hessians written out, alone and recorded along runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nqm_tools as nqm
from nqm_tools import closed_forms, curvature, expansions, networks
from nqm_tools.closed_forms import function_space
from nqm_tools.training import GradientDescent, _sharpness

LOSSES = {
    "mse": lambda p, y: jnp.sum((p - y) ** 2) / len(y),
    "half_sum": lambda p, y: jnp.sum((p - y) ** 2) / 2,
    "cross_entropy": lambda p, y: -jnp.mean(jnp.sum(y * jax.nn.log_softmax(p), axis=1)),
    "logistic": lambda p, y: jnp.mean(jnp.log1p(jnp.exp(-y * p))),
}


def problem(loss="mse", outputs=1, n=5, d=4, width=12, activation="tanh"):
    net = networks.two_layer_fc(width, activation=activation, outputs=outputs)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (n, d))
    y = jnp.ones((n, outputs)).at[::2].set(-1)
    if loss == "cross_entropy":
        y = jnp.eye(outputs)[jnp.arange(n) % outputs]
    return net, net.init(keys[1], x.shape), x, y


def matrices(net, params, x, y, loss):
    """The Hessian and the Gauss-Newton matrix of a loss, by autodiff."""
    flat, unravel = ravel_pytree(params)

    def outputs(p):
        return net(unravel(p), x)

    hessian = jax.jit(jax.hessian(lambda p: LOSSES[loss](outputs(p), y)))(flat)
    jacobian = jax.jit(jax.jacobian(outputs))(flat).reshape(y.size, -1)
    inner = jax.jit(jax.hessian(lambda p: LOSSES[loss](p.reshape(y.shape), y)))(outputs(flat).ravel())
    return np.asarray(hessian), np.asarray(jacobian.T @ inner @ jacobian)


@pytest.mark.parametrize(
    ("loss", "outputs"), [("mse", 1), ("mse", 3), ("half_sum", 2), ("cross_entropy", 3), ("logistic", 1)]
)
def test_both_are_the_top_eigenvalues_of_their_matrices(x64, monkeypatch, loss, outputs):
    net, params, x, y = problem(loss, outputs)
    hessian, gauss_newton = matrices(net, params, x, y, loss)
    for dense_rows in (1024, 0):  # whole, and matrix-free
        monkeypatch.setattr(curvature, "DENSE_ROWS", dense_rows)
        assert nqm.sharpness(net, params, x, y, loss) == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-8)
        found = curvature.gauss_newton_sharpness(net, params, x, y, loss)
        assert found == pytest.approx(np.linalg.eigvalsh(gauss_newton)[-1], rel=1e-8)


def test_a_loss_of_the_users_has_the_same_curvature_as_the_named_one(x64):
    net, params, x, y = problem("logistic")

    def own(prediction, y):
        return jnp.log1p(jnp.exp(-y * prediction))[:, 0]

    for measure in (nqm.sharpness, curvature.gauss_newton_sharpness):
        assert measure(net, params, x, y, own) == pytest.approx(measure(net, params, x, y, "logistic"), rel=1e-9)


def test_the_critical_rate_knows_momentum_and_refuses_changing_curvature(x64):
    net, params, x, y = problem()
    kernel = nqm.empirical_ntk(net, params, x)
    plain = nqm.critical_learning_rate(kernel)
    assert nqm.critical_learning_rate(kernel, momentum=0.9) == pytest.approx(1.9 * plain, rel=1e-12)
    assert plain == pytest.approx(2 / curvature.gauss_newton_sharpness(net, params, x, y), rel=1e-9)
    with pytest.raises(ValueError, match=r"'logistic' has no fixed critical learning rate.*gauss_newton_sharpness"):
        nqm.critical_learning_rate(kernel, loss="logistic")


def test_a_linear_model_with_momentum_is_stable_up_to_its_critical_rate(x64):
    net, params, x, y = problem(n=4)
    lin, data = nqm.linearize(net, params), nqm.Data("own", x, y)
    eta = nqm.critical_learning_rate(nqm.empirical_ntk(net, params, x), momentum=0.5)
    below, above = nqm.train(lin, data, learning_rate=[0.98 * eta, 1.02 * eta], steps=2000, momentum=0.5, record=())
    assert below.losses[-1] < below.losses[0] < above.losses[-1]


@pytest.mark.parametrize("name", ["f", "f_lin", "f_quad"])
@pytest.mark.parametrize(("loss", "outputs"), [("mse", 1), ("cross_entropy", 3)])
def test_the_recorded_sharpness_is_the_hessians_to_its_recorded_error(x64, name, loss, outputs):
    net, params, x, y = problem(loss, outputs, n=3, width=40)
    model = expansions.MODELS[name](net, params)
    data = nqm.Data("own", x, y)
    rate = 1.2 * 2 / curvature.gauss_newton_sharpness(net, params, x, y, loss) * (0.5 if name == "f_lin" else 1)
    arguments = {"learning_rate": rate, "loss": loss, "params": params, "record_every": 3}
    run = nqm.train(model, data, steps=12, record="sharpness", **arguments)
    assert list(run.records) == ["step", "train_loss", "sharpness", "sharpness_error"]
    for step, found, error in zip(*(run.records[c] for c in ("step", "sharpness", "sharpness_error")), strict=True):
        at = nqm.train(model, data, steps=int(step), record=(), **arguments).params if step else params
        exact = nqm.sharpness(model, at, x, y, loss)
        assert abs(found - exact) <= error + 1e-9 * exact
        # A Ritz value lies below, and its error is of second order in the residual (the gap is of the order of 1 here).
        assert found <= exact * (1 + 1e-9)
        assert exact - found <= 2 * (error / exact) ** 2 * exact + 1e-9 * exact
    assert error < 1e-3 * exact  # when the catapult is over


def test_a_row_of_the_sharpness_takes_six_products(monkeypatch):
    net, params, x, y = problem()
    calls = []
    hessian = _sharpness._hessian

    def counted(now):
        def product(v):
            jax.debug.callback(lambda: calls.append(1))
            return hessian(now)(v)

        return product

    monkeypatch.setattr(_sharpness, "_hessian", counted)
    method = nqm.training.Method(3, record="sharpness")
    ready = nqm.training.prepare(net, nqm.Data("own", x, y), method, params=params)
    now = nqm.training.Snapshot(ready, ready.state0, 0.1, 0)
    taken = []
    for new in (False, True):
        jax.effects_barrier()
        calls.clear()
        method.recording.row({"sharpness": (jnp.ones((2, 60)), jnp.array(new))}, now)
        jax.effects_barrier()
        taken.append(len(calls))
    assert taken[0] == 6
    assert 12 <= taken[1] <= 6 * 51, "until it is accurate, and once more"


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operators_of_low_rank_have_no_made_up_eigenvalues(x64, rank, dtype):
    """Lanczos without orthogonalisation gave 6,732 for 395."""
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.standard_normal((300, rank)))[0]
    values = 395.0 * 0.5 ** np.arange(rank)
    matrix = jnp.asarray((vectors * values) @ vectors.T, dtype)
    block = jnp.asarray(rng.standard_normal((2, 300)), dtype)
    iterate = jax.jit(lambda block: _sharpness._top_ritz_pairs(lambda v: matrix @ v, block))
    for _ in range(30):
        block, value, error = iterate(block)
        assert float(value) <= 395 * (1 + 1e-5)
    assert float(value) == pytest.approx(395, rel=1e-5)
    assert float(error) < 395 * (1e-4 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("build", ["two_layer_fc", "deep_fc", "two_layer_cnn"])
def test_trace_weight_norm_and_sparsity_are_what_they_say(x64, build):
    net = getattr(networks, build)(10)
    x = jax.random.normal(jax.random.key(0), (4, 5, 4, 2))
    params = net.init(jax.random.key(1), x.shape)
    data = nqm.Data("own", x, jnp.ones(4).at[0].set(-1))
    record = ("trace", "weight_norm", "sparsity", "sparsity_1")
    run = nqm.train(net, data, learning_rate=0.05, steps=7, params=params, record=record)
    kernel = nqm.empirical_ntk(net, run.params, x)
    assert run.records["trace"][-1] == pytest.approx(float(jnp.trace(kernel)), rel=1e-9)
    assert run.records["weight_norm"][-1] == pytest.approx(
        float(jnp.linalg.norm(ravel_pytree(run.params)[0])), rel=1e-9
    )
    layers = net.architecture.preactivations(run.params, x)
    assert run.records["sparsity_1"][-1] == pytest.approx(np.mean(np.asarray(layers[0]) <= 0), rel=1e-12)
    # What the architecture says goes into the activations is what makes the outputs.
    hidden = jnp.maximum(layers[-1], 0)
    hidden = hidden.mean(axis=(1, 2)) if build == "two_layer_cnn" else hidden
    readout = jax.tree.leaves(run.params)[-1]
    np.testing.assert_allclose(hidden @ readout / np.sqrt(len(readout)), net(run.params, x), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="asks for a layer that the network does not have"):
        nqm.train(net, data, learning_rate=0.1, steps=1, params=params, record="sparsity_8")
    with pytest.raises(ValueError, match="sparsity is of the package's networks"):
        nqm.train(net.apply_fn, data, learning_rate=0.1, steps=1, params=params, record="sparsity")


def test_function_space_serves_every_loss_and_its_kernel_knows_both_sides(x64):
    net, params, x, y = problem("cross_entropy", 3)
    lin = nqm.linearize(net, params)
    data = nqm.Data("own", x, y)
    run = nqm.train(lin, data, learning_rate=0.3, steps=40, loss="cross_entropy")
    assert run.settings["form"] == "function space"
    params_by_hand, losses = params, []
    step = jax.jit(jax.value_and_grad(lambda p: LOSSES["cross_entropy"](lin.predict(p, x), y)))
    for _ in range(41):
        value, gradient = step(params_by_hand)
        losses.append(float(value))
        params_by_hand = jax.tree.map(lambda w, g: w - 0.3 * g, params_by_hand, gradient)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-10)
    bound = closed_forms.bind(lin, x, params, GradientDescent())
    others = bound.featurize(x[:2] * 1.5)
    kernel = nqm.empirical_ntk(net, params, x[:2] * 1.5, x)
    np.testing.assert_allclose(bound.kernel(0, others, bound.featurize(x)), kernel, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        bound.kernel(0, bound.featurize(x + 0), others), kernel.transpose(1, 0, 3, 2), rtol=1e-9, atol=1e-12
    )
    some = jax.tree.map(lambda leaf: leaf[jnp.array([3, 1])], bound.featurize(x))
    np.testing.assert_allclose(bound.kernel(0, some), nqm.empirical_ntk(net, params, x[jnp.array([3, 1])]), rtol=1e-9)
    with pytest.raises(ValueError, match="some are the training inputs"):
        bound.kernel(0, others, others)


def test_a_linear_model_too_large_for_function_space_trains_in_the_span(x64, monkeypatch):
    net, params, x, y = problem(n=3)
    monkeypatch.setattr(function_space, "MOST_ROWS", 2)
    data, lin = nqm.Data("own", x, y), nqm.linearize(net, params)
    span = nqm.train(lin, data, learning_rate=0.1, steps=20)
    assert span.settings["form"] == "input span"
    monkeypatch.setattr(closed_forms, "FORMS", [])
    np.testing.assert_allclose(span.losses, nqm.train(lin, data, learning_rate=0.1, steps=20).losses, rtol=1e-10)


@pytest.mark.parametrize(
    ("labels", "accuracy"),
    [([1, -1, 1, -1], 1.0), ([1, 0, 1, 0], 1.0), ([True, False, True, False], 1.0), ([0.3, -2.0, 1.7, 0.0], None)],
)
def test_an_accuracy_is_that_of_labels(x64, labels, accuracy):
    x = np.eye(4)
    data = nqm.Data("own", x, np.array(labels), x, np.array(labels))
    perfect = jnp.asarray(np.array(labels, float))
    run = nqm.train(lambda w, x: x @ w, data, learning_rate=0.1, steps=1, params=perfect)
    found = run.records["test_accuracy"]
    assert np.isnan(found).all() if accuracy is None else (found == accuracy).all()


def test_independent_batches_are_draws_without_replacement_that_follow_no_epoch():
    from nqm_tools.training._loop import independent_rows

    draws = np.array([independent_rows(jax.random.key(0), t, 6, 3) for t in range(400)])
    assert all(len(set(row)) == 3 for row in draws.tolist())
    np.testing.assert_allclose(np.bincount(draws.ravel()) / 400, 0.5, atol=0.1)
    # In epochs two batches in a row share no example; here they share 1.5 on average.
    shared = [len(set(a) & set(b)) for a, b in zip(draws[::2].tolist(), draws[1::2].tolist(), strict=True)]
    assert 1.2 < np.mean(shared) < 1.8


def oscillating(level, swing, steps=80):
    return [1.0] + [level + swing * (-1) ** t for t in range(steps)]


@pytest.mark.parametrize(
    ("losses", "momentum", "expected"),
    [
        (oscillating(0.5, 0.1), 0.0, "edge of stability"),
        (oscillating(0.5, 1e-4), 0.0, "monotone"),  # rounding, or as good as
        ([1.0] + [0.5 - 1e-5 * t + 1e-5 * (-1) ** t for t in range(4000)], 0.0, "monotone"),  # rounding, on a slow fall
        ([1.0, *(0.9**t for t in range(60)), 5.0], 0.0, "catapult"),  # a late spike
        ([1.0, *(0.9**t for t in range(60)), *[5.0] * 30], 0.0, "divergent"),
        ([1.0, 0.4, 0.8, 0.3, 0.5, *(0.2 * 0.8**t for t in range(40))], 0.9, "monotone"),  # inertia
        ([1.0, 0.4, 0.8, 0.3, 0.5, *(0.2 * 0.8**t for t in range(40))], 0.0, "catapult"),
        ([1.0, 1.5, 0.8, 0.3, *(0.2 * 0.8**t for t in range(40))], 0.9, "catapult"),
        ([1.0, *(2.0 - 1.5 * 0.9**t for t in range(200))], 0.0, "divergent"),
        ([1.0, *(0.5 * 0.97**t * (1 + 0.5 * (-1) ** t) for t in range(200))], 0.0, "catapult"),  # falling on average
    ],
)
def test_the_regime_tells_oscillations_from_spikes_and_from_inertia(losses, momentum, expected):
    assert nqm.regime(losses, momentum) == expected


@pytest.mark.parametrize("cycle", [(0.4, 0.6), (0.3, 0.7, 0.4, 0.6)])
def test_cycles_are_told_at_every_length(cycle):
    for length in range(33, 120):
        losses = [1.0] + [cycle[t % len(cycle)] for t in range(length)]
        assert nqm.regime(losses) == "edge of stability", length


def test_a_run_at_the_edge_says_so(x64):
    # The balanced two-layer scalar: beyond 2/lambda of its minimum it settles in a two-cycle.
    data = nqm.Data("own", np.ones((1, 1)), np.ones(1))
    run = nqm.train(lambda w, x: x * w[0] * w[1], data, learning_rate=0.55, steps=400, params=jnp.array([1.3, 1.3]))
    assert run.regime == "edge of stability"
