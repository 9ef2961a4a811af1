"""Average gradient outer products against gradient steps, and recursive feature machines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import nqm_tools as nqm
from benchmarks.measure import repeated, timed
from benchmarks.training import run_side_by_side
from nqm_tools.training import Method, prepare


def measure(case):
    """The tables of one case of the part."""
    return {"agop": _agop, "alignment": _alignment, "machine": _machine, "recording": _recording}[case["kind"]](case)


def _agop(case):
    """An AGOP and a gradient step on the same examples, by n, d and outputs k."""
    for n, d, k in case["sizes"]:
        net, params, x = _network(case["width"], n, d, k)
        y = jnp.zeros((n, k))
        step = jax.jit(jax.grad(lambda p, x, y, net=net: ((net(p, x) - y) ** 2).sum() / len(y)))
        timed(step, params, x, y)
        timed(nqm.agop, net, params, x)
        found, gradient = repeated(nqm.agop, net, params, x), repeated(step, params, x, y)
        ratio = float(np.median(found["seconds"]) / np.median(gradient["seconds"]))
        row = {"n": n, "d": d, "outputs": k, "width": case["width"], "AGOP": found, "gradient step": gradient}
        yield "An average gradient outer product", row | {"steps an output": ratio / k}


def _network(width, n, d, k):
    net = nqm.networks.two_layer_fc(width, outputs=k)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((n, d), dtype=np.float32))
    return net, net.init(jax.random.key(0), x.shape), x


def _alignment(case):
    """One large AGOP, for the memory of this process."""
    net, params, x = _network(case["width"], case["n"], case["d"], 1)
    _, seconds = timed(nqm.agop, net, params, x)
    row = {"n": case["n"], "d": case["d"], "width": case["width"], "time, compile included": {"seconds": [seconds]}}
    yield "A large one", row


def _machine(case):
    for n in case["n"]:
        data = nqm.datasets.multi_index("x1x2", case["d"], n_train=n, seed=0)
        fit = functools.partial(nqm.features.recursive_feature_machine, data.x_train, data.y_train)
        plain = repeated(functools.partial(fit, iterations=0))
        whole = repeated(functools.partial(fit, iterations=case["iterations"]))
        row = {"n": n, "d": case["d"], "plain kernel machine": plain}
        yield "A recursive feature machine", row | {f"{case['iterations']} iterations": whole}


def _recording(case):
    """A run without records, and one that records the alignment over the test inputs; compile excluded."""
    data = nqm.datasets.multi_index("x1x2", case["d"], n_train=case["n"], n_test=case["n_test"], seed=0)
    net, params, _ = _network(case["width"], case["n"], case["d"], 1)
    rate = nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train)) / 2
    for name, model in (("f", net), ("f_quad", nqm.quadraticize(net, params))):
        for record in ((), ("agop_alignment",)):
            method = Method(case["steps"], record=record, record_every=10)
            ready = prepare(model, data, method, params=params)
            run = functools.partial(run_side_by_side, ready, [rate], method)
            timed(run)
            row = {"problem": f"n = {case['n']}, {case['n_test']} test inputs", "model": name, "steps": case["steps"]}
            yield "A run", row | {"recorded": record[0] if record else "nothing", "run": repeated(run)}
