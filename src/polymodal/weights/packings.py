"""The packings of quantised checkpoints: which tensors of a file make up one weight, and how (`dequantise.py`).

    bitsandbytes         weight int8 + SCB;  weight packed + absmax, quant_map (nested too) and JSON in bytes
    gptq                 qweight, qzeros, scales, g_idx
    awq                  qweight, qzeros, scales                                        (version "gemm")
    fp8, fbgemm_fp8      weight float8 + weight_scale_inv or weight_scale
    compressed-tensors   weight_packed or weight int8, float8 + weight_scale, weight_zero_point, weight_g_idx

Each is a function of a Plan and of the checkpoint's `quantization_config`; it reads small tensors only (shapes that are
stored as numbers) and raises WeightsError for an option that is not supported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.files import parse_json
from polymodal.weights import dequantise
from polymodal.weights.derived import Derivation, info_of
from polymodal.weights.tensors import dtype_of

Settings = Mapping[str, Any]
Block = tuple[int, ...]

BITSANDBYTES = ".quant_state.bitsandbytes__"
FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "dense")
"""Of compressed-tensors."""
_FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_MAX_STATE = 1 << 16  # bytes of the JSON beside a layer; it has five entries
_MAX_RUN = 1 << 16  # numbers that share a scale; bitsandbytes makes runs of 64 to 4,096
_WORD = ("I32", "int32")
_SCALED = ("I8", "F8_", "int8", "float8")
_NO_SCALE = ("U8", "F8_", "uint8", "float8")


@dataclass
class Plan:
    """What is made of the tensors of a file: new ones, and the names that are used up."""

    source: Mapping[str, Tensor]
    method: str
    advice: str = ""
    made: dict[str, Derivation] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        # A mapping of tensors may answer `in` by reading the tensor.
        self.names = frozenset(self.source)

    def add(
        self,
        layer: str,
        shape: tuple[int, ...],
        names: Mapping[str, str],
        compute: Callable[..., Tensor],
        dtype: torch.dtype = torch.float16,
    ) -> None:
        """`layer`.weight of `shape` is `compute(**tensors)`, in float32; names: argument -> tensor of the file.

        dtype: what the checkpoint is computed in.
        """
        arguments, sources = tuple(names), tuple(names.values())
        if min(shape, default=1) < 1:
            raise self.problem(layer, f"claims the shape {shape}")

        def run(parts: Sequence[Tensor]) -> Tensor:
            return compute(**dict(zip(arguments, parts, strict=True)))

        self.made[f"{layer}.weight"] = Derivation(
            shape=shape, sources=sources, compute=run, stored=self.method, dtype=dtype
        )
        self.used.update(sources)

    def layers(self, ending: str) -> Iterator[str]:
        """Layers that have a tensor of this ending."""
        return (name.removesuffix(ending) for name in self.source if name.endswith(ending))

    def shape(self, name: str) -> tuple[int, ...]:
        return info_of(self.source, name).shape

    def computed(self, scales: str) -> torch.dtype:
        """What weights with these scales are computed in: the dtype of the scales."""
        return dtype_of(self.source, scales)

    def dtype(self, name: str) -> str:
        """The stored type, as the file's format calls it."""
        return info_of(self.source, name).dtype

    def small(self, name: str, most: int) -> list[Any]:
        """The numbers of a tensor that may have `most` of them."""
        count = math.prod(self.shape(name))
        if not 1 <= count <= most:
            raise self.problem(name, f"holds {count} numbers, expected at most {most}")
        return list(self.source[name].flatten().tolist())

    def need(self, layer: str, *leaves: str) -> list[str]:
        """Names of tensors that a layer must have; WeightsError for the first that is not there."""
        names = [f"{layer}.{leaf}" for leaf in leaves]
        for name in names:
            if name not in self.names:
                raise self.problem(layer, f"lacks {name!r}")
        return names

    def with_optional(self, names: dict[str, str], layer: str, **leaves: str) -> dict[str, str]:
        """`names` and, by argument, those tensors of a layer that are there."""
        found = {argument: f"{layer}.{leaf}" for argument, leaf in leaves.items()}
        return names | {argument: name for argument, name in found.items() if name in self.names}

    def problem(self, layer: str, what: str) -> WeightsError:
        return WeightsError(f"{where(self.source)}: the {self.method} layer {layer!r} {what}; {self.advice}")

    def refuse(self, what: str) -> WeightsError:
        return WeightsError(f"{where(self.source)}: {self.method} with {what} is not read; {self.advice}")


def where(source: Mapping[str, Tensor]) -> str:
    """The file of these tensors, for messages."""
    return str(getattr(source, "path", "the checkpoint"))


