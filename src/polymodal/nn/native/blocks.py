"""All blocks of a decoder in one call of the native library, for few new tokens after a cache.

    blocks_of(decoder.blocks) -> NativeBlocks | None        where every block is of the kind that kernels.c computes
    NativeBlocks.run(x, mask, rope, cache) -> hidden | None None where this call is not one for it

Weights are read where they lie, fused or not, float32, int8 or int4; nothing is copied.  Before every call it is looked
up that the same parts hold the same tensors at the same addresses and that nobody has hooks on them, so that adapters,
quantisation and whatever else changes a model are never missed.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.nn.attention import Attention
from polymodal.nn.cache import KVCache
from polymodal.nn.linear import Linear
from polymodal.nn.mask import PreparedMask
from polymodal.nn.mlp import GatedMLP
from polymodal.nn.native.library import library
from polymodal.nn.native.linear import FEW_ROWS, LinearStruct, is_fitting, is_quiet, linear_struct, shape_of
from polymodal.nn.norm import RMSNorm
from polymodal.nn.quantise import QUANTISED
from polymodal.nn.rope import Rotation


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, LinearStruct) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        ("attn_norm", ctypes.c_void_p),
        ("mlp_norm", ctypes.c_void_p),
    )


class _Call(ctypes.Structure):
    _fields_ = (
        ("blocks", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("depth", "width", "heads", "kv_heads", "size", "ffn")),
        *((name, ctypes.c_int64) for name in ("rotary", "interleaved")),
        *((name, ctypes.c_float) for name in ("eps", "scale")),
        *((name, ctypes.c_int64) for name in ("batch", "count", "held", "row_stride", "head_stride")),
        *((name, ctypes.c_int64) for name in ("rope_stride", "allow_stride")),
        *((name, ctypes.c_void_p) for name in ("cos", "sin", "keys", "values", "allow", "x")),
    )


class _Unlike(Exception):
    """A block computes something else."""


class NativeBlocks:
    """The blocks of one decoder.  Raises _Unlike; see `blocks_of`."""

    def __init__(self, found: ctypes.CDLL, blocks: Iterable[nn.Module]) -> None:
        blocks = list(blocks)
        self._found = found
        self._watch = _Watch(blocks)
        if not self._watch.is_current():
            raise _Unlike  # somebody has hooks on the parts
        structs = [_struct(block) for block in blocks]
        self._blocks = (_Block * len(structs))(*structs)
        first: Any = blocks[0]
        attention, mlp = _children(first)
        config = attention.config
        if any(_shape(block) != _shape(blocks[0]) for block in blocks):
            raise _Unlike
        self._width, self._interleaved = config.width, config.interleaved
        self._call = _Call(
            blocks=ctypes.addressof(self._blocks),
            depth=len(blocks),
            width=config.width,
            heads=config.heads,
            kv_heads=config.key_heads,
            size=config.size,
            ffn=mlp.config.ffn_width,
            interleaved=int(config.interleaved),
            eps=first.attn_norm.eps,
            scale=config.size**-0.5 if config.scale is None else config.scale,
        )
        self._pointers = (ctypes.c_void_p * len(blocks)), (ctypes.c_void_p * len(blocks))

    def is_current(self) -> bool:
        """Whether the decoder still holds what was found in it."""
        return self._watch.is_current()

    def run(self, x: Tensor, mask: PreparedMask, rope: Rotation | None, cache: KVCache) -> Tensor | None:
        """Hidden states `[B, T, D]` before the final norm; the cache is written, not advanced."""
        batch, count, _ = x.shape
        tensors = cache.tensors()
        keys = tensors[0][0]
        if (
            not 0 < batch * count <= FEW_ROWS
            or x.dtype != torch.float32
            or keys.dtype != torch.float32
            or type(x) is not Tensor
            or cache.length + count > cache.capacity
            or len(keys) != batch
            or len(tensors) != self._call.depth
            or (rope is not None and len(rope) != 2)
        ):
            return None
        total = cache.length + count
        allow = _visible(mask, (count, total))
        if allow is _UNLIKE:
            return None
        # The result is a tensor of its own: who gave x may use it again.
        x = x.clone(memory_format=torch.contiguous_format)
        # A record of this call's own: other threads may be in the library, which reads it without Python's lock.
        call = _Call.from_buffer_copy(self._call)
        call.batch, call.count, call.held = batch, count, cache.length
        call.row_stride, call.head_stride = keys.stride(0), keys.stride(1)
        if any(each.stride() != keys.stride() or each.stride(-1) != 1 or each.stride(-2) != keys.shape[-1]
               for pair in tensors for each in pair):  # fmt: skip
            return None
        pointers = [kind(*(pair[side].data_ptr() for pair in tensors)) for side, kind in enumerate(self._pointers)]
        call.keys, call.values = map(ctypes.addressof, pointers)
        cos, sin = (each.contiguous() for each in rope) if rope is not None else (x, x)
        call.rotary = 0 if rope is None else cos.shape[-1]
        call.rope_stride = 0 if rope is None or len(cos) == 1 else count * cos.shape[-1]
        call.cos, call.sin, call.x = cos.data_ptr(), sin.data_ptr(), x.data_ptr()
        call.allow = None if allow is None else allow.data_ptr()
        call.allow_stride = 0 if allow is None or len(allow) == 1 else count * total
        if self._found.pm_blocks(ctypes.byref(call), torch.get_num_threads()):
            return None
        return x


def blocks_of(blocks: Iterable[nn.Module]) -> NativeBlocks | None:
    """The native form of these blocks, or None where there is no library or they compute something else."""
    found = library()
    try:
        return None if found is None else NativeBlocks(found, blocks)
    except _Unlike:
        return None


class BlocksCache:
    """The native form of each decoder, made when it is first asked for and again when the decoder changed.

    It lies outside of modules, so that copies and saved models know nothing of it.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[nn.Module, NativeBlocks | None] = weakref.WeakKeyDictionary()
        self._unlike: weakref.WeakKeyDictionary[nn.Module, _Watch] = weakref.WeakKeyDictionary()

    def of(self, decoder: nn.Module, blocks: Iterable[nn.Module]) -> NativeBlocks | None:
        """For a call without autograd, tracing or modes; else None."""
        if not is_quiet():
            return None
        known = self._known.get(decoder)
        if known is not None and known.is_current():
            return known
        watch = self._unlike.get(decoder)
        if watch is not None and watch.is_current():
            return None
        made = blocks_of(blocks)
        self._known[decoder] = made
        if made is None:
            self._unlike[decoder] = _Watch(blocks)
        return made


