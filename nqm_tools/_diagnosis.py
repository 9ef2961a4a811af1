"""What :func:`nqm_tools.diagnose` found: frames, a short text, a figure."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """What :func:`diagnose` found; ``print`` gives a short text.

    Attributes
    ----------
    about : pandas.DataFrame
        A row a quantity of the start: parameters, eigenvalues ``lambda_1``, ... of the tangent kernel, critical rate,
        sharpness and trace of the loss's Hessian.
    runs : pandas.DataFrame
        A row a model and learning rate: regime, peak and final loss, ``lambda_1`` at start and end, best test loss.
    curves : pandas.DataFrame
        A row a step of every run; of the network also the shares that the Taylor models miss
        (``missed_by_f_quad``, ``missed_by_f_quad_test``, ...), and ``flipped_gates`` where f has any.
    rates : pandas.DataFrame
        The largest learning rate at which each model was seen to converge, and the smallest at which not.
    passed : pandas.DataFrame
        Where along the network's run a Taylor model first misses a tenth of the change: step and distance, NaN for
        nowhere; the largest share that it misses, and that at the end.
    radius : pandas.DataFrame
        The distance at which it misses a tenth along random directions (infinite: nowhere).
    forecast : pandas.DataFrame
        Above the critical rate, to leading order in ``delta = eta lambda_1 - 2``: the peak of the loss, and where
        ``eta lambda_1`` ends, ``2 - delta`` (rates of ``half_sum``); beside what was measured.
    widths, exponents : pandas.DataFrame or None
        What is missed at each width, and its power of the width with a 95 % interval.
    notes : tuple of str
        What the model does that matters here, and what could not be computed.
    cost : dict
        Evaluations, seconds and bytes, as they were estimated before the runs.
    critical : float
        The critical learning rate, in units of which ``ratio`` is.
    loss : str

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> net, data = nqm.networks.two_layer_fc(32), nqm.datasets.load("digits", n_train=8, n_test=0, seed=0)
    >>> found = nqm.diagnose(net, data, ratios=(1.5,), steps=20)
    >>> sorted(set(found.runs["model"])), int(found.value("parameters"))
    (['f', 'f_lin', 'f_quad'], 2080)
    """

    about: pd.DataFrame
    runs: pd.DataFrame
    curves: pd.DataFrame
    rates: pd.DataFrame
    passed: pd.DataFrame
    radius: pd.DataFrame
    forecast: pd.DataFrame
    notes: tuple[str, ...]
    cost: dict
    critical: float
    loss: str
    widths: pd.DataFrame | None = None
    exponents: pd.DataFrame | None = None

    def __str__(self) -> str:
        return "\n".join(_text(self))

    def __repr__(self) -> str:
        return (
            f"<Diagnosis: {len(self.runs)} runs, critical learning rate {self.critical:.3g}; print it, or .plot() it>"
        )

    def plot(self, *, axes: Shaped[np.ndarray, "2 2"] | None = None) -> Shaped[np.ndarray, "2 2"]:
        """One figure of four panels, as :func:`nqm_tools.plotting.diagnosis` draws it."""
        from nqm_tools import plotting

        return plotting.diagnosis(self, axes=axes)

    def value(self, quantity: str) -> float:
        """The value of a quantity in ``about``."""
        return float(self.about.set_index("quantity")["value"][quantity])


def _text(found):
    value, outputs = found.value, int(found.value("outputs"))
    eigenvalues = found.about[found.about["quantity"].str.startswith("lambda_")]["value"]
    trace = found.about.set_index("quantity")["note"]["hessian_trace"]
    lines = [
        f"{value('parameters'):,.0f} parameters, {outputs} output{'s' * (outputs > 1)}, {value('n_train'):,.0f} "
        f"training and {value('n_test'):,.0f} test examples, loss {found.loss!r}",
        f"Tangent kernel: largest eigenvalues {', '.join(f'{v:.3g}' for v in eigenvalues)}",
        f"Critical learning rate: {found.critical:.3g} (below, rates are multiples of it)",
        f"Hessian of the loss: sharpness {value('sharpness'):.3g}, {value('sharpness_over_gauss_newton'):.3g} times "
        f"the Gauss-Newton matrix's; trace {value('hessian_trace'):.3g} {trace}".rstrip(),
    ]
    if len(found.runs):
        lines += ["", *_answers(found), "", *_tables(found)]
    return [*lines, *(["", *(f"Note: {note}." for note in found.notes)] if found.notes else [])]


def _listed(values):
    return " and ".join(", ".join(f"{v:g}" for v in values).rsplit(", ", 1))


def _answers(found):
    """The two questions, answered in a sentence each."""
    regimes = found.runs.pivot(index="ratio", columns="model", values="regime")
    catapults = regimes.index[regimes["f"] == "catapult"]
    where = f"Yes, at {_listed(catapults)}." if len(catapults) else "Not at these rates."
    if (catapults < 1).any():  # what is critical at the start need not be so later
        where = f"{where[:-1]} (below 1 too, since its kernel grows first)."
    lines = [f"Does it catapult? {where} {_up_to(found, 'f')}"]
    if "f_quad" not in regimes:
        return [*lines, "Is its quadratic model right? It cannot be computed; see the note below."]
    agree = regimes.index[regimes["f"] == regimes["f_quad"]]
    same = f"at {_listed(agree)} only" if len(agree) else "at none of these rates"
    same = "at every one of these rates" if len(agree) == len(regimes) else same
    lines.append(f"Is its quadratic model right? Trained by itself it has f's regime {same}. {_up_to(found, 'f_quad')}")
    missed = found.passed[found.passed["inputs"] == "training"]
    kept = missed[missed["ratio"].isin(regimes.index[regimes["f"] != "divergent"])].set_index("model")
    for model in ("f_quad", "f_lin") if len(kept) else ():
        shares = ", ".join(f"{_percent(row.at_the_end)} at {row.ratio:g}" for row in kept.loc[[model]].itertuples())
        lines.append(f"  Of the change of f along its own run, {model} misses in the end {shares}.")
    return lines


def _up_to(found, model):
    row = found.rates.set_index("model").loc[model]
    if row["converges_ratio"] == 0:
        return f"{model} diverges at every rate tried."
    if not math.isfinite(row["does_not_ratio"]):
        return f"{model} diverges at no rate tried, up to {row['converges_ratio']:.3g}."
    runs = found.runs[(found.runs["model"] == model) & (found.runs["regime"] != "divergent")]
    beyond = sorted(runs.loc[runs["ratio"] > row["does_not_ratio"], "ratio"])
    if beyond:  # bisection finds one edge of several
        return f"{model} diverges at about {row['does_not_ratio']:.2g}, but not at {_listed(beyond)}."
    return f"{model} diverges from about {row['does_not_ratio']:.2g} on."


def _percent(share):
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def _tables(found):
    """Small tables, a row a model and a column a learning rate."""
    runs, blocks = found.runs, []
    for title, column, form in (
        ("regime", "regime", "{}"),
        ("peak loss", "peak_loss", "{:.3g}"),
        ("lambda_1 at the end", "lambda_1_end", "{:.3g}"),
        ("best test loss", "best_test_loss", "{:.3g}"),
    ):
        if column == "regime" or runs[column].notna().any():
            blocks += _table(title, runs.pivot(index="model", columns="ratio", values=column), form)
    passed = found.passed
    if len(passed):
        rows = passed.assign(model=passed["model"] + ", " + passed["inputs"] + " inputs")
        steps = rows.pivot(index="model", columns="ratio", values="step")
        blocks += _table("step at which 10 % is missed by", steps, "{:.0f}", sort=False)
        distances = rows.pivot(index="model", columns="ratio", values="distance")
        blocks += _table("... and the distance", distances, "{:.3g}", sort=False)
    if len(found.radius):
        for model, group in found.radius.groupby("model"):
            middle, low, high = (getattr(group["distance"], name)() for name in ("median", "min", "max"))
            blocks.append(f"... along random directions, {model}: {middle:.3g} ({low:.3g} to {high:.3g})")
    if len(found.forecast):
        blocks.append("leading order of a small loss just above the critical rate, and f")
        for row in found.forecast[found.forecast["model"] == "f"].itertuples():
            small = "" if row.peak_forecast > found.runs["first_loss"].iloc[0] else ", which is below the first loss"
            end = "diverges" if math.isnan(row.end) else f"{row.end:.3g}"
            blocks.append(
                f"  at {row.ratio:g}: the loss peaks at {row.peak_forecast:.3g}{small} (f: {row.peak_loss:.3g}), "
                f"eta lambda_1 ends at {row.end_forecast:.3g} (f: {end})"
            )
    if found.exponents is not None:
        blocks += ["powers of the width, with 95 % intervals"]
        for row in found.exponents.itertuples():
            at = "" if math.isnan(row.ratio) else f", at {row.ratio:g}"
            blocks.append(f"  {row.quantity}{at}: {row.exponent:+.2f} ({row.low:+.2f} to {row.high:+.2f})")
    return blocks


def _table(title, table, form, sort=True):
    if sort:
        table = table.loc[[name for name in ("f", "f_lin", "f_quad") if name in table.index]]
    first = max(len(title), *(len(name) + 2 for name in table.index)) + 2
    cells = [[_cell(form, v) for v in row] for row in table.to_numpy()]
    wide = [max(len(f"{ratio:g}"), *(len(row[i]) for row in cells)) + 2 for i, ratio in enumerate(table.columns)]
    lines = [title.ljust(first) + "".join(f"{ratio:g}".rjust(w) for ratio, w in zip(table.columns, wide, strict=True))]
    for name, row in zip(table.index, cells, strict=True):
        lines.append(f"  {name}".ljust(first) + "".join(cell.rjust(w) for cell, w in zip(row, wide, strict=True)))
    return lines


def _cell(form, value):
    if isinstance(value, str):
        return value
    return "-" if value is None or math.isnan(value) else form.format(value)
