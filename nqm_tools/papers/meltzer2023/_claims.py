"""The paper's claims, in our setting; where each is recorded or computed, and the rule that decides it."""

from __future__ import annotations

from nqm_tools.papers._rules import FEWEST_SEEDS, Claim
from nqm_tools.papers.meltzer2023 import beyond

SEEDS = f"{FEWEST_SEEDS} seeds or more"
ONE, DIGITS = "beyond_one_example", "beyond_digits"
NETWORKS = {ONE: "one example, ReLU network", DIGITS: "digits 0 and 1, ReLU network"}
NET = f"{beyond.WEIGHTS:,} weights, moduli from 1 to 2, one example with label 0, {beyond.SEEDS} draws"


def claims() -> list[Claim]:
    """All of them; rates are eta lambda_0, in units of one over the kernel of the start."""
    return [
        Claim(
            "phases",
            "pure quadratic net",
            "",
            "below 2 training is lazy, above there is a catapult, and the kernel ends lower than it began",
            f"{NET}: at {', '.join(f'{t:g}' for t in beyond.BELOW)} no loss rises and the kernel keeps "
            f"{100 * (1 - beyond.SAME):.0f} %; at {', '.join(f'{t:g}' for t in beyond.ABOVE)} every loss rises and "
            "vanishes, and eta lambda ends below 2",
            beyond.pure_net,
        ),
        Claim(
            "weight norm",
            "pure quadratic net",
            "",
            "below a bound that the start gives no step raises the norm of the weights, catapults included",
            f"{NET}: no step at 2.1 and at the smallest of the bounds raises |w|^2 by more than 1e-9",
            beyond.norm_falls,
            kind="identity",
        ),
        Claim(
            "bias",
            "quadratic net with bias",
            "",
            "with a bias there is a catapult too, up to smaller rates",
            f"{beyond.WEIGHTS:,} weights of one modulus, label 0, {beyond.SEEDS} draws, the exact map: the largest "
            "rate that converges exceeds 2, and without bias it is larger, by the interval of the paired difference",
            beyond.bias_lowers,
        ),
        *(
            claim
            for sweep, panel in NETWORKS.items()
            for claim in (
                Claim(
                    "beyond 4",
                    panel,
                    sweep,
                    "in our setting ReLU networks do not diverge far beyond 4",
                    f"{SEEDS}: no run diverges at any recorded rate, up to 24",
                    beyond.survives,
                ),
                Claim(
                    "sparsity",
                    panel,
                    sweep,
                    "in our setting activations become sparser beyond 2, the more the larger the rate",
                    f"{SEEDS}: below 2 the share of units that are off changes by less than {beyond.SAME:g}; above, "
                    f"the interval of its rank correlation with the rate lies above {beyond.AGREE:g} (for a while 0.5)",
                    beyond.sparser,
                ),
            )
        ),
        Claim(
            "kernel",
            NETWORKS[DIGITS],
            DIGITS,
            "in our setting eta lambda ends lowest at a rate between 3 and 5, and near 2 again far beyond",
            f"{SEEDS}: its mean is lowest there, below 2, and the interval of the paired rise to the largest rate lies "
            "above 0",
            beyond.kernel_falls_and_returns,
        ),
        Claim(
            "weight norm",
            NETWORKS[DIGITS],
            DIGITS,
            "in our setting the norm of the weights grows beyond 5",
            f"{SEEDS}: at every recorded rate the interval of the ratio's logarithm is above 0; it grows with the rate",
            beyond.norm_grows,
        ),
    ]