def bitsandbytes(plan: Plan, settings: Settings) -> None:
    """8 bits (LLM.int8) and 4 bits (nf4, fp4); a layer's tensors say what it has, not `settings`."""
    for layer in plan.layers(".SCB"):
        weight, largest = plan.need(layer, "weight", "SCB")
        form = f"{layer}.weight_format"
        if form in plan.names and int(plan.small(form, 1)[0]) != 0:
            raise plan.problem(layer, "is stored in the order of one kind of GPU, not by rows")
        plan.used.add(form)
        plan.add(layer, plan.shape(weight), {"weight": weight, "largest": largest}, dequantise.absmax_int8)
    for name in plan.source:
        if BITSANDBYTES in name:
            _four_bits(plan, name, name.partition(".weight" + BITSANDBYTES)[0])


def _four_bits(plan: Plan, blob: str, layer: str) -> None:
    """A layer of nf4 or fp4; `blob` is JSON in bytes that says shape and block size."""
    nested: tuple[int, float] | None = None
    text = plan.small(blob, _MAX_STATE)
    try:
        state = parse_json(bytes(text), f"the quant_state of {layer!r}")
        shape, size = tuple(int(side) for side in state["shape"]), int(state["blocksize"])
        dtype = _FLOATS.get(state.get("dtype"), torch.float16)
        if "nested_blocksize" in state:
            nested = int(state["nested_blocksize"]), float(state["nested_offset"])
    except (WeightsError, ValueError, KeyError, TypeError, OverflowError) as problem:
        raise plan.problem(layer, "has a quant_state that is no table of shape and blocksize") from problem
    weight, scale, codes = plan.need(layer, "weight", "weight.absmax", "weight.quant_map")
    names = {"packed": weight, "scale": scale, "codes": codes}
    stored = info_of(plan.source, weight).bytes
    if math.prod(shape) > 2 * stored:
        raise plan.problem(layer, f"claims the shape {shape} for {stored} bytes")
    if not all(1 <= each <= _MAX_RUN for each in (size, *(nested or ())[:1])):
        raise plan.problem(layer, f"claims runs of {size}, nested {nested}; expected at most {_MAX_RUN}")
    if nested is not None:
        names["outer"], names["outer_codes"] = plan.need(layer, "weight.nested_absmax", "weight.nested_quant_map")
    plan.used.add(blob)
    plan.add(layer, shape, names, partial(_codebook, nested=nested, shape=shape, size=size), dtype)


def _codebook(
    packed: Tensor,
    scale: Tensor,
    codes: Tensor,
    outer: Tensor | None = None,
    outer_codes: Tensor | None = None,
    *,
    nested: tuple[int, float] | None,
    **form: Any,
) -> Tensor:
    if nested is not None and outer is not None and outer_codes is not None:
        scale = dequantise.nested_scale(scale, outer, outer_codes, *nested)
    return dequantise.codebook(packed, scale, codes, **form)


