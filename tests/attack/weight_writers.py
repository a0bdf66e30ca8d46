"""Weights files written byte by byte, as no library would write them: pickles by instruction, archives, headers."""

import gc
import json
import struct
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START = b"\x80\x02"
MAGIC = START + b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"." + START + b"M\xe9\x03."
SYSTEM = START + b"}."


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def numbers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(
    shape: Sequence[int], stride: Sequence[int], offset: int = 0, count: int = 4, stored: bytes | None = None
) -> bytes:
    """A call of _rebuild_tensor_v2; stored: the instructions for its storage."""
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (storage(count) if stored is None else stored)
        + number(offset) + numbers(shape) + numbers(stride) + b"\x89" + hooks + b"tR"
    )  # fmt: skip


ONE = tensor((4,), (1,))


def table(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def zipped(pickle: bytes, path: Path, script: bool = False, method: int = zipfile.ZIP_STORED) -> Path:
    """A `torch.save` or TorchScript archive with this pickle and one storage of four float32."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("m/data.pkl", pickle)
        archive.writestr("m/data/0", struct.pack("<4f", 1, 2, 3, 4))
        if script:
            archive.writestr("m/constants.pkl", START + b").")
    return path


def streamed(pickle: bytes, path: Path, keys: bytes | None = None, values: bytes | None = None) -> Path:
    """The same before torch 1.6."""
    held = text("0") in pickle
    keys = START + b"](" + text("0") * held + b"e." if keys is None else keys
    values = struct.pack("<q4f", 4, 1, 2, 3, 4) * held if values is None else values
    path.write_bytes(MAGIC + SYSTEM + pickle + keys + values)
    return path


def safetensors(header: object, values: bytes = b"", length: int | None = None) -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data) if length is None else length) + data + values


def string(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(entries: Sequence[bytes] = (), records: Sequence[bytes] = (), values: bytes = b"") -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(records), len(entries)) + b"".join(entries) + b"".join(records)
    return head + b"\0" * (-len(head) % 32) + values


def record(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def npy(header: str, values: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + values


def npz(members: dict[str, bytes], path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@contextmanager
def quick(attack: Any, label: str, seconds: float = 2.0, megabytes: float = 200) -> Iterator[None]:
    """At most this much of the processor's time, whatever else the machine does, and of memory.

    The garbage collector stands still: it would walk through all that other tests left for each new list.
    """
    gc.disable()
    start = time.process_time()
    try:
        with attack.one(label, seconds=60, megabytes=megabytes):
            yield
        took = time.process_time() - start
    finally:
        gc.enable()
    assert took <= seconds, f"{label} took {took:.1f} s"
