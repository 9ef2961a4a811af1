"""The claims that its abstract states, in our setting, and the rule that decides each."""

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
                "the smaller the batch, the more slowly the largest eigenvalue grows",
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
                f"digits, {model}",
                "stochastic_edge",
                "where noise destabilises, training comes to an edge that the kernel norm K tells: it does not stay "
                "above 1",
                f"in our setting, batches of at most {edge.LARGEST}, seeds from {edge.JUDGED} (the bounds were chosen "
                f"on those before): of the runs that start above {edge.ABOVE:g} and converge, K ends below "
                f"{edge.BOUND:g} in each, and below 1 in the median; of those that start below {edge.BELOW:g}, K moves "
                f"by less than {100 * edge.MOVED:g} %",
                edge.comes_to_the_edge(model),
            )
            for model in ("f_quad", "f")
        ),
        *(
            Claim(
                "stochastic edge",
                f"digits, shuffled epochs, {model}",
                "stochastic_edge_epochs",
                "the same with the batches of shuffled epochs",
                f"{FEWEST_SEEDS} seeds or more; the bounds are those of independent batches",
                edge.comes_to_the_edge(model, judged=0),
            )
            for model in ("f_quad", "f")
        ),
        *(
            Claim(
                "threshold",
                name,
                "",
                "a linear model is stable in mean square up to about K = 1",
                f"in our setting ({edge.EXAMPLES} examples, batches of 1, 2, 4, {edge.EXAMPLES // 2}): the rate with "
                f"K = 1 is within {100 * edge.NEAR:g} % of the exact threshold, on average over {FEWEST_SEEDS} kernels",
                edge.near_one(name),
            )
            for name in edge.KERNELS
        ),
    ]
