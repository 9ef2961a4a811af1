"""The claims of its abstract and of two more sentences, in our setting, and the rule that decides each.

That the loss along all other eigenvectors does not rise, and that the kernel's norm falls, are as the public reviews of
an earlier version report them; of the first they say "nearly" monotone.
"""

from __future__ import annotations

from nqm_tools.papers._rules import FEWEST_SEEDS, Claim
from nqm_tools.papers.zhu2023 import alignment as rules

SEEDS = f"{FEWEST_SEEDS} seeds or more"
SMALLEST, WHOLE = min(rules.BATCHES), rules.WHOLE


def claims() -> list[Claim]:
    """All of them, for two-layer networks and a target of two directions."""
    return [
        Claim(
            "spikes",
            "gradient descent, ReLU",
            "features_spike",
            "catapults occur in the subspace of the top eigenvectors of the tangent kernel",
            f"in our setting, at {rules.ABOVE:g} times the critical rate: the 95 % interval over {SEEDS} of the share "
            f"of the loss's rise along {rules.DIRECTIONS} eigenvectors lies above {100 * rules.SHARE:.0f} %",
            rules.spike_in_top_space("f"),
        ),
        Claim(
            "spikes",
            "gradient descent, ReLU",
            "features_spike",
            "the loss along all other eigenvectors does not rise",
            f"in our setting, as above: beside the first {rules.DIRECTIONS} it is never above its first value, on any "
            f"seed of {FEWEST_SEEDS} or more",
            rules.rest_does_not_rise("f"),
        ),
        Claim(
            "spikes",
            "gradient descent, ReLU",
            "features_gd",
            "the norm of the tangent kernel falls in a catapult",
            f"in our setting, at {rules.ABOVE:g} times the critical rate: the 95 % interval of the fall of lambda_1 "
            "lies above 0, and so does that of its difference to the best rate below",
            rules.kernel_falls("f"),
        ),
        *(
            Claim(
                "feature learning",
                f"gradient descent, {name}",
                sweep,
                "catapults increase the alignment with the true predictor's AGOP, and generalise better",
                f"in our setting, trained out, at {rules.ABOVE:g} times the critical rate, paired over {SEEDS} with "
                f"the best of its runs at {', '.join(f'{rate:g}' for rate in rules.BELOW)} times that have no "
                "catapult: the 95 % intervals of the rise "
                "of the alignment and of the fall of the test loss lie above 0",
                rules.catapult_gains("f"),
            )
            for name, sweep in (("ReLU", "features_gd"), ("Swish", "features_gd_swish"))
        ),
        *(
            Claim(
                "feature learning",
                "mini-batches, ReLU",
                "features_sgd",
                statement,
                f"in our setting, one rate below critical, trained out, paired over {SEEDS}: better with batches of "
                f"{SMALLEST} than with the whole one, and ordered by the size of the batch in the mean over seeds of "
                "the rank correlation, each by the 95 % interval",
                rules.smaller_batches("f", column),
            )
            for statement, column in (
                ("a smaller batch induces more catapults", "catapults"),
                ("a smaller batch improves the alignment with the true AGOP", "agop_alignment"),
                ("a smaller batch improves the test performance", "test_loss"),
            )
        ),
    ]
