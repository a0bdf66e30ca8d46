"""IDEFICS as a MultimodalLM: what an IdeficsConfig says of encoder, resampler and decoder, and the hub's names of them.

vision_of, resampler_of, backbone_of: config -> configs of the parts;  keys_of: names on disk -> the model
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig
from polymodal.connectors.resampler import IDEFICS_KEYS, ResamplerConfig
from polymodal.data.hf_image import CLIP, transform_of
from polymodal.data.interleaved import SharedMarks
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special, Template, Turn, Words
from polymodal.encoders import clip_vit
from polymodal.encoders.idefics_vit import IdeficsViT
from polymodal.encoders.items import ItemEncoder
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.fusion.cross_attention import GatedCrossAttentionConfig, idefics_keys, with_cross_attention
from polymodal.fusion.visibility import InterleavedContext
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.norm import LayerNormConfig, RMSNormConfig
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Variant,
)
from polymodal.weights.keytable import KeyTable, Row, drop, fuse


def vision_of(config: Mapping[str, Any]) -> ViTConfig:
    """vision_config -> the encoder; its names are CLIP's but for `embed_dim`, its defaults are not."""
    given = {"hidden_size": 768, "intermediate_size": 5120, "patch_size": 14, "num_hidden_layers": 32,
             "num_attention_heads": 16, "hidden_act": "gelu", **(config.get("vision_config") or {})}  # fmt: skip
    given["hidden_size"] = given.get("embed_dim", given["hidden_size"])
    return replace(clip_vit.parse_config(given), head=None)


def resampler_of(config: Mapping[str, Any]) -> ResamplerConfig | None:
    """perceiver_config -> the connector, None when the encoder's features are seen as they are."""
    if not config.get("use_resampler", False):
        return None
    given = config.get("perceiver_config") or {}
    norm = LayerNormConfig() if given.get("qk_layer_norms_perceiver", False) else None
    return ResamplerConfig(
        latents=given.get("resampler_n_latents", 64),
        depth=given.get("resampler_depth", 6),
        heads=given.get("resampler_n_heads", 16),
        head_dim=given.get("resampler_head_dim", 96),
        activation="relu",
        q_norm=norm,
        k_norm=norm,
    )


def backbone_of(config: Mapping[str, Any], source_width: int) -> DecoderConfig:
    """LLaMA with a gated block in front of every `cross_layer_interval`-th layer."""
    config = {"vocab_size": 32000, "rms_norm_eps": 1e-6, **config}
    config["vocab_size"] += config.get("additional_vocab_size", 0)
    for name in ("num_key_value_heads", "head_dim", "attention_bias", "mlp_bias"):
        config.pop(name, None)  # LLaMA's options, which this library class does not read
    base = llama.parse_config(config)
    interval, kind = config.get("cross_layer_interval", 1), config.get("alpha_type", "float")
    if base.depth % interval or kind not in ("float", "vector"):
        raise ConfigError(
            f"idefics: {base.depth} layers in groups of cross_layer_interval {interval}, alpha_type {kind!r}; "
            "expected whole groups, and 'float' or 'vector'"
        )
    norm, block = RMSNormConfig(eps=config["rms_norm_eps"]), base.blocks[0]
    head_norm = norm if config.get("qk_layer_norms", False) else None
    cross = GatedCrossAttentionConfig(
        attention=AttentionConfig(width=base.width, heads=block.attention.heads, source_width=source_width,
                                  q_norm=head_norm, k_norm=head_norm),
        mlp=block.mlp, norm=norm, gate_width=base.width if kind == "vector" else 1,
    )  # fmt: skip
    return replace(base, blocks=with_cross_attention(base.blocks, cross, range(0, base.depth, interval)))


