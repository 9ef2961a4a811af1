"""Panels of best test losses and accuracies say what was recorded, and what was not."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from nqm_tools import plotting


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def rows():
    """Two seeds of f_quad and f_lin, one of f; f_lin diverges above the critical rate, and f_quad for one seed."""
    values = {"f": [(0, 0.5, 1.0), (0, 1.5, 0.8)]}
    values["f_lin"] = [(seed, ratio, 1.0 if ratio < 1 else np.nan) for seed in (0, 1) for ratio in (0.5, 1.5)]
    values["f_quad"] = [(0, 0.5, 1.0), (1, 0.5, 1.2), (0, 1.5, 0.6), (1, 1.5, np.nan)]
    frame = pd.DataFrame(
        [(model, *row) for model, some in values.items() for row in some],
        columns=["model", "seed", "learning_rate_ratio", "best_test_loss"],
    )
    diverged = frame["best_test_loss"].isna()
    return frame.assign(
        best_test_accuracy=1 - frame["best_test_loss"] / 2,
        best_step=np.where(diverged, np.nan, 100 * frame["learning_rate_ratio"]),
        regime=np.where(diverged, "divergent", "monotone"),
        n_train=128,
        width=5000,
        steps=1000,
    )


def means(ax, model):
    """The curve drawn for a model."""
    (line,) = [
        line
        for line in ax.lines
        if line.get_color() == plotting.PALETTE[model] and line.get_linestyle() != "None" and len(line.get_xdata())
    ]
    return line.get_xydata()


def crosses(ax):
    return {
        (mark.get_marker(), mark.get_color(), float(mark.get_ydata()[0]))
        for mark in ax.lines
        if mark.get_marker() in ("X", "x") and len(mark.get_xdata())
    }


def test_accuracies_are_drawn_like_losses_with_crosses_at_the_other_edge(rows):
    _, axes = plt.subplots(1, 2)
    assert plotting.best_test_loss(rows, ax=axes[0]) is axes[0]
    assert plotting.best_test_accuracy(rows, ax=axes[1]) is axes[1]
    np.testing.assert_allclose(means(axes[0], "f_quad"), [(0.5, 1.1), (1.5, 0.6)])
    np.testing.assert_allclose(means(axes[1], "f_quad"), [(0.5, 0.45), (1.5, 0.7)])
    for ax, edge in zip(axes, (1, 0), strict=True):
        marks = crosses(ax)
        assert {mark[:2] for mark in marks} == {("X", plotting.PALETTE["f_lin"]), ("x", plotting.PALETTE["f_quad"])}
        assert all(abs(height - edge) < 0.2 for *_, height in marks)
    assert axes[1].get_ylabel() == "best test accuracy"


def test_single_runs_are_hollow_and_leave_out_diverged_ones(rows):
    ax = plotting.single_runs(rows)
    drawn = {line.get_color(): line for line in ax.lines}
    assert set(drawn) == set(plotting.PALETTE.values())
    np.testing.assert_allclose(drawn[plotting.PALETTE["f_quad"]].get_xydata(), [(0.5, 1.0), (0.5, 1.2), (1.5, 0.6)])
    assert all(line.get_markerfacecolor() == "white" and line.get_linestyle() == "None" for line in ax.lines)
    ax = plotting.single_runs(rows, column="best_test_accuracy")
    assert max(line.get_ydata().max() for line in ax.lines) == pytest.approx(0.7)


def test_describe_says_what_is_in_the_rows(rows):
    first, second = plotting.describe(rows).splitlines()
    assert first == "$n$ = 128, $m$ = 5,000, 1,000 steps, 2 seeds, 1 of $f$"
    assert second == r"best loss at step 50 below $\eta_{\mathrm{crit}}$, 150 above"
    rows.loc[0, "width"], rows.loc[0, "best_step"] = 1024, 20.0
    first, second = plotting.describe(rows[rows["seed"] == 0]).splitlines()
    assert first == "$n$ = 128, $m$ = 1,024 to 5,000, 1,000 steps, 1 seed"
    assert second.startswith("best loss at step 20 to 50 below")
    diverged = rows[rows["regime"] == "divergent"]
    assert plotting.describe(diverged).endswith("every run diverges")


def test_panels_draw_what_is_recorded_and_name_the_others_below(rows):
    summaries = {"SVHN-2": "waits for the data", "CIFAR-2": rows, "MNIST": rows, "FSDD": "not recorded yet"}
    axes = plotting.panels(summaries, columns=3)
    figure = axes[0].figure
    assert [ax.get_title().splitlines()[0] for ax in axes] == ["CIFAR-2", "MNIST"]
    assert figure.axes == list(axes), "no empty boxes"
    np.testing.assert_allclose(means(axes[0], "f"), [(0.5, 1.0), (1.5, 0.8)])
    assert [bool(ax.get_ylabel()) for ax in axes] == [True, False]  # once a row
    assert not any(ax.get_legend() for ax in axes)
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "no panel: SVHN-2 (waits for the data), FSDD (not recorded yet)"
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [*plotting.LABELS.values(), "every run diverges", "some runs diverge"]


def test_panels_take_axes_and_another_measure(rows):
    _, axes = plt.subplots(1, 2)
    drawn = plotting.panels({"a": rows, "b": rows, "c": "not recorded"}, draw=plotting.best_test_accuracy, axes=axes)
    assert drawn[0] is axes[0]
    assert axes[0].get_ylabel() == "best test accuracy"
    with pytest.raises(ValueError, match="axes must hold one for each of the 3 settings; got 2"):
        plotting.panels({"a": rows, "b": rows, "c": rows}, axes=axes)


def test_panels_of_nothing_but_reasons_are_refused():
    with pytest.raises(ValueError, match=r"no setting has rows: a \(waits for the data\)"):
        plotting.panels({"a": "waits for the data"})


@pytest.mark.parametrize(
    ("draw", "missing"),
    [
        (plotting.best_test_accuracy, "best_test_accuracy"),
        (plotting.single_runs, "best_test_loss"),
        (plotting.describe, "best_step"),
    ],
)
def test_missing_columns_are_named(rows, draw, missing):
    with pytest.raises(ValueError, match=missing):
        draw(rows.drop(columns=missing))
