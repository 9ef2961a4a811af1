"""Mutations of good files: what a reader makes of them is an error that names the file, or right, or differs where the
file does. A checksum guards what is compressed; the contents without it are mutated on their own."""

import gzip
import io
import pathlib
import pickle
import zipfile

import numpy as np
import publishers
import pytest
import scipy.io

from nqm_tools._readers import DataFileError, read

ROUNDS = 300
ENDS = 300  # bytes at both ends of a file, where its form is told: half of the mutations go there


def mutated(content, rng):
    """The content with one to three changes, each of a byte, or of up to eight bytes put in, left out or repeated."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        size = len(content)
        if size == 0:
            break
        place = int(rng.integers(size))
        if rng.random() < 0.5:
            place = int(rng.integers(min(size, ENDS))) * int(rng.choice([1, -1])) % size
        length = int(rng.integers(1, 9))
        match rng.integers(6):
            case 0:
                content[place] ^= 1 << int(rng.integers(8))
            case 1:
                content[place] = int(rng.integers(256))
            case 2:
                content[place:place] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
            case 3:
                del content[place : place + length]
            case 4:
                content[place:place] = content[place : place + length]
            case 5:
                del content[place:]
    return bytes(content)


def with_bytes_changed(content, rng):
    """The content with one to three bytes changed, none moved."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(content)))
        if rng.random() < 0.5:
            place = int(rng.integers(min(len(content), ENDS))) * int(rng.choice([1, -1])) % len(content)
        content[place] = int(rng.integers(256))
    return bytes(content)


def outcome(kind, path):
    """What is read, or None if it is refused, in a short message that names the file."""
    try:
        return read(kind, path)
    except DataFileError as error:
        message = str(error)
    assert str(path) in message
    assert len(message) < 400 + len(str(path))
    assert message.isprintable()
    return None


def flat(value):
    """All arrays and texts of what was read, in order."""
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list | tuple):
        return [part for item in value for part in flat(item)]
    return [value]


def equal(value, other):
    pairs = list(zip(flat(value), flat(other), strict=True))
    return all(np.array_equal(a, b) and getattr(a, "dtype", 0) == getattr(b, "dtype", 0) for a, b in pairs)


POOLS = [
    (np.random.default_rng(part).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n) % 10)
    for part, n in enumerate((10, 4))
]
PICKLES = {
    "python2": publishers.python2_pickle,
    **{f"protocol{number}": lambda value, number=number: pickle.dumps(value, number) for number in (0, 2, 4, 5)},
}


def published(name, folder, index=0):
    publishers.publish(name, folder)
    return (folder / publishers.SOURCES[name][index].path).read_bytes()


def python_archive(folder):
    publishers.write_cifar(folder / "c.tar.gz", *POOLS)
    return (folder / "c.tar.gz").read_bytes()


GUARDED = {
    "CIFAR-10, pickled": ("CIFAR-10", python_archive),
    "CIFAR-10, binary": ("CIFAR-10", lambda folder: published("cifar2", folder)),
    "MNIST images": ("MNIST images", lambda folder: published("mnist", folder, 0)),
    "MNIST labels": ("MNIST labels", lambda folder: published("mnist", folder, 1)),
    "FSDD": ("FSDD", lambda folder: published("fsdd", folder)),
}


@pytest.mark.parametrize(("kind", "make"), GUARDED.values(), ids=GUARDED)
def test_a_mutated_archive_is_refused_or_read_right(tmp_path, kind, make):
    rng = np.random.default_rng(1)
    content, path = make(tmp_path), tmp_path / "file"
    path.write_bytes(content)
    right, refused = read(kind, path), 0
    for _ in range(ROUNDS):
        path.write_bytes(mutated(content, rng))
        result = outcome(kind, path)
        refused += result is None
        assert result is None or equal(result, right)
    assert refused > 0.7 * ROUNDS  # what little is left are dates and the like


def batch_folder(folder, dump):
    files = publishers.cifar_python_files(*POOLS, dump) if dump else publishers.cifar_binary_files(*POOLS)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / f"data_batch_2{'' if dump else '.bin'}"


@pytest.mark.parametrize("dump", [*PICKLES.values(), None], ids=[*PICKLES, "binary"])
def test_changed_bytes_of_a_cifar_batch_change_their_own_pixels_and_labels_only(tmp_path, dump):
    rng = np.random.default_rng(2)
    batch = batch_folder(tmp_path, dump)
    content = batch.read_bytes()
    right, told, changed = read("CIFAR-10", tmp_path), 0, 0
    for _ in range(ROUNDS):
        mutation = with_bytes_changed(content, rng)
        batch.write_bytes(mutation)
        result = outcome("CIFAR-10", tmp_path)
        if result is None:
            told += 1
            continue
        differing = sum(a != b for a, b in zip(content, mutation, strict=True))
        differences = 0
        for a, b in zip(flat(right), flat(result), strict=True):
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            differences += np.sum(a != b)
        assert differences <= differing
        changed += differences > 0
        assert all(set(labels) <= set(range(10)) for _, labels in result.values())
    assert told > 0 or dump is None  # in binary, of two labels only
    assert changed > 0


