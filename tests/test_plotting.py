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


@pytest.fixture
def widths():
    """Two lines of exact power laws, each width twice with the same mean."""
    rows = [
        {"width": m, "pair": pair, "model": model, "gap": scale * m**exponent * spread}
        for pair, model, scale, exponent in (("wide", "f", 2.0, -0.5), ("worst", "f_quad", 3.0, 1.0))
        for m in (10, 100, 1000)
        for spread in (0.9, 1.1)
    ]
    return pd.DataFrame(rows)


def test_width_exponents_are_those_of_the_power_laws(widths):
    exponents = plotting.width_exponents(widths, y="gap", hue="pair")
    assert exponents.index.tolist() == ["wide", "worst"]
    np.testing.assert_allclose(exponents, [-0.5, 1.0], atol=1e-12)


@pytest.mark.parametrize("hue", ["model", "pair"])
def test_against_width_draws_means_and_fits_with_their_exponents(widths, hue):
    _, ax = plt.subplots()
    assert plotting.against_width(widths, y="gap", hue=hue, ax=ax) is ax
    assert ax.get_xscale() == ax.get_yscale() == "log"
    first, second = np.array([2.0 * m**-0.5 for m in (10, 100, 1000)]), np.array([30.0, 300.0, 3000.0])
    for line, expected in zip(ax.lines, (first, first, second, second), strict=True):
        np.testing.assert_allclose(line.get_ydata(), expected)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0].startswith(plotting.LABELS["f"] if hue == "model" else "wide")
    assert "m^{-0.50}" in labels[0]
    if hue == "model":
        assert ax.lines[2].get_color() == plotting.PALETTE["f_quad"]


def test_power_laws_need_positive_values_and_two_widths(widths):
    with pytest.raises(ValueError, match="width and gap must be positive and finite"):
        plotting.against_width(widths.assign(gap=0.0), y="gap")
    with pytest.raises(ValueError, match="at least two widths are needed for an exponent; wide has 1"):
        plotting.width_exponents(widths[widths["width"] == 10], y="gap", hue="pair")


def test_decay_factors_draw_the_formula_and_the_marks():
    frame = pd.DataFrame({"learning_rate": [0.1, 0.5], "index": [1, 2], "factor": [0.6, 0.5]})
    ax = plotting.decay_factors(frame, [4.0, 1.0])
    first, mark, second = ax.lines[:3]
    for line, eigenvalue in ((first, 4.0), (second, 1.0)):
        np.testing.assert_allclose(line.get_ydata(), np.abs(1 - eigenvalue * line.get_xdata()))
    np.testing.assert_allclose(mark.get_xydata(), [(0.1, 0.6)])
    with pytest.raises(ValueError, match=r"index must be 1 to 1, the number of eigenvalues; got \[2\]"):
        plotting.decay_factors(frame, [4.0])
    with pytest.raises(ValueError, match="eigenvalues must be a sequence of positive numbers"):
        plotting.decay_factors(frame, [4.0, 0.0])


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


@pytest.fixture
def sweep():
    """Two runs at each of two rates; the second rate's second run diverges."""
    rows = [
        {"rate": rate, "step": step, "train_loss": loss * 2.0**step}
        for rate, loss in ((2.0, 1.0), (2.0, 3.0), (0.5, 10.0), (0.5, np.inf))
        for step in range(3)
    ]
    return pd.DataFrame(rows)


def test_lines_average_runs_and_order_a_varied_number(sweep):
    _, ax = plt.subplots()
    assert plotting.lines(sweep, y="train_loss", hue="rate", ax=ax) is ax
    assert ax.get_yscale() == "log"
    means = [line.get_xydata() for line in ax.lines if len(line.get_xdata())]
    np.testing.assert_allclose(means[0], [(0, 10), (1, 20), (2, 40)])
    np.testing.assert_allclose(means[1], [(0, 2), (1, 4), (2, 8)])
    legend = ax.get_legend()
    assert [legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())] == ["rate", "0.5", "2"]


