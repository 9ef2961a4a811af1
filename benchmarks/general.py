"""Value and gradient of ``f_quad`` for any function: which order of derivatives is the cheapest."""

import functools

import jax
import jax.numpy as jnp

from benchmarks.measure import difference, fair_rate, follow
from benchmarks.problems import make_data, make_network, make_params
from benchmarks.steps import bound_step, descend, grad_step
from nqm_tools.expansions import FunctionModel, QuadraticModel


def measure(case):
    problem = case["problem"]
    data, f, params = make_data(problem), make_network(problem), make_params(problem)
    x, y = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
    rate, quad, reference = fair_rate(f, params, x, y), QuadraticModel(f, params), None
    schemes = {
        "A: taylor_expand, and jvp of grad": bound_step,
        "B: reverse over taylor_expand": grad_step,
        "C: jvp of jvp, and reverse over jvp": _mixed_step,
    }
    for title, scheme in schemes.items():
        first, seconds, prediction = follow(functools.partial(scheme, quad, x, y, rate), params)
        reference = prediction if reference is None else reference
        columns = {"step": seconds, "first step": first, "difference": difference(prediction, reference)}
        yield "A step of f_quad", {"function": problem["name"], "scheme": title} | columns


@jax.jit
def _mixed_step(model, x, y, rate, params):
    """With ``s(w, d) = (f(w), f'(w) d)``: ``r . s_2`` has the gradients ``H_r d`` in w and ``J^T r`` in d."""
    delta = jax.tree.map(jnp.subtract, params, model.params0)

    def slope(at, along):
        return jax.jvp(lambda p: FunctionModel(model.f).predict(p, x), (at,), (along,))

    (value, first), (_, second) = jax.jvp(lambda at: slope(at, delta), (model.params0,), (delta,))
    value += first + second / 2
    _, vjp = jax.vjp(lambda at, along: slope(at, along)[1], model.params0, delta)
    gradient = jax.tree.map(jnp.add, *vjp(value - y))
    return descend(params, gradient, rate), value
