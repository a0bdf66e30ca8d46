"""BLIP's mixture of encoder-decoder: its configs and files as models, in the library's layout and the official one.

    vision_config -> ViT;  text_config -> one text transformer as encoder, matcher, writer, or question encoder + writer
    official file without config -> sizes read off the shapes -> the same config dict, with eps 1e-6 and 12 heads

Trap: the library ties the word head when either the whole config or the text config asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from polymodal.backbones import encoder as text_encoder
from polymodal.backbones.encoder import (
    BIASES,
    BODY_KEYS,
    POOLER_KEYS,
    ProjectedText,
    TextEncoderConfig,
    TokenHeadConfig,
)
from polymodal.checkpoints import albef_blip_keys as official
from polymodal.data.hf_image import transform_of
from polymodal.data.pair_processor import PairProcessor
from polymodal.encoders import timm_vit
from polymodal.encoders.vit import ClassHeadConfig, ViTConfig
from polymodal.errors import ConfigError
from polymodal.fusion.picture_pair import PAIR_KEYS, PicturePairConfig
from polymodal.models.dual_encoder import DualEncoder
from polymodal.models.fusion_classifier import FusionClassifier, ImageFusionConfig
from polymodal.models.fusion_encoder import FusionEncoder, JointConfig
from polymodal.models.vision_encoder_decoder import AnswerRules, SpecialTokenIds, VisionEncoderDecoder
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PostNormBlockConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.pipelines.image_text_matching import BLIP_PICTURES, PairScores, bert_ids
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import Unsqueeze

CAPTION, ANSWER = "BlipForConditionalGeneration", "BlipForQuestionAnswering"
MATCH, JOINT = "BlipForImageTextRetrieval", "BlipModel"
PAIR, MERGING = "NLVR2", 6


def text_of(config: Mapping[str, Any], source: int, *, pooler: bool = False) -> TextEncoderConfig:
    """The text transformer that a `BlipTextConfig` describes, cross-attending to a source of that width."""
    crossing = (0, source) if config.get("is_decoder", True) else None
    defaults = {"vocab_size": 30524, "num_attention_heads": 8}
    return text_encoder.parse_config({**defaults, **config, "type_vocab_size": 0}, pooler=pooler, cross=crossing)


def head_of(config: Mapping[str, Any], *, tied: bool) -> TokenHeadConfig:
    """The head over words that a `BlipTextConfig` describes."""
    return TokenHeadConfig(
        width=config.get("hidden_size", 768), vocab_size=config.get("vocab_size", 30524), tied=tied,
        activation=config.get("hidden_act", "gelu"), norm=LayerNormConfig(eps=config.get("layer_norm_eps", 1e-12)),
    )  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A BlipConfig dict with the class that its `architectures` name; a joint space without any."""
    kind = (config.get("architectures") or [JOINT])[0]
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    vit = timm_vit.parse_blip_config(vision)
    if kind == JOINT:
        return _joint_spec(config, vit, text)
    if not text.get("is_decoder", True):
        raise ConfigError(f"blip: text_config.is_decoder false has no cross-attention, which {kind} needs")
    image = timm_vit.BLIP_KEYS.prefixed("vision_model.", "image.")
    if kind == MATCH:
        return _match_spec(vit, text, image, JointConfig(width=config.get("image_text_hidden_size", 256)))
    tied = config.get("tie_word_embeddings", True) or text.get("tie_word_embeddings", True)
    return _writer_spec(vit, text, image, tied=tied, question=kind == ANSWER)


def _match_spec(vit: ViTConfig, text: Mapping[str, Any], image: KeyTable, joint: JointConfig) -> ModelSpec:
    def build() -> nn.Module:
        return FusionEncoder(vit.build(), text_of(text, vit.width), image_width=vit.width, joint=joint)

    keys = image + BODY_KEYS.prefixed("text_encoder.", "text.") + official.MATCH_KEYS
    if joint.temperature is not None:
        keys += KeyTable((rename("temp", "temperature", Unsqueeze()),))
    return ModelSpec(build=build, keys=(keys,), parts=drawing(vit, "text", matcher=True), assemble=assemble)


