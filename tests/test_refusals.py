"""What cannot be done is refused at the first call, in the user's words, and the same everywhere."""

import importlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import nqm_tools as nqm
from nqm_tools import curvature, kernels

N, D, M = 5, 3, 4
X = jax.random.normal(jax.random.key(0), (N, D))
Y = np.sign(np.arange(N) - 1.5)
DATA = nqm.Data("own", np.asarray(X), Y)
NET = nqm.networks.two_layer_fc(M)
PARAMS = NET.init(jax.random.key(1), X.shape)


def takes(f, params):
    """Everything that takes parameters."""
    return [
        lambda: nqm.empirical_ntk(f, params, X),
        lambda: nqm.top_eigenpairs(f, params, X),
        lambda: nqm.sharpness(f, params, X, Y),
        lambda: curvature.gauss_newton_sharpness(f, params, X, Y),
        lambda: nqm.kernel_step(f, params, params, X, Y, 0.1),
        lambda: nqm.linearize(f, params),
        lambda: nqm.quadraticize(f, params),
        lambda: nqm.remainder(f, params, params, X),
        lambda: nqm.train(f, DATA, params=params, learning_rate=0.1, steps=1),
        lambda: nqm.max_stable_learning_rate(f, DATA, params=params, steps=1),
    ]


# State among the parameters


