"""What a sweep is: its settings, checked, and the groups of runs that they come to."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import inspect
import json
import numbers
import pathlib
import tomllib
from collections.abc import Container, Sequence
from typing import NamedTuple, Self

import jax.numpy as jnp

from nqm_tools import _files, datasets, networks, quadratic
from nqm_tools._types import FilePath
from nqm_tools._validation import check_choice, check_rate, check_whole
from nqm_tools.expansions import MODELS
from nqm_tools.sweeps._references import as_reference, checksums, find_function, is_reference, make_importable
from nqm_tools.training import DEFAULT_RECORD, METHOD_SETTINGS, Method

UNITS = ("critical", "absolute")
NETWORKS = {make.__name__: make for make in (networks.two_layer_fc, networks.deep_fc, networks.two_layer_cnn)}
NETWORKS["diagonal_quadratic"] = quadratic.diagonal
DATASETS = {name: functools.partial(datasets.load, name) for name in datasets.NAMES} | {
    make.__name__: make for make in (datasets.gaussians_1d, datasets.single_example)
}


class Group(NamedTuple):
    """The runs that differ in learning rate alone: a unit of work. ``settings`` are plain values."""

    settings: dict
    rates: tuple[float, ...]
    keys: tuple[str, ...]
    folder: str = ""  # where modules of the user's may lie; no part of the settings

    @property
    def name(self) -> str:
        """The same for any rates, so that two processes lock each other out."""
        return _hash(self.settings)

    @property
    def title(self) -> str:
        network, data = self.settings["network"], self.settings["data"]
        model, seed = self.settings["model"], self.settings["seed"]
        size = network.get("width", network.get("gamma"))
        return f"{data['name']}, {network['name']} {size}, {model}, seed {seed}"

    def only(self, wanted: Container[str]) -> Self:
        """The group with those of its runs whose keys are ``wanted``."""
        pairs = [(rate, key) for rate, key in zip(self.rates, self.keys, strict=True) if key in wanted]
        rates, keys = zip(*pairs, strict=True) if pairs else ((), ())
        return self._replace(rates=rates, keys=keys)


@dataclasses.dataclass(frozen=True, init=False)
class Sweep:
    """A grid of runs.

    Data, networks, losses, optimisers and recorded columns of your own are named ``"module:function"``. The module is
    imported when the sweep runs, from beside the sweep file, the working directory or wherever Python finds it; the
    checksum of its file is one of the settings, so that results of another version are not taken for these.

    Parameters
    ----------
    data : dict or list of dict
        ``name`` and the arguments of :func:`nqm_tools.datasets.load` (or ``gaussians_1d``, ``single_example``). Each
        seed draws its own sample, unless ``seed`` is among the arguments. A function of yours gets the arguments, and
        ``seed`` if it takes one, and gives a :class:`nqm_tools.Data`.
    network : dict or list of dict
        ``name`` (``two_layer_fc``, ``deep_fc``, ``two_layer_cnn``; ``diagonal_quadratic`` for
        :func:`nqm_tools.quadratic.diagonal`) and its arguments. Each seed draws its own start. A function of yours
        gives a :class:`nqm_tools.Network`, or another ``f(params, x)`` with ``init(key, input_shape) -> params``.
    learning_rates : list of float
    unit : {"critical", "absolute"}
        Whether the rates are in units of each run's own critical learning rate ``2/lambda_1`` (for the named loss, at
        the start, without momentum; for a loss of changing curvature 2 over the Gauss-Newton sharpness), or as they
        are.
    models : list of {"f", "f_lin", "f_quad"}
    seeds : int or list of int
        How many, from 0, or which.
    name : str
        A title; it does not belong to the runs' settings.
    **training
        ``steps`` and other arguments of :func:`nqm_tools.train`: ``batch_size``, ``batches``, ``momentum``,
        ``nesterov``, ``optimizer`` (such as ``"optax:adam"``), ``loss``, ``record``, ``record_every``.

    Raises
    ------
    TypeError, ValueError
        Naming the setting and what is accepted.
    """

    name: str
    data: tuple[dict, ...]
    network: tuple[dict, ...]
    models: tuple[str, ...]
    learning_rates: tuple[float, ...]
    unit: str
    seeds: tuple[int, ...]
    training: dict
    folder: str = dataclasses.field(compare=False)  # of the file, where modules may lie

    def __init__(
        self,
        *,
        data: dict | Sequence[dict],
        network: dict | Sequence[dict],
        learning_rates: float | Sequence[float],
        unit: str = "critical",
        models: str | Sequence[str] = tuple(MODELS),
        seeds: int | Sequence[int] = (0,),
        name: str = "sweep",
        **training: object,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be text; got {name!r}")
        if isinstance(seeds, numbers.Integral) and not isinstance(seeds, bool):
            seeds = range(check_whole("seeds", seeds))
        _check_training(training)
        values = {
            "name": name,
            "data": _listed("data", data, lambda what, value: _complete(what, value, DATASETS)),
            "network": _listed("network", network, lambda what, value: _complete(what, value, NETWORKS)),
            "models": _listed(
                "models", models, lambda what, value: check_choice(f"each of {what}", value, tuple(MODELS))
            ),
            "learning_rates": _listed(
                "learning_rates", learning_rates, lambda what, value: check_rate(f"each of {what}", value)
            ),
            "unit": check_choice("unit", unit, UNITS),
            "seeds": _listed("seeds", seeds, lambda what, value: check_whole(f"each of {what}", value, minimum=0)),
            "training": _plain_training(training),
            "folder": "",
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)
        for settings in self.network:
            if not is_reference(settings["name"]):
                make_network(settings)  # it checks its arguments

    @classmethod
    def from_toml(cls, path: FilePath, scale: str | None = None) -> Self:
        """Read a sweep from a TOML file, whose names are the parameters above.

        ``[learning_rates]`` holds one list, named after its unit; ``[training]`` holds ``steps`` and so on.
        ``[[data]]`` and ``[[network]]`` may be repeated. ``[scales.NAME]`` holds what is different at another scale:
        its tables are laid over the file's (over each one that is repeated), and its lists replace them. In the same
        way a file is laid over the one that it ``extends = "other.toml"``, a path from its own folder.
        """
        path = pathlib.Path(path)
        content = _read(path)
        try:
            sweep = cls(**_from_tables(content, scale))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
        object.__setattr__(sweep, "folder", str(path.resolve().parent))
        return sweep

    def only(
        self,
        *,
        models: str | Sequence[str] | None = None,
        seeds: int | Sequence[int] | None = None,
        learning_rates: float | Sequence[float] | None = None,
    ) -> Self:
        """The part of the sweep with these models, seeds and learning rates (all of what is None).

        The runs are the same ones, so that a store can be filled part by part.

        Raises
        ------
        ValueError
            For a model, seed or rate that the sweep does not have.
        """
        part = copy.copy(self)
        for field, wanted in (("models", models), ("seeds", seeds), ("learning_rates", learning_rates)):
            if wanted is not None:
                values = getattr(self, field)
                wanted = _listed(field, wanted, lambda what, value, has=values: _one_of(f"each of {what}", value, has))
                object.__setattr__(part, field, tuple(value for value in values if value in wanted))
        return part

    def __len__(self) -> int:
        grid = (self.data, self.network, self.models, self.learning_rates, self.seeds)
        return functools.reduce(lambda product, values: product * len(values), grid, 1)

    def groups(self) -> list[Group]:
        """The :class:`Group` s of the grid, those of one data set, network and seed next to each other.

        Raises
        ------
        FileNotFoundError, ValueError
            If a data set or a module is unavailable, or does not have what its settings ask for.
        """
        groups = []
        make_importable(self.folder)
        for data in self.data:
            files = _data_files(data["name"])
            load_data(data, self.seeds[0])  # it checks its arguments
            for network in self.network:
                for seed in self.seeds:
                    for model in self.models:
                        groups.append(self.group(data, files, network, model, seed))
        return groups

    def group(self, data: dict, files: dict[str, str], network: dict, model: str, seed: int) -> Group:
        """The :class:`Group` of one place of the grid; ``files`` are the checksums of the data set's files."""
        settings = {
            "data": data,
            "files": files,
            "network": network,
            "model": model,
            "seed": seed,
            "unit": self.unit,
            "training": self.training,
            "precision": str(jnp.zeros(0).dtype),
        }
        if modules := checksums(settings):
            settings["modules"] = modules
        keys = tuple(_hash(settings | {"learning_rate": rate}) for rate in self.learning_rates)
        return Group(settings, self.learning_rates, keys, self.folder if modules else "")


