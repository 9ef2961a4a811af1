"""Rules for what losses and kernels do along runs: figures 2a, 3, 5, 6, 7, 8, theorems 1 to 3, proposition 6.

Each takes the frame of :func:`nqm_tools.sweeps.load_curves`: a row a recorded step, with the run's settings.
"""

import numpy as np

from nqm_tools.report._finding import Finding, percent, spread, unknown

RUN = ["model", "learning_rate_ratio", "seed"]
# An eigenvalue "stays" if it ends within this share of its first value.
STAYS = 0.03
# A loss is "large" once it is above this many times its first value.
LARGE = 2.0
# A spike lies in a space if this share of the loss's rise does, on average over seeds.
TOP_SHARE = 0.95
# Final kernels are the same if they are this share of the first one apart.
SAME_END = 0.05


def ends(frame, *by):
    """First and last values of each run that did not diverge: loss, lambda_1, lambda_2, ..., and the highest loss."""
    columns = [name for name in ("train_loss", "lambda_1", "lambda_2", "distance") if name in frame]
    groups = frame[frame["regime"] != "divergent"].groupby([*by, *RUN])
    first, last = groups[columns].first(), groups[columns].last()
    kept = groups[["peak_loss", "regime", "learning_rate", "critical_learning_rate"]].first()
    return kept.join(first.add_suffix("_first")).join(last.add_suffix("_last")).reset_index()


def slope(widths, values):
    """The exponent a in ``values ~ widths^a``."""
    return np.polyfit(np.log(np.asarray(widths, float)), np.log(np.asarray(values, float)), 1)[0]


def eigenvalues_by_rate(model, region):
    """Theorem 3: which of the two eigenvalues falls. ``region``: 0 below 2/lambda_1, 1 between, 2 above 2/lambda_2.

    A direction catapults if its eigenvalue, unstable at the start, ends below ``2/eta`` (``n/eta``: the records are for
    mse, whose rates are n/2 times those of half_sum); sorted eigenvalues that cross still tell how many did.
    """

    def check(frame):
        runs = ends(frame[frame["model"] == model])
        if runs.empty:
            return unknown(f"{model} is not recorded")
        n = frame["n_train"].iloc[0]
        v = {name: runs[name] * runs["learning_rate"] * 2 / n for name in runs if name.startswith("lambda_")}
        unstable = (v["lambda_1_first"] > 2).astype(int) + (v["lambda_2_first"] > 2)
        below_four = v["lambda_1_first"] < 4
        chosen = runs[(unstable == region) & below_four]
        if chosen.empty:
            return unknown("no recorded run lies in this region")
        changes = chosen[["lambda_1_last", "lambda_2_last"]].to_numpy()
        starts = chosen[["lambda_1_first", "lambda_2_first"]].to_numpy()
        edge = (n / chosen["learning_rate"]).to_numpy()
        second_stays = np.min(np.abs(changes / starts[:, 1:] - 1), axis=1) < STAYS
        if region == 0:
            good = (np.abs(changes / starts - 1) < STAYS).all(axis=1)
            say = f"largest change {100 * np.abs(changes / starts - 1).max():.2f} %"
        elif region == 1:
            # One of the two is still where lambda_2 began; the other has left lambda_1 for the stable side.
            good = second_stays & (changes.max(axis=1) < edge)
            moved = 100 * np.min(np.abs(changes / starts[:, 1:] - 1), axis=1).max()
            fall = percent(1 - _other(changes, starts) / starts[:, 0])
            say = f"lambda_1 falls by {fall}, lambda_2 changes by at most {moved:.1f} %"
        else:
            good = changes.max(axis=1) < edge
            falls = 1 - changes.sum(axis=1) / starts.sum(axis=1)
            say = f"their sum falls by {percent(falls)}"
        return Finding(f"{good.sum()} of {len(good)} runs; {_runs(say)}", bool(good.all()))

    return check


def _other(changes, starts):
    """The final eigenvalue of the direction that is not lambda_2's."""
    which = np.argmin(np.abs(changes / starts[:, 1:] - 1), axis=1)
    return changes[np.arange(len(changes)), 1 - which]


def spike_in_top_space(model, directions):
    """Figures 6, 7: how much of the loss's rise to its peak is along the eigenvectors that are unstable at the start.

    ``directions`` is their number: 1 for runs between 2/lambda_1 and 2/lambda_2, 2 for runs above both. Above 100 % if
    the loss along the others fell meanwhile.
    """

    def check(frame):
        runs = _catapults(frame, model, directions)
        if not runs:
            return unknown(f"no run of {model} with {directions} unstable directions is recorded")
        shares = []
        for run in runs:
            peak = run["train_loss"].to_numpy().argmax()
            along = sum(run[f"projection_{i + 1}"].to_numpy() ** 2 for i in range(directions)) / run["n_train"].iloc[0]
            shares.append((along[peak] - along[0]) / np.ptp(run["train_loss"].iloc[[0, peak]]))
        return Finding(_runs(percent(shares)) + " of the rise", bool(np.mean(shares) >= TOP_SHARE))

    return check


def corrections_are_positive(model):
    """Figures 6, 7: the signs of the corrections R_f and R_K along the top eigenvector while the loss is large."""

    def check(frame):
        runs = _catapults(frame, model)
        if not runs:
            return unknown(f"no catapult of {model} along one direction is recorded")
        large = [run[run["train_loss"] > LARGE * run["train_loss"].iloc[0]] for run in runs]
        positive = [((rows["R_f"] > 0) & (rows["R_K"] > 0)).mean() for rows in large]
        return Finding(
            f"both positive at {_runs(percent(positive))} of the steps with a loss above {LARGE:g} times the first",
            bool(min(positive) == 1),
        )

    return check


