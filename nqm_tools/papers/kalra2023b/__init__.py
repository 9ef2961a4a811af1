"""Kalra, He, Barkeshli: sharpness dynamics of a two-layer linear network on one example, and its route to chaos."""

from nqm_tools.papers.kalra2023b._claims import claims

TITLE = (
    'Kalra, He, Barkeshli, "Universal sharpness dynamics in neural network training: fixed point analysis, edge of '
    'stability, and route to chaos" (arXiv:2311.02076)'
)

__all__ = ["TITLE", "claims"]
