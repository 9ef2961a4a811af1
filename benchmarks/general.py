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
        "A: taylor_expand, and jvp of grad": _two_pass_step,
        "B: reverse over taylor_expand": grad_step,
        "C: jvp of jvp, and reverse over jvp": bound_step,
    }
    for title, scheme in schemes.items():
        first, seconds, prediction = follow(functools.partial(scheme, quad, x, y, rate), params)
        reference = prediction if reference is None else reference
        columns = {"step": seconds, "first step": first, "difference": difference(prediction, reference)}
        yield "A step of f_quad", {"function": problem["name"], "scheme": title} | columns


@jax.jit
def _two_pass_step(model, x, y, rate, params):
    """The value by one expansion; the gradient ``J^T r + H_r delta`` by ``jvp`` of the pullback at ``params0``."""
    delta = jax.tree.map(jnp.subtract, params, model.params0)
    value = model.predict(params, x)

    def gradient(at):
        return FunctionModel(model.f).pullback(at, x, value - y)

    first, second = jax.jvp(gradient, (model.params0,), (delta,))
    return descend(params, jax.tree.map(jnp.add, first, second), rate), value
