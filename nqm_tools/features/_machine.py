"""Recursive feature machines: kernel machines that learn features by their own average gradient outer product."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
from jaxtyping import Float

from nqm_tools._tiles import MEMORY
from nqm_tools._types import Agop, Inputs, Targets
from nqm_tools._validation import (
    check_agop,
    check_choice,
    check_inputs,
    check_not_traced,
    check_rate,
    check_targets,
    check_whole,
)
from nqm_tools.features._agop import cosine
from nqm_tools.features._layers import matrix_power

if TYPE_CHECKING:
    import pandas as pd

# Squared distances below this share of the points' own squared lengths are rounding, and count as zero.
ROUNDING = 1e-12


def _laplace(square, bandwidth):
    """Values of the kernel, and what times ``M (z - x)`` is its gradient in x: none in the kink, at z = x."""
    distance = np.sqrt(square)
    values = np.exp(-distance / bandwidth)
    with np.errstate(divide="ignore"):
        return values, np.where(distance > 0, values / (bandwidth * distance), 0.0)


def _gaussian(square, bandwidth):
    values = np.exp(-square / (2 * bandwidth**2))
    return values, values / bandwidth**2


KERNELS = {"laplace": _laplace, "gaussian": _gaussian}
NORMALISATIONS = {
    "trace": lambda matrix: matrix * (len(matrix) / np.trace(matrix)),
    "max": lambda matrix: matrix / matrix.max(),
    "none": lambda matrix: matrix,
}


@dataclasses.dataclass(frozen=True, eq=False)
class RecursiveFeatureMachine:
    """A kernel machine ``f(x) = sum_j K_M(x, x_j) alpha_j``, which can be called: ``machine(x) -> (n, k)``.

    Attributes
    ----------
    x : numpy.ndarray
        Its training inputs, flattened, (n, d).
    coefficients : numpy.ndarray
        alpha, (n, k).
    feature_matrix : numpy.ndarray
        M, (d, d).
    kernel, bandwidth
        As in :func:`recursive_feature_machine`.
    history : pandas.DataFrame
        A row an iteration, from 0 (``M = I``): ``iteration``, ``train_loss``, and ``test_loss`` and ``agop_alignment``
        where there is what they are measured with.

    Examples
    --------
    >>> machine = recursive_feature_machine(np.eye(3), np.ones(3), iterations=1)
    >>> machine(np.eye(3)).shape, machine.feature_matrix.shape
    ((3, 1), (3, 3))
    """

    x: Float[np.ndarray, "n d"]
    coefficients: Float[np.ndarray, "n k"]
    feature_matrix: Float[np.ndarray, "d d"]
    kernel: str
    bandwidth: float
    history: pd.DataFrame | None = None

    def __call__(self, x: Inputs) -> Float[np.ndarray, "n_x k"]:
        """The outputs (n, k) of inputs (n, ...), in float64."""
        return np.concatenate([values @ self.coefficients for _, values, _ in self._tiles(_flat("x", x, self.x))])

    def agop(self, x: Inputs | None = None) -> Float[np.ndarray, "d d"]:
        """The AGOP over inputs (n, ...), by default the training inputs, in closed form.

        Where an input is a training input (to rounding) the Laplace kernel has a kink, and that term is left out.
        """
        points = self.x if x is None else _flat("x", x, self.x)
        total = np.zeros_like(self.feature_matrix)
        for part, _, slopes in self._tiles(points):
            for alpha in self.coefficients.T:
                weights = slopes * alpha
                moved = weights @ self.x - weights.sum(axis=1, keepdims=True) * part
                total += moved.T @ moved
        found = self.feature_matrix @ total @ self.feature_matrix / len(points)
        return (found + found.T) / 2

    def _tiles(self, points):
        """Some inputs at a time, with the kernel's values between them and the training inputs, and its slopes."""
        size = int(max(1, MEMORY // (64 * len(self.x))))
        for i in range(0, len(points), size):
            part = points[i : i + size]
            yield part, *KERNELS[self.kernel](_squares(part, self.x, self.feature_matrix), self.bandwidth)


def _squares(x, z, matrix):
    """``(x_i - z_j)^T M (x_i - z_j)``, 0 where it is rounding."""
    moved = z @ matrix
    lengths = ((x @ matrix) * x).sum(axis=1)[:, None] + (moved * z).sum(axis=1)
    squares = lengths - 2 * (x @ moved.T)
    return np.where(squares > ROUNDING * lengths, squares, 0.0)


def _flat(name, x, train=None):
    x = np.asarray(check_inputs(name, x), dtype=float)
    x = x.reshape(len(x), -1)
    if train is not None and x.shape[1] != train.shape[1]:
        raise ValueError(
            f"{name} must have examples of {train.shape[1]} numbers, as the training inputs; got {x.shape}"
        )
    return x


def recursive_feature_machine(
    x: Inputs,
    y: Targets,
    *,
    kernel: str = "laplace",
    bandwidth: float = 10.0,
    ridge: float = 1e-3,
    iterations: int = 5,
    power: float = 1.0,
    normalise: str = "trace",
    test: tuple[Inputs, Targets] | None = None,
    reference: Agop | None = None,
) -> RecursiveFeatureMachine:
    """A kernel machine that learns features: fitted, and fitted again with its own AGOP in the kernel.

    Parameters
    ----------
    x, y
        Training inputs (n, ...), flattened, and targets (n, k) or (n,).
    kernel : {"laplace", "gaussian"}
        ``exp(-r/L)`` or ``exp(-r^2/(2 L^2))`` with ``r^2 = (x - z)^T M (x - z)``.
    bandwidth : float
        L.
    ridge : float
        Added to the kernel's diagonal.
    iterations : int
        How often M is replaced; 0 is the plain kernel machine.
    power : float
        M is this power of the AGOP.
    normalise : {"trace", "max", "none"}
        M's trace is made d, or its largest entry 1, or it stays as it is.
    test : pair of arrays, optional
        Test inputs and targets, for the history.
    reference : array, optional
        An AGOP (or a root) that the history compares that of each iteration with, by :func:`agop_alignment`.

    Returns
    -------
    RecursiveFeatureMachine
        In float64. Losses of its history are ``mse``.

    Raises
    ------
    TypeError, ValueError
        For impossible arguments, and a kernel matrix that is singular to rounding.

    Notes
    -----
    With ``M = I`` at first: (1) ``alpha = (K_M(X, X) + ridge I)^-1 y``; (2) ``f(x) = K_M(x, X) alpha``; (3) M becomes
    the AGOP of f over X; and at the end (1) once more. Memory and time are those of kernel matrices (n, n) and their
    Cholesky decomposition.

    References
    ----------
    Radhakrishnan, Beaglehole, Pandit, Belkin (2022), "Mechanism of feature learning in deep fully connected networks
    and kernel machines that recursively learn features", arXiv:2212.13881. Their code leaves out the kink, too.

    Examples
    --------
    >>> from nqm_tools import datasets
    >>> data = datasets.multi_index("x1x2", 5, n_train=100, n_test=100, seed=0)
    >>> test = data.x_test, data.y_test
    >>> machine = recursive_feature_machine(data.x_train, data.y_train, iterations=2, test=test, reference=data.agop)
    >>> losses = machine.history["test_loss"]
    >>> bool(losses[2] < losses[0] / 2), machine.history.columns[-1]
    (True, 'agop_alignment')
    """
    check_not_traced("recursive_feature_machine", x, y, test, reference)
    x = _flat("x", x)
    y = np.asarray(check_targets("y", y, len(x)), dtype=float)
    kernel = check_choice("kernel", kernel, tuple(KERNELS))
    bandwidth, ridge, power = (
        check_rate(name, value) for name, value in (("bandwidth", bandwidth), ("ridge", ridge), ("power", power))
    )
    iterations = check_whole("iterations", iterations, minimum=0)
    normalised = NORMALISATIONS[check_choice("normalise", normalise, tuple(NORMALISATIONS))]
    if test is not None:
        x_test, y_test = test
        x_test = _flat("the inputs of test", x_test, x)
        y_test = np.asarray(check_targets("the targets of test", y_test, len(x_test), y.shape[1]), dtype=float)
    if reference is not None:
        reference = check_agop("reference", reference, x.shape[1])
    matrix, history = np.eye(x.shape[1]), []
    for iteration in range(iterations + 1):
        machine = RecursiveFeatureMachine(x, _solve(x, y, matrix, kernel, bandwidth, ridge), matrix, kernel, bandwidth)
        # (K + ridge I) alpha = y, so that the residual is -ridge alpha.
        row = {"iteration": iteration, "train_loss": _mse(ridge * machine.coefficients, 0.0)}
        if test is not None:
            row["test_loss"] = _mse(machine(x_test), y_test)
        if reference is not None or iteration < iterations:
            found = machine.agop()
            if not found.any():
                raise ValueError("y must not be zero: the machine is constant then, and has no features")
            if reference is not None:
                row["agop_alignment"] = float(cosine(found, reference))
            if iteration < iterations:
                matrix = normalised(matrix_power(found, power))
        history.append(row)
    import pandas as pd

    return dataclasses.replace(machine, history=pd.DataFrame(history))


def _solve(x, y, matrix, kernel, bandwidth, ridge):
    values, _ = KERNELS[kernel](_squares(x, x, matrix), bandwidth)
    values[np.diag_indices(len(x))] += ridge
    try:
        return scipy.linalg.cho_solve(scipy.linalg.cho_factor(values, overwrite_a=True, lower=True), y)
    except np.linalg.LinAlgError:
        raise ValueError(f"ridge must be larger for these inputs: with {ridge:g} the kernel is singular") from None


def _mse(prediction, y):
    return float(((prediction - y) ** 2).sum() / len(prediction))
