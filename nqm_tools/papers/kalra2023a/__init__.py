"""Kalra, Barkeshli: critical learning rates of early training, by width, depth and the size of the first outputs."""

from nqm_tools.papers.kalra2023a._claims import claims

TITLE = (
    'Kalra, Barkeshli, "Phase diagram of early training dynamics in deep neural networks: effect of the learning rate, '
    'depth, and width" (NeurIPS 2023)'
)

__all__ = ["TITLE", "claims"]
