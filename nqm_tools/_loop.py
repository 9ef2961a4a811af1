"""The compiled loop of gradient descent: one run, or a batch of runs that differ in learning rate (and random key).

Everything big is an argument of the compiled chunk of steps: arrays that a jitted function closes over would be folded
into it as constants, which takes XLA minutes on wide networks. How many steps, how often to record and the learning
rates are arguments too, so that a second batch with the same shapes compiles nothing.
"""

import functools
import math
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm.auto import tqdm

from nqm_tools._lapack import one_thread
from nqm_tools._recording import needs_eigenvalues, record_values, squared_loss
from nqm_tools.kernels import gradient_scale

# Losses of a chunk are kept on the device in a buffer of this many steps.
CHUNK = 256
# A chunk is given as many steps as took about this long, so that the progress bar moves and Ctrl-C is heard.
SECONDS_A_CHUNK = 0.5
SECONDS_WITHOUT_BAR = 3
# Idle rows of states below this many numbers cost less than the compilation of a smaller batch.
LARGE_STATE = 2**16


class Outcome(NamedTuple):
    """One run: the loss of every step, the recorded rows, the last state, and how it ended."""

    losses: np.ndarray
    rows: dict
    state: Any
    stopped: str


class _Batch(NamedTuple):
    """What the compiled loop carries, a run a row; ``counts`` are the losses taken so far."""

    state: Any
    velocity: Any
    alive: jax.Array
    counts: jax.Array
    rates: jax.Array
    keys: jax.Array


def run_batch(problem, rates, keys, scalars, settings, *, description="", progress=None):
    """Train the runs of a batch side by side.

    Parameters
    ----------
    problem : dict
        What :func:`nqm_tools.training.prepare` makes; shared by all runs.
    rates, keys
        One learning rate and one random key a run.
    scalars : dict
        ``momentum``, ``record_every``, ``steps``.
    settings : dict
        The static arguments of the loop: ``loss``, ``batch_size``, ``with_momentum``, ``record``.

    Returns
    -------
    list of Outcome
        In the order of ``rates``. A run whose loss is no longer finite is frozen there, and dropped from the batch as
        soon as half of the rows are idle.
    """
    if not needs_eigenvalues(settings["record"]):
        return _run(problem, rates, keys, scalars, settings, description, progress)
    with one_thread():
        return _run(problem, rates, keys, scalars, settings, description, progress)


def _run(problem, rates, keys, scalars, settings, description, progress):
    steps, runs = scalars["steps"], len(rates)
    sharding = _sharding(runs)
    batch, problem, slots = _start(problem, rates, keys, settings["with_momentum"], sharding)
    done, chunks, ended = 0, [], {}
    size, interrupted = 1, False
    bar = _Bar(steps, description, progress)

    def advance(stop, scalars):
        after, reached, values = _chunk(problem, batch, done, stop, scalars, **settings)
        # JAX returns before the work is done; this waits.
        chunk = _Chunk(
            slots, done, int(reached), jax.device_get(values), np.asarray(after.counts), np.asarray(after.alive)
        )
        return after, chunk

    try:
        while done <= steps and len(slots):
            began = time.perf_counter()
            after, chunk = advance(min(done + size, steps + 1), scalars)
            kept = _compact(after, chunk, sharding)
            over = chunk.ended(steps)
            states = {run: _row(after.state, row) for row, run in over.items()}
            # Until here Ctrl-C leaves everything as it was before the chunk; what belongs together moves on in one go.
            (batch, slots), done, chunks, ended = kept, chunk.stop, [*chunks, chunk], ended | states
            bar.move_to(min(done, steps))
            seconds = time.perf_counter() - began
            size = min(CHUNK, max(1, int(size * min(4, SECONDS_A_CHUNK / max(seconds, 1e-6)))))
    except KeyboardInterrupt:
        if done <= steps:
            # Evaluate without a further update, so that the last row and the parameters belong together.
            interrupted = True
            after, chunk = advance(done + 1, scalars | {"steps": done})
            chunks = [*chunks, chunk]
            ended |= {run: _row(after.state, row) for row, run in enumerate(slots)}
    finally:
        bar.close("interrupted" if interrupted else "")
    names = ("train_loss", *settings["record"])
    return [_outcome(run, chunks, names, scalars["record_every"], ended[run], interrupted) for run in range(runs)]


@jax.jit
def _row(tree, row):
    """A row of every leaf; compiled once for all of them."""
    return jax.tree.map(lambda leaf: leaf[row], tree)


