"""Readers of the publishers' file formats. Each gives uint8 images, texts or recordings, and integer labels.

Files come from elsewhere, so what they say is data only: pickles are never unpickled, archives are read member by
member and never unpacked to a path that they name, and what is compressed may grow to ``LIMIT`` bytes and no further.
A value that its type would change is an error, and so is whatever is not the data set that the reader is for.
"""

import csv
import gzip
import io
import pathlib
import re
import stat
import struct
import tarfile
import zipfile

import numpy as np

from nqm_tools import _matlab, _pickles

LIMIT = 1 << 30  # bytes of a file, and of what it unpacks to; the largest of the paper's has 225 million
_CAUSE = 200  # characters of a message that are worth reading
_GZIP = b"\x1f\x8b"


class DataFileError(ValueError):
    """A data file is truncated, corrupt, or not what its name says."""


def read(kind, path):
    """Read one file, or one unpacked folder, with the reader of its kind.

    Raises
    ------
    DataFileError
        Naming the file, whatever its reader stumbled on.
    """
    path = pathlib.Path(path)
    try:
        return _READERS[kind](path)
    except Exception as error:
        raise DataFileError(f"{path} is truncated, corrupt or no {kind} file: {_cause(error)}") from error


def _cause(error):
    """The words of an error in one short line; they may quote the file."""
    text = "".join(c if c.isprintable() else " " for c in " ".join(str(error).split()))
    if not isinstance(error, ValueError) or not text:
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return text if len(text) <= _CAUSE else f"{text[: _CAUSE - 3]}..."


def _check_regular(path):
    # Before it is opened: a pipe would wait for its writer.
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if status.st_size > LIMIT:
        raise ValueError(f"it has {status.st_size} bytes, more than {LIMIT}")


class _Bounded:
    """The content of a file, unpacked if it is gzipped, as far as LIMIT."""

    def __init__(self, path):
        _check_regular(path)
        self._file = open(path, "rb")  # noqa: SIM115 (closed by __exit__)
        self.gzipped = self._file.read(2) == _GZIP
        self._file.seek(0)
        self._content = gzip.GzipFile(fileobj=self._file) if self.gzipped else self._file
        self._left = LIMIT

    def read(self, size=-1):
        content = self._content.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {LIMIT} bytes")
        return content

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def _cifar(path):
    """{"train": (images, labels), "test": ...} from CIFAR-10, archive or folder, pickled or binary.

    Images (n, 32, 32, 3), in the order of the batches' numbers, whatever that of the files is: it is the same for the
    publishers' two archives, whose examples are the same.
    """
    batches = {}
    for name, content in _cifar_members(path):
        match = re.fullmatch(r"(data_batch_\d|test_batch)(\.bin)?", name)
        if match is None:
            continue
        if match[1] in batches:
            raise ValueError(f"it holds {match[1]} twice")
        batches[match[1]] = (_binary_batch if match[2] else _pickled_batch)(content())
    parts = {"train": [], "test": []}
    for name in sorted(batches):
        parts["test" if name == "test_batch" else "train"].append(batches[name])
    if not all(parts.values()):
        raise ValueError("it does not hold both data_batch_1 to data_batch_5 and test_batch")
    return {split: tuple(map(np.concatenate, zip(*pairs, strict=True))) for split, pairs in parts.items()}


