"""The exact maps against gradient descent on the models themselves; identities, equilibria, units, bad input."""

import functools
from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import nqm_tools as nqm
from nqm_tools import dynamics, networks
from nqm_tools.dynamics import Dimensionless, ManyExamples, OneExample, Quadratic, Signed

EXACT = {"rtol": 1e-10, "atol": 1e-12}
STEPS = 200


def problem(x, width, seed=0):
    """The quadratic model of a two-layer ReLU network, its predictions (n,) and its kernel (n, n) at the start."""
    net = networks.two_layer_fc(width)
    params = net.init(jax.random.key(seed), x.shape)
    return nqm.quadraticize(net, params), *closed_form(params, params, x)


def closed_form(params0, params, x):
    """Predictions (1/sqrt(m d)) sum_k v_k s_k(x) u_k . x, with the gates of the start, and their kernel."""
    (start, _), (u, v) = ([np.asarray(leaf) for leaf in jax.tree.leaves(weights)] for weights in (params0, params))
    gates = x @ start >= 0
    hidden = gates * (x @ u)
    kernel = hidden @ hidden.T + x @ x.T * ((gates * v[:, 0] ** 2) @ gates.T)
    return (hidden @ v)[:, 0] / u.size**0.5, kernel / u.size


def train(model, x, y, rate, **options):
    data = nqm.Data("own", x, y)
    return nqm.train(model, data, learning_rate=rate, steps=STEPS, loss="half_sum", **{"record": ()} | options)


@functools.partial(jax.jit, static_argnames="step")
def walk(step, start, *arguments):
    return dynamics.iterate(lambda state: step(state, *arguments), start, STEPS)


@pytest.mark.parametrize(("width", "d", "record"), [(40, 1, ()), (150, 3, "lambda_1"), (600, 12, ())])
def test_one_example_moves_as_the_map_says(x64, width, d, record):
    x = np.random.default_rng([width, d]).standard_normal((1, d))
    x *= 1.2 * d**0.5 / np.linalg.norm(x)
    model, (g0,), ((kernel0,),) = problem(x, width)
    c, seen = dynamics.coupling(x[0], width), set()

    def step(state, rate, y):
        return dynamics.one_example_step(state, rate, c, y)

    for v0 in (0.6, 1.7, 2.3, 2.9, 3.4, 4.6):
        for y in (0.0, 0.7, -1.3):
            rate = v0 / kernel0
            run = train(model, x, [y], rate, record=record)
            path = walk(step, OneExample(g0, kernel0), rate, y)
            until = np.isfinite(run.losses).sum()
            np.testing.assert_allclose(np.abs(path.prediction - y)[:until], np.sqrt(2 * run.losses[:until]), **EXACT)
            if record:
                np.testing.assert_allclose(path.kernel[:until], run.records["lambda_1"][:until], **EXACT)
            if run.stopped == "finished":
                (g,), ((kernel,),) = closed_form(model.params0, run.params, x)
                np.testing.assert_allclose((path.prediction[-1], path.kernel[-1]), (g, kernel), **EXACT)
            seen.add((run.regime, y == 0))
    assert seen == {(regime, zero) for regime in ("monotone", "catapult", "divergent") for zero in (True, False)}


