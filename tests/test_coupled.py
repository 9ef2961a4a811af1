"""Functions that make their examples depend on each other: kernels are those of gradient descent on the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools import kernels
from nqm_tools._coupling import is_coupled

N, D, M, K = 6, 4, 8, 2
MASK = jnp.asarray(np.random.default_rng(0).integers(0, 2, (N, 1)), jnp.float32)


def normalised(h):
    return (h - h.mean(axis=0)) / jnp.sqrt(h.var(axis=0) + 1e-5)


def batch_norm(p, x):
    return jnp.tanh(normalised(x @ p["a"])) @ p["b"]


def dropout(p, x):
    h = jnp.tanh(x @ p["a"])
    return (h * jax.random.bernoulli(jax.random.key(0), 0.5, h.shape)) @ p["b"]


def in_its_gradient_only(p, x):
    mean = jnp.mean(x @ p["a"])
    return jnp.tanh(x @ p["a"]) @ p["b"] + mean - jax.lax.stop_gradient(mean)


def by_the_size_of_the_batch(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"] / x.shape[0]


def by_a_mask_of_the_training_examples(p, x):
    return jnp.tanh((x * MASK.astype(x.dtype)) @ p["a"]) @ p["b"]


def by_its_neighbour(p, x):
    h = x @ p["a"]
    return jnp.tanh(h + 0.01 * jnp.roll(h, 1, axis=0)) @ p["b"]


def without_a_floor(p, x):
    """Whose variance of one example is 0."""
    h = x @ p["a"]
    return jnp.tanh((h - h.mean(axis=0)) / h.std(axis=0)) @ p["b"]


def on_one_size_only(p, x):
    return (jnp.tanh(x.reshape(N, D) @ p["a"]) @ p["b"]).reshape(N, K)


def attention_over_the_batch(p, x):
    return jax.nn.softmax(x @ x.T) @ jnp.tanh(x @ p["a"]) @ p["b"]


COUPLED = [
    batch_norm,
    dropout,
    in_its_gradient_only,
    by_the_size_of_the_batch,
    by_a_mask_of_the_training_examples,
    by_its_neighbour,
    without_a_floor,
    on_one_size_only,
    attention_over_the_batch,
]


def problem(outputs=K):
    keys = jax.random.split(jax.random.key(1), 3)
    params = {"a": jax.random.normal(keys[0], (D, M)), "b": jax.random.normal(keys[1], (M, outputs))}
    return params, jax.random.normal(keys[2], (N, D))


def jacobian(f, p, x):
    tree = jax.jacrev(f)(p, x)
    return np.concatenate([np.asarray(leaf).reshape(len(x), K, -1) for leaf in jax.tree.leaves(tree)], axis=2)


@pytest.mark.parametrize("f", COUPLED)
def test_kernels_are_those_of_the_whole_batch(x64, f):
    p, x = problem()
    J = jacobian(f, p, x)
    K_ = np.einsum("iap,jbp->ijab", J, J)
    np.testing.assert_allclose(nqm.empirical_ntk(f, p, x), K_, rtol=1e-10, atol=1e-12)
    values = np.linalg.eigvalsh(K_.transpose(0, 2, 1, 3).reshape(N * K, N * K))[::-1]
    np.testing.assert_allclose(nqm.top_eigenpairs(f, p, x, 3)[0], values[:3], rtol=1e-10)
    sharpest = nqm.curvature.gauss_newton_sharpness(f, p, x, jnp.ones((N, K)), loss="half_sum")
    assert sharpest == pytest.approx(values[0], rel=1e-10)


@pytest.mark.parametrize("f", [batch_norm, dropout])
def test_dense_and_matrix_free_eigenvalues_agree(monkeypatch, f):
    p, x = problem()
    dense = nqm.top_eigenpairs(f, p, x, 2)[0]
    monkeypatch.setattr(kernels, "DENSE_ROWS", 1)
    np.testing.assert_allclose(nqm.top_eigenpairs(f, p, x, 2)[0], dense, rtol=1e-4)


@pytest.mark.parametrize(
    ("f", "name"),
    [
        (batch_norm, "f"),
        (batch_norm, "f_quad"),
        (batch_norm, "f_lin"),
        (on_one_size_only, "f"),
        (on_one_size_only, "f_lin"),
    ],
)
def test_recorded_eigenvalues_are_those_of_the_run(x64, f, name):
    p, x = problem()
    model = nqm.expansions.MODELS[name](f, p)
    data = nqm.Data("own", x, jnp.ones((N, K)).at[::2].set(-1))
    run = nqm.train(model, data, params=p, learning_rate=0.05, steps=4, record=("lambda_1", "trace", "R_f"))
    J = jacobian(model, run.params, x)
    kernel = np.einsum("iap,jbp->iajb", J, J).reshape(N * K, N * K)
    assert run.frame["lambda_1"].iloc[-1] == pytest.approx(np.linalg.eigvalsh(kernel)[-1], rel=1e-9)
    assert run.frame["trace"].iloc[-1] == pytest.approx(np.trace(kernel), rel=1e-9)


def test_the_critical_rate_of_batch_normalisation_is_where_its_linear_model_turns(x64):
    p, x = problem()
    data = nqm.Data("own", x, jnp.ones((N, K)).at[::2].set(-1))
    eta = nqm.critical_learning_rate(nqm.empirical_ntk(batch_norm, p, x))
    lin = nqm.linearize(batch_norm, p)
    below, above = nqm.train(lin, data, learning_rate=[0.97 * eta, 1.03 * eta], steps=400)
    assert below.losses[-1] < below.losses[0] < above.losses[-1]
    found = nqm.max_stable_learning_rate(lin, data, steps=400, tolerance=0.05)
    assert found.critical == pytest.approx(eta, rel=1e-10)


def in_second_order_only(w, x):
    return x @ w + jnp.mean((x @ w) ** 2)


def test_a_coupling_of_second_order_counts_in_a_kernel_step(x64):
    _, x = problem()
    w, y = jnp.zeros(D), jnp.arange(N) / 3.0
    step = nqm.kernel_step(in_second_order_only, w, w, x, y, 0.1)
    after = w - 0.1 * jax.grad(lambda w: jnp.sum((in_second_order_only(w, x) - y) ** 2) / 2)(w)
    J = np.asarray(jax.jacrev(in_second_order_only)(after, x))
    np.testing.assert_allclose(step.kernel, J @ J.T, rtol=1e-10, atol=1e-12)


def test_two_sets_of_inputs_are_two_batches(x64):
    p, x = problem()
    kernel = nqm.empirical_ntk(batch_norm, p, x, x[:3])
    expected = np.einsum("iap,jbp->ijab", jacobian(batch_norm, p, x), jacobian(batch_norm, p, x[:3]))
    np.testing.assert_allclose(kernel, expected, rtol=1e-10, atol=1e-12)


def test_under_jit_and_vmap_too():
    p, x = problem()
    kernel = nqm.empirical_ntk(batch_norm, p, x)
    found = jax.jit(jax.vmap(lambda p, x: nqm.empirical_ntk(batch_norm, p, x)))(
        *jax.tree.map(lambda leaf: leaf[None], (p, x))
    )
    np.testing.assert_allclose(found[0], kernel, rtol=1e-4, atol=1e-5)
    at = jax.jit(lambda scale: nqm.empirical_ntk(lambda p, x: scale * x @ p["a"], p, x))(1.0)
    np.testing.assert_allclose(at, nqm.empirical_ntk(lambda p, x: x @ p["a"], p, x), rtol=1e-5, atol=1e-5)


def test_a_recorder_of_the_users_has_the_same_kernel():
    p, x = problem()
    own = {"own": lambda now: jnp.trace(jnp.trace(nqm.empirical_ntk(now.model, now.params, now.x)))}
    run = nqm.train(
        batch_norm, nqm.Data("own", x, jnp.ones((N, K))), params=p, learning_rate=0.01, steps=2, record=("trace", own)
    )
    np.testing.assert_allclose(run.frame["own"], run.frame["trace"], rtol=1e-5)


def wide(activation, width, depth):
    net = nqm.networks.deep_fc(width, depth=depth, activation=activation)
    return net.apply_fn, net.init(jax.random.key(0), (1, 30))


def centred():
    f, p = wide("relu", 512, 2)
    near = jax.tree.map(lambda w: w + 1e-4, p)
    return (lambda q, x: f(q, x) - f(p, x)), near


def saturated():
    f, p = wide("tanh", 64, 3)
    return f, jax.tree.map(lambda w: 100 * w, p)


ALONE = {
    "wide": lambda: wide("relu", 4096, 2),
    "deep": lambda: wide("relu", 128, 6),
    "smooth": lambda: wide("swish", 256, 3),
    "saturated": saturated,
    "centred": centred,
    "without a gradient": lambda: (lambda w, x: 0 * x @ w, jnp.ones(30)),
    "with a gate at zero": lambda: (lambda w, x: jnp.maximum(x @ w, 0), jnp.zeros((30, 1))),
    "of one number an example": lambda: (lambda w, x: (x @ w).squeeze(), jnp.ones((30, 1))),
    "normalised by itself": lambda: (
        lambda w, x: jnp.tanh(normalised((x @ w).T).T),
        jnp.ones((30, 9)) + jnp.eye(30, 9),
    ),
}


@pytest.mark.parametrize("make", ALONE.values(), ids=ALONE)
def test_rounding_is_no_coupling(make):
    f, p = make()
    x = jax.random.normal(jax.random.key(3), (40, 30))
    assert not is_coupled(nqm.expansions.as_model(f), p, x)


@pytest.mark.parametrize("f", COUPLED)
def test_a_coupling_is_found_in_float32(f):
    assert is_coupled(nqm.expansions.as_model(f), *problem())


def test_one_example_has_none_to_depend_on():
    p, x = problem()
    assert not is_coupled(nqm.expansions.as_model(batch_norm), p, x[:1])
