"""IDEFICS: the open reproduction of Flamingo; pictures anywhere in a text, seen through gated cross-attention.

Paper: OBELICS (arXiv 2306.16527).

    pixel_values [B, N, 3, H, W] -> CLIP ViT-H/14, all tokens, not normed after [items, 257, 1280]
        -> (Perceiver resampler [items, 64, 1280]) -> keys and values of the gated blocks            (fusion type A)
    input_ids, image_attention_mask [B, T, N] -> LLaMA, a gated block in FRONT of every `cross_layer_interval`-th layer

Traps: the gated blocks lie in a list of their own, numbered by group; the added words have an embedding and a head of
their own; norms on queries and keys exist in the gated blocks only; a text without any picture still passes the gated
feed-forward layers; pictures next to each other share the token between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.data.hf_image import CLIP, transform_of
from polymodal.data.interleaved import SharedMarks
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special, Template, Turn, Words
from polymodal.encoders.idefics_vit import IdeficsViT
from polymodal.encoders.items import ItemEncoder
from polymodal.fusion.visibility import InterleavedContext
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.systems.idefics import checkpoint

FAKE, IMAGE, EOU = "<fake_token_around_image>", "<image>", "<end_of_utterance>"


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An IdeficsConfig dict -> the model; raises ConfigError for options that are not supported."""
    vision, resampler = checkpoint.vision_of(config), checkpoint.resampler_of(config)
    backbone = checkpoint.backbone_of(config, vision.width)
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
        added = {token["content"] for token in files.json("tokenizer.json").get("added_tokens") or ()}
        stop = {"eos": EOU} if EOU in added else {}
        tokenizer = files.tokenizer(control=(FAKE, IMAGE, *stop.values()), **stop)
        size = given.get("image_size") or vision.image_size
        transform = transform_of({"size": size, **given}, {**CLIP, "do_center_crop": False})
        image = Modality(name="image", placeholder=IMAGE, transform=transform, tokens=lambda values: 1)
        module.context.placeholders["image"] = tokenizer.special(IMAGE)
        talk, limit = template(bool(stop)), backbone.max_length
        processor = Processor(tokenizer=tokenizer, template=talk, modalities=(image,), max_length=limit)
        return LoadedModel(model=module, processor=processor)

    return ModelSpec(
        build=build,
        keys=(checkpoint.keys_of(config, vision, backbone),),
        parts=drawn(vision, resampler, backbone),
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


def drawn(vision: Any, resampler: Any, backbone: Any) -> tuple[Part, ...]:
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
    place = Repository(name=f"HuggingFaceM4/idefics-{name}", license="LLaMA v1, non-commercial")
    return Variant(name=name, parameters=parameters, config=published(*size, added), repository=place)


SYSTEM = System(
    id="idefics",
    aliases=("IDEFICS", "IDEFICS-9B", "IDEFICS-80B", "IDEFICS-instruct"),
    year=2023,
    fusion=("A",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(name="transformers IdeficsForVisionText2Text", parse_config=parse_config,
               matches=hf("idefics", "IdeficsForVisionText2Text")),
    ),
    variants=(
        _variant("9b", 8_929_745_152, _9B, 2),
        _variant("9b-instruct", 8_929_753_344, _9B, 3),
        _variant("80b", 79_968_171_264, _80B, 2),
        _variant("80b-instruct", 79_968_187_648, _80B, 3),
    ),
    headline="answers about any sequence of pictures and text, by examples given in the prompt or as a dialogue",
    reference="arXiv 2306.16527",
    recipe=(
        Stage(name="pretrain", data="OBELICS 73.85%, Wikipedia 6.15%, LAION 17.18%, PMD 2.82% of the tokens",
              objective="language model on text tokens, z-loss 1e-3",
              train=("connectors.image", "backbone.blocks.*.cross"), lr=5e-5, batch=640, steps=200_000, warmup=2000),
        Stage(name="instruct", data="M3IT, LRV, LLaVA, ScienceQA, SVIT, UltraChat", objective="language model, answers",
              train=("encoders", "connectors", "backbone"), lr=3e-6, batch=256, steps=5000, warmup=250),
    ),
)  # fmt: skip
