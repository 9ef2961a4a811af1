"""The headline on real images: CIFAR-10's airplanes and birds, where the publisher's file is at hand."""

import warnings

import jax
import numpy as np
import pandas as pd
import pytest

import nqm_tools as nqm
from nqm_tools.papers import zhu2024

SUB, SUPER = (0.5, 0.9), (1.3, 1.5)
# The slower rate has its best step near 190; it must not be the last one.
STEPS = 300


@pytest.fixture(scope="module")
def curves(real_data):
    net = nqm.networks.two_layer_fc(512)
    rows = []
    for seed in range(2):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is not the published file")
            data = nqm.datasets.load("cifar2", n_train=128, n_test=600, seed=seed, root=real_data)
        params = net.init(jax.random.key(seed), data.x_train.shape)
        eta = nqm.critical_learning_rate(nqm.empirical_ntk(net, params, data.x_train))
        for model in (net, nqm.linearize(net, params), nqm.quadraticize(net, params)):
            for ratio in SUB + SUPER:
                run = nqm.train(
                    model,
                    data,
                    learning_rate=ratio * eta,
                    steps=STEPS,
                    params=params,
                    record=("test_loss",),
                    record_every=20,
                )
                rows.append(run.frame.assign(**run.summary | {"learning_rate_ratio": ratio, "seed": seed}))
    return pd.concat(rows)


@pytest.fixture(scope="module")
def summary(curves):
    return curves.drop_duplicates(["model", "seed", "learning_rate_ratio"])


def test_below_the_critical_rate_models_and_rates_agree(summary):
    below = summary[summary["learning_rate_ratio"] < 1]
    means = below.pivot_table(index="learning_rate_ratio", columns="model", values="best_test_loss")
    assert means.to_numpy().max() < 1.05 * means.to_numpy().min()
    assert (below["best_step"] < STEPS).all()


def test_above_it_the_linear_model_diverges_and_the_others_improve(curves, summary):
    above = summary[summary["learning_rate_ratio"] > 1]
    assert (above[above["model"] == "f_lin"]["regime"] == "divergent").all()
    for model in ("f", "f_quad"):
        gains = zhu2024.gains(curves, model)
        assert np.all(gains.optimistic > 0.03)
        assert np.all(gains.blind > 0.03)
