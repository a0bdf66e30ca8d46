"""VITA's checkpoints: Mixtral's names, `model.vision_tower.*`, `model.mm_projector.*` and `model.audio_encoder.*`.

    config.json of the release (vita-mixtral)         Mixtral's; `mm_vision_tower`, `mm_audio_encoder` name two folders
    config.json of its demonstration (mixtral_multimodal)  {"text_config", "vision_config", "audio_config"}; same names

Traps: the attribute of the sound connector is spelt `adpter`; the sizes of a sound encoder lie in a YAML file of its
own folder, so in the release's config only the released one is known; no placeholder is a token of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from polymodal.backbones import hf_text
from polymodal.backbones.decoder import DecoderConfig
from polymodal.connectors.shuffle_mlp import ShuffleMLPConfig
from polymodal.connectors.strided_conv import StridedConvConfig
from polymodal.data.hf_image import CLIP, transform_of
from polymodal.data.modalities import sequences
from polymodal.data.normalise import IMAGENET_MEAN, IMAGENET_STD
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Words
from polymodal.data.tiles import AspectTiles
from polymodal.encoders import intern_vit, whale
from polymodal.encoders.vit import ViTConfig
from polymodal.encoders.whale import WhaleEncoderConfig
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.vita.processing import END, STATES, Sound, VideoFrames, prepared, sounds, template
from polymodal.weights.keytable import KeyTable

PLACEHOLDERS = {"image": -200, "video": -201, "audio": -500}  # the official code has -200 for both
INPUTS = {
    "image": ModalityInputs(values="pixel_values", connector=("tile_counts",)),
    "video": ModalityInputs(values="video_values", connector=("tile_counts=frame_counts",), uses="image"),
    "audio": ModalityInputs(values="audios", encoder=("lengths=audio_lengths",)),
}
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
          "image_size": 448, "patch_size": 14, "qkv_bias": True, "qk_normalization": False, "norm_type": "layer_norm",
          "layer_norm_eps": 1e-6, "initializer_factor": 1.0}  # fmt: skip
AUDIO = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
         "input_dim": 80, "hidden_act": "relu", "layer_norm_eps": 1e-5, "max_position_embeddings": 5000,
         "concat_after": False, "normalize_before": True, "qk_normalization": False,
         "use_relative_pe": True}  # fmt: skip
AUDIO_DEFAULTS = {**AUDIO, "num_hidden_layers": 48, "num_attention_heads": 25, "layer_norm_eps": 1e-6,
                  "concat_after": True, "qk_normalization": True}  # fmt: skip
"""What the demonstration's configuration class takes for absent keys."""
RELEASED = {"mm_vision_tower": "InternViT-300M-448px",
            "mm_audio_encoder": "audio-encoder-2wh_zh_en_audioset_Mixtral-8x7B_New-base-tunning"}  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config of either kind -> the model; raises ConfigError for options that are not supported."""
    config = nested(config)
    text, text_keys = hf_text.decoder_of({**config["text_config"], "model_type": "mixtral"})
    tower = intern_vit.parse_config(config["vision_config"], config.get("vision_feature_layer", -2))
    heard = encoder_of(config.get("audio_config") or {})
    joined = ShuffleMLPConfig(factor=2, norm=None, scale=0.5)
    spread = StridedConvConfig(kernel=config.get("audio_projector_kernel_size", 5),
                               activation=config.get("audio_projector_hidden_act", "gelu"))  # fmt: skip
    _check(config)
    each = joined.tokens(tower.tokens)

    def build() -> MultimodalLM:
        encoders = {"image": tower.build(), "audio": heard.build()}
        connectors = {"image": joined.build(tower.width, text.width), "audio": spread.build(heard.width, text.width)}
        return MultimodalLM(encoders, connectors, text.build(), PLACEHOLDERS, inputs=INPUTS,
                            positions_ignore_padding=True)  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(eos=END)
        special = all(map(tokenizer.knows, STATES))
        tokenizer = files.tokenizer(eos=END, control=STATES) if special else tokenizer
        modalities = (*_pictures(config, each), _sound(heard, spread))
        processor = Processor(tokenizer=tokenizer, template=template(special), modalities=modalities, rewrite=prepared,
                              max_length=config.get("tokenizer_model_max_length") or text.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = text_keys.prefixed(target="backbone.") + _connector_keys()
    keys += intern_vit.published_keys().prefixed("model.vision_tower.vision_tower.", "encoders.image.")
    keys += whale.published_keys().prefixed("model.audio_encoder.encoder.", "encoders.audio.")
    return ModelSpec(build=build, keys=(keys,), parts=_drawing(tower, heard, text, each), assemble=assemble)


def nested(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The demonstration's config as it is; the release's with the sizes of the folders that it names."""
    if "text_config" in config:
        return config
    for name, released in RELEASED.items():
        if Path(str(config.get(name) or "")).name != released:
            raise ConfigError(f"vita: {name} {config.get(name)!r}: only the sizes of {released} are known; give those "
                              "of another in text_config, vision_config and audio_config")  # fmt: skip
    if (kind := config.get("mm_projector_type", "mlp2x_gelu")) != "mlp2x_gelu":
        raise ConfigError(f"vita: mm_projector_type {kind!r} is not supported; expected mlp2x_gelu")
    if (shape := config.get("image_aspect_ratio") or "square") != "square":
        raise ConfigError(f"vita: image_aspect_ratio {shape!r} is not supported; expected square")
    return {**config, "text_config": config, "vision_config": VISION, "audio_config": AUDIO,
            "vision_feature_layer": -1}  # fmt: skip


