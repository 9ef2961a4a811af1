"""How far from its start a function is what its Taylor models say, to leading order and against the width."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from nqm_tools._program import Fresh
from nqm_tools.expansions import linearize, second_order_term
from nqm_tools.kernels import top_eigenpairs
from nqm_tools.training._recording import missed_share

# A Taylor model is no longer right where it misses this share of the network's change.
PASSED = 0.1
# Random directions, and distances along them in units of the parameters' norm.
DIRECTIONS, DISTANCES = 5, np.geomspace(1e-3, 10, 41)
# The loss has not begun its spike while it is below so many times its first value.
CALM = 1.5


def passed(curves):
    """Where along the network's runs a Taylor model first misses more than a tenth: step and distance."""
    import pandas as pd

    rows = []
    for column in [name for name in curves if name.startswith("missed_by_")]:
        model = column.removeprefix("missed_by_").removesuffix("_test")
        inputs = "test" if column.endswith("_test") else "training"
        for ratio, run in curves[curves["model"] == "f"].groupby("ratio"):
            beyond, known = run[run[column] > PASSED], run[np.isfinite(run[column])]
            first = {name: beyond[name].iloc[0] if len(beyond) else math.nan for name in ("step", "distance")}
            largest = {"largest": run[column].max(), "at_the_end": known[column].iloc[-1]}
            rows.append({"model": model, "inputs": inputs, "ratio": ratio} | first | largest)
    return pd.DataFrame(rows)


def radius(start):
    """How far a Taylor model is right along random directions: the distance at which it misses a tenth."""
    import pandas as pd

    f, params0, x = start.problem.model, start.params, start.problem.x
    size = _length(params0)
    distances = DISTANCES * (size if size > 0 else 1.0)
    along = Fresh(lambda params0, direction, distances, x: _along(f, params0, direction, distances, x))
    rows = []
    for i in range(DIRECTIONS):
        rng = np.random.default_rng(i)
        direction = jax.tree.map(lambda leaf, rng=rng: rng.standard_normal(leaf.shape).astype(leaf.dtype), params0)
        length = _length(direction)
        direction = jax.tree.map(lambda leaf, length=length: leaf / length, direction)
        shares = along(params0, direction, distances.astype(start.problem.y.dtype), x)
        for model, values in zip(("f_lin", "f_quad"), shares, strict=True):
            distance = _crossing(distances, np.asarray(values, dtype=float))
            rows.append(
                {
                    "model": model,
                    "direction": i,
                    "distance": distance,
                    "relative": distance / size if size else math.nan,
                }
            )
    return pd.DataFrame(rows)


def _along(f, params0, direction, distances, x):
    """The shares that both Taylor models miss at distances along a direction; 0 where that is rounding."""
    f_lin, first = linearize(f, params0), f(params0, x)

    def at(distance):
        params = jax.tree.map(lambda leaf, d: leaf + distance * d, params0, direction)
        outputs = f(params, x)
        rest = outputs - f_lin(params, x)
        rests = rest, rest - second_order_term(f, params0, params, x)
        return [missed_share(rest, outputs, first) for rest in rests]

    return jax.lax.map(at, distances)


def _crossing(distances, shares):
    """Where a share first passes a tenth, between two distances by its power law; infinite if nowhere."""
    beyond = np.flatnonzero(~(shares <= PASSED))
    if not len(beyond):
        return math.inf
    i = beyond[0]
    if i == 0 or not shares[i - 1] > 0 or not np.isfinite(shares[i]):
        return float(distances[i])
    share = np.log(PASSED / shares[i - 1]) / np.log(shares[i] / shares[i - 1])
    return float(distances[i - 1] * (distances[i] / distances[i - 1]) ** share)


def forecast(start, runs):
    """Peak loss and final kernel to leading order above the critical rate, beside what f and f_quad did."""
    import pandas as pd

    loss, n = start.problem.loss, len(start.problem.x)
    columns = ["model", "ratio", "delta", "peak_forecast", "peak_loss", "end_forecast", "end"]
    above = runs[(runs["ratio"] > 1) & (runs["model"] != "f_lin")] if len(runs) else runs
    if loss.constant_curvature is None or start.momentum or not len(above):
        return pd.DataFrame(columns=columns)
    values, vectors = top_eigenpairs(start.f, start.params, start.problem.x, 1)
    a = float(
        Fresh(_turning)(
            start.problem.model, start.params, start.problem.x, jnp.asarray(vectors.reshape(start.problem.y.shape))
        )
    )
    unit = loss.constant_curvature * loss.weight(n)  # a rate for half_sum is this times one for the loss
    rows = []
    for run in above.itertuples():
        rate = unit * run.learning_rate
        delta = rate * values[0] - 2
        rows.append(
            (
                run.model,
                run.ratio,
                delta,
                unit * delta**2 / (4 * rate**2 * a),
                run.peak_loss,
                2 - delta,
                rate * run.lambda_1_end,
            )
        )
    return pd.DataFrame(rows, columns=columns)


def _turning(model, params, x, p):
    """``a = |(H q)_across|^2 / |q|^2`` of the output along ``p``: how fast its gradient q turns (notebook 04)."""

    def gradient(params):
        return jax.vjp(lambda w: model(w, x), params)[1](p)[0]

    q, turned = jax.jvp(gradient, (params,), (gradient(params),))
    product = sum(jax.tree.leaves(jax.tree.map(lambda u, v: jnp.sum(u * v), q, turned)))
    across = jax.tree.map(lambda u, v: v - u * product / norm(q) ** 2, q, turned)
    return (norm(across) / norm(q)) ** 2


def moments(run):
    """Rows before the spike, at its peak and at the end; of a run without one, at the end."""
    losses = run["train_loss"].to_numpy()
    peak = int(np.nanargmax(losses))
    moments = {"at the end": run.iloc[-1]}
    if losses[peak] > CALM * losses[0]:
        calm = np.flatnonzero((losses[:peak] < CALM * losses[0]) & (run["step"].to_numpy()[:peak] > 0))
        moments |= {"at the peak": run.iloc[peak]} | ({"before the spike": run.iloc[calm[-1]]} if len(calm) else {})
    return moments


def exponents(frame):
    """The powers of the width, by least squares on logarithms, with Student's 95 % interval."""
    import pandas as pd
    from scipy import stats

    rows = []
    for (quantity, ratio), group in frame.groupby(["quantity", "ratio"], dropna=False, sort=False):
        group = group[np.isfinite(group["value"]) & (group["value"] > 0)]
        if len(group) < 2:
            continue
        fit = stats.linregress(np.log(group["width"]), np.log(group["value"]))
        half = stats.t.ppf(0.975, len(group) - 2) * fit.stderr if len(group) > 2 else math.inf
        rows.append((quantity, ratio, fit.slope, fit.slope - half, fit.slope + half, len(group)))
    return pd.DataFrame(rows, columns=["quantity", "ratio", "exponent", "low", "high", "widths"])


def norm(tree):
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def _length(tree):
    """The norm, outside JAX, which would compile it leaf by leaf."""
    return math.sqrt(sum(np.square(leaf, dtype=float).sum() for leaf in jax.tree.leaves(tree)))
