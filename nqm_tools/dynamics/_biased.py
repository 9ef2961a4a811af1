"""One example with a part of the kernel that never changes; what a step does to the norm of the weights."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import ArrayLike, Float

from nqm_tools._types import Numbers


class BiasedExample(NamedTuple):
    """A model ``f = linear + quadratic`` of one example, and the tangent kernel of its quadratic part.

    Attributes
    ----------
    linear
        What the weights give that the quadratic part does not contain.
    quadratic
        The rest, with the shift of :func:`nqm_tools.quadratic.biased_map` added.
    kernel
        Of the quadratic part; the whole tangent kernel is this plus the constant kappa.

    >>> BiasedExample(linear=0.1, quadratic=0.3, kernel=1.5).kernel
    1.5
    """

    linear: Numbers
    quadratic: Numbers
    kernel: Numbers


def biased_step(
    state: BiasedExample, learning_rate: Numbers, c: Numbers, kappa: Numbers, y: Numbers = 0
) -> BiasedExample:
    """One gradient step of a quadratic model whose features have a part outside of the range of its matrix.

    Parameters
    ----------
    state : BiasedExample
    learning_rate : float or array
        For ``half_sum``.
    c, kappa : float or array
        Of :func:`nqm_tools.quadratic.biased_map`. With ``kappa = 0`` and ``linear = 0`` this is
        :func:`one_example_step`.
    y : float or array
        The target, with the shift added.

    Returns
    -------
    BiasedExample

    Notes
    -----
    With ``r = a + q - y``: ``a' = a - eta kappa r``, ``q' = q - eta lambda_q r + c eta^2 r^2 q``, and lambda_q moves as
    the kernel of :func:`one_example_step` does. Exact. A run can rest only where ``eta (kappa + lambda_q) <= 2``, so
    never at a rate above ``2/kappa``. The models are those "with bias" of Meltzer, Chen and Liu (2023).

    >>> biased_step(BiasedExample(0.5, 0.5, 2.0), 0.5, c=0.1, kappa=1.0)
    BiasedExample(linear=0.0, quadratic=-0.4875, kernel=1.9...)
    """
    linear, quadratic, kernel = state
    move = learning_rate * (linear + quadratic - y)
    return BiasedExample(
        linear - kappa * move,
        quadratic - kernel * move + c * move * move * quadratic,
        kernel - c * move * (4 * quadratic - kernel * move),
    )


def norm_change(
    residual: Float[ArrayLike, " n"],
    prediction: Float[ArrayLike, " n"],
    kernel: Float[ArrayLike, "n n"],
    learning_rate: Numbers,
    degree: float = 2,
) -> Numbers:
    """What one gradient step adds to ``|w|^2`` of a model that is homogeneous in its weights.

    Parameters
    ----------
    residual, prediction : array
        (n,), before the step.
    kernel : array
        (n, n), the tangent kernel. Of some of the weights for the change of these: of one layer, with ``degree=1``.
    learning_rate : float or array
        For ``half_sum``.
    degree : float
        k with ``f(a w) = a^k f(w)``: the number of layers of a ReLU or linear network, 2 for a quadratic model with
        ``phi = 0``.

    Returns
    -------
    float or array

    Notes
    -----
    ``-2 k eta r.f + eta^2 r^T K r``, exact, by Euler's theorem ``w.grad f = k f``. For targets 0 the norm falls if and
    only if ``eta r^T K r/|r|^2 < 2 k``. Not for the expansions ``f_lin`` and ``f_quad`` of other networks, which
    are not homogeneous.

    >>> import numpy as np
    >>> float(norm_change(np.ones(2), np.ones(2), np.eye(2), 0.5))
    -3.5
    """
    quadratic_form = (residual @ kernel) @ residual
    return learning_rate * learning_rate * quadratic_form - 2 * degree * learning_rate * (residual @ prediction)
