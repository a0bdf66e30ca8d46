"""OpenFlamingo and its descendants as a MultimodalLM: CLIP, resampler, a decoder with gated blocks; the official names.

    config {text_config: the language model's own, vision_config: open_clip's, cross_attn_every_n_layers, ...}
    official module: vision_encoder.*, perceiver.*, lang_encoder.<layers>.{i}.{decoder_layer, gated_cross_attn_layer}.*
    checkpoint.pt holds what was trained and the embeddings; CLIP and the language model lie in folders beside it

Trap: gated blocks stand in front of the LAST layer of each group, i with (i + 1) % every == 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.backbones import hf_text
from polymodal.backbones.decoder import DecoderConfig
from polymodal.checkpoints.record import CheckpointFiles, Part
from polymodal.connectors import resampler
from polymodal.connectors.resampler import ResamplerConfig
from polymodal.encoders import hf_vision
from polymodal.encoders.clip_vit import OPENAI_FEATURE_KEYS, clip_vit
from polymodal.encoders.hf_vision import VisionEncoder
from polymodal.encoders.items import ItemEncoder
from polymodal.encoders.nfnet import NFNetConfig
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError, WeightsError
from polymodal.fusion import cross_attention
from polymodal.fusion.cross_attention import GatedCrossAttentionConfig, with_cross_attention
from polymodal.fusion.visibility import InterleavedContext, WithItems
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.weights.folder import weights_in
from polymodal.weights.keytable import KeyTable, drop
from polymodal.weights.merged import Locations, MergedTensors

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = {"mpt": "transformer.blocks", "mosaic_gpt": "transformer.blocks", "gpt_neox": "gpt_neox.layers",
          "llama": "model.layers", "opt": "model.decoder.layers"}  # fmt: skip
CLIP_L = {"image_size": 224, "patch_size": 14, "width": 1024, "layers": 24, "head_width": 64, "mlp_ratio": 4.0,
          "embed_dim": 768, "quick_gelu": True}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "3b": {"model_type": "mosaic_gpt", "d_model": 2048, "n_heads": 16, "n_layers": 24, "max_seq_len": 2048,
           "attn_qk_ln": True, "alibi": True, "no_bias": True},
    "4b": {"model_type": "gpt_neox", "hidden_size": 2560, "num_attention_heads": 32, "num_hidden_layers": 32,
           "intermediate_size": 10240, "rotary_pct": 1.0, "use_parallel_residual": False,
           "max_position_embeddings": 2048},
    "9b": {"model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32, "max_seq_len": 2048},
}  # fmt: skip
"""Language models of the released sizes."""
EVERY = {"3b": 1, "4b": 2, "9b": 4}
"""A gated block in front of the last of so many layers."""
TABLES = {"mosaic_gpt": "transformer.wte.weight", "mpt": "transformer.wte.weight",
          "gpt_neox": "gpt_neox.embed_in.weight"}  # fmt: skip
"""Their tables of embeddings."""


@dataclass(frozen=True, kw_only=True)
class OpenFlamingo:
    """The parts.  kind: model_type of the language model.  clips: frames without positions are taken too.  following:
    text sees the next picture, as the first release was tuned, and without any picture no gated block is run."""

    encoder: ViTConfig | NFNetConfig
    connector: ResamplerConfig
    backbone: DecoderConfig
    kind: str
    media: int
    positions_ignore_padding: bool
    clips: bool = False
    following: bool = False

    @property
    def takes_clips(self) -> bool:
        """Whether an item may be a clip."""
        return self.clips or self.connector.max_frames is not None

    def build(self) -> MultimodalLM:
        width = self.encoder.width
        inputs = {"image": ModalityInputs(values="vision_x")}
        if self.takes_clips:
            inputs["video"] = ModalityInputs(values="video_values", uses="image")
        rule = InterleavedContext(dict.fromkeys(inputs, self.media), table="vision_x", following=self.following)
        return MultimodalLM(
            {"image": ItemEncoder(self.encoder.build(), keep_frames=self.connector.max_frames is not None)},
            {"image": self.connector.build(width, width)},
            self.backbone.build(),
            {},
            context=WithItems(rule) if self.following else rule,
            inputs=inputs,
            positions_ignore_padding=self.positions_ignore_padding,
        )

    @property
    def gated(self) -> tuple[int, ...]:
        """Numbers of the layers with a gated block in front."""
        return tuple(i for i, block in enumerate(self.backbone.blocks) if block.cross is not None)


def open_flamingo(config: Mapping[str, Any]) -> OpenFlamingo:
    """The parts a config describes; raises ConfigError for a language model OpenFlamingo does not know."""
    kind = config["text_config"].get("model_type")
    if kind not in LAYERS:
        raise ConfigError(f"open_flamingo: text_config.model_type {kind!r}; expected one of {', '.join(LAYERS)}")
    encoder = encoder_of(config).config
    text = hf_text.parse_config(config["text_config"])
    if not isinstance(text.config, DecoderConfig):
        raise ConfigError(f"open_flamingo: {kind} is no decoder")
    width, every = text.config.width, config.get("cross_attn_every_n_layers", 1)
    cross = GatedCrossAttentionConfig(
        attention=AttentionConfig(width=width, heads=8, head_dim=64, source_width=encoder.width),
        mlp=MLPConfig(width=width, ffn_width=4 * width, bias=False),
    )
    blocks = with_cross_attention(text.config.blocks, cross, range(every - 1, text.config.depth, every))
    return OpenFlamingo(
        encoder=encoder,
        connector=resampler_of(config.get("perceiver_config") or {}),
        backbone=replace(text.config, blocks=blocks),
        kind=kind,
        media=config["media_token_id"],
        positions_ignore_padding=text.positions_ignore_padding,
    )


def size_of(shapes: Mapping[str, Any]) -> tuple[str, int] | None:
    """The released size whose language model these shapes are of, and the rows of its vocabulary; None for others."""
    for name, text in PUBLISHED.items():
        rows, width = shapes.get(f"lang_encoder.{TABLES[text['model_type']]}", (0, 0))
        if width == text.get("d_model", text.get("hidden_size")) and "perceiver.latents" in shapes:
            return name, rows
    return None


def encoder_of(config: Mapping[str, Any]) -> VisionEncoder:
    """CLIP in open_clip's words and OpenAI's names, or as `transformers` has it where its config says model_type."""
    given = config.get("vision_config") or {}
    if "model_type" in given:
        return hf_vision.parse_config(given, layer=-1)
    vision = {**CLIP_L, **given}
    encoder = clip_vit(
        width=vision["width"], depth=vision["layers"], patch_size=vision["patch_size"], image_size=vision["image_size"],
        heads=vision["width"] // vision["head_width"], ffn_width=int(vision["width"] * vision["mlp_ratio"]),
        embed_width=vision["embed_dim"], activation="quick_gelu" if vision["quick_gelu"] else "gelu",
    )  # fmt: skip
    names = OPENAI_FEATURE_KEYS.respelled({"visual.": ""})
    return VisionEncoder(config=replace(encoder, keep_class=False, head=None), keys=(names,))


def resampler_of(given: Mapping[str, Any]) -> ResamplerConfig:
    """The official constructor's arguments; OpenFlamingo itself gives none of them."""
    if unknown := set(given) - {"depth", "dim_head", "heads", "num_latents", "max_num_frames"}:
        raise ConfigError(f"open_flamingo: perceiver_config {sorted(unknown)} is not supported")
    return ResamplerConfig(
        latents=given.get("num_latents", 64),
        depth=given.get("depth", 6),
        heads=given.get("heads", 8),
        head_dim=given.get("dim_head", 64),
        max_frames=given.get("max_num_frames"),
    )


