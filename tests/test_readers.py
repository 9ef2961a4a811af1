"""The readers of the publishers' formats, on small files in those formats: what they read, and what they refuse."""

import gzip
import io
import os
import pathlib
import pickle
import re
import struct
import tarfile

import numpy as np
import publishers
import pytest
import scipy.io

from nqm_tools import _readers
from nqm_tools._readers import DataFileError, read

FILES = {
    "CIFAR-10": ("cifar2", "cifar-10-python.tar.gz"),
    "IDX": ("mnist", "mnist/train-images-idx3-ubyte.gz"),
    "SVHN": ("svhn2", "svhn/train_32x32.mat"),
    "FSDD": ("fsdd", "free-spoken-digit-dataset-1.0.10.zip"),
    "AG News": ("ag_news", "ag_news_csv/train.csv"),
}
KINDS = list(FILES)
PICKLES = {
    "python2": publishers.python2_pickle,
    **{f"protocol{number}": lambda value, number=number: pickle.dumps(value, number) for number in range(6)},
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """One intact file of every kind, as {kind: bytes}."""
    folder = tmp_path_factory.mktemp("intact")
    for name, _ in FILES.values():
        pools = publishers.publish(name, folder)
        if name == "cifar2":
            publishers.write_cifar(folder / "cifar-10-python.tar.gz", *pools)
    return {kind: (folder / path).read_bytes() for kind, (_, path) in FILES.items()}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def refused(kind, path, match=None):
    """The reader's error, which must name the file and say that it is no good."""
    with pytest.raises(DataFileError, match=match) as caught:
        read(kind, path)
    assert str(path) in str(caught.value)
    return caught.value


def images(rng, n, *shape):
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8)


# CIFAR-10


@pytest.mark.parametrize("dump", PICKLES.values(), ids=PICKLES)
def test_cifar_batches_end_as_nhwc_images_in_the_order_of_the_batches(tmp_path, rng, dump):
    train, test = (images(rng, 12, 32, 32, 3), np.arange(12) % 10), (images(rng, 4, 32, 32, 3), np.arange(4))
    publishers.write_cifar(tmp_path / "c.tar.gz", train, test, dump)
    content = read("CIFAR-10", tmp_path / "c.tar.gz")
    for pool, expected in ((content["train"], train), (content["test"], test)):
        np.testing.assert_array_equal(pool[0], expected[0])
        np.testing.assert_array_equal(pool[1], expected[1])
        assert pool[0].dtype == np.uint8


@pytest.mark.parametrize(("channel", "row", "column"), [(0, 0, 1), (1, 3, 7), (2, 31, 0)])
def test_a_cifar_rows_byte_lands_at_its_row_column_and_channel(tmp_path, channel, row, column):
    flat = np.zeros((1, 3072), np.uint8)
    flat[0, 1024 * channel + 32 * row + column] = 200  # the publisher's words: red, then green, then blue, row by row
    batch = publishers.python2_pickle({b"data": flat, b"labels": [5]})
    publishers.tar_gz(tmp_path / "c.tar.gz", [("data_batch_1", batch), ("test_batch", batch)])
    pixels, labels = read("CIFAR-10", tmp_path / "c.tar.gz")["train"]
    assert np.argwhere(pixels).tolist() == [[0, row, column, channel]]
    assert pixels[0, row, column, channel] == 200
    assert labels.tolist() == [5]


def test_the_python_2_pickles_of_these_tests_name_what_the_publishers_pickles_name():
    content = publishers.python2_pickle({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 2]})
    assert content.startswith(b"\x80\x02}")
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content
    assert b"numpy._core" not in content
    assert b"_codecs" not in content


