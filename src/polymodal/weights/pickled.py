"""A reader of pickles that makes plain values and nothing else, in time and memory that the file's length bounds.

    Pickle(data, at, names).load()      tables, lists, tuples, texts, numbers; what a name stands for is `names`' to say

Pickles are programs.  This runs the instructions that torch writes (protocol 2), knows no way to import or call
anything, and refuses what takes exponential time or memory elsewhere:

    keys         text, numbers, or a short tuple of them: the hash of nested tuples that share parts never ends; keys
                 that are no text are counted, since whole numbers can be chosen to collide in a table
    sharing      a list of a list twice, forty times over, is small until it is walked: `written_out` measures that
    depth        bounded; a value that holds itself is refused
    length       instructions are counted, and so is all that one instruction copies

Source: the comments of Python's pickletools.
"""

from __future__ import annotations

import contextlib
import gc
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from polymodal.weights.limits import WeightsLimits, over

MAX_DEPTH = 100  # a module tree of the deepest published model has 12 levels
_KEY_PARTS = 16


class Forbidden(Exception):
    """The pickle names something that is not on the list; its only argument is that name."""


class Unsupported(ValueError):
    """An instruction that torch does not write.  head: the first bytes of its pickle."""

    def __init__(self, code: int, head: bytes) -> None:
        super().__init__(f"its pickle has the instruction {code:#04x}, which torch does not write")
        self.head = head


class Bytes(Protocol):
    """`bytes`, or a mapped file."""

    def __getitem__(self, key: Any) -> Any: ...
    def __len__(self) -> int: ...
    def find(self, sub: bytes, start: int, end: int) -> int: ...


