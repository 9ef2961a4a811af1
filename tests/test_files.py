"""Where files come from: the user's folders first and untouched, then the cache, then a download that is checked."""

import gzip
import os
import pathlib
import re
import tarfile
import warnings
import zipfile

import numpy as np
import publishers
import pytest

from nqm_tools import _files, _readers, datasets, sweeps
from nqm_tools.sweeps import _compute

NAMES = list(publishers.SOURCES)
CSV = ("ag_news_csv/train.csv", "ag_news_csv/test.csv")
ONE_MORE = b'"1","One","more"\n'


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with small files of every data set; their checksums stand for the published ones."""
    folder = tmp_path_factory.mktemp("published")
    for name in NAMES:
        publishers.publish(name, folder)
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, cache, published):
    publishers.isolate(monkeypatch, cache, publishers.sources(publishers.NOWHERE, published))


@pytest.fixture
def publisher(monkeypatch, published):
    """A server with the published files; yields its pages and the list of what was asked for."""
    pages = {str(path): content[0] for path, content in publishers.listing(published).items() if content}
    with publishers.serve(pages) as (url, asked):
        monkeypatch.setattr(_files, "SOURCES", publishers.sources(url, published))
        yield pages, asked


@pytest.fixture(autouse=True)
def _strict():
    """Warnings are errors but where a test expects one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def put(folder, published, paths=CSV, flat=False, change=b""):
    """Copy published files into a folder, with ``change`` appended."""
    for path in paths:
        target = folder / (pathlib.PurePath(path).name if flat else path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((published / path).read_bytes() + change)
    return folder


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def sample(name="ag_news", **settings):
    return datasets.load(name, n_train=3, n_test=2, seed=0, **settings)


def expect_missing(name, **settings):
    """The FileNotFoundError of a data set whose publisher does not answer."""
    with (
        pytest.warns(UserWarning, match="could not be downloaded"),
        pytest.raises(FileNotFoundError) as caught,
    ):
        _files.locate(name, **settings)
    return str(caught.value)


# The user's folders


@pytest.mark.parametrize("flat", [False, True], ids=["as in the cache", "flat"])
@pytest.mark.parametrize("name", NAMES)
def test_published_files_in_root_are_used_without_a_warning(tmp_path, published, name, flat):
    paths = [source.path for source in publishers.SOURCES[name]]
    root = put(tmp_path / "root", published, paths, flat)
    found = _files.locate(name, root)
    for path, file in zip(paths, found, strict=True):
        assert file.path == root / (pathlib.PurePath(path).name if flat else path)
        assert file.md5 == publishers.md5(published / path)
        # The recordings have no published checksum.
        assert file.as_published is (None if name == "fsdd" else True)


def test_other_files_in_root_are_used_as_they_are_with_a_warning_and_a_note(tmp_path, published, publisher, cache):
    root = put(tmp_path / "root", published, change=ONE_MORE)
    before = publishers.listing(root)
    with pytest.warns(UserWarning, match="is not the published file") as caught:
        data = sample(root=root)
    assert len(caught) == 2
    for path, warning in zip(CSV, caught, strict=True):
        for part in (str(root / path), publishers.md5(root / path), publishers.md5(published / path)):
            assert part in str(warning.message)
    assert data.provenance["files"] == [
        {"file": pathlib.PurePath(path).name, "md5": publishers.md5(root / path), "as_published": False} for path in CSV
    ]
    assert publishers.listing(root) == before
    assert not publisher[1], "nothing may be downloaded"
    assert not cache.exists()


def test_the_warning_about_other_files_points_at_the_callers_line(tmp_path, published):
    root = put(tmp_path / "root", published, change=ONE_MORE)
    with pytest.warns(UserWarning, match="is not the published file") as caught:
        sample(root=root)
    # The line is in this file's helper, which calls load.
    assert {warning.filename for warning in caught} == {__file__}


def test_published_files_are_noted_as_such(tmp_path, published):
    data = sample(root=put(tmp_path / "root", published))
    assert [file["as_published"] for file in data.provenance["files"]] == [True, True]


def test_a_set_without_published_checksum_is_noted_as_unknown(published):
    data = sample("fsdd", root=published)
    path = "free-spoken-digit-dataset-1.0.10.zip"
    assert data.provenance["files"] == [{"file": path, "md5": publishers.md5(published / path), "as_published": None}]


def test_root_comes_before_the_data_folder_and_that_before_the_cache(tmp_path, published, monkeypatch, cache):
    root, folder = (put(tmp_path / name, published) for name in ("root", "folder"))
    put(cache, published)
    assert {file.path.parents[1] for file in _files.locate("ag_news")} == {cache}
    monkeypatch.setenv("NQM_DATA_DIR", str(folder))
    assert {file.path.parents[1] for file in _files.locate("ag_news")} == {folder}
    assert {file.path.parents[1] for file in _files.locate("ag_news", root)} == {root}


def test_the_users_file_comes_before_the_cache_even_where_its_checksum_differs(tmp_path, published, cache):
    put(cache, published)
    root = put(tmp_path / "root", published, change=b"\n")
    with pytest.warns(UserWarning, match="is not the published file"):
        found = _files.locate("ag_news", root)
    assert {file.path.parents[1] for file in found} == {root}


def test_what_root_lacks_is_taken_from_the_next_place(tmp_path, published, monkeypatch, cache):
    root = put(tmp_path / "root", published, CSV[:1])
    monkeypatch.setenv("NQM_DATA_DIR", str(put(tmp_path / "folder", published, ["mnist/train-labels-idx1-ubyte.gz"])))
    put(cache, published, CSV[1:])
    assert [file.path for file in _files.locate("ag_news", root)] == [root / CSV[0], cache / CSV[1]]


@pytest.mark.parametrize("kind", ["missing", "file"])
@pytest.mark.parametrize(("what", "name"), [("root", "ag_news"), ("root", "digits"), ("NQM_DATA_DIR", "ag_news")])
def test_a_folder_that_is_none_is_an_error_that_names_it(tmp_path, published, monkeypatch, cache, what, name, kind):
    put(cache, published)
    folder = tmp_path / "folder"
    if kind == "file":
        folder.write_bytes(b"")
    if what == "NQM_DATA_DIR":
        monkeypatch.setenv(what, str(folder))
    with pytest.raises(ValueError, match=f"{what} must be .* existing folder; got '{re.escape(str(folder))}'"):
        sample(name, root=folder if what == "root" else None)


@pytest.mark.parametrize("root", [5, 0, b"folder", ["folder"], False, []])
def test_a_root_that_is_no_path_is_an_error_that_names_it(published, cache, root):
    put(cache, published)
    with pytest.raises(TypeError, match=rf"root must be the path of a folder; got {re.escape(repr(root))}"):
        sample(root=root)


def test_an_empty_root_is_an_error_and_not_the_working_folder(published, monkeypatch):
    monkeypatch.chdir(published)
    with pytest.raises(ValueError, match="root must be the path of an existing folder; got ''"):
        sample(root="")


def test_an_empty_data_folder_variable_is_none(published, monkeypatch, cache):
    put(cache, published)
    monkeypatch.setenv("NQM_DATA_DIR", "")
    assert sample().provenance["name"] == "ag_news"


def test_root_may_be_a_string_and_start_at_the_home_folder(tmp_path, published, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "root", published)
    assert _files.locate("ag_news", str(tmp_path / "root")) == _files.locate("ag_news", "~/root")


def test_a_replaced_file_is_read_anew_even_where_its_time_is_kept(tmp_path):
    """The record must not name the checksum of one file beside the examples of another."""
    path = tmp_path / "root" / publishers.SOURCES["fsdd"][0].path
    path.parent.mkdir()

    def publish_and_load(seed):
        publishers.publish("fsdd", path.parent, seed)
        os.utime(path, (10**9, 10**9))  # as an archive or a copy that keeps times sets it
        return sample("fsdd", root=path.parent)

    first, second = publish_and_load(0), publish_and_load(1)
    assert first.provenance["files"] != second.provenance["files"]
    elsewhere = put(tmp_path / "elsewhere", path.parent, [path.name])
    np.testing.assert_array_equal(second.x_train, sample("fsdd", root=elsewhere).x_train)


# The shapes in which people have the files


def unpacked(archive, folder):
    """What an unpacker makes of an archive."""
    folder.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        zipfile.ZipFile(archive).extractall(folder)
    else:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")


def gunzipped(published, folder, rename):
    folder.mkdir(parents=True, exist_ok=True)
    for source in publishers.SOURCES["mnist"]:
        content = gzip.decompress((published / source.path).read_bytes())
        path = folder / rename(pathlib.PurePath(source.path).stem)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def gzipped(published, folder):
    put(folder.parent, published, [source.path for source in publishers.SOURCES["mnist"]], flat=True)
    folder.mkdir(parents=True)
    for source in publishers.SOURCES["mnist"]:
        name = pathlib.PurePath(source.path).name
        (folder.parent / name).rename(folder / name)


def python_cifar(published, path):
    """The Python version of the published binary archive."""
    content = _readers.read("CIFAR-10", published / "cifar-10-binary.tar.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    publishers.write_cifar(path, content["train"], content["test"])


def python_cifar_folder(published, root, path=""):
    python_cifar(published, published / "away" / "c.tar.gz")
    unpacked(published / "away" / "c.tar.gz", root / path)


CIFAR_BINARY, FSDD = "cifar-10-binary.tar.gz", "free-spoken-digit-dataset-1.0.10.zip"
LAYOUTS = {
    "torchvision's MNIST": ("mnist", lambda p, root: gzipped(p, root / "MNIST" / "raw")),
    "torchvision's MNIST, unpacked": ("mnist", lambda p, root: gunzipped(p, root / "MNIST" / "raw", str)),
    "root is torchvision's MNIST": ("mnist", lambda p, root: gunzipped(p, root / "raw", str)),
    "unpacked": ("mnist", lambda p, root: gunzipped(p, root / "mnist", str)),
    "unpacked, flat": ("mnist", lambda p, root: gunzipped(p, root, str)),
    "unpacked, with a dot": ("mnist", lambda p, root: gunzipped(p, root, lambda n: n.replace("-idx", ".idx"))),
    "unpacked, each in a folder": ("mnist", lambda p, root: gunzipped(p, root, lambda n: f"{n}/{n}")),
    "Python version": ("cifar2", lambda p, root: python_cifar(p, root / "cifar-10-python.tar.gz")),
    "torchvision's CIFAR": ("cifar2", python_cifar_folder),
    "CIFAR, unpacked twice": ("cifar2", lambda p, root: python_cifar_folder(p, root, "cifar-10-python")),
    "binary CIFAR, unpacked": ("cifar2", lambda p, root: unpacked(p / CIFAR_BINARY, root)),
    "torchtext's news": ("ag_news", lambda p, root: (put(root, p), (root / "ag_news_csv").rename(root / "AG_NEWS"))),
    "FSDD, unpacked": ("fsdd", lambda p, root: unpacked(p / FSDD, root)),
    "FSDD, unpacked twice": ("fsdd", lambda p, root: unpacked(p / FSDD, root / FSDD[:-4])),
}


@pytest.mark.parametrize(("name", "lay"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_examples_of_the_published_files(tmp_path, published, name, lay, publisher):
    root = tmp_path / "root"
    root.mkdir()
    lay(published, root)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is not the published file")  # nor is it, in these tests
        data = sample(name, root=root)
    expected = sample(name, root=published)
    np.testing.assert_array_equal(data.x_train, expected.x_train)
    np.testing.assert_array_equal(data.y_train, expected.y_train)
    np.testing.assert_array_equal(data.x_test, expected.x_test)
    assert publisher[1] == []


def test_a_folder_may_itself_be_the_unpacked_one(tmp_path, published):
    unpacked(published / CIFAR_BINARY, tmp_path)
    folder = tmp_path / "cifar-10-batches-bin"
    assert [file.path for file in _files.locate("cifar2", folder)] == [folder]


def test_the_binary_version_of_cifar_is_preferred(tmp_path, published):
    root = put(tmp_path / "root", published, [CIFAR_BINARY])
    python_cifar(published, root / "cifar-10-python.tar.gz")
    assert [file.path.name for file in _files.locate("cifar2", root)] == [CIFAR_BINARY]


def as_if_published(monkeypatch, name, path):
    """The form of that name has the checksum of the file or folder at hand."""
    (source,) = _files.SOURCES["cifar2"]
    (form,) = {f for f in source.forms if f.path == name}
    found = _files._checked(path, form)
    others = tuple(f._replace(md5=found.md5) if f == form else f for f in source.others)
    monkeypatch.setitem(_files.SOURCES, "cifar2", (source._replace(others=others),))


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-batches-py"])
def test_another_form_with_its_published_checksum_is_as_published(tmp_path, published, monkeypatch, name):
    python_cifar(published, tmp_path / "cifar-10-python.tar.gz")
    if name.endswith("py"):
        unpacked(tmp_path / "cifar-10-python.tar.gz", tmp_path)
        (tmp_path / "cifar-10-python.tar.gz").unlink()
    as_if_published(monkeypatch, name, tmp_path / name)
    (file,) = _files.locate("cifar2", tmp_path)
    assert (file.path.name, file.as_published) == (name, True)


def test_all_published_forms_count_as_the_python_archive(monkeypatch):
    """Whose name and checksum are in the keys of recorded results."""
    known = ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
    (source,) = publishers.SOURCES["cifar2"]
    assert source.md5 == "c32a1d4ab5d03f1284b67883e8d87530"
    counted = {pathlib.PurePath(f.path).name for f in source.forms if f.md5 is not None}
    assert counted == {"cifar-10-binary.tar.gz", "cifar-10-python.tar.gz", "cifar-10-batches-py"}
    monkeypatch.setattr(_files, "SOURCES", publishers.SOURCES)
    for form in source.forms:
        if form.md5 is not None:
            assert _files.counted_as(pathlib.PurePath(form.path).name, form.md5) == known
    for source in publishers.SOURCES["mnist"]:
        for form in source.forms:
            expected = (pathlib.PurePath(source.path).name, source.md5)
            assert _files.counted_as(pathlib.PurePath(form.path).name, form.md5) == expected


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "x.zip"])
def test_other_files_count_as_themselves(name):
    assert _files.counted_as(name, "0" * 32) == (name, "0" * 32)


def test_a_sweeps_keys_are_the_same_for_the_binary_and_the_python_version(tmp_path, published, monkeypatch):
    binary = put(tmp_path / "binary", published, [CIFAR_BINARY])
    python_cifar(published, tmp_path / "python" / "cifar-10-python.tar.gz")
    as_if_published(monkeypatch, "cifar-10-python.tar.gz", tmp_path / "python" / "cifar-10-python.tar.gz")
    sweep = sweeps.Sweep(
        data={"name": "cifar2", "n_train": 4, "n_test": 2},
        network={"name": "two_layer_fc", "width": 4},
        learning_rates=[0.5],
        steps=2,
    )
    keys, rows = [], []
    for folder in (binary, tmp_path / "python"):
        monkeypatch.setenv("NQM_DATA_DIR", str(folder))
        groups = sweep.groups()
        keys.append([key for group in groups for key in group.keys])
        rows.append([row["status"] for group in groups for row in _compute.compute(group)[0]])
        _compute._setting.cache_clear()
    assert keys[0] == keys[1]
    assert "failed" not in rows[0] + rows[1]


# The cache and downloads


@pytest.mark.parametrize("name", NAMES)
def test_a_download_lands_in_the_cache_under_the_publishers_name(published, publisher, cache, name):
    paths = [source.path for source in publishers.SOURCES[name]]
    found = _files.locate(name)
    assert [file.path for file in found] == [cache / path for path in paths]
    assert [file.as_published for file in found] == [None if name == "fsdd" else True] * len(paths)
    assert publisher[1] == paths
    assert files_below(cache) == sorted(paths)
    for path in paths:
        assert (cache / path).read_bytes() == (published / path).read_bytes()


def test_a_cached_file_is_not_downloaded_again(publisher):
    first, second = sample(), sample()
    assert publisher[1] == list(CSV)
    assert (first.x_train == second.x_train).all()
    assert first.provenance == second.provenance


def test_only_what_is_missing_is_downloaded_and_the_users_folder_gets_none_of_it(tmp_path, published, publisher, cache):
    root = put(tmp_path / "root", published, CSV[:1])
    before = publishers.listing(root)
    assert [file.path for file in _files.locate("ag_news", root)] == [root / CSV[0], cache / CSV[1]]
    assert publisher[1] == [CSV[1]]
    assert publishers.listing(root) == before


def test_nothing_is_downloaded_where_that_is_not_wanted(publisher, cache):
    with pytest.raises(FileNotFoundError, match="nqm datasets fetch"):
        _files.locate("ag_news", download=False)
    assert publisher[1] == []
    assert not cache.exists()


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing(publisher, cache):
    pages, asked = publisher
    pages[CSV[0]] += b"tampered"
    for attempt in (1, 2):
        with pytest.raises(ValueError, match=r"train\.csv"):
            _files.locate("ag_news")
        assert asked == [CSV[0]] * attempt
        assert files_below(cache) == []


@pytest.mark.parametrize("name", ["ag_news", "fsdd"])
def test_a_download_that_breaks_off_leaves_nothing(publisher, cache, name):
    pages, _ = publisher
    for path, content in pages.items():
        pages[path] = content[: len(content) // 2], len(content)
    message = expect_missing(name)
    assert publishers.SOURCES[name][0].path in message
    assert files_below(cache) == []


def test_a_page_that_is_gone_is_a_missing_file(publisher, cache):
    del publisher[0][CSV[1]]
    message = expect_missing("ag_news")
    assert CSV[1] in message
    assert CSV[0] not in message
    assert files_below(cache) == [CSV[0]]


def test_a_damaged_cache_file_is_replaced_by_a_download(published, publisher, cache):
    put(cache, published, CSV[:1], change=b"damage")
    with pytest.warns(UserWarning, match=re.escape(f"{cache / CSV[0]} is damaged")):
        found = _files.locate("ag_news")
    assert [file.as_published for file in found] == [True, True]
    assert publisher[1] == list(CSV)
    assert (cache / CSV[0]).read_bytes() == (published / CSV[0]).read_bytes()


def test_a_damaged_cache_file_is_not_used_where_nothing_may_be_downloaded(published, publisher, cache):
    put(cache, published, change=b"damage")
    with (
        pytest.warns(UserWarning, match="is damaged .* and is not used"),
        pytest.raises(FileNotFoundError, match=re.escape(CSV[0])),
    ):
        _files.locate("ag_news", download=False)
    assert publisher[1] == []


def test_a_damaged_cache_file_is_not_used_offline(published, cache):
    put(cache, published, change=b"damage")
    with (
        pytest.warns(UserWarning, match="is damaged .* and is not used"),
        pytest.warns(UserWarning, match="could not be downloaded"),
        pytest.raises(FileNotFoundError, match=re.escape(CSV[0])),
    ):
        _files.locate("ag_news")


def test_a_damaged_cache_file_is_not_used_where_the_download_is_wrong_too(published, publisher, cache):
    put(cache, published, change=b"damage")
    publisher[0][CSV[0]] += b"tampered"
    for _ in range(2):
        with (
            pytest.warns(UserWarning, match="is damaged .* and is not used"),
            pytest.raises(ValueError, match=r"train\.csv"),
        ):
            _files.locate("ag_news")


def test_a_damaged_cache_file_without_published_checksum_is_an_error_that_names_it(published, cache):
    path = publishers.SOURCES["fsdd"][0].path
    put(cache, published, [path])
    (cache / path).write_bytes((cache / path).read_bytes()[:-500])
    with pytest.raises(ValueError, match=re.escape(str(cache / path))):
        sample("fsdd")


# Offline


@pytest.mark.parametrize("name", NAMES)
def test_offline_the_error_lists_every_file_its_address_and_the_folders(tmp_path, cache, name):
    message = expect_missing(name, root=tmp_path)
    for source in _files.SOURCES[name]:
        assert f"{source.path}   (from {source.url})" in message
    assert f"into {tmp_path}" in message
    assert str(cache) in message
    assert repr(name) in message


def test_offline_the_error_names_the_variable_where_no_folder_is_given():
    assert "the folder that NQM_DATA_DIR names" in expect_missing("ag_news")


def test_offline_the_error_lists_only_the_files_that_are_missing(tmp_path, published, monkeypatch):
    monkeypatch.setenv("NQM_DATA_DIR", str(put(tmp_path / "folder", published, CSV[:1])))
    message = expect_missing("ag_news")
    assert CSV[0] not in message
    assert CSV[1] in message
    assert str(tmp_path / "folder") in message


def test_files_put_where_the_error_says_are_used(tmp_path, published):
    expect_missing("ag_news", root=tmp_path)
    put(tmp_path, published)
    assert {file.path.parents[1] for file in _files.locate("ag_news", tmp_path)} == {tmp_path}


def test_a_server_that_has_gone_is_a_missing_file(monkeypatch, published, cache):
    with publishers.serve({}) as (url, _):
        pass
    monkeypatch.setattr(_files, "SOURCES", publishers.sources(url, published))
    message = expect_missing("cifar2")
    assert "cifar-10-binary.tar.gz" in message
    assert str(cache) in message


def test_load_passes_the_error_on():
    with pytest.warns(UserWarning, match="could not be downloaded"), pytest.raises(FileNotFoundError, match="svhn/"):
        sample("svhn2")


def test_the_embedded_default_needs_no_file(cache):
    data = sample("digits")
    assert data.provenance["files"] == []
    assert not cache.exists()


@pytest.mark.parametrize("name", NAMES)
def test_every_source_is_published_over_a_url_that_ends_its_download_with_its_own_file(name):
    """As downloaded by hand from the address in the error message, a file has the name that the package looks for."""
    for source in publishers.SOURCES[name]:
        assert source.url.startswith(("https://", "http://ufldl.stanford.edu/"))
        assert source.md5 is None or re.fullmatch("[0-9a-f]{32}", source.md5)
        if name != "fsdd":  # GitHub names the archive of a tag itself
            assert pathlib.PurePosixPath(source.path).name == pathlib.PurePosixPath(source.url).name
