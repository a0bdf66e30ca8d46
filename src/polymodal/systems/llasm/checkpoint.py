"""LLaSM's checkpoints: LLaMA's names, `model.mm_projector.*`, and the folder of the Whisper that config.json names.

    model.* lm_head.* -> backbone    model.mm_projector.* -> connectors.audio    <mm_audio_tower>/ -> encoders.audio

Traps: the tower is left out, as with LLaVA; of several recordings in a row the published code keeps the last alone, by
mistake, here each has its place; the conversation on Chinese-Llama-2 begins with the system message, which the first
question holds once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from polymodal.backbones import hf_text
from polymodal.checkpoints import linksoul
from polymodal.checkpoints.llava_format import llava_format
from polymodal.checkpoints.official_llava_parts import tower_folder
from polymodal.connectors import hf_mlp
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Audio, Text
from polymodal.data.mel import MelConfig, log_mel
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.encoders.whisper import FRAMES_PER_SECOND
from polymodal.errors import ConfigError
from polymodal.models import whisper_states
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.weights.folder import weights_in
from polymodal.weights.merged import MergedTensors

LARGE_V2 = {"model_type": "whisper", "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120, "decoder_layers": 32, "decoder_attention_heads": 20, "decoder_ffn_dim": 5120,
            "num_mel_bins": 80, "vocab_size": 51865, "decoder_start_token_id": 50258}  # fmt: skip
TOWER = "openai/whisper-large-v2"
INSIDE = "model.audio_tower."
ADDED = ("<au_patch>", "<au_start>", "<au_end>")
WORDS = (
    "You are a helpful language and speech assistant. You are able to understand the speech content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An official config -> the model; raises ConfigError for options that are not supported."""
    text, text_keys = hf_text.decoder_of({**config, "model_type": "llama"})
    tower = whisper_states.parse_config(_tower_of(config), config.get("audio_token_len", 64))
    linear, names = hf_mlp.parse_projector_type("linear")
    patch, width = text.vocab_size - len(ADDED), tower.decoder.width

    def build() -> MultimodalLM:
        parts = tower.build(), linear.build(width, text.width), text.build()
        return MultimodalLM({"audio": parts[0]}, {"audio": parts[1]}, parts[2], {"audio": patch})

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(added=ADDED)
        on_baichuan = linksoul.on_baichuan(config, len(ADDED))
        format, _ = llava_format(files, tokenizer, linksoul.baichuan(WORDS) if on_baichuan else TEMPLATE)
        mel = MelConfig(mels=tower.encoder.mels, seconds=tower.encoder.frames / FRAMES_PER_SECOND)
        name, start, end = ADDED
        audio = Modality(name="audio", placeholder=name, transform=partial(spectrogram, config=mel),
                         tokens=SameCount(tower.queries), before=(Special(name=start),),
                         after=(Special(name=end),))  # fmt: skip
        processor = Processor(tokenizer=tokenizer, template=format, modalities=(audio,), max_length=text.max_length,
                              rewrite=system_twice if format is TEMPLATE else None)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = whisper_states.HF_KEYS.prefixed(INSIDE, "encoders.audio.") + text_keys.prefixed(target="backbone.")
    keys += names.prefixed("model.mm_projector", "connectors.audio.")
    return ModelSpec(build=build, keys=(keys,), parts=_drawing(tower, text.width), assemble=assemble)


def _tower_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    name = str(config.get("mm_audio_tower") or "")
    if name and (Path(name) / "config.json").is_file():
        return CheckpointFiles(Path(name)).json("config.json")
    if Path(name).name != Path(TOWER).name:
        raise ConfigError(f"llasm: mm_audio_tower {name!r} is neither a folder with a config.json nor {TOWER}")
    return LARGE_V2


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """All tensors under official names, the tower's below `model.audio_tower.`; WeightsError without it."""
    whole = weights_in(files.folder)
    if any(name.startswith(INSIDE) for name in whole):
        return whole
    name = str(files.json("config.json").get("mm_audio_tower") or "")
    return MergedTensors({"": whole, INSIDE: weights_in(tower_folder(files.folder, name, "audio"))}, _tower_name)


def _tower_name(prefix: str, name: str) -> str | None:
    """Names of the whole Whisper, or of one without a head -> names inside; the head repeats the embedding."""
    if prefix and name.startswith("proj_out."):
        return None
    return prefix + (name.removeprefix("model.") if prefix else name)


def spectrogram(item: Audio, config: MelConfig) -> Tensor:
    """A recording -> log-mel float32 [mels, frames]; MediaError for one longer than the window."""
    return log_mel(item.samples(config.rate), config)


def _twice() -> Template:
    """Chinese-Llama-2's format, with what `system_twice` puts in front of it."""
    plain = linksoul.chinese_llama_2(WORDS)
    first = Turn(before=(TEXT_START, Words(text="<<SYS>>\n")), after=(Words(text="\n<</SYS>>\n\n"),))
    return replace(plain, turns={**plain.turns, "preface": first}, default_system=None)


TEMPLATE = _twice()


def system_twice(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation with its system message, or the published one, in front once more, as a turn of its own."""
    if messages and messages[0].role == "system":
        return replace(messages[0], role="preface"), *messages
    said = (Text(WORDS),)
    return Message(role="preface", parts=said), Message(role="system", parts=said), *messages


def _drawing(tower: whisper_states.WhisperStatesConfig, width: int) -> tuple[Part, ...]:
    heard = f"[N, {tower.queries}, {tower.decoder.width}]"
    return (
        Part(slot="encoder", modality="audio", name="Whisper, encoder and decoder", prefix="encoders.audio",
             input=f"[N, {tower.encoder.mels}, {tower.encoder.frames}]", output=heard, tokens=tower.queries),
        Part(slot="connector", modality="audio", name="linear", prefix="connectors.audio", input=heard,
             output=f"[N, {tower.queries}, {width}]", tokens=tower.queries),
        Part(slot="backbone", name="language model", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip
