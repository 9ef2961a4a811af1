"""One file of a :class:`nqm_tools.store.Store`: rows and provenance as Parquet, with checks that find any damage."""

import hashlib
import importlib
import json
import re
import stat
import time
from typing import Any, NamedTuple

import numpy as np

STATUSES = ("finished", "diverged", "failed")
REQUIRED = ("key", "status", "reason")

# In the metadata of each file: what makes it one of ours, and what it says besides its columns. A file of the second
# version holds what several of the first did.
_FORMAT, _VERSION, _SEVERAL = b"nqm_tools.store", b"1", b"2"
_CAUSE = 300  # characters of what pyarrow says of a file, which may quote it at length
_HEADER, _DIGEST = b"nqm_tools.store.header", b"nqm_tools.store.digest"


def import_package(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"sweeps need {name}, which is not installed: the extra [sweeps]") from None


class File(NamedTuple):
    """What a file says, or one of those that were put together in it.

    If ``problem`` is not None, it is to be left out, and ``damaged`` tells whether it was ours.
    """

    name: str
    problem: str | None = None
    damaged: bool = False
    written: int = 0  # time, in ns
    provenance: dict | None = None
    statuses: dict | None = None  # key: status
    scalars: list | None = None  # a dictionary a run
    curves: list | None = None  # names
    table: Any = None


def read(path):
    """Read a file and check all of it; a list of what it holds. OSError only if the operating system refuses."""
    parquet, arrow = import_package("pyarrow.parquet"), import_package("pyarrow")
    if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: a pipe would wait for its writer
        return [File(path.name, "is no regular file")]
    content = path.read_bytes()
    try:
        file = parquet.ParquetFile(arrow.BufferReader(content), page_checksum_verification=True, pre_buffer=False)
        metadata = file.metadata.metadata or {}
        if metadata.get(_FORMAT) not in (_VERSION, _SEVERAL):
            accepted = f"{_VERSION.decode()} or {_SEVERAL.decode()}"
            return [File(path.name, f"was not written by this version of nqm_tools.store (format {accepted})")]
        # One by one, without threads and read-ahead, which take longer than reading so little.
        table = file.read(use_threads=False)
        if _digest(table, metadata.get(_HEADER, b"")) != metadata.get(_DIGEST):
            raise ValueError("its contents do not have their checksum")
        header = json.loads(metadata[_HEADER])
        if metadata[_FORMAT] == _VERSION:
            return [_file(path.name, header, table)]
        return [_file(name, part, rows) for name, part, rows in _parts(header, table)]
    except Exception as error:  # a flipped bit in a footer can surface as nearly anything
        cause = " ".join(str(error).split()) or repr(error)
        return [File(path.name, f"is damaged ({cause[:_CAUSE]})", damaged=True)]


def _file(name, header, table):
    written, provenance = _checked_header(header)
    said = {"written": written, "provenance": provenance, "statuses": _checked_statuses(table)}
    return File(name, **said, scalars=table_rows(table, False), curves=curve_names(table), table=table)