def test_python_3_pickles_name_numpys_core_where_it_is_today():
    """So the two spellings that the readers must accept are both tried above."""
    assert b"numpy._core" in pickle.dumps(np.zeros(2), 2)
    assert b"_codecs" in pickle.dumps(np.zeros(2), 2)
    assert b"_frombuffer" in pickle.dumps(np.zeros(2), 5)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_cifar_archive_without_a_split_is_refused(tmp_path, rng, split):
    batch = publishers.cifar_batch(images(rng, 2, 32, 32, 3), [0, 2])
    name = {"train": "test_batch", "test": "data_batch_1"}[split]
    publishers.tar_gz(tmp_path / "c.tar.gz", [(f"cifar-10-batches-py/{name}", batch)])
    refused("CIFAR-10", tmp_path / "c.tar.gz")


def test_a_tar_archive_of_something_else_is_refused(tmp_path):
    publishers.tar_gz(tmp_path / "c.tar.gz", [("holiday/photo.jpg", b"\xff\xd8")])
    refused("CIFAR-10", tmp_path / "c.tar.gz")


@pytest.mark.parametrize(
    "batch",
    [
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        {b"data": np.zeros((2, 3000), np.uint8), b"labels": [0, 2]},
        {b"data": np.zeros((2, 3072), np.uint8)},
        {b"labels": [0, 2]},
        [1, 2],
    ],
    ids=["too few labels", "rows of another length", "no labels", "no data", "no dictionary"],
)
def test_a_cifar_batch_of_another_form_is_refused(tmp_path, batch):
    publishers.tar_gz(tmp_path / "c.tar.gz", [(n, pickle.dumps(batch, 2)) for n in ("data_batch_1", "test_batch")])
    refused("CIFAR-10", tmp_path / "c.tar.gz")


class Call:
    """Pickles as a call of ``function``, made when the pickle is read."""

    def __init__(self, function, *args):
        self.made = function, args

    def __reduce__(self):
        return self.made

    def __call__(self):
        raise AssertionError("only callable so that pickle takes it for a function")