def load_data(settings, seed):
    """The sample that a sweep's settings and seed stand for."""
    settings = {"seed": seed} | settings
    name = settings.pop("name")
    if not is_reference(name):
        return DATASETS[name](**settings)
    make = find_function(name)
    if "seed" not in inspect.signature(make).parameters:
        settings.pop("seed")
    data = make(**settings)
    if not isinstance(data, datasets.Data):
        raise ValueError(f"data {name!r} must give an nqm_tools.Data; got {type(data).__name__}")
    return data


def make_network(settings):
    """The network that a sweep's settings stand for."""
    settings = dict(settings)
    name = settings.pop("name")
    network = (find_function(name) if is_reference(name) else NETWORKS[name])(**settings)
    if not (callable(network) and callable(getattr(network, "init", None))):
        raise ValueError(
            f"network {name!r} must give an nqm_tools.Network, or another f(params, x) with init(key, input_shape); "
            f"got {type(network).__name__}"
        )
    return network


def make_method(training):
    """The method that a sweep's training settings stand for."""

    def found(value):
        return find_function(value) if is_reference(value) else value

    own = {name: found(value) for name, value in training.items() if name != "record"}
    record = [
        {name: found(value) for name, value in entry.items()} if isinstance(entry, dict) else found(entry)
        for entry in training["record"]
    ]
    return Method(**own, record=record)


