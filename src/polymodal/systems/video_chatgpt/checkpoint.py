"""Video-ChatGPT's checkpoints: a whole one, or LLaVA's folder with the published file of what was trained inside it.

    LLaVA-Lightning-7B-v1-1/            config.json and weights of LLaVA (32003 words)
        video_chatgpt-7B.bin            model.mm_projector.*, model.embed_tokens.weight (32006 words): replaces LLaVA's
        clip-vit-large-patch14/         the tower, as for any LLaVA

Traps: LLaVA's config does not know the three words that Video-ChatGPT appends, so such a folder is loaded with
`system="video-chatgpt"`; the head was not published with rows for them: they are the mean of the others, as where the
published training starts, and are never written.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.backbones import hf_text
from polymodal.checkpoints import official_llava_parts as official_llava
from polymodal.checkpoints.language_model import named_after
from polymodal.checkpoints.llava_format import llava_format
from polymodal.connectors import hf_mlp
from polymodal.connectors.frames_and_patches import FramesAndPatchesConfig
from polymodal.data.chat_formats import vicuna
from polymodal.data.hf_image import CLIP, PublishedTransform, transform_of
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Video
from polymodal.data.messages import words_first
from polymodal.data.modalities import sequences
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special
from polymodal.data.transforms import transform_frames
from polymodal.encoders import hf_vision
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.weights.folder import weights_in
from polymodal.weights.merged import MergedTensors, locations

CLASS = "VideoChatGPTLlamaForCausalLM"
ADDED = ("<vid_patch>", "<vid_start>", "<vid_end>")
TRAINED = ("video_chatgpt-7B.bin", "mm_projector.bin")  # the published file, and what the training script writes
HEAD = "lm_head.weight"
FRAMES, SIDE = 100, 224
SYSTEM_WORDS = (
    "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the video content that the "
    "user provides, and assist the user with a variety of tasks using natural language."
    "Follow the instructions carefully and explain your answers in detail based on the provided video."
)


def score(config: Mapping[str, Any]) -> int:
    """2 for its own class; for a LLaVA of one linear map 1, for `system=` alone, or 3 by its name."""
    if config.get("model_type") == "VideoChatGPT" or CLASS in (config.get("architectures") or ()):
        return 2
    return named_after("video-chatgpt")(config) if official_llava.matches("linear")(config) else 0


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An official config, or that of the LLaVA it was trained from; ConfigError for what is not supported."""
    own = score({**config, "_name_or_path": ""}) == 2
    words = config.get("vocab_size", 32000) + (0 if own else len(ADDED))
    text, text_keys = hf_text.decoder_of({**config, "model_type": "llama", "vocab_size": words})
    vision = hf_vision.parse_config(official_llava.tower_of(config), config.get("mm_vision_select_layer", -2))
    linear, names = hf_mlp.parse_projector_type("linear")
    tower, connector = vision.config, FramesAndPatchesConfig(frames=FRAMES, project=linear)
    placeholder, tokens = words - len(ADDED), connector.tokens(tower.tokens)

    def build() -> MultimodalLM:
        return MultimodalLM(
            {"video": tower.build()}, {"video": connector.build(tower.out_width, text.width)}, text.build(),
            {"video": placeholder},
            inputs={"video": ModalityInputs(values="video_values", connector=("frame_counts",))},
        )  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(added=(*(official_llava.added_tokens(config) if not own else ()), *ADDED))
        template, newline = llava_format(files, tokenizer, vicuna(SYSTEM_WORDS))
        patch, start, end = ADDED
        video = Modality(name="video", placeholder=patch, transform=FrameSampler(inner=_frame_transform(tower)),
                         tokens=SameCount(tokens), before=(*newline, Special(name=start)), after=(Special(name=end),),
                         collate=sequences("video_values", "frame_counts"))  # fmt: skip
        processor = Processor(tokenizer=tokenizer, template=template, modalities=(video,),
                              max_length=text.max_length, rewrite=words_first)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = vision.prefixed(official_llava.INSIDE, "encoders.video.")[0] + text_keys.prefixed(target="backbone.")
    keys += names.prefixed("model.mm_projector", "connectors.video.project.")
    return ModelSpec(build=build, keys=(keys,), parts=_drawing(tower, tokens, text.width), assemble=assemble)


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """All tensors under official names; those that were trained replace LLaVA's.  WeightsError without the tower."""
    whole = official_llava.gather(files.folder)
    trained = next((files.folder / name for name in TRAINED if (files.folder / name).is_file()), None)
    if trained is None:
        return whole
    found = locations(whole) | locations(weights_in(trained))
    rows = found["model.embed_tokens.weight"]
    missing = rows[0][rows[1]].shape[0] - whole[HEAD].shape[0] if HEAD in whole else 0
    if missing > 0:
        head = whole[HEAD]
        mean = head.float().mean(0, keepdim=True).to(head.dtype)
        found |= locations({HEAD: torch.cat((head, mean.expand(missing, -1)))})
    return MergedTensors.of(found)


class FrameSampler:
    """A video -> at most 100 of its frames, float32 [F, 3, side, side].  inner: what CLIP's processor does to each."""

    def __init__(self, *, inner: PublishedTransform) -> None:
        self.inner = inner

    def __call__(self, video: Video) -> Tensor:
        """Frames by the published numbers, to the nearest pixel of 224 x 224, and through `inner`."""
        times = video.frame_times
        frames, _ = video.clip(times=times[frame_indices(len(times))].tolist())
        if frames.shape[1:3] != (SIDE, SIDE):
            pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
            frames = F.interpolate(pixels, size=(SIDE, SIDE)).permute(0, 2, 3, 1).to(torch.uint8).numpy()
        return transform_frames(self.inner, frames)


def frame_indices(total: int, most: int = FRAMES) -> list[int]:
    """Which of `total` frames are looked at: the middles of equal parts, with borders rounded to whole frames."""
    count = min(total, most)
    borders = [round(float(total - 1) / count * i) for i in range(count + 1)]
    return [(first + last) // 2 for first, last in pairwise(borders)]


def _frame_transform(tower: hf_vision.ViTConfig) -> PublishedTransform:
    side = tower.image_size
    return transform_of({}, {**CLIP, "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}})


def _drawing(tower: hf_vision.ViTConfig, tokens: int, width: int) -> tuple[Part, ...]:
    side, seen = tower.image_size, f"[F, {tower.tokens}, {tower.out_width}]"
    return (
        Part(slot="encoder", modality="video", name="CLIP ViT, per frame", prefix="encoders.video",
             input=f"[F, 3, {side}, {side}]", output=seen),
        Part(slot="connector", modality="video", name="means over patches and over frames, linear",
             prefix="connectors.video", input=seen, output=f"[{tokens}, {width}]", tokens=tokens),
        Part(slot="backbone", name="language model", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip
