"""A model bound to its data, and how to train it: what the compiled loop takes."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Real

from nqm_tools import closed_forms
from nqm_tools._coupling import is_coupled
from nqm_tools._program import Fresh, plain_switches
from nqm_tools._random import random_key
from nqm_tools._types import Function, Outputs
from nqm_tools._validation import (
    check_choice,
    check_not_traced,
    check_params,
    check_rate,
    check_same_structure,
    check_whole,
)
from nqm_tools.curvature import gauss_newton_sharpness
from nqm_tools.datasets import Data
from nqm_tools.expansions import Model, as_model, check_model, match_precision, pytree_model, static
from nqm_tools.kernels import critical_learning_rate
from nqm_tools.losses import Loss, LossLike, check_loss, find, targets_for
from nqm_tools.training import _sharpness
from nqm_tools.training._loop import BATCHES, chunk_of_steps
from nqm_tools.training._recording import (
    DEFAULT_RECORD,
    Record,
    Recording,
    Snapshot,
    current_kernel,
    kind_of_labels,
)
from nqm_tools.training._rules import MakeOptimizer, Schedule, make_rule
from nqm_tools.training._runs import Run

MOST_STEPS = 2**31 - 2  # the compiled loop counts with 32 bits
# On a CPU, states of up to this many numbers are faster side by side; beyond, matrix products fill it by themselves.
# `make bench` writes the measurement.
SMALL_STATE = 2048
# A schedule is looked at on so many of its steps before a run.
SCHEDULE_STEPS = 10_000


class Method:
    """How to train, checked; the arguments of :func:`nqm_tools.train`, and ``warmup`` of a sweep.

    With ``warmup`` steps the rate of step t is ``(t + 1)/warmup`` times the run's own one, and then that one.

    Examples
    --------
    >>> Method(steps=10, momentum=0.9, loss="half_sum").settings
    {'steps': 10, 'batch_size': None, 'momentum': 0.9, 'loss': 'half_sum', 'record_every': 1}
    """

    def __init__(
        self,
        steps: int,
        batch_size: int | None = None,
        momentum: float = 0.0,
        loss: LossLike = "mse",
        record: Record = DEFAULT_RECORD,
        record_every: int = 1,
        *,
        batches: str = "epochs",
        nesterov: bool = False,
        optimizer: MakeOptimizer | None = None,
        warmup: int = 0,
        schedule: Schedule | None = None,
        first: int = 0,
    ) -> None:
        self.steps = check_whole("steps", steps, maximum=MOST_STEPS - first)
        self.first = first
        self.batch_size = None if batch_size is None else check_whole("batch_size", batch_size)
        self.batches = check_choice("batches", batches, tuple(BATCHES))
        self.momentum = momentum
        self.rule = make_rule(momentum, nesterov, optimizer)
        self.loss = find(loss)
        self.recording = Recording(record)
        if {"kernel_norm", "kernel_norm_exact"} & set(self.recording.names) and (nesterov or optimizer is not None):
            raise ValueError(
                "record: kernel_norm is of gradient descent and heavy ball, not of Nesterov or an optimizer"
            )
        of_batches = {"batch_critical_ratio", "batch_loss_ratio"} & set(self.recording.names)
        if of_batches and (momentum or optimizer is not None):
            raise ValueError(
                "record: batch_critical_ratio and batch_loss_ratio are of gradient descent without momentum, on "
                "batches or on all examples"
            )
        self.record_every = check_whole("record_every", record_every, maximum=MOST_STEPS)
        self.warmup = check_whole("warmup", warmup, minimum=0, maximum=MOST_STEPS)
        if self.warmup and optimizer is not None:
            raise ValueError("warmup is of gradient descent and heavy ball: give the optimizer a schedule of its own")
        self.schedule = schedule

    @functools.cached_property
    def program(self) -> Fresh:
        """The compiled loop, as the functions in it are when it is first used."""
        return Fresh(functools.partial(chunk_of_steps, self))

    @property
    def settings(self) -> dict[str, object]:
        """What a run says of it, as plain values; what is newer than the first version where it is not the default."""
        rule = self.rule
        plain = {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "momentum": float(self.momentum),
            "loss": self.loss.name,
            "record_every": self.record_every,
        }
        extra = {
            "nesterov": getattr(rule, "nesterov", False),
            "batches": self.batches if self.batch_size is not None and self.batches != "epochs" else None,
            "optimizer": None if rule.linear else name_of(rule.make),
            "warmup": self.warmup,
            "schedule": None if self.schedule is None else name_of(self.schedule),
            "first_step": self.first,
        }
        return plain | {name: value for name, value in extra.items() if value}


# What a sweep's [training] may hold.
METHOD_SETTINGS = tuple(name for name in inspect.signature(Method).parameters if name not in ("schedule", "first"))


def name_of(function):
    """A function in words: its name, or that of what it is a partial application of."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__name__)


