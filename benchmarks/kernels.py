"""The tangent kernel on all training examples: closed form, the package's function, and neural-tangents' ways."""

import functools

import jax
import jax.numpy as jnp
import neural_tangents as nt

import nqm_tools as nqm
from benchmarks.measure import out_of_memory, peak_memory, repeated, timed
from benchmarks.problems import make_data, make_network, make_params
from nqm_tools import closed_forms
from nqm_tools.expansions import FunctionModel
from nqm_tools.training import GradientDescent

# A Jacobian larger than this many bytes is not built.
MOST_JACOBIAN = 6e9


def measure(case):
    problem, way = case["problem"], case["way"]
    network, params, x = make_network(problem), make_params(problem), jnp.asarray(make_data(problem).x_train)
    row = {"problem": problem["name"], "way": way}
    jacobian = 4 * problem["n"] * sum(leaf.size for leaf in jax.tree.leaves(params))
    if way == "JACOBIAN_CONTRACTION" and jacobian > MOST_JACOBIAN:
        yield "Tangent kernel", row | {"note": f"skipped: its Jacobian has {jacobian / 1e9:.0f} GB"}
        return
    compute = _ways(way, network, params, x)
    try:
        kernel, first = timed(compute)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        yield "Tangent kernel", row | {"note": "out of memory"}
        return
    columns = {"again": repeated(compute), "first call": {"seconds": [first]}, "norm": float(jnp.linalg.norm(kernel))}
    yield "Tangent kernel", row | columns


def measure_memory(case):
    """Time and peak memory of a large kernel, computed once."""
    problem, way = case["problem"], case["way"]
    f, params, x = make_network(problem), make_params(problem), jnp.asarray(make_data(problem).x_train)
    row = {"parameters x examples": problem["name"], "way": way}
    gradient = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
    if way == "nt.empirical_ntk_fn" and gradient * problem["n"] > MOST_JACOBIAN:
        note = f"skipped: its Jacobian has {gradient * problem['n'] / 1e9:.0f} GB"
        yield "A large tangent kernel", row | {"note": note}
        return
    before = peak_memory()
    kernel, seconds = timed(_large_way(way, f, params, x, gradient))
    columns = {"time": {"seconds": [seconds]}, "peak": {"bytes": peak_memory()}, "before": {"bytes": before}}
    yield "A large tangent kernel", row | columns | {"norm": float(jnp.linalg.norm(kernel))}


def _large_way(way, f, params, x, gradient):
    if way == "nqm.empirical_ntk":
        return functools.partial(nqm.empirical_ntk, f, params, x)
    contraction = nt.NtkImplementation.JACOBIAN_CONTRACTION
    kernel_fn = nt.empirical_ntk_fn(f, vmap_axes=0, trace_axes=(), implementation=contraction)
    if way == "nt.batch":
        most = max(1, int(1e9 / gradient))  # that divides the number of examples, as nt.batch needs it
        size = max(size for size in range(1, min(most, len(x)) + 1) if len(x) % size == 0)
        batched = nt.batch(lambda x1, x2, params: kernel_fn(x1, x2, params), batch_size=size, device_count=0)
        return functools.partial(batched, x, None, params)
    return functools.partial(jax.jit(lambda x, params: kernel_fn(x, None, params)), x, params)


def _ways(way, network, params, x):
    if way == "nqm.empirical_ntk":
        return functools.partial(nqm.empirical_ntk, network, params, x)
    if way == "closed form, and binding":
        return functools.partial(_bind_and_compute, network, params, x)
    if way == "closed form":
        return functools.partial(_kernel, *_bound(network, params, x))
    implementation = getattr(nt.NtkImplementation, way)
    kernel_fn = nt.empirical_ntk_fn(network.apply_fn, vmap_axes=0, trace_axes=(), implementation=implementation)
    compiled = jax.jit(lambda x, params: kernel_fn(x, None, params))
    return functools.partial(compiled, x, params)


def _bind_and_compute(network, params, x):
    return _kernel(*_bound(network, params, x))


def _bound(network, params, x):
    """The bound model, its state and features: what a run's records start from."""
    bound = closed_forms.bind(FunctionModel(network), x, params, GradientDescent())
    return bound, bound.encode(params), bound.featurize(x)


@jax.jit
def _kernel(bound, state, features):
    return bound.kernel(state, features)
