"""``train``: from a user's arguments to runs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence

import jax
from jaxtyping import PyTree

from nqm_tools._program import plain_switches
from nqm_tools._random import random_key
from nqm_tools._types import FilePath, Function
from nqm_tools._validation import check_whole
from nqm_tools.datasets import Data
from nqm_tools.losses import LossLike
from nqm_tools.training._loop import run_batch
from nqm_tools.training._problem import SMALL_STATE, Method, Problem, check_rates, prepare, state_size
from nqm_tools.training._recording import DEFAULT_RECORD, Record
from nqm_tools.training._rules import MakeOptimizer, Schedule
from nqm_tools.training._runs import Run, check_can_be_kept, make_run

# An accelerator's memory is shared with the products of a step, each a few times the size of the state.
STATES_A_RUN = 8


def train(
    model: Function,
    data: Data,
    *,
    learning_rate: float | Schedule | Sequence[float | Schedule],
    steps: int,
    batch_size: int | None = None,
    batches: str = "epochs",
    momentum: float = 0.0,
    nesterov: bool = False,
    optimizer: MakeOptimizer | None = None,
    loss: LossLike = "mse",
    params: PyTree | None = None,
    start: Run | None = None,
    record: Record = DEFAULT_RECORD,
    record_every: int = 1,
    seed: int | None = None,
    progress: bool | None = None,
    save: FilePath | None = None,
) -> Run | list[Run]:
    """Train a model and return what happened.

    Parameters
    ----------
    model
        A network, any ``f(params, x) -> (n, k)``, or a model from ``linearize`` / ``quadraticize``.
    data : Data
        Training inputs (n, ...) and targets (n, k); test ones, or none.
    learning_rate : float, callable or list of these
        For the named loss: a rate for ``mse`` is n/2 times that for ``half_sum``. A callable is a schedule, a
        JAX-traceable function of the step; ``Run.learning_rate`` is then its largest rate. A list makes a list of runs,
        trained side by side where that is faster.
    steps : int
        Number of parameter updates.
    batch_size : int, optional
        None is gradient descent on all examples. Otherwise each step takes so many; the mini-batch loss is the mean
        (or, for ``half_sum``, the sum) over the batch.
    batches : {"epochs", "iid"}
        ``epochs``: each step takes the next examples of a shuffled epoch; what does not fill a batch at an epoch's end
        waits for the next shuffle. ``iid``: each step draws its examples anew, without replacement, independently of
        all other steps.
    momentum : float
        Heavy-ball momentum in [0, 1): ``v <- momentum v - learning_rate grad``, ``params <- params + v``. Under a
        schedule this differs from ``optax.sgd``, which has the rate outside the velocity.
    nesterov : bool
        Nesterov's momentum: ``params <- params + momentum v - learning_rate grad`` with the new v.
    optimizer : callable, optional
        ``rate -> optax.GradientTransformation``, such as ``optax.adam``; trains in all coordinates of the parameters.
    loss : str, callable or Loss
        ``"mse"``, ``(1/n) sum r^2``, or ``"half_sum"``, ``1/2 sum r^2``, summed over outputs; ``"cross_entropy"`` (k >=
        2 outputs; targets are numbers of classes, or one-hot) and ``"logistic"`` (one output; targets ±1, or 0 and 1),
        averaged over examples; a function ``(prediction, y) -> (n,)``, averaged over examples; or an
        :class:`nqm_tools.losses.Loss`.
    params : pytree, optional
        Where to start. By default a Taylor model's ``params0``; for a network a draw from ``seed``.
    start : Run, optional
        Go on where this run of the same model ended, with its velocity or optimiser state, its step count (rows,
        schedules and epochs continue) and its seed; in place of ``params``.
    record : sequence of str and dict
        Columns besides ``train_loss``. Names:

        - ``test_loss``, ``test_accuracy`` (the share of test examples whose sign, side of 1/2 for labels 0 and 1, or
          largest output is right; NaN if the targets are no labels), ``distance`` (Euclidean, from where the run
          started), ``weight_norm``;
        - ``lambda_1`` to ``lambda_10`` and ``trace``: largest eigenvalues and trace of the tangent kernel K on the
          training inputs; ``projection_1`` to ``projection_10`` of the residual r on their unit eigenvectors p_i, whose
          sums are not negative; ``followed_1`` to ``followed_10``: the eigenvalues that are the largest at the start,
          each followed by its eigenvector from row to row (those above are sorted anew at each row, and cross);
        - ``R_f`` and ``R_K``: the corrections along p_1 of the step of plain gradient descent from here, ``p_1^T R_f
          p_1`` and ``p_1^T R_K p_1`` (see :func:`nqm_tools.kernel_step`; figures 6 and 7 of Zhu et al. 2024). For a
          model that is not quadratic ``R_f`` is ``<p_1, r(t+1)>/<p_1, r(t)> - 1 + eta lambda_1``;
        - ``sharpness``: the top eigenvalue of the training loss's Hessian by six products a row, and in the column
          ``sharpness_error`` the norm of its residual (the distance to an eigenvalue is at most that);
        - ``path_loss``: the highest training loss at 20 places of the straight segment from the start to here, ends
          included but for the start;
        - ``kernel_norm``, ``kernel_norm_exact``: of the tangent kernel under the noise of mini-batches
          (:func:`nqm_tools.kernel_norm`, its forms "delocalised" and "exact");
        - ``agop_alignment``: of the model's AGOP over the test inputs with ``data.agop``
          (:func:`nqm_tools.agop_alignment`);
        - ``batch_critical_ratio``: the learning rate over the critical one of the examples that the next step takes,
          ``2/lambda_1`` of their own kernel (for ``half_sum``; ``n_B/lambda_1`` for ``mse``), and ``batch_loss_ratio``:
          their loss after that step over before. For squared losses and gradient descent without momentum;
        - ``sparsity``, and ``sparsity_1``, ...: the share of hidden pre-activations that are not positive, over the
          training inputs, of the package's networks, and by layer.

        Functions of your own: ``{"name": function}``, where ``function(now)`` gets a
        :class:`nqm_tools.training.Snapshot` and gives a number (a column) or a vector (columns ``name_1``, ...),
        JAX-traceable; or a :class:`nqm_tools.training.Recorder`.
    record_every : int
        Rows of the frame: the first step, every ``record_every``-th, and the last.
    seed : int, optional
        For the order of mini-batches, and for a network's parameters when ``params`` is not given; by default 0, or
        that of ``start``.
    progress : bool, optional
        A progress bar: yes, no, or (None) in a terminal or notebook, if the run takes more than three seconds.
    save : path, optional
        Keep the run in this file, an interrupted one too, as :meth:`Run.save` does; whether that can be done is checked
        before the training. For a single learning rate.

    Returns
    -------
    Run or list of Run
        ``.frame``, ``.losses`` (training loss of every step), ``.params``, ``.regime``, ``.save(path)``;
        ``.settings["form"]`` says what was trained in the parameters' place (:mod:`nqm_tools.closed_forms`). A run
        whose loss is no longer finite stops there; an interrupted one (Ctrl-C) returns what it has; ``.stopped`` says
        so.

    Raises
    ------
    TypeError, ValueError
        Naming the offending argument and what is accepted.

    Warns
    -----
    UserWarning
        Where a recorded column is NaN while the training loss is finite.

    Examples
    --------
    >>> import nqm_tools as nqm
    >>> net = nqm.networks.two_layer_fc(64)
    >>> data = nqm.datasets.load("digits", n_train=16, n_test=10, seed=0)
    >>> run = train(net, data, learning_rate=0.1, steps=20, record=({"size": lambda now: abs(now.prediction).max()},))
    >>> run.regime, len(run.frame), run.frame.columns[-1]
    ('monotone', 21, 'size')
    """
    first = 0 if start is None else _last_step(start, params)
    steps = check_whole("steps", steps)
    rates, several, schedules = check_rates(learning_rate, steps, first)
    if seed is None:
        seed = 0 if start is None else start.settings["seed"]
    seed = check_whole("seed", seed, minimum=0)
    if save is not None and several:
        raise ValueError(
            "save keeps a single run: give one learning rate, or save each run of the list that comes back"
        )
    runs = []
    for schedule, chosen in _by_schedule(rates, schedules):
        method = Method(
            steps,
            batch_size,
            momentum,
            loss,
            record,
            record_every,
            batches=batches,
            nesterov=nesterov,
            optimizer=optimizer,
            schedule=schedule,
            first=first,
        )
        at = params if start is None else start.params
        problem = prepare(model, data, method, params=at, seed=seed, start=start)
        if save is not None:
            check_can_be_kept(save, *_what_a_run_keeps(problem, method, chosen[0]), data.provenance)
        runs += train_rates(problem, chosen, method, seed=seed, provenance=data.provenance, progress=progress)
    if save is not None:
        _save(runs[0], save)
    return runs if several else runs[0]


def _what_a_run_keeps(problem, method, rate):
    """The parameters, and the leaves of the rule's memory, or what has their types."""
    rate = jax.numpy.asarray(rate, problem.y.dtype)
    memory = jax.eval_shape(lambda: method.rule.init(problem.state0, method.schedule or rate))
    return problem.bound.decode(problem.state0), jax.tree.leaves(memory)


