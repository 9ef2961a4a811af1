"""What a sweep is: its settings, checked, and the groups of runs that they come to."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
import numbers
import os
import pathlib
import sys
import tomllib
from collections.abc import Container, Sequence
from typing import NamedTuple, Self

import jax

from nqm_tools import _files, datasets, networks, quadratic
from nqm_tools._types import FilePath
from nqm_tools._validation import check_choice, check_rate, check_whole
from nqm_tools.expansions import MODELS
from nqm_tools.sweeps._references import as_reference, checksums, find_function, is_reference, make_importable
from nqm_tools.training import DEFAULT_RECORD, METHOD_SETTINGS, Method

# Lists of seeds have at most so many, and tables and lists of a file at most so many inside each other.
MOST_SEEDS, MOST_NESTED = 10**7, 20
# Of an error, the characters that are shown of what it says of a file, and values that it lists.
MOST_SHOWN, MOST_LISTED = 400, 20
UNITS = ("critical", "absolute", "sharpness")
# Arguments of networks that did not exist in version 0.1: at their defaults they are in no key.
NEWER = ("parameterization", "hidden_variance")
NETWORKS = {make.__name__: make for make in (networks.two_layer_fc, networks.deep_fc, networks.two_layer_cnn)}
NETWORKS["diagonal_quadratic"] = quadratic.diagonal
DATASETS = {name: functools.partial(datasets.load, name) for name in datasets.NAMES} | {
    make.__name__: make
    for make in (datasets.chebyshev, datasets.gaussians_1d, datasets.multi_index, datasets.single_example)
}
CHECKS = {name: functools.partial(datasets.check_load, name) for name in datasets.NAMES} | {
    "chebyshev": datasets.check_chebyshev,
    "gaussians_1d": datasets.check_gaussians_1d,
    "multi_index": datasets.check_multi_index,
    "single_example": datasets.check_single_example,
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
        ``name`` and the arguments of :func:`nqm_tools.datasets.load` (or ``chebyshev``, ``gaussians_1d``,
        ``multi_index``, ``single_example``). Each seed draws its own sample, unless ``seed`` is among the arguments. A
        function of yours gets the arguments, and ``seed`` if it takes one, and gives a :class:`nqm_tools.Data`.
    network : dict or list of dict
        ``name`` (``two_layer_fc``, ``deep_fc``, ``two_layer_cnn``; ``diagonal_quadratic`` for
        :func:`nqm_tools.quadratic.diagonal`) and its arguments. Each seed draws its own start. A function of yours
        gives a :class:`nqm_tools.Network`, or another ``f(params, x)`` with ``init(key, input_shape) -> params``.
    learning_rates : list of float
    unit : {"critical", "absolute", "sharpness"}
        Whether the rates are in units of each run's own critical learning rate ``2/lambda_1`` (for the named loss, at
        the start, without momentum; for a loss of changing curvature 2 over the Gauss-Newton sharpness), or as they
        are; or ``c / sharpness``, in units of one over the measured sharpness of the network's start: rows then have
        ``sharpness_ratio`` (c), ``initial_sharpness`` and its error, and neither a critical rate nor a ratio to it.
    models : list of {"f", "f_lin", "f_quad"}
    seeds : int or list of int
        How many, from 0, or which.
    name : str
        A title; it does not belong to the runs' settings.
    **training
        ``steps`` and other arguments of :func:`nqm_tools.train`: ``batch_size``, ``batches``, ``momentum``,
        ``nesterov``, ``optimizer`` (such as ``"optax:adam"``), ``loss``, ``record``, ``record_every``; and ``warmup``,
        over how many steps each run's rate rises linearly to what it is. Of ``batch_size``, ``momentum`` and
        ``optimizer`` there may be several, as lists.

    Raises
    ------
    TypeError, ValueError
        Naming the setting and what is accepted.

    Examples
    --------
    >>> sweep = Sweep(
    ...     data={"name": "digits", "n_train": 20, "n_test": 20},
    ...     network={"name": "two_layer_fc", "width": 64},
    ...     learning_rates=[0.5, 1.5],
    ...     seeds=5,
    ...     steps=100,
    ... )
    >>> len(sweep), len(sweep.groups())  # runs; groups that differ in more than the rate
    (30, 15)
    >>> len(sweep.only(models="f_quad", seeds=[0, 1]))
    4
    """

    name: str
    data: tuple[dict, ...]
    network: tuple[dict, ...]
    models: tuple[str, ...]
    learning_rates: tuple[float, ...]
    unit: str
    seeds: tuple[int, ...]
    training: tuple[dict, ...]
    folder: str = dataclasses.field(compare=False)  # of the file, where modules may lie
    file: str = dataclasses.field(compare=False)  # that it was read from, or ""

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
            seeds = range(check_whole("seeds", seeds, maximum=MOST_SEEDS))
        _check_training(training)
        values = {
            "name": name,
            "data": _listed("data", data, _complete_data),
            "network": _listed("network", network, lambda what, value: _complete(what, value, NETWORKS)),
            "models": _listed(
                "models", models, lambda what, value: check_choice(f"each of {what}", value, tuple(MODELS))
            ),
            "learning_rates": _listed(
                "learning_rates", learning_rates, lambda what, value: check_rate(f"each of {what}", value)
            ),
            "unit": check_choice("unit", unit, UNITS),
            "seeds": _listed("seeds", seeds, lambda what, value: check_whole(f"each of {what}", value, minimum=0)),
            "training": _listed("training", _each_training(training), lambda what, value: _plain_training(value)),
            "folder": "",
            "file": "",
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
        with _naming(path, TypeError, ValueError):
            sweep = cls(**_from_tables(_read(path), scale))
        object.__setattr__(sweep, "folder", str(path.resolve().parent))
        object.__setattr__(sweep, "file", str(path))
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
                has = set(values)
                wanted = _listed(field, wanted, functools.partial(_one_of, has=has, values=values))
                wanted = set(wanted)
                object.__setattr__(part, field, tuple(value for value in values if value in wanted))
        return part

    def __len__(self) -> int:
        grid = (self.data, self.network, self.models, self.learning_rates, self.seeds, self.training)
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
        with _naming(self.file, ValueError):  # a TypeError is a fault, in the data's code
            for data in self.data:
                files = _data_files(data["name"])
                with _naming(f"data {data['name']!r}", ValueError):
                    load_data(data, self.seeds[0])  # whether there is as much as it asks for
                for network in self.network:
                    modules = [self._modules(data, network, training) for training in self.training]
                    for seed in self.seeds:
                        for training, its in zip(self.training, modules, strict=True):
                            for model in self.models:
                                groups.append(self._group(data, files, network, training, model, seed, its))
        return groups

    def group(self, data: dict, files: dict[str, str], network: dict, training: dict, model: str, seed: int) -> Group:
        """The :class:`Group` of one place of the grid; ``files`` are the checksums of the data set's files."""
        return self._group(data, files, network, training, model, seed, self._modules(data, network, training))

    def _modules(self, data, network, training):
        return checksums({"data": data, "network": network} | training)

    def _group(self, data, files, network, training, model, seed, modules):
        settings = {
            "data": data,
            "files": files,
            "network": network,
            "model": model,
            "seed": seed,
            "unit": self.unit,
            "training": training,
            "precision": str(jax.dtypes.canonicalize_dtype(float)),
        }
        if modules:
            settings["modules"] = modules
        keys = tuple(_hash(settings | {"learning_rate": rate}) for rate in self.learning_rates)
        return Group(settings, self.learning_rates, keys, self.folder if modules else "")


def load_data(settings, seed):
    """The sample that a sweep's settings and seed stand for."""
    settings = {"seed": seed} | settings
    name = settings.pop("name")
    make = find_function(name) if is_reference(name) else DATASETS[name]
    signature = inspect.signature(make)
    if "seed" not in signature.parameters:
        settings.pop("seed")
    if not is_reference(name):
        return make(**settings)
    try:  # here, where it is the settings that are wrong, and not something in the function
        signature.bind(**settings)
    except TypeError as error:
        raise ValueError(f"data {name!r} does not take the settings {', '.join(settings)}: {error}") from None
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


# Arguments of a method of which a sweep may have several, since its frames tell runs apart by them.
SEVERAL = ("batch_size", "momentum", "optimizer")


def _each_training(training):
    """The arguments of each method of the sweep: all that can be made of its lists."""
    lists = {name: value for name, value in training.items() if name in SEVERAL and isinstance(value, list | tuple)}
    for name, values in lists.items():
        if not values:
            raise ValueError(f"{name} must not be empty")
    return [training | dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


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
    if several and len(values) > MOST_SEEDS:  # before they are listed: a range may be of any length
        raise ValueError(f"{name} must hold at most {MOST_SEEDS} values; got {len(values)}")
    values = tuple(check(name, value) for value in (values if several else (values,)))
    if not values:
        raise ValueError(f"{name} must not be empty")
    # Of the checked ones, which have their defaults: what is the same may be written in two ways.
    seen = set()
    for value in values:
        if (hashable := _hashable(value)) in seen:
            raise ValueError(f"{name} must not hold anything twice; got {value!r} twice")
        seen.add(hashable)
    return values


def _hashable(value):
    """Equal for equal plain values."""
    if isinstance(value, dict):
        return frozenset((name, _hashable(entry)) for name, entry in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _one_of(name, value, has, values):
    if not isinstance(value, str | numbers.Real) or value not in has:
        listed = ", ".join(map(repr, values[:MOST_LISTED]))
        more = f", ... ({len(values)} in all)" if len(values) > MOST_LISTED else ""
        raise ValueError(f"each of {name} must be one of {listed}{more}; got {value!r}")
    return value


def _complete_data(what, settings):
    """The settings of a data set, with their defaults; those of the package's own are checked without the files."""
    settings = _complete(what, settings, DATASETS)
    if not is_reference(settings["name"]):
        CHECKS[settings["name"]](**{name: value for name, value in settings.items() if name != "name"})
    return settings


def _complete(what, settings, makers):
    """The settings with the defaults of the function that they are for, so that what is the same hashes the same."""
    if not isinstance(settings, dict):
        raise TypeError(f"{what} must be a table of settings, or a list of them; got {settings!r}")
    if "name" not in settings:
        raise ValueError(f"{what} must have a name, one of {', '.join(makers)}; got {settings!r}")
    if is_reference(settings["name"]):
        as_reference(f"the name of {what}", settings["name"])
        return {key: _plain(value, None, f"{what}: {key}") for key, value in settings.items()}
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
    plain = {key: _plain(value, defaults.get(key), f"{what}: {key}") for key, value in complete.items()}
    return {key: value for key, value in plain.items() if key not in NEWER or value != defaults[key]}


def _plain(value, default, what):
    """As TOML has it: 0 and 0.0 are one value where a number with a point is meant, and so are lists and tuples."""
    if isinstance(value, list | tuple):
        return [_plain(entry, None, what) for entry in value]
    if isinstance(value, dict):
        return {name: _plain(entry, None, f"{what}.{name}") for name, entry in value.items()}
    if hasattr(value, "tolist"):  # NumPy's and JAX's numbers and arrays
        return _plain(value.tolist(), default, what)
    if not (value is None or isinstance(value, str | bool | int | float)):  # such as TOML's dates
        raise TypeError(f"{what} must be made of text, numbers, true, false, lists and tables; got {value!r}")
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > sys.float_info.max:
            raise ValueError(f"{what} must be a finite number; got {value!r}")
        return float(value)
    return value


def _laid_over(content, changes):
    """``content`` with ``changes`` in it, table by table; other learning rates replace them, whatever their unit."""
    if isinstance(content, list):
        return [_laid_over(table, changes) for table in content]
    merged = dict(content)
    for name, change in changes.items():
        both = isinstance(change, dict) and name != "learning_rates" and _has_tables(content.get(name))
        merged[name] = _laid_over(content[name], change) if both else change
    return merged


def _has_tables(value):
    return isinstance(value, dict) or (isinstance(value, list) and all(isinstance(entry, dict) for entry in value))


def _read(path, extending=()):
    """The tables of a sweep file, laid over those of the file that it extends."""
    if path.resolve() in extending:
        raise ValueError(f"{path} extends itself")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        _check_nesting(content)
    except (ValueError, RecursionError) as error:  # of the encoding, of TOML, of a number of thousands of digits
        raise ValueError(f"{path} is no TOML file: {error}") from None
    base = content.pop("extends", None)
    if base is None:
        return content
    # os.path: a name that no file can have is no file there, and an error in pathlib.
    if not isinstance(base, str) or not os.path.isfile(path.parent / base):
        raise ValueError(f"{path}: extends must name another sweep file, from this one's folder; got {base!r}")
    return _laid_over(_read(path.parent / base, (*extending, path.resolve())), content)


def _check_nesting(content):
    """Refuse what is deeper than any sweep: beyond some depth Python cannot even print it."""
    level = [content]
    for _ in range(MOST_NESTED):
        level = [
            entry
            for value in level
            for entry in (value.values() if isinstance(value, dict) else value)
            if isinstance(entry, dict | list)
        ]
    if level:
        raise ValueError(f"tables and lists are more than {MOST_NESTED} deep in each other")


@contextlib.contextmanager
def _naming(where, *errors):
    """A context in which what is wrong with settings is one short line that begins with where it is, if that is known.

    Where that is a file, it is a path or text; where it is nowhere but in arguments, it is empty.
    """
    try:
        yield
    except errors as error:
        if not where:
            raise
        text = " ".join(str(error).split())
        if len(text) > MOST_SHOWN:  # the setting is named at the beginning, and the value at the end
            text = f"{text[: MOST_SHOWN * 2 // 3]} ... {text[-MOST_SHOWN // 3 :]}"
        raise ValueError(text if text.startswith(str(where)) else f"{where}: {text}") from None


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
    if not isinstance(scales, dict) or not all(isinstance(changes, dict) for changes in scales.values()):
        raise ValueError(f"scales must be a table with one table a scale; got {scales!r}")
    if scale is not None and not scales:
        raise ValueError(f"there is no scale {scale!r}: the file has no scales")
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