def attacks(marker):
    return {
        "os.system": Call(os.system, f"touch '{marker}'"),
        "eval": Call(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Call(exec, f"open({str(marker)!r}, 'w')"),
        "open": Call(open, str(marker), "w"),
        "getattr": Call(Call(getattr, pathlib.Path(marker), "touch")),
        "import": Call(Call(getattr, Call(__import__, "os"), "mkdir"), str(marker)),
        "numpy": Call(np.savetxt, str(marker), [1.0]),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("attack", attacks("nowhere"))
def test_a_pickle_that_calls_functions_is_refused_before_the_call(tmp_path, attack, protocol):
    marker = tmp_path / "marker"
    content = pickle.dumps({b"labels": [], b"data": attacks(marker)[attack]}, protocol)
    pickle.loads(content)
    assert marker.exists(), "the attack must work on an unpickler without restrictions"
    marker.rmdir() if marker.is_dir() else marker.unlink()

    publishers.tar_gz(tmp_path / "c.tar.gz", [("data_batch_1", content), ("test_batch", content)])
    refused("CIFAR-10", tmp_path / "c.tar.gz", match="which no data needs")
    assert not marker.exists()


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_hostile_members_of_a_tar_archive_write_nothing(tmp_path, rng, monkeypatch):
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    (tmp_path / "target").write_bytes(b"precious")
    pool = images(rng, 2, 32, 32, 3), np.array([0, 2])
    batch = publishers.cifar_batch(*pool)
    members = [
        ("../../evil", b"evil"),
        (str(tmp_path / "evil"), b"evil"),
        (link("data_batch_3", str(tmp_path / "target")), b""),
        (link("data_batch_4", "../../../target"), b""),
        (link("data_batch_5", "../../evil", tarfile.LNKTYPE), b""),
        (link("batches", str(tmp_path)), b""),
        ("batches/through_the_link", b"evil"),
        ("../../data_batch_1", batch),
        (str(tmp_path / "test_batch"), batch),
    ]
    publishers.tar_gz(folder / "c.tar.gz", members)
    before = publishers.listing(tmp_path)
    content = read("CIFAR-10", folder / "c.tar.gz")
    assert publishers.listing(tmp_path) == before
    # Links are not followed either: the batches are those that are files in the archive.
    for split in ("train", "test"):
        np.testing.assert_array_equal(content[split][0], pool[0])
        np.testing.assert_array_equal(content[split][1], pool[1])


def write_batches(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("write", [write_batches, write_tar, lambda p, f: publishers.tar_gz(p, f.items())])
@pytest.mark.parametrize("make", [publishers.cifar_python_files, publishers.cifar_binary_files])
def test_every_version_of_cifar_gives_the_same_examples_in_the_same_order(tmp_path, rng, make, write):
    train, test = (images(rng, 12, 32, 32, 3), np.arange(12) % 10), (images(rng, 4, 32, 32, 3), np.arange(4))
    files = make(train, test)
    write(tmp_path / "c", {name: files[name] for name in sorted(files, reverse=True)})
    content = read("CIFAR-10", tmp_path / "c")
    for pool, expected in ((content["train"], train), (content["test"], test)):
        np.testing.assert_array_equal(pool[0], expected[0])
        np.testing.assert_array_equal(pool[1], expected[1])


def test_an_unpacked_tar_archive_with_a_damaged_header_is_no_shorter_one(tmp_path, rng):
    """There is no checksum over it all, and tarfile takes such a header for the end."""
    pools = (images(rng, 10, 32, 32, 3), np.arange(10)), (images(rng, 4, 32, 32, 3), np.arange(4))
    files = publishers.cifar_binary_files(*pools)
    write_tar(tmp_path / "c.tar", {name: files[name] for name in sorted(files, reverse=True)})
    content = bytearray((tmp_path / "c.tar").read_bytes())
    content[content.rindex(b"cifar-10-batches/data_batch_1")] ^= 1
    (tmp_path / "c.tar").write_bytes(content)
    refused("CIFAR-10", tmp_path / "c.tar", match="does not end as one")


def batch_of(data, labels):
    return {"data": np.asarray(data), "labels": labels}


GOOD_ROWS = np.arange(2 * 3072).reshape(2, 3072) % 256


def read_batch(tmp_path, batch, protocol=2):
    content = pickle.dumps(batch, protocol)
    publishers.tar_gz(tmp_path / "c.tar.gz", [(name, content) for name in ("data_batch_1", "test_batch")])
    return read("CIFAR-10", tmp_path / "c.tar.gz")["train"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "i8", "f4", ">f8", "f2"])
def test_pixels_of_other_types_are_read_as_they_are(tmp_path, dtype, protocol):
    pixels, _ = read_batch(tmp_path, batch_of(GOOD_ROWS.astype(dtype), [0, 9]), protocol)
    np.testing.assert_array_equal(pixels.transpose(0, 3, 1, 2).reshape(2, 3072), GOOD_ROWS)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_pixels_stored_in_0_to_1_are_read_right(tmp_path, dtype):
    pixels, _ = read_batch(tmp_path, batch_of((GOOD_ROWS / 255).astype(dtype), [0, 9]))
    np.testing.assert_array_equal(pixels.transpose(0, 3, 1, 2).reshape(2, 3072), GOOD_ROWS)


BAD_PIXELS = {
    "300": lambda a: np.where(a == 7, 300, a),
    "300.7": lambda a: np.where(a == 7, 300.7, a),
    "-1": lambda a: np.where(a == 7, -1, a),
    "7.5": lambda a: np.where(a == 7, 7.5, a),
    "NaN": lambda a: np.where(a == 7, np.nan, a),
    "infinity": lambda a: np.where(a == 7, np.inf, a),
    "scaled to -1 to 1": lambda a: a / 127.5 - 1,
    "standardised": lambda a: (a - a.mean()) / a.std(),
    "in 0 to 1, no 255ths": lambda a: a / 300,
    "true or false": lambda a: a > 100,
    "complex": lambda a: a + 0j,
    "objects": lambda a: a.astype(object),
    "texts": lambda a: a.astype(str),
}


@pytest.mark.parametrize("change", BAD_PIXELS.values(), ids=BAD_PIXELS)
def test_pixels_that_bytes_would_change_are_refused(tmp_path, change):
    with pytest.raises(DataFileError, match=re.escape(str(tmp_path))):
        read_batch(tmp_path, batch_of(change(GOOD_ROWS), [0, 9]))


BAD_LABELS = {
    "10": [0, 10],
    "-1": [0, -1],
    "2.7": [0, 2.7],
    "NaN": [0, float("nan")],
    "an array with 2.7": np.array([0, 2.7]),
    "an array with NaN": np.array([0, np.nan]),
    "true": [0, True],
    "text": [0, "9"],
    "None": [0, None],
    "beyond 64 bits": [0, 2**64],
    "one-hot rows": np.eye(10, dtype=int)[:2],
}


@pytest.mark.parametrize("labels", BAD_LABELS.values(), ids=BAD_LABELS)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels):
    with pytest.raises(DataFileError, match=re.escape(str(tmp_path))):
        read_batch(tmp_path, batch_of(GOOD_ROWS.astype(np.uint8), labels))


@pytest.mark.parametrize("labels", [(0, 9), np.array([0, 9]), np.array([0, 9], ">i2"), list(np.array([0, 9]))])
@pytest.mark.parametrize("protocol", range(6))
def test_labels_in_other_containers_are_read(tmp_path, labels, protocol):
    assert read_batch(tmp_path, batch_of(GOOD_ROWS.astype(np.uint8), labels), protocol)[1].tolist() == [0, 9]


@pytest.mark.parametrize("shape", [(2, 1024), (2, 32, 32, 3), (2, 3, 32, 32), (6144,)])
def test_images_of_another_shape_or_order_are_refused(tmp_path, shape):
    data = np.zeros(shape, np.uint8)
    with pytest.raises(DataFileError, match="rows of 3072"):
        read_batch(tmp_path, batch_of(data, [0, 9]))


def test_a_pickle_that_would_crash_numpys_own_reader_is_refused(tmp_path):
    """An object array over bytes of the file's making: its elements would be taken for addresses."""
    content = pickle.dumps(batch_of(GOOD_ROWS.astype(np.uint8), [0, 9]), 2).replace(b"u1", b"O8")
    publishers.tar_gz(tmp_path / "c.tar.gz", [(name, content) for name in ("data_batch_1", "test_batch")])
    refused("CIFAR-10", tmp_path / "c.tar.gz")


def test_a_batch_that_is_there_twice_is_refused(tmp_path, rng):
    batch = publishers.cifar_batch(images(rng, 2, 32, 32, 3), [0, 2])
    publishers.tar_gz(tmp_path / "c.tar.gz", [(n, batch) for n in ("a/data_batch_1", "b/data_batch_1", "test_batch")])
    refused("CIFAR-10", tmp_path / "c.tar.gz", match="data_batch_1 twice")


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_a_binary_batch_of_broken_rows_is_refused(tmp_path, size):
    publishers.tar_gz(tmp_path / "c.tar.gz", [(n, bytes(size)) for n in ("data_batch_1.bin", "test_batch.bin")])
    refused("CIFAR-10", tmp_path / "c.tar.gz", match=f"it has {size} bytes")


# IDX


@pytest.mark.parametrize("shape", [(5,), (4, 2, 3), (2, 28, 28)])
def test_an_idx_file_gives_its_array(tmp_path, rng, shape):
    array = images(rng, *shape)
    publishers.write_idx(tmp_path / "a.gz", array)
    result = read("IDX", tmp_path / "a.gz")
    np.testing.assert_array_equal(result, array)
    assert result.dtype == np.uint8


@pytest.mark.parametrize(
    "content",
    [
        struct.pack(">HBBI", 0, 13, 1, 1) + b"\0\0\0\0",
        struct.pack(">HBBI", 0, 9, 1, 1) + b"\0",
        struct.pack(">HBBI", 1, 8, 1, 1) + b"\0",
        struct.pack(">HBBI", 0, 8, 1, 3) + b"\0\0",
        struct.pack(">HBBI", 0, 8, 1, 3) + b"\0\0\0\0",
        struct.pack(">HBB", 0, 8, 3) + b"\0\0",
        b"",
    ],
    ids=["floats", "signed bytes", "another magic number", "too short", "too long", "cut in its header", "empty"],
)
def test_an_idx_file_of_another_form_is_refused(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    refused("IDX", tmp_path / "a.gz")


def test_an_unpacked_idx_file_is_read_as_well(tmp_path, rng):
    array = images(rng, 4, 28, 28)
    publishers.write_idx(tmp_path / "a.gz", array)
    (tmp_path / "a").write_bytes(gzip.decompress((tmp_path / "a.gz").read_bytes()))
    np.testing.assert_array_equal(read("IDX", tmp_path / "a"), array)


@pytest.mark.parametrize("shape", [(5,), (2, 16, 16), (2, 28, 28, 1), (0, 28, 28)])
def test_idx_files_that_are_no_digits_images_are_refused(tmp_path, shape):
    publishers.write_idx(tmp_path / "a.gz", np.zeros(shape, np.uint8))
    refused("MNIST images", tmp_path / "a.gz")


@pytest.mark.parametrize("labels", [[0, 10], [[0, 1]], []])
def test_idx_files_that_are_no_digits_labels_are_refused(tmp_path, labels):
    publishers.write_idx(tmp_path / "a.gz", np.array(labels, np.uint8))
    refused("MNIST labels", tmp_path / "a.gz")


# SVHN


def test_svhn_gives_nhwc_images_and_label_10_as_digit_0(tmp_path, rng):
    pixels, labels = images(rng, 10, 32, 32, 3), np.arange(10)
    publishers.write_svhn(tmp_path / "s.mat", pixels, labels)
    assert scipy.io.loadmat(tmp_path / "s.mat")["X"].shape == (32, 32, 3, 10)
    assert scipy.io.loadmat(tmp_path / "s.mat")["y"].ravel().tolist() == [10, *range(1, 10)]
    read_pixels, read_labels = read("SVHN", tmp_path / "s.mat")
    np.testing.assert_array_equal(read_pixels, pixels)
    np.testing.assert_array_equal(read_labels, labels)


@pytest.mark.parametrize(
    "content",
    [
        {"X": np.zeros((32, 32, 3, 4), np.uint8)},
        {"y": np.ones((4, 1))},
        {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((3, 1))},
        {"X": np.zeros((32, 32), np.uint8), "y": np.ones((32, 1))},
    ],
    ids=["no labels", "no images", "too few labels", "one grey image"],
)
def test_a_matlab_file_of_another_form_is_refused(tmp_path, content):
    scipy.io.savemat(tmp_path / "s.mat", content)
    refused("SVHN", tmp_path / "s.mat")


SVHN_IMAGES = np.arange(4 * 3072).reshape(32, 32, 3, 4) % 256


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("labels", ["u1", "i4", "f8"])
@pytest.mark.parametrize("pixels", ["u1", "u2", "f4", "f8"])
def test_svhn_is_read_in_the_types_that_matlab_stores(tmp_path, pixels, labels, compress):
    content = {"X": SVHN_IMAGES.astype(pixels), "y": np.array([[10], [1], [9], [2]], labels), "note": "mine"}
    scipy.io.savemat(tmp_path / "s.mat", content, do_compression=compress)
    read_pixels, read_labels = read("SVHN", tmp_path / "s.mat")
    np.testing.assert_array_equal(read_pixels, SVHN_IMAGES.transpose(3, 0, 1, 2))
    assert read_pixels.dtype == np.uint8
    assert read_labels.tolist() == [0, 1, 9, 2]


def test_one_image_in_matlabs_three_dimensions_is_read(tmp_path):
    scipy.io.savemat(tmp_path / "s.mat", {"X": SVHN_IMAGES[..., 0].astype(np.uint8), "y": 3})
    assert read("SVHN", tmp_path / "s.mat")[0].shape == (1, 32, 32, 3)


BAD_SVHN = {
    **{f"label {label}": {"y": [[1], [2], [3], [label]]} for label in (0, 11, 20, 255, 2.7, np.nan, -1)},
    **{f"pixel {pixel}": {"X": np.where(SVHN_IMAGES == 7, pixel, SVHN_IMAGES)} for pixel in (300, 300.7, np.nan, -1)},
    "16 x 16": {"X": np.zeros((16, 16, 3, 4), np.uint8)},
    "grey": {"X": np.zeros((32, 32, 1, 4), np.uint8)},
    "examples first": {"X": np.zeros((4, 32, 32, 3), np.uint8)},
    "one dimension more": {"X": np.zeros((32, 32, 3, 4, 1), np.uint8)},
    "labels in two columns": {"y": np.ones((2, 2))},
    "complex pixels": {"X": SVHN_IMAGES + 1j},
    "cells": {"X": np.array([[1], ["a"]], object)},
    "text": {"y": "1234"},
    "true and false": {"y": np.ones((4, 1), bool)},
    "sparse labels": {"y": scipy.sparse.csc_matrix(np.ones((4, 1)))},
}


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("change", BAD_SVHN.values(), ids=BAD_SVHN)
def test_a_matlab_file_with_other_values_is_refused(tmp_path, change, compress):
    content = {"X": SVHN_IMAGES, "y": [[1], [2], [3], [10]]} | change
    scipy.io.savemat(tmp_path / "s.mat", content, do_compression=compress)
    refused("SVHN", tmp_path / "s.mat")


def test_a_matlab_file_of_version_7_3_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "s.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(500))
    refused("SVHN", tmp_path / "s.mat", match="save it with '-v7'")


# FSDD


def test_fsdd_gives_every_recording_with_the_digit_of_its_name(tmp_path, rng):
    recordings = [np.round(rng.uniform(-30000, 30000, n)) / 32768 for n in (1, 700, 9000)]
    publishers.write_fsdd(tmp_path / "f.zip", recordings, [7, 0, 3])
    sounds, digits = read("FSDD", tmp_path / "f.zip")
    by_digit = dict(zip(digits.tolist(), sounds, strict=True))
    for digit, expected in zip((7, 0, 3), recordings, strict=True):
        np.testing.assert_array_equal(by_digit[digit], expected.astype(np.float32))


def test_fsdd_reads_recordings_only(tmp_path):
    sound = publishers.wav(np.zeros(10))
    names = [
        "x/recordings/3_jackson_0.wav",
        "x/recordings/3_jackson.wav",
        "x/other/4_jackson_0.wav",
        "x/recordings/ten_jackson_0.wav",
        "../../5_evil_0.wav",
    ]
    publishers.write_zip(tmp_path / "f.zip", [(name, sound) for name in names])
    before = publishers.listing(tmp_path)
    assert read("FSDD", tmp_path / "f.zip")[1].tolist() == [3]
    assert publishers.listing(tmp_path) == before


@pytest.mark.parametrize(
    "sound",
    [
        publishers.wav(np.zeros(64), channels=2),
        publishers.wav(np.zeros(64), width=1),
        publishers.wav(np.zeros(64), rate=16000),
        b"RIFF",
    ],
    ids=["stereo", "8 bit", "16 kHz", "no wave file"],
)
def test_a_recording_of_another_form_is_refused(tmp_path, sound):
    publishers.write_zip(tmp_path / "f.zip", [("x/recordings/1_nobody_0.wav", sound)])
    refused("FSDD", tmp_path / "f.zip")


def test_a_zip_archive_without_recordings_is_refused(tmp_path):
    publishers.write_zip(tmp_path / "f.zip", [("x/README.md", b"nothing")])
    refused("FSDD", tmp_path / "f.zip", match="recordings/DIGIT_SPEAKER_INDEX.wav")


def riff(*chunks):
    body = b"".join(name + struct.pack("<I", length) + content for name, length, content in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


FORMAT = (b"fmt ", 16, struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16))
BAD_WAVES = {
    "claims more than it has": riff(FORMAT, (b"data", 200, bytes(100))),
    "claims 4 GB": riff(FORMAT, (b"data", 2**32 - 1, bytes(100))),
    "odd number of bytes": riff(FORMAT, (b"data", 99, bytes(100))),
    "no samples": riff(FORMAT, (b"data", 0, b"")),
    "no data": riff(FORMAT),
    "no format": riff((b"data", 100, bytes(100))),
    "data twice": riff(FORMAT, (b"data", 100, bytes(100)), (b"data", 100, bytes(100))),
    "24 bit": riff((b"fmt ", 16, struct.pack("<HHIIHH", 1, 1, 8000, 24000, 3, 24)), (b"data", 99, bytes(99))),
    "floats": riff((b"fmt ", 16, struct.pack("<HHIIHH", 3, 1, 8000, 32000, 4, 32)), (b"data", 100, bytes(100))),
}


@pytest.mark.parametrize("sound", BAD_WAVES.values(), ids=BAD_WAVES)
def test_a_recording_that_is_not_what_it_claims_is_refused_by_name(tmp_path, sound):
    publishers.write_zip(tmp_path / "f.zip", [("x/recordings/1_nobody_0.wav", sound)])
    refused("FSDD", tmp_path / "f.zip", match="1_nobody_0.wav")


def test_chunks_of_other_names_in_a_recording_are_skipped(tmp_path):
    sound = riff(FORMAT, (b"LIST", 3, b"abc\0"), (b"data", 4, struct.pack("<2h", 1, -32768)))
    publishers.write_zip(tmp_path / "f.zip", [("x/recordings/1_nobody_0.wav", sound)])
    assert read("FSDD", tmp_path / "f.zip")[0][0].tolist() == [1 / 32768, -1]


# AG News


def test_ag_news_joins_title_and_description_and_parts_words_at_backslashes(tmp_path):
    rows = [(3, 'Wall St. "Bears", again', "Short\\sellers\n café"), (4, "Title", "Text")]
    publishers.write_ag_news(tmp_path / "a.csv", rows)
    texts, labels = read("AG News", tmp_path / "a.csv")
    assert texts == ['Wall St. "Bears", again Short sellers\n café', "Title Text"]
    assert labels.tolist() == [3, 4]


@pytest.mark.parametrize(
    "content",
    [
        '"5","Title","Text"\n',
        '"0","Title","Text"\n',
        '"1.5","Title","Text"\n',
        '"one","Title","Text"\n',
        '"1","Title and text"\n',
        '"1","Title","Text","more"\n',
        '"1","Title","Text"\n\n"2","Title","Text"\n',
        '"1","Title","Text\n',
        '"1","Title","Te"xt"\n',
    ],
    ids=[
        "class 5",
        "class 0",
        "fractional class",
        "class in words",
        "two columns",
        "four columns",
        "empty line",
        "open quote",
        "stray quote",
    ],
)
def test_a_csv_file_of_another_form_is_refused(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    refused("AG News", tmp_path / "a.csv")


def test_a_csv_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes('"1","Café","Text"\n'.encode("latin-1"))
    refused("AG News", tmp_path / "a.csv")


@pytest.mark.parametrize("before", ["", "\ufeff"], ids=["", "mark of byte order"])
@pytest.mark.parametrize("heading", ["", '"Class Index","Title","Description"\n', "label,title,description\n"])
@pytest.mark.parametrize("after", ["", "\n", "\n\n", " \n", '"",""\n'])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_news_with_headings_and_blank_last_lines_are_read(tmp_path, before, heading, after, ending):
    content = before + heading + '"3","A","B"\n"4","C","D"\n' + after
    (tmp_path / "a.csv").write_bytes(content.replace("\n", ending).encode())
    texts, labels = read("AG News", tmp_path / "a.csv")
    assert texts == ["A B", "C D"]
    assert labels.tolist() == [3, 4]


@pytest.mark.parametrize("heading", ["class,description,title", "title,description,class", "class,text,title"])
def test_news_in_other_columns_are_refused(tmp_path, heading):
    (tmp_path / "a.csv").write_text(f"{heading}\n1,A,B\n")
    refused("AG News", tmp_path / "a.csv")


@pytest.mark.parametrize("label", ["٣", "1_0", "1e0", "+1", "-1", "nan", "1.0"])
def test_a_class_that_is_not_written_as_one_is_refused(tmp_path, label):
    (tmp_path / "a.csv").write_text(f'"1","A","B"\n"{label}","A","B"\n', encoding="utf-8")
    refused("AG News", tmp_path / "a.csv", match="example 2")


# Every kind


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_refused_by_name(tmp_path, intact, kind, share):
    content = intact[kind][: int(share * len(intact[kind]))]
    if kind == "AG News":
        content = content[: content.rfind(b",", 0, len(content)) + 2]  # within a row, behind an opening quote
    path = tmp_path / "truncated"
    path.write_bytes(content)
    refused(kind, path)


@pytest.mark.parametrize("missing", [1, 4, 8])
@pytest.mark.parametrize("kind", ["CIFAR-10", "IDX", "SVHN", "FSDD"])
def test_a_compressed_file_without_its_last_bytes_is_refused(tmp_path, intact, kind, missing):
    path = tmp_path / "truncated"
    path.write_bytes(intact[kind][:-missing])
    refused(kind, path)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["CIFAR-10", "IDX", "SVHN", "FSDD"])
def test_a_compressed_file_with_a_changed_byte_is_refused(tmp_path, intact, kind, place):
    content = bytearray(intact[kind])
    content[int(place * len(content))] ^= 0x10
    path = tmp_path / "corrupt"
    path.write_bytes(content)
    refused(kind, path)


@pytest.mark.parametrize("kind", ["CIFAR-10", "IDX"])
def test_gzipped_content_is_held_against_its_checksum(tmp_path, intact, kind):
    content = bytearray(intact[kind])
    content[-6] ^= 0x10  # the checksum lies from the eighth to the fifth byte from the end
    path = tmp_path / "corrupt.gz"
    path.write_bytes(content)
    refused(kind, path)


@pytest.mark.parametrize("content", ["html", *KINDS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, intact, kind, content):
    path = tmp_path / "file"
    if content == kind:
        path.mkdir()  # a folder is no file of any kind
    else:
        path.write_bytes(b"<html><body>Please log in</body></html>\n" if content == "html" else intact[content])
    refused(kind, path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_intact_files_of_these_tests_are_read(tmp_path, intact, kind):
    """So that the refusals above are the damage's doing."""
    path = tmp_path / "intact"
    path.write_bytes(intact[kind])
    assert len(read(kind, path)) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    refused(kind, tmp_path / "pipe", match="no regular file")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_absurd_size_is_refused_unread(tmp_path, kind):
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no place
    refused(kind, path, match=f"it has {1 << 40} bytes")


def test_what_unpacks_to_more_than_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_readers, "LIMIT", 1 << 20)
    zeros = bytes(2 << 20)
    for kind, content in (
        ("IDX", gzip.compress(struct.pack(">HBBI", 0, 8, 1, len(zeros)) + zeros)),
        ("CIFAR-10", gzip.compress(zeros)),
        ("AG News", gzip.compress(zeros)),
    ):
        (tmp_path / "file").write_bytes(content)
        refused(kind, tmp_path / "file", match="it unpacks to more than")
    publishers.tar_gz(tmp_path / "file", [("data_batch_1", zeros), ("test_batch", zeros)])
    refused("CIFAR-10", tmp_path / "file", match="it unpacks to more than")
    publishers.write_zip(tmp_path / "file", [("x/recordings/1_nobody_0.wav", publishers.wav(np.zeros(1 << 20)))])
    refused("FSDD", tmp_path / "file", match="it unpacks to more than")
    scipy.io.savemat(tmp_path / "s.mat", {"X": np.zeros((32, 32, 3, 1000), np.uint8)}, do_compression=True)
    refused("SVHN", tmp_path / "s.mat", match="a variable takes more than")


def test_an_error_about_a_file_is_one_short_line(tmp_path):
    (tmp_path / "a.csv").write_text('"{}\n\x1b[31m","A","B"\n'.format("x" * 9000))
    error = refused("AG News", tmp_path / "a.csv")
    assert len(str(error)) < 400 + len(str(tmp_path))
    assert str(error).isprintable()
