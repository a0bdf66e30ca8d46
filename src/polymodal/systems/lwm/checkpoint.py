"""LWM's checkpoints: Jax parameters of the vision models as arrays by flattened names, the config and the processor.

The published files (`streaming_params`, and a pickle of the VQGAN) are read by Jax alone.  They become
`model.safetensors` or one `.npz` of `flatten_dict(params, sep="/")`, the VQGAN's names behind `vqgan/`, beside a
config.json with the fields of VideoLLaMAConfig and, as `vqgan_config`, those of VQGANConfig.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig
from polymodal.data.chat_template import special_tokens_around
from polymodal.data.messages import words_first
from polymodal.data.processor import Processor
from polymodal.errors import ConfigError
from polymodal.generators.conv_stack import ConvStackConfig
from polymodal.generators.vq_codec import VQCodecConfig
from polymodal.models.two_table_lm import FrameSpelling, TwoTableLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.lwm.flax_names import codec_keys, decoder_keys
from polymodal.systems.lwm.painting import FramePainter
from polymodal.systems.lwm.prompts import modalities, template

FRAME_END, END = 0, 1  # marks, counted from the first id behind the codes
DEFAULTS = {"vocab_size": 32000, "vision_vocab_size": 8448, "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32, "max_sequence_length": 4096, "rms_norm_eps": 1e-6,
            "theta": 10000.0}  # fmt: skip
VQGAN = {"resolution": 256, "num_channels": 3, "hidden_channels": 128, "channel_mult": (1, 2, 2, 4, 6),
         "num_res_blocks": 2, "z_channels": 64, "num_embeddings": 8192, "quantized_embed_dim": 64}  # fmt: skip


def backbone_of(config: Mapping[str, Any]) -> tuple[DecoderConfig, int]:
    """The decoder over both tables, and the rows of the first; raises ConfigError for options not supported."""
    for name in ("tie_word_embeddings", "tie_vision_embeddings"):
        if config.get(name):
            raise ConfigError(f"lwm: {name} is not supported: no published model repeats a table in its head")
    if config.get("param_scan_axis"):
        raise ConfigError(f"lwm: param_scan_axis: expected 0, the layers first, found {config['param_scan_axis']!r}")
    c = {**DEFAULTS, **config}
    return llama.parse_config({
        "vocab_size": c["vocab_size"] + c["vision_vocab_size"], "hidden_size": c["hidden_size"],
        "intermediate_size": c["intermediate_size"], "num_hidden_layers": c["num_hidden_layers"],
        "num_attention_heads": c["num_attention_heads"], "rms_norm_eps": c["rms_norm_eps"], "rope_theta": c["theta"],
        "max_position_embeddings": c["max_sequence_length"],
    }), c["vocab_size"]  # fmt: skip


def codec_of(config: Mapping[str, Any]) -> tuple[VQCodecConfig, int]:
    """The codec of a VQGANConfig, and the side of its pictures in pixels."""
    c = {**VQGAN, **config}
    if c.get("attn_resolutions") or not c.get("no_attn_mid_block", True) or not c.get("resample_with_conv", True):
        raise ConfigError("lwm: vqgan_config: attention and resampling without a convolution are not supported; the "
                          "published codec has neither")  # fmt: skip
    base, channels = c["hidden_channels"], c["channel_mult"]
    stack = ConvStackConfig(channels=tuple(base * each for each in channels), base=base, blocks=c["num_res_blocks"],
                            middle=False, pixels=c["num_channels"], latent=c["z_channels"])  # fmt: skip
    if c["resolution"] % stack.factor:
        raise ConfigError(f"lwm: vqgan_config: resolution {c['resolution']} is no multiple of {stack.factor}, the "
                          "pixels of a code")  # fmt: skip
    return VQCodecConfig(stack=stack, codes=c["num_embeddings"], width=c["quantized_embed_dim"]), c["resolution"]


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A VideoLLaMAConfig with `vqgan_config` -> the model; raises ConfigError for options that are not supported."""
    backbone, text = backbone_of(config)
    codec, side = codec_of(config.get("vqgan_config") or {})
    vision, rows = backbone.vocab_size - text, side // codec.stack.factor
    if vision < codec.codes + END + 1:
        raise ConfigError(f"lwm: vision_vocab_size: expected the {codec.codes} codes and two marks, found {vision}")

    def build() -> TwoTableLM:
        spelling = FrameSpelling(text, codec.codes, codec.codes + FRAME_END, codec.codes + END)
        return TwoTableLM(codec.build(), spelling, backbone.build(), text)

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer()
        before = tuple(special_tokens_around(files.folder, tokenizer)[0])
        media = modalities(side, rows**2, (backbone.vocab_size, backbone.vocab_size + 1), before)
        processor = Processor(tokenizer=tokenizer, template=template(before), modalities=media, rewrite=words_first,
                              max_length=backbone.max_length)  # fmt: skip
        painter = FramePainter(model=module, tokenizer=tokenizer, rows=rows, before=before)
        return LoadedModel(model=module, processor=processor, paint=painter)

    seen = codec_keys(codec.stack).prefixed("vqgan/", "encoders.image.")
    stacked = (config.get("scan_layers", True), not config.get("scan_layers", True))
    keys = tuple(seen + decoder_keys(backbone, text, scanned).prefixed("", "backbone.") for scanned in stacked)
    return ModelSpec(build=build, keys=keys, parts=drawing(backbone, codec, side), assemble=assemble)


def drawing(backbone: DecoderConfig, codec: VQCodecConfig, side: int) -> tuple[Part, ...]:
    grid = side // codec.stack.factor
    return (
        Part(slot="encoder", modality="image", name=f"VQGAN of {codec.codes} codes", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=f"codes [N, {grid}, {grid}]", tokens=grid * grid + 1),
        Part(slot="connector", modality="image", name="codes and a mark behind each frame", prefix="",
             input=f"[N, {grid}, {grid}]", output=f"ids [N, {grid * grid + 1}]", tokens=grid * grid + 1),
        Part(slot="backbone", name="LLaMA with a second table and head", prefix="backbone",
             input=f"[B, T, {backbone.width}]", output=f"[B, T, {backbone.vocab_size}]"),
    )  # fmt: skip
