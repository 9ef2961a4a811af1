"""The paper's data sets as problems of two classes or more, synthetic ones, and a container for your own.

``digits`` ships inside scikit-learn. ``cifar2``, ``mnist``, ``svhn2``, ``fsdd`` and ``ag_news`` are the paper's: their
files are found in ``root``, in the folder named by ``NQM_DATA_DIR``, in the cache, or downloaded and checked.

>>> data = load("digits", n_train=4, n_test=2, seed=0)
>>> data.x_train.shape, data.y_train.shape
((4, 8, 8, 1), (4, 1))
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Real

from nqm_tools import _features, _files, _readers
from nqm_tools._types import FilePath
from nqm_tools._validation import (
    check_agop,
    check_choice,
    check_fraction,
    check_inputs,
    check_not_traced,
    check_number,
    check_numeric,
    check_rate,
    check_targets,
    check_whole,
)

__all__ = [
    "NAMES",
    "Data",
    "available",
    "chebyshev",
    "default_classes",
    "gaussians_1d",
    "load",
    "multi_index",
    "single_example",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Training and test examples; build one from your own arrays, or with :func:`load`.

    Attributes
    ----------
    name : str
    x_train, x_test : numpy.ndarray
        Inputs (n, ...): images (n, height, width, channels), vectors (n, d), or what your function takes. Floating
        point is kept in JAX's default precision, integers as they are.
    y_train, y_test : numpy.ndarray
        Targets (n, k); (n,) is accepted for k = 1.
    provenance : dict
        Where the examples come from; goes into every run's record.
    agop : numpy.ndarray, optional
        The average gradient outer product of the function behind the data, (d, d), or its root, (r, d) with r < d rows:
        what :func:`nqm_tools.agop_alignment` and the recorded ``agop_alignment`` compare a model's with.

    ``x_test`` and ``y_test`` may be left out.

    Examples
    --------
    >>> data = Data("mine", x_train=np.eye(3), y_train=np.array([1, -1, 1]), provenance={"from": "a lecture"})
    >>> data.y_train.shape, len(data.x_test)
    ((3, 1), 0)
    """

    name: str
    x_train: Real[np.ndarray, "n ..."]
    y_train: Real[np.ndarray, "n k"] | Real[np.ndarray, " n"]
    x_test: Real[np.ndarray, "n_test ..."] | None = None
    y_test: Real[np.ndarray, "n_test k"] | Real[np.ndarray, " n_test"] | None = None
    provenance: dict = dataclasses.field(default_factory=dict)
    agop: Real[np.ndarray, "r d"] | None = None

    def __post_init__(self) -> None:
        check_not_traced("Data", self.x_train, self.y_train, self.x_test, self.y_test)
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string; got {self.name!r}")
        if not isinstance(self.provenance, dict):
            raise TypeError(f"provenance must be a dictionary; got {self.provenance!r}")
        if (self.x_test is None) != (self.y_test is None):
            raise ValueError("x_test and y_test must be given together")
        x_train = check_inputs("x_train", self.x_train)
        y_train = check_targets("y_train", self.y_train, len(x_train))
        if self.x_test is None or all(
            check_numeric(field, getattr(self, field)).shape[:1] == (0,) for field in ("x_test", "y_test")
        ):
            x_test, y_test = x_train[:0], y_train[:0]
        else:
            x_test = check_inputs("x_test", self.x_test)
            y_test = check_targets("y_test", self.y_test, len(x_test), y_train.shape[1])
        if x_test.shape[1:] != x_train.shape[1:]:
            raise ValueError(
                f"x_test must have examples of shape {x_train.shape[1:]}, as x_train has; got {x_test.shape[1:]}"
            )
        arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
        for field, values in arrays.items():
            values = np.asarray(values)
            if field.startswith("y") or jax.numpy.issubdtype(values.dtype, jax.numpy.floating):
                with np.errstate(over="ignore"):
                    values = values.astype(jax.dtypes.canonicalize_dtype(float))
                if not np.isfinite(values).all():
                    raise ValueError(f"{field} must be finite; it holds values that are too large for {values.dtype}")
            object.__setattr__(self, field, values)
        if self.agop is not None:
            agop = check_agop("agop", self.agop, x_train[0].size)
            object.__setattr__(self, "agop", agop.astype(jax.dtypes.canonicalize_dtype(float)))


class _Dataset(NamedTuple):
    """How a data set is read: ``pools(files)`` gives (examples, labels) of the training and the test pool.

    The test pool may be None, and then both samples are drawn from the one pool.
    """

    pools: Callable
    features: Callable
    classes: tuple
    default: tuple


