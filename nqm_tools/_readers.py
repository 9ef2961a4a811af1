"""Readers of the publishers' file formats. Each gives uint8 images, texts or recordings, and integer labels.

Files come from elsewhere, so pickles are read by an unpickler that knows arrays and plain values only, and archives
member by member, in memory: nothing is ever unpacked to a path that an archive names.
"""

import csv
import gzip
import io
import pathlib
import pickle
import re
import struct
import tarfile
import wave
import zipfile

import numpy as np


class DataFileError(ValueError):
    """A data file is truncated, corrupt, or not what its name says."""


def read(kind, path):
    """Read one file with the reader of its kind.

    Raises
    ------
    DataFileError
        Naming the file, whatever its reader stumbled on.
    """
    try:
        return _READERS[kind](path)
    except Exception as error:
        raise DataFileError(f"{path} is truncated, corrupt or no {kind} file: {error!r}") from error


_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_SAFE_GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *((module, name) for module in _ARRAY_MODULES for name in ("_reconstruct", "scalar")),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in (
            "bytes",
            "bytearray",
            "complex",
            "dict",
            "float",
            "frozenset",
            "int",
            "list",
            "set",
            "str",
            "tuple",
        )
    ),
}


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _SAFE_GLOBALS:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which no data needs")
        # NumPy moved its core; load from where it is today.
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def _cifar(path):
    """{"train": (images, labels), "test": ...} from the CIFAR-10 Python archive; images (n, 32, 32, 3)."""
    parts = {"train": [], "test": []}
    with gzip.open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            name = pathlib.PurePosixPath(member.name).name
            if not member.isfile() or not re.fullmatch(r"data_batch_\d|test_batch", name):
                continue
            batch = _DataUnpickler(archive.extractfile(member), encoding="bytes").load()
            images = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = np.asarray(batch[b"labels"], int)
            _same_length(images, labels)
            parts["test" if name == "test_batch" else "train"].append((images, labels))
        # The checksum of the content comes at the stream's very end, where tarfile has no reason to read.
        while stream.read(1 << 20):
            pass
    if not all(parts.values()):
        raise ValueError("it does not hold both data_batch_1 to data_batch_5 and test_batch")
    return {split: tuple(map(np.concatenate, zip(*batches, strict=True))) for split, batches in parts.items()}


def _idx(path):
    """An array of uint8 from a gzipped IDX file (MNIST's format)."""
    with gzip.open(path, "rb") as file:
        content = file.read()
    zeros, kind, dimensions = struct.unpack_from(">HBB", content)
    if zeros != 0 or kind != 8:
        raise ValueError("the header is not that of an IDX file of bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _svhn(path):
    """Images (n, 32, 32, 3) and labels 0..9 from SVHN's MATLAB file, which stores digit 0 as label 10."""
    import scipy.io

    content = scipy.io.loadmat(path, variable_names=("X", "y"))
    images = np.asarray(content["X"], np.uint8).transpose(3, 0, 1, 2)
    labels = np.asarray(content["y"], int).ravel() % 10
    _same_length(images, labels)
    return images, labels


def _fsdd(path):
    """A list of mono recordings (float, in [-1, 1), 8 kHz) and the digits spoken."""
    recordings, labels = [], []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            match = re.search(r"/recordings/(\d)_\w+_\d+\.wav$", "/" + name)
            if match is None:
                continue
            with wave.open(io.BytesIO(archive.read(name))) as sound:
                if (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) != (1, 2, 8000):
                    raise ValueError(f"{name} is not mono, 16 bit, 8 kHz")
                samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
            recordings.append(samples.astype(np.float32) / 32768)
            labels.append(int(match[1]))
    if not recordings:
        raise ValueError("it holds no recordings/DIGIT_SPEAKER_INDEX.wav")
    return recordings, np.array(labels)


def _ag_news(path):
    """A list of texts (title and description) and classes 1..4."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, strict=True))
    if not rows or any(len(row) != 3 for row in rows):
        raise ValueError("every row must be class, title, description")
    labels = np.array([int(row[0]) for row in rows])
    if not np.isin(labels, (1, 2, 3, 4)).all():
        raise ValueError("classes must be 1 to 4")
    return [f"{title} {description}".replace("\\", " ") for _, title, description in rows], labels


def _same_length(images, labels):
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")


_READERS = {"CIFAR-10": _cifar, "IDX": _idx, "SVHN": _svhn, "FSDD": _fsdd, "AG News": _ag_news}
