"""BEiT-3's official files (.pth of microsoft/unilm) as models: five kinds, told apart by the heads that they hold.

    {"model": {beit3.*, pooler + head (answers) | head.dense1 (pairs) | fc_norm + head (classes) | mlm_head (captions)
               | language_head, vision_head, logit_scale (retrieval)}}
Traps: answers and classes have no norm behind the last block; ids of text are those of XLM-R's kind of vocabulary: <s>
0, <pad> 1, </s> 2, then the pieces of beit3.spm, the mask behind all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.backbones.encoder import weight_and_bias
from polymodal.checkpoints import beit3
from polymodal.checkpoints.multiway import assemble_multiway, drawing
from polymodal.encoders.beit3 import FIRST_POSITION, BEiT3Config
from polymodal.errors import ConfigError
from polymodal.models.multiway import MultiwayConfig, MultiwayRetrievalConfig, WritingIds
from polymodal.systems import ModelSpec
from polymodal.weights.keytable import KeyTable, Row, rename
from polymodal.weights.operations import Unsqueeze

ANSWERS, PAIRS, CLASSES, CAPTIONS, RETRIEVAL = "answers", "pairs", "classes", "captions", "retrieval"
KINDS = (ANSWERS, PAIRS, CLASSES, CAPTIONS, RETRIEVAL)
BOS, PAD, EOS = 0, 1, 2
LONGEST = 64
Shapes = Mapping[str, Sequence[int]]


def read_shapes(shapes: Shapes) -> dict[str, Any] | None:
    """The config of an official file, None for another's.  Heads of 64 channels are what was published."""
    patch = shapes.get("beit3.vision_embed.proj.weight")
    if patch is None or "beit3.text_embed.weight" not in shapes:
        return None
    places = shapes["beit3.encoder.embed_positions.A.weight"][0] - FIRST_POSITION - 1
    depth = 1 + max(int(name.split(".")[3]) for name in shapes if name.startswith("beit3.encoder.layers."))
    found: dict[str, Any] = {
        "model_type": "beit3", "img_size": math.isqrt(places) * patch[2], "patch_size": patch[2],
        "encoder_embed_dim": patch[0], "encoder_attention_heads": max(1, patch[0] // 64), "encoder_layers": depth,
        "encoder_ffn_embed_dim": shapes["beit3.encoder.layers.0.ffn.A.fc1.weight"][0],
        "max_source_positions": shapes["beit3.encoder.embed_positions.B.weight"][0],
        "vocab_size": shapes["beit3.text_embed.weight"][0],
    }  # fmt: skip
    heads = {"pooler.dense.weight": (ANSWERS, "head.3.weight"), "head.dense1.weight": (PAIRS, "head.dense2.weight"),
             "fc_norm.weight": (CLASSES, "head.weight"), "mlm_head.weight": (CAPTIONS, "mlm_head.weight"),
             "language_head.weight": (RETRIEVAL, "")}  # fmt: skip
    for name, (kind, last) in heads.items():
        if name in shapes:
            return (
                found | {"kind": kind} | ({"num_labels": shapes[last][0]} if kind not in (CAPTIONS, RETRIEVAL) else {})
            )
    return None


def tower_of(config: Mapping[str, Any], kind: str) -> BEiT3Config:
    plain = kind in (ANSWERS, CLASSES)
    return beit3.parse_config({**config, "normalize_output": not plain}, words=config["vocab_size"], mask_token=True)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `read_shapes` found, or the same dict by hand."""
    kind = config.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"beit-3: kind must be one of {', '.join(KINDS)}; found {kind}")
    tower, vocabulary = tower_of(config, kind), config["vocab_size"]
    model: MultiwayConfig | MultiwayRetrievalConfig
    if kind == RETRIEVAL:
        model = MultiwayRetrievalConfig(tower=tower)
    elif kind == CAPTIONS:
        # The mask stands behind the pieces; nine ids of the published vocabulary of 64010 lie behind it.
        ids = WritingIds(bos=BOS, eos=EOS, mask=config.get("mask_token_id", vocabulary - 9), pad=PAD)
        model = MultiwayConfig(tower=tower, kind="words", outputs=vocabulary, causal=True, writing=ids)
    else:
        model = MultiwayConfig(tower=tower, kind=kind, outputs=config["num_labels"])
    return ModelSpec(
        build=model.build, keys=(keys_of(kind, tower),), parts=drawing(tower, "multiway blocks"),
        assemble=lambda module, files: assemble_multiway(module, files, bos=BOS, eos=EOS, pad=PAD, longest=LONGEST),
        tokenizer=kind != CLASSES, ends=((EOS,), PAD) if kind == CAPTIONS else None,
    )  # fmt: skip


def keys_of(kind: str, tower: BEiT3Config) -> KeyTable:
    """The official names of one kind of file."""
    body = beit3.keys(tower).prefixed("beit3.", "encoder.")
    names = {
        ANSWERS: {"pooler.norm": "pooler.0", "pooler.dense": "pooler.1", "head.0": "head.0", "head.1": "head.1",
                  "head.3": "head.3"},
        PAIRS: {"head.norm1": "norm", "head.dense1": "head.0", "head.norm2": "head.1", "head.dense2": "head.3"},
        CLASSES: {"fc_norm": "norm", "head": "head"},
        CAPTIONS: {"mlm_head": "head"},
        RETRIEVAL: {},
    }[kind]  # fmt: skip
    rows: list[Row] = [row for theirs, ours in names.items() for row in weight_and_bias(theirs, ours)]
    if kind == RETRIEVAL:
        rows += [rename("vision_head.weight", "image_proj.weight"), rename("language_head.weight", "text_proj.weight")]
        rows.append(rename("logit_scale", "logit_scale", Unsqueeze()))
    return body + KeyTable(tuple(rows))
