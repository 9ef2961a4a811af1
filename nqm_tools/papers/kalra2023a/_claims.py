"""The paper's claims, in our setting; where each is recorded, and the rule that decides it."""

from __future__ import annotations

from nqm_tools.papers._rules import FEWEST_SEEDS, Claim
from nqm_tools.papers.kalra2023a import phases

SWEEP, WIDE = "phases_digits", ("phases_wide",)
SETTING = "in our setting (digits, ReLU, neural tangent parameterization, all examples, 10 steps, width 64 and more)"
SEEDS = f"{FEWEST_SEEDS} seeds or more"


def claims() -> list[Claim]:
    """All of them; learning rates are c over the sharpness of the start."""
    return [
        *(
            Claim(
                "c_loss",
                f"digits, depth {depth}",
                SWEEP,
                f"{SETTING}: the loss rises from c_loss on, which exceeds 2 and falls with the width",
                f"{SEEDS}: at every width the interval of the mean lies above 2, and that of the logarithm of the "
                "paired ratio, narrowest to widest, above 0",
                phases.falls_to_two(depth),
                beside=WIDE,
            )
            for depth in (2, 3, 4, 8)
        ),
        *(
            Claim(
                name,
                "digits",
                SWEEP,
                f"{SETTING}: {name} grows with the depth",
                f"{SEEDS}, paired: at every width, from a recorded depth to the next, the interval of the ratio's "
                "logarithm lies above 0",
                phases.grows_with_depth(name),
                beside=WIDE,
            )
            for name in ("c_loss", "c_sharp")
        ),
        Claim(
            "order",
            "digits",
            SWEEP,
            f"{SETTING}: c_loss <= c_sharp <= c_barrier <= c_max",
            f"{SEEDS}: every network, to 1 %",
            phases.in_order,
            beside=WIDE,
        ),
        Claim(
            "c_max",
            "digits",
            SWEEP,
            f"{SETTING}: the largest rate that does not diverge hardly depends on the width",
            f"{SEEDS}: at every depth where it lies within the grid the interval of the width's exponent is within ±"
            f"{phases.FLAT:g}",
            phases.c_max_by_width,
            beside=WIDE,
        ),
        Claim(
            "sharpness reduction",
            "digits",
            SWEEP,
            f"{SETTING}: between 2 and c_loss both loss and sharpness fall",
            f"{SEEDS}: every network whose c_loss exceeds {2 * phases.GRID_STEP:g}: c_sharp is no smaller",
            phases.sharpness_falls_above_two,
            beside=WIDE,
        ),
        Claim(
            "control",
            "digits, readout zero",
            "phases_zero",
            f"{SETTING}: from a readout of zero c_loss is 2 at every width, and the sharpness rises at smaller rates",
            f"{SEEDS}: c_loss of every network is within {100 * (phases.GRID_STEP - 1):.0f} % of 2 (for a while 8 %), "
            "c_sharp below 2",
            phases.at_two,
        ),
    ]