def gptq(plan: Plan, settings: Settings) -> None:
    """GPTQ in its first format (zero points minus one) and "gptq_v2", with or without `desc_act`."""
    form = settings.get("checkpoint_format") or "gptq"
    if form not in ("gptq", "gptq_v2"):
        raise plan.refuse(f"checkpoint_format {form!r}")
    for layer in plan.layers(".qweight"):
        weight, zeros, scales = plan.need(layer, "qweight", "qzeros", "scales")
        packed, out = plan.shape(weight)
        names = {"qweight": weight, "qzeros": zeros, "scales": scales}
        names = plan.with_optional(names, layer, columns="g_idx")
        bits = settings.get("bits")
        if "columns" in names:
            bits = packed * 32 // max(1, plan.shape(names["columns"])[0])  # layers may differ
        if plan.dtype(weight) not in _WORD or bits not in (2, 4, 8):
            raise plan.problem(layer, f"has {bits} bits in {plan.dtype(weight)}, expected 2, 4 or 8 in I32")
        compute = partial(dequantise.gptq, bits=bits, shifted=form == "gptq")
        plan.add(layer, (out, packed * 32 // bits), names, compute, plan.computed(scales))


def awq(plan: Plan, settings: Settings) -> None:
    """AWQ of 4 bits in the order of version "gemm"."""
    version, bits = str(settings.get("version") or "gemm").lower(), settings.get("bits", settings.get("w_bit", 4))
    if version != "gemm" or bits != 4:
        raise plan.refuse(f"version {version!r} and {bits} bits (expected gemm and 4)")
    for layer in plan.layers(".qweight"):
        weight, zeros, scales = plan.need(layer, "qweight", "qzeros", "scales")
        width, packed = plan.shape(weight)
        names = {"qweight": weight, "qzeros": zeros, "scales": scales}
        plan.add(layer, (packed * 8, width), names, dequantise.awq, plan.computed(scales))


def float8(plan: Plan, settings: Settings) -> None:
    """float8 weights with one scale, one a row, or one for each block of `weight_block_size`."""
    block = settings.get("weight_block_size")
    sides = None if block is None else _sides(plan, block)
    for leaf in ("weight_scale_inv", "weight_scale"):
        for layer in plan.layers(f".{leaf}"):
            _scaled(plan, layer, leaf, sides)


def _sides(plan: Plan, block: Any) -> Block:
    """The sides of the blocks that share a scale."""
    if not isinstance(block, list | tuple) or len(block) != 2 or any(type(n) is not int or n < 1 for n in block):
        raise plan.refuse(f"blocks of {block!r:.40} (expected two sides)")
    return tuple(block)


def _scaled(plan: Plan, layer: str, leaf: str, block: Block | None) -> None:
    """A layer of int8 or float8 numbers whose scales are called `leaf`."""
    weight, scale = plan.need(layer, "weight", leaf)
    if not plan.dtype(weight).startswith(_SCALED) or plan.dtype(scale).startswith(_NO_SCALE):
        raise plan.problem(layer, f"has weights of {plan.dtype(weight)} and scales of {plan.dtype(scale)}")
    names = {"weight": weight, "scale": scale}
    names = plan.with_optional(names, layer, zero="weight_zero_point", columns="weight_g_idx")
    # DeepSeek's scales are float32 beside weights that are computed in bfloat16.
    dtype = plan.computed(scale) if plan.computed(scale) == torch.float16 else torch.bfloat16
    plan.add(layer, plan.shape(weight), names, partial(dequantise.scaled, block=block), dtype)


def compressed(plan: Plan, settings: Settings) -> None:
    """compressed-tensors: integers in words, and int8 or float8 numbers with scales."""
    groups = [each for each in (settings.get("config_groups") or {}).values() if isinstance(each, Mapping)]
    forms = {settings.get("format"), *(each.get("format") for each in groups)} - {None, "mixed-precision"}
    if unknown := sorted(map(str, forms - set(FORMATS))):
        raise plan.refuse(f"format {unknown[0]!r}")
    if (settings.get("sparsity_config") or {}).get("format", "dense") != "dense" or settings.get("transform_config"):
        raise plan.refuse("sparsity or transforms")
    weights = [each.get("weights") or {} for each in groups]
    blocks = [_sides(plan, each["block_structure"]) for each in weights if each.get("block_structure")]
    for layer in plan.layers(".weight_packed"):
        _words(plan, layer, [each.get("num_bits") for each in weights])
    for layer in plan.layers(".weight_scale"):
        if f"{layer}.weight_packed" not in plan.names:
            (weight,) = plan.need(layer, "weight")
            scales, shape = plan.shape(f"{layer}.weight_scale"), plan.shape(weight)
            fitting = [block for block in blocks if scales == _blocks(shape, block)]
            _scaled(plan, layer, "weight_scale", fitting[0] if fitting else None)


def _blocks(shape: tuple[int, ...], block: Block) -> tuple[int, ...]:
    """How many blocks of those sides a weight has."""
    return tuple(math.ceil(side / each) for side, each in zip(shape, block, strict=False))


def _words(plan: Plan, layer: str, configured: Sequence[Any]) -> None:
    """A layer of integers in words of 32 bits; configured: the numbers of bits that the config names."""
    packed, scale, whole = plan.need(layer, "weight_packed", "weight_scale", "weight_shape")
    shape = tuple(int(side) for side in plan.small(whole, 2))
    if len(shape) != 2 or min(shape) < 1:
        raise plan.problem(layer, f"claims the shape {shape}")
    fitting = [bits for bits in (2, 4, 8) if plan.shape(packed) == (shape[0], math.ceil(shape[1] * bits / 32))]
    fitting = [bits for bits in fitting if bits in configured] or fitting
    if len(fitting) != 1 or plan.dtype(packed) not in _WORD:
        raise plan.problem(layer, f"of shape {shape} is not packed as numbers of 2, 4 or 8 bits in I32")
    names = {"packed": packed, "scale": scale}
    names = plan.with_optional(names, layer, zero="weight_zero_point", columns="weight_g_idx")
    plan.used.add(whole)
    compute = partial(dequantise.packed_int, bits=fitting[0], shape=shape)
    plan.add(layer, shape, names, compute, plan.computed(scale))
