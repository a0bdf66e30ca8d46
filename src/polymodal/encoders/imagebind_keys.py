"""ImageBind configs and key tables: parses the official constructor's arguments or a state dict for `imagebind.py`.

Paper: ImageBind (arXiv 2305.05665); facebookresearch/ImageBind, file imagebind_huge.pth.

    config: the arguments of ImageBindModel ("vision_embed_dim", ...) -> parse_config -> encoders by modality
    keys(): modality_{preprocessors,trunks,heads,postprocessors}.<modality>.* -> encoders.<modality>.*
    infer(shapes): the config of a state dict

Traps: the defaults are NOT the published model (HUGE is); no tensor shows the number of heads, so `infer` uses the
constructor's defaults; the scales of audio, depth, thermal and IMU are stored as buffers, that of text as a parameter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polymodal.encoders.clip_text import ClipTextConfig
from polymodal.encoders.imagebind import (
    ExtraKeyAttentionConfig,
    ImageBindClips,
    ImageBindEncoderConfig,
    ImageBindTokens,
    PlaneStemConfig,
    ScaledNormalize,
    SeriesStemConfig,
    StemConfig,
    VideoStemConfig,
)
from polymodal.encoders.vit import ViTBlockConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename, split
from polymodal.weights.operations import Squeeze, Unsqueeze

MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")
INPUT_SHAPES = {"vision": "[N, 3, 224, 224] or [N, clips, 3, 2, 224, 224]", "text": "[N, 77]",
         "audio": "[N, clips, 1, 128, 204]", "depth": "[N, 1, 224, 224]", "thermal": "[N, 1, 224, 224]",
         "imu": "[N, 6, 2000]"}  # fmt: skip
"""Shapes of the published inputs."""
SCALES = {"text": 1 / 0.07, "audio": 20.0, "depth": 5.0, "thermal": 10.0, "imu": 5.0}
"""Scale after L2 normalisation; images have none."""

DEFAULTS: dict[str, Any] = {
    "video_frames": 2, "kernel_size": (2, 14, 14), "out_embed_dim": 768,
    "vision_embed_dim": 1024, "vision_num_blocks": 24, "vision_num_heads": 16,
    "text_embed_dim": 768, "text_num_blocks": 12, "text_num_heads": 12,
    "audio_kernel_size": 16, "audio_stride": 10, "audio_embed_dim": 768, "audio_num_blocks": 12, "audio_num_heads": 12,
    "audio_num_mel_bins": 128, "audio_target_len": 204, "audio_drop_path": 0.1,
    "depth_embed_dim": 384, "depth_kernel_size": 16, "depth_num_blocks": 12, "depth_num_heads": 8,
    "depth_drop_path": 0.0, "thermal_embed_dim": 768, "thermal_kernel_size": 16, "thermal_num_blocks": 12,
    "thermal_num_heads": 12, "thermal_drop_path": 0.0,
    "imu_embed_dim": 512, "imu_kernel_size": 8, "imu_num_blocks": 6, "imu_num_heads": 8, "imu_drop_path": 0.7,
}  # fmt: skip
"""The official constructor's arguments and their defaults."""

HUGE: dict[str, Any] = {
    "vision_embed_dim": 1280, "vision_num_blocks": 32, "vision_num_heads": 16,
    "text_embed_dim": 1024, "text_num_blocks": 24, "text_num_heads": 16,
    "out_embed_dim": 1024, "audio_drop_path": 0.1, "imu_drop_path": 0.7,
}  # fmt: skip
"""imagebind_huge, the only published size."""

_EPS = LayerNormConfig(eps=1e-6)
_STEM_EPS = LayerNormConfig(eps=1e-5)


