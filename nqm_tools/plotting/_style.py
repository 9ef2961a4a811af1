"""Colours, dashes and markers of the models, and what every figure does with its axes and its frame."""

import matplotlib.pyplot as plt
import pandas as pd

MODELS = ("f", "f_lin", "f_quad")
LABELS = {
    "f": "network $f$",
    "f_lin": r"linear model $f_{\mathrm{lin}}$",
    "f_quad": r"quadratic model $f_{\mathrm{quad}}$",
}
PALETTE = {"f": "#12355b", "f_lin": "#9aa5b1", "f_quad": "#d1602b"}
DASHES = {"f": "", "f_lin": (1, 1), "f_quad": (4, 1.5)}
MARKERS = {"f": "o", "f_lin": "s", "f_quad": "^"}
MARKS = "os^DvP"  # for lines that are no models
LINES = ((1, 0), (4, 1.5), (1, 1), (6, 1.5, 1, 1.5))


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
    unknown = set(frame["model"]) - set(MODELS) if "model" in needed else None
    if unknown:
        raise ValueError(f"models must be among {MODELS}; got {sorted(unknown)}")
