"""Step rules: how a gradient moves what is trained.

``init(state, rate)`` makes the memory (a velocity, an optimiser's state), ``update(gradient, memory, state, rate)``
gives the next state and memory. ``linear`` tells that the steps are linear in all gradients so far, so that closed
forms in other coordinates are exact (:mod:`nqm_tools.closed_forms`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from nqm_tools._validation import check_fraction
from nqm_tools.expansions import pytree_model, static

if TYPE_CHECKING:
    import optax

# A learning rate as a function of the step, and an optimiser as one of the learning rate (or of such a schedule).
Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]
MakeOptimizer = Callable[[float | Schedule], "optax.GradientTransformation"]


@pytree_model
class GradientDescent:
    """``params <- params - rate g``; with momentum ``v <- momentum v - rate g`` and ``params <- params + v``.

    Nesterov's momentum moves by ``momentum v - rate g`` with the new v. At a constant rate both are what ``optax.sgd``
    does; under a schedule they are not, since the rate is inside the velocity here and outside it there.

    Examples
    --------
    >>> rule, state = GradientDescent(0.5, has_velocity=True), jnp.array(4.0)
    >>> velocity = rule.init(state, None)
    >>> for _ in range(2):
    ...     state, velocity = rule.update(2 * state, velocity, state, jnp.array(0.25))  # on the loss w^2
    ...     print(state)
    2.0
    0.0
    """

    momentum: Float[ArrayLike, ""] = 0.0  # a number that the compiled loop takes as an argument
    nesterov: bool = static(False)
    has_velocity: bool = static(False)

    linear = True

    def init(self, state: PyTree, rate: Float[Array, ""] | None) -> PyTree | None:
        return jax.tree.map(jnp.zeros_like, state) if self.has_velocity else None

    def update(
        self, gradient: PyTree, velocity: PyTree | None, state: PyTree, rate: Float[Array, ""]
    ) -> tuple[PyTree, PyTree | None]:
        if not self.has_velocity:
            return jax.tree.map(lambda s, g: s - rate.astype(s.dtype) * g, state, gradient), None
        beta = jnp.asarray(self.momentum)

        def push(v, g):
            return beta.astype(v.dtype) * v - rate.astype(v.dtype) * g

        velocity = jax.tree.map(push, velocity, gradient)
        move = jax.tree.map(push, velocity, gradient) if self.nesterov else velocity
        return jax.tree.map(jnp.add, state, move), velocity


@pytree_model
class Optimizer:
    """An optimiser of the user's: ``make(rate)`` gives its ``optax.GradientTransformation``.

    ``rate`` is a number, or the schedule that the user gave.

    Examples
    --------
    >>> import optax
    >>> rule, state = Optimizer(optax.sgd), jnp.array(4.0)
    >>> memory = rule.init(state, 0.25)
    >>> state, memory = rule.update(2 * state, memory, state, 0.25)
    >>> float(state), rule.linear
    (2.0, False)
    """

    make: MakeOptimizer = static()

    linear = False

    def init(self, state: PyTree, rate: float | Float[Array, ""] | Schedule) -> PyTree:
        return self.make(rate).init(state)

    def update(
        self, gradient: PyTree, memory: PyTree, state: PyTree, rate: float | Float[Array, ""] | Schedule
    ) -> tuple[PyTree, PyTree]:
        updates, memory = self.make(rate).update(gradient, memory, state)
        return jax.tree.map(lambda s, u: s + u.astype(s.dtype), state, updates), memory


Rule = GradientDescent | Optimizer


def make_rule(momentum: float = 0.0, nesterov: bool = False, optimizer: MakeOptimizer | None = None) -> Rule:
    """The rule for checked arguments of :func:`nqm_tools.train`."""
    momentum = check_fraction("momentum", momentum)
    if not isinstance(nesterov, bool):
        raise TypeError(f"nesterov must be True or False; got {nesterov!r}")
    if nesterov and momentum == 0:
        raise ValueError("nesterov=True needs a momentum > 0; got momentum=0")
    if optimizer is None:
        return GradientDescent(momentum, nesterov, momentum > 0)
    if momentum:
        raise ValueError(f"momentum is the optimizer's own matter where there is one; got momentum={momentum}")
    if not callable(optimizer):
        raise TypeError(
            "optimizer must be a function of the learning rate that gives an optax.GradientTransformation, such as "
            f"optax.adam; got {optimizer!r}"
        )
    made = optimizer(0.1)
    if not (callable(getattr(made, "init", None)) and callable(getattr(made, "update", None))):
        hint = "give the function itself, such as optax.adam" if isinstance(made, tuple) else "see optax"
        raise TypeError(f"optimizer(rate) must give an optax.GradientTransformation ({hint}); got {made!r}")
    return Optimizer(optimizer)