def test_lines_keep_labels_in_the_order_of_the_rows_and_take_another_axis(sweep):
    sweep = sweep.assign(kind=np.where(sweep["rate"] > 1, "wide", "narrow"), kernel=1.0)
    ax = plotting.lines(sweep, x="rate", y="kernel", hue="kind")
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("rate", "kernel", "linear")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["wide", "narrow"]


def test_lines_need_numbers_to_draw(sweep):
    with pytest.raises(ValueError, match=r"missing: \['lambda_1'\]"):
        plotting.lines(sweep, y="lambda_1", hue="rate")
    with pytest.raises(ValueError, match="kind does not"):
        plotting.lines(sweep.assign(kind="a"), y="kind", hue="rate")


def test_the_phase_diagram_marks_divergence_and_what_cannot_be():
    final = np.array([[1.0, np.nan, -1.0], [0.5, 2.0, np.nan]])
    ax = plotting.phase_diagram(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0]), final)
    grey, shown = (mesh.get_array().reshape(2, 3) for mesh in ax.collections)
    np.testing.assert_array_equal(np.ma.getmaskarray(grey), ~np.isnan(final))
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), np.isnan(final) | (final < 0))
    with pytest.raises(ValueError, match=r"final must have shape \(2, 2\)"):
        plotting.phase_diagram(np.ones(2), np.ones(2), final)


@pytest.mark.parametrize("beta", [0.0, 0.4, -1.2])
def test_the_trap_has_its_corners_where_two_of_its_sides_meet(beta):
    ax = plotting.trap(beta)
    sides = {line.get_label(): line.get_xydata() for line in ax.lines}
    for point in sides["$D = 0$"]:
        assert nqm.dynamics.triangle(nqm.dynamics.Signed(*point), beta).d == pytest.approx(0, abs=1e-12)
    for point in sides["$P = 0$, $Q = 0$"]:
        _, p, q = nqm.dynamics.triangle(nqm.dynamics.Signed(*point), beta)
        assert min(p, q) == pytest.approx(0, abs=1e-12)
    assert ("stable equilibria" in sides) == (abs(beta) < 1)
    with pytest.raises(ValueError, match="beta must lie between -2 and 2"):
        plotting.trap(2.0)


def test_invariant_curves_pass_through_their_starts():
    ax = plotting.invariant_curves((2.2, 2.4))
    levels = [nqm.dynamics.adiabatic_invariant(0.0, v0) for v0 in (2.2, 2.4)]
    np.testing.assert_allclose(ax.collections[0].levels, levels)
    with pytest.raises(ValueError, match="v0 must hold values above 2"):
        plotting.invariant_curves((1.5,))


@pytest.fixture
def spectrum():
    """Two rates of one model; at the second the first eigenvalue is unknown at every other step."""
    steps = np.arange(6)
    values = {"train_loss": 0.5**steps, "lambda_1": 8.0 - steps, "lambda_2": 2.0}
    one = pd.DataFrame({"model": "f", "step": steps, **values})
    gaps = one.assign(lambda_1=np.where(steps % 2, np.nan, one["lambda_1"]))
    return pd.concat([gaps.assign(learning_rate=0.5), one.assign(learning_rate=0.25)])


def test_loss_and_eigenvalues_give_a_column_to_each_rate(spectrum):
    axes = plotting.loss_and_eigenvalues(spectrum, unstable=2.0)
    assert axes.shape == (2, 2)
    assert [ax.get_title() for ax in axes[0]] == [r"$\eta = 0.25$", r"$\eta = 0.5$"]
    labels = [text.get_text() for text in axes[1, 0].get_legend().get_texts()]
    assert labels == [r"$\lambda_{1}$", r"$\lambda_{2}$", r"$2/\eta$"]
    for ax, steps, critical in zip(axes[1], ([0, 1, 2, 3, 4, 5], [0, 2, 4]), (8.0, 4.0), strict=True):
        first, second, line = ax.lines
        np.testing.assert_allclose(first.get_xydata(), [(step, 8 - step) for step in steps])
        np.testing.assert_allclose(second.get_ydata(), 2.0)
        np.testing.assert_allclose(line.get_ydata(), critical)
    assert plotting.loss_and_eigenvalues(spectrum, axes=axes)[1, 1] is axes[1, 1]


