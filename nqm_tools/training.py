"""Gradient descent, mini-batch SGD and heavy-ball momentum on squared loss, for every model in one loop.

The loop knows a bound model only by ``featurize``, ``predict``, ``pullback``, ``encode`` and ``decode`` (see
:class:`nqm_tools.expansions.Model`). Everything big is an argument of the compiled chunk of steps: arrays that a jitted
function closes over would be folded into it as constants, which takes XLA minutes on wide networks. How many steps,
how often to record and the learning rate are arguments too, so a second run with the same shapes compiles nothing.
"""

import functools
import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from nqm_tools._validation import (
    check_choice,
    check_fraction,
    check_params,
    check_rate,
    check_same_structure,
    check_targets,
    check_whole,
)
from nqm_tools.datasets import Data
from nqm_tools.expansions import as_model, check_model, match_precision
from nqm_tools.input_span import bind
from nqm_tools.kernels import LOSSES, gradient_scale, kernel_matrix, tangent_kernel
from nqm_tools.networks import Network
from nqm_tools.runs import Run, regime

__all__ = ["Run", "regime", "train"]

# Losses of a chunk are kept on the device in a buffer of this many steps.
CHUNK = 256
# A chunk is given as many steps as took about this long, so that the progress bar moves and Ctrl-C is heard.
SECONDS_A_CHUNK = 0.5
SECONDS_WITHOUT_BAR = 3
MOST_STEPS = 2**31 - 2  # the compiled loop counts with 32 bits
MAX_EIGENVALUES = 8
RECORDABLE = ("test_loss", "test_accuracy", "distance", *(f"lambda_{i + 1}" for i in range(MAX_EIGENVALUES)))
DEFAULT_RECORD = ("test_loss", "test_accuracy", "distance")


def train(
    model,
    data,
    *,
    learning_rate,
    steps,
    batch_size=None,
    momentum=0.0,
    loss="mse",
    params=None,
    record=DEFAULT_RECORD,
    record_every=1,
    seed=0,
    progress=None,
):
    """Train a model on squared loss and return what happened.

    Parameters
    ----------
    model
        A network, any ``f(params, x) -> (n, k)``, or a model from ``linearize`` / ``quadraticize``.
    data : Data
        Training inputs (n, ...) and targets (n, k); test ones, or none.
    learning_rate : float
        For the named loss: a rate for ``mse`` is n/2 times that for ``half_sum``.
    steps : int
        Number of parameter updates.
    batch_size : int, optional
        None is gradient descent on all examples. Otherwise each step takes the next ``batch_size`` examples of a
        shuffled epoch; what does not fill a batch at an epoch's end waits for the next shuffle. The mini-batch loss
        is ``(1/B) sum r^2`` or ``1/2 sum r^2`` over the batch.
    momentum : float
        Heavy-ball momentum in [0, 1): ``v <- momentum v - learning_rate grad``, ``params <- params + v``.
    loss : {"mse", "half_sum"}
        ``(1/n) sum r^2`` or ``1/2 sum r^2``, summed over outputs.
    params : pytree, optional
        Where to start. By default a Taylor model's ``params0``; for a network a draw from ``seed``.
    record : sequence of str
        Columns besides ``train_loss``: any of ``test_loss``, ``test_accuracy`` (the share of test examples whose
        sign, or largest output for k > 1, is right), ``distance`` (Euclidean, from where the run started) and
        ``lambda_1`` to ``lambda_8`` (largest eigenvalues of the tangent kernel on the training inputs).
    record_every : int
        Rows of the frame: step 0, every ``record_every``-th, and the last.
    seed : int
        For the order of mini-batches, and for a network's parameters when ``params`` is not given.
    progress : bool, optional
        A progress bar: yes, no, or (None) in a terminal or notebook, if the run takes more than three seconds.

    Returns
    -------
    Run
        ``.frame``, ``.losses`` (training loss of every step), ``.params``, ``.regime``, ``.save(path)``. A run whose
        loss is no longer finite stops there; an interrupted one (Ctrl-C) returns what it has; ``.stopped`` says so.

    Raises
    ------
    TypeError, ValueError
        Naming the offending argument and what is accepted.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> net = nqm.networks.two_layer_fc(64)
    >>> data = nqm.datasets.load("digits", n_train=16, n_test=10, seed=0)
    >>> run = train(net, data, learning_rate=0.1, steps=20)
    >>> run.regime, len(run.frame)
    ('monotone', 21)
    """
    if not isinstance(data, Data):
        raise TypeError(f"data must be an nqm_tools.Data; got {type(data).__name__}")
    rate = check_rate("learning_rate", learning_rate)
    steps = check_whole("steps", steps, maximum=MOST_STEPS)
    record_every = check_whole("record_every", record_every, maximum=MOST_STEPS)
    momentum = check_fraction("momentum", momentum)
    seed = check_whole("seed", seed, minimum=0)
    check_choice("loss", loss, LOSSES)
    n = len(data.x_train)
    if batch_size is not None:
        batch_size = check_whole("batch_size", batch_size)
        if batch_size > n:
            raise ValueError(f"batch_size must be at most the number of training examples, {n}; got {batch_size}")
    record = _check_record(record, n * data.y_train.shape[1])
    model, params = _starting_point(model, params, data, seed)
    model, x_train, k = check_model(model, params, data.x_train, "data.x_train")
    y_train = match_precision(check_targets("data.y_train", data.y_train, n, k), params)

    bound = bind(model, x_train, params)
    state = bound.encode(params)
    problem = {
        "model": model,
        "bound": bound,
        "x": x_train,
        "features": bound.featurize(x_train),
        "y": y_train,
        "state0": state,
        "test": None,
    }
    if len(data.x_test):
        _, x_test, _ = check_model(model, params, data.x_test, "data.x_test")
        y_test = match_precision(check_targets("data.y_test", data.y_test, len(x_test), k), params)
        problem["test"] = (bound.featurize(x_test), y_test)
    settings = {
        "loss": loss,
        "batch_size": batch_size,
        "with_momentum": momentum > 0,
        "record": record,
    }
    scalars = {
        "learning_rate": rate,
        "momentum": momentum,
        "record_every": record_every,
        "steps": steps,
        "key": jax.random.key(seed),
    }
    started = time.perf_counter()
    losses, rows, state, stopped = _run_loop(problem, scalars, settings, model.name, progress)
    return Run(
        model=model.name,
        learning_rate=rate,
        losses=losses,
        records=rows,
        params=bound.decode(state),
        stopped=stopped,
        settings={
            "steps": steps,
            "batch_size": batch_size,
            "momentum": momentum,
            "loss": loss,
            "record_every": record_every,
            "seed": seed,
            "n_train": n,
            "seconds": round(time.perf_counter() - started, 3),
            "data": data.provenance,
        },
    )


