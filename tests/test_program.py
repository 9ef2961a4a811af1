"""What a function does counts, not which object it is: changed globals, attributes, closures; memory; compilations."""

import gc
import pathlib
import subprocess
import sys
import textwrap
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nqm_tools as nqm
from nqm_tools._program import Fresh, compilations

SCALE = 1.0
BOX = types.SimpleNamespace(scale=1.0)
X = jax.random.normal(jax.random.key(0), (5, 3))
Y = jnp.ones((5, 1)).at[::2].set(-1)
PARAMS = [jax.random.normal(jax.random.key(1), (3, 8)), jax.random.normal(jax.random.key(2), (8, 1))]
MOVED = jax.tree.map(lambda w: w + 0.3, PARAMS)
DATA = nqm.Data("own", X, Y, X[:2], Y[:2])


def body(params, x):
    return jax.nn.gelu(x @ params[0]) @ params[1]


def by_global(params, x):
    return SCALE * body(params, x)


def by_attribute(params, x):
    return BOX.scale * body(params, x)


class ByClosure:
    """A function over an array that is replaced."""

    def __init__(self):
        array = jnp.ones(1)

        def f(params, x):
            return array * body(params, x)

        def put(scale):
            nonlocal array
            array = jnp.full(1, scale)

        self.f, self.put = f, put


def change_global(scale):
    global SCALE
    SCALE = scale


CLOSURE = ByClosure()
KINDS = {
    "global": (by_global, change_global),
    "attribute": (by_attribute, lambda scale: setattr(BOX, "scale", scale)),
    "closure": (CLOSURE.f, CLOSURE.put),
}
RATE = 0.01


def kernel_with_many_rows(f):
    x = jnp.tile(X, (210, 1)) * jnp.linspace(0.5, 1.5, 1050)[:, None]
    return nqm.top_eigenpairs(f, PARAMS, x, k=2)[0]


def record(f, name):
    return nqm.train(f, DATA, learning_rate=RATE, steps=3, params=PARAMS, record=(name,)).records


LIN, QUAD = {}, {}
CALLS = {
    "empirical_ntk": lambda f: nqm.empirical_ntk(f, PARAMS, X, X[:2]),
    "top_eigenpairs": lambda f: nqm.top_eigenpairs(f, PARAMS, X)[0],
    "top_eigenpairs, matrix-free": kernel_with_many_rows,
    "sharpness": lambda f: nqm.sharpness(f, PARAMS, X, Y),
    "gauss_newton_sharpness": lambda f: nqm.curvature.gauss_newton_sharpness(f, PARAMS, X, Y, "logistic"),
    "kernel_step": lambda f: nqm.kernel_step(f, PARAMS, MOVED, X, Y, RATE),
    "linearize": lambda f: LIN.setdefault(f, nqm.linearize(f, PARAMS))(MOVED, X),
    "quadraticize": lambda f: QUAD.setdefault(f, nqm.quadraticize(f, PARAMS))(MOVED, X),
    "second_order_term": lambda f: nqm.second_order_term(f, PARAMS, MOVED, X),
    "remainder": lambda f: nqm.remainder(f, PARAMS, MOVED, X),
    "train f": lambda f: nqm.train(f, DATA, learning_rate=RATE, steps=3, params=PARAMS).losses,
    "train f_lin": lambda f: nqm.train(nqm.linearize(f, PARAMS), DATA, learning_rate=RATE, steps=3).losses,
    "train f_quad": lambda f: nqm.train(nqm.quadraticize(f, PARAMS), DATA, learning_rate=RATE, steps=3).losses,
    "recorded": lambda f: record(f, "lambda_1"),
    "max_stable_learning_rate": lambda f: nqm.max_stable_learning_rate(
        nqm.linearize(f, PARAMS), DATA, steps=30, tolerance=0.2
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_a_function_reads_may_change_between_calls(call, kind):
    f, change = KINDS[kind]
    # A function of its own has no history.
    expected = {scale: call(lambda params, x, scale=scale: scale * body(params, x)) for scale in (1.0, 2.0)}
    for scale in (1.0, 2.0, 1.0):
        change(scale)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), call(f), expected[scale])
    change(1.0)


def test_what_a_loss_a_recorder_a_schedule_and_an_optimiser_read_may_change():
    def run(**options):
        options = {"learning_rate": RATE, "record": ()} | options
        return nqm.train(body, DATA, steps=3, params=PARAMS, **options)

    def all_of_them(scale):
        own = {
            "loss": run(loss=lambda p, y: scale() * jnp.sum((p - y) ** 2, axis=1)).losses,
            "record": run(record={"q": lambda now: scale() * now.train_loss}).records["q"],
            "schedule": run(learning_rate=lambda step: scale() * RATE + 0 * step).losses,
            "optimizer": run(optimizer=lambda rate: optax.sgd(scale() * rate)).losses,
        }
        return own

    for scale in (1.0, 3.0, 1.0):
        BOX.scale = scale
        jax.tree.map(np.testing.assert_array_equal, all_of_them(lambda: BOX.scale), all_of_them(lambda s=scale: s))
    BOX.scale = 1.0


