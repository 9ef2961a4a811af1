"""What every paper's rules are made of: claims, findings, the interval over seeds, and the recorded runs."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from jaxtyping import Real

from nqm_tools._types import FilePath

if TYPE_CHECKING:
    import pandas as pd

# Fewer do not decide what needs a spread over seeds.
FEWEST_SEEDS = 5
CONFIDENCE = 0.95
# Files of SVHN that hold what could be read back from public places, by MD5; data/README.md says how.
RECOVERED = ("ce08bbf61f08b60ae34c4f9f3ea17ac5", "7bdbca58bd7755d243498bc43a9948d8")


class Claim(NamedTuple):
    """A statement of a paper (or of ours), and the rule that decides it from a recorded sweep.

    Attributes
    ----------
    figure, panel
        Where it is made.
    sweep
        The sweep file, and the folder of its runs; empty for what is computed on the spot.
    statement, rule
        What is claimed, and what is asked of the runs.
    check
        Takes the frame of :func:`recorded` (nothing without a sweep) and gives a :class:`Finding`.
    kind
        ``"claim"``; ``"check"`` of ours about the recording; ``"identity"`` for what holds by construction or by a
        proof for every run: it cannot fail, so it supports nothing, and an exception would be a fault of the code.
    status
        How we know what is ours: ``"proved"``, ``"derived"`` (to some order, without a bound) or ``"observed"``.
    beside
        Further sweeps, which differ from ``sweep`` in their training; ``check`` gets the rows of all of them.
    where
        Of ours: the numbers of notebooks that derive or show it, and names (without ``nqm_tools.``) that have it.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> claim = Claim("3", "a panel", "", "2 is even", "its remainder is 0", lambda: Finding("remainder 0", 2 % 2 == 0))
    >>> nqm.report.decide([claim], ".")["verdict"].tolist()
    ['holds']
    """

    figure: str
    panel: str
    sweep: str
    statement: str
    rule: str
    check: Callable[..., Finding]
    kind: str = "claim"
    status: str = ""
    beside: tuple[str, ...] = ()
    where: Sequence[str] = ()


class Finding(NamedTuple):
    """``measured`` is a text with numbers; ``holds`` is None where the records do not suffice to tell.

    Examples
    --------
    >>> Finding("1.2 (0.9 to 1.5; 5 seeds)", holds=True).holds
    True
    """

    measured: str
    holds: bool | None


# What decides a claim from the frame of `recorded`.
Check = Callable[["pd.DataFrame"], Finding]


def unknown(reason: str) -> Finding:
    """What is found where the records do not suffice to tell, and why.

    Examples
    --------
    >>> unknown("3 seeds are recorded, 5 are needed").holds is None
    True
    """
    return Finding(reason, None)


def recorded(store: FilePath, sweep: str) -> pd.DataFrame:
    """The recorded steps of a sweep, a row a step, with the settings and results of their runs.

    Failed runs are left out. A run that was recorded as divergent because it happened to end in a spike is told by
    :func:`nqm_tools.regime`, applied to its recorded losses; its best test loss and accuracy are those of its rows.

    Returns
    -------
    pandas.DataFrame
        As :func:`nqm_tools.sweeps.load_curves` gives it; without rows if there is no such folder. Columns: ``key``,
        ``model``, ``seed``, ``learning_rate``, ``critical_learning_rate``, ``learning_rate_ratio`` and the arguments of
        data and network (``n_train``, ``width``, ...); ``regime``, ``peak_loss``, ``final_loss``, ``best_test_loss``,
        ``best_step``, ``best_test_accuracy``, ``steps``; ``device``, ``cores``; and of each recorded row ``step``,
        ``train_loss`` and what was recorded. ``images`` is there if the data are SVHN's and not the publisher's:
        ``"recovered"``.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> frame = recorded(nqm.report.recorded_results(), "figure_8_model")
    >>> {"model", "learning_rate_ratio", "step", "train_loss"} <= set(frame.columns)
    True
    """
    import pandas as pd

    from nqm_tools import sweeps
    from nqm_tools.store import Store

    folder = pathlib.Path(store) / sweep
    if not folder.is_dir():
        return pd.DataFrame()
    curves = sweeps.load_curves(folder)
    if curves.empty:
        return curves
    curves = curves[curves["status"] != "failed"]
    # Whatever the data are called: a function may have its images from there.
    if any(map(_recovered, Store(folder, create=False).provenance().values())):
        curves = curves.assign(images="recovered")
    for _, rows in curves[curves["regime"] == "divergent"].groupby("key"):
        mended = _mended(rows)
        if mended:
            curves.loc[rows.index, list(mended)] = list(mended.values())
    return curves


def _recovered(provenance):
    """Whether runs are of the recovered images, by their provenance."""
    return any(file["md5"] in RECOVERED for file in provenance.get("data", {}).get("files", ()))


def together(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several frames of :func:`recorded` under each other.

    Examples
    --------
    >>> import pandas as pd
    >>> len(together([pd.DataFrame(), pd.DataFrame({"step": [0, 1]})]))
    2
    """
    import pandas as pd

    found = [frame for frame in frames if len(frame)]
    return found[0] if len(found) == 1 else pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _mended(rows):
    """What changes in a run's columns if its recorded losses are not those of a divergent run."""
    from nqm_tools import regime
    from nqm_tools.training._runs import CATAPULT_RISE

    losses = rows["train_loss"].to_numpy()
    if regime(losses) == "divergent":
        return {}
    # Every so many steps are recorded: whether the loss oscillates from step to step does not show in these rows, but
    # the highest loss is known over all steps.
    found = "catapult" if rows["peak_loss"].iloc[0] > (1 + CATAPULT_RISE) * losses[0] else "monotone"
    mended = {"regime": found}
    if "test_loss" in rows:
        mended |= {"best_test_loss": rows["test_loss"].min(), "best_step": rows["step"][rows["test_loss"].idxmin()]}
    if "test_accuracy" in rows:
        mended["best_test_accuracy"] = rows["test_accuracy"].max()
    return mended


