"""Our statements about the phase diagram of early training: what networks and their quadratic models share."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nqm_tools import datasets, dynamics
from nqm_tools._lapack import one_thread
from nqm_tools.papers._rules import FEWEST_SEEDS, Check, Claim, Finding, Interval, estimate, unknown
from nqm_tools.papers.kalra2023a import phases
from nqm_tools.papers.meltzer2023 import beyond

if TYPE_CHECKING:
    import pandas as pd

# How near two constants are the same, and the grid's largest step, which findings count too; how many times the other a
# clearly larger one is; by how much an exponent may be off. After the data were seen these were 0.083, 1.42 and 0.5 for
# a while.
STEP, KINDER, TWICE, POWER = phases.GRID_STEP - 1, 0.083, 2.0, phases.FLAT
# A step after the early transient; how far the logarithm of a ratio of sharpnesses may be from 0; where eta times the
# sharpness is at the edge, in the mean over the second half of a run.
EARLY, NEAR, EDGE = 50, 0.2, (1.9, 2.2)
FIRST = 0.1  # by how much ten steps may differ from the first
AT_WIDTH = 128  # the largest that is recorded at every depth
# One example: widths and draws of ten steps of the map, c of the grid.
WIDTHS, DRAWS, GRID = (64, 256, 1024, 4096), 200, np.geomspace(1.8, 4.6, 96)
ONE_ERROR = 0.02
# Kernels at the start: initialisations; the number of digits, where it is not one example; depths and widths; how far a
# cell may lie from the common line.
STARTS, EXAMPLES, DEPTHS, SIZES, OFF = 400, 32, (2, 3, 4, 8), (32, 64, 128), 1.4
# Depths of one law in depth and width: at 8 most losses rise at no rate.
SHALLOW = 4
FACTORS = {
    "phases_mnist": "MNIST",
    "phases_standard": "standard parameterization",
    "phases_zero": "readout zero",
    "phases_cross_entropy": "cross-entropy",
    "phases_tanh": "Tanh",
}


def _ratios(frame, name, narrowest=phases.NARROWEST):
    """A constant of the quadratic model over its network's, one a depth, width and seed; 1 if both are infinite."""
    if not len(frame):
        return None
    found = phases.constants(frame)
    found = found[found["width"] >= narrowest]
    table = found.pivot(index=["depth", "width", "seed"], columns="model", values=name)
    if not {"f", "f_quad"} <= set(table) or table.index.droplevel(2).value_counts().min() < FEWEST_SEEDS:
        return None
    both = np.isinf(table["f"]) & np.isinf(table["f_quad"])
    return (table["f_quad"] / table["f"]).where(~both, 1.0)


def shares(name: str, depth: int | None = None, narrowest: int = phases.NARROWEST) -> Check:
    """Whether a quadratic model has the constant of its network, to a step of the grid, in every pair."""

    def check(frame):
        found = _ratios(frame, name, narrowest)
        found = found if depth is None or found is None else found[found.index.get_level_values("depth") == depth]
        if found is None or not len(found):
            return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded")
        good, nearly = (np.abs(found - 1) < near for near in (STEP, KINDER))
        places = "; ".join(
            f"depth {place[0]}, width {place[1]}: {own.sum()} of {len(own)}, ratio {estimate(found[own.index])}"
            for place, own in good.groupby(["depth", "width"])
        )
        counts = f"{good.sum()} of {len(good)} pairs ({nearly.sum()} to {100 * KINDER:.0f} %)"
        return Finding(f"{counts}. {places}", bool(good.all()))

    return check


def c_max_differs(frame: pd.DataFrame) -> Finding:
    """Whether a network's ``c_max`` is more than ``TWICE`` its quadratic model's."""
    found = _ratios(frame, "c_max")
    if found is None:
        return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded")
    table = phases.wide(frame, "f_quad")
    ranges = []
    for depth, rows in table.groupby("depth"):
        values = 1 / found[found.index.get_level_values("depth") == depth]
        times = f"{values.min():.3g} to {values.max():.3g} times that"
        if np.isinf(values).any():
            finite = values[np.isfinite(values)]
            times = "beyond the grid" + (f" or from {finite.min():.3g} times that on" if len(finite) else "")
        ranges.append(
            f"depth {depth}: quadratic model {rows['c_max'].min():.3g} to {rows['c_max'].max():.3g}, network {times}"
        )
    return Finding("; ".join(ranges), bool(np.all(found < 1 / TWICE)))


