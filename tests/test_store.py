"""The folder of results: what goes in comes out, and what breaks is found without harming the rest."""

import contextlib
import errno
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nqm_tools import _store_file
from nqm_tools.store import Store, StoreError

PREAMBLE = """
import os, sys, time
from nqm_tools import store
"""


def row(key, status="finished", **columns):
    return {"key": key, "status": status, "reason": "", **columns}


def child(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@contextlib.contextmanager
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def same(a, b):
    """Equal in type and to the bit; NaN equals NaN, and -0.0 is not 0.0."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return type(a) is type(b) and repr(a) == repr(b)


def test_values_come_back_to_the_bit(tmp_path):
    written = [
        row(
            "a1",
            x=float("nan"),
            n=2**62 + 1,
            ok=True,
            name="é\n",
            nothing=None,
            step=[0, 2**60 + 1],
            loss=[-0.0, 1e-310],
        ),
        row("a2", x=None, n=-1, ok=None, name="", nothing=None, step=np.arange(3), loss=[np.nan, np.inf, -np.inf]),
        row("a3", x=-0.0, n=None, ok=False, name=None, nothing=None, step=[], loss=np.empty(0)),
        row("a4", x=float("inf"), n=0, ok=True, name="None", nothing=None, step=None, loss=None),
        row("a5", x=0.1 + 0.2, n=0, ok=True, name="nan", nothing=None, step=[7], loss=[0.1 + 0.2]),
    ]
    store = Store(tmp_path)
    store.write(written, {})
    read = store.rows()
    assert [set(r) for r in read] == [set(r) for r in written]
    for before, after in zip(written, read, strict=True):
        for name, value in before.items():
            if name in ("step", "loss") and value is not None:
                value = np.asarray(value, np.int64 if name == "step" else np.float64)
            assert same(value, after[name]), (name, value, after[name])


scalars = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"])))
numbers = st.one_of(st.none(), st.floats())
wholes = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
curves = st.lists(st.tuples(st.integers(0, 2**40), st.floats(), st.floats(width=32)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text("0123456789abcdef", min_size=1, max_size=8),
        st.tuples(scalars, numbers, wholes, st.one_of(st.none(), st.booleans()), curves),
        min_size=1,
        max_size=5,
    )
)
def test_any_rows_come_back(runs):
    written = {}
    for key, (text, number, whole, flag, curve) in runs.items():
        step, train, test = (np.array(values) for values in zip(*curve, strict=True))
        columns = {
            "text": text,
            "a.b": number,
            "whole": whole,
            "flag": flag,
            "step": step,
            "train": train,
            "test": test,
        }
        written[key] = row(key, **columns)
    with tempfile.TemporaryDirectory() as folder, no_warnings():
        store = Store(folder)
        store.write(list(written.values()), {})
        for after in store.rows():
            before = written.pop(after["key"])
            assert all(same(before[name], after[name]) for name in before)
    assert not written


def test_every_nan_keeps_its_bits(tmp_path):
    nans = np.array([0x7FF8000000000000, 0xFFF8000000000001, 0x7FF8000000000123], np.uint64).view(np.float64)
    store = Store(tmp_path)
    store.write([row("a1", step=np.arange(3), loss=nans)], {})
    with no_warnings():
        assert same(store.rows()[0]["loss"], nans)


def test_scalar_frame_has_one_row_a_run_and_proper_types(tmp_path):
    store = Store(tmp_path)
    store.write([row("a1", rate=np.float32(0.5), width=8, step=[0], loss=[1.0])], {})
    store.write([row("a2", rate=1, ok=True), row("a3", "failed", rate=0.25, width=None, step=None)], {})
    frame = store.load()
    assert list(frame.columns) == ["key", "status", "reason", "rate", "width", "ok"]
    assert frame["rate"].dtype == float
    assert frame["rate"].tolist() == [0.5, 1.0, 0.25]
    assert frame["width"].dtype == "Int64"
    assert frame["ok"].dtype == "boolean"
    assert Store(tmp_path / "empty").load().columns.tolist() == ["key", "status", "reason"]


def test_curves_are_tidy(tmp_path):
    store = Store(tmp_path)
    store.write([row("a1", rate=0.5, step=[0, 5], train=[2.0, 1.0]), row("a2", rate=0.1)], {})
    store.write([row("b1", "diverged", rate=0.7, step=[0], train=[2.0], test=[3.0]), row("b2", "failed", rate=0.9)], {})
    frame = store.load_curves(["rate"])
    expected = {
        "key": ["a1", "a1", "b1"],
        "status": ["finished", "finished", "diverged"],
        "reason": [""] * 3,
        "rate": [0.5, 0.5, 0.7],
        "step": [0, 5, 0],
        "train": [2.0, 1.0, 2.0],
        "test": [np.nan, np.nan, 3.0],
    }
    pd.testing.assert_frame_equal(frame[list(expected)], pd.DataFrame(expected))
    assert set(frame.columns) == set(expected)
    assert "step" in Store(tmp_path / "empty").load_curves().columns


def test_order_does_not_depend_on_the_files(tmp_path):
    runs = [
        row("a1", rate=0.5),
        row("a2", rate=None),
        row("a3", rate=float("nan")),
        row("a4", rate=0.1),
        row("a5", rate="x"),
    ]
    orders = []
    for name, order in (("one", [0, 1, 2, 3, 4]), ("two", [4, 2, 3, 1, 0])):
        store = Store(tmp_path / name)
        for i in order:
            store.write([runs[i]], {})
        orders.append(store.load(sort_by=["rate"])["key"].tolist())
        assert store.load()["key"].tolist() == ["a1", "a2", "a3", "a4", "a5"]
    assert orders == [["a4", "a1", "a5", "a3", "a2"]] * 2


@pytest.mark.parametrize("sort_by", ["rate", ["ratte"], ["step"]])
def test_columns_to_sort_by_are_checked(tmp_path, sort_by):
    store = Store(tmp_path)
    store.write([row("a1", rate=1.0, step=[0])], {})
    with pytest.raises(ValueError, match=r"sort_by must be a list of columns, of 'key', .*'rate'; got"):
        store.load(sort_by)


def test_provenance_is_kept_for_each_file(tmp_path):
    store = Store(tmp_path)
    path = store.write([row("a1")], {"versions": {"numpy": "2"}, "device": "é"})
    assert store.provenance() == {path.name: {"versions": {"numpy": "2"}, "device": "é"}}
    with pytest.raises(TypeError, match="provenance must be"):
        store.write([row("a2")], {"device": object()})


def test_the_same_runs_replace_their_file(tmp_path):
    store = Store(tmp_path)
    first = store.write([row("a1", loss=1.0), row("a2")], {})
    assert store.write([row("a2"), row("a1", loss=2.0)], {}) == first
    assert store.load()["loss"].tolist()[0] == 2.0


def test_the_newest_of_two_files_counts(tmp_path):
    store = Store(tmp_path)
    for loss, others in ((1.0, ["b1"]), (2.0, ["b2"]), (3.0, ["b3"]), (4.0, ["b4"])):  # names do not sort by time
        store.write([row("a1", loss=loss), *(row(key, loss=0.0) for key in others)], {})
        assert store.load()["loss"][0] == loss
    assert len(store.load()) == 5


@pytest.mark.parametrize("statuses", [("failed", "finished"), ("finished", "failed"), ("failed", "diverged", "failed")])
def test_a_failure_hides_no_result(tmp_path, statuses):
    store = Store(tmp_path)
    for status in statuses:
        store.write([row("a1", status)], {})
    assert store.finished() == {"a1"}
    assert store.load()["status"].tolist() == [max(statuses, key=["failed", "diverged", "finished"].index)]


def test_failed_runs_are_not_finished(tmp_path):
    store = Store(tmp_path)
    store.write([row("a1", "failed"), row("a2", "diverged")], {})
    assert store.finished() == {"a2"}


def test_asking_again_reads_only_what_changed(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write([row("a1")], {})
    store.write([row("a2")], {})
    store.finished()
    reads = []
    read_bytes = pathlib.Path.read_bytes
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda path: reads.append(path.name) or read_bytes(path))
    assert store.finished() == {"a1", "a2"}
    assert reads == []
    name = store.write([row("a2", loss=1.0)], {}).name
    assert store.finished() == {"a1", "a2"}
    assert reads == [name]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows must be a non-empty list of dictionaries; got"),
        ([3], "rows must be a non-empty list of dictionaries; got"),
        ([{"status": "finished", "reason": ""}], "every row must have text in key, status, reason; key lacks"),
        ([{"key": "a1", "reason": ""}], "status lacks"),
        ([{"key": "a1", "status": "failed", "reason": None}], "reason lacks"),
        ([row("../a")], r"key must be a hexadecimal hash in lower case; got '../a'"),
        ([row("a1", "done")], "status must be one of finished, diverged, failed; got 'done'"),
        ([row("a1"), row("a1")], "got 'a1' twice"),
        ([row("a1", loss=[1.0])], "curves must have the length of the curve 'step'"),
        ([row("a1", step=[0, 1], loss=[1.0])], "curves must have the length of the curve 'step'"),
        ([row("a1", step=3, loss=[1.0])], "curves must have the length of the curve 'step'"),
        ([row("a1", "failed", step=[0])], "a failed run has none"),
        ([row("a1", x={})], "column 'x' must hold a str, int"),
        ([row("a1", x=1j)], "column 'x' must hold a str, int"),
        ([row("a1", x=np.zeros((2, 2)))], "column 'x' must hold a str, int"),
        ([row("a1", x=[1.0, None])], "column 'x' must hold a str, int"),
        ([row("a1", x=["a"])], "column 'x' must hold a str, int"),
        ([row("a1", x=2**63)], "column 'x' cannot be stored"),
        ([row("a1", x="\ud800")], "column 'x' cannot be stored"),
        ([row("a1", x=1), row("a2", x="1")], "column 'x' cannot be stored: its values are of several kinds: int, str"),
        ([row("a1", step=[1]), row("a2", step=1)], "column 'step' cannot be stored: it is a curve in some rows"),
        ([row("a1", **{"": 1})], "columns must have names"),
    ],
)
def test_rows_are_checked_at_the_door(tmp_path, rows, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Store(tmp_path).write(rows, {})
    assert list(tmp_path.iterdir()) == []


def test_words_that_cannot_be_encoded_lose_no_results(tmp_path):
    store = Store(tmp_path)
    store.write([{"key": "a1", "status": "failed", "reason": "no file \udcff"}], {})
    assert store.load()["reason"].tolist() == [r"no file \udcff"]


def test_a_folder_that_is_no_place_for_a_store_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="folder must be the path of an existing folder; got"):
        Store(tmp_path / "absent", create=False)
    for wrong in (tmp_path / "file", ""):
        with pytest.raises(ValueError, match="folder must be the path of a folder; got"):
            Store(wrong)
    with pytest.raises(TypeError, match="folder must be the path of a folder; got 3"):
        Store(3)
    with pytest.raises(StoreError, match="cannot be made: Not a directory"):
        Store(tmp_path / "file" / "store")
    monkeypatch.setattr(os, "access", lambda *_: False)  # the administrator may write anywhere
    with pytest.raises(StoreError, match="cannot be written to: permission denied"):
        Store(tmp_path)
    assert Store(tmp_path, create=False).finished() == set()


def test_a_folder_that_vanished_is_no_empty_store(tmp_path):
    store = Store(tmp_path / "store")
    (tmp_path / "store").rmdir()
    with pytest.raises(StoreError, match="is no longer there"):
        store.finished()


def two_files(folder):
    """A store with the run a1 in one file and b1 in another; the path of the latter."""
    store = Store(folder)
    store.write([row("a1", loss=1.0)], {"device": "cpu"})
    path = store.write(
        [row("b1", loss=2.0, step=np.arange(500), train=np.random.default_rng(0).random(500))], {"device": "x"}
    )
    return store, path


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def assert_only_the_other_run(store, path):
    for look in (store.finished, store.load, store.load_curves, store.provenance, store.finished):
        with pytest.warns(UserWarning, match=f"{path.name} is damaged"):
            look()
    with pytest.warns(UserWarning, match="is damaged"):
        assert store.load()["key"].tolist() == ["a1"]
    with pytest.warns(UserWarning, match="is damaged"):
        assert store.finished() == {"a1"}


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_found(tmp_path, share):
    store, path = two_files(tmp_path)
    store.finished()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert_only_the_other_run(store, path)


def test_a_flipped_bit_in_a_page_is_found(tmp_path):
    _, path = two_files(tmp_path)
    chunk = pq.read_metadata(path).row_group(0)
    train = next(c for c in map(chunk.column, range(chunk.num_columns)) if c.path_in_schema.startswith("train"))
    flip(path, train.data_page_offset + train.total_compressed_size // 2)
    with pytest.raises(OSError, match="CRC"):  # for other readers, who do not know our own checksum
        pq.read_table(path, page_checksum_verification=True)
    assert_only_the_other_run(Store(tmp_path), path)


def test_a_flipped_bit_in_the_provenance_is_found(tmp_path):
    store, path = two_files(tmp_path)
    words = b'"device": "x"'
    flip(path, path.read_bytes().rindex(words) + len(words) - 2)
    assert_only_the_other_run(store, path)


@pytest.mark.filterwarnings("ignore:.* is left out")
def test_no_flipped_bit_changes_what_is_read(tmp_path):
    store = Store(tmp_path)
    path = store.write([row("b1", loss=2.0, step=[0, 1], train=[0.1, 0.2]), row("b2", "failed")], {"device": "x"})
    content, expected = path.read_bytes(), (repr(store.rows()), store.provenance())
    found = 0
    for position in range(0, len(content), 3):
        path.write_bytes(content)
        flip(path, position)
        read = repr(store.rows()), store.provenance()
        found += read == ("[]", {})
        assert read in (expected, ("[]", {})), position
    assert found > len(content) / 3 / 2


def test_a_damaged_file_is_set_aside_once(tmp_path):
    store, path = two_files(tmp_path)
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"):
        assert store.finished(set_aside=True) == {"a1"}
    assert not path.exists()
    assert path.with_name(f"{path.name}.corrupt").exists()
    with no_warnings():
        assert store.finished(set_aside=True) == {"a1"}
        store.write([row("b1")], {})
        assert store.finished() == {"a1", "b1"}


def test_a_file_of_someone_else_is_left_alone(tmp_path):
    store, _ = two_files(tmp_path)
    pd.DataFrame({"key": ["c1"], "status": ["finished"]}).to_parquet(tmp_path / "theirs.parquet")
    for look in (store.finished, lambda: store.finished(set_aside=True), store.load):
        with pytest.warns(UserWarning, match=r"theirs.parquet was not written by .*nqm_tools.store"):
            assert "c1" not in set(look() if look != store.load else look()["key"])
    assert (tmp_path / "theirs.parquet").exists()


def pipe(path):
    os.mkfifo(path)


NO_FILES = {
    "pipe": pipe,
    "folder": os.mkdir,
    "device": lambda path: os.symlink("/dev/zero", path),
    "link to nothing": lambda path: os.symlink("nowhere", path),
    "link to itself": lambda path: os.symlink(path.name, path),
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_is_left_out_with_a_warning_and_left_alone(tmp_path, make):
    store, _ = two_files(tmp_path)
    path = tmp_path / "x.parquet"
    make(path)
    for look in (store.finished, lambda: store.finished(set_aside=True), store.rows, store.load, store.provenance):
        with pytest.warns(UserWarning, match="left out") as caught:
            assert len(look()) == 2
        assert [str(path) in str(warning.message) for warning in caught] == [True]
    assert path.is_symlink() or path.exists()


def test_a_folder_with_a_temporary_name_is_left_alone(tmp_path):
    store, _ = two_files(tmp_path)
    folder = tmp_path / ".x.parquet.y.tmp"
    folder.mkdir()
    os.utime(folder, (0, 0))
    with no_warnings():
        assert len(store.finished(set_aside=True)) == 2
    assert folder.is_dir()


def forge(path, columns, header='{"written": 1, "provenance": {}}'):
    """A file that has our marks and its checksum, whatever it holds."""
    table = pa.table(columns)
    header = header.encode()
    marks = {_store_file._FORMAT: _store_file._VERSION, _store_file._HEADER: header}
    with contextlib.suppress(Exception):  # of what no run has, a checksum may not be computable
        marks[_store_file._DIGEST] = _store_file._digest(table, header)
    pq.write_table(table.replace_schema_metadata(marks), path)


RUN = {"key": ["c1"], "status": ["finished"], "reason": [""]}
WHOLE = {**RUN, "step": [[0, 1]], "train": [[1.0, 2.0]], "loss": [1.0]}
FORGED = {
    "no key": ({name: RUN[name] for name in ("status", "reason")}, {}),
    "no reason": ({name: RUN[name] for name in ("key", "status")}, {}),
    "no columns": ({}, {}),
    "a key of numbers": ({**RUN, "key": [5]}, {}),
    "a key that is none": ({**RUN, "key": [None]}, {}),
    "a key that is no hash": ({**RUN, "key": ["../x"]}, {}),
    "a key twice": ({name: values * 2 for name, values in RUN.items()}, {}),
    "an unknown status": ({**RUN, "status": ["fine"]}, {}),
    "a status of numbers": ({**RUN, "status": [1]}, {}),
    "no status": ({**RUN, "status": [None]}, {}),
    "a reason of numbers": ({**RUN, "reason": [1]}, {}),
    "times": ({**RUN, "when": pa.array([0], pa.timestamp("s"))}, {}),
    "bytes": ({**RUN, "data": [b"x"]}, {}),
    "structures": ({**RUN, "data": [{"a": 1}]}, {}),
    "curves of text": ({**RUN, "step": [["a"]]}, {}),
    "curves in curves": ({**RUN, "step": [[[1]]]}, {}),
    "curves with gaps": ({**RUN, "step": [[1, None]]}, {}),
    "curves of 32 bits": ({**RUN, "step": pa.array([[1]], pa.list_(pa.int32()))}, {}),
    "curves of other lengths": ({**WHOLE, "train": [[1.0]]}, {}),
    "a curve without steps": ({**RUN, "train": [[1.0]]}, {}),
    "a failed run with curves": ({**WHOLE, "status": ["failed"]}, {}),
    "a header that is no JSON": (WHOLE, {"header": "x"}),
    "a header that is a list": (WHOLE, {"header": "[1]"}),
    "a header without a time": (WHOLE, {"header": '{"provenance": {}}'}),
    "a header with a time in words": (WHOLE, {"header": '{"written": "now", "provenance": {}}'}),
    "a header without provenance": (WHOLE, {"header": '{"written": 1}'}),
    "a provenance in words": (WHOLE, {"header": '{"written": 1, "provenance": "mine"}'}),
    "a deep header": (WHOLE, {"header": "[" * 100_000}),
}


@pytest.mark.parametrize(("columns", "changes"), FORGED.values(), ids=FORGED)
def test_a_forged_file_is_left_out_with_a_warning(tmp_path, columns, changes):
    store, _ = two_files(tmp_path)
    path = tmp_path / "0.parquet"
    forge(path, columns, **changes)
    for look in (store.finished, store.rows, store.load, store.load_curves, store.provenance):
        with pytest.warns(UserWarning, match=r"0.parquet is damaged .*\. It is left out") as caught:
            expected = look()
        assert len(caught) == 1
        assert len(str(caught[0].message)) < 400 + len(str(path))
        path.rename(tmp_path / "away")
        with no_warnings():
            assert repr(expected) == repr(look())
        (tmp_path / "away").rename(path)


def test_what_the_forged_files_of_these_tests_are_made_from_is_read(tmp_path):
    """So that the refusals above are the changes' doing."""
    forge(tmp_path / "0.parquet", WHOLE)
    with no_warnings():
        (read,) = Store(tmp_path).rows()
    assert read["step"].tolist() == [0, 1]


def test_a_step_that_is_a_number_is_no_curve(tmp_path):
    store = Store(tmp_path)
    store.write([row("a1", step=3)], {})
    store.write([row("b1", step=[0, 1], train=[1.0, 2.0])], {})
    assert store.load_curves()["key"].tolist() == ["b1", "b1"]


def test_a_file_that_vanishes_while_the_folder_is_read_is_skipped(tmp_path, monkeypatch):
    store, path = two_files(tmp_path)
    listed = os.listdir(tmp_path)
    path.unlink()
    monkeypatch.setattr(os, "listdir", lambda _: listed)
    with no_warnings():
        assert store.finished() == {"a1"}


def test_what_killed_writers_left_is_no_result_and_goes_after_an_hour(tmp_path):
    store, path = two_files(tmp_path)
    (tmp_path / "._x.parquet").touch()  # as some systems leave them beside files
    new, old = tmp_path / ".x.parquet.1.tmp", tmp_path / ".x.parquet.2.tmp"
    for temporary in (new, old):
        temporary.write_bytes(path.read_bytes())
    os.utime(old, (time.time() - 3700,) * 2)
    path.unlink()
    with no_warnings():
        assert store.finished() == {"a1"}
        assert old.exists()
        assert store.finished(set_aside=True) == {"a1"}
    assert new.exists()
    assert not old.exists()


@pytest.mark.parametrize("refusing", ["fsync", "replace"])
def test_a_refused_write_leaves_nothing_partial(tmp_path, monkeypatch, refusing):
    store, _ = two_files(tmp_path)
    before = sorted(tmp_path.iterdir())

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, refusing, refuse)
        with pytest.raises(StoreError, match=r"No space left on device. What was finished before is intact") as caught:
            store.write([row("c1")], {})
    assert str(tmp_path) in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    with no_warnings():
        assert store.load()["key"].tolist() == ["a1", "b1"]