def test_loss_and_eigenvalues_take_one_model_with_eigenvalues(spectrum):
    with pytest.raises(ValueError, match=r"must hold one model; got \['f', 'f_quad'\]"):
        plotting.loss_and_eigenvalues(pd.concat([spectrum, spectrum.assign(model="f_quad")]))
    with pytest.raises(ValueError, match=r"missing: \['lambda_1'\]"):
        plotting.loss_and_eigenvalues(spectrum.drop(columns=["lambda_1", "lambda_2"]))
    with pytest.raises(ValueError, match=r"axes must have shape \(2, 2\); got \(2, 1\)"):
        plotting.loss_and_eigenvalues(spectrum, axes=plt.subplots(2, 1, squeeze=False)[1])
    with pytest.raises(TypeError, match="frame must be a pandas DataFrame; got list"):
        plotting.loss_and_eigenvalues([])


def test_models_of_other_names_have_a_style_too(frame):
    model = nqm.quadratic.diagonal(0.1)
    data = nqm.Data("own", np.eye(3), np.ones(3))
    run = nqm.train(model, data, learning_rate=0.1, steps=5, record=("lambda_1", "projection_1", "R_f", "R_K"))
    other = run.frame.assign(model="cubic model", train_loss=run.frame["train_loss"] * 2)
    ax = plotting.loss_curves(pd.concat([run.frame, other, frame]))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"g", "cubic model"} <= set(labels)
    colours = {line.get_color() for line in ax.get_legend().get_lines()}
    assert len(colours) == len(labels)
    plotting.regimes(run.frame, 0.2)
    plotting.loss_and_eigenvalues(run.frame)
    plotting.spike(run.frame, examples=3)
    plotting.corrections(run.frame)


def test_best_test_losses_are_drawn_from_summaries_of_runs():
    data = nqm.datasets.load("digits", n_train=12, n_test=9, seed=0)
    runs = nqm.train(nqm.networks.two_layer_fc(16), data, learning_rate=[0.1, 0.3], steps=5)
    ax = plotting.best_test_loss(pd.DataFrame([run.summary for run in runs]))
    assert ax.lines[0].get_xdata().tolist() == [0.1, 0.3]
    assert ax.lines[0].get_ydata().tolist() == [run.best_test_loss for run in runs]
    assert "crit" not in ax.get_xlabel()


def test_phases_by_width_show_means_and_deviations_and_what_is_beyond_the_grid():
    rows = [
        {"width": width, "model": model, "seed": seed, "c_loss": 2 + (64 + seed) / width, "c_max": largest}
        for width in (64, 256)
        for model, largest in (("f", np.inf), ("f_quad", 4.5))
        for seed in (0, 2)
    ]
    ax = plotting.phases_by_width(pd.DataFrame(rows), ["c_loss", "c_max"])
    bars = {bar.get_label(): bar for bar in ax.containers}
    loss = bars[r"$\hat\eta_{\mathrm{loss}}$, network $f$"]
    x, y = loss.lines[0].get_data()
    np.testing.assert_allclose(sorted(1 / x), (64, 256))
    np.testing.assert_allclose(sorted(y), (2 + 65 / 256, 2 + 65 / 64))
    heights = [np.ptp(segment[:, 1]) for segment in loss.lines[2][0].get_segments()]
    np.testing.assert_allclose(sorted(heights), (2 * np.sqrt(2) / 256, 2 * np.sqrt(2) / 64))
    assert not len(bars[r"$\hat\eta_{\max}$, network $f$"].lines[0].get_xdata())
    arrows = [line for line in ax.lines if line.get_marker() == "^" and line.get_linestyle() == "None"]
    assert sorted(len(line.get_xdata()) for line in arrows) == [0, 0, 0, 2]
    with pytest.raises(ValueError, match="names must be of c_loss, c_sharp, c_barrier, c_max; got 'width'"):
        plotting.phases_by_width(pd.DataFrame(rows), ["width"])
    with pytest.raises(ValueError, match="missing: \\['c_sharp'\\]"):
        plotting.phases_by_width(pd.DataFrame(rows))
