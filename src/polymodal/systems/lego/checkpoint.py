"""GroundingGPT's (LEGO's) checkpoints: LLaMA's names, the parts of Video-LLaMA below `model.`, CLIP's tower beside it.

    model.mm_vision_projector.{0,2}.*                       -> connectors.image
    model.visual_encoder ... model.audio_llama_proj.*       -> as in checkpoints/timed_qformer.py, below `model.`
    <mm_vision_tower>/                                      -> encoders.image

Traps: the official code finds CLIP and ImageBind by fixed paths; pictures are padded with the mean colour, videos
squashed to 224 x 224 (the official transform crops them at random, even when it answers) and cut to 64 frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from polymodal.backbones import hf_text
from polymodal.checkpoints import official_llava_parts as official_llava
from polymodal.checkpoints import timed_qformer
from polymodal.checkpoints.llava_format import llava_format
from polymodal.connectors import hf_mlp, qformer
from polymodal.connectors.timed_qformer import TimedQFormerConfig
from polymodal.data.chat_formats import LLAVA_SYSTEM, human_assistant
from polymodal.data.hf_image import CLIP, squared
from polymodal.data.imagebind_inputs import audio_values
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Video
from polymodal.data.modalities import sequences
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special
from polymodal.data.transforms import Squash, transform_frames
from polymodal.encoders import eva_vit, hf_vision, imagebind_keys
from polymodal.encoders.frames import FrameEncoder
from polymodal.encoders.vit import sides
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part

KINDS = {"image": "im", "video": "vi", "audio": "so"}
ADDED = tuple(f"<{kind}_{name}>" for kind in KINDS.values() for name in ("patch", "start", "end"))
CLIPS = 3  # of two seconds of a sound


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An official config -> the model; raises ConfigError for options that are not supported.

    vision_config, qformer_config, imagebind: sizes other than the published ones, as tests have them.
    """
    if not config.get("mm_use_im_start_end", True):
        raise ConfigError("lego: mm_use_im_start_end false is not supported; expected true")
    text, text_keys = hf_text.decoder_of({**config, "model_type": "llama"})
    vision = hf_vision.parse_config(official_llava.tower_of(config), config.get("mm_vision_select_layer", -2))
    project, names = hf_mlp.parse_projector_type("mlp2x_gelu")
    eva = eva_vit.parse_config(config.get("vision_config") or {}, official=True)
    bound = config.get("imagebind") or imagebind_keys.HUGE
    video, sound = _over_time(config, eva.width, text.width, bound)
    tower, first = vision.config, text.vocab_size - len(ADDED)

    def build() -> MultimodalLM:
        encoders = {"image": tower.build(), "video": eva.build(),
                    "audio": FrameEncoder(imagebind_keys.imagebind(bound, "audio"))}  # fmt: skip
        connectors = {"image": project.build(tower.out_width, text.width), "video": video.build(),
                      "audio": sound.build()}  # fmt: skip
        inputs = {"video": ModalityInputs(values="video_values", connector=("frame_counts",))}
        placeholders = {name: first + 3 * index for index, name in enumerate(KINDS)}
        return MultimodalLM(encoders, connectors, text.build(), placeholders, inputs=inputs)

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(added=ADDED)
        template, newline = llava_format(files, tokenizer, human_assistant(LLAVA_SYSTEM))
        sizes = {"size": {"shortest_edge": tower.image_size},
                 "crop_size": {"height": tower.image_size, "width": tower.image_size}}  # fmt: skip
        pictures = squared({"do_pad": True}, {**CLIP, **sizes})
        high, wide = sides(eva.image_size)
        frames = Squash(height=high, width=wide, mean=CLIP_MEAN, std=CLIP_STD)
        more: dict[str, dict[str, Any]] = {
            "image": {"transform": pictures, "tokens": SameCount(tower.tokens)},
            "video": {"transform": UniformFrames(frames, video.longest), "tokens": SameCount(video.tokens),
                      "collate": sequences("video_values", "frame_counts")},
            "audio": {"transform": partial(audio_values, clips=CLIPS), "tokens": SameCount(sound.tokens)},
        }  # fmt: skip
        modalities = [
            Modality(name=name, placeholder=f"<{kind}_patch>", before=(Special(name=f"<{kind}_start>"),),
                     after=(Special(name=f"<{kind}_end>"), *newline), **more[name])
            for name, kind in KINDS.items()
        ]  # fmt: skip
        processor = Processor(tokenizer=tokenizer, template=template, modalities=modalities,
                              max_length=text.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor, stop=("###",))

    parts = timed_qformer.video_keys(video, "encoders.video.") + timed_qformer.audio_keys(sound)
    keys = vision.prefixed(official_llava.INSIDE, "encoders.image.")[0] + parts.prefixed("model.")
    keys += text_keys.prefixed(target="backbone.") + names.prefixed("model.mm_vision_projector", "connectors.image.")
    drawn = _drawing(tower, video, sound, text.width)
    return ModelSpec(build=build, keys=(keys,), parts=drawn, assemble=assemble)


