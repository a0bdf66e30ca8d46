"""Published checkpoints of CoDi: config to model, names of tensors.

    CoDi_encoders.pth                     clip.*, clap.*, autokl.*, audioldm.*, optimus.*
    CoDi_text_diffuser.pth, CoDi_audio_diffuser_m.pth, CoDi_video_diffuser_8frames.pth
                                          model.diffusion_model.unet_{text, audio, image}.*; any of them may be absent

The repository has no config.json; ours has the words of the official configs/model/*.yaml: `clip`, `clap`, `autokl`,
`audioldm` (its ddconfig), `vocoder`, `optimus`, `unet_image`, `unet_text`, `unet_audio`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from polymodal.encoders import clip_text, clip_vit, htsat
from polymodal.encoders.clip_frames import ClipFrames
from polymodal.errors import ConfigError, WeightsError
from polymodal.generators import composable_keys, hifigan, kl_codec
from polymodal.generators.composable_layers import GridLayers, LayerKind, VectorLayers
from polymodal.generators.composable_unet import ComposableUNetConfig
from polymodal.models import text_latents
from polymodal.models.joint_diffusion import JointDiffusion, SoundCodec
from polymodal.systems import CheckpointFiles, ModelSpec, Part
from polymodal.systems.codi.loading import assemble
from polymodal.weights.folder import weights_in
from polymodal.weights.keytable import KeyTable, drop, rename
from polymodal.weights.merged import MergedTensors, locations
from polymodal.weights.operations import Squeeze

SCALES = {"vision_scale_factor": 0.18215, "text_scale_factor": 4.3108, "audio_scale_factor": 0.9228}
KNOWN = {"model_type", "architectures", "clip", "clap", "autokl", "audioldm", "vocoder", "optimus", "unet_image",
         "unet_text", "unet_audio", "tie_word_embeddings", *SCALES}  # fmt: skip
OUTPUTS = {"image": "unet_image", "text": "unet_text", "audio": "unet_audio"}
BUFFERS = ("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
           "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
           "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1",
           "posterior_mean_coef2")  # fmt: skip
SIZES = {"model_channels", "input_channels", "output_channels", "num_noattn_blocks", "channel_mult", "with_attn",
         "channel_mult_connector", "num_noattn_blocks_connector", "with_connector", "connector_output_channel",
         "num_heads", "context_dim", "second_dim", "second_dim_connector", "use_video_architecture",
         "use_checkpoint"}  # fmt: skip


def unet_of(config: Mapping[str, Any], name: str) -> ComposableUNetConfig:
    """The arguments of an official U-Net.  Raises ConfigError for one nobody reads."""
    given = config[name]
    if unknown := sorted(set(given) - SIZES):
        raise ConfigError(f"codi: {name}: unknown option {unknown[0]!r}; expected {', '.join(sorted(SIZES))}")
    latent = given["input_channels"]
    if given.get("output_channels", latent) != latent:
        raise ConfigError(f"codi: {name}: output_channels: expected {latent}, found {given['output_channels']}")
    layers: LayerKind = GridLayers(bool(given.get("use_video_architecture", False)))
    if name == "unet_text":
        places = {*given.get("second_dim", (4,)), *given.get("second_dim_connector", (4,))}
        if len(places) != 1:
            raise ConfigError(f"codi: {name}: second_dim: expected one number for all levels, found {sorted(places)}")
        layers = VectorLayers(places.pop())
    return ComposableUNetConfig(
        layers=layers, latent=latent, width=given["model_channels"], multipliers=tuple(given["channel_mult"]),
        blocks=tuple(given["num_noattn_blocks"]), attends=tuple(given["with_attn"]),
        joins=tuple(given["with_connector"]), environment=tuple(given.get("channel_mult_connector", (1, 2, 4))),
        environment_blocks=tuple(given.get("num_noattn_blocks_connector", (1, 1, 1))),
        context=given.get("context_dim", 768), environment_width=given.get("connector_output_channel", 1280),
        heads=given.get("num_heads", 8),
    )  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as the module docstring has it, at any size, with any of the U-Nets."""
    if unknown := sorted(set(config) - KNOWN):
        raise ConfigError(f"codi: unknown option {unknown[0]!r}; expected {', '.join(sorted(KNOWN))}")
    scales = {name: float(config.get(name, usual)) for name, usual in SCALES.items()}
    unets = {name: unet_of(config, key) for name, key in OUTPUTS.items() if key in config}
    joint = config["clip"].get("projection_dim", 768)
    text = clip_text.parse_config({"eos_token_id": clip_text.HIGHEST_ID, **config["clip"]["text_config"]})
    text = replace(text, out_width=joint)
    vision = clip_vit.with_projection(clip_vit.parse_config(config["clip"]["vision_config"]), joint)
    sound = htsat.parse_config(config["clap"])
    for name, width in (("clap", sound.out_width), *((key, each.context) for key, each in unets.items())):
        if width != joint:
            raise ConfigError(f"codi: {name}: expected conditions of width {joint}, as CLIP's, found {width}")
    pictures = kl_codec.official_config(config["autokl"], scales["vision_scale_factor"])
    mel = kl_codec.official_config(config["audioldm"], scales["audio_scale_factor"])
    vocoder = hifigan.parse_config(config.get("vocoder") or {})
    tied = bool(config.get("tie_word_embeddings", True))
    texts = text_latents.parse_config(config["optimus"], scales["text_scale_factor"], tied)

    def build() -> JointDiffusion:
        return JointDiffusion(
            {"text": text.build(), "image": ClipFrames(vision), "audio": sound.build()},
            {name: each.build() for name, each in unets.items()},
            {"image": pictures.build(), "audio": SoundCodec(mel.build(), vocoder.build()), "text": texts.build()},
        )

    tables = KeyTable(tuple(drop(name) for name in BUFFERS)) + encoder_keys(text, vision) + codec_keys(tied)
    for name, each in unets.items():
        prefix = f"model.diffusion_model.{OUTPUTS[name]}."
        tables += composable_keys.official_keys(each).prefixed(prefix, f"generators.{name}.")
    return ModelSpec(build=build, keys=(tables,), parts=drawing(joint, unets), assemble=assemble)


def encoder_keys(text: clip_text.ClipTextConfig, vision: Any) -> KeyTable:
    """CLIP with what mixes frames, and CLAP; neither temperature is used."""
    layer, ours = "vision_model.encoder.layers.{}.temporal_self_attn", "encoders.image.mixings.{}"
    mixing = KeyTable((
        *composable_keys.frame_rows(layer, ours, (Squeeze(2),)),
        rename(f"{layer}.ff.proj_out.0.g", f"{ours}.mlp.gain", Squeeze(2), Squeeze(0)),
        drop("logit_scale"),
    ))  # fmt: skip
    clip = (
        mixing
        + clip_text.hf_keys(text).prefixed("", "encoders.text.")
        + clip_vit.hf_keys(vision).prefixed("", "encoders.image.vit.")
    )
    return clip.prefixed("clip.model.") + htsat.official_keys().prefixed("clap.model.", "encoders.audio.")


def codec_keys(tied: bool) -> KeyTable:
    """The three codecs."""
    codec = kl_codec.official_keys()
    return (
        KeyTable((drop("audioldm.fn_STFT.**"),))
        + codec.prefixed("autokl.", "codecs.image.")
        + hifigan.official_keys().prefixed("audioldm.vocoder.", "codecs.audio.vocoder.")
        + codec.prefixed("audioldm.", "codecs.audio.mel.")
        + text_latents.official_keys(tied).prefixed("optimus.", "codecs.text.")
    )


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """All tensors of the folder: one file, or the encoders' with those of the U-Nets.  Raises WeightsError."""
    pieces = sorted(files.folder.glob("*.pth"))
    if not pieces:
        return weights_in(files.folder)
    whole: dict[str, Any] = {}
    for piece in pieces:
        found = locations(weights_in(piece), "")
        if twice := sorted(set(whole) & set(found) - set(BUFFERS)):
            raise WeightsError(f"{piece}: {twice[0]!r} is in another file of the folder too; keep one of a kind")
        whole |= found
    return MergedTensors.of(whole)


def drawing(joint: int, unets: Mapping[str, ComposableUNetConfig]) -> tuple[Part, ...]:
    """The boxes of `show`."""
    vector = f"[N, 1, {joint}]"
    encoders = (("text", "CLIP text", "[N, T]"), ("image", "CLIP with frames mixed", "[N, (F,) 3, H, W]"),
                ("audio", "CLAP HTS-AT", "[N, 1, T, 64]"))  # fmt: skip
    codecs = {"image": "KL codec (Stable Diffusion)", "audio": "KL codec and HiFi-GAN (AudioLDM)", "text": "Optimus"}
    return (
        *(Part(slot="encoder", modality=name, name=title, prefix=f"encoders.{name}", input=shape, output=vector,
               tokens=1) for name, title, shape in encoders),
        *(Part(slot="generator", modality=name, name=f"U-Net, {each.width} wide", prefix=f"generators.{name}",
               input=f"latents of {each.latent}, {vector}", output="noise") for name, each in unets.items()),
        *(Part(slot="generator", modality=name, name=title, prefix=f"codecs.{name}", input="latents", output=name)
          for name, title in codecs.items()),
    )  # fmt: skip
