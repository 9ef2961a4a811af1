"""The rules about causes of a catapult's gain, and where it is found, on results as claimed and on wrong ones."""

import numpy as np
import pandas as pd
import pytest

from nqm_tools.papers.ours import feature_causes as causes
from nqm_tools.papers.ours import feature_settings as settings
from nqm_tools.papers.zhu2023 import alignment

SEEDS = range(6)


def run(seed, rate, test_loss, *, aligned=0.95, left=1e-6, model="f", regime=None, **more):
    """First and last row of a run."""
    regime = regime or ("catapult" if rate > 1 else "monotone")
    known = {"model": model, "seed": seed, "learning_rate_ratio": rate, "learning_rate": rate, "regime": regime}
    known |= {"catapults": int(regime == "catapult")} | more
    known["key"] = " ".join(map(str, known.values()))
    moved = 1 + 0.01 * (seed - 2.5)
    first = {"step": 0, "train_loss": 1.0, "test_loss": 1.0, "agop_alignment": 0.1, "lambda_1": 50.0}
    last = {"step": 100, "train_loss": left, "test_loss": test_loss * moved, "agop_alignment": aligned, "lambda_1": 9.0}
    return [known | first, known | last]


def frame(rows):
    return pd.DataFrame([row for pair in rows for row in pair])


def with_noise(quiet=0.29, loud=0.2, loudest=0.8, spikes=0, seeds=SEEDS, left=1e-6):
    rows = [run(seed, rate, 0.3) for seed in seeds for rate in (0.5, 0.9)]
    single = {"batch_size": 1, "worst_batch_ratio": loudest, "catapults": spikes}
    rows += [run(seed, 0.06, quiet, left=left, **single) for seed in seeds]
    rows += [run(seed, 0.48, loud, batch_size=8, catapults=20, worst_batch_ratio=6.0) for seed in seeds]
    return frame(rows)


def test_noise_alone_has_little_of_the_gain_or_enough_of_it():
    little, enough = causes.noise_gains_little, causes.noise_is_enough
    assert (little(with_noise()).holds, enough(with_noise()).holds) == (True, False)
    assert (little(with_noise(quiet=0.21)).holds, enough(with_noise(quiet=0.21)).holds) == (False, True)
    assert little(with_noise(spikes=1)).holds is False
    for rule, quiet in ((little, 0.29), (enough, 0.21)):
        assert rule(with_noise(quiet, loudest=1.1)).holds is False, "a batch exceeds its own critical rate"
        assert rule(with_noise(quiet, loud=0.3)).holds is False, "nothing is gained"
        assert rule(with_noise(quiet, seeds=range(4))).holds is None
        assert rule(with_noise(quiet, left=0.1)).holds is None
        assert rule(with_noise(quiet).query("batch_size != 1")).holds is None
        assert rule(with_noise(quiet).assign(model="f_quad")).holds is None
        assert rule(pd.DataFrame()).holds is None


def raised(losses=(0.3, 0.26, 0.23, 0.2, 0.18), aligned=(0.95, 0.96, 0.965, 0.97, 0.975), seeds=SEEDS, **more):
    return frame(
        run(seed, 0.95, loss, aligned=a, optimizer=f"feature_optimizers:{name}", **more)
        for seed in seeds
        for name, loss, a in zip(causes.RAISES, losses, aligned, strict=True)
    )


def test_each_raise_is_better_than_the_one_before():
    loss, aligned = (causes.raises("f", column, 0.95) for column in ("test_loss", "agop_alignment"))
    assert loss(raised()).holds is True
    assert aligned(raised()).holds is True
    assert loss(raised((0.3, 0.2, 0.2, 0.21, 0.22))).holds is False, "only the first one helps"
    assert loss(raised((0.18, 0.2, 0.23, 0.26, 0.3))).holds is False
    assert aligned(raised(aligned=(0.95, 0.97, 0.96, 0.95, 0.94))).holds is False
    assert loss(raised(regime="divergent")).holds is False
    assert loss(raised(left=0.1)).holds is None
    assert loss(raised(seeds=range(4))).holds is None
    assert loss(pd.DataFrame()).holds is None


