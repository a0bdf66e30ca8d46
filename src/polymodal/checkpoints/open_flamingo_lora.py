"""OpenFlamingo with low-rank paths in its file, as PEFT wraps its language model: MultiModal-GPT and Dolphins.

    lang_encoder.base_model.model.<layers>.{i}.decoder_layer.attn.Wqkv.weight        or .base_layer.weight
                                                             .lora_A.default.weight [r, in]  .lora_B.default.weight

A fused linear (q, k, v from one; keys and values from one) has one A here too: its parts share the tensor.
Trap: PEFT wraps what is left of the linear under `base_layer` since 0.6; both spellings are read, the older one is
written, which the published files have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from polymodal.checkpoints import open_flamingo
from polymodal.checkpoints.open_flamingo import LAYERS, OpenFlamingo
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.lora import DEFAULT, apply_lora
from polymodal.weights.folder import weights_in
from polymodal.weights.keytable import KeyTable, Row, rename, split
from polymodal.weights.merged import Locations, MergedTensors

WRAPPED = "base_model.model."
ENTRY = ("model_state_dict", "")


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """One linear of a layer.  source: its official name; targets: our linears that hold its rows, in order."""

    source: str
    targets: tuple[str, ...]


MPT_ATTENTION = (
    Adapted(source="decoder_layer.attn.Wqkv", targets=("attn.q_proj", "attn.k_proj", "attn.v_proj")),
    Adapted(source="decoder_layer.attn.out_proj", targets=("attn.o_proj",)),
)
LLAMA_ATTENTION = tuple(
    Adapted(source=f"decoder_layer.self_attn.{name}_proj", targets=(f"attn.{name}_proj",)) for name in "qkvo"
)
GATED = (
    Adapted(source="gated_cross_attn_layer.attn.to_q", targets=("cross.attn.q_proj",)),
    Adapted(source="gated_cross_attn_layer.attn.to_kv", targets=("cross.attn.k_proj", "cross.attn.v_proj")),
    Adapted(source="gated_cross_attn_layer.attn.to_out", targets=("cross.attn.o_proj",)),
    Adapted(source="gated_cross_attn_layer.ff.1", targets=("cross.mlp.up_proj",)),
    Adapted(source="gated_cross_attn_layer.ff.3", targets=("cross.mlp.down_proj",)),
)


@dataclass(frozen=True, kw_only=True)
class WithLowRank:
    """The parts and what is adapted in them."""

    parts: OpenFlamingo
    linears: tuple[Adapted, ...]
    rank: int
    alpha: float
    dropout: float = 0.0

    def build(self) -> MultimodalLM:
        """The model with fresh low-rank paths, those of a fused linear with one A."""
        model = self.parts.build()
        groups = [names for _, names in self.groups()]
        every = [name for names in groups for name in names]
        apply_lora(model.backbone, every, self.rank, self.alpha, self.dropout)
        for first, *rest in groups:
            shared = _path(model.backbone, first).lora_A.weight
            for name in rest:
                _path(model.backbone, name).lora_A.weight = shared
        return model

    def groups(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """The adapted linears of each layer by their paths in the decoder; those of one official linear together."""
        gated = set(self.parts.gated)
        for layer in range(self.parts.backbone.depth):
            for linear in self.linears:
                if not linear.targets[0].startswith("cross.") or layer in gated:
                    yield layer, tuple(f"blocks.{layer}.{target}" for target in linear.targets)

    def keys(self, config: Mapping[str, Any]) -> tuple[KeyTable, KeyTable]:
        """The official names in both spellings."""
        prefix = f"lang_encoder.{WRAPPED}"
        plain = open_flamingo.keys_of(config, self.parts).reworded({"lang_encoder.": prefix})
        rows: list[Row] = []
        for linear in self.linears:
            source = f"{prefix}{LAYERS[self.parts.kind]}.{{}}.{linear.source}"
            paths = [f"backbone.blocks.{{}}.{target}.adapters.{DEFAULT}" for target in linear.targets]
            rows.append(rename(f"{source}.lora_A.default.weight", f"{paths[0]}.lora_A.weight"))
            rows.append(split(f"{source}.lora_B.default.weight", [f"{path}.lora_B.weight" for path in paths]))
        tied = [
            (f"backbone.{name}.adapters.{DEFAULT}.lora_A.weight", f"backbone.{first}.adapters.{DEFAULT}.lora_A.weight")
            for _, (first, *rest) in self.groups()
            for name in rest
        ]
        paths_of = KeyTable(tuple(rows), tied=tuple(tied))
        words = {f"{linear.source}.{leaf}": f"{linear.source}.base_layer.{leaf}"
                 for linear in self.linears for leaf in ("weight", "bias")}  # fmt: skip
        return plain + paths_of, plain.reworded(words) + paths_of


def with_low_rank(parts: OpenFlamingo, linears: Sequence[Adapted], config: Mapping[str, Any]) -> WithLowRank:
    """What a config says under `lora_r`, `lora_alpha`, `lora_dropout`; raises ConfigError for a rank below 1."""
    rank = config.get("lora_r")
    if not isinstance(rank, int) or rank < 1:
        raise ConfigError(f"open_flamingo: lora_r must be a whole number from 1 on, found {rank!r}")
    return WithLowRank(
        parts=parts,
        linears=tuple(linears),
        rank=rank,
        alpha=config.get("lora_alpha", rank),
        dropout=config.get("lora_dropout", 0.0),
    )


def _path(decoder: nn.Module, name: str) -> Any:
    """The low-rank path beside a linear."""
    adapted: Any = decoder.get_submodule(name)
    return adapted.adapters[DEFAULT]


def gather(folder: Path) -> Mapping[str, Tensor]:
    """All tensors of a folder under the names of the whole official module.

    One weights file holds everything; or it holds what was tuned, the folders `language` and `vision` are as for
    OpenFlamingo, and `flamingo` holds OpenFlamingo's own checkpoint.pt, where the tuned file leaves its parts out.
    """
    whole = open_flamingo.gather(folder, WRAPPED)
    if not (folder / "flamingo").is_dir():
        return whole
    assert isinstance(whole, MergedTensors)
    tuned = {name.removeprefix("module.") for name in weights_in(folder, ENTRY)}
    base = weights_in(folder / "flamingo", ENTRY)
    found: Locations = {}
    for name in base:
        shown = name.removeprefix("module.").replace("lang_encoder.", f"lang_encoder.{WRAPPED}", 1)
        if shown not in tuned:
            found[shown] = (base, name)
    return MergedTensors.of(whole.locations | found)
