"""The problems of the cases: random examples of the paper's shapes, networks, starts and models."""

import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

import nqm_tools as nqm


def make_data(problem, n_test=0, seed=0):
    """Normal inputs, signs as labels."""
    rng = np.random.default_rng(seed)
    n = problem["n"]
    if "tokens" in problem:
        x = rng.integers(0, problem["tokens"], (n + n_test, *problem["shape"]), dtype=np.int32)
        y = rng.choice([-1.0, 1.0], size=(n + n_test, 1)).astype(np.float32)
        return nqm.Data("random", x[:n], y[:n], x[n:], y[n:])
    x = rng.standard_normal((n + n_test, *problem["shape"]), dtype=np.float32)
    y = rng.choice([-1.0, 1.0], size=(n + n_test, 1)).astype(np.float32)
    return nqm.Data("random", x[:n], y[:n], x[n:], y[n:])


def make_network(problem):
    make = {
        "two_layer_fc": nqm.networks.two_layer_fc,
        "deep_fc": nqm.networks.deep_fc,
        "average": nqm.networks.two_layer_cnn,
        "flatten": lambda width: nqm.networks.two_layer_cnn(width, readout="flatten"),
        "plain": lambda width: plain_tanh,
        "resnet": lambda width: _own_models().resnet(width),
        "transformer": lambda width: _own_models().transformer(width, words=problem["tokens"]),
    }
    return make[problem["kind"]](problem["width"])


def _own_models():
    """The module of sweep files, beside them."""
    folder = str(pathlib.Path(__file__).parents[1] / "experiments")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("own_models")


def plain_tanh(params, x):
    """A function that is none of the package's networks: two layers, tanh, with biases."""
    first, bias, readout, shift = params
    hidden = jnp.tanh(x @ first / jnp.sqrt(first.shape[0]) + bias)
    return hidden @ readout / jnp.sqrt(readout.shape[0]) + shift


def make_params(problem, seed=0):
    key = jax.random.key(seed)
    if problem["kind"] != "plain":
        return make_network(problem).init(key, (problem["n"], *problem["shape"]))
    shapes = (problem["shape"][0], problem["width"]), (problem["width"],), (problem["width"], 1), (1,)
    return [jax.random.normal(k, shape) for k, shape in zip(jax.random.split(key, 4), shapes, strict=True)]


def make_model(name, network, params):
    """``f`` itself, or its expansion around ``params``."""
    return {"f": lambda f, _: f, "f_lin": nqm.linearize, "f_quad": nqm.quadraticize}[name](network, params)