def _plain_training(training):
    """The arguments of a method as plain values, with their defaults.

    Those that did not exist in version 0.1 only where they are not the default, so that keys stay what they were.
    """
    training = dict(training)
    record = training.pop("record", DEFAULT_RECORD)
    for name in ("loss", "optimizer"):
        if callable(training.get(name)) or is_reference(training.get(name)):
            training[name] = as_reference(name, training[name])
    entries = [record] if isinstance(record, str | dict) or callable(record) else record
    named, own = [], []
    for entry in entries if isinstance(entries, list | tuple | set) else ():
        if isinstance(entry, dict):
            own.append({name: as_reference(f"record: {name!r}", value) for name, value in entry.items()})
        elif callable(entry) or is_reference(entry):
            own.append(as_reference("each entry of record", entry))
        else:
            named.append(entry)
    # What is imported when the sweep runs is checked then; a stand-in takes its place here.
    stand_ins = {"loss": _stand_in, "optimizer": lambda rate: _Stateless}
    checked = {
        name: stand_ins[name] if name in stand_ins and is_reference(value) else value
        for name, value in training.items()
    }
    method = Method(**checked, record=record if not isinstance(entries, list | tuple | set) else named)
    plain = method.settings | {"record": [*method.recording.names, *own]}
    for name in ("loss", "optimizer"):
        if is_reference(training.get(name)):
            plain[name] = training[name]
    return plain


def _stand_in(prediction, y):
    return prediction[:, 0]


class _Stateless:
    init = update = len


def _hash(settings):
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def _data_files(name):
    """Name and checksum that each file of a data set counts under: other files are another setting."""
    if name not in _files.SOURCES:
        return {}
    return dict(_files.counted_as(file.path.name, file.md5) for file in _files.locate(name))


def _listed(name, values, check):
    """A tuple of what may be one or several, each as ``check(name, value)`` returns it; nothing twice."""
    several = isinstance(values, list | tuple | range) or getattr(values, "ndim", 0) > 0
    values = tuple(check(name, value) for value in (values if several else (values,)))
    if not values:
        raise ValueError(f"{name} must not be empty")
    # Of the checked ones, which have their defaults: what is the same may be written in two ways.
    if any(value in values[:i] for i, value in enumerate(values)):
        raise ValueError(f"{name} must not hold anything twice; got {list(values)!r}")
    return values


def _one_of(what, value, values):
    if value not in values:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, values))}; got {value!r}")
    return value


def _complete(what, settings, makers):
    """The settings with the defaults of the function that they are for, so that what is the same hashes the same."""
    if not isinstance(settings, dict):
        raise TypeError(f"{what} must be a table of settings, or a list of them; got {settings!r}")
    if "name" not in settings:
        raise ValueError(f"{what} must have a name, one of {', '.join(makers)}; got {settings!r}")
    if is_reference(settings["name"]):
        as_reference(f"the name of {what}", settings["name"])
        return {key: _plain(value, None) for key, value in settings.items()}
    name = check_choice(f"the name of {what}", settings["name"], tuple(makers))
    parameters = inspect.signature(makers[name]).parameters
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.name not in ("seed", "root")]
    accepted = [p for p in parameters if p != "root"]
    given = {key: value for key, value in settings.items() if key != "name"}
    _check_keys(f"{what} {name!r}", given, accepted, needed)
    defaults = {
        p: parameters[p].default for p in accepted if p not in ("seed", *needed) and parameters[p].default is not None
    }
    if "classes" in accepted:
        defaults["classes"] = datasets.default_classes(name)
    complete = {"name": name} | defaults | given
    return {key: _plain(value, defaults.get(key)) for key, value in complete.items()}


def _plain(value, default):
    """As TOML has it: 0 and 0.0 are one value where a number with a point is meant, and so are lists and tuples."""
    if isinstance(value, list | tuple):
        return [_plain(entry, None) for entry in value]
    if hasattr(value, "tolist"):  # NumPy's and JAX's numbers and arrays
        return _plain(value.tolist(), default)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _laid_over(content, changes):
    """``content`` with ``changes`` in it, table by table; other learning rates replace them, whatever their unit."""
    if isinstance(content, list):
        return [_laid_over(table, changes) for table in content]
    merged = dict(content)
    for name, change in changes.items():
        table = isinstance(change, dict) and name != "learning_rates" and name in content
        merged[name] = _laid_over(content[name], change) if table else change
    return merged


def _read(path, extending=()):
    """The tables of a sweep file, laid over those of the file that it extends."""
    if path.resolve() in extending:
        raise ValueError(f"{path} extends itself")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML file: {error}") from None
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str) or not (path.parent / base).is_file():
        raise ValueError(f"{path}: extends must name another sweep file, from this one's folder; got {base!r}")
    return _laid_over(_read(path.parent / base, (*extending, path.resolve())), content)


def _check_training(training):
    _check_keys("training", training, METHOD_SETTINGS, required=("steps",))


def _check_keys(what, given, accepted, required=()):
    unknown = [key for key in given if key not in accepted]
    missing = [key for key in required if key not in given]
    if unknown or missing:
        problem = f"knows no {', '.join(unknown)}" if unknown else f"lacks {', '.join(missing)}"
        raise ValueError(f"{what} {problem}; it takes {', '.join(accepted)}")


def _from_tables(content, scale):
    """The arguments of :class:`Sweep` from a file's tables."""
    scales = content.pop("scales", {})
    if scale is not None:
        content = _laid_over(content, scales[check_choice("scale", scale, tuple(scales))])
    _check_keys(
        "a sweep",
        content,
        ("name", "data", "network", "models", "seeds", "learning_rates", "training"),
        required=("data", "network", "learning_rates", "training"),
    )
    rates, training = content.pop("learning_rates"), content.pop("training")
    if not isinstance(rates, dict) or len(rates) != 1 or next(iter(rates)) not in UNITS:
        raise ValueError(f"learning_rates must be a table with one list, {' or '.join(UNITS)}; got {rates!r}")
    if not isinstance(training, dict):
        raise ValueError(f"training must be a table; got {training!r}")
    _check_training(training)  # here, since the tables are merged: its ``seeds`` would replace the file's
    ((unit, values),) = rates.items()
    return content | training | {"learning_rates": values, "unit": unit}
