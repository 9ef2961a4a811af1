"""The rules about early training and what lies beyond: what they accept, and results made wrong on purpose."""

import jax
import numpy as np
import pandas as pd
import pytest

import nqm_tools as nqm
from nqm_tools.papers.kalra2023a import phases
from nqm_tools.papers.meltzer2023 import beyond
from nqm_tools.papers.ours import phase_diagram as ours

GRID = (1.0, 1.8, 2.0, 2.1, 2.2, 2.3, 2.5, 2.8, 3.2, 3.65, 4.2, 4.8, 6.0, 8.5, 12.0, 17.5, 25.0)
PLACES = ((2, 64), (2, 128), (2, 1024), (3, 64), (3, 128), (8, 64), (8, 128))
LINEAR = 2.05  # c_loss of linear models


def as_claimed(depth, width, model, seed):
    """c_loss, c_sharp, c_barrier, c_max of one run as the claims have them."""
    loss = LINEAR + 6 * depth**1.5 / width * (1 + 0.02 * (seed - 2))
    return loss, 1.2 * loss, 1.3 * loss, 14.0 + 0.2 * seed if model == "f" else max(4.5, 1.2 * loss)


def runs(constants=as_claimed, seeds=5, places=PLACES, **settings):
    """Recorded rows of runs whose losses, sharpness and losses on the segment first rise at these constants."""
    rows = []
    for depth, width in places:
        for model in ("f", "f_quad", "f_lin"):
            for seed in range(seeds):
                found = constants(depth, width, model, seed) if model != "f_lin" else (LINEAR, 99, 99, 99)
                for c in GRID:
                    values = [c / constant for constant in found[:3]]
                    place = {"depth": depth, "width": width, "model": model, "seed": seed, "sharpness_ratio": c}
                    place |= {"initial_sharpness": 1.5, "key": f"{depth} {width} {model} {seed} {c}"}
                    values[0] = 1e9 if c > found[3] else values[0]
                    columns = zip(("train_loss", "sharpness", "path_loss"), values, strict=True)
                    later = {"step": 1} | dict(columns)
                    rows.append(place | {"step": 0, "train_loss": 1.0, "sharpness": 1.0, "path_loss": 1.0})
                    rows.append(place | later)
    return pd.DataFrame(rows).assign(**settings)


def test_constants_of_recorded_runs_are_those_that_they_were_made_with():
    found = phases.constants(runs(places=((2, 64),))).set_index(["model", "seed"])
    assert found.loc["f_lin", "c_loss"].between(LINEAR * 0.997, LINEAR * 1.003).all()
    for (model, seed), row in found.drop("f_lin").iterrows():
        loss, sharp, barrier, largest = as_claimed(2, 64, model, seed)
        below = max(c for c in GRID if c <= largest)
        np.testing.assert_allclose(row[["c_loss", "c_sharp"]].astype(float), (loss, sharp), rtol=3e-3)
        assert row["c_barrier"] == pytest.approx(min(barrier, below), rel=3e-3)
        assert (row["c_max"], row["sharpness"]) == (below, 1.5)


RULES = {
    "falls_to_two": phases.falls_to_two(2),
    "c_loss_grows": phases.grows_with_depth("c_loss"),
    "c_sharp_grows": phases.grows_with_depth("c_sharp"),
    "in_order": phases.in_order,
    "c_max_by_width": phases.c_max_by_width,
    "falls_above_two": phases.sharpness_falls_above_two,
    "shares": ours.shares("c_loss"),
    "shares_sharp": ours.shares("c_sharp", 2, 128),
    "differs": ours.c_max_differs,
    "one_over_width": ours.one_over_width("f"),
    "depth_over_width": ours.depth_over_width,
    "depth_and_width": ours.depth_and_width,
    "linear": ours.linear_exceeds_two,
    "first_step": ours.first_step_decides,
    "scatter": ours.scatter_follows,
}


@pytest.fixture(scope="module")
def right():
    return runs()


@pytest.mark.parametrize("rule", RULES)
def test_runs_as_claimed_hold_and_few_seeds_decide_nothing(rule, right):
    assert RULES[rule](right).holds is True
    assert RULES[rule](right[right["seed"] < 4]).holds is None
    assert RULES[rule](right.iloc[:0]).holds is None


