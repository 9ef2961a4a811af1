"""Where the publishers' files come from: the user's folder, the cache, or a download that is checked."""

import hashlib
import os
import pathlib
import warnings
from typing import NamedTuple

DATA_DIR_VARIABLE = "NQM_DATA_DIR"
CACHE_DIR_VARIABLE = "NQM_CACHE_DIR"


class Source(NamedTuple):
    """A published file. ``path`` is where it lies under a data folder; ``md5`` is as published, or None."""

    path: str
    url: str
    md5: str | None


class Found(NamedTuple):
    """A file on this machine, its checksum, and whether that is the published one (None: none is published)."""

    path: pathlib.Path
    md5: str
    as_published: bool | None


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_SVHN = "http://ufldl.stanford.edu/housenumbers/"
_AG_NEWS = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv/"

SOURCES = {
    "cifar2": (
        Source(
            "cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
        ),
    ),
    "mnist": tuple(
        Source(f"mnist/{name}", _MNIST + name, md5)
        for name, md5 in (
            ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        )
    ),
    "svhn2": tuple(
        Source(f"svhn/{name}", _SVHN + name, md5)
        for name, md5 in (
            ("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        )
    ),
    "fsdd": (
        Source(
            "free-spoken-digit-dataset-1.0.10.zip",
            "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip",
            None,
        ),
    ),
    "ag_news": tuple(
        Source(f"ag_news_csv/{name}", _AG_NEWS + name, md5)
        for name, md5 in (
            ("train.csv", "b1a00f826fdfbd249f79597b59e1dc12"),
            ("test.csv", "d52ea96a97a2d943681189a97654912d"),
        )
    ),
}


def locate(name, root=None, download=True):
    """The files of a data set, in the order of its sources.

    A file in ``root``, or else in the folder that the environment variable ``NQM_DATA_DIR`` names, comes first and is
    used as it is: never replaced or written beside, with a warning if its checksum is not the published one. Then
    the cache; then, if ``download``, the publisher, into the cache.

    Raises
    ------
    FileNotFoundError
        Listing the files that are missing and where they can be put.
    """
    folders = _user_folders(root)
    found = []
    for source in SOURCES[name]:  # no comprehension: it is a stack frame of its own up to Python 3.11, for stacklevel
        found.append(_find(source, folders) or (_fetch(source) if download else None))
    missing = [source for source, file in zip(SOURCES[name], found, strict=True) if file is None]
    if missing:
        places = folders or [f"the folder that {DATA_DIR_VARIABLE} names"]
        raise FileNotFoundError(
            f"data set {name!r} is not here"
            + (" and could not be downloaded. Put" if download else ". `nqm datasets fetch` downloads it; or put")
            + "".join(f"\n  {source.path}   (from {source.url})" for source in missing)
            + f"\ninto {' or '.join(map(str, places))}, or into the cache {cache_folder()}."
        )
    return found


def cache_folder():
    """``NQM_CACHE_DIR``, or the user's cache folder as the operating system has it."""
    if os.environ.get(CACHE_DIR_VARIABLE):
        return pathlib.Path(os.environ[CACHE_DIR_VARIABLE]).expanduser()
    try:
        import pooch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the paper's data sets need pooch, which is not installed: the extra [data]"
        ) from None
    return pathlib.Path(pooch.os_cache("nqm-tools"))


def check_folder(what, folder):
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"{what} must be the path of a folder; got {folder!r}")
    path = pathlib.Path(folder).expanduser()
    if folder == "" or not path.is_dir():
        raise ValueError(f"{what} must be the path of an existing folder; got {str(folder)!r}")
    return path


def _user_folders(root):
    named = (("root", root), (DATA_DIR_VARIABLE, os.environ.get(DATA_DIR_VARIABLE) or None))
    return [check_folder(what, folder) for what, folder in named if folder is not None]


def _find(source, folders):
    for folder in folders:
        # As in the cache, or lying flat as a browser saves it.
        for path in (folder / source.path, folder / pathlib.PurePosixPath(source.path).name):
            if path.is_file():
                found = _checked(path, source)
                if found.as_published is False:
                    warnings.warn(
                        f"{path} is not the published file: MD5 {found.md5}, published {source.md5}. It is used as "
                        "it is; results from it say so in their provenance.",
                        stacklevel=4,
                    )
                return found
    cached = cache_folder() / source.path
    if not cached.is_file():
        return None
    found = _checked(cached, source)
    if found.as_published is False:
        # Nobody puts files here but a download that was checked, so this one was damaged since.
        warnings.warn(f"{cached} is damaged (MD5 {found.md5}, published {source.md5}) and is not used.", stacklevel=4)
        return None
    return found


def _checked(path, source):
    with open(path, "rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    return Found(path, md5, None if source.md5 is None else md5 == source.md5)


def _fetch(source):
    """Download into the cache and check; None if the publisher cannot be reached."""
    import pooch
    import requests

    target = cache_folder() / source.path
    try:
        path = pooch.retrieve(
            source.url,
            known_hash=None if source.md5 is None else f"md5:{source.md5}",
            fname=target.name,
            path=target.parent,
        )
    except requests.exceptions.RequestException as error:
        warnings.warn(f"{source.url} could not be downloaded: {error}", stacklevel=4)
        return None
    return _checked(pathlib.Path(path), source)