def _save(run, path):
    try:
        run.save(path)
    except OSError as error:  # a full disk: the run is not lost with it
        warnings.warn(f"the run was not saved: {error}. It is what train returns: try run.save again", stacklevel=3)


def _last_step(start, params):
    if not isinstance(start, Run):
        raise TypeError(f"start must be a Run, to go on where it ended; got {type(start).__name__}")
    if params is not None:
        raise ValueError("start and params both say where to start; give one of them")
    if start.params is None or start.stopped.startswith("diverged"):
        raise ValueError(f"start must be a run with parameters that did not diverge; this one {start.stopped}")
    return int(start.records["step"][-1])


def _by_schedule(rates, schedules):
    """Pairs of a schedule and its rates: all constant rates together, schedules one by one; in order."""
    if all(schedule is None for schedule in schedules):
        return [(None, rates)]
    return [(schedule, [rate]) for rate, schedule in zip(rates, schedules, strict=True)]


@plain_switches()
def train_rates(
    problem: Problem,
    rates: Sequence[float],
    method: Method,
    *,
    seed: int = 0,
    provenance: dict | None = None,
    progress: bool | None = None,
    keep_params: bool = True,
) -> list[Run]:
    """The runs of a prepared problem at several learning rates, side by side as far as that is faster and fits.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np, nqm_tools as nqm
    >>> one, method = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1))), Method(steps=20, loss="half_sum")
    >>> problem = prepare(lambda w, x: w * x, one, method, params=jnp.zeros(1))
    >>> [run.regime for run in train_rates(problem, [0.5, 2.5], method)]
    ['monotone', 'divergent']
    """
    key, runs = random_key(seed), []
    size = _runs_at_once(problem, len(rates))
    for chosen in (rates[i : i + size] for i in range(0, len(rates), size)):
        began = time.perf_counter()
        title = f"{problem.model.name}, learning rate {', '.join(f'{rate:.3g}' for rate in chosen[:3])}"
        keys = jax.numpy.stack([key] * len(chosen))
        outcomes = run_batch(problem, chosen, keys, method, description=title, progress=progress)
        seconds = (time.perf_counter() - began) / len(chosen)
        for rate, outcome in zip(chosen, outcomes, strict=True):
            settings = {"seed": seed, "seconds": round(seconds, 4), "data": dict(provenance or {})}
            runs.append(make_run(problem, method, rate, outcome, settings, keep_params))
    return runs


def whole(runs: list[Run]) -> list[Run]:
    """The runs; KeyboardInterrupt if that is why one ended early, since a part of a run is none.

    Examples
    --------
    >>> whole([])  # nothing was interrupted
    []
    """
    if any(run.stopped.startswith("interrupted") for run in runs):
        raise KeyboardInterrupt
    return runs


def _runs_at_once(problem, runs):
    """How many runs go side by side: as many as are faster so, and as fit."""
    state = state_size(problem)
    devices = jax.local_devices()
    if devices[0].platform == "cpu" and len(devices) == 1:
        return runs if state <= SMALL_STATE else 1
    memory = (devices[0].memory_stats() or {}).get("bytes_limit")
    if memory is None:
        return runs
    itemsize = problem.y.dtype.itemsize
    hidden = sum(leaf.size for leaf in jax.tree.leaves(problem.features))
    one = itemsize * STATES_A_RUN * (state + hidden)
    return max(1, min(runs, len(devices) * int(memory / 2 / one)))
