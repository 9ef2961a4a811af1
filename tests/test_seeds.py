"""Seeds count in full: no two of them are one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools._random import random_key
from nqm_tools.sweeps._compute import _Setting

SEEDS = [0, 1, 5, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 5 * 2**32, 2**63 - 1]
X = jax.random.normal(jax.random.key(0), (6, 4))
DATA = nqm.Data("own", X, jnp.sign(X[:, 0]))


def test_below_32_bits_a_key_is_that_of_jax():
    for seed in SEEDS[:6]:
        assert (jax.random.key_data(random_key(seed)) == jax.random.key_data(jax.random.key(seed))).all()
        assert random_key(seed).dtype == jax.random.key(seed).dtype


def test_beyond_a_key_is_that_of_jax_with_64_bits():
    keys = [jax.random.key_data(random_key(seed)).tolist() for seed in SEEDS]
    assert len(set(map(tuple, keys))) == len(SEEDS)
    with jax.enable_x64(True):
        assert [jax.random.key_data(jax.random.key(seed)).tolist() for seed in SEEDS] == keys


def starts(seed):
    return nqm.train(nqm.networks.two_layer_fc(4), DATA, learning_rate=0.1, steps=1, seed=seed).losses


def batches(seed):
    net = nqm.networks.two_layer_fc(4)
    params = net.init(jax.random.key(0), X.shape)
    return nqm.train(net, DATA, learning_rate=0.1, steps=5, batch_size=2, params=params, seed=seed).losses


def general(seed):
    return nqm.train(nqm.quadratic.diagonal(0.1), DATA, learning_rate=0.1, steps=1, seed=seed).losses


def stable(seed):
    net = nqm.networks.two_layer_fc(4)
    return nqm.max_stable_learning_rate(net, DATA, steps=2, tolerance=0.9, seed=seed).critical


def digits(seed):
    return nqm.datasets.load("digits", n_train=9, n_test=0, seed=seed).x_train


def sweep(seed):
    data = {"name": "gaussians_1d", "n_train": 4}
    return _Setting(data, {"name": "two_layer_fc", "width": 4}, seed, nqm.losses.find("mse"), "critical").params[1][0]


SEEDED = {
    "the start of a network": starts,
    "the order of mini-batches": batches,
    "the start of a general model": general,
    "the largest stable rate": stable,
    "a sample": digits,
    "Gaussians": lambda seed: nqm.datasets.gaussians_1d(4, seed=seed).x_train,
    "an example": lambda seed: nqm.datasets.single_example(4, seed=seed).x_train,
    "a sweep": sweep,
}


@pytest.mark.parametrize("draw", SEEDED.values(), ids=SEEDED)
def test_a_seed_of_more_than_32_bits_is_no_smaller_one(draw):
    draws = [np.asarray(draw(seed)) for seed in (5, 2**32 + 5, 2**40 + 5)]
    assert not (draws[0] == draws[1]).all()
    assert not (draws[0] == draws[2]).all()


@pytest.mark.parametrize("draw", [starts, stable, *list(SEEDED.values())[4:-1]])
@pytest.mark.parametrize("seed", [2**63, 2**64 + 5, -1])
def test_a_seed_out_of_range_is_refused_with_the_range(draw, seed):
    with pytest.raises(ValueError, match=rf"seed must be a whole number [<>]= \d+; got {seed}"):
        draw(seed)


def test_a_sweep_refuses_seeds_out_of_range():
    settings = {"data": {"name": "digits", "n_train": 2, "n_test": 0}, "network": {"name": "two_layer_fc", "width": 2}}
    with pytest.raises(ValueError, match=f"each of seeds must be a whole number <= {2**63 - 1}; got {2**63}"):
        nqm.sweeps.Sweep(**settings, learning_rates=[1.0], seeds=[2**63], steps=1)
