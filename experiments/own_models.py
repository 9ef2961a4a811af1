"""Small networks beyond the package's: residual ones and a text transformer, and data for them.

Sweep files name them, as ``"own_models:resnet"``. Recorded runs are found by this file's checksum among other things:
leave it as it is, and write what is new into another file.
"""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

import nqm_tools as nqm
from nqm_tools import _files, _readers

ACTIVATIONS = {"relu": lambda h: jnp.maximum(h, 0), "swish": jax.nn.swish}
BLOCKS = 3
HEADS = 4
# Of a normalisation's variance.
SMALL = 1e-5
WORD = re.compile(r"[a-z]+")


class Weights:
    """Draws weights of fan-in ``size``: in NTK parameterisation of unit variance, divided where they are used."""

    def __init__(self, parameterization):
        if parameterization not in ("ntk", "standard"):
            raise ValueError(f"parameterization must be 'ntk' or 'standard'; got {parameterization!r}")
        self.in_use = parameterization == "ntk"

    def draw(self, key, shape, gain=1.0):
        scale = 1.0 if self.in_use else math.sqrt(gain / math.prod(shape[:-1]))
        return scale * jax.random.normal(key, shape)

    def use(self, weights, gain=1.0):
        return weights * math.sqrt(gain / math.prod(weights.shape[:-1])) if self.in_use else weights


def resnet(width, *, norm="none", activation="relu", parameterization="ntk", outputs=1):
    """Images (n, h, w, c): a 3x3 convolution of stride 2, three residual blocks, an average over positions, a readout.

    A block is ``h + conv(act(conv(act(norm(h)))))``. ``norm`` is "none", "layer" (over the channels of a position) or
    "frozen": BatchNorm with the statistics of a batch of normal inputs at the start, which stay.
    """
    weights, act = Weights(parameterization), ACTIVATIONS[activation]

    def conv(h, filters, stride=1, gain=2.0):
        # As one matrix product of 3x3 patches, which is faster on a CPU than its convolution is.
        _, height, breadth, _ = h.shape
        h = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifts = [h[:, i : i + height : stride, j : j + breadth : stride] for i in range(3) for j in range(3)]
        filters = weights.use(filters, gain)
        return jnp.concatenate(shifts, axis=-1) @ filters.reshape(-1, filters.shape[-1])

    def normalised(h, block):
        if norm == "none":
            return h
        if norm == "layer":
            h = (h - h.mean(axis=-1, keepdims=True)) / jnp.sqrt(h.var(axis=-1, keepdims=True) + SMALL)
        else:  # no parameters: nothing moves them
            mean, variance = jax.lax.stop_gradient((block["mean"], block["variance"]))
            h = (h - mean) / jnp.sqrt(variance + SMALL)
        return h * block["scale"] + block["shift"]

    def body(h, block):
        return h + conv(act(conv(act(normalised(h, block)), block["first"])), block["second"])

    def apply(params, x):
        h = conv(x, params["stem"], stride=2, gain=1.0)
        for block in params["blocks"]:
            h = body(h, block)
        return act(h).mean(axis=(1, 2)) @ weights.use(params["readout"])

    def init(key, shape):
        keys = iter(jax.random.split(key, 2 * BLOCKS + 3))
        params = {"stem": weights.draw(next(keys), (3, 3, shape[-1], width))}
        params["blocks"] = []
        h = conv(jax.random.normal(next(keys), (64, *shape[1:])), params["stem"], stride=2, gain=1.0)
        for _ in range(BLOCKS):
            block = {name: weights.draw(next(keys), (3, 3, width, width), 2.0) for name in ("first", "second")}
            if norm != "none":
                block |= {"scale": jnp.ones(width), "shift": jnp.zeros(width)}
            if norm == "frozen":
                block |= {"mean": h.mean(axis=(0, 1, 2)), "variance": h.var(axis=(0, 1, 2))}
            params["blocks"].append(block)
            h = body(h, block)
        params["readout"] = weights.draw(next(keys), (width, outputs))
        return (shape[0], outputs), params

    return nqm.Network(init, apply)