def _check_record(record, rows):
    if not isinstance(record, str | tuple | list | set):
        raise TypeError(f"record must be a sequence of column names; got {record!r}")
    names = (record,) if isinstance(record, str) else tuple(record)
    for name in names:
        check_choice("each entry of record", name, RECORDABLE)
        if name.startswith("lambda_") and _eigenvalue_index(name) >= rows:
            raise ValueError(f"record: {name} asks for more eigenvalues than the kernel has, {rows}")
    return tuple(name for name in RECORDABLE if name in names)


def _eigenvalue_index(name):
    return int(name.removeprefix("lambda_")) - 1


def _starting_point(model, params, data, seed):
    bare, model = model, as_model(model)
    params0 = getattr(model, "params0", None)
    if params is not None:
        params = check_params(params)
        if params0 is not None:
            check_same_structure(params, params0)
    elif params0 is not None:
        params = params0
    elif isinstance(bare, Network):
        params = bare.init(jax.random.key(seed), data.x_train.shape)
    else:
        raise ValueError("params must be given for a model that is neither a Network nor a Taylor model; got None")
    return model, params


def _run_loop(problem, scalars, settings, name, progress):
    """Chunks of steps until the end, a non-finite loss, or Ctrl-C."""
    steps, every = scalars["steps"], scalars["record_every"]
    state = problem["state0"]
    velocity = jax.tree.map(jnp.zeros_like, state) if settings["with_momentum"] else None
    carry = (state, velocity)
    chunks = []
    done, size, stopped = 0, 1, "finished"
    bar = _Bar(steps, f"{name}, learning rate {scalars['learning_rate']:.3g}", progress)
    try:
        while done <= steps:
            began = time.perf_counter()
            stop = min(done + size, steps + 1)
            # JAX returns before the work is done. `_fetch` waits, so Ctrl-C is heard there, while `carry`, `done` and
            # `chunks` still belong together; they move on in one go afterwards.
            after, reached, values = _chunk(problem, carry, done, stop, scalars, **settings)
            chunk = _fetch(values, int(reached) - done)
            carry, done, chunks = after, int(reached), [*chunks, chunk]
            bar.move_to(min(done, steps))
            last = chunk["train_loss"][-1]
            if not math.isfinite(last):
                stopped = f"diverged at step {done - 1}: the training loss is {last}"
                break
            seconds = time.perf_counter() - began
            size = min(CHUNK, max(1, int(size * min(4, SECONDS_A_CHUNK / max(seconds, 1e-6)))))
    except KeyboardInterrupt:
        if done <= steps:
            # Evaluate without a further update, so that the last row and the parameters belong together.
            stopped = f"interrupted at step {done}"
            carry, _, values = _chunk(problem, carry, done, done + 1, scalars | {"steps": done}, **settings)
            chunks = [*chunks, _fetch(values, 1)]
    finally:
        bar.close("" if stopped == "finished" else stopped)
    names = ("train_loss", *settings["record"])
    columns = {column: np.concatenate([chunk[column] for chunk in chunks]) for column in names}
    losses = columns["train_loss"]
    kept = np.arange(len(losses))
    kept = kept[(kept % every == 0) | (kept == kept[-1])]
    rows = {"step": kept} | {column: values[kept] for column, values in columns.items()}
    return losses, rows, carry[0], stopped


