"""Phunyaphibarn, Lee, Wang, Zhang, Yun (2023, arXiv 2311.15051): large catapults with momentum, in our settings."""

from nqm_tools.papers.phunyaphibarn2023._claims import claims

TITLE = "Phunyaphibarn, Lee, Wang, Zhang, Yun: large catapults with momentum (arXiv 2311.15051), in our settings"

__all__ = ["TITLE", "claims"]
