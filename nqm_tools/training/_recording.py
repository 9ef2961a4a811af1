"""What is written down along a run: functions of a lazy snapshot, evaluated inside the compiled loop.

A recorder is a function ``now -> value`` of a :class:`Snapshot`, or a :class:`Recorder`, which also carries something
from row to row. ``RECORDERS`` is the one table that names map to; ``train(record=)`` takes names and the user's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from nqm_tools._gates import flipped
from nqm_tools._program import plain_words
from nqm_tools._types import Outputs
from nqm_tools._validation import check_choice
from nqm_tools.batch_noise import curvature_of_a_step, exact_norm, noise_share, variances
from nqm_tools.expansions import linearize, second_order_term
from nqm_tools.features._agop import alignment_of
from nqm_tools.kernels import kernel_matrix, tangent_kernel
from nqm_tools.networks import architecture
from nqm_tools.training import _sharpness

if TYPE_CHECKING:
    from nqm_tools.training._problem import Problem

MAX_EIGENVALUES = 10
MAX_LAYERS = 8
MODELS = ("f_lin", "f_quad")
# Places on the segment from the start at which its highest loss is looked for, besides the start.
PATH = 20
# A difference of outputs below so many roundings of these is rounding.
ROUNDINGS = 1e3
DEFAULT_RECORD = ("test_loss", "test_accuracy", "distance")
# Columns that a frame or a store has anyway.
RESERVED = ("model", "learning_rate", "step", "train_loss", "key", "status", "reason", "seed")


class Recorder(NamedTuple):
    """A recorded quantity that carries something from row to row, such as where an iteration is to start.

    Attributes
    ----------
    init
        ``init(now) -> carry`` at the start of a run: a pytree of arrays.
    update
        ``update(carry, now) -> (carry, value)`` at each recorded row.

    Examples
    --------
    >>> import numpy as np, nqm_tools as nqm
    >>> one = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1)))
    >>> def smooth(carry, now):
    ...     carry = (carry + now.train_loss) / 2
    ...     return carry, carry
    >>> recorder = Recorder(init=lambda now: now.train_loss, update=smooth)
    >>> settings = {"learning_rate": 0.25, "steps": 2, "params": jnp.zeros(1), "record": ({"smooth": recorder},)}
    >>> run = nqm.train(lambda w, x: w * x, one, **settings)
    >>> run.frame[["train_loss", "smooth"]].to_numpy().tolist()
    [[1.0, 1.0], [0.25, 0.625], [0.0625, 0.34375]]
    """

    init: Callable[[Snapshot], PyTree]
    update: Callable[[PyTree, Snapshot], tuple[PyTree, Value]]


class Snapshot:
    """A run at one step, for recorders. Each attribute is computed when it is first asked for, at most once a row.

    Attributes
    ----------
    step, learning_rate
        The step, and the learning rate of the update that follows it.
    batch_size, momentum
        Of the updates: the whole batch is the number of training examples.
    batch
        Which examples the update that follows takes: their places, ``batch_size`` whole numbers.
    x, y, x_test, y_test
        The data, targets (n, k) as the loss takes them; test ones are None where there are none.
    agop
        Of the function behind the data, or its root, as :class:`nqm_tools.Data` has it, or None.
    params, start
        The parameters now and where the run started, as the model takes them.
    prediction, test_prediction
        Outputs (n, k) on the training and test inputs.
    residual
        (n, k): prediction minus target for a squared loss, else the gradient of each example's loss in its outputs.
    train_loss, test_loss, test_accuracy
    gradient
        Of the training loss, in the parameters.
    kernel
        The tangent kernel on the training inputs, (n, n) or (n, n, k, k).
    eigenpairs
        Its eigenvalues (n k,), largest first, and eigenvectors as columns (n k, n k), each with a non-negative sum.
    distance
        Euclidean distance of the parameters from the start.
    model
        What is trained, a function ``(params, x) -> (n, k)``.

    Examples
    --------
    >>> import numpy as np, nqm_tools as nqm
    >>> one = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1)))
    >>> own = {"residual": lambda now: now.residual[0, 0], "norm of the gradient": lambda now: abs(now.gradient).sum()}
    >>> run = nqm.train(lambda w, x: w * x, one, learning_rate=0.25, steps=1, params=jnp.zeros(1), record=own)
    >>> run.frame[["residual", "norm of the gradient"]].to_numpy().tolist()
    [[-1.0, 2.0], [-0.5, 1.0]]
    """

    def __init__(
        self,
        problem: Problem,
        state: PyTree,
        learning_rate: Float[Array, ""],
        step: Int[ArrayLike, ""],
        batch_size: int | None = None,
        momentum: float = 0.0,
        batch: Int[Array, " batch"] | None = None,
    ) -> None:
        self._problem, self._state = problem, state
        self._is_whole, self.agop = batch is None, problem.agop
        self.batch = jnp.arange(len(problem.y)) if batch is None else batch
        self.learning_rate, self.step = learning_rate, step
        self.batch_size, self.momentum = batch_size or len(problem.y), momentum
        self.x, self.y, self.x_test = problem.x, problem.y, problem.x_test
        self.y_test = None if problem.test is None else problem.test[1]
        self.model = problem.model

    @functools.cached_property
    def params(self) -> PyTree:
        return self._problem.bound.decode(self._state)

    @functools.cached_property
    def start(self) -> PyTree:
        return self._problem.bound.decode(self._problem.state0)

    @functools.cached_property
    def _value_and_pullback(self):
        return self._problem.bound.value_and_pullback(self._state, self._problem.features)

    @property
    def prediction(self) -> Outputs:
        return self._value_and_pullback[0]

    @functools.cached_property
    def test_prediction(self) -> Outputs:
        if self._problem.test is None:
            raise ValueError("the data have no test examples")
        return self._problem.bound.predict(self._state, self._problem.test[0])

    @functools.cached_property
    def residual(self) -> Outputs:
        loss = self._problem.loss
        if loss.constant_curvature is not None:
            return self.prediction - self.y
        return loss.gradient(self.prediction, self.y)

    @functools.cached_property
    def train_loss(self) -> Float[Array, ""]:
        return self._problem.loss.total(self.prediction, self.y)

    @functools.cached_property
    def test_loss(self) -> Float[ArrayLike, ""]:
        if self._problem.test is None:
            return jnp.nan
        return self._problem.loss.total(self.test_prediction, self.y_test)

    @functools.cached_property
    def test_accuracy(self) -> Float[ArrayLike, ""]:
        if self._problem.test is None or self._problem.labels is None:
            return jnp.nan
        return jnp.mean(LABELS[self._problem.labels](self.test_prediction, self.y_test).astype(self.y.dtype))

    @functools.cached_property
    def _state_gradient(self):
        _, pullback = self._value_and_pullback
        return pullback(self._problem.loss.output_gradient(self.prediction, self.y))

    @functools.cached_property
    def gradient(self) -> PyTree:
        return self._problem.bound.decode_direction(self._state_gradient)

    @functools.cached_property
    def _kernel(self):
        return current_kernel(self._problem, self._state)

    @functools.cached_property
    def kernel(self) -> Float[Array, "n n"] | Float[Array, "n n k k"]:
        return self._kernel[:, :, 0, 0] if self._kernel.shape[2] == 1 else self._kernel

    @functools.cached_property
    def eigenpairs(self) -> tuple[Float[Array, " rows"], Float[Array, "rows rows"]]:
        # One decomposition for whatever is asked of it: LAPACK computes the vectors in any case.
        eigenvalues, eigenvectors = jnp.linalg.eigh(kernel_matrix(self._kernel))
        eigenvalues, eigenvectors = eigenvalues[::-1], eigenvectors[:, ::-1]
        return eigenvalues, eigenvectors * jnp.where(eigenvectors.sum(axis=0) < 0, -1, 1)

    @functools.cached_property
    def _batch(self):
        """Features and targets of the batch."""
        features, y = self._problem.features, self.y
        return (features, y) if self._is_whole else jax.tree.map(lambda leaf: leaf[self.batch], (features, y))

    @functools.cached_property
    def _largest_of_batch(self):
        """The largest eigenvalue of the kernel of the batch."""
        problem, bound = self._problem, self._problem.bound
        if bound.kernel is None:
            kernel = tangent_kernel(problem.model, self.params, self.x[self.batch], coupled=problem.coupled)
        else:
            kernel = bound.kernel(self._state, self._batch[0])
        return jnp.linalg.eigvalsh(kernel_matrix(kernel))[-1]

    @functools.cached_property
    def distance(self) -> Float[Array, ""]:
        return self._problem.bound.distance(self._state, self._problem.state0)

    @functools.cached_property
    def _corrections(self):
        return _corrections(self)

    @functools.cached_property
    def _sparsity(self):
        return _sparsity(self)


# What a recorder gives: a number, a vector, or several of these by name.
Value = ArrayLike | dict[str, ArrayLike]
_Record = str | Callable[[Snapshot], Value] | Recorder | dict[str, Callable[[Snapshot], Value] | Recorder]
Record = _Record | Sequence[_Record]


# Whether an output is right, by what the targets are.
LABELS = {
    "signs": lambda prediction, y: jnp.sign(prediction[:, 0]) == jnp.sign(y[:, 0]),
    "zero and one": lambda prediction, y: (prediction[:, 0] > 0.5) == (y[:, 0] > 0.5),
    "largest": lambda prediction, y: jnp.argmax(prediction, axis=1) == jnp.argmax(y, axis=1),
}


def kind_of_labels(y):
    """Which of ``LABELS`` targets (n, k) are; None if they are no labels, and have no accuracy."""
    if y.shape[1] == 1:
        values = set(np.unique(y).tolist())
        if values <= {-1.0, 1.0}:
            return "signs"
        return "zero and one" if values == {0.0, 1.0} else None
    # One output stands out, the same in all examples.
    top, others = y.max(axis=1), np.sort(y, axis=1)[:, :-1]
    one_hot = bool((top[:, None] > others).all()) and len(np.unique(top)) == 1 and len(np.unique(others)) == 1
    return "largest" if one_hot else None


def current_kernel(problem, state):
    """The tangent kernel (n, n, k, k) on the training inputs: in closed form where there is one."""
    bound = problem.bound
    if bound.kernel is None:
        return tangent_kernel(problem.model, bound.decode(state), problem.x, coupled=problem.coupled)
    return bound.kernel(state, problem.features)


def _eigenvalue(i, now):
    _check_index(f"lambda_{i}", i, now)
    return now.eigenpairs[0][i - 1]


def _projection(i, now):
    _check_index(f"projection_{i}", i, now)
    return now.eigenpairs[1][:, i - 1] @ now.residual.ravel()


def _followed(i):
    """The eigenvalue that is the i-th at the start, followed along the run.

    Its eigenvector at each row is the one that overlaps most with that of the row before. Sorted eigenvalues cross;
    rows must be close enough for it.
    """

    def start(now):
        _check_index(f"followed_{i}", i, now)
        return now.eigenpairs[1][:, i - 1]

    def update(before, now):
        eigenvalues, eigenvectors = now.eigenpairs
        at = jnp.argmax(jnp.abs(before @ eigenvectors))
        return eigenvectors[:, at], eigenvalues[at]

    return Recorder(start, update)


def _check_index(name, i, now):
    if i > now.y.size:
        raise ValueError(f"record: {name} asks for more eigenvalues than the kernel has, {now.y.size}")


def _corrections(now):
    """``p^T R_f p`` and ``p^T R_K p`` of one step of plain gradient descent, at its rate for ``half_sum``.

    With ``a = F(t)^T p`` and ``a' = F(t+1)^T p``: ``p^T R_K p = p^T (K(t) - K(t+1)) p = (a - a').(a + a')`` for any
    model. For a quadratic one ``F(t+1) = F(t) - rate G``, hence ``p^T R_f p = (rate/2) (a - a').a``. For others only
    ``R_f r`` is defined: its share along p, ``<p, r(t+1)> / <p, r(t)> - 1 + rate lambda_1``.
    """
    problem, state, y = now._problem, now._state, now.y
    loss = problem.loss
    if loss.constant_curvature is None:
        raise ValueError(f"R_f and R_K are of the squared losses, 'mse' and 'half_sum'; the loss is {loss.name!r}")
    eigenvalues, eigenvectors = now.eigenpairs
    p = eigenvectors[:, 0].reshape(y.shape)
    rate = jnp.asarray(loss.constant_curvature * loss.weight(len(y)) * now.learning_rate, y.dtype)
    bound, features = problem.bound, problem.features
    _, pullback = now._value_and_pullback
    stepped = jax.tree.map(lambda s, g: s - rate.astype(s.dtype) * g, state, pullback(now.residual))
    before, after = pullback(p), bound.pullback(stepped, features, p)
    change = jax.tree.map(jnp.subtract, before, after)
    if problem.model.quadratic:
        r_f = rate / 2 * _dot(change, before)
    else:
        ahead = bound.predict(stepped, features) - y
        r_f = jnp.sum(p * ahead) / jnp.sum(p * now.residual) - 1 + rate * eigenvalues[0]
    return {"R_f": r_f, "R_K": _dot(change, jax.tree.map(jnp.add, before, after))}


def _dot(tree, other):
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), tree, other)))


def _kernel_norm(now):
    """:func:`nqm_tools.kernel_norm` of the tangent kernel now, ``form="delocalised"``."""
    x, inside, share = _noise(now)
    return jnp.where(inside, variances(x, share, now.momentum).sum() / now.y.shape[1], jnp.inf)


def _kernel_norm_exact(now):
    """The same with ``form="exact"``."""
    if now.y.shape[1] > 1:
        raise ValueError(f"record: kernel_norm_exact is for one output; the model has {now.y.shape[1]}")
    x, inside, share = _noise(now)
    return jnp.where(inside, exact_norm(x, now.eigenpairs[1], len(x), share, now.momentum), jnp.inf)


def _noise(now):
    """The kernel's eigenvalues in units in which 2 is critical, whether all are below (else 0), the share of noise."""
    n = len(now.y)
    x = curvature_of_a_step(now._problem.loss, n, now.batch_size) * now.learning_rate * now.eigenpairs[0]
    x = jnp.maximum(x, 0)
    inside = (x < 2 * (1 + now.momentum)).all()
    return jnp.where(inside, x, 0), inside, noise_share(n, now.batch_size)


def _agop_alignment(now):
    """:func:`nqm_tools.agop_alignment` of the model's AGOP over the test inputs with that of the data."""
    if now.agop is None:
        raise ValueError("record: agop_alignment is with the AGOP of the data, and these have none: Data(agop=...)")
    if now.x_test is None:
        raise ValueError("record: agop_alignment is over test inputs, and the data have none")
    return alignment_of(now.model, now.params, now.x_test, now.agop)


def _batch_critical_ratio(now):
    """The learning rate over the critical one of the kernel of the batch that the next update takes."""
    loss = now._problem.loss
    if loss.constant_curvature is None:
        raise ValueError(
            f"record: batch_critical_ratio is of the squared losses, 'mse' and 'half_sum'; the loss is {loss.name!r}"
        )
    largest = now.eigenpairs[0][0] if now._is_whole else now._largest_of_batch
    return now.learning_rate * loss.constant_curvature * loss.weight(now.batch_size) * largest / 2


def _batch_loss_ratio(now):
    """The loss of the batch that the next update takes, after that update over before."""
    bound, loss = now._problem.bound, now._problem.loss
    features, y = now._batch
    value, pullback = bound.value_and_pullback(now._state, features)
    gradient = pullback(loss.output_gradient(value, y))
    after = jax.tree.map(lambda s, g: s - jnp.asarray(now.learning_rate, s.dtype) * g, now._state, gradient)
    return loss.total(bound.predict(after, features), y) / loss.total(value, y)


def _trace(now):
    return jnp.trace(kernel_matrix(now._kernel))


def _weight_norm(now):
    return jnp.sqrt(_dot(now.params, now.params))


def _path_loss(now):
    """The highest training loss on the straight segment from the start to here."""
    bound, problem = now._problem.bound, now._problem
    start, shares = problem.state0, jnp.arange(1, PATH + 1) / PATH

    def loss(share):
        between = jax.tree.map(lambda a, b: a + share.astype(a.dtype) * (b - a), start, now._state)
        return problem.loss.total(bound.predict(between, problem.features), now.y)

    return jnp.max(jax.lax.map(loss, shares))


def _sparsity(now):
    known = architecture(getattr(now.model, "f", None))
    if known is None or not hasattr(known, "preactivations"):
        raise ValueError("sparsity is of the package's networks, whose hidden units it knows; the model is another one")
    layers = known.preactivations(now.params, now.x)
    return [jnp.mean((layer <= 0).astype(now.y.dtype)) for layer in layers], [layer[0].size for layer in layers]


def _sparsity_of_all(now):
    shares, sizes = now._sparsity
    return sum(share * size for share, size in zip(shares, sizes, strict=True)) / sum(sizes)


def _sparsity_of_layer(i, now):
    shares, _ = now._sparsity
    if i > len(shares):
        raise ValueError(f"record: sparsity_{i} asks for a layer that the network does not have: it has {len(shares)}")
    return shares[i - 1]


def _missed(order, now):
    """The share of the outputs' change since the start that a Taylor model around the start misses."""
    model, found = now.model, {}
    for inputs, x in (("", now.x), ("_test", now.x_test)):
        if x is not None:
            outputs = now.test_prediction if inputs else now.prediction
            rest = outputs - linearize(model, now.start)(now.params, x)
            if order == 2:
                rest = rest - second_order_term(model, now.start, now.params, x)
            found[f"missed_by_{MODELS[order - 1]}{inputs}"] = missed_share(rest, outputs, model(now.start, x))
    return found


def missed_share(rest, outputs, first):
    """``|rest| / |outputs - first|``; 0 where ``rest`` is rounding."""
    noise = ROUNDINGS * jnp.finfo(first.dtype).eps * jnp.linalg.norm(first)
    size = jnp.linalg.norm(rest)
    return jnp.where(size <= noise, 0, size / jnp.linalg.norm(outputs - first))


def _flipped_gates(now):
    found = flipped(now.model, now.start, now.params, now.x)
    if found is None:
        raise ValueError("flipped_gates is of models with kinks, such as ReLU's; no such gate was found in this one")
    return found


_NUMBERS = range(1, MAX_EIGENVALUES + 1)
RECORDERS = {
    "test_loss": lambda now: now.test_loss,
    "test_accuracy": lambda now: now.test_accuracy,
    "distance": lambda now: now.distance,
    **{f"lambda_{i}": functools.partial(_eigenvalue, i) for i in _NUMBERS},
    **{f"projection_{i}": functools.partial(_projection, i) for i in _NUMBERS},
    **{f"followed_{i}": _followed(i) for i in _NUMBERS},
    "R_f": lambda now: now._corrections["R_f"],
    "R_K": lambda now: now._corrections["R_K"],
    "sharpness": Recorder(_sharpness.start, _sharpness.update),
    "trace": _trace,
    "kernel_norm": _kernel_norm,
    "kernel_norm_exact": _kernel_norm_exact,
    "path_loss": _path_loss,
    "agop_alignment": _agop_alignment,
    "batch_critical_ratio": _batch_critical_ratio,
    "batch_loss_ratio": _batch_loss_ratio,
    "weight_norm": _weight_norm,
    "sparsity": _sparsity_of_all,
    **{f"sparsity_{i}": functools.partial(_sparsity_of_layer, i) for i in range(1, MAX_LAYERS + 1)},
    "missed_by_f_lin": functools.partial(_missed, 1),
    "missed_by_f_quad": functools.partial(_missed, 2),
    "flipped_gates": _flipped_gates,
}


class Recording:
    """Checked recorders in the order of their columns: the package's as in ``RECORDERS``, then the user's."""

    def __init__(self, record):
        alone = isinstance(record, str | dict | Recorder) or callable(record)
        entries = (record,) if alone else record
        if not isinstance(entries, tuple | list | set):
            raise TypeError(f"record must be a sequence of column names and {{name: function}}; got {record!r}")
        names, own = [], {}
        for entry in entries:
            if isinstance(entry, dict):
                own |= {name: _check_own(name, recorder, own) for name, recorder in entry.items()}
            elif callable(entry) or isinstance(entry, Recorder):
                name = getattr(entry, "__name__", None)
                if name in (None, "<lambda>"):
                    raise ValueError(f"record: give the function a name, as {{'name': function}}; got {entry!r}")
                own[name] = _check_own(name, entry, own)
            else:
                names.append(check_choice("each entry of record", entry, tuple(RECORDERS)))
        self.names = tuple(name for name in RECORDERS if name in names)
        self.recorders = {name: RECORDERS[name] for name in self.names}
        self.recorders |= own
        self.has_carry = any(isinstance(recorder, Recorder) for recorder in self.recorders.values())

    def init(self, now):
        """What each recorder carries, at the start of a run."""
        return {
            name: recorder.init(now) if isinstance(recorder, Recorder) else None
            for name, recorder in self.recorders.items()
        }

    def row(self, carries, now):
        """What they carry on, and the columns of a row as scalars of the targets' precision."""
        columns, after = {}, {}
        for name, recorder in self.recorders.items():
            if isinstance(recorder, Recorder):
                after[name], value = recorder.update(carries[name], now)
            else:
                after[name], value = None, recorder(now)
            columns |= _columns(name, value, now.y.dtype)
        return after, columns

    def columns(self, problem, learning_rate, batch_size=None):
        """The names of the columns, found by tracing (what fails is told by its name); whether they need the kernel."""
        found, need_kernel = {}, []
        # As leaves: JAX keeps the structures that it has seen, and this one holds the user's function.
        leaves, tree = jax.tree.flatten(problem)
        for name, recorder in self.recorders.items():

            def trace(leaves, rate, recorder=recorder, name=name):
                problem = jax.tree.unflatten(tree, leaves)
                batch = None if batch_size is None else jnp.arange(batch_size)
                now = Snapshot(problem, problem.state0, rate, jnp.zeros((), jnp.int32), batch_size, batch=batch)
                columns = _columns(name, _first_value(name, recorder, now), now.y.dtype)
                need_kernel.append(not {"_kernel", "_largest_of_batch"}.isdisjoint(vars(now)))
                return columns

            with plain_words():
                columns = jax.eval_shape(trace, leaves, learning_rate)
            for column in columns:
                if column in found or column in RESERVED:
                    raise ValueError(f"record: the column {column!r} is there already; {name!r} needs another name")
                found[column] = None
        return tuple(found), any(need_kernel)


def _first_value(name, recorder, now):
    try:
        if isinstance(recorder, Recorder):
            return recorder.update(recorder.init(now), now)[1]
        return recorder(now)
    except Exception as error:
        if name in RECORDERS:
            raise
        raise ValueError(f"record: {name!r} failed: {type(error).__name__}: {error}") from error


def _check_own(name, recorder, own):
    if not isinstance(name, str) or not name:
        raise TypeError(f"record: a column's name must be text; got {name!r}")
    if name in RECORDERS or name in RESERVED or name in own:
        raise ValueError(f"record: the column {name!r} is there already; take another name")
    if not callable(recorder) and not isinstance(recorder, Recorder):
        raise TypeError(f"record: {name!r} must be a function of the snapshot `now`, or a Recorder; got {recorder!r}")
    return recorder


def _columns(name, value, dtype):
    """Scalars make one column, vectors numbered ones; a dictionary names its own."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"record: the columns of {name!r} must have names; got {list(value)}")
        return {column: one for key, part in value.items() for column, one in _columns(key, part, dtype).items()}
    if isinstance(value, tuple | list) or value is None or isinstance(value, str):
        raise TypeError(f"record: {name!r} must give a number or a vector; got {type(value).__name__}")
    array = jnp.asarray(value)
    numeric = jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool
    if not numeric or jnp.issubdtype(array.dtype, jnp.complexfloating) or array.ndim > 1:
        raise TypeError(
            f"record: {name!r} must give a real number or a vector; got {array.dtype} of shape {array.shape}"
        )
    array = array.astype(dtype)
    if array.ndim == 0:
        return {name: array}
    return {f"{name}_{i}": entry for i, entry in enumerate(array, start=1)}