def test_a_full_disk_leaves_nothing_partial(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk can be mounted by the administrator of a Linux system only: {error}")
    try:
        store = Store(disk)
        store.write([row("a1", loss=1.0)], {})
        before = sorted(disk.iterdir())
        noise = np.random.default_rng(0).random(20_000)
        with pytest.raises(StoreError, match=r"No space left on device. What was finished before is intact") as caught:
            store.write([row("b1", step=noise)], {})
        assert str(disk) in str(caught.value)
        assert sorted(disk.iterdir()) == before
        with no_warnings():
            assert store.load()["key"].tolist() == ["a1"]
            store.write([row("c1")], {})
            assert store.finished() == {"a1", "c1"}
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_processes_write_while_a_third_reads(tmp_path):
    code = """
folder, prefix = sys.argv[1:]
for i in range(16):
    for key in (f"{prefix}{i:x}", "f"):
        store.Store(folder).write([dict(key=key, status="finished", reason="", step=list(range(99)))], {})
"""
    writers = [child(code, tmp_path, prefix) for prefix in ("a", "b")]
    store = Store(tmp_path)
    with no_warnings():
        while any(writer.poll() is None for writer in writers):
            store.finished()
            store.load()
        for writer in writers:
            result_of(writer)
        assert store.finished() == {"f", *(f"{prefix}{i:x}" for prefix in "ab" for i in range(16))}
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}


def test_a_lock_is_held_by_one_process_at_a_time_and_freed_by_its_end(tmp_path):
    code = """
with store.Store(sys.argv[1]).lock("part-0"):
    print("held", flush=True)
    sys.stdin.readline()
"""
    store = Store(tmp_path)
    lock = store.lock("part-0")
    for end in (lambda process: process.communicate("\n", timeout=300), lambda process: process.kill()):
        holder = child(code, tmp_path)
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(filelock.Timeout):
            lock.acquire(timeout=0)
        with store.lock("part-1").acquire(timeout=0):
            pass
        end(holder)
        holder.wait(timeout=300)
        with lock.acquire(timeout=0):
            pass
        holder.communicate()
    assert store.finished() == set()


@pytest.mark.parametrize("name", ["", "../x", ".x", "a/b", 3])
def test_a_lock_has_a_name_that_stays_in_its_folder(tmp_path, name):
    with pytest.raises(ValueError, match="name must be made of letters"):
        Store(tmp_path).lock(name)


def test_a_killed_writer_leaves_a_store_that_loads(tmp_path):
    code = """
def stop(_):
    print("writing", flush=True)
    sys.stdin.readline()
os.fsync = stop
store.Store(sys.argv[1]).write([dict(key="c1", status="finished", reason="")], {})
"""
    store, _ = two_files(tmp_path)
    writer = child(code, tmp_path)
    assert writer.stdout.readline() == "writing\n"
    writer.kill()
    writer.communicate()
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    with no_warnings():
        assert store.finished(set_aside=True) == {"a1", "b1"}
        assert store.load()["key"].tolist() == ["a1", "b1"]