def keys_of(config: Mapping[str, Any], found: OpenFlamingo) -> KeyTable:
    """The official module's names -> ours."""
    return (
        encoder_of(config).keys[0].prefixed("vision_encoder.", "encoders.image.encoder.")
        + resampler.OPEN_FLAMINGO_KEYS.prefixed("perceiver.", "connectors.image.")
        + language_keys(config, found)
    )


def language_keys(config: Mapping[str, Any], found: OpenFlamingo) -> KeyTable:
    """The same of the language model with its gated blocks."""
    layers = LAYERS[found.kind]
    bare = hf_text.parse_config(config["text_config"]).keys[0]
    inner = KeyTable(tuple(row.spelled(lambda name: _nested(name, layers)) for row in bare.rows))
    gated = cross_attention.OPEN_FLAMINGO_KEYS.prefixed(f"{layers}.{{}}.gated_cross_attn_layer.", "blocks.{}.cross.")
    aliases = KeyTable((drop("old_decoder_blocks.**"), drop("gated_cross_attn_layers.**")))
    return (aliases + gated + inner).prefixed("lang_encoder.", "backbone.")


def _nested(name: str, layers: str) -> str:
    """The language model's own name as it is called inside the official module."""
    return re.sub(rf"^({re.escape(layers)}\.(?:\{{\}}|\d+)\.)", r"\1decoder_layer.", name)


def drawing(found: OpenFlamingo) -> tuple[Part, ...]:
    """The boxes of `show`."""
    vision, connector, side = found.encoder, found.connector, found.encoder.image_size
    frames = "F" if found.takes_clips else "1"
    seen = f"[items, {vision.tokens}, {vision.width}]"
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT, patches of the last layer", output=seen,
             prefix="encoders.image", input=f"[B, N, {frames}, 3, {side}, {side}]", tokens=vision.tokens),
        Part(slot="connector", modality="image", name=f"Perceiver resampler, {connector.depth} blocks",
             prefix="connectors.image", input=seen, output=f"[items, {connector.latents}, {vision.width}]",
             tokens=connector.latents),
        Part(slot="backbone", name=f"{found.kind} with {len(found.gated)} gated cross-attention blocks",
             prefix="backbone", input=f"[B, T, {found.backbone.width}], context",
             output=f"[B, T, {found.backbone.vocab_size}]"),
    )  # fmt: skip


def gather(folder: Path, inner: str = "", visual: str = "") -> Mapping[str, Tensor]:
    """All tensors of a folder under the names of the whole official module.  inner: what stands before the names of
    its language model, visual: before those of CLIP's image encoder.

    One weights file holds everything; or checkpoint.pt holds what was trained, the folder `language` the language model
    as published and the folder `vision` CLIP in OpenAI's or open_clip's names.
    """
    trained = weights_in(folder, ("model_state_dict", ""))
    found: Locations = {name.removeprefix("module."): (trained, name) for name in trained}
    if not (folder / "language").is_dir():
        return MergedTensors.of(found)
    kind = CheckpointFiles(folder / "language").json("config.json").get("model_type")
    if not isinstance(kind, str) or kind not in LAYERS:
        raise WeightsError(f"{folder / 'language'}: model_type {kind!r}; expected one of {', '.join(LAYERS)}")
    language, vision = weights_in(folder / "language"), weights_in(folder / "vision")
    rest = {f"lang_encoder.{inner}{_nested(name, LAYERS[kind])}": name for name in language}
    whole: Locations = {name: (language, own) for name, own in rest.items()}
    whole |= {
        f"vision_encoder.{visual}{name.removeprefix('visual.')}": (vision, name)
        for name in vision
        if name.startswith("visual.")
    }
    return MergedTensors.of(whole | found)
