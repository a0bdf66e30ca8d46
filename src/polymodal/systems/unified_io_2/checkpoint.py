"""Unified-IO 2's checkpoints: the config of the published torch port, its parts, its words and its processor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.backbones.encoder_decoder import StackConfig
from polymodal.backbones.unified_io_2 import (
    Kind,
    PlacedBlockConfig,
    PlacedStackConfig,
    RotatedSourceConfig,
    UnifiedIO2Config,
)
from polymodal.connectors.history_resampler import HistoryResamplerConfig
from polymodal.connectors.linear import LinearConnectorConfig
from polymodal.encoders.patch_vit import PatchViTConfig
from polymodal.errors import ConfigError
from polymodal.generators.conv_stack import official_stack
from polymodal.generators.vit_vq_codec import ViTSideConfig, ViTVQCodecConfig
from polymodal.generators.vq_codec import VQCodecConfig
from polymodal.models.unified_io_2 import END, Tables, UnifiedIO2
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.norm import RMSNormConfig
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.unified_io_2.names import (
    backbone_keys,
    picture_codec_keys,
    resampler_keys,
    sound_codec_keys,
    vit_keys,
)
from polymodal.systems.unified_io_2.processing import assembled
from polymodal.systems.unified_io_2.vocoder import box
from polymodal.weights.keytable import KeyTable

T5 = {"vocab_size": 33280, "image_vocab_size": 16512, "audio_vocab_size": 8320, "emb_dim": 512, "num_heads": 8,
      "num_encoder_layers": 6, "num_decoder_layers": 6, "head_dim": 64, "mlp_dim": 2048, "image_vit_patch_size": 16,
      "audio_vit_patch_size": 16, "encoder_max_image_length": 576, "encoder_max_text_length": 512,
      "decoder_max_image_length": 1024, "decoder_max_text_length": 512, "default_image_size": (256, 256),
      "default_image_vit_size": (384, 384), "default_image_history_vit_size": (256, 256),
      "default_audio_size": (256, 128), "default_audio_vit_size": (256, 128),
      "default_audio_history_vit_size": (256, 128)}  # fmt: skip
VQGAN = {"embed_dim": 4, "n_embed": 16384, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
         "ch_mult": (1, 2, 2, 4), "num_res_blocks": 2, "attn_resolutions": (32,),
         "default_input_size": (256, 256), "patch_size": (8, 8)}  # fmt: skip
SOUND = {"vocab_size": 8192, "proj_dim": 32, "encoder_hidden_size": 512, "encoder_num_layers": 8,
         "encoder_mlp_dim": 2048, "encoder_num_heads": 8, "decoder_hidden_size": 512, "decoder_num_layers": 8,
         "decoder_mlp_dim": 2048, "decoder_num_heads": 8, "act_fn": "relu", "default_input_size": (128, 256),
         "patch_size": (8, 8)}  # fmt: skip
VIT = {"patch_size": 16, "emb_dim": 768, "num_heads": 12, "num_layers": 11, "mlp_dim": 3072, "num_pos": 197}
RESAMPLER = {"max_frames": 8, "latents_size": 32, "emb_dim": 768, "num_heads": 12, "num_layers": 2,
             "xattention_index": (0, 1), "mlp_dim": 2048, "xattn_scaled_cosine": False,
             "xattn_qk_norm": True}  # fmt: skip
FIXED: dict[str, Any] = {
    "mlp_activations": ["silu", "linear"], "logits_via_embedding": True, "qk_norm": True, "text_pos_emb": "llama_rope",
    "image_pos_emb": "llama_rope", "audio_pos_emb": "llama_rope", "image_history_pos_emb": "llama_rope",
    "audio_history_pos_emb": "llama_rope", "decoder_xattention_internval": 1, "image_tokenizer_type": "vqgan",
}  # fmt: skip
SONG_POSITIONS = 514  # of AST: two tokens in front and the longest spectrogram


def section(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """One table of a config, with the port's defaults."""
    return {**defaults, **(config.get(name) or {})}


def grid_of(size: Any, patch: int) -> tuple[int, int]:
    """Rows and columns of patches."""
    return size[0] // patch, size[1] // patch


