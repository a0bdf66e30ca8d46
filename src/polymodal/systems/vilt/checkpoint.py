"""Published checkpoints of ViLT: config to model, names of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.backbones.encoder import (
    BIASES,
    EMBEDDING_KEYS,
    TextEncoderConfig,
    TokenHeadConfig,
    head_keys,
    pre_norm_keys,
)
from polymodal.data.labels import labels_of
from polymodal.data.pair_processor import PairProcessor
from polymodal.encoders.masked_patches import PATCH_KEYS, MaskedPatchesConfig
from polymodal.errors import ConfigError
from polymodal.models.single_stream import ClassifierConfig, HeadConfig, SingleStreamConfig, classifier_keys
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.pipelines.image_text_matching import bert_ids
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.vilt.limited_sides import limited_of, padded
from polymodal.weights.keytable import KeyTable, rename

MASKED, ANSWERS, RANK = "ViltForMaskedLM", "ViltForQuestionAnswering", "ViltForImageAndTextRetrieval"
PICTURES, TOKENS = "ViltForImagesAndTextClassification", "ViltForTokenClassification"
HEADS = (MASKED, ANSWERS, RANK, PICTURES, TOKENS)


def _whole(config: Mapping[str, Any], name: str, default: int) -> int:
    side = config.get(name, default)
    if not isinstance(side, int):
        raise ConfigError(f"vilt: {name} must be one number, found {side}")
    return side


def parts_of(config: Mapping[str, Any]) -> tuple[TextEncoderConfig, MaskedPatchesConfig, PreNormBlockConfig]:
    """Text embeddings, patches and the block that a `ViltConfig` describes."""
    width, eps = config.get("hidden_size", 768), config.get("layer_norm_eps", 1e-12)
    text = TextEncoderConfig(
        vocab_size=config.get("vocab_size", 30522), width=width, blocks=(), norm=LayerNormConfig(eps=eps),
        positions=config.get("max_position_embeddings", 40), segments=config.get("type_vocab_size", 2),
    )  # fmt: skip
    limit = config.get("max_image_length", -1)
    patches = MaskedPatchesConfig(
        image_size=_whole(config, "image_size", 384), patch_size=_whole(config, "patch_size", 32), width=width,
        channels=config.get("num_channels", 3), limit=limit if isinstance(limit, int) and limit >= 0 else None,
    )  # fmt: skip
    heads, bias = config.get("num_attention_heads", 12), config.get("qkv_bias", True)
    ffn, activation = config.get("intermediate_size", 3072), config.get("hidden_act", "gelu")
    block = PreNormBlockConfig(
        attention=AttentionConfig(width=width, heads=heads, qkv_bias=bias, out_bias=True),
        mlp=MLPConfig(width=width, ffn_width=ffn, activation=activation),
        norm=LayerNormConfig(eps=eps),
    )
    return text, patches, block


def head_of(config: Mapping[str, Any], architecture: str) -> HeadConfig:
    """The head a checkpoint of that class has."""
    width, classes = config.get("hidden_size", 768), len(labels_of(config))
    if architecture == MASKED:
        norm = LayerNormConfig(eps=config.get("layer_norm_eps", 1e-12))
        vocab, activation = config.get("vocab_size", 30522), config.get("hidden_act", "gelu")
        tied = config.get("tie_word_embeddings", True)
        return TokenHeadConfig(width=width, vocab_size=vocab, activation=activation, norm=norm, tied=tied)
    if architecture == ANSWERS:
        return ClassifierConfig(width=width, hidden=2 * width, classes=classes)
    if architecture == PICTURES:
        joined = width * config.get("num_images", -1)
        if joined < 1:
            raise ConfigError(f"vilt: {PICTURES} needs num_images of 1 or more, found {config.get('num_images', -1)}")
        return ClassifierConfig(width=joined, hidden=joined, classes=classes)
    return ClassifierConfig(width=width, classes=1 if architecture == RANK else classes)


def keys_of(architecture: str, head: HeadConfig) -> tuple[KeyTable, ...]:
    """The library's names; the word head of older files keeps its bias outside the decoder."""
    body = KeyTable((rename("embeddings.token_type_embeddings.weight", "kinds.weight"),))
    body += EMBEDDING_KEYS.prefixed("embeddings.text_", "text.") + PATCH_KEYS.prefixed("embeddings.", "patches.")
    body = (body + pre_norm_keys(norm="norm", pooler="pooler")).prefixed("vilt.")
    if isinstance(head, TokenHeadConfig):
        words = "vilt.embeddings.text_embeddings.word_embeddings.weight" if head.tied else None
        heads = [head_keys("mlm_score.", embedding=words, bias=bias) for bias in reversed(BIASES)]
        return tuple(body + keys.prefixed(target="head.") for keys in heads)
    source = "rank_output" if architecture == RANK else "classifier"
    return (body + classifier_keys(source, hidden=architecture in (ANSWERS, PICTURES)),)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """Any `ViltConfig` with one of HEADS; without `architectures`, the answers or the two-picture class."""
    default = PICTURES if config.get("num_images", -1) > 0 else ANSWERS
    architecture = (config.get("architectures") or [default])[0]
    if architecture not in HEADS:
        raise ConfigError(f"vilt: architecture must be one of {', '.join(HEADS)}; found {architecture}")
    text, patches, block = parts_of(config)
    stream = SingleStreamConfig(
        text=text, patches=patches, blocks=(block,) * config.get("num_hidden_layers", 12), norm=block.norm,
        head=head_of(config, architecture), pooler=architecture != TOKENS, pooled=architecture not in (MASKED, TOKENS),
        kinds=config.get("modality_type_vocab_size", 2),
        images=config["num_images"] if architecture == PICTURES else None,
    )  # fmt: skip
    words = f"[B, T, {text.width}]"
    drawing = (
        Part(slot="encoder", name="patch embedding", prefix="patches", modality="image",
             input="pixel_values [N, 3, H, W]", output=f"[N, 1 + h*w, {text.width}]"),
        Part(slot="encoder", name="BERT embeddings", prefix="text", input="input_ids [B, T]", output=words),
        Part(slot="backbone", name="ViT blocks over both", prefix="blocks", input="[B, T+S, D]", output="[B, T+S, D]"),
    )  # fmt: skip
    return ModelSpec(
        build=stream.build, keys=keys_of(architecture, stream.head), parts=drawing,
        assemble=lambda module, files: assemble(
            module, files, stream, labels_of(config) if architecture in (ANSWERS, PICTURES) else ()
        ),
    )  # fmt: skip


def assemble(
    module: nn.Module, files: CheckpointFiles, stream: SingleStreamConfig, labels: tuple[str, ...]
) -> LoadedModel:
    """The processor, with the folder's transform and tokenizer."""
    tokenizer = files.tokenizer()
    processor = PairProcessor(
        transform=limited_of(files.preprocessor),
        tokenizer=tokenizer,
        ids=bert_ids(tokenizer, stream.text.positions),
        collate=padded,
        pictures=stream.images,
        segments=True,
    )
    return LoadedModel(model=module, processor=processor, labels=labels)
