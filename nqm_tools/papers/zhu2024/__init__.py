"""Zhu, Liu, Radhakrishnan, Belkin: quadratic models for understanding catapult dynamics (ICLR 2024)."""

from nqm_tools.papers.zhu2024._claims import claims
from nqm_tools.papers.zhu2024.generalization import best_by_rate, disagreement, gains
from nqm_tools.papers.zhu2024.panels import of_figure, runs

TITLE = (
    'Zhu, Liu, Radhakrishnan, Belkin, "Quadratic models for understanding catapult dynamics of neural networks" '
    "(ICLR 2024)"
)

__all__ = ["TITLE", "best_by_rate", "claims", "disagreement", "gains", "of_figure", "runs"]
