"""Unified-IO: answers, boxes, joints and pictures from a picture and words, by one encoder-decoder over one vocabulary.

Paper: Unified-IO (arXiv 2206.08916).  Code: allenai/unified-io-inference (Apache-2.0).

    picture -> 384 x 384, 576 raw patches -> one linear [N, 576, D]
    prompt </s>, patches -> T5's encoder, with a bias for places           (D: 33,152 words and locations, 16,384 codes)
    -> decoder -> words | <extra_id_100> ... <extra_id_1099>, places in thousandths | 256 codes -> VQGAN -> 256 x 256

Traps: patches of the border are not seen; a small model's heads are narrower together than it is wide; two linears of
the files do nothing (flax_names.py); the vocabulary is t5-base's with 1100 in place of 100 sentinels.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.unified_io.checkpoint import infer, parse_config
from polymodal.systems.unified_io.recipe import RECIPE

URL = "https://ai2-prior-uio.s3.us-west-2.amazonaws.com/public/model-weights-bin"


def _size(name: str, parameters: int, width: int, depth: int, heads: int, ffn: int, segments: int = 2) -> Variant:
    config: dict[str, Any] = {"model_type": "unified-io", "emb_dim": width, "num_heads": heads, "mlp_dim": ffn,
              "num_encoder_layers": depth, "num_decoder_layers": depth, "num_seg_emb": segments}  # fmt: skip
    repository = Repository(name=f"{URL}/{name}_1000k.bin", kind="official", license="Apache-2.0")
    return Variant(name=name, parameters=parameters, config=config, repository=repository)


SYSTEM = System(
    id="unified-io",
    aliases=("Unified-IO", "UnifiedIO"),
    year=2022,
    fusion=("D",),
    assembly="UnifiedIO",
    inputs=("text", "image"),
    outputs=("text", "image"),
    headline="answers, finds, describes and draws, 95 tasks by one model over words, places and codes of pictures",
    reference="arXiv 2206.08916",
    formats=(
        CheckpointFormat(name="Flax parameters of Unified-IO", parse_config=parse_config, matches=hf("unified-io"),
                         infer=infer),
    ),
    variants=(
        _size("base", 317_520_771, 768, 12, 12, 2048),
        _size("small", 147_767_043, 512, 8, 6, 1024),
        _size("large", 852_622_211, 1024, 24, 16, 2816),
        _size("xl", 2_925_235_075, 2048, 24, 32, 5120, 8),
    ),
    recipe=RECIPE,
)  # fmt: skip