@pytest.mark.parametrize("both_signs", [True, False])
def test_one_dimensional_examples_move_as_the_map_says_group_by_group(x64, both_signs):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((12, 1)) + np.where(np.arange(12) < 7, 1, -1)[:, None]
    x, y, width = x if both_signs else np.abs(x), np.sign(rng.standard_normal(12)), 150
    model, g0, kernel0 = problem(x, width)
    groups = dynamics.sign_groups(x, width)
    start = ManyExamples(g0 - y, dynamics.group_eigenvalues(kernel0, groups))
    p = groups.directions
    np.testing.assert_allclose(p.T @ (start.kernel[:, None] * p), kernel0, **EXACT)

    def step(state, rate):
        return dynamics.many_examples_step(state, rate, y, groups)

    regimes = set()
    for v0 in (0.9, 1.9, 2.6, 3.3, 4.5):
        rate = v0 / max(start.kernel)
        run = train(model, x, y, rate, record=("lambda_1", "lambda_2"))
        path = walk(step, start, rate)
        until = np.isfinite(run.losses).sum()
        np.testing.assert_allclose(np.sum(path.residual**2, axis=1)[:until] / 2, run.losses[:until], **EXACT)
        ordered = np.sort(path.kernel, axis=1)[:until, ::-1]
        recorded = np.stack([run.records["lambda_1"], run.records["lambda_2"]], axis=1)[:until]
        assert np.all(np.abs(ordered - recorded) <= 1e-10 * recorded[:, :1])
        if run.stopped == "finished":
            predictions, kernel = closed_form(model.params0, run.params, x)
            np.testing.assert_allclose(path.residual[-1] + y, predictions, **EXACT)
            np.testing.assert_allclose(path.kernel[-1], dynamics.group_eigenvalues(kernel, groups), **EXACT)
            outside = path.residual - path.residual @ p.T @ p  # Proposition 9
            np.testing.assert_allclose(outside, np.broadcast_to(outside[0], outside.shape), atol=1e-12)
        regimes.add(run.regime)
    assert regimes == {"monotone", "catapult", "divergent"}


RNG = np.random.default_rng(1)
LINEAR, HESSIANS = RNG.standard_normal((3, 12)), RNG.standard_normal((3, 12, 12)) / 16
HESSIANS += HESSIANS.transpose(0, 2, 1)
WEIGHTS, TARGETS = RNG.standard_normal(12), RNG.standard_normal(3)


def any_quadratic(w, x):
    """A quadratic function of w with Hessians; its inputs are rows of the identity."""
    return x @ (LINEAR @ w + jnp.einsum("npq,p,q->n", HESSIANS, w, w) / 2)


def state_at(w):
    return Quadratic(LINEAR + HESSIANS @ w, np.asarray(any_quadratic(w, np.eye(3))) - TARGETS)


def quadratic_step(state, rate):
    return dynamics.quadratic_step(state, rate, lambda direction: HESSIANS @ direction)


def test_any_quadratic_model_moves_as_the_map_says(x64):
    start, regimes = state_at(WEIGHTS), set()
    critical = nqm.critical_learning_rate(start.jacobian @ start.jacobian.T, "half_sum")
    for ratio in (0.3, 1.05, 1.2, 3.0):
        run = train(any_quadratic, np.eye(3), TARGETS, ratio * critical, params=WEIGHTS)
        path = walk(quadratic_step, start, ratio * critical)
        until = np.isfinite(run.losses).sum()
        np.testing.assert_allclose(np.sum(path.residual**2, axis=1)[:until] / 2, run.losses[:until], **EXACT)
        if run.stopped == "finished":
            for followed, found in zip(path, state_at(run.params), strict=True):
                np.testing.assert_allclose(followed[-1], found, **EXACT)
        regimes.add(run.regime)
    assert regimes == {"monotone", "catapult", "divergent"}


@given(seed=st.integers(0, 2**16), rate=st.floats(0.01, 3.0))
@settings(max_examples=10, deadline=None)
def test_the_step_with_hessians_is_the_kernel_step_without(seed, rate):
    with jax.enable_x64(True):
        moved = WEIGHTS + np.random.default_rng(seed).standard_normal(12)
        after = quadratic_step(state_at(moved), rate)
        step = nqm.kernel_step(any_quadratic, WEIGHTS, moved, np.eye(3), TARGETS, rate)
        kernel, residual = after.jacobian @ after.jacobian.T, step.residual[:, 0]
        np.testing.assert_allclose(kernel, step.kernel, rtol=1e-10, atol=1e-10 * np.abs(kernel).max())
        np.testing.assert_allclose(after.residual, residual, rtol=1e-10, atol=1e-10 * np.abs(residual).max())


fractions = st.fractions(-3, 3, max_denominator=60)


@given(z=fractions, v=st.fractions(0, 6, max_denominator=60), beta=fractions)
def test_the_triangle_is_exact(z, v, beta):
    state = Signed(z, v)
    d, p, q = dynamics.triangle(state, beta)
    after = dynamics.signed_step(state, beta)
    assert dynamics.triangle(after, beta) == ((1 + z * z + beta * z) * d, (1 - z) ** 2 * p, (1 + z) ** 2 * q)
    assert d + p * (Fraction(1, 2) - beta / 4) + q * (Fraction(1, 2) + beta / 4) == 4 - beta**2


