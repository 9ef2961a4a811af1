"""Zhu, Liu, Radhakrishnan, Belkin: quadratic models for understanding catapult dynamics (ICLR 2024)."""

from nqm_tools.papers.zhu2024._claims import claims
from nqm_tools.papers.zhu2024.generalization import best_by_rate, disagreement, gains, that_stay_below
from nqm_tools.papers.zhu2024.panels import curves, of_figure, runs

TITLE = (
    'Zhu, Liu, Radhakrishnan, Belkin, "Quadratic models for understanding catapult dynamics of neural networks" '
    "(ICLR 2024)"
)

__all__ = ["TITLE", "best_by_rate", "claims", "curves", "disagreement", "gains", "of_figure", "runs", "that_stay_below"]