def _over_time(
    config: Mapping[str, Any], seen: int, out: int, bound: Mapping[str, Any]
) -> tuple[TimedQFormerConfig, TimedQFormerConfig]:
    """The connectors of videos and of sounds; seen: width of a frame's features."""
    frame = qformer.parse_config(config.get("qformer_config") or {}, queries=config.get("num_query_token", 32),
                                 source_width=seen)  # fmt: skip
    over_time = replace(frame, depth=config.get("fusion_head_layers", 2), cross_every=1, source_width=frame.width,
                        queries=config.get("video_token_len", 64))  # fmt: skip
    longest = config.get("sound_token_len", 8)
    heard = replace(over_time, source_width={**imagebind_keys.DEFAULTS, **bound}["out_embed_dim"], queries=longest)
    video = TimedQFormerConfig(over_time=over_time, out_width=out, longest=config.get("max_frame", 64), frame=frame)
    return video, TimedQFormerConfig(over_time=heard, out_width=out, longest=longest)


@dataclass(frozen=True)
class UniformFrames:
    """A video -> at most `most` of its frames, spread evenly from the first on, float32 [F, 3, side, side]."""

    inner: Squash
    most: int

    def __call__(self, video: Video) -> Tensor:
        times = video.frame_times
        chosen = times[frame_indices(len(times), self.most)]
        return transform_frames(self.inner, video.clip(times=chosen.tolist()).frames)


def frame_indices(total: int, most: int) -> list[int]:
    """Which of `total` frames are looked at: the first of each of equal parts."""
    count = min(total, most)
    return np.arange(0, total, total / count).astype(int).tolist()[:count]


def _drawing(
    tower: hf_vision.ViTConfig, video: TimedQFormerConfig, sound: TimedQFormerConfig, width: int
) -> tuple[Part, ...]:
    side, seen = tower.image_size, f"[N, {tower.tokens}, {tower.out_width}]"
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
        Part(slot="connector", modality="image", name="2 linears", prefix="connectors.image", input=seen,
             output=f"[N, {tower.tokens}, {width}]", tokens=tower.tokens),
        Part(slot="encoder", modality="video", name="EVA-CLIP ViT-g/14, per frame", prefix="encoders.video",
             input="[F, 3, 224, 224]", output="[F, 257, 1408]"),
        Part(slot="connector", modality="video", name="Q-Former per frame, Q-Former over time, linear",
             prefix="connectors.video", input="[F, 257, 1408]", output=f"[N, {video.tokens}, {width}]",
             tokens=video.tokens),
        Part(slot="encoder", modality="audio", name="ImageBind, audio trunk, per clip", prefix="encoders.audio",
             input="[N, 3, 1, 128, 204]", output="[N, 3, 1024]"),
        Part(slot="connector", modality="audio", name="Q-Former over time, linear", prefix="connectors.audio",
             input="[N, 3, 1024]", output=f"[N, {sound.tokens}, {width}]", tokens=sound.tokens),
        Part(slot="backbone", name="Vicuna", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip
