"""What a rule finds in recorded results, and how numbers over seeds are said."""

from typing import NamedTuple

import numpy as np


class Finding(NamedTuple):
    """``measured`` is a text with numbers; ``holds`` is None where the records do not suffice to tell."""

    measured: str
    holds: bool | None


def unknown(reason):
    return Finding(reason, None)


def mean_and_sd(values):
    """Mean and sample standard deviation; of one value the latter is NaN, for there is no spread."""
    values = np.asarray(values, dtype=float)
    return values.mean(), values.std(ddof=1) if values.size > 1 else np.nan


def spread(values, form="{:.3g}", unit="", of="seeds"):
    """``mean ± sd (n seeds)`` of one number a seed, or of whatever else there are several."""
    mean, sd = mean_and_sd(values)
    if np.isnan(sd):
        return f"{form.format(mean)}{unit} (1 {of.removesuffix('s')}, no spread)"
    return f"{form.format(mean)} ± {form.replace('+', '').format(sd)}{unit} ({len(values)} {of})"


def percent(values, of="seeds"):
    return spread(100 * np.asarray(values), "{:.2f}", " %", of)


def beyond_spread(values):
    """Whether numbers, one a seed, are positive on average by more than their standard deviation."""
    mean, sd = mean_and_sd(values)
    return mean > 0 and mean > sd