def parse_config(config: Mapping[str, Any]) -> dict[str, ImageBindEncoderConfig | ClipTextConfig]:
    """Encoders by official modality name.

    Raises ConfigError for arguments that the constructor does not have, and for sizes that it does not support: the
    IMU kernel must be 8 and image patches square over two frames.
    """
    if unknown := set(config) - set(DEFAULTS) - {"model_type", "architectures"}:
        raise ConfigError(f"imagebind: unknown options {sorted(unknown)}; expected the arguments of ImageBindModel")
    options = {**DEFAULTS, **config}
    frames, patch, patch_width = options["kernel_size"]
    if patch != patch_width or frames != 2 or options["video_frames"] != 2 or options["imu_kernel_size"] != 8:
        raise ConfigError(
            "imagebind: expected kernel_size (2, p, p), video_frames 2 and imu_kernel_size 8, found "
            f"{options['kernel_size']}, {options['video_frames']}, {options['imu_kernel_size']}"
        )
    width = {name: options[f"{name}_embed_dim"] for name in MODALITIES}
    spectrogram = (options["audio_num_mel_bins"], options["audio_target_len"])
    stems: dict[str, StemConfig] = {
        "vision": VideoStemConfig(width=width["vision"], patch=patch),
        "audio": PlaneStemConfig(
            width=width["audio"],
            size=spectrogram,
            patch=options["audio_kernel_size"],
            stride=options["audio_stride"],
            norm=_STEM_EPS,
        ),
        "imu": SeriesStemConfig(width=width["imu"], norm=_STEM_EPS),
    }
    for name in ("depth", "thermal"):
        patch = options[f"{name}_kernel_size"]
        stems[name] = PlaneStemConfig(width=width[name], patch=patch, stride=patch, norm=_STEM_EPS)
    encoders: dict[str, ImageBindEncoderConfig | ClipTextConfig] = {}
    for name in MODALITIES:
        blocks = (_block(width[name], options[f"{name}_num_heads"], name),) * options[f"{name}_num_blocks"]
        if name == "text":
            encoders[name] = ClipTextConfig(
                vocab_size=49408, width=width[name], blocks=blocks, norm=_EPS, out_width=options["out_embed_dim"]
            )
        else:
            encoders[name] = ImageBindEncoderConfig(
                stem=stems[name],
                blocks=blocks,
                norm=_EPS,
                out_width=options["out_embed_dim"],
                pre_norm=name == "vision",
            )
    return encoders


def _block(width: int, heads: int, modality: str) -> ViTBlockConfig:
    plain = modality in ("vision", "text")
    return ViTBlockConfig(
        attention=AttentionConfig(width=width, heads=heads, qkv_bias=True, out_bias=True)
        if plain
        else ExtraKeyAttentionConfig(width=width, heads=heads),
        mlp=MLPConfig(width=width, ffn_width=4 * width, activation="gelu"),
        norm=_EPS,
    )


def imagebind(config: Mapping[str, Any], modality: str, scaled: bool = True) -> ImageBindClips:
    """The encoder of one modality: values -> vectors [N, E].  scaled False: unit vectors, as some systems use audio."""
    scale = ScaledNormalize(SCALES[modality], learned=modality == "text") if scaled and modality in SCALES else None
    return ImageBindClips(parse_config(config)[modality].build(), scale)


def imagebind_tokens(config: Mapping[str, Any], modality: str) -> ImageBindTokens:
    """The encoder of one signal for its tokens, as BuboGPT hears: [N, clips, ...] -> [N, 1 + P, D]."""
    found = parse_config(config)[modality]
    assert isinstance(found, ImageBindEncoderConfig)
    return ImageBindTokens(replace(found, out_width=None).build(), ScaledNormalize(SCALES[modality]))


