"""ALBEF's official files as models: six kinds, told apart by their names, sizes read off their shapes.

pretrained   text_encoder.{bert,cls}  joint space, match, masked words     retrieval   the same without words
answer       text_encoder, text_decoder                                    entailment  text_encoder, cls_head of 3
pair         18 blocks, cls_head of 2                                      assignment  18 blocks, ta_head
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from polymodal.backbones import encoder as text_encoder
from polymodal.backbones.encoder import BIASES, BODY_KEYS, TokenHeadConfig, head_keys
from polymodal.checkpoints import albef_blip_keys as official
from polymodal.data.hf_image import transform_of
from polymodal.data.pair_processor import PairProcessor
from polymodal.encoders import timm_vit
from polymodal.encoders.vit import sides
from polymodal.models.fusion_classifier import FusionClassifier, ImageFusionConfig
from polymodal.models.fusion_encoder import FusionEncoder, JointConfig
from polymodal.models.vision_encoder_decoder import AnswerRules, SpecialTokenIds, VisionEncoderDecoder
from polymodal.pipelines.image_text_matching import BLIP_PICTURES, PairScores, bert_ids
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.weights.keytable import KeyTable, drop, rename
from polymodal.weights.operations import Unsqueeze

PRETRAINED, RETRIEVAL, ANSWER = "pretrained", "retrieval", "answer"
PAIR, ENTAILMENT, ASSIGNMENT = "pair", "entailment", "assignment"


def read_shapes(shapes: official.Shapes) -> dict[str, Any] | None:
    """The config of an official ALBEF file, None for another's."""
    prefix = "text_encoder.bert" if "text_encoder.bert.embeddings.word_embeddings.weight" in shapes else "text_encoder"
    if "visual_encoder.cls_token" not in shapes or f"{prefix}.embeddings.token_type_embeddings.weight" not in shapes:
        return None
    first = min(official.indices(shapes, rf"{prefix}\.encoder\.layer\.(\d+)\.crossattention\."), default=0)
    text = {**official.text_of(shapes, prefix), "type_vocab_size": 2, "fusion_layer": first}
    if "text_decoder.bert.embeddings.word_embeddings.weight" in shapes:
        kind = ANSWER
        text["decoder_layers"] = official.count(shapes, r"text_decoder\.bert\.encoder\.layer\.(\d+)\.")
    elif "cls_head.2.weight" in shapes:
        kind = ENTAILMENT if shapes["cls_head.2.weight"][0] == 3 else PAIR
    else:
        kind = ASSIGNMENT if "ta_head.weight" in shapes else PRETRAINED if prefix.endswith("bert") else RETRIEVAL
    width = shapes["text_proj.weight"][0] if "text_proj.weight" in shapes else None
    return {"model_type": "official-albef", "kind": kind, "joint_width": width, "text_config": text,
            "vision_config": official.vision_of(shapes)}  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `read_shapes` found, or the same dict by hand."""
    vit, text, kind = timm_vit.parse_blip_config(config["vision_config"]), config["text_config"], config["kind"]
    width, first, depth = text["hidden_size"], text["fusion_layer"], text["num_hidden_layers"]
    encoder = text_encoder.parse_config(text, cross=(first, vit.width))
    head = TokenHeadConfig(width=width, vocab_size=text["vocab_size"])
    decoder = text_encoder.parse_config({**text, "num_hidden_layers": text.get("decoder_layers", 6)}, cross=(0, width))
    pairs = kind in (PAIR, ASSIGNMENT)
    fusion = ImageFusionConfig(images=2 if pairs else 1, alternate=pairs, first_block=first, share_kv=pairs)

    def build() -> nn.Module:
        if kind == ANSWER:
            return VisionEncoderDecoder(
                vit.build(),
                decoder,
                head,
                ids=SpecialTokenIds(bos=101, sep=102),
                question=encoder,
                rules=AnswerRules(mask_padding=True, count_first_twice=True),
            )
        if kind in (PRETRAINED, RETRIEVAL):
            joint = JointConfig(width=config["joint_width"], temperature=0.07)
            return FusionEncoder(vit.build(), encoder, image_width=vit.width, joint=joint, text_layers=first,
                                 token_head=head if kind == PRETRAINED else None)  # fmt: skip
        classes = 2 if kind == PAIR else 3
        return FusionClassifier(vit.build(), encoder, classes=classes, fusion=fusion, hidden=kind != ASSIGNMENT)

    drawing = (
        Part(slot="encoder", modality="image", name="DeiT", prefix="image",
             input=f"pixel_values [N, 3, {vit.image_size}, {vit.image_size}]",
             output=f"[N, {vit.tokens}, {vit.width}]", tokens=vit.tokens),
        Part(slot="backbone", name=f"BERT, reads the picture from block {first} on",
             prefix="question" if kind == ANSWER else "text", input="input_ids [B, T]", output=f"[B, T, {width}]"),
    )  # fmt: skip
    ends = (frozenset({102}), 0) if kind == ANSWER else None
    high, wide = sides(vit.image_size)
    size, pictures = {"height": high, "width": wide}, 2 if pairs else None
    return ModelSpec(
        build=build,
        keys=tuple(keys_of(kind, first, depth, bias) for bias in BIASES),
        parts=drawing,
        ends=ends,
        assemble=partial(assemble, size=size, positions=encoder.positions, pictures=pictures),
    )


def assemble(
    module: nn.Module, files: CheckpointFiles, *, size: Mapping[str, int], positions: int, pictures: int | None
) -> LoadedModel:
    """The processor; of the joint space classify and embed too.  The official transform, at the model's own size."""
    tokenizer = files.tokenizer()
    transform = transform_of(files.preprocessor, {**BLIP_PICTURES, "size": size})
    ids = bert_ids(tokenizer, positions)
    processor = PairProcessor(transform=transform, tokenizer=tokenizer, ids=ids, pictures=pictures)
    if not isinstance(module, FusionEncoder):
        return LoadedModel(model=module, processor=processor)
    scores = PairScores(module, transform, ids)
    return LoadedModel(model=module, processor=processor, score=scores.score, embed=scores.embed)


