"""VideoChat (arXiv 2305.06355): BLIP-2's parts with a ViT that looks over time and a Q-Former of 96 queries.

    frames [N, 8, 3, 224, 224] -> EVA ViT-g with 8 global blocks [N, 8*257 + 1, 1408]
    -> Q-Former of 32 + 64 queries over all of it at once -> linear [N, 96, D] -> spliced into Vicuna v0

    ###Human: <Video>features</Video> The video contains 8 frames sampled at 0.6, ... seconds. ###Human: Q ###Assistant:

Traps: the Q-Former is told nothing of the order of frames; a picture is a video of one frame; the patch convolution has
a dimension of time, of one step; where the begin token's embedding belongs, training put ones, the demo the token, as
here; pictures are normalised as in the demo, training took ImageNet's numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from polymodal.backbones import hf_text
from polymodal.checkpoints import lavis, qformer_lm
from polymodal.connectors import qformer
from polymodal.connectors.wider_qformer import WiderQFormerConfig
from polymodal.encoders import eva_vit, global_frames
from polymodal.encoders.global_frames import GlobalFramesConfig
from polymodal.encoders.vit import sides
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import CheckpointFiles, CheckpointFormat, ModelSpec, Part, System, Variant, hf
from polymodal.systems.videochat.processing import assemble
from polymodal.systems.videochat.recipe import RECIPE
from polymodal.weights.keytable import KeyTable, drop, rename
from polymodal.weights.merged import MergedTensors, locations
from polymodal.weights.operations import Squeeze
from polymodal.weights.tensors import shape_of

FIXED = {"temporal_downsample": False, "no_lmhra": True}  # what the published files were trained with
PATCHES = "visual_encoder.patch_embed.proj.weight"


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The whole model under the official names, at any size."""
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise ConfigError(f"videochat: {name} {config[name]!r} is not supported; the published files have {value}")
    frame = eva_vit.parse_config(config.get("vision_config") or {}, official=True)
    encoder = GlobalFramesConfig(frame=frame, layers=config.get("gmhra_layers", 8))
    text = hf_text.parse_config(config.get("text_config") or {})
    asked = qformer.parse_config(config.get("qformer_config") or {}, queries=config.get("num_query_token", 32),
                                 source_width=frame.width)  # fmt: skip
    width, vocabulary = text.config.width, text.config.vocab_size
    connector = WiderQFormerConfig(qformer=asked, more=config.get("extra_num_query_token", 64), out_width=width)
    ids = {"video": vocabulary, "image": vocabulary + 1, **(config.get("token_ids") or {})}

    def build() -> MultimodalLM:
        backbone: Any = text.config.build()
        inputs = {"image": ModalityInputs(values="pixel_values", uses="video")}
        return MultimodalLM({"video": encoder.build()}, {"video": connector.build()}, backbone, ids, inputs=inputs,
                            positions_ignore_padding=text.positions_ignore_padding)  # fmt: skip

    keys = tuple(_keys(connector) + table.prefixed("llama_model.", "backbone.") for table in text.keys)
    side, seen = sides(frame.image_size)[0], f"[N, F*{frame.tokens} + 1, {frame.width}]"
    parts = (
        Part(slot="encoder", modality="video", name=f"EVA-CLIP ViT-g/14 with {encoder.layers} global blocks",
             prefix="encoders.video", input=f"[N, F, 3, {side}, {side}]", output=seen),
        Part(slot="connector", modality="video", name=f"Q-Former of {asked.queries} + {connector.more} queries, linear",
             prefix="connectors.video", input=seen, output=f"[N, {connector.tokens}, {width}]",
             tokens=connector.tokens),
        Part(slot="backbone", name="Vicuna v0", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip
    return ModelSpec(build=build, keys=keys, parts=parts, assemble=assemble(sides(side)[0], connector.tokens))


def _keys(connector: WiderQFormerConfig) -> KeyTable:
    ours = "connectors.video."
    flat = rename("patch_embed.proj.weight", "patch_embed.weight", Squeeze(2))
    rows = tuple(flat if row.sources == flat.sources else row for row in eva_vit.OFFICIAL_KEYS.rows)
    return (
        KeyTable(rows).prefixed("visual_encoder.", "encoders.video.frame.")
        + global_frames.official_keys().prefixed("visual_encoder.", "encoders.video.")
        + qformer_lm.linear("ln_vision", "encoders.video.final_norm")
        + lavis.qformer_keys(connector.qformer, f"{ours}qformer.")
        + KeyTable((rename("extra_query_tokens", f"{ours}more", Squeeze()), drop("t5_proj.**")))
        + qformer_lm.linear("llama_proj", f"{ours}proj")
    )


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """One file of everything, or EVA's own, BLIP-2's, VideoChat's and Vicuna in a subfolder; of them EVA's convolution
    has no time yet, and the norm of BLIP-2 gives way to the trained one."""
    found = lavis.gather(files, "llama_model")
    if PATCHES not in found or len(shape_of(found, PATCHES)) != 4:
        return found
    return MergedTensors.of(locations(found) | locations({PATCHES: found[PATCHES].unsqueeze(2)}))


def _variant(name: str, parameters: int, width: int, depth: int, ffn_width: int) -> Variant:
    text = {"model_type": "llama", "hidden_size": width, "num_hidden_layers": depth, "vocab_size": 32000,
            "num_attention_heads": width // 128, "intermediate_size": ffn_width, "rms_norm_eps": 1e-6}  # fmt: skip
    return Variant(name=name, parameters=parameters, config={"model_type": "videochat", "text_config": text})


SYSTEM = System(
    id="videochat",
    aliases=("VideoChat", "VideoChat-Embed"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("video", "image", "text"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official VideoChat",
            parse_config=parse_config,
            matches=hf("videochat"),
            entry=("model", ""),
            gather=gather,
        ),
    ),
    variants=(
        _variant("7b", 8_035_014_912, 4096, 32, 11008),
        _variant("13b", 14_313_251_072, 5120, 40, 13824),
    ),
    headline="chats about a video seen as one memory of all its frames, told when each was taken",
    reference="arXiv 2305.06355",
    recipe=RECIPE,
)
