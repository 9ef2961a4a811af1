"""Value and gradient of ``f_quad`` for any function: which order of derivatives is the cheapest."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.jet import jet

from benchmarks.measure import difference, fair_rate, follow
from benchmarks.problems import make_data, make_network, make_params
from benchmarks.steps import bound_step, descend, grad_step
from nqm_tools.expansions import FunctionModel, QuadraticModel

TABLE = "A step of f_quad"
GRADIENT, PRODUCT = "a gradient of f", "a Hessian-vector product of f"


def measure(case):
    problem = case["problem"]
    data, f, params = make_data(problem), make_network(problem), make_params(problem)
    x, y = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
    rate, quad, reference = fair_rate(f, params, x, y), QuadraticModel(f, params), None
    linear = _linearized(quad, x)
    schemes = {
        "A: taylor_expand, and jvp of grad": functools.partial(_two_pass_step, quad, x, y, rate),
        "B: reverse over taylor_expand": functools.partial(grad_step, quad, x, y, rate),
        "C: jvp of jvp, and reverse over jvp": functools.partial(bound_step, quad, x, y, rate),
        "D: jet, and reverse over jvp": functools.partial(_jet_step, quad, x, y, rate),
        "E: linearized once, and C's second order": functools.partial(_linearized_step, quad, linear, x, y, rate),
        "F: C, rematerialised": functools.partial(bound_step, QuadraticModel(_Rematerialised(f), params), x, y, rate),
        "G: C, the pass at the start kept": functools.partial(bound_step, quad, quad.keep(x), y, rate),
        GRADIENT: functools.partial(_gradient_step, quad, x, y, rate),
        PRODUCT: functools.partial(_product_step, quad, x, y, rate),
    }
    for title, step in schemes.items():
        row = {"function": problem["name"], "scheme": title}
        step = _Compiled(step)
        try:
            first, seconds, prediction = follow(step, params)
        except (NotImplementedError, TypeError) as error:
            if not title.startswith("D"):
                raise
            yield TABLE, row | {"note": f"jet cannot: {str(error).splitlines()[0]}"}
            continue
        working = {
            "GFLOP": step.operations / 1e9,
            "memory": {"bytes": step.memory},
            "working memory": {"bytes": step.working_memory},
        }
        columns = {"step": seconds} | working | {"first step": first}
        if title not in (GRADIENT, PRODUCT):
            reference = prediction if reference is None else reference
            columns["difference"] = difference(prediction, reference)
        yield TABLE, row | columns


class _Compiled:
    """A step that is compiled at its first call; XLA says its ``operations``, and in bytes its ``memory``: arguments,
    results and ``working_memory``."""

    def __init__(self, step):
        self.step, self.program = step, None

    def __call__(self, params):
        if self.program is None:
            self.program = self.step.func.lower(*self.step.args, params).compile()
            self.operations = self.program.cost_analysis()["flops"]
            sizes = self.program.memory_analysis()
            self.working_memory = sizes.temp_size_in_bytes
            self.memory = self.working_memory + sizes.argument_size_in_bytes + sizes.output_size_in_bytes
        return self.program(*self.step.args, params)


class _Rematerialised:
    """A function whose intermediate values are computed again where they are needed backwards."""

    def __init__(self, f):
        self.f = f

    def __call__(self, params, x):
        return jax.checkpoint(lambda params, x: FunctionModel(self.f).predict(params, x))(params, x)


@jax.jit
def _two_pass_step(model, x, y, rate, params):
    """The value by one expansion; the gradient ``J^T r + H_r delta`` by ``jvp`` of the pullback at ``params0``."""
    delta = jax.tree.map(jnp.subtract, params, model.params0)
    value = model.predict(params, x)

    def gradient(at):
        return FunctionModel(model.f).pullback(at, x, value - y)

    first, second = jax.jvp(gradient, (model.params0,), (delta,))
    return descend(params, jax.tree.map(jnp.add, first, second), rate), value


@jax.jit
def _jet_step(model, x, y, rate, params):
    """The value by Taylor-mode derivatives along ``delta``; the gradient as C has it."""
    delta = jax.tree.map(jnp.subtract, params, model.params0)
    f = FunctionModel(model.f)
    leaves, tree = jax.tree.flatten(model.params0)
    along = [[leaf, jnp.zeros_like(leaf)] for leaf in jax.tree.leaves(delta)]
    value, (slope, curvature) = jet(lambda *leaves: f.predict(jax.tree.unflatten(tree, leaves), x), leaves, along)
    value = value + slope + curvature / 2
    _, vjp = jax.vjp(lambda p: jax.jvp(lambda q: f.predict(q, x), (p,), (delta,)), model.params0)
    return descend(params, vjp((value - y, value - y))[0], rate), value


@jax.jit
def _linearized(model, x):
    """Value and linear part at ``params0``, with all that the linear part needs kept."""
    return jax.linearize(lambda p: FunctionModel(model.f).predict(p, x), model.params0)


@jax.jit
def _linearized_step(model, linear, x, y, rate, params):
    """The linear part from what was kept; the second order by ``jvp`` of ``jvp``, and by ``jvp`` of the pullback."""
    delta = jax.tree.map(jnp.subtract, params, model.params0)
    f = FunctionModel(model.f)

    def slope(at):
        return jax.jvp(lambda p: f.predict(p, x), (at,), (delta,))[1]

    first, times = linear
    value = first + times(delta) + jax.jvp(slope, (model.params0,), (delta,))[1] / 2
    (gradient,) = jax.linear_transpose(times, delta)(value - y)
    _, second = jax.jvp(lambda at: f.pullback(at, x, value - y), (model.params0,), (delta,))
    return descend(params, jax.tree.map(jnp.add, gradient, second), rate), value


@jax.jit
def _gradient_step(model, x, y, rate, params):
    return bound_step.__wrapped__(FunctionModel(model.f), x, y, rate, params)


@jax.jit
def _product_step(model, x, y, rate, params):
    """The product of the loss's Hessian at ``params0`` with a vector, forward over reverse."""
    f = FunctionModel(model.f)

    def gradient(at):
        value, pullback = f.value_and_pullback(at, x)
        return pullback(value - y), value

    direction = jax.tree.map(jnp.ones_like, params)
    (_, value), (product, _) = jax.jvp(gradient, (params,), (direction,))
    return descend(params, product, 0 * rate), value
