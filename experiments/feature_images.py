"""Pairs of classes of images with the AGOP of a reference: the better of two that know every image at hand.

Never edited: its checksum is in the keys of recorded runs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nqm_tools import agop, datasets, recursive_feature_machine

# The kernel machine is that of feature_data.py, with one round. The convolutional network was settled on CIFAR-2's and
# SVHN-2's own test images, before any run of the sweeps.
BANDWIDTH, ROUNDS, POWER, PAIRS = 10.0, 1, 0.5, 50
CHANNELS, EPOCHS, BATCH, RATE, DECAY = (32, 64, 64), 15, 32, 2e-3, 0.05


def pair(source, n_train, n_test, reference, seed, classes=None):
    """A draw of :func:`nqm_tools.datasets.load` with the first 50 eigenpairs of the reference's AGOP as its ``agop``.

    ``reference`` are the numbers of images of the publisher's two sets that the reference is fitted to: of two kinds
    that which, fitted to the first set alone, has the higher accuracy on the second (both are in the provenance).
    """
    chosen = {} if classes is None else {"classes": tuple(classes)}
    data = datasets.load(source, n_train=n_train, n_test=n_test, seed=seed, **chosen)
    root, found = _reference(source, tuple(chosen.items()), tuple(reference))
    known = data.provenance | {"reference": list(reference)} | found
    return datasets.Data(data.name, data.x_train, data.y_train, data.x_test, data.y_test, known, root)


@functools.cache
def _reference(source, chosen, sizes):
    data = datasets.load(source, n_train=sizes[0], n_test=sizes[1], seed=0, **dict(chosen))
    scale = float(np.sqrt((data.x_train.reshape(sizes[0], -1) ** 2).sum(axis=1).mean()))
    x, x_test = data.x_train, data.x_test
    whole, labels = np.concatenate([x, x_test]), np.concatenate([data.y_train, data.y_test])
    machine = _machine(_rows(x) / scale, data.y_train)
    accuracy = {
        "machine": float((np.sign(machine(_rows(x_test) / scale)) == data.y_test).mean()),
        "network": float((np.sign(_outputs(_network(x, data.y_train), x_test)) == data.y_test).mean()),
    }
    kind = max(accuracy, key=accuracy.get)
    if kind == "machine":
        matrix = _machine(_rows(whole) / scale, labels).agop()
    else:
        matrix = agop(_apply, _network(whole, labels), whole)
    values, vectors = np.linalg.eigh(np.asarray(matrix, float))
    root = (vectors[:, -PAIRS:] * np.sqrt(np.maximum(values[-PAIRS:], 0))).T
    return root, {"reference_kind": kind} | {f"{name}_accuracy": value for name, value in accuracy.items()}


def _rows(x):
    return x.reshape(len(x), -1)


def _machine(x, y):
    return recursive_feature_machine(x, y, bandwidth=BANDWIDTH, iterations=ROUNDS, power=POWER)


def _apply(params, x):
    """Three times a convolution, channels less their means, ReLU and the mean of 2 x 2 pixels; a linear readout."""
    for kernel in params[:-1]:
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x - x.mean(axis=(1, 2), keepdims=True))
        x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    return x.reshape(len(x), -1) @ params[-1]


def _outputs(params, x):
    return np.asarray(jax.lax.map(lambda one: _apply(params, one[None])[0], x, batch_size=100))


def _network(x, y):
    """The network fitted to the images, with Adam, weight decay and a rate that falls as a cosine."""
    sizes = (x.shape[-1], *CHANNELS)
    keys = jax.random.split(jax.random.key(0), len(sizes))
    params = [
        jax.random.normal(key, (3, 3, a, b)) * jnp.sqrt(2 / (9 * a))
        for key, a, b in zip(keys, sizes, sizes[1:], strict=False)
    ]
    side = (x.shape[1] // 8) * (x.shape[2] // 8)
    params.append(jax.random.normal(keys[-1], (side * sizes[-1], 1)) * jnp.sqrt(1 / (side * sizes[-1])))
    size = min(BATCH, len(x))
    steps = EPOCHS * (len(x) // size)
    rule = optax.adamw(optax.cosine_decay_schedule(RATE, steps), weight_decay=DECAY)

    def loss(params, x, y):
        return ((_apply(params, x) - y) ** 2).mean()

    @jax.jit
    def step(carry, batch):
        params, memory = carry
        update, memory = rule.update(jax.grad(loss)(params, *batch), memory, params)
        return optax.apply_updates(params, update), memory

    carry, rng = (params, rule.init(params)), np.random.default_rng(0)
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for first in range(0, len(x) - size + 1, size):
            rows = order[first : first + size]
            carry = step(carry, (x[rows], y[rows]))
    return carry[0]
