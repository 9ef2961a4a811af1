"""The rules about networks beyond the papers', and what they refuse of results made wrong on purpose."""

import pathlib

import numpy as np
import pandas as pd
import pytest

from nqm_tools import papers
from nqm_tools.papers.ours import own_networks as own

RATES = (0.5, 0.9, 1.1, 1.5, 3.0)
GOOD = {"f": ("monotone", "monotone", "catapult", "catapult", "catapult")}
GOOD |= {"f_quad": GOOD["f"], "f_lin": ("monotone", "monotone", *["divergent"] * 3)}
PEAKS = (1.0, 1.0, 1.2, 2.0, 5.0)


def panel(regimes=GOOD, seeds=5, peaks=PEAKS, test=(0.5, 0.5, 0.4, 0.3, 0.4)):
    rows = []
    for model, kinds in regimes.items():
        for rate, kind, peak, loss in zip(RATES, kinds, peaks, test, strict=True):
            for seed in range(seeds):
                run = {"key": f"{model} {rate} {seed}", "model": model, "seed": seed, "learning_rate_ratio": rate}
                run |= {"regime": kind, "peak_loss": peak, "n_test": 100}
                for step in (0, 10):
                    own_loss = loss * (1 + 0.01 * seed)
                    rows.append(run | {"step": step, "train_loss": 1.0 if step == 0 else 0.1, "test_loss": own_loss})
    return pd.DataFrame(rows)


def changed(frame, value, column="regime", **where):
    frame, rows = frame.copy(), np.ones(len(frame), bool)
    for name, wanted in where.items():
        rows &= frame[name].eq(wanted).to_numpy()
    assert rows.any()
    frame.loc[rows, column] = value
    return frame


RULES = {
    "survives": (own.survives("f", 1.5), {"value": "divergent", "model": "f", "learning_rate_ratio": 1.5, "seed": 2}),
    "follows": (own.follows(3.0), {"value": "divergent", "model": "f_quad", "learning_rate_ratio": 3.0, "seed": 4}),
    "monotone": (own.monotone_below, {"value": "catapult", "model": "f", "learning_rate_ratio": 0.9, "seed": 0}),
    "diverges": (own.diverges_above("f_lin"), {"value": "monotone", "model": "f_lin", "learning_rate_ratio": 1.1}),
    "rises": (own.rises("f", 1.1), {"value": 1.0, "column": "peak_loss", "model": "f", "seed": 3}),
    "together": (own.rises_together, {"value": 1.0, "column": "peak_loss", "model": "f_quad", "seed": 1}),
    "gain": (own.gain, {"value": 0.6, "column": "test_loss", "model": "f", "learning_rate_ratio": 1.5}),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_hold_for_good_results_fail_for_wrong_ones_and_wait_for_seeds(name):
    rule, wrong = RULES[name]
    good = panel()
    assert rule(good).holds is True
    bad = changed(good, **wrong)
    if name == "gain":  # the other rates above are no better either
        for rate in (1.1, 3.0):
            bad = changed(bad, **wrong | {"learning_rate_ratio": rate})
    assert rule(bad).holds is False
    assert rule(panel(seeds=4)).holds is None


def test_what_one_rule_is_about_the_others_do_not_see():
    far = changed(panel(), "divergent", model="f", learning_rate_ratio=3.0)
    assert own.survives("f", 1.5)(far).holds is True
    assert own.survives("f", 3.0)(far).holds is False
    assert own.follows(1.5)(far).holds is True
    assert own.follows(3.0)(far).holds is False
    lost = changed(panel(), "divergent", model="f", learning_rate_ratio=1.5, seed=0)
    assert "diverges on 1 of 5 seeds" in own.gain(lost).measured
    assert own.gain(lost).holds is False


def test_a_gain_that_noise_makes_is_none():
    rng = np.random.default_rng(0)
    noisy = panel(test=(0.5,) * 5)
    noisy["test_loss"] = rng.uniform(0.4, 0.6, len(noisy))
    assert own.gain(noisy).holds is False


def widths(power=-1.0, noise=0.05, seeds=5, regime="monotone", **columns):
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        for width in (8, 16, 32, 64):
            missed = width**power * np.exp(noise * rng.standard_normal())
            run = {"model": "f", "seed": seed, "width": width, "learning_rate_ratio": 0.5, "regime": regime}
            for step, share in ((0, 0.0), (30, missed)):
                rows.append(run | {"step": step, "missed_by_f_quad": share} | columns)
    return pd.DataFrame(rows)


def test_powers_of_the_width_are_one_a_seed_of_the_network_that_is_meant():
    rule = own.falls_with_width("missed_by_f_quad", {}, 0.5, -0.9)
    assert rule(widths(-1.0)).holds is True
    assert rule(widths(-0.7)).holds is False
    assert rule(widths(-1.0, noise=2.0)).holds is False, "the interval is too wide"
    assert rule(widths(seeds=4)).holds is None
    assert rule(widths(regime="divergent")).holds is None
    swish = widths(-1.0, activation="swish")
    relu = widths(-0.2, activation=None)
    both = pd.concat([swish, relu], ignore_index=True)
    assert own.falls_with_width("missed_by_f_quad", {"activation": "swish"}, 0.5, -0.9)(both).holds is True
    assert rule(both).holds is False
    assert own.falls_with_width("missed_by_f_quad", {"norm": "layer"}, 0.5, -0.9)(both).holds is None
    np.testing.assert_allclose(own.exponents_of(widths(-1.3, noise=0), "missed_by_f_quad"), [-1.3] * 5, rtol=1e-10)


def test_all_of_them_are_claims_of_ours_about_sweeps_that_are_there():
    found = own.claims()
    names = [(claim.panel, claim.statement) for claim in found]
    assert names == [(c.panel, c.statement) for c in papers.load("ours").claims() if c.figure.startswith("own")]
    assert len(set(names)) == len(names)
    experiments = pathlib.Path(__file__).parents[1] / "experiments"
    assert {claim.sweep for claim in found} == {path.stem for path in experiments.glob("own_*.toml")}
