"""Figures of the spike and of the corrections along the top eigenvector."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from nqm_tools import plotting

RUN = pd.DataFrame(
    {
        "model": "f_quad",
        "step": range(5),
        "train_loss": [1.0, 8.0, 60.0, 3.0, 0.5],
        "projection_1": [1.0, -8.0, 21.0, 2.0, 0.1],
        "projection_2": [0.5, 0.1, 2.0, 0.2, 0.1],
        "R_f": [0.1, 0.2, 0.9, 0.1, -0.01],
        "R_K": [-0.5, 0.6, 5.0, 0.7, -0.02],
    }
)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("directions", [1, 2])
def test_a_spike_shows_the_whole_loss_and_each_direction(directions):
    ax = plotting.spike(RUN, examples=8, directions=directions)
    whole, *along = ax.lines
    np.testing.assert_allclose(whole.get_ydata(), RUN["train_loss"])
    assert len(along) == directions
    for i, line in enumerate(along):
        np.testing.assert_allclose(line.get_ydata(), RUN[f"projection_{i + 1}"] ** 2 / 8)
    assert ax.get_yscale() == "log"
    assert ax.get_ylim()[0] == pytest.approx(0.05)


def test_corrections_are_hollow_where_they_are_negative():
    ax = plotting.corrections(RUN)
    marked = [line for line in ax.lines if line.get_linestyle() == "None"]
    found = {(line.get_label(), line.get_markerfacecolor() == "white"): tuple(line.get_xdata()) for line in marked}
    assert found == {
        (r"$p_1^\top R_K p_1 > 0$", False): (1, 2, 3),
        (r"$p_1^\top R_K p_1 < 0$", True): (0, 4),
        (r"$p_1^\top R_f p_1 > 0$", False): (0, 1, 2, 3),
        (r"$p_1^\top R_f p_1 < 0$", True): (4,),
    }
    assert all((line.get_ydata() > 0).all() for line in marked), "absolute values"


def test_axes_are_taken_and_returned():
    _, axes = plt.subplots(1, 2)
    assert plotting.spike(RUN, examples=8, ax=axes[0]) is axes[0]
    assert plotting.corrections(RUN, ax=axes[1]) is axes[1]


@pytest.mark.parametrize("draw", [lambda frame: plotting.spike(frame, examples=8), plotting.corrections])
def test_one_run_with_its_columns_is_needed(draw):
    with pytest.raises(ValueError, match="one run"):
        draw(pd.concat([RUN, RUN]))
    with pytest.raises(ValueError, match="missing"):
        draw(RUN.drop(columns=["projection_1", "R_K"]))
    with pytest.raises(ValueError, match="examples must be a whole number"):
        plotting.spike(RUN, examples=0)
