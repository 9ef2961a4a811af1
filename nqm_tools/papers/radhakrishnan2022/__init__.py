"""Radhakrishnan, Beaglehole, Pandit and Belkin: the neural feature ansatz, and machines that learn by it."""

from nqm_tools.papers.radhakrishnan2022._claims import claims

TITLE = (
    'Radhakrishnan, Beaglehole, Pandit, Belkin, "Mechanism of feature learning in deep fully connected networks and '
    'kernel machines that recursively learn features" (2022)'
)

__all__ = ["TITLE", "claims"]
