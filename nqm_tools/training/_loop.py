"""The compiled loop of gradient descent: one run, or a batch of runs that differ in learning rate (and random key).

Everything big is an argument of the compiled chunk of steps: arrays that a jitted function closes over would be folded
into it as constants, which takes XLA minutes on wide networks. How many steps, how often to record and the learning
rates are arguments too, so that a second batch with the same shapes compiles nothing.
"""

import contextlib
import functools
import math
import sys
import time
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm.auto import tqdm

from nqm_tools._lapack import one_thread
from nqm_tools._program import Fresh
from nqm_tools._validation import check_not_traced
from nqm_tools.training._recording import Snapshot

# Losses of a chunk are kept on the device in a buffer of this many steps.
CHUNK = 256
# A chunk is given as many steps as took about this long, so that the progress bar moves and Ctrl-C is heard.
SECONDS_A_CHUNK = 0.5
SECONDS_WITHOUT_BAR = 3
# Idle rows of states below this many numbers cost less than the compilation of a smaller batch.
LARGE_STATE = 2**16


# Operations that LAPACK does on a CPU.
LAPACK = {"cholesky", "eig", "eigh", "geqrf", "householder_product", "lu", "schur", "svd", "tridiagonal"}


class Outcome(NamedTuple):
    """One run: the loss of every step, the recorded rows, the last state, the rule's memory, and how it ended."""

    losses: np.ndarray
    rows: dict
    state: Any
    memory: Any
    stopped: str


class _Batch(NamedTuple):
    """What the compiled loop carries, a run a row; ``counts`` are the losses taken so far."""

    state: Any
    memory: Any
    carries: Any
    alive: jax.Array
    counts: jax.Array
    rates: jax.Array
    keys: jax.Array


def run_batch(problem, rates, keys, method, *, description="", progress=None):
    """Train the runs of a batch side by side.

    Parameters
    ----------
    problem : Problem
        What :func:`nqm_tools.training.prepare` makes; shared by all runs.
    rates, keys
        One learning rate and one random key a run.
    method : Method

    Returns
    -------
    list of Outcome
        In the order of ``rates``. A run whose loss is no longer finite is frozen there, and dropped from the batch as
        soon as half of the rows are idle.
    """
    steps, runs, first = method.steps, len(rates), method.first
    last = first + steps
    scalars = {"first": first, "last": last, "record_every": method.record_every}
    sharding = _sharding(runs)
    batch, problem, slots = _start(problem, rates, keys, method, sharding)
    done, chunks, ended = first, [], {}
    size, interrupted = 1, False
    bar = Bar(steps, description, progress)
    missing = _Missing(problem, method)

    def advance(stop, scalars):
        after, reached, values = _steps(method.program, problem, method.rule, batch, done, stop, scalars)
        check_not_traced("training", reached)  # where f reads from around it what is traced
        # JAX returns before the work is done; this waits.
        chunk = _Chunk(
            slots, done, int(reached), jax.device_get(values), np.asarray(after.counts), np.asarray(after.alive)
        )
        missing.warn_of(chunk, scalars)
        return after, chunk

    needs_lapack = LAPACK & method.program.primitives(problem, method.rule, batch, done, done + 1, scalars)
    with one_thread() if needs_lapack else contextlib.nullcontext():
        try:
            while done <= last and len(slots):
                began = time.perf_counter()
                after, chunk = advance(min(done + size, last + 1), scalars)
                kept = _compact(after, chunk, sharding)
                over = chunk.ended(last)
                states = {run: _row((after.state, after.memory), row) for row, run in over.items()}
                # Until here Ctrl-C leaves everything as it was before the chunk; what belongs together moves on in one
                # go.
                (batch, slots), done, chunks, ended = kept, chunk.stop, [*chunks, chunk], ended | states
                bar.move_to(min(done, last) - first)
                seconds = time.perf_counter() - began
                size = min(CHUNK, max(1, int(size * min(4, SECONDS_A_CHUNK / max(seconds, 1e-6)))))
        except KeyboardInterrupt:
            if done <= last:
                # Evaluate without a further update, so that the last row and the parameters belong together.
                interrupted = True
                after, chunk = advance(done + 1, scalars | {"last": done})
                chunks = [*chunks, chunk]
                ended |= {run: _row((after.state, after.memory), row) for row, run in enumerate(slots)}
        finally:
            bar.close("interrupted" if interrupted else "")
    names = ("train_loss", *problem.columns)
    return [_outcome(run, chunks, names, scalars, ended[run], interrupted) for run in range(runs)]


def _steps(program, *args):
    """A chunk of steps, computed."""
    return program(*args)


