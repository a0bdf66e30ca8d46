"""LLaMA-Adapter V2: ten vectors of a picture, added to learned prompts that 31 layers attend to behind a gate.

Paper: LLaMA-Adapter V2: Parameter-Efficient Visual Instruction Model (arXiv 2304.15010).

    picture -> 224 x 224 -> CLIP ViT-L/14, every token normed and projected [N, 257, 768]
            -> 10 learned queries in front, 8 blocks -> linear, norm [N, 10, D]
    layers 1..31: attention + tanh(gate) * attention over (prompt of the layer + the ten vectors)      (fusion type B)
    LLaMA's norms and added biases (V2.1: and low-rank paths) are tuned

Traps: no token stands for the picture; the released models saw pictures with red and blue swapped; text alone gets a
zero picture, whose ten vectors are still added; the official attention applies its softmax only when a mask is given,
which its callers always do; LLaMA, CLIP and the adapter are separate files: they are read together, or as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.backbones import llama_meta
from polymodal.backbones.decoder import DecoderConfig
from polymodal.connectors.query_blocks import QueryBlocksConfig
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.transforms import ShorterSideCrop, SwappedChannels
from polymodal.encoders.clip_tokens import ClipTokensConfig
from polymodal.encoders.clip_vit import clip_vit
from polymodal.encoders.vit import ViTBlockConfig
from polymodal.errors import ConfigError
from polymodal.fusion.prefix import BlankPicture, RowPrompt
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    LoadedModel,
    ModelSpec,
    Part,
    System,
    Variant,
    hf,
)
from polymodal.systems.llama_adapter_v2 import checkpoint as adapter
from polymodal.systems.llama_adapter_v2.recipe import RECIPE


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """Settings in the official constructor's words (with `params.json`'s) -> the model."""
    if config["query_layer"] < 1 or config["query_layer"] > config["n_layers"]:
        raise ConfigError(f"llama-adapter: query_layer {config['query_layer']} must be in 1..{config['n_layers']}")
    clip = config["clip"]
    encoder = ClipTokensConfig(vit=clip_vit(
        width=clip["vision_width"], depth=clip["vision_layers"], patch_size=clip["vision_patch_size"],
        embed_width=clip["embed_dim"], image_size=clip["image_resolution"]))  # fmt: skip
    connector, text = connector_of(config), adapter.adapted(llama_meta.shape_of(config).config(), config)

    def build() -> MultimodalLM:
        parts = encoder.build(), connector.build(encoder.width, text.width), text.build()
        return MultimodalLM({"image": parts[0]}, {"image": parts[1]}, parts[2], {}, context=RowPrompt(),
                            prepare_inputs=BlankPicture(clip["image_resolution"]))  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        side = clip["image_resolution"]
        cut = SwappedChannels(transform=ShorterSideCrop(size=side, crop=side, crop_rounding="even"))
        picture = Modality(name="image", placeholder="<unk>", transform=adapter.OrBlank(cut), tokens=SameCount(0))
        processor = Processor(tokenizer=files.tokenizer(pad="<unk>"), template=adapter.TEMPLATE, modalities=(picture,),
                              max_length=text.max_length, rewrite=adapter.one_instruction)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = (
        adapter.vision_keys()
        + adapter.connector_keys().prefixed("", "connectors.image.")
        + adapter.decoder_keys(text, config).prefixed("", "backbone.")
    )
    return ModelSpec(build=build, keys=(keys,), parts=drawing(encoder, connector, text), assemble=assemble)


def connector_of(config: Mapping[str, Any]) -> QueryBlocksConfig:
    """The visual query: blocks of timm's ViT, whose norms here have torch's eps."""
    width = config["v_embed_dim"]
    block = ViTBlockConfig(
        attention=AttentionConfig(width=width, heads=config["v_num_heads"], qkv_bias=True, out_bias=True),
        mlp=MLPConfig(width=width, ffn_width=int(width * config["v_mlp_ratio"])),
    )
    return QueryBlocksConfig(queries=config["query_len"], width=width, blocks=(block,) * config["v_depth"])


def drawing(encoder: ClipTokensConfig, connector: QueryBlocksConfig, text: DecoderConfig) -> tuple[Part, ...]:
    side, seen = encoder.vit.image_size, f"[N, {encoder.vit.tokens}, {encoder.width}]"
    prompts = sum(block.attention.prefix is not None for block in text.blocks)
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT, every token projected", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=encoder.vit.tokens),
        Part(slot="connector", modality="image", name=f"{connector.queries} queries, {len(connector.blocks)} blocks",
             prefix="connectors.image", input=seen, output=f"[N, {connector.queries}, {text.width}]"),
        Part(slot="backbone", name=f"LLaMA with gated prompts in {prompts} layers", prefix="backbone",
             input=f"[B, T, {text.width}], context", output=f"[B, T, {text.vocab_size}]"),
    )  # fmt: skip


def _variant(name: str, parameters: int, bias: bool, lora: bool, summary: str) -> Variant:
    config = {
        "model_type": "llama_adapter_v2", "dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256,
        "norm_eps": 1e-6, "vocab_size": 32000, "max_seq_len": 512, "query_len": 10, "query_layer": 31, "w_bias": bias,
        "w_lora": lora, "lora_rank": 16, "w_new_gate": lora, "v_embed_dim": 768, "v_num_heads": 16, "v_depth": 8,
        "v_mlp_ratio": 4.0,
        "clip": {"embed_dim": 768, "image_resolution": 224, "vision_layers": 24, "vision_width": 1024,
                 "vision_patch_size": 14},
    }  # fmt: skip
    return Variant(name=name, parameters=parameters, config=config, summary=summary)


SYSTEM = System(
    id="llama-adapter-v2",
    aliases=("LLaMA-Adapter V2", "LLaMA-Adapter V2 (multimodal 7B)", "LLaMA-Adapter V2.1"),
    year=2023,
    fusion=("B",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(CheckpointFormat(name="OpenGVLab LLaMA_adapter", matches=hf("llama_adapter_v2"), parse_config=parse_config,
                    infer=adapter.inferred, entry=adapter.ENTRY, gather=adapter.gathered),),
    variants=(
        _variant("bias-7b", 7_143_806_977, True, False, "release v.2.0.0 BIAS-7B, LLaMA-7B beside it"),
        _variant("lora-bias-7b", 7_183_783_969, True, True, "releases v.2.0.0 and v.2.1.0 LORA-BIAS-7B"),
        _variant("caption-7b", 7_142_709_249, False, False, "release v.2.0.0 CAPTION-7B, pretraining only"),
    ),
    headline="follows instructions about a picture by gated prompts inside a frozen LLaMA",
    reference="arXiv 2304.15010",
    recipe=RECIPE,
)  # fmt: skip
