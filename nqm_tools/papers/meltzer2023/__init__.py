"""Meltzer, Chen, Liu: quadratic nets, and ReLU networks beyond twice the critical learning rate."""

from nqm_tools.papers.meltzer2023._claims import claims

TITLE = 'Meltzer, Chen, Liu, "Catapult dynamics and phase transitions in quadratic nets" (arXiv:2301.07737)'

__all__ = ["TITLE", "claims"]
