"""Pickles of arrays: the feature files of MMSA, conv-emotion and others, as plain values and NumPy arrays.

    read_pickle(path) -> tables, lists, tuples, texts, numbers and arrays of numbers or texts
    read_joblib(path, "cluster_centers_") -> one array of an object that joblib stored (scikit-learn's models)

The reader of torch files (pickled.py) with the instructions that Python's pickle writes by itself (protocols 1 to 5,
those of Python 2 too), and the few names that NumPy writes.  Nothing is called: what a name stands for is made here,
and every other name is refused by its name.
Traps: an array of objects (texts of unequal length) comes back as a list; bytes of an array are not copied until its
values are wanted, so a file of many gigabytes opens.  joblib writes the numbers of an array right behind the
instruction that describes it, after some padding.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.files import open_regular
from polymodal.weights.limits import weights_limits
from polymodal.weights.pickled import (
    TORCH,
    Call,
    Forbidden,
    Module,
    Opaque,
    Pickle,
    Unsupported,
    without_collection,
    written_out,
)

Charge = Callable[[int], None]
_PLAIN = (str, bytes, int, float, bool, type(None))


class _Type:
    """An array's type, before and after its state is known."""

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or code[:1] not in "biufUSO?" or len(code) > 8:
            raise ValueError(f"an array of its pickle is of type {str(code)[:20]!r}, expected numbers or texts")
        self.code, self.order = code, "="

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


class _Array:
    """An array whose values come with its state; `resolved` puts them in its place."""

    value: Any = None


def read_pickle(path: Path) -> Any:
    """The value of a pickle file.  Raises ConfigError: no file, damaged, over a limit, a name not on the list."""
    return _opened(path, _Names(), _resolved)


def read_joblib(path: Path, attribute: str) -> np.ndarray:
    """An array that an object stored by joblib holds under a name.  Raises ConfigError as `read_pickle` does, and for
    files that hold no such array or are compressed; nothing else of the object is made."""

    def attribute_of(whole: Any) -> Any:
        state = whole.state if type(whole) is Module else None
        found = state.get(attribute) if type(state) is dict else None
        return found.value if type(found) is _Array else found

    found = _opened(path, _ObjectNames(), attribute_of)
    if not isinstance(found, np.ndarray):
        raise ConfigError(
            f"{path} holds no array {attribute}; expected what joblib.dump writes of scikit-learn's KMeans"
        )
    return found


def _opened(path: Path, names: _Names, chosen: Callable[[Any], Any]) -> Any:
    """What is chosen of the value of a pickle file; damage of every kind is a ConfigError."""
    with open_regular(path, error=ConfigError) as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ConfigError(f"{path} is empty, expected a pickle of arrays") from None
    limits = replace(weights_limits(), header=len(data))  # arrays lie inside the pickle
    try:
        with without_collection():
            whole = _ArrayPickle(data, 0, names, limits).load()
            written_out(whole, limits, _Array)
            return chosen(whole)
    except Forbidden as problem:
        raise ConfigError(
            f"{path} names {str(problem)[:80]}, which is not read: expected tables, lists, texts, numbers and NumPy "
            "arrays; save plain arrays"
        ) from problem
    except Unsupported as problem:
        raise ConfigError(f"{path} is no pickle of protocol 1 to 5 ({str(problem)[:80]})") from problem
    except ConfigError:
        raise
    except Exception as problem:  # a damaged pickle can fail in any way
        raise ConfigError(f"{path} is damaged: {type(problem).__name__}: {str(problem)[:120]}") from problem


class _Names:
    """What may be named, under the modules of NumPy 1 and 2 and of Python 2."""

    def find(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "numpy._core.multiarray": "numpy.core.multiarray",
                  "numpy._core.numeric": "numpy.core.numeric"}.get(module, module)  # fmt: skip
        whole = f"{module}.{name}"
        if whole not in _CALLS:
            raise Forbidden(f"{module}.{name}")
        return _CALLS[whole]

    def storage(self, pid: Any) -> Any:
        raise Forbidden("a persistent id")


class _ObjectNames(_Names):
    """The same beside objects: one of any class keeps its attributes, and is of no class here."""

    def find(self, module: str, name: str) -> Any:
        if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper"):
            return Call(lambda arguments, charge: _Array())
        if module.startswith("sklearn."):
            return Call(lambda arguments, charge: Module())
        try:
            return super().find(module, name)
        except Forbidden:
            return Opaque(f"{module}.{name}")


class _ArrayPickle(Pickle):
    """See the module."""

    def build(self) -> None:
        target = self.stack[-2]
        if type(target) not in (_Array, _Type):
            super().build()
            return
        state = self.stack.pop()
        if type(target) is _Type:
            if state[1] not in ("<", ">", "|", "="):
                raise ValueError("an array of its pickle has no order of bytes")
            target.order = "=" if state[1] == "|" else state[1]
        elif type(state) is dict:
            target.value = self.behind(state)
        else:
            _, shape, kind, columns_first, values = state
            target.value = _made(values, kind, shape, bool(columns_first), self.charge)

    def behind(self, told: Mapping[str, Any]) -> Any:
        """The array of joblib whose numbers follow here."""
        if told.get("numpy_array_alignment_bytes") is not None:
            self.take(self.take(1)[0])
        kind, shape = told["dtype"], told["shape"]
        if type(kind) is not _Type or kind.dtype.hasobject or type(shape) is not tuple:
            raise ValueError("an array of its pickle has no type or shape")
        size = kind.dtype.itemsize * math.prod(shape)
        return _made(self.view(size), kind, shape, told.get("order") == "F", self.charge)

    def view(self, size: int) -> Any:
        """`size` bytes of the file, not copied."""
        first, self.at = self.at, self.at + size
        if self.at > self.end:
            raise ValueError("its pickle ends early")
        return memoryview(self.data)[first : self.at]  # type: ignore[arg-type]

    def count(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("its pickle names something that is no text")
        self.stack.append(self.names.find(module, name))

    def add_items(self) -> None:
        items = self.above_mark()
        self.stack[-1].update(_set((items,), self.charge))

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]


