"""Where the publishers' files come from: the user's folder, the cache, or a download that is checked."""

import hashlib
import os
import pathlib
import re
import sys
import warnings
from typing import NamedTuple

from nqm_tools._writing import whole_file

DATA_DIR_VARIABLE = "NQM_DATA_DIR"
CACHE_DIR_VARIABLE = "NQM_CACHE_DIR"
_CHUNK = 2**16  # bytes of a download that are written at a time


class Form(NamedTuple):
    """A shape in which people have a published file. ``path`` is where it lies under a data folder.

    ``md5`` is that of the published content in this shape, or None if it is not known. With ``members``, it is a
    folder, and its checksum is that of the lines that ``md5sum`` writes of those files whose names match.
    """

    path: str
    md5: str | None
    members: str | None = None


class Source(NamedTuple):
    """A published file: its name under a data folder, its address, and its checksum if one is published.

    ``others`` are further shapes of the same content, best first. All of them count as one file, under the name and
    the checksum ``known_as``; by default those of the published file.
    """

    path: str
    url: str
    md5: str | None
    others: tuple[Form, ...] = ()
    known_as: tuple[str, str] | None = None

    @property
    def forms(self):
        return (Form(self.path, self.md5), *self.others)


class Found(NamedTuple):
    """A file on this machine, its checksum, and whether that is the published one (None: none is published)."""

    path: pathlib.Path
    md5: str
    as_published: bool | None


def _md5_of_list(checksums):
    """Of what ``md5sum`` writes of files {name: checksum}."""
    lines = "".join(f"{checksums[name]}  {name}\n" for name in sorted(checksums))
    return hashlib.md5(lines.encode()).hexdigest()


_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_CIFAR_PYTHON = ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
# Of the Python archive's members, as torchvision lists them.
_CIFAR_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_SVHN = "http://ufldl.stanford.edu/housenumbers/"
_AG_NEWS = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv/"
_FSDD = "free-spoken-digit-dataset"


def _mnist_source(name, gzipped, unpacked):
    """``unpacked`` is the MD5 of the file in the archive; some unpackers write a dot for the name's second dash."""
    dotted = name.replace("-idx", ".idx")
    names = ((f"{name}.gz", gzipped), (f"{dotted}.gz", gzipped), (name, unpacked), (dotted, unpacked))
    places = ("mnist", "MNIST/raw", "raw", "MNIST")  # MNIST/raw is torchvision's
    others = tuple(Form(f"{place}/{file}", md5) for place in places for file, md5 in names)
    return Source(others[0].path, f"{_MNIST}{name}.gz", gzipped, others[1:])


