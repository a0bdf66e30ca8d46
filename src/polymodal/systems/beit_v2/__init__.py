"""BEiT v2: masked patches named by codes that were distilled from CLIP, and a class token that must know the picture.

    picture -> VQ-KD: ViT -> 32 numbers a patch, unit length -> nearest of 8192 codes
    picture, 75 of 196 patches hidden -> BEiT -> norm -> linear -> codes;  early patches + last class token -> 2 more
    blocks -> the same norm and linear -> codes again

Paper: BEiT v2 (arXiv 2208.06366).  Code and weights: microsoft/unilm, folder beit2 (MIT), the .pth files of its pages.
Traps: the masked model sees ImageNet's mean and deviation, the tokenizer -1 .. 1; codes are compared at unit length;
files fine-tuned to classes have BEiT's own names and open as `beit`.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, System, Variant, hf
from polymodal.systems.beit_v2.checkpoint import (
    MASKED,
    TOKENIZER,
    parse_masked_config,
    parse_tokenizer_config,
    read_masked,
    read_tokenizer,
)
from polymodal.systems.beit_v2.recipe import RECIPE

RELEASE = "github.com/addf400/files, release BEiT-v2"


def masked(large: bool = False) -> dict[str, Any]:
    """What `read_masked` finds in an official file."""
    return {
        "model_type": MASKED, "hidden_size": 1024 if large else 768, "num_channels": 3, "patch_size": 16,
        "image_size": 224, "num_hidden_layers": 24 if large else 12, "num_attention_heads": 16 if large else 12,
        "intermediate_size": 4096 if large else 3072, "vocab_size": 8192, "early_layers": 21 if large else 9,
        "head_layers": 2,
    }  # fmt: skip


def tokenizer(decoder_layers: int, outputs: int) -> dict[str, Any]:
    """What `read_tokenizer` finds in an official file."""
    return {
        "model_type": TOKENIZER, "hidden_size": 768, "num_channels": 3, "patch_size": 16, "image_size": 224,
        "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "codes": 8192,
        "code_width": 32, "decoder_hidden_size": 768, "decoder_layers": decoder_layers, "decoder_heads": 12,
        "outputs": outputs, "decoder_intermediate_size": 3072,
    }  # fmt: skip


def _variant(name: str, parameters: int, config: dict[str, Any], file: str, format: int) -> Variant:
    file = f"vqkd_encoder_base_decoder_{file}" if format else f"beitv2_{file}"
    return Variant(name=name, parameters=parameters, config=config, format=format, summary=f"{RELEASE}: {file}.pth")


SYSTEM = System(
    id="beit-v2",
    aliases=("BEiT v2", "BEiT v2 (with VQ-KD tokenizer)", "BEiT V2"),
    year=2022,
    fusion=(),
    assembly="ClassTokenPretraining",
    inputs=("image",),
    outputs=("visual words",),
    headline="names masked patches by the codes of a semantic codebook that was distilled from CLIP (VQ-KD)",
    reference="arXiv 2208.06366",
    formats=(
        CheckpointFormat(
            name="official BEiT v2 (.pth)", parse_config=parse_masked_config, infer=read_masked, entry=("model", ""),
            matches=hf(MASKED),
        ),
        CheckpointFormat(
            name="official VQ-KD (.pth)", parse_config=parse_tokenizer_config, infer=read_tokenizer,
            entry=("model", "state_dict", ""), matches=hf(TOKENIZER),
        ),
    ),
    variants=(
        _variant("base", 106_143_056, masked(), "base_patch16_224_pt1k", 0),
        _variant("large", 336_728_512, masked(True), "large_patch16_224_pt1k", 0),
        _variant("vqkd-3x768x12-clip", 109_361_696, tokenizer(3, 512), "3x768x12_clip-d5036aa7", 1),
        _variant("vqkd-1x768x12-clip", 95_187_488, tokenizer(1, 512), "1x768x12_clip-d93179da", 1),
        _variant("vqkd-1x768x12-dino", 95_384_352, tokenizer(1, 768), "1x768x12_dino-663c55d7", 1),
    ),
    recipe=RECIPE,
)  # fmt: skip