def _cifar_members(path):
    """The names of an archive's or a folder's files, each with a function that reads it."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            yield file.name, lambda file=file: _content(file)
        return
    with _Bounded(path) as stream:
        # As a stream: in what is gzipped, going back means reading from the start.
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.isfile():
                    yield pathlib.PurePosixPath(member.name).name, archive.extractfile(member).read
        if stream.gzipped:
            # The checksum comes at the very end, where tarfile has no reason to read.
            while stream.read(1 << 20):
                pass
            return
    # Without one, tarfile takes a damaged header for the end, where zeros should be.
    with open(path, "rb") as file:
        file.seek(archive.offset)
        if len(end := file.read()) < 1024 or any(end):
            raise ValueError("the archive does not end as one")


def _content(path):
    with _Bounded(path) as stream:
        return stream.read()


def _pickled_batch(content):
    batch = _pickles.read(content)
    data = _pickles.array(_pickles.keyed(batch, "data"))
    labels = _pickles.array(_pickles.keyed(batch, "labels"))
    if data.ndim != 2 or data.shape[1] != 3072 or labels.ndim != 1:
        raise ValueError(f"images must be rows of 3072 and labels a row; they have shapes {data.shape}, {labels.shape}")
    return _cifar_images(_pixels(data)), _labels(labels, len(data), 0, 9)


def _binary_batch(content):
    """Rows of a label and 3,072 bytes."""
    if not content or len(content) % 3073:
        raise ValueError(f"a batch must be rows of 3073 bytes; it has {len(content)} bytes")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return _cifar_images(rows[:, 1:]), _labels(rows[:, 0], len(rows), 0, 9)


def _cifar_images(rows):
    """From the publisher's rows: all of red, then green, then blue, each line by line."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _idx(path):
    """An array of uint8 from an IDX file (MNIST's format), gzipped or not."""
    with _Bounded(path) as file:
        zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
        if zeros != 0 or kind != 8:
            raise ValueError("the header is not that of an IDX file of bytes")
        if not 1 <= dimensions <= 4:
            raise ValueError(f"an IDX file of data has 1 to 4 dimensions; it has {dimensions}")
        shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
        content = file.read()
    count = 1
    for length in shape:
        count *= length
    if len(content) != count:
        raise ValueError(f"the header says {shape}, {count} bytes; it holds {len(content)}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _mnist_images(path):
    """Digits (n, 28, 28, 1)."""
    images = _idx(path)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images):
        raise ValueError(f"images must have shape (n, 28, 28); they have {images.shape}")
    return images[..., None]


def _mnist_labels(path):
    """Digits 0 to 9."""
    labels = _idx(path)
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels must have shape (n,); they have {labels.shape}")
    return _labels(labels, len(labels), 0, 9)


def _svhn(path):
    """Images (n, 32, 32, 3) and labels 0..9 from SVHN's MATLAB file, which stores digit 0 as label 10."""
    content = _matlab.read(_content(path), ("X", "y"), LIMIT)
    images, labels = content["X"], content["y"]
    if images.shape == (32, 32, 3):  # MATLAB drops a last axis of length one
        images = images[..., None]
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or not images.size:
        raise ValueError(f"X must have shape (32, 32, 3, n), as SVHN's cropped digits have; it has {images.shape}")
    if max(labels.shape) != labels.size:
        raise ValueError(f"y must be one column; it has shape {labels.shape}")
    labels = _labels(labels.ravel(), images.shape[3], 1, 10)
    return _pixels(images).transpose(3, 0, 1, 2), labels % 10


def _fsdd(path):
    """A list of mono recordings (float, in [-1, 1), 8 kHz) and the digits spoken; from the archive, or its folder."""
    recordings, labels = [], []
    for name, content in _fsdd_members(path):
        match = re.search(r"/recordings/(\d)_\w+_\d+\.wav$", "/" + name, re.ASCII)
        if match is not None:
            try:
                recordings.append(_samples(content()).astype(np.float32) / 32768)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            labels.append(int(match[1]))
    if not recordings:
        raise ValueError("it holds no recordings/DIGIT_SPEAKER_INDEX.wav")
    return recordings, np.array(labels)


# The end of a zip file: signature, numbers of disks and of entries on this one, entries, the table's size and place;
# then comes the length of the comment that follows.
_ZIP_END = struct.Struct("<4s6sH10s")


