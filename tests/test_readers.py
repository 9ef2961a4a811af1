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
