"""What is written down along a run: the columns of a frame, computed inside the compiled loop from one run's state."""

import jax
import jax.numpy as jnp

from nqm_tools._validation import check_choice
from nqm_tools.kernels import gradient_scale, kernel_matrix, tangent_kernel

MAX_EIGENVALUES = 8
_NUMBERS = range(1, MAX_EIGENVALUES + 1)
RECORDABLE = (
    "test_loss",
    "test_accuracy",
    "distance",
    *(f"lambda_{i}" for i in _NUMBERS),
    *(f"projection_{i}" for i in _NUMBERS),
    "R_f",
    "R_K",
)
DEFAULT_RECORD = ("test_loss", "test_accuracy", "distance")


def check_record(record):
    """The columns asked for, each once and in the order of ``RECORDABLE``."""
    if not isinstance(record, str | tuple | list | set):
        raise TypeError(f"record must be a sequence of column names; got {record!r}")
    names = (record,) if isinstance(record, str) else tuple(record)
    for name in names:
        check_choice("each entry of record", name, RECORDABLE)
    return tuple(name for name in RECORDABLE if name in names)


def check_eigenvalues(record, rows):
    """Refuse columns of eigenvalues that a kernel of ``rows`` rows does not have."""
    for name in record:
        if _is_numbered(name) and _index(name) >= rows:
            raise ValueError(f"record: {name} asks for more eigenvalues than the kernel has, {rows}")


def needs_eigenvalues(record):
    """Whether a column of ``record`` takes a decomposition of the kernel."""
    return any(_is_spectral(name) for name in record)


def _is_spectral(name):
    return _is_numbered(name) or name in ("R_f", "R_K")


def _is_numbered(name):
    return name.startswith(("lambda_", "projection_"))


def _index(name):
    return int(name.rpartition("_")[2]) - 1


def squared_loss(residual, loss):
    return jnp.sum(residual**2) * (0.5 if loss == "half_sum" else 1 / residual.shape[0])


def record_values(problem, loss, record, state, rate):
    """The columns ``record`` of one run, as scalars; ``rate`` is its learning rate for the named loss."""
    values = {}
    if {"test_loss", "test_accuracy"} & set(record):
        values |= _test_values(problem, loss, state)
    if "distance" in record:
        values["distance"] = problem["bound"].distance(state, problem["state0"])
    if needs_eigenvalues(record):
        values |= _spectral_values(problem, loss, [name for name in record if _is_spectral(name)], state, rate)
    return {name: values[name].astype(problem["y"].dtype) for name in record}


def _test_values(problem, loss, state):
    if problem["test"] is None:
        return dict.fromkeys(("test_loss", "test_accuracy"), jnp.full((), jnp.nan))
    features, y = problem["test"]
    prediction = problem["bound"].predict(state, features)
    if y.shape[1] == 1:
        right = jnp.sign(prediction[:, 0]) == jnp.sign(y[:, 0])
    else:
        right = jnp.argmax(prediction, axis=1) == jnp.argmax(y, axis=1)
    return {"test_loss": squared_loss(prediction - y, loss), "test_accuracy": jnp.mean(right.astype(y.dtype))}


def _spectral_values(problem, loss, names, state, rate):
    """Eigenvalues, projections of the residual on eigenvectors, and the corrections along the first one."""
    bound, features, y = problem["bound"], problem["features"], problem["y"]
    kernel = current_kernel(problem, state)
    values = {}
    if all(name.startswith("lambda_") for name in names):
        eigenvalues = jnp.linalg.eigvalsh(kernel_matrix(kernel))[::-1]
        return {name: eigenvalues[_index(name)] for name in names}
    eigenvalues, eigenvectors = jnp.linalg.eigh(kernel_matrix(kernel))
    eigenvalues, eigenvectors = eigenvalues[::-1], eigenvectors[:, ::-1]
    eigenvectors *= jnp.where(eigenvectors.sum(axis=0) < 0, -1, 1)
    prediction, pullback = bound.value_and_pullback(state, features)
    residual = prediction - y
    for name in names:
        if name.startswith("lambda_"):
            values[name] = eigenvalues[_index(name)]
        elif name.startswith("projection_"):
            values[name] = eigenvectors[:, _index(name)] @ residual.ravel()
    if {"R_f", "R_K"} & set(names):
        p = eigenvectors[:, 0].reshape(y.shape)
        rate = gradient_scale(loss, len(y)) * rate
        values |= _corrections(problem, p, eigenvalues[0], residual, pullback, state, rate)
    return values


def current_kernel(problem, state):
    """The tangent kernel (n, n, k, k) on the training inputs: in closed form where there is one."""
    bound = problem["bound"]
    if bound.kernel is None:
        return tangent_kernel(problem["model"], bound.decode(state), problem["x"])
    return bound.kernel(state, problem["features"])


def _corrections(problem, p, eigenvalue, residual, pullback, state, rate):
    """``p^T R_f p`` and ``p^T R_K p`` of one step of plain gradient descent, at its rate for ``half_sum``.

    With ``a = F(t)^T p`` and ``a' = F(t+1)^T p``: ``p^T R_K p = p^T (K(t) - K(t+1)) p = (a - a').(a + a')`` for any
    model. For a quadratic one ``F(t+1) = F(t) - rate G``, hence ``p^T R_f p = (rate/2) (a - a').a``. For others only
    ``R_f r`` is defined: its share along p, ``<p, r(t+1)> / <p, r(t)> - 1 + rate lambda_1``.
    """
    bound, features = problem["bound"], problem["features"]
    stepped = jax.tree.map(lambda s, g: s - rate.astype(s.dtype) * g, state, pullback(residual))
    before, after = pullback(p), bound.pullback(stepped, features, p)
    change = jax.tree.map(jnp.subtract, before, after)
    if problem["model"].quadratic:
        r_f = rate / 2 * _dot(change, before)
    else:
        ahead = bound.predict(stepped, features) - problem["y"]
        r_f = jnp.sum(p * ahead) / jnp.sum(p * residual) - 1 + rate * eigenvalue
    return {"R_f": r_f, "R_K": _dot(change, jax.tree.map(jnp.add, before, after))}


def _dot(tree, other):
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), tree, other)))
