"""Files that are there whole or not at all: after a crash, a full disk, or another writer at the same moment."""

import contextlib
import os
import pathlib
import uuid

# A file's own name in that of its temporary one, so that a stray one can be told; names have 255 bytes at most.
_KEPT = 50


@contextlib.contextmanager
def whole_file(path):
    """Write a binary file that takes its name, and another file's place, only when the block ends well.

    Until then it has a hidden name beside it that no other process, thread, container or machine draws: process ids
    are the same in two containers, and in two threads. What a killed writer leaves is hidden and never read.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name[:_KEPT]}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else the name may last through a power cut, and not what is in the file
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it is gone if all went well; else the first error is the one to report
            temporary.unlink()
    _sync_folder(path.parent)


def write_text(path, text):
    """Write a text file whole or not at all, in UTF-8; through a link, as a plain write does."""
    with whole_file(os.path.realpath(path)) as file:
        file.write(text.encode())


def _sync_folder(folder):
    """Make a new name last through a power cut. Not every system can; there, the last file may be lost, not torn."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