class Normalised(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        return linen.Dense(1)(linen.BatchNorm(use_running_average=not train)(x))


class NormalisedToo(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(D, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(D, 1, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.norm(x))


def test_the_state_of_a_flax_module_is_no_parameter():
    module = Normalised()
    variables = module.init(jax.random.key(0), X)
    advice = re.escape('f = lambda p, x: net.apply({"params": p, "batch_stats": variables["batch_stats"]}, x)')
    for call in takes(module.apply, variables):
        with pytest.raises(ValueError, match=f"holds 'batch_stats' beside 'params', as the variables .*{advice}"):
            call()
    f = lambda p, x: module.apply({"params": p, "batch_stats": variables["batch_stats"]}, x)  # noqa: E731
    run = nqm.train(f, DATA, params=variables["params"], learning_rate=0.1, steps=5, record=("lambda_1",))
    assert run.losses[-1] < run.losses[0]


def test_the_state_of_an_nnx_module_is_no_parameter():
    graph, everything = nnx.split(NormalisedToo(nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"params holds variables of nnx.BatchStat, which are not trained"):
        nqm.empirical_ntk(lambda p, x: nnx.merge(graph, p)(x), everything, X)
    graph, params, rest = nnx.split(NormalisedToo(nnx.Rngs(0)), nnx.Param, ...)
    kernel = nqm.empirical_ntk(lambda p, x: nnx.merge(graph, p, rest)(x), params, X)
    assert kernel.shape == (N, N)


@pytest.mark.parametrize(
    ("leaf", "what"),
    [
        (jnp.arange(3), "an array of int32"),
        (np.ones(3, bool), "an array of bool"),
        (jax.random.key(0), "a random key"),
        (3, "int"),
        (jnp.ones(2, jnp.complex64), "an array of complex64"),
        ("relu", "str"),
    ],
)
def test_what_is_not_trained_is_told_where_it_is(leaf, what):
    for call in takes(lambda p, x: x @ p["w"], {"w": jnp.ones((D, 1)), "state": [jnp.ones(1), leaf]}):
        with pytest.raises(TypeError, match=rf"it holds {what} at \['state'\]\[1\]. They are what is trained"):
            call()


# Precision


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn])
def test_half_precision_is_refused_by_its_name(dtype):
    for call in takes(NET, jax.tree.map(lambda w: w.astype(dtype), PARAMS)):
        with pytest.raises(TypeError, match=f"must be of float32 or float64; it holds {jnp.dtype(dtype).name}"):
            call()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_kernels_and_data_of_half_precision_are_used(dtype):
    kernel = nqm.empirical_ntk(NET, PARAMS, X)
    rate = nqm.critical_learning_rate(kernel)
    assert nqm.critical_learning_rate(kernel.astype(dtype)) == pytest.approx(rate, rel=0.02)
    half = nqm.Data("own", np.asarray(X.astype(dtype)), Y.astype(dtype))
    assert half.x_train.dtype == np.float32
    run = nqm.train(NET, half, params=PARAMS, learning_rate=0.1, steps=2, record=("lambda_1",))
    assert run.frame["lambda_1"].notna().all()


# Overflow


@pytest.mark.parametrize("dense_rows", [1024, 1])
def test_what_overflows_after_a_divergence_says_so(monkeypatch, dense_rows):
    for module in (kernels, curvature):
        monkeypatch.setattr(module, "DENSE_ROWS", dense_rows)
    huge = jax.tree.map(lambda w: 1e30 * w, PARAMS)
    for call in takes(NET.apply_fn, huge)[:4]:
        with pytest.raises(ValueError, match=r"holds NaN or infinity at these params, .* it overflows float32"):
            call()
    with pytest.raises(ValueError, match="it overflows after a run that diverged"):
        nqm.critical_learning_rate(jnp.full((2, 2), jnp.inf))


# Functions that squeeze


@pytest.mark.parametrize(("n", "outputs"), [(N, 1), (1, 1), (1, 2)])
def test_a_function_that_squeezes_its_outputs_is_the_one_that_does_not(x64, n, outputs):
    net = nqm.networks.two_layer_fc(M, outputs=outputs)
    p, x = net.init(jax.random.key(1), (n, D)), X[:n]
    y = np.ones((n, outputs))

    def squeezed(p, x):
        return net(p, x).squeeze()

    for f in (nqm.empirical_ntk, lambda *args: nqm.top_eigenpairs(*args)[0], lambda *args: nqm.sharpness(*args, y)):
        np.testing.assert_allclose(f(squeezed, p, x), f(net, p, x), rtol=1e-10, atol=1e-12)
    data = nqm.Data("own", np.asarray(x), y, np.asarray(X[:1]), y[:1])
    for make in (lambda f, p: f, nqm.linearize):
        options = {"params": p, "learning_rate": 0.1, "steps": 2, "record": ("lambda_1", "test_loss")}
        runs = [nqm.train(make(f, p), data, **options, batch_size=1) for f in (squeezed, net)]
        np.testing.assert_allclose(runs[0].losses, runs[1].losses, rtol=1e-10)
        np.testing.assert_allclose(runs[0].frame["lambda_1"], runs[1].frame["lambda_1"], rtol=1e-9)


# Containers of the user's


def own_container(fixed_data):
    """A class of containers; what flattening one gives beside its array is ``fixed_data`` of the container."""

    class Weights:
        def __init__(self, w, fixed=None):
            self.w, self.fixed = w, fixed

    jax.tree_util.register_pytree_node(
        Weights, lambda p: ((p.w,), fixed_data(p)), lambda fixed, children: Weights(*children, fixed)
    )
    return Weights


class Fixed:
    def __repr__(self):
        return "Fixed()"


def test_containers_without_an_eq_are_used():
    Weights, f = own_container(lambda p: p.fixed), lambda p, x: x @ p.w
    params0, params = Weights(jnp.zeros((D, 1))), Weights(jnp.ones((D, 1)))
    np.testing.assert_allclose(nqm.quadraticize(f, params0)(params, X), f(params, X), rtol=1e-6)
    assert nqm.kernel_step(f, params0, params, X, Y, 0.1).kernel.shape == (N, N)
    for model in (f, nqm.linearize(f, params0)):
        assert isinstance(nqm.train(model, DATA, params=params, learning_rate=0.1, steps=1).params, Weights)
    with pytest.raises(ValueError, match=r"must have the shapes of params0, \[\(3, 1\)\]; got \[\(3, 2\)\]"):
        nqm.linearize(f, params0)(Weights(jnp.ones((D, 2))), X)


def test_containers_whose_fixed_data_do_not_compare_are_told_by_name():
    Weights = own_container(lambda p: p.fixed)
    lin = nqm.linearize(lambda p, x: x @ p[0].w, [Weights(jnp.zeros((D, 1)), Fixed())])
    with pytest.raises(ValueError, match=r"both hold a Weights, .* does not compare equal. Give that an __eq__"):
        lin([Weights(jnp.ones((D, 1)), Fixed())], X)
    for new_each_time in (lambda p: Fixed(), lambda p: np.ones(2)):
        Weights = own_container(new_each_time)
        with pytest.raises(TypeError, match=r"params0 holds a Weights, .* does not compare equal to itself"):
            nqm.linearize(lambda p, x: x @ p.w, Weights(jnp.ones((D, 1))))


# Derivatives


@jax.custom_vjp
def own_rule(h):
    return jnp.tanh(h)


own_rule.defvjp(lambda h: (jnp.tanh(h), h), lambda h, r: (r / jnp.cosh(h) ** 2,))


def with_a_rule(p, x):
    return own_rule(x @ p[0][0]) @ p[1][0]


def test_a_rule_for_backward_derivatives_does_for_training_and_kernels(monkeypatch):
    params = [(w,) for w in jax.tree.leaves(PARAMS)]
    plain = lambda p, x: jnp.tanh(x @ p[0][0]) @ p[1][0]  # noqa: E731
    runs = [
        nqm.train(f, DATA, params=params, learning_rate=0.1, steps=3, record=("lambda_1",))
        for f in (with_a_rule, plain)
    ]
    np.testing.assert_allclose(runs[0].frame["lambda_1"], runs[1].frame["lambda_1"], rtol=1e-5)
    message = "f has a jax.custom_vjp in it, .* Write the rule with jax.custom_jvp"
    for call in (
        lambda: nqm.linearize(with_a_rule, params)(params, X),
        lambda: nqm.quadraticize(with_a_rule, params)(params, X),
        lambda: nqm.train(nqm.linearize(with_a_rule, params), DATA, learning_rate=0.1, steps=1),
        lambda: nqm.train(nqm.quadraticize(with_a_rule, params), DATA, learning_rate=0.1, steps=1),
        lambda: nqm.second_order_term(with_a_rule, params, params, X),
        lambda: nqm.kernel_step(with_a_rule, params, params, X, Y, 0.1),
        lambda: nqm.max_stable_learning_rate(nqm.quadraticize(with_a_rule, params), DATA, steps=1),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    monkeypatch.setattr(kernels, "DENSE_ROWS", 1)
    with pytest.raises(TypeError, match=message):
        nqm.top_eigenpairs(with_a_rule, params, X)


# Transformations


def each(f):
    return lambda *args: jax.vmap(f)(*jax.tree.map(lambda leaf: leaf[None], args))


@pytest.mark.parametrize("transform", [jax.jit, each], ids=["jit", "vmap"])
def test_what_computes_outside_jax_is_refused_inside_a_transformation(transform):
    for call in (
        lambda p: nqm.top_eigenpairs(NET, p, X),
        lambda p: nqm.sharpness(NET, p, X, Y),
        lambda p: curvature.gauss_newton_sharpness(NET, p, X, Y),
        lambda p: nqm.critical_learning_rate(nqm.empirical_ntk(NET, p, X)),
        lambda p: nqm.train(NET, DATA, params=p, learning_rate=0.1, steps=1),
        lambda p: nqm.train(nqm.linearize(NET, p), DATA, learning_rate=0.1, steps=1),
        lambda p: nqm.max_stable_learning_rate(NET, DATA, params=p, steps=1),
        lambda p: nqm.Data("own", jax.tree.leaves(p)[0], Y[:D]),
        # What f reads from around it is traced too.
        lambda p: nqm.top_eigenpairs(lambda w, x: x @ w * jax.tree.leaves(p)[0][0, 0], jnp.ones((D, 1)), X),
        lambda p: nqm.sharpness(lambda w, x: x @ w * jax.tree.leaves(p)[0][0, 0], jnp.ones((D, 1)), X, Y),
        lambda p: nqm.train(
            lambda w, x: x @ w * jax.tree.leaves(p)[0][0, 0], DATA, params=jnp.ones((D, 1)), learning_rate=0.1, steps=1
        ),
    ):
        with pytest.raises(TypeError, match=r"computes outside JAX, so it cannot be inside jax.jit"):
            transform(call)(PARAMS)
    with pytest.raises(TypeError, match="learning_rate must be a positive finite number, and known"):
        transform(lambda rate: nqm.train(NET, DATA, params=PARAMS, learning_rate=rate, steps=1))(jnp.ones(()))


# A bare installation


def without(monkeypatch, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


def test_without_its_extra_a_data_set_says_which(monkeypatch):
    without(monkeypatch, "sklearn")
    nqm.datasets._of_classes.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"need scikit-learn, which is not installed: the extra \[data\]"):
        nqm.datasets.load("digits", n_train=2, n_test=0, seed=0)


@pytest.mark.parametrize("package", ["seaborn", "matplotlib"])
def test_without_their_extra_figures_say_which(monkeypatch, package):
    without(monkeypatch, package)
    for name in [name for name in sys.modules if name.startswith("nqm_tools.plotting")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match=r"figures need seaborn, which is not installed: the extra \[plots\]"):
        importlib.import_module("nqm_tools.plotting")