@pytree_model
class Problem:
    """A model bound to its data, ready for the loop, whatever the learning rate.

    Attributes
    ----------
    model, bound : Model
        What is asked to be trained, and what is trained in its place.
    x, y, x_test
        Inputs, and targets (n, k) as the loss takes them.
    features
        Of the training inputs, as ``bound`` has them; ``test`` is a pair of features and targets, or None.
    state0, memory0
        Where the loop starts; ``memory0`` is None for a start from rest.
    loss : Loss
    labels
        What the targets are, for the accuracy; None if they are no labels.
    columns
        The names of the recorded columns.
    agop
        Of the function behind the data, or its root, as the data have it; None where they have none.
    notes
        What is to be said of the data besides their own provenance.
    coupled : bool
        Whether the model makes examples depend on each other (:func:`nqm_tools._coupling.is_coupled`), where its kernel
        is asked for.
    sharpest
        Where the iteration for the sharpness starts, the same at every learning rate; None where nobody asks for it, or
        each run finds it.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> one = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1)))
    >>> method = Method(steps=10, record=("distance",))
    >>> problem = prepare(lambda w, x: w * x, one, method, params=jnp.zeros(1))
    >>> problem.y.shape, problem.columns, problem.bound.form
    ((1, 1), ('distance',), 'parameters')
    """

    model: Model
    bound: Model
    x: Real[Array, "n ..."]
    y: Outputs
    x_test: Real[Array, "n_test ..."] | None
    features: PyTree
    test: tuple[PyTree, Float[Array, "n_test k"]] | None
    state0: PyTree
    memory0: PyTree | None
    loss: Loss = static()
    labels: str | None = static()
    columns: tuple[str, ...] = static()
    notes: tuple[tuple[str, str], ...] = static()
    coupled: bool = static(False)
    sharpest: Float[Array, "2 p"] | None = None
    agop: Float[Array, "r d"] | None = None


