"""The rules about catapults and features, on results as claimed and on results made wrong on purpose."""

import numpy as np
import pandas as pd
import pytest

from nqm_tools.papers.ours import features
from nqm_tools.papers.radhakrishnan2022 import ansatz, machines
from nqm_tools.papers.zhu2023 import alignment

SEEDS = range(6)


def run(model, rate, seed, ends, **more):
    """First and last row of a run; ``ends`` are the last test loss, alignment and lambda_1."""
    test_loss, aligned, kernel = ends
    regime = more.pop("regime", "catapult" if rate > 1 else "monotone")
    name = f"{model} {rate} {seed} {more.get('batch_size')}"
    known = {"key": name, "model": model, "learning_rate_ratio": rate, "seed": seed, "regime": regime, "steps": 100}
    known |= {"catapults": int(regime == "catapult")} | more
    moved = 1 + 0.01 * (seed - 2.5)
    first = {"step": 0, "train_loss": 1.0, "test_loss": 1.0, "agop_alignment": 0.1, "lambda_1": 50.0}
    last = {"step": 100, "train_loss": 1e-6, "test_loss": test_loss * moved, "agop_alignment": aligned * moved}
    return [known | first, known | last | {"lambda_1": kernel * moved}]


GD = {
    "f": {
        0.25: (0.31, 0.94, 51),
        0.5: (0.29, 0.945, 51),
        0.9: (0.28, 0.95, 51),
        1.2: (0.24, 0.96, 35),
        1.5: (0.17, 0.975, 15),
        1.8: (0.14, 0.977, 15),
    },
    "f_quad": {
        0.25: (0.36, 0.935, 51),
        0.5: (0.35, 0.94, 51),
        0.9: (0.34, 0.945, 51),
        1.2: (0.32, 0.957, 35),
        1.5: (0.29, 0.968, 15),
        1.8: (1.2, 0.72, 9),
    },
}


def gd(changes=(), seeds=SEEDS, **more):
    """Gradient descent as it should be, with ``(model, rate): ends`` changed."""
    changes = dict(changes)
    rows = []
    for model, rates in GD.items():
        for rate, ends in rates.items():
            for seed in seeds:
                rows += run(model, rate, seed, changes.get((model, rate), ends), **more)
    return pd.DataFrame(rows)


def test_a_gain_is_one_of_both_numbers_over_the_best_below():
    for model in ("f", "f_quad"):
        rule = alignment.catapult_gains(model)
        assert rule(gd()).holds is True
        assert rule(gd([((model, 1.5), (0.36, 0.975, 15))])).holds is False, "no lower test loss"
        assert rule(gd([((model, 1.5), (0.17, 0.94, 15))])).holds is False, "no better aligned"
        assert rule(gd([((model, 0.25), (0.1, 0.94, 51))])).holds is False, "another rate below is better"
        assert rule(gd(seeds=range(4))).holds is None
        assert rule(gd()[lambda frame: frame["model"] == "g"]).holds is None
        assert rule(pd.DataFrame()).holds is None
    frame = gd()
    frame.loc[(frame["step"] == 100) & (frame["seed"] == 3), "train_loss"] = 0.1
    assert alignment.catapult_gains("f")(frame).measured.endswith("of the first loss is left")
    assert alignment.catapult_gains("f")(frame).holds is None
    lost = gd().assign(
        regime=lambda f: f["regime"].where((f["learning_rate_ratio"] < 1) | (f["seed"] > 0), "divergent")
    )
    assert alignment.catapult_gains("f")(lost).holds is False
    assert alignment.catapult_gains("f")(gd(regime="monotone")).holds is None, "no catapults"
    early = gd([(("f", 0.9), (0.1, 0.99, 20))])
    early.loc[early["learning_rate_ratio"] == 0.9, "regime"] = "catapult"
    assert alignment.catapult_gains("f")(early).holds is True, "a catapult below is none of those below without one"
    assert alignment.catapult_gains("f")(early.assign(regime="catapult")).holds is None


def test_the_kernel_falls_above_and_not_below():
    rule = alignment.kernel_falls("f")
    assert rule(gd()).holds is True
    assert rule(gd([(("f", 1.5), (0.17, 0.975, 51))])).holds is False
    assert rule(gd([(("f", 0.9), (0.17, 0.975, 10))])).holds is False, "it falls below, too"
    assert rule(gd(seeds=range(4))).holds is None


def test_the_collapse_is_of_the_quadratic_model_alone():
    assert features.collapses(gd()).holds is True
    assert features.collapses(gd([(("f_quad", 1.8), (0.4, 0.9, 9))])).holds is False
    assert features.collapses(gd([(("f", 1.8), (0.9, 0.9, 9))])).holds is False
    assert features.collapses(gd(seeds=range(4))).holds is None
    assert features.collapses(gd()[lambda frame: frame["model"] == "f"]).holds is None