@given(r=fractions, kernel=st.fractions(0, 6, max_denominator=60), y=fractions, rate=fractions, root=fractions)
def test_all_units_are_one_map(r, kernel, y, rate, root):
    assume(rate * root != 0)
    c, scale = root**2, root * rate  # root = sqrt(c), so that z and beta are rational
    state = OneExample(y + r, kernel)
    after = dynamics.one_example_step(state, rate, c, y)
    signed = dynamics.signed_step(Signed(scale * r, rate * kernel), scale * y)
    assert signed == (scale * (after.prediction - y), rate * after.kernel)
    units = dynamics.dimensionless(*state, rate, c, y)
    assert units == (signed_units := ((scale * r) ** 2, rate * kernel, scale * r * scale * y))
    assert dynamics.dimensionless_step(Dimensionless(*signed_units)) == dynamics.dimensionless(*after, rate, c, y)


@given(z=fractions, v=fractions)
def test_without_a_target_exact_numbers_stay_exact(z, v):
    after = dynamics.signed_step(Signed(z, v))
    assert after == dynamics.one_example_step(OneExample(z, v), 1, 1)
    assert dynamics.dimensionless(z, v, 1, 1) == (z * z, v, 0)
    assert dynamics.triangle(Signed(z, v)) == (4 - v, v + 2 * z, v - 2 * z)
    assert {type(number) for number in after} == {Fraction}


def test_high_precision_numbers_keep_their_precision():
    tiny = Decimal("1e-25")
    after = dynamics.signed_step(Signed(tiny, Decimal(2)))
    assert after == (-tiny + tiny**3, 2 - 2 * tiny**2)


GROUPS = dynamics.SignGroups(np.eye(2, 3, dtype=np.float32), np.array([0.1, 0.2], np.float32))
EVERY_STEP = {
    "one_example": (lambda s: dynamics.one_example_step(s, 1.5, 0.1, 0.5), OneExample, ((), ())),
    "dimensionless": (dynamics.dimensionless_step, Dimensionless, ((), (), ())),
    "signed": (lambda s: dynamics.signed_step(s, 0.3), Signed, ((), ())),
    "many_examples": (
        lambda s: dynamics.many_examples_step(s, 0.5, jnp.ones(3, jnp.float32), GROUPS),
        ManyExamples,
        ((3,), (2,)),
    ),
    "quadratic": (lambda s: dynamics.quadratic_step(s, 0.1, lambda g: jnp.stack([g, -g])), Quadratic, ((2, 4), (2,))),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EVERY_STEP)
def test_steps_keep_the_precision_under_jit_vmap_and_scan(x64, name, dtype):
    step, kind, shapes = EVERY_STEP[name]
    rng = np.random.default_rng(0)
    states = kind(*(jnp.asarray(rng.uniform(0.1, 0.9, (4, *shape)), dtype) for shape in shapes))
    one_by_one = [step(jax.tree.map(lambda leaf, i=i: leaf[i], states)) for i in range(4)]
    together = jax.jit(jax.vmap(step))(states)
    path = dynamics.iterate(jax.vmap(step), states, 3)
    for leaf, *single, stacked, start in zip(together, *one_by_one, path, states, strict=True):
        assert leaf.dtype == stacked.dtype == dtype
        np.testing.assert_allclose(leaf, np.stack(single), rtol=1e-5 if dtype == "float32" else 1e-13)
        assert stacked.shape == (4, *leaf.shape)
        np.testing.assert_array_equal(stacked[0], start)
        np.testing.assert_allclose(stacked[1], leaf, rtol=1e-5 if dtype == "float32" else 1e-13)


def test_python_numbers_step_as_they_are_and_iterate_in_the_default_precision():
    assert dynamics.dimensionless_step(Dimensionless(0.25, 3.0, 0.0)) == (0.765625, 2.75, 0.0)
    path = dynamics.iterate(dynamics.dimensionless_step, Dimensionless(0.25, 3, 0), 1)
    assert [leaf.dtype for leaf in path] == ["float32"] * 3
    assert [leaf.tolist() for leaf in path] == [[0.25, 0.765625], [3.0, 2.75], [0.0, 0.0]]
    start = dynamics.iterate(dynamics.dimensionless_step, Dimensionless(0.25, 3.0, 0.0), 0)
    assert [leaf.tolist() for leaf in start] == [[0.25], [3.0], [0.0]]


