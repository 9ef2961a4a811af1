"""The figures. Each takes ``ax=`` and returns it; :func:`save` writes PDF and SVG.

One colour, dash and marker for each model everywhere, of different lightness, so that figures read in grey too.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

try:
    import seaborn  # noqa: F401
    from matplotlib.axes import Axes
except ModuleNotFoundError:
    raise ModuleNotFoundError("figures need seaborn, which is not installed: the extra [plots]") from None

from nqm_tools._types import FilePath
from nqm_tools.plotting._diagnosis import diagnosis
from nqm_tools.plotting._dynamics import invariant_curves, phase_diagram, trap
from nqm_tools.plotting._panels import best_test_accuracy, best_test_loss, describe, panels, single_runs
from nqm_tools.plotting._phases import phases_by_width
from nqm_tools.plotting._quantities import against_width, decay_factors, lines, width_exponents
from nqm_tools.plotting._runs import examples, loss_and_eigenvalues, loss_curves, regimes
from nqm_tools.plotting._spectra import corrections, spike
from nqm_tools.plotting._style import DASHES, LABELS, MARKERS, MODELS, PALETTE

__all__ = [
    "DASHES",
    "LABELS",
    "MARKERS",
    "MODELS",
    "PALETTE",
    "against_width",
    "best_test_accuracy",
    "best_test_loss",
    "corrections",
    "decay_factors",
    "describe",
    "diagnosis",
    "examples",
    "invariant_curves",
    "lines",
    "loss_and_eigenvalues",
    "loss_curves",
    "panels",
    "phase_diagram",
    "phases_by_width",
    "regimes",
    "save",
    "single_runs",
    "spike",
    "trap",
    "width_exponents",
]


def save(ax: Axes | Sequence[Axes], path: FilePath) -> list[pathlib.Path]:
    """Write the figure that ``ax`` belongs to as ``path.pdf`` and ``path.svg``; returns both paths.

    Examples
    --------
    >>> import tempfile
    >>> paths = save(trap(), tempfile.mkdtemp() + "/trap")
    >>> [path.name for path in paths]
    ['trap.pdf', 'trap.svg']
    """
    path = pathlib.Path(path)
    if path.suffix in (".pdf", ".svg"):
        path = path.with_suffix("")
    paths = [path.with_name(path.name + suffix) for suffix in (".pdf", ".svg")]
    for target in paths:
        np.ravel(ax)[0].figure.savefig(target, bbox_inches="tight")
    return paths
