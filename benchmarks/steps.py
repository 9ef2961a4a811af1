"""One step of each model, as the package computes it and in the general ways, on the same data from the same start."""

import functools

import jax
import jax.numpy as jnp

import nqm_tools as nqm
from benchmarks import pytorch
from benchmarks.measure import difference, fair_rate, follow, out_of_memory, timed
from benchmarks.problems import make_data, make_model, make_network, make_params
from nqm_tools.expansions import as_model
from nqm_tools.training import Method, prepare

GENERAL = {"f": "jax.grad", "f_lin": "jax.grad of nt.linearize", "f_quad": "jax.grad of nt.taylor_expand"}
TABLE = "A step"


def measure(case):
    """Yields (table, row) for each way."""
    problem, name = case["problem"], case["model"]
    data, network, params = make_data(problem), make_network(problem), make_params(problem)
    model = make_model(name, network, params)
    x, y = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
    rate = fair_rate(network, params, x, y)
    row = {"problem": problem["name"], "model": name}

    first = package_first_step(model, data, params)
    state, step = package_step(model, data, params, rate)
    _, seconds, reference = follow(step, state)
    yield TABLE, row | {"way": "nqm.train", "step": seconds, "first step": first, "difference": 0.0}
    for way, step in general_ways(name, model, x, y, rate).items():
        yield TABLE, row | {"way": way} | _columns(step, params, reference)
    if pytorch.MISSING:
        yield TABLE, row | {"way": pytorch.WAYS[name], "note": pytorch.MISSING}
        return
    start, step = pytorch.make_step(name, problem, params, data, rate)
    yield TABLE, row | {"way": pytorch.WAYS[name]} | _columns(step, start, reference)


def package_first_step(model, data, params):
    """From the call of ``train`` with nothing compiled."""
    jax.clear_caches()
    rate = 1e-6  # any: it is one step
    train = functools.partial(nqm.train, data=data, learning_rate=rate, steps=1, params=params, record=())
    return {"seconds": [timed(lambda: train(model).params)[1]]}


def package_step(model, data, params, rate):
    """What ``train`` repeats, by itself: where it starts, and ``state -> (state, prediction)``."""
    ready = prepare(model, data, Method(1, record=()), params=params)
    return ready.state0, functools.partial(bound_step, ready.bound, ready.features, ready.y, rate)


def general_ways(name, model, x, y, rate):
    """Functions ``params -> (params, prediction)`` that need nothing of the package's closed forms."""
    plain = as_model(model)
    ways = {GENERAL[name]: functools.partial(grad_step, plain, x, y, rate)}
    if name == "f_quad":
        ways["jvp of jvp, and reverse over jvp"] = functools.partial(bound_step, plain, x, y, rate)
    return ways


def _columns(step, start, reference):
    jax.clear_caches()
    try:
        first, seconds, prediction = follow(step, start)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return {"note": "out of memory"}
    return {"step": seconds, "first step": first, "difference": difference(jnp.asarray(prediction), reference)}


@jax.jit
def bound_step(bound, features, y, rate, state):
    """A step by what the trainer asks of a model."""
    value, pullback = bound.value_and_pullback(state, features)
    return descend(state, pullback(value - y), rate), value


@jax.jit
def grad_step(model, x, y, rate, params):
    """A step by ``jax.grad`` through the model's prediction."""

    def loss(params):
        value = model.predict(params, x)
        return jnp.sum((value - y) ** 2) / 2, value

    gradient, value = jax.grad(loss, has_aux=True)(params)
    return descend(params, gradient, rate), value


def descend(state, gradient, rate):
    return jax.tree.map(lambda s, g: s - rate * g, state, gradient)