def test_units_go_there_and_back():
    x = np.array([1.0, 2.0, 2.0])
    c, rate, y = dynamics.coupling(x, 6), 0.7, 0.5
    assert c == pytest.approx(9 / 18)
    u, v, w = dynamics.dimensionless(2.0, 3.0, rate, c, y)
    assert dynamics.loss_from_u(u, rate, c) == pytest.approx((2.0 - y) ** 2 / 2)
    assert dynamics.kernel_from_v(v, rate) == pytest.approx(3.0)
    assert w == pytest.approx(c * rate**2 * (2.0 - y) * y)
    assert c * 4.0 == dynamics.coupling(2 * x, 6) == dynamics.coupling(2 * np.reshape(x, (1, -1)), 6)


def test_sign_groups_are_orthonormal_and_an_empty_one_is_zero():
    x = np.array([3.0, -1.0, 0.0, 4.0, -2.0])
    for shaped in (x, x[:, None], x.tolist()):
        groups = dynamics.sign_groups(shaped, 10)
        np.testing.assert_allclose(groups.directions[0], [0.6, 0, 0, 0.8, 0], rtol=1e-6)
        np.testing.assert_allclose(groups.directions[1], [0, -(0.2**0.5), 0, 0, -(0.8**0.5)], rtol=1e-6)
        np.testing.assert_allclose(groups.c, [2.5, 0.5], rtol=1e-6)
    only = dynamics.sign_groups([1.0, 2.0], 5)
    np.testing.assert_allclose(only.c, [1.0, 0.0])
    assert not only.directions[1].any()


@given(beta=fractions)
def test_isolated_equilibria_are_fixed_and_unstable(beta):
    found = dynamics.isolated_equilibria(float(beta))
    expected = {(z, 4 + z * beta) for z in (2, -2) if 4 + z * beta > 0} | ({(-beta, 0)} if beta else set())
    for z, v in expected:
        assert dynamics.signed_step(Signed(z, v), beta) == (z, v)  # exactly
    places = sorted((e.z, e.v) for e in found if e.period == 1)
    np.testing.assert_allclose(places, sorted((float(z), float(v)) for z, v in expected), atol=1e-14)
    assert len(found) == len(expected) + (0 if beta else 2)
    for e in found:
        after = dynamics.signed_step(Signed(e.z, e.v), float(beta))
        np.testing.assert_allclose(after, (e.z if e.period == 1 else -e.z, e.v), atol=1e-14)
        assert not e.stable
        assert np.abs(e.multipliers[0]) > 1
        assert np.abs(e.multipliers[0]) >= np.abs(e.multipliers[1])


def test_the_multipliers_without_a_target_are_the_papers():
    found = {(round(e.z**2, 9), e.v, e.period): sorted(e.multipliers) for e in dynamics.isolated_equilibria()}
    np.testing.assert_allclose(found[4, 4, 1], [5, 9])
    np.testing.assert_allclose(found[2, 4, 2], [-3, 3])


@given(z=st.floats(-3, 3), v=st.floats(0, 6), beta=st.floats(-2, 2))
@settings(deadline=None, max_examples=30)
def test_the_jacobian_is_the_steps_derivative(z, v, beta):
    with jax.enable_x64(True):
        derivative = jax.jacfwd(lambda s: jnp.stack(dynamics.signed_step(Signed(*s), beta)))(jnp.array([z, v]))
    np.testing.assert_allclose(dynamics.jacobian(Signed(z, v), beta), derivative, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.2, -0.7])
