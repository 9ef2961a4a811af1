"""Papers, a folder each: their panels, their claims, and the rules that decide these from recorded runs.

A paper is a module with ``TITLE`` and ``claims() -> list of Claim``; :func:`nqm_tools.report.decide` is the engine. To
add one, write the folder and its name in ``NAMES``.

>>> from nqm_tools import papers
>>> papers.load("zhu2024").TITLE
'Zhu, Liu, Radhakrishnan, Belkin, "Quadratic models for understanding catapult dynamics of neural networks" (ICLR 2024)'
"""

from __future__ import annotations

import importlib
import types

from nqm_tools.papers._rules import CONFIDENCE, Claim, Finding, Interval, recorded, runs_of, together, unknown

NAMES = (
    "zhu2024",
    "ours",
    "agarwala2022",
    "agarwala2024",
    "kalra2023b",
    "phunyaphibarn2023",
    "kalra2023a",
    "meltzer2023",
    "zhu2023",
    "radhakrishnan2022",
)

__all__ = [
    "CONFIDENCE",
    "NAMES",
    "Claim",
    "Finding",
    "Interval",
    "load",
    "recorded",
    "runs_of",
    "together",
    "unknown",
]


def load(name: str) -> types.ModuleType:
    """The module of a paper.

    Raises
    ------
    ValueError
        If there is no such paper.

    Examples
    --------
    >>> [claim.status for claim in load("ours").claims()][:2]
    ['derived', 'derived']
    """
    if name not in NAMES:
        raise ValueError(f"there is no paper {name!r}; there are {', '.join(NAMES)}")
    return importlib.import_module(f"nqm_tools.papers.{name}")
