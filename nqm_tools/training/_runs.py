"""What a training run leaves: its frame, its regime, its parameters, and a file of all that."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree, Real, Shaped

from nqm_tools._types import FilePath
from nqm_tools._validation import check_fraction
from nqm_tools._version import __version__
from nqm_tools._writing import whole_file

if TYPE_CHECKING:
    import pandas as pd

# A loss has "risen" when it is this share of the first loss above its running minimum.
CATAPULT_RISE = 0.05
# Sustained oscillation, in the last quarter of a run: at least this share of its steps raise the loss, the medians of
# its two halves agree to this, and it rises by more than this share of the first loss (less is rounding, which shows
# where a long run hardly falls any more).
EDGE_RISES, EDGE_DRIFT, EDGE_SWING = 0.25, 0.1, 1e-3


def regime(losses: Sequence[float] | Real[ArrayLike, " steps"], momentum: float = 0.0) -> str:
    """The regime of a full-batch run, from the training losses of all its steps.

    Parameters
    ----------
    losses : sequence of float
        Training loss at step 0, 1, ...; at least one.
    momentum : float
        The run's momentum in [0, 1). With momentum, losses oscillate by inertia at rates far below the critical one.

    Returns
    -------
    {"monotone", "catapult", "edge of stability", "divergent"}
        The first that applies:

        - ``divergent``: a loss is not finite, or the median of the last tenth is above the first loss;
        - ``edge of stability``: in the last quarter at least a quarter of the steps raise the loss, the medians of its
          two halves agree within 10 %, and it rises above its least so far by more than a thousandth of the first loss;
        - ``catapult``: the loss rises above its running minimum by more than 5 % of the first loss (with momentum,
          above the first loss by that much);
        - ``monotone``.

    Examples
    --------
    >>> regime([1.0, 0.5, 0.1]), regime([1.0, 20.0, 0.1]), regime([1.0, 2.0])
    ('monotone', 'catapult', 'divergent')
    >>> regime([1.0] + [0.4, 0.6] * 20)
    'edge of stability'
    """
    losses = _check_losses(losses)
    return _regime(losses, check_fraction("momentum", momentum), full_batch=True)


def _check_losses(losses):
    try:
        losses = np.asarray(losses, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"losses must be a non-empty sequence of numbers; got {losses!r}") from None
    if losses.ndim != 1 or losses.size == 0:
        raise ValueError(f"losses must be a non-empty sequence of numbers; got shape {losses.shape}")
    return losses


def _regime(losses, momentum, full_batch):
    first = losses[0]
    # The median of the last tenth: a run that happens to end in a late spike has not diverged.
    if not np.isfinite(losses).all() or np.median(losses[-max(1, len(losses) // 10) :]) > first:
        return "divergent"
    if full_batch and _oscillates(losses):
        return "edge of stability"
    below = first if momentum else np.minimum.accumulate(losses)
    return "catapult" if np.max(losses - below) > CATAPULT_RISE * first else "monotone"


def _oscillates(losses):
    quarter = len(losses) // 4
    # Halves of a multiple of four steps (of two in short runs), so that cycles of period 2 and 4 have equal medians.
    size = quarter - quarter % (8 if quarter >= 8 else 4)
    if size == 0:
        return False
    last = losses[-size:]
    middle = len(last) // 2
    before, after = np.median(last[:middle]), np.median(last[middle:])
    return bool(
        np.mean(np.diff(last) > 0) >= EDGE_RISES
        and abs(after - before) <= EDGE_DRIFT * before
        and np.max(last - np.minimum.accumulate(last)) > EDGE_SWING * losses[0]
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A training run; made by :func:`nqm_tools.train` or :meth:`load`.

    Attributes
    ----------
    model : str
        ``f``, ``f_lin`` or ``f_quad``.
    learning_rate : float
    losses : numpy.ndarray
        Training loss of every step, from step 0.
    records : dict of numpy.ndarray
        The frame's columns.
    params
        The parameters after the last step, as the model takes them.
    stopped : str
        ``finished``, ``diverged at step ...`` or ``interrupted at step ...``.
    settings : dict
        What the run was asked to do, and the provenance of its data.
    environment : dict
        Versions and device.
    memory : tuple of arrays
        The velocity, or the leaves of the optimiser's state, after the last step; for ``train(start=run)``.

    Examples
    --------
    >>> import tempfile
    >>> import nqm_tools as nqm
    >>> one = nqm.Data("one", np.ones((1, 1)), np.ones((1, 1)))
    >>> run = nqm.train(lambda w, x: w * x, one, learning_rate=0.25, steps=2, params=jax.numpy.zeros(1))
    >>> run
    <Run of f: learning rate 0.25, 2 of 2 steps, finished, monotone>
    >>> run.losses.tolist()
    [1.0, 0.25, 0.0625]
    >>> path = run.save(tempfile.mkdtemp() + "/run.npz")
    >>> Run.load(path).params.tolist()
    [0.75]
    """

    model: str
    learning_rate: float
    losses: Float[np.ndarray, " steps"]
    records: dict[str, Shaped[np.ndarray, " rows"]]
    params: PyTree
    stopped: str
    settings: dict
    environment: dict = dataclasses.field(default_factory=lambda: environment())
    memory: tuple[Array, ...] = ()

    @property
    def frame(self) -> pd.DataFrame:
        """Tidy pandas rows: model, learning_rate, step, train_loss and what was recorded."""
        import pandas as pd

        return pd.DataFrame({"model": self.model, "learning_rate": self.learning_rate, **self.records})

    @property
    def regime(self) -> str:
        """See :func:`regime`.

        For mini-batches it is of the whole training set's losses, which their noise raises and lowers for ever: no edge
        of stability is told there.
        """
        full_batch = self.settings.get("batch_size") is None
        return _regime(self.losses, self.settings.get("momentum", 0.0), full_batch)

    @property
    def peak_loss(self) -> float:
        """The highest training loss of all steps; infinite if one was not finite."""
        return float(np.max(self.losses)) if np.isfinite(self.losses).all() else math.inf

    @property
    def best_test_loss(self) -> float:
        """The lowest recorded test loss; NaN for a run that diverged, or that recorded none."""
        return self._at_best("test_loss")

    @property
    def best_step(self) -> float:
        """The step of the lowest recorded test loss; NaN for a run that diverged, or that recorded none."""
        return self._at_best("step")

    @property
    def best_test_accuracy(self) -> float:
        """The highest recorded test accuracy; NaN for a run that diverged, or that recorded none."""
        accuracies = self.records.get("test_accuracy", np.array([np.nan]))
        if self.regime == "divergent" or np.isnan(accuracies).all():
            return math.nan
        return float(np.nanmax(accuracies))

    @property
    def summary(self) -> dict[str, object]:
        """One row about the run, as a dictionary: model, learning_rate, regime, peak_loss, best_test_loss, ..."""
        return {
            "model": self.model,
            "learning_rate": self.learning_rate,
            "seed": self.settings["seed"],
            "regime": self.regime,
            "peak_loss": self.peak_loss,
            "final_loss": float(self.losses[-1]),
            "best_test_loss": self.best_test_loss,
            "best_step": self.best_step,
            "stopped": self.stopped,
        }

    def _at_best(self, column):
        test_losses = self.records.get("test_loss", np.array([np.nan]))
        if self.regime == "divergent" or np.isnan(test_losses).all():
            return math.nan
        return float(self.records[column][np.nanargmin(test_losses)])

    def __repr__(self) -> str:
        return (
            f"<Run of {self.model}: learning rate {self.learning_rate:.4g}, {len(self.losses) - 1} of "
            f"{self.settings['steps']} steps, {self.stopped}, {self.regime}>"
        )

    def save(self, path: FilePath) -> pathlib.Path:
        """Write the run to one NumPy ``.npz`` file, whole or not at all.

        ``params`` must be a tree of lists, tuples, dictionaries and arrays (as networks here have them).
        """
        path = check_can_be_kept(path, self.params, self.memory, self.settings)
        leaves = jax.tree.leaves(self.params)
        header = {
            "model": self.model,
            "learning_rate": self.learning_rate,
            "stopped": self.stopped,
            "settings": self.settings,
            "environment": self.environment,
            "params": _describe(self.params, itertools.count()),
        }
        arrays = {f"record/{name}": values for name, values in self.records.items()}
        arrays |= {f"leaf/{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        arrays |= {f"memory/{i:06}": np.asarray(leaf) for i, leaf in enumerate(self.memory)}
        header = json.dumps(header, default=_plain)
        with whole_file(path) as file:
            np.savez_compressed(file, header=header, losses=self.losses, **arrays)
        return path

    @classmethod
    def load(cls, path: FilePath) -> Self:
        """Read a run that :meth:`save` wrote."""
        try:
            with np.load(path, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                arrays = {name: file[name] for name in file.files if name != "header"}
            run = cls(
                losses=arrays["losses"],
                records={n.removeprefix("record/"): v for n, v in arrays.items() if n.startswith("record/")},
                params=_rebuild(header["params"], arrays),
                memory=tuple(jax.numpy.asarray(arrays[name]) for name in sorted(arrays) if name.startswith("memory/")),
                **{name: header[name] for name in ("model", "learning_rate", "stopped", "settings", "environment")},
            )
            _check_loaded(run)
            return run
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path} is no run that nqm_tools saved, or it is damaged: {error!r}") from error


def check_can_be_kept(path, params, memory, settings):
    """The path, if :meth:`Run.save` can keep a run with these there; else what is in the way."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"the path to save to must be text or a path; got {path!r}")
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of {str(path)!r} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder; give the path of a file in it")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"the folder of {str(path)!r} cannot be written to")
    _describe(params, itertools.count())
    _describe(list(memory), itertools.count())
    json.dumps(settings, default=_plain)
    return path


def _check_loaded(run):
    """Refuse a file whose parts do not belong together."""
    losses, steps = run.losses, run.records["step"]
    if losses.ndim != 1 or losses.size == 0 or losses.dtype.kind != "f":
        raise ValueError(f"losses of shape {losses.shape} and type {losses.dtype}")
    for name, values in run.records.items():
        if values.shape != steps.shape or values.ndim != 1 or values.dtype.kind not in "fiu":
            raise ValueError(f"{name} has the shape {values.shape} and the type {values.dtype}, step {steps.shape}")
    if steps.size == 0 or (np.diff(steps) <= 0).any() or steps[-1] - steps[0] != len(losses) - 1:
        raise ValueError(f"{len(losses)} losses, with rows at the steps {steps[:1]} to {steps[-1:]}")
    if not np.array_equal(run.records["train_loss"], losses[steps - steps[0]], equal_nan=True):
        raise ValueError("train_loss in the rows is not that of their steps")
    for name, kind in {"model": str, "learning_rate": float, "stopped": str, "environment": dict}.items():
        if not isinstance(getattr(run, name), kind):
            raise ValueError(f"{name} is {getattr(run, name)!r}")
    for name, kind in {"steps": int, "seed": int, "momentum": float, "loss": str, "data": dict}.items():
        if not isinstance(run.settings[name], kind):
            raise ValueError(f"settings have the {name} {run.settings[name]!r}")
    if steps[-1] > run.settings.get("first_step", 0) + run.settings["steps"]:
        raise ValueError(f"step {steps[-1]} of a run of {run.settings['steps']}")


def make_run(problem, method, rate, outcome, settings, keep_params=True):
    """The :class:`Run` of an outcome of the loop; ``settings`` are those that the loop does not know."""
    bound, memory = problem.bound, outcome.memory
    if keep_params and method.rule.linear and memory is not None:
        memory = bound.decode_direction(memory)
    settings["data"] = settings["data"] | dict(problem.notes)
    return Run(
        model=problem.model.name,
        learning_rate=rate,
        losses=outcome.losses,
        records=outcome.rows,
        params=bound.decode(outcome.state) if keep_params else None,
        stopped=outcome.stopped,
        settings=method.settings | {"form": bound.form, "n_train": len(problem.y)} | settings,
        memory=tuple(jax.tree.leaves(memory)) if keep_params else (),
    )


def environment() -> dict[str, object]:
    """Versions and machine, for provenance.

    Examples
    --------
    >>> sorted(environment())
    ['cores', 'device', 'jax', 'nqm_tools', 'numpy', 'platform', 'python']
    """
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "nqm_tools": __version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.machine(),
        "device": device.device_kind,
        "cores": cores,
    }


def _plain(value):
    """NumPy's numbers and arrays, which users put into a provenance, as JSON has them."""
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return np.asarray(value).tolist()
    raise TypeError(f"settings and provenance must be plain values to be saved; got {type(value).__name__}")


def _describe(tree, counter):
    """A JSON skeleton of a tree; each array is its number in the order of ``jax.tree.leaves``."""
    if tree is None:
        return None
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [_describe(item, counter) for item in tree]}
    if isinstance(tree, dict) and all(isinstance(key, str) for key in tree):
        return {"dict": {key: _describe(tree[key], counter) for key in sorted(tree)}}
    if isinstance(tree, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        if getattr(tree.dtype, "kind", None) not in tuple("fiub"):  # bfloat16 would come back as raw bytes
            raise TypeError(f"arrays of {tree.dtype} cannot be saved, only plain numbers of up to 64 bits")
        return next(counter)
    raise TypeError(
        f"params must be lists, tuples, dictionaries with string keys and arrays to be saved; got {type(tree).__name__}"
    )


def _rebuild(skeleton, arrays):
    if skeleton is None:
        return None
    if isinstance(skeleton, int):
        return jax.numpy.asarray(arrays[f"leaf/{skeleton}"])
    ((kind, items),) = skeleton.items()
    if kind == "dict":
        return {key: _rebuild(item, arrays) for key, item in items.items()}
    return {"list": list, "tuple": tuple}[kind](_rebuild(item, arrays) for item in items)