def _above_linear(frame, model):
    """``c_loss`` of a model minus that of its linear model, one a depth, width and seed: of the first step alone."""
    if not len(frame) or not {model, "f_lin"} <= set(frame["model"]):
        return None
    found = phases.constants(frame[frame["step"] <= 1])
    found = found[found["width"] >= phases.NARROWEST]
    table = found.pivot(index=["depth", "width", "seed"], columns="model", values="c_loss")
    excess = (table[model] - table["f_lin"]).dropna()
    counts = excess.groupby(["depth", "width"]).size()
    return excess if len(counts) and counts.min() >= FEWEST_SEEDS else None


def one_over_width(model: str) -> Check:
    """Whether at depth 2 the first step's ``c_loss`` lies above the linear model's by a term of one over the width."""

    def check(frame):
        excess = _above_linear(frame, model)
        if excess is None:
            return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded")
        table = excess[2].unstack("width")
        if (table <= 0).to_numpy().any():
            return Finding(f"{(table <= 0).to_numpy().sum()} of {table.size} lie below the linear model", False)
        exponents = [np.polyfit(np.log(table.columns), np.log(row), 1)[0] for row in table.to_numpy()]
        interval = Interval.of(exponents)
        products = "; ".join(f"{estimate(values * width)} at {width}" for width, values in table.items())
        return Finding(
            f"exponent {estimate(exponents)}; times the width: {products}",
            bool(interval.low > -1 - POWER and interval.high < -1 + POWER),
        )

    return check


def depth_over_width(frame: pd.DataFrame) -> Finding:
    """Whether what the first step's ``c_loss`` has above the linear model's grows with the depth."""
    excess = _above_linear(frame, "f")
    if excess is None:
        return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded")
    table = excess.xs(AT_WIDTH, level="width").unstack("depth")
    grown = {depth: (table[depth] / table[2]).to_numpy() for depth in table.columns if depth > 2}
    return Finding(
        "; ".join(f"depth {depth} over depth 2: {estimate(values)}" for depth, values in grown.items()),
        bool(grown) and all(bool(Interval.of(np.log(values)).low > 0) for values in grown.values()),
    )


def depth_and_width(frame: pd.DataFrame) -> Finding:
    """Whether what the first step's ``c_loss`` has above the linear model's is one multiple of (depth - 1)/width."""
    excess = _above_linear(frame, "f")
    if excess is None:
        return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded")
    excess = excess[excess.index.get_level_values("depth") <= SHALLOW]
    if not (np.isfinite(excess) & (excess > 0)).all():
        return Finding(f"{(~(excess > 0)).sum()} of {len(excess)} lie below the linear model", False)
    fits, spread = [], []
    for _, own in np.log(excess).groupby("seed"):
        depth, width = (own.index.get_level_values(name).to_numpy() for name in ("depth", "width"))
        columns = np.stack([np.ones(len(own)), np.log(depth - 1), np.log(width)], axis=1)
        fits.append(np.linalg.lstsq(columns, own.to_numpy(), rcond=None)[0])
        spread.append(np.std(own.to_numpy() - columns @ fits[-1]))
    _, *exponents = np.array(fits).T
    intervals = [Interval.of(values) for values in exponents]
    return Finding(
        f"(depth - 1)^{estimate(exponents[0])}, width^{estimate(exponents[1])}; off by a factor of "
        f"{np.exp(np.mean(spread)):.2f}, {len(excess) // len(fits)} depths and widths",
        all(bool(i.low > at - POWER and i.high < at + POWER) for i, at in zip(intervals, (1, -1), strict=True)),
    )