def encoder_of(config: Mapping[str, Any]) -> WhaleEncoderConfig:
    """The sound encoder of an `audio_config`; raises ConfigError for options that are not supported."""
    given = {**AUDIO_DEFAULTS, **config}
    wanted = {"concat_after": False, "normalize_before": True, "qk_normalization": False, "use_relative_pe": True}
    for name, value in wanted.items():
        if bool(given[name]) != value:
            raise ConfigError(f"vita: audio_config.{name} {given[name]!r} is not supported; expected {value}")
    return WhaleEncoderConfig(
        width=given["hidden_size"], depth=given["num_hidden_layers"], heads=given["num_attention_heads"],
        ffn_width=given["intermediate_size"], mels=given["input_dim"], positions=given["max_position_embeddings"],
        activation=given["hidden_act"], eps=given["layer_norm_eps"],
    )  # fmt: skip


def _check(config: Mapping[str, Any]) -> None:
    """Raises ConfigError for what the demonstration's code reads and is not supported."""
    wanted = {"projector_hidden_act": "gelu", "vision_feature_select_strategy": "default", "downsample_ratio": 0.5}
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise ConfigError(f"vita: {name} {config[name]!r} is not supported; expected {value!r}")


def _pictures(config: Mapping[str, Any], each: int) -> tuple[Modality, Modality]:
    side: int = {**intern_vit.DEFAULTS, **config["vision_config"]}["image_size"]
    dynamic = bool(config.get("dynamic_image_size", True))
    tiles = AspectTiles(tile=side, min_tiles=config.get("min_dynamic_patch", 1) if dynamic else 1,
                        max_tiles=config.get("max_dynamic_patch", 12) if dynamic else 1,
                        thumbnail=bool(config.get("use_thumbnail", True)))  # fmt: skip
    frame = transform_of({}, {**CLIP, "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side},
                              "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD})  # fmt: skip
    more: dict[str, Any] = {"placeholder": "", "tokens": Tokens(each), "after": (TEXT_START, Words(text="\n"))}
    return (
        Modality(name="image", placeholder_id=PLACEHOLDERS["image"], transform=tiles,
                 collate=sequences("pixel_values", "tile_counts"), **more),
        Modality(name="video", placeholder_id=PLACEHOLDERS["video"], transform=VideoFrames(transform=frame),
                 collate=sequences("video_values", "frame_counts"), **more),
    )  # fmt: skip


def _sound(heard: WhaleEncoderConfig, spread: StridedConvConfig) -> Modality:
    return Modality(name="audio", placeholder="", placeholder_id=PLACEHOLDERS["audio"], after=(TEXT_START,),
                    transform=Sound(mels=heard.mels, positions=heard.positions), tokens=SoundTokens(spread),
                    collate=sounds)  # fmt: skip


class Tokens:
    """So many tokens for each tile or frame of an item."""

    def __init__(self, each: int) -> None:
        self.each = each

    def __call__(self, values: Any) -> int:
        return len(values) * self.each


class SoundTokens:
    """The tokens of filter banks [frames, mels]."""

    def __init__(self, connector: StridedConvConfig) -> None:
        self.connector = connector

    def __call__(self, values: Any) -> int:
        return self.connector.tokens(whale.features_of(len(values)))


def _connector_keys() -> KeyTable:
    linears = {"mm_projector.0": "image.up_proj", "mm_projector.2": "image.down_proj",
               "audio_encoder.adpter.conv1d2": "audio.conv", "audio_encoder.adpter.bn2": "audio.norm",
               "audio_encoder.adpter.project": "audio.out_proj"}  # fmt: skip
    return KeyTable.of({f"model.{theirs}.{leaf}": f"connectors.{ours}.{leaf}"
                        for theirs, ours in linears.items() for leaf in ("weight", "bias")})  # fmt: skip


def _drawing(tower: ViTConfig, heard: WhaleEncoderConfig, text: DecoderConfig, each: int) -> tuple[Part, ...]:
    side, seen, sound = tower.image_size, f"[tiles, {tower.tokens}, {tower.width}]", f"[S, {heard.width}]"
    return (
        Part(slot="encoder", modality="image", name="InternViT", prefix="encoders.image",
             input=f"[tiles, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
        Part(slot="connector", modality="image", name="2 x 2 neighbours joined, MLP", prefix="connectors.image",
             input=seen, output=f"N of [tiles * {each}, {text.width}]", tokens=each),
        Part(slot="encoder", modality="audio", name="Whale, filter banks", prefix="encoders.audio",
             input=f"[N, 4 S, {heard.mels}]", output=f"N of {sound}"),
        Part(slot="connector", modality="audio", name="convolution over two neighbours, linear",
             prefix="connectors.audio", input=f"N of {sound}", output=f"N of [S / 2, {text.width}]"),
        Part(slot="backbone", name="Mixtral", prefix="backbone", input=f"[B, T, {text.width}]", output="[B, T, V]"),
    )  # fmt: skip