def _fsdd_members(path):
    """Names and functions that read, in the order of the names."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            yield f"recordings/{file.name}", lambda file=file: _content(file)
        return
    _check_regular(path)
    with zipfile.ZipFile(path) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.filename)
        names = [member.filename for member in members]
        if len(set(names)) < len(names):
            raise ValueError("it holds a name twice")
        # A length that is wrong may make an entry swallow the next, which zipfile does not notice.
        with path.open("rb") as file:
            file.seek(-len(archive.comment) - _ZIP_END.size, io.SEEK_END)
            signature, _, entries, _ = _ZIP_END.unpack(file.read(_ZIP_END.size))
        if signature != b"PK\5\6" or entries != len(names):
            raise ValueError(f"its table of contents has {len(names)} entries of {entries}")
        if sum(member.file_size for member in members) > LIMIT:
            raise ValueError(f"it unpacks to more than {LIMIT} bytes")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename} is compressed in a way that the archive does not use")
            # Opened whether it is wanted or not, which holds its name against that in the table of contents.
            with archive.open(member) as file:
                yield member.filename, file.read


def _samples(content):
    """16-bit samples of a wave file (RIFF: chunks of a name, a length and that many bytes, padded to even)."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError("no wave file")
    chunks, position = {}, 12
    while position < len(content):
        name, length = struct.unpack_from("<4sI", content, position)
        chunk = content[position + 8 : position + 8 + length]
        if len(chunk) < length:
            raise ValueError(f"a chunk claims {length} bytes and has {len(chunk)}")
        if name in chunks:
            raise ValueError("a chunk is there twice")
        chunks[name] = chunk
        position += 8 + length + length % 2
    if len(chunks.get(b"fmt ", b"")) < 16 or b"data" not in chunks:
        raise ValueError("no samples, or no word of their form")
    coding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunks[b"fmt "])
    if (coding, channels, rate, bits) != (1, 1, 8000, 16):
        raise ValueError(f"not mono, 16 bit, 8 kHz, but {channels} channels, {bits} bit, {rate} Hz, coding {coding}")
    samples = chunks[b"data"]
    if not samples or len(samples) % 2:
        raise ValueError(f"{len(samples)} bytes, which are no whole samples")
    return np.frombuffer(samples, "<i2")


_CSV_HEADER = re.compile(r"(class|label)([ _]?(index|id))?", re.IGNORECASE)


def _ag_news(path):
    """A list of texts (title and description) and classes 1..4; a line of headings and blank last lines are skipped."""
    rows = list(csv.reader(io.StringIO(_content(path).decode("utf-8-sig"), newline=""), strict=True))
    if rows and len(rows[0]) == 3 and _CSV_HEADER.fullmatch(rows[0][0].strip()):
        if [name.strip().lower() for name in rows[0][1:]] != ["title", "description"]:
            raise ValueError(f"the columns must be class, title, description; the first line has {rows[0]}")
        rows = rows[1:]
    while rows and not "".join(rows[-1]).strip():
        rows.pop()
    if not rows:
        raise ValueError("it has no rows")
    for number, row in enumerate(rows, 1):
        if len(row) != 3:
            raise ValueError(f"every row must be class, title, description; example {number} has {len(row)} columns")
        if row[0].strip() not in ("1", "2", "3", "4"):
            raise ValueError(f"classes must be 1 to 4; example {number} has {row[0]!r}")
    labels = np.array([int(row[0]) for row in rows])
    return [f"{title} {description}".replace("\\", " ") for _, title, description in rows], labels


def _pixels(values):
    """Pixels as uint8: whole numbers from 0 to 255 of any type, or 255ths in [0, 1], a convention that people have."""
    if values.dtype == np.uint8:
        return values
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("pixels must be finite numbers")
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        levels = values.astype(np.float64) * 255
        pixels = np.rint(levels)
        # A level apart is 1, so that the nearest is told by far, even where numbers have 11 bits.
        if np.abs(levels - pixels).max() > 255 * np.finfo(values.dtype).eps:
            raise ValueError("pixels in [0, 1] must be 255ths")
        return pixels.astype(np.uint8)
    if low < 0 or high > 255 or (values.dtype.kind == "f" and (np.rint(values) != values).any()):
        raise ValueError(f"pixels must be whole numbers from 0 to 255, or 255ths; they lie between {low} and {high}")
    return values.astype(np.uint8)


def _labels(values, count, low, high):
    """A row of whole numbers in a range, as many as there are images."""
    if len(values) != count:
        raise ValueError(f"{count} images but {len(values)} labels")
    bad = ~np.isin(values, np.arange(low, high + 1))
    if bad.any():
        raise ValueError(f"labels must be whole numbers from {low} to {high}; there is {values[bad][0]}")
    return values.astype(int)


_READERS = {
    "CIFAR-10": _cifar,
    "IDX": _idx,
    "MNIST images": _mnist_images,
    "MNIST labels": _mnist_labels,
    "SVHN": _svhn,
    "FSDD": _fsdd,
    "AG News": _ag_news,
}