class Opaque:
    """Something that a pickle may name and that is not made here: a device, a sparse tensor, a class of the user's.

    tensor: whether it holds values that a model could need.
    """

    __slots__ = ("name", "tensor")

    def __init__(self, name: str, tensor: bool = False) -> None:
        self.name, self.tensor = name, tensor

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Module:
    """An instance of a class of a TorchScript archive; `state` is what the archive keeps of it."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None


class Call(NamedTuple):
    """What a name stands for: (arguments, charge) -> value; `charge(n)` before n values are copied."""

    make: Callable[[tuple[Any, ...], Callable[[int], None]], Any]


class Names(Protocol):
    """What may be named.  find: a Call, an Opaque or a plain value, or raises Forbidden; storage: by persistent id."""

    def find(self, module: str, name: str) -> Any: ...
    def storage(self, pid: Any) -> Any: ...


class Pickle:
    """One pickle of `data`, from byte `at`; afterwards `at` is the byte behind it."""

    others: Mapping[int, Callable[[Any], Any]]  # instructions that are not in the loop of `load`

    def __init__(self, data: Bytes, at: int, names: Names, limits: WeightsLimits) -> None:
        self.data, self.at, self.names, self.limits = data, at, names, limits
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.begin, self.charged, self.keys = at, 0, 0
        self.end = min(len(data), at + limits.header)

    def load(self) -> Any:
        """The value.  Raises Forbidden, and ValueError or others for damage and for what is over a limit."""
        data, stack, memo, marks, others = self.data, self.stack, self.memo, self.marks, self.others
        at, end = self.at, self.end
        for _ in range(self.limits.values):
            if at >= end:
                if end < len(data):
                    raise over("header", "its pickle is longer", self.limits.header)
                raise ValueError("its pickle ends early")
            code = data[at]
            if code == 0x71:  # BINPUT
                memo[data[at + 1]] = stack[-1]
                at += 2
            elif code == 0x68:  # BINGET
                stack.append(memo[data[at + 1]])
                at += 2
            elif code == 0x4B:  # BININT1
                stack.append(data[at + 1])
                at += 2
            elif code == 0x72:  # LONG_BINPUT
                memo[int.from_bytes(data[at + 1 : at + 5], "little")] = stack[-1]
                at += 5
            elif code == 0x28:  # MARK
                marks.append(len(stack))
                at += 1
            elif code == 0x58:  # BINUNICODE
                first = at + 5
                at = first + int.from_bytes(data[at + 1 : first], "little")
                if at > end:
                    raise ValueError("a text of its pickle is longer than the pickle")
                stack.append(str(data[first:at], "utf-8", "surrogatepass"))
            elif code == 0x4D:  # BININT2
                stack.append(data[at + 1] | data[at + 2] << 8)
                at += 3
            elif code == 0x74:  # TUPLE
                start = marks.pop()
                items = tuple(stack[start:])
                del stack[start:]
                stack.append(items)
                at += 1
            elif code == 0x2E:  # STOP
                self.at = at + 1
                return stack.pop()
            else:
                self.at = at + 1
                other = others.get(code)
                if other is None:
                    raise Unsupported(code, data[self.begin : self.begin + 4096])
                other(self)
                at = self.at
        raise over("values", "its pickle has more instructions", self.limits.values)

    def charge(self, count: int) -> None:
        """Count what one instruction makes beyond one value."""
        self.charged += count
        if self.charged > self.limits.values:
            raise over("values", "its pickle makes more values", self.limits.values)

    def put(self, table: Any, key: Any, value: Any) -> None:
        """table[key] = value, where both may be what they are."""
        if type(table) is not dict:
            raise ValueError("its pickle puts an entry into something that is no table")
        if type(key) is not str:
            self.check_key(key)
        table[key] = value

    def check_key(self, key: Any) -> None:
        """Refuses what has no quick hash: tables, lists, and tuples unless they are short and flat."""
        parts = key if type(key) is tuple else (key,)
        if len(parts) > _KEY_PARTS or any(isinstance(part, tuple | list | dict | set | Module) for part in parts):
            raise ValueError(f"a table of its pickle has a key of type {type(key).__name__}, expected text or a number")
        self.keys += 1
        if self.keys > self.limits.keys:
            raise over("keys", "its pickle has more keys that are no text", self.limits.keys)

    def take(self, count: int) -> bytes:
        first, self.at = self.at, self.at + count
        if self.at > self.end:
            raise ValueError("its pickle ends early")
        return bytes(self.data[first : self.at])

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.end)
        if end < 0:
            raise ValueError("a name of its pickle does not end")
        found = self.take(end - self.at)
        self.at += 1
        return found.decode("utf-8")

    def above_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def push(self, value: Any, cost: int = 0) -> None:
        if cost:
            self.charge(cost)
        self.stack.append(value)

    def call(self) -> None:
        """REDUCE and NEWOBJ."""
        arguments, what = self.stack.pop(), self.stack[-1]
        if type(arguments) is not tuple:
            raise ValueError("its pickle calls with something that is no tuple")
        if type(what) is Call:
            self.stack[-1] = what.make(arguments, self.charge)
        elif type(what) is not Opaque:
            raise ValueError("its pickle calls something that is no function")

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Module:
            target.state = state
        elif type(target) is not dict and type(target) is not Opaque:  # attributes of a table are of no use here
            raise ValueError("its pickle changes a finished value")

    def append(self, items: Iterable[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("its pickle appends to something that is no list")
        target.extend(items)

    def set_items(self) -> None:
        items = self.above_mark()
        if len(items) % 2:
            raise ValueError("a table of its pickle has a key without a value")
        for index in range(0, len(items), 2):
            self.put(self.stack[-1], items[index], items[index + 1])

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put(self.stack[-1], key, value)

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("its pickle takes more values than there are")
        self.stack[-count:] = [tuple(self.stack[-count:])]


def _scalar(form: str) -> Callable[[Pickle], None]:
    size = struct.calcsize(form)
    return lambda pickle: pickle.stack.append(struct.unpack(form, pickle.take(size))[0])


def _number(pickle: Pickle) -> int:
    return int.from_bytes(pickle.take(4), "little")


TORCH: Mapping[int, Callable[[Pickle], Any]] = {
    0x80: lambda p: p.take(1),  # PROTO
    0x4E: lambda p: p.stack.append(None),
    0x88: lambda p: p.stack.append(True),
    0x89: lambda p: p.stack.append(False),
    0x29: lambda p: p.stack.append(()),
    0x5D: lambda p: p.push([], 2),
    0x7D: lambda p: p.push({}, 2),
    0x8F: lambda p: p.push(set(), 30),
    0x4A: _scalar("<i"),
    0x47: _scalar(">d"),
    0x8A: lambda p: p.stack.append(int.from_bytes(p.take(p.take(1)[0]), "little", signed=True)),  # LONG1
    0x55: lambda p: p.stack.append(p.take(p.take(1)[0]).decode("utf-8")),  # SHORT_BINSTRING, of Python 2
    0x6A: lambda p: p.stack.append(p.memo[_number(p)]),  # LONG_BINGET
    0x63: lambda p: p.stack.append(p.names.find(p.line(), p.line())),  # GLOBAL
    0x51: lambda p: p.stack.append(p.names.storage(p.stack.pop())),  # BINPERSID
    0x52: Pickle.call,
    0x81: Pickle.call,
    0x62: Pickle.build,
    0x61: lambda p: p.append((p.stack.pop(),)),
    0x65: lambda p: p.append(p.above_mark()),
    0x73: Pickle.set_item,
    0x75: Pickle.set_items,
    0x85: lambda p: p.tuple_of(1),
    0x86: lambda p: p.tuple_of(2),
    0x87: lambda p: p.tuple_of(3),
}
Pickle.others = TORCH


class Measure(NamedTuple):
    """Of a value with everything shared written out: values in it, how many are of a given kind, levels."""

    values: int
    found: int
    depth: int


class _Frame:
    """A container that is being walked."""

    __slots__ = ("depth", "found", "left", "value", "values")

    def __init__(self, value: Any) -> None:
        self.value, self.left = value, iter(_parts(value))
        self.values, self.found, self.depth = 1, 0, 0


def written_out(root: Any, limits: WeightsLimits, kind: type = Opaque) -> dict[int, Measure]:
    """By the id of every table, list, tuple and module below `root`: how large it is for who walks it.

    Every object is visited once, whatever points to it.  Raises ValueError for what is over a limit or holds itself.
    """
    sizes: dict[int, Measure] = {}
    walked: set[int] = set()
    frames = [_Frame(root)] if type(root) in _CONTAINERS else []
    while frames:
        frame = frames[-1]
        for part in frame.left:
            if type(part) not in _CONTAINERS or not part:
                frame.values += 1
                frame.found += isinstance(part, kind)
                continue
            if (done := sizes.get(id(part)) or _flat(part, kind)) is None:
                if id(part) in walked:
                    raise ValueError("its pickle has a value that holds itself, deeper than any limit")
                if len(frames) >= MAX_DEPTH:
                    raise ValueError(f"its pickle nests deeper than {MAX_DEPTH} levels")
                walked.add(id(part))
                frames.append(_Frame(part))
                break
            _add(frame, done, limits)
        else:
            sizes[id(frame.value)] = done = Measure(frame.values, frame.found, frame.depth + 1)
            frames.pop()
            if frames:
                _add(frames[-1], done, limits)
    return sizes


def _add(frame: _Frame, part: Measure, limits: WeightsLimits) -> None:
    frame.values += part.values
    frame.found += part.found
    frame.depth = max(frame.depth, part.depth)
    if frame.depth >= MAX_DEPTH:
        raise ValueError(f"its pickle nests deeper than {MAX_DEPTH} levels")
    if frame.values > limits.values:
        raise over("values", "its pickle, with all that is shared written out, has more values", limits.values)


def _flat(value: Any, kind: type) -> Measure | None:
    """The measure of a container that holds no other, which most are; None for another."""
    parts = _parts(value)
    if any(type(part) in _CONTAINERS for part in parts):
        return None
    return Measure(1 + len(parts), sum(isinstance(part, kind) for part in parts), 1)


_CONTAINERS = frozenset((dict, list, tuple, set, Module))


def _parts(value: Any) -> Collection[Any]:
    """What a container holds; the keys of tables are plain."""
    if type(value) is dict:
        return value.values()
    return (value.state,) if type(value) is Module else value  # type: ignore[no-any-return]


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Many values are made and none is dropped: looking for cycles among them would take longer than making them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
