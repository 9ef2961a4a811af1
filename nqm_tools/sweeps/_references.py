"""Functions of the user's in plain settings: ``"module:function"``, found by import when a sweep runs."""

import functools
import hashlib
import importlib
import pathlib
import re
import sys


def is_reference(value):
    return isinstance(value, str) and ":" in value


def as_reference(what, value):
    """A reference as it was given, or that to a function that can be imported."""
    if callable(value):
        return _reference_to(what, value)
    if not isinstance(value, str):
        raise TypeError(f"{what} must be written 'module:function'; got {value!r}")
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", value):
        raise ValueError(f"{what} must be written 'module:function'; got {value!r}")
    return value


def _reference_to(what, function):
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found = sys.modules.get(module) if module != "__main__" else None
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function:
        raise ValueError(
            f"{what} must be a function that a module has by name, so that workers can import it; got {function!r}"
        )
    return f"{module}:{name}"


def make_importable(folder):
    """Let the modules beside a sweep file, and those in the working directory, be found."""
    for path in (folder, str(pathlib.Path.cwd())):
        if path and path not in sys.path:
            sys.path.append(path)


@functools.lru_cache(maxsize=128)
def find_function(reference):
    """The function that a reference names.

    Raises
    ------
    ValueError
        If there is no such module or function, with the reason.
    """
    module, _, name = reference.partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise ValueError(f"{reference!r}: the module {module!r} cannot be imported: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{reference!r}: the module {module!r} has no {name!r}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{reference!r} must be a function; it is {type(found).__name__}")
    return found


def checksums(settings):
    """``{module: MD5 of its file}`` of all modules that settings refer to: another file is another setting."""
    found = {}
    for setting, reference in _references(settings):
        try:
            find_function(reference)
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from error
        module = reference.partition(":")[0]
        file = getattr(sys.modules[module], "__file__", None)
        if file is None:
            raise ValueError(f"{reference!r}: the module {module!r} has no file")
        found[module] = hashlib.md5(pathlib.Path(file).read_bytes()).hexdigest()
    return found


def _references(value, setting=""):
    """All references in plain settings, each after the setting that it is in."""
    if is_reference(value):
        return [(setting, value)]
    if isinstance(value, dict):
        return [pair for name, entry in value.items() for pair in _references(entry, f"{setting} {name}".strip())]
    return [pair for entry in value for pair in _references(entry, setting)] if isinstance(value, list | tuple) else []
