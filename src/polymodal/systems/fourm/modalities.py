"""The modalities of 4M by their published names, and what a config may say of one's own.

    "rgb@224" pixels   "tok_*@224" ids of a codec   "caption", "det", ... ids of words   "t5_caption" vectors
Traps: a name after `@` is its side in pixels; grids of global features have learned places and the model's own side;
`human_poses` has room for 263 tokens though 275 may come, and those beyond have the first place when written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.encoders.modality_embeddings import ModalityConfig
from polymodal.errors import ConfigError

WORDS = 30_000
SEQUENCES = {"caption": 256, "det": 256, "metadata": 40, "human_poses": 263, "color_palette": 23, "sam_instance": 290}
MAX_TOKENS = {**SEQUENCES, "human_poses": 275, "t5_caption": 77}
CODES = {"rgb": 16_384, "depth": 8192, "normal": 8192, "semseg": 4096, "clip": 8192, "canny_edge": 8192,
         "sam_edge": 8192, "dinov2": 8192, "imagebind": 8192}  # fmt: skip
GLOBAL = ("tok_dinov2_global", "tok_imagebind_global")
LARGE = ("rgb", "depth", "normal", "semseg", "clip")  # that are there at 448 pixels, too


def published() -> dict[str, dict[str, Any]]:
    """Every published modality, as a config says one's own."""
    found: dict[str, dict[str, Any]] = {}
    for name, longest in SEQUENCES.items():
        found[name] = {"type": "seq", "vocab_size": WORDS, "max_length": longest}
    found["t5_caption"] = {"type": "seq_emb", "max_length": 77, "orig_emb_dim": 4096}
    for name, codes in CODES.items():
        patch = 14 if name in ("dinov2", "imagebind") else 16
        for side in (224, 448) if name in LARGE else (224,):
            found[f"tok_{name}@{side}"] = {"type": "img", "vocab_size": codes, "patch_size": patch, "input_size": side}
    for side in (224, 448):
        found[f"rgb@{side}"] = {"type": "img", "num_channels": 3, "patch_size": 16, "input_size": side}
    for name in GLOBAL:
        found[name] = {"type": "img", "vocab_size": 8192, "patch_size": 56, "sincos_pos_emb": False}
    return found


PUBLISHED = published()
FIELDS = frozenset({"type", "vocab_size", "max_length", "max_tokens", "orig_emb_dim", "num_channels", "patch_size",
                    "input_size", "sincos_pos_emb"})  # fmt: skip


def modality(name: str, config: Mapping[str, Any]) -> ModalityConfig:
    """A modality of a model.  config: the model's, whose `modality_info` may add some or change published ones.

    Raises ConfigError for a name that neither knows, a field that is not known or a grid that is not whole.
    """
    own = (config.get("modality_info") or {}).get(name, {})
    info = {**PUBLISHED.get(name, {}), **own}
    if not info:
        raise ConfigError(f"fourm: modality {name!r} is not one of {', '.join(PUBLISHED)}; say what it is in the "
                          "config's modality_info")  # fmt: skip
    if unknown := sorted(set(info) - FIELDS):
        raise ConfigError(f"fourm: modality_info of {name} has {unknown[0]!r}; known: {', '.join(sorted(FIELDS))}")
    if info["type"] == "seq":
        return ModalityConfig(kind="sequence", vocab_size=info["vocab_size"], longest=info["max_length"],
                              learned=not info.get("sincos_pos_emb", True))  # fmt: skip
    if info["type"] == "seq_emb":
        return ModalityConfig(kind="vectors", channels=info.get("orig_emb_dim", 4096), longest=info["max_length"],
                              learned=not info.get("sincos_pos_emb", True))  # fmt: skip
    if info["type"] != "img":
        raise ConfigError(f"fourm: type of modality {name} is seq, seq_emb or img, found {info['type']!r}")
    side, patch = info.get("input_size", config["image_size"]), info.get("patch_size", config["patch_size"])
    if patch < 1 or side < patch or side % patch:
        raise ConfigError(f"fourm: modality {name} has {side} pixels, which patches of {patch} do not fill")
    codes = info.get("vocab_size", 0)
    return ModalityConfig(
        kind="grid" if codes else "pixels", vocab_size=codes, grid=(side // patch, side // patch), patch=patch,
        channels=info.get("num_channels", 3), learned=not info.get("sincos_pos_emb", True),
    )  # fmt: skip
