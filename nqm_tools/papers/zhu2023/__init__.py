"""Zhu, Liu, Radhakrishnan and Belkin: spikes of SGD are catapults, which align the AGOP with the true predictor's."""

from nqm_tools.papers.zhu2023._claims import claims

TITLE = (
    'Zhu, Liu, Radhakrishnan, Belkin, "Catapults in SGD: spikes in the training loss and their impact on '
    'generalization through feature learning" (ICML 2024)'
)

__all__ = ["TITLE", "claims"]
