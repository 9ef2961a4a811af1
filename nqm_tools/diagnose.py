"""One call about a model of your own: whether it catapults, and how right its quadratic model is."""

from __future__ import annotations

import copy
import functools
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from nqm_tools import _validity, curvature
from nqm_tools._coupling import is_coupled
from nqm_tools._diagnosis import Diagnosis
from nqm_tools._gates import gates
from nqm_tools._program import Fresh
from nqm_tools._tiles import COPIES, REVERSE, working_numbers
from nqm_tools._types import Function
from nqm_tools._validation import check_rate, check_whole
from nqm_tools.datasets import Data
from nqm_tools.expansions import MODELS
from nqm_tools.kernels import top_eigenpairs
from nqm_tools.losses import LossLike
from nqm_tools.training import (
    Method,
    Problem,
    critical_rate,
    prepare,
    train_rates,
    whole,
)
from nqm_tools.training._loop import Bar
from nqm_tools.training._problem import starting_point
from nqm_tools.training._stable import stable_bracket

__all__ = ["Diagnosis", "diagnose"]

# Eigenvalues that are told.
EIGENVALUES = 5
# The bracket of the largest stable rates, and the runs that it takes.
TOLERANCE, SEARCH = 0.1, 6
# Names of leaves that are statistics of Flax's, Haiku's or PyTorch's layers, and no weights.
_STATISTIC = re.compile(r"\b(batch_stats|mean|var|running_mean|running_var|moving_mean|moving_var|ema|count)\b")
# What a model may be unable to do: forward derivatives of a custom rule, memory, a size that is written into it.
_UNABLE = (TypeError, ValueError, NotImplementedError, RuntimeError)


def diagnose(
    f: Function,
    data: Data,
    params: PyTree | None = None,
    *,
    ratios: Sequence[float] = (0.5, 0.9, 1.1, 1.5),
    steps: int = 200,
    loss: LossLike = "mse",
    momentum: float = 0.0,
    widths: tuple[Callable[[int], tuple[Function, PyTree]], Sequence[int]] | None = None,
) -> Diagnosis:
    """What gradient descent does with a model, and how far its linear and quadratic models say so.

    Parameters
    ----------
    f, data, params, loss, momentum
        As in :func:`nqm_tools.train`: a network, or any ``f(params, x) -> (n, k)``.
    ratios : sequence of float
        Learning rates in units of the critical one, ``2 (1 + momentum) / lambda_1`` at the start (for the named loss;
        2 over the Gauss-Newton sharpness where the loss's curvature is not constant).
    steps : int
        The length of each run.
    widths : pair, optional
        A function ``m -> (f, params)`` and widths m: how what the Taylor models miss moves with the width.

    Returns
    -------
    Diagnosis
        ``print`` it; ``.plot()`` it; its frames have the numbers.

    Raises
    ------
    TypeError, ValueError
        As :func:`nqm_tools.train`. What cannot be computed for a model is said in its place.

    Notes
    -----
    The share that a Taylor model misses is ``|f(w) - f_lin(w)| / |f(w) - f(w_0)|`` on the network's own weights w,
    norms over examples and outputs. What it will cost is printed to standard error before the runs begin.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> net, data = nqm.networks.two_layer_fc(32), nqm.datasets.load("digits", n_train=8, n_test=0, seed=0)
    >>> found = diagnose(net, data, ratios=(1.5,), steps=20)
    >>> found.runs["regime"].tolist()
    ['catapult', 'divergent', 'catapult']
    """
    import pandas as pd

    ratios = sorted({check_rate("each of ratios", ratio) for ratio in ratios})
    steps = check_whole("steps", steps)
    widths = None if widths is None else _check_widths(widths)
    start = _start(f, data, params, steps, loss, momentum)
    about, notes = _about(start)
    models, reasons = _models(start, ratios, steps)
    notes += [f"{name} cannot be computed: {reason}" for name, reason in reasons.items()]
    cost = _cost(start, models, ratios, steps, 0 if widths is None else len(widths[1]))
    bar = Bar(cost["evaluations"], "diagnose", None)
    frames = {"about": about}
    print(cost["text"], file=sys.stderr, flush=True)
    try:
        runs, curves = _runs(start, models, ratios, bar)
        frames |= {"runs": runs, "curves": curves, "rates": _largest_rates(start, models, steps, bar)}
        frames["passed"] = _validity.passed(curves)
        frames["radius"] = _validity.radius(start) if "f_quad" in models else pd.DataFrame()
        frames["forecast"] = _validity.forecast(start, runs)
        if widths is not None:
            frames["widths"] = _over_widths(*widths, start, ratios, steps, bar)
            frames["exponents"] = _validity.exponents(frames["widths"])
    finally:
        bar.close("")
    return Diagnosis(**frames, notes=tuple(notes), cost=cost, critical=start.critical, loss=start.problem.loss.name)