def at_two(depth, width, model, seed):
    loss, *others = as_claimed(depth, width, model, seed)
    return (1.99 if width == 1024 else loss), *others


def wide_the_same(depth, width, model, seed):
    return as_claimed(depth, 64, model, seed)


def shallow_as_deep(depth, width, model, seed):
    return as_claimed(2, width, model, seed)


def barrier_first(depth, width, model, seed):
    loss, sharp, _, largest = as_claimed(depth, width, model, seed)
    return loss, sharp, 1.1 * loss if width == 64 and seed == 0 else 1.3 * loss, largest


def c_max_of_width(depth, width, model, seed):
    loss, sharp, barrier, largest = as_claimed(depth, width, model, seed)
    return loss, sharp, barrier, largest * (width / 64) ** 0.4


def sharp_first(depth, width, model, seed):
    loss, _, *others = as_claimed(depth, width, model, seed)
    return loss, (0.9 if seed == 1 else 1.2) * loss, *others


def one_of_another(depth, width, model, seed):
    loss, sharp, *others = as_claimed(depth, width, model, seed)
    factor = 1.12 if (width, model, seed) == (128, "f_quad", 3) else 1.0
    return loss * factor, sharp * factor, *others


def same_largest(depth, width, model, seed):
    *others, _ = as_claimed(depth, width, "f", seed)
    return *others, 14.0


def one_over_root(depth, width, model, seed):
    loss = LINEAR + depth / width**0.4 * (1 + 0.02 * (seed - 2))
    return loss, 1.2 * loss, 1.3 * loss, 1.4 * loss


def same_scatter(depth, width, model, seed):
    rng = np.random.default_rng([depth, width, seed])
    loss = LINEAR + 6 * depth**1.5 / width
    loss *= np.exp(0.02 * rng.standard_normal())
    return loss, 1.2 * loss, 1.3 * loss, 1.4 * loss


def below_linear(depth, width, model, seed):
    loss, *others = as_claimed(depth, width, model, seed)
    return (LINEAR - 0.02 if (width, seed) == (1024, 1) else loss), *others


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("falls_to_two", at_two),
        ("falls_to_two", wide_the_same),
        ("c_loss_grows", shallow_as_deep),
        ("c_sharp_grows", shallow_as_deep),
        ("in_order", barrier_first),
        ("in_order", sharp_first),
        ("c_max_by_width", c_max_of_width),
        ("falls_above_two", sharp_first),
        ("shares", one_of_another),
        ("shares_sharp", one_of_another),
        ("differs", same_largest),
        ("one_over_width", one_over_root),
        ("one_over_width", wide_the_same),
        ("depth_over_width", shallow_as_deep),
        ("depth_and_width", shallow_as_deep),
        ("depth_and_width", one_over_root),
        ("depth_and_width", below_linear),
        ("scatter", same_scatter),
        ("linear", below_linear),
    ],
)
def test_results_made_wrong_on_purpose_turn_the_verdict(rule, wrong):
    assert RULES[rule](runs(wrong)).holds is False


def test_with_a_readout_of_zero_both_conditions_count():
    def control(depth, width, model, seed, loss=2.03, sharp=0.9):
        return loss, sharp, 2.5, 14.0

    assert phases.at_two(runs(control)).holds is True
    assert phases.at_two(runs(lambda *place: control(*place, loss=2.3))).holds is False
    assert phases.at_two(runs(lambda *place: control(*place, sharp=2.6))).holds is False
    assert phases.at_two(runs(control, seeds=4)).holds is None


def test_a_constant_that_neither_model_reaches_is_the_same():
    def beyond_the_grid(depth, width, model, seed):
        return 99.0, 99.0, 99.0, 99.0

    assert ours.shares("c_loss")(runs(beyond_the_grid)).holds is True
    only_one = runs(lambda d, w, m, s: (99.0 if m == "f" else 2.5, 99.0, 99.0, 99.0))
    assert ours.shares("c_loss")(only_one).holds is False


def test_linear_models_alone_decide_nothing(right):
    alone = right[right["model"] == "f_lin"].drop(columns=["sharpness", "path_loss"])
    assert ours.linear_exceeds_two(alone).holds is None


def test_a_loss_that_rises_later_is_not_decided_by_the_first_step(right):
    late = right[right["step"] == 1].assign(step=2)
    late.loc[late["sharpness_ratio"] >= 1.8, "train_loss"] = 1.5
    assert ours.first_step_decides(pd.concat([right, late])).holds is False