def test_neighbours_come_to_rest_at_the_stable_equilibria_and_leave_the_others(beta):
    low, high = dynamics.stable_interval(beta)
    for v in (low, low + 0.01, (low + high) / 2, high - 0.1, high, high + 0.1, high + 1):
        e = dynamics.equilibrium(v, beta)
        assert (e.z, e.v, e.period, e.stable) == (0.0, v, 1, low <= v < high)
        assert dynamics.signed_step(Signed(0.0, v), beta) == (0.0, v)
        eigenvalues = np.linalg.eigvals(dynamics.jacobian((0, v), beta)).real  # complex by type in NumPy 2.5
        np.testing.assert_allclose(sorted(e.multipliers), sorted(eigenvalues))
        if v == high:
            continue  # neighbours stay near, but not by their multipliers
        z = 1e-4
        end = dynamics.final_v(max(v, 2 * abs(z + beta) + 1e-4), z * z, beta * z)
        assert (abs(end - v) < 1e-3) == e.stable
    for e in dynamics.isolated_equilibria(beta):
        eigenvalues, vectors = np.linalg.eig(
            np.diag([3 - 2.0 * e.period, 1]) @ dynamics.jacobian(Signed(e.z, e.v), beta)
        )
        state = Signed(*(np.array([e.z, e.v]) + 1e-6 * vectors.real[:, np.argmax(np.abs(eigenvalues))]))
        for _ in range(30):
            state = dynamics.signed_step(state, beta)
            distance = np.hypot(abs(state.z) - abs(e.z), state.v - e.v)
            if distance > 1e-2:
                break
        assert distance > 1e-2


def test_nothing_is_stable_when_the_target_is_too_large():
    assert dynamics.stable_interval(1.0) is dynamics.stable_interval(-1.5) is None
    assert not dynamics.equilibrium(2.2, 1.1).stable


STATE = dynamics.Dimensionless(0.1, 2.0, 0.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dynamics.coupling([[1.0], [2.0]], 2), ValueError, r"x must be one finite input.*\(2, 1\)"),
        (lambda: dynamics.coupling(1.0, 2), ValueError, r"x must be one finite input.*\(\)"),
        (lambda: dynamics.coupling([np.nan], 2), ValueError, "x must be one finite input"),
        (lambda: dynamics.coupling([], 2), ValueError, "x must be one finite input"),
        (lambda: dynamics.coupling("ab", 2), TypeError, "x must be an array of numbers"),
        (lambda: dynamics.coupling([1j], 2), TypeError, "x must be real"),
        (lambda: dynamics.coupling([1.0], 0), ValueError, "width must be a whole number >= 1; got 0"),
        (lambda: dynamics.sign_groups(np.ones((2, 2)), 3), ValueError, r"x must hold one-dimensional.*\(2, 2\)"),
        (lambda: dynamics.sign_groups([np.inf], 3), ValueError, "x must be finite"),
        (lambda: dynamics.sign_groups([], 3), ValueError, "x is empty"),
        (lambda: dynamics.sign_groups(1.0, 3), ValueError, "x must have a first axis"),
        (lambda: dynamics.sign_groups([1.0], 2.5), ValueError, "width must be a whole number >= 1; got 2.5"),
        (lambda: dynamics.iterate(dynamics.dimensionless_step, STATE, -1), ValueError, "steps must be a whole"),
        (lambda: dynamics.iterate(dynamics.dimensionless_step, STATE, True), TypeError, "steps must be a whole"),
        (lambda: dynamics.loss_from_u(1.0, 0.0, 1.0), ValueError, "learning_rate must be a positive"),
        (lambda: dynamics.loss_from_u(1.0, "1", 1.0), TypeError, "learning_rate must be a positive"),
        (lambda: dynamics.kernel_from_v(1.0, -1.0), ValueError, "learning_rate must be a positive.*got -1.0"),
        (lambda: dynamics.stable_interval(np.nan), ValueError, "beta must be a finite number"),
        (lambda: dynamics.stable_interval([0.1, 0.2]), TypeError, "beta must be a finite number"),
        (lambda: dynamics.isolated_equilibria("0"), TypeError, "beta must be a finite number; got '0'"),
        (lambda: dynamics.equilibrium(0.3, 0.2), ValueError, r"v must be at least 2 \|beta\| = 0.4.*got 0.3"),
        (lambda: dynamics.equilibrium(np.inf), ValueError, "v must be a finite number"),
        (lambda: dynamics.equilibrium(1.0, None), TypeError, "beta must be a finite number; got None"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