def _digits_pools(files):
    digits = _features.of_sklearn("datasets").load_digits()
    return (digits.images[..., None], digits.target), None


def _cifar_pools(files):
    splits = _readers.read("CIFAR-10", files[0])
    return splits["train"], splits["test"]


def _mnist_pools(files):
    pools = []
    for pair in (files[:2], files[2:]):
        images, labels = _readers.read("MNIST images", pair[0]), _readers.read("MNIST labels", pair[1])
        if len(images) != len(labels):
            raise _readers.DataFileError(
                f"{pair[0]} and {pair[1]} do not belong together: they hold {len(images)} images and {len(labels)} "
                "labels"
            )
        pools.append((images, labels))
    return pools


def _svhn_pools(files):
    return [_readers.read("SVHN", file) for file in files]


def _fsdd_pools(files):
    return _readers.read("FSDD", files[0]), None


def _ag_news_pools(files):
    return [_readers.read("AG News", file) for file in files]


_TEN = tuple(range(10))
_DATASETS = {
    "digits": _Dataset(_digits_pools, _features.image_features, _TEN, (0, 2)),
    "cifar2": _Dataset(_cifar_pools, _features.image_features, _TEN, (0, 2)),
    "mnist": _Dataset(_mnist_pools, _features.image_features, _TEN, (0, 2)),
    "svhn2": _Dataset(_svhn_pools, _features.image_features, _TEN, (0, 2)),
    "fsdd": _Dataset(_fsdd_pools, _features.speech_features, _TEN, (1, 3)),
    "ag_news": _Dataset(_ag_news_pools, _features.text_features, (1, 2, 3, 4), (1, 2)),
}
NAMES = tuple(_DATASETS)
MOST = 2**31 - 1  # examples, or numbers in one: XLA counts rows with 32 bits
MOST_SPECTRUM = 10.0  # steeper, and float32 loses the small inputs


