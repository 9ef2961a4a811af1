"""Where notebooks, sweep files and recorded results lie: in the clone or, installed from a wheel, in the package."""

import pathlib


def root() -> pathlib.Path:
    """The folder with ``notebooks/``, ``experiments/``, ``data/results/``: the clone, or what ``setup.py`` put here."""
    package = pathlib.Path(__file__).resolve().parent
    carried = package / "_share"
    return carried if carried.is_dir() else package.parent


def folder(name: str) -> pathlib.Path:
    """One of its folders.

    Raises
    ------
    FileNotFoundError
        If this installation has none.
    """
    found = root() / name
    if not found.is_dir():
        raise FileNotFoundError(
            f"this installation of nqm-tools has no {name}/, which is part of the repository and of its wheels: "
            "install a wheel, or `make setup` in a clone"
        )
    return found


def sweep_file(name: str) -> str | pathlib.Path:
    """A sweep's file: the caller's or, where there is none, the package's, by its name or path in the repository."""
    path = pathlib.Path(name)
    if not path.is_file() and path.parent.as_posix() in (".", "experiments"):
        own = root() / "experiments" / f"{path.name.removesuffix('.toml')}.toml"
        if own.is_file():
            return own
    return name