@jax.jit
def _row(tree, row):
    """A row of every leaf; compiled once for all of them."""
    return jax.tree.map(lambda leaf: leaf[row], tree)


@functools.partial(jax.jit, static_argnums=1)
def _repeated(tree, runs):
    """Every leaf, a copy a row; compiled once for all of them."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (runs, *leaf.shape)), tree)


class _Chunk(NamedTuple):
    """What the host keeps of a chunk of steps; ``slots`` says which run each row of the batch is."""

    slots: np.ndarray
    start: int
    stop: int
    values: dict
    counts: np.ndarray
    alive: np.ndarray

    def ended(self, last):
        """The runs that ended in this chunk, by the row that they have in the batch."""
        return {row: run for row, run in enumerate(self.slots) if not self.alive[row] or self.stop > last}


class _Missing:
    """Warns, once a batch, of a column that holds NaN while the training loss is finite."""

    def __init__(self, problem, method):
        self.columns, self.warned, self.first = problem.columns, False, method.first
        if problem.test is None or problem.labels is None:
            self.columns = [name for name in self.columns if name != "test_accuracy"]
        if problem.test is None:
            self.columns = [name for name in self.columns if name != "test_loss"]

    def warn_of(self, chunk, scalars):
        if self.warned:
            return
        steps = np.arange(chunk.start, chunk.stop)
        due = (steps % scalars["record_every"] == 0) | (steps == self.first) | (steps == scalars["last"])
        rows = slice(0, len(chunk.slots))
        finite = np.isfinite(chunk.values["train_loss"][: len(steps), rows]) & due[:, None]
        # A row that is idle, or a run that is over, has values no more.
        finite &= steps[:, None] < self.first + chunk.counts[rows]
        for name in self.columns:
            found = np.argwhere(finite & np.isnan(chunk.values[name][: len(steps), rows]))
            if len(found):
                self.warned = True
                warnings.warn(
                    f"the recorded {name} is NaN at step {steps[found[0][0]]}, where the training loss is finite",
                    stacklevel=5,
                )
                return


def _outcome(run, chunks, names, scalars, end, interrupted):
    first, every = scalars["first"], scalars["record_every"]
    pieces = [(chunk, row) for chunk in chunks for row in np.flatnonzero(chunk.slots == run)]
    columns = {
        name: np.concatenate(
            [chunk.values[name][: max(0, first + chunk.counts[row] - chunk.start), row] for chunk, row in pieces]
        )
        for name in names
    }
    columns = {name: values.astype(float) for name, values in columns.items()}
    losses = columns["train_loss"]
    steps = first + np.arange(len(losses))
    kept = (steps % every == 0) | (steps == first) | (steps == steps[-1])
    last, stopped = steps[-1], "finished"
    if not math.isfinite(losses[-1]):
        stopped = f"diverged at step {last}: the training loss is {losses[-1]}"
    elif interrupted:
        stopped = f"interrupted at step {last}"
    rows = {"step": steps[kept]} | {name: values[kept] for name, values in columns.items()}
    return Outcome(losses, rows, *end, stopped)


def _sharding(runs):
    """Over which devices to spread the runs of a batch; None for a single run or a single device."""
    devices = jax.local_devices()
    return (
        NamedSharding(Mesh(np.array(devices), ("runs",)), PartitionSpec("runs"))
        if min(runs, len(devices)) > 1
        else None
    )


def _start(problem, rates, keys, method, sharding):
    runs, dtype = len(rates), problem.y.dtype
    rates = jnp.asarray(rates, dtype)

    state = _repeated(problem.state0, runs)
    if problem.memory0 is not None:
        memory = _repeated(problem.memory0, runs)
    elif method.rule.linear:
        memory = method.rule.init(state, None)
    else:  # an optimiser's state may hold its learning rate
        each = [method.rule.init(problem.state0, method.schedule or rate) for rate in rates]
        memory = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    recording = method.recording

    def carried(problem, state, rates, keys):
        def init(state, rate, key):
            return recording.init(_snapshot(problem, method, state, rate, key, method.first))

        return _each(init, runs)(state, rates, keys)

    carries = Fresh(carried)(problem, state, rates, keys) if recording.has_carry else recording.init(None)
    batch = _Batch(
        state=state,
        memory=memory,
        carries=carries,
        alive=jnp.asarray(np.ones(runs, bool)),
        counts=jnp.asarray(np.zeros(runs, np.int32)),
        rates=rates,
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


class Bar:
    """A progress bar that is made only when it is to be seen: hidden ones, too, would swell a saved notebook."""

    def __init__(self, steps, description, progress):
        self.options = {"total": steps, "desc": description, "unit": "step", "leave": bool(progress)}
        # By default only where somebody watches, a terminal or a notebook, and then only in long runs.
        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.wanted = watched if progress is None else progress
        self.due = time.perf_counter() + (SECONDS_WITHOUT_BAR if progress is None else 0)
        self.bar, self.done = None, 0

    def move_to(self, step):
        self.done = step
        if self.bar is None and self.wanted and time.perf_counter() >= self.due:
            self.bar = tqdm(**self.options)
        if self.bar is not None:
            self.bar.update(step - self.bar.n)

    def advance(self, steps):
        """Move on by steps, up to the end."""
        self.done = min(self.done + steps, self.options["total"])
        self.move_to(self.done)

    def close(self, note):
        if self.bar is not None:
            self.bar.set_postfix_str(note)
            self.bar.close()


def _snapshot(problem, method, state, rate, key, t):
    rate = _rate(method, rate, t, problem.y.dtype)
    batch = None if method.batch_size is None else _rows(method, key, t, len(problem.y))
    return Snapshot(problem, state, rate, t, method.batch_size, method.momentum, batch)


def _rows(method, key, t, n):
    """The examples that the update of step t takes."""
    return BATCHES[method.batches](key, t, n, method.batch_size)


def _rate(method, rate, t, dtype):
    """The learning rate of step t."""
    if method.schedule is not None:
        return jnp.asarray(method.schedule(t), dtype)
    return rate * jnp.minimum((t + 1) / method.warmup, 1).astype(dtype) if method.warmup else rate


def chunk_of_steps(method, problem, rule, batch, start, stop, scalars):
    """Evaluate, record and update at steps ``start .. stop - 1``; stop early when no run's loss is finite.

    The update of step ``scalars["last"]`` is suppressed, so the state ends where the last loss was taken.
    """
    bound, features, y, loss = problem.bound, problem.features, problem.y, problem.loss
    n, dtype, runs = len(y), y.dtype, len(batch.rates)

    def advance(state, memory, rate, key, t):
        """The loss of one run, and where a step takes it."""
        if method.batch_size is None:
            prediction, pullback = bound.value_and_pullback(state, features)
            gradient = pullback(loss.output_gradient(prediction, y))
        else:
            prediction = bound.predict(state, features)
            rows = _rows(method, key, t, n)
            value, pullback = bound.value_and_pullback(state, jax.tree.map(lambda leaf: leaf[rows], features))
            gradient = pullback(loss.output_gradient(value, y[rows]))
        if rule.linear:
            rate = _rate(method, rate, t, dtype)
        elif method.schedule is not None:
            rate = method.schedule  # the optimiser counts its steps itself
        after, memory = rule.update(gradient, memory, state, rate)
        return loss.total(prediction, y).astype(dtype), after, memory

    def condition(loop):
        t, batch, _ = loop
        return (t < stop) & jnp.any(batch.alive)

    def body(loop):
        t, batch, buffers = loop
        losses, state, memory = _each(advance, runs)(batch.state, batch.memory, batch.rates, batch.keys, t)
        finite = batch.alive & jnp.isfinite(losses)
        due = (t % scalars["record_every"] == 0) | (t == scalars["first"]) | (t == scalars["last"])
        due |= jnp.any(batch.alive & ~finite)

        def nothing(state, carries):
            return carries, {name: jnp.full(losses.shape, jnp.nan, dtype) for name in problem.columns}

        def everything(state, carries):
            def row(state, carries, rate, key):
                return method.recording.row(carries, _snapshot(problem, method, state, rate, key, t))

            return _each(row, runs)(state, carries, batch.rates, batch.keys)

        carries, values = jax.lax.cond(due, everything, nothing, batch.state, batch.carries)
        values = {"train_loss": losses} | values
        buffers = {name: buffers[name].at[t - start].set(values[name]) for name in buffers}
        # Where a loss is not finite the state stays as it was, and so does a run that is over.
        move = finite & (t < scalars["last"])
        batch = batch._replace(
            state=_where(move, state, batch.state),
            memory=_where(move, memory, batch.memory),
            carries=carries,
            alive=finite,
            counts=batch.counts + batch.alive,
        )
        return t + 1, batch, buffers

    buffers = {name: jnp.zeros((CHUNK, runs), dtype) for name in ("train_loss", *problem.columns)}
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


def independent_rows(key, t, n, batch_size):
    """The examples of step t, drawn without replacement, independently of all other steps."""
    return jax.random.permutation(jax.random.fold_in(key, t), n)[:batch_size]


BATCHES = {"epochs": batch_rows, "iid": independent_rows}
