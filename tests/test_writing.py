"""Files are written whole or not at all, under names that no two writers share."""

import contextlib
import errno
import os
import pathlib
import re
import threading

import jax
import numpy as np
import pytest

import nqm_tools as nqm
from nqm_tools import _files, _writing
from nqm_tools._writing import whole_file, write_text
from nqm_tools.store import Store


def write(path, content):
    with whole_file(path) as file:
        file.write(content)


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a"
    with whole_file(path) as one, whole_file(path) as other:
        assert one.name != other.name
        one.write(b"one")
        other.write(b"other")
        assert not path.exists()
    assert path.read_bytes() == b"one"  # its block ended last
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("when", ["writing", "fsync", "replace"])
def test_what_goes_wrong_leaves_the_file_that_was_there(tmp_path, monkeypatch, when):
    path = tmp_path / "a"
    write(path, b"before")

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_badly(patch):
        with whole_file(path) as file:
            file.write(b"half")
            if when == "writing":
                raise KeyboardInterrupt
            patch.setattr(os, when, refuse)

    with monkeypatch.context() as patch, pytest.raises((OSError, KeyboardInterrupt)):
        write_badly(patch)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["a"]


def test_the_content_is_on_the_disk_before_the_name_and_then_the_folder(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(os.fstat(handle).st_size) or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("named") or replace(*names))
    write(tmp_path / "a", b"12345")
    assert done == [5, "named", os.stat(tmp_path).st_size]


def test_a_name_as_long_as_names_may_be_is_written_and_read(tmp_path):
    path = tmp_path / ("é" * 120)
    write(path, b"1")
    assert path.read_bytes() == b"1"


def test_text_is_written_through_a_link(tmp_path):
    (tmp_path / "file").write_text("before")
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "µ")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text(encoding="utf-8") == "µ"


def test_writers_with_one_process_id_each_save_a_whole_run(tmp_path):
    """As two threads have, and two containers."""
    data = nqm.datasets.single_example(3, seed=0)
    net = nqm.networks.two_layer_fc(4)
    run = nqm.train(net, data, learning_rate=0.1, steps=2, params=net.init(jax.random.key(0), (1, 3)))
    path, failed, together = tmp_path / "run.npz", [], threading.Barrier(4)

    def save():
        together.wait(30)
        for _ in range(5):
            try:
                run.save(path)
                np.testing.assert_array_equal(nqm.Run.load(path).losses, run.losses)
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert os.listdir(tmp_path) == ["run.npz"]


def test_what_killed_writers_leave_is_read_by_nobody(tmp_path, monkeypatch):
    """A writer that is killed cannot tidy up."""
    monkeypatch.setattr(_writing.pathlib.Path, "unlink", lambda self: None)
    for name in ("x.parquet", "recordings.zip"):
        with contextlib.suppress(KeyboardInterrupt), whole_file(tmp_path / name) as file:
            file.write(b"half")
            raise KeyboardInterrupt
    left = os.listdir(tmp_path)
    assert len(left) == 2
    assert all(name.startswith(".") and name.endswith(".tmp") for name in left)
    assert Store(tmp_path).finished() == set()
    assert len(Store(tmp_path).load()) == 0
    source = _files.Source("recordings.zip", "http://127.0.0.1:9/recordings.zip", None)
    assert _files._find(source, [tmp_path]) is None


def test_the_package_has_one_way_of_replacing_a_file():
    folder = pathlib.Path(nqm.__file__).parent
    found = {
        (path.relative_to(folder).as_posix(), word)
        for path in folder.rglob("*.py")
        for word in re.findall(r"os\.replace|os\.rename|getpid|tempfile\.\w*File|mkstemp|\.write_text|\.write_bytes",
                               re.sub(r"(?m)^ *(>>>|\.\.\.) .*", "", path.read_text(encoding="utf-8")))
    }  # fmt: skip
    # A damaged file of a store is set aside under another name.
    assert found == {("_writing.py", "os.replace"), ("store.py", "os.replace")}
