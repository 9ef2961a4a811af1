"""Agarwala and Pennington: conservative sharpening and the stochastic edge of stability (2024)."""

from nqm_tools.papers.agarwala2024._claims import claims

TITLE = (
    'Agarwala, Pennington, "High dimensional analysis reveals conservative sharpening and a stochastic edge of '
    'stability" (2024)'
)

__all__ = ["TITLE", "claims"]
