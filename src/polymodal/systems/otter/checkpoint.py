"""Published checkpoints of Otter: config to model, names of tensors, the prompt of its training, frames of a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polymodal.checkpoints import open_flamingo
from polymodal.checkpoints.open_flamingo import OpenFlamingo
from polymodal.data.interleaved import Shots
from polymodal.data.item_rules import SameCount, StackedAs
from polymodal.data.media import Video
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special
from polymodal.data.transforms import ShorterSideCrop, transform_frames
from polymodal.errors import ConfigError
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part

END, IMAGE, ANSWER, PAD = "<|endofchunk|>", "<image>", "<answer>", "<PAD>"  # in the order in which they were added
BORDERS = {"mpt": ("<|endoftext|>", "<|endoftext|>"), "llama": ("<s>", "</s>")}  # first and last token of a row
MEDIA = {"mpt": 50278, "llama": 32001}  # `<image>` behind the published vocabularies
FRAMES = 16  # of a clip, in the official demonstration
WORDS = {
    "perceiver.layers.{}.0.": "perceiver.layers.{}.",
    "perceiver.layers.{}.1.": "perceiver.layers.{}.feed_forward.",
    "gated_cross_attn_layer.ff.": "gated_cross_attn_layer.feed_forward.",
}
"""OpenFlamingo's words -> Otter's."""


def shots(kind: str) -> Shots:
    """The format "simple" of the official training."""
    first, last = BORDERS[kind]
    return Shots(end=END, question="User:", answer=" GPT:", caption="User: GPT:", mark=(Special(name=ANSWER),),
                 begin=(Special(name=first),), last=(Special(name=last, loss_mask=True),))  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An OtterConfig dict -> the model, at any size.

    `perceiver_config` and `media_token_id` are no words of the official config: its sizes are fixed in the code.
    Raises ConfigError for another language model, and for low-rank paths that were not merged.
    """
    text = config.get("text_config") or {}
    kind = text.get("model_type")
    if kind not in BORDERS:
        raise ConfigError(f"otter: text_config.model_type {kind!r}; expected one of {', '.join(BORDERS)}")
    if config.get("lora_config"):
        raise ConfigError("otter: lora_config: low-rank paths inside the file are not supported; merge them first")
    sizes = dict(config.get("perceiver_config") or {})
    if config.get("max_num_frames") is not None:
        sizes["max_num_frames"] = config["max_num_frames"]
    whole = {"cross_attn_every_n_layers": 4, "media_token_id": MEDIA[kind], **config,
             "vision_config": {"model_type": "clip_vision_model", **(config.get("vision_config") or {})},
             "perceiver_config": sizes}  # fmt: skip
    found = open_flamingo.open_flamingo(whole)

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        words = files.tokenizer(added=(END, IMAGE, ANSWER, PAD), eos=END, pad=PAD)
        if words.special(IMAGE) != found.media:
            raise ConfigError(
                f"otter: {IMAGE} is token {words.special(IMAGE)} of the tokenizer, expected {found.media}; "
                "say media_token_id in config.json"
            )
        return LoadedModel(model=module, processor=Processor(
            tokenizer=words, template=shots(kind), modalities=(modality_of(found),),
            max_length=found.backbone.max_length))  # fmt: skip

    keys = open_flamingo.keys_of(whole, found).reworded(WORDS)
    return ModelSpec(build=found.build, keys=(keys,), parts=drawing(found), assemble=assemble)


def modality_of(found: OpenFlamingo) -> Modality:
    """Pictures; clips instead where frames have positions, since both stand at the one token `<image>`."""
    side: Any = found.encoder.image_size
    still = ShorterSideCrop(size=side, crop=side)
    if found.connector.max_frames is None:
        return Modality(name="image", placeholder=IMAGE, transform=still, tokens=SameCount(1),
                        collate=StackedAs("vision_x"))  # fmt: skip
    frames = FramesOf(transform=still, count=min(FRAMES, found.connector.max_frames))
    return Modality(name="video", placeholder=IMAGE, transform=frames, tokens=SameCount(1), collate=clips)


@dataclass(frozen=True, kw_only=True)
class FramesOf:
    """Frames at equal steps from the first, as the official demonstration takes them -> float32 [count, 3, H, W]."""

    transform: ShorterSideCrop
    count: int

    def __call__(self, item: Video) -> Tensor:
        times = item.frame_times
        chosen = [float(times[i]) for i in frame_numbers(len(times), self.count)]
        return transform_frames(self.transform, item.clip(times=chosen).frames)


def frame_numbers(length: int, count: int = FRAMES) -> list[int]:
    """Which of `length` frames are taken; of fewer than `count`, the first again and again."""
    return [i * (length // count) for i in range(count)]


def clips(items: Sequence[Tensor]) -> Tensor:
    """[F, 3, H, W] each -> [N, 1, F, 3, H, W], the official order of dimensions."""
    return torch.stack(list(items))[:, None]


def drawing(found: OpenFlamingo) -> tuple[Part, ...]:
    """The boxes of `show`."""
    vision, connector, side = found.encoder, found.connector, found.encoder.image_size
    frames = "1" if connector.max_frames is None else "F"
    seen = f"[items, {vision.tokens}, {vision.width}]"
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT, patches of the last layer", prefix="encoders.image",
             input=f"[B, N, {frames}, 3, {side}, {side}]", output=seen, tokens=vision.tokens),
        Part(slot="connector", modality="image", name=f"Perceiver resampler, {connector.depth} blocks",
             prefix="connectors.image", input=seen, output=f"[items, {connector.latents}, {vision.width}]",
             tokens=connector.latents),
        Part(slot="backbone", name=f"{found.kind} with {len(found.gated)} gated cross-attention blocks",
             prefix="backbone", input=f"[B, T, {found.backbone.width}], context",
             output=f"[B, T, {found.backbone.vocab_size}]"),
    )  # fmt: skip


def published(kind: str, frames: int | None = None) -> dict[str, Any]:
    """The released configs, without what the library adds."""
    text: dict[str, Any] = {
        "mpt": {"model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32, "max_seq_len": 2048,
                "vocab_size": 50432, "architectures": ["MPTForCausalLM"]},
        "llama": {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
                  "intermediate_size": 11008, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
                  "vocab_size": 32004},
    }[kind]  # fmt: skip
    vision = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
              "num_attention_heads": 16, "num_hidden_layers": 24, "image_size": 224, "patch_size": 14}  # fmt: skip
    config = {"model_type": "otter", "cross_attn_every_n_layers": 4, "text_config": text, "vision_config": vision}
    return config if frames is None else {**config, "max_num_frames": frames}