class _Start(NamedTuple):
    """A model, where its runs start, and the problem of training it."""

    f: Function
    params: PyTree
    data: Data
    loss: LossLike
    momentum: float
    problem: Problem
    critical: float


def _start(f, data, params, steps, loss, momentum):
    method = Method(steps, momentum=momentum, loss=loss, record=())
    problem = prepare(f, data, method, params=params)
    _, params = starting_point(f, params, data, 0)
    try:
        critical = (1 + method.momentum) * critical_rate(problem)
    except ValueError:  # a loss without curvature at the start
        critical = math.inf
    return _Start(f, params, data, loss, method.momentum, problem, critical)


def _attempt(function, *args):
    """What a function gives, or in words why it cannot."""
    try:
        return function(*args), None
    except _UNABLE as error:
        return None, str(error).split("\n")[0]


def _about(start):
    """What is known before any step: a row a quantity, and what is to be said of the model."""
    import pandas as pd

    f, params, problem = start.f, start.params, start.problem
    x, y, loss, n = problem.x, problem.y, problem.loss, len(problem.x)
    rows = [
        ("parameters", _size(params), ""),
        ("outputs", y.shape[1], ""),
        ("n_train", n, ""),
        ("n_test", 0 if problem.test is None else len(problem.test[1]), ""),
    ]
    eigenvalues, reason = _attempt(lambda: top_eigenpairs(f, params, x, min(EIGENVALUES, y.size))[0])
    if reason is not None:
        rows.append(("lambda_1", math.nan, reason))
    else:
        rows += [(f"lambda_{i}", value, "tangent kernel") for i, value in enumerate(eigenvalues, start=1)]
    gauss_newton = 2 * (1 + start.momentum) / start.critical
    unit = f"for {loss.name!r}" + (f" and momentum {start.momentum:g}" if start.momentum else "")
    rows.append(("critical_learning_rate", start.critical, unit))
    rows.append(("gauss_newton_sharpness", gauss_newton, "of the loss, at the start"))
    sharpest, reason = _attempt(curvature.sharpness, f, params, x, y, loss)
    rows.append(("sharpness", math.nan if sharpest is None else sharpest, reason or "of the loss, at the start"))
    apart = math.nan if sharpest is None or gauss_newton == 0 else sharpest / gauss_newton
    rows.append(("sharpness_over_gauss_newton", apart, ""))
    trace, reason = _attempt(curvature.hessian_trace, f, params, x, y, loss)
    value, error = (math.nan, 0.0) if trace is None else trace
    rows.append(("hessian_trace", value, reason or (f"± {error:.2g} (random probes)" if error else "")))
    return pd.DataFrame(rows, columns=["quantity", "value", "note"]), _notes(start)


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _notes(start):
    """What a model does that its user may not know, and what follows."""
    f, params, x, y = start.problem.model, start.params, start.problem.x, start.problem.y
    notes = []
    if is_coupled(f, params, x):
        notes.append(
            "f couples its examples (statistics of the batch, or one random mask for all of it): its kernel and its "
            "Taylor models are those of this batch, and its test outputs those of the test examples as one batch"
        )
    dtype = jnp.result_type(*jax.tree.leaves(params))
    others = _floats(jax.make_jaxpr(lambda params, x: f(params, x))(params, x).jaxpr) - {dtype}
    if others:
        names = ", ".join(sorted(map(str, others)))
        notes.append(
            f"f leaves {dtype} for {names} on its way: small differences, such as what f_quad misses, and the last "
            "steps of a run are rounding there"
        )
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if _STATISTIC.search(name):
            notes.append(
                f"params{name} is named like a statistic, and is trained like a weight: if it is state, let f "
                "read it from around it"
            )
    gradient = Fresh(_gradient_of_a_random_sum)(f, params, x, jnp.asarray(_noise(y)))
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not np.any(np.asarray(leaf))
    ]
    if still:
        listed = ", ".join(f"params{name}" for name in still[:3]) + (f" and {len(still) - 3} more" if still[3:] else "")
        notes.append(f"{listed}: f does not depend on it at the start (unused, or behind weights that are zero)")
    if start.problem.test is None:
        notes.append("there are no test examples, hence no test losses")
    if not math.isfinite(start.critical):
        notes.append(
            "nothing moves at the start: the tangent kernel, or the loss's curvature, is zero there. So there is no "
            "critical learning rate to count rates in, and there are no runs"
        )
    return notes


