"""Small files in the publishers' layouts, and a loopback server that stands in for the publishers."""

import contextlib
import csv
import gzip
import hashlib
import http.server
import io
import pickle
import struct
import tarfile
import threading
import wave
import zipfile

import numpy as np
import scipy.io

from nqm_tools import _files

SOURCES = dict(_files.SOURCES)  # as the package has them, before any test replaces them
NOWHERE = "http://127.0.0.1:1"  # nothing listens there


# Pickles


class _Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and NumPy 1 wrote: byte strings for str, and NumPy's core under its old name."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    def save_str(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value.encode("ascii"))
        self.memoize(value)

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or value.__qualname__}\n".encode())
        self.memoize(value)

    dispatch[bytes] = save_bytes
    dispatch[str] = save_str


def python2_pickle(value):
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue()


# One writer a format


def tar_gz(path, members):
    """An archive of (name or TarInfo, content) members."""
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def cifar_batch(images, labels, dump=python2_pickle):
    """A pickled batch: rows of 3,072 bytes, channel first."""
    rows = np.ascontiguousarray(np.transpose(images, (0, 3, 1, 2))).reshape(len(images), 3072)
    return dump({b"data": rows, b"labels": list(map(int, labels)), b"batch_label": b"a batch"})


def cifar_batches(train, test):
    """Pools of (images NHWC, labels), the training pool cut into the five batches of the original, as {name: pool}."""
    batches = zip(np.array_split(train[0], 5), np.array_split(train[1], 5), strict=True)
    return {f"data_batch_{number}": batch for number, batch in enumerate(batches, 1)} | {"test_batch": test}


def cifar_python_files(train, test, dump=python2_pickle):
    """{name: content} of the Python version."""
    files = {name: cifar_batch(*batch, dump) for name, batch in cifar_batches(train, test).items()}
    return files | {"batches.meta": dump({b"label_names": [b"airplane"]})}


def cifar_binary_files(train, test):
    """{name: content} of the binary version: rows of a label and 3,072 bytes, channel first."""
    files = {
        f"{name}.bin": np.c_[labels, np.transpose(images, (0, 3, 1, 2)).reshape(-1, 3072)].astype(np.uint8).tobytes()
        for name, (images, labels) in cifar_batches(train, test).items()
    }
    return files | {"batches.meta.txt": b"airplane\n"}


def write_cifar(path, train, test, dump=python2_pickle):
    files = cifar_python_files(train, test, dump)
    tar_gz(path, [(f"cifar-10-batches-py/{name}", content) for name, content in files.items()])


def write_cifar_binary(path, train, test):
    """The members in another order than the batches', as in the publisher's archive."""
    files = cifar_binary_files(train, test)
    tar_gz(path, [(f"cifar-10-batches-bin/{name}", files[name]) for name in sorted(files, key=lambda n: n[::-1])])


def write_idx(path, array, kind=8):
    header = struct.pack(">HBB", 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_svhn(path, images, labels):
    """Examples along the last axis; digit 0 is stored as label 10."""
    stored = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    scipy.io.savemat(path, {"X": np.transpose(images, (1, 2, 3, 0)), "y": stored}, do_compression=True)


def wav(samples, channels=1, width=2, rate=8000):
    """Samples in [-1, 1) as the bytes of a wave file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((channels, width, rate, 0, "NONE", ""))
        sound.writeframes((np.asarray(samples) * 32768).astype("<i2").tobytes())
    return file.getvalue()


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)


def write_fsdd(path, recordings, labels):
    top = "free-spoken-digit-dataset-1.0.10"
    members = [(f"{top}/README.md", b"Free spoken digits")]
    members += [
        (f"{top}/recordings/{digit}_nobody_{index}.wav", wav(samples))
        for index, (samples, digit) in enumerate(zip(recordings, labels, strict=True))
    ]
    write_zip(path, members)


def write_ag_news(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)


# Whole data sets, every example different from every other


def _images(rng, shape, labels):
    labels = np.repeat(labels, 10)
    return rng.integers(0, 256, (len(labels), *shape), dtype=np.uint8), labels


def _publish_cifar2(paths, rng):
    train, test = (_images(rng, (32, 32, 3), (0, 2, 7)) for _ in range(2))
    write_cifar_binary(paths[0], train, test)
    return train, test


def _publish_mnist(paths, rng):
    pools = [_images(rng, (28, 28), (0, 2, 7)) for _ in range(2)]
    for path, array in zip(paths, (array for pool in pools for array in pool), strict=True):
        write_idx(path, array.astype(np.uint8))
    return [(images[..., None], labels) for images, labels in pools]


def _publish_svhn2(paths, rng):
    pools = [_images(rng, (32, 32, 3), (0, 2, 7)) for _ in range(2)]
    for path, pool in zip(paths, pools, strict=True):
        write_svhn(path, *pool)
    return pools


def _publish_fsdd(paths, rng):
    labels = np.repeat((1, 3, 7), 10)
    recordings = [np.round(rng.uniform(-9000, 9000, rng.integers(2000, 6000))) / 32768 for _ in labels]
    write_fsdd(paths[0], recordings, labels)
    return (recordings, labels), None


_NEWS = {1: "minister treaty border", 2: "striker goal league", 3: "shares profit market"}


def _publish_ag_news(paths, rng):
    pools = []
    for repeats, path in enumerate(paths, 1):
        # Both files in the same words, so that the test texts differ in the features of the training texts too.
        rows = [
            (label, words, f'Said "item{index:02}"\\and again' + f" {words} item{index:02}" * repeats)
            for label, words in _NEWS.items()
            for index in rng.permutation(10)
        ]
        write_ag_news(path, rows)
        texts = [f"{title} {description}".replace("\\", " ") for _, title, description in rows]
        pools.append((texts, np.array([label for label, _, _ in rows])))
    return pools


_PUBLISHERS = {
    "cifar2": _publish_cifar2,
    "mnist": _publish_mnist,
    "svhn2": _publish_svhn2,
    "fsdd": _publish_fsdd,
    "ag_news": _publish_ag_news,
}


def publish(name, folder, seed=0):
    """Write the files of a data set; return its training and test pool as the loader should read them.

    Every pool holds ten examples of each of three classes: the default pair and one more.
    """
    paths = [folder / source.path for source in SOURCES[name]]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    return _PUBLISHERS[name](paths, np.random.default_rng(seed))


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def sources(url, folder=None):
    """The package's sources, but at ``url`` and, with ``folder``, with the checksums of the files there."""
    return {
        name: tuple(
            source._replace(
                url=f"{url}/{source.path}",
                md5=source.md5 if folder is None or source.md5 is None else md5(folder / source.path),
            )
            for source in group
        )
        for name, group in SOURCES.items()
    }


def isolate(monkeypatch, cache, sources):
    """No user's folder, an own cache, and no publisher but on this machine."""
    monkeypatch.delenv(_files.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setenv(_files.CACHE_DIR_VARIABLE, str(cache))
    monkeypatch.setattr(_files, "SOURCES", sources)
    # A proxy would be asked for 127.0.0.1 as well.
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1")


def listing(folder):
    """Everything under a folder: names, and the bytes and the modification time of files."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in folder.rglob("*")
    }


@contextlib.contextmanager
def serve(pages):
    """Serve {path: bytes} on a free loopback port; yields the address and the list of paths asked for so far.

    A page (bytes, length) announces that length, and the connection ends when the bytes do.
    """
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.lstrip("/")
            asked.append(path)
            if path not in pages:
                self.send_error(404)
                return
            page = pages[path]
            content, length = page if isinstance(page, tuple) else (page, len(page))
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