def available(name: str, *, root: FilePath | None = None) -> bool:
    """Whether the files of a data set are on this machine; nothing is downloaded.

    Parameters
    ----------
    name : str
        As for :func:`load`.
    root : path, optional

    Returns
    -------
    bool
        True for ``digits``, which ships inside scikit-learn.

    Examples
    --------
    >>> available("digits")
    True
    """
    check_choice("name", name, NAMES)
    if name not in _files.SOURCES:
        return True
    root = None if root is None else _files.check_folder("root", root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # load says whether the files are the published ones
        try:
            _files.locate(name, root, download=False)
        except FileNotFoundError:
            return False
    return True


def default_classes(name: str) -> list[int]:
    """The pair of classes that :func:`load` takes of a data set when none is given.

    Examples
    --------
    >>> default_classes("fsdd")
    [1, 3]
    """
    return list(_DATASETS[name].default)


def load(
    name: str,
    *,
    classes: Sequence[int] | None = None,
    n_train: int,
    n_test: int,
    label_noise: float = 0.0,
    seed: int,
    root: FilePath | None = None,
) -> Data:
    """A random sample of two classes, or more, of a data set.

    Parameters
    ----------
    name : {"digits", "cifar2", "mnist", "svhn2", "fsdd", "ag_news"}
    classes : sequence of int, optional
        The class labelled +1 and the one labelled -1. By default the paper's pair (airplane and bird in CIFAR-10,
        digits 0 and 2, spoken digits 1 and 3, World and Sports news). Three or more have one-hot labels, a column a
        class in this order: ``range(10)`` is all of MNIST.
    n_train, n_test : int
        How many examples to draw, without replacement; ``n_test`` may be 0. Where the publisher has a test set,
        test examples come from it; ``digits`` and ``fsdd`` are split at random.
    label_noise : float
        The share of training labels to flip, in [0, 1), rounded to whole labels. For two classes.
    seed : int
        Decides the draw and the flips.
    root : path, optional
        A folder with the publisher's files, used as they are.

    Returns
    -------
    Data
        Images (n, height, width, channels), shifted and scaled by scalars of the training sample, and labels (n, 1), or
        (n, k) for k > 2 classes.

    Raises
    ------
    FileNotFoundError
        If files are missing and cannot be downloaded: which, and where to put them.
    ValueError
        For unknown names and classes, more examples than there are, and damaged files.

    Examples
    --------
    >>> data = load("digits", classes=(3, 8), n_train=20, n_test=10, label_noise=0.1, seed=0)
    >>> data.x_train.shape, data.y_test.shape, data.provenance["classes"]
    ((20, 8, 8, 1), (10, 1), [3, 8])
    """
    classes, n_train, n_test, label_noise, seed = check_load(
        name, classes=classes, n_train=n_train, n_test=n_test, label_noise=label_noise, seed=seed
    )
    dataset = _DATASETS[name]
    if root is not None:
        root = _files.check_folder("root", root)

    files = _files.locate(name, root) if name in _files.SOURCES else []
    train_pool, test_pool = _of_classes(name, classes, tuple((f.path, f.md5) for f in files))
    rng = np.random.default_rng(seed)
    if test_pool is None:
        total = len(train_pool[1])
        if n_train + n_test > total:
            raise ValueError(
                f"{name} has {total} examples of classes {classes}; n_train + n_test = {n_train + n_test} asked for"
            )
        order = rng.permutation(total)
        test_pool, train_rows, test_rows = train_pool, order[:n_train], order[n_train : n_train + n_test]
    else:
        for what, asked, (_, labels) in (("n_train", n_train, train_pool), ("n_test", n_test, test_pool)):
            if asked > len(labels):
                raise ValueError(
                    f"{name} has {len(labels)} examples of classes {classes} to draw {what} from; {asked} asked for"
                )
        train_rows = rng.permutation(len(train_pool[1]))[:n_train]
        test_rows = rng.permutation(len(test_pool[1]))[:n_test]
    (x_train, y_train), (x_test, y_test) = _take(train_pool, train_rows), _take(test_pool, test_rows)
    flipped = rng.permutation(n_train)[: round(label_noise * n_train)]
    y_train[flipped] *= -1
    x_train, x_test = dataset.features(x_train, x_test)
    provenance = {
        "name": name,
        "classes": list(classes),
        "n_train": n_train,
        "n_test": n_test,
        "label_noise": label_noise,
        "seed": seed,
        "files": [{"file": f.path.name, "md5": f.md5, "as_published": f.as_published} for f in files],
    }
    return Data(name, x_train, y_train, x_test, y_test, provenance)


def check_load(name, *, classes=None, n_train, n_test, label_noise=0.0, seed=0):
    """The arguments of :func:`load` but ``root``, checked as far as they can be without the files."""
    check_choice("name", name, NAMES)
    dataset = _DATASETS[name]
    classes = _check_classes(dataset.default if classes is None else classes, dataset.classes)
    if label_noise and len(classes) > 2:
        raise ValueError(
            f"label_noise flips the labels of two classes; got {label_noise!r} with {len(classes)} classes"
        )
    return (
        classes,
        check_whole("n_train", n_train, maximum=MOST),
        check_whole("n_test", n_test, minimum=0, maximum=MOST),
        check_fraction("label_noise", label_noise),
        check_whole("seed", seed, minimum=0),
    )


def _check_classes(classes, known):
    # A set has no first class.
    row = isinstance(classes, tuple | list | range) or (isinstance(classes, np.ndarray) and classes.ndim == 1)
    chosen = tuple(classes) if row else ()
    if len(chosen) < 2:
        raise ValueError(f"classes must be a pair such as {known[:2]}, or more; got {classes!r}")
    whole = all(isinstance(value, numbers.Integral) and not isinstance(value, bool) for value in chosen)
    if not (whole and all(value in known for value in chosen)) or len(set(chosen)) < len(chosen):
        raise ValueError(f"classes must be two or more different ones of {known}; got {chosen!r}")
    return tuple(map(int, chosen))


@functools.lru_cache(maxsize=2)
def _of_classes(name, classes, files):
    """Both pools, reduced to some classes with their labels; kept, since every seed draws from them anew."""
    pools = _DATASETS[name].pools([path for path, _ in files])
    return tuple(None if pool is None else _reduce(pool, classes) for pool in pools)


def _reduce(pool, classes):
    examples, labels = pool
    rows = np.flatnonzero(np.isin(labels, classes))
    of_each = labels[rows][:, None] == np.array(classes)
    return _pick(examples, rows), of_each.astype(float) if len(classes) > 2 else np.where(of_each[:, :1], 1.0, -1.0)


def _take(pool, rows):
    examples, labels = pool
    return _pick(examples, rows), labels[rows]


def _pick(examples, rows):
    return examples[rows] if isinstance(examples, np.ndarray) else [examples[row] for row in rows]


def gaussians_1d(n_train: int = 128, *, mean: float = 2.0, std: float = 1.0, n_test: int = 0, seed: int) -> Data:
    """One-dimensional examples around ``+mean`` and ``-mean``, labelled by the sign of their mean (paper, figure 3).

    Parameters
    ----------
    n_train, n_test : int
    mean, std : float
        Of the Gaussians, both positive.
    seed : int

    Returns
    -------
    Data
        Inputs (n, 1), labels (n, 1).

    Examples
    --------
    >>> data = gaussians_1d(4, seed=0)
    >>> data.x_train.shape, data.y_train.ravel().tolist()
    ((4, 1), [1.0, 1.0, 1.0, -1.0])
    """
    n_train, mean, std, n_test, seed = check_gaussians_1d(n_train, mean=mean, std=std, n_test=n_test, seed=seed)
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1.0, 1.0], size=(n_train + n_test, 1))
    inputs = mean * labels + std * rng.standard_normal(labels.shape)
    provenance = {"name": "gaussians_1d", "mean": mean, "std": std, "seed": seed}
    return Data("gaussians_1d", inputs[:n_train], labels[:n_train], inputs[n_train:], labels[n_train:], provenance)


