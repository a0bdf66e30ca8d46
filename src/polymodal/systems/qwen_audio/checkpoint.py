"""Published checkpoints of Qwen-Audio: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn, stack

from polymodal.backbones import qwen_first
from polymodal.checkpoints import qwen_chat
from polymodal.connectors.marked_linear import MarkedLinearConfig
from polymodal.data.media import Audio
from polymodal.data.mel import MelConfig, log_mel
from polymodal.data.processor import Modality, Processor
from polymodal.encoders import whisper
from polymodal.encoders.qwen_audio import QwenAudioEncoderConfig, lengths_of
from polymodal.errors import ConfigError, MediaError
from polymodal.fusion.placeholder_mask import SpanMask
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Variant,
)
from polymodal.weights.keytable import KeyTable, rename

PAD, FIRST, LAST = "[[[AUDIO:modality]]]", "<audio>", "</audio>"
VALUES, LENGTHS = "input_audios", "input_audio_lengths"
INPUTS = {
    "audio": ModalityInputs(values=VALUES, encoder=(f"lengths={LENGTHS}",), connector=(f"lengths={LENGTHS}",),
                            placeholder_mask="audio_mask")
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A recording -> its log-mel, cut to its own length, and how many features it gives."""

    mel: MelConfig

    def __call__(self, recording: Audio) -> dict[str, Any]:
        """`mel` float32 [mels, frames], `lengths` (before the mean, behind it); MediaError outside of 0.03 to 30 s."""
        samples = recording.samples(self.mel.rate)
        frames, seconds = len(samples) // self.mel.hop, len(samples) / self.mel.rate
        before, behind = lengths_of(frames)
        if behind < 1 or len(samples) > (self.mel.samples or 0):
            raise MediaError(
                f"{recording!r}: {seconds:.2f} s of sound, this model takes 0.03 to {self.mel.seconds:g} s; "
                "cut it into pieces"
            )
        return {"mel": log_mel(samples, self.mel)[:, : 2 * before], "lengths": (before, behind)}


def tokens(values: Mapping[str, Any]) -> int:
    """Features and both ends."""
    count: int = values["lengths"][1]
    return count + 2


def layout(values: Mapping[str, Any]) -> list[str]:
    """`<audio>`, one token for each feature, `</audio>`."""
    return [FIRST, *[PAD] * values["lengths"][1], LAST]


def collated(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`input_audios` [N, mels, frames], zero behind each item, and lengths on the host."""
    longest = max(item["mel"].shape[-1] for item in items)
    mels: list[Tensor] = [F.pad(item["mel"], (0, longest - item["mel"].shape[-1])) for item in items]
    return {VALUES: stack(mels), LENGTHS: tuple(item["lengths"] for item in items)}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A QWenConfig dict with a table `audio` -> the model; raises ConfigError for what published code cannot run."""
    audio, text = config["audio"], qwen_first.parse_config(config)
    if audio["output_dim"] != text.width:
        raise ConfigError(f"qwen-audio: audio.output_dim {audio['output_dim']} must equal hidden_size {text.width}")
    for name in ("avg_pool", "add_audio_bos_eos_token"):
        if not audio.get(name, True):
            raise ConfigError(f"qwen-audio: audio.{name} false is not supported: no release has it; expected true")
    encoder = QwenAudioEncoderConfig(
        whisper=whisper.WhisperEncoderConfig(width=audio["n_state"], depth=audio["n_layer"], heads=audio["n_head"],
                                             mels=audio["n_mels"], frames=2 * audio["n_ctx"]))  # fmt: skip
    connector, start = MarkedLinearConfig(), audio["audio_start_id"]
    mel = MelConfig(mels=audio["n_mels"], seconds=audio["n_ctx"] * 2 / whisper.FRAMES_PER_SECOND)

    def build() -> MultimodalLM:
        parts = encoder.build(), connector.build(encoder.whisper.width, text.width), text.build()
        return MultimodalLM({"audio": parts[0]}, {"audio": parts[1]}, parts[2], {"audio": start}, inputs=INPUTS,
                            prepare_inputs=SpanMask(first=start, last=start + 1, name="audio_mask"),
                            positions_ignore_padding=True)  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        template, end = qwen_chat.template_of(files.json("generation_config.json"))
        sound = Modality(name="audio", placeholder=PAD, transform=Sound(mel=mel), tokens=tokens, layout=layout,
                         collate=collated)  # fmt: skip
        chats = template is qwen_chat.CHATML
        processor = Processor(
            tokenizer=files.tokenizer(eos=end), template=template, modalities=(sound,), max_length=text.max_length,
            rewrite=partial(qwen_chat.numbered, words="Audio") if chats else None)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    connected = KeyTable((rename("proj.weight", "proj.weight"), rename("proj.bias", "proj.bias"),
                          rename("audio_bos_eos_token.weight", "markers")))  # fmt: skip
    keys = (
        whisper.OPENAI_KEYS.prefixed("transformer.audio.", "encoders.audio.")
        + connected.prefixed("transformer.audio.", "connectors.audio.")
        + qwen_first.published_keys(text).prefixed("", "backbone.")
    )
    return ModelSpec(build=build, keys=(keys,), parts=drawing(encoder.whisper, text.width), assemble=assemble)


def drawing(sizes: whisper.WhisperEncoderConfig, width: int) -> tuple[Part, ...]:
    """The boxes of `show`."""
    seen, most = f"[N, S, {sizes.width}]", sizes.tokens // 2 + 2
    return (
        Part(slot="encoder", modality="audio", name="Whisper large-v2, neighbours joined by their mean",
             prefix="encoders.audio", input=f"[N, {sizes.mels}, 4 S]", output=seen),
        Part(slot="connector", modality="audio", name=f"linear, a vector at each end, {most} tokens at most",
             prefix="connectors.audio", input=seen, output=f"N of [s + 2, {width}]"),
        Part(slot="backbone", name="Qwen-7B", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip


def variant(name: str, hub: str) -> Variant:
    """A released checkpoint; both have the same sizes."""
    audio = {"n_mels": 80, "n_ctx": 1500, "n_state": 1280, "n_head": 20, "n_layer": 32, "output_dim": 4096,
             "avg_pool": True, "add_audio_bos_eos_token": True, "audio_start_id": 155163}  # fmt: skip
    config = {**qwen_chat.QWEN_7B, "layer_norm_epsilon": 1e-5, "vocab_size": 155947, "audio": audio}
    repository = Repository(name=f"Qwen/{hub}", license="Tongyi Qianwen License Agreement")
    return Variant(name=name, parameters=8_394_302_464, config=config, repository=repository)