def _parts(header, table):
    """Name, header and rows of each file that was put into this one."""
    parts = header.get("parts") if isinstance(header, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError("its header does not say what it was put together of")
    ends = np.cumsum([part["rows"] for part in parts])
    if not len(ends) or min(part["rows"] for part in parts) < 1 or ends[-1] != len(table):
        raise ValueError("its parts do not have as many rows as it has")
    if not all(isinstance(part.get("name"), str) for part in parts):
        raise ValueError("its parts have no names")
    for part, end in zip(parts, ends, strict=True):
        yield part["name"], part, table.slice(end - part["rows"], part["rows"]).combine_chunks()


def _checked_header(header):
    """When a file was written, and its provenance. A file may have our checksum and not be from here."""
    if not isinstance(header, dict) or type(header.get("written")) is not int:
        raise ValueError("its header does not say when it was written")
    if not isinstance(header.get("provenance"), dict):
        raise ValueError("its header holds no provenance")
    return header["written"], header["provenance"]


def _checked_statuses(table):
    """{key: status} of a table that holds what :func:`check_rows` lets through."""
    arrow = import_package("pyarrow")
    scalars = (arrow.string(), arrow.bool_(), arrow.int64(), arrow.float64(), arrow.null())
    accepted = (*scalars, arrow.list_(arrow.int64()), arrow.list_(arrow.float64()))
    names = table.column_names
    for field in table.schema:
        if field.type not in accepted:
            raise ValueError(f"its column {field.name!r} is of {field.type}, which no run has")
    if len(set(names)) < len(names) or not set(REQUIRED) <= set(names):
        raise ValueError(f"its columns are not {', '.join(REQUIRED)} and others, each of them once")
    required = zip(*(table[name].to_pylist() for name in REQUIRED), strict=True)
    statuses = {}
    for key, status, reason in required:
        if not isinstance(key, str) or not _is_key(key) or key in statuses:
            raise ValueError(f"its keys are no hashes, each of them once: {key!r}")
        if status not in STATUSES or not isinstance(reason, str):
            raise ValueError(f"run {key} has no status of {', '.join(STATUSES)}, or no reason")
        statuses[key] = status
    lengths = {name: table[name].combine_chunks().value_lengths().to_pylist() for name in curve_names(table)}
    for row, (key, status) in enumerate(statuses.items()):
        _check_lengths(key, status, {name: column[row] for name, column in lengths.items() if column[row] is not None})
    return statuses


def _is_key(text):
    return re.fullmatch("[0-9a-f]+", text) is not None


def _check_lengths(key, status, lengths):
    if lengths and (status == "failed" or len({*lengths.values(), lengths.get("step")}) > 1):
        raise ValueError(
            f"curves must have the length of the curve 'step', and a failed run has none; run {key} ({status}) has "
            f"curves of lengths {lengths}"
        )


def encode(rows, provenance):
    """The bytes of a file that holds checked rows."""
    return _encoded(_table(rows), _header(provenance), _VERSION)


def encode_several(files):
    """The bytes of a file that holds what these hold, which have the same columns; it is read as these are."""
    table = import_package("pyarrow").concat_tables([plain_table(file) for file in files]).combine_chunks()
    parts = [
        {"name": file.name, "rows": len(file.table), "written": file.written, "provenance": file.provenance}
        for file in files
    ]
    return _encoded(table, json.dumps({"parts": parts}).encode(), _SEVERAL)


def plain_table(file):
    """A file's table, without what else the file said."""
    return file.table.replace_schema_metadata(None)


def _encoded(table, header, version):
    sink = import_package("pyarrow").BufferOutputStream()
    # No dictionaries, since a sweep's numbers seldom repeat; no statistics, since the footer, which is read first, is
    # guarded by our digest only; no Arrow schema, which says what Parquet's own does and was a third of a file.
    options = {"compression": "zstd", "compression_level": 19, "write_page_checksum": True}
    options |= {"use_dictionary": False, "write_statistics": False, "store_schema": False}
    with import_package("pyarrow.parquet").ParquetWriter(sink, table.schema, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_FORMAT: version, _HEADER: header, _DIGEST: _digest(table, header)})
    return sink.getvalue()


def _header(provenance):
    if not isinstance(provenance, dict):
        raise TypeError(f"provenance must be a dictionary; got {provenance!r}")
    try:
        return json.dumps({"written": time.time_ns(), "provenance": provenance}).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"provenance must be what JSON can hold; got {provenance!r}: {error}") from None


def _digest(table, header):
    """Of the columns and the header: Parquet has checksums of pages, but none of names and numbers in the footer."""
    digest = hashlib.sha256(header)
    curves = curve_names(table)
    for name in table.column_names:
        column = table[name].combine_chunks()
        if name in curves:
            values = column.flatten().to_numpy()
            digest.update(json.dumps([name, column.value_lengths().to_pylist(), values.dtype.str]).encode())
            digest.update(values.tobytes())
        else:
            digest.update(json.dumps([name, column.to_pylist()]).encode())
    return digest.hexdigest().encode()


