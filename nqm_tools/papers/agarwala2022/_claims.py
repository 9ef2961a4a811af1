"""The paper's claims that its abstract states, in our setting, and the rule that decides each."""

from __future__ import annotations

from nqm_tools.papers._rules import Claim
from nqm_tools.papers.agarwala2022 import sharpening


def claims() -> list[Claim]:
    """All of them."""
    return [
        Claim(
            "two directions",
            "one example",
            "",
            "the kernel sharpens progressively, to a value that differs slightly from the edge of stability",
            "in our setting (eigenvalues 1 and -epsilon, target 0, starts below 2): the median run that crosses 2 ends "
            "below it, by 0.45 to 0.6 times epsilon, for each of 5 seeds and 3 values of epsilon",
            sharpening.ends_near_the_edge,
        ),
        Claim(
            "many directions",
            "random models",
            "",
            "in higher dimension quadratic models drawn at random sharpen to the edge of stability, with no network; "
            "how far depends on gamma, the size of their quadratic term",
            f"in our setting ({sharpening.EXAMPLES} examples, {sharpening.PARAMETERS} parameters, gamma = "
            f"{sharpening.GAMMA:g}), {sharpening.DRAWS} draws from eta lambda = 1: none diverges, the 95 % interval of "
            f"the mean end lies above {sharpening.AT_THE_EDGE:g}, no end above 2.1; with gamma = {sharpening.LESS:g} "
            f"all end below {sharpening.AT_THE_EDGE:g}, with {sharpening.MORE:g} some diverge",
            sharpening.random_models_sharpen,
        ),
    ]