def _noise(y):
    return np.random.default_rng(0).standard_normal(y.shape).astype(y.dtype)


def _gradient_of_a_random_sum(model, params, x, weights):
    return jax.vjp(lambda p: model(p, x), params)[1](weights)[0]


def _floats(jaxpr):
    """The floating-point types of what a traced program computes."""
    found = set()
    for equation in jaxpr.eqns:
        values = jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(getattr(v, "jaxpr", v), "eqns")
        )
        for value in values:
            inner = getattr(value, "jaxpr", value)
            found |= _floats(inner) if hasattr(inner, "eqns") else set()
        found |= {v.aval.dtype for v in equation.outvars if jnp.issubdtype(v.aval.dtype, jnp.floating)}
    return found


class _Ready(NamedTuple):
    """A model, its prepared problem, how it is trained, and the seconds that an evaluation takes."""

    problem: Problem
    method: Method
    seconds: float


def _models(start, ratios, steps):
    """The models that can be trained, each tried for a step, and the reasons of the others."""
    models, reasons = {}, {}
    if not math.isfinite(start.critical):
        return models, reasons
    for name, make in MODELS.items():
        if name == "f":
            continue
        found, reason = _attempt(_tried, start, make(start.f, start.params), ("test_loss",), ratios[0], steps)
        if reason is None:
            models[name] = found
        else:
            reasons[name] = reason
    record = _recorded(start, tuple(models))
    return {"f": _tried(start, start.f, record, ratios[0], steps)} | models, reasons


def _tried(start, model, record, ratio, steps):
    method = Method(steps, momentum=start.momentum, loss=start.loss, record=record)
    problem = prepare(model, start.data, method, params=start.params)
    few = _shorter(method)
    _trained(problem, few, ratio * start.critical)  # which compiles
    began = time.perf_counter()
    _trained(problem, few, ratio * start.critical)
    return _Ready(problem, method, (time.perf_counter() - began) / (few.steps + 1))