def transformer(width, *, words=500, attention="softmax", parameterization="ntk", outputs=1):
    """Tokens (n, length): an embedding, one block of attention and of a two-layer network, an average, a readout.

    Each part is ``h + part(LayerNorm(h))``. ``attention`` is "softmax" or "uniform", which averages over all places.
    Places are told by sines.
    """
    weights = Weights(parameterization)
    size = width // HEADS

    def normalised(h, norm):
        h = (h - h.mean(axis=-1, keepdims=True)) / jnp.sqrt(h.var(axis=-1, keepdims=True) + SMALL)
        return h * norm["scale"] + norm["shift"]

    def heads(h):
        return h.reshape(*h.shape[:-1], HEADS, size)

    def attend(h, part):
        values = heads(h @ weights.use(part["value"]))
        if attention == "uniform":
            mixed = jnp.broadcast_to(values.mean(axis=1, keepdims=True), values.shape)
        else:
            queries, keys = (heads(h @ weights.use(part[name])) for name in ("query", "key"))
            scores = jnp.einsum("nqhs,nkhs->nhqk", queries, keys) / math.sqrt(size)
            mixed = jnp.einsum("nhqk,nkhs->nqhs", jax.nn.softmax(scores), values)
        return mixed.reshape(h.shape) @ weights.use(part["output"])

    def apply(params, x):
        h = params["embedding"][x] + places(x.shape[1], width)
        h = h + attend(normalised(h, params["norms"][0]), params["attention"])
        hidden = jax.nn.gelu(normalised(h, params["norms"][1]) @ weights.use(params["first"]))
        h = h + hidden @ weights.use(params["second"], 2.0)
        return normalised(h, params["norms"][2]).mean(axis=1) @ weights.use(params["readout"])

    def init(key, shape):
        keys = iter(jax.random.split(key, 8))
        names = ("value", "output") if attention == "uniform" else ("query", "key", "value", "output")
        return (shape[0], outputs), {
            "embedding": jax.random.normal(next(keys), (words, width)),
            "attention": {name: weights.draw(next(keys), (width, width)) for name in names},
            "first": weights.draw(next(keys), (width, 2 * width)),
            "second": weights.draw(next(keys), (2 * width, width), 2.0),
            "readout": weights.draw(next(keys), (width, outputs)),
            "norms": [{"scale": jnp.ones(width), "shift": jnp.zeros(width)} for _ in range(3)],
        }

    return nqm.Network(init, apply)


def places(length, width):
    """Sines and cosines of the places, (length, width)."""
    rates = 1e4 ** (-jnp.arange(width // 2) / (width // 2))
    angles = jnp.arange(length)[:, None] * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def news_tokens(n_train, n_test, label_noise=0.0, length=16, words=500, seed=0):
    """AG News, World (+1) against Sports (-1), as the numbers of the first words of each text.

    Known are the most frequent words of the training sample, from 1; 0 stands for others and for no word.
    """
    rng = np.random.default_rng(seed)
    pools = _news(tuple(file.path for file in _files.locate("ag_news")))
    samples = []
    for (texts, labels), count in zip(pools, (n_train, n_test), strict=True):
        rows = rng.permutation(len(labels))[:count]
        samples.append(([texts[row] for row in rows], labels[rows]))
    (train, y_train), (test, y_test) = samples
    y_train = y_train.copy()
    y_train[rng.permutation(n_train)[: round(label_noise * n_train)]] *= -1
    counts = collections.Counter(word for text in train for word in text)
    known = {word: i for i, (word, _) in enumerate(counts.most_common(words - 1), start=1)}

    def tokens(texts):
        rows = np.zeros((len(texts), length), np.int32)
        for row, text in zip(rows, texts, strict=True):
            row[: min(length, len(text))] = [known.get(word, 0) for word in text[:length]]
        return rows

    provenance = {"name": "ag_news", "label_noise": label_noise, "seed": seed}
    return nqm.Data("news_tokens", tokens(train), y_train[:, None], tokens(test), y_test[:, None], provenance)


@functools.lru_cache(maxsize=1)
def _news(paths):
    pools = []
    for path in paths:
        texts, labels = _readers.read("AG News", path)
        rows = np.flatnonzero(np.isin(labels, (1, 2)))
        pools.append(([WORD.findall(texts[row].lower()) for row in rows], np.where(labels[rows] == 1, 1.0, -1.0)))
    return pools


def digit_classes(n_train, n_test, label_noise=0.0, seed=0):
    """scikit-learn's digits, all ten classes, as numbers of classes for cross-entropy; some training labels random."""
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(seed)
    rows = rng.permutation(len(digits.target))[: n_train + n_test]
    x, y = digits.images[rows][..., None], digits.target[rows].astype(float)
    x = (x - x[:n_train].mean()) / x[:n_train].std()
    noisy = rng.permutation(n_train)[: round(label_noise * n_train)]
    y[noisy] = (y[noisy] + rng.integers(1, 10, len(noisy))) % 10
    provenance = {"name": "digits", "label_noise": label_noise, "seed": seed}
    return nqm.Data("digit_classes", x[:n_train], y[:n_train, None], x[n_train:], y[n_train:, None], provenance)