CALLED = [call for name, call in CALLS.items() if name not in ("linearize", "quadraticize")]


@pytest.mark.parametrize("rule", ["plain", "jit", "custom_jvp", "scan"])
def test_what_the_user_has_dropped_is_freed(rule):
    def use():
        big = jnp.ones((3, 8)) * 1.5

        @jax.custom_jvp
        def own(h):
            return h * big[0, 0]

        own.defjvp(lambda primals, tangents: (own(primals[0]), tangents[0] * big[1, 1]))
        inner = {
            "plain": lambda h: h * big[0],
            "jit": jax.jit(lambda h: h * big[0]),
            "custom_jvp": own,
            "scan": lambda h: jax.lax.scan(lambda c, _: (own(c), None), h, None, length=2)[0],
        }[rule]

        def f(params, x):
            return inner(x @ params[0]) @ params[1]

        for call in CALLED:
            call(f)
        return weakref.ref(big)

    alive = use()
    jax.effects_barrier()
    gc.collect()
    assert alive() is None


def test_the_same_program_is_compiled_once():
    def make(array):
        return lambda params, x: array * body(params, x)

    def use(array):
        f = make(array)
        nqm.empirical_ntk(f, PARAMS, X)
        nqm.train(nqm.quadraticize(f, PARAMS), DATA, learning_rate=RATE, steps=5, record=("lambda_1",))

    use(jnp.full(1, 1.1))
    before = compilations()
    for scale in (1.2, 1.3):
        use(jnp.full(1, scale))
    assert compilations() == before


def test_programs_that_differ_in_any_literal_operation_or_shape_are_told_apart():
    functions = [
        lambda x: x * 1.0, lambda x: x * 1.0000001, lambda x: x + 1.0, lambda x: x**2, lambda x: x**3,
        lambda x: jnp.where(x > 0, x, 0.0), lambda x: jnp.where(x > 0, x, -0.0), lambda x: x * True,
        lambda x: x.sum() + 0 * x, lambda x: jax.lax.scan(lambda c, _: (c * 2, None), x, None, length=2)[0],
        lambda x: jax.lax.scan(lambda c, _: (c * 2, None), x, None, length=3)[0],
        lambda x: jax.lax.cond(x[0] > 0, lambda c: c * 2, lambda c: c, x),
        lambda x: jax.lax.cond(x[0] > 0, lambda c: c, lambda c: c * 2, x),
        lambda x: jax.jit(lambda c: c * 5)(x), lambda x: jax.jit(lambda c: c * 6)(x),
    ]  # fmt: skip
    for x in (jnp.array([-1.5, 2.0]), jnp.array([3.0, -0.5, 0.25])):
        for f in functions:
            np.testing.assert_array_equal(np.asarray(Fresh(f)(x)), np.asarray(f(x)))
            np.testing.assert_array_equal(np.signbit(np.asarray(Fresh(f)(x))), np.signbit(np.asarray(f(x))))


@pytest.mark.parametrize("wrap", [jax.jit, lambda g: lambda p: jax.vmap(g)(jax.tree.map(lambda w: w[None], p))[0]])
def test_under_the_users_own_transformations_nothing_changes(wrap):
    lin = nqm.linearize(body, PARAMS)
    inside = wrap(lambda p: lin(p, X))(MOVED)
    np.testing.assert_allclose(inside, lin(MOVED, X), rtol=1e-5)
    gradient = jax.grad(lambda p: jnp.sum(lin(p, X)))(MOVED)
    expected = jax.grad(lambda p: jnp.sum(body(p, X)))(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, expected)


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="Linux says which maps a process has")
def test_programs_are_given_back_with_jaxs_caches():
    # Else a process that compiles much comes to its limit of maps: few_programs in conftest.py stands on this.
    code = """
        import gc, pathlib
        import jax, jax.numpy as jnp
        from nqm_tools._program import Fresh
        def maps():
            return pathlib.Path("/proc/self/maps").read_bytes().count(b"\\n")
        Fresh(jnp.sin)(jnp.ones(3))
        before = maps()
        for n in range(4, 44):
            Fresh(lambda x: jnp.tanh(x @ x.T).sum())(jnp.ones((n, n)))
        compiled = maps()
        jax.clear_caches()
        gc.collect()
        print(before, compiled, maps())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    before, compiled, after = map(int, done.stdout.split())
    assert compiled - before > 40 * 2
    assert after - before < (compiled - before) / 10