SOURCES = {
    "cifar2": (
        # The publisher's binary version: it needs no reader of pickles.
        Source(
            "cifar-10-binary.tar.gz",
            f"{_CIFAR}cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            (
                Form(*_CIFAR_PYTHON),
                Form("cifar-10-binary.tar", None),
                Form("cifar-10-python.tar", None),
                *(
                    Form(f"{unpacked}cifar-10-batches-{kind}", md5, members)
                    for kind, md5, members, unpackers in (
                        ("bin", None, r"(data_batch_\d|test_batch)\.bin", ("", "cifar-10-binary/")),
                        ("py", _md5_of_list(_CIFAR_BATCHES), r"data_batch_\d|test_batch", ("", "cifar-10-python/")),
                    )
                    for unpacked in unpackers
                ),
            ),
            _CIFAR_PYTHON,  # which came first: results are known by it
        ),
    ),
    "mnist": tuple(
        _mnist_source(*file)
        for file in (
            ("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
            ("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
            ("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
            ("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
        )
    ),
    "svhn2": tuple(
        Source(f"svhn/{name}", _SVHN + name, md5, (Form(f"SVHN/{name}", md5),))
        for name, md5 in (
            ("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        )
    ),
    "fsdd": (
        Source(
            f"{_FSDD}-1.0.10.zip",
            f"https://github.com/Jakobovski/{_FSDD}/archive/refs/tags/v1.0.10.zip",
            None,
            tuple(
                Form(f"{folder}/recordings", None, r"\d_\w+_\d+\.wav")
                for folder in (f"{_FSDD}-1.0.10", f"{_FSDD}-1.0.10/{_FSDD}-1.0.10", _FSDD)
            ),
        ),
    ),
    "ag_news": tuple(
        Source(
            f"ag_news_csv/{name}",
            _AG_NEWS + name,
            md5,
            tuple(Form(f"{place}/{name}", md5) for place in ("AG_NEWS", "ag_news")),  # the first is torchtext's
        )
        for name, md5 in (
            ("train.csv", "b1a00f826fdfbd249f79597b59e1dc12"),
            ("test.csv", "d52ea96a97a2d943681189a97654912d"),
        )
    ),
}


def counted_as(name, md5):
    """The name and checksum that a file counts under: the same for all shapes of one published content."""
    for source in (source for group in SOURCES.values() for source in group):
        for form in source.forms:
            if form.md5 is not None and (pathlib.PurePosixPath(form.path).name, form.md5) == (name, md5):
                return source.known_as or (pathlib.PurePosixPath(source.path).name, source.md5)
    return name, md5


def locate(name, root=None, download=True):
    """The files of a data set, in the order of its sources.

    A file in ``root``, or else in the folder that the environment variable ``NQM_DATA_DIR`` names, comes first, in
    whichever of its forms it is there. It is used as it is: never replaced or written beside, with a warning if its
    checksum is not the published one. Then the cache; then, if ``download``, the publisher, into the cache.

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
        for form in source.forms:
            path = _place(folder, form)
            if path is not None:
                found = _checked(path, form)
                if found.as_published is False:
                    warnings.warn(
                        f"{path} is not the published file: MD5 {found.md5}, published {form.md5}. It is used as "
                        "it is; results from it say so in their provenance.",
                        stacklevel=4,
                    )
                return found
    for form in source.forms:
        cached = cache_folder() / form.path
        if not _is_there(cached, form):
            continue
        found = _checked(cached, form)
        if found.as_published is not False:
            return found
        # Nobody puts files here but a download that was checked, so this one was damaged since.
        warnings.warn(f"{cached} is damaged (MD5 {found.md5}, published {form.md5}) and is not used.", stacklevel=4)
    return None


def _place(folder, form):
    """Where a form lies in a user's folder, or None."""
    name = pathlib.PurePosixPath(form.path).name
    # As in the cache, lying flat as a browser saves it, or in a folder of its name as some unpackers write it.
    for path in (folder / form.path, folder / name, folder / form.path / name, folder / name / name):
        if _is_there(path, form):
            return path
    return folder if form.members and folder.name == name and _is_there(folder, form) else None


def _is_there(path, form):
    return bool(_members(path, form)) if form.members else path.is_file()


def _members(folder, form):
    files = folder.iterdir() if folder.is_dir() else ()
    return [path for path in files if re.fullmatch(form.members, path.name, re.ASCII) and path.is_file()]


def _checked(path, form):
    md5 = _md5_of_list({member.name: _md5(member) for member in _members(path, form)}) if form.members else _md5(path)
    return Found(path, md5, None if form.md5 is None else md5 == form.md5)


def _md5(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _fetch(source):
    """Download into the cache and check; None if the publisher cannot be reached."""
    import pooch
    import requests

    target = cache_folder() / source.path
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {source.url} to {target}", file=sys.stderr, flush=True)
    try:
        with whole_file(target) as file:
            pooch.HTTPDownloader(chunk_size=_CHUNK)(source.url, file, None)
            file.flush()
            if source.md5 is not None and (md5 := _md5(file.name)) != source.md5:
                raise ValueError(
                    f"what {source.url} gives is not the published file, and is not kept: MD5 {md5}, published "
                    f"{source.md5}"
                )
    except requests.exceptions.RequestException as error:
        warnings.warn(f"{source.url} could not be downloaded: {error}", stacklevel=4)
        return None
    return _checked(target, source.forms[0])
