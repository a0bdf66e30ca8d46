"""4M: any of 7 or 21 modalities from any others, by one masked encoder-decoder over tokens.

    pixels, ids of codecs, words, boxes, vectors -> tables and places -> a random part of all -> encoder
    another part -> decoder -> ids of each modality -> codec -> picture, depth, normals, classes, features, words

Papers: 4M (arXiv 2312.06647), 4M-21 (arXiv 2406.09406).  Code: apple/ml-4m (Apache-2.0); weights under Apple's
sample code licence, EPFL-VILAB on the hub.
Traps: ids of each modality are its own, from 0; RGB is read as pixels (ImageNet's mean and deviation) and as ids, and
written as ids alone; one kind of file is the model, two others are codecs.  Those of ImageBind's features, of normals
and of edges are not listed: they open as the codecs of DINOv2's features and of depth do.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, Repository, System, Variant
from polymodal.systems.fourm import codec
from polymodal.systems.fourm.checkpoint import MODEL, parse_config
from polymodal.systems.fourm.recipe import MORE, RECIPE, WORDS, at_side

LICENSE = "Apple sample code licence (LICENSE_WEIGHTS of apple/ml-4m)"
SEVEN = (*at_side(224), *WORDS)
LARGE = at_side(448)
SIZES = {"b": (768, 12, 12), "l": (1024, 24, 16), "xl": (2048, 24, 32)}


def config(size: str, read: tuple[str, ...], written: tuple[str, ...]) -> dict[str, Any]:
    """The published arguments of a size: gated feed-forward parts, no biases."""
    width, depth, heads = SIZES[size]
    return {
        "domains_in": sorted(read), "domains_out": sorted(written), "dim": width, "encoder_depth": depth,
        "decoder_depth": depth, "num_heads": heads, "mlp_ratio": 4, "qkv_bias": False, "proj_bias": False,
        "mlp_bias": False, "norm_bias": False, "act_layer": "SiLU", "gated_mlp": True, "qk_norm": False,
        "decoder_causal_mask": False, "decoder_sep_mask": True, "num_register_tokens": 0, "image_size": 224,
        "patch_size": 16, "share_modality_embeddings": True,
    }  # fmt: skip


def _variant(name: str, parameters: int, found: dict[str, Any], repository: str, summary: str = "") -> Variant:
    return Variant(name=name, parameters=parameters, config=found, summary=summary,
                   repository=Repository(name=f"EPFL-VILAB/{repository}", license=LICENSE))  # fmt: skip


def _seven(size: str) -> dict[str, Any]:
    return config(size, ("rgb@224", *SEVEN), SEVEN)


def _twenty_one(size: str) -> dict[str, Any]:
    return config(size, ("rgb@224", "t5_caption", *SEVEN, *MORE), (*SEVEN, *MORE))


def _codec(name: str, parameters: int, found: dict[str, Any], repository: str, format: int = 1) -> Variant:
    return Variant(name=f"codec-{name}", parameters=parameters, config=found, format=format,
                   repository=Repository(name=f"EPFL-VILAB/4M_tokenizers_{repository}", license=LICENSE))  # fmt: skip


SYSTEM = System(
    id="fourm",
    aliases=("4M", "4M-7", "4M-21"),
    year=2023,
    fusion=("D",),
    assembly="MaskedModalities",
    inputs=("text", "image", "boxes", "features"),
    outputs=("text", "image", "boxes", "features"),
    headline="any of 21 modalities from any others: pictures, depth, normals, classes, boxes, words, features",
    reference="arXiv 2312.06647 and 2406.09406",
    formats=(
        CheckpointFormat(name="official 4M (FM)", parse_config=parse_config, matches=MODEL),
        CheckpointFormat(name="official codec (VQVAE)", parse_config=codec.parse_config, matches=codec.CODEC),
        CheckpointFormat(
            name="official codec (DiVAE)", parse_config=codec.parse_config, matches=codec.DIFFUSION_CODEC
        ),
    ),
    variants=(
        _variant("7-b", 441_474_048, _seven("b"), "4M-7_B_CC12M"),
        _variant("7-l", 1_029_271_552, _seven("l"), "4M-7_L_CC12M"),
        _variant("7-xl", 3_470_024_704, _seven("xl"), "4M-7_XL_CC12M"),
        _variant("21-b", 834_404_352, _twenty_one("b"), "4M-21_B"),
        _variant("21-l", 1_553_178_624, _twenty_one("l"), "4M-21_L"),
        _variant("21-xl", 4_517_838_848, _twenty_one("xl"), "4M-21_XL"),
        _variant("7-sr-l", 953_321_472, config("l", ("rgb@224", "rgb@448", *SEVEN, *LARGE), LARGE), "4M-7-SR_L_CC12M",
                 "224 to 448 pixels"),
        _codec("semseg", 218_578_848, codec.places(64, 4096, n_labels=134, patch_proj=True), "semseg_4k_224-448"),
        _codec("clip", 180_394_528, codec.places(512, 8192), "CLIP-B16_8k_224-448"),
        _codec("dinov2", 180_788_000, codec.places(768, 8192, patch_size=14), "DINOv2-B14_8k_224-448"),
        _codec("dinov2-global", 115_173_120, codec.alone(768, 8192), "DINOv2-B14-global_8k_16_224"),
        _codec("sam-instance", 172_077_956, codec.places(1, 1024, patch_proj=True, image_size=64, latent_dim=1024,
               post_mlp=False, out_conv=True), "sam-instance_1k_64"),
        _codec("human-poses", 106_683_599, codec.alone(207, 1024), "human-poses_1k_8"),
        _codec("rgb", 286_743_888, codec.diffusion(3, 16_384), "rgb_16k_224-448", 2),
        _codec("depth", 286_203_184, codec.diffusion(1, 8192), "depth_8k_224-448", 2),
        _codec("normal", 286_743_888, codec.diffusion(3, 8192), "normal_8k_224-448", 2),
        _codec("edge", 286_203_184, codec.diffusion(1, 8192, 512), "edge_8k_224-512", 2),
    ),
    recipe=RECIPE,
)  # fmt: skip
