"""A stack machine that makes arrays and containers of a pickle, and cannot do anything else.

A pickle is a program for a small stack machine, and Python's own unpickler lets that program call whatever it
names. Even restricted to NumPy's names it is not safe: `dtype.__setstate__` believes flags and offsets that
make NumPy take bytes of the file for addresses, and an absurd memo index makes it allocate 64 GiB. This
machine parses with `pickletools`, knows only the instructions that build containers, imports no name, and
makes arrays with NumPy's public constructors from dtypes, shapes and bytes that it has checked.

What it makes is bounded by the size of the file: what is copied each time an array or a set is made of
something that the file holds only once is counted against a budget.
"""

import pickletools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from tmrl.errors import DatasetError, UnsafePickleError


@dataclass(slots=True)
class _Name:
    """A global that the pickle named; inert, it only says which of our own makers to use."""

    name: str


@dataclass(slots=True)
class _Pending:
    """An array or a dtype whose state comes in a later instruction; a dtype has its code already."""

    code: str | None = None
    memo_keys: list[int] = field(default_factory=list[int])


class _Arguments(tuple[Any, ...]):
    """A tuple that holds something unfinished: good as arguments, not as a value."""

    __slots__ = ()


_UNFINISHED = frozenset({_Name, _Pending, _Arguments})
_KEYS = (str, int, float, complex, bytes, type(None), np.generic)


def run_pickle(stream: Any, budget: int) -> Any:
    """Executes a pickle up to its end.

    Args:
        stream: A binary file, or a memory map; asked for more bytes than it has, it gives what it has.
        budget: Most bytes and elements to copy out of what the pickle holds.

    Returns:
        What the pickle leaves on the stack.

    Raises:
        UnsafePickleError: An instruction, a name or a value is not admitted; the message names it.
        DatasetError: It unpacks to more than the budget.
        ValueError, TypeError, LookupError, ArithmeticError: It is malformed.
    """
    machine = _Machine(budget)
    for opcode, argument, _ in pickletools.genops(stream):
        instruction = _INSTRUCTIONS.get(opcode.name)
        if instruction is None:
            raise UnsafePickleError(f"uses the instruction {opcode.name}")
        instruction(machine, argument)
    return machine.result()