def keys_of(config: Mapping[str, Any], vision: ViTConfig, backbone: DecoderConfig) -> KeyTable:
    """The hub's names -> the model."""
    base, added = config.get("vocab_size", 32000), config.get("additional_vocab_size", 0)
    rows: list[Row] = []
    for prefix, more, ours in (
        ("model.embed_tokens.", "additional_embedding.", "embed_tokens.weight"),
        ("lm_head.", "additional_fc.", "lm_head.weight"),
    ):
        pair = (f"{prefix}weight", f"{prefix}{more}weight")
        if prefix == "lm_head." and backbone.tied:
            rows += [drop(name, copy_of=name.replace(prefix, "model.embed_tokens.").replace("_fc", "_embedding"))
                     for name in pair]  # fmt: skip
        elif added:
            rows.append(fuse(pair, ours, sizes=(base, added)))
    gated = KeyTable((drop("cross_attn.rotary_emb.inv_freq"),)) + idefics_keys(config.get("alpha_type") == "vector")
    interval = config.get("cross_layer_interval", 1)
    text = KeyTable(tuple(rows)) + llama.hf_keys(backbone)
    for group in range(backbone.depth // interval):
        text += gated.prefixed(f"model.gated_cross_attn_layers.{group}.", f"blocks.{group * interval}.cross.")
    spelled = {"vision_model.": "", "visual_projection.": "visual_projection."}
    seen = clip_vit.hf_keys(vision).respelled(spelled)
    table = text.prefixed("", "backbone.") + seen.prefixed("model.vision_model.", "encoders.image.encoder.")
    return table + IDEFICS_KEYS.prefixed("model.perceiver_resampler.", "connectors.image.")


FAKE, IMAGE, EOU = "<fake_token_around_image>", "<image>", "<end_of_utterance>"


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An IdeficsConfig dict -> the model; raises ConfigError for options that are not supported."""
    vision, resampler = vision_of(config), resampler_of(config)
    backbone = backbone_of(config, vision.width)
    eos = config.get("eos_token_id", 2)
    ends = eos if isinstance(eos, list) else [] if eos is None else [eos]

    def build() -> MultimodalLM:
        connector = nn.Identity() if resampler is None else resampler.build(vision.width, vision.width)
        see = InterleavedContext({"image": config.get("vocab_size", 32000) + 1}, ends=ends,
                                 given="image_attention_mask", table="pixel_values")  # fmt: skip
        inputs = {"image": ModalityInputs(values="pixel_values", encoder=("interpolate_pos_encoding",))}
        encoder = ItemEncoder(IdeficsViT(vision))
        return MultimodalLM({"image": encoder}, {"image": connector}, backbone.build(), {}, context=see, inputs=inputs)

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        given = files.preprocessor
        tokenizer = files.tokenizer(control=(FAKE, IMAGE))
        instructed = tokenizer.knows(EOU)
        if instructed:
            tokenizer = files.tokenizer(control=(FAKE, IMAGE, EOU), eos=EOU)
        size = given.get("image_size") or vision.image_size
        transform = transform_of({"size": size, **given}, {**CLIP, "do_center_crop": False})
        image = Modality(name="image", placeholder=IMAGE, transform=transform, tokens=SameCount(1))
        module.context.placeholders["image"] = tokenizer.special(IMAGE)
        talk, limit = template(instructed), backbone.max_length
        processor = Processor(tokenizer=tokenizer, template=talk, modalities=(image,), max_length=limit)
        return LoadedModel(model=module, processor=processor)

    return ModelSpec(
        build=build,
        keys=(keys_of(config, vision, backbone),),
        parts=drawing(vision, resampler, backbone),
        assemble=assemble,
    )


def template(instruct: bool) -> SharedMarks:
    """`User: ...\nAssistant: ...\n`, with the token that ends an utterance in the instructed models."""
    end = (Special(name=EOU),) if instruct else ()
    said = (Special(name=EOU, loss_mask=True),) if instruct else ()
    turns = {
        "user": Turn(before=(Words(text="User: "),), after=(*end, Words(text="\n"))),
        "assistant": Turn(before=(Words(text="Assistant:"), Words(text=" ", loss_mask=True)),
                          after=(*said, Words(text="\n")), loss_mask=True),
    }  # fmt: skip
    plain = Template(turns=turns, begin=(Special(name="<s>"),), ask=(Words(text="Assistant:"),))
    return SharedMarks(template=plain, mark=Special(name=FAKE))


def drawing(vision: Any, resampler: Any, backbone: Any) -> tuple[Part, ...]:
    """The boxes of `show`."""
    seen = f"[items, {vision.tokens}, {vision.width}]"
    count = vision.tokens if resampler is None else resampler.latents
    name = "none, features as they are" if resampler is None else f"Perceiver resampler, {resampler.depth} blocks"
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT", prefix="encoders.image", output=seen,
             input=f"[B, N, 3, {vision.image_size}, {vision.image_size}]", tokens=vision.tokens),
        Part(slot="connector", modality="image", name=name, prefix="connectors.image", input=seen,
             output=f"[items, {count}, {vision.width}]", tokens=count),
        Part(slot="backbone", name="LLaMA with gated cross-attention blocks", prefix="backbone",
             input=f"[B, T, {backbone.width}], context", output=f"[B, T, {backbone.vocab_size}]"),
    )  # fmt: skip


def published(width: int, ffn_width: int, depth: int, heads: int, eps: float, added: int) -> dict[str, Any]:
    """The config.json of the released checkpoints."""
    return {
        "model_type": "idefics", "architectures": ["IdeficsForVisionText2Text"], "vocab_size": 32000,
        "additional_vocab_size": added, "hidden_size": width, "intermediate_size": ffn_width,
        "num_hidden_layers": depth, "num_attention_heads": heads, "rms_norm_eps": eps, "alpha_type": "vector",
        "cross_layer_interval": 4, "qk_layer_norms": True, "use_resampler": True, "max_position_embeddings": 2048,
        "vision_config": {"embed_dim": 1280, "image_size": 224, "patch_size": 14, "intermediate_size": 5120,
                          "num_hidden_layers": 32, "num_attention_heads": 16, "hidden_act": "gelu"},
        "perceiver_config": {"use_resampler": True, "resampler_depth": 6, "resampler_n_heads": 16,
                             "resampler_head_dim": 96, "resampler_n_latents": 64, "qk_layer_norms_perceiver": True},
    }  # fmt: skip


_9B, _80B = (4096, 11008, 32, 32, 1e-6), (8192, 22016, 80, 64, 1e-5)


def _variant(name: str, parameters: int, size: tuple[int, int, int, int, float], added: int) -> Variant:
    repository = Repository(name=f"HuggingFaceM4/idefics-{name}", license="LLaMA v1, non-commercial")
    return Variant(name=name, parameters=parameters, config=published(*size, added), repository=repository)