@pytest.mark.parametrize("dump", [*PICKLES.values(), None], ids=[*PICKLES, "binary"])
def test_a_mutated_cifar_batch_is_refused_or_of_valid_shapes(tmp_path, dump):
    rng = np.random.default_rng(3)
    batch = batch_folder(tmp_path, dump)
    content = batch.read_bytes()
    for _ in range(ROUNDS):
        batch.write_bytes(mutated(content, rng))
        result = outcome("CIFAR-10", tmp_path)
        for images, labels in result.values() if result else ():
            assert images.shape == (len(labels), 32, 32, 3)
            assert images.dtype == np.uint8
            assert set(labels) <= set(range(10))


def matlab(compress):
    file = io.BytesIO()
    labels = np.where(POOLS[0][1] == 0, 10, POOLS[0][1]).astype(np.uint8)[:, None]
    scipy.io.savemat(file, {"X": POOLS[0][0].transpose(1, 2, 3, 0), "y": labels}, do_compression=compress)
    return file.getvalue()


@pytest.mark.parametrize("compress", [True, False])
def test_a_mutated_matlab_file_is_refused_or_of_valid_shapes(tmp_path, compress):
    rng = np.random.default_rng(4)
    content, path = matlab(compress), tmp_path / "s.mat"
    path.write_bytes(content)
    right = read("SVHN", path)
    for _ in range(ROUNDS):
        path.write_bytes(mutated(content, rng))
        result = outcome("SVHN", path)
        if result is not None and compress:
            assert equal(result, right)
        elif result is not None:
            images, labels = result
            assert images.shape == (len(labels), 32, 32, 3)
            assert images.dtype == np.uint8
            assert set(labels) <= set(range(10))


@pytest.mark.parametrize("index", range(4))
def test_a_mutated_unpacked_idx_file_is_refused_or_of_valid_shapes(tmp_path, index):
    rng = np.random.default_rng(5)
    content, path = gzip.decompress(published("mnist", tmp_path, index)), tmp_path / "file"
    for _ in range(ROUNDS):
        path.write_bytes(mutated(content, rng))
        result = outcome(("MNIST images", "MNIST labels")[index % 2], path)
        if result is not None:
            assert len(result)
            assert result.shape[1:] == ((28, 28, 1), ())[index % 2]
            assert index % 2 == 0 or set(result) <= set(range(10))


def test_a_mutated_recording_is_refused_or_of_whole_samples(tmp_path):
    rng = np.random.default_rng(6)
    content = publishers.wav(rng.uniform(-1, 1, 50))
    folder = tmp_path / "recordings"
    folder.mkdir()
    for _ in range(ROUNDS):
        (folder / "3_nobody_0.wav").write_bytes(mutated(content, rng))
        result = outcome("FSDD", folder)
        if result is not None:
            (samples,), labels = result
            assert labels.tolist() == [3]
            assert len(samples)
            assert np.abs(samples).max() <= 1


def test_mutated_news_are_refused_or_texts_of_known_classes(tmp_path):
    rng = np.random.default_rng(7)
    content, path = published("ag_news", tmp_path), tmp_path / "file.csv"
    for _ in range(ROUNDS):
        path.write_bytes(mutated(content, rng))
        result = outcome("AG News", path)
        if result is not None:
            texts, labels = result
            assert len(texts) == len(labels) > 0
            assert set(labels) <= {1, 2, 3, 4}
            assert all(isinstance(text, str) for text in texts)


def test_a_mutated_table_of_contents_leaves_out_no_recording(tmp_path):
    """A name that is changed in the table only, so that no recording bears it, is not one the less."""
    content = published("fsdd", tmp_path)
    table = zipfile.ZipFile(io.BytesIO(content)).start_dir
    place = content.index(b".wav", table)
    path = tmp_path / "f.zip"
    path.write_bytes(content[:place] + b".wbv" + content[place + 4 :])
    assert outcome("FSDD", path) is None


def test_an_entry_of_a_table_of_contents_swallows_no_other(tmp_path):
    """One changed byte: the length of an entry's comment is that of the entry after it."""
    content = published("fsdd", tmp_path)
    start = zipfile.ZipFile(io.BytesIO(content)).start_dir
    second = content.index(b"PK\1\2", start + 4)
    third = content.index(b"PK\1\2", second + 4)
    place = start + 32
    path = tmp_path / "f.zip"
    path.write_bytes(content[:place] + bytes([third - second]) + content[place + 1 :])
    assert len(zipfile.ZipFile(path).infolist()) == len(zipfile.ZipFile(io.BytesIO(content)).infolist()) - 1
    assert outcome("FSDD", path) is None
    path.write_bytes(content[:-2] + b"\4\0note")
    assert outcome("FSDD", path) is not None, "a comment of the file is none of its entries"


def test_the_mutations_of_these_tests_change_nearly_every_file():
    rng = np.random.default_rng(8)
    content = pathlib.Path(__file__).read_bytes()
    assert np.mean([mutated(content, rng) != content for _ in range(200)]) > 0.95