_ArrayPickle.others = {
    **TORCH,
    0x62: _ArrayPickle.build,
    0x95: lambda p: p.take(8),  # FRAME
    0x94: _ArrayPickle.memoize,
    0x93: _ArrayPickle.stack_global,
    0x8C: lambda p: p.stack.append(p.take(p.count(1)).decode("utf-8", "surrogatepass")),  # SHORT_BINUNICODE
    0x8D: lambda p: p.stack.append(p.take(p.count(8)).decode("utf-8", "surrogatepass")),  # BINUNICODE8
    0x43: lambda p: p.stack.append(p.view(p.count(1))),  # SHORT_BINBYTES
    0x42: lambda p: p.stack.append(p.view(p.count(4))),  # BINBYTES
    0x8E: lambda p: p.stack.append(p.view(p.count(8))),  # BINBYTES8
    0x96: lambda p: p.stack.append(p.view(p.count(8))),  # BYTEARRAY8
    0x55: lambda p: p.stack.append(p.take(p.count(1)).decode("latin-1")),  # SHORT_BINSTRING of Python 2
    0x54: lambda p: p.stack.append(p.take(p.count(4)).decode("latin-1")),  # BINSTRING of Python 2
    0x6C: lambda p: p.push(p.above_mark()),  # LIST
    0x64: lambda p: p.push(_pairs(p.above_mark(), p)),  # DICT
    0x90: _ArrayPickle.add_items,
    0x30: lambda p: p.stack.pop(),  # POP
    0x49: lambda p: p.stack.append(_whole(p.line())),  # INT of protocol 1
    0x4C: lambda p: p.stack.append(_whole(p.line().removesuffix("L"))),  # LONG of protocol 1
}


def _whole(text: str) -> int | bool:
    """A number written out; 00 and 01 are booleans."""
    return text == "01" if text in ("00", "01") else int(text)


def _pairs(items: list[Any], pickle: Pickle) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in zip(items[::2], items[1::2], strict=True):
        pickle.put(made, key, value)
    return made


def _made(values: Any, kind: Any, shape: Any, columns_first: bool, charge: Charge) -> Any:
    """The array, or the list of an array of objects."""
    if type(kind) is not _Type or type(shape) is not tuple or not all(type(size) is int for size in shape):
        raise ValueError("an array of its pickle has no type or shape")
    if kind.dtype.hasobject:
        if not isinstance(values, list) or len(shape) != 1 or len(values) != shape[0]:
            raise ValueError("an array of objects of its pickle is no list")
        charge(len(values))
        return list(values)
    raw = values.encode("latin-1") if isinstance(values, str) else values
    made = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if columns_first else "C")
    return made if kind.dtype.isnative else made.astype(kind.dtype.newbyteorder("="))


def _resolved(value: Any) -> Any:
    """The value with its arrays in their places; `written_out` has bounded its size and depth."""
    if type(value) is _Array:
        return _resolved(value.value) if isinstance(value.value, list) else value.value
    if type(value) is dict:
        return {key: _resolved(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_resolved(each) for each in value)
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, (*_PLAIN, np.ndarray, np.generic, set)):
        return value
    raise Forbidden(f"a value of type {type(value).__name__.lstrip('_')}")


def _scalar(arguments: tuple[Any, ...], charge: Charge) -> Any:
    kind, raw = arguments
    return _made(raw, kind, (), False, charge)[()]


def _buffer(arguments: tuple[Any, ...], charge: Charge) -> Any:
    made, (values, kind, shape, order) = _Array(), arguments
    made.value = _made(values, kind, shape, order == "F", charge)
    return made


def _encoded(arguments: tuple[Any, ...], charge: Charge) -> bytes:
    text, coding = arguments
    if coding != "latin1":
        raise ValueError(f"bytes of its pickle are written as {str(coding)[:20]!r}, expected latin1")
    charge(len(text) // 64)
    return text.encode("latin-1")  # type: ignore[no-any-return]


def _set(arguments: tuple[Any, ...], charge: Charge) -> set[str]:
    given = arguments[0] if arguments else []
    if type(given) is not list or not all(type(each) is str for each in given):
        raise ValueError("a set of its pickle holds something that is no text")
    charge(len(given) + 30)
    return set(given)


def _ordered(arguments: tuple[Any, ...], charge: Charge) -> dict[Any, Any]:
    if arguments:
        raise ValueError("a table of its pickle is made of something that is no table")
    charge(2)
    return {}


_CALLS: Mapping[str, Any] = {
    "numpy.ndarray": None,  # named as an argument of _reconstruct alone
    "numpy.dtype": Call(lambda arguments, charge: _Type(arguments[0])),
    "numpy.core.multiarray._reconstruct": Call(lambda arguments, charge: _Array()),
    "numpy.core.multiarray.scalar": Call(_scalar),
    "numpy.core.numeric._frombuffer": Call(_buffer),
    "_codecs.encode": Call(_encoded),
    "builtins.bytes": Call(lambda arguments, charge: b""),  # how older protocols write no bytes
    "builtins.set": Call(_set),
    "collections.OrderedDict": Call(_ordered),
}
