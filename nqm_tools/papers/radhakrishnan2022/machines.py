"""Rules for recursive feature machines, computed on the spot."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

from nqm_tools import datasets
from nqm_tools.features import recursive_feature_machine
from nqm_tools.papers._rules import Check, Finding, Interval, estimate

SEEDS, N_TEST = 5, 1000
# Examples and inputs of a target of two directions.
SIZES = ((256, 20), (256, 50))
# The iterations at which errors are compared.
EARLY, LAST = 3, 5


@functools.cache
def history(n: int, d: int, power: float) -> pd.DataFrame:
    """Relative test errors and alignments by iteration, a row an iteration of a seed."""
    frames = []
    for seed in range(SEEDS):
        data = datasets.multi_index("x1x2", d, n_train=n, n_test=N_TEST, seed=seed)
        machine = recursive_feature_machine(
            data.x_train,
            data.y_train,
            iterations=LAST,
            power=power,
            test=(data.x_test, data.y_test),
            reference=data.agop,
        )
        relative = machine.history["test_loss"] / float(np.var(data.y_test))
        frames.append(machine.history.assign(seed=seed, error=relative))
    return pd.concat(frames, ignore_index=True)


def errors(n: int, d: int, power: float = 1.0, column: str = "error") -> pd.DataFrame:
    """One row a seed, one column an iteration."""
    return history(n, d, power).pivot_table(index="seed", columns="iteration", values=column)


def beats_its_kernel(n: int, d: int) -> Check:
    """Whether the error falls below the plain kernel's."""

    def check():
        found = errors(n, d)
        aligned = errors(n, d, column="agop_alignment")
        ratio = found[EARLY] / found[0]
        return Finding(
            f"relative error {found[0].mean():.3f} to {found[EARLY].mean():.3f}, alignment {aligned[0].mean():.3f} to "
            f"{aligned[EARLY].mean():.3f}: {estimate(ratio, '{:.2f}')} of the plain kernel's",
            bool(Interval.of(ratio).high < 1),
        )

    return check


def root_is_better(n: int, d: int) -> Check:
    """Whether the root of the AGOP ends with a lower error than the AGOP itself."""

    def check():
        whole, half = errors(n, d)[LAST], errors(n, d, 0.5)[LAST]
        ratio = whole / half
        return Finding(
            f"{whole.mean():.3f} against {half.mean():.3f}, higher by a factor of {estimate(ratio, '{:.2f}')}",
            bool(Interval.of(ratio).low > 1),
        )

    return check
