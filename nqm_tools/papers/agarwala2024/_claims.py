"""The claims of its abstract, in our setting, and the rule that decides each."""

from __future__ import annotations

from nqm_tools.papers._rules import FEWEST_SEEDS, Claim
from nqm_tools.papers.agarwala2024 import edge


def claims() -> list[Claim]:
    """All of them, for a two-layer network on digits and its quadratic model."""
    smallest, whole = min(edge.BATCHES), edge.WHOLE
    return [
        *(
            Claim(
                "conservative sharpening",
                f"digits, {model}",
                "stochastic_edge",
                "the smaller the batch, the less the largest eigenvalue grows (in our setting: the more it falls)",
                f"in our setting, at {edge.SMALL:g} times the critical rate: the mean of lambda_1 at the end over that "
                f"at the start rises with the batch, {smallest} to {whole}; that of batches of 2 and of 1 lies below "
                f"that of the whole batch, by the 95 % interval of the difference over {FEWEST_SEEDS} seeds or more",
                edge.sharpens_less(model),
            )
            for model in ("f_quad", "f")
        ),
        *(
            Claim(
                "stochastic edge",
                f"digits, {batches}, {model}",
                sweep,
                "with small batches training comes to another edge of stability, which noise makes",
                "in our setting, below the critical rate of gradient descent: of the runs that start with an exact "
                f"kernel norm above 1, at most {100 * edge.LOST:g} % diverge, and all others end below 1; none that "
                "starts below 1 diverges, or ends above",
                edge.comes_to_the_edge(model),
            )
            for batches, sweep in (
                ("independent batches", "stochastic_edge"),
                ("shuffled epochs", "stochastic_edge_epochs"),
            )
            for model in ("f_quad", "f")
        ),
    ]