class _Machine:
    """Instructions and makers are methods; the tables at the end of this module give them their names."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # the stacks below each open mark
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        return self._finished(self._stack)[-1]

    def _finished(self, items: list[Any]) -> list[Any]:
        if not _UNFINISHED.isdisjoint(map(type, items)):
            named = [item.name for item in items if isinstance(item, _Name)]
            raise UnsafePickleError(f"uses {named[0] if named else 'an unfinished array'} as a value")
        return items

    def _spend(self, amount: int) -> None:
        self._budget -= amount
        if self._budget < 0:
            raise DatasetError("it unpacks to more than the file holds")

    def _keys(self, keys: Iterable[Any]) -> None:
        for key in keys:
            if not isinstance(key, _KEYS):
                raise UnsafePickleError(f"uses {type(key).__name__} as a key of a dict or set")

    # Values and containers

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def ignore(self, _: Any) -> None:
        """PROTO and FRAME help a reader to plan, STOP ends the instructions."""

    def mark(self, _: Any) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def make_list(self, _: Any) -> None:
        self.push(self._finished(self.pop_mark()))

    def make_tuple(self, items: list[Any]) -> None:
        self.push(tuple(items) if _UNFINISHED.isdisjoint(map(type, items)) else _Arguments(items))

    def tuple_of(self, length: int) -> None:
        if len(self._stack) < length:
            raise IndexError("the stack is empty")
        items = self._stack[-length:]
        del self._stack[-length:]
        self.make_tuple(items)

    def append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def appends(self, _: Any) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        _expect(self._stack[-1], list).extend(self._finished(items))

    def make_dict(self, _: Any) -> None:
        items = self.pop_mark()
        self.push({})
        self._update(items)

    def set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def set_items(self, _: Any) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list[Any]) -> None:
        keys, values = self._finished(items)[::2], items[1::2]
        self._keys(keys)
        _expect(self._stack[-1], dict).update(zip(keys, values, strict=True))

    def add_items(self, _: Any) -> None:
        items = self._finished(self.pop_mark())
        self._keys(items)
        _expect(self._stack[-1], set).update(items)

    def make_frozenset(self, _: Any) -> None:
        items = self._finished(self.pop_mark())
        self._keys(items)
        self.push(frozenset(items))

    # The memo

    def put(self, key: int) -> None:
        top = self._stack[-1]
        self._memo[key] = top
        if isinstance(top, _Pending):
            top.memo_keys.append(key)

    def memoize(self, _: Any) -> None:
        self.put(len(self._memo))

    def get(self, key: int) -> None:
        self.push(self._memo[key])

    # Names and what they make

    def name(self, name: str) -> None:
        if name not in _MAKERS:
            raise UnsafePickleError(f"names {name.replace(' ', '.')[:200]}")
        self.push(_Name(name))

    def stack_name(self, _: Any) -> None:
        name, module = _expect(self._stack.pop(), str), _expect(self._stack.pop(), str)
        self.name(f"{module} {name}")

    def reduce(self, _: Any) -> None:
        arguments, named = self._stack.pop(), _expect(self._stack.pop(), _Name)
        self.push(_MAKERS[named.name](self, *_expect(arguments, tuple)))

    def build(self, _: Any) -> None:
        state, pending = self._stack.pop(), _expect(self._stack.pop(), _Pending)
        if pending.code is None:
            _, shape, dtype, is_fortran, raw = state
            value = self.array(raw, dtype, shape, "F" if is_fortran else "C")
        else:
            value = _dtype(pending.code, state)
        for key in pending.memo_keys:
            self._memo[key] = value
        self.push(value)

    def array(self, raw: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> Any:
        """An array of `raw`: bytes, or the list of its elements if they are objects."""
        shape = _expect(shape, tuple)
        length = prod(_expect(extent, int) for extent in shape)
        if _expect(dtype, np.dtype) == np.dtype(object):
            flat = np.fromiter(_expect(raw, list), object, len(raw))
        else:
            raw = _bytes(raw)
            flat = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
        if flat.size != length or min(shape, default=0) < 0:
            raise ValueError(f"an array of shape {shape} comes with {flat.size} elements")
        self._spend(len(raw))
        if order == "K":
            return flat.reshape(shape).transpose(axes).copy(order="K")
        return flat.reshape(shape, order="F" if order == "F" else "C").copy(order="K")

    def scalar(self, dtype: Any, raw: Any) -> Any:
        """A NumPy scalar."""
        if _expect(dtype, np.dtype).itemsize == 0:
            return dtype.type()
        return self.array(raw, dtype, (1,), "C")[0]

    def encode(self, text: Any = "", encoding: Any = "latin1") -> bytes:
        """Bytes, as protocols below 3 write them."""
        if encoding not in {"latin1", "latin-1"}:
            raise UnsafePickleError(f"encodes text as {encoding!r}")
        encoded = _bytes(text)
        self._spend(len(encoded))
        return encoded

    def encode_array(self, *text: Any) -> bytearray:
        """A bytearray, as protocols below 5 write it."""
        return bytearray(self.encode(*text))

    def set_of(self, items: Any = ()) -> set[Any]:
        """A set, as protocols below 4 write it."""
        self._spend(len(_expect(items, list)))
        self._keys(items)
        return set(items)

    def frozenset_of(self, *items: Any) -> frozenset[Any]:
        """A frozenset, as protocols below 4 write it."""
        return frozenset(self.set_of(*items))

    def complex_of(self, real: Any, imag: Any) -> complex:
        """A complex number."""
        return complex(_expect(real, float), _expect(imag, float))

    def begin_array(self, array_type: Any, *_: Any) -> _Pending:
        """An array whose shape, dtype and bytes come with the next BUILD."""
        if array_type != _Name("numpy ndarray"):
            raise UnsafePickleError(f"reconstructs {array_type} as an array")
        return _Pending()

    def begin_dtype(self, code: Any, *_: Any) -> _Pending:
        """A dtype whose byte order and fields come with the next BUILD."""
        if not re.fullmatch(r"[biufcSUVOmM]\d+", _expect(code, str)):
            raise UnsafePickleError(f"uses the dtype {code!r}")
        return _Pending(code)

    def not_a_value(self, *_: Any) -> Any:
        """What may be named, but not called."""
        raise UnsafePickleError("calls numpy.ndarray")


def _expect(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise UnsafePickleError(f"uses {type(value).__name__} where only {kind} may be")
    return value


def _bytes(raw: Any) -> bytes:
    """Bytes; Python 2 and the protocols below 3 write them as text of the code points 0 to 255."""
    return raw.encode("latin1") if isinstance(raw, str) else bytes(_expect(raw, bytes | bytearray))


def _dtype(code: str, state: Any) -> "np.dtype[Any]":
    _, byte_order, subarray, names, fields, itemsize, *rest = _expect(state, tuple)
    if subarray is not None:
        base, shape = subarray
        return np.dtype((_plain(base), _expect(shape, tuple)))
    if names is not None:
        formats, offsets = zip(*(fields[name] for name in names), strict=True)
        for field_dtype in formats:
            _plain(_expect(field_dtype, np.dtype).base)
        layout = {"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize}
        return np.dtype(layout)  # pyright: ignore[reportCallIssue, reportArgumentType]
    if code[0] in "mM":
        unit, count, *_ = rest[-1][-1]
        code = f"{code}[{_expect(count, int)}{_bytes(unit).decode()}]"
    return np.dtype(_expect(byte_order, str) + code)


def _plain(dtype: Any) -> "np.dtype[Any]":
    """Records in records that share their parts could stand for more fields than there are atoms."""
    if _expect(dtype, np.dtype).names is not None:
        raise UnsafePickleError("uses a record within a record")
    return dtype


_NUMPY_MAKERS: dict[str, Callable[..., Any]] = {
    "multiarray _reconstruct": _Machine.begin_array,
    "multiarray scalar": _Machine.scalar,
    "numeric _frombuffer": _Machine.array,
}
_BUILTIN_MAKERS: dict[str, Callable[..., Any]] = {
    "bytes": _Machine.encode,
    "bytearray": _Machine.encode_array,
    "complex": _Machine.complex_of,
    "set": _Machine.set_of,
    "frozenset": _Machine.frozenset_of,
}
# Python 2 and the protocols below 3 say __builtin__, NumPy before 2 says numpy.core.
_MAKERS: dict[str, Callable[..., Any]] = {
    "numpy ndarray": _Machine.not_a_value,
    "numpy dtype": _Machine.begin_dtype,
    "_codecs encode": _Machine.encode,
    **{
        f"{core}.{name}": make
        for core in ("numpy.core", "numpy._core")
        for name, make in _NUMPY_MAKERS.items()
    },
    **{
        f"{home} {name}": make
        for home in ("builtins", "__builtin__")
        for name, make in _BUILTIN_MAKERS.items()
    },
}

_VALUES = """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"""
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.ignore),
    **dict.fromkeys(_VALUES.split(), _Machine.push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "MEMOIZE": _Machine.memoize,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set[Any]()),
    "MARK": _Machine.mark,
    "LIST": _Machine.make_list,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "TUPLE": lambda machine, _: machine.make_tuple(machine.pop_mark()),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "DICT": _Machine.make_dict,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "FROZENSET": _Machine.make_frozenset,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
