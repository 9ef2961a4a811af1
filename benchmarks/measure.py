"""Clocks: every measurement is kept, never only its average."""

import functools
import resource
import sys
import time

import jax
import jax.numpy as jnp

# Repeats end at this many, or once they took this many seconds and there are three, or two of very slow ones.
REPEATS, SECONDS, SLOW = 20, 3.0, 30.0


def timed(function, *arguments):
    """What a function gives, once it is there, and the seconds that it took."""
    began = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - began


def repeated(function, *arguments, spent=()):
    """Seconds of each repeat, as a cell of a table; ``spent`` are repeats that were taken already."""
    spent = list(spent)
    while len(spent) < (3 if sum(spent) < SLOW else 2) or (len(spent) < REPEATS and sum(spent) < SECONDS):
        spent.append(timed(function, *arguments)[1])
    return {"seconds": spent}


def follow(step, state):
    """Two steps and more of ``step(state) -> (state, prediction)``.

    Returns the seconds of the first call, those of the others, and the prediction after two steps.
    """
    (state, _), first = timed(step, state)
    (state, _), second = timed(step, state)
    (_, prediction), third = timed(step, state)
    return {"seconds": [first]}, repeated(step, state, spent=[second, third]), prediction


def peak_memory():
    """The largest resident memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def out_of_memory(error):
    """Whether an error of JAX or PyTorch says that there was not enough memory."""
    return isinstance(error, MemoryError) or any(
        word in str(error) for word in ("RESOURCE_EXHAUSTED", "not enough memory")
    )


def difference(prediction, reference):
    """The largest difference, relative to the largest value."""
    return float(jnp.abs(prediction - reference).max() / jnp.abs(reference).max())


@functools.partial(jax.jit, static_argnames="model")
def _residual_and_gradient(model, params, x, y):
    value, vjp = jax.vjp(lambda p: model(p, x), params)
    return value - y, vjp(value - y)[0]


def fair_rate(f, params, x, y):
    """A rate for ``half_sum`` at which a first step is neither tiny nor wild: |r|^2 / |gradient|^2."""
    residual, gradient = _residual_and_gradient(f, params, x, y)
    return float(jnp.sum(residual**2) / sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
