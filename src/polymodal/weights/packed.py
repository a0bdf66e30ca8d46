"""Small files for what we ship: matrices as bytes with one scale a row, the rest as half precision.

pack(tensors, rows=("a",))  ->  {"a": int8 [N, M], "a.scale": float32 [N, 1], "b": float16 ...}
unpack(...)                 ->  float32 again; the error of a packed number is at most half of its row's scale
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from polymodal.errors import WeightsError

SCALE = ".scale"


def pack(tensors: Mapping[str, Tensor], rows: Collection[str]) -> dict[str, Tensor]:
    """Floating tensors as float16, those named in `rows` [N, M] as int8 with `name.scale` [N, 1]; others kept."""
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in rows:
            scale = (tensor.float().abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)
            packed[name] = (tensor / scale).round().clamp(-127, 127).to(torch.int8)
            packed[name + SCALE] = scale
        else:
            packed[name] = tensor.half() if tensor.is_floating_point() else tensor
    return packed


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `pack` gave, in float32; raises WeightsError for a scale without its bytes."""
    found: dict[str, Tensor] = {}
    for name in tensors:
        if name.endswith(SCALE):
            if name.removesuffix(SCALE) not in tensors:
                raise WeightsError(f"packed file: {name!r} is a scale without {name.removesuffix(SCALE)!r}")
            continue
        tensor = tensors[name]
        if name + SCALE in tensors:
            found[name] = tensor.float() * tensors[name + SCALE]
        else:
            found[name] = tensor.float() if tensor.is_floating_point() else tensor
    return found