def check_gaussians_1d(n_train=128, *, mean=2.0, std=1.0, n_test=0, seed=0):
    """The arguments of :func:`gaussians_1d`, checked."""
    return (
        check_whole("n_train", n_train, maximum=MOST),
        check_rate("mean", mean),
        check_rate("std", std),
        check_whole("n_test", n_test, minimum=0, maximum=MOST),
        check_whole("seed", seed, minimum=0),
    )


def chebyshev(degree: int, *, n_train: int = 20) -> Data:
    """A Chebyshev polynomial at equally spaced points, the smallest problem that shows the edge of stability.

    Parameters
    ----------
    degree : int
        Of the polynomial, the targets.
    n_train : int
        Points from -1 to 1.

    Returns
    -------
    Data
        Inputs (n, 2), a point and a 1 (networks here have no biases), targets (n, 1); no test set.

    Notes
    -----
    After the example of Cohen et al. (2021), "Gradient descent on neural networks typically occurs at the edge of
    stability".

    >>> chebyshev(3, n_train=3).y_train.ravel().tolist()
    [-1.0, 0.0, 1.0]
    """
    degree, n_train = check_chebyshev(degree, n_train=n_train)
    x = np.linspace(-1, 1, n_train)
    targets = np.polynomial.Chebyshev.basis(degree)(x)
    provenance = {"name": "chebyshev", "degree": degree, "n_train": n_train}
    return Data("chebyshev", np.stack([x, np.ones(n_train)], axis=1), targets, provenance=provenance)


def check_chebyshev(degree, *, n_train=20):
    """The arguments of :func:`chebyshev`, checked."""
    return check_whole("degree", degree, maximum=1000), check_whole("n_train", n_train, minimum=2, maximum=MOST)


def single_example(dimension: int, *, label: float = 0.0, seed: int) -> Data:
    """One training example ``x ~ N(0, I)``, the setting of the paper's Theorems 1 and 2; no test set.

    Parameters
    ----------
    dimension : int
        The dimension d of x.
    label : float
        Its target y.
    seed : int

    Examples
    --------
    >>> data = single_example(5, label=1.0, seed=0)
    >>> data.x_train.shape, data.y_train.tolist()
    ((1, 5), [[1.0]])
    """
    dimension, label, seed = check_single_example(dimension, label=label, seed=seed)
    x = np.random.default_rng(seed).standard_normal((1, dimension))
    provenance = {"name": "single_example", "dimension": dimension, "label": label, "seed": seed}
    return Data("single_example", x, np.array([[label]]), provenance=provenance)


def check_single_example(dimension, *, label=0.0, seed=0):
    """The arguments of :func:`single_example`, checked."""
    return (
        check_whole("dimension", dimension, maximum=MOST),
        check_number("label", label),
        check_whole("seed", seed, minimum=0),
    )


def _he2(z):
    return (z[..., 0] ** 2 - 1) / np.sqrt(2)


# What each target is of the first coordinates, and its AGOP in them under a standard normal distribution.
_TARGETS = {
    "x1x2": (lambda z: z[..., 0] * z[..., 1], (1.0, 1.0)),
    "x1x2x3": (lambda z: z[..., 0] * z[..., 1] * z[..., 2], (1.0, 1.0, 1.0)),
    "he2": (_he2, (2.0,)),
    "relu": (lambda z: np.maximum(z[..., 0], 0), (0.5,)),
}


