"""Pairs of classes of images with the AGOP of a reference: a recursive feature machine that knows far more examples.

Never edited: its checksum is in the keys of recorded runs.
"""

import functools

import numpy as np

from nqm_tools import datasets, recursive_feature_machine

# As images of norm 1 with the bandwidth 10 of the authors' notebooks.
BANDWIDTH, ITERATIONS, PAIRS = 10.0, 3, 50


def pair(source, classes, n_train, n_test, reference, seed):
    """A draw of :func:`nqm_tools.datasets.load` with the first 50 eigenpairs of the reference's AGOP as its ``agop``.

    The reference is fitted to ``reference`` examples of each of the publisher's two sets; its test accuracy in the
    provenance is that of one fitted to the training set alone.
    """
    data = datasets.load(source, classes=classes, n_train=n_train, n_test=n_test, seed=seed)
    root, accuracy = _reference(source, tuple(classes), reference)
    known = {key: value for key, value in data.provenance.items() if key != "files"}
    known |= {"reference": reference, "reference_accuracy": accuracy}
    return datasets.Data(data.name, data.x_train, data.y_train, data.x_test, data.y_test, known, root)


@functools.cache
def _reference(source, classes, n):
    data = datasets.load(source, classes=classes, n_train=n, n_test=n, seed=0)
    accuracy = (np.sign(_machine(data.x_train, data.y_train)(data.x_test)) == data.y_test).mean()
    whole = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    values, vectors = np.linalg.eigh(_machine(*whole).agop())
    return (vectors[:, -PAIRS:] * np.sqrt(np.maximum(values[-PAIRS:], 0))).T, float(accuracy)


def _machine(x, y):
    size = float(np.sqrt((x.reshape(len(x), -1) ** 2).sum(axis=1).mean()))
    return recursive_feature_machine(x / size, y, bandwidth=BANDWIDTH, iterations=ITERATIONS)