def test_a_quadratic_model_that_drifts_away_does_not_follow():
    def late(drift=0.0, offset=0.1, seeds=5):
        rows = [
            {"sharpness_ratio": 1.0, "seed": seed, "step": step, "model": model}
            | {"sharpness": np.exp((offset + drift * step / 2000 + 0.01 * seed) * (model == "f_quad"))}
            for seed in range(seeds)
            for step in (0, 50, 1000, 2000)
            for model in ("f", "f_quad")
        ]
        return ours.follows(pd.DataFrame(rows)).holds

    assert late() is True
    assert late(drift=0.2) is False
    assert late(offset=-0.3) is False
    assert late(seeds=4) is None


def test_at_the_edge_is_neither_below_it_nor_beyond():
    def ended(most=2.0, least=1.5, seeds=5):
        rows = [
            {"sharpness_ratio": c, "seed": seed, "step": step, "model": "f", "learning_rate": c, "sharpness": end / c}
            for c, end in ((1.0, least), (1.7, most))
            for seed in range(seeds)
            for step in (0, 500, 1000)
        ]
        return ours.comes_to_the_edge("f")(pd.DataFrame(rows)).holds

    assert ended() is True
    assert ended(most=1.8) is False
    assert ended(most=2.5) is False
    assert ended(least=2.0) is False
    assert ended(seeds=4) is None


# Beyond


def ending(sparsity=None, v=None, norm=None, diverges=lambda times, model: model == "f_quad" and times > 4, seeds=5):
    """Recorded first and last rows of runs at ``eta lambda_0``."""
    sparsity = sparsity or (lambda times, seed: 0.5 if times < 2 else min(0.5 + 0.04 * times, 0.99))
    v = v or (lambda times, seed: times if times < 2 else 0.5 + 0.1 * abs(times - 4) + 0.01 * seed)
    norm = norm or (lambda times, seed: 1.0 if times < 5 else 1 + 0.05 * times + 0.001 * seed)
    rows = []
    for activation in ("relu", "leaky_relu"):
        for model in ("f", "f_quad"):
            for seed in range(seeds):
                for times in (1.0, 2.5, 3.0, 4.0, 5.0, 8.0, 12.0, 24.0):
                    gone = diverges(times, model)
                    place = {"model": model, "seed": seed, "activation": activation, "learning_rate_ratio": times / 2}
                    place |= {"key": f"{activation} {model} {seed} {times}", "learning_rate": times}
                    place |= {"regime": "catapult", "status": "diverged" if gone else "finished"}
                    rows.append(
                        place | {"step": 0, "train_loss": 1.0, "lambda_1": 1.0, "sparsity": 0.5, "weight_norm": 10.0}
                    )
                    last = {"step": 100, "train_loss": np.inf if gone else 1e-6, "lambda_1": v(times, seed) / times}
                    last |= {"sparsity": sparsity(times, seed), "weight_norm": 10 * norm(times, seed) ** 0.5}
                    rows.append(place | last)
    return pd.DataFrame(rows)


BEYOND = {
    "survives": beyond.survives,
    "sparser": beyond.sparser,
    "kernel": beyond.kernel_falls_and_returns,
    "norm": beyond.norm_grows,
    "diverges": beyond.quadratic_diverges("relu"),
}
WRONG = {
    "survives": {"diverges": lambda times, model: times > 20},
    "sparser": {"sparsity": lambda times, seed: 0.5 + 0.01 * ((times * 7 + seed) % 5)},
    "kernel": {"v": lambda times, seed: 0.5 + 0.01 * times},
    "norm": {"norm": lambda times, seed: 2 - 0.05 * times},
    "diverges": {"diverges": lambda times, model: model == "f_quad" and times > 4.5 and times != 8},
}


@pytest.mark.parametrize("rule", BEYOND)
def test_runs_beyond_four_decide(rule):
    assert BEYOND[rule](ending()).holds is True
    assert BEYOND[rule](ending(seeds=4)).holds is None
    assert BEYOND[rule](pd.DataFrame()).holds is None
    assert BEYOND[rule](ending(**WRONG[rule])).holds is False


def test_below_two_nothing_may_become_sparser():
    assert (
        beyond.sparser(ending(lambda times, seed: 0.53 if times < 2 else min(0.5 + 0.04 * times, 0.99))).holds is False
    )


