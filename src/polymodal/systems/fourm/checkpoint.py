"""4M's files: a config.json with `domains_in` and `domains_out`, and the names of the official class `FM`.

    encoder_embeddings.<name>.{token_emb | proj | emb_proj, mod_emb, pos_emb}
    decoder_embeddings.<name>.{token_emb, to_logits, mod_emb, pos_emb}
    encoder.{}  decoder.{}  encoder_norm  decoder_norm  decoder_proj_context  mask_token  register_tokens
Traps: norms without a learned bias keep one of zeros in the file; what the reader and the writer share is kept once
(under the writer, the first in the alphabet) or twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.backbones.encoder import weight_and_bias
from polymodal.encoders.modality_embeddings import ModalityConfig
from polymodal.errors import ConfigError
from polymodal.fusion.source_block import SourceBlockConfig
from polymodal.models.masked_modalities import MaskedModalities, MaskedModalitiesConfig
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.mlp import FeedForwardConfig, GatedMLPConfig, MLPConfig
from polymodal.nn.norm import FixedBiasLayerNormConfig, LayerNormConfig, NormConfig
from polymodal.pipelines.modality_turning import Turner
from polymodal.systems import CheckpointFiles, ConfigMatch, LoadedModel, ModelSpec, Part
from polymodal.systems.fourm.modalities import MAX_TOKENS, SEQUENCES, modality
from polymodal.systems.fourm.sequences import (
    box_pieces,
    fact_chunks,
    palette_pieces,
    read_boxes,
    read_facts,
    read_palette,
)
from polymodal.systems.fourm.usual import usual
from polymodal.train.modality_samples import ModalityCollator, modality_collator
from polymodal.weights.keytable import KeyTable, Row, drop, rename, split

EPS = 1e-6
ACTIVATIONS = {"SiLU": "silu", "GELU": "gelu", "ReLU": "relu"}
DEFAULTS: dict[str, Any] = {
    "dim": 768, "encoder_depth": 12, "decoder_depth": 12, "num_heads": 12, "mlp_ratio": 4.0, "qkv_bias": True,
    "proj_bias": True, "mlp_bias": True, "gated_mlp": False, "qk_norm": False, "decoder_causal_mask": False,
    "decoder_sep_mask": True, "num_register_tokens": 0, "share_modality_embeddings": True, "act_layer": "GELU",
    "norm_bias": True, "image_size": 224, "patch_size": 16,
}  # fmt: skip
TRAINING = frozenset({"drop_path_rate_encoder", "drop_path_rate_decoder", "shared_drop_path", "use_act_checkpoint"})
MODEL = ConfigMatch(
    score=lambda config: 2 if "domains_in" in config and "domains_out" in config else 0, keys=("domains_in",)
)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """Arguments of the official class; options of training count nothing here."""
    known = {*DEFAULTS, *TRAINING, "domains_in", "domains_out", "modality_info", "model_type"}
    if unknown := sorted(set(config) - known):
        raise ConfigError(f"fourm: config.json has {unknown[0]!r}, which is not supported")
    full = {**DEFAULTS, **config}
    inputs = {name: modality(name, full) for name in full["domains_in"]}
    outputs = {name: each for name in full["domains_out"] if (each := modality(name, full)).writes}
    if not inputs or not outputs:
        raise ConfigError("fourm: domains_in and domains_out must each name a modality that can be read and written")
    norm, attention = _norm_config(full), _attention(full)
    cross = _attention(full, full["dim"])
    model = MaskedModalitiesConfig(
        width=full["dim"], inputs=inputs, outputs=outputs, norm=norm, registers=full["num_register_tokens"],
        causal=full["decoder_causal_mask"], apart=full["decoder_sep_mask"], shared=full["share_modality_embeddings"],
        encoder=(PreNormBlockConfig(attention=attention, mlp=_mlp(full), norm=norm),) * full["encoder_depth"],
        decoder=(SourceBlockConfig(attention=attention, cross=cross, mlp=_mlp(full), norm=norm),)
        * full["decoder_depth"],
    )  # fmt: skip
    first, second = (_keys(full, model, keep) for keep in ("decoder", "encoder"))
    return ModelSpec(build=model.build, keys=(first, second), parts=_drawing(model), assemble=assemble, tokenizer=False)


def _norm_config(config: Mapping[str, Any]) -> NormConfig:
    return LayerNormConfig(eps=EPS) if config["norm_bias"] else FixedBiasLayerNormConfig(eps=EPS)


def _attention(config: Mapping[str, Any], source: int | None = None) -> AttentionConfig:
    norm = _norm_config(config) if config["qk_norm"] else None
    return AttentionConfig(
        width=config["dim"], heads=config["num_heads"], qkv_bias=config["qkv_bias"], out_bias=config["proj_bias"],
        q_norm=norm, k_norm=norm, source_width=source,
    )  # fmt: skip


def _mlp(config: Mapping[str, Any]) -> FeedForwardConfig:
    width, hidden = config["dim"], int(config["dim"] * config["mlp_ratio"])
    if config["act_layer"] not in ACTIVATIONS:
        raise ConfigError(f"fourm: act_layer is one of {', '.join(ACTIVATIONS)}, found {config['act_layer']!r}")
    kind, bias = ACTIVATIONS[config["act_layer"]], config["mlp_bias"]
    if config["gated_mlp"]:
        return GatedMLPConfig(width=width, ffn_width=int(2 * hidden / 3), activation=kind, bias=bias)
    return MLPConfig(width=width, ffn_width=hidden, activation=kind, bias=bias)


def _keys(config: Mapping[str, Any], model: MaskedModalitiesConfig, keep: str) -> KeyTable:
    """keep: under which side a file holds what both share."""
    rows: list[Row] = []
    for name, each in model.inputs.items():
        rows += _embedding(f"encoder_embeddings.{name}", f"inputs.{name}", each)
    for name in model.outputs:
        theirs, ours = f"decoder_embeddings.{name}", f"outputs.{name}"
        rows += [rename(f"{theirs}.token_emb.weight", f"{ours}.tokens.weight"),
                 rename(f"{theirs}.to_logits.weight", f"{ours}.head.weight"),
                 rename(f"{theirs}.pos_emb", f"{ours}.positions")]  # fmt: skip
    for name in {**model.inputs, **model.outputs}:
        read, written = f"encoder_embeddings.{name}.mod_emb", f"decoder_embeddings.{name}.mod_emb"
        both = name in model.inputs and name in model.outputs
        if both and model.shared:
            first, second = (written, read) if keep == "decoder" else (read, written)
            rows += [rename(first, f"inputs.{name}.modality"), drop(second, copy_of=first)]
            continue
        rows += [rename(read, f"inputs.{name}.modality")] if name in model.inputs else []
        rows += [rename(written, f"output_modalities.{name}")] if name in model.outputs else []
    rows += weight_and_bias("encoder_norm", "encoder_norm") + weight_and_bias("decoder_norm", "decoder_norm")
    rows += weight_and_bias("decoder_proj_context", "context_proj")
    rows.append(rename("mask_token", "mask_token"))
    rows += [rename("register_tokens", "registers")] if model.registers else []
    return KeyTable(tuple(rows + _block("encoder.{}", config, False) + _block("decoder.{}", config, True)))


def _embedding(theirs: str, ours: str, each: ModalityConfig) -> list[Row]:
    places = rename(f"{theirs}.pos_emb", f"{ours}.positions")
    if each.writes:
        return [rename(f"{theirs}.token_emb.weight", f"{ours}.tokens.weight"), places]
    if each.kind == "vectors":
        return [*weight_and_bias(f"{theirs}.emb_proj", f"{ours}.proj"), places]
    return [rename(f"{theirs}.proj.weight", f"{ours}.proj.weight"), places]


def _leaves(bias: bool) -> tuple[str, ...]:
    return ("weight", "bias") if bias else ("weight",)


def _block(at: str, config: Mapping[str, Any], writes: bool) -> list[Row]:
    qkv, proj, mlp = (_leaves(config[name]) for name in ("qkv_bias", "proj_bias", "mlp_bias"))
    names = {"norm1": "attn_norm", "norm2": "mlp_norm"}
    names |= {"query_norm": "cross_norm", "context_norm": "source_norm"} if writes else {}
    attentions = {"self_attn": "attn", "cross_attn": "cross"} if writes else {"attn": "attn"}
    rows = [row for theirs, ours in names.items() for row in weight_and_bias(f"{at}.{theirs}", f"{at}.{ours}")]
    for theirs, ours in attentions.items():
        inside = f"{at}.{ours}"
        fused = (("kv", "kv"), ("q", "q")) if ours == "cross" else (("qkv", "qkv"),)
        for leaf in qkv:
            for name, parts in fused:
                targets = [f"{inside}.{part}_proj.{leaf}" for part in parts]
                source = f"{at}.{theirs}.{name}.{leaf}"
                rows.append(split(source, targets) if len(targets) > 1 else rename(source, targets[0]))
        rows += [rename(f"{at}.{theirs}.proj.{leaf}", f"{inside}.o_proj.{leaf}") for leaf in proj]
        if config["qk_norm"]:
            rows += weight_and_bias(f"{at}.{theirs}.q_norm", f"{inside}.q_norm")
            rows += weight_and_bias(f"{at}.{theirs}.k_norm", f"{inside}.k_norm")
    gated = {"fc1": "gate_proj", "fc3": "up_proj", "fc2": "down_proj"}
    linears = gated if config["gated_mlp"] else {"fc1": "up_proj", "fc2": "down_proj"}
    return rows + [rename(f"{at}.mlp.{theirs}.{leaf}", f"{at}.mlp.{ours}.{leaf}")
                   for theirs, ours in linears.items() for leaf in mlp]  # fmt: skip


def _drawing(model: MaskedModalitiesConfig) -> tuple[Part, ...]:
    width = model.width
    return (
        Part(slot="connector", name=f"tables and places of {len(model.inputs)} modalities", prefix="inputs",
             input=", ".join(model.inputs), output=f"tokens that are given [B, N, {width}]"),
        Part(slot="encoder", name="encoder", prefix="encoder", input=f"[B, N, {width}]", output=f"[B, N, {width}]"),
        Part(slot="backbone", name="decoder", prefix="decoder", input=f"tokens that are asked for [B, M, {width}]",
             output=f"[B, M, {width}]"),
        Part(slot="output connector", name=f"ids of {len(model.outputs)} modalities", prefix="outputs",
             input=f"[B, M, {width}]", output=", ".join(model.outputs)),
    )  # fmt: skip


def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """Words need a tokenizer.json, which the hub's folders lack; all else goes without."""
    assert isinstance(module, MaskedModalities)
    meanings = {"det": read_boxes, "metadata": read_facts, "color_palette": read_palette}
    tokenizer = files.tokenizer() if files.lacks_tokenizer() is None else None
    spellings = {"det": box_pieces, "metadata": fact_chunks, "color_palette": palette_pieces}
    turner = Turner(model=module, tokenizer=tokenizer, meanings=meanings, spellings=spellings, usual=usual)
    longest = {name: MAX_TOKENS[name] for name, places in SEQUENCES.items()
               if name in turner.reads and module.modality(name).longest == places}  # fmt: skip

    def collator(objective: Any, learner: Any) -> ModalityCollator | None:
        return modality_collator(objective, turner, longest)

    return LoadedModel(model=module, processor=None, turn=turner, collator=collator)