def _fetch(values, count):
    return {column: np.asarray(buffer[:count], float) for column, buffer in values.items()}


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
def _chunk(problem, carry, start, stop, scalars, *, loss, batch_size, with_momentum, record):
    """Evaluate, record and update at steps ``start .. stop - 1``; stop early after a loss that is not finite.

    The update of step ``scalars["steps"]`` is suppressed, so the state ends where the last loss was taken.
    """
    bound, features, y = problem["bound"], problem["features"], problem["y"]
    n = y.shape[0]
    scale = gradient_scale(loss, n if batch_size is None else batch_size)

    def condition(loop):
        t, finite, _, _ = loop
        return (t < stop) & finite

    def body(loop):
        t, _, (state, velocity), buffers = loop
        prediction = bound.predict(state, features)
        residual = prediction - y
        train_loss = _loss(residual, loss)
        finite = jnp.isfinite(train_loss)
        due = (t % scalars["record_every"] == 0) | (t == scalars["steps"]) | ~finite
        values = jax.lax.cond(due, functools.partial(_record, problem, loss, record), _nothing(y, record), state)
        buffers = {
            column: buffers[column].at[t - start].set(value)
            for column, value in ({"train_loss": train_loss} | values).items()
        }
        if batch_size is None:
            gradient = bound.pullback(state, features, residual)
        else:
            batch = _batch(scalars["key"], t, n, batch_size)
            batch_features = jax.tree.map(lambda leaf: leaf[batch], features)
            batch_residual = bound.predict(state, batch_features) - y[batch]
            gradient = bound.pullback(state, batch_features, batch_residual)
        move = finite & (t < scalars["steps"])
        rate = jnp.where(move, scale * scalars["learning_rate"], 0.0).astype(y.dtype)
        if with_momentum:
            beta = jnp.asarray(scalars["momentum"], y.dtype)
            velocity = jax.tree.map(lambda v, g: beta * v - rate * g, velocity, gradient)
            state = jax.tree.map(lambda s, v: s + move.astype(s.dtype) * v, state, velocity)
        else:
            state = jax.tree.map(lambda s, g: s - rate * g, state, gradient)
        return t + 1, finite, (state, velocity), buffers

    buffers = {column: jnp.zeros(CHUNK, y.dtype) for column in ("train_loss", *record)}
    reached, _, carry, buffers = jax.lax.while_loop(condition, body, (start, True, carry, buffers))
    return carry, reached, buffers


def _loss(residual, loss):
    return jnp.sum(residual**2) * (0.5 if loss == "half_sum" else 1 / residual.shape[0])


def _batch(key, t, n, batch_size):
    """The examples of step t: the epochs' shuffles, cut into batches; what does not fill a batch is left out."""
    epoch, position = t // (n // batch_size), t % (n // batch_size)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), n)
    return jax.lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)


def _nothing(y, record):
    return lambda state: {column: jnp.full((), jnp.nan, y.dtype) for column in record}


def _record(problem, loss, record, state):
    y = problem["y"]
    values = _nothing(y, record)(state)
    if problem["test"] is not None and {"test_loss", "test_accuracy"} & set(record):
        features, y_test = problem["test"]
        prediction = problem["bound"].predict(state, features)
        values["test_loss"] = _loss(prediction - y_test, loss)
        if y_test.shape[1] == 1:
            right = jnp.sign(prediction[:, 0]) == jnp.sign(y_test[:, 0])
        else:
            right = jnp.argmax(prediction, axis=1) == jnp.argmax(y_test, axis=1)
        values["test_accuracy"] = jnp.mean(right.astype(y.dtype))
    if "distance" in record:
        squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), state, problem["state0"])
        values["distance"] = jnp.sqrt(sum(jax.tree.leaves(squares))).astype(y.dtype)
    eigenvalues = [column for column in record if column.startswith("lambda_")]
    if eigenvalues:
        bound = problem["bound"]
        if bound.kernel is None:
            kernel = tangent_kernel(problem["model"], bound.decode(state), problem["x"], problem["x"])
        else:
            kernel = bound.kernel(state, problem["features"])
        ordered = jnp.linalg.eigvalsh(kernel_matrix(kernel))[::-1]
        for column in eigenvalues:
            values[column] = ordered[_eigenvalue_index(column)].astype(y.dtype)
    return {column: values[column] for column in record}