def test_a_network_that_diverges_too_is_no_difference():
    assert beyond.quadratic_diverges("relu")(ending(diverges=lambda times, model: times > 4)).holds is False
    early = ending(diverges=lambda times, model: model == "f_quad" and times >= 3)
    assert beyond.quadratic_diverges("leaky_relu")(early).holds is False


def test_leaky_networks_diverge_from_five_on_at_every_rate():
    assert beyond.leaky_diverges(ending(diverges=lambda times, model: times >= 5)).holds is True
    assert beyond.leaky_diverges(ending(diverges=lambda times, model: times > 5)).holds is False
    assert beyond.leaky_diverges(ending(seeds=4)).holds is None


def test_runs_whose_kernel_is_gone_are_counted_dead():
    dead = ending(v=lambda times, seed: 0.0 if times > 10 else times / 3)
    assert "10 end dead" in beyond.survives(dead).measured


# Computed on the spot


def fresh(*functions):
    for function in functions:
        function.cache_clear()


def test_pure_nets_need_their_catapult(monkeypatch):
    monkeypatch.setattr(beyond, "STEPS", 1500)
    fresh(beyond.pure_net)
    assert beyond.pure_net().holds is True
    for name, value in (("BELOW", (1.0, 2.5)), ("ABOVE", (1.7, 2.5))):
        fresh(beyond.pure_net)
        with monkeypatch.context() as patch:
            patch.setattr(beyond, name, value)
            assert beyond.pure_net().holds is False
    fresh(beyond.pure_net)


def test_a_bias_that_is_none_lowers_nothing(monkeypatch):
    monkeypatch.setattr(beyond, "STEPS", 400)
    monkeypatch.setattr(beyond, "KAPPAS", (0.0, 0.0))
    fresh(beyond.bias_lowers)
    assert beyond.bias_lowers().holds is False
    fresh(beyond.bias_lowers)


def test_the_first_steps_values_are_not_those_of_another_criterion(monkeypatch):
    monkeypatch.setattr(ours, "WIDTHS", (64, 256))
    fresh(ours.one_example)
    assert ours.one_example().holds is True
    fresh(ours.one_example)
    exact = ours.dynamics.critical_constants

    def shifted(*state):
        found = exact(*state)
        return found._replace(c_sharp=found.c_sharp * 1.05)

    monkeypatch.setattr(ours.dynamics, "critical_constants", shifted)
    assert ours.one_example().holds is False
    fresh(ours.one_example)


@pytest.mark.parametrize("data", ["one", "digits"])
def test_kernels_at_the_start_are_those_of_networks(data, monkeypatch):
    """The relative variance of the kernel's largest eigenvalue of the package's network, drawn by its own ``init``."""
    net = nqm.networks.deep_fc(32, depth=3, readout_init="normal", hidden_variance=2.0)
    x = np.eye(9)[:1] * 3
    if data == "digits":
        monkeypatch.setattr(ours, "EXAMPLES", 4)
        x = nqm.datasets.load("digits", classes=range(10), n_train=4, n_test=0, seed=0).x_train
    fresh(ours.kernels_at_the_start)

    @jax.jit
    @jax.vmap
    def largest(key):
        slopes = jax.tree.leaves(jax.jacrev(lambda params: net(params, x)[:, 0])(net.init_fn(key, x.shape)[1]))
        kernel = sum(leaf.reshape(len(x), -1) @ leaf.reshape(len(x), -1).T for leaf in slopes)
        return jax.numpy.linalg.eigvalsh(kernel)[-1]

    draws = np.asarray(largest(jax.random.split(jax.random.key(0), 400)))
    found = ours.kernels_at_the_start("ReLU", "normal weights", data)[3, 32]
    assert draws.var(ddof=1) / draws.mean() ** 2 == pytest.approx(found, rel=0.5)
    fresh(ours.kernels_at_the_start)


def test_variances_that_do_not_go_with_depth_over_width_do_not_collapse(monkeypatch):
    monkeypatch.setattr(ours, "kernels_at_the_start", lambda *a: {(2, 32): 0.1, (2, 128): 0.1})
    fresh(ours.collapses)
    assert ours.collapses("ReLU", "signs").holds is False
    fresh(ours.collapses)
