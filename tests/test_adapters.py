"""Modules of Flax and Equinox as functions: against the modules' own calls, and what is frozen in them."""

import sys

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import nqm_tools as nqm
from nqm_tools import _adapters
from nqm_tools.networks import from_equinox, from_flax

N, D, M, K = 6, 5, 8, 2
X = jax.random.normal(jax.random.key(0), (N, D))
KEY = jax.random.key(1)
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def scaled(tree):
    """Other statistics than those of the start, which are 0 and 1."""
    return jax.tree.map(lambda leaf: leaf + 0.5 + jnp.arange(leaf.size).reshape(leaf.shape) / 10, tree)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train=True):
        h = linen.BatchNorm(use_running_average=not train)(linen.Dense(M)(x))
        return linen.Dense(K)(linen.Dropout(0.5, deterministic=not train)(linen.relu(h)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(D, M, rngs=rngs), nnx.Linear(M, K, rngs=rngs)])
        self.norm, self.dropout = nnx.BatchNorm(M, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.places = nnx.Param(jnp.arange(M))

    def __call__(self, x):
        h = nnx.relu(self.norm(self.layers[0](x)[:, self.places.get_value()]))
        return self.layers[1](self.dropout(h))


class Equinox(equinox.Module):
    first: equinox.nn.Linear
    norm: equinox.nn.BatchNorm
    dropout: equinox.nn.Dropout
    second: equinox.nn.Linear
    places: jax.Array

    def __init__(self, key):
        self.first, self.second = equinox.nn.Linear(D, M, key=key), equinox.nn.Linear(M, K, key=key)
        self.norm, self.dropout = equinox.nn.BatchNorm(M, "batch", mode="ema"), equinox.nn.Dropout(0.5)
        self.places = jnp.arange(M)

    def __call__(self, x, state, key=None):
        h, state = self.norm(self.first(x)[self.places], state)
        return self.second(self.dropout(jax.nn.relu(h), key=key)), state


def trains(f, params):
    """It is what `train` and kernels take: only what is trained moves, and nothing is drawn anew."""
    data = nqm.Data("own", np.asarray(X), np.eye(K)[np.arange(N) % K])
    run = nqm.train(f, data, params=params, learning_rate=0.05, steps=5, record=("lambda_1",))
    assert run.losses[-1] < run.losses[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(run.params)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(f(run.params, X), f(run.params, X))


def test_a_linen_module_is_its_own_call_with_frozen_statistics():
    f, params = from_flax(Linen(), X, KEY)
    assert set(params) == {"BatchNorm_0", "Dense_0", "Dense_1"}, "no collection beside the parameters"
    variables = Linen().init({"params": jax.random.split(KEY, 3)[0]}, X, train=False)
    np.testing.assert_allclose(f(params, X), Linen().apply(variables, X, train=False), **CLOSE)
    np.testing.assert_allclose(f(params, X)[:2], f(params, X[:2]), **CLOSE)
    trains(f, params)
    in_training, params = from_flax(Linen(), X, KEY, train=True)
    together, alone = in_training(params, X), in_training(params, X[:3])
    assert float(jnp.abs(together[:3] - alone).max()) > 1e-3, "the statistics of the batch, as asked for"


def test_an_nnx_module_is_its_own_call_with_frozen_statistics_and_stays_as_it_was():
    module = Nnx(nnx.Rngs(0))
    nnx.update(module, scaled(nnx.state(module, nnx.BatchStat)))
    f, params = from_flax(module, X)
    assert set(params) == {f"{name}.{leaf}" for name in ("layers[0]", "layers[1]") for leaf in ("bias", "kernel")} | {
        "norm.bias",
        "norm.scale",
    }
    assert not module.dropout.deterministic, "the user's module is not changed"
    module.eval()
    np.testing.assert_allclose(f(params, X), module(X), **CLOSE)
    trains(f, params)


def test_an_equinox_module_is_its_own_call_over_a_batch_with_frozen_state():
    module, state = equinox.nn.make_with_state(Equinox)(KEY)
    state = scaled_state(state)
    f, params = from_equinox(module, state=state)
    assert set(params) == {f"{name}.{leaf}" for name in ("first", "norm", "second") for leaf in ("bias", "weight")}
    still = equinox.nn.inference_mode(module)
    np.testing.assert_allclose(f(params, X), jax.vmap(lambda x: still(x, state)[0])(X), **CLOSE)
    moved = {name: 2 * leaf for name, leaf in params.items()}
    twice = jax.tree.map(lambda leaf: 2 * leaf if equinox.is_inexact_array(leaf) else leaf, still)
    np.testing.assert_allclose(f(moved, X), jax.vmap(lambda x: twice(x, state)[0])(X), **CLOSE)
    trains(f, params)


def scaled_state(state):
    return jax.tree.map(lambda leaf: leaf + 0.5 if equinox.is_inexact_array(leaf) else jnp.ones_like(leaf), state)


def test_dropout_that_stays_on_has_one_mask_for_all_examples():
    cases = [
        from_flax(linen.Dropout(0.5, deterministic=False), X, KEY, dropout=True),
        from_flax(linen.Dropout(0.5), X, KEY, dropout=True),
        from_flax(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), X, dropout=True),
        from_equinox(equinox.nn.Dropout(0.5), key=KEY),
    ]
    for f, params in cases:
        dropped = np.asarray(f(params, X) == 0)
        assert (dropped == dropped[0]).all()
        assert 0 < dropped.sum() < dropped.size
        np.testing.assert_array_equal(f(params, X), f(params, X))


@pytest.mark.parametrize("wrong", [3, linen.Dense, {"w": 1}, lambda x: x])
def test_what_is_no_module_is_refused(wrong):
    with pytest.raises(TypeError, match="module must be a Flax module"):
        from_flax(wrong, X, KEY)
    with pytest.raises(TypeError, match="module must be an Equinox module"):
        from_equinox(wrong)
    with pytest.raises(TypeError, match="a linen module needs a key"):
        from_flax(Linen(), X)


def test_a_library_that_is_missing_is_told_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ModuleNotFoundError, match=r"Equinox is not installed: the extra \[models\]"):
        from_equinox(3)


def test_neither_library_is_loaded_before_it_is_asked_for():
    import subprocess

    code = "import sys, nqm_tools; sys.exit(bool({'flax', 'equinox'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert _adapters.from_flax is not from_flax
