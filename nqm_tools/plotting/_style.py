"""Colours, dashes and markers of the models, and what every figure does with its axes and its frame."""

import matplotlib.pyplot as plt
import pandas as pd

from nqm_tools.expansions import MODELS as _MODELS

# Figures are projected: at fewer dots per inch letters blur. Who has set more keeps them.
plt.rcParams["figure.dpi"] = max(150, plt.rcParams["figure.dpi"])

MODELS = tuple(_MODELS)
LABELS = {
    "f": "network $f$",
    "f_lin": r"linear model $f_{\mathrm{lin}}$",
    "f_quad": r"quadratic model $f_{\mathrm{quad}}$",
}
PALETTE = {"f": "#12355b", "f_lin": "#7f8b98", "f_quad": "#c2541f"}
DASHES = {"f": "", "f_lin": (1, 1), "f_quad": (4, 1.5)}
MARKERS = {"f": "o", "f_lin": "s", "f_quad": "^"}
# For models of other names, such as a general quadratic model's "g", in the order in which they are met.
OTHERS = ("#4c7a5b", "#7b4f8c", "#b08d2f", "#5b5b5b")
MARKS = "os^DvP"  # for lines that are no models
LINES = ((1, 0), (4, 1.5), (1, 1), (6, 1.5, 1, 1.5))


def models_of(frame):
    """The models of a frame: those with a style of their own in their order, then the others as they come."""
    found = list(dict.fromkeys(frame["model"]))
    return [model for model in MODELS if model in found] + [model for model in found if model not in MODELS]


def styles(models):
    """Colours, dashes and markers by model; models of other names get those that are free."""
    others = [model for model in models if model not in PALETTE]
    places = range(len(others))
    return (
        PALETTE | {model: OTHERS[i % len(OTHERS)] for i, model in zip(places, others, strict=True)},
        DASHES | {model: LINES[(i + 1) % len(LINES)] for i, model in zip(places, others, strict=True)},
        MARKERS | {model: MARKS[(i + 3) % len(MARKS)] for i, model in zip(places, others, strict=True)},
    )


def new_axes(ax):
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
    return ax


def name_models(ax):
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles, [LABELS.get(label, label) for label in labels], frameon=False)


def check_columns(frame, needed, labels=("model", "regime")):
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"frame must be a pandas DataFrame; got {type(frame).__name__}")
    missing = [column for column in needed if column not in frame.columns]
    if missing or frame.empty:
        raise ValueError(f"frame must have rows with columns {', '.join(needed)}; missing: {missing or 'rows'}")
    text = [column for column in needed if column not in labels and frame[column].dtype.kind not in "fiu"]
    if text:
        raise ValueError(f"columns must hold numbers; {', '.join(text)} does not")
