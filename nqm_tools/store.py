"""A folder of Parquet files that holds the results of a sweep, one row a run, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nqm_tools import _store_file
from nqm_tools._types import FilePath
from nqm_tools._writing import whole_file

if TYPE_CHECKING:
    import filelock
    import pandas as pd

__all__ = [
    "Store",
    "StoreError",
]

# A writer needs seconds, so a temporary file of this age (in seconds) belongs to one that was killed.
ABANDONED = 3600


class StoreError(OSError):
    """The operating system refused to read or write a store; the message names the folder and the reason.

    Examples
    --------
    >>> import tempfile
    >>> try:
    ...     Store(pathlib.Path(tempfile.mkstemp()[1], "in a file"))
    ... except StoreError as error:
    ...     print(str(error).rpartition(": ")[2])
    Not a directory
    """


class Store:
    """The results of a sweep's runs, in a folder that several processes may read and write at once.

    A row is a dictionary: ``key`` (hexadecimal hash of the run's settings), ``status`` (``finished``, ``diverged`` or
    ``failed``), ``reason`` (str), further scalars (str, int, float, bool or None) and curves (1-d arrays or lists of
    floats or ints). Of the rows with one key, the newest that finished or diverged counts; else the newest.

    Files that are damaged, or were not written here, are warned of and otherwise treated as absent.

    Parameters
    ----------
    folder : path
    create : bool
        Make the folder if need be, and insist that it can be written to. False is for reading.

    Raises
    ------
    ValueError
        If the folder is a file, or does not exist and ``create`` is false.
    StoreError
        If ``create`` and the folder cannot be made or written to.
    ModuleNotFoundError
        If pyarrow or filelock is not installed.

    Examples
    --------
    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> row = {"key": "0a1b", "status": "finished", "reason": "", "seed": 0, "step": [0, 1], "train_loss": [1.0, 0.5]}
    >>> _ = store.write([row], provenance={"device": "cpu"})
    >>> sorted(store.finished()), store.load_curves()["train_loss"].tolist()
    (['0a1b'], [1.0, 0.5])
    """

    def __init__(self, folder: FilePath, create: bool = True) -> None:
        if not isinstance(folder, str | os.PathLike):
            raise TypeError(f"folder must be the path of a folder; got {folder!r}")
        self.folder = pathlib.Path(folder).expanduser()
        if folder == "" or not (self.folder.is_dir() or (create and not self.folder.exists())):
            raise ValueError(
                f"folder must be the path of {'a' if create else 'an existing'} folder; got {str(folder)!r}"
            )
        for package in ("pyarrow", "filelock"):  # not after the first hour of the sweep
            _store_file.import_package(package)
        if create:
            with refusals(self.folder, "the store {folder} cannot be made: {reason}"):
                self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise StoreError(f"the store {self.folder} cannot be written to: permission denied")
        self._seen = {}  # file name: (its identity when it was read, what was read without the table)

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r})"

    def write(self, rows: Sequence[dict[str, object]], provenance: dict) -> pathlib.Path:
        """Add the results of some runs as one file, whole or not at all; its path.

        The same runs, with the same of them failed, replace their file.

        Parameters
        ----------
        rows : list of dict
            At least one; no key twice. Curves of a row have the length of its curve ``step``; a failed run has none.
            A column is of one kind (ints among floats become floats), and None where a row lacks it.
        provenance : dict
            Versions, device, checksums of the data, ...: anything that JSON can hold.

        Raises
        ------
        ValueError, TypeError
            If the rows or the provenance are not as above. Nothing is written then.
        StoreError
            If the operating system refuses, say because the disk is full. The earlier files are intact then.
        """
        rows = _store_file.check_rows(rows)
        content = _store_file.encode(rows, provenance)
        # The failed are part of the name, so that a second, failing attempt cannot replace results.
        runs = sorted((row["key"], row["status"] == "failed") for row in rows)
        path = self.folder / f"{hashlib.sha256(json.dumps(runs).encode()).hexdigest()[:16]}.parquet"
        with refusals(self.folder), whole_file(path) as file:
            file.write(content)
        return path

    def finished(self, set_aside: bool = False) -> set[str]:
        """The keys of the runs that finished or diverged; the others are to be tried (again).

        Every file is checked when it is first seen, and not read again until it changes. With ``set_aside``, damaged
        files are renamed to ``<name>.corrupt``, so that they are reported once; what killed writers left is removed.
        """
        keys = set()
        for file in self._files(set_aside=set_aside):
            keys |= _finished(file)
        for path in self.folder.glob(".*.parquet.*.tmp") if set_aside else ():
            with refusals(self.folder), contextlib.suppress(FileNotFoundError):
                if path.is_file() and time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()
        return keys

    def arrived(self) -> set[str]:
        """The keys that finished in files whose names are new since this object last looked.

        For the time of one listing, whatever the store holds. Damaged files are set aside, as by :meth:`finished`.
        """
        keys = set()
        for file in self._files(set_aside=True, new=True):
            keys |= _finished(file)
        return keys

    def rows(self, sort_by: Sequence[str] = ()) -> list[dict[str, object]]:
        """The rows as they were written, as a list of dictionaries; curves are float64 or int64 arrays.

        Rows are sorted by the columns ``sort_by`` (numbers, then text, then NaN, then None), and then by key, so that
        the order does not depend on the files. A row has None where another row of its file has a value.
        """
        return self._rows(sort_by, with_curves=True)[0]

    def load(self, sort_by: Sequence[str] = ()) -> pd.DataFrame:
        """The scalars as a pandas frame, one row a run, sorted as by :meth:`rows`.

        None becomes what pandas has for it: NaN among floats, ``pd.NA`` among ints and bools.
        """
        rows, curves = self._rows(sort_by, with_curves=False)
        return _frame(rows, curves)

    def load_curves(self, sort_by: Sequence[str] = ()) -> pd.DataFrame:
        """The curves as a tidy pandas frame: one row per recorded step of each run, with the run's scalars.

        Runs are sorted as by :meth:`rows`. A curve that a run lacks is NaN; runs without curves are left out.
        """
        rows, curves = self._rows(sort_by, with_curves=True)
        rows = [row for row in rows if isinstance(row.get("step"), np.ndarray)]
        lengths = [len(row["step"]) for row in rows]
        frame = _frame(rows, curves)
        frame = frame.loc[frame.index.repeat(lengths)].reset_index(drop=True)
        for name in curves or ("step",):
            parts = [
                row[name] if isinstance(row.get(name), np.ndarray) else np.full(length, np.nan)
                for row, length in zip(rows, lengths, strict=True)
            ]
            frame[name] = np.concatenate(parts) if parts else np.empty(0)
        return frame

    def provenance(self) -> dict[str, dict]:
        """``{file name: provenance}``, as given to :meth:`write`; the names are those before :meth:`compact`."""
        found = {}
        for file in sorted(self._files(), key=lambda file: file.written):
            found[file.name] = file.provenance
        return found

    def compact(self) -> None:
        """Put the files together, to one for each set of columns; whatever is read of the store stays the same.

        Most of a small file is its footer, and opening it takes longer than reading it. Further runs are written beside
        what was put together. Not while another process uses the store: it might look for a file that is gone.

        Raises
        ------
        StoreError
            If the operating system refuses. Nothing is lost then: files go when what they hold is written elsewhere.

        Examples
        --------
        >>> import tempfile
        >>> store = Store(tempfile.mkdtemp())
        >>> for key in ("0a", "0b"):
        ...     _ = store.write([{"key": key, "status": "finished", "reason": ""}], provenance={})
        >>> store.compact()
        >>> len(list(store.folder.glob("*.parquet"))), sorted(store.finished())
        (1, ['0a', '0b'])
        """
        kinds, places = {}, {}
        for path, files in self._contents(tables=True):
            for file in files:
                columns = tuple((field.name, str(field.type)) for field in file.table.schema)
                of_kind = kinds.setdefault(columns, {})
                # Of two with one name, which hold the same runs, the newest counts.
                if file.name not in of_kind or file.written > of_kind[file.name].written:
                    of_kind[file.name] = file
                places.setdefault(path, set()).add(columns)
        kept = set()
        for columns, files in kinds.items():
            of_kind = [path for path, held in places.items() if columns in held]
            if len(of_kind) == 1:
                kept |= set(of_kind)
                continue
            content = _store_file.encode_several([files[name] for name in sorted(files)])
            name = hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()[:16]
            path = self.folder / f"{name}.parquet"
            with refusals(self.folder), whole_file(path) as file:
                file.write(content)
            kept.add(path)
        for path in places.keys() - kept:
            with refusals(self.folder):
                path.unlink()
            self._seen.pop(path.name, None)

    def lock(self, name: str) -> filelock.BaseFileLock:
        """A :class:`filelock.FileLock` that one process at a time can hold; not acquired yet.

        ``name`` is made of letters, digits, ``_``, ``-`` and dots, and begins with none of these dots.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
            raise ValueError(f"name must be made of letters, digits, '_', '-' and inner dots; got {name!r}")
        with refusals(self.folder):
            (self.folder / "locks").mkdir(exist_ok=True)
        return _store_file.import_package("filelock").FileLock(self.folder / "locks" / f"{name}.lock")

    def _rows(self, sort_by, with_curves):
        """The row that counts of every run, sorted; and the names of the curves, first seen first."""
        newest, curves = {}, {}
        for file in self._files(tables=with_curves):
            curves |= dict.fromkeys(file.curves)
            for row in _store_file.table_rows(file.table, True) if with_curves else map(dict, file.scalars):
                rank = (row["status"] != "failed", file.written, file.name)
                if row["key"] not in newest or rank > newest[row["key"]][0]:
                    newest[row["key"]] = rank, row
        rows = [row for _, row in newest.values()]
        return _sorted(rows, sort_by, curves), list(curves)

    def _files(self, tables=False, set_aside=False, new=False):
        """Yield what :meth:`_contents` does, file by file."""
        for _, files in self._contents(tables, set_aside, new):
            yield from files

    def _contents(self, tables=False, set_aside=False, new=False):
        """Yield the files that are whole and ours (with their tables, if asked), and warn of the others.

        Each as its path and a list of what it holds, of several files if they were put together. With ``new``, only
        those whose names were not seen before.
        """
        with refusals(self.folder, "the store {folder} cannot be read: {reason}"):  # glob would find nothing, silently
            names = sorted(os.listdir(self.folder) if not new else set(os.listdir(self.folder)) - self._seen.keys())
        for path in (self.folder / name for name in names if name.endswith(".parquet") and name[0] != "."):
            try:
                # Taken before the file is read: if it is replaced meanwhile, it is only read once more.
                identity = _identity(path)
                seen, files = self._seen.get(path.name, (None, None))
                if tables or seen != identity:
                    files = _store_file.read(path)
                    self._seen[path.name] = identity, [file._replace(table=None) for file in files]
            except OSError as error:
                if isinstance(error, FileNotFoundError) and not path.is_symlink():
                    continue  # set aside since the folder was listed
                warnings.warn(f"{path} cannot be read and is left out: {error.strerror}", stacklevel=4)
                continue
            file = files[0]
            if file.problem is None:
                yield path, files
                continue
            warnings.warn(f"{path} {file.problem}. It is left out.", stacklevel=4)
            if set_aside and file.damaged:
                with refusals(self.folder), contextlib.suppress(FileNotFoundError):
                    if _identity(path) == identity:  # else another process has just replaced it
                        os.replace(path, path.with_name(f"{path.name}.corrupt"))
                        del self._seen[path.name]  # the next file of this name is a new one


