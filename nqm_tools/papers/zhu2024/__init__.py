"""Zhu, Liu, Radhakrishnan, Belkin: quadratic models for understanding catapult dynamics (ICLR 2024)."""

from nqm_tools.papers.zhu2024._claims import claims

TITLE = (
    'Zhu, Liu, Radhakrishnan, Belkin, "Quadratic models for understanding catapult dynamics of neural networks" '
    "(ICLR 2024)"
)

__all__ = ["TITLE", "claims"]