def multi_index(
    target: str = "x1x2",
    dimension: int = 20,
    *,
    n_train: int,
    n_test: int = 0,
    spectrum: float = 0.0,
    outputs: int = 1,
    subspace: int | None = None,
    seed: int,
) -> Data:
    """Normal inputs and a target that depends on few of their directions, with its exact AGOP.

    Parameters
    ----------
    target : {"x1x2", "x1x2x3", "he2", "relu"}
        ``z_1 z_2``, ``z_1 z_2 z_3``, ``(z_1^2 - 1)/sqrt(2)`` or ``max(z_1, 0)``, with z the inputs over their standard
        deviations: the first three have mean 0 and variance 1.
    dimension : int
        d, of the inputs.
    n_train, n_test : int
    spectrum : float
        Input i has a variance in proportion to ``i^-spectrum``, with mean 1 over inputs: 0 for ``x ~ N(0, I)``.
    outputs : int
        T tasks: each is the target of orthogonal directions of its own, drawn at random among those of the first
        ``subspace`` inputs. A single one is the target of the first inputs, as it is written.
    subspace : int, optional
        For several outputs; by default as many as the target has directions.
    seed : int

    Returns
    -------
    Data
        Inputs (n, d), targets (n, outputs), and ``agop`` (d, d), the expectation over x (summed over outputs).

    Examples
    --------
    >>> data = multi_index("x1x2", 4, n_train=3, n_test=2, seed=0)
    >>> data.y_train.shape, data.agop.tolist()[0]
    ((3, 1), [1.0, 0.0, 0.0, 0.0])
    >>> bool(np.allclose(data.y_train[:, 0], data.x_train[:, 0] * data.x_train[:, 1]))
    True
    """
    target, dimension, n_train, n_test, spectrum, outputs, subspace, seed = check_multi_index(
        target,
        dimension,
        n_train=n_train,
        n_test=n_test,
        spectrum=spectrum,
        outputs=outputs,
        subspace=subspace,
        seed=seed,
    )
    function, agop = _TARGETS[target]
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n_train + n_test, dimension))
    deviations = np.arange(1.0, dimension + 1) ** (-spectrum / 2)
    deviations *= np.sqrt(dimension / (deviations**2).sum())
    directions = np.eye(dimension)[:, None, : len(agop)]  # (d, outputs, of the target)
    if outputs > 1:
        drawn = [np.linalg.qr(rng.standard_normal((subspace, len(agop))))[0] for _ in range(outputs)]
        directions = np.zeros((dimension, outputs, len(agop)))
        directions[:subspace] = np.stack(drawn, axis=1)
    y = function(np.einsum("nd,dtp->ntp", z, directions))
    # Gradients in x = deviations * z.
    root = (directions * np.sqrt(agop)).reshape(dimension, -1) / deviations[:, None]
    provenance = {
        "name": "multi_index",
        "target": target,
        "dimension": dimension,
        "n_train": n_train,
        "n_test": n_test,
        "spectrum": spectrum,
        "outputs": outputs,
        "subspace": subspace,
        "seed": seed,
    }
    x = deviations * z
    return Data("multi_index", x[:n_train], y[:n_train], x[n_train:], y[n_train:], provenance, root @ root.T)


def check_multi_index(
    target="x1x2", dimension=20, *, n_train, n_test=0, spectrum=0.0, outputs=1, subspace=None, seed=0
):
    """The arguments of :func:`multi_index`, checked."""
    directions = len(_TARGETS[check_choice("target", target, tuple(_TARGETS))][1])
    dimension = check_whole("dimension", dimension, minimum=directions, maximum=MOST)
    outputs = check_whole("outputs", outputs, maximum=MOST)
    spectrum = check_number("spectrum", spectrum)
    if not 0 <= spectrum <= MOST_SPECTRUM:
        raise ValueError(f"spectrum must be a number from 0 to {MOST_SPECTRUM:g}; got {spectrum!r}")
    if subspace is None:
        subspace = directions
    elif outputs == 1:
        raise ValueError(f"subspace is of several outputs, from which their directions are drawn; got {subspace!r}")
    return (
        target,
        dimension,
        check_whole("n_train", n_train, maximum=MOST),
        check_whole("n_test", n_test, minimum=0, maximum=MOST),
        spectrum,
        outputs,
        check_whole("subspace", subspace, minimum=directions, maximum=dimension),
        check_whole("seed", seed, minimum=0),
    )
