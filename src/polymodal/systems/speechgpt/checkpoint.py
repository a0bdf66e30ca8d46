"""SpeechGPT's checkpoints: the language model, and the two halves of its speech codec as folders of their own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from polymodal.backbones import hf_text
from polymodal.checkpoints.unit_speech import LAYER, SpeechFiles, count_units
from polymodal.data.messages import Message
from polymodal.data.processor import Processor
from polymodal.encoders import hubert
from polymodal.generators import unit_vocoder
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.unit_speech import UnitEncoder, UnitSpeaker
from polymodal.pipelines.speech_units import BEGIN, END, SpeechUnits
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.speechgpt import prompts
from polymodal.weights.keytable import KeyTable

SAMPLING = {"max_tokens": 2048, "min_tokens": 10, "temperature": 0.7, "top_k": 50, "top_p": 0.8}
MHUBERT, VOCODER = 87_282_944, 13_475_010  # parameters of the parts that are loaded beside


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A LlamaConfig -> the model; raises ConfigError for options that are not supported."""
    decoder, keys = hf_text.decoder_of({**config, "model_type": "llama"})

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        return loaded(module, files, decoder.max_length)

    return ModelSpec(
        build=lambda: MultimodalLM({}, {}, decoder.build(), {}),
        keys=(keys.prefixed("", "backbone."),),
        in_memory=keys.prefixed("", "backbone."),
        parts=(
            Part(slot="encoder", modality="audio", name=f"mHuBERT, layer {LAYER}, 1000 clusters", prefix="",
                 input="samples at 16 kHz", output="units <0>..<999>", parameters=MHUBERT),
            Part(slot="backbone", name="LLaMA, units among its words", prefix="backbone",
                 input=f"[B, T, {decoder.width}]", output=f"[B, T, {decoder.vocab_size}]"),
            Part(slot="generator", modality="audio", name="unit HiFi-GAN with durations", prefix="",
                 input="units <0>..<999>", output="samples at 16 kHz", parameters=VOCODER),
        ),
        assemble=assemble,
    )  # fmt: skip


def loaded(module: Any, files: CheckpointFiles, longest: int | None) -> LoadedModel:
    """The model with its processor, which hears recordings as units, and with the voice of its folder."""
    tokenizer = files.tokenizer()
    known = [name for name in prompts.MARKS if tokenizer.knows(name)]
    tokenizer = files.tokenizer(control=known)
    parts = SpeechFiles(files.folder, count_units(tokenizer, BEGIN, END))
    speech = SpeechUnits(open_ears=parts.ears, open_voice=parts.voice)
    processor = Processor(
        tokenizer=tokenizer,
        template=prompts.template(tokenizer),
        max_length=longest,
        rewrite=partial(as_units, speech),
    )
    return LoadedModel(
        model=module,
        processor=processor,
        speaks=prompts.SpokenAnswers(speech) if parts.speaks else None,
        stop=(prompts.ANSWERED,),
        sampling=SAMPLING,
    )


def as_units(speech: SpeechUnits, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A conversation with its recordings as units, behind the words that the published prompts have there."""
    return speech.rewrite(prompts.as_input(messages))


def parse_encoder(config: Mapping[str, Any]) -> ModelSpec:
    """A HubertConfig -> the model that gives the features whose clusters are the units."""
    found = hubert.parse_config(config)
    found = hubert.parse_config(config, min(LAYER, found.layers))
    box = Part(slot="encoder", modality="audio", name=f"HuBERT, layer {found.depth}", prefix="encoder",
               input="[N, samples at 16 kHz]", output=f"[N, T, {found.width}]")  # fmt: skip
    keys = _inside("encoder.", *hubert.hf_keys(found), hubert.fairseq_keys(found))
    return ModelSpec(build=lambda: UnitEncoder(found), keys=keys, parts=(box,))


def parse_vocoder(config: Mapping[str, Any]) -> ModelSpec:
    """The config.json of a fairseq CodeHiFiGAN -> the model that speaks units."""
    found = unit_vocoder.parse_config(config)
    box = Part(slot="generator", modality="audio", name="unit HiFi-GAN with durations", prefix="vocoder",
               input=f"units 0..{found.units - 1}", output=f"samples at {found.sampling_rate} Hz")  # fmt: skip
    return ModelSpec(build=lambda: UnitSpeaker(found), keys=_inside("vocoder.", unit_vocoder.keys(found)), parts=(box,))


def _inside(prefix: str, *tables: KeyTable) -> tuple[KeyTable, ...]:
    return tuple(table.prefixed("", prefix) for table in tables)
