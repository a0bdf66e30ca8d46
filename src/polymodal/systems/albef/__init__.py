"""ALBEF: align picture and text by contrast before a fusion encoder reads them together.

    picture -> squashed to S x S -> DeiT-B/16 [N, 1 + (S/16)^2, 768] -> class token -> vision_proj --+ cosine, shortlist
    text -> BERT blocks 0-5 [B, T, 768] -> [CLS] -> text_proj ---------------------------------------+
         -> BERT blocks 6-11, each with cross-attention to the picture -> [CLS] -> match [B, 2]; masked words; classes
         question -> all 12 blocks -> read by a decoder of 6 blocks that starts at [CLS] -> answer

Paper: ALBEF (arXiv 2107.07651).  Weights: the official .pth files (BSD-3-Clause), no hub; momentum copies and queues in
them belong to the run and are dropped by name.
Traps: `temp` divides; text features are the states after block 5; pairs (NLVR2) have 18 blocks, cross-attention keys
and values shared by two neighbours; heads are 64 wide and not written in any file.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, System, Variant, hf
from polymodal.systems.albef.checkpoint import (
    ANSWER,
    ASSIGNMENT,
    PAIR,
    PRETRAINED,
    RETRIEVAL,
    parse_config,
    read_shapes,
)
from polymodal.systems.albef.recipe import RECIPE


def published(kind: str, side: int, depth: int = 12) -> dict[str, Any]:
    """What `read_shapes` finds in an official file for pictures of `side` pixels."""
    vision = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
              "image_size": side, "patch_size": 16, "layer_norm_eps": 1e-6}  # fmt: skip
    text = {"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": depth, "num_attention_heads": 12,
            "intermediate_size": 3072, "max_position_embeddings": 512, "layer_norm_eps": 1e-12, "type_vocab_size": 2,
            "fusion_layer": 6, "decoder_layers": 6}  # fmt: skip
    return {"model_type": "official-albef", "kind": kind, "joint_width": 256, "text_config": text,
            "vision_config": vision}  # fmt: skip


def _variant(name: str, parameters: int, file: str, config: dict[str, Any]) -> Variant:
    summary = f"storage.googleapis.com/sfr-pcl-data-research/ALBEF/{file}"
    return Variant(name=name, parameters=parameters, config=config, summary=summary)


SYSTEM = System(
    id="albef",
    aliases=("ALBEF", "ALBEF (Align before Fuse)"),
    year=2021,
    fusion=("fusion-encoder",),
    assembly="FusionEncoder",
    inputs=("image", "text"),
    outputs=("match", "similarity", "words", "answer", "class"),
    headline="image-text retrieval where a contrastive stage shortlists and a fusion encoder re-ranks",
    reference="arXiv 2107.07651",
    formats=(
        CheckpointFormat(
            name="official ALBEF",
            matches=hf("official-albef"),
            parse_config=parse_config,
            infer=read_shapes,
            entry=("model", ""),
        ),
    ),
    variants=(
        _variant("pretrained-14m", 209_937_725, "ALBEF.pth", published(PRETRAINED, 256)),
        _variant("mscoco", 209_560_835, "mscoco.pth", published(RETRIEVAL, 384)),
        _variant("vqa", 290_336_058, "vqa.pth", published(ANSWER, 384)),
        _variant("nlvr2", 259_381_250, "(fine-tuned from pretrain_model_nlvr.pth)", published(PAIR, 384, 18)),
        _variant("pretrained-nlvr", 258_939_396, "pretrain_model_nlvr.pth", published(ASSIGNMENT, 256, 18)),
    ),
    recipe=RECIPE,
)