def _children(block: Any) -> tuple[Attention, GatedMLP]:
    return block.attn, block.mlp


def _shape(block: Any) -> tuple[Any, ...]:
    """What has to be alike in all blocks."""
    attention, mlp = _children(block)
    config = attention.config
    return (
        (config.width, config.heads, config.key_heads, config.size, config.scale, config.interleaved, config.window),
        mlp.config.ffn_width, block.attn_norm.eps, block.mlp_norm.eps,
    )  # fmt: skip


def _struct(block: Any) -> _Block:
    """Addresses of one block.  Raises _Unlike."""
    attention, mlp = _children(block)
    if (
        type(attention) is not Attention
        or type(mlp) is not GatedMLP
        or any(type(norm) is not RMSNorm for norm in (block.attn_norm, block.mlp_norm))
        or block.cross is not None
        or block.order != "pre"
        or block.parallel
        or attention.config.source_width is not None
        or attention.q_norm is not None
        or attention.k_norm is not None
        or attention.prefix is not None
        or mlp.config.activation != "silu"
        or any(norm.weight.dtype != torch.float32 for norm in (block.attn_norm, block.mlp_norm))
    ):
        raise _Unlike
    config = attention.config
    heads, keys = config.heads * config.size, config.key_heads * config.size
    if attention.qkv_proj is None:
        query, key, value = map(_linear, (attention.q_proj, attention.k_proj, attention.v_proj))
    else:
        query, key, value = _split(attention.qkv_proj, (heads, keys, keys))
    if mlp.gate_up_proj is None:
        gate, up = _linear(mlp.gate_proj), _linear(mlp.up_proj)
    else:
        gate, up = _split(mlp.gate_up_proj, (mlp.config.ffn_width,) * 2)
    return _Block(
        query, key, value, _linear(attention.o_proj), gate, up, _linear(mlp.down_proj),
        block.attn_norm.weight.data_ptr(), block.mlp_norm.weight.data_ptr(),
    )  # fmt: skip


def _parts(part: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if type(part) not in (Linear, *QUANTISED):
        raise _Unlike
    tensors = part.weight, part.scale if isinstance(part, QUANTISED) else None, part.bias
    if not is_fitting(*tensors):
        raise _Unlike
    return tensors


def _linear(part: nn.Module) -> LinearStruct:
    return linear_struct(*_parts(part))


def _split(part: nn.Module, sizes: Iterable[int]) -> Iterator[LinearStruct]:
    """The rows of a fused linear, some for each.  Raises _Unlike where they end inside a block of int4 weights."""
    weight, scale, bias = _parts(part)
    block = shape_of(weight)[0] // len(weight)
    first = 0
    for size in sizes:
        if first % block or size % block:
            raise _Unlike
        rows, blocks = slice(first, first + size), slice(first // block, (first + size) // block)
        scales = None if scale is None else scale[blocks]
        yield linear_struct(weight[blocks], scales, None if bias is None else bias[rows])
        first += size


_UNLIKE = torch.empty(0)


def _visible(mask: PreparedMask, shape: tuple[int, int]) -> Tensor | None:
    """bool [B|1, T, S], None for all columns up to each query's own; _UNLIKE for anything else that a mask can say."""
    if mask.query_scale is not None or mask.kernel is not None:
        return _UNLIKE
    if mask.allow is None:
        # A causal mask is that of kernels.c; without one a query would see the new tokens behind it, too.
        return None if mask.causal or shape[0] == 1 else _UNLIKE
    if mask.allow.dtype != torch.bool or mask.allow.shape[1] != 1:
        return _UNLIKE
    allow = mask.allow if mask.empty is None else mask.allow & ~mask.empty
    return allow[:, 0].expand(-1, *shape).contiguous()


class _Watch:
    """Whether parts hold the same children and tensors, at the same addresses, without hooks."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        parts = [part for block in blocks for part in block.modules()]
        self._hooks = [hooks for part in parts for hooks in (part._forward_hooks, part._forward_pre_hooks)]
        self._held = [
            (table, name, _reference(value))
            for part in parts
            for table in (part._modules, part._parameters, part._buffers)
            for name, value in table.items()
        ]
        tensors = (each for part in parts for table in (part._parameters, part._buffers) for each in table.values())
        self._places = [(_reference(each), each.data_ptr()) for each in tensors if each is not None]

    def is_current(self) -> bool:
        return (
            not any(self._hooks)
            and all(table.get(name) is held() for table, name, held in self._held)
            and all(tensor().data_ptr() == place for tensor, place in self._places)  # type: ignore[union-attr]
        )


def _reference(value: Any) -> Any:
    return (lambda: None) if value is None else weakref.ref(value)