def backbone_of(config: Mapping[str, Any]) -> UnifiedIO2Config:
    """The encoder-decoder; raises ConfigError for options that are not supported."""
    t = section(config, "t5_config", T5)
    for name, value in FIXED.items():
        if name in t and (list(t[name]) if isinstance(value, list) else t[name]) != value:
            raise ConfigError(
                f"unified-io-2: t5_config.{name}: only {value!r} is supported, found {str(t[name])[:40]!r}"
            )
    width, heads, norm = t["emb_dim"], t["num_heads"], RMSNormConfig()
    if width != heads * t["head_dim"] or t["head_dim"] % 4:
        raise ConfigError(f"unified-io-2: t5_config: expected emb_dim = num_heads x head_dim, which 4 divides; found "
                          f"{width}, {heads} and {t['head_dim']}")  # fmt: skip
    common: dict[str, Any] = {"width": width, "heads": heads, "q_norm": norm, "k_norm": norm}
    attention = AttentionConfig(interleaved=True, **common)
    mlp = GatedMLPConfig(width=width, ffn_width=t["mlp_dim"])
    reads = PlacedBlockConfig(attention=attention, mlp=mlp, norm=norm)
    writes = PlacedBlockConfig(attention=attention, mlp=mlp, norm=norm,
                               cross=RotatedSourceConfig(source_width=width, **common))  # fmt: skip
    encoder: StackConfig = PlacedStackConfig(blocks=(reads,) * t["num_encoder_layers"], norm=norm)
    decoder: StackConfig = PlacedStackConfig(blocks=(writes,) * t["num_decoder_layers"], norm=norm)
    kinds = encoder_kinds(config)
    return UnifiedIO2Config(
        vocab_size=t["vocab_size"] + t["image_vocab_size"] + t["audio_vocab_size"], width=width, encoder=encoder,
        decoder=decoder, tied=True, head_scale=width**-0.5, encoder_kinds=kinds, decoder_kinds=decoder_kinds(config),
        max_length=sum(each.count for each in kinds) + t["decoder_max_text_length"],
    )  # fmt: skip


