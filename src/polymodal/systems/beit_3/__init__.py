"""BEiT-3: one multiway transformer as encoder of pictures, of texts, of both, as two encoders, and as captioner.

    picture -> 16 x 16 patches, class token, positions --+-> blocks whose weights are of pictures (A) or of words (B),
    text -> <s> pieces </s>, positions ------------------+   whose attention is of all -> states [B, P + T, D]
    -> class token of the picture -> norm, dense, tanh -> 3129 answers;  both class tokens of two pictures -> 2 classes
    -> words at a [MASK] behind those so far -> captions;   picture and text apart -> cosines

Paper: BEiT-3 (arXiv 2208.10442).  Code and weights: microsoft/unilm, folder beit3 (MIT), the .pth files of its README.
Traps: positions are read from row 2; answers and classes have no norm behind the last block; every projection has two
more norms inside (Magneto); captions are written without a shift.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, System, Variant, hf
from polymodal.systems.beit_3.checkpoint import (
    ANSWERS,
    CAPTIONS,
    CLASSES,
    PAIRS,
    RETRIEVAL,
    parse_config,
    read_shapes,
)
from polymodal.systems.beit_3.recipe import RECIPE


def published(kind: str, side: int, large: bool = False, **more: Any) -> dict[str, Any]:
    """What `read_shapes` finds in an official file for pictures of `side` pixels."""
    return {
        "model_type": "beit3", "img_size": side, "patch_size": 16, "encoder_embed_dim": 1024 if large else 768,
        "encoder_attention_heads": 16 if large else 12, "encoder_layers": 24 if large else 12,
        "encoder_ffn_embed_dim": 4096 if large else 3072, "max_source_positions": 1024, "vocab_size": 64010,
        "kind": kind, **more,
    }  # fmt: skip


def _variant(name: str, parameters: int, file: str, *config: Any, **more: Any) -> Variant:
    summary = f"github.com/addf400/files, release beit3: beit3_{file}.pth"
    return Variant(name=name, parameters=parameters, config=published(*config, **more), summary=summary)


SYSTEM = System(
    id="beit-3",
    aliases=("BEiT-3", "BEiT-3 (Image as a Foreign Language)", "BEIT-3", "BEiT3"),
    year=2022,
    fusion=("fusion-encoder",),
    assembly="Multiway",
    inputs=("image", "text"),
    outputs=("answer", "class", "words", "similarity", "embedding"),
    headline="one multiway transformer is image encoder, text encoder, fusion encoder, dual encoder and captioner",
    reference="arXiv 2208.10442",
    formats=(
        CheckpointFormat(
            name="official BEiT-3", matches=hf("beit3"), parse_config=parse_config, infer=read_shapes,
            entry=("model", ""),
        ),
    ),
    variants=(
        _variant("base-vqa", 228_110_649, "base_patch16_480_vqa", ANSWERS, 480, num_labels=3129),
        _variant("large-vqa", 682_985_529, "large_patch16_480_vqa", ANSWERS, 480, True, num_labels=3129),
        _variant("base-nlvr2", 225_719_810, "base_patch16_224_nlvr2", PAIRS, 224, num_labels=2),
        _variant("large-nlvr2", 681_109_506, "large_patch16_224_nlvr2", PAIRS, 224, True, num_labels=2),
        _variant("base-captioning", 270_751_754, "base_patch16_480_coco_captioning", CAPTIONS, 480),
        _variant("large-captioning", 739_033_610, "large_patch16_480_coco_captioning", CAPTIONS, 480, True),
        _variant("base-retrieval", 222_458_881, "base_patch16_384_coco_retrieval", RETRIEVAL, 384),
        _variant("large-retrieval", 675_188_737, "large_patch16_384_coco_retrieval", RETRIEVAL, 384, True),
        _variant("base-itc", 222_167_041, "base_itc_patch16_224", RETRIEVAL, 224),
        _variant("base-in1k", 221_754_856, "base_patch16_224_in1k", CLASSES, 224, num_labels=1000),
        _variant("large-in1k", 673_725_416, "large_patch16_224_in1k", CLASSES, 224, True, num_labels=1000),
    ),
    recipe=RECIPE,
)  # fmt: skip