def optimised(order=1, seeds=SEEDS, **more):
    """Runs whose alignment falls (order 1) or rises (-1) with their test loss."""
    rows = []
    for seed in seeds:
        for i, name in enumerate(("adam", "rmsprop", "adagrad", "sgd", "momentum")):
            for j, rate in enumerate((0.1, 0.3, 0.6)):
                loss = 0.15 + 0.02 * i + 0.03 * j
                known = {"aligned": 0.97 - order * loss / 10, "optimizer": f"feature_optimizers:{name}"} | more
                rows.append(run(seed, rate, loss, **known))
    return frame(rows)


@pytest.mark.parametrize("rule", [causes.optimizers_agree, causes.tuned_optimizers_agree])
def test_alignment_goes_with_test_loss_across_optimisers(rule):
    assert rule(optimised()).holds is True
    assert rule(optimised(order=-1)).holds is False
    mixed = optimised()
    last = mixed["step"] == 100
    rng = np.random.default_rng(0)
    mixed.loc[last, "agop_alignment"] = rng.permutation(mixed.loc[last, "agop_alignment"])
    assert rule(mixed).holds is False, "alignments that belong to other runs"
    assert rule(optimised(seeds=range(4))).holds is None
    assert rule(optimised(left=0.1)).holds is None
    assert rule(optimised().query("optimizer == 'feature_optimizers:adam'")).holds is None
    assert rule(pd.DataFrame()).holds is None


def test_the_rate_of_each_optimiser_is_chosen_on_other_seeds():
    chosen = causes.best_of_each(causes.methods(optimised()))
    assert len(chosen) == 5 * len(SEEDS)
    assert set(chosen["learning_rate"]) == {0.1}
    lost = optimised()
    lost.loc[(lost["learning_rate_ratio"] == 0.1) & (lost["seed"] == 0), "regime"] = "divergent"
    assert set(causes.best_of_each(causes.methods(lost))["learning_rate"]) == {0.3}, (
        "a rate at which a seed is lost is none"
    )


def gated(far=0.8, seeds=SEEDS, middle=-0.1, near=0.1, blurred=0.95, **more):
    rows = []
    for seed in seeds:
        for rate, share in ((0.9, near), (1.5, middle), (1.8, far)):
            pair = run(seed, rate, 1.0, model="f_quad", **more)
            moved = {"moving_share": share + 0.01 * seed, "unseen_share": share + 0.01 * seed}
            moved |= {"moving_test_loss": 0.3, "seen_test_loss": 0.3}
            moved |= {"blurred_test_loss": blurred * pair[1]["test_loss"] + 0.001 * seed}
            rows.append([pair[0] | dict.fromkeys(moved, 0.5), pair[1] | moved])
    return frame(rows)


def test_the_share_of_gates_that_flip_is_most_of_the_error_and_more_than_below():
    assert causes.moving_gates(gated()).holds is True
    assert causes.moving_gates(gated(far=0.4)).holds is False
    assert causes.moving_gates(gated(near=0.9)).holds is False, "it is the same below"


def test_blurred_gates_take_little_of_the_error_away():
    assert causes.jumps(gated()).holds is True
    assert causes.jumps(gated(blurred=0.5)).holds is False


def test_what_is_unseen_is_most_of_the_error_far_above_and_helps_nearer():
    assert causes.unseen(gated()).holds is True
    assert causes.unseen(gated(far=0.4)).holds is False
    assert causes.unseen(gated(middle=0.1)).holds is False


@pytest.mark.parametrize("rule", [causes.moving_gates, causes.jumps, causes.unseen])
def test_runs_that_do_not_tell_about_gates(rule):
    assert rule(gated(seeds=range(4))).holds is None
    assert rule(gated(left=0.1)).holds is None
    assert rule(gated(regime="divergent")).holds is None
    assert rule(pd.DataFrame()).holds is None


def sharpened(ratios=(0.7, 0.8, 2.0, 1.4, 2.0, 3.0), seeds=SEEDS, **more):
    rows = []
    for seed in seeds:
        for sharpness, ratio in zip(causes.SHARPNESS, ratios, strict=True):
            names = {1.0: {"activation": "swish"}, np.inf: {"activation": "relu"}}
            known = {"activation": None, "sharpness": np.nan} | names.get(sharpness, {"sharpness": sharpness})
            for rate, loss in ((0.9, 0.3), (1.8, 0.3 * ratio)):
                rows.append(run(seed, rate, loss, model="f_quad", **known | more))
    return frame(rows)