def encoder_kinds(config: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Words, a picture, earlier ones, sound, earlier ones.  Rows of the first grids are stretched."""
    t = section(config, "t5_config", T5)
    stretch = math.sqrt(t["decoder_max_image_length"] / t["encoder_max_image_length"])
    image = grid_of(t["default_image_vit_size"], t["image_vit_patch_size"])
    audio = grid_of(t["default_audio_vit_size"], t["audio_vit_patch_size"])
    history = {name: section(config, f"{name}_cfg", RESAMPLER | ({"latents_size": 16} if name[0] == "a" else {}))
               for name in ("image_history", "audio_history")}  # fmt: skip
    frames = {name: Kind(name=name, rows=each["max_frames"], columns=each["latents_size"])
              for name, each in history.items()}  # fmt: skip
    return (Kind(name="text", rows=t["encoder_max_text_length"]),
            Kind(name="image", rows=image[0], columns=image[1], scale=stretch), frames["image_history"],
            Kind(name="audio", rows=audio[0], columns=audio[1], scale=stretch), frames["audio_history"])  # fmt: skip


def decoder_kinds(config: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Words, codes of a picture, codes of sound in the order of their codec."""
    t, image = section(config, "t5_config", T5), section(config, "image_vqgan", VQGAN)
    sound = section(config, "audio_vqgan", SOUND)
    picture, song = (grid_of(each["default_input_size"], each["patch_size"][0]) for each in (image, sound))
    return (Kind(name="text", rows=t["decoder_max_text_length"]),
            Kind(name="image", rows=picture[0], columns=picture[1]),
            Kind(name="audio", rows=song[0], columns=song[1]))  # fmt: skip


def vits_of(config: Mapping[str, Any]) -> dict[str, PatchViTConfig]:
    """The towers of pictures and of sound."""
    found = {}
    for name, channels in (("image", 3), ("audio", 1)):
        v = section(config, f"{name}_vit_cfg", VIT)
        common: dict[str, Any] = {"values": channels * v["patch_size"] ** 2, "width": v["emb_dim"],
                                  "heads": v["num_heads"], "depth": v["num_layers"],
                                  "ffn_width": v["mlp_dim"]}  # fmt: skip
        if name == "image":
            found[name] = PatchViTConfig(positions=v["num_pos"], **common)
        else:
            found[name] = PatchViTConfig(front=2, positions=SONG_POSITIONS, activation="gelu_new", eps=1e-6,
                                         norm_first=False, by_columns=True, **common)  # fmt: skip
    return found


def resampler_of(config: Mapping[str, Any], name: str) -> HistoryResamplerConfig:
    """The resampler of a history; raises ConfigError for layers of another kind."""
    r = section(config, f"{name}_cfg", RESAMPLER | ({"latents_size": 16} if name == "audio_history" else {}))
    if list(r["xattention_index"]) != list(range(r["num_layers"])) or r["xattn_qk_norm"] == r["xattn_scaled_cosine"]:
        raise ConfigError(f"unified-io-2: {name}_cfg: expected cross-attention in all {r['num_layers']} layers, with "
                          "either norms or cosines")  # fmt: skip
    return HistoryResamplerConfig(latents=r["latents_size"], width=r["emb_dim"], heads=r["num_heads"],
                                  depth=r["num_layers"], ffn_width=r["mlp_dim"],
                                  cosine=r["xattn_scaled_cosine"])  # fmt: skip


def codecs_of(config: Mapping[str, Any]) -> tuple[VQCodecConfig, ViTVQCodecConfig]:
    """What writes pictures and sound."""
    c, s = section(config, "image_vqgan", VQGAN), section(config, "audio_vqgan", SOUND)
    ways = [ViTSideConfig(width=s[f"{way}_hidden_size"], heads=s[f"{way}_num_heads"], depth=s[f"{way}_num_layers"],
                          ffn_width=s[f"{way}_mlp_dim"], activation=s["act_fn"])
            for way in ("encoder", "decoder")]  # fmt: skip
    sound = ViTVQCodecConfig(height=s["default_input_size"][0], width=s["default_input_size"][1],
                             patch=s["patch_size"][0], codes=s["vocab_size"], code_width=s["proj_dim"],
                             encoder=ways[0], decoder=ways[1])  # fmt: skip
    return VQCodecConfig(stack=official_stack(c), codes=c["n_embed"], width=c["embed_dim"]), sound


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config.json of the port -> the model, at any size."""
    backbone, vits, codecs = backbone_of(config), vits_of(config), codecs_of(config)
    resamplers = {name: resampler_of(config, name) for name in ("image_history", "audio_history")}
    t = section(config, "t5_config", T5)
    tables = Tables(text=t["vocab_size"], image=t["image_vocab_size"], audio=t["audio_vocab_size"])
    grids = {name: grid_of(t[f"default_{name}_vit_size"], t[f"{name.partition('_')[0]}_vit_patch_size"])
             for name in ("image", "image_history", "audio", "audio_history")}  # fmt: skip
    linear = LinearConnectorConfig(bias=False)

    def build() -> UnifiedIO2:
        connectors: dict[str, nn.Module] = {}
        for name, vit in vits.items():
            connectors[name] = linear.build(2 * vit.width, backbone.width)
            connectors[f"{name}_history"] = resamplers[f"{name}_history"].build(vit.width, backbone.width)
        return UnifiedIO2({name: vit.build() for name, vit in vits.items()}, connectors, backbone.build(),
                          (codecs[0].build(), codecs[1].build()), tables, grids)  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        return assembled(module, files)

    keys = backbone_keys((tables.text, tables.image, tables.audio)).prefixed("", "backbone.")
    for name, fronts in (("image", ("class_embedding",)), ("audio", ("cls_token", "dist_token"))):
        embedder = f"input_embedders.{name}"
        keys += vit_keys(fronts).prefixed(f"{embedder}.image_encoder.vision_transformer.", f"encoders.{name}.")
        keys += KeyTable.of({f"{embedder}.projection.weight": f"connectors.{name}.proj.weight"})
        history = resampler_keys(resamplers[f"{name}_history"].cosine)
        keys += history.prefixed(f"{embedder}_history.", f"connectors.{name}_history.")
    keys += picture_codec_keys(codecs[0].stack).prefixed("target_embedders.image.vqgan.", "codecs.image.")
    keys += sound_codec_keys().prefixed("target_embedders.audio.vqgan.", "codecs.audio.")
    return ModelSpec(build=build, keys=(keys,), parts=drawing(backbone, vits, resamplers), assemble=assemble,
                     ends=({END}, backbone.pad_id))  # fmt: skip


def drawing(
    backbone: UnifiedIO2Config, vits: Mapping[str, PatchViTConfig], resamplers: Mapping[str, HistoryResamplerConfig]
) -> tuple[Part, ...]:
    kinds, parts = {each.name: each for each in backbone.encoder_kinds}, []
    for name, vit in vits.items():
        count, latents = kinds[name].count, resamplers[f"{name}_history"].latents
        parts += [
            Part(slot="encoder", modality=name, name=f"ViT, {vit.depth} blocks", prefix=f"encoders.{name}",
                 input=f"[N, {count}, {vit.values}]", output=f"twice [N, {count}, {vit.width}]", tokens=count),
            Part(slot="connector", modality=name, name="linear", prefix=f"connectors.{name}",
                 input=f"[N, {count}, {2 * vit.width}]", output=f"[N, {count}, {backbone.width}]", tokens=count),
            Part(slot="connector", modality=f"{name}_history", name="resampler", prefix=f"connectors.{name}_history",
                 input=f"[F, P, {vit.width}]", output=f"[F, {latents}, {backbone.width}]", tokens=latents),
        ]  # fmt: skip
    return (
        *parts,
        Part(slot="backbone", name="T5 with rotary places", prefix="backbone", input=f"[B, S, {backbone.width}]",
             output=f"[B, T, {backbone.vocab_size}]"),
        Part(slot="generator", modality="image", name="VQGAN", prefix="codecs.image",
             input=f"{backbone.decoder_kinds[1].count} codes", output="pixels"),
        Part(slot="generator", modality="audio", name="ViT-VQGAN", prefix="codecs.audio",
             input=f"{backbone.decoder_kinds[2].count} codes", output="a spectrogram"),
        box(),
    )  # fmt: skip