class _Chunk(NamedTuple):
    """What the host keeps of a chunk of steps; ``slots`` says which run each row of the batch is."""

    slots: np.ndarray
    start: int
    stop: int
    values: dict
    counts: np.ndarray
    alive: np.ndarray

    def ended(self, steps):
        """The runs that ended in this chunk, by the row that they have in the batch."""
        return {row: run for row, run in enumerate(self.slots) if not self.alive[row] or self.stop > steps}


def _outcome(run, chunks, names, every, state, interrupted):
    pieces = [(chunk, row) for chunk in chunks for row in np.flatnonzero(chunk.slots == run)]
    columns = {
        name: np.concatenate(
            [chunk.values[name][: max(0, chunk.counts[row] - chunk.start), row] for chunk, row in pieces]
        )
        for name in names
    }
    columns = {name: values.astype(float) for name, values in columns.items()}
    losses = columns["train_loss"]
    kept = np.arange(len(losses))
    kept = kept[(kept % every == 0) | (kept == kept[-1])]
    last, stopped = len(losses) - 1, "finished"
    if not math.isfinite(losses[-1]):
        stopped = f"diverged at step {last}: the training loss is {losses[-1]}"
    elif interrupted:
        stopped = f"interrupted at step {last}"
    return Outcome(losses, {"step": kept} | {name: values[kept] for name, values in columns.items()}, state, stopped)


def _sharding(runs):
    """Over which devices to spread the runs of a batch; None for a single run or a single device."""
    devices = jax.local_devices()
    return (
        NamedSharding(Mesh(np.array(devices), ("runs",)), PartitionSpec("runs"))
        if min(runs, len(devices)) > 1
        else None
    )


def _start(problem, rates, keys, with_momentum, sharding):
    runs = len(rates)
    state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (runs, *leaf.shape)), problem["state0"])
    batch = _Batch(
        state=state,
        velocity=jax.tree.map(jnp.zeros_like, state) if with_momentum else None,
        alive=jnp.ones(runs, bool),
        counts=jnp.zeros(runs, jnp.int32),
        rates=jnp.asarray(rates, problem["y"].dtype),
        keys=keys,
    )
    slots = np.arange(runs)
    if sharding is None:
        return batch, problem, slots
    problem = jax.device_put(problem, NamedSharding(sharding.mesh, PartitionSpec()))
    return _select(batch, slots, _rounded_up(runs, sharding), sharding), problem, slots