def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """classify and embed of the match model, with the folder's transform and tokenizer."""
    assert isinstance(module, FusionEncoder)
    tokenizer, transform = files.tokenizer(), transform_of(files.preprocessor, BLIP_PICTURES)
    ids = bert_ids(tokenizer, module.text.config.positions)
    scores = PairScores(module, transform, ids)
    processor = PairProcessor(transform=transform, tokenizer=tokenizer, ids=ids)
    return LoadedModel(model=module, processor=processor, score=scores.score, embed=scores.embed)


def assemble_writer(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """The processor of captions and answers."""
    assert isinstance(module, VisionEncoderDecoder)
    return _with_processor(module, files, (module.question or module.decoder).config.positions)


def _with_processor(
    module: nn.Module, files: CheckpointFiles, positions: int, pictures: int | None = None
) -> LoadedModel:
    """The folder's transform and tokenizer, texts of at most `positions` ids."""
    tokenizer, transform = files.tokenizer(), transform_of(files.preprocessor, BLIP_PICTURES)
    ids = bert_ids(tokenizer, positions)
    processor = PairProcessor(transform=transform, tokenizer=tokenizer, ids=ids, pictures=pictures)
    return LoadedModel(model=module, processor=processor)


def _writer_spec(vit: ViTConfig, text: Mapping[str, Any], image: KeyTable, *, tied: bool, question: bool) -> ModelSpec:
    ids = SpecialTokenIds(
        bos=text.get("bos_token_id", 30522), sep=text.get("sep_token_id", 102), pad=text.get("pad_token_id", 0)
    )
    asks = text_of(text, vit.width) if question else None
    # Official decoders read question states of the text's width; the library's class asks for the picture's.
    decoder = text_of(text, text.get("question_width", vit.width) if question else vit.width)

    def build() -> nn.Module:
        return VisionEncoderDecoder(vit.build(), decoder, head_of(text, tied=tied), ids=ids, question=asks,
                            rules=AnswerRules(smoothing=0.1))  # fmt: skip

    keys = tuple(
        image + official.writer_keys(tied=tied, question=question, bias=bias)
        for bias in (BIASES if tied else reversed(BIASES))
    )
    ends = (frozenset({ids.sep}), ids.pad)
    drawn = drawing(vit, "decoder", matcher=False)
    return ModelSpec(build=build, keys=keys, parts=drawn, ends=ends, assemble=assemble_writer)


def _pair_spec(vit: ViTConfig, text: Mapping[str, Any], image: KeyTable) -> ModelSpec:
    """NLVR2: two pictures a text, read by every block; blocks from MERGING on join them by a linear."""
    plain = text_of(text, vit.width)
    blocks = tuple(
        replace(block, cross=PicturePairConfig(attention=block.cross, joined=i >= MERGING))
        for i, block in enumerate(plain.blocks)
        if isinstance(block, PostNormBlockConfig) and isinstance(block.cross, AttentionConfig)
    )

    def build() -> nn.Module:
        words = replace(plain, blocks=blocks)
        return FusionClassifier(vit.build(), words, classes=2, fusion=ImageFusionConfig(images=2))

    pair = PAIR_KEYS.prefixed("text_encoder.encoder.layer.{}.crossattention.", "text.blocks.{}.cross.")
    keys = image + pair + BODY_KEYS.prefixed("text_encoder.", "text.") + official.CLASS_KEYS
    return ModelSpec(
        build=build, keys=(keys,), parts=drawing(vit, "text", matcher=True),
        assemble=lambda module, files: _with_processor(module, files, plain.positions, pictures=2),
    )  # fmt: skip


def infer_official(shapes: official.Shapes) -> dict[str, Any] | None:
    """The config of an official BLIP file (caption, answer or match), None for another's."""
    if "visual_encoder.cls_token" not in shapes or not any(name.startswith("text_") for name in shapes):
        return None
    writes = "text_decoder.bert.embeddings.word_embeddings.weight" in shapes
    reads = "text_encoder.embeddings.word_embeddings.weight" in shapes
    prefix = "text_decoder.bert" if writes else "text_encoder"
    twin = f"{prefix}.encoder.layer.0.crossattention.self0.query.weight" in shapes
    if not (writes or reads) or f"{prefix}.embeddings.token_type_embeddings.weight" in shapes:
        return None
    text = official.text_of(shapes, prefix)
    text["question_width"] = text["hidden_size"]
    kind = MATCH if "itm_head.weight" in shapes and not writes else ANSWER if reads and writes else CAPTION
    kind = PAIR if twin else kind
    found: dict[str, Any] = {"model_type": "official-blip", "architectures": [kind], "text_config": text}
    if "text_proj.weight" in shapes:
        found["image_text_hidden_size"] = shapes["text_proj.weight"][0]
    return {**found, "temperature": "temp" in shapes, "vision_config": official.vision_of(shapes)}


def parse_official_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `infer_official` found."""
    vit, text = timm_vit.parse_blip_config(config["vision_config"]), config["text_config"]
    image = official.IMAGE_KEYS + official.RUN_KEYS
    kind = config["architectures"][0]
    if kind == PAIR:
        return _pair_spec(vit, text, image)
    if kind == MATCH:
        width = config.get("image_text_hidden_size", 256)
        joint = JointConfig(width=width, temperature=0.07 if config.get("temperature") else None)
        return _match_spec(vit, text, image, joint)
    return _writer_spec(vit, text, image, tied=config.get("tie_word_embeddings", True), question=kind == ANSWER)


def _joint_spec(config: Mapping[str, Any], vit: ViTConfig, text: Mapping[str, Any]) -> ModelSpec:
    """The joint space alone (BlipModel): pooled vectors of pictures and texts."""
    width = config.get("projection_dim", 512)
    scale = config.get("logit_scale_init_value", 2.6592)
    head = ClassHeadConfig(norm=vit.final_norm, out_width=width, bias=False)

    def build() -> nn.Module:
        image = replace(vit, head=head).build()
        if image.head is not None:
            image.head.norm = image.final_norm  # one norm, applied twice
        words = ProjectedText(text_of(text, vit.width, pooler=True), width)
        return DualEncoder({"image": image, "text": words}, scale=scale)

    twice = [(f"head.norm.{leaf}", f"final_norm.{leaf}") for leaf in ("weight", "bias")]
    keys = (timm_vit.BLIP_KEYS + KeyTable(tied=tuple(twice))).prefixed("vision_model.", "encoders.image.")
    keys += (BODY_KEYS + POOLER_KEYS).prefixed("text_model.", "encoders.text.encoder.")
    keys += KeyTable((
        rename("visual_projection.weight", "encoders.image.head.proj.weight"),
        rename("text_projection.weight", "encoders.text.proj.weight"),
        rename("logit_scale", "logit_scale", Unsqueeze()),
    ))  # fmt: skip
    return ModelSpec(
        build=build,
        keys=(keys,),
        parts=drawing(vit, "encoders.text", matcher=True, image="encoders.image"),
        assemble=lambda module, files: _with_processor(module, files, text.get("max_position_embeddings", 512)),
    )


def drawing(vit: ViTConfig, text: str, *, matcher: bool, image: str = "image") -> tuple[Part, ...]:
    """The boxes of `show`: picture encoder and the text transformer at the prefix `text`."""
    name = "text encoder, reads the picture" if matcher else "text decoder, reads the picture"
    states = f"[N, {vit.tokens}, {vit.width}]"
    return (
        Part(slot="encoder", modality="image", name="ViT", prefix=image,
             input=f"pixel_values [N, 3, {vit.image_size}, {vit.image_size}]", output=states, tokens=vit.tokens),
        Part(slot="backbone", name=name, prefix=text, input=f"input_ids [B, T], {states}",
             output="[B, 2] match" if matcher else "[B, T, V]"),
    )  # fmt: skip