def corrections_scale(model):
    """Figures 6, 7: the exponents of R_f and R_K in the loss along the top eigenvector, while the loss is large."""

    def check(frame):
        runs = _catapults(frame, model)
        if not runs:
            return unknown(f"no catapult of {model} along one direction is recorded")
        exponents = {"R_f": [], "R_K": []}
        for run in runs:
            rows = run[(run["train_loss"] > LARGE * run["train_loss"].iloc[0]) & (run["R_f"] > 0) & (run["R_K"] > 0)]
            for name, values in exponents.items():
                values.append(slope(rows["projection_1"] ** 2, rows[name]))
        measured = "; ".join(
            f"{name}: exponent {_runs(spread(values, '{:.2f}'))}" for name, values in exponents.items()
        )
        means = [np.mean(values) for values in exponents.values()]
        return Finding(measured, bool(np.abs(np.array(means) - 1).max() <= 0.2))

    return check


def _runs(text):
    """A spread over runs, which differ in seed or rate."""
    return text.replace("seed", "run")


def _catapults(frame, model, directions=1):
    """The runs whose loss gets large and falls again; ``directions`` of the first two are unstable at the start."""
    runs = frame[(frame["model"] == model) & (frame["regime"] == "catapult")]
    runs = [run.sort_values("step") for _, run in runs.groupby(RUN)]
    large = [run for run in runs if run["train_loss"].max() > LARGE * run["train_loss"].iloc[0]]
    return [run for run in large if _unstable(run.iloc[0]) == directions]


def _unstable(row):
    """How many of lambda_1, lambda_2 are above ``2/eta`` (the rate is for mse)."""
    return sum(row[name] * row["learning_rate"] > row["n_train"] for name in ("lambda_1", "lambda_2"))


def peak_rises(with_column, model, rising=True):
    """Figure 8: whether the mean peak loss rises with the width (falls with gamma), and with the learning rate."""

    def check(frame):
        table = _table(frame, with_column, model, lambda runs: runs["peak_loss"])
        if table is None:
            return unknown(f"{model} is not recorded")
        by_size = np.diff(table.to_numpy(), axis=0)
        by_rate = np.diff(table.to_numpy(), axis=1)
        good = ((by_size > 0) if rising else (by_size < 0)).all() and (by_rate > 0).all()
        exponent = np.mean([slope(table.index, table[rate]) for rate in table])
        rates = table.iloc[-1] / table.iloc[-1, 0]
        return Finding(
            f"peak ~ {with_column}^{exponent:.2f}; times {rates.iloc[-1]:.1f} from "
            f"{table.columns[0]:g} to {table.columns[-1]:g} times the critical rate",
            bool(good),
        )

    return check


def kernel_falls_with_rate(with_column, model):
    """Figure 8: a larger learning rate ends with a smaller kernel."""

    def check(frame):
        table = _table(frame, with_column, model, _kernel_left)
        if table is None:
            return unknown(f"{model} is not recorded")
        left = ", ".join(f"{100 * value:.0f} %" for value in table.mean())
        rates = ", ".join(f"{rate:g}" for rate in table)
        return Finding(
            f"{left} of it left at {rates} times the critical rate", bool((np.diff(table.to_numpy()) < 0).all())
        )

    return check


def kernel_end_is_the_same(with_column, model):
    """Figure 8: how far apart the final kernels are, as shares of the first, that differ in width (or gamma) alone."""

    def check(frame):
        table = _table(frame, with_column, model, _kernel_left)
        if table is None:
            return unknown(f"{model} is not recorded")
        apart = (table.max() - table.min()).max()
        return Finding(f"final over first kernel apart by {apart:.3f} at most", bool(apart <= SAME_END))

    return check


def _kernel_left(runs):
    return runs["lambda_1_last"] / runs["lambda_1_first"]


def _table(frame, with_column, model, value):
    """Means over seeds, by ``with_column`` (rows) and learning rate (columns); None without catapults."""
    runs = ends(frame[frame["model"] == model], with_column)
    runs = runs[runs["regime"] == "catapult"]
    if runs.empty:
        return None
    return runs.assign(value=value(runs)).pivot_table(index=with_column, columns="learning_rate_ratio", values="value")


def distance_exponent(model, above):
    """Figure 2a: how the distance between start and end of a run grows with the width.

    Above the critical rate, of what the catapult adds, in quadrature, to the largest distance below it: learning the
    labels takes a distance of its own, which does not grow.
    """

    def check(frame):
        runs = ends(frame[frame["model"] == model], "width")
        table = runs.pivot_table(index=["seed", "width"], columns="learning_rate_ratio", values="distance_last")
        below, beyond = table[[r for r in table if r < 1]], table[[r for r in table if r > 1]]
        chosen = beyond if above else below
        if runs["width"].nunique() < 2 or below.empty or chosen.empty:
            return unknown(f"{model} is not recorded at two widths")
        added = np.sqrt((chosen**2).sub(below.max(axis=1) ** 2, axis=0)) if above else chosen
        exponents = [
            slope(rows.index.get_level_values("width"), rows[r]) for _, rows in added.groupby("seed") for r in rows
        ]
        good = abs(np.mean(exponents) - (0.5 if above else 0)) <= 0.1
        return Finding(
            f"distance ~ width^{spread(exponents, '{:.2f}')}".replace("seeds", "seeds and rates"), bool(good)
        )

    return check
