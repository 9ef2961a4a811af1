"""What no step changes is computed once: the same numbers, less work, and nothing of the user's is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools._kept import Kept, keep
from nqm_tools._program import Fresh, compilations
from nqm_tools.training import Method, prepare

X = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)
DATA = nqm.Data("four examples", np.asarray(X), np.array([[1.0], [-1.0], [1.0], [1.0]]))
PARAMS = [jnp.linspace(0.3, -0.6, 15).reshape(3, 5), jnp.linspace(-1.0, 1.0, 5).reshape(5, 1)]
SCALE = np.linspace(1, 2, 5)


def network(params, x):
    return jnp.tanh(x @ params[0]) @ params[1]


def looped(params, x):
    def layer(h, _):
        return jnp.tanh(h @ params[0] @ params[0].T), None

    return jax.lax.scan(layer, x, None, length=2)[0] @ params[0] @ params[1]


def branched(params, x):
    return jax.lax.cond(params[1][0, 0] < 0, lambda h: h**3, lambda h: jnp.sin(h), x @ params[0]) @ params[1]


@jax.custom_jvp
def steep(h):
    return jnp.tanh(h)


@steep.defjvp
def _(primals, tangents):
    return jnp.tanh(primals[0]), 2 * tangents[0]


FUNCTIONS = {
    "plain": network,
    "scan": looped,
    "cond": branched,
    "custom rule": lambda params, x: steep(x @ params[0]) @ params[1],
    "checkpoint": jax.checkpoint(network),
    "jit": jax.jit(network),
    "array around it": lambda params, x: (jnp.abs(x @ params[0]) * SCALE) @ params[1],
    "constant": lambda params, x: x[:, :1],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_runs_are_those_of_steps_that_keep_nothing(x64, name, monkeypatch):
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), PARAMS)
    model = nqm.quadraticize(FUNCTIONS[name], params)
    options = {"learning_rate": [0.02, 0.05], "steps": 20, "params": params, "record": ("lambda_1", "distance")}
    kept = nqm.train(model, DATA, **options)
    monkeypatch.setattr(nqm.expansions.QuadraticModel, "keep", lambda self, features: features)
    plain = nqm.train(model, DATA, **options)
    for a, b in zip(kept, plain, strict=True):
        assert (a.losses[0] == a.losses[-1]) == (name == "constant")
        np.testing.assert_allclose(a.losses, b.losses, rtol=1e-11)
        for column in a.records:
            np.testing.assert_allclose(a.records[column], b.records[column], rtol=1e-9, atol=1e-12)
        jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-10, atol=1e-12), a.params, b.params)


def test_no_step_passes_through_f_at_the_expansion_point():
    """Of the five products of matrices forward, one is kept; a step of the first way has eleven."""
    model = nqm.quadraticize(network, PARAMS)
    r = jnp.ones((4, 1))

    def products(features):
        program = jax.make_jaxpr(lambda p, features: model.value_and_pullback(p, features)[1](r))(PARAMS, features)
        return str(program).count("dot_general")

    kept = model.keep(X)
    assert isinstance(kept, Kept)
    assert products(kept) < products(X)
    shapes = sorted(value.shape for value in kept.values)
    assert shapes == sorted([*(w.shape for w in PARAMS if w.shape == (5, 1)), X.shape, (4, 5), (4, 1)])


def test_the_same_operation_is_kept_once():
    def function(fixed, moving, last):
        return jnp.sin(fixed) * moving + jnp.sin(fixed), last * jnp.sin(fixed) * moving

    kept = keep(function, jnp.ones(3), jnp.ones(3), jnp.ones(3))
    assert len(kept.values) == 1
    value, finish = kept(2 * jnp.ones(3))
    np.testing.assert_allclose(value, 3 * np.sin(np.ones(3)), rtol=1e-6)
    np.testing.assert_allclose(finish(jnp.full(3, 5.0)), 10 * np.sin(np.ones(3)), rtol=1e-6)


def test_operations_that_differ_in_a_literal_are_not_the_same():
    def function(fixed, moving, last):
        return jnp.sin(fixed * 2.0) + jnp.sin(fixed * 3.0) + jnp.sum(fixed[:2]) + jnp.sum(fixed[1:]) + moving, last

    kept = keep(function, X[0], X[1], X[2])
    np.testing.assert_allclose(kept(X[1])[0], function(X[0], X[1], X[2])[0], rtol=1e-6)


def test_a_value_must_not_depend_on_what_comes_last():
    with pytest.raises(AssertionError, match="comes last"):
        keep(lambda fixed, moving, last: (moving + last, last), X, X, X)


def test_a_function_that_prints_does_so_at_each_step(capfd):
    def f(params, x):
        jax.debug.callback(lambda: print("here"))
        return network(params, x)

    assert nqm.quadraticize(f, PARAMS).keep(X) is X
    nqm.train(nqm.quadraticize(f, PARAMS), DATA, learning_rate=0.1, steps=5, record=())
    jax.effects_barrier()
    assert capfd.readouterr().out.count("here") >= 5


def test_other_data_and_starts_of_the_same_shapes_compile_nothing():
    def use(seed):
        params = jax.tree.map(lambda w: w + seed, PARAMS)
        nqm.train(nqm.quadraticize(network, params), DATA, learning_rate=0.1, steps=3, record=())

    use(0.0)
    before = compilations()
    use(0.5)
    assert compilations() == before


def test_nothing_is_kept_for_batches_or_without_compiling():
    model = nqm.quadraticize(network, PARAMS)
    assert not isinstance(prepare(model, DATA, Method(3, batch_size=2)).features, Kept)
    assert isinstance(prepare(model, DATA, Method(3)).features, Kept)
    with jax.disable_jit():
        assert model.keep(X) is X


def test_what_is_kept_goes_through_jit_as_a_tree():
    model = nqm.quadraticize(network, PARAMS)
    first, second = model.keep(X), model.keep(2 * X)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    other = nqm.quadraticize(lambda params, x: 2 * network(params, x), PARAMS).keep(X)
    assert jax.tree.structure(first) != jax.tree.structure(other)
    moved = jax.tree.map(lambda w: 0.9 * w, PARAMS)
    np.testing.assert_allclose(Fresh(model.predict)(moved, second), model(moved, 2 * X), rtol=1e-5)
