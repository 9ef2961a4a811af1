"""The same steps in PyTorch, where it is installed: autograd, and reverse over ``torch.func.jvp``."""

import importlib.util
import math
import os

import jax
import numpy as np

MISSING = None if importlib.util.find_spec("torch") else "PyTorch is not installed"
WAYS = {"f": "PyTorch autograd", "f_lin": "PyTorch, torch.func.jvp", "f_quad": "PyTorch, nested torch.func.jvp"}


def make_step(name, problem, params, data, rate):
    """Where it starts, and a function ``params -> (params, prediction)`` whose prediction NumPy reads."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    network = _network(torch, problem)
    params0 = tuple(torch.tensor(leaf) for leaf in _weights(problem, params))
    x, y = torch.tensor(_inputs(data.x_train)), torch.tensor(data.y_train)
    predict = _model(torch, name, lambda *weights: network(x, *weights), params0)

    def step(weights):
        weights = tuple(w.detach().requires_grad_() for w in weights)
        value = predict(weights)
        gradients = torch.autograd.grad(((value - y) ** 2).sum() / 2, weights)
        with torch.no_grad():
            moved = tuple(w - rate * g for w, g in zip(weights, gradients, strict=True))
        return moved, value.detach().numpy()

    return params0, step


def _model(torch, name, network, params0):
    """Prediction from weights, of the network or of its expansion around ``params0``."""
    jvp = torch.func.jvp

    def moved(weights):
        return tuple(w - w0 for w, w0 in zip(weights, params0, strict=True))

    def linear(weights):
        value, slope = jvp(network, params0, moved(weights))
        return value + slope

    def quadratic(weights):
        delta = moved(weights)
        (value, slope), (_, curved) = jvp(lambda *at: jvp(network, at, delta), params0, delta)
        return value + slope + curved / 2

    return {"f": lambda weights: network(*weights), "f_lin": linear, "f_quad": quadratic}[name]


def _network(torch, problem):
    if problem["kind"] in ("average", "flatten"):
        return _cnn(torch, problem["kind"])

    def fc(x, *weights):
        hidden = x
        for w in weights[:-1]:
            hidden = torch.relu(hidden @ w / math.sqrt(w.shape[0]))
        return hidden @ weights[-1] / math.sqrt(weights[-1].shape[0])

    return fc


def _cnn(torch, readout):
    def cnn(x, filters, dense):
        scale = 1 / math.sqrt(filters[0].numel())
        hidden = torch.relu(torch.nn.functional.conv2d(x, filters, padding=1) * scale)
        hidden = hidden.mean((2, 3)) if readout == "average" else hidden.flatten(1)
        return hidden @ dense / math.sqrt(dense.shape[0])

    return cnn


def _weights(problem, params):
    """As PyTorch has them: filters (m, c, 3, 3), and a readout of (m, h, w) in place of (h, w, m)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    if problem["kind"] in ("average", "flatten"):
        leaves[0] = leaves[0].transpose(3, 2, 0, 1)
    if problem["kind"] == "flatten":
        height, width, _ = problem["shape"]
        leaves[1] = leaves[1].reshape(height, width, -1).transpose(2, 0, 1).reshape(-1, 1)
    return [np.array(leaf) for leaf in leaves]


def _inputs(x):
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x)