def test_alike_is_at_every_rate():
    # Here the two differ by 0.003 to 0.005.
    assert features.alike(gd()).holds is True
    assert features.alike(gd([(("f_quad", 1.2), (0.3, 0.93, 35))])).holds is False
    assert features.alike(gd([(("f_quad", 0.5), (0.3, 0.97, 51))])).holds is False
    assert features.alike(gd(seeds=range(4))).holds is None
    assert features.alike(pd.DataFrame()).holds is None


SGD = {256: (0.29, 0.949), 32: (0.28, 0.952), 16: (0.26, 0.956), 8: (0.2, 0.97), 4: (0.16, 0.98)}
COUNTS = {256: 0, 32: 1, 16: 9, 8: 25, 4: 50}
SLOW = {8: (0.29, 0.95), 4: (0.29, 0.95)}


def batches(ends=SGD, counts=COUNTS, rate=0.6, seeds=SEEDS):
    rows = []
    for size, (test_loss, aligned) in ends.items():
        for seed in seeds:
            rows += run("f", rate, seed, (test_loss, aligned, 40), batch_size=size, catapults=counts[size])
    return pd.DataFrame(rows)


def test_smaller_batches_are_ordered_and_better_than_the_whole():
    rules = {name: alignment.smaller_batches("f", name) for name in ("catapults", "agop_alignment", "test_loss")}
    for rule in rules.values():
        assert rule(batches()).holds is True
        assert rule(batches(seeds=range(4))).holds is None
        assert rule(batches({size: SGD[size] for size in (256, 8)})).holds is None
        assert rule(pd.DataFrame()).holds is None
    turned = dict(zip(SGD, list(SGD.values())[::-1], strict=True))
    assert rules["test_loss"](batches(turned)).holds is False
    assert rules["agop_alignment"](batches(turned)).holds is False
    assert rules["catapults"](batches(counts=dict.fromkeys(SGD, 0))).holds is False
    dip = SGD | {4: (0.3, 0.9)}
    assert rules["test_loss"](batches(dip)).holds is False, "the smallest is not better"
    late = batches().assign(train_loss=lambda f: f["train_loss"].where(f["step"] == 0, 0.1))
    assert rules["test_loss"](late).holds is None


def test_the_control_has_no_catapults_and_no_gain():
    rule, fast = features.control("f"), batches()

    def slow(ends=SLOW, count=0):
        return pd.concat([fast, batches(ends, dict.fromkeys(ends, count), rate=0.1)], ignore_index=True)

    assert rule(slow()).holds is True
    assert rule(slow({8: (0.22, 0.97), 4: (0.2, 0.97)})).holds is False, "a gain without catapults"
    assert rule(slow(count=1)).holds is False
    assert rule(fast).holds is None
    same = pd.concat([batches(dict.fromkeys(SGD, (0.29, 0.95))), batches(SLOW, {8: 0, 4: 0}, rate=0.1)])
    assert rule(same.reset_index(drop=True)).holds is False, "no gain to compare with"


def test_descent_is_tuned_on_the_other_seeds():
    rule, both = features.descent_matches_batches("f"), pd.concat([gd(), batches()], ignore_index=True)
    assert rule(both).holds is True
    worse = pd.concat([gd([(("f", rate), (0.18, 0.97, 15)) for rate in (1.5, 1.8)]), batches()], ignore_index=True)
    assert rule(worse).holds is False
    assert rule(gd()).holds is None
    lost = gd().assign(
        regime=lambda f: f["regime"].where((f["learning_rate_ratio"] < 1.4) | (f["seed"] > 0), "divergent")
    )
    assert rule(pd.concat([lost, batches()], ignore_index=True)).holds is False, "a rate at which one diverges is none"


def steps_of_batches(rose_below=0, rose_above=0.3):
    rng = np.random.default_rng(0)
    rows = []
    for seed in SEEDS:
        for step in range(200):
            ratio = rng.uniform(0.3, 2)
            rises = rng.uniform() < (rose_above if ratio > 1 else rose_below)
            rows.append(
                {"key": str(seed), "model": "f", "seed": seed, "step": step, "steps": 1000, "regime": "catapult"}
                | {"batch_size": 8, "batch_critical_ratio": ratio, "batch_loss_ratio": 1.2 if rises else 0.8}
                | {"train_loss": np.exp(-step / 100)}
            )
    return pd.DataFrame(rows)