@plain_switches()
def prepare(
    model: Function,
    data: Data,
    method: Method,
    *,
    params: PyTree | None = None,
    seed: int = 0,
    start: Run | None = None,
) -> Problem:
    """Bind ``model`` to ``data`` and compute its features; arguments and errors as in :func:`nqm_tools.train`.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> one = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1)))
    >>> problem = prepare(lambda w, x: w * x, one, Method(steps=10), params=jnp.zeros(1))
    >>> problem.state0.tolist(), problem.bound.predict(problem.state0, problem.features).tolist()
    ([0.0], [[0.0]])
    """
    if not isinstance(data, Data):
        raise TypeError(f"data must be an nqm_tools.Data; got {type(data).__name__}")
    check_not_traced("training", model if isinstance(model, Model) else None, params)
    n, loss, rule = len(data.x_train), method.loss, method.rule
    if method.batch_size is not None and method.batch_size > n:
        raise ValueError(f"batch_size must be at most the number of training examples, {n}; got {method.batch_size}")
    model, params = starting_point(model, params, data, seed)
    model, x_train, k = check_model(model, params, data.x_train, "data.x_train")
    dtype = jnp.result_type(*jax.tree.leaves(params))
    check_loss(loss, n, k, dtype)
    y_train, note = targets_for(loss, "data.y_train", data.y_train, n, k)
    velocity = _velocity(rule, params, start)
    bound = closed_forms.bind(model, x_train, params, rule)
    if rule.linear and velocity is not None:
        bound, velocity = _with_velocity(model, bound, velocity)
    x_test = test = None
    labels = y_train
    if len(data.x_test):
        _, x_test, _ = check_model(model, params, data.x_test, "data.x_test")
        y_test, _ = targets_for(loss, "data.y_test", data.y_test, len(x_test), k)
        labels = np.concatenate([np.asarray(y_train), np.asarray(y_test)])
        test = (bound.featurize(x_test), match_precision(y_test, params))
    features = bound.featurize(x_train)
    values = {
        "model": model,
        "bound": bound,
        "x": x_train,
        "y": match_precision(y_train, params),
        "x_test": x_test,
        "features": features if method.batch_size is not None else bound.keep(features),
        "test": test,
        "state0": bound.encode(params),
        "memory0": velocity,
        "loss": loss,
        "labels": kind_of_labels(np.asarray(labels)),
        "notes": (("targets", note),) if note else (),
        "agop": None if data.agop is None else match_precision(data.agop, params),
    }
    # Traced as coupled, which every model can be.
    columns, needs_kernel = method.recording.columns(
        Problem(**values, columns=(), coupled=True), jnp.zeros((), dtype), method.batch_size
    )
    if "agop_alignment" in columns and is_coupled(model, params, x_test):
        raise ValueError(
            "record: agop_alignment is of models that treat their examples independently; this one does not"
        )
    problem = Problem(**values, columns=columns)
    # Of a small state each run finds it anew: that takes less time than to compile a program for it.
    if "sharpness" in method.recording.names and state_size(problem) > SMALL_STATE:
        problem = _with_its_sharpest(problem)
    return _for_its_kernel(problem) if needs_kernel else problem


def state_size(problem: Problem) -> int:
    """How many numbers are trained.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> one = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1)))
    >>> state_size(prepare(lambda w, x: w[0] * w[1] * x, one, Method(steps=10), params=jnp.zeros(2)))
    2
    """
    return sum(leaf.size for leaf in jax.tree.leaves(problem.state0))


def _for_its_kernel(problem):
    """The problem with what its kernel needs to know of its model."""
    if problem.coupled or problem.bound.kernel is not None:
        return problem
    start = problem.bound.decode(problem.state0)
    return dataclasses.replace(problem, coupled=is_coupled(problem.model, start, problem.x))


def _with_its_sharpest(problem):
    begin = _sharpness.start(Snapshot(problem, problem.state0, jnp.zeros((), problem.y.dtype), 0))
    return dataclasses.replace(problem, sharpest=_sharpness_from(problem, begin)[0][0])


def _sharpness_from(problem, carry):
    """Where the iteration for the sharpness at the start ends, and what is recorded there: one program for both."""
    bare = dataclasses.replace(problem, sharpest=None)
    return Fresh(_iterated)(bare, jnp.zeros((), problem.y.dtype), carry)


def _iterated(problem, rate, carry):
    return _sharpness.update(carry, Snapshot(problem, problem.state0, rate, 0))


def initial_sharpness(problem: Problem) -> tuple[float, float]:
    """The sharpness where a prepared problem starts, as it is recorded there, and the norm of its residual.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> one, method = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1))), Method(steps=10, loss="half_sum")
    >>> problem = prepare(lambda w, x: 2 * w * x, one, method, params=jnp.zeros(1))
    >>> initial_sharpness(problem)
    (4.0, 0.0)
    """
    begin = _sharpness.start(Snapshot(problem, problem.state0, jnp.zeros((), problem.y.dtype), 0))
    _, found = _sharpness_from(problem, begin)
    return float(found["sharpness"]), float(found["sharpness_error"])


def _velocity(rule, params, start):
    """What a run that goes on has in its rule's memory, in the parameters' coordinates; None from rest."""
    if start is None or not start.memory:
        return None
    leaves, tree = jax.tree.flatten(rule.init(params, jnp.zeros(())))
    if [jnp.shape(leaf) for leaf in leaves] != [jnp.shape(leaf) for leaf in start.memory]:
        raise ValueError(
            "start was trained by another rule: give the momentum, nesterov and optimizer that it was trained with"
        )
    memory = [jnp.asarray(new, leaf.dtype) for new, leaf in zip(start.memory, leaves, strict=True)]
    return jax.tree.unflatten(tree, memory)