def first_step_decides(frame: pd.DataFrame) -> Finding:
    """Whether a network's ``c_loss`` over ten steps is that over the first step alone, to ``FIRST``."""
    if not len(frame):
        return unknown("not recorded")
    found = [phases.wide(rows, "f") for rows in (frame, frame[frame["step"] <= 1])]
    if (reason := phases.few_seeds(found[0])) is not None:
        return reason
    ten, one = (table["c_loss"].to_numpy() for table in found)
    ratio = np.divide(ten, one, out=np.ones_like(ten), where=np.isfinite(one))
    wide = found[0]["width"].to_numpy()[ratio < 1 - 1e-3]
    return Finding(
        f"the same in {np.sum(ratio > 1 - 1e-3)} of {len(ratio)} networks; in the others lower by up to "
        f"{100 * (1 - ratio.min()):.1f} %" + (f", from width {wide.min()} on" if wide.size else ""),
        bool(np.all(np.abs(ratio - 1) < FIRST)),
    )


def linear_exceeds_two(frame: pd.DataFrame) -> Finding:
    """Whether ``c_loss`` of linear models lies above 2, and below that of their networks, at depth 2."""
    excess = _above_linear(frame, "f")
    if excess is None:
        return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded")
    measured, above = [], bool((excess[2] > 0).all())
    for name, rows in (("ten steps", frame), ("the first", frame[frame["step"] <= 1])):
        found = phases.constants(rows)
        found = found[(found["model"] == "f_lin") & (found["depth"] == 2)]
        widths = {width: own["c_loss"].to_numpy() for width, own in found.groupby("width")}
        above &= all(bool(Interval.of(values).low > 2) for values in widths.values())
        measured.append(f"{name}: " + ", ".join(f"{estimate(values)} at {width}" for width, values in widths.items()))
    measured.append(f"in the first the network lies above in {(excess[2] > 0).sum()} of {len(excess[2])}")
    return Finding("; ".join(measured), above)


@functools.cache
def one_example() -> Finding:
    """Ten steps of the exact map of one example against the first-step values, for label 0."""
    rng, measured, good = np.random.default_rng(0), [], []
    for width in WIDTHS:
        h, v = rng.standard_normal((2, DRAWS, width))
        open_gates = h > 0
        g = np.sum(v * h * open_gates, axis=1) / width**0.5
        kernel = np.sum((v * v + h * h) * open_gates, axis=1) / width
        exact = dynamics.critical_constants(g, kernel, 1 / width)
        state = dynamics.OneExample(np.tile(g, (len(GRID), 1)), np.tile(kernel, (len(GRID), 1)))
        rate = GRID[:, None] / exact.sharpness
        highest = [np.zeros(rate.shape), np.zeros(rate.shape)]
        with np.errstate(all="ignore"):  # of runs that diverge
            for _ in range(10):
                state = dynamics.one_example_step(state, rate, 1 / width)
                z = dynamics.Signed(state.prediction / width**0.5, state.kernel)
                for top, now in zip(
                    highest,
                    (state.prediction**2 / g**2, dynamics.sharpness_from_state(z) / exact.sharpness),
                    strict=True,
                ):
                    np.maximum(top, np.nan_to_num(now, nan=np.inf), out=top)
        # The middle of the step of the grid within which it first rises.
        found = [GRID[np.argmax(top > 1, axis=0)] * (GRID[0] / GRID[1]) ** 0.5 for top in highest]
        off = [found[0] / exact.c_loss - 1, found[1] / exact.c_sharp - 1]
        good += [np.abs(np.mean(error)) < ONE_ERROR for error in off]
        measured.append(
            f"width {width}: c_loss {found[0].mean():.3f} (foretold {np.mean(exact.c_loss):.3f}), c_sharp "
            f"{found[1].mean():.3f} ({np.mean(exact.c_sharp):.3f})"
        )
    return Finding("; ".join(measured), all(bool(value) for value in good))


