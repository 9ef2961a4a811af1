"""Gradient descent, mini-batch SGD and heavy-ball momentum on squared loss, for every model in one loop.

The loop (:mod:`nqm_tools._loop`) knows a bound model only by ``featurize``, ``predict``, ``pullback``, ``encode`` and
``decode`` (see :class:`nqm_tools.expansions.Model`).
"""

import time
from typing import NamedTuple

import jax

from nqm_tools._loop import run_batch
from nqm_tools._recording import DEFAULT_RECORD, check_eigenvalues, check_record, current_kernel
from nqm_tools._validation import (
    check_choice,
    check_fraction,
    check_params,
    check_rate,
    check_same_structure,
    check_targets,
    check_whole,
)
from nqm_tools.binding import bind
from nqm_tools.datasets import Data
from nqm_tools.expansions import as_model, check_model, match_precision
from nqm_tools.kernels import LOSSES
from nqm_tools.networks import Network
from nqm_tools.runs import Run, regime

__all__ = ["Run", "regime", "train"]

MOST_STEPS = 2**31 - 2  # the compiled loop counts with 32 bits


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
        sign, or largest output for k > 1, is right), ``distance`` (Euclidean, from where the run started),
        ``lambda_1`` to ``lambda_8`` (largest eigenvalues of the tangent kernel K on the training inputs),
        ``projection_1`` to ``projection_8`` (of the residual r on their unit eigenvectors p_i, whose sums are not
        negative), and ``R_f`` and ``R_K``: the corrections along p_1 of the step of plain gradient descent from here,
        ``p_1^T R_f p_1`` and ``p_1^T R_K p_1`` (see :func:`nqm_tools.kernel_step`; the paper's figures 6 and 7). For a
        model that is not quadratic ``R_f`` is ``<p_1, r(t+1)>/<p_1, r(t)> - 1 + eta lambda_1``.
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
    rate = check_rate("learning_rate", learning_rate)
    method = check_method(steps, batch_size, momentum, loss, record, record_every)
    seed = check_whole("seed", seed, minimum=0)
    problem = prepare(model, data, method, params=params, seed=seed)
    started = time.perf_counter()
    (outcome,) = run_batch(
        problem.arrays,
        [rate],
        jax.random.key(seed)[None],
        method.scalars,
        method.settings,
        description=f"{problem.name}, learning rate {rate:.3g}",
        progress=progress,
    )
    return Run(
        model=problem.name,
        learning_rate=rate,
        losses=outcome.losses,
        records=outcome.rows,
        params=problem.arrays["bound"].decode(outcome.state),
        stopped=outcome.stopped,
        settings={
            "steps": method.steps,
            "batch_size": method.batch_size,
            "momentum": method.momentum,
            "loss": method.loss,
            "record_every": method.record_every,
            "seed": seed,
            "n_train": len(data.x_train),
            "seconds": round(time.perf_counter() - started, 3),
            "data": data.provenance,
        },
    )


class Method(NamedTuple):
    """How to train, checked; the arguments of :func:`train`."""

    steps: int
    batch_size: int | None
    momentum: float
    loss: str
    record: tuple
    record_every: int

    @property
    def scalars(self):
        """What the compiled loop takes as numbers, so that others compile nothing anew."""
        return {"steps": self.steps, "momentum": self.momentum, "record_every": self.record_every}

    @property
    def settings(self):
        """What the compiled loop is specialised to."""
        return {
            "loss": self.loss,
            "batch_size": self.batch_size,
            "with_momentum": self.momentum > 0,
            "record": self.record,
        }


def check_method(steps, batch_size=None, momentum=0.0, loss="mse", record=DEFAULT_RECORD, record_every=1):
    """A :class:`Method` of checked arguments; what depends on the data is checked by :func:`prepare`."""
    return Method(
        steps=check_whole("steps", steps, maximum=MOST_STEPS),
        batch_size=None if batch_size is None else check_whole("batch_size", batch_size),
        momentum=check_fraction("momentum", momentum),
        loss=check_choice("loss", loss, LOSSES),
        record=check_record(record),
        record_every=check_whole("record_every", record_every, maximum=MOST_STEPS),
    )


class Problem(NamedTuple):
    """A model bound to its data, ready for the loop, whatever the learning rate; ``arrays`` is its argument."""

    name: str
    arrays: dict


def prepare(model, data, method, *, params=None, seed=0):
    """Bind ``model`` to ``data`` and compute its features; arguments and errors as in :func:`train`."""
    if not isinstance(data, Data):
        raise TypeError(f"data must be an nqm_tools.Data; got {type(data).__name__}")
    n = len(data.x_train)
    if method.batch_size is not None and method.batch_size > n:
        raise ValueError(f"batch_size must be at most the number of training examples, {n}; got {method.batch_size}")
    check_eigenvalues(method.record, n * data.y_train.shape[1])
    model, params = _starting_point(model, params, data, seed)
    model, x_train, k = check_model(model, params, data.x_train, "data.x_train")
    y_train = match_precision(check_targets("data.y_train", data.y_train, n, k), params)
    bound = bind(model, x_train, params)
    arrays = {
        "model": model,
        "bound": bound,
        "x": x_train,
        "features": bound.featurize(x_train),
        "y": y_train,
        "state0": bound.encode(params),
        "test": None,
    }
    if len(data.x_test):
        _, x_test, _ = check_model(model, params, data.x_test, "data.x_test")
        y_test = match_precision(check_targets("data.y_test", data.y_test, len(x_test), k), params)
        arrays["test"] = (bound.featurize(x_test), y_test)
    return Problem(model.name, arrays)


def initial_kernel(problem):
    """The tangent kernel (n, n, k, k) on the training inputs where a prepared :class:`Problem` starts."""
    return _current_kernel(problem.arrays, problem.arrays["state0"])


_current_kernel = jax.jit(current_kernel)


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