def _with_velocity(model, bound, velocity):
    """The bound model and the velocity in its coordinates; the model as it is where the velocity has none there."""
    if bound.encode_direction is not None:
        encoded = bound.encode_direction(velocity)
        back, given = (jax.tree.leaves(tree) for tree in (bound.decode_direction(encoded), velocity))
        size = max(float(jnp.abs(leaf).max()) for leaf in given)
        rounding = 1e3 * float(jnp.finfo(given[0].dtype).eps) * size
        if all(float(jnp.abs(a - b).max()) <= rounding for a, b in zip(back, given, strict=True)):
            return bound, encoded
    return model, velocity


def initial_kernel(problem: Problem) -> Float[Array, "n n k k"]:
    """The tangent kernel (n, n, k, k) on the training inputs where a prepared :class:`Problem` starts.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> one = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1)))
    >>> problem = prepare(lambda w, x: 3 * w * x, one, Method(steps=10), params=jnp.zeros(1))
    >>> initial_kernel(problem).shape, float(initial_kernel(problem).squeeze())
    ((1, 1, 1, 1), 9.0)
    """
    return Fresh(current_kernel)(_for_its_kernel(problem), problem.state0)


def critical_rate(problem: Problem) -> float:
    """The critical learning rate of a prepared problem at its start, without momentum, for its loss.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> one = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1)))
    >>> problem = prepare(lambda w, x: 2 * w * x, one, Method(steps=10, loss="half_sum"), params=jnp.zeros(1))
    >>> critical_rate(problem)  # 2 / lambda_1
    0.5
    """
    loss = problem.loss
    if loss.constant_curvature is not None:
        return critical_learning_rate(initial_kernel(problem), loss=loss)
    start = problem.bound.decode(problem.state0)
    sharpest = gauss_newton_sharpness(problem.model, start, problem.x, problem.y, loss)
    if not sharpest > 0:
        raise ValueError(
            f"loss {loss.name!r} has no curvature at the start, hence no critical learning rate: give rates as they "
            'are (a sweep: unit = "absolute")'
        )
    return 2 / sharpest


def starting_point(model, params, data, seed):
    """``model`` as a :class:`Model`, and where its run starts."""
    bare, model = model, as_model(model)
    params0 = getattr(model, "params0", None)
    init = getattr(model, "init", None) or getattr(bare, "init", None)
    if params is not None:
        params = check_params(params)
        if params0 is not None:
            check_same_structure(params, params0)
    elif params0 is not None:
        params = params0
    elif isinstance(init, Callable) and hasattr(bare, "init"):
        params = init(random_key(seed), data.x_train.shape)
    else:
        raise ValueError("params must be given for a model that is neither a Network nor a Taylor model; got None")
    return model, params


def check_rates(learning_rate, steps, first=0):
    """The learning rates, whether there are several, and the schedules: ``(rates, several, schedules)``.

    Of a schedule the rate is its largest one.
    """
    several = isinstance(learning_rate, list | tuple) or (
        isinstance(learning_rate, np.ndarray) and learning_rate.ndim == 1
    )
    given = list(learning_rate) if several else [learning_rate]
    if not given:
        raise ValueError("learning_rate must not be an empty list")
    rates, schedules = [], []
    for rate in given:
        schedule = rate if callable(rate) else None
        rates.append(check_rate("learning_rate", rate) if schedule is None else _largest(schedule, steps, first))
        schedules.append(schedule)
    return rates, several, schedules


def _largest(schedule, steps, first):
    looked_at = jnp.arange(first, first + min(steps, SCHEDULE_STEPS))
    try:
        values = np.asarray(Fresh(jax.vmap(schedule))(looked_at), dtype=float)
    except Exception as error:
        raise ValueError(
            "learning_rate as a function of the step must be JAX-traceable (jnp.where for if); it failed: "
            f"{type(error).__name__}: {error}"
        ) from error
    if values.shape != looked_at.shape or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("learning_rate as a function of the step must give a finite number that is not negative")
    if values.max() == 0:
        raise ValueError("learning_rate as a function of the step is zero at every step")
    return float(values.max())
