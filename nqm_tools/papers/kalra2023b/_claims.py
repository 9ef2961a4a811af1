"""The paper's claims, in our setting and units; where each is recorded or computed, and the rule that decides it."""

from __future__ import annotations

from nqm_tools.papers._rules import FEWEST_SEEDS, Claim
from nqm_tools.papers.kalra2023b import edge

SEEDS = f"{FEWEST_SEEDS} seeds or more"
SWEEP = "edge_one_example"
SETTING = "in our setting (ReLU, width 64, label 8)"
NAMES = {"f_quad": "quadratic model", "f": "network"}
# Beyond it a step closes all gates: a network's runs are judged up to it.
UP_TO = {"f_quad": "", "f": f", up to beta = sqrt(27)/2 - 1 = {edge.GATES_CLOSE:.3f}"}


def claims() -> list[Claim]:
    """All of them; beta = sqrt(c) eta y."""
    return [
        *(
            Claim(
                "critical rate",
                f"one example, {name}",
                SWEEP,
                f"{SETTING}: above a critical rate, beta = 1, runs are at the edge of stability",
                f"{SEEDS} a side, all runs with D_0 >= 0: below, the loss vanishes; above, it stays and is bounded"
                f"{UP_TO[model]}",
                edge.critical_rate(model),
            )
            for model, name in NAMES.items()
        ),
        *(
            Claim(
                "manifold",
                f"one example, {name}",
                SWEEP,
                f"{SETTING}: at the edge all is on one curve of the residual and the kernel",
                f"{SEEDS}: z = v/2 - beta, for balanced weights, to {edge.BALANCED:g} in the last {edge.LAST} steps"
                f"{UP_TO[model]}",
                edge.is_balanced(model),
            )
            for model, name in NAMES.items()
        ),
        Claim(
            "period doubling",
            "one example, quadratic model",
            SWEEP,
            f"{SETTING}: at the edge the kernel has period 2, then 4, ..., then none, as the rate grows",
            f"{SEEDS} of period 2, one run or more of the others: all runs, by where beta lies",
            edge.periods,
        ),
        Claim(
            "period doubling",
            "balanced weights",
            "",
            "on that curve the route to chaos is by period doubling",
            "distances of superstable cycles of period 2 to 128 shrink by 4.669 ± 0.01; the Lyapunov exponent turns "
            "positive",
            edge.route_to_chaos,
        ),
        Claim(
            "parameterization",
            "UV model",
            "",
            "initialization and parameterization decide whether the edge of stability is reached",
            "a family of ours, v^T U x/sqrt(n_eff) with n_eff = n^(1 - p); width 512, y = 1, kernel about 2: no draw "
            "can for p = 0, more than 90 % can for p = 1, and the share grows with p",
            edge.parameterization,
        ),
        Claim(
            "mechanism",
            "one example",
            "",
            "whether the kernel, the trace of the loss's Hessian, rises or falls is told by residual and kernel alone",
            "20,000 random states: the kernel rises in a step if and only if r (4 f - eta lambda r) < 0",
            edge.mechanism,
            kind="identity",
        ),
    ]