@functools.cache
def kernels_at_the_start(
    activation: str, readout: str, data: str = "one", starts: int = STARTS
) -> dict[tuple[int, int], float]:
    """The relative variance of the kernel's largest eigenvalue over initialisations, by depth and width.

    ``data`` is ``"one"`` (one example) or ``"digits"``; ``starts`` are the initialisations.
    """
    rng, found = np.random.Generator(np.random.SFC64(0)), {}
    draw = functools.partial(rng.standard_normal, dtype=np.float32)
    act, slope = {
        "ReLU": (lambda h: np.maximum(h, 0), lambda h: h > 0),
        "Tanh": (np.tanh, lambda h: 1 - np.tanh(h) ** 2),
    }[activation]
    gain = 2.0 if activation == "ReLU" else 1.0
    # The first layer sees one example of length 1 in one direction, so that its pre-activations are normal.
    x = np.ones((1, 1))
    if data == "digits":
        x = datasets.load("digits", classes=range(10), n_train=EXAMPLES, n_test=0, seed=0).x_train
    x = (x.reshape(len(x), -1) / (x.size / len(x)) ** 0.5).astype(np.float32)

    def products(rows):
        return rows @ np.swapaxes(rows, -1, -2)

    with one_thread():
        for depth, width in itertools.product(DEPTHS, SIZES):
            hidden = [x @ draw((starts, x.shape[1], width)) * gain**0.5]  # (starts, n, width)
            weights = []
            for _ in range(depth - 2):
                weights.append(draw((starts, width, width)) * (gain / width) ** 0.5)
                hidden.append(act(hidden[-1]) @ weights[-1])
            back = draw((starts, 1, width))
            back = (np.sign(back) if readout == "signs" else back) / width**0.5
            kernel = products(act(hidden[-1])) / width
            for i in range(depth - 2, -1, -1):
                back = back * slope(hidden[i])
                kernel = kernel + products(back) * (products(act(hidden[i - 1])) / width if i else products(x))
                back = back @ np.swapaxes(weights[i - 1], 1, 2) if i else back
            top = np.linalg.eigvalsh(kernel)[:, -1]
            found[depth, width] = float(top.var(ddof=1) / top.mean() ** 2)
    return found


@functools.cache
def collapses(activation: str, readout: str, data: str = "one") -> Finding:
    """Whether the logarithm of ``E lambda^2/(E lambda)^2`` is one multiple of hidden layers over width."""
    found = kernels_at_the_start(activation, readout, data)
    multiples = np.array([np.log1p(value) * width / (depth - 1) for (depth, width), value in found.items()])
    middle = np.exp(np.log(multiples).mean())
    return Finding(
        f"multiple {middle:.2f} in the mean, {multiples.min():.2f} to {multiples.max():.2f}",
        bool(np.all(np.abs(np.log(multiples / middle)) < np.log(OFF))),
    )


def scatter_follows(frame: pd.DataFrame) -> Finding:
    """Whether the scatter of ``c_loss`` over seeds grows with hidden layers over width."""
    found = phases.wide(frame, "f") if len(frame) else frame
    if not len(found) or phases.few_seeds(found) is not None:
        return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded")
    cells = found.groupby(["depth", "width"])["c_loss"].agg(["std", "mean"]).reset_index()
    cells = cells[np.isfinite(cells["mean"])]
    x, y = np.log((cells["depth"] - 1) / cells["width"]), np.log(cells["std"] / cells["mean"])
    r = np.corrcoef(x, y)[0, 1]
    half = 1.96 / (len(x) - 3) ** 0.5  # Fisher
    low, high = np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half)
    return Finding(
        f"correlation of the logarithms {r:.2f} ({low:.2f} to {high:.2f}; {len(x)} networks), exponent "
        f"{np.polyfit(x, y, 1)[0]:.2f}",
        bool(low > 0),
    )


def follows(frame: pd.DataFrame) -> Finding:
    """Whether the quadratic model's sharpness is its network's, to ``NEAR``, in the mean at every recorded step."""
    if not len(frame) or frame["seed"].nunique() < FEWEST_SEEDS:
        return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded")
    table = frame.pivot(index=["sharpness_ratio", "seed", "step"], columns="model", values="sharpness")
    apart = np.log(table["f_quad"] / table["f"]).unstack("step")
    last, rates = apart.columns.max(), apart.index.levels[0]
    early, late = (apart[step].groupby("sharpness_ratio").mean() for step in (EARLY, last))
    intervals = [Interval.of(apart.loc[rate][step]) for rate in rates for step in apart.columns]
    return Finding(
        "; ".join(
            f"at {rate:g}: {100 * early[rate]:+.1f} % at step {EARLY}, {100 * late[rate]:+.1f} % at {last}"
            for rate in rates
        ),
        all(bool(i.low > -NEAR and i.high < NEAR) for i in intervals),
    )