def _rounded_up(rows, sharding):
    devices = 1 if sharding is None else sharding.mesh.size
    return -(-rows // devices) * devices


def _compact(batch, chunk, sharding):
    """Drop finished rows once half of them are idle; sizes are powers of two, so that few are ever compiled.

    (The losses of a row that is no longer alive are not counted, so a row that stays after its end does no harm.)
    """
    living = np.flatnonzero(chunk.alive[: len(chunk.slots)])
    if not len(living):
        return batch, living
    if sum(leaf[0].size for leaf in jax.tree.leaves(batch.state)) < LARGE_STATE:
        return batch, chunk.slots
    rows = _rounded_up(1 << (len(living) - 1).bit_length(), sharding)
    if rows > len(chunk.alive) // 2:
        return batch, chunk.slots
    return _select(batch, living, rows, sharding), chunk.slots[living]


def _select(batch, living, rows, sharding):
    """The rows ``living``, filled up to ``rows`` with copies of the first that are not alive."""
    filled = np.concatenate([living, np.full(rows - len(living), living[0])])
    batch = jax.tree.map(lambda leaf: leaf[filled], batch)
    if sharding is not None:
        batch = jax.device_put(batch, sharding)  # rows are a multiple of devices
    return batch._replace(alive=batch.alive & (np.arange(rows) < len(living)))


class _Bar:
    """A progress bar that is made only when it is to be seen: hidden ones, too, would swell a saved notebook."""

    def __init__(self, steps, description, progress):
        self.options = {"total": steps, "desc": description, "unit": "step", "leave": bool(progress)}
        # By default only where somebody watches, a terminal or a notebook, and then only in long runs.
        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.wanted = watched if progress is None else progress
        self.due = time.perf_counter() + (SECONDS_WITHOUT_BAR if progress is None else 0)
        self.bar = None

    def move_to(self, step):
        if self.bar is None and self.wanted and time.perf_counter() >= self.due:
            self.bar = tqdm(**self.options)
        if self.bar is not None:
            self.bar.update(step - self.bar.n)

    def close(self, note):
        if self.bar is not None:
            self.bar.set_postfix_str(note)
            self.bar.close()


@functools.partial(jax.jit, static_argnames=("loss", "batch_size", "with_momentum", "record"))
def _chunk(problem, batch, start, stop, scalars, *, loss, batch_size, with_momentum, record):
    """Evaluate, record and update at steps ``start .. stop - 1``; stop early when no run's loss is finite.

    The update of step ``scalars["steps"]`` is suppressed, so the state ends where the last loss was taken.
    """
    bound, features, y = problem["bound"], problem["features"], problem["y"]
    n, dtype = len(y), y.dtype
    scale = gradient_scale(loss, n if batch_size is None else batch_size)
    columns = ("train_loss", *record)

    def advance(state, velocity, rate, key, t):
        """The loss of one run, and where a step takes it."""
        if batch_size is None:
            prediction, pullback = bound.value_and_pullback(state, features)
            gradient = pullback(prediction - y)
        else:
            prediction = bound.predict(state, features)
            rows = batch_rows(key, t, n, batch_size)
            value, pullback = bound.value_and_pullback(state, jax.tree.map(lambda leaf: leaf[rows], features))
            gradient = pullback(value - y[rows])
        step = (scale * rate).astype(dtype)
        if with_momentum:
            beta = jnp.asarray(scalars["momentum"], dtype)
            velocity = jax.tree.map(lambda v, g: beta * v - step * g, velocity, gradient)
            state = jax.tree.map(jnp.add, state, velocity)
        else:
            state = jax.tree.map(lambda s, g: s - step * g, state, gradient)
        return squared_loss(prediction - y, loss), state, velocity

    def recorded(state, rate):
        return record_values(problem, loss, record, state, rate)

    def condition(loop):
        t, batch, _ = loop
        return (t < stop) & jnp.any(batch.alive)

    def body(loop):
        t, batch, buffers = loop
        per_run = (batch.state, batch.velocity, batch.rates, batch.keys)
        losses, state, velocity = _each(advance, len(batch.rates))(*per_run, t)
        finite = batch.alive & jnp.isfinite(losses)
        due = (t % scalars["record_every"] == 0) | (t == scalars["steps"]) | jnp.any(batch.alive & ~finite)

        def nothing(state):
            return {name: jnp.full(losses.shape, jnp.nan, dtype) for name in record}

        def everything(state):
            return _each(recorded, len(batch.rates))(state, batch.rates)

        values = {"train_loss": losses} | jax.lax.cond(due, everything, nothing, batch.state)
        buffers = {name: buffers[name].at[t - start].set(values[name]) for name in columns}
        # Where a loss is not finite the state stays as it was, and so does a run that is over.
        move = finite & (t < scalars["steps"])
        batch = batch._replace(
            state=_where(move, state, batch.state),
            velocity=_where(move, velocity, batch.velocity),
            alive=finite,
            counts=batch.counts + batch.alive,
        )
        return t + 1, batch, buffers

    buffers = {name: jnp.zeros((CHUNK, *batch.rates.shape), dtype) for name in columns}
    reached, batch, buffers = jax.lax.while_loop(condition, body, (start, batch, buffers))
    return batch, reached, buffers


def _each(function, runs):
    """``function(*a run's arrays, ...)`` over the rows of a batch.

    A batch of one is computed without a batch axis, which XLA's CPU matrix products handle less well.
    """
    if runs > 1:

        def side_by_side(*rows):
            return jax.vmap(function, in_axes=tuple(0 if _first(row).ndim else None for row in rows))(*rows)

        return side_by_side

    def alone(*rows):
        rows = [jax.tree.map(lambda leaf: leaf[0], row) if _first(row).ndim else row for row in rows]
        return jax.tree.map(lambda leaf: leaf[None], function(*rows))

    return alone


def _first(tree):
    """A leaf, or a scalar where there is none (no velocity)."""
    leaves = jax.tree.leaves(tree)
    return leaves[0] if leaves else np.zeros(())


def _where(condition, tree, others):
    def choose(a, b):
        return jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, tree, others)


def batch_rows(key, t, n, batch_size):
    """The examples of step t: the epochs' shuffles, cut into batches; what does not fill a batch is left out."""
    epoch, position = t // (n // batch_size), t % (n // batch_size)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), n)
    return jax.lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)