def _pair(source: str, target: str) -> list[Row]:
    return [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias")]


def _trunk(modality: str) -> list[Row]:
    source, projections = f"modality_trunks.{modality}.blocks.{{}}", [f"blocks.{{}}.attn.{x}_proj" for x in "qkv"]
    rows = [
        split(f"{source}.attn.in_proj_{leaf}", [f"{name}.{leaf}" for name in projections])
        for leaf in ("weight", "bias")
    ]
    rows += _pair(f"{source}.attn.out_proj", "blocks.{}.attn.o_proj")
    for name in ("key", "value"):
        rows.append(rename(f"{source}.attn.bias_{name[0]}", f"blocks.{{}}.attn.extra_{name}", Squeeze(0), Squeeze(0)))
    rows += _pair(f"{source}.norm_1", "blocks.{}.attn_norm") + _pair(f"{source}.norm_2", "blocks.{}.mlp_norm")
    return (
        rows
        + _pair(f"{source}.mlp.fc1", "blocks.{}.mlp.up_proj")
        + _pair(f"{source}.mlp.fc2", "blocks.{}.mlp.down_proj")
    )


def _text() -> list[Row]:
    source = "modality_preprocessors.text"
    head = "modality_heads.text.proj"
    return [
        rename(f"{source}.token_embedding.weight", "embed_tokens.weight"),
        rename(f"{source}.pos_embed", "positions", Squeeze(0)),
        drop(f"{source}.mask"),
        *_pair(f"{head}.0", "final_norm"),
        rename(f"{head}.1.weight", "proj.weight"),
    ]


_STEMS = {
    "vision": "rgbt_stem.proj.1", "audio": "rgbt_stem.proj", "depth": "depth_stem.proj", "thermal": "rgbt_stem.proj",
    "imu": "imu_stem.proj",
}  # fmt: skip


def _signal(modality: str) -> list[Row]:
    source, head = f"modality_preprocessors.{modality}", f"modality_heads.{modality}"
    stem = _STEMS[modality]
    positions = "pos_embed" if modality == "imu" else "pos_embedding_helper.pos_embed"
    return [
        rename(f"{source}.cls_token", "class_token", Squeeze(0), Squeeze(0)),
        rename(f"{source}.{positions}", "positions", Squeeze(0)),
        rename(f"{source}.{stem}.weight", "stem.proj.weight"),
        *_pair(f"{source}.{stem.partition('.')[0]}.norm_layer", "stem.norm"),
        *_pair(f"modality_trunks.{modality}.pre_transformer_layer.0", "pre_norm"),
        *_pair(f"{head}.0", "final_norm"),
        rename(f"{head}.{3 if modality == 'imu' else 2}.weight", "proj.weight"),
    ]


def keys(modality: str, scaled: bool = True) -> KeyTable:
    """Official names of one modality -> those of its `ImageBindClips`."""
    rows = _trunk(modality) + (_text() if modality == "text" else _signal(modality))
    table = KeyTable(tuple(rows)).prefixed(target="encoder.")
    log_scale = f"modality_postprocessors.{modality}.1.log_logit_scale"
    return table + KeyTable((rename(log_scale, "scale.log_scale", Unsqueeze()) if scaled else drop(log_scale),))


def token_keys(modality: str) -> KeyTable:
    """Official names of one signal -> those of its `ImageBindTokens`; the head is dropped by name."""
    rows = [row for row in _trunk(modality) + _signal(modality) if not row.sources[0].startswith("modality_heads")]
    scale = rename(f"modality_postprocessors.{modality}.1.log_logit_scale", "scale.log_scale", Unsqueeze())
    head = drop(f"modality_heads.{modality}.**")
    return KeyTable(tuple(rows)).prefixed(target="encoder.") + KeyTable((scale, head))


def unused(modality: str) -> KeyTable:
    """Rows that drop a modality's tensors by name."""
    parts = ("preprocessors", "trunks", "heads", "postprocessors")
    return KeyTable(tuple(drop(f"modality_{part}.{modality}.**") for part in parts))


def infer(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of an official state dict, inferred from its shapes; None for any other file."""
    if not all(f"modality_trunks.{name}.blocks.0.norm_1.weight" in shapes for name in MODALITIES):
        return None
    config: dict[str, Any] = {"out_embed_dim": shapes["modality_heads.vision.2.weight"][0]}
    for name in MODALITIES:
        prefix = f"modality_trunks.{name}.blocks."
        config[f"{name}_embed_dim"] = shapes[f"{prefix}0.norm_1.weight"][0]
        config[f"{name}_num_blocks"] = 1 + max(
            int(key[len(prefix) :].split(".")[0]) for key in shapes if key.startswith(prefix)
        )
        if name in ("audio", "depth", "thermal"):
            config[f"{name}_kernel_size"] = shapes[f"modality_preprocessors.{name}.{_STEMS[name]}.weight"][-1]
    config["kernel_size"] = tuple(shapes["modality_preprocessors.vision.rgbt_stem.proj.1.weight"][2:])
    if config["text_embed_dim"] == HUGE["text_embed_dim"]:
        config["text_num_heads"] = HUGE["text_num_heads"]
    return config
