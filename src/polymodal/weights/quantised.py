"""Quantised checkpoints in the layouts of transformers, read as if they were plain ones.

    quantization_config + names of the tensors -> which packing (`packings.py`)
        -> the same tensors with everything packed as `*.weight` in float32, computed one at a time

A kind that is not read, or an option of one, is refused by its name: nothing packed is ever taken for plain numbers.

Traps: a config may say "quantised" over plain tensors (they are to be quantised while loading); those are read as they
are.  Files of AutoGPTQ hold biases of zeros for layers that have none, see `without_spare_biases`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from polymodal.errors import WeightsError
from polymodal.files import read_json
from polymodal.weights import packings
from polymodal.weights.derived import DerivedTensors
from polymodal.weights.keytable import KeyTable
from polymodal.weights.packings import BITSANDBYTES, Plan, Settings, where
from polymodal.weights.tensors import first_line

METHODS: dict[str, Callable[[Plan, Settings], None]] = {
    "bitsandbytes": packings.bitsandbytes,
    "gptq": packings.gptq,
    "awq": packings.awq,
    "fp8": packings.float8,
    "fbgemm_fp8": packings.float8,
    "compressed-tensors": packings.compressed,
}
"""By `quant_method`."""
ADVICE = f"load the unquantised checkpoint, or one of GGUF, {', '.join(METHODS)}"
BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""What older GPTQ and AWQ checkpoints have beside a config.json that says nothing."""
# Scales of activations and of the cache: a model that computes in floating point has no use for them.
_UNUSED = (".input_scale", ".activation_scale", ".input_scale_ub", ".input_zero_point", ".output_scale", ".k_scale",
           ".v_scale")  # fmt: skip


def quantisation_of(config: Mapping[str, Any], folder: Path | None = None) -> Settings | None:
    """The `quantization_config` of a published config, or of a file that older checkpoints have beside it."""
    tables = [table for table in (config, config.get("text_config")) if isinstance(table, Mapping)]
    for found in (table.get(key) for table in tables for key in ("quantization_config", "compression_config")):
        if isinstance(found, Mapping):
            return found
    if isinstance(config.get("quantization"), Mapping):
        return {"quant_method": "mlx", **config["quantization"]}
    if folder is not None and folder.is_dir():
        for name, method in BESIDE.items():
            if os.path.lexists(folder / name):
                found = read_json(folder / name)
                if not isinstance(found, dict):
                    raise WeightsError(f"{folder / name}: expected a table, found {type(found).__name__}")
                return {"quant_method": method, **found}
    return None


def unquantised(source: Mapping[str, Tensor], settings: Settings | None = None) -> Mapping[str, Tensor]:
    """The tensors with everything packed as plain `*.weight`, computed when asked for; `source` itself when nothing is.

    settings: the checkpoint's `quantization_config`, None when it has none.
    Raises WeightsError, of one line, for a kind or an option that is not read.
    """
    method = _method(source, settings)
    if method is None:
        return source
    plan = Plan(source, method, ADVICE)
    try:
        METHODS[method](plan, settings or {})
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as problem:  # of any value in there
        raise WeightsError(f"{where(source)}: its quantization_config does not fit its tensors: {first_line(problem)}; "
                           f"{ADVICE}") from problem  # fmt: skip
    left = [name for name in source if name not in plan.used and not name.endswith(_UNUSED)]
    if (twice := next((name for name in left if name in plan.made), None)) is not None:
        raise WeightsError(f"{where(source)}: {twice!r} is there both plain and packed; download it again")
    if (packed := next(filter(_is_packed, left), None)) is not None:
        raise WeightsError(f"{where(source)}: {packed!r} is not of {method}, which config.json names; {ADVICE}")
    return source if len(left) == len(source) else DerivedTensors(source, plan.made, left)


def without_spare_biases(
    tensors: Mapping[str, Tensor], tables: Sequence[KeyTable], targets: Callable[[], Iterable[str]]
) -> Mapping[str, Tensor]:
    """The tensors without the biases of nothing but zeros that a GPTQ writer gave to layers which have none.

    They are left out only where a model whose names are `targets()` fits without them and does not fit with them.
    """
    if not isinstance(tensors, DerivedTensors):
        return tensors
    names = set(tensors)
    packed = [name for name in names if name.endswith(".weight") and tensors.infos[name].dtype == "gptq"]
    biases = names.intersection(name.removesuffix("weight") + "bias" for name in packed)
    if not biases or _fits(names, tables, parameters := list(targets())):
        return tensors
    zero = {name for name in biases if not tensors[name].any()}
    return tensors.without(zero) if _fits(names - zero, tables, parameters) else tensors


def _fits(names: Collection[str], tables: Sequence[KeyTable], targets: Sequence[str]) -> bool:
    return any(table.check(names, targets).ok for table in tables)


def method_of(settings: Settings, source: str) -> str:
    """The packing that a `quantization_config` names; WeightsError, naming `source`, for one that is not supported."""
    method = str(settings.get("quant_method") or "").lower()[:40]
    if not method and ("load_in_4bit" in settings or "load_in_8bit" in settings):
        method = "bitsandbytes"
    if method not in METHODS:
        kind = method or "a method without a name"
        raise WeightsError(f"{source} is quantised with {kind}, which is not read; {ADVICE}")
    return method


def _method(source: Mapping[str, Tensor], settings: Settings | None) -> str | None:
    """The packing of a checkpoint, None for a plain one; WeightsError for one that is not supported."""
    if settings is not None:
        return method_of(settings, where(source))
    packed = next(filter(_is_packed, source), None)
    if packed is None or packed.endswith(".SCB") or BITSANDBYTES in packed:
        return None if packed is None else "bitsandbytes"  # whose tensors say everything
    raise WeightsError(
        f"{where(source)} is quantised (it holds {packed!r}), but no config.json with a quantization_config says how; "
        "load its folder, or the unquantised checkpoint"
    )


def _is_packed(name: str) -> bool:
    """Whether a tensor of this name belongs to a packed weight."""
    return name.endswith((".SCB", ".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv")) or (
        BITSANDBYTES in name
    )
