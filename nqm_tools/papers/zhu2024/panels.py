"""The paper's panels of best test loss and accuracy: one table of what is where."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nqm_tools._types import FilePath

if TYPE_CHECKING:
    import pandas as pd


class Panel(NamedTuple):
    """A panel: the figure of its losses, that of its accuracies (or ""), a title, the sweep file, the data set."""

    losses: str
    accuracies: str
    title: str
    sweep: str
    data: str


PANELS = (
    Panel("2b", "19.6", "CIFAR-2, FC", "figure_2b", "cifar2"),
    Panel("4", "19.6", "FSDD, FC", "figure_4_fsdd", "fsdd"),
    Panel("4", "19.6", "AG News, FC", "figure_4_ag_news", "ag_news"),
    Panel("4", "19.6", "MNIST, FC", "figure_4_mnist", "mnist"),
    Panel("4", "19.6", "CIFAR-2, FC, SGD", "figure_4_cifar2_sgd", "cifar2"),
    Panel("4", "19.6", "CIFAR-2, CNN", "figure_4_cifar2_cnn", "cifar2"),
    Panel("4", "19.6", "SVHN-2, CNN", "figure_4_svhn2_cnn", "svhn2"),
    Panel("9", "10", "CIFAR-2, 3 layers", "figure_9_cifar2", "cifar2"),
    Panel("9", "10", "SVHN-2, 3 layers", "figure_9_svhn2", "svhn2"),
    Panel("9", "10", "FSDD, 3 layers", "figure_9_fsdd", "fsdd"),
    Panel("9", "10", "AG News, 3 layers", "figure_9_ag_news", "ag_news"),
    *(
        Panel("19.8", "", f"{title}, {activation}", f"figure_19_{name}_{activation.lower()}", name.partition("_cnn")[0])
        for activation in ("Tanh", "Swish")
        for title, name in (
            ("AG News, FC", "ag_news"),
            ("FSDD, FC", "fsdd"),
            ("CIFAR-2, CNN", "cifar2_cnn"),
            ("SVHN-2, CNN", "svhn2_cnn"),
        )
    ),
)

# Rates that need more steps than a panel's others.
BESIDE = {f"figure_4_{name}_cnn": (f"figure_4_{name}_cnn_slow",) for name in ("cifar2", "svhn2")}


def of_figure(*figures: str) -> dict[str, str]:
    """``{title: sweep}`` of the panels of figures, in the paper's order.

    >>> of_figure("9")["AG News, 3 layers"]
    'figure_9_ag_news'
    """
    return {p.title: p.sweep for p in PANELS if p.losses in figures or p.accuracies in figures}


def curves(store: FilePath, sweep: str) -> pd.DataFrame:
    """The recorded steps of a panel's runs, as :func:`nqm_tools.papers.recorded` gives them of one sweep.

    With those of its sweeps for small rates, where it has some.
    """
    from nqm_tools.papers import recorded, together

    return together([recorded(store, name) for name in (sweep, *BESIDE.get(sweep, ()))])


def runs(store: FilePath, sweep: str) -> pd.DataFrame | str:
    """The recorded runs of a panel, a row a run; or, for :func:`nqm_tools.plotting.panels`, why there are none."""
    from nqm_tools.papers import runs_of

    frame = runs_of(curves(store, sweep))
    return frame if len(frame) else "not recorded yet"
