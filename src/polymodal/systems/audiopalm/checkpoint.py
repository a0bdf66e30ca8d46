"""AudioPaLM as a checkpoint: PaLM under Cohere's names, with the rows of the audio tokens behind those of text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from polymodal.backbones import palm
from polymodal.checkpoints.unit_speech import SpeechFiles, count_units
from polymodal.data.processor import Processor
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.pipelines.speech_units import SpeechUnits
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.audiopalm import tasks

AUDIO = 1024


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """text_config: PaLM's, vocab_size of text alone; audio_vocab_size: tokens behind it.

    Raises ConfigError for options that are not supported.
    """
    text, audio = dict(config.get("text_config") or {}), config.get("audio_vocab_size", AUDIO)
    words = text.get("vocab_size", palm.DEFAULTS["vocab_size"])
    if not isinstance(audio, int) or isinstance(audio, bool) or audio < 1:
        raise ConfigError(f"audiopalm: audio_vocab_size: expected a whole number above 0, found {audio!r}")
    decoder = palm.parse_config({**text, "vocab_size": words + audio})

    def build() -> nn.Module:
        backbone = decoder.build()
        palm.initialise(backbone)
        with torch.no_grad():
            backbone.embed_tokens.weight[words:] = 0.0
        return MultimodalLM({}, {}, backbone, {})

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        return loaded(module, files, words, audio, decoder.max_length)

    return ModelSpec(
        build=build,
        keys=(palm.keys().prefixed("language_model.", "backbone."),),
        parts=(
            Part(slot="encoder", modality="audio", name=f"encoder of speech, {audio} clusters, 25 Hz", prefix="",
                 input="samples at 16 kHz", output=f"ids {words}..{words + audio - 1}"),
            Part(slot="backbone", name="PaLM over text and audio tokens", prefix="backbone",
                 input=f"[B, T, {decoder.width}]", output=f"[B, T, {decoder.vocab_size}]"),
            Part(slot="generator", modality="audio", name="voice of audio tokens", prefix="",
                 input=f"ids {words}..{words + audio - 1}", output="samples"),
        ),
        assemble=assemble,
    )  # fmt: skip


def loaded(module: Any, files: CheckpointFiles, words: int, audio: int, longest: int | None) -> LoadedModel:
    """The model with its processor, and with ears and voice of its folder.  Raises ConfigError for a tokenizer whose
    audio tokens are not the rows behind those of text."""
    tokenizer = files.tokenizer()
    count = count_units(tokenizer)
    ids = [tokenizer.encode(f"<{unit}>") for unit in (0, count - 1)]
    if count != audio or ids != [[words], [words + audio - 1]]:
        raise ConfigError(f"audiopalm: expected {audio} audio tokens <0>..<{audio - 1}> of ids {words}.."
                          f"{words + audio - 1}, found {count}, from id {ids[0][0]} on")  # fmt: skip
    parts = SpeechFiles(files.folder, count)
    speech = SpeechUnits(open_ears=parts.ears, open_voice=parts.voice, form=tasks.FORM)
    processor = Processor(tokenizer=tokenizer, template=tasks.template(tokenizer), max_length=longest,
                          rewrite=partial(tasks.as_units, speech))  # fmt: skip
    speaks = tasks.SpokenAnswers(speech) if parts.speaks else None
    return LoadedModel(model=module, processor=processor, speaks=speaks)