def curve_names(table):
    is_list = import_package("pyarrow").types.is_list
    return [field.name for field in table.schema if is_list(field.type)]


def table_rows(table, with_curves):
    curves = curve_names(table)
    rows = table.drop_columns(curves).to_pylist()
    for name in curves if with_curves else ():
        for row, curve in zip(rows, table[name], strict=True):
            row[name] = curve.values.to_numpy() if curve.is_valid else None
    return rows


def _table(rows):
    arrow = import_package("pyarrow")
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = _curves(values) if any(isinstance(v, np.ndarray) for v in values) else _scalars(values)
        except (TypeError, ValueError, OverflowError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"column {name!r} cannot be stored: {error}") from None
    return arrow.table(columns)


def _scalars(values):
    arrow = import_package("pyarrow")
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) > 1:
        raise TypeError(f"its values are of several kinds: {', '.join(sorted(kind.__name__ for kind in kinds))}")
    types = {str: arrow.string(), bool: arrow.bool_(), int: arrow.int64(), float: arrow.float64()}
    return arrow.array(values, types[kinds.pop()] if kinds else arrow.null())


def _curves(values):
    arrow = import_package("pyarrow")
    if not all(value is None or isinstance(value, np.ndarray) for value in values):
        raise TypeError("it is a curve in some rows and a scalar in others")
    arrays = [np.empty(0) if value is None else value for value in values]
    flat = np.concatenate([array for array in arrays if array.size] or arrays[:1])  # ints among floats become floats
    ends = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    missing = arrow.array([value is None for value in values])
    return arrow.ListArray.from_arrays(arrow.array(ends), arrow.array(flat, from_pandas=False), mask=missing)


def check_rows(rows):
    """The rows with plain Python scalars, and curves as arrays."""
    if not isinstance(rows, list | tuple) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"rows must be a non-empty list of dictionaries; got {rows!r}")
    rows = [{name: _plain(name, value) for name, value in row.items()} for row in rows]
    keys = set()
    for row in rows:
        if missing := [name for name in REQUIRED if not isinstance(row.get(name), str)]:
            raise ValueError(
                f"every row must have text in {', '.join(REQUIRED)}; {', '.join(missing)} lacks in {row!r}"
            )
        if not _is_key(row["key"]):
            raise ValueError(f"key must be a hexadecimal hash in lower case; got {row['key']!r}")
        if row["key"] in keys:
            raise ValueError(f"every key must be there once; got {row['key']!r} twice")
        keys.add(row["key"])
        if row["status"] not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}; got {row['status']!r}")
        # The words of some exception, which may quote the undecodable name of a file: no reason to lose results.
        row["reason"] = row["reason"].encode(errors="backslashreplace").decode()
        lengths = {name: len(value) for name, value in row.items() if isinstance(value, np.ndarray)}
        _check_lengths(row["key"], row["status"], lengths)
    return rows


def _plain(name, value):
    if not isinstance(name, str) or not name:
        raise TypeError(f"columns must have names; got {name!r}")
    if isinstance(value, list | tuple) or getattr(value, "ndim", None) == 1:
        curve = np.asarray(value)
        for kind, dtype in (("iu", np.int64), ("f", np.float64)):
            if curve.ndim == 1 and curve.dtype.kind in kind and np.can_cast(curve.dtype, dtype):
                return curve.astype(dtype)
    else:
        scalar = value.item() if getattr(value, "ndim", None) == 0 else value
        if scalar is None or isinstance(scalar, bool):
            return scalar
        for kind in (str, int, float):  # a subclass, say of an enumeration, as what it is
            if isinstance(scalar, kind):
                return kind(scalar)
    raise TypeError(
        f"column {name!r} must hold a str, int, float, bool, None, or a 1-d array or list of floats or ints of at most "
        f"64 bits; got {value!r}"
    )
