"""What is ours: laws, the certificate and the errata, each with how we know it (proved, derived, observed)."""

from nqm_tools.papers.ours._claims import claims

TITLE = "Ours: laws, certificate and errata beside Zhu et al. (2024)"

__all__ = ["TITLE", "claims"]