def comes_to_the_edge(model: str) -> Check:
    """Whether at the largest rate ``eta`` times the sharpness ends at the edge, and below it at the smallest."""

    def check(frame):
        if not len(frame) or frame["seed"].nunique() < FEWEST_SEEDS:
            return unknown(f"fewer than {FEWEST_SEEDS} seeds are recorded")
        own = frame[(frame["model"] == model) & (frame["step"] >= frame["step"].max() / 2)]
        times = own["learning_rate"] * own["sharpness"]
        table = times.groupby([own["sharpness_ratio"], own["seed"]]).mean().unstack("seed")
        least, most = table.loc[table.index.min()], table.loc[table.index.max()]
        ends = "; ".join(f"at {rate:g}: {estimate(values)}" for rate, values in table.iterrows())
        return Finding(
            f"eta times the sharpness, second half: {ends}",
            bool(((most > EDGE[0]) & (most < EDGE[1])).all() and (least < EDGE[0]).all()),
        )

    return check


def claims() -> Iterator[Claim]:
    """All of them."""
    seeds, sweep, linear = f"{FEWEST_SEEDS} seeds or more", "phases_digits", "phases_linear"
    step = f"{100 * STEP:.0f} %"
    for figure, panel, name, statement, rule, check, status in (
        *(
            (
                "shared",
                f"digits, depth {depth}",
                sweep,
                "the quadratic model has its network's c_loss, at width 64 and more",
                f"{seeds}: all pairs, to {step} (counted at {100 * KINDER:.0f} %, too, which the rule was for a while)",
                shares("c_loss", depth),
                "observed",
            )
            for depth in (2, 3, 4, 8)
        ),
        *(
            (
                "shared",
                f"digits, depth {depth}",
                sweep,
                "the quadratic model has its network's c_sharp, at width 128 and more",
                f"{seeds}: all pairs, to {step}",
                shares("c_sharp", depth, 128),
                "observed",
            )
            for depth in (2, 3, 4)
        ),
        (
            "not shared",
            "digits",
            sweep,
            "the network's c_max is more than twice its quadratic model's",
            f"{seeds}, every depth, width 64 and more: all pairs (for a while the rule was 1.42 times)",
            c_max_differs,
            "observed",
        ),
        *(
            (
                "shared",
                f"digits or MNIST, {panel}",
                factor,
                "with this factor changed, too, the quadratic model has its network's c_loss",
                f"{seeds}, depth 2, width 128, and depth 4, width 64: all pairs, to {step}",
                shares("c_loss"),
                "observed",
            )
            for factor, panel in FACTORS.items()
        ),
        *(
            (
                "law",
                f"digits, depth 2, {panel}",
                sweep,
                "c_loss of the first step lies above that of the linear model by a term of one over the width",
                f"{seeds}, paired, width 64 to 1,024: the exponent's interval lies within -1 ± {POWER:g} (once ± 0.5)",
                one_over_width(model),
                "observed",
            )
            for model, panel in (("f", "network"), ("f_quad", "quadratic model"))
        ),
        (
            "law",
            "digits",
            sweep,
            "this term grows with the depth",
            f"{seeds}, paired, width {AT_WIDTH}: the interval of the logarithm of its ratio to depth 2 lies above 0",
            depth_over_width,
            "observed",
        ),
        (
            "law",
            "digits, depths 2 to 4",
            sweep,
            "this term is one multiple of (depth - 1)/width",
            f"{seeds}, width 64 and more, a fit a seed: both exponents' intervals lie within 1 and -1 ± {POWER:g}",
            depth_and_width,
            "observed",
        ),
        (
            "law",
            "digits, depth 2, linear model",
            linear,
            "c_loss of linear models exceeds 2: what is unstable has to outgrow the loss of the start, in one step or "
            "in ten; that of networks lies above",
            f"{seeds}: at every width the intervals of the means lie above 2, and every network above its linear model",
            linear_exceeds_two,
            "observed",
        ),
        (
            "first step",
            "digits",
            sweep,
            "the first step decides ten: a network's c_loss is where the first step's loss exceeds that of the start",
            f"{seeds}, width 64 and more: every network, to {100 * FIRST:g} %",
            first_step_decides,
            "observed",
        ),
        (
            "law",
            "one example",
            "",
            "the first step decides ten: with label 0, c_loss and c_sharp are those of dynamics.critical_constants",
            f"{DRAWS} draws a width of the exact map, ten steps: mean errors below {100 * ONE_ERROR:g} %",
            one_example,
            "observed",
        ),
        *(
            (
                "depth over width",
                f"{panel}, {activation}, readout of {readout}",
                "",
                "the mean of lambda_max(K)^2 over initialisations is exp(a (depth - 1)/width) times its squared mean",
                f"{STARTS} draws, depths 2 to 8, widths 32 to 128: a is within a factor of {OFF:g} of its mean",
                functools.partial(collapses, activation, readout, place),
                "observed",
            )
            for place, panel in (("one", "one example"), ("digits", f"{EXAMPLES} digits"))
            for activation in ("ReLU", "Tanh")
            for readout in ("signs", "normal weights")
        ),
        (
            "later regimes",
            "digits, depth 3, width 128",
            "phases_late",
            "through saturation and the onset of sharpening the quadratic model's sharpness stays near its network's",
            f"{seeds}, 2,000 steps: at every rate and recorded step the interval of the mean logarithm of the ratio is "
            f"within ±{NEAR:g}",
            follows,
            "observed",
        ),
        *(
            (
                "later regimes",
                f"digits, depth 4, width 64, readout zero, {panel}",
                "phases_edge",
                "the sharpness grows to the edge of stability, and stays there",
                f"{seeds}: of every run at the largest rate eta times the sharpness, in the mean over the second half, "
                f"is {EDGE[0]:g} to {EDGE[1]:g}, and at the smallest below",
                comes_to_the_edge(model),
                "observed",
            )
            for model, panel in (("f", "network"), ("f_quad", "quadratic model"))
        ),
        (
            "later regimes",
            "digits, depth 4, width 64, readout zero",
            "phases_edge",
            "through sharpening and at the edge the quadratic model's sharpness stays near its network's",
            f"{seeds}: at every rate and recorded step the ratio's mean logarithm (its interval) is within ±{NEAR:g}",
            follows,
            "observed",
        ),
        (
            "depth over width",
            "digits",
            sweep,
            "the scatter of c_loss over seeds grows with (depth - 1)/width",
            f"{seeds}, width 64 and more: the interval of the correlation of the logarithms lies above 0",
            scatter_follows,
            "observed",
        ),
        *(
            row
            for place, what in (("beyond_one_example", "one example"), ("beyond_digits", "digits 0 and 1"))
            for row in (
                (
                    "beyond 4",
                    f"{what}, ReLU",
                    place,
                    "beyond eta lambda_0 = 4 the quadratic model diverges, and the network does not",
                    f"{seeds}: all runs of the quadratic model beyond 4 and none up to 3.5, none of the network",
                    beyond.quadratic_diverges("relu"),
                    "observed",
                ),
                (
                    "beyond 4",
                    f"{what}, leaky ReLU of slope 1/2",
                    place,
                    "what saves the network is that gates close: with leaky ReLUs it diverges too",
                    f"{seeds}: all runs from eta lambda_0 = {beyond.FAR:g} on",
                    beyond.leaky_diverges,
                    "observed",
                ),
            )
        ),
    ):
        networks = ("phases_wide",)
        beside = {("law", sweep): (linear, *networks), ("law", linear): (sweep,)}
        beside = beside.get((figure, name), networks if name == sweep else ())
        yield Claim(figure, panel, name, statement, rule, check, status=status, beside=beside, where=("12",))
