"""Losses: what is minimised, as three functions of the outputs and the targets.

A loss says for each example its value, its gradient and its curvature (second derivatives) in the outputs; the gradient
is what is pulled back to the parameters, the curvature makes the Gauss-Newton matrix. :func:`nqm_tools.train`,
:func:`nqm_tools.sharpness` and sweeps take a name, a function ``(prediction, y) -> (n,)``, or a :class:`Loss`.

>>> loss = find(lambda prediction, y: jnp.abs(prediction - y)[:, 0] ** 3)
>>> loss.gradient(jnp.array([[2.0]]), jnp.array([[0.0]])).item()
12.0
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float, Real

from nqm_tools._types import Outputs, Targets
from nqm_tools._validation import check_targets

__all__ = [
    "LOSSES",
    "Loss",
    "find",
]


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of predictions (n, k) and targets (n, k).

    Parameters
    ----------
    name : str
    value : callable
        ``(prediction, y) -> (n,)``, the loss of each example. An example's loss depends on its own outputs alone.
    gradient, curvature : callable, optional
        ``(prediction, y)`` to the derivatives of each example's loss in its outputs, (n, k) and (n, k, k); by
        default by autodiff of ``value``.
    mean : bool
        Whether the loss of a set of examples is the mean over them; else it is the sum.
    constant_curvature : float, optional
        For a loss whose curvature is this number times the identity, everywhere.
    targets : callable, optional
        ``(y, k) -> (y, note)``: NumPy targets as users give them, (n, 1) or (n, k), as what the three functions take,
        (n, k), and what is to be said of them in a run's provenance (or None). It raises ValueError for others.

    Examples
    --------
    >>> def huber(prediction, y):
    ...     far = jnp.abs(prediction - y)[:, 0]
    ...     return jnp.where(far < 1, far**2 / 2, far - 1 / 2)
    >>> loss = Loss("huber", huber, gradient=lambda prediction, y: jnp.clip(prediction - y, -1, 1))
    >>> prediction, y = jnp.array([[3.0], [0.5]]), jnp.zeros((2, 1))
    >>> loss.total(prediction, y).item(), loss.output_gradient(prediction, y).tolist()
    (1.3125, [[0.5], [0.25]])
    """

    name: str
    value: Callable[[Outputs, Outputs], Float[Array, " n"]]
    gradient: Callable[[Outputs, Outputs], Outputs] | None = None
    curvature: Callable[[Outputs, Outputs], Float[Array, "n k k"]] | None = None
    mean: bool = True
    constant_curvature: float | None = None
    targets: Callable[[Real[np.ndarray, "n columns"], int], tuple[Real[np.ndarray, "n k"], str | None]] | None = None

    def __post_init__(self) -> None:
        if self.gradient is None:
            object.__setattr__(self, "gradient", functools.partial(_gradient, self.value))
        if self.curvature is None:
            object.__setattr__(self, "curvature", functools.partial(_curvature, self.value))

    def weight(self, n: int) -> float:
        """What the sum over ``n`` examples is multiplied with."""
        return 1 / n if self.mean else 1.0

    def output_gradient(self, prediction: Outputs, y: Outputs) -> Outputs:
        """The gradient of the loss of these examples together, in their outputs: (n, k)."""
        return self.weight(len(y)) * self.gradient(prediction, y)

    def total(self, prediction: Outputs, y: Outputs) -> Float[Array, ""]:
        """The loss of all examples."""
        return jnp.sum(self.value(prediction, y)) * self.weight(len(prediction))


# What names a loss, as an argument: see `find`.
LossLike = str | Callable[[Outputs, Outputs], Float[Array, " n"]] | Loss


def _gradient(value, prediction, y):
    return jax.grad(lambda p: jnp.sum(value(p, y)))(prediction)


def _curvature(value, prediction, y):
    def of_one(p, target):
        return value(p[None], target[None])[0]

    return jax.vmap(jax.hessian(of_one))(prediction, y)


def _squared(name, factor, mean):
    """``factor`` times the squared residual, summed over outputs."""

    def curvature(prediction, y):
        n, k = prediction.shape
        return jnp.broadcast_to(2 * factor * jnp.eye(k, dtype=prediction.dtype), (n, k, k))

    return Loss(
        name,
        value=lambda prediction, y: factor * jnp.sum((prediction - y) ** 2, axis=1),
        gradient=lambda prediction, y: 2 * factor * (prediction - y),
        curvature=curvature,
        mean=mean,
        constant_curvature=2.0 * factor,
    )


def _cross_entropy_value(prediction, y):
    return jnp.sum(y, axis=1) * jax.nn.logsumexp(prediction, axis=1) - jnp.sum(y * prediction, axis=1)


def _cross_entropy_gradient(prediction, y):
    return jnp.sum(y, axis=1, keepdims=True) * jax.nn.softmax(prediction, axis=1) - y