def test_the_criterion_of_a_batch_allows_no_exception_below():
    rule = features.batch_criterion("f")
    assert rule(steps_of_batches()).holds is True
    assert rule(steps_of_batches(rose_below=0.02)).holds is False
    assert rule(steps_of_batches(rose_above=0)).holds is False
    assert rule(steps_of_batches()[lambda f: f["batch_critical_ratio"] < 1]).holds is None
    assert rule(steps_of_batches()[lambda f: f["seed"] < 4]).holds is None
    # What lies at rounding is no step.
    noise = steps_of_batches(rose_below=1).assign(train_loss=lambda f: f["train_loss"].where(f["step"] == 0, 1e-9))
    first = noise["step"] == 0
    noise.loc[first, "batch_loss_ratio"] = 0.9
    assert rule(noise).holds is None


def spikes(along=1.0, seeds=SEEDS, regime="catapult"):
    """A spike of which so much is along the first eigenvector, the rest beside all of them."""
    rows = []
    for seed in seeds:
        for step, height in enumerate((1.0, 3.0, 20.0 + seed, 5.0, 0.1)):
            row = {"key": str(seed), "model": "f", "seed": seed, "step": step, "train_loss": height, "n_train": 128}
            row |= {f"projection_{i}": 0.0 for i in range(2, 6)} | {"regime": regime}
            rows.append(row | {"projection_1": np.sqrt(128 * (0.5 + max(0, along * (height - 1))))})
    return pd.DataFrame(rows)


def test_a_spike_lies_along_the_top_eigenvectors():
    rule = alignment.spike_in_top_space("f")
    assert rule(spikes()).holds is True
    assert rule(spikes(0.99)).holds is True
    assert rule(spikes(0.9)).holds is False
    assert rule(spikes(seeds=range(4))).holds is None
    assert rule(spikes(regime="monotone")).holds is None
    assert rule(pd.DataFrame()).holds is None


def test_the_rest_does_not_rise_on_any_seed():
    rule = alignment.rest_does_not_rise("f")
    assert rule(spikes(1.01)).holds is True
    moved = spikes(1.01)
    moved.loc[(moved["step"] == 4) & (moved["seed"] == 2), "train_loss"] = 2.0
    assert rule(moved).holds is False
    assert rule(spikes(seeds=range(4))).holds is None


def trained(weights=(0.5, 0.9), root=(0.6, 0.95), seeds=SEEDS):
    rows = []
    for seed in seeds:
        for step, place in ((0, 0), (4000, 1)):
            row = {"seed": seed, "depth": 2, "step": step, "regime": "monotone"}
            rows.append(
                row | {"weights_1": weights[place] + 0.002 * seed, "weights_root_1": root[place] + 0.002 * seed}
            )
    return pd.DataFrame(rows)


def test_a_correlation_is_high_and_above_that_of_the_start():
    rule, root = ansatz.correlates(2, "weights_1"), ansatz.root_is_better(2, "weights", 1)
    assert rule(trained()).holds is True
    assert rule(trained((0.5, 0.79))).holds is False
    assert rule(trained((0.9, 0.9))).holds is False, "it was there before training"
    assert root(trained()).holds is True
    assert root(trained(root=(0.6, 0.89))).holds is False
    for check in (rule, root):
        assert check(trained(seeds=range(4))).holds is None
        assert check(trained().drop(columns="weights_1")).holds is None
        assert check(trained().assign(depth=3)).holds is None
        assert check(pd.DataFrame()).holds is None


def test_the_inverse_depth_is_better_than_the_root():
    rule = ansatz.inverse_depth_is_better(2, 1)
    assert rule(trained().assign(weights_depth_1=lambda f: f["weights_root_1"] + 0.01)).holds is True
    assert rule(trained().assign(weights_depth_1=lambda f: f["weights_root_1"] - 0.01)).holds is False
    assert rule(trained()).holds is None


@pytest.fixture
def _fresh():
    machines.history.cache_clear()
    yield
    machines.history.cache_clear()


@pytest.mark.usefixtures("_fresh")
def test_machines_that_learn_nothing_turn_the_verdict(monkeypatch):
    small = 100, 8
    assert machines.beats_its_kernel(*small)().holds is True
    plain = machines.recursive_feature_machine

    def forgetful(x, y, **options):
        found = plain(x, y, **options)
        found.history["test_loss"] = found.history["test_loss"].iloc[0]
        return found

    machines.history.cache_clear()
    monkeypatch.setattr(machines, "recursive_feature_machine", forgetful)
    assert machines.beats_its_kernel(*small)().holds is False
    assert machines.root_is_better(*small)().holds is False, "both are the same"
