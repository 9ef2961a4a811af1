"""Arrays of numbers from a MATLAB file of level 5 (what MATLAB's ``save`` and SciPy's ``savemat`` write).

The format is MathWorks's "MAT-File Format", chapter 1: a header of 128 bytes, then elements of a type, a length and
that many bytes. The numbers come in the type that they are stored in, which may be smaller than that of the variable.
"""

import struct
import zlib

import numpy as np

_COMPRESSED, _MATRIX, _INT8, _INT32, _UINT32 = 15, 14, 1, 5, 6
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC_CLASSES = range(6, 16)  # double to uint64; below are cells, structures, text and sparse matrices
_COMPLEX, _LOGICAL = 0x08, 0x02


def read(content, names, limit):
    """{name: array} of those variables of a file that are named; at most ``limit`` bytes each.

    Raises
    ------
    ValueError
        If it is no such file, or a variable is no array of real numbers.
    """
    if content[:8] == b"\x89HDF\r\n\x1a\n" or content.startswith(b"MATLAB 7.3"):
        raise ValueError("it is of MATLAB's version 7.3; save it with '-v7'")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or struct.unpack_from(order + "H", content, 124) != (0x0100,):
        raise ValueError("the header is not that of a MATLAB file of level 5")
    content = memoryview(content)
    found, position = {}, 128
    while position < len(content):
        kind, body, position = _element(content, position, order)
        if kind == _COMPRESSED:
            body = _inflated(body, limit)
            total = len(body)
            kind, body, end = _element(body, 0, order)
            if end != total:
                raise ValueError("a compressed variable is longer than it says")
        if kind != _MATRIX:
            raise ValueError("it holds something that is no variable")
        name, array = _variable(body, order, names)
        if name in found:
            raise ValueError(f"it holds the variable {name} twice")
        if name in names:
            found[name] = array
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"it holds no variable {missing[0]}")
    return found


def _element(content, position, order):
    """Type and bytes of the element at a position, and where it ends (without the padding that may follow)."""
    kind, length = struct.unpack_from(order + "II", content, position)
    start = position + 8
    if kind >> 16:  # a small element: its length is in the upper half of the first word, its bytes in the second
        kind, length, start = kind & 0xFFFF, kind >> 16, position + 4
        if length > 4:
            raise ValueError("an element is longer than its place")
    if length > len(content) - start:
        raise ValueError("an element is longer than the file")
    return kind, content[start : start + length], max(position + 8, start + length)


def _inflated(body, limit):
    stream = zlib.decompressobj()
    content = stream.decompress(body, limit + 1)
    if len(content) > limit:
        raise ValueError(f"a variable takes more than {limit} bytes")
    if not stream.eof or stream.unused_data:
        raise ValueError("a compressed variable does not end where it should")
    return memoryview(content)


def _variable(body, order, names):
    """Name and array of a variable; None for the array where it is none of the names."""
    kinds, parts, position = [], [], 0
    while position < len(body) and len(parts) < 5:
        kind, part, end = _element(body, position, order)
        kinds.append(kind)
        parts.append(part)
        position = -(-end // 8) * 8  # elements in a variable are padded to whole words
    if kinds[:3] != [_UINT32, _INT32, _INT8] or len(parts[0]) != 8 or len(parts[1]) % 4:
        raise ValueError("a variable is not as MATLAB writes one")
    name = bytes(parts[2]).decode("ascii")
    if name not in names:
        return name, None
    (flags,) = struct.unpack_from(order + "I", parts[0])
    shape = struct.unpack(f"{order}{len(parts[1]) // 4}i", parts[1])
    if (flags & 0xFF) not in _NUMERIC_CLASSES or (flags >> 8) & (_COMPLEX | _LOGICAL) or len(parts) != 4:
        raise ValueError(f"the variable {name} is no array of real numbers")
    if kinds[3] not in _TYPES or position < len(body):
        raise ValueError(f"the variable {name} is no array of real numbers")
    dtype = np.dtype(_TYPES[kinds[3]]).newbyteorder(order)
    count = 1
    for length in shape:
        count *= length
    if not 2 <= len(shape) <= 8 or min(shape) < 0 or count * dtype.itemsize != len(parts[3]):
        raise ValueError(f"the variable {name} has not the numbers that its shape takes")
    return name, np.frombuffer(parts[3], dtype).reshape(shape, order="F")