def _shorter(method):
    """The same method for a tenth of the steps; what was traced and compiled for one serves the other."""
    _ = method.program
    few = copy.copy(method)
    few.steps = max(1, method.steps // 10)
    return few


def _trained(problem, method, rate):
    (run,) = whole(train_rates(problem, [rate], method, progress=False))
    return run


def _recorded(start, models):
    """What is written down along the network's own run: the shares of its change that its Taylor models miss."""
    names = [f"missed_by_{name}" for name in models]
    has_gates = jax.eval_shape(functools.partial(gates, start.problem.model), start.params, start.problem.x)
    return ("test_loss", "distance", *names, *(("flipped_gates",) if has_gates else ()))


def _cost(start, models, ratios, steps, widths):
    """What the runs will take, and how it is told."""
    evaluations = sum(len(ratios) * (steps + 1) for _ in models)
    evaluations += SEARCH * (steps + 1) * len(models)
    seconds = sum((len(ratios) + SEARCH) * (steps + 1) * ready.seconds for ready in models.values())
    if widths:
        evaluations += 2 * widths * (steps + 1)
        seconds += 2 * widths * (steps + 1) * models["f"].seconds
    problem, outputs = start.problem, start.problem.y.shape[1]
    itemsize = jnp.result_type(*jax.tree.leaves(start.params)).itemsize
    one = REVERSE * working_numbers(problem.model, start.params, problem.x) + COPIES * _size(start.params)
    memory = 3 * one * itemsize  # of f_quad, which takes as much as three gradients
    text = (
        f"diagnose: {_size(start.params):,} parameters, {outputs} output{'s' * (outputs > 1)}, {len(problem.x)} "
        f"examples; {evaluations:,} evaluations will take about {_seconds(seconds)} and {_bytes(memory)}"
        + (" (the widths as much as this one each)" if widths else "")
    )
    return {"evaluations": evaluations, "seconds": seconds, "bytes": memory, "text": text}


def _seconds(value):
    return f"{value:.1g} s" if value < 10 else f"{value:.0f} s" if value < 100 else f"{value / 60:.0f} min"


def _bytes(value):
    return f"{value / 1e6:.2g} MB" if value < 1e9 else f"{value / 1e9:.2g} GB"


def _runs(start, models, ratios, bar):
    """A row a run, and a row a step of every run."""
    import pandas as pd

    rows, curves, done = [], [], 0
    # At the start Taylor models have the gradients of f.
    first = _largest_eigenvalue(start.problem.model, start) if models else math.nan
    for name, ready in models.items():
        for ratio in ratios:
            run = _trained(ready.problem, ready.method, ratio * start.critical)
            done += ready.method.steps + 1
            bar.move_to(done)
            ended = run.regime != "divergent"
            last = (
                first
                if name == "f_lin"
                else _largest_eigenvalue(ready.problem.model, start, run.params)
                if ended
                else math.nan
            )
            rows.append(
                {"model": name, "ratio": ratio, "learning_rate": run.learning_rate, "regime": run.regime}
                | {"first_loss": float(run.losses[0]), "peak_loss": run.peak_loss, "final_loss": float(run.losses[-1])}
                | {"lambda_1_start": first, "lambda_1_end": last}
                | {"best_test_loss": run.best_test_loss, "best_step": run.best_step, "stopped": run.stopped}
            )
            curves.append(run.frame.assign(model=name, ratio=ratio))
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()


def _largest_eigenvalue(model, start, params=None):
    values, _ = _attempt(
        lambda: top_eigenpairs(model, start.params if params is None else params, start.problem.x, 1)[0]
    )
    return math.nan if values is None else float(values[0])


def _largest_rates(start, models, steps, bar):
    """For each model the largest rate that was seen to converge, and the smallest beyond that was seen not to."""
    import pandas as pd

    rows = []
    for name, ready in models.items():
        problem, method = ready.problem, ready.method
        if name == "f":  # what is recorded of it costs more than another program
            method = Method(steps, momentum=start.momentum, loss=start.loss, record=())
            problem = prepare(start.f, start.data, method, params=start.params)
        stable, unstable = stable_bracket(problem, method, start.critical, TOLERANCE)
        bar.advance(SEARCH * (steps + 1))
        rows.append({"model": name, "converges": stable, "does_not": unstable})
    frame = pd.DataFrame(rows, columns=["model", "converges", "does_not"])
    return frame.assign(
        converges_ratio=frame["converges"] / start.critical, does_not_ratio=frame["does_not"] / start.critical
    )


def _check_widths(widths):
    if not (isinstance(widths, tuple | list) and len(widths) == 2 and callable(widths[0])):
        raise TypeError(f"widths must be a pair: a function m -> (f, params), and a list of widths m; got {widths!r}")
    make, values = widths
    values = sorted({check_whole("each of widths", m) for m in values})
    if len(values) < 2:
        raise ValueError(f"widths must hold at least two widths; got {values}")
    return make, values


def _over_widths(make, widths, start, ratios, steps, bar):
    """What the Taylor models miss at each width, at the last ratio below the critical rate and the first above it."""
    import pandas as pd

    chosen = [r for r in ratios if r < 1][-1:] + [r for r in ratios if r > 1][:1]
    rows = []
    for m in widths:
        made = make(m)
        if not (isinstance(made, tuple | list) and len(made) == 2 and callable(made[0])):
            raise TypeError(
                f"widths: the function of the width must give a pair (f, params); got {type(made).__name__}"
            )
        here = _start(*made[:1], start.data, made[1], steps, start.loss, start.momentum)
        rows.append((m, "critical learning rate", math.nan, here.critical))
        for name, found in _validity.radius(here).groupby("model")["distance"]:
            rows.append((m, f"radius of {name}", math.nan, float(np.exp(np.log(found).mean()))))
        method = Method(steps, momentum=here.momentum, loss=here.loss, record=_recorded(here, ("f_lin", "f_quad")))
        problem = prepare(here.f, here.data, method, params=here.params)
        for ratio in chosen:
            run = _trained(problem, method, ratio * here.critical).frame
            bar.advance(steps + 1)
            for moment, row in _validity.moments(run).items():
                for name in ("f_lin", "f_quad"):
                    rows.append((m, f"missed by {name} {moment}", ratio, float(row[f"missed_by_{name}"])))
    return pd.DataFrame(rows, columns=["width", "quantity", "ratio", "value"])