def _cross_entropy_curvature(prediction, y):
    p = jax.nn.softmax(prediction, axis=1)
    return jnp.sum(y, axis=1)[:, None, None] * (jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :])


def _classes(y, k):
    """Numbers of classes (n, 1) as rows of 0 and 1; distributions over the classes (n, k) as they are."""
    if k < 2:
        raise ValueError("loss 'cross_entropy' needs a model of at least two outputs; for one output take 'logistic'")
    if y.shape[1] == 1:
        if not np.isin(y, np.arange(k)).all():
            raise ValueError(f"targets of 'cross_entropy' must be whole numbers from 0 to {k - 1}; got {_others(y, k)}")
        return np.eye(k, dtype=y.dtype)[y[:, 0].astype(int)], f"numbers of classes, 0 to {k - 1}"
    if (y < 0).any() or not np.allclose(y.sum(axis=1), 1, atol=1e-5):
        raise ValueError(
            "rows of targets of 'cross_entropy' must be classes as 0 and 1, or probabilities that add to 1"
        )
    return y, None


def _others(y, k):
    return ", ".join(f"{value:g}" for value in np.unique(y[~np.isin(y, np.arange(k))])[:3])


def _logistic_value(prediction, y):
    return jax.nn.softplus(-y * prediction)[:, 0]


def _logistic_gradient(prediction, y):
    return -y * jax.nn.sigmoid(-y * prediction)


def _logistic_curvature(prediction, y):
    p = jax.nn.sigmoid(prediction)
    return (p * (1 - p))[:, :, None]


def _signs(y, k):
    """Labels ±1, or 0 and 1, as ±1."""
    if k != 1:
        raise ValueError(f"loss 'logistic' needs a model of one output; this one has {k}: take 'cross_entropy'")
    values = set(np.unique(y).tolist())
    if values <= {-1.0, 1.0}:
        return y, None
    if values <= {0.0, 1.0}:
        return 2 * y - 1, "0 and 1, taken as -1 and +1"
    raise ValueError(f"targets of 'logistic' must be -1 and +1, or 0 and 1; got {sorted(values)[:5]}")


LOSSES = {
    loss.name: loss
    for loss in (
        _squared("half_sum", 0.5, mean=False),
        _squared("mse", 1.0, mean=True),
        Loss(
            "cross_entropy", _cross_entropy_value, _cross_entropy_gradient, _cross_entropy_curvature, targets=_classes
        ),
        Loss("logistic", _logistic_value, _logistic_gradient, _logistic_curvature, targets=_signs),
    )
}


def find(loss: LossLike) -> Loss:
    """The :class:`Loss` that a name, a function or a Loss stands for.

    Raises
    ------
    TypeError, ValueError
        For anything else, naming what there is.

    Examples
    --------
    >>> find("half_sum").total(jnp.array([[3.0], [1.0]]), jnp.zeros((2, 1))).item()
    5.0
    >>> find(lambda prediction, y: jnp.abs(prediction - y)[:, 0]).mean
    True
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    if callable(loss):
        return Loss(getattr(loss, "__name__", type(loss).__name__), loss)
    error = ValueError if isinstance(loss, str) else TypeError
    raise error(
        f"loss must be one of {', '.join(map(repr, LOSSES))}, or a function (prediction, y) -> (n,); got {loss!r}"
    )


def check_loss(loss: Loss, n: int, k: int, dtype: DTypeLike) -> None:
    """Refuse a loss whose value is not one number for each of ``n`` examples with ``k`` outputs."""
    shape = jax.ShapeDtypeStruct((n, k), dtype)
    try:
        value = jax.eval_shape(lambda prediction, y: loss.value(prediction, y), shape, shape)
    except Exception as error:
        raise ValueError(f"loss {loss.name!r} failed for predictions and targets of shape {(n, k)}: {error}") from error
    if getattr(value, "shape", None) != (n,):
        found = getattr(value, "shape", type(value).__name__)
        raise ValueError(f"loss {loss.name!r} must give one number an example, shape ({n},); got {found}")


def targets_for(loss: Loss, name: str, y: Targets, n: int, k: int) -> tuple[Real[ArrayLike, "n outputs"], str | None]:
    """Targets as a loss takes them, (n, k), and what a provenance is to say of them (or None).

    ``name`` is what the user calls them.
    """
    if loss.targets is None or isinstance(y, jax.core.Tracer):
        return check_targets(name, y, n, k), None
    y = np.asarray(check_targets(name, y, n))
    if y.shape[1] not in (1, k):
        raise ValueError(f"{name} must have shape ({n}, {k}) or ({n}, 1); got {y.shape}")
    y = y if np.issubdtype(y.dtype, np.floating) else y.astype(jax.dtypes.canonicalize_dtype(float))
    try:
        return loss.targets(y, k)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