def test_the_failure_grows_with_the_sharpness_of_the_activation():
    rule = causes.sharper_is_worse
    assert rule(sharpened()).holds is True
    assert rule(sharpened((3.0, 2.0, 1.4, 1.0, 0.8, 0.7))).holds is False
    assert rule(sharpened((1.0,) * 6)).holds is False


def test_a_smooth_activation_fails_too():
    assert causes.smooth_ones_fail(sharpened()).holds is True
    assert causes.smooth_ones_fail(sharpened((0.7, 0.8, 1.2, 1.4, 2.0, 3.0))).holds is False


@pytest.mark.parametrize("rule", [causes.sharper_is_worse, causes.smooth_ones_fail])
def test_runs_that_do_not_tell_about_sharpness(rule):
    assert rule(sharpened(seeds=range(4))).holds is None
    assert rule(sharpened(left=0.1)).holds is None
    assert rule(sharpened(regime="divergent")).holds is None
    assert rule(sharpened().query("sharpness != 4")).holds is None
    assert rule(pd.DataFrame()).holds is None


def gains(changes=(), seeds=SEEDS, **more):
    """A gain at every width, with ``{width: (test loss, alignment) above}`` changed."""
    rows = []
    for width in settings.WIDTHS:
        loss, aligned = dict(changes).get(width, (0.2, 0.97))
        for seed in seeds:
            moved = 0.001 * seed
            rows += [run(seed, rate, 0.3, width=width, aligned=0.95 + moved, **more) for rate in (0.5, 0.9)]
            rows.append(run(seed, 1.5, loss, width=width, aligned=aligned + moved, **more))
    return frame(rows)


def test_a_rule_at_each_width_holds_only_if_it_does_at_all_of_them():
    rule = settings.at_each("width", settings.WIDTHS, alignment.catapult_gains("f"))
    assert rule(gains()).holds is True
    assert rule(gains({1024: (0.35, 0.97)})).holds is False
    assert rule(gains({128: (0.2, 0.93)})).holds is False
    assert rule(gains().query("width != 512")).holds is None
    # One width at which it fails decides, also where another cannot be told.
    assert rule(gains({1024: (0.35, 0.97)}).query("width != 512")).holds is False
    assert rule(gains(seeds=range(4))).holds is None
    assert rule(pd.DataFrame()).holds is None


def energies(above=0.4, below=0.3, seeds=SEEDS, **more):
    rows = []
    for seed in seeds:
        for rate, value in ((0.5, below - 0.05), (0.9, below), (1.5, above)):
            pair = run(seed, rate, 0.2, **more)
            rows.append([pair[0] | {"energy": 0.2}, pair[1] | {"energy": value + 0.01 * seed}])
    return frame(rows)


def test_a_column_rises_over_the_best_run_below():
    rule = settings.rises("f", "energy", "{:.2f}")
    assert rule(energies()).holds is True
    assert rule(energies(above=0.3)).holds is False
    assert rule(energies(above=0.2)).holds is False
    assert rule(energies(seeds=range(4))).holds is None
    assert rule(energies(regime="monotone")).holds is None
    assert rule(energies(regime="divergent")).holds is False
    sharpened = energies()
    # A kernel that grows brings some seeds to a catapult below the critical rate.
    sharpened.loc[(sharpened["seed"] > 1) & (sharpened["learning_rate_ratio"] < 1), "regime"] = "catapult"
    found = rule(sharpened)
    assert found.holds is None
    assert f"{len(SEEDS)} seeds are recorded, 2 of them" in found.measured
    assert rule(energies().drop(columns="energy")).holds is None
    assert rule(pd.DataFrame()).holds is None


def test_stores_of_one_kind_of_activation_lack_the_others_column():
    named = pd.DataFrame({"activation": ["swish", "relu"]})
    sharpened = pd.DataFrame({"sharpness": [2.0, 4.0]})
    assert causes.with_sharpness(named)["sharpness"].tolist() == [1.0, np.inf]
    assert causes.with_sharpness(sharpened)["sharpness"].tolist() == [2.0, 4.0]
    both = causes.with_sharpness(pd.concat([named, sharpened], ignore_index=True))
    assert both["sharpness"].tolist() == [1.0, np.inf, 2.0, 4.0]
