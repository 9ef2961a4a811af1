"""What a pickle of plain values and arrays says, found without unpickling it.

Its instructions are read as data: nothing is imported or called, and no array is made by NumPy's own unpickling, which
can be led to read memory that is not the array's. What NumPy writes of an array (its type, shape and bytes) is
recognised, checked, and taken as numbers.
"""

import dataclasses
import io
import pickle
import pickletools
from typing import Any

import numpy as np

_CORES = ("numpy.core", "numpy._core")  # NumPy moved it in version 2
_RECONSTRUCT = {f"{core}.multiarray _reconstruct" for core in _CORES}
_SCALAR = {f"{core}.multiarray scalar" for core in _CORES}
_FROM_BUFFER = {f"{core}.numeric _frombuffer" for core in _CORES}
_BYTES = {f"{module} {name}" for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")}
_ENCODE, _DTYPE, _NDARRAY = "_codecs encode", "numpy dtype", "numpy ndarray"
NAMES = {_ENCODE, _DTYPE, _NDARRAY, *_RECONSTRUCT, *_SCALAR, *_FROM_BUFFER, *_BYTES}

_PUSHED = {"NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
_PUSHED |= {"FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_PUSHED |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_BYTE_STRINGS = {"BINSTRING", "SHORT_BINSTRING"}  # Python 2's str
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_BUILT = {"MARK", *_TUPLES, "TUPLE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "LIST", "DICT", "APPEND", "APPENDS"}
_BUILT |= {"SETITEM", "SETITEMS", "STACK_GLOBAL", "REDUCE", "BUILD"}
_READ = {*_PUSHED, *_BYTE_STRINGS, *_PUTS, *_GETS, *_BUILT, "GLOBAL", "PROTO", "FRAME", "STOP"}


@dataclasses.dataclass(frozen=True, eq=False)
class _Name:
    """What a pickle would import, as 'module name'."""

    text: str


@dataclasses.dataclass(eq=False)
class _Made:
    """What a pickle would make by a call, and the state that it would give to it."""

    by: str
    arguments: tuple
    state: Any = None


_MARK = object()
_KEY_LENGTH = 100  # more would be a way to fill the memory with copies


def read(content):
    """The value that a pickle holds: numbers, texts, byte strings, lists, tuples and dictionaries; see :func:`array`.

    Raises
    ------
    ValueError
        If it is no such pickle.
    """
    stream = io.BytesIO(content)
    stack, memo, before = [], {}, None
    protocol = 1  # of pickles that name none, 0 and 1 need not be told apart
    while True:
        position = stream.tell()
        opcode = pickletools.code2op.get(stream.read(1).decode("latin-1"))
        if opcode is None:
            raise ValueError(f"the pickle has no instruction at byte {position}")
        name = opcode.name
        if name not in _READ:
            raise ValueError(f"the pickle uses {name}, which no data needs")
        if opcode.proto > protocol and name != "PROTO":
            raise ValueError(f"the pickle is of protocol {protocol}, where {name} is not known")
        argument = _argument(opcode, stream)
        if name in _PUSHED:
            stack.append(_CONSTANTS.get(name, argument))
        elif name in _BYTE_STRINGS:
            stack.append(argument.encode("latin-1"))
        elif name in _PUTS:
            if before in _PUTS:  # no pickler does; in shifted bytes it would pass unnoticed
                raise ValueError("the pickle remembers one thing twice")
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_name(argument))
        elif name == "PROTO":
            if position or argument > pickle.HIGHEST_PROTOCOL:
                raise ValueError("the pickle does not begin as one")
            protocol = argument
        elif name == "STOP":
            break
        elif name != "FRAME":
            _build(name, stack)
        before = name
    if len(stack) != 1 or stack[0] is _MARK or stream.read(1):
        raise ValueError("the pickle does not end with its value")
    return stack[0]


def _argument(opcode, stream):
    if opcode.name == "GLOBAL":  # two lines as they are, where pickletools looks for escapes and warns of unknown ones
        return " ".join(stream.readline().decode("ascii").rstrip("\n") for _ in range(2))
    return opcode.arg.reader(stream) if opcode.arg else None


def _build(name, stack):
    """The instructions that make one thing of several on the stack."""
    if name == "MARK":
        stack.append(_MARK)
    elif name in _TUPLES:
        count = _TUPLES[name]
        stack.append(tuple(_popped(stack, count)))
    elif name == "TUPLE":
        stack.append(tuple(_marked(stack)))
    elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
        stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[name]())
    elif name == "LIST":
        stack.append(_marked(stack))
    elif name == "DICT":
        items = _marked(stack)
        stack.append({})
        _set_items(stack[-1], items)
    elif name in ("APPEND", "APPENDS"):
        items = _marked(stack) if name == "APPENDS" else _popped(stack, 1)
        _expect(stack[-1], list).extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        items = _marked(stack) if name == "SETITEMS" else _popped(stack, 2)
        _set_items(_expect(stack[-1], dict), items)
    elif name == "STACK_GLOBAL":
        stack.append(_name(" ".join(_expect(part, str) for part in _popped(stack, 2))))
    elif name == "REDUCE":
        made_by, arguments = _popped(stack, 2)
        stack.append(_Made(_expect(made_by, _Name).text, _expect(arguments, tuple)))
    elif name == "BUILD":
        (state,) = _popped(stack, 1)
        if _expect(stack[-1], _Made).state is not None:
            raise ValueError("the pickle sets one thing twice")
        stack[-1].state = state


def _name(text):
    if text not in NAMES:
        raise ValueError(f"the pickle asks for {text.replace(' ', '.')}, which no data needs")
    return _Name(text)


def _expect(value, kind):
    if type(value) is not kind:
        raise ValueError(f"the pickle has {type(value).__name__} where {kind.__name__} belongs")
    return value


def _popped(stack, count):
    values = stack[-count:]
    if len(values) < count or any(value is _MARK for value in values):
        raise ValueError("the pickle takes more than there is")
    del stack[-count:]
    return values


def _marked(stack):
    for start in range(len(stack) - 1, -1, -1):
        if stack[start] is _MARK:
            values = stack[start + 1 :]
            del stack[start:]
            return values
    raise ValueError("the pickle takes more than there is")


def _set_items(target, items):
    if len(items) % 2:
        raise ValueError("the pickle has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is _Made and all(len(_expect(part, str)) <= _KEY_LENGTH for part in key.arguments):
            key = _bytes(key)
        if type(key) not in (bytes, str, int) or key in target:
            raise ValueError("the keys of the pickle's dictionaries must be texts or numbers, each of them once")
        target[key] = value


def array(value):
    """The array that :func:`read` found, or one of the whole numbers in a list or tuple.

    Raises
    ------
    ValueError
        If the value is none of these, or its numbers are no integers or floating-point numbers.
    """
    if type(value) in (list, tuple):
        numbers = [_scalar(number) if type(number) is _Made else number for number in value]
        if not all(type(number) is int and -(2**63) <= number < 2**63 for number in numbers):
            raise ValueError("a list of the pickle holds other things than whole numbers")
        return np.array(numbers, np.int64)
    by = getattr(value, "by", None)
    if by in _RECONSTRUCT:
        if not _is_name(value.arguments[:1], _NDARRAY) or type(value.state) is not tuple or len(value.state) != 5:
            raise ValueError("the pickle's array is not as NumPy writes one")
        _, shape, dtype, fortran, content = value.state
        order = "F" if fortran else "C"
    elif by in _FROM_BUFFER and len(value.arguments) == 4:
        content, dtype, shape, order = value.arguments
    else:
        raise ValueError("the pickle has something else where an array belongs")
    if type(shape) is not tuple or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("the shape of the pickle's array is none")
    if order != "C":
        raise ValueError("the pickle's array is not stored row by row")
    dtype, content = _dtype(dtype), _bytes(content)
    count = 1
    for length in shape:
        count *= length
    if len(shape) > 8 or count * dtype.itemsize != len(content):
        raise ValueError("the pickle's array has not the bytes that its shape takes")
    return np.frombuffer(content, dtype).reshape(shape)


def _scalar(value):
    if value.by not in _SCALAR or len(value.arguments) != 2:
        raise ValueError("a list of the pickle holds other things than whole numbers")
    dtype, content = _dtype(value.arguments[0]), _bytes(value.arguments[1])
    if dtype.kind not in "iu" or len(content) != dtype.itemsize:
        raise ValueError("a list of the pickle holds other things than whole numbers")
    return int(np.frombuffer(content, dtype)[0])


def _dtype(value):
    """The type of numbers that a pickle names: its letter and size, then the byte order in its state."""
    if getattr(value, "by", None) == _DTYPE and value.arguments and type(value.state) is tuple:
        code, order = (_text(part) for part in (value.arguments[0], value.state[1] if len(value.state) > 1 else None))
        orders = ("|",) if code in ("i1", "u1") else ("<", ">")
        if code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8") and order in orders:
            return np.dtype(code).newbyteorder(order)
    raise ValueError("the pickle's array is not of integers or floating-point numbers")


def _text(value):
    return value.decode("latin-1") if type(value) is bytes else value


def _bytes(value):
    """Byte strings as they are, or as Python 3 writes them where the protocol has none."""
    if type(value) in (bytes, bytearray):
        return bytes(value)
    if getattr(value, "by", None) == _ENCODE and len(value.arguments) == 2:
        text, encoding = value.arguments
        if type(text) is str and encoding == "latin1":
            return text.encode("latin-1")
    if getattr(value, "by", None) in _BYTES and len(value.arguments) <= 1:
        return _bytes(value.arguments[0]) if value.arguments else b""
    raise ValueError("the pickle has something else where bytes belong")


def keyed(value, key):
    """The entry of a dictionary under a key that Python 2 wrote, or Python 3."""
    found = [v for k, v in _expect(value, dict).items() if k in (key, key.encode())]
    if len(found) != 1:
        raise ValueError(f"the pickle has no entry {key!r}")
    return found[0]


def _is_name(values, text):
    return len(values) == 1 and type(values[0]) is _Name and values[0].text == text
