"""Video-LLaMA (arXiv 2306.02858): what is seen and what is heard in one video, each through a Q-Former over time.

    frames [N,8,3,224,224] -> EVA ViT-g -> BLIP-2's Q-Former per frame -> + frame position -> video Q-Former -> linear
    sound [N,8,1,128,204]  -> ImageBind's audio trunk per clip -> + clip position -> audio Q-Former -> linear
    ###Human: <Video><ImageHere></Video> {question}###Assistant:          both spliced, 32 and 8 tokens, into LLaMA

Traps: a picture is a video of one frame; at most 32 frames and 8 clips; sound keeps ImageBind's factor of 20; both
added tokens lie outside LLaMA's vocabulary; published Vicuna files hold the trained parts alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from polymodal.backbones import hf_text
from polymodal.checkpoints import lavis, timed_qformer
from polymodal.connectors import qformer
from polymodal.connectors.timed_qformer import TimedQFormerConfig
from polymodal.encoders import eva_vit, imagebind_keys
from polymodal.encoders.frames import FrameEncoder
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import CheckpointFormat, ModelSpec, Part, Repository, System, Variant, hf
from polymodal.systems.video_llama.processing import assemble
from polymodal.systems.video_llama.recipe import RECIPE
from polymodal.weights.keytable import KeyTable

TOKENS = {"video": 32000, "audio": 32001, "image": 32002}  # the last is ours: pictures enter like videos


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The whole model under the official names, at any size; without a branch for sound if it says so."""
    asked = config.get("qformer_config") or {}
    encoder = eva_vit.parse_config(config.get("vision_config") or {}, official=True)
    side = (config.get("vision_config") or {}).get("image_size", 224)
    text = hf_text.parse_config(config.get("text_config") or {})
    width, hears = text.config.width, config.get("equip_audio_branch", True)
    frame = qformer.parse_config(asked, queries=config.get("num_query_token", 32), source_width=encoder.width)
    over_time = replace(frame, depth=config.get("fusion_head_layers", 2), cross_every=1, source_width=frame.width,
                        queries=config.get("num_video_query_token", 32))  # fmt: skip
    longest = config.get("max_frame_pos", 32)
    video = TimedQFormerConfig(over_time=over_time, out_width=width, longest=longest, frame=frame)
    bound = config.get("imagebind") or imagebind_keys.HUGE
    heard = {**imagebind_keys.DEFAULTS, **bound}["out_embed_dim"]
    sound = TimedQFormerConfig(over_time=replace(over_time, source_width=heard,
                               queries=config.get("num_audio_query_token", 8)), out_width=width, longest=8)  # fmt: skip
    placeholders = {**TOKENS, **(config.get("token_ids") or {})}

    def build() -> MultimodalLM:
        backbone: Any = text.config.build()
        encoders = {"video": FrameEncoder(encoder.build(), accept_images=True)}
        connectors = {"video": video.build()}
        if hears:
            encoders["audio"] = FrameEncoder(imagebind_keys.imagebind(bound, "audio"))
            connectors["audio"] = sound.build()
        inputs = {"image": ModalityInputs(values="pixel_values", uses="video")}
        used = {name: id for name, id in placeholders.items() if hears or name != "audio"}
        return MultimodalLM(
            encoders, connectors, backbone, used, inputs=inputs, positions_ignore_padding=text.positions_ignore_padding
        )

    body = timed_qformer.video_keys(video) + (timed_qformer.audio_keys(sound) if hears else KeyTable())
    keys = tuple(body + table.prefixed("llama_model.", "backbone.") for table in text.keys)
    return ModelSpec(build=build, keys=keys, parts=_drawing(video, sound if hears else None, width),
                  assemble=assemble(side, video.tokens, sound.tokens if hears else 0))  # fmt: skip


def _drawing(video: TimedQFormerConfig, sound: TimedQFormerConfig | None, width: int) -> tuple[Part, ...]:
    seen = (
        Part(slot="encoder", modality="video", name="EVA-CLIP ViT-g/14, 39 blocks, per frame", prefix="encoders.video",
             input="[N, F, 3, 224, 224]", output="[N, F, 257, 1408]"),
        Part(slot="connector", modality="video", name="Q-Former per frame, Q-Former over time, linear",
             prefix="connectors.video", input="[N, F, 257, 1408]", output=f"[N, {video.tokens}, {width}]",
             tokens=video.tokens),
    )  # fmt: skip
    heard = () if sound is None else (
        Part(slot="encoder", modality="audio", name="ImageBind, audio trunk, per clip", prefix="encoders.audio",
             input="[N, C, 1, 128, 204]", output="[N, C, 1024]"),
        Part(slot="connector", modality="audio", name="Q-Former over time, linear", prefix="connectors.audio",
             input="[N, C, 1024]", output=f"[N, {sound.tokens}, {width}]", tokens=sound.tokens),
    )  # fmt: skip
    backbone = Part(slot="backbone", name="Vicuna or LLaMA-2 chat", prefix="backbone", input=f"[B, T, {width}]",
                    output="[B, T, V]")  # fmt: skip
    return (*seen, *heard, backbone)


def _variant(name: str, parameters: int, width: int, depth: int, ffn_width: int, hub: str = "") -> Variant:
    llama_2 = name.startswith("llama-2")
    text = {"model_type": "llama", "hidden_size": width, "num_hidden_layers": depth,
            "num_attention_heads": width // 128, "intermediate_size": ffn_width, "vocab_size": 32000,
            "rms_norm_eps": 1e-5 if llama_2 else 1e-6}  # fmt: skip
    repository = Repository(name=hub, license="research only") if hub else None
    return Variant(name=name, parameters=parameters, repository=repository,
                   config={"model_type": "video-llama", "text_config": text})  # fmt: skip


SYSTEM = System(
    id="video-llama",
    aliases=("Video-LLaMA",),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("video", "audio", "image", "text"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official Video-LLaMA",
            parse_config=parse_config,
            matches=hf("video-llama"),
            entry=("model", ""),
            gather=partial(lavis.gather, language="llama_model"),
        ),
    ),
    variants=(
        _variant("vicuna-7b", 9_075_216_001, 4096, 32, 11008),
        _variant("vicuna-13b", 15_354_239_617, 5120, 40, 13824),
        _variant("llama-2-7b", 9_075_216_001, 4096, 32, 11008, "DAMO-NLP-SG/Video-LLaMA-2-7B-Finetuned"),
        _variant("llama-2-13b", 15_354_239_617, 5120, 40, 13824, "DAMO-NLP-SG/Video-LLaMA-2-13B-Finetuned"),
    ),
    headline="answers about what is seen and heard in one video, through two Q-Formers over time",
    reference="arXiv 2306.02858",
    recipe=RECIPE,
)