def _finished(file):
    return {key for key, status in file.statuses.items() if status != "failed"}


def _identity(path):
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _sorted(rows, sort_by, curves):
    names = dict.fromkeys(name for row in rows for name in row if name not in curves)
    if isinstance(sort_by, str) or (rows and not set(sort_by) <= set(names)):
        raise ValueError(f"sort_by must be a list of columns, of {', '.join(map(repr, names))}; got {sort_by!r}")

    def order(value):
        if value is None or value != value:
            return (3, 0) if value is None else (2, 0)
        return (1 if isinstance(value, str) else 0, value)

    return sorted(rows, key=lambda row: ([order(row.get(name)) for name in sort_by], row["key"]))


def _frame(rows, curves):
    import pandas as pd

    names = dict.fromkeys([name for row in rows for name in row if name not in curves] or _store_file.REQUIRED)
    return pd.DataFrame({name: _series([row.get(name) for row in rows]) for name in names})


def _series(values):
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if kinds in ({float}, {int, float}):
        return pd.Series([math.nan if value is None else value for value in values], dtype=float)
    if kinds in ({int}, {bool}) and None in values:
        return pd.Series(values, dtype="Int64" if kinds == {int} else "boolean")
    return pd.Series(values, dtype=object if len(kinds) > 1 or not values else None)


@contextlib.contextmanager
def refusals(
    folder: FilePath,
    message: str = "the store {folder} cannot be written to: {reason}. What was finished before is intact.",
) -> Iterator[None]:
    """A context in which what the operating system refuses is a :class:`StoreError` with this message."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not os.path.isdir(folder):
            raise StoreError(f"the store {folder} is no longer there: it was moved or deleted meanwhile") from error
        raise StoreError(message.format(folder=folder, reason=error.strerror or error)) from error