def runs_of(curves: pd.DataFrame) -> pd.DataFrame:
    """A row a run, of the frame of :func:`recorded`: its settings and results.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> frame = recorded(nqm.report.recorded_results(), "figure_8_model")
    >>> len(runs_of(frame)) == frame["key"].nunique()
    True
    """
    return curves.drop_duplicates("key") if len(curves) else curves


def not_as_claimed(runs, model):
    """Why these runs of a model are not what a claim about the critical rate is about, in words; None if they are.

    Below the critical rate a run must be monotone, above it a catapult, or divergent.
    """
    runs = runs[runs["model"] == model]
    for above, accepted, what in ((False, ("monotone",), "monotone"), (True, ("catapult", "divergent"), "catapults")):
        side = runs[(runs["learning_rate_ratio"] > 1) == above]
        if above is False:
            side = side[side["regime"] != "divergent"]
        wrong = side[~side["regime"].isin(accepted)]
        if len(wrong):
            where = "above" if above else "below"
            rates = ", ".join(f"{rate:g}" for rate in sorted(wrong["learning_rate_ratio"].unique()))
            kinds = ", ".join(sorted(wrong["regime"].unique()))
            return (
                f"{len(wrong)} of {len(side)} runs of {model} {where} the critical rate are not {what} "
                f"({kinds} at {rates})"
            )
    return None


class Interval(NamedTuple):
    """The mean of numbers, one a seed, and the 95 % interval of the true mean (Student's t).

    Examples
    --------
    >>> mean, low, high = Interval.of([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> mean, round(low, 2), round(high, 2)
    (3.0, 1.04, 4.96)
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float] | Real[np.ndarray, " n"] | pd.Series, shared: float = 0.0) -> Self:
        """The interval of these numbers, which have ``shared`` times their variance in common; infinite for one number.

        What they have in common does not show in their spread.
        """
        from scipy import stats

        values = np.asarray(values, dtype=float)
        mean = float(values.mean())
        if values.size < 2:
            return cls(mean, -np.inf, np.inf)
        error = values.std(ddof=1) * np.sqrt(1 / values.size + shared)
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, values.size - 1) * error)
        return cls(mean, mean - half, mean + half)


def estimate(values, form="{:.3g}", unit="", of="seeds", shared=0.0):
    """``mean unit (low to high; n seeds)``, with the interval of :class:`Interval`."""
    mean, low, high = Interval.of(values, shared)
    if np.isinf(low):
        return f"{form.format(mean)}{unit} (1 {of.removesuffix('s')}, no interval)"
    return f"{form.format(mean)}{unit} ({form.format(low)} to {form.format(high)}; {len(values)} {of})"


def estimated_percent(values, of="seeds", shared=0.0):
    return estimate(100 * np.asarray(values), "{:.2f}", " %", of, shared)


def mean_and_sd(values):
    """Mean and sample standard deviation; of one value the latter is NaN, for there is no spread."""
    values = np.asarray(values, dtype=float)
    return values.mean(), values.std(ddof=1) if values.size > 1 else np.nan


def spread(values, form="{:.3g}", unit="", of="seeds"):
    """``mean ± sd (n seeds)`` of one number a seed, or of whatever else there are several."""
    mean, sd = mean_and_sd(values)
    if np.isnan(sd):
        return f"{form.format(mean)}{unit} (1 {of.removesuffix('s')}, no spread)"
    return f"{form.format(mean)} ± {form.replace('+', '').format(sd)}{unit} ({len(values)} {of})"


def percent(values, of="seeds"):
    return spread(100 * np.asarray(values), "{:.2f}", " %", of)


def slope(sizes, values):
    """The exponent a in ``values ~ sizes^a``."""
    return np.polyfit(np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float)), 1)[0]