def keys_of(kind: str, first: int, depth: int, bias: str) -> KeyTable:
    """The official names of one kind of file; bias: what it calls the bias of its token head."""
    keys = official.IMAGE_KEYS + official.RUN_KEYS
    if kind == ANSWER:
        return keys + official.writer_keys(tied=True, question=True, bias=bias)
    if kind in (PRETRAINED, RETRIEVAL):
        prefix = "text_encoder.bert." if kind == PRETRAINED else "text_encoder."
        keys += (
            BODY_KEYS.prefixed(prefix, "text.")
            + official.MATCH_KEYS
            + KeyTable((rename("temp", "temperature", Unsqueeze()),))
        )
        words = f"{prefix}embeddings.word_embeddings.weight"
        head = head_keys("text_encoder.cls.predictions.", embedding=words, bias=bias)
        return keys + head.prefixed(target="token_head.")
    if kind == ENTAILMENT:
        return keys + BODY_KEYS.prefixed("text_encoder.", "text.") + official.CLASS_KEYS
    shared = [(i, name) for i in range(first, depth - 1, 2) for name in ("key", "value")]
    same = tuple((f"text.blocks.{i + 1}.cross.{name[0]}_proj.{leaf}", f"text.blocks.{i}.cross.{name[0]}_proj.{leaf}")
                 for i, name in shared for leaf in ("weight", "bias"))  # fmt: skip
    source = "text_encoder.encoder.layer.{}.crossattention.self"
    twins = [drop(f"{source.format(i + 1)}.{name}.{leaf}", copy_of=f"{source.format(i)}.{name}.{leaf}")
             for i, name in shared for leaf in ("weight", "bias")]  # fmt: skip
    keys += KeyTable(tuple(twins), tied=same)
    keys += BODY_KEYS.prefixed("text_encoder.", "text.")
    if kind == PAIR:
        return keys + official.CLASS_KEYS
    own = [rename(f"ta_head.{leaf}", f"head.{leaf}") for leaf in ("weight", "bias")]
    return keys + KeyTable((*own, drop("vision_proj.**"), drop("text_proj.**"), drop("temp")))
