"""What is ours: laws, certificate, errata, other networks, each with how we know it (proved, derived, observed)."""

from nqm_tools.papers.ours._claims import claims

TITLE = "Ours: laws, certificate, errata and other networks beside Zhu et al. (2024)"

__all__ = ["TITLE", "claims"]
