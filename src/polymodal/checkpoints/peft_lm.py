"""A decoder inside PEFT as official code saved it: a prefix before its names, low-rank paths beside its linears.

    llama_model.base_model.model.model.layers.0.self_attn.q_proj.weight    the frozen linear, in old PEFT
    q_proj.base_layer.weight                                               the same in newer PEFT
    q_proj.lora_A.default.weight, q_proj.lora_B.default.weight             its path; `default.` may be absent

Trap: all names of one file are of one PEFT, so the two spellings are two tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from polymodal.nn.lora import apply_lora
from polymodal.weights.keytable import KeyTable, Row, rename

LLAMA = "llama_model.base_model.model."


def build_adapted(decoder: Any, targets: Sequence[str], rank: int, alpha: float) -> nn.Module:
    """The decoder of a config with a fresh low-rank path beside every linear that `targets` names."""
    model: nn.Module = decoder.build()
    apply_lora(model, targets, rank, alpha)
    return model


def adapted_keys(table: KeyTable, targets: Sequence[str]) -> KeyTable:
    """The decoder's own names and those of the paths in its attention and feed-forward, both below PEFT's prefix."""
    rows = []
    for name in targets:
        part = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "attn"
        source, target = f"model.layers.{{}}.{part.replace('attn', 'self_attn')}.{name}", f"blocks.{{}}.{part}.{name}"
        rows += [rename(f"{source}.lora_{x}.{adapter}weight", f"{target}.adapters.default.lora_{x}.weight")
                 for x in "AB" for adapter in ("default.", "")]  # fmt: skip
    return table + KeyTable(tuple(rows))


def wrapped_keys(table: KeyTable, targets: Sequence[str]) -> KeyTable:
    """The table in the names of newer PEFT, which wraps the linears it adapts."""
    return KeyTable(tuple(_wrapped(row, targets) for row in table.rows), table.new, table.tied)


def _wrapped(row: Row, targets: Sequence[str]) -> Row:
    adapted = tuple(f".{name}.{leaf}" for name in targets for leaf in ("weight", "bias"))
    sources = tuple(
        name.removesuffix(leaf) + f"base_layer.{leaf}" if name.endswith(adapted) else name
        for name in row.sources for leaf in (name.rpartition(".")[2],)
    )  # fmt: skip
    return replace(row, sources=sources)
