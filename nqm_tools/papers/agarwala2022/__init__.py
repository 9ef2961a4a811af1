"""Agarwala, Pedregosa, Pennington: second-order regression sharpens to the edge of stability (ICML 2023)."""

from nqm_tools.papers.agarwala2022._claims import claims

TITLE = (
    'Agarwala, Pedregosa, Pennington, "Second-order regression models exhibit progressive sharpening to the edge of '
    'stability" (ICML 2023)'
)

__all__ = ["TITLE", "claims"]
