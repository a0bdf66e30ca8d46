"""The device and dtype of a model: the arguments a user passes, validated at once, and what "auto" means.

    placement("auto", "auto", None)     device, dtype and quantisation; unknown names and absent devices are refused
    .chosen(tensors)                    the device and dtype for these weights

dtype "auto" is the dtype of most of the checkpoint's values, as in `transformers`, with one exception:
float16 files are computed in float32 on a CPU, whose float16 products and convolutions are several times as slow as
float32 (measured: 2 and 10 times, AMD Zen 4, torch 2.13) and whose range is too small for some models.  bfloat16 files
stay bfloat16 there: half the memory, and faster where the processor has bfloat16 instructions (products of many rows 3
times, the same machine); without them prompts take about 2 times as long, and dtype="float32" is the better choice if
the memory is there.
device "auto" is the CUDA device in use where there is one and the weights fit into its free memory, else the CPU.
Other accelerators ("mps", "xpu", ...) are used when they are named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polymodal.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

AUTO = "auto"
DTYPES = ("float32", "bfloat16", "float16", "float64")
QUANTISE = ("int8", "int4")
_MARGIN = 1.2  # activations and caches need memory beside the weights


@dataclass(frozen=True)
class Placement:
    """device, dtype: None means "auto".  quantise: "int8", "int4" or None.  mmap: see `load_module`."""

    device: torch.device | None = None
    dtype: torch.dtype | None = None
    quantise: str | None = None
    mmap: bool = True

    def chosen(self, tensors: Mapping[str, Tensor]) -> tuple[torch.device, torch.dtype]:
        """The device and dtype for these weights; nothing is read."""
        from polymodal.weights.tensors import shape_of

        values = sum(math.prod(shape_of(tensors, name)) for name in tensors)
        return self.of(stored_dtype(tensors), values)

    def of(self, stored: torch.dtype, values: int) -> tuple[torch.device, torch.dtype]:
        """The same for a number of values of that dtype."""
        import torch

        device = self.device
        if device is None:
            size = (self.dtype or _computed(stored, "cuda")).itemsize
            device = _cuda_with_memory(values * size) or torch.device("cpu")
        return device, self.dtype or _computed(stored, device.type)


def placement(
    device: str | torch.device = AUTO,
    dtype: str | torch.dtype = AUTO,
    quantise: str | None = None,
    mmap: bool = True,
) -> Placement:
    """The user's arguments, validated.  Raises ConfigError for a device that is not available and for unknown names."""
    if quantise is not None and quantise not in QUANTISE:
        raise ConfigError(f"unknown quantise {quantise!r}; expected {', '.join(QUANTISE)}, or nothing")
    return Placement(_device(device), _dtype(dtype), quantise, mmap)


def stored_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The floating dtype of most values of a checkpoint; float32 where there is none."""
    import torch

    from polymodal.weights.tensors import dtype_of, shape_of

    counts: Counter[torch.dtype] = Counter()
    for name in tensors:
        dtype = dtype_of(tensors, name)
        if dtype.is_floating_point:
            counts[dtype] += math.prod(shape_of(tensors, name))
    return counts.most_common(1)[0][0] if counts else torch.float32


def _computed(stored: torch.dtype, device: str) -> torch.dtype:
    """The dtype in which weights of a stored dtype are computed."""
    import torch

    if stored == torch.bfloat16 or (stored == torch.float16 and device != "cpu"):
        return stored
    return torch.float32


def _dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    if dtype == AUTO:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        bits = next((bits for bits in "84" if bits in name), None)
        hint = f"; for weights of {bits} bits say quantise='int{bits}'" if bits else ""
        raise ConfigError(f"unknown dtype '{name}'; expected {', '.join((AUTO, *DTYPES))}{hint}")
    import torch

    return getattr(torch, name)


def _device(device: str | torch.device) -> torch.device | None:
    if device == AUTO:
        return None
    import torch

    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"unknown device '{device}'; expected auto, cpu, cuda, cuda:1, mps or another") from None
    if found.type == "cpu":
        return torch.device("cpu")
    module: Any = torch.backends.mps if found.type == "mps" else getattr(torch, found.type, None)
    if module is None or not hasattr(module, "is_available") or not module.is_available():
        raise ConfigError(f"there is no device '{device}' here{_why(found.type)}; use device='cpu'")
    count = module.device_count() if hasattr(module, "device_count") else 1
    if found.index is not None and found.index >= count:
        raise ConfigError(f"there is no device '{device}' here: torch sees {count} of them, counted from 0")
    return found


def _why(kind: str) -> str:
    import torch

    built = {"cuda": torch.version.cuda or torch.version.hip, "mps": torch.backends.mps.is_built()}
    return f": this torch is built without {kind}" if kind in built and not built[kind] else ""


def _cuda_with_memory(size: int) -> torch.device | None:
    """The CUDA device in use when that many bytes of weights fit into its free memory."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, _ = torch.cuda.mem_get_info()
    return torch.device("cuda", torch.cuda.current_device()) if free >= size * _MARGIN else None
