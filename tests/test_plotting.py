"""The figures show what the frames say, in one palette, and save as PDF and SVG."""

import colorsys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import nqm_tools as nqm
from nqm_tools import plotting


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def frame():
    steps = np.arange(5)
    rows = [
        {"model": model, "learning_rate": rate, "step": step, "train_loss": scale * 0.5**step, "test_loss": 1.0}
        for model, scale in zip(plotting.MODELS, (1.0, 2.0, 3.0), strict=True)
        for rate in (0.1, 0.2)
        for step in steps
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def summary():
    """f: one of two runs diverges at ratio 2; f_lin: both diverge there."""
    rows = []
    for model, losses in {"f": (1.0, np.nan), "f_lin": (np.nan, np.nan), "f_quad": (0.5, 0.7)}.items():
        for seed, loss in enumerate(losses):
            rows.append((model, seed, 0.5, 1.0 + 0.1 * seed, "monotone"))
            rows.append((model, seed, 2.0, loss, "divergent" if np.isnan(loss) else "catapult"))
    return pd.DataFrame(rows, columns=["model", "seed", "learning_rate_ratio", "best_test_loss", "regime"])


def drawn(ax, color):
    """The data of the lines drawn in a model's colour, those of the legend left out."""
    return [line.get_xydata() for line in ax.lines if line.get_color() == color and len(line.get_xdata()) > 1]


def test_loss_curves_draw_every_run_on_a_logarithmic_axis(frame):
    _, ax = plt.subplots()
    assert plotting.loss_curves(frame, ax=ax) is ax
    assert ax.get_yscale() == "log"
    lines = drawn(ax, plotting.PALETTE["f_quad"])
    assert len(lines) == 2
    np.testing.assert_allclose(lines[0], [(step, 3.0 * 0.5**step) for step in range(5)])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(plotting.LABELS.values())


def test_loss_curves_leave_out_what_is_not_finite(frame):
    frame.loc[frame["step"] == 4, "train_loss"] = np.inf
    (line, _) = drawn(plotting.loss_curves(frame), plotting.PALETTE["f"])
    assert line[:, 0].tolist() == [0, 1, 2, 3]


def test_regimes_give_a_panel_to_each_rate(frame):
    axes = plotting.regimes(frame, critical_learning_rate=0.1)
    assert [ax.get_title() for ax in axes] == [rf"$\eta = {r}\,\eta_{{\mathrm{{crit}}}}$" for r in (1, 2)]
    assert len(drawn(axes[0], plotting.PALETTE["f"])) >= 1
    with pytest.raises(ValueError, match="one for each of the 2 learning rates; got 1"):
        plotting.regimes(frame, 0.1, axes=axes[:1])


def test_best_test_loss_draws_means_and_marks_divergence(summary):
    ax = plotting.best_test_loss(summary)
    (line,) = drawn(ax, plotting.PALETTE["f_quad"])
    np.testing.assert_allclose(line, [(0.5, 1.05), (2.0, 0.6)])
    (line,) = drawn(ax, plotting.PALETTE["f"])
    np.testing.assert_allclose(line, [(0.5, 1.05), (2.0, 1.0)])
    marks = {
        (mark.get_marker(), mark.get_color(), *mark.get_xdata())
        for mark in ax.lines
        if mark.get_marker() in ("X", "x") and len(mark.get_xdata())
    }
    assert marks == {("X", plotting.PALETTE["f_lin"], 2.0), ("x", plotting.PALETTE["f"], 2.0)}
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"every run diverges", "some runs diverge"} <= set(labels)


def test_without_divergence_nothing_is_marked(summary):
    ax = plotting.best_test_loss(summary[summary["learning_rate_ratio"] < 1])
    assert "every run diverges" not in [text.get_text() for text in ax.get_legend().get_texts()]


def test_model_colours_differ_in_lightness():
    lightness = [colorsys.rgb_to_hls(*plt.matplotlib.colors.to_rgb(colour))[1] for colour in plotting.PALETTE.values()]
    assert np.diff(sorted(lightness)).min() > 0.1


def test_examples_show_images_with_their_labels():
    data = nqm.datasets.load("digits", n_train=6, n_test=0, seed=0)
    axes = plotting.examples(data, columns=4)
    assert [ax.get_title() for ax in axes] == [f"{label:+.0f}" for label in data.y_train[:4, 0]]
    with pytest.raises(ValueError, match=r"must hold images .* got shape \(2, 3\)"):
        plotting.examples(nqm.Data("own", np.ones((2, 3)), np.ones(2)))


def test_figures_save_as_pdf_and_svg(frame, tmp_path):
    paths = plotting.save(plotting.loss_curves(frame), tmp_path / "fig.1")
    assert [path.name for path in paths] == ["fig.1.pdf", "fig.1.svg"]
    assert paths[0].read_bytes().startswith(b"%PDF")
    assert b"<svg" in paths[1].read_bytes()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda frame: frame.drop(columns="step"), ValueError, r"missing: \['step'\]"),
        (lambda frame: frame[:0], ValueError, "missing: rows"),
        (lambda frame: frame.assign(model="mlp"), ValueError, r"models must be among .* got \['mlp'\]"),
        (lambda frame: frame.to_dict(), TypeError, "frame must be a pandas DataFrame; got dict"),
    ],
)
def test_bad_frames_are_refused(frame, change, error, message):
    with pytest.raises(error, match=message):
        plotting.loss_curves(change(frame))


def test_bad_summaries_and_columns_are_refused(frame, summary):
    with pytest.raises(ValueError, match=r"missing: \['regime'\]"):
        plotting.best_test_loss(summary.drop(columns="regime"))
    with pytest.raises(ValueError, match=r"missing: \['accuracy'\]"):
        plotting.loss_curves(frame, column="accuracy")
