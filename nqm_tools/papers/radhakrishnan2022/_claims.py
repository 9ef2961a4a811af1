"""What its abstract says, in our setting, and the rule that decides each."""

from __future__ import annotations

from nqm_tools.papers._rules import FEWEST_SEEDS, Claim
from nqm_tools.papers.radhakrishnan2022 import ansatz, machines


def claims() -> list[Claim]:
    """All of them, for a target of two directions."""
    return [
        *(
            Claim(
                "neural feature ansatz",
                f"{depth} layers, layer {layer}",
                "features_ansatz",
                "training makes a layer's W^T W correlate with the AGOP of what lies above",
                f"in our setting (standard normal start, NTK parameterisation), {FEWEST_SEEDS} seeds or more: the "
                f"Pearson correlation is above {ansatz.HIGH:g}, and above that at the start, by the 95 % intervals",
                ansatz.correlates(depth, f"weights_{layer}"),
            )
            for depth, layer in ((2, 1), (3, 1), (3, 2))
        ),
        *(
            Claim(
                "recursive feature machines",
                f"x1 x2, {n} examples of {d} inputs",
                "",
                "kernel machines that learn features by their AGOP do better than the kernel that they start from",
                f"in our setting (Laplace kernel, bandwidth 10, ridge 0.001): after {machines.EARLY} iterations the "
                f"95 % interval over {machines.SEEDS} draws of the test error over the plain kernel's ends below 1",
                machines.beats_its_kernel(n, d),
            )
            for n, d in machines.SIZES
        ),
    ]