@pytest.mark.parametrize("package", ["pyarrow", "filelock"])
def test_a_missing_package_is_named_with_its_extra_at_the_door(tmp_path, package):
    code = """
print(sorted({"matplotlib", "seaborn", "IPython", "sklearn", "distributed"} & set(sys.modules)))
sys.modules[sys.argv[2]] = None
try:
    store.Store(sys.argv[1])
except ModuleNotFoundError as error:
    print(error)
"""
    imported, message = result_of(child(code, tmp_path, package)).splitlines()
    assert imported == "[]"
    assert message == f"sweeps need {package}, which is not installed: the extra [sweeps]"


def everything(store):
    """What can be read of a store; the order of its columns is that of the files."""
    frames = [frame.sort_index(axis=1).to_json() for frame in (store.load(), store.load_curves())]
    return repr(store.rows()), store.provenance(), store.finished(), frames


def of_two_kinds(folder):
    """A store of five files of two kinds, among them a run that failed before it finished, and one written twice."""
    store = Store(folder)
    for i, loss in enumerate((0.1, float("nan"), 1e-310)):
        rows = [row(f"a{i}", loss=loss, step=[0, 1], train=[1.0, loss]), row(f"b{i}", loss=None, step=None, train=None)]
        store.write(rows, {"number": i})
    store.write([row("c1", "failed", gamma=1)], {"number": 3})
    store.write([row("c1", gamma=2)], {"number": 4})
    store.write([row("c1", gamma=3)], {"number": 5})
    return store


def test_what_is_put_together_reads_as_before(tmp_path):
    store = of_two_kinds(tmp_path)
    before, files = everything(store), set(tmp_path.glob("*.parquet"))
    store.compact()
    assert len(list(tmp_path.glob("*.parquet"))) == 2 < len(files)
    for again in (store, Store(tmp_path)):
        assert everything(again) == before
    with no_warnings():
        assert store.arrived() == Store(tmp_path).finished() - store.finished()
    names = set(tmp_path.glob("*.parquet"))
    store.compact()
    assert set(tmp_path.glob("*.parquet")) == names


def test_later_runs_join_what_was_put_together(tmp_path):
    store, twin = of_two_kinds(tmp_path / "together"), of_two_kinds(tmp_path / "apart")
    store.compact()
    for each in (store, twin):
        each.write([row("a9", loss=0.5, step=[3], train=[0.5])], {"number": 9})
        each.write([row("c1", gamma=4)], {"number": 10})
    assert everything(store) == everything(twin)
    store.compact()
    assert len(list(store.folder.glob("*.parquet"))) == 2
    assert everything(store) == everything(twin)


def test_putting_together_can_be_interrupted_anywhere(tmp_path):
    store = of_two_kinds(tmp_path)
    before = everything(store)
    apart = {path: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    store.compact()
    for path, content in apart.items():  # as if none of them had been removed yet
        path.write_bytes(content)
        assert everything(Store(tmp_path)) == before
    store.compact()
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    assert everything(store) == before


def test_damage_of_what_was_put_together_is_found(tmp_path):
    store = of_two_kinds(tmp_path)
    store.compact()
    path = max(tmp_path.glob("*.parquet"), key=lambda path: path.stat().st_size)
    content, expected = path.read_bytes(), everything(store)
    rest = Store(tmp_path)
    path.unlink()
    less = everything(rest)
    for position in range(0, len(content), 7):
        path.write_bytes(content)
        flip(path, position)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert everything(Store(tmp_path)) in (expected, less), position


PART = '"written": 1, "provenance": {}'


@pytest.mark.parametrize(
    "parts",
    [
        "1",
        "[]",
        "[1]",
        f'[{{"rows": 1, {PART}}}]',
        f'[{{"name": "a", "rows": 2, {PART}}}]',
        f'[{{"name": "a", "rows": 0, {PART}}}, {{"name": "b", "rows": 1, {PART}}}]',
        '[{"name": "a", "rows": 1, "provenance": {}}]',
        '[{"name": "a", "rows": 1, "written": 1}]',
        f'[{{"name": "a", {PART}}}]',
    ],
)
def test_parts_that_are_not_those_of_the_file_are_damage(tmp_path, monkeypatch, parts):
    monkeypatch.setattr(_store_file, "_VERSION", b"2")
    forge(tmp_path / "x.parquet", RUN, f'{{"parts": {parts}}}')
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="is damaged"):
        assert Store(tmp_path).rows() == []
