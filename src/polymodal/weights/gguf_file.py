"""GGUF container: a bounded parser of its header; the block formats themselves come from the gguf library.

flow:  magic, version, counts -> metadata (key, typed value) -> tensor records (name, dims, type, offset)

The header is parsed here and not by the library's reader because a damaged or hostile file must end in one
clear error at once: every count and length is compared with the bytes that are left, and with limits (limits.py: a file
may be all holes), before anything is allocated.

Traps: dimensions are stored fastest first, the reverse of torch; quantised tensors are blocks along the
fastest dimension; tensor offsets count from the aligned end of the header.
Source: the GGUF specification in the ggml project (docs/gguf.md); versions 2 and 3, little endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.errors import WeightsError
from polymodal.weights.limits import WeightsLimits, over, weights_limits
from polymodal.weights.stored_views import MAX_SIDE

_SCALARS = dict(enumerate(("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?"))) | {10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 8
_PIECE = 1 << 16
_MAX_NESTING = 4
_MAX_ALIGNMENT = 1 << 20


@dataclass(frozen=True)
class TensorRecord:
    """Where one tensor lies: torch-order shape, GGML type number, byte range in the file."""

    shape: tuple[int, ...]
    kind: int
    start: int
    bytes: int


@dataclass(frozen=True)
class GGUFHeader:
    """Version, metadata (plain Python values) and tensor records of a file."""

    version: int
    metadata: dict[str, Any]
    tensors: dict[str, TensorRecord]


class _Cursor:
    """Reads little-endian values and never past the end."""

    def __init__(self, data: mmap.mmap, path: Path, limits: WeightsLimits) -> None:
        self.data, self.path, self.at, self.size, self.limits = data, path, 0, len(data), limits
        self.entries = 0

    def damaged(self, why: str) -> WeightsError:
        return WeightsError(f"{self.path}: damaged GGUF file: {why}; download it again")

    def large(self, name: str, what: str, limit: int) -> WeightsError:
        return WeightsError(f"{self.path}: {over(name, what, limit)}")

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise self.damaged(f"the header needs {count} bytes at {self.at}, the file ends at {self.size}")
        self.at += count
        if self.at > self.limits.header:
            raise self.large("header", "its header is longer", self.limits.header)
        return self.data[self.at - count : self.at]

    def scalar(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        return self.take(self.scalar("<Q")).decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY or depth >= _MAX_NESTING:
            raise self.damaged(f"metadata of unknown type {kind} at byte {self.at}")
        inner, count = self.scalar("<I"), self.scalar("<Q")
        smallest = struct.calcsize(_SCALARS[inner]) if inner in _SCALARS else 8
        if count * smallest > self.size - self.at:
            raise self.damaged(f"a list of {count} entries at byte {self.at} does not fit into the file")
        self.entries += count
        if self.entries > self.limits.values:
            raise self.large("values", "its lists have more entries", self.limits.values)
        if inner in _SCALARS:
            return np.frombuffer(self.take(count * smallest), dtype=_SCALARS[inner]).tolist()
        return [self.value(inner, depth + 1) for _ in range(count)]


def parse_gguf(path: Path, data: mmap.mmap) -> GGUFHeader:
    """Read the whole header of a mapped file; raises WeightsError for anything that does not add up."""
    from gguf import GGML_QUANT_SIZES

    sizes = {int(kind): pair for kind, pair in GGML_QUANT_SIZES.items()}
    cursor = _Cursor(data, path, limits := weights_limits())
    magic = data[:4]
    if magic != b"GGUF":
        raise WeightsError(f"{path}: not a GGUF file (it starts with {magic!r}, expected b'GGUF')")
    cursor.at = 4
    version = cursor.scalar("<I")
    if version not in (2, 3):
        raise WeightsError(f"{path}: GGUF version {version} is not supported (2 and 3 are, little endian)")
    tensor_count, value_count = cursor.scalar("<Q"), cursor.scalar("<Q")
    if max(tensor_count, value_count) > limits.tensors and cursor.size - cursor.at >= 12 * limits.tensors:
        raise cursor.large("tensors", "it has more tensors or entries", limits.tensors)
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = cursor.string()
        if key in metadata:
            raise cursor.damaged(f"the entry {key!r} appears twice")
        metadata[key] = cursor.value(cursor.scalar("<I"))
    records: dict[str, TensorRecord] = {}
    for _ in range(tensor_count):
        name, record = _record(cursor, sizes)
        if name in records:
            raise cursor.damaged(f"tensor {name!r} appears twice")
        records[name] = record
    align = metadata.get("general.alignment", 32)
    if type(align) is not int or not 0 < align <= _MAX_ALIGNMENT:
        raise cursor.damaged(f"general.alignment is {align!r}")
    base = -(-cursor.at // align) * align
    tensors: dict[str, TensorRecord] = {}
    for name, record in records.items():
        start = base + record.start
        if start + record.bytes > cursor.size:
            end = start + record.bytes
            raise cursor.damaged(f"tensor {name!r} ends at byte {end}, the file at {cursor.size}")
        tensors[name] = TensorRecord(record.shape, record.kind, start, record.bytes)
    if (total := sum(record.bytes for record in tensors.values())) > cursor.size - base:
        raise cursor.damaged(f"its tensors claim {total} bytes, the file has {cursor.size - base} for them")
    return GGUFHeader(version, metadata, tensors)


def _record(cursor: _Cursor, sizes: dict[int, tuple[int, int]]) -> tuple[str, TensorRecord]:
    name = cursor.string()
    dims = cursor.scalar("<I")
    if dims > _MAX_DIMS:
        raise cursor.damaged(f"tensor {name!r} has {dims} dimensions")
    shape = tuple(reversed([cursor.scalar("<Q") for _ in range(dims)]))
    if any(side >= MAX_SIDE for side in shape):
        raise cursor.damaged(f"tensor {name!r} has the shape {shape}")
    kind, offset = cursor.scalar("<I"), cursor.scalar("<Q")
    if kind not in sizes:
        raise WeightsError(f"{cursor.path}: tensor {name!r} has the unknown GGML type {kind}; update gguf")
    block, block_bytes = sizes[kind]
    if shape and shape[-1] % block:
        raise cursor.damaged(f"tensor {name!r} of width {shape[-1]} is not made of blocks of {block}")
    return name, TensorRecord(shape, kind, offset, math.prod(shape) // block * block_bytes)


def type_name(kind: int) -> str:
    """The GGML name of a type number, e.g. 'Q4_K'."""
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType(kind).name


def dequantise(path: Path, name: str, record: TensorRecord, data: mmap.mmap) -> np.ndarray:
    """The values of one tensor as float32 (float16, float64 and integers keep their type)."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType(record.kind)
    plain = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
    raw = np.frombuffer(data, dtype=np.uint8, count=record.bytes, offset=record.start)
    if kind.name in plain:
        return raw.view(plain[kind.name]).reshape(record.shape).copy()
    block, block_bytes = GGML_QUANT_SIZES[kind]
    values = np.empty(record.bytes // block_bytes * block, dtype=np.float32)
    step = max(1, _PIECE // block)
    try:
        # Blocks are independent; pieces that fit the cache are twice as fast as the library's groups of 16 rows.
        for first in range(0, record.bytes // block_bytes, step):
            piece = raw[first * block_bytes : (first + step) * block_bytes]
            values[first * block : (first + step) * block] = dequantize(piece[None], kind)[0]
        return values.reshape(record.shape)
    except NotImplementedError:
        raise WeightsError(f"{path}: tensor {name!r} is stored as {kind.name}, which gguf cannot read") from None
